//! The poller's turn to write, on a database with a single writer.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::backend::Backend;
use crate::worker::connections::Connections;

/// Keeps the lanes from writing while the poller does.
///
/// Waiting for them would delay the log for all lanes, so at first the poller writes only while none of them
/// does. Lanes that are always busy would keep it from writing forever, so after a while it queues up behind
/// them, and keeps polling while it waits.
pub(super) struct WritingTurn<DB: Backend> {
    connections: Arc<Connections<DB>>,
    /// How long it tries before it queues up.
    queue_after: Duration,
    refused_since: Option<Instant>,
    queued: Option<BoxFuture<'static, Option<OwnedSemaphorePermit>>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl<DB: Backend> WritingTurn<DB> {
    pub(super) fn new(connections: Arc<Connections<DB>>, queue_after: Duration) -> Self {
        Self {
            connections,
            queue_after,
            refused_since: None,
            queued: None,
            permit: None,
        }
    }

    /// Whether the poller may write, until [`end`](Self::end).
    pub(super) fn begin(&mut self) -> bool {
        if DB::WRITERS.is_none() {
            return true;
        }
        if self.permit.is_none() {
            self.permit = self.connections.try_pause_writers();
        }
        if self.permit.is_some() {
            self.refused_since = None;
            self.queued = None;
            return true;
        }
        let since = *self.refused_since.get_or_insert_with(Instant::now);
        if self.queued.is_none() && since.elapsed() >= self.queue_after {
            let connections = Arc::clone(&self.connections);
            self.queued = Some(Box::pin(async move { connections.pause_writers().await }));
        }
        false
    }

    /// Whether the poller has queued up, and it is its turn.
    pub(super) fn has_come(&self) -> bool {
        self.permit.is_some()
    }

    /// Waits for the turn of a poller that has queued up; never ends for another one.
    pub(super) async fn comes(&mut self) {
        match &mut self.queued {
            Some(queued) => self.permit = queued.await,
            None => std::future::pending().await,
        }
        self.queued = None;
    }

    /// Lets the lanes write again.
    pub(super) fn end(&mut self) {
        self.permit = None;
    }

    /// Leaves the queue as well: a poller that does not wait for its turn would keep the lanes from theirs.
    pub(super) fn leave(&mut self) {
        self.end();
        self.refused_since = None;
        self.queued = None;
    }
}
