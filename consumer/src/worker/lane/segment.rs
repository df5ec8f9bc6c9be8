//! The segment of a consumer that a lane works on.

use std::sync::Arc;
use std::time::Instant;

use sqlx::Transaction;

use crate::backend::{Backend, Claim, ClaimOptions, MarkHolder, NewCheckpoint, SLICES, SegmentId};
use crate::worker::context::Shared;
use crate::worker::lane::outcome::Outcome;
use crate::worker::lane::presence::{Presence, Reached};
use crate::worker::lane::row_address::RowAddress;
use crate::worker::log::batch::Filter;
use crate::worker::poller::assignment::WorkerConsumer;

/// One segment of a consumer: a checkpoint row and the events whose progress it records.
pub(crate) struct Segment<DB: Backend> {
    pub(crate) consumer: Arc<WorkerConsumer<DB>>,
    pub(crate) key: SegmentId,
    /// The slice after the row's last one, as in the newest snapshot.
    pub(crate) slice_to: i32,
    /// Where the row was last seen.
    pub(crate) row: RowAddress,
    /// When the process was last recorded as the one that works on it.
    pub(crate) presence: Presence,
}

impl<DB: Backend> Segment<DB> {
    /// The consumer's name, for the log.
    pub(crate) fn name(&self) -> &str {
        &self.key.consumer.name
    }

    /// The consumer's scope as the checkpoint row stores it.
    pub(crate) fn scope_text(&self) -> &str {
        &self.consumer.enrolment.scope
    }

    /// As which the lane of a worker holds a mark.
    pub(crate) fn mark_holder(&self, shared: &Shared<DB>, is_replay: bool) -> MarkHolder {
        MarkHolder {
            consumer: self.key.consumer.clone(),
            id: self.holder_id(shared),
            slices: self.key.slice_from..self.slice_to,
            is_replay,
        }
    }

    fn holder_id(&self, shared: &Shared<DB>) -> String {
        format!("lane {} of {}", self.key.slice_from, shared.name)
    }

    /// Whether the consumer has other segments beside this one, or may have.
    pub(crate) fn is_divided(&self) -> bool {
        let slices = i32::from(SLICES);
        self.consumer.settings.segments > 1 || (self.key.slice_from, self.slice_to) != (0, slices)
    }

    /// Which events it contains.
    pub(crate) fn filter(&self) -> Filter {
        let slice = |slice: i32| u16::try_from(slice).unwrap_or(SLICES);
        Filter {
            scope: Arc::clone(&self.consumer.scope),
            slices: slice(self.key.slice_from)..slice(self.slice_to),
        }
    }
}

/// How its row is claimed and saved.
impl<DB: Backend> Segment<DB> {
    /// Takes the row lock, or says why not.
    ///
    /// A row that is not free at its address has been claimed, or was moved by another process or an operator.
    /// Only a search tells, and each search may have to pass many dead versions.
    pub(crate) async fn claim(
        &self,
        shared: &Shared<DB>,
        tx: &mut Transaction<'_, DB>,
        with_session: bool,
    ) -> Result<Result<Box<Claim>, Outcome>, sqlx::Error> {
        let statements = &shared.statements;
        let search = ClaimOptions {
            holder: &self.holder_id(shared),
            at: None,
            timeout: shared.options.claim_timeout,
            with_session,
        };
        if let Some(address) = self.row.get() {
            let at = Some(&*address);
            let claim = DB::claim(statements, tx, &self.key, ClaimOptions { at, ..search }).await?;
            if claim.is_some() || !self.row.may_search() {
                return Ok(claim.map(Box::new).ok_or(Outcome::Busy));
            }
        }
        let began = Instant::now();
        let claim = DB::claim(statements, tx, &self.key, search).await?;
        let is_gone = claim.is_none() && !DB::exists(statements, tx, &self.key).await?;
        self.row.searched(began.elapsed());
        if let Some(claim) = &claim {
            self.row.set::<DB>(claim.address.clone());
        }
        let unclaimed = if is_gone {
            Outcome::Gone
        } else {
            Outcome::Busy
        };
        Ok(claim.map(Box::new).ok_or(unclaimed))
    }

    /// Saves the checkpoint of a claim; returns whether claim and transaction were still the same.
    pub(crate) async fn save(
        &self,
        shared: &Shared<DB>,
        tx: &mut Transaction<'_, DB>,
        claim: &Claim,
        new: &NewCheckpoint,
    ) -> Result<bool, sqlx::Error> {
        let (statements, process) = (&shared.statements, &shared.process);
        let release = &process.release;
        let Some(address) = DB::save(statements, tx, &self.key, claim, new, release).await? else {
            return Ok(false);
        };
        self.row.set::<DB>(address);
        let (row, now) = (&claim.checkpoint, Instant::now());
        if let Some(failure) = &new.failure {
            let later = row.named().filter(|named| failure.position < named);
            for named in later.positions() {
                DB::keep_named(statements, tx, row, named).await?;
            }
        }
        let before = Reached {
            position: row.position,
            attempts: row.attempts,
        };
        if self.presence.is_due(before, now) {
            DB::note_worker(statements, tx, &self.key, process).await?;
            let saved = Reached {
                position: new.position,
                attempts: new.failure.as_ref().map_or(0, |failure| failure.attempts),
            };
            self.presence.noted(saved, now);
        }
        Ok(true)
    }
}
