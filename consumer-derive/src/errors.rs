//! Mistakes, collected so that all of them are reported at once.

use std::fmt::Display;

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;

/// Why a block has either `handle` or `#[on]`. The macro says it, or, where `cfg` decides, generated
/// code does.
pub(crate) const HANDLE_BESIDE_ON: &str = "`handle` takes every event and leaves none for the `#[on]` handlers: remove one or the other, or mark this one `#[on(other)]`";

/// The mistakes found so far, each at its token.
#[derive(Default)]
pub(crate) struct Errors {
    found: Vec<syn::Error>,
}

impl Errors {
    /// Adds a mistake at these tokens.
    pub(crate) fn at(&mut self, tokens: impl ToTokens, message: impl Display) {
        self.found.push(syn::Error::new_spanned(tokens, message));
    }

    /// Adds a mistake at a span that has no tokens of its own.
    pub(crate) fn at_span(&mut self, span: Span, message: impl Display) {
        self.found.push(syn::Error::new(span, message));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// One `compile_error!` for each mistake, in the order of the source.
    pub(crate) fn into_compile_errors(mut self) -> TokenStream {
        self.found.sort_by_key(|mistake| position(mistake.span()));
        self.found
            .iter()
            .map(syn::Error::to_compile_error)
            .collect()
    }
}

/// Line and column; zero in tests, which run outside of the compiler.
fn position(span: Span) -> (usize, usize) {
    if !proc_macro::is_available() {
        return (0, 0);
    }
    let start = span.unwrap().start();
    (start.line(), start.column())
}
