//! The types of columns on SQLite: how their values are sent and returned.

use crate::backend::missing::Substitutes;
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

/// What takes the place of a column that a table lacks.
pub(super) const SUBSTITUTES: Substitutes = Substitutes { added, computed };

/// A column with a default that is not constant cannot be added.
fn added(column: Column, sql_type: SqlType) -> String {
    let (sql_type, default) = match (column, sql_type) {
        (Column::GlobalPosition, _) => {
            return "CREATE TABLE new_$table ($name INTEGER PRIMARY KEY AUTOINCREMENT, …); INSERT INTO new_$table SELECT NULL, * FROM $table; DROP TABLE $table; ALTER TABLE new_$table RENAME TO $table".to_owned();
        }
        (Column::AggregateVersion, _) => ("INTEGER", "0; $versions"),
        (Column::EventId, _) => (
            "TEXT",
            "''; UPDATE $table SET $name = lower(printf('%s-%s-%s-%s-%s', hex(randomblob(4)), hex(randomblob(2)), hex(randomblob(2)), hex(randomblob(2)), hex(randomblob(6)))); CREATE UNIQUE INDEX unique_$name ON $table ($name)",
        ),
        (Column::CreatedAt, _) => ("TEXT", "'1970-01-01T00:00:00Z'"),
        (Column::Payload, SqlType::Text) => ("TEXT", "'{}'"),
        (Column::Payload, _) => ("BLOB", "X'7B7D'"),
        (_, SqlType::Integer | SqlType::BigInt) => ("INTEGER", "0"),
        _ => ("TEXT", "''"),
    };
    format!("ALTER TABLE $table ADD COLUMN $name {sql_type} NOT NULL DEFAULT {default}")
}

fn computed(column: Column) -> Option<&'static str> {
    match column {
        Column::AggregateId => Some("''"),
        Column::EventId => Some("printf('00000000-0000-0000-0000-%012x', $position)"),
        Column::Payload => Some("'{}'"),
        Column::CreatedAt => Some("'1970-01-01T00:00:00Z'"),
        _ => None,
    }
}
