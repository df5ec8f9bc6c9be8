//! Connections to SQLite: how they are opened, and how transactions begin.

use std::str::FromStr;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::backend::StoreError;
use crate::backend::events::Opened;

const EXAMPLE: &str = "`sqlite:app.db` or `sqlite::memory:`";

const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes the write lock at once: a transaction that reads first and writes later fails when another one
/// wrote in between, and this one waits for its turn.
pub(super) const BEGIN_WRITE: &str = "BEGIN IMMEDIATE";

pub(super) async fn open(url: &str) -> Result<Opened<Sqlite>, StoreError> {
    let path = path(url)?;
    if is_in_memory(path) {
        return open_in_memory().await;
    }
    let options = file_options(url)?;
    let probe = SqliteConnection::connect_with(&options).await;
    let cannot_open = |source: sqlx::Error| StoreError::CannotOpen {
        file: options.get_filename().display().to_string(),
        source: source.into(),
    };
    let mut connection = probe.map_err(cannot_open)?;
    // The first read shows whether the file is a database.
    sqlx::query("SELECT count(*) FROM sqlite_schema")
        .execute(&mut connection)
        .await
        .map_err(cannot_open)?;
    connection.close().await.map_err(cannot_open)?;
    let pool = pool_options().connect_lazy_with(options);
    Ok(Opened { pool, anchor: None })
}

fn pool_options() -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(20)
}

/// The part after the scheme: a path, and parameters if there are any.
fn path(url: &str) -> Result<&str, StoreError> {
    let path = url
        .strip_prefix("sqlite://")
        .or_else(|| url.strip_prefix("sqlite:"));
    match path {
        Some(path) if !path.is_empty() => Ok(path),
        _ => Err(StoreError::wrong_url(url, "SQLite", EXAMPLE)),
    }
}

fn is_in_memory(path: &str) -> bool {
    let (name, parameters) = path.split_once('?').unwrap_or((path, ""));
    name == ":memory:"
        || parameters
            .split('&')
            .any(|parameter| parameter == "mode=memory")
}

fn file_options(url: &str) -> Result<SqliteConnectOptions, StoreError> {
    let options = SqliteConnectOptions::from_str(url).map_err(|source| StoreError::InvalidUrl {
        database: "SQLite",
        example: EXAMPLE,
        source: source.into(),
    })?;
    // The mode in a URL decides whether the file is created.
    let create = !url.contains("mode=");
    let options = if create {
        options.create_if_missing(true)
    } else {
        options
    };
    Ok(options
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true))
}

/// Opens one database in memory for all connections of a pool.
///
/// In the `memdb` file system connections wait for each other as they do for a file, with a busy
/// timeout; a shared cache, the alternative, fails with table locks that no timeout applies to.
async fn open_in_memory() -> Result<Opened<Sqlite>, StoreError> {
    let options = SqliteConnectOptions::new()
        .vfs("memdb")
        .filename(format!("/consumer-{}", Uuid::new_v4().simple()))
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true);
    let anchor = SqliteConnection::connect_with(&options)
        .await
        .map_err(|source| StoreError::CannotOpen {
            file: ":memory:".to_owned(),
            source: source.into(),
        })?;
    let pool = pool_options()
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options);
    let anchor = Some(anchor);
    Ok(Opened { pool, anchor })
}

/// The result code of a lock that another connection has.
pub(super) const BUSY: i64 = 5;

/// The result code of a database that this connection may not write to.
#[cfg(feature = "worker")]
pub(super) const READONLY: i64 = 8;

/// The first byte of an extended result code.
pub(super) fn primary_code(error: &dyn DatabaseError) -> Option<i64> {
    error.code()?.parse::<i64>().ok().map(|code| code & 0xff)
}
