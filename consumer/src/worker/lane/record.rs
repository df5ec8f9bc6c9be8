//! Ends of transactions, and a checkpoint that is saved in one of its own.

use sqlx::Transaction;

use crate::backend::{Backend, Claim, NewCheckpoint, State};
use crate::worker::context::Shared;
use crate::worker::lane::failure::AttemptError;
use crate::worker::lane::outcome::Outcome;
use crate::worker::lane::segment::Segment;
use crate::worker::progress::tally::Tally;

/// Saves a checkpoint after the transaction of its job is over, if the row has not changed since.
pub(crate) async fn record<DB: Backend>(
    shared: &Shared<DB>,
    segment: &Segment<DB>,
    earlier: &Claim,
    new: &NewCheckpoint,
) -> Result<Outcome, AttemptError> {
    let mut lease = shared.connections.writer().await?;
    let (mut tx, ended_well) = lease.begin_transaction().await?;
    let position = earlier.checkpoint.position;
    let claim = match claim_again(shared, segment, earlier, position, &mut tx).await? {
        Ok(claim) => claim,
        Err(outcome) => return roll_back(tx, ended_well, outcome).await,
    };
    // A failure would take the place of what another process has noted meanwhile.
    if claim.checkpoint.named() != earlier.checkpoint.named() {
        return roll_back(tx, ended_well, Outcome::Moved(claim)).await;
    }
    if !segment.save(shared, &mut tx, &claim, new).await? {
        return Err(AttemptError::not_saved(segment.name()));
    }
    let saved = Outcome::Saved {
        position: new.position,
        tally: Tally::default(),
    };
    commit(tx, ended_well, saved).await
}

/// Claims a row a second time, if it has not changed since the first time, except that it may have
/// advanced up to a position.
pub(super) async fn claim_again<DB: Backend>(
    shared: &Shared<DB>,
    segment: &Segment<DB>,
    earlier: &Claim,
    up_to: i64,
    tx: &mut Transaction<'_, DB>,
) -> Result<Result<Box<Claim>, Outcome>, sqlx::Error> {
    let claim = match segment.claim(shared, tx, false).await? {
        Ok(claim) => claim,
        Err(outcome) => return Ok(Err(outcome)),
    };
    let (row, before) = (&claim.checkpoint, &earlier.checkpoint);
    if row.state != State::Running {
        return Ok(Err(Outcome::Blocked(claim)));
    }
    let is_unchanged = (before.position..=up_to.max(before.position)).contains(&row.position)
        && row.epoch == before.epoch
        && row.slice_to == before.slice_to
        && row.scope == before.scope
        && row.attempts == before.attempts
        && claim.incarnation == earlier.incarnation;
    Ok(if is_unchanged {
        Ok(claim)
    } else {
        Err(Outcome::Moved(claim))
    })
}

pub(super) async fn commit<DB: Backend, T>(
    tx: Transaction<'_, DB>,
    ended_well: &mut bool,
    outcome: T,
) -> Result<T, AttemptError> {
    tx.commit().await?;
    *ended_well = true;
    Ok(outcome)
}

pub(super) async fn roll_back<DB: Backend, T>(
    tx: Transaction<'_, DB>,
    ended_well: &mut bool,
    outcome: T,
) -> Result<T, AttemptError> {
    tx.rollback().await?;
    *ended_well = true;
    Ok(outcome)
}

/// Rolls back what a handler has done. Where only a claim shows what else it did to the connection, the
/// connection is closed, and the failure is recorded over another one.
pub(super) async fn undo<DB: Backend>(
    tx: Transaction<'_, DB>,
    ended_well: &mut bool,
    outcome: Outcome,
) -> Result<Outcome, AttemptError> {
    let outcome = roll_back(tx, ended_well, outcome).await?;
    *ended_well = DB::RESTORES_SESSION;
    Ok(outcome)
}
