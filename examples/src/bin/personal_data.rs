//! Encrypts personal data in events, destroys a key, and redacts an event, on SQLite in memory.
//!
//! `cargo run -p consumer-examples --features encryption --bin personal_data`. The code is in
//! `personal_data/app.rs`, which the guide `personal_data` explains.

#[path = "personal_data/app.rs"]
mod app;

use consumer::prelude::*;
use consumer::sqlx;

type Database = sqlx::Sqlite;

const BYTES_TYPE: &str = "BLOB";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    app::run(SqliteEventStore::connect("sqlite::memory:").await?).await
}
