//! Lanes are independent: one that waits, hangs or fails does not block the others, and recovers on
//! its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use consumer::admin::Admin;
use consumer::{BatchError, ConsumerState, EventStore, Settings};
use consumer_tests::{
    Database, Running, TestConsumer, TestDatabase, TestPostgres, batch_consumer, consumer,
    impatient, judging, patiently, read_model, run_once, test_on, until,
};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Postgres, QueryBuilder, Sqlite};

/// A read model that fails as long as the flag says so, and then waits an hour.
fn failing<DB: TestDatabase>(name: &str, fails: &Arc<AtomicBool>) -> TestConsumer<DB> {
    let fails = Arc::clone(fails);
    let hour = Duration::from_hours(1);
    judging(name, move |_, _| {
        if fails.load(Ordering::SeqCst) {
            return Err("not now".to_owned());
        }
        Ok(())
    })
    .settings(Settings::default().backoff(hour, hour))
}

/// Writes the whole batch at its end, and fails there if it contains the event at that position.
fn flushing<DB: TestDatabase>(bad: i64) -> TestConsumer<DB> {
    batch_consumer("c", move |_, tx: &mut DB::Connection, events| {
        Box::pin(async move {
            for event in events {
                let applied = DB::apply(tx, "c", event).await;
                applied.map_err(|error| BatchError::at(0, error))?;
            }
            if events.iter().any(|event| event.global_position == bad) {
                return Err(BatchError::at(events.len(), "the flush failed"));
            }
            Ok(events.len())
        })
    })
}

async fn retrying<DB: TestDatabase>(worker: &Running<DB>) {
    until("it waits for its retry", async || {
        worker
            .consumers()
            .iter()
            .any(|one| matches!(one.state, ConsumerState::Retrying { .. }))
    })
    .await;
}

test_on!(
    [sqlite, postgres],
    a_consumer_waiting_for_its_retry_does_not_block_reads,
    resuming_a_consumer_ends_its_backoff,
    a_batch_that_fails_at_its_end_is_narrowed_down_to_one_event,
    a_batch_of_which_no_event_is_handled_counts_as_failed
);

/// It claims its row, sees that the next attempt is an hour away, and has begun to read ahead:
/// a lane that kept the reader of the log would block all others for that hour.
async fn a_consumer_waiting_for_its_retry_does_not_block_reads<DB: TestDatabase>(db: Database<DB>) {
    let head = *db.append_many(4_000).await.last().unwrap();
    let fails = Arc::new(AtomicBool::new(true));
    let waiting = || failing("waiting", &fails);
    let worker = Running::start(db.worker().consumer(waiting()));
    retrying(&worker).await;
    worker.stop().await;
    for _ in 0..5 {
        db.execute("DELETE FROM consumer_progress WHERE consumer = 'other'")
            .await;
        db.execute("DELETE FROM applied").await;
        // Half a batch is read at a time, so that reading takes longer than to see the row.
        let settings = |settings: Settings| settings.batch_size(2_000);
        let builder = db
            .worker()
            .consumer(waiting())
            .consumer(read_model("other"));
        let worker = Running::start(builder.configure_all(settings));
        until("the other has caught up", async || {
            db.checkpoint("other").await == Some(head)
        })
        .await;
        worker.stop().await;
    }
    assert_eq!(db.applied("other").await.len(), 4_000);
}

async fn resuming_a_consumer_ends_its_backoff<DB: TestDatabase>(db: Database<DB>) {
    let head = *db.append_many(3).await.last().unwrap();
    let fails = Arc::new(AtomicBool::new(true));
    let worker = Running::start(db.worker().consumer(failing("c", &fails)));
    retrying(&worker).await;
    let admin = Admin::new(db.store.clone());
    admin.pause("c").await.unwrap();
    until("it is paused", async || {
        worker.consumers()[0].state == ConsumerState::Paused
    })
    .await;
    fails.store(false, Ordering::SeqCst);
    admin.resume("c").await.unwrap();
    until("it continues", async || {
        db.checkpoint("c").await == Some(head)
    })
    .await;
    worker.stop().await;
}

async fn a_batch_that_fails_at_its_end_is_narrowed_down_to_one_event<DB: TestDatabase>(
    db: Database<DB>,
) {
    let positions = db.append_many(8).await;
    let c = flushing(positions[5]);
    let report = db.run_once(c.settings(impatient().retries(1))).await;
    let ConsumerState::Stopped { position, .. } = &report.consumer("c").unwrap().state else {
        panic!("{report}");
    };
    assert_eq!(*position, Some(positions[5]), "{report}");
    assert_eq!(db.applied("c").await, positions[..5]);
}

async fn a_batch_of_which_no_event_is_handled_counts_as_failed<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(2).await;
    let c = batch_consumer("c", |_, _, _| Box::pin(async { Ok(0) }));
    let report = db.run_once(c.settings(impatient().retries(1))).await;
    let ConsumerState::Stopped { error, .. } = &report.consumer("c").unwrap().state else {
        panic!("{report}");
    };
    assert!(error.contains("`Ok(0)`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_can_never_be_sent_counts_against_the_event() {
    let db = Database::<Postgres>::fresh().await;
    db.append_many(2).await;
    let c = consumer("c", |_, tx: &mut sqlx::PgConnection, _| {
        Box::pin(async move {
            let mut query = QueryBuilder::new("SELECT 1 WHERE 1 IN (");
            let mut values = query.separated(", ");
            for number in 0..70_000 {
                values.push_bind(number);
            }
            query.push(")");
            query.build().execute(tx).await?;
            Ok(())
        })
    });
    let report = db.run_once(c.settings(impatient().retries(1))).await;
    let ConsumerState::Stopped { error, .. } = &report.consumer("c").unwrap().state else {
        panic!("{report}");
    };
    assert!(error.contains("too many arguments"), "{error}");
}

/// SQLite rolls back on its own when the disk is full.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_retried_and_not_blamed_on_the_handler() {
    let db = Database::<Sqlite>::fresh().await;
    let positions = db.append_many(2).await;
    db.execute("CREATE TABLE ballast (content BLOB)").await;
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let c = consumer("c", move |cx, tx: &mut sqlx::SqliteConnection, event| {
        let is_first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        Box::pin(async move {
            assert_eq!(cx.attempt(), 1, "an attempt was counted");
            Sqlite::apply(tx, "c", event).await?;
            if is_first {
                let pages: i64 = sqlx::query_scalar("PRAGMA page_count")
                    .fetch_one(&mut *tx)
                    .await?;
                let full = format!("PRAGMA max_page_count = {}", pages + 2);
                Sqlite::execute_sql(tx, &full).await?;
                Sqlite::execute_sql(tx, "INSERT INTO ballast VALUES (zeroblob(10000000))").await?;
            }
            Ok(())
        })
    });
    let report = db.run_once(c).await;
    assert_eq!(
        report.consumer("c").unwrap().state,
        ConsumerState::CaughtUp,
        "{report}"
    );
    assert!(calls.load(Ordering::SeqCst) > 2, "the disk was never full");
    assert_eq!(db.applied("c").await, positions);
}

/// Nothing wakes a lane when another process releases its row.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_busy_is_claimed_whatever_the_poll_interval() {
    let db = Database::<Postgres>::fresh().await;
    let worker = db.worker().poll_interval(Duration::MAX);
    let running = Running::start(worker.consumer(read_model("c")));
    patiently("it runs", running.caught_up()).await.unwrap();
    let mut other = db.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM consumer_progress FOR UPDATE")
        .execute(&mut *other)
        .await
        .unwrap();
    let last = db.append_one("User", "a").await;
    until("it finds the row busy", async || {
        let given_up = "SELECT count(*) FROM pg_stat_activity
                         WHERE datname = current_database() AND query = 'ROLLBACK'";
        db.number(given_up).await > 0
    })
    .await;
    other.rollback().await.unwrap();
    patiently("it handles the event", running.caught_up_to(last))
        .await
        .unwrap();
    running.stop().await;
}

/// The connection that a worker opens to recover must fit into the smallest pool.
#[tokio::test(flavor = "multi_thread")]
async fn the_smallest_pool_recovers_after_a_server_restart() {
    let server = TestPostgres::builder().start();
    let db = Database::on(&server).await;
    let small = PgPoolOptions::new()
        .max_connections(3)
        .acquire_timeout(Duration::from_secs(10))
        .connect(&db.url)
        .await
        .unwrap();
    let store = EventStore::<Postgres>::new(small);
    let first = *db.append_many(5).await.last().unwrap();
    let worker = consumer::Worker::builder(store)
        .poll_interval(Duration::from_millis(10))
        .consumer(read_model("c"));
    let worker = Running::start(worker);
    patiently("it catches up", worker.caught_up_to(first))
        .await
        .unwrap();
    server.crash();
    server.start();
    until("the server is back", async || {
        sqlx::query("SELECT 1").execute(&db.pool).await.is_ok()
    })
    .await;
    let last = *db.append_many(5).await.last().unwrap();
    until("it continues", async || {
        db.checkpoint("c").await == Some(last)
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_past_its_deadline_cancels_the_statement() {
    let db = Database::<Postgres>::fresh().await;
    db.append_many(1).await;
    let c = consumer("c", |_, tx: &mut sqlx::PgConnection, _| {
        Box::pin(async move {
            sqlx::query("SELECT pg_sleep(3600)").execute(tx).await?;
            Ok(())
        })
    });
    let deadline = Duration::from_millis(100);
    // If the worker's own request comes too late, the server ends the claim.
    let worker = db.worker().claim_timeout(Duration::from_secs(20));
    let worker = Running::start(worker.shutdown_deadline(deadline).consumer(c));
    let sleeping = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event = 'PgSleep'";
    until("the handler's statement runs", async || {
        db.numbers(sleeping).await == [1]
    })
    .await;
    let report = worker.stop().await;
    assert_eq!(report.consumer("c").unwrap().state, ConsumerState::ShutDown);
    until("it was ended", async || db.numbers(sleeping).await == [0]).await;
    // The row is free: the next worker handles the event.
    let report = run_once(db.worker().consumer(read_model("c"))).await;
    assert_eq!(report.consumer("c").unwrap().state, ConsumerState::CaughtUp);
}

/// Records each call with its transaction, and fails at the end of a batch that contains the event at
/// that position.
fn noting(name: &str, bad: Option<i64>) -> TestConsumer<Postgres> {
    let consumer_name: Arc<str> = name.into();
    batch_consumer(name, move |_, tx, events| {
        let name = Arc::clone(&consumer_name);
        Box::pin(async move {
            let (count, first) = (events.len(), events[0].global_position);
            sqlx::query("INSERT INTO calls VALUES ($1, pg_current_xact_id()::text, $2, $3)")
                .bind(&*name)
                .bind(first)
                .bind(i64::try_from(count).unwrap())
                .execute(tx)
                .await
                .map_err(|error| BatchError::at(0, error))?;
            if events
                .iter()
                .any(|event| Some(event.global_position) == bad)
            {
                return Err(BatchError::at(count, "the flush failed"));
            }
            Ok(count)
        })
    })
}

/// Twelve consumers that caught up with 5,000 events over three connections.
struct Crowd {
    report: consumer::Report,
    /// The calls in each transaction, at most.
    calls: i64,
    /// The events in each call, at most.
    events: i64,
    /// The events of each consumer.
    handled: Vec<i64>,
}

/// The first of them fails at the event of that index.
async fn crowd(
    bad: Option<usize>,
    with: impl Fn(TestConsumer<Postgres>) -> TestConsumer<Postgres>,
) -> Crowd {
    let db = Database::<Postgres>::fresh().await;
    db.execute("CREATE TABLE calls (consumer TEXT, xact TEXT, first BIGINT, events BIGINT)")
        .await;
    let positions = db.append_many(5_000).await;
    let small = PgPoolOptions::new().max_connections(3);
    let store = EventStore::<Postgres>::new(small.connect(&db.url).await.unwrap());
    let consumers = (0..12).map(|number| {
        let bad = bad.filter(|_| number == 0).map(|index| positions[index]);
        with(noting(&format!("c{number:02}"), bad))
    });
    let worker = consumers.fold(consumer::Worker::builder(store), |worker, one| {
        worker.consumer(one)
    });
    let report = worker.build().unwrap().run_once().await.unwrap();
    let most = |what| db.numbers(what);
    Crowd {
        report,
        calls: most("SELECT max(n) FROM (SELECT count(*) AS n FROM calls GROUP BY xact) AS x")
            .await[0],
        events: most("SELECT max(events) FROM calls").await[0],
        handled: most("SELECT sum(events)::bigint FROM calls GROUP BY consumer ORDER BY consumer")
            .await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crowded_connections_hold_several_batches_per_transaction() {
    let crowd = crowd(None, |one| one).await;
    assert!(!crowd.report.has_failures(), "{}", crowd.report);
    assert!((2..=8).contains(&crowd.calls), "{}", crowd.calls);
    assert_eq!(crowd.events, 500);
    assert_eq!(crowd.handled, [5_000; 12]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_size_that_was_set_is_the_size_of_a_transaction() {
    let settings = |one: TestConsumer<_>| one.settings(Settings::default().batch_size(500));
    let crowd = crowd(None, settings).await;
    assert!(!crowd.report.has_failures(), "{}", crowd.report);
    assert_eq!((crowd.calls, crowd.events), (1, 500));
    assert_eq!(crowd.handled, [5_000; 12]);
}

/// The batches before it in the same transaction are handled again and saved, and so are the events
/// of the failing batch before the one that fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_batch_behind_others_is_narrowed_down_alone() {
    let crowd = crowd(Some(2_750), |one| one.settings(impatient().retries(1))).await;
    let first = crowd.report.consumer("c00").unwrap();
    assert!(
        matches!(first.state, ConsumerState::Stopped { .. }),
        "{first:?}"
    );
    assert_eq!(crowd.handled[0], 2_750);
    assert_eq!(crowd.handled[1..], [5_000; 11]);
}

/// Handles each event in a batch of its own over a pool of that size, until `count` of them are
/// handled and `backends` have been seen, and returns how many were.
async fn backends_of_a_lane(max_connections: u32, count: i64, backends: i64) -> i64 {
    let db = Database::<Postgres>::fresh().await;
    db.execute("CREATE TABLE calls (backend INT)").await;
    let c = consumer("c", |_, tx, _| {
        Box::pin(async move {
            let note = sqlx::query("INSERT INTO calls VALUES (pg_backend_pid())");
            Ok(note.execute(tx).await.map(drop)?)
        })
    });
    let pool = PgPoolOptions::new().max_connections(max_connections);
    let store = EventStore::<Postgres>::new(pool.connect(&db.url).await.unwrap());
    let worker = Running::start(consumer::Worker::builder(store.clone()).consumer(c));
    loop {
        let head = db.append_many(1).await[0];
        patiently("it is handled", worker.caught_up_to(head))
            .await
            .unwrap();
        let seen = db
            .numbers("SELECT count(DISTINCT backend) FROM calls")
            .await[0];
        if head >= count && seen >= backends {
            worker.stop().await;
            return seen;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_keeps_one_connection_whatever_the_pool() {
    assert_eq!(backends_of_a_lane(20, 50, 1).await, 1);
    assert_eq!(backends_of_a_lane(3, 50, 1).await, 1);
}
