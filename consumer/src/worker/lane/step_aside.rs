//! Events that a lane leaves to other processes: those that its code does not know, and those on which its
//! release has failed.

use std::ops::ControlFlow;

use tokio::time;

use crate::backend::{Backend, position};
use crate::contract::PersistedEvent;
use crate::worker::lane::failure::AttemptError;
use crate::worker::lane::job::Job;
use crate::worker::lane::record::roll_back;
use crate::worker::lane::{CONTINUE, Lane, Turn};
use crate::worker::poller::snapshot::Snapshot;
use crate::worker::progress::lane::Cursor;
use crate::worker::progress::state::ConsumerState;

impl<DB: Backend> Lane<DB> {
    /// Whether the code knows an event.
    pub(super) fn knows(&self, event: &PersistedEvent) -> bool {
        let consumer = &self.segment.consumer.registered.consumer;
        consumer.knows(event.format())
    }

    /// The state of a lane that leaves the job to other processes; `None` if it attempts it. No claim is
    /// made for that, which would keep them from it.
    pub(super) async fn may_attempt(
        &self,
        job: &Job,
    ) -> Result<Option<ConsumerState>, AttemptError> {
        if let Some(unknown) = job.unknown() {
            let is_parked = self.shared.answer(self.is_parked(job)).await?;
            // Behind a parked event, it is parked too.
            return Ok((!is_parked).then(|| ConsumerState::WaitingForRelease {
                event: unknown.clone(),
            }));
        }
        let snapshot = self.shared.snapshot.borrow();
        let Some(row) = snapshot.rows.get(&self.segment.key) else {
            return Ok(None);
        };
        let (release, next) = (&self.shared.process.release, job.position_of(0));
        let is_left = next.is_some_and(|next| row.has_failed(release, next));
        Ok(is_left.then(|| ConsumerState::stopped(row)))
    }

    /// Whether the aggregate of the job's only event has parked events.
    async fn is_parked(&self, job: &Job) -> Result<bool, AttemptError> {
        let Some(event) = job.batch.events.first() else {
            return Ok(false);
        };
        let mut lease = self.shared.connections.writer().await?;
        let (mut tx, ended_well) = lease.begin_transaction().await?;
        let statements = &self.shared.statements;
        let consumer = &self.segment.key.consumer;
        let is_parked = DB::is_parked(statements, &mut tx, consumer, event).await?;
        roll_back(tx, ended_well, is_parked).await
    }

    /// Leaves a job to other processes until its row changes.
    pub(super) async fn step_aside(&mut self, job: &Job, state: ConsumerState) -> Turn {
        let Some(position) = job.position_of(0) else {
            return CONTINUE;
        };
        if let Some(cursor) = self.progress.cursor() {
            // Nothing is in scope before it.
            self.progress.set_cursor(Some(Cursor {
                after: cursor.after.max(position - 1),
                excluded: job.excluded,
                ..cursor
            }));
        }
        if self.until.is_some_and(|until| position > until) {
            return ControlFlow::Break(ConsumerState::CaughtUp);
        }
        if self.progress.state() != state {
            let consumer = self.segment.name();
            tracing::warn!(
                consumer,
                position,
                "the consumer steps aside: it is {state}"
            );
        }
        self.progress.set_state(state.clone());
        if self.until.is_some() {
            return ControlFlow::Break(state);
        }
        tokio::select! {
            () = self.row_changed(position) => {}
            () = self.is_deleted(job) => {
                self.deleted = Some(position);
                // What is in memory still has it.
                self.reader.discard();
                self.shared.log.discard();
            }
        }
        CONTINUE
    }

    /// Waits until the log no longer has the first event of a job, which is all that the lane waits for.
    async fn is_deleted(&self, job: &Job) {
        let Some(next) = job.position_of(0) else {
            return std::future::pending().await;
        };
        loop {
            time::sleep(self.shared.options.advance_interval).await;
            let row = self
                .shared
                .log
                .first_from(next, job.batch.head, job.batch.incarnation);
            // A log that cannot be read says nothing.
            if let Ok(row) = row.await
                && row.is_none_or(|row| position(&row) > next)
            {
                return;
            }
        }
    }

    /// Waits until the row has changed, or the log was rewritten, since the lane last looked. That the row names the
    /// event for which the lane waits is no change.
    async fn row_changed(&self, waited_for: i64) {
        let key = &self.segment.key;
        let look = |snapshot: &Snapshot| {
            let row = snapshot.rows.get(key).map(|row| {
                let others = row.named().filter(|next| next != waited_for);
                (
                    row.progress(),
                    row.slice_to,
                    row.failed_releases.clone(),
                    others,
                )
            });
            (row, snapshot.log.rewrites, snapshot.incarnation)
        };
        let mut snapshot = self.shared.snapshot.clone();
        let (number, before) = (self.seen.number, look(&self.seen));
        // The snapshot may be older than the last save; only the next one tells whether the row was created
        // anew since then.
        let row = self.seen.rows.get(key).map(|row| row.position);
        let is_behind = row < self.progress.cursor().map(|cursor| cursor.checkpoint);
        let row_changed = snapshot.wait_for(|snapshot| {
            let is_next = is_behind && snapshot.number > number;
            is_next || look(snapshot) != before
        });
        tokio::select! {
            _ = row_changed => {}
            () = self.shared.stopped() => {}
        }
    }
}
