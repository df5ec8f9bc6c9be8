//! The types of a read model in generated code, and the checks of them.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::Path;

use crate::model::{Cfgs, Handler, Handlers, KeyPart, RowKey, Rows};
use crate::span::{at, quote_at};

/// The names of the row and of what is required of its key, its table, and the checks.
pub(super) fn rows(krate: &Path, row: &Path, handlers: &Handlers) -> TokenStream {
    let table = table(krate, row);
    let fold = fold_type(krate, handlers);
    let is_row = is_row(krate, row);
    let are_keys = handlers
        .events
        .iter()
        .filter_map(|handler| is_key(krate, handler));
    quote_spanned! {Span::mixed_site()=>
        type __Row = #row;
        #fold
        const __TABLE: ::core::option::Option<&'static #krate::read_model::Table> = #table;
        #is_row
        #(#are_keys)*
    }
}

/// What the implementations assume without being told, so that the checks report each mistake once.
/// The compiler reports an assumption that is false, unless it has a lifetime.
pub(super) fn assumptions(krate: &Path) -> TokenStream {
    quote_spanned! {Span::mixed_site()=>
        for<'__row> __Row: #krate::ReadModel,
        for<'__row> __AggregateKey: #krate::read_model::AggregateKey,
    }
}

/// The type of the row's key.
pub(super) fn key_type(krate: &Path, row: &Path) -> TokenStream {
    quote_at! {krate, at(row) => <__Row as #krate::__private::RowType>::Key }
}

/// What is required of the row, and of its key if a handler takes the aggregate id for it.
fn fold_type(krate: &Path, handlers: &Handlers) -> TokenStream {
    let cfgs: Vec<&Cfgs> = handlers
        .events
        .iter()
        .filter(|handler| handler.rows().is_some_and(Rows::are_of_aggregate))
        .map(|handler| &handler.method.cfgs)
        .collect();
    let by_aggregate_id = quote_spanned! {Span::mixed_site()=>
        type __Fold = #krate::__private::ByAggregateId<__Row>;
    };
    let aggregate_key = quote_spanned! {Span::mixed_site()=>
        type __AggregateKey = <__Row as #krate::ReadModel>::Key;
    };
    let by_key = quote_spanned! {Span::mixed_site()=>
        type __Fold = #krate::__private::ByKey<__Row>;
    };
    let any_key = quote_spanned! {Span::mixed_site()=>
        type __AggregateKey = ::std::string::String;
    };
    if cfgs.is_empty() {
        return quote_spanned! {Span::mixed_site()=> #by_key #any_key };
    }
    if cfgs.iter().any(|cfgs| cfgs.0.is_empty()) {
        return quote_spanned! {Span::mixed_site()=> #by_aggregate_id #aggregate_key };
    }
    let conditions = cfgs.into_iter().map(Cfgs::condition);
    let is_there = quote_spanned! {Span::mixed_site()=> any(#(#conditions),*) };
    quote_spanned! {Span::mixed_site()=>
        #[cfg(#is_there)]
        #by_aggregate_id
        #[cfg(#is_there)]
        #aggregate_key
        #[cfg(not(#is_there))]
        #by_key
        #[cfg(not(#is_there))]
        #any_key
    }
}

/// The table of the rows. A type that is not a read model, which is reported elsewhere, has none.
fn table(krate: &Path, row: &Path) -> TokenStream {
    quote_at! {krate, at(row) =>
        {
            #[allow(unused_imports)]
            use #krate::__private::NoTable as _;
            #krate::__private::TableOf::<__Row>::TABLE
        }
    }
}

/// Checks that the row is a read model.
fn is_row(krate: &Path, row: &Path) -> TokenStream {
    let key = key_type(krate, row);
    quote_at! {krate, at(row) =>
        const _: #krate::__private::KeyCodec<#key> = #krate::__private::KeyCodec::NEW;
    }
}

/// Checks that the aggregate id can be the key of the handler's row.
fn is_key(krate: &Path, handler: &Handler) -> Option<TokenStream> {
    let span = match handler.rows()? {
        Rows::OfAggregate(on) => at(on.path()),
        Rows::Named {
            key: RowKey::One(KeyPart::AggregateId(word)),
            ..
        } => at(word),
        Rows::None | Rows::Named { .. } => return None,
    };
    let cfgs = &handler.method.cfgs;
    Some(quote_at! {krate, span =>
        #cfgs
        const _: fn() = || {
            #[allow(unused_imports)]
            use #krate::__private::NoAggregateId as _;
            #krate::__private::KeysOf::<__Row>::aggregate_id();
        };
    })
}
