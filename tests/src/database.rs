//! Databases of one test each, of both kinds.

use std::future::Future;

use consumer::Backend;
use consumer::{Event, EventStore, ExpectedVersion, NewEvent, PersistedEvent};
use sqlx::migrate::Migrate;
use sqlx::{AssertSqlSafe, Pool, Postgres, Row, Sqlite, Transaction};

use crate::{PgBouncer, PgDatabase, SqliteDatabase, TestPostgres};

/// A kind of database that tests run on.
pub trait TestDatabase: Backend + sqlx::Database<Connection: Migrate> + Sized {
    /// Keeps the database alive as long as the test.
    type Keeper: Send + Sync;

    /// Makes the tables of read models: `applied` has the events that a consumer was given, in order,
    /// and `chain` a running hash of each aggregate.
    const CREATE_READ_MODEL: &'static str;

    /// Makes an empty database and opens it, without the store's tables.
    fn open() -> impl Future<Output = (EventStore<Self>, String, Self::Keeper)> + Send;

    /// Runs a script.
    fn execute_sql(
        connection: &mut Self::Connection,
        sql: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Writes an event into the table `applied`.
    fn apply(
        connection: &mut Self::Connection,
        consumer: &str,
        event: &PersistedEvent,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Adds an event to the running hash of its aggregate, which another order, a missing event or
    /// a repeated one would change.
    fn chain(
        connection: &mut Self::Connection,
        consumer: &str,
        event: &PersistedEvent,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Reads a column of numbers.
    fn numbers(
        connection: &mut Self::Connection,
        sql: &str,
    ) -> impl Future<Output = Result<Vec<i64>, sqlx::Error>> + Send;

    /// Reads a column of text.
    fn texts(
        connection: &mut Self::Connection,
        sql: &str,
    ) -> impl Future<Output = Result<Vec<String>, sqlx::Error>> + Send;

    /// Reads a column of text by its name, through a statement that the connection keeps prepared.
    fn named_texts(
        connection: &mut Self::Connection,
        sql: &'static str,
        column: &str,
    ) -> impl Future<Output = Result<Vec<String>, sqlx::Error>> + Send;
}

/// Implements what reads the same for both databases; a function for both needs bounds that each of its
/// callers would repeat.
macro_rules! queries {
    () => {
        async fn execute_sql(
            connection: &mut Self::Connection,
            sql: &str,
        ) -> Result<(), sqlx::Error> {
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
            // Behind a pooler no statement has a name.
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

        async fn numbers(
            connection: &mut Self::Connection,
            sql: &str,
        ) -> Result<Vec<i64>, sqlx::Error> {
            let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
            let rows = rows.fetch_all(connection).await?;
            rows.iter().map(|row| row.try_get(0)).collect()
        }

        async fn texts(
            connection: &mut Self::Connection,
            sql: &str,
        ) -> Result<Vec<String>, sqlx::Error> {
            let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
            let rows = rows.fetch_all(connection).await?;
            rows.iter().map(|row| row.try_get(0)).collect()
        }

        async fn named_texts(
            connection: &mut Self::Connection,
            sql: &'static str,
            column: &str,
        ) -> Result<Vec<String>, sqlx::Error> {
            let rows = sqlx::query(sql).fetch_all(connection).await?;
            rows.iter().map(|row| row.try_get(column)).collect()
        }
    };
}

/// A database of one test.
pub struct Database<DB: TestDatabase> {
    /// The store in it.
    pub store: EventStore<DB>,
    /// Its connections.
    pub pool: Pool<DB>,
    /// Its URL.
    pub url: String,
    keeper: Option<DB::Keeper>,
    pooler: Option<PgBouncer>,
}

impl<DB: TestDatabase> Database<DB> {
    /// A new database with the tables of the store and those of read models.
    pub async fn fresh() -> Self {
        Self::empty().await.prepared().await
    }

    /// A new database without any table.
    pub async fn empty() -> Self {
        let (store, url, keeper) = DB::open().await;
        Self {
            keeper: Some(keeper),
            ..Self::of(store, &url)
        }
    }

    /// A database that the test keeps, over the connections of this store.
    pub fn of(store: EventStore<DB>, url: &str) -> Self {
        Self {
            pool: store.pool().clone(),
            store,
            url: url.to_owned(),
            keeper: None,
            pooler: None,
        }
    }

    /// The same database through another store in it, such as one of another mapping.
    #[must_use]
    pub fn with_store(mut self, store: EventStore<DB>) -> Self {
        self.store = store;
        self
    }

    /// The same database with the tables of the store and those of read models.
    #[must_use]
    pub async fn prepared(self) -> Self {
        self.store.migrate().await.expect("migrate");
        self.execute(DB::CREATE_READ_MODEL).await;
        self
    }

    /// Appends an event to each of these aggregates in turn, and returns their positions.
    pub async fn append(
        &self,
        aggregate_type: &str,
        ids: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Vec<i64> {
        let mut positions = Vec::new();
        for id in ids {
            positions.push(self.append_one(aggregate_type, id).await);
        }
        positions
    }

    /// Appends an event to an aggregate, and returns its position.
    pub async fn append_one(&self, aggregate_type: &str, id: impl AsRef<str>) -> i64 {
        let event = NewEvent::new(aggregate_type, id.as_ref(), "Changed", "{}");
        self.append_event(event).await
    }

    /// Appends a typed event to an aggregate, and returns its position.
    pub async fn append_typed(&self, id: &str, event: &impl Event) -> i64 {
        let event = NewEvent::typed(event).expect("a payload").of(id);
        self.append_event(event).await
    }

    /// Appends an event, and returns its position.
    pub async fn append_event(&self, event: NewEvent) -> i64 {
        self.append_events(&[event]).await[0].global_position
    }

    /// Appends `count` events to the user `u-1` at once, and returns their positions.
    pub async fn append_many(&self, count: usize) -> Vec<i64> {
        let events: Vec<NewEvent> = (0..count)
            .map(|n| NewEvent::new("User", "u-1", "Changed", n.to_string()))
            .collect();
        let stored = self.append_events(&events).await;
        stored.iter().map(|event| event.global_position).collect()
    }

    /// Appends events of one aggregate, whatever its version.
    pub async fn append_events(&self, events: &[NewEvent]) -> Vec<PersistedEvent> {
        let appended = self.store.append(ExpectedVersion::Any, events).await;
        appended.expect("append")
    }

    /// Appends an event to a user in an open transaction, and returns its position.
    pub async fn append_in(&self, tx: &mut DB::Connection, id: &str) -> i64 {
        let event = [NewEvent::new("User", id, "Changed", "{}")];
        let appended = self.store.append_in(tx, ExpectedVersion::Any, &event);
        appended.await.expect("append")[0].global_position
    }

    /// The positions in the log, in order.
    pub async fn log(&self) -> Vec<i64> {
        let log = "SELECT global_position FROM events ORDER BY global_position";
        self.numbers(log).await
    }

    /// The positions that a consumer has applied, in the order in which it did.
    pub async fn applied(&self, consumer: &str) -> Vec<i64> {
        let applied = "SELECT position FROM applied WHERE consumer =";
        self.numbers(&format!("{applied} '{consumer}' ORDER BY ordinal"))
            .await
    }

    /// The checkpoint of a consumer, if it has one.
    pub async fn checkpoint(&self, consumer: &str) -> Option<i64> {
        let sql = format!("SELECT position FROM consumer_progress WHERE consumer = '{consumer}'");
        self.numbers(&sql).await.first().copied()
    }

    /// The positions of a consumer's parked events, in order.
    pub async fn parked(&self, consumer: &str) -> Vec<i64> {
        let parked = "SELECT position FROM consumer_parked WHERE consumer =";
        self.numbers(&format!("{parked} '{consumer}' ORDER BY position"))
            .await
    }

    /// Reads one number.
    pub async fn number(&self, sql: &str) -> i64 {
        self.numbers(sql).await[0]
    }

    /// Reads a column of numbers.
    pub async fn numbers(&self, sql: &str) -> Vec<i64> {
        let mut connection = self.pool.acquire().await.expect("a connection");
        let numbers = DB::numbers(&mut connection, sql).await;
        numbers.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Reads a column of text.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let mut connection = self.pool.acquire().await.expect("a connection");
        let texts = DB::texts(&mut connection, sql).await;
        texts.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Makes all processes ones that were last seen four minutes earlier, so that none counts as running.
    pub async fn leave_alone(&self) {
        let earlier = match DB::NAME {
            "SQLite" => "seen_at - 240000",
            _ => "seen_at - interval '4 minutes'",
        };
        self.execute(&format!("UPDATE consumer_worker SET seen_at = {earlier}"))
            .await;
    }

    /// Runs a script, once more when a worker has changed the same row in between, which a stricter
    /// default isolation reports as an error.
    pub async fn execute(&self, sql: &str) {
        const SERIALIZATION_FAILURE: &str = "40001";
        let mut connection = self.pool.acquire().await.expect("a connection");
        loop {
            let Err(error) = DB::execute_sql(&mut connection, sql).await else {
                return;
            };
            let code = error
                .as_database_error()
                .and_then(sqlx::error::DatabaseError::code);
            assert!(
                code.as_deref() == Some(SERIALIZATION_FAILURE),
                "{sql}: {error}"
            );
        }
    }

    /// Kills the pooler that this database is reached through, and starts it again.
    pub fn restart_pooler(&mut self) {
        self.pooler.as_mut().expect("a pooler").restart();
    }
}

impl Database<Postgres> {
    /// A new database on this server, with the tables of the store and those of read models.
    pub async fn on(server: &TestPostgres) -> Self {
        let database = server.database().await;
        let store = EventStore::new(database.pool.clone());
        let url = database.url.clone();
        let on_server = Self {
            keeper: Some(database),
            ..Self::of(store, &url)
        };
        on_server.prepared().await
    }

    /// A new database that workers and the test only reach through a pooler in transaction mode.
    pub async fn behind_a_pooler() -> Self {
        let direct = Self::fresh().await;
        let pooled = direct.pooled().await;
        Self {
            keeper: direct.keeper,
            ..pooled
        }
    }

    /// The same database through a pooler, whose transactions are stricter than the worker's by default.
    pub async fn pooled(&self) -> Self {
        let stricter = "default_transaction_isolation = 'repeatable read'";
        let name = self.name();
        self.execute(&format!("ALTER DATABASE {name} SET {stricter}"))
            .await;
        let pooler = PgBouncer::before(&self.url);
        let url = format!("{}?statement-cache-capacity=0", pooler.url);
        let store = EventStore::connect(&url).await.expect("connect");
        Self {
            pooler: Some(pooler),
            ..Self::of(store, &url)
        }
    }

    /// Appends an event in a transaction that stays open, of a session with this name.
    pub async fn left_open(&self, application_name: &str) -> Transaction<'static, Postgres> {
        let mut open = self.store.begin().await.expect("begin");
        let name = format!("SET LOCAL application_name = '{application_name}'");
        Postgres::execute_sql(&mut open, &name)
            .await
            .expect("a name");
        self.append_in(&mut open, "slow").await;
        open
    }

    /// Its name on the server.
    pub fn name(&self) -> &str {
        let path = self.url.split('?').next().unwrap_or(&self.url);
        path.rsplit('/').next().unwrap_or(path)
    }
}

impl TestDatabase for Sqlite {
    type Keeper = SqliteDatabase;

    const CREATE_READ_MODEL: &'static str =
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

impl TestDatabase for Postgres {
    type Keeper = PgDatabase;

    const CREATE_READ_MODEL: &'static str =
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

/// The databases that [`test_on!`](crate::test_on) lists, each new for every test.
pub mod databases {
    use super::{Database, Postgres, Sqlite};

    pub async fn sqlite() -> Database<Sqlite> {
        Database::fresh().await
    }

    pub async fn postgres() -> Database<Postgres> {
        Database::fresh().await
    }

    pub async fn through_a_pooler() -> Database<Postgres> {
        Database::behind_a_pooler().await
    }

    pub async fn empty_sqlite() -> Database<Sqlite> {
        Database::empty().await
    }

    pub async fn empty_postgres() -> Database<Postgres> {
        Database::empty().await
    }
}

/// Makes a test of each function on each of the [`databases`], as `function::database`.
///
/// A function is an ordinary `async fn name<DB: TestDatabase>(db: Database<DB>)`. In its SQL `$1` is
/// a parameter on both.
#[macro_export]
macro_rules! test_on {
    (@ $name:ident [$($database:ident),+]) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $database() {
            super::$name($crate::databases::$database().await).await;
        }
    )+};
    ($databases:tt, $($name:ident),+ $(,)?) => {$(
        mod $name {
            $crate::test_on!(@ $name $databases);
        }
    )+};
}
