//! The fields of a row, and the columns that hold them.

use chrono::{DateTime, Datelike as _, NaiveDate, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::types::Json;
use uuid::Uuid;

use super::column_type::ColumnType;
use super::error::FieldError;
use super::json;
use super::value::Value;

/// The type of a field that a column can hold.
///
/// Implemented for `String`, `bool`, `i16`, `i32`, `i64`, `f32`, `f64`, `Vec<u8>`, [`Uuid`],
/// `DateTime<Utc>`, [`NaiveDate`], [`serde_json::Value`], sqlx's [`Json`], and `Option` of these.
/// A field of another type sets `sql_type`, or its type delegates to one of these:
///
/// ```
/// use consumer::read_model::{ColumnType, Field, FieldError, Value};
///
/// struct Email(String);
///
/// impl Field for Email {
///     const COLUMN_TYPE: ColumnType = ColumnType::Text;
///
///     fn normalize(&mut self) -> Result<(), FieldError> {
///         self.0.normalize()
///     }
///
///     fn to_value(&self) -> Result<Value, FieldError> {
///         self.0.to_value()
///     }
///
///     fn from_value(value: Value) -> Result<Self, FieldError> {
///         String::from_value(value).map(Self)
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "a read model has no column for a field of type `{Self}`",
    label = "no column type",
    note = "use `String`, `bool`, `i16`, `i32`, `i64`, `f32`, `f64`, `Vec<u8>`, `Uuid`, `DateTime<Utc>`, `NaiveDate`, `serde_json::Value`, `Json<T>`, or an `Option` of these",
    note = "for a type with `Display` and `FromStr`, name the database's type: `#[read_model(sql_type = \"numeric(20, 2)\")]`"
)]
pub trait Field: Sized {
    /// The type of the column.
    const COLUMN_TYPE: ColumnType;

    /// Whether the column may be NULL.
    const NULLABLE: bool = false;

    /// Gives the field the value that it has once it has been stored and read again.
    ///
    /// Timestamps are floored to microseconds, -0.0 becomes 0.0, and JSON is converted to text and
    /// back. It is called after each handler, so that a handler sees the same row whether or not it
    /// was stored in between.
    ///
    /// # Errors
    /// If no database can store the value, which fails the event.
    fn normalize(&mut self) -> Result<(), FieldError>;

    /// Returns the value of the column; called on fields in their stored form.
    ///
    /// # Errors
    /// If the value cannot be converted.
    fn to_value(&self) -> Result<Value, FieldError>;

    /// Reads the field from the value of its column.
    ///
    /// # Errors
    /// If the column holds another type or value than the field can.
    fn from_value(value: Value) -> Result<Self, FieldError>;
}

/// Implements [`Field`] for a type that is the content of one variant of [`Value`].
macro_rules! field {
    ($type:ty, $variant:ident, $expected:literal, $normalize:expr) => {
        impl Field for $type {
            const COLUMN_TYPE: ColumnType = ColumnType::$variant;

            #[inline]
            fn normalize(&mut self) -> Result<(), FieldError> {
                $normalize(self)
            }

            fn to_value(&self) -> Result<Value, FieldError> {
                Ok(Value::$variant(self.clone()))
            }

            fn from_value(value: Value) -> Result<Self, FieldError> {
                match value {
                    Value::$variant(value) => Ok(value),
                    other => Err(other_type($expected, &other)),
                }
            }
        }
    };
}

field!(bool, Bool, "a boolean", stored_as_is);
field!(i16, I16, "an `i16`", stored_as_is);
field!(i32, I32, "an `i32`", stored_as_is);
field!(i64, I64, "an `i64`", stored_as_is);
field!(f32, F32, "an `f32`", number_f32);
field!(f64, F64, "an `f64`", number_f64);
field!(String, Text, "a text", text);
field!(Vec<u8>, Bytes, "bytes", stored_as_is);
field!(Uuid, Uuid, "a UUID", stored_as_is);
field!(DateTime<Utc>, Timestamp, "a timestamp", timestamp);
field!(NaiveDate, Date, "a date", date);

impl Field for serde_json::Value {
    const COLUMN_TYPE: ColumnType = ColumnType::Json;

    fn normalize(&mut self) -> Result<(), FieldError> {
        *self = json::read(&json::stored_text(self)?)?;
        Ok(())
    }

    fn to_value(&self) -> Result<Value, FieldError> {
        json::stored_text(self).map(Value::Json)
    }

    fn from_value(value: Value) -> Result<Self, FieldError> {
        from_json(value)
    }
}

impl<T: Serialize + DeserializeOwned> Field for Json<T> {
    const COLUMN_TYPE: ColumnType = ColumnType::Json;

    fn normalize(&mut self) -> Result<(), FieldError> {
        self.0 = json::read(&json::stored_text(&self.0)?)?;
        Ok(())
    }

    fn to_value(&self) -> Result<Value, FieldError> {
        json::stored_text(&self.0).map(Value::Json)
    }

    fn from_value(value: Value) -> Result<Self, FieldError> {
        from_json(value).map(Self)
    }
}

impl<T: Field> Field for Option<T> {
    const COLUMN_TYPE: ColumnType = T::COLUMN_TYPE;

    const NULLABLE: bool = {
        assert!(
            !T::NULLABLE,
            "a column cannot hold an `Option` in an `Option`: it has only one NULL"
        );
        true
    };

    #[inline]
    fn normalize(&mut self) -> Result<(), FieldError> {
        self.as_mut().map_or(Ok(()), T::normalize)
    }

    fn to_value(&self) -> Result<Value, FieldError> {
        self.as_ref().map_or(Ok(Value::Null), T::to_value)
    }

    fn from_value(value: Value) -> Result<Self, FieldError> {
        match value {
            Value::Null => Ok(None),
            value => T::from_value(value).map(Some),
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "other types can fail")]
fn stored_as_is<T>(_: &mut T) -> Result<(), FieldError> {
    Ok(())
}

fn text(text: &mut str) -> Result<(), FieldError> {
    if text.contains('\0') {
        return Err(FieldError::Nul);
    }
    Ok(())
}

/// Without NaN and -0.0, numbers that are equal have the same bits.
fn number_f32(number: &mut f32) -> Result<(), FieldError> {
    if number.is_nan() {
        return Err(FieldError::NotANumber);
    }
    *number += 0.0;
    Ok(())
}

fn number_f64(number: &mut f64) -> Result<(), FieldError> {
    if number.is_nan() {
        return Err(FieldError::NotANumber);
    }
    *number += 0.0;
    Ok(())
}

/// The smallest unit of Postgres's `timestamptz` is the microsecond, and it has no leap seconds.
fn timestamp(time: &mut DateTime<Utc>) -> Result<(), FieldError> {
    let floored = DateTime::from_timestamp_micros(time.timestamp_micros());
    let Some(floored) = floored.filter(|floored| has_four_digits(floored.year())) else {
        return Err(FieldError::OutOfRange(time.to_rfc3339()));
    };
    *time = floored;
    Ok(())
}

fn date(date: &mut NaiveDate) -> Result<(), FieldError> {
    if has_four_digits(date.year()) {
        return Ok(());
    }
    Err(FieldError::OutOfRange(date.to_string()))
}

/// SQLite stores dates as text, whose order is that of the dates only with four digits.
fn has_four_digits(year: i32) -> bool {
    (1..=9999).contains(&year)
}

fn from_json<T: DeserializeOwned>(value: Value) -> Result<T, FieldError> {
    match value {
        Value::Json(text) => json::read(&text),
        other => Err(other_type("JSON", &other)),
    }
}

fn other_type(expected: &'static str, found: &Value) -> FieldError {
    let found = found.kind();
    FieldError::OtherType { expected, found }
}
