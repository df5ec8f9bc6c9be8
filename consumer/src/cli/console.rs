//! Where the commands write, and where they ask for confirmation.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::sync::{Arc, OnceLock};

use comfy_table::Table;
use parking_lot::Mutex;

use super::error::CommandError;
use crate::admin::text::visible_json;

/// The width of captured tables.
const WIDTH: u16 = 80;

/// Where the commands write and ask: the process's own streams, or a buffer in a test.
///
/// ```
/// # consumer::__doc::registered(async |store| { use consumer::__doc::Users;
/// # Worker::builder(store.clone()).consumer(Users).build()?.run_once().await?;
/// use clap::Parser as _;
/// use consumer::Worker;
/// use consumer::cli::{Cli, Console, Exit};
///
/// // A rebuild asks for confirmation.
/// let console = Console::captured(["no"]);
/// let cli = Cli::parse_from(["app", "rebuild", "users", "--without-reset"]);
/// let exit = cli.run_on(Worker::builder(store).consumer(Users), &console).await;
/// assert_eq!((exit, exit.code()), (Exit::Refused, 4));
/// assert!(console.text().contains("nothing was changed"));
/// # Ok(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Console {
    target: Target,
    /// The first error of the output.
    failure: Arc<OnceLock<io::Error>>,
    pub(super) is_terminal: bool,
    pub(super) has_colour: bool,
    /// How wide tables may be; `None` for other programs, which take a row from each line.
    pub(super) width: Option<u16>,
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
    /// Writes to the process's own streams; [`Cli::run`](super::Cli::run) uses this.
    ///
    /// Colours are for terminals only, and are off if `NO_COLOR` is set.
    #[must_use]
    pub fn process() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            target: Target::Process,
            failure: Arc::default(),
            is_terminal,
            has_colour: is_terminal && !is_dumb && !is_set("NO_COLOR"),
            width: Table::new().width(),
        }
    }

    /// Captures the output, 80 columns wide and without colours, and gives these answers.
    #[must_use]
    pub fn captured<'a>(answers: impl IntoIterator<Item = &'a str>) -> Self {
        let captured = Captured {
            text: String::new(),
            answers: answers.into_iter().map(str::to_owned).collect(),
        };
        Self {
            target: Target::Captured(Arc::new(Mutex::new(captured))),
            failure: Arc::default(),
            is_terminal: false,
            has_colour: false,
            width: Some(WIDTH),
        }
    }

    /// The same without colours, to measure what is written.
    pub(super) fn without_colour(&self) -> Self {
        Self {
            has_colour: false,
            ..self.clone()
        }
    }

    /// Returns the captured output.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.target {
            Target::Process => String::new(),
            Target::Captured(captured) => captured.lock().text.clone(),
        }
    }

    /// Writes a line, and returns whether it was written; [`failure`](Self::failure) says why not.
    pub(super) fn line(&self, line: impl AsRef<str>) -> bool {
        let written = match &self.target {
            Target::Process => write_line(line.as_ref()),
            Target::Captured(captured) => {
                let text = &mut captured.lock().text;
                text.push_str(line.as_ref());
                text.push('\n');
                Ok(())
            }
        };
        let failed = written.err().map(|error| self.failure.set(error));
        failed.is_none()
    }

    /// Writes JSON that a terminal shows and does not obey.
    pub(super) fn json(&self, json: &str) -> bool {
        self.line(visible_json(json))
    }

    /// Why the output could not be written. A reader that has closed its end, such as `head`, is
    /// not a failure.
    pub(super) fn failure(&self) -> Option<&io::Error> {
        let failure = self.failure.get();
        failure.filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
    }

    /// Writes a human-readable line to standard error, apart from the output that programs read.
    pub(super) fn note(&self, line: impl AsRef<str>) {
        match &self.target {
            Target::Process => {
                let _ = writeln!(io::stderr().lock(), "{}", line.as_ref());
            }
            Target::Captured(_) => {
                self.line(line);
            }
        }
    }

    /// Replaces what is on the screen, and returns whether it was written.
    pub(super) fn redraw(&self, screen: &str) -> bool {
        if self.is_terminal {
            // In one write, so that nothing flickers.
            self.line(format!("\x1b[H\x1b[2J{screen}"))
        } else {
            self.line(format!("{screen}\n"))
        }
    }

    /// Asks for confirmation unless it was given; without a terminal, the answer is no.
    pub(super) fn confirm(&self, is_confirmed: bool, question: &str) -> Result<(), CommandError> {
        if is_confirmed || self.is_answered_yes(question) {
            Ok(())
        } else {
            Err(CommandError::Declined)
        }
    }

    fn is_answered_yes(&self, question: &str) -> bool {
        let answer = match &self.target {
            Target::Captured(captured) => {
                self.line(format!("{question} [y/N]"));
                captured.lock().answers.pop_front()
            }
            Target::Process if self.is_terminal && io::stdin().is_terminal() => {
                let _ = write!(io::stderr().lock(), "{question} [y/N] ");
                let mut answer = String::new();
                let read = io::stdin().lock().read_line(&mut answer);
                if !answer.ends_with('\n') {
                    // It was not the reader who ended the line.
                    self.note("");
                }
                read.ok().map(|_| answer)
            }
            Target::Process => {
                self.note(format!(
                    "{question} There is no terminal to ask on: confirm with `--yes`"
                ));
                None
            }
        };
        answer.is_some_and(|answer| matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}

fn write_line(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}
