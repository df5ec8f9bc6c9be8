//! What each of them is asked to do.

use std::future::Future;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::deposits::{Deposit, Statement};

/// An event store with something that runs handlers over it.
pub(crate) trait Peer: Clone + Send + Sync + 'static {
    /// The crate and its version, as `Cargo.lock` has them.
    const PACKAGE: (&'static str, &'static str);

    /// What a reader of the table needs to know, a sentence or two each.
    const NOTES: &'static [&'static str];

    /// Its table of events.
    const EVENTS: &'static str;

    /// Makes it forget what it handled.
    const FORGET: &'static str;

    /// Makes its tables in an empty database; its handler is to run that statement an event.
    fn open(url: &str, statement: Statement) -> impl Future<Output = Self>;

    /// Stores events as fast as it can.
    fn fill(&self, deposits: Vec<Deposit>) -> impl Future<Output = ()>;

    /// Handles all the events there are, from the first on.
    fn catch_up(&self, count: usize) -> impl Future<Output = ()>;

    /// Stores an event the way its documentation shows.
    fn append(&self, deposit: Deposit) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Handles events as they come, until told to stop.
    fn follow(&self) -> impl Future<Output = Following>;

    /// The crate and its version, as one names them.
    fn name() -> String {
        let (package, version) = Self::PACKAGE;
        assert!(
            is_locked(package, version),
            "`Cargo.lock` has no {package} {version}"
        );
        format!("{package} {version}")
    }
}

/// Whether that version is the one that was built.
fn is_locked(package: &str, version: &str) -> bool {
    include_str!("../Cargo.lock")
        .contains(&format!("name = \"{package}\"\nversion = \"{version}\"\n"))
}

/// Something that handles events in the background.
pub(crate) struct Following {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Following {
    /// Runs a future that ends when it is told to.
    pub(crate) fn until<F>(work: impl FnOnce(oneshot::Receiver<()>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(work(stopped));
        Self { stop, task }
    }

    pub(crate) async fn stop(self) {
        // Whatever has ended by itself needs no telling.
        let _ = self.stop.send(());
        self.task.await.expect("the handlers end in peace");
    }
}
