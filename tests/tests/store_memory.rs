//! The memory of a read, measured in a process of its own.
#![cfg(target_os = "linux")]

use consumer::{Backend, EventStore, NewEvent, ReadRange};
use consumer_tests::{Database, TestDatabase};
use sqlx::{Postgres, Sqlite};

const MIB: usize = 1 << 20;
const PAYLOAD: usize = 50 * MIB;
const EVENTS: usize = 6;
const BUDGET: usize = 2 * PAYLOAD;

/// The highest resident memory since [`forget_the_peak`], in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

fn forget_the_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

async fn read_all<DB: Backend>(store: &EventStore<DB>, max_bytes: u64) -> usize {
    let mut conn = store.pool().acquire().await.unwrap();
    let (mut after, mut read) = (0, 0);
    loop {
        let range = ReadRange {
            after,
            up_to: i64::MAX,
            limit: 1_000,
            max_bytes,
            scope: None,
        };
        let events = store.read_range(&mut conn, range).await.unwrap();
        let Some(last) = events.last() else {
            return read;
        };
        after = last.global_position;
        read += events.len();
    }
}

/// The rise of the memory while the whole log is read within a budget.
async fn rise<DB: Backend>(store: &EventStore<DB>, budget: usize) -> usize {
    forget_the_peak();
    let before = peak();
    assert_eq!(read_all(store, budget as u64).await, EVENTS);
    peak() - before
}

async fn memory_stays_within_the_budget<DB: TestDatabase>() {
    let db = Database::<DB>::fresh().await;
    for n in 0..EVENTS {
        let payload = vec![u8::try_from(n).unwrap(); PAYLOAD];
        let event = NewEvent::new("File", n.to_string(), "Uploaded", payload);
        db.append_event(event).await;
    }
    let bounded = rise(&db.store, BUDGET).await;
    let unbounded = rise(&db.store, usize::MAX).await;
    println!(
        "{}: {} MiB with a budget of {}, {} MiB without",
        DB::NAME,
        bounded / MIB,
        BUDGET / MIB,
        unbounded / MIB
    );
    // The events, and the row that the last of them is made from.
    assert!(bounded < BUDGET + 2 * PAYLOAD, "{} MiB", bounded / MIB);
    assert!(
        unbounded >= EVENTS * PAYLOAD,
        "the control: {} MiB",
        unbounded / MIB
    );
}

/// One test, since two would measure each other.
#[tokio::test]
async fn a_read_takes_memory_for_its_budget_and_not_for_the_log() {
    memory_stays_within_the_budget::<Sqlite>().await;
    memory_stays_within_the_budget::<Postgres>().await;
}
