//! The state of every consumer, as an operator sees it.

use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

use super::error::AdminError;
use super::frontier::FrontierStatus;
use super::lag::{Lag, MOST_COUNTED, in_seconds, millis, scope_of, seconds};
use super::log_reader::LogReader;
use super::operator::{Admin, consumer_of, declared_id};
use crate::backend::{
    Access, Backend, Checkpoint, ConsumerId, HeldBack, PRESENT_FOR, Part, Presence, Process, Row,
    State, UnknownEvent,
};
use crate::registry::Registered;
use crate::worker::ConsumerState;
use crate::worker::poller::assignment::scope_text;

/// The consumers of a store and its frontier at one moment.
///
/// ```
/// # consumer::__doc::registered(async |store| { use consumer::__doc::Users;
/// use consumer::Worker;
/// use consumer::admin::ConsumerState;
///
/// let admin = Worker::builder(store.clone()).consumer(Users).admin()?;
/// let status = admin.status().await?;
/// let users = status.consumer("users").unwrap();
/// assert_eq!(users.state, ConsumerState::New);
/// assert_eq!((users.position, users.lag.events), (None, 1));
///
/// Worker::builder(store).consumer(Users).build()?.run_once().await?;
/// let status = admin.status().await?;
/// let users = status.consumer("users").unwrap();
/// assert_eq!(users.state, ConsumerState::Running);
/// assert_eq!((users.position, users.lag.events, users.parked), (Some(1), 0, 0));
/// assert_eq!(status.frontier.head, 1);
///
/// // For other programs:
/// let json = serde_json::to_value(&status)?;
/// assert_eq!(json["consumers"][0]["state"], "running");
/// # Ok(()) }).unwrap();
/// ```
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The name of the log: its table of events, after the database schema if the store's
    /// [`Schema`](crate::Schema) names one.
    pub log: String,
    /// One entry per consumer and version, ordered by name and version.
    pub consumers: Vec<ConsumerStatus>,
    /// How far the log is settled.
    pub frontier: FrontierStatus,
    /// When the status was read.
    #[serde(skip)]
    pub looked_at: Instant,
}

impl Status {
    /// Returns the entry of a consumer; with several versions, the first.
    #[must_use]
    pub fn consumer(&self, name: &str) -> Option<&ConsumerStatus> {
        self.consumers.iter().find(|one| &*one.id.name == name)
    }
}

/// The status of one version of a consumer; see [`Status`].
///
/// ```
/// use consumer::admin::ConsumerStatus;
///
/// /// A line for the on-call engineer.
/// fn line(one: &ConsumerStatus) -> String {
///     let more = if one.lag.is_more { "more than " } else { "" };
///     let behind = format!("{more}{} events behind", one.lag.events);
///     match &one.failing {
///         Some(failing) => format!("{}: {behind}, failed {} times: {}", one.id, failing.attempts, failing.error),
///         None => format!("{}: {behind}, {} parked", one.id, one.parked),
///     }
/// }
/// ```
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ConsumerStatus {
    /// Its name and version.
    #[serde(flatten, serialize_with = "name_and_version")]
    pub id: ConsumerId,
    /// Whether this is the active version.
    pub is_active: bool,
    /// Its state, as far as the checkpoint tells.
    pub state: ConsumerState,
    /// The checkpoint; `None` if no worker has run it. With several segments, the lowest.
    pub position: Option<i64>,
    /// Up to where events are a replay.
    pub replay_to: i64,
    /// How far it is behind the head of the log.
    pub lag: Lag,
    /// How far it is behind the frontier: the part of `lag` that it may handle now. It is less than `lag`
    /// while an open transaction blocks the frontier.
    pub settled_lag: Lag,
    /// Why it is held back, and the commands that end it, if it is.
    pub held_back: Option<String>,
    /// The event that failed last, unless it has been handled since.
    pub failing: Option<Failing>,
    /// Events that were deleted before it had handled them, as far as the workers recorded: it stops, or
    /// skips them if that is its policy, when it reaches them.
    pub missing: Option<RangeInclusive<i64>>,
    /// The number of parked events.
    pub parked: u64,
    /// The number of aggregates that the parked events belong to.
    pub parked_aggregates: u64,
    /// The aggregate types that it handles; empty for every event.
    pub scope: Vec<String>,
    /// Its group in the code.
    pub group: Option<&'static str>,
    /// Events of its scope handled per second since an earlier status; `None` without one, or if it has
    /// handled more than 1,000,000 events since then.
    pub rate: Option<f64>,
    /// How long ago its checkpoint was last written.
    #[serde(serialize_with = "seconds")]
    pub saved_ago: Option<Duration>,
    /// Its segments, ordered by slice; empty if no worker has run it.
    pub segments: Vec<SegmentStatus>,
    /// The event before which it waits for a release that knows it.
    pub waiting_for: Option<UnknownEvent>,
    /// The releases that have failed on the event at which it stopped: none of them tries it again unless
    /// it is resumed.
    pub failed_releases: Vec<String>,
    /// The processes that last handled events of each of its segments, the most recent first.
    pub workers: Vec<WorkerStatus>,
}

/// The status of one segment of a consumer; see [`ConsumerStatus::segments`].
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SegmentStatus {
    /// The slices of the aggregates that it handles; see [`aggregate_slice`](crate::aggregate_slice).
    pub slices: Range<i32>,
    /// Its state, as far as the checkpoint tells.
    pub state: ConsumerState,
    /// Its checkpoint.
    pub position: i64,
    /// The number of its parked events.
    pub parked: u64,
    /// How long ago its checkpoint was last written.
    #[serde(serialize_with = "seconds")]
    pub saved_ago: Option<Duration>,
    /// The process that last handled events of it.
    pub worker: Option<WorkerStatus>,
    /// Whether it is claimed: a batch of it, or a command of an operator, is in progress. `None` if that is
    /// unknown, as on SQLite unless its handler does not use the transaction.
    pub is_claimed: Option<bool>,
    /// How long it has been claimed, if the database tells.
    #[serde(serialize_with = "seconds")]
    pub claimed_for: Option<Duration>,
    /// The event that failed last, unless it has been handled since.
    pub failing: Option<Failing>,
}

impl SegmentStatus {
    fn of(row: &Row) -> Self {
        Self {
            slices: row.checkpoint.key.slice_from..row.checkpoint.slice_to,
            state: state(&row.checkpoint, std::slice::from_ref(row)),
            position: row.checkpoint.position,
            parked: u64::try_from(row.parked).unwrap_or(0),
            saved_ago: Some(millis(row.saved_ago)),
            worker: row.worker.as_ref().map(WorkerStatus::of),
            is_claimed: row.is_claimed,
            claimed_for: row.claimed_for,
            failing: failing(row),
        }
    }
}

/// A process that handled events of a consumer; see [`ConsumerStatus::workers`].
///
/// It may have ended since: a process that has nothing to do writes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// The name of its host.
    pub host: String,
    /// Its process id on that host.
    pub pid: i64,
    /// The build of its program; see [`WorkerBuilder::release`](crate::WorkerBuilder::release).
    pub release: String,
    /// How long ago it saved its last batch.
    #[serde(serialize_with = "as_seconds")]
    pub seen_ago: Duration,
}

impl WorkerStatus {
    fn of(presence: &Presence) -> Self {
        let Presence { process, ago } = presence;
        Self {
            host: process.host.to_string(),
            pid: process.pid,
            release: process.release.to_string(),
            seen_ago: millis(*ago),
        }
    }

    /// Whether both are one process.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.host, self.pid, &self.release) == (&other.host, other.pid, &other.release)
    }
}

/// Each process, as it was seen last, with the consumers whose events it handled; the most recent first.
#[cfg_attr(not(any(feature = "cli", feature = "dashboard")), allow(dead_code))]
pub(crate) fn processes_of(
    consumers: &[ConsumerStatus],
) -> Vec<(&WorkerStatus, Vec<&ConsumerStatus>)> {
    let mut all: Vec<(&WorkerStatus, Vec<&ConsumerStatus>)> = Vec::new();
    let seen = consumers
        .iter()
        .flat_map(|one| one.workers.iter().map(move |worker| (worker, one)));
    for (worker, consumer) in seen {
        match all.iter_mut().find(|(one, _)| one.is_same(worker)) {
            Some((latest, consumers)) => {
                consumers.push(consumer);
                if worker.seen_ago < latest.seen_ago {
                    *latest = worker;
                }
            }
            None => all.push((worker, vec![consumer])),
        }
    }
    all.sort_by_key(|(worker, _)| worker.seen_ago);
    all
}

impl ConsumerStatus {
    /// The number of its segments that have a batch in progress, and how long the longest of them has taken as far
    /// as that is known; `None` if there is none.
    #[cfg_attr(not(any(feature = "cli", feature = "dashboard")), allow(dead_code))]
    pub(crate) fn batches(&self) -> Option<(u64, Option<Duration>)> {
        let claimed = self
            .segments
            .iter()
            .filter(|one| one.is_claimed == Some(true));
        let count = claimed.clone().count() as u64;
        let longest = claimed.filter_map(|one| one.claimed_for).max();
        (count > 0).then_some((count, longest))
    }

    /// Shows that it is held back, unless it cannot run for another reason.
    fn hold_back(&mut self, held_back: Option<&HeldBack>) {
        if let Some(held_back) = held_back
            && !matches!(self.state, ConsumerState::OtherLog { .. })
        {
            self.held_back = Some(held_back.to_string());
            self.state = ConsumerState::HeldBack(held_back.clone());
        }
    }
}

/// An event that a consumer has failed to handle; see [`ConsumerStatus::failing`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Failing {
    /// The event.
    pub position: Option<i64>,
    /// The number of failed attempts.
    pub attempts: u32,
    /// The time until the next attempt.
    #[serde(serialize_with = "seconds")]
    pub retry_in: Option<Duration>,
    /// How long ago it failed last.
    #[serde(serialize_with = "as_seconds")]
    pub failed_ago: Duration,
    /// The error and its causes.
    pub error: String,
}

impl<DB: Backend> Admin<DB> {
    /// Reports the [`Status`] of every consumer, whether or not a worker is running.
    ///
    /// # Errors
    /// If the database fails or the tables are missing.
    pub async fn status(&self) -> Result<Status, AdminError> {
        self.status_counting(MOST_COUNTED).await
    }

    /// Reports the [`Status`] of every consumer, where no lag is counted beyond a number of events.
    pub(crate) async fn status_counting(&self, most_counted: i64) -> Result<Status, AdminError> {
        self.tables()
            .await?
            .store
            .check_access(Access::Observe)
            .await?;
        let frontier = self.frontier_or_problem().await?;
        let rows = self.rows().await?;
        let active = self
            .active_versions(&mut *self.read().await?, &rows)
            .await?;
        let mut reader = self.log_reader(most_counted).await?;
        let mut consumers = Vec::new();
        for own in rows.chunk_by(|one, next| consumer_of(one) == consumer_of(next)) {
            let status = self.consumer_status(own, &active, &frontier, &mut reader);
            consumers.extend(status.await?);
        }
        consumers.extend(self.new_consumers(&rows, &frontier, &mut reader).await?);
        let held_back = self.held_back().await?;
        let later_names = || held_back.values().filter_map(HeldBack::later_name);
        for one in &mut consumers {
            one.hold_back(held_back.get(&one.id));
            if one.state == ConsumerState::Detached
                && later_names().any(|name| *name == *one.id.name)
            {
                one.state = ConsumerState::OtherRelease;
            }
        }
        consumers.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(Status {
            log: self.store.schema().log_name(),
            consumers,
            frontier,
            looked_at: Instant::now(),
        })
    }

    /// Reports the [`Status`] of every consumer, and its rate since an earlier status.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| { use consumer::__doc::Users;
    /// let admin = consumer::Worker::builder(store).consumer(Users).admin()?;
    /// let before = admin.status().await?;
    /// // Some time later:
    /// let status = admin.status_since(&before).await?;
    /// for consumer in &status.consumers {
    ///     println!("{}: {:.0} events/s", consumer.id, consumer.rate.unwrap_or_default());
    /// }
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Those of [`status`](Self::status).
    pub async fn status_since(&self, before: &Status) -> Result<Status, AdminError> {
        let mut status = self.status().await?;
        self.add_rates(&mut status, before, MOST_COUNTED).await?;
        Ok(status)
    }

    /// Adds the rate of each consumer since an earlier status. One that has handled more events than are
    /// counted has none.
    pub(crate) async fn add_rates(
        &self,
        status: &mut Status,
        before: &Status,
        most_counted: i64,
    ) -> Result<(), AdminError> {
        let seconds = (status.looked_at - before.looked_at).as_secs_f64();
        let mut reader = self.log_reader(most_counted).await?;
        for one in &mut status.consumers {
            let mut earlier = before.consumers.iter();
            let earlier = earlier.find(|other| other.id == one.id);
            let Some((after, up_to)) = earlier.and_then(|other| other.position).zip(one.position)
            else {
                continue;
            };
            let part = Part {
                after,
                up_to,
                scope: &one.scope,
            };
            let handled = reader.count(part, most_counted.saturating_add(1)).await?;
            let is_known = handled <= most_counted && seconds > 0.0;
            #[allow(clippy::cast_precision_loss)] // a rate for people
            let rate = is_known.then(|| handled as f64 / seconds);
            one.rate = rate;
        }
        Ok(())
    }

    /// The rows of one consumer, as one entry.
    async fn consumer_status(
        &self,
        rows: &[Row],
        active: &HashMap<Arc<str>, u32>,
        frontier: &FrontierStatus,
        reader: &mut LogReader<DB>,
    ) -> Result<Option<ConsumerStatus>, AdminError> {
        let Some(worst) = worst(rows) else {
            return Ok(None);
        };
        let consumer = consumer_of(worst);
        let position = rows.iter().map(|row| row.checkpoint.position).min();
        let scope = scope_of(&worst.checkpoint.scope);
        let after = position.unwrap_or_default();
        let (lag, settled_lag) = lags(after, frontier, &scope, reader).await?;
        let state = match self.state_of(rows) {
            // A checkpoint with nothing of its scope after it advances lazily.
            ConsumerState::Rebuilding if lag.events == 0 => ConsumerState::Running,
            state => state,
        };
        let state = match (unattended(rows, lag, settled_lag), state) {
            (
                Some(waited),
                ConsumerState::Running | ConsumerState::Rebuilding | ConsumerState::Retrying { .. },
            ) => ConsumerState::NoWorker {
                waited,
                may_be_busy: rows.iter().any(|row| row.is_claimed.is_none()),
            },
            (_, state) => state,
        };
        Ok(Some(ConsumerStatus {
            id: consumer.clone(),
            is_active: active.get(&consumer.name) == Some(&consumer.version),
            state,
            position,
            replay_to: worst.replay_to,
            lag,
            settled_lag,
            held_back: None,
            failing: failing(worst),
            missing: reader.missing_before(rows).await?,
            parked: sum(rows, |row| row.parked),
            parked_aggregates: sum(rows, |row| row.parked_aggregates),
            scope,
            group: self
                .code_of(consumer)
                .ok()
                .and_then(|code| code.declaration.group),
            rate: None,
            saved_ago: rows.iter().map(|row| millis(row.saved_ago)).min(),
            segments: rows.iter().map(SegmentStatus::of).collect(),
            waiting_for: waiting_for(&worst.checkpoint).cloned(),
            failed_releases: failed_releases(&worst.checkpoint),
            workers: workers(rows),
        }))
    }

    /// The state of a consumer by its rows; `Forgotten` if it has none.
    pub(super) fn state_of(&self, rows: &[Row]) -> ConsumerState {
        let Some(worst) = worst(rows) else {
            return ConsumerState::Forgotten;
        };
        let consumer = consumer_of(worst);
        let Ok(code) = self.code_of(consumer) else {
            return self.state_without_code(consumer, rows);
        };
        match state(&worst.checkpoint, rows) {
            running @ (ConsumerState::Running
            | ConsumerState::Retrying { .. }
            | ConsumerState::WaitingForRelease { .. }
            | ConsumerState::Rebuilding) => {
                changed_scope(&worst.checkpoint, code).unwrap_or(running)
            }
            other => other,
        }
    }

    fn state_without_code(&self, consumer: &ConsumerId, rows: &[Row]) -> ConsumerState {
        let runs_elsewhere = self.elsewhere.iter().any(|name| **name == *consumer.name);
        let mut declared = self.code.iter().map(|one| &one.declaration.name);
        let of_row = || {
            let worst = worst(rows).map(|row| state(&row.checkpoint, rows));
            worst.unwrap_or(ConsumerState::Forgotten)
        };
        if !self.knows_code || runs_elsewhere {
            of_row()
        } else if declared.any(|name| *name == consumer.name) {
            ConsumerState::OtherVersion
        } else if self.is_of_other_release(rows) {
            match of_row() {
                ConsumerState::Running | ConsumerState::Rebuilding => ConsumerState::OtherRelease,
                trouble => trouble,
            }
        } else {
            ConsumerState::Detached
        }
    }

    /// Whether a process of another release than this one runs a consumer.
    fn is_of_other_release(&self, rows: &[Row]) -> bool {
        let own = Process::current(self.release.as_deref()).release;
        rows.iter().any(|row| row.other_release(&own).is_some())
    }

    /// Consumers of the program that have no checkpoint yet.
    async fn new_consumers(
        &self,
        rows: &[Row],
        frontier: &FrontierStatus,
        reader: &mut LogReader<DB>,
    ) -> Result<Vec<ConsumerStatus>, AdminError> {
        let mut new = Vec::new();
        for one in &self.code {
            let declaration = &one.declaration;
            let consumer = declared_id(declaration);
            if rows.iter().any(|row| *consumer_of(row) == consumer) {
                continue;
            }
            let scope = scope_of(&scope_text(&declaration.scope));
            let other_log = reader.other_log(&consumer.name).await?;
            let (lag, settled_lag) = lags(0, frontier, &scope, reader).await?;
            new.push(ConsumerStatus {
                id: consumer,
                is_active: false,
                state: other_log.map_or(ConsumerState::New, |log| ConsumerState::OtherLog { log }),
                position: None,
                replay_to: 0,
                lag,
                settled_lag,
                held_back: None,
                failing: None,
                missing: None,
                parked: 0,
                parked_aggregates: 0,
                scope,
                group: declaration.group,
                rate: None,
                saved_ago: None,
                segments: Vec::new(),
                waiting_for: None,
                failed_releases: Vec::new(),
                workers: Vec::new(),
            });
        }
        Ok(new)
    }
}

/// How long settled events have waited without a worker, if that is too long.
fn unattended(rows: &[Row], lag: Lag, settled: Lag) -> Option<Duration> {
    let seen_ago = rows.iter().map(|row| millis(row.saved_ago)).min();
    let waited = seen_ago.zip(lag.time).map(|(seen, event)| seen.min(event));
    let is_busy = |row: &Row| row.is_claimed == Some(true) || row.retry_in.is_some();
    let is_left = settled.events > 0 && !rows.iter().any(is_busy);
    waited.filter(|waited| is_left && *waited >= PRESENT_FOR)
}

/// How far a checkpoint is behind the head, and behind the frontier.
async fn lags<DB: Backend>(
    after: i64,
    frontier: &FrontierStatus,
    scope: &[String],
    reader: &mut LogReader<DB>,
) -> Result<(Lag, Lag), AdminError> {
    let part = |up_to| Part {
        after,
        up_to,
        scope,
    };
    let lag = reader.lag(part(frontier.head)).await?;
    let settled_lag = reader.lag(part(frontier.settled)).await?;
    Ok((lag, settled_lag))
}

/// The row that represents a consumer: one in trouble, otherwise the slowest.
fn worst(rows: &[Row]) -> Option<&Row> {
    rows.iter().min_by_key(|row| {
        let trouble = match row.checkpoint.state {
            State::Stopped => 0,
            State::Running if row.checkpoint.is_tried_again() => 1,
            State::Running if row.checkpoint.unknown.is_some() => 2,
            State::Paused => 3,
            State::Running => 4,
        };
        (trouble, row.checkpoint.position)
    })
}

/// The state of a consumer's worst row, regardless of the code.
fn state(worst: &Checkpoint, rows: &[Row]) -> ConsumerState {
    let is_replayed = |row: &Row| row.checkpoint.position < row.replay_to;
    match worst.state {
        State::Stopped => ConsumerState::stopped(worst),
        State::Paused => ConsumerState::Paused,
        State::Running if worst.is_tried_again() => ConsumerState::Retrying {
            position: worst.failed_position.unwrap_or_default(),
            attempts: worst.attempts,
            error: worst.error.clone().unwrap_or_default(),
        },
        State::Running => match waiting_for(worst) {
            Some(event) => ConsumerState::WaitingForRelease {
                event: event.clone(),
            },
            None if rows.iter().any(is_replayed) => ConsumerState::Rebuilding,
            None => ConsumerState::Running,
        },
    }
}

/// The event before which a row waits for a release that knows it, unless one is at it.
pub(super) fn waiting_for(row: &Checkpoint) -> Option<&UnknownEvent> {
    let is_waiting = row.state == State::Running && !row.is_tried_again();
    row.unknown.as_ref().filter(|_| is_waiting)
}

fn failed_releases(row: &Checkpoint) -> Vec<String> {
    let is_current = row.failed_position > Some(row.position);
    let failed = row.failed_releases.as_deref().filter(|_| is_current);
    let lines = failed.unwrap_or_default().lines();
    lines
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The processes that worked on the rows, each once.
fn workers(rows: &[Row]) -> Vec<WorkerStatus> {
    let mut workers: Vec<WorkerStatus> = Vec::new();
    let mut all: Vec<&Presence> = rows.iter().filter_map(|row| row.worker.as_ref()).collect();
    all.sort_by_key(|one| one.ago);
    for worker in all.into_iter().map(WorkerStatus::of) {
        if !workers.iter().any(|one| one.is_same(&worker)) {
            workers.push(worker);
        }
    }
    workers
}

/// The state of a checkpoint that was reached with another scope than the code has.
pub(super) fn changed_scope<DB: Backend>(
    checkpoint: &Checkpoint,
    code: &Registered<DB>,
) -> Option<ConsumerState> {
    ConsumerState::scope_changed(checkpoint, &scope_text(&code.declaration.scope))
}

fn failing(row: &Row) -> Option<Failing> {
    let checkpoint = &row.checkpoint;
    // What is left of an earlier failure says nothing any more.
    if checkpoint.state == State::Running && !checkpoint.is_tried_again() {
        return None;
    }
    Some(Failing {
        position: checkpoint.failed_position,
        attempts: checkpoint.attempts,
        retry_in: row.retry_in,
        failed_ago: millis(row.saved_ago),
        error: checkpoint.error.clone()?,
    })
}

/// The sum of a number over all rows.
pub(super) fn sum<'a>(rows: impl IntoIterator<Item = &'a Row>, one: impl Fn(&Row) -> i64) -> u64 {
    rows.into_iter()
        .map(|row| u64::try_from(one(row)).unwrap_or(0))
        .sum()
}

fn as_seconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(in_seconds(*time))
}

fn name_and_version<S: Serializer>(id: &ConsumerId, to: S) -> Result<S::Ok, S::Error> {
    fields(id, "name", to)
}

pub(super) fn consumer_and_version<S: Serializer>(
    id: &ConsumerId,
    to: S,
) -> Result<S::Ok, S::Error> {
    fields(id, "consumer", to)
}

/// A consumer as two fields among others.
fn fields<S: Serializer>(id: &ConsumerId, name: &'static str, to: S) -> Result<S::Ok, S::Error> {
    let mut fields = to.serialize_map(Some(2))?;
    fields.serialize_entry(name, &*id.name)?;
    fields.serialize_entry("version", &id.version)?;
    fields.end()
}
