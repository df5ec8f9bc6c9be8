//! The arguments of `#[read_model(…)]`, on the struct and on its fields.

use syn::parse::ParseStream;
use syn::{DeriveInput, Field, Ident, LitStr, Path};

use crate::errors::Errors;
use crate::helper::{Helper, Written};
use crate::keys;
use crate::pairs::expect_equals;
use crate::suggest::{closest, listed};

/// The attribute as it was written, on the struct or on a field.
pub(super) type Attributes = Written<Values>;

/// The values that were written. `key`, `index` and `position` have none.
#[derive(Default)]
pub(super) struct Values {
    pub(super) table: Option<LitStr>,
    pub(super) krate: Option<Path>,
    pub(super) sql_type: Option<LitStr>,
    pub(super) rename: Option<LitStr>,
}

const ITEM_KEYS: &[&str] = &[keys::TABLE, keys::CRATE];
const FIELD_KEYS: &[&str] = &[
    keys::KEY,
    keys::INDEX,
    keys::POSITION,
    keys::SQL_TYPE,
    keys::RENAME,
];

pub(super) fn of_item(input: &DeriveInput, errors: &mut Errors) -> Attributes {
    Written::read(&input.attrs, ITEM_KEYS, errors)
}

pub(super) fn of_field(field: &Field, errors: &mut Errors) -> Attributes {
    Written::read(&field.attrs, FIELD_KEYS, errors)
}

impl Helper for Values {
    const ATTRIBUTE: &'static str = keys::READ_MODEL;
    const EXAMPLE: &'static str = "table = \"users\"";

    fn read_value(
        &mut self,
        key: &Ident,
        input: ParseStream<'_>,
        errors: &mut Errors,
    ) -> syn::Result<()> {
        let name = key.to_string();
        if is_flag(&name) {
            return Ok(());
        }
        expect_equals(key, input, errors)?;
        match name.as_str() {
            keys::TABLE => self.table = Some(input.parse()?),
            keys::SQL_TYPE => self.sql_type = Some(input.parse()?),
            keys::RENAME => self.rename = Some(input.parse()?),
            _ => self.krate = Some(input.parse()?),
        }
        Ok(())
    }

    fn value_of(key: &str) -> (&'static str, &'static str) {
        match key {
            keys::TABLE => ("takes a string", "table = \"users\""),
            keys::KEY => ("takes no value", "key"),
            keys::INDEX => ("takes no value", "index"),
            keys::POSITION => ("takes no value", "position"),
            keys::SQL_TYPE => ("takes a string", "sql_type = \"numeric(20, 2)\""),
            keys::RENAME => ("takes a string", "rename = \"email\""),
            _ => ("takes a path", "crate = ::consumer"),
        }
    }

    fn advice(key: &str, known: &[&str]) -> String {
        if let Some(meant) = closest(key, known) {
            return format!("did you mean `{meant}`?");
        }
        let keys = listed(known);
        if ITEM_KEYS.contains(&key) {
            return format!("write it on the struct; the keys of a field are {keys}");
        }
        if FIELD_KEYS.contains(&key) {
            return format!("write it on a field; the keys of the struct are {keys}");
        }
        format!("the keys are {keys}")
    }
}

fn is_flag(key: &str) -> bool {
    [keys::KEY, keys::INDEX, keys::POSITION].contains(&key)
}
