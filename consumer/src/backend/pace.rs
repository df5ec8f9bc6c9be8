//! How often a search that may pass dead row versions is repeated.

use std::time::{Duration, Instant};

/// How much longer the pause after a search is than the search.
const PAUSE: u32 = 19;

/// Keeps a repeated search to a twentieth of the time.
///
/// While an old transaction is open, for example that of a dump, Postgres keeps all versions of rows that are updated,
/// and a search for the newest one passes them all.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    not_before: Option<Instant>,
}

impl Pace {
    /// Whether the pause after the last search is over.
    pub(crate) fn is_due(&self) -> bool {
        self.not_before.is_none_or(|at| at <= Instant::now())
    }

    /// Begins the pause after a search, which is at least `shortest`.
    pub(crate) fn pause(&mut self, search: Duration, shortest: Duration) {
        let pause = search.saturating_mul(PAUSE).max(shortest);
        self.not_before = Instant::now().checked_add(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_pauses_for_nineteen_times_as_long_as_it_took() {
        let mut pace = Pace::default();
        assert!(pace.is_due());
        pace.pause(Duration::from_mins(1), Duration::ZERO);
        assert!(!pace.is_due());
        let pause = pace.not_before.map(|at| at.duration_since(Instant::now()));
        assert!(pause.is_some_and(|pause| pause > Duration::from_mins(18)));
        pace.pause(Duration::ZERO, Duration::ZERO);
        assert!(pace.is_due());
    }
}
