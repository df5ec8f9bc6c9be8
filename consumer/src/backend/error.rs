//! The errors of the event store and of the frontier.

use std::fmt;
use std::sync::Arc;

use sqlx::error::DatabaseError;
use uuid::Uuid;

use super::DriverError;
use super::column::Column;
#[cfg(feature = "worker")]
use super::log_problem::LogProblem;
use super::mismatch::Mismatch;
use crate::contract::{DecodeError, ExpectedVersion};

/// The reason why the store could not do what it was asked.
///
/// Most of them concern how a program is set up. Commands match on [`Conflict`](Self::Conflict), or ask
/// [`is_retryable`](Self::is_retryable):
///
/// ```
/// # consumer::__doc::run(async |store| {
/// use consumer::{ExpectedVersion, NewEvent, StoreError};
///
/// # consumer::__doc::register(&store, "ada").await?;
/// let register = [NewEvent::new("User", "ada", "UserRegistered", "{}")];
/// match store.append(ExpectedVersion::NoStream, &register).await {
///     Ok(stored) => println!("registered at {}", stored[0].global_position),
///     Err(StoreError::Conflict { aggregate_id, actual, .. }) => {
///         assert_eq!((aggregate_id.as_str(), actual), ("ada", Some(1)));
///     }
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(()) }).unwrap();
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The URL is one of another kind of database.
    #[error("`{url}` is not a {database} URL: write {example}")]
    WrongUrl {
        /// The URL, without its credentials and parameters.
        url: String,
        /// The database that the store is for.
        database: &'static str,
        /// An example of such a URL.
        example: &'static str,
    },

    /// The URL has the right scheme but cannot be parsed.
    #[error("the {database} URL cannot be read; write it as in {example}")]
    InvalidUrl {
        /// The database that the store is for.
        database: &'static str,
        /// An example of such a URL.
        example: &'static str,
        /// The reason.
        source: DriverError,
    },

    /// The Postgres server cannot be reached, or refused the connection.
    #[error(
        "cannot connect to Postgres at `{server}`; \
         check that the server runs there, and the user, password and database of the URL"
    )]
    Unreachable {
        /// Host, port and database.
        server: String,
        /// The reason.
        source: DriverError,
    },

    /// The SQLite file could not be opened.
    #[error(
        "cannot open the SQLite database `{file}`; \
         check that its directory exists and is writable, and that the file is a SQLite database"
    )]
    CannotOpen {
        /// The file of the URL.
        file: String,
        /// The reason.
        source: DriverError,
    },

    /// A name given to [`Schema`](super::Schema) cannot be a name in the database.
    #[error("{what} cannot be named `{name}`: {reason}")]
    InvalidIdentifier {
        /// The use of the name.
        what: &'static str,
        /// The name as it was given.
        name: String,
        /// The reason.
        reason: &'static str,
    },

    /// The tables, or some of them, do not exist, or are those of an earlier release.
    #[error(
        "the store's tables are missing, or of an earlier release ({missing}): call `migrate()` on the \
         store once, or run the SQL that `migration_sql()` returns"
    )]
    NotMigrated {
        /// The missing tables or columns.
        missing: String,
    },

    /// The database was migrated with other names of the tables.
    #[error(
        "the database is migrated, but not for this mapping ({missing}): the store is mapped to the \
         events in `{events}` and the heads in `{heads}`; give `with_schema` the names that the \
         database was migrated with, or create these tables with the SQL that `migration_sql()` returns"
    )]
    OtherMapping {
        /// The missing tables or columns.
        missing: String,
        /// The table of events in the mapping.
        events: String,
        /// The table of heads in the mapping.
        heads: String,
    },

    /// Events could be lost on this release of the Postgres server.
    #[error(
        "the server is PostgreSQL {found}, and events could be lost on it: a prepared transaction \
         keeps its locks under the same name only since 13.5 and 14.1; update the server to the \
         latest minor release of 14 or later, or at least to 13.5"
    )]
    ServerTooOld {
        /// The server's version.
        found: String,
    },

    /// The search path of the pool's connections has a schema before that of the server's own functions.
    #[error(
        "the `search_path` of the pool's connections is `{found}`, and functions of another schema in it \
         can take the place of the server's own; leave out `pg_catalog`, which comes first then"
    )]
    SearchPath {
        /// The setting.
        found: String,
    },

    /// A part of the mapping contradicts another, or no table can satisfy it.
    #[error("the mapping of `Column::{column:?}` cannot be used: {reason}")]
    InvalidMapping {
        /// The column.
        column: Column,
        /// The reason, and what to write instead.
        reason: String,
    },

    /// The mapping describes an existing table of events, and there is none.
    #[error(
        "there is no table `{table}`, and the mapping describes one that exists (it has types, missing \
         columns, constants, expressions, or is read-only), so it is not created: correct its name and \
         its schema in the mapping, or create it as your program does"
    )]
    NoEventsTable {
        /// The table of events, as in the statements.
        table: String,
    },

    /// The table of events differs from its mapping; all differences are listed.
    #[error("{}", list(.table, .mismatches))]
    Mismatches {
        /// The table of events.
        table: String,
        /// All differences, at least one.
        mismatches: Vec<Mismatch>,
    },

    /// The mapping says that another program appends to the log.
    #[error(
        "the log `{table}` is mapped as read-only: append with the program that owns it, or leave \
         `.read_only()` out of the mapping"
    )]
    ReadOnlyLog {
        /// The table of events.
        table: String,
    },

    /// The table, as it is mapped, cannot hold an event.
    #[error(
        "an event for {} cannot be stored in a table of this mapping: {reason}",
        aggregate(.aggregate_type, .aggregate_id)
    )]
    UnfitEvent {
        /// The aggregate's type.
        aggregate_type: String,
        /// The aggregate's id.
        aggregate_id: String,
        /// The reason, and what to do.
        reason: String,
    },

    /// The table, as it is mapped, cannot hold the new content of an event.
    #[error(
        "the redaction of the event at position {position} cannot be stored in a table of this mapping: {reason}"
    )]
    UnfitRedaction {
        /// The position of the event.
        position: i64,
        /// The reason, and what to do.
        reason: String,
    },

    /// The tables are those of a later release, with which this one cannot work.
    ///
    /// Most later tables do not cause it: programs with an older release keep working with them.
    #[error(
        "the store's tables are at version {found} and need a release of `consumer` that knows version \
         {needs} or later, and this program knows version {known}: nothing was changed; \
         update the `consumer` crate of this program"
    )]
    NewerSchema {
        /// The version in the database.
        found: i64,
        /// The oldest version that a program must know.
        needs: i64,
        /// The newest version that the program knows.
        known: i64,
    },

    /// The role lacks privileges, all of which the message names. Postgres only.
    #[error(
        "role `{role}` lacks privileges to {to}; have the owner of the tables, or a superuser, run: {};",
        .statements.join("; ")
    )]
    MissingPrivileges {
        /// The role.
        role: String,
        /// The intended use.
        to: String,
        /// The statements that grant the missing privileges.
        statements: Vec<String>,
    },

    /// The database refused a statement because the role lacks a privilege.
    #[error(
        "the role of this connection lacks a privilege; `check_access` of the store names all that are \
         missing, and the statements that grant them"
    )]
    Forbidden(#[source] DriverError),

    /// The connection can only read: the server is a standby, the session is read-only, or the SQLite file is.
    #[error(
        "the database cannot be written to on this connection; connect to the primary of the cluster with a \
         session that is not read-only, or make the SQLite file and its directory writable"
    )]
    ReadOnly(#[source] DriverError),

    /// Other sessions held locks on the tables for as long as the migration could wait.
    #[error(
        "the tables were not migrated, and nothing has changed: {}, and it needs their locks for a \
         moment; migrate again when they have ended, or pause the consumers whose batches take so long",
        held_by(.holders)
    )]
    MigrationBlocked {
        /// The sessions on Postgres, as far as they are known.
        holders: Vec<String>,
        /// The last error.
        source: DriverError,
    },

    /// A table lacks a column, or has one with a type that the store cannot use.
    #[error(
        "the tables do not fit: {reason}; give the names of your own columns with \
         `with_schema(Schema::default().column(…))`; if it is one of the library's own, whose \
         names begin with `consumer_`, restore it as `migration_sql()` defines it"
    )]
    SchemaMismatch {
        /// The database's message.
        reason: String,
    },

    /// The aggregate is not at the version that the append expected.
    ///
    /// Another transaction appended to it in the meantime: load the aggregate again and decide again, in
    /// a new transaction. On Postgres a conflict that the unique constraint found (`actual` is `None`)
    /// has aborted the transaction.
    #[error(
        "conflict on {}: expected {expected}, {}; load the aggregate again and retry in a new transaction",
        aggregate(.aggregate_type, .aggregate_id),
        found(*.actual)
    )]
    Conflict {
        /// The aggregate's type.
        aggregate_type: String,
        /// The aggregate's id.
        aggregate_id: String,
        /// The expected version.
        expected: ExpectedVersion,
        /// The version of the aggregate, if it is known; 0 when it has no events.
        actual: Option<i64>,
    },

    /// Another transaction made this one fail: a deadlock, or a serialization failure under a stricter
    /// isolation than READ COMMITTED.
    ///
    /// Nothing is stored, and Postgres has aborted the transaction: retry in a new one. Expect it beside
    /// writers that insert an event before its head, as eventsalsa/store does before
    /// 0.1: two appends to one aggregate can then wait for each other.
    #[error(
        "another transaction made the append to {} fail; retry it in a new transaction",
        aggregate(.aggregate_type, .aggregate_id)
    )]
    Contention {
        /// The aggregate's type.
        aggregate_type: String,
        /// The aggregate's id.
        aggregate_id: String,
        /// The database's error.
        source: DriverError,
    },

    /// An event with the same id is already stored.
    #[error(
        "an event with the id of one of those appended to {} exists already: \
         the same append was made before, or an event id was used twice",
        aggregate(.aggregate_type, .aggregate_id)
    )]
    DuplicateEventId {
        /// The aggregate's type.
        aggregate_type: String,
        /// The aggregate's id.
        aggregate_id: String,
    },

    /// The id of an event is that of another event in the log.
    #[error(
        "the event with the id `{event_id}` differs in its {difference} from the one that the log has under \
         this id at position {position}: give each event an id of its own; if the event was redacted, \
         redact it in both places"
    )]
    DifferentEvent {
        /// The id.
        event_id: Uuid,
        /// The position of the event in the log.
        position: i64,
        /// The first field that differs.
        difference: &'static str,
    },

    /// An append without events.
    #[error("there is nothing to append: `append` needs at least one event")]
    NothingToAppend,

    /// An append to more than one aggregate.
    #[error(
        "one append is for one aggregate, and these events are for {} and {}: \
         call `append` once for each, in the same transaction if they belong together",
        aggregate(&.first.0, &.first.1),
        aggregate(&.second.0, &.second.1)
    )]
    SeveralAggregates {
        /// Type and id of the first event's aggregate.
        first: Box<(String, String)>,
        /// Type and id of the first other aggregate.
        second: Box<(String, String)>,
    },

    /// Text with a NUL character, which Postgres cannot store.
    #[error(
        "{field} contains a NUL character, which Postgres cannot store in text: \
         remove it, or put such bytes into the payload"
    )]
    NulInText {
        /// The field of the event.
        field: &'static str,
    },

    /// Metadata that is not JSON, or not JSON that both databases can store: it is not UTF-8, has half of
    /// a surrogate pair or a number beyond the range of `f64`, or nests deeper than 127 levels.
    #[error("the metadata of an event is not valid JSON: {reason}")]
    InvalidMetadata {
        /// The place and the reason.
        reason: String,
    },

    /// The aggregate's type and id are longer than an index of the database can hold.
    #[error(
        "aggregate type and id are too long for the index that keeps versions unique: \
         Postgres holds about 2,600 bytes of both together; use a shorter id, such as a hash ({reason})"
    )]
    IdTooLong {
        /// The database's message.
        reason: String,
    },

    /// There is no event to redact.
    #[error("the log has no event at position {position}")]
    NoEvent {
        /// The position.
        position: i64,
    },

    /// A row of the log cannot be decoded.
    #[error(
        "the event at position {position} cannot be decoded; \
         correct its row, or read the log up to it and after it"
    )]
    UnreadableEvent {
        /// The position of the event.
        position: i64,
        /// The event's aggregate type, unless that is what cannot be decoded.
        aggregate_type: Option<Arc<str>>,
        /// The reason.
        source: Arc<DriverError>,
    },

    /// An event of a history cannot be read as the type that was asked for.
    #[error(transparent)]
    Decode(#[from] Box<DecodeError>),

    /// An event cannot be written as JSON.
    #[error("the event `{event_type}` cannot be written as JSON; correct its `Serialize`")]
    Encode {
        /// The event type.
        event_type: &'static str,
        /// The reason.
        source: serde_json::Error,
    },

    /// Any other error of the database or of the connection to it.
    #[error("a statement of the event store failed")]
    Database(#[source] DriverError),
}

impl StoreError {
    /// Returns whether the same append can succeed in a new transaction, after the aggregate has been loaded
    /// again: true for [`Conflict`](Self::Conflict) and [`Contention`](Self::Contention).
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::{ExpectedVersion, NewEvent, StoreError};
    ///
    /// let rename = || [NewEvent::new("User", "ada", "UserRenamed", "{}")];
    /// let stored = loop {
    ///     let version = store.append(ExpectedVersion::Any, &rename()).await;
    ///     match version {
    ///         Err(error) if error.is_retryable() => continue,
    ///         other => break other?,
    ///     }
    /// };
    /// assert_eq!(stored.len(), 1);
    /// # Ok(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::Contention { .. })
    }

    /// The error for a URL of another kind, which may contain a password all the same.
    pub(crate) fn wrong_url(url: &str, database: &'static str, example: &'static str) -> Self {
        Self::WrongUrl {
            url: without_secrets(url),
            database,
            example,
        }
    }
}

/// Removes from a text that may be a URL everything that may be a password: the part before the last
/// `@`, and the part after the path.
fn without_secrets(url: &str) -> String {
    let is_scheme = |text: &str| {
        text.chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    let scheme = url
        .split_once("://")
        .filter(|(scheme, _)| is_scheme(scheme))
        .map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
    let rest = url.strip_prefix(&scheme).unwrap_or(url);
    let place = match rest.rsplit_once('@') {
        // The `?` may be part of the password then, and so may what follows the `@`.
        Some((before, _)) if before.contains('?') => "…",
        Some((_, place)) => place,
        None => rest,
    };
    let place = place.split('?').next().unwrap_or_default();
    // `host=db password=…`, which is not a URL.
    let place = place.split_once('=').map_or(place, |_| "…");
    format!("{scheme}{place}")
}

/// Names an aggregate in a message, however long its id is.
fn aggregate(aggregate_type: &str, aggregate_id: &str) -> impl fmt::Display {
    const SHOWN: usize = 80;
    let shown: String = aggregate_id.chars().take(SHOWN).collect();
    let rest = if shown.len() < aggregate_id.len() {
        "…"
    } else {
        ""
    };
    format!("`{aggregate_type}` `{shown}{rest}`")
}

fn found(actual: Option<i64>) -> impl fmt::Display {
    match actual {
        Some(0) => "found no events".to_owned(),
        Some(version) => format!("found version {version}"),
        None => "found that version taken".to_owned(),
    }
}

fn held_by(holders: &[String]) -> String {
    match holders {
        [] => "other sessions were using them throughout".to_owned(),
        holders => format!("other sessions hold locks on them ({})", holders.join(", ")),
    }
}

/// A line for each difference.
fn list(table: &str, mismatches: &[Mismatch]) -> String {
    let lines: Vec<String> = mismatches.iter().map(Mismatch::to_string).collect();
    format!(
        "the table `{table}` does not fit its mapping:\n- {}",
        lines.join("\n- ")
    )
}

/// Whether a statement failed because its connection cannot write.
pub(crate) fn is_read_only(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    // read_only_sql_transaction; SQLITE_READONLY and its extended codes
    matches!(
        code.as_deref(),
        Some("25006" | "8" | "264" | "520" | "776" | "1032" | "1288" | "1544")
    )
}

/// Tells the codes of both databases that have an error of their own.
impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else {
            return Self::Database(error.into());
        };
        if is_read_only(&error) {
            return Self::ReadOnly(error.into());
        }
        let message = database.message().to_owned();
        match database.code().as_deref() {
            // undefined_table, invalid_schema_name
            Some("42P01" | "3F000") => Self::NotMigrated { missing: message },
            // undefined_column, undefined_function (an operator between other types), datatype_mismatch,
            // cannot_coerce
            Some("42703" | "42883" | "42804" | "42846") => Self::SchemaMismatch { reason: message },
            // insufficient_privilege
            Some("42501") => Self::Forbidden(error.into()),
            // program_limit_exceeded
            Some("54000") if message.contains("index row") => Self::IdTooLong { reason: message },
            // SQLITE_ERROR, whose cause is only in its text.
            Some("1") if message.starts_with("no such table") => {
                Self::NotMigrated { missing: message }
            }
            Some("1") if message.contains("no such column") || message.contains("no column") => {
                Self::SchemaMismatch { reason: message }
            }
            _ => Self::Database(error.into()),
        }
    }
}

/// The reason why the frontier could not be determined.
#[cfg(feature = "worker")]
#[derive(Debug, thiserror::Error)]
pub enum FrontierError {
    /// The database returned an error.
    #[error("the frontier of the log could not be read")]
    Database(#[source] DriverError),
    /// The store is not ready.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log is not one whose frontier can be known.
    #[error(transparent)]
    Log(#[from] LogProblem),
}

#[cfg(feature = "worker")]
impl From<sqlx::Error> for FrontierError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}
