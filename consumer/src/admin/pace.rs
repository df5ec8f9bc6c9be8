//! The rate of a rebuild, and the time that it has left.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The rate over the last eighth of the elapsed time, but at least over the last ten seconds.
///
/// A slow or fast start no longer counts at half-time, and a short pause does not stop the estimate.
#[derive(Debug)]
pub(super) struct Rate {
    began: Instant,
    seen: VecDeque<(Instant, i64)>,
}

impl Rate {
    const SHORTEST: Duration = Duration::from_secs(10);

    pub(super) fn new(now: Instant, handled: i64) -> Self {
        Self {
            began: now,
            seen: VecDeque::from([(now, handled)]),
        }
    }

    pub(super) fn note(&mut self, now: Instant, handled: i64) {
        self.seen.push_back((now, handled));
        let window = ((now - self.began) / 8).max(Self::SHORTEST);
        // The newest entry that is old enough stays, so that the window is never too short.
        while self
            .seen
            .get(1)
            .is_some_and(|(at, _)| now.duration_since(*at) >= window)
        {
            self.seen.pop_front();
        }
    }

    pub(super) fn per_second(&self) -> f64 {
        let (Some((from, before)), Some((to, after))) = (self.seen.front(), self.seen.back())
        else {
            return 0.0;
        };
        let seconds = to.duration_since(*from).as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // a rate to read
        let events = (after - before) as f64;
        if seconds > 0.0 { events / seconds } else { 0.0 }
    }
}

/// How long it takes to handle `events` at `rate` per second.
pub(super) fn time_for(events: i64, rate: f64) -> Option<Duration> {
    #[allow(clippy::cast_precision_loss)] // an estimate to read
    let seconds = events as f64 / rate;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Rate, time_for};

    /// Simulates a rebuild of 1,000,000 events at these speeds, each given with the share of events
    /// at which it starts. Returns the worst error of the estimates in the second half, as a share
    /// of the time that was really left.
    fn worst(speeds: &[(f64, f64)]) -> f64 {
        let began = Instant::now();
        let mut rate = Rate::new(began, 0);
        let (mut handled, mut seconds) = (0.0_f64, 0.0_f64);
        let mut estimates = Vec::new();
        while handled < 1_000_000.0 {
            let share = handled / 1_000_000.0;
            let speed = speeds.iter().rev().find(|(from, _)| *from <= share);
            // Batches are not evenly spaced.
            let swing = [0.7, 1.1, 1.2][estimates.len() % 3];
            seconds += 0.2;
            handled += speed.unwrap().1 * swing * 0.2;
            #[allow(clippy::cast_possible_truncation)]
            let whole = handled.min(1_000_000.0) as i64;
            rate.note(began + Duration::from_secs_f64(seconds), whole);
            estimates.push((
                share,
                seconds,
                time_for(1_000_000 - whole, rate.per_second()),
            ));
        }
        let second_half = estimates
            .iter()
            .filter(|(share, ..)| (0.5..0.97).contains(share));
        let errors = second_half.map(|(_, at, estimate)| {
            let left = seconds - at;
            (estimate.unwrap().as_secs_f64() - left).abs() / left
        });
        errors.fold(0.0, f64::max)
    }

    #[test]
    fn estimates_in_the_second_half_are_right_within_a_fifth() {
        assert!(worst(&[(0.0, 10_000.0)]) < 0.2);
        // It warms up.
        assert!(worst(&[(0.0, 2_000.0), (0.2, 10_000.0)]) < 0.2);
        // It slows down, as when an index outgrows memory.
        assert!(worst(&[(0.0, 20_000.0), (0.1, 14_000.0), (0.25, 10_000.0)]) < 0.2);
    }

    /// A control: a slowdown cannot be foreseen.
    #[test]
    fn a_rebuild_that_slows_down_later_takes_longer_than_estimated() {
        assert!(worst(&[(0.0, 10_000.0), (0.6, 3_000.0)]) > 0.2);
    }

    #[test]
    fn there_is_no_estimate_while_nothing_moves() {
        assert_eq!(time_for(10, 0.0), None);
    }
}
