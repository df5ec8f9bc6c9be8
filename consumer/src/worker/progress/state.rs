//! What a consumer is doing: the one list of states, for reports, logs, metrics and `status`.

use std::fmt;

use serde::{Serialize, Serializer};

/// What a consumer, or a lane of it, is doing.
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::sync::atomic::{AtomicBool, Ordering};
/// # use consumer::{Consumer, Context, HandlerError, OnError, PersistedEvent, Settings, sqlx};
/// # static BROKEN: AtomicBool = AtomicBool::new(true);
/// # struct Users;
/// # impl Consumer<sqlx::Sqlite> for Users {
/// #     fn name(&self) -> &str { "users" }
/// #     fn settings(&self) -> Settings { Settings::default().retries(0).on_error(OnError::Stop) }
/// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> {
/// #         if BROKEN.load(Ordering::Relaxed) { Err("no such tariff".into()) } else { Ok(()) }
/// #     }
/// # }
/// use consumer::{ExpectedVersion, ConsumerState, NewEvent, SqliteEventStore, Worker};
///
/// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
/// # store.migrate().await?;
/// # let event = [NewEvent::new("User", "ada", "UserRegistered", "{}")];
/// # store.append(ExpectedVersion::Any, &event).await?;
/// let report = Worker::builder(store).consumer(Users).build()?.run_once().await?;
/// match &report.consumers[0].state {
///     ConsumerState::Stopped { position, error } => {
///         assert_eq!(*position, Some(1));
///         assert!(error.contains("no such tariff"));
///     }
///     other => panic!("{other}"),
/// }
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerState {
    /// No worker ever ran it: it has no checkpoint yet.
    New,
    /// It has not yet seen its checkpoint.
    Starting,
    /// It handles events, or waits for new ones.
    Running,
    /// It handles again what it has handled before.
    Rebuilding,
    /// It waits to try an event again.
    Retrying {
        /// The event.
        position: i64,
        /// How often it has failed.
        attempts: u32,
        /// Why.
        error: String,
    },
    /// It waits for the database.
    Waiting {
        /// What the database said.
        error: String,
    },
    /// It stopped before an event that it could not handle (R2).
    Stopped {
        /// The event, where it is known.
        position: Option<i64>,
        /// Why.
        error: String,
    },
    /// An operator paused it.
    Paused,
    /// Its checkpoint was reached with another scope.
    ScopeChanged {
        /// The scope of the checkpoint: its aggregate types, separated by commas; empty for all.
        checkpoint: String,
        /// The scope of the code, likewise.
        code: String,
    },
    /// The program has another version of it; this one is left to other programs.
    OtherVersion,
    /// The program has no consumer of that name.
    Detached,
    /// Its checkpoint row is gone.
    Forgotten,
    /// It handled everything it was to handle.
    CaughtUp,
    /// It ended with the worker.
    ShutDown,
}

impl ConsumerState {
    /// The names of the states that a running worker reports as metrics.
    #[cfg(feature = "metrics")]
    pub(crate) const RUNNING_NAMES: [&'static str; 7] = [
        "running",
        "retrying",
        "waiting",
        "stopped",
        "paused",
        "scope_changed",
        "forgotten",
    ];

    /// The state in one word, as metrics and JSON have it.
    ///
    /// ```
    /// assert_eq!(consumer::ConsumerState::CaughtUp.name(), "caught_up");
    /// ```
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Rebuilding => "rebuilding",
            Self::Retrying { .. } => "retrying",
            Self::Waiting { .. } => "waiting",
            Self::Stopped { .. } => "stopped",
            Self::Paused => "paused",
            Self::ScopeChanged { .. } => "scope_changed",
            Self::OtherVersion => "other_version",
            Self::Detached => "detached",
            Self::Forgotten => "forgotten",
            Self::CaughtUp => "caught_up",
            Self::ShutDown => "shut_down",
        }
    }

    /// How urgent the state is: the most urgent one of its lanes is that of the consumer.
    pub(crate) fn severity(&self) -> u8 {
        match self {
            Self::ShutDown => 0,
            Self::New | Self::Detached | Self::OtherVersion | Self::CaughtUp => 1,
            Self::Running | Self::Rebuilding => 2,
            Self::Starting => 3,
            Self::Retrying { .. } => 4,
            Self::Waiting { .. } => 5,
            Self::Paused => 6,
            Self::Forgotten => 7,
            Self::ScopeChanged { .. } => 8,
            Self::Stopped { .. } => 9,
        }
    }
}

impl Serialize for ConsumerState {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl fmt::Display for ConsumerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::New => f.write_str("new"),
            Self::Running => f.write_str("running"),
            Self::Rebuilding => f.write_str("rebuilding"),
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
            Self::OtherVersion => f.write_str("another version than the program's"),
            Self::Detached => f.write_str("detached"),
            Self::Forgotten => f.write_str("without a checkpoint row"),
            Self::CaughtUp => f.write_str("caught up"),
            Self::ShutDown => f.write_str("shut down"),
        }
    }
}
