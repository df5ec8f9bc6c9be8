//! Why an operator's command failed, and what to do instead.

use std::error::Error;
use std::fmt;
use std::ops::RangeInclusive;

use super::text;
use crate::backend::{
    Backend, ConsumerId, FrontierError, HeldBack, StoreError, UnknownEvent, ViewError,
};
use crate::contract::HandlerError;
use crate::registry::NameError;
use crate::worker::WorkerError;
use crate::worker::lane::failure::{ErrorKind, judge};

/// Why an operator's command was refused or failed.
///
/// A command that takes many steps, such as a retry or a merge, keeps the steps it has completed.
///
/// ```
/// # consumer::__doc::run(async |store| { use consumer::__doc::Users;
/// use consumer::Worker;
/// use consumer::admin::{AdminError, RebuildOptions};
///
/// let admin = Worker::builder(store).consumer(Users).admin()?;
/// match admin.rebuild("users", RebuildOptions::new()).await {
///     Ok(rebuilt) => println!("replays up to {}", rebuilt.replay_to),
///     // A worker is processing a batch: `wait`, or pause the consumer first.
///     Err(AdminError::Held { consumer }) => println!("{consumer} is busy"),
///     // There is no `#[on(reset)]`: empty the tables, then use `without_reset`.
///     Err(AdminError::NoReset { consumer }) => println!("{consumer} cannot empty its tables"),
///     // The message says what to do.
///     Err(error) => println!("{error}"),
/// }
/// # Ok(()) }).unwrap();
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// There is no checkpoint of that name.
    #[error("there is no consumer `{consumer}`; known consumers: {known}")]
    Unknown {
        /// The name.
        consumer: String,
        /// The names that exist.
        known: String,
    },
    /// The consumer reads another log of the same database.
    #[error(
        "consumer `{consumer}` reads the log `{log}` of this database; give the command that log (`Schema::events`)"
    )]
    OtherLog {
        /// The name.
        consumer: String,
        /// The other log's table of events.
        log: String,
    },
    /// There is no checkpoint of that version.
    #[error("consumer `{consumer}` has no version {version}; existing versions: {known}")]
    UnknownVersion {
        /// The name.
        consumer: String,
        /// The version.
        version: u32,
        /// The versions that exist.
        known: String,
    },
    /// No worker has run the consumer yet, so there is nothing to change.
    #[error("consumer `{consumer}` has no checkpoint yet: no worker has run it")]
    NeverRan {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// The consumer has yet to take over the checkpoint of its former name, so that there is nothing to
    /// change.
    #[error(
        "consumer `{consumer}` has no checkpoint yet: it takes over that of `{former}` when a worker of this program starts, or with `rename {former} {}`",
        .consumer.name
    )]
    NotTakenOver {
        /// The consumer.
        consumer: ConsumerId,
        /// Its former name, which has the checkpoint.
        former: String,
    },
    /// The consumer is held back, so that it has no checkpoint.
    #[error("consumer `{}` is {held_back}", .held_back.consumer)]
    HeldBack {
        /// The consumer, and the reason.
        held_back: HeldBack,
    },
    /// The consumer has a checkpoint, so it cannot start over.
    #[error(
        "consumer `{consumer}` has a checkpoint; `rebuild` handles all events again, and `forget` lets it start over"
    )]
    NotHeldBack {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// The new name has a checkpoint.
    #[error("consumer `{from}` cannot be renamed to `{to}`{}", taken(.from, .to))]
    NameTaken {
        /// The present name.
        from: String,
        /// The new name.
        to: String,
    },
    /// The new name was that of another consumer, whose code some process may still have.
    #[error(
        "the name `{}` is that of a consumer that is {held_back}; choose another name", .held_back.consumer.name
    )]
    NameRetired {
        /// The reason why the other consumer is held back.
        held_back: HeldBack,
    },
    /// The new name cannot key a checkpoint.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The name alone is ambiguous.
    #[error(
        "consumer `{consumer}` has several versions ({versions}); choose one (`.version(…)`, `--of-version`)"
    )]
    SeveralVersions {
        /// The name.
        consumer: String,
        /// Its versions.
        versions: String,
    },
    /// A worker is processing a batch, or another writer holds the SQLite database.
    #[error(
        "a worker is processing a batch of consumer `{consumer}`; wait for it (`.wait(…)`, `--wait`), or pause the consumer first"
    )]
    Held {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// The command calls the consumer's code, which this program does not contain.
    #[error(
        "this program does not contain the code of consumer `{consumer}`; run the command in a program that does"
    )]
    NoCode {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// The consumer cannot empty its read model.
    #[error(
        "consumer `{consumer}` cannot empty its read model; give it an `#[on(reset)]` method, or empty the tables yourself and rebuild with `.without_reset()` (`--without-reset`)"
    )]
    NoReset {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// Emptying the read model failed.
    #[error("consumer `{consumer}` could not empty its read model; nothing was changed")]
    Reset {
        /// The consumer.
        consumer: ConsumerId,
        /// The error of its `reset`.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The consumer's code ended the transaction that it was given, or left a savepoint open in it (R4).
    #[error(
        "consumer `{consumer}` ended the transaction that it was given, or left a savepoint open in it, so nothing was saved; use `tx.begin()` for a savepoint, and commit it"
    )]
    EndedTransaction {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// A parked event failed again.
    #[error("event {position} failed again; its aggregate stays parked")]
    Retry {
        /// The event.
        position: i64,
        /// The error of the handler.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The database failed while a parked event was retried; that does not count as an attempt.
    #[error(
        "event {position} could not be retried because the database failed; its aggregate stays parked"
    )]
    Interrupted {
        /// The event.
        position: i64,
        /// The error.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The code in this program does not know a parked event.
    #[error(
        "this program does not know {event}, so its aggregate stays parked; retry it with a release that does"
    )]
    UnknownEvent {
        /// The event.
        event: UnknownEvent,
    },
    /// The event is not parked.
    #[error("event {position} is not parked by consumer `{consumer}`")]
    NotParked {
        /// The consumer.
        consumer: ConsumerId,
        /// The event.
        position: i64,
    },
    /// A parked event is missing from the log.
    #[error("parked event {position} is no longer in the log; skip it")]
    NotInLog {
        /// The event.
        position: i64,
    },
    /// The consumer neither is stopped at that event nor waits before it for a release that knows it.
    #[error(
        "consumer `{consumer}` is neither stopped at event {position} nor waiting before it; {}",
        elsewhere(.stopped_at)
    )]
    NotStoppedAt {
        /// The consumer.
        consumer: ConsumerId,
        /// The event that the command names.
        position: i64,
        /// The events at which the consumer, or one of its segments, is stopped or waits.
        stopped_at: Vec<i64>,
    },
    /// The consumer's checkpoint is not at the event before the one to be passed.
    #[error(
        "consumer `{consumer}` may have unhandled events between {} and {}, before event {position}; resume it so that it handles them first",
        .unhandled.start(), .unhandled.end()
    )]
    NotNext {
        /// The consumer.
        consumer: ConsumerId,
        /// The event that the command names.
        position: i64,
        /// The positions that may hold unhandled events.
        unhandled: RangeInclusive<i64>,
    },
    /// The consumer is part of this program and would start over.
    #[error(
        "consumer `{consumer}` is in this program and would start again from the beginning; remove it from the program first, or force it (`.force()`, `--force`)"
    )]
    InUse {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// The active version cannot be forgotten.
    #[error("consumer `{consumer}` is the active version; activate another version first")]
    Active {
        /// The consumer.
        consumer: ConsumerId,
    },
    /// The version has not caught up.
    #[error(
        "consumer `{consumer}` is {} behind; wait until it has caught up, or force it (`.force()`, `--force`)",
        text::count(*.lag, "event")
    )]
    Behind {
        /// The consumer.
        consumer: ConsumerId,
        /// How many events of its scope it has not handled.
        lag: u64,
    },
    /// The version has parked events.
    #[error(
        "consumer `{consumer}` has {}; retry or skip them first, or force it (`.force()`, `--force`)",
        text::count(*.parked, "parked event")
    )]
    HasParked {
        /// The consumer.
        consumer: ConsumerId,
        /// How many events.
        parked: u64,
    },
    /// The command would discard parked events: a rebuild delivers them as new ones, and `forget` leaves them
    /// unhandled.
    #[error(
        "consumer `{consumer}` has {}, not yet handled; retry or skip them first, or discard them (`.discard_parked()`, `--discard-parked`)",
        text::count(*.parked, "parked event")
    )]
    WouldDiscard {
        /// The consumer.
        consumer: ConsumerId,
        /// How many events.
        parked: u64,
    },
    /// The log cannot be operated on.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The view over a read model cannot be switched, or its table cannot be dropped.
    #[error(transparent)]
    View(#[from] ViewError),
}

impl From<sqlx::Error> for AdminError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<FrontierError> for AdminError {
    fn from(error: FrontierError) -> Self {
        WorkerError::from(error).into()
    }
}

/// The events at which a consumer stopped or before which it waits, instead of the one that a command names.
fn elsewhere(positions: &[i64]) -> String {
    let at: Vec<String> = positions.iter().map(ToString::to_string).collect();
    match positions {
        [] => "no event holds it up".to_owned(),
        [only] => format!("event {only} holds it up"),
        _ => format!("the events {} hold it up", at.join(", ")),
    }
}

fn taken(from: &str, to: &str) -> &'static str {
    if from == to {
        ", the name that it has"
    } else {
        ", which has a checkpoint; forget that one first, or choose another name"
    }
}

/// A handler's error as the source of another one.
#[derive(Debug)]
pub(super) struct Cause(HandlerError);

impl Cause {
    /// The source and its kind. An error that panics when it is asked for its text is replaced.
    pub(super) fn of<DB: Backend>(error: HandlerError) -> (ErrorKind, Box<Self>) {
        match judge::<DB>(&error) {
            Ok((kind, _)) => (kind, Box::new(Self(error))),
            Err(unknown) => (ErrorKind::Handler, Box::new(Self(unknown.into()))),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chain()
            .next()
            .map_or(Ok(()), |error| write!(f, "{error}"))
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.chain().nth(1)
    }
}

#[cfg(test)]
#[cfg(feature = "sqlite")]
mod tests {
    use super::*;
    use crate::contract::chain;

    /// An error whose cause panics when it is asked for its text.
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] Unspeakable);

    #[derive(Debug)]
    struct Unspeakable;

    impl fmt::Display for Unspeakable {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("no words")
        }
    }

    impl Error for Unspeakable {}

    #[test]
    fn a_source_that_cannot_be_shown_is_replaced() {
        let (kind, cause) = Cause::of::<sqlx::Sqlite>(Outer(Unspeakable).into());
        assert_eq!(kind, ErrorKind::Handler);
        let text = chain(cause.as_ref()).to_string();
        assert!(text.ends_with("panicked: no words"), "{text}");
        let (_, cause) = Cause::of::<sqlx::Sqlite>("as it is".into());
        assert_eq!(chain(cause.as_ref()).to_string(), "as it is");
    }
}
