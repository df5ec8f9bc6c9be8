//! The event store: what is appended, and how it is read again.

pub(crate) mod cause;

use std::fmt;
use std::sync::{Arc, Mutex};

use sqlx::{Pool, SqlSafeStr as _};
use tokio::sync::watch;

use crate::backend::{Append, Backend, Opened, ReadRange, Schema, StoreError, StoreSettings};
use crate::contract::{ExpectedVersion, NewEvent, PersistedEvent};

/// An event store in a SQLite file.
///
/// See [`EventStore`] for an example.
#[cfg(feature = "sqlite")]
pub type SqliteEventStore = EventStore<sqlx::Sqlite>;

/// An event store in a Postgres database.
///
/// See [`EventStore::new`] for an example.
#[cfg(feature = "postgres")]
pub type PgEventStore = EventStore<sqlx::Postgres>;

/// An append-only log of events in a SQL database.
///
/// It is cheap to clone. Every method that reads or appends takes the connection to do it on, so
/// that events and your own tables change in one transaction:
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use consumer::{ExpectedVersion, NewEvent, SqliteEventStore};
///
/// let store = SqliteEventStore::connect("sqlite::memory:").await?;
/// store.migrate().await?;
///
/// let mut tx = store.begin().await?;
/// let event = NewEvent::new("User", "u-1", "UserRegistered", r#"{"email":"ada@example.com"}"#);
/// let stored = store.append_in(&mut tx, ExpectedVersion::NoStream, &[event]).await?;
/// tx.commit().await?;
///
/// assert_eq!((stored[0].global_position, stored[0].aggregate_version), (1, 1));
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
///
/// # Position order is not commit order (R11)
///
/// On Postgres positions are drawn from a sequence. A transaction that draws 7 may commit after the
/// one that draws 8, and one that rolls back leaves a gap for ever. So somebody who has read up to
/// position 8 may have missed 7, which was there to come: **never remember the highest position that
/// [`read_events`](Self::read_events) returned as «done so far»**, also not in the transaction that
/// handled the events (R12). A worker knows which positions are settled; leave that to it.
pub struct EventStore<DB: Backend> {
    inner: Arc<Inner<DB>>,
}

struct Inner<DB: Backend> {
    pool: Pool<DB>,
    settings: StoreSettings,
    statements: DB::EventStatements,
    /// Shared by all that derive from one store, so that each append wakes each worker.
    appended: watch::Sender<u64>,
    anchor: Arc<Mutex<Option<DB::Connection>>>,
}

impl<DB: Backend> Clone for EventStore<DB> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<DB: Backend> EventStore<DB> {
    /// Opens the database of a URL, with a pool of up to 20 connections.
    ///
    /// Postgres: `postgres://user:password@host/database`. SQLite: `sqlite:app.db`, which is
    /// created when it is missing and set up for a server's use (WAL, a busy timeout of 5 seconds,
    /// foreign keys, synchronous NORMAL), or `sqlite::memory:`, one database for the whole pool
    /// that ends with the last clone of this store.
    ///
    /// Behind a pooler in transaction mode, such as PgBouncer, add `?statement-cache-capacity=0` to
    /// the URL: the store then prepares no statement under a name, which another connection of the
    /// pooler would not know. Read and append inside a transaction there, and give your own queries
    /// `persistent(false)`.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use consumer::{SqliteEventStore, StoreError};
    ///
    /// let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// store.migrate().await?;
    ///
    /// let error = SqliteEventStore::connect("postgres://localhost/shop").await.unwrap_err();
    /// assert!(matches!(error, StoreError::WrongUrl { .. }));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`StoreError::WrongUrl`], [`StoreError::InvalidUrl`], and [`StoreError::Unreachable`] or
    /// [`StoreError::CannotOpen`].
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let Opened { pool, anchor } = DB::open_pool(url).await?;
        let anchor = Arc::new(Mutex::new(anchor));
        let (appended, _) = watch::channel(0);
        Ok(Self::assemble(
            pool,
            Schema::default(),
            false,
            appended,
            anchor,
        ))
    }

    /// Takes your own pool, with your own settings.
    ///
    /// ```no_run
    /// # #[cfg(feature = "postgres")]
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use consumer::PgEventStore;
    /// use consumer::sqlx::postgres::PgPoolOptions;
    ///
    /// let pool = PgPoolOptions::new().max_connections(40).connect_lazy("postgres://localhost/shop")?;
    /// let store = PgEventStore::new(pool);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn new(pool: Pool<DB>) -> Self {
        let anchor = Arc::new(Mutex::new(None));
        let (appended, _) = watch::channel(0);
        Self::assemble(pool, Schema::default(), false, appended, anchor)
    }

    /// Maps the store to tables of other names.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use consumer::{Schema, SqliteEventStore, StoreError};
    ///
    /// let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// let store = store.with_schema(Schema::default().events("event_log"))?;
    /// assert!(store.migration_sql().contains("\"event_log\""));
    ///
    /// let error = store.with_schema(Schema::default().events("a\"b")).unwrap_err();
    /// assert!(matches!(error, StoreError::InvalidIdentifier { .. }));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`StoreError::InvalidIdentifier`] for a name that no table or column can have.
    pub fn with_schema(self, schema: Schema) -> Result<Self, StoreError> {
        schema.check()?;
        DB::accepts(&schema)?;
        Ok(self.with(schema, self.inner.settings.notify))
    }

    /// Makes every append send `NOTIFY consumer_events` when it commits, so that workers in other
    /// processes need not wait for their next poll.
    ///
    /// Postgres only; off by default, since Postgres lets transactions that notify commit one after
    /// the other.
    ///
    /// See [`WorkerBuilder::listen_url`](crate::WorkerBuilder::listen_url) for an example.
    #[must_use]
    pub fn notify(self, notify: bool) -> Self {
        self.with(self.inner.settings.schema.clone(), notify)
    }

    fn with(&self, schema: Schema, notify: bool) -> Self {
        let appended = self.inner.appended.clone();
        let anchor = Arc::clone(&self.inner.anchor);
        Self::assemble(self.inner.pool.clone(), schema, notify, appended, anchor)
    }

    fn assemble(
        pool: Pool<DB>,
        schema: Schema,
        notify: bool,
        appended: watch::Sender<u64>,
        anchor: Arc<Mutex<Option<DB::Connection>>>,
    ) -> Self {
        let settings = StoreSettings {
            schema,
            notify,
            keep_statements: DB::keeps_statements(&pool),
        };
        Self {
            inner: Arc::new(Inner {
                statements: DB::event_statements(&settings),
                pool,
                settings,
                appended,
                anchor,
            }),
        }
    }

    /// The pool that the store was opened with.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use consumer::{SqliteEventStore, sqlx};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// let one: i64 = sqlx::query_scalar("SELECT 1").fetch_one(store.pool()).await?;
    /// assert_eq!(one, 1);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn pool(&self) -> &Pool<DB> {
        &self.inner.pool
    }

    /// Where the tables are.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use consumer::{Schema, SqliteEventStore};
    ///
    /// let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// assert_eq!(store.schema(), &Schema::default());
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn schema(&self) -> &Schema {
        &self.inner.settings.schema
    }

    /// Creates the tables, or brings them up to date.
    ///
    /// It can be called at every start, also by many processes at once, and beside migrations of
    /// your own: it keeps its own version table, `consumer_schema`. It runs in one transaction, on
    /// Postgres under an advisory lock.
    ///
    /// No table that exists already is changed, but the table of events gets an index on aggregate
    /// type and position: on Postgres where it has none, which on a large log is better made before,
    /// with `CREATE INDEX CONCURRENTLY`; on SQLite always, under the name `consumer_events_scope`.
    ///
    /// See [`check`](Self::check) for an example.
    ///
    /// # Errors
    /// [`StoreError::ServerTooOld`], [`StoreError::NewerSchema`], [`StoreError::OtherMapping`],
    /// [`StoreError::SchemaMismatch`] when existing tables lack a column,
    /// [`StoreError::NoAutoincrement`], or what the database says.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        DB::migrate(&self.inner.pool, &self.inner.statements).await
    }

    /// The SQL that [`migrate`](Self::migrate) runs, as a script that can be run any number of times
    /// by whoever is allowed to create tables.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use consumer::{SqliteEventStore, sqlx};
    ///
    /// let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// let script = store.migration_sql();
    /// assert!(script.contains("CREATE TABLE"));
    ///
    /// sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(store.pool()).await?;
    /// store.check().await?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn migration_sql(&self) -> String {
        DB::migration_sql(&self.inner.statements)
    }

    /// Checks that the server is one to rest on, and that the tables are there and have every column.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use consumer::{SqliteEventStore, StoreError};
    ///
    /// let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// assert!(matches!(store.check().await, Err(StoreError::NotMigrated { .. })));
    /// store.migrate().await?;
    /// store.check().await?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`StoreError::NotMigrated`], or one of those of [`migrate`](Self::migrate).
    pub async fn check(&self) -> Result<(), StoreError> {
        DB::check(&self.inner.pool, &self.inner.statements).await
    }

    /// Begins a transaction to append in: on Postgres one with isolation READ COMMITTED, on SQLite
    /// one that takes its turn among the writers at once (`BEGIN IMMEDIATE`), so that it cannot
    /// fail half-way with «database is locked».
    ///
    /// See [`append`](Self::append) for an example.
    ///
    /// # Errors
    /// What the database says.
    pub async fn begin(&self) -> Result<sqlx::Transaction<'static, DB>, StoreError> {
        // Without the statement's lifetime, on which futures that are spawned would founder.
        let begin = DB::BEGIN_APPEND.into_sql_str();
        Ok(self.inner.pool.begin_with(begin).await?)
    }

    /// Appends events of one aggregate inside the caller's transaction, and returns them with their
    /// positions and versions.
    ///
    /// All events go to the database in one statement. The positions hold once the transaction has
    /// committed; whether another one with a lower position is still to come, nobody knows (R11).
    /// In a handler, give it the handler's `tx`: causation and correlation id are filled in from
    /// the event at hand, where the new events name none (not in tasks that the handler spawns, and
    /// not in handlers of whole batches, for which several events are at hand).
    ///
    /// The transaction holds the aggregate until it ends; one that appends to several aggregates
    /// takes them in the same order everywhere, or two of them can wait for each other.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use consumer::{ExpectedVersion, NewEvent, SqliteEventStore, StoreError};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// let register = [NewEvent::new("User", "ada", "UserRegistered", "{}")];
    /// store.append(ExpectedVersion::NoStream, &register).await?;
    ///
    /// let mut tx = store.begin().await?;
    /// let again = [NewEvent::new("User", "ada", "UserRegistered", "{}")];
    /// match store.append_in(&mut tx, ExpectedVersion::NoStream, &again).await {
    ///     Err(StoreError::Conflict { .. }) => tx.rollback().await?, // there is such a user
    ///     other => panic!("{other:?}"),
    /// }
    ///
    /// let mut tx = store.begin().await?;
    /// let rename = [NewEvent::new("User", "ada", "UserRenamed", "{}")];
    /// let stored = store.append_in(&mut tx, ExpectedVersion::Exact(1), &rename).await?;
    /// tx.commit().await?;
    /// assert_eq!(stored[0].aggregate_version, 2);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// - [`StoreError::NothingToAppend`], [`StoreError::SeveralAggregates`],
    ///   [`StoreError::InvalidMetadata`], [`StoreError::NulInText`]: found before the database is
    ///   asked.
    /// - [`StoreError::Conflict`]: the aggregate is not as expected. Roll back, load it again and
    ///   retry in a **new** transaction. When the unique constraint found it (`actual` is `None`),
    ///   Postgres has aborted this one: every further statement in it fails, and so would a retry.
    /// - [`StoreError::DuplicateEventId`], [`StoreError::IdTooLong`], [`StoreError::NotMigrated`],
    ///   or what the database says.
    pub async fn append_in(
        &self,
        tx: &mut DB::Connection,
        expected: ExpectedVersion,
        events: &[NewEvent],
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        let append = Append::new(expected, events, cause::with_cause)?;
        let placed = DB::append(tx, &self.inner.statements, &append).await?;
        self.wake();
        Ok(append.persisted(placed))
    }

    /// Appends events of one aggregate in a transaction of its own and commits it.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::{ExpectedVersion, NewEvent};
    ///
    /// let events = ["UserRegistered", "UserRenamed"].map(|what| NewEvent::new("User", "ada", what, "{}"));
    /// let stored = store.append(ExpectedVersion::NoStream, &events).await?;
    /// assert_eq!(stored[1].aggregate_version, 2);
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Those of [`append_in`](Self::append_in); nothing is stored then.
    pub async fn append(
        &self,
        expected: ExpectedVersion,
        events: &[NewEvent],
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        let mut tx = self.begin().await?;
        let stored = self.append_in(&mut tx, expected, events).await?;
        tx.commit().await?;
        self.wake();
        Ok(stored)
    }

    /// Whether a statement stays prepared on its connection, so that it takes one exchange.
    #[cfg(feature = "worker")]
    pub(crate) fn keeps_statements(&self) -> bool {
        DB::keeps_statements(&self.inner.pool)
    }

    /// Tells the workers of this process that there is something to read, or will be at once.
    fn wake(&self) {
        self.inner
            .appended
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Reads the log after a position, up to `limit` events, in position order.
    ///
    /// This is for looking at the log, not for processing it: **position order is not commit order
    /// (R11)**, so an event with a lower position than the last one returned may become visible
    /// later. Whoever goes on after the last position loses it.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use consumer::{ExpectedVersion, NewEvent, SqliteEventStore};
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// # let events = [NewEvent::new("User", "ada", "UserRegistered", "{}")];
    /// # store.append(ExpectedVersion::Any, &events).await?;
    /// let mut connection = store.pool().acquire().await?;
    /// for event in store.read_events(&mut connection, 0, 100).await? {
    ///     println!("{} {} {}", event.global_position, event.aggregate_id, event.event_type);
    /// }
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`StoreError::NotMigrated`], or what the database says.
    pub async fn read_events(
        &self,
        conn: &mut DB::Connection,
        after: i64,
        limit: u32,
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        DB::read_events(conn, &self.inner.statements, after, limit).await
    }

    /// Reads a part of the log within a budget of bytes, of some aggregate types or all, in position
    /// order.
    ///
    /// The budget is kept by the database: what lies beyond it is neither read nor sent. The memory
    /// taken is that of the budget and once more of one event, however large the log and its
    /// events are (measured with payloads of 50 MiB: 150 MiB for a budget of 100). Only metadata that
    /// Postgres has compressed may be sent beyond the budget, and is then dropped as it arrives. Types
    /// are read by one index scan each, however rare they are. What
    /// [`read_events`](Self::read_events) says of R11 holds here too, unless `up_to` is known to be
    /// settled.
    ///
    /// See [`ReadRange`] for an example.
    ///
    /// # Errors
    /// [`StoreError::NotMigrated`], or what the database says.
    pub async fn read_range(
        &self,
        conn: &mut DB::Connection,
        range: ReadRange<'_>,
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        DB::read_range(conn, &self.inner.statements, range).await
    }

    /// The highest visible position, 0 when the log is empty.
    ///
    /// It is not the position up to which everything is there: lower ones may still become visible
    /// (R11).
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use consumer::SqliteEventStore;
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// let mut connection = store.pool().acquire().await?;
    /// assert_eq!(store.latest_global_position(&mut connection).await?, 0);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`StoreError::NotMigrated`], or what the database says.
    pub async fn latest_global_position(
        &self,
        conn: &mut DB::Connection,
    ) -> Result<i64, StoreError> {
        DB::latest_global_position(conn, &self.inner.statements).await
    }

    /// Reads the history of one aggregate in version order, from and to a version (both inclusive)
    /// where given.
    ///
    /// Within one aggregate versions have no gaps, and order of version is order of commit.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use consumer::{ExpectedVersion, NewEvent};
    ///
    /// # use consumer::SqliteEventStore;
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// let events = ["Opened", "Deposited", "Withdrawn"].map(|what| NewEvent::new("Account", "a-1", what, "{}"));
    /// store.append(ExpectedVersion::NoStream, &events).await?;
    ///
    /// let mut connection = store.pool().acquire().await?;
    /// let history = store.read_aggregate(&mut connection, "Account", "a-1", None, None).await?;
    /// assert_eq!(history.len(), 3);
    ///
    /// // What came after a snapshot of version 2.
    /// let since = store.read_aggregate(&mut connection, "Account", "a-1", Some(3), None).await?;
    /// assert_eq!(&*since[0].event_type, "Withdrawn");
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`StoreError::NotMigrated`], or what the database says.
    pub async fn read_aggregate(
        &self,
        conn: &mut DB::Connection,
        aggregate_type: &str,
        aggregate_id: &str,
        from: Option<i64>,
        to: Option<i64>,
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        let aggregate = (aggregate_type, aggregate_id);
        let (from, to) = (from.unwrap_or(i64::MIN), to.unwrap_or(i64::MAX));
        DB::read_aggregate(conn, &self.inner.statements, aggregate, from, to).await
    }
}

#[cfg(feature = "worker")]
impl<DB: Backend> EventStore<DB> {
    /// Changes with each append of this process, before its transaction commits.
    pub(crate) fn appended(&self) -> watch::Receiver<u64> {
        self.inner.appended.subscribe()
    }

    /// What the statements on this store depend on.
    pub(crate) fn settings(&self) -> &StoreSettings {
        &self.inner.settings
    }
}

impl<DB: Backend> fmt::Debug for EventStore<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStore")
            .field("database", &DB::NAME)
            .field("schema", &self.inner.settings.schema)
            .finish_non_exhaustive()
    }
}
