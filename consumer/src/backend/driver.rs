//! The requirements that SQL shared by both databases has of a driver.
//!
//! sqlx says for each pair of a type and a database whether one carries the other. Gathered in
//! [`Driver`], these bounds let ordinary generic code bind parameters and decode rows.

use std::future::Future;
use std::pin::Pin;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::database::HasStatementCache;
use sqlx::query::Query;
use sqlx::{
    ColumnIndex, Database, Decode, Encode, Executor, IntoArguments, Row as _, SqlStr, Type,
};
use uuid::Uuid;

use super::dialect::Dialect;

/// A statement of the library on its way to a database.
pub(crate) type PlainQuery<DB> = Query<'static, DB, <DB as Database>::Arguments>;

/// A database whose driver carries the values that the library's tables consist of.
pub trait Driver:
    Database
    + HasStatementCache
    + Executes
    + for<'q> Binds<'q, i32>
    + for<'q> Binds<'q, i64>
    + for<'q> Binds<'q, Option<i64>>
    + for<'q> Binds<'q, &'q str>
    + for<'q> Binds<'q, Option<&'q str>>
    + for<'q> Binds<'q, Vec<u8>>
    + Reads<bool>
    + Reads<i32>
    + Reads<i64>
    + Reads<String>
    + Reads<Option<bool>>
    + Reads<Option<i16>>
    + Reads<Option<i32>>
    + Reads<Option<i64>>
    + Reads<Option<f32>>
    + Reads<Option<f64>>
    + Reads<Option<String>>
    + Reads<Option<Vec<u8>>>
    + Reads<Option<Uuid>>
    + Reads<Option<DateTime<Utc>>>
    + Reads<Option<NaiveDate>>
{
    /// The words of the database.
    const DIALECT: Dialect;

    /// The number of rows that a statement changed.
    fn rows_affected(result: &Self::QueryResult) -> u64;

    /// Adds the text of an error as a parameter, for `{message $}` of the [`Dialect`].
    fn bind_message(query: PlainQuery<Self>, text: Option<String>) -> PlainQuery<Self>;
}

/// Takes values of a type as parameters.
pub trait Binds<'q, T>: Database {
    /// Adds a parameter.
    fn bind(query: PlainQuery<Self>, value: T) -> PlainQuery<Self>;
}

impl<'q, DB: Database, T> Binds<'q, T> for DB
where
    T: Encode<'q, DB> + Type<DB>,
{
    fn bind(query: PlainQuery<DB>, value: T) -> PlainQuery<DB> {
        query.bind(value)
    }
}

/// Decodes values of a type.
pub trait Reads<T>: Database {
    /// Decodes the column of a name.
    fn read(row: &Self::Row, column: &str) -> Result<T, sqlx::Error>;

    /// Decodes the column at an index.
    fn read_at(row: &Self::Row, index: usize) -> Result<T, sqlx::Error>;
}

impl<DB: Database, T> Reads<T> for DB
where
    T: for<'r> Decode<'r, DB> + Type<DB>,
    usize: ColumnIndex<DB::Row>,
    for<'c> &'c str: ColumnIndex<DB::Row>,
{
    fn read(row: &DB::Row, column: &str) -> Result<T, sqlx::Error> {
        row.try_get(column)
    }

    fn read_at(row: &DB::Row, index: usize) -> Result<T, sqlx::Error> {
        row.try_get(index)
    }
}

/// Runs statements.
pub trait Executes: Database {
    /// Runs a statement whose rows do not matter.
    fn execute_query(
        connection: &mut Self::Connection,
        query: PlainQuery<Self>,
    ) -> impl Future<Output = Result<Self::QueryResult, sqlx::Error>> + Send;

    /// Runs a statement and returns its rows.
    fn fetch_rows(
        connection: &mut Self::Connection,
        query: PlainQuery<Self>,
    ) -> impl Future<Output = Result<Vec<Self::Row>, sqlx::Error>> + Send;

    /// Runs a statement and decodes each row as it arrives, so that no two copies of all of them are in
    /// memory.
    fn fetch_decoded<'c, T: Send + Unpin + 'c>(
        connection: &'c mut Self::Connection,
        query: PlainQuery<Self>,
        decode: impl FnMut(Self::Row) -> Result<T, sqlx::Error> + Send + 'c,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<T>, sqlx::Error>> + Send + 'c>>;

    /// Runs a statement and returns its first row, if there is one.
    fn fetch_row(
        connection: &mut Self::Connection,
        query: PlainQuery<Self>,
    ) -> impl Future<Output = Result<Option<Self::Row>, sqlx::Error>> + Send;

    /// Runs statements without parameters as one message, and returns the rows.
    fn fetch_script(
        connection: &mut Self::Connection,
        sql: SqlStr,
    ) -> impl Future<Output = Result<Vec<Self::Row>, sqlx::Error>> + Send;
}

impl<DB: Database> Executes for DB
where
    DB::Arguments: IntoArguments<DB>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    fn execute_query(
        connection: &mut DB::Connection,
        query: PlainQuery<DB>,
    ) -> impl Future<Output = Result<DB::QueryResult, sqlx::Error>> + Send {
        connection.execute(query)
    }

    fn fetch_rows(
        connection: &mut DB::Connection,
        query: PlainQuery<DB>,
    ) -> impl Future<Output = Result<Vec<DB::Row>, sqlx::Error>> + Send {
        connection.fetch_all(query)
    }

    fn fetch_decoded<'c, T: Send + Unpin + 'c>(
        connection: &'c mut DB::Connection,
        query: PlainQuery<DB>,
        decode: impl FnMut(DB::Row) -> Result<T, sqlx::Error> + Send + 'c,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<T>, sqlx::Error>> + Send + 'c>> {
        // Boxed, since the compiler cannot prove elsewhere that the future is `Send`.
        Box::pin(query.try_map(decode).fetch_all(connection))
    }

    fn fetch_row(
        connection: &mut DB::Connection,
        query: PlainQuery<DB>,
    ) -> impl Future<Output = Result<Option<DB::Row>, sqlx::Error>> + Send {
        connection.fetch_optional(query)
    }

    fn fetch_script(
        connection: &mut DB::Connection,
        sql: SqlStr,
    ) -> impl Future<Output = Result<Vec<DB::Row>, sqlx::Error>> + Send {
        connection.fetch_all(sqlx::raw_sql(sql))
    }
}
