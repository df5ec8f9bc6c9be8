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

    /// Adds a range that was read after that number of discards, and evicts others until all fit into the
    /// budget.
    pub(crate) fn insert(
        &mut self,
        range: &Arc<LogRange>,
        incarnation: Incarnation,
        discards: u64,
        budget: u64,
    ) {
        self.discard_other_incarnations(incarnation);
        if self.discards != discards {
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Incarnation = Incarnation {
        started: 1,
        recovered: 1,
    };

    fn add(cache: &mut Cache, after: i64, to: i64, discards: u64) {
        let range = Arc::new(LogRange::new(after, to, Vec::new()));
        cache.insert(&range, SERVER, discards, u64::MAX);
    }

    fn has(cache: &mut Cache, position: i64) -> bool {
        cache.find(position - 1, SERVER).is_some()
    }

    #[test]
    fn what_was_read_before_a_discard_is_not_added_after_it() {
        let mut cache = Cache::default();
        let discards = cache.discards();
        add(&mut cache, 0, 10, discards);
        cache.discard();
        assert!(!has(&mut cache, 5));
        add(&mut cache, 10, 20, discards);
        assert!(!has(&mut cache, 15), "it was being read");
        let discards = cache.discards();
        add(&mut cache, 10, 20, discards);
        assert!(has(&mut cache, 15));
    }

    #[test]
    fn another_incarnation_does_not_undo_a_discard() {
        let mut cache = Cache::default();
        let before = cache.discards();
        cache.discard();
        cache.find(0, SERVER);
        assert_ne!(cache.discards(), before);
    }

    #[test]
    fn only_the_range_with_the_position_is_discarded() {
        let mut cache = Cache::default();
        for after in [0, 10, 20] {
            add(&mut cache, after, after + 10, 0);
        }
        let bytes = cache.bytes;
        cache.discard_at(20);
        let kept = [5, 15, 25].map(|position| has(&mut cache, position));
        assert_eq!(kept, [true, false, true]);
        assert_eq!((cache.bytes, cache.by_use.len()), (bytes / 3 * 2, 2));
    }
}
