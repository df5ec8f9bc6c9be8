//! The derives that the source has on an item, which the compiler does not pass to another derive.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::{Meta, parse2};

use crate::keys;

/// The lists of derives on the structs of that name in a source, if one of the lists has that derive. A derive
/// under a condition is in none of them.
pub(super) fn derives_of(source: TokenStream, name: &str, derive: &str) -> Vec<TokenStream> {
    let mut lists = Vec::new();
    let mut attributes: Vec<TokenStream> = Vec::new();
    let mut tokens = source.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(sign) if sign.as_char() == '#' => {}
            TokenTree::Ident(word) if word == "pub" => {}
            TokenTree::Group(group) => match group.delimiter() {
                Delimiter::Bracket => attributes.push(group.stream()),
                delimiter => {
                    // After `pub`, perhaps.
                    if delimiter != Delimiter::Parenthesis {
                        attributes.clear();
                    }
                    lists.extend(derives_of(group.stream(), name, derive));
                }
            },
            TokenTree::Ident(word) if word == "struct" => {
                let is_named =
                    |token: &TokenTree| matches!(token, TokenTree::Ident(own) if own == name);
                let of_item = std::mem::take(&mut attributes);
                if tokens.peek().is_some_and(is_named)
                    && of_item.iter().any(|attribute| contains(attribute, derive))
                {
                    lists.extend(of_item.into_iter().filter_map(list));
                }
            }
            _ => attributes.clear(),
        }
    }
    lists
}

/// The list of an attribute `#[derive(…)]`.
fn list(attribute: TokenStream) -> Option<TokenStream> {
    match parse2(attribute) {
        Ok(Meta::List(list)) if list.path.is_ident(keys::DERIVE) => Some(list.tokens),
        _ => None,
    }
}

/// Whether a name is anywhere in an attribute.
fn contains(attribute: &TokenStream, name: &str) -> bool {
    attribute.clone().into_iter().any(|token| match token {
        TokenTree::Ident(word) => word == name,
        TokenTree::Group(group) => contains(&group.stream(), name),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::derives_of;

    fn assert_derives(source: &str, expected: &[&str]) {
        let tokens = source.parse().unwrap();
        let found = derives_of(tokens, "User", "ReadModel");
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{source}");
    }

    #[test]
    fn all_lists_of_the_item_are_found() {
        for between in [
            "",
            "// #[derive(Comment)]\n",
            "/// `#[derive(Doc)]`)\n",
            "#[doc = r#\"\"] #[derive(Text)]\"#]",
            "#[cfg_attr(any(), derive(Never))]",
        ] {
            let attributes = format!("#[derive(A, B)]{between}#[derive(x::ReadModel)]{between}");
            for item in ["struct User;", "pub(crate) struct User { id: i64 }"] {
                for place in [
                    format!("struct Other {{}} {attributes} {item}"),
                    format!("mod inner {{ {attributes} {item} }}"),
                    format!("fn test() {{ {attributes} {item} }}"),
                ] {
                    assert_derives(&place, &["A , B", "x :: ReadModel"]);
                }
            }
        }
        assert_derives(
            "#[derive(A)] #[cfg_attr(all(), derive(ReadModel))] struct User;",
            &["A"],
        );
    }

    #[test]
    fn the_lists_of_other_items_are_not() {
        for other in [
            "#[derive(A, ReadModel)] struct Users;",
            "#[derive(A, ReadModel)] struct Users {} struct User;",
            "#[derive(A, ReadModel)] enum Users {} struct User;",
            // Of the same name, in another module.
            "#[derive(A)] struct User;",
            "fn user() { User }",
            "rows! { #[derive(A)] User }",
        ] {
            assert_derives(other, &[]);
        }
    }
}
