//! What the derive implements after a mistake.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::{Data, DataEnum, DeriveInput, Fields, Ident, Path, Type};

use super::variants;

pub(super) fn stubs(input: &DeriveInput, krate: &Path) -> TokenStream {
    let ident = &input.ident;
    let aggregate = match &input.data {
        Data::Enum(data) => aggregate(krate, ident, data),
        _ => TokenStream::new(),
    };
    quote_spanned! {Span::mixed_site()=>
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
            ) -> ::core::result::Result<#krate::__private::Bytes, #krate::__private::serde_json::Error> {
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

fn aggregate(krate: &Path, ident: &Ident, data: &DataEnum) -> TokenStream {
    let named: Vec<_> = data
        .variants
        .iter()
        .map(|variant| (&variant.ident, only_type(&variant.fields)))
        .collect();
    let variants = variants::implementations(krate, ident, &named);
    quote_spanned! {Span::mixed_site()=>
        #[automatically_derived]
        impl #krate::Aggregate for #ident {}
        #variants
    }
}

/// The type of the only field without a name.
fn only_type(fields: &Fields) -> Option<&Type> {
    let Fields::Unnamed(fields) = fields else {
        return None;
    };
    let mut types = fields.unnamed.iter().map(|field| &field.ty);
    types.next().filter(|_| types.next().is_none())
}
