//! Notices that events were deleted before the lane has handled them.

use crate::backend::{Backend, Checkpoint, StoreError, position, readable_event};
use crate::worker::lane::Lane;
use crate::worker::log::batch::{Batch, MissingEvents};

impl<DB: Backend> Lane<DB> {
    /// The batch, or the first event that is missing in it although the lane had yet to handle it when a worker
    /// last looked. `None` if the log has to be read again.
    pub(super) async fn with_pending(&self, mut batch: Batch) -> Result<Option<Batch>, StoreError> {
        let pending = self.pending_in(&batch);
        for event in pending.in_order() {
            let log = &self.shared.log;
            let row = log.first_from(event, batch.head, batch.incarnation);
            let following = match row.await? {
                Some(row) if position(&row) == event => {
                    if self.segment.filter().contains(readable_event(&row)) {
                        // It was restored, and what is in memory is older.
                        log.discard();
                        return Ok(None);
                    }
                    if pending.of_row == Some(event) {
                        batch.excluded = pending.of_row;
                    }
                    continue;
                }
                following => following,
            };
            let last = following.map_or(batch.head, |row| position(&row) - 1);
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
        let seen = snapshot.pending.get(key).filter(|_| is_current);
        // What the lane has passed since is no longer pending.
        let known = self.known_next.filter(|next| batch.after < *next);
        let is_lacking =
            |next: &i64| (batch.after + 1..=batch.up_to).contains(next) && !batch.has(*next);
        Pending {
            of_row: known
                .or(row.and_then(Checkpoint::known_next))
                .filter(is_lacking),
            seen: seen.copied().filter(is_lacking),
        }
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

/// Events that a lane had yet to handle.
struct Pending {
    /// The next one according to the row, or to the lane.
    of_row: Option<i64>,
    /// The first one when a worker last looked.
    seen: Option<i64>,
}

impl Pending {
    fn in_order(&self) -> impl Iterator<Item = i64> + use<> {
        let (first, last) = (self.of_row.min(self.seen), self.of_row.max(self.seen));
        first.into_iter().chain(last.filter(|_| first != last))
    }
}
