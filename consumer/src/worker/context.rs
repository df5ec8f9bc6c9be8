//! What all lanes of a worker share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Notify, watch};

use crate::backend::{Backend, Checkpoint, Incarnation, Observation, SegmentId};
use crate::store::EventStore;
use crate::worker::connections::Connections;
use crate::worker::log::Log;
use crate::worker::options::Options;
use crate::worker::poller::idle::Idle;
use crate::worker::progress::LaneBoard;
use crate::worker::timeouts::Timeouts;

/// How many batches of the full size the lanes of a worker hold together, however many they are.
const FULL_BATCHES: u64 = 16;

/// What all lanes of a worker share.
pub(crate) struct Shared<DB: Backend> {
    pub(crate) store: EventStore<DB>,
    pub(crate) statements: DB::CheckpointStatements,
    pub(crate) options: Options,
    pub(crate) log: Log<DB>,
    pub(crate) connections: Arc<Connections<DB>>,
    pub(crate) board: Arc<LaneBoard>,
    /// The lanes whose scope has nothing new.
    pub(crate) rest: Idle,
    /// What the last look at the log found.
    pub(crate) frontier: watch::Receiver<Observation>,
    /// What the last look at the checkpoint rows found.
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Becomes true when the worker shuts down.
    pub(crate) stop: watch::Receiver<bool>,
    /// Asks for a look at the log before its time.
    pub(crate) wake: Arc<Notify>,
    /// Asks for a look at the rows as well.
    pub(crate) wants_snapshot: AtomicBool,
}

/// The checkpoint rows at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Counts the snapshots; 0 is none.
    pub(crate) number: u64,
    /// The incarnation of the server that they were read in.
    pub(crate) incarnation: Incarnation,
    /// The rows by key.
    pub(crate) rows: HashMap<SegmentId, Checkpoint>,
}

impl<DB: Backend> Shared<DB> {
    /// Ends, from another connection, what the backends of claims are doing: a row stays locked
    /// until the statement that runs on it has ended.
    pub(crate) async fn terminate(&self, backends: &[i32]) {
        if backends.is_empty() {
            return;
        }
        let terminate = async {
            let mut connection = self.store.pool().acquire().await?;
            for backend in backends {
                DB::terminate(&mut connection, *backend).await?;
            }
            Ok::<_, sqlx::Error>(())
        };
        if let Err(error) = self.answer(terminate).await {
            tracing::warn!(%error, ?backends, "a handler's statement could not be ended");
        }
    }

    /// How many bytes of events a batch may hold: the setting, or less where there are so many
    /// lanes that all their batches together would go beyond [`FULL_BATCHES`]. Each lane may have
    /// one at hand and one that it reads ahead.
    pub(crate) fn batch_bytes(&self) -> u64 {
        let batches = 2 * self.board.cells_count().max(1) as u64;
        let all = self.options.batch_bytes.saturating_mul(FULL_BATCHES);
        self.options.batch_bytes.min(all / batches)
    }

    /// Asks for a look at the rows before its time.
    pub(crate) fn want_snapshot(&self) {
        self.wants_snapshot.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Waits for what is quickly answered, as long as a claim lasts.
    pub(crate) async fn answer<T, E: From<sqlx::Error>>(
        &self,
        question: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        Timeouts::of_claims(self.options.claim_timeout)
            .answer(question)
            .await
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits until the worker shuts down.
    pub(crate) async fn stopped(&self) {
        // An error means that the worker is gone, which is as good a reason to stop.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }
}
