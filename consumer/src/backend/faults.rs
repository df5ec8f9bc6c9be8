//! What the test kit asks of a database.

use std::future::Future;

use sqlx::Database;

/// What a test asks of a database.
pub trait Faults: Database {
    /// Runs statements of the test.
    fn run_script(
        connection: &mut Self::Connection,
        sql: sqlx::AssertSqlSafe<String>,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Makes the `write`-th change of a row from now on fail, until the transaction rolls back.
    fn arm_fault(
        connection: &mut Self::Connection,
        write: u32,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Whether there were so many changes.
    fn fault_was_reached(
        connection: &mut Self::Connection,
        write: u32,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;
}
