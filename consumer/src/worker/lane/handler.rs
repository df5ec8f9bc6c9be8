//! Runs a handler over a batch and watches it: time, panics, shutdown.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use sqlx::Database;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use crate::contract::{BatchError, Context, ErasedConsumer, PersistedEvent};
use crate::store::cause;

/// How a handler came to its end, when it did not succeed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It returned an error, or panicked.
    Failed(BatchError),
    /// It was given up: its connection is in the middle of something.
    TimedOut(BatchError),
}

/// What bounds the run of a handler.
pub(crate) struct Limits {
    /// When the batch is to end at the next event.
    pub(crate) deadline: Instant,
    /// How long one call of the handler may take.
    pub(crate) handler_timeout: Option<Duration>,
    /// How many events it may be given at once.
    pub(crate) batch_len: usize,
    /// Becomes true when the worker shuts down.
    pub(crate) stop: watch::Receiver<bool>,
}

/// Hands the first `take` events to the consumer, batch by batch.
pub(crate) async fn supervise<DB: Database>(
    consumer: &dyn ErasedConsumer<DB>,
    cx: &Arc<Context>,
    connection: &mut DB::Connection,
    events: &Arc<Vec<PersistedEvent>>,
    take: usize,
    mut limits: Limits,
) -> Result<usize, Fault> {
    let batch = events.get(..take).unwrap_or(events);
    // A hand-written `handle_batch` may panic before it returns its future.
    let work = async { handle_all(consumer, cx, connection, batch, limits.batch_len).await };
    let work = cause::within(current_event(cx, events), work);
    let mut work = pin!(AssertUnwindSafe(work).catch_unwind());
    let mut out_of_time = pin!(sleep_until(limits.deadline));
    let mut watchdog = Watchdog::new(limits.handler_timeout);
    let mut asked_to_stop = false;
    loop {
        tokio::select! {
            // Flags first: a handler that comes to the end of an event must find them set.
            biased;
            () = &mut out_of_time, if !asked_to_stop => {
                cx.request_stop();
                asked_to_stop = true;
            }
            _ = limits.stop.wait_for(|stop| *stop), if !asked_to_stop => {
                cx.request_stop();
                asked_to_stop = true;
            }
            ended = &mut work => return match ended {
                // Otherwise the same batch would come again and again.
                Ok(Ok(0)) if !asked_to_stop && !batch.is_empty() => {
                    let error = "`handle_batch` returned `Ok(0)`: it handled no event and gave no reason";
                    Err(Fault::Failed(BatchError::within(0, batch.len(), error)))
                }
                Ok(Ok(handled)) => Ok(handled.min(batch.len())),
                Ok(Err(error)) => Err(Fault::Failed(error)),
                Err(panic) => Err(Fault::Failed(blame(cx, batch, &describe(panic.as_ref())))),
            },
            timeout = watchdog.bite(cx) => {
                let error = format!("the handler took longer than its `handler_timeout` of {timeout:?}");
                return Err(Fault::TimedOut(blame(cx, batch, &error)));
            }
        }
    }
}

/// Calls the consumer with no more than a batch at a time.
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
        let handled = handled.map_err(|error| behind(done, batch.len(), error))?;
        done += handled.min(batch.len());
        if handled < batch.len() {
            break;
        }
    }
    Ok(done)
}

/// The error of a batch of that length, behind others that are done.
fn behind(done: usize, length: usize, error: BatchError) -> BatchError {
    if error.handled >= length {
        // After its last event: any of them may be to blame.
        return BatchError::within(done, length, error.error);
    }
    let handled = done.saturating_add(error.handled);
    BatchError { handled, ..error }
}

fn current_event(cx: &Arc<Context>, events: &Arc<Vec<PersistedEvent>>) -> Arc<dyn cause::Cause> {
    let (cx, events) = (Arc::clone(cx), Arc::clone(events));
    Arc::new(move || cause::find(&events, cx.current_position()?))
}

/// Attributes an error to the event at hand, or to the whole batch where there is none.
fn blame(cx: &Context, batch: &[PersistedEvent], error: &str) -> BatchError {
    let at = cx.current_position().and_then(|position| {
        batch
            .binary_search_by_key(&position, |event| event.global_position)
            .ok()
    });
    match at {
        Some(index) => BatchError::at(index, error),
        None => BatchError::within(0, batch.len(), error),
    }
}

/// What a panic says.
pub(crate) fn describe(panic: &(dyn Any + Send)) -> String {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with something that is not a message");
    format!("the handler panicked: {message}")
}

/// Notices that the same call of a handler has lasted for too long.
///
/// It looks eight times in the span of the timeout instead of setting a timer for each event, so
/// that a fast handler pays nothing; a call is ended after at most 1.25 times its timeout.
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
            let mut ticks = interval_at(Instant::now() + period, period);
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

    /// Returns once the time is up; without a timeout, never.
    async fn bite(&mut self, cx: &Context) -> Duration {
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
