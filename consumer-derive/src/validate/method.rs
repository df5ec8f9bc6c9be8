//! The rules of one handler: its signature.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{FnArg, PatType, ReceiverKind, ReturnType, Safety, Signature, Type};

use super::{last_name, type_arguments, unwrapped};
use crate::errors::Errors;
use crate::item::{Function, ImplBlock, OnEvents};
use crate::model::{Cfgs, Events, Handler, Method, Parameter};

/// The shape that messages show.
const SHAPE: &str = "async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result<(), HandlerError>";

/// `handle`, which takes every event.
pub(super) fn every(
    function: &Function,
    block: &ImplBlock,
    errors: &mut Errors,
) -> Option<Handler> {
    let method = method(function, block, errors)?;
    let many = takes_several(&method);
    let fits = refuse_decoded_in_handle(function, errors)
        && one_event(function, &method, Wanted::Persisted, errors);
    fits.then_some(Handler {
        method,
        events: Events::Every,
        many,
    })
}

/// A method marked `#[on]`, except for `#[on(reset)]`.
pub(super) fn on(
    function: &Function,
    taken: &OnEvents,
    block: &ImplBlock,
    errors: &mut Errors,
) -> Option<Handler> {
    let method = method(function, block, errors)?;
    let many = takes_several(&method);
    let fits = match taken {
        OnEvents::Typed => {
            refuse_undecoded(function, errors)
                && one_event(function, &method, Wanted::Decoded, errors)
        }
        OnEvents::Named(_) | OnEvents::Other | OnEvents::Reset => {
            refuse_decoded_by_name(function, errors)
                && one_event(function, &method, Wanted::Persisted, errors)
        }
    };
    if !fits {
        return None;
    }
    let events = match taken {
        OnEvents::Typed => Events::Typed(Box::new(decoded_type(&method)?)),
        OnEvents::Named(names) => Events::Named(names.clone()),
        OnEvents::Other | OnEvents::Reset => Events::Rest,
    };
    Some(Handler {
        method,
        events,
        many,
    })
}

/// The method marked `#[on(reset)]`.
pub(super) fn reset(function: &Function, block: &ImplBlock, errors: &mut Errors) -> Option<Method> {
    let method = method(function, block, errors)?;
    let mut fits = true;
    for typed in typed_parameters(&function.signature) {
        let takes_event = match parameter(&typed.ty) {
            Some(Parameter::Shared(ty)) => !is_context(&ty),
            Some(Parameter::Transaction(_)) => false,
            _ => true,
        };
        if takes_event {
            fits = false;
            errors.at(
                typed,
                "`#[on(reset)]` empties the read model and is given no event: write `async fn reset(&self, tx: &mut SqliteConnection)`",
            );
        }
    }
    fits.then_some(method)
}

pub(super) fn cfgs(function: &Function) -> Cfgs {
    let cfgs = function
        .attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg"));
    Cfgs(cfgs.cloned().collect())
}

/// What all handlers have in common.
fn method(function: &Function, block: &ImplBlock, errors: &mut Errors) -> Option<Method> {
    let signature = &function.signature;
    let mut fits = refuse_qualifiers(signature, errors)
        & refuse_receiver(signature, errors)
        & refuse_no_output(signature, errors);
    let mut parameters = Vec::new();
    for typed in typed_parameters(signature) {
        match checked_parameter(typed, errors) {
            Some(parameter) => parameters.push(named_outside(parameter, &block.self_type)),
            None => fits = false,
        }
    }
    fits &= refuse_two_transactions(signature, errors);
    fits.then(|| Method {
        name: signature.ident.clone(),
        cfgs: cfgs(function),
        parameters,
        output: match &signature.output {
            ReturnType::Type(_, ty) => ty.to_token_stream(),
            ReturnType::Default => TokenStream::new(),
        },
    })
}

fn refuse_qualifiers(signature: &Signature, errors: &mut Errors) -> bool {
    let mut fits = true;
    if signature.asyncness.is_none() {
        fits = false;
        errors.at(
            signature.fn_token,
            format!("a handler is `async`: write `async fn {}`", signature.ident),
        );
    }
    if !signature.generics.params.is_empty() {
        fits = false;
        errors.at(
            &signature.generics.params,
            "a handler has no generic parameters, since the worker calls it: name the types, and write `'_` for lifetimes",
        );
    }
    if matches!(signature.safety, Safety::Unsafe(_)) || signature.abi.is_some() {
        fits = false;
        errors.at(
            &signature.ident,
            "a handler is an ordinary `async fn`: remove `unsafe` and `extern`",
        );
    }
    fits
}

fn refuse_receiver(signature: &Signature, errors: &mut Errors) -> bool {
    let name = &signature.ident;
    let Some(receiver) = signature.receiver() else {
        errors.at(
            name,
            format!("a handler is a method: write `async fn {name}(&self, …)`"),
        );
        return false;
    };
    match &receiver.kind {
        ReceiverKind::Reference(_, _, None) => true,
        ReceiverKind::Reference(_, _, Some(_)) => {
            errors.at(
                receiver,
                "the worker shares the consumer: write `&self`, and keep what changes in the database, or behind a lock",
            );
            false
        }
        _ => {
            errors.at(
                receiver,
                "the consumer is used again for the next event: write `&self`",
            );
            false
        }
    }
}

fn refuse_no_output(signature: &Signature, errors: &mut Errors) -> bool {
    let returns = matches!(signature.output, ReturnType::Type(..));
    if !returns {
        errors.at(
            &signature.ident,
            format!(
                "`{}` returns nothing, and could not say that it failed: write `-> Result<(), HandlerError>`, with any error that `?` takes",
                signature.ident
            ),
        );
    }
    returns
}

fn typed_parameters(signature: &Signature) -> impl Iterator<Item = &PatType> {
    signature.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(typed) => Some(typed),
        FnArg::Receiver(_) => None,
    })
}

fn checked_parameter(typed: &PatType, errors: &mut Errors) -> Option<Parameter> {
    let parameter = parameter(&typed.ty);
    match &parameter {
        None => errors.at(
            &typed.ty,
            format!(
                "a handler cannot be given this: it takes `tx: &mut SqliteConnection` or `&mut PgConnection`, `cx: &Context`, and the event, as in `{SHAPE}`"
            ),
        ),
        Some(Parameter::Transaction(connection)) => {
            if let Some(message) = mistake_in_connection(connection) {
                errors.at(&typed.ty, message);
                return None;
            }
        }
        Some(_) => {}
    }
    parameter
}

/// Tells parameters apart by the shape of their types, which is all that a macro sees.
fn parameter(ty: &Type) -> Option<Parameter> {
    match unwrapped(ty) {
        Type::Reference(reference) => {
            let behind = unwrapped(&reference.elem);
            match (reference.mutability.is_some(), behind) {
                (true, Type::Path(_)) => Some(Parameter::Transaction(behind.clone())),
                (false, Type::Slice(slice)) => Some(Parameter::Several((*slice.elem).clone())),
                (false, Type::Path(_)) => Some(Parameter::Shared(behind.clone())),
                _ => None,
            }
        }
        path @ Type::Path(_) => Some(Parameter::Decoded(path.clone())),
        _ => None,
    }
}

/// The types that one might take for a connection.
fn mistake_in_connection(connection: &Type) -> Option<String> {
    let name = last_name(connection)?;
    let database = type_arguments(connection)
        .first()
        .and_then(|database| last_name(database));
    let plain = match (name.as_str(), database.as_deref()) {
        ("PgTransaction" | "PgPool" | "PgPoolOptions", _) | (_, Some("Postgres")) => "PgConnection",
        ("SqliteTransaction" | "SqlitePool" | "Transaction" | "Pool" | "PoolConnection", _)
        | (_, Some("Sqlite")) => "SqliteConnection",
        _ => return None,
    };
    let reason = if name.contains("Transaction") {
        "a handler is inside the worker's transaction and neither commits it nor rolls it back"
    } else {
        "a handler writes through the connection of the worker's transaction"
    };
    Some(format!("{reason}: write `tx: &mut {plain}`"))
}

fn refuse_two_transactions(signature: &Signature, errors: &mut Errors) -> bool {
    let mut fits = true;
    let transactions = typed_parameters(signature)
        .filter(|typed| matches!(parameter(&typed.ty), Some(Parameter::Transaction(_))));
    for second in transactions.skip(1) {
        fits = false;
        errors.at(
            second,
            "a handler is given one transaction: remove one of the two `&mut` parameters",
        );
    }
    fits
}

#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    /// `&PersistedEvent`, or a slice of them.
    Persisted,
    /// `UserRegistered`, `Envelope<'_, UserRegistered>`, or a slice of envelopes.
    Decoded,
}

/// Checks that there is one event, and at most one context beside it.
fn one_event(function: &Function, method: &Method, wanted: Wanted, errors: &mut Errors) -> bool {
    let mut events = 0;
    let mut contexts = 0;
    let mut fits = true;
    for (parameter, written) in method
        .parameters
        .iter()
        .zip(typed_parameters(&function.signature))
    {
        let count = match parameter {
            Parameter::Transaction(_) => continue,
            Parameter::Shared(ty) if wanted == Wanted::Decoded || is_context(ty) => &mut contexts,
            _ => &mut events,
        };
        *count += 1;
        if *count > 1 && !may_be_renamed_context(method, wanted, events, contexts) {
            fits = false;
            errors.at(
                written,
                format!(
                    "a handler takes `tx`, `cx: &Context` and one event, each once: remove this parameter; `{}` is called by the worker, which has nothing else to give",
                    method.name
                ),
            );
        }
    }
    if events == 0 {
        errors.at(&function.signature.ident, missing_event(method, wanted));
        return false;
    }
    fits
}

/// An alias of `Context` looks like an event: with two references to choose from, the compiler
/// finds out which is which.
fn may_be_renamed_context(method: &Method, wanted: Wanted, events: usize, contexts: usize) -> bool {
    let surely_events = method.parameters.iter().filter(|parameter| {
        matches!(parameter, Parameter::Shared(ty) | Parameter::Several(ty) if names(ty, "PersistedEvent"))
    });
    wanted == Wanted::Persisted && events == 2 && contexts == 0 && surely_events.count() < 2
}

fn missing_event(method: &Method, wanted: Wanted) -> String {
    let name = &method.name;
    match wanted {
        Wanted::Persisted => format!(
            "`{name}` takes no event: add `event: &PersistedEvent`, or `events: &[PersistedEvent]` for several"
        ),
        Wanted::Decoded => format!(
            "`{name}` is marked `#[on]` and takes no event: add `event: UserRegistered`, or `event: Envelope<'_, UserRegistered>`"
        ),
    }
}

fn refuse_decoded_in_handle(function: &Function, errors: &mut Errors) -> bool {
    let name = &function.signature.ident;
    refuse_parameters(
        function,
        errors,
        |parameter| matches!(parameter, Parameter::Decoded(_)) || is_run(parameter),
        |ty| {
            if names_persisted_event(ty) {
                format!("`{name}` is lent the event: write `event: &PersistedEvent`")
            } else {
                format!(
                    "`{name}` takes every event, as `&PersistedEvent`: for one type of event mark the method `#[on]`"
                )
            }
        },
    )
}

fn refuse_decoded_by_name(function: &Function, errors: &mut Errors) -> bool {
    refuse_parameters(
        function,
        errors,
        |parameter| matches!(parameter, Parameter::Decoded(_)) || is_run(parameter),
        |ty| {
            if names_persisted_event(ty) {
                "a handler is lent the event: write `event: &PersistedEvent`".into()
            } else {
                "a handler that `#[on(…)]` chooses by name takes `&PersistedEvent`: for a decoded event write `#[on]` alone".into()
            }
        },
    )
}

fn refuse_undecoded(function: &Function, errors: &mut Errors) -> bool {
    refuse_parameters(
        function,
        errors,
        |parameter| match parameter {
            Parameter::Shared(ty) => !is_context(ty) && !could_be_context(function, ty),
            Parameter::Decoded(ty) | Parameter::Several(ty) => names(ty, "PersistedEvent"),
            Parameter::Transaction(_) => false,
        },
        |ty| {
            if names_persisted_event(ty) {
                "`#[on]` alone takes a decoded event: name the events that come undecoded, `#[on(\"UserRegistered\")]`, or write `#[on(other)]` for the rest".into()
            } else {
                let ty = match unwrapped(ty) {
                    Type::Reference(reference) => reference.elem.to_token_stream(),
                    other => other.to_token_stream(),
                };
                format!(
                    "a decoded event is given by value: write `event: {ty}`, or `event: Envelope<'_, {ty}>`"
                )
            }
        },
    )
}

/// Reports the parameters that a rule refuses; true when there are none.
fn refuse_parameters(
    function: &Function,
    errors: &mut Errors,
    refused: impl Fn(&Parameter) -> bool,
    message: impl Fn(&Type) -> String,
) -> bool {
    let mut fits = true;
    for typed in typed_parameters(&function.signature) {
        if parameter(&typed.ty).is_some_and(|parameter| refused(&parameter)) {
            fits = false;
            errors.at(&typed.ty, message(&typed.ty));
        }
    }
    fits
}

/// Whether a reference may be an alias of `Context`: there is an event beside it.
fn could_be_context(function: &Function, ty: &Type) -> bool {
    !names(ty, "PersistedEvent")
        && typed_parameters(&function.signature).any(|typed| {
            matches!(
                parameter(&typed.ty),
                Some(Parameter::Decoded(_) | Parameter::Several(_))
            )
        })
}

fn takes_several(method: &Method) -> bool {
    method
        .parameters
        .iter()
        .any(|parameter| matches!(parameter, Parameter::Several(_)))
}

fn decoded_type(method: &Method) -> Option<Type> {
    method
        .parameters
        .iter()
        .find_map(|parameter| match parameter {
            Parameter::Decoded(ty) | Parameter::Several(ty) => Some(ty.clone()),
            _ => None,
        })
}

fn is_context(ty: &Type) -> bool {
    names(ty, "Context")
}

/// `&[Envelope<'_, E>]`
fn is_run(parameter: &Parameter) -> bool {
    matches!(parameter, Parameter::Several(ty) if names(ty, "Envelope"))
}

fn names(ty: &Type, name: &str) -> bool {
    last_name(ty).as_deref() == Some(name)
}

/// `PersistedEvent`, behind a reference or not, or a slice of them.
fn names_persisted_event(ty: &Type) -> bool {
    match unwrapped(ty) {
        Type::Reference(reference) => names_persisted_event(&reference.elem),
        Type::Slice(slice) => names_persisted_event(&slice.elem),
        other => names(other, "PersistedEvent"),
    }
}

/// Writes `Self` out, since the checks stand outside of the block.
fn named_outside(parameter: Parameter, self_type: &Type) -> Parameter {
    let rename = |ty: Type| -> Type {
        let renamed = without_self(ty.to_token_stream(), self_type);
        syn::parse2(renamed).unwrap_or(ty)
    };
    match parameter {
        Parameter::Transaction(ty) => Parameter::Transaction(rename(ty)),
        Parameter::Shared(ty) => Parameter::Shared(rename(ty)),
        Parameter::Decoded(ty) => Parameter::Decoded(rename(ty)),
        Parameter::Several(ty) => Parameter::Several(rename(ty)),
    }
}

fn without_self(tokens: TokenStream, self_type: &Type) -> TokenStream {
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
