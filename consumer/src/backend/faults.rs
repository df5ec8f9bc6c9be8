//! What the test kit needs of a database.

use std::future::Future;

use sqlx::Database;

/// Makes changes fail, for tests.
pub trait Faults: Database {
    /// Runs statements of the test.
    fn run_script(
        connection: &mut Self::Connection,
        sql: sqlx::AssertSqlSafe<String>,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Makes the `write`-th change of a row fail, counted from now, until the transaction rolls back.
    fn arm_fault(
        connection: &mut Self::Connection,
        write: u32,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Whether at least that many rows were changed.
    fn fault_was_reached(
        connection: &mut Self::Connection,
        write: u32,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;
}
