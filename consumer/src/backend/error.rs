//! What can go wrong between a program and its event store, in words that say what to do.

use std::fmt;

use super::Schema;
use crate::contract::ExpectedVersion;

/// Why the store could not do what it was asked.
///
/// Most of them are for whoever sets the program up. A command matches on one, [`Conflict`](Self::Conflict):
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use consumer::{ExpectedVersion, NewEvent, SqliteEventStore, StoreError};
///
/// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
/// # store.migrate().await?;
/// # let event = [NewEvent::new("User", "ada", "UserRegistered", "{}")];
/// # store.append(ExpectedVersion::Any, &event).await?;
/// let register = [NewEvent::new("User", "ada", "UserRegistered", "{}")];
/// match store.append(ExpectedVersion::NoStream, &register).await {
///     Ok(stored) => println!("registered at {}", stored[0].global_position),
///     Err(StoreError::Conflict { aggregate_id, actual, .. }) => {
///         assert_eq!((aggregate_id.as_str(), actual), ("ada", Some(1)));
///     }
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The URL belongs to no database that this store speaks to.
    #[error("`{url}` is not a {database} URL: write {example}")]
    WrongUrl {
        /// The URL, without its credentials and parameters.
        url: String,
        /// The database that the store is for.
        database: &'static str,
        /// What such a URL looks like.
        example: &'static str,
    },

    /// The URL has the right scheme and cannot be used all the same.
    #[error("the {database} URL cannot be used: {source}")]
    InvalidUrl {
        /// The database that the store is for.
        database: &'static str,
        /// What sqlx says of it.
        source: sqlx::Error,
    },

    /// The Postgres server did not let us in.
    #[error(
        "cannot connect to Postgres at `{server}`: {source}; \
         check that the server runs there, and the user, password and database of the URL"
    )]
    Unreachable {
        /// Host, port and database.
        server: String,
        /// What happened.
        source: sqlx::Error,
    },

    /// The SQLite file could not be opened.
    #[error(
        "cannot open the SQLite database `{file}`: {source}; \
         check that its directory exists and is writable, and that the file is a SQLite database"
    )]
    CannotOpen {
        /// The file of the URL.
        file: String,
        /// What happened.
        source: sqlx::Error,
    },

    /// A name given to [`Schema`](super::Schema) cannot be a name in the database.
    #[error("{what} cannot be named `{name}`: {reason}")]
    InvalidIdentifier {
        /// What the name is for.
        what: &'static str,
        /// The name as it was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// The tables, or some of them, are not there.
    #[error(
        "the store's tables are missing ({missing}): call `migrate()` on the store once, \
         or run the SQL that `migration_sql()` returns"
    )]
    NotMigrated {
        /// What was looked for and not found.
        missing: String,
    },

    /// The tables were made, and those that this mapping names are not among them.
    #[error(
        "the database is migrated, but not for this mapping ({missing}): the store is mapped to the \
         events in `{events}` and the heads in `{heads}`; give `with_schema` the names that the \
         database was migrated with, or, if the tables were renamed or are to be new, make them with \
         the SQL that `migration_sql()` returns"
    )]
    OtherMapping {
        /// What was looked for and not found.
        missing: String,
        /// The table of events in the mapping.
        events: String,
        /// The table of heads in the mapping.
        heads: String,
    },

    /// The Postgres server is of a release that the library cannot rest on.
    #[error(
        "the server is PostgreSQL {found}, and events could be lost on it: a prepared transaction \
         keeps its locks under the same name only since 13.5 and 14.1; update the server to the \
         latest minor release of 14 or later, or at least to 13.5"
    )]
    ServerTooOld {
        /// The server's version.
        found: String,
    },

    /// The SQLite table of events gives out positions of deleted events again.
    #[error(
        "column `{column}` of `{table}` is not `INTEGER PRIMARY KEY AUTOINCREMENT`: SQLite would give \
         the position of a deleted event to a new one, which consumers that have passed it would \
         never see; make the table anew with the SQL that `migration_sql()` returns, and copy the \
         events into it with their positions"
    )]
    NoAutoincrement {
        /// The table of events.
        table: String,
        /// The column of positions.
        column: String,
    },

    /// The tables were made by a later release of this library.
    #[error(
        "the database has version {found} of the store's tables, and this program knows {known}: \
         update the `consumer` crate of this program"
    )]
    NewerSchema {
        /// The version in the database.
        found: i64,
        /// The newest version that the program knows.
        known: i64,
    },

    /// A table is there and lacks a column, or has one with a type that the store's SQL cannot use.
    #[error(
        "the tables do not fit: {reason}; give the names of your own columns with \
         `with_schema(Schema::default().column(…))`"
    )]
    SchemaMismatch {
        /// What the database says.
        reason: String,
    },

    /// The aggregate is not at the version that the append expected.
    ///
    /// Somebody else appended to it in the meantime: load the aggregate again and decide anew, in
    /// a new transaction. On Postgres a conflict that the unique constraint found (`actual` is
    /// `None`) has aborted the transaction.
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
        /// What the append expected.
        expected: ExpectedVersion,
        /// The version that the aggregate has, where it is known; 0 when it has no events.
        actual: Option<i64>,
    },

    /// An event with this id is stored already.
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
         take it out, or put such bytes into the payload"
    )]
    NulInText {
        /// Which field of the event.
        field: &'static str,
    },

    /// Metadata that is not JSON, or that no database could store: it is not UTF-8, has half of a
    /// surrogate pair or a number beyond those of floating point, or nests deeper than 127 levels.
    #[error("the metadata of an event is not valid JSON: {reason}")]
    InvalidMetadata {
        /// Where and why.
        reason: String,
    },

    /// The aggregate's type and id are longer than an index of the database can hold.
    #[error(
        "aggregate type and id are too long for the index that keeps versions unique: \
         Postgres holds about 2,600 bytes of both together; use a shorter id, such as a hash ({reason})"
    )]
    IdTooLong {
        /// What the database says.
        reason: String,
    },

    /// Anything else that the database answered.
    #[error("{0}")]
    Database(#[source] sqlx::Error),
}

impl StoreError {
    /// The error for a URL of another kind, which may hold a password all the same.
    pub(crate) fn wrong_url(url: &str, database: &'static str, example: &'static str) -> Self {
        Self::WrongUrl {
            url: without_secrets(url),
            database,
            example,
        }
    }

    /// What is missing, where the versions say that the tables were made.
    pub(crate) fn despite_migration(self, schema: &Schema) -> Self {
        match self {
            Self::NotMigrated { missing } => Self::OtherMapping {
                missing,
                events: schema.events_name().to_owned(),
                heads: schema.heads_name().to_owned(),
            },
            other => other,
        }
    }
}

/// Leaves out of a text that may be a URL everything that may be a password: what stands before the
/// last `@`, and what follows the path.
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
        // Either may be part of the password then, and what follows the `@` too.
        Some((before, _)) if before.contains('?') => "…",
        Some((_, place)) => place,
        None => rest,
    };
    let place = place.split('?').next().unwrap_or_default();
    // `host=db password=…`, which is no URL at all.
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

/// What the store makes of the two databases' codes, wherever they come up.
impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else {
            return Self::Database(error);
        };
        let message = database.message().to_owned();
        match database.code().as_deref() {
            // undefined_table, invalid_schema_name
            Some("42P01" | "3F000") => Self::NotMigrated { missing: message },
            // undefined_column, undefined_function (an operator between other types), datatype_mismatch
            Some("42703" | "42883" | "42804") => Self::SchemaMismatch { reason: message },
            // program_limit_exceeded
            Some("54000") if message.contains("index row") => Self::IdTooLong { reason: message },
            // SQLITE_ERROR says everything in its text.
            Some("1") if message.starts_with("no such table") => {
                Self::NotMigrated { missing: message }
            }
            Some("1") if message.contains("no such column") || message.contains("no column") => {
                Self::SchemaMismatch { reason: message }
            }
            _ => Self::Database(error),
        }
    }
}

/// Why a look at the frontier failed.
#[cfg(feature = "worker")]
#[derive(Debug, thiserror::Error)]
pub enum FrontierError {
    /// The database could not be used.
    #[error("the database cannot be used")]
    Database(#[from] sqlx::Error),
    /// The store is not ready.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log is not one whose frontier can be known.
    #[error(transparent)]
    Log(#[from] LogProblem),
}

/// Why positions cannot be settled on this log; nothing was skipped, and nothing runs.
///
/// Each is the text of a refusal that says what to change; the guide
/// [`frontier`](crate::guide::frontier) says why it matters. [`Reset`](Self::Reset) is the only one that
/// can also end a worker that runs.
///
/// See [`WorkerError`] for an example.
#[cfg(feature = "worker")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogProblem {
    /// Positions were given out again, so that a checkpoint would skip events.
    #[error(
        "the log was reset: {what} stands at {position}, but the log has given out positions only up to {last_value}; restore the log, or rebuild the consumers and delete the row of `consumer_frontier`"
    )]
    Reset {
        /// What is above the log.
        what: String,
        /// Where it stands.
        position: i64,
        /// The last position that was given out.
        last_value: i64,
    },
    /// The position column draws from no sequence that could be found.
    #[error(
        "no sequence belongs to the position column of the events table, so it cannot be known which positions are still to come; make it BIGSERIAL or IDENTITY, or name its sequence in the `Schema`"
    )]
    NoSequence,
    /// The sequence hands positions to sessions in advance.
    #[error(
        "sequence {name} has a CACHE above 1, so a session may commit a low position at any later time; run `ALTER SEQUENCE {name} CACHE 1`"
    )]
    CachedSequence {
        /// The sequence.
        name: String,
    },
    /// The sequence does not count up by one.
    #[error(
        "sequence {name} does not count up by 1 without a cycle; run `ALTER SEQUENCE {name} INCREMENT 1 NO CYCLE`"
    )]
    OddSequence {
        /// The sequence.
        name: String,
    },
    /// The server is a standby, whose locks are not those of the writers.
    #[error(
        "the server is a standby, where writers cannot be seen; connect the worker to the primary"
    )]
    Standby,
    /// The events come from logical replication, which does not draw positions here.
    #[error(
        "the events table is the target of a logical replication, whose rows come without a lock on the sequence; run the worker where the events are appended"
    )]
    ReplicationTarget,
    /// The server does not show who holds the sequence.
    #[error(
        "the lock that `nextval` takes on sequence {name} cannot be seen on this server, so the frontier cannot be known; run the worker on PostgreSQL itself, 13.5 or later, and not on a server that only speaks its protocol"
    )]
    InvisibleLocks {
        /// The sequence.
        name: String,
    },
}
