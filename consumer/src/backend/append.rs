//! Appends, checked before the database is asked.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use super::fit::{refuse_lost_values, refuse_unfit, without_missing};
use super::json_text::JsonText;
use super::{Schema, StoreError};
use crate::contract::{EventRecord, ExpectedVersion, Metadata, NewEvent, PersistedEvent};

/// Events of one aggregate, at least one, ready to be stored.
#[derive(Debug)]
pub struct Append<'a> {
    pub(crate) expected: ExpectedVersion,
    aggregate: AggregateName<'a>,
    pub(crate) events: Cow<'a, [NewEvent]>,
    /// Of each event, in their order.
    pub(crate) metadata: Vec<Option<JsonText<'a>>>,
}

/// Type and id of the aggregate.
type AggregateName<'a> = (&'a str, &'a str);

/// The position, version and time that the database assigned to one event.
#[derive(Clone, Debug)]
pub struct Placed {
    pub(crate) global_position: i64,
    pub(crate) aggregate_version: i64,
    pub(crate) created_at: DateTime<Utc>,
}

impl<'a> Append<'a> {
    /// Checks what every database and the table need; `complete` then fills in what the events leave
    /// open.
    pub(crate) fn new(
        schema: &Schema,
        expected: ExpectedVersion,
        events: &'a [NewEvent],
        complete: impl FnOnce(&'a [NewEvent]) -> Cow<'a, [NewEvent]>,
    ) -> Result<Self, StoreError> {
        if schema.is_read_only() {
            let table = schema.events_name().to_owned();
            return Err(StoreError::ReadOnlyLog { table });
        }
        let first = events.first().ok_or(StoreError::NothingToAppend)?;
        let first = (&*first.aggregate_type, &*first.aggregate_id);
        for event in events {
            check_aggregate(first, event)?;
            refuse_lost_values(schema, event)?;
        }
        let completed = without_missing(schema, complete(events));
        completed
            .iter()
            .try_for_each(|event| refuse_unfit(schema, event))?;
        Ok(Self {
            expected,
            aggregate: first,
            metadata: events.iter().map(metadata).collect::<Result<_, _>>()?,
            events: completed,
        })
    }

    pub(crate) fn aggregate_type(&self) -> &'a str {
        self.aggregate.0
    }

    pub(crate) fn aggregate_id(&self) -> &'a str {
        self.aggregate.1
    }

    pub(crate) fn aggregate(&self) -> (&'a str, &'a str) {
        self.aggregate
    }

    /// The number of events.
    pub(crate) fn len(&self) -> i64 {
        i64::try_from(self.events.len()).unwrap_or(i64::MAX)
    }

    /// The error for an aggregate that is not as expected.
    pub(crate) fn conflict(&self, actual: Option<i64>) -> StoreError {
        StoreError::Conflict {
            aggregate_type: self.aggregate_type().to_owned(),
            aggregate_id: self.aggregate_id().to_owned(),
            expected: self.expected,
            actual,
        }
    }

    /// The error for a transaction that another one made fail.
    pub(crate) fn contention(&self, source: sqlx::Error) -> StoreError {
        StoreError::Contention {
            aggregate_type: self.aggregate_type().to_owned(),
            aggregate_id: self.aggregate_id().to_owned(),
            source: source.into(),
        }
    }

    /// The error for an event id that is in use.
    pub(crate) fn duplicate(&self) -> StoreError {
        StoreError::DuplicateEventId {
            aggregate_type: self.aggregate_type().to_owned(),
            aggregate_id: self.aggregate_id().to_owned(),
        }
    }

    /// The events as they are now in the store.
    pub(crate) fn persisted(&self, mut placed: Vec<Placed>) -> Vec<PersistedEvent> {
        // `RETURNING` promises no order.
        placed.sort_unstable_by_key(|placed| placed.aggregate_version);
        self.events
            .iter()
            .zip(placed)
            .map(|(event, placed)| persisted(event, &placed))
            .collect()
    }
}

fn check_aggregate(first: AggregateName<'_>, event: &NewEvent) -> Result<(), StoreError> {
    let other = (&*event.aggregate_type, &*event.aggregate_id);
    if other == first {
        return Ok(());
    }
    let owned = |(kind, id): AggregateName<'_>| Box::new((kind.to_owned(), id.to_owned()));
    Err(StoreError::SeveralAggregates {
        first: owned(first),
        second: owned(other),
    })
}

/// The database would refuse it too, but on Postgres that aborts the caller's transaction.
fn metadata(event: &NewEvent) -> Result<Option<JsonText<'_>>, StoreError> {
    let text = event.metadata.as_ref().map(Metadata::as_bytes);
    text.map(JsonText::parse)
        .transpose()
        .map_err(|reason| StoreError::InvalidMetadata { reason })
}

fn persisted(event: &NewEvent, placed: &Placed) -> PersistedEvent {
    PersistedEvent::new(EventRecord {
        global_position: placed.global_position,
        aggregate_type: event.aggregate_type.clone(),
        aggregate_id: event.aggregate_id.as_ref().to_owned(),
        aggregate_version: placed.aggregate_version,
        event_id: event.event_id,
        event_type: event.event_type.clone(),
        event_version: event.event_version,
        payload: event.payload.clone(),
        metadata: event.metadata.clone(),
        trace_id: event.trace_id.clone(),
        correlation_id: event.correlation_id.clone(),
        causation_id: event.causation_id.clone(),
        created_at: placed.created_at,
    })
}
