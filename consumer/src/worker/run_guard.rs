//! Records that a worker ended, even if its task was dropped or panicked.

use std::sync::Arc;

use crate::contract::chain;
use crate::worker::error::WorkerError;
use crate::worker::progress::report::Report;
use crate::worker::progress::worker::{RunEnd, WorkerProgress};

/// Records the end of a run when it is dropped, so that probes of a worker whose task was dropped
/// or panicked do not mistake silence for a running worker.
pub(super) struct RunGuard {
    /// `None` once another guard has taken over.
    progress: Option<Arc<WorkerProgress>>,
    end: RunEnd,
}

impl RunGuard {
    pub(super) fn new(progress: &Arc<WorkerProgress>) -> Self {
        Self {
            progress: Some(Arc::clone(progress)),
            end: RunEnd::default(),
        }
    }

    /// Moves the duty to record the end into the returned guard.
    pub(super) fn take(&mut self) -> Self {
        Self {
            progress: self.progress.take(),
            end: std::mem::take(&mut self.end),
        }
    }

    /// Notes whether the worker was asked to end, or had nothing left to do.
    pub(super) fn set_requested(&mut self, was_requested: bool) {
        self.end.was_asked = was_requested;
    }

    /// Notes the error that ended the run, if there was one.
    pub(super) fn set_result(&mut self, result: &Result<Report, WorkerError>) {
        self.end.error = result.as_ref().err().map(|error| chain(error).to_string());
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        if let Some(progress) = &self.progress {
            progress.set_end(std::mem::take(&mut self.end));
        }
    }
}
