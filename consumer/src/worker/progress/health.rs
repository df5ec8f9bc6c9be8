//! Whether a worker is live and ready.

use std::fmt;
use std::time::Duration;

use crate::backend::ConsumerId;
use crate::worker::progress::state::ConsumerState;
use crate::worker::progress::worker::FrontierWait;

/// Whether a worker is live and ready, for the probes of an orchestrator.
///
/// | problem | live | ready |
/// |---|---|---|
/// | it has stalled, or ended without being asked to: a restart may help | no | no |
/// | it starts, ends, or cannot use its database: a restart would not help | yes | no |
/// | a consumer stopped, was paused or is refused: its operator has to act | yes | yes |
/// | an open transaction blocks the frontier: its owner has to end it | yes | yes |
/// | a task beside its consumers panicked, and was started again | yes | yes |
///
/// ```
/// # consumer::__doc::run(async |store| { use consumer::__doc::Users;
/// use consumer::{Health, HealthProblem, Worker};
///
/// /// The response of `/live` and `/ready`.
/// fn status_code(is_well: bool) -> u16 {
///     if is_well { 200 } else { 503 }
/// }
///
/// let worker = Worker::builder(store).consumer(Users).build()?;
/// let health: Health = worker.handle().health();
/// assert_eq!(health.problems, [HealthProblem::NotStarted]);
/// assert_eq!(status_code(health.is_live()), 200);
/// assert_eq!(status_code(health.is_ready()), 503);
/// assert_eq!(health.to_string(), "the worker has not started");
/// # Ok(()) }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The worker's problems; empty when all is well.
    pub problems: Vec<HealthProblem>,
}

/// A problem of a worker, with a human-readable text.
///
/// An alert may concern only some of them:
///
/// ```
/// use consumer::HealthProblem;
///
/// fn is_urgent(problem: &HealthProblem) -> bool {
///     matches!(problem, HealthProblem::Stalled { .. } | HealthProblem::NotRunning { .. })
/// }
///
/// assert!(!is_urgent(&HealthProblem::NotStarted));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HealthProblem {
    /// It has not polled the log yet.
    NotStarted,
    /// It was asked to end.
    Ending,
    /// It has ended, and handles no more events.
    Ended {
        /// Whether it was asked to end, or had nothing left to do.
        was_asked: bool,
        /// The error that ended it; `None` also if its task was dropped.
        error: Option<String>,
    },
    /// It has not polled the log for longer than
    /// [`stall_after`](crate::WorkerBuilder::stall_after).
    Silent {
        /// The time since the last poll.
        since: Duration,
    },
    /// It cannot reach its database, or lacks a privilege there, and keeps trying.
    Disconnected {
        /// The error of the database.
        error: String,
    },
    /// A consumer has events to handle, and has made no progress for longer than
    /// [`stall_after`](crate::WorkerBuilder::stall_after).
    Stalled {
        /// The consumer.
        consumer: ConsumerId,
        /// The time since its last progress.
        since: Duration,
    },
    /// The frontier has waited at a gap for longer than
    /// [`stall_after`](crate::WorkerBuilder::stall_after), and no consumer is given the events behind it.
    FrontierBlocked(FrontierWait),
    /// A consumer has not seen its checkpoint yet, or waits for the database.
    Waiting {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// The task of a consumer panicked outside its handler, and is restarted after a pause.
    Panicked {
        /// The consumer.
        consumer: ConsumerId,
        /// The message of the panic.
        error: String,
    },
    /// A task of the worker beside its consumers panicked, and was started again or will be: a fault of the
    /// library, or of a hook such as the pool's `after_connect`. Reported until the task has run for
    /// [`stall_after`](crate::WorkerBuilder::stall_after).
    TaskPanicked {
        /// What the task does.
        task: &'static str,
        /// The time since its last panic.
        since: Duration,
        /// The message of the panic.
        error: String,
    },
    /// A consumer does not run, and its operator has to act; or it has waited for a merge of its segments
    /// for longer than [`stall_after`](crate::WorkerBuilder::stall_after).
    NotRunning {
        /// The consumer.
        consumer: ConsumerId,
        /// Its state.
        state: ConsumerState,
    },
}

impl Health {
    /// Returns whether the process should keep running: the answer to a liveness probe.
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

    /// Returns whether every consumer that may run does: the answer to a readiness probe.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.problems.iter().all(|problem| {
            matches!(
                problem,
                HealthProblem::NotRunning { .. }
                    | HealthProblem::FrontierBlocked(_)
                    | HealthProblem::TaskPanicked { .. }
            )
        })
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
            } => f.write_str("the worker has shut down as requested"),
            Self::Ended {
                error: Some(error), ..
            } => write!(f, "the worker has ended: {error}"),
            Self::Ended { .. } => f.write_str("the worker has ended: its task was dropped"),
            Self::Silent { since } => {
                write!(f, "the worker has not polled the log for {since:.0?}")
            }
            Self::Disconnected { error } => {
                write!(f, "the worker cannot use its database: {error}")
            }
            Self::Stalled { consumer, since } => {
                write!(
                    f,
                    "consumer `{consumer}` has made no progress for {since:.0?}"
                )
            }
            Self::FrontierBlocked(FrontierWait {
                position,
                waited,
                blockers,
            }) => {
                write!(f, "the frontier has waited at {position} for {waited:.0?}")?;
                for blocker in blockers {
                    write!(f, "; it is blocked by {blocker}")?;
                }
                if blockers.is_empty() {
                    return Ok(());
                }
                f.write_str(
                    "; it advances when these transactions end; end them with `pg_terminate_backend` or `ROLLBACK PREPARED`",
                )
            }
            Self::Waiting { consumer } => {
                write!(f, "consumer `{consumer}` is waiting for the database")
            }
            Self::Panicked { consumer, error } => {
                write!(
                    f,
                    "consumer `{consumer}` panicked and will be restarted: {error}"
                )
            }
            Self::TaskPanicked { task, since, error } => {
                write!(
                    f,
                    "the task to {task} panicked {since:.0?} ago and is started again: {error}"
                )
            }
            Self::NotRunning { consumer, state } => write!(f, "consumer `{consumer}` is {state}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_panicked_affects_neither_probe() {
        let panicked = HealthProblem::TaskPanicked {
            task: "wake idle lanes",
            since: Duration::from_secs(7),
            error: "no words".to_owned(),
        };
        assert_eq!(
            panicked.to_string(),
            "the task to wake idle lanes panicked 7s ago and is started again: no words"
        );
        let health = Health {
            problems: vec![panicked],
        };
        assert!(health.is_live() && health.is_ready());
    }
}
