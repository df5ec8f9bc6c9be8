//! Runs a handler over a batch and supervises it: time limits, panics, shutdown.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use sqlx::Database;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use crate::contract::{BatchError, Context, ErasedConsumer, HandlerError, PersistedEvent};
use crate::store::cause;
use crate::worker::timeouts::after;

/// The error of a handler that took too long, and left its connection in the middle of something.
#[derive(Debug, thiserror::Error)]
#[error("the handler took longer than its `handler_timeout` of {0:?}")]
pub(crate) struct TimedOut(Duration);

/// The limits of one run of a handler.
pub(crate) struct Limits {
    /// When the batch should end at the next event.
    pub(crate) deadline: Instant,
    /// How long one call of the handler may take.
    pub(crate) handler_timeout: Option<Duration>,
    /// How many events one call may be given.
    pub(crate) batch_len: usize,
    /// Becomes true when the worker shuts down.
    pub(crate) stop: watch::Receiver<bool>,
}

/// Passes the first `take` events to the consumer, batch by batch; returns how many it handled, or the
/// error of the handler, a panic, or [`TimedOut`].
pub(crate) async fn supervise<DB: Database>(
    consumer: &dyn ErasedConsumer<DB>,
    cx: &Arc<Context>,
    connection: &mut DB::Connection,
    events: &Arc<Vec<PersistedEvent>>,
    take: usize,
    mut limits: Limits,
) -> Result<usize, BatchError> {
    let batch = events.get(..take).unwrap_or(events);
    // In an `async` block, since a hand-written `handle_batch` may panic before it returns its
    // future.
    let work = async { handle_all(consumer, cx, connection, batch, limits.batch_len).await };
    let work = cause::within(current_event(cx, events), work);
    let mut work = pin!(AssertUnwindSafe(work).catch_unwind());
    let mut out_of_time = pin!(sleep_until(limits.deadline));
    let mut watchdog = Watchdog::new(limits.handler_timeout);
    let mut asked_to_stop = false;
    loop {
        tokio::select! {
            // The flags come first: a handler that reaches the end of an event must find them set.
            biased;
            () = &mut out_of_time, if !asked_to_stop => {
                cx.request_stop();
                asked_to_stop = true;
            }
            _ = limits.stop.wait_for(|stop| *stop), if !asked_to_stop => {
                cx.request_stop();
                asked_to_stop = true;
            }
            ended = &mut work => {
                let handled = ended.unwrap_or_else(|panic| {
                    Err(locate(cx, batch, describe(panic.as_ref())))
                })?;
                if handled == 0 && !asked_to_stop && !batch.is_empty() {
                    return Err(nothing_handled(batch));
                }
                return Ok(handled.min(batch.len()));
            }
            timeout = watchdog.timed_out(cx) => {
                return Err(locate(cx, batch, TimedOut(timeout)));
            }
        }
    }
}

/// Calls the consumer with at most one batch at a time.
async fn handle_all<DB: Database>(
    consumer: &dyn ErasedConsumer<DB>,
    cx: &Arc<Context>,
    connection: &mut DB::Connection,
    events: &[PersistedEvent],
    batch_len: usize,
) -> Result<usize, BatchError> {
    let mut done = 0;
    for batch in events.chunks(batch_len.max(1)) {
        if done > 0 && cx.should_stop(done) {
            break;
        }
        cx.enter_several();
        let handled = consumer.handle_batch(cx, connection, batch).await;
        let handled = handled.map_err(|error| shift(error, done, batch.len()))?;
        done += handled.min(batch.len());
        if handled < batch.len() {
            break;
        }
    }
    Ok(done)
}

/// The error of a batch of that length, behind events that are handled.
fn shift(error: BatchError, done: usize, length: usize) -> BatchError {
    if error.handled >= length {
        // After its last event, so any of them may have caused it.
        return BatchError::within(done, length, error.error);
    }
    let handled = done.saturating_add(error.handled);
    BatchError { handled, ..error }
}

/// Without an error, the same batch would come again and again.
fn nothing_handled(batch: &[PersistedEvent]) -> BatchError {
    let error = "`handle_batch` returned `Ok(0)`: it handled no event and gave no reason";
    BatchError::within(0, batch.len(), error)
}

fn current_event(cx: &Arc<Context>, events: &Arc<Vec<PersistedEvent>>) -> Arc<dyn cause::Cause> {
    let (cx, events) = (Arc::clone(cx), Arc::clone(events));
    Arc::new(move || cause::find(&events, cx.current_position()?))
}

/// Attributes an error to the current event, or to the whole batch if there is none.
fn locate(cx: &Context, batch: &[PersistedEvent], error: impl Into<HandlerError>) -> BatchError {
    let current = cx.current_position().and_then(|position| {
        batch
            .binary_search_by_key(&position, |event| event.global_position)
            .ok()
    });
    match current {
        Some(index) => BatchError::at(index, error),
        None => BatchError::within(0, batch.len(), error),
    }
}

/// The message of a handler's panic.
pub(crate) fn describe(panic: &(dyn Any + Send)) -> String {
    format!("the handler panicked: {}", panic_message(panic))
}

/// The message of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with something that is not a message")
}

/// Detects a call of a handler that takes too long.
///
/// It checks eight times per timeout instead of setting a timer for each event, so that a fast
/// handler pays nothing; a call ends after at most 1.25 times its timeout.
struct Watchdog {
    timeout: Option<Duration>,
    ticks: Option<tokio::time::Interval>,
    call: u64,
    since: Instant,
}

impl Watchdog {
    fn new(timeout: Option<Duration>) -> Self {
        let ticks = timeout.map(|timeout| {
            let period = (timeout / 8).max(Duration::from_millis(1));
            let mut ticks = interval_at(after(period).into(), period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        Self {
            timeout,
            ticks,
            call: 0,
            since: Instant::now(),
        }
    }

    /// Returns the timeout once a call has exceeded it; never returns without a timeout.
    async fn timed_out(&mut self, cx: &Context) -> Duration {
        let (Some(timeout), Some(ticks)) = (self.timeout, self.ticks.as_mut()) else {
            return std::future::pending().await;
        };
        loop {
            let now = ticks.tick().await;
            let call = cx.calls();
            if call != self.call {
                self.call = call;
                self.since = now;
            } else if now - self.since >= timeout {
                return timeout;
            }
        }
    }
}
