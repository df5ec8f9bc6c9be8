//! The consumer half of a backend: what an operator's commands need of a database.

use std::future::Future;
use std::time::Duration;

use super::StoreSettings;
use super::driver::Driver;
use super::ledger::{COMPACT, FOLD, FOLDED, Folding, KEEP_UNPARKED, all_slices, fold};
use super::pending::{FORGET_FOUND, FORGET_PENDING, KEEP_ALL, KEEP_UNHANDLED};
use super::renames::RETIRE_FORGOTTEN;
use super::rows::{ConsumerId, Lock, ParkedRow, Row, SegmentId, State, Taken, on_consumer, on_row};
use super::sql::{Sql, Statement, statements};

/// All checkpoint rows of the log, `p`, with for how many milliseconds each has been claimed: -1 if it is claimed and
/// that is unknown, -2 if it is not claimed, and NULL if the database does not tell.
macro_rules! rows {
    ($claimed:literal) => {
        concat!(
            "
    SELECT p.consumer, p.version, p.slice_from, {checkpoint}, p.hold_at,
           -- The row has the process if one of an earlier library saved it last.
           coalesce(p.worker_host, w.host) AS worker_host,
           coalesce(p.worker_pid, w.pid) AS worker_pid,
           CASE WHEN p.worker_at IS NULL THEN w.release ELSE p.worker_release END AS worker_release,
           coalesce({ms since p.worker_at}, {ms since w.seen_at}) AS worker_ago,
           ",
            $claimed,
            " AS claimed_for,
           (SELECT k.position FROM {pending} AS k
             WHERE k.consumer = p.consumer AND k.version = p.version
               AND k.slice_from = p.slice_from) AS pending,
           ",
            $crate::backend::pending::kept!(),
            " AS kept,
           {ms until p.retry_at} AS retry_in, {ms since p.updated_at} AS saved_ago,
           {greatest}(
               (SELECT coalesce(max(h.up_to), 0) FROM {handled} AS h
                 WHERE h.consumer = p.consumer AND h.slice_from < p.slice_to
                   AND h.slice_to > p.slice_from),
               (SELECT coalesce(max(o.position), 0) FROM {progress} AS o
                 WHERE o.consumer = p.consumer AND o.version < p.version)) AS replay_to,
           (SELECT count(*) FROM {parked} AS k
             WHERE k.consumer = p.consumer AND k.version = p.version
               AND k.slice >= p.slice_from AND k.slice < p.slice_to) AS parked,
           (SELECT count(*) FROM (
               SELECT DISTINCT aggregate_type, aggregate_id FROM {parked} AS k
                WHERE k.consumer = p.consumer AND k.version = p.version
                  AND k.slice >= p.slice_from AND k.slice < p.slice_to) AS k) AS parked_aggregates
      FROM {progress} AS p
      LEFT JOIN {workers} AS w
        ON w.consumer = p.consumer AND w.version = p.version AND w.slice_from = p.slice_from
     WHERE NOT EXISTS (SELECT 1 FROM {logs} AS l WHERE l.consumer = p.consumer AND l.log <> '{log}')
     ORDER BY p.consumer, p.version, p.slice_from"
        )
    };
}

pub(crate) use rows;

/// A consumer that runs again gets all its attempts, and the last error is gone. It still names the event at which
/// it stopped, as evidence. The epoch keeps out what was read before, which may have been changed to get it
/// going.
const SET_STATE: &str = "
    UPDATE {progress}
       SET state = $3,
           epoch = CASE WHEN $3 = 'running' AND (state <> 'running' OR attempts > 0)
                        THEN epoch + 1 ELSE epoch END,
           attempts = CASE $3 WHEN 'running' THEN 0 ELSE attempts END,
           retry_at = CASE $3 WHEN 'running' THEN NULL ELSE retry_at END,
           error = CASE $3 WHEN 'running' THEN NULL ELSE error END,
           failed_releases = CASE $3 WHEN 'running' THEN NULL ELSE failed_releases END,
           updated_at = {now}
     WHERE consumer = $1 AND version = $2";

/// Moves a row past the event at which it stopped, or before which it waits for a release.
const PASS: &str = "
    UPDATE {progress}
       SET position = $4, state = 'running', epoch = epoch + 1, attempts = 0, retry_at = NULL,
           failed_position = CASE WHEN failed_position > $4 THEN failed_position END,
           error = NULL, failed_releases = NULL, updated_at = {now}
     WHERE consumer = $1 AND version = $2 AND slice_from = $3
       AND ((state = 'stopped' AND failed_position = $4)
            OR (state = 'running' AND unknown_position = $4))";

/// The ledger has what the row has handled.
const REWIND: &str = "
    UPDATE {progress}
       SET began = 0, position = 0, epoch = epoch + 1,
           state = CASE state WHEN 'paused' THEN state ELSE 'running' END,
           attempts = 0, retry_at = NULL, failed_position = NULL, error = NULL,
           failed_releases = NULL, scope = coalesce($3, scope), unknown_position = NULL,
           updated_at = {now}
     WHERE consumer = $1 AND version = $2";

/// The epoch keeps out what was read with the old scope.
const SET_SCOPE: &str = "
    UPDATE {progress}
       SET scope = $3, epoch = epoch + 1, unknown_position = NULL, updated_at = {now}
     WHERE consumer = $1 AND version = $2";

const PARKED: &str = "
    SELECT position, aggregate_type, aggregate_id, reason, attempts, error,
           {ms since parked_at} AS parked_ago
      FROM {parked} WHERE consumer = $1 AND version = $2 AND position > $3
     ORDER BY position LIMIT $4";

const UNPARK: &str = "DELETE FROM {parked} WHERE consumer = $1 AND version = $2 AND position = $3";

const BLAME: &str = "
    UPDATE {parked} SET reason = 'failed', attempts = attempts + 1, error = {message $4}
     WHERE consumer = $1 AND version = $2 AND position = $3";

const FORGET: &str = "DELETE FROM {progress} WHERE consumer = $1 AND version = $2";

const FORGET_PARKED: &str = "DELETE FROM {parked} WHERE consumer = $1 AND version = $2";

const FORGET_WORKERS: &str = "DELETE FROM {workers} WHERE consumer = $1 AND version = $2";

const FORGET_ACTIVE: &str = "DELETE FROM {active} WHERE consumer = $1 AND version = $2";

const ACTIVE: &str = "
    SELECT consumer, version FROM {active} AS a
     WHERE NOT EXISTS (SELECT 1 FROM {logs} AS l WHERE l.consumer = a.consumer AND l.log <> '{log}')";

/// Of the log's own consumers: others have an event of their own at that position.
const REDACT_PARKED: &str = "
    UPDATE {parked} SET error = 'the event was redacted after this failure'
     WHERE position = $1 AND error IS NOT NULL
       AND NOT EXISTS (SELECT 1 FROM {logs} AS l
                        WHERE l.consumer = {parked}.consumer AND l.log <> '{log}')";

const REDACT_FAILED: &str = "
    UPDATE {progress} SET error = 'the event was redacted after this failure'
     WHERE failed_position = $1 AND error IS NOT NULL
       AND NOT EXISTS (SELECT 1 FROM {logs} AS l
                        WHERE l.consumer = {progress}.consumer AND l.log <> '{log}')";

pub(super) const ACTIVATE: &str = "
    INSERT INTO {active} (consumer, version, activated_at) VALUES ($1, $2, {now})
    ON CONFLICT (consumer) DO UPDATE
    SET version = excluded.version, activated_at = excluded.activated_at";

statements! {
    /// The operator's statements, with the names of the mapping.
    pub OperateStatements for DB: Operate {
        rows: DB::ROWS,
        lock: DB::LOCK,
        set_state: SET_STATE,
        pass: PASS,
        rewind: REWIND,
        set_scope: SET_SCOPE,
        parked: PARKED,
        unpark: UNPARK,
        keep_unparked: KEEP_UNPARKED,
        fold: FOLD,
        folded: FOLDED,
        compact: COMPACT,
        blame: BLAME,
        forget: FORGET,
        forget_parked: FORGET_PARKED,
        forget_pending: FORGET_PENDING,
        keep_all: KEEP_ALL,
        keep_unhandled: KEEP_UNHANDLED,
        forget_found: FORGET_FOUND,
        forget_workers: FORGET_WORKERS,
        forget_active: FORGET_ACTIVE,
        redact_parked: REDACT_PARKED,
        redact_failed: REDACT_FAILED,
        retire_forgotten: RETIRE_FORGOTTEN,
        active: ACTIVE,
        activate: ACTIVATE,
    }
}

impl OperateStatements {
    fn folding(&self) -> Folding<'_> {
        Folding {
            fold: &self.fold,
            folded: &self.folded,
            compact: &self.compact,
        }
    }
}

/// The requirements of an operator's commands on a database.
///
/// SQL that is the same in both dialects is written here; a database adds the rest.
pub trait Operate: Driver {
    /// The [`rows`] with how this database tells of claims.
    const ROWS: &'static str;

    /// Locks the rows of version `$2` of consumer `$1`.
    const LOCK: &'static str;

    /// Renders the statements.
    fn operate_statements(settings: &StoreSettings) -> OperateStatements {
        OperateStatements::new::<Self>(settings)
    }

    /// Reads the checkpoint rows of the log, with the counts of their parked events.
    fn rows(
        sql: &OperateStatements,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Vec<Row>, sqlx::Error>> + Send {
        async move {
            let rows = sql.rows.on::<Self>().fetch_all(connection).await?;
            rows.iter().map(Row::decode::<Self>).collect()
        }
    }

    /// Locks the rows of one version of a consumer in the caller's transaction, waiting for their
    /// owners for at most `wait`.
    fn lock(
        sql: &OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
        wait: Duration,
    ) -> impl Future<Output = Result<Lock, sqlx::Error>> + Send;

    /// Whether the transaction still is the one that locked the rows, after code that could have ended it:
    /// the next statements would be committed one by one. What is left of one in which a statement failed
    /// counts as the same.
    fn is_same_transaction(
        connection: &mut Self::Connection,
        taken: &Taken,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Allows the transaction to commit; false when it is not the one that locked the rows.
    fn release(
        connection: &mut Self::Connection,
        taken: &Taken,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Sets the state and clears the attempts.
    fn set_state(
        sql: &OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
        state: State,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        let set_state = on_consumer::<Self>(&sql.set_state, of).bind(state.as_str());
        run::<Self>(set_state, connection)
    }

    /// Moves a row past the event at which it stopped, or before which it waits for a release; only under
    /// the lock of the rows.
    fn pass(
        sql: &OperateStatements,
        connection: &mut Self::Connection,
        key: &SegmentId,
        position: i64,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        run::<Self>(on_row::<Self>(&sql.pass, key).bind(position), connection)
    }

    /// Moves the checkpoint back to the beginning and removes what is parked; writes another scope
    /// into the rows if one is given. What was yet to be handled is still missed if it was deleted.
    fn rewind(
        sql: &OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
        scope: Option<&str>,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        let rewind = on_consumer::<Self>(&sql.rewind, of).bind(scope);
        let forget_parked = on_consumer::<Self>(&sql.forget_parked, of);
        async move {
            fold::<Self>(sql.folding(), connection, of, all_slices()).await?;
            keep_pending::<Self>([&sql.keep_unhandled, &sql.forget_found], connection, of).await?;
            run::<Self>(rewind, connection).await?;
            run::<Self>(forget_parked, connection).await
        }
    }

    /// Writes another scope into the rows.
    fn set_scope(
        sql: &OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
        scope: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        let set_scope = on_consumer::<Self>(&sql.set_scope, of).bind(scope);
        async move {
            // With the scope in which it was handled.
            fold::<Self>(sql.folding(), connection, of, all_slices()).await?;
            keep_pending::<Self>([&sql.keep_all, &sql.forget_found], connection, of).await?;
            run::<Self>(set_scope, connection).await
        }
    }

    /// Reads the parked events, in the order of the log.
    fn parked(
        sql: &OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
    ) -> impl Future<Output = Result<Vec<ParkedRow>, sqlx::Error>> + Send {
        Self::parked_after(sql, connection, of, i64::MIN, i64::MAX)
    }

    /// Reads up to `limit` parked events after a position, in the order of the log.
    fn parked_after(
        sql: &OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
        after: i64,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<ParkedRow>, sqlx::Error>> + Send {
        let query = on_consumer::<Self>(&sql.parked, of).bind(after).bind(limit);
        async move {
            let rows = query.fetch_all(connection).await?;
            rows.iter().map(ParkedRow::decode::<Self>).collect()
        }
    }

    /// Removes a parked event and returns whether it was there; only under the lock of the rows.
    fn unpark(
        sql: &OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
        position: i64,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send {
        let keep = on_consumer::<Self>(&sql.keep_unparked, of).bind(position);
        let unpark = on_consumer::<Self>(&sql.unpark, of).bind(position);
        async move {
            keep.execute(connection).await?;
            Ok(unpark.execute(connection).await? == 1)
        }
    }

    /// Records that a parked event failed again; only under the lock of the rows.
    fn blame(
        sql: &OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
        position: i64,
        error: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        let query = on_consumer::<Self>(&sql.blame, of)
            .bind(position)
            .bind_message(Some(error));
        run::<Self>(query, connection)
    }

    /// Removes the rows, what is parked, and the record that this version is active.
    fn forget(
        sql: &OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        async move {
            fold::<Self>(sql.folding(), connection, of, all_slices()).await?;
            let forget = [
                &sql.forget_parked,
                &sql.forget_pending,
                &sql.forget_workers,
                &sql.forget_active,
                &sql.forget,
            ];
            for statement in forget {
                run::<Self>(on_consumer::<Self>(statement, of), connection).await?;
            }
            Ok(())
        }
    }

    /// Replaces the errors of consumers that failed on an event, waiting for those that handle it.
    fn redact_errors(
        sql: &OperateStatements,
        connection: &mut Self::Connection,
        position: i64,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        let redact = [&sql.redact_parked, &sql.redact_failed];
        let redact = redact.map(|statement| statement.on::<Self>().bind(position));
        async move {
            for statement in redact {
                run::<Self>(statement, connection).await?;
            }
            Ok(())
        }
    }

    /// Lets no checkpoint of a consumer that is being forgotten be created again.
    fn retire(
        sql: &OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        run::<Self>(on_consumer::<Self>(&sql.retire_forgotten, of), connection)
    }

    /// The active version of each consumer that has one.
    fn active(
        sql: &OperateStatements,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Vec<ConsumerId>, sqlx::Error>> + Send {
        async move {
            let rows = sql.active.on::<Self>().fetch_all(connection).await?;
            rows.iter().map(ConsumerId::decode::<Self>).collect()
        }
    }

    /// Makes a version the active one.
    fn activate(
        sql: &OperateStatements,
        connection: &mut Self::Connection,
        of: &ConsumerId,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        run::<Self>(on_consumer::<Self>(&sql.activate, of), connection)
    }
}

/// Keeps events that the rows of a version have yet to handle as evidence, and lets workers find others.
async fn keep_pending<DB: Driver>(
    keep_and_forget: [&Sql; 2],
    connection: &mut DB::Connection,
    of: &ConsumerId,
) -> Result<(), sqlx::Error> {
    for statement in keep_and_forget {
        run::<DB>(on_consumer(statement, of), connection).await?;
    }
    Ok(())
}

/// Runs a statement whose result does not matter.
async fn run<DB: Driver>(
    statement: Statement<DB>,
    connection: &mut DB::Connection,
) -> Result<(), sqlx::Error> {
    statement.execute(connection).await.map(drop)
}
