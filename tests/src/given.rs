//! Consumers that are called as a worker calls them, and note what they are given.

use std::sync::{Arc, Mutex};

use consumer::{BatchError, Context, ErasedConsumer, PersistedEvent};
use sqlx::{Connection as _, Sqlite, SqliteConnection};

/// What the handlers of a consumer were given; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    pub fn note(&self, what: impl Into<String>) {
        self.0
            .lock()
            .expect("no panic in between")
            .push(what.into());
    }

    /// What was noted since this was last called.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no panic in between"))
    }
}

/// A connection to a database of its own without any table.
pub async fn in_memory() -> SqliteConnection {
    let connected = SqliteConnection::connect("sqlite::memory:").await;
    connected.expect("a database in memory")
}

/// Gives a consumer a batch of events.
pub async fn give<C: ErasedConsumer<Sqlite>>(
    consumer: &C,
    cx: &Context,
    events: &[PersistedEvent],
) -> Result<usize, BatchError> {
    consumer
        .handle_batch(cx, &mut in_memory().await, events)
        .await
}
