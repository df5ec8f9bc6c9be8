//! The one text that a JSON value has in a column, whichever way it got there.
//!
//! Postgres's `jsonb` sorts keys, by length first, and writes numbers without exponents and without a
//! negative zero. The text has this form on every database, so that a value is the same before it is
//! stored and after it was read.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};

use super::error::FieldError;
use super::numbers;

/// Larger exponents, which no `f64` has, are left to the database.
const LARGEST_EXPONENT: i32 = 1_000;

/// The text of a value as the database returns it.
pub(super) fn stored_text<T: Serialize>(value: &T) -> Result<String, FieldError> {
    numbers::check(value)?;
    let value: Value = serde_json::from_str(&serde_json::to_string(value)?)?;
    let mut text = String::new();
    write(&value, &mut text)?;
    Ok(text)
}

/// Reads a value from its text.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, FieldError> {
    Ok(serde_json::from_str(text)?)
}

fn write(value: &Value, text: &mut String) -> Result<(), FieldError> {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => text.push_str(&plain(number)),
        Value::String(string) => write_string(string, text)?,
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                separate(index, text);
                write(item, text)?;
            }
            text.push(']');
        }
        Value::Object(fields) => write_object(fields, text)?,
    }
    Ok(())
}

fn write_object(fields: &Map<String, Value>, text: &mut String) -> Result<(), FieldError> {
    let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
    fields.sort_by_key(|(name, _)| (name.len(), *name));
    text.push('{');
    for (index, (name, value)) in fields.into_iter().enumerate() {
        separate(index, text);
        write_string(name, text)?;
        text.push(':');
        write(value, text)?;
    }
    text.push('}');
    Ok(())
}

fn separate(index: usize, text: &mut String) {
    if index > 0 {
        text.push(',');
    }
}

fn write_string(string: &str, text: &mut String) -> Result<(), FieldError> {
    if string.contains('\0') {
        return Err(FieldError::Nul);
    }
    text.push_str(&serde_json::to_string(string)?);
    Ok(())
}

/// The number without an exponent, and without a sign if it is zero.
fn plain(number: &Number) -> String {
    let text = number.to_string();
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => ("-", unsigned),
        None => ("", text.as_str()),
    };
    let Some(digits) = without_exponent(unsigned) else {
        return text;
    };
    let is_zero = digits.bytes().all(|byte| matches!(byte, b'0' | b'.'));
    format!("{}{digits}", if is_zero { "" } else { sign })
}

fn without_exponent(number: &str) -> Option<String> {
    let Some((mantissa, exponent)) = number.split_once(['e', 'E']) else {
        return Some(number.to_owned());
    };
    let exponent: i32 = exponent.parse().ok()?;
    if exponent.abs() > LARGEST_EXPONENT {
        return None;
    }
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let point = i32::try_from(whole.len()).ok()? + exponent;
    let Ok(point) = usize::try_from(point) else {
        let zeros = usize::try_from(-point).ok()?;
        return Some(format!("0.{}{digits}", "0".repeat(zeros)));
    };
    let zeros = "0".repeat(point.saturating_sub(digits.len()));
    let digits = digits + &zeros;
    let (whole, fraction) = digits.split_at_checked(point)?;
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        whole => whole,
    };
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!("{whole}{point}{fraction}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{read, stored_text};
    use crate::contract::read_model::FieldError;

    #[test]
    fn keys_are_sorted_by_length_and_numbers_have_no_exponent() {
        let value =
            json!({ "bb": 1e16, "a": [1.5e-7, -0.0, 100.0], "c": { "z": null, "y": true } });
        let text = r#"{"a":[0.00000015,0.0,100.0],"c":{"y":true,"z":null},"bb":10000000000000000}"#;
        assert_eq!(stored_text(&value).unwrap(), text);
    }

    #[test]
    fn the_stored_text_of_what_was_read_is_the_same() {
        for number in [
            5e-324,
            f64::MAX,
            f64::MIN,
            f64::MIN_POSITIVE,
            0.1,
            1e21,
            123_456.789e3,
            2f64.powi(70),
        ] {
            let text = stored_text(&number).unwrap();
            assert!(!text.contains('e'), "{text}");
            assert_eq!(read::<f64>(&text).unwrap().to_bits(), number.to_bits());
            let value: Value = read(&text).unwrap();
            assert_eq!(stored_text(&value).unwrap(), text);
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused_at_any_depth() {
        #[derive(serde::Serialize)]
        struct Score {
            values: Vec<Option<f32>>,
        }
        for value in [f32::NAN, f32::INFINITY] {
            let score = Score {
                values: vec![None, Some(value)],
            };
            assert!(matches!(stored_text(&score), Err(FieldError::NotFinite)));
        }
    }

    #[test]
    fn integers_of_more_than_64_bits_are_refused_at_any_depth() {
        for value in [i64::MIN.into(), 0, u64::MAX.into()] {
            let text = stored_text(&[Some(value)]).unwrap();
            assert_eq!(read::<Vec<i128>>(&text).unwrap(), [value]);
        }
        for value in [
            i128::from(i64::MIN) - 1,
            i128::from(u64::MAX) + 1,
            i128::MAX,
        ] {
            let refused = stored_text(&[Some(value)]).unwrap_err();
            assert!(refused.to_string().contains(&value.to_string()));
            assert!(matches!(refused, FieldError::TooLarge(_)));
        }
        let refused = stored_text(&(1, u128::MAX));
        assert!(matches!(refused, Err(FieldError::TooLarge(_))));
    }

    #[test]
    fn nul_is_refused_in_strings_and_keys() {
        for value in [json!(["a\0"]), json!({ "\0": 1 })] {
            assert!(matches!(stored_text(&value), Err(FieldError::Nul)));
        }
        assert_eq!(stored_text(&json!("\\u0000")).unwrap(), r#""\\u0000""#);
    }
}
