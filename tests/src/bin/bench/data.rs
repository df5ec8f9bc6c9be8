//! The log that everything is measured on.

use consumer::{PgEventStore, SqliteEventStore};
use sqlx::AssertSqlSafe;

/// One event in a thousand is of the type `Rare`; the others are of `Account`.
const POSTGRES: &str = "
INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
SELECT CASE WHEN n % 1000 = 500 THEN 'Rare' ELSE 'Account' END, 'account-' || n % 10000,
       n / 10000 + 1, gen_random_uuid(), 'Deposited',
       convert_to('{\"amount\":' || n % 100 || ',\"text\":\"' || repeat('x', 170) || '\"}', 'UTF8')
  FROM generate_series($1::bigint, $2::bigint) AS n";

const SQLITE: &str = "
WITH RECURSIVE s(n) AS (SELECT CAST(?1 AS INTEGER) UNION ALL SELECT n + 1 FROM s WHERE n < ?2)
INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
SELECT CASE WHEN n % 1000 = 500 THEN 'Rare' ELSE 'Account' END,
       'account-' || (n % 10000), n / 10000 + 1, printf('%08x-0000-4000-8000-%012x', n, n), 'Deposited',
       CAST('{\"amount\":' || n % 100 || ',\"text\":\"' || printf('%.170c', 'x') || '\"}' AS BLOB)
  FROM s";

/// Appends so many events in one transaction, as fast as the database can make them.
pub(crate) async fn fill_postgres(store: &PgEventStore, events: usize) {
    let last = i64::try_from(events).unwrap() - 1;
    sqlx::query(POSTGRES)
        .bind(0_i64)
        .bind(last)
        .execute(store.pool())
        .await
        .expect("make events");
    for table in ["VACUUM ANALYZE events", "CHECKPOINT"] {
        sqlx::raw_sql(table).execute(store.pool()).await.unwrap();
    }
}

/// Appends so many events in one transaction, as fast as the database can make them.
pub(crate) async fn fill_sqlite(store: &SqliteEventStore, events: usize) {
    let last = i64::try_from(events).unwrap() - 1;
    sqlx::query(SQLITE)
        .bind(0_i64)
        .bind(last)
        .execute(store.pool())
        .await
        .expect("make events");
    sqlx::raw_sql("ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)")
        .execute(store.pool())
        .await
        .unwrap();
}

/// Forgets what the consumers did.
pub(crate) async fn reset_postgres(store: &PgEventStore) {
    const RESET: &str = "TRUNCATE balances; DELETE FROM consumer_progress; \
        DELETE FROM hand_made; INSERT INTO hand_made VALUES ('loop', 0)";
    sqlx::raw_sql(RESET).execute(store.pool()).await.unwrap();
    // What an earlier round wrote is not to be flushed in this one.
    sqlx::raw_sql("CHECKPOINT")
        .execute(store.pool())
        .await
        .unwrap();
}

/// Forgets what the consumers did.
pub(crate) async fn reset_sqlite(store: &SqliteEventStore) {
    const RESET: &str = "DELETE FROM balances; DELETE FROM consumer_progress; \
        UPDATE hand_made SET position = 0; PRAGMA wal_checkpoint(TRUNCATE)";
    sqlx::raw_sql(RESET).execute(store.pool()).await.unwrap();
}

/// The read model, and the checkpoint of the loop written by hand.
pub(crate) const TABLES: &str = "
CREATE TABLE balances (
    id TEXT PRIMARY KEY, deposits BIGINT NOT NULL, position BIGINT NOT NULL);
CREATE TABLE hand_made (name TEXT PRIMARY KEY, position BIGINT NOT NULL);
INSERT INTO hand_made VALUES ('loop', 0)";

/// Fails unless every event has been counted once.
pub(crate) async fn check<DB>(pool: &sqlx::Pool<DB>, events: usize)
where
    DB: sqlx::Database,
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
    DB::Arguments: sqlx::IntoArguments<DB>,
    (i64,): for<'r> sqlx::FromRow<'r, DB::Row>,
{
    let counted: (i64,) = sqlx::query_as(AssertSqlSafe(
        "SELECT CAST(coalesce(sum(deposits), 0) AS BIGINT) FROM balances".to_owned(),
    ))
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(
        counted.0,
        i64::try_from(events).unwrap(),
        "events were lost or counted twice"
    );
}
