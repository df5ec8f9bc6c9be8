//! Runs handlers on the core of the connection they write on.
//!
//! sqlx runs each SQLite connection on a thread of its own, so every statement is a round trip to
//! another thread. Between two cores, most of that is the time it takes to wake the other one; on
//! one core it is a context switch, and the same loop runs several times as fast.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{Id, JoinSet};

use crate::backend::OnThread;

/// Where lanes run and where the log is read.
///
/// When pinned, each of the two has a core of its own, since neither should wait for the other.
#[derive(Debug)]
pub(crate) struct Threads(Option<Pinned>);

#[derive(Debug)]
struct Pinned {
    lanes: PinnedRuntime,
    reader: PinnedRuntime,
}

impl Threads {
    /// Starts the pinned threads if they are wanted, useful on this machine and allowed; otherwise
    /// everything runs on the program's runtime.
    pub(crate) fn start(wanted: bool) -> Self {
        let core = wanted.then(Core::current).flatten();
        Self(core.and_then(Pinned::start))
    }

    /// Runs the task of a lane, pinned if its handler writes through the transaction.
    pub(crate) fn spawn_lane<T: Send + 'static>(
        &self,
        tasks: &mut JoinSet<T>,
        uses_transaction: bool,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Id {
        let pinned = self.0.as_ref().filter(|_| uses_transaction);
        let started = match pinned.and_then(|pinned| pinned.lanes.handle()) {
            Some(handle) => tasks.spawn_on(task, handle),
            None => tasks.spawn(task),
        };
        started.id()
    }

    /// The runtime that reads the log.
    pub(crate) fn reader(&self) -> Handle {
        let pinned = self.0.as_ref();
        let reader = pinned.and_then(|pinned| pinned.reader.handle());
        reader.cloned().unwrap_or_else(Handle::current)
    }

    /// The setup of the threads of connections that lanes write on.
    pub(crate) fn lane_setup(&self) -> ThreadSetup {
        ThreadSetup(self.0.as_ref().map(|pinned| pinned.lanes.core.clone()))
    }

    /// The setup of the thread of the connection that reads the log.
    pub(crate) fn reader_setup(&self) -> ThreadSetup {
        ThreadSetup(self.0.as_ref().map(|pinned| pinned.reader.core.clone()))
    }
}

impl Pinned {
    fn start(core: Core) -> Option<Self> {
        let other = core.other();
        let started = PinnedRuntime::start(core, "consumer-lanes")
            .and_then(|lanes| Ok((lanes, PinnedRuntime::start(other, "consumer-reader")?)));
        match started {
            Ok((lanes, reader)) => Some(Self { lanes, reader }),
            Err(error) => {
                tracing::warn!(%error, "cannot start a thread for the lanes; they run on the program's runtime");
                None
            }
        }
    }
}

/// What the thread of a connection does once when it opens.
#[derive(Clone, Debug)]
pub(crate) struct ThreadSetup(Option<Core>);

impl ThreadSetup {
    /// The function that the thread calls; `None` if there is nothing to set up.
    pub(crate) fn on_thread(&self) -> Option<OnThread> {
        let core = self.0.clone()?;
        Some(Box::new(move || core.pin_thread()))
    }
}

/// One of the cores that the process may use.
#[derive(Clone, Debug)]
struct Core(Arc<affinity::Cores>);

impl Core {
    /// The core of the calling thread; `None` where threads cannot be pinned or there is only one.
    fn current() -> Option<Self> {
        affinity::Cores::current().map(|cores| Self(Arc::new(cores)))
    }

    /// Another core than this one.
    fn other(&self) -> Self {
        Self(Arc::new(self.0.other()))
    }

    /// Pins the calling thread to this core.
    fn pin_thread(&self) {
        self.0.pin_thread();
    }

    /// Lets the calling thread run on any core: a thread inherits the pinning of its parent.
    fn unpin_thread(&self) {
        self.0.unpin_thread();
    }
}

/// A runtime whose only worker thread is pinned to one core.
///
/// When a handler blocks (`block_in_place`), another worker thread takes over; that one and the
/// threads for blocking work are not pinned.
#[derive(Debug)]
struct PinnedRuntime {
    core: Core,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl PinnedRuntime {
    fn start(core: Core, name: &str) -> std::io::Result<Self> {
        let is_first = AtomicBool::new(true);
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .on_thread_start({
                let core = core.clone();
                move || {
                    if is_first.swap(false, Ordering::Relaxed) {
                        core.pin_thread();
                    } else {
                        core.unpin_thread();
                    }
                }
            })
            .build()?;
        Ok(Self {
            core,
            runtime: Some(runtime),
        })
    }

    fn handle(&self) -> Option<&Handle> {
        self.runtime.as_ref().map(Runtime::handle)
    }
}

impl Drop for PinnedRuntime {
    /// Does not wait for its tasks: blocking is forbidden where futures run.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(target_os = "linux")]
mod affinity {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

    #[derive(Debug)]
    pub(super) struct Cores {
        /// All that the process may use.
        all: CpuSet,
        /// The one to pin threads to.
        one: CpuSet,
    }

    impl Cores {
        pub(super) fn current() -> Option<Self> {
            let all = sched_getaffinity(None).ok()?;
            let core = sched_getcpu();
            if all.count() < 2 || core >= CpuSet::MAX_CPU || !all.is_set(core) {
                return None;
            }
            Some(Self::of(all, core))
        }

        fn of(all: CpuSet, core: usize) -> Self {
            let mut one = CpuSet::new();
            one.set(core);
            Self { all, one }
        }

        pub(super) fn other(&self) -> Self {
            let is_other = |core: &usize| self.all.is_set(*core) && !self.one.is_set(*core);
            let other = (0..CpuSet::MAX_CPU).find(is_other);
            // `current` made sure that there is one.
            other.map_or(Self { ..*self }, |core| Self::of(self.all, core))
        }

        pub(super) fn pin_thread(&self) {
            set(&self.one);
        }

        pub(super) fn unpin_thread(&self) {
            set(&self.all);
        }
    }

    /// A refusal, as in a sandbox, costs only speed.
    fn set(cores: &CpuSet) {
        if let Err(error) = sched_setaffinity(None, cores) {
            tracing::debug!(%error, "cannot pin a thread to one core");
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod affinity {
    #[derive(Debug)]
    pub(super) enum Cores {}

    impl Cores {
        pub(super) fn current() -> Option<Self> {
            None
        }

        pub(super) fn other(&self) -> Self {
            match *self {}
        }

        pub(super) fn pin_thread(&self) {
            match *self {}
        }

        pub(super) fn unpin_thread(&self) {
            match *self {}
        }
    }
}
