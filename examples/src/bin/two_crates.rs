//! Runs the consumers of two crates in one program, on SQLite: those of `billing` and the one in this file.
//!
//! `cargo run -p consumer-examples --bin two_crates`. The database is `two_crates.db` in the current
//! directory, unless `DATABASE_URL` names another one.

use anyhow::ensure;
use billing::OrderPlaced;
use consumer::prelude::*;
use consumer::{consumers, sqlx};

/// A read model of the orders to ship.
struct Shipments;

#[consumer(name = "shop.shipments", aggregates = ["Order"])]
impl Shipments {
    #[on]
    async fn placed(
        &self,
        tx: &mut SqliteConnection,
        event: Envelope<'_, OrderPlaced>,
    ) -> sqlx::Result<()> {
        sqlx::query("INSERT INTO shipments (order_id) VALUES (?1)")
            .bind(&event.aggregate_id)
            .execute(tx)
            .await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite:two_crates.db".to_owned());
    let store = SqliteEventStore::connect(&url).await?;
    store.migrate().await?;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS shipments (order_id TEXT PRIMARY KEY)")
        .execute(store.pool())
        .await?;
    sqlx::raw_sql(billing::TABLES).execute(store.pool()).await?;

    let order = NewEvent::typed(&OrderPlaced { cents: 4200 })?.of(uuid::Uuid::new_v4().to_string());
    store.append(ExpectedVersion::NoStream, &[order]).await?;

    // `consumers!` links the crates that it names. With `discover()` alone, the linker would leave out
    // a crate that no path mentions, and its consumers with it.
    let report = Worker::builder(store)
        .discover_in(consumers![crate, billing])
        .build()?
        .run_once()
        .await?;
    print!("{report}");
    ensure!(
        !report.has_failures(),
        "a consumer did not handle everything"
    );
    Ok(())
}
