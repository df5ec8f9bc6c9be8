//! The statements of read models, as far as both databases have them alike.

use std::fmt::Write as _;

use crate::contract::HandlerError;
use crate::contract::read_model::{
    ColumnRole, ColumnType, Loaded, Table, TableColumn, Value, VersionTable,
};

/// A name as SQL has it.
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

/// The columns of a list, each as `text` has it, separated by commas.
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
    let columns = list(table.columns, |column| match column.column_type {
        ColumnType::Json | ColumnType::Other(_) => format!("CAST({} AS text)", quoted(column.name)),
        _ => quoted(column.name),
    });
    format!("SELECT {columns} FROM {from}")
}

/// What an upsert does with a row whose key exists.
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
pub(super) fn table_name(table: &VersionTable<'_>, default_schema: Option<&str>) -> String {
    qualified(table.schema().or(default_schema), &table.name())
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

/// Takes the content of a value that was written for a column of another type.
pub(super) fn other_type(column_type: ColumnType, value: &Value) -> HandlerError {
    format!("a column of the type {column_type:?} cannot hold {value:?}").into()
}

/// Takes the content out of a value; `None` if it is NULL.
macro_rules! content {
    ($value:expr, $column:expr, $($variant:ident)|+) => {
        match $value {
            Value::Null => Ok(None),
            $(Value::$variant(content) => Ok(Some(content)),)+
            other => Err(other_type($column, &other)),
        }
    };
}
pub(super) use content;
