//! What a test asks of a database.

use std::future::Future;

use crate::worker::WorkerBackend;

/// A database that consumers can be tested on: Postgres or SQLite.
///
/// The trait is sealed.
pub trait TestBackend: TestDialect {}

/// What a test asks of a database.
pub trait TestDialect: WorkerBackend {
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
