//! Finds NaN and infinity in a value before `serde_json` writes them as `null`.

use std::fmt::{self, Display};

use serde::ser::{self, Serialize, Serializer};

/// Whether all floating-point numbers in the value are finite. A value whose `Serialize` fails counts
/// as finite: the conversion to JSON reports it.
pub(super) fn is_finite<T: Serialize + ?Sized>(value: &T) -> bool {
    !matches!(value.serialize(Finite), Err(Found::NotFinite))
}

/// Walks through a value.
#[derive(Clone, Copy)]
struct Finite;

/// Why the walk ended early.
#[derive(Debug)]
enum Found {
    NotFinite,
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

fn check(is_finite: bool) -> Walked {
    if is_finite {
        Ok(())
    } else {
        Err(Found::NotFinite)
    }
}

/// Methods for values without floating-point numbers in them.
macro_rules! no_numbers {
    ($($method:ident($($type:ty)?)),+ $(,)?) => {
        $(fn $method(self $(, _: $type)?) -> Walked {
            Ok(())
        })+
    };
}

impl Serializer for Finite {
    type Ok = ();
    type Error = Found;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    no_numbers!(
        serialize_bool(bool),
        serialize_i8(i8),
        serialize_i16(i16),
        serialize_i32(i32),
        serialize_i64(i64),
        serialize_i128(i128),
        serialize_u8(u8),
        serialize_u16(u16),
        serialize_u32(u32),
        serialize_u64(u64),
        serialize_u128(u128),
        serialize_char(char),
        serialize_str(&str),
        serialize_bytes(&[u8]),
        serialize_none(),
        serialize_unit(),
        serialize_unit_struct(&'static str),
    );

    fn serialize_f32(self, value: f32) -> Walked {
        check(value.is_finite())
    }

    fn serialize_f64(self, value: f64) -> Walked {
        check(value.is_finite())
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
        impl ser::$trait for Finite {
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
        impl ser::$trait for Finite {
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
