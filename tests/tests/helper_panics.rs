//! A task of the worker beside its consumers that panics is reported, and runs again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use consumer::{ConsumerState, HealthProblem, PgEventStore};
use consumer_tests::{Database, Running, TestDatabase, patiently, read_model, test_on, until};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use sqlx::Postgres;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::Mutex;

/// Makes each read of the log panic, in whichever task.
static IS_BROKEN: AtomicBool = AtomicBool::new(false);

/// The recorder is that of the whole process.
static ALONE: Mutex<()> = Mutex::const_new(());

struct Panics;

impl Recorder for Panics {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let is_read = key.name() == "consumer_log_reads_total";
        assert!(!is_read || !IS_BROKEN.load(Ordering::SeqCst), "no counter");
        Counter::noop()
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// The tasks that panicked, as health reports them.
fn panicked<DB: TestDatabase>(running: &Running<DB>) -> Vec<&'static str> {
    let problems = running.health().problems.into_iter();
    let tasks = problems.filter_map(|problem| match problem {
        HealthProblem::TaskPanicked { task, .. } => Some(task),
        _ => None,
    });
    tasks.collect()
}

test_on!(
    [sqlite, postgres],
    a_scoped_consumer_is_woken_after_its_waker_panicked
);

async fn a_scoped_consumer_is_woken_after_its_waker_panicked<DB: TestDatabase>(db: Database<DB>) {
    let _alone = ALONE.lock().await;
    // The other test may have set it.
    let _ = metrics::set_global_recorder(Panics);
    let users = read_model("users").scope(&["User"]);
    let worker = db.worker().stall_after(Duration::from_secs(1));
    let running = Running::start(worker.scoped_consumer(users));
    let first = db.append_one("User", "a").await;
    patiently("it handles the first", running.caught_up())
        .await
        .unwrap();
    // It is in no scope, so only the task that scans for idle consumers reads it, once the consumer is idle.
    let mut found = Vec::new();
    while found.is_empty() {
        IS_BROKEN.store(false, Ordering::SeqCst);
        patiently("it catches up", running.caught_up())
            .await
            .unwrap();
        IS_BROKEN.store(true, Ordering::SeqCst);
        db.append_one("Order", "b").await;
        until("a read panics", async || {
            let state = &running.consumers()[0].state;
            matches!(state, ConsumerState::Waiting { .. }) || !panicked(&running).is_empty()
        })
        .await;
        found = panicked(&running);
    }
    assert_eq!(found, ["wake idle lanes"]);
    IS_BROKEN.store(false, Ordering::SeqCst);
    let last = db.append_one("User", "c").await;
    patiently("it handles the last", running.caught_up())
        .await
        .unwrap();
    until("all is well", async || running.health().problems.is_empty()).await;
    running.stop().await;
    assert_eq!(db.applied("users").await, [first, last]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_the_task_that_listens_is_reported() {
    static IS_BROKEN: AtomicBool = AtomicBool::new(false);
    let db = Database::<Postgres>::fresh().await;
    let options = PgPoolOptions::new().after_connect(|_, _| {
        assert!(!IS_BROKEN.load(Ordering::SeqCst), "no connection");
        Box::pin(async { Ok(()) })
    });
    let store = PgEventStore::new(options.connect(&db.url).await.unwrap());
    let worker = Database::of(store, &db.url).worker().listen();
    let running = Running::start(worker.consumer(read_model("users")));
    let listens = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    until("it listens", async || db.number(listens).await == 1).await;
    IS_BROKEN.store(true, Ordering::SeqCst);
    db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE datname = current_database() AND query LIKE 'LISTEN%'",
    )
    .await;
    until("the panic is reported", async || {
        panicked(&running) == ["listen for appends"]
    })
    .await;
    IS_BROKEN.store(false, Ordering::SeqCst);
    until("it listens again", async || db.number(listens).await == 1).await;
    running.stop().await;
}
