//! Operations on a consumer that has several checkpoint rows.

use std::sync::Arc;
use std::time::Duration;

use consumer::admin::RebuildOptions;
use consumer::{
    Backend, Consumer, ConsumerState, HealthProblem, OnError, ScopedConsumer, Settings, Worker,
    WorkerBuilder, aggregate_slice, merge_segments,
};
use consumer_tests::{
    Database, Model, Running, TestDatabase, patiently, run_once, test_on, until, until_some,
};
use sqlx::Postgres;
use tokio::sync::Semaphore;

const NAME: &str = "model";

fn builder<DB: TestDatabase>(db: &Database<DB>, model: &Model, segments: u32) -> WorkerBuilder<DB>
where
    Model: Consumer<DB> + ScopedConsumer<DB>,
{
    Worker::builder(db.store.clone())
        .poll_interval(Duration::from_millis(10))
        .snapshot_interval(Duration::from_millis(20))
        .scoped_consumer(model.clone())
        .configure_all(move |settings| settings.segments(segments))
}

async fn rows<DB: TestDatabase>(db: &Database<DB>) -> i64 {
    db.number("SELECT count(*) FROM consumer_progress").await
}

/// `each` aggregates in each quarter of the slices.
fn ids(each: usize) -> Vec<String> {
    let mut quarters = [const { Vec::new() }; 4];
    for number in 0..10_000 {
        let id = format!("a-{number}");
        let quarter: &mut Vec<String> = &mut quarters[usize::from(aggregate_slice(&id) / 256)];
        if quarter.len() < each {
            quarter.push(id);
        }
    }
    quarters.concat()
}

async fn applied<DB: TestDatabase>(db: &Database<DB>) -> Vec<i64> {
    db.numbers("SELECT position FROM applied ORDER BY position")
        .await
}

async fn all_caught_up<DB: Backend>(worker: &Running<DB>, position: i64) {
    patiently("it catches up", worker.caught_up_to(position))
        .await
        .unwrap();
}

test_on!(
    [sqlite, postgres],
    parked_events_survive_dividing_and_merging_rows,
    a_rebuild_restarts_the_rows_of_all_segments,
    a_merge_of_a_row_that_does_not_run_is_refused,
    a_segment_that_waits_for_a_merge_has_not_stalled,
    a_changed_scope_keeps_every_row_until_it_is_accepted_for_all
);

async fn parked_events_survive_dividing_and_merging_rows<DB: TestDatabase>(db: Database<DB>) {
    let parks = Settings::default().retries(0).on_error(OnError::Park);
    let model = Model::new(NAME).settings(parks);
    let ids = ids(2);
    let bad = ids[3].clone();
    model.fail_on(&bad, true);

    let mut positions = db.append("User", &ids).await;
    let one = Running::start(builder(&db, &model, 1));
    all_caught_up(&one, positions[7]).await;
    one.stop().await;
    let four = Running::start(builder(&db, &model, 4));
    until("the row is divided", async || rows(&db).await == 4).await;
    positions.extend(db.append("User", &ids).await);
    all_caught_up(&four, positions[15]).await;
    four.stop().await;
    let one = Running::start(builder(&db, &model, 1));
    patiently("the rows become one", merge_segments(&db.store, NAME, 1, 1))
        .await
        .unwrap();
    positions.extend(db.append("User", &ids).await);
    all_caught_up(&one, positions[23]).await;

    // Its later events wait behind the first one, whichever row they are in.
    let of_bad = [positions[3], positions[11], positions[19]];
    assert_eq!(db.parked(NAME).await, of_bad);
    let others: Vec<i64> = positions
        .iter()
        .copied()
        .filter(|p| !of_bad.contains(p))
        .collect();
    assert_eq!(applied(&db).await, others);
    one.stop().await;

    // And come out in their order.
    model.fail_on(&bad, false);
    let seen = model.seen().len();
    let admin = builder(&db, &model, 1).admin().unwrap();
    admin.retry_parked(NAME, None).await.unwrap();
    let retried: Vec<i64> = model.seen()[seen..]
        .iter()
        .map(|seen| seen.position)
        .collect();
    assert_eq!(retried, of_bad);
    assert_eq!(applied(&db).await, positions);
}

async fn a_segment_that_waits_for_a_merge_has_not_stalled<DB: TestDatabase>(db: Database<DB>) {
    let hour = Duration::from_hours(1);
    let model = Model::new(NAME).settings(Settings::default().retries(9).backoff(hour, hour));
    let ids = ids(1);
    let (ahead, behind) = (&ids[0], &ids[3]);
    let last = *db.append("User", [ahead, behind]).await.last().unwrap();
    let two = Running::start(builder(&db, &model, 2));
    all_caught_up(&two, last).await;
    until("the row is divided", async || rows(&db).await == 2).await;
    two.stop().await;

    model.fail_on(behind, true);
    let one = builder(&db, &model, 1).stall_after(Duration::from_millis(200));
    let one = Running::start(one);
    db.append_one("User", behind).await;
    until("one segment has failed", async || {
        one.consumers()[0].state.name() == "retrying"
    })
    .await;
    let position = db.append_one("User", ahead).await;
    until("the other one is ahead", async || {
        applied(&db).await.contains(&position)
    })
    .await;
    let store = db.store.clone();
    let merge = tokio::spawn(async move { merge_segments(&store, NAME, 1, 1).await });
    until("they wait for each other", async || {
        let held = format!("SELECT count(*) FROM consumer_progress WHERE hold_at = {position}");
        db.number(&held).await == 2
    })
    .await;
    let last = db.append_one("User", ahead).await;
    let problems = until_some("health names the merge", async || {
        let waits = format!(
            "consumer `{NAME}` is waiting at position {position} for the neighbouring segment, to be merged with it"
        );
        let problems = one.health().problems;
        let is_named = problems.iter().any(|problem| problem.to_string() == waits);
        is_named.then_some(problems)
    })
    .await;
    let is_stalled = |problem: &HealthProblem| matches!(problem, HealthProblem::Stalled { .. });
    assert!(!problems.iter().any(is_stalled), "{problems:?}");

    model.fail_on(behind, false);
    let admin = builder(&db, &model, 1).admin().unwrap();
    admin.resume(NAME).await.unwrap();
    patiently("the rows become one", merge)
        .await
        .unwrap()
        .unwrap();
    all_caught_up(&one, last).await;
    assert_eq!(applied(&db).await, db.log().await);
    one.stop().await;
}

async fn a_rebuild_restarts_the_rows_of_all_segments<DB: TestDatabase>(db: Database<DB>) {
    let model = Model::new(NAME);
    let positions = db.append("User", &ids(3)).await;
    let last = *positions.last().unwrap();
    let worker = Running::start(builder(&db, &model, 4));
    all_caught_up(&worker, last).await;
    assert_eq!(rows(&db).await, 4);

    let admin = builder(&db, &model, 4).admin().unwrap();
    let patient = RebuildOptions::new().wait(Duration::from_secs(30));
    admin.rebuild(NAME, patient).await.unwrap();
    until("all is handled again", async || {
        applied(&db).await == positions
    })
    .await;
    until("each row has come back", async || {
        db.numbers("SELECT count(*) FROM consumer_progress WHERE epoch = 1 AND position >= 0")
            .await
            == [4]
    })
    .await;
    worker.stop().await;
    let replayed = model.seen().iter().filter(|seen| seen.is_replay).count();
    assert_eq!(replayed, positions.len());
}

async fn a_changed_scope_keeps_every_row_until_it_is_accepted_for_all<DB: TestDatabase>(
    db: Database<DB>,
) {
    let before = Model::new(NAME).scope(&["User"]);
    db.append("User", &ids(1)).await;
    run_once(builder(&db, &before, 4)).await;

    let after = Model::new(NAME).scope(&["User", "Order"]);
    let report = run_once(builder(&db, &after, 4)).await;
    assert!(
        matches!(
            report.consumer(NAME).unwrap().state,
            ConsumerState::ScopeChanged { .. }
        ),
        "{report}"
    );
    builder(&db, &after, 4)
        .admin()
        .unwrap()
        .accept_scope(NAME)
        .await
        .unwrap();
    let scopes = db
        .texts("SELECT DISTINCT scope FROM consumer_progress")
        .await;
    assert_eq!(scopes, ["Order\nUser"]);
    db.append("Order", ["o-1"]).await;
    let report = run_once(builder(&db, &after, 4)).await;
    assert_eq!(
        report.consumer(NAME).unwrap().state,
        ConsumerState::CaughtUp,
        "{report}"
    );
    assert_eq!(applied(&db).await.len(), 5);
}

async fn a_merge_of_a_row_that_does_not_run_is_refused<DB: TestDatabase>(db: Database<DB>) {
    let model = Model::new(NAME);
    let ids = ids(1);
    model.fail_on(&ids[3], true);
    db.append("User", &ids).await;
    run_once(builder(&db, &model, 2)).await;
    let admin = builder(&db, &model, 2).admin().unwrap();
    let merge = async || {
        let merge = merge_segments(&db.store, NAME, 1, 1);
        let merged = patiently("it does not wait", merge).await;
        merged.unwrap_err().to_string()
    };
    assert_eq!(
        merge().await,
        "the segments of `model` cannot be merged while one of them is stopped; resume it first"
    );
    admin.pause(NAME).await.unwrap();
    let error = merge().await;
    assert!(error.contains("is paused; resume it"), "{error}");

    model.fail_on(&ids[3], false);
    admin.resume(NAME).await.unwrap();
    run_once(builder(&db, &model, 1)).await;
    patiently("they are merged", merge_segments(&db.store, NAME, 1, 1))
        .await
        .unwrap();
    assert_eq!(rows(&db).await, 1);
}

/// The statement that locks the rows of a consumer waits for one that is being split, and does not see its
/// new half.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_locks_the_half_of_a_row_split_meanwhile() {
    const SPLIT: &str = "
        INSERT INTO consumer_progress
        SELECT (jsonb_populate_record(p, '{\"slice_from\": 512}')).* FROM consumer_progress AS p;
        UPDATE consumer_progress SET slice_to = 512 WHERE slice_from = 0";
    let db = Database::<Postgres>::fresh().await;
    let parks = Settings::default().retries(0).on_error(OnError::Park);
    let broken = Model::new(NAME).settings(parks);
    broken.fail_on("ada", true);
    db.append("User", ["ada"]).await;
    run_once(builder(&db, &broken, 1)).await;

    let mut split = db.pool.begin().await.unwrap();
    Postgres::execute_sql(&mut split, SPLIT).await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let repaired = Model::new(NAME).gate(&gate);
    let admin = builder(&db, &repaired, 1).admin().unwrap();
    let retry = tokio::spawn(async move { admin.retry_parked(NAME, None).await });
    until("the operator waits for the row", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock'";
        db.number(waiting).await == 1
    })
    .await;
    split.commit().await.unwrap();
    patiently("the handler works", repaired.entered.notified()).await;
    let free = "SELECT slice_from::bigint FROM consumer_progress FOR UPDATE SKIP LOCKED";
    assert_eq!(db.numbers(free).await, [0; 0]);
    gate.add_permits(1);
    assert_eq!(retry.await.unwrap().unwrap().handled, 1);
}
