//! Runs a worker: starts its tasks, opens its lanes, and ends them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{self, JoinError, JoinHandle, JoinSet};
use tokio::time;

use crate::backend::{Access, Backend, HeldBack, Observation, StoreError, begin, clock_is_paused};
use crate::worker::context::Shared;
use crate::worker::error::WorkerError;
use crate::worker::lane::Lane;
use crate::worker::lane::backoff::delay;
use crate::worker::lane::handler::panic_message;
use crate::worker::panics::{self, restarting};
use crate::worker::poller::assignment::{LaneAssigner, NewLane, WorkerConsumer};
use crate::worker::poller::snapshot::Snapshot;
use crate::worker::poller::{Poller, held_back, idle, segments};
use crate::worker::progress::handle::WorkerHandle;
use crate::worker::progress::report::Report;
use crate::worker::progress::state::ConsumerState;
use crate::worker::run_guard::RunGuard;
use crate::worker::tables;
use crate::worker::threads::Threads;
use crate::worker::timeouts::within;

/// How long a worker that ends waits for the tasks beside its lanes, and tries to advance idle
/// checkpoints, which only saves the next run some reading.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// The same at the end of a run that was to handle what was in the log.
const ONCE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a lane that is dropped may take to end: a blocked thread drops nothing.
const DROP_TIMEOUT: Duration = Duration::from_millis(250);

/// Runs consumers over the log of a store until it is asked to end.
///
/// Any number of workers, in any number of processes, may run the same consumers: a worker that
/// handles a batch locks the row of the consumer's checkpoint, and nothing else is coordinated.
///
/// While it runs, a worker keeps the connections that its lanes have used, at most four fifths of the
/// pool where many lanes are busy. Two workers in one process therefore need a store, and a pool, each.
///
/// ```no_run
/// # consumer::__doc::run(async |store| {
/// use consumer::{Worker, shutdown_signal};
///
/// let report = Worker::builder(store).discover().build()?.run(shutdown_signal()).await?;
/// println!("{report}");
/// # Ok(()) }).unwrap();
/// ```
pub struct Worker<DB: Backend> {
    pub(super) shared: Shared<DB>,
    pub(super) assigner: LaneAssigner<DB>,
    pub(super) new_lanes: mpsc::UnboundedReceiver<NewLane<DB>>,
    /// Names of consumers of this program that other workers run.
    pub(super) elsewhere: Vec<String>,
    pub(super) channels: Channels,
    pub(super) guard: RunGuard,
}

/// The sending halves of what lanes listen to.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) frontier: watch::Sender<Observation>,
    pub(super) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(super) stop: watch::Sender<bool>,
}

impl<DB: Backend> Worker<DB> {
    /// Returns a handle to wait for the worker, to observe it, or to shut it down.
    ///
    /// Take it before [`run`](Self::run), which consumes the worker:
    ///
    /// ```
    /// # consumer::__doc::run(async |store| { use consumer::__doc::{Users, register};
    /// use consumer::Worker;
    ///
    /// let worker = Worker::builder(store.clone()).consumer(Users).build()?;
    /// let handle = worker.handle();
    /// let running = tokio::spawn(worker.run(std::future::pending()));
    ///
    /// // Read your own writes: append, wait for the consumer, query its read model.
    /// let event = register(&store, "ada").await?;
    /// handle.consumer_caught_up_to("users", event.global_position).await?;
    ///
    /// // For a status page, and for probes.
    /// for consumer in handle.consumers() {
    ///     println!("{}: {}", consumer.id, consumer.state);
    /// }
    /// assert!(handle.health().is_live());
    /// handle.shut_down();
    /// let report = running.await??;
    /// assert!(!report.has_failures());
    /// # Ok(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn handle(&self) -> WorkerHandle<DB> {
        WorkerHandle {
            store: self.shared.store.clone(),
            located: Arc::clone(&self.shared.located),
            progress: Arc::clone(&self.shared.progress),
            frontier: self.shared.frontier.clone(),
            wake: Arc::clone(&self.shared.wake),
            stop: self.channels.stop.clone(),
            stall_after: self.shared.options.stall_after,
        }
    }

    /// Runs until `shutdown` resolves or the handle shuts the worker down, and finishes the batches
    /// in progress.
    ///
    /// A consumer that stops or is paused does not end the worker, since it can be resumed.
    ///
    /// # Errors
    /// [`WorkerError`] if the database cannot be used at the start, its tables are missing, or the
    /// frontier of the log cannot be determined.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<Report, WorkerError> {
        // Boxed once per run, so that the caller's future does not become as large as this one.
        Box::pin(self.guarded(shutdown, false)).await
    }

    /// Handles everything that is in the log at the time of the call, and returns.
    ///
    /// It waits for transactions that may still fill a gap below the head, and for checkpoints that
    /// other processes have claimed. A consumer that stops, or that waits for a release that knows its
    /// next event, ends there, as the report shows.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| { use consumer::__doc::{Users, register};
    /// use consumer::Worker;
    ///
    /// register(&store, "ada").await?;
    /// let report = Worker::builder(store).consumer(Users).build()?.run_once().await?;
    /// assert!(!report.has_failures(), "{report}");
    /// assert_eq!(report.consumer("users").unwrap().position, Some(1));
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub async fn run_once(self) -> Result<Report, WorkerError> {
        Box::pin(self.guarded(std::future::pending(), true)).await
    }

    async fn guarded(
        mut self,
        shutdown: impl Future<Output = ()>,
        once: bool,
    ) -> Result<Report, WorkerError> {
        // Dropped last, when everything of the worker is gone.
        let mut guard = self.guard.take();
        let result = self.work(shutdown, once, &mut guard).await;
        guard.set_result(&result);
        result
    }

    async fn work(
        self,
        shutdown: impl Future<Output = ()>,
        once: bool,
        guard: &mut RunGuard,
    ) -> Result<Report, WorkerError> {
        if clock_is_paused() {
            return Err(WorkerError::PausedClock);
        }
        let mut shared = self.shared;
        check_store(&mut shared).await?;
        let consumers = self.assigner.consumers.clone();
        prepare(&mut shared, &consumers).await?;
        let shared = Arc::new(shared);
        panics::warn_of_aborts(consumers.iter().map(|one| one.policy()));
        let Channels {
            frontier,
            snapshot,
            stop,
        } = self.channels;
        let mut poller =
            Poller::start(Arc::clone(&shared), self.assigner, frontier, snapshot).await?;
        let until = once.then(|| poller.observed().head);
        let rows = poller.enroll().await?;
        log_start(&rows, &consumers);
        let detached = detached_names(&shared, &rows, &consumers, &self.elsewhere).await?;
        let mut lanes = Lanes::prepare(&shared, self.new_lanes, until).await?;
        let mut helpers = spawn_helpers(&shared, consumers);
        let mut poller = PollerTask(tokio::spawn(poller.run()));
        let ended = tokio::select! {
            () = shutdown => None,
            () = shared.stopped() => None,
            () = lanes.run_all() => None,
            ended = &mut poller.0 => Some(ended),
        };
        // The poller also ends when the handle shuts the worker down.
        guard.set_requested(ended.is_none() || shared.is_stopping());
        stop.send_replace(true);
        helpers.abort_all();
        let given_up = lanes.finish().await;
        let tidied = async {
            shared.terminate(&given_up).await;
            helpers.shutdown().await;
        };
        let (_, finished) = tokio::join!(
            within(FINISH_TIMEOUT, tidied),
            // Such a run was not asked to shut down, so that nothing waits for it.
            within(
                if once { ONCE_TIMEOUT } else { FINISH_TIMEOUT },
                poller.finish(ended)
            ),
        );
        finished.unwrap_or(Ok(()))?;
        shared.progress.shut_down();
        Ok(Report::new(shared.progress.consumers(), detached))
    }
}

/// Checks the tables and fixes the schema that the statements find them in.
async fn check_store<DB: Backend>(shared: &mut Shared<DB>) -> Result<(), WorkerError> {
    let checked = async {
        shared.store.check_access(Access::Work).await?;
        if shared.store.admits_passing_over().await? {
            tracing::warn!(
                "programs with a library that passes over unknown events may still use the tables; once none runs, run `migrate --refuse-older` or call `EventStore::refuse_older_libraries`"
            );
        }
        shared.locate_tables().await
    };
    checked.await.map_err(|error| match error {
        StoreError::Database(error) => WorkerError::Database(error),
        other => WorkerError::Store(other),
    })
}

/// Decides which consumers run, and prepares their tables.
async fn prepare<DB: Backend>(
    shared: &mut Shared<DB>,
    consumers: &[Arc<WorkerConsumer<DB>>],
) -> Result<(), WorkerError> {
    tables::find_schema(shared, consumers).await?;
    held_back::settle_names(shared, consumers).await?;
    let progress = &shared.progress;
    let run = consumers
        .iter()
        .map(Arc::as_ref)
        .filter(|one| progress.held_back(one.id()).is_none());
    tables::prepare(shared, &run.collect::<Vec<_>>()).await
}

/// Starts the tasks beside the poller and the lanes.
fn spawn_helpers<DB: Backend>(
    shared: &Arc<Shared<DB>>,
    consumers: Vec<Arc<WorkerConsumer<DB>>>,
) -> JoinSet<()> {
    let mut helpers = JoinSet::new();
    let progress = || Arc::clone(&shared.progress);
    let with = (Arc::clone(shared), consumers);
    let split = with.clone();
    helpers.spawn(restarting("split segments", progress(), move || {
        segments::split_rows(Arc::clone(&split.0), split.1.clone())
    }));
    helpers.spawn(restarting(
        "start consumers that were held back",
        progress(),
        move || held_back::start_later(Arc::clone(&with.0), with.1.clone()),
    ));
    if let Some(url) = shared.options.listen.url() {
        let shared = Arc::clone(shared);
        helpers.spawn(restarting("listen for appends", progress(), move || {
            let pool = shared.store.pool().clone();
            DB::listen(pool, url.clone(), Arc::clone(&shared.wake))
        }));
    }
    let idle = Arc::clone(shared);
    helpers.spawn(restarting("wake idle lanes", progress(), move || {
        let shared = Arc::clone(&idle);
        async move {
            let frontier = shared.frontier.clone();
            idle::scan(&shared.log, &shared.idle, &shared.progress, frontier).await;
        }
    }));
    helpers
}

/// The lanes of a worker, one task each.
struct Lanes<DB: Backend> {
    shared: Arc<Shared<DB>>,
    new: mpsc::UnboundedReceiver<NewLane<DB>>,
    tasks: JoinSet<()>,
    /// The lane of each task, so that it can be restarted.
    running: HashMap<task::Id, RunningLane<DB>>,
    /// The position at which lanes end, in a run that ends.
    until: Option<i64>,
    /// Dropped after the tasks that run on them.
    threads: Threads,
}

/// A lane, and how often its task has panicked.
struct RunningLane<DB: Backend> {
    lane: NewLane<DB>,
    panics: u32,
}

impl<DB: Backend> Lanes<DB> {
    /// Starts the threads of the lanes and opens the connection that reads for them.
    async fn prepare(
        shared: &Arc<Shared<DB>>,
        new: mpsc::UnboundedReceiver<NewLane<DB>>,
        until: Option<i64>,
    ) -> Result<Self, sqlx::Error> {
        let threads = Threads::start(shared.options.lanes_on_one_core);
        shared.connections.set_thread_setup(threads.lane_setup());
        shared.log.open(threads.reader_setup()).await?;
        Ok(Self {
            shared: Arc::clone(shared),
            new,
            tasks: JoinSet::new(),
            running: HashMap::new(),
            until,
            threads,
        })
    }

    /// Opens a lane for each row and restarts those that panic, until all lanes have ended.
    async fn run_all(&mut self) {
        loop {
            // Also if all consumers are held back, so that no lane ever ends.
            if self.until.is_some() && self.tasks.is_empty() && self.new.is_empty() {
                return;
            }
            tokio::select! {
                biased;
                Some(lane) = self.new.recv() => self.open(RunningLane { lane, panics: 0 }),
                Some(ended) = self.tasks.join_next_with_id() => {
                    if let Some(panicked) = self.ended(ended) && self.until.is_none() {
                        self.open(panicked);
                    }
                }
                else => return,
            }
        }
    }

    /// Starts the task of a lane, after a pause if it has panicked.
    fn open(&mut self, running: RunningLane<DB>) {
        let RunningLane { lane, panics } = &running;
        let uses_transaction = lane.consumer.uses_transaction();
        let pause = (*panics > 0).then(|| delay(panics::RESTART_BACKOFF, *panics));
        let shared = Arc::clone(&self.shared);
        let lane = Lane::new(
            Arc::clone(&shared),
            self.threads.reader(),
            lane.clone(),
            self.until,
        );
        let task = async move {
            if let Some(pause) = pause {
                tokio::select! {
                    () = time::sleep(pause) => {}
                    () = shared.stopped() => {}
                }
            }
            lane.run().await;
        };
        let id = self
            .threads
            .spawn_lane(&mut self.tasks, uses_transaction, task);
        self.running.insert(id, running);
    }

    /// Reports a panic of a lane, which is returned to be restarted.
    fn ended(&mut self, ended: Result<(task::Id, ()), JoinError>) -> Option<RunningLane<DB>> {
        let error = match ended {
            Ok((id, ())) => {
                self.running.remove(&id);
                return None;
            }
            Err(error) => error,
        };
        let mut running = self.running.remove(&error.id())?;
        let panic = error.try_into_panic().ok()?;
        let error = panic_message(panic.as_ref()).to_owned();
        let progress = &running.lane.progress;
        tracing::error!(
            consumer = &*progress.key.consumer.name,
            error,
            "a lane panicked"
        );
        progress.set_state(ConsumerState::Panicked { error });
        running.panics = running.panics.saturating_add(1);
        Some(running)
    }

    /// Waits for the batches in progress, and drops what is not finished by the deadline. Returns the
    /// backends that hold the claims of what was dropped.
    async fn finish(&mut self) -> Vec<i32> {
        let deadline = self.shared.options.shutdown_deadline;
        if within(deadline, self.ended_all()).await.is_some() {
            return Vec::new();
        }
        tracing::warn!(
            "batches are still in progress at the shutdown deadline; they are rolled back and handled again by the next run"
        );
        let claimed = self.shared.connections.claimed();
        self.tasks.abort_all();
        if within(DROP_TIMEOUT, self.ended_all()).await.is_none() {
            self.running.values().for_each(warn_of_blocked_thread);
        }
        claimed
    }

    /// Waits until all lanes have ended.
    async fn ended_all(&mut self) {
        while let Some(ended) = self.tasks.join_next_with_id().await {
            self.ended(ended);
        }
    }
}

/// Names the handler that the worker leaves behind, if the lane is in one.
fn warn_of_blocked_thread<DB: Backend>(running: &RunningLane<DB>) {
    let progress = &running.lane.progress;
    let Some(handling) = progress.handling() else {
        return;
    };
    tracing::error!(
        consumer = &*progress.key.consumer.name,
        checkpoint = progress.cursor().map(|cursor| cursor.checkpoint),
        position = handling.current_position(),
        "the handler blocks its thread beyond the shutdown deadline, so the worker ends without it; nothing of its batch is saved unless the handler returns before the program ends; move blocking calls into `tokio::task::spawn_blocking`"
    );
}

/// The task of the poller, aborted when it is dropped.
struct PollerTask<DB: Backend>(JoinHandle<PollerEnd<DB>>);

type PollerEnd<DB> = Result<Poller<DB>, WorkerError>;

impl<DB: Backend> PollerTask<DB> {
    /// Waits for the poller, unless it has ended already, and lets it advance idle checkpoints.
    async fn finish(
        &mut self,
        ended: Option<Result<PollerEnd<DB>, JoinError>>,
    ) -> Result<(), WorkerError> {
        let ended = match ended {
            Some(ended) => ended,
            None => (&mut self.0).await,
        };
        // The task does not panic, and is aborted only when this is dropped.
        let poller = ended.map_err(|_| WorkerError::from(sqlx::Error::WorkerCrashed))??;
        let finished = time::timeout(FINISH_TIMEOUT, poller.finish()).await;
        if !matches!(finished, Ok(Ok(()))) {
            tracing::warn!("cannot advance the checkpoints of consumers without new events");
        }
        Ok(())
    }
}

impl<DB: Backend> Drop for PollerTask<DB> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Logs which consumers the worker runs, and from where.
fn log_start<DB: Backend>(snapshot: &Snapshot, consumers: &[Arc<WorkerConsumer<DB>>]) {
    for consumer in consumers {
        let id = consumer.id();
        let rows = snapshot.rows.values();
        let positions = rows
            .filter(|row| row.key.consumer == *id)
            .map(|row| row.position);
        tracing::info!(
            consumer = &*id.name,
            version = id.version,
            position = positions.min(),
            "the worker runs this consumer"
        );
    }
}

/// Names of checkpoints that no consumer of this program belongs to, and none of another release.
async fn detached_names<DB: Backend>(
    shared: &Shared<DB>,
    snapshot: &Snapshot,
    consumers: &[Arc<WorkerConsumer<DB>>],
    elsewhere: &[String],
) -> Result<Vec<String>, sqlx::Error> {
    let held_back = consumers
        .iter()
        .filter_map(|consumer| shared.progress.held_back(consumer.id()));
    let held_back: Vec<HeldBack> = held_back.collect();
    let is_known = |name: &str| {
        let mut later_names = held_back.iter().filter_map(HeldBack::later_name);
        elsewhere.iter().any(|other| other == name)
            || later_names.any(|later| later == name)
            || consumers
                .iter()
                .any(|consumer| *consumer.id().name == *name)
    };
    let keys = snapshot.rows.keys();
    let mut names: Vec<String> = keys
        .map(|key| &*key.consumer.name)
        .filter(|name| !is_known(name))
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Ok(names);
    }
    let releases = other_releases(shared).await?;
    names.retain(|name| {
        let advice = format!(
            "if it was renamed, write `formerly = \"{name}\"` at the consumer that it is now; if not, its crate may be missing from `consumers![…]`"
        );
        match releases.get(name) {
            Some(release) => tracing::warn!(
                consumer = %name,
                release = &**release,
                "no consumer of that name is in this program, but a process of another release was running it a moment ago; unless that release is being deployed: {advice}"
            ),
            None => tracing::warn!(
                consumer = %name,
                "the checkpoint is detached: no consumer of that name is in this program; {advice}"
            ),
        }
        !releases.contains_key(name)
    });
    Ok(names)
}

/// The consumers that processes of other releases run, with the release of one.
async fn other_releases<DB: Backend>(
    shared: &Shared<DB>,
) -> Result<HashMap<String, Arc<str>>, sqlx::Error> {
    let statements = DB::operate_statements(shared.store.settings());
    let mut tx = begin(shared.store.pool(), DB::BEGIN_READ).await?;
    let rows = DB::rows(&statements, &mut tx).await?;
    tx.commit().await?;
    let releases = rows.iter().filter_map(|row| {
        let release = row.other_release(&shared.process.release)?;
        Some((
            row.checkpoint.key.consumer.name.to_string(),
            Arc::clone(release),
        ))
    });
    Ok(releases.collect())
}

impl<DB: Backend> std::fmt::Debug for Worker<DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}
