//! The hooks of a SQLite connection, by which the worker guards its transaction (R4).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{Sqlite, SqliteConnection};
use sqlx::{Row as _, SqlSafeStr as _, SqlStr, raw_sql};

use super::connect::BEGIN_WRITE;
use crate::backend::checkpoints::{OnThread, TransactionGuard};

/// The hooks of a connection, which refuse a commit that is not the worker's and see a rollback.
#[derive(Clone, Debug)]
pub struct HookGuard {
    hooks: Arc<Hooks>,
    /// The [`SESSION`] of the connection when it was opened.
    session: Arc<str>,
}

/// What statements can change of a connection that outlasts their transaction, and that decides what
/// later ones do: settings, attached databases and temporary tables.
///
/// It is compared rather than restored, since setting one of these, even to what it is, makes SQLite
/// prepare all statements of the connection again.
macro_rules! session {
    () => {
        "(SELECT * FROM pragma_foreign_keys) || ' ' || (SELECT * FROM pragma_recursive_triggers)
         || ' ' || (SELECT * FROM pragma_ignore_check_constraints)
         || ' ' || (SELECT * FROM pragma_reverse_unordered_selects)
         || ' ' || (SELECT * FROM pragma_query_only) || ' ' || (SELECT * FROM pragma_read_uncommitted)
         || ' ' || (SELECT * FROM pragma_writable_schema)
         || ' ' || (SELECT * FROM pragma_trusted_schema)
         || ' ' || (SELECT * FROM pragma_busy_timeout) || ' ' || (SELECT * FROM pragma_synchronous)
         || ' ' || (SELECT * FROM pragma_locking_mode) || ' ' || ('a' LIKE 'A')
         || ' ' || (SELECT count(*) FROM temp.sqlite_schema)
         -- The second is that of temporary tables.
         || ' ' || (SELECT count(*) FROM pragma_database_list WHERE seq > 1)"
    };
}
pub(super) use session;

/// Fails in a transaction.
const SESSION: &str = concat!("BEGIN; SELECT ", session!(), "; COMMIT");

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

    fn begin_fold(&self) -> SqlStr {
        self.begin()
    }

    fn allow_end(&self, allowed: bool) {
        self.hooks.allowed.store(allowed, Ordering::Release);
        if allowed {
            return;
        }
        self.hooks.violation.store(0, Ordering::Release);
    }

    fn give_up(&self) {
        self.hooks.given_up.store(true, Ordering::Release);
    }

    fn violation(&self) -> Option<&'static str> {
        match self.hooks.violation.load(Ordering::Acquire) {
            COMMITTED => Some("COMMIT"),
            ROLLED_BACK => Some("ROLLBACK"),
            _ => None,
        }
    }

    fn is_same(&self, session: &str) -> bool {
        *self.session == *session
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
        let guard = Self {
            hooks: Arc::default(),
            session: read_session(connection).await?.into(),
        };
        guard.allow_end(true);
        let mut handle = connection.lock_handle().await?;
        let hooks = Arc::clone(&guard.hooks);
        handle.set_commit_hook(move || {
            // The hook runs on the connection's thread, which the pool can have started on any core.
            if let Some(on_thread) = on_thread.take() {
                on_thread();
            }
            hooks.end(COMMITTED)
        });
        let hooks = Arc::clone(&guard.hooks);
        handle.set_rollback_hook(move || {
            hooks.end(ROLLED_BACK);
        });
        let hooks = Arc::clone(&guard.hooks);
        handle.set_progress_handler(STEPS, move || !hooks.given_up.load(Ordering::Acquire));
        Ok(guard)
    }
}

/// Reads the [`SESSION`] of a connection that is in no transaction.
pub(super) async fn read_session(connection: &mut SqliteConnection) -> Result<String, sqlx::Error> {
    // All rows, since the script ends with the last one that is asked for.
    let rows = raw_sql(SESSION).fetch_all(connection).await?;
    rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)
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
