//! Checkpoints on Postgres: how rows are claimed, saved and advanced.

use std::sync::Arc;

use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgDatabaseError, Postgres};
use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, Row as _, SqlSafeStr as _, SqlStr, raw_sql,
};

use super::connect::{
    BEGIN_WRITE, CURRENT_TRANSACTION, begin, begin_write, has_code, lock_number,
    server_incarnation, with_numbers,
};
use crate::backend::checkpoints::{
    CheckpointStatements, Checkpoints, ClaimOptions, OnThread, Remains, TransactionGuard, bind_save,
};
use crate::backend::renames::Renames;
use crate::backend::rows::on_row;
use crate::backend::rows::{Advance, Claim, NewCheckpoint, Parking, SegmentId};
use crate::backend::sql::without_nul;
use crate::backend::{Incarnation, StoreSettings, aggregate_slice};
use crate::contract::columns::column;

/// Restores the session at the begin of each transaction, and guards that the transaction ends only after a
/// save.
#[derive(Debug)]
pub struct SessionGuard {
    begin: Arc<str>,
    begin_fold: Arc<str>,
    /// Restores the session of a handler that is not called in a transaction.
    restore: Arc<str>,
}

impl SessionGuard {
    /// Records the session. Where statements are not kept, other clients of a pooler may have left some
    /// of the same names on the server's connection.
    async fn record(
        connection: &mut PgConnection,
        settings: &StoreSettings,
    ) -> Result<Self, sqlx::Error> {
        // A name that has been checked to contain no quote.
        let schema = settings.schema.handlers_schema();
        let session = SESSION.replace("$schema", schema.unwrap_or_default());
        let session = raw_sql(AssertSqlSafe(session))
            .fetch_one(connection)
            .await?;
        let restore: String = session.try_get("restore")?;
        let forget = if settings.keep_statements {
            ""
        } else {
            "; DEALLOCATE ALL"
        };
        let set_path: String = match schema {
            Some(_) => session.try_get("set_path")?,
            None => String::new(),
        };
        let begin: Arc<str> = format!("{BEGIN_BATCH}; {restore}{forget}; {set_path}{GUARD}").into();
        let begin_fold = if settings.keep_statements {
            format!("{BEGIN_BATCH}; {set_path}").into()
        } else {
            // Nor are its settings, which other clients of the pooler may have changed.
            Arc::clone(&begin)
        };
        let restore = format!("{BEGIN_BATCH}; {restore}{forget}; {UNLOCK}; COMMIT").into();
        Ok(Self {
            begin,
            begin_fold,
            restore,
        })
    }
}

/// Like [`BEGIN_WRITE`], without its timeout: a claim sets its own.
const BEGIN_BATCH: &str = concat!(begin!(), " READ WRITE");

/// The setting that does not exist, and what the error about it says.
macro_rules! refusal {
    () => {
        "consumer.a handler may not commit the transaction of its worker"
    };
}

/// Refuses a commit before the checkpoint is saved (R4): a COMMIT runs the queries of cursors that outlive it, and
/// this one fails unless a save has set `consumer.saved`. Unlike a deferred trigger, it needs no version of the
/// checkpoint row. After a save, the cursor stays until the next batch.
///
/// It also releases the advisory locks of the session that a handler has left, at no message of its own.
const GUARD: &str = concat!(
    "CLOSE ALL; DECLARE consumer_guard NO SCROLL CURSOR WITH HOLD FOR \
     SELECT CASE WHEN pg_catalog.current_setting('consumer.saved', true) \
                      = pg_catalog.pg_current_xact_id()::pg_catalog.text \
            THEN pg_catalog.pg_advisory_unlock_all()::pg_catalog.text \
            ELSE pg_catalog.current_setting('",
    refusal!(),
    "') END"
);

/// Releases the advisory locks of a session.
const UNLOCK: &str = "SELECT pg_catalog.pg_advisory_unlock_all()";

/// The statements that restore the session, and the one that puts the schema of handlers first in the
/// search path of the transaction. They run in the message of the next BEGIN, since in that of
/// the COMMIT they would reset what the guard looks for. A setting may take the rights of the
/// role that logged in, and the role is none of the settings that are reset.
///
/// Temporary tables and channels are dropped, unless the pool has made some on each new connection. Both
/// statements together cost the server 2 µs if there is nothing to drop.
const SESSION: &str = "
    SELECT concat(
           'SET SESSION AUTHORIZATION ', quote_literal(session_user), '; RESET ALL; ',
           (SELECT 'SELECT ' || string_agg(
                   format('pg_catalog.set_config(%L, %L, false)', name, setting), ', ') || '; '
              FROM pg_catalog.pg_settings
             WHERE source = 'session' AND name NOT LIKE 'transaction%'),
           CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_class
                                  WHERE relnamespace = pg_catalog.pg_my_temp_schema())
                THEN 'DISCARD TEMP; ' END,
           CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
                THEN 'UNLISTEN *; ' END,
           'SET ROLE ', quote_literal(current_setting('role'))) AS restore,
           -- Without the catalogue, which comes first then.
           format('SELECT pg_catalog.set_config(''search_path'', %L, true); ',
                  (SELECT string_agg(quote_ident(name), ', ' ORDER BY place)
                     FROM unnest('$schema'::text || current_schemas(false)::text[])
                          WITH ORDINALITY AS s (name, place)
                    WHERE name <> 'pg_catalog')) AS set_path";

impl TransactionGuard for SessionGuard {
    fn begin(&self) -> SqlStr {
        // Made of literals that the server has quoted.
        AssertSqlSafe(Arc::clone(&self.begin)).into_sql_str()
    }

    fn begin_fold(&self) -> SqlStr {
        AssertSqlSafe(Arc::clone(&self.begin_fold)).into_sql_str()
    }

    fn allow_end(&self, _allowed: bool) {}

    fn give_up(&self) {}

    fn violation(&self) -> Option<&'static str> {
        None
    }

    fn is_same(&self, _session: &str) -> bool {
        true
    }
}

/// The block from which on a row is looked for at its address. In a table that has fewer, a search reads few, and
/// the planner would choose to read the whole table even where the address is given. A prepared
/// statement keeps such a plan while the table grows.
const FIRST_BLOCK: u32 = 16;

/// The block of an address such as `(16,3)`.
fn block(address: &str) -> Option<u32> {
    let (block, _) = address.strip_prefix('(')?.split_once(',')?;
    block.parse().ok()
}

/// The number of an advisory lock of consumer `$1`, in the schema of its checkpoints: the consumers of tenants have the
/// same names.
/// - `precedence` is the lock of the version that handles events first.
/// - `turn` is that of version `$2`. Lanes share it during a batch, and a command takes it alone: no lane gets it while
///   a command waits, which a lock on the row does not ensure.
macro_rules! consumer_lock {
    (precedence) => {
        "hashtextextended($1, '{progress}'::regclass::oid::bigint)"
    };
    (turn) => {
        "hashtextextended($1, ('{progress}'::regclass::oid::bigint << 31) + $2)"
    };
}
pub(super) use consumer_lock;

/// Claims a row that fulfils a condition besides its key.
macro_rules! claim {
    ($condition:literal) => {
        concat!(
            "
        WITH p AS (
            SELECT *, ctid::text AS address FROM {progress}
             WHERE consumer = $1 AND version = $2 AND slice_from = $3
               AND pg_try_advisory_xact_lock_shared(", consumer_lock!(turn), ")
               -- No claim on tables that this library cannot work with, which ends the worker soon.
               AND {tables fit} ",
            $condition,
            "
               FOR UPDATE SKIP LOCKED)
        SELECT {checkpoint}, CASE WHEN hold_until > {now} THEN hold_at END AS hold_at,
               {ms until retry_at} AS retry_in, worker_release, address,
               EXISTS (SELECT FROM {parked} AS k
                        WHERE k.consumer = p.consumer AND k.version = p.version) AS parked,
               -- Two ranges of the index, between which the own rows are not looked at.
               CASE WHEN EXISTS (SELECT FROM {progress} AS o
                                  WHERE o.consumer = p.consumer AND o.version < p.version)
                      OR EXISTS (SELECT FROM {progress} AS o
                                  WHERE o.consumer = p.consumer AND o.version > p.version)
                    THEN 'open'
                    -- A version that this statement does not see yet has to wait for the claim.
                    WHEN pg_try_advisory_xact_lock_shared(", consumer_lock!(precedence), ")
                    THEN 'held' ELSE 'taken' END AS precedence,
               EXISTS (SELECT FROM {handled} AS h
                        WHERE h.consumer = p.consumer AND h.up_to > p.position) AS is_replaying,
               pg_backend_pid() AS backend, pg_current_xact_id()::text AS transaction, '' AS session,
               -- In this transaction only, these end the claim of a process that froze, or that is
               -- behind a cut network: one that sends no statement, one that acknowledges no answer,
               -- and one that is gone while its statement runs.
               set_config('idle_in_transaction_session_timeout', $4, true),
               set_config('tcp_user_timeout', $4, true),
               CASE WHEN current_setting('server_version_num')::int >= 140000
                    THEN set_config('client_connection_check_interval', $4, true) END, ",
            server_incarnation!(),
            " FROM p"
        )
    };
}

/// Saves the checkpoint of a claimed row that fulfils a condition besides its key.
macro_rules! save {
    ($condition:literal) => {
        concat!(
            "
        WITH saved AS ({save}
               -- Another transaction means that a handler ended the claim's and began one of its own.
               AND pg_current_xact_id()::text = $14 ",
            $condition,
            "
         RETURNING ctid::text AS address)
        -- The guard looks for it; it ends with the transaction.
        SELECT address, set_config('consumer.saved', pg_current_xact_id()::text, true) FROM saved"
        )
    };
}

impl Renames for Postgres {
    const LOCK_NAMES: &'static str =
        concat!("SELECT pg_advisory_xact_lock(", lock_number!(names), ")");

    /// A claim is held while a handler works elsewhere.
    const IS_WORKING: &'static str = "SELECT $1::text IS NULL AS working";
}

impl Checkpoints for Postgres {
    type Guard = SessionGuard;

    const HOLDS_CLAIMS: bool = true;
    const WRITERS: Option<usize> = None;
    const LANES_ON_ONE_CORE: bool = false;
    const MOST_BATCHES: usize = 8;
    const RESTORES_SESSION: bool = true;
    const BEGIN_WRITE: &'static str = BEGIN_WRITE;
    const BEGIN_ENROLL: &'static str = begin_write!(concat!(
        "SELECT pg_advisory_xact_lock(",
        lock_number!(names),
        ")"
    ));
    const BEGIN_SPLIT: &'static str = begin_write!("SET LOCAL lock_timeout = '2s'");

    const CLAIM: &'static str = claim!("");
    const CLAIM_AT: &'static str = claim!("AND ctid = $5::text::tid");
    const SAVE: &'static str = save!("");
    const SAVE_AT: &'static str = save!("AND ctid = $15::text::tid");

    const SAME_INCARNATION: &'static str = server_incarnation!(is "$5", "$6");

    const LOCK_PRECEDENCE: &'static str = concat!(
        "
        SELECT pg_try_advisory_xact_lock(",
        consumer_lock!(precedence),
        ") AS locked"
    );

    const ADVANCE: &'static str = concat!(
        "
        WITH move AS (
            SELECT * FROM UNNEST($1::text[], $2::int[], $3::int[], $4::bigint[], $5::bigint[],
                                 $6::bigint[], $7::int[], $8::bigint[], $9::bigint[])
                AS m (consumer, version, slice_from, epoch, low, high, slice_to, failed, unknown)),
        free AS (
            SELECT p.consumer, p.version, p.slice_from, m.high AS seen,
                   LEAST(m.high, CASE WHEN p.hold_until > {now} THEN p.hold_at END) AS high
              FROM {progress} AS p JOIN move AS m USING (consumer, version, slice_from)
             WHERE p.epoch = m.epoch AND p.slice_to = m.slice_to AND p.state = 'running'
               AND p.position >= m.low
               -- An event that failed may have come into the other half of a row that was split.
               AND (p.attempts = 0 OR p.failed_position <= m.high)
               -- One that the row names, and that was deleted, is not passed unseen.
               AND (p.position < p.failed_position AND p.failed_position <= m.high
                    AND p.failed_position IS DISTINCT FROM m.failed) IS NOT TRUE
               AND (p.position < p.unknown_position AND p.unknown_position <= m.high
                    AND p.unknown_position IS DISTINCT FROM m.unknown) IS NOT TRUE
               AND p.position < LEAST(m.high, CASE WHEN p.hold_until > {now} THEN p.hold_at END)
               AND {tables fit}
               -- What was seen in another incarnation of the server advances nothing: a pooler keeps
               -- our connection while the server behind it restarts.
               AND ",
        server_incarnation!(is "$10", "$11"),
        "
               -- The owner of a claimed row advances it.
               FOR UPDATE OF p SKIP LOCKED)
        UPDATE {progress} AS p
           SET position = free.high, attempts = 0, retry_at = NULL,
               failed_position = CASE WHEN p.failed_position > free.seen THEN p.failed_position END,
               error = CASE WHEN p.failed_position > free.seen THEN p.error END,
               failed_releases = CASE WHEN p.failed_position > free.seen THEN p.failed_releases END,
               updated_at = {now}
          FROM free
         WHERE (p.consumer, p.version, p.slice_from)
             = (free.consumer, free.version, free.slice_from)"
    );

    const PARK: &'static str = "
        INSERT INTO {parked} (consumer, version, aggregate_type, aggregate_id, position, slice, reason,
                              attempts, error, replay)
        SELECT $1, $2, e.aggregate_type, e.aggregate_id, e.position, e.slice, e.reason, e.attempts,
               {message e.error}, e.replay
          FROM UNNEST($3::text[], $4::text[], $5::bigint[], $6::int[], $7::text[], $8::int[],
                      $9::bytea[], $10::bool[])
            AS e (aggregate_type, aggregate_id, position, slice, reason, attempts, error, replay)
        ON CONFLICT (consumer, version, position) DO NOTHING";

    async fn guard(
        connection: &mut PoolConnection<Self>,
        settings: &StoreSettings,
        _on_thread: Option<OnThread>,
    ) -> Result<SessionGuard, sqlx::Error> {
        SessionGuard::record(connection, settings).await
    }

    async fn on_thread(
        _connection: &mut PoolConnection<Self>,
        _on_thread: OnThread,
    ) -> Result<(), sqlx::Error> {
        Ok(())
    }

    async fn restore(
        connection: &mut PoolConnection<Self>,
        guard: &SessionGuard,
    ) -> Result<bool, sqlx::Error> {
        // Made of literals that the server has quoted.
        let restore = AssertSqlSafe(Arc::clone(&guard.restore));
        raw_sql(restore).execute(&mut **connection).await?;
        Ok(true)
    }

    async fn claim(
        statements: &CheckpointStatements,
        connection: &mut PgConnection,
        key: &SegmentId,
        options: ClaimOptions<'_>,
    ) -> Result<Option<Claim>, sqlx::Error> {
        let timeout = options.timeout.as_millis().to_string();
        let claim = match options.at {
            Some(at) => on_row::<Self>(&statements.claim_at, key)
                .bind(&*timeout)
                .bind(at),
            None => on_row::<Self>(&statements.claim, key).bind(&*timeout),
        };
        let row = claim.fetch_optional(connection).await?;
        row.map(|row| Claim::decode::<Self>(&row, key.clone()))
            .transpose()
    }

    async fn save(
        statements: &CheckpointStatements,
        connection: &mut PgConnection,
        key: &SegmentId,
        claim: &Claim,
        new: &NewCheckpoint,
        release: &str,
    ) -> Result<Option<String>, sqlx::Error> {
        let bind = |statement| {
            bind_save::<Self>(statement, key, claim, new, release).bind(&*claim.transaction)
        };
        if Self::is_worth_keeping(&claim.address) {
            let save = bind(&statements.save_at).bind(&*claim.address);
            if let Some(row) = save.fetch_optional(&mut *connection).await? {
                return row.try_get("address").map(Some);
            }
        }
        // The handler may have updated the row, which moves it.
        let row = bind(&statements.save).fetch_optional(connection).await?;
        row.map(|row| row.try_get("address")).transpose()
    }

    fn is_worth_keeping(address: &str) -> bool {
        block(address).is_some_and(|block| block >= FIRST_BLOCK)
    }

    async fn park(
        statements: &CheckpointStatements,
        connection: &mut PgConnection,
        key: &SegmentId,
        events: &[Parking<'_>],
    ) -> Result<(), sqlx::Error> {
        let slice = |parking: &Parking<'_>| i32::from(aggregate_slice(&parking.event.aggregate_id));
        let error = |parking: &Parking<'_>| Some(without_nul(parking.error()?).into_bytes());
        let park = statements.park.query::<Self>();
        park.bind(&*key.consumer.name)
            .bind(key.consumer.version_column())
            .bind(column(events, |parking| &*parking.event.aggregate_type))
            .bind(column(events, |parking| &*parking.event.aggregate_id))
            .bind(column(events, |parking| parking.event.global_position))
            .bind(column(events, slice))
            .bind(column(events, Parking::reason))
            .bind(column(events, Parking::attempts))
            .bind(column(events, error))
            .bind(column(events, |parking| parking.is_replay))
            .execute(connection)
            .await
            .map(drop)
    }

    async fn advance(
        statements: &CheckpointStatements,
        connection: &mut PgConnection,
        incarnation: Incarnation,
        moves: &[Advance],
    ) -> Result<(), sqlx::Error> {
        let mut tx = connection.begin_with(BEGIN_WRITE).await?;
        let advance = statements.advance.query::<Self>();
        advance
            .bind(column(moves, |one| &*one.key.consumer.name))
            .bind(column(moves, |one| one.key.consumer.version_column()))
            .bind(column(moves, |one| one.key.slice_from))
            .bind(column(moves, |one| one.epoch))
            .bind(column(moves, |one| one.from))
            .bind(column(moves, |one| one.to))
            .bind(column(moves, |one| one.slice_to))
            .bind(column(moves, |one| one.excluded.failed))
            .bind(column(moves, |one| one.excluded.unknown))
            .bind(incarnation.started)
            .bind(incarnation.recovered)
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }

    async fn remains(connection: &mut PgConnection, claim: &Claim) -> Remains {
        let current = raw_sql(CURRENT_TRANSACTION)
            .fetch_one(connection)
            .await
            .and_then(|row| row.try_get::<Option<String>, _>(0));
        match current {
            Ok(current) if current.as_deref() == Some(&claim.transaction) => Remains::Open,
            Ok(_) => Remains::Nothing,
            // Or the connection is broken, as the rollback will show.
            Err(_) => Remains::Void,
        }
    }

    async fn touch(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        connection.execute("SELECT 1").await.map(drop)
    }

    async fn terminate(connection: &mut PgConnection, backend: i32) -> Result<(), sqlx::Error> {
        let terminate = with_numbers("SELECT pg_terminate_backend($1)", &[i64::from(backend)]);
        connection.execute(raw_sql(terminate)).await.map(drop)
    }

    fn is_infrastructure(error: &dyn DatabaseError) -> bool {
        let Some(code) = error.code() else {
            return false;
        };
        let class = code.get(..2).unwrap_or_default();
        match class {
            "08" | "40" | "53" | "58" => true,
            // query_canceled is the handler's own statement_timeout.
            "57" => code != "57014",
            _ => {
                Self::is_claim_timeout(error)
                    || Self::is_transaction_timeout(error)
                    || Self::is_read_only(error)
                    || Self::is_shared_statement(error)
            }
        }
    }

    fn names_infrastructure(_text: &str) -> bool {
        // Whatever happened, the server tells with the next statement.
        false
    }

    fn is_claim_timeout(error: &dyn DatabaseError) -> bool {
        // idle_in_transaction_session_timeout
        has_code(error, &["25P03"])
    }

    fn is_transaction_timeout(error: &dyn DatabaseError) -> bool {
        has_code(error, &["25P04"])
    }

    fn is_aborted_transaction(error: &dyn DatabaseError) -> bool {
        has_code(error, &["25P02"])
    }

    fn is_refused_commit(error: &dyn DatabaseError) -> bool {
        match error.code().as_deref() {
            // undefined_object
            Some("42704") => error.message().contains(refusal!()),
            // feature_not_supported: to prepare a transaction with such a cursor.
            Some("0A000") => is_raised_in(error, "PreCommit_Portals"),
            _ => false,
        }
    }

    fn is_stale_statement(error: &dyn DatabaseError) -> bool {
        match error.code().as_deref() {
            // feature_not_supported
            Some("0A000") => is_raised_in(error, "RevalidateCachedQuery"),
            // duplicate_prepared_statement: of an earlier `PREPARE`.
            Some("42P05") => !Self::is_shared_statement(error),
            _ => false,
        }
    }

    fn is_shared_statement(error: &dyn DatabaseError) -> bool {
        // duplicate_prepared_statement, invalid_sql_statement_name
        has_code(error, &["42P05", "26000"]) && error.message().contains("sqlx_s_")
    }

    fn is_read_only(error: &dyn DatabaseError) -> bool {
        has_code(error, &["25006"])
    }

    fn is_forbidden(error: &dyn DatabaseError) -> bool {
        has_code(error, &["42501"])
    }
}

/// Whether an error comes from this function in the server's code. Its message may be in any language.
fn is_raised_in(error: &dyn DatabaseError, function: &str) -> bool {
    let error = error.try_downcast_ref::<PgDatabaseError>();
    error.and_then(PgDatabaseError::routine) == Some(function)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_worth_keeping_from_its_block_on() {
        for (address, expected) in [
            ("(16,1)", true),
            ("(4294967294,65535)", true),
            ("(15,200)", false),
            ("", false),
            ("16", false),
        ] {
            assert_eq!(Postgres::is_worth_keeping(address), expected, "{address}");
        }
    }
}
