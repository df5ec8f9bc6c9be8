//! What operators do beside running workers: nothing is stuck afterwards, and nothing is passed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consumer::admin::ForgetOptions;
use consumer::{ConsumerState, OnError, Settings, aggregate_slice, merge_segments};
use consumer_tests::{
    Database, Model, Running, TestDatabase, consumer, impatient, patiently, read_model, run_once,
    test_on, until,
};
use sqlx::{Connection as _, Sqlite};
use tokio::sync::{Notify, Semaphore};

/// An aggregate of the lower half of all slices.
fn lower() -> String {
    let mut ids = (0..).map(|n| format!("u-{n}"));
    ids.find(|id| aggregate_slice(id) < 512).unwrap()
}

test_on!(
    [sqlite],
    a_retry_beside_a_batch_leaves_nothing_parked_behind_nothing
);

test_on!(
    [sqlite, postgres],
    the_idle_half_of_a_row_split_in_a_retry_advances,
    an_idle_worker_starts_over_with_a_new_row,
    an_idle_worker_follows_a_checkpoint_lowered_by_hand,
    a_checkpoint_raised_above_the_log_ends_a_running_worker,
    an_idle_row_that_changed_is_not_advanced
);

/// The retry waits for the batch, whose mark is held while the handler works, as a claim is on Postgres.
async fn a_retry_beside_a_batch_leaves_nothing_parked_behind_nothing(db: Database<Sqlite>) {
    let (entered, gate) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let is_broken = Arc::new(AtomicBool::new(true));
    let delivered: Arc<Mutex<Vec<i64>>> = Arc::default();
    // It ignores its transaction (R5), so that nothing is locked while it works.
    let hooks = || {
        let (entered, gate) = (Arc::clone(&entered), Arc::clone(&gate));
        let (is_broken, delivered) = (Arc::clone(&is_broken), Arc::clone(&delivered));
        let hooks = consumer::<Sqlite, _>("hooks", move |_, _, event| {
            let (entered, gate) = (Arc::clone(&entered), Arc::clone(&gate));
            let (is_broken, delivered) = (Arc::clone(&is_broken), Arc::clone(&delivered));
            Box::pin(async move {
                if event.aggregate_id == "slow" {
                    entered.notify_one();
                    gate.acquire().await?.forget();
                }
                if event.aggregate_id == "bad" && is_broken.load(Ordering::Relaxed) {
                    return Err("no such endpoint".into());
                }
                delivered.lock().unwrap().push(event.global_position);
                Ok(())
            })
        });
        hooks
            .without_tx()
            .settings(impatient().retries(0).on_error(OnError::Park))
    };
    let first = db.append_one("User", "bad").await;
    db.run_once(hooks()).await;
    assert_eq!(db.parked("hooks").await, [first]);
    is_broken.store(false, Ordering::Relaxed);

    // One batch: the slow event, and one that waits behind the parked one.
    let mut connection = db.pool.acquire().await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    let slow = db.append_in(&mut tx, "slow").await;
    let behind = db.append_in(&mut tx, "bad").await;
    tx.commit().await.unwrap();
    drop(connection);
    let running = Running::start(db.worker().consumer(hooks()));
    patiently("the batch is in progress", entered.notified()).await;
    let admin = db.worker().consumer(hooks()).admin().unwrap();
    let retrying = admin.retry_parked("hooks", None);
    let retried = patiently("the retry ends", async {
        // The retry waits for the batch, which has to end, and what was left of it.
        gate.add_permits(2);
        Box::pin(retrying).await
    });
    let retried = Box::pin(retried).await.unwrap();
    assert!((1..=2).contains(&retried.handled), "{}", retried.handled);
    patiently("it catches up", running.caught_up())
        .await
        .unwrap();
    running.stop().await;

    assert_eq!(db.parked("hooks").await, [0; 0]);
    assert_eq!(*delivered.lock().unwrap(), [slow, first, behind]);
}

async fn the_idle_half_of_a_row_split_in_a_retry_advances<DB: TestDatabase>(db: Database<DB>) {
    let id = lower();
    let failed = db.append_one("User", &id).await;
    let slow = Duration::from_hours(1);
    let settings = Settings::default().retries(100).backoff(slow, slow);
    let model = Model::new("users").scope(&["User"]).settings(settings);
    model.fail_on(&id, true);
    let builder = |segments| {
        let builder = db.worker().advance_interval(Duration::from_millis(50));
        let builder = builder.scoped_consumer(model.clone());
        builder.configure("users", move |one| one.segments(segments))
    };
    let running = Running::start(builder(1));
    until("it waits for its retry", async || {
        db.numbers("SELECT CAST(attempts AS BIGINT) FROM consumer_progress")
            .await
            == [1]
    })
    .await;
    running.stop().await;

    // The next release has two segments. The event is still in its half, which waits for it.
    let last = db.append_one("Other", "o").await;
    let running = Running::start(builder(2));
    let idle = format!(
        "SELECT position FROM consumer_progress
          WHERE slice_from = 512 AND position = {last} AND attempts = 0"
    );
    until("the idle half is at the end", async || {
        !db.numbers(&idle).await.is_empty()
    })
    .await;
    running.stop().await;
    let attempts = "SELECT CAST(attempts AS BIGINT) FROM consumer_progress WHERE slice_from = 0";
    assert_eq!(db.numbers(attempts).await, [1], "the failed attempt counts");

    model.fail_on(&id, false);
    db.execute("UPDATE consumer_progress SET retry_at = NULL")
        .await;
    let running = Running::start(builder(1));
    let merged = merge_segments(&db.store, "users", 1, 1);
    patiently("the halves are merged", merged).await.unwrap();
    patiently("it catches up", running.caught_up())
        .await
        .unwrap();
    running.stop().await;
    assert_eq!(db.applied("users").await, [failed]);
}

async fn an_idle_worker_starts_over_with_a_new_row<DB: TestDatabase>(db: Database<DB>) {
    let model = Model::new("users");
    let worker = || db.worker().scoped_consumer(model.clone());
    let running = Running::start(worker());
    let appended = db.append("User", ["a", "b", "c"]).await;
    patiently("it handles them", running.caught_up())
        .await
        .unwrap();
    let admin = worker().admin().unwrap();
    admin
        .forget("users", ForgetOptions::new().force())
        .await
        .unwrap();
    until("it sees that its row is gone", async || {
        running.consumers()[0].state == ConsumerState::Forgotten
    })
    .await;
    assert_eq!(running.consumers()[0].position, None);
    // Another worker creates the row anew, at the beginning.
    db.execute("DELETE FROM applied").await;
    admin.pause("users").await.unwrap();
    until("it sees its row", async || {
        running.consumers()[0].state == ConsumerState::Paused
    })
    .await;
    admin.resume("users").await.unwrap();
    until("it starts over", async || {
        db.applied("users").await == appended
    })
    .await;
    patiently("it says so", running.caught_up()).await.unwrap();
    assert_eq!(db.checkpoint("users").await, appended.last().copied());
    running.stop().await;
}

async fn an_idle_worker_follows_a_checkpoint_lowered_by_hand<DB: TestDatabase>(db: Database<DB>) {
    let model = Model::new("users");
    let running = Running::start(db.worker().scoped_consumer(model));
    let appended = db.append("User", ["a", "b", "c"]).await;
    patiently("it handles them", running.caught_up())
        .await
        .unwrap();
    let lower = format!("UPDATE consumer_progress SET position = {}", appended[0]);
    db.execute(&format!("DELETE FROM applied; {lower}")).await;
    until("it handles them again", async || {
        db.applied("users").await == appended[1..]
    })
    .await;
    running.stop().await;
}

async fn a_checkpoint_raised_above_the_log_ends_a_running_worker<DB: TestDatabase>(
    db: Database<DB>,
) {
    let running = Running::start(db.worker().consumer(read_model("users")));
    let last = db.append_one("User", "a").await;
    patiently("it handles it", running.caught_up_to(last))
        .await
        .unwrap();
    db.execute("UPDATE consumer_progress SET position = 1000000")
        .await;
    let error = running.end().await.unwrap_err().to_string();
    assert!(
        error.contains("the checkpoint of `users` is at 1000000"),
        "{error}"
    );
}

/// Between two snapshots, a row can change in any of these ways.
async fn an_idle_row_that_changed_is_not_advanced<DB: TestDatabase>(db: Database<DB>) {
    const CHANGES: [(&str, &str); 5] = [
        ("epoch", "epoch = epoch + 1"),
        ("lowered", "position = 0"),
        ("paused", "state = 'paused'"),
        ("resized", "slice_to = 512"),
        ("retried", "attempts = 1, failed_position = 1000000"),
    ];
    let builder = || {
        let worker = db.worker().snapshot_interval(Duration::from_hours(1));
        let worker = worker.advance_interval(Duration::from_millis(10));
        let names = CHANGES.iter().map(|(name, _)| *name);
        names.chain(["unchanged"]).fold(worker, |worker, name| {
            worker.scoped_consumer(read_model(name).scope(&["Order"]))
        })
    };
    let first = db.append_one("User", "a").await;
    run_once(builder()).await;
    let running = Running::start(builder());
    patiently("it runs", running.caught_up_to(first))
        .await
        .unwrap();
    for (name, change) in CHANGES {
        let change = format!("UPDATE consumer_progress SET {change} WHERE consumer = '{name}'");
        db.execute(&change).await;
    }
    let last = db.append_one("User", "b").await;
    // Its row comes last.
    until("the others are advanced", async || {
        db.checkpoint("unchanged").await == Some(last)
    })
    .await;
    for (name, _) in CHANGES {
        let expected = if name == "lowered" { 0 } else { first };
        assert_eq!(db.checkpoint(name).await, Some(expected), "{name}");
    }
    running.stop().await;
}
