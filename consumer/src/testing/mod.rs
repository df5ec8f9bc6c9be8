//! Tests of consumers: given events, when the consumer handles them, then look at what it wrote.
//!
//! A test needs no worker, no clock and no set-up: events are handed over in batches, each in a
//! savepoint, as a worker hands them over in transactions. On SQLite everything is in memory; on
//! Postgres everything happens in one transaction of your own database that is never committed.
//!
//! ```
//! # #[cfg(feature = "sqlite")]
//! # mod test {
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
//! # #[tokio::main(flavor = "current_thread")]
//! # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // #[tokio::test]
//! let mut test = ConsumerTest::sqlite_scoped(UserReadModel).await?;
//! test.execute("CREATE TABLE users (id TEXT PRIMARY KEY)").await?;
//!
//! test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
//! test.given(NewEvent::new("Order", "o-1", "OrderPlaced", "{}")); // not in the scope
//! test.when().await?;
//!
//! let users: Vec<String> = sqlx::query_scalar("SELECT id FROM users").fetch_all(test.connection()).await?;
//! assert_eq!(users, ["ada"]);
//! # Ok(())
//! # }
//! # }
//! # #[cfg(feature = "sqlite")]
//! # fn main() { test::main().unwrap() }
//! # #[cfg(not(feature = "sqlite"))]
//! # fn main() {}
//! ```
//!
//! What else a consumer should survive, a verb each: [`ConsumerTest::redeliver`],
//! [`ConsumerTest::gap`], [`ConsumerTest::fail_at_write`],
//! [`ConsumerTest::crash_before_commit`], [`ConsumerTest::reset`].
//!
//! A test of the whole program, with the real worker, uses
//! [`Worker::run_once`](crate::Worker::run_once), which handles everything that is in the log, or
//! [`WorkerHandle::caught_up`](crate::WorkerHandle::caught_up) beside a worker that runs.

mod error;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection as _, Transaction};

pub use self::error::TestError;
use crate::backend::Backend;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use crate::contract::{Consumer, NewEvent, ScopedConsumer};
use crate::contract::{Context, EventRecord, HandlerError, PersistedEvent};
use crate::registry::Registered;
use crate::store::{EventStore, cause};

/// A consumer under test, and the database that it writes to.
///
/// See the [module](self) for an example.
pub struct ConsumerTest<DB: Backend> {
    registered: Registered<DB>,
    tx: Transaction<'static, DB>,
    events: Vec<PersistedEvent>,
    versions: HashMap<(Arc<str>, Arc<str>), i64>,
    next_position: i64,
    checkpoint: i64,
    replay_to: i64,
    attempt: u32,
    /// A database in memory ends with its store.
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
    /// A test of a consumer of every event, in a fresh database in memory.
    ///
    /// See [`gap`](Self::gap) for an example.
    ///
    /// # Errors
    /// What SQLite says.
    pub async fn sqlite(consumer: impl Consumer<sqlx::Sqlite>) -> Result<Self, TestError> {
        Self::in_memory(Registered::new(consumer)).await
    }

    /// A test of a consumer with a scope, in a fresh database in memory.
    ///
    /// See the [module](self) for an example.
    ///
    /// # Errors
    /// What SQLite says.
    pub async fn sqlite_scoped(
        consumer: impl ScopedConsumer<sqlx::Sqlite>,
    ) -> Result<Self, TestError> {
        Self::in_memory(Registered::scoped(consumer)).await
    }

    async fn in_memory(registered: Registered<sqlx::Sqlite>) -> Result<Self, TestError> {
        let store = EventStore::connect("sqlite::memory:").await?;
        store.migrate().await?;
        let mut test = Self::within(store.begin().await?, registered);
        test.store = Some(store);
        Ok(test)
    }
}

#[cfg(feature = "postgres")]
impl ConsumerTest<sqlx::Postgres> {
    /// A test of a consumer of every event, in a transaction of your database that is never
    /// committed: your own tables are there, and what the test writes is gone when it ends.
    ///
    /// ```no_run
    /// # #[cfg(feature = "postgres")]
    /// # mod test {
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
    /// # pub async fn test() -> Result<(), Box<dyn std::error::Error>> {
    /// // #[tokio::test], on the database that your own migrations have made
    /// let pool = PgPool::connect("postgres://localhost/app_test").await?;
    /// let mut test = ConsumerTest::postgres(&pool, Audit).await?;
    /// test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
    /// test.when().await?;
    /// let kinds: Vec<String> = sqlx::query_scalar("SELECT event_type FROM audit").fetch_all(test.connection()).await?;
    /// assert_eq!(kinds, ["UserRegistered"]);
    /// # Ok(())
    /// # }
    /// # }
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn postgres(
        pool: &sqlx::PgPool,
        consumer: impl Consumer<sqlx::Postgres>,
    ) -> Result<Self, TestError> {
        Ok(Self::within(pool.begin().await?, Registered::new(consumer)))
    }

    /// A test of a consumer with a scope, like [`postgres`](Self::postgres).
    ///
    /// See the guide [`testing`](crate::guide::testing) for an example.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn postgres_scoped(
        pool: &sqlx::PgPool,
        consumer: impl ScopedConsumer<sqlx::Postgres>,
    ) -> Result<Self, TestError> {
        Ok(Self::within(
            pool.begin().await?,
            Registered::scoped(consumer),
        ))
    }
}

impl<DB: Backend> ConsumerTest<DB> {
    /// A test within a transaction, which is rolled back when the test ends.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use consumer::{Consumer, Context, HandlerError, PersistedEvent, sqlx};
    /// # struct Users;
    /// # impl Consumer<sqlx::Sqlite> for Users {
    /// #     fn name(&self) -> &str { "users" }
    /// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
    /// # }
    /// use consumer::testing::ConsumerTest;
    /// use consumer::{Registered, SqliteEventStore};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// // Of a consumer as its second version, and beside what a test of your own has set up.
    /// let tx = store.begin().await?;
    /// let mut test = ConsumerTest::within(tx, Registered::new(Users).version(2));
    /// test.when().await?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
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
            attempt: 1,
            store: None,
        }
    }

    /// The connection that the consumer writes to, to set up its tables and to look at them.
    ///
    /// See the [module](self) for an example.
    pub fn connection(&mut self) -> &mut DB::Connection {
        &mut self.tx
    }

    /// Runs SQL, such as what creates the consumer's tables.
    ///
    /// See the [module](self) for an example.
    ///
    /// # Errors
    /// What the database says.
    pub async fn execute(&mut self, sql: &str) -> Result<(), TestError> {
        // A test writes its own SQL.
        Ok(DB::run_script(&mut self.tx, AssertSqlSafe(sql.to_owned())).await?)
    }

    /// Puts an event at the end of the log, and gives it as the consumer will get it.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use consumer::{Consumer, Context, HandlerError, PersistedEvent, sqlx};
    /// # struct Users;
    /// # impl Consumer<sqlx::Sqlite> for Users {
    /// #     fn name(&self) -> &str { "users" }
    /// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
    /// # }
    /// use consumer::NewEvent;
    /// use consumer::testing::ConsumerTest;
    ///
    /// let mut test = ConsumerTest::sqlite(Users).await?;
    /// test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
    /// let renamed = test.given(NewEvent::new("User", "ada", "UserRenamed", "{}"));
    /// assert_eq!((renamed.global_position, renamed.aggregate_version), (2, 2));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
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

    /// Puts events at the end of the log.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use consumer::{Consumer, Context, HandlerError, PersistedEvent, sqlx};
    /// # struct Users;
    /// # impl Consumer<sqlx::Sqlite> for Users {
    /// #     fn name(&self) -> &str { "users" }
    /// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
    /// # }
    /// use consumer::NewEvent;
    /// use consumer::testing::ConsumerTest;
    ///
    /// let mut test = ConsumerTest::sqlite(Users).await?;
    /// test.given_all(["ada", "bob"].map(|id| NewEvent::new("User", id, "UserRegistered", "{}")));
    /// test.when().await?;
    /// assert_eq!(test.checkpoint(), 2);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    pub fn given_all(&mut self, events: impl IntoIterator<Item = NewEvent>) {
        for event in events {
            self.given(event);
        }
    }

    /// Leaves positions out, as transactions do that roll back: a consumer must not expect that
    /// they follow each other.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use consumer::{Consumer, Context, HandlerError, NewEvent, PersistedEvent, sqlx};
    /// # struct C;
    /// # impl Consumer<sqlx::Sqlite> for C {
    /// #     fn name(&self) -> &str { "c" }
    /// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
    /// # }
    /// # use consumer::testing::ConsumerTest;
    /// let mut test = ConsumerTest::sqlite(C).await?;
    /// test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
    /// test.gap(3);
    /// let next = test.given(NewEvent::new("User", "bob", "UserRegistered", "{}"));
    /// assert_eq!(next.global_position, 5);
    /// test.when().await?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    pub fn gap(&mut self, positions: u32) {
        self.next_position += i64::from(positions);
    }

    /// Hands over the events that are not handled yet, as a worker does: those of its scope, in
    /// batches, each in a transaction of its own (here: a savepoint).
    ///
    /// See the [module](self) for an example, and [`TestError`] for one of a consumer that fails.
    ///
    /// # Errors
    /// [`TestError::Handler`] when the consumer fails on an event: those before it are handled,
    /// the event and the later ones are not, and the next call tries it again.
    pub async fn when(&mut self) -> Result<(), TestError> {
        while let Some(batch) = self.next_batch() {
            let (cx, outcome) = self.attempt_and(&batch, RunGuard::Commit).await?;
            match outcome {
                Ok(handled) => {
                    self.attempt = 1;
                    self.move_past(&batch, handled);
                    run_effects(&cx).await;
                }
                Err((handled, error)) => {
                    self.handle_first(&batch, handled).await?;
                    return Err(self.failed(&batch, handled, error));
                }
            }
        }
        Ok(())
    }

    /// Hands over everything that was handled once more, as happens to a consumer of an outside
    /// system when its process dies after the effect and before the checkpoint (R5).
    ///
    /// A consumer that writes through `tx` never sees this, so its test need not survive it.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # mod test {
    /// use consumer::prelude::*;
    /// use consumer::sqlx;
    /// use consumer::testing::ConsumerTest;
    ///
    /// /// Sends each welcome once, whatever is delivered how often.
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
    /// # #[tokio::main(flavor = "current_thread")]
    /// # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // #[tokio::test]
    /// let mut test = ConsumerTest::sqlite_scoped(Welcome).await?;
    /// test.execute("CREATE TABLE sent (event_id TEXT PRIMARY KEY)").await?;
    /// test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
    /// test.when().await?;
    /// test.redeliver().await?;
    ///
    /// let sent: i64 = sqlx::query_scalar("SELECT count(*) FROM sent").fetch_one(test.connection()).await?;
    /// assert_eq!(sent, 1);
    /// # Ok(())
    /// # }
    /// # }
    /// # #[cfg(feature = "sqlite")]
    /// # fn main() { test::main().unwrap() }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`TestError::Handler`] when the consumer does not put up with it.
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

    /// Hands over the next batch and loses everything that was written, as a crash does between
    /// the last event and the commit. The batch comes again with the next [`when`](Self::when).
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # mod test {
    /// use consumer::prelude::*;
    /// use consumer::sqlx;
    /// use consumer::testing::ConsumerTest;
    ///
    /// #[derive(Default)]
    /// struct UserReadModel;
    ///
    /// #[consumer(name = "user_read_model", aggregates = ["User"])]
    /// impl UserReadModel {
    ///     async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result<(), sqlx::Error> {
    ///         sqlx::query("INSERT INTO users (id) VALUES (?1)").bind(&event.aggregate_id).execute(tx).await?;
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // #[tokio::test]
    /// let mut test = ConsumerTest::sqlite_scoped(UserReadModel).await?;
    /// test.execute("CREATE TABLE users (id TEXT PRIMARY KEY)").await?;
    /// test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
    /// test.crash_before_commit().await?;
    /// let users = "SELECT count(*) FROM users";
    /// let left: i64 = sqlx::query_scalar(users).fetch_one(test.connection()).await?;
    /// assert_eq!((left, test.checkpoint()), (0, 0));
    ///
    /// // The next worker is given the same batch, and finds nothing in its way.
    /// test.when().await?;
    /// let written: i64 = sqlx::query_scalar(users).fetch_one(test.connection()).await?;
    /// assert_eq!((written, test.checkpoint()), (1, 1));
    /// # Ok(())
    /// # }
    /// # }
    /// # #[cfg(feature = "sqlite")]
    /// # fn main() { test::main().unwrap() }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`TestError::Handler`] when the consumer fails before that.
    pub async fn crash_before_commit(&mut self) -> Result<(), TestError> {
        let Some(batch) = self.next_batch() else {
            return Ok(());
        };
        match self.attempt_and(&batch, RunGuard::RollBack).await?.1 {
            Ok(_) => Ok(()),
            Err((handled, error)) => Err(self.failed(&batch, handled, error)),
        }
    }

    /// Makes the consumer's `write`-th change of a row fail, counted from 1 within the next batch,
    /// and says whether it came that far. Nothing of the batch stays; it comes again with the next
    /// [`when`](Self::when).
    ///
    /// Called with 1, 2, 3 … until it says `false`, it shows that a consumer reports an error
    /// wherever it happens:
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use consumer::{Consumer, Context, HandlerError, NewEvent, PersistedEvent, sqlx};
    /// # struct UserReadModel;
    /// # impl Consumer<sqlx::Sqlite> for UserReadModel {
    /// #     fn name(&self) -> &str { "c" }
    /// #     async fn handle(&self, _: &Context, tx: &mut sqlx::SqliteConnection, event: &PersistedEvent) -> Result<(), HandlerError> {
    /// #         sqlx::query("INSERT INTO users VALUES (?1)").bind(&event.aggregate_id).execute(tx).await?;
    /// #         Ok(())
    /// #     }
    /// # }
    /// # use consumer::testing::ConsumerTest;
    /// let mut test = ConsumerTest::sqlite(UserReadModel).await?;
    /// test.execute("CREATE TABLE users (id TEXT)").await?;
    /// test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
    /// let mut write = 1;
    /// while test.fail_at_write(write).await? {
    ///     write += 1;
    /// }
    /// test.when().await?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`TestError::Swallowed`] when the change failed and the consumer said nothing;
    /// [`TestError::Handler`] when it failed of something else.
    pub async fn fail_at_write(&mut self, write: u32) -> Result<bool, TestError> {
        let Some(batch) = self.next_batch() else {
            return Ok(false);
        };
        let mut savepoint = self.tx.begin().await?;
        DB::arm_fault(&mut savepoint, write).await?;
        let (_, outcome) = hand_over(&self.registered, &mut savepoint, &batch).await;
        let was_reached = DB::fault_was_reached(&mut savepoint, write).await;
        savepoint.rollback().await?;
        match (outcome, was_reached) {
            (Err((_, error)), _) if error.to_string().contains(FAULT) => Ok(true),
            (Err((handled, error)), _) => Err(self.failed(&batch, handled, error)),
            (Ok(_), Ok(false)) => Ok(false),
            // An error that was ignored leaves Postgres in a transaction that cannot be read.
            (Ok(_), _) => Err(TestError::Swallowed { write }),
        }
    }

    /// Empties the read model and hands everything over again with the next [`when`](Self::when),
    /// as a rebuild does; [`Context::is_replay`] holds for what was handled before.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # mod test {
    /// use consumer::prelude::*;
    /// use consumer::sqlx;
    /// use consumer::testing::ConsumerTest;
    ///
    /// #[derive(Default)]
    /// struct UserReadModel;
    ///
    /// #[consumer(name = "user_read_model", aggregates = ["User"])]
    /// impl UserReadModel {
    ///     async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result<(), sqlx::Error> {
    ///         sqlx::query("INSERT INTO users (id) VALUES (?1)").bind(&event.aggregate_id).execute(tx).await?;
    ///         Ok(())
    ///     }
    ///
    ///     #[on(reset)]
    ///     async fn empty(&self, tx: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    ///         sqlx::query("DELETE FROM users").execute(tx).await?;
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // #[tokio::test]
    /// let mut test = ConsumerTest::sqlite_scoped(UserReadModel).await?;
    /// test.execute("CREATE TABLE users (id TEXT PRIMARY KEY)").await?;
    /// test.given(NewEvent::new("User", "ada", "UserRegistered", "{}"));
    /// test.when().await?;
    /// test.reset().await?;
    /// let users = "SELECT count(*) FROM users";
    /// let left: i64 = sqlx::query_scalar(users).fetch_one(test.connection()).await?;
    /// assert_eq!(left, 0, "a row that stays would be in the way of the same one again");
    /// test.when().await?;
    /// let rebuilt: i64 = sqlx::query_scalar(users).fetch_one(test.connection()).await?;
    /// assert_eq!(rebuilt, 1);
    /// # Ok(())
    /// # }
    /// # }
    /// # #[cfg(feature = "sqlite")]
    /// # fn main() { test::main().unwrap() }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// [`TestError::Reset`] when the consumer cannot empty its read model.
    pub async fn reset(&mut self) -> Result<(), TestError> {
        let consumer = Arc::clone(&self.registered.consumer);
        if !consumer.can_reset() {
            return Err(TestError::Reset(
                "the consumer has no `#[on(reset)]`".into(),
            ));
        }
        let cx = self.context().with_replay(true);
        let emptied = consumer.reset(&cx, &mut self.tx).await;
        emptied.map_err(TestError::Reset)?;
        self.replay_to = self.replay_to.max(std::mem::take(&mut self.checkpoint));
        Ok(())
    }

    /// Everything up to here is handled.
    ///
    /// See [`given_all`](Self::given_all) for an example.
    #[must_use]
    pub fn checkpoint(&self) -> i64 {
        self.checkpoint
    }

    fn context(&self) -> Context {
        let declaration = &self.registered.declaration;
        Context::new(Arc::clone(&declaration.name))
            .with_version(declaration.version)
            .with_head(self.next_position - 1)
    }

    /// The next events of the scope, none of which reach over the end of a replay.
    fn next_batch(&mut self) -> Option<Batch> {
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
        let Some(first) = events.first() else {
            self.checkpoint = self.next_position - 1;
            return None;
        };
        let is_replay = first.global_position <= self.replay_to;
        if is_replay {
            let end = self.replay_to;
            events.retain(|event| event.global_position <= end);
        }
        let cx = self
            .context()
            .with_replay(is_replay)
            .with_attempt(self.attempt);
        Some(Batch {
            cx: Arc::new(cx),
            events: Arc::new(events),
        })
    }

    async fn attempt_and(
        &mut self,
        batch: &Batch,
        end: RunGuard,
    ) -> Result<(Arc<Context>, Outcome), TestError> {
        let mut savepoint = self.tx.begin().await?;
        let (cx, outcome) = hand_over(&self.registered, &mut savepoint, batch).await;
        let ended = match (&outcome, end) {
            (Ok(_), RunGuard::Commit) => savepoint.commit().await,
            _ => savepoint.rollback().await,
        };
        // A savepoint that is not there any more went with the transaction that the handler ended.
        ended.map_err(|error| TestError::EndedTransaction { error })?;
        Ok((cx, outcome))
    }

    /// The events before the failing one are handled again and stay, as a worker does it.
    async fn handle_first(&mut self, batch: &Batch, count: usize) -> Result<(), TestError> {
        if count == 0 {
            return Ok(());
        }
        let cx = self.context().with_replay(batch.cx.is_replay());
        let first = Batch {
            cx: Arc::new(cx),
            events: Arc::new(batch.events.iter().take(count).cloned().collect()),
        };
        let (cx, outcome) = self.attempt_and(&first, RunGuard::Commit).await?;
        match outcome {
            Ok(handled) => {
                self.move_past(&first, handled);
                run_effects(&cx).await;
                Ok(())
            }
            Err((handled, error)) => Err(self.failed(&first, handled, error)),
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

    fn failed(&mut self, batch: &Batch, handled: usize, error: HandlerError) -> TestError {
        self.attempt += 1;
        let event = batch.events.get(handled);
        TestError::Handler {
            position: event.map_or(0, |event| event.global_position),
            error,
        }
    }
}

/// What the consumer wanted to happen after the commit; a test is to see it panic.
async fn run_effects(cx: &Context) {
    for effect in cx.take_effects() {
        effect.await;
    }
}

/// Every minute an event, so that times are the same in every run.
fn time_of(position: i64) -> DateTime<Utc> {
    let minute = position.saturating_mul(60);
    DateTime::from_timestamp(minute, 0).unwrap_or(DateTime::UNIX_EPOCH)
}

/// What the error of a change says that a test made fail.
pub(crate) const FAULT: &str = "the test made this change fail";

/// How many events were handled, and what went wrong then.
type Outcome = Result<usize, (usize, HandlerError)>;

struct Batch {
    cx: Arc<Context>,
    events: Arc<Vec<PersistedEvent>>,
}

#[derive(Clone, Copy)]
enum RunGuard {
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
    let outcome = outcome.map_err(|error| (error.handled, error.error));
    (cx, outcome)
}
