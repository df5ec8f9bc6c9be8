//! Shell completion, wherever a program has mounted the commands.

use std::ffi::OsString;
use std::path::Path;

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, CommandFactory as _};

use super::args::{Cli, Completions};
use crate::registry::entry::linked_entries;

impl Completions {
    /// The completion script of a whole program, with the names of the consumers in it and these.
    pub(super) fn script(&self, command: &mut Command, consumers: &[&str]) -> String {
        let name = command.get_name().to_owned();
        let mut names: Vec<&str> = linked_entries().iter().map(|entry| entry.name).collect();
        names.extend(consumers);
        names.sort_unstable();
        names.dedup();
        let mut command = offering(command.clone(), &names);
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        String::from_utf8_lossy(&script).trim_end().to_owned()
    }

    /// The completion script of these commands, mounted where this process was called with them.
    pub(super) fn own_script(&self, consumers: &[&str]) -> String {
        self.script(&mut mounted(std::env::args_os()), consumers)
    }
}

/// Offers the names of consumers wherever these commands take one.
fn offering(command: Command, names: &[&str]) -> Command {
    /// A command that no one else has.
    const OWN: &str = "accept-scope";
    if names.is_empty() {
        return command;
    }
    if command.find_subcommand(OWN).is_none() {
        return command.mut_subcommands(|below| offering(below, names));
    }
    command.mut_subcommands(|below| offering_in(below, names))
}

fn offering_in(command: Command, names: &[&str]) -> Command {
    let offer = |argument: Arg| match argument.get_id().as_str() {
        "name" | "only" | "old" => {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            argument.value_parser(PossibleValuesParser::new(names))
        }
        _ => argument,
    };
    let command = command.mut_args(offer);
    command.mut_subcommands(|below| offering_in(below, names))
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
