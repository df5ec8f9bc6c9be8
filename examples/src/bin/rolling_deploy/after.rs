//! The new release of a rolling deploy: besides `users`, it has the consumer `orders`, which starts at the
//! first event of the log.
//!
//! The program `deploy_before` says how to run both.

mod users;

use consumer::prelude::*;
use consumer::sqlx;

/// A read model of orders.
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
