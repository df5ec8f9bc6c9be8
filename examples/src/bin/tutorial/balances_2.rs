//! The second version of the read model: it also counts the movements of each account.

use consumer::prelude::*;
use consumer::sqlx;

use crate::events::AccountEvent;

/// The table that version 2 writes. Version 1 still writes `balances`.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS balances_2 (
    account   TEXT PRIMARY KEY,
    owner     TEXT NOT NULL,
    cents     INTEGER NOT NULL,
    movements INTEGER NOT NULL
)";

/// What is in each account, and how often that changed.
pub(crate) struct Balances;

#[consumer(name = "balances", aggregates = [AccountEvent], version = 2)]
impl Balances {
    #[on]
    async fn changed(
        &self,
        tx: &mut SqliteConnection,
        event: Envelope<'_, AccountEvent>,
    ) -> sqlx::Result<()> {
        match &event.payload {
            AccountEvent::Opened { owner } => {
                sqlx::query("INSERT INTO balances_2 VALUES (?1, ?2, 0, 0)")
                    .bind(&event.aggregate_id)
                    .bind(owner)
                    .execute(tx)
                    .await?;
                Ok(())
            }
            AccountEvent::Deposited { cents } => add(tx, &event.aggregate_id, *cents).await,
            AccountEvent::Withdrawn { cents } => add(tx, &event.aggregate_id, -cents).await,
        }
    }

    #[on(reset)]
    async fn reset(&self, tx: &mut SqliteConnection) -> sqlx::Result<()> {
        sqlx::query("DELETE FROM balances_2").execute(tx).await?;
        Ok(())
    }
}

async fn add(tx: &mut SqliteConnection, account: &str, cents: i64) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE balances_2 SET cents = cents + ?2, movements = movements + 1 WHERE account = ?1",
    )
    .bind(account)
    .bind(cents)
    .execute(tx)
    .await?;
    Ok(())
}

pub(crate) async fn create_table(store: &SqliteEventStore) -> sqlx::Result<()> {
    sqlx::raw_sql(TABLE).execute(store.pool()).await?;
    Ok(())
}

/// Prints the read model, a line for each account.
pub(crate) async fn print(store: &SqliteEventStore) -> sqlx::Result<()> {
    let balances: Vec<(String, String, i64, i64)> =
        sqlx::query_as("SELECT account, owner, cents, movements FROM balances_2 ORDER BY account")
            .fetch_all(store.pool())
            .await?;
    for (account, owner, cents, movements) in balances {
        println!("{account} {owner} {cents} in {movements} movements");
    }
    Ok(())
}
