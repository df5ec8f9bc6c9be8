//! The checkpoint rows at one moment.

use std::collections::HashMap;
use std::time::Instant;

use crate::backend::{Checkpoint, Incarnation, LogState, SegmentId};

/// The checkpoint rows at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Counts the snapshots; 0 before the first.
    pub(crate) number: u64,
    /// When the reading began; `None` before the first.
    pub(crate) began_at: Option<Instant>,
    /// The incarnation of the server that they were read in.
    pub(crate) incarnation: Incarnation,
    pub(crate) rows: HashMap<SegmentId, Checkpoint>,
    /// The first event that each row had yet to handle when a worker last looked, as far as it is known.
    pub(crate) pending: HashMap<SegmentId, i64>,
    /// Another event that a row has yet to handle, or has passed.
    pub(crate) kept: HashMap<SegmentId, i64>,
    /// The state of the log.
    pub(crate) log: LogState,
}

impl Snapshot {
    /// Whether events that were read before an earlier snapshot may have been changed on purpose: the log was
    /// rewritten, or a row was resumed, moved back or created again.
    pub(crate) fn outdates_cache_of(&self, before: &Self) -> bool {
        let has_changed = |row: &Checkpoint| {
            let earlier = before.rows.get(&row.key);
            earlier.is_none_or(|earlier| row.is_restarted(earlier.epoch, earlier.position))
        };
        before.number > 0
            && (self.log.rewrites != before.log.rewrites || self.rows.values().any(has_changed))
    }
}
