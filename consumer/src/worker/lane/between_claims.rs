//! Batches of handlers that do not use the transaction, on a database on which a long claim would keep all
//! other writers out.

use tokio::time;

use sqlx::Transaction;

use crate::backend::{Backend, Claim, Precedence, Remains};
use crate::worker::connections::Parts;
use crate::worker::lane::attempt::{Attempt, Opening, Ready, failed};
use crate::worker::lane::backoff::{DATABASE_BACKOFF, delay};
use crate::worker::lane::failure::AttemptError;
use crate::worker::lane::mark::HeldMark;
use crate::worker::lane::outcome::Outcome;
use crate::worker::lane::record::{claim_again, commit, roll_back};
use crate::worker::progress::state::ConsumerState;

impl<DB: Backend> Attempt<'_, DB> {
    /// Runs a handler that does not use the transaction where a long claim would keep all other
    /// writers out: the row is claimed before it, and again to save the checkpoint. In between, only
    /// a mark is held.
    pub(super) async fn run_between_claims(&self) -> Result<Outcome, AttemptError> {
        let ready = match self.open_and_mark().await? {
            Opening::Ready(ready) => ready,
            Opening::Commit(outcome) | Opening::RollBack(outcome) => return Ok(outcome),
        };
        let mark = self.mark(ready.run.is_replay);
        let ended = mark.during(self.handle_and_save(&ready, &mark)).await;
        if matches!(ended, Ok(Outcome::Saved { .. })) {
            self.run_effects(&ready.cx).await;
        } else {
            // It ends by itself otherwise.
            let _ = self.release(&mark).await;
        }
        ended
    }

    async fn handle_and_save(
        &self,
        ready: &Ready,
        mark: &HeldMark<'_, DB>,
    ) -> Result<Outcome, AttemptError> {
        let mut unused = self.shared.connections.unused().await?;
        let handled = self.handle_unused(ready, &mut unused).await;
        drop(unused);
        let handled = handled.map_err(|failure| failure.given(Remains::Open));
        match self.judge(handled, None)? {
            Ok(index) => Ok(self.save_handled(ready, mark, index).await),
            Err(failure) => Ok(failed(ready, failure)),
        }
    }

    /// Opens a transaction like [`open`](Self::open) and ends it at once, except for a mark.
    async fn open_and_mark(&self) -> Result<Opening, AttemptError> {
        let mut lease = self.shared.connections.writer().await?;
        let (mut tx, ended_well) = lease.begin_transaction().await?;
        let mut opening = self.open(&mut tx, false).await?;
        if let Opening::Ready(ready) = &opening {
            let mark = self.mark(ready.run.is_replay);
            let position = ready.claim.checkpoint.position;
            // The row of another version may be gone while its handler still works.
            if !mark.take(&mut tx, position).await? {
                opening = Opening::RollBack(Outcome::Busy);
            }
        }
        match opening {
            Opening::Commit(_) | Opening::Ready(_) => commit(tx, ended_well, opening).await,
            Opening::RollBack(_) => roll_back(tx, ended_well, opening).await,
        }
    }

    /// The mark of the consumer, as this lane holds it.
    fn mark(&self, is_replay: bool) -> HeldMark<'_, DB> {
        HeldMark {
            pool: self.shared.store.pool(),
            statements: &self.shared.statements,
            holder: self.segment.mark_holder(self.shared, is_replay),
            timeout: self.shared.options.claim_timeout,
        }
    }

    async fn release(&self, mark: &HeldMark<'_, DB>) -> Result<(), AttemptError> {
        let mut lease = self.shared.connections.writer().await?;
        let Parts {
            connection,
            ended_well,
            ..
        } = lease.begin()?;
        mark.release(connection).await?;
        *ended_well = true;
        Ok(())
    }

    /// Saves what a handler has done outside. As long as the database fails, only the save is tried again,
    /// since the handler would repeat its effects; the mark keeps the row for it.
    async fn save_handled(&self, ready: &Ready, mark: &HeldMark<'_, DB>, index: usize) -> Outcome {
        let mut errors = 0;
        let outcome = loop {
            let error = match self.save_later(ready, mark, index).await {
                Ok(outcome) => break outcome,
                Err(AttemptError::Database(error)) => error,
                Err(AttemptError::StaleConnection) => continue,
            };
            errors += 1;
            let pause = delay(DATABASE_BACKOFF, errors);
            tracing::warn!(
                consumer = self.segment.name(), %error, errors,
                "the checkpoint of handled events could not be saved; trying again in {pause:?}"
            );
            self.progress.set_state(ConsumerState::Waiting { error });
            time::sleep(pause).await;
        };
        let handled = self.checkpoint_after(&ready.claim, index);
        let is_saved = matches!(&outcome, Outcome::Saved { position, .. } if *position >= handled);
        if !is_saved && index > 0 {
            let position = ready.claim.checkpoint.position;
            tracing::warn!(
                consumer = self.segment.name(),
                position,
                "events after position {position} were handled, but another process changed the checkpoint meanwhile, so that they may be handled twice"
            );
        }
        outcome
    }

    /// Saves like [`save`](Self::save) in a transaction of its own. If events that were to wait behind a parked
    /// one find it gone, because the mark had lapsed, they are handled with the next batch, together with
    /// those after them.
    async fn save_later(
        &self,
        ready: &Ready,
        mark: &HeldMark<'_, DB>,
        index: usize,
    ) -> Result<Outcome, AttemptError> {
        let mut lease = self.shared.connections.writer().await?;
        let (mut tx, ended_well) = lease.begin_transaction().await?;
        let again = claim_again(
            self.shared,
            self.segment,
            &ready.claim,
            self.job.batch.after,
            &mut tx,
        );
        let claim = match again.await? {
            Ok(claim) => claim,
            Err(outcome) => return roll_back(tx, ended_well, outcome).await,
        };
        if self.lacks_named(&claim)
            || (!ready.run.is_replay && self.is_handled_meanwhile(&mut tx, &claim, index).await?)
        {
            return roll_back(tx, ended_well, Outcome::Moved(claim)).await;
        }
        mark.release(&mut tx).await?;
        let (statements, segment) = (&self.shared.statements, self.segment);
        let row = (&segment.key, segment.slice_to);
        let freed = ready
            .division
            .first_freed::<DB>(statements, &mut tx, row, index);
        let index = freed.await?;
        if !self.save(&mut tx, ready, &claim, index).await? {
            return Err(AttemptError::not_saved(self.segment.name()));
        }
        commit(tx, ended_well, self.saved(ready, &claim, index)).await
    }

    /// Whether another version has handled some of the first events of the job, as new ones, since this
    /// one began: the mark was lost because the process was frozen. They are replays now.
    async fn is_handled_meanwhile(
        &self,
        tx: &mut Transaction<'_, DB>,
        claim: &Claim,
        index: usize,
    ) -> Result<bool, sqlx::Error> {
        if claim.precedence == Precedence::Held {
            return Ok(false);
        }
        let ledger = self.ledger(tx, claim).await?;
        let events = self.job.batch.events.get(..index).unwrap_or_default();
        Ok(events.iter().any(|event| ledger.has(event)))
    }
}
