//! Where the tools write, and whom they ask.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use comfy_table::Table;

/// The width of a table where there is no terminal to ask.
const WIDTH: u16 = 80;

/// Where the tools write and whom they ask: the process's own streams, or a test's buffer.
///
/// A test of your own commands captures it:
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
/// use clap::Parser as _;
/// use consumer::cli::{Cli, Console, Exit};
/// use consumer::{SqliteEventStore, Worker};
///
/// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
/// # store.migrate().await?;
/// # Worker::builder(store.clone()).consumer(Users).build()?.run_once().await?;
/// // A rebuild asks first.
/// let console = Console::captured(["no"]);
/// let cli = Cli::parse_from(["app", "rebuild", "users", "--without-reset"]);
/// let exit = cli.run_on(Worker::builder(store).consumer(Users), &console).await;
/// assert_eq!((exit, exit.code()), (Exit::Refused, 4));
/// assert!(console.text().contains("nothing was changed"));
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug)]
pub struct Console {
    target: Target,
    pub(super) is_terminal: bool,
    pub(super) has_colour: bool,
    pub(super) width: u16,
}

#[derive(Clone, Debug)]
enum Target {
    Process,
    Captured(Arc<Mutex<Captured>>),
}

#[derive(Debug, Default)]
struct Captured {
    text: String,
    answers: VecDeque<String>,
}

impl Console {
    /// The process's own streams. Colours are for terminals alone, and not where `NO_COLOR` is set.
    ///
    /// [`Cli::run`](super::Cli::run) uses it, so that it is rarely named.
    ///
    /// ```no_run
    /// # #[cfg(feature = "sqlite")]
    /// # async fn example(builder: consumer::WorkerBuilder<consumer::sqlx::Sqlite>) {
    /// use clap::Parser as _;
    /// use consumer::cli::{Cli, Console, Exit};
    ///
    /// // Like `run`, and then something of your own.
    /// let exit = Cli::parse().run_on(builder, &Console::process()).await;
    /// if exit == Exit::Unwell {
    ///     eprintln!("the runbook says what to do");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn process() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            target: Target::Process,
            is_terminal,
            has_colour: is_terminal && !is_dumb && !is_set("NO_COLOR"),
            width: Table::new().width().unwrap_or(WIDTH),
        }
    }

    /// Keeps what is written, 80 columns wide and without colours, and gives these answers.
    ///
    /// See [`Console`] for an example.
    #[must_use]
    pub fn captured<'a>(answers: impl IntoIterator<Item = &'a str>) -> Self {
        let captured = Captured {
            text: String::new(),
            answers: answers.into_iter().map(str::to_owned).collect(),
        };
        Self {
            target: Target::Captured(Arc::new(Mutex::new(captured))),
            is_terminal: false,
            has_colour: false,
            width: WIDTH,
        }
    }

    /// What was written so far to a console that keeps it.
    ///
    /// See [`Console`] for an example.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.target {
            Target::Process => String::new(),
            Target::Captured(captured) => lock(captured).text.clone(),
        }
    }

    /// Writes a line; a reader that went away is no error.
    pub(super) fn line(&self, line: impl AsRef<str>) {
        let _ = self.reached(line);
    }

    /// Writes a line, and says whether there is somebody to read it.
    pub(super) fn reached(&self, line: impl AsRef<str>) -> bool {
        match &self.target {
            Target::Process => writeln!(io::stdout().lock(), "{}", line.as_ref()).is_ok(),
            Target::Captured(captured) => {
                let text = &mut lock(captured).text;
                text.push_str(line.as_ref());
                text.push('\n');
                true
            }
        }
    }

    /// Writes a line for people, beside what other programs read.
    pub(super) fn note(&self, line: impl AsRef<str>) {
        match &self.target {
            Target::Process => {
                let _ = writeln!(io::stderr().lock(), "{}", line.as_ref());
            }
            Target::Captured(_) => self.line(line),
        }
    }

    /// Draws what replaces what was drawn before, and says whether there is somebody to read it.
    pub(super) fn redraw(&self, screen: &str) -> bool {
        if self.is_terminal {
            // In one piece, so that nothing flickers.
            self.reached(format!("\x1b[H\x1b[2J{screen}"))
        } else {
            self.reached(format!("{screen}\n"))
        }
    }

    /// Asks; only a clear yes is one. Where nobody can answer, it is no.
    pub(super) fn confirms(&self, question: &str) -> bool {
        let answer = match &self.target {
            Target::Captured(captured) => {
                self.line(format!("{question} [y/N]"));
                lock(captured).answers.pop_front()
            }
            Target::Process if self.is_terminal && io::stdin().is_terminal() => {
                let _ = write!(io::stderr().lock(), "{question} [y/N] ");
                let mut answer = String::new();
                let read = io::stdin().lock().read_line(&mut answer);
                read.ok().map(|_| answer)
            }
            Target::Process => {
                self.note(format!("{question} Nobody is there to answer: add `--yes`"));
                None
            }
        };
        answer.is_some_and(|answer| matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}

fn lock(captured: &Mutex<Captured>) -> std::sync::MutexGuard<'_, Captured> {
    captured.lock().unwrap_or_else(PoisonError::into_inner)
}
