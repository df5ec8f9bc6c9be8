//! The strictest crate that there is has nothing to say about generated code, in every form of it.
#![forbid(unsafe_code)]
#![deny(
    warnings,
    missing_docs,
    unused,
    unreachable_pub,
    rust_2018_idioms,
    unused_qualifications,
    // Only `cargo clippy` looks at these two.
    clippy::all,
    clippy::pedantic
)]
// A handler is `async`, whether or not it waits for something.
#![allow(clippy::unused_async)]
#![deny(unused_results, single_use_lifetimes, trivial_bounds, unused_lifetimes)]

use consumer::MissingDependency;
use consumer::prelude::*;
use consumer::sqlx::{Database, Error as SqlxError, Sqlite};
use serde::{Deserialize, Serialize};

/// Registered.
#[derive(Event, Serialize, Deserialize, Debug)]
#[event(aggregate = "User", version = 2, upcast(1 = Old))]
pub struct UserRegistered {
    /// Where to write to.
    pub email: String,
}

/// How it was once.
#[derive(Deserialize, Debug)]
pub struct Old {
    /// Where to write to.
    pub mail: String,
}

impl From<Old> for UserRegistered {
    fn from(old: Old) -> Self {
        Self { email: old.mail }
    }
}

/// All of a user.
#[derive(Event, Serialize, Deserialize, Debug)]
#[event(aggregate = "User")]
pub enum UserEvent {
    /// Registered.
    Registered(UserRegistered),
    /// Another name.
    Renamed {
        /// The new one.
        name: String,
    },
    /// Gone.
    Deleted,
}

/// Sees users.
#[derive(Debug)]
pub struct Users;

#[consumer(name = "users", aggregates = [UserEvent])]
impl Users {
    /// Documentation stays.
    #[must_use]
    pub const fn helper(&self) -> u8 {
        7
    }

    /// Documentation stays here too.
    ///
    /// # Errors
    /// Never.
    #[on]
    #[allow(clippy::unused_async)]
    pub async fn registered(
        &self,
        tx: &mut SqliteConnection,
        event: Envelope<'_, UserRegistered>,
    ) -> Result<(), HandlerError> {
        drop((tx, event));
        Ok(())
    }

    #[on("Renamed")]
    async fn renamed(&self, _cx: &Context, _event: &PersistedEvent) -> Result<(), String> {
        Ok(())
    }

    #[on(other)]
    async fn other(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

/// Sees variants.
#[derive(Debug)]
pub struct Variants;

#[consumer(name = "variants", aggregates = [UserEvent])]
impl Variants {
    #[on(UserEvent::Registered)]
    async fn registered(
        &self,
        events: &[Envelope<'_, UserRegistered>],
    ) -> Result<(), HandlerError> {
        assert!(!events.is_empty());
        Ok(())
    }

    #[on(UserEvent::Renamed)]
    async fn renamed(&self, event: UserEvent) -> Result<(), HandlerError> {
        drop(event);
        Ok(())
    }

    #[on(UserEvent::Deleted)]
    async fn deleted(&self) -> Result<(), HandlerError> {
        Ok(())
    }
}

/// The only event of an order.
#[derive(Event, Serialize, Deserialize, Debug)]
#[event(aggregate = "Order")]
pub enum OrderEvent {
    /// Placed.
    #[event(version = 2, upcast(1 = placed))]
    Placed(Box<OrderContent>),
}

/// An order's content.
#[derive(Serialize, Deserialize, Debug)]
pub struct OrderContent {
    /// Where to write to.
    pub email: String,
}

/// The content of an order as it was once.
#[must_use]
pub fn placed(old: serde_json::Value) -> OrderContent {
    let email = match old {
        serde_json::Value::String(email) => email,
        other => other.to_string(),
    };
    OrderContent { email }
}

/// Sees everything.
#[consumer(name = "everything", database = any)]
#[derive(Debug)]
pub struct Everything;

impl<DB: Database> Handler<DB> for Everything {
    async fn handle(
        &self,
        _cx: &Context,
        _tx: &mut DB::Connection,
        _event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(())
    }
}

/// Sees whole batches, with every key.
#[derive(Debug)]
pub struct Batches {
    /// Where it came from.
    pub url: String,
}

impl Batches {
    /// Makes one.
    ///
    /// # Errors
    /// When nobody said where.
    pub fn connect(dependencies: &Dependencies) -> Result<Self, MissingDependency> {
        let url = dependencies.get::<String>()?.clone();
        Ok(Self { url })
    }
}

#[consumer(
    name = "batches",
    aggregates = ["User", "Order"],
    start_from = "now",
    on_error = "park",
    retries = 1,
    backoff = "1s..2s",
    batch_size = 1000,
    batch_time = "2s",
    handler_timeout = "1m",
    segments = 4,
    version = 2,
    group = "projections",
    init = Batches::connect
)]
impl Batches {
    async fn handle(
        &self,
        tx: &mut SqliteConnection,
        cx: &Context,
        events: &[PersistedEvent],
    ) -> Result<(), SqlxError> {
        let _ = (tx, cx, events, &self.url);
        Ok(())
    }

    #[on(reset)]
    async fn empty(&self, tx: &mut SqliteConnection, cx: &Context) -> Result<(), SqlxError> {
        let _ = (tx, cx, &self.url);
        Ok(())
    }
}

/// Sees runs.
#[derive(Debug, Default)]
pub struct Runs {
    /// How many.
    pub limit: usize,
}

#[consumer(name = "runs")]
impl Runs {
    #[on]
    async fn registered(
        &self,
        events: &[Envelope<'_, UserRegistered>],
        _cx: &Context,
    ) -> Result<(), HandlerError> {
        if events.len() > self.limit {
            return Err("too many".into());
        }
        Ok(())
    }

    #[on]
    async fn order(&self, _event: OrderPlaced) -> Result<(), HandlerError> {
        Ok(())
    }

    #[on(other)]
    async fn others(&self, _events: &[PersistedEvent]) -> Result<(), HandlerError> {
        Ok(())
    }
}

/// An order.
#[derive(Event, Serialize, Deserialize, Debug)]
#[event(aggregate = "Order")]
pub struct OrderPlaced {}

/// Sees one database, by hand.
#[consumer(name = "one_database", database = Sqlite, batch_size = 7)]
#[derive(Debug)]
pub struct OneDatabase;

impl Handler<Sqlite> for OneDatabase {
    async fn handle(
        &self,
        _cx: &Context,
        _tx: &mut SqliteConnection,
        _event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(())
    }
}

/// An event that is not appended any more.
#[deprecated = "use `UserRegistered`"]
#[derive(Event, Serialize, Deserialize, Debug)]
#[event(aggregate = "User")]
pub struct UserImported {
    /// Where to write to.
    #[deprecated]
    pub email: String,
}

/// A deprecated aggregate.
#[deprecated]
#[derive(Event, Serialize, Deserialize, Debug)]
#[event(aggregate = "Guest")]
pub enum GuestEvent {
    /// Invited.
    Invited(u32),
    /// Renamed.
    #[deprecated]
    Renamed {
        /// The new name.
        name: String,
    },
    /// Gone.
    #[deprecated]
    Left,
}

/// Sees deprecated events, and has a deprecated handler.
#[derive(Debug)]
pub struct Deprecated;

#[allow(deprecated)]
#[consumer(name = "deprecated", aggregates = ["User", GuestEvent])]
impl Deprecated {
    #[on]
    async fn imported(&self, _event: UserImported) -> Result<(), HandlerError> {
        Ok(())
    }

    #[on]
    async fn guest(&self, _event: GuestEvent) -> Result<(), HandlerError> {
        Ok(())
    }

    #[deprecated]
    #[on("UserInvited")]
    async fn invited(&self, _event: &PersistedEvent) -> Result<(), HandlerError> {
        Ok(())
    }
}

/// The row of a user.
#[derive(ReadModel, Debug, Clone, PartialEq)]
#[read_model(table = "user_rows")]
pub struct UserRow {
    /// Who.
    #[read_model(key)]
    pub id: String,
    /// Where to write to.
    #[read_model(index)]
    pub email: Option<String>,
    /// How much.
    #[read_model(sql_type = "numeric(20)")]
    pub amount: u64,
    /// Not used any more.
    #[deprecated]
    #[read_model(rename = "note")]
    pub comment: String,
    /// When.
    #[read_model(position)]
    pub as_of: i64,
}

/// Keeps rows.
#[derive(Debug)]
pub struct UserRows;

#[consumer(name = "user_rows", aggregates = [UserEvent], read_model = UserRow, segments = 2)]
impl UserRows {
    /// Documentation stays here too.
    #[on]
    fn registered(row: &mut Option<UserRow>, event: Envelope<'_, UserRegistered>) {
        if let Some(row) = row {
            row.email = Some(event.payload.email);
        }
    }

    #[on("Renamed")]
    fn renamed(_event: &PersistedEvent, _cx: &Context) -> Option<UserRow> {
        None
    }

    #[on(other)]
    fn other(_event: &PersistedEvent) {}
}

/// Keeps rows with other keys, and a handler with SQL.
#[derive(Debug)]
pub struct UserRowsByEmail;

#[consumer(name = "user_rows_by_email", read_model = UserRow)]
impl UserRowsByEmail {
    #[on(key = event.email)]
    fn registered(row: &mut UserRow, event: UserRegistered) -> Result<(), HandlerError> {
        if event.email.is_empty() {
            return Err("no e-mail address".into());
        }
        row.email = Some(event.email);
        Ok(())
    }

    #[on("Renamed", key = [event.global_position.to_string(), event.aggregate_id.clone()])]
    fn renamed(row: &mut UserRow, event: &PersistedEvent) {
        row.amount = event.payload.len() as u64;
    }

    #[on]
    async fn order(
        &self,
        tx: &mut SqliteConnection,
        _event: OrderPlaced,
    ) -> Result<(), HandlerError> {
        let _ = tx;
        Ok(())
    }
}

/// A row of a private type.
#[derive(ReadModel)]
#[read_model(table = "private_rows")]
struct PrivateRow {
    #[read_model(key)]
    id: i64,
    name: String,
}

struct PrivateRows;

#[consumer(name = "private_rows", read_model = PrivateRow)]
impl PrivateRows {
    #[on("A")]
    fn a(event: &PersistedEvent) -> PrivateRow {
        PrivateRow {
            id: event.global_position,
            name: String::new(),
        }
    }
}

fn main() {
    assert_eq!(Users.helper(), 7);
}
