//! The rows of the library's own tables, and how they are decoded on both databases.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::Incarnation;
use super::driver::Driver;
use super::sql::{Sql, Statement};
#[cfg(feature = "cli")]
use crate::contract::EventFormat;
use crate::contract::{Formerly, PersistedEvent, StartFrom};

/// One version of a consumer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId {
    /// The consumer's name (R1).
    pub name: Arc<str>,
    /// The consumer's version, at least 1.
    pub version: u32,
}

impl ConsumerId {
    /// The version in the type of its column. A version beyond the range of the column, which no program can
    /// declare, becomes a negative one, which no row has.
    pub(crate) fn version_column(&self) -> i32 {
        i32::try_from(self.version).unwrap_or(-1)
    }

    pub(super) fn decode<DB: Driver>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        let name: String = DB::read(row, "consumer")?;
        let version: i32 = DB::read(row, "version")?;
        Ok(Self {
            name: name.into(),
            version: u32::try_from(version).unwrap_or_default(),
        })
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

/// The key of a checkpoint row: one segment of a version of a consumer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId {
    /// The consumer.
    pub consumer: ConsumerId,
    /// The first slice of the row.
    pub slice_from: i32,
}

impl SegmentId {
    fn decode<DB: Driver>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            consumer: ConsumerId::decode::<DB>(row)?,
            slice_from: DB::read(row, "slice_from")?,
        })
    }
}

/// A consumer that a worker runs, as its checkpoint rows are created.
#[derive(Clone, Debug)]
pub(crate) struct Enrolment {
    /// The consumer.
    pub consumer: ConsumerId,
    /// The number of slices in each row; the last row may have fewer.
    pub width: i32,
    /// The scope, as text in the format of its column.
    pub scope: Arc<str>,
    /// Where the rows begin.
    pub start_from: StartFrom,
    /// The name that the consumer had before.
    pub formerly: Formerly,
}

impl Enrolment {
    /// The names whose checkpoint is the consumer's: its own and the former one.
    pub(crate) fn names(&self) -> impl Iterator<Item = Arc<str>> {
        let former = self.formerly.former().map(Arc::from);
        [Arc::clone(&self.consumer.name)].into_iter().chain(former)
    }

    /// The checkpoint of the new rows, where the log is settled up to a position.
    pub(crate) fn position(&self, settled: i64) -> i64 {
        match self.start_from {
            StartFrom::Beginning => 0,
            StartFrom::Now => settled,
        }
    }
}

/// Whether a consumer may run, in all processes.
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
    /// The word in the column `state`.
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

/// A checkpoint row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The row's key.
    pub key: SegmentId,
    /// The slice after the row's last one.
    pub slice_to: i32,
    /// The checkpoint: everything in scope up to here is handled.
    pub position: i64,
    /// Changes with each rebuild, change of scope and resumption: what was read of the log before is not
    /// handled after it.
    pub epoch: i64,
    /// The scope that the checkpoint was reached with.
    pub scope: String,
    /// Whether the consumer may run.
    pub state: State,
    /// The position after which the row has handled what is before its checkpoint.
    pub began: i64,
    /// The position at which the row waits for its neighbour, to be merged with it.
    pub hold_at: Option<i64>,
    /// The failed attempts at the next event.
    pub attempts: u32,
    /// The event that failed last.
    pub failed_position: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
    /// The releases that stopped at it, each between line breaks.
    pub failed_releases: Option<String>,
    /// The event before which the row waits for a release that knows it.
    pub unknown: Option<UnknownEvent>,
}

/// An event that the code of a release does not know, or has in a version that it cannot read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UnknownEvent {
    /// The position of the event.
    pub position: i64,
    /// The type of its aggregate.
    pub aggregate_type: String,
    /// Its type.
    pub event_type: String,
    /// The version of its payload's format.
    pub event_version: i32,
}

impl UnknownEvent {
    pub(crate) fn of(event: &PersistedEvent) -> Self {
        Self {
            position: event.global_position,
            aggregate_type: event.aggregate_type.to_string(),
            event_type: event.event_type.to_string(),
            event_version: event.event_version,
        }
    }

    /// Its type and version.
    #[cfg(feature = "cli")]
    pub(crate) fn format(&self) -> EventFormat<'_> {
        EventFormat {
            aggregate_type: &self.aggregate_type,
            event_type: &self.event_type,
            event_version: self.event_version,
        }
    }

    /// Whether an event is this one.
    pub(crate) fn is(&self, event: &PersistedEvent) -> bool {
        *self == Self::of(event)
    }

    fn decode<DB: Driver>(row: &DB::Row, position: i64) -> Result<Self, sqlx::Error> {
        Ok(Self {
            position,
            aggregate_type: DB::read(row, "unknown_aggregate")?,
            event_type: DB::read(row, "unknown_type")?,
            event_version: DB::read(row, "unknown_version")?,
        })
    }
}

impl std::fmt::Display for UnknownEvent {
    /// Writes `Refunded (Order, position 130)`, with the version if it is not the first.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.event_type)?;
        if !matches!(self.event_version, 0 | 1) {
            write!(f, " version {}", self.event_version)?;
        }
        write!(f, " ({}, position {})", self.aggregate_type, self.position)
    }
}

/// The events that a checkpoint row names as those to handle next. A row keeps them until it has passed them, as
/// evidence in case one is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NamedEvents {
    /// The event that failed, also if it is tried again by now, or before which the row waited.
    pub(crate) failed: Option<i64>,
    /// The event before which the row waits for a release.
    pub(crate) unknown: Option<i64>,
}

impl NamedEvents {
    /// Those that are not the same in others.
    pub(crate) fn without(self, others: Self) -> Self {
        Self {
            failed: self.failed.filter(|_| self.failed != others.failed),
            unknown: self.unknown.filter(|_| self.unknown != others.unknown),
        }
    }

    /// Those at some positions.
    pub(crate) fn filter(self, is_wanted: impl Fn(i64) -> bool) -> Self {
        let filter = |named: Option<i64>| named.filter(|position| is_wanted(*position));
        Self {
            failed: filter(self.failed),
            unknown: filter(self.unknown),
        }
    }

    /// Their positions.
    pub(crate) fn positions(self) -> impl Iterator<Item = i64> + use<> {
        self.failed.into_iter().chain(self.unknown)
    }

    /// These, and of others those that these leave open.
    pub(crate) fn or(self, others: Self) -> Self {
        Self {
            failed: self.failed.or(others.failed),
            unknown: self.unknown.or(others.unknown),
        }
    }
}

/// A process that works on checkpoint rows.
#[derive(Clone, Debug)]
pub struct Process {
    /// The name of its host.
    pub host: Arc<str>,
    /// Its process id on that host.
    pub pid: i64,
    /// The build of its program.
    pub release: Arc<str>,
}

/// A release as one of several in a text: none is part of another.
pub(super) fn release_line(release: &str) -> String {
    format!("\n{release}\n")
}

impl Checkpoint {
    /// Whether a release has stopped at an event, which it leaves to others.
    pub(crate) fn has_failed(&self, release: &str, position: i64) -> bool {
        self.failed_position == Some(position) && self.is_failed_by(release)
    }

    /// Whether a release is one of those that stopped at the event which failed last.
    pub(crate) fn is_failed_by(&self, release: &str) -> bool {
        let failed = self.failed_releases.as_deref().unwrap_or_default();
        failed.contains(&release_line(release))
    }

    /// The events that the row names and has not passed.
    pub(crate) fn named(&self) -> NamedEvents {
        let named = NamedEvents {
            failed: self.failed_position,
            unknown: self.unknown.as_ref().map(|unknown| unknown.position),
        };
        named.filter(|position| self.position < position)
    }

    /// Whether an event has failed and nothing has happened since that puts it right. One that the row only names,
    /// as after `resume`, has no error.
    pub(crate) fn has_failure_at(&self, position: i64) -> bool {
        self.failed_position == Some(position) && self.error.is_some()
    }

    /// Whether an event that has failed is tried again: by the release that failed on it, or by another one.
    pub(crate) fn is_tried_again(&self) -> bool {
        let is_left = self.failed_position > Some(self.position) && self.failed_releases.is_some();
        self.state == State::Running && (self.attempts > 0 || is_left)
    }

    /// The end and the epoch of the row that two neighbours can be merged into, if they agree.
    pub(crate) fn merged(rows: &[Self]) -> Option<(i32, i64)> {
        let [left, right] = rows else {
            return None;
        };
        let agree = left.position == right.position
            && left.scope == right.scope
            && left.slice_to == right.key.slice_from
            && rows.iter().all(|row| row.state == State::Running);
        // Only one of them may have been resumed.
        agree.then(|| (right.slice_to, left.epoch.max(right.epoch)))
    }

    /// Whether it was started again since it had an epoch and a position.
    pub(crate) fn is_restarted(&self, epoch: i64, position: i64) -> bool {
        self.epoch != epoch || self.position < position
    }

    /// The values that change when another process works on the row.
    pub(crate) fn progress(&self) -> (i64, i64, State, u32) {
        (self.position, self.epoch, self.state, self.attempts)
    }

    pub(super) fn decode<DB: Driver>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        Self::decode_at::<DB>(row, SegmentId::decode::<DB>(row)?)
    }

    /// Decodes a row whose key is known.
    fn decode_at<DB: Driver>(row: &DB::Row, key: SegmentId) -> Result<Self, sqlx::Error> {
        let state: String = DB::read(row, "state")?;
        let attempts: i32 = DB::read(row, "attempts")?;
        let position: i64 = DB::read(row, "position")?;
        let unknown: Option<i64> = DB::read(row, "unknown_position")?;
        let unknown = unknown
            .filter(|unknown| *unknown > position)
            .map(|unknown| UnknownEvent::decode::<DB>(row, unknown))
            .transpose()?;
        Ok(Self {
            key,
            slice_to: DB::read(row, "slice_to")?,
            position,
            epoch: DB::read(row, "epoch")?,
            scope: DB::read(row, "scope")?,
            state: State::parse(&state),
            began: DB::read(row, "began")?,
            hold_at: DB::read(row, "hold_at")?,
            attempts: u32::try_from(attempts).unwrap_or(0),
            failed_position: DB::read(row, "failed_position")?,
            error: DB::read(row, "error")?,
            failed_releases: DB::read(row, "failed_releases")?,
            unknown,
        })
    }
}

/// A checkpoint row of a snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotRow {
    /// The row.
    pub checkpoint: Checkpoint,
    /// The first event that it had yet to handle when a worker last looked.
    pub pending: Option<i64>,
    /// Another one that it had yet to handle, or else one that it has passed.
    pub kept: Option<i64>,
}

impl SnapshotRow {
    pub(super) fn decode_all<DB: Driver>(rows: &[DB::Row]) -> Result<Vec<Self>, sqlx::Error> {
        rows.iter().map(Self::decode::<DB>).collect()
    }

    fn decode<DB: Driver>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            checkpoint: Checkpoint::decode::<DB>(row)?,
            pending: DB::read(row, "pending")?,
            kept: DB::read(row, "kept")?,
        })
    }
}

/// A checkpoint row under its row lock.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The row.
    pub checkpoint: Checkpoint,
    /// The time until the next attempt.
    pub retry_in: Option<Duration>,
    /// The release that counted the failed attempts.
    pub release: Option<String>,
    /// Whether the consumer has parked events.
    pub parked: bool,
    /// Whether other versions of the consumer may handle an event first meanwhile.
    pub precedence: Precedence,
    /// Whether the ledger has ranges of the consumer after the checkpoint.
    pub is_replaying: bool,
    /// The incarnation of the server in which the row was claimed.
    pub incarnation: Incarnation,
    /// The process id of the server's backend that holds the lock; 0 without a server.
    pub backend: i32,
    /// The transaction that holds the lock; empty without a server.
    pub transaction: String,
    /// The settings of the connection that earlier handlers may have changed; empty where they are restored.
    pub session: String,
    /// Where the row is in its table; empty without a server.
    pub address: String,
}

/// How a claim holds the precedence of its consumer: the right to handle events that no version has handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precedence {
    /// The claim holds it together with those of the consumer's other segments. There is no other
    /// version, and one that is added cannot lock it meanwhile.
    Held,
    /// There are other versions, so it must be locked before an event is handled first.
    Open,
    /// A version that was added at this moment has locked it.
    Taken,
}

impl Precedence {
    fn decode<DB: Driver>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        let precedence: String = DB::read(row, "precedence")?;
        Ok(match precedence.as_str() {
            "held" => Self::Held,
            "taken" => Self::Taken,
            _ => Self::Open,
        })
    }
}

/// Who holds a mark of a consumer.
#[derive(Clone, Debug)]
pub struct MarkHolder {
    /// The version. Its segments handle different events, so they do not exclude each other.
    pub consumer: ConsumerId,
    /// Tells it apart from all other holders, in any process.
    pub id: String,
    /// The slices of the events to handle.
    pub slices: Range<i32>,
    /// Whether the events are replays, which other versions may handle at the same time.
    pub is_replay: bool,
}

impl MarkHolder {
    /// A command that waits for the current batches of these slices.
    pub(super) fn waiting(consumer: &ConsumerId, slices: Range<i32>) -> Self {
        Self {
            consumer: consumer.clone(),
            id: format!("waiting: {} to {}", slices.start, slices.end),
            slices,
            is_replay: false,
        }
    }

    /// The name by which its mark is found.
    pub(super) fn name(&self) -> Cow<'_, str> {
        if self.is_replay {
            format!("replay: {}", self.id).into()
        } else {
            Cow::Borrowed(&self.id)
        }
    }
}

impl Claim {
    pub(super) fn decode<DB: Driver>(row: &DB::Row, key: SegmentId) -> Result<Self, sqlx::Error> {
        Ok(Self {
            checkpoint: Checkpoint::decode_at::<DB>(row, key)?,
            retry_in: retry_in::<DB>(row)?,
            release: DB::read(row, "worker_release")?,
            parked: DB::read(row, "parked")?,
            precedence: Precedence::decode::<DB>(row)?,
            is_replaying: DB::read(row, "is_replaying")?,
            incarnation: Incarnation::decode::<DB>(row)?,
            backend: DB::read(row, "backend")?,
            transaction: DB::read(row, "transaction")?,
            session: DB::read(row, "session")?,
            address: DB::read(row, "address")?,
        })
    }
}

/// The wait until the next attempt, if it is not over.
fn retry_in<DB: Driver>(row: &DB::Row) -> Result<Option<Duration>, sqlx::Error> {
    let millis: Option<i64> = DB::read(row, "retry_in")?;
    let millis = millis.and_then(|millis| u64::try_from(millis).ok());
    Ok(millis
        .filter(|&millis| millis > 0)
        .map(Duration::from_millis))
}

impl Incarnation {
    pub(super) fn decode<DB: Driver>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            started: DB::read(row, "started")?,
            recovered: DB::read(row, "recovered")?,
        })
    }
}

/// The values that a lane saves.
#[derive(Clone, Debug)]
pub struct NewCheckpoint {
    /// The new checkpoint.
    pub position: i64,
    /// Whether the consumer may continue.
    pub state: State,
    /// The failure of the event after the checkpoint, if it failed.
    pub failure: Option<Failure>,
}

impl NewCheckpoint {
    /// The releases that have stopped at the failing event, once this one has saved the row.
    pub(super) fn failed_releases(&self, before: &Checkpoint, release: &str) -> Option<String> {
        let position = self.failure.as_ref()?.position;
        let is_same = before.failed_position == Some(position);
        let known = before.failed_releases.as_ref().filter(|_| is_same);
        if self.state != State::Stopped || before.has_failed(release, position) {
            return known.cloned();
        }
        let line = release_line(release);
        // Two of them share a line break.
        Some(known.map_or_else(
            || line.clone(),
            |known| format!("{known}{}", line.trim_start()),
        ))
    }
}

/// A failed attempt at an event, which the row records for all processes.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The event.
    pub position: i64,
    /// The number of failed attempts so far.
    pub attempts: u32,
    /// The time until the next attempt.
    pub retry_in: Duration,
    /// The reason, with its causes.
    pub error: String,
}

impl Failure {
    /// The number of attempts in the type of its column.
    pub(super) fn attempts_column(&self) -> i32 {
        i32::try_from(self.attempts).unwrap_or(i32::MAX)
    }

    /// The time until the next attempt in milliseconds, at most about 31,000 years: no database has a
    /// time that is later.
    pub(super) fn retry_in_millis(&self) -> i64 {
        const LONGEST: i64 = 1_000_000_000_000_000;
        millis(self.retry_in).min(LONGEST)
    }
}

/// A duration in milliseconds.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The type and the id of an aggregate.
pub(crate) type Aggregate = (String, String);

/// An event to park.
#[derive(Debug)]
pub struct Parking<'a> {
    /// The event.
    pub event: &'a PersistedEvent,
    /// The failed attempts and the last error; `None` for an event that only waits behind an earlier
    /// one of its aggregate.
    pub failure: Option<(u32, &'a str)>,
    /// Whether a version of the consumer has handled it already.
    pub is_replay: bool,
}

impl<'a> Parking<'a> {
    /// The word in the column `reason`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        if self.failure.is_some() {
            "failed"
        } else {
            "behind"
        }
    }

    /// The number of attempts in the type of its column.
    #[must_use]
    pub fn attempts(&self) -> i32 {
        self.failure.map_or(0, |(attempts, _)| {
            i32::try_from(attempts).unwrap_or(i32::MAX)
        })
    }

    /// The last error.
    #[must_use]
    pub fn error(&self) -> Option<&'a str> {
        self.failure.map(|(_, error)| error)
    }
}

/// An idle checkpoint that can be advanced.
#[derive(Clone, Debug)]
pub struct Advance {
    /// The row's key.
    pub key: SegmentId,
    /// The slice after the row's last one: a row that was resized has other events.
    pub slice_to: i32,
    /// The row's epoch.
    pub epoch: i64,
    /// The lowest checkpoint for which this was found out.
    pub from: i64,
    /// The position up to which no event in the row's scope follows.
    pub to: i64,
    /// The events that the row names and that are not in its scope.
    pub(crate) excluded: NamedEvents,
}

/// A checkpoint row with the counts of its parked events.
#[derive(Clone, Debug)]
pub struct Row {
    pub(crate) checkpoint: Checkpoint,
    /// The time until the next attempt.
    pub(crate) retry_in: Option<Duration>,
    /// Milliseconds since the row was last written.
    pub(crate) saved_ago: i64,
    /// The position up to which events may be replays.
    pub(crate) replay_to: i64,
    pub(crate) parked: i64,
    pub(crate) parked_aggregates: i64,
    /// Two events that it had yet to handle when a worker last looked, as in [`SnapshotRow`].
    recorded: [Option<i64>; 2],
    /// The process that last saved the row after a claim.
    pub(crate) worker: Option<Presence>,
    /// Whether a worker or an operator has claimed it now; `None` if the database does not show that.
    pub(crate) is_claimed: Option<bool>,
    /// How long it has been claimed, if that is known.
    pub(crate) claimed_for: Option<Duration>,
}

/// A process that worked on a checkpoint row, and when.
#[derive(Clone, Debug)]
pub(crate) struct Presence {
    pub(crate) process: Process,
    /// Milliseconds since it last saved the row.
    pub(crate) ago: i64,
}

impl Presence {
    fn decode<DB: Driver>(row: &DB::Row) -> Result<Option<Self>, sqlx::Error> {
        let Some(ago) = DB::read(row, "worker_ago")? else {
            return Ok(None);
        };
        let host: String = DB::read(row, "worker_host")?;
        let release: String = DB::read(row, "worker_release")?;
        Ok(Some(Self {
            process: Process {
                host: host.into(),
                pid: DB::read(row, "worker_pid")?,
                release: release.into(),
            },
            ago,
        }))
    }
}

/// How long after it was last seen a process counts as one that runs its consumers.
pub(crate) const PRESENT_FOR: Duration = Duration::from_mins(3);

impl Row {
    /// The release of a process that runs the consumer, if it is another one than this, as far as the row
    /// tells.
    pub(crate) fn other_release(&self, own: &str) -> Option<&Arc<str>> {
        let Presence { process, ago } = self.worker.as_ref()?;
        let is_recent = u128::try_from(*ago).unwrap_or(0) < PRESENT_FOR.as_millis();
        let is_present = self.is_claimed == Some(true) || is_recent;
        (is_present && *process.release != *own).then_some(&process.release)
    }

    /// The events that it is known to have yet to handle.
    pub(crate) fn pending(&self) -> impl Iterator<Item = i64> + use<> {
        let row = &self.checkpoint;
        let known = row
            .named()
            .positions()
            .chain(self.recorded.into_iter().flatten());
        let position = row.position;
        known.filter(move |next| position < *next)
    }

    pub(super) fn decode<DB: Driver>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        let claimed_for: Option<i64> = DB::read(row, "claimed_for")?;
        Ok(Self {
            checkpoint: Checkpoint::decode::<DB>(row)?,
            retry_in: retry_in::<DB>(row)?,
            saved_ago: DB::read(row, "saved_ago")?,
            replay_to: DB::read(row, "replay_to")?,
            parked: DB::read(row, "parked")?,
            parked_aggregates: DB::read(row, "parked_aggregates")?,
            recorded: [DB::read(row, "pending")?, DB::read(row, "kept")?],
            worker: Presence::decode::<DB>(row)?,
            is_claimed: claimed_for.map(|time| time > -2),
            claimed_for: claimed_for
                .and_then(|time| u64::try_from(time).ok())
                .map(Duration::from_millis),
        })
    }
}

/// The row of a parked event.
#[derive(Clone, Debug)]
pub struct ParkedRow {
    pub(crate) position: i64,
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
    pub(crate) reason: String,
    pub(crate) attempts: i32,
    pub(crate) error: Option<String>,
    /// Milliseconds since it was parked.
    pub(crate) parked_ago: i64,
}

impl ParkedRow {
    pub(super) fn decode<DB: Driver>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            position: DB::read(row, "position")?,
            aggregate_type: DB::read(row, "aggregate_type")?,
            aggregate_id: DB::read(row, "aggregate_id")?,
            reason: DB::read(row, "reason")?,
            attempts: DB::read(row, "attempts")?,
            error: DB::read(row, "error")?,
            parked_ago: DB::read(row, "parked_ago")?,
        })
    }
}

/// The transaction that has locked rows; empty without a server.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "postgres"), allow(dead_code))] // SQLite has no server
pub struct Taken {
    /// The transaction's id.
    pub(crate) transaction: String,
    /// The process id of its backend.
    pub(crate) backend: i32,
}

/// The result of an attempt to lock the rows of a consumer.
#[derive(Clone, Debug)]
pub enum Lock {
    /// They are locked, in this transaction.
    Taken(Taken),
    /// The consumer has none.
    Missing,
}

/// Starts a statement whose first two parameters are a version of a consumer.
pub(super) fn on_consumer<DB: Driver>(statement: &Sql, consumer: &ConsumerId) -> Statement<DB> {
    statement
        .on()
        .bind(&*consumer.name)
        .bind(consumer.version_column())
}

/// Starts a statement whose first three parameters are the key of a row.
pub(super) fn on_row<DB: Driver>(statement: &Sql, key: &SegmentId) -> Statement<DB> {
    on_consumer(statement, &key.consumer).bind(key.slice_from)
}
