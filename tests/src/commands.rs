//! Commands of a program's operator, run inside the test.

use clap::Parser as _;
use consumer::WorkerBuilder;
use consumer::cli::{Cli, Console, Exit};

use crate::TestDatabase;

/// Runs a command of a program with this worker, with these answers to its questions, and returns its exit
/// status and its output.
pub async fn command<'a, DB: TestDatabase>(
    builder: WorkerBuilder<DB>,
    line: &str,
    answers: impl IntoIterator<Item = &'a str>,
) -> (Exit, String) {
    let console = Console::captured(answers);
    let cli = Cli::try_parse_from(["worker"].into_iter().chain(line.split(' ')));
    let exit = cli.unwrap().run_on(builder, &console).await;
    (exit, console.text())
}
