//! Which build of a program does what: stopped consumers, and the processes that rows name.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use consumer::admin::{Admin, ConsumerStatus, ForgetOptions};
use consumer::{ConsumerState, Formerly, OnError, Worker};
use consumer_tests::{
    Database, Running, TestConsumer, TestDatabase, consumer, impatient, judging, keep_log, logged,
    patiently, read_model, run_once, test_on, until,
};
use tokio::sync::{Notify, Semaphore};

test_on!(
    [sqlite, postgres, through_a_pooler],
    a_stopped_consumer_is_tried_once_by_each_release,
    a_release_that_failed_leaves_the_event_to_the_next,
    a_running_release_tries_what_another_stops_later,
    attempts_of_another_release_leave_one_to_the_next,
    a_batch_records_the_process_that_saved_it,
    an_idle_worker_writes_no_row,
    a_missing_worker_is_reported_only_if_events_wait,
    a_worker_in_a_long_batch_is_not_missing,
    a_worker_in_a_long_batch_without_tx_is_not_missing
);

test_on!(
    [sqlite, postgres],
    a_resumed_consumer_is_tried_by_every_release_again,
    releases_that_failed_on_one_event_try_the_next,
    two_running_releases_that_fail_leave_an_event_alone,
    an_executable_is_a_release_unless_the_program_names_one,
    the_record_of_a_process_follows_its_row,
    a_process_of_an_earlier_library_is_shown_until_the_next_save
);

/// The consumer `users` in one release, which counts its calls, and fails on `bad` unless it is repaired.
fn users<DB: TestDatabase>(calls: &Arc<AtomicUsize>, is_repaired: bool) -> TestConsumer<DB> {
    let calls = Arc::clone(calls);
    judging("users", move |_, event| {
        calls.fetch_add(1, Ordering::SeqCst);
        if event.aggregate_id == "bad" && !is_repaired {
            return Err("bad".to_owned());
        }
        Ok(())
    })
    .settings(impatient().retries(1))
}

async fn status<DB: TestDatabase>(db: &Database<DB>) -> ConsumerStatus {
    let status = Admin::new(db.store.clone()).status().await.unwrap();
    status.consumer("users").unwrap().clone()
}

async fn a_stopped_consumer_is_tried_once_by_each_release<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["good", "bad", "good"]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let run = async |release: &str| {
        let before = calls.swap(0, Ordering::SeqCst);
        let builder = db.worker().consumer(users(&calls, release == "v3"));
        let report = run_once(builder.release(release)).await;
        let state = report.consumer("users").unwrap().state.name();
        (before, state)
    };
    run("v1").await;
    let of_v1 = calls.load(Ordering::SeqCst);
    assert!(
        of_v1 >= 3,
        "the first event, and two attempts at the second: {of_v1}"
    );
    for _ in 0..3 {
        run("v1").await;
        assert_eq!(calls.load(Ordering::SeqCst), 0, "a restart repeats nothing");
    }
    assert_eq!(status(&db).await.failed_releases, ["v1"]);

    // All its attempts, and only once.
    let (_, state) = run("v2").await;
    assert_eq!((calls.load(Ordering::SeqCst), state), (2, "stopped"));
    for release in ["v2", "v1", "v2"] {
        let (_, state) = run(release).await;
        assert_eq!(
            (calls.load(Ordering::SeqCst), state),
            (0, "stopped"),
            "{release}"
        );
    }
    assert_eq!(status(&db).await.failed_releases, ["v1", "v2"]);

    let (_, state) = run("v3").await;
    assert_eq!(state, "caught_up");
    assert_eq!(db.applied("users").await, [1, 2, 3]);
    assert!(status(&db).await.failed_releases.is_empty());
}

async fn a_release_that_failed_leaves_the_event_to_the_next<DB: TestDatabase>(db: Database<DB>) {
    let (by_v1, by_v2) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let bad = db.append_one("User", "bad").await;
    let v1 = db.worker().consumer(users(&by_v1, false)).release("v1");
    let v1 = Running::start(v1);
    v1.caught_up_to(bad).await.unwrap_err();
    until("it has stopped", async || {
        status(&db).await.state.name() == "stopped"
    })
    .await;
    let calls = by_v1.load(Ordering::SeqCst);

    // The next release fails on it, too, and the first one keeps out of that.
    let v2 = db.worker().consumer(users(&by_v2, false)).release("v2");
    let v2 = Running::start(v2);
    until("the second release has stopped", async || {
        status(&db).await.failed_releases == ["v1", "v2"]
    })
    .await;
    v2.stop().await;
    let v3 = db.worker().consumer(users(&by_v2, true)).release("v3");
    let v3 = Running::start(v3);
    v3.caught_up().await.unwrap();
    assert_eq!(by_v1.load(Ordering::SeqCst), calls);

    let last = *db.append("User", ["good", "good"]).await.last().unwrap();
    v3.caught_up_to(last).await.unwrap();
    v3.stop().await;
    // The first release is back at work behind the event.
    until("the first release follows", async || {
        v1.consumers()[0].state == ConsumerState::Running
    })
    .await;
    let last = db.append_one("User", "good").await;
    v1.caught_up_to(last).await.unwrap();
    v1.stop().await;
    assert!(by_v1.load(Ordering::SeqCst) > calls);
    assert_eq!(db.applied("users").await, db.log().await);
}

async fn a_running_release_tries_what_another_stops_later<DB: TestDatabase>(db: Database<DB>) {
    keep_log();
    let settings = |segments| impatient().retries(0).segments(segments);
    let old = || {
        let fails = |id: &str| {
            if id == "bob" {
                Err("bob".to_owned())
            } else {
                Ok(())
            }
        };
        let users = judging("users", move |_, event| fails(&event.aggregate_id));
        let users = users.settings(settings(2)).without_tx();
        db.worker().consumer(users).release("v1")
    };
    run_once(old()).await;

    // The new release has a permit for one of the two segments, which it keeps until it is told to go on.
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handled = Arc::new(AtomicUsize::new(0));
    let gates = (Arc::clone(&begun), Arc::clone(&go_on), Arc::clone(&handled));
    let users = consumer_tests::consumer("users", move |_, _, event| {
        let ((begun, go_on, handled), is_ada) = (gates.clone(), event.aggregate_id == "ada");
        Box::pin(async move {
            if is_ada {
                begun.notify_one();
                go_on.notified().await;
            } else {
                handled.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        })
    });
    let users = users.settings(settings(1)).without_tx();
    let new = Running::start(db.worker().consumer(users).release("v2"));
    db.append_one("User", "ada").await;
    patiently("the new release is busy", begun.notified()).await;

    let old = Running::start(old());
    let bob = db.append_one("User", "bob").await;
    until("the old release has stopped the consumer", async || {
        let users = status(&db).await;
        (users.state.name(), users.failed_releases) == ("stopped", vec!["v1".to_owned()])
    })
    .await;
    go_on.notify_one();
    until("the new release has handled the event", async || {
        let users = status(&db).await;
        users.state == ConsumerState::Running && users.position >= Some(bob)
    })
    .await;
    assert_eq!(handled.load(Ordering::SeqCst), 1);
    let tried = logged(&[
        "users",
        "this release tries the event at which another one stopped",
    ]);
    assert!(!tried.is_empty());
    new.stop().await;
    old.stop().await;
}

async fn two_running_releases_that_fail_leave_an_event_alone<DB: TestDatabase>(db: Database<DB>) {
    let (by_v1, by_v2) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let start = |calls: &Arc<AtomicUsize>, release: &str| {
        let worker = db
            .worker()
            .scoped_consumer(users(calls, false).scope(&["User"]));
        let all = read_model(&format!("all-of-{release}")).formerly(Formerly::None);
        Running::start(worker.consumer(all).release(release))
    };
    let (v1, v2) = (start(&by_v1, "v1"), start(&by_v2, "v2"));
    v1.caught_up().await.unwrap();
    db.append_one("User", "bad").await;
    until("both have failed", async || {
        let stopped = status(&db).await;
        stopped.state.name() == "stopped" && stopped.failed_releases.len() == 2
    })
    .await;
    let calls = || [&by_v1, &by_v2].map(|calls| calls.load(Ordering::SeqCst));
    let row = "SELECT position || '/' || epoch || '/' || attempts || '/' || updated_at
                 FROM consumer_progress WHERE consumer = 'users'";
    let (before, row_before) = (calls(), db.texts(row).await);
    assert!(before.iter().all(|calls| *calls > 0), "{before:?}");
    for _ in 0..20 {
        let position = db.append_one("Order", "o").await;
        v1.consumer_caught_up_to("all-of-v1", position)
            .await
            .unwrap();
        v2.consumer_caught_up_to("all-of-v2", position)
            .await
            .unwrap();
    }
    assert_eq!((calls(), db.texts(row).await), (before, row_before));
    v1.stop().await;
    v2.stop().await;
}

async fn attempts_of_another_release_leave_one_to_the_next<DB: TestDatabase>(db: Database<DB>) {
    let (by_old, by_new) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let fail_five_times = async || {
        by_old.store(0, Ordering::SeqCst);
        db.append_one("User", "bad").await;
        let patient = users(&by_old, false).settings(impatient().retries(1_000));
        let old = Running::start(db.worker().consumer(patient).release("old"));
        until("it has failed five times", async || {
            by_old.load(Ordering::SeqCst) >= 5
        })
        .await;
        old.stop().await;
    };
    let run_new = async |policy: OnError, is_repaired: bool| {
        by_new.store(0, Ordering::SeqCst);
        let settings = impatient().retries(3).on_error(policy);
        let users = users(&by_new, is_repaired).settings(settings);
        run_once(db.worker().consumer(users).release("new")).await
    };
    for policy in [OnError::Stop, OnError::Park, OnError::Skip] {
        fail_five_times().await;
        let report = run_new(policy, true).await;
        assert!(!report.has_failures(), "{policy:?}: {report}");
        assert_eq!(db.applied("users").await, db.log().await, "{policy:?}");
    }
    assert!(db.parked("users").await.is_empty());
    // It is one.
    fail_five_times().await;
    run_new(OnError::Stop, false).await;
    assert_eq!(by_new.load(Ordering::SeqCst), 1);
    assert_eq!(status(&db).await.failed_releases, ["new"]);
}

async fn a_resumed_consumer_is_tried_by_every_release_again<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["bad"]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let run = async || run_once(db.worker().consumer(users(&calls, false)).release("v1")).await;
    run().await;
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    Admin::new(db.store.clone()).resume("users").await.unwrap();
    assert!(status(&db).await.failed_releases.is_empty());
    run().await;
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    run().await;
    assert_eq!(calls.load(Ordering::SeqCst), 4);
}

async fn releases_that_failed_on_one_event_try_the_next<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["bad", "bad"]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let run = async || run_once(db.worker().consumer(users(&calls, false)).release("v1")).await;
    run().await;
    Admin::new(db.store.clone()).skip("users", 1).await.unwrap();
    run().await;
    assert_eq!(calls.load(Ordering::SeqCst), 4, "two attempts at each");
    let stopped = status(&db).await;
    let position = stopped.failing.and_then(|failing| failing.position);
    assert_eq!(
        (position, stopped.failed_releases),
        (Some(2), vec!["v1".to_owned()])
    );
}

async fn an_executable_is_a_release_unless_the_program_names_one<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append("User", ["good"]).await;
    let worker = Worker::builder(db.store.clone());
    run_once(worker.consumer(read_model("users"))).await;
    let workers = status(&db).await.workers;
    let program = std::env::current_exe().unwrap();
    let name = program.file_stem().unwrap().to_string_lossy().into_owned();
    let release = &workers[0].release;
    let hash = release.strip_prefix(&format!("{name}-")).unwrap();
    assert!(
        hash.len() == 16 && hash.chars().all(|c| c.is_ascii_hexdigit()),
        "{release}"
    );
    db.append("User", ["good"]).await;
    run_once(db.worker().consumer(read_model("users")).release("1.2.3")).await;
    assert_eq!(status(&db).await.workers[0].release, "1.2.3");
}

async fn a_batch_records_the_process_that_saved_it<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a", "b"]).await;
    assert!(
        Admin::new(db.store.clone())
            .status()
            .await
            .unwrap()
            .consumers
            .is_empty()
    );
    let run = async |release: &str| {
        let settings = impatient().segments(2);
        let users = read_model("users").settings(settings);
        run_once(db.worker().consumer(users).release(release)).await;
    };
    run("v1").await;
    let workers = status(&db).await.workers;
    assert_eq!(workers.len(), 1, "{workers:?}");
    let own = &workers[0];
    assert_eq!(
        (own.pid, &*own.release),
        (i64::from(std::process::id()), "v1")
    );
    assert!(!own.host.is_empty() && own.seen_ago < Duration::from_mins(1));
    // Of the two segments, only one has another batch.
    db.append("User", ["a"]).await;
    run("v2").await;
    let workers = status(&db).await.workers;
    let releases: Vec<&str> = workers.iter().map(|one| &*one.release).collect();
    assert_eq!(releases[0], "v2");
    let json = serde_json::to_value(&workers).unwrap();
    assert_eq!(json[0]["pid"], std::process::id());
}

/// The slices from which on rows have a record of the process that works on them.
async fn recorded<DB: TestDatabase>(db: &Database<DB>) -> Vec<i64> {
    let from = "SELECT CAST(slice_from AS BIGINT) FROM consumer_worker WHERE consumer = 'users' ORDER BY slice_from";
    db.numbers(from).await
}

async fn the_record_of_a_process_follows_its_row<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a", "b"]).await;
    let users = |segments| read_model("users").settings(impatient().segments(segments));
    run_once(db.worker().consumer(users(1))).await;
    assert_eq!(recorded(&db).await, [0]);
    // Split, without another batch: the process that handled the events of both halves is still named.
    let two = Running::start(db.worker().consumer(users(2)));
    until("the row is split", async || recorded(&db).await == [0, 512]).await;
    two.stop().await;
    let segments = status(&db).await.segments;
    assert!(
        segments.iter().all(|segment| segment.worker.is_some()),
        "{segments:?}"
    );

    let admin = Admin::new(db.store.clone());
    let one = Running::start(db.worker().consumer(users(1)));
    assert_eq!(admin.merge_segments("users", 1).await.unwrap(), 1);
    one.stop().await;
    assert_eq!(recorded(&db).await, [0]);
    admin.forget("users", ForgetOptions::new()).await.unwrap();
    assert!(recorded(&db).await.is_empty());
}

async fn a_process_of_an_earlier_library_is_shown_until_the_next_save<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append("User", ["a"]).await;
    run_once(db.worker().consumer(read_model("users"))).await;
    // As a library writes it that knows version 7 of the tables.
    db.execute(
        "UPDATE consumer_progress SET worker_host = 'old', worker_pid = 7, worker_release = 'v0', worker_at = updated_at",
    )
    .await;
    let worker = status(&db).await.workers.remove(0);
    assert_eq!(
        (&*worker.host, worker.pid, &*worker.release),
        ("old", 7, "v0")
    );
    db.append("User", ["a"]).await;
    run_once(db.worker().consumer(read_model("users")).release("v1")).await;
    let worker = status(&db).await.workers.remove(0);
    assert_eq!(
        (worker.pid, &*worker.release),
        (i64::from(std::process::id()), "v1")
    );
    // The row is as narrow as one that no such library has saved.
    let wide = "SELECT count(*) FROM consumer_progress
                 WHERE coalesce(worker_host, worker_release, CAST(worker_pid AS TEXT), CAST(worker_at AS TEXT)) IS NOT NULL";
    assert_eq!(db.number(wide).await, 0);
}

async fn an_idle_worker_writes_no_row<DB: TestDatabase>(db: Database<DB>) {
    let last = *db.append("User", ["a", "b"]).await.last().unwrap();
    let users = read_model("users").scope(&["User"]);
    // An advance of the idle row would be a write.
    let worker = db.worker().advance_interval(Duration::from_hours(1));
    let worker = worker.scoped_consumer(users);
    let worker = Running::start(worker.consumer(read_model("all")));
    worker.caught_up_to(last).await.unwrap();
    let row = "SELECT p.position || '/' || p.claims || '/' || p.updated_at || '/' || w.seen_at
                 FROM consumer_progress AS p JOIN consumer_worker AS w ON w.consumer = p.consumer
                WHERE p.consumer = 'users'";
    let before = db.texts(row).await;
    for _ in 0..20 {
        let position = db.append_one("Order", "o").await;
        worker.consumer_caught_up_to("all", position).await.unwrap();
    }
    assert_eq!(db.texts(row).await, before);
    worker.stop().await;
}

/// How long events have waited without a worker, as the status shows.
async fn waited<DB: TestDatabase>(db: &Database<DB>) -> Option<Duration> {
    match status(db).await.state {
        ConsumerState::NoWorker { waited, .. } => Some(waited),
        _ => None,
    }
}

/// Makes the rows, or the events, ten minutes old.
async fn age<DB: TestDatabase>(db: &Database<DB>, what: &str) {
    let (rows, events) = match DB::NAME {
        "SQLite" => (
            "CAST(unixepoch() * 1000 AS INTEGER) - 600000",
            "datetime('now', '-10 minutes')",
        ),
        _ => (
            "now() - interval '10 minutes'",
            "now() - interval '10 minutes'",
        ),
    };
    let sql = match what {
        "rows" => format!("UPDATE consumer_progress SET updated_at = {rows}"),
        _ => format!("UPDATE events SET created_at = {events}"),
    };
    db.execute(&sql).await;
}

async fn a_missing_worker_is_reported_only_if_events_wait<DB: TestDatabase>(db: Database<DB>) {
    let age = async |what: &str| age(&db, what).await;
    db.append("User", ["good"]).await;
    run_once(db.worker().consumer(read_model("users"))).await;
    age("rows").await;
    age("events").await;
    assert_eq!(waited(&db).await, None, "nothing waits");
    db.append("User", ["bad"]).await;
    assert_eq!(waited(&db).await, None, "the event has just come");
    age("events").await;
    let unattended = waited(&db).await.unwrap();
    assert!(unattended >= Duration::from_mins(3), "{unattended:?}");

    let calls = Arc::new(AtomicUsize::new(0));
    let stopping = users(&calls, false).settings(impatient().retries(0).on_error(OnError::Stop));
    run_once(db.worker().consumer(stopping)).await;
    age("rows").await;
    assert_eq!(waited(&db).await, None, "it is stopped");
}

/// A consumer whose handler waits for the second event until it may go on, and what it tells when it waits.
struct Held {
    entered: Arc<Notify>,
    gate: Arc<Semaphore>,
}

impl Held {
    fn new() -> Self {
        Self {
            entered: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
        }
    }

    fn users<DB: TestDatabase>(&self) -> TestConsumer<DB> {
        let (entered, gate) = (Arc::clone(&self.entered), Arc::clone(&self.gate));
        consumer("users", move |_, _, _| {
            let (entered, gate) = (Arc::clone(&entered), Arc::clone(&gate));
            Box::pin(async move {
                entered.notify_one();
                gate.acquire().await?.forget();
                Ok(())
            })
        })
    }

    /// Runs it on one event, and leaves it another that has waited for ten minutes.
    async fn prepare<DB: TestDatabase>(&self, db: &Database<DB>, users: TestConsumer<DB>) {
        self.gate.add_permits(1);
        db.append("User", ["a"]).await;
        run_once(db.worker().consumer(users).release("before")).await;
        self.entered.notified().await;
        db.append("User", ["b"]).await;
        age(db, "events").await;
        age(db, "rows").await;
    }
}

/// The control is the same state before the worker starts.
async fn a_worker_in_a_long_batch_is_not_missing<DB: TestDatabase>(db: Database<DB>) {
    let held = Held::new();
    held.prepare(&db, held.users()).await;
    let before = status(&db).await;
    let may_be_busy = DB::NAME == "SQLite";
    let is_missing = |status: &ConsumerStatus| {
        let state = &status.state;
        matches!(state, ConsumerState::NoWorker { may_be_busy: told, .. } if *told == may_be_busy)
    };
    assert!(is_missing(&before), "{before:?}");
    let told = (!may_be_busy).then_some(false);
    assert_eq!(before.segments[0].is_claimed, told);

    let worker = Running::start(db.worker().consumer(held.users()).release("after"));
    patiently("the handler waits", held.entered.notified()).await;
    let during = status(&db).await;
    assert_eq!(during.workers[0].release, "before");
    if may_be_busy {
        // SQLite does not tell that there is a claim, so no one is said to be missing.
        assert!(is_missing(&during), "{during:?}");
        let text = during.state.to_string();
        assert!(text.contains("no batch has ended"), "{text}");
    } else {
        assert_eq!(during.state, ConsumerState::Running);
        let segment = &during.segments[0];
        assert_eq!(segment.is_claimed, Some(true));
        let time = segment.claimed_for.expect("the time of its own session");
        assert!(time < Duration::from_mins(3), "{time:?}");
        let json = serde_json::to_value(segment).unwrap();
        assert_eq!(json["is_claimed"], true);
        assert!(json["claimed_for"].is_number(), "{json}");
    }
    held.gate.add_permits(1);
    patiently("it catches up", worker.caught_up())
        .await
        .unwrap();
    worker.stop().await;
    let after = status(&db).await;
    assert_eq!(after.state, ConsumerState::Running);
    assert_eq!(after.segments[0].is_claimed, told);
    assert_eq!(after.workers[0].release, "after");
}

/// Without a claim that would keep other writers out, its mark tells on SQLite too.
async fn a_worker_in_a_long_batch_without_tx_is_not_missing<DB: TestDatabase>(db: Database<DB>) {
    let held = Held::new();
    held.prepare(&db, held.users().without_tx()).await;
    let users = held.users().without_tx();
    let worker = Running::start(db.worker().consumer(users).release("after"));
    patiently("the handler waits", held.entered.notified()).await;
    let during = status(&db).await;
    assert_eq!(during.state, ConsumerState::Running);
    assert_eq!(during.segments[0].is_claimed, Some(true));
    held.gate.add_permits(1);
    patiently("it catches up", worker.caught_up())
        .await
        .unwrap();
    worker.stop().await;
    assert_ne!(status(&db).await.segments[0].is_claimed, Some(true));
}
