//! Why a test of a consumer failed.

use std::error::Error;
use std::fmt;

use crate::backend::{DriverError, StoreError, TableError, UnknownEvent};
use crate::contract::HandlerError;

/// Why a test of a consumer failed.
///
/// ```
/// # consumer::__doc::run(async |_| { use consumer::__doc::Invoices;
/// use consumer::NewEvent;
/// use consumer::testing::{ConsumerTest, TestError};
///
/// // `Invoices` fails on every event with `no such tariff`.
/// let mut test = ConsumerTest::sqlite(Invoices::default()).await?;
/// test.given(NewEvent::new("Order", "o-1", "OrderPlaced", "{}"));
///
/// match test.when().await {
///     Err(TestError::Handler { position, error }) => {
///         assert_eq!((position, error.to_string().as_str()), (1, "no such tariff"));
///     }
///     other => panic!("{other:?}"),
/// }
/// assert_eq!(test.checkpoint(), 0);
/// # Ok(()) }).unwrap();
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum TestError {
    /// The consumer returned an error for an event.
    Handler {
        /// The event's position.
        position: i64,
        /// The error of the consumer.
        error: HandlerError,
    },
    /// A write failed, and the consumer returned no error.
    Swallowed {
        /// Which write, counted from 1.
        write: u32,
    },
    /// The consumer ended the transaction that it was given (R4).
    EndedTransaction {
        /// The database's error when the transaction was used afterwards.
        error: DriverError,
    },
    /// The consumer left a transaction open that it began with `tx.begin()` (R4).
    OpenSavepoint,
    /// The consumer could not empty its read model.
    Reset(HandlerError),
    /// The table of the read model could not be created, or differs from its struct.
    Table(TableError),
    /// The rows of the read model could not be read.
    Row(HandlerError),
    /// The consumer's code does not know an event in its scope.
    UnknownEvent {
        /// The event.
        event: UnknownEvent,
    },
    /// The test's database returned an error.
    Database(DriverError),
    /// The test's store could not be created.
    Store(StoreError),
}

impl fmt::Display for TestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handler { position, .. } => write!(f, "the consumer failed on event {position}"),
            Self::Swallowed { write } => write!(
                f,
                "write {write} failed, and the consumer returned no error: a worker would count an event as handled that is not; return the error of every write"
            ),
            Self::EndedTransaction { .. } => f.write_str(
                "the consumer ended the transaction that it was given, which a worker refuses: remove the `COMMIT` or `ROLLBACK`; to undo, return an error",
            ),
            Self::OpenSavepoint => f.write_str(
                "the consumer left a transaction open that it began with `tx.begin()`, which a worker refuses: commit it, or drop it to roll it back, before the handler returns",
            ),
            Self::Reset(_) => f.write_str("the consumer could not empty its read model"),
            Self::Table(error) => error.fmt(f),
            Self::Row(_) => f.write_str("the rows of the read model cannot be read"),
            Self::UnknownEvent { event } => write!(
                f,
                "the consumer does not know {event}, so that a worker would wait for a release that does; handle it, or name its type in `ignore`"
            ),
            Self::Database(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl Error for TestError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Handler { error, .. } | Self::Reset(error) | Self::Row(error) => {
                Some(error.as_error())
            }
            Self::Table(error) => error.source(),
            Self::EndedTransaction { error } => Some(error),
            Self::Swallowed { .. } | Self::OpenSavepoint | Self::UnknownEvent { .. } => None,
            Self::Database(error) => error.source(),
            Self::Store(error) => error.source(),
        }
    }
}

impl From<sqlx::Error> for TestError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<StoreError> for TestError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<TableError> for TestError {
    fn from(error: TableError) -> Self {
        Self::Table(error)
    }
}
