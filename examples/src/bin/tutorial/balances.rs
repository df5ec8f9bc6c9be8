//! The read model of the tutorial's bank.

use consumer::prelude::*;
use consumer::sqlx;

use crate::events::AccountEvent;

/// The table that the consumer writes.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS balances (
    account TEXT PRIMARY KEY,
    owner   TEXT NOT NULL,
    cents   INTEGER NOT NULL
)";

/// What is in each account.
pub(crate) struct Balances;

#[consumer(name = "balances", aggregates = [AccountEvent])]
impl Balances {
    #[on]
    async fn changed(
        &self,
        tx: &mut SqliteConnection,
        event: Envelope<'_, AccountEvent>,
    ) -> sqlx::Result<()> {
        match &event.payload {
            AccountEvent::Opened { owner } => {
                sqlx::query("INSERT INTO balances (account, owner, cents) VALUES (?1, ?2, 0)")
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
        sqlx::query("DELETE FROM balances").execute(tx).await?;
        Ok(())
    }
}

async fn add(tx: &mut SqliteConnection, account: &str, cents: i64) -> sqlx::Result<()> {
    sqlx::query("UPDATE balances SET cents = cents + ?2 WHERE account = ?1")
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
    let balances: Vec<(String, String, i64)> =
        sqlx::query_as("SELECT account, owner, cents FROM balances ORDER BY account")
            .fetch_all(store.pool())
            .await?;
    for (account, owner, cents) in balances {
        println!("{account} {owner} {cents}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use consumer::prelude::*;
    use consumer::sqlx;
    use consumer::testing::ConsumerTest;

    use super::{Balances, TABLE};
    use crate::events::AccountEvent;

    type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

    async fn balance(test: &mut ConsumerTest<sqlx::Sqlite>) -> sqlx::Result<i64> {
        sqlx::query_scalar("SELECT cents FROM balances WHERE account = 'acc-1'")
            .fetch_one(test.connection())
            .await
    }

    async fn with_an_account_of_700_cents() -> Result<ConsumerTest<sqlx::Sqlite>> {
        let mut test = ConsumerTest::sqlite(Balances).await?;
        test.execute(TABLE).await?;
        let owner = "Ada".to_owned();
        test.given(NewEvent::typed(&AccountEvent::Opened { owner })?.of("acc-1"));
        test.given(NewEvent::typed(&AccountEvent::Deposited { cents: 1000 })?.of("acc-1"));
        test.given(NewEvent::typed(&AccountEvent::Withdrawn { cents: 300 })?.of("acc-1"));
        Ok(test)
    }

    #[tokio::test]
    async fn a_balance_is_deposits_minus_withdrawals() -> Result {
        let mut test = with_an_account_of_700_cents().await?;
        test.when().await?;
        assert_eq!(balance(&mut test).await?, 700);
        Ok(())
    }

    #[tokio::test]
    async fn an_amount_counts_once_whatever_fails() -> Result {
        let mut test = with_an_account_of_700_cents().await?;
        test.crash_before_commit().await?;
        let mut write = 1;
        while test.fail_at_write(write).await? {
            write += 1;
        }
        test.when().await?;
        assert_eq!(balance(&mut test).await?, 700);
        Ok(())
    }

    #[tokio::test]
    async fn a_rebuild_arrives_at_the_same_balance() -> Result {
        let mut test = with_an_account_of_700_cents().await?;
        test.when().await?;
        test.reset().await?;
        test.when().await?;
        assert_eq!(balance(&mut test).await?, 700);
        Ok(())
    }
}
