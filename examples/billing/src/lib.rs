//! The other crate of the program `two_crates`: its events, a consumer, and the table that it writes.
//!
//! The consumer is private. The program runs it without naming or calling it.

use consumer::prelude::*;
use consumer::sqlx;
use serde::{Deserialize, Serialize};

/// The table of the read model, which the program creates.
pub const TABLES: &str =
    "CREATE TABLE IF NOT EXISTS invoices (order_id TEXT PRIMARY KEY, cents INTEGER NOT NULL)";

/// An order was placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(aggregate = "Order")]
pub struct OrderPlaced {
    /// The price.
    pub cents: i64,
}

struct Invoices;

#[consumer(name = "billing.invoices", aggregates = ["Order"])]
impl Invoices {
    #[on]
    async fn placed(
        &self,
        tx: &mut SqliteConnection,
        event: Envelope<'_, OrderPlaced>,
    ) -> sqlx::Result<()> {
        sqlx::query("INSERT INTO invoices (order_id, cents) VALUES (?1, ?2)")
            .bind(&event.aggregate_id)
            .bind(event.payload.cents)
            .execute(tx)
            .await?;
        Ok(())
    }
}
