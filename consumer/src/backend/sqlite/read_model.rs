//! The rows of read models on SQLite: a statement binds each value.

use std::mem::replace;

use sqlx::sqlite::{Sqlite, SqliteConnection};

use crate::backend::driver::PlainQuery;
use crate::backend::read_model::{
    Budget, ReadModelRows, content, names, select, statement, table_name, values, with_type,
};
use crate::contract::HandlerError;
use crate::contract::read_model::{ColumnType, Loaded, Table, TableColumn, Value, VersionTable};

type Statement = PlainQuery<Sqlite>;

/// How many rows one statement takes at most.
const MOST_ROWS: usize = 512;

/// How many parameters a statement may have.
const MOST_PARAMETERS: usize = 32_766;

impl ReadModelRows for Sqlite {
    /// The database's own file: a temporary table of the same name must not come first.
    const SCHEMA: Option<&'static str> = Some("main");

    async fn load_rows(
        tx: &mut SqliteConnection,
        table: &VersionTable<'_>,
        keys: &[Vec<Value>],
        max_bytes: usize,
    ) -> Result<Loaded, HandlerError> {
        let columns = table.table();
        let select = select(columns, &table_name::<Sqlite>(table));
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
    }

    async fn write_rows(
        tx: &mut SqliteConnection,
        table: &VersionTable<'_>,
        rows: Vec<Vec<Value>>,
        on_conflict: String,
    ) -> Result<(), HandlerError> {
        let columns = table.table().columns;
        let (name, names) = (table_name::<Sqlite>(table), names(columns));
        let text = |rows| {
            let values = tuples(rows, columns.len());
            format!("INSERT INTO {name} ({names}) VALUES {values}{on_conflict}")
        };
        execute_all(tx, columns, rows, text).await
    }

    async fn delete_rows(
        tx: &mut SqliteConnection,
        table: &VersionTable<'_>,
        keys: Vec<Vec<Value>>,
    ) -> Result<(), HandlerError> {
        let columns = table.table();
        let delete = format!("DELETE FROM {}", table_name::<Sqlite>(table));
        let text = |keys| format!("{delete} WHERE {}", matching(columns, keys));
        execute_all(tx, columns.key(), keys, text).await
    }

    fn find_query(table: &Table, select: &str, key: Vec<Value>) -> Result<Statement, sqlx::Error> {
        let text = format!("{select} WHERE {}", matching(table, 1));
        bind_rows(statement(text), table.key(), vec![key])
    }
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
