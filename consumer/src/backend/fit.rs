//! The limits of the table of events, as it is mapped. The database would refuse the same, but on
//! Postgres that aborts the caller's transaction.

use std::borrow::Cow;

use uuid::Uuid;

use super::column::{Column, Constant, Source, SqlType};
use super::json_text::JsonText;
use super::{Schema, StoreError};
use crate::contract::NewEvent;

/// Refuses an event with a value for which the table has no column.
pub(super) fn refuse_lost_values(schema: &Schema, event: &NewEvent) -> Result<(), StoreError> {
    let lost = Column::ALL
        .into_iter()
        .filter(|column| is_missing(schema, *column))
        .find(|column| text_of(*column, event).is_some());
    refuse(
        event,
        lost.map(|column| {
            format!(
                "it has a {}, and the table has no column for that",
                column.name()
            )
        }),
    )
}

/// Refuses an event with a value that a column of the table cannot hold.
pub(super) fn refuse_unfit(schema: &Schema, event: &NewEvent) -> Result<(), StoreError> {
    let reason = unfit_id(schema, &event.aggregate_id)
        .or_else(|| unfit_payload(schema, &event.payload))
        .or_else(|| {
            Column::ALL
                .into_iter()
                .find_map(|column| unfit_value(schema, column, event))
        });
    refuse(event, reason)
}

/// Refuses new content of an event that a column of the table cannot hold, or for which it has none.
pub(crate) fn refuse_unfit_redaction(
    schema: &Schema,
    position: i64,
    payload: &[u8],
    has_metadata: bool,
) -> Result<(), StoreError> {
    let is_lost = has_metadata && is_missing(schema, Column::Metadata);
    let lost = is_lost.then(|| {
        "it has metadata, and the table has no column for that; leave `.metadata(…)` out".to_owned()
    });
    match lost.or_else(|| unfit_payload(schema, payload)) {
        Some(reason) => Err(StoreError::UnfitRedaction { position, reason }),
        None => Ok(()),
    }
}

fn refuse(event: &NewEvent, reason: Option<String>) -> Result<(), StoreError> {
    match reason {
        Some(reason) => Err(StoreError::UnfitEvent {
            aggregate_type: event.aggregate_type.to_string(),
            aggregate_id: event.aggregate_id.to_string(),
            reason,
        }),
        None => Ok(()),
    }
}

fn is_missing(schema: &Schema, column: Column) -> bool {
    matches!(schema.source(column), Some(Source::Missing))
}

/// Removes the causation and correlation ids that handlers' events get by themselves, where the table
/// has no column for them.
pub(super) fn without_missing<'a>(
    schema: &Schema,
    mut events: Cow<'a, [NewEvent]>,
) -> Cow<'a, [NewEvent]> {
    let causation = is_missing(schema, Column::CausationId);
    let correlation = is_missing(schema, Column::CorrelationId);
    let has = |event: &NewEvent| {
        causation && event.causation_id.is_some() || correlation && event.correlation_id.is_some()
    };
    if events.iter().any(has) {
        for event in events.to_mut() {
            event.causation_id = event.causation_id.take().filter(|_| !causation);
            event.correlation_id = event.correlation_id.take().filter(|_| !correlation);
        }
    }
    events
}

/// Whether an aggregate can have an id: exactly as the database writes a value of the column's type.
pub(super) fn is_id(schema: &Schema, id: &str) -> bool {
    match schema.type_of(Column::AggregateId) {
        SqlType::Uuid => Uuid::try_parse(id).is_ok_and(|uuid| uuid.hyphenated().to_string() == id),
        SqlType::Integer => id
            .parse::<i32>()
            .is_ok_and(|number| number.to_string() == id),
        SqlType::BigInt => id
            .parse::<i64>()
            .is_ok_and(|number| number.to_string() == id),
        _ => true,
    }
}

fn unfit_id(schema: &Schema, id: &str) -> Option<String> {
    let sql_type = schema.type_of(Column::AggregateId).sql_name();
    (!is_id(schema, id)).then(|| {
        format!("ids are of type {sql_type}; write the aggregate's id as the database writes one")
    })
}

fn unfit_payload(schema: &Schema, payload: &[u8]) -> Option<String> {
    let sql_type = schema.type_of(Column::Payload);
    let reason = match sql_type {
        SqlType::Json | SqlType::Jsonb => match JsonText::parse(payload) {
            Ok(text) if text.has_nul() && sql_type == SqlType::Jsonb => {
                "it has a NUL character".to_owned()
            }
            Ok(_) => return None,
            Err(reason) => reason,
        },
        SqlType::Text => match std::str::from_utf8(payload) {
            Ok(text) if text.contains('\0') => "it has a NUL character".to_owned(),
            Ok(_) => return None,
            Err(error) => error.to_string(),
        },
        _ => return None,
    };
    Some(format!(
        "payloads are of type {}, and this one cannot be: {reason}",
        sql_type.sql_name()
    ))
}

/// Tells why the value of a column cannot be stored.
fn unfit_value(schema: &Schema, column: Column, event: &NewEvent) -> Option<String> {
    let name = column.name();
    match schema.source(column) {
        Some(Source::Constant(value)) => {
            let found = constant_of(column, event)?;
            (found != *value).then(|| {
                format!("the {name} of all events is {value:?}, and this one's is {found:?}")
            })
        }
        _ if schema.type_of(column) == SqlType::Uuid => {
            let text = text_of(column, event)?;
            Uuid::try_parse(text)
                .is_err()
                .then(|| format!("its {name} is not a UUID, of which type the column is"))
        }
        _ => None,
    }
}

fn constant_of(column: Column, event: &NewEvent) -> Option<Constant> {
    Some(match column {
        Column::AggregateType => Constant::Text(event.aggregate_type.to_string()),
        Column::EventType => Constant::Text(event.event_type.to_string()),
        Column::EventVersion => Constant::Number(event.event_version),
        _ => return None,
    })
}

/// The value of an optional column; the metadata counts as a text.
fn text_of(column: Column, event: &NewEvent) -> Option<&str> {
    match column {
        Column::TraceId => event.trace_id.as_deref(),
        Column::CorrelationId => event.correlation_id.as_deref(),
        Column::CausationId => event.causation_id.as_deref(),
        Column::Metadata => event.metadata.as_ref().map(|_| ""),
        _ => None,
    }
}
