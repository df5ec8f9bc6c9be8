//! The output and the exit status of each command, on both databases.

use std::time::Duration;

use clap::Parser as _;
use consumer::cli::{Cli, Exit};
use consumer::{EventStore, NewEvent, OnError, Registered, Settings, Worker, WorkerBuilder};
use consumer_tests::samples::{Sample, Samples};
use consumer_tests::{
    Database, Folding, Model, Running, TestDatabase, command, next_release, read_model, run_once,
    test_on,
};
use sqlx::Pool;

/// Runs a command, answering no to its questions, and returns its exit status and its output.
async fn cli<DB: TestDatabase>(db: &Database<DB>, models: &[&Model], line: &str) -> (Exit, String) {
    answering(db, models, line, "n").await
}

/// Runs a command with this answer to its questions.
async fn answering<DB: TestDatabase>(
    db: &Database<DB>,
    models: &[&Model],
    line: &str,
    answer: &str,
) -> (Exit, String) {
    let builder = models.iter().fold(
        Worker::builder(db.store.clone()).release(next_release()),
        |builder, model| builder.scoped_consumer((*model).clone()),
    );
    command(builder, line, [answer]).await
}

fn parking(name: &'static str) -> Model {
    Model::new(name).settings(Settings::default().retries(0).on_error(OnError::Park))
}

test_on!(
    [sqlite, postgres],
    run_once_reports_what_every_consumer_did,
    run_only_and_run_group_refuse_unknown_names,
    run_exits_with_3_when_a_consumer_stopped,
    list_shows_what_was_declared,
    status_is_a_table_of_80_columns_and_tells_what_is_wrong,
    status_as_json_has_every_field_of_the_table,
    pause_and_resume_report_what_they_did,
    rebuild_asks_and_then_shows_lines_of_json_until_it_is_done,
    rebuild_continues_an_interrupted_one,
    rebuild_without_a_reset_says_what_to_do,
    a_changed_scope_is_explained_and_accepted,
    segments_are_merged_while_a_worker_runs_them,
    parked_events_are_listed_shown_retried_and_skipped,
    frontier_says_how_far_the_log_is_settled,
    forget_asks_and_refuses_what_is_in_use,
    forget_asks_before_it_drops_a_table,
    activate_switches_versions_once_the_new_one_has_caught_up,
    rename_and_start_new_decide_about_names,
    redact_asks_and_replaces_a_payload,
    migrate_prints_the_sql_or_runs_it,
    migrate_refuses_older_libraries_and_accepts_them_again,
    migrate_prints_the_tables_and_views_of_read_models,
    a_consumer_can_be_paused_before_it_ever_runs,
    a_resumed_consumer_shows_no_earlier_error,
    rebuild_takes_the_scope_of_the_code_and_says_so,
    watching_a_rebuild_with_an_old_scope_says_so,
    rebuild_of_one_version_leaves_the_other_as_it_is,
    rebuild_can_be_restarted_left_to_others_and_watched,
    rebuild_discards_parked_events_only_when_told_to,
    rebuild_empties_nothing_when_no_worker_can_be_built,
    nothing_is_asked_about_unknown_consumers_and_events,
    activate_refuses_a_version_that_has_not_caught_up,
    a_program_with_the_new_version_shows_the_old_one,
    parked_events_as_json_have_every_field,
    a_group_leaves_other_checkpoints_attached,
    no_line_is_wider_than_80_columns,
    a_command_that_waits_too_long_for_others_is_refused,
    a_command_waits_for_others_within_its_limit,
    completions_name_every_command,
    a_consumer_that_waits_for_a_release_is_explained,
    unknown_events_are_listed_and_unwell,
    status_lists_the_processes_on_request,
    a_rebuild_ends_before_an_unknown_event
);

test_on!(
    [empty_sqlite, empty_postgres],
    without_tables_status_says_to_migrate
);

/// A worker whose consumer knows no event but `Placed`.
fn waiting<DB: TestDatabase>(db: &Database<DB>) -> WorkerBuilder<DB> {
    let orders = read_model("orders").knows(|format| format.event_type == "Placed");
    Worker::builder(db.store.clone())
        .consumer(orders)
        .release("v1")
}

async fn append_orders<DB: TestDatabase>(db: &Database<DB>) {
    for event_type in ["Placed", "Refunded", "Refunded"] {
        let event = NewEvent::new("Order", "o-1", event_type, "{}");
        db.append_event(event).await;
    }
}

async fn a_consumer_that_waits_for_a_release_is_explained<DB: TestDatabase>(db: Database<DB>) {
    append_orders(&db).await;
    let (exit, text) = command(waiting(&db), "run --once", ["n"]).await;
    assert_eq!(exit, Exit::Unwell);
    assert!(
        text.contains("orders: waiting for a release that knows Refunded (Order, position 2) at 1"),
        "{text}"
    );
    let (exit, text) = command(waiting(&db), "status", ["n"]).await;
    assert_eq!(exit, Exit::Unwell);
    assert!(text.contains("waiting for release"), "{text}");
    assert!(
        text.contains(
            "orders waits for a release that knows Refunded (Order, position 2); deploy one"
        ),
        "{text}"
    );
    let (exit, text) = command(waiting(&db), "skip orders 2", ["y"]).await;
    assert_eq!(exit, Exit::Done, "{text}");
    command(waiting(&db), "run --once", ["n"]).await;
    let (exit, text) = command(waiting(&db), "park orders 3", ["n"]).await;
    assert_eq!(exit, Exit::Done, "{text}");
    let (exit, text) = command(waiting(&db), "parked retry orders", ["n"]).await;
    assert_eq!(exit, Exit::Unwell);
    assert!(
        text.contains(
            "this program does not know Refunded (Order, position 3), so its aggregate stays parked"
        ),
        "{text}"
    );
}

async fn a_rebuild_ends_before_an_unknown_event<DB: TestDatabase>(db: Database<DB>) {
    append_orders(&db).await;
    let knowing = || Worker::builder(db.store.clone()).consumer(read_model("orders"));
    command(knowing(), "run --once", ["n"]).await;
    let rebuild = "rebuild orders --yes --without-reset";
    let (exit, text) = command(waiting(&db), rebuild, ["n"]).await;
    assert_eq!(exit, Exit::Unwell, "{text}");
    let reason =
        "the consumer waits for a release that knows Refunded (Order, position 2); continue";
    assert!(text.contains(reason), "{text}");
    let (exit, text) = command(knowing(), rebuild, ["n"]).await;
    assert_eq!(exit, Exit::Done, "{text}");
}

async fn unknown_events_are_listed_and_unwell<DB: TestDatabase>(db: Database<DB>) {
    append_orders(&db).await;
    let (exit, text) = command(waiting(&db), "unknown", ["n"]).await;
    assert_eq!(exit, Exit::Unwell);
    assert_eq!(
        text,
        "CONSUMER  EVENT     VERSION  AGGREGATE  EVENTS  FIRST  LAST\n\
         orders    Refunded        1  Order           2      2     3\n\n\
         deploy a release that knows these events, or name their types in the consumer's `ignore`\n"
    );
    let (_, json) = command(waiting(&db), "unknown --json", ["n"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["event_type"], "Refunded");
    assert_eq!(
        (&json[0]["first"], &json[0]["last"]),
        (&2.into(), &3.into())
    );
    let (exit, text) = cli(&db, &[&Model::new("users")], "unknown").await;
    assert_eq!(exit, Exit::Done);
    assert_eq!(
        text,
        "this program knows every event in the scope of its consumers\n"
    );
}

async fn status_lists_the_processes_on_request<DB: TestDatabase>(db: Database<DB>) {
    let (_, text) = command(waiting(&db), "status --processes", ["n"]).await;
    assert!(
        text.ends_with("no process has handled an event yet\n"),
        "{text}"
    );
    append_orders(&db).await;
    command(waiting(&db), "run --once", ["n"]).await;
    let (_, text) = command(waiting(&db), "status --processes", ["n"]).await;
    let (_, processes) = text.split_once("PROCESS").unwrap();
    let own = format!("{} on ", std::process::id());
    assert!(processes.contains(&own), "{text}");
    assert!(
        processes.contains("v1") && processes.contains("orders"),
        "{text}"
    );
}

async fn run_once_reports_what_every_consumer_did<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    let (exit, text) = cli(
        &db,
        &[&Model::new("users"), &Model::new("audit")],
        "run --once",
    )
    .await;
    assert_eq!(exit, Exit::Done);
    assert_eq!(
        text,
        "audit: caught up at 1, 1 event handled\nusers: caught up at 1, 1 event handled\n"
    );
}

async fn run_only_and_run_group_refuse_unknown_names<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    let (exit, text) = cli(
        &db,
        &[&Model::new("users"), &Model::new("audit")],
        "run --once --only users",
    )
    .await;
    assert_eq!(
        (exit, text.as_str()),
        (Exit::Done, "users: caught up at 1, 1 event handled\n")
    );

    let (exit, text) = cli(&db, &[&Model::new("users")], "run --once --only user").await;
    assert_eq!(exit, Exit::Usage);
    assert_eq!(
        text,
        "error: there is no consumer `user` in this program; it has: users\n"
    );

    let grouped = |group| {
        let mut registered = Registered::<DB>::new(Model::new("grouped"));
        registered.declaration.group = Some(group);
        Worker::<DB>::builder(db.store.clone())
            .consumer(Model::new("users"))
            .registered(registered)
    };
    let (exit, text) = command(
        grouped("projections"),
        "run --once --group projections",
        ["n"],
    )
    .await;
    assert_eq!(
        (exit, text.as_str()),
        (Exit::Done, "grouped: caught up at 1, 1 event handled\n")
    );
    let (exit, text) = command(grouped("projections"), "run --once --group other", ["n"]).await;
    assert_eq!(exit, Exit::Usage);
    assert_eq!(
        text,
        "error: no consumer is in group `other`; the groups are: projections\n"
    );
}

async fn run_exits_with_3_when_a_consumer_stopped<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["bad"]).await;
    let users = Model::new("users");
    users.fail_on("bad", true);
    let (exit, text) = cli(&db, &[&users], "run --once").await;
    assert_eq!((exit, exit.code()), (Exit::Unwell, 3));
    assert!(
        text.contains("stopped before event 1 (cannot handle bad)"),
        "{text}"
    );
}

async fn list_shows_what_was_declared<DB: TestDatabase>(db: Database<DB>) {
    let (exit, text) = cli(
        &db,
        &[
            &Model::new("users").scope(&["User", "Team"]),
            &parking("audit"),
        ],
        "list",
    )
    .await;
    assert_eq!(exit, Exit::Done);
    assert_eq!(
        text,
        "\
CONSUMER  V  GROUP  ON ERROR  SCOPE        DECLARED AT
audit     1  -      park      every event  by hand
users     1  -      stop      User, Team   by hand
"
    );
}

async fn status_is_a_table_of_80_columns_and_tells_what_is_wrong<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append("User", ["bad"]).await;
    let users = Model::new("users");
    users.fail_on("bad", true);
    cli(
        &db,
        &[&users, &Model::new("gone"), &parking("audit")],
        "run --once",
    )
    .await;
    db.leave_alone().await;
    let (exit, text) = cli(
        &db,
        &[&users, &parking("audit"), &Model::new("fresh")],
        "status",
    )
    .await;
    assert_eq!(exit, Exit::Unwell);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "CONSUMER  STATE     POSITION  LAG  BEHIND  PARKED"
    );
    assert!(
        lines[1].starts_with("audit     running          1    0       -       -"),
        "{text}"
    );
    assert!(
        lines[2].starts_with("fresh     new              -    1"),
        "{text}"
    );
    assert!(
        lines[3].starts_with("gone      detached         1    0       -"),
        "{text}"
    );
    assert!(
        lines[4].starts_with("users     stopped          0    1"),
        "{text}"
    );
    assert!(
        text.contains("users stopped at event 1 (failed 1 time): cannot handle bad"),
        "{text}"
    );
    assert!(
        text.ends_with("the log is settled up to its head, 1\n"),
        "{text}"
    );
}

async fn status_as_json_has_every_field_of_the_table<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    cli(&db, &[&Model::new("users")], "run --once").await;
    let head = db.append_one("User", "b").await;
    let (exit, text) = cli(&db, &[&Model::new("users")], "status --json").await;
    assert_eq!(exit, Exit::Done);
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    let one = &status["consumers"][0];
    assert_eq!(
        (
            &one["name"],
            &one["state"],
            &one["position"],
            &one["lag"]["events"]
        ),
        (&"users".into(), &"running".into(), &1.into(), &1.into())
    );
    assert!(one["lag"]["seconds"].is_number());
    assert_eq!(status["frontier"]["head"], head);
}

async fn pause_and_resume_report_what_they_did<DB: TestDatabase>(db: Database<DB>) {
    cli(&db, &[&Model::new("users")], "run --once").await;
    let (exit, text) = cli(&db, &[&Model::new("users")], "pause users").await;
    assert_eq!((exit, text.as_str()), (Exit::Done, "users is paused\n"));
    let (_, text) = cli(&db, &[&Model::new("users")], "status").await;
    assert!(text.contains("users     paused"), "{text}");
    let (exit, text) = cli(&db, &[&Model::new("users")], "resume users").await;
    assert_eq!((exit, text.as_str()), (Exit::Done, "users is resumed\n"));
    let (exit, text) = cli(&db, &[&Model::new("users")], "pause nobody").await;
    assert_eq!(exit, Exit::Usage);
    assert_eq!(
        text,
        "error: there is no consumer `nobody`; known consumers: users\n"
    );
    let (exit, text) = cli(&db, &[&Model::new("users")], "pause users --of-version 2").await;
    assert_eq!(exit, Exit::Usage);
    assert_eq!(
        text,
        "error: consumer `users` has no version 2; existing versions: 1\n"
    );
}

async fn rebuild_asks_and_then_shows_lines_of_json_until_it_is_done<DB: TestDatabase>(
    db: Database<DB>,
) {
    let users = Model::new("users");
    db.append("User", ["a"]).await;
    cli(&db, &[&users], "run --once").await;
    let (exit, text) = answering(&db, &[&users], "rebuild users", "n").await;
    assert_eq!(exit, Exit::Refused);
    assert_eq!(
        text,
        "\
This empties the read model of users and replays its events up to 1. Continue? [y/N]
error: cancelled; nothing was changed
"
    );
    let (exit, text) = answering(&db, &[&users], "rebuild users", "y").await;
    assert_eq!(exit, Exit::Done, "{text}");
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["handled"], &last["total"], &last["done"]),
        (&1.into(), &1.into(), &true.into())
    );
    assert_eq!(users.seen().len(), 2);
    assert!(users.seen()[1].is_replay);
}

async fn rebuild_continues_an_interrupted_one<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    db.append("User", ["a"]).await;
    cli(&db, &[&users], "run --once").await;
    users.fail_on("a", true);
    let (exit, text) = cli(&db, &[&users], "rebuild users --yes").await;
    assert_eq!(exit, Exit::Unwell, "{text}");
    assert!(
        text.contains("users: the consumer stopped: cannot handle a"),
        "{text}"
    );
    users.fail_on("a", false);
    let (exit, text) = cli(&db, &[&users], "rebuild users").await;
    assert_eq!(exit, Exit::Done, "{text}");
    assert!(
        text.starts_with("continuing the rebuild in progress, 0 of 1 event handled\n"),
        "{text}"
    );
}

async fn rebuild_without_a_reset_says_what_to_do<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").without_reset();
    db.append("User", ["a"]).await;
    cli(&db, &[&users], "run --once").await;
    let (exit, text) = answering(&db, &[&users], "rebuild users", "y").await;
    assert_eq!(exit, Exit::Refused);
    assert!(
        !text.contains("[y/N]"),
        "asks for what it would refuse: {text}"
    );
    assert!(
        text.contains("`#[on(reset)]`") && text.contains("`--without-reset`"),
        "{text}"
    );
    let (exit, _) = cli(&db, &[&users], "rebuild users --yes --without-reset").await;
    assert_eq!(exit, Exit::Done);
}

async fn a_changed_scope_is_explained_and_accepted<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    cli(&db, &[&Model::new("users").scope(&["User"])], "run --once").await;
    let (exit, text) = cli(&db, &[&Model::new("users").scope(&["Team"])], "status").await;
    assert_eq!(exit, Exit::Unwell);
    assert!(
        text.contains("users     scope changed") && text.contains("`accept-scope users`"),
        "{text}"
    );
    let (exit, text) = cli(
        &db,
        &[&Model::new("users").scope(&["Team"])],
        "accept-scope users",
    )
    .await;
    assert_eq!(
        (exit, text.as_str()),
        (Exit::Done, "users continues with the scope in the code\n")
    );
}

async fn segments_are_merged_while_a_worker_runs_them<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    db.append("User", ["a"]).await;
    let run = |segments: u32| {
        let builder = consumer::Worker::builder(db.store.clone()).consumer(users.clone());
        builder.configure_all(move |settings| settings.segments(segments))
    };
    run(4).build().unwrap().run_once().await.unwrap();
    let worker = consumer_tests::Running::start(run(1));
    let merged = consumer_tests::patiently("they are merged", async {
        cli(&db, &[&users], "merge users --segments 2").await
    });
    assert_eq!(
        merged.await,
        (Exit::Done, "users has 2 segments\n".to_owned())
    );
    worker.stop().await;
    let (exit, text) = cli(&db, &[&users], "merge nobody --segments 2").await;
    assert_eq!(exit, Exit::Usage, "{text}");
    let (exit, text) = cli(&db, &[&users], "merge users --segments 2").await;
    assert_eq!(
        (exit, text.as_str()),
        (Exit::Done, "users has 2 segments\n")
    );
}

async fn parked_events_are_listed_shown_retried_and_skipped<DB: TestDatabase>(db: Database<DB>) {
    let users = parking("users");
    users.fail_on("bad", true);
    for id in ["bad", "bad"] {
        db.append("User", [id]).await;
    }
    let (_, text) = cli(&db, &[&users], "run --once").await;
    assert!(text.starts_with("users: caught up at 2"), "{text}");
    let (exit, text) = cli(&db, &[&users], "parked list users").await;
    assert_eq!(exit, Exit::Done);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["POSITION", "AGGREGATE", "FAILED", "PARKED", "WHY"]
    );
    assert!(
        lines[1].trim_start().starts_with("1  User bad        1")
            && lines[1].ends_with("cannot handle bad"),
        "{text}"
    );
    assert!(
        lines[2].trim_start().starts_with("2  User bad        -")
            && lines[2].ends_with("waits behind event 1"),
        "{text}"
    );

    let (exit, text) = cli(&db, &[&users], "parked show users 1").await;
    assert_eq!(exit, Exit::Done);
    assert!(
        text.contains("aggregate   User bad\n") && text.contains("payload     {}"),
        "{text}"
    );

    let (exit, text) = cli(&db, &[&users], "parked retry users").await;
    assert_eq!(exit, Exit::Unwell);
    assert_eq!(
        text,
        "event 1 failed again; its aggregate stays parked: cannot handle bad\n0 events handled\n"
    );

    let (exit, _) = answering(&db, &[&users], "parked skip users 1", "n").await;
    assert_eq!(exit, Exit::Refused);
    let (exit, text) = cli(&db, &[&users], "parked skip users 1 --yes").await;
    assert_eq!(exit, Exit::Done);
    assert_eq!(
        text,
        "event 1 is skipped\n1 later event of its aggregate is still parked; run `parked retry users`\n"
    );

    users.fail_on("bad", false);
    let (exit, text) = cli(&db, &[&users], "parked retry users 2").await;
    assert_eq!((exit, text.as_str()), (Exit::Done, "1 event handled\n"));
    let (_, text) = cli(&db, &[&users], "parked list users").await;
    assert_eq!(text, "no event is parked\n");
}

async fn frontier_says_how_far_the_log_is_settled<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    let (exit, text) = cli(&db, &[&Model::new("users")], "frontier").await;
    assert_eq!(
        (exit, text.as_str()),
        (Exit::Done, "the log is settled up to its head, 1\n")
    );
    let (_, text) = cli(&db, &[&Model::new("users")], "frontier --json").await;
    let frontier: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(frontier["settled"], 1);
}

async fn forget_asks_and_refuses_what_is_in_use<DB: TestDatabase>(db: Database<DB>) {
    cli(&db, &[&Model::new("old")], "run --once").await;
    let (exit, text) = cli(&db, &[&Model::new("old")], "forget old --yes").await;
    assert_eq!(exit, Exit::Refused);
    assert!(
        text.contains("is in this program") && text.contains("`--force`"),
        "{text}"
    );
    let (exit, _) = answering(&db, &[&Model::new("new")], "forget old", "n").await;
    assert_eq!(exit, Exit::Refused);
    let (exit, text) = cli(&db, &[&Model::new("new")], "forget old --yes").await;
    assert_eq!((exit, text.as_str()), (Exit::Done, "old is forgotten\n"));
}

async fn forget_asks_before_it_drops_a_table<DB: TestDatabase>(db: Database<DB>) {
    run_once(Worker::builder(db.store.clone()).consumer(samples())).await;
    let rows = "SELECT count(*) FROM samples_v1";
    let (exit, text) = answering(&db, &[], "forget samples", "n").await;
    assert_eq!(exit, Exit::Refused);
    let question = "This removes the checkpoint of samples, drops the table `";
    assert!(
        text.starts_with(question) && text.contains("samples_v1`. Continue? [y/N]"),
        "{text}"
    );
    assert_eq!(db.number(rows).await, 0);
    let (exit, text) = answering(&db, &[], "forget samples", "y").await;
    assert_eq!(exit, Exit::Done, "{text}");
    let mut connection = db.pool.acquire().await.unwrap();
    DB::numbers(&mut connection, rows)
        .await
        .expect_err("it is dropped");
}

async fn rename_and_start_new_decide_about_names<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    cli(&db, &[&Model::new("users")], "run --once").await;
    let (exit, text) = cli(&db, &[], "rename users accounts").await;
    assert_eq!(
        (exit, text.as_str()),
        (
            Exit::Done,
            "users is renamed to accounts; `rename accounts users` takes it back\n"
        )
    );
    let users = Model::new("users");
    let (exit, text) = cli(&db, &[&users], "run --once").await;
    assert_eq!(exit, Exit::Unwell);
    assert!(
        text.contains("users: held back: it was renamed to `accounts`"),
        "{text}"
    );
    let (exit, text) = cli(&db, &[&users], "status").await;
    assert_eq!(exit, Exit::Unwell);
    assert!(
        text.contains("held back") && text.contains("`start-new users`"),
        "{text}"
    );
    let (_, text) = cli(&db, &[&users], "status --json").await;
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    let own = &status["consumers"][1];
    assert_eq!(
        (&own["name"], &own["state"]),
        (&"users".into(), &"held_back".into())
    );
    assert!(own["held_back"].as_str().unwrap().contains("`accounts`"));
    let (exit, text) = cli(&db, &[&users], "pause users").await;
    assert_eq!(exit, Exit::Refused, "{text}");
    let (exit, text) = cli(&db, &[&users], "rename users accounts").await;
    assert_eq!(exit, Exit::Refused, "{text}");
    let (exit, _) = cli(&db, &[&users], "rename accounts a%b").await;
    assert_eq!(exit, Exit::Usage);

    let (exit, _) = answering(&db, &[&users], "start-new users", "n").await;
    assert_eq!(exit, Exit::Refused);
    let (exit, text) = cli(&db, &[&users], "start-new users --yes").await;
    assert_eq!(
        (exit, text.as_str()),
        (Exit::Done, "users starts with a checkpoint of its own\n")
    );
    let (exit, _) = cli(&db, &[&users], "run --once").await;
    assert_eq!(exit, Exit::Done);
    assert_eq!(db.applied("users").await, [1, 1]);
    let (exit, text) = cli(&db, &[&users], "start-new users --yes").await;
    assert_eq!(exit, Exit::Refused, "{text}");
}

async fn redact_asks_and_replaces_a_payload<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(1).await;
    let payload = async || {
        let mut tx = db.store.begin().await.unwrap();
        let events = db.store.read_events(&mut tx, 0, 1).await.unwrap();
        String::from_utf8_lossy(&events[0].payload).into_owned()
    };
    let (exit, text) = answering(&db, &[], "redact 1 null", "n").await;
    assert_eq!(exit, Exit::Refused, "{text}");
    assert_eq!(payload().await, "0");
    let (exit, text) = cli(&db, &[], "redact 1 null --yes --without-metadata").await;
    assert_eq!(exit, Exit::Done, "{text}");
    assert_eq!(payload().await, "null");
    let (exit, text) = cli(&db, &[], "redact 2 null --yes").await;
    assert_eq!(exit, Exit::Usage);
    assert!(text.contains("no event at position 2"), "{text}");
}

async fn activate_switches_versions_once_the_new_one_has_caught_up<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append("User", ["a"]).await;
    cli(&db, &[&Model::new("users")], "run --once").await;
    let both = || {
        let mut second = Registered::<DB>::new(Model::new("users"));
        second.declaration.version = 2;
        Worker::<DB>::builder(db.store.clone())
            .consumer(Model::new("users"))
            .registered(second)
    };
    command(both(), "run --once", ["n"]).await;
    let (_, text) = command(both(), "status", ["n"]).await;
    assert!(
        text.contains("users v1 active") && text.contains("\nusers v2 "),
        "{text}"
    );
    let (exit, text) = command(both(), "activate users 2", ["n"]).await;
    assert_eq!(
        (exit, text.as_str()),
        (Exit::Done, "users v2 is the active version\n")
    );
    let (_, text) = command(both(), "status", ["n"]).await;
    assert!(text.contains("users v2 active"), "{text}");
}

async fn migrate_prints_the_sql_or_runs_it<DB: TestDatabase>(db: Database<DB>) {
    let (exit, text) = cli(&db, &[&Model::new("users")], "migrate --print").await;
    assert_eq!(exit, Exit::Done);
    assert!(text.contains("CREATE TABLE IF NOT EXISTS"), "{text}");
    let (exit, text) = cli(&db, &[&Model::new("users")], "migrate").await;
    assert_eq!(
        (exit, text.as_str()),
        (Exit::Done, "the tables are up to date\n")
    );
}

async fn migrate_refuses_older_libraries_and_accepts_them_again<DB: TestDatabase>(
    db: Database<DB>,
) {
    let cases = [
        ("--refuse-older", "are refused", 8),
        ("--accept-older", "are accepted", 4),
    ];
    let needs = "SELECT CAST(max(needs) AS BIGINT) FROM consumer_schema";
    for (option, says, needed) in cases {
        let users = Model::new("users");
        let (exit, text) = cli(&db, &[&users], &format!("migrate {option}")).await;
        assert_eq!(exit, Exit::Done, "{text}");
        assert!(text.contains(says), "{text}");
        assert_eq!(db.number(needs).await, needed);
    }
    for (option, _, needed) in cases {
        let users = Model::new("users");
        let (exit, script) = cli(&db, &[&users], &format!("migrate --print {option}")).await;
        assert_eq!(exit, Exit::Done);
        db.execute(&script).await;
        assert_eq!(db.number(needs).await, needed);
    }
}

/// A consumer with a read model, as [`Samples`] without settings of its own.
fn samples() -> Folding<Sample> {
    let (many_rows, settings) = (false, Settings::default());
    Samples {
        many_rows,
        settings,
    }
    .folding()
}

async fn migrate_prints_the_tables_and_views_of_read_models<DB: TestDatabase>(db: Database<DB>) {
    let worker = || Worker::builder(db.store.clone()).consumer(samples());
    let (exit, printed) = command(worker(), "migrate --print", ["n"]).await;
    assert_eq!(exit, Exit::Done);
    assert_eq!(
        printed.trim_end(),
        worker().admin().unwrap().migration_sql().trim_end()
    );
    // It can be run again.
    db.execute(&printed).await;
    db.execute(&printed).await;
    assert_eq!(db.numbers("SELECT count FROM samples").await, [0; 0]);
    let indexes = match DB::NAME {
        "PostgreSQL" => "SELECT count(*) FROM pg_index WHERE indrelid = 'samples_v1'::regclass",
        _ => "SELECT count(*) FROM pragma_index_list('samples_v1')",
    };
    assert_eq!(db.number(indexes).await, 2, "the key and one column");
    // The worker finds what it would have created, and another version changes no view.
    run_once(worker()).await;
    let second = Registered::new(samples()).version(2);
    let second = Worker::builder(db.store.clone()).registered(second);
    let (_, printed) = command(second, "migrate --print", ["n"]).await;
    db.execute(&printed).await;
    assert_eq!(db.numbers("SELECT count FROM samples_v2").await, [0; 0]);
    let admin = worker().admin().unwrap();
    assert_eq!(admin.active_version("samples").await.unwrap(), Some(1));
}

async fn without_tables_status_says_to_migrate<DB: TestDatabase>(db: Database<DB>) {
    let (exit, text) = cli(&db, &[&Model::new("users")], "status").await;
    assert_eq!(exit, Exit::Failed);
    assert!(text.contains("run `migrate`"), "{text}");
}

async fn a_consumer_can_be_paused_before_it_ever_runs<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    let users = Model::new("users");
    let (exit, text) = cli(&db, &[&users], "resume users").await;
    assert_eq!(
        (exit, text.as_str()),
        (
            Exit::Refused,
            "error: consumer `users` has no checkpoint yet: no worker has run it\n"
        )
    );
    let (exit, text) = cli(&db, &[&users], "pause users").await;
    assert_eq!((exit, text.as_str()), (Exit::Done, "users is paused\n"));
    let (exit, text) = cli(&db, &[&users], "run --once").await;
    assert_eq!(text, "users: paused, 0 events handled\n");
    assert_eq!(exit, Exit::Done, "an operator wanted it so");
    let (exit, _) = cli(&db, &[&users], "status").await;
    assert_eq!(exit, Exit::Done);
    cli(&db, &[&users], "resume users").await;
    let (_, text) = cli(&db, &[&users], "run --once").await;
    assert_eq!(text, "users: caught up at 1, 1 event handled\n");
}

async fn a_resumed_consumer_shows_no_earlier_error<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["bad"]).await;
    let users = Model::new("users");
    users.fail_on("bad", true);
    cli(&db, &[&users], "run --once").await;
    let (_, text) = cli(&db, &[&users], "pause users").await;
    assert_eq!(text, "users is paused\n");
    let (_, text) = cli(&db, &[&users], "status").await;
    assert!(
        text.contains("users paused at event 1 (failed 1 time): cannot handle bad"),
        "{text}"
    );
    cli(&db, &[&users], "resume users").await;
    let (_, text) = cli(&db, &[&users], "status").await;
    assert!(
        !text.contains("cannot handle bad") && !text.contains("failed"),
        "{text}"
    );
}

async fn rebuild_takes_the_scope_of_the_code_and_says_so<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    db.append("Team", ["t"]).await;
    cli(&db, &[&Model::new("users").scope(&["User"])], "run --once").await;
    let wider = Model::new("users").scope(&["Team", "User"]);
    let (exit, text) = answering(&db, &[&wider], "rebuild users", "n").await;
    assert_eq!(exit, Exit::Refused);
    assert!(
        text.starts_with(
            "This empties the read model of users, takes the scope in the code and replays its events up to 2. Continue?"
        ),
        "{text}"
    );
    let (exit, text) = cli(&db, &[&wider], "rebuild users --yes").await;
    assert_eq!(exit, Exit::Done, "{text}");
    assert_eq!(wider.seen().len(), 2);
    // A rebuild whose scope changes half-way starts over too, and does not hang.
    wider.fail_on("t", true);
    cli(&db, &[&wider], "rebuild users --yes").await;
    let other = wider.clone().scope(&["User"]);
    let (exit, text) = cli(&db, &[&other], "rebuild users --yes").await;
    assert_eq!(exit, Exit::Done, "{text}");
    assert!(!text.contains("in progress"), "{text}");
}

async fn watching_a_rebuild_with_an_old_scope_says_so<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    let users = Model::new("users");
    cli(&db, &[&users], "run --once").await;
    users.fail_on("a", true);
    cli(&db, &[&users], "rebuild users --yes").await;
    cli(&db, &[&users], "resume users").await;
    let (exit, text) = cli(
        &db,
        &[&users.clone().scope(&["User"])],
        "rebuild users --watch",
    )
    .await;
    assert_eq!(exit, Exit::Unwell);
    assert!(
        text.contains("users: the rebuild began with another scope"),
        "{text}"
    );
}

async fn rebuild_of_one_version_leaves_the_other_as_it_is<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    db.append("User", ["b"]).await;
    let (first, second) = (Model::new("users"), Model::new("users"));
    cli(&db, &[&first], "run --once").await;
    let both = || {
        let mut other = Registered::<DB>::new(second.clone());
        other.declaration.version = 2;
        Worker::<DB>::builder(db.store.clone())
            .consumer(first.clone())
            .registered(other)
    };
    // It has never run: it catches up beside the one that serves, whose effects it does not repeat.
    let (exit, text) = command(both(), "rebuild users --of-version 2", ["n"]).await;
    assert_eq!(exit, Exit::Done, "{text}");
    let lines: Vec<serde_json::Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    assert_eq!(
        (&lines[0]["version"], &lines[0]["total"]),
        (&2.into(), &2.into())
    );
    assert_eq!(lines.last().unwrap()["done"], true);
    assert!(
        text.ends_with("another version is active; `activate users 2` switches to this one\n"),
        "{text}"
    );
    let replays: Vec<_> = second
        .seen()
        .iter()
        .map(|seen| (seen.version, seen.is_replay))
        .collect();
    assert_eq!(replays, [(2, true), (2, true)]);
    assert_eq!(first.seen().len(), 2);

    let (exit, text) = command(both(), "rebuild users --yes", ["n"]).await;
    assert_eq!(exit, Exit::Usage);
    assert!(text.contains("`--of-version`"), "{text}");
    let (exit, text) = command(both(), "rebuild users --of-version 1", ["y"]).await;
    assert_eq!(exit, Exit::Done, "{text}");
    assert!(
        text.starts_with(
            "This empties the read model of users and replays its events up to 2. Continue? [y/N]\n"
        ),
        "{text}"
    );
    assert_eq!((first.seen().len(), second.seen().len()), (4, 2));
    for line in ["pause users --of-version 2", "resume users --of-version 2"] {
        let (exit, text) = command(both(), line, ["n"]).await;
        assert!(
            exit == Exit::Done && text.starts_with("users v2 "),
            "{text}"
        );
    }
    let (exit, text) = command(both(), "forget users --of-version 2 --force", ["y"]).await;
    assert_eq!(exit, Exit::Done, "{text}");
    assert!(
        text.starts_with("This removes the checkpoint of users v2. Continue?"),
        "{text}"
    );
}

async fn rebuild_can_be_restarted_left_to_others_and_watched<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    let users = Model::new("users");
    cli(&db, &[&users], "run --once").await;
    let (exit, text) = cli(&db, &[&users], "rebuild users --watch").await;
    assert_eq!(exit, Exit::Done, "nothing is under way: {text}");
    users.fail_on("a", true);
    cli(&db, &[&users], "rebuild users --yes").await;
    users.fail_on("a", false);
    let worker = Worker::<DB>::builder(db.store.clone())
        .consumer(users.clone())
        .snapshot_interval(Duration::from_millis(5));
    let elsewhere = Running::start(worker);
    elsewhere.caught_up().await.unwrap();
    let (exit, text) = cli(&db, &[&users], "rebuild users --no-run --yes").await;
    assert_eq!(exit, Exit::Done, "{text}");
    elsewhere.stop().await;
    let handled = users.seen().len();

    users.fail_on("a", true);
    cli(&db, &[&users], "rebuild users --yes").await;
    users.fail_on("a", false);
    let (exit, text) = answering(&db, &[&users], "rebuild users --restart --wait 1", "n").await;
    assert_eq!(exit, Exit::Refused, "{text}");
    let (exit, text) = answering(&db, &[&users], "rebuild users --restart --wait 1", "y").await;
    assert_eq!(exit, Exit::Done, "{text}");
    assert!(!text.contains("in progress"), "{text}");
    assert_eq!(users.seen().len(), handled + 2);
}

async fn rebuild_discards_parked_events_only_when_told_to<DB: TestDatabase>(db: Database<DB>) {
    let users = parking("users");
    users.fail_on("bad", true);
    db.append("User", ["bad"]).await;
    cli(&db, &[&users], "run --once").await;
    users.fail_on("bad", false);
    let (exit, text) = answering(&db, &[&users], "rebuild users", "y").await;
    assert_eq!(exit, Exit::Refused);
    assert!(
        text.starts_with("error: consumer `users` has 1 parked event,")
            && text.contains("`--discard-parked`"),
        "{text}"
    );
    let (exit, text) = answering(&db, &[&users], "rebuild users --discard-parked", "y").await;
    assert_eq!(exit, Exit::Done, "{text}");
    let question = "This empties the read model of users, delivers 1 parked event again as new and replays its events up to 1. Continue?";
    assert!(text.starts_with(question), "{text}");
}

async fn rebuild_empties_nothing_when_no_worker_can_be_built<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    let users = Model::new("users");
    cli(&db, &[&users], "run --once").await;
    let small = EventStore::<DB>::new(small_pool(&db).await);
    let builder = Worker::builder(small).consumer(users.clone());
    let (exit, text) = command(builder, "rebuild users --yes", ["n"]).await;
    assert_eq!(exit, Exit::Failed);
    assert!(text.contains("raise `max_connections`"), "{text}");
    let rows = db.number("SELECT count(*) FROM applied").await;
    assert_eq!(rows, 1);
}

async fn nothing_is_asked_about_unknown_consumers_and_events<DB: TestDatabase>(db: Database<DB>) {
    cli(&db, &[&Model::new("users")], "run --once").await;
    for line in [
        "forget nobody",
        "parked skip nobody 1",
        "parked skip users 1",
        "rebuild nobody",
        "skip users 1",
        "redact 1 {}",
    ] {
        let (exit, text) = answering(&db, &[&Model::new("users")], line, "y").await;
        assert_eq!(exit, Exit::Usage, "{text}");
        assert!(!text.contains("[y/N]"), "{line}: {text}");
    }
    let (exit, text) = answering(&db, &[&Model::new("users")], "start-new users", "y").await;
    assert_eq!(exit, Exit::Refused, "{text}");
    assert!(!text.contains("[y/N]"), "{text}");
}

async fn activate_refuses_a_version_that_has_not_caught_up<DB: TestDatabase>(db: Database<DB>) {
    let first = Model::new("users");
    db.append("User", ["bad"]).await;
    cli(&db, &[&first], "run --once").await;
    let second = parking("users");
    second.fail_on("bad", true);
    let both = || {
        let mut other = Registered::<DB>::new(second.clone());
        other.declaration.version = 2;
        Worker::<DB>::builder(db.store.clone())
            .consumer(first.clone())
            .registered(other)
    };
    command(both(), "run --once", ["n"]).await;
    let (exit, text) = command(both(), "activate users 2", ["n"]).await;
    assert_eq!(exit, Exit::Refused);
    assert!(
        text.contains("has 1 parked event") && text.contains("`--force`"),
        "{text}"
    );
    db.append("User", ["c"]).await;
    let (exit, text) = command(both(), "activate users 2", ["n"]).await;
    assert_eq!(exit, Exit::Refused);
    assert!(
        text.contains("is 1 event behind") && text.contains("`--force`"),
        "{text}"
    );
    let (exit, text) = command(both(), "activate users 2 --force", ["n"]).await;
    assert_eq!(
        (exit, text.as_str()),
        (Exit::Done, "users v2 is the active version\n")
    );
}

async fn a_program_with_the_new_version_shows_the_old_one<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    cli(&db, &[&Model::new("users")], "run --once").await;
    let mut second = Registered::<DB>::new(Model::new("users"));
    second.declaration.version = 2;
    let builder = Worker::<DB>::builder(db.store.clone()).registered(second);
    let (exit, text) = command(builder, "status", ["n"]).await;
    assert_eq!(exit, Exit::Done);
    assert!(text.contains("users v1 active  other version"), "{text}");
}

async fn parked_events_as_json_have_every_field<DB: TestDatabase>(db: Database<DB>) {
    let users = parking("users");
    users.fail_on("bad", true);
    db.append("User", ["bad"]).await;
    cli(&db, &[&users], "run --once").await;
    let (exit, text) = cli(&db, &[&users], "parked list users --json").await;
    assert_eq!(exit, Exit::Done);
    let parked: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (
            &parked[0]["position"],
            &parked[0]["aggregate_id"],
            &parked[0]["attempts"],
            &parked[0]["error"]
        ),
        (
            &1.into(),
            &"bad".into(),
            &1.into(),
            &"cannot handle bad".into()
        )
    );
    assert!(parked[0]["parked_seconds"].is_number());
}

async fn a_group_leaves_other_checkpoints_attached<DB: TestDatabase>(db: Database<DB>) {
    cli(&db, &[&Model::new("cli.left_out")], "run --once").await;
    let builder = || Worker::<DB>::builder(db.store.clone()).discover_group("cli.taken");
    let (_, text) = command(builder(), "status", ["n"]).await;
    assert!(
        text.contains("cli.left_out  running") && !text.contains("detached"),
        "{text}"
    );
    let (exit, text) = command(builder(), "forget cli.left_out --yes", ["n"]).await;
    assert_eq!(exit, Exit::Refused);
    assert!(text.contains("is in this program"), "{text}");
    let (_, text) = command(builder(), "run --once", ["n"]).await;
    assert!(!text.contains("detached"), "{text}");
    let (exit, _) = command(builder(), "forget cli.left_out --yes --force", ["n"]).await;
    assert_eq!(exit, Exit::Done);
}

async fn no_line_is_wider_than_80_columns<DB: TestDatabase>(db: Database<DB>) {
    let name = "a_read_model_of_28_letters_x";
    assert_eq!(name.len(), 28);
    let (first, second) = (parking(name), parking(name));
    for model in [&first, &second] {
        model.fail_on("an-aggregate-with-an-id-as-long-as-a-uuid", true);
    }
    let both = || {
        let mut other =
            Registered::<DB>::scoped(
                second
                    .clone()
                    .scope(&["User", "Organisation", "Invitation"]),
            );
        other.declaration.version = 2;
        Worker::<DB>::builder(db.store.clone())
            .consumer(first.clone())
            .registered(other)
    };
    db.append("User", ["an-aggregate-with-an-id-as-long-as-a-uuid"])
        .await;
    command(both(), "run --once", ["n"]).await;
    let far = "UPDATE events SET global_position = 12345678";
    db.execute(far).await;
    append_at::<DB>(&db.pool, 23_456_789).await;
    db.execute("UPDATE consumer_progress SET position = 12345678")
        .await;
    db.execute("UPDATE consumer_parked SET position = 12345678")
        .await;
    for line in [
        "status".to_owned(),
        "list".to_owned(),
        "frontier".to_owned(),
        format!("parked list {name} --of-version 1"),
    ] {
        let (_, text) = command(both(), &line, ["n"]).await;
        let widest = text
            .lines()
            .take_while(|line| !line.contains(": "))
            .map(|line| line.chars().count())
            .max();
        assert!(widest.unwrap_or(0) <= 80, "{line}:\n{text}");
        println!("{text}");
    }
}

async fn a_command_that_waits_too_long_for_others_is_refused<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    cli(&db, &[&users], "run --once").await;
    let held = held(&db).await;
    let (exit, text) = cli(&db, &[&users], "rebuild users --yes --wait 0").await;
    assert_eq!((exit, exit.code()), (Exit::Refused, 4), "{text}");
    assert!(text.contains("is processing a batch"), "{text}");
    held.rollback().await.unwrap();
}

/// SQLite itself waits for five seconds at most.
async fn a_command_waits_for_others_within_its_limit<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    cli(&db, &[&users], "run --once").await;
    let held = held(&db).await;
    let busy = Duration::from_secs(if DB::NAME == "SQLite" { 6 } else { 1 });
    let release = async {
        tokio::time::sleep(busy).await;
        held.rollback().await.unwrap();
    };
    let pause = async { cli(&db, &[&users], "pause users").await };
    let ((exit, text), ()) = tokio::join!(pause, release);
    assert_eq!((exit, text.as_str()), (Exit::Done, "users is paused\n"));
    cli(&db, &[&users], "resume users").await;
    let held = crate::held(&db).await;
    let release = async {
        tokio::time::sleep(busy).await;
        held.rollback().await.unwrap();
    };
    let rebuild = async { cli(&db, &[&users], "rebuild users --yes --wait 20").await };
    let ((exit, text), ()) = tokio::join!(rebuild, release);
    assert_eq!(exit, Exit::Done, "{text}");
}

async fn completions_name_every_command<DB: TestDatabase>(db: Database<DB>) {
    for shell in ["bash", "zsh", "fish"] {
        let (exit, text) = cli(
            &db,
            &[&Model::new("users")],
            &format!("completions {shell}"),
        )
        .await;
        assert_eq!(exit, Exit::Done);
        for command in [
            "run", "list", "status", "pause", "resume", "rebuild", "parked", "frontier", "forget",
            "migrate",
        ] {
            assert!(text.contains(command), "{shell}: {command}");
        }
    }
}

/// A transaction that holds the checkpoints, as a worker does during a batch.
async fn held<DB: TestDatabase>(
    db: &consumer_tests::Database<DB>,
) -> sqlx::Transaction<'static, DB> {
    let mut tx = db.store.begin().await.unwrap();
    let claim = "UPDATE consumer_progress SET updated_at = updated_at";
    DB::execute_sql(&mut tx, claim).await.unwrap();
    tx
}

#[tokio::test(flavor = "multi_thread")]
async fn frontier_names_the_transaction_that_blocks_it() {
    type Db = sqlx::Postgres;
    let db = consumer_tests::Database::<Db>::fresh().await;
    let slow = db.left_open("importer").await;
    db.append("User", ["fast"]).await;
    let (exit, text) = cli(&db, &[&Model::new("users")], "frontier").await;
    assert_eq!(exit, Exit::Done);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "the log is settled up to 0, its head is 2");
    assert!(
        lines[1].starts_with("the frontier waits at 0 for pid ")
            && lines[1].contains("(app=importer, open "),
        "{text}"
    );
    let (_, text) = cli(&db, &[&Model::new("users")], "frontier --json").await;
    assert!(text.contains("app=importer"), "{text}");
    slow.rollback().await.unwrap();
}

#[test]
fn the_help_of_every_command_fits_80_columns() {
    let commands = [
        "run",
        "list",
        "status",
        "pause",
        "resume",
        "park",
        "skip",
        "rebuild",
        "accept-scope",
        "activate",
        "merge",
        "parked",
        "parked list",
        "parked show",
        "parked retry",
        "parked skip",
        "frontier",
        "forget",
        "migrate",
        "completions",
    ];
    for command in commands {
        let line = format!("worker {command} --help");
        let help = Cli::try_parse_from(line.split(' '))
            .unwrap_err()
            .to_string();
        assert!(
            help.lines().all(|line| line.chars().count() <= 80),
            "{help}"
        );
    }
}

/// Consumers that a selection takes or leaves out.
#[derive(Default)]
struct Taken;

#[consumer::consumer(name = "cli.taken", group = "cli.taken")]
impl Taken {
    async fn handle(
        &self,
        _event: &consumer::PersistedEvent,
    ) -> Result<(), consumer::HandlerError> {
        Ok(())
    }
}

#[derive(Default)]
struct LeftOut;

#[consumer::consumer(name = "cli.left_out", group = "cli.other")]
impl LeftOut {
    async fn handle(
        &self,
        _event: &consumer::PersistedEvent,
    ) -> Result<(), consumer::HandlerError> {
        Ok(())
    }
}

/// Connections to the same database, too few for a worker.
async fn small_pool<DB: TestDatabase>(db: &consumer_tests::Database<DB>) -> Pool<DB> {
    let options = sqlx::pool::PoolOptions::<DB>::new().max_connections(2);
    options.connect(&db.url).await.unwrap()
}

/// Puts an event at the head of a log with many events.
async fn append_at<DB: TestDatabase>(pool: &Pool<DB>, position: i64) {
    let id = if DB::NAME == "SQLite" {
        "'00000000-0000-0000-0000-000000000001'"
    } else {
        "gen_random_uuid()"
    };
    let copy = format!(
        "INSERT INTO events (global_position, aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
         SELECT {position}, aggregate_type, aggregate_id, aggregate_version + 1, {id}, event_type, payload FROM events"
    );
    let mut connection = pool.acquire().await.unwrap();
    DB::execute_sql(&mut connection, &copy).await.unwrap();
    if DB::NAME != "SQLite" {
        let drawn = format!("SELECT setval('events_global_position_seq', {position})");
        DB::execute_sql(&mut connection, &drawn).await.unwrap();
    }
}

#[test]
fn the_help_names_the_exit_codes() {
    let help = Cli::try_parse_from(["worker", "--help"])
        .unwrap_err()
        .to_string();
    for line in ["0  success", "3  a consumer needs attention", "4  refused"] {
        assert!(help.contains(line), "{help}");
    }
    assert!(
        help.lines().all(|line| line.chars().count() <= 80),
        "{help}"
    );
}

#[test]
fn an_unknown_command_is_wrong_usage() {
    let error = Cli::try_parse_from(["worker", "stauts"]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("status"), "{error}");
}
