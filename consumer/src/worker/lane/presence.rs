//! When a lane records which process works on its checkpoint row.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The least time between two records, so that most batches need no statement for it.
const INTERVAL: Duration = Duration::from_secs(1);

/// The last record of the process.
#[derive(Debug, Default)]
pub(crate) struct Presence(Mutex<Option<Note>>);

#[derive(Debug)]
struct Note {
    at: Instant,
    saved: Reached,
}

/// How far a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    /// The checkpoint.
    pub(crate) position: i64,
    /// The failed attempts at the event after it.
    pub(crate) attempts: u32,
}

impl Presence {
    /// Whether a save should also record the process. `row` is how far the row was before the save: if that is
    /// less than was saved with the last record, the transaction was rolled back, and the record with it.
    pub(crate) fn is_due(&self, row: Reached, now: Instant) -> bool {
        self.0.lock().as_ref().is_none_or(|Note { at, saved }| {
            let is_undone = match row.position.cmp(&saved.position) {
                Ordering::Less => true,
                Ordering::Equal => row.attempts != saved.attempts,
                Ordering::Greater => false,
            };
            is_undone || now.saturating_duration_since(*at) >= INTERVAL
        })
    }

    /// Remembers that the process was recorded in the transaction that saved `saved`.
    pub(crate) fn noted(&self, saved: Reached, now: Instant) {
        *self.0.lock() = Some(Note { at: now, saved });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn reached(position: i64, attempts: u32) -> Reached {
        Reached { position, attempts }
    }

    #[test]
    fn a_record_is_due_after_a_second_or_if_it_is_undone() {
        let presence = Presence::default();
        let now = Instant::now();
        let later = |after| now.checked_add(after).unwrap();
        assert!(presence.is_due(reached(0, 0), now), "there is none yet");
        presence.noted(reached(10, 1), now);
        for (row, after, expected) in [
            (reached(10, 1), Duration::ZERO, false),
            (reached(10, 1), INTERVAL, true),
            (reached(20, 0), Duration::from_millis(999), false),
            // Rolled back.
            (reached(9, 0), Duration::ZERO, true),
            (reached(10, 0), Duration::ZERO, true),
        ] {
            assert_eq!(
                presence.is_due(row, later(after)),
                expected,
                "{row:?} {after:?}"
            );
        }
    }
}
