//! Which events of a job are handled under a claim, if the job fits the claimed row.

use std::sync::Arc;

use sqlx::Transaction;

use crate::backend::{Backend, Claim, Ledger, Precedence, Run, State};
use crate::contract::{Context, PersistedEvent};
use crate::worker::lane::attempt::Attempt;
use crate::worker::lane::outcome::Outcome;
use crate::worker::timeouts::after;

impl<DB: Backend> Attempt<'_, DB> {
    /// The events to handle: all of them replays, or none. `None` while another version of the consumer
    /// is handling events that none has handled.
    pub(super) async fn first_run(
        &self,
        tx: &mut Transaction<'_, DB>,
        claim: &Claim,
    ) -> Result<Option<Run>, sqlx::Error> {
        let take = self.take(claim);
        let events = self.job.batch.events.get(..take).unwrap_or_default();
        if events.is_empty() || !(claim.precedence == Precedence::Open || claim.is_replaying) {
            let is_replay = false;
            return Ok(Some(Run { take, is_replay }));
        }
        let run = self.ledger(tx, claim).await?.run(events);
        if run.is_replay || claim.precedence == Precedence::Held {
            return Ok(Some(run));
        }
        let holder = self.segment.mark_holder(self.shared, false);
        if !DB::lock_precedence(&self.shared.statements, tx, &holder).await? {
            return Ok(None);
        }
        // Another version may have handled the events before the precedence was locked.
        Ok(Some(self.ledger(tx, claim).await?.run(events)))
    }

    /// The events that any version of the consumer has handled after the checkpoint.
    pub(super) async fn ledger(
        &self,
        tx: &mut Transaction<'_, DB>,
        claim: &Claim,
    ) -> Result<Ledger, sqlx::Error> {
        let (row, key) = (&claim.checkpoint, &self.segment.key);
        let slices = key.slice_from..row.slice_to;
        DB::ledger(
            &self.shared.statements,
            tx,
            &key.consumer,
            row.position,
            slices,
        )
        .await
    }

    /// Checks that the job fits the claimed row.
    pub(super) fn admit(&self, claim: Box<Claim>) -> Result<Box<Claim>, Outcome> {
        let row = &claim.checkpoint;
        if row.state != State::Running || row.scope != self.segment.scope_text() {
            return Err(Outcome::Blocked(claim));
        }
        if row.slice_to != self.segment.slice_to {
            return Err(Outcome::Resized);
        }
        if let Some(hold_at) = row.hold_at.filter(|hold_at| row.position >= *hold_at) {
            return Err(Outcome::Held(hold_at));
        }
        let follows = self.job.checkpoint..=self.job.batch.after;
        if row.epoch != self.job.epoch
            || claim.incarnation != self.job.batch.incarnation
            || !follows.contains(&row.position)
            // What was read before may have been changed meanwhile.
            || self.job.batch.discards != self.shared.log.discards()
            || self.lacks_named(&claim)
        {
            return Err(Outcome::Moved(claim));
        }
        let release = &self.shared.process.release;
        let next = self.job.position_of(0);
        if next.is_some_and(|next| row.has_failed(release, next)) {
            return Err(Outcome::LeftToOthers(claim));
        }
        // A longer wait than any that is saved means that the clock was set back: it is over.
        let settings = &self.segment.consumer.settings;
        let wait = claim.retry_in.filter(|wait| *wait <= settings.backoff.max);
        let Some(event) = self.retried(&claim) else {
            return Ok(claim);
        };
        let (position, attempts) = (event.global_position, row.attempts);
        // Only the failed event has to wait.
        if let Some(wait) = wait {
            return Err(Outcome::NotDue { attempts, wait });
        }
        // The policy needs no payload, and an event that cannot be handled is read each time.
        let is_handled = !self.is_used_up(&claim) && self.job.batch.defect.is_none();
        if is_handled && self.job.read_after != Some((position, attempts)) {
            return Err(Outcome::Outdated { position, attempts });
        }
        Ok(claim)
    }

    /// Whether the row names an event that the job passes over: it was deleted before it was read, or restored
    /// since.
    pub(super) fn lacks_named(&self, claim: &Claim) -> bool {
        let job = self.job;
        let named = claim.checkpoint.named().without(job.excluded);
        named
            .positions()
            .any(|next| next <= job.batch.up_to && !job.batch.has(next))
    }

    /// The event that has failed according to the row, if it is the first of the job and the row
    /// need not wait for its neighbour before it.
    pub(super) fn retried(&self, claim: &Claim) -> Option<&PersistedEvent> {
        let row = &claim.checkpoint;
        let first = self.job.batch.events.first()?;
        let position = first.global_position;
        let is_reached = row.hold_at.is_none_or(|hold_at| position <= hold_at);
        let has_failed = row.attempts > 0 && row.failed_position == Some(position);
        (is_reached && has_failed).then_some(first)
    }

    /// Whether this release has used up the attempts at the event that has failed. Attempts that another
    /// release counted say nothing about this code, which gets one of its own at least.
    pub(super) fn is_used_up(&self, claim: &Claim) -> bool {
        let is_own = claim.release.as_deref() == Some(&*self.shared.process.release);
        is_own && claim.checkpoint.attempts > self.segment.consumer.settings.retries
    }

    /// How many events to handle: an event that has failed is tried alone, and a batch ends where the
    /// row has to wait for its neighbour.
    fn take(&self, claim: &Claim) -> usize {
        if self.retried(claim).is_some() {
            return self.job.take.min(1);
        }
        let hold_at = claim.checkpoint.hold_at;
        let held = hold_at.map_or(usize::MAX, |hold_at| self.job.index_after(hold_at));
        self.job.take.min(held)
    }

    /// The checkpoint once every event before an index in the job is handled.
    pub(super) fn checkpoint_after(&self, claim: &Claim, index: usize) -> i64 {
        let Some(hold_at) = claim.checkpoint.hold_at else {
            let checkpoint = self.job.checkpoint_after(index);
            return checkpoint.max(claim.checkpoint.position);
        };
        let before_next = self.job.position_of(index).map(|position| position - 1);
        before_next.unwrap_or(self.job.batch.up_to).min(hold_at)
    }

    pub(super) fn context(&self, claim: &Claim, is_replay: bool) -> Arc<Context> {
        let consumer = &self.segment.consumer;
        let failed = self.retried(claim).map_or(0, |_| claim.checkpoint.attempts);
        Arc::new(
            Context::new(Arc::clone(&self.segment.key.consumer.name))
                .with_log_name(Arc::clone(&self.shared.log_name))
                .with_version(self.segment.key.consumer.version)
                .with_attempt(failed.saturating_add(1))
                .with_replay(is_replay)
                .with_head(self.job.batch.head)
                .with_segments(self.segment.is_divided())
                .with_table_schema(self.shared.table_schema.clone())
                .with_deadline(after(consumer.settings.batch_time)),
        )
    }
}
