//! The SQL of the store on SQLite.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use crate::backend::Schema;
use crate::backend::{Sql, StoreSettings};

/// What [`rows::event`](super::rows::event) decodes.
pub(super) const COLUMNS: &str = "{global_position}, {aggregate_type}, {aggregate_id}, \
    {aggregate_version}, {event_id}, {event_type}, {event_version}, {payload}, {trace_id}, \
    {correlation_id}, {causation_id}, {metadata}, {created_at}";

const HEAD_COLUMNS: &str = "{aggregate_type}, {aggregate_id}, {aggregate_version}, {updated_at}";

/// Changes nothing, and takes the write lock also where there is no such row.
const TAKE_TURN: &str = "
UPDATE {heads} SET {aggregate_version} = {aggregate_version}
WHERE {aggregate_type} = ?1 AND {aggregate_id} = ?2";

/// Events without a head row were written by somebody who keeps no heads; a head above the events is
/// that of an aggregate whose history was archived.
const CURRENT_VERSION: &str = "
SELECT max(
    COALESCE((SELECT max({aggregate_version}) FROM {events}
              WHERE {aggregate_type} = ?1 AND {aggregate_id} = ?2), 0),
    COALESCE((SELECT {aggregate_version} FROM {heads}
              WHERE {aggregate_type} = ?1 AND {aggregate_id} = ?2), 0))";

const INSERT: &str = "
INSERT INTO {events} ({aggregate_type}, {aggregate_id}, {aggregate_version}, {event_id},
    {event_type}, {event_version}, {payload}, {trace_id}, {correlation_id}, {causation_id},
    {metadata}) VALUES";

const RETURNING: &str = "
RETURNING {global_position}, {aggregate_version}, {created_at}";

const MOVE_HEAD: &str = "
INSERT INTO {heads} ({aggregate_type}, {aggregate_id}, {aggregate_version}) VALUES (?1, ?2, ?3)
ON CONFLICT ({aggregate_type}, {aggregate_id}) DO UPDATE
SET {aggregate_version} = excluded.{aggregate_version}, updated_at = excluded.updated_at";

/// `octet_length` reads the size from the record's header, never the content.
macro_rules! size {
    () => {
        "octet_length({payload}) + coalesce(octet_length({metadata}), 0)
    + octet_length({aggregate_type}) + octet_length({aggregate_id}) + octet_length({event_type})
    + coalesce(octet_length({trace_id}), 0) + coalesce(octet_length({correlation_id}), 0)
    + coalesce(octet_length({causation_id}), 0)"
    };
}

/// A range, cut to its number of events.
macro_rules! range {
    () => {
        concat!(
            "SELECT {global_position} AS position, ",
            size!(),
            " AS size FROM {events}
       WHERE {global_position} > ?1 AND {global_position} <= ?2
       ORDER BY {global_position} LIMIT ?3"
        )
    };
}

/// One row, since each costs a trip between two threads.
const EXTENT: &str = concat!("SELECT max(position), sum(size) FROM (", range!(), ")");

/// The last event that the budget reaches, but always the first.
const LAST_WITHIN: &str = concat!(
    "
SELECT max(position)
FROM (SELECT position, row_number() OVER so_far AS number, sum(size) OVER so_far AS total
      FROM (",
    range!(),
    ")
      WINDOW so_far AS (ORDER BY position ROWS UNBOUNDED PRECEDING))
WHERE total <= ?4 OR number = 1"
);

/// The row comparison and the order by both columns make it a scan of the index on both.
const SCOPED_SIZES: &str = concat!(
    "
SELECT {global_position}, ",
    size!(),
    " FROM {events}
WHERE {aggregate_type} = ?4 AND ({aggregate_type}, {global_position}) > (?4, ?1)
  AND {global_position} <= ?2
ORDER BY {aggregate_type}, {global_position} LIMIT ?3"
);

/// The statements of one mapping.
pub struct Statements {
    settings: StoreSettings,
    pub(super) take_turn: Sql,
    pub(super) current_version: Sql,
    insert: Sql,
    returning: Sql,
    pub(super) move_head: Sql,
    pub(super) read_events: Sql,
    pub(super) extent: Sql,
    pub(super) last_within: Sql,
    pub(super) scoped_sizes: Sql,
    pub(super) read_up_to: Sql,
    pub(super) read_positions: Sql,
    pub(super) read_aggregate: Sql,
    pub(super) latest_global_position: Sql,
    pub(super) probe_events: Sql,
    pub(super) probe_heads: Sql,
    pub(super) version: Sql,
}

impl Statements {
    pub(super) fn new(settings: &StoreSettings) -> Self {
        let sql = |text: &str| Sql::new(settings, text);
        let select = |rest: &str| sql(&format!("SELECT {COLUMNS} FROM {{events}} {rest}"));
        // Qualified: SQLite takes a quoted name that is no column for a string.
        let probe = |columns: &str, table: &str| {
            let columns = columns.replace('{', "t.{");
            sql(&format!("SELECT {columns} FROM {table} AS t LIMIT 0"))
        };
        Self {
            take_turn: sql(TAKE_TURN),
            current_version: sql(CURRENT_VERSION),
            insert: sql(INSERT),
            returning: sql(RETURNING),
            move_head: sql(MOVE_HEAD),
            read_events: select("WHERE {global_position} > ?1 ORDER BY {global_position} LIMIT ?2"),
            extent: sql(EXTENT),
            last_within: sql(LAST_WITHIN),
            scoped_sizes: sql(SCOPED_SIZES),
            read_up_to: select(
                "WHERE {global_position} > ?1 AND {global_position} <= ?2 \
                 ORDER BY {global_position}",
            ),
            read_positions: select(
                "WHERE {global_position} IN (SELECT value FROM json_each(?1)) \
                 ORDER BY {global_position}",
            ),
            read_aggregate: select(
                "WHERE {aggregate_type} = ?1 AND {aggregate_id} = ?2 \
                   AND {aggregate_version} BETWEEN ?3 AND ?4 ORDER BY {aggregate_version}",
            ),
            latest_global_position: sql("SELECT COALESCE(max({global_position}), 0) FROM {events}"),
            probe_events: probe(COLUMNS, "{events}"),
            probe_heads: probe(HEAD_COLUMNS, "{heads}"),
            version: sql("SELECT COALESCE(max(version), 0) FROM {versions}"),
            settings: settings.clone(),
        }
    }

    /// Inserts an event for each of the versions, 10 values each.
    ///
    /// The parameters have no numbers: SQLite finds a numbered one by going through all of them.
    pub(super) fn insert_rows(&self, versions: RangeInclusive<i64>) -> String {
        let mut sql = self.insert.as_ref().to_owned();
        let mut separator = ' ';
        for version in versions {
            let _ = write!(sql, "{separator}(?, ?, {version}, ?, ?, ?, ?, ?, ?, ?, ?)");
            separator = ',';
        }
        sql.push_str(self.returning.as_ref());
        sql
    }

    pub(super) fn settings(&self) -> &StoreSettings {
        &self.settings
    }

    pub(super) fn schema(&self) -> &Schema {
        &self.settings.schema
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use sqlx::{AssertSqlSafe, Row};

    use super::Statements;
    use crate::backend::{Sql, StoreSettings};
    use crate::{Schema, SqliteEventStore};

    fn statements() -> Statements {
        Statements::new(&StoreSettings {
            schema: Schema::default(),
            notify: false,
            keep_statements: true,
        })
    }

    async fn plan(sql: &Sql) -> String {
        let store = SqliteEventStore::connect("sqlite::memory:").await.unwrap();
        store.migrate().await.unwrap();
        let explained = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", sql.as_ref()));
        let rows = sqlx::query(explained)
            .fetch_all(store.pool())
            .await
            .unwrap();
        let steps: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        steps.join("\n")
    }

    #[tokio::test]
    async fn a_scope_is_read_by_its_index_and_nothing_is_sorted() {
        let plan = plan(&statements().scoped_sizes).await;
        assert!(plan.contains("consumer_events_scope"), "{plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    }

    #[tokio::test]
    async fn the_log_is_read_by_position_and_nothing_is_sorted() {
        let statements = statements();
        for sql in [
            &statements.read_events,
            &statements.extent,
            &statements.last_within,
            &statements.read_up_to,
        ] {
            let plan = plan(sql).await;
            assert!(plan.contains("USING INTEGER PRIMARY KEY"), "{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        }
    }

    #[tokio::test]
    async fn an_aggregate_is_read_by_its_index_and_nothing_is_sorted() {
        let plan = plan(&statements().read_aggregate).await;
        assert!(
            plan.contains("USING INDEX sqlite_autoindex_events"),
            "{plan}"
        );
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    }

    #[test]
    fn no_statement_has_a_name_left_to_be_filled_in() {
        let statements = statements();
        for sql in [
            &statements.insert,
            &statements.move_head,
            &statements.probe_heads,
        ] {
            assert!(!sql.as_ref().contains(['{', '}']), "{}", sql.as_ref());
        }
    }
}
