//! Consumers whose handlers are closures, and workers that run beside a test.

use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use consumer::{
    Backend, BatchError, Consumer, Context, EventFormat, Formerly, HandlerError, LogProblem,
    Mismatch, PersistedEvent, Report, ScopedConsumer, Settings, StoreError, Worker, WorkerBuilder,
    WorkerError, WorkerHandle,
};
use tokio::task::JoinHandle;

use crate::{Database, TestDatabase};

/// The boxed future of a handler.
pub type Handled<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

type OneByOne<DB> = dyn for<'a> Fn(
        &'a Context,
        &'a mut <DB as sqlx::Database>::Connection,
        &'a PersistedEvent,
    ) -> Handled<'a, Result<(), HandlerError>>
    + Send
    + Sync;

type AllAtOnce<DB> = dyn for<'a> Fn(
        &'a Context,
        &'a mut <DB as sqlx::Database>::Connection,
        &'a [PersistedEvent],
    ) -> Handled<'a, Result<usize, BatchError>>
    + Send
    + Sync;

type Knows = dyn Fn(EventFormat<'_>) -> bool + Send + Sync;

enum Handler<DB: TestDatabase> {
    OneByOne(Box<OneByOne<DB>>),
    AllAtOnce(Box<AllAtOnce<DB>>),
}

/// A consumer whose handler is a closure.
pub struct TestConsumer<DB: TestDatabase> {
    name: String,
    scope: Vec<&'static str>,
    settings: Settings,
    formerly: Formerly,
    uses_transaction: bool,
    knows: Box<Knows>,
    takes: Box<Knows>,
    handler: Handler<DB>,
}

/// A consumer that calls `handler` with each event.
pub fn consumer<DB, F>(name: &str, handler: F) -> TestConsumer<DB>
where
    DB: TestDatabase,
    F: for<'a> Fn(
            &'a Context,
            &'a mut DB::Connection,
            &'a PersistedEvent,
        ) -> Handled<'a, Result<(), HandlerError>>
        + Send
        + Sync
        + 'static,
{
    TestConsumer::new(name, Handler::OneByOne(Box::new(handler)))
}

/// A consumer that calls `handler` with each batch.
pub fn batch_consumer<DB, F>(name: &str, handler: F) -> TestConsumer<DB>
where
    DB: TestDatabase,
    F: for<'a> Fn(
            &'a Context,
            &'a mut DB::Connection,
            &'a [PersistedEvent],
        ) -> Handled<'a, Result<usize, BatchError>>
        + Send
        + Sync
        + 'static,
{
    TestConsumer::new(name, Handler::AllAtOnce(Box::new(handler)))
}

/// A consumer that writes each event into the table `applied`, through its transaction.
#[must_use]
pub fn read_model<DB: TestDatabase>(name: &str) -> TestConsumer<DB> {
    let consumer_name: Arc<str> = name.into();
    consumer(name, move |_, tx, event| {
        let name = Arc::clone(&consumer_name);
        Box::pin(async move { Ok(DB::apply(tx, &name, event).await?) })
    })
}

/// A [`read_model`] that also adds each event to the running hash of its aggregate.
pub fn chaining<DB: TestDatabase>(name: &str) -> TestConsumer<DB> {
    let consumer_name: Arc<str> = name.into();
    consumer(name, move |_, tx: &mut DB::Connection, event| {
        let name = Arc::clone(&consumer_name);
        Box::pin(async move {
            DB::apply(tx, &name, event).await?;
            Ok(DB::chain(tx, &name, event).await?)
        })
    })
}

/// A [`read_model`] that fails on the events that `judge` returns an error for.
pub fn judging<DB: TestDatabase>(
    name: &str,
    judge: impl Fn(&Context, &PersistedEvent) -> Result<(), String> + Send + Sync + 'static,
) -> TestConsumer<DB> {
    let consumer_name: Arc<str> = name.into();
    consumer(name, move |cx, tx, event| {
        let name = Arc::clone(&consumer_name);
        let verdict = judge(cx, event);
        Box::pin(async move {
            // Written before the failure, so it must be rolled back.
            DB::apply(tx, &name, event).await?;
            Ok(verdict?)
        })
    })
}

impl<DB: TestDatabase> TestConsumer<DB> {
    fn new(name: &str, handler: Handler<DB>) -> Self {
        Self {
            name: name.to_owned(),
            scope: Vec::new(),
            settings: Settings::default(),
            formerly: Formerly::None,
            uses_transaction: true,
            knows: Box::new(|_| true),
            takes: Box::new(|_| true),
            handler,
        }
    }

    /// Sets its scope.
    #[must_use]
    pub fn scope(mut self, aggregate_types: &[&'static str]) -> Self {
        self.scope = aggregate_types.to_vec();
        self
    }

    /// Sets its settings.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets which events its code knows.
    #[must_use]
    pub fn knows(
        mut self,
        knows: impl Fn(EventFormat<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.knows = Box::new(knows);
        self
    }

    /// Sets which events its code takes, and does not pass over.
    #[must_use]
    pub fn takes(
        mut self,
        takes: impl Fn(EventFormat<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.takes = Box::new(takes);
        self
    }

    /// Sets its former name, which is known to be none otherwise.
    #[must_use]
    pub fn formerly(mut self, formerly: Formerly) -> Self {
        self.formerly = formerly;
        self
    }

    /// Makes it ignore the transaction (R5).
    #[must_use]
    pub fn without_tx(mut self) -> Self {
        self.uses_transaction = false;
        self
    }
}

impl<DB: TestDatabase> Consumer<DB> for TestConsumer<DB> {
    fn name(&self) -> &str {
        &self.name
    }

    fn scope(&self) -> &[&str] {
        ScopedConsumer::<DB>::aggregate_types(self)
    }

    async fn handle(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        match &self.handler {
            Handler::OneByOne(handler) => handler(cx, tx, event).await,
            Handler::AllAtOnce(_) => Err("this consumer takes whole batches".into()),
        }
    }

    async fn handle_batch(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        events: &[PersistedEvent],
    ) -> Result<usize, BatchError> {
        match &self.handler {
            Handler::AllAtOnce(handler) => {
                cx.enter_several();
                handler(cx, tx, events).await
            }
            Handler::OneByOne(handler) => {
                for (handled, event) in events.iter().enumerate() {
                    if handled > 0 && cx.should_stop(handled) {
                        return Ok(handled);
                    }
                    cx.enter(event.global_position);
                    handler(cx, tx, event)
                        .await
                        .map_err(|error| BatchError::at(handled, error))?;
                }
                Ok(events.len())
            }
        }
    }

    fn settings(&self) -> Settings {
        self.settings.clone()
    }

    fn knows(&self, format: EventFormat<'_>) -> bool {
        (self.knows)(format)
    }

    fn takes(&self, format: EventFormat<'_>) -> bool {
        (self.takes)(format)
    }

    fn formerly(&self) -> Formerly {
        self.formerly.clone()
    }

    fn uses_transaction(&self) -> bool {
        self.uses_transaction
    }
}

impl<DB: TestDatabase> ScopedConsumer<DB> for TestConsumer<DB> {
    fn aggregate_types(&self) -> &[&str] {
        &self.scope
    }
}

/// The name of another release than all before, which tries what they have stopped at.
#[must_use]
pub fn next_release() -> String {
    static RELEASES: AtomicU64 = AtomicU64::new(1);
    let number = RELEASES.fetch_add(1, Ordering::Relaxed);
    format!("release {number}")
}

/// Settings with retries that are due at once.
#[must_use]
pub fn impatient() -> Settings {
    Settings::default().backoff(Duration::from_millis(1), Duration::from_millis(5))
}

/// A worker that runs beside the test.
pub struct Running<DB: Backend> {
    handle: WorkerHandle<DB>,
    task: JoinHandle<Result<Report, WorkerError>>,
}

impl<DB: Backend> Running<DB> {
    /// Starts it.
    #[must_use]
    pub fn start(builder: WorkerBuilder<DB>) -> Self {
        let worker = builder.build().expect("build the worker");
        let handle = worker.handle();
        let task = tokio::spawn(worker.run(std::future::pending()));
        Self { handle, task }
    }

    /// Shuts it down and waits for its report.
    pub async fn stop(self) -> Report {
        self.handle.shut_down();
        self.end().await.expect("the worker ended with an error")
    }

    /// Waits until it ends on its own.
    pub async fn end(self) -> Result<Report, WorkerError> {
        patiently("the worker ends", self.task)
            .await
            .expect("the worker does not panic")
    }

    /// Aborts its task, the closest to a kill within one process.
    pub async fn abort(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

impl<DB: Backend> Deref for Running<DB> {
    type Target = WorkerHandle<DB>;

    fn deref(&self) -> &WorkerHandle<DB> {
        &self.handle
    }
}

/// Waits for a future, so that a test fails instead of hanging: for a minute at most, or for
/// `TEST_TIMEOUT` seconds on a machine that does much else.
pub async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    let longest = std::env::var("TEST_TIMEOUT").ok();
    let longest = longest.and_then(|seconds| seconds.parse().ok());
    let longest = Duration::from_secs(longest.unwrap_or(60));
    tokio::time::timeout(longest, future)
        .await
        .unwrap_or_else(|_| panic!("timed out after {longest:?}: {what}"))
}

/// Polls a condition until it is met, as [`patiently`].
pub async fn until<F: Future<Output = bool>>(what: &str, mut reached: impl FnMut() -> F) {
    until_some(what, || {
        let reached = reached();
        async { reached.await.then_some(()) }
    })
    .await;
}

/// Asks until there is an answer, as [`patiently`].
pub async fn until_some<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    patiently(what, Box::pin(asking)).await
}

/// Drops a future when it is woken for the poll after this many; returns whether it was done.
pub async fn dropped_after<F: Future>(polls: usize, future: F) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| match left.checked_sub(1) {
        None => Poll::Ready(false),
        Some(fewer) => {
            left = fewer;
            future.as_mut().poll(cx).map(|_| true)
        }
    })
    .await
}

impl<DB: TestDatabase> Database<DB> {
    /// A worker on this database that polls fast, of a release of its own.
    #[must_use]
    pub fn worker(&self) -> WorkerBuilder<DB> {
        Worker::builder(self.store.clone())
            .release(next_release())
            .poll_interval(Duration::from_millis(10))
            .snapshot_interval(Duration::from_millis(20))
    }

    /// Runs one consumer over the current log.
    pub async fn run_once(&self, consumer: TestConsumer<DB>) -> Report {
        run_once(self.worker().consumer(consumer)).await
    }
}

/// Runs a worker over the current log.
pub async fn run_once<DB: Backend>(builder: WorkerBuilder<DB>) -> Report {
    let worker = builder.build().expect("build the worker");
    patiently("the worker has handled the log", worker.run_once())
        .await
        .expect("run the worker")
}

/// The one thing for which a worker refuses a log.
#[must_use]
pub fn log_problem(refused: WorkerError) -> LogProblem {
    let mut mismatches = match refused {
        WorkerError::Log(problem) => return problem,
        WorkerError::Store(StoreError::Mismatches { mismatches, .. }) => mismatches,
        other => panic!("{other:?}"),
    };
    match (mismatches.pop(), mismatches.as_slice()) {
        (Some(Mismatch::Log(problem)), []) => problem,
        other => panic!("{other:?}"),
    }
}
