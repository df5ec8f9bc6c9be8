//! The event store: how events are appended and read.

pub(crate) mod cause;
pub(crate) mod conflicts;
pub(crate) mod decision;
#[cfg(feature = "worker")]
mod find_as_of;
pub(crate) mod once;
mod redaction;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::{Pool, Transaction};
use tokio::sync::watch;

#[cfg(feature = "worker")]
use crate::backend::Incarnation;
use crate::backend::{
    self, Access, Append, Backend, Column, EventStatements, JsonText, LogRow, Opened, ReadRange,
    Schema, StoreError, StoreSettings, refuse_unfit_redaction,
};
use crate::contract::{ExpectedVersion, Metadata, NewEvent, PersistedEvent};

use self::redaction::NewMetadata;
pub use self::redaction::Redaction;

/// An [`EventStore`] in a SQLite file.
#[cfg(feature = "sqlite")]
pub type SqliteEventStore = EventStore<sqlx::Sqlite>;

/// An [`EventStore`] in a Postgres database.
#[cfg(feature = "postgres")]
pub type PgEventStore = EventStore<sqlx::Postgres>;

/// An append-only log of events in a SQL database.
///
/// It is cheap to clone. Most methods take the connection to work on, so that events and your own
/// tables can change in one transaction:
///
/// ```
/// # consumer::__doc::run(async |store| {
/// use consumer::{ExpectedVersion, NewEvent};
///
/// let mut tx = store.begin().await?;
/// let event = NewEvent::new("User", "u-1", "UserRegistered", r#"{"email":"ada@example.com"}"#);
/// let stored = store.append_in(&mut tx, ExpectedVersion::NoStream, &[event]).await?;
/// tx.commit().await?;
///
/// assert_eq!((stored[0].global_position, stored[0].aggregate_version), (1, 1));
/// # Ok(()) }).unwrap();
/// ```
///
/// # Position order is not commit order (R11)
///
/// On Postgres positions are drawn from a sequence. A transaction that draws 7 can commit after the one
/// that draws 8, and one that rolls back leaves a gap that is never filled. A reader that has seen
/// position 8 may therefore have missed 7. **Never remember the highest position that
/// [`read_events`](Self::read_events) returned as the place to continue from**, not even in the
/// transaction that handled the events (R12). A [`Worker`](crate::Worker) knows which positions are
/// settled.
pub struct EventStore<DB: Backend> {
    inner: Arc<Inner<DB>>,
}

struct Inner<DB: Backend> {
    pool: Pool<DB>,
    settings: StoreSettings,
    statements: EventStatements<DB>,
    /// Shared by all stores that derive from one, so that each append wakes each worker.
    appended: watch::Sender<u64>,
    /// Never used, only kept.
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
    /// - Postgres: `postgres://user:password@host/database`.
    /// - SQLite: `sqlite:app.db`. The file is created if it is missing, and opened with WAL, a busy
    ///   timeout of 5 seconds, foreign keys and synchronous NORMAL. `sqlite::memory:` is one database
    ///   for the whole pool, which ends with the last clone of this store.
    ///
    /// Behind a pooler in transaction mode, such as PgBouncer, add `?statement-cache-capacity=0` to
    /// the URL: the store then does not name its prepared statements, which other connections of the
    /// pooler would not know. Read and append inside transactions there, and give your own queries
    /// outside of a handler's `tx` `persistent(false)`.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::{SqliteEventStore, StoreError};
    ///
    /// let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// store.migrate().await?;
    ///
    /// let error = SqliteEventStore::connect("postgres://localhost/shop").await.unwrap_err();
    /// assert!(matches!(error, StoreError::WrongUrl { .. }));
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`StoreError::WrongUrl`], [`StoreError::InvalidUrl`], and [`StoreError::Unreachable`] or
    /// [`StoreError::CannotOpen`].
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        let Opened { pool, anchor } = DB::open_pool(url).await?;
        Ok(Self::on(pool, anchor))
    }

    /// Creates a store on your own pool, with your own settings.
    ///
    /// ```no_run
    /// # #[cfg(feature = "postgres")] fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use consumer::PgEventStore;
    /// use consumer::sqlx::postgres::PgPoolOptions;
    ///
    /// let pool = PgPoolOptions::new().max_connections(40).connect_lazy("postgres://localhost/shop")?;
    /// let store = PgEventStore::new(pool);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn new(pool: Pool<DB>) -> Self {
        Self::on(pool, None)
    }

    fn on(pool: Pool<DB>, anchor: Option<DB::Connection>) -> Self {
        let settings = StoreSettings {
            schema: Schema::default(),
            dialect: DB::DIALECT,
            notify: false,
            keep_statements: DB::keeps_statements(&pool),
        };
        Self {
            inner: Arc::new(Inner {
                statements: EventStatements::new(&settings),
                pool,
                settings,
                appended: watch::Sender::new(0),
                anchor: Arc::new(Mutex::new(anchor)),
            }),
        }
    }

    /// Maps the store to tables of other names.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::{Schema, StoreError};
    ///
    /// let store = store.with_schema(Schema::default().events("event_log"))?;
    /// assert!(store.migration_sql().contains("\"event_log\""));
    ///
    /// let error = store.with_schema(Schema::default().events("a\"b")).unwrap_err();
    /// assert!(matches!(error, StoreError::InvalidIdentifier { .. }));
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`StoreError::InvalidIdentifier`] for a name that no table or column can have, and
    /// [`StoreError::InvalidMapping`] for a mapping that no table can have.
    pub fn with_schema(self, schema: Schema) -> Result<Self, StoreError> {
        schema.check()?;
        DB::accepts(&schema)?;
        let settings = self.inner.settings.clone();
        Ok(self.with(StoreSettings { schema, ..settings }))
    }

    /// Makes every append send `NOTIFY consumer_events` when it commits, so that workers of other
    /// processes, which [listen](crate::WorkerBuilder::listen_url), need not wait for their next poll.
    ///
    /// Postgres only. It is off by default, since Postgres commits transactions that notify one after
    /// the other.
    #[must_use]
    pub fn notify(self, notify: bool) -> Self {
        let settings = self.inner.settings.clone();
        self.with(StoreSettings { notify, ..settings })
    }

    fn with(self, settings: StoreSettings) -> Self {
        Self {
            inner: Arc::new(Inner {
                pool: self.inner.pool.clone(),
                statements: EventStatements::new(&settings),
                settings,
                appended: self.inner.appended.clone(),
                anchor: Arc::clone(&self.inner.anchor),
            }),
        }
    }

    /// Returns the pool that the store was opened with.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// let one: i64 = consumer::sqlx::query_scalar("SELECT 1").fetch_one(store.pool()).await?;
    /// assert_eq!(one, 1);
    /// # Ok(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn pool(&self) -> &Pool<DB> {
        &self.inner.pool
    }

    /// Returns the names of the tables and columns, as given to [`with_schema`](Self::with_schema).
    #[must_use]
    pub fn schema(&self) -> &Schema {
        &self.inner.settings.schema
    }

    /// Creates the tables, or brings them up to date.
    ///
    /// Call it at every start, in as many processes as you like, and beside migrations of your own: it
    /// records its version in its own table, `consumer_schema`, and does nothing if that is current. It
    /// runs in one transaction, on Postgres under an advisory lock; if the future is dropped, nothing
    /// has changed.
    ///
    /// Workers and programs of an earlier release keep working with the new tables, so a deploy can
    /// migrate first. A release that breaks this says so in its changelog; older programs then refuse
    /// the tables with [`StoreError::NewerSchema`].
    ///
    /// Changing a table needs its lock for a moment. The migration waits for a second at most, so that
    /// no other session queues behind it for longer, and tries again for up to a minute; see
    /// [`migrate_within`](Self::migrate_within).
    ///
    /// Existing tables are not changed, except that the table of events gets an index on aggregate type
    /// and position: on Postgres if it has none (on a large log, create it before with `CREATE INDEX
    /// CONCURRENTLY`), on SQLite always, under the name `consumer_events_scope`. A table that the
    /// [`Schema`] gives other types, or that lacks columns, gets none: scopes are read by position there,
    /// or by such an index if you create it. Neither does a log that is
    /// [`read_only`](Schema::read_only).
    ///
    /// ```
    /// # consumer::__doc::run(async |_| {
    /// use consumer::{SqliteEventStore, StoreError};
    ///
    /// let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// assert!(matches!(store.check().await, Err(StoreError::NotMigrated { .. })));
    /// store.migrate().await?;
    /// store.check().await?;
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`StoreError::ServerTooOld`], [`StoreError::NewerSchema`], [`StoreError::OtherMapping`],
    /// [`StoreError::NoEventsTable`], [`StoreError::Mismatches`] with everything in which existing
    /// tables do not fit, [`StoreError::MissingPrivileges`],
    /// [`StoreError::MigrationBlocked`], or [`StoreError::Database`].
    pub async fn migrate(&self) -> Result<(), StoreError> {
        self.migrate_within(Duration::from_mins(1)).await
    }

    /// Migrates like [`migrate`](Self::migrate), and tries to get the locks for at least this long.
    ///
    /// # Errors
    /// Those of [`migrate`](Self::migrate).
    pub async fn migrate_within(&self, timeout: Duration) -> Result<(), StoreError> {
        /// Longer than an attempt waits, so that others have more of the time than the migration.
        const PAUSE: Duration = Duration::from_secs(2);
        let began = Instant::now();
        loop {
            match self.try_migrate().await {
                Err(StoreError::MigrationBlocked { .. }) if began.elapsed() < timeout => {
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    async fn try_migrate(&self) -> Result<(), StoreError> {
        match self.check().await {
            Err(StoreError::NotMigrated { .. }) => {}
            checked => return checked,
        }
        match self.migrate_once().await {
            Err(StoreError::Database(source)) if DB::is_held(&source) => {
                let mut tx = backend::begin(self.pool(), DB::BEGIN_READ).await?;
                let holders = DB::lock_holders(&mut tx, &self.inner.settings).await?;
                tx.commit().await?;
                Err(StoreError::MigrationBlocked { holders, source })
            }
            migrated => migrated,
        }
    }

    async fn migrate_once(&self) -> Result<(), StoreError> {
        let mut tx = backend::begin(self.pool(), DB::BEGIN_MIGRATION).await?;
        backend::migrate::<DB>(&mut tx, &self.inner.settings).await?;
        Ok(tx.commit().await?)
    }

    /// Returns the SQL of [`migrate`](Self::migrate), for an administrator who creates the tables; the script
    /// can be run any number of times.
    ///
    /// ```
    /// # consumer::__doc::run(async |_| {
    /// use consumer::{SqliteEventStore, sqlx};
    ///
    /// let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// let script = store.migration_sql();
    /// assert!(script.contains("CREATE TABLE"));
    ///
    /// sqlx::raw_sql(sqlx::AssertSqlSafe(script)).execute(store.pool()).await?;
    /// store.check().await?;
    /// # Ok(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn migration_sql(&self) -> String {
        backend::script::<DB>(&self.inner.settings)
    }

    /// Keeps programs from the tables whose version of this library knows only earlier tables than this one.
    ///
    /// Such a program no longer starts. One that runs handles nothing more, and ends within its
    /// `advance_interval` (10 s by default); both report [`StoreError::NewerSchema`]. Call it when all
    /// processes have this version of the library, and before new types or versions of events are appended:
    /// a library that knows tables up to version 5 passes over types of events that it does not know. The
    /// guide [`deploying`](crate::guide::deploying) describes the deploy.
    ///
    /// It can be called any number of times, needs the role that owns the tables, and is taken back by
    /// [`accept_older_libraries`](Self::accept_older_libraries). With a schema for each tenant, each store
    /// needs its own call.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// store.migrate().await?;
    /// store.refuse_older_libraries().await?;
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`StoreError::NotMigrated`] before [`migrate`](Self::migrate), [`StoreError::Forbidden`] for another
    /// role, or those of [`check`](Self::check).
    pub async fn refuse_older_libraries(&self) -> Result<(), StoreError> {
        self.set_older_libraries(true).await
    }

    /// Takes [`refuse_older_libraries`](Self::refuse_older_libraries) back, so that programs with a library
    /// that knows tables of version 4 or later can start again.
    ///
    /// Do so only while the log has no new type or version of an event: such a program passes over the types
    /// that it does not know, and they are lost to its consumers.
    ///
    /// # Errors
    /// Those of [`refuse_older_libraries`](Self::refuse_older_libraries).
    pub async fn accept_older_libraries(&self) -> Result<(), StoreError> {
        self.set_older_libraries(false).await
    }

    async fn set_older_libraries(&self, are_refused: bool) -> Result<(), StoreError> {
        // Before, the version of the tables is one that older libraries know.
        self.check().await?;
        let mut tx = self.begin().await?;
        backend::set_older_libraries::<DB>(&mut tx, &self.inner.settings, are_refused).await?;
        Ok(tx.commit().await?)
    }

    /// Checks that the server is supported, and that the tables exist, are up to date, have every
    /// column of the mapping, and can be read by this store's role; also that positions come from a
    /// sequence, or an `AUTOINCREMENT`, on which a worker loses no events, and that row-level security
    /// hides none from the role.
    ///
    /// # Errors
    /// [`StoreError::NotMigrated`], or one of those of [`migrate`](Self::migrate).
    pub async fn check(&self) -> Result<(), StoreError> {
        self.check_for(None).await
    }

    /// Checks what [`check`](Self::check) does, and that this store's role has every privilege for a use
    /// of the tables. Workers and operators check theirs when they start.
    ///
    /// Run as a new role, it lists the statements that grant the role's missing privileges, for the mapping
    /// of this store. SQLite has no roles.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::Access;
    ///
    /// // In a service that only appends:
    /// store.check_access(Access::Append).await?;
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`StoreError::MissingPrivileges`] with all that are missing, or those of [`check`](Self::check).
    pub async fn check_access(&self, access: Access) -> Result<(), StoreError> {
        self.check_for(Some(access)).await
    }

    async fn check_for(&self, access: Option<Access>) -> Result<(), StoreError> {
        // In one transaction, so that a pooler cannot change the connection between two questions.
        let mut tx = backend::begin(self.pool(), DB::BEGIN_READ).await?;
        backend::check::<DB>(&mut tx, &self.inner.settings, access).await?;
        Ok(tx.commit().await?)
    }

    /// Begins a transaction to [append in](Self::append_in).
    ///
    /// On Postgres its isolation is READ COMMITTED. On SQLite it waits at its beginning until no other
    /// connection writes (`BEGIN IMMEDIATE`), so that it cannot fail half-way because the database is
    /// locked.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn begin(&self) -> Result<Transaction<'static, DB>, StoreError> {
        Ok(backend::begin(self.pool(), DB::BEGIN_APPEND).await?)
    }

    /// Appends events of one aggregate in the caller's transaction, and returns them with their positions
    /// and versions.
    ///
    /// All events go to the database in one statement. Their positions are final once the transaction
    /// has committed; another transaction with a lower position may still commit later (R11).
    ///
    /// In a handler, pass the handler's `tx`: new events that name no cause get their causation and
    /// correlation id from the event that is being handled (not in tasks that the handler spawns, and
    /// not in handlers of whole batches).
    ///
    /// The transaction locks the aggregate until it ends. Append to several aggregates in the same order
    /// everywhere, or two transactions can wait for each other.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::{ExpectedVersion, NewEvent};
    ///
    /// let mut tx = store.begin().await?;
    /// let register = [NewEvent::new("User", "ada", "UserRegistered", "{}")];
    /// store.append_in(&mut tx, ExpectedVersion::NoStream, &register).await?;
    /// let rename = [NewEvent::new("User", "ada", "UserRenamed", "{}")];
    /// let stored = store.append_in(&mut tx, ExpectedVersion::Exact(1), &rename).await?;
    /// tx.commit().await?;
    /// assert_eq!(stored[0].aggregate_version, 2);
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// - [`StoreError::NothingToAppend`], [`StoreError::SeveralAggregates`],
    ///   [`StoreError::InvalidMetadata`], [`StoreError::NulInText`], [`StoreError::UnfitEvent`],
    ///   [`StoreError::ReadOnlyLog`]: found before the database is asked.
    /// - [`StoreError::Conflict`]: the aggregate is not at the expected version. Roll back, load it
    ///   again and retry in a **new** transaction. If the unique constraint found it (`actual` is
    ///   `None`), Postgres has aborted this transaction, and every further statement in it fails.
    /// - [`StoreError::Contention`]: another transaction made this one fail. Retry in a **new** one.
    /// - [`StoreError::DuplicateEventId`], [`StoreError::IdTooLong`], [`StoreError::NotMigrated`],
    ///   [`StoreError::Database`].
    pub async fn append_in(
        &self,
        tx: &mut DB::Connection,
        expected: ExpectedVersion,
        events: &[NewEvent],
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        let append = Append::new(self.schema(), expected, events, cause::with_cause)?;
        let placed = DB::append(tx, &self.inner.statements, &append).await;
        let placed = placed.inspect_err(conflicts::note::<DB>)?;
        self.wake();
        Ok(append.persisted(placed))
    }

    /// Appends events of one aggregate in a transaction of its own and commits it.
    ///
    /// If the future is dropped, either all events are stored or none, and the pool has no open
    /// transaction.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::{ExpectedVersion, NewEvent, StoreError};
    ///
    /// let events = ["UserRegistered", "UserRenamed"].map(|what| NewEvent::new("User", "ada", what, "{}"));
    /// let stored = store.append(ExpectedVersion::NoStream, &events).await?;
    /// assert_eq!(stored[1].aggregate_version, 2);
    ///
    /// let again = store.append(ExpectedVersion::NoStream, &events).await;
    /// assert!(matches!(again, Err(StoreError::Conflict { actual: Some(2), .. })));
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

    /// Makes every worker, in all processes, drop the events that it keeps in memory, once the caller's
    /// transaction has committed.
    ///
    /// Call it in the transaction in which you change events in the table, such as to remove personal data
    /// or to repair a payload. A worker notices it when it next reads the checkpoints
    /// ([`snapshot_interval`](crate::WorkerBuilder::snapshot_interval), 1 s); batches that are being handled
    /// at that moment still have the old events. Resuming or rebuilding a consumer makes its workers read
    /// the log again too, with the next batch.
    ///
    /// ```
    /// # consumer::__doc::registered(async |store| {
    /// let mut tx = store.begin().await?;
    /// consumer::sqlx::query("UPDATE events SET payload = '{}' WHERE global_position = 1")
    ///     .execute(&mut *tx)
    ///     .await?;
    /// store.discard_caches_in(&mut tx).await?;
    /// tx.commit().await?;
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`StoreError::NotMigrated`] or [`StoreError::Database`].
    pub async fn discard_caches_in(&self, tx: &mut DB::Connection) -> Result<(), StoreError> {
        DB::note_rewrite(tx, &self.inner.statements).await
    }

    /// Replaces the payload of an event, and its metadata if that is given, in the caller's transaction, so
    /// that no consumer gets the old one any more.
    ///
    /// Everything else about the event stays: its type, ids, versions and time. The new payload must be
    /// one that every handler of the event can decode. Once the transaction has committed, every worker
    /// drops the events that it keeps in memory, as
    /// [`discard_caches_in`](Self::discard_caches_in) describes. Errors that consumers have recorded may
    /// quote the old payload: [`Admin::redact`](crate::admin::Admin::redact) replaces them, too. The guide
    /// [`personal_data`](crate::guide::personal_data) says where else a payload may be.
    ///
    /// ```
    /// # consumer::__doc::registered(async |store| {
    /// let mut tx = store.begin().await?;
    /// store.redact(&mut tx, 1, r#"{"email":null}"#).await?;
    /// tx.commit().await?;
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// - [`StoreError::UnfitRedaction`], [`StoreError::InvalidMetadata`], [`StoreError::NulInText`],
    ///   [`StoreError::ReadOnlyLog`]: found before the database is asked.
    /// - [`StoreError::NoEvent`], [`StoreError::NotMigrated`] or [`StoreError::Database`].
    pub async fn redact(
        &self,
        tx: &mut DB::Connection,
        position: i64,
        redaction: impl Into<Redaction>,
    ) -> Result<(), StoreError> {
        if self.schema().is_read_only() {
            let table = self.schema().events_name().to_owned();
            return Err(StoreError::ReadOnlyLog { table });
        }
        let statements = &self.inner.statements;
        let Redaction { payload, metadata } = redaction.into();
        let metadata = match &metadata {
            NewMetadata::Kept => None,
            NewMetadata::Removed => Some(None),
            NewMetadata::Replaced(metadata) => Some(Some(checked::<DB>(metadata)?)),
        };
        let has_metadata = matches!(metadata, Some(Some(_)));
        refuse_unfit_redaction(self.schema(), position, &payload, has_metadata)?;
        if !DB::redact(tx, statements, position, &payload).await? {
            return Err(StoreError::NoEvent { position });
        }
        if let Some(metadata) = metadata.filter(|_| self.schema().has(Column::Metadata)) {
            DB::replace_metadata(tx, statements, position, metadata).await?;
        }
        self.discard_caches_in(tx).await
    }

    /// Tells the workers of this process that there is something to read, or will be in a moment.
    fn wake(&self) {
        self.inner
            .appended
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Reads the log after a position, up to `limit` events, in position order.
    ///
    /// It is for looking at the log, not for processing it: **position order is not commit order
    /// (R11)**, so an event with a lower position than the last one returned can become visible later,
    /// and a reader that continues after the last position loses it.
    ///
    /// ```
    /// # consumer::__doc::registered(async |store| {
    /// let mut connection = store.pool().acquire().await?;
    /// for event in store.read_events(&mut connection, 0, 100).await? {
    ///     println!("{} {} {}", event.global_position, event.aggregate_id, event.event_type);
    /// }
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`StoreError::UnreadableEvent`], [`StoreError::NotMigrated`], or [`StoreError::Database`].
    pub async fn read_events(
        &self,
        connection: &mut DB::Connection,
        after: i64,
        limit: u32,
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        readable(DB::read_events(connection, &self.inner.statements, after, limit).await?)
    }

    /// Reads a part of the log within a budget of bytes, of some aggregate types or all, in position
    /// order.
    ///
    /// The database enforces the budget: events beyond it are neither read nor sent. The memory needed
    /// is the budget plus one event, however large the log and its events are (measured with payloads
    /// of 50 MiB: 150 MiB for a budget of 100). Only metadata that Postgres has compressed can be sent
    /// beyond the budget, and is dropped as it arrives. Each type is read by one index scan, however
    /// rare it is. What [`read_events`](Self::read_events) says of R11 holds here too, unless `up_to`
    /// is known to be settled.
    ///
    /// The example is that of [`ReadRange`].
    ///
    /// # Errors
    /// [`StoreError::UnreadableEvent`], [`StoreError::NotMigrated`], or [`StoreError::Database`].
    pub async fn read_range(
        &self,
        connection: &mut DB::Connection,
        range: ReadRange<'_>,
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        readable(self.read_rows(connection, range).await?)
    }

    /// Like [`read_range`](Self::read_range), with the rows that cannot be decoded in their places.
    pub(crate) async fn read_rows(
        &self,
        connection: &mut DB::Connection,
        range: ReadRange<'_>,
    ) -> Result<Vec<LogRow>, StoreError> {
        DB::read_range(connection, &self.inner.statements, range).await
    }

    /// Returns the highest visible position, 0 when the log is empty.
    ///
    /// Events with lower positions can still become visible (R11).
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// let mut connection = store.pool().acquire().await?;
    /// assert_eq!(store.latest_global_position(&mut connection).await?, 0);
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`StoreError::NotMigrated`] or [`StoreError::Database`].
    pub async fn latest_global_position(
        &self,
        connection: &mut DB::Connection,
    ) -> Result<i64, StoreError> {
        DB::latest_global_position(connection, &self.inner.statements).await
    }

    /// Reads the history of one aggregate in version order, from and to a version (both inclusive)
    /// where given.
    ///
    /// Within one aggregate versions have no gaps, and version order is commit order.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::{ExpectedVersion, NewEvent};
    ///
    /// let events = ["Opened", "Deposited", "Withdrawn"].map(|what| NewEvent::new("Account", "a-1", what, "{}"));
    /// store.append(ExpectedVersion::NoStream, &events).await?;
    ///
    /// let mut connection = store.pool().acquire().await?;
    /// let history = store.read_aggregate(&mut connection, "Account", "a-1", None, None).await?;
    /// assert_eq!(history.len(), 3);
    ///
    /// // The events after a snapshot of version 2.
    /// let since = store.read_aggregate(&mut connection, "Account", "a-1", Some(3), None).await?;
    /// assert_eq!(&*since[0].event_type, "Withdrawn");
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`StoreError::UnreadableEvent`], [`StoreError::NotMigrated`], or [`StoreError::Database`].
    pub async fn read_aggregate(
        &self,
        connection: &mut DB::Connection,
        aggregate_type: &str,
        aggregate_id: &str,
        from: Option<i64>,
        to: Option<i64>,
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        let aggregate = (aggregate_type, aggregate_id);
        let (from, to) = (from.unwrap_or(i64::MIN), to.unwrap_or(i64::MAX));
        let statements = &self.inner.statements;
        let rows = DB::read_aggregate(connection, statements, aggregate, from, to).await;
        readable(rows.inspect_err(conflicts::note::<DB>)?)
    }
}

/// Metadata that the database can store.
fn checked<DB: Backend>(metadata: &Metadata) -> Result<JsonText<'_>, StoreError> {
    let text = JsonText::parse(metadata.as_bytes());
    let text = text.map_err(|reason| StoreError::InvalidMetadata { reason })?;
    if !DB::STORES_NUL && text.has_nul() {
        let field = "the metadata";
        return Err(StoreError::NulInText { field });
    }
    Ok(text)
}

/// The events of a read, for a caller that needs all of them.
fn readable(rows: Vec<LogRow>) -> Result<Vec<PersistedEvent>, StoreError> {
    let events: Result<Vec<PersistedEvent>, _> = rows.into_iter().collect();
    Ok(events?)
}

#[cfg(feature = "worker")]
impl<DB: Backend> EventStore<DB> {
    /// Changes with each append of this process, before and after its transaction commits.
    pub(crate) fn appended(&self) -> watch::Receiver<u64> {
        self.inner.appended.subscribe()
    }

    /// Whether a library that passes over events which it does not know has used the tables, and still may.
    pub(crate) async fn admits_passing_over(&self) -> Result<bool, StoreError> {
        let mut tx = backend::begin(self.pool(), DB::BEGIN_READ).await?;
        let admits = backend::admits_passing_over::<DB>(&mut tx, self.settings()).await?;
        tx.commit().await?;
        Ok(admits)
    }

    /// Whether statements stay prepared on their connection, so that each takes one round trip.
    pub(crate) fn keeps_statements(&self) -> bool {
        self.inner.settings.keep_statements
    }

    /// Reads a settled part of the log, on the incarnation of the server that settled it.
    pub(crate) async fn read_settled(
        &self,
        connection: &mut DB::Connection,
        range: ReadRange<'_>,
        incarnation: Incarnation,
    ) -> Result<Vec<LogRow>, StoreError> {
        DB::read_settled(connection, &self.inner.statements, range, incarnation).await
    }

    /// Reads the highest visible position like [`Frontier::settled_head`](backend::Frontier::settled_head).
    pub(crate) async fn settled_head(
        &self,
        connection: &mut DB::Connection,
        incarnation: Incarnation,
    ) -> Result<(i64, Incarnation), StoreError> {
        DB::settled_head(connection, &self.inner.statements, incarnation).await
    }

    /// The same store, whose statements name the schemas in which the tables are found now: what is set on
    /// a session later does not change what they mean.
    pub(crate) async fn located(&self) -> Result<Self, StoreError> {
        let mut connection = backend::acquire(self.pool()).await?;
        let located = DB::locate(&mut connection, self.settings()).await?;
        Ok(self.clone().with(located))
    }

    /// The settings that the SQL of this store depends on.
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
