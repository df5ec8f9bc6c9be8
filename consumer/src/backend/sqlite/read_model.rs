//! The rows of read models on SQLite: a statement binds each value.

use std::mem::replace;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use crate::backend::read_model::{
    Budget, content, names, on_conflict, other_type, qualified, select, table_name,
};
use crate::contract::read_model::{
    ColumnType, Loaded, ReadModelDatabase, Table, TableColumn, Value, VersionTable,
};
use crate::contract::{BatchFuture, HandlerError};

type Statement = Query<'static, Sqlite, SqliteArguments>;

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
                let rows = query.try_map(|row| budget.spend(values(columns, &row)?));
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
        Box::pin(async move {
            let columns = table.table();
            let query = statement(select(columns, &table_name(table, MAIN)));
            let rows = query.fetch_all(connection).await?;
            let rows = rows.iter().map(|row| values(columns, row));
            Ok(rows.collect::<Result<_, sqlx::Error>>()?)
        })
    }

    fn upsert<'a>(
        tx: &'a mut SqliteConnection,
        table: &'a VersionTable<'a>,
        rows: Vec<Vec<Value>>,
    ) -> BatchFuture<'a, Result<(), HandlerError>> {
        Box::pin(async move {
            let columns = table.table().columns;
            let insert = format!(
                "INSERT INTO {} ({})",
                table_name(table, MAIN),
                names(columns)
            );
            let on_conflict = on_conflict(table.table());
            for rows in statements(rows, columns.len()) {
                let values = tuples(rows.len(), columns.len());
                let text = format!("{insert} VALUES {values}{on_conflict}");
                bind_rows(statement(text), columns, rows)?
                    .execute(&mut *tx)
                    .await?;
            }
            Ok(())
        })
    }

    fn delete<'a>(
        tx: &'a mut SqliteConnection,
        table: &'a VersionTable<'a>,
        keys: Vec<Vec<Value>>,
    ) -> BatchFuture<'a, Result<(), HandlerError>> {
        Box::pin(async move {
            let columns = table.table();
            let delete = format!("DELETE FROM {}", table_name(table, MAIN));
            for keys in statements(keys, columns.key().count()) {
                let text = format!("{delete} WHERE {}", matching(columns, keys.len()));
                bind_rows(statement(text), columns.key(), keys)?
                    .execute(&mut *tx)
                    .await?;
            }
            Ok(())
        })
    }

    fn clear<'a>(
        tx: &'a mut SqliteConnection,
        table: &'a VersionTable<'a>,
    ) -> BatchFuture<'a, Result<(), HandlerError>> {
        Box::pin(async move {
            let clear = format!("DELETE FROM {}", table_name(table, MAIN));
            statement(clear).execute(tx).await?;
            Ok(())
        })
    }

    fn find(view: &VersionTable<'_>, key: Vec<Value>) -> Result<Statement, HandlerError> {
        let table = view.table();
        let from = qualified(view.schema(), view.view_name());
        let text = format!("{} WHERE {}", select(table, &from), matching(table, 1));
        bind_rows(statement(text), table.key(), vec![key])
    }

    fn values(table: &Table, row: &SqliteRow) -> Result<Vec<Value>, sqlx::Error> {
        values(table, row)
    }
}

/// The texts consist of names, which are quoted.
fn statement(text: String) -> Statement {
    sqlx::query(AssertSqlSafe(text))
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
) -> Result<Statement, HandlerError> {
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

fn bind(query: Statement, column: ColumnType, value: Value) -> Result<Statement, HandlerError> {
    macro_rules! bind {
        ($type:ty, $($variant:ident)|+) => {{
            let content: Result<Option<$type>, HandlerError> =
                content!(value, column, $($variant)|+);
            query.bind(content?)
        }};
    }
    Ok(match column {
        ColumnType::Text | ColumnType::Json | ColumnType::Other(_) => bind!(String, Text | Json),
        ColumnType::Bool => bind!(bool, Bool),
        ColumnType::I16 => bind!(i16, I16),
        ColumnType::I32 => bind!(i32, I32),
        ColumnType::I64 => bind!(i64, I64),
        ColumnType::F32 => bind!(f32, F32),
        ColumnType::F64 => bind!(f64, F64),
        ColumnType::Bytes => bind!(Vec<u8>, Bytes),
        ColumnType::Uuid => bind!(Uuid, Uuid),
        ColumnType::Timestamp => bind!(DateTime<Utc>, Timestamp),
        ColumnType::Date => bind!(NaiveDate, Date),
    })
}

/// The values of a row that [`select`] returned.
fn values(table: &Table, row: &SqliteRow) -> Result<Vec<Value>, sqlx::Error> {
    let columns = table.columns.iter().enumerate();
    let values = columns.map(|(index, column)| read(row, index, column.column_type));
    values.collect()
}

/// The types were written as they are read, so what the column was declared as does not matter.
fn read(row: &SqliteRow, index: usize, column: ColumnType) -> Result<Value, sqlx::Error> {
    macro_rules! read {
        ($variant:ident) => {
            row.try_get_unchecked::<Option<_>, _>(index)?
                .map_or(Value::Null, Value::$variant)
        };
    }
    Ok(match column {
        ColumnType::Text | ColumnType::Other(_) => read!(Text),
        ColumnType::Json => read!(Json),
        ColumnType::Bool => read!(Bool),
        ColumnType::I16 => read!(I16),
        ColumnType::I32 => read!(I32),
        ColumnType::I64 => read!(I64),
        ColumnType::F32 => read!(F32),
        ColumnType::F64 => read!(F64),
        ColumnType::Bytes => read!(Bytes),
        ColumnType::Uuid => read!(Uuid),
        ColumnType::Timestamp => read!(Timestamp),
        ColumnType::Date => read!(Date),
    })
}
