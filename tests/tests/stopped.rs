//! Getting a stopped consumer past the event that it cannot handle, on both databases.

use consumer::admin::{Admin, AdminError, Status};
use consumer::{Backend, aggregate_slice};
use consumer_tests::{Database, Model, Running, TestDatabase, run_once, test_on, until};

/// A log of users' events, and the consumer `users`, which stops at those of the failing users.
async fn users<DB: TestDatabase>(db: &Database<DB>, ids: &[&str], failing: &[&str]) -> Model {
    db.append("User", ids).await;
    let users = Model::new("users");
    for id in failing {
        users.fail_on(id, true);
    }
    users
}

/// The positions that the consumer has handled, in the order of the log.
async fn handled<DB: TestDatabase>(db: &Database<DB>) -> Vec<i64> {
    db.numbers("SELECT position FROM applied ORDER BY position")
        .await
}

async fn parked<DB: Backend>(admin: &Admin<DB>) -> Vec<(i64, bool)> {
    let parked = admin.parked("users").await.unwrap();
    parked
        .iter()
        .map(|one| (one.position, one.has_failed))
        .collect()
}

fn state(status: &Status) -> (&'static str, Option<i64>) {
    let users = status.consumer("users").unwrap();
    let failing = users.failing.as_ref().and_then(|failing| failing.position);
    (users.state.name(), failing)
}

test_on!(
    [sqlite, postgres],
    a_parked_event_keeps_its_aggregate_in_order,
    a_skipped_event_is_never_handled_and_the_others_are,
    only_the_event_it_stopped_at_can_be_passed,
    events_that_joined_the_scope_are_not_passed_with_it,
    it_can_stop_again_behind_events_that_wait,
    a_segment_passes_only_its_own_events,
    a_consumer_that_was_resumed_is_not_stopped
);

async fn a_parked_event_keeps_its_aggregate_in_order<DB: TestDatabase>(db: Database<DB>) {
    let users = users(&db, &["bad", "good", "bad"], &["bad"]).await;
    run_once(users.worker(&db)).await;
    let admin = users.worker(&db).admin().unwrap();
    assert_eq!(state(&admin.status().await.unwrap()), ("stopped", Some(1)));

    admin.park("users", 1).await.unwrap();
    assert_eq!(state(&admin.status().await.unwrap()), ("running", None));
    let listed = admin.parked("users").await.unwrap();
    assert_eq!(
        (listed[0].attempts, listed[0].error.as_deref()),
        (1, Some("cannot handle bad"))
    );
    run_once(users.worker(&db)).await;
    assert_eq!(handled(&db).await, [2]);
    assert_eq!(parked(&admin).await, [(1, true), (3, false)]);

    users.fail_on("bad", false);
    let retried = admin.retry_parked("users", None).await.unwrap();
    assert_eq!(retried.handled, 2);
    assert_eq!(db.applied("users").await, [2, 1, 3]);
}

async fn a_skipped_event_is_never_handled_and_the_others_are<DB: TestDatabase>(db: Database<DB>) {
    let users = users(&db, &["good", "bad", "good", "good"], &["bad"]).await;
    run_once(users.worker(&db)).await;
    let admin = users.worker(&db).admin().unwrap();
    admin.skip("users", 2).await.unwrap();
    users.fail_on("bad", false);
    run_once(users.worker(&db)).await;
    assert_eq!(handled(&db).await, [1, 3, 4]);
    assert!(parked(&admin).await.is_empty());
}

async fn only_the_event_it_stopped_at_can_be_passed<DB: TestDatabase>(db: Database<DB>) {
    let users = users(&db, &["good", "bad", "good"], &["bad"]).await;
    let admin = users.worker(&db).admin().unwrap();
    run_once(users.worker(&db)).await;
    for position in [1, 3] {
        let skipped = admin.skip("users", position).await;
        let parked = admin.park("users", position).await;
        for refused in [skipped.unwrap_err(), parked.unwrap_err()] {
            assert!(
                matches!(&refused, AdminError::NotStoppedAt { stopped_at, .. } if *stopped_at == [2]),
                "{refused}"
            );
        }
    }
    users.fail_on("bad", false);
    run_once(users.worker(&db)).await;
    let refused = admin.skip("users", 2).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "consumer `users` is neither stopped at event 2 nor waiting before it; no event holds it up"
    );
    assert_eq!(handled(&db).await, [1, 2, 3]);
    assert!(parked(&admin).await.is_empty());
}

async fn events_that_joined_the_scope_are_not_passed_with_it<DB: TestDatabase>(db: Database<DB>) {
    let users = users(&db, &["good"], &["bad"]).await;
    db.append("Team", ["t"]).await;
    db.append("User", ["bad"]).await;
    run_once(users.clone().scope(&["User"]).worker(&db)).await;
    let wider = users.scope(&["Team", "User"]);
    let admin = wider.worker(&db).admin().unwrap();
    admin.accept_scope("users").await.unwrap();
    let skipped = admin.skip("users", 3).await;
    let parked = admin.park("users", 3).await;
    for refused in [skipped.unwrap_err(), parked.unwrap_err()] {
        assert!(
            matches!(&refused, AdminError::NotNext { unhandled, .. } if *unhandled == (2..=2)),
            "{refused}"
        );
    }
    admin.resume("users").await.unwrap();
    run_once(wider.worker(&db)).await;
    admin.skip("users", 3).await.unwrap();
    assert_eq!(handled(&db).await, [1, 2]);
}

async fn it_can_stop_again_behind_events_that_wait<DB: TestDatabase>(db: Database<DB>) {
    let ids = ["bad", "bad", "worse", "good"];
    let users = users(&db, &ids, &["bad", "worse"]).await;
    let admin = users.worker(&db).admin().unwrap();
    run_once(users.worker(&db)).await;
    admin.park("users", 1).await.unwrap();
    run_once(users.worker(&db)).await;
    assert_eq!(state(&admin.status().await.unwrap()), ("stopped", Some(3)));
    admin.skip("users", 3).await.unwrap();
    run_once(users.worker(&db)).await;
    assert_eq!(handled(&db).await, [4]);
    assert_eq!(parked(&admin).await, [(1, true), (2, false)]);
}

async fn a_segment_passes_only_its_own_events<DB: TestDatabase>(db: Database<DB>) {
    let ids = ["ada", "bob", "cyd", "dan", "ada", "bob", "cyd", "dan"];
    let users = users(&db, &ids, &["ada", "bob"]).await;
    let half = |id| aggregate_slice(id) / 512;
    assert_ne!(half("ada"), half("bob"), "the test needs both segments");
    let in_two = || {
        let worker = users.worker(&db);
        run_once(worker.configure_all(|settings| settings.segments(2)))
    };
    in_two().await;
    let admin = users.worker(&db).admin().unwrap();
    let refused = admin.park("users", 99).await.unwrap_err();
    assert!(
        matches!(&refused, AdminError::NotStoppedAt { stopped_at, .. } if stopped_at.len() == 2),
        "{refused}"
    );
    admin.skip("users", 1).await.unwrap();
    assert_eq!(state(&admin.status().await.unwrap()), ("stopped", Some(2)));
    admin.park("users", 2).await.unwrap();
    users.fail_on("ada", false);
    in_two().await;
    assert_eq!(handled(&db).await, [3, 4, 5, 7, 8]);
    assert_eq!(parked(&admin).await, [(2, true), (6, false)]);
}

async fn a_consumer_that_was_resumed_is_not_stopped<DB: TestDatabase>(db: Database<DB>) {
    let users = users(&db, &["bad"], &["bad"]).await;
    run_once(users.worker(&db)).await;
    let admin = users.worker(&db).admin().unwrap();
    admin.resume("users").await.unwrap();
    let refused = admin.skip("users", 1).await.unwrap_err();
    assert!(
        matches!(&refused, AdminError::NotStoppedAt { .. }),
        "{refused}"
    );
    users.fail_on("bad", false);
    run_once(users.worker(&db)).await;
    assert_eq!(handled(&db).await, [1]);
}

/// While a position below the event is open, no worker has handled the event yet.
#[tokio::test(flavor = "multi_thread")]
async fn no_event_above_an_open_gap_can_be_passed() {
    let db = Database::<sqlx::Postgres>::fresh().await;
    let users = users(&db, &["good"], &["bad"]).await;
    let mut open = db.store.begin().await.unwrap();
    db.append_in(&mut open, "slow").await;
    db.append("User", ["bad"]).await;
    let running = Running::start(users.worker(&db));
    until("the event below the gap is handled", async || {
        handled(&db).await == [1]
    })
    .await;
    let admin = users.worker(&db).admin().unwrap();
    let refused = admin.skip("users", 3).await.unwrap_err();
    assert!(
        matches!(&refused, AdminError::NotStoppedAt { .. }),
        "{refused}"
    );
    open.commit().await.unwrap();
    assert!(running.caught_up().await.is_err(), "it stops at the event");
    admin.skip("users", 3).await.unwrap();
    running.stop().await;
    assert_eq!(handled(&db).await, [1, 2]);
}
