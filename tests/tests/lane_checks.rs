//! What a lane checks before it handles events and before it saves: its checkpoint row may have changed since
//! they were read, and a failure is that of one event.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use consumer::admin::Admin;
use consumer::{BatchError, ConsumerState, OnError, Settings, WorkerBuilder, aggregate_slice};
use consumer_tests::{
    Database, Model, Running, TestConsumer, TestDatabase, batch_consumer, consumer, impatient,
    judging, patiently, read_model, run_once, test_on, until,
};
use sqlx::{Connection as _, Postgres, Sqlite};
use tokio::sync::{Notify, Semaphore};

test_on!(
    [sqlite, postgres],
    a_batch_above_a_lowered_checkpoint_leaves_nothing_out,
    a_batch_that_another_process_handled_is_not_handled,
    a_row_that_waits_stops_at_its_hold_and_misses_nothing,
    an_idle_row_is_advanced_in_the_epoch_that_it_has,
    attempts_at_an_event_of_another_half_do_not_count,
    a_batch_that_ends_before_its_first_event_is_handled_later,
    an_event_is_left_to_releases_that_have_not_failed_on_it,
    a_retry_beyond_a_hold_waits_for_it,
    a_resume_ends_the_backoff,
    only_the_event_that_failed_has_another_attempt,
    events_that_may_have_failed_are_not_judged_together,
    a_failure_behind_a_parked_event_is_that_of_its_own_event,
    events_wait_behind_parked_ones_of_any_aggregate,
);

test_on!(
    [postgres],
    a_claim_that_shows_a_change_reads_the_log_again,
    a_claim_that_shows_a_failure_elsewhere_waits_too,
    a_batch_that_waited_through_a_redaction_is_read_again,
);

test_on!([sqlite], nothing_is_saved_in_a_row_that_changed_meanwhile);

/// Keeps a worker from claiming the row.
const LOCK: &str = "SELECT 1 FROM consumer_progress WHERE consumer = 'users' FOR UPDATE";

/// A worker that sees how its rows have changed only when it claims them.
fn without_snapshots<DB: TestDatabase>(db: &Database<DB>) -> WorkerBuilder<DB> {
    db.worker().snapshot_interval(Duration::from_hours(1))
}

async fn reaches<DB: TestDatabase>(running: &Running<DB>, position: i64) {
    patiently("it catches up", running.caught_up_to(position))
        .await
        .unwrap();
}

async fn a_batch_above_a_lowered_checkpoint_leaves_nothing_out<DB: TestDatabase>(db: Database<DB>) {
    let running = Running::start(without_snapshots(&db).consumer(read_model("users")));
    let before = db.append("User", ["a", "b", "c"]).await;
    reaches(&running, before[2]).await;
    let lower = format!("UPDATE consumer_progress SET position = {}", before[0]);
    db.execute(&lower).await;
    let last = db.append_one("User", "d").await;
    reaches(&running, last).await;
    running.stop().await;
    let again = &before[1..];
    assert_eq!(
        db.applied("users").await,
        [&before, again, &[last]].concat()
    );
}

async fn a_batch_that_another_process_handled_is_not_handled<DB: TestDatabase>(db: Database<DB>) {
    let running = Running::start(without_snapshots(&db).consumer(read_model("users")));
    let first = db.append_one("User", "a").await;
    reaches(&running, first).await;
    let mut connection = db.pool.acquire().await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let elsewhere = db.append_in(&mut tx, "b").await;
    let advance = format!("UPDATE consumer_progress SET position = {elsewhere}");
    DB::execute_sql(&mut tx, &advance).await.unwrap();
    tx.commit().await.unwrap();
    drop(connection);
    let last = db.append_one("User", "c").await;
    reaches(&running, last).await;
    running.stop().await;
    assert_eq!(db.applied("users").await, [first, last]);
}

/// One of the events before the hold fails once, so that a batch ends before it.
async fn a_row_that_waits_stops_at_its_hold_and_misses_nothing<DB: TestDatabase>(db: Database<DB>) {
    let empty = read_model("users").scope(&["User"]);
    run_once(db.worker().scoped_consumer(empty)).await;
    let before = db.append("User", ["a"; 5]).await;
    let between = db.append("Order", ["o"; 5]).await;
    let after = db.append("User", ["a"; 5]).await;
    let hold_at = between[2];
    // SQLite compares text as later than any number.
    let hold = "UPDATE consumer_progress SET hold_until = '2100-01-01', hold_at";
    db.execute(&format!("{hold} = {hold_at}")).await;

    let bad = before[3];
    let users = judging("users", move |cx, event| {
        let fails = event.global_position == bad && cx.attempt() == 1;
        if fails { Err("not now".into()) } else { Ok(()) }
    });
    let users = users.scope(&["User"]).settings(impatient().batch_size(2));
    let running = Running::start(db.worker().scoped_consumer(users));
    until("it waits", async || {
        db.checkpoint("users").await >= Some(hold_at)
    })
    .await;
    assert_eq!(db.checkpoint("users").await, Some(hold_at));
    assert_eq!(db.applied("users").await, before);

    db.execute("UPDATE consumer_progress SET hold_until = NULL")
        .await;
    reaches(&running, after[4]).await;
    running.stop().await;
    assert_eq!(db.applied("users").await, [before, after].concat());
}

async fn an_idle_row_is_advanced_in_the_epoch_that_it_has<DB: TestDatabase>(db: Database<DB>) {
    let worker = db.worker().advance_interval(Duration::from_millis(10));
    let orders = read_model("orders").scope(&["Order"]);
    let running = Running::start(worker.scoped_consumer(orders));
    reaches(&running, db.append_one("User", "a").await).await;
    for change in ["epoch = epoch + 1", "epoch = epoch - 1"] {
        db.execute(&format!("UPDATE consumer_progress SET {change}"))
            .await;
        let last = db.append_one("User", "a").await;
        until(change, async || db.checkpoint("orders").await == Some(last)).await;
    }
    running.stop().await;
}

/// The row is like the half of one that was divided while an event of the other half was retried.
async fn attempts_at_an_event_of_another_half_do_not_count<DB: TestDatabase>(db: Database<DB>) {
    db.run_once(read_model("users")).await;
    db.append_one("User", "a").await;
    db.execute("UPDATE consumer_progress SET attempts = 2, failed_position = 1000000")
        .await;
    let attempts: Arc<Mutex<Vec<u32>>> = Arc::default();
    let seen = Arc::clone(&attempts);
    let users = judging("users", move |cx, _| {
        seen.lock().unwrap().push(cx.attempt());
        Err("no".into())
    });
    db.run_once(users.settings(impatient().retries(2))).await;
    assert_eq!(*attempts.lock().unwrap(), [1, 2, 3]);
}

async fn a_batch_that_ends_before_its_first_event_is_handled_later<DB: TestDatabase>(
    db: Database<DB>,
) {
    let appended = db.append("User", ["a", "b"]).await;
    let entered = Arc::new(Notify::new());
    let has_entered = Arc::clone(&entered);
    let idle = batch_consumer("users", move |cx, _, _| {
        has_entered.notify_one();
        Box::pin(async move {
            until("the worker shuts down", async || cx.should_stop(1)).await;
            Ok(0)
        })
    });
    let running = Running::start(db.worker().consumer(idle));
    patiently("the batch begins", entered.notified()).await;
    running.stop().await;
    db.run_once(read_model("users")).await;
    assert_eq!(db.applied("users").await, appended);
}

async fn an_event_is_left_to_releases_that_have_not_failed_on_it<DB: TestDatabase>(
    db: Database<DB>,
) {
    let worker = without_snapshots(&db).release("1.0");
    let running = Running::start(worker.consumer(read_model("users")));
    let first = db.append_one("User", "a").await;
    reaches(&running, first).await;
    let mut connection = db.pool.acquire().await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let bad = db.append_in(&mut tx, "a").await;
    let failed = "UPDATE consumer_progress SET failed_releases = '\n1.0\n', failed_position";
    let failed = format!("{failed} = {bad}");
    DB::execute_sql(&mut tx, &failed).await.unwrap();
    tx.commit().await.unwrap();
    drop(connection);
    until("the release leaves it", async || {
        let state = &running.consumers()[0].state;
        matches!(state, ConsumerState::Stopped { .. }) || db.applied("users").await.len() > 1
    })
    .await;
    running.stop().await;
    assert_eq!(db.applied("users").await, [first]);
}

async fn a_retry_beyond_a_hold_waits_for_it<DB: TestDatabase>(db: Database<DB>) {
    let users = || read_model("users").scope(&["User"]);
    run_once(db.worker().scoped_consumer(users())).await;
    let between = db.append("Order", ["o"; 3]).await;
    let bad = db.append_one("User", "a").await;
    db.execute(&format!(
        "UPDATE consumer_progress
            SET hold_until = '2100-01-01', hold_at = {}, attempts = 1, failed_position = {bad}",
        between[1]
    ))
    .await;
    let running = Running::start(db.worker().scoped_consumer(users()));
    until("it waits", async || {
        db.checkpoint("users").await >= Some(between[1])
    })
    .await;
    assert_eq!(db.checkpoint("users").await, Some(between[1]));
    assert_eq!(db.applied("users").await, [0; 0]);
    db.execute("UPDATE consumer_progress SET hold_until = NULL")
        .await;
    reaches(&running, bad).await;
    running.stop().await;
    assert_eq!(db.applied("users").await, [bad]);
}

async fn a_resume_ends_the_backoff<DB: TestDatabase>(db: Database<DB>) {
    let hour = Duration::from_hours(1);
    let settings = Settings::default().backoff(hour, hour);
    let model = Model::new("users").settings(settings);
    model.fail_on("a", true);
    let worker = || db.worker().scoped_consumer(model.clone());
    let position = db.append_one("User", "a").await;
    let running = Running::start(worker());
    until("it waits for its retry", async || {
        let state = &running.consumers()[0].state;
        matches!(state, ConsumerState::Retrying { .. })
    })
    .await;
    model.fail_on("a", false);
    worker().admin().unwrap().resume("users").await.unwrap();
    reaches(&running, position).await;
    running.stop().await;
    assert_eq!(db.applied("users").await, [position]);
}

async fn only_the_event_that_failed_has_another_attempt<DB: TestDatabase>(db: Database<DB>) {
    let [first, second, third] = db.append("User", ["a", "b", "c"]).await[..] else {
        panic!("three events");
    };
    let attempts: Arc<Mutex<Vec<(i64, u32)>>> = Arc::default();
    let seen = Arc::clone(&attempts);
    let users = judging("users", move |cx, event| {
        let attempt = (event.global_position, cx.attempt());
        seen.lock().unwrap().push(attempt);
        if attempt == (first, 1) {
            return Err("not now".into());
        }
        Ok(())
    });
    db.run_once(users.settings(impatient())).await;
    assert_eq!(
        *attempts.lock().unwrap(),
        [(first, 1), (first, 2), (second, 1), (third, 1)]
    );
}

/// The handler only knows that one of the events after the first has failed.
async fn events_that_may_have_failed_are_not_judged_together<DB: TestDatabase>(db: Database<DB>) {
    let appended = db.append("User", ["a", "b", "c", "d"]).await;
    let bad = appended[2];
    let users = batch_consumer("users", move |_, tx: &mut DB::Connection, events| {
        Box::pin(async move {
            for event in events {
                let applied = DB::apply(tx, "users", event).await;
                applied.map_err(|error| BatchError::at(0, error))?;
            }
            match events.iter().position(|event| event.global_position == bad) {
                None => Ok(events.len()),
                Some(at) => Err(BatchError::within(at.min(1), events.len(), "one of them")),
            }
        })
    });
    let settings = impatient().retries(0).on_error(OnError::Skip);
    db.run_once(users.settings(settings)).await;
    let others = [appended[0], appended[1], appended[3]];
    assert_eq!(db.applied("users").await, others);
}

async fn a_failure_behind_a_parked_event_is_that_of_its_own_event<DB: TestDatabase>(
    db: Database<DB>,
) {
    let users = || {
        let users = judging("users", |_, event| match &*event.aggregate_id {
            "good" => Ok(()),
            _ => Err("no".into()),
        });
        users.settings(impatient().retries(0).on_error(OnError::Park))
    };
    let first = db.append_one("User", "parked").await;
    db.run_once(users()).await;
    let mut connection = db.pool.acquire().await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let behind = db.append_in(&mut tx, "parked").await;
    let good = db.append_in(&mut tx, "good").await;
    let bad = db.append_in(&mut tx, "bad").await;
    tx.commit().await.unwrap();
    drop(connection);
    db.run_once(users()).await;
    assert_eq!(db.parked("users").await, [first, behind, bad]);
    assert_eq!(db.applied("users").await, [good]);
}

/// Also in the first and the last slice, and where its name is too long for the index.
async fn events_wait_behind_parked_ones_of_any_aggregate<DB: TestDatabase>(db: Database<DB>) {
    let of_slice = |slice| {
        let mut ids = (0..1_000).map(|n| format!("u-{n}"));
        ids.find(|id| aggregate_slice(id) == slice).unwrap()
    };
    let ids = [of_slice(0), of_slice(1023), "long ".repeat(2_000)];
    let users = |fails| {
        let users = judging(
            "users",
            move |_, _| if fails { Err("no".into()) } else { Ok(()) },
        );
        users.settings(impatient().retries(0).on_error(OnError::Park))
    };
    let first = db.append("User", &ids).await;
    db.run_once(users(true)).await;
    let behind = db.append("User", &ids).await;
    let free = db.append_one("User", "free").await;
    db.run_once(users(false)).await;
    assert_eq!(db.parked("users").await, [first, behind].concat());
    assert_eq!(db.applied("users").await, [free]);
}

/// A consumer that notes the payload of each event.
fn noting_payloads() -> (TestConsumer<Postgres>, Arc<Mutex<Vec<String>>>) {
    let payloads: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&payloads);
    let users = judging("users", move |_, event| {
        let payload = String::from_utf8_lossy(&event.payload).into_owned();
        seen.lock().unwrap().push(payload);
        Ok(())
    });
    (users, payloads)
}

/// The other consumer has brought the event into memory before it is corrected.
async fn a_claim_that_shows_a_change_reads_the_log_again(db: Database<Postgres>) {
    let (users, payloads) = noting_payloads();
    let worker = without_snapshots(&db).consumer(users);
    let running = Running::start(worker.consumer(read_model("others")));
    reaches(&running, db.append_one("User", "a").await).await;
    for change in ["epoch = epoch + 1", "attempts = 1, failed_position = $"] {
        let mut connection = db.pool.acquire().await.unwrap();
        let mut tx = connection.begin().await.unwrap();
        Postgres::execute_sql(&mut tx, LOCK).await.unwrap();
        let last = db.append_one("User", "a").await;
        let read = running.consumer_caught_up_to("others", last);
        patiently("the event is in memory", read).await.unwrap();
        let change = change.replace('$', &last.to_string());
        let correct = format!(
            "UPDATE events SET payload = 'corrected' WHERE global_position = {last};
             UPDATE consumer_progress SET {change} WHERE consumer = 'users'"
        );
        Postgres::execute_sql(&mut tx, &correct).await.unwrap();
        tx.commit().await.unwrap();
        reaches(&running, last).await;
    }
    running.stop().await;
    let expected = ["{}", "corrected", "corrected"];
    assert_eq!(*payloads.lock().unwrap(), expected);
}

/// Its row is as it was: only the log tells that an event was changed.
async fn a_batch_that_waited_through_a_redaction_is_read_again(db: Database<Postgres>) {
    let (users, payloads) = noting_payloads();
    let worker = db.worker().consumer(users).consumer(read_model("others"));
    let running = Running::start(worker);
    reaches(&running, db.append_one("User", "a").await).await;
    let mut connection = db.pool.acquire().await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    Postgres::execute_sql(&mut tx, LOCK).await.unwrap();
    let last = db.append_one("User", "a").await;
    let read = running.consumer_caught_up_to("others", last);
    patiently("the event is in memory", read).await.unwrap();
    let admin = Admin::new(db.store.clone());
    admin.redact(last, "corrected").await.unwrap();
    admin.pause("others").await.unwrap();
    until("the worker has read the rows after that", async || {
        let mut consumers = running.consumers().into_iter();
        consumers.any(|one| &*one.id.name == "others" && one.state == ConsumerState::Paused)
    })
    .await;
    tx.commit().await.unwrap();
    let handled = running.consumer_caught_up_to("users", last);
    patiently("it is handled", handled).await.unwrap();
    running.stop().await;
    assert_eq!(*payloads.lock().unwrap(), ["{}", "corrected"]);
}

/// The process that counted the failure is not the one that has to wait.
async fn a_claim_that_shows_a_failure_elsewhere_waits_too(db: Database<Postgres>) {
    const TOO_EARLY: &str =
        "SELECT count(*) FROM consumer_progress WHERE retry_at > clock_timestamp()";
    let early: Arc<Mutex<Vec<i64>>> = Arc::default();
    let noted = Arc::clone(&early);
    let users = consumer("users", move |_, tx, event| {
        let noted = Arc::clone(&noted);
        Box::pin(async move {
            let waiting = Postgres::numbers(tx, TOO_EARLY).await?[0];
            noted.lock().unwrap().push(waiting);
            Ok(Postgres::apply(tx, "users", event).await?)
        })
    });
    let running = Running::start(without_snapshots(&db).consumer(users));
    let first = db.append_one("User", "a").await;
    reaches(&running, first).await;
    let mut connection = db.pool.acquire().await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    Postgres::execute_sql(&mut tx, LOCK).await.unwrap();
    let last = db.append_one("User", "a").await;
    let fail = format!(
        "UPDATE consumer_progress SET attempts = 1, failed_position = {last}, error = 'no',
                retry_at = clock_timestamp() + interval '3 seconds'"
    );
    Postgres::execute_sql(&mut tx, &fail).await.unwrap();
    tx.commit().await.unwrap();
    reaches(&running, last).await;
    running.stop().await;
    assert_eq!(db.applied("users").await, [first, last]);
    assert_eq!(*early.lock().unwrap(), [0, 0]);
}

/// On SQLite no lock is held while a handler works that ignores its transaction (R5).
async fn nothing_is_saved_in_a_row_that_changed_meanwhile(db: Database<Sqlite>) {
    const CHANGES: [(&str, &str); 6] = [
        ("paused", "state = 'paused'"),
        ("advanced", "position = 2"),
        ("resumed", "epoch = epoch + 1"),
        ("resized", "slice_to = 512"),
        ("rescoped", "scope = 'Order'"),
        ("failed", "attempts = 1, failed_position = 2"),
    ];
    let in_lower_half = |id: &String| aggregate_slice(id) < 512;
    let id = (0..1_000)
        .map(|n| format!("u-{n}"))
        .find(in_lower_half)
        .unwrap();
    assert_eq!(db.append("User", [&id, &id]).await, [1, 2]);
    for (fails, (name, change)) in [false, true]
        .into_iter()
        .flat_map(|fails| CHANGES.map(|one| (fails, one)))
    {
        let name = format!("{name}-{fails}");
        let (entered, gate) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
        let calls: Arc<Mutex<u32>> = Arc::default();
        let (called, opened, counted) = (entered.clone(), gate.clone(), calls.clone());
        let users = consumer(&name, move |_, _, _| {
            *counted.lock().unwrap() += 1;
            called.notify_one();
            let opened = opened.clone();
            Box::pin(async move {
                opened.acquire().await?.forget();
                if fails { Err("no".into()) } else { Ok(()) }
            })
        });
        let users = users.scope(&["User"]).without_tx();
        let users = users.settings(impatient().batch_size(1));
        let running = Running::start(db.worker().scoped_consumer(users));
        patiently("the handler begins", entered.notified()).await;
        let of_row = format!("WHERE consumer = '{name}'");
        db.execute(&format!("UPDATE consumer_progress SET {change} {of_row}"))
            .await;
        let row = format!(
            "SELECT concat_ws(' ', position, epoch, slice_to, scope, state, attempts, failed_position)
               FROM consumer_progress {of_row}"
        );
        let changed = db.texts(&row).await;
        gate.add_permits(1);
        until("the lane has seen the change", async || {
            let lane = &running.consumers()[0];
            *calls.lock().unwrap() > 1
                || matches!(
                    lane.state,
                    ConsumerState::Paused | ConsumerState::ScopeChanged { .. }
                )
                || lane.position == Some(2)
                || db.texts(&row).await != changed
        })
        .await;
        assert_eq!(db.texts(&row).await, changed, "{name}");
        running.abort().await;
    }
}
