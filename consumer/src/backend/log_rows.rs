//! Rows of the log as events.

use std::error::Error;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::DriverError;
use super::StoreError;
use super::append::Placed;
use super::driver::Driver;
use super::names::Names;
use crate::contract::{EventRecord, Metadata, PersistedEvent};

/// A row of the log: an event, or the reason why it cannot be decoded.
pub(crate) type LogRow = Result<PersistedEvent, UnreadableEvent>;

/// An event that cannot be decoded, such as one with a time that no program can represent.
#[derive(Clone, Debug)]
pub struct UnreadableEvent {
    /// The parts of it that can be decoded.
    pub(crate) event: PersistedEvent,
    /// Whether its payload is one of them.
    #[cfg_attr(not(any(feature = "cli", feature = "dashboard")), allow(dead_code))]
    pub(crate) has_payload: bool,
    /// Whether its time is one of them.
    #[cfg_attr(not(any(feature = "cli", feature = "dashboard")), allow(dead_code))]
    pub(crate) has_time: bool,
    /// The event's aggregate type, unless that is what cannot be decoded.
    pub(crate) aggregate_type: Option<Arc<str>>,
    /// The reason.
    pub(crate) error: Arc<DriverError>,
}

impl From<UnreadableEvent> for StoreError {
    fn from(event: UnreadableEvent) -> Self {
        Self::UnreadableEvent {
            position: event.event.global_position,
            aggregate_type: event.aggregate_type,
            source: event.error,
        }
    }
}

/// The event of a row, or what can be decoded of it.
#[cfg(feature = "worker")]
pub(crate) fn readable_event(row: &LogRow) -> &PersistedEvent {
    row.as_ref().unwrap_or_else(|unreadable| &unreadable.event)
}

/// The payload of a row, unless it cannot be decoded.
#[cfg(any(feature = "cli", feature = "dashboard"))]
pub(crate) fn readable_payload(row: &LogRow) -> Option<&Bytes> {
    match row {
        Ok(event) => Some(&event.payload),
        Err(unreadable) => unreadable.has_payload.then_some(&unreadable.event.payload),
    }
}

/// The time of a row, unless it cannot be decoded.
#[cfg(any(feature = "cli", feature = "dashboard"))]
pub(crate) fn readable_time(row: &LogRow) -> Option<DateTime<Utc>> {
    match row {
        Ok(event) => Some(event.created_at),
        Err(unreadable) => unreadable.has_time.then_some(unreadable.event.created_at),
    }
}

/// The position of a row.
#[cfg(feature = "worker")]
pub(crate) fn position(row: &LogRow) -> i64 {
    readable_event(row).global_position
}

/// How a database represents the columns of an event.
pub trait LogRows: Driver {
    /// Decodes a text without copying it.
    fn text(row: &Self::Row, index: usize) -> Result<&str, sqlx::Error>;

    /// Decodes a payload.
    fn payload(row: &Self::Row, index: usize) -> Result<Bytes, sqlx::Error>;

    /// Decodes a version, whatever the type of its column.
    fn integer(row: &Self::Row, index: usize) -> Result<i64, sqlx::Error>;

    /// Decodes an event id.
    fn event_id(row: &Self::Row, index: usize) -> Result<Uuid, sqlx::Error>;

    /// Decodes metadata, without parsing its JSON.
    fn metadata(row: &Self::Row, index: usize) -> Result<Option<Metadata>, sqlx::Error>;

    /// Decodes a time.
    fn time(row: &Self::Row, index: usize) -> Result<DateTime<Utc>, sqlx::Error>;

    /// Decodes a row of `{columns}`, which are those of [`Column`](super::Column) in their order. Only a row without a position is an error of the whole read.
    fn log_row(row: &Self::Row, names: &mut Names) -> Result<LogRow, sqlx::Error> {
        let position = Self::read_at(row, 0)?;
        Ok(Self::event(row, position, names).map_err(|error| {
            let aggregate_type = Self::text(row, 1).ok().map(|name| names.intern(name));
            let event_type = Self::text(row, 5).map(|name| names.intern(name));
            let event = EventRecord {
                global_position: position,
                aggregate_type: aggregate_type.clone().unwrap_or_default(),
                event_type: event_type.unwrap_or_default(),
                ..Self::readable_part(row)
            };
            UnreadableEvent {
                event: PersistedEvent::new(event),
                has_payload: Self::payload(row, 7).is_ok(),
                has_time: Self::time(row, 12).is_ok(),
                aggregate_type,
                error: Arc::new(error.into()),
            }
        }))
    }

    /// Decodes what can be decoded of an event besides its position and types.
    fn readable_part(row: &Self::Row) -> EventRecord {
        EventRecord {
            aggregate_id: Self::read_at(row, 2).unwrap_or_default(),
            aggregate_version: Self::integer(row, 3).unwrap_or_default(),
            event_id: Self::event_id(row, 4).unwrap_or_default(),
            event_version: event_version::<Self>(row, 6).unwrap_or(1),
            payload: Self::payload(row, 7).unwrap_or_default(),
            trace_id: Self::read_at(row, 8).unwrap_or_default(),
            correlation_id: Self::read_at(row, 9).unwrap_or_default(),
            causation_id: Self::read_at(row, 10).unwrap_or_default(),
            metadata: Self::metadata(row, 11).unwrap_or_default(),
            // Any time long ago would be reported as lag.
            created_at: Self::time(row, 12).unwrap_or_else(|_| SystemTime::now().into()),
            ..EventRecord::default()
        }
    }

    /// Decodes the columns after the position.
    fn event(
        row: &Self::Row,
        global_position: i64,
        names: &mut Names,
    ) -> Result<PersistedEvent, sqlx::Error> {
        Ok(PersistedEvent::new(EventRecord {
            global_position,
            aggregate_type: names.intern(Self::text(row, 1)?),
            aggregate_id: Self::read_at(row, 2)?,
            aggregate_version: Self::integer(row, 3)?,
            event_id: Self::event_id(row, 4)?,
            event_type: names.intern(Self::text(row, 5)?),
            event_version: event_version::<Self>(row, 6)?,
            payload: Self::payload(row, 7)?,
            trace_id: Self::read_at(row, 8)?,
            correlation_id: Self::read_at(row, 9)?,
            causation_id: Self::read_at(row, 10)?,
            metadata: Self::metadata(row, 11)?,
            created_at: Self::time(row, 12)?,
        }))
    }

    /// Decodes what an append returns of each event.
    fn placed(row: &Self::Row) -> Result<Placed, sqlx::Error> {
        Ok(Placed {
            global_position: Self::read_at(row, 0)?,
            aggregate_version: Self::integer(row, 1)?,
            created_at: Self::time(row, 2)?,
        })
    }
}

fn event_version<DB: LogRows>(row: &DB::Row, index: usize) -> Result<i32, sqlx::Error> {
    let version = DB::integer(row, index)?;
    i32::try_from(version).map_err(|error| unreadable(index, error))
}

/// The error of a value that cannot be decoded.
pub(super) fn unreadable(index: usize, source: impl Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: index.to_string(),
        source: Box::new(source),
    }
}
