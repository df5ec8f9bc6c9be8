//! The values of columns, independent of a driver.

use chrono::{DateTime, NaiveDate, Utc};
use uuid::Uuid;

/// The value of one column of a row, as it travels between a [`ReadModel`](crate::ReadModel) and a
/// database.
///
/// Two values are equal if the database stores the same, which holds for values in their
/// [stored form](super::Field::normalize).
///
/// ```
/// use consumer::read_model::{Field, Value};
///
/// assert_eq!("ada".to_owned().to_value()?, Value::Text("ada".into()));
/// assert_eq!(None::<i64>.to_value()?, Value::Null);
/// # Ok::<(), consumer::read_model::FieldError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// The absence of a value, in a nullable column.
    Null,
    /// A boolean.
    Bool(bool),
    /// A 16-bit integer.
    I16(i16),
    /// A 32-bit integer.
    I32(i32),
    /// A 64-bit integer.
    I64(i64),
    /// A 32-bit floating-point number.
    F32(f32),
    /// A 64-bit floating-point number.
    F64(f64),
    /// A text; also the value of a [`ColumnType::Other`](super::ColumnType::Other).
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A UUID.
    Uuid(Uuid),
    /// A point in time.
    Timestamp(DateTime<Utc>),
    /// A date.
    Date(NaiveDate),
    /// A JSON text.
    Json(String),
}

impl Value {
    /// How many bytes of memory it occupies.
    pub(crate) fn memory(&self) -> usize {
        let heap = match self {
            Self::Text(text) | Self::Json(text) => text.capacity(),
            Self::Bytes(bytes) => bytes.capacity(),
            _ => 0,
        };
        size_of::<Self>() + heap
    }

    /// The kind of value, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Bool(_) => "a boolean",
            Self::I16(_) | Self::I32(_) | Self::I64(_) => "an integer",
            Self::F32(_) | Self::F64(_) => "a floating-point number",
            Self::Text(_) => "a text",
            Self::Bytes(_) => "bytes",
            Self::Uuid(_) => "a UUID",
            Self::Timestamp(_) => "a timestamp",
            Self::Date(_) => "a date",
            Self::Json(_) => "JSON",
        }
    }
}
