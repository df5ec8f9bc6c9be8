//! The types of columns, under names that both databases understand.

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ColumnType {
    /// `text`.
    Text,
    /// `boolean`.
    Bool,
    /// `smallint`; `INTEGER` on SQLite.
    I16,
    /// `integer`.
    I32,
    /// `bigint`; `INTEGER` on SQLite.
    I64,
    /// `real`.
    F32,
    /// `double precision`; `REAL` on SQLite.
    F64,
    /// `bytea`; `BLOB` on SQLite.
    Bytes,
    /// `uuid`; a `BLOB` of 16 bytes on SQLite, in the format of sqlx.
    Uuid,
    /// `timestamptz`; text on SQLite, in the format of sqlx.
    Timestamp,
    /// `date`; text on SQLite, in the format of sqlx.
    Date,
    /// `jsonb`; text on SQLite.
    Json,
    /// The type of this name, whose values travel as text.
    Other(&'static str),
}
