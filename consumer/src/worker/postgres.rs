//! The worker's SQL on Postgres.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnection, PgListener, PgRow, Postgres};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row};
use tokio::sync::Notify;

use super::dialect::{
    Advance, Aggregate, Blocker, Checkpoint, Claim, Dialect, Enrolment, FrontierWatch, HOLD_FOR,
    LaneKey, Observation, Parking, Progress, ServerLife, Standing, State, TransactionGuard,
    WorkerBackend, statements,
};
use super::feed::aggregate_slice;
use super::one_core::Core;
use super::{LogProblem, WorkerError};
use crate::store::{Column, EventStore, Sql, refuse_old_server};

/// The life of the server, as two numbers. The statistics begin anew when a crashed backend takes
/// all the others with it, which the start time of the server does not show.
macro_rules! server_life {
    () => {
        concat!(server_life!(started), " AS started, ", server_life!(recovered), " AS recovered")
    };
    (started) => {
        "(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint"
    };
    (recovered) => {
        "coalesce((extract(epoch FROM pg_stat_get_bgwriter_stat_reset_time()) * 1000000)::bigint, 0)"
    };
    (is $started:literal, $recovered:literal) => {
        concat!(
            server_life!(started), " = ", $started, "::bigint AND ",
            server_life!(recovered), " = ", $recovered, "::bigint"
        )
    };
}

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

/// Whatever the role's defaults are: a claim must see what its predecessor committed, and a role
/// whose transactions are read-only by default keeps what a handler runs after a `ROLLBACK` of its
/// own from being saved. The timeout, for this transaction only, keeps a process that froze between
/// two statements from holding its locks for ever; a claim sets its own.
const BEGIN_WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
    SET LOCAL idle_in_transaction_session_timeout = '10s'";

/// Like [`BEGIN_WRITE`], for a transaction that begins with a claim, before which it holds nothing.
const BEGIN_CLAIM: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// For what takes more than one message outside a batch: a pooler in transaction mode keeps it on
/// one connection. Each statement must see what was committed before it.
const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY";

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
  RETURNING p.slice_to, p.position, p.epoch, p.claims, p.scope, p.state, p.replay_to, ",
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
    server_life!()
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
    SELECT position, epoch, slice_to, state FROM {progress}
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

const SURVEY: &str = concat!(
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
    SELECT consumer, version, count(*) FROM {parked} GROUP BY consumer, version";

const PARK: &str = "
    INSERT INTO {parked} (consumer, version, aggregate_type, aggregate_id, position, slice, reason,
                          attempts, error)
    SELECT $1, $2, e.* FROM UNNEST($3::text[], $4::text[], $5::bigint[], $6::int[], $7::text[],
                                   $8::int[], $9::text[]) AS e
    ON CONFLICT (consumer, version, position) DO NOTHING";

/// Rows that somebody has claimed are left to him: he moves them himself.
///
/// What was seen in another life of the server moves nothing: a pooler keeps our connection while
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
    server_life!(is "$8", "$9"),
    " FOR UPDATE OF p SKIP LOCKED)
    UPDATE {progress} AS p SET position = free.high, updated_at = clock_timestamp()
      FROM free
     WHERE (p.consumer, p.version, p.slice_from) = (free.consumer, free.version, free.slice_from)"
);

/// Reads the highest visible position and, in a bounded window above the frontier, how far positions
/// follow each other without a gap: there the n-th row stands n above the frontier.
///
/// The highest is that of the whole log, so that one set of evidence settles all of it, however
/// many windows its old gaps are scattered over.
const WINDOW: &str = concat!(
    "SELECT greatest((SELECT max({global_position}) FROM {events}), $1) AS highest,
            coalesce(max(p) FILTER (WHERE p - $1 = n), $1) AS contiguous,
            (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END
               FROM {sequence of the log}) AS last_value, ",
    server_life!(),
    " FROM (SELECT {global_position} AS p, row_number() OVER (ORDER BY {global_position}) AS n
              FROM {events} WHERE {global_position} > $1 ORDER BY {global_position} LIMIT 10000) AS w"
);

/// How many rows [`WINDOW`] reads at most.
const WINDOW_ROWS: i64 = 10_000;

/// The transactions that drew a position and have not ended: `nextval` locks the sequence before
/// it computes the value, and the top transaction keeps that lock until it ends.
const HOLDERS: &str = "
    SELECT DISTINCT virtualtransaction FROM pg_locks
     WHERE locktype = 'relation' AND relation = $1::oid AND granted
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND mode = 'RowExclusiveLock' AND pid IS DISTINCT FROM pg_backend_pid()";

const BLOCKERS: &str = "
    SELECT l.pid, coalesce(x.gid, nullif(a.application_name, ''), '?') AS name,
           (extract(epoch FROM clock_timestamp() - coalesce(x.prepared, a.xact_start)) * 1000)::bigint AS open
      FROM pg_locks AS l
      LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
      LEFT JOIN pg_locks AS own
             ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
            AND own.virtualtransaction = l.virtualtransaction
      LEFT JOIN pg_prepared_xacts AS x ON x.transaction = own.transactionid
     WHERE l.locktype = 'relation' AND l.relation = $1::oid AND l.granted
       AND l.mode = 'RowExclusiveLock' AND l.virtualtransaction = ANY ($2)";

const SEQUENCE: &str = "
    SELECT s.seqrelid::bigint AS relation, s.seqcache AS cache, s.seqincrement AS increment,
           s.seqcycle AS cycle, pg_is_in_recovery() AS standby,
           -- Of a partitioned table also each partition, which no row names for the whole.
           EXISTS (SELECT FROM pg_subscription_rel
                    WHERE srrelid = $2::regclass
                       OR srrelid IN (SELECT relid FROM pg_partition_tree($2::regclass))) AS subscribed,
           format('%I.%I', n.nspname, c.relname) AS name
      FROM pg_sequence AS s
      JOIN pg_class AS c ON c.oid = s.seqrelid
      JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE s.seqrelid = coalesce($1::regclass, pg_get_serial_sequence($2, $3)::regclass, (
           -- Drawn from by the column's default and not owned by it, as for partitioned tables.
           SELECT d.refobjid::regclass
             FROM pg_attribute AS t
             JOIN pg_attrdef AS v ON v.adrelid = t.attrelid AND v.adnum = t.attnum
             JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = v.oid
             JOIN pg_sequence AS drawn ON drawn.seqrelid = d.refobjid
            WHERE d.refclassid = 'pg_class'::regclass
              AND t.attrelid = $2::regclass AND t.attname = $3))";

const DURABLE: &str = "SELECT settled FROM {frontier} WHERE log = $1";

const SAVE_FRONTIER: &str = concat!(
    "INSERT INTO {frontier} AS f (log, settled) SELECT $1, $2 WHERE ",
    server_life!(is "$3", "$4"),
    " ON CONFLICT (log) DO UPDATE SET settled = excluded.settled, updated_at = clock_timestamp()
     WHERE f.settled < excluded.settled"
);

const HIGHEST_CHECKPOINT: &str = "SELECT coalesce(max(position), 0) AS position, coalesce((array_agg(consumer ORDER BY position DESC))[1], '') AS consumer FROM {progress}";

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
        survey: SURVEY,
        advance: ADVANCE,
        parked_aggregates: PARKED_AGGREGATES,
        count_parked: COUNT_PARKED,
        parked_counts: PARKED_COUNTS,
        park: PARK,
    }
}

statements! {
    /// The frontier's statements, with the names of the schema.
    FrontierStatements {
        blockers: BLOCKERS,
        durable: DURABLE,
        save_frontier: SAVE_FRONTIER,
        highest_checkpoint: HIGHEST_CHECKPOINT,
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

impl WorkerBackend for Postgres {}

impl Dialect for Postgres {
    type Watch = PgWatch;
    type Guard = NoGuard;

    type Sql = PgStatements;

    fn sql(store: &EventStore<Self>) -> PgStatements {
        PgStatements::new(store)
    }

    const HOLDS_CLAIMS: bool = true;
    const WRITERS: Option<usize> = None;
    const LANES_ON_ONE_CORE: bool = false;
    const MOST_BATCHES: usize = 8;
    const RESTING: usize = 2;
    const POLL_INTERVAL: Duration = Duration::from_millis(250);
    const BEGIN_BATCH: &'static str = BEGIN_CLAIM;
    const BEGIN_READ: &'static str = BEGIN_READ;

    async fn guard(
        _connection: &mut PoolConnection<Self>,
        _core: Option<Core>,
    ) -> Result<NoGuard, sqlx::Error> {
        Ok(NoGuard)
    }

    async fn keep_on(
        _connection: &mut PoolConnection<Self>,
        _core: Core,
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
                .bind(&*enrolment.consumer)
                .bind(enrolment.version)
                .bind(enrolment.width)
                .bind(&*enrolment.scope)
                .bind(enrolment.position(settled))
                .execute(&mut *tx)
                .await?;
        }
        let consumers: Vec<&str> = enrolments.iter().map(|one| &*one.consumer).collect();
        let versions: Vec<i32> = enrolments.iter().map(|one| one.version).collect();
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
        key: &LaneKey,
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
        left: &LaneKey,
        right: &LaneKey,
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
        left: &LaneKey,
        right: &LaneKey,
    ) -> Result<bool, sqlx::Error> {
        let mut tx = connection.begin_with(BEGIN_WRITE).await?;
        let rows = lock_rows(statements, &mut tx, left, right).await?;
        let Some(slice_to) = Standing::of_one(&rows, right) else {
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

    async fn survey(
        statements: &PgStatements,
        connection: &mut PgConnection,
    ) -> Result<Vec<Checkpoint>, sqlx::Error> {
        let rows = sqlx::raw_sql(statements.survey.safe())
            .fetch_all(connection)
            .await?;
        rows.iter().map(checkpoint).collect()
    }

    async fn claim(
        statements: &PgStatements,
        connection: &mut PgConnection,
        key: &LaneKey,
        timeout: Duration,
    ) -> Result<Option<Claim>, sqlx::Error> {
        let row = statements
            .claim
            .query()
            .bind(&*key.consumer)
            .bind(key.version)
            .bind(key.slice_from)
            .bind(timeout.as_millis().to_string())
            .fetch_optional(connection)
            .await?;
        row.as_ref().map(claim).transpose()
    }

    async fn save(
        statements: &PgStatements,
        connection: &mut PgConnection,
        key: &LaneKey,
        claim: &Claim,
        progress: &Progress,
    ) -> Result<bool, sqlx::Error> {
        let failure = progress.failure.as_ref();
        let saved = statements
            .save
            .query()
            .bind(&*key.consumer)
            .bind(key.version)
            .bind(key.slice_from)
            .bind(progress.position)
            .bind(progress.state.as_str())
            .bind(failure.map_or(0, |failure| {
                i32::try_from(failure.attempts).unwrap_or(i32::MAX)
            }))
            .bind(failure.map(|failure| failure.retry_in.as_secs_f64() * 1000.0))
            .bind(failure.map(|failure| failure.position))
            .bind(failure.map(|failure| failure.error.replace('\0', "\u{fffd}")))
            .bind(claim.position)
            .bind(claim.epoch)
            .bind(&claim.transaction)
            .fetch_optional(connection)
            .await?;
        Ok(saved.is_some())
    }

    async fn parked_aggregates(
        statements: &PgStatements,
        connection: &mut PgConnection,
        key: &LaneKey,
        slice_to: i32,
    ) -> Result<Vec<Aggregate>, sqlx::Error> {
        let rows = on_row(&statements.parked_aggregates, key)
            .bind(slice_to)
            .fetch_all(connection)
            .await?;
        rows.iter().map(aggregate).collect()
    }

    async fn count_parked(
        statements: &PgStatements,
        connection: &mut PgConnection,
        key: &LaneKey,
        limit: i64,
    ) -> Result<i64, sqlx::Error> {
        statements
            .count_parked
            .scalar()
            .bind(&*key.consumer)
            .bind(key.version)
            .bind(limit)
            .fetch_one(connection)
            .await
    }

    async fn parked_counts(
        statements: &PgStatements,
        connection: &mut PgConnection,
    ) -> Result<Vec<(String, i32, i64)>, sqlx::Error> {
        let rows = sqlx::raw_sql(statements.parked_counts.safe())
            .fetch_all(connection)
            .await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
            .collect()
    }

    async fn park(
        statements: &PgStatements,
        connection: &mut PgConnection,
        key: &LaneKey,
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
            .bind(&*key.consumer)
            .bind(key.version)
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
        life: ServerLife,
        moves: &[Advance],
    ) -> Result<(), sqlx::Error> {
        let consumers: Vec<&str> = moves.iter().map(|m| &*m.key.consumer).collect();
        let versions: Vec<i32> = moves.iter().map(|m| m.key.version).collect();
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
            .bind(life.started)
            .bind(life.recovered)
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

    fn is_aborted_transaction(error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| code == "25P02")
    }

    fn is_refused_commit(error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| code == "ZC004")
    }

    async fn listen(store: EventStore<Self>, url: Option<Arc<str>>, wake: Arc<Notify>) {
        loop {
            let listener = match &url {
                Some(url) => PgListener::connect(url).await,
                None => PgListener::connect_with(store.pool()).await,
            };
            if let Ok(mut listener) = listener
                && listener.listen("consumer_events").await.is_ok()
            {
                // What was committed before the LISTEN took hold sent its notification to nobody.
                wake.notify_one();
                // `None` is a lost connection: sqlx has reconnected, and something may be missed.
                while listener.try_recv().await.is_ok() {
                    wake.notify_one();
                }
            }
            tracing::warn!("the listener for commits is not connected; polling goes on");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// A statement with numbers in the place of `$1` and so on, for the simple protocol: what runs
/// outside a transaction is one message then, which a pooler in transaction mode cannot tear apart.
fn fill_in(statement: &str, numbers: &[i64]) -> AssertSqlSafe<String> {
    let filled = (1..)
        .zip(numbers)
        .fold(statement.to_owned(), |sql, (index, number)| {
            sql.replace(&format!("${index}"), &number.to_string())
        });
    AssertSqlSafe(filled)
}

type PgQuery<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// Starts a statement whose first three parameters are the key of a row.
fn on_row<'q>(statement: &Sql, key: &'q LaneKey) -> PgQuery<'q> {
    statement
        .query()
        .bind(&*key.consumer)
        .bind(key.version)
        .bind(key.slice_from)
}

/// Locks two rows of one consumer, or one of them twice, waiting for their owners.
async fn lock_rows(
    statements: &PgStatements,
    connection: &mut PgConnection,
    left: &LaneKey,
    right: &LaneKey,
) -> Result<Vec<Standing>, sqlx::Error> {
    let rows = on_row(&statements.lock_rows, left)
        .bind(right.slice_from)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Standing {
                position: row.try_get("position")?,
                epoch: row.try_get("epoch")?,
                slice_to: row.try_get("slice_to")?,
                state: State::parse(row.try_get("state")?),
            })
        })
        .collect()
}

fn life(row: &PgRow) -> Result<ServerLife, sqlx::Error> {
    Ok(ServerLife {
        started: row.try_get("started")?,
        recovered: row.try_get("recovered")?,
    })
}

fn claim(row: &PgRow) -> Result<Claim, sqlx::Error> {
    Ok(Claim {
        slice_to: row.try_get("slice_to")?,
        position: row.try_get("position")?,
        epoch: row.try_get("epoch")?,
        claims: row.try_get("claims")?,
        scope: row.try_get("scope")?,
        state: State::parse(row.try_get("state")?),
        replay_to: row.try_get("replay_to")?,
        hold_at: row.try_get("hold_at")?,
        attempts: attempts(row)?,
        retry_in: row
            .try_get::<Option<i64>, _>("retry_in")?
            .and_then(|millis| u64::try_from(millis).ok())
            .filter(|&millis| millis > 0)
            .map(Duration::from_millis),
        failed_position: row.try_get("failed_position")?,
        error: row.try_get("error")?,
        parked: row.try_get("parked")?,
        life: life(row)?,
        backend: row.try_get("backend")?,
        transaction: row.try_get("transaction")?,
    })
}

fn aggregate(row: &PgRow) -> Result<Aggregate, sqlx::Error> {
    Ok((row.try_get(0)?, row.try_get(1)?))
}

fn checkpoint(row: &PgRow) -> Result<Checkpoint, sqlx::Error> {
    Ok(Checkpoint {
        key: LaneKey {
            consumer: row.try_get::<String, _>("consumer")?.into(),
            version: row.try_get("version")?,
            slice_from: row.try_get("slice_from")?,
        },
        slice_to: row.try_get("slice_to")?,
        position: row.try_get("position")?,
        epoch: row.try_get("epoch")?,
        scope: row.try_get("scope")?,
        state: State::parse(row.try_get("state")?),
        replay_to: row.try_get("replay_to")?,
        hold_at: row.try_get("hold_at")?,
        attempts: attempts(row)?,
        failed_position: row.try_get("failed_position")?,
        error: row.try_get("error")?,
    })
}

fn attempts(row: &PgRow) -> Result<u32, sqlx::Error> {
    let attempts: i32 = row.try_get("attempts")?;
    Ok(u32::try_from(attempts).unwrap_or(0))
}

/// The frontier on Postgres, by the locks on the sequence.
///
/// Each [`Generation`] is a highest position and the transactions that may still fill a gap below
/// it. Rows are read first and lock holders second, never in one statement: a transaction that
/// drew a position below the highest row held its lock before that row was read, so it either
/// shows as a holder or has ended, and what it committed is visible to any later snapshot.
pub struct PgWatch {
    settled: i64,
    durable: i64,
    head: i64,
    life: ServerLife,
    sequence: i64,
    log: Arc<str>,
    window: String,
    statements: FrontierStatements,
    generations: VecDeque<Generation>,
}

#[derive(Debug)]
struct Generation {
    highest: i64,
    holders: HashSet<String>,
}

/// More generations than this at once bring the frontier no closer to the head.
const MAX_GENERATIONS: usize = 64;

impl FrontierWatch<Postgres> for PgWatch {
    async fn start(
        store: &EventStore<Postgres>,
        connection: &mut PgConnection,
    ) -> Result<Self, WorkerError> {
        let mut tx = connection.begin_with(BEGIN_READ).await?;
        let sequence = sequence(store, &mut tx).await?;
        tx.commit().await?;
        // Before the probe, whose own position would hide that the log was reset.
        let watch = Self::watch(store, connection, &sequence).await?;
        let mut tx = connection.begin_with(BEGIN_READ).await?;
        probe(store, &mut tx, &sequence).await?;
        tx.commit().await?;
        Ok(watch)
    }

    async fn look(
        store: &EventStore<Postgres>,
        connection: &mut PgConnection,
    ) -> Result<Self, WorkerError> {
        let mut tx = connection.begin_with(BEGIN_READ).await?;
        let sequence = sequence(store, &mut tx).await?;
        tx.commit().await?;
        Self::watch(store, connection, &sequence).await
    }

    async fn observe(&mut self, connection: &mut PgConnection) -> Result<Observation, WorkerError> {
        let mut window = self.read_window(connection).await?;
        if window.life != self.life {
            tracing::warn!(
                settled = self.settled,
                "the server restarted: everything seen of the log before is void, starting from the durable frontier"
            );
            self.begin_life(connection).await?;
            window = self.read_window(connection).await?;
        }
        if window.last_value < self.settled {
            return Err(WorkerError::Log(LogProblem::Reset {
                what: "the settled frontier".into(),
                position: self.settled,
                last_value: window.last_value,
            }));
        }
        let before = self.settled;
        self.head = self.head.max(window.highest);
        self.settle(window.contiguous);
        if self.settled < window.highest || !self.generations.is_empty() {
            self.weigh_evidence(connection, window.highest).await?;
        }
        let more = window.contiguous - before == WINDOW_ROWS && self.settled < window.highest;
        if !more {
            self.save(connection).await?;
        }
        Ok(Observation {
            settled: self.settled,
            head: self.head,
            life: self.life,
            waiting: !self.generations.is_empty(),
            more,
        })
    }

    async fn blockers(&self, connection: &mut PgConnection) -> Result<Vec<Blocker>, sqlx::Error> {
        let Some(oldest) = self.generations.front() else {
            return Ok(Vec::new());
        };
        let holders: Vec<String> = oldest.holders.iter().cloned().collect();
        let mut tx = connection.begin_with(BEGIN_READ).await?;
        let rows = self
            .statements
            .blockers
            .query()
            .bind(self.sequence)
            .bind(holders)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        rows.iter()
            .map(|row| {
                let open: Option<i64> = row.try_get("open")?;
                Ok(Blocker {
                    pid: row.try_get("pid")?,
                    name: row.try_get("name")?,
                    open: Duration::from_millis(
                        open.and_then(|ms| ms.try_into().ok()).unwrap_or(0),
                    ),
                })
            })
            .collect()
    }
}

struct Window {
    highest: i64,
    contiguous: i64,
    last_value: i64,
    life: ServerLife,
}

impl PgWatch {
    async fn watch(
        store: &EventStore<Postgres>,
        connection: &mut PgConnection,
        sequence: &Sequence,
    ) -> Result<Self, WorkerError> {
        // The catalog gave the sequence's name, quoted where it needs to be.
        let window = store
            .schema()
            .render(WINDOW)
            .replace("\"sequence of the log\"", &sequence.name);
        let mut watch = Self {
            settled: 0,
            durable: 0,
            head: 0,
            life: ServerLife::default(),
            sequence: sequence.relation,
            log: store.schema().events_name().into(),
            window,
            statements: FrontierStatements::new(store),
            generations: VecDeque::new(),
        };
        watch.begin_life(connection).await?;
        Ok(watch)
    }

    /// Drops what was seen in another life of the server and starts from what is durable.
    async fn begin_life(&mut self, connection: &mut PgConnection) -> Result<(), WorkerError> {
        let mut connection = connection.begin_with(BEGIN_READ).await?;
        self.generations.clear();
        self.settled = self
            .statements
            .durable
            .scalar()
            .bind(&*self.log)
            .fetch_optional(&mut *connection)
            .await?
            .unwrap_or(0);
        self.durable = self.settled;
        self.head = self.settled;
        let row = self
            .statements
            .highest_checkpoint
            .query()
            .fetch_one(&mut *connection)
            .await?;
        // Last: others go on meanwhile, and what they have settled and handled was given out before.
        let window = self.read_window(&mut connection).await?;
        connection.commit().await?;
        self.life = window.life;
        refuse_reset("the durable frontier", self.settled, window.last_value)?;
        let consumer: String = row.try_get("consumer")?;
        refuse_reset(
            &format!("the checkpoint of `{consumer}`"),
            row.try_get("position")?,
            window.last_value,
        )
    }

    async fn read_window(&self, connection: &mut PgConnection) -> Result<Window, sqlx::Error> {
        let window = fill_in(&self.window, &[self.settled]);
        let row = sqlx::raw_sql(window).fetch_one(connection).await?;
        Ok(Window {
            highest: row.try_get("highest")?,
            contiguous: row.try_get("contiguous")?,
            last_value: row.try_get("last_value")?,
            life: life(&row)?,
        })
    }

    /// Takes who may still fill a gap, now that the rows have been read.
    async fn weigh_evidence(
        &mut self,
        connection: &mut PgConnection,
        highest: i64,
    ) -> Result<(), sqlx::Error> {
        let now = sqlx::raw_sql(fill_in(HOLDERS, &[self.sequence]))
            .fetch_all(connection)
            .await?
            .iter()
            .map(|row| row.try_get(0))
            .collect::<Result<HashSet<String>, _>>()?;
        for generation in &mut self.generations {
            // Who came later drew a later position: only those who were there count.
            generation.holders.retain(|holder| now.contains(holder));
        }
        let newest = self
            .generations
            .back()
            .map_or(self.settled, |last| last.highest);
        if highest > newest {
            // The newest makes way: it says the least about how far the log will be settled next.
            self.generations.truncate(MAX_GENERATIONS - 1);
            self.generations.push_back(Generation {
                highest,
                holders: now,
            });
        }
        let settled = self
            .generations
            .iter()
            .rev()
            .find(|generation| generation.holders.is_empty())
            .map(|generation| generation.highest);
        if let Some(settled) = settled {
            self.settle(settled);
        }
        Ok(())
    }

    fn settle(&mut self, position: i64) {
        self.settled = self.settled.max(position);
        let settled = self.settled;
        self.generations
            .retain(|generation| generation.highest > settled);
    }

    async fn save(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        // Contiguous positions cost the next worker nothing to find again; what is saved now and
        // then is what keeps it from going over old gaps.
        const WORTH_SAVING: i64 = 1_000;
        if self.settled - self.durable < WORTH_SAVING {
            return Ok(());
        }
        let mut tx = connection.begin_with(BEGIN_WRITE).await?;
        self.statements
            .save_frontier
            .query()
            .bind(&*self.log)
            .bind(self.settled)
            .bind(self.life.started)
            .bind(self.life.recovered)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        self.durable = self.settled;
        Ok(())
    }
}

fn refuse_reset(what: &str, position: i64, last_value: i64) -> Result<(), WorkerError> {
    if position <= last_value {
        return Ok(());
    }
    Err(WorkerError::Log(LogProblem::Reset {
        what: what.to_owned(),
        position,
        last_value,
    }))
}

#[derive(Debug)]
struct Sequence {
    relation: i64,
    name: String,
}

/// Finds the sequence that positions are drawn from, and refuses what the rule cannot rest on.
async fn sequence(
    store: &EventStore<Postgres>,
    connection: &mut PgConnection,
) -> Result<Sequence, WorkerError> {
    refuse_old_server(connection).await?;
    let schema = store.schema();
    let row = store
        .sql(SEQUENCE)
        .query()
        .bind(schema.sequence_name())
        .bind(schema.render("{events}"))
        .bind(schema.column_name(Column::GlobalPosition))
        .fetch_optional(connection)
        .await?
        .ok_or(WorkerError::Log(LogProblem::NoSequence))?;
    let name: String = row.try_get("name")?;
    let problem = if row.try_get("standby")? {
        Some(LogProblem::Standby)
    } else if row.try_get("subscribed")? {
        Some(LogProblem::ReplicationTarget)
    } else if row.try_get::<i64, _>("cache")? != 1 {
        Some(LogProblem::CachedSequence { name: name.clone() })
    } else if row.try_get::<i64, _>("increment")? != 1 || row.try_get("cycle")? {
        Some(LogProblem::OddSequence { name: name.clone() })
    } else {
        None
    };
    match problem {
        Some(problem) => Err(WorkerError::Log(problem)),
        None => Ok(Sequence {
            relation: row.try_get("relation")?,
            name,
        }),
    }
}

/// Draws a position in an open transaction and looks for its lock from another connection: on a
/// server that does not show it, the rule would lose events.
async fn probe(
    store: &EventStore<Postgres>,
    connection: &mut PgConnection,
    sequence: &Sequence,
) -> Result<(), WorkerError> {
    let mut writer = store.pool().begin_with(BEGIN_WRITE).await?;
    let draw = "SELECT pg_backend_pid()::bigint, nextval($1::oid::regclass)";
    let drawn = sqlx::raw_sql(fill_in(draw, &[sequence.relation]))
        .fetch_one(&mut *writer)
        .await;
    let drawn = match drawn {
        Ok(drawn) => drawn,
        // sequence_generator_limit_exceeded: no position is left, and nobody draws one.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("2200H") => {
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let look = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'relation' AND granted
        AND relation = $1::oid AND mode = 'RowExclusiveLock' AND pid = $2)";
    let seen: bool = sqlx::raw_sql(fill_in(look, &[sequence.relation, drawn.try_get(0)?]))
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    writer.rollback().await?;
    if seen {
        Ok(())
    } else {
        Err(WorkerError::Log(LogProblem::InvisibleLocks {
            name: sequence.name.clone(),
        }))
    }
}
