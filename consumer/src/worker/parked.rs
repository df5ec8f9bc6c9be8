//! Events set aside: the failing one, and the later ones of its aggregate, which must wait for it.

use std::collections::HashSet;
use std::sync::Arc;

use super::dialect::{Aggregate, Claim, Dialect, LaneKey, Parking};
use super::transact::Tally;
use crate::contract::PersistedEvent;

/// So many parked aggregates are more than some bad events: something is broken that would park
/// everything.
pub(crate) const MOST_PARKED: usize = 1_000;

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
    pub(crate) async fn of<DB: Dialect>(
        statements: &DB::Sql,
        connection: &mut DB::Connection,
        key: &LaneKey,
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
        let limit = u32::try_from(MOST_PARKED + 1).unwrap_or(u32::MAX);
        let parked = DB::parked_aggregates(statements, connection, key, limit).await?;
        Ok(Self::by(&parked, events, take))
    }

    fn by(parked: &HashSet<Aggregate>, events: &[PersistedEvent], take: usize) -> Self {
        let mut run = Vec::with_capacity(take);
        let mut places = Vec::with_capacity(take);
        let mut waiting = Vec::new();
        for (place, event) in events.iter().take(take).enumerate() {
            let aggregate = (event.aggregate_type.to_string(), event.aggregate_id.clone());
            if parked.contains(&aggregate) {
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
