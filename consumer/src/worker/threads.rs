//! Runs handlers on the core of the connection they write on.
//!
//! sqlx runs each SQLite connection on a thread of its own, so every statement is a round trip to
//! another thread. Between two cores, most of that is the time it takes to wake the other one; on
//! one core it is a context switch, and the same loop runs several times as fast.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{Id, JoinHandle, JoinSet};

use crate::backend::OnThread;

/// Where lanes run and where the log is read.
///
/// When pinned, each of the two has a core of its own, since neither should wait for the other.
#[derive(Debug)]
pub(crate) struct Threads(Option<Pinned>);

#[derive(Debug)]
struct Pinned {
    lanes: PinnedThread,
    reader: PinnedThread,
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
        let started = match pinned.and_then(|pinned| pinned.lanes.spawner()) {
            Some(Spawner { thread, process }) => {
                tasks.spawn_on(InRuntime::new(process, task), &thread)
            }
            None => tasks.spawn(task),
        };
        started.id()
    }

    /// Where the log is read.
    pub(crate) fn reader(&self) -> Reader {
        let pinned = self.0.as_ref();
        Reader(pinned.and_then(|pinned| pinned.reader.spawner()))
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
        let started = process_runtime(&core).and_then(|process| {
            let other = core.other();
            let lanes = PinnedThread::start(core, "consumer-lanes", process.clone())?;
            let reader = PinnedThread::start(other, "consumer-reader", process)?;
            Ok(Self { lanes, reader })
        });
        if let Err(error) = &started {
            tracing::warn!(%error, "cannot start a thread for the lanes; they run on the program's runtime");
        }
        started.ok()
    }
}

/// Runs the tasks that read the log.
#[derive(Clone, Debug)]
pub(crate) struct Reader(Option<Spawner>);

impl Reader {
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        match self.0.clone() {
            Some(Spawner { thread, process }) => thread.spawn(InRuntime::new(process, task)),
            None => tokio::spawn(task),
        }
    }
}

/// Runs tasks on a pinned thread.
#[derive(Clone, Debug)]
struct Spawner {
    thread: Handle,
    /// The runtime of what they start.
    process: Handle,
}

/// The runtime of whatever the tasks on pinned threads start: tasks, connections, timers.
///
/// It ends with the process: a handler may keep a client whose connection outlives the worker. It is
/// not the program's, since a thread inherits the core of the one that starts it, and threads for
/// blocking work would pass it on to the rest of the program.
fn process_runtime(core: &Core) -> io::Result<Handle> {
    static STARTED: Started = Mutex::new(None);
    runtime_of(std::process::id(), &STARTED, core)
}

/// The process that the runtime was started in, and the runtime.
type Started = Mutex<Option<(u32, Handle)>>;

fn runtime_of(process: u32, started: &Started, core: &Core) -> io::Result<Handle> {
    let mut started = started.lock();
    // A process has none of the threads of the one that it was forked from.
    if let Some((_, handle)) = started
        .as_ref()
        .filter(|(started_in, _)| *started_in == process)
    {
        return Ok(handle.clone());
    }
    let core = core.clone();
    let runtime = Builder::new_multi_thread()
        .thread_name("consumer-handlers")
        .enable_all()
        .on_thread_start(move || core.unpin_thread())
        .build()?;
    let handle = runtime.handle().clone();
    *started = Some((process, handle.clone()));
    // Dropping it would end it.
    std::mem::forget(runtime);
    Ok(handle)
}

/// A future that takes one runtime for its own, wherever it runs.
struct InRuntime<F> {
    runtime: Handle,
    /// `None` only while it is dropped.
    future: Option<Pin<Box<F>>>,
}

impl<F> InRuntime<F> {
    fn new(runtime: Handle, future: F) -> Self {
        Self {
            runtime,
            future: Some(Box::pin(future)),
        }
    }
}

impl<F: Future> Future for InRuntime<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { runtime, future } = &mut *self;
        let _entered = runtime.enter();
        match future {
            Some(future) => future.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for InRuntime<F> {
    /// Connections start a task when they are dropped.
    fn drop(&mut self) {
        let _entered = self.runtime.enter();
        self.future = None;
    }
}

/// The setup of a connection's thread, which runs once when it opens.
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

/// A thread that is pinned to one core and runs tasks.
///
/// When a handler blocks (`block_in_place`), another thread takes over, which is not pinned.
#[derive(Debug)]
struct PinnedThread {
    core: Core,
    process: Handle,
    /// Without timers and sockets, which belong to `process`; `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl PinnedThread {
    fn start(core: Core, name: &str, process: Handle) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .on_thread_start({
                let core = core.clone();
                move || core.pin_thread()
            })
            .build()?;
        Ok(Self {
            core,
            process,
            runtime: Some(runtime),
        })
    }

    fn spawner(&self) -> Option<Spawner> {
        let runtime = self.runtime.as_ref()?;
        Some(Spawner {
            thread: runtime.handle().clone(),
            process: self.process.clone(),
        })
    }
}

impl Drop for PinnedThread {
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

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::*;

    /// The cores that the calling thread may run on.
    fn allowed() -> Vec<usize> {
        let cores = sched_getaffinity(None).unwrap();
        (0..CpuSet::MAX_CPU)
            .filter(|core| cores.is_set(*core))
            .collect()
    }

    /// Runs a check on a thread that may use only the first of our cores, as under `taskset`.
    fn on_cores(count: usize, check: impl FnOnce() + Send + 'static) {
        let restricted = thread::spawn(move || {
            let mut cores = CpuSet::new();
            allowed()
                .into_iter()
                .take(count)
                .for_each(|core| cores.set(core));
            sched_setaffinity(None, &cores).unwrap();
            check();
        });
        restricted.join().unwrap();
    }

    /// The cores that a task on that thread, and a thread for blocking work that it starts, may use.
    fn cores_of(spawner: &Spawner) -> (Vec<usize>, Vec<usize>) {
        let (tell, told) = mpsc::channel();
        let task = async move {
            let blocking = tokio::task::spawn_blocking(allowed).await.unwrap();
            tell.send((allowed(), blocking)).unwrap();
        };
        let Spawner { thread, process } = spawner.clone();
        thread.spawn(InRuntime::new(process, task));
        told.recv().unwrap()
    }

    #[test]
    fn nothing_is_pinned_where_only_one_core_may_be_used() {
        on_cores(1, || assert!(Threads::start(true).0.is_none()));
    }

    #[test]
    fn only_the_two_threads_are_pinned_and_each_to_its_own_core() {
        on_cores(2, || {
            // On a machine with one core there is nothing to see.
            let Some(Pinned { lanes, reader }) = Threads::start(true).0 else {
                return;
            };
            let (lane, blocking) = cores_of(&lanes.spawner().unwrap());
            let (read, _) = cores_of(&reader.spawner().unwrap());
            assert!(lane.len() == 1 && read.len() == 1 && lane != read);
            assert!(blocking.len() > 1, "{blocking:?}");
        });
    }

    #[test]
    fn a_forked_process_starts_a_runtime_of_its_own() {
        let Some(core) = Core::current() else {
            return;
        };
        let started = Started::default();
        let first = runtime_of(1, &started, &core).unwrap().id();
        assert_eq!(runtime_of(1, &started, &core).unwrap().id(), first);
        assert_ne!(runtime_of(2, &started, &core).unwrap().id(), first);
    }
}
