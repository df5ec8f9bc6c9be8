//! The spans of generated code, which decide where the compiler reports a mistake.

use proc_macro2::{Group, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::spanned::Spanned;

/// A span that points at the user's tokens and keeps the macro's hygiene, so that lints such as
/// `unsafe_code` ignore the generated code.
pub(crate) fn at(tokens: impl ToTokens) -> Span {
    Span::mixed_site().located_at(own(tokens))
}

/// The user's own span. The compiler reports a failing constant there only if every token of it has
/// this span; otherwise it points at the macro call.
pub(crate) fn own(tokens: impl ToTokens) -> Span {
    tokens.to_token_stream().span()
}

/// The same tokens, all with one span.
pub(crate) fn moved(tokens: impl ToTokens, span: Span) -> TokenStream {
    tokens
        .to_token_stream()
        .into_iter()
        .map(|mut token| {
            if let TokenTree::Group(group) = &token {
                token = Group::new(group.delimiter(), moved(group.stream(), span)).into();
            }
            // The hygiene of its span decides what `$crate` means.
            let target = match &token {
                TokenTree::Ident(word) if word == "$crate" => word.span().located_at(span),
                _ => span,
            };
            token.set_span(target);
            token
        })
        .collect()
}

/// `quote_spanned!` that moves the path of the crate to the span too. The compiler reports an
/// expression whose tokens have different spans at the macro call.
macro_rules! quote_at {
    ($krate:ident, $span:expr => $($tokens:tt)*) => {{
        let span = $span;
        let $krate = crate::span::moved($krate, span);
        quote::quote_spanned! {span=> $($tokens)*}
    }};
}

pub(crate) use quote_at;
