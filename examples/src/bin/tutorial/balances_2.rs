//! The second version of the read model: it also counts the movements of each account.

use consumer::prelude::*;
use consumer::sqlx;

use crate::events::AccountEvent;

/// What is in an account, and how often that changed.
#[derive(Debug, ReadModel)]
#[read_model(table = "balances")]
pub(crate) struct Balance {
    #[read_model(key)]
    account: String,
    owner: String,
    cents: i64,
    movements: i64,
}

/// Maintains the balances.
pub(crate) struct Balances;

#[consumer(name = "balances", aggregates = [AccountEvent], read_model = Balance, version = 2)]
impl Balances {
    #[on]
    fn changed(balance: &mut Option<Balance>, event: Envelope<'_, AccountEvent>) {
        let account = event.aggregate_id.clone();
        match (event.payload, balance) {
            (AccountEvent::Opened { owner }, balance) => {
                let (cents, movements) = (0, 0);
                *balance = Some(Balance {
                    account,
                    owner,
                    cents,
                    movements,
                });
            }
            (AccountEvent::Deposited { cents }, Some(balance)) => balance.add(cents),
            (AccountEvent::Withdrawn { cents }, Some(balance)) => balance.add(-cents),
            // There is no account.
            (_, None) => {}
        }
    }
}

impl Balance {
    fn add(&mut self, cents: i64) {
        self.cents += cents;
        self.movements += 1;
    }
}

/// Prints the read model, a line for each account.
pub(crate) async fn print(store: &SqliteEventStore) -> sqlx::Result<()> {
    let balances: Vec<Balance> =
        sqlx::query_as("SELECT account, owner, cents, movements FROM balances ORDER BY account")
            .fetch_all(store.pool())
            .await?;
    for Balance {
        account,
        owner,
        cents,
        movements,
    } in balances
    {
        println!("{account} {owner} {cents} in {movements} movements");
    }
    Ok(())
}
