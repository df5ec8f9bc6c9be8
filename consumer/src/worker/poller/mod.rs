//! The one task of a worker that polls the log and the checkpoint rows for all its lanes.

pub(crate) mod assignment;
pub(crate) mod held_back;
pub(crate) mod idle;
mod measure;
mod pending;
pub(crate) mod reset;
mod searched;
pub(crate) mod segments;
pub(crate) mod snapshot;
mod unknown;
mod writing;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use tokio::sync::watch;
use tokio::time::{self, Instant};

use crate::backend::{
    self, Access, Advance, Backend, Checkpoint, Enrolment, FrontierWatch as _, Incarnation,
    LogState, Observation, Pace, SegmentId, SnapshotRow, acquire,
};
use crate::contract::chain;
use crate::worker::context::Shared;
use crate::worker::error::WorkerError;
use crate::worker::metrics;
use crate::worker::poller::assignment::LaneAssigner;
use crate::worker::poller::reset::refuse_checkpoints_above;
use crate::worker::poller::searched::Searched;
use crate::worker::poller::snapshot::Snapshot;
use crate::worker::poller::writing::WritingTurn;
use crate::worker::progress::lane::LaneProgress;
use crate::worker::progress::state::ConsumerState;
use crate::worker::progress::worker::FrontierWait;

/// How long the frontier may wait at a gap before the log names the blockers.
const WARN_AFTER: Duration = Duration::from_secs(1);

/// How often the log names them again.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The longest pause between two polls while the frontier waits at a gap.
const GAP_POLL: Duration = Duration::from_millis(25);

/// The first and the longest pause before the worker connects again.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Polls the frontier and the checkpoint rows over one connection.
pub(crate) struct Poller<DB: Backend> {
    shared: Arc<Shared<DB>>,
    assigner: LaneAssigner<DB>,
    connection: PollerConnection<DB>,
    watch: DB::Watch,
    appended: watch::Receiver<u64>,
    frontier: watch::Sender<Observation>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    snapshot_at: Option<Instant>,
    snapshot_pace: Pace,
    advanced_at: Instant,
    /// Since when the frontier has been waiting at a gap.
    waiting_since: Option<Instant>,
    /// When the blockers of the frontier were last logged.
    warned_at: Option<Instant>,
    /// Whether a row waits for its neighbour, which may be idle.
    has_holds: bool,
    /// Whether idle checkpoints were advanced since the last snapshot.
    has_advanced: bool,
    /// Where the log has no event for a row.
    searched: HashMap<SegmentId, Searched>,
    writing: WritingTurn<DB>,
}

impl<DB: Backend> Poller<DB> {
    /// Connects, checks the preconditions of the frontier, and polls the log for the first time.
    pub(crate) async fn start(
        shared: Arc<Shared<DB>>,
        assigner: LaneAssigner<DB>,
        frontier: watch::Sender<Observation>,
        snapshot: watch::Sender<Arc<Snapshot>>,
    ) -> Result<Self, WorkerError> {
        metrics::describe();
        let mut connection = PollerConnection(None);
        let watch = connection.start_watch(&shared).await?;
        let queue_after = shared.options.advance_interval.saturating_mul(2);
        let mut poller = Self {
            writing: WritingTurn::new(Arc::clone(&shared.connections), queue_after),
            appended: shared.store.appended(),
            shared,
            assigner,
            connection,
            watch,
            frontier,
            snapshot,
            snapshot_at: None,
            snapshot_pace: Pace::default(),
            advanced_at: Instant::now(),
            waiting_since: None,
            warned_at: None,
            has_holds: false,
            has_advanced: false,
            searched: HashMap::new(),
        };
        poller.observe_all().await?;
        Ok(poller)
    }

    /// The last observation.
    pub(crate) fn observed(&self) -> Observation {
        self.frontier.borrow().clone()
    }

    /// Creates the checkpoint rows of consumers that have none, and reads them all.
    pub(crate) async fn enroll(&mut self) -> Result<Arc<Snapshot>, WorkerError> {
        let settled = self.observed().settled;
        let progress = Arc::clone(&self.shared.progress);
        let consumers = self.assigner.consumers.iter();
        let enrolments: Vec<Enrolment> = consumers
            .filter(|one| progress.held_back(one.id()).is_none())
            .map(|one| one.enrolment.clone())
            .collect();
        let connection = self.connection.get()?;
        let program = self.shared.program(&enrolments);
        let enrolled = DB::enroll(&self.shared.statements, connection, program, settled);
        for reason in enrolled.await?? {
            progress.hold_back(reason);
        }
        self.take_snapshot().await?;
        self.measure_parked().await;
        // From now on, lanes may run.
        self.shared.progress.record_poll(settled, None);
        Ok(Arc::clone(&self.snapshot.borrow()))
    }

    /// Polls until the worker stops; only an error that [cannot pass](WorkerError::can_pass) ends it
    /// earlier.
    pub(crate) async fn run(mut self) -> Result<Self, WorkerError> {
        let mut quiet_rounds = 0_u32;
        loop {
            let pause = self.pause(quiet_rounds);
            tokio::select! {
                () = self.shared.wake.notified() => quiet_rounds = 0,
                Ok(()) = self.appended.changed() => quiet_rounds = 0,
                () = self.writing.comes() => quiet_rounds = 0,
                () = time::sleep(pause) => quiet_rounds = quiet_rounds.saturating_add(1),
                () = self.shared.stopped() => break,
            }
            let before = self.observed().settled;
            let shared = Arc::clone(&self.shared);
            let polled = shared.answer(self.poll()).await;
            self.writing.end();
            if let Err(error) = polled {
                self.reconnect(error).await?;
            }
            if self.observed().settled != before {
                quiet_rounds = 0;
            }
        }
        self.writing.leave();
        Ok(self)
    }

    /// Advances the checkpoints of idle lanes after all lanes have ended.
    pub(crate) async fn finish(mut self) -> Result<(), WorkerError> {
        self.advance_idle().await?;
        self.note_unknown().await?;
        self.writing.end();
        self.measure_lanes().await;
        self.measure_parked().await;
        Ok(())
    }

    async fn poll(&mut self) -> Result<(), WorkerError> {
        self.observe_all().await?;
        let is_its_turn = self.writing.has_come();
        let snapshot_is_due = self.snapshot_is_due() || is_its_turn;
        let advance_is_due = self.advance_is_due() || is_its_turn;
        if advance_is_due || self.shared.log.take_mismatch() {
            self.connection.check(&self.shared).await?;
        }
        if snapshot_is_due || self.snapshot.borrow().incarnation != self.observed().incarnation {
            self.take_snapshot().await?;
        }
        if advance_is_due || (self.has_holds && !self.has_advanced) {
            self.advance_idle().await?;
            self.advanced_at = Instant::now();
        }
        if snapshot_is_due {
            self.note_unknown().await?;
        }
        if snapshot_is_due || advance_is_due {
            self.note_first().await?;
            self.note_pending(advance_is_due).await?;
        }
        self.report_blockers().await;
        let observed = self.observed();
        self.shared.progress.record_poll(observed.settled, None);
        let waited = self.waiting_since.map(|since| since.elapsed());
        metrics::frontier(&self.shared.log_name, &observed, waited.unwrap_or_default());
        if snapshot_is_due {
            self.measure_lanes().await;
        }
        if advance_is_due {
            self.measure_parked().await;
        }
        Ok(())
    }

    fn snapshot_is_due(&self) -> bool {
        // First, so that a request is not lost.
        if !self.snapshot_pace.is_due() {
            return false;
        }
        let interval = self.shared.options.snapshot_interval;
        let requested = self.shared.snapshot_requested.swap(false, Ordering::AcqRel);
        requested
            || (self.has_holds && self.has_advanced)
            || self.snapshot_at.is_none_or(|at| at.elapsed() >= interval)
    }

    /// What was advanced shows in the next snapshot; until then it need not be tried again.
    fn advance_is_due(&self) -> bool {
        !self.has_advanced && self.advanced_at.elapsed() >= self.shared.options.advance_interval
    }

    async fn observe_all(&mut self) -> Result<(), WorkerError> {
        while self.observe().await?.more {}
        Ok(())
    }

    async fn observe(&mut self) -> Result<Observation, WorkerError> {
        let observed = self.watch.observe(self.connection.get()?).await?;
        let has_moved = self.observed().settled != observed.settled;
        if has_moved {
            // What is settled ends with an event.
            let seen = [observed.settled].into_iter();
            self.shared.log.note_positions(seen, observed.incarnation);
        }
        if !observed.waiting || has_moved || self.waiting_since.is_none() {
            self.waiting_since = observed.waiting.then(Instant::now);
            self.warned_at = None;
            self.shared.progress.set_frontier_wait(None);
            metrics::blockers(&self.shared.log_name, 0);
        }
        self.frontier.send_if_modified(|last| {
            let is_new = *last != observed;
            *last = observed.clone();
            is_new
        });
        Ok(observed)
    }

    async fn take_snapshot(&mut self) -> Result<(), WorkerError> {
        let began_at = std::time::Instant::now();
        let statements = &self.shared.statements;
        let connection = self.connection.get()?;
        let (log, rows) = backend::snapshot::<DB>(&self.watch, connection, statements).await?;
        self.hold_back_renamed(&rows).await?;
        let connection = self.connection.get()?;
        let head = self.frontier.borrow().head;
        if rows.iter().any(|row| row.checkpoint.position > head) {
            refuse_checkpoints_above::<DB>(&self.watch, connection, &rows).await?;
        }
        self.publish(began_at, log, rows);
        Ok(())
    }

    /// Tells all lanes what was read of their rows and of the log.
    fn publish(&mut self, began_at: std::time::Instant, log: LogState, rows: Vec<SnapshotRow>) {
        let before = Arc::clone(&self.snapshot.borrow());
        let mut snapshot = Snapshot {
            number: before.number + 1,
            began_at: Some(began_at),
            incarnation: self.observed().incarnation,
            log,
            ..Snapshot::default()
        };
        for SnapshotRow {
            checkpoint,
            pending,
            kept,
        } in rows
        {
            let of_row = |event: Option<i64>| event.map(|event| (checkpoint.key.clone(), event));
            snapshot.pending.extend(of_row(pending));
            snapshot.kept.extend(of_row(kept));
            snapshot.rows.insert(checkpoint.key.clone(), checkpoint);
        }
        if snapshot.incarnation != before.incarnation {
            self.searched.clear();
        }
        let first = snapshot.log.first.into_iter();
        self.shared.log.note_positions(first, snapshot.incarnation);
        if snapshot.outdates_cache_of(&before) {
            // Before a lane sees it, and reads.
            self.shared.log.discard();
        }
        let mut rows = snapshot.rows.values();
        self.has_holds = rows.any(|row| row.hold_at.is_some());
        self.assigner.update(&snapshot);
        self.snapshot.send_replace(Arc::new(snapshot));
        self.has_advanced = false;
        self.snapshot_at = Some(Instant::now());
        self.snapshot_pace.pause(began_at.elapsed(), Duration::ZERO);
    }

    /// Saves how far idle lanes are, in one statement.
    async fn advance_idle(&mut self) -> Result<(), sqlx::Error> {
        let incarnation = self.observed().incarnation;
        let snapshot = Arc::clone(&self.snapshot.borrow());
        let lanes = self.shared.progress.lanes();
        let advances: Vec<Advance> = lanes
            .iter()
            .filter_map(|lane| advance_of(lane, incarnation, &snapshot))
            .collect();
        if advances.is_empty() {
            return Ok(());
        }
        if !self.writing.begin() {
            return Ok(());
        }
        let statements = &self.shared.statements;
        DB::advance(statements, self.connection.get()?, incarnation, &advances).await?;
        self.has_advanced = true;
        Ok(())
    }

    /// How long to wait for the next poll: shortly after something was settled, since more is likely
    /// to follow.
    fn pause(&self, quiet_rounds: u32) -> Duration {
        let eager = Duration::from_millis(1 << quiet_rounds.min(16));
        if self.observed().waiting {
            eager.min(GAP_POLL)
        } else {
            eager.min(self.shared.options.poll_interval)
        }
    }

    /// Logs which transactions block the frontier, once it has waited for a while.
    async fn report_blockers(&mut self) {
        let Some(waited) = self.waiting_since.map(|since| since.elapsed()) else {
            return;
        };
        let was_reported = self.warned_at.is_some_and(|at| at.elapsed() < WARN_EVERY);
        if was_reported || waited < WARN_AFTER {
            return;
        }
        if self.warned_at.is_none() {
            self.warn_of_checkpoints_above();
        }
        self.warned_at = Some(Instant::now());
        let blockers = match self.connection.get() {
            Ok(connection) => self.watch.blockers(connection).await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        metrics::blockers(&self.shared.log_name, blockers.len());
        let position = self.observed().settled;
        for blocker in &blockers {
            tracing::warn!("frontier waits at {position} for {blocker}");
        }
        self.shared.progress.set_frontier_wait(Some(FrontierWait {
            position,
            waited,
            blockers,
        }));
    }

    /// Warns of checkpoints beyond a gap, such as those taken over from a runtime that passes gaps.
    ///
    /// Not before the frontier has waited for a while: the evidence of a worker that has just started
    /// lags behind that of others, whose checkpoints are then above its frontier for a moment.
    fn warn_of_checkpoints_above(&self) {
        let settled = self.observed().settled;
        let snapshot = self.snapshot.borrow();
        let consumers = &self.assigner.consumers;
        let is_own = |row: &Checkpoint| consumers.iter().any(|one| one.owns(&row.key));
        let above = |row: &&Checkpoint| row.position > settled && is_own(row);
        for row in snapshot.rows.values().filter(above) {
            let (consumer, position) = (&*row.key.consumer.name, row.position);
            tracing::warn!(
                consumer,
                position,
                "the checkpoint of `{consumer}` is above the frontier; events that open transactions insert at positions {} to {position} will not be handled. If no other worker settled these positions, rebuild the consumer after the transactions end",
                settled.saturating_add(1),
            );
        }
    }

    /// Connects again after an error and starts over from what is durable, since a crash can take
    /// back what was observed before. An error that [cannot pass](WorkerError::can_pass) ends the worker.
    async fn reconnect(&mut self, mut error: WorkerError) -> Result<(), WorkerError> {
        let (mut pause, longest) = RECONNECT;
        while !self.shared.is_stopping() {
            if !error.can_pass() {
                self.record_failure(&error);
                return Err(error);
            }
            self.disconnect(&error, pause);
            tokio::select! {
                () = time::sleep(pause) => {}
                () = self.shared.stopped() => return Ok(()),
            }
            pause = (pause * 2).min(longest);
            let shared = Arc::clone(&self.shared);
            let connected = shared.answer(self.try_reconnect()).await;
            self.writing.end();
            match connected {
                Ok(()) => return Ok(()),
                Err(again) => error = again,
            }
        }
        Ok(())
    }

    fn disconnect(&mut self, error: &WorkerError, pause: Duration) {
        tracing::warn!(
            error = %chain(error),
            "the worker cannot use its database; trying again in {pause:?}"
        );
        self.record_failure(error);
        self.connection.close();
        self.writing.leave();
        self.shared.connections.close_idle();
        self.shared.log.close_idle();
        self.measure_states();
    }

    fn record_failure(&self, error: &WorkerError) {
        let (settled, error) = (self.observed().settled, chain(error).to_string());
        self.shared.progress.record_poll(settled, Some(error));
    }

    async fn try_reconnect(&mut self) -> Result<(), WorkerError> {
        self.watch = self.connection.start_watch(&self.shared).await?;
        self.snapshot_at = None;
        self.snapshot_pace = Pace::default();
        self.poll().await
    }
}

/// How to advance the row of an idle lane; `None` if the lane is not idle, or if the last snapshot
/// shows that its row is that far already. A row that waited for its neighbour, or that a batch held,
/// is tried again.
fn advance_of(
    lane: &LaneProgress,
    incarnation: Incarnation,
    snapshot: &Snapshot,
) -> Option<Advance> {
    let may_advance = matches!(
        lane.state(),
        ConsumerState::Running
            | ConsumerState::WaitingForRelease { .. }
            | ConsumerState::WaitingForMerge { .. }
            | ConsumerState::CaughtUp
            | ConsumerState::ShutDown
    );
    let cursor = lane.cursor().filter(|_| may_advance)?;
    let is_saved = |row: &Checkpoint| row.position >= cursor.after;
    let is_behind = cursor.incarnation == incarnation
        && cursor.after > cursor.checkpoint
        && !snapshot.rows.get(&lane.key).is_some_and(is_saved);
    is_behind.then(|| Advance {
        key: lane.key.clone(),
        slice_to: cursor.slice_to,
        epoch: cursor.epoch,
        from: cursor.checkpoint,
        to: cursor.after,
        excluded: cursor.excluded,
    })
}

/// The poller's connection; `None` after it was lost, so that it does not occupy a small pool while
/// another one is opened.
struct PollerConnection<DB: Backend>(Option<PoolConnection<DB>>);

impl<DB: Backend> PollerConnection<DB> {
    async fn start_watch(&mut self, shared: &Shared<DB>) -> Result<DB::Watch, WorkerError> {
        self.close();
        let store = &shared.store;
        let connection = self.0.insert(acquire(store.pool()).await?);
        // The worker may be dropped during a BEGIN, as in the reader of the log.
        connection.close_on_drop();
        // What the server refuses below, it would not explain.
        self.check(shared).await?;
        let connection = self.get()?;
        let watch = DB::Watch::start(store.settings(), connection).await?;
        // Before the probe, whose own position would hide that the log was reset.
        let (_, rows) = backend::snapshot::<DB>(&watch, connection, &shared.statements).await?;
        refuse_checkpoints_above::<DB>(&watch, connection, &rows).await?;
        watch.probe(store.pool(), connection).await?;
        Ok(watch)
    }

    /// Checks what can change while the worker runs: privileges, the version of the tables, and the columns
    /// of the table of events.
    async fn check(&mut self, shared: &Shared<DB>) -> Result<(), WorkerError> {
        let settings = shared.store.settings();
        let connection = self.get()?;
        backend::check_use::<DB>(connection, settings, Some(Access::Work)).await?;
        Ok(backend::check_mapping::<DB>(connection, settings).await?)
    }

    fn close(&mut self) {
        self.0 = None;
    }

    fn get(&mut self) -> Result<&mut DB::Connection, sqlx::Error> {
        self.0.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }
}
