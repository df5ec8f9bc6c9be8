//! The helper attributes of the derive macros, `#[event(…)]` and `#[read_model(…)]`.

use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::{Attribute, Ident, Meta, Path};

use crate::errors::Errors;
use crate::pairs::{
    begins_a_key, is_at_the_end, report_missing_comma, report_second, skip_comma, skip_to_comma,
};
use crate::suggest::{closest, listed};
use crate::unevaluated::unevaluated;

/// What keys of strings and of numbers take.
pub(crate) const A_STRING: &str = "takes a string";
pub(crate) const A_NUMBER: &str = "takes a number";

/// What one helper attribute takes, and the values that were written.
pub(crate) trait Helper: Default {
    /// Its name.
    const ATTRIBUTE: &'static str;

    /// One of its pairs, which messages show.
    const EXAMPLE: &'static str;

    /// The item.
    const ITEM: Place;

    /// A part of the item, which takes the attribute too.
    const PART: Place;

    /// Reads what follows a key. An error means that it is something else.
    fn read_value(
        &mut self,
        key: &Ident,
        input: ParseStream<'_>,
        errors: &mut Errors,
    ) -> syn::Result<()>;

    /// What the key takes, and an example.
    fn value_of(key: &str) -> (&'static str, &'static str);

    /// The value of the key `crate`.
    fn crate_path(&self) -> Option<&Path>;
}

/// Where a helper attribute may stand.
pub(crate) struct Place {
    /// What messages call it.
    pub(crate) called: &'static str,
    /// The keys that are known there.
    pub(crate) keys: &'static [&'static str],
}

/// A helper attribute as it was written.
#[derive(Default)]
pub(crate) struct Written<H> {
    pub(crate) values: H,
    /// Every key that was written, even if its value was refused.
    keys: Vec<Ident>,
    /// The keys that misspelt ones were probably meant to be.
    meant: Vec<&'static str>,
}

impl<H: Helper> Written<H> {
    /// Reads the attribute of the item.
    pub(crate) fn of_item(attributes: &[Attribute], errors: &mut Errors) -> Self {
        Self::read(attributes, H::ITEM.keys, errors)
    }

    /// Reads the attribute of a part of the item.
    pub(crate) fn of_part(attributes: &[Attribute], errors: &mut Errors) -> Self {
        Self::read(attributes, H::PART.keys, errors)
    }

    /// Reads those of the attributes that are this helper, with the keys that are known here.
    fn read(attributes: &[Attribute], known: &[&'static str], errors: &mut Errors) -> Self {
        let mut read = Self::default();
        for attribute in attributes {
            if !attribute.path().is_ident(H::ATTRIBUTE) {
                continue;
            }
            match &attribute.meta {
                Meta::List(list) => read.read_list(list.tokens.clone(), known, errors),
                _ => errors.at(
                    attribute,
                    format!(
                        "`#[{name}]` needs arguments: write `#[{name}({example})]`",
                        name = H::ATTRIBUTE,
                        example = Self::example(known),
                    ),
                ),
            }
        }
        read
    }

    /// The key, as it was written.
    pub(crate) fn key(&self, name: &str) -> Option<&Ident> {
        self.keys.iter().find(|key| *key == name)
    }

    /// Whether the key was written, perhaps misspelt.
    pub(crate) fn seems_given(&self, name: &str) -> bool {
        self.key(name).is_some() || self.meant.contains(&name)
    }

    /// Whether no key was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// An example with a key that is known here.
    fn example(known: &[&str]) -> &'static str {
        if known.iter().any(|key| H::EXAMPLE.starts_with(key)) {
            return H::EXAMPLE;
        }
        known.first().map_or(H::EXAMPLE, |key| H::value_of(key).1)
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
                format!("expected a key and its value, as in `{}`", H::EXAMPLE),
            );
            return;
        };
        let name = key.to_string();
        if !known.contains(&name.as_str()) {
            skip_to_comma(input);
            errors.at(
                &key,
                format!(
                    "`#[{}]` has no key `{name}` here: {}",
                    H::ATTRIBUTE,
                    advice::<H>(&name, known)
                ),
            );
            self.meant.extend(closest(&name, known));
            return;
        }
        if self.key(&name).is_some() {
            skip_to_comma(input);
            report_second(&key, errors);
            return;
        }
        let written = input.fork();
        let is_read = self.values.read_value(&key, input, errors).is_ok();
        if is_read && begins_a_key(input) {
            report_missing_comma(input, errors);
        } else if !is_read || !is_at_the_end(input) {
            skip_to_comma(input);
            report_unreadable::<H>(&key, skip_to_comma(&written), errors);
        }
        self.keys.push(key);
    }
}

/// What to write instead of a key that is not among the known ones.
fn advice<H: Helper>(key: &str, known: &[&str]) -> String {
    if let Some(meant) = closest(key, known) {
        return format!("did you mean `{meant}`?");
    }
    let keys = listed(known);
    let (item, part) = (H::ITEM, H::PART);
    if item.keys.contains(&key) {
        format!(
            "write it on {}; the keys of {} are {keys}",
            item.called, part.called
        )
    } else if part.keys.contains(&key) {
        format!(
            "write it on {}; the keys of {} are {keys}",
            part.called, item.called
        )
    } else {
        format!("the keys are {keys}")
    }
}

/// Reports what the key takes, at the tokens that it was given instead.
fn report_unreadable<H: Helper>(key: &Ident, written: TokenStream, errors: &mut Errors) {
    let name = key.to_string();
    let (what, example) = H::value_of(&name);
    let mut tokens = written.clone().into_iter();
    match tokens.next() {
        None => errors.at(key, format!("`{name}` needs a value: write `{example}`")),
        Some(TokenTree::Punct(equals)) if ['=', ':'].contains(&equals.as_char()) => {
            let value: TokenStream = tokens.collect();
            let is_literal = what == A_STRING || what == A_NUMBER;
            let message = match unevaluated(&value).filter(|_| is_literal) {
                Some(later) => format!(
                    "`{name}` {what}, and this macro runs before {later}: write the value itself, as in `{example}`"
                ),
                None => format!("`{name}` {what}: write `{example}`"),
            };
            errors.at(if value.is_empty() { written } else { value }, message);
        }
        Some(_) => errors.at(written, format!("`{name}` {what}: write `{example}`")),
    }
}
