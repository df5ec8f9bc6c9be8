//! The content of an enum's variant: written and read without the tag that serde puts around it.

use bytes::Bytes;
use serde::Serialize;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, VariantAccess, Visitor,
};
use serde::ser::{Error as _, Impossible, SerializeStruct, SerializeStructVariant, Serializer};

use super::PersistedEvent;
use super::typed::{DecodeError, ReadPayload, WritePayload, nothing_follows, unreadable};

/// Writes the content of a variant of the enum `T`.
#[doc(hidden)]
pub fn encode_variant<T: WritePayload>(value: &T) -> Result<Bytes, serde_json::Error> {
    let mut payload = Vec::new();
    let mut json = serde_json::Serializer::new(&mut payload);
    value.serialize(VariantSerializer(&mut json))?;
    Ok(payload.into())
}

/// Reads the payload as the content of the variant at this index of the enum `T`.
#[doc(hidden)]
pub fn decode_variant<T: ReadPayload>(
    event: &PersistedEvent,
    index: u32,
) -> Result<T, DecodeError> {
    let mut json = serde_json::Deserializer::from_slice(&event.payload);
    let mut track = serde_path_to_error::Track::new();
    let content = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let decoded = T::deserialize(VariantDeserializer { index, content })
        .map_err(|error| unreadable(event, track.path(), error))?;
    nothing_follows(event, &mut json)?;
    Ok(decoded)
}

/// A serializer that takes a variant with fields, as `#[derive(Serialize)]` writes one, and refuses
/// everything else: an enum with a `Serialize` of its own has no content that could be told from the
/// tag.
struct VariantSerializer<S>(S);

impl<S: Serializer> VariantSerializer<S> {
    fn refused() -> S::Error {
        S::Error::custom(
            "the enum does not write its variants as `#[derive(Serialize)]` does: derive it, or put the content into a struct with a `Serialize` of its own",
        )
    }
}

/// The methods of a serializer that refuses what they are called with.
macro_rules! refuse {
    ($($method:ident$(<$value:ident>)?($($argument:ty),*) -> $returned:ty;)*) => {$(
        fn $method$(<$value: Serialize + ?Sized>)?(
            self,
            $(_: $argument),*
        ) -> Result<$returned, S::Error> {
            Err(Self::refused())
        }
    )*};
}

impl<S: Serializer> Serializer for VariantSerializer<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Impossible<S::Ok, S::Error>;
    type SerializeTuple = Impossible<S::Ok, S::Error>;
    type SerializeTupleStruct = Impossible<S::Ok, S::Error>;
    type SerializeTupleVariant = Impossible<S::Ok, S::Error>;
    type SerializeMap = Impossible<S::Ok, S::Error>;
    type SerializeStruct = Impossible<S::Ok, S::Error>;
    type SerializeStructVariant = Fields<S::SerializeStruct>;

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeStructVariant, S::Error> {
        self.0.serialize_struct(variant, length).map(Fields)
    }

    // A variant with a flattened field, or with `#[serde(with)]`.
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        content: &T,
    ) -> Result<S::Ok, S::Error> {
        content.serialize(self.0)
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }

    refuse! {
        serialize_bool(bool) -> S::Ok;
        serialize_i8(i8) -> S::Ok;
        serialize_i16(i16) -> S::Ok;
        serialize_i32(i32) -> S::Ok;
        serialize_i64(i64) -> S::Ok;
        serialize_u8(u8) -> S::Ok;
        serialize_u16(u16) -> S::Ok;
        serialize_u32(u32) -> S::Ok;
        serialize_u64(u64) -> S::Ok;
        serialize_f32(f32) -> S::Ok;
        serialize_f64(f64) -> S::Ok;
        serialize_char(char) -> S::Ok;
        serialize_str(&str) -> S::Ok;
        serialize_bytes(&[u8]) -> S::Ok;
        serialize_none() -> S::Ok;
        serialize_some<T>(&T) -> S::Ok;
        serialize_unit() -> S::Ok;
        serialize_unit_struct(&'static str) -> S::Ok;
        serialize_unit_variant(&'static str, u32, &'static str) -> S::Ok;
        serialize_newtype_struct<T>(&'static str, &T) -> S::Ok;
        serialize_seq(Option<usize>) -> Self::SerializeSeq;
        serialize_tuple(usize) -> Self::SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
        serialize_tuple_variant(&'static str, u32, &'static str, usize)
            -> Self::SerializeTupleVariant;
        serialize_map(Option<usize>) -> Self::SerializeMap;
        serialize_struct(&'static str, usize) -> Self::SerializeStruct;
    }
}

/// The fields of a variant, written as those of a struct.
struct Fields<S>(S);

impl<S: SerializeStruct> SerializeStructVariant for Fields<S> {
    type Ok = S::Ok;
    type Error = S::Error;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), S::Error> {
        self.0.serialize_field(name, value)
    }

    fn skip_field(&mut self, name: &'static str) -> Result<(), S::Error> {
        self.0.skip_field(name)
    }

    fn end(self) -> Result<S::Ok, S::Error> {
        self.0.end()
    }
}

/// A deserializer of an enum whose variant is known and whose content is the payload.
struct VariantDeserializer<D> {
    index: u32,
    content: D,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for VariantDeserializer<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier
        ignored_any
    }
}

impl<'de, D: Deserializer<'de>> EnumAccess<'de> for VariantDeserializer<D> {
    type Error = D::Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), D::Error> {
        let variant = seed.deserialize(self.index.into_deserializer())?;
        Ok((variant, self))
    }
}

impl<'de, D: Deserializer<'de>> VariantAccess<'de> for VariantDeserializer<D> {
    type Error = D::Error;

    fn unit_variant(self) -> Result<(), D::Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, D::Error> {
        seed.deserialize(self.content)
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.content.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.content.deserialize_struct("", fields, visitor)
    }
}
