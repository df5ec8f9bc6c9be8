//! The log half of a backend: which positions are settled (R11).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Database, Pool};

use super::driver::Driver;
use super::events::{EventStatements, Events};
use super::log_rows::LogRow;
use super::sql::{Sql, Statement, statements};
use super::{FrontierError, Incarnation, ReadRange, StoreError, StoreSettings};
use crate::contract::EventFormat;

const COUNT: &str = "
    SELECT count(*) AS events FROM (
        SELECT 1 FROM {events} WHERE {global_position} > $1 AND {global_position} <= $2
         LIMIT $3) AS w";

const AGE: &str = "
    SELECT {event age} AS age
      FROM {events} WHERE {global_position} > $1 AND {global_position} <= $2
     ORDER BY {global_position} LIMIT 1";

/// Reads the whole log once: no index has the types of events.
const FORMATS: &str = "
    SELECT {aggregate_type} AS aggregate_type, {event_type} AS event_type,
           CAST({value of event_version} AS INTEGER) AS event_version, count(*) AS events,
           min({global_position}) AS first, max({global_position}) AS last
      FROM {events} {of the scope}
     GROUP BY 1, 2, 3
     ORDER BY 1, 2, 3";

statements! {
    /// The statements that show how far a consumer is behind, and what the log once had, with the names of
    /// the mapping.
    pub LagStatements for DB: Frontier {
        count: COUNT,
        count_scope: DB::COUNT_SCOPE,
        log_state: LOG_STATE,
        age: AGE,
        age_scope: DB::AGE_SCOPE,
        formats: &FORMATS.replace("{of the scope}", ""),
        formats_scope: &FORMATS.replace("{of the scope}", DB::OF_SCOPE),
    }
}

/// A part of the log, as one consumer sees it.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub(crate) after: i64,
    pub(crate) up_to: i64,
    /// Empty for every event (R7).
    pub(crate) scope: &'a [String],
}

impl Part<'_> {
    /// The scope as a parameter: both databases can read JSON.
    fn scope_json(&self) -> String {
        serde_json::to_string(self.scope).unwrap_or_default()
    }

    /// Starts a statement whose first two parameters are the bounds.
    fn bind<DB: Driver>(&self, statement: &Sql) -> Statement<DB> {
        statement.on().bind(self.after).bind(self.up_to)
    }
}

/// How a worker learns that the log has new events, and how far it is settled.
pub trait Frontier: Events {
    /// Watches the frontier.
    type Watch: FrontierWatch<Self>;

    /// The interval at which the log is read when nothing wakes the worker.
    const POLL_INTERVAL: Duration;

    /// Counts the events of the types `$4` in `($1, $2]`, up to the limit `$3`, as `events`.
    const COUNT_SCOPE: &'static str;

    /// The age of the first event of the types `$3` in `($1, $2]`, in milliseconds, as `age`.
    const AGE_SCOPE: &'static str;

    /// The condition that an event is of one of the types `$1`, which the index on them finds.
    const OF_SCOPE: &'static str;

    /// Renders the statements about lag.
    fn lag_statements(settings: &StoreSettings) -> LagStatements {
        LagStatements::new::<Self>(settings)
    }

    /// Counts the events of a scope in a part of the log, up to a limit.
    fn count(
        sql: &LagStatements,
        connection: &mut Self::Connection,
        part: Part<'_>,
        limit: i64,
    ) -> impl Future<Output = Result<i64, sqlx::Error>> + Send {
        let query = if part.scope.is_empty() {
            part.bind::<Self>(&sql.count).bind(limit)
        } else {
            let query = part.bind::<Self>(&sql.count_scope).bind(limit);
            query.bind(&*part.scope_json())
        };
        query.fetch_value(connection, "events")
    }

    /// The age of the first event of a scope in a part of the log, in milliseconds.
    fn age(
        sql: &LagStatements,
        connection: &mut Self::Connection,
        part: Part<'_>,
    ) -> impl Future<Output = Result<Option<i64>, sqlx::Error>> + Send {
        let query = if part.scope.is_empty() {
            part.bind::<Self>(&sql.age)
        } else {
            let query = part.bind::<Self>(&sql.age_scope);
            query.bind(&*part.scope_json())
        };
        async move {
            let row = query.fetch_optional(connection).await?;
            let age = row.map(|row| Self::read(&row, "age")).transpose()?;
            Ok(age.flatten())
        }
    }

    /// Counts the events of each type and version in the log, of some aggregate types or of all.
    fn formats(
        sql: &LagStatements,
        connection: &mut Self::Connection,
        scope: &[String],
    ) -> impl Future<Output = Result<Vec<FormatCount>, sqlx::Error>> + Send {
        let query = if scope.is_empty() {
            sql.formats.on::<Self>()
        } else {
            let json = serde_json::to_string(scope).unwrap_or_default();
            sql.formats_scope.on::<Self>().bind(&*json)
        };
        async move {
            let rows = query.fetch_all(connection).await?;
            rows.iter().map(FormatCount::decode::<Self>).collect()
        }
    }

    /// Reads what is known of the log.
    fn log_state(
        sql: &LagStatements,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<LogState, sqlx::Error>> + Send {
        let query = sql.log_state.on::<Self>();
        async move {
            let row = query.fetch_optional(connection).await?;
            LogState::decode::<Self>(&row.ok_or(sqlx::Error::RowNotFound)?)
        }
    }

    /// Reads a settled part of the log like [`Events::read_range`]. An answer proves nothing unless it is
    /// that of the incarnation in which the part was settled: a standby may lack events that are
    /// settled, and a crash may have taken others back. Any other answer is an error.
    fn read_settled(
        connection: &mut Self::Connection,
        statements: &EventStatements<Self>,
        range: ReadRange<'_>,
        incarnation: Incarnation,
    ) -> impl Future<Output = Result<Vec<LogRow>, StoreError>> + Send;

    /// The highest visible position, and the incarnation that it is from: any other than the one that is
    /// wanted, and a standby at any rate, is an error. The default incarnation stands for all.
    fn settled_head(
        connection: &mut Self::Connection,
        statements: &EventStatements<Self>,
        incarnation: Incarnation,
    ) -> impl Future<Output = Result<(i64, Incarnation), StoreError>> + Send;

    /// Wakes the worker after each commit of another process that notifies; never returns.
    fn listen(
        pool: Pool<Self>,
        url: Option<Arc<str>>,
        wake: Arc<tokio::sync::Notify>,
    ) -> impl Future<Output = ()> + Send;
}

/// Computes which positions are settled (R11).
pub trait FrontierWatch<DB: Database>: Send + Sync + Sized + 'static {
    /// Checks the conditions under which the frontier can be known, and starts from the durable one.
    fn start(
        settings: &StoreSettings,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<Self, FrontierError>> + Send;

    /// Tests by drawing a position that the server shows who may fill a gap: for callers that hand out
    /// events.
    fn probe(
        &self,
        pool: &Pool<DB>,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<(), FrontierError>> + Send;

    /// Refuses a position of `what` above the highest that the log has given out so far.
    fn refuse_above(
        &self,
        connection: &mut DB::Connection,
        what: String,
        position: i64,
    ) -> impl Future<Output = Result<(), FrontierError>> + Send;

    /// Reads the log's head and settles what can be settled.
    fn observe(
        &mut self,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<Observation, FrontierError>> + Send;

    /// Reads the state of the log, and the rows of another statement without parameters. The same message
    /// checks the conditions of [`start`](Self::start) again that can change meanwhile.
    fn read_with(
        &self,
        connection: &mut DB::Connection,
        statement: AssertSqlSafe<Arc<str>>,
    ) -> impl Future<Output = Result<(LogState, Vec<DB::Row>), FrontierError>> + Send;

    /// Records the lowest position of the log, unless a lower one is known.
    fn note_first(
        &self,
        connection: &mut DB::Connection,
        position: i64,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// The transactions that keep the frontier from advancing.
    fn blockers(
        &self,
        connection: &mut DB::Connection,
    ) -> impl Future<Output = Result<Vec<Blocker>, sqlx::Error>> + Send;
}

/// How many events of one type and version the log has.
#[derive(Clone, Debug)]
pub struct FormatCount {
    pub(crate) aggregate_type: String,
    pub(crate) event_type: String,
    pub(crate) event_version: i32,
    pub(crate) events: i64,
    pub(crate) first: i64,
    pub(crate) last: i64,
}

impl FormatCount {
    fn decode<DB: Driver>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            aggregate_type: DB::read(row, "aggregate_type")?,
            event_type: DB::read(row, "event_type")?,
            event_version: DB::read(row, "event_version")?,
            events: DB::read(row, "events")?,
            first: DB::read(row, "first")?,
            last: DB::read(row, "last")?,
        })
    }

    pub(crate) fn format(&self) -> EventFormat<'_> {
        EventFormat {
            aggregate_type: &self.aggregate_type,
            event_type: &self.event_type,
            event_version: self.event_version,
        }
    }
}

/// Reads the state of the log, even if nothing is known of it.
pub(super) const LOG_STATE: &str = "
    SELECT min(first_position) AS first_position, coalesce(max(rewrites), 0) AS rewrites
      FROM {log_state} WHERE log = '{log}'";

/// The state of a log besides its frontier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The lowest position that the log was seen to have.
    pub(crate) first: Option<i64>,
    /// How often events in it were changed.
    pub(crate) rewrites: i64,
}

impl LogState {
    pub(super) fn decode<DB: Driver>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            first: DB::read(row, "first_position")?,
            rewrites: DB::read(row, "rewrites")?,
        })
    }
}

/// The result of one observation of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Every position up to here is settled: it has a visible event, or will never have one.
    pub settled: i64,
    /// The highest visible position.
    pub head: i64,
    /// The incarnation of the server.
    pub incarnation: Incarnation,
    /// Whether there is a gap that a transaction may still fill.
    pub waiting: bool,
    /// Whether the next observation would find more without waiting.
    pub more: bool,
}

/// A transaction that may still fill a gap.
///
/// Its text names what to look for on the server:
///
/// ```
/// use std::time::Duration;
///
/// let open = Some(Duration::from_secs(90));
/// let blocker = consumer::Blocker { pid: Some(4711), name: "import".into(), open };
/// assert_eq!(blocker.to_string(), "pid 4711 (app=import, open 90 s)");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The process id of its backend; `None` for a prepared transaction.
    pub pid: Option<i32>,
    /// The application's name, or the prepared transaction's gid.
    pub name: String,
    /// How long the transaction has been open; `None` if the worker's role may not know, as of a session
    /// of another role without the privileges of `pg_read_all_stats`.
    pub open: Option<Duration>,
}

impl std::fmt::Display for Blocker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "pid {pid} (app={}, ", self.name)?,
            None => write!(f, "prepared transaction `{}` (", self.name)?,
        }
        match self.open {
            Some(open) => write!(f, "open {} s)", open.as_secs()),
            None => f.write_str("open for an unknown time, which `GRANT pg_read_all_stats` shows)"),
        }
    }
}
