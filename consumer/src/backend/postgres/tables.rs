//! How Postgres describes and creates the tables of read models.

use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{AssertSqlSafe, Row as _, raw_sql};

use super::connect::{begin, begin_write, has_code, lock_number};
use super::read_model::type_name;
use crate::backend::StoreSettings;
use crate::backend::read_model::{qualified, quoted};
use crate::backend::rows::ConsumerId;
use crate::backend::tables::{Tables, create_table, literal};
use crate::backend::views::{Name, create_view};
use crate::contract::read_model::{ColumnType, TableColumn, VersionTable};

impl Tables for Postgres {
    const HAS_SCHEMAS: bool = true;

    const BEGIN_TABLES: &'static str = begin_write!(concat!(
        "SELECT pg_advisory_xact_lock(",
        lock_number!(tables),
        ")"
    ));

    fn describe(schema: &str, table: &str) -> String {
        format!(
            "SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type,
                    NOT a.attnotnull AS nullable,
                    array_position(p.indkey::int2[], a.attnum)::bigint AS key_place,
                    EXISTS (SELECT FROM pg_index AS i
                             WHERE i.indrelid = c.oid AND i.indkey[0] = a.attnum
                               AND i.indpred IS NULL AND i.indisvalid) AS is_indexed,
                    CASE WHEN c.relkind NOT IN ('r', 'p') THEN 'no table'
                         WHEN c.relrowsecurity THEN 'a table with row-level security' END AS obstacle
               FROM pg_class AS c
               JOIN pg_namespace AS n ON n.oid = c.relnamespace
               LEFT JOIN pg_index AS p ON p.indrelid = c.oid AND p.indisprimary
               LEFT JOIN pg_attribute AS a
                      ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              WHERE n.nspname = {} AND c.relname = {}
              ORDER BY a.attnum",
            literal(schema),
            literal(table)
        )
    }

    fn declared_type(column: ColumnType) -> &'static str {
        type_name(column)
    }

    /// A type has many spellings, of which the server shows one: `dec(9)` is `numeric(9,0)`, `float(24)`
    /// is `real`. It tells that of a table's column, and in the plan of a query, which creates nothing.
    async fn shown_type(
        connection: &mut PgConnection,
        column: ColumnType,
    ) -> Result<String, sqlx::Error> {
        let ColumnType::Other(sql_type) = column else {
            return Ok(type_name(column).to_owned());
        };
        let explain = format!("EXPLAIN (VERBOSE, COSTS OFF) SELECT NULL::{sql_type}");
        let plan = raw_sql(AssertSqlSafe(explain))
            .fetch_all(connection)
            .await?;
        for line in &plan {
            if let Some(shown) = type_in_plan(line.try_get(0)?) {
                return Ok(shown.to_owned());
            }
        }
        Ok(sql_type.to_owned())
    }

    fn create_index(
        table: &VersionTable<'_>,
        _name: &str,
        column: &TableColumn,
        _condition: &str,
    ) -> String {
        // Postgres finds a name that is free and not too long.
        let table = qualified(table.schema(), &table.name());
        format!("CREATE INDEX ON {table} ({})", quoted(column.name))
    }

    async fn current_schema(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
        let row = raw_sql("SELECT current_schema()::text AS name")
            .fetch_one(connection)
            .await?;
        row.try_get("name")
    }

    async fn schema_of(
        connection: &mut PgConnection,
        name: &str,
    ) -> Result<Option<String>, sqlx::Error> {
        let schema_of = "SELECT n.nspname::text AS name FROM pg_catalog.pg_class AS c
                           JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                          WHERE c.oid = pg_catalog.to_regclass($1)";
        let schema_of = sqlx::query(schema_of).bind(quoted(name)).persistent(false);
        let row = schema_of.fetch_optional(connection).await?;
        row.map(|row| row.try_get("name")).transpose()
    }

    fn tables_like(schema: &str, beginning: &str) -> String {
        format!(
            "SELECT c.relname::text AS name FROM pg_catalog.pg_class AS c
               JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
              WHERE n.nspname = {} AND c.relkind IN ('r', 'p') AND starts_with(c.relname::text, {})",
            literal(schema),
            literal(beginning)
        )
    }

    fn create_if_missing(
        settings: &StoreSettings,
        consumer: &ConsumerId,
        table: &VersionTable<'_>,
        role: Option<&str>,
    ) -> String {
        let schema = table.schema().map(literal);
        let schema = schema.as_deref().unwrap_or("current_schema()");
        let is_missing = |name: &str| {
            let name = literal(name);
            format!("to_regclass(format('%I.%I', {schema}, {name})) IS NULL")
        };
        format!(
            "DO $read_model$ BEGIN
    IF {} THEN
{}{}    END IF;
    -- The view shows the active version, which may be another one.
    IF {} AND NOT EXISTS (SELECT 1 FROM {} WHERE consumer = {} AND version <> {}) THEN
{}{}    END IF;
END $read_model$;
",
            is_missing(&table.name()),
            create_table::<Self>(table, ""),
            grants_on_table(table, role),
            is_missing(table.view_name()),
            settings.render("{progress}"),
            literal(&consumer.name),
            consumer.version,
            create_view(table, ""),
            grant_on_view(&Name::new(table.schema(), table.view_name()), role),
        )
    }

    async fn role(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
        let row = raw_sql("SELECT current_user::text AS name")
            .fetch_one(connection)
            .await?;
        row.try_get("name")
    }

    fn may_not_create(error: &sqlx::Error) -> bool {
        // insufficient_privilege
        is_error(error, "42501")
    }

    fn may_not_write(error: &sqlx::Error) -> bool {
        // read_only_sql_transaction
        is_error(error, "25006")
    }

    fn lacks_schema(error: &sqlx::Error) -> bool {
        // invalid_schema_name
        is_error(error, "3F000")
    }
}

/// The type in `  Output: NULL::numeric(9,0)`; that of a domain follows its base type.
fn type_in_plan(line: &str) -> Option<&str> {
    let output = line.trim_start().strip_prefix("Output: ")?;
    match output.strip_prefix("NULL::") {
        Some(shown) => Some(shown),
        None => output.rsplit_once(")::").map(|(_, shown)| shown),
    }
}

fn is_error(error: &sqlx::Error, code: &str) -> bool {
    let error = error.as_database_error();
    error.is_some_and(|error| has_code(error, &[code]))
}

/// The statements with which a role may do to a table what a worker does.
fn grants_on_table(table: &VersionTable<'_>, role: Option<&str>) -> String {
    let Some(role) = role.map(quoted) else {
        return String::new();
    };
    let name = qualified(table.schema(), &table.name());
    let grant = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {role};\n");
    match table.table().schema().map(quoted) {
        Some(schema) => format!("GRANT USAGE ON SCHEMA {schema} TO {role};\n{grant}"),
        None => grant,
    }
}

/// The statement with which a role may read a view.
pub(super) fn grant_on_view(view: &Name, role: Option<&str>) -> String {
    match role.map(quoted) {
        Some(role) => format!("GRANT SELECT ON {} TO {role};\n", view.quoted()),
        None => String::new(),
    }
}
