//! Reads the next batch of a lane while the one before it is handled.

use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::backend::{Backend, StoreError};
use crate::worker::context::Shared;
use crate::worker::lane::segment::Segment;
use crate::worker::log::batch::{Batch, BatchReader};
use crate::worker::threads::Reader;

/// Reads the batches of a lane, one ahead.
pub(super) struct ReadAhead {
    threads: Reader,
    /// `None` while a task has it, and after the segment was resized.
    reader: Option<BatchReader>,
    reading: Option<Reading>,
}

/// A batch that is being read.
///
/// In a task rather than in a future of the lane: a lane that waits for a retry does not poll it, and
/// a reader that is not polled would keep the log from all other lanes. A task that is no longer
/// wanted runs to its end, and what it reads stays in the cache.
struct Reading {
    after: i64,
    task: JoinHandle<(BatchReader, Result<Batch, StoreError>)>,
}

impl ReadAhead {
    pub(super) fn new(threads: Reader) -> Self {
        Self {
            threads,
            reader: None,
            reading: None,
        }
    }

    /// Discards the batch that is being read.
    pub(super) fn discard(&mut self) {
        self.reading = None;
    }

    /// Discards what is known of a segment that has been resized.
    pub(super) fn resize(&mut self) {
        self.reader = None;
        self.reading = None;
    }

    /// Starts to read the batch after a position, unless a batch is being read already.
    pub(super) fn start<DB: Backend>(
        &mut self,
        shared: &Arc<Shared<DB>>,
        segment: &Segment<DB>,
        after: i64,
        limit: usize,
    ) {
        if self.reading.is_some() {
            return;
        }
        let shared = Arc::clone(shared);
        let settings = segment.consumer.settings.clone();
        let reader = self.reader.take();
        let mut reader = reader.unwrap_or_else(|| BatchReader::new(segment.filter()));
        let threads = self.threads.clone();
        let task = self.threads.spawn(async move {
            let frontier = shared.frontier.borrow().clone();
            let max_bytes = shared.batch_bytes(&settings);
            let batch = reader
                .collect(&shared.log, &frontier, after, limit, max_bytes)
                .await;
            if let Ok(batch) = &batch
                && let Some(next) = reader.needs_next(&shared.log, batch)
            {
                let (settled, incarnation) = (batch.head, batch.incarnation);
                // While the batches of this range are handled, which are there.
                threads.spawn(async move {
                    let log = &shared.log;
                    log.read_ahead(next, settled, incarnation, limit).await;
                });
            }
            (reader, batch)
        });
        self.reading = Some(Reading { after, task });
    }

    /// The batch after a position, which may be empty; `None` when the worker stops.
    pub(super) async fn next<DB: Backend>(
        &mut self,
        shared: &Arc<Shared<DB>>,
        segment: &Segment<DB>,
        after: i64,
        limit: usize,
    ) -> Result<Option<Batch>, StoreError> {
        // What was read to follow a batch that was not saved would leave that batch out.
        if self.reading.as_ref().is_some_and(|one| one.after != after) {
            self.discard();
        }
        self.start(shared, segment, after, limit);
        let Some(Reading { task, .. }) = self.reading.take() else {
            return Ok(None);
        };
        let (reader, batch) = tokio::select! {
            // A task that panicked has lost its reader, and the next one makes another.
            read = task => read.map_err(|_| sqlx::Error::WorkerCrashed)?,
            () = shared.stopped() => return Ok(None),
        };
        self.reader = Some(reader);
        batch.map(Some)
    }
}
