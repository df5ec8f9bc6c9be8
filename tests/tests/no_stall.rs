//! A consumer never stops working silently.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use consumer::admin::RebuildOptions;
use consumer::{ConsumerState, HandlerError, HealthProblem, OnError, Settings};
use consumer_tests::{
    Database, Running, TestConsumer, TestDatabase, consumer, impatient, judging, patiently,
    run_once, test_on, until,
};
use sqlx::{Postgres, Sqlite};

type Connection<DB> = <DB as sqlx::Database>::Connection;

/// What the rows look like after the clock was set back by a day.
trait ClockSetBack {
    const RETRY_A_DAY_LATER: &'static str;
}

impl ClockSetBack for Postgres {
    const RETRY_A_DAY_LATER: &'static str =
        "UPDATE consumer_progress SET retry_at = retry_at + interval '1 day'";
}

impl ClockSetBack for Sqlite {
    const RETRY_A_DAY_LATER: &'static str =
        "UPDATE consumer_progress SET retry_at = retry_at + 86400000";
}

/// Panics when the future of a handler that took too long is dropped, outside that handler.
struct PanicsOnDrop(Arc<AtomicBool>);

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        assert!(!self.0.load(Ordering::SeqCst), "dropped too early");
    }
}

/// An error that cannot be shown.
#[derive(Debug)]
struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("no words")
    }
}

impl std::error::Error for Unspeakable {}

/// A read model whose lane panics as long as the flag is set.
fn panicking<DB: TestDatabase>(is_broken: &Arc<AtomicBool>) -> TestConsumer<DB> {
    let is_broken = Arc::clone(is_broken);
    consumer("c", move |_, tx: &mut Connection<DB>, event| {
        let is_broken = Arc::clone(&is_broken);
        Box::pin(async move {
            let _panics = PanicsOnDrop(Arc::clone(&is_broken));
            if is_broken.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            Ok(DB::apply(tx, "c", event).await?)
        })
    })
    .settings(impatient().handler_timeout(Duration::from_millis(200)))
}

/// A read model that fails on its first event as often as it is told to.
fn failing<DB: TestDatabase>(times: u32, settings: Settings) -> TestConsumer<DB> {
    let failed = AtomicU32::new(0);
    judging("c", move |_, _| {
        if failed.fetch_add(1, Ordering::SeqCst) < times {
            return Err("not yet".to_owned());
        }
        Ok(())
    })
    .settings(settings)
}

test_on!(
    [sqlite, postgres],
    a_lane_that_panics_is_visible_and_restarted,
    an_error_whose_display_panics_is_that_of_the_event,
    durations_without_end_do_not_panic,
    commands_take_durations_without_end,
    a_retry_does_not_wait_for_a_clock_that_was_set_back
);

async fn a_lane_that_panics_is_visible_and_restarted<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "b"]).await;
    let is_broken = Arc::new(AtomicBool::new(true));
    let running = Running::start(db.worker().consumer(panicking(&is_broken)));
    until("the panic shows in the state", async || {
        let state = &running.consumers()[0].state;
        matches!(state, ConsumerState::Panicked { error } if error.contains("dropped too early"))
    })
    .await;
    until("the panic shows in health", async || {
        let health = running.health();
        let panicked = |problem: &HealthProblem| matches!(problem, HealthProblem::Panicked { .. });
        health.problems.iter().any(panicked) && health.is_live() && !health.is_ready()
    })
    .await;
    is_broken.store(false, Ordering::SeqCst);
    patiently("it catches up", running.caught_up())
        .await
        .unwrap();
    assert_eq!(db.applied("c").await, positions);
    running.stop().await;
}

async fn an_error_whose_display_panics_is_that_of_the_event<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "bad", "b"]).await;
    let c = consumer("c", |_, tx: &mut Connection<DB>, event| {
        Box::pin(async move {
            if event.aggregate_id == "bad" {
                return Err(HandlerError::from(Unspeakable));
            }
            Ok(DB::apply(tx, "c", event).await?)
        })
    });
    let report = db
        .run_once(c.settings(impatient().retries(1).on_error(OnError::Park)))
        .await;
    assert_eq!(
        report.consumer("c").unwrap().state,
        ConsumerState::CaughtUp,
        "{report}"
    );
    assert_eq!(db.applied("c").await, [positions[0], positions[2]]);
    let errors = db.texts("SELECT error FROM consumer_parked").await;
    assert!(
        errors[0].contains("`Display` or `source` panicked: no words"),
        "{errors:?}"
    );
}

async fn durations_without_end_do_not_panic<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "b"]).await;
    let settings = Settings::default()
        .batch_time(Duration::MAX)
        .handler_timeout(Duration::MAX)
        .backoff(Duration::from_millis(1), Duration::MAX);
    let worker = db
        .worker()
        .poll_interval(Duration::MAX)
        .claim_timeout(Duration::MAX)
        .stall_after(Duration::MAX)
        .snapshot_interval(Duration::MAX)
        .advance_interval(Duration::MAX)
        .shutdown_deadline(Duration::MAX);
    let running = Running::start(worker.consumer(failing(1, settings)));
    patiently("it catches up", running.caught_up())
        .await
        .unwrap();
    assert_eq!(db.applied("c").await, positions);
    running.stop().await;
}

async fn commands_take_durations_without_end<DB: TestDatabase>(db: Database<DB>) {
    db.store.migrate_within(Duration::MAX).await.unwrap();
    let positions = db.append("User", ["a", "b"]).await;
    let settings = Settings::default()
        .retries(0)
        .on_error(OnError::Park)
        .batch_time(Duration::MAX)
        .handler_timeout(Duration::MAX);
    run_once(db.worker().consumer(failing(1, settings.clone()))).await;
    assert_eq!(db.parked("c").await, positions[..1]);
    let admin = db.worker().consumer(failing(0, settings)).admin();
    let admin = admin.unwrap();
    let retried = admin.retry_parked("c", None).await.unwrap();
    assert_eq!(retried.handled, 1, "{retried:?}");
    let options = RebuildOptions::new().without_reset().wait(Duration::MAX);
    admin.rebuild("c", options).await.unwrap();
    assert_eq!(db.checkpoint("c").await, Some(0));
}

async fn a_retry_does_not_wait_for_a_clock_that_was_set_back<DB: TestDatabase + ClockSetBack>(
    db: Database<DB>,
) {
    let positions = db.append("User", ["a"]).await;
    let minute = Duration::from_mins(1);
    let settings = || Settings::default().backoff(minute, minute);
    let first = Running::start(db.worker().consumer(failing(1, settings())));
    until("the failure is saved", async || {
        db.numbers("SELECT CAST(attempts AS BIGINT) FROM consumer_progress")
            .await
            == [1]
    })
    .await;
    first.stop().await;
    db.execute(DB::RETRY_A_DAY_LATER).await;
    let second = Running::start(db.worker().consumer(failing(0, settings())));
    patiently("it catches up", second.caught_up())
        .await
        .unwrap();
    assert_eq!(db.applied("c").await, positions);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_outlasts_its_claim_is_not_called_forever() {
    let db = Database::<Postgres>::fresh().await;
    db.append("User", ["a", "slow", "b"]).await;
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let slow = consumer("c", move |_, tx: &mut Connection<Postgres>, event| {
        let calls = Arc::clone(&counted);
        Box::pin(async move {
            if event.aggregate_id == "slow" {
                calls.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            Ok(Postgres::apply(tx, "c", event).await?)
        })
    });
    let settings = impatient().retries(1).on_error(OnError::Stop);
    let worker = db.worker().claim_timeout(Duration::from_secs(1));
    let run = worker.consumer(slow.settings(settings)).build().unwrap();
    let report = patiently("it stops", run.run_once()).await.unwrap();
    let ConsumerState::Stopped { error, .. } = &report.consumers[0].state else {
        panic!("{report}")
    };
    assert!(error.contains("`claim_timeout` of 1s"), "{error}");
    assert!(error.contains("`handler_timeout`"), "{error}");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

/// What a server with `transaction_timeout`, which is newer than some, answers to a statement.
const LATE: &str = "
    CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'terminating connection due to transaction timeout' USING ERRCODE = '25P04';
    END $$;";

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_takes_too_long_counts_wherever_it_ends() {
    for late_in in [
        // The handler, the save, and the commit.
        "CREATE TRIGGER late BEFORE INSERT ON applied
            FOR EACH ROW EXECUTE FUNCTION late()",
        "CREATE TRIGGER late BEFORE UPDATE ON consumer_progress
            FOR EACH ROW WHEN (NEW.position > OLD.position) EXECUTE FUNCTION late()",
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON applied DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION late()",
    ] {
        let db = Database::<Postgres>::fresh().await;
        db.append("User", ["a", "b", "c"]).await;
        db.execute(&format!("{LATE}{late_in}")).await;
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let late = consumer("c", move |_, tx: &mut Connection<Postgres>, event| {
            counted.fetch_add(u32::from(event.global_position == 1), Ordering::SeqCst);
            Box::pin(async move { Ok(Postgres::apply(tx, "c", event).await?) })
        });
        let late = late.settings(impatient().retries(1).on_error(OnError::Stop));
        let run = db.worker().consumer(late).build().unwrap();
        let report = patiently("it stops", run.run_once()).await.unwrap();
        let ConsumerState::Stopped { position, error } = &report.consumers[0].state else {
            panic!("{report}")
        };
        assert_eq!(*position, Some(1), "{late_in}");
        assert!(
            error.contains("`transaction_timeout`"),
            "{late_in}: {error}"
        );
        assert!(calls.load(Ordering::SeqCst) >= 2, "{late_in}");
        assert!(db.applied("c").await.is_empty());
    }
}
