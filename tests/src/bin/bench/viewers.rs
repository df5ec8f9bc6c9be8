//! What the dashboard costs a worker, and how long a page takes.

use std::time::{Duration, Instant};

use consumer::{Worker, WorkerBuilder};
use consumer_tests::Served;
use consumer_tests::http::HttpRequest;
use consumer_tests::measuring::{Samples, in_turns};
use sqlx::Postgres;

use crate::case::{Case, Target};
use crate::consumers::{Nothing, SetsPostgres};
use crate::log::Log;
use crate::plan::Plan;

const VIEWERS: &str = "with the dashboard open on ten screens";
const PAGE: &str = "overview of 200 consumers, 1,000,000 events";
const BROWSING: &str = "page of events among 1,000,000";

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    let mut cases = Vec::new();
    if plan.only.wants(VIEWERS) {
        cases.push(viewers(plan).await);
    }
    if plan.wants_any(&[PAGE, BROWSING]) {
        cases.extend(pages(plan).await);
    }
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

/// The time until a page is there, in milliseconds, for consumers that are all far behind in scopes of
/// their own, which no two can share.
async fn pages(plan: &Plan) -> Vec<Case> {
    let log = Log::<Postgres>::new(plan.scaled(1_000_000, 2_000)).await;
    let builder = || {
        let mut builder = Worker::builder(log.db.store.clone());
        for index in 0..plan.scaled(200, 5) {
            builder = builder.consumer(Nothing::named(format!("page.{index:03}")));
        }
        builder
    };
    spread(&log, builder()).await;
    let mut times = Samples::default();
    let mut browsing = Samples::default();
    for _ in 0..plan.rounds {
        // A new dashboard has no state from before.
        let served = Served::read_only(builder()).await;
        times.push(millis(&served, "/").await);
        browsing.push(millis(&served, "/events?before=500000").await);
    }
    vec![
        Case::of(PAGE, "ms", times, Target::AtMost(500.0)),
        Case::of(BROWSING, "ms", browsing, Target::AtMost(50.0)),
    ]
}

/// Gives each consumer a checkpoint of its own in the first half of the log.
async fn spread(log: &Log<Postgres>, builder: WorkerBuilder<Postgres>) {
    let admin = builder.admin().unwrap();
    for one in admin.status().await.unwrap().consumers {
        admin.pause(&one.id).await.unwrap();
    }
    let half = log.events / 2;
    let spread = format!(
        "UPDATE consumer_progress SET position = hashtext(consumer)::bigint & 1073741823;
         UPDATE consumer_progress SET position = position % {half}"
    );
    log.db.execute(&spread).await;
}

async fn millis(served: &Served, path: &str) -> f64 {
    let began = Instant::now();
    served.page(path).await;
    began.elapsed().as_secs_f64() * 1_000.0
}
