//! How SQLite describes and creates the tables of read models.

use sqlx::Row as _;
use sqlx::sqlite::{Sqlite, SqliteConnection};

use super::connect::{BEGIN_WRITE, READONLY, primary_code};
use crate::backend::StoreSettings;
use crate::backend::read_model::{qualified, quoted};
use crate::backend::rows::ConsumerId;
use crate::backend::tables::{IF_MISSING, Tables, create_table, literal};
use crate::backend::views::create_view;
use crate::contract::read_model::{ColumnType, TableColumn, VersionTable};

impl Tables for Sqlite {
    /// The transaction of a batch spans one file.
    const HAS_SCHEMAS: bool = false;

    /// The transaction is the lock.
    const BEGIN_TABLES: &'static str = BEGIN_WRITE;

    fn describe(schema: &str, table: &str) -> String {
        let (master, schema) = (quoted(schema), literal(schema));
        format!(
            "SELECT p.name AS name, p.type AS type, p.\"notnull\" = 0 AS nullable,
                    nullif(p.pk, 0) AS key_place,
                    EXISTS (SELECT 1 FROM pragma_index_list(m.name, {schema}) AS i
                              JOIN pragma_index_info(i.name, {schema}) AS c
                             WHERE c.seqno = 0 AND c.name = p.name AND i.partial = 0) AS is_indexed,
                    CASE m.type WHEN 'table' THEN NULL ELSE 'a ' || m.type END AS obstacle
               FROM {master}.sqlite_master AS m
               LEFT JOIN pragma_table_info(m.name, {schema}) AS p
              WHERE m.type IN ('table', 'view') AND m.name = {} COLLATE NOCASE
              ORDER BY p.cid",
            literal(table)
        )
    }

    /// As sqlx names what it stores. The values of other types are texts that must stay as they are,
    /// which they would not in a column of a numeric type: it would store `1.50` as 1.5.
    fn declared_type(column: ColumnType) -> &'static str {
        match column {
            ColumnType::Bool => "BOOLEAN",
            ColumnType::I16 | ColumnType::I32 | ColumnType::I64 => "INTEGER",
            ColumnType::F32 | ColumnType::F64 => "REAL",
            ColumnType::Bytes | ColumnType::Uuid => "BLOB",
            ColumnType::Timestamp => "DATETIME",
            ColumnType::Date => "DATE",
            ColumnType::Text | ColumnType::Json | ColumnType::Other(_) => "TEXT",
        }
    }

    async fn shown_type(
        _connection: &mut SqliteConnection,
        column: ColumnType,
    ) -> Result<String, sqlx::Error> {
        Ok(Self::declared_type(column).to_owned())
    }

    fn create_index(
        table: &VersionTable<'_>,
        name: &str,
        column: &TableColumn,
        condition: &str,
    ) -> String {
        let index = qualified(Some(table.schema().unwrap_or("main")), name);
        let (table, column) = (quoted(&table.name()), quoted(column.name));
        format!("CREATE INDEX {condition}{index} ON {table} ({column})")
    }

    async fn current_schema(
        _connection: &mut SqliteConnection,
    ) -> Result<Option<String>, sqlx::Error> {
        Ok(Some("main".to_owned()))
    }

    async fn schema_of(
        connection: &mut SqliteConnection,
        name: &str,
    ) -> Result<Option<String>, sqlx::Error> {
        let schema_of = "SELECT 'main' AS name FROM main.sqlite_master
                          WHERE type IN ('table', 'view') AND name = ?1 COLLATE NOCASE";
        let row = sqlx::query(schema_of).bind(name).fetch_optional(connection);
        row.await?.map(|row| row.try_get("name")).transpose()
    }

    fn tables_like(schema: &str, beginning: &str) -> String {
        let (master, beginning) = (quoted(schema), literal(beginning));
        format!(
            "SELECT name FROM {master}.sqlite_master
              WHERE type = 'table' AND substr(name, 1, length({beginning})) = {beginning}"
        )
    }

    /// The view of a later version cannot depend on a condition here. It is left to the worker, which may
    /// always create it.
    fn create_if_missing(
        _settings: &StoreSettings,
        consumer: &ConsumerId,
        table: &VersionTable<'_>,
        _role: Option<&str>,
    ) -> String {
        let mut script = create_table::<Self>(table, IF_MISSING);
        if consumer.version == 1 {
            script.push_str(&create_view(table, IF_MISSING));
        }
        script
    }

    /// There are no roles.
    fn may_not_create(_error: &sqlx::Error) -> bool {
        false
    }

    fn may_not_write(error: &sqlx::Error) -> bool {
        let code = error.as_database_error().and_then(primary_code);
        code == Some(READONLY)
    }

    async fn role(_connection: &mut SqliteConnection) -> Result<Option<String>, sqlx::Error> {
        Ok(None)
    }

    /// The only schema always exists.
    fn lacks_schema(_error: &sqlx::Error) -> bool {
        false
    }
}
