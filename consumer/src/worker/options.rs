//! How a worker runs, apart from its consumers.

use std::sync::Arc;
use std::time::Duration;

/// How a worker runs, apart from its consumers.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// How often the log is looked at when nothing wakes the worker.
    pub(crate) poll_interval: Duration,
    /// How often the checkpoint rows are looked at, for what operators and other processes did.
    pub(crate) snapshot_interval: Duration,
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
