//! Reads the log once for all consumers of a process (R6).

pub(crate) mod batch;
mod cache;
mod continuity;
pub(crate) mod range;
mod seen;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use sqlx::Connection as _;
use sqlx::pool::PoolConnection;

use crate::backend::{
    Backend, Incarnation, LogRow, ReadRange, StoreError, acquire, check_mapping, position,
};
use crate::contract::Settings;
use crate::store::EventStore;
use crate::worker::log::cache::Cache;
use crate::worker::log::continuity::{Continuity, SkippedVersion};
use crate::worker::log::range::LogRange;
use crate::worker::log::seen::SeenPositions;
use crate::worker::metrics;
use crate::worker::threads::ThreadSetup;
use crate::worker::timeouts::Timeouts;

/// How many events one read fetches at most, unless a batch wants more.
const RANGE_EVENTS: u32 = 2_000;

/// The least that one read may fetch, so that a small cache does not turn each event into a read.
const MIN_READ_BYTES: u64 = 1 << 20;

/// Reads the log for all lanes of a worker and caches what it read.
pub(crate) struct Log<DB: Backend> {
    store: EventStore<DB>,
    /// The only reader: the first lane that needs a range reads it, and the others find it in the
    /// cache.
    reader: tokio::sync::Mutex<Option<PoolConnection<DB>>>,
    /// Locked while a range is read that no lane needs yet.
    ahead: tokio::sync::Mutex<()>,
    cache: Mutex<Cache>,
    cache_bytes: u64,
    continuity: Continuity,
    seen: Mutex<SeenPositions>,
    /// Whether a read has found that the table of events no longer fits its mapping.
    has_mismatch: AtomicBool,
    /// The name of the log, for metrics.
    name: String,
    /// Whether a read takes one exchange with the server even outside a transaction.
    keeps_statements: bool,
    timeouts: Timeouts,
    thread_setup: OnceLock<ThreadSetup>,
}

impl<DB: Backend> Log<DB> {
    pub(crate) fn new(store: EventStore<DB>, cache_bytes: u64, timeouts: Timeouts) -> Self {
        Self {
            keeps_statements: store.keeps_statements(),
            name: store.schema().log_name(),
            store,
            reader: tokio::sync::Mutex::new(None),
            ahead: tokio::sync::Mutex::new(()),
            cache: Mutex::new(Cache::default()),
            cache_bytes,
            continuity: Continuity::default(),
            seen: Mutex::default(),
            has_mismatch: AtomicBool::new(false),
            timeouts,
            thread_setup: OnceLock::new(),
        }
    }

    /// Reads from the same tables under other names.
    pub(crate) fn read_from(&mut self, store: &EventStore<DB>) {
        self.store = store.clone();
    }

    /// Opens the connection of the reader, whose thread is set up first.
    pub(crate) async fn open(&self, setup: ThreadSetup) -> Result<(), sqlx::Error> {
        // A worker runs once, so this is set once.
        let _ = self.thread_setup.set(setup);
        let mut reader = self.reader.lock().await;
        if reader.is_none() {
            *reader = Some(self.connect().await?);
        }
        Ok(())
    }

    /// The range that covers the position after `after`, which is below `settled`. A read fetches
    /// enough for a batch of `batch_len` events.
    pub(crate) async fn read(
        &self,
        after: i64,
        settled: i64,
        incarnation: Incarnation,
        batch_len: usize,
    ) -> Result<Arc<LogRange>, StoreError> {
        if let Some(range) = self.cached(after, incarnation) {
            metrics::cache(&self.name, true);
            return Ok(range);
        }
        let mut reader = self.reader.lock().await;
        // Another lane may have read it while this one waited for the reader.
        let cached = self.cached(after, incarnation);
        metrics::cache(&self.name, cached.is_some());
        if let Some(range) = cached {
            return Ok(range);
        }
        let (next_start, discards) = {
            let cache = self.cache.lock();
            (cache.next_start(after), cache.discards())
        };
        let up_to = next_start.map_or(settled, |start| start.min(settled));
        let batch_len = u32::try_from(batch_len).unwrap_or(u32::MAX);
        let wanted = ReadRange {
            after,
            up_to,
            limit: batch_len.clamp(RANGE_EVENTS, Settings::MAX_BATCH_SIZE),
            max_bytes: (self.cache_bytes / 8).max(MIN_READ_BYTES),
            scope: None,
        };
        let rows = self.fetch(&mut reader, wanted, incarnation).await?;
        let mut first = None;
        for mut range in divide(wanted, rows) {
            range.missing = self.seen.lock().missing_in(&range);
            let range = Arc::new(range);
            // The row of an event that cannot be decoded may be corrected, so it is read each time.
            if range.unreadable.is_none() {
                self.check_continuity(&range, incarnation);
                let mut cache = self.cache.lock();
                cache.insert(&range, incarnation, discards, self.cache_bytes);
            }
            first.get_or_insert(range);
        }
        Ok(first.unwrap_or_else(|| Arc::new(LogRange::new(after, up_to, Vec::new()))))
    }

    /// The position after the range that a lane reads from next, if what follows has yet to be read. A small
    /// cache might drop that before the lane needs it.
    pub(crate) fn end_of_cached(
        &self,
        after: i64,
        settled: i64,
        incarnation: Incarnation,
    ) -> Option<i64> {
        if self.cache_bytes / 8 < MIN_READ_BYTES {
            return None;
        }
        let mut cache = self.cache.lock();
        let end = match cache.find(after, incarnation) {
            Some(range) => range.to,
            None => after,
        };
        (end < settled && cache.find(end, incarnation).is_none()).then_some(end)
    }

    /// Reads a range that a lane will need soon into the cache, unless another one is being read in this way.
    pub(crate) async fn read_ahead(
        &self,
        after: i64,
        settled: i64,
        incarnation: Incarnation,
        batch_len: usize,
    ) {
        let Ok(_ahead) = self.ahead.try_lock() else {
            return;
        };
        // If that fails, the lane that needs it reads it again, and reports the error.
        let _ = self.read(after, settled, incarnation, batch_len).await;
    }

    /// Reads the events of a rare scope through its index, past the cache.
    pub(crate) async fn read_scope(
        &self,
        wanted: ReadRange<'_>,
        incarnation: Incarnation,
    ) -> Result<LogRange, StoreError> {
        let mut reader = self.reader.lock().await;
        let rows = self.fetch(&mut reader, wanted, incarnation).await?;
        let first = divide(wanted, rows).into_iter().next();
        Ok(first.unwrap_or_else(|| LogRange::new(wanted.after, wanted.up_to, Vec::new())))
    }

    /// Reads the first event at a position or after it, past the cache.
    pub(crate) async fn first_from(
        &self,
        position: i64,
        settled: i64,
        incarnation: Incarnation,
    ) -> Result<Option<LogRow>, StoreError> {
        let wanted = ReadRange {
            after: position - 1,
            up_to: settled,
            limit: 1,
            max_bytes: MIN_READ_BYTES,
            scope: None,
        };
        let mut reader = self.reader.lock().await;
        let rows = self.fetch(&mut reader, wanted, incarnation).await?;
        Ok(rows.into_iter().next())
    }

    /// Remembers positions at which the log has or had an event.
    pub(crate) fn note_positions(
        &self,
        positions: impl Iterator<Item = i64>,
        incarnation: Incarnation,
    ) {
        self.seen.lock().add(positions, incarnation);
    }

    /// Drops all events that are kept in memory, and those that are being read now, since the rows of
    /// events may have been changed. What was read before counts as [outdated](Self::discards).
    pub(crate) fn discard(&self) {
        self.cache.lock().discard();
    }

    /// How often everything was discarded; what was read before the last time must not be handled.
    pub(crate) fn discards(&self) -> u64 {
        self.cache.lock().discards()
    }

    /// Makes the next read of an event come from the database.
    pub(crate) async fn discard_at(&self, position: i64) {
        // A read that has begun before would add the event again.
        let _reader = self.reader.lock().await;
        self.cache.lock().discard_at(position);
    }

    /// Closes the reader's connection, which is probably dead, unless it is reading.
    pub(crate) fn close_idle(&self) {
        if let Ok(mut reader) = self.reader.try_lock() {
            *reader = None;
        }
    }

    fn cached(&self, after: i64, incarnation: Incarnation) -> Option<Arc<LogRange>> {
        self.cache.lock().find(after, incarnation)
    }

    async fn fetch(
        &self,
        reader: &mut Option<PoolConnection<DB>>,
        wanted: ReadRange<'_>,
        incarnation: Incarnation,
    ) -> Result<Vec<LogRow>, StoreError> {
        let mut connection = match reader.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let read = self.fetch_over(&mut connection, wanted, incarnation);
        let mut read = self.timeouts.answer(read).await;
        if may_be_of_another_table(&read) {
            if read.is_err() {
                drop(connection);
                connection = self.connect().await?;
            }
            let checked = self.check_mapping(&mut connection);
            read = self.timeouts.answer(checked).await.and(read);
        }
        let rows = read?;
        // A connection on which a read failed, or that leads to another server, is not used again.
        *reader = Some(connection);
        Ok(rows)
    }

    /// Tells a table of events that was changed from an event that cannot be decoded: no policy may skip or
    /// park what another mapping reads.
    async fn check_mapping(&self, connection: &mut DB::Connection) -> Result<(), StoreError> {
        let checked = check_mapping::<DB>(connection, self.store.settings()).await;
        let has_mismatch = matches!(checked, Err(StoreError::Mismatches { .. }));
        self.has_mismatch.fetch_or(has_mismatch, Ordering::AcqRel);
        checked
    }

    /// Whether a read has found, since this was last asked, that the table of events no longer fits its
    /// mapping.
    pub(crate) fn take_mismatch(&self) -> bool {
        self.has_mismatch.swap(false, Ordering::AcqRel)
    }

    async fn fetch_over(
        &self,
        connection: &mut PoolConnection<DB>,
        wanted: ReadRange<'_>,
        incarnation: Incarnation,
    ) -> Result<Vec<LogRow>, StoreError> {
        if self.keeps_statements {
            // One prepared statement is one exchange with a snapshot of its own.
            let rows = self.store.read_settled(connection, wanted, incarnation);
            return rows.await;
        }
        // Without prepared statements a read is several messages, which a pooler in transaction
        // mode sends to one server connection only inside a transaction.
        let mut tx = connection.begin_with(DB::BEGIN_READ).await?;
        let rows = self
            .store
            .read_settled(&mut tx, wanted, incarnation)
            .await?;
        tx.commit().await?;
        Ok(rows)
    }

    async fn connect(&self) -> Result<PoolConnection<DB>, sqlx::Error> {
        let mut connection = acquire(self.store.pool()).await?;
        // A read that is dropped during its BEGIN leaves a transaction open that sqlx does not know
        // of, so the connection must not return to the pool.
        connection.close_on_drop();
        let on_thread = self.thread_setup.get().and_then(ThreadSetup::on_thread);
        if let Some(on_thread) = on_thread {
            DB::on_thread(&mut connection, on_thread).await?;
        }
        Ok(connection)
    }

    fn check_continuity(&self, range: &LogRange, incarnation: Incarnation) {
        let (after, to) = (range.after, range.to);
        let skipped = self.continuity.check(after, to, incarnation, &range.events);
        for skipped in skipped {
            let SkippedVersion {
                position,
                aggregate_type,
                aggregate_id,
                version,
                last,
            } = skipped;
            metrics::continuity_break(&self.name);
            tracing::error!(
                position,
                aggregate_type,
                aggregate_id,
                "version {version} of an aggregate follows version {last}: the events in between were deleted, or were inserted at positions that had been settled, where no consumer sees them; delete only what every consumer has handled, and draw a position in the transaction that inserts it",
            );
        }
    }
}

/// Whether the columns of the table may have changed since the worker started.
fn may_be_of_another_table(read: &Result<Vec<LogRow>, StoreError>) -> bool {
    match read {
        Ok(rows) => rows.iter().any(Result::is_err),
        Err(error) => matches!(error, StoreError::SchemaMismatch { .. }),
    }
}

/// What was read, as ranges. The limits may have cut the read short: only an empty one covers all that
/// was wanted.
fn divide(wanted: ReadRange<'_>, rows: Vec<LogRow>) -> Vec<LogRange> {
    let to = rows.last().map_or(wanted.up_to, position);
    LogRange::divide(wanted.after, to, rows)
}
