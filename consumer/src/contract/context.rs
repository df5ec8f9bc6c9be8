//! What a handler may know of the run that it is part of.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

type Effect = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Tells a handler which consumer it is part of, which attempt this is, and how far the log goes.
///
/// The worker makes one for each batch. In a unit test make your own:
///
/// ```
/// # use consumer::Context;
/// let cx = Context::new("user_read_model").with_attempt(2).with_replay(true);
/// assert!(cx.is_replay());
/// ```
pub struct Context {
    consumer: Arc<str>,
    version: u32,
    attempt: u32,
    replay: bool,
    head: i64,
    deadline: Option<Instant>,
    stop: AtomicBool,
    current: AtomicI64,
    calls: AtomicU64,
    effects: Mutex<Vec<Effect>>,
}

/// What [`Context::current_position`] says between events and in handlers of several.
const NO_EVENT: i64 = i64::MIN;

impl Context {
    /// Starts a context for the consumer of that name: version 1, first attempt, no replay.
    ///
    /// See [`Context`] for an example.
    #[must_use]
    pub fn new(consumer: impl Into<Arc<str>>) -> Self {
        Self {
            consumer: consumer.into(),
            version: 1,
            attempt: 1,
            replay: false,
            head: 0,
            deadline: None,
            stop: AtomicBool::new(false),
            current: AtomicI64::new(NO_EVENT),
            calls: AtomicU64::new(0),
            effects: Mutex::new(Vec::new()),
        }
    }

    /// Sets the consumer's version.
    ///
    /// See [`version`](Self::version) for an example.
    #[must_use]
    pub fn with_version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Sets which attempt at the event this is; the first is 1.
    ///
    /// See [`Context`] for an example.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Sets whether the events were handled before and are now handled again.
    ///
    /// See [`Context`] for an example.
    #[must_use]
    pub fn with_replay(mut self, replay: bool) -> Self {
        self.replay = replay;
        self
    }

    /// Sets the head of the log.
    ///
    /// See [`head`](Self::head) for an example.
    #[must_use]
    pub fn with_head(mut self, position: i64) -> Self {
        self.head = position;
        self
    }

    /// Sets when the batch is to end at the next event.
    ///
    /// A test of a loop of your own sets a time that is over.
    ///
    /// ```
    /// # use consumer::Context;
    /// use std::time::Instant;
    ///
    /// let cx = Context::new("users").with_deadline(Instant::now());
    /// // The clock is looked at once in 32 events.
    /// assert!(cx.should_stop(32));
    /// ```
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// The consumer's unique name (R1).
    ///
    /// For the lines of a log that several consumers share.
    ///
    /// ```
    /// # use consumer::{Context, PersistedEvent};
    /// fn log(cx: &Context, event: &PersistedEvent) {
    ///     println!("{}: event {}", cx.consumer(), event.global_position);
    /// }
    /// ```
    #[must_use]
    pub fn consumer(&self) -> &str {
        &self.consumer
    }

    /// The consumer's version, 1 unless its attribute says otherwise.
    ///
    /// ```
    /// use consumer::Context;
    ///
    /// /// Each version writes a table of its own, so that a new one can catch up beside the old one.
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

    /// Which attempt at this event this is; the first is 1.
    ///
    /// Useful in a log line, or to take a slower and safer way the second time.
    ///
    /// ```
    /// # use consumer::Context;
    /// fn timeout_in_seconds(cx: &Context) -> u32 {
    ///     5 * cx.attempt()
    /// }
    /// assert_eq!(timeout_in_seconds(&Context::new("mails").with_attempt(3)), 15);
    /// ```
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether a rebuild is handing over events that were handled before, so that effects on the
    /// outside world should be left out.
    ///
    /// ```
    /// # use consumer::{Context, HandlerError, PersistedEvent};
    /// async fn welcome(cx: &Context, event: &PersistedEvent) -> Result<(), HandlerError> {
    ///     if cx.is_replay() {
    ///         return Ok(()); // the mail was sent when the event was new
    ///     }
    ///     send_mail(&event.aggregate_id).await
    /// }
    /// # async fn send_mail(_to: &str) -> Result<(), HandlerError> { Ok(()) }
    /// ```
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.replay
    }

    /// The highest settled position when the batch began.
    ///
    /// A handler can tell by it how far behind it is, such as to write only every hundredth line of progress.
    ///
    /// ```
    /// # use consumer::{Context, EventRecord, PersistedEvent};
    /// # let event = PersistedEvent::new(EventRecord { global_position: 300, ..EventRecord::default() });
    /// let cx = Context::new("users").with_head(1_000);
    /// if event.global_position % 100 == 0 {
    ///     println!("{} of {}", event.global_position, cx.head());
    /// }
    /// ```
    #[must_use]
    pub fn head(&self) -> i64 {
        self.head
    }

    /// Runs a future after the transaction that this event is part of has committed, and not at
    /// all when it rolls back.
    ///
    /// It runs at most once: a process that dies between the commit and the future loses it. Use
    /// it for what may be lost, such as invalidating a cache; for what may not, write a consumer
    /// of its own that ignores the transaction (R5).
    ///
    /// ```
    /// # use consumer::{Context, HandlerError, PersistedEvent};
    /// # #[derive(Clone)]
    /// # struct Cache;
    /// # impl Cache { async fn forget(&self, _id: &str) {} }
    /// async fn handle(cache: &Cache, cx: &Context, event: &PersistedEvent) -> Result<(), HandlerError> {
    ///     // Not before the commit: somebody could read the old row into the cache again.
    ///     let (cache, id) = (cache.clone(), event.aggregate_id.clone());
    ///     cx.after_commit(async move { cache.forget(&id).await });
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

    /// Notes which event is being handled; the loop over a batch calls it before each.
    ///
    /// A consumer with a [`handle_batch`](crate::Consumer::handle_batch) of its own calls it too; see
    /// [`should_stop`](Self::should_stop) for an example.
    #[inline]
    pub fn enter(&self, global_position: i64) {
        self.current.store(global_position, Ordering::Relaxed);
        self.count_call();
    }

    /// Notes that several events are being handled at once.
    ///
    /// See [`current_position`](Self::current_position) for an example.
    #[inline]
    pub fn enter_several(&self) {
        self.current.store(NO_EVENT, Ordering::Relaxed);
        self.count_call();
    }

    /// One task calls the handlers of a batch, one after the other: there is no other writer, and
    /// no need for an atomic addition, which would be what a call costs most.
    #[inline]
    fn count_call(&self) {
        let calls = self.calls.load(Ordering::Relaxed);
        self.calls.store(calls.wrapping_add(1), Ordering::Relaxed);
    }

    /// How many calls of handlers have begun.
    #[cfg(all(feature = "worker", any(feature = "sqlite", feature = "postgres")))]
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// The position of the event at hand, or `None` in a handler that takes several at once.
    ///
    /// ```
    /// # use consumer::Context;
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
    /// The worker does it; a test of a loop of your own may too. See [`should_stop`](Self::should_stop)
    /// for an example.
    pub fn request_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the batch should end at this boundary between two events, since its time is over or
    /// the worker is shutting down. `handled` is how many events the batch has handled.
    ///
    /// The loops over a batch that come with the library ask it; one of your own, in a
    /// [`Consumer::handle_batch`](crate::Consumer::handle_batch), does as well.
    ///
    /// ```
    /// # use consumer::{Context, EventRecord, PersistedEvent};
    /// /// How many of the events were handled.
    /// fn handle_batch(cx: &Context, events: &[PersistedEvent]) -> usize {
    ///     for (handled, event) in events.iter().enumerate() {
    ///         // Not before the first: a batch of which nothing is handled counts as failed.
    ///         if handled > 0 && cx.should_stop(handled) {
    ///             return handled;
    ///         }
    ///         cx.enter(event.global_position);
    ///         // Handle the event.
    ///     }
    ///     events.len()
    /// }
    ///
    /// # let event = PersistedEvent::new(EventRecord::default());
    /// let cx = Context::new("users");
    /// assert_eq!(handle_batch(&cx, &[event.clone(), event.clone()]), 2);
    /// cx.request_stop();
    /// assert_eq!(handle_batch(&cx, &[event.clone(), event]), 1);
    /// ```
    #[inline]
    #[must_use]
    pub fn should_stop(&self, handled: usize) -> bool {
        // The worker's timer sets the flag; the clock, which costs more than a fast handler, is
        // only for handlers that never yield to that timer.
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
            .field("version", &self.version)
            .field("attempt", &self.attempt)
            .field("replay", &self.replay)
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}
