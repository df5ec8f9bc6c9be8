//! An event that is not yet in the store.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use super::{Event, Metadata, PersistedEvent};

/// An event to append: the store adds position, version in its aggregate, and time.
///
/// ```
/// # use consumer::NewEvent;
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
    /// The event's own identity, random unless given; appending it twice is an error.
    pub event_id: Uuid,
    /// What happened.
    pub event_type: Arc<str>,
    /// The version of the payload's format, 1 unless given.
    pub event_version: i32,
    /// The content; usually JSON, but any bytes are allowed.
    pub payload: Bytes,
    /// JSON beside the content.
    pub metadata: Option<Metadata>,
    /// The distributed trace that this is part of.
    pub trace_id: Option<String>,
    /// What ties together the events of one business transaction.
    pub correlation_id: Option<String>,
    /// The message that causes this event.
    pub causation_id: Option<String>,
}

impl NewEvent {
    /// Makes an event with this payload, an id of its own and format version 1. Ids are UUIDs of
    /// version 7, which begin with the time: an index over them grows at its end.
    ///
    /// See [`NewEvent`] for an example.
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

    /// Makes an event whose payload is the JSON form of `payload`.
    ///
    /// ```
    /// # use consumer::NewEvent;
    /// let event = NewEvent::json("User", "u-1", "UserRegistered", &serde_json::json!({"email": "ada@example.com"}))?;
    /// assert_eq!(&*event.payload, br#"{"email":"ada@example.com"}"#);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    ///
    /// # Errors
    /// What `serde_json` says, when the value has no JSON form.
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
    /// What `serde_json` says, when the value has no JSON form.
    pub fn typed<E: Event>(event: &E) -> Result<TypedEvent, serde_json::Error> {
        Ok(TypedEvent {
            aggregate_type: E::AGGREGATE_TYPE,
            event_type: event.event_type(),
            event_version: event.event_version(),
            payload: event.encode()?,
        })
    }

    /// Gives the event an id of its own, for appends that must not happen twice.
    ///
    /// A request that carries an id of its own and comes twice is then stored once: the second append is a
    /// [`StoreError::DuplicateEventId`](crate::StoreError::DuplicateEventId).
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use consumer::{ExpectedVersion, NewEvent, SqliteEventStore, StoreError};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// # let request = NewEvent::new("User", "ada", "UserRegistered", "{}").event_id;
    /// let register = || [NewEvent::new("User", "ada", "UserRegistered", "{}").event_id(request)];
    /// store.append(ExpectedVersion::Any, &register()).await?;
    ///
    /// let again = store.append(ExpectedVersion::Any, &register()).await;
    /// assert!(matches!(again, Err(StoreError::DuplicateEventId { .. })));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn event_id(mut self, id: Uuid) -> Self {
        self.event_id = id;
        self
    }

    /// Sets the version of the payload's format.
    ///
    /// ```
    /// # use consumer::NewEvent;
    /// // The second format has a field that the first did not have.
    /// let payload = r#"{"email":"ada@example.com","newsletter":false}"#;
    /// let event = NewEvent::new("User", "u-1", "UserRegistered", payload).event_version(2);
    /// assert_eq!(event.event_version, 2);
    /// ```
    ///
    /// [`typed`](Self::typed) takes it from the type.
    #[must_use]
    pub fn event_version(mut self, version: i32) -> Self {
        self.event_version = version;
        self
    }

    /// Puts JSON beside the payload.
    ///
    /// Postgres keeps its value and not its text: spaces, the order of keys and all but the last of
    /// equal keys are gone when it is read again.
    ///
    /// ```
    /// # use consumer::{Metadata, NewEvent};
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
    ///
    /// See [`NewEvent`] for an example.
    #[must_use]
    pub fn trace_id(mut self, id: impl Into<String>) -> Self {
        self.trace_id = Some(id.into());
        self
    }

    /// Sets what ties this event to the others of its business transaction.
    ///
    /// See [`NewEvent`] for an example.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Sets the message that causes this event.
    ///
    /// See [`NewEvent`] for an example.
    #[must_use]
    pub fn causation_id(mut self, id: impl Into<String>) -> Self {
        self.causation_id = Some(id.into());
        self
    }

    /// Says that `cause` led to this event, where it does not say otherwise already: causation is
    /// the id of `cause`, correlation is that of `cause`, or its id when it has none.
    ///
    /// A handler that appends through its own transaction need not call this: the store does it
    /// with the event at hand.
    ///
    /// ```
    /// # use consumer::{EventRecord, NewEvent, PersistedEvent};
    /// # let placed = PersistedEvent::new(EventRecord { correlation_id: Some("checkout-7".into()), ..EventRecord::default() });
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
    pub(crate) fn names_its_cause(&self) -> bool {
        self.causation_id.is_some() && self.correlation_id.is_some()
    }
}

/// An encoded [`Event`] that still lacks the aggregate it happened to.
///
/// See [`NewEvent::typed`] for an example.
#[derive(Clone, Debug)]
#[must_use = "name the aggregate with `of`"]
pub struct TypedEvent {
    aggregate_type: &'static str,
    event_type: &'static str,
    event_version: i32,
    payload: Bytes,
}

impl TypedEvent {
    /// Names the aggregate that the event happened to.
    ///
    /// See [`NewEvent::typed`] for an example.
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
