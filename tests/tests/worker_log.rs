//! What a worker logs: where its consumers start, and which event failed.

use consumer::{NewEvent, OnError};
use consumer_tests::{
    Database, TestDatabase, consumer, impatient, keep_log, logged, run_once, test_on,
};

test_on!(
    [sqlite, postgres],
    a_start_logs_each_consumer_its_version_and_its_position,
    a_failing_handler_is_logged_with_its_event
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
