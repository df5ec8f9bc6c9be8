//! What a lane works on.

use std::sync::Arc;

use crate::backend::{Backend, SLICES, SegmentId};
use crate::worker::log::batch::Filter;
use crate::worker::poller::assignment::WorkerConsumer;

/// One segment of a consumer: a checkpoint row and the events whose progress it records.
pub(crate) struct Segment<DB: Backend> {
    pub(crate) consumer: Arc<WorkerConsumer<DB>>,
    pub(crate) key: SegmentId,
    /// The slice after the row's last one, as in the newest snapshot.
    pub(crate) slice_to: i32,
}

impl<DB: Backend> Segment<DB> {
    /// The consumer's name, for the log.
    pub(crate) fn name(&self) -> &str {
        &self.key.consumer.name
    }

    /// The consumer's scope as the checkpoint row stores it.
    pub(crate) fn scope_text(&self) -> &str {
        &self.consumer.enrolment.scope
    }

    /// Whether the consumer has other segments beside this one, or may have.
    pub(crate) fn is_divided(&self) -> bool {
        let slices = i32::from(SLICES);
        self.consumer.settings.segments > 1 || (self.key.slice_from, self.slice_to) != (0, slices)
    }

    /// Which events it contains.
    pub(crate) fn filter(&self) -> Filter {
        let slice = |slice: i32| u16::try_from(slice).unwrap_or(SLICES);
        Filter {
            scope: Arc::clone(&self.consumer.scope),
            slices: slice(self.key.slice_from)..slice(self.slice_to),
        }
    }
}
