//! Workers that are killed again and again.

use std::time::Duration;

use crate::{Database, TestDatabase, WorkerProcess, until};

/// Kills the process of a consumer 20 times while it handles new events, and lets the next one catch up.
///
/// Half of the kills come at a random time after the start, and half after a random batch. `append` appends events and
/// returns the position of the last.
pub async fn kill_20_times<DB: TestDatabase>(
    db: &Database<DB>,
    consumer: &str,
    start: impl Fn() -> WorkerProcess,
    mut append: impl AsyncFnMut() -> i64,
) {
    let mut interrupted = 0;
    for round in 0..20 {
        let before = checkpoints(db, consumer).await;
        let head = append().await;
        let worker = start();
        if round % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..150))).await;
        } else {
            let saved = async || checkpoints(db, consumer).await != before;
            until("a batch is saved", saved).await;
        }
        worker.kill();
        let began = before.iter().copied().chain(std::iter::repeat(0));
        let after = checkpoints(db, consumer).await;
        let mut moved = after.iter().zip(began);
        let is_between = moved.any(|(&after, before)| before < after && after < head);
        interrupted += u32::from(is_between);
    }
    assert!(interrupted > 0, "no kill had any effect");
    let head = append().await;
    let worker = start();
    until("the worker has caught up", async || {
        let checkpoints = checkpoints(db, consumer).await;
        !checkpoints.is_empty() && checkpoints.iter().all(|&checkpoint| checkpoint == head)
    })
    .await;
    assert!(worker.terminate());
}

/// The checkpoints of all segments, in order.
async fn checkpoints<DB: TestDatabase>(db: &Database<DB>, consumer: &str) -> Vec<i64> {
    let checkpoints = format!(
        "SELECT position FROM consumer_progress WHERE consumer = '{consumer}' ORDER BY slice_from"
    );
    db.numbers(&checkpoints).await
}
