//! Reads a row through the view of a read model.

use sqlx::Connection as _;

use super::Backend;
use super::driver::PlainQuery;
use super::read_model::values;
use crate::contract::read_model::{FindError, Table, Value};

/// Runs a query for one row. If it fails since the view shows another version than that of the struct,
/// the error says so.
pub(super) async fn find_row<DB: Backend>(
    connection: &mut DB::Connection,
    table: &'static Table,
    schema: Option<&str>,
    query: PlainQuery<DB>,
) -> Result<Option<Vec<Value>>, FindError> {
    let found = if connection.is_in_transaction() {
        read_in_savepoint::<DB>(connection, table, query).await
    } else {
        read::<DB>(connection, table, query).await
    };
    match found {
        Ok(found) => Ok(found),
        Err(error) => Err(explained::<DB>(connection, table, schema, error).await),
    }
}

/// On Postgres, an error ends the transaction: nothing more could be asked in it.
async fn read_in_savepoint<DB: Backend>(
    connection: &mut DB::Connection,
    table: &Table,
    query: PlainQuery<DB>,
) -> Result<Option<Vec<Value>>, sqlx::Error> {
    let mut savepoint = connection.begin().await?;
    let found = read::<DB>(&mut savepoint, table, query).await;
    match found {
        Ok(found) => savepoint.commit().await.map(|()| found),
        Err(error) => {
            // A second error would say less.
            let _ = savepoint.rollback().await;
            Err(error)
        }
    }
}

async fn read<DB: Backend>(
    connection: &mut DB::Connection,
    table: &Table,
    query: PlainQuery<DB>,
) -> Result<Option<Vec<Value>>, sqlx::Error> {
    let row = DB::fetch_row(connection, query).await?;
    row.map(|row| values::<DB>(table, &row)).transpose()
}

#[cfg(feature = "worker")]
async fn explained<DB: Backend>(
    connection: &mut DB::Connection,
    table: &'static Table,
    schema: Option<&str>,
    error: sqlx::Error,
) -> FindError {
    let other = super::shown_version::other_version::<DB>(connection, table, schema).await;
    other.unwrap_or_else(|| error.into())
}

#[cfg(not(feature = "worker"))]
async fn explained<DB: Backend>(
    _: &mut DB::Connection,
    _: &'static Table,
    _: Option<&str>,
    error: sqlx::Error,
) -> FindError {
    error.into()
}
