//! The new content of a redacted event.

use bytes::Bytes;

use crate::contract::Metadata;

/// The new content of an event; see [`EventStore::redact`](crate::EventStore::redact).
///
/// A payload alone can be given as text or bytes. Metadata stays unless it is replaced or removed.
///
/// ```
/// use consumer::{Metadata, Redaction};
///
/// let whole = Redaction::new(r#"{"email":null}"#).without_metadata();
/// let both = Redaction::new("{}").metadata(Metadata::from_json_text(r#"{"redacted":true}"#));
/// let payload: Redaction = "{}".into();
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Redaction {
    pub(super) payload: Bytes,
    pub(super) metadata: NewMetadata,
}

/// Whether the metadata is kept, replaced or removed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum NewMetadata {
    Kept,
    Removed,
    Replaced(Metadata),
}

impl Redaction {
    /// Replaces the payload.
    #[must_use]
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self {
            payload: payload.into(),
            metadata: NewMetadata::Kept,
        }
    }

    /// Replaces the metadata, too.
    #[must_use]
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = NewMetadata::Replaced(metadata);
        self
    }

    /// Removes the metadata, too.
    #[must_use]
    pub fn without_metadata(mut self) -> Self {
        self.metadata = NewMetadata::Removed;
        self
    }
}

impl From<&str> for Redaction {
    fn from(payload: &str) -> Self {
        Self::new(payload.to_owned())
    }
}

impl From<String> for Redaction {
    fn from(payload: String) -> Self {
        Self::new(payload)
    }
}

impl From<Vec<u8>> for Redaction {
    fn from(payload: Vec<u8>) -> Self {
        Self::new(payload)
    }
}

impl From<Bytes> for Redaction {
    fn from(payload: Bytes) -> Self {
        Self::new(payload)
    }
}
