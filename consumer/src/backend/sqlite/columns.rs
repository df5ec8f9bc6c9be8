//! The types of columns on SQLite: how their values are sent and returned.

use crate::backend::{Column, SqlType};

/// A value of the log, `$`, as it is decoded.
pub(super) fn value(column: Column, sql_type: SqlType) -> &'static str {
    match (column, sql_type) {
        (Column::AggregateId, SqlType::Integer | SqlType::BigInt) => "CAST($ AS TEXT)",
        _ => "$",
    }
}

/// An aggregate id, the parameter `$`, as it is compared with the column, which converts the text if its
/// ids are integers.
pub(super) fn id(_sql_type: SqlType) -> &'static str {
    "$"
}

/// A value of an append, `$`, as the column takes it.
pub(super) fn inserted(_column: Column, _sql_type: SqlType) -> &'static str {
    "$"
}
