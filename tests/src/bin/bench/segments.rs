//! One consumer as eight lanes, where each statement is a way through a slow network.

use std::time::Duration;

use consumer::{PgEventStore, Worker};
use consumer_tests::Delay;
use consumer_tests::measuring::{in_turns, server};
use sqlx::Postgres;

use crate::case::{Case, Target};
use crate::consumers::RowsPostgres;
use crate::log::Log;
use crate::plan::Plan;

const SEGMENTS: &str = "8 segments beside 1, network 1 ms slower";

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    if !plan.only.wants(SEGMENTS) {
        return Vec::new();
    }
    let log = Log::<Postgres>::new(plan.scaled(5_000, 500)).await;
    let network = Delay::before(server().port(), Duration::from_millis(1)).await;
    let store = through(&log, &network).await;
    let (eight, one) = in_turns(
        plan.rounds.min(3),
        async || catch_up(&log, &store, 8).await,
        async || catch_up(&log, &store, 1).await,
    )
    .await;
    vec![Case::compared(
        SEGMENTS,
        "events/s",
        (eight, one),
        "1 segment",
        Target::AtLeast(5.0),
    )]
}

/// The log on the other side of a network.
pub(crate) async fn through(log: &Log<Postgres>, network: &Delay) -> PgEventStore {
    let connected = PgEventStore::connect(&network.url(&log.db.url)).await;
    connected.unwrap()
}

async fn catch_up(log: &Log<Postgres>, through: &PgEventStore, segments: u32) -> f64 {
    let worker = Worker::builder(through.clone()).consumer(RowsPostgres);
    let worker = worker.configure_all(move |settings| settings.segments(segments));
    let rate = log.catch_up(worker).await;
    log.check().await;
    rate
}
