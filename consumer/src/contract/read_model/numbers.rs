//! Finds numbers that would not be the same after JSON: `serde_json` writes NaN and infinity as `null`,
//! and reads an integer of more than 64 bits as a floating-point number.

use std::fmt::{self, Display};

use serde::ser::{self, Serialize, Serializer};

use super::error::FieldError;

/// Refuses a value with a number that JSON would change. A value whose `Serialize` fails passes: the
/// conversion to JSON reports it.
pub(super) fn check<T: Serialize + ?Sized>(value: &T) -> Result<(), FieldError> {
    match value.serialize(Numbers) {
        Err(Found::Changed(error)) => Err(error),
        Err(Found::Failure) | Ok(()) => Ok(()),
    }
}

/// Walks through a value.
#[derive(Clone, Copy)]
struct Numbers;

/// Why the walk ended early.
#[derive(Debug)]
enum Found {
    Changed(FieldError),
    Failure,
}

impl Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the walk ended early")
    }
}

impl std::error::Error for Found {}

impl ser::Error for Found {
    fn custom<T: Display>(_: T) -> Self {
        Self::Failure
    }
}

type Walked = Result<(), Found>;

fn finite(is_finite: bool) -> Walked {
    if is_finite {
        Ok(())
    } else {
        Err(Found::Changed(FieldError::NotFinite))
    }
}

fn of_64_bits<T: Copy + Display + TryInto<i64> + TryInto<u64>>(value: T) -> Walked {
    if TryInto::<i64>::try_into(value).is_ok() || TryInto::<u64>::try_into(value).is_ok() {
        Ok(())
    } else {
        Err(Found::Changed(FieldError::TooLarge(value.to_string())))
    }
}

/// Methods for values that JSON does not change, as far as their numbers are concerned.
macro_rules! unchanged {
    ($($method:ident($($type:ty)?)),+ $(,)?) => {
        $(fn $method(self $(, _: $type)?) -> Walked {
            Ok(())
        })+
    };
}

impl Serializer for Numbers {
    type Ok = ();
    type Error = Found;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    unchanged!(
        serialize_bool(bool),
        serialize_i8(i8),
        serialize_i16(i16),
        serialize_i32(i32),
        serialize_i64(i64),
        serialize_u8(u8),
        serialize_u16(u16),
        serialize_u32(u32),
        serialize_u64(u64),
        serialize_char(char),
        serialize_str(&str),
        serialize_bytes(&[u8]),
        serialize_none(),
        serialize_unit(),
        serialize_unit_struct(&'static str),
    );

    fn serialize_i128(self, value: i128) -> Walked {
        of_64_bits(value)
    }

    fn serialize_u128(self, value: u128) -> Walked {
        of_64_bits(value)
    }

    fn serialize_f32(self, value: f32) -> Walked {
        finite(value.is_finite())
    }

    fn serialize_f64(self, value: f64) -> Walked {
        finite(value.is_finite())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Walked {
        value.serialize(self)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Walked {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Walked {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Walked {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Found> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Found> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Found> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Found> {
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Found> {
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Found> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Found> {
        Ok(self)
    }

    fn collect_str<T: Display + ?Sized>(self, _: &T) -> Walked {
        Ok(())
    }
}

/// Implements a compound whose parts are values without names.
macro_rules! compound {
    ($trait:ident::$method:ident $(, $key:ident)?) => {
        impl ser::$trait for Numbers {
            type Ok = ();
            type Error = Found;

            $(fn $key<T: Serialize + ?Sized>(&mut self, _: &T) -> Walked {
                Ok(())
            })?

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Walked {
                value.serialize(*self)
            }

            fn end(self) -> Walked {
                Ok(())
            }
        }
    };
}

compound!(SerializeSeq::serialize_element);
compound!(SerializeTuple::serialize_element);
compound!(SerializeTupleStruct::serialize_field);
compound!(SerializeTupleVariant::serialize_field);
compound!(SerializeMap::serialize_value, serialize_key);

/// Implements a compound whose parts are values with names.
macro_rules! named {
    ($trait:ident) => {
        impl ser::$trait for Numbers {
            type Ok = ();
            type Error = Found;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                _: &'static str,
                value: &T,
            ) -> Walked {
                value.serialize(*self)
            }

            fn end(self) -> Walked {
                Ok(())
            }
        }
    };
}

named!(SerializeStruct);
named!(SerializeStructVariant);
