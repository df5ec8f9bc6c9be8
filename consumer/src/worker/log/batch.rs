//! What a lane is to handle next: the settled events of its scope, in order.

use std::ops::Range;
use std::sync::Arc;

use crate::backend::{Backend, Incarnation, Observation, SLICES};
use crate::worker::log::{Log, LogRange, event_bytes, in_scope};

use crate::backend::StoreError;
use crate::contract::PersistedEvent;

/// The events of one transaction: all that are in scope after `after`, up to and including `up_to`.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) after: i64,
    pub(crate) up_to: i64,
    pub(crate) incarnation: Incarnation,
    pub(crate) head: i64,
    pub(crate) events: Vec<PersistedEvent>,
}

/// Which events a lane wants.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub(crate) scope: Arc<[Arc<str>]>,
    pub(crate) slices: Range<u16>,
}

impl Filter {
    fn in_slices(&self, range: &LogRange, index: usize) -> bool {
        self.slices.len() == usize::from(SLICES) || self.slices.contains(&range.slice(index))
    }
}

/// Collects batches for one lane, from the shared log or, for a rare scope, through its index.
#[derive(Debug)]
pub(crate) struct BatchReader {
    filter: Filter,
    rare: bool,
}

/// A scope that matches fewer than one event in this many is read through its index.
const RARE: usize = 20;

/// How many events must have been looked through before a scope counts as rare.
const RARE_SAMPLE: usize = 500;

/// How far behind the frontier a lane must be for the index to be worth a read of its own.
const RARE_DISTANCE: i64 = 2_000;

/// How many events are looked through for one batch before it goes out half full; a range counts
/// as [`RANGE`] events beside its own.
const MAX_LOOKED_THROUGH: usize = 64_000;

/// What a range without events counts.
const RANGE: usize = 16;

impl BatchReader {
    pub(crate) fn new(filter: Filter) -> Self {
        Self {
            filter,
            rare: false,
        }
    }

    /// The next batch after a position, of at most `limit` events and about `max_bytes`.
    pub(crate) async fn collect<DB: Backend>(
        &mut self,
        log: &Log<DB>,
        frontier: &Observation,
        after: i64,
        limit: usize,
        max_bytes: u64,
    ) -> Result<Batch, StoreError> {
        let settled = frontier.settled;
        let mut filling = Filling::new(after, frontier, limit, max_bytes);
        let mut looked_through = 0;
        while looked_through < MAX_LOOKED_THROUGH {
            let at = filling.batch.up_to;
            if at >= settled || filling.is_full {
                break;
            }
            looked_through += RANGE;
            if self.rare && settled - at > RARE_DISTANCE {
                let (room, bytes) = filling.room();
                let scope = &self.filter.scope;
                let range = log.read_scope(at, settled, room, bytes, scope).await?;
                self.judge_index(&range);
                filling.take(&self.filter, &range);
            } else {
                let range = log.read(at, settled, frontier.incarnation, limit).await?;
                let found = filling.take(&self.filter, &range);
                looked_through += found.looked_through;
                self.judge(found);
            }
        }
        Ok(filling.batch)
    }

    /// Decides, by how close together the index found events, whether the scope is still rare.
    fn judge_index(&mut self, range: &LogRange) {
        let span = range.to.saturating_sub(range.after);
        let found = i64::try_from(range.events.len()).unwrap_or(i64::MAX);
        self.rare = found.saturating_mul(5) < span;
    }

    /// Decides, by what a range of the log held, whether the scope is rare. Slices do not make it
    /// rare: the index knows nothing of them.
    fn judge(&mut self, found: Found) {
        if !self.filter.scope.is_empty() && found.looked_through >= RARE_SAMPLE {
            self.rare = found.in_scope * RARE < found.looked_through;
        }
    }
}

/// What a look through a range found.
#[derive(Clone, Copy, Debug)]
struct Found {
    looked_through: usize,
    in_scope: usize,
}

/// A batch that is being filled.
struct Filling {
    batch: Batch,
    bytes: u64,
    limit: usize,
    max_bytes: u64,
    is_full: bool,
}

impl Filling {
    fn new(after: i64, frontier: &Observation, limit: usize, max_bytes: u64) -> Self {
        Self {
            batch: Batch {
                after,
                up_to: after,
                incarnation: frontier.incarnation,
                head: frontier.settled,
                events: Vec::new(),
            },
            bytes: 0,
            limit,
            max_bytes,
            is_full: false,
        }
    }

    /// How many events and bytes it can still take.
    fn room(&self) -> (u32, u64) {
        let events = self.limit.saturating_sub(self.batch.events.len());
        let bytes = self.max_bytes.saturating_sub(self.bytes);
        (u32::try_from(events).unwrap_or(u32::MAX), bytes.max(1))
    }

    /// Takes what the filter wants of a range, from where the batch ends.
    fn take(&mut self, filter: &Filter, range: &LogRange) -> Found {
        let first = range.first_after(self.batch.up_to);
        let mut found = Found {
            looked_through: range.events.len() - first,
            in_scope: 0,
        };
        if range.may_match(&filter.scope) {
            for (index, event) in range.events.iter().enumerate().skip(first) {
                if !in_scope(&filter.scope, &event.aggregate_type) {
                    continue;
                }
                if filter.in_slices(range, index) && !self.push(event) {
                    self.is_full = true;
                    found.looked_through = index - first;
                    return found;
                }
                found.in_scope += 1;
            }
        }
        self.batch.up_to = range.to;
        self.is_full = self.batch.events.len() >= self.limit;
        found
    }

    /// Adds an event, unless the batch is full; an empty batch takes an event of any size.
    fn push(&mut self, event: &PersistedEvent) -> bool {
        let bytes = self.bytes + event_bytes(event);
        let fits = self.batch.events.len() < self.limit && bytes <= self.max_bytes;
        if !fits && !self.batch.events.is_empty() {
            return false;
        }
        self.bytes = bytes;
        self.batch.up_to = event.global_position;
        self.batch.events.push(event.clone());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::EventRecord;

    /// A range of which every `every`-th event is of type `User`, the others of `Order`.
    fn range(events: i64, every: i64) -> LogRange {
        let event = |position: i64| {
            let kind = if position % every == 0 {
                "User"
            } else {
                "Order"
            };
            PersistedEvent::new(EventRecord {
                global_position: position,
                aggregate_type: kind.into(),
                aggregate_id: format!("a-{position}"),
                ..EventRecord::default()
            })
        };
        LogRange::new(0, events, (1..=events).map(event).collect())
    }

    fn users(slices: Range<u16>) -> Filter {
        Filter {
            scope: Arc::new(["User".into()]),
            slices,
        }
    }

    fn filling(limit: usize) -> Filling {
        let frontier = Observation {
            settled: 10_000,
            head: 10_000,
            incarnation: Incarnation::default(),
            waiting: false,
            more: false,
        };
        Filling::new(0, &frontier, limit, u64::MAX)
    }

    fn is_rare(filter: Filter, range: &LogRange, limit: usize) -> bool {
        let found = filling(limit).take(&filter, range);
        let mut feed = BatchReader::new(filter);
        feed.judge(found);
        feed.rare
    }

    #[test]
    fn a_scope_is_rare_by_what_the_log_holds_of_it() {
        assert!(is_rare(users(0..SLICES), &range(1_000, 100), 500));
        assert!(!is_rare(users(0..SLICES), &range(1_000, 2), 500));
    }

    #[test]
    fn a_batch_that_is_full_early_in_a_stretch_does_not_make_its_scope_rare() {
        assert!(!is_rare(users(0..SLICES), &range(1_000, 1), 20));
    }

    #[test]
    fn a_segment_of_few_slices_does_not_make_its_scope_rare() {
        assert!(!is_rare(users(0..16), &range(1_000, 1), 500));
    }

    #[test]
    fn a_full_batch_ends_at_its_last_event_and_an_unfilled_one_at_the_end_of_the_stretch() {
        let mut full = filling(20);
        full.take(&users(0..SLICES), &range(1_000, 2));
        assert_eq!((full.batch.up_to, full.batch.events.len()), (40, 20));
        let mut unfilled = filling(2_000);
        unfilled.take(&users(0..SLICES), &range(1_000, 3));
        assert_eq!(
            (unfilled.batch.up_to, unfilled.batch.events.len()),
            (1_000, 333)
        );
    }
}
