//! The tables on SQLite.

use sqlx::{SqliteConnection, SqlitePool, raw_sql};

use super::statements::Statements;
use crate::backend::Sql;
use crate::backend::{Column, Schema, StoreError};

/// Every version of the tables, oldest first. A released one is never changed.
const MIGRATIONS: [&str; 2] = [V1, V2];

const VERSIONS: &str = "
CREATE TABLE IF NOT EXISTS {versions} (
    version INTEGER PRIMARY KEY,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
";

const V1: &str = "
-- AUTOINCREMENT: a position is never given out twice, also not after the last event was deleted.
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

CREATE TABLE IF NOT EXISTS {heads} (
    {aggregate_type} TEXT NOT NULL,
    {aggregate_id} TEXT NOT NULL,
    {aggregate_version} INTEGER NOT NULL,
    updated_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY ({aggregate_type}, {aggregate_id})
);

-- What reads of one aggregate type rest on.
CREATE INDEX IF NOT EXISTS consumer_events_scope ON {events} ({aggregate_type}, {global_position});

-- A row for each slice of each version of a consumer; its position is the checkpoint. Times are
-- milliseconds since 1970.
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
    updated_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
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
    parked_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
    PRIMARY KEY (consumer, version, position)
);

-- SQLite has no longest key, as Postgres has, where there is no such index.
CREATE INDEX IF NOT EXISTS consumer_parked_aggregate
    ON {parked} (consumer, version, aggregate_type, aggregate_id);
";

const V2: &str = "
-- Which version of a consumer serves, where somebody has said so.
CREATE TABLE IF NOT EXISTS {active} (
    consumer TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    activated_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
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
    let mut script = format!("BEGIN IMMEDIATE;\n{VERSIONS}");
    for (version, sql) in numbered() {
        script.push_str(sql);
        script.push_str(&record(version));
    }
    script.push_str("COMMIT;\n");
    schema.render(&script)
}

fn record(version: i64) -> String {
    format!("INSERT INTO {{versions}} (version) VALUES ({version}) ON CONFLICT DO NOTHING;\n")
}

pub(super) async fn migrate(pool: &SqlitePool, statements: &Statements) -> Result<(), StoreError> {
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
    run(&mut tx, statements, VERSIONS).await?;
    let found = version(&mut tx, statements).await?;
    refuse_newer(found)?;
    for (version, sql) in numbered().skip_while(|(version, _)| *version <= found) {
        let sql = format!("{sql}{}", record(version));
        run(&mut tx, statements, &sql).await?;
    }
    // Before the commit: tables that do not fit are left without ours beside them.
    probe(&mut tx, statements).await?;
    Ok(tx.commit().await?)
}

async fn run(
    tx: &mut SqliteConnection,
    statements: &Statements,
    sql: &str,
) -> Result<(), StoreError> {
    let sql = Sql::new(statements.settings(), sql);
    raw_sql(sql.safe()).execute(tx).await?;
    Ok(())
}

async fn version(conn: &mut SqliteConnection, statements: &Statements) -> Result<i64, StoreError> {
    Ok(statements.version.scalar().fetch_one(conn).await?)
}

fn refuse_newer(found: i64) -> Result<(), StoreError> {
    let known = known();
    if found > known {
        return Err(StoreError::NewerSchema { found, known });
    }
    Ok(())
}

pub(super) async fn check(pool: &SqlitePool, statements: &Statements) -> Result<(), StoreError> {
    let mut conn = pool.acquire().await?;
    let found = version(&mut conn, statements).await?;
    refuse_newer(found)?;
    if found < known() {
        return Err(StoreError::NotMigrated {
            missing: format!("they are at version {found} of {}", known()),
        });
    }
    probe(&mut conn, statements).await
}

/// Asks for every column, and for no row.
async fn probe(conn: &mut SqliteConnection, statements: &Statements) -> Result<(), StoreError> {
    for probe in [&statements.probe_events, &statements.probe_heads] {
        let probed = probe.query().execute(&mut *conn).await;
        probed.map_err(|error| StoreError::from(error).despite_migration(statements.schema()))?;
    }
    probe_autoincrement(conn, statements.schema()).await
}

/// Wants `AUTOINCREMENT`, which is allowed on the primary key alone and only there a name of its own.
async fn probe_autoincrement(
    conn: &mut SqliteConnection,
    schema: &Schema,
) -> Result<(), StoreError> {
    let table = schema.events_name();
    let column = schema.column_name(Column::GlobalPosition);
    let sql: Option<String> = sqlx::query_scalar(
        "SELECT sql FROM sqlite_schema AS s JOIN pragma_table_info(s.name) AS c
          WHERE s.type = 'table' AND s.name = ?1 COLLATE NOCASE
            AND c.name = ?2 COLLATE NOCASE AND c.pk = 1",
    )
    .bind(table)
    .bind(column)
    .fetch_optional(conn)
    .await?;
    if sql.is_some_and(|sql| has_autoincrement(&sql)) {
        return Ok(());
    }
    Err(StoreError::NoAutoincrement {
        table: table.to_owned(),
        column: column.to_owned(),
    })
}

/// Whether the word stands in a `CREATE TABLE`, outside strings, quoted names and comments.
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
