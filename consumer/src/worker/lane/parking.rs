//! Parked events: the failing one, and the later ones of its aggregate, which wait behind it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::backend::{Aggregate, Backend, CheckpointStatements, Claim, Parking, SegmentId};
use crate::contract::PersistedEvent;
use crate::worker::lane::segment::Segment;
use crate::worker::progress::tally::Tally;

/// The number of parked aggregates at which a consumer stops instead of parking another one: with so
/// many, the events are hardly to blame.
pub(crate) const MAX_PARKED: i64 = 1_000;

/// The events of a job, divided into those to handle and those to park behind others.
pub(crate) struct Division {
    /// The events for the handler.
    pub(crate) to_handle: Arc<Vec<PersistedEvent>>,
    /// The index in the job of each of those; `None` if nothing is parked and the indices agree.
    indices: Option<Vec<usize>>,
    /// The events to park, with their indices in the job.
    to_park: Vec<(usize, PersistedEvent)>,
}

impl Division {
    /// Divides the first `take` events of a job under its claim.
    pub(crate) async fn of<DB: Backend>(
        statements: &CheckpointStatements,
        connection: &mut DB::Connection,
        segment: &Segment<DB>,
        claim: &Claim,
        events: &Arc<Vec<PersistedEvent>>,
        take: usize,
    ) -> Result<Self, sqlx::Error> {
        if !claim.parked {
            return Ok(Self {
                to_handle: Arc::clone(events),
                indices: None,
                to_park: Vec::new(),
            });
        }
        let (key, slice_to) = (&segment.key, claim.checkpoint.slice_to);
        let parked = DB::parked_aggregates(statements, connection, key, slice_to).await?;
        let consumer = &segment.consumer.registered.consumer;
        let is_taken = |event: &PersistedEvent| {
            // A release that knows the event may take it.
            consumer.takes(event.format()) || !consumer.knows(event.format())
        };
        Ok(Self::by(
            parked,
            is_taken,
            events.get(..take).unwrap_or(events),
        ))
    }

    /// Divides events. Those that the consumer passes over wait behind nothing.
    fn by(
        parked: Vec<Aggregate>,
        is_taken: impl Fn(&PersistedEvent) -> bool,
        events: &[PersistedEvent],
    ) -> Self {
        let mut parked_ids: HashMap<String, HashSet<String>> = HashMap::new();
        for (aggregate_type, id) in parked {
            parked_ids.entry(aggregate_type).or_default().insert(id);
        }
        let mut to_handle = Vec::with_capacity(events.len());
        let mut indices = Vec::with_capacity(events.len());
        let mut to_park = Vec::new();
        for (index, event) in events.iter().enumerate() {
            let of_type = parked_ids.get(&*event.aggregate_type);
            let is_parked = of_type.is_some_and(|ids| ids.contains(&event.aggregate_id));
            if is_parked && is_taken(event) {
                to_park.push((index, event.clone()));
            } else {
                to_handle.push(event.clone());
                indices.push(index);
            }
        }
        Self {
            to_handle: Arc::new(to_handle),
            indices: Some(indices),
            to_park,
        }
    }

    /// The index of the first event to park whose aggregate is no longer parked; `index` if there is
    /// none before it. It would wait behind nothing.
    pub(crate) async fn first_freed<DB: Backend>(
        &self,
        statements: &CheckpointStatements,
        connection: &mut DB::Connection,
        segment: (&SegmentId, i32),
        index: usize,
    ) -> Result<usize, sqlx::Error> {
        let (key, slice_to) = segment;
        let mut to_park = self.to_park.iter().take_while(|(at, _)| *at < index);
        if to_park.clone().next().is_none() {
            return Ok(index);
        }
        let parked = DB::parked_aggregates(statements, connection, key, slice_to).await?;
        let parked: HashSet<Aggregate> = parked.into_iter().collect();
        let freed = to_park.find(|(_, event)| {
            let aggregate = (event.aggregate_type.to_string(), event.aggregate_id.clone());
            !parked.contains(&aggregate)
        });
        Ok(freed.map_or(index, |(at, _)| *at))
    }

    /// How many events the handler is given of the first `take` of the job.
    pub(crate) fn take(&self, take: usize) -> usize {
        if self.indices.is_some() {
            self.to_handle.len()
        } else {
            take
        }
    }

    /// The index in the job of the event after the first `handled` ones for the handler.
    pub(crate) fn index(&self, handled: usize, take: usize) -> usize {
        match &self.indices {
            None => handled,
            Some(indices) => indices.get(handled).copied().unwrap_or(take),
        }
    }

    /// Counts the events before an index in the job by their outcome.
    pub(crate) fn tally(&self, before: usize) -> Tally {
        let parked = self.to_park.iter().filter(|(at, _)| *at < before).count();
        Tally::of_batch(before.saturating_sub(parked), parked)
    }

    /// The events to park before an index in the job.
    pub(crate) fn to_park(&self, before: usize, is_replay: bool) -> Vec<Parking<'_>> {
        self.to_park
            .iter()
            .take_while(|(index, _)| *index < before)
            .map(|(_, event)| Parking {
                event,
                failure: None,
                is_replay,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::EventRecord;

    #[test]
    fn only_events_before_the_checkpoint_are_parked() {
        let event = |id: &str| {
            PersistedEvent::new(EventRecord {
                aggregate_type: "User".into(),
                aggregate_id: id.to_owned(),
                ..EventRecord::default()
            })
        };
        let events = [event("parked"), event("a"), event("parked")];
        let parked = vec![("User".to_owned(), "parked".to_owned())];
        let division = Division::by(parked, |_| true, &events);
        for (before, expected) in [(0, 0), (1, 1), (2, 1), (3, 2)] {
            assert_eq!(division.to_park(before, false).len(), expected, "{before}");
        }
    }
}
