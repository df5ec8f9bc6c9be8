//! The policy for an event whose attempts are used up.

use std::time::Duration;

use sqlx::Transaction;

use crate::backend::{Backend, Claim, Failure, NewCheckpoint, Parking, State};
use crate::contract::{OnError, PersistedEvent};
use crate::worker::lane::attempt::Attempt;
use crate::worker::lane::outcome::Outcome;
use crate::worker::lane::parking::MAX_PARKED;
use crate::worker::log::batch::Defect;
use crate::worker::progress::tally::Tally;

impl<DB: Backend> Attempt<'_, DB> {
    pub(super) async fn apply_policy(
        &self,
        tx: &mut Transaction<'_, DB>,
        claim: &Claim,
        event: &PersistedEvent,
        is_replay: bool,
    ) -> Result<Outcome, sqlx::Error> {
        let (key, policy) = (&self.segment.key, self.segment.consumer.settings.on_error);
        let error = claim.checkpoint.error.clone().unwrap_or_default();
        let position = event.global_position;
        // Of an event that is gone, the aggregate is unknown: later events of it would not wait.
        let is_missing = matches!(self.job.batch.defect, Some(Defect::Missing(_)));
        let parks = policy == OnError::Park && !is_missing && self.may_park(tx).await?;
        if !parks && policy != OnError::Skip {
            let error = if policy == OnError::Park && !is_missing {
                format!(
                    "{MAX_PARKED} aggregates are parked already, so the next one stops the consumer: {error}"
                )
            } else {
                error
            };
            return self.stop(tx, claim, position, error).await;
        }
        let attempts = claim.checkpoint.attempts;
        if parks {
            let failed = Parking {
                event,
                failure: Some((attempts, &error)),
                is_replay,
            };
            DB::park(&self.shared.statements, tx, key, &[failed]).await?;
        }
        let done = if parks { "parked" } else { "skipped" };
        tracing::warn!(consumer = self.segment.name(), position, attempts, %error, "the event is {done}");
        let new = NewCheckpoint {
            position: self.job.checkpoint_after(1),
            state: State::Running,
            failure: None,
        };
        self.segment.save(self.shared, tx, claim, &new).await?;
        Ok(Outcome::Saved {
            position: new.position,
            tally: Tally::of_policy(parks),
        })
    }

    async fn may_park(&self, tx: &mut Transaction<'_, DB>) -> Result<bool, sqlx::Error> {
        let (statements, key) = (&self.shared.statements, &self.segment.key);
        Ok(DB::count_parked(statements, tx, key, MAX_PARKED).await? < MAX_PARKED)
    }

    async fn stop(
        &self,
        tx: &mut Transaction<'_, DB>,
        claim: &Claim,
        position: i64,
        error: String,
    ) -> Result<Outcome, sqlx::Error> {
        let new = NewCheckpoint {
            position: claim.checkpoint.position,
            state: State::Stopped,
            failure: Some(Failure {
                position,
                attempts: claim.checkpoint.attempts,
                retry_in: Duration::ZERO,
                error: error.clone(),
            }),
        };
        self.segment.save(self.shared, tx, claim, &new).await?;
        Ok(Outcome::Stopped { error })
    }
}
