//! The run of a worker: starts its tasks, opens its lanes, and ends them.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time;

use super::builder::WorkerBuilder;
use super::context::{Shared, Snapshot};
use super::error::WorkerError;
use super::lane::Lane;
use super::poller::assignment::{AssignedConsumer, Assignments, NewLane};
use super::poller::{Poller, idle, segments};
use super::progress::handle::WorkerHandle;
use super::progress::report::Report;
use super::run_guard::RunGuard;
use super::threads::Cores;
use crate::backend::{Backend, Observation, StoreError};
use crate::store::EventStore;

/// Runs consumers over the log of a store, until it is told to stop.
///
/// Any number of workers, in any number of processes, may run the same consumers: the row of a
/// consumer's checkpoint is locked by whoever handles a batch of it, and nothing else is agreed on.
///
/// ```no_run
/// # #[cfg(all(feature = "sqlite", feature = "auto-register"))]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use consumer::{SqliteEventStore, Worker, shutdown_signal};
///
/// let store = SqliteEventStore::connect("sqlite:app.db").await?;
/// store.migrate().await?;
/// let report = Worker::builder(store).discover().build()?.run(shutdown_signal()).await?;
/// println!("{report}");
/// # Ok(())
/// # }
/// ```
pub struct Worker<DB: Backend> {
    pub(super) shared: Arc<Shared<DB>>,
    pub(super) assignments: Assignments<DB>,
    pub(super) new_lanes: mpsc::UnboundedReceiver<NewLane<DB>>,
    pub(super) elsewhere: Vec<String>,
    pub(super) channels: Channels,
    pub(super) end: RunGuard,
}

/// The sending halves of what lanes listen to.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) frontier: watch::Sender<Observation>,
    pub(super) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(super) stop: watch::Sender<bool>,
}

impl<DB: Backend> Worker<DB> {
    /// Starts to put a worker together.
    ///
    /// See [`Worker`] for an example.
    #[must_use]
    pub fn builder(store: EventStore<DB>) -> WorkerBuilder<DB> {
        WorkerBuilder::new(store)
    }

    /// A handle to wait for the worker or to shut it down.
    ///
    /// Take it before [`run`](Self::run), which takes the worker:
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # mod example {
    /// # use consumer::{Consumer, Context, HandlerError, PersistedEvent, sqlx};
    /// # pub struct Log;
    /// # impl Consumer<sqlx::Sqlite> for Log {
    /// #     fn name(&self) -> &str { "log" }
    /// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
    /// # }
    /// use consumer::{ExpectedVersion, NewEvent, SqliteEventStore, Worker};
    ///
    /// # #[tokio::main]
    /// # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// let worker = Worker::builder(store.clone()).consumer(Log).build()?;
    /// let handle = worker.handle();
    /// let running = tokio::spawn(worker.run(std::future::pending()));
    ///
    /// // Read your own writes: append, wait for the consumer, query its read model.
    /// let event = NewEvent::new("User", "ada", "UserRegistered", "{}");
    /// let stored = store.append(ExpectedVersion::NoStream, &[event]).await?;
    /// handle.consumer_caught_up_to("log", stored[0].global_position).await?;
    ///
    /// // For a status page, and for probes.
    /// for consumer in handle.consumers() {
    ///     println!("{}: {}", consumer.name, consumer.state);
    /// }
    /// assert!(handle.health().is_live());
    /// handle.shut_down();
    /// let report = running.await??;
    /// assert!(!report.has_failures());
    /// # Ok(())
    /// # }
    /// # }
    /// # #[cfg(feature = "sqlite")]
    /// # fn main() { example::main().unwrap() }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn handle(&self) -> WorkerHandle<DB> {
        WorkerHandle {
            store: self.shared.store.clone(),
            board: Arc::clone(&self.shared.board),
            wake: Arc::clone(&self.shared.wake),
            stop: self.channels.stop.clone(),
            stall_after: self.shared.options.stall_after,
        }
    }

    /// Runs until `shutdown` resolves or the handle says so, and finishes the batches in hand.
    ///
    /// A consumer that stops, or is paused, does not end the worker: it can be resumed.
    ///
    /// See [`Worker`] for an example.
    ///
    /// # Errors
    /// When the database cannot be used at the start, the tables are missing, or the log is not
    /// one whose frontier can be known.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<Report, WorkerError> {
        // Boxed once a run: what waits for it should not be as large as all that it does.
        Box::pin(self.drive(shutdown, false)).await
    }

    /// Handles everything that is in the log at the time of the call, and returns.
    ///
    /// It waits for transactions that may still fill a gap below the head, and for checkpoints that
    /// another process has at hand. A consumer that stops ends there; the report tells.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # mod example {
    /// use consumer::{Consumer, Context, ExpectedVersion, HandlerError, NewEvent, PersistedEvent, SqliteEventStore, Worker, sqlx};
    ///
    /// struct Counter;
    ///
    /// impl Consumer<sqlx::Sqlite> for Counter {
    ///     fn name(&self) -> &str {
    ///         "counter"
    ///     }
    ///
    ///     async fn handle(&self, _cx: &Context, tx: &mut sqlx::SqliteConnection, _event: &PersistedEvent) -> Result<(), HandlerError> {
    ///         sqlx::query("UPDATE counter SET n = n + 1").execute(tx).await?;
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// # sqlx::raw_sql("CREATE TABLE counter (n INTEGER); INSERT INTO counter VALUES (0)").execute(store.pool()).await?;
    /// let events = [NewEvent::new("User", "ada", "UserRegistered", "{}")];
    /// store.append(ExpectedVersion::Any, &events).await?;
    ///
    /// let report = Worker::builder(store).consumer(Counter).build()?.run_once().await?;
    /// assert!(!report.has_failures(), "{report}");
    /// assert_eq!(report.consumer("counter").unwrap().position, Some(1));
    /// # Ok(())
    /// # }
    /// # }
    /// # #[cfg(feature = "sqlite")]
    /// # fn main() { example::main().unwrap() }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// Like [`run`](Self::run).
    pub async fn run_once(self) -> Result<Report, WorkerError> {
        Box::pin(self.drive(std::future::pending(), true)).await
    }

    async fn drive(
        mut self,
        shutdown: impl Future<Output = ()>,
        once: bool,
    ) -> Result<Report, WorkerError> {
        // Dropped last, when everything of the worker is gone.
        let mut end = self.end.take();
        let ended = self.work(shutdown, once, &mut end).await;
        end.note(&ended);
        ended
    }

    async fn work(
        self,
        shutdown: impl Future<Output = ()>,
        once: bool,
        end: &mut RunGuard,
    ) -> Result<Report, WorkerError> {
        let Self {
            shared,
            assignments,
            mut new_lanes,
            elsewhere,
            channels,
            end: _,
        } = self;
        shared.store.check().await.map_err(|error| match error {
            StoreError::Database(error) => WorkerError::Database(error),
            other => WorkerError::Store(other),
        })?;
        let consumers = assignments.consumers.clone();
        let (frontier, snapshot) = (channels.frontier, channels.snapshot);
        let mut poller =
            Poller::start(Arc::clone(&shared), assignments, frontier, snapshot).await?;
        let until = once.then(|| poller.seen().head);
        let rows = poller.enroll().await?;
        let detached = detached(&rows, &consumers, &elsewhere);
        let cores = shared
            .options
            .lanes_on_one_core
            .then(Cores::start)
            .flatten();
        if let Some(cores) = &cores {
            shared.connections.keep_on(cores.of_lanes().clone());
            shared.log.keep_on(cores.of_reader().clone());
        }
        let reader = cores.as_ref().and_then(Cores::reader).cloned();
        let reader = reader.unwrap_or_else(Handle::current);
        shared.log.prepare().await?;
        let mut helpers = JoinSet::new();
        helpers.spawn(segments::split_rows(Arc::clone(&shared), consumers));
        if let Some(url) = shared.options.listen.url() {
            helpers.spawn(DB::listen(
                shared.store.pool().clone(),
                url,
                Arc::clone(&shared.wake),
            ));
        }
        helpers.spawn(idle::watch(Arc::clone(&shared)));
        let mut poller = Aside(tokio::spawn(poller.run()));
        let mut lanes = JoinSet::new();
        let ended = tokio::select! {
            () = shutdown => None,
            () = shared.stopped() => None,
            () = open_lanes(&shared, &mut new_lanes, &mut lanes, (cores.as_ref(), &reader), until) => None,
            ended = &mut poller.0 => Some(ended),
        };
        // The poller also ends when the handle asked for the end.
        end.was_asked = ended.is_none() || shared.is_stopping();
        channels.stop.send_replace(true);
        helpers.shutdown().await;
        if time::timeout(shared.options.shutdown_deadline, drain(&mut lanes))
            .await
            .is_err()
        {
            tracing::warn!(
                "the shutdown deadline is over: what is not committed will be handled again"
            );
            let claimed = shared.connections.claimed();
            lanes.shutdown().await;
            shared.board.shut_down();
            shared.terminate(&claimed).await;
        }
        let ended = match ended {
            Some(ended) => Ok(ended),
            None => time::timeout(LAST_WORD, &mut poller.0).await,
        };
        if let Ok(ended) = ended {
            // The task neither panics nor is it aborted.
            let poller = ended.map_err(|_| WorkerError::Database(sqlx::Error::WorkerCrashed))??;
            leave(poller).await;
        }
        Ok(Report::of(&shared.board, detached))
    }
}

/// Opens lanes as there are rows for them, until all have ended.
async fn open_lanes<DB: Backend>(
    shared: &Arc<Shared<DB>>,
    new_lanes: &mut mpsc::UnboundedReceiver<NewLane<DB>>,
    lanes: &mut JoinSet<()>,
    (cores, reader): (Option<&Cores>, &Handle),
    until: Option<i64>,
) {
    loop {
        tokio::select! {
            biased;
            Some(new_lane) = new_lanes.recv() => {
                let writes = new_lane.consumer.registered.consumer.uses_transaction();
                let lane = Lane::new(Arc::clone(shared), reader.clone(), new_lane, until);
                match cores {
                    Some(cores) if writes => cores.spawn_lane(lanes, lane.run()),
                    _ => {
                        lanes.spawn(lane.run());
                    }
                }
            }
            Some(ended) = lanes.join_next() => tell_of_panic(ended),
            else => return,
        }
        if until.is_some() && lanes.is_empty() && new_lanes.is_empty() {
            return;
        }
    }
}

/// How long a worker that ends tries to save what only spares the next one some reading.
const LAST_WORD: Duration = Duration::from_secs(2);

async fn leave<DB: Backend>(poller: Poller<DB>) {
    let finished = time::timeout(LAST_WORD, poller.finish()).await;
    if !matches!(finished, Ok(Ok(()))) {
        tracing::warn!("checkpoints of consumers without new events were not moved along");
    }
}

/// A task that ends with its owner.
struct Aside<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Aside<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn drain(lanes: &mut JoinSet<()>) {
    while let Some(ended) = lanes.join_next().await {
        tell_of_panic(ended);
    }
}

fn tell_of_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a lane ended by a panic");
    }
}

/// Names of checkpoints that no consumer of this program belongs to.
fn detached<DB: Backend>(
    snapshot: &Snapshot,
    consumers: &[Arc<AssignedConsumer<DB>>],
    elsewhere: &[String],
) -> Vec<String> {
    let mut names: Vec<String> = snapshot
        .rows
        .keys()
        .map(|key| key.consumer.name.to_string())
        .filter(|name| !elsewhere.contains(name))
        .filter(|name| {
            !consumers
                .iter()
                .any(|consumer| *consumer.enrolment.consumer.name == **name)
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in &names {
        tracing::warn!(
            consumer = %name,
            "checkpoint is detached: no consumer of that name is in this program. Was it renamed? Is its crate named in `consumers![…]`?"
        );
    }
    names
}

impl<DB: Backend> std::fmt::Debug for Shared<DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<DB: Backend> std::fmt::Debug for Worker<DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}
