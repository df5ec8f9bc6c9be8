//! The consumers of a process read each part of the log once.

use std::future::ready;
use std::sync::Arc;

use consumer::{EventStore, HandlerError, NewEvent, WorkerBuilder};
use consumer_tests::{Database, TestDatabase, consumer, run_once, until};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use sqlx::{Postgres, Sqlite};
use tokio::sync::Semaphore;

/// The ranges of the log that were found in memory, and those that were read.
#[derive(Debug, Default)]
struct Reads {
    hits: u64,
    misses: u64,
}

/// Runs it on this thread alone, where the recorder is.
fn counted(run: impl AsyncFnOnce(&Snapshotter)) -> Reads {
    let recorder = DebuggingRecorder::new();
    let counters = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(run(&counters)));
    Reads::since_the_last(&counters)
}

impl Reads {
    /// Those since the counters were last looked at.
    fn since_the_last(counters: &Snapshotter) -> Self {
        let mut reads = Self::default();
        for (key, _, _, value) in counters.snapshot().into_vec() {
            if let DebugValue::Counter(count) = value
                && key.key().name() == "consumer_log_reads_total"
            {
                match key.key().labels().last().unwrap().value() {
                    "hit" => reads.hits += count,
                    _ => reads.misses += count,
                }
            }
        }
        reads
    }
}

const EVENTS: usize = 20_000;

/// The most events that one read returns.
const RANGE: usize = 2_000;

async fn filled<DB: TestDatabase>() -> Database<DB> {
    let db = Database::<DB>::fresh().await;
    for aggregate in 0..EVENTS / 1_000 {
        let events: Vec<NewEvent> = (0..1_000)
            .map(|n| NewEvent::new("User", format!("u-{aggregate}"), "Changed", n.to_string()))
            .collect();
        db.append_events(&events).await;
    }
    db
}

/// Handles everything with consumers that do nothing.
async fn catch_up<DB: TestDatabase>(
    db: &Database<DB>,
    names: &str,
    consumers: usize,
    change: impl Fn(WorkerBuilder<DB>) -> WorkerBuilder<DB>,
) {
    // The pool of a runtime that is gone is of no use to the next one.
    let store = EventStore::<DB>::connect(&db.url).await.unwrap();
    let mut builder = consumer::Worker::builder(store).lanes_on_one_core(false);
    for number in 0..consumers {
        let nothing = consumer(&format!("{names}-{number}"), |_, _, _| {
            Box::pin(async { Ok(()) })
        });
        builder = builder.consumer(nothing);
    }
    let report = run_once(change(builder)).await;
    assert!(!report.has_failures(), "{report}");
    let handled: u64 = report.consumers.iter().map(|one| one.events).sum();
    assert_eq!(handled, (EVENTS * consumers) as u64);
}

fn consumers_share<DB: TestDatabase>() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let db = runtime.block_on(filled::<DB>());
    let one = counted(async |_| catch_up(&db, "one", 1, |builder| builder).await);
    let many = counted(async |_| catch_up(&db, "many", 12, |builder| builder).await);
    assert!(one.misses >= (EVENTS / RANGE) as u64, "{one:?}");
    assert!(
        many.misses <= 2 * one.misses && many.hits > 4 * many.misses,
        "one consumer: {one:?}, twelve: {many:?}"
    );
    // The control: a budget of nothing, with which each of them reads for itself.
    let apart =
        counted(async |_| catch_up(&db, "apart", 12, |builder| builder.cache_bytes(0)).await);
    assert!(apart.misses > 3 * one.misses, "{apart:?}");
    // A later consumer reads again what exceeds the budget.
    let later =
        counted(async |_| catch_up(&db, "later", 1, |builder| builder.cache_bytes(1 << 20)).await);
    assert!(later.misses >= one.misses, "{later:?}");
    runtime.block_on(async { drop(db) });
}

#[test]
fn twelve_consumers_read_the_log_once_on_sqlite() {
    consumers_share::<Sqlite>();
}

#[test]
fn twelve_consumers_read_the_log_once_on_postgres() {
    consumers_share::<Postgres>();
}

/// Without that, the lane would wait for each range as long as it takes to read it.
fn the_next_range_is_read_ahead<DB: TestDatabase>() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let db = runtime.block_on(filled::<DB>());
    counted(async |counters| {
        let store = EventStore::<DB>::connect(&db.url).await.unwrap();
        let first = Arc::new(Semaphore::new(0));
        let waiting = Arc::clone(&first);
        let waits = consumer("waits", move |_, _, _| {
            let first = Arc::clone(&waiting);
            Box::pin(async move { first.acquire().await.map(drop).map_err(HandlerError::from) })
        });
        let worker = consumer::Worker::builder(store).lanes_on_one_core(false);
        let worker = worker.consumer(waits).build().unwrap();
        let running = tokio::spawn(worker.run_once());
        let mut read = 0;
        until(
            "two ranges are read while the first event is handled",
            || {
                read += Reads::since_the_last(counters).misses;
                ready(read == 2)
            },
        )
        .await;
        first.add_permits(1);
        assert!(!running.await.unwrap().unwrap().has_failures());
    });
    runtime.block_on(async { drop(db) });
}

#[test]
fn the_next_range_is_read_ahead_on_sqlite() {
    the_next_range_is_read_ahead::<Sqlite>();
}

#[test]
fn the_next_range_is_read_ahead_on_postgres() {
    the_next_range_is_read_ahead::<Postgres>();
}
