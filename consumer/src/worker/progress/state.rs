//! The states of a consumer, and everything that is derived from a state alone: its word for metrics and JSON
//! ([`name`](ConsumerState::name)), for tables ([`words`](ConsumerState::words)), its sentence for logs and
//! reports (`Display`), its [`reason`](ConsumerState::reason), its colour and its urgency.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::backend::{Checkpoint, HeldBack, State, UnknownEvent};

/// The state of a consumer, or of a lane of it.
///
/// ```
/// # consumer::__doc::run(async |store| { use consumer::__doc::{Invoices, register};
/// use consumer::{ConsumerState, Worker};
///
/// register(&store, "ada").await?;
/// // A consumer that has no tariff for the invoice, and stops.
/// let worker = Worker::builder(store).consumer(Invoices::default()).build()?;
/// let report = worker.run_once().await?;
/// match &report.consumers[0].state {
///     ConsumerState::Stopped { position, error } => {
///         assert_eq!(*position, Some(1));
///         assert!(error.contains("no such tariff"));
///     }
///     other => panic!("{other}"),
/// }
/// # Ok(()) }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerState {
    /// It has no checkpoint yet, because no worker ever ran it.
    New,
    /// A consumer of its name reads another log of the database, so that no worker of this one runs it.
    OtherLog {
        /// The other log's table of events.
        log: String,
    },
    /// It has not seen its checkpoint yet.
    Starting,
    /// It handles events, or waits for new ones.
    Running,
    /// Events that it could handle have waited for three minutes or longer, and no worker has claimed them.
    NoWorker {
        /// How long they have waited.
        waited: Duration,
        /// Whether a worker may be at them all the same: SQLite does not tell which claims are held, so that a
        /// batch which takes so long looks like none.
        may_be_busy: bool,
    },
    /// It handles events that it has handled before.
    Rebuilding,
    /// It waits for the next attempt at an event.
    Retrying {
        /// The position of the event.
        position: i64,
        /// How often it has failed.
        attempts: u32,
        /// Why it failed last.
        error: String,
    },
    /// A segment of it waits for its neighbour, to be [merged](crate::merge_segments) with it.
    WaitingForMerge {
        /// The position that the neighbour has to reach.
        position: i64,
    },
    /// It waits for the database, or its worker cannot read new events.
    Waiting {
        /// The error of the database.
        error: String,
    },
    /// Its task panicked, and is restarted after a pause.
    Panicked {
        /// The message of the panic.
        error: String,
    },
    /// It stopped before an event that it could not handle (R2).
    Stopped {
        /// The position of the event, if it is known.
        position: Option<i64>,
        /// Why it stopped.
        error: String,
    },
    /// It waits for a release that knows the next event of its scope.
    ///
    /// The guide [`deploying`](crate::guide::deploying) says what makes an event unknown, and what to do.
    WaitingForRelease {
        /// The event.
        event: UnknownEvent,
    },
    /// An operator paused it.
    Paused,
    /// Its checkpoint was reached with another scope.
    ScopeChanged {
        /// The scope of the checkpoint: aggregate types separated by commas; empty for all.
        checkpoint: String,
        /// The scope of the code, in the same form.
        code: String,
    },
    /// It waits for a decision on where to start: its name is that of a renamed or forgotten consumer, or it
    /// may be another one under a new name.
    HeldBack(HeldBack),
    /// The program contains another version of it and leaves this one to other programs.
    OtherVersion,
    /// The program contains no consumer of that name, but another release of it does: a process of that
    /// release handled its events within three minutes, or the name is what a consumer of the program was
    /// renamed to.
    OtherRelease,
    /// The program contains no consumer of that name.
    Detached,
    /// Its checkpoint was removed.
    Forgotten,
    /// It handled everything that was in the log when the run began.
    CaughtUp,
    /// It ended with the worker.
    ShutDown,
}

impl ConsumerState {
    /// The labels under which a running worker reports states as metrics.
    pub(crate) const METRIC_LABELS: [&'static str; 9] = [
        "running",
        "retrying",
        "waiting",
        "waiting_for_release",
        "stopped",
        "paused",
        "scope_changed",
        "forgotten",
        "held_back",
    ];

    /// Its label in metrics, where a consumer that starts or restarts is waiting, and one that is merged
    /// is running.
    pub(crate) fn metric_label(&self) -> &'static str {
        match self {
            Self::Starting | Self::Panicked { .. } => "waiting",
            Self::WaitingForMerge { .. } => "running",
            other => other.name(),
        }
    }

    /// The state of a row that may not run with a consumer of that scope; `None` if it may.
    pub(crate) fn blocked(row: &Checkpoint, scope: &str) -> Option<Self> {
        match row.state {
            State::Paused => Some(Self::Paused),
            State::Stopped => Some(Self::stopped(row)),
            State::Running => Self::scope_changed(row, scope),
        }
    }

    /// The state of a row that was reached with another scope than a consumer has; `None` if it was not.
    pub(crate) fn scope_changed(row: &Checkpoint, scope: &str) -> Option<Self> {
        let list = |scope: &str| scope.replace('\n', ", ");
        (row.scope != scope).then(|| Self::ScopeChanged {
            checkpoint: list(&row.scope),
            code: list(scope),
        })
    }

    /// The state of a row that is stopped at an event, in all processes or for the releases that failed on
    /// it.
    pub(crate) fn stopped(row: &Checkpoint) -> Self {
        Self::Stopped {
            position: row.failed_position,
            error: row.error.clone().unwrap_or_default(),
        }
    }

    /// Returns the state as one word, as in metrics and JSON.
    ///
    /// ```
    /// assert_eq!(consumer::ConsumerState::CaughtUp.name(), "caught_up");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::OtherLog { .. } => "other_log",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::NoWorker { .. } => "no_worker",
            Self::Rebuilding => "rebuilding",
            Self::Retrying { .. } => "retrying",
            Self::WaitingForMerge { .. } => "waiting_for_merge",
            Self::Waiting { .. } => "waiting",
            Self::Panicked { .. } => "panicked",
            Self::Stopped { .. } => "stopped",
            Self::WaitingForRelease { .. } => "waiting_for_release",
            Self::Paused => "paused",
            Self::ScopeChanged { .. } => "scope_changed",
            Self::HeldBack(_) => "held_back",
            Self::OtherVersion => "other_version",
            Self::OtherRelease => "other_release",
            Self::Detached => "detached",
            Self::Forgotten => "forgotten",
            Self::CaughtUp => "caught_up",
            Self::ShutDown => "shut_down",
        }
    }

    /// The state in one word or two, for tables.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::NoWorker {
                may_be_busy: true, ..
            } => "no batch ended".to_owned(),
            _ => self.name().replace('_', " "),
        }
    }

    /// The reason for a state whose name does not tell it, as a clause.
    pub(crate) fn reason(&self) -> Option<String> {
        match self {
            Self::OtherLog { log } => Some(format!(
                "another consumer with this name reads the log `{log}` of this database"
            )),
            Self::Paused => Some("an operator paused it".to_owned()),
            Self::ScopeChanged { checkpoint, code } => Some(format!(
                "its checkpoint was reached with the scope [{checkpoint}], but the code has [{code}]"
            )),
            Self::Detached => Some("no consumer of that name is in this program".to_owned()),
            _ => None,
        }
    }

    /// The colour of the state.
    #[cfg_attr(not(any(feature = "cli", feature = "dashboard")), allow(dead_code))]
    pub(crate) fn tone(&self) -> Tone {
        match self {
            Self::Running | Self::CaughtUp => Tone::Good,
            Self::Stopped { .. }
            | Self::ScopeChanged { .. }
            | Self::HeldBack(_)
            | Self::OtherLog { .. }
            | Self::NoWorker { .. }
            | Self::Panicked { .. } => Tone::Bad,
            Self::Retrying { .. }
            | Self::WaitingForRelease { .. }
            | Self::WaitingForMerge { .. }
            | Self::Waiting { .. }
            | Self::Paused
            | Self::Detached
            | Self::Forgotten => Tone::Doubtful,
            Self::New
            | Self::Starting
            | Self::Rebuilding
            | Self::OtherVersion
            | Self::OtherRelease
            | Self::ShutDown => Tone::Neutral,
        }
    }

    /// The state that is shown if the last poll of the log failed: a consumer that waits for events gets none.
    pub(crate) fn while_polls_fail(self, error: Option<&str>) -> Self {
        match (self, error) {
            (Self::Starting | Self::Running | Self::WaitingForMerge { .. }, Some(error)) => {
                let error = error.to_owned();
                Self::Waiting { error }
            }
            (state, _) => state,
        }
    }

    /// Whether a lane in this state handles events, or will without anyone's help.
    pub(crate) fn is_active(&self) -> bool {
        matches!(
            self,
            Self::Starting
                | Self::Running
                | Self::Retrying { .. }
                | Self::WaitingForMerge { .. }
                | Self::Waiting { .. }
                | Self::Panicked { .. }
        )
    }

    /// Whether a lane in this state runs only after its row or the program has changed.
    pub(crate) fn is_blocked(&self) -> bool {
        matches!(
            self,
            Self::Stopped { .. }
                | Self::WaitingForRelease { .. }
                | Self::Paused
                | Self::ScopeChanged { .. }
                | Self::HeldBack(_)
                | Self::Forgotten
        )
    }

    /// How urgent the state is: a consumer has the most urgent state of its lanes.
    pub(crate) fn severity(&self) -> u8 {
        match self {
            Self::ShutDown => 0,
            Self::New
            | Self::OtherLog { .. }
            | Self::NoWorker { .. }
            | Self::Detached
            | Self::OtherVersion
            | Self::OtherRelease
            | Self::CaughtUp => 1,
            Self::Running | Self::Rebuilding => 2,
            Self::Starting | Self::WaitingForMerge { .. } => 3,
            Self::Retrying { .. } => 4,
            Self::Waiting { .. } => 5,
            Self::Panicked { .. } => 6,
            Self::Paused => 7,
            Self::WaitingForRelease { .. } => 8,
            Self::Forgotten => 9,
            Self::ScopeChanged { .. } => 10,
            Self::HeldBack(_) => 11,
            Self::Stopped { .. } => 12,
        }
    }
}

/// How a state is for its operator; commands and the dashboard have a colour for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(any(feature = "cli", feature = "dashboard")), allow(dead_code))]
pub(crate) enum Tone {
    Good,
    Neutral,
    /// It may pass by itself, or is what an operator wants.
    Doubtful,
    /// The consumer does not run until an operator acts.
    Bad,
}

impl Serialize for ConsumerState {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl fmt::Display for ConsumerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = self.reason().unwrap_or_default();
        match self {
            Self::OtherLog { .. } => write!(f, "refused: {reason}"),
            Self::ScopeChanged { .. } => {
                write!(f, "refused: {reason}; rebuild it, or accept the new scope")
            }
            Self::New => f.write_str("new"),
            Self::Starting => f.write_str("starting"),
            Self::Running => f.write_str("running"),
            Self::NoWorker {
                waited,
                may_be_busy,
            } => {
                let seconds = waited.as_secs();
                let why = if *may_be_busy {
                    "no batch has ended"
                } else {
                    "no worker has claimed them"
                };
                write!(f, "events have waited {seconds} s and {why}")
            }
            Self::Rebuilding => f.write_str("rebuilding"),
            Self::Retrying {
                position,
                attempts,
                error,
            } => {
                let s = if *attempts == 1 { "" } else { "s" };
                write!(
                    f,
                    "retrying event {position} (failed {attempts} time{s}: {error})"
                )
            }
            Self::WaitingForMerge { position } => write!(
                f,
                "waiting at position {position} for the neighbouring segment, to be merged with it"
            ),
            Self::Waiting { error } => write!(f, "waiting for the database ({error})"),
            Self::Panicked { error } => write!(f, "panicked ({error})"),
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
            Self::WaitingForRelease { event } => {
                write!(f, "waiting for a release that knows {event}")
            }
            Self::Paused => f.write_str("paused"),
            Self::HeldBack(held_back) => write!(f, "{held_back}"),
            Self::OtherVersion => f.write_str("another version than the program's"),
            Self::OtherRelease => f.write_str("a consumer of another release"),
            Self::Detached => f.write_str("detached"),
            Self::Forgotten => f.write_str("without a checkpoint row"),
            Self::CaughtUp => f.write_str("caught up"),
            Self::ShutDown => f.write_str("shut down"),
        }
    }
}
