//! What each verb of the command line prints and how it ends, on both databases.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::time::Duration;

use clap::Parser as _;
use consumer::cli::{Cli, Console, Exit};
use consumer::{
    Backend, EventStore, ExpectedVersion, NewEvent, OnError, Registered, Settings, Worker,
};
use consumer_tests::{MODEL, Model, Running, TestBackend, on_both_databases};
use sqlx::{Database as _, Executor, Pool};

async fn append<DB: Backend>(store: &EventStore<DB>, kind: &str, id: &str) -> i64 {
    let event = NewEvent::new(kind, id, "Happened", r#"{"what":"this"}"#);
    let stored = store.append(ExpectedVersion::Any, &[event]).await.unwrap();
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
        assert_eq!(text, "audit: caught up at 1, 1 event handled\nusers: caught up at 1, 1 event handled\n");
    }

    async fn run_only_and_run_group_run_a_part_and_refuse_names_that_nobody_has(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        let (exit, text) = cli!(db, [Model::new("users"), Model::new("audit")], "run --once --only users");
        assert_eq!((exit, text.as_str()), (Exit::Done, "users: caught up at 1, 1 event handled\n"));

        let (exit, text) = cli!(db, [Model::new("users")], "run --once --only user");
        assert_eq!(exit, Exit::Usage);
        assert_eq!(text, "error: there is no consumer `user` in this program; it has: users\n");

        let grouped = |group| {
            let mut registered = Registered::<Db>::new(Model::new("grouped"));
            registered.declaration.group = Some(group);
            Worker::<Db>::builder(db.store.clone()).consumer(Model::new("users")).registered(registered)
        };
        let (exit, text) = cli_of!(grouped("projections"), "run --once --group projections");
        assert_eq!((exit, text.as_str()), (Exit::Done, "grouped: caught up at 1, 1 event handled\n"));
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
        assert!(text.contains("users stopped at event 1 (failed 1 time): cannot handle bad"), "{text}");
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
        let (exit, text) = cli!(db, [Model::new("users")], "pause users --of-version 2");
        assert_eq!(exit, Exit::Usage);
        assert_eq!(text, "error: consumer `users` has no version 2; it has 1\n");
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
        let (exit, text) = cli!(db, [users], "rebuild users", "y");
        assert_eq!(exit, Exit::Refused);
        assert!(!text.contains("[y/N]"), "asks for what it would refuse: {text}");
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

    async fn segments_are_merged_while_a_worker_runs_them(db) {
        has_model(&db.pool).await;
        let users = Model::new("users");
        append(&db.store, "User", "a").await;
        let run = |segments: u32| {
            let builder = consumer::Worker::builder(db.store.clone()).consumer(users.clone());
            builder.configure_all(move |settings| settings.segments(segments))
        };
        run(4).build().unwrap().run_once().await.unwrap();
        let worker = consumer_tests::Running::start(run(1));
        let merged = consumer_tests::patiently("they are merged", async {
            cli!(db, [users], "merge users --segments 2")
        });
        assert_eq!(merged.await, (Exit::Done, "users has 2 segments\n".to_owned()));
        worker.stop().await;
        let (exit, text) = cli!(db, [users], "merge nobody --segments 2");
        assert_eq!(exit, Exit::Usage, "{text}");
        let (exit, text) = cli!(db, [users], "merge users --segments 2");
        assert_eq!((exit, text.as_str()), (Exit::Done, "users has 2 segments\n"));
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
        assert_eq!(exit, Exit::Refused);
        assert!(text.contains("is in this program") && text.contains("`--force`"), "{text}");
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

    async fn pause_of_a_consumer_that_no_worker_ever_ran_keeps_it_from_beginning(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        let users = Model::new("users");
        let (exit, text) = cli!(db, [users], "resume users");
        assert_eq!((exit, text.as_str()), (Exit::Refused, "error: consumer `users`, version 1, has no checkpoint yet: no worker ever ran it\n"));
        let (exit, text) = cli!(db, [users], "pause users");
        assert_eq!((exit, text.as_str()), (Exit::Done, "users is paused\n"));
        let (exit, text) = cli!(db, [users], "run --once");
        assert_eq!(text, "users: paused, 0 events handled\n");
        assert_eq!(exit, Exit::Done, "an operator wanted it so");
        let (exit, _) = cli!(db, [users], "status");
        assert_eq!(exit, Exit::Done);
        cli!(db, [users], "resume users");
        let (_, text) = cli!(db, [users], "run --once");
        assert_eq!(text, "users: caught up at 1, 1 event handled\n");
    }

    async fn a_resumed_consumer_shows_no_error_that_was(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "bad").await;
        let users = Model::new("users");
        users.fail_on("bad", true);
        cli!(db, [users], "run --once");
        let (_, text) = cli!(db, [users], "pause users");
        assert_eq!(text, "users is paused\n");
        let (_, text) = cli!(db, [users], "status");
        assert!(text.contains("users paused at event 1 (failed 1 time): cannot handle bad"), "{text}");
        cli!(db, [users], "resume users");
        let (_, text) = cli!(db, [users], "status");
        assert!(!text.contains("cannot handle bad") && !text.contains("failed"), "{text}");
    }

    async fn rebuild_takes_the_scope_of_the_code_and_says_so(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        append(&db.store, "Team", "t").await;
        cli!(db, [Model::new("users").scope(&["User"])], "run --once");
        let wider = Model::new("users").scope(&["Team", "User"]);
        let (exit, text) = cli!(db, [wider], "rebuild users", "n");
        assert_eq!(exit, Exit::Refused);
        assert!(text.starts_with("This empties users, takes the scope of the code and replays its events up to 2. Go on?"), "{text}");
        let (exit, text) = cli!(db, [wider], "rebuild users --yes");
        assert_eq!(exit, Exit::Done, "{text}");
        assert_eq!(wider.seen().len(), 2);
        // A rebuild whose scope changes half-way begins anew as well, and does not wait for ever.
        wider.fail_on("t", true);
        cli!(db, [wider], "rebuild users --yes");
        let other = wider.clone().scope(&["User"]);
        let (exit, text) = cli!(db, [other], "rebuild users --yes");
        assert_eq!(exit, Exit::Done, "{text}");
        assert!(!text.contains("under way"), "{text}");
    }

    async fn rebuild_on_a_scope_that_the_code_does_not_have_any_more_says_so_and_ends(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        let users = Model::new("users");
        cli!(db, [users], "run --once");
        users.fail_on("a", true);
        cli!(db, [users], "rebuild users --yes");
        cli!(db, [users], "resume users");
        let (exit, text) = cli!(db, [users.clone().scope(&["User"])], "rebuild users --watch");
        assert_eq!(exit, Exit::Unwell);
        assert!(text.contains("users: the scope in the code is not the one"), "{text}");
    }

    async fn rebuild_of_one_version_leaves_the_other_as_it_is(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        append(&db.store, "User", "b").await;
        let (first, second) = (Model::new("users"), Model::new("users"));
        cli!(db, [first], "run --once");
        let both = || {
            let mut other = Registered::<Db>::new(second.clone());
            other.declaration.version = 2;
            Worker::<Db>::builder(db.store.clone()).consumer(first.clone()).registered(other)
        };
        // It has never run: it catches up beside the one that serves, whose effects it does not repeat.
        let (exit, text) = cli_of!(both(), "rebuild users --of-version 2");
        assert_eq!(exit, Exit::Done, "{text}");
        let lines: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!((&lines[0]["version"], &lines[0]["total"]), (&2.into(), &2.into()));
        assert_eq!(lines.last().unwrap()["done"], true);
        assert!(text.ends_with("another version serves: `activate users 2` makes it this one\n"), "{text}");
        let replays: Vec<_> = second.seen().iter().map(|seen| (seen.version, seen.is_replay)).collect();
        assert_eq!(replays, [(2, true), (2, true)]);
        assert_eq!(first.seen().len(), 2);

        let (exit, text) = cli_of!(both(), "rebuild users --yes");
        assert_eq!(exit, Exit::Usage);
        assert!(text.contains("`--of-version`"), "{text}");
        let (exit, text) = cli_of!(both(), "rebuild users --of-version 1", "y");
        assert_eq!(exit, Exit::Done, "{text}");
        assert!(text.starts_with("This empties users v1 and replays its events up to 2. Go on? [y/N]\n"), "{text}");
        assert_eq!((first.seen().len(), second.seen().len()), (4, 2));
        for line in ["pause users --of-version 2", "resume users --of-version 2"] {
            let (exit, text) = cli_of!(both(), line);
            assert!(exit == Exit::Done && text.starts_with("users v2 "), "{text}");
        }
        let (exit, text) = cli_of!(both(), "forget users --of-version 2 --force", "y");
        assert_eq!(exit, Exit::Done, "{text}");
        assert!(text.starts_with("This removes the checkpoint of users v2 "), "{text}");
    }

    async fn rebuild_can_be_restarted_left_to_others_and_watched(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        let users = Model::new("users");
        cli!(db, [users], "run --once");
        let (exit, text) = cli!(db, [users], "rebuild users --watch");
        assert_eq!(exit, Exit::Done, "nothing is under way: {text}");
        users.fail_on("a", true);
        cli!(db, [users], "rebuild users --yes");
        users.fail_on("a", false);
        let worker = Worker::<Db>::builder(db.store.clone()).consumer(users.clone())
            .snapshot_interval(Duration::from_millis(5));
        let elsewhere = Running::start(worker);
        elsewhere.caught_up().await.unwrap();
        let (exit, text) = cli!(db, [users], "rebuild users --no-run --yes");
        assert_eq!(exit, Exit::Done, "{text}");
        elsewhere.stop().await;
        let handled = users.seen().len();

        users.fail_on("a", true);
        cli!(db, [users], "rebuild users --yes");
        users.fail_on("a", false);
        let (exit, text) = cli!(db, [users], "rebuild users --restart --wait 1", "n");
        assert_eq!(exit, Exit::Refused, "{text}");
        let (exit, text) = cli!(db, [users], "rebuild users --restart --wait 1", "y");
        assert_eq!(exit, Exit::Done, "{text}");
        assert!(!text.contains("under way"), "{text}");
        assert_eq!(users.seen().len(), handled + 2);
    }

    async fn rebuild_gives_up_parked_events_only_when_that_is_said(db) {
        has_model(&db.pool).await;
        let users = parking("users");
        users.fail_on("bad", true);
        append(&db.store, "User", "bad").await;
        cli!(db, [users], "run --once");
        users.fail_on("bad", false);
        let (exit, text) = cli!(db, [users], "rebuild users", "y");
        assert_eq!(exit, Exit::Refused);
        assert!(text.starts_with("error: consumer `users` has parked 1 events") && text.contains("`--discard-parked`"), "{text}");
        let (exit, text) = cli!(db, [users], "rebuild users --discard-parked", "y");
        assert_eq!(exit, Exit::Done, "{text}");
        assert!(text.starts_with("This empties users, gives up 1 event that it has parked and replays its events up to 1. Go on?"), "{text}");
    }

    async fn rebuild_empties_nothing_when_no_worker_could_fill_it_again(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        let users = Model::new("users");
        cli!(db, [users], "run --once");
        let small = EventStore::<Db>::new(small_pool(&db).await);
        let builder = Worker::builder(small).consumer(users.clone());
        let (exit, text) = cli_of!(builder, "rebuild users --yes");
        assert_eq!(exit, Exit::Failed);
        assert!(text.contains("raise `max_connections`"), "{text}");
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM model").fetch_one(&db.pool).await.unwrap();
        assert_eq!(rows, 1);
    }

    async fn questions_are_not_asked_about_what_is_not_there(db) {
        has_model(&db.pool).await;
        cli!(db, [Model::new("users")], "run --once");
        for line in ["forget nobody", "parked skip nobody 1", "parked skip users 1", "rebuild nobody"] {
            let (exit, text) = cli!(db, [Model::new("users")], line, "y");
            assert_eq!(exit, Exit::Usage, "{text}");
            assert!(!text.contains("[y/N]"), "{line}: {text}");
        }
    }

    async fn activate_refuses_a_version_that_is_behind_or_has_parked_events_unless_forced(db) {
        has_model(&db.pool).await;
        let first = Model::new("users");
        append(&db.store, "User", "bad").await;
        cli!(db, [first], "run --once");
        let second = parking("users");
        second.fail_on("bad", true);
        let both = || {
            let mut other = Registered::<Db>::new(second.clone());
            other.declaration.version = 2;
            Worker::<Db>::builder(db.store.clone()).consumer(first.clone()).registered(other)
        };
        cli_of!(both(), "run --once");
        let (exit, text) = cli_of!(both(), "activate users 2");
        assert_eq!(exit, Exit::Refused);
        assert!(text.contains("has parked 1 events") && text.contains("`--force`"), "{text}");
        append(&db.store, "User", "c").await;
        let (exit, text) = cli_of!(both(), "activate users 2");
        assert_eq!(exit, Exit::Refused);
        assert!(text.contains("is 1 events behind") && text.contains("`--force`"), "{text}");
        let (exit, text) = cli_of!(both(), "activate users 2 --force");
        assert_eq!((exit, text.as_str()), (Exit::Done, "users: version 2 serves now\n"));
    }

    async fn in_a_program_of_the_new_version_the_old_one_is_another_version(db) {
        has_model(&db.pool).await;
        append(&db.store, "User", "a").await;
        cli!(db, [Model::new("users")], "run --once");
        let mut second = Registered::<Db>::new(Model::new("users"));
        second.declaration.version = 2;
        let builder = Worker::<Db>::builder(db.store.clone()).registered(second);
        let (exit, text) = cli_of!(builder, "status");
        assert_eq!(exit, Exit::Done);
        assert!(text.contains("users v1 (active)  other version"), "{text}");
    }

    async fn parked_events_as_json_have_every_field(db) {
        has_model(&db.pool).await;
        let users = parking("users");
        users.fail_on("bad", true);
        append(&db.store, "User", "bad").await;
        cli!(db, [users], "run --once");
        let (exit, text) = cli!(db, [users], "parked list users --json");
        assert_eq!(exit, Exit::Done);
        let parked: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&parked[0]["position"], &parked[0]["aggregate_id"], &parked[0]["attempts"], &parked[0]["error"]),
            (&1.into(), &"bad".into(), &1.into(), &"cannot handle bad".into()));
        assert!(parked[0]["parked_seconds"].is_number());
    }

    async fn a_group_leaves_the_checkpoints_of_the_others_attached(db) {
        has_model(&db.pool).await;
        cli!(db, [Model::new("cli.left_out")], "run --once");
        let builder = || Worker::<Db>::builder(db.store.clone()).discover_group("cli.taken");
        let (_, text) = cli_of!(builder(), "status");
        assert!(text.contains("cli.left_out  running") && !text.contains("detached"), "{text}");
        let (exit, text) = cli_of!(builder(), "forget cli.left_out --yes");
        assert_eq!(exit, Exit::Refused);
        assert!(text.contains("is in this program"), "{text}");
        let (_, text) = cli_of!(builder(), "run --once");
        assert!(!text.contains("detached"), "{text}");
        let (exit, _) = cli_of!(builder(), "forget cli.left_out --yes --force");
        assert_eq!(exit, Exit::Done);
    }

    async fn no_line_is_wider_than_80_columns(db) {
        has_model(&db.pool).await;
        let name = "a_read_model_of_28_letters_x";
        assert_eq!(name.len(), 28);
        let (first, second) = (parking(name), parking(name));
        for model in [&first, &second] {
            model.fail_on("an-aggregate-with-an-id-as-long-as-a-uuid", true);
        }
        let both = || {
            let mut other = Registered::<Db>::scoped(second.clone().scope(&["User", "Organisation", "Invitation"]));
            other.declaration.version = 2;
            Worker::<Db>::builder(db.store.clone()).consumer(first.clone()).registered(other)
        };
        append(&db.store, "User", "an-aggregate-with-an-id-as-long-as-a-uuid").await;
        cli_of!(both(), "run --once");
        let far = "UPDATE events SET global_position = 12345678";
        sqlx::query(far).execute(&db.pool).await.unwrap();
        append_at::<Db>(&db.pool, 23_456_789).await;
        sqlx::query("UPDATE consumer_progress SET position = 12345678").execute(&db.pool).await.unwrap();
        sqlx::query("UPDATE consumer_parked SET position = 12345678").execute(&db.pool).await.unwrap();
        for line in ["status".to_owned(), "list".to_owned(), "frontier".to_owned(), format!("parked list {name} --of-version 1")] {
            let (_, text) = cli_of!(both(), line);
            let widest = text.lines().take_while(|line| !line.contains(": ")).map(|line| line.chars().count()).max();
            assert!(widest.unwrap_or(0) <= 80, "{line}:\n{text}");
            println!("{text}");
        }
    }

    async fn a_verb_that_others_keep_waiting_is_refused_when_its_time_is_over(db) {
        has_model(&db.pool).await;
        let users = Model::new("users");
        cli!(db, [users], "run --once");
        let held = held(&db).await;
        let (exit, text) = cli!(db, [users], "rebuild users --yes --wait 0");
        assert_eq!((exit, exit.code()), (Exit::Refused, 4), "{text}");
        assert!(text.contains("at hand right now"), "{text}");
        held.rollback().await.unwrap();
    }

    /// SQLite itself waits for five seconds only.
    async fn a_verb_waits_for_others_as_long_as_it_may(db) {
        has_model(&db.pool).await;
        let users = Model::new("users");
        cli!(db, [users], "run --once");
        let held = held(&db).await;
        let busy = Duration::from_secs(if Db::NAME == "SQLite" { 6 } else { 1 });
        let release = async {
            tokio::time::sleep(busy).await;
            held.rollback().await.unwrap();
        };
        let pause = async { cli!(db, [users], "pause users") };
        let ((exit, text), ()) = tokio::join!(pause, release);
        assert_eq!((exit, text.as_str()), (Exit::Done, "users is paused\n"));
        cli!(db, [users], "resume users");
        let held = crate::held(&db).await;
        let release = async {
            tokio::time::sleep(busy).await;
            held.rollback().await.unwrap();
        };
        let rebuild = async { cli!(db, [users], "rebuild users --yes --wait 20") };
        let ((exit, text), ()) = tokio::join!(rebuild, release);
        assert_eq!(exit, Exit::Done, "{text}");
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

/// A transaction that has the checkpoints, as a worker in the middle of a batch does.
async fn held<DB: TestBackend>(
    db: &consumer_tests::Database<DB>,
) -> sqlx::Transaction<'static, DB> {
    let mut tx = db.store.begin().await.unwrap();
    let claim = "UPDATE consumer_progress SET updated_at = updated_at";
    DB::execute(&mut tx, claim).await.unwrap();
    tx
}

#[tokio::test(flavor = "multi_thread")]
async fn frontier_names_the_transaction_that_keeps_it() {
    type Db = sqlx::Postgres;
    let db = consumer_tests::Database::<Db>::fresh().await;
    let mut slow = db.store.begin().await.unwrap();
    sqlx::query("SET LOCAL application_name = 'importer'")
        .execute(&mut *slow)
        .await
        .unwrap();
    let event = NewEvent::new("User", "slow", "Happened", "{}");
    db.store
        .append_in(&mut slow, ExpectedVersion::Any, &[event])
        .await
        .unwrap();
    append(&db.store, "User", "fast").await;
    let (exit, text) = cli!(db, [Model::new("users")], "frontier");
    assert_eq!(exit, Exit::Done);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "the log is settled up to 0, its head is 2");
    assert!(
        lines[1].starts_with("frontier waits at 0 for pid ")
            && lines[1].contains("(app=importer, open "),
        "{text}"
    );
    let (_, text) = cli!(db, [Model::new("users")], "frontier --json");
    assert!(text.contains("app=importer"), "{text}");
    slow.rollback().await.unwrap();
}

#[test]
fn the_help_of_every_verb_fits_80_columns() {
    let verbs = [
        "run",
        "list",
        "status",
        "pause",
        "resume",
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
    for verb in verbs {
        let line = format!("worker {verb} --help");
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
async fn small_pool<DB: TestBackend>(db: &consumer_tests::Database<DB>) -> Pool<DB> {
    let options = sqlx::pool::PoolOptions::<DB>::new().max_connections(2);
    options.connect(&db.url).await.unwrap()
}

/// Puts an event where a log that has been written to for years has its head.
async fn append_at<DB: TestBackend>(pool: &Pool<DB>, position: i64) {
    let copy = format!(
        "INSERT INTO events (global_position, aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
         SELECT {position}, aggregate_type, aggregate_id, aggregate_version + 1, {}, event_type, payload FROM events",
        if DB::NAME == "SQLite" { "'00000000-0000-0000-0000-000000000001'" } else { "gen_random_uuid()" },
    );
    let mut connection = pool.acquire().await.unwrap();
    DB::execute(&mut connection, &copy).await.unwrap();
    if DB::NAME != "SQLite" {
        let drawn = format!("SELECT setval('events_global_position_seq', {position})");
        DB::execute(&mut connection, &drawn).await.unwrap();
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
