//! The health of a worker for liveness and readiness probes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use consumer::{Backend, ConsumerState, HealthProblem, Settings, WaitError, Worker, WorkerHandle};
use consumer_tests::{Database, Model, Running, TestDatabase, TestPostgres, patiently, test_on};
use tokio::sync::Semaphore;

/// Waits for a state of health.
async fn until<DB: Backend>(handle: &WorkerHandle<DB>, holds: impl Fn(&consumer::Health) -> bool) {
    consumer_tests::until("its health changes", async || holds(&handle.health())).await;
}

fn stalled_in(health: &consumer::Health) -> bool {
    let is_stall = |problem: &HealthProblem| matches!(problem, HealthProblem::Stalled { .. });
    health.problems.iter().any(is_stall)
}

test_on!(
    [sqlite, postgres],
    a_worker_is_ready_between_its_first_snapshot_and_its_end,
    a_worker_that_ended_without_being_asked_is_not_live,
    an_event_after_an_idle_time_gets_the_whole_stall_time,
    a_retry_that_is_due_later_is_not_a_stall,
    a_worker_without_progress_is_not_live,
    a_stopped_consumer_affects_neither_probe
);

test_on!(
    [empty_sqlite, empty_postgres],
    a_worker_that_could_not_start_is_not_live_and_says_why
);

async fn a_worker_is_ready_between_its_first_snapshot_and_its_end<DB: TestDatabase>(
    db: Database<DB>,
) {
    let worker = Worker::<DB>::builder(db.store.clone())
        .consumer(Model::new("users"))
        .build()
        .unwrap();
    let handle = worker.handle();
    assert_eq!(handle.health().problems, [HealthProblem::NotStarted]);
    assert!(handle.health().is_live() && !handle.health().is_ready());
    let running = tokio::spawn(worker.run(std::future::pending()));
    until(&handle, consumer::Health::is_ready).await;
    assert_eq!(handle.health().to_string(), "all is well");
    handle.shut_down();
    assert!(!handle.health().is_ready() && handle.health().is_live());
    running.await.unwrap().unwrap();
    let ended = HealthProblem::Ended {
        was_asked: true,
        error: None,
    };
    assert_eq!(handle.health().problems, [ended]);
    assert!(!handle.health().is_ready() && handle.health().is_live());
}

async fn a_worker_that_could_not_start_is_not_live_and_says_why<DB: TestDatabase>(
    db: Database<DB>,
) {
    let worker = Worker::<DB>::builder(db.store.clone())
        .consumer(Model::new("users"))
        .build()
        .unwrap();
    let handle = worker.handle();
    worker.run(std::future::pending()).await.unwrap_err();
    let health = handle.health();
    assert!(!health.is_live() && !health.is_ready(), "{health}");
    assert!(health.to_string().contains("call `migrate()`"), "{health}");
    let waited = handle.caught_up_to(1).await.unwrap_err();
    assert!(
        matches!(waited, WaitError::Ended { error: Some(_) }),
        "{waited}"
    );
}

async fn a_worker_that_ended_without_being_asked_is_not_live<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    db.append("User", ["b"]).await;
    let worker = Worker::<DB>::builder(db.store.clone())
        .consumer(Model::new("users"))
        .build()
        .unwrap();
    let handle = worker.handle();
    let running = tokio::spawn(worker.run(std::future::pending()));
    handle.caught_up().await.unwrap();
    assert!(handle.health().is_live());
    if DB::NAME == "SQLite" {
        // The head goes back: a log that cannot be trusted ends the worker.
        db.execute("DELETE FROM events; UPDATE sqlite_sequence SET seq = 0 WHERE name = 'events'")
            .await;
        patiently("it ends", running).await.unwrap().unwrap_err();
    } else {
        running.abort();
        running.await.unwrap_err();
    }
    let health = handle.health();
    assert!(
        matches!(
            health.problems[..],
            [HealthProblem::Ended {
                was_asked: false,
                ..
            }]
        ),
        "{health}"
    );
    assert!(!health.is_live() && !health.is_ready(), "{health}");
}

async fn an_event_after_an_idle_time_gets_the_whole_stall_time<DB: TestDatabase>(db: Database<DB>) {
    let stall_after = Duration::from_secs(2);
    let gate = Arc::new(Semaphore::new(0));
    let users = Model::new("users").gate(&gate);
    let worker = Worker::<DB>::builder(db.store.clone())
        .consumer(users.clone())
        .stall_after(stall_after)
        .build()
        .unwrap();
    let handle = worker.handle();
    let running = tokio::spawn(worker.run(std::future::pending()));
    let began = Instant::now();
    until(&handle, |_| began.elapsed() > stall_after + stall_after / 4).await;
    db.append("User", ["a"]).await;
    users.entered.notified().await;
    let entered = Instant::now();
    assert!(handle.health().is_live(), "{}", handle.health());
    // A control: it is noticed once the event itself has taken that long.
    until(&handle, |health| !health.is_live()).await;
    assert!(entered.elapsed() > stall_after / 2);
    gate.add_permits(1);
    handle.caught_up().await.unwrap();
    assert!(handle.health().is_live());
    handle.shut_down();
    running.await.unwrap().unwrap();
}

async fn a_retry_that_is_due_later_is_not_a_stall<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["bad"]).await;
    let wait = Duration::from_mins(1);
    let users = Model::new("users").settings(Settings::default().backoff(wait, wait));
    users.fail_on("bad", true);
    let stall_after = Duration::from_millis(200);
    let worker = Worker::<DB>::builder(db.store.clone())
        .consumer(users)
        .stall_after(stall_after)
        .build()
        .unwrap();
    let handle = worker.handle();
    let running = tokio::spawn(worker.run(std::future::pending()));
    let is_retrying = || {
        handle
            .consumers()
            .iter()
            .any(|one| matches!(one.state, ConsumerState::Retrying { .. }))
    };
    until(&handle, |_| is_retrying()).await;
    let began = Instant::now();
    until(&handle, |health| {
        stalled_in(health) || began.elapsed() > stall_after * 4
    })
    .await;
    assert!(
        !stalled_in(&handle.health()) && is_retrying(),
        "{}",
        handle.health()
    );
    handle.shut_down();
    running.await.unwrap().unwrap();
}

async fn a_worker_without_progress_is_not_live<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    let gate = Arc::new(Semaphore::new(0));
    let users = Model::new("users").gate(&gate);
    let builder = || Worker::<DB>::builder(db.store.clone()).consumer(users.clone());
    let worker = builder()
        .stall_after(Duration::from_millis(1))
        .build()
        .unwrap();
    let stalled = worker.handle();
    let running = tokio::spawn(worker.run(std::future::pending()));
    users.entered.notified().await;
    until(&stalled, stalled_in).await;
    assert!(!stalled.health().is_live());
    gate.add_permits(10);
    stalled.caught_up().await.unwrap();
    assert!(!stalled_in(&stalled.health()));
    stalled.shut_down();
    running.await.unwrap().unwrap();
}

async fn a_stopped_consumer_affects_neither_probe<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["bad"]).await;
    let users = Model::new("users");
    users.fail_on("bad", true);
    let worker = Worker::<DB>::builder(db.store.clone())
        .consumer(users)
        .build()
        .unwrap();
    let handle = worker.handle();
    let running = tokio::spawn(worker.run(std::future::pending()));
    until(&handle, |health| {
        health
            .problems
            .iter()
            .any(|problem| matches!(problem, HealthProblem::NotRunning { .. }))
    })
    .await;
    assert!(handle.health().is_live() && handle.health().is_ready());
    assert!(
        handle
            .health()
            .to_string()
            .contains("`users` is stopped before event 1")
    );
    handle.shut_down();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_database_a_worker_is_live_but_not_ready() {
    let server = TestPostgres::builder().start();
    let database = server.database().await;
    let store = database.store().await;
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
    let state = || handle.consumers()[0].state.clone();
    assert!(
        matches!(state(), ConsumerState::Waiting { .. }),
        "{}",
        state()
    );
    server.start();
    until(&handle, consumer::Health::is_ready).await;
    assert_eq!(state(), ConsumerState::Running);
    handle.shut_down();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontier_that_stays_blocked_is_a_problem_with_its_blocker() {
    let db = Database::<sqlx::Postgres>::fresh().await;
    let running = |bound| {
        let worker = db.worker().consumer(Model::new("users"));
        Running::start(worker.stall_after(bound))
    };
    let strict = running(Duration::from_secs(2));
    let patient = running(Duration::from_hours(1));
    let mut open = db.store.begin().await.unwrap();
    db.append_in(&mut open, "slow").await;
    db.append("User", ["ada"]).await;
    let is_wait = |problem: &HealthProblem| matches!(problem, HealthProblem::FrontierBlocked(_));
    let is_blocked = |health: &consumer::Health| health.problems.iter().any(is_wait);
    until(&strict, is_blocked).await;
    let mut health = strict.health();
    health.problems.retain(is_wait);
    assert!(health.is_live() && health.is_ready(), "{health}");
    let text = health.to_string();
    assert!(text.contains("it is blocked by pid"), "{text}");
    consumer_tests::until("both wait", async || patient.frontier_wait().is_some()).await;
    assert!(!is_blocked(&patient.health()), "not before the bound");
    open.commit().await.unwrap();
    until(&strict, |health| !is_blocked(health)).await;
    strict.stop().await;
    patient.stop().await;
}
