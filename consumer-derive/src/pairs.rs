//! The syntax that the attributes share: `key = value` pairs with commas between them.

use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::ParseStream;
use syn::{Ident, Token};

use crate::errors::Errors;

/// Everything up to the next comma, which stays.
pub(crate) fn skip_to_comma(input: ParseStream<'_>) -> TokenStream {
    let mut skipped = TokenStream::new();
    while !input.is_empty() && !input.peek(Token![,]) {
        match input.parse::<TokenTree>() {
            Ok(token) => skipped.extend([token]),
            Err(_) => break,
        }
    }
    skipped
}

/// Consumes the comma. Its absence has been reported.
pub(crate) fn skip_comma(input: ParseStream<'_>) {
    let _: syn::Result<Token![,]> = input.parse();
}

/// Whether a value has ended.
pub(crate) fn is_at_the_end(input: ParseStream<'_>) -> bool {
    input.is_empty() || input.peek(Token![,])
}

/// Whether the next key follows, without the comma before it.
pub(crate) fn begins_a_key(input: ParseStream<'_>) -> bool {
    input.peek(Ident::peek_any)
}

/// Reports a missing comma at the token after it, which stays.
pub(crate) fn report_missing_comma(input: ParseStream<'_>, errors: &mut Errors) {
    if let Ok(next) = input.fork().parse::<TokenTree>() {
        errors.at(&next, format!("expected `,` before `{next}`"));
    }
}

/// Reports a key that the attribute has already.
pub(crate) fn report_second(key: &Ident, errors: &mut Errors) {
    errors.at(
        key,
        format!("`{key}` is given twice: remove one of the two"),
    );
}

/// Consumes `=`. A `:` in its place is reported and consumed, so that the value is checked too.
pub(crate) fn expect_equals(
    key: &Ident,
    input: ParseStream<'_>,
    errors: &mut Errors,
) -> syn::Result<()> {
    if let Ok(colon) = input.parse::<Token![:]>() {
        errors.at(colon, format!("expected `=` after `{key}`, found `:`"));
        return Ok(());
    }
    input.parse::<Token![=]>().map(drop)
}
