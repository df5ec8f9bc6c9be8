//! The tables on Postgres.

use sqlx::{PgConnection, PgPool, raw_sql};

use super::connect::refuse_old_server;
use super::statements::Statements;
use crate::backend::Sql;
use crate::backend::{Schema, StoreError};

/// Every version of the tables, oldest first. A released one is never changed.
const MIGRATIONS: [&str; 2] = [V1, V2];

/// Any number that nobody else is likely to lock.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7166182912370463009)";

const VERSIONS: &str = "
CREATE TABLE IF NOT EXISTS {versions} (
    version INT PRIMARY KEY,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
";

const V1: &str = "
CREATE TABLE IF NOT EXISTS {events} (
    {global_position} BIGSERIAL PRIMARY KEY,
    {aggregate_type} TEXT NOT NULL,
    {aggregate_id} TEXT NOT NULL,
    {aggregate_version} BIGINT NOT NULL,
    {event_id} UUID NOT NULL UNIQUE,
    {event_type} TEXT NOT NULL,
    {event_version} INT NOT NULL DEFAULT 1,
    {payload} BYTEA NOT NULL,
    {trace_id} TEXT,
    {correlation_id} TEXT,
    {causation_id} TEXT,
    {metadata} JSONB,
    {created_at} TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE ({aggregate_type}, {aggregate_id}, {aggregate_version})
);

CREATE TABLE IF NOT EXISTS {heads} (
    {aggregate_type} TEXT NOT NULL,
    {aggregate_id} TEXT NOT NULL,
    {aggregate_version} BIGINT NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY ({aggregate_type}, {aggregate_id})
);

-- What reads of one aggregate type rest on; a table that exists already may have it under any name.
DO $consumer$ BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_index AS i
        JOIN pg_attribute AS first ON first.attrelid = i.indrelid AND first.attnum = i.indkey[0]
        JOIN pg_attribute AS second ON second.attrelid = i.indrelid AND second.attnum = i.indkey[1]
        WHERE i.indrelid = '{events}'::regclass AND i.indpred IS NULL AND i.indisvalid
          AND first.attname = '{=aggregate_type}' AND second.attname = '{=global_position}'
    ) THEN
        CREATE INDEX ON {events} ({aggregate_type}, {global_position});
    END IF;
END $consumer$;

-- A row for each slice of each version of a consumer; its position is the checkpoint, its lock is
-- ownership. Room in each page keeps its updates off the index.
CREATE TABLE IF NOT EXISTS {progress} (
    consumer TEXT NOT NULL,
    version INT NOT NULL,
    slice_from INT NOT NULL,
    slice_to INT NOT NULL,
    position BIGINT NOT NULL,
    epoch BIGINT NOT NULL DEFAULT 0,
    claims BIGINT NOT NULL DEFAULT 0,
    scope TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'stopped')),
    replay_to BIGINT NOT NULL DEFAULT 0,
    hold_at BIGINT,
    hold_until TIMESTAMPTZ,
    attempts INT NOT NULL DEFAULT 0,
    retry_at TIMESTAMPTZ,
    failed_position BIGINT,
    error TEXT,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, version, slice_from),
    CHECK (0 <= slice_from AND slice_from < slice_to AND slice_to <= 1024)
) WITH (fillfactor = 50);

-- The position up to which the log is settled, for all consumers.
CREATE TABLE IF NOT EXISTS {frontier} (
    log TEXT PRIMARY KEY,
    settled BIGINT NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- Without an index on aggregates, though the set of them is read with each batch: it would add the
-- consumer's name to ids that just fit the index of the events, which could then not be parked.
CREATE TABLE IF NOT EXISTS {parked} (
    consumer TEXT NOT NULL,
    version INT NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    slice INT NOT NULL,
    reason TEXT NOT NULL CHECK (reason IN ('failed', 'behind')),
    attempts INT NOT NULL DEFAULT 0,
    error TEXT,
    parked_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, version, position)
);

-- A consumer never commits the transaction that it is given. Claiming a row changes `claims`; at the
-- commit this wants the mark that only the worker's save has set in that very transaction.
CREATE OR REPLACE FUNCTION {guard}() RETURNS trigger LANGUAGE plpgsql AS $consumer$ BEGIN
    IF current_setting('consumer.saved', true) IS DISTINCT FROM pg_current_xact_id()::text THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZC004',
            MESSAGE = 'a handler of consumer ' || NEW.consumer
                || ' tried to commit the transaction of its worker',
            HINT = 'Write through the connection that the handler is given, without COMMIT, ROLLBACK or BEGIN; a nested begin() is fine.';
    END IF;
    RETURN NULL;
END $consumer$;

DROP TRIGGER IF EXISTS consumer_guard ON {progress};
CREATE CONSTRAINT TRIGGER consumer_guard AFTER UPDATE ON {progress}
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.claims IS DISTINCT FROM OLD.claims) EXECUTE FUNCTION {guard}();
";

const V2: &str = "
-- Which version of a consumer serves, where somebody has said so.
CREATE TABLE IF NOT EXISTS {active} (
    consumer TEXT PRIMARY KEY,
    version INT NOT NULL,
    activated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
";

fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

fn numbered() -> impl Iterator<Item = (i64, &'static str)> {
    (1..).zip(MIGRATIONS)
}

/// The whole migration as one script.
pub(super) fn script(schema: &Schema) -> String {
    let mut script = format!("BEGIN;\n{LOCK};\n{}{VERSIONS}", create_schema(schema));
    for (version, sql) in numbered() {
        script.push_str(sql);
        script.push_str(&record(version));
    }
    script.push_str("COMMIT;\n");
    schema.render(&script)
}

/// The schema's own `CREATE`, where the tables are to be in one.
fn create_schema(schema: &Schema) -> String {
    match schema.database_schema_name() {
        Some(name) => format!("CREATE SCHEMA IF NOT EXISTS \"{name}\";\n"),
        None => String::new(),
    }
}

fn record(version: i64) -> String {
    format!("INSERT INTO {{versions}} (version) VALUES ({version}) ON CONFLICT DO NOTHING;\n")
}

pub(super) async fn migrate(pool: &PgPool, statements: &Statements) -> Result<(), StoreError> {
    // Under READ COMMITTED the version read after the lock is that of whoever held it before.
    let mut tx = pool
        .begin_with("BEGIN ISOLATION LEVEL READ COMMITTED")
        .await?;
    refuse_old_server(&mut tx).await?;
    raw_sql(LOCK).execute(&mut *tx).await?;
    let found = if has_versions(&mut tx, statements).await? {
        version(&mut tx, statements).await?
    } else {
        let first = format!("{}{VERSIONS}", create_schema(statements.schema()));
        run(&mut tx, statements, &first).await?;
        0
    };
    refuse_newer(found)?;
    for (version, sql) in numbered().skip_while(|(version, _)| *version <= found) {
        let sql = format!("{sql}{}", record(version));
        run(&mut tx, statements, &sql).await?;
    }
    // Before the commit: tables that do not fit are left without ours beside them.
    probe(&mut tx, statements).await?;
    Ok(tx.commit().await?)
}

/// Asked first, since `CREATE … IF NOT EXISTS` wants the right to create also where it does nothing.
async fn has_versions(tx: &mut PgConnection, statements: &Statements) -> Result<bool, StoreError> {
    let name = statements.schema().render("{versions}");
    Ok(sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .persistent(statements.settings().keep_statements)
        .bind(name)
        .fetch_one(tx)
        .await?)
}

async fn run(tx: &mut PgConnection, statements: &Statements, sql: &str) -> Result<(), StoreError> {
    let sql = Sql::new(statements.settings(), sql);
    raw_sql(sql.safe()).execute(tx).await?;
    Ok(())
}

async fn version(conn: &mut PgConnection, statements: &Statements) -> Result<i64, StoreError> {
    Ok(statements.version.scalar().fetch_one(conn).await?)
}

fn refuse_newer(found: i64) -> Result<(), StoreError> {
    let known = known();
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    Ok(())
}

pub(super) async fn check(pool: &PgPool, statements: &Statements) -> Result<(), StoreError> {
    // In one transaction, so that a pooler between us and the server cannot come in between.
    let mut tx = pool.begin().await?;
    refuse_old_server(&mut tx).await?;
    let found = version(&mut tx, statements).await?;
    refuse_newer(found)?;
    if found < known() {
        return Err(StoreError::NotMigrated {
            missing: format!("they are at version {found} of {}", known()),
        });
    }
    probe(&mut tx, statements).await?;
    Ok(tx.commit().await?)
}

/// Asks for every column, and for no row.
async fn probe(conn: &mut PgConnection, statements: &Statements) -> Result<(), StoreError> {
    for probe in [&statements.probe_events, &statements.probe_heads] {
        let probed = probe.query().execute(&mut *conn).await;
        probed.map_err(|error| StoreError::from(error).despite_migration(statements.schema()))?;
    }
    Ok(())
}
