//! What the commands print for other programs, and what happens when they cannot print it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::fs::OpenOptions;
use std::process::{Command, Stdio};

use clap::Parser as _;
use consumer::cli::{Cli, Console, Exit};
use consumer::{ExpectedVersion, NewEvent, OnError, Settings, Worker, WorkerBuilder};
use consumer_tests::{Database, MODEL, Model, TestBackend, on_both_databases};
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

async fn cli<DB: TestBackend>(builder: WorkerBuilder<DB>, line: &str) -> (Exit, String) {
    let console = Console::captured([]);
    let cli = Cli::try_parse_from(format!("worker {line}").split(' ')).unwrap();
    (cli.run_on(builder, &console).await, console.text())
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

fn parking(name: &'static str) -> Model {
    let model = Model::new(name).settings(Settings::default().retries(0).on_error(OnError::Park));
    model.fail_on("bad", true);
    model
}

on_both_databases! {
    async fn list_as_json_has_every_field_of_the_table(db) {
        let users = Model::new("users").scope(&["User", "Team"]);
        let builder = Worker::<Db>::builder(db.store.clone()).scoped_consumer(users);
        let (exit, text) = cli(builder, "list --json").await;
        assert_eq!(exit, Exit::Done);
        let expected = json!([{
            "name": "users", "version": 1, "group": null, "scope": ["User", "Team"],
            "on_error": "stop", "declared_at": null,
        }]);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    }

    async fn parked_events_of_all_consumers_are_listed_without_a_name(db) {
        let mut connection = db.pool.acquire().await.unwrap();
        Db::execute(&mut connection, MODEL).await.unwrap();
        drop(connection);
        let both = || Worker::<Db>::builder(db.store.clone()).consumer(parking("audit")).consumer(parking("users"));
        let (_, text) = cli(both(), "parked list").await;
        assert_eq!(text, "no event is parked\n");
        let event = [NewEvent::new("User", "bad", "Happened", "{}")];
        db.store.append(ExpectedVersion::Any, &event).await.unwrap();
        both().build().unwrap().run_once().await.unwrap();

        let (exit, text) = cli(both(), "parked list").await;
        assert_eq!(exit, Exit::Done);
        let names: Vec<&str> = text.lines().filter(|line| ["audit", "users"].contains(line)).collect();
        assert_eq!((names.len(), text.matches("User bad").count()), (2, 2), "{text}");
        let (_, text) = cli(both(), "parked list --json").await;
        let all: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&all[0]["consumer"], &all[1]["consumer"]), (&json!("audit"), &json!("users")));
        assert_eq!((&all[1]["version"], &all[1]["parked"][0]["position"]), (&json!(1), &json!(1)));
    }

    async fn missing_tables_name_the_command_that_makes_them(db) {
        let empty = Database::<Db>::empty().await;
        drop(db);
        let builder = Worker::<Db>::builder(empty.store.clone()).consumer(Model::new("users"));
        for line in ["status", "frontier", "pause users", "run --once"] {
            let builder = Worker::<Db>::builder(empty.store.clone()).consumer(Model::new("users"));
            let (exit, text) = cli(builder, line).await;
            assert_eq!(exit, Exit::Failed, "{line}: {text}");
            assert!(text.contains("run `migrate`"), "{line}: {text}");
        }
        let (exit, _) = cli(builder, "migrate").await;
        assert_eq!(exit, Exit::Done);
    }

    async fn park_and_skip_say_what_they_did(db) {
        let mut connection = db.pool.acquire().await.unwrap();
        Db::execute(&mut connection, MODEL).await.unwrap();
        drop(connection);
        let users = Model::new("users").settings(Settings::default().retries(0));
        users.fail_on("bad", true);
        for id in ["bad", "worse"] {
            users.fail_on(id, true);
            let event = [NewEvent::new("User", id, "Happened", "{}")];
            db.store.append(ExpectedVersion::Any, &event).await.unwrap();
        }
        let builder = || Worker::<Db>::builder(db.store.clone()).consumer(users.clone());
        builder().build().unwrap().run_once().await.unwrap();
        let (exit, text) = cli(builder(), "park users 2").await;
        assert_eq!(exit, Exit::Usage);
        assert_eq!(text, "error: consumer `users` is not stopped at event 2; it is stopped at 1\n");
        let (exit, text) = cli(builder(), "park users 1").await;
        assert_eq!(exit, Exit::Done);
        assert_eq!(text, "event 1 is parked and users is resumed; `parked retry users 1` handles it later\n");
        builder().build().unwrap().run_once().await.unwrap();
        let (exit, text) = cli(builder(), "skip users 2").await;
        assert_eq!(exit, Exit::Refused);
        assert!(text.contains("Skip it? [y/N]") && text.contains("nothing was changed"), "{text}");
        let (exit, text) = cli(builder(), "skip users 2 --yes").await;
        assert_eq!((exit, text.as_str()), (Exit::Done, "event 2 is skipped and users is resumed\n"));
    }
}
