//! Watches for events that came into the log behind the frontier.
//!
//! The frontier covers every position whose transaction draws and inserts it. One that is drawn in
//! an earlier transaction and inserted in a later one can appear where everything was settled, and
//! no reader would see it. What gives it away is its aggregate: the next event of that aggregate
//! skips a version.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};

use crate::backend::Incarnation;
use crate::contract::PersistedEvent;

/// How many aggregates are remembered; when there are more, all of them are forgotten.
const AGGREGATES: usize = 100_000;

/// Remembers the last version of each aggregate along one unbroken reading of the log.
#[derive(Default)]
pub(crate) struct Continuity {
    watch: Mutex<Watch>,
    hasher: RandomState,
}

#[derive(Default)]
struct Watch {
    incarnation: Incarnation,
    read_to: i64,
    /// By the hash of the aggregate's type and id: what is remembered is small, and a false alarm
    /// takes two equal hashes of 64 bits.
    versions: HashMap<u64, i64>,
}

/// An event whose predecessor nobody has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Break {
    pub(crate) position: i64,
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
    pub(crate) version: i64,
    pub(crate) last: i64,
}

impl Continuity {
    /// Takes the events after `after`, all of them, up to and including `to`; says where a version
    /// is missing. What does not follow the last call says nothing of what lies between, and what
    /// was read before says nothing new.
    pub(crate) fn follow(
        &self,
        after: i64,
        to: i64,
        incarnation: Incarnation,
        events: &[PersistedEvent],
    ) -> Vec<Break> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.incarnation != incarnation || after > watch.read_to {
            watch.versions.clear();
            watch.incarnation = incarnation;
            watch.read_to = after;
        }
        if after < watch.read_to {
            return Vec::new();
        }
        watch.read_to = to;
        let missing = |event| self.missing(&mut watch.versions, event);
        events.iter().filter_map(missing).collect()
    }

    fn missing(&self, versions: &mut HashMap<u64, i64>, event: &PersistedEvent) -> Option<Break> {
        if versions.len() >= AGGREGATES {
            versions.clear();
        }
        let aggregate = (&*event.aggregate_type, &*event.aggregate_id);
        let version = event.aggregate_version;
        let last = versions.insert(self.hasher.hash_one(aggregate), version)?;
        (version > last.saturating_add(1)).then(|| Break {
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

    fn follow(continuity: &Continuity, after: i64, events: &[PersistedEvent]) -> Vec<i64> {
        let to = events.last().map_or(after, |last| last.global_position);
        let breaks = continuity.follow(after, to, Incarnation::default(), events);
        breaks.into_iter().map(|found| found.version).collect()
    }

    #[test]
    fn an_event_that_came_in_behind_the_frontier_is_given_away_by_its_successor() {
        let continuity = Continuity::default();
        assert!(follow(&continuity, 0, &[event(1, "a", 1), event(3, "b", 1)]).is_empty());
        // Version 2 of `a` was inserted at position 2 after 3 had been settled.
        assert_eq!(
            follow(&continuity, 3, &[event(4, "a", 3), event(5, "b", 2)]),
            [3]
        );
    }

    #[test]
    fn what_was_not_read_without_a_break_raises_no_alarm() {
        let continuity = Continuity::default();
        assert!(follow(&continuity, 0, &[event(1, "a", 1)]).is_empty());
        assert!(
            follow(&continuity, 9, &[event(10, "a", 5)]).is_empty(),
            "a jump ahead"
        );
        assert!(
            follow(&continuity, 0, &[event(1, "a", 1)]).is_empty(),
            "read again"
        );
        assert!(
            follow(&continuity, 10, &[event(11, "a", 6)]).is_empty(),
            "and on"
        );
    }
}
