//! Rebuilding a read model in place, and watching the progress.

use std::ops::RangeInclusive;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use sqlx::Transaction;

use super::error::{AdminError, Cause};
use super::lag::scope_of;
use super::locks::{Effects, Failed, Work, must_be_same};
use super::operator::Admin;
use super::options::{RebuildOptions, Target};
use super::pace::{Rate, time_for};
use crate::backend::{Backend, ConsumerId, Part, Taken, prepare_table};
use crate::contract::Context;
use crate::contract::read_model::VersionTable;
use crate::registry::Registered;
use crate::worker::WorkerError;
use crate::worker::lane::failure::refused_commit;
use crate::worker::lane::handler::describe;
use crate::worker::poller::assignment::scope_text;

/// A rebuild that has begun; see [`Admin::rebuild`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rebuilt {
    /// The consumer.
    pub consumer: ConsumerId,
    /// The checkpoint that was rewound: events up to here are a replay.
    pub replay_to: i64,
    /// The deleted events at the beginning of the log, as far as workers have recorded them; the rebuild leaves
    /// them out.
    pub missing: Option<RangeInclusive<i64>>,
}

/// The progress of a rebuild; see [`RebuildWatch::look`].
///
/// ```
/// use consumer::admin::RebuildProgress;
///
/// /// The line below a progress bar.
/// fn line(progress: &RebuildProgress) -> String {
///     let done = format!("{} of {} events, {:.0}/s", progress.handled, progress.total, progress.rate);
///     match progress.remaining {
///         Some(remaining) => format!("{done}, {} s left", remaining.as_secs()),
///         None => done,
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RebuildProgress {
    /// The events of the consumer's scope that have been handled again.
    pub handled: u64,
    /// The events of its scope that have to be handled again.
    pub total: u64,
    /// The position of the checkpoint.
    pub position: i64,
    /// The position of the checkpoint when the rebuild began.
    pub replay_to: i64,
    /// Recent events per second; 0 until something was handled.
    pub rate: f64,
    /// The estimated time left; `None` while there is no rate.
    pub remaining: Option<Duration>,
    /// Whether all events have been handled again.
    pub is_done: bool,
}

impl<DB: Backend> Admin<DB> {
    /// Empties a consumer's read model and rewinds its checkpoint, in one transaction.
    ///
    /// Workers then hand it all events again, with [`Context::is_replay`] set up to the old
    /// checkpoint. The scope becomes that of the code.
    ///
    /// Parked events are delivered again, too, in their order in the log. Those that no version has handled are
    /// not replays. As that changes when their effects happen, the rebuild is refused unless
    /// [`RebuildOptions::discard_parked`] accepts it.
    ///
    /// [`Context::is_replay`]: crate::Context::is_replay
    ///
    /// ```
    /// # consumer::__doc::registered(async |store| { use consumer::__doc::Users;
    /// use consumer::Worker;
    /// use consumer::admin::RebuildOptions;
    ///
    /// Worker::builder(store.clone()).consumer(Users).build()?.run_once().await?;
    ///
    /// let admin = Worker::builder(store.clone()).consumer(Users).admin()?;
    /// let rebuilt = admin.rebuild("users", RebuildOptions::new().without_reset()).await?;
    /// assert_eq!(rebuilt.replay_to, 1);
    ///
    /// // A worker in any process handles the events, and any process can watch.
    /// let mut watch = admin.watch_rebuild("users").await?;
    /// let progress = watch.look().await?;
    /// assert_eq!((progress.handled, progress.total, progress.is_done), (0, 1, false));
    ///
    /// Worker::builder(store).consumer(Users).build()?.run_once().await?;
    /// assert!(watch.look().await?.is_done);
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// - [`AdminError::Held`]: a worker is processing a batch; see [`RebuildOptions::wait`].
    /// - [`AdminError::NoCode`], [`AdminError::NoReset`]: the read model cannot be emptied from
    ///   here; see [`RebuildOptions::without_reset`].
    /// - [`AdminError::NotTakenOver`]: the checkpoint still has the consumer's former name.
    /// - [`AdminError::Worker`]: the table of its read model differs from the struct, or is not where the
    ///   struct says.
    /// - [`AdminError::WouldDiscard`]: the consumer has parked events.
    /// - [`AdminError::Reset`]: emptying the read model failed; nothing was changed.
    pub async fn rebuild(
        &self,
        consumer: impl Into<Target>,
        options: RebuildOptions,
    ) -> Result<Rebuilt, AdminError> {
        let consumer = self.find(consumer.into()).await?;
        let code = self.code_of(&consumer).ok();
        let rewind = Rewind {
            admin: self,
            consumer: &consumer,
            reset: self.reset_of(&consumer, options)?,
            scope: code.map(|code| scope_text(&code.declaration.scope)),
            discard_parked: options.discard_parked,
        };
        self.under_lock(&consumer, options.wait, rewind).await?;
        let (_, replay_to) = self.positions(&consumer).await?;
        Ok(Rebuilt {
            consumer,
            replay_to,
            missing: self.missing_at_the_beginning().await?,
        })
    }

    /// The code that empties the read model, unless the options leave that out.
    pub(super) fn reset_of(
        &self,
        consumer: &ConsumerId,
        options: RebuildOptions,
    ) -> Result<Option<&Registered<DB>>, AdminError> {
        if options.without_reset {
            return Ok(None);
        }
        let code = self.code_of(consumer)?;
        if !code.consumer.can_reset() {
            return Err(AdminError::NoReset {
                consumer: consumer.clone(),
            });
        }
        Ok(Some(code))
    }

    /// Watches a [rebuild](Self::rebuild), whichever process began it or works on it.
    ///
    /// # Errors
    /// If there is no such checkpoint.
    pub async fn watch_rebuild(
        &self,
        consumer: impl Into<Target>,
    ) -> Result<RebuildWatch<'_, DB>, AdminError> {
        let consumer = self.find(consumer.into()).await?;
        let rows = self.rows_of(&consumer).await?;
        let scope = rows.first().map(|row| scope_of(&row.checkpoint.scope));
        let mut watch = RebuildWatch {
            admin: self,
            consumer,
            scope: scope.unwrap_or_default(),
            position: 0,
            replay_to: 0,
            total: 0,
            handled: 0,
            rate: Rate::new(Instant::now(), 0),
        };
        let (position, replay_to) = self.positions(&watch.consumer).await?;
        watch.start(position, replay_to).await?;
        Ok(watch)
    }
}

/// The transaction that a rebuild begins with.
struct Rewind<'a, DB: Backend> {
    admin: &'a Admin<DB>,
    consumer: &'a ConsumerId,
    reset: Option<&'a Registered<DB>>,
    scope: Option<Arc<str>>,
    discard_parked: bool,
}

impl<DB: Backend> Work<DB> for Rewind<'_, DB> {
    type Output = ();

    async fn run(
        &self,
        tx: &mut Transaction<'_, DB>,
        taken: &Taken,
        effects: &mut Effects,
    ) -> Result<(), Failed> {
        let tables = self.admin.tables().await?;
        let sql = &tables.sql;
        let parked = DB::parked(sql, tx, self.consumer).await?.len() as u64;
        if parked > 0 && !self.discard_parked {
            let consumer = self.consumer.clone();
            return Err(AdminError::WouldDiscard { consumer, parked }.into());
        }
        if let Some(code) = self.reset {
            self.reset(code, tx, effects).await?;
            must_be_same::<DB>(tx, taken).await?;
        }
        Ok(DB::rewind(sql, tx, self.consumer, self.scope.as_deref()).await?)
    }

    fn refused(&self, (): &(), error: sqlx::Error) -> AdminError {
        if self.reset.is_none() {
            return error.into();
        }
        AdminError::Reset {
            consumer: self.consumer.clone(),
            source: refused_commit(&error).into(),
        }
    }
}

impl<DB: Backend> Rewind<'_, DB> {
    async fn reset(
        &self,
        code: &Registered<DB>,
        tx: &mut Transaction<'_, DB>,
        effects: &mut Effects,
    ) -> Result<(), AdminError> {
        let mut schema = None;
        if let Some(table) = code.consumer.read_model() {
            schema = self.admin.table_schema(tx, self.consumer, table).await?;
            let table = VersionTable::new(table, self.consumer.version, schema.as_deref());
            // It may have been dropped because it differed from the struct.
            let prepared = prepare_table::<DB>(tx, &table).await;
            prepared.map_err(WorkerError::from)?;
        }
        let cx = Context::new(Arc::clone(&self.consumer.name))
            .with_log_name(self.admin.store.schema().log_name())
            .with_version(self.consumer.version)
            .with_table_schema(schema)
            .with_replay(true);
        let cx = Arc::new(cx);
        // A reset that was written by hand may panic before it returns its future.
        let reset = AssertUnwindSafe(async { code.consumer.reset(&cx, tx).await });
        let emptied = reset.catch_unwind().await;
        let emptied = emptied.unwrap_or_else(|panic| Err(describe(panic.as_ref()).into()));
        effects.add(&cx);
        emptied.map_err(|error| AdminError::Reset {
            consumer: self.consumer.clone(),
            source: Cause::of::<DB>(error).1,
        })
    }
}

/// Reports the progress of a rebuild; created by [`Admin::watch_rebuild`].
///
/// It counts each event of the consumer's scope once, so that frequent looks are cheap.
#[derive(Debug)]
pub struct RebuildWatch<'a, DB: Backend> {
    admin: &'a Admin<DB>,
    consumer: ConsumerId,
    scope: Vec<String>,
    position: i64,
    replay_to: i64,
    total: i64,
    handled: i64,
    rate: Rate,
}

impl<DB: Backend> RebuildWatch<'_, DB> {
    /// Reads the checkpoint and returns the progress.
    ///
    /// # Errors
    /// If the checkpoint is gone, or the database fails.
    pub async fn look(&mut self) -> Result<RebuildProgress, AdminError> {
        let (position, replay_to) = self.admin.positions(&self.consumer).await?;
        if position < self.position || replay_to != self.replay_to {
            // Another rebuild has begun.
            self.start(0, replay_to).await?;
        }
        let up_to = position.min(self.replay_to);
        self.handled += self.count(self.position, up_to).await?;
        self.position = self.position.max(up_to);
        self.rate.note(Instant::now(), self.handled);
        Ok(self.progress(position))
    }

    fn progress(&self, position: i64) -> RebuildProgress {
        let rate = self.rate.per_second();
        let left = (self.total - self.handled).max(0);
        // A checkpoint with nothing more in its scope advances lazily.
        let is_done = position >= self.replay_to || left == 0;
        RebuildProgress {
            handled: u64::try_from(self.handled).unwrap_or(0),
            total: u64::try_from(self.total).unwrap_or(0),
            position,
            replay_to: self.replay_to,
            rate,
            remaining: if is_done {
                Some(Duration::ZERO)
            } else {
                time_for(left, rate)
            },
            is_done,
        }
    }

    async fn start(&mut self, position: i64, replay_to: i64) -> Result<(), AdminError> {
        self.position = position.min(replay_to);
        self.replay_to = replay_to;
        self.total = self.count(0, replay_to).await?;
        self.handled = self.count(0, self.position).await?;
        self.rate = Rate::new(Instant::now(), self.handled);
        Ok(())
    }

    async fn count(&self, after: i64, up_to: i64) -> Result<i64, AdminError> {
        let part = Part {
            after,
            up_to,
            scope: &self.scope,
        };
        self.admin.count(part, i64::MAX).await
    }
}
