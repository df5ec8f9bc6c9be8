//! Commands that could lose something ask for it by name, on both databases.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use clap::Parser as _;
use consumer::admin::{AdminError, ForgetOptions};
use consumer::cli::{Cli, Console, Exit};
use consumer::{ExpectedVersion, NewEvent, OnError, Settings, Worker, WorkerBuilder};
use consumer_tests::{Database, MODEL, Model, TestBackend, on_both_databases};

async fn has_events<DB: TestBackend>(db: &Database<DB>, ids: &[&str]) {
    let mut connection = db.pool.acquire().await.unwrap();
    DB::execute(&mut connection, MODEL).await.unwrap();
    for id in ids {
        let event = [NewEvent::new("User", *id, "Happened", "{}")];
        db.store.append(ExpectedVersion::Any, &event).await.unwrap();
    }
}

fn parking(name: &'static str) -> Model {
    let users = Model::new(name).settings(Settings::default().retries(0).on_error(OnError::Park));
    users.fail_on("bad", true);
    users
}

async fn cli<DB: TestBackend>(
    builder: WorkerBuilder<DB>,
    line: &str,
    answer: &str,
) -> (Exit, String) {
    let console = Console::captured([answer]);
    let cli = Cli::try_parse_from(format!("worker {line}").split(' ')).unwrap();
    (cli.run_on(builder, &console).await, console.text())
}

macro_rules! worker {
    ($db:ident, $model:expr) => {
        Worker::<Db>::builder($db.store.clone()).consumer($model.clone())
    };
}

on_both_databases! {
    async fn forget_keeps_parked_events_unless_told_to_discard_them(db) {
        has_events(&db, &["bad", "bad"]).await;
        worker!(db, parking("old")).build().unwrap().run_once().await.unwrap();
        let admin = worker!(db, Model::new("new")).admin().unwrap();
        let refused = admin.forget("old", ForgetOptions::new().force()).await.unwrap_err();
        assert!(matches!(refused, AdminError::WouldDiscard { parked: 2, .. }), "{refused}");
        assert_eq!(admin.parked("old").await.unwrap().len(), 2);
        admin.forget("old", ForgetOptions::new().discard_parked()).await.unwrap();
        assert_eq!(db.numbers("SELECT count(*) FROM consumer_parked").await, [0]);
    }

    async fn the_command_forget_asks_with_the_number_of_parked_events(db) {
        has_events(&db, &["bad", "bad"]).await;
        worker!(db, parking("old")).build().unwrap().run_once().await.unwrap();
        let other = || worker!(db, Model::new("new"));
        let (exit, text) = cli(other(), "forget old --yes", "").await;
        assert_eq!(exit, Exit::Refused);
        assert!(text.contains("has 2 parked events") && text.contains("`--discard-parked`"), "{text}");
        let (exit, text) = cli(other(), "forget old --discard-parked", "n").await;
        assert_eq!(exit, Exit::Refused);
        assert!(text.starts_with("This removes the checkpoint of old and discards 2 parked events. Continue?"), "{text}");
        let (exit, text) = cli(other(), "forget old --discard-parked", "y").await;
        assert_eq!(exit, Exit::Done, "{text}");
    }

    async fn a_rebuild_of_a_consumer_that_never_ran_says_so(db) {
        has_events(&db, &["good"]).await;
        let (exit, text) = cli(worker!(db, Model::new("users")), "rebuild users --yes", "").await;
        assert_eq!(exit, Exit::Refused, "{text}");
        assert_eq!(text, "error: consumer `users` has not handled any event yet, so there is nothing to rebuild; `run` starts it\n");
        assert_eq!(db.numbers("SELECT count(*) FROM consumer_progress").await, [0]);
    }

    async fn a_rebuild_of_a_consumer_paused_before_its_first_event_says_so(db) {
        has_events(&db, &["good"]).await;
        let users = || worker!(db, Model::new("users"));
        users().admin().unwrap().pause("users").await.unwrap();
        let (exit, text) = cli(users(), "rebuild users --yes", "").await;
        assert_eq!(exit, Exit::Refused, "{text}");
        assert!(text.contains("has not handled any event yet"), "{text}");
    }
}
