//! Detects events that were inserted behind the frontier.
//!
//! The frontier covers every position whose transaction both draws and inserts it. A position that
//! is drawn in one transaction and inserted in a later one can appear where everything was settled,
//! and no reader would see it. Its aggregate reveals it: the next event that is read of that
//! aggregate skips a version.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use parking_lot::Mutex;

use crate::backend::Incarnation;
use crate::contract::PersistedEvent;

/// How many aggregates are remembered; when there are more, all of them are forgotten.
const MAX_AGGREGATES: usize = 100_000;

/// Remembers the last version of each aggregate along one uninterrupted reading of the log.
#[derive(Default)]
pub(crate) struct Continuity {
    reading: Mutex<Reading>,
    hasher: RandomState,
}

#[derive(Default)]
struct Reading {
    incarnation: Incarnation,
    read_to: i64,
    /// The last version by the hash of the aggregate's type and id: entries are small, and a false
    /// alarm takes two aggregates with the same 64-bit hash.
    versions: HashMap<u64, i64>,
}

/// An event whose aggregate skips a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SkippedVersion {
    pub(crate) position: i64,
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
    pub(crate) version: i64,
    /// The last version before it.
    pub(crate) last: i64,
}

impl Continuity {
    /// Checks all events after `after`, up to and including `to`. A range that does not continue
    /// the reading starts a new one, since versions in between were not seen; a range that was read
    /// before is not checked again.
    pub(crate) fn check(
        &self,
        after: i64,
        to: i64,
        incarnation: Incarnation,
        events: &[PersistedEvent],
    ) -> Vec<SkippedVersion> {
        let mut reading = self.reading.lock();
        if reading.incarnation != incarnation || after > reading.read_to {
            reading.versions.clear();
            reading.incarnation = incarnation;
            reading.read_to = after;
        }
        if after < reading.read_to {
            return Vec::new();
        }
        reading.read_to = to;
        let skipped = |event| self.skipped_version(&mut reading.versions, event);
        events.iter().filter_map(skipped).collect()
    }

    fn skipped_version(
        &self,
        versions: &mut HashMap<u64, i64>,
        event: &PersistedEvent,
    ) -> Option<SkippedVersion> {
        if versions.len() >= MAX_AGGREGATES {
            versions.clear();
        }
        let aggregate = (&*event.aggregate_type, &*event.aggregate_id);
        let version = event.aggregate_version;
        let last = versions.insert(self.hasher.hash_one(aggregate), version)?;
        (version > last.saturating_add(1)).then(|| SkippedVersion {
            position: event.global_position,
            aggregate_type: event.aggregate_type.to_string(),
            aggregate_id: event.aggregate_id.clone(),
            version,
            last,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::EventRecord;

    fn event(position: i64, id: &str, version: i64) -> PersistedEvent {
        PersistedEvent::new(EventRecord {
            global_position: position,
            aggregate_type: "User".into(),
            aggregate_id: id.to_owned(),
            aggregate_version: version,
            ..EventRecord::default()
        })
    }

    fn check(continuity: &Continuity, after: i64, events: &[PersistedEvent]) -> Vec<i64> {
        let to = events.last().map_or(after, |last| last.global_position);
        let skipped = continuity.check(after, to, Incarnation::default(), events);
        skipped.into_iter().map(|found| found.version).collect()
    }

    #[test]
    fn an_event_behind_the_frontier_is_detected_by_its_successor() {
        let continuity = Continuity::default();
        assert!(check(&continuity, 0, &[event(1, "a", 1), event(3, "b", 1)]).is_empty());
        // Version 2 of `a` was inserted at position 2 after 3 had been settled.
        assert_eq!(
            check(&continuity, 3, &[event(4, "a", 3), event(5, "b", 2)]),
            [3]
        );
    }

    #[test]
    fn a_restart_raises_no_alarm_unless_the_server_is_the_same() {
        let unnoticed = Incarnation::default();
        let noticed = Incarnation {
            started: 1,
            ..unnoticed
        };
        for (incarnation, alarms) in [(noticed, 0), (unnoticed, 1)] {
            let continuity = Continuity::default();
            assert!(check(&continuity, 0, &[event(1, "a", 1), event(2, "b", 1)]).is_empty());
            // Position 2 was lost with the crash and given out again, to version 2 of `a`.
            let skipped = continuity.check(2, 3, incarnation, &[event(3, "a", 3)]);
            assert_eq!(skipped.len(), alarms, "{incarnation:?}");
        }
    }

    #[test]
    fn an_interrupted_reading_raises_no_alarm() {
        let continuity = Continuity::default();
        assert!(check(&continuity, 0, &[event(1, "a", 1)]).is_empty());
        assert!(
            check(&continuity, 9, &[event(10, "a", 5)]).is_empty(),
            "a jump ahead"
        );
        assert!(
            check(&continuity, 0, &[event(1, "a", 1)]).is_empty(),
            "a range read before"
        );
        assert!(
            check(&continuity, 10, &[event(11, "a", 6)]).is_empty(),
            "the range that follows"
        );
    }
}
