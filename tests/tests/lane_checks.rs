//! Checkpoint rows that change after a lane has read its events: it neither handles nor saves what no longer
//! fits them, and misses nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use consumer::{ConsumerState, WorkerBuilder, aggregate_slice};
use consumer_tests::{
    Database, Running, TestDatabase, batch_consumer, consumer, impatient, judging, patiently,
    read_model, run_once, test_on, until,
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
);

test_on!([postgres], a_claim_that_shows_a_resume_reads_the_log_again);

test_on!([sqlite], nothing_is_saved_in_a_row_that_changed_meanwhile);

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

/// The other consumer has brought the event into memory before it is corrected.
async fn a_claim_that_shows_a_resume_reads_the_log_again(db: Database<Postgres>) {
    let payloads: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&payloads);
    let users = judging("users", move |_, event| {
        let payload = String::from_utf8_lossy(&event.payload).into_owned();
        seen.lock().unwrap().push(payload);
        Ok(())
    });
    let worker = without_snapshots(&db).consumer(users);
    let running = Running::start(worker.consumer(read_model("others")));
    reaches(&running, db.append_one("User", "a").await).await;
    let mut connection = db.pool.acquire().await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let resume = "UPDATE consumer_progress SET epoch = epoch + 1 WHERE consumer = 'users'";
    Postgres::execute_sql(&mut tx, resume).await.unwrap();
    let last = db.append_one("User", "a").await;
    let read = running.consumer_caught_up_to("others", last);
    patiently("the event is in memory", read).await.unwrap();
    let correct = "UPDATE events SET payload = 'corrected' WHERE global_position =";
    Postgres::execute_sql(&mut tx, &format!("{correct} {last}"))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    reaches(&running, last).await;
    running.stop().await;
    assert_eq!(*payloads.lock().unwrap(), ["{}", "corrected"]);
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
    let id = (0..).map(|n| format!("u-{n}")).find(in_lower_half).unwrap();
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
