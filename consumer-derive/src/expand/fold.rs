//! The implementation of `Fold`: from events to keys and rows.

use proc_macro2::{Delimiter, Group, Literal, Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::{Expr, Path};

use super::handlers::{Given, argument, decoder, ignored_arm, pattern};
use super::rows;
use crate::model::{Events, Handler, Handlers, KeyPart, Method, Model, Parameter, RowKey, Rows};
use crate::span::{at, own, quote_at};

/// `impl Fold`, and the functions that it calls for keys.
pub(super) fn fold_impl(model: &Model, handlers: &Handlers, row: &Path) -> TokenStream {
    let krate = &model.krate;
    let self_type = &model.self_type;
    let folds = in_order(handlers);
    let key_functions = folds
        .iter()
        .filter_map(|fold| key_function(krate, row, fold));
    let keys = folds
        .iter()
        .map(|fold| step(krate, fold, &names_keys(krate, fold)));
    let calls = folds
        .iter()
        .map(|fold| step(krate, fold, &folds_rows(krate, fold)));
    let is_shareable =
        quote_at! {krate, own(self_type) => #self_type: #krate::__private::Shareable };
    let are_rows = rows::assumptions(krate);
    let rows = rows::rows(krate, row, handlers);
    let ignored = ignored(handlers);
    quote_spanned! {Span::mixed_site()=>
        #rows
        #(#key_functions)*
        #[automatically_derived]
        #[allow(trivial_bounds)]
        impl #krate::Fold for #self_type
        where
            #is_shareable,
            #are_rows
        {
            type Row = __Row;

            #[allow(unreachable_code, unreachable_patterns, unused_assignments, unused_mut)]
            fn keys(
                &self,
                __cx: &#krate::Context,
                __event: &#krate::PersistedEvent,
                __keys: &mut #krate::read_model::Keys<'_, <__Row as #krate::ReadModel>::Key>,
            ) -> ::core::result::Result<(), #krate::HandlerError> {
                let _ = (&__cx, &__keys);
                let __kind: &::core::primitive::str = &__event.event_type;
                #ignored
                let mut __is_taken = false;
                #(#keys)*
                let _ = __is_taken;
                ::core::result::Result::Ok(())
            }

            #[allow(unreachable_code, unreachable_patterns, unused_assignments, unused_mut)]
            fn fold(
                &self,
                __cx: &#krate::Context,
                __event: &#krate::PersistedEvent,
                __rows: &mut #krate::read_model::Rows<'_, __Row>,
            ) -> ::core::result::Result<(), #krate::HandlerError> {
                let _ = (&__cx, &__rows);
                let __kind: &::core::primitive::str = &__event.event_type;
                #ignored
                let mut __is_taken = false;
                #(#calls)*
                let _ = __is_taken;
                ::core::result::Result::Ok(())
            }
        }
    }
}

/// Returns before the handlers if the event is passed over.
fn ignored(handlers: &Handlers) -> TokenStream {
    let arm = ignored_arm(
        handlers,
        &quote_spanned! {Span::mixed_site()=> return ::core::result::Result::Ok(()) },
    );
    if arm.is_empty() {
        return arm;
    }
    quote_spanned! {Span::mixed_site()=> match __kind { #arm _ => {} } }
}

/// A handler that is not `async`, with its number among all.
struct Fold<'a> {
    number: usize,
    handler: &'a Handler,
    rows: &'a Rows,
}

/// In the order of the source, `#[on(other)]` last.
fn in_order(handlers: &Handlers) -> Vec<Fold<'_>> {
    let mut folds: Vec<Fold<'_>> = (0..)
        .zip(&handlers.events)
        .filter_map(|(number, handler)| {
            let rows = handler.rows()?;
            Some(Fold {
                number,
                handler,
                rows,
            })
        })
        .collect();
    folds.sort_by_key(|fold| matches!(fold.handler.events, Events::Rest));
    folds
}

/// What happens if the handler takes the event. Only a handler that names its rows may be one of
/// several.
fn step(krate: &Path, fold: &Fold<'_>, reaction: &TokenStream) -> TokenStream {
    let cfgs = &fold.handler.method.cfgs;
    let takes = match &fold.handler.events {
        Events::Rest => quote_spanned! {Span::mixed_site()=> !__is_taken },
        _ => {
            let pattern = pattern(krate, fold.handler);
            quote_spanned! {Span::mixed_site()=>
                match __kind { #pattern => true, _ => false }
            }
        }
    };
    let end = match fold.rows {
        Rows::Named { .. } => quote_spanned! {Span::mixed_site()=> __is_taken = true; },
        Rows::None | Rows::OfAggregate(_) => quote_spanned! {Span::mixed_site()=>
            return ::core::result::Result::Ok(());
        },
    };
    let step = quote_spanned! {Span::mixed_site()=>
        if #takes {
            #reaction
            #end
        }
    };
    if cfgs.0.is_empty() {
        return step;
    }
    quote_spanned! {Span::mixed_site()=> #cfgs { #step } }
}

/// Names the rows of an event.
fn names_keys(krate: &Path, fold: &Fold<'_>) -> TokenStream {
    match fold.rows {
        Rows::None => TokenStream::new(),
        rows if rows.are_of_aggregate() => quote_spanned! {Span::mixed_site()=>
            __keys.add_aggregate(__event)?;
        },
        Rows::OfAggregate(_) | Rows::Named { .. } => {
            let function = key_function_name(fold);
            let decoded = decoded(krate, fold.handler);
            let given = borrowed(fold.handler);
            quote_spanned! {Span::mixed_site()=>
                #decoded
                for __key in #function(__event, #given)? {
                    __keys.add(__key)?;
                }
            }
        }
    }
}

/// Calls the handler with each of its rows.
fn folds_rows(krate: &Path, fold: &Fold<'_>) -> TokenStream {
    let decoded = decoded(krate, fold.handler);
    let change = change(krate, fold.handler);
    match fold.rows {
        Rows::None => {
            let call = call(krate, fold.handler);
            let outcome = outcome(krate, &fold.handler.method);
            quote_spanned! {Span::mixed_site()=> #decoded #outcome(#call)?; }
        }
        rows if rows.are_of_aggregate() => quote_spanned! {Span::mixed_site()=>
            let __key = #krate::__private::aggregate_id(__event)?;
            #decoded
            #change
        },
        Rows::OfAggregate(_) | Rows::Named { .. } => {
            let function = key_function_name(fold);
            let given = borrowed(fold.handler);
            let (again, next) = again(krate, fold.handler);
            quote_spanned! {Span::mixed_site()=>
                #decoded
                let __named = #function(__event, #given)?;
                #again
                for __key in __named {
                    #next
                    #change
                }
            }
        }
    }
}

/// `let __decoded = …;` for a handler of a decoded event.
fn decoded(krate: &Path, handler: &Handler) -> Option<TokenStream> {
    let decoder = decoder(krate, handler)?;
    Some(quote_spanned! {Span::mixed_site()=>
        let __decoded = #decoder.decode(__cx, __event)?;
    })
}

/// The event for the key, by reference.
fn borrowed(handler: &Handler) -> TokenStream {
    match handler.events.decoded() {
        Some(_) => quote_spanned! {Span::mixed_site()=> &__decoded },
        None => quote_spanned! {Span::mixed_site()=> __event },
    }
}

/// A handler takes a decoded event by value, so that a second row needs it decoded again. Returns what
/// stands before the loop over the rows, and what stands in it.
fn again(krate: &Path, handler: &Handler) -> (TokenStream, TokenStream) {
    let Some(decoder) = decoder(krate, handler) else {
        return (TokenStream::new(), TokenStream::new());
    };
    let before = quote_spanned! {Span::mixed_site()=>
        let mut __first = ::core::option::Option::Some(__decoded);
    };
    let inside = quote_spanned! {Span::mixed_site()=>
        let __decoded = match __first.take() {
            ::core::option::Option::Some(__decoded) => __decoded,
            ::core::option::Option::None => #decoder.decode(__cx, __event)?,
        };
    };
    (before, inside)
}

fn key_function_name(fold: &Fold<'_>) -> syn::Ident {
    quote::format_ident!("__keys_{}", fold.number, span = Span::mixed_site())
}

/// The function that evaluates `key = …` over the event. It exists once, so that mistakes in the
/// expression are reported once.
fn key_function(krate: &Path, row: &Path, fold: &Fold<'_>) -> Option<TokenStream> {
    let Rows::Named { pattern, key } = fold.rows else {
        return None;
    };
    let evaluated = match key {
        RowKey::One(KeyPart::AggregateId(_)) => return None,
        RowKey::One(KeyPart::Expression(expression)) => {
            let key_type = rows::key_type(krate, row);
            let keys_of = if is_place(expression) {
                quote_spanned! {Span::mixed_site()=> keys_of_place }
            } else {
                quote_spanned! {Span::mixed_site()=> keys_of }
            };
            let arguments = |span: Span| quote_spanned! {span=> ::<#key_type, _, _> };
            call_with(krate, &keys_of, arguments, expression)
        }
        RowKey::Tuple(span, parts) => {
            let key_type = rows::key_type(krate, row);
            let number = Literal::usize_unsuffixed(parts.len());
            let parts = parts.iter().map(|part| key_part(krate, part));
            let parts = quote_spanned! {*span=> (#(#parts,)*) };
            let key = quote_at! {krate, *span =>
                #krate::__private::key_of_parts::<__Key, #number>(#parts)
            };
            quote_spanned! {Span::mixed_site()=>
                type __Key = #key_type;
                #key
            }
        }
    };
    let name = key_function_name(fold);
    let cfgs = &fold.handler.method.cfgs;
    let event = match fold.handler.events.decoded() {
        Some(ty) => ty.to_token_stream(),
        None => quote_spanned! {Span::mixed_site()=> #krate::PersistedEvent },
    };
    let key_type = rows::key_type(krate, row);
    // At the row, where the compiler reports that its key is unknown.
    let signature = quote_at! {krate, at(row) =>
        fn #name(
            __event: &#krate::PersistedEvent,
            __given: &#event,
        ) -> ::core::result::Result<::std::vec::Vec<#key_type>, #krate::HandlerError>
    };
    Some(quote_spanned! {Span::mixed_site()=>
        #cfgs
        #[allow(
            clippy::needless_borrow,
            clippy::needless_borrows_for_generic_args,
            unused_variables
        )]
        #signature {
            let #pattern = __given;
            #evaluated
        }
    })
}

fn key_part(krate: &Path, part: &KeyPart) -> TokenStream {
    match part {
        KeyPart::AggregateId(word) => quote_at! {krate, at(word) =>
            #krate::__private::aggregate_id(__event)?
        },
        KeyPart::Expression(expression) => {
            let key_part = quote_spanned! {Span::mixed_site()=> key_part };
            call_with(krate, &key_part, |_| TokenStream::new(), expression)
        }
    }
}

/// Calls a function of `__private`. A place is borrowed, since it belongs to the event; anything else
/// is a value of its own. The call has the span of the expression, from its first token to its last.
fn call_with(
    krate: &Path,
    function: &TokenStream,
    type_arguments: impl Fn(Span) -> TokenStream,
    expression: &Expr,
) -> TokenStream {
    let mut spans = expression
        .to_token_stream()
        .into_iter()
        .map(|token| token.span());
    let first = spans.next().unwrap_or_else(Span::mixed_site);
    let last = spans.last().unwrap_or(first);
    let function = crate::span::moved(function, first);
    let type_arguments = type_arguments(first);
    let argument = if is_place(expression) {
        quote_spanned! {first=> &#expression }
    } else {
        expression.to_token_stream()
    };
    let mut arguments = Group::new(Delimiter::Parenthesis, argument);
    arguments.set_span(last);
    quote_at! {krate, first => #krate::__private::#function #type_arguments #arguments }
}

fn is_place(expression: &Expr) -> bool {
    match expression {
        Expr::Path(_) | Expr::Field(_) | Expr::Index(_) => true,
        Expr::Unary(unary) => matches!(unary.op, syn::UnOp::Deref(_)),
        Expr::Paren(inner) => is_place(&inner.expr),
        Expr::Group(inner) => is_place(&inner.expr),
        _ => false,
    }
}

/// Changes the row of `__key` by calling the handler.
fn change(krate: &Path, handler: &Handler) -> TokenStream {
    let method = &handler.method;
    let call = call(krate, handler);
    if takes_row(method) {
        let outcome = outcome(krate, method);
        return quote_spanned! {Span::mixed_site()=> #outcome(#call)?; };
    }
    let returned = returned(krate, method);
    quote_spanned! {Span::mixed_site()=> #returned(#call, __rows, &__key)?; }
}

fn takes_row(method: &Method) -> bool {
    let mut parameters = method.parameters.iter();
    parameters.any(|parameter| matches!(parameter, Parameter::Row(_)))
}

fn call(krate: &Path, handler: &Handler) -> TokenStream {
    let method = &handler.method;
    let name = &method.name;
    let given = match handler.events.decoded() {
        Some(_) => Given::Decoded,
        None => Given::Event,
    };
    let receiver = method
        .has_receiver
        .then(|| quote_spanned! {Span::mixed_site()=> self, });
    let arguments = method.parameters.iter().map(|parameter| match parameter {
        Parameter::Row(ty) => quote_at! {krate, at(ty) =>
            #krate::__private::row::<__Row, #ty>(__rows, &__key)?
        },
        other => argument(krate, other, given),
    });
    quote_spanned! {at(name)=> Self::#name(#receiver #(#arguments),*) }
}

/// The check of a result without a row.
fn outcome(krate: &Path, method: &Method) -> TokenStream {
    with_output(method, |output| {
        let span = at(output);
        quote_at! {krate, span => #krate::__private::changed::<#output> }
    })
}

/// The conversion of a result that may have a row.
fn returned(krate: &Path, method: &Method) -> TokenStream {
    with_output(method, |output| {
        let span = at(output);
        quote_at! {krate, span => #krate::__private::returned::<__Row, #output> }
    })
}

/// A mistake is reported at the return type as the user wrote it, `()` if there is none.
fn with_output(method: &Method, convert: impl Fn(&TokenStream) -> TokenStream) -> TokenStream {
    let output = &method.output;
    if output.is_empty() {
        return convert(&quote_spanned! {at(&method.name)=> () });
    }
    if output.to_string().contains("impl ") {
        return convert(&quote_spanned! {at(output)=> _ });
    }
    convert(output)
}
