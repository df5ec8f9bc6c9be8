//! Where generated code says that it stands.

use proc_macro2::{Group, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::spanned::Spanned;

/// A span for generated code that points at what the user wrote. It keeps the macro's hygiene:
/// lints such as `unsafe_code` leave such code alone.
pub(crate) fn at(tokens: impl ToTokens) -> Span {
    Span::mixed_site().located_at(own(tokens))
}

/// The user's own span. The compiler shows the failure of a constant there, and not where the
/// macro was called, if not one token of it has another.
pub(crate) fn own(tokens: impl ToTokens) -> Span {
    tokens.to_token_stream().span()
}

/// The same tokens, all at one place.
pub(crate) fn moved(tokens: impl ToTokens, span: Span) -> TokenStream {
    tokens
        .to_token_stream()
        .into_iter()
        .map(|mut token| {
            if let TokenTree::Group(group) = &token {
                token = Group::new(group.delimiter(), moved(group.stream(), span)).into();
            }
            // What `$crate` means is in its span.
            let place = match &token {
                TokenTree::Ident(word) if word == "$crate" => word.span().located_at(span),
                _ => span,
            };
            token.set_span(place);
            token
        })
        .collect()
}

/// `quote_spanned!` with the path of the crate, which comes from elsewhere, at that place too. An
/// expression whose tokens stand at different places is shown where the macro was called.
macro_rules! quote_at {
    ($krate:ident, $span:expr => $($tokens:tt)*) => {{
        let span = $span;
        let $krate = crate::span::moved($krate, span);
        quote::quote_spanned! {span=> $($tokens)*}
    }};
}

pub(crate) use quote_at;
