//! SQLite.

use sqlx::Sqlite;
use sqlx::sqlite::SqliteQueryResult;

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
mod hooks;
mod migrations;
#[cfg(feature = "worker")]
mod operate;
mod read_model;
mod retired;
mod rows;
#[cfg(feature = "worker")]
mod tables;
#[cfg(feature = "worker")]
mod views;

/// Times in the library's tables are Unix milliseconds.
const DIALECT: Dialect = Dialect {
    now: "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
    ms_since: "CAST(unixepoch('subsec') * 1000 AS INTEGER) - $",
    ms_until: "$ - CAST(unixepoch('subsec') * 1000 AS INTEGER)",
    in_ms: "CAST(unixepoch('subsec') * 1000 AS INTEGER) + $",
    event_age: "CAST((unixepoch('subsec') - unixepoch({created_at}, 'subsec')) * 1000 AS INTEGER)",
    greatest: "max",
    // The transaction has begun IMMEDIATE, which locks all rows.
    for_update: "",
    for_update_skip_locked: "",
    indexed: "TRUE",
    message: "$",
    value: columns::value,
    id: columns::id,
    inserted: columns::inserted,
};

impl Driver for Sqlite {
    const DIALECT: Dialect = DIALECT;

    fn rows_affected(result: &SqliteQueryResult) -> u64 {
        result.rows_affected()
    }

    fn bind_message(query: PlainQuery<Self>, text: Option<String>) -> PlainQuery<Self> {
        query.bind(text)
    }
}
