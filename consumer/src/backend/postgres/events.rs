//! The store on Postgres.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, Postgres};

use super::statements::Statements;
use super::{migrations, rows};
use crate::backend::append::{Append, Placed};

use crate::backend::json_text::JsonText;
use crate::backend::names::Names;

use crate::backend::{Column, Events, Opened, ReadRange, Schema, StoreError, StoreSettings};
use crate::contract::{NewEvent, PersistedEvent};

const EXAMPLE: &str = "`postgres://user:password@host:5432/database`";

impl Events for Postgres {
    type EventStatements = Statements;

    // Whatever the role's default is: a stricter isolation would make appends fail where they
    // can just as well wait for the head row.
    const BEGIN_APPEND: &'static str = "BEGIN ISOLATION LEVEL READ COMMITTED";

    fn accepts(_schema: &Schema) -> Result<(), StoreError> {
        Ok(())
    }

    fn keeps_statements(pool: &PgPool) -> bool {
        // There is no other way to ask for this one.
        let url = pool.connect_options().to_url_lossy();
        !url.query_pairs()
            .any(|(key, value)| key == "statement-cache-capacity" && value == "0")
    }

    fn event_statements(settings: &StoreSettings) -> Statements {
        Statements::new(settings)
    }

    async fn open_pool(url: &str) -> Result<Opened<Postgres>, StoreError> {
        let options = options(url)?;
        probe(&options).await?;
        let pool = PgPoolOptions::new()
            .max_connections(20)
            .connect_lazy_with(options);
        Ok(Opened { pool, anchor: None })
    }

    fn migration_sql(statements: &Statements) -> String {
        migrations::script(statements.schema())
    }

    async fn migrate(pool: &PgPool, statements: &Statements) -> Result<(), StoreError> {
        migrations::migrate(pool, statements).await
    }

    async fn check(pool: &PgPool, statements: &Statements) -> Result<(), StoreError> {
        migrations::check(pool, statements).await
    }

    async fn append(
        tx: &mut PgConnection,
        statements: &Statements,
        append: &Append<'_>,
    ) -> Result<Vec<Placed>, StoreError> {
        for (event, metadata) in append.events.iter().zip(&append.metadata) {
            refuse_nul(event, *metadata)?;
        }
        let placed = match insert(tx, statements, append).await {
            Ok(placed) => placed,
            Err(error) => return Err(append_error(error, statements.schema(), append)),
        };
        if placed.is_empty() {
            let actual = current_version(tx, statements, append).await?;
            return Err(append.conflict(Some(actual)));
        }
        Ok(placed)
    }

    async fn read_events(
        conn: &mut PgConnection,
        statements: &Statements,
        after: i64,
        limit: u32,
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        let mut names = Names::default();
        Ok(statements
            .read_events
            .query()
            .bind(after)
            .bind(i64::from(limit))
            .try_map(|row| rows::event(&row, &mut names))
            .fetch_all(conn)
            .await?)
    }

    async fn read_range(
        conn: &mut PgConnection,
        statements: &Statements,
        range: ReadRange<'_>,
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        let mut names = Names::default();
        let query = match range.types() {
            None => statements.read_range.query(),
            Some(_) => statements.read_scoped_range.query(),
        };
        let query = query
            .bind(range.after)
            .bind(range.up_to)
            .bind(i64::from(range.limit))
            .bind(range.max_bytes());
        let query = match range.types() {
            None => query,
            Some(types) => query.bind(distinct(types)),
        };
        // The database counts metadata as it is stored, which compression can make far smaller.
        let mut budget = range.budget();
        let events: Vec<Option<PersistedEvent>> = query
            .try_map(|row| Ok(budget.admit(rows::event(&row, &mut names)?)))
            .fetch_all(conn)
            .await?;
        Ok(events.into_iter().flatten().collect())
    }

    async fn read_aggregate(
        conn: &mut PgConnection,
        statements: &Statements,
        (aggregate_type, aggregate_id): (&str, &str),
        from: i64,
        to: i64,
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        // No event can have such a name, and Postgres would refuse to look for it.
        if aggregate_type.contains('\0') || aggregate_id.contains('\0') {
            return Ok(Vec::new());
        }
        let mut names = Names::default();
        Ok(statements
            .read_aggregate
            .query()
            .bind(aggregate_type)
            .bind(aggregate_id)
            .bind(from)
            .bind(to)
            .try_map(|row| rows::event(&row, &mut names))
            .fetch_all(conn)
            .await?)
    }

    async fn latest_global_position(
        conn: &mut PgConnection,
        statements: &Statements,
    ) -> Result<i64, StoreError> {
        let latest = statements.latest_global_position.scalar();
        Ok(latest.fetch_one(conn).await?)
    }
}

fn options(url: &str) -> Result<PgConnectOptions, StoreError> {
    if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
        return Err(StoreError::wrong_url(url, "Postgres", EXAMPLE));
    }
    PgConnectOptions::from_str(url).map_err(|source| StoreError::InvalidUrl {
        database: "Postgres",
        source,
    })
}

/// Connects once: a pool would try again for half a minute, and then not say why it failed.
async fn probe(options: &PgConnectOptions) -> Result<(), StoreError> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let attempt = PgConnection::connect_with(options);
    let connected = tokio::time::timeout(PATIENCE, attempt)
        .await
        .unwrap_or_else(|_| Err(no_answer(PATIENCE)));
    let unreachable = |source| StoreError::Unreachable {
        server: server(options),
        source,
    };
    let connection = connected.map_err(unreachable)?;
    connection.close().await.map_err(unreachable)
}

fn no_answer(timeouts: Duration) -> sqlx::Error {
    let text = format!("no answer within {} seconds", timeouts.as_secs());
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
}

fn server(options: &PgConnectOptions) -> String {
    let place = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    let database = options.get_database().unwrap_or(options.get_username());
    format!("{place}/{database}")
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

/// Sends all the events in one statement, a column each, so that its text is always the same.
async fn insert(
    tx: &mut PgConnection,
    statements: &Statements,
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
        .try_map(|row| rows::placed(&row))
        .fetch_all(tx)
        .await
}

fn column<'a, T>(events: &'a [NewEvent], value: impl Fn(&'a NewEvent) -> T) -> Vec<T> {
    events.iter().map(value).collect()
}

async fn current_version(
    tx: &mut PgConnection,
    statements: &Statements,
    append: &Append<'_>,
) -> Result<i64, StoreError> {
    Ok(statements
        .current_version
        .scalar()
        .bind(append.aggregate_type())
        .bind(append.aggregate_id())
        .fetch_one(tx)
        .await?)
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
        _ => error.into(),
    }
}

fn postgres_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error()?.try_downcast_ref()
}

/// Which of the unique constraints an append violated.
enum Violation {
    EventId,
    Version,
    /// One that is not ours, such as that of a trigger's table.
    Other,
}

impl Violation {
    /// Tells it by the columns, since a mapped table's constraints may have any name.
    fn of(error: &PgDatabaseError, schema: &Schema) -> Self {
        // `Key (aggregate_type, aggregate_id, aggregate_version)=(…) already exists.`, in whatever
        // language; there is none when the columns are hidden from us.
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
fn distinct(types: &[std::sync::Arc<str>]) -> Vec<&str> {
    let mut types: Vec<&str> = types.iter().map(AsRef::as_ref).collect();
    types.sort_unstable();
    types.dedup();
    types
}
