//! The rules of `#[derive(Event)]`.

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::{
    Attribute, Data, DataEnum, DeriveInput, Field, Fields, FieldsUnnamed, Ident, LitInt, LitStr,
    Meta, Type,
};

use super::attributes::{Attributes, Upcast};
use super::model::{Content, Earlier, Format, Model, Shape, Variant};
use crate::crate_path;
use crate::errors::Errors;
use crate::keys;
use crate::types::{last_name, owned, unwrapped};

const NO_VERSION: &str = "`version` takes a whole number from 1 to 2147483647: write `version = 2`";

pub(super) fn validate(
    input: &DeriveInput,
    attributes: &Attributes,
    mut errors: Errors,
) -> Result<Model, Errors> {
    let aggregate = aggregate(input, attributes, &mut errors);
    refuse_generics(input, &mut errors);
    refuse_references(input, &mut errors);
    if let Some(krate) = &attributes.values.krate {
        crate_path::refuse_relative(krate, &mut errors);
    }
    let shape = shape(input, attributes, &mut errors);
    match shape {
        Some(shape) if errors.is_empty() => Ok(Model {
            krate: crate_path::or_default(attributes.values.krate.as_ref()),
            ident: input.ident.clone(),
            aggregate,
            shape,
        }),
        _ => Err(errors),
    }
}

fn aggregate(input: &DeriveInput, attributes: &Attributes, errors: &mut Errors) -> String {
    match &attributes.values.aggregate {
        Some(aggregate) => checked_name(aggregate, keys::AGGREGATE, errors),
        None => {
            if !attributes.seems_given(keys::AGGREGATE) {
                errors.at(
                    &input.ident,
                    format!(
                        "the event `{}` has no aggregate: add `#[event(aggregate = \"User\")]`",
                        input.ident
                    ),
                );
            }
            String::new()
        }
    }
}

fn checked_name(written: &LitStr, key: &str, errors: &mut Errors) -> String {
    let name = written.value();
    let example = match name.trim() {
        "" if key == keys::AGGREGATE => "User",
        "" => "UserRegistered",
        trimmed => trimmed,
    };
    if name.trim().is_empty() || name.trim() != name {
        errors.at(
            written,
            format!("`{key}` must not be empty or have white space around it: write `{key} = \"{example}\"`"),
        );
    }
    name
}

fn refuse_generics(input: &DeriveInput, errors: &mut Errors) {
    if !input.generics.params.is_empty() {
        errors.at(
            &input.generics,
            "an event type cannot be generic: write one type for each event",
        );
    }
}

/// A payload is decoded from bytes that do not live on. A lifetime parameter is reported as such, and
/// with `#[serde(from = "…")]` the fields are not those of the payload.
fn refuse_references(input: &DeriveInput, errors: &mut Errors) {
    let words = serde_words(&input.attrs);
    let is_converted = words
        .iter()
        .any(|word| word == "from" || word == "try_from");
    if is_converted || !input.generics.params.is_empty() {
        return;
    }
    let fields: Vec<&Field> = match &input.data {
        Data::Struct(data) => data.fields.iter().collect(),
        Data::Enum(data) => data.variants.iter().flat_map(|one| &one.fields).collect(),
        Data::Union(_) => return,
    };
    for field in fields {
        let is_read = !serde_words(&field.attrs).iter().any(is_skip);
        if let Some(owned) = owned(&field.ty).filter(|_| is_read) {
            errors.at(
                &field.ty,
                format!("an event owns what is read from its payload: write `{owned}`"),
            );
        }
    }
}

fn shape(input: &DeriveInput, attributes: &Attributes, errors: &mut Errors) -> Option<Shape> {
    match &input.data {
        Data::Struct(data) => structure(input, &data.fields, attributes, errors),
        Data::Enum(data) => {
            refuse_format_on_enum(attributes, errors);
            variants(input, data, errors).map(Shape::Enum)
        }
        Data::Union(data) => {
            errors.at(
                data.union_token,
                "a union cannot be an event: derive `Event` for a struct or an enum",
            );
            None
        }
    }
}

/// A struct obeys the rules of a variant.
fn structure(
    input: &DeriveInput,
    fields: &Fields,
    attributes: &Attributes,
    errors: &mut Errors,
) -> Option<Shape> {
    let format = format(&input.ident, attributes, errors);
    match fields {
        Fields::Unit => {
            refuse_upcast_of_nothing(attributes, errors);
            refuse_representation(&input.attrs, errors);
            format.map(Shape::Unit)
        }
        Fields::Named(_) => format.map(Shape::Struct),
        Fields::Unnamed(fields) => {
            only_type(&input.ident, fields, errors)?;
            format.map(Shape::Struct)
        }
    }
}

fn refuse_format_on_enum(attributes: &Attributes, errors: &mut Errors) {
    for name in [keys::NAME, keys::VERSION, keys::UPCAST] {
        if let Some(key) = attributes.key(name) {
            errors.at(
                key,
                format!("each variant of an enum is its own event: move `{name}` to the variant"),
            );
        }
    }
}

fn variants(input: &DeriveInput, data: &DataEnum, errors: &mut Errors) -> Option<Vec<Variant>> {
    if data.variants.is_empty() {
        errors.at(
            &input.ident,
            "an enum without variants has no events: add a variant for each event of the aggregate",
        );
    }
    if data
        .variants
        .iter()
        .any(|one| matches!(one.fields, Fields::Named(_)))
    {
        refuse_representation(&input.attrs, errors);
    }
    let mut names: Vec<String> = Vec::new();
    let mut variants = Vec::new();
    for (index, written) in (0..).zip(&data.variants) {
        refuse_skipped(&written.attrs, errors);
        let variant = variant(index, written, errors);
        if let Some(name) = variant.as_ref().and_then(own_name) {
            if names.contains(name) {
                errors.at(
                    &written.ident,
                    format!("two variants have the event type `{name}`: give this one another, as in `#[event(name = \"…\")]`"),
                );
            }
            names.push(name.clone());
        }
        variants.push(variant);
    }
    variants.into_iter().collect()
}

/// The event type of a variant, unless it may be that of the type in it.
fn own_name(variant: &Variant) -> Option<&String> {
    match &variant.content {
        Content::Nothing(format) | Content::Fields(format) | Content::Described(_, format) => {
            Some(&format.name)
        }
        Content::Type(..) => None,
    }
}

fn variant(index: u32, written: &syn::Variant, errors: &mut Errors) -> Option<Variant> {
    let attributes = Attributes::of_part(&written.attrs, errors);
    let format = format(&written.ident, &attributes, errors);
    let content = match &written.fields {
        Fields::Unit => {
            refuse_upcast_of_nothing(&attributes, errors);
            refuse_unused(&written.attrs, &written.ident, errors);
            format.map(Content::Nothing)
        }
        Fields::Named(_) => format.map(Content::Fields),
        Fields::Unnamed(fields) => {
            let only = only_type(&written.ident, fields, errors);
            refuse_unused(&written.attrs, &written.ident, errors);
            for field in &fields.unnamed {
                refuse_skipped(&field.attrs, errors);
                refuse_unused(&field.attrs, &written.ident, errors);
            }
            only.zip(format).map(|(ty, format)| {
                if attributes.is_empty() {
                    Content::Type(ty, format)
                } else {
                    Content::Described(ty, format)
                }
            })
        }
    };
    Some(Variant {
        ident: written.ident.clone(),
        index,
        content: content?,
    })
}

/// The type of the only field. Several fields without names would become an array, which cannot grow.
fn only_type(name: &Ident, fields: &FieldsUnnamed, errors: &mut Errors) -> Option<Type> {
    let mut types = fields.unnamed.iter().map(|field| &field.ty);
    match (types.next(), types.next()) {
        (Some(only), None) => Some(only.clone()),
        _ => {
            errors.at(
                fields,
                format!(
                    "the payload of an event needs named fields, so that it can grow: write `{name} {{ … }}`, or `{name}(Data)` with a struct"
                ),
            );
            None
        }
    }
}

fn refuse_upcast_of_nothing(attributes: &Attributes, errors: &mut Errors) {
    if let Some(key) = attributes.key(keys::UPCAST) {
        errors.at(
            key,
            "an event without fields reads every earlier version: remove `upcast`",
        );
    }
}

/// A payload is the content alone: serde must not add a tag to it, and must not convert what has no
/// fields.
fn refuse_representation(attributes: &[Attribute], errors: &mut Errors) {
    const SHAPES: &[&str] = &[
        "tag",
        "content",
        "untagged",
        "from",
        "try_from",
        "into",
        "transparent",
    ];
    for word in serde_words(attributes) {
        if SHAPES.iter().any(|shape| word == shape) {
            errors.at(
                &word,
                format!(
                    "the payload of an event is its fields alone: remove `{word}` from `#[serde(…)]`"
                ),
            );
        }
    }
}

/// The content of a variant without named fields is not written by the enum's `Serialize`, so that
/// what serde's attributes say about it would have no effect.
fn refuse_unused(attributes: &[Attribute], variant: &Ident, errors: &mut Errors) {
    const HARMLESS: &[&str] = &["rename", "rename_all", "alias", "bound", "borrow"];
    for word in serde_words(attributes) {
        if HARMLESS.iter().all(|harmless| word != harmless) && !is_skip(&word) {
            errors.at(
                &word,
                format!(
                    "`#[serde({word})]` has no effect here: write `{variant} {{ … }}` with named fields, or put the content of `{variant}` into a struct with the attribute"
                ),
            );
        }
    }
}

fn is_skip(word: &Ident) -> bool {
    const SKIPS: &[&str] = &[
        "skip",
        "skip_serializing",
        "skip_deserializing",
        "other",
        "untagged",
    ];
    SKIPS.iter().any(|skip| word == skip)
}

fn refuse_skipped(attributes: &[Attribute], errors: &mut Errors) {
    for word in serde_words(attributes).iter().filter(|word| is_skip(word)) {
        errors.at(
            word,
            format!("every variant is written and read: remove `{word}` from `#[serde(…)]`"),
        );
    }
}

/// The keys in `#[serde(…)]`.
fn serde_words(attributes: &[Attribute]) -> Vec<Ident> {
    let mut words = Vec::new();
    for attribute in attributes {
        let Meta::List(list) = &attribute.meta else {
            continue;
        };
        if attribute.path().is_ident(keys::SERDE) {
            words.extend(leading_words(list.tokens.clone()));
        }
    }
    words
}

fn leading_words(tokens: TokenStream) -> Vec<Ident> {
    let mut begins = true;
    let mut words = Vec::new();
    for token in tokens {
        match &token {
            proc_macro2::TokenTree::Ident(word) if begins => words.push(word.clone()),
            _ => {}
        }
        begins = token.to_string() == ",";
    }
    words
}

fn format(ident: &Ident, attributes: &Attributes, errors: &mut Errors) -> Option<Format> {
    let name = match &attributes.values.name {
        Some(name) => checked_name(name, keys::NAME, errors),
        None => syn::ext::IdentExt::unraw(ident).to_string(),
    };
    // Both are checked before either returns, so that both are reported.
    let version = version(attributes, errors);
    let earlier = earlier(attributes, version, errors);
    Some(Format {
        name,
        version: version?,
        earlier: earlier?,
    })
}

fn version(attributes: &Attributes, errors: &mut Errors) -> Option<i32> {
    let Some(written) = &attributes.values.version else {
        return Some(1);
    };
    let version = written
        .base10_parse::<i32>()
        .ok()
        .filter(|version| *version > 0);
    if version.is_none() {
        errors.at(written, NO_VERSION);
    }
    version
}

/// The earlier versions, without a gap. `current` is `None` if it was refused.
fn earlier(
    attributes: &Attributes,
    current: Option<i32>,
    errors: &mut Errors,
) -> Option<Vec<(i32, Earlier)>> {
    let Some(upcasts) = &attributes.values.upcast else {
        return Some(Vec::new());
    };
    let mut earlier: Vec<(i32, Earlier)> = Vec::new();
    for Upcast { version, from } in upcasts {
        let expected = earlier.last().map(|(before, _)| i64::from(*before) + 1);
        earlier.push((next_version(version, expected, errors)?, read_from(from)));
    }
    let (Some((last, _)), Some(written)) = (earlier.last(), upcasts.last()) else {
        errors.at(
            attributes.key(keys::UPCAST).to_token_stream(),
            "`upcast` is empty: write `upcast(1 = UserRegisteredV1)`, or remove it",
        );
        return None;
    };
    let next = i64::from(*last) + 1;
    let current = i64::from(current?);
    if next == current {
        return Some(earlier);
    }
    let message = if attributes.values.version.is_none() {
        format!(
            "`upcast` reads versions up to {last}, so the current one is {next}: add `version = {next}`"
        )
    } else if next > current {
        format!(
            "`upcast` reads versions up to {last}, but the current one is {current}: write `version = {next}`"
        )
    } else {
        format!(
            "`upcast` reads versions up to {last}, but the current one is {current}: add `{next} = …`, or write `version = {next}`"
        )
    };
    errors.at(&written.version, message);
    None
}

/// A path that ends in a word in lower case is that of a function, unless it is a primitive type.
fn read_from(written: &Type) -> Earlier {
    const PRIMITIVES: &[&str] = &[
        "bool", "char", "str", "i8", "i16", "i32", "i64", "i128", "isize", "u8", "u16", "u32",
        "u64", "u128", "usize", "f32", "f64",
    ];
    let names_a_function = |name: String| {
        let name = name.trim_start_matches("r#");
        name.starts_with(|first: char| first.is_lowercase() || first == '_')
            && !PRIMITIVES.contains(&name)
    };
    match unwrapped(written) {
        Type::Path(path)
            if path.qself.is_none() && last_name(written).is_some_and(names_a_function) =>
        {
            Earlier::Function(path.path.clone())
        }
        _ => Earlier::Type(written.clone()),
    }
}

fn next_version(version: &LitInt, expected: Option<i64>, errors: &mut Errors) -> Option<i32> {
    let number = version
        .base10_parse::<i32>()
        .ok()
        .filter(|number| *number >= 0);
    let Some(number) = number else {
        errors.at(version, "an earlier version is a whole number from 0 to 2147483646: write `upcast(1 = UserRegisteredV1)`");
        return None;
    };
    match expected {
        Some(expected) if i64::from(number) != expected => {
            errors.at(
                version,
                format!("`upcast` lists every version in order: the next one is {expected}"),
            );
            None
        }
        _ => Some(number),
    }
}
