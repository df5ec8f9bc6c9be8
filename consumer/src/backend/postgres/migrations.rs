//! The tables on Postgres, version by version, and checks of tables that exist already.

use sqlx::{AssertSqlSafe, PgConnection, Row as _, raw_sql};

use super::connect::lock_number;
use crate::backend::migrations::ledger_replaces_replay_to;
use crate::backend::version::KNOWN;
use crate::backend::{StoreError, StoreSettings};

/// All versions, oldest first.
pub(super) const MIGRATIONS: [&str; KNOWN] = [V1, V2, V3, V4, V5, V6, super::retired::TABLES, V8];

/// Creates the table of versions.
pub(super) const VERSIONS: &str = "
CREATE TABLE IF NOT EXISTS {versions} (
    version INT PRIMARY KEY,
    applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
";

/// Not `CREATE SCHEMA IF NOT EXISTS`, which needs the right to create one even where it does nothing.
pub(super) const CREATE_SCHEMA: &str = "
DO $consumer$ BEGIN
    IF to_regnamespace('{schema}') IS NULL THEN
        CREATE SCHEMA {schema};
    END IF;
END $consumer$;
";

macro_rules! events {
    () => {
        "
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

"
    };
}

macro_rules! heads {
    () => {
        "CREATE TABLE IF NOT EXISTS {heads} (
    {aggregate_type} TEXT NOT NULL,
    {aggregate_id} TEXT NOT NULL,
    {aggregate_version} BIGINT NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY ({aggregate_type}, {aggregate_id})
);

"
    };
}

/// The indexes of a table that begin with type and position, in the catalogue with a prefix.
macro_rules! scope_index_of {
    ($catalogue:literal, $table:literal) => {
        concat!(
            "SELECT FROM ",
            $catalogue,
            "pg_index AS i
        JOIN ",
            $catalogue,
            "pg_attribute AS first ON first.attrelid = i.indrelid AND first.attnum = i.indkey[0]
        JOIN ",
            $catalogue,
            "pg_attribute AS second ON second.attrelid = i.indrelid AND second.attnum = i.indkey[1]
        WHERE i.indrelid = ",
            $table,
            " AND i.indpred IS NULL AND i.indisvalid
          AND first.attname = '{=aggregate_type}' AND second.attname = '{=global_position}'"
        )
    };
}

macro_rules! scope_index {
    () => {
        concat!(
            "-- What reads of one aggregate type rest on; a table that exists already may have it under any name.
DO $consumer$ BEGIN
    IF NOT EXISTS (
        ",
            scope_index_of!("", "'{events}'::regclass"),
            "
    ) THEN
        CREATE INDEX ON {events} ({aggregate_type}, {global_position});
    END IF;
END $consumer$;

"
        )
    };
}

/// The beginning of the first version: the tables of the log.
pub(super) const EVENTS: &str = events!();
pub(super) const HEADS: &str = heads!();
pub(super) const SCOPE_INDEX: &str = scope_index!();

const V1: &str = concat!(
    events!(),
    heads!(),
    scope_index!(),
    "-- A row for each slice of each version of a consumer; its position is the checkpoint, its lock is
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

-- The index on aggregates comes with version 3, without the ids that are too long for one.
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
"
);

const V2: &str = "
-- Which version of a consumer serves, where it was chosen.
CREATE TABLE IF NOT EXISTS {active} (
    consumer TEXT PRIMARY KEY,
    version INT NOT NULL,
    activated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
";

const V3: &str = "
-- The aggregates with parked events, which are read with each batch. A row of an index has at most 2,704
-- bytes; an aggregate with a longer name can be parked all the same, and is found without this index.
CREATE INDEX IF NOT EXISTS consumer_parked_aggregate
    ON {parked} (consumer, version, aggregate_type, aggregate_id)
    WHERE octet_length(consumer) + octet_length(aggregate_type) + octet_length(aggregate_id) < 2500;
CREATE INDEX IF NOT EXISTS consumer_parked_long_aggregate
    ON {parked} (consumer, version)
    WHERE NOT (octet_length(consumer) + octet_length(aggregate_type) + octet_length(aggregate_id) < 2500);
";

/// An older library would keep no ledger of what it handles, so it cannot work with these tables.
const V4: &str = concat!(
    "
-- What consumers have handled before their rows went back, changed their scope or disappeared: all
-- events of the scope in these slices, after a position and up to another. It has no versions.
CREATE TABLE IF NOT EXISTS {handled} (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer TEXT NOT NULL,
    scope TEXT NOT NULL,
    slice_from INT NOT NULL,
    slice_to INT NOT NULL,
    after BIGINT NOT NULL,
    up_to BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS consumer_handled_consumer ON {handled} (consumer, up_to);

-- A row has handled what is after `began` and up to its position.
ALTER TABLE {progress} ADD COLUMN IF NOT EXISTS began BIGINT NOT NULL DEFAULT 0;
ALTER TABLE {parked} ADD COLUMN IF NOT EXISTS replay BOOLEAN NOT NULL DEFAULT false;

",
    ledger_replaces_replay_to!(),
    "
-- The log that a consumer reads, by its table of events: several can share these tables.
CREATE TABLE IF NOT EXISTS {logs} (
    consumer TEXT PRIMARY KEY,
    log TEXT NOT NULL
);

-- The oldest version that a library must know to work with the tables: this one, until a later
-- version says otherwise.
ALTER TABLE {versions} ADD COLUMN IF NOT EXISTS needs INT NOT NULL DEFAULT 4;
"
);

const V5: &str = "
-- What is known of a log besides its frontier: the lowest position that it was seen to have, and how
-- often events in it were changed.
CREATE TABLE IF NOT EXISTS {log_state} (
    log TEXT PRIMARY KEY,
    first_position BIGINT,
    rewrites BIGINT NOT NULL DEFAULT 0
);

-- The first event that a row had yet to handle when a worker last looked: if it is gone, events were
-- deleted too early.
CREATE TABLE IF NOT EXISTS {pending} (
    consumer TEXT NOT NULL,
    version INT NOT NULL,
    slice_from INT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (consumer, version, slice_from)
);

-- The tables of read models, and the views over the active version. Programs that do not know of it
-- have none.
CREATE TABLE IF NOT EXISTS {read models} (
    consumer text NOT NULL,
    version integer NOT NULL,
    schema_name text NOT NULL,
    view_name text NOT NULL,
    table_name text NOT NULL,
    PRIMARY KEY (consumer, version)
);
";

/// The columns have no index, so that updates of rows stay off the others.
const V6: &str = "
-- The event before which the row waits for a release that knows it, unless it has passed it.
ALTER TABLE {progress} ADD COLUMN IF NOT EXISTS unknown_position BIGINT;
ALTER TABLE {progress} ADD COLUMN IF NOT EXISTS unknown_aggregate TEXT;
ALTER TABLE {progress} ADD COLUMN IF NOT EXISTS unknown_type TEXT;
ALTER TABLE {progress} ADD COLUMN IF NOT EXISTS unknown_version INT;

-- The releases that stopped at `failed_position`, each between line breaks.
ALTER TABLE {progress} ADD COLUMN IF NOT EXISTS failed_releases TEXT;

-- The process that last saved the row after a claim, and when.
ALTER TABLE {progress} ADD COLUMN IF NOT EXISTS worker_host TEXT;
ALTER TABLE {progress} ADD COLUMN IF NOT EXISTS worker_pid BIGINT;
ALTER TABLE {progress} ADD COLUMN IF NOT EXISTS worker_release TEXT;
ALTER TABLE {progress} ADD COLUMN IF NOT EXISTS worker_at TIMESTAMPTZ;
";

const V8: &str = "
-- The process that works on a row, which it records at most once a second. In the row, whose versions
-- stay as long as a transaction may see them, it would make each a third larger: `worker_host`,
-- `worker_pid` and `worker_at` are written only by libraries that know no later version than 7, and
-- `worker_release` is the release that counted the row's attempts.
CREATE TABLE IF NOT EXISTS {workers} (
    consumer TEXT NOT NULL,
    version INT NOT NULL,
    slice_from INT NOT NULL,
    host TEXT NOT NULL,
    pid BIGINT NOT NULL,
    release TEXT NOT NULL,
    seen_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (consumer, version, slice_from)
) WITH (fillfactor = 50);

-- No library that may work with the tables reads it any more, and NULL takes no space.
ALTER TABLE {progress} ALTER COLUMN replay_to DROP DEFAULT, ALTER COLUMN replay_to DROP NOT NULL;
UPDATE {progress} SET replay_to = NULL WHERE replay_to IS NOT NULL;
";

/// The sessions with locks on the library's tables or on migrations. Those of other roles show no times
/// without the rights of `pg_read_all_stats`.
const LOCK_HOLDERS: &str = concat!(
    "
    SELECT DISTINCT coalesce(format('pid %s (app=%s%s)', l.pid, nullif(a.application_name, ''),
               ', open ' || extract(epoch FROM clock_timestamp() - a.xact_start)::bigint || ' s'),
               'a prepared transaction') AS holder
      FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
     WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND (l.relation IN (to_regclass('{events}'), to_regclass('{progress}'),
                           to_regclass('{frontier}'), to_regclass('{parked}'),
                           to_regclass('{handled}'), to_regclass('{logs}'),
                           to_regclass('{active}'), to_regclass('{retired}'),
                           to_regclass('{log_state}'), to_regclass('{pending}'),
                           to_regclass('{read models}'), to_regclass('{workers}'),
                           to_regclass('{versions}'))
            OR l.locktype = 'advisory' AND l.objsubid = 1
               AND (l.classid::bigint << 32) + l.objid::bigint = ",
    lock_number!(migration),
    ")
     ORDER BY holder LIMIT 10"
);

/// The sessions that a migration may be waiting for, each in words.
pub(super) async fn lock_holders(
    connection: &mut PgConnection,
    settings: &StoreSettings,
) -> Result<Vec<String>, StoreError> {
    let holders = raw_sql(AssertSqlSafe(settings.render(LOCK_HOLDERS)));
    let rows = holders.fetch_all(connection).await?;
    let holders: Result<_, _> = rows.iter().map(|row| row.try_get("holder")).collect();
    Ok(holders?)
}

/// Where the tables are: the library's were created together, and that of events may be older. The catalogue
/// comes first in a search path that does not name it, except for temporary tables, which have no functions.
#[cfg(feature = "worker")]
const LOCATION: &str = concat!(
    "
    SELECT (SELECT n.nspname::text FROM pg_catalog.pg_class AS c
              JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
             WHERE c.oid = pg_catalog.to_regclass('{progress}')) AS own,
           (SELECT n.nspname::text FROM pg_catalog.pg_class AS c
              JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
             WHERE c.oid = pg_catalog.to_regclass('{events}')) AS events,
           EXISTS (",
    scope_index_of!("pg_catalog.", "pg_catalog.to_regclass('{events}')"),
    ") AS has_scope_index,
           pg_catalog.current_setting('search_path') AS search_path,
           (SELECT s.name FROM pg_catalog.unnest(pg_catalog.current_schemas(true))
                               WITH ORDINALITY AS s (name, place)
             WHERE s.name NOT LIKE 'pg\\_temp\\_%'
             ORDER BY s.place LIMIT 1) = 'pg_catalog' AS is_safe"
);

/// Finds the schemas of the tables.
#[cfg(feature = "worker")]
pub(super) async fn locate(
    connection: &mut PgConnection,
    settings: &StoreSettings,
) -> Result<StoreSettings, StoreError> {
    let located = raw_sql(AssertSqlSafe(settings.render(LOCATION)))
        .fetch_one(connection)
        .await?;
    if !located.try_get::<bool, _>("is_safe")? {
        let found = located.try_get("search_path")?;
        return Err(StoreError::SearchPath { found });
    }
    let found = |column| located.try_get::<Option<String>, _>(column);
    let missing = |table: &str| StoreError::NotMigrated {
        missing: format!("there is no table `{table}`"),
    };
    let own = found("own")?.ok_or_else(|| missing("consumer_progress"))?;
    let events = settings.schema.events_name();
    let events = found("events")?.ok_or_else(|| missing(events))?;
    let has_scope_index = located.try_get("has_scope_index")?;
    let schema = settings.schema.clone();
    let schema = schema.located(own, events, has_scope_index);
    schema.check()?;
    Ok(StoreSettings {
        schema,
        ..settings.clone()
    })
}
