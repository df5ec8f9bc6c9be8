//! The round trips of a batch, as a proxy counts them, and the statements of an idle worker, as the
//! server counts them.

use std::time::Duration;

use consumer::Worker;
use consumer_tests::Delay;
use consumer_tests::measuring::{Samples, server};
use sqlx::{PgPool, Postgres};

use crate::case::{Case, Target};
use crate::consumers::Nothing;
use crate::log::Log;
use crate::plan::Plan;
use crate::segments::through;

const BATCH: &str = "round trips per batch of 500, no-op handler";
const LARGE: &str = "round trips per batch of 1,000, no-op handler";
const WORKER: &str = "statements per second, idle worker";
const CONSUMER: &str = "statements per second, one more idle consumer";

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    if !plan.wants_any(&[BATCH, LARGE, WORKER, CONSUMER]) {
        return Vec::new();
    }
    let log = Log::<Postgres>::new(plan.scaled(200_000, 3_000)).await;
    let Some(counter) = Counter::new(&log).await else {
        panic!("the server does not count its statements: it has no `pg_stat_statements`");
    };
    let usual = a_batch(&log, 500).await;
    let large = a_batch(&log, 1_000).await;
    let one = idle(plan, &log, &counter, 1).await;
    let fifty = idle(plan, &log, &counter, 50).await;
    [
        (BATCH, "round trips", usual, Target::AtMost(5.0)),
        (LARGE, "round trips", large, Target::AtMost(5.0)),
        (WORKER, "statements/second", one, Target::None),
        (
            CONSUMER,
            "statements/second",
            (fifty - one) / 49.0,
            Target::AtMost(0.05),
        ),
    ]
    .into_iter()
    .map(|(name, unit, value, target)| Case::of(name, unit, Samples::of([value]), target))
    .collect()
}

/// The round trips per batch of catching up in batches of that size: all that the worker makes, including its
/// reads, its start and its end.
async fn a_batch(log: &Log<Postgres>, size: u32) -> f64 {
    let network = Delay::before(server().port(), Duration::ZERO).await;
    let store = through(log, &network).await;
    let before = network.round_trips();
    let builder = Worker::builder(store).consumer(Nothing::named("counted"));
    log.catch_up(builder.configure_all(move |settings| settings.batch_size(size)))
        .await;
    let round_trips = network.round_trips() - before;
    round_trips as f64 / (log.events as f64 / f64::from(size)).ceil()
}

/// The statements per second of a worker that has nothing to do.
async fn idle(plan: &Plan, log: &Log<Postgres>, counter: &Counter, consumers: usize) -> f64 {
    let mut builder = Worker::builder(log.db.store.clone());
    for number in 0..consumers {
        builder = builder.consumer(Nothing::named(format!("idle.{number}")));
    }
    let worker = builder.build().unwrap();
    let handle = worker.handle();
    let running = tokio::spawn(worker.run(std::future::pending()));
    handle.caught_up().await.unwrap();
    // By then the pauses between polls have their full length.
    tokio::time::sleep(Duration::from_secs(1)).await;
    counter.forget().await;
    let watched = plan.scaled(10, 1);
    tokio::time::sleep(Duration::from_secs(watched as u64)).await;
    let counted = counter.statements().await;
    handle.shut_down();
    running.await.unwrap().unwrap();
    counted / watched as f64
}

/// The server's count of statements, over a connection of its own: a worker with many consumers
/// takes all of its pool.
struct Counter(PgPool);

impl Counter {
    /// `None` where the server does not count.
    async fn new(log: &Log<Postgres>) -> Option<Self> {
        const LOADED: &str =
            "SELECT current_setting('shared_preload_libraries') LIKE '%pg_stat_statements%'";
        let pool = PgPool::connect(&log.db.url).await.unwrap();
        let is_loaded: bool = sqlx::query_scalar(LOADED).fetch_one(&pool).await.unwrap();
        if !is_loaded {
            return None;
        }
        let extension = sqlx::raw_sql("CREATE EXTENSION pg_stat_statements");
        extension.execute(&pool).await.unwrap();
        Some(Self(pool))
    }

    async fn forget(&self) {
        let reset = sqlx::query("SELECT pg_stat_statements_reset()");
        reset.execute(&self.0).await.unwrap();
    }

    async fn statements(&self) -> f64 {
        let count: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
              WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND query NOT LIKE '%pg_stat_statements%'",
        )
        .fetch_one(&self.0)
        .await
        .unwrap();
        count as f64
    }
}
