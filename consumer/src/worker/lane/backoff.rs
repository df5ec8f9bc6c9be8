//! How long to wait before something is tried again.

use std::time::Duration;

use crate::contract::Backoff;
use crate::worker::timeouts::fraction;

/// How long to wait for a database that fails.
pub(super) const DATABASE_BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(50),
    max: Duration::from_secs(10),
};

/// The delay after so many attempts: doubled from the shortest to the longest, minus up to a quarter
/// at random, so that lanes that failed together do not retry together.
pub(crate) fn delay(backoff: Backoff, attempts: u32) -> Duration {
    let doubled = backoff
        .min
        .saturating_mul(1 << attempts.saturating_sub(1).min(20));
    fraction(doubled.min(backoff.max), 1.0 - fastrand::f64() / 4.0)
}

#[cfg(test)]
mod tests {
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
}
