//! What is done to a consumer as a whole, when it has several checkpoint rows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::time::Duration;

use consumer::admin::RebuildOptions;
use consumer::{
    Backend, Consumer, ConsumerState, OnError, ScopedConsumer, Settings, Worker, WorkerBuilder,
    aggregate_slice, merge_segments,
};
use consumer_tests::{
    Database, MODEL, Model, Running, TestBackend, on_both_databases, patiently, run_once, until,
};

const NAME: &str = "model";

fn builder<DB: TestBackend>(db: &Database<DB>, model: &Model, segments: u32) -> WorkerBuilder<DB>
where
    Model: Consumer<DB> + ScopedConsumer<DB>,
{
    Worker::builder(db.store.clone())
        .poll_interval(Duration::from_millis(10))
        .snapshot_interval(Duration::from_millis(20))
        .scoped_consumer(model.clone())
        .configure_all(move |settings| settings.segments(segments))
}

async fn rows<DB: TestBackend>(db: &Database<DB>) -> i64 {
    db.numbers("SELECT count(*) FROM consumer_progress").await[0]
}

/// So many aggregates in each quarter of the slices.
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

async fn append<DB: TestBackend>(db: &Database<DB>, ids: &[String]) -> Vec<i64> {
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    db.append("User", &ids).await
}

async fn applied<DB: TestBackend>(db: &Database<DB>) -> Vec<i64> {
    db.numbers("SELECT position FROM model ORDER BY position")
        .await
}

async fn all_caught_up<DB: Backend>(worker: &Running<DB>, position: i64) {
    patiently("it catches up", worker.caught_up_to(position))
        .await
        .unwrap();
}

on_both_databases! {
    async fn parked_events_follow_their_aggregate_when_its_row_is_divided_and_merged(db) {
        db.execute(MODEL).await;
        let parks = Settings::default().retries(0).on_error(OnError::Park);
        let model = Model::new(NAME).settings(parks);
        let ids = ids(2);
        let bad = ids[3].clone();
        model.fail_on(&bad, true);

        let mut positions = append(&db, &ids).await;
        let one = Running::start(builder(&db, &model, 1));
        all_caught_up(&one, positions[7]).await;
        one.stop().await;
        let four = Running::start(builder(&db, &model, 4));
        until("the row is divided", async || rows(&db).await == 4).await;
        positions.extend(append(&db, &ids).await);
        all_caught_up(&four, positions[15]).await;
        four.stop().await;
        let one = Running::start(builder(&db, &model, 1));
        patiently("the rows become one", merge_segments(&db.store, NAME, 1, 1)).await.unwrap();
        positions.extend(append(&db, &ids).await);
        all_caught_up(&one, positions[23]).await;

        // Its later events wait behind the first one, in whatever row; the others went on.
        let of_bad = [positions[3], positions[11], positions[19]];
        assert_eq!(db.parked(NAME).await, of_bad);
        let others: Vec<i64> = positions.iter().copied().filter(|p| !of_bad.contains(p)).collect();
        assert_eq!(applied(&db).await, others);
        one.stop().await;

        // And come out in their order.
        model.fail_on(&bad, false);
        let seen = model.seen().len();
        let admin = builder(&db, &model, 1).admin().unwrap();
        admin.retry_parked(NAME, None).await.unwrap();
        let retried: Vec<i64> = model.seen()[seen..].iter().map(|seen| seen.position).collect();
        assert_eq!(retried, of_bad);
        assert_eq!(applied(&db).await, positions);
    }

    async fn a_rebuild_takes_all_rows_back_and_none_of_them_goes_on_from_before(db) {
        db.execute(MODEL).await;
        let model = Model::new(NAME);
        let positions = append(&db, &ids(3)).await;
        let last = *positions.last().unwrap();
        let worker = Running::start(builder(&db, &model, 4));
        all_caught_up(&worker, last).await;
        assert_eq!(rows(&db).await, 4);

        let admin = builder(&db, &model, 4).admin().unwrap();
        let patient = RebuildOptions::new().wait(Duration::from_secs(30));
        admin.rebuild(NAME, patient).await.unwrap();
        until("all is handled again", async || applied(&db).await == positions).await;
        until("each row has come back", async || {
            db.numbers("SELECT count(*) FROM consumer_progress WHERE epoch = 1 AND position >= 0").await == [4]
        }).await;
        worker.stop().await;
        let replayed = model.seen().iter().filter(|seen| seen.is_replay).count();
        assert_eq!(replayed, positions.len());
    }

    async fn a_changed_scope_keeps_every_row_until_it_is_accepted_for_all(db) {
        db.execute(MODEL).await;
        let before = Model::new(NAME).scope(&["User"]);
        append(&db, &ids(1)).await;
        run_once(builder(&db, &before, 4)).await;

        let after = Model::new(NAME).scope(&["User", "Order"]);
        let report = run_once(builder(&db, &after, 4)).await;
        assert!(
            matches!(report.consumer(NAME).unwrap().state, ConsumerState::ScopeChanged { .. }),
            "{report}"
        );
        builder(&db, &after, 4).admin().unwrap().accept_scope(NAME).await.unwrap();
        let scopes = db.texts("SELECT DISTINCT scope FROM consumer_progress").await;
        assert_eq!(scopes, ["Order\nUser"]);
        db.append("Order", &["o-1"]).await;
        let report = run_once(builder(&db, &after, 4)).await;
        assert_eq!(report.consumer(NAME).unwrap().state, ConsumerState::CaughtUp, "{report}");
        assert_eq!(applied(&db).await.len(), 5);
    }
}
