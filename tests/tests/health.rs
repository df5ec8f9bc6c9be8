//! What a worker's handle tells liveness and readiness probes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::sync::Arc;
use std::time::Duration;

use consumer::{
    Backend, EventStore, ExpectedVersion, HealthProblem, NewEvent, Worker, WorkerBackend,
    WorkerHandle,
};
use consumer_tests::{MODEL, Model, TestPostgres, on_both_databases};
use sqlx::{Executor, Pool};
use tokio::sync::Semaphore;

async fn append<DB: Backend>(store: &EventStore<DB>, id: &str) {
    let event = NewEvent::new("User", id, "Happened", "{}");
    store
        .append_in_transaction(ExpectedVersion::Any, &[event])
        .await
        .unwrap();
}

async fn has_model<DB: Backend>(pool: &Pool<DB>)
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    let mut connection = pool.acquire().await.unwrap();
    (&mut *connection).execute(MODEL).await.unwrap();
}

/// Looks until the health is as it is to be.
async fn until<DB: WorkerBackend>(
    handle: &WorkerHandle<DB>,
    holds: impl Fn(&consumer::Health) -> bool,
) {
    while !holds(&handle.health()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

on_both_databases! {
    async fn a_worker_is_ready_once_it_has_seen_its_checkpoints_and_not_when_it_ends(db) {
        has_model(&db.pool).await;
        let worker = Worker::<Db>::builder(db.store.clone()).consumer(Model::new("users")).build().unwrap();
        let handle = worker.handle();
        assert_eq!(handle.health().problems, [HealthProblem::NotStarted]);
        assert!(handle.health().is_live() && !handle.health().is_ready());
        let running = tokio::spawn(worker.run(std::future::pending()));
        until(&handle, consumer::Health::is_ready).await;
        assert_eq!(handle.health().to_string(), "all is well");
        handle.shut_down();
        assert!(!handle.health().is_ready() && handle.health().is_live());
        running.await.unwrap().unwrap();
    }

    async fn a_worker_that_runs_and_makes_no_progress_is_not_live(db) {
        has_model(&db.pool).await;
        append(&db.store, "a").await;
        let gate = Arc::new(Semaphore::new(0));
        let users = Model::new("users").gate(&gate);
        let builder = || Worker::<Db>::builder(db.store.clone()).consumer(users.clone());
        let worker = builder().stall_after(Duration::from_millis(1)).build().unwrap();
        let stalled = worker.handle();
        let running = tokio::spawn(worker.run(std::future::pending()));
        users.entered.notified().await;
        until(&stalled, |health| {
            health.problems.iter().any(|problem| matches!(problem, HealthProblem::Stalled { .. }))
        })
        .await;
        assert!(!stalled.health().is_live());
        gate.add_permits(10);
        stalled.caught_up().await.unwrap();
        let still = |health: &consumer::Health| {
            health.problems.iter().any(|problem| matches!(problem, HealthProblem::Stalled { .. }))
        };
        assert!(!still(&stalled.health()));
        stalled.shut_down();
        running.await.unwrap().unwrap();
    }

    async fn a_stopped_consumer_is_told_and_restarts_nothing(db) {
        has_model(&db.pool).await;
        append(&db.store, "bad").await;
        let users = Model::new("users");
        users.fail_on("bad", true);
        let worker = Worker::<Db>::builder(db.store.clone()).consumer(users).build().unwrap();
        let handle = worker.handle();
        let running = tokio::spawn(worker.run(std::future::pending()));
        until(&handle, |health| {
            health.problems.iter().any(|problem| matches!(problem, HealthProblem::NotRunning { .. }))
        })
        .await;
        assert!(handle.health().is_live() && handle.health().is_ready());
        assert!(handle.health().to_string().contains("`users` is stopped before event 1"));
        handle.shut_down();
        running.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_database_a_worker_is_live_and_not_ready() {
    let server = TestPostgres::builder().start();
    let database = server.database().await;
    let store = database.store().await;
    has_model(store.pool()).await;
    let worker = Worker::builder(store.clone())
        .consumer(Model::new("users"))
        .build()
        .unwrap();
    let handle = worker.handle();
    let running = tokio::spawn(worker.run(std::future::pending()));
    until(&handle, consumer::Health::is_ready).await;
    server.crash();
    until(&handle, |health| {
        health
            .problems
            .iter()
            .any(|problem| matches!(problem, HealthProblem::Disconnected { .. }))
    })
    .await;
    assert!(handle.health().is_live() && !handle.health().is_ready());
    server.start();
    until(&handle, consumer::Health::is_ready).await;
    handle.shut_down();
    running.await.unwrap().unwrap();
}
