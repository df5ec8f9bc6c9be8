//! Positions that the log has had, which tell a deleted event from one that was rolled back.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::backend::Incarnation;
use crate::worker::log::range::LogRange;

/// How many positions are remembered; when there are more, every second one is forgotten.
const MOST: usize = 10_000;

/// Some of the positions at which a worker has seen the log to have an event.
#[derive(Default)]
pub(crate) struct SeenPositions {
    incarnation: Incarnation,
    positions: BTreeSet<i64>,
}

impl SeenPositions {
    /// Adds positions. A crash can take back what was seen in another incarnation of the server.
    pub(crate) fn add(&mut self, seen: impl Iterator<Item = i64>, incarnation: Incarnation) {
        if self.incarnation != incarnation {
            self.incarnation = incarnation;
            self.positions.clear();
        }
        self.positions.extend(seen.filter(|position| *position > 0));
        if self.positions.len() > MOST {
            let mut number = 0_u32;
            // The first one tells where the log began.
            self.positions.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
    }

    /// The gap in a range that contains positions which had an event; the span of all if there are several.
    pub(crate) fn missing_in(&self, range: &LogRange) -> Option<RangeInclusive<i64>> {
        let seen = self.positions.range(range.after.checked_add(1)?..=range.to);
        let gaps = seen.filter_map(|position| range.gap_at(*position));
        gaps.reduce(|all, gap| *all.start()..=*gap.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{EventRecord, PersistedEvent};

    fn range(after: i64, to: i64, positions: &[i64]) -> LogRange {
        let event = |&position: &i64| {
            PersistedEvent::new(EventRecord {
                global_position: position,
                ..EventRecord::default()
            })
        };
        LogRange::new(after, to, positions.iter().map(event).collect())
    }

    fn seen(positions: &[i64]) -> SeenPositions {
        let mut seen = SeenPositions::default();
        seen.add(positions.iter().copied(), Incarnation::default());
        seen
    }

    #[test]
    fn a_gap_is_missing_only_if_an_event_was_seen_in_it() {
        let log = range(0, 9, &[2, 5, 9]);
        assert_eq!(seen(&[2, 9]).missing_in(&log), None, "rolled back");
        assert_eq!(seen(&[7]).missing_in(&log), Some(6..=8));
        assert_eq!(seen(&[1, 4]).missing_in(&log), Some(1..=4));
        assert_eq!(seen(&[1]).missing_in(&range(1, 9, &[2])), None, "before");
    }

    #[test]
    fn positions_of_another_incarnation_say_nothing() {
        let mut seen = seen(&[7]);
        let other = Incarnation {
            started: 1,
            recovered: 0,
        };
        seen.add([9].into_iter(), other);
        assert_eq!(seen.missing_in(&range(0, 9, &[9])), None);
    }

    #[test]
    fn the_beginning_of_the_log_is_never_forgotten() {
        let all: Vec<i64> = (1..=20_000).collect();
        let seen = seen(&all);
        assert!(seen.positions.len() <= MOST);
        assert_eq!(seen.missing_in(&range(0, 1, &[])), Some(1..=1));
    }
}
