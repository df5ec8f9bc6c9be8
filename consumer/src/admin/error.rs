//! Why an operator's verb was refused, and what to do instead.

use std::sync::Arc;

use crate::backend::{FrontierError, StoreError};
use crate::contract::HandlerError;
use crate::worker::WorkerError;

/// Why an operator's verb was refused, or did not come to its end: a verb that takes many steps, as
/// one that retries or merges, keeps those that it has taken.
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use consumer::{Consumer, Context, HandlerError, PersistedEvent, sqlx};
/// # struct Users;
/// # impl Consumer<sqlx::Sqlite> for Users {
/// #     fn name(&self) -> &str { "users" }
/// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
/// # }
/// use consumer::admin::{AdminError, RebuildOptions};
/// use consumer::{SqliteEventStore, Worker};
///
/// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
/// # store.migrate().await?;
/// # Worker::builder(store.clone()).consumer(Users).build()?.run_once().await?;
/// # let admin = Worker::builder(store).consumer(Users).admin()?;
/// match admin.rebuild("users", RebuildOptions::new()).await {
///     Ok(rebuilt) => println!("replays up to {}", rebuilt.replay_to),
///     // A worker has it at hand: `wait`, or pause it first.
///     Err(AdminError::Held { consumer }) => println!("{consumer} is busy"),
///     // It has no `#[on(reset)]`: empty the tables, then `without_reset`.
///     Err(AdminError::NoReset { consumer }) => println!("{consumer} cannot empty its tables"),
///     // The text says what to do.
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// There is no checkpoint of that name.
    #[error("there is no consumer `{consumer}`; there are: {known}")]
    Unknown {
        /// The name.
        consumer: String,
        /// The names that there are.
        known: String,
    },
    /// There is no checkpoint of that version.
    #[error("consumer `{consumer}` has no version {version}; it has {known}")]
    UnknownVersion {
        /// The name.
        consumer: String,
        /// The version.
        version: u32,
        /// The versions that there are.
        known: String,
    },
    /// No worker ever ran the consumer, so there is nothing to change.
    #[error(
        "consumer `{consumer}`, version {version}, has no checkpoint yet: no worker ever ran it"
    )]
    NeverRan {
        /// The consumer.
        consumer: Arc<str>,
        /// Its version.
        version: u32,
    },
    /// The name alone does not say which.
    #[error(
        "consumer `{consumer}` has several versions ({versions}); say which one is meant (`.version(…)`, `--of-version`)"
    )]
    SeveralVersions {
        /// The name.
        consumer: String,
        /// Its versions.
        versions: String,
    },
    /// A worker has the checkpoint at hand, or another writer the whole of an SQLite database.
    #[error(
        "a worker has consumer `{consumer}` at hand right now; wait for its batch to end (`.wait(…)`, `--wait`), or pause the consumer first"
    )]
    Held {
        /// The consumer.
        consumer: Arc<str>,
    },
    /// The verb calls the consumer's code, and this program does not have it.
    #[error(
        "the code of consumer `{consumer}`, version {version}, is not in this program, and is needed for this"
    )]
    NoCode {
        /// The consumer.
        consumer: Arc<str>,
        /// Its version.
        version: u32,
    },
    /// The consumer cannot empty its read model.
    #[error(
        "consumer `{consumer}` cannot empty its read model: give it an `#[on(reset)]` method; or empty it yourself and rebuild with `.without_reset()` (`--without-reset`)"
    )]
    NoReset {
        /// The consumer.
        consumer: Arc<str>,
    },
    /// Emptying the read model failed.
    #[error(
        "consumer `{consumer}` could not empty its read model, so nothing was changed: {error}"
    )]
    Reset {
        /// The consumer.
        consumer: Arc<str>,
        /// What went wrong.
        error: HandlerError,
    },
    /// The consumer's code ended the transaction that it was given (R4).
    #[error(
        "consumer `{consumer}` ended the transaction that it was given, so nothing was saved; it may use `tx.begin()` for a savepoint"
    )]
    EndedTransaction {
        /// The consumer.
        consumer: Arc<str>,
    },
    /// A parked event failed again.
    #[error("event {position} failed again, so its aggregate stays parked: {error}")]
    Retry {
        /// The event.
        position: i64,
        /// What went wrong.
        error: HandlerError,
    },
    /// The database could not be used while a parked event was tried again; that does not count
    /// against the event.
    #[error(
        "event {position} could not be tried again, and nothing of its aggregate was changed: {error}"
    )]
    Interrupted {
        /// The event.
        position: i64,
        /// What went wrong.
        error: HandlerError,
    },
    /// The event is not parked.
    #[error("event {position} is not parked by consumer `{consumer}`")]
    NotParked {
        /// The consumer.
        consumer: Arc<str>,
        /// The event.
        position: i64,
    },
    /// An event is parked that the log does not have.
    #[error("event {position} is not in the log any more; skip it")]
    NotInLog {
        /// The event.
        position: i64,
    },
    /// A checkpoint that is in use is not to be forgotten.
    #[error(
        "consumer `{consumer}`, version {version}, is in this program and would start again from the beginning; take it out of the program first, or force it (`--force`)"
    )]
    InUse {
        /// The consumer.
        consumer: Arc<str>,
        /// Its version.
        version: u32,
    },
    /// The version that serves is not to be forgotten.
    #[error("version {version} of consumer `{consumer}` is the active one; activate another first")]
    Active {
        /// The consumer.
        consumer: Arc<str>,
        /// Its version.
        version: u32,
    },
    /// A version that has not caught up is not to serve.
    #[error(
        "version {version} of consumer `{consumer}` is {lag} events behind; wait until it has caught up, or force it (`--force`)"
    )]
    Behind {
        /// The consumer.
        consumer: Arc<str>,
        /// Its version.
        version: u32,
        /// How many events of its scope it has not handled.
        lag: u64,
    },
    /// A version that has left events out is not to serve.
    #[error(
        "version {version} of consumer `{consumer}` has parked {parked} events; retry or skip them first, or force it (`--force`)"
    )]
    HasParked {
        /// The consumer.
        consumer: Arc<str>,
        /// Its version.
        version: u32,
        /// How many events.
        parked: u64,
    },
    /// A rebuild would take events for handled that never were.
    #[error(
        "consumer `{consumer}` has parked {parked} events, which it never handled; a rebuild hands them over as a replay, so that their effects are left out for good: retry or skip them first, or give them up (`.discard_parked()`, `--discard-parked`)"
    )]
    WouldDiscard {
        /// The consumer.
        consumer: Arc<str>,
        /// How many events.
        parked: u64,
    },
    /// The log of events is not one that can be operated on.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for AdminError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<FrontierError> for AdminError {
    fn from(error: FrontierError) -> Self {
        WorkerError::from(error).into()
    }
}
