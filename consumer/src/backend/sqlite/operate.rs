//! The operator's statements on SQLite: locks, and reads of one aggregate type after the other.

use std::time::Duration;

use sqlx::sqlite::{Sqlite, SqliteConnection};

use crate::backend::operate::{Operate, OperateStatements};
use crate::backend::rows::on_consumer;
use crate::backend::rows::{ConsumerId, Lock, Taken};

impl Operate for Sqlite {
    const COUNT_SCOPE: &'static str = "
        SELECT count(*) AS events FROM (
            SELECT 1 FROM {events}
             WHERE {aggregate_type} IN (SELECT value FROM json_each($4))
               AND {global_position} > $1 AND {global_position} <= $2
             LIMIT $3) AS w";

    const AGE_SCOPE: &'static str = "
        SELECT {event age} AS age
          FROM {events} WHERE {global_position} = (
            -- The lowest position of each type is one look into the index.
            SELECT min((SELECT min({global_position}) FROM {events}
                         WHERE {aggregate_type} = t.value
                           AND {global_position} > $1 AND {global_position} <= $2))
              FROM json_each($3) AS t)";

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

    async fn release(
        _connection: &mut SqliteConnection,
        _taken: &Taken,
    ) -> Result<bool, sqlx::Error> {
        // If the transaction ended, the connection's hooks saw it.
        Ok(true)
    }

    async fn end_backend(
        _connection: &mut SqliteConnection,
        _taken: &Taken,
    ) -> Result<(), sqlx::Error> {
        // There is no server: the guard of the connection ends the statement.
        Ok(())
    }
}
