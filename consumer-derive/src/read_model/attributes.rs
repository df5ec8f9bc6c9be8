//! The arguments of `#[read_model(…)]`, on the struct and on its fields.

use syn::parse::ParseStream;
use syn::{Ident, LitStr, Path};

use crate::errors::Errors;
use crate::helper::{A_STRING, Helper, Place, Written};
use crate::keys;
use crate::pairs::expect_equals;

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

impl Helper for Values {
    const ATTRIBUTE: &'static str = keys::READ_MODEL;
    const EXAMPLE: &'static str = "table = \"users\"";
    const ITEM: Place = Place {
        called: "the struct",
        keys: ITEM_KEYS,
    };
    const PART: Place = Place {
        called: "a field",
        keys: FIELD_KEYS,
    };

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
            keys::TABLE => (A_STRING, "table = \"users\""),
            keys::KEY => ("takes no value", "key"),
            keys::INDEX => ("takes no value", "index"),
            keys::POSITION => ("takes no value", "position"),
            keys::SQL_TYPE => (A_STRING, "sql_type = \"numeric(20, 2)\""),
            keys::RENAME => (A_STRING, "rename = \"email\""),
            _ => ("takes a path", "crate = ::consumer"),
        }
    }

    fn crate_path(&self) -> Option<&Path> {
        self.krate.as_ref()
    }
}

fn is_flag(key: &str) -> bool {
    [keys::KEY, keys::INDEX, keys::POSITION].contains(&key)
}
