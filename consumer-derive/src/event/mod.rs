//! `#[derive(Event)]`: `attributes` → `validate` → `model` → `expand`, or `fallback`.

mod attributes;
mod expand;
mod fallback;
mod model;
mod validate;

use proc_macro2::TokenStream;
use syn::DeriveInput;

use crate::errors::Errors;

pub(crate) fn derive(input: TokenStream) -> TokenStream {
    let input: DeriveInput = match syn::parse2(input) {
        Ok(input) => input,
        Err(error) => return error.to_compile_error(),
    };
    let mut errors = Errors::default();
    let attributes = attributes::of_item(&input, &mut errors);
    match validate::validate(&input, &attributes, errors) {
        Ok(model) => expand::expand(&model),
        Err(errors) => fallback::fallback(&input, &attributes, errors),
    }
}
