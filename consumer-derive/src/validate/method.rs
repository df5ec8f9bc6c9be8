//! The rules of one handler's signature.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{FnArg, Ident, PatType, ReceiverKind, ReturnType, Safety, Signature, Type};

use crate::errors::Errors;
use crate::item::{Function, ImplBlock, OnEvents};
use crate::keys;
use crate::model::{Events, Handler, Method, Parameter};
use crate::types::{last_name, type_arguments, unwrapped};

/// The signature that messages show.
const SIGNATURE: &str = "async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result<(), HandlerError>";

/// `handle`, which takes every event.
pub(super) fn every(
    function: &Function,
    block: &ImplBlock,
    errors: &mut Errors,
) -> Option<Handler> {
    let given = Given::read(function, errors);
    let fits = refuse_decoded_in_handle(function, &given, errors)
        && one_event(function, &given, Wanted::Persisted, errors);
    let method = method(function, given, block, errors)?;
    fits.then(|| Handler {
        many: takes_several(&method),
        method,
        events: Events::Every,
    })
}

/// A method marked `#[on]`, except for `#[on(reset)]`.
pub(super) fn on(
    function: &Function,
    taken: &OnEvents,
    block: &ImplBlock,
    errors: &mut Errors,
) -> Option<Handler> {
    let given = Given::read(function, errors);
    let fits = match taken {
        OnEvents::Typed => {
            refuse_undecoded(&given, errors) && one_event(function, &given, Wanted::Decoded, errors)
        }
        OnEvents::Named(_) | OnEvents::Other | OnEvents::Reset => {
            refuse_decoded_by_name(&given, errors)
                && one_event(function, &given, Wanted::Persisted, errors)
        }
    };
    let method = method(function, given, block, errors)?;
    if !fits {
        return None;
    }
    let events = match taken {
        OnEvents::Typed => Events::Typed(Box::new(decoded_type(&method)?)),
        OnEvents::Named(names) => Events::Named(names.clone()),
        OnEvents::Other | OnEvents::Reset => Events::Rest,
    };
    Some(Handler {
        many: takes_several(&method),
        method,
        events,
    })
}

/// The method marked `#[on(reset)]`.
pub(super) fn reset(function: &Function, block: &ImplBlock, errors: &mut Errors) -> Option<Method> {
    let given = Given::read(function, errors);
    let mut fits = true;
    for (typed, parameter) in given.right() {
        let takes_event = match parameter {
            Parameter::Shared(ty) => !is_context(ty),
            Parameter::Transaction(_) => false,
            _ => true,
        };
        if takes_event {
            fits = false;
            errors.at(
                typed,
                "a method marked `#[on(reset)]` takes no event: write `async fn reset(&self, tx: &mut SqliteConnection)`",
            );
        }
    }
    let method = method(function, given, block, errors)?;
    fits.then_some(method)
}

/// The rules that all handlers share.
fn method(
    function: &Function,
    given: Given<'_>,
    block: &ImplBlock,
    errors: &mut Errors,
) -> Option<Method> {
    let signature = &function.signature;
    let fits = refuse_qualifiers(signature, errors)
        & refuse_receiver(signature, errors)
        & refuse_no_output(signature, errors)
        & refuse_cfg_on_parameters(signature, errors)
        & refuse_two_transactions(&given, errors);
    let parameters = given.into_parameters(&block.self_type)?;
    fits.then(|| Method {
        name: signature.ident.clone(),
        cfgs: function.cfgs(),
        parameters,
        output: match &signature.output {
            ReturnType::Type(_, ty) => ty.to_token_stream(),
            ReturnType::Default => TokenStream::new(),
        },
    })
}

/// The parameters after `&self`, each on its own: its meaning, or, after a mistake that has been
/// reported, its probable meaning.
struct Given<'a>(Vec<(&'a PatType, Result<Parameter, Role>)>);

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Transaction,
    Context,
    Event,
    Unknown,
}

impl<'a> Given<'a> {
    fn read(function: &'a Function, errors: &mut Errors) -> Self {
        let is_typed = function
            .on
            .iter()
            .any(|on| matches!(on.events, Some(OnEvents::Typed)));
        let read = |typed: &'a PatType| (typed, checked_parameter(typed, is_typed, errors));
        Self(typed_parameters(&function.signature).map(read).collect())
    }

    /// Those without a mistake of their own.
    fn right(&self) -> impl Iterator<Item = (&'a PatType, &Parameter)> {
        self.0.iter().filter_map(|(typed, read)| match read {
            Ok(parameter) => Some((*typed, parameter)),
            Err(_) => None,
        })
    }

    fn has_wrong(&self, wanted: Role) -> bool {
        self.0
            .iter()
            .any(|(_, read)| matches!(read, Err(role) if *role == wanted))
    }

    /// All of them, if none has a mistake.
    fn into_parameters(self, self_type: &Type) -> Option<Vec<Parameter>> {
        self.0
            .into_iter()
            .map(|(_, read)| Some(named_outside(read.ok()?, self_type)))
            .collect()
    }
}

fn refuse_qualifiers(signature: &Signature, errors: &mut Errors) -> bool {
    let mut fits = true;
    if signature.asyncness.is_none() {
        fits = false;
        errors.at(
            signature.fn_token,
            format!(
                "a handler must be `async`: write `async fn {}`",
                signature.ident
            ),
        );
    }
    if !signature.generics.params.is_empty() {
        fits = false;
        errors.at(
            &signature.generics.params,
            "a handler cannot be generic: name the types, and write `'_` for lifetimes",
        );
    }
    if matches!(signature.safety, Safety::Unsafe(_)) || signature.abi.is_some() {
        fits = false;
        errors.at(
            &signature.ident,
            "a handler must be an ordinary `async fn`: remove `unsafe` and `extern`",
        );
    }
    fits
}

fn refuse_receiver(signature: &Signature, errors: &mut Errors) -> bool {
    let name = &signature.ident;
    let Some(receiver) = signature.receiver() else {
        errors.at(
            name,
            format!("a handler must take `&self`: write `async fn {name}(&self, …)`"),
        );
        return false;
    };
    match &receiver.kind {
        ReceiverKind::Reference(_, _, None) => true,
        ReceiverKind::Reference(_, _, Some(_)) => {
            errors.at(
                receiver,
                "a handler takes `&self`, since calls share the consumer: write `&self`, and keep state in the database or behind a lock",
            );
            false
        }
        _ => {
            errors.at(
                receiver,
                "a handler takes `&self`, since the next event needs the consumer too: write `&self`",
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
                "`{}` must return a `Result`: write `-> Result<(), HandlerError>`, or another error that `?` converts",
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

fn refuse_cfg_on_parameters(signature: &Signature, errors: &mut Errors) -> bool {
    let mut fits = true;
    let attributes = signature.inputs.iter().flat_map(|input| match input {
        FnArg::Typed(typed) => &typed.attrs,
        FnArg::Receiver(receiver) => &receiver.attrs,
    });
    for attribute in attributes {
        if [keys::CFG, keys::CFG_ATTR]
            .iter()
            .any(|cfg| attribute.path().is_ident(cfg))
        {
            fits = false;
            errors.at(
                attribute,
                "a parameter of a handler cannot have a `cfg`: put it on the method, and write one method for each case",
            );
        }
    }
    fits
}

fn checked_parameter(
    typed: &PatType,
    is_typed: bool,
    errors: &mut Errors,
) -> Result<Parameter, Role> {
    if let Some((role, message)) = mistake_in_type(&typed.ty, is_typed) {
        errors.at(&typed.ty, message);
        return Err(role);
    }
    match parameter(&typed.ty) {
        Some(parameter) => Ok(parameter),
        None => {
            errors.at(
                &typed.ty,
                format!(
                    "a handler cannot take this parameter: it takes `tx: &mut SqliteConnection` or `&mut PgConnection`, `cx: &Context` and the event, as in `{SIGNATURE}`"
                ),
            );
            Err(Role::Unknown)
        }
    }
}

/// Mistakes in the types that a handler takes in another form, recognised by their names.
fn mistake_in_type(ty: &Type, is_typed: bool) -> Option<(Role, String)> {
    let (is_borrowed, is_mutable, behind) = match unwrapped(ty) {
        Type::Reference(reference) => (
            true,
            reference.mutability.is_some(),
            unwrapped(&reference.elem),
        ),
        other => (false, false, other),
    };
    if let Type::Slice(slice) = behind {
        let is_events = is_mutable && names(&slice.elem, "PersistedEvent");
        let message = "events are immutable: write `events: &[PersistedEvent]`";
        return is_events.then(|| (Role::Event, message.to_owned()));
    }
    match last_name(behind)?.as_str() {
        "Context" if !is_borrowed || is_mutable => Some((
            Role::Context,
            "the context is passed by shared reference: write `cx: &Context`".into(),
        )),
        "PersistedEvent" if is_mutable => Some((
            Role::Event,
            "an event is immutable: write `event: &PersistedEvent`".into(),
        )),
        name => {
            // An event of the user's may be called `…Transaction`.
            let may_be_an_event = is_typed
                && !is_borrowed
                && !names_a_driver(name)
                && type_arguments(behind).is_empty();
            let message = mistake_in_connection(behind, is_mutable)?;
            (!may_be_an_event).then_some((Role::Transaction, message))
        }
    }
}

/// The meaning of a parameter by the shape of its type, which is all that a macro sees.
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

/// Types that are mistaken for the connection, and the connection without `&mut`.
fn mistake_in_connection(connection: &Type, is_mutable: bool) -> Option<String> {
    let name = last_name(connection)?;
    let kind = [
        "Transaction",
        "Pool",
        "PoolOptions",
        "PoolConnection",
        "Connection",
    ]
    .into_iter()
    .find(|kind| {
        name.strip_suffix(kind)
            .is_some_and(|driver| driver.is_empty() || names_a_driver(&name))
    })?;
    if kind == "Connection" && is_mutable {
        return None;
    }
    let database = type_arguments(connection)
        .first()
        .and_then(|database| last_name(database));
    let plain = match database.as_deref().unwrap_or(&name) {
        database if database.starts_with("Pg") || database.starts_with("Postgres") => {
            "PgConnection"
        }
        database if database.starts_with("Any") => "AnyConnection",
        database if database.starts_with("MySql") => "MySqlConnection",
        _ => "SqliteConnection",
    };
    let reason = match kind {
        "Transaction" => {
            "a handler cannot take the worker's transaction, which it must neither commit nor roll back"
        }
        "Connection" => "a handler takes the connection by mutable reference",
        _ => {
            "a handler cannot take a pool, since it writes through the connection of the worker's transaction"
        }
    };
    Some(format!("{reason}: write `tx: &mut {plain}`"))
}

/// Whether the name begins like those of sqlx's types for one driver.
fn names_a_driver(name: &str) -> bool {
    ["Sqlite", "Pg", "Postgres", "MySql", "Any"]
        .iter()
        .any(|driver| name.starts_with(driver))
}

fn refuse_two_transactions(given: &Given<'_>, errors: &mut Errors) -> bool {
    let mut fits = true;
    let transactions = given
        .right()
        .filter(|(_, parameter)| matches!(parameter, Parameter::Transaction(_)));
    let allowed = usize::from(!given.has_wrong(Role::Transaction));
    for (second, _) in transactions.skip(allowed) {
        fits = false;
        errors.at(
            second,
            "a handler takes one connection: remove one of the two `&mut` parameters",
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
fn one_event(function: &Function, given: &Given<'_>, wanted: Wanted, errors: &mut Errors) -> bool {
    let name = &function.signature.ident;
    let mut events = usize::from(given.has_wrong(Role::Event));
    let mut contexts = usize::from(given.has_wrong(Role::Context));
    let mut fits = true;
    for (written, parameter) in given.right() {
        let count = match parameter {
            Parameter::Transaction(_) => continue,
            Parameter::Shared(ty) if wanted == Wanted::Decoded || is_context(ty) => &mut contexts,
            _ => &mut events,
        };
        *count += 1;
        if *count > 1 && !may_be_renamed_context(given, wanted, events, contexts) {
            fits = false;
            errors.at(
                written,
                format!(
                    "`{name}` takes `tx`, `cx: &Context` and one event, each once: remove this parameter"
                ),
            );
        }
    }
    // A parameter that was not recognised may be meant as the event.
    if events == 0 && !given.has_wrong(Role::Unknown) {
        errors.at(name, missing_event(name, wanted));
        return false;
    }
    fits && events > 0
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
        Wanted::Decoded => format!(
            "`{name}` must take the event that `#[on]` refers to: add `event: UserRegistered`, or `event: Envelope<'_, UserRegistered>`"
        ),
    }
}

fn refuse_decoded_in_handle(function: &Function, given: &Given<'_>, errors: &mut Errors) -> bool {
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

fn refuse_undecoded(given: &Given<'_>, errors: &mut Errors) -> bool {
    refuse_parameters(
        given,
        errors,
        |parameter| match parameter {
            Parameter::Shared(ty) => !is_context(ty) && !could_be_context(given, ty),
            Parameter::Decoded(ty) | Parameter::Several(ty) => names(ty, "PersistedEvent"),
            Parameter::Transaction(_) => false,
        },
        |ty| {
            if names_persisted_event(ty) {
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

/// Whether it is `PersistedEvent`, a reference to it, or a slice of them.
fn names_persisted_event(ty: &Type) -> bool {
    match unwrapped(ty) {
        Type::Reference(reference) => names_persisted_event(&reference.elem),
        Type::Slice(slice) => names_persisted_event(&slice.elem),
        other => names(other, "PersistedEvent"),
    }
}

/// Replaces `Self`, which means nothing in the checks outside of the block.
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
