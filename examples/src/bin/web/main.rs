//! A web application with its worker in the same process and an operator's tools in the same
//! binary, on SQLite.
//!
//! `cargo run -p consumer-examples --bin web -- serve`, then
//! `curl -d '{"id":"ada","email":"ada@example.com"}' -H 'content-type: application/json' localhost:3000/users`
//! and `curl localhost:3000/users/ada`. Probes are `/livez` and `/readyz`, Prometheus scrapes
//! `/metrics`. Beside it, `-- consumers status --watch` shows how the consumers stand, and
//! `-- consumers --help` the rest.

mod app;

use std::process::ExitCode;

use clap::Parser;
use consumer::cli::Cli;
use consumer::prelude::*;
use metrics_exporter_prometheus::PrometheusBuilder;

use self::app::{App, prepare, router};

/// A web application that registers users
#[derive(Parser)]
enum Program {
    /// Serves requests, and runs the consumers
    Serve {
        /// Where to listen
        #[arg(default_value = "127.0.0.1:3000")]
        address: String,
    },
    /// Registers some users, to have something to look at
    Seed {
        /// How many
        users: u32,
    },
    /// Runs and operates the consumers
    Consumers(Cli),
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let program = Program::parse();
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite:web.db".to_owned());
    let store = SqliteEventStore::connect(&url).await?;
    prepare(&store).await?;
    match program {
        Program::Serve { address } => serve(store, &address).await?,
        Program::Seed { users } => seed(&store, users).await?,
        Program::Consumers(cli) => return Ok(cli.run(Worker::builder(store).discover()).await),
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(store: SqliteEventStore, address: &str) -> anyhow::Result<()> {
    let metrics = PrometheusBuilder::new().install_recorder()?;
    let worker = Worker::builder(store.clone()).discover().build()?;
    let handle = worker.handle();
    let running = tokio::spawn(worker.run(std::future::pending()));

    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let app = App {
        store,
        worker: handle.clone(),
        metrics,
    };
    axum::serve(listener, router(app))
        .with_graceful_shutdown(shutdown_signal())
        .await?;
    // The requests in hand are answered: nobody waits for the worker any more.
    handle.shut_down();
    print!("{}", running.await??);
    Ok(())
}

async fn seed(store: &SqliteEventStore, users: u32) -> anyhow::Result<()> {
    let mut tx = store.begin().await?;
    for _ in 0..users {
        let id = uuid::Uuid::new_v4().to_string();
        let payload = serde_json::json!({"id": id, "email": format!("{id}@example.com")});
        let event = NewEvent::json("User", id.as_str(), "UserRegistered", &payload)?;
        store
            .append(&mut tx, ExpectedVersion::NoStream, &[event])
            .await?;
    }
    tx.commit().await?;
    Ok(())
}
