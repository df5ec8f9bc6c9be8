//! How a run of a worker ended.

use std::fmt;
use std::ops::RangeInclusive;

use crate::backend::ConsumerId;
use crate::worker::progress::state::ConsumerState;

/// The result of a worker's run: how far each consumer got, and why the run ended.
///
/// ```
/// # consumer::__doc::run(async |store| { use consumer::__doc::{Users, register};
/// use consumer::Worker;
///
/// register(&store, "ada").await?;
/// let report = Worker::builder(store).consumer(Users).build()?.run_once().await?;
/// assert_eq!(report.to_string(), "users: caught up at 1, 1 event handled\n");
///
/// let users = report.consumer("users").unwrap();
/// assert_eq!((users.position, users.events, users.batches), (Some(1), 1, 1));
///
/// // The exit code of a job.
/// assert_eq!(u8::from(report.has_failures()), 0);
/// # Ok(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// One entry per consumer and version, sorted by name.
    pub consumers: Vec<ConsumerReport>,
    /// Names of checkpoints that no consumer of the program belongs to, unless another release
    /// [has it](ConsumerState::OtherRelease).
    pub detached: Vec<String>,
}

/// How far a consumer came, and why it ended; an entry of a [`Report`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConsumerReport {
    /// The consumer's name and version.
    pub id: ConsumerId,
    /// The position up to which every event in its scope is handled; `None` if it never saw its
    /// checkpoint.
    pub position: Option<i64>,
    /// How many events it handled in this run.
    pub events: u64,
    /// How many transactions that took.
    pub batches: u64,
    /// How many events it parked in this run, including those that wait behind a failed one.
    pub parked: u64,
    /// How many events it skipped in this run, as its policy says.
    pub skipped: u64,
    /// Positions that it passed in this run although their events were deleted from the log, as far as it
    /// is known; the span of all of them. Some may not have been in its scope.
    pub missing: Option<RangeInclusive<i64>>,
    /// Its state when the run ended.
    pub state: ConsumerState,
}

impl Report {
    pub(crate) fn new(consumers: Vec<ConsumerReport>, detached: Vec<String>) -> Self {
        Self {
            consumers,
            detached,
        }
    }

    /// Returns the entry of a consumer, as in the example of [`Report`].
    #[must_use]
    pub fn consumer(&self, name: &str) -> Option<&ConsumerReport> {
        self.consumers
            .iter()
            .find(|consumer| &*consumer.id.name == name)
    }

    /// Returns whether any consumer ended before it had handled everything, unless the worker was shut down
    /// or an operator paused the consumer.
    #[must_use]
    pub fn has_failures(&self) -> bool {
        self.consumers.iter().any(|consumer| {
            !matches!(
                consumer.state,
                ConsumerState::CaughtUp | ConsumerState::ShutDown | ConsumerState::Paused
            )
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for consumer in &self.consumers {
            writeln!(f, "{consumer}")?;
        }
        let detached = ConsumerState::Detached;
        let reason = detached.reason().unwrap_or_default();
        for name in &self.detached {
            writeln!(f, "{name}: {detached}, {reason}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ConsumerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.state)?;
        if let Some(position) = self.position {
            write!(f, " at {position}")?;
        }
        let s = if self.events == 1 { "" } else { "s" };
        write!(f, ", {} event{s} handled", self.events)?;
        if self.parked > 0 {
            write!(f, ", {} parked", self.parked)?;
        }
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        if let Some(missing) = &self.missing {
            match (missing.start(), missing.end()) {
                (from, to) if from == to => {
                    write!(f, ", event {from} was no longer in the log")?;
                }
                (from, to) => write!(f, ", events {from} to {to} were no longer in the log")?,
            }
        }
        Ok(())
    }
}
