//! The connections that batches run on: a bounded number, whatever the number of lanes.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time;

use crate::backend::{Backend, TransactionGuard as _};
use crate::store::EventStore;
use crate::worker::threads::Core;

/// How many connections there are for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    /// Batches of handlers that write through their transaction.
    pub(crate) writers: usize,
    /// Batches of handlers that work elsewhere, where they hold their claims meanwhile.
    pub(crate) holders: usize,
    /// Connections for handlers that work elsewhere, who are given one all the same.
    pub(crate) spares: usize,
    /// How many more connections there are for batches than batches at once.
    pub(crate) resting: usize,
}

impl Shares {
    /// One of each, for who works alone.
    pub(crate) const ONE: Self = Self {
        writers: 1,
        holders: 1,
        spares: 1,
        resting: 0,
    };
}

/// Hands out connections to lanes that have work, in the order in which they ask.
///
/// A lane gives its connection back after each batch, so that many lanes share few connections;
/// the connection itself stays open, with its prepared statements. Handlers that work elsewhere,
/// and may wait there for long, have their own share: they keep nobody from writing.
///
/// Batches go round among the open connections. Beside a server on the same machine, the kernel
/// keeps a thread and the backend that it talks to on the cores that they once had; on two cores,
/// which wake each other up for every statement, that is several times as slow as on one. Another
/// backend for the next batch keeps a lane from being stuck with the slower case.
pub(crate) struct Connections<DB: Backend> {
    store: EventStore<DB>,
    writers: Arc<Semaphore>,
    holders: Arc<Semaphore>,
    spares: Arc<Semaphore>,
    /// How many batches of handlers that write run at once.
    at_once: usize,
    /// How many lanes have a connection for writing, or wait for one.
    writing: AtomicUsize,
    /// A permit for each connection that may still be opened beside those that are needed.
    more: Arc<Semaphore>,
    idle: Mutex<IdleConnections<Lent<DB>>>,
    /// The backends that hold a claim, to be ended when the worker does not wait for them.
    claimed: Mutex<HashSet<i32>>,
    core: OnceLock<Core>,
}

struct Lent<DB: Backend> {
    connection: PoolConnection<DB>,
    guard: DB::Guard,
    /// Where it is one more than is needed.
    more: Option<OwnedSemaphorePermit>,
}

/// What nobody uses just now, in the order in which it came to rest.
#[derive(Debug)]
struct IdleConnections<T>(VecDeque<Resting<T>>);

#[derive(Debug)]
struct Resting<T> {
    value: T,
    is_needed: bool,
    since: Instant,
}

impl<T> IdleConnections<T> {
    fn push(&mut self, value: T, is_needed: bool, since: Instant) {
        self.0.push_back(Resting {
            value,
            is_needed,
            since,
        });
    }

    /// What has rested longest, and for how long. What is not needed and has rested for too long is
    /// dropped.
    fn pop(&mut self, now: Instant) -> Option<(T, Duration)> {
        self.0
            .retain(|one| one.is_needed || now - one.since <= REST_AT_MOST);
        let Resting { value, since, .. } = self.0.pop_front()?;
        Some((value, now - since))
    }
}

/// Between two batches that follow each other closely there is less: only then is another
/// connection of use.
const BUSY_WITHIN: Duration = Duration::from_secs(1);

/// How long a connection rests that is one more than is needed. With few batches its turn comes
/// seldom, and whatever lies between may have forgotten it by then.
const REST_AT_MOST: Duration = Duration::from_mins(1);

impl<DB: Backend> Connections<DB> {
    /// The kinds are counted apart, so that lanes which hold one kind and wait for the other
    /// cannot wait for each other.
    pub(crate) fn new(store: EventStore<DB>, shares: Shares) -> Self {
        Self {
            store,
            writers: Arc::new(Semaphore::new(shares.writers)),
            holders: Arc::new(Semaphore::new(shares.holders)),
            spares: Arc::new(Semaphore::new(shares.spares)),
            at_once: shares.writers,
            writing: AtomicUsize::new(0),
            more: Arc::new(Semaphore::new(shares.resting)),
            idle: Mutex::new(IdleConnections(VecDeque::new())),
            claimed: Mutex::new(HashSet::new()),
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
        let writing = Writing::new(self);
        let mut lease = self.lease(&self.writers).await?;
        lease.writing = Some(writing);
        Ok(lease)
    }

    /// Whether just now more lanes want to write than there are connections for it.
    pub(crate) fn is_crowded(&self) -> bool {
        self.writing.load(Ordering::Relaxed) > self.at_once
    }

    /// A connection that holds a claim while its handler works elsewhere.
    pub(crate) async fn holder(self: &Arc<Self>) -> Result<Lease<DB>, sqlx::Error> {
        self.lease(&self.holders).await
    }

    /// Whether nobody of this process writes just now, where there is only one who can; as long as
    /// the answer is kept, nobody begins to.
    pub(crate) fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.writers).try_acquire_owned().ok()
    }

    /// Closes the connections that nobody uses: they are likely to be dead.
    pub(crate) fn close_idle(&self) {
        self.lock().0.clear();
    }

    /// The backends that hold a claim just now.
    pub(crate) fn claimed(&self) -> Vec<i32> {
        self.lock_claimed().iter().copied().collect()
    }

    async fn lease(self: &Arc<Self>, share: &Arc<Semaphore>) -> Result<Lease<DB>, sqlx::Error> {
        let permit = acquire(share).await?;
        let idle = self.lock().pop(Instant::now());
        let slot = match idle {
            Some((slot, rested)) => {
                if rested < BUSY_WITHIN {
                    self.open_beside();
                }
                slot
            }
            None => {
                let (connection, guard) = self.connect().await?;
                Lent {
                    connection,
                    guard,
                    more: None,
                }
            }
        };
        Ok(Lease {
            connections: Arc::clone(self),
            slot: Some(slot),
            ended_well: true,
            backend: None,
            writing: None,
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

    /// Opens one more connection than is needed, where it may: aside, since no batch is to wait for
    /// it.
    fn open_beside(self: &Arc<Self>) {
        if !self.pool_has_room() {
            return;
        }
        if let Ok(permit) = Arc::clone(&self.more).try_acquire_owned() {
            tokio::spawn(open_one_more(Arc::clone(self), permit));
        }
    }

    /// Whether the pool has a connection without waiting for one that somebody uses.
    fn pool_has_room(&self) -> bool {
        let pool = self.store.pool();
        pool.num_idle() > 0 || pool.size() < pool.options().get_max_connections()
    }

    async fn connect(&self) -> Result<(PoolConnection<DB>, DB::Guard), sqlx::Error> {
        let mut connection = self.store.pool().acquire().await?;
        // It never goes back to the pool: its guard would forbid other users to commit.
        connection.close_on_drop();
        let guard = DB::guard(&mut connection, self.core.get().map(Core::keep_a_thread)).await?;
        Ok((connection, guard))
    }

    fn put_back(&self, slot: Lent<DB>) {
        let is_needed = slot.more.is_none();
        self.lock().push(slot, is_needed, Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, IdleConnections<Lent<DB>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_claimed(&self) -> MutexGuard<'_, HashSet<i32>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long nothing is opened beside what is needed, once that has failed.
const OPEN_AGAIN: Duration = Duration::from_secs(10);

/// Opens a connection that nobody waits for.
async fn open_one_more<DB: Backend>(
    connections: Arc<Connections<DB>>,
    permit: OwnedSemaphorePermit,
) {
    match connections.connect().await {
        Ok((connection, guard)) => connections.put_back(Lent {
            connection,
            guard,
            more: Some(permit),
        }),
        Err(error) => {
            tracing::debug!(%error, "the batches have no further connection to go round with");
            // The worker may end meanwhile.
            drop(connections);
            time::sleep(OPEN_AGAIN).await;
            drop(permit);
        }
    }
}

async fn acquire(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, sqlx::Error> {
    // Nobody closes the semaphores; if somebody did, the worker would be over.
    Arc::clone(semaphore)
        .acquire_owned()
        .await
        .map_err(|_| sqlx::Error::PoolClosed)
}

/// What a transaction needs of a lease.
pub(crate) struct Parts<'a, DB: Backend> {
    /// The connection.
    pub(crate) connection: &'a mut PoolConnection<DB>,
    /// What watches it.
    pub(crate) guard: &'a DB::Guard,
    /// To be set once the transaction has ended as it should.
    pub(crate) ended_well: &'a mut bool,
    /// Where a claim is noted.
    pub(crate) claimed: Claimed<'a>,
}

/// Notes which backend holds a claim.
pub(crate) struct Claimed<'a> {
    backends: &'a Mutex<HashSet<i32>>,
    own: &'a mut Option<i32>,
}

impl Claimed<'_> {
    pub(crate) fn by(&mut self, backend: i32) {
        *self.own = Some(backend);
        let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        backends.insert(backend);
    }
}

/// A connection for one batch; it is kept for the next one if its transaction ended as it should.
pub(crate) struct Lease<DB: Backend> {
    connections: Arc<Connections<DB>>,
    slot: Option<Lent<DB>>,
    ended_well: bool,
    /// The backend, while it holds a claim.
    backend: Option<i32>,
    /// Counts it among those who write.
    writing: Option<Writing<DB>>,
    _permit: OwnedSemaphorePermit,
}

impl<DB: Backend> Lease<DB> {
    /// The connection and what watches it, for one transaction; the flag is to be set once that
    /// has ended as it should, and until then the connection counts as being in an unknown state.
    pub(crate) fn begin(&mut self) -> Result<Parts<'_, DB>, sqlx::Error> {
        self.ended_well = false;
        let slot = self.slot.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        let claimed = Claimed {
            backends: &self.connections.claimed,
            own: &mut self.backend,
        };
        Ok(Parts {
            connection: &mut slot.connection,
            guard: &slot.guard,
            ended_well: &mut self.ended_well,
            claimed,
        })
    }
}

impl<DB: Backend> Drop for Lease<DB> {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else {
            return;
        };
        slot.guard.allow_end(true);
        if let Some(backend) = self.backend {
            self.connections.lock_claimed().remove(&backend);
        }
        if self.ended_well {
            self.connections.put_back(slot);
        } else {
            // It is closed: nobody can say what state it is in. A statement may still run.
            slot.guard.give_up();
        }
    }
}

/// Counts one who has a connection for writing, or waits for one.
struct Writing<DB: Backend>(Arc<Connections<DB>>);

impl<DB: Backend> Writing<DB> {
    fn new(connections: &Arc<Connections<DB>>) -> Self {
        connections.writing.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl<DB: Backend> Drop for Writing<DB> {
    fn drop(&mut self) {
        self.0.writing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection outside any transaction.
pub(crate) struct Spare<DB: Backend> {
    pub(crate) connection: PoolConnection<DB>,
    _permit: OwnedSemaphorePermit,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_has_rested_longest_comes_first() {
        let (mut idle, start) = (IdleConnections(VecDeque::new()), Instant::now());
        let after = |millis| start + Duration::from_millis(millis);
        idle.push('a', true, start);
        idle.push('b', false, after(1));
        assert_eq!(idle.pop(after(2)), Some(('a', Duration::from_millis(2))));
        idle.push('a', true, after(3));
        assert_eq!(idle.pop(after(4)), Some(('b', Duration::from_millis(3))));
        assert_eq!(idle.pop(after(5)).unwrap().0, 'a');
        assert_eq!(idle.pop(after(6)), None);
    }

    #[test]
    fn what_is_not_needed_is_dropped_once_it_has_rested_for_too_long() {
        let (mut idle, start) = (IdleConnections(VecDeque::new()), Instant::now());
        let later = start + REST_AT_MOST + Duration::from_secs(1);
        for (value, is_needed, since) in
            [('a', false, start), ('b', true, start), ('c', false, later)]
        {
            idle.push(value, is_needed, since);
        }
        let rest = [idle.pop(later), idle.pop(later), idle.pop(later)];
        assert_eq!(
            rest.map(|one| one.map(|one| one.0)),
            [Some('b'), Some('c'), None]
        );
    }
}
