//! How far all lanes of a worker are.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::backend::{Blocker, Checkpoint, ConsumerId, HeldBack, SegmentId};
use crate::worker::progress::lane::LaneProgress;
use crate::worker::progress::report::ConsumerReport;
use crate::worker::progress::state::ConsumerState;
use crate::worker::progress::tally::Tally;
use crate::worker::timeouts::after;

/// How far all lanes of a worker are.
#[derive(Debug)]
pub(crate) struct WorkerProgress {
    consumers: Vec<ConsumerId>,
    lanes: RwLock<Vec<Arc<LaneProgress>>>,
    /// Consumers that do not run until it is decided where they begin.
    held_back: RwLock<HashMap<ConsumerId, HeldBack>>,
    changed: watch::Sender<()>,
    /// Why the frontier does not advance, and since when.
    frontier_wait: Mutex<Option<(Instant, FrontierWait)>>,
    last_poll: Mutex<Option<Poll>>,
    /// The recent history of the frontier, oldest first.
    frontier: Mutex<VecDeque<(Instant, i64)>>,
    /// How long a lane that has events to handle may make no progress before it is stalled.
    stall_after: Duration,
    /// The last panic of each task beside the lanes.
    task_panics: Mutex<Vec<TaskPanic>>,
    end: Mutex<Option<RunEnd>>,
    has_shut_down: AtomicBool,
}

/// The last panic of a task beside the lanes.
#[derive(Clone, Debug)]
pub(crate) struct TaskPanic {
    pub(crate) task: &'static str,
    pub(crate) error: String,
    pub(crate) at: Instant,
    /// Until when it is reported, unless the task panics again.
    until: Instant,
}

/// The last time that the worker polled the log, or tried to.
#[derive(Clone, Debug)]
pub(crate) struct Poll {
    pub(crate) at: Instant,
    /// Why it failed.
    pub(crate) error: Option<String>,
}

/// How the run of a worker ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunEnd {
    /// Whether it was asked to end, or had nothing left to do.
    pub(crate) was_asked: bool,
    /// The error that ended it.
    pub(crate) error: Option<String>,
}

/// Why the frontier does not advance, from
/// [`WorkerHandle::frontier_wait`](crate::WorkerHandle::frontier_wait).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontierWait {
    /// The last settled position.
    pub position: i64,
    /// How long it has been the last one.
    pub waited: Duration,
    /// The transactions that may still fill the gap after it.
    pub blockers: Vec<Blocker>,
}

/// How the lanes of a worker changed with its checkpoint rows.
pub(crate) struct LaneChanges {
    pub(crate) added: Vec<Arc<LaneProgress>>,
    pub(crate) removed: Vec<Arc<LaneProgress>>,
}

impl WorkerProgress {
    pub(crate) fn new(consumers: Vec<ConsumerId>, stall_after: Duration) -> Self {
        Self {
            consumers,
            lanes: RwLock::default(),
            held_back: RwLock::default(),
            changed: watch::Sender::new(()),
            frontier_wait: Mutex::default(),
            last_poll: Mutex::default(),
            frontier: Mutex::default(),
            stall_after,
            task_panics: Mutex::default(),
            end: Mutex::default(),
            has_shut_down: AtomicBool::new(false),
        }
    }

    pub(crate) fn lanes(&self) -> Vec<Arc<LaneProgress>> {
        self.lanes.read().clone()
    }

    pub(crate) fn lane_count(&self) -> usize {
        self.lanes.read().len()
    }

    /// Why a consumer is held back, if it is.
    pub(crate) fn held_back(&self, consumer: &ConsumerId) -> Option<HeldBack> {
        self.held_back.read().get(consumer).cloned()
    }

    /// Consumers that are held back and have no lanes that say so.
    pub(super) fn held_back_without_lanes(&self) -> Vec<HeldBack> {
        let lanes = self.lanes();
        let has_lane =
            |consumer: &ConsumerId| lanes.iter().any(|lane| lane.key.consumer == *consumer);
        let held_back = self.held_back.read();
        let without = held_back.values().filter(|one| !has_lane(&one.consumer));
        without.cloned().collect()
    }

    /// Holds a consumer back; the log has each reason once.
    pub(crate) fn hold_back(&self, held_back: HeldBack) {
        let consumer = held_back.consumer.clone();
        let mut all = self.held_back.write();
        if all.get(&consumer) == Some(&held_back) {
            return;
        }
        tracing::warn!(consumer = &*consumer.name, "the consumer is {held_back}");
        all.insert(consumer, held_back);
        drop(all);
        self.notify();
    }

    /// Lets a consumer run.
    pub(crate) fn release(&self, consumer: &ConsumerId) {
        if self.held_back.write().remove(consumer).is_some() {
            self.notify();
        }
    }

    /// Makes the lanes those of the rows. A consumer that has no row keeps its lanes, which say that
    /// it was forgotten.
    pub(crate) fn update_lanes(&self, rows: &[&Checkpoint]) -> LaneChanges {
        let wanted: HashMap<&SegmentId, i32> =
            rows.iter().map(|row| (&row.key, row.slice_to)).collect();
        let consumers: HashSet<&ConsumerId> = rows.iter().map(|row| &row.key.consumer).collect();
        let mut lanes = self.lanes.write();
        let (kept, removed): (Vec<_>, Vec<_>) = lanes.drain(..).partition(|lane| {
            !consumers.contains(&lane.key.consumer) || wanted.contains_key(&lane.key)
        });
        for lane in &kept {
            if let Some(&slice_to) = wanted.get(&lane.key) {
                lane.resize(slice_to);
            }
        }
        let known: HashSet<&SegmentId> = kept.iter().map(|lane| &lane.key).collect();
        let added: Vec<Arc<LaneProgress>> = rows
            .iter()
            .filter(|row| !known.contains(&row.key))
            .map(|row| Arc::new(LaneProgress::new(row, self.changed.clone())))
            .collect();
        *lanes = kept;
        lanes.extend(added.iter().cloned());
        drop(lanes);
        if !added.is_empty() || !removed.is_empty() {
            self.notify();
        }
        LaneChanges { added, removed }
    }

    /// How far each consumer is, over all its lanes.
    pub(crate) fn consumers(&self) -> Vec<ConsumerReport> {
        let lanes = self.lanes();
        let mut by_consumer: HashMap<&ConsumerId, Vec<&LaneProgress>> = HashMap::new();
        for lane in &lanes {
            by_consumer
                .entry(&lane.key.consumer)
                .or_default()
                .push(lane);
        }
        let poll_error = self.last_poll().and_then(|poll| poll.error);
        self.consumers
            .iter()
            .map(|consumer| {
                let lanes = by_consumer.get(consumer).map_or(&[][..], Vec::as_slice);
                let report = report(consumer, lanes, self.state_without_lanes(consumer));
                ConsumerReport {
                    state: report.state.while_polls_fail(poll_error.as_deref()),
                    ..report
                }
            })
            .collect()
    }

    fn state_without_lanes(&self, consumer: &ConsumerId) -> ConsumerState {
        match self.held_back(consumer) {
            Some(held_back) => ConsumerState::HeldBack(held_back),
            None if self.has_shut_down.load(Ordering::Relaxed) => ConsumerState::ShutDown,
            None => ConsumerState::Starting,
        }
    }

    /// Records that the worker has ended, whether a lane had started, was in the middle of a batch, or
    /// was not even known yet.
    pub(crate) fn shut_down(&self) {
        self.has_shut_down.store(true, Ordering::Relaxed);
        for lane in self.lanes() {
            if lane.state().is_active() {
                lane.set_state(ConsumerState::ShutDown);
            }
        }
    }

    pub(crate) fn last_poll(&self) -> Option<Poll> {
        self.last_poll.lock().clone()
    }

    pub(crate) fn record_poll(&self, settled: i64, error: Option<String>) {
        let at = Instant::now();
        self.record_frontier(at, settled);
        *self.last_poll.lock() = Some(Poll { at, error });
    }

    /// Keeps sixteen entries for the time after which a lane is stalled, and one older entry.
    fn record_frontier(&self, now: Instant, settled: i64) {
        let mut history = self.frontier.lock();
        // After a crash that took commits back, what was settled before means nothing.
        if history.back().is_some_and(|&(_, last)| settled < last) {
            history.clear();
        }
        let is_due = |last: &(Instant, i64)| now - last.0 >= self.stall_after / 16;
        if history.back().is_none_or(is_due) {
            history.push_back((now, settled));
        }
        let is_old = |entry: &(Instant, i64)| now - entry.0 >= self.stall_after;
        while history.get(1).is_some_and(is_old) {
            history.pop_front();
        }
    }

    /// How long a lane has had events to handle and made no progress, if that is too long.
    ///
    /// Only events count that have been settled for that long: a lane that waited for an hour until
    /// an event came is not an hour late.
    pub(crate) fn stalled_for(&self, lane: &LaneProgress) -> Option<Duration> {
        let (at, settled) = *self.frontier.lock().front()?;
        let inactive = lane.inactive_for().min(at.elapsed());
        let is_behind = lane.cursor().is_some_and(|cursor| cursor.after < settled);
        (is_behind && inactive > self.stall_after).then_some(inactive)
    }

    /// Records that a task beside the lanes panicked, and starts again after a pause.
    pub(crate) fn record_task_panic(&self, task: &'static str, error: String, pause: Duration) {
        let panic = TaskPanic {
            task,
            error,
            at: Instant::now(),
            until: after(pause.saturating_add(self.stall_after)),
        };
        let mut panics = self.task_panics.lock();
        panics.retain(|other| other.task != task);
        panics.push(panic);
    }

    /// The tasks beside the lanes that panicked and have not run for long since.
    pub(crate) fn task_panics(&self) -> Vec<TaskPanic> {
        let mut panics = self.task_panics.lock();
        panics.retain(|panic| Instant::now() < panic.until);
        panics.clone()
    }

    /// How the run ended; `None` before that.
    pub(crate) fn end(&self) -> Option<RunEnd> {
        self.end.lock().clone()
    }

    /// The error that ended the run or, if it has not ended, that of the last poll.
    pub(crate) fn fatal_error(&self) -> Option<String> {
        let end = self.end().and_then(|end| end.error);
        end.or_else(|| self.last_poll()?.error)
    }

    pub(crate) fn set_end(&self, end: RunEnd) {
        *self.end.lock() = Some(end);
        self.notify();
    }

    pub(crate) fn frontier_wait(&self) -> Option<FrontierWait> {
        let (since, wait) = self.frontier_wait.lock().clone()?;
        Some(FrontierWait {
            waited: since.elapsed(),
            ..wait
        })
    }

    pub(crate) fn set_frontier_wait(&self, wait: Option<FrontierWait>) {
        let wait = wait.and_then(|wait| Some((Instant::now().checked_sub(wait.waited)?, wait)));
        *self.frontier_wait.lock() = wait;
    }

    /// Why the frontier does not advance, if that has been so for too long.
    pub(super) fn blocked_frontier(&self) -> Option<FrontierWait> {
        self.frontier_wait()
            .filter(|wait| wait.waited > self.stall_after)
    }

    /// Makes all waiting tasks check their condition again.
    pub(crate) fn notify(&self) {
        self.changed.send_replace(());
    }

    /// Waits until the condition holds.
    pub(crate) async fn until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        while !condition(self) {
            // The sender lives as long as `self`.
            let _ = changed.changed().await;
        }
    }
}

fn report(
    consumer: &ConsumerId,
    lanes: &[&LaneProgress],
    without_lanes: ConsumerState,
) -> ConsumerReport {
    // As long as one lane has not seen its checkpoint, the position is unknown.
    let positions: Option<Vec<i64>> = lanes
        .iter()
        .map(|lane| lane.cursor().map(|cursor| cursor.after))
        .collect();
    let tally = lanes
        .iter()
        .fold(Tally::default(), |sum, lane| sum + lane.tally());
    let states = lanes.iter().map(|lane| lane.state());
    let missing = lanes.iter().filter_map(|lane| lane.missing());
    ConsumerReport {
        id: consumer.clone(),
        position: positions.and_then(|positions| positions.into_iter().min()),
        events: tally.events,
        batches: tally.batches,
        parked: tally.parked,
        skipped: tally.skipped,
        missing: missing
            .reduce(|all, one| *all.start().min(one.start())..=*all.end().max(one.end())),
        state: states
            .max_by_key(ConsumerState::severity)
            .unwrap_or(without_lanes),
    }
}
