//! The file that freezes names, versions, scopes and handled events.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use thiserror::Error;

use super::Crates;
use super::entry::{Entry, linked_entries};
use crate::contract::Handled;

/// The environment variable that makes [`assert_locked!`](crate::assert_locked) write the file.
const UPDATE: &str = "CONSUMERS_LOCK";

const HEADER: &str = "\
# The names, versions, scopes and handled events of all consumers, as `assert_locked!` found them.
# A renamed consumer starts again from the beginning of the log: change this file with care, by
# CONSUMERS_LOCK=update cargo test
";

/// Why consumers are not as they were frozen.
#[derive(Debug, Error)]
pub enum LockError {
    /// There is no file yet.
    #[error("{}: there is no such file; write it with `{UPDATE}=update cargo test`", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Consumers changed.
    #[error(
        "the consumers are not as {} froze them:\n{difference}a new name, or a lost one, means that a consumer begins again from the start of the log; if this is meant, run `{UPDATE}=update cargo test`",
        file.display()
    )]
    Changed {
        /// The file.
        file: PathBuf,
        /// The lines that went, with `-`, and those that came, with `+`.
        difference: String,
    },
}

/// Compares the linked consumers with the file, or writes it when the environment asks for it.
///
/// # Errors
/// What differs, or why the file cannot be read.
pub fn check_lock(folder: &str, file: &str, crates: Option<&Crates>) -> Result<(), LockError> {
    let file = Path::new(folder).join(file);
    let current = render(
        linked_entries()
            .into_iter()
            .filter(|entry| crates.is_none_or(|crates| crates.contain(entry.site.module))),
    );
    let io = |source| LockError::Io {
        file: file.clone(),
        source,
    };
    if env::var_os(UPDATE).is_some_and(|value| value == "update") {
        return fs::write(&file, current).map_err(io);
    }
    let frozen = match fs::read_to_string(&file) {
        Ok(text) => text.replace("\r\n", "\n"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LockError::Missing { file });
        }
        Err(error) => return Err(io(error)),
    };
    match difference(&frozen, &current) {
        None => Ok(()),
        Some(difference) => Err(LockError::Changed { file, difference }),
    }
}

fn render(entries: impl Iterator<Item = &'static Entry>) -> String {
    entries.fold(HEADER.to_owned(), |mut text, entry| {
        // Writing to a `String` cannot fail.
        let _ = write!(
            text,
            "\n{}\n{}    scope: {}\n    events: {}\n",
            entry.name,
            version(entry),
            sorted(entry.scope.iter().copied(), "every aggregate"),
            events(entry)
        );
        text
    })
}

/// The version, where it is not the first: a change of it is a rebuild.
fn version(entry: &Entry) -> String {
    match entry.version {
        1 => String::new(),
        later => format!("    version: {later}\n"),
    }
}

fn events(entry: &Entry) -> String {
    let events = entry
        .handlers
        .iter()
        .flat_map(|handler| match handler.handled {
            Handled::Every => vec!["every event"],
            Handled::Rest => vec!["every other"],
            Handled::Named(events) | Handled::Typed { events, .. } => events.to_vec(),
        });
    sorted(events, "none")
}

fn sorted<'a>(words: impl IntoIterator<Item = &'a str>, none: &str) -> String {
    let mut words: Vec<&str> = words.into_iter().collect();
    words.sort_unstable();
    words.dedup();
    if words.is_empty() {
        none.to_owned()
    } else {
        words.join(", ")
    }
}

/// The consumers that went and those that came; `None` when there are none of either.
fn difference(frozen: &str, current: &str) -> Option<String> {
    let (frozen, current) = (consumers(frozen), consumers(current));
    let went = frozen.iter().filter(|one| !current.contains(one));
    let came = current.iter().filter(|one| !frozen.contains(one));
    let mut text = String::new();
    for (sign, consumer) in went.map(|one| ('-', one)).chain(came.map(|one| ('+', one))) {
        for line in consumer.lines() {
            let _ = writeln!(text, "{sign} {line}");
        }
    }
    (!text.is_empty()).then_some(text)
}

/// The paragraphs of the file, without its comments.
fn consumers(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines
        .split(|line| line.trim().is_empty())
        .filter(|paragraph| !paragraph.is_empty())
        .map(|paragraph| paragraph.join("\n"))
        .collect()
}

/// Checks that the linked consumers have the names, versions, scopes and handled events that a file
/// beside Cargo.toml says.
///
/// A consumer's name keys its checkpoint: one that is renamed begins again from the start of the
/// log, without a word. This line in a test makes the change visible, and the file makes it part
/// of what is reviewed:
///
/// ```no_run
/// // in a function marked `#[test]`
/// consumer::assert_locked!("consumers.lock");
/// ```
///
/// `CONSUMERS_LOCK=update cargo test` writes the file. A test links the crate that it is part of
/// and those that some path mentions; to name them, and to leave all others out, write
/// `assert_locked!("consumers.lock", consumers![crate, billing])`.
///
/// # Panics
/// When the file is missing, or the consumers are not as it says; that is what it is for.
#[macro_export]
macro_rules! assert_locked {
    ($file:expr $(,)?) => {
        $crate::__assert_locked!($file, ::core::option::Option::None)
    };
    ($file:expr, $crates:expr $(,)?) => {
        $crate::__assert_locked!($file, ::core::option::Option::Some(&$crates))
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __assert_locked {
    ($file:expr, $crates:expr) => {
        if let ::core::result::Result::Err(error) =
            $crate::__private::check_lock(::core::env!("CARGO_MANIFEST_DIR"), $file, $crates)
        {
            ::core::panic!("{error}");
        }
    };
}
