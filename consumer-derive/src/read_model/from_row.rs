//! Whether sqlx's `FromRow` is derived beside the read model, which implements it.
//!
//! The compiler says only that two implementations conflict (E0119), and not what to remove.

use std::fs;

use proc_macro2::{Ident, Span, TokenStream};
use quote::ToTokens;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::{Attribute, Data, DeriveInput, Path, Token};

use crate::keys;

/// What shows another derive of `FromRow`: attributes, or the name of this derive in the same list.
pub(super) fn signs_of_from_row(input: &DeriveInput) -> Vec<TokenStream> {
    let attributes = attributes(input).filter(|one| is_of_sqlx(one) || derives_from_row(one));
    let signs: Vec<_> = attributes.map(ToTokens::to_token_stream).collect();
    if signs.is_empty() && list_of_this_derive().is_some_and(|list| lists_from_row(&list)) {
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

/// The list in which this derive is. A derive is not given the others of its list, so that they are read from
/// the source.
fn list_of_this_derive() -> Option<TokenStream> {
    if !proc_macro::is_available() {
        return None;
    }
    let this = Span::call_site().unwrap();
    let source = fs::read_to_string(this.local_file()?).ok()?;
    list_at(&source, this.line(), this.column())
}

/// The list of derives at a line and a column, both of which start at 1.
fn list_at(source: &str, line: usize, column: usize) -> Option<TokenStream> {
    let lines = source.split_inclusive('\n');
    let start: usize = lines.take(line.checked_sub(1)?).map(str::len).sum();
    let mut characters = source.get(start..)?.char_indices();
    let (in_line, _) = characters.nth(column.checked_sub(1)?)?;
    let before = source.get(..start + in_line)?;
    let derive = before.rfind(keys::DERIVE)?;
    // A derive that another macro wrote has the place of that macro, behind the lists of other items.
    if before.get(derive..)?.contains(')') {
        return None;
    }
    let (_, list) = source.get(derive..)?.split_once('(')?;
    list.split(')').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{list_at, lists_from_row};

    const SOURCE: &str =
        "use x;\n#[derive(Debug)]\n#[derive(ü::ReadModel, // FromRow\n sqlx::FromRow)]\nwritten!{}";

    fn list(line: usize, column: usize) -> Option<String> {
        list_at(SOURCE, line, column).map(|list| list.to_string())
    }

    #[test]
    fn a_list_is_read_without_its_comments() {
        assert_eq!(list(2, 10).as_deref(), Some("Debug"));
        let both = "ü :: ReadModel , sqlx :: FromRow";
        assert_eq!(list(3, 10).as_deref(), Some(both));
        assert_eq!(list(4, 2).as_deref(), Some(both));
        for (line, column) in [(0, 1), (1, 0), (1, 1), (9, 1), (4, 99), (5, 1)] {
            assert_eq!(list(line, column), None);
        }
    }

    #[test]
    fn a_derive_of_another_crate_is_not_that_of_sqlx() {
        let is_listed = |list: &str| list.parse().is_ok_and(|list| lists_from_row(&list));
        assert!(is_listed("Debug, FromRow"));
        assert!(is_listed("::consumer::sqlx::FromRow"));
        assert!(!is_listed("other::FromRow, FromRows"));
        assert!(!is_listed("not a list"));
    }
}
