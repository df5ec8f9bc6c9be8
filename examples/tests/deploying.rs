//! Types the commands of the guide to deploying, whose code must be that of the two releases, and compares
//! what they print.

mod process;
mod shown;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use consumer::{PgEventStore, sqlx};
use consumer_tests::TestPostgres;

use self::process::Process;
use self::shown::{assert_shown, blocks};

const GUIDE: &str = include_str!("../../consumer/src/guide/deploying.md");

#[test]
fn the_guide_to_deploying_shows_the_release_after() {
    assert_shown(GUIDE, include_str!("../src/bin/rolling_deploy/after.rs"));
}

/// Whether a command prints positions, which may have gaps, and times.
fn has_numbers_of_its_own(line: &str) -> bool {
    line.ends_with(" status") || line.ends_with(" unknown")
}

/// The words of a text, without its numbers and times.
fn without_numbers(text: &str) -> String {
    let is_unit = |word: &str| matches!(word, "ms" | "s" | "min" | "h" | "d");
    let is_version = |word: &str| word.starts_with('v') && word[1..].parse::<u32>().is_ok();
    let lines = text.trim_end().lines().map(|line| {
        let words = line.split_whitespace().filter(|word| !is_unit(word));
        let words = words.map(|word| match word {
            version if is_version(version) => version.to_owned(),
            other => other.replace(|letter: char| letter.is_ascii_digit(), ""),
        });
        let words: Vec<String> = words.filter(|word| !word.is_empty()).collect();
        words.join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Ends a worker with SIGTERM. It may have consumers that need attention.
fn end(mut worker: Process) {
    let id = worker.0.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status().unwrap();
    assert!(sent.success());
    let ended = worker.0.wait().unwrap();
    assert!(matches!(ended.code(), Some(0 | 3)), "{ended}");
}

/// Both releases, on one database.
struct Shell {
    url: String,
    workers: Vec<Process>,
}

impl Shell {
    fn command(&self, line: &str) -> Command {
        let mut words = line.split(' ');
        let program = match words.next() {
            Some("deploy_before") => env!("CARGO_BIN_EXE_deploy_before"),
            Some("deploy_after") => env!("CARGO_BIN_EXE_deploy_after"),
            _ => panic!("not a release: {line}"),
        };
        let mut command = Command::new(program);
        command.args(words).env("DATABASE_URL", &self.url);
        command
    }

    /// Runs a command that has to succeed.
    fn run(&self, line: &str) {
        let output = self.command(line).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {errors}");
    }

    /// What a command prints, or its error: it may have to wait for the worker to create a table.
    fn printed(&self, line: &str) -> String {
        let output = self.command(line).output().unwrap();
        let printed = [output.stdout, output.stderr].concat();
        String::from_utf8(printed).unwrap()
    }

    /// Runs the commands of a block.
    fn type_in(&mut self, block: &str) {
        for line in block.lines() {
            if let Some(line) = line.strip_suffix(" &") {
                let mut command = self.command(line);
                self.workers
                    .push(Process::start(command.stdout(Stdio::null())));
            } else if line == "kill %1" {
                end(self.workers.remove(0));
            } else {
                self.run(line);
            }
        }
    }

    /// Repeats a command until it prints a text: workers are at work meanwhile.
    fn reads(&self, line: &str, wanted: &str) {
        let text = |printed: &str| {
            if has_numbers_of_its_own(line) {
                without_numbers(printed)
            } else {
                printed.trim_end().to_owned()
            }
        };
        let (begun, wanted) = (Instant::now(), text(wanted));
        let mut printed = text(&self.printed(line));
        while printed != wanted && begun.elapsed() < Duration::from_mins(1) {
            std::thread::sleep(Duration::from_millis(20));
            printed = text(&self.printed(line));
        }
        assert_eq!(printed, wanted, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_guide_to_deploying_print_what_it_says() {
    let database = TestPostgres::shared().await.database().await;
    let mut shell = Shell {
        url: database.url.clone(),
        workers: Vec::new(),
    };
    let (commands, texts) = (blocks(GUIDE, "sh"), blocks(GUIDE, "text"));
    assert!(texts.len() >= 4, "only {} texts", texts.len());
    // Each text is what the last command of its block prints.
    assert_eq!(commands.len(), texts.len());
    for (block, text) in commands.iter().zip(&texts) {
        let (before, last) = block.rsplit_once('\n').unwrap_or(("", block));
        if !before.is_empty() {
            shell.type_in(before);
        }
        shell.reads(last, text);
    }
    let store = PgEventStore::connect(&database.url).await.unwrap();
    let invoices: Vec<String> = sqlx::query_scalar("SELECT id FROM invoices ORDER BY id")
        .fetch_all(store.pool())
        .await
        .unwrap();
    assert_eq!(invoices, ["o-1", "o-2"], "each order has one invoice");
    end(shell.workers.remove(0));
    assert!(shell.workers.is_empty());
}
