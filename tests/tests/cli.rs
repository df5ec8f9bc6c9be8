//! What each verb of the command line prints and how it ends, on both databases.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use clap::Parser as _;
use consumer::cli::{Cli, Console, Exit};
use consumer::{
    Backend, EventStore, ExpectedVersion, NewEvent, OnError, Registered, Settings, Worker,
};
use consumer_tests::{MODEL, Model, on_both_databases};
use sqlx::{Executor, Pool};

async fn append<DB: Backend>(store: &EventStore<DB>, kind: &str, id: &str) -> i64 {
    let event = NewEvent::new(kind, id, "Happened", r#"{"what":"this"}"#);
    let stored = store
        .append_in_transaction(ExpectedVersion::Any, &[event])
        .await
        .unwrap();
    stored[0].global_position
}

async fn has_model<DB: Backend>(pool: &Pool<DB>)
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    let mut connection = pool.acquire().await.unwrap();
    (&mut *connection).execute(MODEL).await.unwrap();
}

/// Runs a command line, and answers what it asks; gives how it ended and what it printed.
macro_rules! cli {
    ($db:ident, [$($model:expr),*], $line:expr) => { cli!($db, [$($model),*], $line, "n") };
    ($db:ident, [$($model:expr),*], $line:expr, $answer:expr) => {{
        let builder = Worker::<Db>::builder($db.store.clone())$(.scoped_consumer($model.clone()))*;
        cli_of!(builder, $line, $answer)
    }};
}

macro_rules! cli_of {
    ($builder:expr, $line:expr) => {
        cli_of!($builder, $line, "n")
    };
    ($builder:expr, $line:expr, $answer:expr) => {{
        let console = Console::captured([$answer]);
        let line = format!("worker {}", $line);
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let exit = cli.run_on($builder, &console).await;
        (exit, console.text())
    }};
}

fn parking(name: &'static str) -> Model {
    Model::new(name).settings(Settings::default().retries(0).on_error(OnError::Park))
}

on_both_databases! {
    async fn run_once_reports_what_every_consumer_did(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        let (exit, text) = cli!(db, [Model::new("users"), Model::new("audit")], "run --once");
        assert_eq!(exit, Exit::Done);
        assert_eq!(text, "audit: caught up at 1, 1 events handled\nusers: caught up at 1, 1 events handled\n");
    }

    async fn run_only_and_run_group_run_a_part_and_refuse_names_that_nobody_has(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        let (exit, text) = cli!(db, [Model::new("users"), Model::new("audit")], "run --once --only users");
        assert_eq!((exit, text.as_str()), (Exit::Done, "users: caught up at 1, 1 events handled\n"));

        let (exit, text) = cli!(db, [Model::new("users")], "run --once --only user");
        assert_eq!(exit, Exit::Usage);
        assert_eq!(text, "error: there is no consumer `user` in this program; it has: users\n");

        let grouped = |group| {
            let mut registered = Registered::<Db>::new(Model::new("grouped"));
            registered.declaration.group = Some(group);
            Worker::<Db>::builder(db.store.clone()).consumer(Model::new("users")).registered(registered)
        };
        let (exit, text) = cli_of!(grouped("projections"), "run --once --group projections");
        assert_eq!((exit, text.as_str()), (Exit::Done, "grouped: caught up at 1, 1 events handled\n"));
        let (exit, text) = cli_of!(grouped("projections"), "run --once --group other");
        assert_eq!(exit, Exit::Usage);
        assert_eq!(text, "error: no consumer is in group `other`; there are: projections\n");
    }

    async fn run_ends_with_3_when_a_consumer_stopped(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "bad").await;
        let users = Model::new("users");
        users.fail_on("bad", true);
        let (exit, text) = cli!(db, [users], "run --once");
        assert_eq!((exit, exit.code()), (Exit::Unwell, 3));
        assert!(text.contains("stopped before event 1 (cannot handle bad)"), "{text}");
    }

    async fn list_shows_what_was_declared(db) {
        let (exit, text) = cli!(db, [Model::new("users").scope(&["User", "Team"]), parking("audit")], "list");
        assert_eq!(exit, Exit::Done);
        assert_eq!(text, "\
CONSUMER  V  GROUP  SCOPE        ON ERROR  DECLARED AT
audit     1  -      every event  park      by hand
users     1  -      User, Team   stop      by hand
");
    }

    async fn status_is_a_table_of_80_columns_and_tells_what_is_wrong(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "bad").await;
        let users = Model::new("users");
        users.fail_on("bad", true);
        cli!(db, [users, Model::new("gone"), parking("audit")], "run --once");
        let (exit, text) = cli!(db, [users, parking("audit"), Model::new("fresh")], "status");
        assert_eq!(exit, Exit::Unwell);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "CONSUMER  STATE     POSITION  LAG  BEHIND  PARKED");
        assert!(lines[1].starts_with("audit     running          1    0       -       -"), "{text}");
        assert!(lines[2].starts_with("fresh     new              -    1"), "{text}");
        assert!(lines[3].starts_with("gone      detached         1    0       -"), "{text}");
        assert!(lines[4].starts_with("users     stopped          0    1"), "{text}");
        assert!(text.contains("users stopped at event 1 (failed 1 times): cannot handle bad"), "{text}");
        assert!(text.ends_with("the log is settled up to its head, 1\n"), "{text}");
    }

    async fn status_as_json_has_every_field_of_the_table(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        cli!(db, [Model::new("users")], "run --once");
        let head = append(&db.store, "User", "b").await;
        let (exit, text) = cli!(db, [Model::new("users")], "status --json");
        assert_eq!(exit, Exit::Done);
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        let one = &status["consumers"][0];
        assert_eq!((&one["name"], &one["state"], &one["position"], &one["lag"]["events"]),
            (&"users".into(), &"running".into(), &1.into(), &1.into()));
        assert!(one["lag"]["seconds"].is_number());
        assert_eq!(status["frontier"]["head"], head);
    }

    async fn pause_and_resume_say_what_they_did(db) {
        has_model(&db.pool).await;
        cli!(db, [Model::new("users")], "run --once");
        let (exit, text) = cli!(db, [Model::new("users")], "pause users");
        assert_eq!((exit, text.as_str()), (Exit::Done, "users is paused\n"));
        let (_, text) = cli!(db, [Model::new("users")], "status");
        assert!(text.contains("users     paused"), "{text}");
        let (exit, text) = cli!(db, [Model::new("users")], "resume users");
        assert_eq!((exit, text.as_str()), (Exit::Done, "users goes on\n"));
        let (exit, text) = cli!(db, [Model::new("users")], "pause nobody");
        assert_eq!(exit, Exit::Usage);
        assert_eq!(text, "error: there is no consumer `nobody`; there are: users\n");
    }

    async fn rebuild_asks_and_then_shows_lines_of_json_until_it_is_done(db) {
        has_model(&db.pool).await;
        let users = Model::new("users");
        append(&db.store, "User", "a").await;
        cli!(db, [users], "run --once");
        let (exit, text) = cli!(db, [users], "rebuild users", "n");
        assert_eq!(exit, Exit::Refused);
        assert_eq!(text, "\
This empties users and replays its events up to 1. Go on? [y/N]
error: nothing was changed
");
        let (exit, text) = cli!(db, [users], "rebuild users", "y");
        assert_eq!(exit, Exit::Done, "{text}");
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((&last["handled"], &last["total"], &last["done"]), (&1.into(), &1.into(), &true.into()));
        assert_eq!(users.seen().len(), 2);
        assert!(users.seen()[1].is_replay);
    }

    async fn rebuild_goes_on_with_one_that_is_under_way(db) {
        has_model(&db.pool).await;
        let users = Model::new("users");
        append(&db.store, "User", "a").await;
        cli!(db, [users], "run --once");
        users.fail_on("a", true);
        let (exit, text) = cli!(db, [users], "rebuild users --yes");
        assert_eq!(exit, Exit::Unwell, "{text}");
        assert!(text.contains("users: the consumer stopped: cannot handle a"), "{text}");
        users.fail_on("a", false);
        let (exit, text) = cli!(db, [users], "rebuild users");
        assert_eq!(exit, Exit::Done, "{text}");
        assert!(text.starts_with("a rebuild is under way, 0 of 1 events: going on\n"), "{text}");
    }

    async fn rebuild_without_a_reset_says_what_to_do(db) {
        has_model(&db.pool).await;
        let users = Model::new("users").without_reset();
        append(&db.store, "User", "a").await;
        cli!(db, [users], "run --once");
        let (exit, text) = cli!(db, [users], "rebuild users --yes");
        assert_eq!(exit, Exit::Failed);
        assert!(text.contains("`#[on(reset)]`") && text.contains("`--without-reset`"), "{text}");
        let (exit, _) = cli!(db, [users], "rebuild users --yes --without-reset");
        assert_eq!(exit, Exit::Done);
    }

    async fn a_changed_scope_is_explained_and_accepted(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        cli!(db, [Model::new("users").scope(&["User"])], "run --once");
        let (exit, text) = cli!(db, [Model::new("users").scope(&["Team"])], "status");
        assert_eq!(exit, Exit::Unwell);
        assert!(text.contains("users     scope changed") && text.contains("`accept-scope`"), "{text}");
        let (exit, text) = cli!(db, [Model::new("users").scope(&["Team"])], "accept-scope users");
        assert_eq!((exit, text.as_str()), (Exit::Done, "users goes on with the scope of the code\n"));
    }

    async fn parked_events_are_listed_shown_retried_and_skipped(db) {
        has_model(&db.pool).await;
        let users = parking("users");
        users.fail_on("bad", true);
        for id in ["bad", "bad"] {
            append(&db.store, "User", id).await;
        }
        let (_, text) = cli!(db, [users], "run --once");
        assert!(text.starts_with("users: caught up at 2"), "{text}");
        let (exit, text) = cli!(db, [users], "parked list users");
        assert_eq!(exit, Exit::Done);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].split_whitespace().collect::<Vec<_>>(), ["POSITION", "AGGREGATE", "FAILED", "PARKED", "WHY"]);
        assert!(lines[1].trim_start().starts_with("1  User bad        1") && lines[1].ends_with("cannot handle bad"), "{text}");
        assert!(lines[2].ends_with("waits behind an earlier event"), "{text}");

        let (exit, text) = cli!(db, [users], "parked show users 1");
        assert_eq!(exit, Exit::Done);
        assert!(text.contains("aggregate   User bad\n") && text.contains(r#"payload     {"what":"this"}"#), "{text}");

        let (exit, text) = cli!(db, [users], "parked retry users");
        assert_eq!(exit, Exit::Unwell);
        assert_eq!(text, "event 1 failed again, so its aggregate stays parked: cannot handle bad\n0 events handled\n");

        let (exit, _) = cli!(db, [users], "parked skip users 1", "n");
        assert_eq!(exit, Exit::Refused);
        let (exit, text) = cli!(db, [users], "parked skip users 1 --yes");
        assert_eq!(exit, Exit::Done);
        assert_eq!(text, "event 1 is skipped\n1 event of its aggregate still parked: `parked retry users` handles what is left\n");

        users.fail_on("bad", false);
        let (exit, text) = cli!(db, [users], "parked retry users 2");
        assert_eq!((exit, text.as_str()), (Exit::Done, "1 event handled\n"));
        let (_, text) = cli!(db, [users], "parked list users");
        assert_eq!(text, "no event is parked\n");
    }

    async fn frontier_says_how_far_the_log_is_settled(db) {
        append(&db.store, "User", "a").await;
        let (exit, text) = cli!(db, [Model::new("users")], "frontier");
        assert_eq!((exit, text.as_str()), (Exit::Done, "the log is settled up to its head, 1\n"));
        let (_, text) = cli!(db, [Model::new("users")], "frontier --json");
        let frontier: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(frontier["settled"], 1);
    }

    async fn forget_asks_and_refuses_what_is_in_use(db) {
        has_model(&db.pool).await;
        cli!(db, [Model::new("old")], "run --once");
        let (exit, text) = cli!(db, [Model::new("old")], "forget old --yes");
        assert_eq!(exit, Exit::Failed);
        assert!(text.contains("is in this program"), "{text}");
        let (exit, _) = cli!(db, [Model::new("new")], "forget old", "n");
        assert_eq!(exit, Exit::Refused);
        let (exit, text) = cli!(db, [Model::new("new")], "forget old --yes");
        assert_eq!((exit, text.as_str()), (Exit::Done, "old is forgotten\n"));
    }

    async fn activate_switches_versions_once_the_new_one_has_caught_up(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        cli!(db, [Model::new("users")], "run --once");
        let both = || {
            let mut second = Registered::<Db>::new(Model::new("users"));
            second.declaration.version = 2;
            Worker::<Db>::builder(db.store.clone()).consumer(Model::new("users")).registered(second)
        };
        cli_of!(both(), "run --once");
        let (_, text) = cli_of!(both(), "status");
        assert!(text.contains("users v1 (active)") && text.contains("\nusers v2 "), "{text}");
        let (exit, text) = cli_of!(both(), "activate users 2");
        assert_eq!((exit, text.as_str()), (Exit::Done, "users: version 2 serves now\n"));
        let (_, text) = cli_of!(both(), "status");
        assert!(text.contains("users v2 (active)"), "{text}");
    }

    async fn migrate_prints_the_sql_or_runs_it(db) {
        let (exit, text) = cli!(db, [Model::new("users")], "migrate --print");
        assert_eq!(exit, Exit::Done);
        assert!(text.contains("CREATE TABLE IF NOT EXISTS"), "{text}");
        let (exit, text) = cli!(db, [Model::new("users")], "migrate");
        assert_eq!((exit, text.as_str()), (Exit::Done, "the tables are up to date\n"));
    }

    async fn without_tables_status_says_to_migrate(db) {
        let empty = consumer_tests::Database::<Db>::empty().await;
        drop(db);
        let (exit, text) = cli!(empty, [Model::new("users")], "status");
        assert_eq!(exit, Exit::Failed);
        assert!(text.contains("call `migrate()`"), "{text}");
    }

    async fn completions_name_every_verb(db) {
        for shell in ["bash", "zsh", "fish"] {
            let (exit, text) = cli!(db, [Model::new("users")], format!("completions {shell}"));
            assert_eq!(exit, Exit::Done);
            for verb in ["run", "list", "status", "pause", "resume", "rebuild", "parked", "frontier", "forget", "migrate"] {
                assert!(text.contains(verb), "{shell}: {verb}");
            }
        }
    }
}

#[test]
fn the_help_names_the_exit_codes() {
    let help = Cli::try_parse_from(["worker", "--help"])
        .unwrap_err()
        .to_string();
    for line in ["0  it is done", "3  a consumer is not well", "4  refused"] {
        assert!(help.contains(line), "{help}");
    }
    assert!(
        help.lines().all(|line| line.chars().count() <= 80),
        "{help}"
    );
}

#[test]
fn a_verb_that_there_is_not_is_wrong_usage() {
    let error = Cli::try_parse_from(["worker", "stauts"]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("status"), "{error}");
}
