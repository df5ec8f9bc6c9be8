//! Lets the lanes sleep whose scope has nothing new: one task looks at the tail of the log for all
//! of them, and wakes those that it concerns.
//!
//! So an append costs a lane that it does not concern nothing at all: the lanes asleep share how far
//! the log was looked through, and are found by the types of the events.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::backend::{Backend, Incarnation, Observation};
use crate::worker::context::Shared;
use crate::worker::log::LogRange;
use crate::worker::progress::Cell;

/// The sleeping lanes of a worker, and how far the log was looked through for them.
#[derive(Default)]
pub(crate) struct Idle {
    room: Mutex<Room>,
}

#[derive(Default)]
struct Room {
    incarnation: Incarnation,
    /// Those who sleep stand here, or further.
    looked: Arc<AtomicI64>,
    sleepers: HashMap<u64, Sleeper>,
    by_type: HashMap<Arc<str>, BTreeSet<u64>>,
    last: u64,
}

struct Sleeper {
    cell: Arc<Cell>,
    scope: Arc<[Arc<str>]>,
    wake: Arc<Notify>,
}

/// A lane asleep; it wakes up for good when this is dropped.
pub(crate) struct Sleep<'a> {
    rest: &'a Idle,
    number: u64,
    wake: Arc<Notify>,
}

impl Idle {
    /// Puts a lane to sleep that has nothing in its scope up to `after`, where its cell stands.
    /// `None` when more than that has been looked through, or in another incarnation of the server: then
    /// it is to go on by itself.
    pub(crate) fn sleep(
        &self,
        cell: &Arc<Cell>,
        scope: &Arc<[Arc<str>]>,
        after: i64,
        incarnation: Incarnation,
    ) -> Option<Sleep<'_>> {
        let mut room = self.lock();
        if room.incarnation != incarnation || after < room.looked() {
            return None;
        }
        let wake = Arc::new(Notify::new());
        let sleeper = Sleeper {
            cell: Arc::clone(cell),
            scope: Arc::clone(scope),
            wake: Arc::clone(&wake),
        };
        let number = room.add(sleeper);
        Some(Sleep {
            rest: self,
            number,
            wake,
        })
    }

    /// Where to look next; `None` when nobody sleeps or everything is looked through.
    fn next(&self, seen: &Observation) -> Option<i64> {
        let mut room = self.lock();
        if room.incarnation != seen.incarnation {
            room.wake_all();
            room.incarnation = seen.incarnation;
            room.looked = Arc::new(AtomicI64::new(seen.settled));
        } else if room.sleepers.is_empty() {
            room.look_up_to(seen.settled);
        }
        let looked = room.looked();
        (looked < seen.settled).then_some(looked)
    }

    /// Wakes the lanes that a range may concern, and moves the others along; says whether there
    /// were others.
    fn pass(&self, range: &LogRange, incarnation: Incarnation) -> bool {
        let mut room = self.lock();
        if room.incarnation != incarnation {
            return false;
        }
        room.wake_for(range);
        room.look_up_to(range.to);
        !room.sleepers.is_empty()
    }

    fn wake_all(&self) {
        self.lock().wake_all();
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    fn looked(&self) -> i64 {
        self.looked.load(Ordering::Relaxed)
    }

    fn look_up_to(&self, position: i64) {
        self.looked.fetch_max(position, Ordering::Relaxed);
    }

    fn add(&mut self, sleeper: Sleeper) -> u64 {
        self.last += 1;
        sleeper.cell.follow(Arc::clone(&self.looked));
        for name in &*sleeper.scope {
            let of_type = self.by_type.entry(Arc::clone(name)).or_default();
            of_type.insert(self.last);
        }
        self.sleepers.insert(self.last, sleeper);
        self.last
    }

    /// Takes a lane out, where it stands now.
    fn remove(&mut self, number: u64) -> Option<Sleeper> {
        let sleeper = self.sleepers.remove(&number)?;
        for name in &*sleeper.scope {
            if let Some(of_type) = self.by_type.get_mut(name) {
                of_type.remove(&number);
                if of_type.is_empty() {
                    self.by_type.remove(name);
                }
            }
        }
        sleeper.cell.stand_still();
        Some(sleeper)
    }

    /// Wakes those who want a type of the range and do not stand behind it already.
    fn wake_for(&mut self, range: &LogRange) {
        let kinds = range.kinds().iter();
        let wanting: BTreeSet<u64> = kinds
            .filter_map(|kind| self.by_type.get(kind))
            .flatten()
            .copied()
            .filter(|number| {
                let place = self.sleepers.get(number).and_then(|one| one.cell.place());
                place.is_none_or(|place| place.after < range.to)
            })
            .collect();
        for number in wanting {
            self.wake(number);
        }
    }

    fn wake_all(&mut self) {
        let all: Vec<u64> = self.sleepers.keys().copied().collect();
        for number in all {
            self.wake(number);
        }
    }

    fn wake(&mut self, number: u64) {
        if let Some(sleeper) = self.remove(number) {
            sleeper.wake.notify_one();
        }
    }
}

impl Sleep<'_> {
    /// Waits until something may be in the lane's scope.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        self.rest.lock().remove(self.number);
    }
}

/// Looks through what is new for the lanes that sleep, until the worker stops.
pub(crate) async fn watch<DB: Backend>(shared: Arc<Shared<DB>>) {
    let mut frontier = shared.frontier.clone();
    loop {
        let seen = frontier.borrow_and_update().clone();
        look_through(&shared, &seen).await;
        tokio::select! {
            changed = frontier.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = shared.stopped() => return,
        }
    }
}

async fn look_through<DB: Backend>(shared: &Shared<DB>, seen: &Observation) {
    while let Some(after) = shared.rest.next(seen) {
        match shared
            .log
            .read(after, seen.settled, seen.incarnation, 0)
            .await
        {
            Ok(range) => {
                if shared.rest.pass(&range, seen.incarnation) {
                    shared.board.tell();
                }
            }
            Err(_) => {
                // They read for themselves, and deal with what is wrong.
                shared.rest.wake_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::time::Duration;

    use super::*;
    use crate::backend::ConsumerId;
    use crate::backend::{Checkpoint, SegmentId, State};
    use crate::contract::{EventRecord, PersistedEvent};
    use crate::worker::progress::{LaneBoard, Place};

    fn cell() -> Arc<Cell> {
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
            replay_to: 0,
            hold_at: None,
            attempts: 0,
            failed_position: None,
            error: None,
        };
        let board = LaneBoard::new(Vec::new(), Duration::MAX);
        let [cell] = board.seat(&[&row]).try_into().unwrap();
        stand_at(&cell, 10);
        cell
    }

    fn stand_at(cell: &Cell, after: i64) {
        cell.set_place(Some(Place {
            incarnation: Incarnation::default(),
            slice_to: 1024,
            epoch: 0,
            checkpoint: 0,
            after,
        }));
    }

    fn at(cell: &Cell) -> i64 {
        cell.place().unwrap().after
    }

    fn range(after: i64, to: i64, kind: &str) -> LogRange {
        let event = PersistedEvent::new(EventRecord {
            global_position: to,
            aggregate_type: kind.into(),
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

    const LIFE: Incarnation = Incarnation {
        started: 0,
        recovered: 0,
    };

    #[test]
    fn who_sleeps_moves_with_what_was_looked_through_and_wakes_before_its_own_event() {
        let (rest, cell) = (Idle::default(), cell());
        let sleep = rest.sleep(&cell, &users(), 10, LIFE).unwrap();
        assert!(rest.pass(&range(10, 20, "Order"), LIFE));
        assert_eq!(at(&cell), 20);
        assert!(!is_woken(&sleep));
        assert!(!rest.pass(&range(20, 30, "Admin"), LIFE));
        assert!(is_woken(&sleep));
        assert_eq!(at(&cell), 20, "the event is still to be handled");
        drop(sleep);
        assert!(!rest.pass(&range(30, 40, "Order"), LIFE));
        assert_eq!(at(&cell), 20, "it does not sleep any more");
    }

    #[test]
    fn who_is_further_than_what_was_looked_through_sleeps_on() {
        let (rest, cell) = (Idle::default(), cell());
        stand_at(&cell, 30);
        let sleep = rest.sleep(&cell, &users(), 30, LIFE).unwrap();
        assert!(rest.pass(&range(10, 20, "User"), LIFE));
        assert!(!is_woken(&sleep));
        assert_eq!(at(&cell), 30);
    }

    #[test]
    fn who_is_behind_what_was_looked_through_may_not_sleep() {
        let (rest, cell) = (Idle::default(), cell());
        rest.pass(&range(0, 20, "User"), LIFE);
        assert!(rest.sleep(&cell, &users(), 10, LIFE).is_none());
    }

    #[test]
    fn who_ends_its_sleep_stays_where_it_was_moved_to() {
        let (rest, cell) = (Idle::default(), cell());
        let sleep = rest.sleep(&cell, &users(), 10, LIFE).unwrap();
        rest.pass(&range(10, 20, "Order"), LIFE);
        drop(sleep);
        rest.pass(&range(20, 30, "User"), LIFE);
        assert_eq!(at(&cell), 20);
    }

    #[test]
    fn another_life_of_the_server_wakes_everybody_and_moves_nobody() {
        let (rest, cell) = (Idle::default(), cell());
        let sleep = rest.sleep(&cell, &users(), 10, LIFE).unwrap();
        let incarnation = Incarnation { started: 1, ..LIFE };
        let seen = Observation {
            settled: 500,
            head: 500,
            incarnation,
            waiting: false,
            more: false,
        };
        assert_eq!(rest.next(&seen), None);
        assert!(is_woken(&sleep));
        assert_eq!(at(&cell), 10);
        assert!(!rest.pass(&range(10, 20, "Order"), LIFE));
        assert_eq!(at(&cell), 10);
    }
}
