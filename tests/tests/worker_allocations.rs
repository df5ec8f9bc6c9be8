//! The allocations of a worker, counted in a process of its own.

use std::alloc::System;

use consumer::prelude::*;
use consumer::{Context, EventStore, ReadRange, Worker};
use consumer_tests::{Database, TestDatabase};
use sqlx::{Postgres, Sqlite};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// As many batches in the small log as in the large one: what differs is only events.
const BATCHES: u32 = 10;
const SMALL: u32 = 1_000;
const LARGE: u32 = 10_000;

struct Nothing {
    name: String,
    copies: bool,
}

impl<DB: sqlx::Database> Consumer<DB> for Nothing {
    fn name(&self) -> &str {
        &self.name
    }

    async fn handle(
        &self,
        _: &Context,
        _: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        if self.copies {
            std::hint::black_box(event.aggregate_id.clone());
        }
        Ok(())
    }
}

async fn log_of<DB: TestDatabase>(events: u32) -> Database<DB> {
    let db = Database::<DB>::fresh().await;
    let events: Vec<NewEvent> = (0..events)
        .map(|n| NewEvent::new("Account", "a-1", "Deposited", format!("{{\"amount\":{n}}}")))
        .collect();
    db.append_events(&events).await;
    db
}

/// The number of allocations during some work.
async fn counted(work: impl Future<Output = ()>) -> f64 {
    let region = Region::new(COUNTING);
    work.await;
    let counted = region.change().allocations;
    f64::from(u32::try_from(counted).unwrap())
}

/// The allocations while the log is read.
async fn reading<DB: TestDatabase>(store: &EventStore<DB>, events: u32) -> f64 {
    let mut connection = store.pool().acquire().await.unwrap();
    counted(async {
        let mut after = 0;
        while after < i64::from(events) {
            let range = ReadRange {
                after,
                up_to: i64::from(events),
                limit: 1_000,
                max_bytes: u64::MAX,
                scope: None,
            };
            let read = store.read_range(&mut connection, range).await.unwrap();
            after = read.last().unwrap().global_position;
        }
    })
    .await
}

/// The allocations while consumers catch up.
async fn catching_up<DB: TestDatabase>(
    store: &EventStore<DB>,
    events: u32,
    consumers: u32,
    copies: bool,
) -> f64 {
    let mut builder = Worker::builder(store.clone())
        // All lanes share what is read once, whichever is ahead.
        .cache_bytes(1 << 30)
        .configure_all(move |settings| settings.batch_size(events / BATCHES));
    for number in 0..consumers {
        let name = format!("nothing.{consumers}.{copies}.{number}");
        builder = builder.consumer(Nothing { name, copies });
    }
    let worker = builder.build().unwrap();
    counted(async {
        let report = worker.run_once().await.unwrap();
        assert!(!report.has_failures(), "{report}");
    })
    .await
}

/// The allocations for an event on its way to consumers, after it was read.
async fn an_event<DB: TestDatabase>(consumers: u32, copies: bool) -> f64 {
    let mut own = [0.0; 2];
    for (own, events) in own.iter_mut().zip([SMALL, LARGE]) {
        let db = log_of::<DB>(events).await;
        let all = catching_up(&db.store, events, consumers, copies).await;
        *own = all - reading(&db.store, events).await;
    }
    let [small, large] = own;
    (large - small) / f64::from(LARGE - SMALL)
}

async fn an_event_is_not_allocated_again<DB: TestDatabase>() {
    let one = an_event::<DB>(1, false).await;
    let ten = an_event::<DB>(10, false).await;
    println!("{one} with one consumer, {ten} with ten");
    // A copy would be at least one. The rest is vectors that grow, a few times a batch, and background work,
    // of which a slow machine does more.
    assert!(one < 0.5, "{one} allocations an event");
    assert!(
        ten / 10.0 < 0.5,
        "{ten} allocations an event, ten consumers"
    );
    let copied = an_event::<DB>(1, true).await;
    // What the worker does meanwhile depends on the machine's load.
    assert!(
        copied - one > 0.5,
        "the control: a copy an event shows as {copied}, beside {one}"
    );
}

/// One test, since both would count the other's allocations.
#[tokio::test(flavor = "multi_thread")]
async fn r6_an_event_is_not_allocated_again_for_each_consumer() {
    an_event_is_not_allocated_again::<Sqlite>().await;
    an_event_is_not_allocated_again::<Postgres>().await;
}
