//! What `#[event(…)]` says, on the item and on its variants.

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::{
    Attribute, DeriveInput, Ident, LitInt, LitStr, Meta, Path, Token, Type, Variant, parenthesized,
};

use crate::errors::Errors;
use crate::suggest::{closest, listed};

/// The keys as they were written.
#[derive(Default)]
pub(super) struct Attributes {
    pub(super) aggregate: Option<LitStr>,
    pub(super) name: Option<LitStr>,
    pub(super) version: Option<LitInt>,
    pub(super) upcast: Option<Vec<Upcast>>,
    pub(super) krate: Option<Path>,
    /// Every key that was written, also with a value that was refused.
    pub(super) keys: Vec<Ident>,
}

/// `1 = UserRegisteredV1`
pub(super) struct Upcast {
    pub(super) version: LitInt,
    pub(super) ty: Type,
}

const ITEM_KEYS: &[&str] = &["aggregate", "name", "version", "upcast", "crate"];
const VARIANT_KEYS: &[&str] = &["name", "version", "upcast"];

impl Attributes {
    pub(super) fn of_item(input: &DeriveInput, errors: &mut Errors) -> Self {
        Self::read(&input.attrs, ITEM_KEYS, errors)
    }

    pub(super) fn of_variant(variant: &Variant, errors: &mut Errors) -> Self {
        Self::read(&variant.attrs, VARIANT_KEYS, errors)
    }

    /// The key, where it was written.
    pub(super) fn key(&self, name: &str) -> Option<&Ident> {
        self.keys.iter().find(|key| *key == name)
    }

    fn read(attributes: &[Attribute], known: &[&str], errors: &mut Errors) -> Self {
        let mut read = Self::default();
        for attribute in attributes {
            if !attribute.path().is_ident("event") {
                continue;
            }
            match &attribute.meta {
                Meta::List(list) => read.read_list(list.tokens.clone(), known, errors),
                _ => errors.at(attribute, "write `#[event(aggregate = \"User\")]`"),
            }
        }
        read
    }

    fn read_list(&mut self, tokens: TokenStream, known: &[&str], errors: &mut Errors) {
        let parser = |input: ParseStream<'_>| {
            while !input.is_empty() {
                self.read_pair(input, known, errors);
                if !input.is_empty() && input.parse::<Token![,]>().is_err() {
                    let odd = skip_to_comma(input);
                    errors.at(odd, "expected `,` between two keys");
                    let _ = input.parse::<Token![,]>();
                }
            }
            Ok(())
        };
        // The parser reads to the end and reports what it finds on the way.
        let _: syn::Result<()> = parser.parse2(tokens);
    }

    fn read_pair(&mut self, input: ParseStream<'_>, known: &[&str], errors: &mut Errors) {
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
            // A misspelt key is not reported as missing beside.
            let meant = closest(&name, known).map(|meant| Ident::new(meant, key.span()));
            self.keys
                .extend(meant.filter(|meant| self.key(&meant.to_string()).is_none()));
            return;
        }
        if self.key(&name).is_some() {
            skip_to_comma(input);
            errors.at(
                &key,
                format!("`{name}` is given twice: remove one of the two"),
            );
            return;
        }
        let written = input.fork();
        if self.read_value(&name, input).is_err() || !(input.is_empty() || input.peek(Token![,])) {
            skip_to_comma(input);
            let message = format!("`{name}` cannot be read: write `{}`", example(&name));
            let odd = skip_to_comma(&written);
            if odd.is_empty() {
                errors.at(&key, message);
            } else {
                errors.at(odd, message);
            }
        }
        self.keys.push(key);
    }

    fn read_value(&mut self, name: &str, input: ParseStream<'_>) -> syn::Result<()> {
        if name == "upcast" {
            self.upcast = Some(read_upcasts(input)?);
            return Ok(());
        }
        input.parse::<Token![=]>()?;
        match name {
            "aggregate" => self.aggregate = Some(input.parse()?),
            "name" => self.name = Some(input.parse()?),
            "version" => self.version = Some(input.parse()?),
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

fn example(key: &str) -> &'static str {
    match key {
        "aggregate" => "aggregate = \"User\"",
        "name" => "name = \"UserRegistered\"",
        "version" => "version = 2",
        "upcast" => "upcast(1 = UserRegisteredV1)",
        _ => "crate = ::consumer",
    }
}

fn unknown(key: &str, known: &[&str]) -> String {
    let advice = match closest(key, known) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if ITEM_KEYS.contains(&key) => {
            format!("it stands on the enum; a variant has {}", listed(known))
        }
        None => format!("the keys are {}", listed(known)),
    };
    format!("`#[event]` has no key `{key}` here: {advice}")
}

fn skip_to_comma(input: ParseStream<'_>) -> TokenStream {
    let mut skipped = TokenStream::new();
    while !input.is_empty() && !input.peek(Token![,]) {
        match input.parse::<TokenTree>() {
            Ok(token) => skipped.extend([token]),
            Err(_) => break,
        }
    }
    skipped
}

/// Where to point when the derive itself is incomplete.
pub(super) fn place(input: &DeriveInput) -> Span {
    input.ident.span()
}
