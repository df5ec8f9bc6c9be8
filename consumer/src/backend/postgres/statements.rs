//! The SQL of the store on Postgres.

use crate::backend::Schema;
use crate::backend::{Sql, StoreSettings};

/// What [`rows::event`](super::rows::event) decodes.
pub(super) const COLUMNS: &str = "{global_position}, {aggregate_type}, {aggregate_id}, \
    {aggregate_version}, {event_id}, {event_type}, {event_version}, {payload}, {trace_id}, \
    {correlation_id}, {causation_id}, {metadata}, {created_at}";

/// Stores events `$5…$12` of aggregate `$1`, `$2`; `$3` is how many, `$4` the version expected.
///
/// One statement, so that a failure leaves no head moved and no event half stored. No row comes back
/// when the aggregate is not at the expected version.
const APPEND: &str = "
WITH seen AS (
    -- Events without a head row were written by somebody who keeps no heads; a head above the
    -- events is that of an aggregate whose history was archived.
    SELECT GREATEST(
        COALESCE((SELECT max({aggregate_version}) FROM {events}
                  WHERE {aggregate_type} = $1 AND {aggregate_id} = $2), 0),
        COALESCE((SELECT {aggregate_version} FROM {heads}
                  WHERE {aggregate_type} = $1 AND {aggregate_id} = $2), 0)
    ) AS version
), head AS (
    -- Locks the aggregate before a position is drawn: who waits here holds nothing that others
    -- could wait for. After the wait the row may be newer than what `seen` saw.
    INSERT INTO {heads} AS head ({aggregate_type}, {aggregate_id}, {aggregate_version}, updated_at)
    SELECT $1, $2, seen.version + $3, now() FROM seen
    WHERE $4::bigint IS NULL OR seen.version = $4
    ON CONFLICT ({aggregate_type}, {aggregate_id}) DO UPDATE
    SET {aggregate_version} =
            GREATEST(head.{aggregate_version}, EXCLUDED.{aggregate_version} - $3) + $3,
        updated_at = now()
    WHERE $4::bigint IS NULL
       OR GREATEST(head.{aggregate_version}, EXCLUDED.{aggregate_version} - $3) = $4
    RETURNING head.{aggregate_version} - $3 AS base
)
INSERT INTO {events} ({aggregate_type}, {aggregate_id}, {aggregate_version}, {event_id},
    {event_type}, {event_version}, {payload}, {trace_id}, {correlation_id}, {causation_id},
    {metadata})
SELECT $1, $2, head.base + new.ordinal, new.event_id, new.event_type, new.event_version,
    new.payload, new.trace_id, new.correlation_id, new.causation_id, new.metadata::jsonb
FROM head CROSS JOIN UNNEST($5::uuid[], $6::text[], $7::int[], $8::bytea[], $9::text[],
    $10::text[], $11::text[], $12::text[]) WITH ORDINALITY
    AS new(event_id, event_type, event_version, payload, trace_id, correlation_id, causation_id,
           metadata, ordinal)
-- Positions are drawn in this order, so that they ascend with the versions.
ORDER BY new.ordinal
RETURNING {global_position}, {aggregate_version}, {created_at}";

/// Sent when the transaction commits, once however often it appends.
const NOTIFY: &str = ", (SELECT pg_notify('consumer_events', '') IS NULL)";

const CURRENT_VERSION: &str = "
SELECT GREATEST(
    COALESCE((SELECT max({aggregate_version}) FROM {events}
              WHERE {aggregate_type} = $1 AND {aggregate_id} = $2), 0),
    COALESCE((SELECT {aggregate_version} FROM {heads}
              WHERE {aggregate_type} = $1 AND {aggregate_id} = $2), 0))";

const LATEST: &str = "SELECT COALESCE(max({global_position}), 0) FROM {events}";

/// Cuts the events of `found` off where their content exceeds `$4` bytes, but never the first.
///
/// `octet_length` of `bytea` and text is known without reading what is stored out of line, and the
/// window carries pointers to that: nothing beyond the cut is read. Of metadata only the stored size
/// is known so, which is why the reader counts once more; its text would cost as much again as all
/// the rest. It costs half a microsecond an event. No mapped column can have the names with a `$`.
const WITHIN_BUDGET: &str = r#"
SELECT {columns} FROM (
    SELECT found.*, row_number() OVER log AS "$number", sum(
        octet_length({payload}) + coalesce(pg_column_size({metadata}), 0)
        + octet_length({aggregate_type}) + octet_length({aggregate_id}) + octet_length({event_type})
        + coalesce(octet_length({trace_id}), 0) + coalesce(octet_length({correlation_id}), 0)
        + coalesce(octet_length({causation_id}), 0)
    ) OVER log AS "$bytes"
    FROM ({found}) AS found
    WINDOW log AS (ORDER BY {global_position} ROWS UNBOUNDED PRECEDING)
) AS measured
WHERE "$bytes" <= $4 OR "$number" = 1
ORDER BY {global_position}"#;

const IN_RANGE: &str = "
SELECT {columns} FROM {events}
WHERE {global_position} > $1 AND {global_position} <= $2
ORDER BY {global_position} LIMIT $3";

/// One index scan for each type of `$5`.
///
/// There is no `aggregate_type = name` on purpose, though the bounds imply it: with it the planner
/// takes the order by both columns for an order by position, and may walk the primary key past all
/// the other types' events.
const IN_SCOPED_RANGE: &str = "
SELECT event.* FROM UNNEST($5::text[]) AS scope(name) CROSS JOIN LATERAL (
    SELECT {columns} FROM {events}
    WHERE ({aggregate_type}, {global_position}) > (scope.name, $1)
      AND ({aggregate_type}, {global_position}) <= (scope.name, $2)
    ORDER BY {aggregate_type}, {global_position} LIMIT $3
) AS event
ORDER BY {global_position} LIMIT $3";

/// The statements of one mapping.
pub struct Statements {
    settings: StoreSettings,
    pub(super) append: Sql,
    pub(super) current_version: Sql,
    pub(super) read_events: Sql,
    pub(super) read_range: Sql,
    pub(super) read_scoped_range: Sql,
    pub(super) read_aggregate: Sql,
    pub(super) latest_global_position: Sql,
    pub(super) probe_events: Sql,
    pub(super) probe_heads: Sql,
    pub(super) version: Sql,
}

impl Statements {
    pub(super) fn new(settings: &StoreSettings) -> Self {
        let sql = |text: &str| Sql::new(settings, text);
        let append = if settings.notify {
            format!("{APPEND}{NOTIFY}")
        } else {
            APPEND.to_owned()
        };
        Self {
            append: sql(&append),
            current_version: sql(CURRENT_VERSION),
            read_events: sql(&format!(
                "SELECT {COLUMNS} FROM {{events}} WHERE {{global_position}} > $1 \
                 ORDER BY {{global_position}} LIMIT $2"
            )),
            read_range: sql(&within_budget(IN_RANGE)),
            read_scoped_range: sql(&within_budget(IN_SCOPED_RANGE)),
            read_aggregate: sql(&format!(
                "SELECT {COLUMNS} FROM {{events}} \
                 WHERE {{aggregate_type}} = $1 AND {{aggregate_id}} = $2 \
                   AND {{aggregate_version}} BETWEEN $3 AND $4 ORDER BY {{aggregate_version}}"
            )),
            latest_global_position: sql(LATEST),
            probe_events: sql(&format!("SELECT {COLUMNS} FROM {{events}} LIMIT 0")),
            probe_heads: sql(
                "SELECT {aggregate_type}, {aggregate_id}, {aggregate_version}, \
                 updated_at FROM {heads} LIMIT 0",
            ),
            version: sql("SELECT COALESCE(max(version), 0)::bigint FROM {versions}"),
            settings: settings.clone(),
        }
    }

    pub(super) fn settings(&self) -> &StoreSettings {
        &self.settings
    }

    pub(super) fn schema(&self) -> &Schema {
        &self.settings.schema
    }
}

fn within_budget(found: &str) -> String {
    WITHIN_BUDGET
        .replace("{found}", found)
        .replace("{columns}", COLUMNS)
}
