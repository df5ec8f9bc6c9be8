//! Looking for events by their type or id on SQLite.

use sqlx::Sqlite;

use crate::backend::browse::{Browse, headers};

impl Browse for Sqlite {
    /// Of bounds by both columns at once, SQLite would use the types alone, and walk past the type's other events.
    const OF_TYPE_BEFORE: &'static str = headers!(
        "{aggregate_type} = $3 AND {global_position} < $1
     ORDER BY {aggregate_type} DESC, {global_position} DESC LIMIT $2"
    );

    const OF_TYPE_AFTER: &'static str = headers!(
        "{aggregate_type} = $3 AND {global_position} > $1
     ORDER BY {aggregate_type}, {global_position} LIMIT $2"
    );

    /// Ids in the library's tables are text; another program's table may have 16 bytes.
    const BY_ID: &'static str = "
        SELECT {global_position} AS position FROM {events}
         WHERE {event_id} IN ($1, unhex($1, '-'))";
}
