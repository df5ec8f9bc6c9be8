//! Consumers whose handlers are closures, and workers that run beside a test.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use consumer::{
    Backend, BatchError, Consumer, Context, ExpectedVersion, HandlerError, NewEvent,
    PersistedEvent, Report, ScopedConsumer, Settings, Worker, WorkerBuilder, WorkerError,
    WorkerHandle,
};
use tokio::task::JoinHandle;

use crate::{Database, TestBackend};

/// What a handler returns, boxed.
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

enum Handler<DB: TestBackend> {
    OneByOne(Box<OneByOne<DB>>),
    AllAtOnce(Box<AllAtOnce<DB>>),
}

/// A consumer whose handler is a closure.
pub struct TestConsumer<DB: TestBackend> {
    name: String,
    scope: Vec<&'static str>,
    settings: Settings,
    uses_transaction: bool,
    handler: Handler<DB>,
}

/// A consumer that calls `handler` with each event.
pub fn consumer<DB, F>(name: &str, handler: F) -> TestConsumer<DB>
where
    DB: TestBackend,
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
    DB: TestBackend,
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
pub fn read_model<DB: TestBackend>(name: &str) -> TestConsumer<DB> {
    let consumer_name: Arc<str> = name.into();
    consumer(name, move |_, tx, event| {
        let name = Arc::clone(&consumer_name);
        Box::pin(async move { Ok(DB::apply(tx, &name, event).await?) })
    })
}

/// A [`read_model`] that first asks `judge` whether the event is to fail, and with what words.
pub fn judging<DB: TestBackend>(
    name: &str,
    judge: impl Fn(&Context, &PersistedEvent) -> Result<(), String> + Send + Sync + 'static,
) -> TestConsumer<DB> {
    let consumer_name: Arc<str> = name.into();
    consumer(name, move |cx, tx, event| {
        let name = Arc::clone(&consumer_name);
        let verdict = judge(cx, event);
        Box::pin(async move {
            // What was written before a failure must not stay.
            DB::apply(tx, &name, event).await?;
            Ok(verdict?)
        })
    })
}

impl<DB: TestBackend> TestConsumer<DB> {
    fn new(name: &str, handler: Handler<DB>) -> Self {
        Self {
            name: name.to_owned(),
            scope: Vec::new(),
            settings: Settings::default(),
            uses_transaction: true,
            handler,
        }
    }

    /// Sets what [`ScopedConsumer`] says.
    #[must_use]
    pub fn scope(mut self, aggregate_types: &[&'static str]) -> Self {
        self.scope = aggregate_types.to_vec();
        self
    }

    /// Sets how it wants to be run.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Makes it one that ignores the transaction (R5).
    #[must_use]
    pub fn without_tx(mut self) -> Self {
        self.uses_transaction = false;
        self
    }
}

impl<DB: TestBackend> Consumer<DB> for TestConsumer<DB> {
    fn name(&self) -> &str {
        &self.name
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

    fn uses_transaction(&self) -> bool {
        self.uses_transaction
    }
}

impl<DB: TestBackend> ScopedConsumer<DB> for TestConsumer<DB> {
    fn aggregate_types(&self) -> &[&str] {
        &self.scope
    }
}

/// Settings whose retries cost a test no time.
#[must_use]
pub fn impatient() -> Settings {
    Settings::default().backoff(Duration::from_millis(1), Duration::from_millis(5))
}

/// A worker that runs beside the test, and ends with it.
pub struct Running<DB: Backend> {
    handle: WorkerHandle<DB>,
    task: JoinHandle<Result<Report, WorkerError>>,
}

impl<DB: Backend> Running<DB> {
    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be built.
    #[must_use]
    pub fn start(builder: WorkerBuilder<DB>) -> Self {
        let worker = builder.build().expect("build the worker");
        let handle = worker.handle();
        let task = tokio::spawn(worker.run(std::future::pending()));
        Self { handle, task }
    }

    /// Shuts it down and waits for its report.
    ///
    /// # Panics
    /// When it ended with an error.
    pub async fn stop(self) -> Report {
        self.handle.shut_down();
        self.end().await.expect("the worker ended with an error")
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// What it ended with.
    ///
    /// # Panics
    /// When it panicked.
    pub async fn end(self) -> Result<Report, WorkerError> {
        patiently("the worker ends", self.task)
            .await
            .expect("the worker does not panic")
    }

    /// Ends it in the middle of whatever it does, as far as that is possible within a process.
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

/// Waits for what must come; a test that would hang fails instead, after a minute.
///
/// # Panics
/// When it does not come.
pub async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), future)
        .await
        .unwrap_or_else(|_| panic!("in a minute it did not come about that {what}"))
}

/// Waits until a condition holds that nobody announces, by looking again and again.
///
/// # Panics
/// When it does not come about.
pub async fn until<F: Future<Output = bool>>(what: &str, mut reached: impl FnMut() -> F) {
    let looking = async {
        while !reached().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    patiently(what, looking).await;
}

impl<DB: TestBackend> Database<DB> {
    /// A worker on this database that polls fast.
    #[must_use]
    pub fn worker(&self) -> WorkerBuilder<DB> {
        Worker::builder(self.store.clone())
            .poll_interval(Duration::from_millis(10))
            .snapshot_interval(Duration::from_millis(20))
    }

    /// Runs one consumer over what is in the log now.
    ///
    /// # Panics
    /// When the worker cannot run.
    pub async fn run_once(&self, consumer: TestConsumer<DB>) -> Report {
        run_once(self.worker().consumer(consumer)).await
    }

    /// Appends one event to each of the aggregates, and returns the positions.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn append(&self, aggregate_type: &str, ids: &[&str]) -> Vec<i64> {
        let mut positions = Vec::new();
        for id in ids {
            let event = NewEvent::new(aggregate_type, *id, "Changed", "{}");
            let stored = self
                .store
                .append(ExpectedVersion::Any, &[event])
                .await
                .expect("append");
            positions.extend(stored.iter().map(|event| event.global_position));
        }
        positions
    }

    /// Appends so many events to one aggregate `User`, `u-1`, and returns their positions.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn append_many(&self, count: usize) -> Vec<i64> {
        let events: Vec<NewEvent> = (0..count)
            .map(|n| NewEvent::new("User", "u-1", "Changed", n.to_string()))
            .collect();
        let stored = self
            .store
            .append(ExpectedVersion::Any, &events)
            .await
            .expect("append");
        stored.iter().map(|event| event.global_position).collect()
    }

    /// Makes the table `applied` that [`read_model`] writes into.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn with_read_model(self) -> Self {
        self.execute(DB::CREATE_APPLIED).await;
        self
    }

    /// The positions that a consumer has applied, in the order in which it did.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn applied(&self, consumer: &str) -> Vec<i64> {
        DB::numbers(
            &self.pool,
            &format!("SELECT position FROM applied WHERE consumer = '{consumer}' ORDER BY ordinal"),
        )
        .await
    }

    /// The checkpoint of a consumer, if it has one.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn checkpoint(&self, consumer: &str) -> Option<i64> {
        let sql = format!("SELECT position FROM consumer_progress WHERE consumer = '{consumer}'");
        DB::numbers(&self.pool, &sql).await.first().copied()
    }

    /// The positions of a consumer's parked events, in order.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn parked(&self, consumer: &str) -> Vec<i64> {
        let sql = format!(
            "SELECT position FROM consumer_parked WHERE consumer = '{consumer}' ORDER BY position"
        );
        DB::numbers(&self.pool, &sql).await
    }

    /// What a query for one column of numbers finds.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn numbers(&self, sql: &str) -> Vec<i64> {
        DB::numbers(&self.pool, sql).await
    }

    /// What a query for one column of text finds.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        DB::texts(&self.pool, sql).await
    }

    /// Runs a script, again when a worker changed the same row meanwhile, which a stricter default
    /// isolation of the role refuses.
    ///
    /// # Panics
    /// When the database refuses.
    pub async fn execute(&self, sql: &str) {
        const SERIALIZATION_FAILURE: &str = "40001";
        let mut connection = self.pool.acquire().await.expect("a connection");
        loop {
            let Err(error) = DB::execute(&mut connection, sql).await else {
                return;
            };
            let code = error
                .as_database_error()
                .and_then(sqlx::error::DatabaseError::code);
            assert!(
                code.as_deref() == Some(SERIALIZATION_FAILURE),
                "{sql}: {error}"
            );
        }
    }
}

/// Builds a worker and has it handle what is in the log now.
///
/// # Panics
/// When it cannot be built or cannot run.
pub async fn run_once<DB: Backend>(builder: WorkerBuilder<DB>) -> Report {
    let worker = builder.build().expect("build the worker");
    patiently("the worker has handled the log", worker.run_once())
        .await
        .expect("run the worker")
}
