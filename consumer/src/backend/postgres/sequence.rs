//! The sequence that positions are drawn from, and what must be true of it and of the table of events for
//! its locks to tell which positions are still to come.

use sqlx::postgres::{PgConnection, PgRow, Postgres};
use sqlx::{AssertSqlSafe, Row as _};

use super::catalogue::{base_tables, hidden_from_of_view};
use super::connect::{server_incarnation, with_numbers};
use super::marker::{Marker, no_proof, server_marker};
use crate::backend::{
    Access, Column, FrontierError, LogProblem, Mismatch, Sql, StoreError, StoreSettings,
};

/// The table `$2`, its column `$3`, and the sequence that this draws from: that of the name `$1`, if the
/// mapping has one.
const SEQUENCE: &str = "
    SELECT coalesce(s.seqrelid::bigint, 0) AS relation,
           coalesce(quote_ident(n.nspname) || '.' || quote_ident(c.relname), '') AS name,
           t.attrelid::bigint AS events, t.attnum::bigint AS column,
           coalesce(has_sequence_privilege(s.seqrelid, 'SELECT'), false) AS is_readable,
           (SELECT relkind = 'v' FROM pg_class WHERE oid = t.attrelid) AS is_view
      FROM pg_attribute AS t
      LEFT JOIN pg_sequence AS s ON s.seqrelid = CASE WHEN $1 IS NOT NULL THEN to_regclass($1)::oid ELSE coalesce((
           -- That of SERIAL or IDENTITY. Not by its name, whose schema the role need not be able to use.
           SELECT d.objid
             FROM pg_depend AS d
             JOIN pg_sequence AS own ON own.seqrelid = d.objid
            WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
              AND d.refobjid = t.attrelid AND d.refobjsubid = t.attnum AND d.deptype IN ('a', 'i')
            ORDER BY d.objid LIMIT 1), (
           -- Drawn from by the column's default and not owned by it, as for partitioned tables.
           SELECT d.refobjid
             FROM pg_attrdef AS v
             JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = v.oid
             JOIN pg_sequence AS drawn ON drawn.seqrelid = d.refobjid
            WHERE v.adrelid = t.attrelid AND v.adnum = t.attnum
              AND d.refclassid = 'pg_class'::regclass
            ORDER BY d.refobjid LIMIT 1)) END
      LEFT JOIN pg_class AS c ON c.oid = s.seqrelid
      LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE t.attrelid = $2::regclass AND t.attname = $3";

/// The conditions under which the locks on the sequence `$1` tell which positions of column `$3` of the
/// table `$2` are still to come, and under which all events are visible. All of them can change while a
/// worker runs. The sequence's columns are NULL if there is none any more, and `hidden` is the role from
/// which row-level security hides events.
const CONDITIONS: &str = concat!(
    "
    SELECT s.seqcache AS cache, s.seqincrement AS increment, s.seqcycle AS cycle,
           -- Of a partitioned table also each partition, which no row names for the whole.
           EXISTS (SELECT FROM pg_subscription_rel
                    WHERE srrelid = $2::oid
                       OR srrelid IN (SELECT relid FROM pg_partition_tree($2::oid))) AS subscribed,
           -- Another sequence that the column draws from, by its default or as its identity.
           (SELECT format('%I.%I', n.nspname, c.relname)
              FROM (SELECT d.refobjid AS oid
                      FROM pg_attrdef AS v
                      JOIN pg_depend AS d ON d.classid = 'pg_attrdef'::regclass AND d.objid = v.oid
                                         AND d.refclassid = 'pg_class'::regclass
                     WHERE v.adrelid = $2::oid AND v.adnum = $3
                     UNION ALL
                    SELECT d.objid
                      FROM pg_depend AS d
                     WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
                       AND d.refobjid = $2::oid AND d.refobjsubid = $3 AND d.deptype = 'i') AS drawn
              JOIN pg_class AS c ON c.oid = drawn.oid
              JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE c.relkind = 'S' AND c.oid <> $1::oid LIMIT 1) AS other,
           CASE WHEN row_security_active($2::oid) THEN format('%I', current_user) END AS hidden,
           current_setting('session_replication_role') = 'replica' AS replica,
           NULL AS derived, ",
    server_marker!(),
    " AS marker
      FROM (SELECT 1) AS always LEFT JOIN pg_sequence AS s ON s.seqrelid = $1::oid"
);

/// The same for a view `$2`. What is true of the table of events has to be true of each table that it
/// reads: those that draw positions draw from the sequence `$1`, and their rows appear when they commit.
const CONDITIONS_OF_VIEW: &str = concat!(
    "
    WITH RECURSIVE ",
    base_tables!("$2"),
    "
    SELECT s.seqcache AS cache, s.seqincrement AS increment, s.seqcycle AS cycle,
           EXISTS (SELECT FROM pg_subscription_rel AS r JOIN base AS b
                       ON r.srrelid = b.oid OR r.srrelid IN (SELECT relid FROM pg_partition_tree(b.oid)))
               AS subscribed,
           (SELECT format('%I.%I', n.nspname, c.relname)
              FROM drawn AS d
              JOIN pg_class AS c ON c.oid = d.sequence
              JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE NOT EXISTS (SELECT FROM drawn AS own
                                WHERE own.relation = d.relation AND own.sequence = $1::oid)
             ORDER BY c.oid LIMIT 1) AS other,
           ",
    hidden_from_of_view!(),
    " AS hidden,
           current_setting('session_replication_role') = 'replica' AS replica,
           (SELECT c.oid::regclass::text FROM base AS b JOIN pg_class AS c ON c.oid = b.oid
             WHERE c.relkind IN ('m', 'f') LIMIT 1) AS derived, ",
    server_marker!(),
    " AS marker
      FROM (SELECT 1) AS always LEFT JOIN pg_sequence AS s ON s.seqrelid = $1::oid"
);

/// The sequence that positions are drawn from, and the column that draws.
#[derive(Debug)]
pub(super) struct Sequence {
    /// 0 if there is none.
    pub(super) relation: i64,
    pub(super) name: String,
    /// The table of events.
    pub(super) events: i64,
    /// The column of positions in it.
    column: i64,
    /// Both by their names.
    table_name: String,
    column_name: String,
    /// The name in the mapping, if it has one.
    mapped: Option<String>,
    /// Whether the table of events is a view.
    is_view: bool,
    /// Whether the role may read the last value.
    pub(super) is_readable: bool,
    /// Whether another program draws the positions.
    pub(super) is_read_only: bool,
}

impl Sequence {
    /// Finds the sequence from which a column of the table of events draws.
    pub(super) async fn find(
        settings: &StoreSettings,
        connection: &mut PgConnection,
        column: &str,
    ) -> Result<Self, sqlx::Error> {
        let schema = &settings.schema;
        let row = Sql::new(settings, SEQUENCE)
            .query::<Postgres>()
            .bind(schema.sequence_name())
            .bind(schema.render("{events}"))
            .bind(column)
            .fetch_one(&mut *connection)
            .await?;
        Ok(Self {
            relation: row.try_get("relation")?,
            name: row.try_get("name")?,
            events: row.try_get("events")?,
            column: row.try_get("column")?,
            table_name: schema.log_name(),
            column_name: column.to_owned(),
            mapped: schema.bare_sequence_name().map(str::to_owned),
            is_view: row.try_get("is_view")?,
            is_readable: row.try_get("is_readable")?,
            is_read_only: schema.is_read_only(),
        })
    }

    /// The statement that reads the [`CONDITIONS`].
    pub(super) fn conditions(&self) -> AssertSqlSafe<String> {
        let conditions = if self.is_view {
            CONDITIONS_OF_VIEW
        } else {
            CONDITIONS
        };
        with_numbers(conditions, &[self.relation, self.events, self.column])
    }

    pub(super) async fn read_conditions(
        &self,
        connection: &mut PgConnection,
    ) -> Result<PgRow, sqlx::Error> {
        sqlx::raw_sql(self.conditions()).fetch_one(connection).await
    }

    /// Refuses conditions under which events could be lost, and returns which server they are those of.
    pub(super) fn check(&self, conditions: &PgRow) -> Result<Marker, FrontierError> {
        let marker = Marker::expect(conditions)?;
        let of_server = if marker.is_standby {
            Some(LogProblem::Standby)
        } else if conditions.try_get("subscribed")? {
            Some(LogProblem::ReplicationTarget)
        } else {
            None
        };
        let of_log = self.problems(conditions)?;
        let of_session = conditions
            .try_get::<bool, _>("replica")?
            .then_some(LogProblem::TriggersOff);
        match of_server.into_iter().chain(of_log).chain(of_session).next() {
            // The column may draw from another one by now, which shows when the worker connects again.
            Some(LogProblem::NoSequence { .. }) if self.relation != 0 => {
                Err(no_proof("the sequence of the log was dropped").into())
            }
            Some(problem) => Err(problem.into()),
            None => Ok(marker),
        }
    }

    /// All that is wrong with the log itself, whatever server and session it is read in.
    fn problems(&self, conditions: &PgRow) -> Result<Vec<LogProblem>, sqlx::Error> {
        let mut problems = Vec::new();
        let name = || self.name.clone();
        let cache: Option<i64> = conditions.try_get("cache")?;
        let increment: Option<i64> = conditions.try_get("increment")?;
        let cycle: Option<bool> = conditions.try_get("cycle")?;
        let other: Option<String> = conditions.try_get("other")?;
        // Without one there is no other.
        if let Some(other) = other.filter(|_| cache.is_some()) {
            let name = name();
            let of_view = self.is_view;
            problems.push(LogProblem::OtherSequence {
                name,
                other,
                of_view,
            });
        }
        if let Some(table) = conditions.try_get("derived")? {
            problems.push(LogProblem::DerivedRows { table });
        }
        if cache.is_none() {
            problems.push(LogProblem::NoSequence {
                table: self.table_name.clone(),
                column: self.column_name.clone(),
                sequence: self.mapped.clone(),
            });
        } else {
            if cache != Some(1) {
                problems.push(LogProblem::CachedSequence { name: name() });
            }
            if increment != Some(1) || cycle != Some(false) {
                problems.push(LogProblem::OddSequence { name: name() });
            }
        }
        if let Some(role) = conditions.try_get("hidden")? {
            problems.push(LogProblem::HiddenEvents { role });
        }
        Ok(problems)
    }
}

/// All that keeps a worker from this log, next to the other differences from the mapping.
pub(super) async fn mismatches(
    connection: &mut PgConnection,
    settings: &StoreSettings,
    access: Option<Access>,
    others: &[Mismatch],
) -> Result<Vec<Mismatch>, StoreError> {
    if matches!(access, Some(Access::Observe | Access::Operate)) {
        // Such a program shows what is wrong with the log beside the rest.
        return Ok(Vec::new());
    }
    let is_any = |like: fn(&Mismatch) -> bool| others.iter().any(like);
    let mut column = Some(settings.schema.column_name(Column::GlobalPosition));
    for other in others {
        if let Mismatch::NoColumn {
            column: Column::GlobalPosition,
            ..
        } = other
        {
            column = other.only_candidate();
        }
    }
    let Some(column) = column.filter(|_| !is_any(|one| matches!(one, Mismatch::NotATable { .. })))
    else {
        return Ok(Vec::new());
    };
    let sequence = Sequence::find(settings, connection, column).await?;
    let conditions = sequence.read_conditions(connection).await?;
    let mut problems = sequence.problems(&conditions)?;
    if is_any(|one| matches!(one, Mismatch::NoSequence { .. })) {
        problems.retain(|problem| !matches!(problem, LogProblem::NoSequence { .. }));
    }
    if access == Some(Access::Append) {
        // A program that only appends need not see the events of others.
        problems.retain(|problem| !matches!(problem, LogProblem::HiddenEvents { .. }));
    }
    Ok(problems.into_iter().map(Mismatch::Log).collect())
}
