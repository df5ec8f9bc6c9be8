//! How the tables come into being.
//!
//! Each database has the SQL of every version as a whole, although many tables differ only in the names of types:
//! a released version never changes, and is read to see what a database has.

use std::borrow::Cow;

use super::column::Column;
use super::dialect::fill_in;
use super::events::Events;
use super::version::KNOWN;
use super::{Access, Mismatch, Schema, Sql, StoreError, StoreSettings};

const VERSION: &str = "SELECT CAST(COALESCE(max(version), 0) AS BIGINT) AS version FROM {versions}";

/// The oldest version that a library must know; since version 4.
const NEEDS: &str = "SELECT CAST(max(needs) AS BIGINT) AS version FROM {versions}";

/// Keeps libraries that know only earlier versions from the tables. A later version may be there, too.
const REFUSE_OLDER: &str = "UPDATE {versions} SET needs = {known} WHERE version = {known};\n";

/// Restores what the versions were recorded with.
const ACCEPT_OLDER: &str = "UPDATE {versions} SET needs = {needed} WHERE version <= {known};\n";

/// Qualified, since SQLite takes a quoted name that is not a column for a string.
const PROBE_HEADS: &str = "
    SELECT t.{head aggregate_type}, t.{head aggregate_id}, t.{head aggregate_version}, t.updated_at
      FROM {heads} AS t LIMIT 0";

/// A part of version 4.
macro_rules! ledger_replaces_replay_to {
    () => {
        "-- The ledger replaces `replay_to`.
INSERT INTO {handled} (consumer, scope, slice_from, slice_to, after, up_to)
SELECT consumer, scope, slice_from, slice_to, 0, replay_to FROM {progress} WHERE replay_to > 0;
UPDATE {progress} SET replay_to = 0 WHERE replay_to > 0;
"
    };
}
pub(super) use ledger_replaces_replay_to;

/// The whole migration as a script that can be run any number of times.
pub(crate) fn script<DB: Events>(settings: &StoreSettings) -> String {
    let mut script = format!("{};\n{}", DB::BEGIN_MIGRATION, first::<DB>(settings));
    for (version, sql) in numbered::<DB>(&settings.schema) {
        script.push_str(&sql);
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
    // First, so that all differences are reported, and not the one at which a statement fails.
    let is_there = refuse_all_mismatches::<DB>(tx, settings, None).await?;
    if !is_there && settings.schema.is_of_existing_table() {
        return Err(no_events_table(settings));
    }
    run::<DB>(tx, settings, &first::<DB>(settings)).await?;
    DB::add_later_columns(tx, &settings.schema).await?;
    let found = version::<DB>(tx, settings, VERSION).await?;
    let versions = numbered::<DB>(&settings.schema).into_iter();
    for (version, sql) in versions.skip_while(|(version, _)| *version <= found) {
        run::<DB>(tx, settings, &format!("{sql}{}", record(version))).await?;
    }
    // Before the commit: tables that do not fit are left without the library's beside them.
    check::<DB>(tx, settings, None).await
}

/// Refuses libraries that know only earlier versions of the tables, or accepts them again.
pub(crate) async fn set_older_libraries<DB: Events>(
    tx: &mut DB::Connection,
    settings: &StoreSettings,
    are_refused: bool,
) -> Result<(), StoreError> {
    run::<DB>(tx, settings, of_older_libraries(are_refused)).await
}

/// What [`set_older_libraries`] runs, for an administrator.
#[cfg(feature = "cli")]
pub(crate) fn older_libraries_sql(settings: &StoreSettings, are_refused: bool) -> String {
    settings.render(of_older_libraries(are_refused))
}

const fn of_older_libraries(are_refused: bool) -> &'static str {
    if are_refused {
        REFUSE_OLDER
    } else {
        ACCEPT_OLDER
    }
}

/// Whether a library that passes over events which it does not know has used the tables, and still may.
#[cfg(feature = "worker")]
pub(crate) async fn admits_passing_over<DB: Events>(
    connection: &mut DB::Connection,
    settings: &StoreSettings,
) -> Result<bool, StoreError> {
    // On SQLite, the times of versions that came together differ a little.
    let admits = format!(
        "SELECT CAST(count(*) AS BIGINT) AS version FROM {{versions}} AS old, {{versions}} AS new
          WHERE old.version IN (4, 5) AND new.version = 6
            AND {new} - {old} > 60
            -- The first whose libraries step aside before such an event.
            AND (SELECT max(needs) FROM {{versions}}) < 6",
        new = DB::SECONDS.replace('$', "new.applied_at"),
        old = DB::SECONDS.replace('$', "old.applied_at"),
    );
    Ok(version::<DB>(connection, settings, &admits).await? > 0)
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
    probe::<DB>(connection, settings, access).await
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

/// Checks what can change in the table of events while a program reads it: its columns.
#[cfg(feature = "worker")]
pub(crate) async fn check_mapping<DB: Events>(
    connection: &mut DB::Connection,
    settings: &StoreSettings,
) -> Result<(), StoreError> {
    if refuse_mismatches::<DB>(connection, settings).await? {
        Ok(())
    } else {
        Err(no_events_table(settings))
    }
}

/// Refuses tables that this library cannot work with: those that lack something, and those of a later
/// version that says so.
async fn check_version<DB: Events>(
    connection: &mut DB::Connection,
    settings: &StoreSettings,
) -> Result<(), StoreError> {
    let known = known();
    let found = match version::<DB>(connection, settings, VERSION).await {
        // No table of the library was found for which a privilege is missing.
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

/// The versions of the tables, the first with the tables of the log as the mapping needs them.
fn numbered<DB: Events>(schema: &Schema) -> Vec<(i64, Cow<'static, str>)> {
    let versions = DB::MIGRATIONS.into_iter().map(Cow::Borrowed);
    let mut versions: Vec<_> = (1..).zip(versions).collect();
    if let Some((_, first)) = versions.first_mut()
        && schema.is_of_existing_table()
    {
        let of_the_log = [DB::EVENTS, DB::HEADS, DB::SCOPE_INDEX].concat();
        let own = first.strip_prefix(&of_the_log).unwrap_or(first);
        *first = Cow::Owned(format!("{}{own}", heads_beside::<DB>(schema)));
    }
    versions
}

/// Creates the table of heads beside an existing table of events, with the same type of ids.
fn heads_beside<DB: Events>(schema: &Schema) -> String {
    if schema.is_read_only() {
        return String::new();
    }
    let columns = [
        Column::AggregateType,
        Column::AggregateId,
        Column::AggregateVersion,
    ];
    let heads = columns
        .into_iter()
        .fold(DB::HEADS.to_owned(), |heads, column| {
            let name = column.name();
            heads.replace(&format!("{{{name}}}"), &format!("{{head {name}}}"))
        });
    let id = schema.type_of(Column::AggregateId).sql_name();
    heads.replace(
        "{head aggregate_id} TEXT",
        &format!("{{head aggregate_id}} {id}"),
    )
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

/// Compares the tables of the log with the mapping.
async fn probe<DB: Events>(
    connection: &mut DB::Connection,
    settings: &StoreSettings,
    access: Option<Access>,
) -> Result<(), StoreError> {
    let schema = &settings.schema;
    if !refuse_all_mismatches::<DB>(connection, settings, access).await? {
        return Err(no_events_table(settings));
    }
    if !schema.is_read_only() {
        // Not prepared: the types may change before a pool hands the connection out again.
        let probe = Sql::new(settings, PROBE_HEADS);
        let probed = probe.fetch_as_script::<DB>(connection).await.map(drop);
        probed.map_err(|error| despite_migration(error.into(), schema))?;
    }
    Ok(())
}

/// Refuses tables of the log that differ from the mapping, or on which a worker would lose events, and
/// returns whether there is one of events.
async fn refuse_all_mismatches<DB: Events>(
    connection: &mut DB::Connection,
    settings: &StoreSettings,
    access: Option<Access>,
) -> Result<bool, StoreError> {
    let schema = &settings.schema;
    let Some(mut mismatches) = DB::mismatches(connection, settings).await? else {
        return Ok(false);
    };
    if !schema.is_read_only() {
        let of_heads = DB::head_mismatches(connection, settings, &mismatches).await?;
        mismatches.extend(of_heads);
    }
    let of_positions = DB::position_mismatches(connection, settings, access, &mismatches).await?;
    mismatches.retain(|mismatch| !mismatch.is_part_of(&of_positions));
    mismatches.extend(of_positions);
    refuse(schema, mismatches).map(|()| true)
}

/// Refuses a table of events that differs from the mapping, and returns whether there is one.
async fn refuse_mismatches<DB: Events>(
    connection: &mut DB::Connection,
    settings: &StoreSettings,
) -> Result<bool, StoreError> {
    match DB::mismatches(connection, settings).await? {
        Some(mismatches) => refuse(&settings.schema, mismatches).map(|()| true),
        None => Ok(false),
    }
}

fn refuse(schema: &Schema, mismatches: Vec<Mismatch>) -> Result<(), StoreError> {
    if mismatches.is_empty() {
        return Ok(());
    }
    Err(StoreError::Mismatches {
        table: schema.events_name().to_owned(),
        mismatches,
    })
}

/// The error for a table of events that is not there, in a database that is migrated.
fn no_events_table(settings: &StoreSettings) -> StoreError {
    let schema = &settings.schema;
    let table = schema.render("{events}");
    if schema.is_of_existing_table() {
        return StoreError::NoEventsTable { table };
    }
    let missing = format!("there is no table {table}");
    despite_migration(StoreError::NotMigrated { missing }, schema)
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
                0xb8d2_0ac1_3747_09d9,
                0xb2eb_da82_c45d_fe83,
                0x644a_fbac_66d3_c3eb,
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
                0xa571_b673_201d_8a55,
                0x2411_0065_ff23_ede5,
                0x5f98_b618_97de_4a02,
            ]
        );
    }
}
