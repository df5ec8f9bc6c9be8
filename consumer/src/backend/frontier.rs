//! The log half of a backend: which positions are settled (R11).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Database, Pool};

use super::{FrontierError, StoreSettings};

/// What tells a worker that there is something new in the log, and how far it is settled.
pub trait Frontier: Database {
    /// What watches the frontier on this database.
    type Watch: FrontierWatch<Self>;

    /// How often the log is looked at when nothing wakes the worker.
    const POLL_INTERVAL: Duration;

    /// Waits for the next sign of a commit from another process; never returns where the database
    /// has none to give.
    fn listen(
        pool: Pool<Self>,
        url: Option<Arc<str>>,
        wake: Arc<tokio::sync::Notify>,
    ) -> impl Future<Output = ()> + Send;
}

/// Computes which positions are settled (R11).
pub trait FrontierWatch<DB: Database>: Send + Sized + 'static {
    /// Checks what the rule rests on and starts from the durable frontier.
    fn start(
        settings: &StoreSettings,
        pool: &Pool<DB>,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<Self, FrontierError>> + Send;

    /// Starts like [`start`](Self::start) and draws no position to try the server out: for those
    /// who look and do not settle anything for consumers to rest on.
    fn look(
        settings: &StoreSettings,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<Self, FrontierError>> + Send;

    /// Looks at the log once.
    fn observe(
        &mut self,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<Observation, FrontierError>> + Send;

    /// Says who keeps the frontier from moving.
    fn blockers(
        &self,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<Vec<Blocker>, sqlx::Error>> + Send;
}

/// Which incarnation of the server an observation belongs to.
///
/// A crash can take back commits that were seen and give their positions out again, so what was
/// seen in one incarnation means nothing in the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Incarnation {
    /// When the server started, in microseconds.
    pub started: i64,
    /// When its statistics began, in microseconds: a crash of one backend restarts everything
    /// but the server's start time, and this tells.
    pub recovered: i64,
}

/// What one look at the log found.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Every position up to here is settled: it holds an event that is visible, or never will.
    pub settled: i64,
    /// The highest visible position.
    pub head: i64,
    /// The incarnation of the server that this was seen in.
    pub incarnation: Incarnation,
    /// Whether there is a gap that somebody may still fill.
    pub waiting: bool,
    /// Whether there is more to look at right away.
    pub more: bool,
}

/// A transaction that may still fill a gap.
///
/// Its text is what to look for on the server:
///
/// ```
/// use std::time::Duration;
///
/// let blocker = consumer::Blocker { pid: Some(4711), name: "import".into(), open: Duration::from_secs(90) };
/// assert_eq!(blocker.to_string(), "pid 4711 (app=import, open 90 s)");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The process id of its backend; `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// The application's name, or the prepared transaction's gid.
    pub name: String,
    /// How long the transaction has been open.
    pub open: Duration,
}

impl std::fmt::Display for Blocker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.open.as_secs();
        match self.pid {
            Some(pid) => write!(f, "pid {pid} (app={}, open {seconds} s)", self.name),
            None => write!(f, "prepared transaction `{}` (open {seconds} s)", self.name),
        }
    }
}
