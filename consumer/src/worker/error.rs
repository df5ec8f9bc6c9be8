//! What keeps a worker from being built or from running.

use std::sync::Arc;

use crate::backend::{FrontierError, LogProblem, StoreError};
use crate::registry::Site;

/// What keeps a worker from running at all.
///
/// A consumer's own trouble is never one of these: it ends in the [`Report`](super::Report).
///
/// ```no_run
/// # #[cfg(feature = "sqlite")]
/// # async fn example(worker: consumer::Worker<consumer::sqlx::Sqlite>) {
/// use consumer::WorkerError;
///
/// match worker.run_once().await {
///     Ok(report) => print!("{report}"),
///     // Starting again is of no use before somebody has looked.
///     Err(WorkerError::Log(problem)) => eprintln!("{problem}"),
///     // The database was away at the start: a service manager starts the process again.
///     Err(error) => eprintln!("{error}"),
/// }
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The database could not be reached when the worker started.
    #[error(
        "the worker cannot use its database: {0}; check that it runs, and the address, user and password that the pool was given"
    )]
    Database(#[from] sqlx::Error),
    /// The store is not ready for a worker.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log of events is not one whose frontier can be known.
    #[error("{0}")]
    Log(LogProblem),
    /// There is no checkpoint of that consumer.
    #[error(
        "there is no checkpoint of `{consumer}`, version {version}; has a worker with that consumer ever run on this database?"
    )]
    UnknownCheckpoint {
        /// The consumer.
        consumer: String,
        /// Its version.
        version: u32,
    },
}

impl From<FrontierError> for WorkerError {
    fn from(error: FrontierError) -> Self {
        match error {
            FrontierError::Database(error) => Self::Database(error),
            FrontierError::Store(error) => Self::Store(error),
            FrontierError::Log(problem) => Self::Log(problem),
        }
    }
}

/// What keeps a worker from being built; all problems of the consumers at once.
///
/// A program usually prints it and ends: nothing of it goes away by trying again. See
/// [`WorkerBuilder::build`](crate::WorkerBuilder::build) for an example.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is nothing to run.
    #[error(
        "the worker has no consumers; declare one with `#[consumer(…)]` and call `.discover()`, or add one with `.consumer(…)`"
    )]
    NoConsumers,
    /// The declared consumers do not fit together.
    #[error(transparent)]
    Registry(#[from] crate::registry::RegistryError),
    /// Two consumers would share a checkpoint (R1).
    #[error(transparent)]
    NameTaken(#[from] Box<NameTaken>),
    /// A name that was written by hand cannot key a checkpoint.
    #[error(transparent)]
    Name(#[from] crate::registry::NameError),
    /// Settings were given for a consumer that the worker does not have.
    #[error("there is no consumer `{name}` to configure; the worker has: {known}")]
    UnknownConsumer {
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// The pool would let the worker wait for itself.
    #[error(
        "the pool has at most {max} connections, and the worker needs {needed}: one for the frontier, one to read, and one for a batch ({why}); raise `max_connections`"
    )]
    PoolTooSmall {
        /// The pool's bound.
        max: u32,
        /// What the worker needs.
        needed: u32,
        /// What the rest is for.
        why: &'static str,
    },
    /// More than one of these.
    #[error("{}", listing(.0))]
    Several(Vec<BuildError>),
}

impl BuildError {
    /// One error for all of them, of which there is at least one.
    pub(super) fn of(mut problems: Vec<Self>) -> Self {
        match problems.pop() {
            Some(only) if problems.is_empty() => only,
            last => {
                problems.extend(last);
                Self::Several(problems)
            }
        }
    }
}

/// A line for each problem, also for each of those of the declared consumers.
fn listing(problems: &[BuildError]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .flat_map(|problem| match problem {
            BuildError::Registry(error) => {
                error.problems().iter().map(ToString::to_string).collect()
            }
            other => vec![other.to_string()],
        })
        .collect();
    let count = lines.len();
    format!(
        "{count} problems with the worker:\n- {}",
        lines.join("\n- ")
    )
}

/// Two consumers have one name, and would share a checkpoint (R1).
///
/// ```
/// use consumer::{BuildError, NameTaken};
///
/// /// Where to look for a name that was given twice.
/// fn sites(error: &BuildError) -> Vec<String> {
///     match error {
///         BuildError::NameTaken(taken) => {
///             let NameTaken { first, second, .. } = &**taken;
///             first.iter().chain(second).map(ToString::to_string).collect()
///         }
///         _ => Vec::new(),
///     }
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[error(
    "two consumers are named `{name}`, version {version}: {first} and {second}; a name keys a checkpoint, so give one of them another",
    first = place(first.as_ref()), second = place(second.as_ref())
)]
#[non_exhaustive]
pub struct NameTaken {
    /// The name.
    pub name: Arc<str>,
    /// The version.
    pub version: u32,
    /// Where the one was declared.
    pub first: Option<Site>,
    /// Where the other was declared.
    pub second: Option<Site>,
}

fn place(site: Option<&Site>) -> String {
    site.map_or_else(|| "added by hand".to_owned(), ToString::to_string)
}
