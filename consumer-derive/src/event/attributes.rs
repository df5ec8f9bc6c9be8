//! The arguments of `#[event(…)]`, on the item and on its variants.

use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{
    Attribute, DeriveInput, Ident, LitInt, LitStr, Meta, Path, Token, Type, Variant, parenthesized,
};

use crate::errors::Errors;
use crate::keys;
use crate::pairs::{
    begins_a_key, expect_equals, is_at_the_end, report_missing_comma, report_second, skip_comma,
    skip_to_comma,
};
use crate::suggest::{closest, listed};

/// The keys as they were written.
#[derive(Default)]
pub(super) struct Attributes {
    pub(super) aggregate: Option<LitStr>,
    pub(super) name: Option<LitStr>,
    pub(super) version: Option<LitInt>,
    pub(super) upcast: Option<Vec<Upcast>>,
    pub(super) krate: Option<Path>,
    /// Every key that was written, even if its value was refused.
    pub(super) keys: Vec<Ident>,
    /// The keys that misspelt ones were probably meant to be.
    meant: Vec<&'static str>,
}

/// `1 = UserRegisteredV1`
pub(super) struct Upcast {
    pub(super) version: LitInt,
    pub(super) ty: Type,
}

const ITEM_KEYS: &[&str] = &[
    keys::AGGREGATE,
    keys::NAME,
    keys::VERSION,
    keys::UPCAST,
    keys::CRATE,
];
const VARIANT_KEYS: &[&str] = &[keys::NAME, keys::VERSION, keys::UPCAST];

impl Attributes {
    pub(super) fn of_item(input: &DeriveInput, errors: &mut Errors) -> Self {
        Self::read(&input.attrs, ITEM_KEYS, errors)
    }

    pub(super) fn of_variant(variant: &Variant, errors: &mut Errors) -> Self {
        Self::read(&variant.attrs, VARIANT_KEYS, errors)
    }

    /// The key, as it was written.
    pub(super) fn key(&self, name: &str) -> Option<&Ident> {
        self.keys.iter().find(|key| *key == name)
    }

    /// Whether the key was written, perhaps misspelt.
    pub(super) fn seems_given(&self, name: &str) -> bool {
        self.key(name).is_some() || self.meant.contains(&name)
    }

    fn read(attributes: &[Attribute], known: &[&'static str], errors: &mut Errors) -> Self {
        let mut read = Self::default();
        for attribute in attributes {
            if !attribute.path().is_ident(keys::EVENT) {
                continue;
            }
            match &attribute.meta {
                Meta::List(list) => read.read_list(list.tokens.clone(), known, errors),
                _ => errors.at(
                    attribute,
                    "`#[event]` needs arguments: write `#[event(aggregate = \"User\")]`",
                ),
            }
        }
        read
    }

    fn read_list(&mut self, tokens: TokenStream, known: &[&'static str], errors: &mut Errors) {
        let parser = |input: ParseStream<'_>| {
            while !input.is_empty() {
                self.read_pair(input, known, errors);
                skip_comma(input);
            }
            Ok(())
        };
        // The parser reads to the end and reports what it finds on the way.
        let _: syn::Result<()> = parser.parse2(tokens);
    }

    fn read_pair(&mut self, input: ParseStream<'_>, known: &[&'static str], errors: &mut Errors) {
        let Ok(key) = input.call(Ident::parse_any) else {
            let odd = skip_to_comma(input);
            errors.at(
                odd,
                "expected a key and its value, as in `aggregate = \"User\"`",
            );
            return;
        };
        let name = key.to_string();
        if !known.contains(&name.as_str()) {
            skip_to_comma(input);
            errors.at(&key, unknown(&name, known));
            self.meant.extend(closest(&name, known));
            return;
        }
        if self.key(&name).is_some() {
            skip_to_comma(input);
            report_second(&key, errors);
            return;
        }
        let written = input.fork();
        let is_read = self.read_value(&key, input, errors).is_ok();
        if is_read && begins_a_key(input) {
            report_missing_comma(input, errors);
        } else if !is_read || !is_at_the_end(input) {
            skip_to_comma(input);
            report_unreadable(&key, skip_to_comma(&written), errors);
        }
        self.keys.push(key);
    }

    fn read_value(
        &mut self,
        key: &Ident,
        input: ParseStream<'_>,
        errors: &mut Errors,
    ) -> syn::Result<()> {
        if key == keys::UPCAST {
            self.upcast = Some(read_upcasts(input)?);
            return Ok(());
        }
        expect_equals(key, input, errors)?;
        match key.to_string().as_str() {
            keys::AGGREGATE => self.aggregate = Some(input.parse()?),
            keys::NAME => self.name = Some(input.parse()?),
            keys::VERSION => self.version = Some(input.parse()?),
            _ => self.krate = Some(input.parse()?),
        }
        Ok(())
    }
}

fn read_upcasts(input: ParseStream<'_>) -> syn::Result<Vec<Upcast>> {
    let content;
    parenthesized!(content in input);
    let upcasts = Punctuated::<Upcast, Token![,]>::parse_terminated_with(&content, |input| {
        let version = input.parse()?;
        input.parse::<Token![=]>()?;
        let ty = input.parse()?;
        Ok(Upcast { version, ty })
    })?;
    Ok(upcasts.into_iter().collect())
}

/// Reports what the key takes, at the tokens that it was given instead.
fn report_unreadable(key: &Ident, written: TokenStream, errors: &mut Errors) {
    let name = key.to_string();
    let example = example(&name);
    let what = match name.as_str() {
        keys::AGGREGATE | keys::NAME => "takes a string",
        keys::VERSION => "takes a number",
        keys::UPCAST => "takes a list of versions and their types",
        _ => "takes a path",
    };
    let mut tokens = written.clone().into_iter();
    match tokens.next() {
        None => errors.at(key, format!("`{name}` needs a value: write `{example}`")),
        Some(TokenTree::Punct(equals)) if ['=', ':'].contains(&equals.as_char()) => {
            let value: TokenStream = tokens.collect();
            let place = if value.is_empty() { written } else { value };
            errors.at(place, format!("`{name}` {what}: write `{example}`"));
        }
        Some(_) => errors.at(written, format!("`{name}` {what}: write `{example}`")),
    }
}

fn example(key: &str) -> &'static str {
    match key {
        keys::AGGREGATE => "aggregate = \"User\"",
        keys::NAME => "name = \"UserRegistered\"",
        keys::VERSION => "version = 2",
        keys::UPCAST => "upcast(1 = UserRegisteredV1)",
        _ => "crate = ::consumer",
    }
}

fn unknown(key: &str, known: &[&str]) -> String {
    let advice = match closest(key, known) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if ITEM_KEYS.contains(&key) => {
            format!(
                "write it on the enum; the keys of a variant are {}",
                listed(known)
            )
        }
        None => format!("the keys are {}", listed(known)),
    };
    format!("`#[event]` has no key `{key}` here: {advice}")
}
