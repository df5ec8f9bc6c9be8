//! An event that is not yet in the store.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use super::{Event, Metadata, PersistedEvent};

/// An event to append; the store adds its position, its version in the aggregate, and the time.
///
/// ```
/// use consumer::NewEvent;
///
/// let event = NewEvent::new("User", "u-1", "UserRegistered", r#"{"email":"ada@example.com"}"#)
///     .correlation_id("signup-7")
///     .causation_id("request-12")
///     .trace_id("4bf92f3577b34da6a3ce929d0e0e4736");
/// assert_eq!(event.event_version, 1);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NewEvent {
    /// The kind of aggregate.
    pub aggregate_type: Arc<str>,
    /// Which aggregate of that kind.
    pub aggregate_id: Arc<str>,
    /// The identity of the event, by default a new one; appending it twice is an error.
    pub event_id: Uuid,
    /// What happened.
    pub event_type: Arc<str>,
    /// The version of the payload's format, by default 1.
    pub event_version: i32,
    /// The content; usually JSON, but any bytes are allowed.
    pub payload: Bytes,
    /// JSON beside the payload.
    pub metadata: Option<Metadata>,
    /// The distributed trace that this is part of.
    pub trace_id: Option<String>,
    /// The id that all events of one business transaction share.
    pub correlation_id: Option<String>,
    /// The message that causes this event.
    pub causation_id: Option<String>,
}

impl NewEvent {
    /// Creates an event with a payload, a new id and format version 1.
    ///
    /// The id is a UUID of version 7, which begins with the time: an index over ids grows at its end.
    #[must_use]
    pub fn new(
        aggregate_type: impl Into<Arc<str>>,
        aggregate_id: impl Into<Arc<str>>,
        event_type: impl Into<Arc<str>>,
        payload: impl Into<Bytes>,
    ) -> Self {
        Self {
            aggregate_type: aggregate_type.into(),
            aggregate_id: aggregate_id.into(),
            event_id: Uuid::now_v7(),
            event_type: event_type.into(),
            event_version: 1,
            payload: payload.into(),
            metadata: None,
            trace_id: None,
            correlation_id: None,
            causation_id: None,
        }
    }

    /// Creates an event whose payload is a value as JSON.
    ///
    /// ```
    /// use consumer::NewEvent;
    ///
    /// let event = NewEvent::json("User", "u-1", "UserRegistered", &serde_json::json!({"email": "ada@example.com"}))?;
    /// assert_eq!(&*event.payload, br#"{"email":"ada@example.com"}"#);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    ///
    /// # Errors
    /// The error of `serde_json` if the value cannot be represented as JSON.
    pub fn json<T: Serialize + ?Sized>(
        aggregate_type: impl Into<Arc<str>>,
        aggregate_id: impl Into<Arc<str>>,
        event_type: impl Into<Arc<str>>,
        payload: &T,
    ) -> Result<Self, serde_json::Error> {
        let payload = serde_json::to_vec(payload)?;
        Ok(Self::new(aggregate_type, aggregate_id, event_type, payload))
    }

    /// Takes type, version and payload from an [`Event`]; its aggregate is named with
    /// [`of`](TypedEvent::of).
    ///
    /// ```
    /// use consumer::{Event, NewEvent};
    ///
    /// #[derive(Event, serde::Serialize, serde::Deserialize)]
    /// #[event(aggregate = "User")]
    /// struct UserRegistered {
    ///     email: String,
    /// }
    ///
    /// let event = NewEvent::typed(&UserRegistered { email: "ada@example.com".into() })?.of("u-1");
    /// assert_eq!(&*event.aggregate_type, "User");
    /// assert_eq!(&*event.event_type, "UserRegistered");
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    ///
    /// # Errors
    /// The error of `serde_json` if the value cannot be represented as JSON.
    pub fn typed<E: Event>(event: &E) -> Result<TypedEvent, serde_json::Error> {
        Ok(TypedEvent {
            aggregate_type: E::AGGREGATE_TYPE,
            event_type: event.event_type(),
            event_version: event.event_version(),
            payload: event.encode()?,
        })
    }

    /// Sets the id, as an idempotency key: a request that is processed twice is stored once, and the second
    /// append is a [`StoreError::DuplicateEventId`](crate::StoreError::DuplicateEventId).
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::{ExpectedVersion, NewEvent, StoreError};
    ///
    /// let register = NewEvent::new("User", "ada", "UserRegistered", "{}");
    /// let request = register.event_id;
    /// store.append(ExpectedVersion::Any, &[register]).await?;
    ///
    /// let again = NewEvent::new("User", "ada", "UserRegistered", "{}").event_id(request);
    /// let again = store.append(ExpectedVersion::Any, &[again]).await;
    /// assert!(matches!(again, Err(StoreError::DuplicateEventId { .. })));
    /// # Ok(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn event_id(mut self, id: Uuid) -> Self {
        self.event_id = id;
        self
    }

    /// Sets the version of the payload's format; [`typed`](Self::typed) takes it from the type.
    #[must_use]
    pub fn event_version(mut self, version: i32) -> Self {
        self.event_version = version;
        self
    }

    /// Sets JSON beside the payload.
    ///
    /// Postgres stores its value and not its text: spaces, the order of keys and all but the last of equal
    /// keys are lost.
    ///
    /// ```
    /// use consumer::{Metadata, NewEvent};
    ///
    /// let event = NewEvent::new("User", "u-1", "UserRegistered", "{}")
    ///     .metadata(Metadata::new(&serde_json::json!({"ip": "10.0.0.7"}))?);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    #[must_use]
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = Some(metadata);
        self
    }

    /// Sets the distributed trace.
    #[must_use]
    pub fn trace_id(mut self, id: impl Into<String>) -> Self {
        self.trace_id = Some(id.into());
        self
    }

    /// Sets the id that all events of one business transaction share.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Sets the message that causes this event.
    #[must_use]
    pub fn causation_id(mut self, id: impl Into<String>) -> Self {
        self.causation_id = Some(id.into());
        self
    }

    /// Names the event that caused this one: the causation id becomes the id of `cause`, and the
    /// correlation id that of `cause`, or its id if it has none. Ids that are already set stay.
    ///
    /// A handler that appends in its own transaction need not call this: the store does it with the event
    /// that is being handled.
    ///
    /// ```
    /// use consumer::{EventRecord, NewEvent, PersistedEvent};
    ///
    /// let correlation_id = Some("checkout-7".into());
    /// let placed = PersistedEvent::new(EventRecord { correlation_id, ..EventRecord::default() });
    /// let invoice = NewEvent::new("Invoice", "i-1", "InvoiceIssued", "{}").caused_by(&placed);
    /// assert_eq!(invoice.causation_id, Some(placed.event_id.to_string()));
    /// assert_eq!(invoice.correlation_id, placed.correlation_id);
    /// ```
    #[must_use]
    pub fn caused_by(mut self, cause: &PersistedEvent) -> Self {
        if self.causation_id.is_none() {
            self.causation_id = Some(cause.event_id.to_string());
        }
        if self.correlation_id.is_none() {
            self.correlation_id = cause
                .correlation_id
                .clone()
                .or_else(|| Some(cause.event_id.to_string()));
        }
        self
    }

    /// Whether [`caused_by`](Self::caused_by) would change nothing.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn names_its_cause(&self) -> bool {
        self.causation_id.is_some() && self.correlation_id.is_some()
    }
}

/// An encoded [`Event`] without an aggregate, made by [`NewEvent::typed`].
#[derive(Clone, Debug)]
#[must_use = "name the aggregate with `of`"]
pub struct TypedEvent {
    aggregate_type: &'static str,
    event_type: &'static str,
    event_version: i32,
    payload: Bytes,
}

impl TypedEvent {
    /// Names the aggregate.
    #[must_use]
    pub fn of(self, aggregate_id: impl Into<Arc<str>>) -> NewEvent {
        NewEvent::new(
            self.aggregate_type,
            aggregate_id,
            self.event_type,
            self.payload,
        )
        .event_version(self.event_version)
    }
}
