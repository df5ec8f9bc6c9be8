//! Events that are deleted before a consumer has handled them do not go unnoticed; gaps that were never
//! filled do.

use std::sync::Arc;
use std::time::Duration;

use consumer::admin::{Admin, Outcome, RebuildOptions};
use consumer::{ConsumerState, OnError, Report, Settings, WorkerBuilder, aggregate_slice};
use consumer_tests::{
    Database, Model, Running, TestConsumer, TestDatabase, consumer, impatient, keep_log, logged,
    next_release, patiently, read_model, run_once, test_on, until,
};
use sqlx::Sqlite;
use tokio::sync::{Notify, Semaphore};

test_on!(
    [sqlite, postgres],
    a_paused_consumer_stops_before_events_that_were_deleted,
    a_stopped_consumer_stops_before_events_that_were_deleted,
    a_deleted_event_that_was_restored_is_handled,
    a_policy_that_skips_passes_over_events_that_were_deleted,
    a_policy_that_parks_stops_before_events_that_were_deleted,
    a_deleted_event_out_of_scope_stops_no_one,
    a_rebuild_says_which_events_are_no_longer_in_the_log,
    a_new_version_says_which_events_are_no_longer_in_the_log,
    a_slow_consumer_says_which_events_were_deleted_before_it,
    archiving_what_all_have_handled_raises_no_alarm,
    a_retried_event_that_was_deleted_is_missed_after_a_restart,
    evidence_of_an_event_that_was_deleted_is_kept,
    a_deleted_event_at_the_end_of_the_log_is_noticed,
    a_log_that_was_emptied_is_noticed,
    a_named_event_is_missed_while_a_lane_is_idle,
    what_is_recorded_of_a_former_half_stays,
    what_one_consumer_has_passed_is_evidence_for_another,
    the_next_event_of_a_segment_is_behind_many_of_another,
    a_checkpoint_that_was_lowered_is_searched_from_again,
    a_deleted_event_only_in_the_row_is_not_passed,
    an_idle_row_is_not_advanced_over_a_deleted_event,
    an_idle_lane_goes_back_to_a_deleted_event_of_its_row,
    an_event_out_of_scope_in_a_row_stops_no_one,
    a_resumed_row_remembers_a_deleted_event,
    a_split_row_remembers_a_deleted_event,
    a_merged_row_remembers_a_deleted_event,
    merged_rows_remember_a_deleted_event_each,
    an_accepted_scope_keeps_the_evidence,
    a_rebuild_keeps_the_evidence,
    a_second_rebuild_forgets_what_was_handled,
    what_a_resumed_row_names_is_shown_once_it_is_deleted,
    recorded_evidence_follows_the_slices_of_a_row,
    a_save_before_a_named_event_keeps_the_name,
    an_advance_before_a_deleted_event_keeps_the_evidence,
    two_events_out_of_scope_in_a_row_stop_no_one,
    an_event_out_of_scope_hides_no_deleted_one
);

test_on!(
    [sqlite],
    what_is_noted_while_a_handler_works_is_not_passed,
    what_is_noted_while_a_handler_fails_is_not_passed
);

test_on!(
    [postgres],
    positions_that_were_rolled_back_raise_no_alarm,
    a_deleted_event_beyond_the_frontier_waits_for_earlier_ones,
    an_event_out_of_scope_beyond_the_frontier_stops_no_one
);

fn impatiently() -> Settings {
    impatient().retries(1)
}

async fn delete<DB: TestDatabase>(db: &Database<DB>, from: i64, to: i64) {
    let delete = "DELETE FROM events WHERE global_position BETWEEN";
    db.execute(&format!("{delete} {from} AND {to}")).await;
}

/// Waits until a worker has noted that a consumer is yet to handle an event.
async fn noted<DB: TestDatabase>(db: &Database<DB>, consumer: &str, position: i64) {
    let noted = format!("SELECT position FROM consumer_pending WHERE consumer = '{consumer}'");
    until("it is noted", async || {
        db.numbers(&noted).await == [position]
    })
    .await;
}

/// Waits until a worker has looked for the next event of every paused row, by the note of one of them.
async fn searched<DB: TestDatabase>(db: &Database<DB>, consumer: &str, position: i64) {
    noted(db, consumer, position).await;
    // The worker notes it again when it next looks.
    let forget = format!("DELETE FROM consumer_pending WHERE consumer = '{consumer}'");
    db.execute(&forget).await;
    noted(db, consumer, position).await;
}

/// Lets `users` handle ten events, and pauses it before ten more; returns the positions of all.
async fn paused_half_way<DB: TestDatabase>(db: &Database<DB>, users: &Model) -> Vec<i64> {
    db.append_many(10).await;
    let running = Running::start(db.worker().scoped_consumer(users.clone()));
    patiently("it handles ten", running.caught_up())
        .await
        .unwrap();
    let admin = Admin::new(db.store.clone());
    admin.pause("users").await.unwrap();
    let pending = db.append_many(10).await;
    noted(db, "users", pending[0]).await;
    running.stop().await;
    db.log().await
}

/// Resumes `users` and runs it to the end.
async fn resumed<DB: TestDatabase>(db: &Database<DB>, users: &Model) -> Report {
    Admin::new(db.store.clone()).resume("users").await.unwrap();
    run_once(db.worker().scoped_consumer(users.clone())).await
}

fn has_stopped_at(report: &Report, position: i64, words: &str) -> bool {
    let state = &report.consumer("users").unwrap().state;
    matches!(state, ConsumerState::Stopped { position: Some(at), error }
        if *at == position && error.contains(words))
}

async fn a_paused_consumer_stops_before_events_that_were_deleted<DB: TestDatabase>(
    db: Database<DB>,
) {
    let users = Model::new("users").settings(impatiently());
    let log = paused_half_way(&db, &users).await;
    let (first, last) = (log[10], log[14]);
    delete(&db, log[2], last).await;
    let status = Admin::new(db.store.clone()).status().await.unwrap();
    assert_eq!(
        status.consumers[0].missing,
        Some(first..=last),
        "before it gets there"
    );
    let report = resumed(&db, &users).await;
    let words = format!("events {first} to {last} were deleted from the log");
    assert!(has_stopped_at(&report, first, &words), "{report}");
    assert!(report.has_failures());
    // Each start says so again, until an operator decides.
    let again = run_once(db.worker().scoped_consumer(users.clone())).await;
    assert!(has_stopped_at(&again, first, &words), "{again}");
    let admin = Admin::new(db.store.clone());
    let status = admin.status().await.unwrap();
    let failing = status.consumers[0].failing.clone().unwrap();
    assert!(failing.error.contains(&words), "{failing:?}");
    admin.skip("users", first).await.unwrap();
    let report = run_once(db.worker().scoped_consumer(users)).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(db.applied("users").await[10..], log[15..]);
}

async fn a_stopped_consumer_stops_before_events_that_were_deleted<DB: TestDatabase>(
    db: Database<DB>,
) {
    let users = Model::new("users").settings(impatient().retries(0));
    users.fail_on("bad", true);
    db.append("User", ["a", "b", "bad", "c", "d"]).await;
    let running = Running::start(db.worker().scoped_consumer(users.clone()));
    noted(&db, "users", 3).await;
    let waits = running.caught_up().await.unwrap_err().to_string();
    assert!(waits.contains("stopped"), "{waits}");
    running.stop().await;
    delete(&db, 1, 4).await;
    let report = run_once(db.worker().scoped_consumer(users)).await;
    assert!(
        has_stopped_at(&report, 3, "events 3 to 4 were deleted"),
        "{report}"
    );
}

async fn a_deleted_event_that_was_restored_is_handled<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").settings(impatient().retries(10_000));
    let log = paused_half_way(&db, &users).await;
    db.execute("CREATE TABLE archive AS SELECT * FROM events")
        .await;
    delete(&db, log[2], log[14]).await;
    let running = Running::start(db.worker().scoped_consumer(users));
    Admin::new(db.store.clone()).resume("users").await.unwrap();
    until("it misses an event", async || {
        let state = &running.consumers()[0].state;
        matches!(state, ConsumerState::Retrying { position, .. } if *position == log[10])
    })
    .await;
    let missing =
        "SELECT * FROM archive WHERE global_position NOT IN (SELECT global_position FROM events)";
    db.execute(&format!("INSERT INTO events {missing}")).await;
    patiently("it handles the rest", running.caught_up())
        .await
        .unwrap();
    assert_eq!(db.applied("users").await, log);
    running.stop().await;
}

async fn a_policy_that_skips_passes_over_events_that_were_deleted<DB: TestDatabase>(
    db: Database<DB>,
) {
    let users = Model::new("users").settings(impatiently().on_error(OnError::Skip));
    let log = paused_half_way(&db, &users).await;
    delete(&db, log[0], log[14]).await;
    let report = resumed(&db, &users).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(report.consumer("users").unwrap().skipped, 1, "{report}");
    assert_eq!(db.applied("users").await[10..], log[15..]);
}

async fn a_policy_that_parks_stops_before_events_that_were_deleted<DB: TestDatabase>(
    db: Database<DB>,
) {
    let users = Model::new("users").settings(impatiently().on_error(OnError::Park));
    let log = paused_half_way(&db, &users).await;
    delete(&db, log[0], log[14]).await;
    let report = resumed(&db, &users).await;
    let words = format!("events {} to {} were deleted", log[10], log[14]);
    assert!(has_stopped_at(&report, log[10], &words), "{report}");
    assert_eq!(db.parked("users").await, [0; 0]);
}

async fn a_deleted_event_out_of_scope_stops_no_one<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").scope(&["User"]).settings(impatiently());
    paused_half_way(&db, &users).await;
    let orders = db.append("Order", ["a", "b"]).await;
    db.append_many(1).await;
    delete(&db, orders[0], orders[1]).await;
    let report = resumed(&db, &users).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(db.applied("users").await, db.log().await);
}

async fn a_rebuild_says_which_events_are_no_longer_in_the_log<DB: TestDatabase>(db: Database<DB>) {
    keep_log();
    db.append_many(10).await;
    let users = Model::new("rebuilt");
    let running = Running::start(db.worker().scoped_consumer(users.clone()));
    patiently("it handles the log", running.caught_up())
        .await
        .unwrap();
    let first = "SELECT first_position FROM consumer_log_state";
    until("it knows the beginning", async || {
        db.numbers(first).await == [1]
    })
    .await;
    running.stop().await;
    delete(&db, 1, 4).await;
    let admin = db.worker().scoped_consumer(users.clone()).admin().unwrap();
    let rebuilt = admin.rebuild("rebuilt", RebuildOptions::new()).await;
    assert_eq!(rebuilt.unwrap().missing, Some(1..=4));
    let report = run_once(db.worker().scoped_consumer(users)).await;
    let rebuilt = report.consumer("rebuilt").unwrap();
    assert_eq!(rebuilt.missing, Some(1..=4), "{report}");
    assert_eq!(rebuilt.state, ConsumerState::CaughtUp);
    let said = logged(&["WARN", "rebuilt", "events 1 to 4 are no longer in the log"]);
    assert!(!said.is_empty());
}

async fn a_new_version_says_which_events_are_no_longer_in_the_log<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append_many(10).await;
    let running = Running::start(db.worker().consumer(read_model("old")));
    let first = "SELECT first_position FROM consumer_log_state";
    until("it knows the beginning", async || {
        db.numbers(first).await == [1]
    })
    .await;
    patiently("it handles the log", running.caught_up())
        .await
        .unwrap();
    running.stop().await;
    delete(&db, 1, 4).await;
    let report = run_once(db.worker().consumer(read_model("new"))).await;
    assert_eq!(
        report.consumer("new").unwrap().missing,
        Some(1..=4),
        "{report}"
    );
    // The control: nothing is missing where the reading begins after it.
    let report = run_once(db.worker().consumer(read_model("old"))).await;
    assert_eq!(report.consumer("old").unwrap().missing, None, "{report}");
}

async fn a_slow_consumer_says_which_events_were_deleted_before_it<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append_many(2).await;
    let gate = Arc::new(Semaphore::new(0));
    let (entered, permits) = (Arc::new(Notify::new()), Arc::clone(&gate));
    let called = Arc::clone(&entered);
    let slow = consumer::<DB, _>("slow", move |_, _, _| {
        let permits = Arc::clone(&permits);
        called.notify_one();
        Box::pin(async move {
            permits.acquire().await?.forget();
            Ok(())
        })
    });
    // The worker keeps nothing in memory, so that what is deleted is gone.
    let worker = db.worker().cache_bytes(0).consumer(slow.without_tx());
    let running = Running::start(worker.consumer(read_model("others")));
    entered.notified().await;
    let deleted = db.append_many(8).await;
    let others = running.consumer_caught_up_to("others", deleted[7]);
    patiently("the events are seen", others).await.unwrap();
    delete(&db, deleted[0], deleted[7]).await;
    db.append_many(5).await;
    gate.add_permits(100);
    patiently("it handles the rest", running.caught_up())
        .await
        .unwrap();
    let report = running.stop().await;
    let slow = report.consumer("slow").unwrap();
    let missing = slow.missing.clone().expect("it says so");
    assert_eq!((slow.events, *missing.end()), (7, deleted[7]), "{report}");
    assert_eq!(report.consumer("others").unwrap().missing, None, "{report}");
}

async fn archiving_what_all_have_handled_raises_no_alarm<DB: TestDatabase>(db: Database<DB>) {
    keep_log();
    let model = Model::new("archived");
    let worker = db.worker().advance_interval(Duration::from_millis(10));
    let running = Running::start(worker.scoped_consumer(model.clone()));
    for _ in 1..=5 {
        let appended = db.append_many(10).await;
        patiently("it handles them", running.caught_up())
            .await
            .unwrap();
        until("its checkpoint is saved", async || {
            db.checkpoint("archived").await == Some(appended[9])
        })
        .await;
        delete(&db, 1, appended[5]).await;
    }
    let report = running.stop().await;
    let archived = report.consumer("archived").unwrap();
    assert_eq!(archived.missing, None, "{report}");
    let report = run_once(db.worker().scoped_consumer(model)).await;
    assert!(!report.has_failures(), "{report}");
    let words = ["archived", "no longer in the log"];
    assert_eq!(logged(&words), [""; 0]);
}

async fn a_retried_event_that_was_deleted_is_missed_after_a_restart<DB: TestDatabase>(
    db: Database<DB>,
) {
    let hour = Duration::from_hours(1);
    let users = Model::new("users").settings(impatiently().backoff(hour, hour));
    users.fail_on("bad", true);
    let bad = db.append("User", ["bad", "good"]).await[0];
    let worker = db.worker().advance_interval(Duration::from_millis(10));
    let running = Running::start(worker.scoped_consumer(users.clone()));
    noted(&db, "users", bad).await;
    running.stop().await;
    delete(&db, bad, bad).await;
    let users = users.settings(impatiently());
    let report = run_once(db.worker().scoped_consumer(users)).await;
    let words = format!("events {bad} to {bad} were deleted");
    assert!(has_stopped_at(&report, bad, &words), "{report}");
}

/// Makes `users` and `orders`, and pauses them.
async fn both_paused<DB: TestDatabase>(db: &Database<DB>) -> [Model; 2] {
    let both = [("users", "User"), ("orders", "Order")];
    let both = both.map(|(name, scope)| Model::new(name).scope(&[scope]).settings(impatiently()));
    run_once(running_both(db, &both)).await;
    let admin = Admin::new(db.store.clone());
    for name in ["users", "orders"] {
        admin.pause(name).await.unwrap();
    }
    both
}

fn running_both<DB: TestDatabase>(db: &Database<DB>, both: &[Model; 2]) -> WorkerBuilder<DB> {
    let [users, orders] = both.clone();
    let worker = db.worker().scoped_consumer(users).scoped_consumer(orders);
    worker.advance_interval(Duration::from_millis(10))
}

/// Also by a worker that has not seen that it is noted.
async fn evidence_of_an_event_that_was_deleted_is_kept<DB: TestDatabase>(db: Database<DB>) {
    let both = both_paused(&db).await;
    let pending = db.append("User", ["a", "b"]).await;
    let order = db.append_one("Order", "o").await;
    let worker = running_both(&db, &both).snapshot_interval(Duration::from_hours(1));
    let running = Running::start(worker);
    noted(&db, "users", pending[0]).await;
    delete(&db, pending[0], pending[0]).await;
    for _ in 0..2 {
        searched(&db, "orders", order).await;
    }
    running.stop().await;
    noted(&db, "users", pending[0]).await;
}

/// Before another event follows.
async fn a_deleted_event_at_the_end_of_the_log_is_noticed<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").settings(impatiently());
    users.fail_on("bad", true);
    let last = db.append("User", ["a", "bad"]).await[1];
    run_once(db.worker().scoped_consumer(users.clone())).await;
    delete(&db, last, last).await;
    let report = resumed(&db, &users).await;
    let words = format!("events {last} to {last} were deleted");
    assert!(has_stopped_at(&report, last, &words), "{report}");
    let admin = Admin::new(db.store.clone());
    admin.skip("users", last).await.unwrap();
    let next = db.append("User", ["a"]).await[0];
    let report = run_once(db.worker().scoped_consumer(users.clone())).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(db.applied("users").await.last(), Some(&next));
}

/// A worker that has nothing else to do looks for it.
async fn a_named_event_is_missed_while_a_lane_is_idle<DB: TestDatabase>(db: Database<DB>) {
    db.append_one("User", "u").await;
    let often = Duration::from_millis(10);
    let builder = with_named(&db).snapshot_interval(often);
    let running = Running::start(builder.advance_interval(often));
    running.caught_up().await.unwrap();
    let mut tx = db.store.begin().await.unwrap();
    let deleted = db.append_in(&mut tx, "deleted").await;
    drop(tx);
    db.execute(&name_in_resumed_rows(deleted)).await;
    both_stop_before(&db, deleted).await;
    running.stop().await;
}

async fn a_log_that_was_emptied_is_noticed<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").settings(impatiently());
    let log = paused_half_way(&db, &users).await;
    db.execute("DELETE FROM events").await;
    let report = resumed(&db, &users).await;
    let words = "were deleted from the log before the consumer had handled event";
    assert!(has_stopped_at(&report, log[10], words), "{report}");
    let admin = Admin::new(db.store.clone());
    admin.skip("users", log[10]).await.unwrap();
    // A log that was restored to an earlier time gives out the position later.
    admin.pause("users").await.unwrap();
    db.execute(&format!(
        "UPDATE consumer_progress SET state = 'stopped', failed_position = {}, error = 'bad'",
        log[19] + 100
    ))
    .await;
    let refused = admin.skip("users", log[19] + 100).await.unwrap_err();
    assert!(
        refused.to_string().contains("the log was reset"),
        "{refused}"
    );
}

async fn what_one_consumer_has_passed_is_evidence_for_another<DB: TestDatabase>(db: Database<DB>) {
    let both = both_paused(&db).await;
    let pending = db.append("User", ["a", "b", "c"]).await;
    let order = db.append_one("Order", "o").await;
    let running = Running::start(running_both(&db, &both));
    noted(&db, "users", pending[0]).await;
    noted(&db, "orders", order).await;
    delete(&db, pending[0], pending[1]).await;
    let admin = Admin::new(db.store.clone());
    admin.resume("orders").await.unwrap();
    let of_orders = "SELECT count(*) FROM consumer_pending WHERE consumer = 'orders'";
    until("what it has passed is dropped", async || {
        db.number(of_orders).await == 0
    })
    .await;
    running.stop().await;
    let report = resumed(&db, &both[0]).await;
    let words = format!("events {} to {} were deleted", pending[0], pending[1]);
    assert!(has_stopped_at(&report, pending[0], &words), "{report}");
}

/// More of the other than a worker reads at a time.
async fn the_next_event_of_a_segment_is_behind_many_of_another<DB: TestDatabase>(db: Database<DB>) {
    let id_in = |upper: bool| {
        let mut ids = (0..1_000).map(|n| format!("u-{n}"));
        ids.find(|id| (aggregate_slice(id) >= 512) == upper)
            .unwrap()
    };
    let (lower, upper) = (id_in(false), id_in(true));
    let users = Model::new("users").settings(impatiently().segments(2));
    run_once(db.worker().scoped_consumer(users.clone())).await;
    let admin = Admin::new(db.store.clone());
    admin.pause("users").await.unwrap();
    let mut tx = db.store.begin().await.unwrap();
    for _ in 0..150 {
        db.append_in(&mut tx, &lower).await;
    }
    let next = db.append_in(&mut tx, &upper).await;
    tx.commit().await.unwrap();
    let running = Running::start(db.worker().scoped_consumer(users));
    let noted = "SELECT position FROM consumer_pending WHERE slice_from = 512";
    until("it is noted", async || db.numbers(noted).await == [next]).await;
    running.stop().await;
}

async fn a_checkpoint_that_was_lowered_is_searched_from_again<DB: TestDatabase>(db: Database<DB>) {
    let first = db.append_one("User", "a").await;
    let both = both_paused(&db).await;
    let order = db.append_one("Order", "o").await;
    let running = Running::start(running_both(&db, &both));
    searched(&db, "orders", order).await;
    let noted_of_users = "SELECT count(*) FROM consumer_pending WHERE consumer = 'users'";
    assert_eq!(db.number(noted_of_users).await, 0);
    db.execute("UPDATE consumer_progress SET position = 0 WHERE consumer = 'users'")
        .await;
    noted(&db, "users", first).await;
    running.stop().await;
}

async fn positions_that_were_rolled_back_raise_no_alarm(db: Database<sqlx::Postgres>) {
    let draw = "SELECT nextval(pg_get_serial_sequence('events', 'global_position'))";
    db.numbers(draw).await;
    let users = Model::new("users").settings(impatiently());
    paused_at(&db, &users, draw).await;
    let report = resumed(&db, &users).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(report.consumer("users").unwrap().missing, None);
    let report = run_once(db.worker().consumer(read_model("new"))).await;
    assert_eq!(report.consumer("new").unwrap().missing, None);
    assert_eq!(db.applied("users").await, db.log().await);
}

/// Another process, which has read further, has recorded it.
async fn a_deleted_event_beyond_the_frontier_waits_for_earlier_ones(db: Database<sqlx::Postgres>) {
    db.append_one("User", "u").await;
    let running = Running::start(with_named(&db).snapshot_interval(Duration::from_millis(10)));
    running.caught_up().await.unwrap();
    let mut open = db.store.begin().await.unwrap();
    db.append_in(&mut open, "open").await;
    db.append_one("User", "u").await;
    let deleted = appended_and_deleted(&db, |_| String::new()).await;
    db.execute(&name_in_resumed_rows(deleted)).await;
    sees_its_row(&db, &running).await;
    open.commit().await.unwrap();
    until("both have stopped", async || {
        let stopped = "SELECT count(*) FROM consumer_progress WHERE state = 'stopped'";
        db.number(stopped).await == 2
    })
    .await;
    running.stop().await;
    for name in NAMED {
        assert_eq!(db.applied(name).await, db.log().await, "{name}");
    }
}

/// A lane that is asleep would follow the scan over it.
async fn an_event_out_of_scope_beyond_the_frontier_stops_no_one(db: Database<sqlx::Postgres>) {
    db.append_one("User", "u").await;
    let often = Duration::from_millis(10);
    let builder = with_named(&db).snapshot_interval(often);
    let running = Running::start(builder.advance_interval(often));
    running.caught_up().await.unwrap();
    let mut open = db.store.begin().await.unwrap();
    db.append_in(&mut open, "open").await;
    let order = db.append_one("Order", "o").await;
    db.execute(&name_in_resumed_rows(order)).await;
    sees_its_row(&db, &running).await;
    open.rollback().await.unwrap();
    let last = db.append_one("Order", "o").await;
    for name in NAMED {
        is_at(&db, name, last).await;
    }
    running.stop().await;
}

/// Like [`paused_at_ten`], with a position that is never used before each event.
async fn paused_at(db: &Database<sqlx::Postgres>, users: &Model, draw: &str) {
    let append = async || {
        for _ in 0..5 {
            db.numbers(draw).await;
            db.append_many(1).await;
        }
    };
    append().await;
    let running = Running::start(db.worker().scoped_consumer(users.clone()));
    patiently("it handles them", running.caught_up())
        .await
        .unwrap();
    Admin::new(db.store.clone()).pause("users").await.unwrap();
    let before = db.log().await.len();
    append().await;
    noted(db, "users", db.log().await[before]).await;
    running.stop().await;
}

const LONG: Duration = Duration::from_hours(1);

/// Lets the row of `waiting` wait for an event, and that of `failing` fail on it, as another process does.
fn name_in_rows(position: i64) -> String {
    format!(
        "UPDATE consumer_progress
            SET unknown_position = {position}, unknown_aggregate = 'User',
                unknown_type = 'Changed', unknown_version = 1
          WHERE consumer = 'waiting';
         UPDATE consumer_progress SET attempts = 1, failed_position = {position}, error = 'bad'
          WHERE consumer = 'failing'"
    )
}

/// Appends an event and deletes it, with what else happens meanwhile, before any worker can read it.
async fn appended_and_deleted<DB: TestDatabase>(
    db: &Database<DB>,
    meanwhile: impl FnOnce(i64) -> String,
) -> i64 {
    let mut tx = db.store.begin().await.unwrap();
    let position = db.append_in(&mut tx, "deleted").await;
    let delete = format!("DELETE FROM events WHERE global_position = {position}");
    for sql in [meanwhile(position), delete] {
        DB::execute_sql(&mut tx, &sql).await.unwrap();
    }
    tx.commit().await.unwrap();
    position
}

/// A worker with three consumers: `waiting` and `failing` handle users, and no event is in the scope of `idle`.
fn with_named<DB: TestDatabase>(db: &Database<DB>) -> WorkerBuilder<DB> {
    let users = |name| {
        let settings = impatient().retries(0);
        read_model(name).scope(&["User"]).settings(settings)
    };
    db.worker()
        .scoped_consumer(users("waiting"))
        .scoped_consumer(users("failing"))
        .scoped_consumer(read_model("idle").scope(&["Nothing"]))
}

const NAMED: [&str; 2] = ["waiting", "failing"];

async fn is_at<DB: TestDatabase>(db: &Database<DB>, consumer: &str, position: i64) {
    until(&format!("`{consumer}` is at {position}"), async || {
        db.checkpoint(consumer).await == Some(position)
    })
    .await;
}

/// Waits until both are stopped before an event, or have passed it.
async fn both_stop_before<DB: TestDatabase>(db: &Database<DB>, position: i64) {
    let ended = format!(
        "SELECT consumer FROM consumer_progress
          WHERE consumer <> 'idle' AND (state = 'stopped' OR position >= {position})"
    );
    until("both have ended", async || {
        db.texts(&ended).await.len() == 2
    })
    .await;
    let status = Admin::new(db.store.clone()).status().await.unwrap();
    for name in NAMED {
        let failing = status.consumer(name).unwrap().failing.as_ref();
        let failing = failing.unwrap_or_else(|| panic!("`{name}` has passed event {position}"));
        assert_eq!(failing.position, Some(position), "{name}");
        assert!(
            failing.error.contains("deleted from the log"),
            "{name}: {failing:?}"
        );
        assert_eq!(db.applied(name).await.len(), 1, "{name}");
    }
}

/// No snapshot shows the lane what its row names: the claim does.
async fn a_deleted_event_only_in_the_row_is_not_passed<DB: TestDatabase>(db: Database<DB>) {
    db.append_one("User", "u").await;
    let running = Running::start(with_named(&db).snapshot_interval(LONG));
    running.caught_up().await.unwrap();
    let deleted = appended_and_deleted(&db, name_in_rows).await;
    db.append_one("User", "u").await;
    both_stop_before(&db, deleted).await;
    running.stop().await;
}

/// A worker that ends advances the rows of idle lanes, without a claim.
async fn an_idle_row_is_not_advanced_over_a_deleted_event<DB: TestDatabase>(db: Database<DB>) {
    db.append_one("User", "u").await;
    let running = Running::start(with_named(&db).snapshot_interval(LONG));
    running.caught_up().await.unwrap();
    let deleted = appended_and_deleted(&db, name_in_rows).await;
    let order = db.append_one("Order", "o").await;
    running.caught_up_to(order).await.unwrap();
    running.stop().await;
    for (name, position) in [("idle", order), ("waiting", 1), ("failing", 1)] {
        assert_eq!(db.checkpoint(name).await, Some(position), "{name}");
    }
    run_once(with_named(&db)).await;
    both_stop_before(&db, deleted).await;
}

/// It has passed the position when the row names it.
async fn an_idle_lane_goes_back_to_a_deleted_event_of_its_row<DB: TestDatabase>(db: Database<DB>) {
    db.append_one("User", "u").await;
    let often = Duration::from_millis(10);
    let builder = with_named(&db)
        .advance_interval(LONG)
        .snapshot_interval(often);
    let running = Running::start(builder);
    running.caught_up().await.unwrap();
    let deleted = appended_and_deleted(&db, |_| String::new()).await;
    let order = db.append_one("Order", "o").await;
    running.caught_up_to(order).await.unwrap();
    db.execute(&name_in_rows(deleted)).await;
    both_stop_before(&db, deleted).await;
    running.stop().await;
}

/// Such as one whose row was split, or an event that was moved to another aggregate by hand.
async fn an_event_out_of_scope_in_a_row_stops_no_one<DB: TestDatabase>(db: Database<DB>) {
    let often = Duration::from_millis(10);
    for interval in [LONG, often] {
        let builder = with_named(&db).snapshot_interval(interval);
        let running = Running::start(builder.advance_interval(interval));
        running.caught_up().await.unwrap();
        let order = db.append_one("Order", "o").await;
        db.execute(&name_in_rows(order)).await;
        let user = db.append_one("User", "u").await;
        for name in NAMED {
            is_at(&db, name, user).await;
        }
        // Where no event in scope follows, a row is advanced without a claim.
        let order = db.append_one("Order", "o").await;
        db.execute(&name_in_rows(order)).await;
        let last = db.append_one("Order", "o").await;
        running.caught_up_to(last).await.unwrap();
        // Only a snapshot tells the lane to look at it.
        if interval == often {
            for name in NAMED {
                is_at(&db, name, last).await;
            }
        }
        running.stop().await;
    }
    let users = "SELECT global_position FROM events WHERE aggregate_type = 'User'";
    for name in NAMED {
        assert_eq!(db.applied(name).await, db.numbers(users).await, "{name}");
    }
}

/// Without a worker that would have looked in the meantime, so that the row alone knew of the event.
async fn a_resumed_row_remembers_a_deleted_event<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").settings(impatient().retries(0));
    users.fail_on("bad", true);
    db.append("User", ["a", "bad", "c"]).await;
    run_once(db.worker().scoped_consumer(users.clone())).await;
    db.execute("DELETE FROM events WHERE global_position = 2")
        .await;
    let admin = Admin::new(db.store.clone());
    admin.resume("users").await.unwrap();
    db.execute("DELETE FROM consumer_pending").await;
    let report = run_once(db.worker().scoped_consumer(users.clone())).await;
    assert!(
        has_stopped_at(&report, 2, "events 2 to 2 were deleted"),
        "{report}"
    );
    // Nor does another release that tries it again forget it.
    db.execute("DELETE FROM consumer_pending").await;
    let builder = db.worker().scoped_consumer(users);
    let report = run_once(builder.release(next_release())).await;
    assert!(
        has_stopped_at(&report, 2, "events 2 to 2 were deleted"),
        "{report}"
    );
}

/// `waiting` and `failing` with so many segments.
fn with_segments<DB: TestDatabase>(db: &Database<DB>, segments: u32) -> WorkerBuilder<DB> {
    NAMED.into_iter().fold(db.worker(), |worker, name| {
        let settings = impatient().retries(0).segments(segments);
        worker.scoped_consumer(read_model(name).scope(&["User"]).settings(settings))
    })
}

async fn stops_before<DB: TestDatabase>(builder: WorkerBuilder<DB>, position: i64) {
    let report = run_once(builder).await;
    let words = format!("events {position} to {position} were deleted");
    for name in NAMED {
        let state = report.consumer(name).unwrap().state.to_string();
        assert!(state.contains(&words), "{name}: {state}");
    }
}

/// Lets `consumer_pending` name an event that belongs to no row of `NAMED`, as after a split.
async fn has_evidence_of_another<DB: TestDatabase>(db: &Database<DB>) {
    let order = db.append_one("Order", "o").await;
    db.execute("DELETE FROM consumer_pending").await;
    db.execute(&format!(
        "INSERT INTO consumer_pending (consumer, version, slice_from, position)
         SELECT consumer, version, slice_from, {order} FROM consumer_progress"
    ))
    .await;
}

async fn a_split_row_remembers_a_deleted_event<DB: TestDatabase>(db: Database<DB>) {
    run_once(with_segments(&db, 1)).await;
    has_evidence_of_another(&db).await;
    let deleted = appended_and_deleted(&db, name_in_rows).await;
    db.append("User", (0..8).map(|n| format!("u-{n}"))).await;
    all_halves_stop(&db).await;
    stops_before(with_segments(&db, 2), deleted).await;
}

/// Lets a worker divide the rows of both consumers. The deleted event could have been in either half, so all of
/// them stop.
async fn all_halves_stop<DB: TestDatabase>(db: &Database<DB>) {
    let running = Running::start(with_segments(db, 2));
    let stopped = "SELECT count(*) FROM consumer_progress WHERE state = 'stopped'";
    until("all halves have stopped", async || {
        db.number(stopped).await == 4
    })
    .await;
    running.stop().await;
}

async fn a_merged_row_remembers_a_deleted_event<DB: TestDatabase>(db: Database<DB>) {
    run_once(with_segments(&db, 2)).await;
    has_evidence_of_another(&db).await;
    let in_upper_half = |position| {
        name_in_rows(position).replace("WHERE consumer", "WHERE slice_from > 0 AND consumer")
    };
    let deleted = appended_and_deleted(&db, in_upper_half).await;
    merge_both(&db).await;
    db.append("User", (0..8).map(|n| format!("u-{n}"))).await;
    stops_before(with_segments(&db, 1), deleted).await;
}

async fn merge_both<DB: TestDatabase>(db: &Database<DB>) {
    let admin = Admin::new(db.store.clone());
    for name in NAMED {
        // No row has to move for it.
        let merged = patiently("they are merged", admin.merge_segments(name, 1));
        assert_eq!(merged.await.unwrap(), 1);
    }
}

async fn what_is_recorded_of_a_former_half_stays<DB: TestDatabase>(db: Database<DB>) {
    run_once(with_segments(&db, 2)).await;
    let user = db.append_one("User", "u").await;
    let report = run_once(with_segments(&db, 2)).await;
    assert!(!report.has_failures(), "{report}");
    db.execute(&format!("UPDATE consumer_progress SET position = {user}"))
        .await;
    merge_both(&db).await;
    let admin = Admin::new(db.store.clone());
    for name in NAMED {
        admin.pause(name).await.unwrap();
    }
    db.execute(&format!(
        "DELETE FROM consumer_pending;
         INSERT INTO consumer_pending (consumer, version, slice_from, position)
         SELECT consumer, version, 0, {user} FROM consumer_progress;
         INSERT INTO consumer_pending (consumer, version, slice_from, position)
         SELECT consumer, version, 512, {} FROM consumer_progress",
        user + 1
    ))
    .await;
    let often = Duration::from_millis(10);
    let builder = with_segments(&db, 1).snapshot_interval(often);
    let running = Running::start(builder.advance_interval(often));
    let passed = format!("SELECT count(*) FROM consumer_pending WHERE position = {user}");
    until("what was passed is dropped", async || {
        db.number(&passed).await == 0
    })
    .await;
    running.stop().await;
    let left = "SELECT position FROM consumer_pending";
    assert_eq!(db.numbers(left).await, [user + 1; 2]);
}

/// Each of four rows names one, and of the last one a worker has recorded it too.
async fn merged_rows_remember_a_deleted_event_each<DB: TestDatabase>(db: Database<DB>) {
    run_once(with_segments(&db, 4)).await;
    let mut deleted = Vec::new();
    for slice in [768, 512, 0, 256] {
        let of_row = format!("WHERE slice_from = {slice} AND consumer");
        let in_row = |position| {
            format!(
                "{}; DELETE FROM consumer_pending;
                 INSERT INTO consumer_pending (consumer, version, slice_from, position)
                 SELECT consumer, version, slice_from, {position} FROM consumer_progress
                  WHERE slice_from = {slice}",
                name_in_rows(position).replace("WHERE consumer", &of_row)
            )
        };
        deleted.push(appended_and_deleted(&db, in_row).await);
        // Each is a gap of its own.
        db.append_one("Order", "o").await;
    }
    merge_both(&db).await;
    db.append("User", (0..8).map(|n| format!("u-{n}"))).await;
    let admin = Admin::new(db.store.clone());
    for deleted in deleted {
        stops_before(with_segments(&db, 1), deleted).await;
        for name in NAMED {
            admin.skip(name, deleted).await.unwrap();
        }
    }
    let report = run_once(with_segments(&db, 1)).await;
    assert!(!report.has_failures(), "{report}");
}

/// What a test does to the rows of `waiting` and `failing`: they name an event, or a worker has recorded it.
fn as_evidence(position: i64, is_recorded: bool) -> String {
    if !is_recorded {
        return name_in_rows(position);
    }
    format!(
        "DELETE FROM consumer_pending;
         INSERT INTO consumer_pending (consumer, version, slice_from, position)
         SELECT consumer, version, slice_from, {position} FROM consumer_progress"
    )
}

async fn an_accepted_scope_keeps_the_evidence<DB: TestDatabase>(db: Database<DB>) {
    run_once(with_segments(&db, 2)).await;
    let wider = || {
        NAMED.into_iter().fold(db.worker(), |worker, name| {
            let consumer = read_model(name).scope(&["User", "Account"]);
            worker.scoped_consumer(consumer.settings(impatient().retries(0).segments(2)))
        })
    };
    let narrower = || with_segments(&db, 2);
    for (is_recorded, is_wider) in [(false, true), (true, false)] {
        let worker = || if is_wider { wider() } else { narrower() };
        let deleted =
            appended_and_deleted(&db, |position| as_evidence(position, is_recorded)).await;
        db.append("User", (0..8).map(|n| format!("u-{n}"))).await;
        let admin = worker().admin().unwrap();
        for name in NAMED {
            admin.accept_scope(name).await.unwrap();
        }
        stops_before(worker(), deleted).await;
        for name in NAMED {
            admin.skip(name, deleted).await.unwrap();
        }
        let report = run_once(worker()).await;
        assert!(!report.has_failures(), "{report}");
    }
}

async fn a_rebuild_keeps_the_evidence<DB: TestDatabase>(db: Database<DB>) {
    run_once(with_segments(&db, 1)).await;
    for is_recorded in [false, true] {
        db.append_one("User", "u").await;
        let report = run_once(with_segments(&db, 1)).await;
        assert!(!report.has_failures(), "{report}");
        let deleted =
            appended_and_deleted(&db, |position| as_evidence(position, is_recorded)).await;
        db.append_one("User", "u").await;
        let admin = with_segments(&db, 1).admin().unwrap();
        for name in NAMED {
            let options = RebuildOptions::new().without_reset();
            admin.rebuild(name, options).await.unwrap();
        }
        stops_before(with_segments(&db, 1), deleted).await;
        for name in NAMED {
            admin.skip(name, deleted).await.unwrap();
        }
    }
}

/// The archive deletes what the consumer has handled, while it replays the log.
async fn a_second_rebuild_forgets_what_was_handled<DB: TestDatabase>(db: Database<DB>) {
    let log = db.append_many(10).await;
    let users = || {
        db.worker()
            .scoped_consumer(Model::new("users").settings(impatiently()))
    };
    run_once(users()).await;
    let admin = users().admin().unwrap();
    let rebuild = async || {
        let options = RebuildOptions::new().without_reset();
        admin.rebuild("users", options).await.unwrap();
    };
    rebuild().await;
    admin.pause("users").await.unwrap();
    let running = Running::start(users());
    noted(&db, "users", log[0]).await;
    running.stop().await;
    delete(&db, log[0], log[4]).await;
    admin.resume("users").await.unwrap();
    rebuild().await;
    let report = run_once(users()).await;
    assert!(!report.has_failures(), "{report}");
}

/// Before a worker has recorded it, and without one that would stop there.
async fn what_a_resumed_row_names_is_shown_once_it_is_deleted<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").settings(impatient().retries(0));
    users.fail_on("bad", true);
    let bad = db.append("User", ["a", "bad", "c"]).await[1];
    run_once(db.worker().scoped_consumer(users.clone())).await;
    let admin = db.worker().scoped_consumer(users.clone()).admin().unwrap();
    admin.resume("users").await.unwrap();
    db.execute("DELETE FROM consumer_pending").await;
    let status = admin.status().await.unwrap();
    let resumed = status.consumer("users").unwrap();
    assert_eq!(resumed.state, ConsumerState::Running);
    assert_eq!((&resumed.failing, &resumed.missing), (&None, &None));
    let explained = admin.explain("users", bad).await.unwrap();
    assert!(
        matches!(explained.outcome, Outcome::Pending { .. }),
        "{explained:?}"
    );
    delete(&db, bad, bad).await;
    let status = admin.status().await.unwrap();
    assert_eq!(status.consumer("users").unwrap().missing, Some(bad..=bad));
}

/// Which a worker has recorded, and no row names.
async fn recorded_evidence_follows_the_slices_of_a_row<DB: TestDatabase>(db: Database<DB>) {
    let in_half = |half: &str, position| {
        format!(
            "DELETE FROM consumer_pending;
             INSERT INTO consumer_pending (consumer, version, slice_from, position)
             SELECT consumer, version, slice_from, {position} FROM consumer_progress
              WHERE slice_from {half} 0"
        )
    };
    run_once(with_segments(&db, 1)).await;
    let deleted = appended_and_deleted(&db, |position| in_half("=", position)).await;
    db.append("User", (0..8).map(|n| format!("u-{n}"))).await;
    all_halves_stop(&db).await;
    stops_before(with_segments(&db, 2), deleted).await;

    let admin = Admin::new(db.store.clone());
    for name in NAMED {
        admin.skip(name, deleted).await.unwrap();
    }
    let report = run_once(with_segments(&db, 2)).await;
    assert!(!report.has_failures(), "{report}");
    let deleted = appended_and_deleted(&db, |position| in_half(">", position)).await;
    merge_both(&db).await;
    db.append("User", (0..8).map(|n| format!("u-{n}"))).await;
    stops_before(with_segments(&db, 1), deleted).await;
}

/// Lets the row of `waiting` wait for an event, and that of `failing` name it as after `resume`.
fn name_in_resumed_rows(position: i64) -> String {
    name_in_rows(position)
        .replace("attempts = 1, ", "")
        .replace(", error = 'bad'", "")
}

/// A row may name an event behind others, as after a merge.
async fn a_save_before_a_named_event_keeps_the_name<DB: TestDatabase>(db: Database<DB>) {
    run_once(db.worker().scoped_consumer(read_model("slow"))).await;
    let [first, second] = [
        db.append_one("User", "u").await,
        db.append_one("User", "u").await,
    ];
    db.execute(&name_two_in_rows(second, second)).await;
    let gate = Arc::new(Semaphore::new(0));
    let permits = Arc::clone(&gate);
    let slow = consumer::<DB, _>("slow", move |_, _, event| {
        let (permits, is_second) = (Arc::clone(&permits), event.global_position == second);
        Box::pin(async move {
            if is_second {
                permits.acquire().await?.forget();
            }
            Ok(())
        })
    });
    let slow = slow.settings(impatient().batch_size(1)).without_tx();
    let running = Running::start(db.worker().consumer(slow));
    is_at(&db, "slow", first).await;
    let named = "SELECT failed_position FROM consumer_progress
                 UNION ALL SELECT unknown_position FROM consumer_progress";
    assert_eq!(db.numbers(named).await, [second, second]);
    gate.add_permits(1);
    is_at(&db, "slow", second).await;
    running.stop().await;
    let named = "SELECT count(*) FROM consumer_progress
                  WHERE failed_position IS NOT NULL OR unknown_position IS NOT NULL";
    assert_eq!(db.number(named).await, 0, "it has passed them");
}

/// Its row advances only up to the event at which a neighbour waits.
async fn an_advance_before_a_deleted_event_keeps_the_evidence<DB: TestDatabase>(db: Database<DB>) {
    db.append_one("User", "u").await;
    let builder = with_named(&db).advance_interval(LONG);
    let running = Running::start(builder.snapshot_interval(LONG));
    running.caught_up().await.unwrap();
    let order = db.append_one("Order", "o").await;
    running.caught_up_to(order).await.unwrap();
    let named = order + 1;
    db.execute(&name_in_resumed_rows(named)).await;
    running.stop().await;
    for name in NAMED {
        assert_eq!(db.checkpoint(name).await, Some(order), "{name}");
    }
    deleted_before_it_is_read(&db, named).await;
}

/// Appends an event that two rows name already, deletes it, and lets both stop before it.
async fn deleted_before_it_is_read<DB: TestDatabase>(db: &Database<DB>, named: i64) {
    db.execute("DELETE FROM consumer_pending").await;
    let deleted = appended_and_deleted(db, |_| String::new()).await;
    assert!(named <= deleted);
    db.append_one("User", "u").await;
    run_once(with_named(db)).await;
    both_stop_before(db, named).await;
}

/// Lets one row of each of two consumers name two events, one of each kind.
fn name_two_in_rows(failed: i64, unknown: i64) -> String {
    format!(
        "UPDATE consumer_progress
            SET failed_position = {failed}, unknown_position = {unknown},
                unknown_aggregate = 'Order', unknown_type = 'Changed', unknown_version = 1
          WHERE consumer <> 'idle'"
    )
}

async fn two_events_out_of_scope_in_a_row_stop_no_one<DB: TestDatabase>(db: Database<DB>) {
    let often = Duration::from_millis(10);
    let builder = with_named(&db).snapshot_interval(often);
    let running = Running::start(builder.advance_interval(often));
    running.caught_up().await.unwrap();
    for _ in 0..2 {
        let [first, second, last] = [
            db.append_one("Order", "o").await,
            db.append_one("Order", "o").await,
            db.append_one("Order", "o").await,
        ];
        db.execute(&name_two_in_rows(first, second)).await;
        for name in NAMED {
            is_at(&db, name, last).await;
        }
        // The other way round, with an event in scope behind them.
        let [first, second] = [
            db.append_one("Order", "o").await,
            db.append_one("Order", "o").await,
        ];
        db.execute(&name_two_in_rows(second, first)).await;
        let user = db.append_one("User", "u").await;
        for name in NAMED {
            is_at(&db, name, user).await;
        }
    }
    running.stop().await;
    for name in NAMED {
        assert_eq!(db.applied(name).await.len(), 2, "{name}");
    }
}

/// Waits until a worker has seen what its rows name, which another consumer tells: a snapshot has all rows.
async fn sees_its_row<DB: TestDatabase>(db: &Database<DB>, running: &Running<DB>) {
    db.execute("UPDATE consumer_progress SET state = 'paused' WHERE consumer = 'idle'")
        .await;
    until("a snapshot shows it", async || {
        let all = running.consumers();
        let idle = all.iter().find(|one| &*one.id.name == "idle");
        idle.is_some_and(|idle| idle.state == ConsumerState::Paused)
    })
    .await;
}

async fn an_event_out_of_scope_hides_no_deleted_one<DB: TestDatabase>(db: Database<DB>) {
    db.append_one("User", "u").await;
    let running = Running::start(with_named(&db).snapshot_interval(LONG));
    running.caught_up().await.unwrap();
    let order = db.append_one("Order", "o").await;
    let deleted = appended_and_deleted(&db, |deleted| {
        let later_is_unknown = name_two_in_rows(order, deleted);
        let later_has_failed = name_two_in_rows(deleted, order);
        format!(
            "{later_is_unknown};
             {later_has_failed} AND consumer = 'failing'"
        )
    })
    .await;
    db.append_one("User", "u").await;
    both_stop_before(&db, deleted).await;
    running.stop().await;
}

/// A consumer without `tx` whose row names an event while its handler works.
fn naming(
    db: &Database<Sqlite>,
    deleted: i64,
    then: Result<(), &'static str>,
) -> TestConsumer<Sqlite> {
    let pool = db.pool.clone();
    let waiting = consumer("waiting", move |_, _, _| {
        let pool = pool.clone();
        Box::pin(async move {
            let mut other = pool.acquire().await?;
            Sqlite::execute_sql(&mut other, &name_in_rows(deleted)).await?;
            Ok(then?)
        })
    });
    let waiting = waiting.scope(&["User"]).settings(impatient().retries(0));
    waiting.without_tx()
}

async fn names_while_handling(db: &Database<Sqlite>, then: Result<(), &'static str>) {
    let waiting = read_model("waiting").scope(&["User"]);
    db.append_one("User", "u").await;
    run_once(db.worker().scoped_consumer(waiting)).await;
    let deleted = appended_and_deleted(db, |_| String::new()).await;
    db.append_one("User", "u").await;
    let builder = db.worker().scoped_consumer(naming(db, deleted, then));
    let report = run_once(builder.snapshot_interval(LONG)).await;
    let state = report.consumer("waiting").unwrap().state.to_string();
    assert!(
        state.starts_with("stopped before event 2 (events 2 to 2 were deleted"),
        "{state}"
    );
}

/// Between the two claims of a handler without `tx`.
async fn what_is_noted_while_a_handler_works_is_not_passed(db: Database<Sqlite>) {
    names_while_handling(&db, Ok(())).await;
}

/// A failure at a later event takes the place of what the row names.
async fn what_is_noted_while_a_handler_fails_is_not_passed(db: Database<Sqlite>) {
    names_while_handling(&db, Err("it fails")).await;
}
