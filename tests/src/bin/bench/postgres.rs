//! One consumer on Postgres, beside the loop that one would write by hand.

use consumer::sqlx::{FromRow, PgConnection, PgPool};
use consumer::{PgEventStore, Worker, WorkerBuilder};
use consumer_tests::{PgDatabase, TestPostgres};
use sqlx::Postgres;
use sqlx::types::chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::consumers::{Nothing, RowsPostgres, SetsPostgres, UPSERT, UPSERT_MANY};
use crate::data::{TABLES, check, fill_postgres, reset_postgres};
use crate::measure::{Case, Target, in_turns, rate, server, timed};
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
    let server = server();
    let many = plan.scaled(100_000, 3_000);
    let bench = Bench::new(server, many).await;
    let mut cases = Vec::new();
    if plan.only.wants(ROWS) {
        let by_hand = async || bench.by_hand(500, ALL_COLUMNS, Handler::Rows).await;
        cases.push(bench.rows(plan, ROWS, by_hand).await);
    }
    if plan.only.wants(ROWS_IN_A_TASK) {
        let by_hand = async || {
            bench
                .by_hand_in_a_task(500, ALL_COLUMNS, Handler::Rows)
                .await
        };
        cases.push(bench.rows(plan, ROWS_IN_A_TASK, by_hand).await);
    }
    if plan.only.wants(SETS) {
        cases.push(bench.sets(plan).await);
    }
    if plan.only.wants(NOTHING) {
        cases.push(bench.nothing(plan, NOTHING, ALL_COLUMNS).await);
    }
    if plan.only.wants(SELECTIVE) {
        cases.push(bench.nothing(plan, SELECTIVE, FOUR_COLUMNS).await);
    }
    cases
}

pub(crate) struct Bench {
    pub(crate) store: PgEventStore,
    pub(crate) events: usize,
    pub(crate) database: PgDatabase,
}

impl Bench {
    pub(crate) async fn new(server: &TestPostgres, events: usize) -> Self {
        let database = server.database().await;
        let store = database.store().await;
        sqlx::raw_sql(TABLES).execute(store.pool()).await.unwrap();
        fill_postgres(&store, events).await;
        Self {
            store,
            events,
            database,
        }
    }

    /// Lets a worker catch up, and says how many events it handled a second.
    pub(crate) async fn worker(
        &self,
        with: impl FnOnce(WorkerBuilder<Postgres>) -> WorkerBuilder<Postgres>,
    ) -> f64 {
        reset_postgres(&self.store).await;
        let worker = with(Worker::builder(self.store.clone())).build().unwrap();
        let time = timed(async {
            let report = worker.run_once().await.unwrap();
            assert!(!report.has_failures(), "{report}");
        });
        rate(self.events, time.await)
    }

    async fn by_hand(&self, batch: i64, columns: &'static str, handler: Handler) -> f64 {
        reset_postgres(&self.store).await;
        let time = timed(by_hand(self.store.pool().clone(), batch, columns, handler));
        rate(self.events, time.await)
    }

    /// The same loop where nothing is woken on another thread: in `main` itself every answer is.
    async fn by_hand_in_a_task(&self, batch: i64, columns: &'static str, handler: Handler) -> f64 {
        reset_postgres(&self.store).await;
        let pool = self.store.pool().clone();
        let task = async { tokio::spawn(by_hand(pool, batch, columns, handler)).await };
        let time = timed(async { task.await.unwrap() });
        rate(self.events, time.await)
    }

    async fn rows(&self, plan: &Plan, name: &'static str, by_hand: impl AsyncFn() -> f64) -> Case {
        let ours = async || {
            let rate = self.worker(|worker| worker.consumer(RowsPostgres)).await;
            check(self.store.pool(), self.events).await;
            rate
        };
        let other = async || {
            let rate = by_hand().await;
            check(self.store.pool(), self.events).await;
            rate
        };
        self.case(plan, name, 0.95, ours, other).await
    }

    async fn sets(&self, plan: &Plan) -> Case {
        let ours = async || {
            let rate = self.worker(|worker| worker.consumer(SetsPostgres)).await;
            check(self.store.pool(), self.events).await;
            rate
        };
        let other = async || {
            let rate = self.by_hand(1_000, ALL_COLUMNS, Handler::Sets).await;
            check(self.store.pool(), self.events).await;
            rate
        };
        self.case(plan, SETS, 0.9, ours, other).await
    }

    async fn nothing(&self, plan: &Plan, name: &'static str, columns: &'static str) -> Case {
        let ours = || self.worker(|worker| worker.consumer(Nothing::named("nothing")));
        let other = || self.by_hand(500, columns, Handler::Nothing);
        let (ours, other) = (async || ours().await, async || other().await);
        self.case(plan, name, 0.8, ours, other).await
    }

    async fn case(
        &self,
        plan: &Plan,
        name: &'static str,
        at_least: f64,
        ours: impl AsyncFnMut() -> f64,
        other: impl AsyncFnMut() -> f64,
    ) -> Case {
        let (ours, other) = in_turns(plan.rounds, ours, other).await;
        let case = Case {
            name,
            unit: "events/s",
            ours,
            other: Some(("by hand".into(), other)),
            target: Target::AtLeast(at_least),
        };
        case.print();
        case
    }
}

#[derive(Clone, Copy)]
enum Handler {
    Rows,
    Sets,
    Nothing,
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

/// The whole of it: begin, lock the checkpoint, read, handle, save, commit. It loses events of
/// writers that commit out of order, and tries nothing again.
async fn by_hand(pool: PgPool, batch: i64, columns: &'static str, handler: Handler) {
    loop {
        let mut tx = pool.begin().await.unwrap();
        let position: i64 =
            sqlx::query_scalar("SELECT position FROM hand_made WHERE name = $1 FOR UPDATE")
                .bind("loop")
                .fetch_one(&mut *tx)
                .await
                .unwrap();
        let rows: Vec<Row> = sqlx::query_as(columns)
            .bind(position)
            .bind(batch)
            .fetch_all(&mut *tx)
            .await
            .unwrap();
        let Some(last) = rows.last() else {
            return tx.commit().await.unwrap();
        };
        handle(&mut tx, &rows, handler).await;
        sqlx::query("UPDATE hand_made SET position = $2 WHERE name = $1")
            .bind("loop")
            .bind(last.global_position)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }
}

async fn handle(tx: &mut PgConnection, rows: &[Row], handler: Handler) {
    match handler {
        Handler::Rows => {
            for row in rows {
                sqlx::query(UPSERT)
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
