//! The rows of read models on Postgres: a statement takes and returns them as arrays, one a column.

use std::mem::replace;

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow, Postgres};

use crate::backend::driver::PlainQuery;
use crate::backend::read_model::{
    Budget, ReadModelRows, content, list, names, quoted, select, statement, table_name, values,
    with_type,
};
use crate::contract::HandlerError;
use crate::contract::read_model::{
    ColumnError, ColumnRole, ColumnType, FieldError, Loaded, RowError, Table, TableColumn, Value,
    VersionTable,
};

type Statement = PlainQuery<Postgres>;

impl ReadModelRows for Postgres {
    const SCHEMA: Option<&'static str> = None;

    async fn load_rows(
        tx: &mut PgConnection,
        table: &VersionTable<'_>,
        keys: &[Vec<Value>],
        max_bytes: usize,
    ) -> Result<Loaded, HandlerError> {
        let columns = table.table();
        let query = statement(load_text(table, keys.len()));
        let query = bind_columns(query, columns.key(), &mut keys.to_vec())?;
        let mut budget = Budget::of(max_bytes);
        let rows = query.try_map(|row| budget.spend(values::<Postgres>(columns, &row)?));
        let rows = rows.fetch_all(tx).await;
        budget.loaded(rows)
    }

    async fn write_rows(
        tx: &mut PgConnection,
        table: &VersionTable<'_>,
        mut rows: Vec<Vec<Value>>,
        on_conflict: String,
    ) -> Result<(), HandlerError> {
        let columns = table.table();
        let write = statement(write_text(table, &on_conflict));
        let write = bind_columns(write, columns.columns, &mut rows)?;
        match write.fetch_optional(tx).await? {
            Some(changed) => Err(changed_by_database(columns, &changed)?),
            None => Ok(()),
        }
    }

    async fn delete_rows(
        tx: &mut PgConnection,
        table: &VersionTable<'_>,
        mut keys: Vec<Vec<Value>>,
    ) -> Result<(), HandlerError> {
        let query = statement(delete_text(table));
        let query = bind_columns(query, table.table().key(), &mut keys)?;
        query.execute(tx).await?;
        Ok(())
    }

    fn find_query(table: &Table, select: &str, key: Vec<Value>) -> Result<Statement, sqlx::Error> {
        // Behind a pooler, another session could have a statement of the same name.
        let find = statement(format!("{select} {}", matching(table, 1))).persistent(false);
        bind_columns(find, table.key(), &mut [key])
    }
}

fn load_text(table: &VersionTable<'_>, keys: usize) -> String {
    let columns = table.table();
    let select = select(columns, &table_name::<Postgres>(table));
    format!("{select} {}", matching(columns, keys))
}

/// Locks rows in the order of the given keys, and deletes them. `DELETE` alone locks them in the order in which its
/// plan finds them.
fn delete_text(table: &VersionTable<'_>) -> String {
    let (name, columns) = (table_name::<Postgres>(table), table.table());
    let (key, arrays) = (names(columns.key()), arrays(columns.key()));
    let row_key = list(columns.key(), |column| format!("r.{}", quoted(column.name)));
    let numbered = |prefix: &str| {
        let names = (0..columns.key().count()).map(|index| format!("{prefix}k{index}"));
        names.collect::<Vec<_>>().join(", ")
    };
    let (inputs, given) = (numbered(""), numbered("input."));
    format!(
        "WITH input ({inputs}, place) AS (SELECT * FROM unnest({arrays}) WITH ORDINALITY),
              locked AS MATERIALIZED (
                  SELECT {row_key} FROM input JOIN {name} AS r ON ({row_key}) = ({given})
                   ORDER BY input.place FOR UPDATE OF r)
         DELETE FROM {name} WHERE ({key}) IN (SELECT * FROM locked)"
    )
}

/// The condition on rows that have one of the keys.
fn matching(table: &Table, keys: usize) -> String {
    let key = names(table.key());
    if keys == 1 {
        // The server would plan a search for an array anew each time, since it does not know that it has one
        // element.
        let elements = list_parameters(table.key(), |array| format!("({array})[1]"));
        return format!("WHERE ({key}) = ({elements})");
    }
    let arrays = arrays(table.key());
    if table.key().nth(1).is_none() {
        return format!("WHERE {key} = ANY ({arrays})");
    }
    format!("WHERE ({key}) IN (SELECT * FROM unnest({arrays}))")
}

/// The parameters of columns, as arrays.
fn arrays<'t>(columns: impl IntoIterator<Item = &'t TableColumn>) -> String {
    list_parameters(columns, |array| array)
}

fn list_parameters<'t>(
    columns: impl IntoIterator<Item = &'t TableColumn>,
    each: impl Fn(String) -> String,
) -> String {
    let parameters = (1..).zip(columns);
    let parameters: Vec<String> = parameters
        .map(|(number, column)| {
            let array = format!("${number}::{}[]", parameter_type(column.column_type));
            each(array)
        })
        .collect();
    parameters.join(", ")
}

/// Inserts rows, or does what the clause says. If the database may store another text than it is given, it returns a row
/// for which it did: the texts of its key, then those given and stored, column by column.
fn write_text(table: &VersionTable<'_>, on_conflict: &str) -> String {
    let columns = table.table();
    let inputs: Vec<String> = (0..columns.columns.len())
        .map(|index| format!("c{index}"))
        .collect();
    let inputs = inputs.join(", ");
    let insert = format!(
        "INSERT INTO {} ({}) SELECT {} FROM input{on_conflict}",
        table_name::<Postgres>(table),
        names(columns.columns),
        stored_values(columns),
    );
    let input = format!(
        "WITH input ({inputs}) AS (SELECT * FROM unnest({}))",
        arrays(columns.columns)
    );
    let texts: Vec<usize> = text_columns(columns).collect();
    if texts.is_empty() {
        return format!("{input} {insert}");
    }
    let stored = list(columns.columns, |column| match column.column_type {
        ColumnType::Other(_) => format!("{}::text", quoted(column.name)),
        _ => quoted(column.name),
    });
    let differs: Vec<String> = texts
        .iter()
        .map(|index| format!("input.c{index} IS DISTINCT FROM written.c{index}"))
        .collect();
    format!(
        "{input}, written ({inputs}) AS ({insert} RETURNING {stored})
         SELECT {} FROM input JOIN written ON {} WHERE {} LIMIT 1",
        changed_columns(columns, &texts),
        same_key(columns),
        differs.join(" OR "),
    )
}

/// The input as the columns of the table store it.
fn stored_values(table: &Table) -> String {
    let values = table.columns.iter().enumerate();
    let values: Vec<String> = values
        .map(|(index, column)| match column.column_type {
            ColumnType::Json => format!("c{index}::jsonb"),
            ColumnType::Other(sql_type) => format!("c{index}::{sql_type}"),
            _ => format!("c{index}"),
        })
        .collect();
    values.join(", ")
}

fn changed_columns(table: &Table, texts: &[usize]) -> String {
    let keys = key_columns(table).map(|index| format!("input.c{index}::text"));
    let texts = texts
        .iter()
        .flat_map(|index| [format!("input.c{index}"), format!("written.c{index}")]);
    keys.chain(texts).collect::<Vec<_>>().join(", ")
}

fn same_key(table: &Table) -> String {
    let same = key_columns(table).map(|index| format!("input.c{index} = written.c{index}"));
    same.collect::<Vec<_>>().join(" AND ")
}

fn key_columns(table: &Table) -> impl Iterator<Item = usize> {
    indices(table, |column| matches!(column.role, ColumnRole::Key))
}

/// The columns whose type is not one of the library's.
fn text_columns(table: &Table) -> impl Iterator<Item = usize> {
    indices(table, |column| {
        matches!(column.column_type, ColumnType::Other(_))
    })
}

fn indices(table: &Table, wanted: impl Fn(&TableColumn) -> bool) -> impl Iterator<Item = usize> {
    let columns = table.columns.iter().enumerate();
    columns
        .filter(move |(_, column)| wanted(column))
        .map(|(index, _)| index)
}

/// The error for a row that the database stored differently.
fn changed_by_database(table: &'static Table, row: &PgRow) -> Result<HandlerError, sqlx::Error> {
    let keys = key_columns(table).count();
    let text = |index| row.try_get::<Option<String>, _>(index);
    let key: Vec<String> = (0..keys)
        .map(|index| Ok(text(index)?.unwrap_or_default()))
        .collect::<Result<_, sqlx::Error>>()?;
    for (nth, index) in text_columns(table).enumerate() {
        let (written, read) = (text(keys + 2 * nth)?, text(keys + 2 * nth + 1)?);
        if written == read {
            continue;
        }
        let column = table.columns.get(index);
        let error = ColumnError {
            table: table.name,
            column: column.map_or("?", |column| column.name),
            error: FieldError::Changed {
                written: written.unwrap_or_default(),
                read: read.unwrap_or_default(),
            },
        };
        let key = key.join(", ");
        return Ok(RowError::Column { key, error }.into());
    }
    Ok("the database stored another text than it was given".into())
}

/// The type of a parameter for a column.
fn parameter_type(column: ColumnType) -> &'static str {
    match column {
        ColumnType::Json | ColumnType::Other(_) => "text",
        column => type_name(column),
    }
}

/// The name of a type in the spelling of `format_type`.
pub(super) fn type_name(column: ColumnType) -> &'static str {
    match column {
        ColumnType::Text => "text",
        ColumnType::Bool => "boolean",
        ColumnType::I16 => "smallint",
        ColumnType::I32 => "integer",
        ColumnType::I64 => "bigint",
        ColumnType::F32 => "real",
        ColumnType::F64 => "double precision",
        ColumnType::Bytes => "bytea",
        ColumnType::Uuid => "uuid",
        ColumnType::Timestamp => "timestamp with time zone",
        ColumnType::Date => "date",
        ColumnType::Json => "jsonb",
        ColumnType::Other(sql_type) => sql_type,
    }
}

/// Binds an array for each column, and leaves the rows without values.
fn bind_columns<'t>(
    mut query: Statement,
    columns: impl IntoIterator<Item = &'t TableColumn>,
    rows: &mut [Vec<Value>],
) -> Result<Statement, sqlx::Error> {
    for (index, column) in columns.into_iter().enumerate() {
        let values = rows.iter_mut().map(|row| {
            row.get_mut(index)
                .map_or(Value::Null, |value| replace(value, Value::Null))
        });
        query = bind_column(query, column.column_type, values)?;
    }
    Ok(query)
}

fn bind_column(
    query: Statement,
    column: ColumnType,
    values: impl Iterator<Item = Value>,
) -> Result<Statement, sqlx::Error> {
    macro_rules! bind {
        ($type:ty, $($variant:ident)|+) => {{
            let array: Result<Vec<Option<$type>>, sqlx::Error> =
                values.map(|value| content!(value, column, $($variant)|+)).collect();
            query.bind(array?)
        }};
    }
    Ok(with_type!(column, bind))
}
