//! The outcomes of an attempt at a batch, and the errors that lead to them.

use std::error::Error;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use sqlx::error::DatabaseError;

use crate::backend::{Backend, Claim, DriverError, Remains, StoreError};
use crate::contract::HandlerError;
use crate::contract::chain;
use crate::worker::lane::handler::panic_message;
use crate::worker::progress::tally::Tally;

/// How an attempt ended, unless the database failed or the handler ended the transaction.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The transaction was committed, and its checkpoint is this position.
    Saved { position: i64, tally: Tally },
    /// The handler failed, and nothing was saved.
    Failed(FailedEvents),
    /// The consumer was stopped at the first event.
    Stopped { error: String },
    /// Another process has claimed the row.
    Busy,
    /// The row is gone, or has another key; the next snapshot shows why.
    Gone,
    /// The checkpoint is not where the job starts.
    Moved(Box<Claim>),
    /// The row may not run.
    Blocked(Box<Claim>),
    /// The next attempt at the first event, after so many that failed, is not due yet.
    NotDue { attempts: u32, wait: Duration },
    /// The first event was read before it failed for the last time, and may have been repaired since.
    Outdated { position: i64, attempts: u32 },
    /// The row was split or merged; the next snapshot shows how.
    Resized,
    /// The row waits for its neighbour.
    Held,
    /// The code does not know the event, which need not wait behind a parked one any more.
    Unknown,
    /// This release has failed on the event, which others try.
    LeftToOthers(Box<Claim>),
}

/// Which events of a job a handler failed on.
#[derive(Debug)]
pub(crate) struct FailedEvents {
    pub(crate) claim: Box<Claim>,
    /// The index of the first event that may have failed.
    pub(crate) index: usize,
    /// How many events from there on may have failed; at least 1.
    pub(crate) suspects: usize,
    pub(crate) error: String,
}

/// Why an attempt could not be made, or how it ended is unknown.
#[derive(Debug)]
pub(crate) enum AttemptError {
    /// The database failed; the attempt is repeated and does not count.
    Database(String),
    /// The connection is not what it was when it was opened: a table has changed since it prepared a
    /// statement, or a handler has changed its settings. The attempt is repeated at once on another
    /// connection and does not count.
    StaleConnection,
    /// The handler ended the transaction or left a savepoint in it (R4); the attempt is not repeated.
    EndedTransaction { claim: Box<Claim>, error: String },
}

impl From<sqlx::Error> for AttemptError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(chain(&error).to_string())
    }
}

impl From<StoreError> for AttemptError {
    fn from(error: StoreError) -> Self {
        Self::Database(chain(&error).to_string())
    }
}

/// How a handler ended its worker's transaction.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// With this statement. Nothing of the batch was saved.
    With(&'static str),
    /// Unseen, so that it may have been either.
    Unseen,
}

impl AttemptError {
    pub(super) fn ended_transaction(claim: &Claim, end: End) -> Self {
        let what = match end {
            End::With(statement) => format!("a {statement}, so nothing of the batch was saved"),
            End::Unseen => "a COMMIT or ROLLBACK, so its checkpoint was not saved; only what it wrote after that, or before a COMMIT behind `CLOSE ALL`, was".to_owned(),
        };
        let error = format!(
            "the handler ended its worker's transaction with {what}; leave it to the worker to end the transaction, and use `tx.begin()` for a savepoint"
        );
        Self::EndedTransaction {
            claim: Box::new(claim.clone()),
            error,
        }
    }

    /// The worker only committed the savepoint.
    pub(super) fn open_savepoint(claim: &Claim) -> Self {
        let error = "the handler left a transaction open that it began with `tx.begin()`, so nothing of the batch was saved; commit it, or drop it to roll it back, before the handler returns";
        Self::EndedTransaction {
            claim: Box::new(claim.clone()),
            error: error.to_owned(),
        }
    }
}

/// The kinds of a handler's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ErrorKind {
    /// The handler cannot handle the event, so the attempt counts.
    Handler,
    /// sqlx and the database misunderstood each other: the connection is broken, or what the handler
    /// sent can never be sent, such as a statement with too many parameters.
    Protocol,
    /// The database failed for now, so the attempt does not count.
    Transient,
    /// A transaction or a server only reads: the one that the handler was given, or another one.
    ReadOnly,
    /// The plan of a prepared statement is older than its tables.
    StalePlan,
    /// A prepared statement is not that of the connection.
    SharedStatement,
    /// The server ended the transaction, since the handler left it idle for too long.
    ClaimTimeout,
    /// The handler tried to end its worker's transaction (R4).
    EndedTransaction,
}

/// The kind of a handler's error, and its text.
pub(crate) struct Verdict {
    pub(crate) kind: ErrorKind,
    pub(crate) text: String,
}

impl Verdict {
    /// The error is the handler's code too, and may panic when it is asked for its text or cause.
    pub(crate) fn on<DB: Backend>(error: &HandlerError) -> Self {
        let judge = || Self {
            kind: ErrorKind::of::<DB>(error),
            text: error.to_string(),
        };
        catch_unwind(AssertUnwindSafe(judge)).unwrap_or_else(|panic| Self {
            kind: ErrorKind::Handler,
            text: format!(
                "the handler returned an error whose text is unknown: its `Display` or `source` panicked: {}",
                panic_message(panic.as_ref())
            ),
        })
    }

    /// The verdict, given what the failure has left of the claim's transaction: where it is void, the
    /// error came from it rather than from a connection of the handler's own.
    pub(crate) fn given(self, remains: Remains) -> Self {
        let kind = match (self.kind, remains) {
            // The worker has written in it, so the handler made it read-only.
            (ErrorKind::ReadOnly, Remains::Void) => ErrorKind::Handler,
            (ErrorKind::StalePlan, Remains::Open | Remains::Nothing) => ErrorKind::Transient,
            (kind, _) => kind,
        };
        Self { kind, ..self }
    }
}

impl ErrorKind {
    /// The kind of a handler's error: the worst kind in its chain of causes.
    pub(crate) fn of<DB: Backend>(error: &HandlerError) -> Self {
        let kinds = error.chain().map(Self::of_cause::<DB>);
        kinds.max().unwrap_or(Self::Handler)
    }

    fn of_cause<DB: Backend>(error: &(dyn Error + 'static)) -> Self {
        let driver = || error.downcast_ref::<DriverError>().map(Deref::deref);
        if let Some(error) = error.downcast_ref::<sqlx::Error>().or_else(driver) {
            return match error {
                sqlx::Error::Database(error) => Self::of_database::<DB>(error.as_ref()),
                sqlx::Error::Protocol(_) => Self::Protocol,
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => Self::Transient,
                _ => Self::Handler,
            };
        }
        // `?` through `anyhow` hides the type of the outermost error, but not that of its source.
        match error.downcast_ref::<Box<dyn DatabaseError>>() {
            Some(error) => Self::of_database::<DB>(error.as_ref()),
            // A handler may have turned the error into text.
            None if DB::names_infrastructure(&error.to_string()) => Self::Transient,
            None => Self::Handler,
        }
    }

    fn of_database<DB: Backend>(error: &dyn DatabaseError) -> Self {
        if DB::is_refused_commit(error) {
            Self::EndedTransaction
        } else if DB::is_claim_timeout(error) {
            Self::ClaimTimeout
        } else if DB::is_stale_plan(error) {
            Self::StalePlan
        } else if DB::is_shared_statement(error) {
            Self::SharedStatement
        } else if DB::is_read_only(error) {
            Self::ReadOnly
        } else if DB::is_infrastructure(error) {
            Self::Transient
        } else {
            Self::Handler
        }
    }
}

/// Whether an error of the worker's own save comes from what the handler did to its session: the claim of
/// the same transaction could write the same row.
pub(crate) fn is_of_session<DB: Backend>(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| DB::is_read_only(error) || DB::is_forbidden(error))
}

/// The error of a handler after which the checkpoint cannot be saved.
pub(crate) fn unusable_session(error: &sqlx::Error) -> String {
    let error = chain(error);
    format!(
        "the handler left its transaction read-only or with another role, so the checkpoint cannot be saved; undo `SET TRANSACTION READ ONLY`, `SET ROLE` or `PRAGMA query_only` before it returns: {error}"
    )
}

/// Whether the database refused to commit what the handler wrote. Any other error, or none, says nothing
/// about the handler, and then the checkpoint shows whether the transaction was committed.
pub(crate) fn is_refusal_of_commit<DB: Backend>(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| !DB::is_infrastructure(error))
}

/// The error of a handler whose changes could not be committed.
pub(crate) fn refused_commit(error: &sqlx::Error) -> String {
    let error = chain(error);
    format!("the changes of the handler could not be committed: {error}")
}

/// Whether an error of the worker's own statement says that the handler ignored an earlier error.
pub(crate) fn is_aborted_transaction<DB: Backend>(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(DB::is_aborted_transaction)
}

/// Whether an error of the worker's own statement says that the handler left the transaction idle
/// for too long.
pub(crate) fn is_claim_timeout<DB: Backend>(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(DB::is_claim_timeout)
}
