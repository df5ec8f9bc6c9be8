//! The arguments of `#[event(…)]`, on the item and on its variants.

use syn::parse::ParseStream;
use syn::punctuated::Punctuated;
use syn::{Ident, LitInt, LitStr, Path, Token, Type, parenthesized};

use crate::errors::Errors;
use crate::helper::{A_NUMBER, A_STRING, Helper, Place, Written};
use crate::keys;
use crate::pairs::expect_equals;

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

/// `1 = UserRegisteredV1`, or `1 = upcasts::registered`
pub(super) struct Upcast {
    pub(super) version: LitInt,
    /// A type, or the path of a function, which looks like one.
    pub(super) from: Type,
}

const ITEM_KEYS: &[&str] = &[
    keys::AGGREGATE,
    keys::NAME,
    keys::VERSION,
    keys::UPCAST,
    keys::CRATE,
];
const VARIANT_KEYS: &[&str] = &[keys::NAME, keys::VERSION, keys::UPCAST];

impl Helper for Values {
    const ATTRIBUTE: &'static str = keys::EVENT;
    const EXAMPLE: &'static str = "aggregate = \"User\"";
    const ITEM: Place = Place {
        called: "the enum",
        keys: ITEM_KEYS,
    };
    const PART: Place = Place {
        called: "a variant",
        keys: VARIANT_KEYS,
    };

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
            keys::AGGREGATE => (A_STRING, "aggregate = \"User\""),
            keys::NAME => (A_STRING, "name = \"UserRegistered\""),
            keys::VERSION => (A_NUMBER, "version = 2"),
            keys::UPCAST => (
                "takes a list of versions, each with its type or a function",
                "upcast(1 = UserRegisteredV1)",
            ),
            _ => ("takes a path", "crate = ::consumer"),
        }
    }

    fn crate_path(&self) -> Option<&Path> {
        self.krate.as_ref()
    }
}

fn read_upcasts(input: ParseStream<'_>) -> syn::Result<Vec<Upcast>> {
    let content;
    parenthesized!(content in input);
    let upcasts = Punctuated::<Upcast, Token![,]>::parse_terminated_with(&content, |input| {
        let version = input.parse()?;
        input.parse::<Token![=]>()?;
        let from = input.parse()?;
        Ok(Upcast { version, from })
    })?;
    Ok(upcasts.into_iter().collect())
}
