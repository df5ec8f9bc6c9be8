//! The operator's SQL on Postgres.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, Postgres};

use super::rows::{consumer_id, parked_row, row};
use crate::backend::shared::shared_operate;
use crate::backend::sql::statements;
use crate::backend::{
    ConsumerId, Lock, Operate, ParkedRow, Part, Row, State, StoreSettings, Taken,
};

const ROWS: &str = "
    SELECT p.consumer, p.version, p.slice_from, p.slice_to, p.position, p.epoch, p.scope, p.state,
           p.replay_to, p.hold_at, p.attempts, p.failed_position, p.error,
           (extract(epoch FROM p.retry_at - clock_timestamp()) * 1000)::bigint AS retry_in,
           (extract(epoch FROM clock_timestamp() - p.updated_at) * 1000)::bigint AS saved_ago,
           (SELECT count(*) FROM {parked} AS k
             WHERE k.consumer = p.consumer AND k.version = p.version
               AND k.slice >= p.slice_from AND k.slice < p.slice_to) AS parked,
           (SELECT count(DISTINCT (k.aggregate_type, k.aggregate_id)) FROM {parked} AS k
             WHERE k.consumer = p.consumer AND k.version = p.version
               AND k.slice >= p.slice_from AND k.slice < p.slice_to) AS parked_aggregates
      FROM {progress} AS p
     ORDER BY p.consumer, p.version, p.slice_from";

const COUNT: &str = "
    SELECT count(*) FROM (
        SELECT 1 FROM {events} WHERE {global_position} > $1 AND {global_position} <= $2
         LIMIT $3) AS w";

/// One index scan a type; see the same clause in the store's reads.
const COUNT_SCOPE: &str = "
    SELECT count(*) FROM (
        SELECT 1 FROM json_array_elements_text($4::text::json) AS t (kind)
         CROSS JOIN LATERAL (
            SELECT 1 FROM {events}
             WHERE {aggregate_type} = t.kind AND ({aggregate_type}, {global_position}) > (t.kind, $1)
               AND {global_position} <= $2
             LIMIT $3) AS e
         LIMIT $3) AS w";

const AGE: &str = "
    SELECT (extract(epoch FROM clock_timestamp() - {created_at}) * 1000)::bigint
      FROM {events} WHERE {global_position} > $1 AND {global_position} <= $2
     ORDER BY {global_position} LIMIT 1";

const AGE_SCOPE: &str = "
    SELECT (extract(epoch FROM clock_timestamp() - e.at) * 1000)::bigint
      FROM json_array_elements_text($3::text::json) AS t (kind)
     CROSS JOIN LATERAL (
        SELECT {global_position} AS p, {created_at} AS at FROM {events}
         WHERE {aggregate_type} = t.kind AND ({aggregate_type}, {global_position}) > (t.kind, $1)
           AND {global_position} <= $2
         ORDER BY {aggregate_type}, {global_position} LIMIT 1) AS e
     ORDER BY e.p LIMIT 1";

/// Waits as long as `lock_timeout` allows; the order keeps two operators from waiting for each
/// other. An operator whose process froze, or who stopped it and went away, does not keep the rows.
const LOCK: &str = "
    SELECT pg_current_xact_id()::text AS transaction, pg_backend_pid() AS backend,
           set_config('idle_in_transaction_session_timeout', '60s', true)
      FROM {progress}
     WHERE consumer = $1 AND version = $2 ORDER BY slice_from FOR UPDATE";

/// A changed `claims` is what the deferred trigger wants the mark for (R4).
const ARM: &str = "UPDATE {progress} SET claims = claims + 1 WHERE consumer = $1 AND version = $2";

const RELEASE: &str = "
    SELECT set_config('consumer.saved', $1, true) WHERE pg_current_xact_id()::text = $1";

/// Whoever goes on has all attempts before it, and no error that was.
const SET_STATE: &str = "
    UPDATE {progress}
       SET state = $3,
           attempts = CASE $3 WHEN 'running' THEN 0 ELSE attempts END,
           retry_at = CASE $3 WHEN 'running' THEN NULL ELSE retry_at END,
           failed_position = CASE $3 WHEN 'running' THEN NULL ELSE failed_position END,
           error = CASE $3 WHEN 'running' THEN NULL ELSE error END,
           updated_at = clock_timestamp()
     WHERE consumer = $1 AND version = $2";

/// What was handled once is a replay from now on, also when a rebuild begins anew half-way.
const REWIND: &str = "
    UPDATE {progress}
       SET replay_to = greatest(replay_to, position), position = 0, epoch = epoch + 1,
           state = CASE state WHEN 'paused' THEN state ELSE 'running' END,
           attempts = 0, retry_at = NULL, failed_position = NULL, error = NULL,
           scope = coalesce($3, scope), updated_at = clock_timestamp()
     WHERE consumer = $1 AND version = $2";

/// The epoch keeps out what was read or looked through with the old scope.
const SET_SCOPE: &str = "
    UPDATE {progress} SET scope = $3, epoch = epoch + 1, updated_at = clock_timestamp()
     WHERE consumer = $1 AND version = $2";

const PARKED: &str = "
    SELECT position, aggregate_type, aggregate_id, reason, attempts, error,
           (extract(epoch FROM clock_timestamp() - parked_at) * 1000)::bigint AS parked_ago
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
    ON CONFLICT (consumer) DO UPDATE SET version = excluded.version, activated_at = now()";

statements! {
    /// The operator's statements, with the names of the schema.
    pub Statements {
        rows: ROWS,
        count: COUNT,
        count_scope: COUNT_SCOPE,
        age: AGE,
        age_scope: AGE_SCOPE,
        timeouts: "SELECT set_config('lock_timeout', $1, true)",
        own_patience: "SET LOCAL lock_timeout TO DEFAULT",
        lock: LOCK,
        release: RELEASE,
        end_backend: "SELECT pg_terminate_backend($1)",
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

impl Operate for Postgres {
    type OperateStatements = Statements;

    fn operate_statements(settings: &StoreSettings) -> Statements {
        Statements::new(settings)
    }

    async fn lock(
        statements: &Statements,
        connection: &mut PgConnection,
        of: &ConsumerId,
        wait: Duration,
    ) -> Result<Lock, sqlx::Error> {
        // A timeout of 0 would wait for ever.
        let timeouts = wait.as_millis().max(1).to_string();
        statements
            .timeouts
            .query()
            .bind(timeouts)
            .execute(&mut *connection)
            .await?;
        let rows = statements
            .lock
            .query()
            .bind(&*of.name)
            .bind(of.version_column())
            .fetch_all(&mut *connection)
            .await?;
        // What follows may be the consumer's own code, with waits of its own.
        statements.own_patience.query().execute(connection).await?;
        let Some(row) = rows.first() else {
            return Ok(Lock::Missing);
        };
        Ok(Lock::Taken(Taken {
            transaction: row.try_get("transaction")?,
            backend: row.try_get("backend")?,
        }))
    }

    async fn release(
        statements: &Statements,
        connection: &mut PgConnection,
        taken: &Taken,
    ) -> Result<bool, sqlx::Error> {
        let released = statements
            .release
            .query()
            .bind(&taken.transaction)
            .fetch_optional(connection)
            .await?;
        Ok(released.is_some())
    }

    async fn end_backend(
        statements: &Statements,
        connection: &mut PgConnection,
        taken: &Taken,
    ) -> Result<(), sqlx::Error> {
        let end = statements.end_backend.query().bind(taken.backend);
        end.execute(connection).await.map(drop)
    }

    fn is_held(error: &sqlx::Error) -> bool {
        error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .is_some_and(|code| code == "55P03")
    }

    shared_operate!(PgConnection);
}
