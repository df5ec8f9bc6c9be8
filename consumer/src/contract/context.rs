//! The context of the batch in which a handler is called.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::read_model::{Table, VersionTable};

type Effect = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The consumer, the attempt, the replay status and the head of the log, for a handler.
///
/// The worker creates one for each batch. A unit test creates its own:
///
/// ```
/// use consumer::Context;
///
/// let cx = Context::new("user_read_model")
///     .with_version(2)
///     .with_attempt(3)
///     .with_replay(true)
///     .with_head(1_000);
/// assert_eq!((cx.consumer(), cx.version()), ("user_read_model", 2));
/// assert_eq!((cx.attempt(), cx.is_replay(), cx.head()), (3, true, 1_000));
/// ```
pub struct Context {
    consumer: Arc<str>,
    log: Arc<str>,
    version: u32,
    attempt: u32,
    replay: bool,
    head: i64,
    deadline: Option<Instant>,
    segmented: bool,
    table_schema: Option<Arc<str>>,
    stop: AtomicBool,
    current: AtomicI64,
    calls: AtomicU64,
    effects: Mutex<Vec<Effect>>,
}

/// The value of `current` between events and in handlers of several events.
const NO_EVENT: i64 = i64::MIN;

impl Context {
    /// Creates a context for the consumer with that name: version 1, first attempt, no replay.
    #[must_use]
    pub fn new(consumer: impl Into<Arc<str>>) -> Self {
        Self {
            consumer: consumer.into(),
            log: Arc::from("events"),
            version: 1,
            attempt: 1,
            replay: false,
            head: 0,
            deadline: None,
            segmented: false,
            table_schema: None,
            stop: AtomicBool::new(false),
            current: AtomicI64::new(NO_EVENT),
            calls: AtomicU64::new(0),
            effects: Mutex::new(Vec::new()),
        }
    }

    /// Sets the name of the log.
    #[must_use]
    pub fn with_log_name(mut self, log: impl Into<Arc<str>>) -> Self {
        self.log = log.into();
        self
    }

    /// Sets the consumer's version.
    #[must_use]
    pub fn with_version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Sets the number of the attempt; the first is 1.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Sets whether the events were handled before.
    #[must_use]
    pub fn with_replay(mut self, replay: bool) -> Self {
        self.replay = replay;
        self
    }

    /// Sets the head of the log.
    #[must_use]
    pub fn with_head(mut self, position: i64) -> Self {
        self.head = position;
        self
    }

    /// Sets the time after which the batch ends at the next event.
    ///
    /// A test of a loop of your own sets a time in the past.
    ///
    /// ```
    /// use std::time::Instant;
    ///
    /// use consumer::Context;
    ///
    /// let cx = Context::new("users").with_deadline(Instant::now());
    /// // The clock is read every 32 events.
    /// assert!(cx.should_stop(32));
    /// ```
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sets whether the consumer has segments: a row of its read model then belongs to one aggregate.
    #[must_use]
    pub fn with_segments(mut self, segmented: bool) -> Self {
        self.segmented = segmented;
        self
    }

    /// Sets the schema of a read model's table whose name gives none; `None` for the first one in the
    /// session's `search_path` that has the table.
    #[must_use]
    pub fn with_table_schema(mut self, schema: Option<Arc<str>>) -> Self {
        self.table_schema = schema;
        self
    }

    /// Returns whether a row may belong to one aggregate only.
    pub(super) fn is_segmented(&self) -> bool {
        self.segmented
    }

    /// Returns the table of the consumer's version.
    pub(super) fn version_table(&self, table: &'static Table) -> VersionTable<'_> {
        VersionTable::new(table, self.version, self.table_schema.as_deref())
    }

    /// Returns the consumer's unique name (R1).
    #[must_use]
    pub fn consumer(&self) -> &str {
        &self.consumer
    }

    /// Returns the name of the log: its table of events, after the database schema if the store's
    /// [`Schema`](crate::Schema) names one.
    ///
    /// With a log for each tenant, it tells them apart:
    ///
    /// ```
    /// use consumer::Context;
    ///
    /// /// The schema is the tenant's name.
    /// fn tenant(cx: &Context) -> Option<&str> {
    ///     cx.log().strip_suffix(".events")
    /// }
    /// assert_eq!(tenant(&Context::new("users").with_log_name("acme.events")), Some("acme"));
    /// assert_eq!(tenant(&Context::new("users")), None);
    /// ```
    #[must_use]
    pub fn log(&self) -> &str {
        &self.log
    }

    /// Returns the consumer's version, which is 1 by default.
    ///
    /// ```
    /// use consumer::Context;
    ///
    /// /// Each version writes its own table, so that a new one can catch up beside the old one.
    /// fn table(cx: &Context) -> &'static str {
    ///     match cx.version() {
    ///         1 => "users",
    ///         _ => "users_2",
    ///     }
    /// }
    /// assert_eq!(table(&Context::new("user_read_model").with_version(2)), "users_2");
    /// ```
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Returns the number of this attempt at the event; the first is 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns whether a consumer of this name has handled or skipped the events before, so that
    /// effects on the outside world should be left out.
    ///
    /// This holds across rebuilds, versions and operators' commands. An event that was parked is new
    /// until it is handled; events of the scope that no handler takes count as handled. Rows that are
    /// deleted or changed by hand are not recorded.
    ///
    /// ```
    /// use consumer::{Context, HandlerError, PersistedEvent};
    ///
    /// async fn welcome(cx: &Context, event: &PersistedEvent) -> Result<(), HandlerError> {
    ///     if !cx.is_replay() {
    ///         println!("welcome, {}", event.aggregate_id);
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.replay
    }

    /// Returns the highest settled position when the batch began.
    ///
    /// The difference to the event's own position is how far behind the handler is.
    #[must_use]
    pub fn head(&self) -> i64 {
        self.head
    }

    /// Runs a future after the event's transaction has committed; if it rolls back, the future is
    /// dropped.
    ///
    /// The future runs at most once: if the process dies between the commit and the future, it never
    /// runs. Use it for effects that may be lost, such as invalidating a cache. For all others write
    /// a separate consumer that ignores the transaction (R5).
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use std::sync::{Arc, Mutex};
    ///
    /// use consumer::{Context, HandlerError, PersistedEvent};
    ///
    /// type Cache = Arc<Mutex<HashMap<String, String>>>;
    ///
    /// async fn handle(cache: &Cache, cx: &Context, event: &PersistedEvent) -> Result<(), HandlerError> {
    ///     // Before the commit, another task could load the old row into the cache again.
    ///     let (cache, id) = (Arc::clone(cache), event.aggregate_id.clone());
    ///     cx.after_commit(async move {
    ///         cache.lock().unwrap().remove(&id);
    ///     });
    ///     Ok(())
    /// }
    /// ```
    pub fn after_commit(&self, effect: impl Future<Output = ()> + Send + 'static) {
        self.lock_effects().push(Box::pin(effect));
    }

    /// Takes the futures to run after the commit.
    #[doc(hidden)]
    #[must_use]
    pub fn take_effects(&self) -> Vec<Effect> {
        std::mem::take(&mut *self.lock_effects())
    }

    /// Records which event is being handled.
    ///
    /// The loop over a batch calls it before each event; so does a
    /// [`handle_batch`](crate::Consumer::handle_batch) of your own, as
    /// [`should_stop`](Self::should_stop) shows.
    #[inline]
    pub fn enter(&self, global_position: i64) {
        self.current.store(global_position, Ordering::Relaxed);
        self.count_call();
    }

    /// Records that several events are being handled at once, which ends the event that
    /// [`enter`](Self::enter) began.
    #[inline]
    pub fn enter_several(&self) {
        self.current.store(NO_EVENT, Ordering::Relaxed);
        self.count_call();
    }

    /// One task calls the handlers of a batch, one after the other. There is no other writer, so the
    /// cost of an atomic addition, the largest of a call, is avoided.
    #[inline]
    fn count_call(&self) {
        let calls = self.calls.load(Ordering::Relaxed);
        self.calls.store(calls.wrapping_add(1), Ordering::Relaxed);
    }

    /// Returns how many handler calls have begun.
    #[cfg(all(feature = "worker", any(feature = "sqlite", feature = "postgres")))]
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Returns the position of the event being handled, or `None` in a handler of several events.
    ///
    /// ```
    /// use consumer::Context;
    ///
    /// let cx = Context::new("users");
    /// assert_eq!(cx.current_position(), None);
    /// cx.enter(7);
    /// assert_eq!(cx.current_position(), Some(7));
    /// cx.enter_several();
    /// assert_eq!(cx.current_position(), None);
    /// ```
    #[must_use]
    pub fn current_position(&self) -> Option<i64> {
        let position = self.current.load(Ordering::Relaxed);
        (position != NO_EVENT).then_some(position)
    }

    /// Asks the loop over the batch to end at the next event.
    ///
    /// The worker calls it when it shuts down; a test of a loop of your own may call it as well.
    pub fn request_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Returns whether the batch should end before the next event, because its time is up or the
    /// worker is shutting down. `handled` is how many events of the batch were handled.
    ///
    /// A loop of your own in [`Consumer::handle_batch`](crate::Consumer::handle_batch) should call
    /// it, as the library's loops do.
    ///
    /// ```
    /// use consumer::{Context, EventRecord, PersistedEvent};
    ///
    /// /// Returns how many of the events were handled.
    /// fn handle_batch(cx: &Context, events: &[PersistedEvent]) -> usize {
    ///     for (handled, event) in events.iter().enumerate() {
    ///         // Not before the first: returning zero counts as a failure.
    ///         if handled > 0 && cx.should_stop(handled) {
    ///             return handled;
    ///         }
    ///         cx.enter(event.global_position);
    ///         // Handle the event.
    ///     }
    ///     events.len()
    /// }
    ///
    /// let cx = Context::new("users");
    /// let event = PersistedEvent::new(EventRecord::default());
    /// assert_eq!(handle_batch(&cx, &[event.clone(), event.clone()]), 2);
    /// cx.request_stop();
    /// assert_eq!(handle_batch(&cx, &[event.clone(), event]), 1);
    /// ```
    #[inline]
    #[must_use]
    pub fn should_stop(&self, handled: usize) -> bool {
        // The worker's timer sets the flag. Reading the clock costs more than a fast handler; it is
        // for handlers that never yield to that timer.
        self.stop.load(Ordering::Relaxed) || (handled.is_multiple_of(32) && self.is_late())
    }

    #[cold]
    fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn lock_effects(&self) -> std::sync::MutexGuard<'_, Vec<Effect>> {
        self.effects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("consumer", &self.consumer)
            .field("log", &self.log)
            .field("version", &self.version)
            .field("attempt", &self.attempt)
            .field("replay", &self.replay)
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}
