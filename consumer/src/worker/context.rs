//! The state that all lanes of a worker share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{Notify, watch};

use crate::backend::{
    Backend, CheckpointStatements, Enrolment, NameStatements, Observation, Process, Program,
    StoreError, acquire,
};
use crate::contract::{Settings, chain};
use crate::store::EventStore;
use crate::worker::connections::Connections;
use crate::worker::log::Log;
use crate::worker::options::Options;
use crate::worker::poller::idle::IdleLanes;
use crate::worker::poller::snapshot::Snapshot;
use crate::worker::progress::worker::WorkerProgress;
use crate::worker::timeouts::Timeouts;

/// How many batches of the full size all lanes of a worker hold together, however many they are.
const FULL_BATCHES: u64 = 16;

/// How many batches of the full size a large batch is.
const LARGE_BATCH: u64 = 4;

/// The state that all lanes of a worker share.
pub(crate) struct Shared<DB: Backend> {
    pub(crate) store: EventStore<DB>,
    /// The name of the log.
    pub(crate) log_name: Arc<str>,
    pub(crate) statements: CheckpointStatements,
    pub(crate) names: NameStatements,
    /// The store with the schemas of its tables, once the worker runs; shared with its handles.
    pub(crate) located: Arc<OnceLock<EventStore<DB>>>,
    /// The schema of the tables of read models whose names give none.
    pub(crate) table_schema: Option<Arc<str>>,
    /// This process, as rows record it.
    pub(crate) process: Process,
    /// The name of this worker, which no other one has.
    pub(crate) name: Arc<str>,
    /// The names of all consumers in the program.
    pub(crate) declared: Arc<[Arc<str>]>,
    pub(crate) options: Options,
    pub(crate) log: Log<DB>,
    pub(crate) connections: Arc<Connections<DB>>,
    pub(crate) progress: Arc<WorkerProgress>,
    /// The lanes whose scope has nothing new.
    pub(crate) idle: IdleLanes,
    /// The result of the last poll of the log.
    pub(crate) frontier: watch::Receiver<Observation>,
    /// The checkpoint rows when they were last read.
    pub(crate) snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Becomes true when the worker shuts down.
    pub(crate) stop: watch::Receiver<bool>,
    /// Makes the worker poll the log at once.
    pub(crate) wake: Arc<Notify>,
    /// Whether the next poll is to read the checkpoint rows as well.
    pub(crate) snapshot_requested: AtomicBool,
}

impl<DB: Backend> Shared<DB> {
    /// Fixes the schema in which the statements of all lanes find the worker's tables.
    pub(crate) async fn locate_tables(&mut self) -> Result<(), StoreError> {
        self.store = self.store.located().await?;
        self.statements = DB::checkpoint_statements(self.store.settings());
        self.names = DB::name_statements(self.store.settings());
        self.log.read_from(&self.store);
        // A worker runs once, so this is set once.
        let _ = self.located.set(self.store.clone());
        Ok(())
    }

    /// Consumers of this program whose checkpoints are to be created.
    pub(crate) fn program<'a>(&'a self, enrolments: &'a [Enrolment]) -> Program<'a> {
        Program {
            names: &self.names,
            declared: &self.declared,
            enrolments,
            release: &self.process.release,
        }
    }

    /// Terminates, over another connection, what the backends of claims are running: a row stays
    /// locked until the statement on its connection ends.
    pub(crate) async fn terminate(&self, backends: &[i32]) {
        if backends.is_empty() {
            return;
        }
        let terminate = async {
            let mut connection = acquire(self.store.pool()).await?;
            for backend in backends {
                DB::terminate(&mut connection, *backend).await?;
            }
            Ok::<_, sqlx::Error>(())
        };
        if let Err(error) = self.answer(terminate).await {
            let error = chain(&error).to_string();
            tracing::warn!(
                error,
                ?backends,
                "cannot terminate the statement of a handler"
            );
        }
    }

    /// How many bytes of events a batch of a consumer may hold.
    pub(crate) fn batch_bytes(&self, settings: &Settings) -> u64 {
        let lanes = self.progress.lane_count();
        batch_bytes(self.options.batch_bytes, settings.is_large_batch(), lanes)
    }

    /// Makes the worker read the checkpoint rows at once.
    pub(crate) fn request_snapshot(&self) {
        self.snapshot_requested.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Waits for the answer to a short statement, as long as a claim lasts.
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
        // An error means that the worker is gone, which is also a reason to stop.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }
}

/// How many bytes of events a batch may hold: the setting, four times as many for a large batch, or less
/// if there are so many lanes that all their batches would exceed [`FULL_BATCHES`]. Each lane may have
/// one batch in progress and one that it reads ahead.
fn batch_bytes(full: u64, is_large: bool, lanes: usize) -> u64 {
    let batches = 2 * lanes.max(1) as u64;
    let most = if is_large {
        full.saturating_mul(LARGE_BATCH)
    } else {
        full
    };
    most.min(full.saturating_mul(FULL_BATCHES) / batches)
}

impl<DB: Backend> std::fmt::Debug for Shared<DB> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::batch_bytes;

    const FULL: u64 = 16 << 20;

    #[test]
    fn a_large_batch_has_four_times_the_bytes_of_another() {
        assert_eq!(batch_bytes(FULL, false, 1), 16 << 20);
        assert_eq!(batch_bytes(FULL, true, 1), 64 << 20);
        assert_eq!(batch_bytes(FULL, true, 2), 64 << 20);
        assert_eq!(batch_bytes(FULL, true, 0), 64 << 20);
    }

    #[test]
    fn the_batches_of_all_lanes_have_16_times_the_bytes_of_one() {
        assert_eq!(batch_bytes(FULL, true, 8), FULL);
        for lanes in 1..1_000_u64 {
            for is_large in [false, true] {
                let bytes = batch_bytes(FULL, is_large, usize::try_from(lanes).unwrap_or(0));
                assert!(2 * lanes * bytes <= 16 * FULL, "{lanes} {is_large}");
            }
        }
        assert_eq!(batch_bytes(u64::MAX, true, 1), u64::MAX / 2);
    }
}
