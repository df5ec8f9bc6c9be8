//! Processes that are killed and started again at random moments while a test runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::{WorkerProcess, until};

/// Processes, of which one after the other is killed and started again.
pub struct Restarts {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    members: Mutex<Members>,
    /// How many kills there were.
    kills: AtomicU64,
    is_hurried: AtomicBool,
    is_over: AtomicBool,
}

struct Members {
    random: fastrand::Rng,
    named: BTreeMap<&'static str, Member>,
}

struct Member {
    spawn: Box<dyn Fn() -> WorkerProcess + Send>,
    process: WorkerProcess,
    may_end: bool,
}

impl Member {
    fn restart(&mut self, name: &str) {
        let has_ended = self.process.has_ended();
        assert!(self.may_end || !has_ended, "{name} has ended by itself");
        // The old process is killed, and gone, when its value goes.
        self.process = (self.spawn)();
    }
}

impl Members {
    fn restart_any(&mut self) -> u64 {
        let names: Vec<_> = self.named.keys().copied().collect();
        let Some(name) = self.random.choice(names) else {
            return 0;
        };
        let member = self.named.get_mut(name).expect("one of them");
        member.restart(name);
        1
    }
}

impl Shared {
    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().expect("no process ended by itself")
    }

    /// Kills until it is over.
    fn run(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            let milliseconds = if self.is_hurried.load(Ordering::Relaxed) {
                10..150
            } else {
                200..1500
            };
            let pause = self.members().random.u64(milliseconds);
            thread::sleep(Duration::from_millis(pause));
            self.restart_any();
        }
    }

    fn restart_any(&self) {
        let killed = self.members().restart_any();
        self.kills.fetch_add(killed, Ordering::Relaxed);
    }
}

impl Restarts {
    /// Begins, without a process, and prints the seed of the random numbers, which `TEST_SEED` sets.
    #[must_use]
    pub fn begin() -> Self {
        let seed = std::env::var("TEST_SEED").ok();
        let seed = seed.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("a number"));
        println!("restarts with TEST_SEED={seed}");
        let members = Members {
            random: fastrand::Rng::with_seed(seed),
            named: BTreeMap::new(),
        };
        let shared = Arc::new(Shared {
            members: Mutex::new(members),
            kills: AtomicU64::new(0),
            is_hurried: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        });
        let running = Arc::clone(&shared);
        let thread = Some(thread::spawn(move || running.run()));
        Self { shared, thread }
    }

    /// Starts a process, which is killed and started again from now on.
    pub fn add(&self, name: &'static str, spawn: impl Fn() -> WorkerProcess + Send + 'static) {
        let member = Member {
            process: spawn(),
            spawn: Box::new(spawn),
            may_end: false,
        };
        let before = self.shared.members().named.insert(name, member);
        assert!(before.is_none(), "{name} is running");
    }

    /// Allows a process to end by itself from now on.
    pub fn may_end(&self, name: &str) {
        let mut members = self.shared.members();
        members.named.get_mut(name).expect("a process").may_end = true;
    }

    /// The process of that name, which is no longer killed.
    #[must_use]
    pub fn leave(&self, name: &str) -> WorkerProcess {
        let member = self.shared.members().named.remove(name);
        member.expect("a process").process
    }

    /// Kills one of the processes, and starts it again.
    pub fn restart_any(&self) {
        self.shared.restart_any();
    }

    /// Takes a step while processes are killed in quick succession, before it and after it.
    pub async fn during<T>(&self, step: impl AsyncFnOnce() -> T) -> T {
        self.shared.is_hurried.store(true, Ordering::Relaxed);
        self.next_kill().await;
        let done = step().await;
        self.next_kill().await;
        self.shared.is_hurried.store(false, Ordering::Relaxed);
        done
    }

    async fn next_kill(&self) {
        let kills = || self.shared.kills.load(Ordering::Relaxed);
        let before = kills();
        until("a process is killed", async || kills() > before).await;
    }

    /// Ends the restarts, and tells how many there were.
    #[must_use]
    pub fn end(mut self) -> u64 {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))), "no process ended by itself");
        self.shared.kills.load(Ordering::Relaxed)
    }
}

impl Drop for Restarts {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}
