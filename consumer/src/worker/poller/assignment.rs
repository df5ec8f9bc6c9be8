//! Decides which lanes there are: one for each checkpoint row of the worker's consumers.
//!
//! The rows decide. The setting `segments` determines their number at first and splits them
//! further; a process with a lower setting runs the same rows, but fewer of them at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};

use crate::backend::{Backend, Checkpoint, ConsumerId, Enrolment, SLICES, SegmentId};
use crate::contract::read_model::Table;
use crate::contract::{OnError, Settings};
use crate::registry::Registered;
use crate::worker::metrics;
use crate::worker::poller::snapshot::Snapshot;
use crate::worker::progress::lane::LaneProgress;
use crate::worker::progress::worker::{LaneChanges, WorkerProgress};

/// The highest number of segments of a consumer.
const MAX_SEGMENTS: u32 = 64;

/// A consumer of the worker, with what its lanes share.
pub(crate) struct WorkerConsumer<DB: Backend> {
    pub(crate) registered: Registered<DB>,
    pub(crate) settings: Settings,
    pub(crate) scope: Arc<[Arc<str>]>,
    pub(crate) enrolment: Enrolment,
    /// Limits how many of its batches run at once in this process.
    pub(crate) permits: Semaphore,
}

impl<DB: Backend> WorkerConsumer<DB> {
    pub(crate) fn new(registered: Registered<DB>) -> Self {
        let declaration = &registered.declaration;
        let settings = match registered.consumer.read_model() {
            Some(_) => declaration.settings.clone().for_read_model(),
            None => declaration.settings.clone(),
        };
        let segments = segment_count(settings.segments);
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
                formerly: declaration.formerly.clone(),
            },
            permits: Semaphore::new(usize::try_from(segments).unwrap_or(1)),
            settings,
            registered,
        }
    }

    pub(crate) fn id(&self) -> &ConsumerId {
        &self.enrolment.consumer
    }

    /// Its name, and what happens when its handler fails.
    pub(crate) fn policy(&self) -> (&str, OnError) {
        (&self.id().name, self.settings.on_error)
    }

    /// Whether its handler writes through the transaction (R3).
    pub(crate) fn uses_transaction(&self) -> bool {
        self.registered.consumer.uses_transaction()
    }

    /// Whether no SQL of a handler runs in its transaction.
    pub(crate) fn only_folds(&self) -> bool {
        self.registered.consumer.only_folds()
    }

    /// The table of its read model, if it has one.
    pub(crate) fn table(&self) -> Option<&'static Table> {
        self.registered.consumer.read_model()
    }

    /// Whether a checkpoint row is one of its own.
    pub(crate) fn owns(&self, key: &SegmentId) -> bool {
        key.consumer == *self.id()
    }

    /// The slice at which to split a row that is wider than the consumer wants.
    pub(crate) fn split_at(&self, row: &Checkpoint) -> Option<i32> {
        let width = row.slice_to - row.key.slice_from;
        (self.owns(&row.key) && width > self.enrolment.width)
            .then(|| row.key.slice_from + width / 2)
    }
}

/// The number of segments for a setting: a power of two up to 64.
pub(crate) fn segment_count(setting: u32) -> u32 {
    setting.clamp(1, MAX_SEGMENTS).next_power_of_two()
}

/// The scope as the checkpoint row stores it: sorted types, one per line; empty for all.
pub(crate) fn scope_text(scope: &[Arc<str>]) -> Arc<str> {
    let mut types: Vec<&str> = scope
        .iter()
        .map(|aggregate_type| &**aggregate_type)
        .collect();
    types.sort_unstable();
    types.dedup();
    types.join("\n").into()
}

/// A lane to start.
pub(crate) struct NewLane<DB: Backend> {
    /// The number of the first snapshot that contains its row.
    pub(crate) snapshot: u64,
    pub(crate) consumer: Arc<WorkerConsumer<DB>>,
    pub(crate) progress: Arc<LaneProgress>,
}

impl<DB: Backend> Clone for NewLane<DB> {
    fn clone(&self) -> Self {
        Self {
            snapshot: self.snapshot,
            consumer: Arc::clone(&self.consumer),
            progress: Arc::clone(&self.progress),
        }
    }
}

/// Starts a lane for each row.
pub(crate) struct LaneAssigner<DB: Backend> {
    /// The name of the log, for metrics.
    pub(crate) log_name: Arc<str>,
    pub(crate) consumers: Vec<Arc<WorkerConsumer<DB>>>,
    pub(crate) progress: Arc<WorkerProgress>,
    pub(crate) new_lanes: mpsc::UnboundedSender<NewLane<DB>>,
}

impl<DB: Backend> LaneAssigner<DB> {
    /// Starts a lane for each row that has none. The worker's progress changes with the rows before
    /// any lane sees them: waiting for a consumer means waiting for all its rows.
    pub(crate) fn update(&self, snapshot: &Snapshot) {
        let consumers: HashMap<&ConsumerId, &Arc<WorkerConsumer<DB>>> = self
            .consumers
            .iter()
            .map(|consumer| (consumer.id(), consumer))
            .collect();
        let mut own: Vec<&Checkpoint> = snapshot
            .rows
            .values()
            .filter(|row| consumers.contains_key(&row.key.consumer))
            .filter(|row| self.progress.held_back(&row.key.consumer).is_none())
            .collect();
        own.sort_by_key(|row| &row.key);
        let LaneChanges { added, removed } = self.progress.update_lanes(&own);
        for lane in removed {
            // Otherwise the gauge would show its last value until the process ends.
            metrics::lag(&self.log_name, &lane.key, 0, 0, Duration::ZERO);
        }
        for progress in added {
            let Some(consumer) = consumers.get(&progress.key.consumer) else {
                continue;
            };
            // The receiver is gone only when the worker shuts down.
            let _ = self.new_lanes.send(NewLane {
                snapshot: snapshot.number,
                consumer: Arc::clone(consumer),
                progress,
            });
        }
    }
}
