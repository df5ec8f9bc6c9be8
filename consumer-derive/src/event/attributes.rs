//! The arguments of `#[event(…)]`, on the item and on its variants.

use syn::parse::ParseStream;
use syn::punctuated::Punctuated;
use syn::{DeriveInput, Ident, LitInt, LitStr, Path, Token, Type, Variant, parenthesized};

use crate::errors::Errors;
use crate::helper::{Helper, Written};
use crate::keys;
use crate::pairs::expect_equals;
use crate::suggest::{closest, listed};

/// The attribute as it was written, on the item or on a variant.
pub(super) type Attributes = Written<Values>;

/// The values that were written.
#[derive(Default)]
pub(super) struct Values {
    pub(super) aggregate: Option<LitStr>,
    pub(super) name: Option<LitStr>,
    pub(super) version: Option<LitInt>,
    pub(super) upcast: Option<Vec<Upcast>>,
    pub(super) krate: Option<Path>,
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

pub(super) fn of_item(input: &DeriveInput, errors: &mut Errors) -> Attributes {
    Written::read(&input.attrs, ITEM_KEYS, errors)
}

pub(super) fn of_variant(variant: &Variant, errors: &mut Errors) -> Attributes {
    Written::read(&variant.attrs, VARIANT_KEYS, errors)
}

impl Helper for Values {
    const ATTRIBUTE: &'static str = keys::EVENT;
    const EXAMPLE: &'static str = "aggregate = \"User\"";

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

    fn value_of(key: &str) -> (&'static str, &'static str) {
        match key {
            keys::AGGREGATE => ("takes a string", "aggregate = \"User\""),
            keys::NAME => ("takes a string", "name = \"UserRegistered\""),
            keys::VERSION => ("takes a number", "version = 2"),
            keys::UPCAST => (
                "takes a list of versions and their types",
                "upcast(1 = UserRegisteredV1)",
            ),
            _ => ("takes a path", "crate = ::consumer"),
        }
    }

    fn advice(key: &str, known: &[&str]) -> String {
        match closest(key, known) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if ITEM_KEYS.contains(&key) => {
                format!(
                    "write it on the enum; the keys of a variant are {}",
                    listed(known)
                )
            }
            None => format!("the keys are {}", listed(known)),
        }
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
