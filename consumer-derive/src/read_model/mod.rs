//! `#[derive(ReadModel)]`.

mod attributes;
mod expand;
mod from_row;
mod model;
mod names;
mod source;
mod stubs;
mod validate;

use proc_macro2::TokenStream;
use syn::{DeriveInput, Path};

use self::attributes::{Attributes, Values};
use self::model::Model;
use crate::derive::{Derive, derive};
use crate::errors::Errors;

struct ReadModel;

impl Derive for ReadModel {
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

pub(crate) fn derive_read_model(input: TokenStream) -> TokenStream {
    derive::<ReadModel>(input)
}
