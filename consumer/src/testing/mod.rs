//! Tests of consumers: append events, hand them to the consumer, check its writes.
//!
//! A test needs no worker, no clock and no set-up. Events are handed over in batches, each in a
//! savepoint where a worker would use a transaction. On SQLite the database is in memory; on Postgres
//! everything happens in one transaction on your own database, which is never committed.
//!
//! ```
//! # consumer::__doc::run(async |_| {
//! use consumer::prelude::*;
//! use consumer::sqlx;
//! use consumer::testing::ConsumerTest;
//!
//! #[derive(Default)]
//! struct UserReadModel;
//!
//! #[consumer(name = "user_read_model", aggregates = ["User"])]
//! impl UserReadModel {
//!     async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result<(), sqlx::Error> {
//!         sqlx::query("INSERT INTO users (id) VALUES (?1)").bind(&event.aggregate_id).execute(tx).await?;
//!         Ok(())
//!     }
//! }
//!
//! // In a function marked `#[tokio::test]`:
//! let mut test = ConsumerTest::sqlite(UserReadModel).await?;
//! test.execute("CREATE TABLE users (id TEXT PRIMARY KEY)").await?;
//!
//! test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
//! test.given(NewEvent::new("Order", "o-1", "OrderPlaced", "{}")); // outside the scope
//! test.when().await?;
//!
//! let users: Vec<String> = sqlx::query_scalar("SELECT id FROM users").fetch_all(test.connection()).await?;
//! assert_eq!(users, ["ada"]);
//! # Ok(()) }).unwrap();
//! ```
//!
//! Further methods simulate what a consumer has to survive: [`ConsumerTest::redeliver`],
//! [`ConsumerTest::gap`], [`ConsumerTest::fail_at_write`],
//! [`ConsumerTest::crash_before_commit`], [`ConsumerTest::reset`], [`ConsumerTest::set_replay`].
//! [`assert_round_trips!`](crate::assert_round_trips) checks that events survive being stored.
//!
//! To test a whole program with the real worker, use
//! [`Worker::run_once`](crate::Worker::run_once), which handles everything in the log, or
//! [`WorkerHandle::caught_up`](crate::WorkerHandle::caught_up) beside a running worker.

mod error;
mod round_trip;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, mpsc};

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection as _, Transaction};

pub use self::error::TestError;
pub use self::round_trip::{RoundTripError, check_round_trips};
use crate::backend::{
    Append, Backend, EventStatements, Schema, StoreSettings, UnknownEvent, prepare_table,
};
use crate::contract::read_model::{ReadModel, ReadModelDatabase as _, VersionTable};
use crate::contract::{
    BatchError, Consumer, Context, EventRecord, ExpectedVersion, NewEvent, PersistedEvent,
};
use crate::registry::Registered;
use crate::store::{EventStore, cause};

/// A consumer under test, and the database that it writes to.
///
/// The [module](self) shows a test.
pub struct ConsumerTest<DB: Backend> {
    registered: Registered<DB>,
    tx: Transaction<'static, DB>,
    events: Vec<PersistedEvent>,
    versions: HashMap<(Arc<str>, Arc<str>), i64>,
    next_position: i64,
    checkpoint: i64,
    replay_to: i64,
    /// Whether all events count as handled before.
    is_replay: bool,
    attempt: u32,
    /// The number that sqlx gives the next savepoint.
    next_savepoint: u32,
    /// The schema of the table of a read model, once the table has been created.
    table_schema: Option<Arc<str>>,
    /// The store's log, if the events go there too.
    log: Option<EventStatements<DB>>,
    /// How many of the events are there.
    logged: usize,
    /// An in-memory database is dropped with its store.
    #[cfg_attr(not(feature = "sqlite"), allow(dead_code))]
    store: Option<EventStore<DB>>,
}

impl<DB: Backend> fmt::Debug for ConsumerTest<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerTest")
            .field("consumer", &self.registered)
            .field("checkpoint", &self.checkpoint)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "sqlite")]
impl ConsumerTest<sqlx::Sqlite> {
    /// Tests a consumer on a new in-memory database, with events in its
    /// [`scope`](Consumer::scope).
    ///
    /// # Errors
    /// [`TestError::Store`] or [`TestError::Database`] if SQLite cannot create the database.
    pub async fn sqlite(consumer: impl Consumer<sqlx::Sqlite>) -> Result<Self, TestError> {
        let _running = RunningClock::hold();
        let store = EventStore::connect("sqlite::memory:").await?;
        store.migrate().await?;
        let mut test = Self::within(store.begin().await?, Registered::new(consumer));
        test.store = Some(store);
        Ok(test)
    }
}

#[cfg(feature = "postgres")]
impl ConsumerTest<sqlx::Postgres> {
    /// Tests a consumer in a transaction on your own database, with events in its
    /// [`scope`](Consumer::scope).
    ///
    /// Your own tables are there. The transaction is never committed: the test's writes are gone when it
    /// ends.
    ///
    /// ```no_run
    /// # consumer::__doc::run(async |_| {
    /// use consumer::prelude::*;
    /// use consumer::sqlx::{self, PgPool};
    /// use consumer::testing::ConsumerTest;
    ///
    /// #[derive(Default)]
    /// struct Audit;
    ///
    /// #[consumer(name = "audit")]
    /// impl Audit {
    ///     async fn handle(&self, tx: &mut PgConnection, event: &PersistedEvent) -> Result<(), sqlx::Error> {
    ///         sqlx::query("INSERT INTO audit (event_type) VALUES ($1)").bind(&*event.event_type).execute(tx).await?;
    ///         Ok(())
    ///     }
    /// }
    ///
    /// // In a function marked `#[tokio::test]`, on a database that your own migrations created:
    /// let pool = PgPool::connect("postgres://localhost/app_test").await?;
    /// let mut test = ConsumerTest::postgres(&pool, Audit).await?;
    /// test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
    /// test.when().await?;
    /// let kinds: Vec<String> = sqlx::query_scalar("SELECT event_type FROM audit").fetch_all(test.connection()).await?;
    /// assert_eq!(kinds, ["UserRegistered"]);
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`TestError::Database`] if Postgres cannot begin the transaction.
    pub async fn postgres(
        pool: &sqlx::PgPool,
        consumer: impl Consumer<sqlx::Postgres>,
    ) -> Result<Self, TestError> {
        let _running = RunningClock::hold();
        Ok(Self::within(pool.begin().await?, Registered::new(consumer)))
    }
}

impl<DB: Backend> ConsumerTest<DB> {
    /// Tests a registered consumer in a transaction of your own, which is rolled back when the test
    /// ends.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| { use consumer::__doc::Users;
    /// use consumer::Registered;
    /// use consumer::testing::ConsumerTest;
    ///
    /// // The second version of a consumer, beside what the test has set up in the transaction.
    /// let tx = store.begin().await?;
    /// let mut test = ConsumerTest::within(tx, Registered::new(Users).version(2));
    /// test.when().await?;
    /// # Ok(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn within(tx: Transaction<'static, DB>, registered: Registered<DB>) -> Self {
        Self {
            registered,
            tx,
            events: Vec::new(),
            versions: HashMap::new(),
            next_position: 1,
            checkpoint: 0,
            replay_to: 0,
            is_replay: false,
            attempt: 1,
            next_savepoint: 1,
            table_schema: None,
            log: None,
            logged: 0,
            store: None,
        }
    }

    /// Puts the events into the store's table of events too, for a consumer that reads the log in its
    /// transaction.
    ///
    /// Each event is appended before it is handed over, and has the position, the version and the time
    /// that the store gives it. In an empty SQLite database, position and version are those that
    /// [`given`](Self::given) returned. [`gap`](Self::gap) leaves no gap in the store.
    ///
    /// ```
    /// # consumer::__doc::run(async |_| { use consumer::__doc::Users;
    /// use consumer::{NewEvent, sqlx};
    /// use consumer::testing::ConsumerTest;
    ///
    /// let mut test = ConsumerTest::sqlite(Users).await?.with_log();
    /// test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
    /// test.when().await?;
    ///
    /// let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(test.connection()).await?;
    /// assert_eq!(stored, 1);
    /// # Ok(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn with_log(mut self) -> Self {
        self.log = Some(EventStatements::new(&StoreSettings {
            schema: Schema::default(),
            dialect: DB::DIALECT,
            notify: false,
            keep_statements: true,
        }));
        self
    }

    /// Puts the events into the tables that this store is mapped to, like [`with_log`](Self::with_log).
    #[must_use]
    pub fn with_log_of(mut self, store: &EventStore<DB>) -> Self {
        self.log = Some(EventStatements::new(store.settings()));
        self
    }

    /// Sets whether the events that are handed over from now on were handled before:
    /// [`Context::is_replay`] returns it.
    ///
    /// ```
    /// # consumer::__doc::run(async |_| {
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU32, Ordering};
    ///
    /// use consumer::prelude::*;
    /// use consumer::testing::ConsumerTest;
    ///
    /// /// Counts the mails that it sends.
    /// #[derive(Clone, Default)]
    /// struct Welcome(Arc<AtomicU32>);
    ///
    /// #[consumer(name = "welcome", aggregates = ["User"])]
    /// impl Welcome {
    ///     async fn handle(&self, cx: &Context, _event: &PersistedEvent) -> Result<(), HandlerError> {
    ///         if !cx.is_replay() {
    ///             self.0.fetch_add(1, Ordering::Relaxed);
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let welcome = Welcome::default();
    /// let mut test = ConsumerTest::sqlite(welcome.clone()).await?;
    /// test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
    /// test.when().await?;
    /// test.set_replay(true);
    /// test.redeliver().await?;
    /// assert_eq!(welcome.0.load(Ordering::Relaxed), 1);
    /// # Ok(()) }).unwrap();
    /// ```
    pub fn set_replay(&mut self, replay: bool) {
        self.is_replay = replay;
    }

    /// Returns the connection that the consumer writes to, to set up its tables and read them.
    pub fn connection(&mut self) -> &mut DB::Connection {
        &mut self.tx
    }

    /// Runs SQL, such as the statements that create the consumer's tables.
    ///
    /// # Errors
    /// [`TestError::Database`] if a statement fails.
    pub async fn execute(&mut self, sql: &str) -> Result<(), TestError> {
        // A test writes its own SQL.
        Ok(DB::run_script(&mut self.tx, AssertSqlSafe(sql.to_owned())).await?)
    }

    /// Appends an event to the test's log and returns it as the consumer will receive it.
    ///
    /// ```
    /// # consumer::__doc::run(async |_| { use consumer::__doc::Users;
    /// use consumer::NewEvent;
    /// use consumer::testing::ConsumerTest;
    ///
    /// let mut test = ConsumerTest::sqlite(Users).await?;
    /// test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
    /// let renamed = test.given(NewEvent::new("User", "ada", "UserRenamed", "{}"));
    /// assert_eq!((renamed.global_position, renamed.aggregate_version), (2, 2));
    /// # Ok(()) }).unwrap();
    /// ```
    pub fn given(&mut self, event: NewEvent) -> PersistedEvent {
        let aggregate = (
            Arc::clone(&event.aggregate_type),
            Arc::clone(&event.aggregate_id),
        );
        let version = self.versions.entry(aggregate).or_default();
        *version += 1;
        let event = PersistedEvent::new(EventRecord {
            global_position: self.next_position,
            aggregate_type: event.aggregate_type,
            aggregate_id: event.aggregate_id.to_string(),
            aggregate_version: *version,
            event_id: event.event_id,
            event_type: event.event_type,
            event_version: event.event_version,
            payload: event.payload,
            metadata: event.metadata,
            trace_id: event.trace_id,
            correlation_id: event.correlation_id,
            causation_id: event.causation_id,
            created_at: time_of(self.next_position),
        });
        self.next_position += 1;
        self.events.push(event.clone());
        event
    }

    /// Appends events to the test's log, like [`given`](Self::given).
    ///
    /// ```
    /// # consumer::__doc::run(async |_| { use consumer::__doc::Users;
    /// use consumer::NewEvent;
    /// use consumer::testing::ConsumerTest;
    ///
    /// let mut test = ConsumerTest::sqlite(Users).await?;
    /// test.given_all(["ada", "bob"].map(|id| NewEvent::new("User", id, "UserRegistered", "{}")));
    /// test.when().await?;
    /// assert_eq!(test.checkpoint(), 2);
    /// # Ok(()) }).unwrap();
    /// ```
    pub fn given_all(&mut self, events: impl IntoIterator<Item = NewEvent>) {
        for event in events {
            self.given(event);
        }
    }

    /// Leaves a gap of that many positions in the log, as transactions that roll back do.
    ///
    /// ```
    /// # consumer::__doc::run(async |_| { use consumer::__doc::Users;
    /// use consumer::NewEvent;
    /// use consumer::testing::ConsumerTest;
    ///
    /// let mut test = ConsumerTest::sqlite(Users).await?;
    /// test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
    /// test.gap(3);
    /// let next = test.given(NewEvent::new("User", "bob", "UserRegistered", "{}"));
    /// assert_eq!(next.global_position, 5);
    /// test.when().await?;
    /// # Ok(()) }).unwrap();
    /// ```
    pub fn gap(&mut self, positions: u32) {
        self.next_position += i64::from(positions);
    }

    /// Hands over all events in the scope that are not handled yet.
    ///
    /// Like a worker, it does so in batches; each has its own savepoint in place of the worker's
    /// transaction.
    ///
    /// # Errors
    /// [`TestError::Handler`] if the consumer fails on an event. The events before it are handled,
    /// and the next call tries this event again.
    pub async fn when(&mut self) -> Result<(), TestError> {
        self.prepare().await?;
        while let Some(batch) = self.next_batch()? {
            let (cx, outcome) = self.attempt(&batch, End::Commit).await?;
            match outcome {
                Ok(handled) => {
                    self.attempt = 1;
                    self.move_past(&batch, handled);
                    run_effects(&cx).await;
                }
                Err(error) => {
                    self.handle_first(&batch, error.handled).await?;
                    return Err(self.failed(&batch, error));
                }
            }
        }
        Ok(())
    }

    /// Hands over again everything that was handled, as happens to a consumer of an external system
    /// if its process dies after the effect and before the checkpoint is saved (R5).
    ///
    /// A consumer that writes through `tx` never sees this and need not survive it.
    ///
    /// ```
    /// # consumer::__doc::run(async |_| {
    /// use consumer::prelude::*;
    /// use consumer::sqlx;
    /// use consumer::testing::ConsumerTest;
    ///
    /// /// Sends each welcome once, however often its event is delivered.
    /// #[derive(Default)]
    /// struct Welcome;
    ///
    /// #[consumer(name = "welcome", aggregates = ["User"])]
    /// impl Welcome {
    ///     async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result<(), sqlx::Error> {
    ///         let sent = "INSERT INTO sent (event_id) VALUES (?1) ON CONFLICT DO NOTHING";
    ///         sqlx::query(sent).bind(event.event_id.to_string()).execute(tx).await?;
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let mut test = ConsumerTest::sqlite(Welcome).await?;
    /// test.execute("CREATE TABLE sent (event_id TEXT PRIMARY KEY)").await?;
    /// test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
    /// test.when().await?;
    /// test.redeliver().await?;
    ///
    /// let sent: i64 = sqlx::query_scalar("SELECT count(*) FROM sent").fetch_one(test.connection()).await?;
    /// assert_eq!(sent, 1);
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`TestError::Handler`] if the consumer fails on an event that it has handled before.
    pub async fn redeliver(&mut self) -> Result<(), TestError> {
        let checkpoint = std::mem::take(&mut self.checkpoint);
        let later = self.events.split_off(
            self.events
                .partition_point(|event| event.global_position <= checkpoint),
        );
        let redelivered = self.when().await;
        self.events.extend(later);
        self.checkpoint = checkpoint;
        redelivered
    }

    /// Hands over the next batch and rolls back its writes, as happens if the process crashes after the last
    /// event and before the commit. The next [`when`](Self::when) hands the batch over again.
    ///
    /// ```
    /// # consumer::__doc::run(async |_| { use consumer::__doc::UserReadModel;
    /// use consumer::testing::ConsumerTest;
    /// use consumer::{NewEvent, sqlx};
    ///
    /// let mut test = ConsumerTest::sqlite(UserReadModel).await?;
    /// test.execute("CREATE TABLE users (id TEXT PRIMARY KEY)").await?;
    /// test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
    /// test.crash_before_commit().await?;
    /// assert_eq!(test.checkpoint(), 0);
    ///
    /// // The next worker receives the same batch.
    /// test.when().await?;
    /// let users: i64 = sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(test.connection()).await?;
    /// assert_eq!((users, test.checkpoint()), (1, 1));
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`TestError::Handler`] if the consumer fails on an event of the batch.
    pub async fn crash_before_commit(&mut self) -> Result<(), TestError> {
        self.prepare().await?;
        let Some(batch) = self.next_batch()? else {
            return Ok(());
        };
        match self.attempt(&batch, End::RollBack).await?.1 {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(&batch, error)),
        }
    }

    /// Makes the consumer's `write`-th change of a row in the next batch fail, counted from 1, and
    /// returns whether there was such a change.
    ///
    /// The batch is rolled back, and the next [`when`](Self::when) hands it over again. Called with
    /// 1, 2, 3 … until it returns `false`, it shows that the consumer returns the error of every
    /// write:
    ///
    /// ```
    /// # consumer::__doc::run(async |_| { use consumer::__doc::UserReadModel;
    /// use consumer::NewEvent;
    /// use consumer::testing::ConsumerTest;
    ///
    /// let mut test = ConsumerTest::sqlite(UserReadModel).await?;
    /// test.execute("CREATE TABLE users (id TEXT PRIMARY KEY)").await?;
    /// test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
    /// let mut write = 1;
    /// while test.fail_at_write(write).await? {
    ///     write += 1;
    /// }
    /// test.when().await?;
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`TestError::Swallowed`] if the write failed and the consumer returned no error;
    /// [`TestError::Handler`] if the consumer failed for another reason.
    pub async fn fail_at_write(&mut self, write: u32) -> Result<bool, TestError> {
        self.prepare().await?;
        let Some(batch) = self.next_batch()? else {
            return Ok(false);
        };
        let mut savepoint = self.tx.begin().await?;
        DB::arm_fault(&mut savepoint, write).await?;
        let (_, outcome) = hand_over(&self.registered, &mut savepoint, &batch).await;
        let was_reached = DB::fault_was_reached(&mut savepoint, write).await;
        savepoint.rollback().await?;
        match (outcome, was_reached) {
            (Err(failed), _) if failed.error.to_string().contains(FAULT) => Ok(true),
            (Err(failed), _) => Err(self.failed(&batch, failed)),
            (Ok(_), Ok(false)) => Ok(false),
            // An error that was ignored leaves Postgres in a transaction that cannot be read.
            (Ok(_), _) => Err(TestError::Swallowed { write }),
        }
    }

    /// Empties the read model and resets the checkpoint, as a rebuild does.
    ///
    /// The next [`when`](Self::when) hands everything over again;
    /// [`Context::is_replay`] returns `true` for the events that were handled before.
    ///
    /// ```
    /// # consumer::__doc::run(async |_| { use consumer::__doc::UserReadModel;
    /// use consumer::testing::ConsumerTest;
    /// use consumer::{NewEvent, sqlx};
    ///
    /// // Its `reset` deletes the rows of `users`.
    /// let mut test = ConsumerTest::sqlite(UserReadModel).await?;
    /// test.execute("CREATE TABLE users (id TEXT PRIMARY KEY)").await?;
    /// test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
    /// test.when().await?;
    /// test.reset().await?;
    /// // A row left behind would violate the primary key now.
    /// test.when().await?;
    ///
    /// let users: i64 = sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(test.connection()).await?;
    /// assert_eq!(users, 1);
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`TestError::Reset`] if the consumer cannot empty its read model.
    pub async fn reset(&mut self) -> Result<(), TestError> {
        let consumer = Arc::clone(&self.registered.consumer);
        if !consumer.can_reset() {
            return Err(TestError::Reset(
                "it has no `reset`: add a method marked `#[on(reset)]`, or call `set_replay(true)` and `redeliver()` to hand the events over as a replay".into(),
            ));
        }
        self.prepare_table().await?;
        let cx = self.context().with_replay(true);
        let emptied = consumer.reset(&cx, &mut self.tx).await;
        emptied.map_err(TestError::Reset)?;
        self.replay_to = self.replay_to.max(std::mem::take(&mut self.checkpoint));
        Ok(())
    }

    /// Returns the position up to which all events in the scope are handled.
    #[must_use]
    pub fn checkpoint(&self) -> i64 {
        self.checkpoint
    }

    /// Returns the rows of the consumer's read model, ordered by key.
    ///
    /// The first call of [`when`](Self::when) creates the table.
    ///
    /// # Errors
    /// [`TestError::Table`] if the table cannot be created, [`TestError::Row`] if a row cannot be read.
    pub async fn rows<R: ReadModel>(&mut self) -> Result<Vec<R>, TestError> {
        self.prepare_table().await?;
        let version = self.registered.declaration.version;
        let table = VersionTable::new(R::TABLE, version, self.table_schema.as_deref());
        let values = DB::load_all(&mut self.tx, &table).await;
        let values = values.map_err(TestError::Row)?;
        let rows = values.into_iter().map(R::from_values);
        let rows: Result<Vec<R>, _> = rows.collect();
        let mut rows = rows.map_err(|error| TestError::Row(error.into()))?;
        rows.sort_by_cached_key(R::key);
        Ok(rows)
    }

    /// Makes the database what a worker's consumer finds.
    async fn prepare(&mut self) -> Result<(), TestError> {
        self.write_log().await?;
        self.prepare_table().await
    }

    /// Appends the events that are not in the store's log yet.
    async fn write_log(&mut self) -> Result<(), TestError> {
        let Some(statements) = &self.log else {
            return Ok(());
        };
        for event in self.events.iter_mut().skip(self.logged) {
            let new = [new_event(event)];
            let append = Append::new(
                statements.schema(),
                ExpectedVersion::Any,
                &new,
                Cow::Borrowed,
            )?;
            let placed = DB::append(&mut self.tx, statements, &append).await?;
            for stored in append.persisted(placed) {
                self.next_position = stored.global_position + 1;
                *event = stored;
            }
            self.logged += 1;
        }
        Ok(())
    }

    /// Creates the table of the consumer's read model, if it has one.
    async fn prepare_table(&mut self) -> Result<(), TestError> {
        let Some(table) = self.registered.consumer.read_model() else {
            return Ok(());
        };
        if self.table_schema.is_none() {
            let schema = DB::current_schema(&mut self.tx).await?.map(Arc::from);
            let version = self.registered.declaration.version;
            let table = VersionTable::new(table, version, schema.as_deref());
            prepare_table::<DB>(&mut self.tx, &table).await?;
            self.table_schema = schema;
        }
        Ok(())
    }

    fn context(&self) -> Context {
        let declaration = &self.registered.declaration;
        Context::new(Arc::clone(&declaration.name))
            .with_version(declaration.version)
            .with_segments(declaration.settings.segments > 1)
            .with_table_schema(self.table_schema.clone())
            .with_head(self.next_position - 1)
    }

    /// The next events of the scope, up to the end of a replay.
    fn next_batch(&mut self) -> Result<Option<Batch>, TestError> {
        let declaration = &self.registered.declaration;
        let scope = &declaration.scope;
        let limit = usize::try_from(declaration.settings.batch_size).unwrap_or(usize::MAX);
        let is_next = |event: &&PersistedEvent| {
            event.global_position > self.checkpoint
                && (scope.is_empty() || scope.contains(&event.aggregate_type))
        };
        let mut events: Vec<PersistedEvent> = self
            .events
            .iter()
            .filter(is_next)
            .take(limit)
            .cloned()
            .collect();
        let consumer = &self.registered.consumer;
        if let Some(unknown) = events
            .iter()
            .position(|event| !consumer.knows(event.format()))
        {
            // As for a worker, a batch ends before it.
            let event = events.drain(unknown..).next();
            if let (0, Some(event)) = (unknown, event) {
                let event = UnknownEvent::of(&event);
                return Err(TestError::UnknownEvent { event });
            }
        }
        let Some(first) = events.first() else {
            self.checkpoint = self.next_position - 1;
            return Ok(None);
        };
        let is_reset = first.global_position <= self.replay_to;
        if is_reset {
            let end = self.replay_to;
            events.retain(|event| event.global_position <= end);
        }
        let cx = self
            .context()
            .with_replay(is_reset || self.is_replay)
            .with_attempt(self.attempt);
        Ok(Some(Batch {
            cx: Arc::new(cx),
            events: Arc::new(events),
        }))
    }

    async fn attempt(
        &mut self,
        batch: &Batch,
        end: End,
    ) -> Result<(Arc<Context>, Outcome), TestError> {
        DB::set_savepoint(&mut self.tx).await?;
        let mut savepoint = self.tx.begin().await?;
        let (cx, outcome) = hand_over(&self.registered, &mut savepoint, batch).await;
        let ended = match (&outcome, end) {
            (Ok(_), End::Commit) => savepoint.commit().await,
            _ => savepoint.rollback().await,
        };
        // The savepoint is gone if the handler ended the transaction.
        ended.map_err(|error| TestError::EndedTransaction {
            error: error.into(),
        })?;
        if self.has_open_savepoint().await? {
            DB::undo_to_savepoint(&mut self.tx).await?;
            // sqlx still counts it, and the one that found it.
            self.next_savepoint += 2;
            return match outcome {
                Ok(_) => Err(TestError::OpenSavepoint),
                Err(_) => Ok((cx, outcome)),
            };
        }
        DB::release_savepoint(&mut self.tx).await?;
        Ok((cx, outcome))
    }

    /// Whether the handler has left a transaction open that it began in the savepoint of its batch: what
    /// ended in the place of the savepoint was that, and the next one gets a higher number.
    async fn has_open_savepoint(&mut self) -> Result<bool, sqlx::Error> {
        let mut probe = self.tx.begin().await?;
        let is_open = DB::has_savepoint(&mut probe, self.next_savepoint + 1).await?;
        if is_open {
            // Finding it has released the own one, so that there is nothing to end.
            std::mem::forget(probe);
            return Ok(true);
        }
        probe.rollback().await?;
        Ok(false)
    }

    /// Hands over the events before the failing one again and keeps what they write, as a worker does.
    async fn handle_first(&mut self, batch: &Batch, count: usize) -> Result<(), TestError> {
        if count == 0 {
            return Ok(());
        }
        let cx = self.context().with_replay(batch.cx.is_replay());
        let first = Batch {
            cx: Arc::new(cx),
            events: Arc::new(batch.events.iter().take(count).cloned().collect()),
        };
        let (cx, outcome) = self.attempt(&first, End::Commit).await?;
        match outcome {
            Ok(handled) => {
                self.move_past(&first, handled);
                run_effects(&cx).await;
                Ok(())
            }
            Err(error) => Err(self.failed(&first, error)),
        }
    }

    fn move_past(&mut self, batch: &Batch, handled: usize) {
        let last = handled
            .checked_sub(1)
            .and_then(|last| batch.events.get(last));
        if let Some(event) = last {
            self.checkpoint = event.global_position;
        }
    }

    fn failed(&mut self, batch: &Batch, failed: BatchError) -> TestError {
        self.attempt += 1;
        let event = batch.events.get(failed.handled);
        TestError::Handler {
            position: event.map_or(0, |event| event.global_position),
            error: failed.error,
        }
    }
}

/// Keeps a clock that is paused from jumping to the next timeout: in a test with `start_paused = true`, a
/// pool would otherwise give up at once. tokio's clock stands still while a blocking task runs.
struct RunningClock {
    /// Dropping it ends the task.
    _until: mpsc::Sender<()>,
}

impl RunningClock {
    fn hold() -> Self {
        let (until, dropped) = mpsc::channel();
        tokio::task::spawn_blocking(move || dropped.recv());
        Self { _until: until }
    }
}

/// The event as it is appended.
fn new_event(event: &PersistedEvent) -> NewEvent {
    NewEvent {
        aggregate_type: Arc::clone(&event.aggregate_type),
        aggregate_id: event.aggregate_id.as_str().into(),
        event_id: event.event_id,
        event_type: Arc::clone(&event.event_type),
        event_version: event.event_version,
        payload: event.payload.clone(),
        metadata: event.metadata.clone(),
        trace_id: event.trace_id.clone(),
        correlation_id: event.correlation_id.clone(),
        causation_id: event.causation_id.clone(),
    }
}

/// Runs the effects after the commit. A panic is left to fail the test.
async fn run_effects(cx: &Context) {
    for effect in cx.take_effects() {
        effect.await;
    }
}

/// One event a minute, so that times are the same in every run.
fn time_of(position: i64) -> DateTime<Utc> {
    let minute = position.saturating_mul(60);
    DateTime::from_timestamp(minute, 0).unwrap_or(DateTime::UNIX_EPOCH)
}

/// The error message of a write that a test makes fail.
const FAULT: &str = "the test made this change fail";

/// How many events were handled.
type Outcome = Result<usize, BatchError>;

struct Batch {
    cx: Arc<Context>,
    events: Arc<Vec<PersistedEvent>>,
}

#[derive(Clone, Copy)]
enum End {
    Commit,
    RollBack,
}

async fn hand_over<DB: Backend>(
    registered: &Registered<DB>,
    connection: &mut DB::Connection,
    batch: &Batch,
) -> (Arc<Context>, Outcome) {
    let (cx, events) = (Arc::clone(&batch.cx), Arc::clone(&batch.events));
    let current = {
        let (cx, events) = (Arc::clone(&cx), Arc::clone(&events));
        Arc::new(move || cause::find(&events, cx.current_position()?))
    };
    let work = registered.consumer.handle_batch(&cx, connection, &events);
    let outcome = cause::within(current, work).await;
    (cx, outcome)
}
