//! A web application with its worker in the same process and the operator's commands in the same binary, on
//! SQLite.
//!
//! `cargo run -p consumer-examples --features services --bin web -- serve`, then
//! `curl -d '{"id":"ada","email":"ada@example.com"}' -H 'content-type: application/json' localhost:3000/users`
//! and `curl localhost:3000/users/ada`. The probes are `/livez` and `/readyz`, Prometheus scrapes
//! `/metrics`, and `http://localhost:3000/ops` shows the consumers in a browser. In another terminal, `-- consumers status --watch` shows the state of the consumers, and
//! `-- consumers --help` lists the other commands.

mod app;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{CommandFactory as _, Parser};
use consumer::cli::Cli;
use consumer::prelude::*;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use self::app::{App, prepare, router};

/// A web application that registers users
#[derive(Parser)]
enum Program {
    /// Serve requests, and run the consumers
    Serve {
        /// Address to listen on
        #[arg(default_value = "127.0.0.1:3000")]
        address: String,
    },
    /// Register some users, as sample data
    Seed {
        /// Number of users
        users: u32,
    },
    /// Run and operate the consumers
    Consumers(Cli),
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let program = Program::parse();
    if let Program::Consumers(cli) = &program
        && cli.completes(&mut Program::command())
    {
        return Ok(ExitCode::SUCCESS);
    }
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite:web.db".to_owned());
    let store = SqliteEventStore::connect(&url).await?;
    match program {
        Program::Serve { address } => {
            prepare(&store).await?;
            serve(store, &address).await?;
        }
        Program::Seed { users } => {
            prepare(&store).await?;
            seed(&store, users).await?;
        }
        // The commands create no tables unless asked to: `migrate --print` only prints.
        Program::Consumers(cli) => return Ok(cli.run(Worker::builder(store).discover()).await),
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(store: SqliteEventStore, address: &str) -> anyhow::Result<()> {
    let metrics = PrometheusBuilder::new().install_recorder()?;
    tokio::spawn(keep_up(metrics.clone()));
    let admin = Worker::builder(store.clone()).discover().admin()?;
    let worker = Worker::builder(store.clone()).discover().build()?;
    let handle = worker.handle();
    let mut running = tokio::spawn(worker.run(std::future::pending()));

    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let app = App {
        store,
        worker: handle.clone(),
        metrics,
    };
    let serving =
        axum::serve(listener, router(app, admin)).with_graceful_shutdown(shutdown_signal());
    tokio::select! {
        served = serving => served?,
        // Better restarted than served with read models that no longer change.
        ended = &mut running => bail!("the worker ended without being asked: {}", ended??),
    }
    // All requests are answered, so none waits for the worker any more.
    handle.shut_down();
    print!("{}", running.await??);
    Ok(())
}

/// Aggregates the samples of histograms, which would otherwise accumulate in memory until the next
/// scrape.
async fn keep_up(metrics: PrometheusHandle) {
    let mut interval = tokio::time::interval(Duration::from_secs(5));
    loop {
        interval.tick().await;
        metrics.run_upkeep();
    }
}

async fn seed(store: &SqliteEventStore, users: u32) -> anyhow::Result<()> {
    let mut tx = store.begin().await?;
    for _ in 0..users {
        let id = uuid::Uuid::new_v4().to_string();
        let payload = serde_json::json!({"id": id, "email": format!("{id}@example.com")});
        let event = NewEvent::json("User", id.as_str(), "UserRegistered", &payload)?;
        store
            .append_in(&mut tx, ExpectedVersion::NoStream, &[event])
            .await?;
    }
    tx.commit().await?;
    Ok(())
}
