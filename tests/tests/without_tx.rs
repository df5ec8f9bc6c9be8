//! Handlers without `tx` (R5): each event is handled once, whatever else happens while they work.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use consumer::admin::{Admin, AdminError, ForgetOptions, RebuildOptions};
use consumer::{
    ConsumerState, EventStore, OnError, Settings, WorkerBuilder, aggregate_slice, merge_segments,
};
use consumer_tests::{
    Database, Running, SqliteDatabase, TestConsumer, TestDatabase, consumer, impatient, keep_log,
    logged, patiently, read_model, run_once, signal, test_on, until,
};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{Postgres, Sqlite};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const NAME: &str = "publisher";

/// A handler that says when it has an event, and waits until it may finish.
struct Gate {
    entered: Semaphore,
    leave: Semaphore,
    left: Semaphore,
    /// The position of each event, and whether it was a replay.
    calls: Mutex<Vec<(i64, bool)>>,
}

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            entered: Semaphore::new(0),
            leave: Semaphore::new(0),
            left: Semaphore::new(0),
            calls: Mutex::default(),
        })
    }

    fn consumer<DB: TestDatabase>(self: &Arc<Self>, name: &str) -> TestConsumer<DB> {
        let gate = Arc::clone(self);
        let handler = move |cx: &consumer::Context, position: i64| {
            let call = (position, cx.is_replay());
            let gate = Arc::clone(&gate);
            async move {
                let _left = Left(&gate);
                gate.calls.lock().unwrap().push(call);
                gate.entered.add_permits(1);
                gate.leave.acquire().await.unwrap().forget();
            }
        };
        consumer(name, move |cx, _: &mut DB::Connection, event| {
            let handled = handler(cx, event.global_position);
            Box::pin(async move {
                handled.await;
                Ok(())
            })
        })
        .without_tx()
    }

    async fn is_entered(&self) {
        let entered = patiently("the handler is called", self.entered.acquire());
        entered.await.unwrap().forget();
    }

    /// Waits until a call has finished, or its future was dropped.
    async fn is_left(&self) {
        let left = patiently("the call ends", self.left.acquire());
        left.await.unwrap().forget();
    }

    /// Lets this number of calls finish.
    fn open(&self, calls: usize) {
        self.leave.add_permits(calls);
    }

    /// The events that were handed over as new ones.
    fn new_events(&self) -> Vec<i64> {
        let calls = self.calls.lock().unwrap();
        let new = calls.iter().filter(|(_, is_replay)| !is_replay);
        new.map(|(position, _)| *position).collect()
    }
}

struct Left<'a>(&'a Gate);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.0.left.add_permits(1);
    }
}

/// The sessions that wait for a lock of Postgres.
const WAITING: &str = "FROM pg_stat_activity
                      WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// How often someone waits for a handler to finish: by a mark, or for a lock of Postgres.
async fn waiting<DB: TestDatabase>(db: &Database<DB>) -> i64 {
    let waiting = if DB::NAME == "SQLite" {
        "SELECT count(*) FROM consumer_mark
          WHERE holder LIKE 'waiting: %' AND held_until > unixepoch('subsec') * 1000"
            .to_owned()
    } else {
        format!("SELECT count(*) {WAITING}")
    };
    db.number(&waiting).await
}

/// Waits until a command waits for the handler; fails if it does not.
async fn has_to_wait<DB: TestDatabase, T>(db: &Database<DB>, what: &str, command: &JoinHandle<T>) {
    until(&format!("{what} waits"), async || {
        command.is_finished() || waiting(db).await > 0
    })
    .await;
    assert!(
        !command.is_finished(),
        "{what} did not wait for the handler"
    );
}

async fn caught_up<DB: TestDatabase>(worker: &Running<DB>) {
    patiently("it catches up", worker.caught_up())
        .await
        .unwrap();
}

test_on!(
    [sqlite, postgres],
    the_worker_does_not_advance_a_row_whose_handler_works,
    commands_wait_for_a_handler_without_tx,
    a_split_waits_for_a_handler_without_tx,
    a_merge_waits_for_a_handler_without_tx,
    of_two_retries_at_once_one_handles_the_event,
    a_command_gets_its_turn_between_two_batches
);

async fn the_worker_does_not_advance_a_row_whose_handler_works<DB: TestDatabase>(db: Database<DB>) {
    let gate = Gate::new();
    // What a lane has passed over is saved a while later, together with that of the idle lane.
    let worker = db
        .worker()
        .advance_interval(Duration::from_millis(100))
        .scoped_consumer(gate.consumer(NAME).scope(&["User"]))
        .scoped_consumer(read_model("idle").scope(&["Invoice"]));
    let worker = Running::start(worker);
    let mut handled = Vec::new();
    loop {
        let passed = db.append_one("Order", "o").await;
        until("both lanes pass over it", async || {
            let consumers = worker.consumers();
            consumers.iter().all(|one| one.position >= Some(passed))
        })
        .await;
        handled.push(db.append_one("User", "u").await);
        gate.is_entered().await;
        // Otherwise it was saved before the handler was called.
        let is_behind = db.checkpoint(NAME).await.unwrap() < passed;
        until("the idle lane's row has advanced", async || {
            db.checkpoint("idle").await.unwrap() >= passed
        })
        .await;
        gate.open(1);
        caught_up(&worker).await;
        if is_behind {
            break;
        }
    }
    worker.stop().await;
    assert_eq!(gate.new_events(), handled);
}

async fn commands_wait_for_a_handler_without_tx<DB: TestDatabase>(db: Database<DB>) {
    let gate = Gate::new();
    let builder = || db.worker().consumer(gate.consumer(NAME));
    let worker = Running::start(builder());
    let admin = Arc::new(builder().admin().unwrap());
    let mut handled = Vec::new();
    for command in ["pause", "resume", "accept_scope", "rebuild", "forget"] {
        handled.push(db.append_one("User", "u").await);
        gate.is_entered().await;
        let (admin, by) = (Arc::clone(&admin), command);
        let running = tokio::spawn(async move { run(&admin, by).await });
        has_to_wait(&db, command, &running).await;
        // A rebuild hands over all of them again.
        gate.open(1);
        let done = patiently(command, running).await.unwrap();
        done.unwrap_or_else(|error| panic!("{command}: {error}"));
        match command {
            "pause" => admin_of(&db).resume(NAME).await.unwrap(),
            "rebuild" => {
                gate.open(handled.len());
                // The worker may not have noticed yet that it is no longer at the end.
                until("it handles all again", async || {
                    gate.calls.lock().unwrap().len() == 2 * handled.len()
                })
                .await;
            }
            _ => {}
        }
        if command != "forget" {
            caught_up(&worker).await;
        }
        while let Ok(entered) = gate.entered.try_acquire() {
            entered.forget();
        }
        assert_eq!(gate.new_events(), handled, "{command}");
    }
    worker.stop().await;
}

fn admin_of<DB: TestDatabase>(db: &Database<DB>) -> Admin<DB> {
    Admin::new(db.store.clone())
}

async fn run<DB: TestDatabase>(admin: &Admin<DB>, command: &str) -> Result<(), AdminError> {
    let rebuild = RebuildOptions::new()
        .without_reset()
        .wait(Duration::from_secs(30));
    match command {
        "pause" => admin.pause(NAME).await,
        "resume" => admin.resume(NAME).await,
        "accept_scope" => admin.accept_scope(NAME).await,
        "rebuild" => admin.rebuild(NAME, rebuild).await.map(drop),
        _ => admin.forget(NAME, ForgetOptions::new().force()).await,
    }
}

/// An aggregate of the lower half of the slices, and one of the upper half.
fn halves() -> [String; 2] {
    let half = |is_lower: bool| {
        (0..1_000)
            .map(|number| format!("h-{number}"))
            .find(|id| (aggregate_slice(id) < 512) == is_lower)
            .unwrap()
    };
    [half(true), half(false)]
}

fn in_segments<DB: TestDatabase>(
    db: &Database<DB>,
    gate: &Arc<Gate>,
    segments: u32,
) -> WorkerBuilder<DB> {
    let settings = Settings::default().segments(segments);
    db.worker().consumer(gate.consumer(NAME).settings(settings))
}

async fn rows<DB: TestDatabase>(db: &Database<DB>) -> i64 {
    db.number("SELECT count(*) FROM consumer_progress").await
}

async fn a_split_waits_for_a_handler_without_tx<DB: TestDatabase>(db: Database<DB>) {
    let gate = Gate::new();
    let first = Running::start(in_segments(&db, &gate, 1));
    let handled = db.append("User", halves()).await;
    gate.is_entered().await;
    let second = Running::start(in_segments(&db, &gate, 2));
    until("the split waits", async || {
        waiting(&db).await > 0 || rows(&db).await > 1
    })
    .await;
    assert_eq!(rows(&db).await, 1, "it did not wait for the handler");
    gate.open(10);
    until("it is split", async || rows(&db).await == 2).await;
    caught_up(&first).await;
    caught_up(&second).await;
    first.stop().await;
    second.stop().await;
    let mut new = gate.new_events();
    new.sort_unstable();
    assert_eq!(new, handled);
}

async fn a_merge_waits_for_a_handler_without_tx<DB: TestDatabase>(db: Database<DB>) {
    let gate = Gate::new();
    run_once(in_segments(&db, &gate, 2)).await;
    let handled = db.append("User", halves()).await;
    // One that declares a single segment keeps the rows as they are, and handles one batch at a time: both
    // checkpoints are the same meanwhile.
    let worker = Running::start(in_segments(&db, &gate, 1));
    gate.is_entered().await;
    let store = db.store.clone();
    let merge = tokio::spawn(async move { merge_segments(&store, NAME, 1, 1).await });
    has_to_wait(&db, "merge", &merge).await;
    gate.open(10);
    patiently("it is merged", merge).await.unwrap().unwrap();
    caught_up(&worker).await;
    worker.stop().await;
    let mut new = gate.new_events();
    new.sort_unstable();
    assert_eq!((new, rows(&db).await), (handled, 1));
}

async fn of_two_retries_at_once_one_handles_the_event<DB: TestDatabase>(db: Database<DB>) {
    let failing = consumer(NAME, |_, _: &mut DB::Connection, _| {
        Box::pin(async { Err("no such tariff".into()) })
    });
    let parking = impatient().retries(0).on_error(OnError::Park);
    let position = db.append_one("User", "u").await;
    db.run_once(failing.without_tx().settings(parking)).await;
    assert_eq!(db.parked(NAME).await, [position]);
    let gate = Gate::new();
    let retry = || {
        let admin = db.worker().consumer(gate.consumer(NAME)).admin().unwrap();
        tokio::spawn(async move { admin.retry_parked(NAME, None).await })
    };
    let first = retry();
    gate.is_entered().await;
    let second = retry();
    until("the second one waits", async || {
        waiting(&db).await > 0 || gate.entered.available_permits() > 0
    })
    .await;
    gate.open(2);
    let mut handled = 0;
    for retry in [first, second] {
        let retried = patiently("it ends", retry).await.unwrap().unwrap();
        assert!(retried.failed.is_empty(), "{:?}", retried.failed);
        handled += retried.handled;
    }
    assert_eq!((gate.new_events(), handled), (vec![position], 1));
    assert!(db.parked(NAME).await.is_empty());
}

/// The lane has the next batch ready when the one before is saved.
/// Commands that wait for the batch in progress, each in its own way.
const COMMANDS: [&str; 2] = ["pause", "rename"];

fn spawn<DB: TestDatabase>(
    db: &Database<DB>,
    command: &'static str,
) -> JoinHandle<Result<(), AdminError>> {
    let admin = admin_of(db);
    tokio::spawn(async move {
        match command {
            "rename" => admin.rename(NAME, "renamed").await,
            _ => admin.pause(NAME).await,
        }
    })
}

/// A worker in the middle of the first of many batches.
async fn in_first_batch<DB: TestDatabase>(db: &Database<DB>, gate: &Arc<Gate>) -> Running<DB> {
    let settings = Settings::default().batch_size(1);
    let worker = db.worker().consumer(gate.consumer(NAME).settings(settings));
    let worker = Running::start(worker);
    db.append_many(10).await;
    gate.is_entered().await;
    worker
}

async fn a_command_gets_its_turn_between_two_batches<DB: TestDatabase>(first: Database<DB>) {
    for (db, command) in [first, Database::fresh().await].iter().zip(COMMANDS) {
        let gate = Gate::new();
        let worker = in_first_batch(db, &gate).await;
        let done = spawn(db, command);
        has_to_wait(db, command, &done).await;
        if DB::NAME == "SQLite" {
            // As if it had waited for longer than its mark is held.
            db.execute("UPDATE consumer_mark SET held_until = 0 WHERE holder LIKE 'waiting: %'")
                .await;
            has_to_wait(db, command, &done).await;
        }
        gate.open(1);
        patiently("it has its turn", done).await.unwrap().unwrap();
        assert_eq!(gate.new_events().len(), 1, "a batch came before {command}");
        worker.stop().await;
    }
}

/// Even if it does not notice for long that the rows are free.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_does_not_overtake_a_command_that_waits() {
    for command in COMMANDS {
        let db = Database::<Postgres>::fresh().await;
        let gate = Gate::new();
        let worker = in_first_batch(&db, &gate).await;
        let done = spawn(&db, command);
        has_to_wait(&db, command, &done).await;
        let session = db.number(&format!("SELECT pid::bigint {WAITING}")).await;
        let session = u32::try_from(session).unwrap();
        signal(session, "STOP");
        gate.open(1);
        until("the lane asks for the next batch", async || {
            let refused = "SELECT count(*) FROM pg_stat_activity
                            WHERE datname = current_database() AND query = 'ROLLBACK'";
            gate.new_events().len() > 1 || db.number(refused).await > 0
        })
        .await;
        signal(session, "CONT");
        gate.open(1);
        patiently("it has its turn", done).await.unwrap().unwrap();
        assert_eq!(gate.new_events().len(), 1, "a batch came before {command}");
        worker.stop().await;
    }
}

/// The mark names the process that took it: here one that had the number of this process before.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_command_does_not_wait_for_a_process_that_was_killed() {
    let db = Database::<Sqlite>::fresh().await;
    let gate = Gate::new();
    let worker = db.worker().claim_timeout(Duration::from_hours(1));
    let worker = Running::start(worker.consumer(gate.consumer(NAME)));
    db.append_one("User", "u").await;
    gate.is_entered().await;
    let admin = admin_of(&db);
    let pause = tokio::spawn(async move { admin.pause(NAME).await });
    has_to_wait(&db, "pause", &pause).await;
    db.execute("UPDATE consumer_mark SET holder = replace(holder, ']', '0]')")
        .await;
    patiently("it is paused", pause).await.unwrap().unwrap();
    gate.open(1);
    worker.stop().await;
}

/// Otherwise a command would not wait for the other lanes of the consumer.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_releases_no_mark_of_another_lane() {
    let db = Database::<Sqlite>::fresh().await;
    let gate = Gate::new();
    let worker = Running::start(in_segments(&db, &gate, 2));
    for id in halves() {
        db.append_one("User", &id).await;
        gate.is_entered().await;
    }
    let marks = "SELECT count(*) FROM consumer_mark";
    assert_eq!(db.number(marks).await, 2);
    gate.open(1);
    until("a lane saves what it has handled", async || {
        db.number("SELECT max(position) FROM consumer_progress")
            .await
            > 0
    })
    .await;
    assert_eq!(db.number(marks).await, 1);
    gate.open(1);
    caught_up(&worker).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_file_is_busy_only_the_save_is_repeated() {
    let file = SqliteDatabase::new().await;
    let options: SqliteConnectOptions = file.url.parse().unwrap();
    let pool = SqlitePoolOptions::new()
        .connect_with(options.busy_timeout(Duration::from_millis(20)))
        .await
        .unwrap();
    let store = EventStore::new(pool);
    let db = Database::<Sqlite>::of(store, &file.url).prepared().await;
    let gate = Gate::new();
    // Before it starts: a worker that finds the file busy then ends.
    let position = db.append_one("User", "u").await;
    let worker = Running::start(db.worker().consumer(gate.consumer(NAME)));
    gate.is_entered().await;
    let mut writer = db.pool.acquire().await.unwrap();
    Sqlite::execute_sql(&mut writer, "PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE")
        .await
        .unwrap();
    gate.open(2);
    until("the save fails", async || {
        let consumers = worker.consumers();
        matches!(consumers[0].state, ConsumerState::Waiting { .. })
    })
    .await;
    Sqlite::execute_sql(&mut writer, "ROLLBACK").await.unwrap();
    drop(writer);
    until("it is saved", async || {
        db.checkpoint(NAME).await == Some(position)
    })
    .await;
    worker.stop().await;
    assert_eq!(gate.new_events(), [position]);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_a_dropped_worker_was_handling_are_logged() {
    keep_log();
    let db = Database::<Sqlite>::fresh().await;
    let (name, gate) = ("dropped_publisher", Gate::new());
    let worker = || db.worker().consumer(gate.consumer(name));
    let first = Running::start(worker());
    db.append_one("User", "u").await;
    gate.is_entered().await;
    let lines = || {
        logged(&[
            "WARN a handler of the events after position 0 did not finish",
            name,
        ])
    };
    assert!(lines().is_empty());
    first.abort().await;
    // Its lanes are on another runtime.
    gate.is_left().await;
    gate.open(2);
    // It does not wait until the mark lapses, which takes a minute.
    run_once(worker()).await;
    assert_eq!(lines().len(), 1, "{:?}", lines());
}

/// A worker whose handlers have each been called with an event, and wait at their gates.
async fn at_gates(
    db: &Database<Sqlite>,
    mut builder: WorkerBuilder<Sqlite>,
    gates: &[(&str, Arc<Gate>)],
) -> Running<Sqlite> {
    for (name, gate) in gates {
        builder = builder.consumer(gate.consumer(name));
    }
    let worker = Running::start(builder);
    db.append_one("User", "u").await;
    for (_, gate) in gates {
        gate.is_entered().await;
    }
    worker
}

/// No command does that while a handler works: someone has changed the table by hand.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_may_be_handled_twice_are_logged() {
    keep_log();
    let db = Database::<Sqlite>::fresh().await;
    let gates = [
        ("changed_publisher", Gate::new()),
        ("untouched_publisher", Gate::new()),
    ];
    let worker = at_gates(&db, db.worker(), &gates).await;
    db.execute(
        "UPDATE consumer_progress SET epoch = epoch + 1 WHERE consumer = 'changed_publisher'",
    )
    .await;
    for (_, gate) in &gates {
        gate.open(2);
    }
    caught_up(&worker).await;
    worker.stop().await;
    let calls = gates.each_ref().map(|(name, gate)| {
        let lines = logged(&[
            "WARN events after position 0 were handled, but another process changed the checkpoint",
            name,
        ]);
        (lines.len(), gate.calls.lock().unwrap().len())
    });
    assert_eq!(calls, [(1, 2), (0, 1)]);
}

/// The mark is renewed a third of the timeout after it was taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_is_lost_while_a_handler_works_is_logged() {
    keep_log();
    let db = Database::<Sqlite>::fresh().await;
    let gates = [
        ("lost_publisher", Gate::new()),
        ("kept_publisher", Gate::new()),
    ];
    let builder = db.worker().claim_timeout(Duration::from_secs(3));
    let worker = at_gates(&db, builder, &gates).await;
    db.execute("DELETE FROM consumer_mark WHERE consumer = 'lost_publisher'")
        .await;
    let lines = |name: &str| {
        logged(&[
            "WARN cannot keep other processes from handling the same events",
            "the mark was lost",
            name,
        ])
    };
    until("the log says so", async || {
        !lines("lost_publisher").is_empty()
    })
    .await;
    assert!(lines("kept_publisher").is_empty());
    for (_, gate) in &gates {
        gate.open(2);
    }
    caught_up(&worker).await;
    worker.stop().await;
}

/// Lanes that always have another batch leave no moment in which none of them writes.
#[tokio::test(flavor = "multi_thread")]
async fn busy_lanes_do_not_keep_pending_events_from_being_noted() {
    let db = Database::<Sqlite>::fresh().await;
    let builder = || {
        let settings = Settings::default().batch_size(1);
        db.worker()
            .advance_interval(Duration::from_millis(50))
            .consumer(read_model("busy").settings(settings.clone()))
            .consumer(read_model("busy_too").settings(settings))
            .consumer(read_model("paused"))
    };
    let admin = builder().admin().unwrap();
    admin.pause("paused").await.unwrap();
    let worker = Running::start(builder());
    until("the event is noted", async || {
        db.append_many(500).await;
        let pending = "SELECT count(*) FROM consumer_pending WHERE consumer = 'paused'";
        db.number(pending).await == 1
    })
    .await;
    until("both are behind", async || {
        db.append_many(500).await;
        let behind = "SELECT count(*) FROM consumer_progress
                       WHERE consumer <> 'paused'
                         AND position < (SELECT max(global_position) FROM events)";
        db.number(behind).await == 2
    })
    .await;
    worker.abort().await;
}
