//! Folds and SQL handlers of one consumer, in every form, over one table.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use consumer::prelude::*;
use consumer::sqlx::{self, AssertSqlSafe, Postgres, Sqlite};
use consumer::{OnError, Registered};
use consumer_tests::{Database, TestDatabase, cases, impatient, run_once};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Clone, Debug)]
struct Opened {
    cents: i64,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
struct Paid {
    cents: i64,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
struct Shared {
    accounts: Vec<String>,
    cents: i64,
}

#[derive(Event, Serialize, Deserialize, Clone, Debug)]
#[event(aggregate = "Account")]
enum AccountEvent {
    Opened(Opened),
    Paid(Paid),
    Shared(Shared),
    Doubled,
    Tripled,
    Closed,
}

#[derive(ReadModel, Clone, Debug, PartialEq)]
#[read_model(table = "accounts")]
struct Account {
    #[read_model(key)]
    id: String,
    cents: i64,
}

/// Keeps amounts small, however often they are doubled.
const MOST: i64 = 1_000_003;

/// A consumer of each form of handler, for one database. Which of them changes a row first shows in the
/// row.
macro_rules! mixed {
    ($name:ident, $connection:ty, $database:ty) => {
        #[derive(Default)]
        struct $name {
            allows_debt: bool,
        }

        #[consumer(name = "accounts", aggregates = [AccountEvent], read_model = Account)]
        impl $name {
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
                Self::update(cx, tx, &update, &event.aggregate_id).await?;
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
                Self::update(cx, tx, &update, &event.aggregate_id).await
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
                id: &str,
            ) -> Result<(), HandlerError> {
                let table = format!("accounts_v{}", cx.version());
                let sql = format!("UPDATE {table} SET {update} WHERE id = $1");
                let query = sqlx::query(AssertSqlSafe(sql)).bind(id.to_owned());
                query.persistent(false).execute(tx).await?;
                Ok(())
            }
        }

        impl Mixing for $database {
            fn mixed(allows_debt: bool) -> Registered<Self> {
                Registered::new($name { allows_debt })
            }
        }
    };
}

/// A database with a consumer of its own.
trait Mixing: TestDatabase {
    fn mixed(allows_debt: bool) -> Registered<Self>;
}

mixed!(OnSqlite, SqliteConnection, Sqlite);
mixed!(OnPostgres, PgConnection, Postgres);

fn opened(cents: i64) -> AccountEvent {
    AccountEvent::Opened(Opened { cents })
}

fn paid(cents: i64) -> AccountEvent {
    AccountEvent::Paid(Paid { cents })
}

fn shared(accounts: &[&str], cents: i64) -> AccountEvent {
    let accounts = accounts.iter().map(|&id| id.to_owned()).collect();
    AccountEvent::Shared(Shared { accounts, cents })
}

async fn accounts<DB: TestDatabase>(db: &Database<DB>, version: u32) -> Vec<(String, i64)> {
    let rows = db.rows::<Account>(version).await;
    rows.into_values().map(|row| (row.id, row.cents)).collect()
}

fn named(rows: &[(&str, i64)]) -> Vec<(String, i64)> {
    rows.iter()
        .map(|&(id, cents)| (id.to_owned(), cents))
        .collect()
}

async fn each_form_sees_the_rows_of_those_before<DB: Mixing>() {
    let db = Database::<DB>::fresh().await;
    let run = async |allows_debt| {
        let worker = db.worker().registered(DB::mixed(allows_debt));
        let parks = |settings: consumer::Settings| settings.retries(0).on_error(OnError::Park);
        run_once(worker.configure_all(parks)).await
    };
    db.append_typed("a", &opened(1)).await;
    db.append_typed("b", &opened(10)).await;
    db.append_typed("a", &paid(4)).await; // a: 5
    db.append_typed("a", &shared(&["a", "b", "a", "none"], 2))
        .await; // a: 17, b: 32
    db.append_typed("b", &AccountEvent::Doubled).await; // b: 64
    db.append_typed("b", &AccountEvent::Tripled).await; // b: 192
    let parked = db.append_typed("b", &paid(-100)).await;
    db.append_typed("a", &shared(&["b"], 1)).await; // b: 577
    let behind = db.append_typed("b", &shared(&["a"], 1_000)).await;
    db.append_typed("c", &opened(7)).await;
    db.append_typed("c", &AccountEvent::Closed).await;
    db.append_typed("a", &paid(3)).await; // a: 20
    let report = run(false).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(db.parked("accounts").await, [parked, behind]);
    assert_eq!(accounts(&db, 1).await, named(&[("a", 20), ("b", 577)]));

    let admin = db.worker().registered(DB::mixed(true)).admin().unwrap();
    admin.retry_parked("accounts", None).await.unwrap();
    assert_eq!(accounts(&db, 1).await, named(&[("a", 1_060), ("b", 477)]));
    assert!(db.parked("accounts").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_form_sees_the_rows_of_those_before_sqlite() {
    each_form_sees_the_rows_of_those_before::<Sqlite>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_form_sees_the_rows_of_those_before_postgres() {
    each_form_sees_the_rows_of_those_before::<Postgres>().await;
}

const IDS: [&str; 4] = ["a", "b", "c", "'"];

fn event() -> impl Strategy<Value = (usize, AccountEvent)> {
    let cents = || prop_oneof![9 => 0..100_i64, 1 => -100..0_i64];
    let ids = prop::collection::vec(prop::sample::select(IDS.to_vec()), 0..4);
    let event = prop_oneof![
        3 => cents().prop_map(opened),
        4 => cents().prop_map(paid),
        4 => (ids, cents()).prop_map(|(ids, cents)| shared(&ids, cents)),
        2 => Just(AccountEvent::Doubled),
        1 => Just(AccountEvent::Tripled),
        1 => Just(AccountEvent::Closed),
    ];
    (0..IDS.len(), event)
}

/// The accounts after some events, one by one in memory.
fn in_memory(events: &[(usize, AccountEvent)], parks: bool) -> BTreeMap<String, i64> {
    let (mut rows, mut parked) = (BTreeMap::new(), HashSet::new());
    for (aggregate, event) in events {
        if parked.contains(aggregate) {
            continue;
        }
        let after = step(IDS[*aggregate], event, rows.clone());
        match after {
            Some(after) => rows = after,
            None if parks => drop(parked.insert(*aggregate)),
            None => {}
        }
    }
    rows
}

/// The accounts after one event; `None` if it fails.
fn step(
    id: &str,
    event: &AccountEvent,
    mut rows: BTreeMap<String, i64>,
) -> Option<BTreeMap<String, i64>> {
    let mut multiply = |factor| {
        if let Some(cents) = rows.get_mut(id) {
            *cents = *cents * factor % MOST;
        }
    };
    match event {
        AccountEvent::Opened(Opened { cents }) => {
            rows.insert(id.to_owned(), (*cents >= 0).then_some(*cents)?);
        }
        AccountEvent::Paid(Paid { cents }) => {
            let cents = (*cents >= 0).then_some(*cents)?;
            if let Some(before) = rows.get_mut(id) {
                *before = (*before + cents) % MOST;
            }
        }
        // A handler that is called for no row does not fail.
        AccountEvent::Shared(Shared { accounts, cents }) => {
            for account in accounts.iter().collect::<BTreeSet<_>>() {
                let cents = (*cents >= 0).then_some(*cents)?;
                if let Some(before) = rows.get_mut(account) {
                    *before = (*before * 3 + cents) % MOST;
                }
            }
        }
        AccountEvent::Doubled => multiply(2),
        AccountEvent::Tripled => multiply(3),
        AccountEvent::Closed => drop(rows.remove(id)),
    }
    Some(rows)
}

/// How one version handles the events: whether it parks, and its `batch_size`, 0 for the default.
type Cut = (bool, u32);

async fn the_rows_are_those_of_memory<DB: Mixing>(
    events: Vec<(usize, AccountEvent)>,
    cuts: Vec<Cut>,
) {
    let db = Database::<DB>::fresh().await;
    for (aggregate, event) in &events {
        db.append_typed(IDS[*aggregate], event).await;
    }
    // One after the other: where a version meets another one, it cuts its batches.
    for (version, (parks, batch_size)) in (1..).zip(cuts) {
        let worker = db.worker().registered(DB::mixed(false).version(version));
        let settings =
            impatient()
                .retries(0)
                .on_error(if parks { OnError::Park } else { OnError::Skip });
        let settings = match batch_size {
            0 => settings,
            size => settings.batch_size(size),
        };
        run_once(worker.configure_all(move |_| settings.clone())).await;
        let expected: Vec<_> = in_memory(&events, parks).into_iter().collect();
        assert_eq!(accounts(&db, version).await, expected);
    }
}

fn holds<DB: Mixing>() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let events = prop::collection::vec(event(), 1..60);
    let size = prop::sample::select(vec![0, 1, 2, 3, 7, 20]);
    let cuts = prop::collection::vec((any::<bool>(), size), 2..4);
    let tested = TestRunner::new(cases(12)).run(&(events, cuts), |(events, cuts)| {
        runtime.block_on(the_rows_are_those_of_memory::<DB>(events, cuts));
        Ok(())
    });
    tested.unwrap();
}

#[test]
fn rows_with_sql_do_not_depend_on_the_batches_sqlite() {
    holds::<Sqlite>();
}

#[test]
fn rows_with_sql_do_not_depend_on_the_batches_postgres() {
    holds::<Postgres>();
}
