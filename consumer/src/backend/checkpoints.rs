//! The consumer half of a backend: checkpoints, their claims, and parked events.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, SqlSafeStr as _, SqlStr, Transaction};

use super::driver::Driver;
use super::ledger::{COMPACT, FOLD, FOLDED, Folding, HANDLED, Ledger, fold};
use super::marks::{self, expire_of_the_dead, on_mark};
use super::pending::{COPY_PENDING, DROP_PASSED, KEEP_NAMED, NOTE_PENDING, kept};
use super::renames::{HeldBack, Names, Program, Renames, Start};
use super::rows::{
    Advance, Aggregate, Checkpoint, Claim, ConsumerId, Failure, MarkHolder, NamedEvents,
    NewCheckpoint, Parking, Process, SegmentId, SnapshotRow, UnknownEvent, millis, on_consumer,
    on_row, release_line,
};
use super::sql::{Sql, Statement, statements};
use super::{Incarnation, StoreSettings};
use crate::contract::PersistedEvent;

/// How long no batch begins after a caller found a handler at work; longer than the pause before it tries
/// again.
const WAIT_FOR: Duration = Duration::from_secs(1);

/// How long a row waits for its neighbour after the last call of [`Checkpoints::hold`].
const HOLD_FOR: Duration = Duration::from_secs(10);

/// A consumer without rows belongs to no log any more.
const LEAVE_LOG: &str = "
    DELETE FROM {logs} WHERE consumer = $1
       AND NOT EXISTS (SELECT 1 FROM {progress} WHERE consumer = $1)";

/// Rows that are older than this table belong to the log on which a worker finds them first.
const JOIN_LOG: &str = "
    INSERT INTO {logs} (consumer, log) VALUES ($1, '{log}') ON CONFLICT (consumer) DO NOTHING";

const OTHER_LOG: &str = "
    SELECT log FROM {logs} WHERE consumer = $1 AND log <> '{log}'
       AND EXISTS (SELECT 1 FROM {progress} WHERE consumer = $1)";

/// Creates the rows of a consumer that has none, of `$3` slices each.
const ENROLL: &str = "
    INSERT INTO {progress} (consumer, version, slice_from, slice_to, scope, began, position,
                            updated_at)
    WITH RECURSIVE piece (slice) AS (
        SELECT 0 UNION ALL SELECT slice + $3 FROM piece WHERE slice + $3 < 1024),
    start (position) AS (
        -- Not after the slowest row of the version before: events would be left out.
        SELECT coalesce(min(position), $5) FROM {progress}
         WHERE consumer = $1 AND position < $5 AND version = (
               SELECT max(version) FROM {progress} WHERE consumer = $1 AND version < $2))
    SELECT $1, $2, slice, slice + $3, $4,
           -- The first version to start now skips what came before; later ones take over from others.
           CASE WHEN EXISTS (SELECT 1 FROM {progress} WHERE consumer = $1) THEN start.position ELSE 0 END,
           start.position, {now}
      FROM piece CROSS JOIN start
     WHERE NOT EXISTS (SELECT 1 FROM {progress} WHERE consumer = $1 AND version = $2)";

const TRY_AGAIN: &str = "
    UPDATE {progress} SET state = 'running', epoch = epoch + 1, attempts = 0, retry_at = NULL
     WHERE (consumer, version, slice_from) IN (
           SELECT consumer, version, slice_from FROM {progress}
            WHERE consumer = $1 AND version = $2 AND state = 'stopped'
              -- This release has not failed on the event.
              AND replace(coalesce(failed_releases, ''), $3, '') = coalesce(failed_releases, '')
              -- An operator may be at work on the row for long.
              {for update, skip locked})";

const LOCK_ROWS: &str = "
    SELECT consumer, version, slice_from, {checkpoint}, hold_at
      FROM {progress}
     WHERE consumer = $1 AND version = $2 AND slice_from IN ($3, $4)
     -- In this order, so that two processes cannot wait for each other.
     ORDER BY slice_from {for update}";

/// The new half is a copy: a retry that is due is due in both, and the half without the event that the row
/// names drops it when it is saved or advanced past it. Neither waits for a neighbour any more, or for a
/// release until it finds that out again.
const COPY_HALF: &str = "
    INSERT INTO {progress} (consumer, version, slice_from, slice_to, position, epoch, scope, state,
                            began, attempts, retry_at, failed_position, error, failed_releases,
                            worker_release, updated_at)
    SELECT consumer, version, $4, slice_to, position, epoch, scope, state, began, attempts, retry_at,
           CASE WHEN failed_position > position THEN failed_position ELSE unknown_position END, error,
           CASE WHEN failed_position > position THEN failed_releases END, worker_release, {now}
      FROM {progress}
     WHERE consumer = $1 AND version = $2 AND slice_from = $3 AND slice_to > $4";

/// The process that works on the row works on the new half, until another does.
const COPY_WORKER: &str = "
    INSERT INTO {workers} (consumer, version, slice_from, host, pid, release, seen_at)
    SELECT consumer, version, $4, host, pid, release, seen_at
      FROM {workers} WHERE consumer = $1 AND version = $2 AND slice_from = $3
    ON CONFLICT (consumer, version, slice_from) DO NOTHING";

const RESIZE: &str = "
    UPDATE {progress}
       SET slice_to = $4, hold_until = NULL, unknown_position = NULL,
           failed_position =
               CASE WHEN failed_position > position THEN failed_position ELSE unknown_position END,
           failed_releases = CASE WHEN failed_position > position THEN failed_releases END,
           updated_at = {now}
     WHERE consumer = $1 AND version = $2 AND slice_from = $3";

const HOLD: &str = "
    UPDATE {progress} SET hold_at = $5, hold_until = {in $6 ms}
     WHERE consumer = $1 AND version = $2 AND slice_from IN ($3, $4)";

/// An event that one of the two rows is to retry may come after one that the other has not handled. The row
/// still names it, as evidence.
const MERGED: &str = "
    UPDATE {progress}
       SET slice_to = $4, epoch = $5, hold_until = NULL, attempts = 0, retry_at = NULL,
           failed_position = $6, error = NULL, failed_releases = NULL, unknown_position = NULL,
           updated_at = {now}
     WHERE consumer = $1 AND version = $2 AND slice_from = $3";

/// Part of [`Checkpoints::SAVE`], as `{save}`. What the row names beyond its new position stays, unless an
/// event before it has failed; then `keep_named` keeps it.
const SAVE: &str = "
        UPDATE {progress}
           SET position = $4, state = $5, attempts = $6, retry_at = {in $7 ms},
               failed_position =
                   coalesce($8, CASE WHEN failed_position > $4 THEN failed_position END),
               error = coalesce({message $9}, CASE WHEN failed_position > $4 THEN error END),
               failed_releases = CASE WHEN $8 IS NULL AND failed_position > $4
                                      THEN failed_releases ELSE $12 END,
               unknown_position =
                   CASE WHEN $8 IS NULL AND unknown_position > $4 THEN unknown_position END,
               worker_release = $13, updated_at = {now},
               worker_host = NULL, worker_pid = NULL, worker_at = NULL
         WHERE consumer = $1 AND version = $2 AND slice_from = $3
           AND position = $10 AND epoch = $11";

const NOTE_WORKER: &str = "
    INSERT INTO {workers} (consumer, version, slice_from, host, pid, release, seen_at)
    VALUES ($1, $2, $3, $4, $5, $6, {now})
    ON CONFLICT (consumer, version, slice_from)
    DO UPDATE SET host = excluded.host, pid = excluded.pid, release = excluded.release,
                  seen_at = excluded.seen_at";

const REMOVE_WORKER: &str = "
    DELETE FROM {workers} WHERE consumer = $1 AND version = $2 AND slice_from = $3";

const REMOVE: &str = "
    DELETE FROM {progress} WHERE consumer = $1 AND version = $2 AND slice_from = $3";

const SNAPSHOT: &str = concat!(
    "
    SELECT consumer, version, slice_from, {checkpoint},
           -- A process that no longer asks for the merge no longer holds its rows.
           CASE WHEN hold_until > {now} THEN hold_at END AS hold_at,
           (SELECT k.position FROM {pending} AS k
             WHERE k.consumer = p.consumer AND k.version = p.version
               AND k.slice_from = p.slice_from) AS pending,
           ",
    kept!(),
    " AS kept
      FROM {progress} AS p
     WHERE NOT EXISTS (SELECT 1 FROM {logs} AS l WHERE l.consumer = p.consumer AND l.log <> '{log}')"
);

/// Only of a row that runs, has yet to handle the event, and is not being worked on. An earlier event that it
/// names stays until it has passed that one.
const NOTE_UNKNOWN: &str = "
    UPDATE {progress}
       SET unknown_position = $4, unknown_aggregate = $8, unknown_type = $9, unknown_version = $10
     WHERE (consumer, version, slice_from) IN (
           SELECT consumer, version, slice_from FROM {progress}
            WHERE consumer = $1 AND version = $2 AND slice_from = $3 AND epoch = $7
              AND position < $4 AND state = 'running' AND attempts = 0
              AND (unknown_position > position AND unknown_position <= $4) IS NOT TRUE
              AND {same incarnation}
              {for update, skip locked})";

/// Finds one parked event of each aggregate, at the cost of the aggregates rather than of the events: each
/// step looks up the next aggregate in the index.
const FOUND: &str = "
    WITH RECURSIVE found (position, aggregate_type, aggregate_id, slice) AS (
        SELECT position, aggregate_type, aggregate_id, slice FROM {parked}
         WHERE consumer = $1 AND version = $2 AND position = (
               SELECT k.position FROM {parked} AS k
                WHERE k.consumer = $1 AND k.version = $2 AND {indexed k}
                ORDER BY k.aggregate_type, k.aggregate_id LIMIT 1)
        UNION ALL
        SELECT next.position, next.aggregate_type, next.aggregate_id, next.slice
          FROM found AS last JOIN {parked} AS next
            ON next.consumer = $1 AND next.version = $2 AND next.position = (
               SELECT k.position FROM {parked} AS k
                WHERE k.consumer = $1 AND k.version = $2 AND {indexed k}
                  AND (k.aggregate_type, k.aggregate_id) > (last.aggregate_type, last.aggregate_id)
                ORDER BY k.aggregate_type, k.aggregate_id LIMIT 1)),
    aggregates (aggregate_type, aggregate_id, slice) AS (
        SELECT aggregate_type, aggregate_id, slice FROM found
        UNION ALL
        -- Those whose names are too long for the index.
        SELECT DISTINCT k.aggregate_type, k.aggregate_id, k.slice FROM {parked} AS k
         WHERE k.consumer = $1 AND k.version = $2 AND NOT ({indexed k}))";

/// The aggregates of a range of slices, all of them: events of one that was left out would be handled
/// out of order.
const PARKED_AGGREGATES: &str = "
    SELECT aggregate_type, aggregate_id FROM aggregates WHERE slice >= $3 AND slice < $4";

const COUNT_PARKED: &str = "
    SELECT count(*) AS aggregates FROM (SELECT 1 FROM aggregates LIMIT $3) AS counted";

const IS_PARKED: &str = "
    SELECT count(*) AS events FROM (
        SELECT 1 FROM {parked}
         WHERE consumer = $1 AND version = $2 AND aggregate_type = $3 AND aggregate_id = $4
         LIMIT 1) AS parked";

const PARKED_COUNTS: &str = "
    SELECT consumer, version, count(*) AS events FROM {parked} GROUP BY consumer, version";

const EXISTS: &str = "
    SELECT EXISTS (SELECT 1 FROM {progress}
                    WHERE consumer = $1 AND version = $2 AND slice_from = $3) AS found";

statements! {
    /// The worker's statements, with the names of the mapping.
    pub CheckpointStatements for DB: Checkpoints {
        claim: DB::CLAIM,
        claim_at: DB::CLAIM_AT,
        save: &DB::SAVE.replace("{save}", SAVE),
        save_at: &DB::SAVE_AT.replace("{save}", SAVE),
        leave_log: LEAVE_LOG,
        join_log: JOIN_LOG,
        other_log: OTHER_LOG,
        enroll: ENROLL,
        try_again: TRY_AGAIN,
        lock_rows: LOCK_ROWS,
        copy_half: COPY_HALF,
        copy_worker: COPY_WORKER,
        note_worker: NOTE_WORKER,
        remove_worker: REMOVE_WORKER,
        resize: RESIZE,
        hold: HOLD,
        merged: MERGED,
        remove: REMOVE,
        snapshot: SNAPSHOT,
        advance: DB::ADVANCE,
        parked_aggregates: &format!("{FOUND}{PARKED_AGGREGATES}"),
        count_parked: &format!("{FOUND}{COUNT_PARKED}"),
        is_parked: IS_PARKED,
        parked_counts: PARKED_COUNTS,
        drop_passed: DROP_PASSED,
        note_unknown: &NOTE_UNKNOWN.replace("{same incarnation}", DB::SAME_INCARNATION),
        keep_named: KEEP_NAMED,
        copy_pending: COPY_PENDING,
        note_pending: &NOTE_PENDING.replace("{same incarnation}", DB::SAME_INCARNATION),
        ledger: HANDLED,
        lock_precedence: DB::LOCK_PRECEDENCE,
        take_mark: marks::TAKE,
        renew_mark: marks::RENEW,
        release_mark: marks::RELEASE,
        expire_mark: marks::EXPIRE,
        succeed_mark: marks::SUCCEED,
        is_working: marks::IS_WORKING,
        wait: marks::WAIT,
        mark_holders: marks::HOLDERS,
        fold: FOLD,
        folded: FOLDED,
        compact: COMPACT,
        park: DB::PARK,
        exists: EXISTS,
    }
}

impl CheckpointStatements {
    fn folding(&self) -> Folding<'_> {
        Folding {
            fold: &self.fold,
            folded: &self.folded,
            compact: &self.compact,
        }
    }
}

/// Called once on the thread of a connection, to keep it on a core for example.
pub(crate) type OnThread = Box<dyn FnOnce() + Send>;

/// The requirements of a worker on a database, for checkpoints and for the connections that change them.
///
/// SQL that is the same in both dialects is written here; a database adds the rest.
pub trait Checkpoints: Renames {
    /// Keeps a handler from harming the worker's transaction or the next batch; lives beside a
    /// connection.
    type Guard: TransactionGuard;

    /// Whether a claim can be held for long without blocking other writers.
    const HOLDS_CLAIMS: bool;

    /// The number of connections that may be in a writing transaction at the same time; `None` for
    /// any number.
    const WRITERS: Option<usize>;

    /// Whether lanes share one core with the connections that they write on, by default.
    const LANES_ON_ONE_CORE: bool;

    /// The highest number of batches in one transaction while other lanes wait for connections.
    const MOST_BATCHES: usize;

    /// Whether a batch begins with the session as it was when its connection was opened. Otherwise its
    /// claim shows what the session is.
    const RESTORES_SESSION: bool;

    /// Begins a transaction that changes checkpoint rows outside a batch.
    const BEGIN_WRITE: &'static str;

    /// Begins the transaction of [`enroll`](Self::enroll), one at a time: workers with other settings
    /// could otherwise create rows that overlap.
    const BEGIN_ENROLL: &'static str;

    /// Begins the transaction of [`split`](Self::split), which waits for a claim only briefly.
    const BEGIN_SPLIT: &'static str;

    /// Claims the row `$1`, `$2`, `$3`, or returns nothing when another process has it. A database
    /// with a server takes the timeout as `$4`, another one the id of the mark's holder.
    const CLAIM: &'static str;

    /// Claims like [`CLAIM`](Self::CLAIM), and only at the address `$5`.
    const CLAIM_AT: &'static str;

    /// Saves a checkpoint and returns the row's new address if it did. `{save}` updates the row; its
    /// parameters, the first thirteen, are those of [`bind_save`].
    const SAVE: &'static str;

    /// Saves like [`SAVE`](Self::SAVE), and only at the address `$15`.
    const SAVE_AT: &'static str;

    /// Locks the precedence of the consumer `$1` for its version `$2`, and the slices from `$3` to
    /// before `$4`, for the rest of the transaction, unless another version has it; says whether it did
    /// as `locked`.
    const LOCK_PRECEDENCE: &'static str;

    /// Advances idle rows.
    const ADVANCE: &'static str;

    /// Whether the server is in the incarnation `$5`, `$6`.
    const SAME_INCARNATION: &'static str;

    /// Parks events.
    const PARK: &'static str;

    /// Renders the statements.
    fn checkpoint_statements(settings: &StoreSettings) -> CheckpointStatements {
        CheckpointStatements::new::<Self>(settings)
    }

    /// Starts to watch a connection, whose session stays as it is now. Its thread, if it has one, calls
    /// `on_thread` once.
    fn guard(
        connection: &mut PoolConnection<Self>,
        settings: &StoreSettings,
        on_thread: Option<OnThread>,
    ) -> impl Future<Output = Result<Self::Guard, sqlx::Error>> + Send;

    /// Lets the thread of a reading connection, if it has one, call `on_thread` once.
    fn on_thread(
        connection: &mut PoolConnection<Self>,
        on_thread: OnThread,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Creates the rows of consumers that have none, and lets stopped consumers try again unless this release
    /// has failed on their event, except for those that are held back, which it returns. Does nothing if one
    /// of them reads another log.
    fn enroll(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        program: Program<'_>,
        settled: i64,
    ) -> impl Future<Output = Result<Result<Vec<HeldBack>, OtherLog>, sqlx::Error>> + Send {
        async move {
            let mut tx = connection
                .begin_with(Self::BEGIN_ENROLL.into_sql_str())
                .await?;
            let names = Names::read::<Self>(program.names, &mut tx).await?;
            let mut held_back = Vec::new();
            for enrolment in program.enrolments {
                let name = &enrolment.consumer.name;
                if let Some(log) = join_log::<Self>(statements, &mut tx, name).await? {
                    tx.rollback().await?;
                    let consumer = Arc::clone(name);
                    return Ok(Err(OtherLog { consumer, log }));
                }
                match names.start(enrolment, program.declared) {
                    Start::Run => {}
                    Start::Not(reason) => {
                        held_back.push(reason);
                        continue;
                    }
                    Start::TakeOver(former) => {
                        held_back.push(HeldBack::until_free(&enrolment.consumer, former));
                        continue;
                    }
                }
                let enroll = on_consumer::<Self>(&statements.enroll, &enrolment.consumer)
                    .bind(enrolment.width)
                    .bind(&*enrolment.scope)
                    .bind(enrolment.position(settled));
                enroll.execute(&mut tx).await?;
                let (consumer, release) = (&enrolment.consumer, program.release);
                Self::try_again(statements, &mut tx, consumer, release).await?;
            }
            tx.commit().await?;
            Ok(Ok(held_back))
        }
    }

    /// Resumes the stopped rows of a consumer on whose events this release has not failed, and returns whether
    /// there were any. Locked rows stay as they are.
    fn try_again(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        consumer: &ConsumerId,
        release: &str,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send {
        let try_again = on_consumer::<Self>(&statements.try_again, consumer);
        let try_again = try_again.bind(&*release_line(release));
        async move { Ok(try_again.execute(connection).await? > 0) }
    }

    /// The other log that a consumer reads, if it does.
    fn other_log(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        consumer: &str,
    ) -> impl Future<Output = Result<Option<String>, sqlx::Error>> + Send {
        let other = statements.other_log.on::<Self>().bind(consumer);
        async move {
            let row = other.fetch_optional(connection).await?;
            row.map(|row| Self::read(&row, "log")).transpose()
        }
    }

    /// Divides a row at a slice into two with the same checkpoint; returns whether it did. Waits for
    /// a process that has claimed the row, but not for long.
    fn split(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        key: &SegmentId,
        at: i32,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send {
        async move {
            let locked = begin_on::<Self>(statements, connection, Self::BEGIN_SPLIT, (key, key));
            let Some((mut tx, rows)) = locked.await? else {
                return Ok(false);
            };
            let copy = on_row::<Self>(&statements.copy_half, key).bind(at);
            if copy.execute(&mut tx).await? == 0 {
                tx.rollback().await?;
                return Ok(false);
            }
            let copy = on_row::<Self>(&statements.copy_worker, key).bind(at);
            copy.execute(&mut tx).await?;
            for row in &rows {
                // Of two events that the row names, the halves name one.
                if let NamedEvents {
                    failed: Some(_),
                    unknown: Some(unknown),
                } = row.named()
                {
                    Self::keep_named(statements, &mut tx, row, unknown).await?;
                }
                // What is at the last slice is in the upper half's place already.
                for (from, to) in [(key.slice_from, at), (row.slice_to - 1, at - 1)] {
                    let copy = on_consumer::<Self>(&statements.copy_pending, &key.consumer);
                    copy.bind(from).bind(to).execute(&mut tx).await?;
                }
            }
            let resize = on_row::<Self>(&statements.resize, key).bind(at);
            resize.execute(&mut tx).await?;
            tx.commit().await?;
            Ok(true)
        }
    }

    /// Keeps two neighbouring rows from passing the one that is ahead, for ten seconds; returns whether it
    /// did.
    fn hold(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        left: &SegmentId,
        right: &SegmentId,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send {
        async move {
            let locked = begin_on::<Self>(statements, connection, Self::BEGIN_WRITE, (left, right));
            let Some((mut tx, rows)) = locked.await? else {
                return Ok(false);
            };
            let ahead = rows.iter().map(|row| row.position).max();
            let hold = on_row::<Self>(&statements.hold, left)
                .bind(right.slice_from)
                .bind(ahead)
                .bind(millis(HOLD_FOR));
            hold.execute(&mut tx).await?;
            tx.commit().await?;
            Ok(true)
        }
    }

    /// Merges two neighbouring rows with the same checkpoint; returns whether it did. An event that
    /// has failed in one of them gets all its attempts again: the rows would otherwise have to agree
    /// on them first.
    fn merge(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        left: &SegmentId,
        right: &SegmentId,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send {
        async move {
            let locked = begin_on::<Self>(statements, connection, Self::BEGIN_WRITE, (left, right));
            let Some((mut tx, rows)) = locked.await? else {
                return Ok(false);
            };
            let Some((slice_to, epoch)) = Checkpoint::merged(&rows) else {
                tx.rollback().await?;
                return Ok(false);
            };
            let mut began = rows.iter().map(|row| row.began);
            if began.next() != began.next() {
                // A row has one range.
                let both = left.slice_from..right.slice_from + 1;
                fold::<Self>(statements.folding(), &mut tx, &left.consumer, both).await?;
            }
            for row in &rows {
                for named in row.named().positions() {
                    Self::keep_named(statements, &mut tx, row, named).await?;
                }
            }
            let next = rows.iter().flat_map(|row| row.named().positions()).min();
            for remove in [&statements.remove, &statements.remove_worker] {
                on_row::<Self>(remove, right).execute(&mut tx).await?;
            }
            let merged = on_row::<Self>(&statements.merged, left).bind(slice_to);
            let merged = merged.bind(epoch).bind(next);
            merged.execute(&mut tx).await?;
            tx.commit().await?;
            Ok(true)
        }
    }

    /// Reads the checkpoint rows of the log, including those of consumers that this process does not
    /// have.
    fn snapshot(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Vec<SnapshotRow>, sqlx::Error>> + Send {
        async move {
            let rows = statements
                .snapshot
                .fetch_as_script::<Self>(connection)
                .await?;
            SnapshotRow::decode_all::<Self>(&rows)
        }
    }

    /// Records the first event that a row has yet to handle: it shows whether events were deleted too
    /// early.
    fn note_pending(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        row: &Checkpoint,
        position: i64,
        incarnation: Incarnation,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        let note = on_row::<Self>(&statements.note_pending, &row.key)
            .bind(position)
            .bind(incarnation.started)
            .bind(incarnation.recovered)
            .bind(row.epoch);
        in_transaction::<Self>(note, connection)
    }

    /// Remembers an event that a row names before it names another one; only under the row's claim.
    fn keep_named(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        row: &Checkpoint,
        position: i64,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        let keep = on_consumer::<Self>(&statements.keep_named, &row.key.consumer)
            .bind(row.slice_to - 1)
            .bind(position);
        async move { keep.execute(connection).await.map(drop) }
    }

    /// Records the event before which a row waits for a release that knows it.
    fn note_unknown(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        row: &Checkpoint,
        unknown: &UnknownEvent,
        incarnation: Incarnation,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        let note = on_row::<Self>(&statements.note_unknown, &row.key)
            .bind(unknown.position)
            .bind(incarnation.started)
            .bind(incarnation.recovered)
            .bind(row.epoch)
            .bind(&*unknown.aggregate_type)
            .bind(&*unknown.event_type)
            .bind(unknown.event_version);
        in_transaction::<Self>(note, connection)
    }

    /// Forgets the recorded events that their rows have passed.
    fn drop_passed(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        in_transaction::<Self>(statements.drop_passed.on::<Self>(), connection)
    }

    /// Makes the session of a connection that a handler used outside of the worker's transaction what
    /// it was; fails, or returns false, if the connection has to be replaced.
    fn restore(
        connection: &mut PoolConnection<Self>,
        guard: &Self::Guard,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Takes the row lock of a checkpoint; `None` when another process has it or holds a mark, or when the row is
    /// no longer at the address `at`. Without one, the row is searched for.
    fn claim(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        key: &SegmentId,
        options: ClaimOptions<'_>,
    ) -> impl Future<Output = Result<Option<Claim>, sqlx::Error>> + Send;

    /// Whether there is a row, claimed or not.
    fn exists(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        key: &SegmentId,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send {
        on_row::<Self>(&statements.exists, key).fetch_value(connection, "found")
    }

    /// Saves the checkpoint of a claim, if claim and transaction are still the same, and returns where the
    /// row is once the transaction is committed.
    fn save(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        key: &SegmentId,
        claim: &Claim,
        new: &NewCheckpoint,
        release: &str,
    ) -> impl Future<Output = Result<Option<String>, sqlx::Error>> + Send;

    /// Records the process that works on a row; only under the row's claim.
    fn note_worker(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        key: &SegmentId,
        process: &Process,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send {
        let note = on_row::<Self>(&statements.note_worker, key)
            .bind(&*process.host)
            .bind(process.pid)
            .bind(&*process.release);
        async move { note.execute(connection).await.map(drop) }
    }

    /// Whether it costs less to look at an address than to search for the row.
    fn is_worth_keeping(address: &str) -> bool;

    /// The aggregates of a row's slices that have parked events; only under the row's claim.
    fn parked_aggregates(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        key: &SegmentId,
        slice_to: i32,
    ) -> impl Future<Output = Result<Vec<Aggregate>, sqlx::Error>> + Send {
        async move {
            let query = on_row::<Self>(&statements.parked_aggregates, key).bind(slice_to);
            let rows = query.fetch_all(connection).await?;
            let aggregate = |row| {
                let aggregate_type: String = Self::read(row, "aggregate_type")?;
                Ok((aggregate_type, Self::read(row, "aggregate_id")?))
            };
            rows.iter().map(aggregate).collect()
        }
    }

    /// Whether an aggregate has parked events.
    fn is_parked(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        consumer: &ConsumerId,
        event: &PersistedEvent,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send {
        let parked = on_consumer::<Self>(&statements.is_parked, consumer)
            .bind(&*event.aggregate_type)
            .bind(&*event.aggregate_id);
        async move {
            let events: i64 = parked.fetch_value(connection, "events").await?;
            Ok(events > 0)
        }
    }

    /// Counts the aggregates of a consumer, in all its rows, that have parked events, up to a limit.
    fn count_parked(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        key: &SegmentId,
        limit: i64,
    ) -> impl Future<Output = Result<i64, sqlx::Error>> + Send {
        on_consumer::<Self>(&statements.count_parked, &key.consumer)
            .bind(limit)
            .fetch_value(connection, "aggregates")
    }

    /// The events that any version of a consumer has handled, of a range of slices and after a position;
    /// only under the claim of a row there.
    fn ledger(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        consumer: &ConsumerId,
        after: i64,
        slices: Range<i32>,
    ) -> impl Future<Output = Result<Ledger, sqlx::Error>> + Send {
        Ledger::read::<Self>(
            &statements.ledger,
            connection,
            &consumer.name,
            after,
            slices,
        )
    }

    /// Prevents other versions of a consumer from being the first to handle an event, for the rest of the
    /// transaction; false when another transaction prevents this one. Later reads show what the others handled
    /// before.
    fn lock_precedence(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        holder: &MarkHolder,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send {
        on_mark::<Self>(&statements.lock_precedence, holder).fetch_value(connection, "locked")
    }

    /// The number of parked events of each consumer.
    fn parked_counts(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Vec<(ConsumerId, i64)>, sqlx::Error>> + Send {
        async move {
            let rows = statements
                .parked_counts
                .fetch_as_script::<Self>(connection)
                .await?;
            let count = |row| Ok((ConsumerId::decode::<Self>(row)?, Self::read(row, "events")?));
            rows.iter().map(count).collect()
        }
    }

    /// Parks events; only under the row's claim.
    fn park(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        key: &SegmentId,
        events: &[Parking<'_>],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Advances idle checkpoints over positions without events in their scope, if the server is still
    /// in the incarnation in which that was seen.
    fn advance(
        statements: &CheckpointStatements,
        connection: &mut Self::Connection,
        incarnation: Incarnation,
        moves: &[Advance],
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// The remains of the claim's transaction after a handler failed. Always
    /// [`Open`](Remains::Open) where a [`TransactionGuard`] sees that it ended.
    fn remains(
        connection: &mut Self::Connection,
        claim: &Claim,
    ) -> impl Future<Output = Remains> + Send;

    /// Shows the server that the claim's process is alive.
    fn touch(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Ends a statement that a handler left running on another connection.
    fn terminate(
        connection: &mut Self::Connection,
        backend: i32,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Whether the error is about the database's health rather than about the statement.
    fn is_infrastructure(error: &dyn DatabaseError) -> bool;

    /// Whether the text of an error, whose type was lost on the way, is about the database's health.
    fn names_infrastructure(text: &str) -> bool;

    /// Whether the error says that the server ended a transaction that was idle for too long.
    fn is_claim_timeout(error: &dyn DatabaseError) -> bool;

    /// Whether the error says that the server ended a transaction that took too long.
    fn is_transaction_timeout(error: &dyn DatabaseError) -> bool;

    /// Whether the error says that an earlier one was ignored in the same transaction.
    fn is_aborted_transaction(error: &dyn DatabaseError) -> bool;

    /// Whether the error is the refusal of a handler's own `COMMIT` (R4).
    fn is_refused_commit(error: &dyn DatabaseError) -> bool;

    /// Whether the error comes from a prepared statement of the session that is older than its tables, or that an
    /// earlier batch has left.
    fn is_stale_statement(error: &dyn DatabaseError) -> bool;

    /// Whether the error says that a prepared statement is not that of this connection, as behind a
    /// pooler that does not know of them.
    fn is_shared_statement(error: &dyn DatabaseError) -> bool;

    /// Whether the error says that the transaction or its server only reads.
    fn is_read_only(error: &dyn DatabaseError) -> bool;

    /// Whether the error says that the current role, or the connection, may not write.
    fn is_forbidden(error: &dyn DatabaseError) -> bool;
}

/// Runs a statement in a transaction of its own.
async fn in_transaction<DB: Checkpoints>(
    statement: Statement<DB>,
    connection: &mut DB::Connection,
) -> Result<(), sqlx::Error> {
    let mut tx = connection
        .begin_with(DB::BEGIN_WRITE.into_sql_str())
        .await?;
    statement.execute(&mut tx).await?;
    tx.commit().await
}

/// The remains of a claim's transaction after a handler failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remains {
    /// The transaction.
    Open,
    /// The transaction, void because a statement in it failed.
    Void,
    /// Another one or none: the handler ended it (R4).
    Nothing,
}

/// How a row is claimed.
#[derive(Clone, Copy, Debug)]
pub struct ClaimOptions<'a> {
    /// The lane that claims it.
    pub(crate) holder: &'a str,
    /// Where the row was last.
    pub(crate) at: Option<&'a str>,
    /// For how long the server keeps the claim of a process that does not answer.
    pub(crate) timeout: Duration,
    /// Whether to read the session, for [`TransactionGuard::is_same`].
    pub(crate) with_session: bool,
}

/// Keeps the session of a connection as it was, and tells whether a handler ended the transaction of
/// its worker (R4).
pub trait TransactionGuard: Send + Sync + 'static {
    /// Begins a lane's transaction, in a session without the settings of earlier handlers.
    fn begin(&self) -> SqlStr;

    /// Begins the transaction of a lane that only folds, in a session that no handler has used since it was
    /// last restored.
    fn begin_fold(&self) -> SqlStr;

    /// Lets the worker end the transaction, or stops anyone from doing so.
    fn allow_end(&self, allowed: bool);

    /// Ends the statement that is running, where there is no server to do it; the connection is not
    /// used again.
    fn give_up(&self);

    /// The statement that was refused or seen, if there was one.
    fn violation(&self) -> Option<&'static str>;

    /// Whether a claim found the session as it was when the connection was opened.
    fn is_same(&self, session: &str) -> bool;
}

/// A consumer that reads another log of the same database.
#[derive(Debug)]
pub struct OtherLog {
    pub(crate) consumer: Arc<str>,
    /// The other log's table of events.
    pub(crate) log: String,
}

/// Adds a consumer to the log, or returns the other log that it belongs to.
async fn join_log<DB: Checkpoints>(
    statements: &CheckpointStatements,
    connection: &mut DB::Connection,
    consumer: &str,
) -> Result<Option<String>, sqlx::Error> {
    for change in [&statements.leave_log, &statements.join_log] {
        change.on::<DB>().bind(consumer).execute(connection).await?;
    }
    DB::other_log(statements, connection, consumer).await
}

/// Starts a save.
pub(super) fn bind_save<DB: Driver>(
    statement: &Sql,
    key: &SegmentId,
    claim: &Claim,
    new: &NewCheckpoint,
    release: &str,
) -> Statement<DB> {
    let failure = new.failure.as_ref();
    let failed_releases = new.failed_releases(&claim.checkpoint, release);
    on_row(statement, key)
        .bind(new.position)
        .bind(new.state.as_str())
        .bind(failure.map_or(0, Failure::attempts_column))
        .bind(failure.map(Failure::retry_in_millis))
        .bind(failure.map(|failure| failure.position))
        .bind_message(failure.map(|failure| &*failure.error))
        .bind(claim.checkpoint.position)
        .bind(claim.checkpoint.epoch)
        .bind(failed_releases.as_deref())
        .bind(failure.map(|_| release))
}

/// Begins a transaction in which two rows of one consumer, or one of them twice, are locked, waiting for their
/// owners; `None` if a handler works on them without a claim.
async fn begin_on<'c, DB: Checkpoints>(
    statements: &CheckpointStatements,
    connection: &'c mut DB::Connection,
    begin: &'static str,
    (left, right): (&SegmentId, &SegmentId),
) -> Result<Option<(Transaction<'c, DB>, Vec<Checkpoint>)>, sqlx::Error> {
    let mut tx = connection.begin_with(begin.into_sql_str()).await?;
    let query = on_row::<DB>(&statements.lock_rows, left).bind(right.slice_from);
    let rows = query.fetch_all(&mut tx).await?;
    let rows: Vec<Checkpoint> = rows
        .iter()
        .map(Checkpoint::decode::<DB>)
        .collect::<Result<_, _>>()?;
    if must_wait_for::<DB>(statements, &mut tx, &rows).await? {
        tx.commit().await?;
        return Ok(None);
    }
    Ok(Some((tx, rows)))
}

/// Whether a handler without a claim works on slices of a consumer. If so, lanes begin no other batch
/// there until the caller tries again, once it has committed.
pub(crate) async fn must_wait<DB: Checkpoints>(
    statements: &CheckpointStatements,
    connection: &mut DB::Connection,
    consumer: &ConsumerId,
    slices: Range<i32>,
) -> Result<bool, sqlx::Error> {
    if DB::HOLDS_CLAIMS {
        return Ok(false);
    }
    let of_the_dead = (&statements.mark_holders, &statements.expire_mark);
    expire_of_the_dead::<DB>(of_the_dead, connection, consumer).await?;
    let holder = MarkHolder::waiting(consumer, slices);
    let is_working = on_mark::<DB>(&statements.is_working, &holder);
    let is_working = is_working.fetch_value(connection, "working").await?;
    if is_working {
        let wait = on_mark::<DB>(&statements.wait, &holder)
            .bind(&*holder.id)
            .bind(millis(WAIT_FOR));
        wait.execute(connection).await?;
    } else {
        let proceed = on_consumer::<DB>(&statements.release_mark, consumer).bind(&*holder.id);
        proceed.execute(connection).await?;
    }
    Ok(is_working)
}

/// Whether a handler works on neighbouring rows without a claim.
async fn must_wait_for<DB: Checkpoints>(
    statements: &CheckpointStatements,
    connection: &mut DB::Connection,
    rows: &[Checkpoint],
) -> Result<bool, sqlx::Error> {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return Ok(false);
    };
    let slices = first.key.slice_from..last.slice_to;
    must_wait::<DB>(statements, connection, &first.key.consumer, slices).await
}
