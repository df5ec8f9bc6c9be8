//! A settled part of the log, shared by all lanes that read it (R6).

use std::mem;
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};

use crate::backend::{LogRow, UnreadableEvent, aggregate_slice};
use crate::contract::PersistedEvent;

/// The cost of a range besides its events, so that a cache of tiny ranges is bounded too.
const RANGE_OVERHEAD: u64 = 256;

/// The cost of an event besides its content.
const EVENT_OVERHEAD: u64 = 320;

/// A settled part of the log: all events after `after`, up to and including `to`.
#[derive(Debug)]
pub(crate) struct LogRange {
    pub(crate) after: i64,
    pub(crate) to: i64,
    pub(crate) events: Vec<PersistedEvent>,
    /// Why its only event cannot be decoded; `None` for a range of events that can.
    pub(crate) unreadable: Option<UnreadableEvent>,
    /// Positions whose events were deleted, as far as it is known.
    pub(crate) missing: Option<RangeInclusive<i64>>,
    aggregate_types: Vec<Arc<str>>,
    /// The slice of each event's aggregate, computed for the first lane that has only some slices.
    slices: OnceLock<Vec<u16>>,
    bytes: u64,
}

impl LogRange {
    /// Divides what was read of the log, at least into one range. An event that cannot be decoded is a
    /// range of its own.
    pub(crate) fn divide(after: i64, to: i64, rows: Vec<LogRow>) -> Vec<Self> {
        let mut ranges = Vec::new();
        let mut start = after;
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            match row {
                Ok(event) => events.push(event),
                Err(unreadable) => {
                    let position = unreadable.event.global_position;
                    if !events.is_empty() {
                        let before = mem::take(&mut events);
                        ranges.push(Self::new(start, position - 1, before));
                        start = position - 1;
                    }
                    ranges.push(Self::of_unreadable(start, unreadable));
                    start = position;
                }
            }
        }
        if !events.is_empty() || ranges.is_empty() {
            ranges.push(Self::new(start, to, events));
        }
        ranges
    }

    fn of_unreadable(after: i64, unreadable: UnreadableEvent) -> Self {
        let event = unreadable.event.clone();
        Self {
            unreadable: Some(unreadable),
            ..Self::new(after, event.global_position, vec![event])
        }
    }

    pub(crate) fn new(after: i64, to: i64, events: Vec<PersistedEvent>) -> Self {
        let mut aggregate_types: Vec<Arc<str>> = Vec::new();
        let mut bytes = RANGE_OVERHEAD;
        for event in &events {
            bytes += event_bytes(event);
            let is_known = |known: &Arc<str>| is_same(known, &event.aggregate_type);
            if !aggregate_types.iter().any(is_known) {
                aggregate_types.push(Arc::clone(&event.aggregate_type));
            }
        }
        Self {
            after,
            to,
            events,
            unreadable: None,
            missing: None,
            aggregate_types,
            slices: OnceLock::new(),
            bytes,
        }
    }

    /// The positions without an event around one; `None` if it has an event.
    pub(crate) fn gap_at(&self, position: i64) -> Option<RangeInclusive<i64>> {
        let index = self.first_after(position);
        let before = index.checked_sub(1).and_then(|last| self.events.get(last));
        let before = before.map_or(self.after, |event| event.global_position);
        let next = self.events.get(index);
        let last = next.map_or(self.to, |event| event.global_position - 1);
        (before < position).then(|| before + 1..=last)
    }

    /// The index of the first event after a position.
    pub(crate) fn first_after(&self, position: i64) -> usize {
        self.events
            .partition_point(|event| event.global_position <= position)
    }

    /// The slice of an event's aggregate.
    pub(crate) fn slice(&self, index: usize) -> u16 {
        let slices = self.slices.get_or_init(|| {
            self.events
                .iter()
                .map(|event| aggregate_slice(&event.aggregate_id))
                .collect()
        });
        slices.get(index).copied().unwrap_or_default()
    }

    /// Whether it has an event whose aggregate type is unknown, and may be any.
    pub(crate) fn is_of_any_type(&self) -> bool {
        let unreadable = self.unreadable.as_ref();
        unreadable.is_some_and(|event| event.aggregate_type.is_none())
    }

    /// The aggregate types of its events.
    pub(crate) fn aggregate_types(&self) -> &[Arc<str>] {
        &self.aggregate_types
    }

    /// Whether any of its events is in the scope.
    pub(crate) fn matches(&self, scope: &[Arc<str>]) -> bool {
        let is_in_scope = |own| in_scope(scope, own);
        scope.is_empty() || self.is_of_any_type() || self.aggregate_types.iter().any(is_in_scope)
    }

    /// The bytes that it counts against the budget of a cache.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The bytes that an event counts against a budget.
pub(crate) fn event_bytes(event: &PersistedEvent) -> u64 {
    event.content_bytes() + EVENT_OVERHEAD
}

/// Whether a scope contains an aggregate type (R7); an empty scope contains all (R8).
pub(crate) fn in_scope(scope: &[Arc<str>], aggregate_type: &Arc<str>) -> bool {
    scope.is_empty() || scope.iter().any(|wanted| is_same(wanted, aggregate_type))
}

/// Types are interned, so equal ones are mostly the same allocation.
fn is_same(left: &Arc<str>, right: &Arc<str>) -> bool {
    Arc::ptr_eq(left, right) || left == right
}
