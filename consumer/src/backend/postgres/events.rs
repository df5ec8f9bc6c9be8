//! Events on Postgres.

use std::collections::BTreeSet;
use std::sync::Arc;

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgArguments, PgConnection, PgDatabaseError, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{ConnectOptions as _, PgPool};
#[cfg(feature = "worker")]
use sqlx::{Row as _, ValueRef as _};
use uuid::Uuid;

#[cfg(feature = "worker")]
use super::catalogue::{base_tables, hidden_from_of_view};
#[cfg(feature = "worker")]
use super::connect::server_incarnation;
use super::connect::{BEGIN, BEGIN_READ, begin, has_code, lock_number};
#[cfg(feature = "worker")]
use super::marker::{Marker, server_marker};
#[cfg(feature = "worker")]
use super::sequence;
use super::{catalogue, connect, migrations, privileges};
use crate::backend::append::{Append, Placed};
use crate::backend::events::{EventStatements, Events, Opened};
use crate::backend::json_text::JsonText;
use crate::backend::log_rows::{LogRow, LogRows as _};
use crate::backend::names::Names;
use crate::backend::version::KNOWN;
use crate::backend::{
    Access, Column, Mismatch, ReadRange, Schema, Sql, SqlType, StoreError, StoreSettings,
};
use crate::contract::NewEvent;
use crate::contract::columns::column;

/// Stores events `$5…$12` of aggregate `$1`, `$2`; `$3` is how many, `$4` the version expected.
///
/// One statement, so that a failure leaves no head moved and no event half stored. No row comes back
/// when the aggregate is not at the expected version.
const APPEND: &str = "
WITH seen AS (
    -- Events without a head row were written by a program that keeps no heads; a head above the events
    -- is that of an aggregate whose history was archived.
    SELECT GREATEST(
        COALESCE((SELECT max({aggregate_version}) FROM {events} WHERE {aggregate}), 0),
        COALESCE((SELECT {head aggregate_version} FROM {heads} WHERE {head aggregate}), 0)
    )::bigint AS version
), head AS (
    -- Locks the aggregate before a position is drawn: an append that waits here holds no lock that
    -- others could wait for. After the wait the row may be newer than what `seen` saw.
    INSERT INTO {heads} AS head ({head aggregate_type}, {head aggregate_id}, {head aggregate_version},
                                 updated_at)
    SELECT $1, {id}, seen.version + $3, now() FROM seen
    WHERE $4::bigint IS NULL OR seen.version = $4
    ON CONFLICT ({head aggregate_type}, {head aggregate_id}) DO UPDATE
    SET {head aggregate_version} =
            GREATEST(head.{head aggregate_version}, EXCLUDED.{head aggregate_version} - $3) + $3,
        updated_at = now()
    WHERE $4::bigint IS NULL
       OR GREATEST(head.{head aggregate_version}, EXCLUDED.{head aggregate_version} - $3) = $4
    RETURNING (head.{head aggregate_version} - $3)::bigint AS base
)
INSERT INTO {events} ({inserted columns})
SELECT {inserted values}
FROM head CROSS JOIN UNNEST($5::uuid[], $6::text[], $7::int[], $8::bytea[], $9::text[],
    $10::text[], $11::text[], $12::text[]) WITH ORDINALITY
    AS new(event_id, event_type, event_version, payload, trace_id, correlation_id, causation_id,
           metadata, ordinal)
-- Positions are drawn in this order, so that they ascend with the versions.
ORDER BY new.ordinal
RETURNING {value of global_position}, {value of aggregate_version}, {value of created_at}";

/// Locks the aggregates of types `$1` and ids `$2`, one after the other in this order, so that two
/// transactions with the same aggregates do not wait for each other.
///
/// A row that exists is locked and not changed. A head at 0 is that of an aggregate without events, or
/// behind those of a program that keeps no heads; an append takes its version from the events then.
const LOCK_AGGREGATES: &str = "
INSERT INTO {heads} AS head ({head aggregate_type}, {head aggregate_id}, {head aggregate_version},
                             updated_at)
SELECT wanted.aggregate_type, {id of row}, 0, now()
FROM UNNEST($1::text[], $2::text[]) WITH ORDINALITY AS wanted(aggregate_type, aggregate_id, ordinal)
ORDER BY wanted.ordinal
ON CONFLICT ({head aggregate_type}, {head aggregate_id}) DO UPDATE
SET {head aggregate_version} = head.{head aggregate_version}
WHERE FALSE";

/// By the unique index on ids. The parameter is cast, never the column.
const FIND_EVENTS: &str = "SELECT {columns} FROM {events} WHERE {event_id} = ANY({ids})";

/// Sent when the transaction commits, once for all its appends.
const NOTIFY: &str = ", (SELECT pg_notify('consumer_events', '') IS NULL)";

/// Reads a part of the log, without the events behind `$4` bytes of content, but always the first.
///
/// The content of all that `$3` allows is added up first, and the cut searched for only if that exceeds the budget:
/// most reads do not, and this costs a third of a window over all rows. Only the sizes of values stored out of line
/// are looked at, so nothing beyond the cut is read. Where only the stored size is known (the text of metadata would
/// double the cost of the statement), the reader counts again.
const WITHIN_BUDGET: &str = r#"
SELECT {decoded columns} FROM ({found} LIMIT (
    SELECT CASE
        WHEN (SELECT sum({size}) FROM ({found} LIMIT $3) AS found) > $4
        THEN (SELECT greatest(count(*), 1)
                FROM (SELECT sum({size}) OVER (ORDER BY "$global_position" ROWS UNBOUNDED PRECEDING)
                             AS "$bytes"
                        FROM ({found} LIMIT $3) AS found) AS measured
               WHERE "$bytes" <= $4)
        ELSE $3 END)) AS found
ORDER BY "$global_position""#;

/// The same for a read that is not to be repeated, because it passes over events.
const WITHIN_BUDGET_AT_ONCE: &str = r#"
SELECT {decoded columns} FROM (
    SELECT found.*, row_number() OVER log AS "$number", sum({size}) OVER log AS "$bytes"
    FROM ({found} LIMIT $3) AS found
    WINDOW log AS (ORDER BY "$global_position" ROWS UNBOUNDED PRECEDING)
) AS measured
WHERE "$bytes" <= $4 OR "$number" = 1
ORDER BY measured."$global_position""#;

const IN_RANGE: &str = "
SELECT {found columns} FROM {events}
WHERE {global_position} > $1 AND {global_position} <= $2
ORDER BY {global_position}";

/// One index scan for each type of `$5`.
///
/// There is no `aggregate_type = name` on purpose, though the bounds imply it: with it the planner
/// takes the order by both columns for an order by position, and may walk the primary key past all
/// the other types' events.
const IN_SCOPED_RANGE: &str = r#"
SELECT event.* FROM UNNEST($5::text[]) AS scope(name) CROSS JOIN LATERAL (
    SELECT {found columns} FROM {events}
    WHERE ({aggregate_type}, {global_position}) > (scope.name, $1)
      AND ({aggregate_type}, {global_position}) <= (scope.name, $2)
    ORDER BY {aggregate_type}, {global_position} LIMIT $3
) AS event
ORDER BY "$global_position""#;

/// The same without an index on types: a scan by position, which passes over other types' events.
const IN_FILTERED_RANGE: &str = "
SELECT {found columns} FROM {events}
WHERE {global_position} > $1 AND {global_position} <= $2 AND {aggregate_type} = ANY($5::text[])
ORDER BY {global_position}";

/// Adds a row without a position that shows which server answers, even if it has no events, in one statement: a
/// balancer could send two of them to two servers. The row also shows whether events were hidden from this statement.
///
/// Its text is in the place of the aggregate type: a further column costs a read a sixth of its time.
#[cfg(feature = "worker")]
const WITH_MARKER: &str = concat!(
    "
({range})
UNION ALL
SELECT NULL, array_to_string(",
    server_marker!("row_security_active('{events}'::regclass){or those of a view}"),
    ", ' '), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL"
);

/// The highest visible position, and which server answers.
#[cfg(feature = "worker")]
const MARKED_HEAD: &str = concat!(
    "SELECT coalesce((SELECT max({global_position}) FROM {events}), 0)::bigint AS head, ",
    server_marker!("row_security_active('{events}'::regclass){or those of a view}")
);

/// Where the log may be a view.
#[cfg(feature = "worker")]
const OR_THOSE_OF_A_VIEW: &str = concat!(
    " OR (WITH RECURSIVE ",
    base_tables!("'{events}'::regclass"),
    " SELECT ",
    hidden_from_of_view!(),
    " IS NOT NULL)"
);

/// The statements that only Postgres has.
pub struct PgEventStatements {
    append: Sql,
    lock_aggregates: Sql,
    find_events: Sql,
    range: RangeStatements,
    #[cfg(feature = "worker")]
    marked_range: RangeStatements,
    #[cfg(feature = "worker")]
    marked_head: Sql,
}

/// Reads a part of the log, of all types or some.
struct RangeStatements {
    all: Sql,
    scoped: Sql,
}

impl RangeStatements {
    /// `{range}` in the template is a read within the budget.
    fn new(settings: &StoreSettings, template: &str) -> Self {
        let within = |budget: &str, found| {
            let range = budget.replace("{found}", found);
            Sql::new(settings, &template.replace("{range}", &range))
        };
        let scoped = if settings.schema.has_scope_index() {
            within(WITHIN_BUDGET, IN_SCOPED_RANGE)
        } else {
            within(WITHIN_BUDGET_AT_ONCE, IN_FILTERED_RANGE)
        };
        Self {
            all: within(WITHIN_BUDGET, IN_RANGE),
            scoped,
        }
    }

    fn query(&self, range: ReadRange<'_>) -> Query<'static, Postgres, PgArguments> {
        let sql = range.types().map_or(&self.all, |_| &self.scoped);
        let query = sql
            .query()
            .bind(range.after)
            .bind(range.up_to)
            .bind(i64::from(range.limit))
            .bind(range.max_bytes());
        match range.types() {
            None => query,
            Some(types) => query.bind(distinct(types)),
        }
    }
}

impl Events for Postgres {
    type OwnStatements = PgEventStatements;

    const STORES_NUL: bool = false;
    const BEGIN_READ: &'static str = BEGIN_READ;
    const BEGIN_APPEND: &'static str = BEGIN;
    /// Under READ COMMITTED the version that is read after the lock is that of
    /// its last holder.
    ///
    /// Others queue behind a lock on a table that waits for a long batch, so it waits briefly and is
    /// tried again. The last timeout ends a process that froze with the locks. Notices would say only that
    /// what a statement may replace is not there.
    const BEGIN_MIGRATION: &'static str = begin!(concat!(
        "SELECT pg_advisory_xact_lock(",
        lock_number!(migration),
        ");
         SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = 0;
         SET LOCAL idle_in_transaction_session_timeout = '1min';
         SET LOCAL client_min_messages = warning"
    ));
    const SECONDS: &'static str = "extract(epoch FROM $)";
    const VERSIONS: &'static str = migrations::VERSIONS;
    const CREATE_SCHEMA: &'static str = migrations::CREATE_SCHEMA;
    const EVENTS: &'static str = migrations::EVENTS;
    const HEADS: &'static str = migrations::HEADS;
    const SCOPE_INDEX: &'static str = migrations::SCOPE_INDEX;
    const MIGRATIONS: [&'static str; KNOWN] = migrations::MIGRATIONS;

    fn may_have_begun_before(error: &sqlx::Error) -> bool {
        match error {
            sqlx::Error::InvalidSavePointStatement => true,
            // active_sql_transaction, in_failed_sql_transaction
            sqlx::Error::Database(error) => has_code(error.as_ref(), &["25001", "25P02"]),
            _ => false,
        }
    }

    fn accepts(_schema: &Schema) -> Result<(), StoreError> {
        Ok(())
    }

    fn keeps_statements(pool: &PgPool) -> bool {
        // The options have no getter for it.
        let url = pool.connect_options().to_url_lossy();
        !url.query_pairs()
            .any(|(key, value)| key == "statement-cache-capacity" && value == "0")
    }

    fn own_statements(settings: &StoreSettings) -> PgEventStatements {
        let notify = if settings.notify { NOTIFY } else { "" };
        let ids = match settings.schema.type_of(Column::EventId) {
            SqlType::Text => "$1::uuid[]::text[]",
            _ => "$1::uuid[]",
        };
        PgEventStatements {
            append: Sql::new(settings, &format!("{APPEND}{notify}")),
            lock_aggregates: Sql::new(settings, LOCK_AGGREGATES),
            find_events: Sql::new(settings, &FIND_EVENTS.replace("{ids}", ids)),
            range: RangeStatements::new(settings, "{range}"),
            #[cfg(feature = "worker")]
            marked_range: RangeStatements::new(settings, &marked(WITH_MARKER, &settings.schema)),
            #[cfg(feature = "worker")]
            marked_head: Sql::new(settings, &marked(MARKED_HEAD, &settings.schema)),
        }
    }

    async fn open_pool(url: &str) -> Result<Opened<Postgres>, StoreError> {
        connect::open(url).await
    }

    async fn check_server(connection: &mut PgConnection) -> Result<(), StoreError> {
        connect::refuse_old_server(connection).await
    }

    fn later_columns(_table: &str) -> String {
        // `ADD COLUMN IF NOT EXISTS` is part of the versions.
        String::new()
    }

    async fn add_later_columns(
        _connection: &mut PgConnection,
        _schema: &Schema,
    ) -> Result<(), StoreError> {
        Ok(())
    }

    async fn refuse_without_create(
        connection: &mut PgConnection,
        settings: &StoreSettings,
    ) -> Result<(), StoreError> {
        privileges::refuse_without_create(connection, settings).await
    }

    async fn refuse_forbidden(
        connection: &mut PgConnection,
        settings: &StoreSettings,
        access: Option<Access>,
    ) -> Result<(), StoreError> {
        privileges::refuse_forbidden(connection, settings, access).await
    }

    fn is_held(error: &sqlx::Error) -> bool {
        // lock_not_available, deadlock_detected
        let error = error.as_database_error();
        error.is_some_and(|error| has_code(error, &["55P03", "40P01"]))
    }

    fn is_concurrent(error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| is_concurrent(&code))
    }

    async fn lock_holders(
        connection: &mut PgConnection,
        settings: &StoreSettings,
    ) -> Result<Vec<String>, StoreError> {
        migrations::lock_holders(connection, settings).await
    }

    #[cfg(feature = "worker")]
    async fn locate(
        connection: &mut PgConnection,
        settings: &StoreSettings,
    ) -> Result<StoreSettings, StoreError> {
        migrations::locate(connection, settings).await
    }

    async fn mismatches(
        connection: &mut PgConnection,
        settings: &StoreSettings,
    ) -> Result<Option<Vec<Mismatch>>, StoreError> {
        catalogue::mismatches(connection, settings).await
    }

    async fn head_mismatches(
        connection: &mut PgConnection,
        settings: &StoreSettings,
        others: &[Mismatch],
    ) -> Result<Vec<Mismatch>, StoreError> {
        catalogue::head_mismatches(connection, settings, others).await
    }

    #[cfg(feature = "worker")]
    async fn position_mismatches(
        connection: &mut PgConnection,
        settings: &StoreSettings,
        access: Option<Access>,
        others: &[Mismatch],
    ) -> Result<Vec<Mismatch>, StoreError> {
        sequence::mismatches(connection, settings, access, others).await
    }

    #[cfg(not(feature = "worker"))]
    async fn position_mismatches(
        _connection: &mut PgConnection,
        _settings: &StoreSettings,
        _access: Option<Access>,
        _others: &[Mismatch],
    ) -> Result<Vec<Mismatch>, StoreError> {
        // Only workers depend on the sequence.
        Ok(Vec::new())
    }

    fn refuse_unstorable(append: &Append<'_>) -> Result<(), StoreError> {
        let mut events = append.events.iter().zip(&append.metadata);
        events.try_for_each(|(event, metadata)| refuse_nul(event, *metadata))
    }

    async fn lock_aggregates(
        tx: &mut PgConnection,
        statements: &EventStatements<Self>,
        aggregates: &BTreeSet<(&str, &str)>,
    ) -> Result<(), StoreError> {
        let (types, ids): (Vec<&str>, Vec<&str>) = aggregates.iter().copied().unzip();
        let lock = statements.own.lock_aggregates.query().bind(types).bind(ids);
        lock.execute(tx).await?;
        Ok(())
    }

    async fn find_events(
        connection: &mut PgConnection,
        statements: &EventStatements<Self>,
        ids: &[Uuid],
    ) -> Result<Vec<LogRow>, StoreError> {
        let mut names = Names::default();
        let find = statements.own.find_events.query().bind(ids);
        let rows = find.try_map(|row| Postgres::log_row(&row, &mut names));
        Ok(rows.fetch_all(connection).await?)
    }

    async fn append(
        tx: &mut PgConnection,
        statements: &EventStatements<Self>,
        append: &Append<'_>,
    ) -> Result<Vec<Placed>, StoreError> {
        Self::refuse_unstorable(append)?;
        let placed = match insert(tx, &statements.own, append).await {
            Ok(placed) => placed,
            Err(error) => return Err(append_error(error, &statements.settings.schema, append)),
        };
        if placed.is_empty() {
            let actual = Self::current_version(tx, statements, append.aggregate()).await?;
            return Err(append.conflict(Some(actual)));
        }
        Ok(placed)
    }

    async fn read_range(
        connection: &mut PgConnection,
        statements: &EventStatements<Self>,
        range: ReadRange<'_>,
    ) -> Result<Vec<LogRow>, StoreError> {
        let query = statements.own.range.query(range);
        Ok(fetch_range(connection, query, range, |_| Ok(true)).await?)
    }
}

/// A statement with a marker, for a log that may be a view or not.
#[cfg(feature = "worker")]
fn marked(statement: &str, schema: &Schema) -> String {
    let views = if schema.is_read_only() {
        OR_THOSE_OF_A_VIEW
    } else {
        ""
    };
    statement.replace("{or those of a view}", views)
}

/// Fetches a part of the log within its budget; `is_event` shows which rows are events.
async fn fetch_range(
    connection: &mut PgConnection,
    query: Query<'static, Postgres, PgArguments>,
    range: ReadRange<'_>,
    mut is_event: impl FnMut(&PgRow) -> Result<bool, sqlx::Error> + Send,
) -> Result<Vec<LogRow>, sqlx::Error> {
    let mut names = Names::default();
    // The database counts metadata as it is stored, which compression can make far smaller.
    let mut budget = range.budget();
    let rows: Vec<Option<LogRow>> = query
        .try_map(|row| {
            if !is_event(&row)? {
                return Ok(None);
            }
            Ok(budget.admit(Postgres::log_row(&row, &mut names)?))
        })
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().flatten().collect())
}

/// Reads a part of the log, and which server answered.
#[cfg(feature = "worker")]
pub(super) async fn read_marked(
    connection: &mut PgConnection,
    statements: &EventStatements<Postgres>,
    range: ReadRange<'_>,
) -> Result<(Vec<LogRow>, Option<Marker>), sqlx::Error> {
    let mut marker = None;
    let query = statements.own.marked_range.query(range);
    let rows = fetch_range(connection, query, range, |row| {
        let is_event = !row.try_get_raw(0)?.is_null();
        if !is_event {
            marker = Marker::parse(row.try_get(1)?);
        }
        Ok(is_event)
    })
    .await?;
    Ok((rows, marker))
}

/// Reads the highest visible position, and which server answered.
#[cfg(feature = "worker")]
pub(super) async fn read_marked_head(
    connection: &mut PgConnection,
    statements: &EventStatements<Postgres>,
) -> Result<(i64, Marker), sqlx::Error> {
    // One message, which a pooler sends to one server.
    let head = sqlx::raw_sql(statements.own.marked_head.safe());
    let row = head.fetch_one(connection).await?;
    Ok((row.try_get("head")?, Marker::expect(&row)?))
}

/// Refuses what Postgres cannot store, before it aborts the caller's transaction.
fn refuse_nul(event: &NewEvent, metadata: Option<JsonText<'_>>) -> Result<(), StoreError> {
    if metadata.is_some_and(JsonText::has_nul) {
        return Err(StoreError::NulInText {
            field: "the metadata",
        });
    }
    let fields = [
        ("the aggregate type", Some(&*event.aggregate_type)),
        ("the aggregate id", Some(&*event.aggregate_id)),
        ("the event type", Some(&*event.event_type)),
        ("the trace id", event.trace_id.as_deref()),
        ("the correlation id", event.correlation_id.as_deref()),
        ("the causation id", event.causation_id.as_deref()),
    ];
    let with_nul = fields
        .into_iter()
        .find(|(_, text)| text.is_some_and(|text| text.contains('\0')));
    match with_nul {
        Some((field, _)) => Err(StoreError::NulInText { field }),
        None => Ok(()),
    }
}

/// Sends all events in one statement, as one array a column, so that its text is always the same.
async fn insert(
    tx: &mut PgConnection,
    statements: &PgEventStatements,
    append: &Append<'_>,
) -> Result<Vec<Placed>, sqlx::Error> {
    let events = append.events.as_ref();
    let metadata = append.metadata.iter();
    let metadata: Vec<_> = metadata.map(|text| text.map(JsonText::as_str)).collect();
    statements
        .append
        .query()
        .bind(append.aggregate_type())
        .bind(append.aggregate_id())
        .bind(append.len())
        .bind(append.expected.version())
        .bind(column(events, |event| event.event_id))
        .bind(column(events, |event| &*event.event_type))
        .bind(column(events, |event| event.event_version))
        .bind(column(events, |event| &*event.payload))
        .bind(column(events, |event| event.trace_id.as_deref()))
        .bind(column(events, |event| event.correlation_id.as_deref()))
        .bind(column(events, |event| event.causation_id.as_deref()))
        .bind(metadata)
        .try_map(|row| Postgres::placed(&row))
        .fetch_all(tx)
        .await
}

fn append_error(error: sqlx::Error, schema: &Schema, append: &Append<'_>) -> StoreError {
    let Some(database) = postgres_error(&error) else {
        return error.into();
    };
    match database.code() {
        // unique_violation
        "23505" => match Violation::of(database, schema) {
            Violation::EventId => append.duplicate(),
            Violation::Version => append.conflict(None),
            Violation::Other => error.into(),
        },
        code if is_concurrent(code) => append.contention(error),
        _ => error.into(),
    }
}

fn is_concurrent(code: &str) -> bool {
    // serialization_failure, deadlock_detected
    matches!(code, "40001" | "40P01")
}

fn postgres_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// Which of the unique constraints an append violated.
enum Violation {
    EventId,
    Version,
    /// Another one, such as that of a table that a trigger writes.
    Other,
}

impl Violation {
    /// Tells it by the columns, since the constraints of a mapped table can have any name.
    fn of(error: &PgDatabaseError, schema: &Schema) -> Self {
        // `Key (aggregate_type, aggregate_id, aggregate_version)=(…) already exists.`, in any language;
        // there is none for a role that may not see the columns.
        let Some((key, _)) = error.detail().and_then(|detail| detail.split_once(")=(")) else {
            return Self::Version;
        };
        let columns = key.split_once('(').map_or(key, |(_, columns)| columns);
        let has = |column| {
            let name = schema.column_name(column);
            columns
                .split(", ")
                .any(|found| found.trim_matches('"') == name)
        };
        if has(Column::AggregateVersion) {
            Self::Version
        } else if has(Column::EventId) {
            Self::EventId
        } else {
            Self::Other
        }
    }
}

/// Each type once, so that no event comes twice.
fn distinct(types: &[Arc<str>]) -> Vec<&str> {
    let mut types: Vec<&str> = types.iter().map(AsRef::as_ref).collect();
    types.sort_unstable();
    types.dedup();
    types
}
