//! The methods of `Consumer` for an `impl` block: calls of the user's methods.

use proc_macro2::{Literal, Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::{LitStr, Path};

use super::guards::any;
use super::variants;
use crate::model::{Database, Events, Handler, Handlers, Method, Parameter};
use crate::span::{at, own, quote_at};
use crate::types::last_name;

pub(super) fn methods(krate: &Path, handlers: &Handlers, database: &Database) -> TokenStream {
    let mut methods: TokenStream = handlers
        .of_every_event()
        .map(|handler| every_event(krate, handler, &handlers.ignored))
        .collect();
    if handlers.by_event().next().is_some() {
        methods.extend(by_event(krate, handlers));
    }
    if handlers.read_model.is_some() {
        methods.extend(read_model(krate, &handlers.resets));
        return methods;
    }
    if matches!(database, Database::Any) {
        methods.extend(quote_spanned! {Span::mixed_site()=>
            fn uses_transaction(&self) -> ::core::primitive::bool {
                false
            }
        });
    }
    methods.extend(handlers.resets.iter().map(|method| reset(krate, method)));
    methods
}

/// `<__Database as Database>::Connection`
fn connection(krate: &Path) -> TokenStream {
    super::connection(krate, &quote_spanned! {Span::mixed_site()=> __Database })
}

/// `handle`, of one event or of a whole batch.
fn every_event(krate: &Path, handler: &Handler, ignored: &[LitStr]) -> TokenStream {
    let cfgs = &handler.method.cfgs;
    let parameters = EventParameters::of(&handler.method);
    if !handler.takes_slice() {
        let pass_over = pass_over(krate, ignored);
        let call = call(krate, &handler.method, Given::Event);
        let body = quote_spanned! {Span::mixed_site()=> #pass_over #call };
        return handle(krate, &parameters, &cfgs.to_token_stream(), &body);
    }
    let given = if ignored.is_empty() {
        quote_spanned! {Span::mixed_site()=> let __given = __events; }
    } else {
        quote_spanned! {Span::mixed_site()=>
            let __taken = #krate::__private::not_ignored(__events, __KNOWLEDGE.ignored);
            if __taken.is_empty() {
                return ::core::result::Result::Ok(__events.len());
            }
            let __given = &__taken[..];
        }
    };
    let connection = connection(krate);
    let call = call(krate, &handler.method, Given::Slice);
    quote_spanned! {Span::mixed_site()=>
        #cfgs
        async fn handle(
            &self,
            __cx: &#krate::Context,
            __tx: &mut #connection,
            __event: &#krate::PersistedEvent,
        ) -> ::core::result::Result<(), #krate::HandlerError> {
            match #krate::Consumer::<__Database>::handle_batch(
                self,
                __cx,
                __tx,
                ::core::slice::from_ref(__event),
            ).await {
                ::core::result::Result::Ok(_) => ::core::result::Result::Ok(()),
                ::core::result::Result::Err(__failed) => ::core::result::Result::Err(__failed.error),
            }
        }
        #cfgs
        async fn handle_batch(
            &self,
            __cx: &#krate::Context,
            __tx: &mut #connection,
            __events: &[#krate::PersistedEvent],
        ) -> ::core::result::Result<::core::primitive::usize, #krate::BatchError> {
            let _ = (&__cx, &__tx);
            #given
            #krate::__private::whole(__events, #call)
        }
    }
}

/// Returns before a handler of every event if the event is passed over.
pub(super) fn pass_over(krate: &Path, ignored: &[LitStr]) -> TokenStream {
    if ignored.is_empty() {
        return TokenStream::new();
    }
    quote_spanned! {Span::mixed_site()=>
        if #krate::__private::is_ignored(__event, __KNOWLEDGE.ignored) {
            return ::core::result::Result::Ok(());
        }
    }
}

/// `handle` for a block of `#[on]` handlers, and `handle_batch` if one takes runs.
fn by_event(krate: &Path, handlers: &Handlers) -> TokenStream {
    let attributes = attributes(handlers);
    let arms = handlers.by_event().map(|handler| {
        let cfgs = &handler.method.cfgs;
        let pattern = pattern(krate, handler);
        let reaction = one_event(krate, handler);
        quote_spanned! {Span::mixed_site()=> #cfgs #pattern => { #reaction } }
    });
    let arms = in_order(handlers, arms);
    let ignored = ignored_arm(
        handlers,
        &quote_spanned! {Span::mixed_site()=> ::core::result::Result::Ok(()) },
    );
    let dispatch = quote_spanned! {Span::mixed_site()=>
        let _ = (&__cx, &__tx);
        let __kind: &::core::primitive::str = &__event.event_type;
        match __kind {
            #ignored
            #(#arms)*
            _ => ::core::result::Result::Ok(()),
        }
    };
    let all = EventParameters {
        cx: quote_spanned! {Span::mixed_site()=> __cx },
        tx: quote_spanned! {Span::mixed_site()=> __tx },
    };
    let mut methods = handle(krate, &all, &attributes, &dispatch);
    if handlers.folds().count() == handlers.events.len() {
        methods.extend(fold_all(krate));
    } else if handlers.read_model.is_some() || handlers.by_event().any(Handler::takes_slice) {
        methods.extend(runs(krate, handlers));
    }
    methods
}

/// The arm of the events that are passed over, which `#[on(other)]` would take.
pub(super) fn ignored_arm(handlers: &Handlers, reaction: &TokenStream) -> TokenStream {
    let names = &handlers.ignored;
    if names.is_empty() || !handlers.take_the_rest() {
        return TokenStream::new();
    }
    quote_spanned! {Span::mixed_site()=> #(#names)|* => #reaction, }
}

/// Folds one event into its rows.
fn fold_one(krate: &Path) -> TokenStream {
    quote_spanned! {Span::mixed_site()=>
        #krate::__private::fold_one::<__Database, Self>(self, __cx, __tx, __event).await
    }
}

/// The methods of a block that only folds.
fn fold_all(krate: &Path) -> TokenStream {
    let connection = connection(krate);
    quote_spanned! {Span::mixed_site()=>
        async fn handle_batch(
            &self,
            __cx: &#krate::Context,
            __tx: &mut #connection,
            __events: &[#krate::PersistedEvent],
        ) -> ::core::result::Result<::core::primitive::usize, #krate::BatchError> {
            #krate::read_model::fold_batch::<__Database, Self>(self, __cx, __tx, __events).await
        }
        fn only_folds(&self) -> ::core::primitive::bool {
            true
        }
    }
}

/// What the library needs to know of a read model, whose rows it deletes when a rebuild begins.
fn read_model(krate: &Path, resets: &[Method]) -> TokenStream {
    let connection = connection(krate);
    let calls = resets.iter().map(|method| {
        let cfgs = &method.cfgs;
        let call = call(krate, method, Given::Nothing);
        quote_spanned! {Span::mixed_site()=> #cfgs { #call?; } }
    });
    quote_spanned! {Span::mixed_site()=>
        fn read_model(
            &self,
        ) -> ::core::option::Option<&'static #krate::read_model::Table> {
            __TABLE
        }
        fn can_reset(&self) -> ::core::primitive::bool {
            true
        }
        async fn reset(
            &self,
            __cx: &#krate::Context,
            __tx: &mut #connection,
        ) -> ::core::result::Result<(), #krate::HandlerError> {
            #krate::read_model::clear::<__Database, __Row>(__cx, __tx)
                .await?;
            #(#calls)*
            ::core::result::Result::Ok(())
        }
    }
}

/// The attributes of a method that dispatches by event: it gives way to a `handle` that `cfg` leaves.
fn attributes(handlers: &Handlers) -> TokenStream {
    let mut attributes = quote_spanned! {Span::mixed_site()=> #[allow(unreachable_patterns)] };
    if handlers.of_every_event().next().is_some() {
        let is_handled = any(handlers.of_every_event());
        attributes.extend(quote_spanned! {Span::mixed_site()=> #[cfg(not(#is_handled))] });
    }
    attributes
}

/// The arms with `#[on(other)]` last.
fn in_order(handlers: &Handlers, arms: impl Iterator<Item = TokenStream>) -> Vec<TokenStream> {
    let mut pairs: Vec<_> = handlers.by_event().zip(arms).collect();
    pairs.sort_by_key(|(handler, _)| matches!(handler.events, Events::Rest));
    pairs.into_iter().map(|(_, arm)| arm).collect()
}

/// `"UserRegistered" | "UserImported"`, or a guard for a handler of a type or a variant.
pub(super) fn pattern(krate: &Path, handler: &Handler) -> TokenStream {
    match &handler.events {
        Events::Named(names) => quote_spanned! {Span::mixed_site()=> #(#names)|* },
        Events::Typed(_) | Events::Variant(..) => {
            let taken = handled(krate, handler);
            quote_spanned! {Span::mixed_site()=> _ if #taken.takes(__event) }
        }
        Events::Every | Events::Rest => quote_spanned! {Span::mixed_site()=> _ },
    }
}

/// The events that a handler takes.
pub(super) fn handled(krate: &Path, handler: &Handler) -> TokenStream {
    match &handler.events {
        Events::Every => quote_spanned! {Span::mixed_site()=>
            #krate::__private::Handled::Every
        },
        Events::Rest => quote_spanned! {Span::mixed_site()=> #krate::__private::Handled::Rest },
        Events::Named(names) => quote_spanned! {Span::mixed_site()=>
            #krate::__private::Handled::Named(&[#(#names),*])
        },
        Events::Variant(..) => variants::events_name(handler).into_token_stream(),
        Events::Typed(ty) => {
            let typed = typed(krate, ty);
            quote_spanned! {Span::mixed_site()=> #typed.handled }
        }
    }
}

/// How to decode the events of a handler that takes them decoded.
pub(super) fn decoder(krate: &Path, handler: &Handler) -> Option<TokenStream> {
    match &handler.events {
        Events::Typed(ty) => Some(typed(krate, ty)),
        Events::Variant(path, Some(ty)) => {
            let enumeration = variants::enumeration(path);
            let index = variants::index_name(handler);
            Some(quote_at! {krate, at(ty) =>
                #krate::__private::variant::<#enumeration, #index, _, #ty>()
            })
        }
        Events::Variant(_, None) | Events::Every | Events::Named(_) | Events::Rest => None,
    }
}

/// Every mention of an event's type is this one expression, so that a mistake in the type is reported
/// once.
fn typed(krate: &Path, ty: &syn::Type) -> TokenStream {
    quote_at! {krate, at(ty) => #krate::__private::typed::<#ty>() }
}

/// Calls a handler with one event, which may be a run of one.
fn one_event(krate: &Path, handler: &Handler) -> TokenStream {
    if handler.rows().is_some() {
        return fold_one(krate);
    }
    match (decoder(krate, handler), handler.takes_slice()) {
        (Some(decoder), false) => {
            let call = call(krate, &handler.method, Given::Decoded);
            quote_spanned! {Span::mixed_site()=>
                let __decoded = #decoder.decode(__cx, __event)?;
                #call
            }
        }
        (Some(decoder), true) => {
            let call = call(krate, &handler.method, Given::Run);
            quote_spanned! {Span::mixed_site()=>
                let __decoded = [#decoder.decode(__cx, __event)?];
                let __given = &__decoded[..];
                #call
            }
        }
        (None, false) => call(krate, &handler.method, Given::Event),
        (None, true) => {
            let call = call(krate, &handler.method, Given::Slice);
            quote_spanned! {Span::mixed_site()=>
                let __given = ::core::slice::from_ref(__event);
                #call
            }
        }
    }
}

/// `handle_batch` of a block with handlers of runs: consecutive events of the same handler are passed
/// to it at once, and so are consecutive events that are folded. Events that no handler takes may stand
/// between them.
fn runs(krate: &Path, handlers: &Handlers) -> TokenStream {
    let connection = connection(krate);
    let attributes = attributes(handlers);
    let handler_of = handler_of(krate, handlers);
    let arms = numbered(handlers)
        .filter(|(_, handler)| handler.takes_slice())
        .map(|(number, handler)| {
            let cfgs = &handler.method.cfgs;
            let number = Literal::usize_suffixed(number);
            let run = run(krate, handler);
            quote_spanned! {Span::mixed_site()=>
                #cfgs ::core::option::Option::Some(#number) => { #run }
            }
        });
    let fold_run = handlers.read_model.as_ref().map(|_| {
        quote_spanned! {Span::mixed_site()=>
            ::core::option::Option::Some(::core::primitive::usize::MAX) => {
                let __run = #krate::__private::run(__events, __handled, __handler_of);
                __handled += #krate::__private::fold_run::<__Database, Self>(
                    self, __cx, __tx, __run, __handled,
                ).await?;
            }
        }
    });
    quote_spanned! {Span::mixed_site()=>
        #attributes
        async fn handle_batch(
            &self,
            __cx: &#krate::Context,
            __tx: &mut #connection,
            __events: &[#krate::PersistedEvent],
        ) -> ::core::result::Result<::core::primitive::usize, #krate::BatchError> {
            #handler_of
            let mut __handled: ::core::primitive::usize = 0;
            while let ::core::option::Option::Some(__event) = __events.get(__handled) {
                if __handled > 0 && __cx.should_stop(__handled) {
                    return ::core::result::Result::Ok(__handled);
                }
                match __handler_of(__event) {
                    #(#arms)*
                    #fold_run
                    _ => {
                        __cx.enter(__event.global_position);
                        #krate::__private::one(
                            __handled,
                            #krate::Consumer::<__Database>::handle(self, __cx, __tx, __event).await,
                        )?;
                        __handled += 1;
                    }
                }
            }
            ::core::result::Result::Ok(__handled)
        }
    }
}

fn numbered(handlers: &Handlers) -> impl Iterator<Item = (usize, &Handler)> {
    (0..).zip(handlers.by_event())
}

/// The function that tells which handler takes an event. Those that fold count as one.
fn handler_of(krate: &Path, handlers: &Handlers) -> TokenStream {
    let arms = numbered(handlers).map(|(number, handler)| {
        let cfgs = &handler.method.cfgs;
        let pattern = pattern(krate, handler);
        let number = match handler.rows() {
            Some(_) => quote_spanned! {Span::mixed_site()=> ::core::primitive::usize::MAX },
            None => Literal::usize_suffixed(number).into_token_stream(),
        };
        quote_spanned! {Span::mixed_site()=>
            #cfgs #pattern => ::core::option::Option::Some(#number),
        }
    });
    let arms = in_order(handlers, arms);
    let ignored = ignored_arm(
        handlers,
        &quote_spanned! {Span::mixed_site()=> ::core::option::Option::None },
    );
    quote_spanned! {Span::mixed_site()=>
        fn __handler_of(
            __event: &#krate::PersistedEvent,
        ) -> ::core::option::Option<::core::primitive::usize> {
            let __kind: &::core::primitive::str = &__event.event_type;
            match __kind {
                #ignored
                #(#arms)*
                _ => ::core::option::Option::None,
            }
        }
    }
}

/// Passes one run to its handler.
fn run(krate: &Path, handler: &Handler) -> TokenStream {
    let (given, call) = match decoder(krate, handler) {
        Some(decoder) => (
            quote_spanned! {Span::mixed_site()=>
                let (__decoded, __length) =
                    #krate::__private::one(__handled, #decoder.decode_run(__cx, __run))?;
                let __given = &__decoded[..];
            },
            call(krate, &handler.method, Given::Run),
        ),
        None => (
            quote_spanned! {Span::mixed_site()=>
                let __taken = #krate::__private::taken(__run, __handler_of);
                let (__given, __length) = (&__taken[..], __run.len());
            },
            call(krate, &handler.method, Given::Slice),
        ),
    };
    quote_spanned! {Span::mixed_site()=>
        let __run = #krate::__private::run(__events, __handled, __handler_of);
        #given
        __cx.enter_several();
        #krate::__private::several(__handled, __length, #call)?;
        __handled += __length;
    }
}

fn reset(krate: &Path, method: &Method) -> TokenStream {
    let cfgs = &method.cfgs;
    let connection = connection(krate);
    let EventParameters { cx, tx } = EventParameters::of(method);
    let call = call(krate, method, Given::Nothing);
    quote_spanned! {Span::mixed_site()=>
        #cfgs
        fn can_reset(&self) -> ::core::primitive::bool {
            true
        }
        #cfgs
        async fn reset(
            &self,
            #cx: &#krate::Context,
            #tx: &mut #connection,
        ) -> ::core::result::Result<(), #krate::HandlerError> {
            #call
        }
    }
}

/// The names of the context and the transaction in a generated method, `_` if unused.
struct EventParameters {
    cx: TokenStream,
    tx: TokenStream,
}

impl EventParameters {
    fn of(method: &Method) -> Self {
        let takes_references = method
            .parameters
            .iter()
            .any(|parameter| matches!(parameter, Parameter::Shared(_)));
        let named = |is_used: bool, name: TokenStream| {
            if is_used {
                name
            } else {
                quote_spanned! {Span::mixed_site()=> _ }
            }
        };
        Self {
            cx: named(
                takes_references,
                quote_spanned! {Span::mixed_site()=> __cx },
            ),
            tx: named(
                method.takes_transaction(),
                quote_spanned! {Span::mixed_site()=> __tx },
            ),
        }
    }
}

fn handle(
    krate: &Path,
    parameters: &EventParameters,
    attributes: &TokenStream,
    body: &TokenStream,
) -> TokenStream {
    let connection = connection(krate);
    let EventParameters { cx, tx } = parameters;
    quote_spanned! {Span::mixed_site()=>
        #attributes
        async fn handle(
            &self,
            #cx: &#krate::Context,
            #tx: &mut #connection,
            __event: &#krate::PersistedEvent,
        ) -> ::core::result::Result<(), #krate::HandlerError> {
            #body
        }
    }
}

/// The events that a method takes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Given {
    /// `event`, undecoded.
    Event,
    /// `decoded`, one decoded event.
    Decoded,
    /// `given`, a slice of undecoded events.
    Slice,
    /// `given`, a slice of decoded events.
    Run,
    /// No event.
    Nothing,
}

/// Calls the user's method and converts its result.
fn call(krate: &Path, method: &Method, given: Given) -> TokenStream {
    let name = &method.name;
    let arguments = method
        .parameters
        .iter()
        .map(|parameter| argument(krate, parameter, given));
    let send = send(krate, method);
    // The user's own span: a future that is not `Send` is reported as the user's code.
    let receiver = quote_spanned! {Span::mixed_site()=> self };
    let called = quote_spanned! {own(name)=>
        #send(Self::#name(#receiver #(, #arguments)*)).await
    };
    let outcome = outcome(krate, method);
    quote_spanned! {at(name)=> #outcome(#called) }
}

/// Requires a future that is `Send`, unless a parameter has a type that no handler takes, such as
/// another crate's `Context`: then that is the only message.
fn send(krate: &Path, method: &Method) -> TokenStream {
    let span = own(&method.name);
    let odd = method
        .parameters
        .iter()
        .find_map(|parameter| match parameter {
            Parameter::Shared(ty) if last_name(ty).is_none_or(|name| name != "PersistedEvent") => {
                Some(ty)
            }
            _ => None,
        });
    match odd {
        Some(ty) => quote_at! {krate, span =>
            {
                #[allow(unused_imports)]
                use #krate::__private::NotBorrowed as _;
                #krate::__private::Borrowed::<#ty>::send
            }
        },
        None => quote_at! {krate, span => #krate::__private::send },
    }
}

/// The conversion of the result. A mistake is reported at the return type as the user wrote it.
fn outcome(krate: &Path, method: &Method) -> TokenStream {
    let output = &method.output;
    let span = at(output);
    if output.to_string().contains("impl ") {
        return quote_at! {krate, span => #krate::__private::outcome };
    }
    quote_at! {krate, span => #krate::__private::outcome::<#output> }
}

/// One argument, with the span of its parameter's type.
pub(super) fn argument(krate: &Path, parameter: &Parameter, given: Given) -> TokenStream {
    match parameter {
        Parameter::Transaction(ty) => quote_at! {krate, at(ty) =>
            #krate::__private::transaction::<__Database, #ty>(__tx)
        },
        // `fold` passes rows.
        Parameter::Row(_) => TokenStream::new(),
        Parameter::Shared(ty) if given == Given::Event => quote_at! {krate, at(ty) =>
            #krate::__private::shared::<#ty>(__cx, __event)
        },
        Parameter::Shared(ty) => quote_at! {krate, at(ty) =>
            #krate::__private::context::<#ty>(__cx)
        },
        Parameter::Decoded(ty) => quote_spanned! {at(ty)=> __decoded },
        Parameter::Several(ty) if given == Given::Run => quote_at! {krate, at(ty) =>
            #krate::__private::slice::<#ty>(__given)
        },
        Parameter::Several(ty) => quote_at! {krate, at(ty) =>
            #krate::__private::batch::<#ty>(__given)
        },
    }
}
