//! The rules of each parameter of a handler: what the shape of its type means.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{PatType, Type};

use super::connection::{mistake_in_connection, names_a_connection, names_a_driver};
use super::signature::typed_parameters;
use crate::errors::Errors;
use crate::item::{Function, OnEvents};
use crate::model::Parameter;
use crate::types::{last_name, type_arguments, unwrapped};

/// The signature that messages show.
const SIGNATURE: &str = "async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result<(), HandlerError>";

/// The parameters after `&self`, each on its own: its meaning, or, after a mistake that has been
/// reported, its probable meaning.
pub(super) struct Given<'a>(Vec<(&'a PatType, Result<Parameter, Role>)>);

/// What `&mut` means in a handler: the connection, or a row.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Async,
    Fold,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Role {
    /// The connection, or a row.
    Mutable,
    Context,
    Event,
    Unknown,
}

impl<'a> Given<'a> {
    pub(super) fn read(function: &'a Function, kind: Kind, errors: &mut Errors) -> Self {
        let is_typed = function
            .on
            .iter()
            .any(|on| matches!(on.events, Some(OnEvents::Typed | OnEvents::Variant(_))));
        let read = |typed: &'a PatType| {
            let read = checked_parameter(typed, kind, is_typed, errors);
            (typed, read)
        };
        Self(typed_parameters(&function.signature).map(read).collect())
    }

    /// Those without a mistake of their own.
    pub(super) fn right(&self) -> impl Iterator<Item = (&'a PatType, &Parameter)> {
        self.0.iter().filter_map(|(typed, read)| match read {
            Ok(parameter) => Some((*typed, parameter)),
            Err(_) => None,
        })
    }

    pub(super) fn has_wrong(&self, wanted: Role) -> bool {
        self.0
            .iter()
            .any(|(_, read)| matches!(read, Err(role) if *role == wanted))
    }

    /// All of them, if none has a mistake.
    pub(super) fn into_parameters(self, self_type: &Type) -> Option<Vec<Parameter>> {
        self.0
            .into_iter()
            .map(|(_, read)| Some(named_outside(read.ok()?, self_type)))
            .collect()
    }
}

fn checked_parameter(
    typed: &PatType,
    kind: Kind,
    is_typed: bool,
    errors: &mut Errors,
) -> Result<Parameter, Role> {
    let mistake = match kind {
        Kind::Async => mistake_in_type(&typed.ty, is_typed),
        Kind::Fold => mistake_in_fold(&typed.ty),
    };
    if let Some((role, message)) = mistake {
        errors.at(&typed.ty, message);
        return Err(role);
    }
    if let Some(parameter) = parameter(&typed.ty, kind) {
        return Ok(parameter);
    }
    let message = match kind {
        Kind::Async => format!(
            "a handler cannot take this parameter: it takes `tx: &mut SqliteConnection` or `&mut PgConnection`, `cx: &Context` and the event, as in `{SIGNATURE}`"
        ),
        Kind::Fold => "a handler cannot take this parameter: it takes its row as `user: &mut User` or `user: &mut Option<User>`, `cx: &Context` and the event".to_owned(),
    };
    errors.at(&typed.ty, message);
    Err(Role::Unknown)
}

/// A type behind a reference, and the kind of the reference.
struct Behind<'a> {
    ty: &'a Type,
    is_borrowed: bool,
    is_mutable: bool,
}

impl<'a> Behind<'a> {
    fn of(ty: &'a Type) -> Self {
        match unwrapped(ty) {
            Type::Reference(reference) => Self {
                ty: unwrapped(&reference.elem),
                is_borrowed: true,
                is_mutable: reference.mutability.is_some(),
            },
            ty => Self {
                ty,
                is_borrowed: false,
                is_mutable: false,
            },
        }
    }
}

/// Mistakes in the types that a handler takes in another form, recognised by their names.
fn mistake_in_type(ty: &Type, is_typed: bool) -> Option<(Role, String)> {
    let behind = Behind::of(ty);
    if let Some(mistake) = mistake_in_event(&behind) {
        return Some(mistake);
    }
    let name = last_name(behind.ty)?;
    // An event of the user's may be called `…Transaction`.
    let may_be_an_event = is_typed
        && !behind.is_borrowed
        && !names_a_driver(&name)
        && type_arguments(behind.ty).is_empty();
    let message = mistake_in_connection(behind.ty, behind.is_mutable)?;
    (!may_be_an_event).then_some((Role::Mutable, message))
}

/// The same for a handler that is not `async`.
fn mistake_in_fold(ty: &Type) -> Option<(Role, String)> {
    let behind = Behind::of(ty);
    if let Some(mistake) = mistake_in_event(&behind) {
        return Some(mistake);
    }
    if let Type::Slice(_) = behind.ty {
        let message = "a handler that is not `async` takes one event at a time: write `event: Envelope<'_, E>`";
        return Some((Role::Event, message.to_owned()));
    }
    let name = last_name(behind.ty)?;
    if behind.is_borrowed && names_a_connection(&name) {
        let message = "a handler that takes a connection is `async`: write `async fn`, or remove this parameter";
        return Some((Role::Mutable, message.to_owned()));
    }
    if !behind.is_borrowed && name == "Option" {
        let inner = type_arguments(behind.ty).into_iter().next().map(|inner| {
            let inner = Behind::of(inner).ty;
            inner.to_token_stream().to_string().replace(' ', "")
        });
        let row = inner.unwrap_or_else(|| "User".into());
        let message =
            format!("a handler takes its row by mutable reference: write `&mut Option<{row}>`");
        return Some((Role::Mutable, message));
    }
    None
}

/// Mistakes in the event and the context, which every handler takes.
fn mistake_in_event(behind: &Behind<'_>) -> Option<(Role, String)> {
    if let Type::Slice(slice) = behind.ty {
        let is_events = behind.is_mutable && names(&slice.elem, "PersistedEvent");
        let message = "events are immutable: write `events: &[PersistedEvent]`";
        return is_events.then(|| (Role::Event, message.to_owned()));
    }
    match last_name(behind.ty)?.as_str() {
        "Context" if !behind.is_borrowed || behind.is_mutable => Some((
            Role::Context,
            "the context is passed by shared reference: write `cx: &Context`".into(),
        )),
        "PersistedEvent" if behind.is_mutable => Some((
            Role::Event,
            "an event is immutable: write `event: &PersistedEvent`".into(),
        )),
        _ => None,
    }
}

/// The meaning of a parameter by the shape of its type, which is all that a macro sees.
fn parameter(ty: &Type, kind: Kind) -> Option<Parameter> {
    match unwrapped(ty) {
        Type::Reference(reference) => {
            let behind = unwrapped(&reference.elem);
            match (reference.mutability.is_some(), behind) {
                (true, Type::Path(_)) => Some(match kind {
                    Kind::Async => Parameter::Transaction(behind.clone()),
                    Kind::Fold => Parameter::Row(behind.clone()),
                }),
                (false, Type::Slice(slice)) => Some(Parameter::Several((*slice.elem).clone())),
                (false, Type::Path(_)) => Some(Parameter::Shared(behind.clone())),
                _ => None,
            }
        }
        path @ Type::Path(_) => Some(Parameter::Decoded(path.clone())),
        _ => None,
    }
}

/// Refuses a second connection, or a second row.
pub(super) fn refuse_two_of_a_kind(given: &Given<'_>, errors: &mut Errors) -> bool {
    let mut fits = true;
    let mutable = given.right().filter_map(|(written, parameter)| {
        let message = match parameter {
            Parameter::Transaction(_) => {
                "a handler takes one connection: remove one of the two `&mut` parameters"
            }
            Parameter::Row(_) => {
                "a handler takes one row: remove one of the two `&mut` parameters, or mark two methods with `#[on(key = …)]`, one for each row"
            }
            _ => return None,
        };
        Some((written, message))
    });
    let allowed = usize::from(!given.has_wrong(Role::Mutable));
    for (second, message) in mutable.skip(allowed) {
        fits = false;
        errors.at(second, message);
    }
    fits
}

pub(super) fn is_context(ty: &Type) -> bool {
    names(ty, "Context")
}

pub(super) fn names(ty: &Type, name: &str) -> bool {
    last_name(ty).as_deref() == Some(name)
}

/// Replaces `Self`, which means nothing in the checks outside of the block.
fn named_outside(parameter: Parameter, self_type: &Type) -> Parameter {
    let rename = |ty: Type| -> Type {
        let renamed = without_self(ty.to_token_stream(), self_type);
        syn::parse2(renamed).unwrap_or(ty)
    };
    match parameter {
        Parameter::Transaction(ty) => Parameter::Transaction(rename(ty)),
        Parameter::Row(ty) => Parameter::Row(rename(ty)),
        Parameter::Shared(ty) => Parameter::Shared(rename(ty)),
        Parameter::Decoded(ty) => Parameter::Decoded(rename(ty)),
        Parameter::Several(ty) => Parameter::Several(rename(ty)),
    }
}

pub(super) fn without_self(tokens: TokenStream, self_type: &Type) -> TokenStream {
    tokens
        .into_iter()
        .map(|token| match token {
            TokenTree::Ident(word) if word == "Self" => quote!(#self_type),
            TokenTree::Group(group) => {
                let mut inside = proc_macro2::Group::new(
                    group.delimiter(),
                    without_self(group.stream(), self_type),
                );
                inside.set_span(group.span());
                TokenTree::Group(inside).into_token_stream()
            }
            other => other.into_token_stream(),
        })
        .collect()
}
