//! How the tables come into being: each database has the SQL of every version.

use sqlx::SqlSafeStr as _;

use super::events::Events;
use super::{Column, Schema, Sql, StoreError, StoreSettings};

const VERSION: &str = "SELECT CAST(COALESCE(max(version), 0) AS BIGINT) AS version FROM {versions}";

/// Qualified, since SQLite takes a quoted name that is not a column for a string.
const PROBE_EVENTS: &str = "
    SELECT t.{global_position}, t.{aggregate_type}, t.{aggregate_id}, t.{aggregate_version},
           t.{event_id}, t.{event_type}, t.{event_version}, t.{payload}, t.{trace_id},
           t.{correlation_id}, t.{causation_id}, t.{metadata}, t.{created_at}
      FROM {events} AS t LIMIT 0";

const PROBE_HEADS: &str = "
    SELECT t.{aggregate_type}, t.{aggregate_id}, t.{aggregate_version}, t.updated_at
      FROM {heads} AS t LIMIT 0";

/// The whole migration as a script that can be run any number of times.
pub(crate) fn script<DB: Events>(settings: &StoreSettings) -> String {
    let mut script = format!("{};\n{}", DB::BEGIN_MIGRATION, first::<DB>(settings));
    for (version, sql) in numbered::<DB>() {
        script.push_str(sql);
        script.push_str(&record(version));
    }
    script.push_str("COMMIT;\n");
    settings.render(&script)
}

/// Brings the tables up to date, in the caller's transaction.
pub(crate) async fn migrate<DB: Events>(
    tx: &mut DB::Connection,
    settings: &StoreSettings,
) -> Result<(), StoreError> {
    DB::check_server(tx).await?;
    // Asked first, since `CREATE … IF NOT EXISTS` needs the right to create even where it does nothing.
    if !DB::has_versions(tx, settings).await? {
        run::<DB>(tx, settings, &first::<DB>(settings)).await?;
    }
    let found = version::<DB>(tx, settings).await?;
    refuse_newer::<DB>(found)?;
    for (version, sql) in numbered::<DB>().skip_while(|(version, _)| *version <= found) {
        run::<DB>(tx, settings, &format!("{sql}{}", record(version))).await?;
    }
    // Before the commit: tables that do not fit are left without ours beside them.
    probe::<DB>(tx, settings).await
}

/// Checks that the tables are there, up to date, and have the columns of the mapping.
pub(crate) async fn check<DB: Events>(
    connection: &mut DB::Connection,
    settings: &StoreSettings,
) -> Result<(), StoreError> {
    DB::check_server(connection).await?;
    let found = version::<DB>(connection, settings).await?;
    refuse_newer::<DB>(found)?;
    let known = known::<DB>();
    if found < known {
        return Err(StoreError::NotMigrated {
            missing: format!("they are at version {found} of {known}"),
        });
    }
    probe::<DB>(connection, settings).await
}

/// Creates the database schema of the mapping, if it has one, and the table of versions.
fn first<DB: Events>(settings: &StoreSettings) -> String {
    let schema = match settings.schema.database_schema_name() {
        Some(name) => format!("CREATE SCHEMA IF NOT EXISTS \"{name}\";\n"),
        None => String::new(),
    };
    schema + DB::VERSIONS
}

fn known<DB: Events>() -> i64 {
    i64::try_from(DB::MIGRATIONS.len()).unwrap_or(i64::MAX)
}

fn numbered<DB: Events>() -> impl Iterator<Item = (i64, &'static str)> {
    (1..).zip(DB::MIGRATIONS)
}

fn record(version: i64) -> String {
    format!("INSERT INTO {{versions}} (version) VALUES ({version}) ON CONFLICT DO NOTHING;\n")
}

async fn run<DB: Events>(
    tx: &mut DB::Connection,
    settings: &StoreSettings,
    template: &str,
) -> Result<(), StoreError> {
    let sql = Sql::new(settings, template).safe().into_sql_str();
    DB::fetch_script(tx, sql).await?;
    Ok(())
}

async fn version<DB: Events>(
    connection: &mut DB::Connection,
    settings: &StoreSettings,
) -> Result<i64, StoreError> {
    let version = Sql::new(settings, VERSION).on::<DB>();
    Ok(version.fetch_value(connection, "version").await?)
}

fn refuse_newer<DB: Events>(found: i64) -> Result<(), StoreError> {
    let known = known::<DB>();
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    Ok(())
}

/// Names every column, and asks for no row.
async fn probe<DB: Events>(
    connection: &mut DB::Connection,
    settings: &StoreSettings,
) -> Result<(), StoreError> {
    for template in [PROBE_EVENTS, PROBE_HEADS] {
        let probe = Sql::new(settings, template).on::<DB>();
        let probed = probe.fetch_all(connection).await.map(drop);
        probed.map_err(|error| despite_migration(error.into(), &settings.schema))?;
    }
    DB::check_positions(connection, &settings.schema).await?;
    refuse_nullable::<DB>(connection, &settings.schema).await
}

/// A row with NULL where an event has a value could only be reported once a consumer has met it.
async fn refuse_nullable<DB: Events>(
    connection: &mut DB::Connection,
    schema: &Schema,
) -> Result<(), StoreError> {
    let nullable = DB::nullable_columns(connection, schema).await?;
    let columns: Vec<String> = Column::required()
        .map(|column| schema.column_name(column))
        .filter(|name| {
            nullable
                .iter()
                .any(|other| name.eq_ignore_ascii_case(other))
        })
        .map(str::to_owned)
        .collect();
    if columns.is_empty() {
        return Ok(());
    }
    Err(StoreError::NullableColumns {
        table: schema.events_name().to_owned(),
        columns,
    })
}

/// The error for tables that exist under other names than those of the mapping.
fn despite_migration(error: StoreError, schema: &Schema) -> StoreError {
    match error {
        StoreError::NotMigrated { missing } => StoreError::OtherMapping {
            missing,
            events: schema.events_name().to_owned(),
            heads: schema.heads_name().to_owned(),
        },
        other => other,
    }
}
