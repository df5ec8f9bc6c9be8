//! Temporary SQLite files.

use std::path::PathBuf;

use consumer::SqliteEventStore;
use sqlx::SqlitePool;
use tempfile::TempDir;

/// A database of one test.
pub struct SqliteDatabase {
    /// Its URL.
    pub url: String,
    /// The connections of the store that [`connect`](SqliteEventStore::connect) opened.
    pub pool: SqlitePool,
    /// The file.
    pub file: PathBuf,
    store: SqliteEventStore,
    _directory: TempDir,
}

impl SqliteDatabase {
    /// Makes an empty one.
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory for the file");
        let file = directory.path().join("test.db");
        let url = format!("sqlite:{}", file.display());
        let store = SqliteEventStore::connect(&url).await.expect("connect");
        Self {
            url,
            pool: store.pool().clone(),
            file,
            store,
            _directory: directory,
        }
    }

    /// A store in this database, with its tables.
    pub async fn store(&self) -> SqliteEventStore {
        self.store.migrate().await.expect("migrate");
        self.store.clone()
    }
}
