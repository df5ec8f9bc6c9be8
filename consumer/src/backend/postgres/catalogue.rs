//! Compares the table of events in the catalogue with the mapping.

use std::collections::BTreeMap;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _, raw_sql};

use super::columns::SUBSTITUTES;
use super::connect::has_code;
use super::privileges;
use crate::backend::column::Source;
use crate::backend::column_sql::appended;
use crate::backend::missing::Lacking;
use crate::backend::{Column, Mismatch, Schema, SqlType, StoreError, StoreSettings};

/// The table of events, and the columns that it has.
const TABLE: &str = "
    SELECT c.relkind::text AS kind,
           -- One that runs before an insert can fill in any column.
           EXISTS (SELECT FROM pg_trigger AS t
                    WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgtype & 6 = 6) AS has_trigger
      FROM pg_class AS c WHERE c.oid = to_regclass('{events}')";

/// The columns of a table, with the types under their domains.
const COLUMNS: &str = "
    SELECT a.attname::text AS name,
           format_type(CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END, NULL) AS type,
           a.attnotnull OR t.typnotnull AS not_null,
           a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL AS has_default
      FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
     WHERE a.attrelid = to_regclass('$') AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attnum";

/// The tables that the relation `$oid` reads if it is a view, itself included, and the sequences from which
/// their columns draw.
macro_rules! base_tables {
    ($oid:literal) => {
        concat!(
            "base (oid) AS (
                SELECT ",
            $oid,
            "::oid
                 UNION
                SELECT d.refobjid
                  FROM base AS b
                  JOIN pg_rewrite AS r ON r.ev_class = b.oid AND r.ev_type = '1'
                  JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                                     AND d.refclassid = 'pg_class'::regclass
                  JOIN pg_class AS c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')),
            drawn (relation, sequence) AS (
                SELECT v.adrelid, d.refobjid
                  FROM base AS b
                  JOIN pg_attrdef AS v ON v.adrelid = b.oid
                  JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = v.oid
                                     AND d.refclassid = 'pg_class'::regclass
                  JOIN pg_sequence AS s ON s.seqrelid = d.refobjid
                 UNION
                SELECT d.refobjid, d.objid
                  FROM base AS b
                  JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.deptype = 'i'
                                     AND d.refclassid = 'pg_class'::regclass AND d.refobjid = b.oid
                  JOIN pg_sequence AS s ON s.seqrelid = d.objid)"
        )
    };
}
#[cfg(feature = "worker")]
pub(super) use base_tables;

/// The role from which row-level security hides rows of one of the [`base_tables`] of a view, if it does.
#[cfg(feature = "worker")]
macro_rules! hidden_from_of_view {
    () => {
        "-- A view reads with the rights of its owner, unless it was created otherwise.
         (SELECT format('%I', CASE WHEN owner.invokes THEN current_user ELSE owner.rolname END)
            FROM base AS b JOIN pg_class AS c ON c.oid = b.oid
           CROSS JOIN (SELECT o.oid, o.rolname, o.rolsuper OR o.rolbypassrls AS bypasses,
                              v.reloptions::text LIKE '%security_invoker%' AS invokes
                         FROM base JOIN pg_class AS v ON v.oid = base.oid AND v.relkind = 'v'
                         JOIN pg_roles AS o ON o.oid = v.relowner) AS owner
           WHERE owner.invokes AND row_security_active(b.oid)
              OR c.relrowsecurity AND NOT owner.bypasses
                 AND (c.relforcerowsecurity OR NOT pg_has_role(owner.oid, c.relowner, 'USAGE'))
           LIMIT 1)"
    };
}
#[cfg(feature = "worker")]
pub(super) use hidden_from_of_view;

const SEQUENCES_OF_VIEW: &str = concat!(
    "WITH RECURSIVE ",
    base_tables!("to_regclass('{events}')"),
    " SELECT DISTINCT c.relname::text AS name
        FROM drawn JOIN pg_class AS c ON c.oid = drawn.sequence ORDER BY name"
);

/// A column of a table.
#[derive(Debug)]
struct Found {
    type_name: String,
    not_null: bool,
    has_default: bool,
}

/// The columns of a table by their names.
type Columns = BTreeMap<String, Found>;

/// Compares the table of events with the mapping; `None` if there is no such table.
pub(super) async fn mismatches(
    connection: &mut PgConnection,
    settings: &StoreSettings,
) -> Result<Option<Vec<Mismatch>>, StoreError> {
    let schema = &settings.schema;
    let table = raw_sql(AssertSqlSafe(settings.render(TABLE)));
    let Some(table) = table.fetch_optional(&mut *connection).await? else {
        return Ok(None);
    };
    let kind: String = table.try_get("kind")?;
    let mut mismatches = Vec::new();
    match kind.as_str() {
        "v" => mismatches.extend(view(connection, settings).await?),
        "m" => mismatches.push(Mismatch::NotATable {
            kind: "materialized view",
        }),
        "f" => mismatches.push(Mismatch::NotATable {
            kind: "foreign table",
        }),
        _ => {}
    }
    let columns = columns(connection, settings, "{events}").await?;
    let is_table = matches!(kind.as_str(), "r" | "p");
    let lacking = Lacking {
        schema,
        candidates: &|column| candidates(schema, &columns, column),
        has: &|column| columns.contains_key(schema.column_name(column)),
        is_table,
    };
    for column in schema.own_columns() {
        mismatches.extend(column_mismatches(&lacking, &columns, column));
    }
    mismatches.extend(expressions(connection, settings).await?);
    if is_table && !schema.is_read_only() && !table.try_get::<bool, _>("has_trigger")? {
        let not_filled = not_filled(schema, &columns, &mismatches);
        mismatches.extend(not_filled);
    }
    Ok(Some(mismatches))
}

/// Compares the type of ids in the table of heads with the mapping.
pub(super) async fn head_mismatches(
    connection: &mut PgConnection,
    settings: &StoreSettings,
    others: &[Mismatch],
) -> Result<Vec<Mismatch>, StoreError> {
    let schema = &settings.schema;
    let columns = columns(connection, settings, "{heads}").await?;
    let found = others.iter().find_map(|other| match other {
        Mismatch::OtherType {
            column: Column::AggregateId,
            found,
            ..
        } => Some(*found),
        _ => None,
    });
    let expected = found.unwrap_or(schema.type_of(Column::AggregateId));
    let name = schema.column_name(Column::AggregateId);
    let Some(found) = columns.get(name) else {
        return Ok(Vec::new());
    };
    if SqlType::of_catalogue(&found.type_name) == Some(expected) {
        return Ok(Vec::new());
    }
    Ok(vec![Mismatch::HeadType {
        table: schema.heads_name().to_owned(),
        name: name.to_owned(),
        found: found.type_name.clone(),
        expected: expected.sql_name().to_owned(),
    }])
}

async fn columns(
    connection: &mut PgConnection,
    settings: &StoreSettings,
    table: &str,
) -> Result<Columns, StoreError> {
    let columns = raw_sql(AssertSqlSafe(settings.render(&COLUMNS.replace('$', table))));
    let rows = columns.fetch_all(connection).await?;
    let columns: Result<Columns, sqlx::Error> = rows
        .iter()
        .map(|row| {
            let found = Found {
                type_name: row.try_get("type")?,
                not_null: row.try_get("not_null")?,
                has_default: row.try_get("has_default")?,
            };
            Ok((row.try_get("name")?, found))
        })
        .collect();
    Ok(columns?)
}

/// The requirements of a log that a view does not meet.
async fn view(
    connection: &mut PgConnection,
    settings: &StoreSettings,
) -> Result<Vec<Mismatch>, StoreError> {
    let mut mismatches = Vec::new();
    if !settings.schema.is_read_only() {
        mismatches.push(Mismatch::View);
    }
    if settings.schema.sequence_name().is_none() {
        let sequences = raw_sql(AssertSqlSafe(settings.render(SEQUENCES_OF_VIEW)));
        let rows = sequences.fetch_all(connection).await?;
        let candidates: Result<_, _> = rows.iter().map(|row| row.try_get("name")).collect();
        mismatches.push(Mismatch::NoSequence {
            candidates: candidates?,
        });
    }
    Ok(mismatches)
}

/// Compares one column that the mapping names. Those of a view are always nullable to the catalogue.
fn column_mismatches(lacking: &Lacking<'_>, columns: &Columns, column: Column) -> Vec<Mismatch> {
    let schema = lacking.schema;
    let name = schema.column_name(column);
    let Some(found) = columns.get(name) else {
        return vec![Mismatch::NoColumn {
            column,
            name: name.to_owned(),
            candidates: candidates(schema, columns, column),
            line: lacking.line(column, &SUBSTITUTES),
        }];
    };
    let mut mismatches = Vec::new();
    mismatches.extend(type_mismatch(schema, column, name, &found.type_name));
    let reads_null = matches!(
        (column, schema.type_of(column)),
        (Column::Payload, SqlType::Json | SqlType::Jsonb)
    );
    if lacking.is_table && !found.not_null && !column.is_optional() && !reads_null {
        mismatches.push(Mismatch::Nullable {
            column,
            name: name.to_owned(),
            table: schema.log_name(),
            can_alter: true,
        });
    }
    mismatches
}

fn type_mismatch(schema: &Schema, column: Column, name: &str, type_name: &str) -> Option<Mismatch> {
    let name = name.to_owned();
    match SqlType::of_catalogue(type_name) {
        Some(found) if found == schema.type_of(column) => None,
        Some(found) if column.types().contains(&found) => Some(Mismatch::OtherType {
            column,
            name,
            found,
        }),
        _ => Some(Mismatch::UnknownType {
            column,
            name,
            found: type_name.to_owned(),
            table: schema.log_name(),
        }),
    }
}

/// The columns that the mapping does not use, and that have a type for this column of it.
fn candidates(schema: &Schema, columns: &Columns, column: Column) -> Vec<String> {
    let is_mapped = |name: &str| {
        schema
            .own_columns()
            .any(|other| schema.column_name(other) == name)
    };
    let fits = |found: &Found| {
        SqlType::of_catalogue(&found.type_name).is_some_and(|found| column.types().contains(&found))
    };
    let free = columns
        .iter()
        .filter(|(name, found)| !is_mapped(name) && fits(found));
    free.map(|(name, _)| name.clone()).collect()
}

/// The columns without which no row can be inserted, besides those of the mapping and those that may be
/// one of them under another name.
fn not_filled(schema: &Schema, columns: &Columns, others: &[Mismatch]) -> Vec<Mismatch> {
    let is_filled = |name: &str| {
        appended(schema).any(|column| schema.column_name(column) == name)
            || others.iter().any(|mismatch| mismatch.may_be(name))
    };
    columns
        .iter()
        .filter(|(name, found)| found.not_null && !found.has_default && !is_filled(name))
        .map(|(name, _)| Mismatch::NotFilled {
            name: name.clone(),
            table: schema.log_name(),
            can_alter: true,
        })
        .collect()
}

/// Compares the types of all expressions.
async fn expressions(
    connection: &mut PgConnection,
    settings: &StoreSettings,
) -> Result<Vec<Mismatch>, StoreError> {
    let schema = &settings.schema;
    let mut mismatches = Vec::new();
    for column in Column::ALL {
        let Some(Source::Expression(expression)) = schema.source(column) else {
            continue;
        };
        match type_of(connection, schema, expression).await? {
            Ok(found) => mismatches.extend(type_mismatch(schema, column, expression, &found)),
            Err(reason) => mismatches.push(Mismatch::Expression {
                column,
                expression: expression.clone(),
                reason,
            }),
        }
    }
    Ok(mismatches)
}

/// The type of an expression, or why the database refuses it. In a savepoint, so that one that it refuses
/// does not hide the next.
async fn type_of(
    connection: &mut PgConnection,
    schema: &Schema,
    expression: &str,
) -> Result<Result<String, String>, StoreError> {
    let table = schema.render("{events}");
    let query = format!("SELECT pg_typeof((SELECT ({expression}) FROM {table} LIMIT 0))::text");
    let mut savepoint = connection.begin().await?;
    let found = raw_sql(AssertSqlSafe(query))
        .fetch_one(&mut *savepoint)
        .await;
    match found {
        Ok(row) => {
            let found = row.try_get(0)?;
            savepoint.commit().await?;
            Ok(Ok(found))
        }
        // insufficient_privilege, which says nothing of the expression
        Err(sqlx::Error::Database(error)) if has_code(error.as_ref(), &["42501"]) => {
            savepoint.rollback().await?;
            let error = sqlx::Error::Database(error);
            Err(privileges::not_executable(connection, expression, error).await)
        }
        Err(sqlx::Error::Database(error)) => {
            savepoint.rollback().await?;
            Ok(Err(error.message().to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}
