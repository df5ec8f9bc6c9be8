//! Builds a worker, and finds every problem before it runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use crate::backend::{Backend, ConsumerId, Incarnation, Observation, Process};
use crate::contract::{Consumer, ScopedConsumer, Settings};
#[cfg(feature = "auto-register")]
use crate::registry::Crates;
use crate::registry::{Dependencies, Registered, Registry, Selection, check_name};
use crate::store::EventStore;
use crate::worker::connections::{Connections, Demand, PoolTooSmall, Shares};
use crate::worker::context::Shared;
use crate::worker::error::{BuildError, NameTaken};
use crate::worker::log::Log;
use crate::worker::options::{Listen, Options};
use crate::worker::poller::assignment::{LaneAssigner, WorkerConsumer};
use crate::worker::poller::idle::IdleLanes;
use crate::worker::poller::snapshot::Snapshot;
use crate::worker::process::unique_name;
use crate::worker::progress::worker::WorkerProgress;
use crate::worker::run::{Channels, Worker};
use crate::worker::run_guard::RunGuard;
use crate::worker::timeouts::Timeouts;

type Configure = Box<dyn Fn(Settings) -> Settings + Send>;

/// The shortest interval between two polls.
const MIN_INTERVAL: Duration = Duration::from_millis(1);

/// The shortest claim timeout.
const MIN_CLAIM_TIMEOUT: Duration = Duration::from_millis(100);

/// The longest claim timeout: about 24 days, the maximum that Postgres accepts.
const MAX_CLAIM_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);

impl<DB: Backend> Worker<DB> {
    /// Starts to build a worker, as in the example of [`Worker`].
    #[must_use]
    pub fn builder(store: EventStore<DB>) -> WorkerBuilder<DB> {
        WorkerBuilder::new(store)
    }
}

/// Collects the consumers and settings of a worker; from [`Worker::builder`].
///
/// ```no_run
/// # consumer::__doc::run(async |store| {
/// use std::time::Duration;
///
/// use consumer::{Dependencies, OnError, Worker, shutdown_signal};
///
/// /// What the `init` of a consumer asks for.
/// struct MailServer(String);
///
/// let worker = Worker::builder(store)
///     // Which consumers: all that are declared and linked, with what their `init` needs.
///     .discover()
///     .dependencies(Dependencies::new().with(MailServer("smtp.example.com".into())))
///     // Settings that override those of the attributes, for all and for one.
///     .configure_all(|settings| settings.retries(10))
///     .configure("user_read_model", |settings| settings.batch_size(1000).on_error(OnError::Park))
///     // How often it polls.
///     .poll_interval(Duration::from_millis(100))
///     .snapshot_interval(Duration::from_secs(1))
///     .advance_interval(Duration::from_secs(10))
///     // How long it waits for a frozen process, for progress, and for batches at the end.
///     .claim_timeout(Duration::from_secs(60))
///     .stall_after(Duration::from_secs(300))
///     .shutdown_deadline(Duration::from_secs(30))
///     // How much memory it uses for events.
///     .cache_bytes(64 << 20)
///     .batch_bytes(16 << 20)
///     .build()?;
/// let report = worker.run(shutdown_signal()).await?;
/// # Ok(()) }).unwrap();
/// ```
///
/// The guides [`running`](crate::guide::running) and [`scaling`](crate::guide::scaling) explain when
/// to change which setting.
pub struct WorkerBuilder<DB: Backend> {
    store: EventStore<DB>,
    registered: Vec<Registered<DB>>,
    /// Names of consumers of this program that run on another database, or in another process.
    elsewhere: Vec<String>,
    selection: Option<Selection>,
    dependencies: Dependencies,
    configure_all: Vec<Configure>,
    configure: Vec<(String, Configure)>,
    options: Options,
    /// What was wrong with the consumers when they were added.
    problems: Vec<BuildError>,
}

impl<DB: Backend> std::fmt::Debug for WorkerBuilder<DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("registered", &self.registered)
            .field("selection", &self.selection)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Which consumers run.
impl<DB: Backend> WorkerBuilder<DB> {
    fn new(store: EventStore<DB>) -> Self {
        Self {
            store,
            registered: Vec::new(),
            elsewhere: Vec::new(),
            selection: None,
            dependencies: Dependencies::default(),
            configure_all: Vec::new(),
            configure: Vec::new(),
            options: Options::default_for::<DB>(),
            problems: Vec::new(),
        }
    }

    /// Adds every consumer that is declared with `#[consumer]` for this database and linked into the
    /// program, as in the example of [`Worker`].
    #[cfg(feature = "auto-register")]
    #[must_use]
    pub fn discover(mut self) -> Self {
        self.selection.get_or_insert_default();
        self
    }

    /// Adds the discovered consumers of one group.
    ///
    /// With two kinds of processes, the one that runs the consumers declared with
    /// `group = "projections"` calls it:
    ///
    /// ```no_run
    /// # consumer::__doc::run(async |store| {
    /// use consumer::Worker;
    ///
    /// let worker = Worker::builder(store).discover_group("projections").build()?;
    /// # Ok(()) }).unwrap();
    /// ```
    #[cfg(feature = "auto-register")]
    #[must_use]
    pub fn discover_group(mut self, group: impl Into<String>) -> Self {
        let selection = self.selection.take().unwrap_or_default();
        self.selection = Some(selection.in_group(group));
        self
    }

    /// Adds the discovered consumers of the named crates.
    ///
    /// ```no_run
    /// # consumer::__doc::run(async |store| {
    /// use consumer::{Worker, consumers};
    ///
    /// let worker = Worker::builder(store).discover_in(consumers![crate]).build()?;
    /// # Ok(()) }).unwrap();
    /// ```
    #[cfg(feature = "auto-register")]
    #[must_use]
    pub fn discover_in(mut self, crates: Crates) -> Self {
        let selection = self.selection.take().unwrap_or_default();
        self.selection = Some(selection.in_crates(crates));
        self
    }

    /// Passes dependencies to the `init` functions of discovered consumers.
    ///
    /// ```
    /// use consumer::prelude::*;
    ///
    /// /// The client of a broker.
    /// #[derive(Clone)]
    /// struct Broker;
    ///
    /// struct Publisher {
    ///     broker: Broker,
    /// }
    ///
    /// impl Publisher {
    ///     fn connected(dependencies: &Dependencies) -> Result<Self, HandlerError> {
    ///         Ok(Self { broker: dependencies.get::<Broker>()?.clone() })
    ///     }
    /// }
    ///
    /// #[consumer(name = "publisher", init = Publisher::connected)]
    /// impl Publisher {
    ///     async fn handle(&self, event: &PersistedEvent) -> Result<(), HandlerError> {
    ///         let _ = &self.broker; // publishes the event
    ///         Ok(())
    ///     }
    /// }
    ///
    /// // Worker::builder(store).dependencies(dependencies).discover()
    /// let dependencies = Dependencies::new().with(Broker);
    /// assert!(Publisher::connected(&dependencies).is_ok());
    /// ```
    #[must_use]
    pub fn dependencies(mut self, dependencies: Dependencies) -> Self {
        self.dependencies = dependencies;
        self
    }

    /// Adds a consumer of every event, as in the example of
    /// [`Worker::run_once`](crate::Worker::run_once).
    #[must_use]
    pub fn consumer(self, consumer: impl Consumer<DB>) -> Self {
        self.registered(Registered::new(consumer))
    }

    /// Adds a consumer with a scope (R7).
    ///
    /// A consumer can be implemented by hand where a macro does not fit, for example on a generic
    /// type; see [`Consumer`] and [`ScopedConsumer`]. Hand-written and discovered consumers can be
    /// mixed.
    ///
    /// [`build`](Self::build) refuses a consumer whose [`Consumer::scope`], from which the test kit takes the
    /// scope, differs from its [`ScopedConsumer::aggregate_types`].
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::{Consumer, Context, HandlerError, PersistedEvent, ScopedConsumer, Worker, sqlx};
    ///
    /// struct Users;
    ///
    /// impl Consumer<sqlx::Sqlite> for Users {
    ///     fn name(&self) -> &str {
    ///         "users"
    ///     }
    ///
    ///     fn scope(&self) -> &[&str] {
    ///         self.aggregate_types()
    ///     }
    ///
    ///     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> {
    ///         Ok(())
    ///     }
    /// }
    ///
    /// impl ScopedConsumer<sqlx::Sqlite> for Users {
    ///     fn aggregate_types(&self) -> &[&str] {
    ///         &["User"]
    ///     }
    /// }
    ///
    /// let worker = Worker::builder(store).scoped_consumer(Users).build()?;
    /// # Ok(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn scoped_consumer(mut self, consumer: impl ScopedConsumer<DB>) -> Self {
        if consumer.scope() != consumer.aggregate_types() {
            self.problems.push(BuildError::TwoScopes {
                consumer: consumer.name().to_owned(),
                scope: consumer.scope().join(", "),
                aggregate_types: consumer.aggregate_types().join(", "),
            });
        }
        self.registered(Registered::scoped(consumer))
    }

    /// Adds a consumer with a declaration of its own.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| { use consumer::__doc::Users;
    /// use consumer::{Registered, Worker};
    ///
    /// // What the trait does not say: a version, a group, a scope that is known at run time.
    /// let mut registered = Registered::new(Users);
    /// registered.declaration.version = 2;
    /// registered.declaration.scope = vec!["User".into()];
    /// let worker = Worker::builder(store).registered(registered).build()?;
    /// # Ok(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn registered(mut self, registered: Registered<DB>) -> Self {
        self.registered.push(registered);
        self
    }

    /// Changes the settings of all consumers; overrides their own declarations.
    #[must_use]
    pub fn configure_all(mut self, change: impl Fn(Settings) -> Settings + Send + 'static) -> Self {
        self.configure_all.push(Box::new(change));
        self
    }

    /// Changes the settings of one consumer; overrides its own declaration and
    /// [`configure_all`](Self::configure_all).
    ///
    /// ```
    /// # consumer::__doc::run(async |store| { use consumer::__doc::Users;
    /// use consumer::{BuildError, Worker};
    ///
    /// let worker = Worker::builder(store).consumer(Users).configure("user", |settings| settings.retries(1));
    ///
    /// // A misspelt name is an error, rather than a setting without effect.
    /// let error = worker.build().unwrap_err();
    /// assert!(matches!(error, BuildError::UnknownConsumer { known, .. } if known == "users"));
    /// # Ok(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn configure(
        mut self,
        consumer: impl Into<String>,
        change: impl Fn(Settings) -> Settings + Send + 'static,
    ) -> Self {
        self.configure.push((consumer.into(), Box::new(change)));
        self
    }
}

/// How the worker runs.
impl<DB: Backend> WorkerBuilder<DB> {
    /// Sets how often the worker polls the log when nothing wakes it; at least 1 ms. The default is
    /// 250 ms on Postgres and 50 ms on `SQLite`.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.options.poll_interval = interval.max(MIN_INTERVAL);
        self
    }

    /// Sets how often the worker reads the checkpoint rows, to notice changes by operators and other
    /// processes; at least 1 ms. The default is 1 s. On Postgres, a read that takes long is repeated later:
    /// reads take at most a twentieth of the time.
    #[must_use]
    pub fn snapshot_interval(mut self, interval: Duration) -> Self {
        self.options.snapshot_interval = interval.max(MIN_INTERVAL);
        self
    }

    /// Sets how often the worker advances the checkpoints of consumers whose scope has nothing new, and
    /// checks that it may still work with the tables. The default is 10 s.
    #[must_use]
    pub fn advance_interval(mut self, interval: Duration) -> Self {
        self.options.advance_interval = interval;
        self
    }

    /// Sets how long a claim outlives the last statement of its process; at least 100 ms. The
    /// default is 60 s. On SQLite, it is how long the mark of a handler without `tx` outlives its
    /// last renewal, also that of a process that was killed.
    ///
    /// It bounds how long a frozen process, or one behind a cut network, keeps a consumer before
    /// another process takes over. A handler must not leave its transaction idle for longer.
    ///
    /// Conversely, the process behind the cut closes a connection that has been silent for as long
    /// (at least 5 s, and five times as long for a read), so that it recovers by itself. The
    /// statement of a handler is only bounded by its `handler_timeout`.
    ///
    /// ```no_run
    /// # consumer::__doc::run(async |store| {
    /// use std::time::Duration;
    ///
    /// use consumer::Worker;
    ///
    /// // Another process takes over 15 s after this one has frozen.
    /// let builder = Worker::builder(store).claim_timeout(Duration::from_secs(15));
    /// # Ok(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn claim_timeout(mut self, timeout: Duration) -> Self {
        self.options.claim_timeout = timeout.clamp(MIN_CLAIM_TIMEOUT, MAX_CLAIM_TIMEOUT);
        self
    }

    /// Sets how long the worker may make no progress before
    /// [`WorkerHandle::health`](crate::WorkerHandle::health) reports it as not live. The default is
    /// 5 minutes. Set it longer than the slowest batch takes.
    #[must_use]
    pub fn stall_after(mut self, time: Duration) -> Self {
        self.options.stall_after = time;
        self
    }

    /// Sets how long a shutdown waits for the batches in progress. The default is 30 s. Batches that
    /// are not committed by then are rolled back and handled again by the next run.
    ///
    /// No program can end a thread from outside. So a handler that blocks its thread is left behind,
    /// and an error in the log names its consumer and position; `run` returns at most 3 s after the
    /// deadline. On a runtime with a single thread, `run` cannot return before such a handler does
    /// unless the handler runs on a [core of its own](Self::lanes_on_one_core).
    #[must_use]
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.options.shutdown_deadline = deadline;
        self
    }

    /// Sets how many bytes of events are cached for consumers at nearby positions. The default is
    /// 64 MiB.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: u64) -> Self {
        self.options.cache_bytes = bytes;
        self
    }

    /// Sets how many bytes of events a batch holds at most. The default is 16 MiB. A larger event is
    /// a batch by itself.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: u64) -> Self {
        self.options.batch_bytes = bytes.max(1);
        self
    }

    /// Names the build of the program that the worker belongs to.
    ///
    /// A consumer that has stopped at an event is tried once by each release that has not failed on that
    /// event: a restart of the same release leaves it alone. The status names the release of each process,
    /// too.
    ///
    /// The default is the name of the executable with a hash of its content, which every build that
    /// differs changes. Name a release where the executable is not all that you deploy: where several
    /// executables are deployed together, or where handlers depend on scripts, shared libraries or a
    /// configuration. The name is kept in ASCII, up to 200 characters.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| { use consumer::__doc::Users;
    /// use consumer::Worker;
    ///
    /// let release = option_env!("GIT_COMMIT").unwrap_or(env!("CARGO_PKG_VERSION"));
    /// let worker = Worker::builder(store).consumer(Users).release(release).build()?;
    /// # Ok(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn release(mut self, release: impl Into<Arc<str>>) -> Self {
        self.options.release = Some(release.into());
        self
    }

    /// Sets whether handlers that use the transaction run on one core together with their
    /// connections, and the log is read on another core. The default is `true` on `SQLite` and
    /// `false` on Postgres.
    ///
    /// sqlx runs each `SQLite` connection on a thread of its own, and waking another core for every
    /// statement, and for every few rows, costs several times as much as the statement. On the other
    /// hand, all these handlers then share that core: set `false` if they compute more than they
    /// write. A thread that such a handler starts inherits the core. The setting has no effect on a
    /// machine with a single core and on other systems than Linux.
    ///
    /// What such a handler spawns, and the connections that it opens, belong to a runtime that the
    /// library starts once in a process, which uses all cores and lasts until the process ends.
    ///
    /// ```no_run
    /// # consumer::__doc::run(async |store| {
    /// use consumer::Worker;
    ///
    /// // Its handlers resize pictures.
    /// let builder = Worker::builder(store).lanes_on_one_core(false);
    /// # Ok(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn lanes_on_one_core(mut self, on_one_core: bool) -> Self {
        self.options.lanes_on_one_core = on_one_core;
        self
    }

    /// Listens, over a connection of the pool, for the notifications of stores with `notify(true)`,
    /// in addition to polling. Postgres only.
    #[must_use]
    pub fn listen(mut self) -> Self {
        self.options.listen = Listen::OverPool;
        self
    }

    /// Listens over a connection of its own, as is necessary if the pool connects through a pooler in
    /// transaction mode, which does not pass notifications on. Postgres only.
    ///
    /// ```no_run
    /// # #[cfg(feature = "postgres")] async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use consumer::{PgEventStore, Worker};
    ///
    /// // Batches go through PgBouncer, the listener connects to the server itself.
    /// let store = PgEventStore::connect("postgres://app@pooler:6432/shop").await?.notify(true);
    /// let worker = Worker::builder(store)
    ///     .discover()
    ///     .listen_url("postgres://app@db:5432/shop")
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn listen_url(mut self, url: impl Into<Arc<str>>) -> Self {
        self.options.listen = Listen::OverUrl(url.into());
        self
    }
}

/// Building.
impl<DB: Backend> WorkerBuilder<DB> {
    /// Builds the worker.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::{BuildError, Worker};
    ///
    /// let error = Worker::builder(store).build().unwrap_err();
    /// assert!(matches!(error, BuildError::NoConsumers));
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`BuildError`] with all problems at once: consumers that contradict each other, none at all,
    /// or a pool that is too small.
    pub fn build(mut self) -> Result<Worker<DB>, BuildError> {
        let mut problems = self.find_problems();
        if self.registered.is_empty() {
            // If consumers could not be found or created, there are some.
            if problems.is_empty() {
                problems.push(BuildError::NoConsumers);
            }
            return Err(BuildError::of(problems));
        }
        match self.share_connections() {
            Ok(connections) if problems.is_empty() => Ok(self.assemble(connections)),
            Ok(_) => Err(BuildError::of(problems)),
            Err(too_small) => {
                problems.push(too_small);
                Err(BuildError::of(problems))
            }
        }
    }

    /// Finds the consumers, applies the settings to them, and checks their names.
    pub(crate) fn resolve(&mut self) -> Result<(), BuildError> {
        let problems = self.find_problems();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(BuildError::of(problems))
        }
    }

    /// The consumers that [`resolve`](Self::resolve) found.
    pub(crate) fn consumers(&self) -> &[Registered<DB>] {
        &self.registered
    }

    /// Keeps some of the consumers that [`resolve`](Self::resolve) found; the others count as run by
    /// another worker.
    #[cfg(feature = "cli")]
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Registered<DB>) -> bool) {
        let (kept, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.registered)
            .into_iter()
            .partition(|registered| keep(registered));
        self.registered = kept;
        let names = others.iter().map(|one| one.declaration.name.to_string());
        self.elsewhere.extend(names);
    }

    pub(crate) fn named_release(&self) -> Option<&Arc<str>> {
        self.options.release.as_ref()
    }

    pub(crate) fn elsewhere(&self) -> &[String] {
        &self.elsewhere
    }

    pub(crate) fn store(&self) -> &EventStore<DB> {
        &self.store
    }

    fn find_problems(&mut self) -> Vec<BuildError> {
        let mut problems = std::mem::take(&mut self.problems);
        if let Some(selection) = self.selection.take() {
            match Registry::<DB>::select(&selection, &self.dependencies) {
                Ok(registry) => self.add_discovered(registry),
                Err(error) => problems.push(error.into()),
            }
        }
        let unknown = self.apply_settings();
        // A consumer that could not be created is not unknown.
        if problems.is_empty() {
            problems.extend(unknown);
        }
        self.registered
            .sort_by(|left, right| key(left).cmp(&key(right)));
        problems.extend(wrong_names(&self.registered));
        problems.extend(names_taken(&self.registered));
        problems.extend(tables_taken(&self.registered));
        problems.extend(former_names_in_use(&self.registered, &self.elsewhere));
        problems
    }

    fn add_discovered(&mut self, registry: Registry<DB>) {
        for other in registry.other_databases() {
            tracing::warn!("consumer {other}");
            self.elsewhere.push(other.name.to_owned());
        }
        let left_out = registry.left_out().iter();
        self.elsewhere.extend(left_out.map(|&name| name.to_owned()));
        self.registered.extend(registry.into_registered());
    }

    /// Applies the settings once; returns an error for each name that no consumer has.
    fn apply_settings(&mut self) -> Vec<BuildError> {
        let for_all = std::mem::take(&mut self.configure_all);
        let for_one = std::mem::take(&mut self.configure);
        for registered in &mut self.registered {
            let declaration = &mut registered.declaration;
            let own = for_one
                .iter()
                .filter(|(name, _)| **name == *declaration.name)
                .map(|(_, change)| change);
            let mut settings = declaration.settings.clone();
            for change in for_all.iter().chain(own) {
                settings = change(settings);
            }
            // The fields are public, so a change may have set them to anything.
            declaration.settings = settings.clamped();
        }
        for_one
            .iter()
            .filter(|(name, _)| {
                !self
                    .registered
                    .iter()
                    .any(|one| *one.declaration.name == **name)
            })
            .map(|(name, _)| unknown_consumer(name, &self.registered))
            .collect()
    }

    /// Divides the pool between the lanes and the rest of the program.
    fn share_connections(&self) -> Result<Shares, BuildError> {
        let lanes = |writing: bool| -> usize {
            self.registered
                .iter()
                .filter(|one| one.consumer.uses_transaction() == writing)
                .map(|one| one.declaration.settings.segments as usize)
                .sum()
        };
        let may_terminate = self
            .registered
            .iter()
            .any(|one| one.declaration.settings.handler_timeout.is_some());
        let listens = matches!(self.options.listen, Listen::OverPool);
        let demand = Demand {
            writing_lanes: lanes(true),
            other_lanes: lanes(false),
            // One polls, one reads the log, and one each may listen and terminate statements.
            fixed: 2 + usize::from(listens) + usize::from(may_terminate),
        };
        let max = self.store.pool().options().get_max_connections();
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let divided = Shares::divide::<DB>(max, demand);
        divided.map_err(|PoolTooSmall { max, needed }| BuildError::PoolTooSmall {
            max: u32::try_from(max).unwrap_or(u32::MAX),
            needed: u32::try_from(needed).unwrap_or(u32::MAX),
            why: if demand.other_lanes > 0 {
                "and two for a batch of a handler without `tx`"
            } else {
                "each further one lets another batch run at the same time"
            },
        })
    }

    fn assemble(self, connections: Shares) -> Worker<DB> {
        let consumers: Vec<Arc<WorkerConsumer<DB>>> = self
            .registered
            .into_iter()
            .map(|one| Arc::new(WorkerConsumer::new(one)))
            .collect();
        let ids = consumers.iter().map(|consumer| consumer.id().clone());
        let progress = Arc::new(WorkerProgress::new(ids.collect(), self.options.stall_after));
        let own = consumers.iter().flat_map(|one| one.enrolment.names());
        let elsewhere = self.elsewhere.iter().map(|name| name.as_str().into());
        let declared = own.chain(elsewhere).collect();
        let (frontier_sender, frontier) = watch::channel(Observation {
            settled: 0,
            head: 0,
            incarnation: Incarnation::default(),
            waiting: false,
            more: false,
        });
        let (snapshot_sender, snapshot) = watch::channel(Arc::new(Snapshot::default()));
        let (stop_sender, stop) = watch::channel(false);
        let (new_lane_sender, new_lanes) = mpsc::unbounded_channel();
        let log_name: Arc<str> = self.store.schema().log_name().into();
        let assigner = LaneAssigner {
            log_name: Arc::clone(&log_name),
            consumers,
            progress: Arc::clone(&progress),
            new_lanes: new_lane_sender,
        };
        let guard = RunGuard::new(&progress);
        let shared = Shared {
            statements: DB::checkpoint_statements(self.store.settings()),
            names: DB::name_statements(self.store.settings()),
            located: Arc::default(),
            log_name,
            table_schema: None,
            process: Process::current(self.options.release.as_deref()),
            name: unique_name().into(),
            declared,
            log: Log::new(
                self.store.clone(),
                self.options.cache_bytes,
                Timeouts::of_reads(self.options.claim_timeout),
            ),
            connections: Arc::new(Connections::new(self.store.clone(), connections)),
            progress,
            idle: IdleLanes::default(),
            frontier,
            snapshot,
            stop,
            wake: Arc::new(Notify::new()),
            snapshot_requested: AtomicBool::new(false),
            store: self.store,
            options: self.options,
        };
        Worker {
            shared,
            assigner,
            new_lanes,
            elsewhere: self.elsewhere,
            channels: Channels {
                frontier: frontier_sender,
                snapshot: snapshot_sender,
                stop: stop_sender,
            },
            guard,
        }
    }
}

fn key<DB: Backend>(registered: &Registered<DB>) -> (&str, u32) {
    (&registered.declaration.name, registered.declaration.version)
}

/// The names that cannot key a checkpoint, each once; `registered` is sorted by name.
fn wrong_names<DB: Backend>(registered: &[Registered<DB>]) -> Vec<BuildError> {
    registered
        .chunk_by(|one, next| key(one).0 == key(next).0)
        .filter_map(|same| check_name(key(same.first()?).0).err())
        .map(BuildError::Name)
        .collect()
}

/// The names that are given twice; `registered` is sorted by name.
fn names_taken<DB: Backend>(registered: &[Registered<DB>]) -> Vec<BuildError> {
    let pairs = registered.iter().zip(registered.iter().skip(1));
    pairs
        .filter(|(first, second)| key(first) == key(second))
        .map(|(first, second)| NameTaken {
            consumer: ConsumerId {
                name: Arc::clone(&first.declaration.name),
                version: first.declaration.version,
            },
            first: first.declaration.site,
            second: second.declaration.site,
        })
        .map(|taken| BuildError::NameTaken(Box::new(taken)))
        .collect()
}

/// Pairs of consumers that would write the same table.
fn tables_taken<DB: Backend>(registered: &[Registered<DB>]) -> Vec<BuildError> {
    let mut owners: BTreeMap<&str, &Arc<str>> = BTreeMap::new();
    let tables = registered.iter().filter_map(|one| {
        let table = one.consumer.read_model()?;
        Some((table.name, &one.declaration.name))
    });
    let mut problems = Vec::new();
    for (table, name) in tables {
        let owner = *owners.entry(table).or_insert(name);
        if owner != name {
            problems.push(BuildError::TableTaken {
                table,
                first: owner.to_string(),
                second: name.to_string(),
            });
        }
    }
    problems
}

/// Consumers with a former name that the program still has, or that two of them claim.
fn former_names_in_use<DB: Backend>(
    registered: &[Registered<DB>],
    elsewhere: &[String],
) -> Vec<BuildError> {
    let mut successors: BTreeMap<&str, &str> = BTreeMap::new();
    let mut problems = Vec::new();
    for one in registered {
        let consumer = key(one).0;
        let Some(former) = one.declaration.formerly.former() else {
            continue;
        };
        let is_declared = registered.iter().any(|other| key(other).0 == former)
            || elsewhere.iter().any(|name| name == former);
        let first = *successors.entry(former).or_insert(consumer);
        if is_declared || first != consumer {
            problems.push(BuildError::FormerNameInUse {
                consumer: consumer.to_owned(),
                former: former.to_owned(),
                by: if is_declared { former } else { first }.to_owned(),
            });
        }
    }
    problems
}

fn unknown_consumer<DB: Backend>(name: &str, registered: &[Registered<DB>]) -> BuildError {
    let known: Vec<&str> = registered
        .iter()
        .map(|one| &*one.declaration.name)
        .collect();
    BuildError::UnknownConsumer {
        name: name.to_owned(),
        known: known.join(", "),
    }
}
