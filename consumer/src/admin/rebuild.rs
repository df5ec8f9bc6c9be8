//! Rebuilding a read model in place, and how far that is.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use sqlx::Transaction;

use super::status::scope_of;
use super::{
    Admin, AdminError, Backend, Effects, Failed, RebuildOptions, Target, Work, context, of_row,
    unknown,
};
use crate::backend::{ConsumerId, Part};
use crate::registry::Registered;
use crate::worker::lane::handler::describe;
use crate::worker::poller::assignment::scope_text;

/// What a rebuild began with.
///
/// See [`Admin::rebuild`] for an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rebuilt {
    /// The consumer.
    pub consumer: Arc<str>,
    /// Its version.
    pub version: u32,
    /// The checkpoint from which it was moved back: up to there events are a replay.
    pub replay_to: i64,
}

/// How far a rebuild is.
///
/// See [`Admin::rebuild`] for an example.
///
/// ```
/// use consumer::admin::RebuildProgress;
///
/// /// The line below a progress bar.
/// fn line(progress: &RebuildProgress) -> String {
///     let done = format!("{} of {} events, {:.0} in a second", progress.handled, progress.total, progress.rate);
///     match progress.remaining {
///         Some(remaining) => format!("{done}, {} s to go", remaining.as_secs()),
///         None => done,
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RebuildProgress {
    /// Events of the consumer's scope that are handled again.
    pub handled: u64,
    /// Events of its scope that there are to handle again.
    pub total: u64,
    /// Where the checkpoint stands.
    pub position: i64,
    /// Where it stood when the rebuild began.
    pub replay_to: i64,
    /// Events in a second, lately; 0 until something was handled.
    pub rate: f64,
    /// How long it will go on like that; `None` while nobody can say.
    pub remaining: Option<Duration>,
    /// Whether all is handled again.
    pub is_done: bool,
}

impl<DB: Backend> Admin<DB> {
    /// Empties a consumer's read model and moves its checkpoint back to the beginning, in one
    /// transaction; workers then hand it all events again, with [`Context::is_replay`] set up to
    /// where it was.
    ///
    /// Parked events come again, as a replay like all others; since they were never handled, that has
    /// to be wanted: see [`RebuildOptions::discard_parked`]. The scope becomes that of the code.
    ///
    /// [`Context::is_replay`]: crate::Context::is_replay
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use consumer::{Consumer, Context, HandlerError, PersistedEvent, sqlx};
    /// # struct Users;
    /// # impl Consumer<sqlx::Sqlite> for Users {
    /// #     fn name(&self) -> &str { "users" }
    /// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
    /// #     fn can_reset(&self) -> bool { true }
    /// # }
    /// use consumer::admin::RebuildOptions;
    /// use consumer::{ExpectedVersion, NewEvent, SqliteEventStore, Worker};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// # let event = [NewEvent::new("User", "ada", "UserRegistered", "{}")];
    /// # store.append(ExpectedVersion::Any, &event).await?;
    /// # Worker::builder(store.clone()).consumer(Users).build()?.run_once().await?;
    /// let admin = Worker::builder(store.clone()).consumer(Users).admin()?;
    /// let rebuilt = admin.rebuild("users", RebuildOptions::new()).await?;
    /// assert_eq!(rebuilt.replay_to, 1);
    ///
    /// // A worker does the rest, here or elsewhere, and anybody can watch.
    /// let mut watch = admin.watch_rebuild("users").await?;
    /// let progress = watch.look().await?;
    /// assert_eq!((progress.handled, progress.total, progress.is_done), (0, 1, false));
    ///
    /// # Worker::builder(store).consumer(Users).build()?.run_once().await?;
    /// // When it has:
    /// assert!(watch.look().await?.is_done);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// - [`AdminError::Held`]: a worker has the consumer at hand; see [`RebuildOptions::wait`].
    /// - [`AdminError::NoCode`], [`AdminError::NoReset`]: its read model cannot be emptied from
    ///   here; see [`RebuildOptions::without_reset`].
    /// - [`AdminError::WouldDiscard`]: it has parked events.
    /// - [`AdminError::Reset`]: it tried and failed; nothing was changed.
    pub async fn rebuild(
        &self,
        consumer: impl Into<Target>,
        options: RebuildOptions,
    ) -> Result<Rebuilt, AdminError> {
        let of = self.find(consumer.into()).await?;
        let reset = self.reset_of(&of, options)?;
        let code = self.code_of(&of).ok();
        let beginning = Beginning {
            admin: self,
            of: &of,
            reset,
            scope: code.map(|code| scope_text(&code.declaration.scope)),
            discard_parked: options.discard_parked,
        };
        self.under_lock(&of, options.wait, beginning).await?;
        let replay_to = self.standing(&of).await?.1;
        Ok(Rebuilt {
            version: of.version,
            consumer: of.name,
            replay_to,
        })
    }

    /// What empties the read model, when something is to.
    pub(super) fn reset_of(
        &self,
        of: &ConsumerId,
        options: RebuildOptions,
    ) -> Result<Option<&Registered<DB>>, AdminError> {
        if options.without_reset {
            return Ok(None);
        }
        let code = self.code_of(of)?;
        if !code.consumer.can_reset() {
            return Err(AdminError::NoReset {
                consumer: Arc::clone(&of.name),
            });
        }
        Ok(Some(code))
    }

    /// Watches a rebuild, also one that another process began and a third one does.
    ///
    /// See [`rebuild`](Self::rebuild) for an example.
    ///
    /// # Errors
    /// When there is no such checkpoint.
    pub async fn watch_rebuild(
        &self,
        consumer: impl Into<Target>,
    ) -> Result<RebuildWatch<'_, DB>, AdminError> {
        let of = self.find(consumer.into()).await?;
        let scope = scope_of(&self.scope_text_of(&of).await?);
        let (position, replay_to) = self.standing(&of).await?;
        let mut connection = self.look().await?;
        let all = Part {
            after: 0,
            up_to: replay_to,
            scope: &scope,
        };
        let total = DB::count(&self.sql, &mut connection, all, i64::MAX).await?;
        let done = Part {
            up_to: position.min(replay_to),
            ..all
        };
        let handled = DB::count(&self.sql, &mut connection, done, i64::MAX).await?;
        Ok(RebuildWatch {
            admin: self,
            position: done.up_to,
            of,
            scope,
            replay_to,
            total,
            handled,
            pace: Pace::new(Instant::now(), handled),
        })
    }

    /// The position of the slowest of the rows, and up to where they replay.
    pub(super) async fn standing(&self, of: &ConsumerId) -> Result<(i64, i64), AdminError> {
        let rows = self.rows().await?;
        let mut own = rows
            .iter()
            .filter(|row| of_row(row) == *of)
            .map(|row| (row.checkpoint.position, row.checkpoint.replay_to));
        let Some(first) = own.next() else {
            let target = Target::new(&*of.name).version(of.version);
            return Err(unknown(target, &[]));
        };
        Ok(own.fold(first, |(low, high), (position, replay_to)| {
            (low.min(position), high.max(replay_to))
        }))
    }

    async fn scope_text_of(&self, of: &ConsumerId) -> Result<String, AdminError> {
        let rows = self.rows().await?;
        let row = rows.into_iter().find(|row| of_row(row) == *of);
        Ok(row.map(|row| row.checkpoint.scope).unwrap_or_default())
    }
}

/// The first transaction of a rebuild.
struct Beginning<'a, DB: Backend> {
    admin: &'a Admin<DB>,
    of: &'a ConsumerId,
    reset: Option<&'a Registered<DB>>,
    scope: Option<Arc<str>>,
    discard_parked: bool,
}

impl<DB: Backend> Work<DB> for Beginning<'_, DB> {
    type Output = ();

    async fn run(&self, tx: &mut Transaction<'_, DB>, effects: &mut Effects) -> Result<(), Failed> {
        let parked = DB::parked(&self.admin.sql, tx, self.of).await?.len() as u64;
        if parked > 0 && !self.discard_parked {
            let consumer = Arc::clone(&self.of.name);
            return Err(AdminError::WouldDiscard { consumer, parked }.into());
        }
        if let Some(code) = self.reset {
            let cx = Arc::new(context(self.of).with_replay(true));
            // A reset that was written by hand may panic before it returns its future.
            let reset = async { code.consumer.reset(&cx, tx).await };
            let emptied = AssertUnwindSafe(reset).catch_unwind().await;
            let emptied = emptied.unwrap_or_else(|panic| Err(describe(panic.as_ref()).into()));
            emptied.map_err(|error| AdminError::Reset {
                consumer: Arc::clone(&self.of.name),
                error,
            })?;
            effects.of(&cx);
        }
        Ok(DB::rewind(&self.admin.sql, tx, self.of, self.scope.as_deref()).await?)
    }
}

/// Tells again and again how far a rebuild is; made by [`Admin::watch_rebuild`].
///
/// It counts the events of the consumer's scope, each once, so that looking often costs little.
///
/// See [`Admin::rebuild`] for an example.
#[derive(Debug)]
pub struct RebuildWatch<'a, DB: Backend> {
    admin: &'a Admin<DB>,
    of: ConsumerId,
    scope: Vec<String>,
    position: i64,
    replay_to: i64,
    total: i64,
    handled: i64,
    pace: Pace,
}

impl<DB: Backend> RebuildWatch<'_, DB> {
    /// Looks at the checkpoint.
    ///
    /// See [`Admin::rebuild`] for an example.
    ///
    /// # Errors
    /// When the checkpoint is gone, or the database cannot be used.
    pub async fn look(&mut self) -> Result<RebuildProgress, AdminError> {
        let (position, replay_to) = self.admin.standing(&self.of).await?;
        if position < self.position || replay_to != self.replay_to {
            self.start_again(replay_to).await?;
        }
        let up_to = position.min(self.replay_to);
        let more = self.count(self.position, up_to).await?;
        self.handled += more;
        self.position = self.position.max(up_to);
        self.pace.note(Instant::now(), self.handled);
        let rate = self.pace.rate();
        let left = (self.total - self.handled).max(0);
        // The checkpoint of a scope with nothing more in it is moved along lazily.
        let is_done = position >= self.replay_to || left == 0;
        Ok(RebuildProgress {
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
        })
    }

    /// Another rebuild has begun.
    async fn start_again(&mut self, replay_to: i64) -> Result<(), AdminError> {
        self.total = self.count(0, replay_to).await?;
        self.replay_to = replay_to;
        self.position = 0;
        self.handled = 0;
        self.pace = Pace::new(Instant::now(), 0);
        Ok(())
    }

    async fn count(&self, after: i64, up_to: i64) -> Result<i64, AdminError> {
        if up_to <= after {
            return Ok(0);
        }
        let part = Part {
            after,
            up_to,
            scope: &self.scope,
        };
        let mut connection = self.admin.look().await?;
        Ok(DB::count(&self.admin.sql, &mut connection, part, i64::MAX).await?)
    }
}

fn time_for(events: i64, rate: f64) -> Option<Duration> {
    #[allow(clippy::cast_precision_loss)] // a duration for people
    let seconds = events as f64 / rate;
    Duration::try_from_secs_f64(seconds).ok()
}

/// How fast something goes: over the last eighth of the time it was watched, but at least over the
/// last ten seconds, so that what was slow or fast at first is forgotten by the half, and a short pause
/// is not taken for the end.
#[derive(Debug)]
struct Pace {
    began: Instant,
    seen: VecDeque<(Instant, i64)>,
}

impl Pace {
    const SHORTEST: Duration = Duration::from_secs(10);

    fn new(now: Instant, handled: i64) -> Self {
        Self {
            began: now,
            seen: VecDeque::from([(now, handled)]),
        }
    }

    fn note(&mut self, now: Instant, handled: i64) {
        self.seen.push_back((now, handled));
        let window = ((now - self.began) / 8).max(Self::SHORTEST);
        // The newest of those that are old enough stays: the window is never shorter than asked.
        while self
            .seen
            .get(1)
            .is_some_and(|(at, _)| now.duration_since(*at) >= window)
        {
            self.seen.pop_front();
        }
    }

    fn rate(&self) -> f64 {
        let (Some((from, before)), Some((to, after))) = (self.seen.front(), self.seen.back())
        else {
            return 0.0;
        };
        let seconds = to.duration_since(*from).as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // a rate for people
        let events = (after - before) as f64;
        if seconds > 0.0 { events / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::time::{Duration, Instant};

    use super::{Pace, time_for};

    /// Rebuilds 1,000,000 events at these speeds, each from one share of them to the next, and gives
    /// the worst estimate from the half on, as a share of the time that was really left.
    fn worst(speeds: &[(f64, f64)]) -> f64 {
        let began = Instant::now();
        let mut pace = Pace::new(began, 0);
        let (mut handled, mut seconds) = (0.0_f64, 0.0_f64);
        let mut estimates = Vec::new();
        while handled < 1_000_000.0 {
            let share = handled / 1_000_000.0;
            let speed = speeds.iter().rev().find(|(from, _)| *from <= share);
            // Batches come in when they come: never as evenly as the clock.
            let swing = [0.7, 1.1, 1.2][estimates.len() % 3];
            seconds += 0.2;
            handled += speed.unwrap().1 * swing * 0.2;
            #[allow(clippy::cast_possible_truncation)]
            let whole = handled.min(1_000_000.0) as i64;
            pace.note(began + Duration::from_secs_f64(seconds), whole);
            estimates.push((share, seconds, time_for(1_000_000 - whole, pace.rate())));
        }
        let from_half_on = estimates
            .iter()
            .filter(|(share, ..)| (0.5..0.97).contains(share));
        let errors = from_half_on.map(|(_, at, estimate)| {
            let left = seconds - at;
            (estimate.unwrap().as_secs_f64() - left).abs() / left
        });
        errors.fold(0.0, f64::max)
    }

    #[test]
    fn from_the_halfway_point_on_the_remaining_time_is_right_within_a_fifth() {
        assert!(worst(&[(0.0, 10_000.0)]) < 0.2);
        // It warms up.
        assert!(worst(&[(0.0, 2_000.0), (0.2, 10_000.0)]) < 0.2);
        // It slows down, as an index does that outgrows its memory: the half is not too late for it.
        assert!(worst(&[(0.0, 20_000.0), (0.1, 14_000.0), (0.25, 10_000.0)]) < 0.2);
    }

    /// A control: nobody can tell a slowdown before it comes.
    #[test]
    fn a_rebuild_that_slows_down_after_the_half_is_later_than_was_said() {
        assert!(worst(&[(0.0, 10_000.0), (0.6, 3_000.0)]) > 0.2);
    }

    #[test]
    fn nobody_says_when_something_ends_that_does_not_move() {
        assert_eq!(time_for(10, 0.0), None);
    }
}
