//! One consumer as several lanes: divided and made one again while events flow.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use consumer::{
    Consumer, Context, EventStore, ExpectedVersion, HandlerError, LaneState, NewEvent,
    PersistedEvent, Report, Worker, WorkerBackend, WorkerError, WorkerHandle, merge_segments,
};
use consumer_tests::{Database, TestBackend, on_both_databases};
use sqlx::{PgConnection, Postgres, Sqlite, SqliteConnection};
use tokio::task::JoinHandle;

/// Notes each event once, and each aggregate's events in their order only.
struct Ledger;

const NAME: &str = "ledger";

const NOTE: &str = "INSERT INTO applied (position) VALUES ($1)";

const COUNT: &str = "
    INSERT INTO versions (aggregate, version) VALUES ($1, $2)
    ON CONFLICT (aggregate) DO UPDATE SET version = excluded.version
     WHERE versions.version = excluded.version - 1";

fn in_order(changed: u64) -> Result<(), HandlerError> {
    if changed == 1 {
        Ok(())
    } else {
        Err("an event came out of its aggregate's order".into())
    }
}

impl Consumer<Sqlite> for Ledger {
    fn name(&self) -> &str {
        NAME
    }

    async fn handle(
        &self,
        _cx: &Context,
        tx: &mut SqliteConnection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        sqlx::query(NOTE)
            .bind(event.global_position)
            .execute(&mut *tx)
            .await?;
        let counted = sqlx::query(COUNT)
            .bind(&event.aggregate_id)
            .bind(event.aggregate_version)
            .execute(tx)
            .await?;
        in_order(counted.rows_affected())
    }
}

impl Consumer<Postgres> for Ledger {
    fn name(&self) -> &str {
        NAME
    }

    async fn handle(
        &self,
        _cx: &Context,
        tx: &mut PgConnection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        sqlx::query(NOTE)
            .bind(event.global_position)
            .execute(&mut *tx)
            .await?;
        let counted = sqlx::query(COUNT)
            .bind(&event.aggregate_id)
            .bind(event.aggregate_version)
            .execute(tx)
            .await?;
        in_order(counted.rows_affected())
    }
}

struct Running<DB: WorkerBackend> {
    handle: WorkerHandle<DB>,
    task: JoinHandle<Result<Report, WorkerError>>,
}

fn start<DB: WorkerBackend>(store: &EventStore<DB>, segments: u32) -> Running<DB>
where
    Ledger: Consumer<DB>,
{
    let worker = Worker::builder(store.clone())
        .consumer(Ledger)
        .configure_all(move |settings| settings.segments(segments).batch_size(7).retries(0))
        .survey_interval(std::time::Duration::from_millis(20))
        .build()
        .unwrap();
    let handle = worker.handle();
    let task = tokio::spawn(worker.run(std::future::pending()));
    Running { handle, task }
}

impl<DB: WorkerBackend> Running<DB> {
    async fn end(self) -> Report {
        self.handle.shut_down();
        self.task.await.unwrap().unwrap()
    }
}

async fn append<DB: WorkerBackend>(store: &EventStore<DB>, events: usize) -> i64 {
    let mut last = 0;
    for number in 0..events {
        let event = NewEvent::new("Account", format!("a-{}", number % 40), "Moved", "{}");
        let stored = store
            .append_in_transaction(ExpectedVersion::Any, &[event])
            .await
            .unwrap();
        last = stored[0].global_position;
    }
    last
}

async fn schema<DB: TestBackend>(database: &Database<DB>)
where
    for<'c> &'c mut DB::Connection: sqlx::Executor<'c, Database = DB>,
{
    use sqlx::Executor as _;
    let mut connection = database.pool.acquire().await.unwrap();
    for sql in [
        "CREATE TABLE applied (position BIGINT PRIMARY KEY)",
        "CREATE TABLE versions (aggregate TEXT PRIMARY KEY, version BIGINT NOT NULL)",
    ] {
        (&mut *connection).execute(sql).await.unwrap();
    }
}

macro_rules! count {
    ($database:expr, $sql:literal) => {
        sqlx::query_scalar::<_, i64>($sql)
            .fetch_one(&$database.pool)
            .await
            .unwrap()
    };
}

on_both_databases! {
    async fn a_consumer_is_divided_and_made_one_again_while_events_flow(database) {
        schema(&database).await;
        let store = database.store.clone();

        let one = start(&store, 1);
        let position = append(&store, 100).await;
        one.handle.caught_up_to(position).await.unwrap();
        assert_eq!(count!(database, "SELECT count(*) FROM consumer_progress"), 1);

        // A process with another setting divides the row that the first one is working on.
        let eight = start(&store, 8);
        let position = append(&store, 200).await;
        one.handle.caught_up_to(position).await.unwrap();
        eight.handle.caught_up_to(position).await.unwrap();
        while count!(database, "SELECT count(*) FROM consumer_progress") < 8 {
            tokio::task::yield_now().await;
        }
        let position = append(&store, 200).await;
        one.handle.caught_up_to(position).await.unwrap();
        eight.handle.caught_up_to(position).await.unwrap();
        eight.end().await;

        // The one that is left is set to one lane, and runs eight rows.
        let flowing = store.clone();
        let writer = tokio::spawn(async move { append(&flowing, 200).await });
        merge_segments(&store, NAME, 1, 2).await.unwrap();
        assert_eq!(count!(database, "SELECT count(*) FROM consumer_progress"), 2);
        let position = writer.await.unwrap();
        one.handle.caught_up_to(position).await.unwrap();
        let report = one.end().await;

        assert_eq!(report.consumer(NAME).unwrap().state, LaneState::ShutDown, "{report}");
        assert_eq!(count!(database, "SELECT count(*) FROM applied"), 700);
        assert_eq!(count!(database, "SELECT count(*) FROM versions"), 40);
    }

    async fn a_new_consumer_begins_with_as_many_rows_as_it_has_segments(database) {
        schema(&database).await;
        append(&database.store, 80).await;
        let worker = Worker::builder(database.store.clone())
            .consumer(Ledger)
            .configure(NAME, |settings| settings.segments(4))
            .build()
            .unwrap();

        let report = worker.run_once().await.unwrap();

        let ledger = report.consumer(NAME).unwrap();
        assert_eq!((ledger.events, &ledger.state), (80, &LaneState::CaughtUp));
        assert_eq!(count!(database, "SELECT count(*) FROM consumer_progress"), 4);
        assert_eq!(count!(database, "SELECT count(*) FROM applied"), 80);
    }
}
