//! A program that has mounted the operator's tools beside a command of its own, for tests of what
//! only a process shows: terminals, signals, closed readers, completions.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

use clap::{CommandFactory as _, Parser};
use consumer::cli::Cli;
use consumer::{EventStore, Settings, Worker, WorkerBuilder};
use consumer_tests::{Filling, TestDatabase, batch_consumer};
use sqlx::pool::PoolOptions;
use sqlx::{Postgres, Sqlite};
use tokio::time::{Duration, Instant, sleep_until};

/// A program with consumers.
#[derive(Parser)]
#[command(name = "web")]
enum App {
    /// Serves the web site
    Serve,
    /// Runs and operates the consumers
    Consumers(Cli),
}

#[tokio::main]
async fn main() -> ExitCode {
    let App::Consumers(cli) = App::parse() else {
        return ExitCode::SUCCESS;
    };
    if std::env::var_os("TEST_WHOLE_PROGRAM").is_some() && cli.completes(&mut App::command()) {
        return ExitCode::SUCCESS;
    }
    let url = std::env::var("TEST_OPERATOR_URL").unwrap_or_else(|_| "sqlite::memory:".to_owned());
    if let Ok(filling) = std::env::var("TEST_FILLING") {
        let filling = Filling::named(&filling).expect("a filling");
        let store = EventStore::<Sqlite>::connect(&url).await.expect("connect");
        return cli.run(filling.builder(store)).await;
    }
    if url.starts_with("postgres") {
        cli.run(builder::<Postgres>(&url).await).await
    } else {
        cli.run(builder::<Sqlite>(&url).await).await
    }
}

/// The store of a program that connects when a statement needs it.
fn store<DB: TestDatabase>(url: &str, timeout: Duration) -> EventStore<DB> {
    let options = PoolOptions::<DB>::new().acquire_timeout(timeout);
    EventStore::new(options.connect_lazy(url).expect("a URL"))
}

async fn builder<DB: TestDatabase>(url: &str) -> WorkerBuilder<DB> {
    let store = match std::env::var("TEST_LAZY") {
        Ok(seconds) => store(url, Duration::from_secs(seconds.parse().expect("seconds"))),
        Err(_) => EventStore::<DB>::connect(url).await.expect("connect"),
    };
    let pause = std::env::var("TEST_BATCH_MILLIS").ok();
    let pause = Duration::from_millis(pause.and_then(|text| text.parse().ok()).unwrap_or(0));
    // By the clock, and not one pause after the other: what else takes time is made up for, so that
    // a busy machine does not change the pace.
    let (began, batches) = (Instant::now(), AtomicU32::new(0));
    let tally = batch_consumer("tally", move |_, tx: &mut DB::Connection, events| {
        let ends = began + pause * (batches.fetch_add(1, Ordering::Relaxed) + 1);
        let add = format!("UPDATE tally SET events = events + {}", events.len());
        Box::pin(async move {
            sleep_until(ends).await;
            let added = DB::execute_sql(tx, &add).await;
            added.map_err(|error| consumer::BatchError::within(0, events.len(), error))?;
            Ok(events.len())
        })
    });
    let settings = Settings::default().batch_size(10_000);
    Worker::builder(store).consumer(tally.settings(settings))
}
