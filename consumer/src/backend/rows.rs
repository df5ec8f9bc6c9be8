//! The rows of the library's own tables.

use std::sync::Arc;
use std::time::Duration;

use super::Incarnation;
use crate::contract::{PersistedEvent, StartFrom};

/// One version of a consumer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId {
    /// The consumer's name (R1).
    pub name: Arc<str>,
    /// The consumer's version, at least 1.
    pub version: u32,
}

impl ConsumerId {
    /// The version as the tables have it; a program cannot declare one that does not fit.
    pub(crate) fn version_column(&self) -> i32 {
        i32::try_from(self.version).unwrap_or(i32::MAX)
    }

    /// Reads the two columns of a consumer.
    pub(crate) fn from_columns(name: String, version: i32) -> Self {
        Self {
            name: name.into(),
            version: u32::try_from(version).unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for ConsumerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.version {
            1 => f.write_str(&self.name),
            version => write!(f, "{} v{version}", self.name),
        }
    }
}

/// The key of a checkpoint row: one segment of a consumer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    /// Which consumer.
    pub consumer: ConsumerId,
    /// The first of the row's slices.
    pub slice_from: i32,
}

/// A consumer that should have checkpoint rows.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// Which consumer.
    pub consumer: ConsumerId,
    /// How many slices a row has at most.
    pub width: i32,
    /// The scope, as it is written into the rows.
    pub scope: Arc<str>,
    /// Where new rows begin.
    pub start_from: StartFrom,
}

impl Enrolment {
    /// Where a new row begins.
    pub(crate) fn position(&self, settled: i64) -> i64 {
        match self.start_from {
            StartFrom::Beginning => 0,
            StartFrom::Now => settled,
        }
    }
}

/// Whether a consumer may run; binds all processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It runs, or waits for its next attempt.
    Running,
    /// An operator paused it.
    Paused,
    /// It stopped before an event that it could not handle (R2).
    Stopped,
}

impl State {
    /// As the row has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }

    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "paused" => Self::Paused,
            "stopped" => Self::Stopped,
            _ => Self::Running,
        }
    }
}

/// A checkpoint row as anyone may read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which row.
    pub key: SegmentId,
    /// The slice after its last one.
    pub slice_to: i32,
    /// The checkpoint: everything in scope up to here is handled.
    pub position: i64,
    /// Counts the rebuilds.
    pub epoch: i64,
    /// The scope that the checkpoint was reached with.
    pub scope: String,
    /// Whether it may run.
    pub state: State,
    /// Up to where events are a replay.
    pub replay_to: i64,
    /// Where the row is to wait for its neighbour.
    pub hold_at: Option<i64>,
    /// How often the next event has failed.
    pub attempts: u32,
    /// The event that failed last.
    pub failed_position: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
}

impl Checkpoint {
    /// The end of what two neighbouring rows would be as one, if they can be one.
    pub(crate) fn merged(rows: &[Self]) -> Option<i32> {
        let [left, right] = rows else {
            return None;
        };
        let agree = left.position == right.position
            && left.epoch == right.epoch
            && left.slice_to == right.key.slice_from
            && rows.iter().all(|row| row.state == State::Running);
        agree.then_some(right.slice_to)
    }

    /// What changes when somebody has changed the row.
    pub(crate) fn mark(&self) -> (i64, i64, State, u32) {
        (self.position, self.epoch, self.state, self.attempts)
    }
}

/// A checkpoint row under its row lock.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The row.
    pub checkpoint: Checkpoint,
    /// How long until the next attempt.
    pub retry_in: Option<Duration>,
    /// Whether events are parked.
    pub parked: bool,
    /// The incarnation of the server that the claim was made in.
    pub incarnation: Incarnation,
    /// The backend that holds the claim.
    pub backend: i32,
    /// The transaction that holds the claim.
    pub transaction: String,
}

/// What a lane saves.
#[derive(Clone, Debug)]
pub struct NewCheckpoint {
    /// The new checkpoint.
    pub position: i64,
    /// Whether the consumer goes on.
    pub state: State,
    /// What went wrong with the event after the checkpoint, if anything did.
    pub failure: Option<Failure>,
}

/// A failed attempt at an event, as the row keeps it for all processes.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The event.
    pub position: i64,
    /// How often it has failed.
    pub attempts: u32,
    /// How long until the next attempt.
    pub retry_in: Duration,
    /// Why.
    pub error: String,
}

/// An aggregate: its type and its id.
pub(crate) type Aggregate = (String, String);

/// An event to be parked.
#[derive(Debug)]
pub struct Parking<'a> {
    /// The event.
    pub event: &'a PersistedEvent,
    /// The failed attempts and the last error; `None` for an event that only has to wait behind
    /// an earlier one of its aggregate.
    pub failure: Option<(u32, &'a str)>,
}

impl Parking<'_> {
    /// The reason as the row has it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        if self.failure.is_some() {
            "failed"
        } else {
            "behind"
        }
    }

    /// The attempts as the row has them.
    #[must_use]
    pub fn attempts(&self) -> i32 {
        self.failure.map_or(0, |(attempts, _)| {
            i32::try_from(attempts).unwrap_or(i32::MAX)
        })
    }
}

/// An idle checkpoint that can be moved along.
#[derive(Clone, Debug)]
pub struct Advance {
    /// Which row.
    pub key: SegmentId,
    /// The slice after its last one: a row that was resized holds other events.
    pub slice_to: i32,
    /// Its epoch.
    pub epoch: i64,
    /// Where it stands at least.
    pub from: i64,
    /// How far nothing in its scope follows.
    pub to: i64,
}

/// A part of the log, as one consumer sees it.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub(crate) after: i64,
    pub(crate) up_to: i64,
    /// Empty for every event (R7).
    pub(crate) scope: &'a [String],
}

impl Part<'_> {
    /// The scope as both databases take a list apart.
    pub(crate) fn scope_json(&self) -> String {
        serde_json::to_string(self.scope).unwrap_or_default()
    }
}

/// A checkpoint row, and what is parked beside it.
#[derive(Clone, Debug)]
pub struct Row {
    pub(crate) checkpoint: Checkpoint,
    /// Milliseconds until the next attempt.
    pub(crate) retry_in: Option<i64>,
    /// Milliseconds since it was last written.
    pub(crate) saved_ago: i64,
    pub(crate) parked: i64,
    pub(crate) parked_aggregates: i64,
}

/// A parked event as the table has it.
#[derive(Clone, Debug)]
pub struct ParkedRow {
    pub(crate) position: i64,
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
    pub(crate) reason: String,
    pub(crate) attempts: i32,
    pub(crate) error: Option<String>,
    /// Milliseconds since.
    pub(crate) parked_ago: i64,
}

/// Who has locked rows, where the database has a server.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "postgres"), allow(dead_code))] // SQLite has none
pub struct Taken {
    /// The transaction's id.
    pub(crate) transaction: String,
    /// The backend that it runs on.
    pub(crate) backend: i32,
}

/// What became of an attempt to lock rows.
#[derive(Clone, Debug)]
pub enum Lock {
    /// They are locked, in this transaction.
    Taken(Taken),
    /// There are none.
    Missing,
}
