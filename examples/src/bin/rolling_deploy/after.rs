//! A rolling deploy, the release that comes: beside `users` it has the consumer `orders`, which
//! begins with the first event of the log.
//!
//! See `deploy_before`.

mod users;

use consumer::prelude::*;
use consumer::sqlx;

/// What was ordered.
struct Orders;

#[consumer(name = "orders", aggregates = ["Order"])]
impl Orders {
    async fn handle(
        &self,
        tx: &mut PgConnection,
        event: &PersistedEvent,
    ) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO orders (id) VALUES ($1)")
            .bind(&event.aggregate_id)
            .execute(tx)
            .await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    users::run(
        "CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY);
         CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY)",
    )
    .await
}
