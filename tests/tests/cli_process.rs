//! The command line as a process: on a terminal, with readers that go away, killed and started again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::zombie_processes,
    missing_docs
)]

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Instant;

use consumer_tests::{Database, TestBackend, on_both_databases};
use serde_json::Value;
use sqlx::Database as _;

const PROGRAM: &str = env!("CARGO_BIN_EXE_test_operator");

fn operator<DB: TestBackend>(db: &Database<DB>, line: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .arg("consumers")
        .args(line.split(' '))
        .env("TEST_OPERATOR_URL", &db.url)
        .stdin(Stdio::null());
    command
}

/// Runs it to its end.
fn done<DB: TestBackend>(db: &Database<DB>, line: &str) -> (Option<i32>, String) {
    let output = operator(db, line).output().unwrap();
    (output.status.code(), text(&output))
}

fn text(output: &Output) -> String {
    let streams = [&output.stdout, &output.stderr];
    streams
        .map(|stream| String::from_utf8_lossy(stream))
        .concat()
}

fn started(command: &mut Command) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    (child, BufReader::new(stdout).lines())
}

/// Runs it on a terminal of 80 columns and 24 lines.
fn on_terminal<DB: TestBackend>(db: &Database<DB>, line: &str) -> String {
    let inside = format!("stty cols 80 rows 24; exec {PROGRAM} consumers {line}");
    let mut command = Command::new("script");
    command
        .args(["-qec", &inside, "/dev/null"])
        .env("TEST_OPERATOR_URL", &db.url)
        .env("TEST_BATCH_MILLIS", "700")
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null());
    text(&command.output().unwrap())
}

/// What a terminal shows of each line that was drawn, without the codes.
fn drawn(text: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter == '\x1b' {
            letters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(letter);
        }
    }
    plain.split(['\r', '\n']).map(str::to_owned).collect()
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Puts many events into the log at once, and says where its head is.
async fn seed<DB: TestBackend>(db: &Database<DB>, events: u32) -> i64 {
    let insert = if DB::NAME == "SQLite" {
        format!(
            "INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {events})
             SELECT 'User', 'u-' || (i % 1000), 1000000 + i, lower(hex(randomblob(4))) || '-0000-4000-8000-' || printf('%012x', i),
                    'Happened', CAST('{{}}' AS BLOB) FROM n"
        )
    } else {
        format!(
            "INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
             SELECT 'User', 'u-' || (i % 1000), 1000000 + i, gen_random_uuid(), 'Happened', '{{}}'::bytea
               FROM generate_series(1, {events}) AS i"
        )
    };
    let mut connection = db.pool.acquire().await.unwrap();
    DB::execute(&mut connection, &insert).await.unwrap();
    db.numbers("SELECT max(global_position) FROM events").await[0]
}

async fn has_tally<DB: TestBackend>(db: &Database<DB>) {
    let mut connection = db.pool.acquire().await.unwrap();
    let tally = "CREATE TABLE tally (events BIGINT NOT NULL); INSERT INTO tally VALUES (0)";
    DB::execute(&mut connection, tally).await.unwrap();
    assert_eq!(done(db, "run --once").0, Some(0));
}

/// Lets the consumer have handled everything, without handling it.
async fn is_at<DB: TestBackend>(db: &Database<DB>, head: i64) {
    let mut connection = db.pool.acquire().await.unwrap();
    let at = format!("UPDATE consumer_progress SET position = {head}");
    DB::execute(&mut connection, &at).await.unwrap();
}

on_both_databases! {
    async fn status_watch_shows_rates_and_goes_on_while_the_database_is_away(db) {
        has_tally(&db).await;
        seed(&db, 100).await;
        let (mut child, mut lines) = started(&mut operator(&db, "status --watch 0.1 --json"));
        let first = json(&lines.next().unwrap().unwrap());
        assert_eq!((&first["consumers"][0]["name"], &first["consumers"][0]["rate"]), (&"tally".into(), &Value::Null));
        is_at(&db, 60).await;
        let mut rates = lines.by_ref().map(|line| json(&line.unwrap())["consumers"][0]["rate"].as_f64().unwrap());
        assert!(rates.any(|rate| rate > 0.0), "in events a second");

        let mut connection = db.pool.acquire().await.unwrap();
        Db::execute(&mut connection, "ALTER TABLE consumer_parked RENAME TO away").await.unwrap();
        assert!(lines.by_ref().any(|line| json(&line.unwrap())["error"].is_string()));
        Db::execute(&mut connection, "ALTER TABLE away RENAME TO consumer_parked").await.unwrap();
        assert!(lines.by_ref().any(|line| json(&line.unwrap())["consumers"][0]["position"] == 60));
        // Whoever reads it goes away, and so does it.
        drop(lines);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }

    async fn status_watch_writes_a_table_with_a_rate_and_ends_when_asked(db) {
        has_tally(&db).await;
        let (mut child, mut lines) = started(&mut operator(&db, "status --watch 0.1"));
        let header = lines.by_ref().map(Result::unwrap).find(|line| line.contains("RATE"));
        assert!(header.unwrap().starts_with("CONSUMER  STATE"));
        let row = lines.by_ref().map(Result::unwrap).find(|line| line.starts_with("tally"));
        assert!(row.unwrap().ends_with("0/s"));
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        // It is to end also in the middle of a look.
        for _ in lines.by_ref() {}
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }

    async fn run_goes_on_until_it_is_asked_to_end_and_reports(db) {
        has_tally(&db).await;
        let (mut child, mut lines) = started(&mut operator(&db, "run"));
        seed(&db, 10).await;
        while db.numbers("SELECT events FROM tally").await[0] < 10 {}
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let report = lines.next().unwrap().unwrap();
        assert!(report.starts_with("tally: shut down at ") && report.ends_with(", 10 events handled"), "{report}");
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }

    async fn on_a_terminal_there_are_colours_and_a_bar_that_fits(db) {
        has_tally(&db).await;
        let status = on_terminal(&db, "status");
        assert!(status.contains("\x1b[") && drawn(&status).iter().any(|line| line.starts_with("tally     running")), "{status:?}");
        let head = seed(&db, 20_000).await;
        is_at(&db, head).await;
        let bar = on_terminal(&db, "rebuild tally --yes --without-reset");
        let lines = drawn(&bar);
        assert!(lines.iter().any(|line| line.contains('━') && line.contains(" of 20,000, ")), "{lines:#?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        assert!(bar.contains("\x1b["), "{bar:?}");
        assert!(lines.iter().any(|line| line == "tally: 20,000 events handled again"), "{lines:#?}");
    }

    /// The estimate is checked in a second process, which goes on where a first one was killed.
    async fn a_rebuild_of_a_million_events_says_when_it_ends_and_goes_on_when_it_was_killed(db) {
        has_tally(&db).await;
        let head = seed(&db, 1_000_000).await;
        is_at(&db, head).await;
        // Slow enough that reading, which other programs disturb, is not what takes the time.
        let rebuild = || {
            let mut command = operator(&db, "rebuild tally --yes --without-reset");
            command.env("TEST_BATCH_MILLIS", "350").stderr(Stdio::piped());
            command
        };
        let (mut killed, lines) = started(&mut rebuild());
        let handled = |line: &Value| line["handled"].as_u64().unwrap();
        let mut progress = lines.map(|line| json(&line.unwrap()));
        let reached = progress.find(|line| handled(line) >= 200_000).unwrap();
        assert_eq!(reached["total"], 1_000_000);
        killed.kill().unwrap();
        killed.wait().unwrap();

        let (mut child, lines) = started(&mut rebuild());
        let mut seen: Vec<(Instant, Value)> = Vec::new();
        seen.extend(lines.map(|line| (Instant::now(), json(&line.unwrap()))));
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(said.starts_with("a rebuild is under way, ") && said.ends_with(" of 1,000,000 events: going on\n"), "{said}");
        assert!(handled(&seen[0].1) >= handled(&reached), "it goes on where the other was");
        // What was committed when it was killed was not handled again.
        assert_eq!(db.numbers("SELECT events FROM tally").await, [1_000_000]);

        let end = seen.last().unwrap().0;
        let from_half_on: Vec<_> = seen.iter().filter(|(_, line)| (500_000..950_000).contains(&handled(line))).collect();
        assert!(from_half_on.len() >= 10, "{} looks", from_half_on.len());
        let mut worst = 0.0_f64;
        for (at, line) in from_half_on {
            let left = (end - *at).as_secs_f64();
            let estimate = line["remaining_seconds"].as_f64().unwrap();
            // A look comes once a second: that much nobody can tell.
            let error = ((estimate - left).abs() - 1.0).max(0.0) / left;
            worst = worst.max(error);
        }
        println!("{}: worst error of the remaining time {:.1} %", Db::NAME, worst * 100.0);
        assert!(worst <= 0.2, "{worst}");
    }
}

#[test]
fn a_whole_program_completes_the_tools_where_it_has_mounted_them() {
    let complete = |whole: bool| {
        let mut command = Command::new(PROGRAM);
        command.args(["consumers", "completions", "bash"]);
        if whole {
            command.env("TEST_WHOLE_PROGRAM", "yes");
        }
        text(&command.output().unwrap())
    };
    let whole = complete(true);
    assert!(
        whole.contains("web,consumers") && whole.contains("web__subcmd__consumers"),
        "{whole}"
    );
    assert!(whole.contains("web,serve"), "{whole}");
    // Without the program's help, in the place where it was called, for these tools alone.
    let own = complete(false);
    assert!(own.contains("test_operator,consumers"), "{own}");
    for verb in ["rebuild", "status", "parked"] {
        assert!(own.contains(&format!("consumers,{verb})")), "{own}");
    }
}
