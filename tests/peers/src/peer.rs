//! The interface of the compared crates.

use std::future::Future;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::deposits::{Deposit, Statement};

/// An event store that runs handlers.
pub(crate) trait Peer: Clone + Send + Sync + 'static {
    /// The crate and its version in `Cargo.lock`.
    const PACKAGE: (&'static str, &'static str);

    /// Notes below the tables, one or two sentences each.
    const NOTES: &'static [&'static str];

    /// The name of the events table.
    const EVENTS: &'static str;

    /// SQL that resets the handler's progress.
    const FORGET: &'static str;

    /// Creates the tables in an empty database. The handler will run the statement for each event.
    fn open(url: &str, statement: Statement) -> impl Future<Output = Self>;

    /// Stores events in bulk.
    fn fill(&self, deposits: Vec<Deposit>) -> impl Future<Output = ()>;

    /// Handles all `count` events from the first on.
    fn catch_up(&self, count: usize) -> impl Future<Output = ()>;

    /// Appends an event as in the documentation of the crate.
    fn append(&self, deposit: Deposit) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Starts handling new events until [`Following::stop`].
    fn follow(&self) -> impl Future<Output = Following>;

    /// The crate and its version, for the tables.
    fn name() -> String {
        let (package, version) = Self::PACKAGE;
        assert!(
            is_locked(package, version),
            "`Cargo.lock` has no {package} {version}"
        );
        format!("{package} {version}")
    }
}

/// Whether this version was built.
fn is_locked(package: &str, version: &str) -> bool {
    include_str!("../Cargo.lock")
        .contains(&format!("name = \"{package}\"\nversion = \"{version}\"\n"))
}

/// A background task that handles events.
pub(crate) struct Following {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Following {
    /// Spawns a future that ends when its receiver resolves.
    pub(crate) fn until<F>(work: impl FnOnce(oneshot::Receiver<()>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(work(stopped));
        Self { stop, task }
    }

    pub(crate) async fn stop(self) {
        // The task may have ended already.
        let _ = self.stop.send(());
        self.task.await.expect("the handlers do not panic");
    }
}
