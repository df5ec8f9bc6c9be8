//! The operator's locks on Postgres.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow, Postgres};
use sqlx::{Executor as _, Row as _};

use super::checkpoints::consumer_lock;
use super::connect::{CURRENT_TRANSACTION, with_numbers};
use crate::backend::checkpoints::Checkpoints as _;
use crate::backend::operate::{Operate, OperateStatements, rows};
use crate::backend::rows::on_consumer;
use crate::backend::rows::{ConsumerId, Lock, Taken, millis};

impl Operate for Postgres {
    const ROWS: &'static str = rows!(
        "
           -- The transaction that locked a row shows in it, and holds a lock on itself until it ends. When it
           -- began is hidden from roles that may not see the activity of its session.
           coalesce((SELECT coalesce((SELECT (extract(epoch FROM clock_timestamp() - a.xact_start) * 1000)::bigint
                                        FROM pg_stat_activity AS a WHERE a.pid = l.pid), -1)
                       FROM pg_locks AS l
                      WHERE l.locktype = 'transactionid' AND l.granted AND l.transactionid = p.xmax
                      LIMIT 1), -2)"
    );

    const LOCK: &'static str = concat!(
        "
        SELECT pg_current_xact_id()::text AS transaction, pg_backend_pid() AS backend,
               -- An operator whose process froze does not keep the rows.
               set_config('idle_in_transaction_session_timeout', '60s', true)
          FROM {progress} AS p, pg_advisory_xact_lock(",
        consumer_lock!(turn),
        ")
         WHERE p.consumer = $1 AND p.version = $2
         -- In this order, so that two operators cannot wait for each other.
         ORDER BY p.slice_from FOR UPDATE OF p"
    );

    async fn lock(
        sql: &OperateStatements,
        connection: &mut PgConnection,
        of: &ConsumerId,
        wait: Duration,
    ) -> Result<Lock, sqlx::Error> {
        // A timeout of 0 would be none, and a longer one than this is refused.
        let wait = millis(wait).clamp(1, i32::MAX.into());
        let set = "SELECT current_setting('lock_timeout') AS before, \
                   set_config('lock_timeout', '$1', true)";
        let set = sqlx::raw_sql(with_numbers(set, &[wait]));
        let before: String = connection.fetch_one(set).await?.try_get("before")?;
        let rows = lock_all(sql, connection, of).await?;
        // Next may come the consumer's own code, with its own waits. What the server says contains no quote.
        let restore = format!("SET LOCAL lock_timeout = '{before}'");
        connection
            .execute(sqlx::raw_sql(sqlx::AssertSqlSafe(restore)))
            .await?;
        let Some(row) = rows.first() else {
            return Ok(Lock::Missing);
        };
        Ok(Lock::Taken(Taken {
            transaction: row.try_get("transaction")?,
            backend: row.try_get("backend")?,
        }))
    }

    async fn is_same_transaction(
        connection: &mut PgConnection,
        taken: &Taken,
    ) -> Result<bool, sqlx::Error> {
        let current = connection.fetch_one(CURRENT_TRANSACTION);
        match current.await {
            Ok(row) => {
                let current: Option<String> = row.try_get(0)?;
                Ok(current.as_ref() == Some(&taken.transaction))
            }
            Err(sqlx::Error::Database(error)) if Self::is_aborted_transaction(error.as_ref()) => {
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    async fn release(connection: &mut PgConnection, taken: &Taken) -> Result<bool, sqlx::Error> {
        let released = sqlx::query(
            "SELECT set_config('consumer.saved', $1, true) WHERE pg_current_xact_id()::text = $1",
        )
        .bind(&taken.transaction)
        .persistent(false)
        .fetch_optional(connection)
        .await?;
        Ok(released.is_some())
    }
}

/// Locks the rows until there are no others.
///
/// A row that was split while the statement waited for it has a half that the statement did not see, and that
/// a worker could claim. Rows that are locked cannot be split.
async fn lock_all(
    sql: &OperateStatements,
    connection: &mut PgConnection,
    of: &ConsumerId,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let mut locked = Vec::new();
    loop {
        let lock = on_consumer::<Postgres>(&sql.lock, of);
        let rows = lock.fetch_all(connection).await?;
        if rows.len() == locked.len() {
            return Ok(rows);
        }
        locked = rows;
    }
}
