//! What the derive implements after a mistake.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::{Data, DeriveInput, Fields, Path, Type};

use super::attributes::Attributes;
use super::from_row::signs_of_from_row;
use crate::errors::Errors;
use crate::keys;
use crate::types::last_name;

pub(super) fn stubs(input: &DeriveInput, krate: &Path) -> TokenStream {
    let ident = &input.ident;
    let key = probable_key(input);
    let from_row = from_row(input, krate);
    quote_spanned! {Span::mixed_site()=>
        const _: () = {
            #[automatically_derived]
            impl #krate::ReadModel for #ident {
                type Key = #key;
                const TABLE: &'static #krate::read_model::Table = #krate::__private::NO_TABLE;
                fn key(&self) -> Self::Key {
                    ::core::unimplemented!()
                }
                fn to_values(
                    &self,
                    _: &mut ::std::vec::Vec<#krate::read_model::Value>,
                ) -> ::core::result::Result<(), #krate::read_model::ColumnError> {
                    ::core::unimplemented!()
                }
                fn from_values(
                    _: ::std::vec::Vec<#krate::read_model::Value>,
                ) -> ::core::result::Result<Self, #krate::read_model::ColumnError> {
                    ::core::unimplemented!()
                }
                fn normalize(
                    &mut self,
                ) -> ::core::result::Result<(), #krate::read_model::ColumnError> {
                    ::core::unimplemented!()
                }
            }
            #from_row
        };
    }
}

/// Nothing if another derive implements it, which is reported.
fn from_row(input: &DeriveInput, krate: &Path) -> TokenStream {
    if !signs_of_from_row(input).is_empty() {
        return TokenStream::new();
    }
    let ident = &input.ident;
    quote_spanned! {Span::mixed_site()=>
        #[automatically_derived]
        impl<'__row, __Row: #krate::sqlx::Row> #krate::sqlx::FromRow<'__row, __Row>
            for #ident
        {
            fn from_row(
                _: &'__row __Row,
            ) -> ::core::result::Result<Self, #krate::sqlx::Error> {
                ::core::unimplemented!()
            }
        }
    }
}

/// The types of the fields that are marked as the key, if each is surely one.
fn probable_key(input: &DeriveInput) -> TokenStream {
    const TYPES: &[&str] = &["String", "Uuid", "i16", "i32", "i64", "NaiveDate"];
    let is_key_type = |ty: &&Type| last_name(ty).is_some_and(|name| TYPES.contains(&name.as_str()));
    let marked = marked_types(input);
    match marked.as_slice() {
        [only] if is_key_type(only) => only.to_token_stream(),
        several if (2..=8).contains(&several.len()) && several.iter().all(is_key_type) => {
            quote_spanned! {Span::mixed_site()=> (#(#several,)*) }
        }
        _ => quote_spanned! {Span::mixed_site()=> ::std::string::String },
    }
}

fn marked_types(input: &DeriveInput) -> Vec<&Type> {
    let Data::Struct(data) = &input.data else {
        return Vec::new();
    };
    let Fields::Named(fields) = &data.fields else {
        return Vec::new();
    };
    let is_marked = |field: &&syn::Field| {
        // The mistakes in it have been reported.
        let attributes = Attributes::of_part(&field.attrs, &mut Errors::default());
        attributes.key(keys::KEY).is_some()
    };
    fields
        .named
        .iter()
        .filter(is_marked)
        .map(|field| &field.ty)
        .collect()
}
