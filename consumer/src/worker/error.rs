//! The errors that keep a worker from being built or from running.

use crate::backend::{
    ConsumerId, DriverError, FrontierError, LogProblem, OtherLog, StoreError, TableError,
    UnknownEvent, ViewError, is_read_only,
};
use crate::contract::chain;
use crate::registry::{NameError, RegistryError, Site};

/// The error of a worker that cannot run at all.
///
/// A consumer that fails never causes one of these: it shows in the [`Report`](crate::Report).
///
/// ```no_run
/// # consumer::__doc::run(async |store| {
/// use consumer::{Worker, WorkerError};
///
/// let worker = Worker::builder(store).discover().build()?;
/// match worker.run_once().await {
///     Ok(report) => print!("{report}"),
///     // A restart does not help: the log needs a repair.
///     Err(WorkerError::Log(problem)) => eprintln!("{problem}"),
///     // The database was not reachable: a service manager restarts the process.
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(()) }).unwrap();
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The database could not be reached when the worker started.
    #[error(
        "the worker cannot use its database; check that it runs, and the address, user and password of the pool"
    )]
    Database(#[source] DriverError),
    /// The store is not ready for a worker.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The table of a read model cannot be used.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The view over the active version of a read model cannot be created.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The frontier of this log cannot be determined.
    #[error(transparent)]
    Log(LogProblem),
    /// A consumer of this name reads another log of the same database.
    #[error(
        "the consumer `{consumer}` reads the log `{log}` of this database; rename this log's consumer in the code, or run `forget {consumer}` for the other log"
    )]
    OtherLog {
        /// The consumer.
        consumer: String,
        /// The other log's table of events.
        log: String,
    },
    /// The clock of tokio is paused, as in a test with `start_paused = true`.
    #[error(
        "tokio's clock is paused, so that every timeout of the worker would end at once; remove `start_paused = true`, or call `tokio::time::resume()` before the worker runs"
    )]
    PausedClock,
    /// The consumer has no checkpoint.
    #[error("consumer `{consumer}` has no checkpoint yet: run a worker with this consumer first")]
    UnknownCheckpoint {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// A segment to merge is paused or stopped, so it never reaches the position of its neighbour.
    #[error(
        "the segments of `{consumer}` cannot be merged while one of them is {state}; resume it first"
    )]
    NotRunning {
        /// The consumer.
        consumer: ConsumerId,
        /// The state of the segment: `paused` or `stopped`.
        state: &'static str,
    },
    /// A segment to merge waits before an event that its release does not know, so it does not reach the
    /// position of its neighbour.
    #[error(
        "the segments of `{consumer}` cannot be merged while one of them waits for a release that knows {event}; run a worker of such a release, or run `park` or `skip` for the event"
    )]
    WaitingForRelease {
        /// The consumer.
        consumer: ConsumerId,
        /// The event.
        event: UnknownEvent,
    },
}

impl WorkerError {
    /// Whether a running worker waits until it has passed, rather than end.
    pub(crate) fn can_pass(&self) -> bool {
        match self {
            Self::Log(problem) => problem.can_pass(),
            Self::Store(
                StoreError::NewerSchema { .. }
                | StoreError::Mismatches { .. }
                | StoreError::NoEventsTable { .. },
            ) => false,
            _ => true,
        }
    }
}

impl From<OtherLog> for WorkerError {
    fn from(OtherLog { consumer, log }: OtherLog) -> Self {
        Self::OtherLog {
            consumer: consumer.to_string(),
            log,
        }
    }
}

impl From<sqlx::Error> for WorkerError {
    fn from(error: sqlx::Error) -> Self {
        if is_read_only(&error) {
            Self::Store(error.into())
        } else {
            Self::Database(error.into())
        }
    }
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

/// The error of a worker that cannot be built, with all problems of its consumers.
///
/// None of them goes away by itself, so a program usually prints the error and exits, as in the
/// example of [`WorkerBuilder::build`](crate::WorkerBuilder::build).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The worker has nothing to run.
    #[error(
        "the worker has no consumers; declare one with `#[consumer(…)]` and call `.discover()`, or add one with `.consumer(…)`"
    )]
    NoConsumers,
    /// The declared consumers contradict each other.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Two consumers would share a checkpoint (R1).
    #[error(transparent)]
    NameTaken(#[from] Box<NameTaken>),
    /// The name of a hand-written consumer cannot key a checkpoint.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A consumer returns one scope to the worker and another one to the test kit.
    #[error(
        "`ScopedConsumer::aggregate_types` of the consumer `{consumer}` returns [{aggregate_types}], but `Consumer::scope`, from which the test kit takes the scope, returns [{scope}]; let `scope` return `aggregate_types`, as the example of `ScopedConsumer` does"
    )]
    TwoScopes {
        /// The consumer.
        consumer: String,
        /// What [`Consumer::scope`](crate::Consumer::scope) returns, separated by commas; empty for every event.
        scope: String,
        /// What [`ScopedConsumer::aggregate_types`](crate::ScopedConsumer::aggregate_types) returns.
        aggregate_types: String,
    },
    /// Two consumers would write the same table.
    #[error(
        "the consumers `{first}` and `{second}` have the same read model: the table `{table}` belongs to one consumer, so give one of them a row type of its own"
    )]
    TableTaken {
        /// The table, without a version.
        table: &'static str,
        /// The first consumer.
        first: String,
        /// The second consumer.
        second: String,
    },
    /// The former name of a consumer is still that of another one, or two consumers claim it.
    #[error(
        "`{consumer}` cannot take over from its former name `{former}`, which the consumer `{by}` in this program {claims}; remove one of the two, or the key `formerly`",
        claims = if .former == .by { "has" } else { "claims too" }
    )]
    FormerNameInUse {
        /// The consumer with the key `formerly`.
        consumer: String,
        /// The former name.
        former: String,
        /// The other consumer.
        by: String,
    },
    /// Settings were given for a consumer that the worker does not have.
    #[error("there is no consumer `{name}` to configure; the worker has: {known}")]
    UnknownConsumer {
        /// The name.
        name: String,
        /// The names of the worker's consumers.
        known: String,
    },
    /// With so few connections the worker would wait for itself.
    #[error(
        "the pool has at most {max} connections, and the worker needs {needed}: one for the frontier, one to read, and one for a batch ({why}); raise `max_connections`"
    )]
    PoolTooSmall {
        /// The pool's limit.
        max: u32,
        /// The connections that the worker needs.
        needed: u32,
        /// The use of further connections.
        why: &'static str,
    },
    /// More than one of these.
    #[error("{}", list_problems(.0))]
    Several(Vec<BuildError>),
}

impl BuildError {
    /// One error for all problems, of which there is at least one.
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

/// A line for each problem, and for each problem that the registry found.
fn list_problems(problems: &[BuildError]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .flat_map(|problem| match problem {
            BuildError::Registry(error) => error
                .problems()
                .iter()
                .map(|problem| chain(problem).to_string())
                .collect(),
            other => vec![chain(other).to_string()],
        })
        .collect();
    let count = lines.len();
    format!(
        "{count} problems with the worker:\n- {}",
        lines.join("\n- ")
    )
}

/// Two consumers have the same name and version, and would share a checkpoint (R1).
///
/// ```
/// use consumer::{BuildError, NameTaken};
///
/// /// Where the two consumers are declared.
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
    "two consumers are named `{consumer}`: {first} and {second}; a name keys a checkpoint, so rename one of them",
    first = describe_site(first.as_ref()), second = describe_site(second.as_ref())
)]
#[non_exhaustive]
pub struct NameTaken {
    /// The name and version of both.
    pub consumer: ConsumerId,
    /// Where the first one is declared; `None` if it was added by hand.
    pub first: Option<Site>,
    /// Where the second one is declared; `None` if it was added by hand.
    pub second: Option<Site>,
}

fn describe_site(site: Option<&Site>) -> String {
    site.map_or_else(|| "added by hand".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_its_own_message_and_the_chain_its_cause() {
        let error = WorkerError::from(sqlx::Error::PoolClosed);
        let cause = sqlx::Error::PoolClosed.to_string();
        assert!(!error.to_string().contains(&cause));
        assert_eq!(chain(&error).to_string(), format!("{error}: {cause}"));
    }
}
