//! The events and read models that all peers share.

use sqlx::PgPool;

/// A deposit into an account.
#[derive(Clone, Debug)]
pub(crate) struct Deposit {
    /// Unique among all deposits.
    pub(crate) number: i64,
    pub(crate) account: String,
    /// The version within the account, from 1.
    pub(crate) version: u16,
    pub(crate) amount: i64,
    pub(crate) text: String,
}

impl Deposit {
    pub(crate) fn new(number: usize, account: String, version: usize) -> Self {
        Self {
            number: number as i64,
            account,
            version: u16::try_from(version).expect("a short history"),
            amount: number as i64 % 100,
            // About 200 bytes with the rest of the payload.
            text: "x".repeat(160),
        }
    }
}

/// `count` deposits into at most 10,000 accounts, at least ten for each.
pub(crate) fn deposits(count: usize) -> impl Iterator<Item = Deposit> {
    let accounts = (count / 10).clamp(1, 10_000);
    (0..count).map(move |n| Deposit::new(n, format!("account-{}", n % accounts), n / accounts + 1))
}

/// The statement that a handler runs for each event; its parameters are account, amount and number.
pub(crate) type Statement = &'static str;

/// Maintains the read model of the speed comparison.
pub(crate) const BALANCE: Statement = "
INSERT INTO balances (account, amount, deposits, number) VALUES ($1, $2, 1, $3)
ON CONFLICT (account) DO UPDATE
   SET amount = balances.amount + excluded.amount, deposits = balances.deposits + 1,
       number = excluded.number";

/// Records each call of the handler.
pub(crate) const HANDLED: Statement =
    "INSERT INTO handled (account, amount, number) VALUES ($1, $2, $3)";

/// Creates the tables of both.
pub(crate) const TABLES: &str = "
CREATE TABLE balances (
    account TEXT PRIMARY KEY, amount BIGINT NOT NULL, deposits BIGINT NOT NULL, number BIGINT NOT NULL);
CREATE TABLE handled (account TEXT NOT NULL, amount BIGINT NOT NULL, number BIGINT NOT NULL)";

/// Fails unless every deposit has been counted once.
pub(crate) async fn check(pool: &PgPool, count: usize) {
    const SUMS: &str =
        "SELECT sum(deposits)::bigint, sum(amount)::bigint, count(*)::bigint FROM balances";
    let made: (i64, i64, i64) = sqlx::query_as(SUMS)
        .fetch_one(pool)
        .await
        .expect("the sums");
    let amounts: i64 = deposits(count).map(|deposit| deposit.amount).sum();
    let accounts = (count / 10).clamp(1, 10_000);
    assert_eq!(
        made,
        (count as i64, amounts, accounts as i64),
        "deposits were lost or counted twice"
    );
}
