//! What can be written on the command line.

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// What the exit codes mean.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  it is done, or it is as it should be
  1  it failed: the database, the tables, or a consumer's code
  2  the command line is wrong
  3  a consumer is not well: it stopped, its scope has changed, or a parked
     event failed again
  4  refused, nothing was changed: nobody confirmed it, a worker has the
     consumer at hand, or the message says what to do first";

/// The tools of an operator, in your own binary.
///
/// Use it whole, or as a subcommand of your own:
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
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Runs the consumers until the process is asked to end
    Run(Run),
    /// Lists the consumers that are in this program
    List,
    /// Shows how every consumer stands, also while no worker runs
    Status(Status),
    /// Keeps a consumer from handling events, in all processes
    Pause(Which),
    /// Lets a paused or stopped consumer go on
    Resume(Which),
    /// Empties a read model and handles all events again
    Rebuild(Rebuild),
    /// Goes on with the scope that the code has, without a rebuild
    AcceptScope(Which),
    /// Says which version of a consumer serves
    Activate(Activate),
    /// Brings a consumer down to fewer segments, while workers run it
    Merge(Merge),
    /// Lists, shows, retries and skips events that were set aside
    #[command(subcommand, disable_help_subcommand = true)]
    Parked(Parked),
    /// Shows how far the log is settled, and who keeps it from going on
    Frontier(Format),
    /// Removes a checkpoint that is detached, or that of an old version
    Forget(Forget),
    /// Creates the tables, or brings them up to date
    Migrate(Migrate),
    /// Prints what makes a shell complete these commands
    Completions(Completions),
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Runs the consumers of one group alone
    #[arg(long)]
    pub(super) group: Option<String>,
    /// Runs this consumer alone; can be given several times
    #[arg(long, value_name = "NAME")]
    pub(super) only: Vec<String>,
    /// Handles what is in the log, and ends
    #[arg(long)]
    pub(super) once: bool,
}

#[derive(Debug, Args)]
pub(super) struct Status {
    /// Looks again every second, or every so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    pub(super) watch: Option<f64>,
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
pub(super) struct Which {
    /// The consumer
    pub(super) name: String,
    /// Which version of it, where there are several
    #[arg(long, value_name = "VERSION")]
    pub(super) of_version: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct Confirmed {
    /// Does it without asking
    #[arg(long, short)]
    pub(super) yes: bool,
}

#[derive(Debug, Args)]
pub(super) struct Rebuild {
    #[command(flatten)]
    pub(super) which: Which,
    #[command(flatten)]
    pub(super) confirmed: Confirmed,
    /// How long to wait for a batch to end
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(super) wait: u64,
    #[command(flatten)]
    pub(super) beginning: Beginning,
    /// Begins anew also when a rebuild is under way
    #[arg(long)]
    pub(super) restart: bool,
    /// Leaves the work to others, and shows how far it is
    #[arg(long)]
    pub(super) no_run: bool,
    /// Begins nothing, and only shows how far it is
    #[arg(long, conflicts_with_all = ["restart", "no_run"])]
    pub(super) watch: bool,
}

#[derive(Debug, Args)]
pub(super) struct Beginning {
    /// Does not call the consumer's own reset
    #[arg(long)]
    pub(super) without_reset: bool,
    /// Gives up the events that are parked
    #[arg(long)]
    pub(super) discard_parked: bool,
}

#[derive(Debug, Args)]
pub(super) struct Activate {
    /// The consumer
    pub(super) name: String,
    /// The version that is to serve
    pub(super) version: u32,
    /// Also while it is behind, or has parked events
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Args)]
pub(super) struct Merge {
    #[command(flatten)]
    pub(super) which: Which,
    /// How many segments are to be left
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) segments: u32,
}

#[derive(Debug, Subcommand)]
pub(super) enum Parked {
    /// Lists the parked events of a consumer
    List {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        format: Format,
    },
    /// Shows a parked event with its payload
    Show {
        #[command(flatten)]
        which: Which,
        /// Where the event stands in the log
        position: i64,
    },
    /// Handles parked events now: those of one event's aggregate, or all
    Retry {
        #[command(flatten)]
        which: Which,
        /// An event of the aggregate; all aggregates without it
        position: Option<i64>,
    },
    /// Leaves a parked event out for good
    Skip {
        #[command(flatten)]
        which: Which,
        /// Where the event stands in the log
        position: i64,
        #[command(flatten)]
        confirmed: Confirmed,
    },
}

#[derive(Debug, Args)]
pub(super) struct Forget {
    #[command(flatten)]
    pub(super) which: Which,
    #[command(flatten)]
    pub(super) confirmed: Confirmed,
    /// Also when this program has it, to begin again
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Prints the SQL instead of running it
    #[arg(long)]
    pub(super) print: bool,
}

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// Which shell
    pub(super) shell: Shell,
}
