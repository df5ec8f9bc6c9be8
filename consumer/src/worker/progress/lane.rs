//! How far one lane is and what it is doing.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::backend::{Checkpoint, Incarnation, NamedEvents, SegmentId};
use crate::contract::Context;
use crate::worker::progress::state::ConsumerState;
use crate::worker::progress::tally::Tally;

/// Where a lane is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The incarnation of the server that this is based on.
    pub(crate) incarnation: Incarnation,
    /// The slice after the row's last one.
    pub(crate) slice_to: i32,
    /// The rebuild that this belongs to.
    pub(crate) epoch: i64,
    /// The checkpoint when it was last read or saved.
    pub(crate) checkpoint: i64,
    /// No event in scope lies between the checkpoint and this position.
    pub(crate) after: i64,
    /// The events between them that the row names, and that the lane has found to be out of scope.
    pub(crate) excluded: NamedEvents,
}

impl Cursor {
    /// Whether the lane has passed an event that its row names, without having seen it.
    pub(crate) fn has_passed_unseen(&self, named: NamedEvents) -> bool {
        let mut unseen = named.without(self.excluded).positions();
        unseen.any(|next| self.checkpoint < next && next <= self.after)
    }
}

/// The first event in the scope of a lane that it has not handled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstPending {
    /// The position of the lane.
    pub(crate) after: i64,
    /// How far the log was searched.
    pub(crate) up_to: i64,
    /// When the event was appended; `None` if there was none up to there.
    pub(crate) created_at: Option<DateTime<Utc>>,
    /// Whether it could not be decoded when it was read.
    pub(crate) is_unreadable: bool,
}

impl FirstPending {
    /// How old the event is; zero if there is none.
    pub(crate) fn age(&self) -> Duration {
        let age = self.created_at.map(|at| Utc::now() - at);
        age.and_then(|age| age.to_std().ok()).unwrap_or_default()
    }
}

/// How far one lane is and what it is doing.
#[derive(Debug)]
pub(crate) struct LaneProgress {
    pub(crate) key: SegmentId,
    current: Mutex<Current>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Current {
    /// The slice after the row's last one, which its lane may not know yet.
    slice_to: i32,
    cursor: Option<Cursor>,
    /// How far the log was scanned for idle lanes, while the lane is one of them.
    scanned: Option<Arc<AtomicI64>>,
    state: ConsumerState,
    tally: Tally,
    /// When the lane last did something; in the future while it has a reason to wait.
    active_at: Instant,
    first_pending: Option<FirstPending>,
    /// The deleted events that the lane has passed.
    missing: Option<RangeInclusive<i64>>,
    /// The context that its handler was called with, while it is running.
    handling: Option<Arc<Context>>,
}

impl Current {
    fn cursor(&self) -> Option<Cursor> {
        let scanned = self.scanned.as_ref();
        let scanned = scanned.map_or(i64::MIN, |scanned| scanned.load(Ordering::Relaxed));
        self.cursor.map(|cursor| Cursor {
            after: cursor.after.max(scanned),
            ..cursor
        })
    }
}

impl LaneProgress {
    pub(super) fn new(row: &Checkpoint, changed: watch::Sender<()>) -> Self {
        Self {
            key: row.key.clone(),
            current: Mutex::new(Current {
                slice_to: row.slice_to,
                cursor: None,
                scanned: None,
                state: ConsumerState::Starting,
                tally: Tally::default(),
                active_at: Instant::now(),
                first_pending: None,
                missing: None,
                handling: None,
            }),
            changed,
        }
    }

    /// Where the lane is; `None` until it has seen its checkpoint.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        self.current.lock().cursor()
    }

    pub(crate) fn set_cursor(&self, cursor: Option<Cursor>) {
        let mut current = self.current.lock();
        let before = current.cursor();
        // A lane that does not know yet that its row is wider knows nothing of the new part.
        current.cursor = cursor.filter(|cursor| cursor.slice_to == current.slice_to);
        current.scanned = None;
        if before != current.cursor {
            current.active_at = Instant::now();
            drop(current);
            self.changed.send_replace(());
        }
    }

    /// Records the width of the row, possibly before its lane sees it.
    pub(super) fn resize(&self, slice_to: i32) {
        let mut current = self.current.lock();
        current.slice_to = slice_to;
        current.cursor = current.cursor.filter(|cursor| cursor.slice_to == slice_to);
    }

    /// From now on the lane has no event in scope up to where the log was scanned.
    pub(crate) fn follow(&self, scanned: Arc<AtomicI64>) {
        self.current.lock().scanned = Some(scanned);
    }

    /// The lane stays where it is now.
    pub(crate) fn stop_following(&self) {
        let mut current = self.current.lock();
        current.cursor = current.cursor();
        current.scanned = None;
        current.active_at = Instant::now();
    }

    /// Records until when the lane has a reason to do nothing.
    pub(crate) fn expect_pause_until(&self, end: Instant) {
        self.current.lock().active_at = end;
    }

    /// How long the lane has done nothing without a reason.
    pub(super) fn inactive_for(&self) -> Duration {
        self.current.lock().active_at.elapsed()
    }

    pub(crate) fn set_first_pending(&self, first: FirstPending) {
        self.current.lock().first_pending = Some(first);
    }

    /// The first pending event after a position, up to another, if it is known.
    pub(crate) fn first_pending(&self, after: i64, up_to: i64) -> Option<FirstPending> {
        let first = self.current.lock().first_pending;
        first.filter(|first| {
            first.after == after && (first.created_at.is_some() || first.up_to >= up_to)
        })
    }

    /// Adds deleted events that the lane passes; false if they are known.
    pub(crate) fn add_missing(&self, missing: &RangeInclusive<i64>) -> bool {
        let mut current = self.current.lock();
        let known = current.missing.clone();
        let known = known.unwrap_or_else(|| missing.clone());
        let all = *known.start().min(missing.start())..=*known.end().max(missing.end());
        let is_new = current.missing.as_ref() != Some(&all);
        current.missing = Some(all);
        is_new
    }

    pub(super) fn missing(&self) -> Option<RangeInclusive<i64>> {
        self.current.lock().missing.clone()
    }

    /// Records that a handler is running, until the guard is dropped.
    pub(crate) fn enter_handler(&self, cx: &Arc<Context>) -> Handling<'_> {
        self.current.lock().handling = Some(Arc::clone(cx));
        Handling(self)
    }

    /// The context that the handler of the lane was called with, if it is running.
    pub(crate) fn handling(&self) -> Option<Arc<Context>> {
        self.current.lock().handling.clone()
    }

    pub(crate) fn add(&self, tally: Tally) {
        self.current.lock().tally += tally;
    }

    pub(super) fn tally(&self) -> Tally {
        self.current.lock().tally
    }

    pub(crate) fn state(&self) -> ConsumerState {
        self.current.lock().state.clone()
    }

    pub(crate) fn set_state(&self, state: ConsumerState) {
        let mut current = self.current.lock();
        if current.state != state {
            current.state = state;
            current.active_at = Instant::now();
            drop(current);
            self.changed.send_replace(());
        }
    }
}

/// A handler that is running.
pub(crate) struct Handling<'a>(&'a LaneProgress);

impl Drop for Handling<'_> {
    fn drop(&mut self) {
        self.0.current.lock().handling = None;
    }
}
