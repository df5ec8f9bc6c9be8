//! How long to wait before something is tried again.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time;

use crate::contract::Backoff;
use crate::worker::timeouts::fraction;

/// How long to wait for a database that fails.
pub(super) const DATABASE_BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(50),
    max: Duration::from_secs(10),
};

/// The delay after that number of attempts: doubled from the shortest to the longest, minus up to a quarter
/// at random, so that lanes that failed together do not retry together.
pub(crate) fn delay(backoff: Backoff, attempts: u32) -> Duration {
    let doubled = backoff
        .min
        .saturating_mul(1 << attempts.saturating_sub(1).min(20));
    fraction(doubled.min(backoff.max), 1.0 - fastrand::f64() / 4.0)
}

/// Waits, or returns early once the watched value changes. A sender that is gone does not count as a change:
/// when a runtime is dropped, the poller may end before the lanes, which would then retry without a pause.
pub(super) async fn sleep_unless<T>(
    pause: Duration,
    watched: &mut watch::Receiver<T>,
    is_changed: impl FnMut(&T) -> bool,
) {
    tokio::select! {
        () = time::sleep(pause) => {}
        Ok(_) = watched.wait_for(is_changed) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let backoff = Backoff {
            min: Duration::from_secs(1),
            max: Duration::from_secs(10),
        };
        for (attempts, longest) in [(1, 1), (2, 2), (4, 8), (5, 10), (u32::MAX, 10)] {
            let longest = Duration::from_secs(longest);
            let delay = delay(backoff, attempts);
            assert!(delay <= longest && delay >= longest * 3 / 4, "{delay:?}");
        }
    }

    #[tokio::test]
    async fn a_change_ends_a_pause_and_a_sender_that_is_gone_does_not() {
        let ends = |mut watched: watch::Receiver<u8>| {
            let paused = async move {
                sleep_unless(Duration::from_hours(1), &mut watched, |value| *value > 0).await;
            };
            let mut cx = Context::from_waker(Waker::noop());
            pin!(paused).poll(&mut cx).is_ready()
        };
        let (sender, watched) = watch::channel(0);
        assert!(!ends(watched.clone()));
        sender.send_replace(1);
        assert!(ends(watched));
        let (sender, watched) = watch::channel(0);
        drop(sender);
        assert!(!ends(watched));
    }
}
