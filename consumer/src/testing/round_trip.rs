//! Whether events survive being stored.

use std::fmt::{self, Write as _};

use bytes::Bytes;
use serde::de::IgnoredAny;
use thiserror::Error;

use crate::contract::{DecodeError, Event, EventRecord, PersistedEvent};

/// Why an event does not survive being stored; part of what
/// [`assert_round_trips!`](crate::assert_round_trips) reports.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RoundTripError {
    /// There is no example of some events.
    #[error(
        "there is no example of `{}`: add one for each, so that all events of the type are checked",
        missing.join("`, `")
    )]
    Missing {
        /// Their event types.
        missing: Vec<&'static str>,
    },
    /// An event cannot be encoded.
    #[error("`{event}` cannot be encoded")]
    Encode {
        /// The event.
        event: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The payload of an event cannot be decoded.
    #[error("`{event}` is encoded as `{payload}`, which cannot be decoded")]
    Decode {
        /// The event.
        event: String,
        /// Its payload.
        payload: String,
        /// Why.
        source: Box<DecodeError>,
    },
    /// A field borrows a text from the payload, which fails as soon as the text contains an escape.
    #[error(
        "`{event}` cannot be decoded from `{payload}`, the same JSON with escapes: read each text as a \
         `String` or a `Cow<str>`, since a `&str` cannot contain what an escape stands for"
    )]
    Borrows {
        /// The event.
        event: String,
        /// Its payload, with an escape in each text.
        payload: String,
        /// Why.
        source: Box<DecodeError>,
    },
    /// An event is decoded as another.
    #[error("`{event}` is encoded as `{payload}`, which is decoded as `{decoded}`")]
    Differs {
        /// The event.
        event: String,
        /// Its payload.
        payload: String,
        /// The event as it was decoded.
        decoded: String,
    },
}

/// Encodes and decodes each event, and compares what comes out with what went in.
///
/// [`assert_round_trips!`](crate::assert_round_trips) panics with the error, in a test.
///
/// # Errors
/// [`RoundTripError`] for the first event that is not the same afterwards, or if an event type of `E` is
/// not among the examples.
pub fn check_round_trips<E: Event + PartialEq + fmt::Debug>(
    examples: impl IntoIterator<Item = E>,
) -> Result<(), RoundTripError> {
    let mut missing = E::EVENT_TYPES.to_vec();
    for example in examples {
        check(&example)?;
        missing.retain(|event| *event != example.event_type());
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(RoundTripError::Missing { missing })
    }
}

fn check<E: Event + PartialEq + fmt::Debug>(example: &E) -> Result<(), RoundTripError> {
    let event = || format!("{example:?}");
    let encoded = example.encode().map_err(|source| RoundTripError::Encode {
        event: event(),
        source,
    })?;
    let payload = || String::from_utf8_lossy(&encoded).into_owned();
    let decoded = decode_as(example, encoded.clone()).map_err(|source| RoundTripError::Decode {
        event: event(),
        payload: payload(),
        source: source.into(),
    })?;
    if decoded != *example {
        return Err(RoundTripError::Differs {
            event: event(),
            payload: payload(),
            decoded: format!("{decoded:?}"),
        });
    }
    // An event with an encoding of its own need not be JSON.
    match std::str::from_utf8(&encoded) {
        Ok(json) if serde_json::from_str::<IgnoredAny>(json).is_ok() => {
            borrows_no_text(example, json)
        }
        _ => Ok(()),
    }
}

/// Decodes the same JSON with escapes, whose texts no field can borrow from the payload.
fn borrows_no_text<E: Event + fmt::Debug>(example: &E, json: &str) -> Result<(), RoundTripError> {
    let payload = with_escapes(json);
    match decode_as(example, payload.clone().into()) {
        Ok(_) => Ok(()),
        Err(source) => Err(RoundTripError::Borrows {
            event: format!("{example:?}"),
            payload,
            source: source.into(),
        }),
    }
}

/// Decodes a payload of the example's type and version.
fn decode_as<E: Event>(example: &E, payload: Bytes) -> Result<E, DecodeError> {
    E::decode(&PersistedEvent::new(EventRecord {
        aggregate_type: E::AGGREGATE_TYPE.into(),
        event_type: example.event_type().into(),
        event_version: example.event_version(),
        payload,
        ..EventRecord::default()
    }))
}

/// The same JSON, in which each text that is not a key begins with an escape.
fn with_escapes(json: &str) -> String {
    let mut escaped = String::new();
    let mut rest = json;
    while let Some((before, text)) = rest.split_once('"') {
        escaped.push_str(before);
        let (text, after) = end_of_text(text);
        let is_key = after.trim_start().starts_with(':');
        escaped.push('"');
        match text.chars().next() {
            Some(first) if first != '\\' && !is_key => {
                for unit in first.encode_utf16(&mut [0; 2]) {
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
                escaped.extend(text.chars().skip(1));
            }
            _ => escaped.push_str(text),
        }
        escaped.push('"');
        rest = after;
    }
    escaped + rest
}

/// Splits JSON after its opening quote into the text and what follows its closing quote.
fn end_of_text(json: &str) -> (&str, &str) {
    let mut is_escaped = false;
    let end = json.find(|character| {
        let ends = character == '"' && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
        ends
    });
    let (text, quote_and_after) = json.split_at(end.unwrap_or(json.len()));
    (text, quote_and_after.strip_prefix('"').unwrap_or_default())
}

/// Checks in a test that events are the same after they have been encoded and decoded.
///
/// It takes an example of each event, at least one for each variant of an enum, and finds what `serde`
/// loses: a NaN, which JSON does not have, an `i128` inside `#[serde(flatten)]`, a field with
/// `#[serde(skip)]`, a field that is read through a `&str`, which works until a text has an escape.
///
/// Only the values of the examples are tried: a NaN or an infinity is found if an example has one, a
/// skipped field if its value is not the default, a borrowed text if it is not empty.
///
/// ```
/// use consumer::{Event, assert_round_trips};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Event, PartialEq, Serialize, Deserialize)]
/// #[event(aggregate = "User")]
/// enum UserEvent {
///     Registered { email: String },
///     Deleted,
/// }
///
/// // In a function marked `#[test]`:
/// assert_round_trips!([UserEvent::Registered { email: "ada@example.com".into() }, UserEvent::Deleted]);
/// ```
///
/// # Panics
/// If an event is not the same afterwards, or a variant has no example.
#[macro_export]
macro_rules! assert_round_trips {
    ($examples:expr $(,)?) => {
        if let ::core::result::Result::Err(error) = $crate::testing::check_round_trips($examples) {
            ::core::panic!("{}", $crate::__private::chain(&error));
        }
    };
}
