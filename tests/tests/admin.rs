//! What an operator sees and changes, on both databases.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::sync::Arc;

use consumer::admin::{Admin, AdminError, ConsumerState, Target};
use consumer::{
    Backend, EventStore, ExpectedVersion, NewEvent, OnError, Registered, Settings, Worker,
    WorkerBuilder,
};
use consumer_tests::{MODEL, Model, PgDatabase, on_both_databases};
use sqlx::{Executor, Pool};
use tokio::sync::Semaphore;

async fn append<DB: Backend>(store: &EventStore<DB>, kind: &str, id: &str) -> i64 {
    let event = NewEvent::new(kind, id, "Happened", "{}");
    let stored = store.append(ExpectedVersion::Any, &[event]).await.unwrap();
    stored[0].global_position
}

async fn run_once<DB: Backend>(builder: WorkerBuilder<DB>) -> consumer::Report {
    builder.build().unwrap().run_once().await.unwrap()
}

async fn has_model<DB: Backend>(pool: &Pool<DB>)
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    let mut connection = pool.acquire().await.unwrap();
    (&mut *connection).execute(MODEL).await.unwrap();
}

macro_rules! worker {
    ($db:ident, $model:expr) => {
        Worker::<Db>::builder($db.store.clone()).scoped_consumer($model.clone())
    };
}

macro_rules! positions {
    ($db:ident, $name:expr) => {{
        let rows: Vec<(i64,)> =
            sqlx::query_as("SELECT position FROM model WHERE consumer = $1 ORDER BY position")
                .bind($name)
                .fetch_all(&$db.pool)
                .await
                .unwrap();
        rows.into_iter().map(|row| row.0).collect::<Vec<i64>>()
    }};
}

async fn state<DB: Backend>(admin: &Admin<DB>, name: &str) -> ConsumerState {
    let status = admin.status().await.unwrap();
    status.consumer(name).unwrap().state.clone()
}

on_both_databases! {
    async fn status_shows_state_position_and_lag_in_the_scope_while_no_worker_runs(db) {
        has_model(&db.pool).await;
        let users = Model::new("users").scope(&["User"]);
        append(&db.store, "User", "a").await;
        run_once(worker!(db, users)).await;
        append(&db.store, "Order", "o").await;
        append(&db.store, "User", "b").await;
        let head = append(&db.store, "User", "b").await;

        let status = worker!(db, users).admin().unwrap().status().await.unwrap();
        let one = status.consumer("users").unwrap();
        assert_eq!((one.state.clone(), one.position, one.lag.events), (ConsumerState::Running, Some(1), 2));
        assert!(one.lag.time.is_some() && one.is_active && !one.lag.is_more);
        assert_eq!(one.scope, ["User"]);
        assert_eq!((status.frontier.settled, status.frontier.head), (head, head));
        assert!(status.frontier.blockers.is_empty());
    }

    async fn a_consumer_that_never_ran_is_new_and_has_the_whole_scope_before_it(db) {
        append(&db.store, "User", "a").await;
        append(&db.store, "Order", "o").await;
        let users = Model::new("users").scope(&["User"]);
        let status = worker!(db, users).admin().unwrap().status().await.unwrap();
        let one = status.consumer("users").unwrap();
        assert_eq!((one.state.clone(), one.position, one.lag.events), (ConsumerState::New, None, 1));
    }

    async fn a_stopped_consumer_shows_its_event_and_error_and_goes_on_when_resumed(db) {
        has_model(&db.pool).await;
        let users = Model::new("users");
        users.fail_on("bad", true);
        append(&db.store, "User", "good").await;
        append(&db.store, "User", "bad").await;
        run_once(worker!(db, users)).await;

        let admin = worker!(db, users).admin().unwrap();
        let status = admin.status().await.unwrap();
        let one = status.consumer("users").unwrap();
        assert_eq!((one.state.clone(), one.position), (ConsumerState::Stopped, Some(1)));
        let failing = one.failing.clone().unwrap();
        assert_eq!((failing.position, failing.error.as_str()), (Some(2), "cannot handle bad"));

        admin.resume("users").await.unwrap();
        let status = admin.status().await.unwrap();
        let one = status.consumer("users").unwrap();
        assert_eq!((one.state.clone(), one.failing.as_ref()), (ConsumerState::Running, None));

        users.fail_on("bad", false);
        run_once(worker!(db, users)).await;
        assert_eq!(positions!(db, "users"), [1, 2]);
        assert_eq!(admin.status().await.unwrap().consumer("users").unwrap().failing, None);
    }

    async fn a_paused_consumer_handles_nothing_in_any_process_until_it_is_resumed(db) {
        has_model(&db.pool).await;
        let users = Model::new("users");
        append(&db.store, "User", "a").await;
        run_once(worker!(db, users)).await;
        let admin = Admin::new(db.store.clone());
        admin.pause("users").await.unwrap();
        assert_eq!(state(&admin, "users").await, ConsumerState::Paused);
        let second = append(&db.store, "User", "b").await;
        run_once(worker!(db, users)).await;
        assert_eq!(positions!(db, "users"), [1]);
        admin.resume("users").await.unwrap();
        run_once(worker!(db, users)).await;
        assert_eq!(positions!(db, "users"), [1, second]);
    }

    async fn a_checkpoint_without_code_is_detached_and_can_be_forgotten(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        run_once(worker!(db, Model::new("old"))).await;
        let admin = worker!(db, Model::new("new")).admin().unwrap();
        assert_eq!(state(&admin, "old").await, ConsumerState::Detached);
        admin.forget("old", false).await.unwrap();
        assert!(admin.status().await.unwrap().consumer("old").is_none());
    }

    async fn a_checkpoint_with_code_is_only_forgotten_by_force(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        run_once(worker!(db, Model::new("users"))).await;
        let admin = worker!(db, Model::new("users")).admin().unwrap();
        let refused = admin.forget("users", false).await.unwrap_err();
        assert!(matches!(refused, AdminError::InUse { .. }), "{refused}");
        admin.forget("users", true).await.unwrap();
        assert_eq!(state(&admin, "users").await, ConsumerState::New);
    }

    async fn an_unknown_name_is_refused_with_the_names_that_there_are(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        run_once(worker!(db, Model::new("users"))).await;
        let refused = Admin::new(db.store.clone()).pause("user").await.unwrap_err();
        assert_eq!(refused.to_string(), "there is no consumer `user`; there are: users");
    }

    async fn another_scope_is_shown_and_can_be_accepted(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        append(&db.store, "Order", "o").await;
        run_once(worker!(db, Model::new("users").scope(&["User"]))).await;
        let wider = Model::new("users").scope(&["Order", "User"]);
        let admin = worker!(db, wider).admin().unwrap();
        assert_eq!(state(&admin, "users").await, ConsumerState::ScopeChanged);
        admin.accept_scope("users").await.unwrap();
        assert_eq!(state(&admin, "users").await, ConsumerState::Running);
        let third = append(&db.store, "Order", "p").await;
        run_once(worker!(db, wider)).await;
        assert_eq!(positions!(db, "users"), [1, third]);
    }

    async fn parked_events_are_listed_retried_in_order_and_gone(db) {
        has_model(&db.pool).await;
        let users = Model::new("users").settings(Settings::default().retries(0).on_error(OnError::Park));
        users.fail_on("bad", true);
        for id in ["bad", "good", "bad", "bad"] {
            append(&db.store, "User", id).await;
        }
        run_once(worker!(db, users)).await;
        assert_eq!(positions!(db, "users"), [2]);

        let admin = worker!(db, users).admin().unwrap();
        let status = admin.status().await.unwrap();
        let one = status.consumer("users").unwrap();
        assert_eq!((one.parked, one.parked_aggregates), (3, 1));
        let parked = admin.parked("users").await.unwrap();
        let listed: Vec<_> = parked.iter().map(|one| (one.position, one.has_failed)).collect();
        assert_eq!(listed, [(1, true), (3, false), (4, false)]);
        assert_eq!(parked[0].error.as_deref(), Some("cannot handle bad"));
        let (_, event) = admin.parked_event("users", 3).await.unwrap();
        assert_eq!(event.unwrap().aggregate_id, "bad");

        let retried = admin.retry_parked("users", None).await.unwrap();
        assert_eq!((retried.handled, retried.failed.len()), (0, 1));
        assert_eq!(admin.parked("users").await.unwrap()[0].attempts, parked[0].attempts + 1);

        users.fail_on("bad", false);
        let before = users.seen().len();
        let retried = admin.retry_parked("users", Some(3)).await.unwrap();
        assert_eq!((retried.handled, retried.failed.len()), (3, 0));
        let order: Vec<i64> = users.seen()[before..].iter().map(|seen| seen.position).collect();
        assert_eq!(order, [1, 3, 4]);
        assert_eq!(positions!(db, "users"), [1, 2, 3, 4]);
        assert!(admin.parked("users").await.unwrap().is_empty());
        let status = admin.status().await.unwrap();
        assert_eq!(status.consumer("users").unwrap().position, Some(4));
    }

    async fn a_retry_that_fails_half_way_saves_nothing_of_its_aggregate(db) {
        has_model(&db.pool).await;
        let users = Model::new("users").settings(Settings::default().retries(0).on_error(OnError::Park));
        users.fail_on("bad", true);
        users.fail_on("worse", true);
        for id in ["bad", "worse", "bad"] {
            append(&db.store, "User", id).await;
        }
        run_once(worker!(db, users)).await;
        users.fail_on("bad", false);
        let retried = worker!(db, users).admin().unwrap().retry_parked("users", None).await.unwrap();
        assert_eq!((retried.handled, retried.failed.len()), (2, 1));
        assert_eq!(positions!(db, "users"), [1, 3]);
    }

    async fn a_skipped_event_is_left_out_and_those_behind_it_can_be_retried(db) {
        has_model(&db.pool).await;
        let users = Model::new("users").settings(Settings::default().retries(0).on_error(OnError::Park));
        users.fail_on("bad", true);
        for id in ["bad", "bad"] {
            append(&db.store, "User", id).await;
        }
        run_once(worker!(db, users)).await;
        let admin = worker!(db, users).admin().unwrap();
        assert_eq!(admin.skip_parked("users", 1).await.unwrap(), 1);
        let refused = admin.skip_parked("users", 1).await.unwrap_err();
        assert_eq!(refused.to_string(), "event 1 is not parked by consumer `users`");
        users.fail_on("bad", false);
        admin.retry_parked("users", None).await.unwrap();
        assert_eq!(positions!(db, "users"), [2]);
    }

    async fn a_retry_needs_the_consumers_code(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        run_once(worker!(db, Model::new("users"))).await;
        let refused = Admin::new(db.store.clone()).retry_parked("users", None).await.unwrap_err();
        assert!(matches!(refused, AdminError::NoCode { .. }), "{refused}");
    }

    async fn a_new_version_catches_up_beside_the_old_one_and_the_switch_is_explicit(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        let old = Model::new("users");
        run_once(worker!(db, old)).await;

        let new = Model::new("users");
        let second = |model: &Model| {
            let mut registered = Registered::<Db>::new(model.clone());
            registered.declaration.version = 2;
            registered
        };
        let both = || worker!(db, old).registered(second(&new));
        let admin = both().admin().unwrap();
        assert_eq!(admin.active_version("users").await.unwrap(), Some(1));
        assert_eq!(admin.active_version("nobody").await.unwrap(), None);

        run_once(both()).await;
        assert_eq!(new.seen().iter().map(|seen| seen.version).collect::<Vec<_>>(), [2]);
        assert_eq!(admin.active_version("users").await.unwrap(), Some(1));
        let several = admin.pause("users").await.unwrap_err();
        assert!(several.to_string().contains("several versions (1, 2)"), "{several}");

        append(&db.store, "User", "b").await;
        let two = || Target::new("users").version(2);
        let behind = admin.activate(two(), false).await.unwrap_err();
        assert!(matches!(behind, AdminError::Behind { lag: 1, .. }), "{behind}");
        run_once(both()).await;
        admin.activate(two(), false).await.unwrap();
        assert_eq!(admin.active_version("users").await.unwrap(), Some(2));

        let alone = Worker::<Db>::builder(db.store.clone()).registered(second(&new)).admin().unwrap();
        let active = alone.forget(two(), true).await.unwrap_err();
        assert!(matches!(active, AdminError::Active { .. }), "{active}");
        alone.forget(Target::new("users").version(1), false).await.unwrap();
        let status = alone.status().await.unwrap();
        assert_eq!(status.consumers.len(), 1);
        assert!(status.consumers[0].is_active);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_frontier_names_the_transaction_that_may_still_fill_a_gap() {
    let db: PgDatabase = consumer_tests::TestPostgres::shared()
        .await
        .database()
        .await;
    let store = db.store().await;
    let mut slow = store.begin().await.unwrap();
    sqlx::query("SET LOCAL application_name = 'importer'")
        .execute(&mut *slow)
        .await
        .unwrap();
    let event = NewEvent::new("User", "slow", "Happened", "{}");
    store
        .append_in(&mut slow, ExpectedVersion::Any, &[event])
        .await
        .unwrap();
    append(&store, "User", "fast").await;

    let admin = Admin::new(store.clone());
    let frontier = admin.frontier().await.unwrap();
    assert_eq!((frontier.settled, frontier.head), (0, 2));
    assert_eq!(frontier.blockers[0].name, "importer");
    slow.commit().await.unwrap();
    let frontier = admin.frontier().await.unwrap();
    assert_eq!((frontier.settled, frontier.head), (2, 2));
    assert!(frontier.blockers.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_the_status_draws_no_position() {
    let db: PgDatabase = consumer_tests::TestPostgres::shared()
        .await
        .database()
        .await;
    let store = db.store().await;
    let admin = Admin::new(store.clone());
    for _ in 0..3 {
        admin.status().await.unwrap();
    }
    assert_eq!(append(&store, "User", "a").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_waits_for_the_batch_in_hand() {
    let db: PgDatabase = consumer_tests::TestPostgres::shared()
        .await
        .database()
        .await;
    let store = db.store().await;
    has_model(store.pool()).await;
    append(&store, "User", "a").await;
    let gate = Arc::new(Semaphore::new(0));
    let users = Model::new("users").gate(&gate);
    let worker = Worker::builder(store.clone())
        .consumer(users.clone())
        .build()
        .unwrap();
    let handle = worker.handle();
    let running = tokio::spawn(worker.run(std::future::pending()));
    users.entered.notified().await;
    let admin = Admin::new(store.clone());
    let pausing = tokio::spawn(async move { admin.pause("users").await });
    gate.add_permits(1);
    pausing.await.unwrap().unwrap();
    append(&store, "User", "b").await;
    let refused = handle.caught_up().await;
    assert!(refused.is_err(), "a paused consumer does not catch up");
    assert_eq!(users.seen().len(), 1);
    handle.shut_down();
    running.await.unwrap().unwrap();
}
