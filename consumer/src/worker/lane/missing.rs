//! Notices that events were deleted before the lane has handled them.

use crate::backend::{Backend, Checkpoint, StoreError, position, readable_event};
use crate::worker::lane::Lane;
use crate::worker::log::batch::{Batch, MissingEvents};

impl<DB: Backend> Lane<DB> {
    /// The batch, or the event that is missing in it: the first one that the lane had yet to handle when a
    /// worker last looked. `None` if the log has to be read again.
    pub(super) async fn with_pending(&self, batch: Batch) -> Result<Option<Batch>, StoreError> {
        let Some(pending) = self.pending_in(&batch) else {
            return Ok(Some(batch));
        };
        let log = &self.shared.log;
        let row = log.first_from(pending, batch.head, batch.incarnation);
        let next = match row.await? {
            Some(row) if position(&row) == pending => {
                if !self.segment.filter().contains(readable_event(&row)) {
                    return Ok(Some(batch));
                }
                // It was restored, and what is in memory is older.
                log.discard();
                return Ok(None);
            }
            next => next,
        };
        let last = next.as_ref().map_or(batch.head, |row| position(row) - 1);
        Ok(Some(batch.before_missing(MissingEvents(pending..=last))))
    }

    /// The event that the lane had yet to handle, if the batch should have it and has not.
    fn pending_in(&self, batch: &Batch) -> Option<i64> {
        let snapshot = self.shared.snapshot.borrow();
        let key = &self.segment.key;
        let row = snapshot.rows.get(key);
        // What the lane has passed since is no longer pending.
        let deleted = self.deleted.filter(|deleted| batch.after < *deleted);
        let pending = deleted.or_else(|| row.and_then(Checkpoint::known_next));
        let pending = pending.or(snapshot.pending.get(key).copied())?;
        let is_in = snapshot.incarnation == batch.incarnation
            && batch.after < pending
            && pending <= batch.up_to;
        let has_it = |events: &[crate::contract::PersistedEvent]| {
            events
                .binary_search_by_key(&pending, |event| event.global_position)
                .is_ok()
        };
        (is_in && !has_it(&batch.events)).then_some(pending)
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
