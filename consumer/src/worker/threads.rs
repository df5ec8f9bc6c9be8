//! Lets a handler and the connection that it talks to share one core.
//!
//! sqlx runs each SQLite connection on a thread of its own, so that every statement is a trip to
//! another thread and back. Between two cores such a trip mostly consists of waking the other one
//! up; on one core it is a switch, and the same loop runs several times as fast.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;

/// One core of those that the process may use.
#[derive(Clone, Debug)]
pub(crate) struct Core(Arc<affinity::Choice>);

impl Core {
    /// The core that the calling thread is on; `None` where threads cannot be kept on a core, or
    /// where there is no other.
    pub(crate) fn current() -> Option<Self> {
        affinity::Choice::current().map(|choice| Self(Arc::new(choice)))
    }

    /// Another core than this one.
    fn other(&self) -> Self {
        Self(Arc::new(self.0.other()))
    }

    /// What a thread calls to stay on this core.
    pub(crate) fn keep_a_thread(&self) -> Box<dyn FnOnce() + Send> {
        let core = self.clone();
        Box::new(move || core.keep_thread())
    }

    /// Keeps the calling thread on this core.
    pub(crate) fn keep_thread(&self) {
        self.0.keep_thread();
    }

    /// Lets the calling thread run on any core again: it may have been started by one that is
    /// kept, and a thread inherits that.
    fn release_thread(&self) {
        self.0.release_thread();
    }
}

/// Where the lanes of a worker run, and where it reads: each on a core of its own, since neither is
/// to wait for the other.
#[derive(Debug)]
pub(crate) struct Cores {
    lanes: PinnedRuntime,
    reader: PinnedRuntime,
}

impl Cores {
    /// Starts the threads; `None` where they would be of no use, or cannot be started.
    pub(crate) fn start() -> Option<Self> {
        let core = Core::current()?;
        let other = core.other();
        let started = PinnedRuntime::start(core, "consumer-lanes")
            .and_then(|lanes| Ok((lanes, PinnedRuntime::start(other, "consumer-reader")?)));
        match started {
            Ok((lanes, reader)) => Some(Self { lanes, reader }),
            Err(error) => {
                tracing::warn!(%error, "the lanes run on the threads of the program: a thread of their own cannot be started");
                None
            }
        }
    }

    /// The core of the lanes, for the threads of their connections to be kept on too.
    pub(crate) fn of_lanes(&self) -> &Core {
        &self.lanes.core
    }

    /// The core of the reader, for the thread of its connection to be kept on too.
    pub(crate) fn of_reader(&self) -> &Core {
        &self.reader.core
    }

    /// Runs a task on the thread of the lanes.
    pub(crate) fn spawn_lane<T: Send + 'static>(
        &self,
        tasks: &mut JoinSet<T>,
        task: impl Future<Output = T> + Send + 'static,
    ) {
        match self.lanes.handle() {
            Some(handle) => tasks.spawn_on(task, handle),
            None => tasks.spawn(task),
        };
    }

    /// Where to read.
    pub(crate) fn reader(&self) -> Option<&Handle> {
        self.reader.handle()
    }
}

/// A runtime whose only worker thread stays on one core.
///
/// A blocked handler (`block_in_place`) is followed by another worker thread, and it and the
/// threads for blocking work are kept nowhere.
#[derive(Debug)]
struct PinnedRuntime {
    core: Core,
    /// `None` once it is dropped.
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
                        core.keep_thread();
                    } else {
                        core.release_thread();
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
    /// Without waiting, which is forbidden where futures run.
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
    pub(super) struct Choice {
        all: CpuSet,
        one: CpuSet,
    }

    impl Choice {
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
            // There is one, or there would be no choice.
            other.map_or(Self { ..*self }, |core| Self::of(self.all, core))
        }

        pub(super) fn keep_thread(&self) {
            set(&self.one);
        }

        pub(super) fn release_thread(&self) {
            set(&self.all);
        }
    }

    /// A refusal, as by a sandbox, costs speed and nothing else.
    fn set(cores: &CpuSet) {
        if let Err(error) = sched_setaffinity(None, cores) {
            tracing::debug!(%error, "a thread could not be kept on one core");
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod affinity {
    #[derive(Debug)]
    pub(super) enum Choice {}

    impl Choice {
        pub(super) fn current() -> Option<Self> {
            None
        }

        pub(super) fn other(&self) -> Self {
            match *self {}
        }

        pub(super) fn keep_thread(&self) {
            match *self {}
        }

        pub(super) fn release_thread(&self) {
            match *self {}
        }
    }
}
