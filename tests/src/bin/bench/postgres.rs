//! One consumer on Postgres, beside the loop that one would write by hand.

use consumer::sqlx::{FromRow, PgConnection, PgPool};
use consumer_tests::Database;
use consumer_tests::measuring::server;
use sqlx::Postgres;
use sqlx::types::chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::case::{Case, Target};
use crate::consumers::{Nothing, RowsPostgres, SetsPostgres, UPSERT, UPSERT_MANY};
use crate::log::{ByHand, Handler, Log, Measured};
use crate::plan::Plan;

const ROWS: &str = "Postgres, a statement an event";
const ROWS_IN_A_TASK: &str = "Postgres, a statement an event, loop in a task";
const SETS: &str = "Postgres, a statement a batch";
const NOTHING: &str = "Postgres, no-op handler";
const SELECTIVE: &str = "Postgres, no-op handler, loop of 4 columns";

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    if !plan.wants_any(&[ROWS, ROWS_IN_A_TASK, SETS, NOTHING, SELECTIVE]) {
        return Vec::new();
    }
    let log = Log::<Postgres>::new(plan.scaled(100_000, 3_000)).await;
    let mut cases = Vec::new();
    for (name, in_a_task) in [(ROWS, false), (ROWS_IN_A_TASK, true)] {
        if plan.only.wants(name) {
            let by_hand = ByHand {
                in_a_task,
                ..by_hand(Handler::Rows)
            };
            let with = |worker: Builder| worker.consumer(RowsPostgres);
            let case = (name, Target::AtLeast(0.95));
            cases.push(log.beside(plan, case, with, by_hand).await);
        }
    }
    if plan.only.wants(SETS) {
        let by_hand = ByHand {
            batch: 1_000,
            ..by_hand(Handler::Sets)
        };
        let with = |worker: Builder| worker.consumer(SetsPostgres);
        let case = (SETS, Target::AtLeast(0.9));
        cases.push(log.beside(plan, case, with, by_hand).await);
    }
    for (name, read) in [(NOTHING, ALL_COLUMNS), (SELECTIVE, FOUR_COLUMNS)] {
        if plan.only.wants(name) {
            let by_hand = ByHand {
                read,
                ..by_hand(Handler::Nothing)
            };
            let with = |worker: Builder| worker.consumer(Nothing::named("nothing"));
            let case = (name, Target::AtLeast(0.8));
            cases.push(log.beside(plan, case, with, by_hand).await);
        }
    }
    cases
}

type Builder = consumer::WorkerBuilder<Postgres>;

pub(crate) fn by_hand(handler: Handler) -> ByHand {
    ByHand {
        batch: 500,
        read: ALL_COLUMNS,
        handler,
        upsert: UPSERT,
        in_a_task: false,
    }
}

impl Measured for Postgres {
    const ANALYZE: &'static str = "VACUUM ANALYZE events";

    const RESET: &'static str = "TRUNCATE balances; DELETE FROM consumer_progress;
        DELETE FROM hand_made; INSERT INTO hand_made VALUES ('loop', 0)";

    const EMPTY: &'static str = "TRUNCATE";

    const CHECKPOINT: &'static str = "CHECKPOINT";

    async fn database() -> Database<Self> {
        Database::on(server()).await
    }

    /// One event in a thousand is of the type `Rare`; the others are of `Account`.
    fn fill(events: usize, accounts: usize) -> String {
        format!(
            r#"INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
               SELECT CASE WHEN n % 1000 = 500 THEN 'Rare' ELSE 'Account' END, 'account-' || n % {accounts},
                      n / {accounts} + 1, gen_random_uuid(), 'Deposited',
                      convert_to('{{"amount":' || n % 100 || ',"text":"' || repeat('x', 170) || '"}}', 'UTF8')
                 FROM generate_series(0, {events} - 1) AS n"#
        )
    }

    async fn by_hand(pool: PgPool, by_hand: ByHand) {
        loop {
            let mut tx = pool.begin().await.unwrap();
            let position: i64 =
                sqlx::query_scalar("SELECT position FROM hand_made WHERE name = $1 FOR UPDATE")
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
            sqlx::query("UPDATE hand_made SET position = $2 WHERE name = $1")
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
    #[sqlx(default)]
    aggregate_type: String,
    aggregate_id: String,
    #[sqlx(default)]
    aggregate_version: i64,
    #[sqlx(default)]
    event_id: Uuid,
    event_type: String,
    #[sqlx(default)]
    event_version: i32,
    payload: Vec<u8>,
    #[sqlx(default)]
    trace_id: Option<String>,
    #[sqlx(default)]
    correlation_id: Option<String>,
    #[sqlx(default)]
    causation_id: Option<String>,
    #[sqlx(default)]
    metadata: Option<serde_json::Value>,
    #[sqlx(default)]
    created_at: DateTime<Utc>,
}

const ALL_COLUMNS: &str = "
SELECT global_position, aggregate_type, aggregate_id, aggregate_version, event_id, event_type,
       event_version, payload, trace_id, correlation_id, causation_id, metadata, created_at
  FROM events WHERE global_position > $1 ORDER BY global_position LIMIT $2";

const FOUR_COLUMNS: &str = "
SELECT global_position, aggregate_id, event_type, payload
  FROM events WHERE global_position > $1 ORDER BY global_position LIMIT $2";

async fn handle(tx: &mut PgConnection, rows: &[Row], by_hand: &ByHand) {
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
            let ids: Vec<&str> = rows.iter().map(|row| &*row.aggregate_id).collect();
            let positions: Vec<i64> = rows.iter().map(|row| row.global_position).collect();
            sqlx::query(UPSERT_MANY)
                .bind(ids)
                .bind(positions)
                .execute(tx)
                .await
                .unwrap();
        }
        Handler::Nothing => {
            std::hint::black_box(rows);
        }
    }
}
