//! Connections to Postgres: which servers the library can rest on, and what a session tells of its server.

use sqlx::{PgConnection, Row, raw_sql};

use crate::backend::StoreError;

/// The incarnation of the server, as two numbers. The statistics begin anew when a crashed backend takes
/// all the others with it, which the start time of the server does not show.
#[cfg(feature = "worker")]
macro_rules! server_incarnation {
    () => {
        concat!(server_incarnation!(started), " AS started, ", server_incarnation!(recovered), " AS recovered")
    };
    (started) => {
        "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint"
    };
    (recovered) => {
        "coalesce((extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time()) * 1000000)::bigint, 0)"
    };
    (is $started:literal, $recovered:literal) => {
        concat!(
            server_incarnation!(started), " = ", $started, "::bigint AND ",
            server_incarnation!(recovered), " = ", $recovered, "::bigint"
        )
    };
}

#[cfg(feature = "worker")]
pub(super) use server_incarnation;

/// Whatever the role's defaults are: a claim must see what its predecessor committed, and a role
/// whose transactions are read-only by default keeps what a handler runs after a `ROLLBACK` of its
/// own from being saved. The timeout, for this transaction only, keeps a process that froze between
/// two statements from holding its locks for ever; a claim sets its own.
#[cfg(feature = "worker")]
pub(super) const BEGIN_WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
    SET LOCAL idle_in_transaction_session_timeout = '10s'";

/// For what takes more than one message outside a batch: a pooler in transaction mode keeps it on
/// one connection. Each statement must see what was committed before it.
#[cfg(feature = "worker")]
pub(super) const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY";

/// A statement with numbers in the place of `$1` and so on, for the simple protocol: what runs
/// outside a transaction is one message then, which a pooler in transaction mode cannot tear apart.
#[cfg(feature = "worker")]
pub(super) fn fill_in(statement: &str, numbers: &[i64]) -> sqlx::AssertSqlSafe<String> {
    let filled = (1..)
        .zip(numbers)
        .fold(statement.to_owned(), |sql, (index, number)| {
            sql.replace(&format!("${index}"), &number.to_string())
        });
    sqlx::AssertSqlSafe(filled)
}

#[cfg(feature = "worker")]
pub(super) fn incarnation(
    row: &sqlx::postgres::PgRow,
) -> Result<crate::backend::Incarnation, sqlx::Error> {
    Ok(crate::backend::Incarnation {
        started: row.try_get("started")?,
        recovered: row.try_get("recovered")?,
    })
}

const VERSION: &str =
    "SELECT current_setting('server_version_num')::int, current_setting('server_version')";

/// Refuses a server on which events could be lost.
///
/// Before these releases the locks of a transaction changed hands while it was prepared: for a moment
/// nobody seemed to hold the sequence that it had drawn from.
pub(crate) async fn refuse_old_server(connection: &mut PgConnection) -> Result<(), StoreError> {
    let row = raw_sql(VERSION).fetch_one(connection).await?;
    if is_sound(row.try_get(0)?) {
        return Ok(());
    }
    let found = row.try_get(1)?;
    Err(StoreError::ServerTooOld { found })
}

/// Takes a version as `server_version_num` has it.
fn is_sound(version: i32) -> bool {
    const V13_5: i32 = 130_005;
    const V14_0: i32 = 140_000;
    version >= V13_5 && version != V14_0
}

#[cfg(test)]
mod tests {
    use super::is_sound;

    #[test]
    fn a_server_is_sound_from_13_5_on_but_for_14_0() {
        for version in [90_624, 120_022, 130_000, 130_004, 140_000] {
            assert!(!is_sound(version), "{version}");
        }
        for version in [130_005, 130_023, 140_001, 150_000, 180_001] {
            assert!(is_sound(version), "{version}");
        }
    }
}
