//! What an operator does with consumers: looks, pauses, resumes, rebuilds, retries, forgets.
//!
//! Every verb is a method of [`Admin`], with an example there. The feature `cli` has the same verbs
//! for a command line.

#[cfg(feature = "cli")]
pub(crate) mod choice;
mod error;
mod options;
mod parked;
mod rebuild;
mod status;
mod versions;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Connection as _, SqlSafeStr as _, Transaction};
use tokio::sync::{Mutex, watch};

pub use self::error::AdminError;
pub use self::options::{RebuildOptions, Target};
pub use self::parked::{ParkedEvent, Retried};
pub use self::rebuild::{RebuildProgress, RebuildWatch, Rebuilt};
pub use self::status::{ConsumerState, ConsumerStatus, Failing, FrontierStatus, Lag, Status};
use crate::backend::{
    Backend, ConsumerId, Lock, Row, State, StoreError, Taken, TransactionGuard as _,
};
use crate::contract::Context;
use crate::registry::Registered;
use crate::store::EventStore;
use crate::worker::connections::{Connections, Parts, Shares};
use crate::worker::lane::attempt::run_effects;
use crate::worker::poller::assignment::{AssignedConsumer, scope_text};
use crate::worker::{BuildError, WorkerBuilder, merge_segments};

/// How long a verb that changes nothing but the row waits for the batch in hand.
const PATIENCE: Duration = Duration::from_secs(30);

/// An operator's view of a store's consumers, and the verbs that change them.
///
/// It needs no running worker and disturbs none: what a verb changes, it changes under the same row
/// lock under which a worker saves a batch. Verbs that call a consumer's code (rebuild, retry) want
/// that consumer in the program; make it then from a worker's builder.
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use consumer::SqliteEventStore;
/// use consumer::admin::Admin;
///
/// let store = SqliteEventStore::connect("sqlite::memory:").await?;
/// store.migrate().await?;
/// let status = Admin::new(store).status().await?;
/// assert!(status.consumers.is_empty());
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
pub struct Admin<DB: Backend> {
    store: EventStore<DB>,
    sql: DB::OperateStatements,
    connections: Arc<Connections<DB>>,
    code: Vec<Registered<DB>>,
    /// Whether `code` is all that the program has, so that what is not in it is detached.
    knows_code: bool,
    /// Names of consumers of this program that run elsewhere.
    elsewhere: Vec<String>,
    /// Never asks a handler to stop.
    stop: watch::Sender<bool>,
    watch: Mutex<Option<DB::Watch>>,
}

impl<DB: Backend> fmt::Debug for Admin<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("store", &self.store)
            .field("code", &self.code)
            .finish_non_exhaustive()
    }
}

impl<DB: Backend> WorkerBuilder<DB> {
    /// An operator's view of the consumers of this worker.
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
    /// use consumer::{SqliteEventStore, Worker};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// let admin = Worker::builder(store).consumer(Users).admin()?;
    ///
    /// // It knows consumers that no worker ever ran.
    /// assert!(admin.status().await?.consumer("users").is_some());
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// When the consumers do not fit together.
    pub fn admin(mut self) -> Result<Admin<DB>, BuildError> {
        self.resolve()?;
        Ok(Admin::of(&self))
    }
}

impl<DB: Backend> Admin<DB> {
    /// An operator without any consumer's code: enough to look, pause, resume, skip and forget.
    ///
    /// See [`Admin`] for an example.
    #[must_use]
    pub fn new(store: EventStore<DB>) -> Self {
        Self {
            sql: DB::operate_statements(store.settings()),
            connections: Arc::new(Connections::new(store.clone(), Shares::ONE)),
            store,
            code: Vec::new(),
            knows_code: false,
            elsewhere: Vec::new(),
            stop: watch::channel(false).0,
            watch: Mutex::new(None),
        }
    }

    /// An operator of the consumers that the builder has resolved.
    pub(crate) fn of(builder: &WorkerBuilder<DB>) -> Self {
        let mut admin = Self::new(builder.store().clone());
        admin.code = builder.consumers().to_vec();
        admin.elsewhere = builder.elsewhere().to_vec();
        admin.knows_code = true;
        admin
    }

    /// The store that this operates on.
    ///
    /// It is for what goes with a verb, such as a look at your own tables through `admin.store().pool()`.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use consumer::sqlx;
    /// use consumer::SqliteEventStore;
    /// use consumer::admin::Admin;
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// # sqlx::query("CREATE TABLE users (id TEXT PRIMARY KEY)").execute(store.pool()).await?;
    /// let admin = Admin::new(store);
    /// // Before a rebuild: how much there is to be emptied.
    /// let count = sqlx::query_scalar("SELECT count(*) FROM users");
    /// let users: i64 = count.fetch_one(admin.store().pool()).await?;
    /// assert_eq!(users, 0);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn store(&self) -> &EventStore<DB> {
        &self.store
    }

    /// Keeps a consumer from starting another batch, in all processes, until it is resumed.
    ///
    /// The batch in hand is finished first. A consumer of this program that no worker ever ran gets its
    /// checkpoint, so that it does not begin.
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
    /// use consumer::admin::ConsumerState;
    /// use consumer::{SqliteEventStore, Worker};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// let admin = Worker::builder(store).consumer(Users).admin()?;
    /// admin.pause("users").await?;
    /// assert_eq!(admin.status().await?.consumers[0].state, ConsumerState::Paused);
    ///
    /// admin.resume("users").await?;
    /// assert_eq!(admin.status().await?.consumers[0].state, ConsumerState::Running);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// When there is no such checkpoint, or the batch in hand takes longer than 30 s.
    pub async fn pause(&self, consumer: impl Into<Target>) -> Result<(), AdminError> {
        let of = self.find_or_enroll(consumer.into()).await?;
        self.set_state(&of, State::Paused).await
    }

    /// Lets a paused or stopped consumer go on, with all its attempts before it; its last error is
    /// forgotten.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::sync::atomic::{AtomicBool, Ordering};
    /// # use consumer::{Consumer, Context, HandlerError, OnError, PersistedEvent, Settings, sqlx};
    /// # static BROKEN: AtomicBool = AtomicBool::new(true);
    /// # struct Users;
    /// # impl Consumer<sqlx::Sqlite> for Users {
    /// #     fn name(&self) -> &str { "users" }
    /// #     fn settings(&self) -> Settings { Settings::default().retries(0).on_error(OnError::Stop) }
    /// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> {
    /// #         if BROKEN.load(Ordering::Relaxed) { Err("no such tariff".into()) } else { Ok(()) }
    /// #     }
    /// # }
    /// use consumer::admin::ConsumerState;
    /// use consumer::{ExpectedVersion, NewEvent, SqliteEventStore, Worker};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// # let event = [NewEvent::new("User", "ada", "UserRegistered", "{}")];
    /// # store.append(ExpectedVersion::Any, &event).await?;
    /// # Worker::builder(store.clone()).consumer(Users).build()?.run_once().await?;
    /// let admin = Worker::builder(store.clone()).consumer(Users).admin()?;
    /// let status = admin.status().await?;
    /// let users = status.consumer("users").unwrap();
    /// assert_eq!(users.state, ConsumerState::Stopped);
    /// let failing = users.failing.as_ref().unwrap();
    /// assert_eq!(failing.position, Some(1));
    /// assert!(failing.error.contains("no such tariff"));
    ///
    /// // Once the tariff is there:
    /// admin.resume("users").await?;
    /// assert_eq!(admin.status().await?.consumers[0].failing, None);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// When there is no such checkpoint, or the batch in hand takes longer than 30 s.
    pub async fn resume(&self, consumer: impl Into<Target>) -> Result<(), AdminError> {
        let of = self.find(consumer.into()).await?;
        self.set_state(&of, State::Running).await
    }

    /// Takes the scope that the code has for the one that the checkpoint was reached with.
    ///
    /// Events of a type that is new in the scope are handled from the checkpoint on only; a rebuild
    /// handles all of them.
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
    /// use consumer::admin::ConsumerState;
    /// use consumer::{Registered, SqliteEventStore, Worker};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// let mut users = Registered::new(Users);
    /// users.declaration.scope = vec!["User".into()];
    /// Worker::builder(store.clone()).registered(users.clone()).build()?.run_once().await?;
    ///
    /// // The next release wants one type more.
    /// users.declaration.scope.push("Order".into());
    /// let admin = Worker::builder(store).registered(users).admin()?;
    /// assert_eq!(admin.status().await?.consumers[0].state, ConsumerState::ScopeChanged);
    /// admin.accept_scope("users").await?;
    /// assert_eq!(admin.status().await?.consumers[0].scope, ["Order", "User"]);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// When there is no such checkpoint, its code is not in this program, or the batch in hand
    /// takes longer than 30 s.
    pub async fn accept_scope(&self, consumer: impl Into<Target>) -> Result<(), AdminError> {
        let of = self.find(consumer.into()).await?;
        let scope = scope_text(&self.code_of(&of)?.declaration.scope);
        let mut tx = self.locked(&of, PATIENCE).await?;
        DB::set_scope(&self.sql, &mut tx, &of, &scope).await?;
        Ok(tx.commit().await?)
    }

    /// Brings a consumer down to a number of segments and says how many there are then; see
    /// [`merge_segments`]. Workers have to run it meanwhile, set to no more segments than that; it
    /// can be given up at any time.
    ///
    /// ```no_run
    /// # #[cfg(feature = "sqlite")]
    /// # async fn example(admin: consumer::admin::Admin<consumer::sqlx::Sqlite>) -> Result<(), consumer::admin::AdminError> {
    /// // The workers have been started again with `segments = 1`; their rows are still four.
    /// let segments = admin.merge_segments("users", 1).await?;
    /// assert_eq!(segments, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When there is no such checkpoint, or what the database says.
    pub async fn merge_segments(
        &self,
        consumer: impl Into<Target>,
        segments: u32,
    ) -> Result<usize, AdminError> {
        let of = self.find(consumer.into()).await?;
        merge_segments(&self.store, &of.name, of.version, segments).await?;
        let rows = self.rows().await?;
        Ok(rows.iter().filter(|row| of_row(row) == of).count())
    }

    async fn set_state(&self, of: &ConsumerId, state: State) -> Result<(), AdminError> {
        let mut tx = self.locked(of, PATIENCE).await?;
        DB::set_state(&self.sql, &mut tx, of, state).await?;
        Ok(tx.commit().await?)
    }

    /// Finds which rows are meant.
    async fn find(&self, target: Target) -> Result<ConsumerId, AdminError> {
        let rows = self.rows().await?;
        let mut versions: Vec<ConsumerId> = rows.iter().map(of_row).collect();
        versions.dedup();
        let mut matching: Vec<ConsumerId> = versions
            .iter()
            .filter(|of| *of.name == *target.consumer)
            .filter(|of| target.version.is_none_or(|version| of.version == version))
            .cloned()
            .collect();
        match (matching.pop(), matching.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                matching.push(last);
                let versions = matching.iter().map(|of| of.version.to_string());
                Err(AdminError::SeveralVersions {
                    consumer: target.consumer,
                    versions: versions.collect::<Vec<_>>().join(", "),
                })
            }
            (None, _) => Err(self.never_ran(target, &versions)),
        }
    }

    /// Why there are no rows of that name.
    fn never_ran(&self, target: Target, known: &[ConsumerId]) -> AdminError {
        let mut declared = self.code.iter().map(|one| &one.declaration);
        match declared.find(|declaration| target.means(declaration)) {
            Some(declaration) => AdminError::NeverRan {
                consumer: Arc::clone(&declaration.name),
                version: declaration.version,
            },
            None => unknown(target, known),
        }
    }

    /// Finds which rows are meant, and makes those of a consumer that no worker ever ran.
    async fn find_or_enroll(&self, target: Target) -> Result<ConsumerId, AdminError> {
        let (consumer, version) = match self.find(target).await {
            Err(AdminError::NeverRan { consumer, version }) => (consumer, version),
            found => return found,
        };
        let of = ConsumerId {
            name: consumer,
            version,
        };
        let consumer = AssignedConsumer::new(self.code_of(&of)?.clone());
        let settled = self.frontier().await?.settled;
        let mut connection = self.store.pool().acquire().await?;
        let statements = DB::checkpoint_statements(self.store.settings());
        let enrolled =
            DB::enroll(&statements, &mut connection, &[consumer.enrolment], settled).await;
        enrolled.map_err(|error| held_or(error, &of, DB::is_held))?;
        Ok(of)
    }

    async fn rows(&self) -> Result<Vec<Row>, AdminError> {
        let mut connection = self.look().await?;
        Ok(DB::rows(&self.sql, &mut connection).await?)
    }

    /// A transaction to look in: behind a pooler, one statement may be two exchanges.
    async fn look(&self) -> Result<Transaction<'static, DB>, AdminError> {
        let begin = DB::BEGIN_READ.into_sql_str();
        Ok(self.store.pool().begin_with(begin).await?)
    }

    fn code_of(&self, of: &ConsumerId) -> Result<&Registered<DB>, AdminError> {
        let version = of.version;
        self.code
            .iter()
            .find(|one| *one.declaration.name == *of.name && one.declaration.version == version)
            .ok_or_else(|| AdminError::NoCode {
                consumer: Arc::clone(&of.name),
                version,
            })
    }

    /// Begins a transaction that writes, once nobody else has the rows, and locks them in it.
    async fn locked(
        &self,
        of: &ConsumerId,
        wait: Duration,
    ) -> Result<Transaction<'static, DB>, AdminError> {
        let until = Instant::now() + wait;
        loop {
            let begun = match self.begin(of).await {
                Ok(mut tx) => self.lock(&mut tx, of, left(until)).await.map(|_| tx),
                Err(error) => Err(error),
            };
            match begun {
                Err(AdminError::Held { .. }) if Instant::now() < until => pause().await,
                done => return done,
            }
        }
    }

    /// Begins a transaction that writes; one that others keep from it is held.
    async fn begin(&self, of: &ConsumerId) -> Result<Transaction<'static, DB>, AdminError> {
        self.store.begin().await.map_err(|error| match error {
            StoreError::Database(error) => held_or(error, of, DB::is_held),
            error => error.into(),
        })
    }

    /// Locks the rows for the rest of a transaction, and says which transaction that is.
    async fn lock(
        &self,
        tx: &mut Transaction<'_, DB>,
        of: &ConsumerId,
        wait: Duration,
    ) -> Result<Taken, AdminError> {
        match DB::lock(&self.sql, tx, of, wait).await {
            Ok(Lock::Taken(taken)) => Ok(taken),
            Ok(Lock::Missing) => Err(unknown(Target::new(&*of.name).version(of.version), &[])),
            Err(error) => Err(held_or(error, of, DB::is_held)),
        }
    }

    /// Calls a consumer's code in a transaction that holds the lock of its rows, commits, and runs
    /// what the code wanted to happen after that. When the code fails, or ends the transaction itself
    /// (R4), nothing of it stays.
    async fn under_lock<W: Work<DB>>(
        &self,
        of: &ConsumerId,
        wait: Duration,
        work: W,
    ) -> Result<W::Output, AdminError> {
        let until = Instant::now() + wait;
        loop {
            match self.once_under_lock(of, left(until), &work).await {
                Err(AdminError::Held { .. }) if Instant::now() < until => pause().await,
                done => return done,
            }
        }
    }

    async fn once_under_lock<W: Work<DB>>(
        &self,
        of: &ConsumerId,
        wait: Duration,
        work: &W,
    ) -> Result<W::Output, AdminError> {
        let mut lease = self.connections.writer().await?;
        let Parts {
            connection,
            guard,
            ended_well,
            ..
        } = lease.begin()?;
        let begun = connection.begin_with(DB::BEGIN_BATCH.into_sql_str()).await;
        let mut tx = begun.map_err(|error| held_or(error, of, DB::is_held))?;
        let taken = match self.lock(&mut tx, of, wait).await {
            Ok(taken) => taken,
            Err(error) => {
                *ended_well = tx.rollback().await.is_ok();
                return Err(error);
            }
        };
        DB::arm(&self.sql, &mut tx, of).await?;
        let mut effects = Effects::default();
        guard.allow_end(false);
        let outcome = work.run(&mut tx, &mut effects).await;
        let ended = || AdminError::EndedTransaction {
            consumer: Arc::clone(&of.name),
        };
        let violation = guard.violation();
        guard.allow_end(true);
        if violation.is_some() {
            return Err(ended());
        }
        let value = match outcome {
            Ok(value) => value,
            Err(Failed::InOrder(error)) => {
                *ended_well = tx.rollback().await.is_ok();
                return Err(error);
            }
            Err(Failed::GivenUp(error)) => {
                // Dropping the future does not end the statement, which would keep the rows locked.
                guard.give_up();
                let mut connection = self.store.pool().acquire().await?;
                DB::end_backend(&self.sql, &mut connection, &taken).await?;
                return Err(error);
            }
        };
        if !DB::release(&self.sql, &mut tx, &taken).await? {
            return Err(ended());
        }
        tx.commit().await?;
        *ended_well = true;
        drop(lease);
        effects.run().await;
        Ok(value)
    }
}

/// How long until then.
fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// Lets others have the database, before it is tried again.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(25)).await;
}

/// What a consumer's code wanted to happen after the commit.
#[derive(Default)]
struct Effects(Vec<Arc<Context>>);

impl Effects {
    fn of(&mut self, cx: &Arc<Context>) {
        self.0.push(Arc::clone(cx));
    }

    async fn run(self) {
        for cx in self.0 {
            run_effects(&cx).await;
        }
    }
}

/// How a consumer's code failed in a transaction.
enum Failed {
    /// The transaction can be rolled back.
    InOrder(AdminError),
    /// The code was given up in the middle of something.
    GivenUp(AdminError),
}

impl<E: Into<AdminError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::InOrder(error.into())
    }
}

fn context(of: &ConsumerId) -> Context {
    Context::new(Arc::clone(&of.name)).with_version(of.version)
}

/// What is to be done while the rows of a consumer are locked.
trait Work<DB: Backend>: Send + Sync {
    type Output: Send;

    fn run(
        &self,
        tx: &mut Transaction<'_, DB>,
        effects: &mut Effects,
    ) -> impl Future<Output = Result<Self::Output, Failed>> + Send;
}

fn held_or(error: sqlx::Error, of: &ConsumerId, is_held: fn(&sqlx::Error) -> bool) -> AdminError {
    if is_held(&error) {
        AdminError::Held {
            consumer: Arc::clone(&of.name),
        }
    } else {
        error.into()
    }
}

fn of_row(row: &Row) -> ConsumerId {
    row.checkpoint.key.consumer.clone()
}

fn unknown(target: Target, known: &[ConsumerId]) -> AdminError {
    let same_name = known.iter().filter(|of| *of.name == *target.consumer);
    let versions: Vec<String> = same_name.map(|of| of.version.to_string()).collect();
    if let Some(version) = target.version
        && !versions.is_empty()
    {
        return AdminError::UnknownVersion {
            consumer: target.consumer,
            version,
            known: versions.join(", "),
        };
    }
    let mut names: Vec<&str> = known.iter().map(|of| &*of.name).collect();
    names.dedup();
    AdminError::Unknown {
        consumer: target.consumer,
        known: if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        },
    }
}
