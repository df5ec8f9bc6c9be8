//! Rows of SQLite as events, in the order of columns of [`COLUMNS`](super::statements::COLUMNS).

use bytes::Bytes;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::backend::append::Placed;
use crate::backend::names::Names;
use crate::contract::{EventRecord, Metadata, PersistedEvent};
#[cfg(feature = "worker")]
pub(super) use checkpoint_rows::*;

pub(super) fn event(row: &SqliteRow, names: &mut Names) -> Result<PersistedEvent, sqlx::Error> {
    Ok(PersistedEvent::new(EventRecord {
        global_position: row.try_get(0)?,
        aggregate_type: names.intern(row.try_get(1)?),
        aggregate_id: row.try_get(2)?,
        aggregate_version: row.try_get(3)?,
        event_id: event_id(bytes(row, 4)?.unwrap_or_default())?,
        event_type: names.intern(row.try_get(5)?),
        event_version: row.try_get(6)?,
        payload: Bytes::copy_from_slice(bytes(row, 7)?.unwrap_or_default()),
        trace_id: row.try_get(8)?,
        correlation_id: row.try_get(9)?,
        causation_id: row.try_get(10)?,
        metadata: bytes(row, 11)?
            .map(|text| Metadata::from_json_text(Bytes::copy_from_slice(text))),
        created_at: row.try_get(12)?,
    }))
}

pub(super) fn placed(row: &SqliteRow) -> Result<Placed, sqlx::Error> {
    Ok(Placed {
        global_position: row.try_get(0)?,
        aggregate_version: row.try_get(1)?,
        created_at: row.try_get(2)?,
    })
}

/// Position and size of an event; sizes are known without reading the content.
pub(super) type Size = (i64, i64);

pub(super) fn size(row: &SqliteRow) -> Result<Size, sqlx::Error> {
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Last position and size of a range; neither of an empty one.
pub(super) type Extent = (Option<i64>, Option<i64>);

pub(super) fn extent(row: &SqliteRow) -> Result<Extent, sqlx::Error> {
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// The bytes of a value, whether it is stored as text or as a blob.
fn bytes(row: &SqliteRow, index: usize) -> Result<Option<&[u8]>, sqlx::Error> {
    row.try_get_unchecked(index)
}

/// Ours are text, which a person can read; a table of somebody else may have the 16 bytes.
fn event_id(value: &[u8]) -> Result<Uuid, sqlx::Error> {
    let id = Uuid::from_slice(value).or_else(|_| Uuid::try_parse_ascii(value));
    id.map_err(|error| sqlx::Error::ColumnDecode {
        index: "event id".to_owned(),
        source: error.into(),
    })
}

#[cfg(feature = "worker")]
mod checkpoint_rows {
    use std::time::Duration;

    use sqlx::Row as _;
    use sqlx::sqlite::SqliteRow;

    use crate::backend::shared::shared_rows;
    use crate::backend::{Aggregate, Checkpoint, ConsumerId, ParkedRow, Row, SegmentId, State};

    shared_rows!(SqliteRow);
}
