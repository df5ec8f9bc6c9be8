//! The old release of a rolling deploy: it has one consumer, `users`.
//!
//! `DATABASE_URL=postgres://… cargo run -p consumer-examples --bin deploy_before`, and in another terminal
//! `--bin deploy_after`. Both releases handle batches of `users`, and only the new one claims `orders`. End the
//! old one with Ctrl-C at any time.

mod users;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    users::run("CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY)").await
}
