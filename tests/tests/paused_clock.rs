//! Tests whose clock is paused: what works, and what says why it does not.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

/// Builds `fixtures/paused`, whose tokio can pause its clock, and returns what it prints.
static PRINTED: LazyLock<String> = LazyLock::new(|| {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--package", "paused"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures"))
        .env(
            "CARGO_TARGET_DIR",
            Path::new(env!("CARGO_TARGET_TMPDIR")).join("fixtures"),
        )
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
});

/// The line that begins with this word.
fn printed(about: &str) -> &str {
    let line = PRINTED.lines().find_map(|line| line.strip_prefix(about));
    line.unwrap_or_else(|| panic!("{}", *PRINTED))
}

#[test]
fn a_consumer_is_tested_while_the_clock_is_paused() {
    assert_eq!(printed("test: "), "handled 1");
}

#[test]
fn a_worker_says_that_the_clock_is_paused() {
    let error = printed("worker: ");
    assert!(error.starts_with("tokio's clock is paused"), "{error}");
    assert!(error.contains("`start_paused = true`"), "{error}");
}

#[test]
fn a_pool_that_gives_up_says_that_the_clock_is_paused() {
    let error = printed("pool: ");
    assert!(error.contains("tokio's clock is paused"), "{error}");
    assert!(error.contains("`start_paused = true`"), "{error}");
}

#[test]
fn a_pool_that_gives_up_on_a_running_clock_blames_no_clock() {
    let error = printed("running: ");
    assert!(error.contains("timed out"), "{error}");
    assert!(!error.contains("clock"), "{error}");
}
