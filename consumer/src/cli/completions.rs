//! Shell completion, wherever a program has mounted the commands.

use std::ffi::OsString;
use std::path::Path;

use clap::{Command, CommandFactory as _};

use super::args::{Cli, Completions};

impl Completions {
    /// The completion script of a whole program.
    pub(super) fn script(&self, command: &mut Command) -> String {
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, command, name, &mut script);
        String::from_utf8_lossy(&script).trim_end().to_owned()
    }

    /// The completion script of these commands, mounted where this process was called with them.
    pub(super) fn own_script(&self) -> String {
        self.script(&mut mounted(std::env::args_os()))
    }
}

/// Mounts the commands below the words that they were called with: `web consumers completions
/// bash` asks for completions of `web consumers …`.
fn mounted(arguments: impl IntoIterator<Item = OsString>) -> Command {
    let mut arguments = arguments.into_iter();
    let program = arguments.next().unwrap_or_default();
    let stem = Path::new(&program).file_stem().unwrap_or_default();
    let name = match stem.to_str() {
        None | Some("") => "consumer",
        Some(name) => name,
    };
    let words: Vec<String> = arguments
        .map(|word| word.to_string_lossy().into_owned())
        .take_while(|word| word != "completions")
        .filter(|word| !word.starts_with('-'))
        .collect();
    let leaf = Cli::command();
    let Some((last, above)) = words.split_last() else {
        return leaf.name(name.to_owned());
    };
    let mut command = leaf.name(last.clone());
    for word in above.iter().rev() {
        command = Command::new(word.clone()).subcommand(command);
    }
    Command::new(name.to_owned()).subcommand(command)
}

#[cfg(test)]
mod tests {
    use super::mounted;

    fn path(line: &str) -> String {
        let mut command = mounted(line.split(' ').map(Into::into));
        let mut path = vec![command.get_name().to_owned()];
        while command.find_subcommand("rebuild").is_none() {
            let next = command.get_subcommands().next().cloned();
            command = next.unwrap_or_else(|| clap::Command::new("rebuild"));
            path.push(command.get_name().to_owned());
        }
        path.join(" ")
    }

    #[test]
    fn commands_are_completed_where_they_were_called() {
        assert_eq!(path("/usr/bin/worker completions bash"), "worker");
        assert_eq!(path("web consumers completions bash"), "web consumers");
        assert_eq!(
            path("web -v ops consumers completions zsh"),
            "web ops consumers"
        );
    }
}
