//! What others change while a command waits for them: it decides by what it finds once it has the lock.

use consumer::Registered;
use consumer::admin::{ActivateOptions, Admin, AdminError, ForgetOptions, Target};
use consumer_tests::{Database, TestDatabase, patiently, read_model, run_once, test_on, until};
use sqlx::pool::PoolConnection;
use tokio::task::JoinHandle;

test_on!(
    [sqlite, postgres],
    a_version_that_becomes_active_meanwhile_is_not_forgotten,
    a_version_that_falls_behind_meanwhile_is_not_activated,
    a_version_that_is_forgotten_meanwhile_is_not_activated
);

fn version(version: u32) -> Target {
    Target::new("users").version(version)
}

/// Two versions of a consumer that have handled the log.
async fn two_versions<DB: TestDatabase>(db: &Database<DB>) -> Admin<DB> {
    db.append("User", ["a"]).await;
    run_once(db.worker().consumer(read_model("users"))).await;
    let second = Registered::new(read_model("users")).version(2);
    run_once(db.worker().registered(second)).await;
    Admin::new(db.store.clone())
}

/// Changes the rows of a version, in a transaction that a command has to wait for.
async fn change<DB: TestDatabase>(
    db: &Database<DB>,
    version: u32,
    change: &str,
) -> PoolConnection<DB> {
    let mut others = db.pool.acquire().await.unwrap();
    let lock = format!("UPDATE consumer_progress SET error = error WHERE version = {version}");
    DB::execute_sql(&mut others, &format!("BEGIN; {lock}; {change}"))
        .await
        .unwrap();
    others
}

/// Commits once the command waits, and returns why it failed.
async fn refused<DB: TestDatabase>(
    db: &Database<DB>,
    mut others: PoolConnection<DB>,
    command: JoinHandle<Result<(), AdminError>>,
) -> AdminError {
    until("the command waits", async || {
        command.is_finished() || is_waiting(db).await
    })
    .await;
    DB::execute_sql(&mut others, "COMMIT").await.unwrap();
    let refused = patiently("the command ends", command).await.unwrap();
    refused.expect_err("it would be lost")
}

async fn is_waiting<DB: TestDatabase>(db: &Database<DB>) -> bool {
    if !db.url.starts_with("postgres") {
        // It has a connection. Nothing shows that it waits for the file, so it may still be on its way there.
        return db.pool.size() as usize - db.pool.num_idle() > 1;
    }
    let waits = "SELECT count(*) FROM pg_stat_activity
                  WHERE wait_event_type = 'Lock' AND datname = current_database()";
    db.number(waits).await > 0
}

async fn a_version_that_becomes_active_meanwhile_is_not_forgotten<DB: TestDatabase>(
    db: Database<DB>,
) {
    let admin = two_versions(&db).await;
    admin
        .activate(version(2), ActivateOptions::new())
        .await
        .unwrap();
    let others = change(&db, 1, "UPDATE consumer_active SET version = 1").await;
    let forget = Admin::new(db.store.clone());
    let forget = tokio::spawn(async move { forget.forget(version(1), ForgetOptions::new()).await });
    let refused = refused(&db, others, forget).await;
    assert!(matches!(refused, AdminError::Active { .. }), "{refused}");
    assert_eq!(admin.active_version("users").await.unwrap(), Some(1));
    assert_eq!(admin.status().await.unwrap().consumers.len(), 2);
}

async fn a_version_that_falls_behind_meanwhile_is_not_activated<DB: TestDatabase>(
    db: Database<DB>,
) {
    let admin = two_versions(&db).await;
    let mut others = change(&db, 2, "UPDATE consumer_progress SET error = error").await;
    db.append_in(&mut others, "b").await;
    let activate = Admin::new(db.store.clone());
    let activate =
        tokio::spawn(async move { activate.activate(version(2), ActivateOptions::new()).await });
    let refused = refused(&db, others, activate).await;
    assert!(
        matches!(refused, AdminError::Behind { lag: 1, .. }),
        "{refused}"
    );
    assert_eq!(admin.active_version("users").await.unwrap(), Some(1));
}

async fn a_version_that_is_forgotten_meanwhile_is_not_activated<DB: TestDatabase>(
    db: Database<DB>,
) {
    let admin = two_versions(&db).await;
    let others = change(&db, 2, "DELETE FROM consumer_progress WHERE version = 2").await;
    let activate = Admin::new(db.store.clone());
    let activate =
        tokio::spawn(async move { activate.activate(version(2), ActivateOptions::new()).await });
    let refused = refused(&db, others, activate).await;
    let is_gone = |error: &AdminError| {
        matches!(
            error,
            AdminError::Unknown { .. } | AdminError::UnknownVersion { .. }
        )
    };
    assert!(is_gone(&refused), "{refused}");
    assert_eq!(admin.active_version("users").await.unwrap(), Some(1));
}
