//! The requirements of the test kit on a database.

use std::future::Future;

use sqlx::{AssertSqlSafe, SqlSafeStr as _};

use super::driver::Driver;

/// Makes changes fail and detects savepoints, for tests.
pub trait Faults: Driver {
    /// Runs statements of the test.
    fn run_script(
        connection: &mut Self::Connection,
        sql: AssertSqlSafe<String>,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        async move {
            Self::fetch_script(connection, sql.into_sql_str())
                .await
                .map(drop)
        }
    }

    /// Sets the savepoint to which a batch can be undone, whatever savepoints are in it.
    fn set_savepoint(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        Self::run_script(connection, script("SAVEPOINT consumer_batch"))
    }

    /// Removes the savepoint and keeps what was written since.
    fn release_savepoint(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        Self::run_script(connection, script("RELEASE SAVEPOINT consumer_batch"))
    }

    /// Undoes what was written since the savepoint, and removes it.
    fn undo_to_savepoint(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        let undo = "ROLLBACK TO SAVEPOINT consumer_batch; RELEASE SAVEPOINT consumer_batch";
        Self::run_script(connection, script(undo))
    }

    /// Whether there is a savepoint that sqlx gave this number.
    fn has_savepoint(
        connection: &mut Self::Connection,
        number: u32,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send {
        async move {
            // On Postgres, an error takes the transaction back to the last savepoint.
            Self::run_script(connection, script("SAVEPOINT consumer_probe")).await?;
            let release = format!("RELEASE SAVEPOINT _sqlx_savepoint_{number}");
            if Self::run_script(connection, script(&release)).await.is_ok() {
                return Ok(true);
            }
            let undo = "ROLLBACK TO SAVEPOINT consumer_probe; RELEASE SAVEPOINT consumer_probe";
            Self::run_script(connection, script(undo)).await?;
            Ok(false)
        }
    }

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

fn script(sql: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(sql.to_owned())
}
