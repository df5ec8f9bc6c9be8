//! What the commands print for other programs, and what happens when they cannot print it.

use std::fs::OpenOptions;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use clap::{CommandFactory as _, Parser as _};
use consumer::cli::{Cli, Exit};
use consumer::prelude::*;
use consumer::{Formerly, NewEvent, OnError, Settings, WorkerBuilder};
use consumer_tests::{
    Database, Model, TestConsumer, TestDatabase, command, read_model, run_once, test_on,
};
use serde::{Deserialize, Serialize};
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
    command(builder, line, []).await
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

/// They have changed something by then, so only the exit status can tell.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_reported_is_a_failure() {
    const STOP: &str = "UPDATE consumer_progress
       SET state = 'stopped', position = 1, attempts = 1, failed_position = 2, error = 'no'";
    const STATE: &str = "SELECT state FROM consumer_progress";
    const HANDLED: &str = "SELECT CAST(events AS TEXT) FROM tally";
    const PARKED: &str = "SELECT CAST(position AS TEXT) FROM consumer_parked";

    // What is changed before a command, the command, and what a query shows then.
    const CHANGES: [(&str, &str, &str, &[&str]); 9] = [
        ("", "run --once", HANDLED, &["2"]),
        ("", "pause tally", STATE, &["paused"]),
        ("", "resume tally", STATE, &["running"]),
        (STOP, "park tally 2", PARKED, &["2"]),
        ("", "parked retry tally", PARKED, &[]),
        (STOP, "skip tally 2 --yes", STATE, &["running"]),
        (
            "",
            "redact 1 gone --yes",
            "SELECT CAST(payload AS TEXT) FROM events WHERE global_position = 1",
            &["gone"],
        ),
        (
            "UPDATE tally SET events = 0",
            "rebuild tally --without-reset --yes",
            HANDLED,
            &["2"],
        ),
        ("", "forget tally --force --yes", STATE, &[]),
    ];
    for (file, code) in [("/dev/full", 1), ("/dev/null", 0)] {
        let db = Database::empty().await;
        let run = |line: &str| {
            let stdout = OpenOptions::new().write(true).open(file).unwrap();
            let output = operator(&db, line).stdout(stdout).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{line}: {stderr}");
            let says_so = stderr.contains("the output could not be written");
            assert_eq!(says_so, code == 1, "{line}: {stderr}");
        };
        run("migrate");
        db.execute("CREATE TABLE tally (events BIGINT NOT NULL); INSERT INTO tally VALUES (0)")
            .await;
        assert_eq!(db.append("User", ["a", "b"]).await, [1, 2]);
        for (before, line, query, expected) in CHANGES {
            db.execute(before).await;
            run(line);
            assert_eq!(db.texts(query).await, expected, "{line}");
        }
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
    a_handler_of_every_event_can_follow_the_advice_to_ignore,
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
        "error: consumer `users` is neither stopped at event 2 nor waiting before it; event 1 holds it up\n"
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

/// A consumer that parks the event of an aggregate with a long id.
fn parks_long(id: &str) -> Model {
    let model = Model::new("a_consumer_with_a_long_name_that_is_copied")
        .settings(Settings::default().retries(0).on_error(OnError::Park));
    model.fail_on(id, true);
    model
}

const LONG_ID: &str = "0198b2c4-5d1e-7c3a-9f00-a1b2c3d4e5f6/line-0198b2c4-5d1e-7c3a-9f00";

test_on!(
    [sqlite, postgres],
    a_table_in_a_pipe_has_a_line_for_each_row,
    an_id_in_a_narrow_table_is_not_broken,
    status_as_json_has_the_segments_and_both_lags,
    explain_says_what_became_of_each_event,
    explain_names_the_release_that_a_consumer_waits_for,
    explain_says_why_a_consumer_is_held_back,
    explain_as_json_has_every_field,
    explain_shows_what_the_event_contains,
    a_single_event_is_singular,
    a_stopped_consumer_names_the_commands_that_help,
    an_error_of_several_lines_is_one_row_in_a_pipe,
    a_name_that_leaves_no_room_is_above_its_row,
    a_long_name_leaves_the_other_rows_as_they_are,
    parked_events_that_wait_have_one_row,
    what_is_parked_or_stopped_names_what_to_do_next,
    a_position_is_read_as_tables_show_it,
);

async fn a_long_name_leaves_the_other_rows_as_they_are<DB: TestDatabase>(db: Database<DB>) {
    let long = "a_consumer_whose_name_is_as_wide_as_a_terminal_and_leaves_no_room_beside_it";
    let scope = ["Order", "Payment", "Refund", "Subscription", "Delivery"];
    let named = |name: &'static str| Model::new(name).scope(&scope);
    let builder = named("audit").worker(&db).consumer(Model::new(long));
    let (_, text) = cli(builder.scoped_consumer(named("users")), "list").await;
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("CONSUMER  V  GROUP  ON ERROR  SCOPE "),
        "{text}"
    );
    let above = lines.iter().position(|line| *line == long).unwrap();
    let row = "          1  -      stop      every event";
    assert!(lines[above + 1].starts_with(row), "{text}");
    let row = "users     1  -      stop      Order, Payment,";
    assert!(lines.iter().any(|line| line.starts_with(row)), "{text}");
    let fits = |line: &&str| line.chars().count() <= 80;
    assert!(lines.iter().all(fits), "{text}");
}

/// A consumer that parks what has this id.
fn parks(name: &'static str, id: &str) -> Model {
    let model = Model::new(name).settings(Settings::default().retries(0).on_error(OnError::Park));
    model.fail_on(id, true);
    model
}

async fn parked_events_that_wait_have_one_row<DB: TestDatabase>(db: Database<DB>) {
    let users = parks("users", "bad");
    db.append("User", ["bad", "worse", "bad", "bad", "bad"])
        .await;
    users.fail_on("worse", true);
    run_once(users.worker(&db)).await;
    // A long sentence has several lines here.
    let list = async || {
        let (_, text) = cli(users.worker(&db), "parked list users").await;
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let text = list().await;
    let [one, three, two] = [" 1 User bad 1 ", " 3 User bad - ", " 2 User worse 1 "]
        .map(|row| text.find(row).unwrap_or_else(|| panic!("{row}: {text}")));
    assert!(one < three && three < two, "{text}");
    assert!(
        text.contains("waits behind event 1, with 2 later events 2 User worse"),
        "{text}"
    );
    assert!(!text.contains(" 4 User bad"), "{text}");
    cli(users.worker(&db), "parked skip users 1 --yes").await;
    let text = list().await;
    assert!(
        text.contains(" 3 User bad - ") && text.contains("waits for a retry, with 2 later events"),
        "{text}"
    );
}

async fn what_is_parked_or_stopped_names_what_to_do_next<DB: TestDatabase>(db: Database<DB>) {
    let parking = parks("mails", "bad");
    let stops = Model::new("users");
    stops.fail_on("bad", true);
    db.append("User", ["bad", "bad"]).await;
    let builder = || parking.worker(&db).consumer(stops.clone());
    run_once(builder()).await;
    let show = async |line: &str| cli(builder(), line).await.1;
    let retry =
        "next        after a repair run `parked retry mails 1`, or run `parked skip mails 1`\n";
    for line in ["explain mails 1", "parked show mails 1"] {
        let text = show(line).await;
        assert!(text.contains(retry), "{text}");
    }
    let text = show("parked show mails 2").await;
    let never = "failed      never: it was parked behind an earlier event of its aggregate\n";
    assert!(text.contains(never), "{text}");
    let text = show("explain users 1").await;
    let next =
        "next        after a repair run `resume users`, or run `park users 1` or `skip users 1`\n";
    assert!(text.contains(next), "{text}");
    let text = show("explain users 2").await;
    assert!(!text.contains("next "), "{text}");
}

async fn a_position_is_read_as_tables_show_it<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    let (_, text) = cli(users.worker(&db), "explain users 1,005").await;
    let expected = "event       no event yet: the log is not settled up to this position";
    assert!(text.contains(expected), "{text}");
    for line in [
        "explain users x",
        "park users x",
        "redact x {}",
        "parked retry users x",
    ] {
        let words = ["worker"].into_iter().chain(line.split(' '));
        let error = Cli::try_parse_from(words).unwrap_err().to_string();
        assert!(
            error.contains("a position is a whole number, such as 1005"),
            "{error}"
        );
    }
}

async fn a_table_in_a_pipe_has_a_line_for_each_row<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", [LONG_ID]).await;
    let parking = parks_long(LONG_ID);
    run_once(parking.worker(&db)).await;
    let piped = async |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_test_operator"));
        command.arg("consumers").args(line.split(' '));
        let command = command
            .env("TEST_OPERATOR_URL", &db.url)
            .stdin(Stdio::null());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let list = piped("parked list a_consumer_with_a_long_name_that_is_copied").await;
    assert_eq!(list.lines().count(), 2, "{list}");
    let row = list.lines().nth(1).unwrap();
    assert!(
        row.contains(LONG_ID) && row.contains(&format!("cannot handle {LONG_ID}")),
        "{list}"
    );
    let status = piped("status").await;
    let row = status.lines().nth(1).unwrap();
    assert!(
        row.starts_with("a_consumer_with_a_long_name_that_is_copied "),
        "{status}"
    );
}

async fn an_id_in_a_narrow_table_is_not_broken<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", [LONG_ID]).await;
    let parking = parks_long(LONG_ID);
    run_once(parking.worker(&db)).await;
    let (_, text) = cli(parking.worker(&db), "parked list").await;
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert_eq!(lines[1], "POSITION  AGGREGATE  FAILED  PARKED");
    assert_eq!(lines[2], format!("User {LONG_ID}"), "{text}");
    assert_eq!(lines[4], format!("cannot handle {LONG_ID}"), "{text}");
    let (_, text) = cli(parking.worker(&db), "status").await;
    assert!(
        text.contains("\na_consumer_with_a_long_name_that_is_copied\n          running"),
        "{text}"
    );
}

async fn status_as_json_has_the_segments_and_both_lags<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").settings(Settings::default().segments(4));
    db.append("User", ["ada"]).await;
    run_once(users.worker(&db)).await;
    db.append("User", ["bob"]).await;
    let (_, text) = cli(users.worker(&db), "status --json").await;
    let status: Value = serde_json::from_str(&text).unwrap();
    let one = &status["consumers"][0];
    assert_eq!(
        (&one["lag"]["events"], &one["settled_lag"]["events"]),
        (&json!(1), &json!(1))
    );
    let segments = one["segments"].as_array().unwrap();
    assert_eq!(segments.len(), 4);
    assert_eq!(segments[1]["slices"], json!({ "start": 256, "end": 512 }));
    assert_eq!(segments[1]["state"], "running");
}

async fn explain_says_what_became_of_each_event<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users")
        .scope(&["User"])
        .settings(Settings::default().retries(0).on_error(OnError::Park));
    users.fail_on("bad", true);
    db.append("User", ["good", "bad", "bad"]).await;
    db.append("Order", ["o"]).await;
    let explain = async |model: &Model, position: i64| {
        let (exit, text) = cli(model.worker(&db), &format!("explain users {position}")).await;
        assert_eq!(exit, Exit::Done, "{text}");
        text
    };
    assert!(
        explain(&users, 1)
            .await
            .contains("outcome     not handled yet\n")
    );
    run_once(users.worker(&db)).await;
    let handled = explain(&users, 1).await;
    assert!(
        handled.contains("handled, or skipped") && handled.contains("is replay   yes"),
        "{handled}"
    );
    let failed = explain(&users, 2).await;
    assert!(
        failed.contains("parked (failed 1 time): cannot handle bad"),
        "{failed}"
    );
    assert!(failed.contains("is replay   no"), "{failed}");
    assert!(
        explain(&users, 3)
            .await
            .contains("parked behind an earlier event")
    );
    assert!(explain(&users, 4).await.contains("not in the scope"));
    assert!(explain(&users, 9).await.contains("no event yet"));

    let stops = Model::new("users").scope(&["User"]);
    stops.fail_on("worse", true);
    let later = db.append("User", ["worse", "after"]).await;
    run_once(stops.worker(&db)).await;
    let failing = explain(&stops, later[0]).await;
    assert!(
        failing.contains("the consumer stopped at it (failed 1 time): cannot handle worse"),
        "{failing}"
    );
    assert!(
        explain(&stops, later[1])
            .await
            .contains("paused, or stopped before it")
    );

    // A type that came into the scope after the checkpoint had passed its events.
    let wider = Model::new("users").scope(&["User", "Order"]);
    wider
        .worker(&db)
        .admin()
        .unwrap()
        .accept_scope("users")
        .await
        .unwrap();
    assert!(
        explain(&wider, 4)
            .await
            .contains("came into the scope after")
    );
    let (exit, text) = cli(users.worker(&db), "explain user 1").await;
    assert_eq!(exit, Exit::Usage, "{text}");
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Order")]
enum OrderEvent {
    Placed,
}

/// The positions of the events that a consumer got.
type Positions = Arc<Mutex<Vec<i64>>>;

#[derive(Default)]
struct Waiting(Positions);

#[consumer(name = "orders", aggregates = [OrderEvent])]
impl Waiting {
    async fn handle(&self, event: &PersistedEvent) -> Result<(), HandlerError> {
        self.0.lock().unwrap().push(event.global_position);
        Ok(())
    }
}

#[derive(Default)]
struct Advised(Positions);

#[consumer(name = "orders", aggregates = [OrderEvent], ignore = ["Refunded"])]
impl Advised {
    async fn handle(&self, event: &PersistedEvent) -> Result<(), HandlerError> {
        self.0.lock().unwrap().push(event.global_position);
        Ok(())
    }
}

#[consumer(name = "by_hand", aggregates = [OrderEvent], database = any)]
#[derive(Default)]
struct WaitingByHand(Positions);

#[consumer(name = "by_hand", aggregates = [OrderEvent], ignore = ["Refunded"], database = any)]
#[derive(Default)]
struct AdvisedByHand(Positions);

macro_rules! handler {
    ($consumer:ty) => {
        impl<DB: sqlx::Database> consumer::Handler<DB> for $consumer {
            async fn handle(
                &self,
                _: &Context,
                _: &mut DB::Connection,
                event: &PersistedEvent,
            ) -> Result<(), HandlerError> {
                self.0.lock().unwrap().push(event.global_position);
                Ok(())
            }
        }
    };
}

handler!(WaitingByHand);
handler!(AdvisedByHand);

async fn a_handler_of_every_event_can_follow_the_advice_to_ignore<DB: TestDatabase>(
    db: Database<DB>,
) {
    for event_type in ["Placed", "Refunded", "Placed", "Refunded"] {
        let event = NewEvent::new("Order", "o-1", event_type, "{}");
        db.append_event(event).await;
    }
    let got = Positions::default();
    let waiting = || {
        let worker = db.worker().consumer(Waiting(Arc::clone(&got)));
        worker.consumer(WaitingByHand(Arc::clone(&got)))
    };
    run_once(waiting()).await;
    assert_eq!(*got.lock().unwrap(), [1, 1]);
    let advice = "name its type in `ignore`";
    let (_, status) = cli(waiting(), "status").await;
    assert_eq!(status.matches(advice).count(), 2, "{status}");
    let (_, unknown) = cli(waiting(), "unknown").await;
    assert!(
        unknown.contains("name their types in the consumer's `ignore`"),
        "{unknown}"
    );

    let advised = || {
        let worker = db.worker().consumer(Advised(Arc::clone(&got)));
        worker.consumer(AdvisedByHand(Arc::clone(&got)))
    };
    let report = run_once(advised()).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(*got.lock().unwrap(), [1, 1, 3, 3]);
    let (exit, status) = cli(advised(), "status").await;
    assert_eq!(exit, Exit::Done, "{status}");
    let (_, unknown) = cli(advised(), "unknown").await;
    assert!(!unknown.contains("Refunded"), "{unknown}");
}

async fn explain_names_the_release_that_a_consumer_waits_for<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["ada"]).await;
    let refunded = NewEvent::new("User", "ada", "Refunded", "{}");
    db.append_event(refunded).await;
    db.append("User", ["ada"]).await;
    let old = || read_model("users").knows(|format| format.event_type == "Changed");
    let explain = async |position: i64| {
        let line = format!("explain users {position}");
        let (exit, text) = cli(db.worker().consumer(old()), &line).await;
        assert_eq!(exit, Exit::Done, "{text}");
        text
    };
    assert!(explain(2).await.contains("outcome     not handled yet\n"));
    db.run_once(old()).await;
    assert!(explain(1).await.contains("outcome     handled"));
    for position in [2, 3] {
        let text = explain(position).await;
        let waits = "outcome     not handled yet: the consumer waits for a release that knows \
                     Refunded (User, position 2); deploy one, name its type in `ignore`, or run \
                     `park users 2` or `skip users 2`\n";
        assert!(text.contains(waits), "{text}");
    }
    let line = "explain users 3 --json";
    let (_, text) = cli(db.worker().consumer(old()), line).await;
    let explanation: Value = serde_json::from_str(&text).unwrap();
    let expected = json!({
        "kind": "waiting_for_release",
        "event": {
            "position": 2, "aggregate_type": "User", "event_type": "Refunded", "event_version": 1,
        },
    });
    assert_eq!(explanation["outcome"], expected);

    db.run_once(read_model("users")).await;
    assert!(explain(2).await.contains("outcome     handled"));
}

async fn explain_says_why_a_consumer_is_held_back<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["ada"]).await;
    db.run_once(read_model("users")).await;
    let accounts = || read_model("accounts").formerly(Formerly::Unstated);
    run_once(db.worker().consumer(accounts())).await;
    let explain = async |consumer: TestConsumer<DB>, name: &str| {
        let line = format!("explain {name} 1");
        let (exit, text) = cli(db.worker().consumer(consumer), &line).await;
        assert_eq!(exit, Exit::Done, "{text}");
        text
    };
    let text = explain(accounts(), "accounts").await;
    assert!(
        text.contains("outcome     not handled: the consumer is held back: it is new, and `users`"),
        "{text}"
    );
    assert!(
        text.contains("run `rename users accounts`") && text.contains("`start-new accounts`"),
        "{text}"
    );

    // Under its old name, after the rename.
    let admin = db.worker().consumer(accounts()).admin().unwrap();
    admin.rename("users", "accounts").await.unwrap();
    let text = explain(read_model("users"), "users").await;
    assert!(
        text.contains("held back: it was renamed to `accounts`; `rename accounts users`"),
        "{text}"
    );
    let text = explain(accounts(), "accounts").await;
    assert!(text.contains("outcome     handled"), "{text}");
}

async fn explain_as_json_has_every_field<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    db.append("User", ["ada"]).await;
    run_once(users.worker(&db)).await;
    let (_, text) = cli(users.worker(&db), "explain users 1 --json").await;
    let explanation: Value = serde_json::from_str(&text).unwrap();
    let expected = json!({
        "consumer": "users", "version": 1, "position": 1, "checkpoint": 1, "is_replay": true,
        "event": {
            "aggregate_type": "User", "aggregate_id": "ada", "event_type": "Changed", "event_version": 1,
        },
        "outcome": { "kind": "handled" }, "handlers": [], "is_without_handler": false,
    });
    assert_eq!(explanation, expected);
}

async fn a_single_event_is_singular<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    db.append("User", ["ada"]).await;
    run_once(users.worker(&db)).await;
    let (_, text) = cli(users.worker(&db), "rebuild users --yes").await;
    assert!(!text.contains("1 events"), "{text}");
    let state = consumer::ConsumerState::Retrying {
        position: 7,
        attempts: 1,
        error: "no".into(),
    };
    assert_eq!(state.to_string(), "retrying event 7 (failed 1 time: no)");
}

async fn explain_shows_what_the_event_contains<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    let event =
        |payload: &[u8]| consumer::NewEvent::new("User", "ada", "Renamed", payload.to_vec());
    let large = "é".repeat(100_000);
    for payload in [
        br#"{"name":"Ada"}"#,
        b"\x1b[2J\xff".as_slice(),
        large.as_bytes(),
    ] {
        db.append_event(event(payload)).await;
    }
    let explain = async |position: i64| {
        cli(users.worker(&db), &format!("explain users {position}"))
            .await
            .1
    };
    let text = explain(1).await;
    assert!(text.contains(r#"payload     {"name":"Ada"}"#), "{text}");
    assert!(explain(2).await.contains("5 bytes that are not text"));
    let text = explain(3).await;
    assert!(text.contains("(cut, 200,000 bytes in all)") && text.len() < 20_000);
}

async fn a_stopped_consumer_names_the_commands_that_help<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    users.fail_on("bad", true);
    db.append("User", ["bad"]).await;
    run_once(users.worker(&db).release("v1")).await;
    let (exit, text) = cli(users.worker(&db), "status").await;
    assert_eq!(exit, Exit::Unwell);
    let line = text
        .lines()
        .find(|line| line.contains("last tried"))
        .unwrap();
    let (_, commands) = line
        .split_once(" ago by release v1; after a repair run ")
        .unwrap();
    assert_eq!(
        commands,
        "`resume users`, or run `park users 1` or `skip users 1`"
    );
    let (exit, text) = cli(users.worker(&db), "park users 1").await;
    assert_eq!(exit, Exit::Done, "{text}");
}

async fn an_error_of_several_lines_is_one_row_in_a_pipe<DB: TestDatabase>(db: Database<DB>) {
    let rude = "one\ntwo \u{1b}[2J";
    let parking = parks_long(rude);
    db.append("User", [rude]).await;
    run_once(parking.worker(&db)).await;
    for line in [
        "parked list",
        "parked show a_consumer_with_a_long_name_that_is_copied 1",
    ] {
        let (_, text) = cli(parking.worker(&db), line).await;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains("User one two \\u{1b}[2J"), "{text}");
        assert!(text.contains("cannot handle one two \\u{1b}[2J"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
    let stops = Model::new("stops");
    stops.fail_on(rude, true);
    run_once(stops.worker(&db)).await;
    let (_, text) = cli(stops.worker(&db), "status").await;
    assert!(
        text.contains(
            "\nstops stopped at event 1 (failed 1 time): cannot handle one two \\u{1b}[2J\n"
        ),
        "{text}"
    );
}

async fn a_name_that_leaves_no_room_is_above_its_row<DB: TestDatabase>(db: Database<DB>) {
    let name = "a_consumer_whose_name_is_as_wide_as_a_terminal_and_leaves_no_room_beside_it";
    let users = Model::new(name);
    db.append("User", ["ada"]).await;
    run_once(users.worker(&db)).await;
    let (_, text) = cli(users.worker(&db), "status").await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..3],
        [
            "CONSUMER  STATE    POSITION  LAG  BEHIND  PARKED",
            name,
            "          running         1    0       -       -"
        ]
    );
    let (_, text) = cli(users.worker(&db), "list").await;
    let expected = [
        "CONSUMER  V  GROUP  ON ERROR",
        name,
        "          1  -      stop",
        "    scope: every event",
        "    declared at: by hand",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}

/// The spans of code in a text.
fn code(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_command_of_the_guide_for_on_call_is_one() {
    let guide = include_str!("../../consumer/src/guide/on_call.md");
    let cli = Cli::command();
    let is_command = |code: &&str| {
        let first = code.split(' ').next().unwrap();
        cli.get_subcommands().any(|one| one.get_name() == first)
    };
    let mut parsed = 0;
    for command in code(guide).into_iter().filter(is_command) {
        let command = command.replace("POSITION", "4711").replace(['[', ']'], "");
        // The name alone stands for the command with whatever it takes.
        if !command.contains(' ') {
            continue;
        }
        let words = ["worker"].into_iter().chain(command.split(' '));
        let cli = Cli::try_parse_from(words);
        assert!(cli.is_ok(), "{command}: {}", cli.unwrap_err());
        parsed += 1;
    }
    assert!(parsed > 25, "{parsed}");
}

/// What bash offers for the last of some words.
fn completed(words: &[&str]) -> String {
    let program = env!("CARGO_BIN_EXE_test_operator");
    let line = format!(
        "source <({program} consumers completions bash); COMP_WORDS=({}); COMP_CWORD={}; \
         _test_operator test_operator {} {}; echo \"${{COMPREPLY[@]}}\"",
        words.join(" "),
        words.len() - 1,
        words[words.len() - 1],
        words[words.len() - 2],
    );
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bash_completes_the_names_of_consumers() {
    for command in [
        "pause",
        "park",
        "explain",
        "forget",
        "rename",
        "run --only",
        "parked show",
    ] {
        let mut words = vec!["test_operator", "consumers"];
        words.extend(command.split(' '));
        words.push("ta");
        let offered = completed(&words);
        assert_eq!(offered.trim(), "tally", "{command}");
    }
    let offered = completed(&["test_operator", "consumers", "frontier", "ta"]);
    assert_eq!(offered.trim(), "", "it takes no consumer");
}

#[test]
fn completions_offer_the_names_of_the_consumers() {
    for shell in ["bash", "zsh", "fish"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_test_operator"));
        let output = command
            .args(["consumers", "completions", shell])
            .output()
            .unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("tally"), "{shell}: {script}");
    }
}

/// The number that sqlx adds to a message of Postgres is a line of the server's source.
#[tokio::test(flavor = "multi_thread")]
async fn errors_leave_out_the_line_of_the_servers_source() {
    let db = Database::<sqlx::Postgres>::fresh().await;
    db.append("User", ["ada"]).await;
    let wrong = || {
        consumer_tests::consumer("wrong", |_, tx: &mut sqlx::PgConnection, _| {
            Box::pin(async move {
                let query = sqlx::query("SELECT *\nFROM nothing\nWHERE id = 1");
                query.execute(tx).await?;
                Ok(())
            })
        })
        .settings(Settings::default().retries(0))
    };
    run_once(db.worker().consumer(wrong())).await;
    let (_, text) = cli(db.worker().consumer(wrong()), "status").await;
    assert!(
        text.contains("relation \"nothing\" does not exist"),
        "{text}"
    );
    assert!(!text.contains("at line"), "{text}");
    let error = sqlx::query("SELECT 1 / 0")
        .execute(&db.pool)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains(" at line "),
        "the control: {error}"
    );
    let error = consumer::StoreError::from(error);
    assert!(!error.to_string().contains(" at line "), "{error}");
}
