//! Whose trouble an error is: the event's, the database's, or a handler's that broke the rules.

use std::error::Error;

use sqlx::error::DatabaseError;

use crate::backend::Backend;
use crate::contract::HandlerError;

/// Whose trouble an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The handler could not handle the event; it counts against the event.
    Handler,
    /// sqlx and the database did not understand each other: the connection is broken, or what the
    /// handler sent can never be sent, such as a statement with too many parameters.
    Protocol,
    /// The database could not be used just now; it never counts against the event.
    Infrastructure,
    /// The handler tried to end its worker's transaction (R4).
    Commit,
}

/// Judges what a handler returned, by its whole chain of causes.
pub(crate) fn judge<DB: Backend>(error: &HandlerError) -> Blame {
    error
        .chain()
        .map(judge_one::<DB>)
        .max_by_key(|blame| *blame as u8)
        .unwrap_or(Blame::Handler)
}

/// Whether an error of the worker's own statements says that an earlier error was ignored.
pub(crate) fn is_aborted_transaction<DB: Backend>(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(DB::is_aborted_transaction)
}

fn judge_one<DB: Backend>(error: &(dyn Error + 'static)) -> Blame {
    if let Some(error) = error.downcast_ref::<sqlx::Error>() {
        return match error {
            sqlx::Error::Database(error) => judge_database::<DB>(error.as_ref()),
            sqlx::Error::Protocol(_) => Blame::Protocol,
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Blame::Infrastructure,
            _ => Blame::Handler,
        };
    }
    // `?` through `anyhow` hides the type of the outermost error, but not that of its source.
    error
        .downcast_ref::<Box<dyn DatabaseError>>()
        .map_or(Blame::Handler, |error| judge_database::<DB>(error.as_ref()))
}

fn judge_database<DB: Backend>(error: &dyn DatabaseError) -> Blame {
    if DB::is_refused_commit(error) {
        Blame::Commit
    } else if DB::is_infrastructure(error) {
        Blame::Infrastructure
    } else {
        Blame::Handler
    }
}
