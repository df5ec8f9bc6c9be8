//! Finds the failing event of a batch, tries it again and counts its attempts.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::backend::{Backend, Claim, Failure, NewCheckpoint, State};
use crate::contract::PersistedEvent;
use crate::worker::lane::backoff::{DATABASE_BACKOFF, delay};
use crate::worker::lane::failure::{AttemptError, ErrorKind, HandlerFailure};
use crate::worker::lane::job::Job;
use crate::worker::lane::outcome::Outcome;
use crate::worker::lane::record::record;
use crate::worker::lane::{CONTINUE, Lane, Suspects, Turn};
use crate::worker::progress::state::ConsumerState;
use crate::worker::timeouts::after;

/// The longest error text that a row stores.
const MAX_ERROR_BYTES: usize = 4_000;

impl<DB: Backend> Lane<DB> {
    /// Saves the events before the failing one, narrows down which event that is, or counts an
    /// attempt at it.
    pub(super) async fn handle_failure(
        &mut self,
        job: Job,
        claim: &Claim,
        failed: HandlerFailure,
    ) -> Turn {
        if failed.kind == ErrorKind::EndedTransaction {
            self.stop_at_once(job, claim, failed.error).await
        } else if failed.index > 0 {
            self.save_events_before(job, failed);
            CONTINUE
        } else if failed.suspects > 1 {
            self.halve(job, failed.suspects);
            CONTINUE
        } else {
            self.count_attempt(job, claim, failed.error).await
        }
    }

    /// The events before the failing one are handled again and saved together with its failure.
    fn save_events_before(&mut self, mut job: Job, failed: HandlerFailure) {
        let event = job.batch.events.get(failed.index);
        job.next_failure = event
            .filter(|_| failed.suspects == 1)
            .map(|event| self.failure(event, 1, failed.error));
        job.take = failed.index;
        self.job = Some(job);
    }

    /// The failing event is one of several: half of them are tried next.
    fn halve(&mut self, mut job: Job, suspects: usize) {
        let half = (suspects.min(job.take) / 2).max(1);
        let last = job.batch.events.get(suspects.saturating_sub(1));
        self.suspects = last.or(job.batch.events.last()).map(|last| Suspects {
            up_to: last.global_position,
            batch_len: half,
        });
        job.take = half;
        self.job = Some(job);
    }

    /// Counts an attempt at the first event, and waits for the next one.
    async fn count_attempt(&mut self, job: Job, claim: &Claim, error: String) -> Turn {
        let Some(event) = job.batch.events.first() else {
            return CONTINUE;
        };
        let position = event.global_position;
        let row = &claim.checkpoint;
        let is_same = row.failed_position == Some(position);
        let before = if is_same { row.attempts } else { 0 };
        let failure = self.failure(event, before.saturating_add(1), error);
        let new = NewCheckpoint {
            position: row.position,
            state: State::Running,
            failure: Some(failure.clone()),
        };
        match self.record(claim, &new).await {
            Ok(Outcome::Moved(claim)) => self.move_to_claim(&claim),
            Ok(Outcome::Blocked(claim)) => self.block(&claim),
            Ok(_) => {
                self.progress.set_state(ConsumerState::Retrying {
                    position,
                    attempts: failure.attempts,
                    error: failure.error,
                });
                self.progress.expect_pause_until(after(failure.retry_in));
                self.pause(failure.retry_in).await;
                let settings = &self.segment.consumer.settings;
                if failure.attempts <= settings.retries {
                    self.read_again(position, failure.attempts).await;
                } else {
                    // The policy applies, which needs no payload.
                    self.job = Some(job);
                }
            }
            Err(error) => return self.retry_later(job, error).await,
        }
        CONTINUE
    }

    /// Saves what became of a job. The row may still be locked, by a backend that is just ending or
    /// by another process; a failure that is not saved would not count.
    async fn record(
        &mut self,
        claim: &Claim,
        new: &NewCheckpoint,
    ) -> Result<Outcome, AttemptError> {
        loop {
            let record = record(&self.shared, &self.segment, claim, new);
            let outcome = self.shared.answer(record).await?;
            if !matches!(outcome, Outcome::Busy) || self.shared.is_stopping() {
                return Ok(outcome);
            }
            self.pause(self.busy_pause()).await;
        }
    }

    fn failure(&self, event: &PersistedEvent, attempts: u32, error: String) -> Failure {
        let position = event.global_position;
        tracing::warn!(
            consumer = self.segment.name(), position, attempts, %error,
            aggregate_type = &*event.aggregate_type,
            aggregate_id = event.aggregate_id,
            event_type = &*event.event_type,
            event_id = %event.event_id,
            "the handler failed"
        );
        let settings = &self.segment.consumer.settings;
        let is_last = attempts > settings.retries;
        Failure {
            position,
            attempts,
            retry_in: if is_last {
                Duration::ZERO
            } else {
                delay(settings.backoff, attempts)
            },
            error: shorten(error),
        }
    }

    /// Stops a consumer whose handler ended the transaction: it would do so again.
    async fn stop_at_once(&mut self, job: Job, claim: &Claim, error: String) -> Turn {
        let row = &claim.checkpoint;
        let position = job.position_of(0).unwrap_or(row.position);
        let new = NewCheckpoint {
            position: row.position,
            state: State::Stopped,
            failure: Some(Failure {
                position,
                attempts: row.attempts.saturating_add(1),
                retry_in: Duration::ZERO,
                error: error.clone(),
            }),
        };
        match self.record(claim, &new).await {
            Ok(Outcome::Moved(claim)) => self.move_to_claim(&claim),
            Ok(_) => return self.stopped(Some(position), error),
            Err(error) => return self.retry_later(job, error).await,
        }
        CONTINUE
    }

    pub(super) fn stopped(&mut self, position: Option<i64>, error: String) -> Turn {
        tracing::error!(
            consumer = self.segment.name(), position, %error,
            "the consumer stopped; fix the cause, then deploy a new release, or run `resume`"
        );
        self.blocked_in = Some(self.shared.snapshot.borrow().number);
        let state = ConsumerState::Stopped { position, error };
        self.progress.set_state(state.clone());
        if self.until.is_some() {
            return ControlFlow::Break(state);
        }
        CONTINUE
    }

    pub(super) async fn retry_later(&mut self, job: Job, error: AttemptError) -> Turn {
        self.job = Some(job);
        match error {
            AttemptError::Database(error) => self.wait_for_database(error).await,
            AttemptError::StaleConnection => CONTINUE,
        }
    }

    /// Waits for the database, longer each time it fails.
    pub(super) async fn wait_for_database(&mut self, error: String) -> Turn {
        self.database_errors = self.database_errors.saturating_add(1);
        let pause = delay(DATABASE_BACKOFF, self.database_errors);
        tracing::warn!(
            consumer = self.segment.name(), %error, errors = self.database_errors,
            "the database could not be used; trying again in {pause:?}"
        );
        self.progress.set_state(ConsumerState::Waiting { error });
        self.reader.discard();
        self.pause(pause).await;
        CONTINUE
    }
}

fn shorten(mut error: String) -> String {
    if error.len() > MAX_ERROR_BYTES {
        error.truncate(error.floor_char_boundary(MAX_ERROR_BYTES));
        error.push('…');
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_error_is_cut_between_two_letters() {
        let error = format!("a{}", "ä".repeat(MAX_ERROR_BYTES));
        let short = shorten(error);
        assert!(short.len() <= MAX_ERROR_BYTES + '…'.len_utf8());
        assert!(short.ends_with("ä…"));
        assert_eq!(shorten("short".to_owned()), "short");
    }
}
