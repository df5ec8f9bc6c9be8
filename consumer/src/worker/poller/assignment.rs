//! Which lanes there are: one for each checkpoint row of the worker's consumers.
//!
//! The rows are the truth. The setting `segments` seeds them and divides them further; a process
//! set to fewer lanes runs the same rows, as many of them at once as it may.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};

use crate::backend::SLICES;
use crate::backend::{Backend, Checkpoint, ConsumerId, Enrolment, SegmentId};
use crate::contract::Settings;
use crate::registry::Registered;
use crate::worker::context::Snapshot;
use crate::worker::progress::{Cell, LaneBoard};

/// A consumer of the worker, with what its lanes share.
pub(crate) struct AssignedConsumer<DB: Backend> {
    pub(crate) registered: Registered<DB>,
    pub(crate) settings: Settings,
    pub(crate) scope: Arc<[Arc<str>]>,
    pub(crate) enrolment: Enrolment,
    /// As many batches of it may be at work at once in this process.
    pub(crate) lanes: Semaphore,
}

impl<DB: Backend> AssignedConsumer<DB> {
    pub(crate) fn new(registered: Registered<DB>) -> Self {
        let declaration = &registered.declaration;
        let settings = declaration.settings.clone();
        let segments = settings.segments.clamp(1, 64).next_power_of_two();
        let width = u32::from(SLICES) / segments;
        Self {
            scope: declaration.scope.clone().into(),
            enrolment: Enrolment {
                consumer: ConsumerId {
                    name: Arc::clone(&declaration.name),
                    version: declaration.version,
                },
                width: i32::try_from(width).unwrap_or(i32::from(SLICES)),
                scope: scope_text(&declaration.scope),
                start_from: settings.start_from,
            },
            lanes: Semaphore::new(usize::try_from(segments).unwrap_or(1)),
            settings,
            registered,
        }
    }

    /// Whether a checkpoint row is one of its own.
    pub(crate) fn has(&self, key: &SegmentId) -> bool {
        key.consumer == self.enrolment.consumer
    }

    /// Where a row has to be divided, if it is wider than the consumer wants.
    pub(crate) fn split_at(&self, row: &Checkpoint) -> Option<i32> {
        let width = row.slice_to - row.key.slice_from;
        (self.has(&row.key) && width > self.enrolment.width).then(|| row.key.slice_from + width / 2)
    }
}

/// The scope as the checkpoint row keeps it: the types in order, a line each; empty for all.
pub(crate) fn scope_text(scope: &[Arc<str>]) -> Arc<str> {
    let mut kinds: Vec<&str> = scope.iter().map(|kind| &**kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds.join("\n").into()
}

/// A lane that is to be opened.
pub(crate) struct NewLane<DB: Backend> {
    /// The number of the snapshot that shows its row first.
    pub(crate) snapshot: u64,
    pub(crate) consumer: Arc<AssignedConsumer<DB>>,
    pub(crate) cell: Arc<Cell>,
}

/// Keeps a lane for each row.
pub(crate) struct Assignments<DB: Backend> {
    pub(crate) consumers: Vec<Arc<AssignedConsumer<DB>>>,
    pub(crate) board: Arc<LaneBoard>,
    pub(crate) new_lanes: mpsc::UnboundedSender<NewLane<DB>>,
}

impl<DB: Backend> Assignments<DB> {
    /// Opens a lane for each row that has none. The board comes in line with the rows before any
    /// lane sees them: whoever waits for a consumer must wait for all its rows.
    pub(crate) fn update(&self, snapshot: &Snapshot) {
        let consumers: HashMap<&ConsumerId, &Arc<AssignedConsumer<DB>>> = self
            .consumers
            .iter()
            .map(|consumer| (&consumer.enrolment.consumer, consumer))
            .collect();
        let mut own: Vec<&Checkpoint> = snapshot
            .rows
            .values()
            .filter(|row| consumers.contains_key(&row.key.consumer))
            .collect();
        own.sort_by_key(|row| &row.key);
        for cell in self.board.seat(&own) {
            let Some(consumer) = consumers.get(&cell.key.consumer) else {
                continue;
            };
            // The worker that opens lanes is gone only when it shuts down.
            let _ = self.new_lanes.send(NewLane {
                snapshot: snapshot.number,
                consumer: Arc::clone(consumer),
                cell,
            });
        }
    }
}
