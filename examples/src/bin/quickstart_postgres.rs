//! Declares three consumers, appends events and runs a worker, on Postgres.
//!
//! `DATABASE_URL=postgres://… cargo run -p consumer-examples --bin quickstart_postgres`. Run it again,
//! and the consumers continue where they stopped. The code is in `quickstart/app.rs`.

#[path = "quickstart/app.rs"]
mod app;

use anyhow::Context as _;
use consumer::prelude::*;
use consumer::sqlx;

type Database = sqlx::Postgres;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL")
        .context("`DATABASE_URL` is not set: write `postgres://user:password@host/database`")?;
    app::run(PgEventStore::connect(&url).await?).await
}
