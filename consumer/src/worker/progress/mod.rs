//! How far each lane of a worker is, for everyone who waits for it, probes it or measures it.

pub(crate) mod handle;
pub(crate) mod health;
pub(crate) mod lane;
pub(crate) mod report;
pub(crate) mod state;
pub(crate) mod tally;
pub(crate) mod worker;
