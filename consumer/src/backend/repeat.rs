//! Whether an event is the one that the log has under its id.

use serde_json::Value;

use super::column::{Column, SqlType};
use super::{Schema, StoreError};
use crate::contract::{NewEvent, PersistedEvent};

/// Refuses an event that is not a repeat of the stored one, which has the same id.
///
/// Metadata, trace, correlation and causation say how an event came about: they may differ between two
/// deliveries, and handlers' events get some of them by themselves.
pub(crate) fn refuse_other(
    schema: &Schema,
    event: &NewEvent,
    stored: &PersistedEvent,
) -> Result<(), StoreError> {
    let equal = [
        (
            "aggregate type",
            event.aggregate_type == stored.aggregate_type,
        ),
        (
            "aggregate id",
            *event.aggregate_id == *stored.aggregate_id.as_str(),
        ),
        ("event type", event.event_type == stored.event_type),
        ("event version", event.event_version == stored.event_version),
        (
            "payload",
            same_payload(schema, &event.payload, &stored.payload),
        ),
    ];
    match equal.into_iter().find(|(_, is_equal)| !is_equal) {
        Some((difference, _)) => Err(StoreError::DifferentEvent {
            event_id: event.event_id,
            position: stored.global_position,
            difference,
        }),
        None => Ok(()),
    }
}

/// A column of type `jsonb` does not preserve the text.
fn same_payload(schema: &Schema, one: &[u8], other: &[u8]) -> bool {
    let is_json = schema.type_of(Column::Payload) == SqlType::Jsonb;
    let parsed = || {
        let one = serde_json::from_slice(one).ok()?;
        Some(same_json(&one, &serde_json::from_slice(other).ok()?))
    };
    one == other || is_json && parsed().unwrap_or(false)
}

/// Whether two values are the same to `jsonb`, which has one kind of number.
fn same_json(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| same_json(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let in_other = |(key, value): (&String, &Value)| {
                other.get(key).is_some_and(|found| same_json(value, found))
            };
            one.len() == other.len() && one.iter().all(in_other)
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::same_payload;
    use crate::{Column, Schema, SqlType};

    #[test]
    fn only_a_column_of_jsonb_may_give_json_back_in_another_form() {
        let bytes = Schema::default();
        let jsonb = Schema::default().sql_type(Column::Payload, SqlType::Jsonb);
        for (one, other, same) in [
            (r#"{"a":1,"b":[1,2]}"#, r#"{"b": [1.0, 2], "a": 1}"#, true),
            (r#"{"a":1e2}"#, r#"{"a": 100}"#, true),
            (r#"{"a":1}"#, r#"{"a":1,"b":2}"#, false),
            (r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#, false),
            (r#"{"a":null}"#, r#"{"b":null}"#, false),
            (r#"{"a":"1"}"#, r#"{"a":1}"#, false),
        ] {
            let (one, other) = (one.as_bytes(), other.as_bytes());
            assert_eq!(same_payload(&jsonb, one, other), same);
            assert!(!same_payload(&bytes, one, other));
            assert!(same_payload(&bytes, one, one));
        }
    }
}
