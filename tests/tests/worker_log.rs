//! What a worker logs: where its consumers start, and which event failed.

use consumer::{ConsumerState, Formerly, NewEvent, OnError};
use consumer_tests::{
    Database, Running, TestDatabase, consumer, impatient, keep_log, logged, read_model, run_once,
    test_on, until,
};

test_on!(
    [sqlite, postgres],
    a_start_logs_each_consumer_its_version_and_its_position,
    a_failing_handler_is_logged_with_its_event,
    a_consumer_that_begins_to_wait_for_a_release_is_logged,
    a_consumer_that_is_held_back_is_logged_with_the_commands
);

/// A name that no other test of the binary uses.
fn unique<DB: TestDatabase>(name: &str) -> String {
    format!("{name}_on_{}", DB::NAME)
}

async fn a_start_logs_each_consumer_its_version_and_its_position<DB: TestDatabase>(
    db: Database<DB>,
) {
    keep_log();
    let name = unique::<DB>("started");
    let consumer = || {
        consumer(&name, |_, _: &mut DB::Connection, _| {
            Box::pin(async { Ok(()) })
        })
    };
    let starts = || {
        let consumer = format!("consumer=\"{name}\"");
        logged(&["INFO the worker runs this consumer", &consumer, "version=1"])
    };
    db.run_once(consumer()).await;
    let first = starts();
    assert!(
        matches!(&*first, [line] if line.contains(" position=0")),
        "{first:?}"
    );
    let last = *db.append("User", ["ada", "bob"]).await.last().unwrap();
    db.run_once(consumer()).await;
    db.run_once(consumer()).await;
    let third = starts();
    let position = format!(" position={last}");
    assert!(third[2].contains(&position), "{third:?}");
}

async fn a_failing_handler_is_logged_with_its_event<DB: TestDatabase>(db: Database<DB>) {
    keep_log();
    let name = unique::<DB>("failing");
    let event = NewEvent::new("Order", "o-13", "OrderPaid", "{}");
    let id = event.event_id;
    db.append_event(event).await;
    let failing = consumer(&name, |_, _: &mut DB::Connection, _| {
        Box::pin(async { Err("no such tariff".into()) })
    });
    let failing = failing.settings(impatient().on_error(OnError::Park).retries(0));
    run_once(db.worker().consumer(failing)).await;
    let words = [
        &*format!("consumer=\"{name}\""),
        "WARN the handler failed",
        "aggregate_type=\"Order\"",
        "aggregate_id=\"o-13\"",
        "event_type=\"OrderPaid\"",
        &*format!("event_id={id}"),
        "no such tariff",
    ];
    assert_eq!(logged(&words).len(), 1, "{:?}", logged(&[&name]));
}

async fn a_consumer_that_begins_to_wait_for_a_release_is_logged<DB: TestDatabase>(
    db: Database<DB>,
) {
    keep_log();
    let name = unique::<DB>("waiting");
    let refund = NewEvent::new("Order", "o-1", "Refunded", "{}");
    let position = db.append_event(refund).await;
    let old = read_model(&name).knows(|_| false);
    let running = Running::start(db.worker().consumer(old));
    until("it waits", async || {
        matches!(
            running.consumers()[0].state,
            ConsumerState::WaitingForRelease { .. }
        )
    })
    .await;
    let lines = || {
        let consumer = format!("consumer=\"{name}\"");
        logged(&[
            "WARN the consumer steps aside: it is waiting for a release that knows Refunded (Order, \
             position 1)",
            &consumer,
            &format!(" position={position}"),
        ])
    };
    assert_eq!(lines().len(), 1, "{:?}", logged(&[&name]));
    // What comes behind the event changes nothing.
    db.append("Order", ["o-1"]).await;
    running.stop().await;
    assert_eq!(lines().len(), 1, "{:?}", logged(&[&name]));
}

async fn a_consumer_that_is_held_back_is_logged_with_the_commands<DB: TestDatabase>(
    db: Database<DB>,
) {
    keep_log();
    let (former, name) = (unique::<DB>("former"), unique::<DB>("held_back"));
    db.append("User", ["ada"]).await;
    db.run_once(read_model(&former)).await;
    let new = read_model(&name).formerly(Formerly::Unstated);
    let running = Running::start(db.worker().consumer(new));
    until("it is held back", async || {
        matches!(running.consumers()[0].state, ConsumerState::HeldBack(_))
    })
    .await;
    let words = [
        "WARN the consumer is held back: it is new",
        &*format!("consumer=\"{name}\""),
        &*format!("`rename {former} {name}`"),
        &*format!("`start-new {name}`"),
    ];
    assert_eq!(logged(&words).len(), 1, "{:?}", logged(&[&name]));
    running.stop().await;
    assert_eq!(logged(&words).len(), 1, "{:?}", logged(&[&name]));
}
