//! The operations on read models, on every database.

use sqlx::Connection as _;

use super::Backend;
use super::driver::PlainQuery;
use super::read_model::{on_conflict, qualified, select, statement, table_name, values};
use crate::contract::read_model::{
    FindError, Loaded, ReadModelDatabase, Table, Value, VersionTable,
};
use crate::contract::{BoxFuture, HandlerError};

#[diagnostic::do_not_recommend]
impl<DB: Backend> ReadModelDatabase for DB {
    fn load<'a>(
        tx: &'a mut DB::Connection,
        table: &'a VersionTable<'a>,
        keys: &'a [Vec<Value>],
        max_bytes: usize,
    ) -> BoxFuture<'a, Result<Loaded, HandlerError>> {
        Box::pin(DB::load_rows(tx, table, keys, max_bytes))
    }

    fn load_all<'a>(
        connection: &'a mut DB::Connection,
        table: &'a VersionTable<'a>,
    ) -> BoxFuture<'a, Result<Vec<Vec<Value>>, HandlerError>> {
        let columns = table.table();
        let query = statement::<DB>(select(columns, &table_name::<DB>(table)));
        // Only tests read all rows: no connection needs to keep the statement.
        let query = query.persistent(false);
        let rows = DB::fetch_decoded(connection, query, |row| values::<DB>(columns, &row));
        Box::pin(async move { Ok(rows.await?) })
    }

    fn insert<'a>(
        tx: &'a mut DB::Connection,
        table: &'a VersionTable<'a>,
        rows: Vec<Vec<Value>>,
    ) -> BoxFuture<'a, Result<(), HandlerError>> {
        Box::pin(DB::write_rows(tx, table, rows, String::new()))
    }

    fn upsert<'a>(
        tx: &'a mut DB::Connection,
        table: &'a VersionTable<'a>,
        rows: Vec<Vec<Value>>,
    ) -> BoxFuture<'a, Result<(), HandlerError>> {
        Box::pin(DB::write_rows(tx, table, rows, on_conflict(table.table())))
    }

    fn delete<'a>(
        tx: &'a mut DB::Connection,
        table: &'a VersionTable<'a>,
        keys: Vec<Vec<Value>>,
    ) -> BoxFuture<'a, Result<(), HandlerError>> {
        Box::pin(DB::delete_rows(tx, table, keys))
    }

    fn find<'a>(
        connection: &'a mut DB::Connection,
        table: &'static Table,
        schema: Option<&'a str>,
        key: Vec<Value>,
    ) -> BoxFuture<'a, Result<Option<Vec<Value>>, FindError>> {
        Box::pin(async move {
            let schema = table.schema().or(schema);
            let from = qualified(schema, table.bare_name());
            let find = DB::find_query(table, &select(table, &from), key)?;
            find_row::<DB>(connection, table, schema, find).await
        })
    }

    fn clear<'a>(
        tx: &'a mut DB::Connection,
        table: &'a VersionTable<'a>,
    ) -> BoxFuture<'a, Result<(), HandlerError>> {
        let clear = statement::<DB>(format!("DELETE FROM {}", table_name::<DB>(table)));
        Box::pin(async move {
            DB::execute_query(tx, clear).await?;
            Ok(())
        })
    }
}

/// Runs a query for one row. If it fails since the view shows another version than that of the struct,
/// the error says so.
async fn find_row<DB: Backend>(
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
