//! The view that the rest of a program has of a running worker.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time;

use crate::backend::{Backend, ConsumerId, Incarnation, Observation, StoreError, acquire};
use crate::store::EventStore;
use crate::worker::progress::health::{Health, HealthProblem};
use crate::worker::progress::lane::LaneProgress;
use crate::worker::progress::report::ConsumerReport;
use crate::worker::progress::state::ConsumerState;
use crate::worker::progress::worker::{FrontierWait, RunEnd, WorkerProgress};
use crate::worker::timeouts::after;

/// How long other servers may answer instead of the one that the worker reads from, which may be
/// restarting.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause after such an answer.
const HEAD_PAUSE: Duration = Duration::from_millis(50);

/// Waits for a worker, observes it, or shuts it down; from
/// [`Worker::handle`](crate::Worker::handle), and cheap to clone.
pub struct WorkerHandle<DB: Backend> {
    pub(in crate::worker) store: EventStore<DB>,
    /// The store with the schemas of its tables, once the worker runs.
    pub(in crate::worker) located: Arc<OnceLock<EventStore<DB>>>,
    pub(in crate::worker) progress: Arc<WorkerProgress>,
    pub(in crate::worker) frontier: watch::Receiver<Observation>,
    pub(in crate::worker) wake: Arc<Notify>,
    pub(in crate::worker) stop: watch::Sender<bool>,
    pub(in crate::worker) stall_after: Duration,
}

impl<DB: Backend> Clone for WorkerHandle<DB> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            located: Arc::clone(&self.located),
            progress: Arc::clone(&self.progress),
            frontier: self.frontier.clone(),
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

/// Why a consumer will not catch up.
///
/// ```
/// # consumer::__doc::run(async |store| { use consumer::__doc::Users;
/// use consumer::{WaitError, Worker};
///
/// let worker = Worker::builder(store).consumer(Users).build()?;
///
/// // A misspelt name is an error at once.
/// match worker.handle().consumer_caught_up_to("user", 1).await {
///     Err(WaitError::Unknown { consumer }) => assert_eq!(consumer, "user"),
///     other => panic!("{other:?}"),
/// }
/// # Ok(()) }).unwrap();
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The consumer does not run.
    #[error("consumer `{consumer}` will not catch up: it is {state}")]
    NotRunning {
        /// The consumer.
        consumer: ConsumerId,
        /// Its state.
        state: ConsumerState,
    },
    /// The worker has no such consumer.
    #[error("the worker has no consumer `{consumer}`")]
    Unknown {
        /// The name that was asked for.
        consumer: String,
    },
    /// The worker has ended.
    #[error("the worker has ended{}, and handles no more events", in_parentheses(.error.as_deref()))]
    Ended {
        /// The error that ended it; `None` if it was asked to end.
        error: Option<String>,
    },
    /// The head of the log could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<DB: Backend> WorkerHandle<DB> {
    /// Waits until every consumer has handled all events in its scope up to a position, such as
    /// that of an event just appended: then its effects can be read.
    ///
    /// A crash of the server that takes commits back, which `synchronous_commit = off` allows, is
    /// noticed at the next poll of the log. Until then, a position from before the crash that is
    /// assigned again counts as handled.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| { use consumer::__doc::{Users, register};
    /// let worker = consumer::Worker::builder(store.clone()).consumer(Users).build()?;
    /// let handle = worker.handle();
    /// let running = tokio::spawn(worker.run(std::future::pending()));
    /// let event = register(&store, "ada").await?;
    /// handle.caught_up_to(event.global_position).await?;
    /// # handle.shut_down(); running.await??; Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`WaitError`] if a consumer is stopped, paused or has ended before that position.
    pub async fn caught_up_to(&self, position: i64) -> Result<(), WaitError> {
        self.wait(position, |_| true).await
    }

    /// Waits like [`caught_up_to`](Self::caught_up_to) for one consumer.
    ///
    /// # Errors
    /// [`WaitError`] if there is no such consumer, or it is stopped, paused or has ended.
    pub async fn consumer_caught_up_to(
        &self,
        consumer: &str,
        position: i64,
    ) -> Result<(), WaitError> {
        let known = self.progress.consumers();
        if !known.iter().any(|one| *one.id.name == *consumer) {
            return Err(WaitError::Unknown {
                consumer: consumer.to_owned(),
            });
        }
        self.wait(position, |name| name == consumer).await
    }

    /// Waits until every consumer has handled what is in the log now.
    ///
    /// In the test of a whole program it replaces every sleep:
    ///
    /// ```
    /// # consumer::__doc::run(async |store| { use consumer::__doc::{Users, register};
    /// let worker = consumer::Worker::builder(store.clone()).consumer(Users).build()?;
    /// let handle = worker.handle();
    /// let running = tokio::spawn(worker.run(std::future::pending()));
    ///
    /// register(&store, "ada").await?;
    /// handle.caught_up().await?;
    /// // The read model can be queried now.
    ///
    /// handle.shut_down();
    /// let report = running.await??;
    /// assert_eq!(report.consumer("users").map(|users| users.events), Some(1));
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Those of [`caught_up_to`](Self::caught_up_to), and [`WaitError::Store`] if the log cannot be
    /// read.
    pub async fn caught_up(&self) -> Result<(), WaitError> {
        loop {
            let (head, incarnation) = self.head().await?;
            self.caught_up_to(head).await?;
            // Before its first poll it was unknown which server the worker reads from.
            if self.frontier.borrow().incarnation == incarnation {
                return Ok(());
            }
        }
    }

    /// The head on the server that the worker reads from. A connection of the pool may lead to another one,
    /// such as a standby that lags behind.
    async fn head(&self) -> Result<(i64, Incarnation), StoreError> {
        let until = after(HEAD_TIMEOUT);
        loop {
            let head = self.try_head().await;
            if !is_of_another_server(&head) || Instant::now() >= until {
                return head;
            }
            time::sleep(HEAD_PAUSE).await;
        }
    }

    async fn try_head(&self) -> Result<(i64, Incarnation), StoreError> {
        let store = self.located.get().unwrap_or(&self.store);
        let mut connection = acquire(store.pool()).await?;
        let incarnation = self.frontier.borrow().incarnation;
        let head = store.settled_head(&mut connection, incarnation).await;
        if head.is_err() {
            // It would come from the pool again.
            connection.close_on_drop();
        }
        head
    }

    /// Returns whether the worker is live and ready, for probes.
    ///
    /// It detects a worker that makes no progress, not only one that has died: see
    /// [`WorkerBuilder::stall_after`](crate::WorkerBuilder::stall_after).
    ///
    /// ```
    /// # consumer::__doc::run(async |store| { use consumer::__doc::{Users, register};
    /// let worker = consumer::Worker::builder(store.clone()).consumer(Users).build()?;
    /// let handle = worker.handle();
    /// assert!(handle.health().is_live() && !handle.health().is_ready());
    ///
    /// let running = tokio::spawn(worker.run(std::future::pending()));
    /// register(&store, "ada").await?;
    /// handle.caught_up().await?;
    /// assert!(handle.health().is_ready(), "{}", handle.health());
    /// # handle.shut_down(); running.await??; Ok(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn health(&self) -> Health {
        let mut problems = Vec::new();
        if let Some(RunEnd { was_asked, error }) = self.progress.end() {
            problems.push(HealthProblem::Ended { was_asked, error });
            return Health { problems };
        }
        let is_ending = *self.stop.borrow();
        if is_ending {
            problems.push(HealthProblem::Ending);
        }
        let Some(poll) = self.progress.last_poll() else {
            problems.push(HealthProblem::NotStarted);
            return Health { problems };
        };
        let since = poll.at.elapsed();
        if since > self.stall_after && !is_ending {
            problems.push(HealthProblem::Silent { since });
        }
        let panics = self.progress.task_panics().into_iter();
        problems.extend(panics.map(|panic| HealthProblem::TaskPanicked {
            task: panic.task,
            since: panic.at.elapsed(),
            error: panic.error,
        }));
        match poll.error {
            Some(error) => problems.push(HealthProblem::Disconnected { error }),
            None => {
                let blocked = self.progress.blocked_frontier();
                problems.extend(blocked.map(HealthProblem::FrontierBlocked));
                let lanes = self.progress.lanes();
                problems.extend(lanes.iter().filter_map(|lane| self.lane_problem(lane)));
                let held_back = self.progress.held_back_without_lanes();
                problems.extend(
                    held_back
                        .into_iter()
                        .map(|held_back| HealthProblem::NotRunning {
                            consumer: held_back.consumer.clone(),
                            state: ConsumerState::HeldBack(held_back),
                        }),
                );
            }
        }
        Health { problems }
    }

    fn lane_problem(&self, lane: &LaneProgress) -> Option<HealthProblem> {
        let consumer = lane.key.consumer.clone();
        match lane.state() {
            ConsumerState::Starting | ConsumerState::Waiting { .. } => {
                Some(HealthProblem::Waiting { consumer })
            }
            ConsumerState::Running | ConsumerState::Retrying { .. } => {
                let since = self.progress.stalled_for(lane)?;
                Some(HealthProblem::Stalled { consumer, since })
            }
            state @ ConsumerState::WaitingForMerge { .. } => {
                self.progress.stalled_for(lane)?;
                Some(HealthProblem::NotRunning { consumer, state })
            }
            ConsumerState::Panicked { error } => Some(HealthProblem::Panicked { consumer, error }),
            ConsumerState::CaughtUp | ConsumerState::ShutDown => None,
            state => Some(HealthProblem::NotRunning { consumer, state }),
        }
    }

    /// Asks the worker to end, like the future passed to [`Worker::run`](crate::Worker::run).
    ///
    /// `run` returns once the batches in progress are finished.
    pub fn shut_down(&self) {
        self.stop.send_replace(true);
    }

    /// Returns what each consumer is doing and how far it is, as in the example of
    /// [`Worker::handle`](crate::Worker::handle).
    #[must_use]
    pub fn consumers(&self) -> Vec<ConsumerReport> {
        self.progress.consumers()
    }

    /// Returns why the frontier has not advanced for more than a second, if it waits at a gap.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| { use consumer::__doc::Users;
    /// let handle = consumer::Worker::builder(store).consumer(Users).build()?.handle();
    /// if let Some(wait) = handle.frontier_wait() {
    ///     println!("nothing after {} for {:?}", wait.position, wait.waited);
    ///     for blocker in &wait.blockers {
    ///         println!("{blocker}");
    ///     }
    /// }
    /// # Ok(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn frontier_wait(&self) -> Option<FrontierWait> {
        self.progress.frontier_wait()
    }

    async fn wait(&self, position: i64, wanted: impl Fn(&str) -> bool) -> Result<(), WaitError> {
        self.wake.notify_one();
        let mut failure = None;
        self.progress
            .until(|progress| {
                let behind: Vec<_> = progress
                    .consumers()
                    .into_iter()
                    .filter(|one| wanted(&one.id.name))
                    .filter(|one| one.position.is_none_or(|reached| reached < position))
                    .collect();
                let is_caught_up = behind.is_empty();
                failure = behind
                    .into_iter()
                    .find(|one| !one.state.is_active())
                    .map(|one| match progress.fatal_error() {
                        Some(error) if one.state == ConsumerState::ShutDown => {
                            WaitError::Ended { error: Some(error) }
                        }
                        _ => WaitError::NotRunning {
                            consumer: one.id,
                            state: one.state,
                        },
                    })
                    .or_else(|| {
                        Some(WaitError::Ended {
                            error: progress.end()?.error,
                        })
                    });
                is_caught_up || failure.is_some()
            })
            .await;
        failure.map_or(Ok(()), Err)
    }
}

/// Whether another server may have answered, or the connection was lost.
fn is_of_another_server<T>(answer: &Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Database(error)) if matches!(**error, sqlx::Error::Io(_)))
}

fn in_parentheses(error: Option<&str>) -> String {
    error.map_or_else(String::new, |error| format!(" ({error})"))
}
