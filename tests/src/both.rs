//! Tests that run on both databases.

use std::future::Future;

use consumer::{EventStore, PersistedEvent, WorkerBackend};
use sqlx::{AssertSqlSafe, Pool, Postgres, Row, Sqlite};

use crate::{PgDatabase, SqliteDatabase, TestPostgres};

/// A database that a test can have afresh.
pub trait TestBackend: WorkerBackend {
    /// What must live as long as the test.
    type Keeper: Send + Sync;

    /// Makes the tables `applied`, what a read model was given in the order in which it was, and
    /// `chain`, a running hash of each aggregate.
    const CREATE_APPLIED: &'static str;

    /// Makes an empty database and opens it, without the store's tables.
    fn open() -> impl Future<Output = (EventStore<Self>, String, Self::Keeper)> + Send;

    /// Runs a script.
    fn execute(
        connection: &mut Self::Connection,
        sql: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Writes an event into the table `applied`.
    fn apply(
        connection: &mut Self::Connection,
        consumer: &str,
        event: &PersistedEvent,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Appends an event to the running hash of its aggregate: any other order, or an event too
    /// many or too few, makes another hash.
    fn chain(
        connection: &mut Self::Connection,
        consumer: &str,
        event: &PersistedEvent,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// What a query for one column of numbers finds.
    fn numbers(pool: &Pool<Self>, sql: &str) -> impl Future<Output = Vec<i64>> + Send;

    /// What a query for one column of text finds.
    fn texts(pool: &Pool<Self>, sql: &str) -> impl Future<Output = Vec<String>> + Send;
}

/// What is the same on both databases and can only be written for each.
macro_rules! queries {
    () => {
        async fn execute(connection: &mut Self::Connection, sql: &str) -> Result<(), sqlx::Error> {
            sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
                .execute(connection)
                .await
                .map(drop)
        }

        async fn apply(
            connection: &mut Self::Connection,
            consumer: &str,
            event: &PersistedEvent,
        ) -> Result<(), sqlx::Error> {
            sqlx::query(
                "INSERT INTO applied (consumer, position, aggregate, version)
                 VALUES ($1, $2, $3, $4)",
            )
            .bind(consumer)
            .bind(event.global_position)
            .bind(event.aggregate_id.as_str())
            .bind(event.aggregate_version)
            // A pooler would not know its name.
            .persistent(false)
            .execute(connection)
            .await
            .map(drop)
        }

        async fn chain(
            connection: &mut Self::Connection,
            consumer: &str,
            event: &PersistedEvent,
        ) -> Result<(), sqlx::Error> {
            sqlx::query(
                "INSERT INTO chain (consumer, aggregate, events, hash) VALUES ($1, $2, 1, $3)
                 ON CONFLICT (consumer, aggregate) DO UPDATE
                 SET events = chain.events + 1,
                     hash = (chain.hash * 31 + excluded.hash) % 1000000007",
            )
            .bind(consumer)
            .bind(event.aggregate_id.as_str())
            .bind(event.global_position % 1_000_000_007)
            .execute(connection)
            .await
            .map(drop)
        }

        async fn numbers(pool: &Pool<Self>, sql: &str) -> Vec<i64> {
            let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
                .fetch_all(pool)
                .await
                .unwrap_or_else(|error| panic!("{sql}: {error}"));
            rows.iter().map(|row| row.get(0)).collect()
        }

        async fn texts(pool: &Pool<Self>, sql: &str) -> Vec<String> {
            let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
                .fetch_all(pool)
                .await
                .unwrap_or_else(|error| panic!("{sql}: {error}"));
            rows.iter().map(|row| row.get(0)).collect()
        }
    };
}

/// A database of one test, of either kind.
pub struct Database<DB: TestBackend> {
    /// The store in it.
    pub store: EventStore<DB>,
    /// Its connections.
    pub pool: Pool<DB>,
    /// Where it is.
    pub url: String,
    _guard: Option<DB::Keeper>,
}

impl<DB: TestBackend> Database<DB> {
    /// A database with the store's tables.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn fresh() -> Self {
        let database = Self::empty().await;
        database.store.migrate().await.expect("migrate");
        database
    }

    /// One that somebody else keeps, with the store's tables and those of read models.
    ///
    /// # Panics
    /// When the tables cannot be made.
    pub async fn of(store: EventStore<DB>, url: &str) -> Self {
        let database = Self::unprepared(store, url);
        database.store.migrate().await.expect("migrate");
        database.with_read_model().await
    }

    /// One whose tables somebody else has made, over other connections.
    #[must_use]
    pub fn unprepared(store: EventStore<DB>, url: &str) -> Self {
        Self {
            pool: store.pool().clone(),
            store,
            url: url.to_owned(),
            _guard: None,
        }
    }

    /// A database without any table.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn empty() -> Self {
        let (store, url, guard) = DB::open().await;
        Self {
            pool: store.pool().clone(),
            store,
            url,
            _guard: Some(guard),
        }
    }
}

impl TestBackend for Sqlite {
    type Keeper = SqliteDatabase;

    const CREATE_APPLIED: &'static str =
        "CREATE TABLE applied (ordinal INTEGER PRIMARY KEY AUTOINCREMENT, consumer TEXT NOT NULL,
                               position INTEGER NOT NULL, aggregate TEXT NOT NULL,
                               version INTEGER NOT NULL);
         CREATE TABLE chain (consumer TEXT NOT NULL, aggregate TEXT NOT NULL, events INTEGER NOT NULL,
                             hash INTEGER NOT NULL, PRIMARY KEY (consumer, aggregate))";

    queries!();

    async fn open() -> (EventStore<Self>, String, SqliteDatabase) {
        let database = SqliteDatabase::new().await;
        let store = EventStore::connect(&database.url).await.expect("connect");
        (store, database.url.clone(), database)
    }
}

impl TestBackend for Postgres {
    type Keeper = PgDatabase;

    const CREATE_APPLIED: &'static str =
        "CREATE TABLE applied (ordinal BIGSERIAL PRIMARY KEY, consumer TEXT NOT NULL,
                               position BIGINT NOT NULL, aggregate TEXT NOT NULL,
                               version BIGINT NOT NULL);
         CREATE TABLE chain (consumer TEXT NOT NULL, aggregate TEXT NOT NULL, events BIGINT NOT NULL,
                             hash BIGINT NOT NULL, PRIMARY KEY (consumer, aggregate))";

    queries!();

    async fn open() -> (EventStore<Self>, String, PgDatabase) {
        let database = TestPostgres::shared().await.database().await;
        let store = EventStore::new(database.pool.clone());
        (store, database.url.clone(), database)
    }
}

/// Writes each test twice, as `name::sqlite` and `name::postgres`.
///
/// The body is compiled for each database, with `Db` as its type; the argument is a fresh
/// [`Database`] with the store's tables. `$1` is a parameter on both.
#[macro_export]
macro_rules! on_both_databases {
    ($($(#[$attribute:meta])* async fn $name:ident($database:ident) $body:block)*) => {$(
        $(#[$attribute])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn sqlite() {
                #[allow(dead_code)]
                type Db = ::sqlx::Sqlite;
                let $database = $crate::Database::<Db>::fresh().await;
                $body
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn postgres() {
                #[allow(dead_code)]
                type Db = ::sqlx::Postgres;
                let $database = $crate::Database::<Db>::fresh().await;
                $body
            }
        }
    )*};
}
