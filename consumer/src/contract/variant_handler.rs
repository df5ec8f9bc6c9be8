//! One variant of an event enum, and what its handler takes.

use std::marker::PhantomData;

use super::const_text::same;
use super::typed::{DecodeError, Typed, unknown_type};
use super::{Envelope, Event, Handled, PersistedEvent};

/// An enum with `#[derive(Event)]`.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an enum of events",
    label = "not an enum with `#[derive(Event)]`",
    note = "put `#[derive(Event)]` and `#[event(aggregate = \"…\")]` on the enum; to take a type of its own, write `#[on]` and the parameter `event: {Self}`"
)]
pub trait EventEnum: Event {
    /// The names of its variants, in the order of its [`EVENT_TYPES`](Event::EVENT_TYPES).
    const VARIANTS: &'static [&'static str];
}

/// The variant at an index, and the type in it, which is the enum itself if it has none.
///
/// The type is an argument of the trait, since a private type cannot be an associated one.
#[doc(hidden)]
pub trait Variant<const INDEX: usize, Content>: EventEnum {
    /// The content of the variant, `None` if this is another.
    fn into_content(self) -> Option<Content>;
}

/// The parameter of a handler of a variant with this content.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "a handler of this variant cannot take `{Self}`: what is in it is `{Content}`",
    label = "neither `{Content}` nor an `Envelope` with it",
    note = "write `event: {Content}`, `event: Envelope<'_, {Content}>`, or, for runs, `events: &[Envelope<'_, {Content}>]`; a variant with named fields, or without fields, is passed as the enum, and the parameter may be left out"
)]
pub trait VariantArgument<'e, Content>: Sized {
    /// Adds the record to the content, if the argument has one.
    fn wrap(content: Content, record: &'e PersistedEvent) -> Self;
}

#[diagnostic::do_not_recommend]
impl<C> VariantArgument<'_, C> for C {
    fn wrap(content: C, _: &PersistedEvent) -> C {
        content
    }
}

#[diagnostic::do_not_recommend]
impl<'e, C> VariantArgument<'e, C> for Envelope<'e, C> {
    fn wrap(payload: C, record: &'e PersistedEvent) -> Self {
        Self { payload, record }
    }
}

// A box is what is in it, on either side.

#[diagnostic::do_not_recommend]
impl<C> VariantArgument<'_, Box<C>> for C {
    fn wrap(content: Box<C>, _: &PersistedEvent) -> C {
        *content
    }
}

#[diagnostic::do_not_recommend]
impl<'e, C> VariantArgument<'e, Box<C>> for Envelope<'e, C> {
    fn wrap(content: Box<C>, record: &'e PersistedEvent) -> Self {
        let payload = *content;
        Self { payload, record }
    }
}

#[diagnostic::do_not_recommend]
impl<C> VariantArgument<'_, C> for Box<C> {
    fn wrap(content: C, _: &PersistedEvent) -> Self {
        Self::new(content)
    }
}

#[diagnostic::do_not_recommend]
impl<'e, C> VariantArgument<'e, C> for Envelope<'e, Box<C>> {
    fn wrap(content: C, record: &'e PersistedEvent) -> Self {
        let payload = Box::new(content);
        Self { payload, record }
    }
}

/// Examines the type of a parameter for a variant.
#[doc(hidden)]
#[must_use]
pub const fn variant<'e, E, const INDEX: usize, C, T>() -> Typed<'e, T>
where
    E: Variant<INDEX, C>,
    T: VariantArgument<'e, C>,
{
    Typed {
        handled: variant_events(VariantsOf::<E>::EVENTS, INDEX),
        reads: E::reads,
        decode: decode_content::<E, INDEX, C, T>,
    }
}

fn decode_content<'e, E, const INDEX: usize, C, T>(
    event: &'e PersistedEvent,
) -> Result<T, DecodeError>
where
    E: Variant<INDEX, C>,
    T: VariantArgument<'e, C>,
{
    match E::decode(event)?.into_content() {
        Some(content) => Ok(T::wrap(content, event)),
        None => Err(unknown_type(event, E::EVENT_TYPES)),
    }
}

/// The index of the variant with that name, which the compiler knows to exist.
#[doc(hidden)]
#[must_use]
pub const fn variant_index<E: EventEnum>(name: &str) -> usize {
    let mut index = 0;
    let mut rest = E::VARIANTS;
    while let [first, later @ ..] = rest {
        if same(first, name) {
            break;
        }
        rest = later;
        index += 1;
    }
    index
}

/// The aggregate type and the event types of an enum.
#[doc(hidden)]
pub struct VariantsOf<E>(PhantomData<E>);

impl<E: EventEnum> VariantsOf<E> {
    /// Takes precedence over [`NoVariants::EVENTS`], since it is inherent.
    pub const EVENTS: (&'static str, &'static [&'static str]) = (E::AGGREGATE_TYPE, E::EVENT_TYPES);
}

/// Applies after a mistake.
#[doc(hidden)]
pub trait NoVariants {
    /// There are no events.
    const EVENTS: (&'static str, &'static [&'static str]) = ("", &[]);
}

impl<E> NoVariants for VariantsOf<E> {}

/// The events of the variant at an index.
#[doc(hidden)]
#[must_use]
pub const fn variant_events(
    (aggregate, events): (&'static str, &'static [&'static str]),
    index: usize,
) -> Handled {
    // An enum that did not compile has no events.
    let events = match events.split_at_checked(index) {
        Some((_, from @ [_, ..])) => from.split_at(1).0,
        _ => &[],
    };
    Handled::Typed { aggregate, events }
}
