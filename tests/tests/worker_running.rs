//! The context of a handler, the end of a worker, and the reasons why one refuses to start.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use consumer::{
    BuildError, ConsumerState, EventStore, ExpectedVersion, LogProblem, NewEvent, Settings,
    StoreError, WaitError, Worker, WorkerError,
};
use consumer_tests::{
    Database, Running, TestDatabase, consumer, impatient, judging, patiently, read_model, run_once,
    test_on, until,
};
use sqlx::{Postgres, Sqlite};
use tokio::sync::Notify;

/// Name, version, position, head, and whether it is a replay.
type Known = (String, u32, Option<i64>, i64, bool);

type Tx<DB> = <DB as sqlx::Database>::Connection;

/// A statement that never ends.
fn endless<DB: TestDatabase>() -> &'static str {
    if DB::NAME == "SQLite" {
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    } else {
        "SELECT pg_sleep(1000000)"
    }
}

fn state(report: &consumer::Report, name: &str) -> ConsumerState {
    report.consumer(name).unwrap().state.clone()
}

test_on!(
    [sqlite, postgres, through_a_pooler],
    a_handler_knows_its_consumer_its_event_and_the_head,
    only_events_up_to_the_end_of_a_replay_are_replays,
    effects_follow_the_commit_in_order_and_no_rollback,
    what_a_handler_appends_names_its_cause,
    a_handler_hanging_in_a_statement_times_out_and_fails,
    a_handler_that_hangs_elsewhere_is_ended_too,
    a_batch_that_runs_out_of_time_ends_after_an_event,
    a_shutdown_finishes_and_saves_the_current_event,
    a_shutdown_past_its_deadline_gives_up_what_is_not_committed,
    a_shutdown_ends_consumers_in_every_state,
    a_shutdown_at_any_moment_of_the_start_is_no_failure,
    run_once_handles_what_was_there_at_the_call_and_ends,
    after_caught_up_to_the_read_model_can_be_read,
    waiting_for_a_stopped_consumer_ends_with_the_reason,
    a_consumer_that_starts_from_now_leaves_out_what_was_there,
    a_changed_scope_is_refused_until_it_is_accepted,
    a_checkpoint_without_a_consumer_is_reported,
    an_idle_checkpoint_is_advanced,
    names_that_cannot_key_a_checkpoint_are_refused,
    r1_two_consumers_with_one_name_are_both_named,
    all_problems_of_a_worker_are_reported_at_once,
    problems_of_the_registry_are_reported_with_the_others,
    a_worker_without_consumers_is_refused
);

// Context

async fn a_handler_knows_its_consumer_its_event_and_the_head<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "b"]).await;
    let seen: Arc<Mutex<Vec<Known>>> = Arc::default();
    let sink = Arc::clone(&seen);
    let c = consumer("c", move |cx, _: &mut Tx<DB>, _| {
        let known = (
            cx.consumer().to_owned(),
            cx.version(),
            cx.current_position(),
            cx.head(),
            cx.is_replay(),
        );
        sink.lock().unwrap().push(known);
        Box::pin(async { Ok(()) })
    });
    db.run_once(c).await;
    let known = |position| ("c".to_owned(), 1, Some(position), positions[1], false);
    assert_eq!(
        *seen.lock().unwrap(),
        [known(positions[0]), known(positions[1])]
    );
}

async fn only_events_up_to_the_end_of_a_replay_are_replays<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "b", "c", "d"]).await;
    let seen: Arc<Mutex<Vec<(i64, bool)>>> = Arc::default();
    let c = |seen: &Arc<Mutex<Vec<(i64, bool)>>>| {
        let sink = Arc::clone(seen);
        consumer("c", move |cx, _: &mut Tx<DB>, event| {
            sink.lock()
                .unwrap()
                .push((event.global_position, cx.is_replay()));
            Box::pin(async { Ok(()) })
        })
    };
    db.run_once(c(&seen)).await;
    seen.lock().unwrap().clear();
    // As a rebuild does after the second event.
    db.execute(&format!(
        "INSERT INTO consumer_handled (consumer, scope, slice_from, slice_to, after, up_to)
         VALUES ('c', '', 0, 1024, 0, {});
         UPDATE consumer_progress SET position = 0, epoch = epoch + 1",
        positions[1]
    ))
    .await;
    db.run_once(c(&seen)).await;
    let expected: Vec<_> = positions
        .iter()
        .map(|&position| (position, position <= positions[1]))
        .collect();
    assert_eq!(*seen.lock().unwrap(), expected);
}

async fn effects_follow_the_commit_in_order_and_no_rollback<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a", "shy", "b"]).await;
    let effects: Arc<Mutex<Vec<(i64, usize)>>> = Arc::default();
    let (sink, pool) = (Arc::clone(&effects), db.pool.clone());
    let c = judging("c", move |cx, event| {
        let (sink, pool, position) = (Arc::clone(&sink), pool.clone(), event.global_position);
        cx.after_commit(async move {
            let mut connection = pool.acquire().await.unwrap();
            let rows = DB::numbers(&mut connection, "SELECT position FROM applied")
                .await
                .unwrap();
            assert!(
                rows.contains(&position),
                "the effect of {position} came before its commit"
            );
            sink.lock().unwrap().push((position, rows.len()));
        });
        if event.aggregate_id == "shy" && cx.attempt() < 2 {
            Err("not yet".to_owned())
        } else {
            Ok(())
        }
    });
    db.run_once(c.settings(impatient())).await;
    let positions: Vec<i64> = effects
        .lock()
        .unwrap()
        .iter()
        .map(|(position, _)| *position)
        .collect();
    assert_eq!(
        positions,
        db.applied("c").await,
        "each once, though one was tried twice"
    );
}

async fn what_a_handler_appends_names_its_cause<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    let store = db.store.clone();
    let c = consumer("c", move |_, tx: &mut Tx<DB>, event| {
        let store = store.clone();
        let reacts = &*event.aggregate_type == "User";
        Box::pin(async move {
            if reacts {
                let reaction = NewEvent::new("Mail", "m-1", "Sent", "{}");
                store
                    .append_in(tx, ExpectedVersion::NoStream, &[reaction])
                    .await?;
            }
            Ok(())
        })
    });
    db.run_once(c).await;
    let cause = db
        .texts("SELECT CAST(causation_id AS TEXT) FROM events WHERE aggregate_type = 'Mail'")
        .await;
    assert_eq!(cause.len(), 1);
    let mut connection = db.pool.acquire().await.unwrap();
    let events = db.store.read_events(&mut connection, 0, 10).await.unwrap();
    assert_eq!(cause[0], events[0].event_id.to_string());
}

async fn a_handler_hanging_in_a_statement_times_out_and_fails<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "hangs", "b"]).await;
    let calls = Arc::new(AtomicU32::new(0));
    let called = Arc::clone(&calls);
    let c = consumer("c", move |_, tx: &mut Tx<DB>, event| {
        let called = Arc::clone(&called);
        Box::pin(async move {
            DB::apply(tx, "c", event).await?;
            if event.aggregate_id == "hangs" {
                called.fetch_add(1, Ordering::SeqCst);
                DB::execute_sql(tx, endless::<DB>()).await?;
            }
            Ok(())
        })
    });
    let settings = impatient()
        .retries(1)
        .handler_timeout(Duration::from_secs(1));
    let report = db.run_once(c.settings(settings)).await;
    let ConsumerState::Stopped { position, error } = state(&report, "c") else {
        panic!("{report}")
    };
    assert_eq!(
        (position, calls.load(Ordering::SeqCst)),
        (Some(positions[1]), 2),
        "{error}"
    );
    assert!(
        error.contains("took longer than its `handler_timeout` of 1s"),
        "{error}"
    );
    assert_eq!(db.applied("c").await, positions[..1]);
    // Nothing is left that would block another worker.
    let report = db.run_once(read_model("c")).await;
    assert_eq!(state(&report, "c"), ConsumerState::CaughtUp);
    assert_eq!(db.applied("c").await, positions);
}

async fn a_handler_that_hangs_elsewhere_is_ended_too<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["hangs"]).await;
    for tx in [true, false] {
        let name = format!("c-{tx}");
        let c = consumer(&name, |_, _: &mut Tx<DB>, _| {
            Box::pin(std::future::pending())
        });
        let settings = impatient()
            .retries(0)
            .handler_timeout(Duration::from_millis(50));
        let c = c.settings(settings);
        let report = db.run_once(if tx { c } else { c.without_tx() }).await;
        let ConsumerState::Stopped { error, .. } = state(&report, &name) else {
            panic!("{report}")
        };
        assert!(error.contains("handler_timeout"), "{error}");
    }
}

async fn a_batch_that_runs_out_of_time_ends_after_an_event<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append_many(3).await;
    let c = consumer("c", |_, tx: &mut Tx<DB>, event| {
        Box::pin(async move {
            DB::apply(tx, "c", event).await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(())
        })
    });
    let report = db
        .run_once(c.settings(Settings::default().batch_time(Duration::from_millis(1))))
        .await;
    assert_eq!(report.consumer("c").unwrap().batches, 3);
    assert_eq!(db.applied("c").await, positions);
}

// Shutdown

async fn a_shutdown_finishes_and_saves_the_current_event<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append_many(2_000).await;
    let entered = Arc::new(Notify::new());
    let (go_on, gate) = tokio::sync::watch::channel(false);
    let tell = Arc::clone(&entered);
    let c = consumer("c", move |_, tx: &mut Tx<DB>, event| {
        let (tell, mut gate) = (Arc::clone(&tell), gate.clone());
        Box::pin(async move {
            DB::apply(tx, "c", event).await?;
            tell.notify_one();
            gate.wait_for(|open| *open).await?;
            Ok(())
        })
    });
    let c = c.settings(
        Settings::default()
            .batch_size(2_000)
            .batch_time(Duration::from_hours(1)),
    );
    let worker = Running::start(db.worker().consumer(c));
    patiently("the handler is called", entered.notified()).await;
    worker.shut_down();
    go_on.send_replace(true);
    let report = patiently("it ends", worker.stop()).await;
    assert_eq!(state(&report, "c"), ConsumerState::ShutDown);
    assert!(!report.has_failures());
    // A handler that never has to wait for its database is on its way to later events by now.
    let applied = db.applied("c").await;
    assert!(
        (1..2_000).contains(&applied.len()),
        "{} of 2,000",
        applied.len()
    );
    assert!(positions.starts_with(&applied));
    assert_eq!(db.checkpoint("c").await, applied.last().copied());
}

async fn a_shutdown_past_its_deadline_gives_up_what_is_not_committed<DB: TestDatabase>(
    db: Database<DB>,
) {
    let positions = db.append_many(2).await;
    let entered = Arc::new(Notify::new());
    let tell = Arc::clone(&entered);
    let c = consumer("c", move |_, tx: &mut Tx<DB>, event| {
        let tell = Arc::clone(&tell);
        Box::pin(async move {
            DB::apply(tx, "c", event).await?;
            tell.notify_one();
            std::future::pending().await
        })
    });
    let worker = Running::start(
        db.worker()
            .shutdown_deadline(Duration::from_millis(50))
            .consumer(c),
    );
    patiently("the handler is called", entered.notified()).await;
    let report = patiently("it ends", worker.stop()).await;
    assert_eq!(state(&report, "c"), ConsumerState::ShutDown);
    db.run_once(read_model("c")).await;
    assert_eq!(db.applied("c").await, positions);
}

async fn a_shutdown_ends_consumers_in_every_state<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["bad"]).await;
    let hour = Duration::from_hours(1);
    let refuse = |name| judging(name, |_, _| Err("no".to_owned()));
    let worker = Running::start(
        db.worker()
            .consumer(read_model("idle"))
            .consumer(refuse("retrying").settings(Settings::default().backoff(hour, hour)))
            .consumer(refuse("stopped").settings(impatient().retries(0)))
            .consumer(read_model("paused")),
    );
    until("the rows are there", async || {
        db.checkpoint("paused").await.is_some()
    })
    .await;
    db.execute("UPDATE consumer_progress SET state = 'paused' WHERE consumer = 'paused'")
        .await;
    until("each waits for its own", async || {
        worker.consumers().iter().all(|one| match &*one.id.name {
            "idle" => one.state == ConsumerState::Running,
            "retrying" => matches!(one.state, ConsumerState::Retrying { .. }),
            "stopped" => matches!(one.state, ConsumerState::Stopped { .. }),
            _ => one.state == ConsumerState::Paused,
        })
    })
    .await;
    let report = patiently("it ends", worker.stop()).await;
    assert!(matches!(
        state(&report, "stopped"),
        ConsumerState::Stopped { .. }
    ));
    assert_eq!(state(&report, "paused"), ConsumerState::Paused);
    let text = report.to_string();
    assert!(text.contains("stopped: stopped before event"), "{text}");
}

async fn a_shutdown_at_any_moment_of_the_start_is_no_failure<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    for mut polls in 0..20 {
        let shutdown = poll_fn(move |cx| {
            if polls == 0 {
                return Poll::Ready(());
            }
            polls -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        let worker = db.worker().consumer(read_model("c")).build().unwrap();
        let report = patiently("it ends", worker.run(shutdown)).await.unwrap();
        assert!(!report.has_failures(), "{report}");
    }
}

async fn run_once_handles_what_was_there_at_the_call_and_ends<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "b"]).await;
    let store = db.store.clone();
    let c = consumer("c", move |_, tx: &mut Tx<DB>, event| {
        let store = store.clone();
        Box::pin(async move {
            // It would never end if it also handled these.
            let next = NewEvent::new("User", "more", "Changed", "{}");
            store.append_in(tx, ExpectedVersion::Any, &[next]).await?;
            Ok(DB::apply(tx, "c", event).await?)
        })
    });
    let report = db
        .run_once(c.settings(Settings::default().batch_size(1)))
        .await;
    assert_eq!(state(&report, "c"), ConsumerState::CaughtUp);
    assert!(db.applied("c").await.starts_with(&positions));
}

async fn after_caught_up_to_the_read_model_can_be_read<DB: TestDatabase>(db: Database<DB>) {
    let worker = Running::start(
        db.worker()
            .consumer(read_model("every"))
            .scoped_consumer(read_model("orders").scope(&["Order"])),
    );
    for _ in 0..20 {
        let position = db.append_one("User", "a").await;
        patiently(
            "every gets there",
            worker.consumer_caught_up_to("every", position),
        )
        .await
        .unwrap();
        assert_eq!(db.applied("every").await.last(), Some(&position));
        // Nothing in its scope lies before that position.
        patiently("orders get there", worker.caught_up_to(position))
            .await
            .unwrap();
    }
    worker.stop().await;
    assert_eq!(db.applied("orders").await, [] as [i64; 0]);
}

async fn waiting_for_a_stopped_consumer_ends_with_the_reason<DB: TestDatabase>(db: Database<DB>) {
    let position = db.append_one("User", "bad").await;
    let c = judging("c", |_, _| Err("no".to_owned()));
    let worker = Running::start(db.worker().consumer(c.settings(impatient().retries(0))));
    let error = patiently("it says so", worker.caught_up_to(position))
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            WaitError::NotRunning {
                state: ConsumerState::Stopped { .. },
                ..
            }
        ),
        "{error}"
    );
    let error = worker.consumer_caught_up_to("d", 1).await.unwrap_err();
    assert_eq!(error.to_string(), "the worker has no consumer `d`");
    worker.stop().await;
}

async fn a_consumer_that_starts_from_now_leaves_out_what_was_there<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append("User", ["a", "b"]).await;
    let now = Settings::default().start_from(consumer::StartFrom::Now);
    let worker = Running::start(db.worker().consumer(read_model("c").settings(now)));
    until("it has a checkpoint", async || {
        db.checkpoint("c").await.is_some()
    })
    .await;
    let later = db.append("User", ["c"]).await;
    patiently("it catches up", worker.caught_up_to(later[0]))
        .await
        .unwrap();
    worker.stop().await;
    assert_eq!(db.applied("c").await, later);
}

async fn a_changed_scope_is_refused_until_it_is_accepted<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    run_once(
        db.worker()
            .scoped_consumer(read_model("c").scope(&["User"])),
    )
    .await;
    db.append("Order", ["a"]).await;
    let report = run_once(
        db.worker()
            .scoped_consumer(read_model("c").scope(&["User", "Order"])),
    )
    .await;
    let text = report.to_string();
    assert!(
        matches!(state(&report, "c"), ConsumerState::ScopeChanged { .. }),
        "{text}"
    );
    assert_eq!(
        text,
        "\
c: refused: its checkpoint was reached with the scope [User], but the code has [Order, User]; \
rebuild it, or accept the new scope, 0 events handled
"
    );
    assert_eq!(db.applied("c").await, [1]);
}

async fn a_checkpoint_without_a_consumer_is_reported<DB: TestDatabase>(db: Database<DB>) {
    db.run_once(consumer("renamed", |_, _: &mut Tx<DB>, _| {
        Box::pin(async { Ok(()) })
    }))
    .await;
    let report = db
        .run_once(consumer("new_name", |_, _: &mut Tx<DB>, _| {
            Box::pin(async { Ok(()) })
        }))
        .await;
    assert_eq!(report.detached, ["renamed"]);
}

async fn an_idle_checkpoint_is_advanced<DB: TestDatabase>(db: Database<DB>) {
    let head = db.append("Order", ["a", "b"]).await[1];
    run_once(
        db.worker()
            .scoped_consumer(read_model("c").scope(&["User"])),
    )
    .await;
    assert_eq!(db.checkpoint("c").await, Some(head));
}

// Refusals at start

async fn names_that_cannot_key_a_checkpoint_are_refused<DB: TestDatabase>(db: Database<DB>) {
    for name in ["", " ", " c", "a b", &"x".repeat(300)] {
        let error = db.worker().consumer(read_model(name)).build().unwrap_err();
        assert!(matches!(error, BuildError::Name(_)), "{name:?}: {error}");
    }
    let error = db.worker().consumer(read_model("")).build().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the consumer name is empty: choose a unique one, such as `user_read_model`",
    );
}

async fn r1_two_consumers_with_one_name_are_both_named<DB: TestDatabase>(db: Database<DB>) {
    let declared = || {
        let mut registered = consumer::Registered::new(read_model::<DB>("users"));
        registered.declaration.site = Some(consumer::Site {
            package: "shop",
            module: "shop::users",
            file: "src/users.rs",
            line: 7,
            column: 5,
        });
        registered
    };
    let error = db
        .worker()
        .registered(declared())
        .consumer(read_model("users"))
        .build()
        .unwrap_err();
    assert!(
        matches!(&error, BuildError::NameTaken(taken) if &*taken.consumer.name == "users"),
        "{error}"
    );
    assert_eq!(
        error.to_string(),
        "two consumers are named `users`: src/users.rs:7:5 (shop::users) and added by hand; \
         a name keys a checkpoint, so rename one of them"
    );
}

async fn all_problems_of_a_worker_are_reported_at_once<DB: TestDatabase>(db: Database<DB>) {
    let error = db
        .worker()
        .consumer(read_model(""))
        .consumer(read_model("a b"))
        .consumer(read_model("twice"))
        .consumer(read_model("twice"))
        .consumer(read_model("thrice"))
        .consumer(read_model("thrice"))
        .configure("twise", |settings| settings)
        .configure("twice", |settings| settings)
        .configure("none", |settings| settings)
        .build()
        .unwrap_err();
    let BuildError::Several(problems) = &error else {
        panic!("{error}")
    };
    assert_eq!(problems.len(), 6, "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with("6 problems with the worker:\n- "),
        "{text}"
    );
    for line in [
        "\n- there is no consumer `twise` to configure",
        "\n- there is no consumer `none` to configure",
        "\n- the consumer name is empty",
        "\n- the consumer name `a b` has the character ' '",
        "\n- two consumers are named `thrice`",
        "\n- two consumers are named `twice`",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

async fn problems_of_the_registry_are_reported_with_the_others<DB: TestDatabase>(db: Database<DB>) {
    let worker = db
        .worker()
        .consumer(read_model(""))
        .configure("of_no_group", |settings| settings);
    let error = worker.discover_group("no such group").build().unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(&error, BuildError::Several(problems) if problems.len() == 2),
        "{text}"
    );
    assert!(
        text.contains("\n- no consumer is in the group `no such group`"),
        "{text}"
    );
    assert!(text.contains("\n- the consumer name is empty"), "{text}");
    assert!(!text.contains("of_no_group"), "{text}");
}

async fn a_worker_without_consumers_is_refused<DB: TestDatabase>(db: Database<DB>) {
    let error = db.worker().build().unwrap_err();
    assert!(
        error
            .to_string()
            .contains("declare one with `#[consumer(…)]`"),
        "{error}"
    );
    let error = db
        .worker()
        .consumer(read_model("users"))
        .configure("user", |settings| settings)
        .build()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no consumer `user` to configure; the worker has: users"
    );
}

/// Positions are never reused, so missing events are not a reset.
#[tokio::test(flavor = "multi_thread")]
async fn the_newest_events_can_be_archived_on_sqlite() {
    let db = Database::<Sqlite>::fresh().await;
    let mut positions = db.append("User", ["a", "b", "c"]).await;
    let worker = Running::start(db.worker().consumer(read_model("c")));
    patiently("it catches up", worker.caught_up())
        .await
        .unwrap();
    let is = |state: ConsumerState| worker.consumers()[0].state == state;
    db.execute(
        "BEGIN; DELETE FROM events WHERE global_position > 1;
         UPDATE consumer_progress SET state = 'paused'; COMMIT",
    )
    .await;
    until("it has looked", async || is(ConsumerState::Paused)).await;
    db.execute("UPDATE consumer_progress SET state = 'running'")
        .await;
    until("it has looked again", async || is(ConsumerState::Running)).await;
    positions.extend(db.append("User", ["d"]).await);
    patiently("it continues", worker.caught_up_to(positions[3]))
        .await
        .unwrap();
    worker.stop().await;

    db.execute("DELETE FROM events WHERE global_position > 1")
        .await;
    db.run_once(read_model("c")).await;
    positions.extend(db.append("User", ["e"]).await);
    db.run_once(read_model("c")).await;
    assert_eq!(positions, [1, 2, 3, 4, 5]);
    assert_eq!(db.applied("c").await, positions);
}

/// The control: here a position is reused, and its event would never be handled.
async fn a_reset_log_is_refused<DB: TestDatabase>(reset: &str) {
    let db = Database::<DB>::fresh().await;
    // One event: of the sequence that was reset only `is_called` tells that it was.
    db.append("User", ["a"]).await;
    let worker = Running::start(db.worker().consumer(read_model("c")));
    patiently("it catches up", worker.caught_up())
        .await
        .unwrap();
    db.execute(reset).await;
    let error = worker.end().await.unwrap_err();
    let is_reset = |error: &WorkerError| {
        let WorkerError::Log(LogProblem::Reset {
            position,
            last_value,
            ..
        }) = error
        else {
            panic!("{error}");
        };
        (*position, *last_value)
    };
    assert_eq!(is_reset(&error), (1, 0));
    let worker = db.worker().consumer(read_model("c")).build().unwrap();
    let error = worker.run_once().await.unwrap_err();
    assert_eq!(is_reset(&error), (1, 0));
    assert!(
        error.to_string().contains("the checkpoint of `c`"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_reset_is_refused_on_sqlite() {
    a_reset_log_is_refused::<Sqlite>("DELETE FROM events; DELETE FROM sqlite_sequence").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_reset_is_refused_on_postgres() {
    a_reset_log_is_refused::<Postgres>("TRUNCATE events RESTART IDENTITY").await;
}

/// Compatible servers may report such versions too.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_could_lose_events_is_refused() {
    let db = Database::<Postgres>::fresh().await;
    let pretend = |number: &str, version: &str| {
        let name = db.url.rsplit('/').next().unwrap();
        format!(
            "CREATE SCHEMA IF NOT EXISTS pretended;
             CREATE OR REPLACE FUNCTION pretended.current_setting(text) RETURNS text LANGUAGE sql
             AS $$ SELECT CASE $1 WHEN 'server_version_num' THEN '{number}' ELSE '{version}' END $$;
             ALTER DATABASE {name} SET search_path = pretended, pg_catalog, public"
        )
    };
    for (number, version) in [("120022", "12.22"), ("130004", "13.4"), ("140000", "14.0")] {
        db.execute(&pretend(number, version)).await;
        let store = EventStore::<Postgres>::connect(&db.url).await.unwrap();
        let worker = Worker::builder(store.clone()).consumer(read_model("c"));
        let run = worker.build().unwrap().run_once().await.unwrap_err();
        let WorkerError::Store(run) = run else {
            panic!("{run}");
        };
        for error in [
            store.migrate().await.unwrap_err(),
            store.check().await.unwrap_err(),
            run,
        ] {
            assert!(
                matches!(error, StoreError::ServerTooOld { .. }),
                "{error:?}"
            );
            let text = error.to_string();
            assert!(
                text.starts_with(&format!("the server is PostgreSQL {version}, and events")),
                "{text}"
            );
            assert!(text.ends_with("or at least to 13.5"), "{text}");
        }
    }
    db.execute(&pretend("130005", "13.5")).await;
    let store = EventStore::<Postgres>::connect(&db.url).await.unwrap();
    store.migrate().await.unwrap();
    store.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_to_one_partition_of_the_events_is_seen() {
    let db = Database::<Postgres>::empty().await;
    let schema = consumer::Schema::default();
    db.execute(
        "CREATE SEQUENCE positions;
         CREATE TABLE events (
             global_position BIGINT NOT NULL DEFAULT nextval('positions'),
             aggregate_type TEXT NOT NULL, aggregate_id TEXT NOT NULL,
             aggregate_version BIGINT NOT NULL, event_id UUID NOT NULL, event_type TEXT NOT NULL,
             event_version INT NOT NULL DEFAULT 1, payload BYTEA NOT NULL, trace_id TEXT,
             correlation_id TEXT, causation_id TEXT, metadata JSONB,
             created_at TIMESTAMPTZ NOT NULL DEFAULT now()
         ) PARTITION BY RANGE (global_position);
         CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (1) TO (100)",
    )
    .await;
    let store = db.store.clone().with_schema(schema).unwrap();
    store.migrate().await.unwrap();
    let worker = || Worker::builder(store.clone()).consumer(read_model("c"));
    run_once(worker()).await;
    db.execute(
        "CREATE SUBSCRIPTION to_a_partition CONNECTION 'host=nowhere' PUBLICATION events
         WITH (connect = false, slot_name = NONE);
         INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)
         SELECT oid, 'events_1'::regclass, 'r' FROM pg_subscription WHERE subname = 'to_a_partition'",
    )
    .await;
    let error = worker().build().unwrap().run_once().await.unwrap_err();
    db.execute("DROP SUBSCRIPTION to_a_partition").await;
    assert!(
        matches!(&error, WorkerError::Log(LogProblem::ReplicationTarget)),
        "{error}"
    );
}

/// A separate store, as in another process, whose connections have their own name.
async fn store_called(db: &Database<Postgres>, name: &str) -> EventStore<Postgres> {
    let options: sqlx::postgres::PgConnectOptions = db.url.parse().unwrap();
    let pool = sqlx::PgPool::connect_with(options.application_name(name)).await;
    EventStore::new(pool.unwrap())
}

/// The milliseconds since the connections of a store last ran a statement.
async fn quiet(db: &Database<Postgres>, name: &str) -> i64 {
    let sql = format!(
        "SELECT (extract(epoch FROM clock_timestamp() - max(query_start)) * 1000)::bigint
           FROM pg_stat_activity WHERE application_name = '{name}'"
    );
    db.number(&sql).await
}

/// Appends while no worker polls, and returns once that has woken the worker `listening` but not
/// `deaf`.
///
/// An idle worker doubles its wait between two polls, starting at a millisecond, whatever its poll
/// interval is. One that has been quiet for more than 2,048 ms polls again after 4,096.
async fn is_woken_by_an_append(db: &Database<Postgres>, appender: &Database<Postgres>) {
    const QUIET: i64 = 2_100;
    const NEXT_LOOK: u128 = 4_096;
    const ROUNDS: u32 = 20;
    for _ in 0..ROUNDS {
        until("it is quiet", async || quiet(db, "listening").await > QUIET).await;
        let started = std::time::Instant::now();
        let before = u128::try_from(quiet(db, "listening").await).unwrap();
        let position = appender.append_one("User", "u-1").await;
        until("it has handled the event", async || {
            db.checkpoint("listening").await == Some(position)
        })
        .await;
        // A round in which either may have polled proves nothing.
        let woken = before + started.elapsed().as_millis() < NEXT_LOOK;
        if woken && db.checkpoint("deaf").await < Some(position) {
            return;
        }
    }
    panic!("in {ROUNDS} rounds no append woke this worker alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_wakes_a_worker_that_listens() {
    const LISTENERS: &str = "SELECT pid::bigint FROM pg_stat_activity
        WHERE application_name = 'listening' AND query ILIKE 'LISTEN %'";
    let db = Database::<Postgres>::fresh().await;
    let appender = EventStore::<Postgres>::connect(&db.url)
        .await
        .unwrap()
        .notify(true);
    let appender = Database::of(appender, &db.url);
    let hour = Duration::from_hours(1);
    let worker = async |name: &str| {
        let worker = Worker::builder(store_called(&db, name).await);
        worker.poll_interval(hour).consumer(read_model(name))
    };
    let listening = Running::start(worker("listening").await.listen());
    let deaf = Running::start(worker("deaf").await);
    for running in [&listening, &deaf] {
        patiently("it starts", running.caught_up()).await.unwrap();
    }
    until("it listens", async || {
        db.numbers(LISTENERS).await.len() == 1
    })
    .await;
    is_woken_by_an_append(&db, &appender).await;

    let before = db.number(LISTENERS).await;
    db.execute(&format!("SELECT pg_terminate_backend({before})"))
        .await;
    until("it listens again", async || {
        let now = db.numbers(LISTENERS).await;
        now.len() == 1 && now != [before]
    })
    .await;
    is_woken_by_an_append(&db, &appender).await;

    // The control works once it is woken.
    patiently("it catches up", deaf.caught_up()).await.unwrap();
    assert_eq!(
        db.applied("deaf").await,
        db.applied("listening").await,
        "both have handled the same"
    );
    listening.stop().await;
    deaf.stop().await;
}

async fn without_tables<DB: TestDatabase>() {
    let db = Database::<DB>::empty().await;
    let worker = db.worker().consumer(read_model("c")).build().unwrap();
    let error = patiently("it refuses", worker.run_once())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, WorkerError::Store(StoreError::NotMigrated { .. })),
        "{error:?}"
    );
    assert!(error.to_string().contains("call `migrate()`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_the_tables_is_refused_on_sqlite() {
    without_tables::<Sqlite>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_the_tables_is_refused_on_postgres() {
    without_tables::<Postgres>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_server_at_start_says_what_to_check() {
    let pool = sqlx::postgres::PgPoolOptions::new()
        .acquire_timeout(Duration::from_millis(200))
        .connect_lazy("postgres://nobody@127.0.0.1:1/nothing")
        .unwrap();
    let worker = Worker::builder(EventStore::new(pool))
        .consumer(read_model("c"))
        .build()
        .unwrap();
    let error = patiently("it refuses", worker.run_once())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("check that"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_too_small_is_refused() {
    let db = Database::<Postgres>::fresh().await;
    for (max, refused) in [(1, true), (2, true), (3, false)] {
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(max)
            .connect(&db.url)
            .await
            .unwrap();
        let builder = Worker::builder(EventStore::new(pool));
        let built = builder.consumer(read_model("c")).build();
        assert_eq!(
            matches!(built, Err(BuildError::PoolTooSmall { .. })),
            refused,
            "{max}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_consumers_share_a_pool_of_five_connections() {
    let db = Database::<Postgres>::fresh().await;
    let positions = db.append_many(50).await;
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(5)
        .connect(&db.url)
        .await
        .unwrap();
    let names: Vec<String> = (0..10).map(|n| format!("c-{n}")).collect();
    let builder = names.iter().enumerate().fold(
        Worker::builder(EventStore::new(pool)),
        |builder, (n, name)| {
            let consumer = read_model(name);
            builder.consumer(if n % 3 == 0 {
                consumer.without_tx()
            } else {
                consumer
            })
        },
    );
    run_once(builder.configure_all(|settings| settings.batch_size(10))).await;
    for name in &names {
        assert_eq!(db.applied(name).await, positions, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_a_worker_whose_database_is_gone() {
    let server = consumer_tests::TestPostgres::builder().start();
    let db = Database::on(&server).await;
    let worker = Running::start(db.worker().consumer(read_model("c")));
    patiently("it starts", worker.caught_up()).await.unwrap();
    server.crash();
    let report = patiently("it ends", worker.stop()).await;
    assert_eq!(report.consumers.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_worker_returns_its_connections() {
    let db = Database::<Postgres>::fresh().await;
    let worker = Running::start(db.worker().consumer(read_model("c")));
    patiently("it starts", worker.caught_up()).await.unwrap();
    let handle = Clone::clone(&*worker);
    worker.abort().await;
    until("all connections are returned", async || {
        db.pool.size() as usize == db.pool.num_idle()
    })
    .await;
    drop(handle);
}

test_on!(
    [sqlite, postgres],
    a_consumer_without_tx_keeps_its_claim_while_it_works
);

async fn a_consumer_without_tx_keeps_its_claim_while_it_works<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    let (running, twice) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let slow = || {
        let (running, twice) = (Arc::clone(&running), Arc::clone(&twice));
        consumer("c", move |_, _: &mut Tx<DB>, _| {
            let (running, twice) = (Arc::clone(&running), Arc::clone(&twice));
            Box::pin(async move {
                if running.swap(true, Ordering::SeqCst) {
                    twice.store(true, Ordering::SeqCst);
                }
                // Several times as long as a claim may be idle.
                tokio::time::sleep(Duration::from_secs(6)).await;
                Ok(())
            })
        })
        .without_tx()
    };
    let timeout = Duration::from_secs(2);
    let first = Running::start(db.worker().claim_timeout(timeout).consumer(slow()));
    let second = Running::start(db.worker().claim_timeout(timeout).consumer(slow()));
    patiently("both see it done", async {
        first.caught_up().await.unwrap();
        second.caught_up().await.unwrap();
    })
    .await;
    first.stop().await;
    second.stop().await;
    assert!(
        !twice.load(Ordering::SeqCst),
        "the handler was called twice"
    );
}
