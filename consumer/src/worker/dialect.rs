//! What the worker asks of a database; `postgres.rs` and `sqlite.rs` answer in SQL.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;

use super::one_core::Core;
use crate::contract::{PersistedEvent, StartFrom};
use crate::store::{Backend, EventStore};

/// How long a row waits for its neighbour after whoever merges them last said so.
pub(crate) const HOLD_FOR: Duration = Duration::from_secs(10);

/// A database that a worker can run on: Postgres or SQLite.
///
/// The trait is sealed.
///
/// Only code that is generic over the database names it, as a bound:
///
/// ```
/// use consumer::{Worker, WorkerBackend, WorkerError};
///
/// async fn catch_up<DB: WorkerBackend>(worker: Worker<DB>) -> Result<u64, WorkerError> {
///     let report = worker.run_once().await?;
///     Ok(report.consumers.iter().map(|one| one.events).sum())
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "a worker cannot run on `{Self}`",
    note = "workers run on `sqlx::Sqlite` (feature `sqlite`) and `sqlx::Postgres` (feature `postgres`)"
)]
pub trait WorkerBackend: Dialect {}

/// What the worker asks of a database.
pub trait Dialect: Backend {
    /// What watches the frontier on this database.
    type Watch: FrontierWatch<Self>;

    /// What tells that a handler ended its worker's transaction; lives beside a connection.
    type Guard: TransactionGuard;

    /// The dialect's SQL with the names of the schema filled in.
    type Sql: Send + Sync + 'static;

    fn sql(store: &EventStore<Self>) -> Self::Sql;

    /// Whether a claim can be held for long without keeping other writers out.
    const HOLDS_CLAIMS: bool;

    /// How many connections may be in a transaction that writes at the same time; `None` for as
    /// many as there are.
    const WRITERS: Option<usize>;

    /// Whether lanes and the connections that they write on share one core unless the builder says
    /// otherwise.
    const LANES_ON_ONE_CORE: bool;

    /// How often the log is looked at when nothing wakes the worker.
    const POLL_INTERVAL: Duration;

    /// How many batches a transaction holds at most while lanes wait for connections.
    const MOST_BATCHES: usize;

    /// How many connections for batches rest while all the others work.
    const RESTING: usize;

    /// The statement that begins a lane's transaction.
    const BEGIN_BATCH: &'static str;

    /// The statement that begins a transaction which only reads.
    const BEGIN_READ: &'static str;

    /// Begins to watch a connection; a core is where its thread, if it has one, is to stay.
    fn guard(
        connection: &mut PoolConnection<Self>,
        core: Option<Core>,
    ) -> impl Future<Output = Result<Self::Guard, sqlx::Error>> + Send;

    /// Keeps the thread of a connection that reads, if it has one, on a core.
    fn keep_on(
        connection: &mut PoolConnection<Self>,
        core: Core,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Makes the rows of consumers that have none, and lets stopped consumers try again.
    fn enroll(
        statements: &Self::Sql,
        connection: &mut Self::Connection,
        enrolments: &[Enrolment],
        settled: i64,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Divides a row in two at a slice, both at the same position; says whether it did. Waits for
    /// whoever has claimed the row, but not for long.
    fn split(
        statements: &Self::Sql,
        connection: &mut Self::Connection,
        key: &LaneKey,
        at: i32,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Keeps two neighbouring rows from going further than the one that is ahead, for [`HOLD_FOR`].
    fn hold(
        statements: &Self::Sql,
        connection: &mut Self::Connection,
        left: &LaneKey,
        right: &LaneKey,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Makes one row of two neighbours that stand at one position; says whether it did. An event
    /// that has failed in one of them has all its attempts before it again: the row would wait for
    /// ever for the two to agree in that.
    fn merge(
        statements: &Self::Sql,
        connection: &mut Self::Connection,
        left: &LaneKey,
        right: &LaneKey,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Reads all checkpoint rows, also those of consumers that this process does not have.
    fn survey(
        statements: &Self::Sql,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Vec<Checkpoint>, sqlx::Error>> + Send;

    /// Takes the row lock of a checkpoint; `None` when another process has it.
    fn claim(
        statements: &Self::Sql,
        connection: &mut Self::Connection,
        key: &LaneKey,
        timeout: Duration,
    ) -> impl Future<Output = Result<Option<Claim>, sqlx::Error>> + Send;

    /// Saves the checkpoint of a claim, if claim and transaction are still the same.
    fn save(
        statements: &Self::Sql,
        connection: &mut Self::Connection,
        key: &LaneKey,
        claim: &Claim,
        progress: &Progress,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// The aggregates of a row's slices of which events are parked; only under the row's claim.
    fn parked_aggregates(
        statements: &Self::Sql,
        connection: &mut Self::Connection,
        key: &LaneKey,
        slice_to: i32,
    ) -> impl Future<Output = Result<Vec<Aggregate>, sqlx::Error>> + Send;

    /// Counts the aggregates of a consumer, over all its rows, of which events are parked, up to a
    /// number.
    fn count_parked(
        statements: &Self::Sql,
        connection: &mut Self::Connection,
        key: &LaneKey,
        limit: i64,
    ) -> impl Future<Output = Result<i64, sqlx::Error>> + Send;

    /// How many events each consumer has set aside: its name, its version and the number.
    fn parked_counts(
        statements: &Self::Sql,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Vec<(String, i32, i64)>, sqlx::Error>> + Send;

    /// Sets events aside; only under the row's claim.
    fn park(
        statements: &Self::Sql,
        connection: &mut Self::Connection,
        key: &LaneKey,
        events: &[Parking<'_>],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Moves idle checkpoints along, as far as nothing in their scope lies in between, if the server
    /// still lives the life in which that was seen.
    fn advance(
        statements: &Self::Sql,
        connection: &mut Self::Connection,
        life: ServerLife,
        moves: &[Advance],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Whether the connection is no longer in the claim's transaction, after a handler failed: then
    /// the handler ended it (R4). Where a [`TransactionGuard`] sees that, this need not.
    fn has_left(
        connection: &mut Self::Connection,
        claim: &Claim,
    ) -> impl Future<Output = bool> + Send;

    /// Lets the server know that the claim's process is alive.
    fn touch(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Ends the statement that a handler left running on another connection.
    fn terminate(
        connection: &mut Self::Connection,
        backend: i32,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Whether the error says something of the database's health rather than of the statement.
    fn is_infrastructure(error: &dyn DatabaseError) -> bool;

    /// Whether the error says that an earlier one was ignored in the same transaction.
    fn is_aborted_transaction(error: &dyn DatabaseError) -> bool;

    /// Whether the error is the refusal of a handler's own `COMMIT` (R4).
    fn is_refused_commit(error: &dyn DatabaseError) -> bool;

    /// Waits for the next sign of a commit from another process; never returns where the database
    /// has none to give.
    fn listen(
        store: EventStore<Self>,
        url: Option<Arc<str>>,
        wake: Arc<tokio::sync::Notify>,
    ) -> impl Future<Output = ()> + Send;
}

/// Computes which positions are settled (R11).
pub trait FrontierWatch<DB: Dialect>: Send + Sized + 'static {
    /// Checks what the rule rests on and starts from the durable frontier.
    fn start(
        store: &EventStore<DB>,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<Self, super::WorkerError>> + Send;

    /// Starts like [`start`](Self::start) and draws no position to try the server out: for those
    /// who look and do not settle anything for consumers to rest on.
    fn look(
        store: &EventStore<DB>,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<Self, super::WorkerError>> + Send {
        Self::start(store, connection)
    }

    /// Looks at the log once.
    fn observe(
        &mut self,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<Observation, super::WorkerError>> + Send;

    /// Says who keeps the frontier from moving.
    fn blockers(
        &self,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<Vec<Blocker>, sqlx::Error>> + Send;
}

/// Tells whether a handler ended the transaction of its worker (R4).
pub trait TransactionGuard: Send + Sync + 'static {
    /// Lets the worker itself end the transaction, or forbids it to everyone again.
    fn allow_end(&self, allowed: bool);

    /// Ends the statement that is running, where no server can be asked to; the connection is not
    /// used again.
    fn give_up(&self);

    /// The statement that was refused or seen, if there was one.
    fn violation(&self) -> Option<&'static str>;
}

/// Which life of the server an observation belongs to.
///
/// A crash can take back commits that were seen and give their positions out again, so what was
/// seen in one life means nothing in the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ServerLife {
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
    /// The life of the server that this was seen in.
    pub life: ServerLife,
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

/// The key of a checkpoint row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LaneKey {
    /// The consumer's name (R1).
    pub consumer: Arc<str>,
    /// The consumer's version.
    pub version: i32,
    /// The first of the row's slices.
    pub slice_from: i32,
}

/// A consumer that should have checkpoint rows.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// The consumer's name.
    pub consumer: Arc<str>,
    /// The consumer's version.
    pub version: i32,
    /// How many slices a row has at most.
    pub width: i32,
    /// The scope, as it is written into the rows.
    pub scope: Arc<str>,
    /// Where new rows begin.
    pub start_from: StartFrom,
}

impl Enrolment {
    /// Where a new row begins.
    pub(crate) fn position(&self, settled: i64) -> i64 {
        match self.start_from {
            StartFrom::Beginning => 0,
            StartFrom::Now => settled,
        }
    }
}

/// Whether a consumer may run; binds all processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It runs, or waits for its next attempt.
    Running,
    /// An operator paused it.
    Paused,
    /// It stopped before an event that it could not handle (R2).
    Stopped,
}

impl State {
    /// As the row has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }

    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "paused" => Self::Paused,
            "stopped" => Self::Stopped,
            _ => Self::Running,
        }
    }
}

/// What two rows must agree in to become one.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// The checkpoint.
    pub position: i64,
    /// Counts the rebuilds.
    pub epoch: i64,
    /// The slice after its last one.
    pub slice_to: i32,
    /// Whether it may run.
    pub state: State,
}

impl Standing {
    /// The end of what two neighbouring rows would be as one, if they can be one.
    pub(crate) fn of_one(rows: &[Self], right: &LaneKey) -> Option<i32> {
        let [first, second] = rows else {
            return None;
        };
        let agree = first.position == second.position
            && first.epoch == second.epoch
            && first.slice_to == right.slice_from
            && rows.iter().all(|row| row.state == State::Running);
        agree.then_some(second.slice_to)
    }
}

/// A checkpoint row as anyone may read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which row.
    pub key: LaneKey,
    /// The slice after its last one.
    pub slice_to: i32,
    /// The checkpoint: everything in scope up to here is handled.
    pub position: i64,
    /// Counts the rebuilds.
    pub epoch: i64,
    /// The scope that the checkpoint was reached with.
    pub scope: String,
    /// Whether it may run.
    pub state: State,
    /// Up to where events are a replay.
    pub replay_to: i64,
    /// Where the row is to wait for its neighbour.
    pub hold_at: Option<i64>,
    /// How often the next event has failed.
    pub attempts: u32,
    /// The event that failed last.
    pub failed_position: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
}

impl Checkpoint {
    /// What changes when somebody has changed the row.
    pub(crate) fn mark(&self) -> (i64, i64, State, u32) {
        (self.position, self.epoch, self.state, self.attempts)
    }
}

/// A checkpoint row under its row lock.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The slice after its last one.
    pub slice_to: i32,
    /// The checkpoint.
    pub position: i64,
    /// Counts the rebuilds.
    pub epoch: i64,
    /// Counts the claims: one more than the last one seen means that nobody came in between.
    pub claims: i64,
    /// The scope that the checkpoint was reached with.
    pub scope: String,
    /// Whether it may run.
    pub state: State,
    /// Up to where events are a replay.
    pub replay_to: i64,
    /// Where the row is to wait for its neighbour.
    pub hold_at: Option<i64>,
    /// How often the next event has failed.
    pub attempts: u32,
    /// How long until the next attempt.
    pub retry_in: Option<Duration>,
    /// The event that failed last.
    pub failed_position: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
    /// Whether events are parked.
    pub parked: bool,
    /// The life of the server that the claim was made in.
    pub life: ServerLife,
    /// The backend that holds the claim.
    pub backend: i32,
    /// The transaction that holds the claim.
    pub transaction: String,
}

/// What a lane saves.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The new checkpoint.
    pub position: i64,
    /// Whether the consumer goes on.
    pub state: State,
    /// What went wrong with the event after the checkpoint, if anything did.
    pub failure: Option<Failure>,
}

/// A failed attempt at an event, as the row keeps it for all processes.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The event.
    pub position: i64,
    /// How often it has failed.
    pub attempts: u32,
    /// How long until the next attempt.
    pub retry_in: Duration,
    /// Why.
    pub error: String,
}

/// An aggregate: its type and its id.
pub(crate) type Aggregate = (String, String);

/// An event to be parked.
#[derive(Debug)]
pub struct Parking<'a> {
    /// The event.
    pub event: &'a PersistedEvent,
    /// The failed attempts and the last error; `None` for an event that only has to wait behind
    /// an earlier one of its aggregate.
    pub failure: Option<(u32, &'a str)>,
}

impl Parking<'_> {
    /// The reason as the row has it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        if self.failure.is_some() {
            "failed"
        } else {
            "behind"
        }
    }

    /// The attempts as the row has them.
    #[must_use]
    pub fn attempts(&self) -> i32 {
        self.failure.map_or(0, |(attempts, _)| {
            i32::try_from(attempts).unwrap_or(i32::MAX)
        })
    }
}

/// An idle checkpoint that can be moved along.
#[derive(Clone, Debug)]
pub struct Advance {
    /// Which row.
    pub key: LaneKey,
    /// The slice after its last one: a row that was resized holds other events.
    pub slice_to: i32,
    /// Its epoch.
    pub epoch: i64,
    /// Where it stands at least.
    pub from: i64,
    /// How far nothing in its scope follows.
    pub to: i64,
}

/// Makes a struct of statements, each rendered once from its template.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
macro_rules! statements {
    ($(#[$attribute:meta])* $vis:vis $name:ident { $($field:ident: $template:expr),+ $(,)? }) => {
        $(#[$attribute])*
        $vis struct $name { $($field: crate::store::Sql),+ }

        impl $name {
            fn new<DB: crate::store::Backend>(store: &crate::store::EventStore<DB>) -> Self {
                Self { $($field: store.sql($template)),+ }
            }
        }
    };
}
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use statements;
