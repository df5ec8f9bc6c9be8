//! How SQLite represents the columns of an event.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::error::UnexpectedNullError;
use sqlx::sqlite::{Sqlite, SqliteRow};
use uuid::Uuid;

use crate::backend::log_rows::{LogRows, unreadable};
use crate::contract::Metadata;

impl LogRows for Sqlite {
    fn text(row: &SqliteRow, index: usize) -> Result<&str, sqlx::Error> {
        row.try_get(index)
    }

    fn payload(row: &SqliteRow, index: usize) -> Result<Bytes, sqlx::Error> {
        let payload = bytes(row, index)?.ok_or_else(|| unreadable(index, UnexpectedNullError))?;
        Ok(Bytes::copy_from_slice(payload))
    }

    fn integer(row: &SqliteRow, index: usize) -> Result<i64, sqlx::Error> {
        row.try_get(index)
    }

    /// Ids in the library's tables are text, which people can read; another program's table may have 16
    /// bytes.
    fn event_id(row: &SqliteRow, index: usize) -> Result<Uuid, sqlx::Error> {
        let value = bytes(row, index)?.unwrap_or_default();
        let id = Uuid::from_slice(value).or_else(|_| Uuid::try_parse_ascii(value));
        id.map_err(|error| unreadable(index, error))
    }

    fn metadata(row: &SqliteRow, index: usize) -> Result<Option<Metadata>, sqlx::Error> {
        let text = bytes(row, index)?.map(Bytes::copy_from_slice);
        Ok(text.map(Metadata::from_json_text))
    }

    fn time(row: &SqliteRow, index: usize) -> Result<DateTime<Utc>, sqlx::Error> {
        row.try_get(index)
    }
}

/// The bytes of a value, whether it is stored as text or as a blob.
fn bytes(row: &SqliteRow, index: usize) -> Result<Option<&[u8]>, sqlx::Error> {
    row.try_get_unchecked(index)
}
