//! Maintains a table without SQL, and rebuilds it with another column beside the live version, on SQLite.
//!
//! `cargo run -p consumer-examples --bin read_model`. The database is `read_model.db` in the current
//! directory, unless `DATABASE_URL` names another one. The code is in `read_model/app.rs`.

#[path = "read_model/app.rs"]
mod app;
#[path = "read_model/first.rs"]
mod first;
#[path = "read_model/second.rs"]
mod second;

use consumer::prelude::*;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite:read_model.db".to_owned());
    app::run(SqliteEventStore::connect(&url).await?).await
}
