//! Remembers which event each consumer has yet to handle, as evidence in case it is deleted before that.
//!
//! A gap in the positions says nothing by itself: a position that was rolled back looks like an event that
//! was deleted. So the worker records events that it has seen: the first that a row is yet to handle, and,
//! in memory, some of the positions that the log has had.

use std::collections::HashSet;
use std::sync::Arc;

use sqlx::{Connection as _, SqlSafeStr as _};

use crate::backend::{
    Backend, Checkpoint, FrontierWatch as _, LogRow, ReadRange, SegmentId, State, position,
    readable_event,
};
use crate::worker::error::WorkerError;
use crate::worker::log::batch::Filter;
use crate::worker::poller::Poller;
use crate::worker::poller::searched::Searched;

/// How many events are read at a time to find the first one of a segment.
const READ_AT_ONCE: u32 = 100;

impl<DB: Backend> Poller<DB> {
    /// Records the lowest position of the log once it has one.
    pub(super) async fn note_first(&mut self) -> Result<(), WorkerError> {
        let first = self.snapshot.borrow().log.first;
        if first.is_some() || self.observed().settled == 0 {
            return Ok(());
        }
        if !self.writing.begin() {
            return Ok(());
        }
        let rows = self.read(0, 1, None).await?;
        if let Some(row) = rows.first() {
            self.watch
                .note_first(self.connection.get()?, position(row))
                .await?;
        }
        Ok(())
    }

    /// Records the first event that each row has yet to handle: of rows that do not run, and, if told, of
    /// those that are behind.
    pub(super) async fn note_pending(&mut self, of_running: bool) -> Result<(), WorkerError> {
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let settled = self.observed().settled;
        let idle = self.idle_lanes(settled);
        self.searched
            .retain(|key, _| snapshot.rows.contains_key(key));
        for row in snapshot.rows.values() {
            let known = snapshot.pending.get(&row.key);
            let is_behind =
                row.position < settled && known.is_none_or(|known| *known <= row.position);
            let is_wanted = row.state != State::Running || (of_running && !idle.contains(&row.key));
            if is_behind && is_wanted {
                self.note_pending_of(row).await?;
            }
        }
        let has_passed = |row: &Checkpoint| {
            let recorded = [&snapshot.pending, &snapshot.kept];
            let mut recorded = recorded
                .into_iter()
                .filter_map(|events| events.get(&row.key));
            recorded.any(|event| *event <= row.position)
        };
        if of_running && snapshot.rows.values().any(has_passed) {
            self.drop_passed().await?;
        }
        Ok(())
    }

    /// The rows for which a lane of this process has nothing to handle.
    fn idle_lanes(&self, settled: i64) -> HashSet<SegmentId> {
        let lanes = self.shared.progress.lanes();
        let idle = lanes.iter().filter(|lane| {
            let cursor = lane.cursor();
            cursor.is_some_and(|cursor| cursor.after >= settled)
        });
        idle.map(|lane| lane.key.clone()).collect()
    }

    async fn note_pending_of(&mut self, row: &Checkpoint) -> Result<(), WorkerError> {
        let searched = self.searched.get(&row.key);
        let searched = searched.map_or(row.position, |searched| searched.to(row));
        let settled = self.observed().settled;
        if searched >= settled {
            return Ok(());
        }
        let filter = Filter::of_row(row);
        let rows = self.read(searched, READ_AT_ONCE, Some(&filter)).await?;
        let found = rows.iter().find(|row| filter.contains(readable_event(row)));
        let Some(found) = found.map(position) else {
            let is_end = rows.len() < READ_AT_ONCE as usize;
            let to = rows.last().filter(|_| !is_end).map_or(settled, position);
            self.searched.insert(row.key.clone(), Searched::of(row, to));
            return Ok(());
        };
        if !self.writing.begin() {
            return Ok(());
        }
        let (statements, incarnation) = (&self.shared.statements, self.observed().incarnation);
        let connection = self.connection.get()?;
        DB::note_pending(statements, connection, row, found, incarnation).await?;
        Ok(())
    }

    async fn drop_passed(&mut self) -> Result<(), WorkerError> {
        if self.writing.begin() {
            DB::drop_passed(&self.shared.statements, self.connection.get()?).await?;
        }
        Ok(())
    }

    /// Reads settled events after a position.
    async fn read(
        &mut self,
        after: i64,
        limit: u32,
        filter: Option<&Filter>,
    ) -> Result<Vec<LogRow>, WorkerError> {
        let observed = self.observed();
        let range = ReadRange {
            after,
            up_to: observed.settled,
            limit,
            max_bytes: 1 << 20,
            scope: filter.map(|filter| &*filter.scope),
        };
        let begin = DB::BEGIN_READ.into_sql_str();
        let mut tx = self.connection.get()?.begin_with(begin).await?;
        let store = &self.shared.store;
        let rows = store
            .read_settled(&mut tx, range, observed.incarnation)
            .await?;
        tx.commit().await?;
        Ok(rows)
    }
}
