//! The operations of a database on read models.

use sqlx::Database;

use super::error::FindError;
use super::table::{Table, VersionTable};
use super::value::Value;
use crate::contract::{BoxFuture, HandlerError};

/// The rows that [`ReadModelDatabase::load`] has read.
#[derive(Debug)]
pub enum Loaded {
    /// All rows.
    Rows(Vec<Vec<Value>>),
    /// This number of rows needed too much memory; there may be more.
    TooLarge(usize),
}

/// A database in which the library keeps read models: Postgres or SQLite, each behind the feature of
/// its name.
///
/// The rows of a call have the values of all columns, in the order of the table; keys have those of
/// the key's columns.
#[diagnostic::on_unimplemented(
    message = "the library keeps no read models in `{Self}`",
    label = "neither `Postgres` nor `Sqlite`",
    note = "use one of the two, and turn on the feature `postgres` or `sqlite` of `consumer`"
)]
pub trait ReadModelDatabase: Database {
    /// Reads the rows that have one of the keys, in any order, unless they need more than `max_bytes`
    /// of memory.
    fn load<'a>(
        tx: &'a mut Self::Connection,
        table: &'a VersionTable<'a>,
        keys: &'a [Vec<Value>],
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Loaded, HandlerError>>;

    /// Reads all rows, in any order.
    fn load_all<'a>(
        connection: &'a mut Self::Connection,
        table: &'a VersionTable<'a>,
    ) -> BoxFuture<'a, Result<Vec<Vec<Value>>, HandlerError>>;

    /// Inserts rows with different keys, none of which the table has.
    ///
    /// Fails if there is such a row after all, and for the reasons of [`upsert`](Self::upsert).
    fn insert<'a>(
        tx: &'a mut Self::Connection,
        table: &'a VersionTable<'a>,
        rows: Vec<Vec<Value>>,
    ) -> BoxFuture<'a, Result<(), HandlerError>>;

    /// Inserts rows with different keys, or updates those that exist.
    ///
    /// Fails if the database stores another text than it was given in a column of the type
    /// [`Other`](super::ColumnType::Other).
    fn upsert<'a>(
        tx: &'a mut Self::Connection,
        table: &'a VersionTable<'a>,
        rows: Vec<Vec<Value>>,
    ) -> BoxFuture<'a, Result<(), HandlerError>>;

    /// Deletes the rows that have one of the keys.
    fn delete<'a>(
        tx: &'a mut Self::Connection,
        table: &'a VersionTable<'a>,
        keys: Vec<Vec<Value>>,
    ) -> BoxFuture<'a, Result<(), HandlerError>>;

    /// Reads the row that has a key through the view over the active version. Unless the name of the
    /// table or `schema` gives one, the session's `search_path` decides on its schema.
    fn find<'a>(
        connection: &'a mut Self::Connection,
        table: &'static Table,
        schema: Option<&'a str>,
        key: Vec<Value>,
    ) -> BoxFuture<'a, Result<Option<Vec<Value>>, FindError>>;

    /// Deletes all rows.
    fn clear<'a>(
        tx: &'a mut Self::Connection,
        table: &'a VersionTable<'a>,
    ) -> BoxFuture<'a, Result<(), HandlerError>>;
}
