//! One consumer on SQLite, beside the loop that one would write by hand.

use consumer::sqlx::{FromRow, SqliteConnection, SqlitePool};
use consumer_tests::Database;
use sqlx::Sqlite;
use sqlx::types::chrono::{DateTime, Utc};

use crate::case::{Case, Target};
use crate::consumers::{Nothing, RowsSqlite, SetsSqlite, UPSERT, UPSERT_MANY_SQLITE};
use crate::log::{ByHand, Handler, Log, Measured};
use crate::plan::Plan;

const ROWS: &str = "SQLite, a statement an event";
const APART: &str = "SQLite, a statement an event, not on one core";
const SETS: &str = "SQLite, a statement a batch";
const NOTHING: &str = "SQLite, no-op handler";

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    if !plan.wants_any(&[ROWS, APART, SETS, NOTHING]) {
        return Vec::new();
    }
    let log = Log::<Sqlite>::new(plan.scaled(50_000, 2_000)).await;
    let mut cases = Vec::new();
    for (name, one_core, target) in [
        (ROWS, true, Target::AtLeast(2.0)),
        (APART, false, Target::None),
    ] {
        if plan.only.wants(name) {
            let with = |worker: Builder| worker.consumer(RowsSqlite).lanes_on_one_core(one_core);
            let by_hand = by_hand(500, Handler::Rows);
            cases.push(log.beside(plan, (name, target), with, by_hand).await);
        }
    }
    let log = Log::<Sqlite>::new(plan.scaled(100_000, 3_000)).await;
    if plan.only.wants(SETS) {
        let with = |worker: Builder| worker.consumer(SetsSqlite);
        let (case, by_hand) = ((SETS, Target::AtLeast(0.9)), by_hand(1_000, Handler::Sets));
        cases.push(log.beside(plan, case, with, by_hand).await);
    }
    if plan.only.wants(NOTHING) {
        let with = |worker: Builder| worker.consumer(Nothing::named("nothing"));
        let (case, by_hand) = (
            (NOTHING, Target::AtLeast(0.8)),
            by_hand(500, Handler::Nothing),
        );
        cases.push(log.beside(plan, case, with, by_hand).await);
    }
    cases
}

type Builder = consumer::WorkerBuilder<Sqlite>;

pub(crate) fn by_hand(batch: i64, handler: Handler) -> ByHand {
    ByHand {
        batch,
        read: ALL_COLUMNS,
        handler,
        upsert: UPSERT,
        in_a_task: false,
    }
}

impl Measured for Sqlite {
    const ANALYZE: &'static str = "ANALYZE";

    const RESET: &'static str = "DELETE FROM balances; DELETE FROM consumer_progress;
        UPDATE hand_made SET position = 0";

    const EMPTY: &'static str = "DELETE FROM";

    const CHECKPOINT: &'static str = "PRAGMA wal_checkpoint(TRUNCATE)";

    async fn database() -> Database<Self> {
        Database::fresh().await
    }

    fn fill(events: usize, accounts: usize) -> String {
        format!(
            r#"WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < {events} - 1)
               INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
               SELECT CASE WHEN n % 1000 = 500 THEN 'Rare' ELSE 'Account' END,
                      'account-' || (n % {accounts}), n / {accounts} + 1, printf('%08x-0000-4000-8000-%012x', n, n), 'Deposited',
                      CAST('{{"amount":' || n % 100 || ',"text":"' || printf('%.170c', 'x') || '"}}' AS BLOB)
                 FROM s"#
        )
    }

    async fn by_hand(pool: SqlitePool, by_hand: ByHand) {
        loop {
            let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
            let position: i64 =
                sqlx::query_scalar("SELECT position FROM hand_made WHERE name = ?1")
                    .bind("loop")
                    .fetch_one(&mut *tx)
                    .await
                    .unwrap();
            let rows: Vec<Row> = sqlx::query_as(by_hand.read)
                .bind(position)
                .bind(by_hand.batch)
                .fetch_all(&mut *tx)
                .await
                .unwrap();
            let Some(last) = rows.last() else {
                return tx.commit().await.unwrap();
            };
            handle(&mut tx, &rows, &by_hand).await;
            sqlx::query("UPDATE hand_made SET position = ?2 WHERE name = ?1")
                .bind("loop")
                .bind(last.global_position)
                .execute(&mut *tx)
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }
    }
}

/// The row as one would write it down, in place of our event.
#[derive(FromRow)]
#[allow(dead_code)]
struct Row {
    global_position: i64,
    aggregate_type: String,
    aggregate_id: String,
    aggregate_version: i64,
    event_id: String,
    event_type: String,
    event_version: i32,
    payload: Vec<u8>,
    trace_id: Option<String>,
    correlation_id: Option<String>,
    causation_id: Option<String>,
    metadata: Option<String>,
    created_at: DateTime<Utc>,
}

const ALL_COLUMNS: &str = "
SELECT global_position, aggregate_type, aggregate_id, aggregate_version, event_id, event_type,
       event_version, payload, trace_id, correlation_id, causation_id, metadata, created_at
  FROM events WHERE global_position > ?1 ORDER BY global_position LIMIT ?2";

async fn handle(tx: &mut SqliteConnection, rows: &[Row], by_hand: &ByHand) {
    match by_hand.handler {
        Handler::Rows => {
            for row in rows {
                sqlx::query(by_hand.upsert)
                    .bind(&row.aggregate_id)
                    .bind(row.global_position)
                    .execute(&mut *tx)
                    .await
                    .unwrap();
            }
        }
        Handler::Sets => {
            let pairs: Vec<(&str, i64)> = rows
                .iter()
                .map(|row| (&*row.aggregate_id, row.global_position))
                .collect();
            sqlx::query(UPSERT_MANY_SQLITE)
                .bind(serde_json::to_string(&pairs).unwrap())
                .execute(tx)
                .await
                .unwrap();
        }
        Handler::Nothing => {
            std::hint::black_box(rows);
        }
    }
}
