//! Saving the checkpoint of a job, and what it means if the database refuses that.

use sqlx::Transaction;

use crate::backend::{Access, Backend, Claim, NewCheckpoint, State};
use crate::worker::lane::attempt::{Attempt, Ready, failed};
use crate::worker::lane::failure::{
    AttemptError, HandlerFailure, SWALLOWED, is_aborted_transaction, is_of_session,
    is_refusal_of_commit, refused_commit, server_timeout, unusable_session,
};
use crate::worker::lane::outcome::Outcome;
use crate::worker::lane::record::{roll_back, undo};

impl<DB: Backend> Attempt<'_, DB> {
    pub(super) async fn save_and_commit(
        &self,
        mut tx: Transaction<'_, DB>,
        ready: &Ready,
        index: usize,
        ended_well: &mut bool,
    ) -> Result<Outcome, AttemptError> {
        let shared = self.shared;
        match shared
            .answer(self.save(&mut tx, ready, &ready.claim, index))
            .await
        {
            Ok(true) => match shared.answer(tx.commit()).await {
                Ok(()) => {
                    *ended_well = true;
                    Ok(self.saved(ready, &ready.claim, index))
                }
                Err(error) if is_refusal_of_commit::<DB>(&error) => {
                    // Dropping the transaction has rolled it back, or queued that, where the refusal
                    // did not.
                    *ended_well = DB::RESTORES_SESSION;
                    Ok(failed_somewhere(ready, refused_commit(&error)))
                }
                // A deferred trigger may have taken the rest of the time.
                Err(error) => self.failed_by_server(ready, error),
            },
            Ok(false) => Ok(failed(ready, HandlerFailure::ended_unseen())),
            Err(error) if is_of_session::<DB>(&error) => {
                let outcome = failed_somewhere(ready, unusable_session(&error));
                let outcome = shared.answer(undo(tx, ended_well, outcome)).await?;
                // Unless the worker's own role has lost a privilege meanwhile.
                shared.store.check_access(Access::Work).await?;
                Ok(outcome)
            }
            Err(error) if is_aborted_transaction::<DB>(&error) => {
                let outcome = failed_somewhere(ready, SWALLOWED.to_owned());
                shared.answer(roll_back(tx, ended_well, outcome)).await
            }
            // The server has closed the connection, so there is nothing to roll back.
            Err(error) => self.failed_by_server(ready, error),
        }
    }

    /// The outcome if the server has ended a transaction that was idle, or took, too long; any other error
    /// does not count.
    fn failed_by_server(&self, ready: &Ready, error: sqlx::Error) -> Result<Outcome, AttemptError> {
        match server_timeout::<DB>(&error, self.shared.options.claim_timeout) {
            Some(error) => Ok(failed_somewhere(ready, error)),
            None => Err(error.into()),
        }
    }

    /// Saves the checkpoint up to an index in the job under a claim, and parks the events that have to
    /// wait.
    pub(super) async fn save(
        &self,
        tx: &mut Transaction<'_, DB>,
        ready: &Ready,
        claim: &Claim,
        index: usize,
    ) -> Result<bool, sqlx::Error> {
        let (statements, key) = (&self.shared.statements, &self.segment.key);
        let next_failure = self.job.next_failure.clone();
        let new = NewCheckpoint {
            position: self.position_after(ready, claim, index),
            state: State::Running,
            failure: next_failure.filter(|_| index == self.job.take),
        };
        let is_saved = self.segment.save(self.shared, tx, claim, &new);
        let is_saved = is_saved.await?;
        let to_park = ready.division.to_park(index, ready.run.is_replay);
        // Where the handler has ended the transaction, each statement would be committed by itself.
        if is_saved && !to_park.is_empty() {
            DB::park(statements, tx, key, &to_park).await?;
        }
        Ok(is_saved)
    }

    /// The checkpoint that is saved under a claim. Where the handler worked without one, another process
    /// may have passed over positions before the job.
    fn position_after(&self, ready: &Ready, claim: &Claim, index: usize) -> i64 {
        let position = self.checkpoint_after(&ready.claim, index);
        position.max(claim.checkpoint.position)
    }

    pub(super) fn saved(&self, ready: &Ready, claim: &Claim, index: usize) -> Outcome {
        Outcome::Saved {
            position: self.position_after(ready, claim, index),
            tally: ready.division.tally(index),
        }
    }
}

/// The outcome of a handler that failed without saying so: any of its events may be the cause.
fn failed_somewhere(ready: &Ready, error: String) -> Outcome {
    failed(ready, HandlerFailure::unreported(ready.run.take, error))
}
