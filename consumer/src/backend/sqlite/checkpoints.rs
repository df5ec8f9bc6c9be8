//! Checkpoints on SQLite: how rows are claimed, saved and advanced.

use sqlx::Executor as _;
use sqlx::error::DatabaseError;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqliteConnection};

use super::connect::{BEGIN_WRITE, BUSY, READONLY, primary_code};
use super::hooks::{self, HookGuard, session};
use crate::backend::checkpoints::{
    CheckpointStatements, Checkpoints, ClaimOptions, OnThread, Remains, TransactionGuard as _,
    bind_save,
};
use crate::backend::marks::of_other_versions;
use crate::backend::renames::Renames;
use crate::backend::rows::{Advance, Claim, NewCheckpoint, Parking, SegmentId};
use crate::backend::rows::{on_consumer, on_row};
use crate::backend::{Incarnation, StoreSettings, aggregate_slice};

/// The result codes of a disk that fails, and of one that is full.
const IOERR: i64 = 10;
const FULL: i64 = 13;

impl Renames for Sqlite {
    /// The transaction, begun IMMEDIATE, is the lock.
    const LOCK_NAMES: &'static str = "SELECT 1";

    const IS_WORKING: &'static str = "
        SELECT EXISTS (SELECT 1 FROM {marks}
                        WHERE consumer = $1 AND held_until > {now}
                          AND holder NOT LIKE 'waiting: %') AS working";
}

impl Checkpoints for Sqlite {
    type Guard = HookGuard;

    const HOLDS_CLAIMS: bool = false;
    const WRITERS: Option<usize> = Some(1);
    const LANES_ON_ONE_CORE: bool = true;
    // Other writers of the file wait for each transaction, and a commit costs little.
    const MOST_BATCHES: usize = 1;
    const RESTORES_SESSION: bool = false;
    const BEGIN_WRITE: &'static str = BEGIN_WRITE;
    const BEGIN_ENROLL: &'static str = BEGIN_WRITE;
    const BEGIN_SPLIT: &'static str = BEGIN_WRITE;

    const CLAIM: &'static str = concat!(
        "
        -- The transaction, begun IMMEDIATE, is the lock.
        UPDATE {progress} AS p SET claims = claims + 1
         WHERE consumer = $1 AND version = $2 AND slice_from = $3
           -- Another process works on the row without a claim, or waits for its turn to change it. With
           -- its own mark, a lane need not let those pass who wait.
           AND NOT EXISTS (
               SELECT 1 FROM {marks} AS m
                WHERE m.consumer = p.consumer AND m.version = p.version
                  AND m.slice_from < p.slice_to AND m.slice_to > p.slice_from
                  AND m.held_until > {now} AND instr(m.holder, $4) = 0
                  AND (m.holder NOT LIKE 'waiting: %' OR NOT EXISTS (
                       SELECT 1 FROM {marks} AS own
                        WHERE own.consumer = p.consumer AND own.version = p.version
                          AND instr(own.holder, $4) > 0)))
           -- No claim on tables that this library cannot work with, which ends the worker soon.
           AND {tables fit}
     RETURNING {checkpoint}, CASE WHEN hold_until > {now} THEN hold_at END AS hold_at,
               {ms until retry_at} AS retry_in, worker_release,
               EXISTS (SELECT 1 FROM {parked} AS k
                        WHERE k.consumer = $1 AND k.version = $2) AS parked,
               -- No other version can be added while the transaction is open.
               CASE WHEN EXISTS (SELECT 1 FROM {progress} AS o
                                  WHERE o.consumer = $1 AND o.version <> $2)
                    THEN 'open' ELSE 'held' END AS precedence,
               EXISTS (SELECT 1 FROM {handled} AS h
                        WHERE h.consumer = $1 AND h.up_to > position) AS is_replaying,
               -- There is no server.
                0 AS backend, '' AS \"transaction\", '' AS address, 0 AS started, 0 AS recovered,
               CASE WHEN $5 THEN ",
        session!(),
        " ELSE '' END AS session"
    );

    /// The file has no dead rows.
    const CLAIM_AT: &'static str = Self::CLAIM;

    const SAVE: &'static str = "{save}";

    const SAVE_AT: &'static str = Self::SAVE;

    /// There is no server.
    const SAME_INCARNATION: &'static str = "$5 = $5 AND $6 = $6";

    /// The transaction, begun IMMEDIATE, is the lock; what other versions handle outside is recorded.
    const LOCK_PRECEDENCE: &'static str =
        concat!("SELECT NOT EXISTS (", of_other_versions!(), ") AS locked");

    const ADVANCE: &'static str = "
        UPDATE {progress}
           SET position = min($6, CASE WHEN hold_until > {now} THEN hold_at ELSE $6 END),
               attempts = 0, retry_at = NULL,
               failed_position = CASE WHEN failed_position > $6 THEN failed_position END,
               error = CASE WHEN failed_position > $6 THEN error END,
               failed_releases = CASE WHEN failed_position > $6 THEN failed_releases END,
               updated_at = {now}
         WHERE consumer = $1 AND version = $2 AND slice_from = $3 AND epoch = $4 AND slice_to = $7
           AND state = 'running' AND position >= $5
           -- An event that failed may have come into the other half of a row that was split.
           AND (attempts = 0 OR failed_position <= $6)
           -- One that the row names, and that was deleted, is not passed unseen.
           AND (position < failed_position AND failed_position <= $6
                AND failed_position IS NOT $8) IS NOT TRUE
           AND (position < unknown_position AND unknown_position <= $6
                AND unknown_position IS NOT $9) IS NOT TRUE
           AND position < min($6, CASE WHEN hold_until > {now} THEN hold_at ELSE $6 END)
           -- A handler that works on the row has its claim's place.
           AND NOT EXISTS (
               SELECT 1 FROM {marks} AS m
                WHERE m.consumer = $1 AND m.version = $2 AND m.slice_from < $7 AND m.slice_to > $3
                  AND m.held_until > {now} AND m.holder NOT LIKE 'waiting: %')
           AND {tables fit}";

    const PARK: &'static str = "
        INSERT INTO {parked} (consumer, version, aggregate_type, aggregate_id, position, slice, reason,
                              attempts, error, replay, parked_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, {message $9}, $10, {now})
        ON CONFLICT (consumer, version, position) DO NOTHING";

    async fn guard(
        connection: &mut PoolConnection<Self>,
        _settings: &StoreSettings,
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

    async fn restore(
        connection: &mut PoolConnection<Self>,
        guard: &HookGuard,
    ) -> Result<bool, sqlx::Error> {
        let session = hooks::read_session(connection).await?;
        Ok(guard.is_same(&session))
    }

    async fn claim(
        statements: &CheckpointStatements,
        connection: &mut SqliteConnection,
        key: &SegmentId,
        options: ClaimOptions<'_>,
    ) -> Result<Option<Claim>, sqlx::Error> {
        let claim = on_row::<Self>(&statements.claim, key)
            .bind(options.holder)
            .bind(options.with_session);
        let row = claim.fetch_optional(connection).await?;
        row.map(|row| Claim::decode::<Self>(&row, key.clone()))
            .transpose()
    }

    async fn save(
        statements: &CheckpointStatements,
        connection: &mut SqliteConnection,
        key: &SegmentId,
        claim: &Claim,
        new: &NewCheckpoint,
        release: &str,
    ) -> Result<Option<String>, sqlx::Error> {
        let save = bind_save::<Self>(&statements.save, key, claim, new, release);
        let is_saved = save.execute(connection).await? == 1;
        Ok(is_saved.then(String::new))
    }

    fn is_worth_keeping(_address: &str) -> bool {
        false
    }

    async fn park(
        statements: &CheckpointStatements,
        connection: &mut SqliteConnection,
        key: &SegmentId,
        events: &[Parking<'_>],
    ) -> Result<(), sqlx::Error> {
        for parking in events {
            on_consumer::<Self>(&statements.park, &key.consumer)
                .bind(&*parking.event.aggregate_type)
                .bind(&*parking.event.aggregate_id)
                .bind(parking.event.global_position)
                .bind(i32::from(aggregate_slice(&parking.event.aggregate_id)))
                .bind(parking.reason())
                .bind(parking.attempts())
                .bind_message(parking.error())
                .bind(i32::from(parking.is_replay))
                .execute(connection)
                .await?;
        }
        Ok(())
    }

    async fn advance(
        statements: &CheckpointStatements,
        connection: &mut SqliteConnection,
        _incarnation: Incarnation,
        moves: &[Advance],
    ) -> Result<(), sqlx::Error> {
        for one in moves {
            on_row::<Self>(&statements.advance, &one.key)
                .bind(one.epoch)
                .bind(one.from)
                .bind(one.to)
                .bind(one.slice_to)
                .bind(one.excluded.failed)
                .bind(one.excluded.unknown)
                .execute(connection)
                .await?;
        }
        Ok(())
    }

    async fn remains(_connection: &mut SqliteConnection, _claim: &Claim) -> Remains {
        Remains::Open
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
        const LOCKED: i64 = 6;
        matches!(primary_code(error), Some(BUSY | LOCKED | IOERR | FULL))
    }

    /// These two errors end the transaction by themselves, which looks like a handler's `ROLLBACK` if
    /// the handler returns them as text: the message alone, or as sqlx writes it, after the code. A handler
    /// may use the same words for a disk of its own.
    fn names_infrastructure(text: &str) -> bool {
        const ERRORS: [(i64, &str); 2] = [
            (IOERR, "disk I/O error"),
            (FULL, "database or disk is full"),
        ];
        let mut with_codes = text.split("(code: ").skip(1);
        let is_error = |text: &str| {
            let (code, message) = text.split_once(") ")?;
            let code = code.parse::<i64>().ok()? & 0xff;
            let is_named = |(own, words): &(i64, &str)| code == *own && message.starts_with(words);
            ERRORS.iter().find(|error| is_named(error))
        };
        ERRORS.iter().any(|(_, message)| text == *message)
            || with_codes.any(|text| is_error(text).is_some())
    }

    fn is_claim_timeout(_: &dyn DatabaseError) -> bool {
        false
    }

    fn is_transaction_timeout(_: &dyn DatabaseError) -> bool {
        false
    }

    fn is_aborted_transaction(_error: &dyn DatabaseError) -> bool {
        false
    }

    fn is_refused_commit(error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| code == "531")
    }

    fn is_stale_statement(_error: &dyn DatabaseError) -> bool {
        // A statement whose tables have changed is prepared again.
        false
    }

    fn is_shared_statement(_error: &dyn DatabaseError) -> bool {
        false
    }

    fn is_read_only(_error: &dyn DatabaseError) -> bool {
        false
    }

    fn is_forbidden(error: &dyn DatabaseError) -> bool {
        primary_code(error) == Some(READONLY)
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Row as _, Sqlite};

    use crate::SqliteEventStore;
    use crate::backend::checkpoints::Checkpoints as _;

    #[test]
    fn only_an_error_of_sqlite_itself_names_its_disk() {
        for text in [
            "disk I/O error",
            "error returned from database: (code: 13) database or disk is full",
            "cannot save: (code: 266) disk I/O error, try later",
            "(code: 1) no such table: (code: 778) disk I/O error",
        ] {
            assert!(Sqlite::names_infrastructure(text), "{text}");
        }
        for text in [
            "the printer reports: disk I/O error",
            "quota of the tenant: database or disk is full",
            "(code: 1) near \"disk I/O error\": syntax error",
            "(code: 13) disk I/O error",
            "(code: x) disk I/O error",
        ] {
            assert!(!Sqlite::names_infrastructure(text), "{text}");
        }
    }

    #[tokio::test]
    async fn parked_aggregates_are_found_by_the_index_one_by_one() {
        let store = SqliteEventStore::connect("sqlite::memory:").await.unwrap();
        store.migrate().await.unwrap();
        let statements = Sqlite::checkpoint_statements(store.settings());
        for sql in [&statements.parked_aggregates, &statements.count_parked] {
            let explained = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", sql.as_ref()));
            let rows = sqlx::query(explained)
                .fetch_all(store.pool())
                .await
                .unwrap();
            let steps: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
            let looks = steps.iter().filter(|step| {
                step.contains("consumer_parked_aggregate (consumer=? AND version=?")
            });
            assert!(looks.count() >= 2, "{steps:#?}");
            assert!(
                !steps
                    .iter()
                    .any(|step| step.starts_with("SCAN consumer_parked")),
                "{steps:#?}"
            );
        }
    }
}
