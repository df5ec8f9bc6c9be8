//! What a test asks of a database.

use std::future::Future;

use crate::worker::Backend;

/// A database that consumers can be tested on: Postgres or SQLite.
///
/// The trait is sealed.
///
/// Only code that is generic over the database names it, as a bound:
///
/// ```
/// use consumer::testing::{ConsumerTest, TestError};
///
/// /// What each consumer of a program should survive.
/// async fn survives<DB: Backend>(test: &mut ConsumerTest<DB>) -> Result<(), TestError> {
///     test.crash_before_commit().await?;
///     test.when().await?;
///     test.redeliver().await
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "no consumer is tested on `{Self}`",
    label = "neither `Postgres` nor `Sqlite`",
    note = "test on the database that the consumer runs on, `Postgres` or `Sqlite`, and turn on the feature of that name of `consumer`"
)]
pub trait Backend: TestDialect {}

/// What a test asks of a database.
pub trait TestDialect: Backend {
    /// Runs statements of the test.
    fn run(
        connection: &mut Self::Connection,
        sql: sqlx::AssertSqlSafe<String>,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Makes the `write`-th change of a row from now on fail, until the transaction rolls back.
    fn arm(
        connection: &mut Self::Connection,
        write: u32,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Whether there were so many changes.
    fn was_reached(
        connection: &mut Self::Connection,
        write: u32,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;
}
