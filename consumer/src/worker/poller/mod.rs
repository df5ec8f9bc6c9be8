//! The one task of a worker that watches the log and the checkpoint rows for all its lanes.

pub(crate) mod assignment;
pub(crate) mod idle;
pub(crate) mod segments;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, SqlSafeStr as _};
use tokio::sync::watch;
use tokio::time::{self, Instant};

use crate::backend::LogProblem;
use crate::backend::{
    Advance, Backend, Checkpoint, Enrolment, FrontierWatch as _, Observation, SegmentId,
};
use crate::backend::{ReadRange, StoreError};
use crate::store::EventStore;
use crate::worker::WorkerError;
use crate::worker::context::{Shared, Snapshot};
use crate::worker::metrics;
use crate::worker::poller::assignment::Assignments;
use crate::worker::progress::state::ConsumerState;
use crate::worker::progress::{Cell, First, FrontierWait};

/// How long a gap may keep the frontier before somebody is told who fills it.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// How often it is told again.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The longest pause between two looks at a gap.
const GAP_POLL: Duration = Duration::from_millis(25);

/// Watches the frontier and the checkpoint rows over one connection.
pub(crate) struct Poller<DB: Backend> {
    shared: Arc<Shared<DB>>,
    assignments: Assignments<DB>,
    line: Line<DB>,
    watch: DB::Watch,
    appended: watch::Receiver<u64>,
    frontier: watch::Sender<Observation>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    snapshot_at: Option<Instant>,
    advanced: Instant,
    waiting_since: Option<Instant>,
    told: Option<Instant>,
    /// A row waits for its neighbour, which may be an idle one.
    held: bool,
    /// Whether rows were moved along since they were last looked at.
    moved: bool,
}

impl<DB: Backend> Poller<DB> {
    /// Connects, checks what the frontier rests on, and looks at the log for the first time.
    pub(crate) async fn start(
        shared: Arc<Shared<DB>>,
        assignments: Assignments<DB>,
        frontier: watch::Sender<Observation>,
        snapshot: watch::Sender<Arc<Snapshot>>,
    ) -> Result<Self, WorkerError> {
        metrics::describe();
        let mut line = Line(None);
        let connection = line.open(&shared.store).await?;
        let watch =
            DB::Watch::start(shared.store.settings(), shared.store.pool(), connection).await?;
        let mut poller = Self {
            appended: shared.store.appended(),
            shared,
            assignments,
            line,
            watch,
            frontier,
            snapshot,
            snapshot_at: None,
            advanced: Instant::now(),
            waiting_since: None,
            told: None,
            held: false,
            moved: false,
        };
        while poller.observe().await?.more {}
        Ok(poller)
    }

    /// The last observation.
    pub(crate) fn seen(&self) -> Observation {
        self.frontier.borrow().clone()
    }

    /// Makes the rows of consumers that have none, and reads them all.
    pub(crate) async fn enroll(&mut self) -> Result<Arc<Snapshot>, WorkerError> {
        let settled = self.seen().settled;
        let enrolments: Vec<Enrolment> = self
            .assignments
            .consumers
            .iter()
            .map(|consumer| consumer.enrolment.clone())
            .collect();
        DB::enroll(
            &self.shared.statements,
            self.line.get()?,
            &enrolments,
            settled,
        )
        .await?;
        self.take_snapshot().await?;
        self.measure_parked().await;
        Ok(Arc::clone(&self.snapshot.borrow()))
    }

    /// Watches until the worker stops; only a log that cannot be trusted ends it before.
    pub(crate) async fn run(mut self) -> Result<Self, WorkerError> {
        let mut quiet_rounds = 0_u32;
        loop {
            let pause = self.pause(quiet_rounds);
            tokio::select! {
                () = self.shared.wake.notified() => quiet_rounds = 0,
                Ok(()) = self.appended.changed() => quiet_rounds = 0,
                () = time::sleep(pause) => quiet_rounds = quiet_rounds.saturating_add(1),
                () = self.shared.stopped() => break,
            }
            let before = self.seen().settled;
            let shared = Arc::clone(&self.shared);
            match shared.answer(self.beat()).await {
                Ok(()) => {}
                Err(error) => self.reconnect(error).await?,
            }
            if self.seen().settled != before {
                quiet_rounds = 0;
            }
        }
        Ok(self)
    }

    /// Moves the checkpoints of idle lanes along, when the lanes have ended.
    pub(crate) async fn finish(mut self) -> Result<(), WorkerError> {
        self.advance_idle().await?;
        self.measure_lanes().await;
        self.measure_parked().await;
        Ok(())
    }

    async fn beat(&mut self) -> Result<(), WorkerError> {
        while self.observe().await?.more {}
        let now = Instant::now();
        let options = &self.shared.options;
        let wanted = self.shared.wants_snapshot.swap(false, Ordering::AcqRel);
        let due = wanted
            || (self.held && self.moved)
            || self
                .snapshot_at
                .is_none_or(|at| now - at >= options.snapshot_interval);
        // What was moved along shows in the next snapshot; until then it need not be tried again.
        let advance = !self.moved && now - self.advanced >= options.advance_interval;
        if due || self.snapshot.borrow().incarnation != self.seen().incarnation {
            self.take_snapshot().await?;
        }
        if advance || (self.held && !self.moved) {
            self.advance_idle().await?;
            self.advanced = now;
        }
        self.tell_who_blocks().await;
        let seen = self.seen();
        self.shared.board.set_beat(seen.settled, None);
        let since = self.waiting_since.map(|since| since.elapsed());
        metrics::frontier(&seen, since.unwrap_or_default());
        if due {
            self.measure_lanes().await;
        }
        if advance {
            self.measure_parked().await;
        }
        Ok(())
    }

    fn measure_states(&self) {
        for one in self.shared.board.summaries() {
            metrics::state(&one.consumer, &one.state);
        }
    }

    /// Says how far everybody is, and what everybody does.
    async fn measure_lanes(&mut self) {
        if !metrics::IS_ON {
            return;
        }
        self.measure_states();
        let (settled, snapshot) = (self.seen().settled, Arc::clone(&self.snapshot.borrow()));
        for cell in self.shared.board.cells() {
            // One that may not run has no place, and is behind all the same.
            let row = snapshot.rows.get(&cell.key);
            let place = cell.place().map(|place| place.after);
            let after = row.map(|row| place.unwrap_or(row.position));
            let after = after.unwrap_or(settled).min(settled);
            let age = self.age_after(&cell, after, settled).await;
            metrics::lag(&cell.key, settled - after, age);
        }
    }

    /// How old the first event of a lane's scope is that it has not handled. A lane at work knows
    /// it; for one that is not, the log is asked, once for each such event.
    async fn age_after(&mut self, cell: &Cell, after: i64, settled: i64) -> Duration {
        if after >= settled {
            return Duration::ZERO;
        }
        if let Some(first) = cell.first(after, settled) {
            return first.age();
        }
        match self.first_after(&cell.key, after, settled).await {
            Ok(first) => {
                cell.note_first(first);
                first.age()
            }
            // Whoever needs the database for more than a number will tell.
            Err(_) => Duration::ZERO,
        }
    }

    async fn first_after(
        &mut self,
        key: &SegmentId,
        after: i64,
        up_to: i64,
    ) -> Result<First, StoreError> {
        let consumer = self
            .assignments
            .consumers
            .iter()
            .find(|consumer| consumer.has(key));
        let scope = consumer.map(|consumer| Arc::clone(&consumer.scope));
        let range = ReadRange {
            after,
            up_to,
            limit: 1,
            max_bytes: 0,
            scope: scope.as_deref(),
        };
        let begin = DB::BEGIN_READ.into_sql_str();
        let mut tx = self.line.get()?.begin_with(begin).await?;
        let events = self.shared.store.read_range(&mut tx, range).await?;
        tx.commit().await?;
        Ok(First {
            after,
            up_to,
            created_at: events.first().map(|event| event.created_at),
        })
    }

    /// Says how many events everybody has set aside.
    async fn measure_parked(&mut self) {
        if !metrics::IS_ON {
            return;
        }
        let Ok(connection) = self.line.get() else {
            return;
        };
        let counts = DB::parked_counts(&self.shared.statements, connection).await;
        let Ok(counts) = counts else { return };
        for consumer in &self.assignments.consumers {
            let id = &consumer.enrolment.consumer;
            let own = counts.iter().find(|(other, _)| other == id);
            metrics::parked(id, own.map_or(0, |(_, events)| *events));
        }
    }

    async fn observe(&mut self) -> Result<Observation, WorkerError> {
        let seen = self.watch.observe(self.line.get()?).await?;
        let moved = self.seen().settled != seen.settled;
        if !seen.waiting || moved || self.waiting_since.is_none() {
            self.waiting_since = seen.waiting.then(Instant::now);
            self.told = None;
            self.shared.board.set_frontier_wait(None);
            metrics::blockers(0);
        }
        self.frontier.send_if_modified(|last| {
            let changed = *last != seen;
            *last = seen.clone();
            changed
        });
        Ok(seen)
    }

    async fn take_snapshot(&mut self) -> Result<(), WorkerError> {
        let rows = DB::snapshot(&self.shared.statements, self.line.get()?).await?;
        let rows = rows
            .into_iter()
            .map(|row| (row.key.clone(), row))
            .collect::<HashMap<_, _>>();
        let number = self.snapshot.borrow().number + 1;
        let incarnation = self.seen().incarnation;
        self.held = rows.values().any(|row| row.hold_at.is_some());
        let snapshot = Arc::new(Snapshot {
            number,
            incarnation,
            rows,
        });
        self.assignments.update(&snapshot);
        self.snapshot.send_replace(snapshot);
        self.moved = false;
        self.snapshot_at = Some(Instant::now());
        Ok(())
    }

    /// Writes down how far idle lanes have looked, all in one statement. What the last snapshot shows
    /// to be there is left out; a row that waited for its neighbour, or that somebody had in hand,
    /// is not.
    async fn advance_idle(&mut self) -> Result<(), sqlx::Error> {
        let incarnation = self.seen().incarnation;
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let moves: Vec<Advance> = self
            .shared
            .board
            .cells()
            .into_iter()
            .filter(|cell| {
                matches!(
                    cell.state(),
                    ConsumerState::Running | ConsumerState::CaughtUp | ConsumerState::ShutDown
                )
            })
            .filter_map(|cell| {
                let place = cell.place()?;
                let is_there = |row: &Checkpoint| row.position >= place.after;
                let is_behind = place.incarnation == incarnation
                    && place.after > place.checkpoint
                    && !snapshot.rows.get(&cell.key).is_some_and(is_there);
                is_behind.then(|| Advance {
                    key: cell.key.clone(),
                    slice_to: place.slice_to,
                    epoch: place.epoch,
                    from: place.checkpoint,
                    to: place.after,
                })
            })
            .collect();
        if moves.is_empty() {
            return Ok(());
        }
        // Where there is one writer this only waits for it, and the log with it: the next time
        // will do.
        let turn = DB::WRITERS.and_then(|_| self.shared.connections.turn());
        if DB::WRITERS.is_some() && turn.is_none() {
            return Ok(());
        }
        let statements = &self.shared.statements;
        DB::advance(statements, self.line.get()?, incarnation, &moves).await?;
        self.moved = true;
        Ok(())
    }

    fn pause(&self, quiet_rounds: u32) -> Duration {
        // Something was just appended or has just moved: its neighbours are likely to follow.
        let eager = Duration::from_millis(1 << quiet_rounds.min(16));
        if self.seen().waiting {
            eager.min(GAP_POLL)
        } else {
            eager.min(self.shared.options.poll_interval)
        }
    }

    async fn tell_who_blocks(&mut self) {
        let (Some(since), now) = (self.waiting_since, Instant::now()) else {
            return;
        };
        let told = self.told.is_some_and(|at| now - at < TELL_EVERY);
        if told || now - since < TELL_AFTER {
            return;
        }
        self.told = Some(now);
        let blockers = match self.line.get() {
            Ok(connection) => self.watch.blockers(connection).await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        metrics::blockers(blockers.len());
        let position = self.seen().settled;
        for blocker in &blockers {
            tracing::warn!("frontier waits at {position} for {blocker}");
        }
        let wait = FrontierWait {
            position,
            waited: now - since,
            blockers,
        };
        self.shared.board.set_frontier_wait(Some(wait));
    }

    /// Comes back after a lost connection. What was seen before it may be void, so everything
    /// starts from what is durable. Only a log that was reset is a reason to give up: a server that
    /// is a standby just now, or a table that is being changed, is one to wait.
    async fn reconnect(&mut self, mut error: WorkerError) -> Result<(), WorkerError> {
        let mut pause = Duration::from_millis(50);
        while !self.shared.is_stopping() {
            if matches!(error, WorkerError::Log(LogProblem::Reset { .. })) {
                return Err(error);
            }
            tracing::warn!(%error, "the worker lost its database; connecting again in {pause:?}");
            let settled = self.seen().settled;
            self.shared.board.set_beat(settled, Some(error.to_string()));
            self.line.close();
            self.shared.connections.close_idle();
            self.shared.log.close_idle();
            self.measure_states();
            tokio::select! {
                () = time::sleep(pause) => {}
                () = self.shared.stopped() => return Ok(()),
            }
            pause = (pause * 2).min(Duration::from_secs(5));
            let shared = Arc::clone(&self.shared);
            match shared.answer(self.try_again()).await {
                Ok(()) => return Ok(()),
                Err(again) => error = again,
            }
        }
        Ok(())
    }

    async fn try_again(&mut self) -> Result<(), WorkerError> {
        let connection = self.line.open(&self.shared.store).await?;
        self.watch = DB::Watch::start(
            self.shared.store.settings(),
            self.shared.store.pool(),
            connection,
        )
        .await?;
        self.snapshot_at = None;
        self.beat().await
    }
}

/// The connection that the log is watched over; none after a lost one, which must not keep a place
/// in a small pool while another is opened.
struct Line<DB: Backend>(Option<PoolConnection<DB>>);

impl<DB: Backend> Line<DB> {
    async fn open(&mut self, store: &EventStore<DB>) -> Result<&mut DB::Connection, sqlx::Error> {
        self.close();
        let connection = self.0.insert(store.pool().acquire().await?);
        // The worker may be given up in the middle of a BEGIN (see the reader of the log).
        connection.close_on_drop();
        Ok(connection)
    }

    fn close(&mut self) {
        self.0 = None;
    }

    fn get(&mut self) -> Result<&mut DB::Connection, sqlx::Error> {
        self.0.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }
}
