//! The program of the tutorial guide after its fourth step: it is ready to be deployed.
//!
//! `cargo run -p consumer-examples --features services --bin tutorial_3 -- --help`.

mod balances;
mod commands;
mod events;

use std::process::ExitCode;

use clap::Parser;
use commands::Program;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    Program::parse().run().await
}
