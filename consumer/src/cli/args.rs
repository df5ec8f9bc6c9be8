//! The command line and its help.

use std::fmt;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::admin::Target;

/// The exit codes, below the help.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  success, and everything is well
  1  failed: the database, the tables, a consumer's code or the output
  2  wrong command line
  3  a consumer needs attention: it stopped, is held back, waits for another
     release or has no worker, its scope changed, a parked event failed
     again, or the log has unknown events
  4  refused, nothing was changed: not confirmed, a worker is processing a
     batch, or the message says what to do first";

/// The commands of an operator, in your own binary.
///
/// Use it as the whole command line, or as a subcommand of your own:
///
/// ```
/// use clap::Parser;
///
/// #[derive(Parser)]
/// enum App {
///     /// Serves the web site
///     Serve,
///     /// Runs and operates the consumers
///     Consumers(consumer::cli::Cli),
/// }
///
/// let app = App::parse_from(["app", "consumers", "status", "--json"]);
/// assert!(matches!(app, App::Consumers(_)));
/// ```
#[derive(Debug, Parser)]
#[command(
    about = "Runs and operates the consumers of this program",
    long_about = None,
    after_help = EXIT_CODES,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs the consumers until the process receives SIGTERM or Ctrl-C
    Run(Run),
    /// Lists the consumers of this program
    List(Format),
    /// Shows the state of every consumer, even while no worker runs
    Status(Status),
    /// Pauses a consumer in all processes
    Pause(Consumer),
    /// Resumes a paused or stopped consumer
    Resume(Consumer),
    /// Parks the event at which a consumer has stopped or waits
    Park(EventOf),
    /// Skips the event at which a consumer has stopped or waits
    Skip(SkipEvent),
    /// Empties a read model and handles all events again
    Rebuild(Rebuild),
    /// Accepts the scope in the code without a rebuild
    AcceptScope(Consumer),
    /// Makes a version of a consumer the active one
    Activate(Activate),
    /// Merges a consumer's segments while workers run it
    Merge(Merge),
    /// Lists, shows, retries and skips parked events
    #[command(subcommand, disable_help_subcommand = true)]
    Parked(Parked),
    /// Replaces the payload of an event permanently
    Redact(Redact),
    /// Shows how far the log is settled, and what holds it up
    Frontier(Format),
    /// Explains what became of one event in a consumer
    Explain(Explain),
    /// Lists the events of the log that this program does not know
    Unknown(Format),
    /// Gives the checkpoint of a consumer another name
    Rename(Rename),
    /// Starts a consumer that is held back
    StartNew(StartNew),
    /// Removes the checkpoint of a detached consumer or an old version
    Forget(Forget),
    /// Serves the state of the consumers to a browser
    #[cfg(feature = "dashboard")]
    Dashboard(Dashboard),
    /// Says how to get the command `dashboard`
    #[cfg(not(feature = "dashboard"))]
    #[command(hide = true)]
    Dashboard(NoDashboard),
    /// Creates or updates the tables
    Migrate(Migrate),
    /// Prints a shell completion script
    Completions(Completions),
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Runs only the consumers of this group
    #[arg(long)]
    pub(super) group: Option<String>,
    /// Runs only this consumer; can be repeated
    #[arg(long, value_name = "NAME")]
    pub(super) only: Vec<String>,
    /// Handles the events in the log, then exits
    #[arg(long)]
    pub(super) once: bool,
}

#[derive(Debug, Args)]
pub(super) struct Status {
    /// Refreshes every second, or every SECONDS
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    pub(super) watch: Option<f64>,
    /// Also shows the processes that handled events last
    #[arg(long)]
    pub(super) processes: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Format {
    /// Prints JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Consumer {
    /// The consumer
    pub(super) name: String,
    /// The version, if there are several
    #[arg(long, value_name = "VERSION")]
    pub(super) of_version: Option<u32>,
}

impl Consumer {
    pub(super) fn target(&self) -> Target {
        let target = Target::new(&*self.name);
        match self.of_version {
            Some(version) => target.version(version),
            None => target,
        }
    }
}

impl fmt::Display for Consumer {
    /// Writes the consumer as it was given on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.of_version {
            Some(version) => write!(f, "{} --of-version {version}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// Reads a position, also one that was copied from a table, with its thousands separated.
fn position(text: &str) -> Result<i64, &'static str> {
    let digits = text.replace(',', "");
    digits
        .parse()
        .map_err(|_| "a position is a whole number, such as 1005")
}

#[derive(Debug, Args)]
pub(super) struct Confirmed {
    /// Does not ask for confirmation
    #[arg(long, short)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct EventOf {
    #[command(flatten)]
    pub(super) consumer: Consumer,
    /// The position of the event
    #[arg(value_parser = position)]
    pub(super) position: i64,
}

#[derive(Debug, Args)]
pub(super) struct SkipEvent {
    #[command(flatten)]
    pub(super) event: EventOf,
    #[command(flatten)]
    pub(super) confirmed: Confirmed,
}

#[derive(Debug, Args)]
pub(super) struct Rebuild {
    #[command(flatten)]
    pub(super) consumer: Consumer,
    #[command(flatten)]
    pub(super) confirmed: Confirmed,
    /// How long to wait for a batch
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(super) wait: u64,
    #[command(flatten)]
    pub(super) beginning: Beginning,
    /// Starts over even if a rebuild is in progress
    #[arg(long)]
    pub(super) restart: bool,
    /// Leaves the work to other processes
    #[arg(long)]
    pub(super) no_run: bool,
    /// Only shows the progress of a rebuild
    #[arg(long, conflicts_with_all = ["restart", "no_run"])]
    pub(super) watch: bool,
}

#[derive(Debug, Args)]
pub(super) struct Beginning {
    /// Does not call the consumer's own reset
    #[arg(long)]
    pub(super) without_reset: bool,
    /// Delivers parked events again as new ones
    #[arg(long)]
    pub(super) discard_parked: bool,
}

#[derive(Debug, Args)]
pub(super) struct Activate {
    /// The consumer
    pub(super) name: String,
    /// The version to activate
    pub(super) version: u32,
    /// Activates it even if it is behind or has parked events
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Args)]
pub(super) struct Merge {
    #[command(flatten)]
    pub(super) consumer: Consumer,
    /// How many segments to keep
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) segments: u32,
}

#[derive(Debug, Subcommand)]
pub(super) enum Parked {
    /// Lists the parked events of one consumer, or of all
    List {
        /// The consumer; all consumers without it
        name: Option<String>,
        /// The version, if there are several
        #[arg(long, value_name = "VERSION", requires = "name")]
        of_version: Option<u32>,
        #[command(flatten)]
        format: Format,
    },
    /// Shows a parked event with its payload
    Show(EventOf),
    /// Handles parked events now: those of one event's aggregate, or all
    Retry {
        #[command(flatten)]
        consumer: Consumer,
        /// An event of the aggregate; all aggregates without it
        #[arg(value_parser = position)]
        position: Option<i64>,
    },
    /// Removes a parked event without handling it
    Skip(SkipEvent),
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    #[command(flatten)]
    pub(super) event: EventOf,
    #[command(flatten)]
    pub(super) format: Format,
}

#[cfg(feature = "dashboard")]
#[derive(Debug, Args)]
pub(super) struct Dashboard {
    /// Where to listen; a free local port by default
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:0",
        hide_default_value = true
    )]
    pub(super) listen: std::net::SocketAddr,
    /// Asks for user `operator` and this file's password
    #[arg(long, value_name = "FILE")]
    pub(super) password_file: Option<std::path::PathBuf>,
    /// Allows every action, such as pausing a consumer
    #[arg(long)]
    pub(super) allow_actions: bool,
}

#[cfg(not(feature = "dashboard"))]
#[derive(Debug, Args)]
pub(super) struct NoDashboard {
    /// The options of the command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _options: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Redact {
    /// The position of the event
    #[arg(value_parser = position)]
    pub(super) position: i64,
    /// The new payload
    pub(super) payload: String,
    /// Also removes the metadata
    #[arg(long)]
    pub(super) without_metadata: bool,
    #[command(flatten)]
    pub(super) confirmed: Confirmed,
}

#[derive(Debug, Args)]
pub(super) struct Rename {
    /// The name of the checkpoint
    pub(super) old: String,
    /// The name that it gets
    pub(super) new: String,
}

#[derive(Debug, Args)]
pub(super) struct StartNew {
    #[command(flatten)]
    pub(super) consumer: Consumer,
    #[command(flatten)]
    pub(super) confirmed: Confirmed,
}

#[derive(Debug, Args)]
pub(super) struct Forget {
    #[command(flatten)]
    pub(super) consumer: Consumer,
    #[command(flatten)]
    pub(super) confirmed: Confirmed,
    /// Allows a consumer of this program; it starts over
    #[arg(long)]
    pub(super) force: bool,
    /// Accepts that parked events are never handled
    #[arg(long)]
    pub(super) discard_parked: bool,
}

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Prints the SQL instead of running it
    #[arg(long)]
    pub(super) print: bool,
    /// Refuses programs with an older library
    #[arg(long)]
    pub(super) refuse_older: bool,
    /// Accepts programs with an older library again
    #[arg(long, conflicts_with = "refuse_older")]
    pub(super) accept_older: bool,
}

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    pub(super) shell: Shell,
}
