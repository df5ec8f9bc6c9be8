//! The keys of rows.

use std::any::type_name;
use std::error::Error;
use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::str::FromStr;

use chrono::NaiveDate;
use uuid::Uuid;

use super::error::{FieldError, KeyError};
use super::field::Field;
use super::value::Value;

/// The type of a field that can be (part of) the key.
///
/// Implemented for `String`, [`Uuid`], `i16`, `i32`, `i64` and [`NaiveDate`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of a read model, or part of it",
    label = "not a key",
    note = "the key, or each part of it, is a `String`, `Uuid`, `i16`, `i32`, `i64` or `NaiveDate`",
    note = "a type of your own is not a key: give the field the type that it contains, and convert it in the handlers"
)]
pub trait KeyField: Field + Ord + Hash + Clone + Debug + Display + Send + Sync + 'static {}

/// The key of a row: a [`KeyField`], or a tuple of 2 to 8 of them in the order of the key's columns.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of a read model",
    label = "not a key",
    note = "the key is a `String`, `Uuid`, `i16`, `i32`, `i64` or `NaiveDate`, or several fields of these types"
)]
pub trait Key: Clone + Ord + Hash + Debug + Send + Sync + 'static {
    /// Appends the values of the key's columns.
    ///
    /// # Errors
    /// If no database can store one of them.
    fn to_values(&self, values: &mut Vec<Value>) -> Result<(), FieldError>;

    /// Returns the key as messages show it, such as `7` or `(7, ada)`.
    fn to_text(&self) -> String;
}

/// A key that an aggregate id can be read as: any that is not a tuple.
#[diagnostic::on_unimplemented(
    message = "an aggregate id cannot be the key `{Self}`",
    label = "the key has several parts",
    note = "say which row the event is about: `#[on(key = (aggregate_id, event.payload.day))]`"
)]
pub trait AggregateKey: Key {
    /// Reads the key from an aggregate id.
    ///
    /// # Errors
    /// If the id is not one of this type.
    fn from_aggregate_id(id: &str) -> Result<Self, KeyError>;
}

/// Implements the key traits for a type with one field.
macro_rules! key {
    ($($type:ty),+) => {$(
        impl KeyField for $type {}

        impl Key for $type {
            fn to_values(&self, values: &mut Vec<Value>) -> Result<(), FieldError> {
                values.push(stored(self)?);
                Ok(())
            }

            fn to_text(&self) -> String {
                self.to_string()
            }
        }

        impl AggregateKey for $type {
            fn from_aggregate_id(id: &str) -> Result<Self, KeyError> {
                parse(id)
            }
        }
    )+};
}

key!(String, Uuid, i16, i32, i64, NaiveDate);

/// Implements [`Key`] for a tuple.
macro_rules! tuple {
    ($($part:ident)+) => {
        impl<$($part: KeyField),+> Key for ($($part,)+) {
            #[allow(non_snake_case)]
            fn to_values(&self, values: &mut Vec<Value>) -> Result<(), FieldError> {
                let ($($part,)+) = self;
                $(values.push(stored($part)?);)+
                Ok(())
            }

            #[allow(non_snake_case)]
            fn to_text(&self) -> String {
                let ($($part,)+) = self;
                let parts = [$($part.to_string()),+];
                format!("({})", parts.join(", "))
            }
        }
    };
}

tuple!(A B);
tuple!(A B C);
tuple!(A B C D);
tuple!(A B C D E);
tuple!(A B C D E F);
tuple!(A B C D E F G);
tuple!(A B C D E F G H);

/// The stored form of a part, which for a key is the part itself.
fn stored<K: KeyField>(part: &K) -> Result<Value, FieldError> {
    part.clone().normalize()?;
    part.to_value()
}

fn parse<K>(id: &str) -> Result<K, KeyError>
where
    K: FromStr<Err: Error + Send + Sync + 'static>,
{
    id.parse().map_err(|error: K::Err| KeyError {
        id: id.to_owned(),
        type_name: type_name::<K>(),
        source: error.into(),
    })
}
