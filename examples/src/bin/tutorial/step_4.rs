//! The program of the tutorial guide after its last step: its read model has one more column.
//!
//! `cargo run -p consumer-examples --features services --bin tutorial_4 -- --help`.

#[path = "balances_2.rs"]
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
