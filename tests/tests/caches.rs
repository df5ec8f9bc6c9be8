//! Events that were changed in the table are read again wherever a consumer is started again.

use std::sync::Arc;
use std::time::Duration;

use consumer::admin::{Admin, RebuildOptions};
use consumer::{ConsumerState, Settings};
use consumer_tests::{
    Database, Payloads, Running, TestConsumer, TestDatabase, impatient, patiently,
    recording_at_gate, test_on, until,
};
use tokio::sync::Semaphore;

test_on!(
    [sqlite, postgres],
    without_a_reason_an_event_is_handled_from_memory,
    a_rebuild_hands_over_events_as_they_are_now,
    a_rebuild_reaches_the_process_that_did_not_run_it,
    a_resumed_consumer_gets_events_as_they_are_now,
    a_paused_consumer_gets_events_as_they_are_now,
    a_retry_gets_the_event_as_it_is_now,
    a_new_start_gets_the_event_as_it_is_now,
    every_worker_drops_events_that_were_rewritten
);

/// A consumer that records payloads and fails on those that are broken.
fn recording<DB: TestDatabase>(name: &str) -> (TestConsumer<DB>, Payloads) {
    gated(name, &Arc::new(Semaphore::new(1_000)))
}

/// A [`recording`] consumer whose events each wait for a permit.
fn gated<DB: TestDatabase>(name: &str, gate: &Arc<Semaphore>) -> (TestConsumer<DB>, Payloads) {
    recording_at_gate(name, gate, Some("broken"))
}

/// Changes the payloads of all events in the table.
async fn rewrite<DB: TestDatabase>(db: &Database<DB>, payload: &str) {
    let update = format!(
        "UPDATE events SET payload = CAST('{payload}' AS {})",
        blob(db)
    );
    db.execute(&update).await;
}

fn blob<DB: TestDatabase>(db: &Database<DB>) -> &'static str {
    if db.url.starts_with("sqlite") {
        "BLOB"
    } else {
        "BYTEA"
    }
}

async fn caught_up<DB: TestDatabase>(running: &Running<DB>) {
    patiently("it handles the log", running.caught_up())
        .await
        .unwrap();
}

/// The control: the worker does keep events in memory, so that the other tests show something.
async fn without_a_reason_an_event_is_handled_from_memory<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(3).await;
    let gate = Arc::new(Semaphore::new(0));
    let (first, _) = recording("first");
    let (second, payloads) = gated("second", &gate);
    let second = second
        .settings(Settings::default().batch_size(1))
        .without_tx();
    let running = Running::start(db.worker().consumer(first).consumer(second));
    let first = running.consumer_caught_up_to("first", 3);
    patiently("the log is in memory", first).await.unwrap();
    until("the second has begun", async || !payloads.seen().is_empty()).await;
    rewrite(&db, "new").await;
    gate.add_permits(3);
    caught_up(&running).await;
    assert_eq!(payloads.seen(), ["0", "1", "2"]);
    running.stop().await;
}

async fn a_rebuild_hands_over_events_as_they_are_now<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(3).await;
    let (users, payloads) = recording("users");
    let running = Running::start(db.worker().consumer(users));
    caught_up(&running).await;
    rewrite(&db, "new").await;
    let admin = Admin::new(db.store.clone());
    let options = RebuildOptions::new().wait(Duration::from_secs(30));
    admin
        .rebuild("users", options.without_reset())
        .await
        .unwrap();
    until("it has all events again", async || {
        payloads.seen() == ["new"; 3]
    })
    .await;
    running.stop().await;
}

async fn a_rebuild_reaches_the_process_that_did_not_run_it<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(3).await;
    let workers = [
        recording::<DB>("users"),
        recording("users"),
        recording("users"),
    ];
    let mut running = Vec::new();
    let mut payloads = Vec::new();
    for (number, (users, seen)) in workers.into_iter().enumerate() {
        // Each has the log in memory.
        let (own, _) = recording(&format!("own_{number}"));
        running.push(Running::start(db.worker().consumer(users).consumer(own)));
        payloads.push(seen);
    }
    for one in &running {
        caught_up(one).await;
    }
    let all = || {
        let all = payloads.iter().flat_map(Payloads::by_position);
        all.collect::<Vec<(i64, String)>>()
    };
    for round in 0..5 {
        let new = format!("new {round}");
        rewrite(&db, &new).await;
        for one in &payloads {
            one.clear();
        }
        let admin = Admin::new(db.store.clone());
        let options = RebuildOptions::new().wait(Duration::from_secs(30));
        admin
            .rebuild("users", options.without_reset())
            .await
            .unwrap();
        until("one of them has all events again", async || {
            all().len() >= 3
        })
        .await;
        assert!(all().iter().all(|(_, seen)| *seen == new), "{:?}", all());
    }
    for one in running {
        one.stop().await;
    }
}

async fn a_resumed_consumer_gets_events_as_they_are_now<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(2).await;
    rewrite(&db, "broken").await;
    let (users, payloads) = recording("users");
    let running = Running::start(db.worker().consumer(users.settings(impatient().retries(0))));
    until("it stops", async || {
        matches!(running.consumers()[0].state, ConsumerState::Stopped { .. })
    })
    .await;
    rewrite(&db, "repaired").await;
    let admin = Admin::new(db.store.clone());
    admin.resume("users").await.unwrap();
    until("it handles the log", async || {
        payloads.seen() == ["repaired"; 2]
    })
    .await;
    running.stop().await;
}

async fn a_paused_consumer_gets_events_as_they_are_now<DB: TestDatabase>(db: Database<DB>) {
    let admin = Admin::new(db.store.clone());
    let (users, payloads) = recording("users");
    let (others, _) = recording("others");
    let running = Running::start(db.worker().consumer(users).consumer(others));
    caught_up(&running).await;
    admin.pause("users").await.unwrap();
    db.append_many(3).await;
    let others = running.consumer_caught_up_to("others", 3);
    patiently("the log is in memory", others).await.unwrap();
    rewrite(&db, "new").await;
    admin.resume("users").await.unwrap();
    until("it handles the log", async || payloads.seen().len() == 3).await;
    assert_eq!(payloads.seen(), ["new"; 3]);
    running.stop().await;
}

async fn a_retry_gets_the_event_as_it_is_now<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(1).await;
    rewrite(&db, "broken").await;
    let (users, payloads) = recording("users");
    let patient = Settings::default().backoff(Duration::from_millis(50), Duration::from_millis(50));
    let running = Running::start(db.worker().consumer(users.settings(patient.retries(1_000))));
    until("it fails", async || payloads.seen() == ["broken"]).await;
    rewrite(&db, "repaired").await;
    caught_up(&running).await;
    assert_eq!(payloads.seen(), ["repaired"]);
    running.stop().await;
}

/// A worker that starts lets a stopped consumer try again, in all processes.
async fn a_new_start_gets_the_event_as_it_is_now<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(1).await;
    rewrite(&db, "broken").await;
    let (users, payloads) = recording("users");
    let running = Running::start(db.worker().consumer(users.settings(impatient().retries(0))));
    until("it stops", async || {
        matches!(running.consumers()[0].state, ConsumerState::Stopped { .. })
    })
    .await;
    rewrite(&db, "repaired").await;
    let (users, others) = recording("users");
    let started = Running::start(db.worker().consumer(users));
    caught_up(&started).await;
    let both = [payloads.seen(), others.seen()].concat();
    assert!(both.contains(&"repaired".to_owned()), "{both:?}");
    for one in [running, started] {
        one.stop().await;
    }
}

async fn every_worker_drops_events_that_were_rewritten<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(4).await;
    let gate = Arc::new(Semaphore::new(0));
    let (users, payloads) = gated("users", &gate);
    let users = users
        .settings(Settings::default().batch_size(1))
        .without_tx();
    let (others, _) = recording("others");
    let running = Running::start(db.worker().consumer(users).consumer(others));
    let others = running.consumer_caught_up_to("others", 4);
    patiently("the log is in memory", others).await.unwrap();
    until("it has the first event", async || payloads.seen() == ["0"]).await;
    let mut tx = db.store.begin().await.unwrap();
    let update = format!("UPDATE events SET payload = CAST('new' AS {})", blob(&db));
    DB::execute_sql(&mut tx, &update).await.unwrap();
    db.store.discard_caches_in(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    // The worker has looked at the checkpoints since.
    let admin = Admin::new(db.store.clone());
    admin.pause("others").await.unwrap();
    until("it sees the pause", async || {
        let consumers = running.consumers();
        let mut states = consumers.iter().map(|one| &one.state);
        states.any(|state| *state == ConsumerState::Paused)
    })
    .await;
    gate.add_permits(4);
    let users = running.consumer_caught_up_to("users", 4);
    patiently("it handles the rest", users).await.unwrap();
    assert_eq!(payloads.seen(), ["0", "new", "new", "new"]);
    running.stop().await;
}
