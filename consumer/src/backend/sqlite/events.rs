//! Events on SQLite.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::iter;
use std::ops::RangeInclusive;
use std::sync::Arc;

use sqlx::error::DatabaseError;
use sqlx::sqlite::{Sqlite, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use uuid::Uuid;

use super::connect::{BUSY, primary_code};
use super::{catalogue, connect, migrations};
use crate::backend::append::{Append, Placed};
use crate::backend::column_sql::appended;
use crate::backend::events::{EventStatements, Events, Opened, fetch_events, on_aggregate};
use crate::backend::json_text::JsonText;
use crate::backend::log_rows::{LogRow, LogRows as _};
use crate::backend::sql::Statement;
use crate::backend::version::KNOWN;
use crate::backend::{
    Access, Column, Mismatch, ReadRange, Schema, Sql, SqlType, StoreError, StoreSettings,
};
use crate::contract::NewEvent;

/// The time in the format of the default in the library's table.
const NOW: &str = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";

/// Changes nothing, and takes the write lock even where there is no such row: a transaction that has
/// read and then wants to write fails when another one wrote in between, instead of waiting.
const TAKE_TURN: &str = "
    UPDATE {heads} SET {head aggregate_version} = {head aggregate_version} WHERE {head aggregate}";

/// By the unique index on ids, which come as a JSON array.
const FIND_EVENTS: &str = "
    SELECT {columns} FROM {events} WHERE {event_id} IN (SELECT value FROM json_each($1))";

const INSERT: &str = "
    INSERT INTO {events} ({inserted columns}) VALUES";

const RETURNING: &str = "
    RETURNING {global_position}, {aggregate_version}, {created_at}";

const MOVE_HEAD: &str = "
    INSERT INTO {heads} ({head aggregate_type}, {head aggregate_id}, {head aggregate_version})
    VALUES ($1, $2, $3)
    ON CONFLICT ({head aggregate_type}, {head aggregate_id}) DO UPDATE
    SET {head aggregate_version} = excluded.{head aggregate_version},
        updated_at = excluded.updated_at";

/// `octet_length` reads the size from the record's header, never the content.
const SIZE: &str = "octet_length({payload}) + coalesce(octet_length({metadata}), 0)
    + octet_length({aggregate_type}) + octet_length({aggregate_id}) + octet_length({event_type})
    + coalesce(octet_length({trace_id}), 0) + coalesce(octet_length({correlation_id}), 0)
    + coalesce(octet_length({causation_id}), 0)";

/// The range `($1, $2]`, up to `$3` events and `$4` bytes, but always the first event.
///
/// The sizes come first, so that what does not fit is not even read; one statement, so that no event
/// is deleted between the two looks. Most ranges fit as a whole, which a plain sum finds out.
const READ_RANGE: &str = "
    WITH sized AS (
        SELECT {global_position} AS position, {size} AS size FROM {events}
         WHERE {global_position} > $1 AND {global_position} <= $2
         ORDER BY {global_position} LIMIT $3)
    SELECT {columns} FROM {events}
     WHERE {global_position} > $1 AND {global_position} <= coalesce(
           (SELECT max(position) FROM sized HAVING sum(size) <= $4),
           (SELECT max(position)
              FROM (SELECT position, row_number() OVER so_far AS number, sum(size) OVER so_far AS total
                      FROM sized
                    WINDOW so_far AS (ORDER BY position ROWS UNBOUNDED PRECEDING))
             WHERE total <= $4 OR number = 1))
     ORDER BY {global_position}";

/// Of a comparison of both columns at once, SQLite would use the type alone, and walk past its earlier events.
const SCOPED_SIZES: &str = "
    SELECT {global_position} AS position, {size} AS size FROM {events}
     WHERE {aggregate_type} = $4 AND {global_position} > $1 AND {global_position} <= $2
     ORDER BY {aggregate_type}, {global_position} LIMIT $3";

const READ_POSITIONS: &str = "
    SELECT {columns} FROM {events} WHERE {global_position} IN (SELECT value FROM json_each($1))
     ORDER BY {global_position}";

/// The statements that only SQLite has.
pub struct SqliteEventStatements {
    take_turn: Sql,
    find_events: Sql,
    insert: Sql,
    returning: Sql,
    move_head: Sql,
    read_range: Sql,
    scoped_sizes: Sql,
    read_positions: Sql,
    /// The columns that an append fills in.
    inserted: Vec<Column>,
}

impl SqliteEventStatements {
    fn new(settings: &StoreSettings) -> Self {
        let sized = |template: &str| Sql::new(settings, &template.replace("{size}", SIZE));
        Self {
            take_turn: Sql::new(settings, TAKE_TURN),
            find_events: Sql::new(settings, FIND_EVENTS),
            insert: Sql::new(settings, INSERT),
            returning: Sql::new(settings, RETURNING),
            move_head: Sql::new(settings, MOVE_HEAD),
            read_range: sized(READ_RANGE),
            scoped_sizes: sized(SCOPED_SIZES),
            read_positions: Sql::new(settings, READ_POSITIONS),
            inserted: appended(&settings.schema).collect(),
        }
    }

    /// Inserts an event for each of the versions, 10 values each at most.
    ///
    /// The parameters have no numbers: SQLite finds a numbered one by searching all of them.
    fn insert_rows(&self, versions: RangeInclusive<i64>) -> String {
        let mut sql = self.insert.as_ref().to_owned();
        let mut separator = ' ';
        for version in versions {
            sql.push(separator);
            for (column, before) in self
                .inserted
                .iter()
                .zip(iter::once('(').chain(iter::repeat(',')))
            {
                let _ = match column {
                    Column::AggregateVersion => write!(sql, "{before}{version}"),
                    Column::CreatedAt => write!(sql, "{before}{NOW}"),
                    _ => write!(sql, "{before}?"),
                };
            }
            sql.push(')');
            separator = ',';
        }
        sql.push_str(self.returning.as_ref());
        sql
    }
}

impl Events for Sqlite {
    type OwnStatements = SqliteEventStatements;

    const STORES_NUL: bool = true;
    const BEGIN_READ: &'static str = "BEGIN";
    const BEGIN_APPEND: &'static str = connect::BEGIN_WRITE;
    const BEGIN_MIGRATION: &'static str = connect::BEGIN_WRITE;
    const SECONDS: &'static str = "unixepoch($)";
    const VERSIONS: &'static str = migrations::VERSIONS;
    const CREATE_SCHEMA: &'static str = "";
    const EVENTS: &'static str = migrations::EVENTS;
    const HEADS: &'static str = migrations::HEADS;
    const SCOPE_INDEX: &'static str = migrations::SCOPE_INDEX;
    const MIGRATIONS: [&'static str; KNOWN] = migrations::MIGRATIONS;

    fn may_have_begun_before(error: &sqlx::Error) -> bool {
        const ERROR: i64 = 1;
        match error {
            sqlx::Error::InvalidSavePointStatement => true,
            // A transaction that has only read fails with the second if there is another writer.
            sqlx::Error::Database(error) => {
                matches!(primary_code(error.as_ref()), Some(ERROR | BUSY))
            }
            _ => false,
        }
    }

    fn accepts(schema: &Schema) -> Result<(), StoreError> {
        match schema.events_schema_name() {
            None => catalogue::refuse_types(schema),
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

    fn own_statements(settings: &StoreSettings) -> SqliteEventStatements {
        SqliteEventStatements::new(settings)
    }

    async fn open_pool(url: &str) -> Result<Opened<Sqlite>, StoreError> {
        connect::open(url).await
    }

    async fn check_server(_connection: &mut SqliteConnection) -> Result<(), StoreError> {
        // The library brings its own.
        Ok(())
    }

    fn later_columns(table: &str) -> String {
        migrations::later_columns(table)
    }

    async fn add_later_columns(
        connection: &mut SqliteConnection,
        schema: &Schema,
    ) -> Result<(), StoreError> {
        migrations::add_later_columns(connection, schema).await
    }

    async fn refuse_without_create(
        _connection: &mut SqliteConnection,
        _settings: &StoreSettings,
    ) -> Result<(), StoreError> {
        // There are no roles.
        Ok(())
    }

    async fn refuse_forbidden(
        _connection: &mut SqliteConnection,
        _settings: &StoreSettings,
        _access: Option<Access>,
    ) -> Result<(), StoreError> {
        Ok(())
    }

    fn is_held(error: &sqlx::Error) -> bool {
        let code = error.as_database_error().and_then(primary_code);
        code == Some(BUSY)
    }

    fn is_concurrent(error: &dyn DatabaseError) -> bool {
        primary_code(error) == Some(BUSY)
    }

    async fn lock_holders(
        _connection: &mut SqliteConnection,
        _settings: &StoreSettings,
    ) -> Result<Vec<String>, StoreError> {
        // A lock on the file does not tell whose it is.
        Ok(Vec::new())
    }

    #[cfg(feature = "worker")]
    async fn locate(
        _connection: &mut SqliteConnection,
        settings: &StoreSettings,
    ) -> Result<StoreSettings, StoreError> {
        // There is no search path. Only a temporary table, which belongs to one connection, comes first.
        Ok(settings.clone())
    }

    async fn mismatches(
        connection: &mut SqliteConnection,
        settings: &StoreSettings,
    ) -> Result<Option<Vec<Mismatch>>, StoreError> {
        catalogue::mismatches(connection, settings).await
    }

    async fn head_mismatches(
        _connection: &mut SqliteConnection,
        _settings: &StoreSettings,
        _others: &[Mismatch],
    ) -> Result<Vec<Mismatch>, StoreError> {
        // Columns have no types.
        Ok(Vec::new())
    }

    async fn position_mismatches(
        connection: &mut SqliteConnection,
        settings: &StoreSettings,
        _access: Option<Access>,
        others: &[Mismatch],
    ) -> Result<Vec<Mismatch>, StoreError> {
        migrations::position_mismatches(connection, &settings.schema, others).await
    }

    fn refuse_unstorable(_append: &Append<'_>) -> Result<(), StoreError> {
        Ok(())
    }

    async fn lock_aggregates(
        tx: &mut SqliteConnection,
        statements: &EventStatements<Self>,
        aggregates: &BTreeSet<(&str, &str)>,
    ) -> Result<(), StoreError> {
        // There is one lock, for the whole file.
        if let Some(aggregate) = aggregates.first() {
            let take_turn = on_aggregate::<Self>(&statements.own.take_turn, *aggregate);
            take_turn.execute(tx).await?;
        }
        Ok(())
    }

    async fn find_events(
        connection: &mut SqliteConnection,
        statements: &EventStatements<Self>,
        ids: &[Uuid],
    ) -> Result<Vec<LogRow>, StoreError> {
        let ids = serde_json::to_string(ids).unwrap_or_default();
        let find = statements.own.find_events.on().bind(&*ids);
        fetch_events::<Self>(connection, find).await
    }

    async fn append(
        tx: &mut SqliteConnection,
        statements: &EventStatements<Self>,
        append: &Append<'_>,
    ) -> Result<Vec<Placed>, StoreError> {
        let take_turn = on_aggregate::<Self>(&statements.own.take_turn, append.aggregate());
        take_turn.execute(tx).await?;
        let base = Self::current_version(tx, statements, append.aggregate()).await?;
        if !append.expected.admits(base) {
            return Err(append.conflict(Some(base)));
        }
        let version = version_after(base, append.events.len())?;
        let placed = insert(tx, statements, append, base).await?;
        // Last, since a statement that fails before it has changed nothing, and the next append
        // repairs a head that is behind its events.
        let move_head = on_aggregate::<Self>(&statements.own.move_head, append.aggregate());
        move_head.bind(version).execute(tx).await?;
        Ok(placed)
    }

    async fn read_range(
        connection: &mut SqliteConnection,
        statements: &EventStatements<Self>,
        range: ReadRange<'_>,
    ) -> Result<Vec<LogRow>, StoreError> {
        if let Some(types) = range.types() {
            return read_scoped_range(connection, &statements.own, range, types).await;
        }
        let query = bind_range(&statements.own.read_range, range).bind(range.max_bytes());
        fetch_events::<Self>(connection, query).await
    }
}

/// Starts a statement whose first three parameters are the bounds of a range.
fn bind_range(statement: &Sql, range: ReadRange<'_>) -> Statement<Sqlite> {
    statement
        .on()
        .bind(range.after)
        .bind(range.up_to)
        .bind(i64::from(range.limit))
}

/// Finds the events of each type first, and then reads those that fit, in one transaction: no event
/// is deleted in between.
async fn read_scoped_range(
    connection: &mut SqliteConnection,
    statements: &SqliteEventStatements,
    range: ReadRange<'_>,
    types: &[Arc<str>],
) -> Result<Vec<LogRow>, StoreError> {
    let mut tx = connection.begin().await?;
    let sizes = scoped_sizes(&mut tx, statements, range, types).await?;
    let positions = serde_json::to_string(&within_budget(sizes, range)).unwrap_or_default();
    let query = statements.read_positions.on().bind(&*positions);
    let events = fetch_events::<Sqlite>(&mut tx, query).await?;
    tx.commit().await?;
    Ok(events)
}

/// As many events as one statement can bind: 10 values each, of at most 32,766.
const ROWS: usize = 3_000;

/// Events, and the metadata of each.
type Rows<'a> = (&'a [NewEvent], &'a [Option<JsonText<'a>>]);

/// Stores the events after the version `base`.
async fn insert(
    tx: &mut SqliteConnection,
    statements: &EventStatements<Sqlite>,
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
        StoreError::Database(sqlx::Error::InvalidArgument(text).into())
    })
}

async fn insert_rows(
    tx: &mut SqliteConnection,
    statements: &EventStatements<Sqlite>,
    append: &Append<'_>,
    (events, metadata): Rows<'_>,
    base: i64,
) -> Result<Vec<Placed>, StoreError> {
    let last = version_after(base, events.len())?;
    let sql = statements.own.insert_rows(base.saturating_add(1)..=last);
    let mut query = sqlx::query(AssertSqlSafe(sql))
        // The text depends on the number of events: not worth a place in the cache.
        .persistent(false);
    let is_text = statements.settings.schema.type_of(Column::Payload) == SqlType::Text;
    for (event, metadata) in events.iter().zip(metadata) {
        for column in &statements.own.inserted {
            query = match column {
                Column::AggregateType => query.bind(event.aggregate_type.as_ref().to_owned()),
                Column::AggregateId => query.bind(event.aggregate_id.as_ref().to_owned()),
                Column::EventId => query.bind(event.event_id.hyphenated().to_string()),
                Column::EventType => query.bind(event.event_type.as_ref().to_owned()),
                Column::EventVersion => query.bind(event.event_version),
                Column::Payload if is_text => {
                    query.bind(String::from_utf8_lossy(&event.payload).into_owned())
                }
                Column::Payload => query.bind(event.payload.to_vec()),
                Column::TraceId => query.bind(event.trace_id.clone()),
                Column::CorrelationId => query.bind(event.correlation_id.clone()),
                Column::CausationId => query.bind(event.causation_id.clone()),
                Column::Metadata => query.bind(metadata.map(|text| text.as_str().to_owned())),
                // The version and the time are part of the statement; the position is the database's.
                Column::AggregateVersion | Column::GlobalPosition | Column::CreatedAt => query,
            };
        }
    }
    query
        .try_map(|row| Sqlite::placed(&row))
        .fetch_all(tx)
        .await
        .map_err(|error| append_error(error, &statements.settings.schema, append))
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

/// The position and the size of an event.
type Size = (i64, i64);

/// One index scan for each type, merged.
async fn scoped_sizes(
    connection: &mut SqliteConnection,
    statements: &SqliteEventStatements,
    range: ReadRange<'_>,
    types: &[Arc<str>],
) -> Result<Vec<Size>, StoreError> {
    let mut merged: Vec<Size> = Vec::new();
    for name in types {
        let query = bind_range(&statements.scoped_sizes, range).bind(&**name);
        let rows = query.fetch_all(connection).await?;
        let size = |row: &SqliteRow| Ok::<_, sqlx::Error>((row.try_get(0)?, row.try_get(1)?));
        merged.extend(rows.iter().map(size).collect::<Result<Vec<Size>, _>>()?);
    }
    merged.sort_unstable();
    merged.dedup();
    merged.truncate(usize::try_from(range.limit).unwrap_or(usize::MAX));
    Ok(merged)
}

/// The positions of the events that fit the budget together, but always the first.
fn within_budget(sizes: Vec<Size>, range: ReadRange<'_>) -> Vec<i64> {
    let mut left = range.max_bytes();
    let fits = move |(index, (_, bytes)): &(usize, Size)| {
        left = left.saturating_sub(*bytes);
        *index == 0 || left >= 0
    };
    let fitting = sizes.into_iter().enumerate().take_while(fits);
    fitting.map(|(_, (position, _))| position).collect()
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Row, Sqlite};

    use super::EventStatements;
    use crate::backend::driver::Driver as _;
    use crate::backend::{Sql, StoreSettings};
    use crate::{Schema, SqliteEventStore};

    fn statements() -> EventStatements<Sqlite> {
        EventStatements::new(&StoreSettings {
            schema: Schema::default(),
            dialect: Sqlite::DIALECT,
            notify: false,
            keep_statements: true,
        })
    }

    async fn plan(sql: &Sql) -> String {
        let store = SqliteEventStore::connect("sqlite::memory:").await.unwrap();
        store.migrate().await.unwrap();
        let explained = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", sql.as_ref()));
        let rows = sqlx::query(explained)
            .fetch_all(store.pool())
            .await
            .unwrap();
        let steps: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        steps.join("\n")
    }

    #[tokio::test]
    async fn a_scope_is_read_by_its_index_and_nothing_is_sorted() {
        let plan = plan(&statements().own.scoped_sizes).await;
        assert!(plan.contains("consumer_events_scope"), "{plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    }

    #[tokio::test]
    async fn the_log_is_read_by_position_and_nothing_is_sorted() {
        let statements = statements();
        for sql in [&statements.read_events, &statements.own.read_range] {
            let plan = plan(sql).await;
            assert!(plan.contains("USING INTEGER PRIMARY KEY"), "{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        }
    }

    #[tokio::test]
    async fn an_aggregate_is_read_by_its_index_and_nothing_is_sorted() {
        let plan = plan(&statements().read_aggregate).await;
        assert!(
            plan.contains("USING INDEX sqlite_autoindex_events"),
            "{plan}"
        );
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    }

    #[test]
    fn no_statement_has_a_name_left_to_be_filled_in() {
        let statements = statements();
        for sql in [&statements.own.insert, &statements.own.move_head] {
            assert!(!sql.as_ref().contains(['{', '}']), "{}", sql.as_ref());
        }
    }
}
