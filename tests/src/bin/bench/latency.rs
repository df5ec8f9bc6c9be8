//! From a commit to the call of the handler.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use consumer::prelude::*;
use consumer::read_model::ReadModelDatabase;
use consumer::{Context, WorkerBuilder};
use consumer_tests::measuring::{Samples, in_turns, server};
use sqlx::{Postgres, Sqlite};

use crate::case::{Case, Target};
use crate::consumers::{RowsPostgres, RowsSqlite};
use crate::log::{Log, Measured};
use crate::plan::Plan;
use crate::rows::{Narrow, Row as _};

const BURSTS: &str = "commit to handler, bursts, median";
const BURSTS_LATE: &str = "commit to handler, bursts, p99";
const PAIRS: &str = "commit to handler, pairs, median";
const PAIRS_LATE: &str = "commit to handler, pairs, p99";

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    let mut cases = Vec::new();
    let statement = |worker: WorkerBuilder<Postgres>| worker.consumer(RowsPostgres);
    cases.extend(fold_beside("Postgres", plan, statement).await);
    let statement = |worker: WorkerBuilder<Sqlite>| worker.consumer(RowsSqlite);
    cases.extend(fold_beside("SQLite", plan, statement).await);
    cases.extend(to_handler(plan).await);
    cases
}

/// The time from the call of `append` until the worker has committed what it did with the event.
async fn fold_beside<DB: Measured + ReadModelDatabase>(
    database: &str,
    plan: &Plan,
    statement: impl Fn(WorkerBuilder<DB>) -> WorkerBuilder<DB>,
) -> Option<Case> {
    let name =
        format!("{database}, append to committed row, a fold beside one statement per event");
    if !plan.only.wants(&name) {
        return None;
    }
    let log = Log::<DB>::new(plan.scaled(1_000, 100)).await;
    let times = plan.scaled(200, 5);
    let samples = in_turns(
        plan.rounds,
        async || at_the_head(&log, times, |worker| worker.consumer(Narrow::counting())).await,
        async || at_the_head(&log, times, &statement).await,
    );
    // No worse, as far as the differences between rounds can tell.
    let target = Target::AtMost(1.1);
    Some(Case::compared(name, "ms", samples.await, "SQL", target))
}

/// Appends one event after the other, and returns the median of the times in milliseconds.
async fn at_the_head<DB: Measured>(
    log: &Log<DB>,
    times: usize,
    with: impl Fn(WorkerBuilder<DB>) -> WorkerBuilder<DB>,
) -> f64 {
    let store = &log.db.store;
    let worker = with(Worker::builder(store.clone())).build().unwrap();
    let handle = worker.handle();
    let running = tokio::spawn(worker.run(std::future::pending()));
    handle.caught_up().await.unwrap();
    let mut took = Vec::new();
    for number in 0..times {
        let id = format!("account-{}", number % 50);
        let event = NewEvent::new("Account", id, "Deposited", "{}");
        let start = Instant::now();
        let appended = store.append(ExpectedVersion::Any, &[event]).await.unwrap();
        handle
            .caught_up_to(appended[0].global_position)
            .await
            .unwrap();
        took.push(start.elapsed().as_secs_f64() * 1_000.0);
    }
    handle.shut_down();
    running.await.unwrap().unwrap();
    Samples::of(took).median()
}

async fn to_handler(plan: &Plan) -> Vec<Case> {
    if !plan.wants_any(&[BURSTS, BURSTS_LATE, PAIRS, PAIRS_LATE]) {
        return Vec::new();
    }
    let server = server();
    let database = server.database().await;
    database.store().await;
    let arrivals = Arc::<Mutex<Vec<(i64, Instant)>>>::default();
    // Two stores that know nothing of each other, as in two processes.
    let (reading, writing) = (
        PgEventStore::new(database.pool.clone()),
        PgEventStore::connect(&database.url)
            .await
            .unwrap()
            .notify(true),
    );
    let worker = Worker::builder(reading)
        .consumer(Arrivals(Arc::clone(&arrivals)))
        .listen()
        .build()
        .unwrap();
    let handle = worker.handle();
    let running = tokio::spawn(worker.run(std::future::pending()));
    handle.caught_up().await.unwrap();
    let mut shapes = [(10, Duration::ZERO), (2, Duration::from_millis(5))]
        .map(|shape| (shape, Samples::default(), Samples::default()));
    for _ in 0..plan.rounds {
        for ((burst, apart), median, late) in &mut shapes {
            let times = plan.scaled(100, 5);
            let samples = round(&writing, &handle, &arrivals, (times, *burst, *apart)).await;
            median.push(samples.median());
            late.push(samples.quantile(0.99));
        }
    }
    handle.shut_down();
    running.await.unwrap().unwrap();
    let [(_, bursts, bursts_late), (_, pairs, pairs_late)] = shapes;
    [
        (BURSTS, bursts, 2.0),
        (BURSTS_LATE, bursts_late, 10.0),
        (PAIRS, pairs, 2.0),
        (PAIRS_LATE, pairs_late, 10.0),
    ]
    .into_iter()
    .map(|(name, ours, at_most)| Case::of(name, "ms", ours, Target::AtMost(at_most)))
    .collect()
}

/// Commits `times` bursts with a pause after each, and says how long each event took, in
/// milliseconds.
async fn round(
    store: &PgEventStore,
    handle: &consumer::WorkerHandle<Postgres>,
    arrivals: &Mutex<Vec<(i64, Instant)>>,
    (times, burst, apart): (usize, usize, Duration),
) -> Samples {
    let mut commits = Vec::new();
    for number in 0..times {
        for _ in 0..burst {
            let event = NewEvent::new("Account", "latency", "Deposited", "{}");
            let mut tx = store.begin().await.unwrap();
            let stored = store
                .append_in(&mut tx, ExpectedVersion::Any, &[event])
                .await;
            tx.commit().await.unwrap();
            commits.push((stored.unwrap()[0].global_position, Instant::now()));
            if !apart.is_zero() {
                tokio::time::sleep(apart).await;
            }
        }
        // Another pause each time, so that no poll falls in step with it.
        tokio::time::sleep(Duration::from_millis(20 + (number as u64 * 7) % 40)).await;
    }
    let last = commits.last().map_or(0, |(position, _)| *position);
    handle.caught_up_to(last).await.unwrap();
    let arrived: std::collections::HashMap<i64, Instant> =
        std::mem::take(&mut *arrivals.lock().unwrap())
            .into_iter()
            .collect();
    Samples::of(commits.into_iter().map(|(position, committed)| {
        // A handler may run before the news of the commit is back.
        let took = arrived[&position].saturating_duration_since(committed);
        took.as_secs_f64() * 1_000.0
    }))
}

/// Notes when each event arrived.
struct Arrivals(Arc<Mutex<Vec<(i64, Instant)>>>);

impl Consumer<Postgres> for Arrivals {
    fn formerly(&self) -> consumer::Formerly {
        consumer::Formerly::None
    }

    fn name(&self) -> &'static str {
        "arrivals"
    }

    async fn handle(
        &self,
        _: &Context,
        _: &mut PgConnection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        let now = Instant::now();
        self.0.lock().unwrap().push((event.global_position, now));
        Ok(())
    }
}
