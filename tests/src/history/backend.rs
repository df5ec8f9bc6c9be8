//! The databases that histories are played on, and what differs between them.

use std::future::Future;
use std::time::Duration;

use consumer::EventStore;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Pool, Postgres, Row as _, Sqlite};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::{Database, TestDatabase, TestPostgres};

/// How long a setting of a session lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// For the transaction.
    Transaction,
    /// For the session.
    Session,
}

/// A database that histories can be played on.
pub trait HistoryBackend: TestDatabase {
    /// The server on which its databases are made.
    type Server: Sync;

    /// The files of one of its databases.
    type Files: Send + Sync;

    /// How a handler names a table whatever its `search_path` is.
    const HOME: &'static str;

    /// Makes a row of the log one that cannot be decoded.
    const SPOIL: &'static str;

    /// Restores such a row.
    const UNSPOIL: &'static str;

    /// Lists the tables and the view of the read model that the library keeps.
    const READ_MODELS: &'static str;

    /// Makes a database with the tables of the store.
    fn database(
        server: &Self::Server,
    ) -> impl Future<Output = (Database<Self>, Self::Files)> + Send;

    /// Crashes the server and starts it again, where the test has one of its own.
    fn crash(server: &Self::Server);

    /// Changes settings of a session, where there is such a thing.
    fn change_session(
        connection: &mut Self::Connection,
        span: Span,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Fails if a session has the settings of an earlier handler.
    fn check_session(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), String>> + Send;

    /// Reads a row of a table that steps alter, by a statement that stays prepared.
    fn peek(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// The URL of a database for the connections of that name.
    fn named(url: &str, name: &str) -> String;

    /// Ends the connections of that name.
    fn end_connections(pool: &Pool<Self>, name: &str) -> impl Future<Output = ()> + Send;

    /// Waits until the server has noticed that the connections of that name are gone.
    fn gone(pool: &Pool<Self>, name: &str) -> impl Future<Output = ()> + Send;

    /// Whether an idle connection of the pool is in a transaction.
    fn is_left_open(pool: &Pool<Self>) -> impl Future<Output = bool> + Send;
}

/// The tables that handlers use, given how a key counts up.
fn tables(key: &str) -> String {
    format!(
        "CREATE TABLE history_applied (ordinal {key}, consumer TEXT NOT NULL,
                                       version INTEGER NOT NULL, position BIGINT NOT NULL);
         CREATE TABLE history_parent (id INTEGER PRIMARY KEY);
         CREATE TABLE history_child (parent INTEGER NOT NULL REFERENCES history_parent (id)
                                     DEFERRABLE INITIALLY DEFERRED);"
    )
}

/// An SQLite database with the tables of the store, as it is in its file.
static TEMPLATE: OnceCell<Vec<u8>> = OnceCell::const_new();

/// Makes the file that others are copies of: migrating takes longer than most histories.
async fn template() -> Vec<u8> {
    let database = Database::<Sqlite>::fresh().await;
    database
        .execute(&tables("INTEGER PRIMARY KEY AUTOINCREMENT"))
        .await;
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").await;
    database.pool.close().await;
    let file = database.url.trim_start_matches("sqlite:");
    std::fs::read(file).expect("read the file of the template")
}

impl HistoryBackend for Sqlite {
    type Server = ();
    type Files = TempDir;

    const HOME: &'static str = "";

    const SPOIL: &'static str = "UPDATE events SET event_id = 'no id ' || event_id";

    const UNSPOIL: &'static str = "UPDATE events SET event_id = replace(event_id, 'no id ', '')";

    const READ_MODELS: &'static str = "SELECT name FROM sqlite_schema
        WHERE type IN ('table', 'view') AND name GLOB 'history_totals*'";

    async fn database((): &()) -> (Database<Self>, TempDir) {
        let directory = tempfile::tempdir().expect("a directory for the file");
        let file = directory.path().join("test.db");
        std::fs::write(&file, TEMPLATE.get_or_init(template).await).expect("copy the template");
        let url = format!("sqlite:{}", file.display());
        let options = SqliteConnectOptions::new()
            .filename(&file)
            .journal_mode(SqliteJournalMode::Wal)
            // The machine does not crash in a history.
            .synchronous(SqliteSynchronous::Off)
            .busy_timeout(Duration::from_secs(30));
        let pool = SqlitePoolOptions::new().max_connections(20);
        let store = EventStore::new(pool.connect_lazy_with(options));
        (Database::of(store, &url), directory)
    }

    fn crash((): &()) {}

    async fn change_session(_: &mut Self::Connection, _: Span) -> Result<(), sqlx::Error> {
        Ok(())
    }

    async fn check_session(_: &mut Self::Connection) -> Result<(), String> {
        Ok(())
    }

    async fn peek(connection: &mut Self::Connection) -> Result<(), sqlx::Error> {
        let peek = sqlx::query("SELECT * FROM history_parent");
        peek.fetch_optional(connection).await.map(drop)
    }

    fn named(url: &str, _: &str) -> String {
        url.to_owned()
    }

    async fn end_connections(_: &Pool<Self>, _: &str) {}

    async fn gone(pool: &Pool<Self>, _: &str) {
        // A commit that is under way holds the lock that this waits for.
        let tx = pool.begin_with("BEGIN IMMEDIATE").await.expect("begin");
        tx.commit().await.expect("commit");
    }

    async fn is_left_open(pool: &Pool<Self>) -> bool {
        let mut idle = Vec::new();
        while let Some(mut connection) = pool.try_acquire() {
            // Within a transaction there cannot be another.
            if Self::execute_sql(&mut connection, "BEGIN; ROLLBACK")
                .await
                .is_err()
            {
                return true;
            }
            idle.push(connection);
        }
        false
    }
}

impl HistoryBackend for Postgres {
    /// A server of the test's own, or `None` for the one that all tests share.
    type Server = Option<TestPostgres>;
    type Files = ();

    const HOME: &'static str = "public.";

    const SPOIL: &'static str = "UPDATE events SET created_at = 'infinity'";

    const UNSPOIL: &'static str = "UPDATE events SET created_at = now()";

    const READ_MODELS: &'static str = "SELECT relname::text FROM pg_class
        WHERE relkind IN ('r', 'v') AND relname LIKE 'history\\_totals%'";

    async fn database(server: &Self::Server) -> (Database<Self>, ()) {
        let database = match server {
            Some(server) => Database::on(server).await,
            None => Database::fresh().await,
        };
        database.execute(&tables("BIGSERIAL PRIMARY KEY")).await;
        // A tenant's schema may have tables of the same names.
        let tenant = "CREATE SCHEMA history_tenant;
            CREATE TABLE history_tenant.consumer_progress (LIKE public.consumer_progress);
            CREATE TABLE history_tenant.consumer_parked (LIKE public.consumer_parked);";
        database.execute(tenant).await;
        (database, ())
    }

    fn crash(server: &Self::Server) {
        if let Some(server) = server {
            server.crash();
            server.start();
        }
    }

    async fn change_session(
        connection: &mut Self::Connection,
        span: Span,
    ) -> Result<(), sqlx::Error> {
        let sql = match span {
            Span::Transaction => "SET LOCAL search_path = history_tenant",
            Span::Session => "SET search_path = history_tenant; SET DateStyle = 'German'",
        };
        let sql = format!("{sql}; SET LOCAL history.has_changed = 'here'");
        Self::execute_sql(connection, &sql).await
    }

    async fn check_session(connection: &mut Self::Connection) -> Result<(), String> {
        // Retried events of an aggregate share a transaction, so that it may have been one of them.
        let sql = "SELECT current_setting('search_path') || ' ' || current_setting('DateStyle')
                     FROM (SELECT) AS always
                    WHERE current_setting('history.has_changed', true) IS DISTINCT FROM 'here'";
        let found = Self::texts(connection, sql).await;
        let found = found.map_err(|error| error.to_string())?;
        if found.iter().all(|one| one == "\"$user\", public ISO, MDY") {
            Ok(())
        } else {
            Err(format!("the session is another handler's: {found:?}"))
        }
    }

    async fn peek(connection: &mut Self::Connection) -> Result<(), sqlx::Error> {
        let peek = sqlx::query("SELECT * FROM public.history_parent");
        peek.fetch_optional(connection).await.map(drop)
    }

    fn named(url: &str, name: &str) -> String {
        format!("{url}?application_name={name}")
    }

    async fn end_connections(pool: &Pool<Self>, name: &str) {
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
              WHERE application_name = '{name}'"
        );
        let mut connection = pool.acquire().await.expect("a connection");
        let ended = Self::execute_sql(&mut connection, &sql).await;
        ended.expect("end the connections");
    }

    async fn gone(pool: &Pool<Self>, name: &str) {
        let sql =
            format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'");
        let mut connection = pool.acquire().await.expect("a connection");
        crate::patiently("a worker's connections are gone", async {
            loop {
                let left = Self::numbers(&mut connection, &sql).await;
                if left.expect("count the connections") == [0] {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    async fn is_left_open(pool: &Pool<Self>) -> bool {
        let mut idle = Vec::new();
        let mut open = false;
        while let Some(mut connection) = pool.try_acquire() {
            // Equal in a transaction of this one message alone.
            let sql = "SELECT now() = statement_timestamp()";
            let row = sqlx::raw_sql(sql).fetch_one(&mut *connection).await;
            let is_alone = row.is_ok_and(|row| row.get(0));
            open |= !is_alone;
            idle.push(connection);
        }
        open
    }
}
