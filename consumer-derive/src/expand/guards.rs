//! Conditions around generated code, and messages under a condition: only the compiler knows which
//! methods `cfg` leaves in a block.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;

use crate::errors::HANDLE_BESIDE_ON;
use crate::model::{Body, Choice, Handler, Handlers, Model};
use crate::span::at;

/// The `cfg` under which a declaration is compiled.
pub(super) fn condition(model: &Model, choice: &Choice) -> TokenStream {
    let mut conditions: Vec<TokenStream> = choice.condition.iter().cloned().collect();
    if let Body::Handlers(handlers) = &model.body
        && may_have_no_handle(handlers)
    {
        conditions.push(any(handlers.of_every_event()));
    }
    match conditions.as_slice() {
        [] => TokenStream::new(),
        [only] => quote_spanned! {Span::mixed_site()=> #[cfg(#only)] },
        several => quote_spanned! {Span::mixed_site()=> #[cfg(all(#(#several),*))] },
    }
}

/// The messages for a block whose `cfg`s leave no `handle`, or leave one beside `#[on]`.
pub(super) fn guards(model: &Model) -> TokenStream {
    let Body::Handlers(handlers) = &model.body else {
        return TokenStream::new();
    };
    let mut guards = TokenStream::new();
    let Some(handle) = handlers.of_every_event().next() else {
        return guards;
    };
    let span = at(&handle.method.name);
    let is_handled = any(handlers.of_every_event());
    if may_have_no_handle(handlers) {
        guards.extend(quote_spanned! {span=>
            #[cfg(not(#is_handled))]
            ::core::compile_error!("`cfg` removes every `handle` of this consumer: put the `cfg` on the whole block, or write a `handle` for the other case");
        });
    }
    if handlers.by_event().next().is_some() {
        let is_marked = any(handlers.by_event());
        guards.extend(quote_spanned! {span=>
            #[cfg(all(#is_handled, #is_marked))]
            ::core::compile_error!(#HANDLE_BESIDE_ON);
        });
    }
    guards
}

/// True where `cfg` leaves one of the handlers.
pub(super) fn any<'a>(handlers: impl Iterator<Item = &'a Handler>) -> TokenStream {
    let conditions = handlers.map(|handler| handler.method.cfgs.condition());
    quote_spanned! {Span::mixed_site()=> any(#(#conditions),*) }
}

/// Whether the block has nothing but `handle`, each under a `cfg`.
fn may_have_no_handle(handlers: &Handlers) -> bool {
    handlers.by_event().next().is_none()
        && handlers
            .of_every_event()
            .all(|handler| !handler.method.cfgs.0.is_empty())
}
