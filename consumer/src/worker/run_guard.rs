//! That a worker is over, however it came to that.

use std::sync::Arc;

use crate::worker::WorkerError;
use crate::worker::progress::report::Report;
use crate::worker::progress::{Ended, LaneBoard};

/// Writes on the board that the run is over when it is dropped, also when the run's task was given
/// up or panicked: whoever probes the worker must not take silence for incarnation.
pub(super) struct RunGuard {
    /// None when somebody else has taken over to write it.
    board: Option<Arc<LaneBoard>>,
    pub(super) was_asked: bool,
    error: Option<String>,
}

impl RunGuard {
    pub(super) fn of(board: &Arc<LaneBoard>) -> Self {
        Self {
            board: Some(Arc::clone(board)),
            was_asked: false,
            error: None,
        }
    }

    /// Lets the caller write it in the place of this one.
    pub(super) fn take(&mut self) -> Self {
        Self {
            board: self.board.take(),
            was_asked: self.was_asked,
            error: self.error.take(),
        }
    }

    /// Notes what ended the run.
    pub(super) fn note(&mut self, ended: &Result<Report, WorkerError>) {
        self.error = ended.as_ref().err().map(ToString::to_string);
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        let Some(board) = &self.board else {
            return;
        };
        board.set_end(Ended {
            was_asked: self.was_asked,
            error: self.error.take(),
        });
    }
}
