//! Whether sqlx's `FromRow` is derived beside the read model, which implements it.
//!
//! The compiler says only that two implementations conflict (E0119), and not what to remove.

use std::fs;

use proc_macro2::{Ident, Span, TokenStream};
use quote::ToTokens;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Attribute, Data, DeriveInput, Path, Token};

use super::source::derives_of;
use crate::keys;

/// What shows another derive of `FromRow`: attributes, or the name of this derive if the other is in its list
/// or above.
pub(super) fn signs_of_from_row(input: &DeriveInput) -> Vec<TokenStream> {
    let attributes = attributes(input).filter(|one| is_of_sqlx(one) || derives_from_row(one));
    let signs: Vec<_> = attributes.map(ToTokens::to_token_stream).collect();
    if signs.is_empty() && derives_in_source(&input.ident).iter().any(lists_from_row) {
        let this = Ident::new("ReadModel", Span::call_site());
        return vec![this.to_token_stream()];
    }
    signs
}

/// The attributes of the struct and of its fields.
fn attributes(input: &DeriveInput) -> impl Iterator<Item = &Attribute> {
    let fields = match &input.data {
        Data::Struct(data) => data.fields.iter().collect(),
        _ => Vec::new(),
    };
    let of_fields = fields.into_iter().flat_map(|field| &field.attrs);
    input.attrs.iter().chain(of_fields)
}

/// Whether it belongs to the derive of `FromRow`. One with a `type_name` belongs to that of `Type`.
fn is_of_sqlx(attribute: &Attribute) -> bool {
    let text = || attribute.to_token_stream().to_string();
    attribute.path().is_ident(keys::SQLX) && !text().contains("type_name")
}

/// Whether it is another list of derives, of which a derive is given those below its own.
fn derives_from_row(attribute: &Attribute) -> bool {
    let list = attribute.meta.require_list();
    attribute.path().is_ident(keys::DERIVE) && list.is_ok_and(|list| lists_from_row(&list.tokens))
}

/// Whether sqlx's `FromRow` is one of these derives. One of another crate has the crate in its path.
fn lists_from_row(list: &TokenStream) -> bool {
    let paths = Punctuated::<Path, Token![,]>::parse_terminated.parse2(list.clone());
    paths.into_iter().flatten().any(|path| {
        let mut names = path.segments.iter().rev().map(|segment| &segment.ident);
        names.next().is_some_and(|name| name == "FromRow")
            && names.next().is_none_or(|name| name == keys::SQLX)
    })
}

/// The lists of derives on the struct. A derive is given neither the others of its list nor those above, so
/// that they are read from the source.
fn derives_in_source(name: &Ident) -> Vec<TokenStream> {
    let in_file = || {
        let this = Span::call_site().unwrap();
        // As it is imported there.
        let derive = this.source_text()?;
        let source = fs::read_to_string(this.local_file()?).ok()?;
        let source = source.trim_start_matches('\u{feff}').parse().ok()?;
        let derive = derive.rsplit(':').next()?.trim();
        Some(derives_of(source, &name.to_string(), derive))
    };
    // Not in a test of this crate.
    let derives = proc_macro::is_available().then(in_file);
    derives.flatten().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::lists_from_row;

    #[test]
    fn a_derive_of_another_crate_is_not_that_of_sqlx() {
        let is_listed = |list: &str| list.parse().is_ok_and(|list| lists_from_row(&list));
        assert!(is_listed("Debug, FromRow"));
        assert!(is_listed("::consumer::sqlx::FromRow"));
        assert!(!is_listed("other::FromRow, FromRows"));
        assert!(!is_listed("not a list"));
    }
}
