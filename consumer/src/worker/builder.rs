//! Puts a worker together and finds every problem before it runs.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use super::board::Board;
use super::dialect::{Observation, ServerLife, WorkerBackend};
use super::error::{BuildError, NameTaken};
use super::log::Log;
use super::patience::Patience;
use super::rest::Rest;
use super::roster::{Post, Roster};
use super::shared::{Listen, Options, Shared, Survey};
use super::slots::Slots;
use super::{Channels, Worker};
use crate::contract::{Consumer, ScopedConsumer, Settings};
use crate::registry::{Dependencies, Registered, Registry, Selection, check_name};
use crate::store::EventStore;

type Configure = Box<dyn Fn(Settings) -> Settings + Send>;

/// Collects the consumers and settings of a worker; made by [`Worker::builder`].
pub struct WorkerBuilder<DB: WorkerBackend> {
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

impl<DB: WorkerBackend> std::fmt::Debug for WorkerBuilder<DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("registered", &self.registered)
            .field("selection", &self.selection)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<DB: WorkerBackend> WorkerBuilder<DB> {
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
                survey_interval: Duration::from_secs(1),
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
    #[cfg(feature = "auto-register")]
    #[must_use]
    pub fn discover(mut self) -> Self {
        self.selection.get_or_insert_default();
        self
    }

    /// Adds the discovered consumers of one group alone.
    #[cfg(feature = "auto-register")]
    #[must_use]
    pub fn discover_group(mut self, group: impl Into<String>) -> Self {
        let selection = self.selection.take().unwrap_or_default();
        self.selection = Some(selection.in_group(group));
        self
    }

    /// Adds the consumers of the named crates alone: `discover_in(consumers![crate, billing])`.
    #[cfg(feature = "auto-register")]
    #[must_use]
    pub fn discover_in(mut self, crates: crate::Crates) -> Self {
        let selection = self.selection.take().unwrap_or_default();
        self.selection = Some(selection.in_crates(crates));
        self
    }

    /// Gives discovered consumers what their `init` asks for.
    #[must_use]
    pub fn dependencies(mut self, dependencies: Dependencies) -> Self {
        self.dependencies = dependencies;
        self
    }

    /// Adds a consumer of every event.
    #[must_use]
    pub fn consumer(self, consumer: impl Consumer<DB>) -> Self {
        self.registered(Registered::new(consumer))
    }

    /// Adds a consumer with a scope (R7).
    #[must_use]
    pub fn scoped_consumer(self, consumer: impl ScopedConsumer<DB>) -> Self {
        self.registered(Registered::scoped(consumer))
    }

    /// Adds a consumer with its declaration.
    #[must_use]
    pub fn registered(mut self, registered: Registered<DB>) -> Self {
        self.registered.push(registered);
        self
    }

    /// Changes the settings of all consumers, over what they declare.
    #[must_use]
    pub fn configure_all(mut self, change: impl Fn(Settings) -> Settings + Send + 'static) -> Self {
        self.configure_all.push(Box::new(change));
        self
    }

    /// Changes the settings of one consumer, over what it declares and over
    /// [`configure_all`](Self::configure_all).
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
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.options.poll_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Sets how often the checkpoint rows are looked at, for what operators and other processes
    /// did: 1 s unless set, at least 1 ms.
    #[must_use]
    pub fn survey_interval(mut self, interval: Duration) -> Self {
        self.options.survey_interval = interval.max(Duration::from_millis(1));
        self
    }

    /// Sets how often the checkpoints of consumers whose scope has nothing new are moved along:
    /// 10 s unless set.
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
    #[must_use]
    pub fn claim_timeout(mut self, timeout: Duration) -> Self {
        self.options.claim_timeout = timeout.max(Duration::from_millis(100));
        self
    }

    /// Sets after what time without progress [`WorkerHandle::health`](crate::WorkerHandle::health)
    /// says that the worker is not live: 5 minutes unless set. It is to be longer than the slowest
    /// batch.
    #[must_use]
    pub fn stall_after(mut self, patience: Duration) -> Self {
        self.options.stall_after = patience;
        self
    }

    /// Sets how long a shutdown waits for the batches in hand: 30 s unless set. What is not
    /// committed then is rolled back and handled again by the next run.
    #[must_use]
    pub fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.options.shutdown_deadline = deadline;
        self
    }

    /// Sets how many bytes of events are kept in memory for consumers at nearby positions to
    /// share: 64 MiB unless set.
    #[must_use]
    pub fn cache_bytes(mut self, bytes: u64) -> Self {
        self.options.cache_bytes = bytes;
        self
    }

    /// Sets how many bytes of events a batch holds at most: 16 MiB unless set. A larger event is a
    /// batch by itself.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: u64) -> Self {
        self.options.batch_bytes = bytes.max(1);
        self
    }

    /// Sets whether the handlers that use the transaction run on a thread of their own that shares
    /// one core with the connection they write on: yes on `SQLite`, no on Postgres, unless set.
    ///
    /// sqlx runs each `SQLite` connection on a thread of its own, and waking up another core for
    /// every statement costs several times as much as the statement. On the other hand all these
    /// handlers then share that core; set `false` when they compute more than they write. A thread
    /// that such a handler starts by itself inherits the core. Where threads cannot be kept on a
    /// core (only Linux is supported), or where there is just one, it changes nothing.
    #[must_use]
    pub fn lanes_on_one_core(mut self, on_one_core: bool) -> Self {
        self.options.lanes_on_one_core = on_one_core;
        self
    }

    /// Listens, over one connection of the pool, for the notifications of stores that were made
    /// with `notify(true)`; polling goes on underneath. Postgres only.
    #[must_use]
    pub fn listen(mut self) -> Self {
        self.options.listen = Listen::OverPool;
        self
    }

    /// Listens over a connection of its own: needed where the pool goes through a pooler in
    /// transaction mode, which cannot pass notifications on. Postgres only.
    #[must_use]
    pub fn listen_url(mut self, url: impl Into<Arc<str>>) -> Self {
        self.options.listen = Listen::OverUrl(url.into());
        self
    }

    /// Puts the worker together.
    ///
    /// # Errors
    /// When the consumers do not fit together, when there are none, or when the pool is too small.
    pub fn build(mut self) -> Result<Worker<DB>, BuildError> {
        self.resolve()?;
        if self.registered.is_empty() {
            return Err(BuildError::NoConsumers);
        }
        let (writers, spares) = self.share_connections()?;
        Ok(self.assemble(writers, spares))
    }

    /// Finds the consumers, applies the settings to them, and checks their names.
    pub(crate) fn resolve(&mut self) -> Result<(), BuildError> {
        if let Some(selection) = self.selection.take() {
            let registry = self.discovered(&selection)?;
            for other in registry.other_databases() {
                tracing::warn!("consumer {other}");
                self.elsewhere.push(other.name.to_owned());
            }
            let left_out = registry.left_out().iter();
            self.elsewhere.extend(left_out.map(|&name| name.to_owned()));
            self.registered.extend(registry.into_registered());
        }
        self.apply_settings()?;
        // Applied once, however often this is called.
        self.configure_all.clear();
        self.configure.clear();
        self.registered
            .sort_by(|left, right| key(left).cmp(&key(right)));
        check_names(&self.registered)
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

    fn apply_settings(&mut self) -> Result<(), BuildError> {
        for registered in &mut self.registered {
            let settings = &mut registered.declaration.settings;
            for change in &self.configure_all {
                *settings = change(settings.clone());
            }
        }
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
                return Err(unknown(name, &self.registered));
            }
        }
        Ok(())
    }

    /// Divides the pool between lanes that write and handlers that need a connection for nothing.
    fn share_connections(&self) -> Result<(usize, usize), BuildError> {
        let detached = self
            .registered
            .iter()
            .filter(|registered| !registered.consumer.uses_transaction())
            .count();
        let may_terminate = self
            .registered
            .iter()
            .any(|registered| registered.declaration.settings.handler_timeout.is_some());
        let listens = matches!(self.options.listen, Listen::OverPool);
        // One for the frontier, one to read the log, one each for what may be needed beside.
        let fixed = 2 + usize::from(listens) + usize::from(may_terminate);
        let max = self.store.pool().options().get_max_connections();
        let needed = fixed + 1 + usize::from(detached > 0);
        let Some(free) = usize::try_from(max)
            .unwrap_or(usize::MAX)
            .checked_sub(fixed)
            .filter(|_| usize::try_from(max).unwrap_or(usize::MAX) >= needed)
        else {
            return Err(BuildError::PoolTooSmall {
                max,
                needed: u32::try_from(needed).unwrap_or(u32::MAX),
                why: if detached > 0 {
                    "and one for handlers without `tx`"
                } else {
                    "as many batches run at once as there are more"
                },
            });
        };
        let spares = detached.min((free / 2).max(1));
        let lanes = self
            .registered
            .iter()
            .map(|one| one.declaration.settings.segments as usize)
            .sum();
        // The other half stays with the rest of the program, which may share the pool.
        let half = (free - spares).div_ceil(2);
        let writers = DB::WRITERS.unwrap_or(lanes).min(half).max(1);
        Ok((writers, spares))
    }

    fn assemble(self, writers: usize, spares: usize) -> Worker<DB> {
        let posts: Vec<Arc<Post<DB>>> = self
            .registered
            .into_iter()
            .map(|one| Arc::new(Post::new(one)))
            .collect();
        let consumers = posts
            .iter()
            .map(|post| (Arc::clone(&post.enrolment.consumer), post.enrolment.version));
        let board = Arc::new(Board::new(consumers.collect(), self.options.stall_after));
        let (frontier_sender, frontier) = watch::channel(Observation {
            settled: 0,
            head: 0,
            life: ServerLife::default(),
            waiting: false,
            more: false,
        });
        let (survey_sender, survey) = watch::channel(Arc::new(Survey::default()));
        let (stop_sender, stop) = watch::channel(false);
        let (vacancy_sender, vacancies) = mpsc::unbounded_channel();
        let roster = Roster {
            posts,
            board: Arc::clone(&board),
            vacancies: vacancy_sender,
        };
        let shared = Arc::new(Shared {
            statements: DB::sql(&self.store),
            log: Log::new(
                self.store.clone(),
                self.options.cache_bytes,
                Patience::of_claims(self.options.claim_timeout).with_reads(),
            ),
            slots: Arc::new(Slots::new(self.store.clone(), writers, spares)),
            board,
            rest: Rest::default(),
            frontier,
            survey,
            stop,
            wake: Arc::new(Notify::new()),
            wants_survey: AtomicBool::new(false),
            store: self.store,
            options: self.options,
        });
        Worker {
            shared,
            roster,
            vacancies,
            elsewhere: self.elsewhere,
            channels: Channels {
                frontier: frontier_sender,
                survey: survey_sender,
                stop: stop_sender,
            },
        }
    }
}

fn key<DB: WorkerBackend>(registered: &Registered<DB>) -> (&str, u32) {
    (&registered.declaration.name, registered.declaration.version)
}

fn check_names<DB: WorkerBackend>(registered: &[Registered<DB>]) -> Result<(), BuildError> {
    for one in registered {
        check_name(&one.declaration.name)?;
    }
    for pair in registered.windows(2) {
        if let [first, second] = pair
            && key(first) == key(second)
        {
            let twice = NameTaken {
                name: Arc::clone(&first.declaration.name),
                version: first.declaration.version,
                first: first.declaration.site,
                second: second.declaration.site,
            };
            return Err(BuildError::NameTaken(Box::new(twice)));
        }
    }
    Ok(())
}

fn unknown<DB: WorkerBackend>(name: &str, registered: &[Registered<DB>]) -> BuildError {
    let known: Vec<&str> = registered
        .iter()
        .map(|one| &*one.declaration.name)
        .collect();
    BuildError::UnknownConsumer {
        name: name.to_owned(),
        known: known.join(", "),
    }
}
