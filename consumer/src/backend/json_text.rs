//! Metadata that both databases can store: UTF-8, and JSON in which every part has a value.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// JSON text that has been checked.
#[derive(Clone, Copy, Debug)]
pub struct JsonText<'a> {
    text: &'a str,
    has_nul: bool,
}

impl<'a> JsonText<'a> {
    /// Checks everything for which a database would abort the caller's transaction: bytes that are not
    /// UTF-8, half of a surrogate pair, a number beyond the range of `f64`, and nesting too deep to be
    /// read again.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let has_nul = Cell::new(false);
        let mut reader = serde_json::Deserializer::from_str(text);
        Walk(&has_nul)
            .deserialize(&mut reader)
            .and_then(|()| reader.end())
            .map_err(|error| error.to_string())?;
        let has_nul = has_nul.get();
        Ok(Self { text, has_nul })
    }

    pub(crate) fn as_str(self) -> &'a str {
        self.text
    }

    /// Whether a string or a key in it has the character `\u0000`, which Postgres cannot store.
    pub(crate) fn has_nul(self) -> bool {
        self.has_nul
    }
}

/// Decodes every value and drops it.
///
/// `IgnoredAny` would not check the values of strings and numbers.
#[derive(Clone, Copy)]
struct Walk<'w>(&'w Cell<bool>);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _value: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _value: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _value: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _value: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        if text.contains('\0') {
            self.0.set(true);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while entries.next_key_seed(self)?.is_some() {
            entries.next_value_seed(self)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::JsonText;

    #[test]
    fn json_of_every_shape_passes_unchanged() {
        for text in [
            "null",
            " [true, -1, 18446744073709551615, 1.5e300, \"\"] ",
            r#"{"a": {"b": ["\ud83d\ude00", "\u00e9", "é"]}, "a": 2}"#,
        ] {
            assert_eq!(JsonText::parse(text.as_bytes()).unwrap().as_str(), text);
        }
    }

    #[test]
    fn json_that_a_database_would_refuse_is_refused() {
        let deep = "[".repeat(200);
        for (bytes, reason) in [
            (&b"\"\xff\""[..], "invalid utf-8"),
            (&br#""\ud800""#[..], "hex escape"),
            (&br#"{"\ud800x": 1}"#[..], "hex escape"),
            (&b"1e999"[..], "out of range"),
            (&b"{} {}"[..], "trailing"),
            (&b""[..], "EOF"),
            (&b"\"\x01\""[..], "control character"),
            (deep.as_bytes(), "recursion"),
        ] {
            let error = JsonText::parse(bytes).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn a_nul_is_seen_in_texts_and_in_keys() {
        for (text, expected) in [
            (r#""\u0000""#, true),
            (r#"{"a\u0000": 1}"#, true),
            (r#"["\\u0000"]"#, false),
        ] {
            assert_eq!(
                JsonText::parse(text.as_bytes()).unwrap().has_nul(),
                expected,
                "{text}"
            );
        }
    }
}
