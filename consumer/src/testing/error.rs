//! What a test of a consumer finds.

use crate::backend::StoreError;
use crate::contract::HandlerError;

/// What a test of a consumer finds.
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use consumer::{Consumer, Context, HandlerError, PersistedEvent, sqlx};
/// # struct Invoices;
/// # impl Consumer<sqlx::Sqlite> for Invoices {
/// #     fn name(&self) -> &str { "invoices" }
/// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, event: &PersistedEvent) -> Result<(), HandlerError> {
/// #         if &*event.aggregate_id == "o-2" { Err("no such tariff".into()) } else { Ok(()) }
/// #     }
/// # }
/// use consumer::NewEvent;
/// use consumer::testing::{ConsumerTest, TestError};
///
/// let mut test = ConsumerTest::sqlite(Invoices).await?;
/// test.given(NewEvent::new("Order", "o-1", "OrderPlaced", "{}"));
/// test.given(NewEvent::new("Order", "o-2", "OrderPlaced", "{}")); // of a tariff that is not there
///
/// match test.when().await {
///     Err(TestError::Handler { position, error }) => {
///         assert_eq!((position, error.to_string().as_str()), (2, "no such tariff"));
///     }
///     other => panic!("{other:?}"),
/// }
/// // What came before it is handled.
/// assert_eq!(test.checkpoint(), 1);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
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
