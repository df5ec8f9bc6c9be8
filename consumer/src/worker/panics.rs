//! The consequences of panics: tasks start again, and policies that a program cannot apply are warned of.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time;

use crate::contract::{Backoff, OnError};
use crate::worker::lane::backoff::delay;
use crate::worker::lane::handler::panic_message;
use crate::worker::progress::worker::WorkerProgress;

/// How long to wait before a task that panicked starts again.
pub(super) const RESTART_BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(100),
    max: Duration::from_secs(30),
};

/// Runs a task of the worker until it ends, and starts it again whenever it panics.
pub(super) async fn restarting<F: Future<Output = ()>>(
    task: &'static str,
    progress: Arc<WorkerProgress>,
    start: impl Fn() -> F,
) {
    let mut panics: u32 = 0;
    while let Err(panic) = AssertUnwindSafe(async { start().await })
        .catch_unwind()
        .await
    {
        panics = panics.saturating_add(1);
        let error = panic_message(panic.as_ref());
        tracing::error!(
            task,
            error,
            "a task of the worker panicked, and starts again"
        );
        let pause = delay(RESTART_BACKOFF, panics);
        progress.record_task_panic(task, error.to_owned(), pause);
        time::sleep(pause).await;
    }
}

/// Whether a panic ends the process. Cargo builds all crates of a program with one `panic` setting, so
/// this crate's is the program's.
const ABORTS: bool = cfg!(panic = "abort");

/// Warns of each of these consumers whose handler would not get its policy.
pub(super) fn warn_of_aborts<'a>(consumers: impl Iterator<Item = (&'a str, OnError)>) {
    for (consumer, policy) in ignored(ABORTS, consumers) {
        tracing::warn!(
            consumer,
            "the program is built with `panic = \"abort\"`, so a handler that panics ends the process, again at each restart, and `on_error = \"{policy}\"` is never applied; remove the setting from the Cargo profile, or return errors instead of panicking"
        );
    }
}

/// The consumers whose policy a panic cannot reach, with the name of the policy. `stop` is left out:
/// the process stops as well.
fn ignored<'a>(
    aborts: bool,
    consumers: impl Iterator<Item = (&'a str, OnError)>,
) -> impl Iterator<Item = (&'a str, &'static str)> {
    let policy = move |(consumer, policy)| match policy {
        OnError::Park if aborts => Some((consumer, "park")),
        OnError::Skip if aborts => Some((consumer, "skip")),
        _ => None,
    };
    consumers.filter_map(policy)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_starts_again() {
        let starts = AtomicU32::new(0);
        let start = || async {
            assert_ne!(starts.fetch_add(1, Ordering::Relaxed), 0, "the first start");
        };
        let progress = Arc::new(WorkerProgress::new(Vec::new(), Duration::MAX));
        restarting("test", Arc::clone(&progress), start).await;
        assert_eq!(starts.into_inner(), 2);
        let [panic] = &progress.task_panics()[..] else {
            panic!("one is reported");
        };
        assert_eq!(panic.task, "test");
        assert!(panic.error.contains("the first start"), "{panic:?}");
    }

    #[test]
    fn only_a_policy_that_a_panic_cannot_reach_is_warned_of() {
        let consumers = [
            ("stops", OnError::Stop),
            ("parks", OnError::Park),
            ("skips", OnError::Skip),
        ];
        let warned: Vec<_> = ignored(true, consumers.into_iter()).collect();
        assert_eq!(warned, [("parks", "park"), ("skips", "skip")]);
        assert_eq!(ignored(false, consumers.into_iter()).count(), 0);
    }
}
