//! How the tables come into being: each database has the SQL of every version.

use super::dialect::fill_in;
use super::events::Events;
use super::version::KNOWN;
use super::{Access, Column, Schema, Sql, StoreError, StoreSettings};

const VERSION: &str = "SELECT CAST(COALESCE(max(version), 0) AS BIGINT) AS version FROM {versions}";

/// The oldest version that a library must know; since version 4.
const NEEDS: &str = "SELECT CAST(max(needs) AS BIGINT) AS version FROM {versions}";

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
    settings.render(&with_later_columns::<DB>(&script))
}

/// Brings the tables up to date, in the caller's transaction.
pub(crate) async fn migrate<DB: Events>(
    tx: &mut DB::Connection,
    settings: &StoreSettings,
) -> Result<(), StoreError> {
    DB::check_server(tx).await?;
    DB::refuse_without_create(tx, settings).await?;
    run::<DB>(tx, settings, &first::<DB>(settings)).await?;
    DB::add_later_columns(tx, &settings.schema).await?;
    let found = version::<DB>(tx, settings, VERSION).await?;
    for (version, sql) in numbered::<DB>().skip_while(|(version, _)| *version <= found) {
        run::<DB>(tx, settings, &format!("{sql}{}", record(version))).await?;
    }
    // Before the commit: tables that do not fit are left without ours beside them.
    check::<DB>(tx, settings, None).await
}

/// Checks that the tables are there, up to date, have the columns of the mapping, and allow this
/// connection's role to use them; without a use, to look at the log.
pub(crate) async fn check<DB: Events>(
    connection: &mut DB::Connection,
    settings: &StoreSettings,
    access: Option<Access>,
) -> Result<(), StoreError> {
    DB::check_server(connection).await?;
    check_use::<DB>(connection, settings, access).await?;
    probe::<DB>(connection, settings).await
}

/// Checks what can change while a program uses the tables: their version, and its privileges.
pub(crate) async fn check_use<DB: Events>(
    connection: &mut DB::Connection,
    settings: &StoreSettings,
    access: Option<Access>,
) -> Result<(), StoreError> {
    DB::refuse_forbidden(connection, settings, access).await?;
    check_version::<DB>(connection, settings).await
}

/// Refuses tables that this library cannot work with: those that lack something, and those of a later
/// version that says so.
async fn check_version<DB: Events>(
    connection: &mut DB::Connection,
    settings: &StoreSettings,
) -> Result<(), StoreError> {
    let known = known();
    let found = match version::<DB>(connection, settings, VERSION).await {
        // Nothing of ours was found for which a privilege is missing.
        Err(StoreError::Forbidden(error)) => {
            let missing = error.to_string();
            return Err(StoreError::NotMigrated { missing });
        }
        found => found?,
    };
    if found < known {
        return Err(StoreError::NotMigrated {
            missing: format!("they are at version {found} of {known}"),
        });
    }
    if found == known {
        return Ok(());
    }
    let needs = version::<DB>(connection, settings, NEEDS).await?;
    if needs <= known {
        return Ok(());
    }
    Err(StoreError::NewerSchema {
        found,
        needs,
        known,
    })
}

/// Creates the database schema of the mapping, if it has one, and the table of versions.
fn first<DB: Events>(settings: &StoreSettings) -> String {
    let schema = match settings.schema.database_schema_name() {
        Some(_) => DB::CREATE_SCHEMA,
        None => "",
    };
    format!("{schema}{}", DB::VERSIONS)
}

/// Fills the columns that later versions have added into the definitions of tables.
fn with_later_columns<DB: Events>(template: &str) -> String {
    fill_in(template, |key| {
        key.strip_prefix("later columns of ").map(DB::later_columns)
    })
}

fn known() -> i64 {
    i64::try_from(KNOWN).unwrap_or(i64::MAX)
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
    let sql = Sql::new(settings, &with_later_columns::<DB>(template));
    sql.fetch_as_script::<DB>(tx).await?;
    Ok(())
}

async fn version<DB: Events>(
    connection: &mut DB::Connection,
    settings: &StoreSettings,
    template: &str,
) -> Result<i64, StoreError> {
    let version = Sql::new(settings, template);
    let rows = version.fetch_as_script::<DB>(connection).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    Ok(DB::read(row, "version")?)
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

#[cfg(all(test, feature = "postgres", feature = "sqlite"))]
mod tests {
    use sqlx::{Postgres, Sqlite};

    use super::{Events, KNOWN};

    /// Hashes what is not a comment with FNV-1a, which is the same in every release of Rust.
    fn hash(sql: &str) -> u64 {
        let is_comment = |line: &&str| line.trim_start().starts_with("--");
        let lines = sql.lines().filter(|line| !is_comment(line));
        lines
            .flat_map(str::bytes)
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })
    }

    fn hashes<DB: Events>() -> [u64; KNOWN] {
        DB::MIGRATIONS.map(hash)
    }

    /// A database that has a version gets no other text of it: add a version instead.
    #[test]
    fn a_released_version_of_the_tables_never_changes() {
        assert_eq!(
            hashes::<Postgres>(),
            [
                0x181b_ac3c_6d16_c095,
                0xcdcf_8e82_7169_3e59,
                0xd286_8573_4fbf_6181,
                0x2e28_4285_576a_6d05,
                0xcfb3_1b29_77da_74bf,
                0xb2eb_da82_c45d_fe83,
            ]
        );
        assert_eq!(
            hashes::<Sqlite>(),
            [
                0xef7f_528f_b079_48ce,
                0x7dbd_ac51_b1ed_8ca6,
                0xcbf2_9ce4_8422_2325,
                0x7227_58fb_125f_f937,
                0x6a38_5ab6_38dd_ef5a,
                0x2411_0065_ff23_ede5,
            ]
        );
    }
}
