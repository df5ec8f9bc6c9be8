//! The tables on SQLite, version by version, and checks of tables that exist already.

use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::backend::migrations::ledger_replaces_replay_to;
use crate::backend::version::KNOWN;
use crate::backend::{Column, Mismatch, Schema, StoreError};

/// All versions, oldest first.
pub(super) const MIGRATIONS: [&str; KNOWN] = [V1, V2, V3, V4, V5, V6, super::retired::TABLES, V8];

/// Columns of later versions: their tables, their names and their types. A script cannot add a column
/// only where it is missing, so new tables have them from the start.
const LATER_COLUMNS: [(&str, &str, &str); 12] = [
    ("progress", "began", "INTEGER NOT NULL DEFAULT 0"),
    ("parked", "replay", "INTEGER NOT NULL DEFAULT 0"),
    ("versions", "needs", "INTEGER NOT NULL DEFAULT 4"),
    ("progress", "unknown_position", "INTEGER"),
    ("progress", "unknown_aggregate", "TEXT"),
    ("progress", "unknown_type", "TEXT"),
    ("progress", "unknown_version", "INTEGER"),
    ("progress", "failed_releases", "TEXT"),
    ("progress", "worker_host", "TEXT"),
    ("progress", "worker_pid", "INTEGER"),
    ("progress", "worker_release", "TEXT"),
    ("progress", "worker_at", "INTEGER"),
];

/// Creates the table of versions.
pub(super) const VERSIONS: &str = "
CREATE TABLE IF NOT EXISTS {versions} (
    version INTEGER PRIMARY KEY,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')){later columns of versions}
);
";

macro_rules! events {
    () => {
        "
-- AUTOINCREMENT: a position is never given out twice, not even after the last event was deleted.
CREATE TABLE IF NOT EXISTS {events} (
    {global_position} INTEGER PRIMARY KEY AUTOINCREMENT,
    {aggregate_type} TEXT NOT NULL,
    {aggregate_id} TEXT NOT NULL,
    {aggregate_version} INTEGER NOT NULL,
    {event_id} TEXT NOT NULL UNIQUE,
    {event_type} TEXT NOT NULL,
    {event_version} INTEGER NOT NULL DEFAULT 1,
    {payload} BLOB NOT NULL,
    {trace_id} TEXT,
    {correlation_id} TEXT,
    {causation_id} TEXT,
    {metadata} TEXT,
    {created_at} TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
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
    {aggregate_version} INTEGER NOT NULL,
    updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY ({aggregate_type}, {aggregate_id})
);

"
    };
}

macro_rules! scope_index {
    () => {
        "-- What reads of one aggregate type rest on.
CREATE INDEX IF NOT EXISTS consumer_events_scope ON {events} ({aggregate_type}, {global_position});

"
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
    "-- A row for each slice of each version of a consumer; its position is the checkpoint. Times are
-- milliseconds since 1970. It has handled what is after `began` and up to its position.
CREATE TABLE IF NOT EXISTS {progress} (
    consumer TEXT NOT NULL,
    version INTEGER NOT NULL,
    slice_from INTEGER NOT NULL,
    slice_to INTEGER NOT NULL,
    position INTEGER NOT NULL,
    epoch INTEGER NOT NULL DEFAULT 0,
    claims INTEGER NOT NULL DEFAULT 0,
    scope TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'stopped')),
    replay_to INTEGER NOT NULL DEFAULT 0,
    hold_at INTEGER,
    hold_until INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    retry_at INTEGER,
    failed_position INTEGER,
    error TEXT,
    updated_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)){later columns of progress},
    PRIMARY KEY (consumer, version, slice_from),
    CHECK (0 <= slice_from AND slice_from < slice_to AND slice_to <= 1024)
);

-- The position up to which the log is settled, for all consumers.
CREATE TABLE IF NOT EXISTS {frontier} (
    log TEXT NOT NULL PRIMARY KEY,
    settled INTEGER NOT NULL,
    updated_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
);

CREATE TABLE IF NOT EXISTS {parked} (
    consumer TEXT NOT NULL,
    version INTEGER NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    slice INTEGER NOT NULL,
    reason TEXT NOT NULL CHECK (reason IN ('failed', 'behind')),
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    parked_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)){later columns of parked},
    PRIMARY KEY (consumer, version, position)
);

-- Keys of an index have no maximum length here, as they have on Postgres.
CREATE INDEX IF NOT EXISTS consumer_parked_aggregate
    ON {parked} (consumer, version, aggregate_type, aggregate_id);
"
);

const V2: &str = "
-- Which version of a consumer serves, where it was chosen.
CREATE TABLE IF NOT EXISTS {active} (
    consumer TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    activated_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
);
";

/// Only Postgres lacked the index that this version adds there.
const V3: &str = "";

/// An older library would keep no ledger of what it handles, so it cannot work with these tables.
const V4: &str = concat!(
    "
-- Fails where a script finds tables without the columns, which only `migrate()` adds.
SELECT p.began, k.replay, v.needs FROM {progress} AS p, {parked} AS k, {versions} AS v LIMIT 0;

-- What consumers have handled before their rows went back, changed their scope or disappeared: all
-- events of the scope in these slices, after a position and up to another. It has no versions.
CREATE TABLE IF NOT EXISTS {handled} (
    id INTEGER PRIMARY KEY,
    consumer TEXT NOT NULL,
    scope TEXT NOT NULL,
    slice_from INTEGER NOT NULL,
    slice_to INTEGER NOT NULL,
    after INTEGER NOT NULL,
    up_to INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS consumer_handled_consumer ON {handled} (consumer, up_to);

",
    ledger_replaces_replay_to!(),
    "
-- The log that a consumer reads, by its table of events: several can share these tables.
CREATE TABLE IF NOT EXISTS {logs} (
    consumer TEXT NOT NULL PRIMARY KEY,
    log TEXT NOT NULL COLLATE NOCASE
);
"
);

const V5: &str = "
-- What is known of a log besides its frontier: the lowest position that it was seen to have, and how
-- often events in it were changed.
CREATE TABLE IF NOT EXISTS {log_state} (
    log TEXT NOT NULL PRIMARY KEY COLLATE NOCASE,
    first_position INTEGER,
    rewrites INTEGER NOT NULL DEFAULT 0
);

-- The first event that a row had yet to handle when a worker last looked: if it is gone, events were
-- deleted too early.
CREATE TABLE IF NOT EXISTS {pending} (
    consumer TEXT NOT NULL,
    version INTEGER NOT NULL,
    slice_from INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (consumer, version, slice_from)
);

-- Which versions of a consumer handle events of these slices first, outside any transaction.
CREATE TABLE IF NOT EXISTS {marks} (
    consumer TEXT NOT NULL,
    version INTEGER NOT NULL,
    holder TEXT NOT NULL,
    slice_from INTEGER NOT NULL,
    slice_to INTEGER NOT NULL,
    held_until INTEGER NOT NULL,
    PRIMARY KEY (consumer, version, holder)
);

-- The tables of read models, and the views over the active version. Programs that do not know of it
-- have none.
CREATE TABLE IF NOT EXISTS {read models} (
    consumer TEXT NOT NULL,
    version INTEGER NOT NULL,
    schema_name TEXT NOT NULL,
    view_name TEXT NOT NULL,
    table_name TEXT NOT NULL,
    PRIMARY KEY (consumer, version)
);
";

const V6: &str = "
-- Fails where a script finds tables without the columns, which only `migrate()` adds: the event before
-- which the row waits for a release that knows it, unless it has passed it; the releases that stopped at
-- `failed_position`, each between line breaks; and the process that last saved the row after a claim.
SELECT unknown_position, unknown_aggregate, unknown_type, unknown_version, failed_releases,
       worker_host, worker_pid, worker_release, worker_at FROM {progress} LIMIT 0;
";

const V8: &str = "
-- The process that works on a row, which it records at most once a second. `worker_host`, `worker_pid`
-- and `worker_at` of the row are written only by libraries that know no later version than 7, and
-- `worker_release` is the release that counted the row's attempts.
CREATE TABLE IF NOT EXISTS {workers} (
    consumer TEXT NOT NULL,
    version INTEGER NOT NULL,
    slice_from INTEGER NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    release TEXT NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (consumer, version, slice_from)
);
";

/// The columns of later versions, for the definition of a table.
pub(super) fn later_columns(table: &str) -> String {
    let of_table = LATER_COLUMNS.iter().filter(|(of, ..)| *of == table);
    let columns = of_table.map(|(_, name, column_type)| format!(",\n    {name} {column_type}"));
    columns.collect::<Vec<String>>().concat()
}

/// Whether a table exists without a column.
const LACKS: &str = "SELECT count(*) > 0 AND sum(name = $2) = 0 FROM pragma_table_info($1)";

/// Adds the columns of later versions to the tables of an earlier one.
pub(super) async fn add_later_columns(
    connection: &mut SqliteConnection,
    schema: &Schema,
) -> Result<(), StoreError> {
    for (table, name, column_type) in LATER_COLUMNS {
        let table = schema.render(&format!("{{{table}}}"));
        let lacks = sqlx::query_scalar(LACKS)
            .bind(table.trim_matches('"'))
            .bind(name);
        if lacks.fetch_one(&mut *connection).await? {
            let add = format!("ALTER TABLE {table} ADD COLUMN {name} {column_type}");
            sqlx::raw_sql(AssertSqlSafe(add))
                .execute(&mut *connection)
                .await?;
        }
    }
    Ok(())
}

/// Only `AUTOINCREMENT` keeps SQLite from giving the position of a deleted event to a new one. It is
/// allowed on the primary key alone.
pub(super) async fn position_mismatches(
    connection: &mut SqliteConnection,
    schema: &Schema,
    others: &[Mismatch],
) -> Result<Vec<Mismatch>, StoreError> {
    let is_missing = |other: &Mismatch| {
        matches!(
            other,
            Mismatch::NoColumn {
                column: Column::GlobalPosition,
                ..
            }
        )
    };
    let (table, mut column) = (
        schema.events_name(),
        schema.column_name(Column::GlobalPosition),
    );
    if let Some(missing) = others.iter().find(|other| is_missing(other)) {
        let Some(candidate) = missing.only_candidate() else {
            return Ok(Vec::new());
        };
        column = candidate;
    }
    let sql: Option<String> = sqlx::query_scalar(
        "SELECT sql FROM sqlite_schema AS s JOIN pragma_table_info(s.name) AS c
          WHERE s.type = 'table' AND s.name = $1 COLLATE NOCASE
            AND c.name = $2 COLLATE NOCASE AND c.pk = 1",
    )
    .bind(table)
    .bind(column)
    .fetch_optional(connection)
    .await?;
    if sql.is_some_and(|sql| has_autoincrement(&sql)) {
        return Ok(Vec::new());
    }
    Ok(vec![Mismatch::NoAutoincrement {
        table: table.to_owned(),
        column: column.to_owned(),
    }])
}

/// Whether a `CREATE TABLE` has the word `AUTOINCREMENT` outside strings, quoted names and comments.
fn has_autoincrement(sql: &str) -> bool {
    let mut words = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(next) = rest.chars().next() {
        let end = match next {
            '\'' | '"' | '`' => Some(next.to_string()),
            '[' => Some("]".to_owned()),
            '-' if rest.starts_with("--") => Some("\n".to_owned()),
            '/' if rest.starts_with("/*") => Some("*/".to_owned()),
            _ => None,
        };
        // Both characters, or `/*/` would be a whole comment.
        let begin = if end.as_deref() == Some("*/") {
            2
        } else {
            next.len_utf8()
        };
        let behind = rest.get(begin..).unwrap_or_default();
        rest = match end {
            None => {
                words.push(next);
                behind
            }
            // A doubled quote ends one part and begins the next, which comes to the same.
            Some(end) => {
                words.push(' ');
                behind.split_once(&end).map_or("", |(_, behind)| behind)
            }
        };
    }
    words
        .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'))
        .any(|word| word.eq_ignore_ascii_case("autoincrement"))
}

#[cfg(test)]
mod tests {
    use super::has_autoincrement;

    #[test]
    fn the_word_counts_only_where_it_is_one() {
        for sql in [
            "CREATE TABLE e (p INTEGER PRIMARY KEY AUTOINCREMENT)",
            "CREATE TABLE e (p INTEGER PRIMARY KEY autoincrement, q)",
            "CREATE TABLE \"it's\" ([a'] INT, p INTEGER PRIMARY KEY -- that's it\n AutoIncrement)",
            "CREATE TABLE e (q DEFAULT (4/'2'), p INTEGER PRIMARY KEY AUTOINCREMENT)",
            "CREATE TABLE e (q DEFAULT 'it''s', p INTEGER PRIMARY KEY/**/AUTOINCREMENT/* */)",
        ] {
            assert!(has_autoincrement(sql), "{sql}");
        }
        for sql in [
            "CREATE TABLE e (p INTEGER PRIMARY KEY)",
            "CREATE TABLE autoincrements (no_autoincrement INTEGER PRIMARY KEY)",
            "CREATE TABLE e (p INTEGER PRIMARY KEY, \"autoincrement\" INT)",
            "CREATE TABLE e (p INTEGER PRIMARY KEY, [autoincrement] INT, `autoincrement` INT)",
            "CREATE TABLE e (p INTEGER PRIMARY KEY, q DEFAULT 'a '' autoincrement ''')",
            "CREATE TABLE e (p INTEGER PRIMARY KEY /* no AUTOINCREMENT */) -- AUTOINCREMENT",
            "CREATE TABLE e (p INTEGER PRIMARY KEY) -- AUTOINCREMENT",
            "CREATE TABLE e (p INTEGER PRIMARY KEY /*/ AUTOINCREMENT */)",
            "CREATE TABLE e (p /* AUTOINCREMENT",
        ] {
            assert!(!has_autoincrement(sql), "{sql}");
        }
    }
}
