//! Collects the next batch of a lane: the settled events of its scope, in order.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::SystemTime;

use crate::backend::{
    Backend, Checkpoint, Incarnation, NamedEvents, Observation, ReadRange, SLICES, StoreError,
    UnknownEvent, UnreadableEvent, aggregate_slice,
};
use crate::contract::{EventRecord, HandlerError, PersistedEvent};
use crate::worker::log::Log;
use crate::worker::log::range::{LogRange, event_bytes, in_scope};

/// All events in scope after `after`, up to and including `up_to`.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) after: i64,
    pub(crate) up_to: i64,
    pub(crate) incarnation: Incarnation,
    /// The frontier when the batch was read.
    pub(crate) head: i64,
    /// How often the log's cache had been discarded when the reading began.
    pub(crate) discards: u64,
    pub(crate) events: Arc<Vec<PersistedEvent>>,
    /// Why its only event cannot be handled; such an event is a batch of its own.
    pub(crate) defect: Option<Defect>,
    /// Positions in it whose events were deleted, as far as it is known.
    pub(crate) missing: Option<RangeInclusive<i64>>,
    /// The events that the row names and that the filter excludes.
    pub(crate) excluded: NamedEvents,
}

impl Batch {
    /// Whether it has the event at a position.
    pub(crate) fn has(&self, position: i64) -> bool {
        let at = |event: &PersistedEvent| event.global_position;
        self.events.binary_search_by_key(&position, at).is_ok()
    }

    /// The batch before an event that is missing, or that event if nothing is left before it.
    pub(crate) fn before_missing(mut self, missing: MissingEvents) -> Self {
        let first = missing.0.start();
        self.missing = None;
        let events = Arc::make_mut(&mut self.events);
        events.retain(|event| event.global_position < *first);
        if !events.is_empty() {
            self.up_to = first - 1;
            return self;
        }
        self.up_to = *first;
        events.push(PersistedEvent::new(EventRecord {
            global_position: *first,
            created_at: SystemTime::now().into(),
            ..EventRecord::default()
        }));
        self.defect = Some(Defect::Missing(missing));
        self
    }
}

impl Batch {
    /// The batch before the first event that the code does not know, or that event if nothing is left before
    /// it.
    pub(crate) fn before_unknown(mut self, is_known: impl Fn(&PersistedEvent) -> bool) -> Self {
        if self.defect.is_some() {
            return self;
        }
        let Some(first) = self.events.iter().position(|event| !is_known(event)) else {
            return self;
        };
        Arc::make_mut(&mut self.events).truncate(first.max(1));
        let last = self.events.last();
        // Between the events before it and itself, nothing is in scope.
        self.up_to = last.map_or(self.after, |event| event.global_position);
        if first == 0 {
            self.defect = last.map(UnknownEvent::of).map(Defect::Unknown);
        }
        let up_to = self.up_to;
        self.missing = self.missing.filter(|missing| *missing.start() <= up_to);
        self
    }
}

/// Why an event cannot be given to a handler.
#[derive(Clone, Debug)]
pub(crate) enum Defect {
    /// The code does not know it.
    Unknown(UnknownEvent),
    /// It cannot be decoded.
    Unreadable(UnreadableEvent),
    /// It is no longer in the log.
    Missing(MissingEvents),
}

impl From<Defect> for HandlerError {
    fn from(defect: Defect) -> Self {
        match defect {
            // A lane hands it to no handler.
            Defect::Unknown(unknown) => {
                format!("the code does not know {unknown}; deploy a release that does").into()
            }
            Defect::Unreadable(unreadable) => StoreError::from(unreadable).into(),
            Defect::Missing(missing) => missing.into(),
        }
    }
}

/// Positions that the log no longer has, the first of which a consumer had yet to handle.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "events {} to {} were deleted from the log before the consumer had handled event {}; restore them, or pass over them with the command `skip`",
    .0.start(), .0.end(), .0.start()
)]
pub(crate) struct MissingEvents(pub(crate) RangeInclusive<i64>);

/// Which events a lane handles.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub(crate) scope: Arc<[Arc<str>]>,
    pub(crate) slices: Range<u16>,
}

impl Filter {
    /// The events of a checkpoint row.
    pub(crate) fn of_row(row: &Checkpoint) -> Self {
        let slice = |slice: i32| u16::try_from(slice).unwrap_or(SLICES);
        Self {
            scope: row.scope.lines().map(Arc::from).collect(),
            slices: slice(row.key.slice_from)..slice(row.slice_to),
        }
    }

    /// Whether it contains an event.
    pub(crate) fn contains(&self, event: &PersistedEvent) -> bool {
        in_scope(&self.scope, &event.aggregate_type)
            && self.slices.contains(&aggregate_slice(&event.aggregate_id))
    }

    fn in_slices(&self, range: &LogRange, index: usize) -> bool {
        self.slices.len() == usize::from(SLICES) || self.slices.contains(&range.slice(index))
    }
}

/// Collects batches for one lane, from the shared log or, for a rare scope, through its index.
#[derive(Debug)]
pub(crate) struct BatchReader {
    filter: Filter,
    is_rare: bool,
}

/// A scope that matches fewer than one event in this many is read through its index.
const RARE: usize = 20;

/// How many events must have been scanned before a scope counts as rare.
const RARE_SAMPLE: usize = 500;

/// How far behind the frontier a lane must be for the index to be worth a read of its own.
const RARE_DISTANCE: i64 = 2_000;

/// How many events are scanned for one batch before it is handled as it is.
const MAX_SCANNED: usize = 64_000;

/// The events that a range counts as scanned besides its own.
const RANGE_COST: usize = 16;

impl BatchReader {
    pub(crate) fn new(filter: Filter) -> Self {
        Self {
            filter,
            is_rare: false,
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
        let mut builder = BatchBuilder::new(after, frontier, limit, max_bytes);
        builder.batch.discards = log.discards();
        let mut scanned = 0;
        while scanned < MAX_SCANNED {
            let after = builder.batch.up_to;
            if after >= settled || builder.is_full {
                break;
            }
            scanned += RANGE_COST;
            if self.is_rare && settled - after > RARE_DISTANCE {
                let (events, bytes) = builder.room();
                let scope = &self.filter.scope;
                let wanted = ReadRange {
                    after,
                    up_to: settled,
                    limit: events,
                    max_bytes: bytes,
                    scope: Some(scope),
                };
                let range = log.read_scope(wanted, frontier.incarnation).await?;
                self.judge_density(&range);
                builder.add(&self.filter, &range);
            } else {
                let incarnation = frontier.incarnation;
                let range = log.read(after, settled, incarnation, limit).await?;
                let scan = builder.add(&self.filter, &range);
                scanned += scan.scanned;
                self.judge_scan(scan);
            }
        }
        Ok(builder.finish())
    }

    /// Where the lane reads on after a batch, if that part of the log has yet to be read; `None` if it is not
    /// read for all lanes.
    pub(crate) fn needs_next<DB: Backend>(&self, log: &Log<DB>, batch: &Batch) -> Option<i64> {
        if self.is_rare {
            return None;
        }
        log.end_of_cached(batch.up_to, batch.head, batch.incarnation)
    }

    /// Decides whether the scope is still rare by how dense the events are that its index found.
    fn judge_density(&mut self, range: &LogRange) {
        let width = range.to.saturating_sub(range.after);
        let found = i64::try_from(range.events.len()).unwrap_or(i64::MAX);
        self.is_rare = found.saturating_mul(5) < width;
    }

    /// Decides whether the scope is rare by how many scanned events are in it. Slices do not count:
    /// the index does not know them.
    fn judge_scan(&mut self, scan: Scan) {
        if !self.filter.scope.is_empty() && scan.scanned >= RARE_SAMPLE {
            self.is_rare = scan.in_scope * RARE < scan.scanned;
        }
    }
}

/// The result of a scan of a range.
#[derive(Clone, Copy, Debug)]
struct Scan {
    scanned: usize,
    in_scope: usize,
}

/// A batch that is being filled.
struct BatchBuilder {
    /// Without its events.
    batch: Batch,
    events: Vec<PersistedEvent>,
    bytes: u64,
    limit: usize,
    max_bytes: u64,
    is_full: bool,
}

impl BatchBuilder {
    fn new(after: i64, frontier: &Observation, limit: usize, max_bytes: u64) -> Self {
        Self {
            batch: Batch {
                after,
                up_to: after,
                incarnation: frontier.incarnation,
                head: frontier.settled,
                discards: 0,
                events: Arc::default(),
                defect: None,
                missing: None,
                excluded: NamedEvents::default(),
            },
            events: Vec::new(),
            bytes: 0,
            limit,
            max_bytes,
            is_full: false,
        }
    }

    fn finish(self) -> Batch {
        Batch {
            events: Arc::new(self.events),
            ..self.batch
        }
    }

    /// How many events and bytes fit in.
    fn room(&self) -> (u32, u64) {
        let events = self.limit.saturating_sub(self.events.len());
        let bytes = self.max_bytes.saturating_sub(self.bytes);
        (u32::try_from(events).unwrap_or(u32::MAX), bytes.max(1))
    }

    /// Adds the events of a range that follow the batch and pass the filter.
    fn add(&mut self, filter: &Filter, range: &LogRange) -> Scan {
        let before = self.batch.up_to;
        let scan = match &range.unreadable {
            Some(unreadable) => self.add_unreadable(filter, range, unreadable),
            None => self.add_events(filter, range),
        };
        self.add_missing(before, range);
        scan
    }

    /// Notes the deleted events of a range that lie in the part which was added.
    fn add_missing(&mut self, before: i64, range: &LogRange) {
        let Some(gap) = &range.missing else {
            return;
        };
        if before < *gap.start() && *gap.start() <= self.batch.up_to {
            let first = self.batch.missing.as_ref().unwrap_or(gap).start();
            self.batch.missing = Some(*first..=*gap.end());
        }
    }

    fn add_events(&mut self, filter: &Filter, range: &LogRange) -> Scan {
        let first = range.first_after(self.batch.up_to);
        let mut scan = Scan {
            scanned: range.events.len() - first,
            in_scope: 0,
        };
        if range.matches(&filter.scope) {
            for (index, event) in range.events.iter().enumerate().skip(first) {
                if !in_scope(&filter.scope, &event.aggregate_type) {
                    continue;
                }
                if filter.in_slices(range, index) && !self.push(event) {
                    self.is_full = true;
                    scan.scanned = index - first;
                    return scan;
                }
                scan.in_scope += 1;
            }
        }
        self.batch.up_to = range.to;
        self.is_full = self.events.len() >= self.limit;
        scan
    }

    /// Adds an event that cannot be decoded, unless the filter excludes it.
    fn add_unreadable(
        &mut self,
        filter: &Filter,
        range: &LogRange,
        unreadable: &UnreadableEvent,
    ) -> Scan {
        let is_wanted = range.matches(&filter.scope) && filter.in_slices(range, 0);
        if !is_wanted {
            self.batch.up_to = range.to;
        } else if self.events.is_empty() {
            self.batch.up_to = range.to;
            self.events.push(unreadable.event.clone());
            self.batch.defect = Some(Defect::Unreadable(unreadable.clone()));
        }
        self.is_full |= is_wanted;
        Scan {
            scanned: 1,
            in_scope: usize::from(is_wanted),
        }
    }

    /// Adds an event unless the batch is full; an empty batch takes an event of any size.
    fn push(&mut self, event: &PersistedEvent) -> bool {
        let bytes = self.bytes + event_bytes(event);
        let fits = self.events.len() < self.limit && bytes <= self.max_bytes;
        if !fits && !self.events.is_empty() {
            return false;
        }
        self.bytes = bytes;
        self.batch.up_to = event.global_position;
        self.events.push(event.clone());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A range of which every `every`-th event is of type `User`, the others of `Order`.
    fn range(events: i64, every: i64) -> LogRange {
        let event = |position: i64| {
            let aggregate_type = if position % every == 0 {
                "User"
            } else {
                "Order"
            };
            PersistedEvent::new(EventRecord {
                global_position: position,
                aggregate_type: aggregate_type.into(),
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

    fn builder(limit: usize) -> BatchBuilder {
        let frontier = Observation {
            settled: 10_000,
            head: 10_000,
            incarnation: Incarnation::default(),
            waiting: false,
            more: false,
        };
        BatchBuilder::new(0, &frontier, limit, u64::MAX)
    }

    fn is_rare(filter: Filter, range: &LogRange, limit: usize) -> bool {
        let scan = builder(limit).add(&filter, range);
        let mut reader = BatchReader::new(filter);
        reader.judge_scan(scan);
        reader.is_rare
    }

    #[test]
    fn a_scope_is_rare_if_few_events_of_the_log_are_in_it() {
        assert!(is_rare(users(0..SLICES), &range(1_000, 100), 500));
        assert!(!is_rare(users(0..SLICES), &range(1_000, 2), 500));
    }

    #[test]
    fn a_batch_that_fills_up_early_does_not_make_its_scope_rare() {
        assert!(!is_rare(users(0..SLICES), &range(1_000, 1), 20));
    }

    #[test]
    fn a_segment_of_few_slices_does_not_make_its_scope_rare() {
        assert!(!is_rare(users(0..16), &range(1_000, 1), 500));
    }

    #[test]
    fn a_batch_ends_before_the_first_unknown_event() {
        let read = |is_known: fn(i64) -> bool| {
            let mut full = builder(20);
            full.add(&users(0..SLICES), &range(1_000, 2));
            full.finish()
                .before_unknown(|event| is_known(event.global_position))
        };
        let known = read(|_| true);
        assert_eq!((known.up_to, known.events.len()), (40, 20));
        let before = read(|position| position != 10 && position != 20);
        assert_eq!((before.up_to, before.events.len()), (8, 4));
        assert!(before.defect.is_none());
        let first = read(|position| position > 2);
        assert_eq!((first.up_to, first.events.len()), (2, 1));
        let defect = first.defect;
        assert!(matches!(defect, Some(Defect::Unknown(event)) if event.position == 2));
    }

    #[test]
    fn a_full_batch_ends_at_its_last_event_others_with_the_range() {
        let mut full = builder(20);
        full.add(&users(0..SLICES), &range(1_000, 2));
        assert_eq!((full.batch.up_to, full.events.len()), (40, 20));
        let mut partial = builder(2_000);
        partial.add(&users(0..SLICES), &range(1_000, 3));
        assert_eq!((partial.batch.up_to, partial.events.len()), (1_000, 333));
    }
}
