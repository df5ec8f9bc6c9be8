//! How often the worker allocates; alone in its process, since that is what is counted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::alloc::System;

use consumer::prelude::*;
use consumer::{Context, SqliteEventStore, Worker};
use consumer_tests::SqliteDatabase;
use sqlx::Sqlite;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const EVENTS: u32 = 10_000;

struct Nothing {
    name: String,
    copies: bool,
}

impl Consumer<Sqlite> for Nothing {
    fn name(&self) -> &str {
        &self.name
    }

    async fn handle(
        &self,
        _: &Context,
        _: &mut SqliteConnection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        if self.copies {
            std::hint::black_box(event.aggregate_id.clone());
        }
        Ok(())
    }
}

async fn log_of_events() -> (SqliteEventStore, SqliteDatabase) {
    let database = SqliteDatabase::new().await;
    let store = database.store().await;
    let events: Vec<NewEvent> = (0..EVENTS)
        .map(|n| NewEvent::new("Account", "a-1", "Deposited", format!("{{\"amount\":{n}}}")))
        .collect();
    store
        .append_in_transaction(ExpectedVersion::NoStream, &events)
        .await
        .unwrap();
    (store, database)
}

/// How often is allocated while so many consumers catch up.
async fn allocations(consumers: u32, copies: bool) -> f64 {
    let (store, _database) = log_of_events().await;
    let mut builder = Worker::builder(store)
        // All lanes share what is read once, whichever is ahead.
        .cache_bytes(1 << 30)
        .configure_all(|settings| settings.batch_size(EVENTS));
    for number in 0..consumers {
        let name = format!("nothing.{number}");
        builder = builder.consumer(Nothing { name, copies });
    }
    let worker = builder.build().unwrap();
    let region = Region::new(COUNTING);
    let report = worker.run_once().await.unwrap();
    let counted = region.change().allocations;
    assert!(!report.has_failures(), "{report}");
    f64::from(u32::try_from(counted).unwrap())
}

/// What one more consumer allocates for each event.
async fn an_event(copies: bool) -> f64 {
    const MORE: u32 = 10;
    let one = allocations(1, copies).await;
    let many = allocations(1 + MORE, copies).await;
    (many - one) / f64::from(MORE * EVENTS)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_on_its_way_to_one_more_consumer_is_not_allocated_again_r6() {
    let handed_over = an_event(false).await;
    // A batch has some to itself; an event has none.
    assert!(handed_over < 0.2, "{handed_over} allocations an event");

    let copied = an_event(true).await;
    assert!(
        copied > 0.9,
        "the control: a copy an event shows as {copied}"
    );
}
