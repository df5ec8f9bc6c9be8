//! Compares the table of events in the catalogue with the mapping.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

use super::columns::SUBSTITUTES;
use crate::backend::column::Source;
use crate::backend::column_sql::appended;
use crate::backend::missing::Lacking;
use crate::backend::{Column, Mismatch, Schema, SqlType, StoreError, StoreSettings};

/// The columns of a table or a view. The primary key is an alias of the row id, which is never NULL,
/// although the catalogue calls it nullable.
const COLUMNS: &str = r#"
    SELECT s.type AS kind, c.name, c."notnull" <> 0 OR c.pk <> 0 AS not_null,
           c.dflt_value IS NOT NULL OR c.pk <> 0 AS has_default
      FROM sqlite_schema AS s JOIN pragma_table_info(s.name) AS c
     WHERE s.type IN ('table', 'view') AND s.name = $1 COLLATE NOCASE
     ORDER BY c.cid"#;

#[derive(Debug)]
struct Found {
    kind: String,
    name: String,
    not_null: bool,
    has_default: bool,
}

impl Found {
    fn is_called(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// Refuses a type that means nothing on SQLite.
pub(super) fn refuse_types(schema: &Schema) -> Result<(), StoreError> {
    let means_nothing = |column: &Column| {
        let sql_type = schema.type_of(*column);
        let has_meaning = match column {
            Column::AggregateId => matches!(sql_type, SqlType::Integer | SqlType::BigInt),
            Column::Payload => sql_type == SqlType::Text,
            _ => false,
        };
        sql_type != column.default_type() && !has_meaning
    };
    match Column::ALL.into_iter().find(means_nothing) {
        Some(column) => Err(StoreError::InvalidMapping {
            column,
            reason: "SQLite has no such type of columns; leave `.sql_type(…)` out".to_owned(),
        }),
        None => Ok(()),
    }
}

/// Compares the table of events with the mapping; `None` if there is no such table.
pub(super) async fn mismatches(
    connection: &mut SqliteConnection,
    settings: &StoreSettings,
) -> Result<Option<Vec<Mismatch>>, StoreError> {
    let schema = &settings.schema;
    let columns = columns(connection, schema).await?;
    let Some(first) = columns.first() else {
        return Ok(None);
    };
    let is_table = first.kind == "table";
    let mut mismatches = Vec::new();
    if !is_table && !schema.is_read_only() {
        mismatches.push(Mismatch::View);
    }
    let lacking = Lacking {
        schema,
        candidates: &|_| candidates(schema, &columns),
        has: &|column| {
            let name = schema.column_name(column);
            columns.iter().any(|found| found.is_called(name))
        },
        is_table,
    };
    for column in schema.own_columns() {
        mismatches.extend(column_mismatch(&lacking, &columns, column));
    }
    mismatches.extend(expressions(connection, schema).await?);
    if is_table && !schema.is_read_only() {
        let not_filled = not_filled(schema, &columns, &mismatches);
        mismatches.extend(not_filled);
    }
    Ok(Some(mismatches))
}

async fn columns(
    connection: &mut SqliteConnection,
    schema: &Schema,
) -> Result<Vec<Found>, StoreError> {
    let rows: Vec<(String, String, bool, bool)> = sqlx::query_as(COLUMNS)
        .bind(schema.events_name())
        .fetch_all(connection)
        .await?;
    let found = rows
        .into_iter()
        .map(|(kind, name, not_null, has_default)| Found {
            kind,
            name,
            not_null,
            has_default,
        });
    Ok(found.collect())
}

fn column_mismatch(lacking: &Lacking<'_>, columns: &[Found], column: Column) -> Option<Mismatch> {
    let schema = lacking.schema;
    let name = schema.column_name(column).to_owned();
    let Some(found) = columns.iter().find(|found| found.is_called(&name)) else {
        let candidates = candidates(schema, columns);
        return Some(Mismatch::NoColumn {
            column,
            name,
            candidates,
            line: lacking.line(column, &SUBSTITUTES),
        });
    };
    // What the position has to be is checked by itself.
    let has_value = column.is_optional() || column == Column::GlobalPosition;
    (lacking.is_table && !found.not_null && !has_value).then(|| Mismatch::Nullable {
        column,
        name,
        table: schema.events_name().to_owned(),
        can_alter: false,
    })
}

/// The columns that the mapping does not use.
fn candidates(schema: &Schema, columns: &[Found]) -> Vec<String> {
    let is_mapped = |found: &&Found| {
        schema
            .own_columns()
            .any(|column| found.is_called(schema.column_name(column)))
    };
    let free = columns.iter().filter(|found| !is_mapped(found));
    free.map(|found| found.name.clone()).collect()
}

/// The columns without which no row can be inserted, besides those of the mapping and those that may be
/// one of them under another name.
fn not_filled(schema: &Schema, columns: &[Found], others: &[Mismatch]) -> Vec<Mismatch> {
    let is_filled = |found: &Found| {
        appended(schema).any(|column| found.is_called(schema.column_name(column)))
            || others.iter().any(|mismatch| mismatch.may_be(&found.name))
    };
    columns
        .iter()
        .filter(|found| found.not_null && !found.has_default && !is_filled(found))
        .map(|found| Mismatch::NotFilled {
            name: found.name.clone(),
            table: schema.events_name().to_owned(),
            can_alter: false,
        })
        .collect()
}

/// The expressions that the database refuses.
async fn expressions(
    connection: &mut SqliteConnection,
    schema: &Schema,
) -> Result<Vec<Mismatch>, StoreError> {
    let mut mismatches = Vec::new();
    for column in Column::ALL {
        let Some(Source::Expression(expression)) = schema.source(column) else {
            continue;
        };
        let query = format!(
            "SELECT ({expression}) FROM {} LIMIT 0",
            schema.render("{events}")
        );
        let probed = sqlx::query(AssertSqlSafe(query))
            .fetch_all(&mut *connection)
            .await;
        match probed {
            Ok(_) => {}
            Err(sqlx::Error::Database(error)) => mismatches.push(Mismatch::Expression {
                column,
                expression: expression.clone(),
                reason: error.message().to_owned(),
            }),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(mismatches)
}
