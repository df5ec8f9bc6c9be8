//! The command line as a process: on a terminal, with readers that go away, killed and started again.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Instant;

use consumer_tests::{Database, Terminal, TestDatabase, plain, signal, test_on};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_test_operator");

fn operator<DB: TestDatabase>(db: &Database<DB>, line: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .arg("consumers")
        .args(line.split(' '))
        .env("TEST_OPERATOR_URL", &db.url)
        .stdin(Stdio::null());
    command
}

/// Runs it to its end.
fn done<DB: TestDatabase>(db: &Database<DB>, line: &str) -> (Option<i32>, String) {
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

/// Runs it on a terminal of 80 columns.
fn on_terminal<DB: TestDatabase>(db: &Database<DB>, line: &str) -> String {
    let variables = [
        ("TEST_OPERATOR_URL", &*db.url),
        ("TEST_BATCH_MILLIS", "700"),
    ];
    Terminal { columns: 80 }.run(&format!("{PROGRAM} consumers {line}"), &variables)
}

/// Each drawn line as a terminal shows it, without escape codes.
fn drawn(text: &str) -> Vec<String> {
    plain(text).split(['\r', '\n']).map(str::to_owned).collect()
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Puts many events into the log at once, and says where its head is.
async fn seed<DB: TestDatabase>(db: &Database<DB>, events: u32) -> i64 {
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
    DB::execute_sql(&mut connection, &insert).await.unwrap();
    db.number("SELECT max(global_position) FROM events").await
}

async fn has_tally<DB: TestDatabase>(db: &Database<DB>) {
    let mut connection = db.pool.acquire().await.unwrap();
    let tally = "CREATE TABLE tally (events BIGINT NOT NULL); INSERT INTO tally VALUES (0)";
    DB::execute_sql(&mut connection, tally).await.unwrap();
    assert_eq!(done(db, "run --once").0, Some(0));
}

/// Moves the checkpoint without handling anything.
async fn is_at<DB: TestDatabase>(db: &Database<DB>, head: i64) {
    let mut connection = db.pool.acquire().await.unwrap();
    let at = format!("UPDATE consumer_progress SET position = {head}");
    DB::execute_sql(&mut connection, &at).await.unwrap();
}

test_on!(
    [sqlite, postgres],
    status_watch_shows_rates_and_survives_database_errors,
    status_watch_writes_a_table_with_a_rate_and_ends_when_asked,
    run_reports_when_it_is_asked_to_end,
    a_terminal_shows_colours_and_a_progress_bar,
    a_rebuild_that_was_killed_continues_where_it_was
);

async fn status_watch_shows_rates_and_survives_database_errors<DB: TestDatabase>(db: Database<DB>) {
    has_tally(&db).await;
    seed(&db, 100).await;
    let (mut child, mut lines) = started(&mut operator(&db, "status --watch 0.1 --json"));
    let first = json(&lines.next().unwrap().unwrap());
    assert_eq!(
        (
            &first["consumers"][0]["name"],
            &first["consumers"][0]["rate"]
        ),
        (&"tally".into(), &Value::Null)
    );
    is_at(&db, 60).await;
    let mut rates = lines.by_ref().map(|line| {
        json(&line.unwrap())["consumers"][0]["rate"]
            .as_f64()
            .unwrap()
    });
    assert!(rates.any(|rate| rate > 0.0), "in events a second");

    let mut connection = db.pool.acquire().await.unwrap();
    DB::execute_sql(
        &mut connection,
        "ALTER TABLE consumer_parked RENAME TO away",
    )
    .await
    .unwrap();
    assert!(
        lines
            .by_ref()
            .any(|line| json(&line.unwrap())["error"].is_string())
    );
    DB::execute_sql(
        &mut connection,
        "ALTER TABLE away RENAME TO consumer_parked",
    )
    .await
    .unwrap();
    assert!(
        lines
            .by_ref()
            .any(|line| json(&line.unwrap())["consumers"][0]["position"] == 60)
    );
    // It ends when its reader goes away.
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

async fn status_watch_writes_a_table_with_a_rate_and_ends_when_asked<DB: TestDatabase>(
    db: Database<DB>,
) {
    has_tally(&db).await;
    let (mut child, mut lines) = started(&mut operator(&db, "status --watch 0.1"));
    let header = lines
        .by_ref()
        .map(Result::unwrap)
        .find(|line| line.contains("RATE"));
    assert!(header.unwrap().starts_with("CONSUMER  STATE"));
    let row = lines
        .by_ref()
        .map(Result::unwrap)
        .find(|line| line.starts_with("tally"));
    assert!(row.unwrap().ends_with("0/s"));
    signal(child.id(), "TERM");
    // It must exit even during a refresh.
    for _ in lines.by_ref() {}
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

async fn run_reports_when_it_is_asked_to_end<DB: TestDatabase>(db: Database<DB>) {
    has_tally(&db).await;
    let (mut child, mut lines) = started(&mut operator(&db, "run"));
    seed(&db, 10).await;
    while db.number("SELECT events FROM tally").await < 10 {}
    signal(child.id(), "TERM");
    let report = lines.next().unwrap().unwrap();
    assert!(
        report.starts_with("tally: shut down at ") && report.ends_with(", 10 events handled"),
        "{report}"
    );
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

async fn a_terminal_shows_colours_and_a_progress_bar<DB: TestDatabase>(db: Database<DB>) {
    has_tally(&db).await;
    let status = on_terminal(&db, "status");
    assert!(
        status.contains("\x1b[")
            && drawn(&status)
                .iter()
                .any(|line| line.starts_with("tally     running")),
        "{status:?}"
    );
    let head = seed(&db, 20_000).await;
    is_at(&db, head).await;
    let bar = on_terminal(&db, "rebuild tally --yes --without-reset");
    let lines = drawn(&bar);
    assert!(
        lines
            .iter()
            .any(|line| line.contains('━') && line.contains(" of 20,000, ")),
        "{lines:#?}"
    );
    assert!(
        lines.iter().all(|line| line.chars().count() <= 80),
        "{lines:#?}"
    );
    assert!(bar.contains("\x1b["), "{bar:?}");
    assert!(
        lines
            .iter()
            .any(|line| line == "tally: 20,000 events handled again"),
        "{lines:#?}"
    );
}

async fn a_rebuild_that_was_killed_continues_where_it_was<DB: TestDatabase>(db: Database<DB>) {
    rebuilt_after_a_kill(&db, 100_000, "400").await;
}

/// Rebuilds this number of events in a process that is killed on its way, and in another one after it.
/// Gives what the second one said of its progress, and when.
async fn rebuilt_after_a_kill<DB: TestDatabase>(
    db: &Database<DB>,
    events: u32,
    batch_millis: &str,
) -> Vec<(Instant, Value)> {
    has_tally(db).await;
    let head = seed(db, events).await;
    is_at(db, head).await;
    let rebuild = || {
        let mut command = operator(db, "rebuild tally --yes --without-reset");
        command
            .env("TEST_BATCH_MILLIS", batch_millis)
            .stderr(Stdio::piped());
        command
    };
    let (mut killed, lines) = started(&mut rebuild());
    let mut progress = lines.map(|line| json(&line.unwrap()));
    let reached = progress.find(|line| handled(line) >= u64::from(events) / 5);
    let reached = reached.unwrap();
    assert_eq!(reached["total"], events);
    killed.kill().unwrap();
    killed.wait().unwrap();

    let (mut child, lines) = started(&mut rebuild());
    let mut seen: Vec<(Instant, Value)> = Vec::new();
    seen.extend(lines.map(|line| (Instant::now(), json(&line.unwrap()))));
    let mut said = String::new();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(
        said.starts_with("continuing the rebuild in progress, ")
            && said.ends_with(" events handled\n"),
        "{said}"
    );
    assert!(
        handled(&seen[0].1) >= handled(&reached),
        "it continues where the other was"
    );
    // Events that the first one had committed were not handled again, and the rest were.
    let tally = db.numbers("SELECT events FROM tally").await;
    assert_eq!(tally, [i64::from(events)]);
    seen
}

fn handled(line: &Value) -> u64 {
    line["handled"].as_u64().unwrap()
}

/// How far off the remaining time was at worst from the halfway point on, as a share of what was
/// really left. Slow enough that reading, which other programs disturb, is not what takes the time:
/// what is measured is the estimate, of something that goes steadily.
async fn worst_estimate<DB: TestDatabase>() -> f64 {
    let db = Database::<DB>::fresh().await;
    let seen = rebuilt_after_a_kill(&db, 1_000_000, "700").await;
    let end = seen.last().unwrap().0;
    let from_half_on = seen
        .iter()
        .filter(|(_, line)| (500_000..950_000).contains(&handled(line)));
    let errors = from_half_on.map(|(at, line)| {
        let left = (end - *at).as_secs_f64();
        let estimate = line["remaining_seconds"].as_f64().unwrap();
        println!(
            "{:>7} handled, {left:.1} s left, said {estimate:.1} s",
            handled(line)
        );
        // Samples and batches are a second apart, so the estimate cannot be more exact.
        ((estimate - left).abs() - 1.0).max(0.0) / left
    });
    let errors: Vec<f64> = errors.collect();
    assert!(errors.len() >= 10, "{} looks", errors.len());
    errors.into_iter().fold(0.0, f64::max)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes on a machine with nothing else to do"]
async fn the_remaining_time_is_right_within_a_fifth_on_sqlite() {
    let worst = worst_estimate::<sqlx::Sqlite>().await;
    assert!(worst <= 0.2, "{worst}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes on a machine with nothing else to do"]
async fn the_remaining_time_is_right_within_a_fifth_on_postgres() {
    let worst = worst_estimate::<sqlx::Postgres>().await;
    assert!(worst <= 0.2, "{worst}");
}

#[test]
fn completions_find_the_commands_where_they_are_mounted() {
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
    for command in ["rebuild", "status", "parked"] {
        assert!(own.contains(&format!("consumers,{command})")), "{own}");
    }
}
