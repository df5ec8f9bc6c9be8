//! The immutable value that a consumer receives (R6).

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use uuid::Uuid;

/// A stored event, shared by all consumers of a process.
///
/// It is one reference-counted allocation. Cloning it never copies payload or metadata, so any number
/// of consumers can hold the same event (R6). It dereferences to [`EventRecord`]:
/// `event.global_position`, `event.payload`, and so on.
///
/// ```
/// use consumer::{EventRecord, PersistedEvent};
///
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
/// A test sets the fields that it needs and takes the others from [`EventRecord::default`]:
///
/// ```
/// use consumer::{EventRecord, Metadata, PersistedEvent};
///
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
    /// The position in the global log; positions start at 1 and may have gaps.
    ///
    /// Position order is not commit order (R11).
    pub global_position: i64,
    /// The type of the aggregate, such as `User`; scopes compare it exactly (R7).
    pub aggregate_type: Arc<str>,
    /// The aggregate's id; any string, including an empty one.
    pub aggregate_id: String,
    /// The version of the aggregate after the event; the first event's is 1.
    pub aggregate_version: i64,
    /// The unique id of the event.
    pub event_id: Uuid,
    /// The type of the event, such as `UserRegistered`.
    pub event_type: Arc<str>,
    /// The version of the payload's format; the first is 1.
    pub event_version: i32,
    /// The payload as appended; usually JSON, but any bytes are allowed.
    pub payload: Bytes,
    /// The JSON metadata, if any was appended.
    pub metadata: Option<Metadata>,
    /// The distributed trace in which the event was appended.
    pub trace_id: Option<String>,
    /// The id shared by all events of one business transaction.
    pub correlation_id: Option<String>,
    /// The id of the message that caused the event.
    pub causation_id: Option<String>,
    /// The time at which the database wrote the event.
    pub created_at: DateTime<Utc>,
}

/// The type and version of an event, by which a program knows whether it can read it.
///
/// ```
/// use consumer::{EventRecord, PersistedEvent};
///
/// let event = PersistedEvent::new(EventRecord {
///     aggregate_type: "Order".into(),
///     event_type: "Refunded".into(),
///     ..EventRecord::default()
/// });
/// assert_eq!(event.format().to_string(), "Refunded version 1 (Order)");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventFormat<'a> {
    /// The type of the aggregate.
    pub aggregate_type: &'a str,
    /// The type of the event.
    pub event_type: &'a str,
    /// The version of the payload's format. Writers without versions leave 0, which counts as 1.
    pub event_version: i32,
}

impl fmt::Display for EventFormat<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            aggregate_type,
            event_type,
            event_version,
        } = self;
        write!(f, "{event_type} version {event_version} ({aggregate_type})")
    }
}

impl EventRecord {
    /// Returns the type and version.
    #[must_use]
    pub fn format(&self) -> EventFormat<'_> {
        EventFormat {
            aggregate_type: &self.aggregate_type,
            event_type: &self.event_type,
            event_version: self.event_version,
        }
    }
}

impl PersistedEvent {
    /// Creates an event from its fields.
    #[must_use]
    pub fn new(record: EventRecord) -> Self {
        Self(Arc::new(record))
    }
}

#[cfg(any(feature = "postgres", all(feature = "sqlite", feature = "worker")))]
impl EventRecord {
    /// Counts the bytes of the payload, the metadata and every text field, for byte budgets.
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
    /// Omits the payload, which may be large or secret.
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
    /// Returns an event at position 1 with an empty payload, for tests.
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

/// The JSON metadata of an event, which is parsed only on request.
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
    /// Takes JSON text without checking it; appending the event checks it first.
    ///
    /// ```
    /// use consumer::Metadata;
    ///
    /// let metadata = Metadata::from_json_text(r#"{"ip":"10.0.0.7"}"#);
    /// assert_eq!(metadata.as_bytes(), br#"{"ip":"10.0.0.7"}"#);
    /// ```
    #[must_use]
    pub fn from_json_text(text: impl Into<Bytes>) -> Self {
        Self(text.into())
    }

    /// Serializes a value as JSON text.
    ///
    /// # Errors
    /// If the value cannot be represented as JSON.
    pub fn new<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(value).map(|text| Self(text.into()))
    }

    /// Deserializes the metadata; fields that `T` does not have are ignored.
    ///
    /// # Errors
    /// If the text is not JSON that deserializes as `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.0)
    }

    /// Returns the JSON text.
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
