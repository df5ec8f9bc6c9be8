//! The rules: they turn the parsed input into a [`Model`], or report every mistake in it.

mod block;
mod connection;
mod event;
mod fold;
mod keys;
mod method;
mod parameter;
mod signature;

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, ItemStruct, Path, PathArguments, Type};

use crate::args::{self, Args};
use crate::errors::Errors;
use crate::item::{ImplBlock, Item, is_consumer};
use crate::model::{Body, Choice, Construction, Database, Model};
use crate::names::snake_case;
use crate::types::{last_name, unwrapped};

/// Checks all rules, even after the first mistake.
pub(crate) fn validate(args: &Args, item: &Item, mut errors: Errors) -> Result<Model, Errors> {
    let errors_of = &mut errors;
    let name = keys::name(args, suggested_name(item).as_deref(), errors_of);
    let krate = keys::crate_path(args, errors_of);
    let version = keys::version(args, errors_of);
    let scope = keys::scope(args, errors_of);
    let settings = keys::settings(args, errors_of);
    let group = keys::group(args, errors_of);
    let formerly = keys::formerly(args, &name, errors_of);
    refuse_second_attribute(item.attributes(), errors_of);
    let subject = subject(args, item, errors_of);

    match subject {
        Some(subject) if errors.is_empty() => Ok(Model {
            krate,
            name,
            version,
            group,
            formerly,
            scope,
            settings,
            construction: construction(args, item, &subject.self_type),
            self_type: subject.self_type,
            databases: subject.databases,
            body: subject.body,
        }),
        _ => Err(errors),
    }
}

/// The parts of the model that the item determines.
struct Subject {
    self_type: Type,
    databases: Vec<Choice>,
    body: Body,
}

fn subject(args: &Args, item: &Item, errors: &mut Errors) -> Option<Subject> {
    match item {
        Item::Impl(block) => impl_subject(args, block, errors),
        Item::Struct(item) => struct_subject(args, item, errors),
        Item::Other(tokens) => {
            refuse_item(tokens, errors);
            None
        }
    }
}

fn impl_subject(args: &Args, block: &ImplBlock, errors: &mut Errors) -> Option<Subject> {
    if let Some(key) = args.database.key() {
        errors.at(
            key,
            "`database` is a key for structs: remove it, since the type of `tx` determines the database of an `impl` block",
        );
    }
    refuse_trait(block, errors)?;
    refuse_generics(block, errors);
    let handlers = block::handlers(args, block, errors)?;
    Some(Subject {
        self_type: block.self_type.clone(),
        databases: block::databases(&handlers),
        body: Body::Handlers(handlers),
    })
}

fn struct_subject(args: &Args, item: &ItemStruct, errors: &mut Errors) -> Option<Subject> {
    let name = &item.ident;
    if !item.generics.params.is_empty() {
        errors.at(
            &item.generics,
            "a generic consumer cannot be registered: implement `Consumer` by hand and pass instances to `Worker::builder(…).consumer(…)`",
        );
    }
    if let Some(key) = args.read_model.key() {
        errors.at(
            key,
            "`read_model` is a key for `impl` blocks: put `#[consumer(…)]` on an `impl` block with `#[on]` methods, or implement `Fold` and call `fold_batch` by hand",
        );
    }
    let database = match args.database.value() {
        Some(args::Database::Any) => Database::Any,
        Some(args::Database::One(database)) => Database::Named(database.clone()),
        None => {
            if args.database.key().is_none() {
                errors.at(
                    name,
                    "the database of this consumer is missing: add `database = Sqlite`, the database of its `Handler`, or `database = any` if it implements `Handler` for all",
                );
            }
            return None;
        }
    };
    Some(Subject {
        self_type: syn::parse_quote!(#name),
        databases: vec![Choice::always(database)],
        body: Body::ByHand(keys::ignored(args, errors)),
    })
}

fn refuse_item(tokens: &TokenStream, errors: &mut Errors) {
    const TARGETS: &str = "put `#[consumer(…)]` on an `impl` block with an `async fn handle`, or on a struct that implements `Handler`";
    const KINDS: &[&str] = &[
        "fn", "enum", "trait", "mod", "type", "const", "static", "use", "union", "struct",
    ];
    let kind = tokens
        .clone()
        .into_iter()
        .find(|word| KINDS.contains(&word.to_string().as_str()));
    match kind {
        // A struct that does not parse is still being typed. The compiler reports it.
        Some(kind) if is_struct(&kind) => {}
        Some(kind) => errors.at(&kind, format!("`{kind}` cannot be a consumer: {TARGETS}")),
        None => errors.at_span(
            Span::call_site(),
            format!("`#[consumer]` cannot be on this item: {TARGETS}"),
        ),
    }
}

fn is_struct(word: &TokenTree) -> bool {
    matches!(word, TokenTree::Ident(word) if word == "struct")
}

/// `None` if this is a trait implementation, whose functions are not handlers.
fn refuse_trait(block: &ImplBlock, errors: &mut Errors) -> Option<()> {
    let Some(implemented) = &block.implemented else {
        return Some(());
    };
    let self_type = block.self_type.to_token_stream();
    errors.at(
        implemented,
        format!(
            "`#[consumer]` cannot be on a trait implementation: write `impl {self_type} {{ … }}` with an `async fn handle`, or put `#[consumer]` on the struct and implement `Handler` by hand"
        ),
    );
    None
}

fn refuse_generics(block: &ImplBlock, errors: &mut Errors) {
    if !block.generics.params.is_empty() {
        errors.at(
            &block.generics.params,
            "a generic consumer cannot be registered: name a concrete type, as in `impl Projection<User>`, or implement `Consumer` by hand and pass instances to `Worker::builder(…).consumer(…)`",
        );
    }
}

fn refuse_second_attribute(attributes: &[Attribute], errors: &mut Errors) {
    for attribute in attributes {
        if is_consumer(attribute) {
            errors.at(
                attribute,
                "`#[consumer]` is applied twice: write one with all keys",
            );
        }
    }
}

fn construction(args: &Args, item: &Item, self_type: &Type) -> Construction {
    match (args.init.value(), item) {
        (Some(init), _) => Construction::Init(init.clone()),
        (None, Item::Struct(_) | Item::Impl(_)) => match plain_path(self_type) {
            Some(path) => Construction::UnitOrDefault(path.clone()),
            None => Construction::Default,
        },
        (None, Item::Other(_)) => Construction::Default,
    }
}

/// The path of a type without arguments: a `use` can name it, and it may be a unit struct.
fn plain_path(self_type: &Type) -> Option<&Path> {
    match unwrapped(self_type) {
        Type::Path(ty) if ty.qself.is_none() => {
            let plain = ty
                .path
                .segments
                .iter()
                .all(|segment| matches!(segment.arguments, PathArguments::None));
            plain.then_some(&ty.path)
        }
        _ => None,
    }
}

/// A name made of the type's, for the message about a missing one; `None` if it would be refused.
fn suggested_name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Impl(block) => last_name(&block.self_type)?,
        Item::Struct(item) => item.ident.to_string(),
        Item::Other(_) => return None,
    };
    let name = snake_case(ident.trim_start_matches("r#"));
    keys::mistake_in_name(&name).is_none().then_some(name)
}

#[cfg(test)]
mod tests {
    use super::suggested_name;
    use crate::errors::Errors;
    use crate::item;

    fn suggested(item: &str) -> Option<String> {
        suggested_name(&item::parse(item.parse().unwrap(), &mut Errors::default()))
    }

    #[test]
    fn a_suggested_name_obeys_the_rule_of_names() {
        let of = |ident: &str| suggested(&format!("struct {ident};"));
        assert_eq!(of("UserReadModel").as_deref(), Some("user_read_model"));
        assert_eq!(of("HTTPLog2Model").as_deref(), Some("http_log2_model"));
        assert_eq!(of("r#Type").as_deref(), Some("type"));
        assert_eq!(of("Übersicht"), None);
        assert_eq!(suggested("impl crate::Users {}").as_deref(), Some("users"));
    }
}
