//! The failures of a handler: which of them count, and against which events.
//!
//! A handler returns a [`BatchError`], or the supervisor does in its place. The attempt looks at the error and
//! at the transaction ([`HandlerFailure`]), ends the transaction, and reports the failure to its lane, or an
//! [`AttemptError`] if the failure does not count. The lane narrows it down to one event and counts it.

use std::error::Error;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use sqlx::error::DatabaseError;

use crate::backend::{Backend, DriverError, Remains, StoreError};
use crate::contract::{BatchError, HandlerError, chain};
use crate::worker::lane::handler::{TimedOut, panic_message};

/// The error of a handler that ignored the failure of a statement.
pub(crate) const SWALLOWED: &str = "a statement in the handler failed and its error was not returned, so the transaction is void; return the error, or run the statement in a savepoint (`tx.begin()`)";

/// Advice where other clients share the server's connection.
const SHARED_STATEMENT: &str = "behind a pooler that does not know prepared statements, add `statement-cache-capacity=0` to the URL, and `.persistent(false)` to queries outside the handler's transaction";

/// Why an attempt could not be made, or how it ended is unknown: it is repeated and does not count.
#[derive(Debug)]
pub(crate) enum AttemptError {
    /// The database failed.
    Database(String),
    /// The connection is not what it was when it was opened: a table has changed since it prepared a
    /// statement, or a handler has changed its settings. The attempt is repeated at once on another
    /// connection.
    StaleConnection,
}

impl AttemptError {
    /// A row that was locked is not as it was when it was locked.
    pub(crate) fn not_saved(consumer: &str) -> Self {
        Self::Database(format!(
            "the checkpoint row of `{consumer}` changed between the claim and the save in one transaction; look for a trigger on the table of checkpoints"
        ))
    }
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

/// How a handler failed at a job.
#[derive(Debug)]
pub(crate) struct HandlerFailure {
    pub(crate) kind: ErrorKind,
    /// The index in the job of the first event that may have failed.
    pub(crate) index: usize,
    /// How many events from there on may have failed; at least 1.
    pub(crate) suspects: usize,
    pub(crate) error: String,
}

/// How many events of a job are handled, or how the handler failed.
pub(crate) type Handled = Result<usize, HandlerFailure>;

impl HandlerFailure {
    /// A failure of a batch; its indices are those of the batch.
    pub(crate) fn of<DB: Backend>(error: &BatchError) -> Self {
        let judged = judge::<DB>(&error.error);
        let (kind, text) = judged.unwrap_or_else(|unknown| (ErrorKind::Handler, unknown));
        Self {
            kind,
            index: error.handled,
            suspects: error.suspects,
            error: text,
        }
    }

    /// A failure at any of the first events of a job, which the handler did not report.
    pub(crate) fn unreported(suspects: usize, error: String) -> Self {
        Self {
            kind: ErrorKind::Handler,
            index: 0,
            suspects,
            error,
        }
    }

    /// The handler ended the transaction with a statement. Nothing of the batch was saved.
    pub(super) fn ended_with(statement: &str) -> Self {
        Self::ended_by(&format!("a {statement}, so nothing of the batch was saved"))
    }

    /// The handler ended the transaction unseen, so that it may have committed it or not.
    pub(super) fn ended_unseen() -> Self {
        Self::ended_by(
            "a COMMIT or ROLLBACK, so its checkpoint was not saved; only writes after it were committed, or all writes if it was a COMMIT after `CLOSE ALL`",
        )
    }

    fn ended_by(what: &str) -> Self {
        Self::ended(format!(
            "the handler ended its worker's transaction with {what}; leave it to the worker to end the transaction, and use `tx.begin()` for a savepoint"
        ))
    }

    /// The worker only committed the savepoint.
    pub(super) fn open_savepoint() -> Self {
        Self::ended("the handler left a transaction open that it began with `tx.begin()`, so nothing of the batch was saved; commit it, or drop it to roll it back, before the handler returns".to_owned())
    }

    fn ended(error: String) -> Self {
        Self {
            kind: ErrorKind::EndedTransaction,
            ..Self::unreported(1, error)
        }
    }

    /// The failure, given what it has left of the claim's transaction: where that is void, the error came
    /// from it rather than from a connection of the handler's own.
    pub(super) fn given(self, remains: Remains) -> Self {
        let kind = match (self.kind, remains) {
            // The worker has written in it, so the handler made it read-only.
            (ErrorKind::ReadOnly, Remains::Void) => ErrorKind::Handler,
            (ErrorKind::StaleStatement, Remains::Open | Remains::Nothing) => ErrorKind::Transient,
            (kind, _) => kind,
        };
        Self { kind, ..self }
    }

    /// The failure of a handler that did not end the transaction, if it counts.
    pub(super) fn counted(self, claim_timeout: Duration) -> Result<Self, AttemptError> {
        match self.kind {
            ErrorKind::Transient | ErrorKind::ReadOnly => Err(AttemptError::Database(self.error)),
            ErrorKind::SharedStatement => Err(AttemptError::Database(format!(
                "{}; {SHARED_STATEMENT}",
                self.error
            ))),
            ErrorKind::ClaimTimeout => Ok(Self {
                error: format!("{}: {}", claim_timeout_error(claim_timeout), self.error),
                ..self
            }),
            ErrorKind::TransactionTimeout => Ok(Self {
                error: format!("{TRANSACTION_TIMEOUT}: {}", self.error),
                ..self
            }),
            // The refusal of a commit ends the transaction, so this one came from another.
            ErrorKind::EndedTransaction => Ok(Self {
                kind: ErrorKind::Handler,
                ..self
            }),
            ErrorKind::Handler
            | ErrorKind::Protocol
            | ErrorKind::StaleStatement
            | ErrorKind::TimedOut => Ok(self),
        }
    }
}

/// The kind and the text of an error, or a text that says why they are unknown: the error is the handler's
/// code too, and may panic when it is asked for its text or cause.
pub(crate) fn judge<DB: Backend>(error: &HandlerError) -> Result<(ErrorKind, String), String> {
    let judge = || (ErrorKind::of::<DB>(error), error.to_string());
    catch_unwind(AssertUnwindSafe(judge)).map_err(|panic| {
        let panic = panic_message(panic.as_ref());
        format!(
            "the handler returned an error whose text is unknown: its `Display` or `source` panicked: {panic}"
        )
    })
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
    /// A prepared statement is older than its tables, or one of its name is left of an earlier batch.
    StaleStatement,
    /// A prepared statement is not that of the connection.
    SharedStatement,
    /// The server ended the transaction, since the handler left it idle for too long.
    ClaimTimeout,
    /// The server ended the transaction, since it took longer than a setting of the server allows.
    TransactionTimeout,
    /// The handler ended its worker's transaction (R4), or tried to.
    EndedTransaction,
    /// The handler took too long, and left its connection in the middle of something.
    TimedOut,
}

impl ErrorKind {
    /// The kind of a handler's error: the worst kind in its chain of causes.
    fn of<DB: Backend>(error: &HandlerError) -> Self {
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
            None if error.is::<TimedOut>() => Self::TimedOut,
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
        } else if DB::is_transaction_timeout(error) {
            Self::TransactionTimeout
        } else if DB::is_stale_statement(error) {
            Self::StaleStatement
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

/// The error of a handler whose transaction the server ended before a statement of the worker's own, if
/// that is what its error says.
pub(crate) fn server_timeout<DB: Backend>(
    error: &sqlx::Error,
    claim_timeout: Duration,
) -> Option<String> {
    let error = error.as_database_error()?;
    if DB::is_claim_timeout(error) {
        Some(claim_timeout_error(claim_timeout))
    } else {
        DB::is_transaction_timeout(error).then(|| TRANSACTION_TIMEOUT.to_owned())
    }
}

/// The error of a handler whose transaction took too long for the server.
const TRANSACTION_TIMEOUT: &str = "the handler's transaction took longer than the server's `transaction_timeout`, so the server ended it; raise that for the worker's role, or set a lower `batch_size` or `handler_timeout`";

/// The error of a handler whose idle transaction the server ended.
fn claim_timeout_error(timeout: Duration) -> String {
    format!(
        "the handler left its transaction idle for longer than the `claim_timeout` of {timeout:?}, so the server ended it; do slow work outside the transaction, raise `claim_timeout`, or set a shorter `handler_timeout`"
    )
}
