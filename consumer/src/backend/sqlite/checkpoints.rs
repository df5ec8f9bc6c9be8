//! Checkpoints on SQLite: claims, saves, parked events.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Executor as _, Row as _};

use super::hooks::{self, HookGuard};
use super::rows;
use crate::backend::checkpoints::HOLD_FOR;
use crate::backend::sql::statements;
use crate::backend::{
    Advance, Aggregate, Checkpoint, Checkpoints, Claim, ConsumerId, Enrolment, Incarnation,
    NewCheckpoint, OnThread, Parking, SegmentId, Sql, StoreSettings, aggregate_slice,
};

/// The present, as our tables have it: Unix milliseconds.
macro_rules! now {
    () => {
        "CAST(unixepoch('subsec') * 1000 AS INTEGER)"
    };
}

/// Where a row is to wait for its neighbour: whoever merges them says so again and again, so that
/// nobody waits for one who is gone.
macro_rules! held {
    () => {
        concat!("CASE WHEN hold_until > ", now!(), " THEN hold_at END")
    };
}

/// Reads a checkpoint row. The transaction, begun IMMEDIATE, is the lock: there is one writer.
const CLAIM: &str = concat!(
    "UPDATE {progress} SET claims = claims + 1
      WHERE consumer = ?1 AND version = ?2 AND slice_from = ?3
  RETURNING slice_to, position, epoch, scope, state, replay_to, ",
    held!(),
    " AS hold_at, attempts, retry_at - ",
    now!(),
    " AS retry_in, failed_position, error,
            EXISTS (SELECT 1 FROM {parked} AS k
                     WHERE k.consumer = ?1 AND k.version = ?2) AS parked"
);

const SAVE: &str = concat!(
    "UPDATE {progress}
        SET position = ?4, state = ?5, attempts = ?6, retry_at = ",
    now!(),
    " + ?7, failed_position = ?8, error = ?9, updated_at = ",
    now!(),
    " WHERE consumer = ?1 AND version = ?2 AND slice_from = ?3
        AND position = ?10 AND epoch = ?11"
);

const ENROLL: &str = concat!(
    "WITH RECURSIVE piece (slice) AS (
         SELECT 0 UNION ALL SELECT slice + ?3 FROM piece WHERE slice + ?3 < 1024)
     INSERT INTO {progress} (consumer, version, slice_from, slice_to, scope, position, replay_to,
                             updated_at)
     SELECT ?1, ?2, slice, slice + ?3, ?4, ?5, (
            -- What another version has handled is a replay: its effects have been had.
            SELECT coalesce(max(max(position, replay_to)), 0) FROM {progress}
             WHERE consumer = ?1 AND version <> ?2), ",
    now!(),
    " FROM piece
      WHERE NOT EXISTS (SELECT 1 FROM {progress} WHERE consumer = ?1 AND version = ?2)"
);

const TRY_AGAIN: &str = "
    UPDATE {progress} SET state = 'running', attempts = 0, retry_at = NULL
     WHERE consumer = ?1 AND version = ?2 AND state = 'stopped'";

const ROWS: &str = "
    SELECT consumer, version, slice_from, slice_to, position, epoch, scope, state, replay_to, hold_at,
           attempts, failed_position, error FROM {progress}
     WHERE consumer = ?1 AND version = ?2 AND slice_from IN (?3, ?4)
     ORDER BY slice_from";

/// The new half is a copy: whatever waits for a retry waits in both, and the half without the
/// failed event forgets it when it first saves. Neither waits for a neighbour any more.
const COPY_HALF: &str = "
    INSERT INTO {progress} (consumer, version, slice_from, slice_to, position, epoch, scope, state,
                            replay_to, attempts, retry_at, failed_position, error, updated_at)
    SELECT consumer, version, ?4, slice_to, position, epoch, scope, state,
           replay_to, attempts, retry_at, failed_position, error, updated_at
      FROM {progress}
     WHERE consumer = ?1 AND version = ?2 AND slice_from = ?3 AND slice_to > ?4";

const RESIZE: &str = "
    UPDATE {progress} SET slice_to = ?4, hold_until = NULL
     WHERE consumer = ?1 AND version = ?2 AND slice_from = ?3";

const HOLD: &str = concat!(
    "UPDATE {progress} SET hold_at = ?5, hold_until = ",
    now!(),
    " + ?6
     WHERE consumer = ?1 AND version = ?2 AND slice_from IN (?3, ?4)"
);

/// Whatever one of the two waits for a retry of may come later than what the other has before it.
const MERGED: &str = "
    UPDATE {progress}
       SET slice_to = ?4, hold_until = NULL, attempts = 0, retry_at = NULL, failed_position = NULL,
           error = NULL
     WHERE consumer = ?1 AND version = ?2 AND slice_from = ?3";

const REMOVE: &str = "
    DELETE FROM {progress} WHERE consumer = ?1 AND version = ?2 AND slice_from = ?3";

const SNAPSHOT: &str = concat!(
    "SELECT consumer, version, slice_from, slice_to, position, epoch, scope, state, replay_to, ",
    held!(),
    " AS hold_at, attempts, failed_position, error
      FROM {progress}"
);

/// Those of a row's slices. All of them: one that was left out would be handled out of order.
const PARKED_AGGREGATES: &str = "
    SELECT DISTINCT aggregate_type, aggregate_id FROM {parked}
     WHERE consumer = ?1 AND version = ?2 AND slice >= ?3 AND slice < ?4";

const COUNT_PARKED: &str = "
    SELECT count(*) FROM (
        SELECT DISTINCT aggregate_type, aggregate_id FROM {parked}
         WHERE consumer = ?1 AND version = ?2 LIMIT ?3)";

const PARKED_COUNTS: &str = "
    SELECT consumer, version, count(*) AS events FROM {parked} GROUP BY consumer, version";

const PARK: &str = concat!(
    "INSERT INTO {parked} (consumer, version, aggregate_type, aggregate_id, position, slice, reason,
                          attempts, error, parked_at)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ",
    now!(),
    ") ON CONFLICT (consumer, version, position) DO NOTHING"
);

const ADVANCE: &str = concat!(
    "UPDATE {progress} SET position = min(?6, coalesce(",
    held!(),
    ", ?6)), updated_at = ",
    now!(),
    " WHERE consumer = ?1 AND version = ?2 AND slice_from = ?3 AND epoch = ?4 AND slice_to = ?7
        AND state = 'running' AND attempts = 0 AND position >= ?5
        AND position < min(?6, coalesce(",
    held!(),
    ", ?6))"
);

statements! {
    /// The worker's statements, with the names of the schema.
    pub SqliteStatements {
        claim: CLAIM,
        save: SAVE,
        enroll: ENROLL,
        try_again: TRY_AGAIN,
        rows: ROWS,
        copy_half: COPY_HALF,
        resize: RESIZE,
        hold: HOLD,
        merged: MERGED,
        remove: REMOVE,
        snapshot: SNAPSHOT,
        advance: ADVANCE,
        parked_aggregates: PARKED_AGGREGATES,
        count_parked: COUNT_PARKED,
        parked_counts: PARKED_COUNTS,
        park: PARK,
    }
}

impl Checkpoints for Sqlite {
    type Guard = HookGuard;
    type CheckpointStatements = SqliteStatements;

    fn checkpoint_statements(settings: &StoreSettings) -> SqliteStatements {
        SqliteStatements::new(settings)
    }

    const HOLDS_CLAIMS: bool = false;
    const WRITERS: Option<usize> = Some(1);
    const LANES_ON_ONE_CORE: bool = true;
    // Whoever else writes to the file waits for each transaction, which costs little here.
    const MOST_BATCHES: usize = 1;
    // Taking the write lock at once keeps two writers from reading first and then failing to
    // become writers.
    const BEGIN_BATCH: &'static str = "BEGIN IMMEDIATE";
    const BEGIN_READ: &'static str = "BEGIN";

    async fn guard(
        connection: &mut PoolConnection<Self>,
        on_thread: Option<OnThread>,
    ) -> Result<HookGuard, sqlx::Error> {
        HookGuard::install(connection, on_thread).await
    }

    async fn on_thread(
        connection: &mut PoolConnection<Self>,
        on_thread: OnThread,
    ) -> Result<(), sqlx::Error> {
        hooks::call_once(connection, on_thread).await
    }

    async fn enroll(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
        enrolments: &[Enrolment],
        settled: i64,
    ) -> Result<(), sqlx::Error> {
        let mut tx = connection.begin_with(Self::BEGIN_BATCH).await?;
        for enrolment in enrolments {
            statements
                .enroll
                .query()
                .bind(&*enrolment.consumer.name)
                .bind(enrolment.consumer.version_column())
                .bind(enrolment.width)
                .bind(&*enrolment.scope)
                .bind(enrolment.position(settled))
                .execute(&mut *tx)
                .await?;
            statements
                .try_again
                .query()
                .bind(&*enrolment.consumer.name)
                .bind(enrolment.consumer.version_column())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await
    }

    async fn split(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
        key: &SegmentId,
        at: i32,
    ) -> Result<bool, sqlx::Error> {
        let mut tx = connection.begin_with(Self::BEGIN_BATCH).await?;
        let copied = on_row(&statements.copy_half, key)
            .bind(at)
            .execute(&mut *tx)
            .await?;
        if copied.rows_affected() == 0 {
            tx.rollback().await?;
            return Ok(false);
        }
        on_row(&statements.resize, key)
            .bind(at)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn hold(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
        left: &SegmentId,
        right: &SegmentId,
    ) -> Result<(), sqlx::Error> {
        let mut tx = connection.begin_with(Self::BEGIN_BATCH).await?;
        let rows = rows(statements, &mut tx, left, right).await?;
        let ahead = rows.iter().map(|row| row.position).max();
        on_row(&statements.hold, left)
            .bind(right.slice_from)
            .bind(ahead)
            .bind(i64::try_from(HOLD_FOR.as_millis()).unwrap_or(i64::MAX / 2))
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }

    async fn merge(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
        left: &SegmentId,
        right: &SegmentId,
    ) -> Result<bool, sqlx::Error> {
        let mut tx = connection.begin_with(Self::BEGIN_BATCH).await?;
        let rows = rows(statements, &mut tx, left, right).await?;
        let Some(slice_to) = Checkpoint::merged(&rows) else {
            tx.rollback().await?;
            return Ok(false);
        };
        on_row(&statements.remove, right).execute(&mut *tx).await?;
        on_row(&statements.merged, left)
            .bind(slice_to)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn snapshot(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
    ) -> Result<Vec<Checkpoint>, sqlx::Error> {
        let rows = statements.snapshot.query().fetch_all(connection).await?;
        rows.iter().map(rows::checkpoint).collect()
    }

    async fn claim(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
        key: &SegmentId,
        _timeout: Duration,
    ) -> Result<Option<Claim>, sqlx::Error> {
        let row = statements
            .claim
            .query()
            .bind(&*key.consumer.name)
            .bind(key.consumer.version_column())
            .bind(key.slice_from)
            .fetch_optional(connection)
            .await?;
        row.as_ref().map(|row| claim(row, key)).transpose()
    }

    async fn save(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
        key: &SegmentId,
        claim: &Claim,
        new: &NewCheckpoint,
    ) -> Result<bool, sqlx::Error> {
        let failure = new.failure.as_ref();
        let saved = statements
            .save
            .query()
            .bind(&*key.consumer.name)
            .bind(key.consumer.version_column())
            .bind(key.slice_from)
            .bind(new.position)
            .bind(new.state.as_str())
            .bind(failure.map_or(0, |failure| failure.attempts))
            .bind(failure.map(|f| i64::try_from(f.retry_in.as_millis()).unwrap_or(i64::MAX / 2)))
            .bind(failure.map(|failure| failure.position))
            .bind(failure.map(|failure| failure.error.as_str()))
            .bind(claim.checkpoint.position)
            .bind(claim.checkpoint.epoch)
            .execute(connection)
            .await?;
        Ok(saved.rows_affected() == 1)
    }

    async fn parked_aggregates(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
        key: &SegmentId,
        slice_to: i32,
    ) -> Result<Vec<Aggregate>, sqlx::Error> {
        let rows = on_row(&statements.parked_aggregates, key)
            .bind(slice_to)
            .fetch_all(connection)
            .await?;
        rows.iter().map(rows::aggregate).collect()
    }

    async fn count_parked(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
        key: &SegmentId,
        limit: i64,
    ) -> Result<i64, sqlx::Error> {
        statements
            .count_parked
            .scalar()
            .bind(&*key.consumer.name)
            .bind(key.consumer.version_column())
            .bind(limit)
            .fetch_one(connection)
            .await
    }

    async fn parked_counts(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
    ) -> Result<Vec<(ConsumerId, i64)>, sqlx::Error> {
        let rows = sqlx::raw_sql(statements.parked_counts.safe())
            .fetch_all(connection)
            .await?;
        rows.iter()
            .map(|row| Ok((rows::consumer_id(row)?, row.try_get("events")?)))
            .collect()
    }

    async fn park(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
        key: &SegmentId,
        events: &[Parking<'_>],
    ) -> Result<(), sqlx::Error> {
        for parking in events {
            statements
                .park
                .query()
                .bind(&*key.consumer.name)
                .bind(key.consumer.version_column())
                .bind(&*parking.event.aggregate_type)
                .bind(&parking.event.aggregate_id)
                .bind(parking.event.global_position)
                .bind(aggregate_slice(&parking.event.aggregate_id))
                .bind(parking.reason())
                .bind(parking.attempts())
                .bind(parking.failure.map(|(_, error)| error))
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    async fn advance(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
        _life: Incarnation,
        moves: &[Advance],
    ) -> Result<(), sqlx::Error> {
        for m in moves {
            statements
                .advance
                .query()
                .bind(&*m.key.consumer.name)
                .bind(m.key.consumer.version_column())
                .bind(m.key.slice_from)
                .bind(m.epoch)
                .bind(m.from)
                .bind(m.to)
                .bind(m.slice_to)
                .execute(&mut *connection)
                .await?;
        }
        Ok(())
    }

    async fn has_left(_connection: &mut SqliteConnection, _claim: &Claim) -> bool {
        false
    }

    async fn touch(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        connection.execute("SELECT 1").await.map(drop)
    }

    async fn terminate(
        _connection: &mut SqliteConnection,
        _backend: i32,
    ) -> Result<(), sqlx::Error> {
        // There is no server: the guard of the connection ends the statement.
        Ok(())
    }

    fn is_infrastructure(error: &dyn DatabaseError) -> bool {
        const BUSY: i64 = 5;
        const LOCKED: i64 = 6;
        const IOERR: i64 = 10;
        const FULL: i64 = 13;
        matches!(primary_code(error), Some(BUSY | LOCKED | IOERR | FULL))
    }

    fn is_claim_timeout(_: &dyn DatabaseError) -> bool {
        false
    }

    fn is_aborted_transaction(_error: &dyn DatabaseError) -> bool {
        false
    }

    fn is_refused_commit(error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| code == "531")
    }
}

type SqliteQuery<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// Starts a statement whose first three parameters are the key of a row.
fn on_row<'q>(statement: &Sql, key: &'q SegmentId) -> SqliteQuery<'q> {
    statement
        .query()
        .bind(&*key.consumer.name)
        .bind(key.consumer.version_column())
        .bind(key.slice_from)
}

/// Reads two rows of one consumer; the transaction has locked them, and all others.
async fn rows(
    statements: &SqliteStatements,
    connection: &mut SqliteConnection,
    left: &SegmentId,
    right: &SegmentId,
) -> Result<Vec<Checkpoint>, sqlx::Error> {
    let rows = on_row(&statements.rows, left)
        .bind(right.slice_from)
        .fetch_all(connection)
        .await?;
    rows.iter().map(rows::checkpoint).collect()
}

/// The first byte of an extended result code.
fn primary_code(error: &dyn DatabaseError) -> Option<i64> {
    error.code()?.parse::<i64>().ok().map(|code| code & 0xff)
}

fn claim(row: &SqliteRow, key: &SegmentId) -> Result<Claim, sqlx::Error> {
    Ok(Claim {
        checkpoint: rows::checkpoint_of(row, key.clone())?,
        retry_in: rows::retry_in(row)?,
        parked: row.try_get("parked")?,
        incarnation: Incarnation::default(),
        backend: 0,
        transaction: String::new(),
    })
}
