//! The events that a lane handles next.

use std::sync::Arc;

use crate::backend::{Failure, NamedEvents, UnknownEvent};
use crate::worker::log::batch::{Batch, Defect};
use crate::worker::progress::lane::Cursor;

/// A batch of events, of which the first `take` are handled in one transaction.
pub(crate) struct Job {
    pub(crate) batch: Batch,
    /// How many of the events to handle, from the first on.
    pub(crate) take: usize,
    /// The checkpoint that the job follows; no event in scope lies between it and `after`.
    pub(crate) checkpoint: i64,
    /// The rebuild that the job belongs to.
    pub(crate) epoch: i64,
    /// The events that the row names and that the segment excludes.
    pub(crate) excluded: NamedEvents,
    /// The event and its number of failed attempts after which the events were read again.
    pub(crate) read_after: Option<(i64, u32)>,
    /// The failure to save of the event after those taken, if it has just failed.
    pub(crate) next_failure: Option<Failure>,
}

impl Job {
    pub(crate) fn new(cursor: &Cursor, batch: Batch) -> Self {
        Self {
            take: batch.events.len(),
            excluded: batch.excluded.or(cursor.excluded),
            batch,
            checkpoint: cursor.checkpoint,
            epoch: cursor.epoch,
            read_after: None,
            next_failure: None,
        }
    }

    /// The event that the code does not know, if that is its only one.
    pub(crate) fn unknown(&self) -> Option<&UnknownEvent> {
        match &self.batch.defect {
            Some(Defect::Unknown(unknown)) => Some(unknown),
            _ => None,
        }
    }

    /// Whether its only event cannot be decoded.
    pub(crate) fn is_unreadable(&self) -> bool {
        matches!(self.batch.defect, Some(Defect::Unreadable(_)))
    }

    /// The kind of its failures, for metrics.
    pub(crate) fn failure_kind(&self) -> &'static str {
        match &self.batch.defect {
            Some(Defect::Unreadable(_)) => "unreadable",
            Some(Defect::Missing(_)) => "missing",
            Some(Defect::Unknown(_)) | None => "handler",
        }
    }

    /// Whether all its events are to be handled in one transaction.
    pub(crate) fn is_whole(&self) -> bool {
        self.take == self.batch.events.len()
    }

    /// The position of the event at an index.
    pub(crate) fn position_of(&self, index: usize) -> Option<i64> {
        let event = self.batch.events.get(index);
        event.map(|event| event.global_position)
    }

    /// The index of the first event after a position.
    pub(crate) fn index_after(&self, position: i64) -> usize {
        self.batch
            .events
            .partition_point(|event| event.global_position <= position)
    }

    /// The checkpoint once the first `handled` events are handled.
    pub(crate) fn checkpoint_after(&self, handled: usize) -> i64 {
        if handled >= self.batch.events.len() {
            return self.batch.up_to;
        }
        let last = handled.checked_sub(1);
        last.and_then(|last| self.position_of(last))
            .unwrap_or(self.checkpoint)
    }

    /// The job with the events that are left after a new checkpoint; `None` if none are.
    pub(crate) fn rest_after(self, checkpoint: i64) -> Option<Self> {
        let rest = self.batch.events.get(self.index_after(checkpoint)..)?;
        if rest.is_empty() {
            return None;
        }
        let events = Arc::new(rest.to_vec());
        Some(Self {
            take: events.len(),
            batch: Batch {
                events,
                after: checkpoint,
                ..self.batch
            },
            checkpoint,
            next_failure: None,
            ..self
        })
    }
}
