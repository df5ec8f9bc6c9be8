//! The types of columns on Postgres: how their values are sent and returned.

use crate::backend::missing::Substitutes;
use crate::backend::{Column, SqlType};

/// A value of the log, `$`, as it is decoded.
///
/// `convert_to`, since a cast of text to `bytea` would read backslashes as escapes. The cast of JSON to its
/// own type does nothing, and is an error once the column has become one of bytes, whose text is not JSON.
pub(super) fn value(column: Column, sql_type: SqlType) -> &'static str {
    match (column, sql_type) {
        (Column::GlobalPosition, SqlType::Integer) => "$::bigint",
        (Column::AggregateVersion | Column::EventVersion, SqlType::Numeric) => {
            "trim_scale($)::text"
        }
        (Column::AggregateId, SqlType::Uuid | SqlType::Integer | SqlType::BigInt)
        | (Column::TraceId | Column::CorrelationId | Column::CausationId, SqlType::Uuid) => {
            "$::text"
        }
        (Column::Payload, SqlType::Json) => "convert_to(coalesce($::json::text, '{}'), 'UTF8')",
        (Column::Payload, SqlType::Jsonb) => "convert_to(coalesce($::jsonb::text, '{}'), 'UTF8')",
        (Column::Payload, SqlType::Text) => "convert_to($, 'UTF8')",
        (Column::CreatedAt, SqlType::Timestamp) => "($ AT TIME ZONE 'UTC')",
        _ => "$",
    }
}

/// An aggregate id, the parameter `$`, as it is compared with the column.
pub(super) fn id(sql_type: SqlType) -> &'static str {
    match sql_type {
        SqlType::Uuid => "$::uuid",
        SqlType::Integer => "$::integer",
        SqlType::BigInt => "$::bigint",
        _ => "$",
    }
}

/// A value of an append, `$`, as the column takes it.
pub(super) fn inserted(column: Column, sql_type: SqlType) -> &'static str {
    match (column, sql_type) {
        (Column::Payload, SqlType::Text) => "convert_from($, 'UTF8')",
        (Column::Payload, SqlType::Json) => "convert_from($, 'UTF8')::json",
        (Column::Payload, SqlType::Jsonb) => "convert_from($, 'UTF8')::jsonb",
        (Column::Metadata, SqlType::Jsonb) => "$::jsonb",
        (Column::Metadata, SqlType::Json) => "$::json",
        (Column::EventId, SqlType::Text) => "$::text",
        (Column::TraceId | Column::CorrelationId | Column::CausationId, SqlType::Uuid) => "$::uuid",
        (Column::CreatedAt, SqlType::Timestamp) => "$ AT TIME ZONE 'UTC'",
        _ => "$",
    }
}

/// What takes the place of a column that a table lacks.
pub(super) const SUBSTITUTES: Substitutes = Substitutes { added, computed };

fn added(column: Column, sql_type: SqlType) -> String {
    let default = match (column, sql_type) {
        (Column::GlobalPosition, _) => {
            return "ALTER TABLE $table ADD COLUMN $name bigserial UNIQUE".to_owned();
        }
        (Column::AggregateVersion, _) => "0; $versions",
        (Column::EventId, SqlType::Text) => "gen_random_uuid()::text UNIQUE",
        (Column::EventId, _) => "gen_random_uuid() UNIQUE",
        (Column::CreatedAt, SqlType::Timestamp) => "(now() AT TIME ZONE 'UTC')",
        (Column::CreatedAt, _) => "now()",
        (Column::Payload, _) => "'{}'",
        (_, SqlType::Uuid) => "'00000000-0000-0000-0000-000000000000'",
        (_, SqlType::Integer | SqlType::BigInt) => "0",
        _ => "''",
    };
    let sql_type = sql_type.sql_name();
    format!("ALTER TABLE $table ADD COLUMN $name {sql_type} NOT NULL DEFAULT {default}")
}

fn computed(column: Column) -> Option<&'static str> {
    match column {
        Column::AggregateId => Some("''::text"),
        Column::EventId => Some("md5('$table' || $position)::uuid"),
        Column::Payload => Some("'{}'::bytea"),
        Column::CreatedAt => Some("to_timestamp(0)"),
        _ => None,
    }
}
