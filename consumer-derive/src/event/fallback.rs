//! What the derive leaves after a mistake: the messages, and stubs that keep the rest of the crate
//! free of follow-on errors.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::{Data, DeriveInput};

use super::attributes::Attributes;
use crate::crate_path;
use crate::errors::Errors;

pub(super) fn fallback(
    input: &DeriveInput,
    attributes: &Attributes,
    errors: Errors,
) -> TokenStream {
    let messages = errors.into_compile_errors();
    if !input.generics.params.is_empty() {
        return messages;
    }
    let krate = crate_path::or_default(attributes.values.krate.as_ref());
    let ident = &input.ident;
    let aggregate = match &input.data {
        Data::Enum(_) => quote_spanned! {Span::mixed_site()=>
            #[automatically_derived]
            impl #krate::Aggregate for #ident {}
        },
        _ => TokenStream::new(),
    };
    quote_spanned! {Span::mixed_site()=>
        #messages
        #[automatically_derived]
        impl #krate::Event for #ident {
            const AGGREGATE_TYPE: &'static ::core::primitive::str = "";
            const EVENT_TYPES: &'static [&'static ::core::primitive::str] = &[];
            fn event_type(&self) -> &'static ::core::primitive::str {
                ""
            }
            fn event_version(&self) -> ::core::primitive::i32 {
                1
            }
            fn encode(
                &self,
            ) -> ::core::result::Result<#krate::__private::Bytes, #krate::__private::JsonError> {
                ::core::result::Result::Ok(#krate::__private::nothing())
            }
            fn decode(
                __event: &#krate::PersistedEvent,
            ) -> ::core::result::Result<Self, #krate::DecodeError> {
                ::core::result::Result::Err(#krate::__private::unknown_type(__event, &[]))
            }
        }
        #aggregate
    }
}
