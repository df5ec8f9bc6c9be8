//! Looking for events by their id on SQLite.

use sqlx::Sqlite;

use crate::backend::browse::Browse;

impl Browse for Sqlite {
    /// Ids in the library's tables are text; another program's table may have 16 bytes.
    const BY_ID: &'static str = "
        SELECT {global_position} AS position FROM {events}
         WHERE {event_id} IN ($1, unhex($1, '-'))";
}
