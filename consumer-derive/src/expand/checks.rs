//! Checks that need the compiler: constants outside of functions, which `cargo check` evaluates.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::{LitStr, Path};

use super::handlers::{decoder, handled};
use super::variants;
use crate::args::Aggregate;
use crate::model::{Body, Events, Handler, Handlers, Model, Rows};
use crate::span::{at, own, quote_at};

/// The list of handlers, and its checks.
pub(super) fn checks(model: &Model) -> TokenStream {
    let krate = &model.krate;
    let mut checks = match &model.body {
        Body::ByHand(_) => TokenStream::new(),
        Body::Handlers(handlers) => handlers
            .events
            .iter()
            .map(|handler| handler_checks(model, handlers, handler))
            .chain([every_event_has_a_handler(model, handlers)])
            .collect(),
    };
    checks.extend(no_aggregate_twice(model));
    checks.extend(table_fits(model));
    checks.extend(ignored_events_have_no_handler(model));
    let handlers = handler_list(model);
    let knowledge = knowledge(model);
    quote_spanned! {Span::mixed_site()=>
        const __HANDLERS: &[#krate::__private::HandlerShape] = &[#handlers];
        #knowledge
        #checks
    }
}

/// What the code knows of events, by which a worker recognises those that it does not know.
fn knowledge(model: &Model) -> TokenStream {
    let krate = &model.krate;
    let ignored = model.ignored();
    let aggregates = model
        .scope
        .iter()
        .flatten()
        .filter_map(path_of)
        .map(|path| {
            // The same calls as elsewhere, so that a mistake in the type is reported once.
            quote_at! {krate, at(path) =>
                #krate::__private::KnownAggregate {
                    aggregate_type: #krate::__private::aggregate_type::<#path>(),
                    event_types: #krate::__private::aggregate_events::<#path>(),
                    reads: #krate::__private::aggregate_reads::<#path>(),
                }
            }
        });
    quote_spanned! {Span::mixed_site()=>
        const __KNOWLEDGE: #krate::__private::Knowledge = #krate::__private::Knowledge {
            aggregates: &[#(#aggregates),*],
            handlers: __HANDLERS,
            ignored: &[#(#ignored),*],
        };
    }
}

fn handler_list(model: &Model) -> TokenStream {
    let krate = &model.krate;
    match &model.body {
        Body::ByHand(_) => quote_spanned! {Span::mixed_site()=>
            #krate::__private::HandlerShape {
                method: "handle",
                file: ::core::file!(),
                line: ::core::line!(),
                handled: #krate::__private::Handled::Every,
                reads: ::core::option::Option::None,
                rows: #krate::__private::HandlerRows::Unsaid,
            }
        },
        Body::Handlers(handlers) => handlers
            .events
            .iter()
            .map(|handler| {
                let cfgs = &handler.method.cfgs;
                let shape = shape(krate, handler);
                quote_spanned! {Span::mixed_site()=> #cfgs #shape, }
            })
            .collect(),
    }
}

fn shape(krate: &Path, handler: &Handler) -> TokenStream {
    let method = handler.method.name.to_string();
    let taken = handled(krate, handler);
    let rows = match handler.rows() {
        None => quote_spanned! {Span::mixed_site()=> Unsaid },
        Some(Rows::None) => quote_spanned! {Span::mixed_site()=> None },
        Some(Rows::OfAggregate(_)) => quote_spanned! {Span::mixed_site()=> OfAggregate },
        Some(Rows::Named { .. }) => quote_spanned! {Span::mixed_site()=> Named },
    };
    let line = line_of(handler);
    let reads = reads(krate, handler);
    quote_spanned! {Span::mixed_site()=>
        #krate::__private::HandlerShape {
            method: #method,
            file: ::core::file!(),
            line: #line,
            handled: #taken,
            reads: #reads,
            rows: #krate::__private::HandlerRows::#rows,
        }
    }
}

/// The key of the handler in the list: looking it up is cheaper for the compiler than evaluating its
/// events again.
fn key_of(handler: &Handler) -> (String, TokenStream) {
    (handler.method.name.to_string(), line_of(handler))
}

/// `line!()` with the span of the method's name.
fn line_of(handler: &Handler) -> TokenStream {
    let span = handler.method.name.span();
    quote_spanned! {span=> ::core::line!() }
}

/// Which versions of its events a handler reads that takes them decoded.
fn reads(krate: &Path, handler: &Handler) -> TokenStream {
    match decoder(krate, handler) {
        Some(decoder) => {
            quote_spanned! {Span::mixed_site()=> ::core::option::Option::Some(#decoder.reads) }
        }
        None => quote_spanned! {Span::mixed_site()=> ::core::option::Option::None },
    }
}

fn ignored_events_have_no_handler(model: &Model) -> TokenStream {
    let krate = &model.krate;
    let names = model.ignored().iter();
    names
        .map(|name| {
            quote_at! {krate, own(name) =>
                const _: () = #krate::__private::check::is_ignored(#name, __HANDLERS);
            }
        })
        .collect()
}

fn handler_checks(model: &Model, handlers: &Handlers, handler: &Handler) -> TokenStream {
    match &handler.events {
        Events::Every | Events::Rest => TokenStream::new(),
        Events::Typed(ty) => {
            let mut checks = is_in_scope(model, handler, ty);
            checks.extend(is_the_only_one(model, handlers, handler, ty));
            checks
        }
        Events::Variant(path, _) => {
            let variant = variants::last_word(path);
            let mut checks = is_in_scope(model, handler, variant);
            checks.extend(is_the_only_one(model, handlers, handler, variant));
            checks
        }
        Events::Named(names) => {
            let mut checks: TokenStream = names
                .iter()
                .map(|name| is_a_known_event(model, handler, name))
                .collect();
            let first = names.first().to_token_stream();
            checks.extend(is_the_only_one(model, handlers, handler, first));
            checks
        }
    }
}

fn is_in_scope(model: &Model, handler: &Handler, written: impl ToTokens) -> TokenStream {
    if model.scope.is_none() {
        return TokenStream::new();
    }
    let krate = &model.krate;
    let cfgs = &handler.method.cfgs;
    let (method, line) = key_of(handler);
    quote_at! {krate, own(written) =>
        #cfgs
        const _: () = #krate::__private::check::is_in_scope(__HANDLERS, #method, #line, __SCOPE);
    }
}

/// Reported at the later of two handlers, so the first needs no check.
fn is_the_only_one(
    model: &Model,
    handlers: &Handlers,
    handler: &Handler,
    written: impl ToTokens,
) -> TokenStream {
    if handlers
        .events
        .first()
        .is_some_and(|first| std::ptr::eq(first, handler))
    {
        return TokenStream::new();
    }
    let krate = &model.krate;
    let cfgs = &handler.method.cfgs;
    let (method, line) = key_of(handler);
    quote_at! {krate, own(written) =>
        #cfgs
        const _: () = #krate::__private::check::is_the_only_one(__HANDLERS, #method, #line);
    }
}

/// Possible only if types list all events of the scope.
fn is_a_known_event(model: &Model, handler: &Handler, name: &LitStr) -> TokenStream {
    let krate = &model.krate;
    let paths: Vec<&Path> = model.scope.iter().flatten().filter_map(path_of).collect();
    let knows_all = model
        .scope
        .as_ref()
        .is_some_and(|scope| !scope.is_empty() && scope.len() == paths.len());
    if !knows_all {
        return TokenStream::new();
    }
    let cfgs = &handler.method.cfgs;
    let events = paths
        .iter()
        .map(|path| quote_at! {krate, at(path) => #krate::__private::aggregate_events::<#path>() });
    quote_at! {krate, own(name) =>
        #cfgs
        const _: () = #krate::__private::check::is_a_known_event(#name, &[#(#events),*]);
    }
}

fn every_event_has_a_handler(model: &Model, handlers: &Handlers) -> TokenStream {
    if handlers.by_event().next().is_none()
        || handlers.take_the_rest()
            && handlers
                .events
                .iter()
                .all(|one| one.method.cfgs.0.is_empty())
    {
        return TokenStream::new();
    }
    let krate = &model.krate;
    model
        .scope
        .iter()
        .flatten()
        .filter_map(path_of)
        .map(|path| {
            quote_at! {krate, own(path) =>
                const _: () = #krate::__private::check::every_event_has_a_handler(
                    #krate::__private::aggregate_type::<#path>(),
                    #krate::__private::aggregate_events::<#path>(),
                    __HANDLERS,
                );
            }
        })
        .collect()
}

/// The macro compares strings. Only the compiler knows the aggregate type behind a path.
fn no_aggregate_twice(model: &Model) -> TokenStream {
    let krate = &model.krate;
    let scope = || model.scope.iter().flatten();
    if scope().find_map(path_of).is_none() {
        return TokenStream::new();
    }
    scope()
        .enumerate()
        .skip(1)
        .map(|(index, aggregate)| {
            let span = match aggregate {
                Aggregate::Name(name) => own(name),
                Aggregate::Type(path) => own(path),
            };
            quote_at! {krate, span =>
                const _: () = #krate::__private::check::is_listed_once(__SCOPE, #index);
            }
        })
        .collect()
}

/// The name of a later version's table is longer than that of the first, which the derive checks.
fn table_fits(model: &Model) -> TokenStream {
    let krate = &model.krate;
    let Some(row) = model.read_model() else {
        return TokenStream::new();
    };
    let version = model.version;
    quote_at! {krate, own(row) =>
        const _: () = #krate::__private::check::table_fits(__TABLE, #version);
    }
}

fn path_of(aggregate: &Aggregate) -> Option<&Path> {
    match aggregate {
        Aggregate::Type(path) => Some(path),
        Aggregate::Name(_) => None,
    }
}
