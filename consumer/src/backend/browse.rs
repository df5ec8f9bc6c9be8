//! The log half of a backend: looking through the log in either direction, without payloads.

use std::future::Future;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::StoreSettings;
use super::events::Events;
use super::log_rows::LogRows;
use super::sql::{Statement, statements};

/// The columns of an [`EventHeader`], in the order in which it decodes them.
macro_rules! headers {
    ($rest:literal) => {
        concat!(
            "
    SELECT {global_position}, {aggregate_type}, {aggregate_id}, {aggregate_version}, {event_type},
           {event_version}, {correlation_id}, {causation_id}, {created_at},
           -- Of a value that is stored out of line, this needs only the pointer.
           CAST(octet_length({payload}) AS BIGINT) AS payload_bytes
      FROM {events}
     WHERE ",
            $rest
        )
    };
}

pub(crate) use headers;

const BEFORE: &str = headers!("{global_position} < $1 ORDER BY {global_position} DESC LIMIT $2");

const AFTER: &str = headers!("{global_position} > $1 ORDER BY {global_position} LIMIT $2");

const OF_AGGREGATE_BEFORE: &str = headers!(
    "{aggregate_type} = $3 AND {aggregate_id} = $4 AND {aggregate_version} < $1
     ORDER BY {aggregate_version} DESC LIMIT $2"
);

const OF_AGGREGATE_AFTER: &str = headers!(
    "{aggregate_type} = $3 AND {aggregate_id} = $4 AND {aggregate_version} > $1
     ORDER BY {aggregate_version} LIMIT $2"
);

statements! {
    /// The statements that look through the log, with the names of the mapping.
    pub BrowseStatements for DB: Browse {
        before: BEFORE,
        after: AFTER,
        of_type_before: DB::OF_TYPE_BEFORE,
        of_type_after: DB::OF_TYPE_AFTER,
        of_aggregate_before: OF_AGGREGATE_BEFORE,
        of_aggregate_after: OF_AGGREGATE_AFTER,
        by_id: DB::BY_ID,
    }
}

/// Which events to look at.
#[derive(Clone, Copy, Debug)]
pub enum Among<'a> {
    /// Every event; cursors are positions.
    All,
    /// Those of an aggregate type; cursors are positions.
    Type(&'a str),
    /// Those of one aggregate, by type and id; cursors are versions.
    Aggregate(&'a str, &'a str),
}

/// Where a page of events begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Before a position or version, latest first.
    Before(i64),
    /// After a position or version, earliest first.
    After(i64),
}

/// An event without its payload and metadata. What cannot be decoded is empty.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "dashboard"), allow(dead_code))]
pub struct EventHeader {
    pub(crate) position: i64,
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
    pub(crate) aggregate_version: i64,
    pub(crate) event_type: String,
    pub(crate) event_version: i32,
    pub(crate) correlation_id: Option<String>,
    pub(crate) causation_id: Option<String>,
    pub(crate) created_at: Option<DateTime<Utc>>,
    pub(crate) payload_bytes: i64,
}

impl EventHeader {
    fn decode<DB: LogRows>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            position: DB::read_at(row, 0)?,
            aggregate_type: DB::read_at(row, 1).unwrap_or_default(),
            aggregate_id: DB::read_at(row, 2).unwrap_or_default(),
            aggregate_version: DB::read_at(row, 3).unwrap_or_default(),
            event_type: DB::read_at(row, 4).unwrap_or_default(),
            event_version: DB::read_at(row, 5).unwrap_or_default(),
            correlation_id: DB::read_at(row, 6).unwrap_or_default(),
            causation_id: DB::read_at(row, 7).unwrap_or_default(),
            created_at: DB::time(row, 8).ok(),
            payload_bytes: DB::read_at(row, 9).unwrap_or_default(),
        })
    }
}

/// How the log is looked through.
pub trait Browse: Events {
    /// The headers of up to `$2` events of the type `$3` before the position `$1`, latest first, by the index on
    /// types and positions.
    const OF_TYPE_BEFORE: &'static str;

    /// Those after it, earliest first.
    const OF_TYPE_AFTER: &'static str;

    /// The position of the event whose id is the text `$1`, as `position`.
    const BY_ID: &'static str;

    /// Renders the statements.
    fn browse_statements(settings: &StoreSettings) -> BrowseStatements {
        BrowseStatements::new::<Self>(settings)
    }

    /// Reads the headers of up to `limit` events.
    fn headers(
        sql: &BrowseStatements,
        connection: &mut Self::Connection,
        among: Among<'_>,
        cursor: Cursor,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<EventHeader>, sqlx::Error>> + Send {
        let (before, after) = match among {
            Among::All => (&sql.before, &sql.after),
            Among::Type(_) => (&sql.of_type_before, &sql.of_type_after),
            Among::Aggregate(..) => (&sql.of_aggregate_before, &sql.of_aggregate_after),
        };
        let query: Statement<Self> = match cursor {
            Cursor::Before(at) => before.on().bind(at),
            Cursor::After(at) => after.on().bind(at),
        };
        let query = query.bind(limit);
        let (query, is_possible) = match among {
            Among::All => (query, true),
            Among::Type(kind) => (query.bind(kind), can_be_stored::<Self>(&[kind])),
            Among::Aggregate(kind, id) => (
                query.bind(kind).bind(id),
                can_be_stored::<Self>(&[kind, id]),
            ),
        };
        async move {
            if !is_possible {
                return Ok(Vec::new());
            }
            let rows = query.fetch_all(connection).await?;
            rows.iter().map(EventHeader::decode::<Self>).collect()
        }
    }

    /// Finds the position of an event.
    fn position_of_id(
        sql: &BrowseStatements,
        connection: &mut Self::Connection,
        id: Uuid,
    ) -> impl Future<Output = Result<Option<i64>, sqlx::Error>> + Send {
        let id = id.to_string();
        let query = sql.by_id.on::<Self>().bind(&*id);
        async move {
            let row = query.fetch_optional(connection).await?;
            row.map(|row| Self::read(&row, "position")).transpose()
        }
    }
}

/// Whether the database would not refuse to look for these texts.
fn can_be_stored<DB: Events>(texts: &[&str]) -> bool {
    DB::STORES_NUL || !texts.iter().any(|text| text.contains('\0'))
}
