//! The tools of an operator, in your own binary.
//!
//! A program that has consumers also has what is needed to run and operate them: a verb each for
//! what somebody on call wants to know or to do. The whole binary of a worker is then:
//!
//! ```no_run
//! # #[cfg(feature = "sqlite")]
//! # mod program {
//! use std::process::ExitCode;
//!
//! use clap::Parser;
//! use consumer::cli::Cli;
//! use consumer::prelude::*;
//!
//! #[tokio::main]
//! async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
//!     let cli = Cli::parse();
//!     let store = SqliteEventStore::connect("sqlite:app.db").await?;
//!     Ok(cli.run(Worker::builder(store).discover()).await)
//! }
//! # }
//! # fn main() {}
//! ```
//!
//! | verb | what it does |
//! |---|---|
//! | `run [--group G] [--only NAME] [--once]` | runs consumers |
//! | `list` | the consumers of the program, as declared |
//! | `status [--watch] [--json]` | state, position, lag, parked, errors, frontier; `--watch` and `--json` also the rate in events a second, for which `--json` looks twice, a second apart |
//! | `pause NAME`, `resume NAME` | in all processes |
//! | `rebuild NAME [--yes]` | empties the read model and handles all events again, or goes on with what was begun; with `--of-version` of a version that never ran, lets it catch up beside the one that serves; `--watch` only shows how far it is |
//! | `accept-scope NAME` | goes on with another scope without a rebuild |
//! | `activate NAME VERSION` | says which version serves |
//! | `merge NAME --segments NUMBER` | brings a consumer down to fewer segments, while workers run it |
//! | `parked list\|show\|retry\|skip` | events that were set aside |
//! | `frontier` | how far the log is settled, and who keeps it |
//! | `forget NAME` | removes a detached checkpoint, or that of an old version |
//! | `migrate [--print]` | creates the tables |
//! | `completions SHELL` | what makes a shell complete all this |
//!
//! Verbs that destroy something ask first; `--yes` answers. Exit codes are those of [`Exit`].

mod args;
mod completions;
mod console;
mod rebuild;
mod tables;
mod verbs;

use std::process::ExitCode;

pub use self::args::Cli;
use self::args::Verb;
pub use self::console::Console;
use crate::admin::AdminError;
use crate::backend::Backend;
use crate::backend::StoreError;
use crate::worker::{BuildError, WorkerBuilder, WorkerError};

/// How a verb ended, and the exit code that says so.
///
/// See [`Console`] for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// 0: it is done, or it is as it should be.
    Done,
    /// 1: it failed, by the database, the tables or a consumer's code.
    Failed,
    /// 2: the command line is wrong; clap ends the process with it too.
    Usage,
    /// 3: a consumer is not well: it stopped, its scope has changed, or a parked event failed again.
    /// One that is merely paused is well.
    Unwell,
    /// 4: refused, and nothing was changed: nobody confirmed it, a worker has the consumer at hand, or
    /// something else has to be done first, which the message says.
    Refused,
}

impl Exit {
    /// The code.
    ///
    /// See [`Console`] for an example.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unwell => 3,
            Self::Refused => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl Cli {
    /// Does what the command line says, with the consumers and the store of a worker's builder.
    ///
    /// See the [module](self) for an example.
    pub async fn run<DB: Backend>(self, builder: WorkerBuilder<DB>) -> ExitCode {
        self.run_on(builder, &Console::process()).await.into()
    }

    /// Does what the command line says on a console of your own.
    ///
    /// See [`Console`] for an example.
    pub async fn run_on<DB: Backend>(self, builder: WorkerBuilder<DB>, console: &Console) -> Exit {
        match self.verb.run(builder, console).await {
            Ok(exit) => exit,
            Err(trouble) => {
                console.note(format!("error: {trouble}"));
                trouble.exit()
            }
        }
    }

    /// Prints completions if that is what the command line asks for, before any database is
    /// opened; `command` is the whole of your program's, so that all of it is completed.
    ///
    /// [`run`](Self::run) prints them too, for these tools alone, in the place where they were called.
    ///
    /// ```
    /// use clap::{CommandFactory, Parser};
    /// use consumer::cli::Cli;
    ///
    /// #[derive(Parser)]
    /// enum App {
    ///     /// Runs and operates the consumers
    ///     Consumers(Cli),
    /// }
    ///
    /// let App::Consumers(cli) = App::parse_from(["app", "consumers", "list"]);
    /// if !cli.completes(&mut App::command()) {
    ///     // Open the database, and `cli.run(…)`.
    /// }
    /// ```
    #[must_use]
    pub fn completes(&self, command: &mut clap::Command) -> bool {
        let Verb::Completions(completions) = &self.verb else {
            return false;
        };
        Console::process().line(completions.script(command));
        true
    }
}

/// Why a verb could not be done.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Build(Box<BuildError>),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Usage(String),
    #[error("nothing was changed")]
    Declined,
}

impl From<BuildError> for Trouble {
    fn from(error: BuildError) -> Self {
        Self::Build(Box::new(error))
    }
}

impl Trouble {
    fn exit(&self) -> Exit {
        match self {
            Self::Declined => Exit::Refused,
            Self::Usage(_) => Exit::Usage,
            Self::Admin(error) => exit_of(error),
            _ => Exit::Failed,
        }
    }
}

fn exit_of(error: &AdminError) -> Exit {
    match error {
        AdminError::Unknown { .. }
        | AdminError::UnknownVersion { .. }
        | AdminError::SeveralVersions { .. }
        | AdminError::NotParked { .. } => Exit::Usage,
        AdminError::Held { .. }
        | AdminError::NeverRan { .. }
        | AdminError::InUse { .. }
        | AdminError::Active { .. }
        | AdminError::Behind { .. }
        | AdminError::HasParked { .. }
        | AdminError::WouldDiscard { .. }
        | AdminError::NoReset { .. }
        | AdminError::NoCode { .. } => Exit::Refused,
        AdminError::Retry { .. } => Exit::Unwell,
        _ => Exit::Failed,
    }
}
