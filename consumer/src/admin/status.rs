//! What an operator sees.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::ser::Serializer;

use super::{Admin, AdminError, of_row};
use crate::backend::Backend;
use crate::backend::Blocker;
use crate::backend::{ConsumerId, Part, Row};
use crate::backend::{FrontierWatch as _, State};
use crate::registry::Registered;
use crate::worker::WorkerError;
use crate::worker::poller::assignment::scope_text;

/// Beyond this, nobody needs to know exactly how far behind a consumer is.
const MOST_COUNTED: i64 = 1_000_000;

/// The consumers of a store and its frontier at one moment.
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
/// use consumer::admin::ConsumerState;
/// use consumer::{ExpectedVersion, NewEvent, SqliteEventStore, Worker};
///
/// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
/// # store.migrate().await?;
/// # let event = [NewEvent::new("User", "ada", "UserRegistered", "{}")];
/// # store.append(ExpectedVersion::Any, &event).await?;
/// let admin = Worker::builder(store.clone()).consumer(Users).admin()?;
/// let status = admin.status().await?;
/// let users = status.consumer("users").unwrap();
/// assert_eq!(users.state, ConsumerState::New);
/// assert_eq!((users.position, users.lag.events), (None, 1));
///
/// # Worker::builder(store).consumer(Users).build()?.run_once().await?;
/// // After a worker has run:
/// let status = admin.status().await?;
/// let users = status.consumer("users").unwrap();
/// assert_eq!(users.state, ConsumerState::Running);
/// assert_eq!((users.position, users.lag.events, users.parked), (Some(1), 0, 0));
/// assert_eq!(status.frontier.head, 1);
///
/// // As other programs read it.
/// let json = serde_json::to_value(&status)?;
/// assert_eq!(json["consumers"][0]["state"], "running");
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// One entry a consumer and version, in the order of their names.
    pub consumers: Vec<ConsumerStatus>,
    /// How far the log is settled.
    pub frontier: FrontierStatus,
    /// When it was looked at.
    #[serde(skip)]
    pub looked_at: Instant,
}

impl Status {
    /// The entry of a consumer; with several versions, the first.
    ///
    /// See [`Status`] for an example.
    #[must_use]
    pub fn consumer(&self, name: &str) -> Option<&ConsumerStatus> {
        self.consumers.iter().find(|one| &*one.name == name)
    }
}

/// How far the log is settled, and who keeps it from going on.
///
/// See [`Admin::frontier`] for an example.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct FrontierStatus {
    /// Every position up to here is settled: it holds an event that is visible, or never will.
    pub settled: i64,
    /// The highest visible position.
    pub head: i64,
    /// The transactions that may still fill a gap below the head.
    #[serde(serialize_with = "texts")]
    pub blockers: Vec<Blocker>,
    /// Why the frontier cannot be known.
    pub problem: Option<String>,
}

/// How one version of a consumer stands.
///
/// See [`Status`] for an example.
///
/// ```
/// use consumer::admin::ConsumerStatus;
///
/// /// A line for whoever is on call.
/// fn line(one: &ConsumerStatus) -> String {
///     let more = if one.lag.is_more { "more than " } else { "" };
///     let behind = format!("{more}{} events behind", one.lag.events);
///     match &one.failing {
///         Some(failing) => format!("{}: {behind}, failed {} times: {}", one.name, failing.attempts, failing.error),
///         None => format!("{}: {behind}, {} parked", one.name, one.parked),
///     }
/// }
/// ```
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ConsumerStatus {
    /// The name.
    #[serde(serialize_with = "text")]
    pub name: Arc<str>,
    /// The version.
    pub version: u32,
    /// Whether this is the version that serves.
    pub is_active: bool,
    /// What it does.
    pub state: ConsumerState,
    /// The checkpoint; `None` when no worker ever ran it. With several segments, the lowest.
    pub position: Option<i64>,
    /// Up to where events are a replay.
    pub replay_to: i64,
    /// How far it is behind.
    pub lag: Lag,
    /// The event that failed last, when it has not been handled since.
    pub failing: Option<Failing>,
    /// How many events are parked.
    pub parked: u64,
    /// Of how many aggregates.
    pub parked_aggregates: u64,
    /// The aggregate types that it wants; empty for every event.
    pub scope: Vec<String>,
    /// The group that the code gives it.
    pub group: Option<&'static str>,
    /// Events of its scope that it handled in a second, since an earlier look; `None` without one.
    pub rate: Option<f64>,
    /// When its checkpoint was last written, from now.
    #[serde(serialize_with = "seconds")]
    pub saved_ago: Option<Duration>,
}

/// What a consumer does, as far as its checkpoint tells.
///
/// ```
/// use consumer::admin::ConsumerState;
///
/// /// Whether somebody has to be woken up.
/// fn is_urgent(state: &ConsumerState) -> bool {
///     matches!(state, ConsumerState::Stopped | ConsumerState::ScopeChanged)
/// }
///
/// assert!(!is_urgent(&ConsumerState::Paused));
/// assert_eq!(ConsumerState::ScopeChanged.to_string(), "scope changed");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConsumerState {
    /// No worker ever ran it.
    New,
    /// Nothing keeps it from running.
    Running,
    /// Its next event failed and will be tried again.
    Retrying,
    /// It stopped before an event (R2).
    Stopped,
    /// An operator paused it.
    Paused,
    /// It handles again what it has handled before.
    Rebuilding,
    /// Its checkpoint was reached with another scope than the code has.
    ScopeChanged,
    /// The program has another version of it; this one is left to other programs, or to nobody.
    OtherVersion,
    /// The program has no consumer of that name.
    Detached,
}

impl fmt::Display for ConsumerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
            Self::Rebuilding => "rebuilding",
            Self::ScopeChanged => "scope changed",
            Self::OtherVersion => "other version",
            Self::Detached => "detached",
        })
    }
}

/// How far a consumer is behind.
///
/// See [`ConsumerStatus`] for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Lag {
    /// Events of its scope that it has not handled.
    pub events: u64,
    /// Whether there are more than were counted.
    pub is_more: bool,
    /// How long ago the first of them was appended.
    #[serde(serialize_with = "seconds", rename = "seconds")]
    pub time: Option<Duration>,
}

/// An event that a consumer could not handle so far.
///
/// See [`Admin::resume`] and [`ConsumerStatus`] for examples.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Failing {
    /// The event.
    pub position: Option<i64>,
    /// How often it failed.
    pub attempts: u32,
    /// When it is tried again, from now.
    #[serde(serialize_with = "seconds")]
    pub retry_in: Option<Duration>,
    /// Why it failed.
    pub error: String,
}

impl<DB: Backend> Admin<DB> {
    /// Says how every consumer stands, also while no worker runs.
    ///
    /// See [`Status`] for an example.
    ///
    /// # Errors
    /// When the database cannot be used or the tables are missing.
    pub async fn status(&self) -> Result<Status, AdminError> {
        self.store.check().await?;
        let frontier = self.frontier_or_problem().await?;
        let rows = self.rows().await?;
        let active = self.active_versions(&rows).await?;
        let mut consumers = Vec::new();
        for group in rows.chunk_by(|one, next| of_row(one) == of_row(next)) {
            consumers.extend(self.consumer_status(group, &active, frontier.head).await?);
        }
        consumers.extend(self.new_consumers(&rows, frontier.head).await?);
        consumers
            .sort_by(|left, right| (&left.name, left.version).cmp(&(&right.name, right.version)));
        Ok(Status {
            consumers,
            frontier,
            looked_at: Instant::now(),
        })
    }

    /// Says how every consumer stands, and how fast it went since an earlier look.
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
    /// # Worker::builder(store.clone()).consumer(Users).build()?.run_once().await?;
    /// let admin = Worker::builder(store.clone()).consumer(Users).admin()?;
    /// let before = admin.status().await?;
    /// # let event = [NewEvent::new("User", "ada", "UserRegistered", "{}")];
    /// # store.append(ExpectedVersion::Any, &event).await?;
    /// # Worker::builder(store).consumer(Users).build()?.run_once().await?;
    /// // Some time later:
    /// let status = admin.status_since(&before).await?;
    /// for consumer in &status.consumers {
    ///     println!("{}: {:.0} events/s", consumer.name, consumer.rate.unwrap_or_default());
    /// }
    /// # assert!(status.consumers[0].rate > Some(0.0));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// Like [`status`](Self::status).
    pub async fn status_since(&self, before: &Status) -> Result<Status, AdminError> {
        let mut status = self.status().await?;
        let seconds = (status.looked_at - before.looked_at).as_secs_f64();
        for one in &mut status.consumers {
            let same =
                |other: &&ConsumerStatus| other.name == one.name && other.version == one.version;
            let earlier = before.consumers.iter().find(same);
            let Some((from, to)) = earlier.and_then(|other| other.position).zip(one.position)
            else {
                continue;
            };
            let handled = self.count_between(from, to, &one.scope).await?;
            #[allow(clippy::cast_precision_loss)] // a rate for people
            let handled = handled as f64;
            one.rate = (seconds > 0.0).then(|| handled / seconds);
        }
        Ok(status)
    }

    async fn count_between(
        &self,
        after: i64,
        up_to: i64,
        scope: &[String],
    ) -> Result<i64, AdminError> {
        if after >= up_to {
            return Ok(0);
        }
        let part = Part {
            after,
            up_to,
            scope,
        };
        let mut connection = self.look().await?;
        Ok(DB::count(&self.sql, &mut connection, part, MOST_COUNTED).await?)
    }

    /// Says how far the log is settled, and who keeps it from going on.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use consumer::admin::Admin;
    /// use consumer::{ExpectedVersion, NewEvent, SqliteEventStore};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// # let event = [NewEvent::new("User", "ada", "UserRegistered", "{}")];
    /// # store.append(ExpectedVersion::Any, &event).await?;
    /// let frontier = Admin::new(store).frontier().await?;
    /// assert_eq!((frontier.settled, frontier.head), (1, 1));
    /// for blocker in &frontier.blockers {
    ///     println!("the log waits for {blocker}");
    /// }
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// When the database cannot be used, or the log is not one whose frontier can be known.
    pub async fn frontier(&self) -> Result<FrontierStatus, AdminError> {
        let mut watch = self.watch.lock().await;
        let mut connection = self.store.pool().acquire().await?;
        let mut current = match watch.take() {
            Some(current) => current,
            None => DB::Watch::look(self.store.settings(), &mut connection).await?,
        };
        let seen = loop {
            let seen = current.observe(&mut connection).await?;
            if !seen.more {
                break seen;
            }
        };
        let blockers = if seen.waiting {
            current.blockers(&mut connection).await?
        } else {
            Vec::new()
        };
        *watch = Some(current);
        Ok(FrontierStatus {
            settled: seen.settled,
            head: seen.head,
            blockers,
            problem: None,
        })
    }

    /// A log whose frontier cannot be known is a finding, and no reason to show nothing.
    async fn frontier_or_problem(&self) -> Result<FrontierStatus, AdminError> {
        match self.frontier().await {
            Err(AdminError::Worker(WorkerError::Log(problem))) => Ok(FrontierStatus {
                head: self.head().await?,
                problem: Some(problem.to_string()),
                ..FrontierStatus::default()
            }),
            frontier => frontier,
        }
    }

    pub(super) async fn head(&self) -> Result<i64, AdminError> {
        let mut connection = self.look().await?;
        Ok(self.store.latest_global_position(&mut connection).await?)
    }

    /// The rows of one version of a consumer, as one entry.
    async fn consumer_status(
        &self,
        rows: &[Row],
        active: &HashMap<Arc<str>, u32>,
        head: i64,
    ) -> Result<Option<ConsumerStatus>, AdminError> {
        let Some(worst) = worst(rows) else {
            return Ok(None);
        };
        let of = of_row(worst);
        let code = self.code_of(&of).ok();
        let position = rows.iter().map(|row| row.checkpoint.position).min();
        let scope = scope_of(&worst.checkpoint.scope);
        let lag = self.lag(position.unwrap_or_default(), head, &scope).await?;
        let state = match self.state_of(worst, rows, code) {
            // Its checkpoint, with nothing of its scope after it, is moved along lazily.
            ConsumerState::Rebuilding if lag.events == 0 => ConsumerState::Running,
            state => state,
        };
        Ok(Some(ConsumerStatus {
            version: of.version,
            is_active: active.get(&of.name) == Some(&of.version),
            state,
            position,
            replay_to: worst.checkpoint.replay_to,
            lag,
            failing: failing(worst),
            parked: sum(rows, |row| row.parked),
            parked_aggregates: sum(rows, |row| row.parked_aggregates),
            scope,
            group: code.and_then(|code| code.declaration.group),
            rate: None,
            saved_ago: rows.iter().map(|row| millis(row.saved_ago)).min(),
            name: of.name,
        }))
    }

    pub(super) fn state_of(
        &self,
        worst: &Row,
        rows: &[Row],
        code: Option<&Registered<DB>>,
    ) -> ConsumerState {
        let row = &worst.checkpoint;
        if code.is_none()
            && self.knows_code
            && !self.elsewhere.iter().any(|n| **n == *row.key.consumer.name)
        {
            let mut declared = self.code.iter().map(|one| &one.declaration.name);
            return if declared.any(|name| *name == row.key.consumer.name) {
                ConsumerState::OtherVersion
            } else {
                ConsumerState::Detached
            };
        }
        let is_replayed = |row: &Row| row.checkpoint.position < row.checkpoint.replay_to;
        match row.state {
            State::Stopped => ConsumerState::Stopped,
            State::Paused => ConsumerState::Paused,
            State::Running if code.is_some_and(|code| has_other_scope(worst, code)) => {
                ConsumerState::ScopeChanged
            }
            State::Running if row.attempts > 0 => ConsumerState::Retrying,
            State::Running if rows.iter().any(is_replayed) => ConsumerState::Rebuilding,
            State::Running => ConsumerState::Running,
        }
    }

    /// Consumers of the program that no worker ever ran.
    async fn new_consumers(
        &self,
        rows: &[Row],
        head: i64,
    ) -> Result<Vec<ConsumerStatus>, AdminError> {
        let mut new = Vec::new();
        for one in &self.code {
            let declaration = &one.declaration;
            let of = ConsumerId {
                name: Arc::clone(&declaration.name),
                version: declaration.version,
            };
            if rows.iter().any(|row| of_row(row) == of) {
                continue;
            }
            let scope = scope_of(&scope_text(&declaration.scope));
            new.push(ConsumerStatus {
                version: declaration.version,
                is_active: false,
                state: ConsumerState::New,
                position: None,
                replay_to: 0,
                lag: self.lag(0, head, &scope).await?,
                failing: None,
                parked: 0,
                parked_aggregates: 0,
                scope,
                group: declaration.group,
                rate: None,
                saved_ago: None,
                name: of.name,
            });
        }
        Ok(new)
    }

    /// How far a checkpoint is behind the head, in events of its scope and in time.
    pub(super) async fn lag(
        &self,
        position: i64,
        head: i64,
        scope: &[String],
    ) -> Result<Lag, AdminError> {
        let part = Part {
            after: position,
            up_to: head,
            scope,
        };
        if part.after >= part.up_to {
            return Ok(Lag::default());
        }
        let mut connection = self.look().await?;
        let events = DB::count(&self.sql, &mut connection, part, MOST_COUNTED + 1).await?;
        let age = if events > 0 {
            DB::age(&self.sql, &mut connection, part).await?
        } else {
            None
        };
        Ok(Lag {
            events: u64::try_from(events.min(MOST_COUNTED)).unwrap_or(0),
            is_more: events > MOST_COUNTED,
            time: age.map(millis),
        })
    }
}

/// The row that is in trouble speaks for all, then the slowest.
pub(super) fn worst(rows: &[Row]) -> Option<&Row> {
    rows.iter().min_by_key(|row| {
        let trouble = match (row.checkpoint.state, row.checkpoint.attempts) {
            (State::Stopped, _) => 0,
            (State::Running, 1..) => 1,
            (State::Paused, _) => 2,
            (State::Running, 0) => 3,
        };
        (trouble, row.checkpoint.position)
    })
}

pub(super) fn has_other_scope<DB: Backend>(row: &Row, code: &Registered<DB>) -> bool {
    *scope_text(&code.declaration.scope) != *row.checkpoint.scope
}

fn failing(row: &Row) -> Option<Failing> {
    let checkpoint = &row.checkpoint;
    // One that a worker has just let try again has an error that was.
    if checkpoint.attempts == 0 && checkpoint.state == State::Running {
        return None;
    }
    Some(Failing {
        position: checkpoint.failed_position,
        attempts: checkpoint.attempts,
        retry_in: row.retry_in.filter(|&left| left > 0).map(millis),
        error: checkpoint.error.clone()?,
    })
}

/// The types of a scope as a checkpoint keeps it.
pub(super) fn scope_of(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

pub(super) fn sum<'a>(rows: impl IntoIterator<Item = &'a Row>, of: impl Fn(&Row) -> i64) -> u64 {
    rows.into_iter()
        .map(|row| u64::try_from(of(row)).unwrap_or(0))
        .sum()
}

pub(super) fn millis(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

fn text<S: Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(text)
}

fn texts<S: Serializer>(blockers: &[Blocker], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(blockers.iter().map(ToString::to_string))
}

#[allow(clippy::ref_option)] // what serde asks for
fn seconds<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(to)
}
