//! One consumer as several lanes: divided and made one again while events flow.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use consumer::{
    Backend, Consumer, ConsumerState, Context, EventStore, ExpectedVersion, HandlerError, NewEvent,
    PersistedEvent, Report, Worker, WorkerError, WorkerHandle, aggregate_slice, merge_segments,
};
use consumer_tests::{Database, TestBackend, on_both_databases, patiently, until};
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

/// A [`Ledger`] that cannot handle one event for a while.
struct Fussy {
    fails: Arc<AtomicBool>,
    at: i64,
}

macro_rules! fussy {
    ($database:ty) => {
        impl Consumer<$database> for Fussy {
            fn name(&self) -> &str {
                NAME
            }

            async fn handle(
                &self,
                cx: &Context,
                tx: &mut <$database as sqlx::Database>::Connection,
                event: &PersistedEvent,
            ) -> Result<(), HandlerError> {
                if event.global_position == self.at && self.fails.load(Ordering::SeqCst) {
                    return Err("not now".into());
                }
                Consumer::<$database>::handle(&Ledger, cx, tx, event).await
            }
        }
    };
}
fussy!(Sqlite);
fussy!(Postgres);

/// An aggregate of the lower half of the slices, and one of the upper half.
fn ids_of_halves() -> (String, String) {
    let half = |wanted: bool| {
        (0..1_000)
            .map(|number| format!("h-{number}"))
            .find(|id| (aggregate_slice(id) < 512) == wanted)
            .unwrap()
    };
    (half(true), half(false))
}

async fn append_to<DB: Backend>(store: &EventStore<DB>, id: &str) -> i64 {
    let event = NewEvent::new("Account", id, "Moved", "{}");
    let stored = store.append(ExpectedVersion::Any, &[event]).await.unwrap();
    stored[0].global_position
}

async fn run_with<DB: Backend>(store: &EventStore<DB>, segments: u32) -> Report
where
    Ledger: Consumer<DB>,
{
    let worker = Worker::builder(store.clone())
        .consumer(Ledger)
        .configure_all(move |settings| settings.segments(segments))
        .build()
        .unwrap();
    patiently("it has handled the log", worker.run_once())
        .await
        .unwrap()
}

struct Running<DB: Backend> {
    handle: WorkerHandle<DB>,
    task: JoinHandle<Result<Report, WorkerError>>,
}

fn start<DB: Backend>(store: &EventStore<DB>, segments: u32) -> Running<DB>
where
    Ledger: Consumer<DB>,
{
    let worker = Worker::builder(store.clone())
        .consumer(Ledger)
        .configure_all(move |settings| settings.segments(segments).batch_size(7).retries(0))
        .snapshot_interval(std::time::Duration::from_millis(20))
        .build()
        .unwrap();
    let handle = worker.handle();
    let task = tokio::spawn(worker.run(std::future::pending()));
    Running { handle, task }
}

impl<DB: Backend> Running<DB> {
    async fn end(self) -> Report {
        self.handle.shut_down();
        self.task.await.unwrap().unwrap()
    }
}

async fn append<DB: Backend>(store: &EventStore<DB>, events: usize) -> i64 {
    let mut last = 0;
    for number in 0..events {
        let event = NewEvent::new("Account", format!("a-{}", number % 40), "Moved", "{}");
        let stored = store.append(ExpectedVersion::Any, &[event]).await.unwrap();
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
        until("the row is divided", async || {
            count!(database, "SELECT count(*) FROM consumer_progress") == 8
        })
        .await;
        let position = append(&store, 200).await;
        one.handle.caught_up_to(position).await.unwrap();
        eight.handle.caught_up_to(position).await.unwrap();
        eight.end().await;

        // The one that is left is set to one lane, and runs eight rows.
        let flowing = store.clone();
        let writer = tokio::spawn(async move { append(&flowing, 200).await });
        // Three are no halves of halves: four, as the setting would have it.
        merge_segments(&store, NAME, 1, 3).await.unwrap();
        assert_eq!(count!(database, "SELECT count(*) FROM consumer_progress"), 4);
        merge_segments(&store, NAME, 1, 2).await.unwrap();
        assert_eq!(count!(database, "SELECT count(*) FROM consumer_progress"), 2);
        let position = writer.await.unwrap();
        one.handle.caught_up_to(position).await.unwrap();
        let report = one.end().await;

        assert_eq!(report.consumer(NAME).unwrap().state, ConsumerState::ShutDown, "{report}");
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
        assert_eq!((ledger.events, &ledger.state), (80, &ConsumerState::CaughtUp));
        assert_eq!(count!(database, "SELECT count(*) FROM consumer_progress"), 4);
        assert_eq!(count!(database, "SELECT count(*) FROM applied"), 80);
    }

    /// The row that is ahead waits for the other at a position below an event that has failed: it
    /// must not be handled by the row that waits, and again by the one that the two become.
    async fn rows_become_one_while_one_of_them_retries_and_no_event_is_handled_twice(database) {
        schema(&database).await;
        let store = database.store.clone();
        let fails = Arc::new(AtomicBool::new(true));
        let (left, right) = ids_of_halves();
        append_to(&store, &left).await;
        append_to(&store, &right).await;
        let failing = append_to(&store, &left).await;
        let worker = Worker::builder(store.clone())
            .consumer(Fussy { fails: Arc::clone(&fails), at: failing })
            .configure_all(|settings| {
                let soon = std::time::Duration::from_millis(1);
                settings.segments(2).retries(u32::MAX - 1).backoff(soon, soon)
            })
            .snapshot_interval(std::time::Duration::from_millis(20))
            .build()
            .unwrap();
        let handle = worker.handle();
        let task = tokio::spawn(worker.run(std::future::pending()));
        let running = Running { handle, task };
        until("it has failed", async || {
            count!(database, "SELECT count(*) FROM consumer_progress WHERE attempts > 0") == 1
        }).await;
        let merging = store.clone();
        let merge = tokio::spawn(async move { merge_segments(&merging, NAME, 1, 1).await });
        until("the rows wait for each other", async || {
            count!(database, "SELECT count(*) FROM consumer_progress WHERE hold_at IS NOT NULL") > 0
        }).await;
        fails.store(false, Ordering::SeqCst);
        let last = append_to(&store, &right).await;
        patiently("they are one", merge).await.unwrap().unwrap();
        patiently("it catches up", running.handle.caught_up_to(last)).await.unwrap();
        let report = running.end().await;
        assert_eq!(report.consumer(NAME).unwrap().state, ConsumerState::ShutDown, "{report}");
        assert_eq!(count!(database, "SELECT count(*) FROM consumer_progress"), 1);
        assert_eq!(count!(database, "SELECT count(*) FROM applied"), 4);
    }

    async fn rows_that_wait_for_a_merge_that_was_given_up_go_on_when_their_hold_ends(database) {
        schema(&database).await;
        let store = database.store.clone();
        let (left, right) = ids_of_halves();
        append_to(&store, &left).await;
        append_to(&store, &right).await;
        // Nobody runs the consumer, so the merge only gets as far as to have the rows wait.
        run_with(&store, 2).await;
        database.execute("UPDATE consumer_progress SET position = 1 WHERE slice_from > 0").await;
        let merging = store.clone();
        let merge = tokio::spawn(async move { merge_segments(&merging, NAME, 1, 1).await });
        until("the rows wait for each other", async || {
            count!(database, "SELECT count(*) FROM consumer_progress WHERE hold_at IS NOT NULL") == 2
        }).await;
        merge.abort();
        let _ = merge.await;
        // The hold ends after 10 s; here its end is brought forward.
        database.execute("UPDATE consumer_progress SET hold_until = NULL").await;
        database.execute("DELETE FROM applied").await;
        database.execute("DELETE FROM versions").await;
        database.execute("UPDATE consumer_progress SET position = 0").await;
        let last = append_to(&store, &left).await;
        let report = run_with(&store, 2).await;
        assert_eq!(report.consumer(NAME).unwrap().state, ConsumerState::CaughtUp, "{report}");
        assert_eq!(count!(database, "SELECT max(position) FROM applied"), last);
    }

    async fn a_merge_of_an_unknown_consumer_is_refused(database) {
        let error = merge_segments(&database.store, "nobody", 3, 1).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no checkpoint of `nobody`, version 3; has a worker with that consumer ever run on this database?"
        );
    }
}

#[tokio::test]
async fn an_aggregate_has_the_same_slice_in_rust_and_in_sql() {
    let database = Database::<Postgres>::fresh().await;
    let mut ids: Vec<String> = (0..10_000)
        .map(|number| format!("aggregate-{number}"))
        .collect();
    ids.extend(["", "ä", "日本語", "🦀🦀", "a'b\"c", "  ", "\u{7f}\u{80}"].map(str::to_owned));
    let rows: Vec<(String, i32)> = sqlx::query_as(
        "SELECT id, ('x' || left(md5(convert_to(id, 'UTF8')), 4))::bit(16)::int & 1023
           FROM UNNEST($1::text[]) AS id",
    )
    .bind(&ids)
    .fetch_all(&database.pool)
    .await
    .unwrap();
    assert_eq!(rows.len(), ids.len());
    for (id, slice) in rows {
        assert_eq!(i32::from(aggregate_slice(&id)), slice, "{id:?}");
    }
}

/// Whoever merges may let a row come further before the log does: the row that only waited has
/// nothing in its slices then, and nothing new that would wake it.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_waited_for_its_neighbour_goes_on_when_it_may_though_nothing_is_new() {
    let database = Database::<Postgres>::fresh().await;
    schema(&database).await;
    let (low, high) = ids_of_halves();
    let two = start(&database.store, 2);
    let first = append_to(&database.store, &low).await;
    two.handle.caught_up_to(first).await.unwrap();
    let mut positions = Vec::new();
    for _ in 0..5 {
        positions.push(append_to(&database.store, &high).await);
    }
    for may_reach in [positions[1], positions[3]] {
        sqlx::query(
            "UPDATE consumer_progress
                SET hold_at = $1, hold_until = clock_timestamp() + interval '1 hour'
              WHERE slice_from = 0 AND position < $1",
        )
        .bind(may_reach)
        .execute(&database.pool)
        .await
        .unwrap();
        until("it comes as far as it may", async || {
            count!(
                database,
                "SELECT position FROM consumer_progress WHERE slice_from = 0"
            ) == may_reach
        })
        .await;
    }
    two.end().await;
}
