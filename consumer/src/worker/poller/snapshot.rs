//! The checkpoint rows at one moment.

use std::collections::HashMap;

use crate::backend::{Checkpoint, Incarnation, SegmentId};

/// The checkpoint rows at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Counts the snapshots; 0 before the first.
    pub(crate) number: u64,
    /// The incarnation of the server that they were read in.
    pub(crate) incarnation: Incarnation,
    pub(crate) rows: HashMap<SegmentId, Checkpoint>,
}
