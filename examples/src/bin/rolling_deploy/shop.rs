//! The command line that both releases have.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use consumer::cli::Cli;
use consumer::prelude::*;
use consumer::sqlx;

/// A shop
#[derive(Parser)]
enum Program {
    /// Appends the events of a new order
    Order { id: String },
    /// Prints what each order is worth
    Totals,
    /// Runs and operates the consumers
    Consumers(Cli),
}

/// Runs the command of the command line; `events` are those of an order in this release.
pub(crate) async fn run<E: Event>(events: &[E]) -> anyhow::Result<ExitCode> {
    let program = Program::parse();
    let url = std::env::var("DATABASE_URL")
        .context("`DATABASE_URL` is not set: write `postgres://user:password@host/database`")?;
    let store = PgEventStore::connect(&url).await?;
    store.migrate().await?;
    match program {
        Program::Order { id } => {
            let mut tx = store.begin().await?;
            store
                .append_typed(&mut tx, &id, ExpectedVersion::NoStream, events)
                .await?;
            tx.commit().await?;
        }
        Program::Totals => print_totals(&store).await?,
        Program::Consumers(cli) => return Ok(cli.run(Worker::builder(store).discover()).await),
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the active version, whichever it is.
async fn print_totals(store: &PgEventStore) -> sqlx::Result<()> {
    let totals: Vec<(String, i64)> = sqlx::query_as("SELECT id, cents FROM totals ORDER BY id")
        .fetch_all(store.pool())
        .await?;
    for (id, cents) in totals {
        println!("{id} {cents}");
    }
    Ok(())
}
