//! What the derive macros share: `attributes` → `validate` → `model` → `expand`, or stubs.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::{DeriveInput, Path};

use crate::crate_path;
use crate::errors::Errors;
use crate::helper::{Helper, Written};

/// A derive macro.
pub(crate) trait Derive {
    /// The values of its helper attribute.
    type Values: Helper;

    /// The validated item.
    type Model;

    /// Checks all rules, even after the first mistake.
    fn validate(
        input: &DeriveInput,
        attributes: &Written<Self::Values>,
        errors: Errors,
    ) -> Result<Self::Model, Errors>;

    /// The implementations.
    fn expand(model: &Self::Model) -> TokenStream;

    /// Implementations that keep the rest of the crate free of follow-on errors after a mistake.
    fn stubs(input: &DeriveInput, krate: &Path) -> TokenStream;
}

pub(crate) fn derive<D: Derive>(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.to_compile_error(),
    };
    let mut errors = Errors::default();
    let attributes = Written::of_item(&input.attrs, &mut errors);
    match D::validate(&input, &attributes, errors) {
        Ok(model) => D::expand(&model),
        Err(errors) => fallback::<D>(&input, &attributes, errors),
    }
}

/// The messages, and the stubs.
fn fallback<D: Derive>(
    input: &DeriveInput,
    attributes: &Written<D::Values>,
    errors: Errors,
) -> TokenStream {
    let messages = errors.into_compile_errors();
    if !input.generics.params.is_empty() {
        return messages;
    }
    let given = attributes.values.crate_path();
    let krate = crate_path::or_default(given.filter(|path| crate_path::is_absolute(path)));
    let stubs = D::stubs(input, &krate);
    quote_spanned! {Span::mixed_site()=> #messages #stubs }
}
