//! What the rest of a program may ask of a running worker.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::backend::Backend;
use crate::backend::StoreError;
use crate::store::EventStore;
use crate::worker::progress::health::{Health, HealthProblem};
use crate::worker::progress::report::ConsumerReport;
use crate::worker::progress::state::ConsumerState;
use crate::worker::progress::{Cell, Ended, FrontierWait, LaneBoard};

/// A handle on a worker, to wait for it or to shut it down; cheap to clone.
///
/// See [`Worker::handle`](crate::Worker::handle) for an example.
pub struct WorkerHandle<DB: Backend> {
    pub(in crate::worker) store: EventStore<DB>,
    pub(in crate::worker) board: Arc<LaneBoard>,
    pub(in crate::worker) wake: Arc<Notify>,
    pub(in crate::worker) stop: watch::Sender<bool>,
    pub(in crate::worker) stall_after: Duration,
}

impl<DB: Backend> Clone for WorkerHandle<DB> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            board: Arc::clone(&self.board),
            wake: Arc::clone(&self.wake),
            stop: self.stop.clone(),
            stall_after: self.stall_after,
        }
    }
}

impl<DB: Backend> std::fmt::Debug for WorkerHandle<DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerHandle").finish_non_exhaustive()
    }
}

/// Why waiting for a consumer is in vain.
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
/// use consumer::{SqliteEventStore, WaitError, Worker};
///
/// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
/// # store.migrate().await?;
/// let worker = Worker::builder(store).consumer(Users).build()?;
/// let handle = worker.handle();
///
/// // A name that is misspelt does not wait for ever.
/// match handle.consumer_caught_up_to("user", 1).await {
///     Err(WaitError::Unknown { consumer }) => assert_eq!(consumer, "user"),
///     other => panic!("{other:?}"),
/// }
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The consumer does not run.
    #[error("consumer `{consumer}` will not get there: it is {state}")]
    NotRunning {
        /// The consumer.
        consumer: Arc<str>,
        /// What it is instead.
        state: ConsumerState,
    },
    /// The worker has no such consumer.
    #[error("the worker has no consumer `{consumer}`")]
    Unknown {
        /// The name that was asked for.
        consumer: String,
    },
    /// The worker has ended.
    #[error("the worker has ended{}, and nobody handles events here any more", because(.error.as_ref()))]
    Ended {
        /// What ended it, unless it was asked to.
        error: Option<String>,
    },
    /// The head of the log could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<DB: Backend> WorkerHandle<DB> {
    /// Waits until every consumer has handled all events in its scope up to a position, such as
    /// that of an event just appended: then what it writes can be read.
    ///
    /// A crash of the server that takes commits back, as one with `synchronous_commit = off` can,
    /// is only noticed at the next look at the log: until then a position of before the crash that
    /// is given out again counts as handled.
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
    /// use consumer::{ExpectedVersion, NewEvent, SqliteEventStore, Worker};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// # let worker = Worker::builder(store.clone()).consumer(Users).build()?;
    /// # let handle = worker.handle();
    /// # let running = tokio::spawn(worker.run(std::future::pending()));
    /// let event = NewEvent::new("User", "ada", "UserRegistered", "{}");
    /// let stored = store.append(ExpectedVersion::NoStream, &[event]).await?;
    /// handle.caught_up_to(stored[0].global_position).await?;
    /// # handle.shut_down();
    /// # running.await??;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// When a consumer is stopped, paused or has ended before that position.
    pub async fn caught_up_to(&self, position: i64) -> Result<(), WaitError> {
        self.wait(position, |_| true).await
    }

    /// Waits like [`caught_up_to`](Self::caught_up_to) for one consumer alone.
    ///
    /// See [`Worker::handle`](crate::Worker::handle) for an example.
    ///
    /// # Errors
    /// When there is no such consumer, or it is stopped, paused or has ended.
    pub async fn consumer_caught_up_to(
        &self,
        consumer: &str,
        position: i64,
    ) -> Result<(), WaitError> {
        let known = self.board.summaries();
        if !known.iter().any(|one| *one.consumer.name == *consumer) {
            return Err(WaitError::Unknown {
                consumer: consumer.to_owned(),
            });
        }
        self.wait(position, |name| name == consumer).await
    }

    /// Waits until every consumer has handled what is in the log now.
    ///
    /// In a test of a whole program it takes the place of every sleep:
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use consumer::{Consumer, Context, HandlerError, PersistedEvent, sqlx};
    /// # struct UserReadModel;
    /// # impl Consumer<sqlx::Sqlite> for UserReadModel {
    /// #     fn name(&self) -> &str { "users" }
    /// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
    /// # }
    /// use consumer::{ExpectedVersion, NewEvent, SqliteEventStore, Worker};
    ///
    /// let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// store.migrate().await?;
    /// let worker = Worker::builder(store.clone()).consumer(UserReadModel).build()?;
    /// let handle = worker.handle();
    /// let running = tokio::spawn(worker.run(std::future::pending()));
    ///
    /// let event = NewEvent::new("User", "ada", "UserRegistered", "{}");
    /// store.append(ExpectedVersion::NoStream, &[event]).await?;
    /// handle.caught_up().await?;
    /// // Now the read model can be looked at.
    ///
    /// handle.shut_down();
    /// let report = running.await??;
    /// assert_eq!(report.consumer("users").map(|users| users.events), Some(1));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// Like [`caught_up_to`](Self::caught_up_to), and when the log cannot be read.
    pub async fn caught_up(&self) -> Result<(), WaitError> {
        let store = self.store.clone();
        // A task of its own: whoever gives this wait up in the middle of the BEGIN would put a
        // connection back into the pool with a transaction open that nobody knows of.
        let head = tokio::spawn(async move {
            let mut tx = store.pool().begin_with(DB::BEGIN_READ).await?;
            let head = store.latest_global_position(&mut tx).await?;
            tx.commit().await?;
            Ok::<_, StoreError>(head)
        });
        let head = head
            .await
            .map_err(|_| StoreError::from(sqlx::Error::WorkerCrashed))??;
        self.caught_up_to(head).await
    }

    /// How the worker is, for liveness and readiness probes.
    ///
    /// It notices a worker that has stopped making progress, not only one that died: see
    /// [`WorkerBuilder::stall_after`](crate::WorkerBuilder::stall_after).
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
    /// use consumer::{ExpectedVersion, NewEvent, SqliteEventStore, Worker};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// # let event = [NewEvent::new("User", "ada", "UserRegistered", "{}")];
    /// # store.append(ExpectedVersion::Any, &event).await?;
    /// let worker = Worker::builder(store).consumer(Users).build()?;
    /// let handle = worker.handle();
    /// assert!(handle.health().is_live() && !handle.health().is_ready());
    ///
    /// let running = tokio::spawn(worker.run(std::future::pending()));
    /// handle.caught_up().await?;
    /// assert!(handle.health().is_ready(), "{}", handle.health());
    /// # handle.shut_down();
    /// # running.await??;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn health(&self) -> Health {
        if let Some(Ended { was_asked, error }) = self.board.end() {
            let problems = vec![HealthProblem::Ended { was_asked, error }];
            return Health { problems };
        }
        let mut problems = Vec::new();
        if *self.stop.borrow() {
            problems.push(HealthProblem::Ending);
        }
        let Some(beat) = self.board.last_beat() else {
            problems.push(HealthProblem::NotStarted);
            return Health { problems };
        };
        let since = beat.at.elapsed();
        if since > self.stall_after && !*self.stop.borrow() {
            problems.push(HealthProblem::Silent { since });
        }
        if let Some(error) = beat.trouble {
            problems.push(HealthProblem::Disconnected { error });
            return Health { problems };
        }
        for cell in self.board.cells() {
            problems.extend(self.lane_problem(&cell));
        }
        Health { problems }
    }

    fn lane_problem(&self, cell: &Cell) -> Option<HealthProblem> {
        let consumer = Arc::clone(&cell.key.consumer.name);
        match cell.state() {
            ConsumerState::Starting | ConsumerState::Waiting { .. } => {
                Some(HealthProblem::Waiting { consumer })
            }
            ConsumerState::Running | ConsumerState::Retrying { .. } => {
                let since = self.board.stalled(cell)?;
                Some(HealthProblem::Stalled { consumer, since })
            }
            ConsumerState::CaughtUp | ConsumerState::ShutDown => None,
            state => Some(HealthProblem::NotRunning { consumer, state }),
        }
    }

    /// Asks the worker to end, as the future given to `run` does.
    ///
    /// `run` returns when the batches in hand are finished; see [`caught_up`](Self::caught_up) for an
    /// example.
    pub fn shut_down(&self) {
        self.stop.send_replace(true);
    }

    /// What each consumer is doing, and how far it is.
    ///
    /// See [`Worker::handle`](crate::Worker::handle) for an example.
    #[must_use]
    pub fn consumers(&self) -> Vec<ConsumerReport> {
        self.board
            .summaries()
            .into_iter()
            .map(ConsumerReport::from)
            .collect()
    }

    /// Why the frontier has not moved for more than a second, when a gap keeps it.
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
    /// let handle = Worker::builder(store).consumer(Users).build()?.handle();
    /// if let Some(wait) = handle.frontier_wait() {
    ///     println!("nothing after {} for {:?}", wait.position, wait.waited);
    ///     for blocker in &wait.blockers {
    ///         println!("{blocker}");
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn frontier_wait(&self) -> Option<FrontierWait> {
        self.board.frontier_wait()
    }

    async fn wait(&self, position: i64, wanted: impl Fn(&str) -> bool) -> Result<(), WaitError> {
        self.wake.notify_one();
        let mut in_vain = None;
        self.board
            .until(|board| {
                let behind: Vec<_> = board
                    .summaries()
                    .into_iter()
                    .filter(|one| wanted(&one.consumer.name))
                    .filter(|one| one.position.is_none_or(|reached| reached < position))
                    .collect();
                in_vain = behind
                    .iter()
                    .find_map(|one| ended(&one.consumer.name, one.state.clone()))
                    .or_else(|| Some(WaitError::from(board.end()?)));
                behind.is_empty() || in_vain.is_some()
            })
            .await;
        in_vain.map_or(Ok(()), Err)
    }
}

impl From<Ended> for WaitError {
    fn from(end: Ended) -> Self {
        Self::Ended { error: end.error }
    }
}

fn because(error: Option<&String>) -> String {
    error.map_or_else(String::new, |error| format!(" ({error})"))
}

fn ended(consumer: &Arc<str>, state: ConsumerState) -> Option<WaitError> {
    match state {
        ConsumerState::Starting
        | ConsumerState::Running
        | ConsumerState::Retrying { .. }
        | ConsumerState::Waiting { .. } => None,
        state => Some(WaitError::NotRunning {
            consumer: Arc::clone(consumer),
            state,
        }),
    }
}
