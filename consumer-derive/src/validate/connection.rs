//! Types that are mistaken for the connection of the worker's transaction, recognised by their names.

use syn::Type;

use crate::types::{last_name, type_arguments};

/// Types that are mistaken for the connection, and the connection without `&mut`.
pub(super) fn mistake_in_connection(connection: &Type, is_mutable: bool) -> Option<String> {
    let name = last_name(connection)?;
    let kind = connection_kind(&name)?;
    if kind == "Connection" && is_mutable {
        return None;
    }
    let database = type_arguments(connection)
        .first()
        .and_then(|database| last_name(database));
    let plain = match database.as_deref().unwrap_or(&name) {
        database if database.starts_with("Pg") || database.starts_with("Postgres") => {
            "PgConnection"
        }
        database if database.starts_with("Any") => "AnyConnection",
        database if database.starts_with("MySql") => "MySqlConnection",
        _ => "SqliteConnection",
    };
    let reason = match kind {
        "Transaction" => {
            "a handler cannot take the worker's transaction, which it must neither commit nor roll back"
        }
        "Connection" => "a handler takes the connection by mutable reference",
        _ => {
            "a handler cannot take a pool, since it writes through the connection of the worker's transaction"
        }
    };
    Some(format!("{reason}: write `tx: &mut {plain}`"))
}

/// The end of the name of one of sqlx's types for connections, pools and transactions.
fn connection_kind(name: &str) -> Option<&'static str> {
    [
        "Transaction",
        "Pool",
        "PoolOptions",
        "PoolConnection",
        "Connection",
    ]
    .into_iter()
    .find(|kind| {
        name.strip_suffix(kind)
            .is_some_and(|driver| driver.is_empty() || names_a_driver(name))
    })
}

pub(super) fn names_a_connection(name: &str) -> bool {
    connection_kind(name).is_some()
}

/// Whether the name begins like those of sqlx's types for one driver.
pub(super) fn names_a_driver(name: &str) -> bool {
    ["Sqlite", "Pg", "Postgres", "MySql", "Any"]
        .iter()
        .any(|driver| name.starts_with(driver))
}
