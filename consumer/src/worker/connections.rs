//! The connections that batches run on: a bounded number, however many lanes there are.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, Transaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time;

use crate::backend::{Backend, TransactionGuard as _, acquire};
use crate::store::EventStore;
use crate::worker::threads::ThreadSetup;

/// How long a connection that has been idle may take to answer before it is replaced.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many connections serve which purpose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    /// Batches of handlers that write through their transaction.
    writers: usize,
    /// Claims held while a handler works elsewhere.
    holders: usize,
    /// Connections passed to handlers that do not use them.
    unused: usize,
}

/// The connections that the lanes of a worker need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// Lanes whose handlers write through their transaction.
    pub(crate) writing_lanes: usize,
    /// Lanes whose handlers do not use the transaction.
    pub(crate) other_lanes: usize,
    /// Connections for the frontier, the reader, the listener and the like.
    pub(crate) fixed: usize,
}

/// The pool has too few connections for one batch of each kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolTooSmall {
    pub(crate) max: usize,
    pub(crate) needed: usize,
}

impl Shares {
    /// One of each, for a single task.
    pub(crate) const ONE: Self = Self {
        writers: 1,
        holders: 1,
        unused: 1,
    };

    /// Divides a pool of at most `max` connections between lanes that write, handlers that work
    /// elsewhere, and the rest of the program.
    pub(crate) fn divide<DB: Backend>(max: usize, demand: Demand) -> Result<Self, PoolTooSmall> {
        let Demand {
            writing_lanes,
            other_lanes,
            fixed,
        } = demand;
        // Where a claim is held while the handler works elsewhere, that takes two connections.
        let cost = 1 + usize::from(DB::HOLDS_CLAIMS);
        let least = 1 + cost * usize::from(other_lanes > 0);
        let free = max.checked_sub(fixed).filter(|free| *free >= least);
        let Some(free) = free else {
            let needed = fixed + least;
            return Err(PoolTooSmall { max, needed });
        };
        // The worker keeps its connections open, and the rest of the program may share the pool.
        let free = free.saturating_sub(max / 5).max(least);
        let writers = DB::WRITERS
            .unwrap_or(writing_lanes)
            .clamp(1, 1 + free - least);
        let elsewhere = ((free - writers) / cost).min(other_lanes);
        let (lanes, batches) = (writing_lanes + other_lanes, writers + elsewhere);
        if DB::WRITERS.is_none() && batches < lanes {
            tracing::warn!(
                lanes,
                batches,
                max_connections = max,
                "there are more lanes than connections, so a slow handler delays other lanes; raise `max_connections` of the pool, or set a `handler_timeout`"
            );
        }
        Ok(Self {
            writers,
            holders: if DB::HOLDS_CLAIMS { elsewhere } else { 0 },
            unused: elsewhere,
        })
    }
}

/// Hands out connections to lanes that have work, in the order in which they ask.
///
/// A lane returns its connection after each batch, so that many lanes share few connections; the
/// connection stays open with its prepared statements. Handlers that work elsewhere, and may wait
/// there for long, have a share of their own, so that they never keep others from writing.
pub(crate) struct Connections<DB: Backend> {
    store: EventStore<DB>,
    writers: Arc<Semaphore>,
    holders: Arc<Semaphore>,
    unused: Arc<Semaphore>,
    /// How many batches of handlers that write can run at once.
    max_writers: usize,
    /// How many lanes have a connection for writing or wait for one.
    writing: AtomicUsize,
    idle: Mutex<Vec<Open<DB>>>,
    /// Those that were passed to handlers which do not use them.
    idle_unused: Mutex<Vec<Open<DB>>>,
    /// The backends that hold a claim, to be terminated when the worker cannot wait for them.
    claimed: Mutex<HashSet<i32>>,
    /// Whether a pooler was seen to run the transactions of one connection in several sessions.
    shares_sessions: AtomicBool,
    thread_setup: OnceLock<ThreadSetup>,
}

struct Open<DB: Backend> {
    connection: PoolConnection<DB>,
    guard: DB::Guard,
    /// Whether no batch has used it.
    is_new: bool,
    /// The server's process, if no handler has used its session since it was restored.
    restored_on: Option<i32>,
}

impl<DB: Backend> Connections<DB> {
    /// Each kind has its own permits, so that lanes which hold one kind and wait for another cannot
    /// deadlock.
    pub(crate) fn new(store: EventStore<DB>, shares: Shares) -> Self {
        Self {
            store,
            writers: Arc::new(Semaphore::new(shares.writers)),
            holders: Arc::new(Semaphore::new(shares.holders)),
            unused: Arc::new(Semaphore::new(shares.unused)),
            max_writers: shares.writers,
            writing: AtomicUsize::new(0),
            idle: Mutex::default(),
            idle_unused: Mutex::default(),
            claimed: Mutex::new(HashSet::new()),
            shares_sessions: AtomicBool::new(false),
            thread_setup: OnceLock::new(),
        }
    }

    /// Sets up the threads of connections opened from now on.
    pub(crate) fn set_thread_setup(&self, setup: ThreadSetup) {
        // A worker runs once, so this is set once.
        let _ = self.thread_setup.set(setup);
    }

    /// A connection for a transaction that writes.
    pub(crate) async fn writer(self: &Arc<Self>) -> Result<Lease<DB>, sqlx::Error> {
        let writing = WritingLane::new(self);
        let mut lease = self.lease(&self.writers).await?;
        lease.writing = Some(writing);
        Ok(lease)
    }

    /// Whether more lanes want to write than there are connections for it.
    pub(crate) fn is_crowded(&self) -> bool {
        self.writing.load(Ordering::Relaxed) > self.max_writers
    }

    /// A connection that holds a claim while its handler works elsewhere.
    pub(crate) async fn holder(self: &Arc<Self>) -> Result<Lease<DB>, sqlx::Error> {
        self.lease(&self.holders).await
    }

    /// A connection outside any transaction, for a handler that does not use it (R5).
    ///
    /// It never returns to the pool: a handler that does use it may change its session.
    pub(crate) async fn unused(self: &Arc<Self>) -> Result<UnusedConnection<DB>, sqlx::Error> {
        let permit = permit(&self.unused).await?;
        let open = match self.restored().await {
            Some(open) => open,
            None => self.open(None).await?,
        };
        Ok(UnusedConnection {
            connections: Arc::clone(self),
            open: Some(open),
            is_idle: true,
            _permit: permit,
        })
    }

    /// An idle connection as it was when it was opened; closes those that cannot be.
    async fn restored(&self) -> Option<Open<DB>> {
        loop {
            let mut open = self.idle_unused.lock().pop()?;
            let restored = DB::restore(&mut open.connection, &open.guard);
            let restored = time::timeout(RESTORE_TIMEOUT, restored).await;
            if matches!(restored, Ok(Ok(true))) {
                return Some(open);
            }
        }
    }

    /// Takes the permit to write without waiting, which keeps this process from writing until it
    /// is dropped; `None` while a lane writes.
    pub(crate) fn try_pause_writers(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.writers).try_acquire_owned().ok()
    }

    /// Waits for the permit to write, behind the lanes that asked for it earlier.
    pub(crate) async fn pause_writers(&self) -> Option<OwnedSemaphorePermit> {
        permit(&self.writers).await.ok()
    }

    /// Closes the idle connections, which are probably dead.
    pub(crate) fn close_idle(&self) {
        self.idle.lock().clear();
        self.idle_unused.lock().clear();
    }

    /// The backends that hold a claim now.
    pub(crate) fn claimed(&self) -> Vec<i32> {
        self.claimed.lock().iter().copied().collect()
    }

    async fn lease(self: &Arc<Self>, share: &Arc<Semaphore>) -> Result<Lease<DB>, sqlx::Error> {
        let permit = permit(share).await?;
        let idle = self.idle.lock().pop();
        let open = match idle {
            Some(open) => open,
            None => self.open(self.thread_setup.get()).await?,
        };
        Ok(Lease {
            connections: Arc::clone(self),
            open: Some(open),
            ended_well: true,
            backend: None,
            writing: None,
            _permit: permit,
        })
    }

    async fn open(&self, setup: Option<&ThreadSetup>) -> Result<Open<DB>, sqlx::Error> {
        let mut connection = acquire(self.store.pool()).await?;
        // It never returns to the pool: its guard would forbid other users to commit.
        connection.close_on_drop();
        let on_thread = setup.and_then(ThreadSetup::on_thread);
        let guard = DB::guard(&mut connection, self.store.settings(), on_thread).await?;
        Ok(Open {
            connection,
            guard,
            is_new: true,
            restored_on: None,
        })
    }
}

async fn permit(semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, sqlx::Error> {
    // The semaphores are never closed.
    Arc::clone(semaphore)
        .acquire_owned()
        .await
        .map_err(|_| sqlx::Error::PoolClosed)
}

/// The parts of a lease that a transaction needs.
pub(crate) struct Parts<'a, DB: Backend> {
    pub(crate) connection: &'a mut PoolConnection<DB>,
    pub(crate) guard: &'a DB::Guard,
    /// Whether no batch has used the connection before.
    pub(crate) is_new: bool,
    pub(crate) session: Session<'a>,
    /// To be set once the transaction has been committed or rolled back.
    pub(crate) ended_well: &'a mut bool,
    /// Records the claim of the transaction.
    pub(crate) claimed: Claimed<'a>,
}

/// What is known of the session of a connection.
pub(crate) struct Session<'a> {
    restored_on: &'a mut Option<i32>,
    are_shared: &'a AtomicBool,
}

impl Session<'_> {
    /// Whether no handler has used the session since it was restored.
    pub(crate) fn is_restored(&self) -> bool {
        self.restored_on.is_some() && !self.are_shared.load(Ordering::Relaxed)
    }

    /// Whether a transaction runs in the session that was restored. A pooler may have chosen another one,
    /// which its other clients use too; then no session counts as restored any more.
    pub(crate) fn is_still_on(&self, backend: i32) -> bool {
        let is_same = *self.restored_on == Some(backend);
        if !is_same {
            self.are_shared.store(true, Ordering::Relaxed);
        }
        is_same
    }

    /// Notes what uses the session, which has been restored.
    pub(crate) fn note_use(&mut self, only_folds: bool, backend: i32) {
        *self.restored_on = only_folds.then_some(backend);
    }
}

/// Records which backend holds a claim.
pub(crate) struct Claimed<'a> {
    backends: &'a Mutex<HashSet<i32>>,
    own: &'a mut Option<i32>,
}

impl Claimed<'_> {
    pub(crate) fn by(&mut self, backend: i32) {
        *self.own = Some(backend);
        self.backends.lock().insert(backend);
    }
}

/// A connection for one batch; it is reused if its transaction ended properly.
pub(crate) struct Lease<DB: Backend> {
    connections: Arc<Connections<DB>>,
    open: Option<Open<DB>>,
    ended_well: bool,
    /// The backend, while it holds a claim.
    backend: Option<i32>,
    /// Counts the lane among those that write.
    writing: Option<WritingLane<DB>>,
    _permit: OwnedSemaphorePermit,
}

impl<DB: Backend> Lease<DB> {
    /// The parts that one transaction needs. Until its flag is set, the connection counts as being
    /// in an unknown state.
    pub(crate) fn begin(&mut self) -> Result<Parts<'_, DB>, sqlx::Error> {
        self.ended_well = false;
        let open = self.open.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        let claimed = Claimed {
            backends: &self.connections.claimed,
            own: &mut self.backend,
        };
        Ok(Parts {
            connection: &mut open.connection,
            guard: &open.guard,
            is_new: std::mem::take(&mut open.is_new),
            session: Session {
                restored_on: &mut open.restored_on,
                are_shared: &self.connections.shares_sessions,
            },
            ended_well: &mut self.ended_well,
            claimed,
        })
    }

    /// Begins a transaction that calls no handler, with the flag to set at its end.
    pub(crate) async fn begin_transaction(
        &mut self,
    ) -> Result<(Transaction<'_, DB>, &mut bool), sqlx::Error> {
        let Parts {
            connection,
            guard,
            ended_well,
            ..
        } = self.begin()?;
        Ok((connection.begin_with(guard.begin()).await?, ended_well))
    }
}

impl<DB: Backend> Drop for Lease<DB> {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        if let Some(backend) = self.backend {
            self.connections.claimed.lock().remove(&backend);
        }
        // A transaction that a handler began inside of the worker's takes its place when it ends.
        if self.ended_well && !open.connection.is_in_transaction() {
            // Only here: a `COMMIT` of a handler that was dropped may still be on its way.
            open.guard.allow_end(true);
            self.connections.idle.lock().push(open);
        } else {
            // Its state is unknown, so it is closed; a statement may still be running on it.
            open.guard.give_up();
        }
    }
}

/// Counts a lane that has a connection for writing or waits for one.
struct WritingLane<DB: Backend>(Arc<Connections<DB>>);

impl<DB: Backend> WritingLane<DB> {
    fn new(connections: &Arc<Connections<DB>>) -> Self {
        connections.writing.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl<DB: Backend> Drop for WritingLane<DB> {
    fn drop(&mut self) {
        self.0.writing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection for a handler that does not use it.
pub(crate) struct UnusedConnection<DB: Backend> {
    connections: Arc<Connections<DB>>,
    open: Option<Open<DB>>,
    is_idle: bool,
    _permit: OwnedSemaphorePermit,
}

impl<DB: Backend> UnusedConnection<DB> {
    /// The connection, which counts as being in an unknown state until it is [idle](Self::set_idle).
    pub(crate) fn begin(&mut self) -> Result<&mut DB::Connection, sqlx::Error> {
        self.is_idle = false;
        let open = self.open.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        Ok(&mut open.connection)
    }

    /// Notes that the handler has returned.
    pub(crate) fn set_idle(&mut self) {
        self.is_idle = true;
    }
}

impl<DB: Backend> Drop for UnusedConnection<DB> {
    fn drop(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        let pool = self.connections.store.pool();
        let has_more = pool.num_idle() > 0 || pool.size() < pool.options().get_max_connections();
        // The handler may have used it all the same, and left it in a transaction. The last one that a
        // pool can have is closed, for the rest of the program.
        if self.is_idle && has_more && !open.connection.is_in_transaction() {
            self.connections.idle_unused.lock().push(open);
        } else {
            open.guard.give_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_of_a_pooler_does_not_count_as_restored() {
        let (mut restored_on, are_shared) = (None, AtomicBool::new(false));
        let mut session = Session {
            restored_on: &mut restored_on,
            are_shared: &are_shared,
        };
        assert!(!session.is_restored());
        session.note_use(true, 7);
        assert!(session.is_restored() && session.is_still_on(7));
        assert!(!session.is_still_on(8));
        assert!(!session.is_restored());
        session.note_use(true, 8);
        assert!(!session.is_restored(), "the next may be on another one");
    }

    #[test]
    fn a_session_that_a_handler_used_does_not_count_as_restored() {
        let (mut restored_on, are_shared) = (Some(7), AtomicBool::new(false));
        let mut session = Session {
            restored_on: &mut restored_on,
            are_shared: &are_shared,
        };
        session.note_use(false, 7);
        assert!(!session.is_restored());
    }
}
