//! The ranges of the log that are kept in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backend::Incarnation;
use crate::worker::log::range::LogRange;

/// Ranges of the log by their start; the least recently used ones are evicted first.
#[derive(Default)]
pub(crate) struct Cache {
    incarnation: Incarnation,
    ranges: BTreeMap<i64, CachedRange>,
    /// The start of each range, by its last use.
    by_use: BTreeMap<u64, i64>,
    uses: u64,
    bytes: u64,
    /// How often everything was discarded: what was read before the last time is not added any more.
    discards: u64,
}

struct CachedRange {
    range: Arc<LogRange>,
    last_use: u64,
}

impl Cache {
    /// The range that covers the position after `after`.
    pub(crate) fn find(&mut self, after: i64, incarnation: Incarnation) -> Option<Arc<LogRange>> {
        self.discard_other_incarnations(incarnation);
        let (&start, cached) = self.ranges.range_mut(..=after).next_back()?;
        if cached.range.to <= after {
            return None;
        }
        self.uses += 1;
        self.by_use.remove(&cached.last_use);
        self.by_use.insert(self.uses, start);
        cached.last_use = self.uses;
        Some(Arc::clone(&cached.range))
    }

    /// Where the first range starts that follows a position.
    pub(crate) fn next_start(&self, after: i64) -> Option<i64> {
        self.ranges
            .range(after.checked_add(1)?..)
            .next()
            .map(|(&start, _)| start)
    }

    /// Discards all ranges, and those that are being read now.
    pub(crate) fn discard(&mut self) {
        *self = Self {
            incarnation: self.incarnation,
            discards: self.discards + 1,
            ..Self::default()
        };
    }

    /// Discards the range with a position.
    pub(crate) fn discard_at(&mut self, position: i64) {
        let covering = self.ranges.range(..position).next_back();
        let start = covering.map(|(&start, _)| start);
        if let Some(cached) = start.and_then(|start| self.ranges.remove(&start)) {
            self.by_use.remove(&cached.last_use);
            self.bytes -= cached.range.bytes();
        }
    }

    pub(crate) fn discards(&self) -> u64 {
        self.discards
    }

    /// Adds a range, and evicts others until all of them fit into the budget.
    pub(crate) fn insert(&mut self, range: &Arc<LogRange>, incarnation: Incarnation, budget: u64) {
        self.discard_other_incarnations(incarnation);
        self.uses += 1;
        self.bytes += range.bytes();
        self.by_use.insert(self.uses, range.after);
        let cached = CachedRange {
            range: Arc::clone(range),
            last_use: self.uses,
        };
        self.ranges.insert(range.after, cached);
        while self.bytes > budget {
            let Some((_, start)) = self.by_use.pop_first() else {
                break;
            };
            if let Some(evicted) = self.ranges.remove(&start) {
                self.bytes -= evicted.range.bytes();
            }
        }
    }

    /// A crash can take back what was read in another incarnation of the server.
    fn discard_other_incarnations(&mut self, incarnation: Incarnation) {
        if self.incarnation != incarnation {
            *self = Self {
                incarnation,
                discards: self.discards,
                ..Self::default()
            };
        }
    }
}
