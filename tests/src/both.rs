//! Tests that run on both databases.

use std::future::Future;

use consumer::{Backend, EventStore, PersistedEvent};
use sqlx::{AssertSqlSafe, Pool, Postgres, Row, Sqlite};

use crate::{PgBouncer, PgDatabase, SqliteDatabase, TestPostgres};

/// A database that a test can have afresh.
pub trait TestBackend: Backend {
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
            .persistent(false)
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
    pooler: Option<PgBouncer>,
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
            pooler: None,
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
            pooler: None,
        }
    }
}

impl Database<Postgres> {
    /// A database with the store's tables that is only reached through a pooler in transaction mode,
    /// by its workers and by the test, and whose transactions are stricter than ours unless told.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn behind_a_pooler() -> Self {
        let database = TestPostgres::shared().await.database().await;
        database.store().await;
        let pooled = Self::pooled(&database.url, &database.name).await;
        Self {
            _guard: Some(database),
            ..pooled
        }
    }

    /// The way through a pooler to a database that has its tables.
    ///
    /// # Panics
    /// When the pooler does not start.
    pub async fn pooled(url: &str, name: &str) -> Self {
        let stricter = "default_transaction_isolation = 'repeatable read'";
        let direct = Self::unprepared(EventStore::connect(url).await.expect("connect"), url);
        direct
            .execute(&format!("ALTER DATABASE {name} SET {stricter}"))
            .await;
        let pooler = PgBouncer::before(url);
        let url = format!("{}?statement-cache-capacity=0", pooler.url);
        let store = EventStore::connect(&url).await.expect("connect");
        Self {
            pooler: Some(pooler),
            ..Self::unprepared(store, &url)
        }
    }
}

impl<DB: TestBackend> Database<DB> {
    /// Kills the pooler that this database is reached through, and starts it again.
    ///
    /// # Panics
    /// When there is none, or it does not start.
    pub fn restart_pooler(&mut self) {
        self.pooler.as_mut().expect("a pooler").restart();
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

/// Writes each test twice, as `name::sqlite` and `name::postgres`; after the words `and through a
/// pooler;` a third time, as `name::through_a_pooler`.
///
/// The body is compiled for each database, with `Db` as its type; the argument is a fresh
/// [`Database`] with the store's tables. `$1` is a parameter on both.
#[macro_export]
macro_rules! on_both_databases {
    (and through a pooler; $($(#[$attribute:meta])* async fn $name:ident($database:ident) $body:block)*) => {$(
        $(#[$attribute])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $crate::test_on!(sqlite, ::sqlx::Sqlite, fresh, $database, $body);
            $crate::test_on!(postgres, ::sqlx::Postgres, fresh, $database, $body);
            $crate::test_on!(through_a_pooler, ::sqlx::Postgres, behind_a_pooler, $database, $body);
        }
    )*};
    ($($(#[$attribute:meta])* async fn $name:ident($database:ident) $body:block)*) => {$(
        $(#[$attribute])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $crate::test_on!(sqlite, ::sqlx::Sqlite, fresh, $database, $body);
            $crate::test_on!(postgres, ::sqlx::Postgres, fresh, $database, $body);
        }
    )*};
}

/// Writes each test twice, as `name::directly` and `name::through_a_pooler`, both on Postgres.
#[macro_export]
macro_rules! on_postgres_and_through_a_pooler {
    ($($(#[$attribute:meta])* async fn $name:ident($database:ident) $body:block)*) => {$(
        $(#[$attribute])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $crate::test_on!(directly, ::sqlx::Postgres, fresh, $database, $body);
            $crate::test_on!(through_a_pooler, ::sqlx::Postgres, behind_a_pooler, $database, $body);
        }
    )*};
}

/// One test of [`on_both_databases!`].
#[doc(hidden)]
#[macro_export]
macro_rules! test_on {
    ($name:ident, $type:ty, $make:ident, $database:ident, $body:block) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            #[allow(dead_code)]
            type Db = $type;
            let $database = $crate::Database::<Db>::$make().await;
            $body
        }
    };
}
