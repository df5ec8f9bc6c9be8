//! Lets the lanes sleep whose scope has nothing new: one task looks at the tail of the log for all
//! of them, and wakes those that it concerns.
//!
//! So an append costs a lane that it does not concern a look at its scope, not a turn of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::board::Cell;
use super::dialect::{Observation, ServerLife, WorkerBackend};
use super::log::Stretch;
use super::shared::Shared;

/// The sleeping lanes of a worker, and how far the log was looked through for them.
#[derive(Default)]
pub(crate) struct Rest {
    room: Mutex<Room>,
}

#[derive(Default)]
struct Room {
    life: ServerLife,
    looked: i64,
    sleepers: BTreeMap<u64, Sleeper>,
    last: u64,
}

struct Sleeper {
    cell: Arc<Cell>,
    scope: Arc<[Arc<str>]>,
    wake: Arc<Notify>,
}

/// A lane asleep; it wakes up for good when this is dropped.
pub(crate) struct Sleep<'a> {
    rest: &'a Rest,
    number: u64,
    wake: Arc<Notify>,
}

impl Rest {
    /// Puts a lane to sleep that has nothing in its scope up to `after`, where its cell stands.
    /// `None` when more than that has been looked through, or in another life of the server: then
    /// it is to go on by itself.
    pub(crate) fn sleep(
        &self,
        cell: &Arc<Cell>,
        scope: &Arc<[Arc<str>]>,
        after: i64,
        life: ServerLife,
    ) -> Option<Sleep<'_>> {
        let mut room = self.lock();
        if room.life != life || after < room.looked {
            return None;
        }
        let wake = Arc::new(Notify::new());
        room.last += 1;
        let number = room.last;
        let sleeper = Sleeper {
            cell: Arc::clone(cell),
            scope: Arc::clone(scope),
            wake: Arc::clone(&wake),
        };
        room.sleepers.insert(number, sleeper);
        Some(Sleep {
            rest: self,
            number,
            wake,
        })
    }

    /// Where to look next; `None` when nobody sleeps or everything is looked through.
    fn next(&self, seen: &Observation) -> Option<i64> {
        let mut room = self.lock();
        if room.life != seen.life {
            room.wake_all();
            room.life = seen.life;
            room.looked = seen.settled;
        } else if room.sleepers.is_empty() {
            room.looked = room.looked.max(seen.settled);
        }
        (room.looked < seen.settled).then_some(room.looked)
    }

    /// Wakes the lanes that a stretch may concern, and moves the others along; says whether there
    /// were others.
    fn pass(&self, stretch: &Stretch, life: ServerLife) -> bool {
        let mut room = self.lock();
        if room.life != life {
            return false;
        }
        let mut moved = false;
        room.sleepers.retain(|_, sleeper| {
            let at = sleeper.cell.place().map_or(-1, |place| place.after);
            if at >= stretch.to {
                return true;
            }
            if stretch.may_match(&sleeper.scope) {
                sleeper.wake.notify_one();
                return false;
            }
            moved = true;
            sleeper.cell.pass_to(stretch.to);
            true
        });
        room.looked = room.looked.max(stretch.to);
        moved
    }

    fn wake_all(&self) {
        self.lock().wake_all();
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    fn wake_all(&mut self) {
        for sleeper in std::mem::take(&mut self.sleepers).into_values() {
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
        self.rest.lock().sleepers.remove(&self.number);
    }
}

/// Looks through what is new for the lanes that sleep, until the worker stops.
pub(crate) async fn watch<DB: WorkerBackend>(shared: Arc<Shared<DB>>) {
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

async fn look_through<DB: WorkerBackend>(shared: &Shared<DB>, seen: &Observation) {
    while let Some(after) = shared.rest.next(seen) {
        match shared.log.read(after, seen.settled, seen.life).await {
            Ok(stretch) => {
                if shared.rest.pass(&stretch, seen.life) {
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
