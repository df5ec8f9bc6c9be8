//! The commands of an operator, in your own binary.
//!
//! A program with consumers can also run and operate them from the command line. This is the whole
//! binary of a worker:
//!
//! ```no_run
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
//! ```
//!
//! | command | what it does |
//! |---|---|
//! | `run [--group G] [--only NAME] [--once]` | runs consumers |
//! | `list [--json]` | lists the consumers of the program, as declared |
//! | `status [--watch] [--processes] [--json]` | shows state, position, lag, parked events, errors and the frontier; `--watch` and `--json` also show events per second (`--json` takes a second for that), `--processes` the processes that handled events last |
//! | `pause NAME`, `resume NAME` | pauses and resumes a consumer in all processes |
//! | `park NAME POSITION`, `skip NAME POSITION` | gets a consumer past the event that it cannot handle, or does not know |
//! | `rebuild NAME` | empties the read model and handles all events again, or continues a rebuild; a version that has never run (`--of-version`) catches up beside the active one; `--watch` only shows the progress |
//! | `accept-scope NAME` | accepts a changed scope without a rebuild |
//! | `activate NAME VERSION` | makes a version the active one |
//! | `merge NAME --segments NUMBER` | merges a consumer's segments while workers run it |
//! | `parked list [NAME]`, `parked show\|retry\|skip NAME …` | lists, shows, retries and skips parked events |
//! | `explain NAME POSITION [--json]` | tells whether a consumer has handled, parked or skipped an event, or has yet to handle it, which handler takes it, and what it contains |
//! | `redact POSITION PAYLOAD` | replaces the payload of an event permanently |
//! | `frontier` | shows how far the log is settled, and which transactions hold it up |
//! | `unknown [--json]` | lists the types and versions of the log's events that the program does not know; reads the log once |
//! | `rename OLD NEW` | gives the checkpoint of a consumer another name |
//! | `start-new NAME` | starts a consumer that is held back, with a checkpoint of its own |
//! | `forget NAME` | removes the checkpoint of a detached consumer or an old version |
//! | `dashboard [--listen 127.0.0.1:0]` | with the feature `dashboard`: serves the state of the consumers to a browser; read-only without `--allow-actions`, and beyond this machine only with `--password-file` |
//! | `migrate [--print]` | creates or updates the tables, or prints the SQL for it, with the tables and views of read models |
//! | `completions SHELL` | prints a shell completion script |
//!
//! Destructive commands ask for confirmation, which `--yes` gives in advance. Exit codes are those
//! of [`Exit`].

mod args;
mod commands;
mod completions;
mod console;
#[cfg(feature = "dashboard")]
mod dashboard;
mod error;
mod exit;
mod parked;
mod progress;
mod rebuild;
mod run;
mod status;
mod tables;

use std::process::ExitCode;

pub use self::args::Cli;
use self::args::Command;
pub use self::console::Console;
pub use self::exit::Exit;
use crate::admin::text::visible;
use crate::backend::Backend;
use crate::worker::WorkerBuilder;

impl Cli {
    /// Runs the command with the store and the consumers of a worker's builder.
    pub async fn run<DB: Backend>(self, builder: WorkerBuilder<DB>) -> ExitCode {
        self.run_on(builder, &Console::process()).await.into()
    }

    /// Runs the command on a [`Console`] of your own.
    pub async fn run_on<DB: Backend>(self, builder: WorkerBuilder<DB>, console: &Console) -> Exit {
        // Boxed once, so that the caller's future does not become as large as this one.
        let exit = match Box::pin(self.command.run(builder, console)).await {
            Ok(exit) => exit,
            Err(error) => {
                console.note(format!("error: {}", visible(&error.message())));
                error.exit()
            }
        };
        match console.failure() {
            None => exit,
            Some(error) => {
                console.note(format!("error: the output could not be written: {error}"));
                Exit::Failed
            }
        }
    }

    /// Prints shell completions of your whole program if the command line asks for them, and
    /// returns whether it did. They offer the names of the consumers that are linked into the program.
    ///
    /// Call it before you open a database. [`run`](Self::run) prints completions too, but only of
    /// these commands.
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
        let Command::Completions(completions) = &self.command else {
            return false;
        };
        Console::process().line(completions.script(command, &[]));
        true
    }
}
