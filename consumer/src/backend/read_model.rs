//! The statements of read models, as far as both databases have them alike.

use std::fmt::Write as _;
use std::future::Future;

use sqlx::{AssertSqlSafe, Database};

use super::driver::{Driver, PlainQuery, Reads};
use crate::contract::HandlerError;
use crate::contract::read_model::{
    ColumnRole, ColumnType, Loaded, Table, TableColumn, Value, VersionTable,
};

/// The texts consist of names, which are quoted, and of types, which are constants of the program.
pub(super) fn statement<DB: Database>(text: String) -> PlainQuery<DB> {
    sqlx::query(AssertSqlSafe(text))
}

/// The rows of read models, as far as databases differ in reading and writing them.
///
/// Every database that has them is a [`ReadModelDatabase`](crate::contract::read_model::ReadModelDatabase).
pub trait ReadModelRows: Driver {
    /// The schema of a table that names none.
    const SCHEMA: Option<&'static str>;

    /// Reads the rows that have one of the keys, unless they need too much memory.
    fn load_rows(
        tx: &mut Self::Connection,
        table: &VersionTable<'_>,
        keys: &[Vec<Value>],
        max_bytes: usize,
    ) -> impl Future<Output = Result<Loaded, HandlerError>> + Send;

    /// Inserts rows, with a clause for those whose key exists.
    fn write_rows(
        tx: &mut Self::Connection,
        table: &VersionTable<'_>,
        rows: Vec<Vec<Value>>,
        on_conflict: String,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// Deletes the rows that have one of the keys.
    fn delete_rows(
        tx: &mut Self::Connection,
        table: &VersionTable<'_>,
        keys: Vec<Vec<Value>>,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// The query for the row of a key, after the [`select`] of all rows.
    fn find_query(
        table: &Table,
        select: &str,
        key: Vec<Value>,
    ) -> Result<PlainQuery<Self>, sqlx::Error>;
}

/// A name, quoted for SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The name of a table or view with its schema, where one is known.
pub(super) fn qualified(schema: Option<&str>, name: &str) -> String {
    match schema {
        Some(schema) => format!("{}.{}", quoted(schema), quoted(name)),
        None => quoted(name),
    }
}

/// The columns of a list, each written by `text`, separated by commas.
pub(super) fn list<'t>(
    columns: impl IntoIterator<Item = &'t TableColumn>,
    text: impl Fn(&TableColumn) -> String,
) -> String {
    let texts: Vec<String> = columns.into_iter().map(text).collect();
    texts.join(", ")
}

/// The names of columns, separated by commas.
pub(super) fn names<'t>(columns: impl IntoIterator<Item = &'t TableColumn>) -> String {
    list(columns, |column| quoted(column.name))
}

/// `SELECT` of all columns of a table or view; the values of some types are read as text.
pub(super) fn select(table: &Table, from: &str) -> String {
    // SQLite takes a quoted name that is no column for a text, unless it is qualified.
    let columns = list(table.columns, |column| match column.column_type {
        ColumnType::Json | ColumnType::Other(_) => {
            format!("CAST(r.{} AS text)", quoted(column.name))
        }
        _ => format!("r.{}", quoted(column.name)),
    });
    format!("SELECT {columns} FROM {from} AS r")
}

/// The values of a row that [`select`] returned.
pub(super) fn values<DB: Driver>(table: &Table, row: &DB::Row) -> Result<Vec<Value>, sqlx::Error> {
    let mut values = Vec::with_capacity(table.columns.len());
    for (index, column) in table.columns.iter().enumerate() {
        values.push(value::<DB>(row, index, column.column_type)?);
    }
    Ok(values)
}

fn value<DB: Driver>(
    row: &DB::Row,
    index: usize,
    column: ColumnType,
) -> Result<Value, sqlx::Error> {
    match column {
        ColumnType::Text | ColumnType::Other(_) => content_as::<DB, _>(row, index, Value::Text),
        ColumnType::Json => content_as::<DB, _>(row, index, Value::Json),
        ColumnType::Bool => content_as::<DB, _>(row, index, Value::Bool),
        ColumnType::I16 => content_as::<DB, _>(row, index, Value::I16),
        ColumnType::I32 => content_as::<DB, _>(row, index, Value::I32),
        ColumnType::I64 => content_as::<DB, _>(row, index, Value::I64),
        ColumnType::F32 => content_as::<DB, _>(row, index, Value::F32),
        ColumnType::F64 => content_as::<DB, _>(row, index, Value::F64),
        ColumnType::Bytes => content_as::<DB, _>(row, index, Value::Bytes),
        ColumnType::Uuid => content_as::<DB, _>(row, index, Value::Uuid),
        ColumnType::Timestamp => content_as::<DB, _>(row, index, Value::Timestamp),
        ColumnType::Date => content_as::<DB, _>(row, index, Value::Date),
    }
}

fn content_as<DB: Reads<Option<T>>, T>(
    row: &DB::Row,
    index: usize,
    variant: impl FnOnce(T) -> Value,
) -> Result<Value, sqlx::Error> {
    Ok(DB::read_at(row, index)?.map_or(Value::Null, variant))
}

/// The treatment of a row whose key exists.
pub(super) fn on_conflict(table: &Table) -> String {
    let others = table.columns.iter();
    let others = others.filter(|column| !matches!(column.role, ColumnRole::Key));
    let mut clause = format!(" ON CONFLICT ({}) DO ", names(table.key()));
    let update = list(others, |column| {
        let name = quoted(column.name);
        format!("{name} = excluded.{name}")
    });
    if update.is_empty() {
        clause.push_str("NOTHING");
    } else {
        // Writing to a String does not fail.
        let _ = write!(clause, "UPDATE SET {update}");
    }
    clause
}

/// The table, with its schema or that of the database.
pub(super) fn table_name<DB: ReadModelRows>(table: &VersionTable<'_>) -> String {
    qualified(table.schema().or(DB::SCHEMA), &table.name())
}

/// The memory that the rows of a query may need.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
    rows: usize,
}

/// Ends a query whose rows need more memory than they may.
#[derive(Debug, thiserror::Error)]
#[error("the rows are too large")]
struct BudgetSpent;

impl Budget {
    pub(super) fn of(bytes: usize) -> Self {
        Self {
            left: bytes,
            rows: 0,
        }
    }

    /// Passes on a row, or ends the query.
    pub(super) fn spend(&mut self, row: Vec<Value>) -> Result<Vec<Value>, sqlx::Error> {
        let bytes = row.iter().map(Value::memory).sum();
        self.rows += 1;
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => return Err(sqlx::Error::Decode(BudgetSpent.into())),
        }
        Ok(row)
    }

    /// The result of the query.
    pub(super) fn loaded(
        &self,
        rows: Result<Vec<Vec<Value>>, sqlx::Error>,
    ) -> Result<Loaded, HandlerError> {
        match rows {
            Ok(rows) => Ok(Loaded::Rows(rows)),
            Err(sqlx::Error::Decode(error)) if error.is::<BudgetSpent>() => {
                Ok(Loaded::TooLarge(self.rows))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The error for a value that does not belong into a column.
pub(super) fn other_type(column_type: ColumnType, value: &Value) -> sqlx::Error {
    let error = format!("a column of the type {column_type:?} cannot hold {value:?}");
    sqlx::Error::Encode(error.into())
}

/// Takes the content out of a value; `None` if it is NULL.
macro_rules! content {
    ($value:expr, $column:expr, $($variant:ident)|+) => {
        match $value {
            Value::Null => Ok(None),
            $(Value::$variant(content) => Ok(Some(content)),)+
            other => Err(crate::backend::read_model::other_type($column, &other)),
        }
    };
}
pub(super) use content;

/// Calls a macro with the type that a column's values are bound as, and with their variants.
macro_rules! with_type {
    ($column:expr, $bind:ident) => {
        match $column {
            ColumnType::Text | ColumnType::Json | ColumnType::Other(_) => {
                $bind!(String, Text | Json)
            }
            ColumnType::Bool => $bind!(bool, Bool),
            ColumnType::I16 => $bind!(i16, I16),
            ColumnType::I32 => $bind!(i32, I32),
            ColumnType::I64 => $bind!(i64, I64),
            ColumnType::F32 => $bind!(f32, F32),
            ColumnType::F64 => $bind!(f64, F64),
            ColumnType::Bytes => $bind!(Vec<u8>, Bytes),
            ColumnType::Uuid => $bind!(uuid::Uuid, Uuid),
            ColumnType::Timestamp => $bind!(chrono::DateTime<chrono::Utc>, Timestamp),
            ColumnType::Date => $bind!(chrono::NaiveDate, Date),
        }
    };
}
pub(super) use with_type;
