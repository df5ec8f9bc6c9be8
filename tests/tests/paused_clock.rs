//! Tests whose clock is paused: what works, and what says why it does not.

use std::path::Path;

use consumer_tests::{Database, cargo_outside};
use sqlx::Postgres;
use tokio::sync::OnceCell;

/// Builds `fixtures/paused`, whose tokio can pause its clock, and returns what it prints.
async fn print() -> String {
    let db = Database::<Postgres>::fresh().await;
    db.execute("CREATE TABLE users (id TEXT)").await;
    let mut program = cargo_outside(env!("CARGO_TARGET_TMPDIR"));
    program
        .args(["run", "--quiet", "--package", "paused"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures"))
        .env("TEST_URL", &db.url);
    let output = tokio::task::spawn_blocking(move || program.output());
    let output = output.await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The line that begins with this word.
async fn printed(about: &str) -> &'static str {
    static PRINTED: OnceCell<String> = OnceCell::const_new();
    let printed = PRINTED.get_or_init(print).await;
    let line = printed.lines().find_map(|line| line.strip_prefix(about));
    line.unwrap_or_else(|| panic!("{printed}"))
}

/// Checks that a text says why the clock is in the way, and what to do.
fn blames_the_clock(error: &str) {
    assert!(error.contains("tokio's clock is paused"), "{error}");
    assert!(error.contains("`start_paused = true`"), "{error}");
}

#[tokio::test]
async fn a_consumer_is_tested_while_the_clock_is_paused() {
    assert_eq!(printed("test: ").await, "handled 1");
}

#[tokio::test]
async fn a_consumer_is_tested_on_postgres_while_the_clock_is_paused() {
    assert_eq!(printed("test on Postgres: ").await, "handled 2, 2 rows");
}

#[tokio::test]
async fn a_worker_says_that_the_clock_is_paused() {
    for about in ["worker: ", "worker on Postgres: "] {
        blames_the_clock(printed(about).await);
    }
}

#[tokio::test]
async fn a_pool_that_gives_up_says_that_the_clock_is_paused() {
    blames_the_clock(printed("pool: ").await);
}

#[tokio::test]
async fn a_connection_to_postgres_says_that_the_clock_is_paused() {
    blames_the_clock(printed("connect: ").await);
    assert_eq!(printed("resumed: ").await, "connected");
}

#[tokio::test]
async fn a_pool_that_gives_up_on_a_running_clock_blames_no_clock() {
    let error = printed("running: ").await;
    assert!(error.contains("timed out"), "{error}");
    assert!(!error.contains("clock"), "{error}");
}
