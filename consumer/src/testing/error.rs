//! What a test of a consumer finds.

use crate::contract::HandlerError;
use crate::store::StoreError;

/// What a test of a consumer finds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestError {
    /// The consumer could not handle an event.
    #[error("the consumer failed on event {position}: {error}")]
    Handler {
        /// The event.
        position: i64,
        /// What it returned.
        error: HandlerError,
    },
    /// A change failed, and the consumer said that all is well.
    #[error(
        "change {write} of the consumer failed, and it returned no error: an event would count as handled that is not"
    )]
    Swallowed {
        /// Which change.
        write: u32,
    },
    /// The consumer ended the transaction that it was given (R4).
    #[error(
        "the consumer ended the transaction that it was given, which a worker refuses: {error}"
    )]
    EndedTransaction {
        /// What the database said then.
        error: sqlx::Error,
    },
    /// The consumer could not empty its read model.
    #[error("the consumer could not empty its read model: {0}")]
    Reset(HandlerError),
    /// The database of the test could not be used.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The store of the test could not be made.
    #[error(transparent)]
    Store(#[from] StoreError),
}
