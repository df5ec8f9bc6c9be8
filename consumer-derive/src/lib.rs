//! The macros of the `consumer` crate, which re-exports and documents them.

mod args;
mod crate_path;
mod derive;
mod errors;
mod event;
mod expand;
mod fallback;
mod helper;
mod item;
mod keys;
mod model;
mod names;
mod pairs;
mod read_model;
mod span;
mod suggest;
#[cfg(test)]
mod tests;
mod types;
mod unevaluated;
mod validate;

use errors::Errors;
use proc_macro::TokenStream;

/// Declares a consumer. The `consumer` crate documents it.
#[proc_macro_attribute]
pub fn consumer(args: TokenStream, item: TokenStream) -> TokenStream {
    expand_consumer(args.into(), item.into()).into()
}

/// `args`, `item` → `validate` → `model` → `expand`, or `fallback`.
fn expand_consumer(
    args: proc_macro2::TokenStream,
    item: proc_macro2::TokenStream,
) -> proc_macro2::TokenStream {
    let mut errors = Errors::default();
    let item = item::parse(item, &mut errors);
    let args = args::parse(args, &mut errors);
    match validate::validate(&args, &item, errors) {
        Ok(model) => expand::expand(&model, &item),
        Err(errors) => fallback::fallback(&args, item, errors),
    }
}

/// Implements `Event`, and `Aggregate` for an enum. The `consumer` crate documents it.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    event::derive_event(input.into()).into()
}

/// Implements `ReadModel` and sqlx's `FromRow`. The `consumer` crate documents it.
#[proc_macro_derive(ReadModel, attributes(read_model))]
pub fn derive_read_model(input: TokenStream) -> TokenStream {
    read_model::derive_read_model(input.into()).into()
}
