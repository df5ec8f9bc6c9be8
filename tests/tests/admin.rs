//! The API for operators, on both databases.

use std::sync::Arc;

use consumer::Backend;
use consumer::admin::{ActivateOptions, Admin, AdminError, ConsumerState, ForgetOptions, Target};
use consumer::{OnError, Registered, Settings, Worker};
use consumer_tests::{Database, Model, Running, TestDatabase, run_once, test_on};
use sqlx::Postgres;
use tokio::sync::Semaphore;

async fn state<DB: Backend>(admin: &Admin<DB>, name: &str) -> ConsumerState {
    let status = admin.status().await.unwrap();
    status.consumer(name).unwrap().state.clone()
}

test_on!(
    [sqlite, postgres],
    status_shows_state_position_and_lag_without_a_worker,
    a_consumer_that_never_ran_is_new_and_lags_by_its_scope,
    a_stopped_consumer_shows_its_error_and_can_be_resumed,
    a_paused_consumer_handles_nothing_until_it_is_resumed,
    a_checkpoint_without_code_is_detached_and_can_be_forgotten,
    a_checkpoint_with_code_is_only_forgotten_by_force,
    an_unknown_name_is_refused_with_the_names_that_there_are,
    another_scope_is_shown_and_can_be_accepted,
    parked_events_are_listed_retried_in_order_and_gone,
    a_retry_that_fails_half_way_saves_nothing_of_its_aggregate,
    events_behind_a_skipped_one_can_be_retried,
    a_retry_needs_the_consumers_code,
    a_new_version_catches_up_until_it_is_activated
);

async fn status_shows_state_position_and_lag_without_a_worker<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").scope(&["User"]);
    db.append("User", ["a"]).await;
    run_once(users.worker(&db)).await;
    db.append("Order", ["o"]).await;
    db.append("User", ["b"]).await;
    let head = db.append_one("User", "b").await;

    let status = users.worker(&db).admin().unwrap().status().await.unwrap();
    let one = status.consumer("users").unwrap();
    assert_eq!(
        (one.state.clone(), one.position, one.lag.events),
        (ConsumerState::Running, Some(1), 2)
    );
    assert!(one.lag.time.is_some() && one.is_active && !one.lag.is_more);
    assert_eq!(one.scope, ["User"]);
    assert_eq!(
        (status.frontier.settled, status.frontier.head),
        (head, head)
    );
    assert!(status.frontier.blockers.is_empty());
}

async fn a_consumer_that_never_ran_is_new_and_lags_by_its_scope<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append("User", ["a"]).await;
    db.append("Order", ["o"]).await;
    let users = Model::new("users").scope(&["User"]);
    let status = users.worker(&db).admin().unwrap().status().await.unwrap();
    let one = status.consumer("users").unwrap();
    assert_eq!(
        (one.state.clone(), one.position, one.lag.events),
        (ConsumerState::New, None, 1)
    );
}

async fn a_stopped_consumer_shows_its_error_and_can_be_resumed<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    users.fail_on("bad", true);
    db.append("User", ["good"]).await;
    db.append("User", ["bad"]).await;
    run_once(users.worker(&db)).await;

    let admin = users.worker(&db).admin().unwrap();
    let status = admin.status().await.unwrap();
    let one = status.consumer("users").unwrap();
    assert_eq!((one.state.name(), one.position), ("stopped", Some(1)));
    let failing = one.failing.clone().unwrap();
    assert_eq!(
        (failing.position, failing.error.as_str()),
        (Some(2), "cannot handle bad")
    );

    admin.resume("users").await.unwrap();
    let status = admin.status().await.unwrap();
    let one = status.consumer("users").unwrap();
    assert_eq!(
        (one.state.clone(), one.failing.as_ref()),
        (ConsumerState::Running, None)
    );

    users.fail_on("bad", false);
    run_once(users.worker(&db)).await;
    assert_eq!(db.applied("users").await, [1, 2]);
    assert_eq!(
        admin
            .status()
            .await
            .unwrap()
            .consumer("users")
            .unwrap()
            .failing,
        None
    );
}

async fn a_paused_consumer_handles_nothing_until_it_is_resumed<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    db.append("User", ["a"]).await;
    run_once(users.worker(&db)).await;
    let admin = Admin::new(db.store.clone());
    admin.pause("users").await.unwrap();
    assert_eq!(state(&admin, "users").await, ConsumerState::Paused);
    let second = db.append_one("User", "b").await;
    run_once(users.worker(&db)).await;
    assert_eq!(db.applied("users").await, [1]);
    admin.resume("users").await.unwrap();
    run_once(users.worker(&db)).await;
    assert_eq!(db.applied("users").await, [1, second]);
}

async fn a_checkpoint_without_code_is_detached_and_can_be_forgotten<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append("User", ["a"]).await;
    run_once(Model::new("old").worker(&db)).await;
    let admin = Model::new("new").worker(&db).admin().unwrap();
    assert_eq!(state(&admin, "old").await, ConsumerState::OtherRelease);
    db.leave_alone().await;
    assert_eq!(state(&admin, "old").await, ConsumerState::Detached);
    admin.forget("old", ForgetOptions::new()).await.unwrap();
    assert!(admin.status().await.unwrap().consumer("old").is_none());
}

async fn a_checkpoint_with_code_is_only_forgotten_by_force<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    run_once(Model::new("users").worker(&db)).await;
    let admin = Model::new("users").worker(&db).admin().unwrap();
    let refused = admin
        .forget("users", ForgetOptions::new())
        .await
        .unwrap_err();
    assert!(matches!(refused, AdminError::InUse { .. }), "{refused}");
    admin
        .forget("users", ForgetOptions::new().force())
        .await
        .unwrap();
    assert_eq!(state(&admin, "users").await, ConsumerState::New);
}

async fn an_unknown_name_is_refused_with_the_names_that_there_are<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append("User", ["a"]).await;
    run_once(Model::new("users").worker(&db)).await;
    let refused = Admin::new(db.store.clone())
        .pause("user")
        .await
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "there is no consumer `user`; known consumers: users"
    );
}

async fn another_scope_is_shown_and_can_be_accepted<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    db.append("Order", ["o"]).await;
    run_once(Model::new("users").scope(&["User"]).worker(&db)).await;
    let wider = Model::new("users").scope(&["Order", "User"]);
    let admin = wider.worker(&db).admin().unwrap();
    assert_eq!(state(&admin, "users").await.name(), "scope_changed");
    admin.accept_scope("users").await.unwrap();
    assert_eq!(state(&admin, "users").await, ConsumerState::Running);
    let third = db.append_one("Order", "p").await;
    run_once(wider.worker(&db)).await;
    assert_eq!(db.applied("users").await, [1, third]);
}

async fn parked_events_are_listed_retried_in_order_and_gone<DB: TestDatabase>(db: Database<DB>) {
    let users =
        Model::new("users").settings(Settings::default().retries(0).on_error(OnError::Park));
    users.fail_on("bad", true);
    for id in ["bad", "good", "bad", "bad"] {
        db.append("User", [id]).await;
    }
    run_once(users.worker(&db)).await;
    assert_eq!(db.applied("users").await, [2]);

    let admin = users.worker(&db).admin().unwrap();
    let status = admin.status().await.unwrap();
    let one = status.consumer("users").unwrap();
    assert_eq!((one.parked, one.parked_aggregates), (3, 1));
    let parked = admin.parked("users").await.unwrap();
    let listed: Vec<_> = parked
        .iter()
        .map(|one| (one.position, one.has_failed))
        .collect();
    assert_eq!(listed, [(1, true), (3, false), (4, false)]);
    assert_eq!(parked[0].error.as_deref(), Some("cannot handle bad"));
    let (_, event) = admin.parked_event("users", 3).await.unwrap();
    assert_eq!(event.unwrap().aggregate_id, "bad");

    let retried = admin.retry_parked("users", None).await.unwrap();
    assert_eq!((retried.handled, retried.failed.len()), (0, 1));
    assert_eq!(
        admin.parked("users").await.unwrap()[0].attempts,
        parked[0].attempts + 1
    );

    users.fail_on("bad", false);
    let before = users.seen().len();
    let retried = admin.retry_parked("users", Some(3)).await.unwrap();
    assert_eq!((retried.handled, retried.failed.len()), (3, 0));
    let order: Vec<i64> = users.seen()[before..]
        .iter()
        .map(|seen| seen.position)
        .collect();
    assert_eq!(order, [1, 3, 4]);
    assert_eq!(db.applied("users").await, [2, 1, 3, 4]);
    assert!(admin.parked("users").await.unwrap().is_empty());
    let status = admin.status().await.unwrap();
    assert_eq!(status.consumer("users").unwrap().position, Some(4));
}

async fn a_retry_that_fails_half_way_saves_nothing_of_its_aggregate<DB: TestDatabase>(
    db: Database<DB>,
) {
    let users =
        Model::new("users").settings(Settings::default().retries(0).on_error(OnError::Park));
    users.fail_on("bad", true);
    users.fail_on("worse", true);
    for id in ["bad", "worse", "bad"] {
        db.append("User", [id]).await;
    }
    run_once(users.worker(&db)).await;
    users.fail_on("bad", false);
    let retried = users
        .worker(&db)
        .admin()
        .unwrap()
        .retry_parked("users", None)
        .await
        .unwrap();
    assert_eq!((retried.handled, retried.failed.len()), (2, 1));
    assert_eq!(db.applied("users").await, [1, 3]);
}

async fn events_behind_a_skipped_one_can_be_retried<DB: TestDatabase>(db: Database<DB>) {
    let users =
        Model::new("users").settings(Settings::default().retries(0).on_error(OnError::Park));
    users.fail_on("bad", true);
    for id in ["bad", "bad"] {
        db.append("User", [id]).await;
    }
    run_once(users.worker(&db)).await;
    let admin = users.worker(&db).admin().unwrap();
    assert_eq!(admin.skip_parked("users", 1).await.unwrap(), 1);
    let refused = admin.skip_parked("users", 1).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "event 1 is not parked by consumer `users`"
    );
    users.fail_on("bad", false);
    admin.retry_parked("users", None).await.unwrap();
    assert_eq!(db.applied("users").await, [2]);
}

async fn a_retry_needs_the_consumers_code<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    run_once(Model::new("users").worker(&db)).await;
    let refused = Admin::new(db.store.clone())
        .retry_parked("users", None)
        .await
        .unwrap_err();
    assert!(matches!(refused, AdminError::NoCode { .. }), "{refused}");
}

async fn a_new_version_catches_up_until_it_is_activated<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    let old = Model::new("users");
    run_once(old.worker(&db)).await;

    let new = Model::new("users");
    let second = |model: &Model| {
        let mut registered = Registered::<DB>::new(model.clone());
        registered.declaration.version = 2;
        registered
    };
    let both = || old.worker(&db).registered(second(&new));
    let admin = both().admin().unwrap();
    assert_eq!(admin.active_version("users").await.unwrap(), Some(1));
    assert_eq!(admin.active_version("nobody").await.unwrap(), None);

    run_once(both()).await;
    assert_eq!(
        new.seen()
            .iter()
            .map(|seen| seen.version)
            .collect::<Vec<_>>(),
        [2]
    );
    assert_eq!(admin.active_version("users").await.unwrap(), Some(1));
    let several = admin.pause("users").await.unwrap_err();
    assert!(
        several.to_string().contains("several versions (1, 2)"),
        "{several}"
    );

    db.append("User", ["b"]).await;
    let two = || Target::new("users").version(2);
    let behind = admin
        .activate(two(), ActivateOptions::new())
        .await
        .unwrap_err();
    assert!(
        matches!(behind, AdminError::Behind { lag: 1, .. }),
        "{behind}"
    );
    run_once(both()).await;
    admin.activate(two(), ActivateOptions::new()).await.unwrap();
    assert_eq!(admin.active_version("users").await.unwrap(), Some(2));

    let alone = Worker::<DB>::builder(db.store.clone())
        .registered(second(&new))
        .admin()
        .unwrap();
    let active = alone
        .forget(two(), ForgetOptions::new().force())
        .await
        .unwrap_err();
    assert!(matches!(active, AdminError::Active { .. }), "{active}");
    alone
        .forget(Target::new("users").version(1), ForgetOptions::new())
        .await
        .unwrap();
    let status = alone.status().await.unwrap();
    assert_eq!(status.consumers.len(), 1);
    assert!(status.consumers[0].is_active);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_frontier_names_the_transaction_that_blocks_it() {
    let db = Database::<Postgres>::fresh().await;
    let slow = db.left_open("importer").await;
    db.append("User", ["fast"]).await;

    let admin = Admin::new(db.store.clone());
    let frontier = admin.frontier().await.unwrap();
    assert_eq!((frontier.settled, frontier.head), (0, 2));
    assert_eq!(frontier.blockers[0].name, "importer");
    slow.commit().await.unwrap();
    let frontier = admin.frontier().await.unwrap();
    assert_eq!((frontier.settled, frontier.head), (2, 2));
    assert!(frontier.blockers.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_the_status_draws_no_position() {
    let db = Database::<Postgres>::fresh().await;
    let admin = Admin::new(db.store.clone());
    for _ in 0..3 {
        admin.status().await.unwrap();
    }
    assert_eq!(db.append("User", ["a"]).await, [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_waits_for_the_current_batch() {
    let db = Database::<Postgres>::fresh().await;
    db.append("User", ["a"]).await;
    let gate = Arc::new(Semaphore::new(0));
    let users = Model::new("users").gate(&gate);
    let running = Running::start(users.worker(&db));
    users.entered.notified().await;
    let admin = Admin::new(db.store.clone());
    let pausing = tokio::spawn(async move { admin.pause("users").await });
    gate.add_permits(1);
    pausing.await.unwrap().unwrap();
    db.append("User", ["b"]).await;
    let refused = running.caught_up().await;
    assert!(refused.is_err(), "a paused consumer does not catch up");
    assert_eq!(users.seen().len(), 1);
    running.stop().await;
}
