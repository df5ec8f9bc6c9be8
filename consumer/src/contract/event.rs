//! The immutable value that a consumer is given (R6).

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::typed::{DecodeError, decode_json};

/// An event as the store keeps it, shared by all consumers of a process.
///
/// It is one reference-counted allocation: cloning it never copies payload or metadata, so the
/// same event can be on its way to any number of consumers (R6). Its fields are read through
/// [`Deref`]: `event.global_position`, `event.payload`, and the others of [`EventRecord`].
///
/// ```
/// # use consumer::{EventRecord, PersistedEvent};
/// let event = PersistedEvent::new(EventRecord {
///     aggregate_type: "User".into(),
///     aggregate_id: "u-1".into(),
///     event_type: "UserRegistered".into(),
///     payload: r#"{"email":"ada@example.com"}"#.into(),
///     ..EventRecord::default()
/// });
/// let copy = event.clone();
/// assert_eq!(copy.payload.as_ptr(), event.payload.as_ptr());
/// ```
#[derive(Clone, PartialEq)]
pub struct PersistedEvent(Arc<EventRecord>);

/// The fields of a [`PersistedEvent`].
///
/// A test makes one of what it cares about, and leaves the rest to `..EventRecord::default()`:
///
/// ```
/// use consumer::{EventRecord, Metadata, PersistedEvent};
///
/// // For a test of what a consumer does with the second event of an aggregate.
/// let renamed = PersistedEvent::new(EventRecord {
///     global_position: 12,
///     aggregate_type: "User".into(),
///     aggregate_id: "u-1".into(),
///     aggregate_version: 2,
///     event_type: "UserRenamed".into(),
///     payload: r#"{"name":"Ada"}"#.into(),
///     metadata: Some(Metadata::from_json_text(r#"{"ip":"10.0.0.7"}"#)),
///     ..EventRecord::default()
/// });
/// assert_eq!((renamed.global_position, renamed.aggregate_version), (12, 2));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct EventRecord {
    /// Where the event stands in the global log; positions start at 1 and may have gaps.
    ///
    /// Position order is not commit order (R11).
    pub global_position: i64,
    /// The kind of aggregate, such as `User`; what a scope compares, exactly (R7).
    pub aggregate_type: Arc<str>,
    /// Which aggregate of that kind; any string, also an empty one.
    pub aggregate_id: String,
    /// The place of the event in its aggregate's history; the first is 1.
    pub aggregate_version: i64,
    /// The event's own identity.
    pub event_id: Uuid,
    /// What happened, such as `UserRegistered`.
    pub event_type: Arc<str>,
    /// The version of the payload's format; the first is 1.
    pub event_version: i32,
    /// The content, as it was appended; usually JSON, but any bytes are allowed.
    pub payload: Bytes,
    /// JSON beside the content, where the appender gave some.
    pub metadata: Option<Metadata>,
    /// The distributed trace that the event was appended in.
    pub trace_id: Option<String>,
    /// What ties together all the events of one business transaction.
    pub correlation_id: Option<String>,
    /// The message that caused this event.
    pub causation_id: Option<String>,
    /// When the database wrote the event.
    pub created_at: DateTime<Utc>,
}

impl PersistedEvent {
    /// Makes an event of its fields, as stores and tests do.
    ///
    /// See [`PersistedEvent`] for an example.
    #[must_use]
    pub fn new(record: EventRecord) -> Self {
        Self(Arc::new(record))
    }

    /// Decodes the payload from JSON.
    ///
    /// ```
    /// # use consumer::{EventRecord, PersistedEvent};
    /// #[derive(serde::Deserialize)]
    /// struct Email {
    ///     email: String,
    /// }
    ///
    /// # let event = PersistedEvent::new(EventRecord {
    /// #     payload: r#"{"email":"ada@example.com"}"#.into(), ..EventRecord::default() });
    /// let user: Email = event.json()?;
    /// assert_eq!(user.email, "ada@example.com");
    /// # Ok::<(), consumer::DecodeError>(())
    /// ```
    ///
    /// # Errors
    /// When the payload is not JSON of the shape of `T`; the error names the event and the place
    /// in the payload.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        decode_json(self)
    }
}

#[cfg(any(feature = "postgres", all(feature = "sqlite", feature = "worker")))]
impl EventRecord {
    /// The bytes of the payload, the metadata and every text: what budgets of bytes count.
    pub(crate) fn content_bytes(&self) -> u64 {
        let metadata = self
            .metadata
            .as_ref()
            .map_or(0, |metadata| metadata.as_bytes().len());
        let texts = [
            Some(&*self.aggregate_type),
            Some(self.aggregate_id.as_str()),
            Some(&*self.event_type),
            self.trace_id.as_deref(),
            self.correlation_id.as_deref(),
            self.causation_id.as_deref(),
        ];
        let texts: usize = texts.into_iter().flatten().map(str::len).sum();
        (self.payload.len() + metadata + texts) as u64
    }
}

impl Deref for PersistedEvent {
    type Target = EventRecord;

    fn deref(&self) -> &EventRecord {
        &self.0
    }
}

impl fmt::Debug for PersistedEvent {
    /// Names the event without its payload, which may be large or secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PersistedEvent")
            .field("global_position", &self.global_position)
            .field("aggregate_type", &self.aggregate_type)
            .field("aggregate_id", &self.aggregate_id)
            .field("aggregate_version", &self.aggregate_version)
            .field("event_type", &self.event_type)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

impl Default for EventRecord {
    /// An event at position 1 with an empty payload, for tests to start from.
    fn default() -> Self {
        Self {
            global_position: 1,
            aggregate_type: "".into(),
            aggregate_id: String::new(),
            aggregate_version: 1,
            event_id: Uuid::nil(),
            event_type: "".into(),
            event_version: 1,
            payload: Bytes::new(),
            metadata: None,
            trace_id: None,
            correlation_id: None,
            causation_id: None,
            created_at: DateTime::UNIX_EPOCH,
        }
    }
}

/// The JSON text beside an event's payload; parsed only by those who ask for it.
///
/// ```
/// use consumer::Metadata;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Request {
///     ip: String,
/// }
///
/// let metadata = Metadata::new(&Request { ip: "10.0.0.7".into() })?;
/// assert_eq!(metadata.as_bytes(), br#"{"ip":"10.0.0.7"}"#);
/// assert_eq!(metadata.json::<Request>()?.ip, "10.0.0.7");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Metadata(Bytes);

impl Metadata {
    /// Takes JSON text as it stands; an append checks it before any database hears of it.
    ///
    /// ```
    /// # use consumer::Metadata;
    /// let metadata = Metadata::from_json_text(r#"{"ip":"10.0.0.7"}"#);
    /// assert_eq!(metadata.json::<serde_json::Value>()?["ip"], "10.0.0.7");
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    #[must_use]
    pub fn from_json_text(text: impl Into<Bytes>) -> Self {
        Self(text.into())
    }

    /// Makes the JSON text of any serializable value.
    ///
    /// See [`Metadata`] for an example.
    ///
    /// # Errors
    /// What `serde_json` says, when the value has no JSON form.
    pub fn new<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(value).map(|text| Self(text.into()))
    }

    /// Decodes the whole of it, or the part that `T` asks for.
    ///
    /// See [`Metadata`] for an example.
    ///
    /// # Errors
    /// What `serde_json` says, when the text is not JSON of the shape of `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.0)
    }

    /// The JSON text.
    ///
    /// See [`Metadata`] for an example.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}
