//! A rolling deploy, the release that runs: it has one consumer, `users`.
//!
//! `DATABASE_URL=postgres://… cargo run -p consumer-examples --bin deploy_before`, and beside it
//! `--bin deploy_after`. Both run what they have: whoever is free handles the next batch of `users`,
//! and only the new release asks for `orders`. End the old one with Ctrl-C at any time.

mod users;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    users::run("CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY)").await
}
