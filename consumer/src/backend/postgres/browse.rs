//! Looking for events by their id on Postgres.

use sqlx::Postgres;

use crate::backend::browse::Browse;

impl Browse for Postgres {
    /// The parameter is cast, since a cast of the column could not use its index.
    const BY_ID: &'static str =
        "SELECT {global_position} AS position FROM {events} WHERE {event_id} = $1::text::uuid";
}
