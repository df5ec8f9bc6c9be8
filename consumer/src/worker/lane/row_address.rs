//! Where a lane finds its checkpoint row.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::Transaction;

use crate::backend::{Backend, Claim, NewCheckpoint, Pace};
use crate::worker::context::Shared;
use crate::worker::lane::segment::Segment;

/// The last known address of a lane's checkpoint row.
#[derive(Debug, Default)]
pub(crate) struct RowAddress(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    address: Option<String>,
    /// The searches for a row that was not free at its address.
    searches: Pace,
}

impl RowAddress {
    /// An address proves nothing: it may be that of another row by now, or the transaction that moved the
    /// row there was not committed. Whoever uses it also compares the key.
    fn set<DB: Backend>(&self, address: String) {
        self.0.lock().address = Some(address).filter(|address| DB::is_worth_keeping(address));
    }

    fn get(&self) -> Option<String> {
        self.0.lock().address.clone()
    }

    fn may_search(&self) -> bool {
        self.0.lock().searches.is_due()
    }

    fn searched(&self, took: Duration) {
        self.0.lock().searches.pause(took, Duration::ZERO);
    }
}

impl<DB: Backend> Segment<DB> {
    /// Takes the row lock; `None` when another process has it.
    ///
    /// A row that is not free at its address has been claimed, or was moved by another process or an operator.
    /// Only a search tells, and each search may have to pass many dead versions.
    pub(crate) async fn claim(
        &self,
        shared: &Shared<DB>,
        tx: &mut Transaction<'_, DB>,
    ) -> Result<Option<Claim>, sqlx::Error> {
        let (statements, timeout) = (&shared.statements, shared.options.claim_timeout);
        if let Some(address) = self.row.get() {
            let claim = DB::claim(statements, tx, &self.key, Some(&address), timeout).await?;
            if claim.is_some() || !self.row.may_search() {
                return Ok(claim);
            }
        }
        let began = Instant::now();
        let claim = DB::claim(statements, tx, &self.key, None, timeout).await?;
        self.row.searched(began.elapsed());
        if let Some(claim) = &claim {
            self.row.set::<DB>(claim.address.clone());
        }
        Ok(claim)
    }

    /// Saves the checkpoint of a claim; returns whether claim and transaction were still the same.
    pub(crate) async fn save(
        &self,
        shared: &Shared<DB>,
        tx: &mut Transaction<'_, DB>,
        claim: &Claim,
        new: &NewCheckpoint,
    ) -> Result<bool, sqlx::Error> {
        let address = DB::save(&shared.statements, tx, &self.key, claim, new).await?;
        let is_saved = address.is_some();
        if let Some(address) = address {
            self.row.set::<DB>(address);
        }
        Ok(is_saved)
    }
}
