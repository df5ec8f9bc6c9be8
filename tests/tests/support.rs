//! The throw-away Postgres of the tests, itself under test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use consumer_tests::TestPostgres;
use sqlx::{Connection, PgConnection};

const HOLDER: &str = "CONSUMER_TESTS_HOLD_A_SERVER";

#[tokio::test]
async fn each_database_is_empty_and_its_own() {
    let server = TestPostgres::shared().await;
    let (first, second) = (server.database().await, server.database().await);
    sqlx::query("CREATE TABLE here (id INT)")
        .execute(&first.pool)
        .await
        .unwrap();
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            .fetch_one(&second.pool)
            .await
            .unwrap();
    assert_eq!(tables, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_ones_own_can_crash_and_start_again() {
    let server = TestPostgres::builder()
        .setting("synchronous_commit", "off")
        .start();
    let before = started_at(&server).await;
    server.crash();
    assert!(
        PgConnection::connect(&server.url("postgres"))
            .await
            .is_err()
    );
    server.start();
    assert_ne!(before, started_at(&server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_gone_when_its_value_is() {
    let server = TestPostgres::builder().start();
    let directory = server.socket_directory().to_owned();
    assert!(directory.exists());
    drop(server);
    assert!(!directory.exists());
}

/// Runs this very test binary once more, has it start a server and kills it with SIGKILL.
#[test]
fn a_server_is_gone_after_the_test_binary_was_killed() {
    let handover = tempfile::tempdir().unwrap();
    let note = handover.path().join("directory");
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holds_a_server_until_it_is_killed"])
        .env(HOLDER, &note)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the server runs", || note.exists());
    let directory = PathBuf::from(std::fs::read_to_string(&note).unwrap());
    assert!(directory.join("data/postmaster.pid").exists());
    holder.kill().unwrap();
    holder.wait().unwrap();
    until("the server is gone", || !directory.exists());
}

/// Does nothing unless the test above asks.
#[test]
fn holds_a_server_until_it_is_killed() {
    let Some(note) = std::env::var_os(HOLDER) else {
        return;
    };
    let server = TestPostgres::builder().start();
    let unfinished = Path::new(&note).with_extension("part");
    std::fs::write(&unfinished, server.socket_directory().to_str().unwrap()).unwrap();
    std::fs::rename(&unfinished, &note).unwrap();
    loop {
        std::thread::park();
    }
}

fn until(what: &str, reached: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_mins(1);
    while !reached() {
        assert!(
            Instant::now() < patience,
            "in a minute it did not come about that {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

async fn started_at(server: &TestPostgres) -> String {
    let mut conn = PgConnection::connect(&server.url("postgres"))
        .await
        .unwrap();
    sqlx::query_scalar("SELECT pg_postmaster_start_time()::text")
        .fetch_one(&mut conn)
        .await
        .unwrap()
}
