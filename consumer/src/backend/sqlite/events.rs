//! The store on SQLite.

use sqlx::{AssertSqlSafe, Connection, Sqlite, SqliteConnection, SqlitePool};

use super::rows::Size;
use super::statements::Statements;
use super::{connect, migrations, rows};
use crate::backend::append::{Append, Placed};

use crate::backend::json_text::JsonText;
use crate::backend::names::Names;

use crate::backend::{Column, Events, Opened, ReadRange, Schema, StoreError, StoreSettings};
use crate::contract::{NewEvent, PersistedEvent};

impl Events for Sqlite {
    type EventStatements = Statements;

    // A transaction that reads first and writes later fails at once when somebody else wrote in
    // between; this one waits for its turn.
    const BEGIN_APPEND: &'static str = "BEGIN IMMEDIATE";

    fn accepts(schema: &Schema) -> Result<(), StoreError> {
        match schema.database_schema_name() {
            None => Ok(()),
            Some(name) => Err(StoreError::InvalidIdentifier {
                what: "a database schema",
                name: name.to_owned(),
                reason: "SQLite has no schemas, the tables are those of the file",
            }),
        }
    }

    fn keeps_statements(_pool: &SqlitePool) -> bool {
        true
    }

    fn event_statements(settings: &StoreSettings) -> Statements {
        Statements::new(settings)
    }

    async fn open_pool(url: &str) -> Result<Opened<Sqlite>, StoreError> {
        connect::open(url).await
    }

    fn migration_sql(statements: &Statements) -> String {
        migrations::script(statements.schema())
    }

    async fn migrate(pool: &SqlitePool, statements: &Statements) -> Result<(), StoreError> {
        migrations::migrate(pool, statements).await
    }

    async fn check(pool: &SqlitePool, statements: &Statements) -> Result<(), StoreError> {
        migrations::check(pool, statements).await
    }

    async fn append(
        tx: &mut SqliteConnection,
        statements: &Statements,
        append: &Append<'_>,
    ) -> Result<Vec<Placed>, StoreError> {
        take_turn(tx, statements, append).await?;
        let base = current_version(tx, statements, append).await?;
        if !append.expected.admits(base) {
            return Err(append.conflict(Some(base)));
        }
        let version = version_after(base, append.events.len())?;
        let placed = insert(tx, statements, append, base).await?;
        move_head(tx, statements, append, version).await?;
        Ok(placed)
    }

    async fn read_events(
        conn: &mut SqliteConnection,
        statements: &Statements,
        after: i64,
        limit: u32,
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        let mut names = Names::default();
        Ok(statements
            .read_events
            .query()
            .bind(after)
            .bind(limit)
            .try_map(|row| rows::event(&row, &mut names))
            .fetch_all(conn)
            .await?)
    }

    async fn read_range(
        conn: &mut SqliteConnection,
        statements: &Statements,
        range: ReadRange<'_>,
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        // The sizes first: what does not fit is not even read.
        let query = match range.types() {
            None => {
                let Some(last) = last_within(conn, statements, range).await? else {
                    return Ok(Vec::new());
                };
                statements.read_up_to.query().bind(range.after).bind(last)
            }
            Some(types) => {
                let sizes = scoped_sizes(conn, statements, range, types).await?;
                let positions = within_budget(sizes, range);
                if positions.is_empty() {
                    return Ok(Vec::new());
                }
                let positions = json_array(&positions);
                statements.read_positions.query().bind(positions)
            }
        };
        let mut names = Names::default();
        Ok(query
            .try_map(|row| rows::event(&row, &mut names))
            .fetch_all(conn)
            .await?)
    }

    async fn read_aggregate(
        conn: &mut SqliteConnection,
        statements: &Statements,
        (aggregate_type, aggregate_id): (&str, &str),
        from: i64,
        to: i64,
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        let mut names = Names::default();
        Ok(statements
            .read_aggregate
            .query()
            .bind(aggregate_type.to_owned())
            .bind(aggregate_id.to_owned())
            .bind(from)
            .bind(to)
            .try_map(|row| rows::event(&row, &mut names))
            .fetch_all(conn)
            .await?)
    }

    async fn latest_global_position(
        conn: &mut SqliteConnection,
        statements: &Statements,
    ) -> Result<i64, StoreError> {
        let latest = statements.latest_global_position.scalar();
        Ok(latest.fetch_one(conn).await?)
    }
}

/// Becomes the writer before anything is read: a transaction that has read and then wants to write
/// fails when another one wrote in between, instead of waiting.
async fn take_turn(
    tx: &mut SqliteConnection,
    statements: &Statements,
    append: &Append<'_>,
) -> Result<(), StoreError> {
    statements
        .take_turn
        .query()
        .bind(append.aggregate_type().to_owned())
        .bind(append.aggregate_id().to_owned())
        .execute(tx)
        .await?;
    Ok(())
}

async fn current_version(
    tx: &mut SqliteConnection,
    statements: &Statements,
    append: &Append<'_>,
) -> Result<i64, StoreError> {
    Ok(statements
        .current_version
        .scalar()
        .bind(append.aggregate_type().to_owned())
        .bind(append.aggregate_id().to_owned())
        .fetch_one(tx)
        .await?)
}

/// Last, since a statement that fails before it has changed nothing, and a head that is behind its
/// events is made good by the next append.
async fn move_head(
    tx: &mut SqliteConnection,
    statements: &Statements,
    append: &Append<'_>,
    version: i64,
) -> Result<(), StoreError> {
    statements
        .move_head
        .query()
        .bind(append.aggregate_type().to_owned())
        .bind(append.aggregate_id().to_owned())
        .bind(version)
        .execute(tx)
        .await?;
    Ok(())
}

/// As many events as one statement can bind: 10 values each, of at most 32,766.
const ROWS: usize = 3_000;

/// Events, and the metadata of each.
type Rows<'a> = (&'a [NewEvent], &'a [Option<JsonText<'a>>]);

/// Stores the events after the version `base`.
async fn insert(
    tx: &mut SqliteConnection,
    statements: &Statements,
    append: &Append<'_>,
    base: i64,
) -> Result<Vec<Placed>, StoreError> {
    if append.events.len() <= ROWS {
        let rows = (append.events.as_ref(), append.metadata.as_slice());
        return insert_rows(tx, statements, append, rows, base).await;
    }
    // More than one statement: all of them, or none.
    let mut all = tx.begin().await?;
    let mut placed = Vec::with_capacity(append.events.len());
    let mut base = base;
    for rows in append.events.chunks(ROWS).zip(append.metadata.chunks(ROWS)) {
        placed.extend(insert_rows(&mut all, statements, append, rows, base).await?);
        base = version_after(base, rows.0.len())?;
    }
    all.commit().await?;
    Ok(placed)
}

/// The version that `count` more events lead to.
fn version_after(base: i64, count: usize) -> Result<i64, StoreError> {
    let version = i64::try_from(count)
        .ok()
        .and_then(|count| base.checked_add(count));
    version.ok_or_else(|| {
        let text = format!("no version is left after {base}");
        StoreError::Database(sqlx::Error::InvalidArgument(text))
    })
}

async fn insert_rows(
    tx: &mut SqliteConnection,
    statements: &Statements,
    append: &Append<'_>,
    (events, metadata): Rows<'_>,
    base: i64,
) -> Result<Vec<Placed>, StoreError> {
    let last = version_after(base, events.len())?;
    let sql = statements.insert_rows(base.saturating_add(1)..=last);
    let mut query = sqlx::query(AssertSqlSafe(sql))
        // The text depends on the number of events: not worth a place in the cache.
        .persistent(false);
    for (event, metadata) in events.iter().zip(metadata) {
        query = query
            .bind(event.aggregate_type.as_ref().to_owned())
            .bind(event.aggregate_id.as_ref().to_owned())
            .bind(event.event_id.hyphenated().to_string())
            .bind(event.event_type.as_ref().to_owned())
            .bind(event.event_version)
            .bind(event.payload.to_vec())
            .bind(event.trace_id.clone())
            .bind(event.correlation_id.clone())
            .bind(event.causation_id.clone())
            .bind(metadata.map(|text| text.as_str().to_owned()));
    }
    query
        .try_map(|row| rows::placed(&row))
        .fetch_all(tx)
        .await
        .map_err(|error| append_error(error, statements.schema(), append))
}

fn append_error(error: sqlx::Error, schema: &Schema, append: &Append<'_>) -> StoreError {
    let Some(database) = error.as_database_error() else {
        return error.into();
    };
    if !database.is_unique_violation() {
        return error.into();
    }
    // `UNIQUE constraint failed: events.aggregate_type, events.aggregate_id, events.aggregate_version`
    // with the names as the table was made, which the mapping may have in other letters.
    let message = database.message().to_ascii_lowercase();
    let violates = |column| {
        let column = format!("{}.{}", schema.events_name(), schema.column_name(column));
        message.ends_with(&column.to_ascii_lowercase())
    };
    if violates(Column::AggregateVersion) {
        append.conflict(None)
    } else if violates(Column::EventId) {
        append.duplicate()
    } else {
        error.into()
    }
}

/// The last position of a range, cut to its bounds; `None` when it is empty.
async fn last_within(
    conn: &mut SqliteConnection,
    statements: &Statements,
    range: ReadRange<'_>,
) -> Result<Option<i64>, StoreError> {
    let extent = statements.extent.query();
    let (last, size) = extent
        .bind(range.after)
        .bind(range.up_to)
        .bind(range.limit)
        .try_map(|row| rows::extent(&row))
        .fetch_one(&mut *conn)
        .await?;
    if size.is_none_or(|size| size <= range.max_bytes()) {
        return Ok(last);
    }
    let last_within = statements.last_within.scalar();
    Ok(last_within
        .bind(range.after)
        .bind(range.up_to)
        .bind(range.limit)
        .bind(range.max_bytes())
        .fetch_one(conn)
        .await?)
}

/// One index scan for each type, merged.
async fn scoped_sizes(
    conn: &mut SqliteConnection,
    statements: &Statements,
    range: ReadRange<'_>,
    types: &[std::sync::Arc<str>],
) -> Result<Vec<Size>, StoreError> {
    let mut merged: Vec<Size> = Vec::new();
    for name in types {
        let query = statements.scoped_sizes.query();
        let of_type = query
            .bind(range.after)
            .bind(range.up_to)
            .bind(range.limit)
            .bind(name.as_ref().to_owned())
            .try_map(|row| rows::size(&row))
            .fetch_all(&mut *conn)
            .await?;
        merged.extend(of_type);
    }
    merged.sort_unstable();
    merged.dedup();
    merged.truncate(usize::try_from(range.limit).unwrap_or(usize::MAX));
    Ok(merged)
}

/// The positions whose events fit the budget together, but always the first.
fn within_budget(sizes: Vec<Size>, range: ReadRange<'_>) -> Vec<i64> {
    let mut left = range.max_bytes();
    let fits = move |(index, (_, bytes)): &(usize, Size)| {
        left = left.saturating_sub(*bytes);
        *index == 0 || left >= 0
    };
    let fitting = sizes.into_iter().enumerate().take_while(fits);
    fitting.map(|(_, (position, _))| position).collect()
}

fn json_array(positions: &[i64]) -> String {
    let positions: Vec<String> = positions.iter().map(i64::to_string).collect();
    format!("[{}]", positions.join(","))
}
