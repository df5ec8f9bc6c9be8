//! Commands that could lose something ask for it by name, on both databases.

use consumer::admin::{AdminError, ForgetOptions};
use consumer::cli::Exit;
use consumer::{OnError, Settings};
use consumer_tests::{Database, Model, TestDatabase, command, run_once, test_on};

/// Runs a command of a program with this consumer, with this answer to its question.
async fn answering<DB: TestDatabase>(
    db: &Database<DB>,
    model: &Model,
    line: &str,
    answer: &str,
) -> (Exit, String) {
    command(model.worker(db), line, [answer]).await
}

/// Makes the consumer `old` park two events.
async fn park_two<DB: TestDatabase>(db: &Database<DB>) {
    let old = Model::new("old").settings(Settings::default().retries(0).on_error(OnError::Park));
    old.fail_on("bad", true);
    db.append("User", ["bad", "bad"]).await;
    run_once(old.worker(db)).await;
}

test_on!(
    [sqlite, postgres],
    forget_keeps_parked_events_unless_told_to_discard_them,
    the_command_forget_asks_with_the_number_of_parked_events,
    a_rebuild_of_a_consumer_that_never_ran_says_so,
    a_rebuild_of_a_consumer_paused_before_it_ran_says_so
);

async fn forget_keeps_parked_events_unless_told_to_discard_them<DB: TestDatabase>(
    db: Database<DB>,
) {
    park_two(&db).await;
    let admin = Model::new("new").worker(&db).admin().unwrap();
    let refused = admin
        .forget("old", ForgetOptions::new().force())
        .await
        .unwrap_err();
    assert!(
        matches!(refused, AdminError::WouldDiscard { parked: 2, .. }),
        "{refused}"
    );
    assert_eq!(admin.parked("old").await.unwrap().len(), 2);
    let discarding = ForgetOptions::new().discard_parked();
    admin.forget("old", discarding).await.unwrap();
    assert_eq!(db.number("SELECT count(*) FROM consumer_parked").await, 0);
}

async fn the_command_forget_asks_with_the_number_of_parked_events<DB: TestDatabase>(
    db: Database<DB>,
) {
    park_two(&db).await;
    let new = Model::new("new");
    let (exit, text) = answering(&db, &new, "forget old --yes", "n").await;
    assert_eq!(exit, Exit::Refused);
    assert!(
        text.contains("has 2 parked events") && text.contains("`--discard-parked`"),
        "{text}"
    );
    let discard = "forget old --discard-parked";
    let (exit, text) = answering(&db, &new, discard, "n").await;
    assert_eq!(exit, Exit::Refused);
    let question =
        "This removes the checkpoint of old and discards 2 parked events. Continue? [y/N]";
    assert!(text.starts_with(question), "{text}");
    let (exit, text) = answering(&db, &new, discard, "y").await;
    assert_eq!(exit, Exit::Done, "{text}");
}

async fn a_rebuild_of_a_consumer_that_never_ran_says_so<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["good"]).await;
    let (exit, text) = answering(&db, &Model::new("users"), "rebuild users --yes", "n").await;
    assert_eq!(exit, Exit::Refused, "{text}");
    assert_eq!(
        text,
        "error: consumer `users` has not handled any event yet, so there is nothing to rebuild; \
         `run` starts it\n"
    );
    assert_eq!(db.number("SELECT count(*) FROM consumer_progress").await, 0);
}

async fn a_rebuild_of_a_consumer_paused_before_it_ran_says_so<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["good"]).await;
    let users = Model::new("users");
    let admin = users.worker(&db).admin().unwrap();
    admin.pause("users").await.unwrap();
    let (exit, text) = answering(&db, &users, "rebuild users --yes", "n").await;
    assert_eq!(exit, Exit::Refused, "{text}");
    assert!(text.contains("has not handled any event yet"), "{text}");
}
