//! The ledger of handled events: which of them are replays, whatever operators and versions did.
//!
//! A consumer of a name has handled an event if the event is in a range that one of its rows has
//! passed, `(began, position]`, and is not parked there. Before a row goes back, changes its scope or
//! disappears, that range is folded into the ledger, which has no versions.

use std::ops::Range;

use super::driver::Driver;
use super::rows::{ConsumerId, on_consumer};
use super::sql::{Sql, Statement};
use super::{SLICES, aggregate_slice};
use crate::contract::PersistedEvent;

/// The ranges that rows have passed, without their parked events. A position belongs to one event, so
/// that a range can end before it for all slices.
macro_rules! passed {
    (rows $rows:literal, parked $parked:literal) => {
        concat!(
            "
    WITH edges (consumer, version, slice_from, slice_to, scope, after, position) AS (
        SELECT consumer, version, slice_from, slice_to, scope, began, position
          FROM {progress} AS p WHERE ",
            $rows,
            "
        UNION ALL
        SELECT p.consumer, p.version, p.slice_from, p.slice_to, p.scope, k.position, p.position
          FROM {progress} AS p JOIN {parked} AS k
            ON k.consumer = p.consumer AND k.version = p.version AND k.slice >= p.slice_from
           AND k.slice < p.slice_to AND k.position > p.began AND k.position <= p.position
           -- A replay was handled before it was parked.
           AND NOT k.replay AND ",
            $parked,
            "
         WHERE ",
            $rows,
            "),
    passed AS (
        SELECT consumer, scope, slice_from, slice_to, after,
               lead(after, 1, position + 1)
               OVER (PARTITION BY version, slice_from ORDER BY after) - 1 AS up_to
          FROM edges)"
        )
    };
}

/// The handled ranges of the slices from `$3` to before `$4` that end after the position `$2`.
pub(super) const HANDLED: &str = concat!(
    passed!(rows "p.consumer = $1 AND p.slice_to > $3 AND p.slice_from < $4", parked "k.position > $2"),
    "
    SELECT scope, slice_from, slice_to, after, up_to FROM passed WHERE after < up_to AND up_to > $2
    UNION ALL
    SELECT scope, slice_from, slice_to, after, up_to FROM {handled}
     WHERE consumer = $1 AND slice_to > $3 AND slice_from < $4 AND up_to > $2"
);

/// Copies what the rows that begin from slice `$3` to before `$4` have passed.
pub(super) const FOLD: &str = concat!(
    "
    INSERT INTO {handled} (consumer, scope, slice_from, slice_to, after, up_to)",
    passed!(rows "p.consumer = $1 AND p.version = $2 AND p.slice_from >= $3 AND p.slice_from < $4",
            parked "true"),
    "
    SELECT consumer, scope, slice_from, slice_to, after, up_to FROM passed WHERE after < up_to"
);

/// Begins the ranges of these rows anew.
pub(super) const FOLDED: &str = "
    UPDATE {progress} SET began = position
     WHERE consumer = $1 AND version = $2 AND slice_from >= $3 AND slice_from < $4";

/// Removes the ranges that others contain, the later one of two that are equal.
pub(super) const COMPACT: &str = "
    DELETE FROM {handled} AS h
     WHERE consumer = $1 AND EXISTS (
           SELECT 1 FROM {handled} AS o
            WHERE o.consumer = h.consumer AND o.scope = h.scope
              AND o.slice_from <= h.slice_from AND h.slice_to <= o.slice_to
              AND o.after <= h.after AND h.up_to <= o.up_to
              AND (o.slice_to - o.slice_from, o.up_to - o.after, -o.id)
                > (h.slice_to - h.slice_from, h.up_to - h.after, -h.id))";

/// Adds a parked event that is handled now, unless a row that has passed it says so.
pub(super) const KEEP_UNPARKED: &str = "
    INSERT INTO {handled} (consumer, scope, slice_from, slice_to, after, up_to)
    SELECT k.consumer, '', k.slice, k.slice + 1, k.position - 1, k.position FROM {parked} AS k
     WHERE k.consumer = $1 AND k.version = $2 AND k.position = $3 AND NOT k.replay
       AND NOT EXISTS (
           SELECT 1 FROM {progress} AS p
            WHERE p.consumer = $1 AND p.version = $2
              AND p.slice_from <= k.slice AND k.slice < p.slice_to
              AND p.began < k.position AND k.position <= p.position)";

/// The statements that [`fold`] runs in turn.
pub(super) struct Folding<'a> {
    pub(super) fold: &'a Sql,
    pub(super) folded: &'a Sql,
    pub(super) compact: &'a Sql,
}

/// Moves what rows have passed into the ledger; only under the locks of the rows.
pub(super) async fn fold<DB: Driver>(
    sql: Folding<'_>,
    connection: &mut DB::Connection,
    of: &ConsumerId,
    first_slices: Range<i32>,
) -> Result<(), sqlx::Error> {
    for statement in [sql.fold, sql.folded] {
        on_consumer::<DB>(statement, of)
            .bind(first_slices.start)
            .bind(first_slices.end)
            .execute(connection)
            .await?;
    }
    let compact = sql.compact.on::<DB>().bind(&*of.name);
    compact.execute(connection).await.map(drop)
}

/// The first slices of all rows of a consumer.
pub(super) fn all_slices() -> Range<i32> {
    0..i32::from(SLICES)
}

/// Some of the events that any version of a consumer has handled.
#[derive(Debug)]
pub struct Ledger(Vec<LedgerRange>);

#[derive(Debug)]
struct LedgerRange {
    /// Empty for every type (R7).
    scope: Vec<String>,
    slices: Range<i32>,
    after: i64,
    up_to: i64,
}

/// Events at the beginning of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// How many.
    pub(crate) take: usize,
    /// Whether all of them are replays, or none.
    pub(crate) is_replay: bool,
}

impl Ledger {
    /// Reads the ranges of a consumer that end after a position and have some of these slices.
    pub(super) async fn read<DB: Driver>(
        sql: &Sql,
        connection: &mut DB::Connection,
        consumer: &str,
        after: i64,
        slices: Range<i32>,
    ) -> Result<Self, sqlx::Error> {
        let query: Statement<DB> = sql.on::<DB>().bind(consumer).bind(after);
        let query = query.bind(slices.start).bind(slices.end);
        let rows = query.fetch_all(connection).await?;
        let ranges = rows.iter().map(LedgerRange::decode::<DB>);
        Ok(Self(ranges.collect::<Result<_, _>>()?))
    }

    /// Whether an event is one of them.
    pub(crate) fn has(&self, event: &PersistedEvent) -> bool {
        self.contains(
            &event.aggregate_type,
            &event.aggregate_id,
            event.global_position,
        )
    }

    /// Whether an event, of which only this is known, is one of them.
    pub(crate) fn contains(&self, aggregate_type: &str, aggregate_id: &str, position: i64) -> bool {
        let slice = i32::from(aggregate_slice(aggregate_id));
        self.0.iter().any(|range| {
            range.after < position
                && position <= range.up_to
                && range.slices.contains(&slice)
                && (range.scope.is_empty() || range.scope.iter().any(|one| one == aggregate_type))
        })
    }

    /// The events before the first one that is a replay where the first of all is not, or the other
    /// way round.
    pub(crate) fn run(&self, events: &[PersistedEvent]) -> Run {
        let mut replays = events.iter().map(|event| self.has(event));
        let Some(is_replay) = replays.next() else {
            return Run {
                take: 0,
                is_replay: false,
            };
        };
        Run {
            take: 1 + replays.take_while(|next| *next == is_replay).count(),
            is_replay,
        }
    }
}

impl LedgerRange {
    fn decode<DB: Driver>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        let scope: String = DB::read(row, "scope")?;
        Ok(Self {
            scope: scope.lines().map(str::to_owned).collect(),
            slices: DB::read(row, "slice_from")?..DB::read(row, "slice_to")?,
            after: DB::read(row, "after")?,
            up_to: DB::read(row, "up_to")?,
        })
    }
}
