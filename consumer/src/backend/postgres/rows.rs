//! Rows of Postgres as events, in the order of columns of [`COLUMNS`](super::statements::COLUMNS).

use bytes::Bytes;
use sqlx::postgres::{PgRow, PgValueFormat, PgValueRef};
use sqlx::{Row, TypeInfo, ValueRef};

use crate::backend::append::Placed;
use crate::backend::names::Names;
use crate::contract::{EventRecord, Metadata, PersistedEvent};
#[cfg(feature = "worker")]
pub(super) use checkpoint_rows::*;

pub(super) fn event(row: &PgRow, names: &mut Names) -> Result<PersistedEvent, sqlx::Error> {
    Ok(PersistedEvent::new(EventRecord {
        global_position: row.try_get(0)?,
        aggregate_type: names.intern(row.try_get(1)?),
        aggregate_id: row.try_get(2)?,
        aggregate_version: row.try_get(3)?,
        event_id: row.try_get(4)?,
        event_type: names.intern(row.try_get(5)?),
        event_version: row.try_get(6)?,
        payload: Bytes::copy_from_slice(row.try_get(7)?),
        trace_id: row.try_get(8)?,
        correlation_id: row.try_get(9)?,
        causation_id: row.try_get(10)?,
        metadata: metadata(&row.try_get_raw(11)?)?,
        created_at: row.try_get(12)?,
    }))
}

pub(super) fn placed(row: &PgRow) -> Result<Placed, sqlx::Error> {
    Ok(Placed {
        global_position: row.try_get(0)?,
        aggregate_version: row.try_get(1)?,
        created_at: row.try_get(2)?,
    })
}

/// The JSON text as Postgres sends it, not parsed.
fn metadata(value: &PgValueRef<'_>) -> Result<Option<Metadata>, sqlx::Error> {
    if value.is_null() {
        return Ok(None);
    }
    // `jsonb` in binary is the version of the format, 1, and then the text.
    let has_version =
        value.format() == PgValueFormat::Binary && value.type_info().name() == "JSONB";
    let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
    let text = bytes.get(usize::from(has_version)..).unwrap_or_default();
    Ok(Some(Metadata::from_json_text(Bytes::copy_from_slice(text))))
}

#[cfg(feature = "worker")]
mod checkpoint_rows {
    use std::time::Duration;

    use sqlx::Row as _;
    use sqlx::postgres::PgRow;

    use crate::backend::shared::shared_rows;
    use crate::backend::{Aggregate, Checkpoint, ConsumerId, ParkedRow, Row, SegmentId, State};

    shared_rows!(PgRow);
}
