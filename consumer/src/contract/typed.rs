//! Events as Rust types: what `#[derive(Event)]` implements, and what typed handlers are given.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use bytes::Bytes;
use serde::Serialize;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, VariantAccess,
    Visitor,
};
use serde_json::value::RawValue;

use super::{Context, PersistedEvent};

/// A Rust type that stands for one type of event, or for all events of one aggregate.
///
/// `#[derive(Event)]` implements it, on structs and on enums.
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
    ///
    /// See [`Event`] for an example.
    const AGGREGATE_TYPE: &'static str;

    /// The event types that this Rust type stands for: one for a struct, one a variant for an enum.
    ///
    /// See [`Event`] for an example.
    const EVENT_TYPES: &'static [&'static str];

    /// The event type of this value.
    ///
    /// See [`Event`] for an example.
    fn event_type(&self) -> &'static str;

    /// The version of the format in which this value is encoded.
    ///
    /// See [`Event`] for an example.
    fn event_version(&self) -> i32;

    /// The payload of this value.
    ///
    /// See [`Event`] for an example.
    ///
    /// # Errors
    /// What `serde_json` says, when the value has no JSON form.
    fn encode(&self) -> Result<Bytes, serde_json::Error>;

    /// Reads an event of one of [`EVENT_TYPES`](Self::EVENT_TYPES), of this or an earlier version.
    ///
    /// See [`Event`] for an example.
    ///
    /// # Errors
    /// Which event it is, and what about its payload is wrong.
    fn decode(event: &PersistedEvent) -> Result<Self, DecodeError>;
}

/// An [`Event`] enum that has all the events of its aggregate.
///
/// In `aggregates = [UserEvent]` it stands for the aggregate's type, and the compiler checks that
/// each of its events has a handler.
///
/// The derive implements it too, for enums; it has nothing to call:
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
    note = "`aggregates` takes strings, and enums with `#[derive(Event)]` whose variants are the events of one aggregate; for the aggregate type of a single event write its name in quotes"
)]
pub trait Aggregate: Event {}

/// A decoded event together with the record that it came in.
///
/// The record's fields are read through [`Deref`], except for the payload, which is decoded here:
/// `event.payload.email` beside `event.aggregate_id` and `event.global_position`.
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
    /// The event as the store keeps it.
    pub record: &'a PersistedEvent,
}

impl<E> Deref for Envelope<'_, E> {
    type Target = PersistedEvent;

    fn deref(&self) -> &PersistedEvent {
        self.record
    }
}

/// Why an event could not be decoded; says which event, for whom, and where in the payload.
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

    /// Names the consumer for whom the event was decoded.
    ///
    /// See [`DecodeError`] for an example.
    #[must_use]
    pub fn for_consumer(mut self, name: &str) -> Self {
        self.consumer = Some(name.into());
        self
    }

    /// The consumer for whom the event was decoded.
    ///
    /// See [`DecodeError`] for an example.
    #[must_use]
    pub fn consumer(&self) -> Option<&str> {
        self.consumer.as_deref()
    }

    /// The event's global position.
    ///
    /// See [`DecodeError`] for an example.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.position
    }

    /// The event's type.
    ///
    /// See [`DecodeError`] for an example.
    #[must_use]
    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    /// The version that the event was appended in.
    ///
    /// See [`DecodeError`] for an example.
    #[must_use]
    pub fn event_version(&self) -> i32 {
        self.version
    }

    /// Where in the payload the mistake is, such as `address.lines[2]`.
    ///
    /// See [`DecodeError`] for an example.
    #[must_use]
    pub fn path(&self) -> Option<String> {
        match &self.reason {
            Reason::Json(error) => Some(error.path().to_string()),
            Reason::Version { .. } | Reason::Type { .. } | Reason::Aggregate { .. } => None,
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
                "this program knows versions up to {current}; deploy the one that appended it"
            ),
            Reason::Version { current } => write!(
                f,
                "the current version is {current}; say how to read this one with `upcast({} = …)`",
                self.version
            ),
            Reason::Type { expected } => {
                write!(f, "expected one of `{}`", expected.join("`, `"))
            }
            Reason::Aggregate { found, expected } => write!(
                f,
                "it belongs to the aggregate `{found}`, and this is an event of `{expected}`"
            ),
        }
    }
}

impl std::error::Error for DecodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.reason {
            Reason::Json(error) => Some(error.inner()),
            Reason::Version { .. } | Reason::Type { .. } | Reason::Aggregate { .. } => None,
        }
    }
}

/// What a typed handler can be given: an event, or an [`Envelope`] around one.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a handler marked `#[on]` takes an event, and `{Self}` is none",
    label = "not an event",
    note = "put `#[derive(Event)]` and `#[event(aggregate = \"…\")]` on the type of the event, or take the event undecoded: `#[on(\"…\")]` with `event: &PersistedEvent`"
)]
pub trait EventArgument<'e>: Sized {
    /// The event in it.
    type Event: Event;

    /// Puts the decoded event beside its record, or takes it alone.
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

/// What generated code knows of the event in a handler's parameter.
///
/// It has no bound on `T`, so that a type which is no event is complained about once, where it is
/// made.
#[doc(hidden)]
pub struct Typed<'e, T> {
    pub handled: Handled,
    decode: fn(&'e PersistedEvent) -> Result<T, DecodeError>,
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
    /// Whatever the other handlers leave.
    Rest,
}

/// Looks at the type of a parameter.
#[doc(hidden)]
#[must_use]
pub const fn typed<'e, T: EventArgument<'e>>() -> Typed<'e, T> {
    Typed {
        handled: Handled::Typed {
            aggregate: <T::Event as Event>::AGGREGATE_TYPE,
            events: <T::Event as Event>::EVENT_TYPES,
        },
        decode: decode_and_wrap::<T>,
    }
}

fn decode_and_wrap<'e, T: EventArgument<'e>>(event: &'e PersistedEvent) -> Result<T, DecodeError> {
    T::Event::decode(event).map(|decoded| T::wrap(decoded, event))
}

impl<'e, T> Typed<'e, T> {
    /// Whether the handler takes this event.
    #[inline]
    #[must_use]
    pub fn takes(&self, event: &PersistedEvent) -> bool {
        match self.handled {
            Handled::Typed { aggregate, events } => {
                events.contains(&&*event.event_type) && *event.aggregate_type == *aggregate
            }
            _ => false,
        }
    }

    /// Decodes one event.
    ///
    /// # Errors
    /// What is wrong with it, and for whom.
    pub fn decode(&self, cx: &Context, event: &'e PersistedEvent) -> Result<T, DecodeError> {
        (self.decode)(event).map_err(|error| error.for_consumer(cx.consumer()))
    }

    /// Decodes events up to the first that does not decode, which begins the next run.
    ///
    /// # Errors
    /// When that is the first of all.
    pub fn decode_run(
        &self,
        cx: &Context,
        events: &'e [PersistedEvent],
    ) -> Result<Vec<T>, DecodeError> {
        let mut decoded = Vec::with_capacity(events.len());
        for event in events {
            match self.decode(cx, event) {
                Ok(one) => decoded.push(one),
                Err(error) if decoded.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(decoded)
    }
}

/// Can be made of an earlier version; exists for its error message.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Old}` cannot be made into `{Self}`: write `impl From<{Old}> for {Self}`",
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

/// Can be read from a payload; exists for its error message.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from a payload",
    label = "does not implement `Deserialize`",
    note = "derive `serde::Deserialize` for `{Self}`; a payload is read into a type that borrows nothing"
)]
pub trait ReadPayload: DeserializeOwned {}

#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned> ReadPayload for T {}

/// Can be written as a payload; exists for its error message.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be written as a payload",
    label = "does not implement `Serialize`",
    note = "derive `serde::Serialize` for `{Self}`"
)]
pub trait WritePayload: Serialize {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + ?Sized> WritePayload for T {}

/// Reads the whole payload as a `T`.
#[doc(hidden)]
pub fn decode_json<T: ReadPayload>(event: &PersistedEvent) -> Result<T, DecodeError> {
    let mut json = serde_json::Deserializer::from_slice(&event.payload);
    let decoded = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| DecodeError::new(event, Reason::Json(error)))?;
    nothing_follows(event, &mut json)?;
    Ok(decoded)
}

/// Reads the payload as the content of a variant of the enum `T`, the one at that index.
#[doc(hidden)]
pub fn decode_variant<T: ReadPayload>(
    event: &PersistedEvent,
    index: u32,
) -> Result<T, DecodeError> {
    let mut json = serde_json::Deserializer::from_slice(&event.payload);
    let mut track = serde_path_to_error::Track::new();
    let content = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    match T::deserialize(VariantContent { index, content }) {
        Ok(decoded) => {
            nothing_follows(event, &mut json)?;
            Ok(decoded)
        }
        Err(error) => {
            let error = serde_path_to_error::Error::new(track.path(), error);
            Err(DecodeError::new(event, Reason::Json(error)))
        }
    }
}

fn nothing_follows<'de, R: serde_json::de::Read<'de>>(
    event: &PersistedEvent,
    json: &mut serde_json::Deserializer<R>,
) -> Result<(), DecodeError> {
    json.end().map_err(|error| {
        let root = serde_path_to_error::Track::new().path();
        let error = serde_path_to_error::Error::new(root, error);
        DecodeError::new(event, Reason::Json(error))
    })
}

/// The event's version is none that the type can read.
#[doc(hidden)]
#[must_use]
pub fn unknown_version(event: &PersistedEvent, current: i32) -> DecodeError {
    DecodeError::new(event, Reason::Version { current })
}

/// Refuses an event that `E` does not stand for, be its payload as it may.
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

/// The event's type is none that the type stands for.
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

/// Writes the content of an enum's variant, without the tag that serde puts around it.
#[doc(hidden)]
pub fn encode_variant<T: WritePayload>(value: &T) -> Result<Bytes, serde_json::Error> {
    let tagged = serde_json::to_vec(value)?;
    let content: std::collections::HashMap<String, &RawValue> = serde_json::from_slice(&tagged)?;
    Ok(content
        .into_values()
        .next()
        .map_or_else(Bytes::new, |content| {
            Bytes::copy_from_slice(content.get().as_bytes())
        }))
}

/// The payload of an event without content; an object, so that it can grow.
#[doc(hidden)]
#[must_use]
pub fn nothing() -> Bytes {
    Bytes::from_static(b"{}")
}

/// What the type in an enum's variant is as an event.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct EventShape {
    pub aggregate: &'static str,
    pub events: &'static [&'static str],
}

/// The event type of a variant: that of the event in it, or its own name.
#[doc(hidden)]
#[must_use]
pub const fn event_type_of(event: Option<EventShape>, own: &'static str) -> &'static str {
    match event {
        Some(EventShape {
            events: [name, ..], ..
        }) => name,
        _ => own,
    }
}

/// The type in an enum's variant. What is said here of an [`Event`] is found before what
/// [`PlainContent`] says of every type.
#[doc(hidden)]
pub struct VariantType<T>(PhantomData<T>);

#[expect(clippy::missing_errors_doc, reason = "the same as those of `Event`")]
impl<T: Event> VariantType<T> {
    pub const EVENT: Option<EventShape> = Some(EventShape {
        aggregate: T::AGGREGATE_TYPE,
        events: T::EVENT_TYPES,
    });

    pub fn event_version(content: &T) -> i32 {
        content.event_version()
    }

    pub fn encode(content: &T) -> Result<Bytes, serde_json::Error> {
        content.encode()
    }

    pub fn decode(event: &PersistedEvent) -> Result<T, DecodeError> {
        T::decode(event)
    }
}

/// The content of a variant whose type is no event of its own.
#[doc(hidden)]
pub trait PlainContent<T> {
    const EVENT: Option<EventShape> = None;

    #[must_use]
    fn event_version(_: &T) -> i32 {
        1
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
            1 => decode_json(event),
            _ => Err(unknown_version(event, 1)),
        }
    }
}

impl<T> PlainContent<T> for VariantType<T> {}

/// A deserializer of an enum of which the variant is known and the content is at hand.
struct VariantContent<D> {
    index: u32,
    content: D,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for VariantContent<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

impl<'de, D: Deserializer<'de>> EnumAccess<'de> for VariantContent<D> {
    type Error = D::Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), D::Error> {
        let variant = seed.deserialize(self.index.into_deserializer())?;
        Ok((variant, self))
    }
}

impl<'de, D: Deserializer<'de>> VariantAccess<'de> for VariantContent<D> {
    type Error = D::Error;

    fn unit_variant(self) -> Result<(), D::Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, D::Error> {
        seed.deserialize(self.content)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.content.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.content.deserialize_struct("", fields, visitor)
    }
}
