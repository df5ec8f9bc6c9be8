//! Rebuilding a read model in place, on both databases.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::sync::Arc;
use std::time::Duration;

use consumer::admin::{Admin, AdminError, ConsumerState, RebuildOptions};
use consumer::{
    Backend, EventStore, ExpectedVersion, NewEvent, OnError, Settings, Worker, WorkerBuilder,
};
use consumer_tests::{MODEL, Model, on_both_databases};
use sqlx::{Executor, Pool};
use tokio::sync::Semaphore;

async fn append<DB: Backend>(store: &EventStore<DB>, kind: &str, id: &str) -> i64 {
    let event = NewEvent::new(kind, id, "Happened", "{}");
    let stored = store.append(ExpectedVersion::Any, &[event]).await.unwrap();
    stored[0].global_position
}

async fn append_many<DB: Backend>(store: &EventStore<DB>, id: &str, count: usize) {
    let events = vec![(); count].into_iter();
    let events: Vec<_> = events
        .map(|()| NewEvent::new("User", id, "Happened", "{}"))
        .collect();
    store.append(ExpectedVersion::Any, &events).await.unwrap();
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

macro_rules! count {
    ($db:ident) => {{
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM model")
            .fetch_one(&$db.pool)
            .await
            .unwrap();
        count
    }};
}

on_both_databases! {
    async fn a_rebuild_empties_the_read_model_and_replays_up_to_where_it_was(db) {
        has_model(&db.pool).await;
        let users = Model::new("users");
        append_many(&db.store, "a", 3).await;
        run_once(worker!(db, users)).await;
        let admin = worker!(db, users).admin().unwrap();
        let rebuilt = admin.rebuild("users", RebuildOptions::new()).await.unwrap();
        assert_eq!((rebuilt.version, rebuilt.replay_to), (1, 3));
        assert_eq!(count!(db), 0);
        let status = admin.status().await.unwrap();
        let one = status.consumer("users").unwrap();
        assert_eq!((one.state.clone(), one.position), (ConsumerState::Rebuilding, Some(0)));

        let new = append(&db.store, "User", "b").await;
        let before = users.seen().len();
        run_once(worker!(db, users)).await;
        assert_eq!(count!(db), 4);
        let replays: Vec<_> = users.seen()[before..]
            .iter()
            .map(|seen| (seen.position, seen.is_replay))
            .collect();
        assert_eq!(replays, [(1, true), (2, true), (3, true), (new, false)]);
        let status = admin.status().await.unwrap();
        assert_eq!(status.consumer("users").unwrap().state, ConsumerState::Running);
    }

    async fn a_rebuild_gives_up_what_is_parked_only_when_asked_and_takes_the_scope_of_the_code(db) {
        has_model(&db.pool).await;
        let users = Model::new("users").settings(Settings::default().retries(0).on_error(OnError::Park));
        users.fail_on("bad", true);
        append(&db.store, "User", "bad").await;
        append(&db.store, "Order", "o").await;
        run_once(worker!(db, users.clone().scope(&["User"]))).await;
        users.fail_on("bad", false);

        let wider = users.scope(&["Order", "User"]);
        let admin = worker!(db, wider).admin().unwrap();
        assert_eq!(admin.parked("users").await.unwrap().len(), 1);
        let refused = admin.rebuild("users", RebuildOptions::new()).await.unwrap_err();
        assert!(matches!(refused, AdminError::WouldDiscard { parked: 1, .. }), "{refused}");
        assert_eq!((count!(db), admin.parked("users").await.unwrap().len()), (0, 1));
        admin.rebuild("users", RebuildOptions::new().discard_parked()).await.unwrap();
        assert!(admin.parked("users").await.unwrap().is_empty());
        run_once(worker!(db, wider)).await;
        assert_eq!(count!(db), 2);
    }

    async fn a_rebuild_is_refused_without_a_reset_unless_it_is_said_that_none_is_needed(db) {
        has_model(&db.pool).await;
        let users = Model::new("users").without_reset();
        append(&db.store, "User", "a").await;
        run_once(worker!(db, users)).await;
        let admin = worker!(db, users).admin().unwrap();
        let refused = admin.rebuild("users", RebuildOptions::new()).await.unwrap_err();
        assert!(matches!(refused, AdminError::NoReset { .. }), "{refused}");
        let without_code = Admin::new(db.store.clone());
        let refused = without_code.rebuild("users", RebuildOptions::new()).await.unwrap_err();
        assert!(matches!(refused, AdminError::NoCode { .. }), "{refused}");
        let before = admin.status().await.unwrap();
        assert_eq!(before.consumer("users").unwrap().position, Some(1));

        admin.rebuild("users", RebuildOptions::new().without_reset()).await.unwrap();
        run_once(worker!(db, users)).await;
        assert_eq!(count!(db), 2);
    }

    async fn r4_a_reset_that_ends_its_transaction_changes_nothing(db) {
        has_model(&db.pool).await;
        for statement in ["COMMIT", "ROLLBACK"] {
            let users = Model::new("users").rogue_reset(statement);
            append(&db.store, "User", "a").await;
            run_once(worker!(db, users)).await;
            let (handled, admin) = (count!(db), worker!(db, users).admin().unwrap());
            let refused = admin.rebuild("users", RebuildOptions::new()).await.unwrap_err();
            assert!(
                matches!(refused, AdminError::EndedTransaction { .. } | AdminError::Reset { .. }),
                "{statement}: {refused}"
            );
            let status = admin.status().await.unwrap();
            let one = status.consumer("users").unwrap();
            assert_eq!((one.state.clone(), one.lag.events), (ConsumerState::Running, 0), "{statement}");
            assert_eq!(count!(db), handled, "{statement}");
        }
    }

    async fn a_worker_that_runs_takes_the_rebuild_up(db) {
        has_model(&db.pool).await;
        let users = Model::new("users");
        append_many(&db.store, "a", 20).await;
        let worker = worker!(db, users)
            .configure_all(|settings| settings.batch_size(3))
            .snapshot_interval(Duration::from_millis(5))
            .build()
            .unwrap();
        let handle = worker.handle();
        let running = tokio::spawn(worker.run(std::future::pending()));
        handle.caught_up().await.unwrap();
        let admin = worker!(db, users).admin().unwrap();
        let options = RebuildOptions::new().wait(Duration::from_secs(30));
        admin.rebuild("users", options).await.unwrap();
        let mut watch = admin.watch_rebuild("users").await.unwrap();
        let done = loop {
            let progress = watch.look().await.unwrap();
            if progress.is_done {
                break progress;
            }
        };
        assert_eq!((done.handled, done.total), (20, 20));
        assert_eq!(done.remaining, Some(Duration::ZERO));
        assert_eq!(count!(db), 20);
        handle.shut_down();
        running.await.unwrap().unwrap();
        assert_eq!(count!(db), 20);
    }

    async fn a_rebuild_that_was_interrupted_goes_on_where_it_was(db) {
        has_model(&db.pool).await;
        let gate = Arc::new(Semaphore::new(10));
        let users = Model::new("users").gate(&gate);
        append_many(&db.store, "a", 10).await;
        run_once(worker!(db, users)).await;
        let admin = worker!(db, users).admin().unwrap();
        admin.rebuild("users", RebuildOptions::new()).await.unwrap();

        gate.add_permits(4);
        let worker = worker!(db, users)
            .configure_all(|settings| settings.batch_size(2))
            .build()
            .unwrap();
        let killed = tokio::spawn(worker.run(std::future::pending()));
        let mut watch = admin.watch_rebuild("users").await.unwrap();
        while watch.look().await.unwrap().handled < 4 {}
        killed.abort();
        let _ = killed.await;

        let other = worker!(db, users).admin().unwrap();
        let mut watch = other.watch_rebuild("users").await.unwrap();
        let progress = watch.look().await.unwrap();
        assert_eq!((progress.handled, progress.total, progress.is_done), (4, 10, false));
        gate.add_permits(100);
        let before = users.seen().len();
        run_once(worker!(db, users)).await;
        assert_eq!(users.seen()[before..].iter().map(|seen| seen.position).min(), Some(5));
        assert_eq!(count!(db), 10);
        assert!(watch.look().await.unwrap().is_done);
    }

    async fn progress_counts_the_events_of_the_scope_alone(db) {
        has_model(&db.pool).await;
        let users = Model::new("users").scope(&["User"]);
        for (kind, id) in [("User", "a"), ("Order", "o"), ("Order", "o"), ("User", "b"), ("Order", "o")] {
            append(&db.store, kind, id).await;
        }
        run_once(worker!(db, users)).await;
        let admin = worker!(db, users).admin().unwrap();
        admin.rebuild("users", RebuildOptions::new()).await.unwrap();
        let mut watch = admin.watch_rebuild("users").await.unwrap();
        assert_eq!(watch.look().await.unwrap().total, 2);
        run_once(worker!(db, users)).await;
        let progress = watch.look().await.unwrap();
        assert_eq!((progress.handled, progress.is_done), (2, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_is_refused_while_a_worker_has_the_row_and_can_wait_for_it() {
    let db = consumer_tests::TestPostgres::shared()
        .await
        .database()
        .await;
    let store = db.store().await;
    has_model(store.pool()).await;
    append(&store, "User", "a").await;
    let gate = Arc::new(Semaphore::new(0));
    let users = Model::new("users").gate(&gate);
    let builder = || Worker::builder(store.clone()).consumer(users.clone());
    let worker = builder().build().unwrap();
    let handle = worker.handle();
    let running = tokio::spawn(worker.run(std::future::pending()));
    users.entered.notified().await;

    let admin = builder().admin().unwrap();
    let refused = admin
        .rebuild("users", RebuildOptions::new())
        .await
        .unwrap_err();
    assert!(matches!(refused, AdminError::Held { .. }), "{refused}");
    let waiting = tokio::spawn(async move {
        let options = RebuildOptions::new().wait(Duration::from_secs(30));
        admin.rebuild("users", options).await
    });
    gate.add_permits(100);
    let rebuilt = waiting.await.unwrap().unwrap();
    assert_eq!(rebuilt.replay_to, 1);
    handle.shut_down();
    running.await.unwrap().unwrap();
}
