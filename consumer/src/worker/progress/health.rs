//! Whether a worker is alive, and ready.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::worker::progress::state::ConsumerState;

/// How a worker is, for the probes of whatever runs it.
///
/// A worker that has stopped making progress, or has ended without being asked, is not live, although
/// its process runs: a restart may help. One that cannot reach its database is live and not ready: a restart would not help. A
/// consumer that stopped by its own policy is neither: somebody has to look, and restarting
/// everything else does not mend it.
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use consumer::{Consumer, Context, HandlerError, PersistedEvent, sqlx};
/// # struct Users;
/// # impl Consumer<sqlx::Sqlite> for Users {
/// #     fn name(&self) -> &str { "users" }
/// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
/// # }
/// use consumer::{Health, HealthProblem, SqliteEventStore, Worker};
///
/// /// What `/live` and `/ready` of a web server answer.
/// fn status_code(is_well: bool) -> u16 {
///     if is_well { 200 } else { 503 }
/// }
///
/// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
/// # store.migrate().await?;
/// let worker = Worker::builder(store).consumer(Users).build()?;
/// let health: Health = worker.handle().health();
/// assert_eq!(health.problems, [HealthProblem::NotStarted]);
/// assert_eq!(status_code(health.is_live()), 200);
/// assert_eq!(status_code(health.is_ready()), 503);
/// assert_eq!(health.to_string(), "the worker has not started");
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// What is wrong, if anything is.
    pub problems: Vec<HealthProblem>,
}

/// Something that is wrong with a worker.
///
/// Each has a text for people; see [`Health`]. An alert may want some of them alone:
///
/// ```
/// use consumer::HealthProblem;
///
/// let problem = HealthProblem::Waiting { consumer: "users".into() };
/// let is_urgent = matches!(problem, HealthProblem::Stalled { .. } | HealthProblem::NotRunning { .. });
/// assert!(!is_urgent);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HealthProblem {
    /// It has not looked at the log yet.
    NotStarted,
    /// It was asked to end.
    Ending,
    /// Its run is over: nobody handles events here any more.
    Ended {
        /// Whether it was asked to end, or had nothing left to do.
        was_asked: bool,
        /// What ended it; `None` also when its task was given up.
        error: Option<String>,
    },
    /// It has not looked at the log for too long.
    Silent {
        /// For how long.
        since: Duration,
    },
    /// It cannot reach its database, and keeps trying.
    Disconnected {
        /// What the database said.
        error: String,
    },
    /// A consumer has events to handle, and has not moved for too long.
    Stalled {
        /// The consumer.
        consumer: Arc<str>,
        /// For how long.
        since: Duration,
    },
    /// A consumer has not seen its checkpoint yet, or waits for the database.
    Waiting {
        /// The consumer.
        consumer: Arc<str>,
    },
    /// A consumer does not run, and somebody has to look at it.
    NotRunning {
        /// The consumer.
        consumer: Arc<str>,
        /// What it does instead.
        state: ConsumerState,
    },
}

impl Health {
    /// Whether the process should be left running: the answer for a liveness probe.
    ///
    /// See [`Health`] for an example.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.problems.iter().any(|problem| {
            matches!(
                problem,
                HealthProblem::Silent { .. }
                    | HealthProblem::Stalled { .. }
                    | HealthProblem::Ended {
                        was_asked: false,
                        ..
                    }
            )
        })
    }

    /// Whether every consumer that may run does: the answer for a readiness probe.
    ///
    /// See [`Health`] for an example.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.problems
            .iter()
            .all(|problem| matches!(problem, HealthProblem::NotRunning { .. }))
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.problems.is_empty() {
            return f.write_str("all is well");
        }
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index > 0 { "\n" } else { "" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for HealthProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted => f.write_str("the worker has not started"),
            Self::Ending => f.write_str("the worker is ending"),
            Self::Ended {
                was_asked: true, ..
            } => f.write_str("the worker has ended, as it was asked to"),
            Self::Ended {
                error: Some(error), ..
            } => write!(f, "the worker has ended: {error}"),
            Self::Ended { .. } => f.write_str("the worker has ended, its task was given up"),
            Self::Silent { since } => {
                write!(f, "the worker has not looked at the log for {since:.0?}")
            }
            Self::Disconnected { error } => {
                write!(f, "the worker cannot reach its database: {error}")
            }
            Self::Stalled { consumer, since } => {
                write!(f, "consumer `{consumer}` has not moved for {since:.0?}")
            }
            Self::Waiting { consumer } => {
                write!(f, "consumer `{consumer}` waits for the database")
            }
            Self::NotRunning { consumer, state } => write!(f, "consumer `{consumer}` is {state}"),
        }
    }
}
