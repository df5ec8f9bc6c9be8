//! The rows of read models on SQLite: a statement binds each value.

use std::mem::replace;

use sqlx::sqlite::{Sqlite, SqliteConnection};

use crate::backend::driver::PlainQuery;
use crate::backend::find::find_row;
use crate::backend::read_model::{
    Budget, clear, content, load_all, names, on_conflict, qualified, select, statement, table_name,
    values, with_type,
};
use crate::contract::read_model::{
    ColumnType, FindError, Loaded, ReadModelDatabase, Table, TableColumn, Value, VersionTable,
};
use crate::contract::{BatchFuture, HandlerError};

type Statement = PlainQuery<Sqlite>;

/// The schema of the database's own file: a temporary table of the same name must not come first.
const MAIN: Option<&str> = Some("main");

/// How many rows one statement takes at most.
const MOST_ROWS: usize = 512;

/// How many parameters a statement may have.
const MOST_PARAMETERS: usize = 32_766;

impl ReadModelDatabase for Sqlite {
    fn load<'a>(
        tx: &'a mut SqliteConnection,
        table: &'a VersionTable<'a>,
        keys: &'a [Vec<Value>],
        max_bytes: usize,
    ) -> BatchFuture<'a, Result<Loaded, HandlerError>> {
        Box::pin(async move {
            let columns = table.table();
            let select = select(columns, &table_name(table, MAIN));
            let mut budget = Budget::of(max_bytes);
            let mut loaded = Vec::new();
            for keys in statements(keys.to_vec(), columns.key().count()) {
                let text = format!("{select} WHERE {}", matching(columns, keys.len()));
                let query = bind_rows(statement(text), columns.key(), keys)?;
                let rows = query.try_map(|row| budget.spend(values::<Sqlite>(columns, &row)?));
                match rows.fetch_all(&mut *tx).await {
                    Ok(rows) => loaded.extend(rows),
                    failed => return budget.loaded(failed),
                }
            }
            Ok(Loaded::Rows(loaded))
        })
    }

    fn load_all<'a>(
        connection: &'a mut SqliteConnection,
        table: &'a VersionTable<'a>,
    ) -> BatchFuture<'a, Result<Vec<Vec<Value>>, HandlerError>> {
        load_all::<Self>(connection, table, MAIN)
    }

    fn insert<'a>(
        tx: &'a mut SqliteConnection,
        table: &'a VersionTable<'a>,
        rows: Vec<Vec<Value>>,
    ) -> BatchFuture<'a, Result<(), HandlerError>> {
        Box::pin(write(tx, table, rows, String::new()))
    }

    fn upsert<'a>(
        tx: &'a mut SqliteConnection,
        table: &'a VersionTable<'a>,
        rows: Vec<Vec<Value>>,
    ) -> BatchFuture<'a, Result<(), HandlerError>> {
        Box::pin(write(tx, table, rows, on_conflict(table.table())))
    }

    fn delete<'a>(
        tx: &'a mut SqliteConnection,
        table: &'a VersionTable<'a>,
        keys: Vec<Vec<Value>>,
    ) -> BatchFuture<'a, Result<(), HandlerError>> {
        Box::pin(async move {
            let columns = table.table();
            let delete = format!("DELETE FROM {}", table_name(table, MAIN));
            let write = |keys| format!("{delete} WHERE {}", matching(columns, keys));
            execute_all(tx, columns.key(), keys, write).await
        })
    }

    fn clear<'a>(
        tx: &'a mut SqliteConnection,
        table: &'a VersionTable<'a>,
    ) -> BatchFuture<'a, Result<(), HandlerError>> {
        clear::<Self>(tx, table, MAIN)
    }

    fn find<'a>(
        connection: &'a mut SqliteConnection,
        table: &'static Table,
        schema: Option<&'a str>,
        key: Vec<Value>,
    ) -> BatchFuture<'a, Result<Option<Vec<Value>>, FindError>> {
        Box::pin(async move {
            let schema = table.schema().or(schema);
            let from = qualified(schema, table.bare_name());
            let text = format!("{} WHERE {}", select(table, &from), matching(table, 1));
            let find = bind_rows(statement(text), table.key(), vec![key])?;
            find_row::<Sqlite>(connection, table, schema, find).await
        })
    }
}

async fn write(
    tx: &mut SqliteConnection,
    table: &VersionTable<'_>,
    rows: Vec<Vec<Value>>,
    on_conflict: String,
) -> Result<(), HandlerError> {
    let columns = table.table().columns;
    let (name, names) = (table_name(table, MAIN), names(columns));
    let text = |rows| {
        let values = tuples(rows, columns.len());
        format!("INSERT INTO {name} ({names}) VALUES {values}{on_conflict}")
    };
    execute_all(tx, columns, rows, text).await
}

/// Divides rows into those of one statement each. Their numbers are powers of two, so that there are few
/// different statements, which the connection keeps prepared.
fn statements(
    mut rows: Vec<Vec<Value>>,
    columns: usize,
) -> impl Iterator<Item = Vec<Vec<Value>>> + Send {
    let most = (MOST_PARAMETERS / columns.max(1)).clamp(1, MOST_ROWS);
    std::iter::from_fn(move || {
        let count = 1 << rows.len().min(most).checked_ilog2()?;
        let rest = rows.split_off(count);
        Some(replace(&mut rows, rest))
    })
}

/// Executes a statement over rows of some columns, as often as it takes; `text` is the statement for a
/// number of rows.
async fn execute_all<'t>(
    tx: &mut SqliteConnection,
    columns: impl IntoIterator<Item = &'t TableColumn, IntoIter: Clone + Send>,
    rows: Vec<Vec<Value>>,
    text: impl Fn(usize) -> String + Send,
) -> Result<(), HandlerError> {
    let columns = columns.into_iter();
    for rows in statements(rows, columns.clone().count()) {
        let query = bind_rows(statement(text(rows.len())), columns.clone(), rows)?;
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

/// The condition on rows that have one of the keys.
fn matching(table: &Table, keys: usize) -> String {
    let key = names(table.key());
    match table.key().count() {
        1 => format!("{key} IN {}", tuple(keys)),
        columns => format!("({key}) IN (VALUES {})", tuples(keys, columns)),
    }
}

/// `(?,?), (?,?)`
fn tuples(count: usize, columns: usize) -> String {
    vec![tuple(columns); count].join(",")
}

/// `(?,?)`
fn tuple(columns: usize) -> String {
    format!("({})", vec!["?"; columns].join(","))
}

fn bind_rows<'t>(
    mut query: Statement,
    columns: impl IntoIterator<Item = &'t TableColumn>,
    rows: Vec<Vec<Value>>,
) -> Result<Statement, sqlx::Error> {
    let types: Vec<ColumnType> = columns
        .into_iter()
        .map(|column| column.column_type)
        .collect();
    for row in rows {
        for (column, value) in types.iter().zip(row) {
            query = bind(query, *column, value)?;
        }
    }
    Ok(query)
}

fn bind(query: Statement, column: ColumnType, value: Value) -> Result<Statement, sqlx::Error> {
    macro_rules! bind {
        ($type:ty, $($variant:ident)|+) => {{
            let content: Result<Option<$type>, sqlx::Error> =
                content!(value, column, $($variant)|+);
            query.bind(content?)
        }};
    }
    Ok(with_type!(column, bind))
}
