//! Where a lane finds its checkpoint row.

use std::time::Duration;

use parking_lot::Mutex;

use crate::backend::{Backend, Pace};

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
    /// An address proves nothing: another row may be there by now, or the transaction that moved the row there
    /// was not committed. The statements compare the key as well.
    pub(crate) fn set<DB: Backend>(&self, address: String) {
        self.0.lock().address = Some(address).filter(|address| DB::is_worth_keeping(address));
    }

    pub(crate) fn get(&self) -> Option<String> {
        self.0.lock().address.clone()
    }

    pub(crate) fn may_search(&self) -> bool {
        self.0.lock().searches.is_due()
    }

    pub(crate) fn searched(&self, took: Duration) {
        self.0.lock().searches.pause(took, Duration::ZERO);
    }
}
