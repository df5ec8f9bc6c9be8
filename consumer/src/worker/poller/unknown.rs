//! Records what lanes wait for, so that other processes show it.

use std::sync::Arc;

use crate::backend::{Backend, Checkpoint, State, UnknownEvent};
use crate::worker::error::WorkerError;
use crate::worker::poller::Poller;
use crate::worker::progress::state::ConsumerState;

impl<DB: Backend> Poller<DB> {
    /// Records the event before which each lane waits for a release that knows it, unless another process has
    /// handled it meanwhile. A row that another process works on is left alone.
    pub(super) async fn note_unknown(&mut self) -> Result<(), WorkerError> {
        for (row, unknown) in self.unrecorded() {
            if !self.writing.begin() {
                return Ok(());
            }
            let (statements, incarnation) = (&self.shared.statements, self.observed().incarnation);
            let connection = self.connection.get()?;
            DB::note_unknown(statements, connection, &row, &unknown, incarnation).await?;
        }
        Ok(())
    }

    /// The rows that do not show what their lane waits for, as far as the last snapshot tells.
    fn unrecorded(&self) -> Vec<(Checkpoint, UnknownEvent)> {
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let incarnation = self.observed().incarnation;
        let lanes = self.shared.progress.lanes();
        let waiting = lanes.iter().filter_map(|lane| {
            let ConsumerState::WaitingForRelease { event } = lane.state() else {
                return None;
            };
            let cursor = lane.cursor()?;
            let row = snapshot.rows.get(&lane.key)?;
            let is_next = row.epoch == cursor.epoch
                && row.position < event.position
                && row.state == State::Running
                && row.attempts == 0
                && cursor.incarnation == incarnation;
            let is_recorded = row.unknown.as_ref() == Some(&event);
            (is_next && !is_recorded).then(|| (row.clone(), event))
        });
        waiting.collect()
    }
}
