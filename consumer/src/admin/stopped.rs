//! Getting a consumer past the event that it cannot handle, or does not know.

use std::sync::Arc;

use sqlx::Transaction;

use super::error::AdminError;
use super::lag::scope_of;
use super::locks::LOCK_WAIT;
use super::operator::{Admin, consumer_of};
use super::options::Target;
use crate::backend::{
    Backend, Checkpoint, ConsumerId, Parking, Part, ReadRange, SLICES, State, aggregate_slice,
    position as log_position, readable_event,
};

/// How many events are read at a time to see whether they belong to a segment.
const READ_AT_ONCE: u32 = 1_000;

impl<DB: Backend> Admin<DB> {
    /// Parks the event at which a consumer has stopped, or before which it waits for a release that knows it, and
    /// resumes the consumer.
    ///
    /// Later events of the same aggregate are parked behind it, so that their order is kept, until
    /// they are [retried](Self::retry_parked).
    ///
    /// ```
    /// # consumer::__doc::registered(async |store| { use consumer::__doc::Invoices;
    /// use consumer::Worker;
    ///
    /// let admin = Worker::builder(store.clone()).consumer(Invoices::default()).admin()?;
    /// Worker::builder(store).consumer(Invoices::default()).build()?.run_once().await?;
    /// assert_eq!(admin.status().await?.consumers[0].state.name(), "stopped");
    ///
    /// admin.park("invoices", 1).await?;
    /// assert_eq!(admin.status().await?.consumers[0].state.name(), "running");
    /// assert_eq!(admin.parked("invoices").await?.len(), 1);
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// - [`AdminError::NotStoppedAt`]: the consumer neither is stopped at that event nor waits before it.
    /// - [`AdminError::NotNext`]: there may be unhandled events before it.
    /// - [`AdminError::NotInLog`]: the log no longer has the event; skip it.
    /// - [`AdminError::Worker`] with a [`LogProblem`](crate::LogProblem): the log has yet to give out its position,
    ///   as after a restore.
    pub async fn park(&self, consumer: impl Into<Target>, position: i64) -> Result<(), AdminError> {
        let consumer = self.find(consumer.into()).await?;
        let given_out = self.refuse_above(position).await;
        let mut tx = self.locked(&consumer, LOCK_WAIT).await?;
        let stopped = self.stopped_at(&mut tx, &consumer, position).await?;
        given_out?;
        self.park_at(&mut tx, &stopped, position).await?;
        self.pass(tx, &stopped, position).await?;
        tracing::warn!(%consumer, position, "an operator parked the event at which the consumer stopped");
        Ok(())
    }

    /// Passes over the event at which a consumer has stopped, or before which it waits for a release that knows
    /// it, without handling it, and resumes the consumer; [`park`](Self::park) lets you handle the event
    /// later.
    ///
    /// # Errors
    /// - [`AdminError::NotStoppedAt`]: the consumer neither is stopped at that event nor waits before it.
    /// - [`AdminError::NotNext`]: there may be unhandled events before it.
    /// - [`AdminError::Worker`] with a [`LogProblem`](crate::LogProblem): the log has yet to give out its position,
    ///   as after a restore.
    pub async fn skip(&self, consumer: impl Into<Target>, position: i64) -> Result<(), AdminError> {
        let consumer = self.find(consumer.into()).await?;
        let given_out = self.refuse_above(position).await;
        let mut tx = self.locked(&consumer, LOCK_WAIT).await?;
        let stopped = self.stopped_at(&mut tx, &consumer, position).await?;
        given_out?;
        self.pass(tx, &stopped, position).await?;
        tracing::warn!(%consumer, position, "an operator skipped the event at which the consumer stopped");
        Ok(())
    }

    /// The segments that are stopped at an event or wait before it, each with nothing unhandled before it.
    ///
    /// A segment that was split while it was stopped has left both halves stopped at the event.
    pub(super) async fn stopped_at(
        &self,
        tx: &mut Transaction<'_, DB>,
        consumer: &ConsumerId,
        position: i64,
    ) -> Result<Vec<Checkpoint>, AdminError> {
        let rows = DB::rows(&self.tables().await?.sql, tx).await?;
        let own = rows.into_iter().filter(|row| consumer_of(row) == consumer);
        let (stopped, others): (Vec<Checkpoint>, Vec<Checkpoint>) = own
            .map(|row| row.checkpoint)
            .filter(|row| halted_at(row).is_some())
            .partition(|row| halted_at(row) == Some(position));
        if stopped.is_empty() {
            return Err(AdminError::NotStoppedAt {
                consumer: consumer.clone(),
                position,
                stopped_at: others.iter().filter_map(halted_at).collect(),
            });
        }
        for row in &stopped {
            self.refuse_unhandled(tx, row, position).await?;
            self.refuse_another_event(tx, row, position).await?;
        }
        Ok(stopped)
    }

    /// Refuses to pass an event that has taken the position of the one that a row waits for, as after a
    /// restore of the database. One that was deleted is passed.
    async fn refuse_another_event(
        &self,
        tx: &mut Transaction<'_, DB>,
        row: &Checkpoint,
        position: i64,
    ) -> Result<(), AdminError> {
        let Some(unknown) = row.unknown.as_ref().filter(|_| row.state == State::Running) else {
            return Ok(());
        };
        let event = self.event(tx, position).await?;
        if event.is_none_or(|event| unknown.is(readable_event(&event))) {
            return Ok(());
        }
        Err(AdminError::NotStoppedAt {
            consumer: row.key.consumer.clone(),
            position,
            stopped_at: Vec::new(),
        })
    }

    /// Refuses to pass an event with unhandled events before it, such as those of types that were
    /// added to the scope after the consumer stopped.
    ///
    /// Gaps need no check: a worker only handles events below the frontier, where none can appear.
    async fn refuse_unhandled(
        &self,
        tx: &mut Transaction<'_, DB>,
        row: &Checkpoint,
        position: i64,
    ) -> Result<(), AdminError> {
        let part = Part {
            after: row.position,
            up_to: position - 1,
            scope: &scope_of(&row.scope),
        };
        let is_clear = DB::count(&self.tables().await?.lag, tx, part, 1).await? == 0
            || (is_segment(row) && !self.segment_has_events(tx, row, part).await?);
        if is_clear {
            return Ok(());
        }
        Err(AdminError::NotNext {
            consumer: row.key.consumer.clone(),
            position,
            unhandled: part.after + 1..=part.up_to,
        })
    }

    /// Whether any event in a part of the log belongs to a segment.
    async fn segment_has_events(
        &self,
        tx: &mut Transaction<'_, DB>,
        row: &Checkpoint,
        part: Part<'_>,
    ) -> Result<bool, AdminError> {
        let scope: Vec<Arc<str>> = part.scope.iter().map(|kind| kind.as_str().into()).collect();
        let mut after = part.after;
        loop {
            let range = ReadRange {
                after,
                up_to: part.up_to,
                limit: READ_AT_ONCE,
                max_bytes: 1 << 24,
                scope: Some(&scope),
            };
            let store = &self.tables().await?.store;
            let rows = store.read_rows(tx, range).await?;
            let mut events = rows.iter().map(readable_event);
            if events.any(|event| has_slice(row, &event.aggregate_id)) {
                return Ok(true);
            }
            match rows.last() {
                Some(last) => after = log_position(last),
                None => return Ok(false),
            }
        }
    }

    /// Parks the event for the segment that it belongs to.
    async fn park_at(
        &self,
        tx: &mut Transaction<'_, DB>,
        stopped: &[Checkpoint],
        position: i64,
    ) -> Result<(), AdminError> {
        let event = self.event(tx, position).await?;
        let event = event.ok_or(AdminError::NotInLog { position })?;
        let event = readable_event(&event);
        let tables = self.tables().await?;
        let statements = &tables.checkpoints;
        for row in stopped {
            if has_slice(row, &event.aggregate_id) {
                let error = why_halted(row);
                let failure = Some((row.attempts, &*error));
                let slices = row.key.slice_from..row.slice_to;
                let ledger = DB::ledger(statements, tx, &row.key.consumer, row.position, slices);
                let parking = Parking {
                    event,
                    failure,
                    is_replay: ledger.await?.has(event),
                };
                DB::park(statements, tx, &row.key, &[parking]).await?;
            }
        }
        Ok(())
    }

    /// Moves the checkpoints past the event, and commits.
    async fn pass(
        &self,
        mut tx: Transaction<'_, DB>,
        stopped: &[Checkpoint],
        position: i64,
    ) -> Result<(), AdminError> {
        for row in stopped {
            DB::pass(&self.tables().await?.sql, &mut tx, &row.key, position).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// The event at which a row is stopped, or before which it waits for a release that knows it.
fn halted_at(row: &Checkpoint) -> Option<i64> {
    match row.state {
        State::Stopped => row.failed_position,
        State::Running => row.unknown.as_ref().map(|unknown| unknown.position),
        State::Paused => None,
    }
}

fn why_halted(row: &Checkpoint) -> String {
    match (&row.unknown, row.state) {
        (Some(unknown), State::Running) => format!("no release that ran knew {unknown}"),
        _ => row.error.clone().unwrap_or_default(),
    }
}

/// Whether a row covers only a part of the slices.
fn is_segment(row: &Checkpoint) -> bool {
    row.key.slice_from > 0 || row.slice_to < i32::from(SLICES)
}

/// Whether an aggregate belongs to a row.
fn has_slice(row: &Checkpoint, aggregate_id: &str) -> bool {
    let slice = i32::from(aggregate_slice(aggregate_id));
    (row.key.slice_from..row.slice_to).contains(&slice)
}
