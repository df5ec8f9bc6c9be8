//! The test kit: the events it passes to a consumer, and the mistakes it detects.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex};

use consumer::testing::{ConsumerTest, TestError, check_round_trips};
use consumer::{
    Consumer, Context, Event, HandlerError, NewEvent, PersistedEvent, Registered, Schema,
    assert_round_trips,
};
use consumer_tests::{Database, Model, TestDatabase, test_on};
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, Postgres, Sqlite};

async fn kit<DB: TestDatabase>(db: &Database<DB>, model: Registered<DB>) -> ConsumerTest<DB> {
    ConsumerTest::within(db.store.begin().await.unwrap(), model)
}

fn happened(id: &str) -> NewEvent {
    NewEvent::new("User", id, "Happened", "{}")
}

/// The positions that the consumer has written, in order.
async fn written<DB: TestDatabase>(test: &mut ConsumerTest<DB>) -> Vec<i64> {
    let written = "SELECT position FROM applied ORDER BY position";
    DB::numbers(test.connection(), written).await.unwrap()
}

/// Writes two rows for each event, and can be made to ignore errors or to end its transaction.
#[derive(Clone, Copy, PartialEq)]
enum Careless {
    No,
    IgnoresErrors,
    Commits,
    LeavesSavepoint,
}

impl<DB: TestDatabase> Consumer<DB> for Careless {
    fn name(&self) -> &str {
        "careless"
    }

    async fn handle(
        &self,
        _cx: &Context,
        tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        for _ in 0..2 {
            let mut savepoint = tx.begin().await?;
            let written = DB::apply(&mut savepoint, "careless", event).await;
            if *self != Self::IgnoresErrors {
                written?;
            }
            savepoint.commit().await?;
        }
        if *self == Self::Commits {
            DB::execute_sql(tx, "COMMIT").await?;
        }
        if *self == Self::LeavesSavepoint {
            std::mem::forget(tx.begin().await?);
        }
        Ok(())
    }
}

test_on!(
    [sqlite, postgres],
    events_of_the_scope_are_handled_once_and_in_order,
    given_events_have_versions_and_positions_with_gaps,
    r2_a_failing_event_is_retried_after_those_before_it,
    events_before_a_failing_one_stay_a_replay,
    the_effects_of_events_before_a_failing_one_happen,
    redelivery_repeats_only_what_was_handled,
    r3_a_crash_before_the_commit_leaves_nothing_behind,
    the_nth_write_fails_until_there_are_no_more,
    a_consumer_that_ignores_a_failed_write_is_detected,
    r4_a_consumer_that_commits_is_detected,
    r4_a_consumer_that_leaves_a_savepoint_open_is_detected,
    savepoints_that_end_are_no_mistake,
    a_reset_makes_all_handled_events_replays,
    with_log_a_handler_finds_its_events_in_the_log,
    without_log_the_log_stays_as_it_is,
    a_replay_needs_no_reset
);

test_on!(
    [empty_sqlite, empty_postgres],
    with_log_of_a_store_its_own_table_has_the_events
);

async fn events_of_the_scope_are_handled_once_and_in_order<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users").scope(&["User"]);
    let mut test = kit(&db, Registered::<DB>::scoped(users.clone())).await;
    test.given(happened("a"));
    test.given(NewEvent::new("Order", "o", "Placed", "{}"));
    test.given(happened("a"));
    test.when().await.unwrap();
    assert_eq!(written(&mut test).await, [1, 3]);
    test.when().await.unwrap();
    assert_eq!(
        (written(&mut test).await, test.checkpoint()),
        (vec![1, 3], 3)
    );
}

async fn given_events_have_versions_and_positions_with_gaps<DB: TestDatabase>(db: Database<DB>) {
    let mut test = kit(&db, Registered::<DB>::new(Model::new("users"))).await;
    let first = test.given(happened("a"));
    test.gap(5);
    let other = test.given(happened("b"));
    let second = test.given(happened("a"));
    let facts =
        [&first, &other, &second].map(|event| (event.global_position, event.aggregate_version));
    assert_eq!(facts, [(1, 1), (7, 1), (8, 2)]);
    test.when().await.unwrap();
    assert_eq!(written(&mut test).await, [1, 7, 8]);
}

async fn r2_a_failing_event_is_retried_after_those_before_it<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    users.fail_on("bad", true);
    let mut test = kit(&db, Registered::<DB>::new(users.clone())).await;
    test.given_all(["good", "bad", "good"].map(happened));
    let failed = test.when().await.unwrap_err();
    assert_eq!(failed.to_string(), "the consumer failed on event 2");
    let cause = failed.source().unwrap().to_string();
    assert_eq!(cause, "cannot handle bad");
    assert_eq!((written(&mut test).await, test.checkpoint()), (vec![1], 1));
    users.fail_on("bad", false);
    test.when().await.unwrap();
    assert_eq!(written(&mut test).await, [1, 2, 3]);
}

async fn events_before_a_failing_one_stay_a_replay<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    let mut test = kit(&db, Registered::<DB>::new(users.clone())).await;
    test.given_all(["good", "bad"].map(happened));
    test.when().await.unwrap();
    test.reset().await.unwrap();
    let before = users.seen().len();
    users.fail_on("bad", true);
    test.when().await.unwrap_err();
    // Once with the failing one, and once more without it.
    let again: Vec<_> = users.seen()[before..]
        .iter()
        .map(|seen| (seen.position, seen.is_replay))
        .collect();
    assert_eq!(again, [(1, true), (2, true), (1, true)]);
}

async fn the_effects_of_events_before_a_failing_one_happen<DB: TestDatabase>(db: Database<DB>) {
    let publisher = Publisher::default();
    let mut test = kit(&db, Registered::<DB>::new(publisher.clone())).await;
    test.given_all(["good", "bad"].map(happened));
    test.when().await.unwrap_err();
    assert_eq!(
        *publisher.0.lock().unwrap(),
        ["good", "bad", "good", "after good"]
    );
}

async fn redelivery_repeats_only_what_was_handled<DB: TestDatabase>(db: Database<DB>) {
    let mut test = kit(&db, Registered::<DB>::new(Model::new("users"))).await;
    test.given_all(["a", "b"].map(happened));
    test.when().await.unwrap();
    test.given(happened("c"));
    test.redeliver().await.unwrap();
    assert_eq!(written(&mut test).await, [1, 1, 2, 2]);
    test.when().await.unwrap();
    assert_eq!(written(&mut test).await, [1, 1, 2, 2, 3]);
}

async fn r3_a_crash_before_the_commit_leaves_nothing_behind<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    let mut test = kit(&db, Registered::<DB>::new(users.clone())).await;
    test.given_all(["a", "b"].map(happened));
    test.crash_before_commit().await.unwrap();
    assert_eq!(
        (
            written(&mut test).await,
            users.seen().len(),
            test.checkpoint()
        ),
        (vec![], 2, 0)
    );
    test.when().await.unwrap();
    assert_eq!(written(&mut test).await, [1, 2]);
}

async fn the_nth_write_fails_until_there_are_no_more<DB: TestDatabase>(db: Database<DB>) {
    let mut test = kit(&db, Registered::<DB>::new(Careless::No)).await;
    test.given_all(["a", "b"].map(happened));
    let mut reached = Vec::new();
    for write in 1..=5 {
        reached.push(test.fail_at_write(write).await.unwrap());
        assert!(written(&mut test).await.is_empty());
    }
    assert_eq!(reached, [true, true, true, true, false]);
    test.when().await.unwrap();
    assert_eq!(written(&mut test).await, [1, 1, 2, 2]);
}

async fn a_consumer_that_ignores_a_failed_write_is_detected<DB: TestDatabase>(db: Database<DB>) {
    let mut test = kit(&db, Registered::<DB>::new(Careless::IgnoresErrors)).await;
    test.given(happened("a"));
    let found = test.fail_at_write(2).await;
    // Postgres says so itself: the savepoint of the failed write cannot be released.
    assert!(
        matches!(
            found,
            Err(TestError::Swallowed { write: 2 } | TestError::Handler { .. })
        ),
        "{found:?}"
    );
}

async fn r4_a_consumer_that_commits_is_detected<DB: TestDatabase>(db: Database<DB>) {
    let mut test = kit(&db, Registered::<DB>::new(Careless::Commits)).await;
    test.given(happened("a"));
    let found = test.when().await;
    assert!(
        matches!(found, Err(TestError::EndedTransaction { .. })),
        "{found:?}"
    );
}

async fn r4_a_consumer_that_leaves_a_savepoint_open_is_detected<DB: TestDatabase>(
    db: Database<DB>,
) {
    let mut test = kit(&db, Registered::<DB>::new(Careless::LeavesSavepoint)).await;
    test.given(happened("a"));
    for _ in 0..2 {
        let found = test.when().await;
        assert!(matches!(found, Err(TestError::OpenSavepoint)), "{found:?}");
        // Nothing of the batch is saved, as with a worker.
        assert_eq!(written(&mut test).await, [0_i64; 0]);
        assert_eq!(test.checkpoint(), 0);
    }
}

async fn savepoints_that_end_are_no_mistake<DB: TestDatabase>(db: Database<DB>) {
    let tried = consumer_tests::consumer("c", |_, tx: &mut DB::Connection, event| {
        Box::pin(async move {
            let mut dropped = tx.begin().await?;
            DB::apply(&mut dropped, "c", event).await?;
            drop(dropped);
            let mut undone = tx.begin().await?;
            DB::apply(&mut undone, "c", event).await?;
            undone.rollback().await?;
            Ok(DB::apply(tx, "c", event).await?)
        })
    });
    let mut test = kit(&db, Registered::<DB>::new(tried)).await;
    for id in ["a", "b"] {
        test.given(happened(id));
        test.crash_before_commit().await.unwrap();
        test.when().await.unwrap();
    }
    assert_eq!(written(&mut test).await, [1, 2]);
}

async fn a_reset_makes_all_handled_events_replays<DB: TestDatabase>(db: Database<DB>) {
    let users = Model::new("users");
    let mut test = kit(&db, Registered::<DB>::new(users.clone())).await;
    test.given(happened("a"));
    test.when().await.unwrap();
    test.reset().await.unwrap();
    assert_eq!(written(&mut test).await, [0_i64; 0]);
    test.given(happened("b"));
    test.when().await.unwrap();
    let replays: Vec<_> = users
        .seen()
        .iter()
        .map(|seen| (seen.position, seen.is_replay))
        .collect();
    assert_eq!(replays, [(1, false), (1, true), (2, false)]);
}

/// Writes how many events of its aggregate the log has, up to the event.
fn counting<DB: TestDatabase>() -> Registered<DB> {
    let consumer = consumer_tests::consumer("c", |_, tx: &mut DB::Connection, event| {
        Box::pin(async move {
            let sql = format!(
                "SELECT count(*) FROM events WHERE aggregate_id = '{}' AND aggregate_version <= {} AND global_position <= {}",
                event.aggregate_id, event.aggregate_version, event.global_position
            );
            let before = DB::numbers(&mut *tx, &sql).await?;
            let insert = format!("INSERT INTO counted (n) VALUES ({})", before[0]);
            Ok(DB::execute_sql(tx, &insert).await?)
        })
    });
    Registered::new(consumer)
}

async fn counted<DB: TestDatabase>(test: &mut ConsumerTest<DB>) -> Vec<i64> {
    DB::numbers(test.connection(), "SELECT n FROM counted ORDER BY n")
        .await
        .unwrap()
}

async fn with_log_a_handler_finds_its_events_in_the_log<DB: TestDatabase>(db: Database<DB>) {
    // The database of a developer has events of its own.
    db.append("User", ["ada", "ada"]).await;
    let mut test = kit(&db, counting()).await.with_log();
    test.execute("CREATE TABLE counted (n BIGINT)")
        .await
        .unwrap();
    test.given(happened("ada"));
    test.given(happened("bob"));
    test.crash_before_commit().await.unwrap();
    test.when().await.unwrap();
    test.given(happened("bob"));
    test.when().await.unwrap();
    assert_eq!(counted(&mut test).await, [1, 2, 3]);
    assert_eq!(test.checkpoint(), 5);
    // Given again, they are not appended again.
    test.redeliver().await.unwrap();
    assert_eq!(counted(&mut test).await, [1, 1, 2, 2, 3, 3]);
    drop(test);
    assert_eq!(db.log().await, [1, 2]);
}

async fn with_log_of_a_store_its_own_table_has_the_events<DB: TestDatabase>(db: Database<DB>) {
    let schema = Schema::default().events("journal").aggregate_heads("heads");
    let store = db.store.clone().with_schema(schema).unwrap();
    store.migrate().await.unwrap();
    db.execute(DB::CREATE_READ_MODEL).await;
    let consumer = consumer_tests::consumer("c", |_, tx: &mut DB::Connection, event| {
        Box::pin(async move {
            let journal = "SELECT global_position FROM journal ORDER BY global_position";
            let stored = DB::numbers(&mut *tx, journal).await?;
            assert_eq!(stored.last(), Some(&event.global_position));
            Ok(DB::apply(tx, "c", event).await?)
        })
    });
    let mut test = kit(&db, Registered::new(consumer))
        .await
        .with_log_of(&store);
    test.given(happened("ada"));
    test.when().await.unwrap();
    test.given(happened("bob"));
    test.when().await.unwrap();
    assert_eq!(written(&mut test).await.len(), 2);
    drop(test);
    let left = db.numbers("SELECT global_position FROM journal").await;
    assert_eq!(left, [0; 0]);
}

async fn without_log_the_log_stays_as_it_is<DB: TestDatabase>(db: Database<DB>) {
    let mut test = kit(&db, counting()).await;
    test.execute("CREATE TABLE counted (n BIGINT)")
        .await
        .unwrap();
    test.given(happened("ada"));
    test.when().await.unwrap();
    assert_eq!(counted(&mut test).await, [0]);
}

async fn a_replay_needs_no_reset<DB: TestDatabase>(db: Database<DB>) {
    let publisher = Publisher::default();
    let model = Model::new("users");
    let mut test = kit(&db, Registered::<DB>::new(model.clone())).await;
    test.given(happened("a"));
    test.set_replay(true);
    test.when().await.unwrap();
    test.redeliver().await.unwrap();
    test.set_replay(false);
    test.given(happened("b"));
    test.when().await.unwrap();
    let replays: Vec<_> = model
        .seen()
        .iter()
        .map(|seen| (seen.position, seen.is_replay))
        .collect();
    assert_eq!(replays, [(1, true), (1, true), (2, false)]);
    drop(test);
    // A consumer without a reset says what to do instead.
    let mut test = kit(&db, Registered::<DB>::new(publisher)).await;
    let error = HandlerError::from(test.reset().await.unwrap_err()).to_string();
    assert!(error.contains("`set_replay(true)`"), "{error}");
}

#[tokio::test]
async fn errors_of_an_init_work_with_a_question_mark() {
    fn init() -> Result<Model, HandlerError> {
        Err("no such tariff".into())
    }
    async fn test() -> Result<(), Box<dyn std::error::Error>> {
        ConsumerTest::<Sqlite>::sqlite(init()?).await?;
        Ok(())
    }
    async fn threaded() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        ConsumerTest::<Sqlite>::sqlite(init().map_err(HandlerError::into_error)?).await?;
        Ok(())
    }
    assert_eq!(test().await.unwrap_err().to_string(), "no such tariff");
    assert_eq!(threaded().await.unwrap_err().to_string(), "no such tariff");
}

#[tokio::test]
async fn on_sqlite_a_test_needs_no_setup() {
    let mut test = ConsumerTest::sqlite(Model::new("users")).await.unwrap();
    test.execute(Sqlite::CREATE_READ_MODEL).await.unwrap();
    test.given(happened("a"));
    test.when().await.unwrap();
    assert_eq!(written(&mut test).await, [1]);
}

#[tokio::test]
async fn r7_on_sqlite_a_test_has_the_scope_of_the_consumer() {
    let users = Model::new("users").scope(&["User"]);
    let mut test = ConsumerTest::sqlite(users).await.unwrap();
    test.execute(Sqlite::CREATE_READ_MODEL).await.unwrap();
    test.given(NewEvent::new("Order", "o", "Happened", "{}"));
    test.given(happened("a"));
    test.when().await.unwrap();
    assert_eq!(written(&mut test).await, [2]);
}

#[tokio::test]
async fn on_postgres_a_test_leaves_nothing_behind() {
    let db = Database::<Postgres>::empty().await;
    db.execute(Postgres::CREATE_READ_MODEL).await;
    let mut test = ConsumerTest::postgres(&db.pool, Model::new("users"))
        .await
        .unwrap();
    test.given(happened("a"));
    assert!(test.fail_at_write(1).await.unwrap());
    test.when().await.unwrap();
    assert_eq!(written(&mut test).await, [1]);
    drop(test);
    let left = db.number("SELECT count(*) FROM applied").await;
    let triggers = db
        .number("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal")
        .await;
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
async fn r5_effects_outside_the_database_survive_a_crash() {
    let publisher = Publisher::default();
    let mut test = ConsumerTest::sqlite(publisher.clone()).await.unwrap();
    test.given(happened("a"));
    test.crash_before_commit().await.unwrap();
    test.when().await.unwrap();
    assert_eq!(*publisher.0.lock().unwrap(), ["a", "a", "after a"]);
}

/// Events that serde does not always write as it reads them.
#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(aggregate = "Sensor")]
enum SensorEvent {
    Measured {
        celsius: f64,
    },
    Adjusted {
        celsius: Option<f64>,
    },
    Forgotten {
        #[serde(skip)]
        note: String,
    },
    Removed,
}

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(aggregate = "Sensor")]
struct Counted {
    sensor: u8,
    #[serde(flatten)]
    total: Total,
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Total {
    count: i128,
}

fn measured(celsius: f64) -> SensorEvent {
    SensorEvent::Measured { celsius }
}

fn forgotten(note: &str) -> SensorEvent {
    SensorEvent::Forgotten { note: note.into() }
}

#[test]
fn events_that_are_read_back_make_a_round_trip() {
    assert_round_trips!([
        measured(36.6),
        SensorEvent::Adjusted { celsius: None },
        forgotten(""),
        SensorEvent::Removed,
    ]);
}

#[test]
fn what_serde_loses_makes_no_round_trip() {
    for (event, words) in [
        (
            measured(f64::NAN),
            "`Measured { celsius: NaN }` is encoded as `{\"celsius\":null}`",
        ),
        (
            SensorEvent::Adjusted {
                celsius: Some(f64::NAN),
            },
            "which is decoded as `Adjusted { celsius: None }`",
        ),
        (
            forgotten("lost"),
            "which is decoded as `Forgotten { note: \"\" }`",
        ),
    ] {
        let error = HandlerError::from(check_round_trips([event]).unwrap_err()).to_string();
        assert!(error.contains(words), "{error}");
    }
    let total = Total { count: 7 };
    let counted = check_round_trips([Counted { sensor: 1, total }]);
    let error = HandlerError::from(counted.unwrap_err()).to_string();
    assert!(
        error.ends_with("i128 is not supported at line 1 column 22"),
        "{error}"
    );
}

/// An event whose field is read by borrowing from the payload.
#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(aggregate = "Sensor")]
struct Labelled {
    #[serde(deserialize_with = "by_borrowing")]
    label: String,
}

fn by_borrowing<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    <&str>::deserialize(from).map(str::to_owned)
}

#[test]
fn a_borrowed_field_makes_no_round_trip() {
    for (label, payload) in [
        ("kitchen", r#"`{"label":"\u006bitchen"}`, the same JSON"#),
        ("🌡", r#"`{"label":"\ud83c\udf21"}`, the same JSON"#),
        ("a\"b", r#"`{"label":"a\"b"}`, which cannot be decoded"#),
    ] {
        let label = label.to_owned();
        let error = check_round_trips([Labelled { label }]).unwrap_err();
        let error = HandlerError::from(error).to_string();
        assert!(error.contains(payload), "{error}");
        assert!(error.contains("expected a borrowed string"), "{error}");
    }
}

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(aggregate = "Sensor")]
struct Described {
    texts: Vec<String>,
    by_number: BTreeMap<i32, String>,
    by_name: BTreeMap<String, char>,
}

#[test]
fn texts_with_escapes_and_odd_keys_make_a_round_trip() {
    let texts = [
        "", "a", "\"", "\\", "\\\"", "a:b", "\": \"", "é🌡", "\n", "{}",
    ];
    assert_round_trips!([Described {
        texts: texts.map(str::to_owned).into(),
        by_number: [(-1, "minus one".to_owned())].into(),
        by_name: [("\": \\\"".to_owned(), '\\'), (String::new(), 'x')].into(),
    }]);
}

#[test]
#[should_panic(expected = "there is no example of `Adjusted`, `Forgotten`, `Removed`")]
fn a_round_trip_needs_an_example_of_each_variant() {
    assert_round_trips!([measured(1.0)]);
}
