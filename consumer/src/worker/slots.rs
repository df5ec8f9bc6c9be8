//! The connections that batches run on: a bounded number, whatever the number of lanes.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sqlx::pool::PoolConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::dialect::{Dialect, TransactionGuard, WorkerBackend};
use super::one_core::Core;
use crate::store::EventStore;

/// Hands out connections to lanes that have work, in the order in which they ask.
///
/// A lane gives its connection back after each batch, so that many lanes share few connections;
/// the connection itself stays open, with its prepared statements.
pub(crate) struct Slots<DB: WorkerBackend> {
    store: EventStore<DB>,
    writers: Arc<Semaphore>,
    spares: Arc<Semaphore>,
    idle: Mutex<Vec<Slot<DB>>>,
    core: OnceLock<Core>,
}

struct Slot<DB: WorkerBackend> {
    connection: PoolConnection<DB>,
    guard: DB::Guard,
}

impl<DB: WorkerBackend> Slots<DB> {
    /// Takes how many connections may write, and how many may be spare, at the same time.
    ///
    /// The two are counted apart, so that lanes which hold one kind and wait for the other cannot
    /// wait for each other.
    pub(crate) fn new(store: EventStore<DB>, writers: usize, spares: usize) -> Self {
        Self {
            store,
            writers: Arc::new(Semaphore::new(writers)),
            spares: Arc::new(Semaphore::new(spares)),
            idle: Mutex::new(Vec::new()),
            core: OnceLock::new(),
        }
    }

    /// Keeps the threads of connections that are opened from now on where the lanes are.
    pub(crate) fn keep_on(&self, core: Core) {
        // A worker runs once.
        let _ = self.core.set(core);
    }

    /// A connection for a transaction that writes.
    pub(crate) async fn writer(self: &Arc<Self>) -> Result<Lease<DB>, sqlx::Error> {
        let permit = acquire(&self.writers).await?;
        let kept = self.lock().pop();
        let slot = match kept {
            Some(slot) => slot,
            None => self.open().await?,
        };
        Ok(Lease {
            slots: Arc::clone(self),
            slot: Some(slot),
            ended_well: true,
            _permit: permit,
        })
    }

    /// A connection for a handler that does not use it (R5).
    pub(crate) async fn spare(&self) -> Result<Spare<DB>, sqlx::Error> {
        let permit = acquire(&self.spares).await?;
        Ok(Spare {
            connection: self.store.pool().acquire().await?,
            _permit: permit,
        })
    }

    async fn open(&self) -> Result<Slot<DB>, sqlx::Error> {
        let mut connection = self.store.pool().acquire().await?;
        // It never goes back to the pool: its guard would forbid other users to commit.
        connection.close_on_drop();
        let guard = DB::guard(&mut connection, self.core.get().cloned()).await?;
        Ok(Slot { connection, guard })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Slot<DB>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, sqlx::Error> {
    // Nobody closes the semaphores; if somebody did, the worker would be over.
    Arc::clone(semaphore)
        .acquire_owned()
        .await
        .map_err(|_| sqlx::Error::PoolClosed)
}

/// A connection, what watches it, and whether its last transaction ended as it should.
type Parts<'a, DB> = (
    &'a mut <DB as sqlx::Database>::Connection,
    &'a <DB as Dialect>::Guard,
    &'a mut bool,
);

/// A connection for one batch; it is kept for the next one if its transaction ended as it should.
pub(crate) struct Lease<DB: WorkerBackend> {
    slots: Arc<Slots<DB>>,
    slot: Option<Slot<DB>>,
    ended_well: bool,
    _permit: OwnedSemaphorePermit,
}

impl<DB: WorkerBackend> Lease<DB> {
    /// The connection and what watches it, for one transaction; the flag is to be set once that
    /// has ended as it should, and until then the connection counts as being in an unknown state.
    pub(crate) fn begin(&mut self) -> Result<Parts<'_, DB>, sqlx::Error> {
        self.ended_well = false;
        let slot = self.slot.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        Ok((&mut *slot.connection, &slot.guard, &mut self.ended_well))
    }
}

impl<DB: WorkerBackend> Drop for Lease<DB> {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else {
            return;
        };
        slot.guard.allow_end(true);
        // Otherwise it is closed: nobody can say what state it is in.
        if self.ended_well {
            self.slots.lock().push(slot);
        }
    }
}

/// A connection outside any transaction.
pub(crate) struct Spare<DB: WorkerBackend> {
    pub(crate) connection: PoolConnection<DB>,
    _permit: OwnedSemaphorePermit,
}
