//! The metrics that the poller reports.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection as _, SqlSafeStr as _};

use crate::backend::{
    Backend, Checkpoint, ConsumerId, LogRow, ReadRange, SegmentId, State, StoreError,
};
use crate::worker::metrics::{self, WaitingSegments};
use crate::worker::poller::Poller;
use crate::worker::progress::lane::{FirstPending, LaneProgress};
use crate::worker::progress::state::ConsumerState;

impl<DB: Backend> Poller<DB> {
    /// Reports the state of each consumer.
    pub(super) fn measure_states(&self) {
        for report in self.shared.progress.consumers() {
            let label = report.state.metric_label();
            metrics::state(
                &self.shared.log_name,
                &report.id,
                &ConsumerState::METRIC_LABELS,
                label,
            );
        }
    }

    /// Reports the state of each consumer, how far each lane is behind, and which lanes wait for an operator.
    pub(super) async fn measure_lanes(&mut self) {
        if !metrics::IS_ON {
            return;
        }
        self.measure_states();
        // To the head: to the frontier, no consumer is behind while the frontier is blocked.
        let (head, settled) = (self.observed().head, self.observed().settled);
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let mut waiting: HashMap<ConsumerId, WaitingSegments> = HashMap::new();
        for lane in self.shared.progress.lanes() {
            // A lane that may not run has no cursor, and its row is behind all the same.
            let after = lane.cursor().map(|cursor| cursor.after);
            let row = snapshot.rows.get(&lane.key);
            let after = row.map_or(head, |row| after.unwrap_or(row.position));
            let after = after.min(head);
            let first = self.first_after(&lane, after, head).await;
            let age = first.map_or(Duration::ZERO, |first| first.age());
            let settled = (settled - after).max(0);
            metrics::lag(&self.shared.log_name, &lane.key, head - after, settled, age);
            let is_unreadable = first.is_some_and(|first| first.is_unreadable);
            let waiting = waiting.entry(lane.key.consumer.clone()).or_default();
            waiting.add(&lane.state(), row, is_unreadable);
        }
        for consumer in &self.assigner.consumers {
            let waiting = waiting.remove(consumer.id()).unwrap_or_default();
            metrics::waiting_segments(&self.shared.log_name, consumer.id(), waiting);
        }
    }

    /// The first pending event of a lane. A lane that handles a batch knows it; for others it is read from the
    /// log, once per event, or each time as long as it cannot be decoded.
    async fn first_after(
        &mut self,
        lane: &LaneProgress,
        after: i64,
        head: i64,
    ) -> Option<FirstPending> {
        if after >= head {
            return None;
        }
        let known = lane.first_pending(after, head);
        if let Some(first) = known.filter(|first| !first.is_unreadable) {
            return Some(first);
        }
        match self.first_pending(&lane.key, after, head).await {
            Ok(first) => {
                lane.set_first_pending(first);
                Some(first)
            }
            // The next statement that matters reports the error.
            Err(_) => None,
        }
    }

    async fn first_pending(
        &mut self,
        key: &SegmentId,
        after: i64,
        up_to: i64,
    ) -> Result<FirstPending, StoreError> {
        let mut consumers = self.assigner.consumers.iter();
        let consumer = consumers.find(|consumer| consumer.owns(key));
        let scope = consumer.map(|consumer| Arc::clone(&consumer.scope));
        let range = ReadRange {
            after,
            up_to,
            limit: 1,
            max_bytes: 0,
            scope: scope.as_deref(),
        };
        let begin = DB::BEGIN_READ.into_sql_str();
        let mut tx = self.connection.get()?.begin_with(begin).await?;
        let rows = self.shared.store.read_rows(&mut tx, range).await?;
        tx.commit().await?;
        let event = |row: &LogRow| match row {
            Ok(event) => event.created_at,
            Err(unreadable) => unreadable.event.created_at,
        };
        Ok(FirstPending {
            after,
            up_to,
            created_at: rows.first().map(event),
            is_unreadable: rows.first().is_some_and(Result::is_err),
        })
    }

    /// Reports how many events of each consumer are parked.
    pub(super) async fn measure_parked(&mut self) {
        if !metrics::IS_ON {
            return;
        }
        let Ok(connection) = self.connection.get() else {
            return;
        };
        let counts = DB::parked_counts(&self.shared.statements, connection).await;
        let Ok(counts) = counts else { return };
        for consumer in &self.assigner.consumers {
            let own = counts.iter().find(|(other, _)| other == consumer.id());
            let parked = own.map_or(0, |(_, events)| *events);
            metrics::parked(&self.shared.log_name, consumer.id(), parked);
        }
    }
}

impl WaitingSegments {
    /// Counts a lane if it waits before its next event.
    fn add(&mut self, state: &ConsumerState, row: Option<&Checkpoint>, is_unreadable: bool) {
        let is_running = row.is_some_and(|row| row.state == State::Running);
        match state {
            _ if is_unreadable => self.unreadable += 1,
            ConsumerState::WaitingForRelease { .. } => self.unknown += 1,
            // In other processes, the row runs.
            ConsumerState::Stopped { .. } if is_running => self.left += 1,
            _ => {}
        }
    }
}
