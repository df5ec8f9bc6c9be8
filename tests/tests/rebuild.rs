//! Rebuilding a read model in place, on both databases.

use std::sync::Arc;
use std::time::Duration;

use consumer::admin::{Admin, AdminError, ConsumerState, RebuildOptions};
use consumer::{OnError, Settings};
use consumer_tests::{Database, Model, Running, TestDatabase, run_once, test_on};
use sqlx::Postgres;
use tokio::sync::Semaphore;

/// The number of events in the read models of all consumers.
async fn handled<DB: TestDatabase>(db: &Database<DB>) -> i64 {
    db.number("SELECT count(*) FROM applied").await
}

test_on!(
    [sqlite, postgres],
    a_rebuild_empties_the_read_model_and_replays_the_log,
    a_rebuild_discards_parked_events_only_when_told_to,
    a_rebuild_without_a_reset_is_refused_unless_requested,
    r4_a_reset_that_ends_its_transaction_changes_nothing,
    a_running_worker_takes_up_the_rebuild,
    a_rebuild_that_was_interrupted_continues,
    progress_counts_the_events_of_the_scope_alone
);

async fn a_rebuild_empties_the_read_model_and_replays_the_log<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    db.append_many(3).await;
    run_once(users.worker(&db)).await;
    let admin = users.worker(&db).admin().unwrap();
    let rebuilt = admin.rebuild("users", RebuildOptions::new()).await.unwrap();
    assert_eq!((rebuilt.consumer.version, rebuilt.replay_to), (1, 3));
    assert_eq!(handled(&db).await, 0);
    let status = admin.status().await.unwrap();
    let one = status.consumer("users").unwrap();
    assert_eq!(
        (one.state.clone(), one.position),
        (ConsumerState::Rebuilding, Some(0))
    );

    let new = db.append_one("User", "b").await;
    let before = users.seen().len();
    run_once(users.worker(&db)).await;
    assert_eq!(handled(&db).await, 4);
    let replays: Vec<_> = users.seen()[before..]
        .iter()
        .map(|seen| (seen.position, seen.is_replay))
        .collect();
    assert_eq!(replays, [(1, true), (2, true), (3, true), (new, false)]);
    let status = admin.status().await.unwrap();
    assert_eq!(
        status.consumer("users").unwrap().state,
        ConsumerState::Running
    );
}

async fn a_rebuild_discards_parked_events_only_when_told_to<DB: TestDatabase>(db: Database<DB>) {
    let users =
        Model::new("users").settings(Settings::default().retries(0).on_error(OnError::Park));
    users.fail_on("bad", true);
    db.append("User", ["bad"]).await;
    db.append("Order", ["o"]).await;
    run_once(users.clone().scope(&["User"]).worker(&db)).await;
    users.fail_on("bad", false);

    let wider = users.scope(&["Order", "User"]);
    let admin = wider.worker(&db).admin().unwrap();
    assert_eq!(admin.parked("users").await.unwrap().len(), 1);
    let refused = admin
        .rebuild("users", RebuildOptions::new())
        .await
        .unwrap_err();
    assert!(
        matches!(refused, AdminError::WouldDiscard { parked: 1, .. }),
        "{refused}"
    );
    assert_eq!(
        (
            handled(&db).await,
            admin.parked("users").await.unwrap().len()
        ),
        (0, 1)
    );
    admin
        .rebuild("users", RebuildOptions::new().discard_parked())
        .await
        .unwrap();
    assert!(admin.parked("users").await.unwrap().is_empty());
    run_once(wider.worker(&db)).await;
    assert_eq!(handled(&db).await, 2);
}

async fn a_rebuild_without_a_reset_is_refused_unless_requested<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").without_reset();
    db.append("User", ["a"]).await;
    run_once(users.worker(&db)).await;
    let admin = users.worker(&db).admin().unwrap();
    let refused = admin
        .rebuild("users", RebuildOptions::new())
        .await
        .unwrap_err();
    assert!(matches!(refused, AdminError::NoReset { .. }), "{refused}");
    let without_code = Admin::new(db.store.clone());
    let refused = without_code
        .rebuild("users", RebuildOptions::new())
        .await
        .unwrap_err();
    assert!(matches!(refused, AdminError::NoCode { .. }), "{refused}");
    let before = admin.status().await.unwrap();
    assert_eq!(before.consumer("users").unwrap().position, Some(1));

    admin
        .rebuild("users", RebuildOptions::new().without_reset())
        .await
        .unwrap();
    run_once(users.worker(&db)).await;
    assert_eq!(handled(&db).await, 2);
}

async fn r4_a_reset_that_ends_its_transaction_changes_nothing<DB: TestDatabase>(db: Database<DB>) {
    for statement in ["COMMIT", "ROLLBACK"] {
        let users = Model::new("users").rogue_reset(statement);
        db.append("User", ["a"]).await;
        run_once(users.worker(&db)).await;
        let (before, admin) = (handled(&db).await, users.worker(&db).admin().unwrap());
        let refused = admin
            .rebuild("users", RebuildOptions::new())
            .await
            .unwrap_err();
        assert!(
            matches!(
                refused,
                AdminError::EndedTransaction { .. } | AdminError::Reset { .. }
            ),
            "{statement}: {refused}"
        );
        let status = admin.status().await.unwrap();
        let one = status.consumer("users").unwrap();
        assert_eq!(
            (one.state.clone(), one.lag.events),
            (ConsumerState::Running, 0),
            "{statement}"
        );
        assert_eq!(handled(&db).await, before, "{statement}");
    }
}

async fn a_running_worker_takes_up_the_rebuild<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    db.append_many(20).await;
    let worker = users
        .worker(&db)
        .configure_all(|settings| settings.batch_size(3))
        .snapshot_interval(Duration::from_millis(5));
    let running = Running::start(worker);
    running.caught_up().await.unwrap();
    let admin = users.worker(&db).admin().unwrap();
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
    assert_eq!(handled(&db).await, 20);
    running.stop().await;
    assert_eq!(handled(&db).await, 20);
}

async fn a_rebuild_that_was_interrupted_continues<DB: TestDatabase>(db: Database<DB>) {
    let gate = Arc::new(Semaphore::new(10));
    let users = Model::new("users").gate(&gate);
    db.append_many(10).await;
    run_once(users.worker(&db)).await;
    let admin = users.worker(&db).admin().unwrap();
    admin.rebuild("users", RebuildOptions::new()).await.unwrap();

    gate.add_permits(4);
    let worker = users
        .worker(&db)
        .configure_all(|settings| settings.batch_size(2))
        .build()
        .unwrap();
    let killed = tokio::spawn(worker.run(std::future::pending()));
    let mut watch = admin.watch_rebuild("users").await.unwrap();
    while watch.look().await.unwrap().handled < 4 {}
    killed.abort();
    let _ = killed.await;

    let other = users.worker(&db).admin().unwrap();
    let mut watch = other.watch_rebuild("users").await.unwrap();
    let progress = watch.look().await.unwrap();
    assert_eq!(
        (progress.handled, progress.total, progress.is_done),
        (4, 10, false)
    );
    gate.add_permits(100);
    let before = users.seen().len();
    run_once(users.worker(&db)).await;
    assert_eq!(
        users.seen()[before..]
            .iter()
            .map(|seen| seen.position)
            .min(),
        Some(5)
    );
    assert_eq!(handled(&db).await, 10);
    assert!(watch.look().await.unwrap().is_done);
}

async fn progress_counts_the_events_of_the_scope_alone<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").scope(&["User"]);
    for (kind, id) in [
        ("User", "a"),
        ("Order", "o"),
        ("Order", "o"),
        ("User", "b"),
        ("Order", "o"),
    ] {
        db.append(kind, [id]).await;
    }
    run_once(users.worker(&db)).await;
    let admin = users.worker(&db).admin().unwrap();
    admin.rebuild("users", RebuildOptions::new()).await.unwrap();
    let mut watch = admin.watch_rebuild("users").await.unwrap();
    assert_eq!(watch.look().await.unwrap().total, 2);
    run_once(users.worker(&db)).await;
    let progress = watch.look().await.unwrap();
    assert_eq!((progress.handled, progress.is_done), (2, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_waits_for_a_running_batch_or_is_refused() {
    let db = Database::<Postgres>::fresh().await;
    db.append("User", ["a"]).await;
    let gate = Arc::new(Semaphore::new(0));
    let users = Model::new("users").gate(&gate);
    let running = Running::start(users.worker(&db));
    users.entered.notified().await;

    let admin = users.worker(&db).admin().unwrap();
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
    running.stop().await;
}
