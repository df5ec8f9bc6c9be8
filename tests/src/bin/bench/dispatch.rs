//! The cost of finding the handler of an event, compared with calling it directly.

use std::hint::black_box;
use std::time::Instant;

use consumer::prelude::*;
use consumer::{ErasedConsumer, EventRecord};
use consumer_tests::measuring::in_turns;
use futures_util::FutureExt as _;
use sqlx::{Connection as _, Sqlite, SqliteConnection};

use crate::case::{Case, Target};
use crate::plan::Plan;

const DISPATCH: &str = "dispatch to a handler of its event, over a call";

/// Two handlers by the names of their events, and one for the rest: nothing is decoded, which
/// would cost many times what is measured.
struct Named;

#[consumer(name = "bench.named", aggregates = ["Account"])]
impl Named {
    #[on("Withdrawn")]
    async fn withdrawn(
        &self,
        tx: &mut SqliteConnection,
        event: &PersistedEvent,
    ) -> sqlx::Result<()> {
        black_box((tx, event.aggregate_version));
        Ok(())
    }

    #[on("Deposited")]
    async fn deposited(
        &self,
        tx: &mut SqliteConnection,
        event: &PersistedEvent,
    ) -> sqlx::Result<()> {
        black_box((tx, event.global_position));
        Ok(())
    }

    #[on(other)]
    async fn rest(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> sqlx::Result<()> {
        black_box((tx, event.event_version));
        Ok(())
    }
}

fn events() -> Vec<PersistedEvent> {
    (1..=1_000)
        .map(|position| {
            PersistedEvent::new(EventRecord {
                global_position: position,
                aggregate_type: "Account".into(),
                event_type: "Deposited".into(),
                ..EventRecord::default()
            })
        })
        .collect()
}

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    if !plan.only.wants(DISPATCH) {
        return Vec::new();
    }
    let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    let (events, cx) = (events(), Context::new("bench"));
    let batches = plan.scaled(10_000, 10);
    let connection = std::cell::RefCell::new(&mut connection);
    let (ours, direct) = in_turns(
        plan.rounds,
        async || by_the_worker(*connection.borrow_mut(), &cx, &events, batches),
        async || directly(*connection.borrow_mut(), &events, batches),
    )
    .await;
    vec![Case::of(
        DISPATCH,
        "ns per event",
        ours.minus(&direct),
        Target::AtMost(5.0),
    )]
}

/// Nanoseconds an event.
fn a_event(start: Instant, events: usize) -> f64 {
    start.elapsed().as_secs_f64() * 1e9 / events as f64
}

fn by_the_worker(
    tx: &mut SqliteConnection,
    cx: &Context,
    events: &[PersistedEvent],
    batches: usize,
) -> f64 {
    let consumer: &dyn ErasedConsumer<Sqlite> = black_box(&Named);
    let start = Instant::now();
    for _ in 0..batches {
        let batch = consumer.handle_batch(cx, tx, black_box(events));
        batch.now_or_never().expect("nothing to wait for").unwrap();
    }
    a_event(start, batches * events.len())
}

fn directly(tx: &mut SqliteConnection, events: &[PersistedEvent], batches: usize) -> f64 {
    let start = Instant::now();
    for _ in 0..batches {
        let batch = async {
            for event in black_box(events) {
                Named.deposited(tx, event).await.unwrap();
            }
        };
        batch.now_or_never().expect("nothing to wait for");
    }
    a_event(start, batches * events.len())
}
