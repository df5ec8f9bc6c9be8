//! The log half of a backend: how events are appended and read.

use std::collections::BTreeSet;
use std::future::Future;

use sqlx::error::DatabaseError;
use sqlx::{Database, Pool};
use uuid::Uuid;

use super::append::{Append, Placed};
use super::driver::Driver;
use super::fit::is_id;
use super::json_text::JsonText;
use super::log_rows::{LogRow, LogRows};
use super::names::Names;
use super::read::ReadRange;
use super::sql::{Sql, Statement};
use super::version::KNOWN;
use super::{Access, Mismatch, Schema, StoreError, StoreSettings};

/// The version of an aggregate, 0 when it has no events.
///
/// Events without a head row were written by a program that keeps no heads; a head above the events is
/// that of an aggregate whose history was archived.
const CURRENT_VERSION: &str = "
    SELECT CAST({greatest}(
        COALESCE((SELECT max({aggregate_version}) FROM {events} WHERE {aggregate}), 0),
        COALESCE((SELECT {head aggregate_version} FROM {heads} WHERE {head aggregate}), 0)
    ) AS BIGINT) AS version";

const READ_EVENTS: &str = "
    SELECT {columns} FROM {events} WHERE {global_position} > $1 ORDER BY {global_position} LIMIT $2";

const READ_AGGREGATE: &str = "
    SELECT {columns} FROM {events}
     WHERE {aggregate} AND {aggregate_version} BETWEEN $3 AND $4
     ORDER BY {aggregate_version}";

const NOTE_REWRITE: &str = "
    INSERT INTO {log_state} AS s (log, rewrites) VALUES ('{log}', 1)
    ON CONFLICT (log) DO UPDATE SET rewrites = s.rewrites + 1";

const REDACT: &str = "UPDATE {events} SET {new payload} WHERE {global_position} = $1";

const REPLACE_METADATA: &str = "UPDATE {events} SET {new metadata} WHERE {global_position} = $1";

const LATEST: &str = "
    SELECT CAST(COALESCE(max({global_position}), 0) AS BIGINT) AS position FROM {events}";

/// The statements of one mapping.
pub struct EventStatements<DB: Events> {
    pub(super) settings: StoreSettings,
    pub(super) current_version: Sql,
    pub(super) read_events: Sql,
    pub(super) read_aggregate: Sql,
    latest: Sql,
    note_rewrite: Sql,
    redact: Sql,
    replace_metadata: Sql,
    /// Those that only this database has.
    pub(super) own: DB::OwnStatements,
}

impl<DB: Events> EventStatements<DB> {
    /// Renders the statements.
    pub(crate) fn new(settings: &StoreSettings) -> Self {
        Self {
            current_version: Sql::new(settings, CURRENT_VERSION),
            read_events: Sql::new(settings, READ_EVENTS),
            read_aggregate: Sql::new(settings, READ_AGGREGATE),
            latest: Sql::new(settings, LATEST),
            note_rewrite: Sql::new(settings, NOTE_REWRITE),
            redact: Sql::new(settings, REDACT),
            replace_metadata: Sql::new(settings, REPLACE_METADATA),
            own: DB::own_statements(settings),
            settings: settings.clone(),
        }
    }

    /// The names and types that the statements were rendered with.
    #[cfg(feature = "testing")]
    pub(crate) fn schema(&self) -> &Schema {
        &self.settings.schema
    }
}

/// The log of a database: its tables, and how events are appended and read.
///
/// The methods take a connection, so that the caller decides about the transaction.
pub trait Events: LogRows {
    /// The statements that only this database has.
    type OwnStatements: Send + Sync + 'static;

    /// Whether texts can contain NUL.
    const STORES_NUL: bool;

    /// Begins a transaction that only reads.
    const BEGIN_READ: &'static str;

    /// Begins a transaction that appends.
    const BEGIN_APPEND: &'static str;

    /// Begins the transaction of a migration, one at a time. What it reads was there after the wait.
    const BEGIN_MIGRATION: &'static str;

    /// The time `$` in the table of versions, in seconds.
    const SECONDS: &'static str;

    /// Creates the table of versions.
    const VERSIONS: &'static str;

    /// Creates the database schema of the mapping unless it exists.
    const CREATE_SCHEMA: &'static str;

    /// Creates the table of events: the beginning of the first version of the tables.
    const EVENTS: &'static str;

    /// Creates the table of heads, which follows in the first version.
    const HEADS: &'static str;

    /// Creates the index on types, which follows in the first version.
    const SCOPE_INDEX: &'static str;

    /// All versions of the tables, oldest first. A released one is never changed.
    ///
    /// Programs with older libraries work with the tables of a later version, so what it adds must be
    /// right for rows and statements that do not know of it. A version for which that cannot be
    /// records itself, with the oldest version that a library must know: `INSERT INTO {versions}
    /// (version, needs) VALUES (7, 7)`, and raises `NEEDED`. It locks the checkpoint rows first, since no
    /// claim of an older library follows.
    const MIGRATIONS: [&'static str; KNOWN];

    /// Whether the error of a `BEGIN` can mean that the connection was in a transaction already.
    fn may_have_begun_before(error: &sqlx::Error) -> bool;

    /// Refuses a mapping that makes no sense on this database.
    fn accepts(schema: &Schema) -> Result<(), StoreError>;

    /// Whether the connections of a pool may keep prepared statements.
    fn keeps_statements(pool: &Pool<Self>) -> bool;

    /// Renders the statements that only this database has.
    fn own_statements(settings: &StoreSettings) -> Self::OwnStatements;

    /// Opens a pool, after one connection has shown that the database can be used.
    fn open_pool(url: &str) -> impl Future<Output = Result<Opened<Self>, StoreError>> + Send;

    /// Refuses a server on which events could be lost.
    fn check_server(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The columns of later versions, for the definition of a table whose script cannot add them
    /// otherwise.
    fn later_columns(table: &str) -> String;

    /// Adds these columns to tables of an earlier version.
    fn add_later_columns(
        connection: &mut Self::Connection,
        schema: &Schema,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Refuses a role that cannot create the tables, or change those that exist.
    fn refuse_without_create(
        connection: &mut Self::Connection,
        settings: &StoreSettings,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Refuses a role that lacks privileges for a use of the tables; without one, those to look at
    /// the log.
    fn refuse_forbidden(
        connection: &mut Self::Connection,
        settings: &StoreSettings,
        access: Option<Access>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Whether the error says that another connection holds a lock.
    fn is_held(error: &sqlx::Error) -> bool;

    /// Whether the error says that a concurrent transaction made this one fail.
    fn is_concurrent(error: &dyn DatabaseError) -> bool;

    /// The sessions that hold locks on the tables, each in words.
    fn lock_holders(
        connection: &mut Self::Connection,
        settings: &StoreSettings,
    ) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send;

    /// Finds the schemas of the tables, so that a handler which changes where names are looked up does not
    /// change what the statements mean.
    #[cfg(feature = "worker")]
    fn locate(
        connection: &mut Self::Connection,
        settings: &StoreSettings,
    ) -> impl Future<Output = Result<StoreSettings, StoreError>> + Send;

    /// Compares the table of events with the mapping; `None` if there is no such table.
    fn mismatches(
        connection: &mut Self::Connection,
        settings: &StoreSettings,
    ) -> impl Future<Output = Result<Option<Vec<Mismatch>>, StoreError>> + Send;

    /// Compares the types of the table of heads with those of the mapping, or with those of the table of
    /// events where the `others` say that the mapping is wrong.
    fn head_mismatches(
        connection: &mut Self::Connection,
        settings: &StoreSettings,
        others: &[Mismatch],
    ) -> impl Future<Output = Result<Vec<Mismatch>, StoreError>> + Send;

    /// What is wrong with how the table of events gives positions out, and with which of them the role
    /// sees, next to the `others`.
    fn position_mismatches(
        connection: &mut Self::Connection,
        settings: &StoreSettings,
        access: Option<Access>,
        others: &[Mismatch],
    ) -> impl Future<Output = Result<Vec<Mismatch>, StoreError>> + Send;

    /// Refuses what this database cannot store, before that aborts the caller's transaction.
    fn refuse_unstorable(append: &Append<'_>) -> Result<(), StoreError>;

    /// Waits until no other transaction appends to these aggregates, types and ids, and keeps others from
    /// it until the caller's transaction ends. What is read afterwards has what they appended.
    fn lock_aggregates(
        tx: &mut Self::Connection,
        statements: &EventStatements<Self>,
        aggregates: &BTreeSet<(&str, &str)>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Reads the events of these ids that are in the log.
    fn find_events(
        connection: &mut Self::Connection,
        statements: &EventStatements<Self>,
        ids: &[Uuid],
    ) -> impl Future<Output = Result<Vec<LogRow>, StoreError>> + Send;

    /// Stores events.
    fn append(
        tx: &mut Self::Connection,
        statements: &EventStatements<Self>,
        append: &Append<'_>,
    ) -> impl Future<Output = Result<Vec<Placed>, StoreError>> + Send;

    /// The version of an aggregate, 0 when it has no events.
    fn current_version(
        tx: &mut Self::Connection,
        statements: &EventStatements<Self>,
        aggregate: (&str, &str),
    ) -> impl Future<Output = Result<i64, StoreError>> + Send {
        let query = on_aggregate::<Self>(&statements.current_version, aggregate);
        async move { Ok(query.fetch_value(tx, "version").await?) }
    }

    /// Reads the log after a position.
    fn read_events(
        connection: &mut Self::Connection,
        statements: &EventStatements<Self>,
        after: i64,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<LogRow>, StoreError>> + Send {
        let query = statements.read_events.on::<Self>();
        fetch_events(connection, query.bind(after).bind(i64::from(limit)))
    }

    /// Reads a part of the log within a budget of bytes. What it returns was in the log at one
    /// moment.
    fn read_range(
        connection: &mut Self::Connection,
        statements: &EventStatements<Self>,
        range: ReadRange<'_>,
    ) -> impl Future<Output = Result<Vec<LogRow>, StoreError>> + Send;

    /// Reads one aggregate, from and to a version, both inclusive.
    fn read_aggregate(
        connection: &mut Self::Connection,
        statements: &EventStatements<Self>,
        aggregate: (&str, &str),
        from: i64,
        to: i64,
    ) -> impl Future<Output = Result<Vec<LogRow>, StoreError>> + Send {
        let query = on_aggregate::<Self>(&statements.read_aggregate, aggregate);
        async move {
            let has_nul = aggregate.0.contains('\0') || aggregate.1.contains('\0');
            // The database would refuse to look for it.
            if !is_id(&statements.settings.schema, aggregate.1) || has_nul && !Self::STORES_NUL {
                return Ok(Vec::new());
            }
            fetch_events(connection, query.bind(from).bind(to)).await
        }
    }

    /// The highest visible position, 0 when there is none.
    fn latest_global_position(
        connection: &mut Self::Connection,
        statements: &EventStatements<Self>,
    ) -> impl Future<Output = Result<i64, StoreError>> + Send {
        let query = statements.latest.on::<Self>();
        async move { Ok(query.fetch_value(connection, "position").await?) }
    }

    /// Replaces the payload of an event; returns whether there is one.
    fn redact(
        tx: &mut Self::Connection,
        statements: &EventStatements<Self>,
        position: i64,
        payload: &[u8],
    ) -> impl Future<Output = Result<bool, StoreError>> + Send {
        let query = statements.redact.on::<Self>().bind(position);
        let query = query.bind(payload.to_vec());
        async move { Ok(query.execute(tx).await? > 0) }
    }

    /// Replaces the metadata of an event, or removes it.
    fn replace_metadata(
        tx: &mut Self::Connection,
        statements: &EventStatements<Self>,
        position: i64,
        metadata: Option<JsonText<'_>>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let query = statements.replace_metadata.on::<Self>().bind(position);
        let query = query.bind(metadata.map(JsonText::as_str));
        async move {
            query.execute(tx).await?;
            Ok(())
        }
    }

    /// Counts a change of events in the log, which workers notice.
    fn note_rewrite(
        tx: &mut Self::Connection,
        statements: &EventStatements<Self>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let query = statements.note_rewrite.on::<Self>();
        async move {
            query.execute(tx).await?;
            Ok(())
        }
    }
}

/// Runs a statement that reads events.
pub(super) async fn fetch_events<DB: LogRows>(
    connection: &mut DB::Connection,
    query: Statement<DB>,
) -> Result<Vec<LogRow>, StoreError> {
    let mut names = Names::default();
    let decode = move |row| DB::log_row(&row, &mut names);
    Ok(query.fetch_decoded(connection, decode).await?)
}

/// Starts a statement whose first two parameters are an aggregate.
pub(super) fn on_aggregate<DB: Driver>(
    statement: &Sql,
    (aggregate_type, aggregate_id): (&str, &str),
) -> Statement<DB> {
    statement.on().bind(aggregate_type).bind(aggregate_id)
}

/// An open pool, and what must live as long as it.
pub struct Opened<DB: Database> {
    pub(crate) pool: Pool<DB>,
    /// An in-memory database ends with its last connection, and a pool may close any of its own.
    pub(crate) anchor: Option<DB::Connection>,
}
