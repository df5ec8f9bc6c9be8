//! How far the log was searched for the next event of a row.

use crate::backend::Checkpoint;

/// A part of the log without an event for a row.
#[derive(Debug)]
pub(super) struct Searched {
    epoch: i64,
    after: i64,
    to: i64,
}

impl Searched {
    /// The log up to a position has no event for the row.
    pub(super) fn of(row: &Checkpoint, to: i64) -> Self {
        Self {
            epoch: row.epoch,
            after: row.position,
            to,
        }
    }

    /// Up to where there is no event for the row after its checkpoint.
    pub(super) fn to(&self, row: &Checkpoint) -> i64 {
        let is_valid = row.epoch == self.epoch && row.position >= self.after;
        if is_valid {
            self.to.max(row.position)
        } else {
            row.position
        }
    }
}
