//! Folds and SQL handlers of one consumer, in every form, over one table.

use consumer::prelude::*;
use consumer::sqlx::{Postgres, Sqlite};
use consumer::{OnError, Registered, Settings};
use consumer_tests::accounts::{Account, AccountEvent, Opened, Paid, Shared, Written};
use consumer_tests::{
    Database, TestDatabase, WorkerProcess, cases, declare_accounts, impatient, kill_20_times,
    run_once, test_on,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

declare_accounts!(on_sqlite, SqliteConnection, Sqlite);
declare_accounts!(on_postgres, PgConnection, Postgres);

/// A database with a consumer of its own.
trait Mixing: TestDatabase {
    fn mixed(allows_debt: bool) -> Registered<Self>;
}

impl Mixing for Sqlite {
    fn mixed(allows_debt: bool) -> Registered<Self> {
        Registered::new(on_sqlite::Accounts { allows_debt })
    }
}

impl Mixing for Postgres {
    fn mixed(allows_debt: bool) -> Registered<Self> {
        Registered::new(on_postgres::Accounts { allows_debt })
    }
}

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

/// What a version has written.
async fn written<DB: TestDatabase>(db: &Database<DB>, version: u32) -> Written {
    let rows = db.rows::<Account>(version).await;
    Written {
        accounts: rows.into_iter().map(|(id, row)| (id, row.cents)).collect(),
        applied: db.applied(&format!("accounts_v{version}")).await,
    }
}

async fn accounts<DB: TestDatabase>(db: &Database<DB>) -> Vec<(String, i64)> {
    written(db, 1).await.accounts.into_iter().collect()
}

fn named(rows: &[(&str, i64)]) -> Vec<(String, i64)> {
    rows.iter()
        .map(|&(id, cents)| (id.to_owned(), cents))
        .collect()
}

test_on!(
    [sqlite, postgres],
    each_form_sees_the_rows_of_those_before,
    r3_folds_and_sql_killed_20_times_yield_the_rows_of_memory
);

async fn each_form_sees_the_rows_of_those_before<DB: Mixing>(db: Database<DB>) {
    let run = async |allows_debt| {
        let worker = db.worker().registered(DB::mixed(allows_debt));
        let parks = |settings: Settings| settings.retries(0).on_error(OnError::Park);
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
    assert_eq!(db.parked("balances").await, [parked, behind]);
    assert_eq!(accounts(&db).await, named(&[("a", 20), ("b", 577)]));

    let admin = db.worker().registered(DB::mixed(true)).admin().unwrap();
    admin.retry_parked("balances", None).await.unwrap();
    assert_eq!(accounts(&db).await, named(&[("a", 1_060), ("b", 477)]));
    assert!(db.parked("balances").await.is_empty());
}

const IDS: [&str; 4] = ["a", "b", "c", "'"];

fn event() -> impl Strategy<Value = AccountEvent> {
    let cents = || prop_oneof![9 => 0..100_i64, 1 => -100..0_i64];
    let ids = prop::collection::vec(prop::sample::select(IDS.to_vec()), 0..4);
    prop_oneof![
        3 => cents().prop_map(opened),
        4 => cents().prop_map(paid),
        4 => (ids, cents()).prop_map(|(ids, cents)| shared(&ids, cents)),
        2 => Just(AccountEvent::Doubled),
        1 => Just(AccountEvent::Tripled),
        1 => Just(AccountEvent::Closed),
    ]
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
    let events = db.events().await;
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
        let expected = Written::in_memory(&events, parks);
        assert_eq!(written(&db, version).await, expected);
    }
}

fn holds<DB: Mixing>() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let events = prop::collection::vec((0..IDS.len(), event()), 1..60);
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

/// Appends a hundred events, and returns the position of the last.
async fn append_events<DB: TestDatabase>(db: &Database<DB>, runner: &mut TestRunner) -> i64 {
    let run = (0..IDS.len(), prop::collection::vec(event(), 5));
    let mut head = 0;
    for _ in 0..20 {
        let (aggregate, events) = run.new_tree(runner).unwrap().current();
        let typed = |event: &AccountEvent| NewEvent::typed(event).unwrap().of(IDS[aggregate]);
        let events: Vec<NewEvent> = events.iter().map(typed).collect();
        head = db.append_events(&events).await[4].global_position;
    }
    head
}

/// A batch has folds before, between and behind SQL handlers, whose statements commit with it or not at all.
async fn r3_folds_and_sql_killed_20_times_yield_the_rows_of_memory<DB: TestDatabase>(
    db: Database<DB>,
) {
    let mut runner = TestRunner::new(ProptestConfig::default());
    let start = || {
        WorkerProcess::of(env!("CARGO_BIN_EXE_test_worker"), &db)
            .consumers(&["balances"])
            .batch_size(7)
            .start()
    };
    let append = async || append_events(&db, &mut runner).await;
    kill_20_times(&db, "balances", start, append).await;
    let expected = Written::in_memory(&db.events().await, false);
    assert!(!expected.accounts.is_empty() && !expected.applied.is_empty());
    assert_eq!(written(&db, 1).await, expected);
}
