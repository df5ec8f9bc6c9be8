//! The log as the consumers of a process read it: each range once, for all of them (R6).

pub(crate) mod batch;
mod continuity;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sqlx::Connection as _;
use sqlx::pool::PoolConnection;

use crate::backend::aggregate_slice;
use crate::backend::{Backend, Incarnation};
use crate::backend::{ReadRange, StoreError};
use crate::contract::PersistedEvent;
use crate::store::EventStore;
use crate::worker::log::continuity::Continuity;
use crate::worker::metrics;
use crate::worker::threads::Core;
use crate::worker::timeouts::Timeouts;

/// How many events one read fetches at most, unless a batch wants more.
const RANGE_EVENTS: u32 = 2_000;

/// What a range costs beside its events, so that a cache of tiny ranges is bounded too.
const RANGE_OVERHEAD: u64 = 256;

/// What an event costs beside its content.
const EVENT_OVERHEAD: u64 = 320;

/// A settled part of the log: all events after `after`, up to and including `to`.
#[derive(Debug)]
pub(crate) struct LogRange {
    pub(crate) after: i64,
    pub(crate) to: i64,
    pub(crate) events: Vec<PersistedEvent>,
    kinds: Vec<Arc<str>>,
    /// The slice of each event's aggregate, for those who want only some.
    slices: OnceLock<Vec<u16>>,
    bytes: u64,
}

impl LogRange {
    pub(super) fn new(after: i64, to: i64, events: Vec<PersistedEvent>) -> Self {
        let mut kinds: Vec<Arc<str>> = Vec::new();
        let mut bytes = RANGE_OVERHEAD;
        for event in &events {
            bytes += event_bytes(event);
            if !kinds.iter().any(|kind| same(kind, &event.aggregate_type)) {
                kinds.push(Arc::clone(&event.aggregate_type));
            }
        }
        Self {
            after,
            to,
            events,
            kinds,
            slices: OnceLock::new(),
            bytes,
        }
    }

    /// The index of the first event after a position.
    pub(crate) fn first_after(&self, position: i64) -> usize {
        self.events
            .partition_point(|event| event.global_position <= position)
    }

    /// The slice of an event's aggregate, computed once for all lanes.
    pub(crate) fn slice(&self, index: usize) -> u16 {
        let slices = self.slices.get_or_init(|| {
            self.events
                .iter()
                .map(|event| aggregate_slice(&event.aggregate_id))
                .collect()
        });
        slices.get(index).copied().unwrap_or_default()
    }

    /// The aggregate types in it.
    pub(crate) fn kinds(&self) -> &[Arc<str>] {
        &self.kinds
    }

    /// Whether any event in it can be in the scope.
    pub(crate) fn may_match(&self, scope: &[Arc<str>]) -> bool {
        scope.is_empty() || self.kinds.iter().any(|kind| in_scope(scope, kind))
    }
}

/// What an event counts against a budget of bytes.
pub(crate) fn event_bytes(event: &PersistedEvent) -> u64 {
    event.content_bytes() + EVENT_OVERHEAD
}

/// Whether a scope takes events of that aggregate type (R7); an empty one takes all (R8).
pub(crate) fn in_scope(scope: &[Arc<str>], kind: &Arc<str>) -> bool {
    scope.is_empty() || scope.iter().any(|wanted| same(wanted, kind))
}

/// Types are interned: equal ones are mostly the same.
fn same(left: &Arc<str>, right: &Arc<str>) -> bool {
    Arc::ptr_eq(left, right) || left == right
}

/// Reads the log for all lanes of a worker and keeps what it read for those who come later.
pub(crate) struct Log<DB: Backend> {
    store: EventStore<DB>,
    /// One reader: whoever comes first reads, and the others find what they wait for in the cache.
    reader: tokio::sync::Mutex<Option<PoolConnection<DB>>>,
    cache: Mutex<Cache>,
    continuity: Continuity,
    /// Whether a read is one exchange with the server also outside a transaction.
    in_one_exchange: bool,
    budget: u64,
    timeouts: Timeouts,
    core: OnceLock<Core>,
}

impl<DB: Backend> Log<DB> {
    pub(crate) fn new(store: EventStore<DB>, budget: u64, timeouts: Timeouts) -> Self {
        Self {
            in_one_exchange: store.keeps_statements(),
            store,
            reader: tokio::sync::Mutex::new(None),
            cache: Mutex::new(Cache::default()),
            continuity: Continuity::default(),
            budget,
            timeouts,
            core: OnceLock::new(),
        }
    }

    /// Keeps the threads of readers that are opened from now on on a core.
    pub(crate) fn keep_on(&self, core: Core) {
        // A worker runs once.
        let _ = self.core.set(core);
    }

    /// Opens the reader's connection.
    pub(crate) async fn prepare(&self) -> Result<(), sqlx::Error> {
        let mut reader = self.reader.lock().await;
        if reader.is_none() {
            *reader = Some(self.connect().await?);
        }
        Ok(())
    }

    /// The range that covers the position after `after`; `settled` is above `after`. What has to
    /// be read is read for a whole batch of `batch_len` events.
    pub(crate) async fn read(
        &self,
        after: i64,
        settled: i64,
        incarnation: Incarnation,
        batch_len: usize,
    ) -> Result<Arc<LogRange>, StoreError> {
        if let Some(range) = self.cached(after, incarnation) {
            metrics::cache(true);
            return Ok(range);
        }
        let mut reader = self.reader.lock().await;
        let cached = self.cached(after, incarnation);
        metrics::cache(cached.is_some());
        if let Some(range) = cached {
            return Ok(range);
        }
        let up_to = self
            .lock()
            .next_start(after)
            .map_or(settled, |start| start.min(settled));
        let batch_len = u32::try_from(batch_len).unwrap_or(u32::MAX);
        let events = self
            .fetch(
                &mut reader,
                after,
                up_to,
                batch_len.max(RANGE_EVENTS),
                self.read_bytes(),
                None,
            )
            .await?;
        // A read may have been cut short by its bounds: only an empty one covers the whole range.
        let to = events.last().map_or(up_to, |last| last.global_position);
        for found in self.continuity.follow(after, to, incarnation, &events) {
            metrics::continuity_break();
            tracing::error!(
                position = found.position,
                aggregate_type = found.aggregate_type,
                aggregate_id = found.aggregate_id,
                "version {} of an aggregate follows version {}: events in between were deleted, or came in at positions that had been settled, where no consumer sees them; draw a position in the transaction that inserts it",
                found.version,
                found.last,
            );
        }
        let range = Arc::new(LogRange::new(after, to, events));
        self.lock().insert(&range, incarnation, self.budget);
        Ok(range)
    }

    /// Reads the events of a rare scope through its index; nothing of it is kept.
    pub(crate) async fn read_scope(
        &self,
        after: i64,
        settled: i64,
        limit: u32,
        max_bytes: u64,
        scope: &[Arc<str>],
    ) -> Result<LogRange, StoreError> {
        let mut reader = self.reader.lock().await;
        let events = self
            .fetch(&mut reader, after, settled, limit, max_bytes, Some(scope))
            .await?;
        let to = events.last().map_or(settled, |last| last.global_position);
        Ok(LogRange::new(after, to, events))
    }

    /// How much one read may bring: so that a few of them fit into the budget, and not so little
    /// that each event becomes a read of its own.
    fn read_bytes(&self) -> u64 {
        const LEAST: u64 = 1 << 20;
        (self.budget / 8).max(LEAST)
    }

    /// Closes the reader's connection unless it is at work: it is likely to be dead.
    pub(crate) fn close_idle(&self) {
        if let Ok(mut reader) = self.reader.try_lock() {
            *reader = None;
        }
    }

    async fn fetch(
        &self,
        reader: &mut Option<PoolConnection<DB>>,
        after: i64,
        up_to: i64,
        limit: u32,
        max_bytes: u64,
        scope: Option<&[Arc<str>]>,
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        let mut connection = match reader.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let range = ReadRange {
            after,
            up_to,
            limit,
            max_bytes,
            scope,
        };
        let read = async {
            if self.in_one_exchange {
                // One prepared statement is one exchange, and has a snapshot of its own.
                return self.store.read_range(&mut connection, range).await;
            }
            // Without prepared statements it is more than one message, which a pooler in
            // transaction mode keeps on one connection only inside a transaction.
            let mut tx = connection.begin_with(DB::BEGIN_READ).await?;
            let events = self.store.read_range(&mut tx, range).await?;
            tx.commit().await?;
            Ok::<_, StoreError>(events)
        };
        let events = self.timeouts.answer(read).await?;
        // A connection that failed is not put back.
        *reader = Some(connection);
        Ok(events)
    }

    async fn connect(&self) -> Result<PoolConnection<DB>, sqlx::Error> {
        let mut connection = self.store.pool().acquire().await?;
        // A read that is given up in the middle of a BEGIN leaves a transaction open that nobody
        // knows of: such a connection must not go back to the pool.
        connection.close_on_drop();
        if let Some(core) = self.core.get() {
            DB::on_thread(&mut connection, core.keep_a_thread()).await?;
        }
        Ok(connection)
    }

    fn cached(&self, after: i64, incarnation: Incarnation) -> Option<Arc<LogRange>> {
        self.lock().find(after, incarnation)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stretches by where they start, the least recently used thrown away first.
#[derive(Default)]
struct Cache {
    incarnation: Incarnation,
    ranges: BTreeMap<i64, Kept>,
    by_use: BTreeMap<u64, i64>,
    uses: u64,
    bytes: u64,
}

struct Kept {
    range: Arc<LogRange>,
    last_use: u64,
}

impl Cache {
    fn find(&mut self, after: i64, incarnation: Incarnation) -> Option<Arc<LogRange>> {
        self.begin_incarnation(incarnation);
        let (&start, kept) = self.ranges.range_mut(..=after).next_back()?;
        if kept.range.to <= after {
            return None;
        }
        self.uses += 1;
        self.by_use.remove(&kept.last_use);
        self.by_use.insert(self.uses, start);
        kept.last_use = self.uses;
        Some(Arc::clone(&kept.range))
    }

    fn next_start(&self, after: i64) -> Option<i64> {
        self.ranges
            .range(after.checked_add(1)?..)
            .next()
            .map(|(&start, _)| start)
    }

    fn insert(&mut self, range: &Arc<LogRange>, incarnation: Incarnation, budget: u64) {
        self.begin_incarnation(incarnation);
        self.uses += 1;
        self.bytes += range.bytes;
        self.by_use.insert(self.uses, range.after);
        let kept = Kept {
            range: Arc::clone(range),
            last_use: self.uses,
        };
        self.ranges.insert(range.after, kept);
        while self.bytes > budget {
            let Some((_, start)) = self.by_use.pop_first() else {
                break;
            };
            if let Some(kept) = self.ranges.remove(&start) {
                self.bytes -= kept.range.bytes;
            }
        }
    }

    /// What was read in another incarnation of the server may never have been.
    fn begin_incarnation(&mut self, incarnation: Incarnation) {
        if self.incarnation != incarnation {
            *self = Self {
                incarnation,
                ..Self::default()
            };
        }
    }
}
