//! The checkpoint rows at one moment.

use std::collections::HashMap;
use std::time::Instant;

use crate::backend::{Checkpoint, Incarnation, SegmentId};

/// The checkpoint rows at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Counts the snapshots; 0 before the first.
    pub(crate) number: u64,
    /// When the reading began; `None` before the first.
    pub(crate) began_at: Option<Instant>,
    /// The incarnation of the server that they were read in.
    pub(crate) incarnation: Incarnation,
    pub(crate) rows: HashMap<SegmentId, Checkpoint>,
}
