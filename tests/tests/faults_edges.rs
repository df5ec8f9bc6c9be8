//! Rare faults: how a worker handles them, and what waiting for it returns.

use std::time::Duration;

use consumer::{ConsumerState, ExpectedVersion, NewEvent, OnError, StoreError, Worker};
use consumer_tests::{
    Database, Running, TestDatabase, TestPostgres, impatient, judging, noise, patiently,
    read_model, run_once, test_on, until,
};
use sqlx::Postgres;

test_on!(
    [sqlite, postgres],
    waiting_ends_when_the_worker_could_not_start,
    waiting_ends_when_the_worker_is_dropped_while_it_runs,
    waiting_ends_when_the_worker_is_dropped_before_it_runs
);

async fn waiting_ends_when_the_worker_could_not_start<DB: TestDatabase>(db: Database<DB>) {
    let position = db.append_one("User", "u-1").await;
    db.execute("DROP TABLE consumer_progress").await;
    let worker = db.worker().consumer(read_model("c")).build().unwrap();
    let handle = worker.handle();
    patiently("it refuses", worker.run_once())
        .await
        .unwrap_err();
    let waiting = tokio::time::timeout(Duration::from_secs(20), handle.caught_up_to(position));
    waiting
        .await
        .expect("it says that the worker has ended")
        .unwrap_err();
}

async fn waiting_ends_when_the_worker_is_dropped_while_it_runs<DB: TestDatabase>(db: Database<DB>) {
    let worker = Running::start(db.worker().consumer(read_model("c")));
    patiently("it starts", worker.caught_up()).await.unwrap();
    let handle = Clone::clone(&*worker);
    worker.abort().await;
    let position = db.append_one("User", "u-1").await;
    let waiting = tokio::time::timeout(Duration::from_secs(20), handle.caught_up_to(position));
    waiting
        .await
        .expect("it says that the worker has ended")
        .unwrap_err();
}

async fn waiting_ends_when_the_worker_is_dropped_before_it_runs<DB: TestDatabase>(
    db: Database<DB>,
) {
    let position = db.append_one("User", "u-1").await;
    let worker = db.worker().consumer(read_model("c")).build().unwrap();
    let handle = worker.handle();
    drop(worker);
    let waiting = tokio::time::timeout(Duration::from_secs(20), handle.caught_up_to(position));
    waiting
        .await
        .expect("it says that the worker has ended")
        .unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_every_id_that_is_appended_can_be_parked() {
    let db = Database::<Postgres>::fresh().await;
    let mut longest = 0;
    for length in (2_400..2_800).step_by(20) {
        let event = NewEvent::new("User", noise(length), "Changed", "{}");
        let appended = db.store.append(ExpectedVersion::Any, &[event]).await;
        match appended {
            Ok(_) => longest = length,
            Err(error) => {
                assert!(matches!(error, StoreError::IdTooLong { .. }), "{error:?}");
                break;
            }
        }
    }
    println!("ids of up to {longest} bytes that cannot be compressed can be appended");
    assert!((2_400..2_780).contains(&longest));
    // The index of parked events holds the consumer's name as well.
    let name = "c".repeat(255);
    let c = judging(&name, |_, _| Err("no".to_owned()));
    let report = db
        .run_once(c.settings(impatient().retries(0).on_error(OnError::Park)))
        .await;
    let state = &report.consumer(&name).unwrap().state;
    assert_eq!(*state, ConsumerState::CaughtUp, "{report}");
    let positions = db
        .numbers("SELECT global_position FROM events ORDER BY 1")
        .await;
    assert_eq!(db.parked(&name).await, positions);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_starts_on_a_log_without_free_positions() {
    let db = Database::<Postgres>::fresh().await;
    let last_but_one = i64::MAX - 1;
    db.execute(&format!(
        "SELECT setval('events_global_position_seq', {last_but_one})"
    ))
    .await;
    let positions = db.append("User", ["u-1"]).await;
    assert_eq!(positions, [i64::MAX]);
    run_once(db.worker().consumer(read_model("c"))).await;
    assert_eq!(db.applied("c").await, positions);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_checkpoint_is_advanced_once_for_each_append() {
    let server = TestPostgres::builder()
        .setting("shared_preload_libraries", "pg_stat_statements")
        .start();
    let db = Database::on(&server).await;
    db.execute("CREATE EXTENSION pg_stat_statements").await;
    let head = *db.append_many(10).await.last().unwrap();
    let builder = Worker::builder(db.store.clone())
        .poll_interval(Duration::from_millis(10))
        .advance_interval(Duration::from_millis(20));
    let worker = Running::start(builder.scoped_consumer(read_model("c").scope(&["Order"])));
    patiently("it catches up", worker.caught_up_to(head))
        .await
        .unwrap();
    until("the checkpoint advances", async || {
        db.checkpoint("c").await == Some(head)
    })
    .await;
    let calls = |of: &str| {
        format!(
            "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE query LIKE '{of}'"
        )
    };
    let (looks, moves) = (calls("%row_number%"), calls("WITH move AS%"));
    let before = db.number(&looks).await;
    until("it has looked at the log a hundred times", async || {
        db.number(&looks).await > before + 100
    })
    .await;
    worker.stop().await;
    // The first move may have come before anything was seen of the log.
    let moves = db.number(&moves).await;
    assert!(moves <= 2, "{moves} times");
}
