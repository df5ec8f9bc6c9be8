//! One consumer as eight lanes, where each statement is a way through a slow network.

use std::time::Duration;

use consumer::{PgEventStore, Worker};
use consumer_tests::Delay;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::consumers::RowsPostgres;
use crate::data::{check, reset_postgres};
use crate::measure::{Case, Target, in_turns, rate, server, timed};
use crate::plan::Plan;
use crate::postgres::Bench;

const SEGMENTS: &str = "8 segments beside 1, network 1 ms slower";

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    if !plan.only.wants(SEGMENTS) {
        return Vec::new();
    }
    let server = server();
    let bench = Bench::new(server, plan.scaled(5_000, 500)).await;
    let network = Delay::before(server.port(), Duration::from_millis(1)).await;
    let options = bench.database.url.parse::<PgConnectOptions>().unwrap();
    // A lane takes a connection, and the rest of the program keeps some.
    let pool = PgPoolOptions::new()
        .max_connections(20)
        .connect_with(options.host("127.0.0.1").port(network.port()))
        .await
        .unwrap();
    let store = PgEventStore::new(pool);
    let (eight, one) = in_turns(
        plan.rounds.min(3),
        async || catch_up(&bench, &store, 8).await,
        async || catch_up(&bench, &store, 1).await,
    )
    .await;
    let case = Case {
        name: SEGMENTS,
        unit: "events/s",
        ours: eight,
        other: Some(("1 segment".into(), one)),
        target: Target::AtLeast(5.0),
    };
    case.print();
    vec![case]
}

async fn catch_up(bench: &Bench, through: &PgEventStore, segments: u32) -> f64 {
    reset_postgres(&bench.store).await;
    let worker = Worker::builder(through.clone())
        .consumer(RowsPostgres)
        .configure_all(move |settings| settings.segments(segments))
        .build()
        .unwrap();
    let time = timed(async {
        let report = worker.run_once().await.unwrap();
        assert!(!report.has_failures(), "{report}");
    });
    let rate = rate(bench.events, time.await);
    check(bench.store.pool(), bench.events).await;
    rate
}
