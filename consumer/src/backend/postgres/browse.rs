//! Looking for events by their type or id on Postgres.

use sqlx::Postgres;

use crate::backend::browse::{Browse, headers};

impl Browse for Postgres {
    /// The bounds and the order by both columns make it a scan of the index on both.
    const OF_TYPE_BEFORE: &'static str = headers!(
        "({aggregate_type}, {global_position}) < ($3, $1)
       AND ({aggregate_type}, {global_position}) >= ($3, 0)
     ORDER BY {aggregate_type} DESC, {global_position} DESC LIMIT $2"
    );

    const OF_TYPE_AFTER: &'static str = headers!(
        "({aggregate_type}, {global_position}) > ($3, $1)
       AND ({aggregate_type}, {global_position}) <= ($3, 9223372036854775807)
     ORDER BY {aggregate_type}, {global_position} LIMIT $2"
    );

    /// The parameter is cast, since a cast of the column could not use its index.
    const BY_ID: &'static str =
        "SELECT {global_position} AS position FROM {events} WHERE {event_id} = $1::text::uuid";
}
