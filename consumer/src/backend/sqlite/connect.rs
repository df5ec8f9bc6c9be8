//! Opening a SQLite database.

use std::str::FromStr;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::backend::Opened;
use crate::backend::StoreError;

const EXAMPLE: &str = "`sqlite:app.db` or `sqlite::memory:`";

const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn open(url: &str) -> Result<Opened<Sqlite>, StoreError> {
    let path = path(url)?;
    if is_in_memory(path) {
        return open_in_memory().await;
    }
    let options = file_options(url)?;
    let probe = SqliteConnection::connect_with(&options).await;
    let cannot_open = |source| StoreError::CannotOpen {
        file: options.get_filename().display().to_string(),
        source,
    };
    let mut connection = probe.map_err(cannot_open)?;
    // The file is read for the first time here: one that is no database is found out now.
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

/// What follows the scheme: a path and perhaps parameters.
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
        source,
    })?;
    // Whoever gives a mode knows whether the file is to be created.
    let create = !url.contains("mode=");
    let options = if create {
        options.create_if_missing(true)
    } else {
        options
    };
    Ok(options
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(PATIENCE)
        .foreign_keys(true))
}

/// One database for all connections of one pool.
///
/// The `memdb` file system takes turns among its connections as a file does, with a busy timeout;
/// the shared cache, which is the other way, fails with table locks that no timeout waits for.
async fn open_in_memory() -> Result<Opened<Sqlite>, StoreError> {
    let options = SqliteConnectOptions::new()
        .vfs("memdb")
        .filename(format!("/consumer-{}", Uuid::new_v4().simple()))
        .busy_timeout(PATIENCE)
        .foreign_keys(true);
    let anchor = SqliteConnection::connect_with(&options)
        .await
        .map_err(|source| StoreError::CannotOpen {
            file: ":memory:".to_owned(),
            source,
        })?;
    let pool = pool_options()
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(options);
    let anchor = Some(anchor);
    Ok(Opened { pool, anchor })
}
