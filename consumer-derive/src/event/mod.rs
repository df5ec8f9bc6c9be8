//! `#[derive(Event)]`.

mod attributes;
mod expand;
mod model;
mod stubs;
mod validate;
mod variants;

use proc_macro2::TokenStream;
use syn::{DeriveInput, Path};

use self::attributes::{Attributes, Values};
use self::model::Model;
use crate::derive::{Derive, derive};
use crate::errors::Errors;

struct Event;

impl Derive for Event {
    type Values = Values;
    type Model = Model;

    fn validate(
        input: &DeriveInput,
        attributes: &Attributes,
        errors: Errors,
    ) -> Result<Model, Errors> {
        validate::validate(input, attributes, errors)
    }

    fn expand(model: &Model) -> TokenStream {
        expand::expand(model)
    }

    fn stubs(input: &DeriveInput, krate: &Path) -> TokenStream {
        stubs::stubs(input, krate)
    }
}

pub(crate) fn derive_event(input: TokenStream) -> TokenStream {
    derive::<Event>(input)
}
