//! The operator's SQL on SQLite.

use std::time::Duration;

use sqlx::sqlite::{Sqlite, SqliteConnection};

use super::rows::{consumer_id, parked_row, row};
use crate::backend::shared::shared_operate;
use crate::backend::sql::statements;
use crate::backend::{
    ConsumerId, Lock, Operate, ParkedRow, Part, Row, State, StoreSettings, Taken,
};

const ROWS: &str = "
    SELECT p.consumer, p.version, p.slice_from, p.slice_to, p.position, p.epoch, p.scope, p.state,
           p.replay_to, p.hold_at, p.attempts, p.failed_position, p.error,
           p.retry_at - CAST(unixepoch('subsec') * 1000 AS INTEGER) AS retry_in,
           CAST(unixepoch('subsec') * 1000 AS INTEGER) - p.updated_at AS saved_ago,
           (SELECT count(*) FROM {parked} AS k
             WHERE k.consumer = p.consumer AND k.version = p.version
               AND k.slice >= p.slice_from AND k.slice < p.slice_to) AS parked,
           (SELECT count(DISTINCT k.aggregate_type || char(0) || k.aggregate_id) FROM {parked} AS k
             WHERE k.consumer = p.consumer AND k.version = p.version
               AND k.slice >= p.slice_from AND k.slice < p.slice_to) AS parked_aggregates
      FROM {progress} AS p
     ORDER BY p.consumer, p.version, p.slice_from";

const COUNT: &str = "
    SELECT count(*) FROM (
        SELECT 1 FROM {events} WHERE {global_position} > $1 AND {global_position} <= $2
         LIMIT $3) AS w";

const COUNT_SCOPE: &str = "
    SELECT count(*) FROM (
        SELECT 1 FROM {events}
         WHERE {aggregate_type} IN (SELECT value FROM json_each($4))
           AND {global_position} > $1 AND {global_position} <= $2
         LIMIT $3) AS w";

const AGE: &str = "
    SELECT CAST((unixepoch('subsec') - unixepoch({created_at}, 'subsec')) * 1000 AS INTEGER)
      FROM {events} WHERE {global_position} > $1 AND {global_position} <= $2
     ORDER BY {global_position} LIMIT 1";

/// The lowest position of each type by one look into the index.
const AGE_SCOPE: &str = "
    SELECT CAST((unixepoch('subsec') - unixepoch({created_at}, 'subsec')) * 1000 AS INTEGER)
      FROM {events} WHERE {global_position} = (
        SELECT min((SELECT min({global_position}) FROM {events}
                     WHERE {aggregate_type} = t.value
                       AND {global_position} > $1 AND {global_position} <= $2))
          FROM json_each($3) AS t)";

/// The transaction, begun IMMEDIATE, is the lock: there is one writer, and whoever is to wait for it
/// waits at the beginning.
const LOCK: &str = "SELECT slice_from FROM {progress} WHERE consumer = $1 AND version = $2";

/// The hooks of the connection are what refuses a commit (R4); claims are counted all the same.
const ARM: &str = "UPDATE {progress} SET claims = claims + 1 WHERE consumer = $1 AND version = $2";

/// Whoever goes on has all attempts before it, and no error that was.
const SET_STATE: &str = "
    UPDATE {progress}
       SET state = $3,
           attempts = CASE $3 WHEN 'running' THEN 0 ELSE attempts END,
           retry_at = CASE $3 WHEN 'running' THEN NULL ELSE retry_at END,
           failed_position = CASE $3 WHEN 'running' THEN NULL ELSE failed_position END,
           error = CASE $3 WHEN 'running' THEN NULL ELSE error END,
           updated_at = CAST(unixepoch('subsec') * 1000 AS INTEGER)
     WHERE consumer = $1 AND version = $2";

/// What was handled once is a replay from now on, also when a rebuild begins anew half-way.
const REWIND: &str = "
    UPDATE {progress}
       SET replay_to = max(replay_to, position), position = 0, epoch = epoch + 1,
           state = CASE state WHEN 'paused' THEN state ELSE 'running' END,
           attempts = 0, retry_at = NULL, failed_position = NULL, error = NULL,
           scope = coalesce($3, scope), updated_at = CAST(unixepoch('subsec') * 1000 AS INTEGER)
     WHERE consumer = $1 AND version = $2";

/// The epoch keeps out what was read or looked through with the old scope.
const SET_SCOPE: &str = "
    UPDATE {progress} SET scope = $3, epoch = epoch + 1, updated_at = CAST(unixepoch('subsec') * 1000 AS INTEGER)
     WHERE consumer = $1 AND version = $2";

const PARKED: &str = "
    SELECT position, aggregate_type, aggregate_id, reason, attempts, error,
           CAST(unixepoch('subsec') * 1000 AS INTEGER) - parked_at AS parked_ago
      FROM {parked} WHERE consumer = $1 AND version = $2 ORDER BY position";

const UNPARK: &str = "DELETE FROM {parked} WHERE consumer = $1 AND version = $2 AND position = $3";

const BLAME: &str = "
    UPDATE {parked} SET reason = 'failed', attempts = attempts + 1, error = $4
     WHERE consumer = $1 AND version = $2 AND position = $3";

const FORGET: &str = "DELETE FROM {progress} WHERE consumer = $1 AND version = $2";

const FORGET_PARKED: &str = "DELETE FROM {parked} WHERE consumer = $1 AND version = $2";

const FORGET_ACTIVE: &str = "DELETE FROM {active} WHERE consumer = $1 AND version = $2";

const ACTIVE: &str = "SELECT consumer, version FROM {active}";

const ACTIVATE: &str = "
    INSERT INTO {active} (consumer, version) VALUES ($1, $2)
    ON CONFLICT (consumer) DO UPDATE SET version = excluded.version, activated_at = CAST(unixepoch('subsec') * 1000 AS INTEGER)";

statements! {
    /// The operator's statements, with the names of the schema.
    pub Statements {
        rows: ROWS,
        count: COUNT,
        count_scope: COUNT_SCOPE,
        age: AGE,
        age_scope: AGE_SCOPE,
        lock: LOCK,
        arm: ARM,
        set_state: SET_STATE,
        rewind: REWIND,
        set_scope: SET_SCOPE,
        parked: PARKED,
        unpark: UNPARK,
        blame: BLAME,
        forget: FORGET,
        forget_parked: FORGET_PARKED,
        forget_active: FORGET_ACTIVE,
        active: ACTIVE,
        activate: ACTIVATE,
    }
}

impl Operate for Sqlite {
    type OperateStatements = Statements;

    fn operate_statements(settings: &StoreSettings) -> Statements {
        Statements::new(settings)
    }

    async fn lock(
        statements: &Statements,
        connection: &mut SqliteConnection,
        of: &ConsumerId,
        _wait: Duration,
    ) -> Result<Lock, sqlx::Error> {
        let rows = statements
            .lock
            .query()
            .bind(&*of.name)
            .bind(of.version_column())
            .fetch_all(connection)
            .await?;
        Ok(if let [_, ..] = rows.as_slice() {
            Lock::Taken(Taken::default())
        } else {
            Lock::Missing
        })
    }

    async fn release(
        _statements: &Statements,
        _connection: &mut SqliteConnection,
        _taken: &Taken,
    ) -> Result<bool, sqlx::Error> {
        // The connection's hooks saw it, if the transaction ended.
        Ok(true)
    }

    async fn end_backend(
        _statements: &Statements,
        _connection: &mut SqliteConnection,
        _taken: &Taken,
    ) -> Result<(), sqlx::Error> {
        // There is no server: the guard of the connection ends the statement.
        Ok(())
    }

    fn is_held(error: &sqlx::Error) -> bool {
        const BUSY: i64 = 5;
        error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .and_then(|code| code.parse::<i64>().ok())
            .is_some_and(|code| code & 0xff == BUSY)
    }

    shared_operate!(SqliteConnection);
}
