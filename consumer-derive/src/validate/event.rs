//! The rules of the parameter for the event.

use quote::ToTokens;
use syn::{Ident, Type};

use super::parameter::{Given, Role, is_context, names};
use crate::errors::Errors;
use crate::item::{Function, OnEvents};
use crate::model::Parameter;
use crate::types::unwrapped;

/// Checks the parameter for the event. True if it is as the attribute requires.
pub(super) fn event_of(
    function: &Function,
    taken: &OnEvents,
    given: &Given<'_>,
    errors: &mut Errors,
) -> bool {
    match taken {
        OnEvents::Typed => {
            refuse_undecoded(given, Wanted::Decoded, errors)
                && one_event(function, given, Wanted::Decoded, errors)
        }
        OnEvents::Variant(_) => {
            refuse_undecoded(given, Wanted::OfVariant, errors)
                && one_event(function, given, Wanted::OfVariant, errors)
        }
        OnEvents::Named(_) | OnEvents::Other | OnEvents::Reset => {
            refuse_decoded_by_name(given, errors)
                && one_event(function, given, Wanted::Persisted, errors)
        }
    }
}

/// The parameter for the event that a handler has.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Wanted {
    /// `&PersistedEvent`, or a slice of them.
    Persisted,
    /// `UserRegistered`, `Envelope<'_, UserRegistered>`, or a slice of envelopes.
    Decoded,
    /// The same with what is in the variant, or none: a variant may be without content.
    OfVariant,
}

/// Checks that there is one event, and at most one context beside it.
pub(super) fn one_event(
    function: &Function,
    given: &Given<'_>,
    wanted: Wanted,
    errors: &mut Errors,
) -> bool {
    let mut events = usize::from(given.has_wrong(Role::Event));
    let mut contexts = usize::from(given.has_wrong(Role::Context));
    let mut fits = true;
    for (written, parameter) in given.right() {
        let count = match parameter {
            Parameter::Transaction(_) | Parameter::Row(_) => continue,
            Parameter::Shared(ty) if wanted != Wanted::Persisted || is_context(ty) => &mut contexts,
            _ => &mut events,
        };
        *count += 1;
        if *count > 1 && !may_be_renamed_context(given, wanted, events, contexts) {
            fits = false;
            errors.at(written, one_too_many(function));
        }
    }
    if events > 0 || wanted == Wanted::OfVariant {
        return fits;
    }
    // A parameter that was not recognised may be meant as the event.
    if !given.has_wrong(Role::Unknown) {
        let name = &function.signature.ident;
        errors.at(name, missing_event(name, wanted));
    }
    false
}

fn one_too_many(function: &Function) -> String {
    let name = &function.signature.ident;
    if function.signature.asyncness.is_some() {
        format!(
            "`{name}` takes `tx`, `cx: &Context` and one event, each once: remove this parameter"
        )
    } else {
        format!(
            "`{name}` takes its row, `cx: &Context` and one event, each once: remove this parameter, or take the row by `&mut`"
        )
    }
}

/// An alias of `Context` looks like an event. Of two references, the compiler determines which is
/// which.
fn may_be_renamed_context(
    given: &Given<'_>,
    wanted: Wanted,
    events: usize,
    contexts: usize,
) -> bool {
    let surely_events = given.right().filter(|(_, parameter)| {
        matches!(parameter, Parameter::Shared(ty) | Parameter::Several(ty) if names(ty, "PersistedEvent"))
    });
    wanted == Wanted::Persisted && events == 2 && contexts == 0 && surely_events.count() < 2
}

fn missing_event(name: &Ident, wanted: Wanted) -> String {
    match wanted {
        Wanted::Persisted => format!(
            "`{name}` must take the event: add `event: &PersistedEvent`, or `events: &[PersistedEvent]` for several"
        ),
        Wanted::Decoded | Wanted::OfVariant => format!(
            "`{name}` must take the event that `#[on]` refers to: add `event: UserRegistered`, or `event: Envelope<'_, UserRegistered>`"
        ),
    }
}

pub(super) fn refuse_decoded_in_handle(
    function: &Function,
    given: &Given<'_>,
    errors: &mut Errors,
) -> bool {
    let name = &function.signature.ident;
    refuse_parameters(
        given,
        errors,
        |parameter| matches!(parameter, Parameter::Decoded(_)) || is_run(parameter),
        |ty| {
            if names_persisted_event(ty) {
                format!("`{name}` takes the event by reference: write `event: &PersistedEvent`")
            } else {
                format!(
                    "`{name}` takes events undecoded: write `event: &PersistedEvent`, or mark the method `#[on]` to take one type of event"
                )
            }
        },
    )
}

fn refuse_decoded_by_name(given: &Given<'_>, errors: &mut Errors) -> bool {
    refuse_parameters(
        given,
        errors,
        |parameter| matches!(parameter, Parameter::Decoded(_)) || is_run(parameter),
        |ty| {
            if names_persisted_event(ty) {
                "an undecoded event is passed by reference: write `event: &PersistedEvent`".into()
            } else {
                "a handler that names its events takes them undecoded: write `event: &PersistedEvent`, or `#[on]` without names".into()
            }
        },
    )
}

fn refuse_undecoded(given: &Given<'_>, wanted: Wanted, errors: &mut Errors) -> bool {
    refuse_parameters(
        given,
        errors,
        |parameter| match parameter {
            Parameter::Shared(ty) => !is_context(ty) && !could_be_context(given, ty),
            Parameter::Decoded(ty) | Parameter::Several(ty) => names(ty, "PersistedEvent"),
            Parameter::Transaction(_) | Parameter::Row(_) => false,
        },
        |ty| {
            if names_persisted_event(ty) && wanted == Wanted::OfVariant {
                "a handler of a variant takes it decoded: write `event: Envelope<'_, E>`, where `E` is the type in the variant, or the enum for a variant without one; or write the event's name, as in `#[on(\"UserRegistered\")]`, to take it undecoded".into()
            } else if names_persisted_event(ty) {
                "`#[on]` without names takes a decoded event: write `#[on(\"UserRegistered\")]` to take events undecoded, or `#[on(other)]` for the rest".into()
            } else {
                let ty = match unwrapped(ty) {
                    Type::Reference(reference) => reference.elem.to_token_stream(),
                    other => other.to_token_stream(),
                };
                format!(
                    "a decoded event is passed by value: write `event: {ty}`, or `event: Envelope<'_, {ty}>`"
                )
            }
        },
    )
}

/// Reports the parameters that a rule refuses. True if there are none.
fn refuse_parameters(
    given: &Given<'_>,
    errors: &mut Errors,
    refused: impl Fn(&Parameter) -> bool,
    message: impl Fn(&Type) -> String,
) -> bool {
    let mut fits = true;
    for (typed, parameter) in given.right() {
        if refused(parameter) {
            fits = false;
            errors.at(&typed.ty, message(&typed.ty));
        }
    }
    fits
}

/// Whether a reference beside the event may be an alias of `Context`.
fn could_be_context(given: &Given<'_>, ty: &Type) -> bool {
    !names(ty, "PersistedEvent")
        && given.right().any(|(_, parameter)| {
            matches!(parameter, Parameter::Decoded(_) | Parameter::Several(_))
        })
}

/// `&[Envelope<'_, E>]`
fn is_run(parameter: &Parameter) -> bool {
    matches!(parameter, Parameter::Several(ty) if names(ty, "Envelope"))
}

/// Whether it is `PersistedEvent`, a reference to it, or a slice of them.
fn names_persisted_event(ty: &Type) -> bool {
    match unwrapped(ty) {
        Type::Reference(reference) => names_persisted_event(&reference.elem),
        Type::Slice(slice) => names_persisted_event(&slice.elem),
        other => names(other, "PersistedEvent"),
    }
}
