//! The addresses of the pages, below the path that the router is mounted at.

use std::convert::Infallible;
use std::fmt::Write as _;

use axum::extract::{FromRequestParts, OriginalUri};
use axum::http::request::Parts;
use serde::Deserialize;
use uuid::Uuid;

use crate::backend::{ConsumerId, Cursor};

/// The path that the router is mounted at: empty, or like `/ops`.
#[derive(Clone, Debug, Default)]
pub(super) struct Base(String);

impl<S: Sync> FromRequestParts<S> for Base {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts))
    }
}

impl Base {
    /// The prefix of the whole path before the path that the router sees.
    pub(super) fn of(parts: &Parts) -> Self {
        let Some(OriginalUri(whole)) = parts.extensions.get::<OriginalUri>() else {
            return Self::default();
        };
        let (whole, own) = (whole.path(), parts.uri.path());
        let base = whole.strip_suffix(own).unwrap_or(whole);
        Self(base.trim_end_matches('/').to_owned())
    }

    pub(super) fn overview(&self) -> String {
        match &*self.0 {
            "" => "/".to_owned(),
            base => base.to_owned(),
        }
    }

    /// A page or file of a fixed name.
    pub(super) fn named(&self, name: &str) -> String {
        format!("{}/{name}", self.0)
    }

    pub(super) fn consumer(&self, consumer: &ConsumerId) -> String {
        let name = encoded(&consumer.name);
        format!("{}/consumers/{name}/{}", self.0, consumer.version)
    }

    /// A page or an action below the page of a consumer.
    pub(super) fn of_consumer(&self, consumer: &ConsumerId, what: &str) -> String {
        format!("{}/{what}", self.consumer(consumer))
    }

    pub(super) fn event(&self, position: i64) -> String {
        format!("{}/events/{position}", self.0)
    }

    pub(super) fn payload(&self, position: i64) -> String {
        format!("{}/events/{position}/payload", self.0)
    }

    pub(super) fn event_by_id(&self, id: &str) -> String {
        format!("{}/events/by-id/{}", self.0, encoded(id))
    }

    /// The events for which the named values hold.
    pub(super) fn events(&self, query: &[(&str, &str)]) -> String {
        with_query(&self.named("events"), query)
    }
}

/// The consumer that a path names. The path that the router is mounted at may have parts of its own.
#[derive(Debug, Deserialize)]
pub(super) struct ConsumerPath {
    consumer: String,
    version: u32,
}

impl From<ConsumerPath> for ConsumerId {
    fn from(path: ConsumerPath) -> Self {
        Self {
            name: path.consumer.into(),
            version: path.version,
        }
    }
}

/// The action on a consumer that a path names.
#[derive(Debug, Deserialize)]
pub(super) struct ActionPath {
    consumer: String,
    version: u32,
    action: String,
}

impl ActionPath {
    /// The consumer, and the name of the action.
    pub(super) fn parts(self) -> (ConsumerId, String) {
        let consumer = ConsumerId {
            name: self.consumer.into(),
            version: self.version,
        };
        (consumer, self.action)
    }
}

/// The event that a path names.
#[derive(Debug, Deserialize)]
pub(super) struct EventPath {
    pub(super) position: i64,
}

/// The event whose id a path names.
#[derive(Debug, Deserialize)]
pub(super) struct IdPath {
    pub(super) event_id: Uuid,
}

/// The name and the value of a cursor in a query.
pub(super) fn cursor(cursor: Cursor) -> (&'static str, String) {
    match cursor {
        Cursor::Before(at) => ("before", at.to_string()),
        Cursor::After(at) => ("after", at.to_string()),
    }
}

/// A path with a query of the values that are not empty.
pub(super) fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let mut address = path.to_owned();
    let given = query.iter().filter(|(_, value)| !value.is_empty());
    for (index, (name, value)) in given.enumerate() {
        let separator = if index == 0 { '?' } else { '&' };
        let _ = write!(address, "{separator}{name}={}", encoded(value));
    }
    address
}

/// A text as a part of an address.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    // A part of only dots would change the path.
    let is_dots = text.bytes().all(|byte| byte == b'.');
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || (byte == b'.' && !is_dots) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::{encoded, with_query};

    #[test]
    fn a_text_of_any_kind_is_one_part_of_an_address() {
        assert_eq!(encoded("a/b?c#d é.."), "a%2Fb%3Fc%23d%20%C3%A9..");
        assert_eq!(encoded(".."), "%2E%2E");
    }

    #[test]
    fn only_values_that_are_given_are_in_a_query() {
        let query = [("type", ""), ("id", "a&b"), ("before", "7")];
        assert_eq!(with_query("/events", &query), "/events?id=a%26b&before=7");
    }
}
