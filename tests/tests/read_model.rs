//! Consumers with a read model: which rows each form of handler changes, on both databases.

use consumer::admin::RebuildOptions;
use consumer::prelude::*;
use consumer::read_model::{ColumnRole, Fold, Keys};
use consumer::sqlx::types::Json;
use consumer::sqlx::types::chrono::{DateTime, NaiveDate, Utc};
use consumer::sqlx::{self, Executor, FromRow, IntoArguments, Postgres, Sqlite};
use consumer::{ErasedConsumer, EventRecord, Registered, Registry, Settings};
use consumer_tests::{Database, TestDatabase, run_once, test_on};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

fn named(aggregate_type: &str, id: &str, event_type: &str) -> NewEvent {
    NewEvent::new(aggregate_type, id, event_type, "{}")
}

/// Runs the consumers of a group until they have caught up.
async fn run<DB: TestDatabase>(db: &Database<DB>, group: &str) {
    run_once(Worker::builder(db.store.clone()).discover_group(group)).await;
}

/// Runs the consumers of a group and returns why one of them stopped.
async fn run_into_error<DB: TestDatabase>(db: &Database<DB>, group: &str) -> String {
    let worker = Worker::builder(db.store.clone())
        .discover_group(group)
        .configure_all(|settings| settings.retries(0));
    let report = worker.build().unwrap().run_once().await.unwrap();
    assert!(report.has_failures(), "{report}");
    report.to_string()
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
struct Registered_ {
    email: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
struct EmailChanged {
    email: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
struct Renamed {
    name: Option<String>,
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
struct Checked {
    is_valid: bool,
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
struct Deleted {}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "User")]
struct Ignored {}

fn registered(email: &str) -> Registered_ {
    let email = email.into();
    Registered_ { email }
}

fn email_changed(email: &str) -> EmailChanged {
    let email = email.into();
    EmailChanged { email }
}

fn renamed(name: &str) -> Renamed {
    let name = Some(name.into());
    Renamed { name }
}

#[derive(ReadModel, Clone, Debug, PartialEq)]
#[read_model(table = "users")]
struct User {
    #[read_model(key)]
    id: String,
    #[read_model(index)]
    email: String,
    changes: i64,
    #[read_model(position)]
    as_of: i64,
}

impl User {
    fn new(id: &str, email: &str) -> Self {
        Self {
            id: id.into(),
            email: email.into(),
            changes: 0,
            as_of: 0,
        }
    }
}

#[derive(Default)]
struct Users;

#[consumer(name = "users", group = "users", aggregates = ["User"], read_model = User)]
impl Users {
    #[on]
    fn registered(&self, event: Envelope<'_, Registered_>) -> User {
        User::new(&event.aggregate_id, &event.payload.email)
    }

    #[on]
    fn email_changed(user: &mut User, event: EmailChanged) {
        user.email = event.email;
        user.changes += 1;
    }

    /// `None` leaves the row as it is.
    #[on]
    fn renamed(cx: &Context, event: Envelope<'_, Renamed>) -> Result<Option<User>, HandlerError> {
        assert_eq!(cx.consumer(), "users");
        let name = event.payload.name.as_deref();
        Ok(name.map(|name| User::new(&event.aggregate_id, name)))
    }

    #[on]
    fn checked(&self, user: &mut User, event: Checked, cx: &Context) -> Result<(), String> {
        assert!(cx.current_position().is_some_and(|now| now <= cx.head()));
        if event.is_valid {
            user.changes += 10;
            return Ok(());
        }
        Err(format!("{} is not valid", user.email))
    }

    #[on]
    fn deleted(user: &mut Option<User>, _event: Deleted) {
        *user = None;
    }

    #[on]
    fn ignored(_event: Ignored) {}

    #[on("Imported", "Migrated")]
    fn imported(event: &PersistedEvent, user: &mut Option<User>) {
        user.get_or_insert_with(|| User::new(&event.aggregate_id, &event.event_type))
            .changes += 100;
    }

    #[on(other)]
    fn other(user: &mut Option<User>, _event: &PersistedEvent) {
        if let Some(user) = user {
            user.changes += 1_000;
        }
    }
}

async fn users<DB: TestDatabase>(db: &Database<DB>) -> Vec<String> {
    db.texts(
        "SELECT id || ' ' || email || ' ' || changes || ' ' || as_of FROM users_v1 ORDER BY id",
    )
    .await
}

test_on!(
    [sqlite, postgres, through_a_pooler],
    each_form_of_handler_changes_its_row,
    a_row_that_is_missing_is_an_error_that_names_it,
    the_error_of_a_handler_stops_at_its_event,
    handlers_of_one_event_change_their_rows_in_order,
    a_handler_is_called_once_for_each_row_that_it_names,
    a_key_of_several_parts_is_named_part_by_part,
    a_returned_row_has_the_key_that_was_named,
    a_rebuild_empties_the_table
);

async fn each_form_of_handler_changes_its_row<DB: TestDatabase>(db: Database<DB>) {
    db.append_typed("a", &registered("a@1")).await;
    db.append_typed("b", &registered("b@2")).await;
    db.append_typed("b", &Deleted {}).await;
    db.append_typed("a", &email_changed("a@4")).await;
    db.append_typed("a", &Renamed { name: None }).await;
    db.append_typed("c", &renamed("c@6")).await;
    db.append_typed("a", &Ignored {}).await;
    let imported = ["Imported", "Migrated", "Unknown"];
    for event_type in imported {
        db.append_event(named("User", "d", event_type)).await;
    }
    db.append_event(named("User", "e", "Unknown")).await;
    run(&db, "users").await;
    assert_eq!(
        users(&db).await,
        ["a a@4 1 4", "c c@6 0 6", "d Imported 1200 10"]
    );
    db.append_typed("b", &registered("b@12")).await;
    let checked = db.append_typed("b", &Checked { is_valid: true }).await;
    run(&db, "users").await;
    assert_eq!(users(&db).await[1], format!("b b@12 10 {checked}"));
}

async fn a_row_that_is_missing_is_an_error_that_names_it<DB: TestDatabase>(db: Database<DB>) {
    db.append_typed("a", &registered("a")).await;
    db.append_typed("lost", &email_changed("b")).await;
    let report = run_into_error(&db, "users").await;
    for part in ["event 2", "`users`", "`lost`"] {
        assert!(report.contains(part), "{report}");
    }
    assert_eq!(users(&db).await, ["a a 0 1"]);
    assert_eq!(db.checkpoint("users").await, Some(1));
}

async fn the_error_of_a_handler_stops_at_its_event<DB: TestDatabase>(db: Database<DB>) {
    db.append_typed("a", &registered("a@1")).await;
    db.append_typed("a", &email_changed("a@2")).await;
    db.append_typed("a", &Checked { is_valid: false }).await;
    db.append_typed("a", &email_changed("a@4")).await;
    let report = run_into_error(&db, "users").await;
    assert!(report.contains("a@2 is not valid"), "{report}");
    assert!(report.contains("event 3"), "{report}");
    assert_eq!(users(&db).await, ["a a@2 1 2"]);
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Transfer")]
struct Transferred {
    from: String,
    to: Option<String>,
    amount: i64,
}

#[derive(ReadModel, Clone, Debug, PartialEq)]
#[read_model(table = "accounts")]
struct Account {
    #[read_model(key, rename = "account")]
    id: String,
    balance: i64,
}

#[derive(Default)]
struct Accounts;

#[consumer(name = "accounts", group = "accounts", aggregates = ["Transfer"], read_model = Account)]
impl Accounts {
    fn of(account: &mut Option<Account>, id: &str) -> i64 {
        account
            .get_or_insert_with(|| Account {
                id: id.into(),
                balance: 0,
            })
            .balance
    }

    #[on(key = event.payload.from)]
    fn debited(account: &mut Option<Account>, event: Envelope<'_, Transferred>) {
        let balance = Self::of(account, &event.payload.from);
        // Halved before it is credited: the order of the two shows.
        account.as_mut().unwrap().balance = balance / 2 - event.payload.amount;
    }

    // An `Option` names no row or one.
    #[on(key = to)]
    fn credited(account: &mut Option<Account>, Transferred { to, amount, .. }: Transferred) {
        let to = to.unwrap();
        let balance = Self::of(account, &to);
        account.as_mut().unwrap().balance = balance + amount;
    }
}

async fn handlers_of_one_event_change_their_rows_in_order<DB: TestDatabase>(db: Database<DB>) {
    let transfer = |from: &str, to: Option<&str>, amount| Transferred {
        from: from.into(),
        to: to.map(Into::into),
        amount,
    };
    db.append_typed("1", &transfer("a", Some("b"), 10)).await;
    db.append_typed("2", &transfer("b", Some("b"), 100)).await;
    db.append_typed("3", &transfer("c", None, 1)).await;
    run(&db, "accounts").await;
    let balances = "SELECT account || ' ' || balance FROM accounts_v1 ORDER BY account";
    // `b` had 10: half of it minus 100, then plus 100.
    assert_eq!(db.texts(balances).await, ["a -10", "b 5", "c -1"]);
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Order")]
struct Ordered {
    lines: Vec<Line>,
    gift: Option<Uuid>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    sku: i32,
    count: i64,
}

#[derive(ReadModel, Clone, Debug, PartialEq)]
#[read_model(table = "stock")]
struct Stock {
    #[read_model(key)]
    sku: i32,
    sold: i64,
    orders: i64,
}

#[derive(Default)]
struct Stocks;

#[consumer(name = "stock", group = "stock", read_model = Stock)]
impl Stocks {
    #[on(key = event.lines.iter().map(|line| line.sku))]
    fn ordered(stock: &mut Option<Stock>, event: Ordered, cx: &Context) {
        let _ = cx;
        let stock = stock.get_or_insert_with(|| Stock {
            sku: event.lines.last().map_or(0, |line| line.sku),
            sold: 0,
            orders: 0,
        });
        let lines = event.lines.iter().filter(|line| line.sku == stock.sku);
        stock.sold += lines.map(|line| line.count).sum::<i64>();
        stock.orders += 1;
    }

    #[on("Received", "Counted", key = [1, 2])]
    fn received(event: &PersistedEvent, stock: &mut Option<Stock>) {
        if let Some(stock) = stock {
            stock.sold -= event.global_position;
        }
    }
}

async fn a_handler_is_called_once_for_each_row_that_it_names<DB: TestDatabase>(db: Database<DB>) {
    let order = |lines: &[(i32, i64)]| Ordered {
        lines: lines
            .iter()
            .map(|&(sku, count)| Line { sku, count })
            .collect(),
        gift: None,
    };
    for sku in 1..=3 {
        db.append_typed("first", &order(&[(sku, 0)])).await;
    }
    // The first line and the third are one row.
    db.append_typed("second", &order(&[(1, 5), (2, 7), (1, 20)]))
        .await;
    db.append_typed("third", &order(&[])).await;
    db.append_event(named("Order", "x", "Counted")).await;
    run(&db, "stock").await;
    let stock = "SELECT sku || ' ' || sold || ' ' || orders FROM stock_v1 ORDER BY sku";
    assert_eq!(db.texts(stock).await, ["1 19 2", "2 1 2", "3 0 1"]);
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Wallet")]
struct Paid {
    currency: String,
    day: NaiveDate,
    amount: i64,
}

#[derive(ReadModel, Clone, Debug, PartialEq)]
#[read_model(table = "payments")]
struct Payment {
    #[read_model(key)]
    wallet: i64,
    #[read_model(key)]
    currency: String,
    #[read_model(key)]
    day: NaiveDate,
    amount: i64,
}

#[derive(Default)]
struct Payments;

#[consumer(name = "payments", group = "payments", read_model = Payment)]
impl Payments {
    #[on(key = (aggregate_id, event.payload.currency, event.payload.day))]
    fn paid(payment: &mut Option<Payment>, event: Envelope<'_, Paid>) -> Result<(), HandlerError> {
        let wallet = event.aggregate_id.parse()?;
        let paid = event.payload;
        let payment = payment.get_or_insert(Payment {
            wallet,
            currency: paid.currency,
            day: paid.day,
            amount: 0,
        });
        payment.amount += paid.amount;
        Ok(())
    }
}

async fn a_key_of_several_parts_is_named_part_by_part<DB: TestDatabase>(db: Database<DB>) {
    let paid = |currency: &str, day: &str, amount| Paid {
        currency: currency.into(),
        day: day.parse().unwrap(),
        amount,
    };
    db.append_typed("7", &paid("EUR", "2026-01-01", 1)).await;
    db.append_typed("7", &paid("EUR", "2026-01-02", 10)).await;
    db.append_typed("007", &paid("EUR", "2026-01-01", 100))
        .await;
    db.append_typed("8", &paid("USD", "2026-01-01", 1_000))
        .await;
    run(&db, "payments").await;
    let payments =
        "SELECT wallet || ' ' || currency || ' ' || day || ' ' || amount FROM payments_v1
                    ORDER BY wallet, currency, day";
    assert_eq!(
        db.texts(payments).await,
        [
            "7 EUR 2026-01-01 101",
            "7 EUR 2026-01-02 10",
            "8 USD 2026-01-01 1000"
        ]
    );
    db.append_typed("nine", &paid("EUR", "2026-01-01", 1)).await;
    let report = run_into_error(&db, "payments").await;
    assert!(
        report.contains("`nine` is not a key of type `i64`"),
        "{report}"
    );
}

#[derive(ReadModel, Clone, Debug, PartialEq)]
#[read_model(table = "aliases")]
struct Alias {
    #[read_model(key)]
    id: String,
    name: String,
}

#[derive(Default)]
struct Aliases;

#[consumer(name = "aliases", group = "aliases", read_model = Alias)]
impl Aliases {
    #[on(key = event.payload.email)]
    fn registered(event: Envelope<'_, Registered_>) -> Alias {
        Alias {
            id: event.aggregate_id.clone(),
            name: String::new(),
        }
    }
}

async fn a_returned_row_has_the_key_that_was_named<DB: TestDatabase>(db: Database<DB>) {
    db.append_typed("same", &registered("same")).await;
    db.append_typed("id", &registered("mail")).await;
    let report = run_into_error(&db, "aliases").await;
    for part in ["`aliases`", "`mail`", "`id`", "event 2"] {
        assert!(report.contains(part), "{part} is not in {report}");
    }
    assert_eq!(db.texts("SELECT id FROM aliases_v1").await, ["same"]);
}

async fn a_rebuild_empties_the_table<DB: TestDatabase>(db: Database<DB>) {
    db.append_typed("a", &registered("a@1")).await;
    run(&db, "users").await;
    let worker = Worker::builder(db.store.clone()).discover_group("users");
    let admin = worker.admin().unwrap();
    admin.rebuild("users", RebuildOptions::new()).await.unwrap();
    assert!(users(&db).await.is_empty());
    run(&db, "users").await;
    assert_eq!(users(&db).await, ["a a@1 0 1"]);
}

/// A consumer with SQL handlers, for one database: the attribute takes no generic `impl`.
macro_rules! with_sql {
    ($name:ident, $connection:ty, $group:literal) => {
        #[derive(Default)]
        struct $name;

        #[consumer(name = "mixed", group = $group, read_model = User)]
        impl $name {
            #[on]
            fn registered(event: Envelope<'_, Registered_>) -> User {
                User::new(&event.aggregate_id, &event.payload.email)
            }

            #[on]
            fn email_changed(user: &mut User, event: EmailChanged) {
                user.email.push('+');
                user.email.push_str(&event.email);
                user.changes += 1;
            }

            /// Sees the rows that were changed before, and changes them.
            #[on]
            async fn renamed(
                &self,
                tx: &mut $connection,
                event: Envelope<'_, Renamed>,
            ) -> Result<(), HandlerError> {
                let sql = "UPDATE users_v1 SET email = email || $1 WHERE id = $2";
                let id = event.aggregate_id.clone();
                let name = event.payload.name.unwrap_or_default();
                let query = sqlx::query(sql).bind(name).bind(id);
                let changed = query.persistent(false).execute(&mut *tx).await?;
                assert_eq!(changed.rows_affected(), 1);
                self.note(tx, 1).await
            }

            /// Takes runs.
            #[on("Imported")]
            async fn imported(
                &self,
                tx: &mut $connection,
                events: &[PersistedEvent],
            ) -> Result<(), HandlerError> {
                self.note(tx, i64::try_from(events.len())?).await
            }

            #[on(reset)]
            async fn empty(&self, tx: &mut $connection) -> Result<(), sqlx::Error> {
                sqlx::query("DELETE FROM applied").execute(tx).await?;
                Ok(())
            }

            /// Writes into a table of its own.
            async fn note(&self, tx: &mut $connection, events: i64) -> Result<(), HandlerError> {
                let sql = "INSERT INTO applied (consumer, position, aggregate, version)
                           VALUES ('mixed', $1, '', 0)";
                let query = sqlx::query(sql).bind(events).persistent(false);
                query.execute(tx).await?;
                Ok(())
            }
        }
    };
}

with_sql!(MixedSqlite, SqliteConnection, "mixed_sqlite");
with_sql!(MixedPostgres, PgConnection, "mixed_postgres");

async fn sql_handlers_and_folds_see_each_other<DB: TestDatabase>(db: Database<DB>, group: &str) {
    db.append_typed("a", &registered("1")).await;
    db.append_typed("b", &registered("2")).await;
    db.append_typed("a", &renamed("-3")).await;
    db.append_typed("a", &email_changed("4")).await;
    // An event without a handler does not end a run.
    db.append_event(named("User", "a", "Imported")).await;
    db.append_event(named("User", "a", "Imported")).await;
    db.append_event(named("User", "a", "Unknown")).await;
    db.append_typed("a", &renamed("-8")).await;
    db.append_typed("b", &email_changed("9")).await;
    run(&db, group).await;
    let emails = "SELECT id || ' ' || email || ' ' || changes FROM users_v1 ORDER BY id";
    assert_eq!(db.texts(emails).await, ["a 1-3+4-8 1", "b 2+9 1"]);
    assert_eq!(db.applied("mixed").await, [1, 2, 1]);

    // An error of a fold behind a SQL handler names the event and not its place in the run.
    db.append_typed("a", &renamed("-10")).await;
    let last = db.append_typed("a", &email_changed("11")).await;
    let lost = db.append_typed("lost", &email_changed("12")).await;
    let report = run_into_error(&db, group).await;
    let stopped = format!("stopped before event {lost} ");
    assert!(report.contains(&stopped), "{report}");
    assert_eq!(db.texts(emails).await[0], "a 1-3+4-8-10+11 2");
    assert_eq!(db.checkpoint("mixed").await, Some(last));

    let worker = Worker::builder(db.store.clone()).discover_group(group);
    let admin = worker.admin().unwrap();
    admin.rebuild("mixed", RebuildOptions::new()).await.unwrap();
    assert!(db.texts(emails).await.is_empty());
    assert!(db.applied("mixed").await.is_empty());
}

#[tokio::test]
async fn sql_handlers_and_folds_see_each_other_on_sqlite() {
    sql_handlers_and_folds_see_each_other(Database::<Sqlite>::fresh().await, "mixed_sqlite").await;
}

#[tokio::test]
async fn sql_handlers_and_folds_see_each_other_on_postgres() {
    let db = Database::<Postgres>::fresh().await;
    sql_handlers_and_folds_see_each_other(db, "mixed_postgres").await;
}

/// A number with two decimals, which no column type of the library is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Money(i64);

impl std::fmt::Display for Money {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

impl std::str::FromStr for Money {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.replace('.', "").parse().map(Self)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Address {
    city: String,
}

/// Every type that a column has, but those of the library alone.
#[derive(ReadModel, Clone, Debug, PartialEq)]
#[read_model(table = "everything")]
struct Everything {
    #[read_model(key)]
    id: Uuid,
    text: String,
    bool: bool,
    i16: i16,
    i32: i32,
    i64: i64,
    f32: f32,
    f64: f64,
    bytes: Vec<u8>,
    uuid: Uuid,
    timestamp: DateTime<Utc>,
    date: NaiveDate,
    json: serde_json::Value,
    address: Json<Address>,
    none: Option<String>,
    some: Option<i32>,
    #[read_model(rename = "order")]
    r#type: Option<NaiveDate>,
    #[read_model(position)]
    as_of: i64,
}

#[derive(ReadModel, Clone, Debug, PartialEq)]
#[read_model(table = "prices")]
#[expect(clippy::struct_field_names, reason = "the price of a price")]
struct Price {
    #[read_model(key)]
    id: String,
    #[read_model(sql_type = "varchar(20)")]
    price: Money,
    #[read_model(sql_type = "varchar(20)")]
    discount: Option<Money>,
    #[read_model(sql_type = "varchar(20)")]
    tax: Option<Money>,
}

fn everything() -> Everything {
    Everything {
        id: Uuid::from_u128(7),
        text: "ü'\"".into(),
        bool: true,
        i16: i16::MIN,
        i32: i32::MAX,
        i64: i64::MIN,
        f32: 0.1,
        f64: 0.1,
        bytes: vec![0, 255],
        uuid: Uuid::from_u128(u128::MAX),
        timestamp: DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap(),
        date: "2026-02-28".parse().unwrap(),
        json: serde_json::json!({ "a": [1, null] }),
        address: Json(Address { city: "Ulm".into() }),
        none: None,
        some: Some(-1),
        r#type: "0001-01-01".parse().ok(),
        as_of: 1,
    }
}

#[derive(Default)]
struct AllTypes;

#[consumer(name = "all_types", group = "types", read_model = Everything)]
impl AllTypes {
    #[on("Filled", key = everything().id)]
    fn filled(_event: &PersistedEvent) -> Everything {
        Everything {
            as_of: 99,
            ..everything()
        }
    }

    #[on("Loaded", key = everything().id)]
    fn loaded(row: &mut Everything, event: &PersistedEvent) {
        assert_eq!(*row, everything());
        row.as_of = event.global_position;
    }
}

#[derive(Default)]
struct Prices;

#[consumer(name = "prices", group = "types", read_model = Price)]
impl Prices {
    #[on("Filled")]
    fn filled(event: &PersistedEvent) -> Price {
        Price {
            id: event.aggregate_id.clone(),
            price: Money(1_205),
            discount: Some(Money(5)),
            tax: None,
        }
    }

    #[on("Loaded")]
    fn loaded(row: &mut Option<Price>, event: &PersistedEvent) {
        assert_eq!(*row, Some(Self::filled(event)));
    }
}

test_on!([sqlite, postgres], every_type_is_stored_and_read);

async fn every_type_is_stored_and_read<DB: TestDatabase>(db: Database<DB>)
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    DB::Arguments: IntoArguments<DB>,
    for<'r> Everything: FromRow<'r, DB::Row>,
{
    let filled = named("Type", "a", "Filled");
    let loaded = || named("Type", "a", "Loaded");
    db.append_events(&[filled, loaded()]).await;
    run(&db, "types").await;
    // In a batch of its own it is loaded from the database.
    db.append_event(loaded()).await;
    run(&db, "types").await;
    let everything_stored = sqlx::query_as("SELECT * FROM everything_v1");
    let row: Everything = everything_stored.fetch_one(&db.pool).await.unwrap();
    assert_eq!(row, everything());
    assert_eq!(db.texts("SELECT price FROM prices_v1").await, ["12.05"]);
    let untaxed = "SELECT count(*) FROM prices_v1 WHERE tax IS NULL";
    assert_eq!(db.number(untaxed).await, 1);
}

#[test]
fn a_table_has_the_columns_of_the_struct() {
    assert_eq!(User::TABLE.name, "users");
    let columns: Vec<_> = User::TABLE
        .columns
        .iter()
        .map(|column| (column.name, column.role))
        .collect();
    assert_eq!(
        columns,
        [
            ("id", ColumnRole::Key),
            ("email", ColumnRole::Indexed),
            ("changes", ColumnRole::Plain),
            ("as_of", ColumnRole::Position),
        ]
    );
    let nullable: Vec<_> = Price::TABLE
        .columns
        .iter()
        .filter(|column| column.nullable)
        .map(|column| column.name)
        .collect();
    assert_eq!(nullable, ["discount", "tax"]);
    let renamed = Everything::TABLE
        .columns
        .iter()
        .any(|one| one.name == "order");
    assert!(renamed);
}

#[test]
fn r3_a_consumer_with_a_read_model_uses_the_transaction() {
    assert!(ErasedConsumer::<Sqlite>::uses_transaction(&Users));
    assert!(ErasedConsumer::<Postgres>::can_reset(&Users));
    let table = Some(User::TABLE);
    assert_eq!(ErasedConsumer::<Sqlite>::read_model(&Users), table);
    assert_eq!(ErasedConsumer::<Sqlite>::read_model(&MixedSqlite), table);
    assert_eq!(
        Registered::<Sqlite>::new(Users).declaration.read_model,
        table
    );
    let registry = Registry::<Postgres>::discover_group("users", &Dependencies::new()).unwrap();
    assert_eq!(registry.registered()[0].declaration.read_model, table);
}

#[derive(Default)]
struct Segmented;

#[consumer(name = "segmented", group = "segmented", segments = 4, read_model = Stock)]
impl Segmented {
    #[on("Counted")]
    fn counted(event: &PersistedEvent) -> Result<Stock, HandlerError> {
        Ok(Stock {
            sku: event.aggregate_id.parse()?,
            sold: 0,
            orders: 1,
        })
    }

    #[on("Sold", key = aggregate_id)]
    fn sold(stock: &mut Stock, _event: &PersistedEvent) {
        stock.sold += 1;
    }

    #[on("Sold", key = aggregate_id)]
    fn sold_again(stock: &mut Stock, _event: &PersistedEvent) {
        stock.sold *= 10;
    }
}

test_on!([sqlite, postgres], segments_share_no_row);

async fn segments_share_no_row<DB: TestDatabase>(db: Database<DB>) {
    for id in 0..20 {
        let counted = named("Stock", &id.to_string(), "Counted");
        let sold = named("Stock", &id.to_string(), "Sold");
        db.append_events(&[counted, sold]).await;
    }
    run(&db, "segmented").await;
    assert_eq!(
        db.number("SELECT count(*) FROM stock_v1 WHERE sold = 10")
            .await,
        20
    );
    db.append_event(named("Stock", "007", "Sold")).await;
    let report = run_into_error(&db, "segmented").await;
    assert!(report.contains("`007`"), "{report}");
}

#[test]
fn a_fold_can_be_called_by_hand() {
    // The functions that `fold_batch` calls are public, even for a consumer of the macro.
    type KeysOf<F> = fn(
        &F,
        &Context,
        &PersistedEvent,
        &mut Keys<'_, <<F as Fold>::Row as ReadModel>::Key>,
    ) -> Result<(), HandlerError>;

    fn keys_of<F: Fold>(_: &F) -> KeysOf<F> {
        F::keys
    }
    let _ = keys_of(&Users);
    let event = PersistedEvent::new(EventRecord::default());
    assert_eq!(User::new(&event.aggregate_id, "").key(), "");
    assert_eq!(Settings::DEFAULT, Consumer::<Sqlite>::settings(&Users));
}
