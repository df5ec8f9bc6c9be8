//! How a run of a worker ended.

use std::fmt;
use std::sync::Arc;

use super::board::{Board, LaneState, Summary};

/// How a run of a worker ended: for each consumer how far it came and why it ended.
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
/// use consumer::{ExpectedVersion, NewEvent, SqliteEventStore, Worker};
///
/// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
/// # store.migrate().await?;
/// # let event = [NewEvent::new("User", "ada", "UserRegistered", "{}")];
/// # store.append(ExpectedVersion::Any, &event).await?;
/// let report = Worker::builder(store).consumer(Users).build()?.run_once().await?;
/// assert_eq!(report.to_string(), "users: caught up at 1, 1 event handled\n");
///
/// let users = report.consumer("users").unwrap();
/// assert_eq!((users.position, users.events, users.batches), (Some(1), 1, 1));
/// assert!(report.detached.is_empty());
///
/// // The exit code of a job.
/// let code = u8::from(report.has_failures());
/// assert_eq!(code, 0);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// One entry a consumer and version, in the order of their names.
    pub consumers: Vec<ConsumerReport>,
    /// Names of checkpoints to which the program has no consumer.
    pub detached: Vec<String>,
}

/// How far a consumer came and why it ended.
///
/// See [`Report`] for an example.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConsumerReport {
    /// The consumer's name.
    pub name: Arc<str>,
    /// Its version.
    pub version: u32,
    /// Everything in its scope up to here is handled; `None` when it never saw its checkpoint.
    pub position: Option<i64>,
    /// How many events it handled in this run.
    pub events: u64,
    /// In how many transactions.
    pub batches: u64,
    /// How many events it set aside in this run, those included that wait behind a failed one.
    pub parked: u64,
    /// How many events it left out for ever in this run, since its policy says so.
    pub skipped: u64,
    /// What it was doing when it ended.
    pub state: LaneState,
}

impl From<Summary> for ConsumerReport {
    fn from(summary: Summary) -> Self {
        Self {
            name: summary.consumer,
            version: u32::try_from(summary.version).unwrap_or(1),
            position: summary.position,
            events: summary.counts.events,
            batches: summary.counts.batches,
            parked: summary.counts.parked,
            skipped: summary.counts.skipped,
            state: summary.state,
        }
    }
}

impl Report {
    pub(crate) fn of(board: &Board, detached: Vec<String>) -> Self {
        let consumers = board
            .summaries()
            .into_iter()
            .map(ConsumerReport::from)
            .collect();
        Self {
            consumers,
            detached,
        }
    }

    /// The entry of a consumer.
    ///
    /// See [`Report`] for an example.
    #[must_use]
    pub fn consumer(&self, name: &str) -> Option<&ConsumerReport> {
        self.consumers
            .iter()
            .find(|consumer| &*consumer.name == name)
    }

    /// Whether any consumer ended before it had handled everything, other than by a shutdown or
    /// because an operator paused it.
    ///
    /// See [`Report`] for an example.
    #[must_use]
    pub fn has_failures(&self) -> bool {
        self.consumers.iter().any(|consumer| {
            !matches!(
                consumer.state,
                LaneState::CaughtUp | LaneState::ShutDown | LaneState::Paused
            )
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for consumer in &self.consumers {
            writeln!(f, "{consumer}")?;
        }
        for name in &self.detached {
            writeln!(
                f,
                "{name}: detached, no consumer of that name is in this program"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for ConsumerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.version != 1 {
            write!(f, " v{}", self.version)?;
        }
        write!(f, ": {}", self.state)?;
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
        Ok(())
    }
}

impl fmt::Display for LaneState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::Running => f.write_str("running"),
            Self::Retrying {
                position,
                attempts,
                error,
            } => {
                write!(
                    f,
                    "retrying event {position} (failed {attempts} times: {error})"
                )
            }
            Self::Waiting { error } => write!(f, "waiting for the database ({error})"),
            Self::Stopped {
                position: Some(position),
                error,
            } => {
                write!(f, "stopped before event {position} ({error})")
            }
            Self::Stopped {
                position: None,
                error,
            } => write!(f, "stopped ({error})"),
            Self::Paused => f.write_str("paused"),
            Self::ScopeChanged { checkpoint, code } => write!(
                f,
                "refused: its checkpoint was reached with the scope [{checkpoint}], and the code has [{code}]; rebuild it, or accept the new scope"
            ),
            Self::Forgotten => f.write_str("without a checkpoint row"),
            Self::CaughtUp => f.write_str("caught up"),
            Self::ShutDown => f.write_str("shut down"),
        }
    }
}
