//! Whether events survive being stored.

use std::fmt;

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
    let payload = example.encode().map_err(|source| RoundTripError::Encode {
        event: event(),
        source,
    })?;
    let text = String::from_utf8_lossy(&payload).into_owned();
    let stored = PersistedEvent::new(EventRecord {
        aggregate_type: E::AGGREGATE_TYPE.into(),
        event_type: example.event_type().into(),
        event_version: example.event_version(),
        payload,
        ..EventRecord::default()
    });
    match E::decode(&stored) {
        Ok(decoded) if decoded == *example => Ok(()),
        Ok(decoded) => Err(RoundTripError::Differs {
            event: event(),
            payload: text,
            decoded: format!("{decoded:?}"),
        }),
        Err(source) => Err(RoundTripError::Decode {
            event: event(),
            payload: text,
            source: source.into(),
        }),
    }
}

/// Checks in a test that events are the same after they have been encoded and decoded.
///
/// It takes an example of each event, at least one for each variant of an enum, and finds what `serde`
/// loses: a NaN, which JSON does not have, an `i128` inside `#[serde(flatten)]`, a field with
/// `#[serde(skip)]`.
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
