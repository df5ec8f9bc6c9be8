//! The implementations of `ReadModel` and of sqlx's `FromRow`.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::{Path, Type};

use super::model::{Column, Content, Model, Role};
use crate::span::{at, own, quote_at};

pub(super) fn expand(model: &Model) -> TokenStream {
    let krate = &model.krate;
    let read_model = read_model(model);
    let from_row = from_row(model);
    let documentation = documentation(model);
    quote_spanned! {Span::mixed_site()=>
        #[cfg(doc)]
        const _: () = { #documentation };
        #[cfg(not(doc))]
        #[allow(deprecated, unused_qualifications)]
        const _: () = {
            // For a key of another type, which is reported at the type.
            #[allow(unused_imports)]
            use #krate::__private::NoKeyCodec as _;
            #read_model
            #from_row
        };
    }
}

fn read_model(model: &Model) -> TokenStream {
    let Model {
        krate,
        ident,
        table,
        columns,
    } = model;
    let key_type = key_type(model);
    let key = key(model);
    let described = columns.iter().map(|column| described(krate, column));
    let written = columns.iter().map(|column| {
        let (field, codec) = (&column.field, codec(krate, column));
        quote_spanned! {at(field)=> #codec.write(&self.#field, &mut __columns)?; }
    });
    let read = columns.iter().map(|column| {
        let (field, codec) = (&column.field, codec(krate, column));
        quote_spanned! {at(field)=> #field: #codec.read(&mut __columns)?, }
    });
    let normalized = columns.iter().map(|column| {
        let (field, codec) = (&column.field, codec(krate, column));
        quote_spanned! {at(field)=> #codec.normalize(&mut self.#field, &mut __columns)?; }
    });
    let set_position = set_position(model);
    let are_parts = are_parts(model);
    quote_spanned! {Span::mixed_site()=>
        #[automatically_derived]
        #[allow(trivial_bounds)]
        impl #krate::ReadModel for #ident #are_parts {
            type Key = #key_type;
            const TABLE: &'static #krate::read_model::Table =
                &#krate::read_model::Table::new(#table, &[#(#described),*]);

            fn key(&self) -> Self::Key {
                #key
            }

            fn to_values(
                &self,
                __values: &mut ::std::vec::Vec<#krate::read_model::Value>,
            ) -> ::core::result::Result<(), #krate::read_model::ColumnError> {
                let mut __columns =
                    #krate::read_model::ColumnWriter::new(<Self as #krate::ReadModel>::TABLE, __values);
                #(#written)*
                ::core::result::Result::Ok(())
            }

            fn from_values(
                __values: ::std::vec::Vec<#krate::read_model::Value>,
            ) -> ::core::result::Result<Self, #krate::read_model::ColumnError> {
                let mut __columns =
                    #krate::read_model::ColumnReader::new(<Self as #krate::ReadModel>::TABLE, __values);
                ::core::result::Result::Ok(Self { #(#read)* })
            }

            fn normalize(
                &mut self,
            ) -> ::core::result::Result<(), #krate::read_model::ColumnError> {
                let mut __columns =
                    #krate::read_model::ColumnNormalizer::new(<Self as #krate::ReadModel>::TABLE);
                #(#normalized)*
                ::core::result::Result::Ok(())
            }

            #set_position
        }
    }
}

/// What rustdoc shows: the implementations without the bounds that exist for the compiler's messages. It
/// compiles no bodies.
fn documentation(model: &Model) -> TokenStream {
    let Model { krate, ident, .. } = model;
    let key_type = key_type(model);
    // A row may be called `R` itself.
    let row = match ident.to_string().as_str() {
        "R" => quote_spanned! {Span::mixed_site()=> Row },
        _ => quote_spanned! {Span::mixed_site()=> R },
    };
    quote_spanned! {Span::mixed_site()=>
        impl #krate::ReadModel for #ident {
            type Key = #key_type;
            const TABLE: &'static #krate::read_model::Table = ::core::unimplemented!();
            fn key(&self) -> Self::Key {
                ::core::unimplemented!()
            }
            fn to_values(
                &self,
                values: &mut ::std::vec::Vec<#krate::read_model::Value>,
            ) -> ::core::result::Result<(), #krate::read_model::ColumnError> {
                ::core::unimplemented!()
            }
            fn from_values(
                values: ::std::vec::Vec<#krate::read_model::Value>,
            ) -> ::core::result::Result<Self, #krate::read_model::ColumnError> {
                ::core::unimplemented!()
            }
            fn normalize(
                &mut self,
            ) -> ::core::result::Result<(), #krate::read_model::ColumnError> {
                ::core::unimplemented!()
            }
        }
        impl<'r, #row: #krate::sqlx::Row> #krate::sqlx::FromRow<'r, #row> for #ident {
            fn from_row(row: &'r #row) -> ::core::result::Result<Self, #krate::sqlx::Error> {
                ::core::unimplemented!()
            }
        }
    }
}

/// `where String: KeyField, Uuid: KeyField` for a key with several parts: the compiler reports a wrong
/// part at its type, and not at the tuple.
fn are_parts(model: &Model) -> TokenStream {
    if model.keys().nth(1).is_none() {
        return TokenStream::new();
    }
    let krate = &model.krate;
    let parts = model.keys().map(|column| {
        let ty = column.content.ty();
        quote_at! {krate, own(ty) => #ty: #krate::read_model::KeyField, }
    });
    quote_spanned! {Span::mixed_site()=> where #(#parts)* }
}

/// The type of the only key field, or a tuple.
fn key_type(model: &Model) -> TokenStream {
    let types: Vec<&Type> = model.keys().map(|column| column.content.ty()).collect();
    match types.as_slice() {
        [only] => only.to_token_stream(),
        several => quote_spanned! {Span::mixed_site()=> (#(#several,)*) },
    }
}

fn key(model: &Model) -> TokenStream {
    let parts: Vec<TokenStream> = model
        .keys()
        .map(|column| {
            let (field, codec) = (&column.field, codec(&model.krate, column));
            quote_spanned! {at(field)=> #codec.copy(&self.#field) }
        })
        .collect();
    match parts.as_slice() {
        [only] => only.clone(),
        several => quote_spanned! {Span::mixed_site()=> (#(#several,)*) },
    }
}

/// The column in the description of the table.
fn described(krate: &Path, column: &Column) -> TokenStream {
    let name = &column.name;
    let codec = codec(krate, column);
    let indexed = column
        .is_indexed
        .then(|| quote_spanned! {Span::mixed_site()=> .indexed() });
    quote_spanned! {at(column.content.ty())=> #codec.column(#name) #indexed }
}

/// Every mention of a field's type is this one expression, so that a mistake in the type is reported
/// once.
fn codec(krate: &Path, column: &Column) -> TokenStream {
    let ty = column.content.ty();
    match (&column.content, column.role) {
        (Content::Native(_), Role::Key) => quote_at! {krate, at(ty) =>
            #krate::__private::KeyCodec::<#ty>::CODEC
        },
        (Content::Native(_), Role::Position) => quote_at! {krate, at(ty) =>
            #krate::__private::position_codec::<#ty>()
        },
        (Content::Native(_), Role::Plain) => quote_at! {krate, at(ty) =>
            #krate::__private::codec::<#ty>()
        },
        (Content::Converted(_, sql_type), _) => quote_at! {krate, at(ty) =>
            #krate::__private::text_codec::<#ty>(#sql_type)
        },
        (Content::ConvertedOption(_, sql_type), _) => quote_at! {krate, at(ty) =>
            #krate::__private::optional_text_codec::<#ty>(#sql_type)
        },
    }
}

fn set_position(model: &Model) -> TokenStream {
    let krate = &model.krate;
    model
        .columns
        .iter()
        .filter(|column| column.role == Role::Position)
        .map(|column| {
            let (field, codec) = (&column.field, codec(krate, column));
            quote_spanned! {at(field)=>
                fn set_position(&mut self, __position: ::core::primitive::i64) {
                    #codec.set(&mut self.#field, __position);
                }
            }
        })
        .collect()
}

/// `FromRow` for the rows of every database that can decode the fields.
fn from_row(model: &Model) -> TokenStream {
    let Model {
        krate,
        ident,
        columns,
        ..
    } = model;
    let bounds = distinct_types(columns).into_iter().map(|ty| {
        quote_at! {krate, at(&ty) =>
            #ty: #krate::sqlx::Decode<'__row, <__Row as #krate::sqlx::Row>::Database>
                + #krate::sqlx::Type<<__Row as #krate::sqlx::Row>::Database>,
        }
    });
    let fields = columns.iter().map(|column| {
        let (field, name) = (&column.field, &column.name);
        quote_spanned! {at(field)=> #field: #krate::sqlx::Row::try_get(__row, #name)?, }
    });
    quote_spanned! {Span::mixed_site()=>
        #[automatically_derived]
        impl<'__row, __Row: #krate::sqlx::Row> #krate::sqlx::FromRow<'__row, __Row> for #ident
        where
            for<'__name> &'__name ::core::primitive::str: #krate::sqlx::ColumnIndex<__Row>,
            #(#bounds)*
        {
            fn from_row(
                __row: &'__row __Row,
            ) -> ::core::result::Result<Self, #krate::sqlx::Error> {
                ::core::result::Result::Ok(Self { #(#fields)* })
            }
        }
    }
}

/// The types of the fields, each once.
fn distinct_types(columns: &[Column]) -> Vec<TokenStream> {
    let mut types: Vec<TokenStream> = Vec::new();
    for column in columns {
        let ty = column.content.ty();
        let ty = match column.content {
            Content::Native(_) | Content::Converted(..) => ty.to_token_stream(),
            Content::ConvertedOption(..) => {
                quote_spanned! {own(ty)=> ::core::option::Option<#ty> }
            }
        };
        if !types
            .iter()
            .any(|before| before.to_string() == ty.to_string())
        {
            types.push(ty);
        }
    }
    types
}
