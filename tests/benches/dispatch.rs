//! The cost of handing events to handlers: `cargo bench -p consumer-tests --bench dispatch`.

use std::hint::black_box;

use consumer::columns::{column, json_rows, last_of_each};
use consumer::prelude::*;
use consumer::{ErasedConsumer, EventRecord};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, Sqlite};

const EVENTS: i64 = 1_000;

#[derive(Serialize, Deserialize, Event)]
#[event(aggregate = "Account")]
struct Deposited {}

#[derive(Serialize, Deserialize, Event)]
#[event(aggregate = "Account")]
struct Withdrawn {}

struct Every;

#[consumer(name = "bench.every")]
impl Every {
    async fn handle(&self, _tx: &mut SqliteConnection, event: &PersistedEvent) -> sqlx::Result<()> {
        black_box(event.global_position);
        Ok(())
    }
}

struct Typed;

#[consumer(name = "bench.typed", aggregates = ["Account"])]
impl Typed {
    #[on]
    async fn withdrawn(
        &self,
        _tx: &mut SqliteConnection,
        event: Envelope<'_, Withdrawn>,
    ) -> sqlx::Result<()> {
        black_box(event.global_position);
        Ok(())
    }

    #[on]
    async fn deposited(
        &self,
        _tx: &mut SqliteConnection,
        event: Envelope<'_, Deposited>,
    ) -> sqlx::Result<()> {
        black_box(event.global_position);
        Ok(())
    }
}

fn events() -> Vec<PersistedEvent> {
    (1..=EVENTS)
        .map(|position| {
            PersistedEvent::new(EventRecord {
                global_position: position,
                aggregate_type: "Account".into(),
                aggregate_id: format!("account-{}", position % 100),
                event_type: "Deposited".into(),
                payload: "{}".into(),
                ..EventRecord::default()
            })
        })
        .collect()
}

/// The same work as by the handlers, called directly.
async fn direct(tx: &mut SqliteConnection, events: &[PersistedEvent], decodes: bool) {
    for event in events {
        if decodes {
            let payload = Deposited::decode(event).unwrap();
            let event = Envelope {
                payload,
                record: event,
            };
            Typed.deposited(tx, event).await.unwrap();
        } else {
            Every.handle(tx, event).await.unwrap();
        }
    }
}

fn dispatch(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut tx = runtime
        .block_on(SqliteConnection::connect("sqlite::memory:"))
        .unwrap();
    let (events, cx) = (events(), Context::new("bench"));
    let mut group = criterion.benchmark_group("dispatch");
    group.throughput(Throughput::Elements(EVENTS.unsigned_abs()));
    for (name, consumer) in [
        ("every event", &Every as &dyn ErasedConsumer<Sqlite>),
        ("typed", &Typed),
    ] {
        group.bench_function(BenchmarkId::new(name, "by the worker"), |bench| {
            bench.iter(|| {
                let batch = consumer.handle_batch(&cx, &mut tx, &events);
                batch.now_or_never().expect("nothing to wait for").unwrap()
            });
        });
        group.bench_function(BenchmarkId::new(name, "directly"), |bench| {
            bench.iter(|| {
                direct(&mut tx, &events, name == "typed")
                    .now_or_never()
                    .expect("nothing to wait for");
            });
        });
    }
    group.finish();
}

fn columns(criterion: &mut Criterion) {
    let events = events();
    let mut group = criterion.benchmark_group("columns");
    group.throughput(Throughput::Elements(EVENTS.unsigned_abs()));
    group.bench_function("column", |bench| {
        bench.iter(|| column(&events, |event| &*event.aggregate_id));
    });
    group.bench_function("last_of_each", |bench| {
        bench.iter(|| last_of_each(&events, |event| &event.aggregate_id));
    });
    group.bench_function("json_rows", |bench| {
        bench.iter(|| {
            json_rows(&events, |event| {
                (&event.aggregate_id, event.global_position)
            })
        });
    });
    group.finish();
}

criterion_group!(benches, dispatch, columns);
criterion_main!(benches);
