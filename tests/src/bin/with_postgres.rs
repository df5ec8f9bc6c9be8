//! Runs a command with a temporary Postgres in `DATABASE_URL`: `with_postgres cargo run …`.

use std::process::{Command, ExitCode};

use consumer_tests::TestPostgres;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().expect("a command to run");
    let server = TestPostgres::builder().start();
    let status = Command::new(&program)
        .args(arguments)
        .env("DATABASE_URL", server.url("postgres"))
        .status()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
