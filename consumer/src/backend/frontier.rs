//! The log half of a backend: which positions are settled (R11).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Database, Pool};

use super::events::{EventStatements, Events};
use super::log_rows::LogRow;
use super::{
    Checkpoint, CheckpointStatements, FrontierError, Incarnation, ReadRange, StoreError,
    StoreSettings,
};

/// How a worker learns that the log has new events, and how far it is settled.
pub trait Frontier: Events {
    /// Watches the frontier.
    type Watch: FrontierWatch<Self>;

    /// The interval at which the log is read when nothing wakes the worker.
    const POLL_INTERVAL: Duration;

    /// Reads a settled part of the log like [`Events::read_range`]. An answer proves nothing unless it is
    /// that of the incarnation in which the part was settled: a standby may lack events that are
    /// settled, and a crash may have taken others back. Any other answer is an error.
    fn read_settled(
        connection: &mut Self::Connection,
        statements: &EventStatements<Self>,
        range: ReadRange<'_>,
        incarnation: Incarnation,
    ) -> impl Future<Output = Result<Vec<LogRow>, StoreError>> + Send;

    /// Wakes the worker after each commit of another process that notifies; never returns.
    fn listen(
        pool: Pool<Self>,
        url: Option<Arc<str>>,
        wake: Arc<tokio::sync::Notify>,
    ) -> impl Future<Output = ()> + Send;
}

/// Computes which positions are settled (R11).
pub trait FrontierWatch<DB: Database>: Send + Sized + 'static {
    /// Checks the conditions under which the frontier can be known, and starts from the durable one.
    fn start(
        settings: &StoreSettings,
        pool: &Pool<DB>,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<Self, FrontierError>> + Send;

    /// Starts like [`start`](Self::start), without drawing a position to test the server: for callers
    /// that only show the frontier.
    fn look(
        settings: &StoreSettings,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<Self, FrontierError>> + Send;

    /// Reads the log's head and settles what can be settled.
    fn observe(
        &mut self,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<Observation, FrontierError>> + Send;

    /// Reads the checkpoint rows like [`Checkpoints::snapshot`](super::checkpoints::Checkpoints::snapshot).
    /// The same message checks the conditions of [`start`](Self::start) again that can change meanwhile.
    fn snapshot(
        &self,
        statements: &CheckpointStatements,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<Vec<Checkpoint>, FrontierError>> + Send;

    /// The transactions that keep the frontier from advancing.
    fn blockers(
        &self,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<Vec<Blocker>, sqlx::Error>> + Send;
}

/// The result of one observation of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Every position up to here is settled: it has a visible event, or will never have one.
    pub settled: i64,
    /// The highest visible position.
    pub head: i64,
    /// The incarnation of the server.
    pub incarnation: Incarnation,
    /// Whether there is a gap that a transaction may still fill.
    pub waiting: bool,
    /// Whether the next observation would find more without waiting.
    pub more: bool,
}

/// A transaction that may still fill a gap.
///
/// Its text names what to look for on the server:
///
/// ```
/// use std::time::Duration;
///
/// let open = Some(Duration::from_secs(90));
/// let blocker = consumer::Blocker { pid: Some(4711), name: "import".into(), open };
/// assert_eq!(blocker.to_string(), "pid 4711 (app=import, open 90 s)");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The process id of its backend; `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// The application's name, or the prepared transaction's gid.
    pub name: String,
    /// How long the transaction has been open; `None` if the worker's role may not know, as of a session
    /// of another role without the privileges of `pg_read_all_stats`.
    pub open: Option<Duration>,
}

impl std::fmt::Display for Blocker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "pid {pid} (app={}, ", self.name)?,
            None => write!(f, "prepared transaction `{}` (", self.name)?,
        }
        match self.open {
            Some(open) => write!(f, "open {} s)", open.as_secs()),
            None => f.write_str("open for an unknown time, which `GRANT pg_read_all_stats` shows)"),
        }
    }
}
