//! Maintains a table without SQL, and rebuilds it with another column beside the live version, on Postgres.
//!
//! `DATABASE_URL=postgres://… cargo run -p consumer-examples --bin read_model_postgres`. The code is in
//! `read_model/app.rs`.

#[path = "read_model/app.rs"]
mod app;
#[path = "read_model/first.rs"]
mod first;
#[path = "read_model/second.rs"]
mod second;

use anyhow::Context as _;
use consumer::prelude::*;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL")
        .context("`DATABASE_URL` is not set: write `postgres://user:password@host/database`")?;
    app::run(PgEventStore::connect(&url).await?).await
}
