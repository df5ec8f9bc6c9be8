//! Bounds how long the worker waits for a database that does not answer.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time;

/// The shortest bound on a statement that the database answers quickly.
const SHORTEST: Duration = Duration::from_secs(5);

/// The longest duration: an `Instant` cannot be arbitrarily far in the future.
const FOREVER: Duration = Duration::from_hours(30 * 365 * 24);

/// The instant after a duration from now, which may be `Duration::MAX`.
pub(crate) fn after(duration: Duration) -> Instant {
    Instant::now() + duration.min(FOREVER)
}

/// A part of a duration, which may be `Duration::MAX`.
pub(crate) fn fraction(duration: Duration, factor: f64) -> Duration {
    duration.min(FOREVER).mul_f64(factor)
}

/// Waits for a future, but not for longer than that. Handlers that block all threads of a runtime stop
/// its timers too, so the time is measured on another thread.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = sleep_apart(limit) => None,
    }
}

async fn sleep_apart(duration: Duration) {
    let (tell, over) = oneshot::channel();
    // Dropping this half ends the thread early.
    let (_wanted, unwanted) = mpsc::channel::<()>();
    let sleeper = thread::Builder::new().name("consumer-deadline".to_owned());
    let started = sleeper.spawn(move || {
        let _ = unwanted.recv_timeout(duration);
        let _ = tell.send(());
    });
    match started {
        Ok(_) => drop(over.await),
        Err(_) => time::sleep(duration).await,
    }
}

/// Bounds the wait for an answer: behind a cut network there is none, and no error either.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts(Duration);

impl Timeouts {
    /// The bound on short statements: as long as a claim lasts.
    pub(crate) fn of_claims(claim_timeout: Duration) -> Self {
        Self(claim_timeout.max(SHORTEST))
    }

    /// The bound on reads of the log, which move many bytes over a network that may be slow.
    pub(crate) fn of_reads(claim_timeout: Duration) -> Self {
        let Self(timeout) = Self::of_claims(claim_timeout);
        Self(timeout.saturating_mul(5))
    }

    /// Waits for the answer and fails once the bound is reached.
    pub(crate) async fn answer<T, E: From<sqlx::Error>>(
        self,
        question: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let Self(timeout) = self;
        time::timeout(timeout, question).await.unwrap_or_else(|_| {
            let silence = format!("the database has not answered for {timeout:?}");
            let silence = io::Error::new(io::ErrorKind::TimedOut, silence);
            Err(sqlx::Error::Io(silence).into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_duration_has_an_end_and_a_fraction() {
        assert!(after(Duration::MAX) > Instant::now());
        assert!(fraction(Duration::MAX, 1.25) > Duration::from_secs(1));
        assert!(Timeouts::of_reads(Duration::MAX).0 == Duration::MAX);
    }

    #[test]
    fn a_wait_ends_on_a_runtime_whose_timers_stand_still() {
        // The runtime has no timers at all.
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let never = within(Duration::from_millis(1), std::future::pending::<()>());
        let ended = runtime.map(|runtime| runtime.block_on(never));
        assert!(matches!(ended, Ok(None)));
    }
}
