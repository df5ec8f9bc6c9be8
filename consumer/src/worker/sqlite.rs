//! The worker's SQL on SQLite.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Executor as _, Row};
use tokio::sync::Notify;

use super::dialect::{
    Advance, Aggregate, Blocker, Checkpoint, Claim, Dialect, Enrolment, FrontierWatch, HOLD_FOR,
    LaneKey, Observation, Parking, Progress, ServerLife, Standing, State, TransactionGuard,
    WorkerBackend, statements,
};
use super::feed::aggregate_slice;
use super::one_core::Core;
use super::{LogProblem, WorkerError};
use crate::store::{EventStore, Sql};

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
  RETURNING slice_to, position, epoch, claims, scope, state, replay_to, ",
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
    SELECT position, epoch, slice_to, state FROM {progress}
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

const SURVEY: &str = concat!(
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
    SELECT consumer, version, count(*) FROM {parked} GROUP BY consumer, version";

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

const HEAD: &str = "SELECT coalesce(max({global_position}), 0) FROM {events}";

/// The highest position that was ever given out; SQLite gives rolled-back ones out again. The name
/// is that of the table as it was made, in whatever letters the mapping has it.
const GIVEN_OUT: &str =
    "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?1 COLLATE NOCASE";

const HIGHEST_CHECKPOINT: &str =
    "SELECT consumer, position FROM {progress} ORDER BY position DESC LIMIT 1";

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
        survey: SURVEY,
        advance: ADVANCE,
        parked_aggregates: PARKED_AGGREGATES,
        count_parked: COUNT_PARKED,
        parked_counts: PARKED_COUNTS,
        park: PARK,
    }
}

/// The hooks of a connection: they refuse a commit that is not the worker's and see a rollback.
#[derive(Clone, Debug, Default)]
pub struct HookGuard(Arc<Hooks>);

#[derive(Debug, Default)]
struct Hooks {
    allowed: AtomicBool,
    given_up: AtomicBool,
    violation: AtomicU8,
}

/// After how many steps of SQLite's machine it asks whether to go on: some milliseconds.
const STEPS: i32 = 100_000;

/// After how many steps a reader comes to its core: in its first read.
const SOON: i32 = 1_000;

const COMMITTED: u8 = 1;
const ROLLED_BACK: u8 = 2;

impl TransactionGuard for HookGuard {
    fn allow_end(&self, allowed: bool) {
        self.0.allowed.store(allowed, Ordering::Release);
        if allowed {
            return;
        }
        self.0.violation.store(0, Ordering::Release);
    }

    fn give_up(&self) {
        self.0.given_up.store(true, Ordering::Release);
    }

    fn violation(&self) -> Option<&'static str> {
        match self.0.violation.load(Ordering::Acquire) {
            COMMITTED => Some("COMMIT"),
            ROLLED_BACK => Some("ROLLBACK"),
            _ => None,
        }
    }
}

impl Hooks {
    /// Whether the end of the transaction may go on; notes who tried when it may not.
    fn end(&self, how: u8) -> bool {
        let allowed = self.allowed.load(Ordering::Acquire);
        if !allowed {
            // A refused commit rolls back, which must not hide what was tried first.
            let _ = self
                .violation
                .compare_exchange(0, how, Ordering::AcqRel, Ordering::Acquire);
        }
        allowed
    }
}

impl WorkerBackend for Sqlite {}

impl Dialect for Sqlite {
    type Watch = SqliteWatch;
    type Guard = HookGuard;

    type Sql = SqliteStatements;

    fn sql(store: &EventStore<Self>) -> SqliteStatements {
        SqliteStatements::new(store)
    }

    const HOLDS_CLAIMS: bool = false;
    const WRITERS: Option<usize> = Some(1);
    const LANES_ON_ONE_CORE: bool = true;
    // Whoever else writes to the file waits for each transaction, which costs little here.
    const MOST_BATCHES: usize = 1;
    const RESTING: usize = 0;
    const POLL_INTERVAL: Duration = Duration::from_millis(50);
    // Taking the write lock at once keeps two writers from reading first and then failing to
    // become writers.
    const BEGIN_BATCH: &'static str = "BEGIN IMMEDIATE";
    const BEGIN_READ: &'static str = "BEGIN";

    async fn guard(
        connection: &mut PoolConnection<Self>,
        mut core: Option<Core>,
    ) -> Result<HookGuard, sqlx::Error> {
        let guard = HookGuard::default();
        guard.allow_end(true);
        let mut handle = connection.lock_handle().await?;
        let hooks = Arc::clone(&guard.0);
        handle.set_commit_hook(move || {
            // The hook runs on the connection's thread, which the pool may have started anywhere.
            if let Some(core) = core.take() {
                core.keep_thread();
            }
            hooks.end(COMMITTED)
        });
        let hooks = Arc::clone(&guard.0);
        handle.set_rollback_hook(move || {
            hooks.end(ROLLED_BACK);
        });
        let hooks = Arc::clone(&guard.0);
        handle.set_progress_handler(STEPS, move || !hooks.given_up.load(Ordering::Acquire));
        Ok(guard)
    }

    async fn keep_on(connection: &mut PoolConnection<Self>, core: Core) -> Result<(), sqlx::Error> {
        let mut core = Some(core);
        let mut handle = connection.lock_handle().await?;
        handle.set_progress_handler(SOON, move || {
            // It runs on the connection's thread, which the pool may have started anywhere.
            if let Some(core) = core.take() {
                core.keep_thread();
            }
            true
        });
        Ok(())
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
                .bind(&*enrolment.consumer)
                .bind(enrolment.version)
                .bind(enrolment.width)
                .bind(&*enrolment.scope)
                .bind(enrolment.position(settled))
                .execute(&mut *tx)
                .await?;
            statements
                .try_again
                .query()
                .bind(&*enrolment.consumer)
                .bind(enrolment.version)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await
    }

    async fn split(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
        key: &LaneKey,
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
        left: &LaneKey,
        right: &LaneKey,
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
        left: &LaneKey,
        right: &LaneKey,
    ) -> Result<bool, sqlx::Error> {
        let mut tx = connection.begin_with(Self::BEGIN_BATCH).await?;
        let rows = rows(statements, &mut tx, left, right).await?;
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
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
    ) -> Result<Vec<Checkpoint>, sqlx::Error> {
        let rows = statements.survey.query().fetch_all(connection).await?;
        rows.iter().map(checkpoint).collect()
    }

    async fn claim(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
        key: &LaneKey,
        _timeout: Duration,
    ) -> Result<Option<Claim>, sqlx::Error> {
        let row = statements
            .claim
            .query()
            .bind(&*key.consumer)
            .bind(key.version)
            .bind(key.slice_from)
            .fetch_optional(connection)
            .await?;
        row.as_ref().map(claim).transpose()
    }

    async fn save(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
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
            .bind(failure.map_or(0, |failure| failure.attempts))
            .bind(failure.map(|f| i64::try_from(f.retry_in.as_millis()).unwrap_or(i64::MAX / 2)))
            .bind(failure.map(|failure| failure.position))
            .bind(failure.map(|failure| failure.error.as_str()))
            .bind(claim.position)
            .bind(claim.epoch)
            .execute(connection)
            .await?;
        Ok(saved.rows_affected() == 1)
    }

    async fn parked_aggregates(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
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
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
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
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
    ) -> Result<Vec<(String, i32, i64)>, sqlx::Error> {
        let rows = sqlx::raw_sql(statements.parked_counts.safe())
            .fetch_all(connection)
            .await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
            .collect()
    }

    async fn park(
        statements: &SqliteStatements,
        connection: &mut SqliteConnection,
        key: &LaneKey,
        events: &[Parking<'_>],
    ) -> Result<(), sqlx::Error> {
        for parking in events {
            statements
                .park
                .query()
                .bind(&*key.consumer)
                .bind(key.version)
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
        _life: ServerLife,
        moves: &[Advance],
    ) -> Result<(), sqlx::Error> {
        for m in moves {
            statements
                .advance
                .query()
                .bind(&*m.key.consumer)
                .bind(m.key.version)
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

    fn is_aborted_transaction(_error: &dyn DatabaseError) -> bool {
        false
    }

    fn is_refused_commit(error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| code == "531")
    }

    async fn listen(_store: EventStore<Self>, _url: Option<Arc<str>>, _wake: Arc<Notify>) {
        std::future::pending::<()>().await;
    }
}

type SqliteQuery<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// Starts a statement whose first three parameters are the key of a row.
fn on_row<'q>(statement: &Sql, key: &'q LaneKey) -> SqliteQuery<'q> {
    statement
        .query()
        .bind(&*key.consumer)
        .bind(key.version)
        .bind(key.slice_from)
}

/// Reads two rows of one consumer; the transaction has locked them, and all others.
async fn rows(
    statements: &SqliteStatements,
    connection: &mut SqliteConnection,
    left: &LaneKey,
    right: &LaneKey,
) -> Result<Vec<Standing>, sqlx::Error> {
    let rows = on_row(&statements.rows, left)
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

/// The first byte of an extended result code.
fn primary_code(error: &dyn DatabaseError) -> Option<i64> {
    error.code()?.parse::<i64>().ok().map(|code| code & 0xff)
}

fn claim(row: &SqliteRow) -> Result<Claim, sqlx::Error> {
    Ok(Claim {
        slice_to: row.try_get("slice_to")?,
        position: row.try_get("position")?,
        epoch: row.try_get("epoch")?,
        claims: row.try_get("claims")?,
        scope: row.try_get("scope")?,
        state: State::parse(row.try_get("state")?),
        replay_to: row.try_get("replay_to")?,
        hold_at: row.try_get("hold_at")?,
        attempts: row.try_get("attempts")?,
        retry_in: row
            .try_get::<Option<i64>, _>("retry_in")?
            .and_then(|millis| u64::try_from(millis).ok())
            .filter(|&millis| millis > 0)
            .map(Duration::from_millis),
        failed_position: row.try_get("failed_position")?,
        error: row.try_get("error")?,
        parked: row.try_get("parked")?,
        life: ServerLife::default(),
        backend: 0,
        transaction: String::new(),
    })
}

fn aggregate(row: &SqliteRow) -> Result<Aggregate, sqlx::Error> {
    Ok((row.try_get(0)?, row.try_get(1)?))
}

fn checkpoint(row: &SqliteRow) -> Result<Checkpoint, sqlx::Error> {
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
        attempts: row.try_get("attempts")?,
        failed_position: row.try_get("failed_position")?,
        error: row.try_get("error")?,
    })
}

/// The frontier on SQLite: the head, since there is one writer and a position that was rolled back
/// is given out again.
pub struct SqliteWatch {
    head_statement: Sql,
    events: Arc<str>,
    head: i64,
    data_version: Option<i64>,
}

async fn given_out(events: &str, connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(GIVEN_OUT)
        .bind(events)
        .fetch_one(connection)
        .await
}

impl SqliteWatch {
    async fn refuse_reset(&self, connection: &mut SqliteConnection) -> Result<(), WorkerError> {
        let last_value = given_out(&self.events, connection).await?;
        if last_value >= self.head {
            return Ok(());
        }
        Err(WorkerError::Log(LogProblem::Reset {
            what: "the settled frontier".into(),
            position: self.head,
            last_value,
        }))
    }
}

impl FrontierWatch<Sqlite> for SqliteWatch {
    async fn start(
        store: &EventStore<Sqlite>,
        connection: &mut SqliteConnection,
    ) -> Result<Self, WorkerError> {
        let highest = store
            .sql(HIGHEST_CHECKPOINT)
            .query()
            .fetch_optional(&mut *connection)
            .await?;
        // Last: others go on meanwhile, and what they have handled was given out before.
        let last_value = given_out(store.schema().events_name(), connection).await?;
        if let Some(row) = highest {
            let consumer: String = row.try_get("consumer")?;
            let position: i64 = row.try_get("position")?;
            if position > last_value {
                return Err(WorkerError::Log(LogProblem::Reset {
                    what: format!("the checkpoint of `{consumer}`"),
                    position,
                    last_value,
                }));
            }
        }
        Ok(Self {
            head_statement: store.sql(HEAD),
            events: store.schema().events_name().into(),
            head: 0,
            data_version: None,
        })
    }

    async fn observe(
        &mut self,
        connection: &mut SqliteConnection,
    ) -> Result<Observation, WorkerError> {
        // Changes when another connection has committed, and costs no look at the table.
        let data_version: i64 = sqlx::query_scalar("PRAGMA data_version")
            .fetch_one(&mut *connection)
            .await?;
        if self.data_version != Some(data_version) {
            let head: i64 = self
                .head_statement
                .scalar()
                .fetch_one(&mut *connection)
                .await?;
            // The newest events may have been archived: what was given out is never given out again.
            if head < self.head {
                self.refuse_reset(connection).await?;
            }
            self.head = self.head.max(head);
            self.data_version = Some(data_version);
        }
        Ok(Observation {
            settled: self.head,
            head: self.head,
            life: ServerLife::default(),
            waiting: false,
            more: false,
        })
    }

    async fn blockers(
        &self,
        _connection: &mut SqliteConnection,
    ) -> Result<Vec<Blocker>, sqlx::Error> {
        Ok(Vec::new())
    }
}
