//! The test kit: what it hands to a consumer, and what it finds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::sync::{Arc, Mutex};

use consumer::Backend;
use consumer::testing::{ConsumerTest, TestError};
use consumer::{Consumer, Context, HandlerError, NewEvent, PersistedEvent, Registered};
use consumer_tests::{MODEL, Model, TestPostgres, on_both_databases};
use sqlx::{Connection as _, Executor as _, Postgres, Sqlite};

async fn kit<DB: Backend>(
    store: &consumer::EventStore<DB>,
    model: Registered<DB>,
) -> ConsumerTest<DB> {
    let mut test = ConsumerTest::within(store.begin().await.unwrap(), model);
    test.execute(MODEL).await.unwrap();
    test
}

fn happened(id: &str) -> NewEvent {
    NewEvent::new("User", id, "Happened", "{}")
}

macro_rules! positions {
    ($test:ident) => {{
        let rows: Vec<(i64,)> = sqlx::query_as("SELECT position FROM model ORDER BY position")
            .fetch_all($test.connection())
            .await
            .unwrap();
        rows.into_iter().map(|row| row.0).collect::<Vec<i64>>()
    }};
}

/// Writes two rows for each event, and can be made to ignore errors or to end its transaction.
#[derive(Clone, Copy, PartialEq)]
enum Careless {
    No,
    IgnoresErrors,
    Commits,
}

macro_rules! careless_on {
    ($database:ty) => {
        impl Consumer<$database> for Careless {
            fn name(&self) -> &str {
                "careless"
            }

            async fn handle(
                &self,
                _cx: &Context,
                tx: &mut <$database as sqlx::Database>::Connection,
                event: &PersistedEvent,
            ) -> Result<(), HandlerError> {
                for _ in 0..2 {
                    let mut savepoint = tx.begin().await?;
                    let written =
                        sqlx::query("INSERT INTO model (consumer, position) VALUES ('c', $1)")
                            .bind(event.global_position)
                            .execute(&mut *savepoint)
                            .await;
                    if *self != Self::IgnoresErrors {
                        written?;
                    }
                    savepoint.commit().await?;
                }
                if *self == Self::Commits {
                    tx.execute("COMMIT").await?;
                }
                Ok(())
            }
        }
    };
}

careless_on!(Sqlite);
careless_on!(Postgres);

on_both_databases! {
    async fn events_of_the_scope_are_handled_once_and_in_order(db) {
        let users = Model::new("users").scope(&["User"]);
        let mut test = kit(&db.store, Registered::<Db>::scoped(users.clone())).await;
        test.given(happened("a"));
        test.given(NewEvent::new("Order", "o", "Placed", "{}"));
        test.given(happened("a"));
        test.when().await.unwrap();
        assert_eq!(positions!(test), [1, 3]);
        test.when().await.unwrap();
        assert_eq!((positions!(test), test.checkpoint()), (vec![1, 3], 3));
    }

    async fn given_events_have_the_versions_of_their_aggregates_and_positions_with_gaps(db) {
        let mut test = kit(&db.store, Registered::<Db>::new(Model::new("users"))).await;
        let first = test.given(happened("a"));
        test.gap(5);
        let other = test.given(happened("b"));
        let second = test.given(happened("a"));
        let facts = [&first, &other, &second].map(|event| (event.global_position, event.aggregate_version));
        assert_eq!(facts, [(1, 1), (7, 1), (8, 2)]);
        test.when().await.unwrap();
        assert_eq!(positions!(test), [1, 7, 8]);
    }

    async fn r2_a_failing_event_keeps_what_came_before_it_and_is_tried_again(db) {
        let users = Model::new("users");
        users.fail_on("bad", true);
        let mut test = kit(&db.store, Registered::<Db>::new(users.clone())).await;
        test.given_all(["good", "bad", "good"].map(happened));
        let failed = test.when().await.unwrap_err();
        assert_eq!(failed.to_string(), "the consumer failed on event 2: cannot handle bad");
        assert_eq!((positions!(test), test.checkpoint()), (vec![1], 1));
        users.fail_on("bad", false);
        test.when().await.unwrap();
        assert_eq!(positions!(test), [1, 2, 3]);
    }

    async fn events_before_a_failing_one_are_the_replay_that_they_were(db) {
        let users = Model::new("users");
        let mut test = kit(&db.store, Registered::<Db>::new(users.clone())).await;
        test.given_all(["good", "bad"].map(happened));
        test.when().await.unwrap();
        test.reset().await.unwrap();
        let before = users.seen().len();
        users.fail_on("bad", true);
        test.when().await.unwrap_err();
        // Once with the failing one, and once more without it.
        let again: Vec<_> = users.seen()[before..].iter().map(|seen| (seen.position, seen.is_replay)).collect();
        assert_eq!(again, [(1, true), (2, true), (1, true)]);
    }

    async fn the_effects_of_events_before_a_failing_one_happen(db) {
        let publisher = Publisher::default();
        let mut test = kit(&db.store, Registered::<Db>::new(publisher.clone())).await;
        test.given_all(["good", "bad"].map(happened));
        test.when().await.unwrap_err();
        assert_eq!(*publisher.0.lock().unwrap(), ["good", "bad", "good", "after good"]);
    }

    async fn redelivery_hands_over_again_what_was_handled_and_no_more(db) {
        let mut test = kit(&db.store, Registered::<Db>::new(Model::new("users"))).await;
        test.given_all(["a", "b"].map(happened));
        test.when().await.unwrap();
        test.given(happened("c"));
        test.redeliver().await.unwrap();
        assert_eq!(positions!(test), [1, 1, 2, 2]);
        test.when().await.unwrap();
        assert_eq!(positions!(test), [1, 1, 2, 2, 3]);
    }

    async fn r3_a_crash_before_the_commit_leaves_nothing_and_the_batch_comes_again(db) {
        let users = Model::new("users");
        let mut test = kit(&db.store, Registered::<Db>::new(users.clone())).await;
        test.given_all(["a", "b"].map(happened));
        test.crash_before_commit().await.unwrap();
        assert_eq!((positions!(test), users.seen().len(), test.checkpoint()), (vec![], 2, 0));
        test.when().await.unwrap();
        assert_eq!(positions!(test), [1, 2]);
    }

    async fn the_nth_write_fails_until_there_are_no_more(db) {
        let mut test = kit(&db.store, Registered::<Db>::new(Careless::No)).await;
        test.given_all(["a", "b"].map(happened));
        let mut reached = Vec::new();
        for write in 1..=5 {
            reached.push(test.fail_at_write(write).await.unwrap());
            assert!(positions!(test).is_empty());
        }
        assert_eq!(reached, [true, true, true, true, false]);
        test.when().await.unwrap();
        assert_eq!(positions!(test), [1, 1, 2, 2]);
    }

    async fn a_consumer_that_ignores_a_failed_write_is_found(db) {
        let mut test = kit(&db.store, Registered::<Db>::new(Careless::IgnoresErrors)).await;
        test.given(happened("a"));
        let found = test.fail_at_write(2).await;
        // Postgres says so itself: the savepoint of the failed write cannot be released.
        assert!(
            matches!(found, Err(TestError::Swallowed { write: 2 } | TestError::Handler { .. })),
            "{found:?}"
        );
    }

    async fn r4_a_consumer_that_commits_is_found(db) {
        let mut test = kit(&db.store, Registered::<Db>::new(Careless::Commits)).await;
        test.given(happened("a"));
        let found = test.when().await;
        assert!(matches!(found, Err(TestError::EndedTransaction { .. })), "{found:?}");
    }

    async fn a_reset_makes_everything_a_replay_up_to_where_it_was(db) {
        let users = Model::new("users");
        let mut test = kit(&db.store, Registered::<Db>::new(users.clone())).await;
        test.given(happened("a"));
        test.when().await.unwrap();
        test.reset().await.unwrap();
        assert_eq!(positions!(test), [0_i64; 0]);
        test.given(happened("b"));
        test.when().await.unwrap();
        let replays: Vec<_> = users.seen().iter().map(|seen| (seen.position, seen.is_replay)).collect();
        assert_eq!(replays, [(1, false), (1, true), (2, false)]);
    }
}

#[tokio::test]
async fn on_sqlite_nothing_is_to_be_set_up() {
    let mut test = ConsumerTest::sqlite(Model::new("users")).await.unwrap();
    test.execute(MODEL).await.unwrap();
    test.given(happened("a"));
    test.when().await.unwrap();
    assert_eq!(positions!(test), [1]);
}

#[tokio::test]
async fn on_postgres_nothing_stays_behind() {
    let db = TestPostgres::shared().await.database().await;
    sqlx::query(MODEL).execute(&db.pool).await.unwrap();
    let mut test = ConsumerTest::postgres(&db.pool, Model::new("users"))
        .await
        .unwrap();
    test.given(happened("a"));
    assert!(test.fail_at_write(1).await.unwrap());
    test.when().await.unwrap();
    assert_eq!(positions!(test), [1]);
    drop(test);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM model")
        .fetch_one(&db.pool)
        .await
        .unwrap();
    let triggers: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal")
            .fetch_one(&db.pool)
            .await
            .unwrap();
    assert_eq!((left, triggers), (0, 0));
}

#[derive(Clone, Default)]
struct Publisher(Arc<Mutex<Vec<String>>>);

impl<DB: sqlx::Database> Consumer<DB> for Publisher {
    fn name(&self) -> &str {
        "publisher"
    }

    fn uses_transaction(&self) -> bool {
        false
    }

    async fn handle(
        &self,
        cx: &Context,
        _tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        let mut sent = self.0.lock().unwrap();
        let effects = Arc::clone(&self.0);
        let id = event.aggregate_id.clone();
        cx.after_commit(async move { effects.lock().unwrap().push(format!("after {id}")) });
        sent.push(event.aggregate_id.clone());
        if event.aggregate_id == "bad" {
            return Err("the broker refuses it".into());
        }
        Ok(())
    }
}

#[tokio::test]
async fn r5_what_left_the_database_is_not_taken_back_by_a_crash() {
    let publisher = Publisher::default();
    let mut test = ConsumerTest::sqlite(publisher.clone()).await.unwrap();
    test.given(happened("a"));
    test.crash_before_commit().await.unwrap();
    test.when().await.unwrap();
    assert_eq!(*publisher.0.lock().unwrap(), ["a", "a", "after a"]);
}
