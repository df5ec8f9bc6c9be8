//! Encrypts personal data in events, destroys a key, and redacts an event, on an empty Postgres database.
//!
//! `DATABASE_URL=postgres://… cargo run -p consumer-examples --features encryption --bin
//! personal_data_postgres`. The code is in `personal_data/app.rs`, which the guide `personal_data` explains.

#[path = "personal_data/app.rs"]
mod app;

use anyhow::Context as _;
use consumer::prelude::*;
use consumer::sqlx;

type Database = sqlx::Postgres;

const BYTES_TYPE: &str = "BYTEA";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL")
        .context("`DATABASE_URL` is not set: write `postgres://user:password@host/database`")?;
    app::run(PgEventStore::connect(&url).await?).await
}
