//! The databases that can hold an event store.

use std::future::Future;
use std::sync::Arc;

use sqlx::database::HasStatementCache;
use sqlx::query::{Query, QueryScalar};
use sqlx::{AssertSqlSafe, Database, FromRow, Pool};

use super::append::{Append, Placed};
use super::read::ReadRange;
use super::{Schema, StoreError};
use crate::PersistedEvent;

/// A database that can hold an event store: Postgres or SQLite, each behind the feature of its name.
///
/// It is sealed: a dialect cannot be written elsewhere.
///
/// Only code that is generic over the database names it, as a bound:
///
/// ```
/// use consumer::{Backend, EventStore, PersistedEvent, StoreError};
///
/// async fn history<DB: Backend>(
///     store: &EventStore<DB>,
///     connection: &mut DB::Connection,
///     user: &str,
/// ) -> Result<Vec<PersistedEvent>, StoreError> {
///     store.read_aggregate(connection, "User", user, None, None).await
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "no event store runs on `{Self}`",
    label = "neither `Postgres` nor `Sqlite`",
    note = "use `PgEventStore` or `SqliteEventStore`, and turn on the feature `postgres` or `sqlite` of `consumer`"
)]
pub trait Backend: Database {
    /// The store's SQL for it.
    #[doc(hidden)]
    type Dialect: Dialect<Database = Self>;
}

/// What the store asks of a database; everything with SQL in it.
///
/// Its methods take a connection, so that the caller decides about the transaction.
pub trait Dialect: 'static {
    /// The database that it is for.
    type Database: Database;

    /// The SQL of one mapping, written out once.
    type Statements: Send + Sync + 'static;

    /// How a transaction that appends begins.
    const BEGIN: &'static str;

    /// Refuses a mapping that makes no sense on this database.
    fn accepts(schema: &Schema) -> Result<(), StoreError>;

    /// Whether the connections of a pool may keep prepared statements.
    fn keeps_statements(pool: &Pool<Self::Database>) -> bool;

    /// Writes out the SQL.
    fn statements(settings: &StoreSettings) -> Self::Statements;

    /// Opens a pool, after one connection has shown that there is something to open.
    fn open(url: &str) -> impl Future<Output = Result<Opened<Self::Database>, StoreError>> + Send;

    /// The whole migration as a script that can be run any number of times.
    fn migration_sql(statements: &Self::Statements) -> String;

    /// Brings the tables up to date, in one transaction of its own.
    fn migrate(
        pool: &Pool<Self::Database>,
        statements: &Self::Statements,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Looks whether the tables are there, up to date, and have the columns of the mapping.
    fn check(
        pool: &Pool<Self::Database>,
        statements: &Self::Statements,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Stores events.
    fn append(
        tx: &mut Connection<Self>,
        statements: &Self::Statements,
        append: &Append<'_>,
    ) -> impl Future<Output = Result<Vec<Placed>, StoreError>> + Send;

    /// Reads the log after a position.
    fn read_events(
        conn: &mut Connection<Self>,
        statements: &Self::Statements,
        after: i64,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<PersistedEvent>, StoreError>> + Send;

    /// Reads a part of the log within a budget of bytes.
    fn read_range(
        conn: &mut Connection<Self>,
        statements: &Self::Statements,
        range: ReadRange<'_>,
    ) -> impl Future<Output = Result<Vec<PersistedEvent>, StoreError>> + Send;

    /// Reads one aggregate, from and to a version, both inclusive.
    fn read_aggregate(
        conn: &mut Connection<Self>,
        statements: &Self::Statements,
        aggregate: (&str, &str),
        from: i64,
        to: i64,
    ) -> impl Future<Output = Result<Vec<PersistedEvent>, StoreError>> + Send;

    /// The highest visible position.
    fn latest_global_position(
        conn: &mut Connection<Self>,
        statements: &Self::Statements,
    ) -> impl Future<Output = Result<i64, StoreError>> + Send;
}

/// A connection to the database of a dialect.
type Connection<D> = <<D as Dialect>::Database as Database>::Connection;

/// An open pool, and what must live as long as it.
pub struct Opened<DB: Database> {
    pub(crate) pool: Pool<DB>,
    /// An in-memory database ends with its last connection, and a pool may close any of its own.
    pub(crate) anchor: Option<DB::Connection>,
}

/// What the SQL of a store depends on.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    pub(crate) schema: Schema,
    /// Whether appends notify.
    pub(crate) notify: bool,
    /// Whether statements are prepared under a name, to be run again.
    pub(crate) keep_statements: bool,
}

/// One statement; cheap to run again and again.
#[derive(Clone)]
pub(crate) struct Sql {
    text: Arc<str>,
    keep: bool,
}

impl Sql {
    pub(crate) fn new(settings: &StoreSettings, text: &str) -> Self {
        Self {
            text: settings.schema.render(text).into(),
            keep: settings.keep_statements,
        }
    }

    /// The statement, ready for its parameters.
    pub(crate) fn query<DB: Database + HasStatementCache>(
        &self,
    ) -> Query<'static, DB, DB::Arguments> {
        sqlx::query(self.safe()).persistent(self.keep)
    }

    /// The statement, of whose result one value counts.
    pub(crate) fn scalar<DB: Database + HasStatementCache, T>(
        &self,
    ) -> QueryScalar<'static, DB, T, DB::Arguments>
    where
        (T,): for<'r> FromRow<'r, DB::Row>,
    {
        sqlx::query_scalar(self.safe()).persistent(self.keep)
    }

    /// Only rendered statements get here: constants of the dialects, with checked identifiers.
    pub(crate) fn safe(&self) -> AssertSqlSafe<Arc<str>> {
        AssertSqlSafe(Arc::clone(&self.text))
    }
}

impl AsRef<str> for Sql {
    fn as_ref(&self) -> &str {
        &self.text
    }
}
