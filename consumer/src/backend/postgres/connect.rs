//! Connections to Postgres: how they are opened, which servers the library supports, and how transactions
//! begin.

use std::str::FromStr as _;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions, Postgres};
use sqlx::{Connection as _, Row as _, raw_sql};

use crate::backend::StoreError;
use crate::backend::events::Opened;

/// The incarnation of the server, as two numbers. Its statistics start again when a crashed backend
/// takes all others with it, which the server's start time does not show.
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

/// The numbers of the library's advisory locks, which are arbitrary.
macro_rules! lock_number {
    (migration) => {
        "7166182912370463009"
    };
    (names) => {
        "7166182912370463010"
    };
    (tables) => {
        "7166182912370463012"
    };
}
pub(super) use lock_number;

/// The transaction that the session is in, if it has written.
#[cfg(feature = "worker")]
pub(super) const CURRENT_TRANSACTION: &str = "SELECT pg_current_xact_id_if_assigned()::text";

/// Begins a transaction, and runs another statement in the same message.
///
/// The isolation is named because a role can have a stricter default, with which statements would fail
/// that here wait for a row. `NOT DEFERRABLE`, the default, may only be said before the first query: the
/// server would otherwise accept a `BEGIN` in a transaction that the program has left open.
macro_rules! begin {
    () => {
        "BEGIN ISOLATION LEVEL READ COMMITTED NOT DEFERRABLE"
    };
    ($statement:expr) => {
        concat!(begin!(), "; ", $statement)
    };
}
pub(super) use begin;

/// Begins a transaction.
pub(super) const BEGIN: &str = begin!();

/// Begins a transaction for several messages outside a batch: a pooler in transaction mode keeps it on
/// one connection. Each statement must see what was committed before it.
pub(super) const BEGIN_READ: &str = concat!(begin!(), " READ ONLY");

/// Begins a transaction that writes, and runs another statement in the same message.
///
/// A role whose transactions are read-only by default would not be able to save after a handler's own
/// `ROLLBACK`. The timeout, in this transaction only, ends a process that froze between two statements
/// and would keep its locks; a claim sets its own.
#[cfg(feature = "worker")]
macro_rules! begin_write {
    () => {
        concat!(
            begin!(),
            " READ WRITE; SET LOCAL idle_in_transaction_session_timeout = '10s'"
        )
    };
    ($statement:expr) => {
        concat!(begin_write!(), "; ", $statement)
    };
}
#[cfg(feature = "worker")]
pub(super) use begin_write;

/// Begins a transaction that writes.
#[cfg(feature = "worker")]
pub(super) const BEGIN_WRITE: &str = begin_write!();

/// A statement with numbers in the place of `$1` and so on, for the simple protocol: outside a
/// transaction a pooler in transaction mode can change the connection between any two messages, and
/// this makes it one message.
#[cfg(feature = "worker")]
pub(super) fn with_numbers(statement: &str, numbers: &[i64]) -> sqlx::AssertSqlSafe<String> {
    let filled = (1..)
        .zip(numbers)
        .fold(statement.to_owned(), |sql, (index, number)| {
            sql.replace(&format!("${index}"), &number.to_string())
        });
    sqlx::AssertSqlSafe(filled)
}

/// Whether an error has one of these codes.
pub(super) fn has_code(error: &dyn DatabaseError, codes: &[&str]) -> bool {
    error.code().is_some_and(|code| codes.contains(&&*code))
}

const EXAMPLE: &str = "`postgres://user:password@host:5432/database`";

/// Opens a pool of up to 20 connections.
pub(super) async fn open(url: &str) -> Result<Opened<Postgres>, StoreError> {
    let options = options(url)?;
    probe(&options).await?;
    let pool = PgPoolOptions::new()
        .max_connections(20)
        .connect_lazy_with(options);
    Ok(Opened { pool, anchor: None })
}

fn options(url: &str) -> Result<PgConnectOptions, StoreError> {
    if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
        return Err(StoreError::wrong_url(url, "Postgres", EXAMPLE));
    }
    PgConnectOptions::from_str(url).map_err(|source| StoreError::InvalidUrl {
        database: "Postgres",
        example: EXAMPLE,
        source: source.into(),
    })
}

/// Connects once: a pool would retry for half a minute, and then not say why it failed.
async fn probe(options: &PgConnectOptions) -> Result<(), StoreError> {
    const TIMEOUT: Duration = Duration::from_secs(10);
    let attempt = PgConnection::connect_with(options);
    let connected = tokio::time::timeout(TIMEOUT, attempt)
        .await
        .unwrap_or_else(|_| Err(no_answer(TIMEOUT)));
    let unreachable = |source: sqlx::Error| StoreError::Unreachable {
        server: server(options),
        source: source.into(),
    };
    let connection = connected.map_err(unreachable)?;
    connection.close().await.map_err(unreachable)
}

fn no_answer(timeout: Duration) -> sqlx::Error {
    let text = format!("no answer within {} seconds", timeout.as_secs());
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
}

fn server(options: &PgConnectOptions) -> String {
    let place = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let database = options.get_database().unwrap_or(options.get_username());
    format!("{place}/{database}")
}

const VERSION: &str =
    "SELECT current_setting('server_version_num')::int, current_setting('server_version')";

/// Refuses a server on which events could be lost.
///
/// Before these releases the locks of a transaction changed owners while it was prepared: for a moment
/// the sequence that it had drawn from seemed to have no holder.
pub(super) async fn refuse_old_server(connection: &mut PgConnection) -> Result<(), StoreError> {
    let row = raw_sql(VERSION).fetch_one(connection).await?;
    if is_sound(row.try_get(0)?) {
        return Ok(());
    }
    let found = row.try_get(1)?;
    Err(StoreError::ServerTooOld { found })
}

/// Whether the library supports a version, given as in `server_version_num`.
fn is_sound(version: i32) -> bool {
    const V13_5: i32 = 130_005;
    const V14_0: i32 = 140_000;
    version >= V13_5 && version != V14_0
}

#[cfg(test)]
mod tests {
    use super::is_sound;

    #[test]
    fn every_server_from_13_5_but_14_0_is_supported() {
        for version in [90_624, 120_022, 130_000, 130_004, 140_000] {
            assert!(!is_sound(version), "{version}");
        }
        for version in [130_005, 130_023, 140_001, 150_000, 180_001] {
            assert!(is_sound(version), "{version}");
        }
    }
}
