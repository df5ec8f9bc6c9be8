//! Declares three consumers, appends events and runs a worker, on SQLite.
//!
//! `cargo run -p consumer-examples --bin quickstart`. Run it again, and the consumers continue where
//! they stopped. The database is `quickstart.db` in the current directory, unless `DATABASE_URL` names
//! another one. The code is in `quickstart/app.rs`.

#[path = "quickstart/app.rs"]
mod app;

use consumer::prelude::*;
use consumer::sqlx;

type Database = sqlx::Sqlite;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite:quickstart.db".to_owned());
    app::run(SqliteEventStore::connect(&url).await?).await
}
