//! Consumers of two crates in one program, on SQLite: those of `billing` and those of this file.
//!
//! `cargo run -p consumer-examples --bin two_crates`, and again to see that it goes on where it
//! stopped. The database is `two_crates.db`, or what `DATABASE_URL` names.

use anyhow::ensure;
use billing::OrderPlaced;
use consumer::prelude::*;
use consumer::{consumers, sqlx};

/// What is to be sent.
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

    // Naming the crates links them. With `discover()` alone a crate that no path mentions would be
    // left out by the linker, and its consumers with it.
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
