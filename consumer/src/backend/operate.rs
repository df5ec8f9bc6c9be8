//! The consumer half of a backend: what the commands of an operator ask of a database.

use std::future::Future;
use std::time::Duration;

use sqlx::Database;

use super::StoreSettings;
use super::rows::{ConsumerId, Lock, ParkedRow, Part, Row, State, Taken};

/// What the commands of an operator ask of a database.
pub trait Operate: Database {
    /// The statements of one mapping.
    type OperateStatements: Send + Sync + 'static;

    /// Writes the statements out.
    fn operate_statements(settings: &StoreSettings) -> Self::OperateStatements;

    /// Reads all checkpoint rows and what is parked beside them.
    fn rows(
        sql: &Self::OperateStatements,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Vec<Row>, sqlx::Error>> + Send;

    /// Counts the events of a scope in a part of the log, up to a limit.
    fn count(
        sql: &Self::OperateStatements,
        connection: &mut Self::Connection,
        part: Part<'_>,
        limit: i64,
    ) -> impl Future<Output = Result<i64, sqlx::Error>> + Send;

    /// The age of the first event of a scope in a part of the log, in milliseconds.
    fn age(
        sql: &Self::OperateStatements,
        connection: &mut Self::Connection,
        part: Part<'_>,
    ) -> impl Future<Output = Result<Option<i64>, sqlx::Error>> + Send;

    /// Locks the rows of one version of a consumer, in the caller's transaction.
    fn lock(
        sql: &Self::OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
        wait: Duration,
    ) -> impl Future<Output = Result<Lock, sqlx::Error>> + Send;

    /// Makes the end of the caller's transaction depend on [`release`](Self::release), before a
    /// consumer's code is called in it (R4).
    fn arm(
        sql: &Self::OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Allows the transaction to commit; false when it is not the one that was locked in.
    fn release(
        sql: &Self::OperateStatements,
        connection: &mut Self::Connection,
        taken: &Taken,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Ends, from another connection, what the backend of a transaction is doing.
    fn end_backend(
        sql: &Self::OperateStatements,
        connection: &mut Self::Connection,
        taken: &Taken,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Sets the state and forgets the attempts.
    fn set_state(
        sql: &Self::OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
        state: State,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Moves the checkpoint back to the beginning and removes what is parked.
    fn rewind(
        sql: &Self::OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
        scope: Option<&str>,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Writes another scope into the checkpoint.
    fn set_scope(
        sql: &Self::OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
        scope: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Reads what is parked, in the order of the log.
    fn parked(
        sql: &Self::OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
    ) -> impl Future<Output = Result<Vec<ParkedRow>, sqlx::Error>> + Send;

    /// Removes a parked event; only under the lock of the rows.
    fn unpark(
        sql: &Self::OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
        position: i64,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Notes that a parked event failed again; only under the lock of the rows.
    fn blame(
        sql: &Self::OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
        position: i64,
        error: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Removes the checkpoint, what is parked beside it, and that it is the active one.
    fn forget(
        sql: &Self::OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Which version of each consumer was made the active one.
    fn active(
        sql: &Self::OperateStatements,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Vec<ConsumerId>, sqlx::Error>> + Send;

    /// Makes a version the active one.
    fn activate(
        sql: &Self::OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Whether the error says that somebody else keeps a lock.
    fn is_held(error: &sqlx::Error) -> bool;
}
