//! The file that records names, versions, scopes, handled events and tables.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use thiserror::Error;

use super::Crates;
use super::entry::{Entry, linked_entries};
use super::handled::HandlerShape;
use super::knowledge::Knowledge;
use crate::contract::read_model::{ColumnRole, ColumnType, Table, TableColumn};

/// The environment variable that makes [`assert_locked!`](crate::assert_locked) write the file.
const UPDATE: &str = "CONSUMERS_LOCK";

const HEADER: &str = "\
# The names, versions, scopes, handled events and tables of all consumers, written by `assert_locked!`.
# A renamed consumer starts again from the beginning of the log. To update this file, run
# CONSUMERS_LOCK=update cargo test
";

/// Why the consumers do not match the lock file.
#[derive(Debug, Error)]
pub enum LockError {
    /// The file does not exist.
    #[error("`{}` does not exist: create it with `{UPDATE}=update cargo test`", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// The file could not be read.
    #[error("cannot read `{}`", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("cannot write `{}`", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The consumers changed.
    #[error(
        "the consumers differ from `{}`:\n{difference}a renamed consumer needs `formerly = \"old_name\"` to continue from its checkpoint; if the change is intended, run `{UPDATE}=update cargo test`",
        file.display()
    )]
    Changed {
        /// The file.
        file: PathBuf,
        /// The removed lines, with `-`, and the added ones, with `+`.
        difference: String,
    },
}

/// Compares the linked consumers with the file, or writes it if the environment says so.
///
/// # Errors
/// The difference, or the reason why the file could not be read or written.
pub fn check_lock(folder: &str, file: &str, crates: Option<&Crates>) -> Result<(), LockError> {
    let file = Path::new(folder).join(file);
    let current = render(
        linked_entries()
            .into_iter()
            .filter(|entry| crates.is_none_or(|crates| crates.contain(entry.site.module))),
    );
    if env::var_os(UPDATE).is_some_and(|value| value == "update") {
        return fs::write(&file, current).map_err(|source| LockError::Write { file, source });
    }
    let locked = match fs::read_to_string(&file) {
        Ok(text) => text.replace("\r\n", "\n"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LockError::Missing { file });
        }
        Err(source) => return Err(LockError::Read { file, source }),
    };
    match difference(&locked, &current) {
        None => Ok(()),
        Some(difference) => Err(LockError::Changed { file, difference }),
    }
}

fn render(entries: impl Iterator<Item = &'static Entry>) -> String {
    entries.fold(HEADER.to_owned(), |mut text, entry| {
        // Writing to a `String` cannot fail.
        let _ = write!(
            text,
            "\n{}\n{}    scope: {}\n    events: {}\n{}{}",
            entry.name,
            version(entry),
            sorted(entry.scope.iter().copied(), "every aggregate"),
            events(entry),
            passed_over(entry),
            entry.read_model.map(table).unwrap_or_default()
        );
        text
    })
}

/// The line of a version other than the first.
fn version(entry: &Entry) -> String {
    match entry.version {
        1 => String::new(),
        later => format!("    version: {later}\n"),
    }
}

/// The lines of a read model. Other columns need another version, or a rebuild.
fn table(table: &Table) -> String {
    let columns: Vec<String> = table.columns.iter().map(column).collect();
    format!(
        "    table: {}\n    columns: {}\n",
        table.name,
        columns.join(", ")
    )
}

/// `email text null indexed`
fn column(column: &TableColumn) -> String {
    let null = if column.nullable { " null" } else { "" };
    let role = match column.role {
        ColumnRole::Key => " key",
        ColumnRole::Position => " position",
        ColumnRole::Indexed => " indexed",
        ColumnRole::Plain => "",
    };
    let column_type = column_type(column.column_type);
    format!("{} {column_type}{null}{role}", column.name)
}

fn column_type(column_type: ColumnType) -> &'static str {
    match column_type {
        ColumnType::Text => "text",
        ColumnType::Bool => "bool",
        ColumnType::I16 => "i16",
        ColumnType::I32 => "i32",
        ColumnType::I64 => "i64",
        ColumnType::F32 => "f32",
        ColumnType::F64 => "f64",
        ColumnType::Bytes => "bytes",
        ColumnType::Uuid => "uuid",
        ColumnType::Timestamp => "timestamp",
        ColumnType::Date => "date",
        ColumnType::Json => "json",
        ColumnType::Other(sql_type) => sql_type,
    }
}

fn events(entry: &Entry) -> String {
    let handlers = entry.knowledge.handlers.iter();
    let events = handlers.flat_map(HandlerShape::events);
    sorted(events, "none")
}

/// The line of the events that are passed over: by name, or because no handler takes them. Others make the
/// consumer wait.
fn passed_over(entry: &Entry) -> String {
    let knowledge = entry.knowledge;
    let ignored = knowledge.ignored.iter().map(ToString::to_string);
    let others = match entry.scope {
        _ if knowledge.takes_all() => Vec::new(),
        [] => vec!["every other".to_owned()],
        scope => by_name(scope, &knowledge),
    };
    let words: Vec<String> = ignored.chain(others).collect();
    if words.is_empty() {
        return String::new();
    }
    format!("    passed over: {}\n", words.join(", "))
}

/// The other events of the aggregates that are in the scope by name.
fn by_name(scope: &[&str], knowledge: &Knowledge) -> Vec<String> {
    let by_name = scope.iter().filter(|one| !knowledge.has_type_of(one));
    by_name.map(|one| format!("every other of {one}")).collect()
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

/// The removed and the added consumers; `None` if there are neither.
fn difference(locked: &str, current: &str) -> Option<String> {
    let (locked, current) = (consumers(locked), consumers(current));
    let removed = locked.iter().filter(|one| !current.contains(one));
    let added = current.iter().filter(|one| !locked.contains(one));
    let signed = removed
        .map(|one| ('-', one))
        .chain(added.map(|one| ('+', one)));
    let mut text = String::new();
    for (sign, consumer) in signed {
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

/// Checks that the linked consumers have the names, versions, scopes, handled events and tables
/// recorded in a file beside Cargo.toml.
///
/// A consumer's name keys its checkpoint: one that is renamed without
/// [`formerly`](crate::Formerly) is held back, or starts again from the beginning of the log. With this
/// line in a test the rename fails the build, and the change of the file is visible in code review:
///
/// ```no_run
/// // in a function marked `#[test]`
/// consumer::assert_locked!("consumers.lock");
/// ```
///
/// `CONSUMERS_LOCK=update cargo test` writes the file. A test links its own crate and the crates that
/// a path in it mentions. To name them, and to ignore all others, write
/// `assert_locked!("consumers.lock", consumers![crate, billing])`.
///
/// # Panics
/// If the file is missing or the consumers differ from it.
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
            ::core::panic!("{}", $crate::__private::chain(&error));
        }
    };
}
