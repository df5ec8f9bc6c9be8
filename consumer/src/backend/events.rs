//! The log half of a backend: what the event store asks of a database.

use std::future::Future;

use sqlx::{Database, Pool};

use super::append::{Append, Placed};
use super::read::ReadRange;
use super::{Schema, StoreError, StoreSettings};
use crate::contract::PersistedEvent;

/// The log of a database: its tables, and how events are appended and read.
///
/// The methods take a connection, so that the caller decides about the transaction.
pub trait Events: Database {
    /// The statements of one mapping.
    type EventStatements: Send + Sync + 'static;

    /// The statement that begins a transaction which appends.
    const BEGIN_APPEND: &'static str;

    /// Refuses a mapping that makes no sense on this database.
    fn accepts(schema: &Schema) -> Result<(), StoreError>;

    /// Whether the connections of a pool may keep prepared statements.
    fn keeps_statements(pool: &Pool<Self>) -> bool;

    /// Writes out the SQL.
    fn event_statements(settings: &StoreSettings) -> Self::EventStatements;

    /// Opens a pool, after one connection has shown that there is something to open.
    fn open_pool(url: &str) -> impl Future<Output = Result<Opened<Self>, StoreError>> + Send;

    /// The whole migration as a script that can be run any number of times.
    fn migration_sql(statements: &Self::EventStatements) -> String;

    /// Brings the tables up to date, in one transaction of its own.
    fn migrate(
        pool: &Pool<Self>,
        statements: &Self::EventStatements,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Looks whether the tables are there, up to date, and have the columns of the mapping.
    fn check(
        pool: &Pool<Self>,
        statements: &Self::EventStatements,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Stores events.
    fn append(
        tx: &mut Self::Connection,
        statements: &Self::EventStatements,
        append: &Append<'_>,
    ) -> impl Future<Output = Result<Vec<Placed>, StoreError>> + Send;

    /// Reads the log after a position.
    fn read_events(
        conn: &mut Self::Connection,
        statements: &Self::EventStatements,
        after: i64,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<PersistedEvent>, StoreError>> + Send;

    /// Reads a part of the log within a budget of bytes.
    fn read_range(
        conn: &mut Self::Connection,
        statements: &Self::EventStatements,
        range: ReadRange<'_>,
    ) -> impl Future<Output = Result<Vec<PersistedEvent>, StoreError>> + Send;

    /// Reads one aggregate, from and to a version, both inclusive.
    fn read_aggregate(
        conn: &mut Self::Connection,
        statements: &Self::EventStatements,
        aggregate: (&str, &str),
        from: i64,
        to: i64,
    ) -> impl Future<Output = Result<Vec<PersistedEvent>, StoreError>> + Send;

    /// The highest visible position.
    fn latest_global_position(
        conn: &mut Self::Connection,
        statements: &Self::EventStatements,
    ) -> impl Future<Output = Result<i64, StoreError>> + Send;
}

/// An open pool, and what must live as long as it.
pub struct Opened<DB: Database> {
    pub(crate) pool: Pool<DB>,
    /// An in-memory database ends with its last connection, and a pool may close any of its own.
    pub(crate) anchor: Option<DB::Connection>,
}
