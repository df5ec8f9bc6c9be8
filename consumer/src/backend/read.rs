//! What to read from the log.

use std::sync::Arc;

#[cfg(feature = "postgres")]
use crate::contract::PersistedEvent;

/// A bounded part of the log, for [`EventStore::read_range`](crate::EventStore::read_range).
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
///
/// use consumer::{ExpectedVersion, NewEvent, ReadRange, SqliteEventStore};
///
/// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
/// # store.migrate().await?;
/// # for (kind, id) in [("User", "ada"), ("Order", "o-1"), ("User", "bob")] {
/// #     let event = NewEvent::new(kind, id, "Happened", "{}");
/// #     store.append(ExpectedVersion::Any, &[event]).await?;
/// # }
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
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ReadRange<'a> {
    /// Events after this position.
    pub after: i64,
    /// Events up to this position, inclusive.
    pub up_to: i64,
    /// At most so many events.
    pub limit: u32,
    /// At most so many bytes of payloads, metadata and texts (types and ids), but always one event
    /// if there is one.
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

    /// The budget, to be spent on one event after the other.
    #[cfg(feature = "postgres")]
    pub(crate) fn budget(&self) -> Budget {
        Budget {
            left: Some(self.max_bytes),
            taken: false,
        }
    }

    /// The budget as the databases' integers have it.
    pub(crate) fn max_bytes(&self) -> i64 {
        i64::try_from(self.max_bytes).unwrap_or(i64::MAX)
    }
}

/// What is left of a read's budget of bytes.
#[cfg(feature = "postgres")]
pub(crate) struct Budget {
    /// Nothing once an event did not fit: those behind it must not be read either.
    left: Option<u64>,
    taken: bool,
}

#[cfg(feature = "postgres")]
impl Budget {
    /// Gives the event back if it fits, or is the first.
    pub(crate) fn admit(&mut self, event: PersistedEvent) -> Option<PersistedEvent> {
        let bytes = event.content_bytes();
        self.left = match self.left?.checked_sub(bytes) {
            None if !self.taken => Some(0),
            left => left,
        };
        self.taken = true;
        self.left.map(|_| event)
    }
}
