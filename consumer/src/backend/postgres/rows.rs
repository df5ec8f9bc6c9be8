//! How Postgres represents the columns of an event.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::postgres::{PgRow, PgValueFormat, Postgres};
use sqlx::{Row as _, TypeInfo as _, ValueRef as _};
use uuid::Uuid;

use crate::backend::log_rows::{LogRows, unreadable};
use crate::contract::Metadata;

impl LogRows for Postgres {
    fn text(row: &PgRow, index: usize) -> Result<&str, sqlx::Error> {
        row.try_get(index)
    }

    fn payload(row: &PgRow, index: usize) -> Result<Bytes, sqlx::Error> {
        row.try_get(index).map(Bytes::copy_from_slice)
    }

    fn integer(row: &PgRow, index: usize) -> Result<i64, sqlx::Error> {
        match row.try_get_raw(index)?.type_info().name() {
            "INT8" => row.try_get(index),
            "INT4" => row.try_get::<i32, _>(index).map(i64::from),
            "INT2" => row.try_get::<i16, _>(index).map(i64::from),
            _ => parse(row, index),
        }
    }

    fn event_id(row: &PgRow, index: usize) -> Result<Uuid, sqlx::Error> {
        match row.try_get_raw(index)?.type_info().name() {
            "UUID" => row.try_get(index),
            _ => parse(row, index),
        }
    }

    fn metadata(row: &PgRow, index: usize) -> Result<Option<Metadata>, sqlx::Error> {
        let value = row.try_get_raw(index)?;
        if value.is_null() {
            return Ok(None);
        }
        // Binary `jsonb` is the version of the format, 1, and then the text.
        let has_version =
            value.format() == PgValueFormat::Binary && value.type_info().name() == "JSONB";
        let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
        let text = bytes.get(usize::from(has_version)..).unwrap_or_default();
        Ok(Some(Metadata::from_json_text(Bytes::copy_from_slice(text))))
    }

    /// sqlx panics at the times that chrono cannot represent, which `infinity` is one of.
    fn time(row: &PgRow, index: usize) -> Result<DateTime<Utc>, sqlx::Error> {
        let value = row.try_get_raw(index)?;
        let is_binary = value.format() == PgValueFormat::Binary;
        if !is_binary || value.type_info().name() != "TIMESTAMPTZ" {
            return row.try_get(index);
        }
        let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
        let bytes = bytes.try_into().map_err(|error| unreadable(index, error))?;
        let micros = i64::from_be_bytes(bytes);
        since_2000(micros).ok_or_else(|| unreadable(index, OutOfRange(micros)))
    }
}

/// Reads the text of a value whose type has no other form that every row can be cast to.
fn parse<T>(row: &PgRow, index: usize) -> Result<T, sqlx::Error>
where
    T: FromStr<Err: Error + Send + Sync + 'static>,
{
    let text: &str = row.try_get(index)?;
    text.parse().map_err(|error| unreadable(index, error))
}

/// A `timestamptz` that no program can represent.
#[derive(Debug)]
struct OutOfRange(i64);

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            i64::MAX => f.write_str("the time is `infinity`"),
            i64::MIN => f.write_str("the time is `-infinity`"),
            micros => write!(f, "the time is {micros} µs after 2000"),
        }
    }
}

impl Error for OutOfRange {}

/// The time of a `timestamptz`, which counts microseconds since 2000.
fn since_2000(micros: i64) -> Option<DateTime<Utc>> {
    const EPOCH: i64 = 946_684_800;
    DateTime::from_timestamp(EPOCH, 0)?.checked_add_signed(TimeDelta::microseconds(micros))
}

#[cfg(test)]
mod tests {
    use super::since_2000;

    #[test]
    fn a_time_is_counted_from_2000() {
        let time = |micros| since_2000(micros).unwrap().to_rfc3339();
        assert_eq!(time(0), "2000-01-01T00:00:00+00:00");
        assert_eq!(time(-1), "1999-12-31T23:59:59.999999+00:00");
    }

    #[test]
    fn an_infinite_time_is_none() {
        assert_eq!(since_2000(i64::MAX), None);
        assert_eq!(since_2000(i64::MIN), None);
    }
}
