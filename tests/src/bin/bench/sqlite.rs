//! One consumer on SQLite, beside the loop that one would write by hand.

use consumer::sqlx::{FromRow, SqliteConnection, SqlitePool};
use consumer::{SqliteEventStore, Worker, WorkerBuilder};
use consumer_tests::SqliteDatabase;
use sqlx::Sqlite;
use sqlx::types::chrono::{DateTime, Utc};

use crate::consumers::{Nothing, RowsSqlite, SetsSqlite, UPSERT, UPSERT_MANY_SQLITE};
use crate::data::{TABLES, check, fill_sqlite, reset_sqlite};
use crate::measure::{Case, Target, in_turns, rate, timed};
use crate::plan::Plan;

const ROWS: &str = "SQLite, a statement an event";
const APART: &str = "SQLite, a statement an event, not on one core";
const SETS: &str = "SQLite, a statement a batch";
const NOTHING: &str = "SQLite, no-op handler";

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    if !plan.wants_any(&[ROWS, APART, SETS, NOTHING]) {
        return Vec::new();
    }
    let bench = Bench::new(plan.scaled(50_000, 2_000)).await;
    let mut cases = Vec::new();
    if plan.only.wants(ROWS) {
        cases.push(bench.rows(plan, ROWS, true).await);
    }
    if plan.only.wants(APART) {
        cases.push(bench.rows(plan, APART, false).await);
    }
    let bench = Bench::new(plan.scaled(100_000, 3_000)).await;
    if plan.only.wants(SETS) {
        cases.push(bench.sets(plan).await);
    }
    if plan.only.wants(NOTHING) {
        cases.push(bench.nothing(plan).await);
    }
    cases
}

struct Bench {
    store: SqliteEventStore,
    events: usize,
    _database: SqliteDatabase,
}

impl Bench {
    async fn new(events: usize) -> Self {
        let database = SqliteDatabase::new().await;
        let store = database.store().await;
        sqlx::raw_sql(TABLES).execute(store.pool()).await.unwrap();
        fill_sqlite(&store, events).await;
        Self {
            store,
            events,
            _database: database,
        }
    }

    async fn worker(
        &self,
        with: impl FnOnce(WorkerBuilder<Sqlite>) -> WorkerBuilder<Sqlite>,
    ) -> f64 {
        reset_sqlite(&self.store).await;
        let worker = with(Worker::builder(self.store.clone())).build().unwrap();
        let time = timed(async {
            let report = worker.run_once().await.unwrap();
            assert!(!report.has_failures(), "{report}");
        });
        rate(self.events, time.await)
    }

    async fn by_hand(&self, batch: i64, handler: Handler) -> f64 {
        reset_sqlite(&self.store).await;
        let time = timed(by_hand(self.store.pool(), batch, handler));
        rate(self.events, time.await)
    }

    async fn rows(&self, plan: &Plan, name: &'static str, one_core: bool) -> Case {
        let ours = async || {
            let rate = self
                .worker(|worker| worker.consumer(RowsSqlite).lanes_on_one_core(one_core))
                .await;
            check(self.store.pool(), self.events).await;
            rate
        };
        let other = async || {
            let rate = self.by_hand(500, Handler::Rows).await;
            check(self.store.pool(), self.events).await;
            rate
        };
        let target = if one_core {
            Target::AtLeast(2.0)
        } else {
            Target::None
        };
        Self::case(plan, name, target, ours, other).await
    }

    async fn sets(&self, plan: &Plan) -> Case {
        let ours = async || {
            let rate = self.worker(|worker| worker.consumer(SetsSqlite)).await;
            check(self.store.pool(), self.events).await;
            rate
        };
        let other = async || {
            let rate = self.by_hand(1_000, Handler::Sets).await;
            check(self.store.pool(), self.events).await;
            rate
        };
        Self::case(plan, SETS, Target::AtLeast(0.9), ours, other).await
    }

    async fn nothing(&self, plan: &Plan) -> Case {
        let ours = async || {
            self.worker(|worker| worker.consumer(Nothing::named("nothing")))
                .await
        };
        let other = async || self.by_hand(500, Handler::Nothing).await;
        Self::case(plan, NOTHING, Target::AtLeast(0.8), ours, other).await
    }

    async fn case(
        plan: &Plan,
        name: &'static str,
        target: Target,
        ours: impl AsyncFnMut() -> f64,
        other: impl AsyncFnMut() -> f64,
    ) -> Case {
        let (ours, other) = in_turns(plan.rounds, ours, other).await;
        let case = Case {
            name,
            unit: "events/s",
            ours,
            other: Some(("by hand".into(), other)),
            target,
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

async fn by_hand(pool: &SqlitePool, batch: i64, handler: Handler) {
    loop {
        let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let position: i64 = sqlx::query_scalar("SELECT position FROM hand_made WHERE name = ?1")
            .bind("loop")
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        let rows: Vec<Row> = sqlx::query_as(ALL_COLUMNS)
            .bind(position)
            .bind(batch)
            .fetch_all(&mut *tx)
            .await
            .unwrap();
        let Some(last) = rows.last() else {
            return tx.commit().await.unwrap();
        };
        handle(&mut tx, &rows, handler).await;
        sqlx::query("UPDATE hand_made SET position = ?2 WHERE name = ?1")
            .bind("loop")
            .bind(last.global_position)
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }
}

async fn handle(tx: &mut SqliteConnection, rows: &[Row], handler: Handler) {
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
