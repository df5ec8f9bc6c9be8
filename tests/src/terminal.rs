//! Programs on a terminal.

use std::process::{Command, Stdio};

/// A terminal of so many columns.
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
