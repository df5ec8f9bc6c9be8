//! The read model of the tutorial's bank.

use consumer::prelude::*;
use consumer::sqlx;

use crate::events::AccountEvent;

/// What is in an account: a row of the table `balances`.
#[derive(Debug, ReadModel)]
#[read_model(table = "balances")]
pub(crate) struct Balance {
    #[read_model(key)]
    account: String,
    owner: String,
    cents: i64,
}

/// Maintains the balances.
pub(crate) struct Balances;

#[consumer(name = "balances", aggregates = [AccountEvent], read_model = Balance)]
impl Balances {
    #[on]
    fn changed(balance: &mut Option<Balance>, event: Envelope<'_, AccountEvent>) {
        let account = event.aggregate_id.clone();
        match (event.payload, balance) {
            (AccountEvent::Opened { owner }, balance) => {
                let cents = 0;
                *balance = Some(Balance {
                    account,
                    owner,
                    cents,
                });
            }
            (AccountEvent::Deposited { cents }, Some(balance)) => balance.cents += cents,
            (AccountEvent::Withdrawn { cents }, Some(balance)) => balance.cents -= cents,
            // There is no account.
            (_, None) => {}
        }
    }
}

/// Prints the read model, a line for each account.
pub(crate) async fn print(store: &SqliteEventStore) -> sqlx::Result<()> {
    let balances: Vec<Balance> =
        sqlx::query_as("SELECT account, owner, cents FROM balances ORDER BY account")
            .fetch_all(store.pool())
            .await?;
    for balance in balances {
        println!("{} {} {}", balance.account, balance.owner, balance.cents);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use consumer::prelude::*;
    use consumer::sqlx;
    use consumer::testing::ConsumerTest;

    use super::{Balance, Balances};
    use crate::events::AccountEvent;

    type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

    async fn cents(test: &mut ConsumerTest<sqlx::Sqlite>) -> Result<Vec<i64>> {
        let rows = test.rows::<Balance>().await?;
        Ok(rows.iter().map(|balance| balance.cents).collect())
    }

    async fn with_an_account_of_700_cents() -> Result<ConsumerTest<sqlx::Sqlite>> {
        let mut test = ConsumerTest::sqlite(Balances).await?;
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
        assert_eq!(cents(&mut test).await?, [700]);
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
        assert_eq!(cents(&mut test).await?, [700]);
        Ok(())
    }

    #[tokio::test]
    async fn a_rebuild_arrives_at_the_same_balance() -> Result {
        let mut test = with_an_account_of_700_cents().await?;
        test.when().await?;
        test.reset().await?;
        test.when().await?;
        assert_eq!(cents(&mut test).await?, [700]);
        Ok(())
    }
}
