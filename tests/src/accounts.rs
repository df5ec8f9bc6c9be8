//! A consumer that mixes folds and SQL handlers over one table, and what it does in memory.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use consumer::{Event, PersistedEvent, ReadModel};
use serde::{Deserialize, Serialize};

/// An account was opened; with less than nothing, its event fails.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Opened {
    /// What is in it.
    pub cents: i64,
}

/// Money was paid into an account; less than nothing fails.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Paid {
    /// How much.
    pub cents: i64,
}

/// Money was shared among accounts, of which some may not exist; less than nothing fails.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Shared {
    /// The accounts.
    pub accounts: Vec<String>,
    /// How much.
    pub cents: i64,
}

/// The events of an account.
#[derive(Event, Serialize, Deserialize, Clone, Debug)]
#[event(aggregate = "Account")]
pub enum AccountEvent {
    /// A fold returns the row.
    Opened(Opened),
    /// An SQL handler updates it.
    Paid(Paid),
    /// A fold changes several rows.
    Shared(Shared),
    /// An SQL handler takes it with all that have no other.
    Doubled,
    /// As `Doubled`.
    Tripled,
    /// A fold removes the row.
    Closed,
}

/// A row.
#[derive(ReadModel, Clone, Debug, PartialEq)]
#[read_model(table = "accounts")]
pub struct Account {
    /// The id of the aggregate.
    #[read_model(key)]
    pub id: String,
    /// What is in it.
    pub cents: i64,
}

/// Keeps amounts small, however often they are doubled.
pub const MOST: i64 = 1_000_003;

/// Declares, in the crate that calls this, a consumer with each form of handler for one database, as the
/// attribute takes no generic `impl`. In which order they change a row shows in the row. Its SQL handlers
/// note their events in the table `applied`, each version under the name of its table.
#[macro_export]
macro_rules! declare_accounts {
    ($module:ident, $connection:ident, $database:ident) => {
        mod $module {
            use $crate::TestDatabase;
            use $crate::accounts::{Account, AccountEvent, MOST, Opened, Paid, Shared};
            use $crate::reexport::prelude::*;
            use $crate::reexport::sqlx::{self, AssertSqlSafe, $database};

            #[derive(Default)]
            pub(crate) struct Accounts {
                pub(crate) allows_debt: bool,
            }

            #[consumer(name = "balances", aggregates = [AccountEvent], read_model = Account, retries = 0, on_error = "skip", crate = $crate::reexport)]
            impl Accounts {
                #[on(AccountEvent::Opened)]
                fn opened(&self, event: Envelope<'_, Opened>) -> Result<Account, HandlerError> {
                    let cents = self.allowed(event.payload.cents)?;
                    let id = event.aggregate_id.clone();
                    Ok(Account { id, cents })
                }

                #[on(AccountEvent::Paid)]
                async fn paid(
                    &self,
                    cx: &Context,
                    tx: &mut $connection,
                    event: Envelope<'_, Paid>,
                ) -> Result<(), HandlerError> {
                    let update = format!("cents = (cents + {}) % {MOST}", event.payload.cents);
                    // Written before the failure, so it must be rolled back.
                    Self::update(cx, tx, &update, event.record).await?;
                    self.allowed(event.payload.cents)?;
                    Ok(())
                }

                #[on(AccountEvent::Shared, key = event.accounts)]
                fn shared(
                    &self,
                    account: &mut Option<Account>,
                    event: Shared,
                ) -> Result<(), HandlerError> {
                    if let Some(account) = account {
                        account.cents = (account.cents * 3 + event.cents) % MOST;
                    }
                    self.allowed(event.cents)?;
                    Ok(())
                }

                #[on(AccountEvent::Closed)]
                fn closed(&self, account: &mut Option<Account>) {
                    *account = None;
                }

                #[on(other)]
                async fn other(
                    &self,
                    cx: &Context,
                    tx: &mut $connection,
                    event: &PersistedEvent,
                ) -> Result<(), HandlerError> {
                    let factor = if &*event.event_type == "Doubled" {
                        2
                    } else {
                        3
                    };
                    let update = format!("cents = cents * {factor} % {MOST}");
                    Self::update(cx, tx, &update, event).await
                }

                fn allowed(&self, cents: i64) -> Result<i64, HandlerError> {
                    if cents < 0 && !self.allows_debt {
                        return Err("this account has no credit".into());
                    }
                    Ok(cents)
                }

                async fn update(
                    cx: &Context,
                    tx: &mut $connection,
                    update: &str,
                    event: &PersistedEvent,
                ) -> Result<(), HandlerError> {
                    let table = format!("accounts_v{}", cx.version());
                    let sql = format!("UPDATE {table} SET {update} WHERE id = $1");
                    let query = sqlx::query(AssertSqlSafe(sql)).bind(event.aggregate_id.clone());
                    query.persistent(false).execute(&mut *tx).await?;
                    <$database as TestDatabase>::apply(tx, &table, event).await?;
                    Ok(())
                }
            }
        }
    };
}

/// What a version of the consumer has written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// The rows: what is in each account.
    pub accounts: BTreeMap<String, i64>,
    /// The positions of the events that SQL handlers have noted, in order.
    pub applied: Vec<i64>,
}

impl Written {
    /// After some events, one by one in memory. Parking leaves out all events of an account after one that
    /// fails.
    #[must_use]
    pub fn in_memory(events: &[PersistedEvent], parks: bool) -> Self {
        let (mut written, mut parked) = (Self::default(), HashSet::new());
        for event in events {
            if parked.contains(&event.aggregate_id) {
                continue;
            }
            let mut after = written.clone();
            match after.add(event) {
                Some(()) => written = after,
                None if parks => drop(parked.insert(event.aggregate_id.clone())),
                None => {}
            }
        }
        written
    }

    /// Adds what one event does; `None` if it fails.
    fn add(&mut self, event: &PersistedEvent) -> Option<()> {
        let id = event.aggregate_id.as_str();
        let allowed = |cents: i64| (cents >= 0).then_some(cents);
        match AccountEvent::decode(event).expect("an event of an account") {
            AccountEvent::Opened(Opened { cents }) => {
                self.accounts.insert(id.to_owned(), allowed(cents)?);
            }
            AccountEvent::Paid(Paid { cents }) => {
                let cents = allowed(cents)?;
                self.update(event, |before| before + cents);
            }
            // A handler that is called for no row does not fail.
            AccountEvent::Shared(Shared { accounts, cents }) => {
                for account in accounts.iter().collect::<BTreeSet<_>>() {
                    let cents = allowed(cents)?;
                    if let Some(before) = self.accounts.get_mut(account) {
                        *before = (*before * 3 + cents) % MOST;
                    }
                }
            }
            AccountEvent::Doubled => self.update(event, |before| before * 2),
            AccountEvent::Tripled => self.update(event, |before| before * 3),
            AccountEvent::Closed => drop(self.accounts.remove(id)),
        }
        Some(())
    }

    /// What an SQL handler does.
    fn update(&mut self, event: &PersistedEvent, change: impl Fn(i64) -> i64) {
        if let Some(cents) = self.accounts.get_mut(&event.aggregate_id) {
            *cents = change(*cents) % MOST;
        }
        self.applied.push(event.global_position);
    }
}
