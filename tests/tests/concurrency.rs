//! Position order is not commit order (R11): our worker beside the naive reader, under writers that
//! delay, roll back, draw positions early, copy, and commit in two phases.

use std::collections::HashSet;
use std::time::Duration;

use consumer_tests::{Database, Kind, NaiveReader, Running, Writers, patiently, read_model};
use sqlx::Postgres;

#[tokio::test(flavor = "multi_thread")]
async fn r11_concurrent_writers_lose_nothing_but_the_naive_readers() {
    let db = Database::<Postgres>::fresh().await;
    let naive = NaiveReader::start(&db.pool).await;
    let worker = Running::start(
        db.worker()
            .consumer(read_model("ours"))
            .consumer(read_model("beside")),
    );
    let writers = Writers::start(&db.pool, 6, Duration::from_millis(150));
    patiently("there are 800 events", async {
        while db.number("SELECT count(*) FROM events").await < 800 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let tally = writers.stop(&db.pool).await;
    patiently("the worker catches up", worker.caught_up())
        .await
        .unwrap();
    worker.stop().await;
    naive.stop().await;

    let committed = db
        .numbers("SELECT global_position FROM events ORDER BY global_position")
        .await;
    assert_eq!(db.applied("ours").await, committed);
    assert_eq!(db.applied("beside").await, committed);
    let naive: HashSet<i64> = db.applied("naive").await.into_iter().collect();
    let lost = committed.len() - naive.len();
    let gaps = committed.last().unwrap() - i64::try_from(committed.len()).unwrap();
    assert_eq!(tally.errors, [] as [String; 0]);
    for kind in Kind::ALL {
        let count = |of: &std::collections::BTreeMap<Kind, u64>| of.get(&kind).copied();
        assert!(count(&tally.committed) > Some(0), "{kind:?}: {tally:?}");
        assert!(count(&tally.rolled_back) > Some(0), "{kind:?}: {tally:?}");
    }
    assert!(gaps > 0, "nothing left a gap, so this proves nothing");
    println!(
        "{} events, {gaps} gaps; the naive reader lost {lost}",
        committed.len()
    );
    assert!(
        lost > 0,
        "the naive reader lost nothing, so this proves nothing"
    );
}
