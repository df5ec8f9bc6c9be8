//! The tables of read models: created at start, and compared with their structs.

use std::future::Future;
use std::sync::Arc;

use sqlx::{AssertSqlSafe, SqlSafeStr as _};
use thiserror::Error;

use super::driver::Driver;
use super::driver_error::DriverError;
use super::read_model::{names, qualified, quoted};
use super::rows::ConsumerId;
use super::schema::Schema;
use super::sql::StoreSettings;
use super::views::{Name, ReadModelTable, Relation, ViewStatements, Views, recorded_tables};
use crate::contract::read_model::{ColumnRole, ColumnType, Table, TableColumn, VersionTable};

/// Why a worker cannot use the table of a read model.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TableError {
    /// The table differs from the struct.
    #[error(
        "the table `{table}` differs from the read model's struct: {}; give the consumer `version = {}`, which fills a table beside this one, or drop this one, with the view if it shows this one, and rebuild the consumer",
        .differences.join("; "),
        .version.saturating_add(1)
    )]
    Differs {
        /// The table, with its version.
        table: String,
        /// All differences.
        differences: Vec<String>,
        /// The version.
        version: u32,
    },
    /// The table does not exist, and the worker's role may not create it.
    #[error(
        "the table `{table}` does not exist, and the worker's role may not create it; run this as a role that may create it, and start the worker again:\n{sql}"
    )]
    MayNotCreate {
        /// The table, with its version.
        table: String,
        /// The statements that create the table and, unless there is one, its view, and grant the worker's
        /// role what it needs.
        sql: String,
        /// The refusal.
        #[source]
        source: DriverError,
    },
    /// The table does not exist, and the database is read-only.
    #[error(
        "the table `{table}` does not exist, and cannot be created because the database is read-only: give the worker a connection that may write"
    )]
    ReadOnly {
        /// The table, with its version.
        table: String,
        /// The refusal.
        #[source]
        source: DriverError,
    },
    /// The version has another table, or another version has its table in another schema.
    #[error(
        "the read model of `{consumer}` is in `{recorded}`, and this program would use `{declared}`: {remedy}"
    )]
    Elsewhere {
        /// The consumer.
        consumer: ConsumerId,
        /// The table that was recorded when a worker first started.
        recorded: String,
        /// The table that the struct and the session's `search_path` name now.
        declared: String,
        /// How to keep the recorded table, and how to fill the other one.
        remedy: String,
    },
    /// The table is gone, and the view over it reads another one.
    #[error(
        "the table `{table}` of the read model of `{consumer}` was moved or renamed, since the view `{view}` reads another one: move it back, or name it, without the version, in `#[read_model(table = \"…\")]`"
    )]
    Moved {
        /// The consumer.
        consumer: ConsumerId,
        /// The table, with its version, as it was recorded.
        table: String,
        /// The view.
        view: String,
    },
    /// Another relation has the table's name, or the table hides rows.
    #[error(
        "`{table}` is {obstacle}, and a read model needs a table of its own: rename or drop it, or give the read model another `table`"
    )]
    Obstacle {
        /// The table, with its version.
        table: String,
        /// The kind of the obstacle.
        obstacle: String,
    },
    /// The name with the version is too long for the database.
    #[error("the name `{table}` is longer than 63 bytes: choose a shorter `table`")]
    NameTooLong {
        /// The table, with its version.
        table: String,
    },
    /// The schema that the name gives does not exist.
    #[error(
        "the schema `{schema}` of the table `{table}` does not exist: run `CREATE SCHEMA {schema}`, or give the read model another `table`"
    )]
    MissingSchema {
        /// The table, with its version.
        table: String,
        /// The schema.
        schema: String,
    },
    /// The name gives a schema, and the database has none.
    #[error("SQLite has no schemas for the table `{table}`: write `table = \"{name}\"`")]
    SchemaNotSupported {
        /// The table, with its version.
        table: String,
        /// The name without the version.
        name: &'static str,
    },
    /// No schema is current.
    #[error(
        "there is no schema to create the table `{table}` in, since the connection's `search_path` has none that exists: write `table = \"schema.{name}\"`"
    )]
    NoSchema {
        /// The table, with its version.
        table: String,
        /// The name without the version.
        name: &'static str,
    },
    /// The database failed.
    #[error("cannot inspect the table `{table}`")]
    Database {
        /// The table, with its version.
        table: String,
        /// The failure.
        #[source]
        source: DriverError,
    },
}

/// The longest name that Postgres keeps.
const LONGEST_NAME: usize = 63;

/// How a database describes and creates tables.
pub trait Tables: Driver {
    /// Whether the name of a table may give a schema.
    const HAS_SCHEMAS: bool;

    /// Begins a transaction in which no other process creates tables of read models.
    const BEGIN_TABLES: &'static str;

    /// Returns the query for the columns of a table, which are texts: its result has the columns
    /// `name`, `type`, `nullable`, `key_place`, `is_indexed` and `obstacle`.
    fn describe(schema: &str, table: &str) -> String;

    /// Returns the type of a column for the statement that creates it.
    fn declared_type(column: ColumnType) -> &'static str;

    /// Returns the name of a column's type in the spelling of `describe`, whatever that of the struct is.
    fn shown_type(
        connection: &mut Self::Connection,
        column: ColumnType,
    ) -> impl Future<Output = Result<String, sqlx::Error>> + Send;

    /// Returns the statement that creates an index, on a condition if the database takes one here.
    fn create_index(
        table: &VersionTable<'_>,
        name: &str,
        column: &TableColumn,
        condition: &str,
    ) -> String;

    /// Returns the schema in which tables are created that name none.
    fn current_schema(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Option<String>, sqlx::Error>> + Send;

    /// Returns the schema in which a session finds a table or view; `None` if there is none.
    fn schema_of(
        connection: &mut Self::Connection,
        name: &str,
    ) -> impl Future<Output = Result<Option<String>, sqlx::Error>> + Send;

    /// Returns the query for the tables of a schema whose names begin with a text, as `name`.
    fn tables_like(schema: &str, beginning: &str) -> String;

    /// Returns the statements that create the table of a version, and its view if no other version has
    /// one, unless they exist, and grant a role what its worker needs of what they create. They can be run
    /// any number of times.
    fn create_if_missing(
        settings: &StoreSettings,
        consumer: &ConsumerId,
        table: &VersionTable<'_>,
        role: Option<&str>,
    ) -> String;

    /// Returns the role of the session; `None` in a database without roles.
    fn role(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Option<String>, sqlx::Error>> + Send;

    /// Whether the error says that the role lacks the right to create.
    fn may_not_create(error: &sqlx::Error) -> bool;

    /// Whether the error says that the session may write nothing.
    fn may_not_write(error: &sqlx::Error) -> bool;

    /// Whether the error says that the schema does not exist.
    fn lacks_schema(error: &sqlx::Error) -> bool;
}

/// Returns the schema in which a worker creates the tables of read models whose names give none.
pub(crate) async fn table_schema<DB: Tables>(
    connection: &mut DB::Connection,
    schema: &Schema,
) -> Result<Option<Arc<str>>, sqlx::Error> {
    match schema.handlers_schema() {
        Some(schema) => Ok(Some(schema.into())),
        None => Ok(DB::current_schema(connection).await?.map(Arc::from)),
    }
}

/// Returns the schema of the table of a version, in whichever session; before a worker has created it, the
/// one in which it would.
pub(crate) async fn schema_of_version<DB: Tables + Views>(
    sql: &ViewStatements,
    connection: &mut DB::Connection,
    consumer: &ConsumerId,
    table: &VersionTable<'_>,
) -> Result<Option<Arc<str>>, sqlx::Error> {
    let here = ReadModelTable::new(consumer, table).table;
    let versions = recorded_tables::<DB>(sql, connection, &consumer.name).await?;
    let recorded = versions.into_iter().find(|one| one.consumer == *consumer);
    let schema = match recorded {
        Some(recorded) if !has_moved::<DB>(connection, &recorded.table, &here).await? => {
            recorded.table.schema
        }
        _ => here.schema,
    };
    Ok(schema.map(Arc::from))
}

/// Whether a table is gone, and another one is there: its owner has moved it, with its rows.
async fn has_moved<DB: Views>(
    connection: &mut DB::Connection,
    from: &Name,
    to: &Name,
) -> Result<bool, sqlx::Error> {
    Ok(DB::relation(connection, from).await? == Relation::Missing
        && DB::relation(connection, to).await? != Relation::Missing)
}

/// Refuses a table for a version that has its rows in another one, such as in a session with another
/// `search_path`, or after the table was renamed.
pub(crate) async fn refuse_elsewhere<DB: Tables + Views>(
    sql: &ViewStatements,
    connection: &mut DB::Connection,
    of: &ReadModelTable,
    table: &Table,
) -> Result<(), TableError> {
    let refused = elsewhere::<DB>(sql, connection, of, table).await;
    let refused = refused.map_err(|source| TableError::Database {
        table: of.table.name.clone(),
        source: source.into(),
    })?;
    refused.map_or(Ok(()), Err)
}

/// Why a version must not have this table.
async fn elsewhere<DB: Tables + Views>(
    sql: &ViewStatements,
    connection: &mut DB::Connection,
    of: &ReadModelTable,
    table: &Table,
) -> Result<Option<TableError>, sqlx::Error> {
    let versions = recorded_tables::<DB>(sql, connection, &of.consumer.name).await?;
    if reads_another::<DB>(connection, of, &versions).await? {
        return Ok(Some(TableError::Moved {
            consumer: of.consumer.clone(),
            table: written::<DB>(&of.table),
            view: written::<DB>(&of.view),
        }));
    }
    let recorded = versions.iter().map(|one| one.consumer.version);
    let next = recorded.max().unwrap_or_default().saturating_add(1);
    // A schema in the name moves a new version deliberately.
    let is_free = |one: &ReadModelTable| {
        one.consumer != of.consumer && (table.schema().is_some() || one.view.name != of.view.name)
    };
    for one in versions {
        if one.view == of.view || is_free(&one) {
            continue;
        }
        let has_moved = if one.consumer == of.consumer {
            has_moved::<DB>(connection, &one.table, &of.table).await?
        } else {
            DB::relation(connection, &one.table).await? == Relation::Missing
        };
        if !has_moved {
            return Ok(Some(is_elsewhere::<DB>(of, &one, next)));
        }
    }
    Ok(None)
}

/// Whether the table of a version is gone, and its view reads one that no version has. Had it been dropped,
/// the view would read none.
async fn reads_another<DB: Views>(
    connection: &mut DB::Connection,
    of: &ReadModelTable,
    versions: &[ReadModelTable],
) -> Result<bool, sqlx::Error> {
    if !versions.contains(of) || DB::relation(connection, &of.table).await? != Relation::Missing {
        return Ok(false);
    }
    let is_known = |reads: &String| versions.iter().any(|one| one.table.name == *reads);
    Ok(match DB::relation(connection, &of.view).await? {
        Relation::View { reads } => !reads.as_ref().is_some_and(is_known),
        Relation::Missing | Relation::Other => false,
    })
}

/// The name in the spelling of the attribute `table`.
fn written<DB: Tables>(name: &Name) -> String {
    if DB::HAS_SCHEMAS {
        name.to_string()
    } else {
        name.name.clone()
    }
}

fn is_elsewhere<DB: Tables>(
    of: &ReadModelTable,
    recorded: &ReadModelTable,
    next: u32,
) -> TableError {
    let written = written::<DB>;
    let mut keep = format!("write `table = \"{}\"`", written(&recorded.view));
    if let (Some(schema), true) = (
        &recorded.view.schema,
        recorded.view.schema != of.view.schema,
    ) {
        keep = format!("{keep} or let the `search_path` of its connections begin with `{schema}`");
    }
    let table = written(&of.view);
    TableError::Elsewhere {
        consumer: of.consumer.clone(),
        recorded: written(&recorded.table),
        declared: written(&of.table),
        remedy: format!(
            "{keep}, or fill that table with a new version, `version = {next}` and `table = \"{table}\"`"
        ),
    }
}

/// Creates a table, or compares the one that exists with its struct, in the caller's transaction.
pub(crate) async fn prepare_table<DB: Tables>(
    tx: &mut DB::Connection,
    table: &VersionTable<'_>,
) -> Result<(), TableError> {
    let Some(found) = look_at::<DB>(tx, table).await? else {
        return create::<DB>(tx, table).await;
    };
    let Comparison { differences, .. } = compare::<DB>(tx, table, &found).await?;
    if differences.is_empty() {
        return Ok(());
    }
    Err(TableError::Differs {
        table: table.name(),
        differences,
        version: table.version(),
    })
}

/// Prepares the table of a version at the start of a worker. If its role may not create it, the error has
/// everything that another role is to run.
pub(crate) async fn prepare_version<DB: Tables>(
    tx: &mut DB::Connection,
    settings: &StoreSettings,
    consumer: &ConsumerId,
    table: &VersionTable<'_>,
    role: Option<&str>,
) -> Result<(), TableError> {
    match prepare_table::<DB>(tx, table).await {
        Err(TableError::MayNotCreate {
            table: name,
            source,
            ..
        }) => Err(TableError::MayNotCreate {
            table: name,
            sql: DB::create_if_missing(settings, consumer, table, role),
            source,
        }),
        prepared => prepared,
    }
}

/// The condition of statements that may be run again.
pub(super) const IF_MISSING: &str = "IF NOT EXISTS ";

/// The statements that create a table and its indexes, possibly on a condition.
pub(super) fn create_table<DB: Tables>(table: &VersionTable<'_>, condition: &str) -> String {
    let columns = table.table().columns.iter();
    let mut lines: Vec<String> = columns
        .clone()
        .map(|column| {
            let sql_type = DB::declared_type(column.column_type);
            let null = if column.nullable { "" } else { " NOT NULL" };
            format!("    {} {sql_type}{null}", quoted(column.name))
        })
        .collect();
    lines.push(format!("    PRIMARY KEY ({})", names(table.table().key())));
    let name = qualified(table.schema(), &table.name());
    let mut script = format!(
        "CREATE TABLE {condition}{name} (\n{}\n);\n",
        lines.join(",\n")
    );
    for column in columns.filter(|column| matches!(column.role, ColumnRole::Indexed)) {
        let index = index_name(table, column);
        script.push_str(&DB::create_index(table, &index, column, condition));
        script.push_str(";\n");
    }
    script
}

fn index_name(table: &VersionTable<'_>, column: &TableColumn) -> String {
    format!("{}_{}", table.name(), column.name)
}

async fn create<DB: Tables>(
    tx: &mut DB::Connection,
    table: &VersionTable<'_>,
) -> Result<(), TableError> {
    let sql = create_table::<DB>(table, "");
    let script = AssertSqlSafe(sql.clone()).into_sql_str();
    match DB::fetch_script(tx, script).await {
        Ok(_) => Ok(()),
        Err(source) if DB::may_not_create(&source) => Err(TableError::MayNotCreate {
            table: table.name(),
            sql,
            source: source.into(),
        }),
        Err(source) if DB::may_not_write(&source) => Err(TableError::ReadOnly {
            table: table.name(),
            source: source.into(),
        }),
        Err(source) if DB::lacks_schema(&source) => Err(TableError::MissingSchema {
            table: table.name(),
            schema: table.schema().unwrap_or_default().to_owned(),
        }),
        Err(source) => Err(database(table, source)),
    }
}

/// A table as the database describes it.
#[derive(Debug, Default)]
struct FoundTable {
    columns: Vec<FoundColumn>,
    key: Vec<String>,
    obstacle: Option<String>,
}

#[derive(Debug)]
struct FoundColumn {
    name: String,
    type_name: String,
    nullable: bool,
    is_indexed: bool,
}

async fn look_at<DB: Tables>(
    connection: &mut DB::Connection,
    table: &VersionTable<'_>,
) -> Result<Option<FoundTable>, TableError> {
    let name = table.name();
    if name.len() > LONGEST_NAME {
        return Err(TableError::NameTooLong { table: name });
    }
    if table.table().schema().is_some() && !DB::HAS_SCHEMAS {
        return Err(TableError::SchemaNotSupported {
            table: name,
            name: table.view_name(),
        });
    }
    let Some(schema) = table.schema() else {
        return Err(TableError::NoSchema {
            table: name,
            name: table.view_name(),
        });
    };
    let describe = AssertSqlSafe(DB::describe(schema, &name)).into_sql_str();
    let rows = DB::fetch_script(connection, describe).await;
    let rows = rows.map_err(|error| database(table, error))?;
    if rows.is_empty() {
        return Ok(None);
    }
    let found = found_table::<DB>(&rows).map_err(|error| database(table, error))?;
    match found.obstacle {
        Some(obstacle) => Err(TableError::Obstacle {
            table: name,
            obstacle,
        }),
        None => Ok(Some(found)),
    }
}

fn found_table<DB: Tables>(rows: &[DB::Row]) -> Result<FoundTable, sqlx::Error> {
    let mut found = FoundTable::default();
    let mut key: Vec<(i64, String)> = Vec::new();
    for row in rows {
        found.obstacle = DB::read(row, "obstacle")?;
        // A table may have no columns.
        let Some(name): Option<String> = DB::read(row, "name")? else {
            continue;
        };
        if let Some(place) = DB::read(row, "key_place")? {
            key.push((place, name.clone()));
        }
        found.columns.push(FoundColumn {
            name,
            type_name: DB::read(row, "type")?,
            nullable: DB::read(row, "nullable")?,
            is_indexed: DB::read(row, "is_indexed")?,
        });
    }
    key.sort_unstable();
    found.key = key.into_iter().map(|(_, name)| name).collect();
    Ok(found)
}

/// A table compared with its struct.
pub(super) struct Comparison {
    /// Everything in which they differ.
    pub(super) differences: Vec<String>,
    /// Whether the table has the columns of the struct, perhaps among others.
    pub(super) has_columns: bool,
}

async fn compare<DB: Tables>(
    connection: &mut DB::Connection,
    table: &VersionTable<'_>,
    found: &FoundTable,
) -> Result<Comparison, TableError> {
    let mut types = Vec::new();
    for column in table.table().columns {
        let shown_type = DB::shown_type(connection, column.column_type).await;
        types.push(shown_type.map_err(|error| database(table, error))?);
    }
    let index =
        |column: &TableColumn| DB::create_index(table, &index_name(table, column), column, "");
    Ok(Comparison {
        differences: differences(table.table(), &types, found, index),
        has_columns: has_columns(table.table(), &types, found),
    })
}

/// Compares the table of a version with a struct; `None` if there is no such table.
pub(super) async fn compare_with_struct<DB: Tables>(
    connection: &mut DB::Connection,
    table: &VersionTable<'_>,
) -> Result<Option<Comparison>, TableError> {
    match look_at::<DB>(connection, table).await? {
        Some(found) => Ok(Some(compare::<DB>(connection, table, &found).await?)),
        None => Ok(None),
    }
}

/// Everything in which a table differs from its struct. `index` is the statement that adds an index.
fn differences(
    table: &Table,
    types: &[String],
    found: &FoundTable,
    index: impl Fn(&TableColumn) -> String,
) -> Vec<String> {
    let mut differences = Vec::new();
    for (column, type_name) in table.columns.iter().zip(types) {
        let found = found.columns.iter().find(|one| one.name == column.name);
        match found {
            Some(found) => {
                compare_column(column, type_name, found, &mut differences);
                if matches!(column.role, ColumnRole::Indexed) && !found.is_indexed {
                    let (name, index) = (column.name, index(column));
                    differences.push(format!(
                        "the column `{name}` has no index, which `{index}` adds"
                    ));
                }
            }
            None => differences.push(format!("the column `{}` is missing", column.name)),
        }
    }
    for found in &found.columns {
        if !table.columns.iter().any(|column| column.name == found.name) {
            differences.push(format!("the column `{}` has no field", found.name));
        }
    }
    let key: Vec<&str> = table.key().map(|column| column.name).collect();
    if found.key != key {
        let (found, key) = (found.key.join(", "), key.join(", "));
        differences.push(format!("the primary key is ({found}) and not ({key})"));
    }
    differences
}

/// Whether a table has all columns of a struct, each with its type.
fn has_columns(table: &Table, types: &[String], found: &FoundTable) -> bool {
    table.columns.iter().zip(types).all(|(column, type_name)| {
        found.columns.iter().any(|found| {
            found.name == column.name
                && type_name.eq_ignore_ascii_case(&found.type_name)
                && (column.nullable || !found.nullable)
        })
    })
}

fn compare_column(
    column: &TableColumn,
    type_name: &str,
    found: &FoundColumn,
    differences: &mut Vec<String>,
) {
    let name = column.name;
    if !type_name.eq_ignore_ascii_case(&found.type_name) {
        let found = &found.type_name;
        differences.push(format!(
            "the column `{name}` has the type {found} and not {type_name}"
        ));
    }
    if column.nullable != found.nullable {
        let is = if found.nullable { "may" } else { "may not" };
        differences.push(format!("the column `{name}` {is} be NULL"));
    }
}

fn database(table: &VersionTable<'_>, source: sqlx::Error) -> TableError {
    TableError::Database {
        table: table.name(),
        source: source.into(),
    }
}

/// A text as a literal of SQL.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::{FoundColumn, FoundTable, differences};
    use crate::contract::read_model::{Table, TableColumn};

    #[test]
    fn every_difference_is_named() {
        const USERS: &Table = &Table::new(
            "users",
            &[
                TableColumn::key::<String>("id"),
                TableColumn::of::<String>("email").indexed(),
                TableColumn::of::<i64>("age"),
            ],
        );
        let column = |name: &str, type_name: &str| FoundColumn {
            name: name.into(),
            type_name: type_name.into(),
            nullable: true,
            is_indexed: false,
        };
        let found = FoundTable {
            columns: vec![
                column("email", "bytea"),
                column("id", "text"),
                column("x", "text"),
            ],
            key: vec!["email".into()],
            obstacle: None,
        };
        let types = ["text", "text", "bigint"].map(String::from);
        assert_eq!(
            differences(USERS, &types, &found, |column| format!(
                "INDEX {}",
                column.name
            )),
            [
                "the column `id` may be NULL",
                "the column `email` has the type bytea and not text",
                "the column `email` may be NULL",
                "the column `email` has no index, which `INDEX email` adds",
                "the column `age` is missing",
                "the column `x` has no field",
                "the primary key is (email) and not (id)",
            ]
        );
    }
}
