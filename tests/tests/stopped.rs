//! Getting a stopped consumer past the event that it cannot handle, on both databases.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use consumer::admin::{Admin, AdminError, Status};
use consumer::{Backend, EventStore, ExpectedVersion, NewEvent, Settings, Worker, aggregate_slice};
use consumer_tests::{Database, MODEL, Model, Running, TestBackend, on_both_databases, until};

async fn append<DB: Backend>(store: &EventStore<DB>, kind: &str, id: &str) -> i64 {
    let event = NewEvent::new(kind, id, "Happened", "{}");
    let stored = store.append(ExpectedVersion::Any, &[event]).await.unwrap();
    stored[0].global_position
}

/// A log of users' events, and the consumer `users`, which stops at those of the failing users.
async fn users<DB: TestBackend>(db: &Database<DB>, ids: &[&str], failing: &[&str]) -> Model {
    let mut connection = db.pool.acquire().await.unwrap();
    DB::execute(&mut connection, MODEL).await.unwrap();
    for id in ids {
        append(&db.store, "User", id).await;
    }
    let users = Model::new("users").settings(Settings::default().retries(0));
    for id in failing {
        users.fail_on(id, true);
    }
    users
}

macro_rules! worker {
    ($db:ident, $model:expr) => {
        Worker::<Db>::builder($db.store.clone()).scoped_consumer($model.clone())
    };
}

macro_rules! run_once {
    ($db:ident, $model:expr) => {
        worker!($db, $model)
            .build()
            .unwrap()
            .run_once()
            .await
            .unwrap()
    };
}

macro_rules! handled {
    ($db:ident) => {
        $db.numbers("SELECT position FROM model ORDER BY position")
            .await
    };
}

async fn parked<DB: Backend>(admin: &Admin<DB>) -> Vec<(i64, bool)> {
    let parked = admin.parked("users").await.unwrap();
    parked
        .iter()
        .map(|one| (one.position, one.has_failed))
        .collect()
}

fn state(status: &Status) -> (&'static str, Option<i64>) {
    let users = status.consumer("users").unwrap();
    let failing = users.failing.as_ref().and_then(|failing| failing.position);
    (users.state.name(), failing)
}

on_both_databases! {
    async fn a_parked_event_keeps_its_aggregate_in_order(db) {
        let users = users(&db, &["bad", "good", "bad"], &["bad"]).await;
        run_once!(db, users);
        let admin = worker!(db, users).admin().unwrap();
        assert_eq!(state(&admin.status().await.unwrap()), ("stopped", Some(1)));

        admin.park("users", 1).await.unwrap();
        assert_eq!(state(&admin.status().await.unwrap()), ("running", None));
        let listed = admin.parked("users").await.unwrap();
        assert_eq!((listed[0].attempts, listed[0].error.as_deref()), (1, Some("cannot handle bad")));
        run_once!(db, users);
        assert_eq!((handled!(db), parked(&admin).await), (vec![2], vec![(1, true), (3, false)]));

        users.fail_on("bad", false);
        let before = users.seen().len();
        assert_eq!(admin.retry_parked("users", None).await.unwrap().handled, 2);
        let order: Vec<i64> = users.seen()[before..].iter().map(|seen| seen.position).collect();
        assert_eq!((order, handled!(db)), (vec![1, 3], vec![1, 2, 3]));
    }

    async fn a_skipped_event_is_never_handled_and_the_others_are(db) {
        let users = users(&db, &["good", "bad", "good", "good"], &["bad"]).await;
        run_once!(db, users);
        let admin = worker!(db, users).admin().unwrap();
        admin.skip("users", 2).await.unwrap();
        users.fail_on("bad", false);
        run_once!(db, users);
        assert_eq!((handled!(db), parked(&admin).await), (vec![1, 3, 4], vec![]));
    }

    async fn only_the_event_it_stopped_at_can_be_passed(db) {
        let users = users(&db, &["good", "bad", "good"], &["bad"]).await;
        let admin = worker!(db, users).admin().unwrap();
        run_once!(db, users);
        for position in [1, 3] {
            for refused in [admin.skip("users", position).await, admin.park("users", position).await] {
                let refused = refused.unwrap_err();
                assert!(matches!(&refused, AdminError::NotStoppedAt { stopped_at, .. } if *stopped_at == [2]), "{refused}");
            }
        }
        users.fail_on("bad", false);
        run_once!(db, users);
        let refused = admin.skip("users", 2).await.unwrap_err();
        assert_eq!(refused.to_string(), "consumer `users` is not stopped at event 2; it is not stopped");
        assert_eq!((handled!(db), parked(&admin).await), (vec![1, 2, 3], vec![]));
    }

    async fn events_that_joined_the_scope_are_not_passed_with_it(db) {
        let users = users(&db, &["good"], &["bad"]).await;
        append(&db.store, "Team", "t").await;
        append(&db.store, "User", "bad").await;
        run_once!(db, users.clone().scope(&["User"]));
        let wider = users.scope(&["Team", "User"]);
        let admin = worker!(db, wider).admin().unwrap();
        admin.accept_scope("users").await.unwrap();
        for refused in [admin.skip("users", 3).await, admin.park("users", 3).await] {
            let refused = refused.unwrap_err();
            assert!(matches!(&refused, AdminError::NotNext { unhandled, .. } if *unhandled == (2..=2)), "{refused}");
        }
        admin.resume("users").await.unwrap();
        run_once!(db, wider);
        admin.skip("users", 3).await.unwrap();
        assert_eq!(handled!(db), [1, 2]);
    }

    async fn it_can_stop_again_behind_events_that_wait(db) {
        let users = users(&db, &["bad", "bad", "worse", "good"], &["bad", "worse"]).await;
        let admin = worker!(db, users).admin().unwrap();
        run_once!(db, users);
        admin.park("users", 1).await.unwrap();
        run_once!(db, users);
        assert_eq!(state(&admin.status().await.unwrap()), ("stopped", Some(3)));
        admin.skip("users", 3).await.unwrap();
        run_once!(db, users);
        assert_eq!((handled!(db), parked(&admin).await), (vec![4], vec![(1, true), (2, false)]));
    }

    async fn a_segment_passes_only_its_own_events(db) {
        let users = users(&db, &["ada", "bob", "cyd", "dan", "ada", "bob", "cyd", "dan"], &["ada", "bob"]).await;
        let half = |id| aggregate_slice(id) / 512;
        assert_ne!(half("ada"), half("bob"), "the test needs both segments");
        let run = || async {
            let two = worker!(db, users).configure_all(|settings| settings.segments(2));
            two.build().unwrap().run_once().await.unwrap()
        };
        run().await;
        let admin = worker!(db, users).admin().unwrap();
        let refused = admin.park("users", 99).await.unwrap_err();
        assert!(matches!(&refused, AdminError::NotStoppedAt { stopped_at, .. } if stopped_at.len() == 2), "{refused}");
        admin.skip("users", 1).await.unwrap();
        assert_eq!(state(&admin.status().await.unwrap()), ("stopped", Some(2)));
        admin.park("users", 2).await.unwrap();
        users.fail_on("ada", false);
        run().await;
        assert_eq!((handled!(db), parked(&admin).await), (vec![3, 4, 5, 7, 8], vec![(2, true), (6, false)]));
    }

    async fn a_consumer_that_is_at_work_is_not_stopped(db) {
        let users = users(&db, &["bad"], &["bad"]).await;
        run_once!(db, users);
        let admin = worker!(db, users).admin().unwrap();
        admin.resume("users").await.unwrap();
        let refused = admin.skip("users", 1).await.unwrap_err();
        assert!(matches!(&refused, AdminError::NotStoppedAt { .. }), "{refused}");
        users.fail_on("bad", false);
        run_once!(db, users);
        assert_eq!(handled!(db), [1]);
    }
}

/// While a position below the event is open, no worker has handled the event yet.
#[tokio::test(flavor = "multi_thread")]
async fn no_event_above_an_open_gap_can_be_passed() {
    type Db = sqlx::Postgres;
    let db = Database::<Db>::fresh().await;
    let users = users(&db, &["good"], &["bad"]).await;
    let mut open = db.store.begin().await.unwrap();
    let slow = [NewEvent::new("User", "slow", "Happened", "{}")];
    db.store
        .append_in(&mut open, ExpectedVersion::Any, &slow)
        .await
        .unwrap();
    append(&db.store, "User", "bad").await;
    let running = Running::start(worker!(db, users));
    until("the event below the gap is handled", async || {
        handled!(db) == [1]
    })
    .await;
    let admin = worker!(db, users).admin().unwrap();
    let refused = admin.skip("users", 3).await.unwrap_err();
    assert!(
        matches!(&refused, AdminError::NotStoppedAt { .. }),
        "{refused}"
    );
    open.commit().await.unwrap();
    assert!(running.caught_up().await.is_err(), "it stops at the event");
    admin.skip("users", 3).await.unwrap();
    running.stop().await;
    assert_eq!(handled!(db), [1, 2]);
}
