//! The rules of one handler's signature. Those of handlers that are not `async` are in `fold`.

use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{FnArg, Ident, PatType, ReceiverKind, ReturnType, Safety, Signature, Type};

use crate::errors::Errors;
use crate::item::{Function, ImplBlock, OnEvents};
use crate::keys;
use crate::model::{Events, Handler, Method, Parameter, Way};
use crate::types::{last_name, type_arguments, unwrapped};

/// The signature that messages show.
const SIGNATURE: &str = "async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result<(), HandlerError>";

/// `handle`, which takes every event.
pub(super) fn every(
    function: &Function,
    block: &ImplBlock,
    errors: &mut Errors,
) -> Option<Handler> {
    let given = Given::read(function, Kind::Async, errors);
    let fits = refuse_decoded_in_handle(function, &given, errors)
        && one_event(function, &given, Wanted::Persisted, errors);
    let method = async_method(function, given, block, errors)?;
    fits.then(|| Handler {
        way: way(&method),
        method,
        events: Events::Every,
    })
}

/// An `async` method marked `#[on]`, except for `#[on(reset)]`.
pub(super) fn on(
    function: &Function,
    taken: &OnEvents,
    block: &ImplBlock,
    errors: &mut Errors,
) -> Option<Handler> {
    let given = Given::read(function, Kind::Async, errors);
    let fits = event_of(function, taken, &given, errors);
    let method = async_method(function, given, block, errors)?;
    if !fits {
        return None;
    }
    Some(Handler {
        way: way(&method),
        events: events(taken, &method)?,
        method,
    })
}

/// Checks the parameter for the event. True if it is as the attribute requires.
pub(super) fn event_of(
    function: &Function,
    taken: &OnEvents,
    given: &Given<'_>,
    errors: &mut Errors,
) -> bool {
    match taken {
        OnEvents::Typed => {
            refuse_undecoded(given, errors) && one_event(function, given, Wanted::Decoded, errors)
        }
        OnEvents::Named(_) | OnEvents::Other | OnEvents::Reset => {
            refuse_decoded_by_name(given, errors)
                && one_event(function, given, Wanted::Persisted, errors)
        }
    }
}

/// The events that a marked method takes.
pub(super) fn events(taken: &OnEvents, method: &Method) -> Option<Events> {
    Some(match taken {
        OnEvents::Typed => Events::Typed(Box::new(decoded_type(method)?)),
        OnEvents::Named(names) => Events::Named(names.clone()),
        OnEvents::Other | OnEvents::Reset => Events::Rest,
    })
}

/// The method marked `#[on(reset)]`.
pub(super) fn reset(function: &Function, block: &ImplBlock, errors: &mut Errors) -> Option<Method> {
    let given = Given::read(function, Kind::Async, errors);
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
    let method = async_method(function, given, block, errors)?;
    fits.then_some(method)
}

/// The rules that all `async` handlers share.
fn async_method(
    function: &Function,
    given: Given<'_>,
    block: &ImplBlock,
    errors: &mut Errors,
) -> Option<Method> {
    let signature = &function.signature;
    if signature.asyncness.is_none() && seems_to_fold(signature) {
        errors.at(
            signature.fn_token,
            "a handler must be `async`, unless it changes the rows of a read model: add the type of the rows, as in `#[consumer(…, read_model = User)]`, or write `async fn`",
        );
        return None;
    }
    let fits = refuse_no_async(signature, errors)
        & refuse_no_receiver(signature, errors)
        & refuse_no_output(signature, errors);
    method(function, given, block, errors).filter(|_| fits)
}

/// The rules that all handlers share.
pub(super) fn method(
    function: &Function,
    given: Given<'_>,
    block: &ImplBlock,
    errors: &mut Errors,
) -> Option<Method> {
    let signature = &function.signature;
    let fits = refuse_qualifiers(signature, errors)
        & refuse_receiver(signature, errors)
        & refuse_cfg_on_parameters(signature, errors)
        & refuse_two_of_a_kind(&given, errors);
    let parameters = given.into_parameters(&block.self_type)?;
    fits.then(|| Method {
        has_receiver: signature.receiver().is_some(),
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
            .any(|on| matches!(on.events, Some(OnEvents::Typed)));
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
    fn into_parameters(self, self_type: &Type) -> Option<Vec<Parameter>> {
        self.0
            .into_iter()
            .map(|(_, read)| Some(named_outside(read.ok()?, self_type)))
            .collect()
    }
}

fn refuse_no_async(signature: &Signature, errors: &mut Errors) -> bool {
    let is_async = signature.asyncness.is_some();
    if !is_async {
        errors.at(
            signature.fn_token,
            format!(
                "a handler must be `async`: write `async fn {}`",
                signature.ident
            ),
        );
    }
    is_async
}

/// Whether it takes or returns something that may be a row.
fn seems_to_fold(signature: &Signature) -> bool {
    let takes_a_row = typed_parameters(signature).any(|typed| match unwrapped(&typed.ty) {
        Type::Reference(reference) => {
            reference.mutability.is_some()
                && last_name(&reference.elem).is_some_and(|name| !name.ends_with("Connection"))
        }
        _ => false,
    });
    takes_a_row
        || match &signature.output {
            ReturnType::Type(_, ty) => last_name(ty).is_some_and(|name| name != "Result"),
            ReturnType::Default => false,
        }
}

fn refuse_qualifiers(signature: &Signature, errors: &mut Errors) -> bool {
    let mut fits = true;
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
            "a handler must be an ordinary function: remove `unsafe` and `extern`",
        );
    }
    fits
}

fn refuse_no_receiver(signature: &Signature, errors: &mut Errors) -> bool {
    let has_receiver = signature.receiver().is_some();
    if !has_receiver {
        let name = &signature.ident;
        errors.at(
            name,
            format!("a handler must take `&self`: write `async fn {name}(&self, …)`"),
        );
    }
    has_receiver
}

fn refuse_receiver(signature: &Signature, errors: &mut Errors) -> bool {
    let Some(receiver) = signature.receiver() else {
        return true;
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

/// Types that are mistaken for the connection, and the connection without `&mut`.
fn mistake_in_connection(connection: &Type, is_mutable: bool) -> Option<String> {
    let name = last_name(connection)?;
    let kind = connection_kind(&name)?;
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

/// The end of the name of one of sqlx's types for connections, pools and transactions.
fn connection_kind(name: &str) -> Option<&'static str> {
    [
        "Transaction",
        "Pool",
        "PoolOptions",
        "PoolConnection",
        "Connection",
    ]
    .into_iter()
    .find(|kind| {
        name.strip_suffix(kind)
            .is_some_and(|driver| driver.is_empty() || names_a_driver(name))
    })
}

pub(super) fn names_a_connection(name: &str) -> bool {
    connection_kind(name).is_some()
}

/// Whether the name begins like those of sqlx's types for one driver.
fn names_a_driver(name: &str) -> bool {
    ["Sqlite", "Pg", "Postgres", "MySql", "Any"]
        .iter()
        .any(|driver| name.starts_with(driver))
}

/// Refuses a second connection, or a second row.
fn refuse_two_of_a_kind(given: &Given<'_>, errors: &mut Errors) -> bool {
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
            Parameter::Transaction(_) | Parameter::Row(_) => continue,
            Parameter::Shared(ty) if wanted == Wanted::Decoded || is_context(ty) => &mut contexts,
            _ => &mut events,
        };
        *count += 1;
        if *count > 1 && !may_be_renamed_context(given, wanted, events, contexts) {
            fits = false;
            errors.at(
                written,
                if function.signature.asyncness.is_some() {
                    format!(
                        "`{name}` takes `tx`, `cx: &Context` and one event, each once: remove this parameter"
                    )
                } else {
                    format!(
                        "`{name}` takes its row, `cx: &Context` and one event, each once: remove this parameter, or take the row by `&mut`"
                    )
                },
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
            Parameter::Transaction(_) | Parameter::Row(_) => false,
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

fn way(method: &Method) -> Way {
    let mut parameters = method.parameters.iter();
    if parameters.any(|parameter| matches!(parameter, Parameter::Several(_))) {
        Way::Slice
    } else {
        Way::Single
    }
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

pub(super) fn is_context(ty: &Type) -> bool {
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
