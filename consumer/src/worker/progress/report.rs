//! How a run of a worker ended.

use std::fmt;
use std::sync::Arc;

use crate::worker::progress::state::ConsumerState;
use crate::worker::progress::{LaneBoard, Summary};

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
    pub state: ConsumerState,
}

impl From<Summary> for ConsumerReport {
    fn from(summary: Summary) -> Self {
        Self {
            name: summary.consumer.name,
            version: summary.consumer.version,
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
    pub(crate) fn of(board: &LaneBoard, detached: Vec<String>) -> Self {
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
