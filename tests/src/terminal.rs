//! Programs on a terminal.

use std::fmt;
use std::process::{Command, Stdio};

/// A terminal with this number of columns.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    /// How wide it is.
    pub columns: u16,
}

impl Terminal {
    /// Runs a command line of the shell on it to its end, with nothing to read, and returns what was written.
    #[must_use]
    pub fn run(self, line: &str, variables: &[(&str, &str)]) -> String {
        let inside = format!("stty cols {} rows 24; exec {line}", self.columns);
        let output = Command::new("script")
            .args(["-qec", &inside, "/dev/null"])
            .envs(variables.iter().copied())
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(Stdio::null())
            .output()
            .expect("run `script`");
        [&output.stdout, &output.stderr]
            .map(|stream| String::from_utf8_lossy(stream))
            .concat()
    }
}

/// What a terminal shows of a text, without escape codes.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter == '\x1b' {
            letters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(letter);
        }
    }
    plain
}

/// What a program writes into pipes, and how it exits.
#[derive(Clone, Debug)]
pub struct Piped {
    /// The command line, without the program.
    pub line: String,
    /// What it wrote for other programs.
    pub stdout: String,
    /// What it wrote for people.
    pub stderr: String,
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
}

impl Piped {
    /// Runs a program to its end, with nothing to read.
    #[must_use]
    pub fn run(program: &str, line: &str, variables: &[(&str, &str)]) -> Self {
        let output = Command::new(program)
            .args(line.split(' '))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .expect("run the program");
        Self {
            line: line.to_owned(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }
}

impl fmt::Display for Piped {
    /// Writes all of it, the lines for people after `2>`, and the exit code.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "$ {}\n{}", self.line, self.stdout)?;
        for line in self.stderr.lines() {
            writeln!(f, "2> {line}")?;
        }
        writeln!(f, "[{}]\n", self.code)
    }
}
