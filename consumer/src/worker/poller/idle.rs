//! Lets lanes sleep whose scope has nothing new: one task scans the tail of the log for all of them
//! and wakes those that have an event.
//!
//! An append therefore costs nothing for the lanes that it does not concern: idle lanes share one
//! position up to which the log was scanned, and are looked up by the types of the events.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::backend::{Backend, Incarnation, Observation};
use crate::worker::log::Log;
use crate::worker::log::range::LogRange;
use crate::worker::progress::lane::LaneProgress;
use crate::worker::progress::worker::WorkerProgress;

/// The idle lanes of a worker, and how far the log was scanned for them.
#[derive(Default)]
pub(crate) struct IdleLanes(Mutex<Table>);

#[derive(Default)]
struct Table {
    incarnation: Incarnation,
    /// Idle lanes are at this position, or beyond.
    scanned: Arc<AtomicI64>,
    lanes: HashMap<u64, IdleLane>,
    by_type: HashMap<Arc<str>, BTreeSet<u64>>,
    last_number: u64,
}

struct IdleLane {
    progress: Arc<LaneProgress>,
    scope: Arc<[Arc<str>]>,
    wake: Arc<Notify>,
}

/// Keeps a lane idle until it is dropped.
pub(crate) struct Sleep<'a> {
    idle: &'a IdleLanes,
    number: u64,
    wake: Arc<Notify>,
}

impl IdleLanes {
    /// Adds a lane that has no event in scope up to `after`, its current position. Returns `None`
    /// if the log was scanned beyond that or in another incarnation of the server: then the lane has
    /// to read on by itself.
    pub(crate) fn sleep(
        &self,
        progress: &Arc<LaneProgress>,
        scope: &Arc<[Arc<str>]>,
        after: i64,
        incarnation: Incarnation,
    ) -> Option<Sleep<'_>> {
        let mut table = self.0.lock();
        if table.incarnation != incarnation || after < table.scanned() {
            return None;
        }
        let wake = Arc::new(Notify::new());
        let number = table.add(IdleLane {
            progress: Arc::clone(progress),
            scope: Arc::clone(scope),
            wake: Arc::clone(&wake),
        });
        Some(Sleep {
            idle: self,
            number,
            wake,
        })
    }

    /// The position to scan from; `None` if no lane is idle or everything is scanned.
    fn scan_from(&self, observed: &Observation) -> Option<i64> {
        let mut table = self.0.lock();
        if table.incarnation != observed.incarnation {
            table.wake_all();
            table.incarnation = observed.incarnation;
            table.scanned = Arc::new(AtomicI64::new(observed.settled));
        } else if table.lanes.is_empty() {
            table.set_scanned(observed.settled);
        }
        let scanned = table.scanned();
        (scanned < observed.settled).then_some(scanned)
    }

    /// Wakes the lanes that may have an event in the range and advances the others; returns whether
    /// there were others.
    fn pass(&self, range: &LogRange, incarnation: Incarnation) -> bool {
        let mut table = self.0.lock();
        if table.incarnation != incarnation {
            return false;
        }
        table.wake_for(range);
        table.set_scanned(range.to);
        !table.lanes.is_empty()
    }

    fn wake_all(&self) {
        self.0.lock().wake_all();
    }
}

impl Table {
    fn scanned(&self) -> i64 {
        self.scanned.load(Ordering::Relaxed)
    }

    fn set_scanned(&self, position: i64) {
        self.scanned.fetch_max(position, Ordering::Relaxed);
    }

    fn add(&mut self, lane: IdleLane) -> u64 {
        self.last_number += 1;
        lane.progress.follow(Arc::clone(&self.scanned));
        for aggregate_type in &*lane.scope {
            let of_type = self.by_type.entry(Arc::clone(aggregate_type)).or_default();
            of_type.insert(self.last_number);
        }
        self.lanes.insert(self.last_number, lane);
        self.last_number
    }

    /// Removes a lane, which keeps the position it has reached.
    fn remove(&mut self, number: u64) -> Option<IdleLane> {
        let lane = self.lanes.remove(&number)?;
        for aggregate_type in &*lane.scope {
            if let Some(of_type) = self.by_type.get_mut(aggregate_type) {
                of_type.remove(&number);
                if of_type.is_empty() {
                    self.by_type.remove(aggregate_type);
                }
            }
        }
        lane.progress.stop_following();
        Some(lane)
    }

    /// Wakes the lanes that want a type of the range and are not beyond it.
    fn wake_for(&mut self, range: &LogRange) {
        if range.is_of_any_type() {
            return self.wake_all();
        }
        let is_before_end = |number: &u64| {
            let lane = self.lanes.get(number);
            let cursor = lane.and_then(|lane| lane.progress.cursor());
            cursor.is_none_or(|cursor| cursor.after < range.to)
        };
        let types = range.aggregate_types().iter();
        let wanting: BTreeSet<u64> = types
            .filter_map(|aggregate_type| self.by_type.get(aggregate_type))
            .flatten()
            .copied()
            .filter(is_before_end)
            .collect();
        for number in wanting {
            self.wake(number);
        }
    }

    fn wake_all(&mut self) {
        let all: Vec<u64> = self.lanes.keys().copied().collect();
        for number in all {
            self.wake(number);
        }
    }

    fn wake(&mut self, number: u64) {
        if let Some(lane) = self.remove(number) {
            lane.wake.notify_one();
        }
    }
}

impl Sleep<'_> {
    /// Waits until there may be an event in the lane's scope.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        self.idle.0.lock().remove(self.number);
    }
}

/// Scans what is new for idle lanes, as long as the worker polls.
pub(crate) async fn scan<DB: Backend>(
    log: &Log<DB>,
    idle: &IdleLanes,
    progress: &WorkerProgress,
    mut frontier: watch::Receiver<Observation>,
) {
    loop {
        let observed = frontier.borrow_and_update().clone();
        while let Some(after) = idle.scan_from(&observed) {
            let (settled, incarnation) = (observed.settled, observed.incarnation);
            match log.read(after, settled, incarnation, 0).await {
                Ok(range) => {
                    if idle.pass(&range, incarnation) {
                        progress.notify();
                    }
                }
                // The lanes read for themselves, and deal with the error.
                Err(_) => idle.wake_all(),
            }
        }
        if frontier.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::{Checkpoint, ConsumerId, NamedEvents, SegmentId, State};
    use crate::contract::{EventRecord, PersistedEvent};
    use crate::worker::progress::lane::Cursor;

    fn lane() -> Arc<LaneProgress> {
        let row = Checkpoint {
            key: SegmentId {
                consumer: ConsumerId {
                    name: "c".into(),
                    version: 1,
                },
                slice_from: 0,
            },
            slice_to: 1024,
            position: 0,
            epoch: 0,
            scope: "User".into(),
            state: State::Running,
            began: 0,
            hold_at: None,
            attempts: 0,
            failed_position: None,
            error: None,
            failed_releases: None,
            unknown: None,
        };
        let worker = WorkerProgress::new(Vec::new(), Duration::MAX);
        let [lane] = worker.update_lanes(&[&row]).added.try_into().unwrap();
        move_to(&lane, 10);
        lane
    }

    fn move_to(lane: &LaneProgress, after: i64) {
        lane.set_cursor(Some(Cursor {
            incarnation: Incarnation::default(),
            slice_to: 1024,
            epoch: 0,
            checkpoint: 0,
            after,
            excluded: NamedEvents::default(),
        }));
    }

    fn at(lane: &LaneProgress) -> i64 {
        lane.cursor().unwrap().after
    }

    fn range(after: i64, to: i64, aggregate_type: &str) -> LogRange {
        let event = PersistedEvent::new(EventRecord {
            global_position: to,
            aggregate_type: aggregate_type.into(),
            ..EventRecord::default()
        });
        LogRange::new(after, to, vec![event])
    }

    fn users() -> Arc<[Arc<str>]> {
        Arc::new(["User".into(), "Admin".into()])
    }

    fn is_woken(sleep: &Sleep<'_>) -> bool {
        use futures_util::FutureExt as _;
        sleep.woken().now_or_never().is_some()
    }

    const FIRST: Incarnation = Incarnation {
        started: 0,
        recovered: 0,
    };

    #[test]
    fn an_idle_lane_follows_the_scan_and_wakes_before_its_event() {
        let (idle, lane) = (IdleLanes::default(), lane());
        let sleep = idle.sleep(&lane, &users(), 10, FIRST).unwrap();
        assert!(idle.pass(&range(10, 20, "Order"), FIRST));
        assert_eq!(at(&lane), 20);
        assert!(!is_woken(&sleep));
        assert!(!idle.pass(&range(20, 30, "Admin"), FIRST));
        assert!(is_woken(&sleep));
        assert_eq!(at(&lane), 20, "the event is still to be handled");
        drop(sleep);
        assert!(!idle.pass(&range(30, 40, "Order"), FIRST));
        assert_eq!(at(&lane), 20, "it is no longer idle");
    }

    #[test]
    fn a_lane_beyond_the_scan_sleeps_on() {
        let (idle, lane) = (IdleLanes::default(), lane());
        move_to(&lane, 30);
        let sleep = idle.sleep(&lane, &users(), 30, FIRST).unwrap();
        assert!(idle.pass(&range(10, 20, "User"), FIRST));
        assert!(!is_woken(&sleep));
        assert_eq!(at(&lane), 30);
    }

    #[test]
    fn a_lane_behind_the_scan_may_not_sleep() {
        let (idle, lane) = (IdleLanes::default(), lane());
        idle.pass(&range(0, 20, "User"), FIRST);
        assert!(idle.sleep(&lane, &users(), 10, FIRST).is_none());
    }

    #[test]
    fn a_lane_that_stops_sleeping_keeps_its_position() {
        let (idle, lane) = (IdleLanes::default(), lane());
        let sleep = idle.sleep(&lane, &users(), 10, FIRST).unwrap();
        idle.pass(&range(10, 20, "Order"), FIRST);
        drop(sleep);
        idle.pass(&range(20, 30, "User"), FIRST);
        assert_eq!(at(&lane), 20);
    }

    #[test]
    fn another_incarnation_wakes_all_lanes_and_advances_none() {
        let (idle, lane) = (IdleLanes::default(), lane());
        let sleep = idle.sleep(&lane, &users(), 10, FIRST).unwrap();
        let incarnation = Incarnation {
            started: 1,
            ..FIRST
        };
        let observed = Observation {
            settled: 500,
            head: 500,
            incarnation,
            waiting: false,
            more: false,
        };
        assert_eq!(idle.scan_from(&observed), None);
        assert!(is_woken(&sleep));
        assert_eq!(at(&lane), 10);
        assert!(!idle.pass(&range(10, 20, "Order"), FIRST));
        assert_eq!(at(&lane), 10);
    }
}
