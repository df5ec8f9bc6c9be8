//! A program that was built with an earlier release, beside the library as it is now.

use std::process::{Command, Output};

use consumer::Formerly;
use consumer::admin::Admin;
use consumer_tests::{
    Database, Program, Running, TestDatabase, WorkerProcess, patiently, read_model, test_on, until,
};
use tokio::sync::OnceCell;

/// The first commit whose programs accept tables of a later version.
const EARLIER: &str = "9757989824684579e9722e5be8e803e54edfda17";

test_on!(
    [empty_sqlite, empty_postgres],
    a_deploy_that_migrates_first_runs_old_and_new_side_by_side,
    an_old_program_leaves_a_renamed_consumer_alone,
    an_old_program_refuses_tables_that_need_a_later_release
);

fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    output
}

/// The program, built once.
async fn program() -> Option<String> {
    static PROGRAM: OnceCell<Option<String>> = OnceCell::const_new();
    let built = PROGRAM.get_or_init(async || {
        let program = Program::of("earlier").with_library_of(EARLIER);
        let build = tokio::task::spawn_blocking(move || program.build(env!("CARGO_TARGET_TMPDIR")));
        build.await.unwrap()
    });
    built.await.clone()
}

async fn applied<DB: TestDatabase>(db: &Database<DB>) {
    until("every event is applied", async || {
        db.applied("users").await.len() == db.log().await.len()
    })
    .await;
    assert_eq!(db.applied("users").await, db.log().await);
}

async fn a_deploy_that_migrates_first_runs_old_and_new_side_by_side<DB: TestDatabase>(
    db: Database<DB>,
) {
    let Some(program) = program().await else {
        return;
    };
    run(Command::new(&program)
        .arg("migrate")
        .env("TEST_WORKER_URL", &db.url));
    db.execute(DB::CREATE_READ_MODEL).await;
    let old = WorkerProcess::of(&program, &db).start();
    db.append_many(5).await;
    applied(&db).await;

    // The deploy migrates, and is interrupted: the old process handles all.
    db.store.migrate().await.unwrap();
    db.execute("ALTER TABLE consumer_progress ADD COLUMN later INT NOT NULL DEFAULT 0; INSERT INTO consumer_schema (version) VALUES (1000)")
        .await;
    db.append_many(5).await;
    applied(&db).await;
    old.kill();
    let restarted = WorkerProcess::of(&program, &db).start();
    db.append_many(5).await;
    applied(&db).await;

    // It keeps running, and old and new share the consumer.
    let new = Running::start(db.worker().consumer(read_model("users")));
    for _ in 0..20 {
        db.append_many(5).await;
    }
    applied(&db).await;
    assert!(restarted.terminate());
    db.append_many(5).await;
    applied(&db).await;
    new.stop().await;
    // And back.
    let again = WorkerProcess::of(&program, &db).start();
    db.append_many(5).await;
    applied(&db).await;
    assert!(again.terminate());
}

async fn an_old_program_leaves_a_renamed_consumer_alone<DB: TestDatabase>(db: Database<DB>) {
    let Some(program) = program().await else {
        return;
    };
    db.store.migrate().await.unwrap();
    db.execute(DB::CREATE_READ_MODEL).await;
    let old = WorkerProcess::of(&program, &db).start();
    db.append_many(5).await;
    applied(&db).await;

    let both = async || {
        db.numbers("SELECT position FROM applied ORDER BY ordinal")
            .await
    };
    let accounts = read_model("accounts").formerly(Formerly::name("users"));
    let new = Running::start(db.worker().consumer(accounts));
    for _ in 0..10 {
        db.append_many(5).await;
    }
    let last = *db.log().await.last().unwrap();
    patiently("it takes over", new.caught_up_to(last))
        .await
        .unwrap();
    assert_eq!(both().await, db.log().await);
    // It runs on, and restarted it says why it does not.
    old.kill();
    let restarted = Command::new(&program)
        .env("TEST_WORKER_URL", &db.url)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&restarted.stderr);
    assert!(!restarted.status.success());
    assert!(
        errors.contains("renamed") && errors.contains("start-new"),
        "{errors}"
    );
    new.stop().await;

    let admin = Admin::new(db.store.clone());
    admin.rename("accounts", "users").await.unwrap();
    let back = WorkerProcess::of(&program, &db).start();
    db.append_many(5).await;
    until("every event is applied", async || {
        both().await.len() == db.log().await.len()
    })
    .await;
    assert_eq!(both().await, db.log().await);
    assert!(back.terminate());
}

async fn an_old_program_refuses_tables_that_need_a_later_release<DB: TestDatabase>(
    db: Database<DB>,
) {
    let Some(program) = program().await else {
        return;
    };
    db.store.migrate().await.unwrap();
    db.execute(DB::CREATE_READ_MODEL).await;
    let old = WorkerProcess::of(&program, &db).start();
    db.append_many(1).await;
    applied(&db).await;
    db.execute("INSERT INTO consumer_schema (version, needs) VALUES (1001, 1001)")
        .await;
    assert!(!old.ended(), "the running process ends with an error");
    let restarted = Command::new(&program)
        .env("TEST_WORKER_URL", &db.url)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&restarted.stderr);
    assert!(!restarted.status.success());
    assert!(errors.contains("knows version 1001 or later"), "{errors}");
    assert!(
        errors.contains("update the `consumer` crate of this program"),
        "{errors}"
    );
}
