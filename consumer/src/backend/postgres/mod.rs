//! Postgres.

use sqlx::Postgres;
use sqlx::postgres::PgQueryResult;

use super::dialect::Dialect;
use super::driver::{Driver, PlainQuery};

#[cfg(feature = "worker")]
mod browse;
mod catalogue;
#[cfg(feature = "worker")]
mod checkpoints;
mod columns;
mod connect;
mod events;
#[cfg(feature = "testing")]
mod faults;
#[cfg(feature = "worker")]
mod frontier;
#[cfg(feature = "worker")]
mod marker;
mod migrations;
#[cfg(feature = "worker")]
mod operate;
mod privileges;
mod read_model;
mod retired;
mod rows;
#[cfg(feature = "worker")]
mod sequence;
#[cfg(feature = "worker")]
mod tables;
#[cfg(feature = "worker")]
mod views;

/// Times in the library's tables are `timestamptz`.
const DIALECT: Dialect = Dialect {
    now: "clock_timestamp()",
    ms_since: "(extract(epoch FROM clock_timestamp() - $) * 1000)::bigint",
    ms_until: "(extract(epoch FROM $ - clock_timestamp()) * 1000)::bigint",
    in_ms: "clock_timestamp() + $ * interval '1 millisecond'",
    // A time that no program can represent has no age, and must not hide the state of all consumers.
    event_age: "CASE WHEN isfinite({value of created_at})
                     THEN (extract(epoch FROM clock_timestamp() - {value of created_at}) * 1000)::bigint END",
    greatest: "greatest",
    for_update: "FOR UPDATE",
    for_update_skip_locked: "FOR UPDATE SKIP LOCKED",
    // As in the predicate of the index.
    indexed: "octet_length($.consumer) + octet_length($.aggregate_type)
              + octet_length($.aggregate_id) < 2500",
    // A database in another encoding, such as LATIN1, refuses a text with characters that it lacks as
    // soon as it receives the parameter. So the text comes as bytes, and such a database stores those
    // beyond ASCII in octal. Backslashes stay, so that a text that is read and stored again is the same.
    message: "CASE getdatabaseencoding() WHEN 'UTF8' THEN convert_from($, 'UTF8')
                   ELSE replace(encode($, 'escape'), chr(92) || chr(92), chr(92)) END",
    value: columns::value,
    id: columns::id,
    inserted: columns::inserted,
};

impl Driver for Postgres {
    const DIALECT: Dialect = DIALECT;

    fn rows_affected(result: &PgQueryResult) -> u64 {
        result.rows_affected()
    }

    fn bind_message(query: PlainQuery<Self>, text: Option<String>) -> PlainQuery<Self> {
        query.bind(text.map(String::into_bytes))
    }
}
