//! Checkpoints on Postgres: claims, saves, parked events.

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres};
use sqlx::{Connection as _, Executor as _, Row as _};

use super::connect::{BEGIN_READ, BEGIN_WRITE, fill_in, incarnation, server_incarnation};
use super::rows;
use crate::backend::checkpoints::HOLD_FOR;
use crate::backend::sql::statements;
use crate::backend::{
    Advance, Aggregate, Checkpoint, Checkpoints, Claim, ConsumerId, Enrolment, Incarnation,
    NewCheckpoint, OnThread, Parking, SegmentId, Sql, StoreSettings, TransactionGuard,
    aggregate_slice,
};

/// Where a row is to wait for its neighbour: whoever merges them says so again and again, so that
/// nobody waits for one who is gone.
macro_rules! held {
    ($row:literal) => {
        concat!(
            "CASE WHEN ",
            $row,
            "hold_until > clock_timestamp() THEN ",
            $row,
            "hold_at END"
        )
    };
}

/// Like [`BEGIN_WRITE`], for a transaction that begins with a claim, before which it holds nothing.
const BEGIN_CLAIM: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// Claims a checkpoint row, or returns nothing when somebody else has it.
///
/// The update, rather than a bare lock, is what arms the deferred trigger that refuses a commit
/// before the checkpoint is saved (R4). The timeouts, for this transaction only, end the claim of a
/// process that froze or is behind a cut network: one that has said nothing for so long, one that
/// takes no answer, and one that is gone while its statement runs.
const CLAIM: &str = concat!(
    "UPDATE {progress} AS p SET claims = p.claims + 1
      WHERE (p.consumer, p.version, p.slice_from) = (
            SELECT consumer, version, slice_from FROM {progress}
             WHERE consumer = $1 AND version = $2 AND slice_from = $3
               FOR UPDATE SKIP LOCKED)
  RETURNING p.slice_to, p.position, p.epoch, p.scope, p.state, p.replay_to, ",
    held!("p."),
    " AS hold_at, p.attempts,
            (extract(epoch FROM p.retry_at - clock_timestamp()) * 1000)::bigint AS retry_in,
            p.failed_position, p.error, pg_backend_pid() AS backend,
            EXISTS (SELECT FROM {parked} AS k
                     WHERE k.consumer = p.consumer AND k.version = p.version) AS parked,
            pg_current_xact_id()::text AS transaction,
            set_config('idle_in_transaction_session_timeout', $4, true),
            set_config('tcp_user_timeout', $4, true),
            CASE WHEN current_setting('server_version_num')::int >= 140000
                 THEN set_config('client_connection_check_interval', $4, true) END, ",
    server_incarnation!()
);

/// Saves a checkpoint. The transaction id tells whether a handler rolled back, or committed, and
/// went on; the setting, which ends with the transaction, is what the deferred trigger wants.
const SAVE: &str = "
    WITH saved AS (
        UPDATE {progress}
           SET position = $4, state = $5, attempts = $6,
               retry_at = clock_timestamp() + $7 * interval '1 millisecond',
               failed_position = $8, error = $9, updated_at = clock_timestamp()
         WHERE consumer = $1 AND version = $2 AND slice_from = $3
           AND position = $10 AND epoch = $11
           AND pg_current_xact_id()::text = $12
     RETURNING 1)
    SELECT set_config('consumer.saved', pg_current_xact_id()::text, true) FROM saved";

/// Any number that nobody else is likely to lock; keeps two workers with different settings from
/// making rows that overlap.
const ENROLL_LOCK: &str = "SELECT pg_advisory_xact_lock(7166182912370463010)";

const ENROLL: &str = "
    INSERT INTO {progress} (consumer, version, slice_from, slice_to, scope, position, replay_to)
    SELECT $1, $2, slice, slice + $3, $4, $5, (
           -- What another version has handled is a replay: its effects have been had.
           SELECT coalesce(max(greatest(position, replay_to)), 0) FROM {progress}
            WHERE consumer = $1 AND version <> $2)
      FROM generate_series(0, 1023, $3) AS slice
     WHERE NOT EXISTS (SELECT FROM {progress} WHERE consumer = $1 AND version = $2)";

const TRY_AGAIN: &str = "
    UPDATE {progress} SET state = 'running', attempts = 0, retry_at = NULL
     WHERE (consumer, version) IN (SELECT * FROM UNNEST($1::text[], $2::int[])) AND state = 'stopped'";

/// How long to wait for whoever has claimed a row that is to be divided.
const SHORT_WAIT: &str = "SET LOCAL lock_timeout = '2s'";

const LOCK_ROWS: &str = "
    SELECT consumer, version, slice_from, slice_to, position, epoch, scope, state, replay_to, hold_at,
           attempts, failed_position, error FROM {progress}
     WHERE consumer = $1 AND version = $2 AND slice_from IN ($3, $4)
     ORDER BY slice_from FOR UPDATE";

/// The new half is a copy: whatever waits for a retry waits in both, and the half without the
/// failed event forgets it when it first saves. Neither waits for a neighbour any more.
const COPY_HALF: &str = "
    INSERT INTO {progress} (consumer, version, slice_from, slice_to, position, epoch, scope, state,
                            replay_to, attempts, retry_at, failed_position, error)
    SELECT consumer, version, $4, slice_to, position, epoch, scope, state,
           replay_to, attempts, retry_at, failed_position, error
      FROM {progress}
     WHERE consumer = $1 AND version = $2 AND slice_from = $3 AND slice_to > $4";

const RESIZE: &str = "
    UPDATE {progress} SET slice_to = $4, hold_until = NULL, updated_at = clock_timestamp()
     WHERE consumer = $1 AND version = $2 AND slice_from = $3";

const HOLD: &str = "
    UPDATE {progress}
       SET hold_at = $5, hold_until = clock_timestamp() + $6 * interval '1 millisecond'
     WHERE consumer = $1 AND version = $2 AND slice_from IN ($3, $4)";

/// Whatever one of the two waits for a retry of may come later than what the other has before it.
const MERGED: &str = "
    UPDATE {progress}
       SET slice_to = $4, hold_until = NULL, attempts = 0, retry_at = NULL, failed_position = NULL,
           error = NULL, updated_at = clock_timestamp()
     WHERE consumer = $1 AND version = $2 AND slice_from = $3";

const REMOVE: &str = "
    DELETE FROM {progress} WHERE consumer = $1 AND version = $2 AND slice_from = $3";

const SNAPSHOT: &str = concat!(
    "SELECT consumer, version, slice_from, slice_to, position, epoch, scope, state, replay_to, ",
    held!(""),
    " AS hold_at, attempts, failed_position, error
      FROM {progress}"
);

/// Those of a row's slices. All of them: one that was left out would be handled out of order.
const PARKED_AGGREGATES: &str = "
    SELECT DISTINCT aggregate_type, aggregate_id FROM {parked}
     WHERE consumer = $1 AND version = $2 AND slice >= $3 AND slice < $4";

const COUNT_PARKED: &str = "
    SELECT count(*) FROM (
        SELECT DISTINCT aggregate_type, aggregate_id FROM {parked}
         WHERE consumer = $1 AND version = $2 LIMIT $3) AS parked";

const PARKED_COUNTS: &str = "
    SELECT consumer, version, count(*) AS events FROM {parked} GROUP BY consumer, version";

const PARK: &str = "
    INSERT INTO {parked} (consumer, version, aggregate_type, aggregate_id, position, slice, reason,
                          attempts, error)
    SELECT $1, $2, e.* FROM UNNEST($3::text[], $4::text[], $5::bigint[], $6::int[], $7::text[],
                                   $8::int[], $9::text[]) AS e
    ON CONFLICT (consumer, version, position) DO NOTHING";

/// Rows that somebody has claimed are left to him: he moves them himself.
///
/// What was seen in another incarnation of the server moves nothing: a pooler keeps our connection while
/// the server behind it crashes.
const ADVANCE: &str = concat!(
    "WITH move AS (
        SELECT * FROM UNNEST($1::text[], $2::int[], $3::int[], $4::bigint[], $5::bigint[],
                             $6::bigint[], $7::int[])
            AS m (consumer, version, slice_from, epoch, low, high, slice_to)),
    free AS (
        SELECT p.consumer, p.version, p.slice_from, LEAST(m.high, ",
    held!("p."),
    ") AS high
          FROM {progress} AS p JOIN move AS m USING (consumer, version, slice_from)
         WHERE p.epoch = m.epoch AND p.slice_to = m.slice_to AND p.state = 'running' AND p.attempts = 0
           AND p.position >= m.low AND p.position < LEAST(m.high, ",
    held!("p."),
    ") AND ",
    server_incarnation!(is "$8", "$9"),
    " FOR UPDATE OF p SKIP LOCKED)
    UPDATE {progress} AS p SET position = free.high, updated_at = clock_timestamp()
      FROM free
     WHERE (p.consumer, p.version, p.slice_from) = (free.consumer, free.version, free.slice_from)"
);

statements! {
    /// The worker's statements, with the names of the schema.
    pub PgStatements {
        claim: CLAIM,
        save: SAVE,
        enroll: ENROLL,
        try_again: TRY_AGAIN,
        lock_rows: LOCK_ROWS,
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

/// A Postgres session needs no guard beside it: the database keeps it.
#[derive(Debug)]
pub struct NoGuard;

impl TransactionGuard for NoGuard {
    fn allow_end(&self, _allowed: bool) {}

    fn give_up(&self) {}

    fn violation(&self) -> Option<&'static str> {
        None
    }
}

impl Checkpoints for Postgres {
    type Guard = NoGuard;
    type CheckpointStatements = PgStatements;

    fn checkpoint_statements(settings: &StoreSettings) -> PgStatements {
        PgStatements::new(settings)
    }

    const HOLDS_CLAIMS: bool = true;
    const WRITERS: Option<usize> = None;
    const LANES_ON_ONE_CORE: bool = false;
    const MOST_BATCHES: usize = 8;
    const BEGIN_BATCH: &'static str = BEGIN_CLAIM;
    const BEGIN_READ: &'static str = BEGIN_READ;

    async fn guard(
        _connection: &mut PoolConnection<Self>,
        _on_thread: Option<OnThread>,
    ) -> Result<NoGuard, sqlx::Error> {
        Ok(NoGuard)
    }

    async fn on_thread(
        _connection: &mut PoolConnection<Self>,
        _on_thread: OnThread,
    ) -> Result<(), sqlx::Error> {
        Ok(())
    }

    async fn enroll(
        statements: &PgStatements,
        connection: &mut PgConnection,
        enrolments: &[Enrolment],
        settled: i64,
    ) -> Result<(), sqlx::Error> {
        let mut tx = connection.begin_with(BEGIN_WRITE).await?;
        tx.execute(ENROLL_LOCK).await?;
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
        }
        let consumers: Vec<&str> = enrolments.iter().map(|one| &*one.consumer.name).collect();
        let versions: Vec<i32> = enrolments
            .iter()
            .map(|one| one.consumer.version_column())
            .collect();
        statements
            .try_again
            .query()
            .bind(consumers)
            .bind(versions)
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }

    async fn split(
        statements: &PgStatements,
        connection: &mut PgConnection,
        key: &SegmentId,
        at: i32,
    ) -> Result<bool, sqlx::Error> {
        let mut tx = connection.begin_with(BEGIN_WRITE).await?;
        tx.execute(SHORT_WAIT).await?;
        lock_rows(statements, &mut tx, key, key).await?;
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
        statements: &PgStatements,
        connection: &mut PgConnection,
        left: &SegmentId,
        right: &SegmentId,
    ) -> Result<(), sqlx::Error> {
        let mut tx = connection.begin_with(BEGIN_WRITE).await?;
        let rows = lock_rows(statements, &mut tx, left, right).await?;
        let ahead = rows.iter().map(|row| row.position).max();
        on_row(&statements.hold, left)
            .bind(right.slice_from)
            .bind(ahead)
            .bind(HOLD_FOR.as_secs_f64() * 1000.0)
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }

    async fn merge(
        statements: &PgStatements,
        connection: &mut PgConnection,
        left: &SegmentId,
        right: &SegmentId,
    ) -> Result<bool, sqlx::Error> {
        let mut tx = connection.begin_with(BEGIN_WRITE).await?;
        let rows = lock_rows(statements, &mut tx, left, right).await?;
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
        statements: &PgStatements,
        connection: &mut PgConnection,
    ) -> Result<Vec<Checkpoint>, sqlx::Error> {
        let rows = sqlx::raw_sql(statements.snapshot.safe())
            .fetch_all(connection)
            .await?;
        rows.iter().map(rows::checkpoint).collect()
    }

    async fn claim(
        statements: &PgStatements,
        connection: &mut PgConnection,
        key: &SegmentId,
        timeout: Duration,
    ) -> Result<Option<Claim>, sqlx::Error> {
        let row = statements
            .claim
            .query()
            .bind(&*key.consumer.name)
            .bind(key.consumer.version_column())
            .bind(key.slice_from)
            .bind(timeout.as_millis().to_string())
            .fetch_optional(connection)
            .await?;
        row.as_ref().map(|row| claim(row, key)).transpose()
    }

    async fn save(
        statements: &PgStatements,
        connection: &mut PgConnection,
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
            .bind(failure.map_or(0, |failure| {
                i32::try_from(failure.attempts).unwrap_or(i32::MAX)
            }))
            .bind(failure.map(|failure| failure.retry_in.as_secs_f64() * 1000.0))
            .bind(failure.map(|failure| failure.position))
            .bind(failure.map(|failure| failure.error.replace('\0', "\u{fffd}")))
            .bind(claim.checkpoint.position)
            .bind(claim.checkpoint.epoch)
            .bind(&claim.transaction)
            .fetch_optional(connection)
            .await?;
        Ok(saved.is_some())
    }

    async fn parked_aggregates(
        statements: &PgStatements,
        connection: &mut PgConnection,
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
        statements: &PgStatements,
        connection: &mut PgConnection,
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
        statements: &PgStatements,
        connection: &mut PgConnection,
    ) -> Result<Vec<(ConsumerId, i64)>, sqlx::Error> {
        let rows = sqlx::raw_sql(statements.parked_counts.safe())
            .fetch_all(connection)
            .await?;
        rows.iter()
            .map(|row| Ok((rows::consumer_id(row)?, row.try_get("events")?)))
            .collect()
    }

    async fn park(
        statements: &PgStatements,
        connection: &mut PgConnection,
        key: &SegmentId,
        events: &[Parking<'_>],
    ) -> Result<(), sqlx::Error> {
        let types: Vec<&str> = events.iter().map(|p| &*p.event.aggregate_type).collect();
        let ids: Vec<&str> = events
            .iter()
            .map(|p| p.event.aggregate_id.as_str())
            .collect();
        let positions: Vec<i64> = events.iter().map(|p| p.event.global_position).collect();
        let slices: Vec<i32> = events
            .iter()
            .map(|p| i32::from(aggregate_slice(&p.event.aggregate_id)))
            .collect();
        let reasons: Vec<&str> = events.iter().map(Parking::reason).collect();
        let attempts: Vec<i32> = events.iter().map(Parking::attempts).collect();
        let errors: Vec<Option<String>> = events
            .iter()
            .map(|p| p.failure.map(|(_, error)| error.replace('\0', "\u{fffd}")))
            .collect();
        statements
            .park
            .query()
            .bind(&*key.consumer.name)
            .bind(key.consumer.version_column())
            .bind(types)
            .bind(ids)
            .bind(positions)
            .bind(slices)
            .bind(reasons)
            .bind(attempts)
            .bind(errors)
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn advance(
        statements: &PgStatements,
        connection: &mut PgConnection,
        incarnation: Incarnation,
        moves: &[Advance],
    ) -> Result<(), sqlx::Error> {
        let consumers: Vec<&str> = moves.iter().map(|m| &*m.key.consumer.name).collect();
        let versions: Vec<i32> = moves
            .iter()
            .map(|m| m.key.consumer.version_column())
            .collect();
        let slices: Vec<i32> = moves.iter().map(|m| m.key.slice_from).collect();
        let epochs: Vec<i64> = moves.iter().map(|m| m.epoch).collect();
        let lows: Vec<i64> = moves.iter().map(|m| m.from).collect();
        let ends: Vec<i32> = moves.iter().map(|m| m.slice_to).collect();
        let highs: Vec<i64> = moves.iter().map(|m| m.to).collect();
        let mut tx = connection.begin_with(BEGIN_WRITE).await?;
        statements
            .advance
            .query()
            .bind(consumers)
            .bind(versions)
            .bind(slices)
            .bind(epochs)
            .bind(lows)
            .bind(highs)
            .bind(ends)
            .bind(incarnation.started)
            .bind(incarnation.recovered)
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }

    async fn has_left(connection: &mut PgConnection, claim: &Claim) -> bool {
        let current = sqlx::raw_sql("SELECT pg_current_xact_id_if_assigned()::text")
            .fetch_one(connection)
            .await
            .and_then(|row| row.try_get::<Option<String>, _>(0));
        // An error is that of the claim's own transaction, which a failed statement has aborted.
        current.is_ok_and(|current| current.as_deref() != Some(&claim.transaction))
    }

    async fn touch(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        connection.execute("SELECT 1").await.map(drop)
    }

    async fn terminate(connection: &mut PgConnection, backend: i32) -> Result<(), sqlx::Error> {
        let terminate = fill_in("SELECT pg_terminate_backend($1)", &[i64::from(backend)]);
        sqlx::raw_sql(terminate).execute(connection).await?;
        Ok(())
    }

    fn is_infrastructure(error: &dyn DatabaseError) -> bool {
        let Some(code) = error.code() else {
            return false;
        };
        let class = code.get(..2).unwrap_or_default();
        match class {
            "08" | "40" | "53" | "58" => true,
            "57" => code != "57014",
            _ => code == "25006" || code == "25P03",
        }
    }

    fn is_claim_timeout(error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| code == "25P03")
    }

    fn is_aborted_transaction(error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| code == "25P02")
    }

    fn is_refused_commit(error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| code == "ZC004")
    }
}

type PgQuery<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// Starts a statement whose first three parameters are the key of a row.
fn on_row<'q>(statement: &Sql, key: &'q SegmentId) -> PgQuery<'q> {
    statement
        .query()
        .bind(&*key.consumer.name)
        .bind(key.consumer.version_column())
        .bind(key.slice_from)
}

/// Locks two rows of one consumer, or one of them twice, waiting for their owners.
async fn lock_rows(
    statements: &PgStatements,
    connection: &mut PgConnection,
    left: &SegmentId,
    right: &SegmentId,
) -> Result<Vec<Checkpoint>, sqlx::Error> {
    let rows = on_row(&statements.lock_rows, left)
        .bind(right.slice_from)
        .fetch_all(connection)
        .await?;
    rows.iter().map(rows::checkpoint).collect()
}

fn claim(row: &PgRow, key: &SegmentId) -> Result<Claim, sqlx::Error> {
    Ok(Claim {
        checkpoint: rows::checkpoint_of(row, key.clone())?,
        retry_in: rows::retry_in(row)?,
        parked: row.try_get("parked")?,
        incarnation: incarnation(row)?,
        backend: row.try_get("backend")?,
        transaction: row.try_get("transaction")?,
    })
}
