//! Tests of the temporary Postgres servers that other tests use.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use consumer_tests::TestPostgres;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

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
async fn a_private_server_can_crash_and_start_again() {
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
async fn a_server_is_gone_when_its_value_is_dropped() {
    let server = TestPostgres::builder().start();
    let directory = server.socket_directory().to_owned();
    assert!(directory.exists());
    drop(server);
    assert!(!directory.exists());
}

/// This test binary in another process, which holds a server until it is killed.
struct Holder {
    process: Child,
    handover: TempDir,
}

impl Holder {
    fn start(mut command: Command, handover: TempDir) -> Self {
        let process = command
            .args(["--exact", "holds_a_server_until_it_is_killed"])
            .env(HOLDER, handover.path().join("directory"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, handover }
    }

    fn as_ourselves() -> Self {
        let command = Command::new(std::env::current_exe().unwrap());
        Self::start(command, tempfile::tempdir().unwrap())
    }

    /// As a user who can neither read our directories nor write into them, which takes root.
    fn as_another_user() -> Self {
        let handover = tempfile::tempdir().unwrap();
        let program = handover.path().join("tests");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let (uid, gid) = (number("-u"), number("-g"));
        std::os::unix::fs::chown(handover.path(), Some(uid), Some(gid)).unwrap();
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={uid}"))
            .arg(format!("--regid={gid}"))
            .arg("--clear-groups")
            .arg(&program)
            .current_dir("/");
        Self::start(command, handover)
    }

    /// The directory of the server, once it runs.
    fn directory(&mut self) -> PathBuf {
        let note = self.handover.path().join("directory");
        until("the server runs", || {
            assert!(self.process.try_wait().unwrap().is_none(), "it ended");
            note.exists()
        });
        PathBuf::from(std::fs::read_to_string(note).unwrap())
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn number(which: &str) -> u32 {
    let output = Command::new("id").args([which, "nobody"]).output().unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout == b"0\n"
}

#[test]
fn a_server_is_gone_after_its_test_binary_was_killed() {
    let mut holders = vec![Holder::as_ourselves(), Holder::as_ourselves()];
    if is_root() {
        holders.push(Holder::as_another_user());
    }
    let directories: Vec<PathBuf> = holders.iter_mut().map(Holder::directory).collect();
    for (holder, killed) in holders.into_iter().zip(&directories) {
        assert!(killed.join("data/postmaster.pid").exists());
        holder.kill();
        until("its server is gone", || !killed.exists());
    }
}

/// `initdb` must not continue in the directory after it was removed.
#[cfg(target_os = "linux")]
#[test]
fn killing_the_test_during_initdb_leaves_nothing_behind() {
    let holder = Holder::as_ourselves();
    let mut making = None;
    until("the server is being made", || {
        making = child(holder.process.id(), "initdb");
        making.is_some()
    });
    let (initdb, directory) = making.unwrap();
    holder.kill();
    until("its directory is gone", || !directory.exists());
    // A zombie has no command line.
    let words = std::fs::read(initdb.join("cmdline")).unwrap_or_default();
    assert!(
        words.is_empty(),
        "the directory was removed while initdb ran"
    );
}

/// A child of a process that runs the program: its place in `/proc`, and the directory that it makes.
#[cfg(target_os = "linux")]
fn child(parent: u32, program: &str) -> Option<(PathBuf, PathBuf)> {
    let parent = format!("\nPPid:\t{parent}\n");
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .find_map(|entry| {
            let process = entry.path();
            let status = std::fs::read_to_string(process.join("status")).ok()?;
            let words = std::fs::read_to_string(process.join("cmdline")).ok()?;
            let words: Vec<&str> = words.split('\0').collect();
            let data = words
                .iter()
                .skip_while(|word| **word != "--pgdata")
                .nth(1)?;
            let directory = Path::new(data).parent()?.to_owned();
            // It may not have switched its user yet, or may have ended.
            let runs = words[0].ends_with(program) && directory.exists();
            (status.contains(&parent) && runs).then_some((process, directory))
        })
}

/// Does nothing unless a test above asks.
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

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !reached() {
        assert!(
            Instant::now() < deadline,
            "timed out after a minute: {what}"
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
