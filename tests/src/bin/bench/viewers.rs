//! What the dashboard costs a worker, and how long a page takes.

use std::time::{Duration, Instant};

use consumer::{Worker, WorkerBuilder};
use consumer_tests::Served;
use consumer_tests::http::HttpRequest;
use consumer_tests::measuring::{Samples, in_turns};
use sqlx::{Postgres, Sqlite};

use crate::case::{Case, Target};
use crate::consumers::{Nothing, Parks, SetsPostgres};
use crate::log::{Log, Measured};
use crate::plan::Plan;

const VIEWERS: &str = "with the dashboard open on ten screens";

/// The pages, their addresses, and the milliseconds that each may take.
///
/// Those that show consumers read the state of all, unless another viewer has just done so. A search reads 5,000
/// headers.
const PAGES: [(&str, &str, f64); 14] = [
    ("overview of 200 consumers, 1,000,000 events", "/", 500.0),
    (
        "page of a consumer among 200",
        "/consumers/page.003/1",
        500.0,
    ),
    ("page of processes, 200 consumers", "/processes", 500.0),
    (
        "page of 1,000 parked events",
        "/consumers/parks/1/parked",
        50.0,
    ),
    ("page of the latest events", "/events", 50.0),
    (
        "page of events among 1,000,000",
        "/events?before=500000",
        50.0,
    ),
    (
        "page of events of a rare type",
        "/events?type=Rare&before=500000",
        50.0,
    ),
    (
        "page of events of a frequent type",
        "/events?type=Account&after=500000",
        50.0,
    ),
    (
        "page of an aggregate's events",
        "/events?type=Account&id=account-7",
        50.0,
    ),
    (
        "page of a search by event type",
        "/events?event=Missing",
        50.0,
    ),
    (
        "page of a search by correlation",
        "/events?correlation=missing&before=500000",
        50.0,
    ),
    ("page of an event", "/events/1500", 500.0),
    (
        "page of an event in a consumer",
        "/events/1500?consumer=page.003",
        500.0,
    ),
    ("payload of an event", "/events/1500/payload", 50.0),
];

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    let mut cases = Vec::new();
    if plan.only.wants(VIEWERS) {
        cases.push(viewers(plan).await);
    }
    cases.extend(pages::<Postgres>("Postgres", plan).await);
    cases.extend(pages::<Sqlite>("SQLite", plan).await);
    cases
}

async fn viewers(plan: &Plan) -> Case {
    let log = Log::<Postgres>::new(plan.scaled(400_000, 2_000)).await;
    let alone = async || log.worker(|builder| builder.consumer(SetsPostgres)).await;
    let watched = async || {
        let builder = Worker::builder(log.db.store.clone()).consumer(SetsPostgres);
        let served = Served::read_only(builder).await;
        let open = (0..10).map(|_| tokio::spawn(window(served.address)));
        let open: Vec<_> = open.collect();
        let rate = alone().await;
        open.iter().for_each(tokio::task::JoinHandle::abort);
        rate
    };
    let compared = in_turns(plan.rounds, watched, alone).await;
    let target = Target::AtLeast(0.95);
    Case::compared(VIEWERS, "events/s", compared, "without", target)
}

/// What a window does: it waits for news, and loads the page again.
async fn window(address: std::net::SocketAddr) {
    let mut last = "0".to_owned();
    loop {
        let news = HttpRequest::get(address, "/live").header("last-event-id", &last);
        let news = news.send().await.text();
        if let Some((_, serial)) = news.split_once("data: ") {
            serial.trim().clone_into(&mut last);
        }
        HttpRequest::get(address, "/").send().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The time until a page is there, of a dashboard that no one has looked at before, for consumers that are far
/// behind, each at a checkpoint of its own.
async fn pages<DB: Measured>(database: &str, plan: &Plan) -> Vec<Case> {
    let named = PAGES.map(|(name, path, most)| (format!("{database}, {name}"), path, most));
    let wanted: Vec<_> = named
        .into_iter()
        .filter(|(name, ..)| plan.only.wants(name))
        .collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let log = Log::<DB>::new(plan.scaled(1_000_000, 2_000)).await;
    let consumers = plan.scaled(200, 5);
    let builder = || {
        let builder = Worker::builder(log.db.store.clone()).scoped_consumer(Parks);
        let names = (0..consumers).map(|index| format!("page.{index:03}"));
        names.fold(builder, |builder, name| {
            builder.consumer(Nothing::named(name))
        })
    };
    prepare(&log, &builder, consumers).await;
    let mut cases = Vec::new();
    for (name, path, most) in wanted {
        let mut times = Samples::default();
        for _ in 0..plan.rounds {
            let served = Served::read_only(builder()).await;
            times.push(millis(&served, path).await);
        }
        cases.push(Case::of(name, "ms", times, Target::AtMost(most)));
    }
    cases
}

/// Parks an event in a thousand, and gives each other consumer a checkpoint in the first half of the log.
async fn prepare<DB: Measured>(
    log: &Log<DB>,
    builder: &impl Fn() -> WorkerBuilder<DB>,
    consumers: usize,
) {
    let parking = Worker::builder(log.db.store.clone()).scoped_consumer(Parks);
    parking.build().unwrap().run_once().await.unwrap();
    let admin = builder().admin().unwrap();
    for one in admin.status().await.unwrap().consumers {
        admin.pause(&one.id).await.unwrap();
    }
    let half = log.events / 2;
    let spread = format!(
        "UPDATE consumer_progress SET position = CAST(substr(consumer, 6) AS BIGINT) * {half} / {consumers}
          WHERE consumer LIKE 'page.%'"
    );
    log.db.execute(&spread).await;
}

async fn millis(served: &Served, path: &str) -> f64 {
    let began = Instant::now();
    served.page(path).await;
    began.elapsed().as_secs_f64() * 1_000.0
}
