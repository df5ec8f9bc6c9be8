//! Puts a worker together and finds every problem before it runs.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use super::run::{Channels, Worker};
use crate::backend::{Backend, Incarnation, Observation};
use crate::contract::{Consumer, ScopedConsumer, Settings};
use crate::registry::{Dependencies, Registered, Registry, Selection, check_name};
use crate::store::EventStore;
use crate::worker::connections::{Connections, Shares};
use crate::worker::context::{Shared, Snapshot};
use crate::worker::error::{BuildError, NameTaken};
use crate::worker::log::Log;
use crate::worker::options::{Listen, Options};
use crate::worker::poller::assignment::{AssignedConsumer, Assignments};
use crate::worker::poller::idle::Idle;
use crate::worker::progress::LaneBoard;
use crate::worker::run_guard::RunGuard;
use crate::worker::timeouts::Timeouts;

type Configure = Box<dyn Fn(Settings) -> Settings + Send>;

/// Collects the consumers and settings of a worker; made by [`Worker::builder`].
///
/// ```no_run
/// # #[cfg(all(feature = "sqlite", feature = "auto-register"))]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use consumer::{Dependencies, OnError, SqliteEventStore, Worker, shutdown_signal};
///
/// /// What the `init` of a consumer asks for.
/// struct MailServer(String);
///
/// let store = SqliteEventStore::connect("sqlite:app.db").await?;
/// let worker = Worker::builder(store)
///     // Who runs: everything that is declared and linked, with what it needs to be made.
///     .discover()
///     .dependencies(Dependencies::new().with(MailServer("smtp.example.com".into())))
///     // How: over what the attributes say, for all and then for one.
///     .configure_all(|settings| settings.retries(10))
///     .configure("user_read_model", |settings| settings.batch_size(1000).on_error(OnError::Park))
///     // How often it looks when nothing wakes it.
///     .poll_interval(Duration::from_millis(100))
///     .snapshot_interval(Duration::from_secs(1))
///     .advance_interval(Duration::from_secs(10))
///     // How long it waits: for a frozen process, before it counts as stuck, and when it ends.
///     .claim_timeout(Duration::from_secs(60))
///     .stall_after(Duration::from_secs(300))
///     .shutdown_deadline(Duration::from_secs(30))
///     // How much memory it takes for events.
///     .cache_bytes(64 << 20)
///     .batch_bytes(16 << 20)
///     .build()?;
/// let report = worker.run(shutdown_signal()).await?;
/// # Ok(())
/// # }
/// ```
///
/// The guides [`running`](crate::guide::running) and [`scaling`](crate::guide::scaling) say what to set when.
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

impl<DB: Backend> WorkerBuilder<DB> {
    pub(super) fn new(store: EventStore<DB>) -> Self {
        Self {
            store,
            registered: Vec::new(),
            elsewhere: Vec::new(),
            selection: None,
            dependencies: Dependencies::default(),
            configure_all: Vec::new(),
            configure: Vec::new(),
            options: Options {
                poll_interval: DB::POLL_INTERVAL,
                snapshot_interval: Duration::from_secs(1),
                advance_interval: Duration::from_secs(10),
                claim_timeout: Duration::from_mins(1),
                stall_after: Duration::from_mins(5),
                shutdown_deadline: Duration::from_secs(30),
                cache_bytes: 64 << 20,
                batch_bytes: 16 << 20,
                lanes_on_one_core: DB::LANES_ON_ONE_CORE,
                listen: Listen::No,
            },
        }
    }

    /// Adds every consumer that is declared with `#[consumer]`, linked into the program, and for
    /// this database.
    ///
    /// See [`Worker`](crate::Worker) for an example.
    #[cfg(feature = "auto-register")]
    #[must_use]
    pub fn discover(mut self) -> Self {
        self.selection.get_or_insert_default();
        self
    }

    /// Adds the discovered consumers of one group alone.
    ///
    /// A program with two kinds of processes, one of which runs what is declared with `group =
    /// "projections"`, says `discover_group("projections")` in that one.
    ///
    /// ```no_run
    /// # #[cfg(all(feature = "sqlite", feature = "auto-register"))]
    /// # fn example(store: consumer::SqliteEventStore) -> Result<(), consumer::BuildError> {
    /// use consumer::Worker;
    ///
    /// let worker = Worker::builder(store).discover_group("projections").build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "auto-register")]
    #[must_use]
    pub fn discover_group(mut self, group: impl Into<String>) -> Self {
        let selection = self.selection.take().unwrap_or_default();
        self.selection = Some(selection.in_group(group));
        self
    }

    /// Adds the consumers of the named crates alone: `discover_in(consumers![crate, billing])`.
    ///
    /// ```no_run
    /// # #[cfg(all(feature = "sqlite", feature = "auto-register"))]
    /// # fn example(store: consumer::SqliteEventStore) -> Result<(), consumer::BuildError> {
    /// use consumer::{Worker, consumers};
    ///
    /// let worker = Worker::builder(store).discover_in(consumers![crate]).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "auto-register")]
    #[must_use]
    pub fn discover_in(mut self, crates: crate::Crates) -> Self {
        let selection = self.selection.take().unwrap_or_default();
        self.selection = Some(selection.in_crates(crates));
        self
    }

    /// Gives discovered consumers what their `init` asks for.
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

    /// Adds a consumer of every event.
    ///
    /// See [`Worker::run_once`](crate::Worker::run_once) for an example.
    #[must_use]
    pub fn consumer(self, consumer: impl Consumer<DB>) -> Self {
        self.registered(Registered::new(consumer))
    }

    /// Adds a consumer with a scope (R7).
    ///
    /// Consumers are implemented by hand where a macro does not fit, such as for generic types; see
    /// [`Consumer`] and [`ScopedConsumer`]. Both ways can be mixed, also with [`registered`](Self::registered).
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use consumer::{Consumer, Context, HandlerError, PersistedEvent, ScopedConsumer, SqliteEventStore, Worker, sqlx};
    ///
    /// struct Users;
    ///
    /// impl Consumer<sqlx::Sqlite> for Users {
    ///     fn name(&self) -> &str {
    ///         "users"
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
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// let worker = Worker::builder(store).scoped_consumer(Users).build()?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn scoped_consumer(self, consumer: impl ScopedConsumer<DB>) -> Self {
        self.registered(Registered::scoped(consumer))
    }

    /// Adds a consumer with its declaration.
    ///
    /// ```no_run
    /// # #[cfg(feature = "sqlite")]
    /// # fn example<C: consumer::Consumer<consumer::sqlx::Sqlite>>(store: consumer::SqliteEventStore, audit_log: C) -> Result<(), consumer::BuildError> {
    /// use consumer::{Registered, Worker};
    ///
    /// // What the trait does not say: a version, a group, a scope that is known at run time.
    /// let mut registered = Registered::new(audit_log);
    /// registered.declaration.version = 2;
    /// registered.declaration.scope = vec!["User".into()];
    /// let worker = Worker::builder(store).registered(registered).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn registered(mut self, registered: Registered<DB>) -> Self {
        self.registered.push(registered);
        self
    }

    /// Changes the settings of all consumers, over what they declare.
    ///
    /// See [`WorkerBuilder`] for an example.
    #[must_use]
    pub fn configure_all(mut self, change: impl Fn(Settings) -> Settings + Send + 'static) -> Self {
        self.configure_all.push(Box::new(change));
        self
    }

    /// Changes the settings of one consumer, over what it declares and over
    /// [`configure_all`](Self::configure_all).
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
    /// use consumer::{BuildError, SqliteEventStore, Worker};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// let worker = Worker::builder(store).consumer(Users).configure("user", |settings| settings.retries(1));
    ///
    /// // A name that is misspelt is an error, not a setting that has no effect.
    /// let error = worker.build().unwrap_err();
    /// assert!(matches!(error, BuildError::UnknownConsumer { known, .. } if known == "users"));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
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

    /// Sets how often the log is looked at when nothing wakes the worker: 250 ms on Postgres and
    /// 50 ms on `SQLite` unless set, at least 1 ms.
    ///
    /// See [`WorkerBuilder`] for an example.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.options.poll_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Sets how often the checkpoint rows are looked at, for what operators and other processes
    /// did: 1 s unless set, at least 1 ms.
    ///
    /// See [`WorkerBuilder`] for an example.
    #[must_use]
    pub fn snapshot_interval(mut self, interval: Duration) -> Self {
        self.options.snapshot_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Sets how often the checkpoints of consumers whose scope has nothing new are moved along:
    /// 10 s unless set.
    ///
    /// See [`WorkerBuilder`] for an example.
    #[must_use]
    pub fn advance_interval(mut self, interval: Duration) -> Self {
        self.options.advance_interval = interval;
        self
    }

    /// Sets after what time without a word from its process a claim ends and another process may
    /// take over: 60 s unless set, at least 100 ms. It bounds how long a frozen process, or one
    /// behind a cut network, keeps a consumer; a handler must not leave its transaction idle for
    /// longer. Postgres only.
    ///
    /// The process behind the cut gives a connection up that has been silent for as long (for 5 s
    /// when that is longer, and five times that for a read), so that it comes back by itself. A
    /// statement of a handler is only given up after its `handler_timeout`.
    ///
    /// ```no_run
    /// # #[cfg(feature = "postgres")]
    /// # fn example(store: consumer::PgEventStore) {
    /// use std::time::Duration;
    ///
    /// use consumer::Worker;
    ///
    /// // Another process takes over 15 s after this one has frozen.
    /// let builder = Worker::builder(store).claim_timeout(Duration::from_secs(15));
    /// # }
    /// ```
    #[must_use]
    pub fn claim_timeout(mut self, timeout: Duration) -> Self {
        self.options.claim_timeout = timeout.max(Duration::from_millis(100));
        self
    }

    /// Sets after what time without progress [`WorkerHandle::health`](crate::WorkerHandle::health)
    /// says that the worker is not live: 5 minutes unless set. It is to be longer than the slowest
    /// batch.
    ///
    /// See [`WorkerBuilder`] for an example.
    #[must_use]
    pub fn stall_after(mut self, timeouts: Duration) -> Self {
        self.options.stall_after = timeouts;
        self
    }

    /// Sets how long a shutdown waits for the batches in hand: 30 s unless set. What is not
    /// committed then is rolled back and handled again by the next run.
    ///
    /// See [`WorkerBuilder`] for an example.
    #[must_use]
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.options.shutdown_deadline = deadline;
        self
    }

    /// Sets how many bytes of events are kept in memory for consumers at nearby positions to
    /// share: 64 MiB unless set.
    ///
    /// See [`WorkerBuilder`] for an example.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: u64) -> Self {
        self.options.cache_bytes = bytes;
        self
    }

    /// Sets how many bytes of events a batch holds at most: 16 MiB unless set. A larger event is a
    /// batch by itself.
    ///
    /// See [`WorkerBuilder`] for an example.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: u64) -> Self {
        self.options.batch_bytes = bytes.max(1);
        self
    }

    /// Sets whether the handlers that use the transaction run on a thread of their own that shares
    /// one core with the connection they write on, and the log is read likewise on another core:
    /// yes on `SQLite`, no on Postgres, unless set.
    ///
    /// sqlx runs each `SQLite` connection on a thread of its own, and waking up another core for
    /// every statement, and for every few rows, costs several times as much as the statement. On
    /// the other hand all these handlers then share that core; set `false` when they compute more
    /// than they write. A thread that such a handler starts by itself inherits the core. Where threads cannot be kept on a
    /// core (only Linux is supported), or where there is just one, it changes nothing.
    ///
    /// ```no_run
    /// # #[cfg(feature = "sqlite")]
    /// # fn example(store: consumer::SqliteEventStore) {
    /// use consumer::Worker;
    ///
    /// // Its handlers resize pictures.
    /// let builder = Worker::builder(store).lanes_on_one_core(false);
    /// # }
    /// ```
    #[must_use]
    pub fn lanes_on_one_core(mut self, on_one_core: bool) -> Self {
        self.options.lanes_on_one_core = on_one_core;
        self
    }

    /// Listens, over one connection of the pool, for the notifications of stores that were made
    /// with `notify(true)`; polling goes on underneath. Postgres only.
    ///
    /// See [`listen_url`](Self::listen_url) for an example.
    #[must_use]
    pub fn listen(mut self) -> Self {
        self.options.listen = Listen::OverPool;
        self
    }

    /// Listens over a connection of its own: needed where the pool goes through a pooler in
    /// transaction mode, which cannot pass notifications on. Postgres only.
    ///
    /// ```no_run
    /// # #[cfg(all(feature = "postgres", feature = "auto-register"))]
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use consumer::{PgEventStore, Worker};
    ///
    /// // Batches go through PgBouncer, the listener to the server itself.
    /// let store = PgEventStore::connect("postgres://app@pooler:6432/shop").await?.notify(true);
    /// let worker = Worker::builder(store)
    ///     .discover()
    ///     .listen_url("postgres://app@db:5432/shop")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn listen_url(mut self, url: impl Into<Arc<str>>) -> Self {
        self.options.listen = Listen::OverUrl(url.into());
        self
    }

    /// Puts the worker together.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use consumer::{BuildError, SqliteEventStore, Worker};
    ///
    /// let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// let error = Worker::builder(store).build().unwrap_err();
    /// assert!(matches!(error, BuildError::NoConsumers));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// When the consumers do not fit together, when there are none, or when the pool is too small:
    /// everything at once.
    pub fn build(mut self) -> Result<Worker<DB>, BuildError> {
        let mut problems = self.find_problems();
        if self.registered.is_empty() {
            // Those that could not be found or made are no reason to say that there are none.
            if problems.is_empty() {
                problems.push(BuildError::NoConsumers);
            }
            return Err(BuildError::of(problems));
        }
        match self.share_connections() {
            Ok(shares) if problems.is_empty() => Ok(self.assemble(shares)),
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

    fn find_problems(&mut self) -> Vec<BuildError> {
        let mut problems = Vec::new();
        if let Some(selection) = self.selection.take() {
            match self.discovered(&selection) {
                Ok(registry) => self.take_in(registry),
                Err(error) => problems.push(error),
            }
        }
        let without_consumer = self.apply_settings();
        // One that could not be made is not one that there is not.
        if problems.is_empty() {
            problems.extend(without_consumer);
        }
        // Applied once, however often this is called.
        self.configure_all.clear();
        self.configure.clear();
        self.registered
            .sort_by(|left, right| key(left).cmp(&key(right)));
        problems.extend(wrong_names(&self.registered));
        problems.extend(names_taken(&self.registered));
        problems
    }

    fn take_in(&mut self, registry: Registry<DB>) {
        for other in registry.other_databases() {
            tracing::warn!("consumer {other}");
            self.elsewhere.push(other.name.to_owned());
        }
        let left_out = registry.left_out().iter();
        self.elsewhere.extend(left_out.map(|&name| name.to_owned()));
        self.registered.extend(registry.into_registered());
    }

    /// The consumers that [`resolve`](Self::resolve) found.
    pub(crate) fn consumers(&self) -> &[Registered<DB>] {
        &self.registered
    }

    /// Keeps some of the consumers that [`resolve`](Self::resolve) found; the others count as
    /// consumers that somebody else runs.
    #[cfg(feature = "cli")]
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Registered<DB>) -> bool) {
        let (kept, left) = std::mem::take(&mut self.registered)
            .into_iter()
            .partition(|registered| keep(registered));
        self.registered = kept;
        let left: Vec<Registered<DB>> = left;
        self.elsewhere
            .extend(left.iter().map(|one| one.declaration.name.to_string()));
    }

    pub(crate) fn elsewhere(&self) -> &[String] {
        &self.elsewhere
    }

    pub(crate) fn store(&self) -> &EventStore<DB> {
        &self.store
    }

    fn discovered(&self, selection: &Selection) -> Result<Registry<DB>, BuildError> {
        Ok(Registry::<DB>::select(selection, &self.dependencies)?)
    }

    /// Returns an error for each name that settings were given for and no consumer has.
    fn apply_settings(&mut self) -> Vec<BuildError> {
        for registered in &mut self.registered {
            let settings = &mut registered.declaration.settings;
            for change in &self.configure_all {
                *settings = change(settings.clone());
            }
        }
        let mut without_consumer = Vec::new();
        for (name, change) in &self.configure {
            let mut known = false;
            for registered in &mut self.registered {
                if *registered.declaration.name == **name {
                    known = true;
                    let settings = &mut registered.declaration.settings;
                    *settings = change(settings.clone());
                }
            }
            if !known {
                without_consumer.push(unknown(name, &self.registered));
            }
        }
        for registered in &mut self.registered {
            let settings = &mut registered.declaration.settings;
            // The fields are public, and a change may have put anything there.
            *settings = settings.clone().clamped();
        }
        without_consumer
    }

    /// Divides the pool between lanes that write, handlers that work elsewhere, and the rest of the
    /// program.
    fn share_connections(&self) -> Result<Shares, BuildError> {
        let lanes_of = |writes: bool| -> usize {
            self.registered
                .iter()
                .filter(|one| one.consumer.uses_transaction() == writes)
                .map(|one| one.declaration.settings.segments as usize)
                .sum()
        };
        let (writing, elsewhere) = (lanes_of(true), lanes_of(false));
        let may_terminate = self
            .registered
            .iter()
            .any(|registered| registered.declaration.settings.handler_timeout.is_some());
        let listens = matches!(self.options.listen, Listen::OverPool);
        // One for the frontier, one to read the log, one each for what may be needed beside.
        let fixed = 2 + usize::from(listens) + usize::from(may_terminate);
        // A claim that is held while the handler works elsewhere is a connection beside the one
        // that the handler is given.
        let cost = 1 + usize::from(DB::HOLDS_CLAIMS);
        let least = 1 + cost * usize::from(elsewhere > 0);
        let max = usize::try_from(self.store.pool().options().get_max_connections())
            .unwrap_or(usize::MAX);
        let Some(free) = max.checked_sub(fixed).filter(|free| *free >= least) else {
            return Err(BuildError::PoolTooSmall {
                max: u32::try_from(max).unwrap_or(u32::MAX),
                needed: u32::try_from(fixed + least).unwrap_or(u32::MAX),
                why: if elsewhere > 0 {
                    "and two for one of a handler without `tx`"
                } else {
                    "as many batches run at once as there are more"
                },
            });
        };
        // The worker keeps what it opens: the rest of the program may share the pool.
        let free = free.saturating_sub(max / 5).max(least);
        let writers = DB::WRITERS.unwrap_or(writing).clamp(1, 1 + free - least);
        let spares = ((free - writers) / cost).min(elsewhere);
        if DB::WRITERS.is_none() && writers + spares < writing + elsewhere {
            tracing::warn!(
                lanes = writing + elsewhere,
                batches = writers + spares,
                max_connections = max,
                "there are more lanes than connections for them: a handler that takes long keeps others waiting; raise `max_connections` of the pool, or set a `handler_timeout`"
            );
        }
        Ok(Shares {
            writers,
            holders: if DB::HOLDS_CLAIMS { spares } else { 0 },
            spares,
            resting: DB::RESTING.min(free - writers - cost * spares),
        })
    }

    fn assemble(self, connections: Shares) -> Worker<DB> {
        let consumers: Vec<Arc<AssignedConsumer<DB>>> = self
            .registered
            .into_iter()
            .map(|one| Arc::new(AssignedConsumer::new(one)))
            .collect();
        let ids = consumers
            .iter()
            .map(|consumer| consumer.enrolment.consumer.clone());
        let board = Arc::new(LaneBoard::new(ids.collect(), self.options.stall_after));
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
        let assignments = Assignments {
            consumers,
            board: Arc::clone(&board),
            new_lanes: new_lane_sender,
        };
        let shared = Arc::new(Shared {
            statements: DB::checkpoint_statements(self.store.settings()),
            log: Log::new(
                self.store.clone(),
                self.options.cache_bytes,
                Timeouts::of_claims(self.options.claim_timeout).with_reads(),
            ),
            connections: Arc::new(Connections::new(self.store.clone(), connections)),
            board,
            rest: Idle::default(),
            frontier,
            snapshot,
            stop,
            wake: Arc::new(Notify::new()),
            wants_snapshot: AtomicBool::new(false),
            store: self.store,
            options: self.options,
        });
        Worker {
            end: RunGuard::of(&shared.board),
            shared,
            assignments,
            new_lanes,
            elsewhere: self.elsewhere,
            channels: Channels {
                frontier: frontier_sender,
                snapshot: snapshot_sender,
                stop: stop_sender,
            },
        }
    }
}

fn key<DB: Backend>(registered: &Registered<DB>) -> (&str, u32) {
    (&registered.declaration.name, registered.declaration.version)
}

/// `registered` is in the order of names, here and below.
fn wrong_names<DB: Backend>(registered: &[Registered<DB>]) -> Vec<BuildError> {
    registered
        .chunk_by(|one, next| key(one).0 == key(next).0)
        .filter_map(|same| check_name(key(same.first()?).0).err())
        .map(BuildError::Name)
        .collect()
}

fn names_taken<DB: Backend>(registered: &[Registered<DB>]) -> Vec<BuildError> {
    let pairs = registered.iter().zip(registered.iter().skip(1));
    pairs
        .filter(|(first, second)| key(first) == key(second))
        .map(|(first, second)| NameTaken {
            name: Arc::clone(&first.declaration.name),
            version: first.declaration.version,
            first: first.declaration.site,
            second: second.declaration.site,
        })
        .map(|twice| BuildError::NameTaken(Box::new(twice)))
        .collect()
}

fn unknown<DB: Backend>(name: &str, registered: &[Registered<DB>]) -> BuildError {
    let known: Vec<&str> = registered
        .iter()
        .map(|one| &*one.declaration.name)
        .collect();
    BuildError::UnknownConsumer {
        name: name.to_owned(),
        known: known.join(", "),
    }
}
