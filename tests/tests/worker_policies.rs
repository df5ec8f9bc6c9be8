//! The policies for events that fail, on both databases.

use std::collections::{HashMap, HashSet};
use std::error::Error as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consumer::{
    BatchError, ConsumerState, EventFormat, HandlerError, NewEvent, OnError, PersistedEvent,
    Settings,
};
use consumer_tests::{
    Database, Running, TestConsumer, TestDatabase, batch_consumer, consumer, impatient, judging,
    patiently, read_model, run_once, test_on, until,
};

/// A read model that fails on the events of some aggregates.
fn refusing<DB: TestDatabase>(name: &str, aggregates: &[&str]) -> TestConsumer<DB> {
    let poisoned: HashSet<String> = aggregates.iter().map(|&id| id.to_owned()).collect();
    judging(name, move |_, event| {
        if poisoned.contains(&event.aggregate_id) {
            return Err(format!("{} makes no sense", event.aggregate_id));
        }
        Ok(())
    })
}

/// A batch handler that fails on batches with an event at such a position, and records the sizes of
/// its batches.
fn refusing_batches<DB: TestDatabase>(
    poisoned: impl Fn(i64) -> bool + Send + Sync + 'static,
    sizes: &Arc<Mutex<Vec<usize>>>,
) -> TestConsumer<DB> {
    let sizes = Arc::clone(sizes);
    batch_consumer("batches", move |_, tx: &mut DB::Connection, events| {
        sizes.lock().unwrap().push(events.len());
        let fails = events.iter().any(|event| poisoned(event.global_position));
        Box::pin(async move {
            for event in events {
                DB::apply(tx, "batches", event)
                    .await
                    .map_err(|error| BatchError::within(0, events.len(), error))?;
            }
            if fails {
                return Err(BatchError::within(
                    0,
                    events.len(),
                    "one of them makes no sense",
                ));
            }
            Ok(events.len())
        })
    })
}

fn state(report: &consumer::Report, name: &str) -> ConsumerState {
    report.consumer(name).unwrap().state.clone()
}

test_on!(
    [sqlite, postgres, through_a_pooler],
    the_events_before_a_failing_one_are_saved,
    a_failing_event_is_retried_as_often_as_configured,
    an_event_that_succeeds_in_the_end_leaves_no_failure_behind,
    attempts_count_across_workers,
    the_backoff_doubles_up_to_its_limit_with_jitter,
    skip_leaves_out_the_event_and_continues,
    park_sets_an_aggregate_aside_in_order,
    an_id_is_only_parked_within_its_aggregate_type,
    an_event_that_is_passed_over_waits_behind_no_parked_one,
    the_thousand_and_first_parked_aggregate_stops_it,
    a_failing_event_of_a_batch_handler_is_found_by_halving,
    all_failing_events_of_a_batch_handler_are_found,
    a_panic_counts_against_the_event,
    an_effect_that_panics_does_not_stop_its_consumer,
    a_decode_error_counts_against_the_event,
    a_failed_statement_that_was_ignored_voids_the_batch,
    one_failing_consumer_of_five_does_not_slow_the_others,
    any_mixture_of_failures_follows_the_policy,
    errors_of_the_database_never_count_against_an_event
);

async fn the_events_before_a_failing_one_are_saved<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "b", "c", "bad", "d"]).await;
    db.run_once(refusing("c", &["bad"]).settings(impatient().retries(0)))
        .await;
    assert_eq!(db.applied("c").await, positions[..3]);
    assert_eq!(db.checkpoint("c").await, Some(positions[2]));
}

async fn a_failing_event_is_retried_as_often_as_configured<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a", "bad"]).await;
    let attempts: Arc<Mutex<Vec<u32>>> = Arc::default();
    let seen = Arc::clone(&attempts);
    let c = judging("c", move |cx, event| {
        if event.aggregate_id != "bad" {
            return Ok(());
        }
        seen.lock().unwrap().push(cx.attempt());
        Err("no".to_owned())
    });
    let report = db.run_once(c.settings(impatient().retries(3))).await;
    assert!(matches!(state(&report, "c"), ConsumerState::Stopped { .. }));
    assert_eq!(*attempts.lock().unwrap(), [1, 2, 3, 4]);
}

async fn an_event_that_succeeds_in_the_end_leaves_no_failure_behind<DB: TestDatabase>(
    db: Database<DB>,
) {
    let positions = db.append("User", ["a", "shy", "b"]).await;
    let c = judging("c", |cx, event| match event.aggregate_id.as_str() {
        "shy" if cx.attempt() < 3 => Err("not yet".to_owned()),
        _ => Ok(()),
    });
    let report = db.run_once(c.settings(impatient())).await;
    assert_eq!(state(&report, "c"), ConsumerState::CaughtUp);
    assert_eq!(db.applied("c").await, positions);
    let failures = "SELECT attempts FROM consumer_progress WHERE failed_position IS NULL AND error IS NULL AND retry_at IS NULL";
    assert_eq!(
        db.numbers(&failures.replace("attempts", "CAST(attempts AS BIGINT)"))
            .await,
        [0]
    );
}

async fn attempts_count_across_workers<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["bad"]).await;
    let calls = Arc::new(AtomicU32::new(0));
    let c = |calls: &Arc<AtomicU32>| {
        let calls = Arc::clone(calls);
        judging("c", move |_, _| {
            calls.fetch_add(1, Ordering::SeqCst);
            Err("no".to_owned())
        })
    };
    // The first worker ends while its consumer waits for an attempt that is an hour away.
    let hour = Duration::from_hours(1);
    let slow = Settings::default().retries(2).backoff(hour, hour);
    let worker = Running::start(db.worker().consumer(c(&calls).settings(slow)));
    consumer_tests::until("it has failed once", async || {
        worker
            .consumers()
            .iter()
            .any(|one| matches!(one.state, ConsumerState::Retrying { .. }))
    })
    .await;
    worker.stop().await;
    db.execute("UPDATE consumer_progress SET retry_at = NULL")
        .await;
    db.run_once(c(&calls).settings(impatient().retries(2)))
        .await;
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

async fn the_backoff_doubles_up_to_its_limit_with_jitter<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["bad"]).await;
    let hour = Duration::from_hours(1);
    let settings = Settings::default().retries(10).backoff(hour, hour * 8);
    let names = ["a", "b", "c", "d", "e"];
    for (attempts, hours) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (6, 8)] {
        let worker = Running::start(names.iter().fold(db.worker(), |builder, name| {
            builder.consumer(refusing(name, &["bad"]).settings(settings.clone()))
        }));
        consumer_tests::until("all wait for the next attempt", async || {
            let waits = |one: &consumer::ConsumerReport| match one.state {
                ConsumerState::Retrying { attempts: n, .. } => n == attempts,
                _ => false,
            };
            worker.consumers().iter().all(waits)
        })
        .await;
        worker.stop().await;
        let wait = if DB::NAME == "SQLite" {
            "retry_at - updated_at"
        } else {
            "extract(epoch FROM retry_at - updated_at) * 1000"
        };
        let waits = db
            .numbers(&format!(
                "SELECT CAST({wait} AS BIGINT) FROM consumer_progress ORDER BY 1"
            ))
            .await;
        let longest = hours * 3_600_000;
        // Up to a quarter less, so that consumers that failed together are not retried together.
        let within = longest * 3 / 4 - 1..=longest + 1;
        assert!(
            waits.iter().all(|wait| within.contains(wait)),
            "{attempts}: {waits:?}"
        );
        assert!(
            waits.windows(2).any(|pair| pair[0] < pair[1]),
            "{attempts}: {waits:?}"
        );
        // Make the retry due.
        db.execute("UPDATE consumer_progress SET retry_at = NULL")
            .await;
    }
}

async fn skip_leaves_out_the_event_and_continues<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "bad", "b", "bad", "c"]).await;
    let settings = impatient().retries(1).on_error(OnError::Skip);
    let report = db
        .run_once(refusing("c", &["bad"]).settings(settings))
        .await;
    assert_eq!(
        report.to_string(),
        format!(
            "c: caught up at {}, 3 events handled, 2 skipped\n",
            positions[4]
        )
    );
    assert_eq!(
        db.applied("c").await,
        [positions[0], positions[2], positions[4]]
    );
    assert_eq!(db.checkpoint("c").await, Some(positions[4]));
}

async fn park_sets_an_aggregate_aside_in_order<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "bad", "b", "bad", "a"]).await;
    let settings = impatient().retries(1).on_error(OnError::Park);
    let report = db
        .run_once(refusing("c", &["bad"]).settings(settings.clone()))
        .await;
    assert_eq!(
        report.to_string(),
        format!(
            "c: caught up at {}, 3 events handled, 2 parked\n",
            positions[4]
        )
    );
    assert_eq!(
        db.applied("c").await,
        [positions[0], positions[2], positions[4]]
    );
    assert_eq!(db.parked("c").await, [positions[1], positions[3]]);
    assert_eq!(
        db.texts("SELECT reason FROM consumer_parked ORDER BY position")
            .await,
        ["failed", "behind"]
    );
    assert_eq!(
        db.texts("SELECT error FROM consumer_parked ORDER BY position LIMIT 1")
            .await,
        ["bad makes no sense"]
    );

    // Its later events wait behind it even if the handler could handle them by now.
    let later = db.append("User", ["bad", "b"]).await;
    db.run_once(read_model("c").settings(settings)).await;
    assert_eq!(db.applied("c").await.last(), Some(&later[1]));
    assert_eq!(db.parked("c").await, [positions[1], positions[3], later[0]]);
}

async fn an_id_is_only_parked_within_its_aggregate_type<DB: TestDatabase>(db: Database<DB>) {
    let bad = db.append("User", ["7"]).await;
    let good = db.append("Order", ["7"]).await;
    let c = judging("c", |_, event| match &*event.aggregate_type {
        "User" => Err("no".to_owned()),
        _ => Ok(()),
    });
    db.run_once(c.settings(impatient().retries(0).on_error(OnError::Park)))
        .await;
    assert_eq!(db.parked("c").await, bad);
    assert_eq!(db.applied("c").await, good);
}

async fn an_event_that_is_passed_over_waits_behind_no_parked_one<DB: TestDatabase>(
    db: Database<DB>,
) {
    let mut log = Vec::new();
    for event_type in ["Placed", "Legacy", "Paid", "Legacy"] {
        let event = NewEvent::new("Order", "bad", event_type, "{}");
        log.push(db.append_event(event).await);
    }
    // A later event that is not parked would fail, too.
    let verdict = |event: &PersistedEvent| match &*event.event_type {
        "Legacy" => Ok(()),
        _ => Err("no".to_owned()),
    };
    let parking = || impatient().retries(0).on_error(OnError::Park);
    let orders = |name| judging(name, move |_, event| verdict(event)).settings(parking());
    let is_taken = |format: EventFormat<'_>| format.event_type != "Legacy";
    // It writes nothing: its statements would have no transaction, which a pooler does not bear.
    let outside = consumer("outside", move |_, _: &mut DB::Connection, event| {
        let verdict = verdict(event);
        Box::pin(async move { Ok(verdict?) })
    });
    // The control takes all.
    let all = db.run_once(orders("all")).await;
    assert_eq!(db.parked("all").await, log);
    assert_eq!(all.consumer("all").unwrap().events, 0);
    for (name, consumer) in [
        ("inside", orders("inside").takes(is_taken)),
        (
            "outside",
            outside.settings(parking()).takes(is_taken).without_tx(),
        ),
    ] {
        let report = db.run_once(consumer).await;
        assert_eq!(db.parked(name).await, [log[0], log[2]], "{name}");
        assert_eq!(report.consumer(name).unwrap().events, 2, "{name}");
    }
    assert_eq!(db.applied("inside").await, [log[1], log[3]]);

    let repaired = read_model("inside").takes(is_taken);
    let admin = db.worker().consumer(repaired).admin().unwrap();
    let retried = admin.retry_parked("inside", None).await.unwrap();
    assert_eq!(retried.handled, 2, "{retried:?}");
    assert_eq!(db.parked("inside").await, [0; 0]);
    let mut once = db.applied("inside").await;
    once.sort_unstable();
    assert_eq!(once, log);
}

async fn the_thousand_and_first_parked_aggregate_stops_it<DB: TestDatabase>(db: Database<DB>) {
    db.execute("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 999)
        INSERT INTO consumer_parked (consumer, version, aggregate_type, aggregate_id, position, slice, reason, parked_at)
        SELECT 'c', 1, 'Old', 'o-' || i, -i, 0, 'failed', parked_at FROM n,
               (SELECT updated_at AS parked_at FROM consumer_progress UNION ALL SELECT applied_at FROM consumer_schema LIMIT 1) AS t").await;
    let positions = db.append("User", ["bad-1", "a", "bad-2", "b"]).await;
    let settings = impatient().retries(0).on_error(OnError::Park);
    let report = db
        .run_once(refusing("c", &["bad-1", "bad-2"]).settings(settings))
        .await;
    let ConsumerState::Stopped { position, error } = state(&report, "c") else {
        panic!("{report}")
    };
    assert_eq!(position, Some(positions[2]));
    assert!(error.contains("1000 aggregates are parked"), "{error}");
    assert_eq!(db.applied("c").await, [positions[1]]);
}

async fn a_failing_event_of_a_batch_handler_is_found_by_halving<DB: TestDatabase>(
    db: Database<DB>,
) {
    let positions = db.append_many(64).await;
    let bad = positions[42];
    let sizes = Arc::default();
    let settings = impatient().retries(1).on_error(OnError::Skip);
    let report = db
        .run_once(refusing_batches(move |position| position == bad, &sizes).settings(settings))
        .await;
    assert_eq!(state(&report, "batches"), ConsumerState::CaughtUp);
    let expected: Vec<i64> = positions
        .into_iter()
        .filter(|&position| position != bad)
        .collect();
    assert_eq!(db.applied("batches").await, expected);
    let calls = sizes.lock().unwrap().len();
    assert!(calls < 40, "64 events were handled in {calls} calls");
}

async fn all_failing_events_of_a_batch_handler_are_found<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append_many(50).await;
    let settings = impatient()
        .retries(0)
        .on_error(OnError::Skip)
        .batch_size(20);
    let sizes = Arc::default();
    db.run_once(refusing_batches(|position| position % 7 == 0, &sizes).settings(settings))
        .await;
    let expected: Vec<i64> = positions
        .into_iter()
        .filter(|position| position % 7 != 0)
        .collect();
    assert_eq!(db.applied("batches").await, expected);
}

async fn a_panic_counts_against_the_event<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "bad", "b"]).await;
    let c = judging("c", |_, event| {
        assert!(event.aggregate_id != "bad", "bad is refused");
        Ok(())
    });
    let settings = impatient().retries(1).on_error(OnError::Skip);
    let report = db.run_once(c.settings(settings)).await;
    assert_eq!(state(&report, "c"), ConsumerState::CaughtUp);
    assert_eq!(db.applied("c").await, [positions[0], positions[2]]);

    let c = judging("d", |_, _| panic!("always"));
    let report = db.run_once(c.settings(impatient().retries(0))).await;
    let ConsumerState::Stopped { error, .. } = state(&report, "d") else {
        panic!("{report}")
    };
    assert_eq!(error, "the handler panicked: always");
}

async fn an_effect_that_panics_does_not_stop_its_consumer<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "b"]).await;
    let c = consumer("c", |cx, tx: &mut DB::Connection, event| {
        cx.after_commit(async { panic!("after the commit") });
        Box::pin(async move { Ok(DB::apply(tx, "c", event).await?) })
    });
    let report = db
        .run_once(c.settings(Settings::default().batch_size(1)))
        .await;
    assert_eq!(state(&report, "c"), ConsumerState::CaughtUp);
    assert_eq!(db.applied("c").await, positions);
}

async fn a_decode_error_counts_against_the_event<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append_many(1).await;
    let c = judging("c", |_, event| {
        match event.json::<HashMap<String, String>>() {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error}: {}", error.source().unwrap())),
        }
    });
    let report = db.run_once(c.settings(impatient().retries(0))).await;
    let ConsumerState::Stopped { position, error } = state(&report, "c") else {
        panic!("{report}")
    };
    assert_eq!(position, Some(positions[0]));
    assert!(error.contains("expected a map"), "{error}");
    assert!(
        error.contains("the event `Changed`, version 1, at position 1"),
        "{error}"
    );
}

async fn a_failed_statement_that_was_ignored_voids_the_batch<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "bad", "b"]).await;
    let c = consumer("c", |_, tx: &mut DB::Connection, event| {
        Box::pin(async move {
            if event.aggregate_id == "bad" {
                let _ = DB::execute_sql(tx, "INSERT INTO no_such_table VALUES (1)").await;
                return Ok(());
            }
            Ok(DB::apply(tx, "c", event).await?)
        })
    });
    let report = db.run_once(c.settings(impatient().retries(0))).await;
    if DB::NAME == "SQLite" {
        // There a failed statement does not affect its transaction.
        assert_eq!(db.applied("c").await, [positions[0], positions[2]]);
    } else {
        let ConsumerState::Stopped { position, error } = state(&report, "c") else {
            panic!("{report}")
        };
        assert_eq!(position, Some(positions[1]), "{error}");
        assert!(
            error.contains("its error was not returned")
                || error.contains("current transaction is aborted"),
            "{error}"
        );
        assert_eq!(db.applied("c").await, [positions[0]]);
    }
}

async fn one_failing_consumer_of_five_does_not_slow_the_others<DB: TestDatabase>(db: Database<DB>) {
    let hour = Duration::from_hours(1);
    let names = ["a", "b", "c", "d"];
    let builder = names.iter().fold(db.worker(), |builder, name| {
        builder.consumer(read_model(name))
    });
    let poisoned = refusing("poisoned", &["bad"]).settings(Settings::default().backoff(hour, hour));
    let worker = Running::start(builder.consumer(poisoned));
    let mut positions = Vec::new();
    for round in 0..10 {
        let id = if round == 3 { "bad" } else { "good" };
        let head = db.append_one("User", id).await;
        positions.push(head);
        for name in names {
            patiently("it catches up", worker.consumer_caught_up_to(name, head))
                .await
                .unwrap();
        }
    }
    until("the other one waits for its next attempt", async || {
        let consumers = worker.consumers();
        let poisoned = consumers.iter().find(|one| &*one.id.name == "poisoned");
        poisoned.is_some_and(|one| matches!(one.state, ConsumerState::Retrying { .. }))
    })
    .await;
    let report = worker.stop().await;
    assert_eq!(state(&report, "poisoned"), ConsumerState::ShutDown);
    assert_eq!(db.applied("poisoned").await, positions[..3]);
    for name in names {
        assert_eq!(db.applied(name).await, positions);
    }
}

async fn any_mixture_of_failures_follows_the_policy<DB: TestDatabase>(db: Database<DB>) {
    let ids: Vec<String> = (0..200).map(|n| format!("u-{}", n * 7 % 31)).collect();
    let positions = db.append("User", &ids).await;
    for on_error in [OnError::Skip, OnError::Park] {
        for (seed, batch) in [(1_i64, 500), (2, 7), (3, 1), (4, 32)] {
            let name = format!("{on_error:?}-{seed}");
            let is_bad = move |position: i64| (position * (position + seed * 13)) % 11 == 3;
            let c = judging(&name, move |_, event| {
                if is_bad(event.global_position) {
                    Err("bad".to_owned())
                } else {
                    Ok(())
                }
            });
            db.run_once(c.settings(impatient().retries(0).on_error(on_error).batch_size(batch)))
                .await;

            let mut parked = HashSet::new();
            let (mut applied, mut aside) = (Vec::new(), Vec::new());
            for (position, id) in positions.iter().zip(&ids) {
                if parked.contains(id) {
                    aside.push(*position);
                } else if !is_bad(*position) {
                    applied.push(*position);
                } else if on_error == OnError::Park {
                    parked.insert(id);
                    aside.push(*position);
                }
            }
            assert_eq!(db.applied(&name).await, applied, "{name}");
            assert_eq!(db.parked(&name).await, aside, "{name}");
        }
    }
}

async fn errors_of_the_database_never_count_against_an_event<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "b", "c"]).await;
    let failures = Arc::new(AtomicU32::new(0));
    let left = Arc::clone(&failures);
    let c = consumer("c", move |cx, tx: &mut DB::Connection, event| {
        let failed = left.fetch_add(1, Ordering::SeqCst);
        let attempt = cx.attempt();
        Box::pin(async move {
            DB::apply(tx, "c", event).await?;
            assert_eq!(attempt, 1, "an attempt was counted");
            match failed {
                0 => Err(sqlx::Error::PoolTimedOut)?,
                1 => Err(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()))?,
                2 => Err(sqlx::Error::PoolClosed).map_err(|error| Wrapped { error })?,
                _ => {}
            }
            Ok(())
        })
    });
    // Not a single retry is allowed.
    let report = run_once(db.worker().consumer(c.settings(impatient().retries(0)))).await;
    assert_eq!(state(&report, "c"), ConsumerState::CaughtUp, "{report}");
    assert_eq!(db.applied("c").await, positions);
}

/// A user's error that wraps a database error.
#[derive(Debug)]
struct Wrapped {
    error: sqlx::Error,
}

impl std::fmt::Display for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the user could not be saved")
    }
}

impl std::error::Error for Wrapped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Runs a handler whose first call fails, without retries, and checks that this did not count.
async fn fails_once_without_counting(
    fail: impl for<'a> Fn(
        &'a mut sqlx::PgConnection,
    ) -> consumer_tests::Handled<'a, Result<(), HandlerError>>
    + Send
    + Sync
    + 'static,
) {
    let db = consumer_tests::Database::<sqlx::Postgres>::fresh().await;
    let positions = db.append("User", ["a", "b"]).await;
    let fail = Arc::new(fail);
    let calls = Arc::new(AtomicU32::new(0));
    let called = Arc::clone(&calls);
    let c = consumer("c", move |_, tx: &mut sqlx::PgConnection, event| {
        let (fail, first) = (
            Arc::clone(&fail),
            called.fetch_add(1, Ordering::SeqCst) == 0,
        );
        Box::pin(async move {
            sqlx::Postgres::apply(tx, "c", event).await?;
            if first {
                fail(tx).await?;
            }
            Ok(())
        })
    });
    let report = db.run_once(c.settings(impatient().retries(0))).await;
    assert_eq!(state(&report, "c"), ConsumerState::CaughtUp, "{report}");
    assert_eq!(db.applied("c").await, positions);
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

/// Errors of a handler's statement, by code and message, and whether they count as an attempt: those that are
/// about the server, the connection or other transactions do not.
const COUNTED: [(&str, &str, bool); 19] = [
    ("08006", "connection failure", false),
    ("40001", "could not serialize access", false),
    ("40P01", "deadlock detected", false),
    ("53300", "too many clients", false),
    ("57P01", "terminating connection", false),
    ("58030", "could not write", false),
    // What a pooler makes of the statements that sqlx prepares.
    (
        "42P05",
        "prepared statement \"sqlx_s_3\" already exists",
        false,
    ),
    (
        "26000",
        "prepared statement \"sqlx_s_3\" does not exist",
        false,
    ),
    ("26000", "prepared statement \"own\" does not exist", true),
    ("22012", "division by zero", true),
    ("23505", "duplicate key", true),
    // Of a table or a cursor, and not of the guard or a plan of the worker.
    ("0A000", "not supported", true),
    ("42704", "type does not exist", true),
    ("42501", "permission denied", true),
    ("25P02", "current transaction is aborted", true),
    // The handler's own time has run out.
    (
        "57014",
        "canceling statement due to statement timeout",
        true,
    ),
    ("25P03", "idle-in-transaction timeout", true),
    ("25P04", "transaction timeout", true),
    ("P0001", "raised", true),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_server_counts_by_its_code() {
    let db = Database::<sqlx::Postgres>::fresh().await;
    let position = db.append_one("User", "a").await;
    let mut worker = db.worker();
    for (index, (code, message, _)) in COUNTED.into_iter().enumerate() {
        let name: &'static str = format!("code_{index}").leak();
        let calls = AtomicU32::new(0);
        let raises = format!(
            "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = '{message}'; END $$"
        );
        let fails_once = consumer(name, move |_, tx: &mut sqlx::PgConnection, _| {
            let is_first = calls.fetch_add(1, Ordering::SeqCst) == 0;
            let raises = raises.clone();
            Box::pin(async move {
                if is_first {
                    sqlx::Postgres::execute_sql(tx, &raises).await?;
                }
                Ok(())
            })
        });
        worker = worker.consumer(fails_once.settings(impatient().retries(0)));
    }
    let report = run_once(worker).await;
    for (index, (code, message, is_counted)) in COUNTED.into_iter().enumerate() {
        let name = format!("code_{index}");
        let stopped = state(&report, &name) != ConsumerState::CaughtUp;
        assert_eq!(stopped, is_counted, "{code} {message}: {report}");
        let expected = (!is_counted).then_some(position);
        assert_eq!(
            db.checkpoint(&name).await.filter(|&at| at > 0),
            expected,
            "{code}"
        );
    }
}

/// None of them is about the file, the connection or the worker's own statements.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_sqlite_counts_with_its_own_text() {
    let db = Database::<sqlx::Sqlite>::fresh().await;
    db.execute(
        "CREATE TABLE seats (id INTEGER PRIMARY KEY CHECK (id > 0)); INSERT INTO seats VALUES (1)",
    )
    .await;
    db.append_one("User", "a").await;
    let fails = [
        (
            "unique",
            "INSERT INTO seats VALUES (1)",
            "UNIQUE constraint failed: seats.id",
        ),
        (
            "check",
            "INSERT INTO seats VALUES (0)",
            "CHECK constraint failed: id > 0",
        ),
        (
            "table",
            "INSERT INTO chairs VALUES (1)",
            "no such table: chairs",
        ),
        ("syntax", "INSERT seats", "near \"seats\": syntax error"),
    ];
    let mut worker = db.worker();
    for (name, sql, _) in fails {
        let fails = consumer(name, move |_, tx: &mut sqlx::SqliteConnection, _| {
            Box::pin(async move { Ok(sqlx::Sqlite::execute_sql(tx, sql).await?) })
        });
        worker = worker.consumer(fails.settings(impatient().retries(0)));
    }
    let report = run_once(worker).await;
    for (name, _, text) in fails {
        match state(&report, name) {
            ConsumerState::Stopped { error, .. } => {
                // Nothing before or after it says that a time has run out.
                let has_ends =
                    error.starts_with("error returned from database") && error.ends_with(text);
                assert!(has_ends, "{error}");
            }
            other => panic!("{name} is {other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_backend_does_not_count_as_an_attempt() {
    fails_once_without_counting(|tx| {
        Box::pin(async move {
            sqlx::query("SELECT pg_terminate_backend(pg_backend_pid())")
                .execute(tx)
                .await?;
            Ok(())
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_error_is_recognised_through_anyhow() {
    fails_once_without_counting(|tx| {
        Box::pin(async move {
            async fn save(tx: &mut sqlx::PgConnection) -> anyhow::Result<()> {
                sqlx::query(
                    "DO $$ BEGIN RAISE EXCEPTION 'try again' USING ERRCODE = '40001'; END $$",
                )
                .execute(tx)
                .await?;
                Ok(())
            }
            save(tx).await?;
            Ok(())
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_error_is_recognised_through_anyhow_context() {
    fails_once_without_counting(|tx| {
        Box::pin(async move {
            use anyhow::Context as _;
            let saved =
                sqlx::query("DO $$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = '53100'; END $$")
                    .execute(tx)
                    .await
                    .context("save the user")
                    .context("handle the event");
            saved?;
            Ok(())
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_timeout_of_the_handler_counts_as_an_attempt() {
    let db = consumer_tests::Database::<sqlx::Postgres>::fresh().await;
    db.append("User", ["a"]).await;
    let c = consumer("c", |_, tx: &mut sqlx::PgConnection, _| {
        Box::pin(async move {
            sqlx::raw_sql("SET LOCAL statement_timeout = 1; SELECT pg_sleep(60)")
                .execute(tx)
                .await?;
            Ok(())
        })
    });
    let report = db.run_once(c.settings(impatient().retries(1))).await;
    assert!(
        matches!(state(&report, "c"), ConsumerState::Stopped { .. }),
        "{report}"
    );
}
