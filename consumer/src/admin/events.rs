//! Looking through the log.

use uuid::Uuid;

use super::error::AdminError;
use super::operator::Admin;
use crate::backend::{Among, Backend, Cursor, EventHeader, LogRow};

/// How many events one look goes through for those that no index finds.
const SEARCHED_AT_ONCE: i64 = 5_000;

/// Which events to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventFilter {
    pub(crate) aggregate_type: Option<String>,
    /// Only with an aggregate type.
    pub(crate) aggregate_id: Option<String>,
    pub(crate) event_type: Option<String>,
    pub(crate) correlation_id: Option<String>,
    pub(crate) causation_id: Option<String>,
}

impl EventFilter {
    fn among(&self) -> Among<'_> {
        match (&self.aggregate_type, &self.aggregate_id) {
            (Some(kind), Some(id)) => Among::Aggregate(kind, id),
            (Some(kind), None) => Among::Type(kind),
            _ => Among::All,
        }
    }

    /// Whether it asks for what no index has.
    fn is_a_search(&self) -> bool {
        self.event_type.is_some() || self.correlation_id.is_some() || self.causation_id.is_some()
    }

    fn admits(&self, event: &EventHeader) -> bool {
        let is = |wanted: &Option<String>, value: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| value == Some(wanted))
        };
        is(&self.event_type, Some(&event.event_type))
            && is(&self.correlation_id, event.correlation_id.as_deref())
            && is(&self.causation_id, event.causation_id.as_deref())
    }

    /// Where an event is in the order of the look.
    fn cursor_of(&self, event: &EventHeader) -> i64 {
        match self.among() {
            Among::Aggregate(..) => event.aggregate_version,
            Among::All | Among::Type(_) => event.position,
        }
    }
}

/// Some events, latest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventPage {
    pub(crate) events: Vec<EventHeader>,
    /// Where to look for earlier events; `None` at the beginning.
    pub(crate) earlier: Option<Cursor>,
    /// Where to look for later events; `None` at the end.
    pub(crate) later: Option<Cursor>,
    /// The number of events that were looked at, if not all of those found are shown.
    pub(crate) searched: Option<usize>,
}

impl<DB: Backend> Admin<DB> {
    /// Reads the headers of some events, by indexes only.
    ///
    /// What no index finds is searched for among the next few thousand events; the page then says where
    /// to continue.
    pub(crate) async fn events(
        &self,
        filter: &EventFilter,
        cursor: Cursor,
        limit: usize,
    ) -> Result<EventPage, AdminError> {
        let tables = self.tables().await?;
        let wanted = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        let most = if filter.is_a_search() {
            SEARCHED_AT_ONCE
        } else {
            wanted
        };
        let mut tx = self.read().await?;
        let looked_at = DB::headers(&tables.browse, &mut tx, filter.among(), cursor, most).await?;
        drop(tx);
        Ok(page(filter, cursor, limit, looked_at, most))
    }

    /// Reads one event with its payload; the inner error is that of an event that cannot be decoded.
    pub(crate) async fn event_at(&self, position: i64) -> Result<Option<LogRow>, AdminError> {
        let mut tx = self.read().await?;
        self.event(&mut tx, position).await
    }

    /// Finds the position of an event by its id.
    pub(crate) async fn position_of_event(&self, id: Uuid) -> Result<Option<i64>, AdminError> {
        let tables = self.tables().await?;
        let mut tx = self.read().await?;
        Ok(DB::position_of_id(&tables.browse, &mut tx, id).await?)
    }
}

/// The events to show of those that were looked at, and where the next page begins.
fn page(
    filter: &EventFilter,
    cursor: Cursor,
    limit: usize,
    looked_at: Vec<EventHeader>,
    most: i64,
) -> EventPage {
    let reached_end = i64::try_from(looked_at.len()).unwrap_or(i64::MAX) < most;
    let total = looked_at.len();
    let last = looked_at.last().map(|event| filter.cursor_of(event));
    let mut events: Vec<EventHeader> = looked_at
        .into_iter()
        .filter(|event| filter.admits(event))
        .collect();
    let is_cut = events.len() > limit;
    events.truncate(limit);
    // The page ends at the last event shown, or at the last one examined.
    let end = if is_cut {
        events.last().map(|event| filter.cursor_of(event))
    } else {
        last.filter(|_| !reached_end)
    };
    let begin = events.first().map(|event| filter.cursor_of(event));
    let searched = (filter.is_a_search() && !is_cut && !reached_end).then_some(total);
    let (earlier, later) = match cursor {
        Cursor::Before(from) => {
            let later = begin.or(Some(from.saturating_sub(1)));
            (end, later.filter(|_| from < i64::MAX))
        }
        Cursor::After(from) => {
            events.reverse();
            let earlier = begin.or(Some(from.saturating_add(1)));
            (earlier.filter(|_| from > 0), end)
        }
    };
    EventPage {
        events,
        earlier: earlier.map(Cursor::Before),
        later: later.map(Cursor::After),
        searched,
    }
}
