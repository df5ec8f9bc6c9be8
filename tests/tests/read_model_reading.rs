//! `find_as_of` reads a row once its consumer has handled an event, wherever the worker runs.

use std::time::Duration;

use consumer::admin::{ActivateOptions, Admin, Target};
use consumer::prelude::*;
use consumer::read_model::{FindError, Rows};
use consumer::{Registered, aggregate_slice};
use consumer_tests::{
    Database, Folding, Running, TestDatabase, folding, impatient, run_once, test_on, until,
};

/// Longer than any test takes.
const TIMEOUT: Duration = Duration::from_mins(1);

/// The number of events of an aggregate.
#[derive(ReadModel, Debug)]
#[read_model(table = "counters")]
struct Counter {
    #[read_model(key)]
    id: String,
    count: i64,
}

/// The number of events of an aggregate by type.
#[derive(ReadModel, Debug)]
#[read_model(table = "by_type")]
struct ByType {
    #[read_model(key)]
    id: String,
    #[read_model(key)]
    kind: String,
    count: i64,
}

/// Counts the events of each aggregate, except for those named `stops`; `Deleted` deletes the row.
fn counters() -> Folding<Counter> {
    let apply = |event: &PersistedEvent, rows: &mut Rows<'_, Counter>| {
        let id = event.aggregate_id.clone();
        let row = rows.row(&id)?;
        if &*event.event_type == "Deleted" {
            *row = None;
            return Ok(());
        }
        if id.starts_with("stops") {
            return Err("it stops".into());
        }
        row.get_or_insert(Counter { id, count: 0 }).count += 1;
        Ok(())
    };
    let folding = folding(
        "counters",
        |_, event, keys| keys.add_aggregate(event),
        move |_, event, rows| apply(event, rows),
    );
    folding.settings(impatient().retries(0))
}

async fn count<DB: TestDatabase>(db: &Database<DB>, id: &str, position: i64) -> Option<i64> {
    as_of(db, id, position).await.unwrap()
}

async fn as_of<DB: TestDatabase>(
    db: &Database<DB>,
    id: &str,
    position: i64,
) -> Result<Option<i64>, FindError> {
    let found = db.store.find_as_of::<Counter>(id, position, TIMEOUT);
    Ok(found.await?.map(|row| row.count))
}

test_on!(
    [sqlite, postgres, through_a_pooler],
    find_as_of_waits_for_the_checkpoint,
    find_as_of_does_not_wait_for_a_row_that_the_event_deleted,
    find_as_of_waits_for_every_row_of_a_key_of_several_parts
);

test_on!(
    [sqlite, postgres],
    find_as_of_waits_for_the_segment_of_the_key,
    find_as_of_waits_for_the_active_version,
    find_as_of_says_that_the_consumer_is_paused,
    find_as_of_says_why_the_consumer_has_stopped,
    find_as_of_says_that_no_consumer_maintains_the_table,
    find_as_of_ends_after_its_timeout
);

async fn find_as_of_waits_for_the_checkpoint<DB: TestDatabase>(db: Database<DB>) {
    let first = db.append_one("User", "ada").await;
    run_once(db.worker().consumer(counters())).await;
    assert_eq!(count(&db, "ada", first).await, Some(1));
    let second = db.append_one("User", "ada").await;
    // The row is there, and does not show the event.
    assert_eq!(count(&db, "ada", first).await, Some(1));
    let (found, _) = tokio::join!(
        count(&db, "ada", second),
        run_once(db.worker().consumer(counters()))
    );
    assert_eq!(found, Some(2));
}

async fn find_as_of_does_not_wait_for_a_row_that_the_event_deleted<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append_one("User", "ada").await;
    run_once(db.worker().consumer(counters())).await;
    let deleted = NewEvent::new("User", "ada", "Deleted", "{}");
    let deleted = db.append_event(deleted).await;
    let (found, _) = tokio::join!(
        count(&db, "ada", deleted),
        run_once(db.worker().consumer(counters()))
    );
    assert_eq!(found, None);
}

async fn find_as_of_waits_for_every_row_of_a_key_of_several_parts<DB: TestDatabase>(
    db: Database<DB>,
) {
    let by_type = || {
        let key = |event: &PersistedEvent| {
            let kind = event.event_type.to_string();
            (event.aggregate_id.clone(), kind)
        };
        folding::<ByType>(
            "by_type",
            move |_, event, keys| keys.add(key(event)),
            move |_, event, rows| {
                let (id, kind) = key(event);
                let row = rows.row(&(id.clone(), kind.clone()))?;
                row.get_or_insert(ByType { id, kind, count: 0 }).count += 1;
                Ok(())
            },
        )
    };
    run_once(db.worker().consumer(by_type())).await;
    let position = db.append_one("User", "ada").await;
    let key = ("ada", "Changed");
    let (found, _) = tokio::join!(
        db.store.find_as_of::<ByType>(key, position, TIMEOUT),
        run_once(db.worker().consumer(by_type()))
    );
    let found = found.unwrap().unwrap();
    assert_eq!(
        (found.id.as_str(), &*found.kind, found.count),
        ("ada", "Changed", 1)
    );
}

/// The first of these names in the lower half of the slices, or in the upper one.
fn named(name: &str, is_lower: bool) -> String {
    (0..1_000)
        .map(|number| format!("{name}{number}"))
        .find(|name| (aggregate_slice(name) < 512) == is_lower)
        .unwrap()
}

async fn find_as_of_waits_for_the_segment_of_the_key<DB: TestDatabase>(db: Database<DB>) {
    let divided = || counters().settings(impatient().retries(0).segments(2));
    let (stops, goes_on) = (named("stops", true), named("goes-on", false));
    let stopped = db.append_one("User", &stops).await;
    let last = db.append_one("User", &goes_on).await;
    let report = db.worker().consumer(divided()).build().unwrap();
    assert!(report.run_once().await.unwrap().has_failures());
    assert_eq!(count(&db, &goes_on, last).await, Some(1));
    // The other segment does not get there.
    let error = as_of(&db, &stops, last).await.unwrap_err();
    assert!(
        matches!(&error, FindError::Stopped { reached, .. } if *reached < stopped),
        "{error}"
    );
}

async fn find_as_of_waits_for_the_active_version<DB: TestDatabase>(db: Database<DB>) {
    let position = db.append_one("User", "ada").await;
    run_once(db.worker().consumer(counters())).await;
    let second = || Registered::new(counters()).version(2);
    run_once(db.worker().registered(second())).await;
    let last = db.append_one("User", "ada").await;
    run_once(db.worker().consumer(counters())).await;
    // Version 2 is behind, but is not active.
    assert_eq!(count(&db, "ada", last).await, Some(2));
    let admin = Admin::new(db.store.clone());
    let target = Target::new("counters").version(2);
    let forced = ActivateOptions::new().force();
    admin.activate(target, forced).await.unwrap();
    assert_eq!(count(&db, "ada", position).await, Some(1));
    let (found, _) = tokio::join!(
        count(&db, "ada", last),
        run_once(db.worker().registered(second()))
    );
    assert_eq!(found, Some(2));
}

async fn find_as_of_says_that_the_consumer_is_paused<DB: TestDatabase>(db: Database<DB>) {
    let first = db.append_one("User", "ada").await;
    run_once(db.worker().consumer(counters())).await;
    let admin = Admin::new(db.store.clone());
    admin.pause("counters").await.unwrap();
    let second = db.append_one("User", "ada").await;
    let error = as_of(&db, "ada", second).await.unwrap_err();
    assert!(matches!(error, FindError::Paused { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("`counters` is paused"), "{text}");
    // It has got to the first event before.
    assert_eq!(count(&db, "ada", first).await, Some(1));
}

async fn find_as_of_says_why_the_consumer_has_stopped<DB: TestDatabase>(db: Database<DB>) {
    let first = db.append_one("User", "ada").await;
    let running = Running::start(db.worker().consumer(counters()));
    running.caught_up().await.unwrap();
    assert_eq!(count(&db, "ada", first).await, Some(1));
    let stops = db.append_one("User", "stops").await;
    // It waits while the consumer may still get there.
    let error = as_of(&db, "ada", stops).await.unwrap_err();
    assert!(error.to_string().contains("it stops"), "{error}");
    until("it has stopped", async || {
        let states = "SELECT state FROM consumer_progress";
        db.texts(states).await == ["stopped"]
    })
    .await;
    running.stop().await;
}

async fn find_as_of_says_that_no_consumer_maintains_the_table<DB: TestDatabase>(db: Database<DB>) {
    let error = as_of(&db, "ada", 1).await.unwrap_err();
    assert!(matches!(error, FindError::NoConsumer { .. }), "{error}");
}

async fn find_as_of_ends_after_its_timeout<DB: TestDatabase>(db: Database<DB>) {
    run_once(db.worker().consumer(counters())).await;
    let position = db.append_one("User", "ada").await;
    let timeout = Duration::from_secs(2);
    let found = db.store.find_as_of::<Counter>("ada", position, timeout);
    let error = found.await.unwrap_err();
    let FindError::TimedOut { reached, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*reached, 0);
    assert!(
        error.to_string().contains("is a worker running it?"),
        "{error}"
    );
}
