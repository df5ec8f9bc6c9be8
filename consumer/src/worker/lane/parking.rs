//! Events set aside: the failing one, and the later ones of its aggregate, which must wait for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::backend::{Aggregate, Backend, Claim, Parking, SegmentId};
use crate::contract::PersistedEvent;
use crate::worker::lane::attempt::Tally;

/// So many parked aggregates are more than some bad events: something is broken that would park
/// everything.
pub(crate) const MOST_PARKED: i64 = 1_000;

/// The events of a job, divided into those to handle and those that must wait.
pub(crate) struct Division {
    /// What the handler is given.
    pub(crate) run: Arc<Vec<PersistedEvent>>,
    /// Where each of those stands in the job; `None` when nothing waits and the places are equal.
    places: Option<Vec<usize>>,
    /// The events that wait, with their places in the job.
    waiting: Vec<(usize, PersistedEvent)>,
}

impl Division {
    /// Divides the first `take` events of a job, under its claim.
    pub(crate) async fn of<DB: Backend>(
        statements: &DB::CheckpointStatements,
        connection: &mut DB::Connection,
        key: &SegmentId,
        claim: &Claim,
        events: &Arc<Vec<PersistedEvent>>,
        take: usize,
    ) -> Result<Self, sqlx::Error> {
        if !claim.parked {
            return Ok(Self {
                run: Arc::clone(events),
                places: None,
                waiting: Vec::new(),
            });
        }
        let parked =
            DB::parked_aggregates(statements, connection, key, claim.checkpoint.slice_to).await?;
        Ok(Self::by(parked, events, take))
    }

    fn by(parked: Vec<Aggregate>, events: &[PersistedEvent], take: usize) -> Self {
        let mut ids: HashMap<String, HashSet<String>> = HashMap::new();
        for (kind, id) in parked {
            ids.entry(kind).or_default().insert(id);
        }
        let mut run = Vec::with_capacity(take);
        let mut places = Vec::with_capacity(take);
        let mut waiting = Vec::new();
        for (place, event) in events.iter().take(take).enumerate() {
            let of_type = ids.get(&*event.aggregate_type);
            if of_type.is_some_and(|ids| ids.contains(&event.aggregate_id)) {
                waiting.push((place, event.clone()));
            } else {
                run.push(event.clone());
                places.push(place);
            }
        }
        Self {
            run: Arc::new(run),
            places: Some(places),
            waiting,
        }
    }

    /// How many events the handler is given, of `take` of the job.
    pub(crate) fn take(&self, take: usize) -> usize {
        if self.places.is_some() {
            self.run.len()
        } else {
            take
        }
    }

    /// Where in the job the event stands that is next after so many handled ones.
    pub(crate) fn place(&self, handled: usize, take: usize) -> usize {
        match &self.places {
            None => handled,
            Some(places) => places.get(handled).copied().unwrap_or(take),
        }
    }

    /// What becomes of the events before a place in the job.
    pub(crate) fn tally(&self, before: usize) -> Tally {
        let parked = self.waiting.iter().filter(|(at, _)| *at < before).count();
        Tally {
            handled: before.saturating_sub(parked),
            parked,
            skipped: 0,
        }
    }

    /// The events that wait, before a place in the job.
    pub(crate) fn waiting(&self, before: usize) -> Vec<Parking<'_>> {
        self.waiting
            .iter()
            .take_while(|(place, _)| *place < before)
            .map(|(_, event)| Parking {
                event,
                failure: None,
            })
            .collect()
    }
}
