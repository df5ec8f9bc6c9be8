//! The settings of a worker, as opposed to those of its consumers.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::Backend;

/// The settings of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// How often the worker polls the log when nothing wakes it.
    pub(crate) poll_interval: Duration,
    /// How often it reads the checkpoint rows, which operators and other processes change.
    pub(crate) snapshot_interval: Duration,
    /// How often it advances the checkpoints of idle consumers.
    pub(crate) advance_interval: Duration,
    /// How long a claim outlives the last statement of its process.
    pub(crate) claim_timeout: Duration,
    /// How long a worker may make no progress before it is no longer live.
    pub(crate) stall_after: Duration,
    /// How long a shutdown waits for the batches in progress.
    pub(crate) shutdown_deadline: Duration,
    /// How many bytes of events are cached for all lanes.
    pub(crate) cache_bytes: u64,
    /// How many bytes of events a batch holds at most, beyond its first event.
    pub(crate) batch_bytes: u64,
    /// Whether lanes share one core with the connections they write on.
    pub(crate) lanes_on_one_core: bool,
    /// Whether the worker listens for notifications.
    pub(crate) listen: Listen,
    /// The build of the program; `None` for that of the executable.
    pub(crate) release: Option<Arc<str>>,
}

impl Options {
    /// The settings of a worker that sets none.
    pub(crate) fn default_for<DB: Backend>() -> Self {
        Self {
            poll_interval: DB::POLL_INTERVAL,
            snapshot_interval: Duration::from_secs(1),
            advance_interval: Duration::from_secs(10),
            claim_timeout: Duration::from_mins(1),
            stall_after: Duration::from_mins(5),
            shutdown_deadline: Duration::from_secs(30),
            cache_bytes: 64 << 20,
            batch_bytes: 16 << 20,
            lanes_on_one_core: DB::LANES_ON_ONE_CORE,
            listen: Listen::No,
            release: None,
        }
    }
}

/// Whether a worker listens for notifications, and over which connection.
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
    /// The URL to listen at, where `Some(None)` is the pool; `None` for a worker that only polls.
    #[allow(clippy::option_option)] // the listener is given the inner one
    pub(crate) fn url(&self) -> Option<Option<Arc<str>>> {
        match self {
            Self::No => None,
            Self::OverPool => Some(None),
            Self::OverUrl(url) => Some(Some(Arc::clone(url))),
        }
    }
}
