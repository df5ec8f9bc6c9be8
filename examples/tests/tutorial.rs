//! Follows the tutorial guide from the first line to the last: its code must be that of the programs, and
//! its commands must print the output that it shows.

mod process;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use self::process::Process;

/// The program after each step.
const PROGRAMS: [&str; 4] = [
    env!("CARGO_BIN_EXE_tutorial_1"),
    env!("CARGO_BIN_EXE_tutorial_2"),
    env!("CARGO_BIN_EXE_tutorial_3"),
    env!("CARGO_BIN_EXE_tutorial_4"),
];

/// A fenced block of the guide.
struct Block {
    /// The step under whose heading it is, from 1; 0 above the first heading.
    step: usize,
    language: String,
    text: String,
}

fn guide() -> Vec<Block> {
    let guide = include_str!("../../consumer/src/guide/tutorial.md");
    let mut step = 0;
    let mut blocks = Vec::new();
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix("# ") {
            let number = heading.split_once(". ").and_then(|(n, _)| n.parse().ok());
            step = number.unwrap_or(step);
        } else if let Some(language) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(Block {
                step,
                language: language.to_owned(),
                text: text.join("\n"),
            });
        }
    }
    blocks
}

/// The files of the programs, by name.
fn sources() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/tutorial");
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn is_in_a_program(code: &str, sources: &[(String, String)]) -> bool {
    let whole_lines = format!("\n{code}\n");
    sources
        .iter()
        .any(|(_, source)| format!("\n{source}").contains(&whole_lines))
}

#[test]
fn the_code_of_the_tutorial_is_that_of_its_programs() {
    let sources = sources();
    let code: Vec<Block> = guide()
        .into_iter()
        .filter(|block| block.language == "rs")
        .collect();
    assert!(code.len() >= 8, "only {} blocks of code", code.len());
    for block in &code {
        assert!(
            is_in_a_program(&block.text, &sources),
            "no file of the tutorial's programs contains\n{}",
            block.text
        );
        let changed = block.text.replacen('a', "b", 1);
        assert!(!is_in_a_program(&changed, &sources), "{changed}");
    }
    let (_, unread): (Vec<_>, Vec<_>) = sources
        .iter()
        .partition(|(_, source)| code.iter().any(|block| source.contains(&block.text)));
    let unread: Vec<&str> = unread.iter().map(|(name, _)| &**name).collect();
    assert_eq!(
        unread,
        [] as [&str; 0],
        "files of which the guide shows nothing"
    );
}

/// Types the commands of the tutorial.
struct Reader {
    directory: tempfile::TempDir,
    step: usize,
    /// Runs until the end of the step.
    worker: Option<Process>,
    /// The last command, and what it printed.
    last: (Vec<String>, String),
}

impl Reader {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            step: 1,
            worker: None,
            last: (Vec::new(), String::new()),
        }
    }

    fn begin(&mut self, step: usize) {
        if step != self.step {
            self.worker.take().into_iter().for_each(Process::terminate);
            self.step = step;
        }
    }

    fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(PROGRAMS[self.step - 1]);
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env_remove("RUST_BACKTRACE");
        command
    }

    fn type_in(&mut self, line: &str) {
        let Some(arguments) = line.strip_prefix("cargo run") else {
            // These create the crate, or run its unit tests, which are those of `tutorial_2`.
            assert!(
                ["cargo new", "cd ", "cargo test"]
                    .iter()
                    .any(|other| line.starts_with(other))
            );
            return;
        };
        let arguments: Vec<String> = arguments
            .split_whitespace()
            .filter(|argument| *argument != "--")
            .map(str::to_owned)
            .collect();
        if arguments == ["consumers", "run"] {
            let mut command = self.command(&arguments);
            self.worker = Some(Process::start(command.stdout(Stdio::null())));
        } else if arguments == ["consumers", "dashboard"] {
            let mut command = self.command(&arguments);
            opens(Process::start(command.stdout(Stdio::piped())));
        } else {
            let printed = self.run(&arguments);
            self.last = (arguments, printed);
        }
    }

    fn run(&self, arguments: &[String]) -> String {
        let output = self.command(arguments).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            output.status.success(),
            !errors.contains("Error:"),
            "{arguments:?}: {errors}"
        );
        if output.status.success() {
            String::from_utf8(output.stdout).unwrap()
        } else {
            errors
        }
    }

    /// Compares the output of the last command. While a worker runs, the command is repeated until the
    /// worker has caught up.
    fn reads(&self, wanted: &str) {
        let (arguments, mut printed) = self.last.clone();
        let begun = Instant::now();
        while self.worker.is_some()
            && printed.trim_end() != wanted
            && begun.elapsed() < Duration::from_mins(1)
        {
            std::thread::sleep(Duration::from_millis(5));
            printed = self.run(&arguments);
        }
        assert_eq!(printed.trim_end(), wanted, "{arguments:?}");
    }
}

/// Opens the address that the command `dashboard` prints, and ends the command.
fn opens(mut dashboard: Process) {
    let mut output = BufReader::new(dashboard.0.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    let mut page = String::new();
    connection.read_to_string(&mut page).unwrap();
    assert!(page.contains("/consumers/balances/1"), "{page}");
    dashboard.terminate();
}

#[test]
fn the_commands_of_the_tutorial_print_what_it_says() {
    let mut reader = Reader::new();
    let mut compared = 0;
    for block in guide() {
        reader.begin(block.step.max(1));
        match &*block.language {
            "sh" => block.text.lines().for_each(|line| reader.type_in(line)),
            "text" => {
                reader.reads(&block.text);
                compared += 1;
            }
            _ => {}
        }
    }
    reader.begin(0);
    assert!(compared >= 5, "only {compared} outputs were compared");
}

#[test]
fn withdrawals_at_once_do_not_overdraw_an_account() {
    let reader = Reader {
        step: 3,
        ..Reader::new()
    };
    let command =
        |line: &str| reader.command(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    for line in ["open acc-1 Ada", "deposit acc-1 1000"] {
        assert!(command(line).status().unwrap().success());
    }
    let withdrawals = [(); 8].map(|()| {
        let mut withdraw = command("withdraw acc-1 400");
        withdraw.stderr(Stdio::piped()).spawn().unwrap()
    });
    let mut succeeded = 0;
    for withdrawal in withdrawals {
        let output = withdrawal.wait_with_output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        if output.status.success() {
            succeeded += 1;
        } else {
            assert_eq!(errors, "Error: `acc-1` has only 200\n");
        }
    }
    assert_eq!(succeeded, 2);
}
