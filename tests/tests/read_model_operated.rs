//! Folds keep the worker's rules: pauses, time limits, replays, segments, and few statements.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consumer::admin::{Admin, ForgetOptions, RebuildOptions};
use consumer::prelude::*;
use consumer::{ConsumerState, Fold, OnError, Settings, WaitError};
use consumer_tests::{
    Database, Folding, Running, TestDatabase, folding, impatient, read_model, run_once, test_on,
    until,
};
use sqlx::Postgres;
use uuid::Uuid;

/// The number of events of an aggregate, whose id is a number.
#[derive(ReadModel, Debug)]
#[read_model(table = "counters")]
struct Counter {
    #[read_model(key)]
    id: i64,
    count: i64,
}

/// The number of events of an aggregate, whose id is a UUID.
#[derive(ReadModel, Debug)]
#[read_model(table = "devices")]
struct Device {
    #[read_model(key)]
    id: Uuid,
    count: i64,
}

/// Counts the events of each aggregate, and notes which of them were replays.
fn noting(replays: &Arc<Mutex<Vec<(i64, bool)>>>) -> Folding<Counter> {
    let replays = Arc::clone(replays);
    folding(
        "counters",
        |_, event, keys| keys.add_aggregate(event),
        move |cx, event, rows| {
            let seen = (event.global_position, cx.is_replay());
            replays.lock().unwrap().push(seen);
            let id = event.aggregate_id.parse()?;
            rows.row(&id)?.get_or_insert(Counter { id, count: 0 }).count += 1;
            Ok(())
        },
    )
}

fn counters() -> Folding<Counter> {
    noting(&Arc::default())
}

fn devices(settings: Settings) -> Folding<Device> {
    let folding = folding(
        "devices",
        |_, event, keys| keys.add_aggregate(event),
        |_, event, rows| {
            let id = event.aggregate_id.parse()?;
            rows.row(&id)?.get_or_insert(Device { id, count: 0 }).count += 1;
            Ok(())
        },
    );
    folding.settings(settings)
}

async fn counts<DB: TestDatabase>(db: &Database<DB>) -> Vec<i64> {
    db.numbers("SELECT count FROM counters_v1 ORDER BY id")
        .await
}

test_on!(
    [sqlite, postgres, through_a_pooler],
    a_paused_consumer_changes_no_row_until_it_is_resumed,
    a_consumer_started_anew_beside_its_worker_has_its_table,
    a_rebuilt_consumer_is_told_which_events_are_replays
);

test_on!(
    [sqlite, postgres],
    run_once_handles_what_is_in_the_log_and_ends,
    with_segments_a_uuid_is_written_as_its_key_is,
    a_retry_knows_the_segments_that_the_setting_does_not,
    without_segments_two_spellings_of_a_uuid_share_a_row,
    events_after_one_that_is_skipped_change_their_rows,
    a_fold_that_fails_twice_changes_each_row_once,
    a_fold_that_panics_twice_changes_each_row_once,
    a_statement_that_hangs_ends_after_the_handler_timeout
);

/// The worker, which prepared the table at its start, does not notice that it was dropped.
async fn a_consumer_started_anew_beside_its_worker_has_its_table<DB: TestDatabase>(
    db: Database<DB>,
) {
    let settings = impatient().retries(0).on_error(OnError::Skip);
    let counters = || counters().settings(settings.clone());
    let running = Running::start(db.worker().consumer(counters()));
    let first = db.append("Counter", ["1"]).await[0];
    running.caught_up_to(first).await.unwrap();
    // Of a program without the consumer, which would refuse to forget its own.
    let other = Admin::new(db.store.clone());
    let forgotten = other.forget("counters", ForgetOptions::new());
    forgotten.await.unwrap();
    let admin = db.worker().consumer(counters()).admin().unwrap();
    admin.start_new("counters").await.unwrap();
    db.append("Counter", ["1"]).await;
    until("both events are counted", async || counts(&db).await == [2]).await;
    running.stop().await;
}

async fn a_paused_consumer_changes_no_row_until_it_is_resumed<DB: TestDatabase>(db: Database<DB>) {
    let worker = db.worker().consumer(counters());
    let running = Running::start(worker.consumer(read_model("other")));
    let first = db.append("Counter", ["1"]).await[0];
    running.caught_up_to(first).await.unwrap();
    let admin = Admin::new(db.store.clone());
    admin.pause("counters").await.unwrap();
    let second = db.append("Counter", ["1", "2"]).await[1];
    running
        .consumer_caught_up_to("other", second)
        .await
        .unwrap();
    let paused = running.consumer_caught_up_to("counters", second).await;
    assert!(
        matches!(
            paused,
            Err(WaitError::NotRunning {
                state: ConsumerState::Paused,
                ..
            })
        ),
        "{paused:?}"
    );
    assert_eq!(counts(&db).await, [1]);
    admin.resume("counters").await.unwrap();
    let found = db
        .store
        .find_as_of::<Counter>(&2, second, Duration::from_mins(1));
    assert_eq!(found.await.unwrap().unwrap().count, 1);
    assert_eq!(counts(&db).await, [2, 1]);
    running.stop().await;
}

async fn a_rebuilt_consumer_is_told_which_events_are_replays<DB: TestDatabase>(db: Database<DB>) {
    let replays = Arc::default();
    let before = db.append("Counter", ["1", "2"]).await;
    run_once(db.worker().consumer(noting(&replays))).await;
    let admin = db.worker().consumer(noting(&replays)).admin().unwrap();
    let rebuilt = admin.rebuild("counters", RebuildOptions::new()).await;
    rebuilt.unwrap();
    let after = db.append("Counter", ["1"]).await[0];
    run_once(db.worker().consumer(noting(&replays))).await;
    let [one, two] = before[..] else {
        panic!("{before:?}");
    };
    assert_eq!(
        *replays.lock().unwrap(),
        [
            (one, false),
            (two, false),
            (one, true),
            (two, true),
            (after, false)
        ]
    );
    assert_eq!(counts(&db).await, [2, 1]);
}

async fn run_once_handles_what_is_in_the_log_and_ends<DB: TestDatabase>(db: Database<DB>) {
    let last = db.append("Counter", ["1", "2", "1"]).await[2];
    let report = run_once(db.worker().consumer(counters())).await;
    let counters = report.consumer("counters").unwrap();
    assert_eq!((counters.events, counters.position), (3, Some(last)));
    assert_eq!(counters.state, ConsumerState::CaughtUp);
    assert_eq!(counts(&db).await, [2, 1]);
}

const LOWER: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

async fn with_segments_a_uuid_is_written_as_its_key_is<DB: TestDatabase>(db: Database<DB>) {
    let upper = LOWER.to_uppercase();
    db.append("Device", [LOWER, &upper]).await;
    let settings = impatient().retries(0).segments(2);
    let report = run_once(db.worker().consumer(devices(settings))).await;
    let report = report.to_string();
    assert!(report.contains(&format!("`{upper}`")), "{report}");
    let counts = db.numbers("SELECT count FROM devices_v1").await;
    assert!(counts.iter().all(|&count| count == 1), "{counts:?}");
}

/// A smaller setting merges nothing, so that other segments may have the row.
async fn a_retry_knows_the_segments_that_the_setting_does_not<DB: TestDatabase>(db: Database<DB>) {
    db.append("Device", [LOWER.to_uppercase()]).await;
    let parks = || impatient().retries(0).on_error(OnError::Park);
    run_once(db.worker().consumer(devices(parks().segments(2)))).await;
    let admin = db.worker().consumer(devices(parks())).admin().unwrap();
    let retried = admin.retry_parked("devices", None).await.unwrap();
    assert_eq!((retried.handled, retried.failed.len()), (0, 1));
    let failed = format!("{:?}", retried.failed[0]);
    assert!(failed.contains("OtherSpelling"), "{failed}");
    assert_eq!(db.number("SELECT count(*) FROM devices_v1").await, 0);
}

async fn without_segments_two_spellings_of_a_uuid_share_a_row<DB: TestDatabase>(db: Database<DB>) {
    db.append("Device", [LOWER, &LOWER.to_uppercase()]).await;
    run_once(db.worker().consumer(devices(Settings::default()))).await;
    assert_eq!(db.numbers("SELECT count FROM devices_v1").await, [2]);
}

async fn events_after_one_that_is_skipped_change_their_rows<DB: TestDatabase>(db: Database<DB>) {
    // The key of the second event cannot be read.
    let last = db.append("Counter", ["1", "one", "1"]).await[2];
    let skips = impatient().retries(0).on_error(OnError::Skip);
    run_once(db.worker().consumer(counters().settings(skips))).await;
    assert_eq!(counts(&db).await, [2]);
    assert_eq!(db.checkpoint("counters").await, Some(last));
}

/// Counts the events, of which one changes its row and fails on its first two attempts.
async fn retried<DB: TestDatabase>(db: Database<DB>, fail: fn() -> Result<(), HandlerError>) {
    let positions = db.append("Counter", ["1", "2", "1", "3", "1", "2"]).await;
    let (failing, failures) = (positions[2], Arc::new(AtomicU32::new(0)));
    let failed = Arc::clone(&failures);
    let retried = folding::<Counter>(
        "counters",
        |_, event, keys| keys.add_aggregate(event),
        move |_, event, rows| {
            let id = event.aggregate_id.parse()?;
            rows.row(&id)?.get_or_insert(Counter { id, count: 0 }).count += 1;
            if event.global_position == failing && failed.fetch_add(1, Ordering::SeqCst) < 2 {
                return fail();
            }
            Ok(())
        },
    );
    let retried = retried.settings(impatient().retries(3));
    let report = run_once(db.worker().consumer(retried)).await;
    assert!(!report.has_failures(), "{report}");
    assert!(failures.load(Ordering::SeqCst) > 2);
    assert_eq!(counts(&db).await, [3, 2, 1]);
}

async fn a_fold_that_fails_twice_changes_each_row_once<DB: TestDatabase>(db: Database<DB>) {
    retried(db, || Err("not yet".into())).await;
}

async fn a_fold_that_panics_twice_changes_each_row_once<DB: TestDatabase>(db: Database<DB>) {
    // Without the message that a panic prints.
    retried(db, || std::panic::resume_unwind(Box::new("not yet"))).await;
}

test_on!(
    [postgres],
    a_batch_writes_each_changed_row_once_in_one_statement,
    a_batch_locks_rows_in_the_order_of_their_keys,
    a_batch_deletes_rows_in_the_order_of_their_keys,
    a_deadlock_rolls_a_fold_back_and_counts_as_no_attempt,
    each_statement_counts_as_one_call_of_the_handler
);

/// Records each statement that changes the table, and how many rows it changes.
const RECORD_STATEMENTS: &str = "
    CREATE TABLE statements (kind text, rows bigint);
    CREATE FUNCTION note_rows() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO statements SELECT TG_OP, count(*) FROM changed; RETURN NULL;
    END $$;
    CREATE TRIGGER i AFTER INSERT ON counters_v1 REFERENCING NEW TABLE AS changed
        FOR EACH STATEMENT EXECUTE FUNCTION note_rows();
    CREATE TRIGGER u AFTER UPDATE ON counters_v1 REFERENCING NEW TABLE AS changed
        FOR EACH STATEMENT EXECUTE FUNCTION note_rows();
    CREATE TRIGGER d AFTER DELETE ON counters_v1 REFERENCING OLD TABLE AS changed
        FOR EACH STATEMENT EXECUTE FUNCTION note_rows();";

/// Counts the events of each aggregate, and deletes its row at the third.
fn deleting() -> Folding<Counter> {
    folding::<Counter>(
        "counters",
        |_, event, keys| keys.add_aggregate(event),
        |_, event, rows| {
            let id = event.aggregate_id.parse()?;
            let row = rows.row(&id)?;
            let count = row.as_ref().map_or(1, |row| row.count + 1);
            *row = (count < 3).then_some(Counter { id, count });
            Ok(())
        },
    )
}

async fn a_batch_writes_each_changed_row_once_in_one_statement(db: Database<Postgres>) {
    let ids = |range: std::ops::Range<i64>| range.map(|id| id.to_string()).collect::<Vec<_>>();
    db.append("Counter", ids(0..20)).await;
    run_once(db.worker().consumer(deleting())).await;
    db.execute(RECORD_STATEMENTS).await;
    // Rows 0 to 9 get to 2, rows 10 to 14 are deleted, rows 20 to 24 are new; row 25 comes and goes.
    for range in [0..10, 10..15, 10..15, 20..25, 25..26, 25..26, 25..26] {
        db.append("Counter", ids(range)).await;
    }
    run_once(db.worker().consumer(deleting())).await;
    let statements = "SELECT kind || ' ' || sum(rows) || ' in ' || count(*) FILTER (WHERE rows > 0)
                        FROM statements GROUP BY kind ORDER BY kind";
    assert_eq!(
        db.texts(statements).await,
        ["DELETE 5 in 1", "INSERT 5 in 1", "UPDATE 10 in 1"]
    );
    assert_eq!(db.number("SELECT count(*) FROM counters_v1").await, 20);
}

/// Otherwise two transactions could wait for each other.
async fn a_batch_locks_rows_in_the_order_of_their_keys(db: Database<Postgres>) {
    run_once(db.worker().consumer(counters())).await;
    db.execute(
        "CREATE TABLE locked (place bigserial, id bigint);
         CREATE FUNCTION note_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO locked (id) VALUES (NEW.id); RETURN NEW;
         END $$;
         CREATE TRIGGER r BEFORE INSERT OR UPDATE ON counters_v1
             FOR EACH ROW EXECUTE FUNCTION note_row()",
    )
    .await;
    let locked = "SELECT id FROM locked GROUP BY id ORDER BY min(place)";
    for _ in 0..2 {
        db.execute("DELETE FROM locked").await;
        db.append("Counter", ["30", "4", "200", "4", "1"]).await;
        run_once(db.worker().consumer(counters())).await;
        assert_eq!(db.numbers(locked).await, [1, 4, 30, 200]);
    }
}

/// Waits until this number of sessions waits for locks.
async fn wait_for_locks(db: &Database<Postgres>, sessions: i64) {
    let waiting = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let are_waiting = async || db.number(waiting).await == sessions;
    until("sessions wait for locks", are_waiting).await;
}

async fn lock(tx: &mut PgConnection, id: i64) {
    let lock = "SELECT FROM counters_v1 WHERE id = $1 FOR UPDATE";
    let lock = sqlx::query(lock).bind(id).execute(tx);
    lock.await.unwrap();
}

/// The rows that are free when a deletion waits for row 30.
async fn free_while_30_is_awaited(
    db: &Database<Postgres>,
    deletion: impl Future<Output = ()> + Send + 'static,
) -> Vec<i64> {
    let mut holder = db.pool.begin().await.unwrap();
    lock(&mut holder, 30).await;
    let deletion = tokio::spawn(deletion);
    wait_for_locks(db, 1).await;
    let free = "SELECT id FROM counters_v1 ORDER BY id FOR UPDATE SKIP LOCKED";
    let free = db.numbers(free).await;
    holder.rollback().await.unwrap();
    deletion.await.unwrap();
    free
}

async fn a_batch_deletes_rows_in_the_order_of_their_keys(db: Database<Postgres>) {
    run_once(db.worker().consumer(deleting())).await;
    // In the table, their order is another one.
    let rows = "INSERT INTO counters_v1 VALUES (200, 2), (30, 2), (4, 2), (1, 2)";
    db.execute(rows).await;
    // The control: without the order, the plan decides.
    let mut tx = db.pool.begin().await.unwrap();
    let free = free_while_30_is_awaited(&db, async move {
        let delete = "SET LOCAL enable_indexscan = off;
                      DELETE FROM counters_v1 WHERE id = ANY ('{1, 4, 30, 200}')";
        sqlx::raw_sql(delete).execute(&mut *tx).await.unwrap();
        tx.rollback().await.unwrap();
    });
    assert_eq!(free.await, [1, 4]);

    db.append("Counter", ["200", "30", "4", "1"]).await;
    let worker = db.worker().consumer(deleting());
    let free = free_while_30_is_awaited(&db, async move {
        run_once(worker).await;
    });
    assert_eq!(free.await, [200]);
    assert_eq!(counts(&db).await, [0; 0]);
}

/// A batch that updates rows 1 and 2 and deletes row 3 waits for a transaction that waits for the batch.
async fn a_deadlock_rolls_a_fold_back_and_counts_as_no_attempt(db: Database<Postgres>) {
    db.append("Counter", ["3", "1", "2", "3"]).await;
    run_once(db.worker().consumer(deleting())).await;
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let (noted, deleting) = (Arc::clone(&attempts), deleting());
    let counters = folding::<Counter>(
        "counters",
        |_, event, keys| keys.add_aggregate(event),
        move |cx, event, rows| {
            noted.lock().unwrap().push(cx.attempt());
            deleting.fold(cx, event, rows)
        },
    );
    let (mut of_2, mut of_3) = (
        db.pool.begin().await.unwrap(),
        db.pool.begin().await.unwrap(),
    );
    lock(&mut of_2, 2).await;
    // This transaction does not look for deadlocks, so that the batch is the one that fails.
    let patient = "SET LOCAL deadlock_timeout = '1h'";
    sqlx::raw_sql(patient).execute(&mut *of_3).await.unwrap();
    lock(&mut of_3, 3).await;

    db.append("Counter", ["1", "2", "3"]).await;
    let worker = db
        .worker()
        .consumer(counters.settings(impatient().retries(0)));
    let running = tokio::spawn(run_once(worker));
    wait_for_locks(&db, 1).await;
    let other = tokio::spawn(async move {
        lock(&mut of_3, 1).await;
        of_3.rollback().await.unwrap();
    });
    wait_for_locks(&db, 2).await;
    of_2.rollback().await.unwrap();
    other.await.unwrap();

    let report = running.await.unwrap();
    assert!(!report.has_failures(), "{report}");
    assert_eq!(counts(&db).await, [2, 2]);
    // The control: the batch was handled again.
    let attempts = attempts.lock().unwrap();
    assert!(attempts.len() > 3, "{attempts:?}");
    assert!(attempts.iter().all(|&attempt| attempt == 1), "{attempts:?}");
}

/// Makes each statement that inserts rows take a while.
fn slow_inserts(seconds: f64) -> String {
    format!(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_sleep({seconds}); RETURN NULL;
         END $$;
         CREATE TRIGGER w AFTER INSERT ON counters_v1
             FOR EACH STATEMENT EXECUTE FUNCTION wait()"
    )
}

/// Makes each statement that inserts rows take forever.
fn endless_inserts<DB: TestDatabase>() -> String {
    if DB::NAME == "SQLite" {
        let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                       SELECT count(*) AS i FROM n";
        let inserts = "AFTER INSERT ON counters_v1 BEGIN SELECT i FROM endless; END";
        return format!("CREATE VIEW endless AS {endless}; CREATE TRIGGER w {inserts}");
    }
    slow_inserts(3_600.0)
}

async fn a_statement_that_hangs_ends_after_the_handler_timeout<DB: TestDatabase>(db: Database<DB>) {
    run_once(db.worker().consumer(counters())).await;
    db.execute(&endless_inserts::<DB>()).await;
    db.append("Counter", ["1"]).await;
    let settings = impatient()
        .retries(0)
        .handler_timeout(Duration::from_millis(100));
    let report = run_once(db.worker().consumer(counters().settings(settings))).await;
    let report = report.to_string();
    assert!(report.contains("`handler_timeout` of 100ms"), "{report}");
    assert_eq!(counts(&db).await, [0; 0]);
}

/// The event needs so many rows that they are written in five statements, which together take longer
/// than a call may.
async fn each_statement_counts_as_one_call_of_the_handler(db: Database<Postgres>) {
    const ROWS: i64 = 50_000;
    let fills = || {
        folding::<Counter>(
            "counters",
            |_, _, keys| (0..ROWS).try_for_each(|id| keys.add(id)),
            |_, _, rows| (0..ROWS).try_for_each(|id| rows.put(&id, Counter { id, count: 1 })),
        )
    };
    run_once(db.worker().consumer(fills())).await;
    db.execute(&slow_inserts(1.5)).await;
    db.append("Counter", ["1"]).await;
    let settings = impatient()
        .retries(0)
        .handler_timeout(Duration::from_secs(6));
    let report = run_once(db.worker().consumer(fills().settings(settings))).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(db.number("SELECT count(*) FROM counters_v1").await, ROWS);
}
