//! What `#[consumer]` leaves after a mistake: the item as it was, the messages, and stubs that keep
//! the rest of the crate free of follow-on errors.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote_spanned};

use crate::args::Args;
use crate::crate_path;
use crate::errors::Errors;
use crate::item::{Item, is_consumer};

pub(crate) fn fallback(args: &Args, mut item: Item, mut errors: Errors) -> TokenStream {
    // A consumer must not be left unregistered without a message.
    if errors.is_empty() && !is_being_typed(&item) {
        errors.at_span(
            Span::call_site(),
            "`#[consumer]` found no handler here: write `async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result<(), HandlerError>` in an `impl` block",
        );
    }
    if let Item::Impl(block) = &mut item {
        block.keep_one_handle();
    }
    let messages = errors.into_compile_errors();
    let stubs = stubs(args, &item);
    quote_spanned! {Span::mixed_site()=>
        #item
        #messages
        #stubs
    }
}

/// Whether this is a struct that does not parse, which the compiler reports.
fn is_being_typed(item: &Item) -> bool {
    matches!(item, Item::Other(tokens) if tokens.clone().into_iter().any(|word| word.to_string() == "struct"))
}

fn stubs(args: &Args, item: &Item) -> TokenStream {
    let (generics, self_type) = match item {
        Item::Impl(block) if block.implemented.is_none() => {
            (&block.generics, block.self_type.to_token_stream())
        }
        Item::Struct(item) if item.generics.params.is_empty() => {
            (&item.generics, item.ident.to_token_stream())
        }
        _ => return TokenStream::new(),
    };
    let is_applied_twice = item.attributes().iter().any(is_consumer);
    if is_applied_twice || !generics.params.is_empty() {
        return TokenStream::new();
    }
    let krate = args.krate.value();
    let krate = crate_path::or_default(krate.filter(|path| crate_path::is_absolute(path)));
    quote_spanned! {Span::mixed_site()=>
        const _: () = {
            #[automatically_derived]
            impl<__Database: #krate::sqlx::Database> #krate::Consumer<__Database> for #self_type {
                fn name(&self) -> &::core::primitive::str {
                    ""
                }
                async fn handle(
                    &self,
                    _: &#krate::Context,
                    _: &mut <__Database as #krate::sqlx::Database>::Connection,
                    _: &#krate::PersistedEvent,
                ) -> ::core::result::Result<(), #krate::HandlerError> {
                    ::core::result::Result::Ok(())
                }
            }
            #[automatically_derived]
            impl<__Database: #krate::sqlx::Database> #krate::ScopedConsumer<__Database>
                for #self_type
            {
                fn aggregate_types(&self) -> &[&::core::primitive::str] {
                    &[]
                }
            }
        };
    }
}
