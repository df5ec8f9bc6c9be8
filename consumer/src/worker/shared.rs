//! What all lanes of a worker share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::board::Board;
use super::dialect::{Checkpoint, LaneKey, Observation, ServerLife, WorkerBackend};
use super::log::Log;
use super::patience::Patience;
use super::rest::Rest;
use super::slots::Slots;
use crate::store::EventStore;

/// How a worker runs, apart from its consumers.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// How often the log is looked at when nothing wakes the worker.
    pub(crate) poll_interval: Duration,
    /// How often the checkpoint rows are looked at, for what operators and other processes did.
    pub(crate) survey_interval: Duration,
    /// How often idle checkpoints are moved along.
    pub(crate) advance_interval: Duration,
    /// After what time without a word from its process a claim ends.
    pub(crate) claim_timeout: Duration,
    /// After what time without progress a worker is not live.
    pub(crate) stall_after: Duration,
    /// How long a shutdown waits for the batches in hand.
    pub(crate) shutdown_deadline: Duration,
    /// How many bytes of events are kept for the lanes to share.
    pub(crate) cache_bytes: u64,
    /// How many bytes of events one batch holds at most, beyond its first event.
    pub(crate) batch_bytes: u64,
    /// Whether lanes and the connections that they write on share one core.
    pub(crate) lanes_on_one_core: bool,
    /// Whether the worker listens for notifications.
    pub(crate) listen: Listen,
}

/// How many batches of the full size the lanes of a worker hold together, however many they are.
const FULL_BATCHES: u64 = 16;

/// Whether a worker listens for notifications, and over what.
#[derive(Clone, Debug)]
pub(crate) enum Listen {
    /// It only polls.
    No,
    /// Over a connection of the store's pool.
    OverPool,
    /// Over a connection of its own.
    OverUrl(Arc<str>),
}

impl Listen {
    /// The URL to listen over, `None` for the pool; nothing when it does not listen.
    #[allow(clippy::option_option)] // the listener is given the inner one
    pub(crate) fn url(&self) -> Option<Option<Arc<str>>> {
        match self {
            Self::No => None,
            Self::OverPool => Some(None),
            Self::OverUrl(url) => Some(Some(Arc::clone(url))),
        }
    }
}

/// What all lanes of a worker share.
pub(crate) struct Shared<DB: WorkerBackend> {
    pub(crate) store: EventStore<DB>,
    pub(crate) statements: DB::Sql,
    pub(crate) options: Options,
    pub(crate) log: Log<DB>,
    pub(crate) slots: Arc<Slots<DB>>,
    pub(crate) board: Arc<Board>,
    /// The lanes whose scope has nothing new.
    pub(crate) rest: Rest,
    /// What the last look at the log found.
    pub(crate) frontier: watch::Receiver<Observation>,
    /// What the last look at the checkpoint rows found.
    pub(crate) survey: watch::Receiver<Arc<Survey>>,
    /// Becomes true when the worker shuts down.
    pub(crate) stop: watch::Receiver<bool>,
    /// Asks for a look at the log before its time.
    pub(crate) wake: Arc<Notify>,
    /// Asks for a look at the rows as well.
    pub(crate) wants_survey: AtomicBool,
}

/// The checkpoint rows at one moment.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Counts the surveys; 0 is none.
    pub(crate) number: u64,
    /// The life of the server that they were read in.
    pub(crate) life: ServerLife,
    /// The rows by key.
    pub(crate) rows: HashMap<LaneKey, Checkpoint>,
}

impl<DB: WorkerBackend> Shared<DB> {
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
    pub(crate) fn want_survey(&self) {
        self.wants_survey.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Waits for what is quickly answered, as long as a claim lasts.
    pub(crate) async fn answer<T, E: From<sqlx::Error>>(
        &self,
        question: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        Patience::of_claims(self.options.claim_timeout)
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
