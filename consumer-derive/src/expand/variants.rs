//! Handlers of one variant: which events these are.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::ext::IdentExt;
use syn::{Ident, Path};

use crate::model::{Events, Handler, Handlers};
use crate::span::{at, quote_at};

/// A constant for the index of each variant that has a handler, and one for its events.
pub(super) fn constants(krate: &Path, handlers: &Handlers) -> TokenStream {
    handlers
        .events
        .iter()
        .filter_map(|handler| match &handler.events {
            Events::Variant(path, _) => Some(constants_of(krate, handler, path)),
            _ => None,
        })
        .collect()
}

fn constants_of(krate: &Path, handler: &Handler, path: &Path) -> TokenStream {
    let cfgs = &handler.method.cfgs;
    let (index, taken) = (index_name(handler), events_name(handler));
    let enumeration = enumeration(path);
    let variant = last_word(path);
    let name = variant.map(|word| word.unraw().to_string());
    let find = quote_at! {krate, at(&enumeration) =>
        #krate::__private::variant_index::<#enumeration>
    };
    let events = quote_at! {krate, at(&enumeration) =>
        #krate::__private::VariantsOf::<#enumeration>::EVENTS
    };
    // Mentioned as the pattern that it is: the compiler reports a variant that does not exist, and
    // then nothing that depends on the constant. An enum that does not exist is reported once, by way of
    // its type.
    quote_spanned! {Span::mixed_site()=>
        #cfgs
        #[allow(non_upper_case_globals, unreachable_patterns, clippy::unneeded_struct_pattern)]
        const #index: ::core::primitive::usize = {
            type __Enum = #enumeration;
            let _ = |__event: &__Enum| match __event {
                __Enum::#variant { .. } => {}
                _ => {}
            };
            #find(#name)
        };
        #cfgs
        #[allow(non_upper_case_globals)]
        const #taken: #krate::__private::Handled = {
            #[allow(unused_imports)]
            use #krate::__private::NoVariants as _;
            #krate::__private::variant_events(#events, #index)
        };
    }
}

/// `UserEvent` of `UserEvent::Registered`.
pub(super) fn enumeration(path: &Path) -> TokenStream {
    let mut enumeration = path.clone();
    enumeration.segments.pop();
    enumeration.segments.pop_punct();
    enumeration.into_token_stream()
}

/// `Registered` of `UserEvent::Registered`.
pub(super) fn last_word(path: &Path) -> Option<&Ident> {
    path.segments.last().map(|last| &last.ident)
}

/// The constant with the index of the handler's variant. Methods of one name have `cfg`s that exclude
/// each other.
pub(super) fn index_name(handler: &Handler) -> Ident {
    quote::format_ident!(
        "__VARIANT_OF_{}",
        handler.method.name,
        span = Span::mixed_site()
    )
}

/// The constant with the events of the handler's variant.
pub(super) fn events_name(handler: &Handler) -> Ident {
    quote::format_ident!(
        "__EVENTS_OF_{}",
        handler.method.name,
        span = Span::mixed_site()
    )
}
