//! What the commands print for other programs, and what happens when they cannot print it.

use std::fs::OpenOptions;
use std::process::{Command, Stdio};

use clap::Parser as _;
use consumer::cli::{Cli, Console, Exit};
use consumer::{OnError, Settings, WorkerBuilder};
use consumer_tests::{Database, Model, TestDatabase, run_once, test_on};
use serde_json::{Value, json};

fn operator(db: &Database<sqlx::Sqlite>, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_test_operator"));
    command
        .arg("consumers")
        .args(line.split(' '))
        .env("TEST_OPERATOR_URL", &db.url)
        .stdin(Stdio::null());
    command
}

/// Runs a command of a program with this worker, with no answer to its questions.
async fn cli<DB: TestDatabase>(builder: WorkerBuilder<DB>, line: &str) -> (Exit, String) {
    let console = Console::captured([]);
    let cli = Cli::try_parse_from(["worker"].into_iter().chain(line.split(' '))).unwrap();
    let exit = cli.run_on(builder, &console).await;
    (exit, console.text())
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn output_that_cannot_be_written_is_a_failure() {
    let db = Database::fresh().await;
    for line in [
        "list",
        "status",
        "status --json",
        "frontier",
        "migrate --print",
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = operator(&db, line).stdout(full).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {stderr}");
        assert!(
            stderr.contains("the output could not be written"),
            "{line}: {stderr}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_gone_is_not_a_failure() {
    let db = Database::fresh().await;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = operator(&db, "list").stdout(writer).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
}

test_on!(
    [sqlite, postgres],
    list_as_json_has_every_field_of_the_table,
    parked_events_of_all_consumers_are_listed_without_a_name,
    park_and_skip_say_what_they_did
);

test_on!(
    [empty_sqlite, empty_postgres],
    missing_tables_name_the_command_that_makes_them
);

async fn list_as_json_has_every_field_of_the_table<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").scope(&["User", "Team"]);
    let (exit, text) = cli(users.worker(&db), "list --json").await;
    assert_eq!(exit, Exit::Done);
    let expected = json!([{
        "name": "users", "version": 1, "group": null, "scope": ["User", "Team"],
        "on_error": "stop", "declared_at": null,
    }]);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
}

async fn parked_events_of_all_consumers_are_listed_without_a_name<DB: TestDatabase>(
    db: Database<DB>,
) {
    let [audit, users] = ["audit", "users"].map(|name| {
        let parking = Settings::default().retries(0).on_error(OnError::Park);
        let model = Model::new(name).settings(parking);
        model.fail_on("bad", true);
        model
    });
    let both = || audit.worker(&db).consumer(users.clone());
    let (_, text) = cli(both(), "parked list").await;
    assert_eq!(text, "no event is parked\n");
    db.append("User", ["bad"]).await;
    run_once(both()).await;

    let (exit, text) = cli(both(), "parked list").await;
    assert_eq!(exit, Exit::Done);
    let names: Vec<&str> = text
        .lines()
        .filter(|line| ["audit", "users"].contains(line))
        .collect();
    assert_eq!(names, ["audit", "users"], "{text}");
    assert_eq!(text.matches("User bad").count(), 2, "{text}");

    let (_, text) = cli(both(), "parked list --json").await;
    let all: Value = serde_json::from_str(&text).unwrap();
    for (one, name) in [(&all[0], "audit"), (&all[1], "users")] {
        assert_eq!(
            (&one["consumer"], &one["version"]),
            (&json!(name), &json!(1))
        );
        assert_eq!(one["parked"][0]["position"], json!(1));
    }
}

async fn park_and_skip_say_what_they_did<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    for id in ["bad", "worse"] {
        users.fail_on(id, true);
    }
    db.append("User", ["bad", "worse"]).await;
    run_once(users.worker(&db)).await;

    let (exit, text) = cli(users.worker(&db), "park users 2").await;
    assert_eq!(exit, Exit::Usage);
    assert_eq!(
        text,
        "error: consumer `users` is not stopped at event 2; it is stopped at 1\n"
    );
    let (exit, text) = cli(users.worker(&db), "park users 1").await;
    assert_eq!(exit, Exit::Done);
    assert_eq!(
        text,
        "event 1 is parked and users is resumed; `parked retry users 1` handles it later\n"
    );
    run_once(users.worker(&db)).await;

    let (exit, text) = cli(users.worker(&db), "skip users 2").await;
    assert_eq!(exit, Exit::Refused);
    assert!(
        text.contains("Skip it? [y/N]") && text.contains("nothing was changed"),
        "{text}"
    );
    let (exit, text) = cli(users.worker(&db), "skip users 2 --yes").await;
    assert_eq!(exit, Exit::Done);
    assert_eq!(text, "event 2 is skipped and users is resumed\n");
}

async fn missing_tables_name_the_command_that_makes_them<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    for line in ["status", "frontier", "pause users", "run --once"] {
        let (exit, text) = cli(users.worker(&db), line).await;
        assert_eq!(exit, Exit::Failed, "{line}: {text}");
        assert!(text.contains("run `migrate`"), "{line}: {text}");
    }
    let (exit, text) = cli(users.worker(&db), "migrate").await;
    assert_eq!(exit, Exit::Done, "{text}");
}
