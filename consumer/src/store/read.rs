//! What to read from the log.

use std::sync::Arc;

/// A bounded part of the log, for [`EventStore::read_range`](crate::EventStore::read_range).
#[derive(Clone, Copy, Debug)]
pub struct ReadRange<'a> {
    /// Events after this position.
    pub after: i64,
    /// Events up to this position, inclusive.
    pub up_to: i64,
    /// At most so many events.
    pub limit: u32,
    /// At most so many bytes of payloads, but always one event if there is one.
    pub max_bytes: u64,
    /// Only these aggregate types, compared exactly; `None`, like an empty list, means every event
    /// (R7).
    pub scope: Option<&'a [Arc<str>]>,
}

impl ReadRange<'_> {
    /// The types to read, or `None` for every event.
    pub(crate) fn types(&self) -> Option<&[Arc<str>]> {
        self.scope.filter(|types| !types.is_empty())
    }

    /// The budget as the databases' integers have it.
    pub(crate) fn max_bytes(&self) -> i64 {
        i64::try_from(self.max_bytes).unwrap_or(i64::MAX)
    }
}
