//! How Postgres describes and creates the tables of read models.

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{Row as _, raw_sql};

use super::connect::{begin, begin_write};
use super::read_model::type_name;
use crate::backend::read_model::{qualified, quoted};
use crate::backend::tables::{Tables, literal};
use crate::contract::read_model::{ColumnType, TableColumn, VersionTable};

impl Tables for Postgres {
    /// The number is arbitrary.
    const BEGIN_TABLES: &'static str =
        begin_write!("SELECT pg_advisory_xact_lock(7166182912370463012)");

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

    fn type_query(column: ColumnType) -> Option<String> {
        match column {
            ColumnType::Other(sql_type) => {
                Some(format!("SELECT pg_typeof(NULL::{sql_type})::text AS type"))
            }
            _ => None,
        }
    }

    fn create_index(table: &VersionTable<'_>, _name: &str, column: &TableColumn) -> String {
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

    fn may_not_create(error: &sqlx::Error) -> bool {
        // insufficient_privilege
        let code = error.as_database_error().and_then(DatabaseError::code);
        code.is_some_and(|code| code == "42501")
    }
}
