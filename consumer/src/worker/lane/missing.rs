//! Notices that events were deleted before the lane has handled them.

use std::collections::BTreeSet;

use crate::backend::{
    Backend, Checkpoint, NamedEvents, SegmentId, StoreError, position, readable_event,
};
use crate::worker::lane::Lane;
use crate::worker::log::batch::{Batch, MissingEvents};
use crate::worker::poller::snapshot::Snapshot;

impl<DB: Backend> Lane<DB> {
    /// The batch, or the first event that is missing in it although the lane had yet to handle it when a worker
    /// last looked. `None` if the log has to be read again.
    pub(super) async fn with_pending(&self, mut batch: Batch) -> Result<Option<Batch>, StoreError> {
        let pending = self.pending_in(&batch);
        for event in pending.events {
            let log = &self.shared.log;
            // Beyond the frontier too: everything up to the event was settled when it was recorded.
            let head = batch.head.max(event);
            let first = event.min(batch.up_to + 1);
            let row = log.first_from(first, head, batch.incarnation);
            let following = match row.await? {
                Some(row) if batch.up_to < position(&row) && position(&row) <= event => continue,
                Some(row) if position(&row) == event => {
                    if self.segment.filter().contains(readable_event(&row)) {
                        // It was restored, and what is in memory is older.
                        log.discard();
                        return Ok(None);
                    }
                    let is_this = |named| named == event;
                    batch.excluded = batch.excluded.or(pending.named.filter(is_this));
                    continue;
                }
                following => following,
            };
            let last = following.map_or(head, |row| position(&row) - 1);
            return Ok(Some(batch.before_missing(MissingEvents(event..=last))));
        }
        Ok(Some(batch))
    }

    /// The events that the lane had yet to handle, if the batch should have them and has not.
    fn pending_in(&self, batch: &Batch) -> Pending {
        let snapshot = self.shared.snapshot.borrow();
        let key = &self.segment.key;
        let is_current = snapshot.incarnation == batch.incarnation;
        let row = snapshot.rows.get(key).filter(|_| is_current);
        let recorded = recorded(&snapshot, key).filter(|_| is_current);
        // No event may follow that would show that the last ones were deleted.
        let reaches_end = batch.events.is_empty() && batch.up_to >= batch.head;
        let is_lacking = |next| {
            let is_in_reach = batch.after < next && (next <= batch.up_to || reaches_end);
            is_in_reach && !batch.has(next)
        };
        let named = self.named_after(batch.after, row);
        let events = named.positions().chain(recorded).chain(self.deleted);
        Pending {
            named,
            events: events.filter(|next| is_lacking(*next)).collect(),
        }
    }

    /// Whether the lane has yet to handle an event after a position, as far as it has seen.
    pub(super) fn knows_later(&self, after: i64) -> bool {
        let key = &self.segment.key;
        let named = self.named_after(after, self.seen.rows.get(key));
        let mut events = named.positions().chain(recorded(&self.seen, key));
        events.any(|next| after < next)
    }

    /// What the row names after a position, according to its last claim and a snapshot.
    fn named_after(&self, after: i64, row: Option<&Checkpoint>) -> NamedEvents {
        let is_later = |next| after < next;
        let of_row = row.map(Checkpoint::named).unwrap_or_default();
        self.claimed.filter(is_later).or(of_row.filter(is_later))
    }

    /// Says once that the lane passes over events that were deleted, some of which it may have had to
    /// handle.
    pub(super) fn report_missing(&self, batch: &Batch) {
        let Some(missing) = &batch.missing else {
            return;
        };
        if self.progress.add_missing(missing) {
            let (from, to) = (missing.start(), missing.end());
            tracing::warn!(
                consumer = self.segment.name(),
                from,
                to,
                "events {from} to {to} are no longer in the log; the consumer passes over those that it had not handled",
            );
        }
    }
}

/// The events that workers have recorded for a row.
fn recorded<'s>(snapshot: &'s Snapshot, key: &'s SegmentId) -> impl Iterator<Item = i64> + 's {
    let recorded = [&snapshot.pending, &snapshot.kept].into_iter();
    recorded.filter_map(|events| events.get(key).copied())
}

/// Events that a lane had yet to handle.
struct Pending {
    /// Those that the row names.
    named: NamedEvents,
    /// All that are not in the batch.
    events: BTreeSet<i64>,
}
