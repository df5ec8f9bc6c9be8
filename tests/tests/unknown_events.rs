//! Lanes that step aside before an event which their release does not know, on both databases.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use consumer::admin::{Admin, AdminError, ConsumerStatus};
use consumer::{
    ConsumerState, ExpectedVersion, HealthProblem, NewEvent, OnError, Registered, WaitError,
    WorkerBuilder,
};
use consumer_tests::{
    Database, Running, TestConsumer, TestDatabase, consumer, impatient, judging, patiently,
    run_once, test_on, until,
};

test_on!(
    [sqlite, postgres, through_a_pooler],
    a_lane_waits_before_an_event_that_it_does_not_know,
    a_release_that_knows_the_event_takes_over,
    a_waiting_lane_looks_again_only_when_its_row_changes,
    no_policy_skips_or_parks_an_unknown_event,
    a_version_that_cannot_be_read_is_unknown_too,
    waiting_for_an_unknown_event_fails_and_health_names_it
);

test_on!(
    [sqlite, postgres],
    an_unknown_event_behind_a_parked_one_is_parked,
    park_and_skip_get_a_waiting_consumer_past_the_event,
    another_event_at_the_position_is_not_skipped,
    a_lane_does_not_wait_for_an_event_that_was_deleted,
    an_event_that_is_deleted_before_it_is_noted_is_not_passed,
    a_waiting_lane_goes_back_to_a_deleted_event_of_its_row,
    what_a_lane_waits_for_hides_no_earlier_event,
    a_waiting_lane_looks_again_at_a_log_that_was_rewritten,
    a_deleted_event_that_a_row_waits_for_is_not_passed_unseen,
    a_deleted_event_that_a_row_waits_for_can_be_skipped,
    a_waiting_lane_starts_over_with_a_row_made_anew,
    a_segment_waits_and_the_others_continue,
    a_merge_behind_an_unknown_event_is_refused,
    unknown_events_of_a_log_are_listed_at_once,
    a_consumer_without_tx_waits_as_well,
    an_old_release_that_passes_over_an_event_loses_it
);

/// Appends an event to an order, and returns its position.
async fn order<DB: TestDatabase>(db: &Database<DB>, id: &str, event_type: &str) -> i64 {
    let event = NewEvent::new("Order", id, event_type, "{}");
    db.append_event(event).await
}

/// The consumer `orders`, which fails on the events of `bad`, as the old release has it.
fn old<DB: TestDatabase>() -> TestConsumer<DB> {
    new().knows(|format| format.event_type != "Refunded" && format.event_version < 2)
}

/// The same consumer as the new release has it.
fn new<DB: TestDatabase>() -> TestConsumer<DB> {
    let fails = |id: &str| {
        if id == "bad" {
            Err("bad".to_owned())
        } else {
            Ok(())
        }
    };
    judging("orders", move |_, event| fails(&event.aggregate_id))
        .scope(&["Order"])
        .settings(impatient().retries(0))
}

fn worker<DB: TestDatabase>(db: &Database<DB>, consumer: TestConsumer<DB>) -> WorkerBuilder<DB> {
    db.worker().scoped_consumer(consumer)
}

/// What a program without the consumer's code shows of it.
async fn status<DB: TestDatabase>(db: &Database<DB>) -> ConsumerStatus {
    let status = Admin::new(db.store.clone()).status().await.unwrap();
    status.consumer("orders").unwrap().clone()
}

async fn is_noted<DB: TestDatabase>(db: &Database<DB>, position: i64) {
    until("the row shows what it waits for", async || {
        let status = Admin::new(db.store.clone()).status().await.unwrap();
        // No worker may have run it yet.
        let orders = status.consumer("orders");
        let waiting = orders.and_then(|orders| orders.waiting_for.as_ref());
        waiting.is_some_and(|event| event.position == position)
    })
    .await;
}

async fn a_lane_waits_before_an_event_that_it_does_not_know<DB: TestDatabase>(db: Database<DB>) {
    for event_type in ["Placed", "Refunded", "Placed"] {
        order(&db, "o-1", event_type).await;
    }
    let report = run_once(worker(&db, old())).await;
    let orders = report.consumer("orders").unwrap();
    assert_eq!(
        orders.state.to_string(),
        "waiting for a release that knows Refunded (Order, position 2)"
    );
    assert_eq!((orders.position, report.has_failures()), (Some(1), true));
    assert_eq!(db.applied("orders").await, [1]);

    let shown = status(&db).await;
    assert_eq!(shown.state, orders.state);
    assert_eq!((shown.position, shown.lag.events), (Some(1), 2));
    let json = serde_json::to_value(&shown).unwrap();
    assert_eq!(json["state"], "waiting_for_release");
    assert_eq!(json["waiting_for"]["event_type"], "Refunded");

    run_once(worker(&db, new())).await;
    let shown = status(&db).await;
    assert_eq!(shown.state, ConsumerState::Running);
    assert_eq!((shown.waiting_for, shown.position), (None, Some(3)));
    assert_eq!(db.applied("orders").await, [1, 2, 3]);
}

async fn a_release_that_knows_the_event_takes_over<DB: TestDatabase>(db: Database<DB>) {
    order(&db, "o-1", "Placed").await;
    let before = Running::start(worker(&db, old()));
    before.caught_up().await.unwrap();
    let refunded = order(&db, "o-1", "Refunded").await;
    is_noted(&db, refunded).await;

    let after = Running::start(worker(&db, new()));
    after.caught_up().await.unwrap();
    let mut last = 0;
    for round in 0..20 {
        let event_type = if round % 3 == 0 { "Refunded" } else { "Placed" };
        last = order(&db, &format!("o-{}", round % 4), event_type).await;
    }
    after.caught_up_to(last).await.unwrap();
    // The old release continues with what it knows.
    until("the old release follows", async || {
        let orders = &before.consumers()[0];
        orders.state == ConsumerState::Running && orders.position == Some(last)
    })
    .await;
    assert_eq!(status(&db).await.state, ConsumerState::Running);
    after.stop().await;
    let placed = order(&db, "o-1", "Placed").await;
    before.caught_up_to(placed).await.unwrap();
    before.stop().await;
    assert_eq!(db.applied("orders").await, db.log().await);
}

async fn a_waiting_lane_looks_again_only_when_its_row_changes<DB: TestDatabase>(db: Database<DB>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let orders = new().knows(move |format| {
        let is_known = format.event_type != "Refunded";
        counter.fetch_add(usize::from(!is_known), Ordering::Relaxed);
        is_known
    });
    let refunded = order(&db, "o-1", "Refunded").await;
    let builder = worker(&db, orders).consumer(consumer_tests::read_model("all"));
    let worker = Running::start(builder);
    is_noted(&db, refunded).await;
    let row =
        "SELECT position || '/' || epoch || '/' || attempts || '/' || claims || '/' || updated_at
                 FROM consumer_progress WHERE consumer = 'orders'";
    let looks = asked.load(Ordering::Relaxed);
    let before = db.texts(row).await;
    for _ in 0..20 {
        // In each round, a whole batch of another consumer is read, claimed and saved.
        let position = order(&db, "o-2", "Placed").await;
        worker.consumer_caught_up_to("all", position).await.unwrap();
    }
    assert_eq!(asked.load(Ordering::Relaxed), looks);
    assert_eq!(db.texts(row).await, before);
    worker.stop().await;
    assert!(db.applied("orders").await.is_empty());
}

async fn no_policy_skips_or_parks_an_unknown_event<DB: TestDatabase>(db: Database<DB>) {
    order(&db, "o-1", "Refunded").await;
    order(&db, "o-2", "Placed").await;
    for policy in [OnError::Skip, OnError::Park, OnError::Stop] {
        let orders = old().settings(impatient().retries(0).on_error(policy));
        let report = run_once(worker(&db, orders)).await;
        let orders = report.consumer("orders").unwrap();
        assert_eq!(orders.state.name(), "waiting_for_release", "{policy:?}");
        assert_eq!((orders.parked, orders.skipped), (0, 0));
    }
    // Not even after a program that did not know of unknown events has used up the attempts.
    db.execute(
        "UPDATE consumer_progress SET attempts = 9, failed_position = 1, error = 'cannot decode'",
    )
    .await;
    let skipping = old().settings(impatient().retries(0).on_error(OnError::Skip));
    let report = run_once(worker(&db, skipping)).await;
    let orders = report.consumer("orders").unwrap();
    assert_eq!(orders.state.name(), "waiting_for_release");
    assert!(db.applied("orders").await.is_empty());
    Admin::new(db.store.clone()).resume("orders").await.unwrap();
    run_once(worker(&db, new())).await;
    assert_eq!(db.applied("orders").await, [1, 2]);
}

async fn a_version_that_cannot_be_read_is_unknown_too<DB: TestDatabase>(db: Database<DB>) {
    let placed = NewEvent::new("Order", "o-1", "Placed", "{}").event_version(2);
    db.append_event(placed).await;
    let report = run_once(worker(&db, old())).await;
    assert_eq!(
        report.consumer("orders").unwrap().state.to_string(),
        "waiting for a release that knows Placed version 2 (Order, position 1)"
    );
    run_once(worker(&db, new())).await;
    assert_eq!(db.applied("orders").await, [1]);
}

async fn waiting_for_an_unknown_event_fails_and_health_names_it<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append("User", ["u"]).await;
    let user = db.append_one("User", "u").await;
    let worker = Running::start(worker(&db, old()));
    let refunded = order(&db, "o-1", "Refunded").await;
    match worker.caught_up_to(refunded).await {
        Err(WaitError::NotRunning { state, .. }) => {
            assert_eq!(state.name(), "waiting_for_release");
        }
        other => panic!("{other:?}"),
    }
    // What is out of scope before it counts as reached.
    worker.caught_up_to(user).await.unwrap();
    // The worker has begun once it has polled for the first time.
    until("health names what the consumer waits for", async || {
        let problems = worker.health().problems;
        matches!(&problems[..], [HealthProblem::NotRunning { state, .. }]
            if state.name() == "waiting_for_release")
    })
    .await;
    let health = worker.health();
    assert!(health.is_live() && health.is_ready(), "{health}");
    let report = worker.stop().await;
    let state = &report.consumer("orders").unwrap().state;
    assert_eq!(state.name(), "waiting_for_release");
}

async fn an_unknown_event_behind_a_parked_one_is_parked<DB: TestDatabase>(db: Database<DB>) {
    let parking = impatient().retries(0).on_error(OnError::Park);
    for (id, event_type) in [
        ("bad", "Placed"),
        ("bad", "Refunded"),
        ("bad", "Placed"),
        ("good", "Placed"),
    ] {
        order(&db, id, event_type).await;
    }
    // No handler of its takes what it does not know, which is no reason to pass over it.
    let old = old().takes(|format| format.event_type != "Refunded");
    let report = run_once(worker(&db, old.settings(parking.clone()))).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(db.parked("orders").await, [1, 2, 3]);
    assert_eq!(db.applied("orders").await, [4]);

    // A retry with the old release stops at the event that it does not know.
    let repaired = |knows_all: bool| {
        let orders = consumer_tests::read_model::<DB>("orders").scope(&["Order"]);
        let orders = orders.knows(move |format| knows_all || format.event_type != "Refunded");
        worker(&db, orders).admin().unwrap()
    };
    let retried = repaired(false).retry_parked("orders", None).await.unwrap();
    assert_eq!(retried.handled, 1);
    assert!(
        matches!(&retried.failed[..], [AdminError::UnknownEvent { event }] if event.position == 2),
        "{:?}",
        retried.failed
    );
    assert_eq!(db.parked("orders").await, [2, 3]);
    let retried = repaired(false)
        .retry_parked("orders", Some(2))
        .await
        .unwrap();
    assert_eq!((retried.handled, retried.failed.len()), (0, 1));
    let attempts = "SELECT sum(attempts) FROM consumer_parked";
    assert_eq!(
        db.number(&format!("SELECT CAST(({attempts}) AS BIGINT)"))
            .await,
        0
    );
    let retried = repaired(true).retry_parked("orders", None).await.unwrap();
    assert_eq!((retried.handled, retried.failed.len()), (2, 0));
    assert_eq!(db.applied("orders").await, [4, 1, 2, 3]);
}

async fn park_and_skip_get_a_waiting_consumer_past_the_event<DB: TestDatabase>(db: Database<DB>) {
    for id in ["o-1", "o-2"] {
        order(&db, id, "Refunded").await;
        order(&db, id, "Placed").await;
    }
    run_once(worker(&db, old())).await;
    let admin = Admin::new(db.store.clone());
    let refused = admin.skip("orders", 3).await.unwrap_err();
    assert!(
        matches!(&refused, AdminError::NotStoppedAt { stopped_at, .. } if *stopped_at == [1]),
        "{refused}"
    );
    admin.park("orders", 1).await.unwrap();
    run_once(worker(&db, old())).await;
    admin.skip("orders", 3).await.unwrap();
    run_once(worker(&db, old())).await;
    assert_eq!(db.parked("orders").await, [1, 2]);
    let parked = admin.parked("orders").await.unwrap();
    assert_eq!(
        parked[0].error.as_deref(),
        Some("no release that ran knew Refunded (Order, position 1)")
    );
    let retrying = worker(&db, new()).admin().unwrap();
    retrying.retry_parked("orders", None).await.unwrap();
    assert_eq!(db.applied("orders").await, [4, 1, 2]);
}

async fn another_event_at_the_position_is_not_skipped<DB: TestDatabase>(db: Database<DB>) {
    order(&db, "o-1", "Refunded").await;
    run_once(worker(&db, old())).await;
    // As after a restore of the log alone.
    db.execute("UPDATE events SET event_type = 'Placed'").await;
    let admin = Admin::new(db.store.clone());
    let refused = admin.skip("orders", 1).await.unwrap_err();
    assert!(
        matches!(refused, AdminError::NotStoppedAt { .. }),
        "{refused}"
    );
    run_once(worker(&db, old())).await;
    assert_eq!(db.applied("orders").await, [1]);
}

/// Lets the old release record that it waits before an event.
async fn wait_before<DB: TestDatabase>(db: &Database<DB>, position: i64) {
    let old = Running::start(worker(db, old()));
    is_noted(db, position).await;
    old.stop().await;
}

async fn delete<DB: TestDatabase>(db: &Database<DB>, position: i64) {
    db.execute(&format!(
        "DELETE FROM events WHERE global_position = {position}"
    ))
    .await;
}

async fn a_lane_does_not_wait_for_an_event_that_was_deleted<DB: TestDatabase>(db: Database<DB>) {
    // The row shows what the lane waits for long before the next snapshot does.
    let orders = worker(&db, old())
        .advance_interval(Duration::from_millis(50))
        .snapshot_interval(Duration::from_millis(500));
    let worker = Running::start(orders);
    let [_, refunded, last] = [
        order(&db, "o-1", "Placed").await,
        order(&db, "o-1", "Refunded").await,
        order(&db, "o-1", "Placed").await,
    ];
    is_noted(&db, refunded).await;
    delete(&db, refunded).await;
    until("the consumer has stopped", async || {
        status(&db).await.state.name() == "stopped"
    })
    .await;
    let failing = status(&db).await.failing.unwrap();
    assert_eq!(failing.position, Some(refunded));
    assert!(
        failing.error.contains("deleted from the log"),
        "{}",
        failing.error
    );
    Admin::new(db.store.clone())
        .skip("orders", refunded)
        .await
        .unwrap();
    until("it continues", async || {
        db.applied("orders").await.last() == Some(&last)
    })
    .await;
    worker.stop().await;
    assert_eq!(db.applied("orders").await, db.log().await);
}

/// Only the lane that waits for it knows of it.
async fn an_event_that_is_deleted_before_it_is_noted_is_not_passed<DB: TestDatabase>(
    db: Database<DB>,
) {
    let orders = worker(&db, old())
        .advance_interval(Duration::from_millis(10))
        .snapshot_interval(Duration::from_hours(1));
    let running = Running::start(orders);
    running.caught_up().await.unwrap();
    let refunded = order(&db, "o-1", "Refunded").await;
    until("it waits", async || {
        running.consumers()[0].state.name() == "waiting_for_release"
    })
    .await;
    delete(&db, refunded).await;
    let placed = order(&db, "o-1", "Placed").await;
    until("it has stopped or passed the event", async || {
        let state = status(&db).await.state;
        state.name() == "stopped" || db.applied("orders").await == [placed]
    })
    .await;
    running.stop().await;
    let failing = status(&db).await.failing.unwrap();
    assert_eq!(failing.position, Some(refunded));
    assert!(db.applied("orders").await.is_empty());
}

/// Appends an event, and deletes it before any worker can read it.
async fn appended_and_deleted<DB: TestDatabase>(db: &Database<DB>) -> i64 {
    let mut tx = db.store.begin().await.unwrap();
    let position = db.append_in(&mut tx, "deleted").await;
    let delete = format!("DELETE FROM events WHERE global_position = {position}");
    DB::execute_sql(&mut tx, &delete).await.unwrap();
    tx.commit().await.unwrap();
    position
}

/// Lets the row wait for an event, as another process does.
fn wait_in_row(position: i64) -> String {
    format!(
        "UPDATE consumer_progress
            SET unknown_position = {position}, unknown_aggregate = 'Order',
                unknown_type = 'Legacy', unknown_version = 1"
    )
}

async fn stopped_before<DB: TestDatabase>(db: &Database<DB>, deleted: i64) {
    until("it has stopped", async || {
        status(db).await.state.name() == "stopped"
    })
    .await;
    let failing = status(db).await.failing.unwrap();
    assert_eq!(failing.position, Some(deleted));
    assert!(
        failing.error.contains("deleted from the log"),
        "{}",
        failing.error
    );
}

async fn a_waiting_lane_goes_back_to_a_deleted_event_of_its_row<DB: TestDatabase>(
    db: Database<DB>,
) {
    let builder = worker(&db, old()).advance_interval(Duration::from_hours(1));
    let running = Running::start(builder.snapshot_interval(Duration::from_millis(10)));
    running.caught_up().await.unwrap();
    let deleted = appended_and_deleted(&db).await;
    let refunded = order(&db, "o-1", "Refunded").await;
    is_noted(&db, refunded).await;
    db.execute(&wait_in_row(deleted)).await;
    stopped_before(&db, deleted).await;
    running.stop().await;
}

/// A worker that ends notes what its lanes wait for, and no snapshot has shown that the row names another event.
async fn what_a_lane_waits_for_hides_no_earlier_event<DB: TestDatabase>(db: Database<DB>) {
    let long = Duration::from_hours(1);
    let builder = worker(&db, old()).advance_interval(long);
    let running = Running::start(builder.snapshot_interval(long));
    running.caught_up().await.unwrap();
    let deleted = appended_and_deleted(&db).await;
    order(&db, "o-1", "Refunded").await;
    until("it waits", async || {
        running.consumers()[0].state.name() == "waiting_for_release"
    })
    .await;
    db.execute(&wait_in_row(deleted)).await;
    running.stop().await;
    db.execute("DELETE FROM consumer_pending").await;
    run_once(worker(&db, new())).await;
    stopped_before(&db, deleted).await;
}

/// Its row is as it was: only the log tells that an event was changed.
async fn a_waiting_lane_looks_again_at_a_log_that_was_rewritten<DB: TestDatabase>(
    db: Database<DB>,
) {
    let refunded = order(&db, "o-1", "Refunded").await;
    let worker = Running::start(worker(&db, old()));
    is_noted(&db, refunded).await;
    // No worker notices a change by hand.
    db.execute("UPDATE events SET event_type = 'Placed'").await;
    let admin = Admin::new(db.store.clone());
    admin.redact(refunded, "{}").await.unwrap();
    until("it handles the event", async || {
        db.applied("orders").await == [refunded]
    })
    .await;
    worker.stop().await;
}

/// The row looks as it did before the lane's save, which no snapshot has shown in between.
async fn a_waiting_lane_starts_over_with_a_row_made_anew<DB: TestDatabase>(db: Database<DB>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let (pool, called) = (db.pool.clone(), Arc::clone(&calls));
    let anew = consumer::<DB, _>("orders", move |cx, _, _| {
        if called.fetch_add(1, Ordering::SeqCst) == 0 {
            let pool = pool.clone();
            cx.after_commit(async move {
                let mut connection = pool.acquire().await.unwrap();
                let anew = "UPDATE consumer_progress SET position = 0";
                DB::execute_sql(&mut connection, anew).await.unwrap();
            });
        }
        Box::pin(async { Ok(()) })
    });
    let anew = anew
        .knows(|format| format.event_type != "Refunded")
        .scope(&["Order"]);
    let running = Running::start(worker(&db, anew).snapshot_interval(Duration::from_millis(200)));
    patiently("it starts", running.caught_up()).await.unwrap();
    let events = ["Placed", "Refunded"].map(|kind| NewEvent::new("Order", "o-1", kind, "{}"));
    db.store
        .append(ExpectedVersion::Any, &events)
        .await
        .unwrap();
    until("it handles the event again", async || {
        calls.load(Ordering::SeqCst) == 2
    })
    .await;
    running.stop().await;
}

async fn a_deleted_event_that_a_row_waits_for_is_not_passed_unseen<DB: TestDatabase>(
    db: Database<DB>,
) {
    for event_type in ["Placed", "Refunded", "Placed"] {
        order(&db, "o-1", event_type).await;
    }
    wait_before(&db, 2).await;
    // Only the row itself remembers it.
    db.execute("DELETE FROM consumer_pending").await;
    delete(&db, 2).await;
    let report = run_once(worker(&db, new())).await;
    let state = report.consumer("orders").unwrap().state.to_string();
    assert!(
        state.starts_with("stopped before event 2 (events 2 to 2 were deleted"),
        "{state}"
    );
    assert_eq!(db.applied("orders").await, [1]);
}

async fn a_deleted_event_that_a_row_waits_for_can_be_skipped<DB: TestDatabase>(db: Database<DB>) {
    for event_type in ["Placed", "Refunded", "Placed"] {
        order(&db, "o-1", event_type).await;
    }
    wait_before(&db, 2).await;
    delete(&db, 2).await;
    let admin = Admin::new(db.store.clone());
    let refused = admin.park("orders", 2).await.unwrap_err();
    assert!(matches!(refused, AdminError::NotInLog { .. }), "{refused}");
    admin.skip("orders", 2).await.unwrap();
    let report = run_once(worker(&db, old())).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(db.applied("orders").await, [1, 3]);
}

async fn a_segment_waits_and_the_others_continue<DB: TestDatabase>(db: Database<DB>) {
    let ids: Vec<String> = (0..16).map(|n| format!("o-{n}")).collect();
    for id in &ids {
        order(&db, id, "Placed").await;
    }
    order(&db, "o-3", "Refunded").await;
    for id in &ids {
        order(&db, id, "Placed").await;
    }
    let segments = || impatient().retries(0).segments(4);
    let report = run_once(worker(&db, old().settings(segments()))).await;
    let orders = report.consumer("orders").unwrap();
    assert_eq!(orders.state.name(), "waiting_for_release");
    let handled = db.applied("orders").await.len();
    assert!((17..33).contains(&handled), "{handled}");
    assert_eq!(status(&db).await.state.name(), "waiting_for_release");
    let rows = "SELECT count(unknown_position) FROM consumer_progress";
    assert_eq!(db.number(rows).await, 1);
    run_once(worker(&db, new().settings(segments()))).await;
    let mut applied = db.applied("orders").await;
    applied.sort_unstable();
    assert_eq!(applied, db.log().await);
}

async fn a_merge_behind_an_unknown_event_is_refused<DB: TestDatabase>(db: Database<DB>) {
    order(&db, "o-3", "Refunded").await;
    for id in (0..16).map(|n| format!("o-{n}")) {
        order(&db, &id, "Placed").await;
    }
    let segments = |segments| impatient().retries(0).segments(segments);
    run_once(worker(&db, old().settings(segments(2)))).await;
    let running = Running::start(worker(&db, old().settings(segments(1))));
    let admin = worker(&db, old()).admin().unwrap();
    let merge = patiently("it does not wait", admin.merge_segments("orders", 1));
    assert_eq!(
        merge.await.unwrap_err().to_string(),
        "the segments of `orders` cannot be merged while one of them waits for a release \
         that knows Refunded (Order, position 1); run a worker of such a release, or run `park` \
         or `skip` for the event"
    );
    running.stop().await;

    let running = Running::start(worker(&db, new().settings(segments(1))));
    let last = db.log().await[16];
    patiently("it continues", running.caught_up_to(last))
        .await
        .unwrap();
    let merge = patiently("they meet", admin.merge_segments("orders", 1));
    assert_eq!(merge.await.unwrap(), 1);
    running.stop().await;
}

async fn unknown_events_of_a_log_are_listed_at_once<DB: TestDatabase>(db: Database<DB>) {
    for event_type in ["Placed", "Refunded", "Legacy", "Refunded"] {
        order(&db, "o-1", event_type).await;
    }
    let later = NewEvent::new("Order", "o-1", "Placed", "{}").event_version(3);
    db.append_event(later).await;
    db.append("User", ["u"]).await;
    let orders = old().knows(|format| format.event_type == "Placed" && format.event_version < 2);
    let users =
        consumer_tests::read_model("users").knows(|format| format.aggregate_type == "Order");
    let list = async |builder: WorkerBuilder<DB>| {
        let unknown = builder.admin().unwrap().unknown_events().await.unwrap();
        let row = |one: &consumer::admin::UnknownEvents| {
            let consumer = format!("{} v{}", one.consumer.name, one.consumer.version);
            let event = format!("{} {}", one.event_type, one.event_version);
            (consumer, event, one.events, one.first, one.last)
        };
        unknown.iter().map(row).collect::<Vec<_>>()
    };
    let of = |consumer: &str, event: &str, events, first, last| {
        (consumer.to_owned(), event.to_owned(), events, first, last)
    };
    let of_orders = [
        of("orders v2", "Legacy 1", 1, 3, 3),
        of("orders v2", "Placed 3", 1, 5, 5),
        of("orders v2", "Refunded 1", 2, 2, 4),
    ];
    let orders = Registered::scoped(orders).version(2);
    let scoped = list(db.worker().registered(orders.clone())).await;
    assert_eq!(scoped, of_orders);
    let both = list(db.worker().registered(orders).consumer(users)).await;
    assert_eq!(both[..3], of_orders);
    assert_eq!(both[3..], [of("users v1", "Changed 1", 1, 6, 6)]);
    assert!(list(worker(&db, new())).await.is_empty());
}

/// The control of the tests here: what happens where the code claims to know what it has no handler for.
async fn an_old_release_that_passes_over_an_event_loses_it<DB: TestDatabase>(db: Database<DB>) {
    for event_type in ["Placed", "Refunded", "Placed"] {
        order(&db, "o-1", event_type).await;
    }
    let passing_over = consumer_tests::consumer("orders", |_, tx: &mut DB::Connection, event| {
        Box::pin(async move {
            if event.event_type.as_ref() == "Placed" {
                DB::apply(tx, "orders", event).await?;
            }
            Ok(())
        })
    });
    let report = run_once(worker(&db, passing_over.scope(&["Order"]))).await;
    assert!(!report.has_failures(), "{report}");
    run_once(worker(&db, new())).await;
    assert_eq!(db.applied("orders").await, [1, 3], "the second is lost");
}

async fn a_consumer_without_tx_waits_as_well<DB: TestDatabase>(db: Database<DB>) {
    for event_type in ["Placed", "Refunded", "Placed"] {
        order(&db, "o-1", event_type).await;
    }
    let calls = Arc::new(AtomicUsize::new(0));
    let orders = |knows_all: bool| {
        let calls = Arc::clone(&calls);
        let orders = consumer_tests::consumer("orders", move |_, _, _| {
            calls.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Ok(()) })
        });
        let orders = orders.scope(&["Order"]).without_tx();
        orders.knows(move |format| knows_all || format.event_type != "Refunded")
    };
    let report = run_once(worker(&db, orders(false))).await;
    let state = &report.consumer("orders").unwrap().state;
    assert_eq!(state.name(), "waiting_for_release");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    run_once(worker(&db, orders(true))).await;
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}
