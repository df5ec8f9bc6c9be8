//! The operator's locks on SQLite.

use std::time::Duration;

use sqlx::sqlite::{Sqlite, SqliteConnection};

use crate::backend::operate::{Operate, OperateStatements, rows};
use crate::backend::rows::on_consumer;
use crate::backend::rows::{ConsumerId, Lock, Taken};

impl Operate for Sqlite {
    const ROWS: &'static str = rows!(
        "
           -- A claim that another connection holds is invisible. A handler that works without one has a mark.
           (SELECT -1 FROM {marks} AS m
             WHERE m.consumer = p.consumer AND m.version = p.version
               AND m.slice_from < p.slice_to AND m.slice_to > p.slice_from
               AND m.held_until > {now} AND m.holder NOT LIKE 'waiting: %' LIMIT 1)"
    );

    /// The transaction, begun IMMEDIATE, is the lock, and the wait for it is over.
    const LOCK: &'static str =
        "SELECT slice_from FROM {progress} WHERE consumer = $1 AND version = $2";

    async fn lock(
        sql: &OperateStatements,
        connection: &mut SqliteConnection,
        of: &ConsumerId,
        _wait: Duration,
    ) -> Result<Lock, sqlx::Error> {
        let row = on_consumer::<Self>(&sql.lock, of)
            .fetch_optional(connection)
            .await?;
        Ok(match row {
            Some(_) => Lock::Taken(Taken::default()),
            None => Lock::Missing,
        })
    }

    async fn is_same_transaction(
        _connection: &mut SqliteConnection,
        _taken: &Taken,
    ) -> Result<bool, sqlx::Error> {
        // The connection's hooks refuse to end it.
        Ok(true)
    }

    async fn release(
        _connection: &mut SqliteConnection,
        _taken: &Taken,
    ) -> Result<bool, sqlx::Error> {
        // If the transaction ended, the connection's hooks saw it.
        Ok(true)
    }
}
