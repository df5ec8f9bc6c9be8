//! Bounded reads of the log.

use std::sync::Arc;

#[cfg(feature = "postgres")]
use super::log_rows::LogRow;

/// A bounded part of the log, for [`EventStore::read_range`](crate::EventStore::read_range).
///
/// ```
/// # consumer::__doc::run(async |store| {
/// use std::sync::Arc;
///
/// use consumer::{ExpectedVersion, NewEvent, ReadRange};
///
/// for (kind, id) in [("User", "ada"), ("Order", "o-1"), ("User", "bob")] {
///     store.append(ExpectedVersion::Any, &[NewEvent::new(kind, id, "Happened", "{}")]).await?;
/// }
/// let users = [Arc::from("User")];
/// let range = ReadRange {
///     after: 0,
///     up_to: i64::MAX,
///     limit: 1_000,
///     max_bytes: 1 << 20,
///     scope: Some(&users),
/// };
/// let mut connection = store.pool().acquire().await?;
/// let events = store.read_range(&mut connection, range).await?;
/// assert_eq!(events.len(), 2);
/// # Ok(()) }).unwrap();
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ReadRange<'a> {
    /// Events after this position.
    pub after: i64,
    /// Events up to this position, inclusive.
    pub up_to: i64,
    /// The highest number of events.
    pub limit: u32,
    /// The maximum number of bytes of payloads, metadata and texts (types and ids) together; the first
    /// event is always read.
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

    /// The budget, which one event after the other reduces.
    #[cfg(feature = "postgres")]
    pub(crate) fn budget(&self) -> Budget {
        Budget {
            left: Some(self.max_bytes),
            taken: false,
        }
    }

    /// The budget as an integer of the databases.
    pub(crate) fn max_bytes(&self) -> i64 {
        i64::try_from(self.max_bytes).unwrap_or(i64::MAX)
    }
}

/// The remaining budget of a read, in bytes.
#[cfg(feature = "postgres")]
pub(crate) struct Budget {
    /// `None` once an event did not fit: those after it must not be read either.
    left: Option<u64>,
    taken: bool,
}

#[cfg(feature = "postgres")]
impl Budget {
    /// Returns the row if it fits or is the first.
    pub(crate) fn admit(&mut self, row: LogRow) -> Option<LogRow> {
        let bytes = row.as_ref().map_or(0, |event| event.content_bytes());
        self.left = match self.left?.checked_sub(bytes) {
            None if !self.taken => Some(0),
            left => left,
        };
        self.taken = true;
        self.left.map(|_| row)
    }
}
