//! Workers in several processes, which are killed, frozen and deployed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use consumer_tests::{
    Database, Running, TestDatabase, WorkerProcess, patiently, read_model, test_on, until,
};
use sqlx::{AssertSqlSafe, Postgres};
use tempfile::TempDir;

/// How much longer everything may take on a machine under load.
const LEEWAY: Duration = Duration::from_secs(30);

const WORKER: &str = env!("CARGO_BIN_EXE_test_worker");

/// Waits until the checkpoint has reached a position.
async fn reached<DB: TestDatabase>(db: &Database<DB>, consumer: &str, position: i64) {
    until("the checkpoint gets there", async || {
        db.checkpoint(consumer)
            .await
            .is_some_and(|at| at >= position)
    })
    .await;
}

/// Appends to forty aggregates in turn, `rounds` times, and returns the size of the log.
async fn append_to_many<DB: TestDatabase>(db: &Database<DB>, rounds: usize) -> i64 {
    let ids: Vec<String> = (0..40).map(|number| format!("u-{number}")).collect();
    for _ in 0..rounds {
        db.append("User", &ids).await;
    }
    db.number("SELECT count(*) FROM events").await
}

/// Waits until a consumer has applied `events` events.
async fn applied<DB: TestDatabase>(db: &Database<DB>, consumer: &str, events: i64) {
    let sql = format!("SELECT count(*) FROM applied WHERE consumer = '{consumer}'");
    until("the events are applied", async || {
        db.numbers(&sql).await == [events]
    })
    .await;
}

async fn rows<DB: TestDatabase>(db: &Database<DB>, consumer: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM consumer_progress WHERE consumer = '{consumer}'");
    db.number(&sql).await
}

/// A file that lets handlers wait as long as it is there.
struct Gate(TempDir);

impl Gate {
    fn closed() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("gate"), "").unwrap();
        Self(directory)
    }

    fn file(&self) -> std::path::PathBuf {
        self.0.path().join("gate")
    }

    fn open(&self) {
        std::fs::remove_file(self.file()).unwrap();
    }
}

/// Waits until a handler has written its rows and waits at the gate.
async fn a_handler_holds_a_claim(db: &Database<Postgres>) {
    until("a handler waits with its claim", async || {
        let idle = "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
                     WHERE l.relation = 'chain'::regclass AND l.mode = 'RowExclusiveLock'
                       AND a.state = 'idle in transaction'";
        db.number(idle).await > 0
    })
    .await;
}

/// The lock that workers enrol their consumers under.
const ENROLL_LOCK: i64 = 7_166_182_912_370_463_010;

/// Waits until another worker has tried several times to claim a locked row, each of which ends in
/// a rollback.
async fn tries_to_claim(db: &Database<Postgres>) {
    let rollbacks = "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()";
    let before = db.number(rollbacks).await;
    until("another worker tries to claim the row", async || {
        db.number(rollbacks).await > before + 20
    })
    .await;
}

test_on!(
    [sqlite, postgres, through_a_pooler],
    r3_a_worker_killed_20_times_yields_the_same_read_model,
    a_worker_killed_while_starting_does_not_block_others,
    three_processes_share_consumers_and_repeat_nothing,
    processes_with_different_segments_share_a_consumer,
    an_event_of_another_process_is_found_by_polling
);

async fn r3_a_worker_killed_20_times_yields_the_same_read_model<DB: TestDatabase>(
    db: Database<DB>,
) {
    let mut head = 0;
    for n in 0..40 {
        let ids: Vec<String> = (0..25).map(|m| format!("u-{}", (n * m) % 13)).collect();
        head = *db.append("User", &ids).await.last().unwrap();
    }
    let start = || {
        WorkerProcess::of(WORKER, &db)
            .consumers(&["c"])
            .batch_size(1)
            .start()
    };
    let mut killed_on_the_way = 0;
    for kill in 0..20 {
        let worker = start();
        reached(&db, "c", head * kill / 20).await;
        // At a random moment in a batch or between two.
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..20_000))).await;
        worker.kill();
        killed_on_the_way += i32::from(db.checkpoint("c").await.unwrap() < head);
    }
    assert!(
        killed_on_the_way > 10,
        "only {killed_on_the_way} kills hit a worker that had work"
    );
    let worker = start();
    let head = db.append_one("User", "u-1").await;
    reached(&db, "c", head).await;
    assert!(worker.terminate());
    db.assert_applied_exactly_once("c").await;
}

async fn a_worker_killed_while_starting_does_not_block_others<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append_many(20).await;
    let head = *positions.last().unwrap();
    let started = Instant::now();
    let worker = WorkerProcess::of(WORKER, &db).consumers(&["first"]).start();
    until("it has enrolled its consumer", async || {
        db.checkpoint("first").await.is_some()
    })
    .await;
    let start = started.elapsed();
    worker.kill();
    let names: Vec<String> = (0..16).map(|n| format!("c-{n}")).collect();
    let mut killed_before_it_was_enrolled = 0;
    for (n, name) in (0_u32..).zip(&names) {
        let worker = WorkerProcess::of(WORKER, &db).consumers(&[name]).start();
        // At a random moment of its start. The first are killed early, since the start that was
        // measured may have been slow.
        let share = fastrand::f64() * f64::from(n) / 10.0;
        tokio::time::sleep(start.mul_f64(share)).await;
        worker.kill();
        killed_before_it_was_enrolled += i32::from(db.checkpoint(name).await.is_none());
    }
    println!(
        "a start takes {start:?}; {killed_before_it_was_enrolled} of 16 kills came before the enrolment"
    );
    assert!(
        killed_before_it_was_enrolled > 0,
        "no kill hit a worker on its start"
    );
    let names: Vec<&str> = names.iter().map(String::as_str).chain(["first"]).collect();
    let worker = WorkerProcess::of(WORKER, &db).consumers(&names).start();
    for name in &names {
        reached(&db, name, head).await;
    }
    assert!(worker.terminate());
    for name in names {
        db.assert_applied_exactly_once(name).await;
    }
}

async fn three_processes_share_consumers_and_repeat_nothing<DB: TestDatabase>(db: Database<DB>) {
    let workers = [(); 3].map(|()| {
        WorkerProcess::of(WORKER, &db)
            .consumers(&["a", "b"])
            .batch_size(7)
            .start()
    });
    let mut head = 0;
    for _ in 0..60 {
        head = *db
            .append("User", ["u-1", "u-2", "u-1"])
            .await
            .last()
            .unwrap();
    }
    reached(&db, "a", head).await;
    reached(&db, "b", head).await;
    for worker in workers {
        assert!(worker.terminate());
    }
    db.assert_applied_exactly_once("a").await;
    db.assert_applied_exactly_once("b").await;
}

async fn processes_with_different_segments_share_a_consumer<DB: TestDatabase>(db: Database<DB>) {
    let db = Arc::new(db);
    let start = |segments| {
        WorkerProcess::of(WORKER, &db)
            .consumers(&["c"])
            .batch_size(7)
            .segments(segments)
            .start()
    };
    let flow = |rounds| {
        let db = Arc::clone(&db);
        tokio::spawn(async move { append_to_many(&db, rounds).await })
    };
    let one = start(1);
    let events = append_to_many(&db, 3).await;
    applied(&db, "c", events).await;
    assert_eq!(rows(&db, "c").await, 1);
    let flowing = flow(12);
    let eight = start(8);
    until("the row is divided", async || rows(&db, "c").await == 8).await;
    eight.kill();
    let eight = start(8);
    applied(&db, "c", flowing.await.unwrap()).await;
    assert!(eight.terminate());
    // The one that is left is set to one lane, and has eight rows.
    let flowing = flow(6);
    let merged = consumer::merge_segments(&db.store, "c", 1, 2);
    patiently("eight rows become two", merged).await.unwrap();
    assert_eq!(rows(&db, "c").await, 2);
    applied(&db, "c", flowing.await.unwrap()).await;
    assert!(one.terminate());
    db.assert_applied_exactly_once_by_segments("c").await;
}

async fn an_event_of_another_process_is_found_by_polling<DB: TestDatabase>(db: Database<DB>) {
    let worker = WorkerProcess::of(WORKER, &db).consumers(&["c"]).start();
    until("it has started", async || {
        db.checkpoint("c").await.is_some()
    })
    .await;
    let head = db.append_one("User", "u-1").await;
    reached(&db, "c", head).await;
    assert!(worker.terminate());
    db.assert_applied_exactly_once("c").await;
}

test_on!(
    [postgres, through_a_pooler],
    another_process_takes_over_when_the_owner_is_killed,
    a_thawed_process_repeats_nothing_after_a_takeover,
    a_process_frozen_while_enrolling_does_not_block_others,
    two_releases_running_at_once_do_not_block_each_other
);

async fn another_process_takes_over_when_the_owner_is_killed(db: Database<Postgres>) {
    let head = db.append_many(10).await[9];
    let gate = Gate::closed();
    // A claim of an hour: only the lost connection can end it.
    let hour = Duration::from_hours(1);
    let owner = WorkerProcess::of(WORKER, &db)
        .consumers(&["c"])
        .gate(&gate.file())
        .claim_timeout(hour)
        .start();
    a_handler_holds_a_claim(&db).await;
    let heir = Running::start(db.worker().claim_timeout(hour).consumer(read_model("c")));
    // As long as its process exists, frozen or not, the claim holds.
    tries_to_claim(&db).await;
    owner.signal("STOP");
    tries_to_claim(&db).await;
    assert_eq!(db.applied("c").await, [] as [i64; 0]);
    let killed = Instant::now();
    owner.kill();
    patiently("it takes over", heir.caught_up_to(head))
        .await
        .unwrap();
    println!("took over {:?} after the kill", killed.elapsed());
    assert!(killed.elapsed() < LEEWAY);
    heir.stop().await;
    assert_eq!(db.applied("c").await, (1..=head).collect::<Vec<_>>());
}

async fn a_thawed_process_repeats_nothing_after_a_takeover(db: Database<Postgres>) {
    let head = db.append_many(10).await[9];
    let gate = Gate::closed();
    let timeout = Duration::from_secs(5);
    let frozen = WorkerProcess::of(WORKER, &db)
        .consumers(&["c"])
        .gate(&gate.file())
        .claim_timeout(timeout)
        .start();
    a_handler_holds_a_claim(&db).await;
    frozen.signal("STOP");
    let stopped = Instant::now();
    let heir = WorkerProcess::of(WORKER, &db).consumers(&["c"]).start();
    reached(&db, "c", head).await;
    let took = stopped.elapsed();
    println!("took over {took:?} after the freeze, claim timeout {timeout:?}");
    assert!(took < timeout + LEEWAY, "{took:?}");
    gate.open();
    frozen.signal("CONT");
    assert!(heir.terminate());
    let more = *db.append_many(3).await.last().unwrap();
    reached(&db, "c", more).await;
    assert!(frozen.terminate());
    db.assert_applied_exactly_once("c").await;
}

// The lock of enrolment stands for all that a worker locks outside its batches: a process that
// freezes while it holds the lock must not block others.
async fn a_process_frozen_while_enrolling_does_not_block_others(db: Database<Postgres>) {
    let head = db.append_many(3).await[2];
    let mut holder = db.store.begin().await.unwrap();
    let lock = format!("SELECT pg_advisory_xact_lock({ENROLL_LOCK})");
    sqlx::raw_sql(AssertSqlSafe(lock))
        .execute(&mut *holder)
        .await
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let restarts = directory.path().join("restarts");
    let frozen = WorkerProcess::of(WORKER, &db)
        .consumers(&["c"])
        .restarts(&restarts)
        .start();
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    until("it waits for the lock", async || {
        db.number(waiting).await > 0
    })
    .await;
    frozen.signal("STOP");
    holder.rollback().await.unwrap();
    until("the frozen one has it", async || {
        db.number(waiting).await == 0
    })
    .await;
    let heir = WorkerProcess::of(WORKER, &db).consumers(&["c"]).start();
    reached(&db, "c", head).await;
    assert!(heir.terminate());
    frozen.signal("CONT");
    let more = *db.append_many(3).await.last().unwrap();
    reached(&db, "c", more).await;
    assert!(frozen.terminate());
    db.assert_applied_exactly_once("c").await;
    // Its own start failed, and no other one.
    assert_eq!(
        std::fs::read_to_string(&restarts)
            .unwrap_or_default()
            .lines()
            .count(),
        1
    );
}

async fn two_releases_running_at_once_do_not_block_each_other(db: Database<Postgres>) {
    let first = db.append_many(5).await[4];
    let before = WorkerProcess::of(env!("CARGO_BIN_EXE_test_worker_before"), &db).start();
    for consumer in ["users", "orders"] {
        reached(&db, consumer, first).await;
    }
    let after = WorkerProcess::of(env!("CARGO_BIN_EXE_test_worker_after"), &db).start();
    let second = *db.append_many(5).await.last().unwrap();
    for consumer in ["users", "orders", "invoices"] {
        reached(&db, consumer, second).await;
    }
    assert!(before.terminate());
    let third = *db.append_many(5).await.last().unwrap();
    for consumer in ["orders", "invoices"] {
        reached(&db, consumer, third).await;
        db.assert_applied_exactly_once(consumer).await;
    }
    assert!(after.terminate());
    assert_eq!(
        db.checkpoint("users").await,
        Some(second),
        "no process has its code"
    );
}
