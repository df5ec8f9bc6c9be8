//! Counts of the handled, parked and skipped events of a batch, a lane or a consumer.

use std::ops::{Add, AddAssign};

/// Counts of the events of a transaction or of a run, by their outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Events handled and committed.
    pub(crate) events: u64,
    /// Transactions that handled any.
    pub(crate) batches: u64,
    /// Events parked, including those that wait behind a failed one.
    pub(crate) parked: u64,
    /// Events skipped by policy.
    pub(crate) skipped: u64,
}

impl Tally {
    /// Of a transaction that handled some events and parked others.
    pub(crate) fn of_batch(handled: usize, parked: usize) -> Self {
        Self {
            events: handled as u64,
            batches: u64::from(handled > 0),
            parked: parked as u64,
            skipped: 0,
        }
    }

    /// Of a transaction that applied the policy to one event.
    pub(crate) fn of_policy(is_parked: bool) -> Self {
        Self {
            parked: u64::from(is_parked),
            skipped: u64::from(!is_parked),
            ..Self::default()
        }
    }
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            events: self.events + other.events,
            batches: self.batches + other.batches,
            parked: self.parked + other.parked,
            skipped: self.skipped + other.skipped,
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
