//! Events as Rust types: the traits of `#[derive(Event)]`, and the arguments of typed handlers.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::{Arc, Mutex, RwLock};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Context, PersistedEvent};

/// A Rust type that represents one type of event, or all events of one aggregate.
///
/// `#[derive(Event)]` implements it for structs and enums.
///
/// ```
/// use consumer::{Event, EventRecord, PersistedEvent};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Event, Serialize, Deserialize)]
/// #[event(aggregate = "User")]
/// struct UserRegistered {
///     email: String,
/// }
///
/// assert_eq!(UserRegistered::AGGREGATE_TYPE, "User");
/// assert_eq!(UserRegistered::EVENT_TYPES, ["UserRegistered"]);
///
/// let ada = UserRegistered { email: "ada@example.com".into() };
/// assert_eq!((ada.event_type(), ada.event_version()), ("UserRegistered", 1));
/// assert_eq!(&ada.encode()?[..], br#"{"email":"ada@example.com"}"#);
///
/// let stored = PersistedEvent::new(EventRecord {
///     aggregate_type: "User".into(),
///     event_type: "UserRegistered".into(),
///     payload: ada.encode()?,
///     ..EventRecord::default()
/// });
/// assert_eq!(UserRegistered::decode(&stored)?.email, "ada@example.com");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "does not implement `Event`",
    note = "put `#[derive(Event)]` and `#[event(aggregate = \"…\")]` on `{Self}`"
)]
pub trait Event: Sized {
    /// The type of the aggregate that the event belongs to, such as `User`.
    const AGGREGATE_TYPE: &'static str;

    /// The event types: one for a struct, one per variant for an enum.
    const EVENT_TYPES: &'static [&'static str];

    /// Returns the event type of this value.
    fn event_type(&self) -> &'static str;

    /// Returns the version of the format that [`encode`](Self::encode) writes.
    fn event_version(&self) -> i32;

    /// Writes the payload of this value.
    ///
    /// # Errors
    /// An error of `serde_json` if the value cannot be written as JSON.
    fn encode(&self) -> Result<Bytes, serde_json::Error>;

    /// Returns whether [`decode`](Self::decode) can read a version of one of the
    /// [`EVENT_TYPES`](Self::EVENT_TYPES).
    ///
    /// A worker waits before an event that it cannot read, instead of counting failed attempts. The default
    /// says that every version can be read.
    #[must_use]
    fn reads(event_type: &str, event_version: i32) -> bool {
        let _ = (event_type, event_version);
        true
    }

    /// Reads an event of one of the [`EVENT_TYPES`](Self::EVENT_TYPES), in this or an earlier version.
    ///
    /// Return the error with `?`. In a handler that takes events undecoded,
    /// `match OrderEvent::decode(event) { Ok(OrderEvent::Paid(paid)) => …, _ => return Ok(()) }` would
    /// pass over payments that do not decode, with no trace of them. To take one variant, mark the
    /// handler `#[on(OrderEvent::Paid)]`.
    ///
    /// # Errors
    /// If the event has another type, an unknown version, or a payload that does not fit.
    fn decode(event: &PersistedEvent) -> Result<Self, DecodeError>;
}

/// A box is the event in it, so that an enum may box its large variants.
#[diagnostic::do_not_recommend]
impl<E: Event> Event for Box<E> {
    const AGGREGATE_TYPE: &'static str = E::AGGREGATE_TYPE;
    const EVENT_TYPES: &'static [&'static str] = E::EVENT_TYPES;

    fn event_type(&self) -> &'static str {
        E::event_type(self)
    }

    fn event_version(&self) -> i32 {
        E::event_version(self)
    }

    fn encode(&self) -> Result<Bytes, serde_json::Error> {
        E::encode(self)
    }

    fn reads(event_type: &str, event_version: i32) -> bool {
        E::reads(event_type, event_version)
    }

    fn decode(event: &PersistedEvent) -> Result<Self, DecodeError> {
        E::decode(event).map(Self::new)
    }
}

/// An [`Event`] enum with all events of its aggregate.
///
/// `aggregates = [UserEvent]` means the aggregate type of `UserEvent`, and the compiler checks that
/// each of its events has a handler.
///
/// `#[derive(Event)]` implements it for enums:
///
/// ```
/// use consumer::prelude::*;
///
/// #[derive(Event, serde::Serialize, serde::Deserialize)]
/// #[event(aggregate = "User")]
/// enum UserEvent {
///     Registered { email: String },
///     Deleted,
/// }
///
/// fn aggregate_type<A: Aggregate>() -> &'static str {
///     A::AGGREGATE_TYPE
/// }
/// assert_eq!(aggregate_type::<UserEvent>(), "User");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an aggregate",
    label = "does not implement `Aggregate`",
    note = "write the aggregate type in quotes, or the path of an enum with `#[derive(Event)]` that has all events of the aggregate"
)]
pub trait Aggregate: Event {}

#[diagnostic::do_not_recommend]
impl<E: Aggregate> Aggregate for Box<E> {}

/// A decoded event together with its record.
///
/// The fields of the record are available through [`Deref`], except for the payload, which is decoded
/// here: `event.payload.email` next to `event.aggregate_id` and `event.global_position`.
///
/// ```
/// use consumer::{Envelope, Event, EventRecord, PersistedEvent};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Event, Serialize, Deserialize)]
/// #[event(aggregate = "User")]
/// struct UserRegistered {
///     email: String,
/// }
///
/// // For a handler `async fn registered(&self, event: Envelope<'_, UserRegistered>)`.
/// fn greeting(event: &Envelope<'_, UserRegistered>) -> String {
///     format!("{} has the address {}", event.aggregate_id, event.payload.email)
/// }
///
/// // A unit test creates its own.
/// let record = PersistedEvent::new(EventRecord { aggregate_id: "ada".into(), ..EventRecord::default() });
/// let payload = UserRegistered { email: "ada@example.com".into() };
/// let event = Envelope { payload, record: &record };
/// assert_eq!(greeting(&event), "ada has the address ada@example.com");
/// ```
#[derive(Clone, Debug)]
pub struct Envelope<'a, E> {
    /// The decoded payload.
    pub payload: E,
    /// The event as it is stored.
    pub record: &'a PersistedEvent,
}

impl<E> Deref for Envelope<'_, E> {
    type Target = PersistedEvent;

    fn deref(&self) -> &PersistedEvent {
        self.record
    }
}

/// Tells why an event could not be decoded: which event, for which consumer, and where in its payload.
///
/// ```
/// use consumer::{Event, EventRecord, PersistedEvent};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, Event, Serialize, Deserialize)]
/// #[event(aggregate = "User")]
/// struct UserRegistered {
///     email: String,
/// }
///
/// let stored = PersistedEvent::new(EventRecord {
///     global_position: 7,
///     aggregate_type: "User".into(),
///     event_type: "UserRegistered".into(),
///     payload: r#"{"email":7}"#.into(),
///     ..EventRecord::default()
/// });
/// let error = UserRegistered::decode(&stored).unwrap_err().for_consumer("welcome");
/// assert_eq!((error.consumer(), error.position()), (Some("welcome"), 7));
/// assert_eq!((error.event_type(), error.event_version()), ("UserRegistered", 1));
/// assert_eq!(error.path().as_deref(), Some("email"));
/// ```
#[derive(Debug)]
pub struct DecodeError {
    consumer: Option<String>,
    position: i64,
    event_type: String,
    version: i32,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    Json(serde_path_to_error::Error<serde_json::Error>),
    Version {
        current: i32,
    },
    Type {
        expected: &'static [&'static str],
    },
    Aggregate {
        found: String,
        expected: &'static str,
    },
    Upcast(Box<dyn Error + Send + Sync>),
}

impl DecodeError {
    fn new(event: &PersistedEvent, reason: Reason) -> Self {
        Self {
            consumer: None,
            position: event.global_position,
            event_type: event.event_type.to_string(),
            version: event.event_version,
            reason,
        }
    }

    /// Sets the consumer for which the event was decoded.
    #[must_use]
    pub fn for_consumer(mut self, name: &str) -> Self {
        self.consumer = Some(name.into());
        self
    }

    /// Returns the consumer for which the event was decoded.
    #[must_use]
    pub fn consumer(&self) -> Option<&str> {
        self.consumer.as_deref()
    }

    /// Returns the event's global position.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Returns the event's type.
    #[must_use]
    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    /// Returns the version of the stored event.
    #[must_use]
    pub fn event_version(&self) -> i32 {
        self.version
    }

    /// Returns the path of the mistake in the payload, such as `address.lines[2]`.
    #[must_use]
    pub fn path(&self) -> Option<String> {
        match &self.reason {
            Reason::Json(error) => Some(error.path().to_string()),
            _ => None,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(consumer) = &self.consumer {
            write!(f, "`{consumer}`: ")?;
        }
        write!(
            f,
            "cannot decode the event `{}`, version {}, at position {}: ",
            self.event_type, self.version, self.position
        )?;
        match &self.reason {
            // The source says what is wrong there.
            Reason::Json(error) if error.path().iter().next().is_none() => {
                f.write_str("in the payload")
            }
            Reason::Json(error) => write!(f, "at `{}`", error.path()),
            Reason::Version { current } if self.version > *current => write!(
                f,
                "this program reads versions up to {current}; deploy a release that reads this one"
            ),
            Reason::Version { .. } if self.version < 0 => {
                f.write_str("a version cannot be negative; correct the event")
            }
            // 0 counts as version 1.
            Reason::Version { current } => write!(
                f,
                "the current version is {current}; add `upcast({} = …)` to read this one",
                self.version.max(1)
            ),
            Reason::Type { expected } => {
                write!(f, "expected one of `{}`", expected.join("`, `"))
            }
            Reason::Aggregate { found, expected } => write!(
                f,
                "it belongs to the aggregate `{found}`, and this is an event of `{expected}`"
            ),
            Reason::Upcast(_) => f.write_str("the function in `upcast(…)` failed"),
        }
    }
}

impl Error for DecodeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.reason {
            Reason::Json(error) => Some(error.inner()),
            Reason::Upcast(error) => Some(&**error),
            Reason::Version { .. } | Reason::Type { .. } | Reason::Aggregate { .. } => None,
        }
    }
}

/// The argument of a typed handler: an event, or an [`Envelope`] with one.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a handler marked `#[on]` takes an event, but `{Self}` is not one",
    label = "not an event",
    note = "put `#[derive(Event)]` and `#[event(aggregate = \"…\")]` on the type of the event, or write `#[on(\"…\")]` and `event: &PersistedEvent` to take it undecoded"
)]
pub trait EventArgument<'e>: Sized {
    /// The event in it.
    type Event: Event;

    /// Adds the record to the decoded event, if the argument has one.
    fn wrap(decoded: Self::Event, record: &'e PersistedEvent) -> Self;
}

#[diagnostic::do_not_recommend]
impl<E: Event> EventArgument<'_> for E {
    type Event = E;

    fn wrap(decoded: E, _: &PersistedEvent) -> E {
        decoded
    }
}

#[diagnostic::do_not_recommend]
impl<'e, E: Event> EventArgument<'e> for Envelope<'e, E> {
    type Event = E;

    fn wrap(payload: E, record: &'e PersistedEvent) -> Self {
        Self { payload, record }
    }
}

/// The events of a handler's parameter, and how to decode them.
///
/// It has no bound on `T`, so that a type that is not an event is reported once, by [`typed`].
#[doc(hidden)]
pub struct Typed<'e, T> {
    pub handled: Handled,
    pub reads: fn(&str, i32) -> bool,
    pub(super) decode: fn(&'e PersistedEvent) -> Result<T, DecodeError>,
}

/// The events that a handler takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Handled {
    /// Every event in the consumer's scope.
    Every,
    /// The events of these types, of one aggregate type.
    Typed {
        aggregate: &'static str,
        events: &'static [&'static str],
    },
    /// The events of these types, of any aggregate type in scope.
    Named(&'static [&'static str]),
    /// The events without another handler.
    Rest,
}

impl Handled {
    /// Returns whether events of these types include this one.
    #[inline]
    #[must_use]
    pub fn takes(&self, event: &PersistedEvent) -> bool {
        match self {
            Self::Typed { aggregate, events } => {
                events.contains(&&*event.event_type) && *event.aggregate_type == **aggregate
            }
            Self::Named(events) => events.contains(&&*event.event_type),
            Self::Every | Self::Rest => true,
        }
    }
}

/// Examines the type of a parameter.
#[doc(hidden)]
#[must_use]
pub const fn typed<'e, T: EventArgument<'e>>() -> Typed<'e, T> {
    Typed {
        handled: Handled::Typed {
            aggregate: <T::Event as Event>::AGGREGATE_TYPE,
            events: <T::Event as Event>::EVENT_TYPES,
        },
        reads: <T::Event as Event>::reads,
        decode: decode_and_wrap::<T>,
    }
}

fn decode_and_wrap<'e, T: EventArgument<'e>>(event: &'e PersistedEvent) -> Result<T, DecodeError> {
    T::Event::decode(event).map(|decoded| T::wrap(decoded, event))
}

impl<'e, T> Typed<'e, T> {
    /// Decodes one event.
    ///
    /// # Errors
    /// If it does not decode. The error names the consumer.
    pub fn decode(&self, cx: &Context, event: &'e PersistedEvent) -> Result<T, DecodeError> {
        (self.decode)(event).map_err(|error| error.for_consumer(cx.consumer()))
    }

    /// Decodes the handler's events of a run, and passes over those between them. The first that does not
    /// decode begins the next run: returns how many events of the run are before it.
    ///
    /// # Errors
    /// If the first one does not decode.
    pub fn decode_run(
        &self,
        cx: &Context,
        run: &'e [PersistedEvent],
    ) -> Result<(Vec<T>, usize), DecodeError> {
        let mut decoded = Vec::with_capacity(run.len());
        for (index, event) in run.iter().enumerate() {
            if !self.handled.takes(event) {
                continue;
            }
            match self.decode(cx, event) {
                Ok(one) => decoded.push(one),
                Err(error) if decoded.is_empty() => return Err(error),
                Err(_) => return Ok((decoded, index)),
            }
        }
        Ok((decoded, run.len()))
    }
}

/// Can be converted from an earlier version. It exists for its error message.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Old}` cannot be converted into `{Self}`: write `impl From<{Old}> for {Self}`",
    label = "no `From<{Old}>` for `{Self}`"
)]
pub trait Upcast<Old> {
    fn upcast(old: Old) -> Self;
}

#[diagnostic::do_not_recommend]
impl<Old, T: From<Old>> Upcast<Old> for T {
    fn upcast(old: Old) -> T {
        T::from(old)
    }
}

/// The return type of a function in `upcast(…)`.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a function in `upcast(…)` returns the next version, `{New}`, but this one returns `{Self}`",
    label = "neither `{New}` nor a `Result` with it",
    note = "write `fn name(old: serde_json::Value) -> {New}`, or return a `Result` with it and an error that implements `std::error::Error`"
)]
pub trait Upcasted<New> {
    /// The next version.
    ///
    /// # Errors
    /// The function's error.
    fn into_result(self) -> Result<New, Box<dyn Error + Send + Sync>>;
}

#[diagnostic::do_not_recommend]
impl<New> Upcasted<New> for New {
    fn into_result(self) -> Result<New, Box<dyn Error + Send + Sync>> {
        Ok(self)
    }
}

#[diagnostic::do_not_recommend]
impl<New, E: Into<Box<dyn Error + Send + Sync>>> Upcasted<New> for Result<New, E> {
    fn into_result(self) -> Result<New, Box<dyn Error + Send + Sync>> {
        self.map_err(Into::into)
    }
}

/// Converts what a function in `upcast(…)` returned.
///
/// # Errors
/// The function's error.
#[doc(hidden)]
pub fn upcast_with<New, R: Upcasted<New>>(
    event: &PersistedEvent,
    returned: R,
) -> Result<New, DecodeError> {
    let result = returned.into_result();
    result.map_err(|error| DecodeError::new(event, Reason::Upcast(error)))
}

/// Can be read from a payload. It exists for its error message.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from a payload",
    label = "does not implement `Deserialize`",
    note = "derive `serde::Deserialize` for `{Self}`, without borrowed fields"
)]
pub trait ReadPayload: DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned> ReadPayload for T {}

/// Can be written as a payload. It exists for its error message.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be written as a payload",
    label = "does not implement `Serialize`",
    note = "derive `serde::Serialize` for `{Self}`"
)]
pub trait WritePayload: Serialize {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + ?Sized> WritePayload for T {}

impl PersistedEvent {
    /// Decodes the payload from JSON.
    ///
    /// ```
    /// use consumer::{EventRecord, PersistedEvent};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct User {
    ///     email: String,
    /// }
    ///
    /// let payload = r#"{"email":"ada@example.com"}"#.into();
    /// let event = PersistedEvent::new(EventRecord { payload, ..EventRecord::default() });
    /// let user: User = event.json()?;
    /// assert_eq!(user.email, "ada@example.com");
    /// # Ok::<(), consumer::DecodeError>(())
    /// ```
    ///
    /// # Errors
    /// If the payload is not JSON that deserializes as `T`. The error names the event and the path
    /// in the payload.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        decode_json(self)
    }
}

/// Reads the whole payload as a `T`.
#[doc(hidden)]
pub fn decode_json<T: ReadPayload>(event: &PersistedEvent) -> Result<T, DecodeError> {
    let mut json = serde_json::Deserializer::from_slice(&event.payload);
    let decoded = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| DecodeError::new(event, Reason::Json(error)))?;
    nothing_follows(event, &mut json)?;
    Ok(decoded)
}

pub(super) fn nothing_follows<'de, R: serde_json::de::Read<'de>>(
    event: &PersistedEvent,
    json: &mut serde_json::Deserializer<R>,
) -> Result<(), DecodeError> {
    json.end().map_err(|error| {
        let root = serde_path_to_error::Track::new().path();
        unreadable(event, root, error)
    })
}

/// The error for a payload that does not fit.
pub(super) fn unreadable(
    event: &PersistedEvent,
    path: serde_path_to_error::Path,
    error: serde_json::Error,
) -> DecodeError {
    let error = serde_path_to_error::Error::new(path, error);
    DecodeError::new(event, Reason::Json(error))
}

/// Whether a version is between the lowest and the newest one.
#[doc(hidden)]
#[must_use]
pub fn is_version_in(version: i32, lowest: i32, newest: i32) -> bool {
    // Writers without versions leave 0, which counts as the first version.
    let version = if version == 0 { 1 } else { version };
    (lowest..=newest).contains(&version)
}

/// The error for a version that the type cannot read.
#[doc(hidden)]
#[must_use]
pub fn unknown_version(event: &PersistedEvent, current: i32) -> DecodeError {
    DecodeError::new(event, Reason::Version { current })
}

/// Refuses an event of another type than those of `E`, whatever its payload.
#[doc(hidden)]
pub fn expect_event<E: Event>(event: &PersistedEvent) -> Result<(), DecodeError> {
    if *event.aggregate_type != *E::AGGREGATE_TYPE {
        let reason = Reason::Aggregate {
            found: event.aggregate_type.to_string(),
            expected: E::AGGREGATE_TYPE,
        };
        return Err(DecodeError::new(event, reason));
    }
    if E::EVENT_TYPES.contains(&&*event.event_type) {
        Ok(())
    } else {
        Err(unknown_type(event, E::EVENT_TYPES))
    }
}

/// The error for an event of another type.
#[doc(hidden)]
#[must_use]
pub fn unknown_type(event: &PersistedEvent, expected: &'static [&'static str]) -> DecodeError {
    DecodeError::new(event, Reason::Type { expected })
}

/// Writes a value as JSON.
#[doc(hidden)]
pub fn encode_json<T: WritePayload + ?Sized>(value: &T) -> Result<Bytes, serde_json::Error> {
    serde_json::to_vec(value).map(Bytes::from)
}

/// The payload of an event without fields: an object, so that it can grow.
#[doc(hidden)]
#[must_use]
pub fn nothing() -> Bytes {
    Bytes::from_static(b"{}")
}

/// The event in an enum's variant.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct EventShape {
    pub aggregate: &'static str,
    pub events: &'static [&'static str],
    /// The name of the type around the event, which the check refuses.
    pub wrapper: Option<&'static str>,
}

/// The event type of a variant: that of the event in it, or its own.
#[doc(hidden)]
#[must_use]
pub const fn event_type_of(event: Option<EventShape>, own: &'static str) -> &'static str {
    match event {
        Some(EventShape {
            events: [name, ..],
            wrapper: None,
            ..
        }) => name,
        _ => own,
    }
}

/// The type in an enum's variant. Its inherent items, for an [`Event`], take precedence over those of
/// [`PlainContent`], for every type.
#[doc(hidden)]
pub struct VariantType<T>(PhantomData<T>);

#[expect(clippy::missing_errors_doc, reason = "the same as those of `Event`")]
impl<T: Event> VariantType<T> {
    pub const EVENT: Option<EventShape> = Some(EventShape {
        aggregate: T::AGGREGATE_TYPE,
        events: T::EVENT_TYPES,
        wrapper: None,
    });

    pub fn event_version(content: &T) -> i32 {
        content.event_version()
    }

    #[must_use]
    pub fn reads(event_type: &str, event_version: i32) -> bool {
        T::reads(event_type, event_version)
    }

    pub fn encode(content: &T) -> Result<Bytes, serde_json::Error> {
        content.encode()
    }

    pub fn decode(event: &PersistedEvent) -> Result<T, DecodeError> {
        T::decode(event)
    }
}

/// serde writes these types as the value in them. A variant with a wrapped event would look like that
/// event, but have an event type and a version of its own.
macro_rules! wrappers {
    ($($name:literal: $wrapper:ty $(where E: $bound:ident)?;)*) => {$(
        impl<E: Event $(+ $bound)?> VariantType<$wrapper> {
            pub const EVENT: Option<EventShape> = Some(wrapped::<E>($name));
        }

        impl<E: Event $(+ $bound)?> VariantType<Box<$wrapper>> {
            pub const EVENT: Option<EventShape> = Some(wrapped::<E>($name));
        }
    )*};
}

wrappers! {
    "Option": Option<E>;
    "Arc": Arc<E>;
    "Rc": Rc<E>;
    "Cow": Cow<'_, E> where E: Clone;
    "Cell": Cell<E>;
    "RefCell": RefCell<E>;
    "Mutex": Mutex<E>;
    "RwLock": RwLock<E>;
}

const fn wrapped<E: Event>(wrapper: &'static str) -> EventShape {
    EventShape {
        aggregate: E::AGGREGATE_TYPE,
        events: E::EVENT_TYPES,
        wrapper: Some(wrapper),
    }
}

/// The content of a variant whose type is not an event.
#[doc(hidden)]
pub trait PlainContent<T> {
    const EVENT: Option<EventShape> = None;

    #[must_use]
    fn event_version(_: &T) -> i32 {
        1
    }

    #[must_use]
    fn reads(_: &str, event_version: i32) -> bool {
        is_version_in(event_version, 1, 1)
    }

    fn encode(content: &T) -> Result<Bytes, serde_json::Error>
    where
        T: WritePayload,
    {
        encode_json(content)
    }

    fn decode(event: &PersistedEvent) -> Result<T, DecodeError>
    where
        T: ReadPayload,
    {
        match event.event_version {
            0 | 1 => decode_json(event),
            _ => Err(unknown_version(event, 1)),
        }
    }
}

impl<T> PlainContent<T> for VariantType<T> {}
