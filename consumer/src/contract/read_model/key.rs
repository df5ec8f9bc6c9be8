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

/// A key as [`ReadModel::find`](super::ReadModel::find) takes it: by value or by reference, and a `String` as a
/// `&str`. The parts of a key with several are a tuple, each in one of these forms.
///
/// ```
/// use consumer::read_model::IntoKey;
///
/// fn key<K>(given: impl IntoKey<K>) -> K {
///     given.into_key()
/// }
///
/// let id: String = key("ada");
/// assert_eq!(key::<String>(&id), "ada");
/// let line: (String, i64) = key((&id, 7));
/// assert_eq!(key::<(String, i64)>(&line), ("ada".to_owned(), 7));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name a row, whose key is `{K}`",
    label = "not `{K}`",
    note = "pass a `{K}` or a reference to one; a `String` may be given as a `&str`, and a key with several parts as a tuple of them, in the order of the fields marked `#[read_model(key)]`"
)]
pub trait IntoKey<K>: Send {
    /// Returns the key.
    fn into_key(self) -> K;
}

#[diagnostic::do_not_recommend]
impl<K: Key> IntoKey<K> for &K {
    fn into_key(self) -> K {
        self.clone()
    }
}

#[diagnostic::do_not_recommend]
impl IntoKey<String> for &str {
    fn into_key(self) -> String {
        self.to_owned()
    }
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

        #[diagnostic::do_not_recommend]
        impl IntoKey<$type> for $type {
            fn into_key(self) -> $type {
                self
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

/// Implements [`Key`] for a tuple, and [`IntoKey`] for one of what its parts are given as.
macro_rules! tuple {
    ($($part:ident $given:ident),+) => {
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

        #[diagnostic::do_not_recommend]
        impl<$($part: KeyField, $given: IntoKey<$part>),+> IntoKey<($($part,)+)> for ($($given,)+) {
            #[allow(non_snake_case)]
            fn into_key(self) -> ($($part,)+) {
                let ($($given,)+) = self;
                ($($given.into_key(),)+)
            }
        }
    };
}

tuple!(A S, B T);
tuple!(A S, B T, C U);
tuple!(A S, B T, C U, D V);
tuple!(A S, B T, C U, D V, E W);
tuple!(A S, B T, C U, D V, E W, F X);
tuple!(A S, B T, C U, D V, E W, F X, G Y);
tuple!(A S, B T, C U, D V, E W, F X, G Y, H Z);

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
