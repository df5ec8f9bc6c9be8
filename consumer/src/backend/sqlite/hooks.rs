//! The hooks of a SQLite connection, by which the worker guards its transaction (R4).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use sqlx::pool::PoolConnection;
use sqlx::sqlite::Sqlite;
use sqlx::{SqlSafeStr as _, SqlStr};

use super::connect::BEGIN_WRITE;
use crate::backend::checkpoints::{OnThread, TransactionGuard};

/// The hooks of a connection, which refuse a commit that is not the worker's and see a rollback.
#[derive(Clone, Debug, Default)]
pub struct HookGuard(Arc<Hooks>);

#[derive(Debug, Default)]
struct Hooks {
    allowed: AtomicBool,
    given_up: AtomicBool,
    violation: AtomicU8,
}

/// The number of steps of SQLite's virtual machine between two calls of the progress handler: some
/// milliseconds.
const STEPS: i32 = 100_000;

/// The same for a reader that has yet to call something: less than its first read takes.
const SOON: i32 = 1_000;

const COMMITTED: u8 = 1;
const ROLLED_BACK: u8 = 2;

impl TransactionGuard for HookGuard {
    fn begin(&self) -> SqlStr {
        BEGIN_WRITE.into_sql_str()
    }

    fn allow_end(&self, allowed: bool) {
        self.0.allowed.store(allowed, Ordering::Release);
        if allowed {
            return;
        }
        self.0.violation.store(0, Ordering::Release);
    }

    fn give_up(&self) {
        self.0.given_up.store(true, Ordering::Release);
    }

    fn violation(&self) -> Option<&'static str> {
        match self.0.violation.load(Ordering::Acquire) {
            COMMITTED => Some("COMMIT"),
            ROLLED_BACK => Some("ROLLBACK"),
            _ => None,
        }
    }
}

impl Hooks {
    /// Whether the transaction may end; records the attempt if it may not.
    fn end(&self, how: u8) -> bool {
        let allowed = self.allowed.load(Ordering::Acquire);
        if !allowed {
            // A refused commit rolls back, which must not hide the commit.
            let _ = self
                .violation
                .compare_exchange(0, how, Ordering::AcqRel, Ordering::Acquire);
        }
        allowed
    }
}

impl HookGuard {
    /// Sets the hooks of a connection.
    pub(super) async fn install(
        connection: &mut PoolConnection<Sqlite>,
        mut on_thread: Option<OnThread>,
    ) -> Result<Self, sqlx::Error> {
        let guard = Self::default();
        guard.allow_end(true);
        let mut handle = connection.lock_handle().await?;
        let hooks = Arc::clone(&guard.0);
        handle.set_commit_hook(move || {
            // The hook runs on the connection's thread, which the pool can have started on any core.
            if let Some(on_thread) = on_thread.take() {
                on_thread();
            }
            hooks.end(COMMITTED)
        });
        let hooks = Arc::clone(&guard.0);
        handle.set_rollback_hook(move || {
            hooks.end(ROLLED_BACK);
        });
        let hooks = Arc::clone(&guard.0);
        handle.set_progress_handler(STEPS, move || !hooks.given_up.load(Ordering::Acquire));
        Ok(guard)
    }
}

/// Lets the thread of a connection call something once, in its first read.
pub(super) async fn call_once(
    connection: &mut PoolConnection<Sqlite>,
    on_thread: OnThread,
) -> Result<(), sqlx::Error> {
    let mut on_thread = Some(on_thread);
    let mut handle = connection.lock_handle().await?;
    handle.set_progress_handler(SOON, move || {
        // The handler runs on the connection's thread, which the pool can have started on any core.
        if let Some(on_thread) = on_thread.take() {
            on_thread();
        }
        true
    });
    Ok(())
}
