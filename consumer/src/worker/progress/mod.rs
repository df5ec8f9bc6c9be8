//! Where each lane writes how far it is, for everyone who waits or looks.

pub(crate) mod handle;
pub(crate) mod health;
pub(crate) mod report;
pub(crate) mod state;

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Add;
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::watch;

use crate::backend::{Blocker, Checkpoint, ConsumerId, Incarnation, SegmentId};
use crate::worker::metrics;
use crate::worker::progress::state::ConsumerState;

/// Where a lane stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The incarnation of the server that this was seen in.
    pub(crate) incarnation: Incarnation,
    /// The slice after the row's last one.
    pub(crate) slice_to: i32,
    /// The rebuild that this belongs to.
    pub(crate) epoch: i64,
    /// The checkpoint, as it was last seen.
    pub(crate) checkpoint: i64,
    /// Nothing in scope lies between the checkpoint and here.
    pub(crate) after: i64,
}

/// The first event in the scope of a lane that it has not handled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct First {
    /// Where the lane stands.
    pub(crate) after: i64,
    /// How far the log was looked through.
    pub(crate) up_to: i64,
    /// When the event was appended; `None` when there is none so far.
    pub(crate) created_at: Option<DateTime<Utc>>,
}

impl First {
    /// How old the event is.
    pub(crate) fn age(&self) -> Duration {
        let age = self.created_at.map(|at| Utc::now() - at);
        age.and_then(|age| age.to_std().ok()).unwrap_or_default()
    }
}

/// A lane's place, and what moves it.
#[derive(Debug, Default)]
struct Standing {
    place: Option<Place>,
    /// How far the log was looked through for a lane that sleeps.
    follows: Option<Arc<AtomicI64>>,
}

impl Standing {
    fn now(&self) -> Option<Place> {
        let looked = self
            .follows
            .as_ref()
            .map(|looked| looked.load(Ordering::Relaxed));
        self.place.map(|place| Place {
            after: looked.map_or(place.after, |looked| looked.max(place.after)),
            ..place
        })
    }
}

/// One lane's place on the board.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) key: SegmentId,
    /// The slice after the row's last one.
    slice_to: AtomicI32,
    standing: Mutex<Standing>,
    counts: Mutex<Counts>,
    state: Mutex<ConsumerState>,
    /// When the lane last moved, or did something else.
    moved: Mutex<Instant>,
    /// What is known of the first event that it has not handled.
    first: Mutex<Option<First>>,
    changed: watch::Sender<()>,
}

impl Cell {
    /// Where the lane stands; `None` until it has seen its checkpoint.
    pub(crate) fn place(&self) -> Option<Place> {
        self.lock_standing().now()
    }

    pub(crate) fn set_place(&self, place: Option<Place>) {
        let mut standing = self.lock_standing();
        // A lane that has not seen yet that its row is wider now knows nothing of the rest of it.
        let slice_to = self.slice_to.load(Ordering::Relaxed);
        let place = place.filter(|place| place.slice_to == slice_to);
        let before = standing.now();
        *standing = Standing {
            place,
            follows: None,
        };
        drop(standing);
        if before != place {
            self.note_move();
            self.changed.send_replace(());
        }
    }

    /// Notes that the row is as wide as this, also before its lane sees it.
    fn resize(&self, slice_to: i32) {
        let mut standing = self.lock_standing();
        self.slice_to.store(slice_to, Ordering::Relaxed);
        standing.place = standing.place.filter(|place| place.slice_to == slice_to);
    }

    /// From now on the lane has nothing in its scope up to where the log was looked through.
    pub(crate) fn follow(&self, looked: Arc<AtomicI64>) {
        self.lock_standing().follows = Some(looked);
    }

    /// The lane stays where it is now.
    pub(crate) fn stand_still(&self) {
        let mut standing = self.lock_standing();
        standing.place = standing.now();
        standing.follows = None;
        drop(standing);
        self.note_move();
    }

    fn lock_standing(&self) -> MutexGuard<'_, Standing> {
        let standing = self.standing.lock();
        standing.unwrap_or_else(PoisonError::into_inner)
    }

    fn note_move(&self) {
        self.rests_until(Instant::now());
    }

    /// Notes until when the lane has a reason to do nothing.
    pub(crate) fn rests_until(&self, end: Instant) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }

    /// How long the lane has done nothing without a reason.
    pub(crate) fn idle(&self) -> Duration {
        self.moved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed()
    }

    /// Notes what is known of the first event that is not handled.
    pub(crate) fn note_first(&self, first: First) {
        *self.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(first);
    }

    /// What is known of the first event after a place, of those up to another.
    pub(crate) fn first(&self, after: i64, up_to: i64) -> Option<First> {
        let first = *self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.filter(|first| {
            first.after == after && (first.created_at.is_some() || first.up_to >= up_to)
        })
    }

    pub(crate) fn count(&self, counts: Counts) {
        let mut sum = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *sum = *sum + counts;
    }

    fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> ConsumerState {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_state(&self, state: ConsumerState) {
        let mut current = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != state {
            *current = state;
            drop(current);
            self.note_move();
            self.changed.send_replace(());
        }
    }
}

/// All lanes of a worker.
#[derive(Debug)]
pub(crate) struct LaneBoard {
    consumers: Vec<ConsumerId>,
    cells: RwLock<Vec<Arc<Cell>>>,
    changed: watch::Sender<()>,
    waiting: Mutex<Option<FrontierWait>>,
    beat: Mutex<Option<Beat>>,
    /// How far the log was settled in the last while, the oldest first.
    settled: Mutex<VecDeque<(Instant, i64)>>,
    /// After what time without progress a lane that has work is stalled.
    stall_after: Duration,
    end: Mutex<Option<Ended>>,
}

/// A sign of life of the task that watches the log.
#[derive(Clone, Debug)]
pub(crate) struct Beat {
    pub(crate) at: Instant,
    /// Why the log could not be looked at.
    pub(crate) trouble: Option<String>,
}

/// How the run of a worker was over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ended {
    /// Whether somebody asked for it, or there was nothing left to do.
    pub(crate) was_asked: bool,
    /// What ended it.
    pub(crate) error: Option<String>,
}

/// What became of events in this run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) events: u64,
    /// The batches that handled any.
    pub(crate) batches: u64,
    pub(crate) parked: u64,
    pub(crate) skipped: u64,
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            events: self.events + other.events,
            batches: self.batches + other.batches,
            parked: self.parked + other.parked,
            skipped: self.skipped + other.skipped,
        }
    }
}

/// One consumer, over all its lanes.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) consumer: ConsumerId,
    /// Everything in its scope up to here is handled; `None` while that is unknown.
    pub(crate) position: Option<i64>,
    pub(crate) counts: Counts,
    /// What the lane that is worst off is doing.
    pub(crate) state: ConsumerState,
}

/// Why the frontier does not move.
///
/// See [`WorkerHandle::frontier_wait`](crate::WorkerHandle::frontier_wait) for an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontierWait {
    /// The last settled position.
    pub position: i64,
    /// How long it has been the last one.
    pub waited: Duration,
    /// The transactions that may still fill the gap after it.
    pub blockers: Vec<Blocker>,
}

impl LaneBoard {
    pub(crate) fn new(consumers: Vec<ConsumerId>, stall_after: Duration) -> Self {
        let (changed, _) = watch::channel(());
        Self {
            consumers,
            cells: RwLock::new(Vec::new()),
            changed,
            waiting: Mutex::new(None),
            beat: Mutex::new(None),
            settled: Mutex::new(VecDeque::new()),
            stall_after,
            end: Mutex::new(None),
        }
    }

    pub(crate) fn cells(&self) -> Vec<Arc<Cell>> {
        self.cells
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many lanes there are.
    pub(crate) fn cells_count(&self) -> usize {
        let cells = self.cells.read().unwrap_or_else(PoisonError::into_inner);
        cells.len()
    }

    /// Makes the cells those of the rows, and returns the new ones. A consumer of which there is no
    /// row keeps its cells: they say that it was forgotten.
    pub(crate) fn seat(&self, rows: &[&Checkpoint]) -> Vec<Arc<Cell>> {
        let wanted: HashMap<&SegmentId, i32> =
            rows.iter().map(|row| (&row.key, row.slice_to)).collect();
        let consumers: HashSet<&ConsumerId> = rows.iter().map(|row| &row.key.consumer).collect();
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        let before = cells.len();
        cells.retain(|cell| {
            let is_known = consumers.contains(&cell.key.consumer);
            if let Some(&slice_to) = wanted.get(&cell.key) {
                cell.resize(slice_to);
            }
            let stays = !is_known || wanted.contains_key(&cell.key);
            if !stays {
                // A gauge that nobody sets any more would show its last value for ever.
                metrics::lag(&cell.key, 0, Duration::ZERO);
            }
            stays
        });
        let seated: HashSet<SegmentId> = cells.iter().map(|cell| cell.key.clone()).collect();
        let new: Vec<Arc<Cell>> = rows
            .iter()
            .filter(|row| !seated.contains(&row.key))
            .map(|row| self.cell(row))
            .collect();
        let changed = cells.len() != before || !new.is_empty();
        cells.extend(new.iter().cloned());
        drop(cells);
        if changed {
            self.changed.send_replace(());
        }
        new
    }

    fn cell(&self, row: &Checkpoint) -> Arc<Cell> {
        Arc::new(Cell {
            key: row.key.clone(),
            slice_to: AtomicI32::new(row.slice_to),
            standing: Mutex::default(),
            counts: Mutex::default(),
            state: Mutex::new(ConsumerState::Starting),
            moved: Mutex::new(Instant::now()),
            first: Mutex::new(None),
            changed: self.changed.clone(),
        })
    }

    /// Each consumer, over all its lanes.
    pub(crate) fn summaries(&self) -> Vec<Summary> {
        let cells = self.cells();
        let mut lanes: HashMap<&ConsumerId, Vec<&Arc<Cell>>> = HashMap::new();
        for cell in &cells {
            lanes.entry(&cell.key.consumer).or_default().push(cell);
        }
        self.consumers
            .iter()
            .map(|consumer| {
                let own = lanes.get(consumer).map_or(&[][..], Vec::as_slice);
                summary(consumer, own.iter().copied())
            })
            .collect()
    }

    /// Notes that lanes ended in the middle of something.
    pub(crate) fn shut_down(&self) {
        for cell in self.cells() {
            if matches!(
                cell.state(),
                ConsumerState::Starting
                    | ConsumerState::Running
                    | ConsumerState::Retrying { .. }
                    | ConsumerState::Waiting { .. }
            ) {
                cell.set_state(ConsumerState::ShutDown);
            }
        }
    }

    /// The last time that the log was looked at, or that this was tried.
    pub(crate) fn last_beat(&self) -> Option<Beat> {
        let beat = self.beat.lock().unwrap_or_else(PoisonError::into_inner);
        beat.clone()
    }

    pub(crate) fn set_beat(&self, settled: i64, trouble: Option<String>) {
        let now = Instant::now();
        self.note_settled(now, settled);
        let beat = Beat { at: now, trouble };
        *self.beat.lock().unwrap_or_else(PoisonError::into_inner) = Some(beat);
    }

    /// Keeps one look of many: sixteen in the time after which a lane is stalled.
    fn note_settled(&self, now: Instant, settled: i64) {
        let mut looks = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |last: &(Instant, i64)| now - last.0 >= self.stall_after / 16;
        // A log that was taken back by a crash leaves nothing of what was seen before.
        if looks.back().is_some_and(|&(_, last)| settled < last) {
            looks.clear();
        }
        if looks.back().is_none_or(is_due) {
            looks.push_back((now, settled));
        }
        while looks
            .get(1)
            .is_some_and(|&(at, _)| now - at >= self.stall_after)
        {
            looks.pop_front();
        }
    }

    /// How long the lane has had something to handle and has not moved, when that is too long.
    ///
    /// A lane that waited for an hour until an event came is not late by that hour: what counts is
    /// what was settled that long ago already.
    pub(crate) fn stalled(&self, cell: &Cell) -> Option<Duration> {
        let looks = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let &(at, settled) = looks.front()?;
        drop(looks);
        let since = cell.idle().min(at.elapsed());
        let is_behind = cell.place().is_some_and(|place| place.after < settled);
        (is_behind && since > self.stall_after).then_some(since)
    }

    /// How the worker's run was over; `None` before that.
    pub(crate) fn end(&self) -> Option<Ended> {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.clone()
    }

    pub(crate) fn set_end(&self, end: Ended) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        self.tell();
    }

    /// Lets everyone who waits look again.
    pub(crate) fn tell(&self) {
        self.changed.send_replace(());
    }

    pub(crate) fn frontier_wait(&self) -> Option<FrontierWait> {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_frontier_wait(&self, wait: Option<FrontierWait>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = wait;
    }

    /// Waits until something on the board makes the condition hold.
    pub(crate) async fn until(&self, mut holds: impl FnMut(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        while !holds(self) {
            // The sender lives as long as the board.
            let _ = changed.changed().await;
        }
    }
}

fn summary<'a>(
    consumer: &ConsumerId,
    cells: impl Iterator<Item = &'a Arc<Cell>> + Clone,
) -> Summary {
    // A lane that has not seen its checkpoint makes the whole unknown.
    let positions: Option<Vec<i64>> = cells
        .clone()
        .map(|cell| cell.place().map(|place| place.after))
        .collect();
    let counts = cells.clone().map(|cell| cell.counts());
    Summary {
        consumer: consumer.clone(),
        position: positions.and_then(|positions| positions.into_iter().min()),
        counts: counts.fold(Counts::default(), Add::add),
        state: cells
            .map(|cell| cell.state())
            .max_by_key(ConsumerState::severity)
            .unwrap_or(ConsumerState::Starting),
    }
}
