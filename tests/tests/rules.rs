//! The rules of the contract, one by one, each on both databases.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use consumer::{
    BuildError, Consumer, ConsumerState, Context, HandlerError, PersistedEvent, ScopedConsumer,
    Worker,
};
use consumer_tests::{
    Database, Running, TestDatabase, consumer, impatient, judging, naive_step, patiently,
    read_model, run_once, test_on, until,
};
use sqlx::Connection;

/// What a consumer saw in each event, in order.
type Seen<T> = Arc<Mutex<Vec<T>>>;

/// A consumer that records `look` of each event, and writes nothing.
fn watching<DB: TestDatabase, T: Send + 'static>(
    name: &str,
    seen: &Seen<T>,
    look: impl Fn(&PersistedEvent) -> T + Send + Sync + 'static,
) -> consumer_tests::TestConsumer<DB> {
    let seen = Arc::clone(seen);
    consumer(name, move |_, _, event| {
        seen.lock().unwrap().push(look(event));
        Box::pin(async { Ok(()) })
    })
}

/// Runs a consumer that applies each event, and runs raw SQL at `u-2`.
async fn with_raw_sql<DB: TestDatabase>(
    db: &Database<DB>,
    sql: &'static str,
    swallows: bool,
) -> consumer::Report {
    let c = consumer("raw", move |_, tx: &mut DB::Connection, event| {
        Box::pin(async move {
            DB::apply(tx, "raw", event).await?;
            if event.aggregate_id == "u-2" {
                let ran = DB::execute_sql(tx, sql).await;
                if !swallows {
                    ran?;
                }
            }
            Ok(())
        })
    });
    db.run_once(c.settings(impatient())).await
}

/// The error that stopped a consumer.
fn stopped_with(report: &consumer::Report, name: &str) -> String {
    match &report.consumer(name).unwrap().state {
        ConsumerState::Stopped { error, .. } => error.clone(),
        other => panic!("{name} is {other}"),
    }
}

/// The table that the raw statements write to.
const USERS: &str = "CREATE TABLE users (id TEXT)";

/// Ways to commit in the middle of a batch.
const COMMITS: [&str; 6] = [
    "COMMIT",
    "END",
    "COMMIT; BEGIN",
    "INSERT INTO users (id) VALUES ('x'); COMMIT",
    "INSERT INTO users (id) VALUES ('x'); END; INSERT INTO users (id) VALUES ('y')",
    "/* only the end */ commit transaction",
];

/// Checks that the consumer stopped for its commit, and that nothing of the batch was saved.
async fn refused_the_commit<DB: TestDatabase>(
    db: &Database<DB>,
    report: &consumer::Report,
    sql: &str,
) {
    let error = stopped_with(report, "raw");
    assert!(error.contains("COMMIT"), "{sql}: {error}");
    let says_so = ["nothing of the batch was saved", "checkpoint was not saved"];
    assert!(
        says_so.iter().any(|words| error.contains(words)),
        "{sql}: {error}"
    );
    assert_eq!(db.checkpoint("raw").await, Some(0), "{sql}");
    assert_eq!(db.numbers("SELECT count(*) FROM users").await, [0], "{sql}");
}

test_on!(
    [sqlite, postgres, through_a_pooler],
    r1_a_name_is_unique_and_keys_the_checkpoint,
    r2_an_error_stops_its_consumer_before_the_event_and_no_other,
    r3_writes_and_checkpoint_commit_or_roll_back_together,
    r4_a_raw_commit_is_refused_and_saves_nothing,
    r4_a_raw_rollback_is_detected_and_saves_nothing,
    r4_a_consumer_that_committed_is_not_retried,
    r4_a_nested_begin_is_a_savepoint,
    r5_a_consumer_without_tx_uses_its_own_connections,
    r6_consumers_share_one_event_payload_and_metadata,
    r7_a_scope_is_exact_and_an_empty_one_means_every_event,
    r7_a_consumer_with_two_scopes_is_refused,
    r8_a_consumer_without_a_scope_receives_every_event,
    r9_one_consumer_runs_on_every_database,
    r10_a_consumer_can_be_called_without_worker_or_store,
    r11_a_rolled_back_position_costs_no_event,
    r12_an_append_that_was_rolled_back_moves_no_checkpoint
);

async fn r1_a_name_is_unique_and_keys_the_checkpoint<DB: TestDatabase>(db: Database<DB>) {
    let head = db.append("User", ["u-1", "u-2"]).await[1];
    run_once(
        db.worker()
            .consumer(read_model("one"))
            .consumer(read_model("two")),
    )
    .await;
    assert_eq!(db.checkpoint("one").await, Some(head));
    assert_eq!(db.checkpoint("two").await, Some(head));

    let again = db.run_once(read_model("one")).await;
    assert_eq!(
        again.consumer("one").unwrap().events,
        0,
        "the name finds its checkpoint again"
    );
    let renamed = db.run_once(read_model("three")).await;
    assert_eq!(
        renamed.consumer("three").unwrap().events,
        2,
        "another name has none yet"
    );

    let twice = db
        .worker()
        .consumer(read_model("one"))
        .consumer(read_model("one"))
        .build();
    let error = twice.unwrap_err();
    assert!(
        matches!(&error, BuildError::NameTaken(taken) if &*taken.consumer.name == "one"),
        "{error}"
    );
}

async fn r2_an_error_stops_its_consumer_before_the_event_and_no_other<DB: TestDatabase>(
    db: Database<DB>,
) {
    let positions = db.append("User", ["u-1", "u-2", "u-3"]).await;
    let poisoned = judging("poisoned", |_, event| match event.aggregate_id.as_str() {
        "u-2" => Err("u-2 makes no sense".to_owned()),
        _ => Ok(()),
    });
    let report = run_once(
        db.worker()
            .consumer(poisoned.settings(impatient().retries(1)))
            .consumer(read_model("sound")),
    )
    .await;

    assert_eq!(db.checkpoint("poisoned").await, Some(positions[0]));
    assert_eq!(db.applied("poisoned").await, positions[..1]);
    let state = &report.consumer("poisoned").unwrap().state;
    let ConsumerState::Stopped { position, error } = state else {
        panic!("{state}")
    };
    assert_eq!(
        (*position, error.as_str()),
        (Some(positions[1]), "u-2 makes no sense")
    );
    assert_eq!(db.applied("sound").await, positions);
    assert!(report.has_failures());
}

async fn r3_writes_and_checkpoint_commit_or_roll_back_together<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["u-1", "u-2"]).await;
    let c = consumer("shared", |_, tx: &mut DB::Connection, event| {
        Box::pin(async move {
            DB::apply(tx, "shared", event).await?;
            Err(HandlerError::from("not today"))
        })
    });
    let report = db.run_once(c.settings(impatient().retries(0))).await;
    assert_eq!(stopped_with(&report, "shared"), "not today");
    assert_eq!(db.applied("shared").await, [] as [i64; 0]);
    assert_eq!(db.checkpoint("shared").await, Some(0));

    db.run_once(read_model("shared")).await;
    assert_eq!(db.applied("shared").await, positions);
    assert_eq!(db.checkpoint("shared").await, Some(positions[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn r3_one_transaction_writes_the_rows_and_the_checkpoint() {
    let db = Database::<sqlx::Postgres>::fresh().await;
    db.append("User", ["u-1"]).await;
    db.run_once(read_model("shared")).await;
    let writers =
        "SELECT a.xmin = p.xmin FROM applied AS a JOIN consumer_progress AS p USING (consumer)";
    let one = format!("SELECT count(*) FROM ({writers}) AS w (one) WHERE one");
    assert_eq!(db.number(&one).await, 1);
}

async fn r4_a_raw_commit_is_refused_and_saves_nothing<DB: TestDatabase>(db: Database<DB>) {
    db.execute(USERS).await;
    db.append("User", ["u-1", "u-2", "u-3"]).await;
    for sql in COMMITS {
        let report = with_raw_sql(&db, sql, false).await;
        refused_the_commit(&db, &report, sql).await;
        assert_eq!(db.applied("raw").await, [] as [i64; 0], "{sql}");
    }
}

async fn r4_a_raw_rollback_is_detected_and_saves_nothing<DB: TestDatabase>(db: Database<DB>) {
    db.execute(USERS).await;
    db.append("User", ["u-1", "u-2"]).await;
    for sql in [
        "ROLLBACK",
        "INSERT INTO users (id) VALUES ('x'); ROLLBACK",
        "ROLLBACK; BEGIN",
    ] {
        let report = with_raw_sql(&db, sql, false).await;
        let error = stopped_with(&report, "raw");
        assert!(error.contains("ROLLBACK"), "{sql}: {error}");
        assert_eq!(db.applied("raw").await, [] as [i64; 0], "{sql}");
        assert_eq!(db.checkpoint("raw").await, Some(0), "{sql}");
        assert_eq!(db.numbers("SELECT count(*) FROM users").await, [0], "{sql}");
    }
}

async fn r4_a_consumer_that_committed_is_not_retried<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["u-2"]).await;
    let tries: Seen<i64> = Seen::default();
    let c = |tries: &Seen<i64>| {
        let tries = Arc::clone(tries);
        consumer("raw", move |_, tx: &mut DB::Connection, event| {
            tries.lock().unwrap().push(event.global_position);
            Box::pin(async move { Ok(DB::execute_sql(tx, "COMMIT").await?) })
        })
    };
    db.run_once(c(&tries)).await;
    assert_eq!(
        tries.lock().unwrap().len(),
        1,
        "five retries are its default"
    );
    assert_eq!(
        db.texts("SELECT state FROM consumer_progress").await,
        ["stopped"]
    );
    db.run_once(c(&tries)).await;
    assert_eq!(
        tries.lock().unwrap().len(),
        2,
        "a worker that starts tries it again"
    );
}

async fn r4_a_nested_begin_is_a_savepoint<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["u-1", "u-2", "u-3"]).await;
    let c = consumer("nested", |_, tx: &mut DB::Connection, event| {
        Box::pin(async move {
            let mut kept = tx.begin().await?;
            DB::apply(&mut kept, "nested", event).await?;
            kept.commit().await?;
            let mut dropped = tx.begin().await?;
            DB::apply(&mut dropped, "never", event).await?;
            dropped.rollback().await?;
            Ok(())
        })
    });
    let report = db.run_once(c).await;
    assert_eq!(
        report.consumer("nested").unwrap().state,
        ConsumerState::CaughtUp
    );
    assert_eq!(db.applied("nested").await, positions);
    assert_eq!(db.applied("never").await, [] as [i64; 0]);
}

async fn r5_a_consumer_without_tx_uses_its_own_connections<DB: TestDatabase>(db: Database<DB>) {
    let elsewhere = Database::<sqlx::Sqlite>::fresh().await;
    let positions = db.append("User", ["u-1", "u-2"]).await;
    let pool = elsewhere.pool.clone();
    let c = consumer("broker", move |_, _, event| {
        let pool = pool.clone();
        Box::pin(async move {
            let mut connection = pool.acquire().await?;
            Ok(<sqlx::Sqlite as TestDatabase>::apply(&mut connection, "broker", event).await?)
        })
    });
    db.run_once(c.without_tx()).await;
    assert_eq!(elsewhere.applied("broker").await, positions);
    assert_eq!(db.checkpoint("broker").await, Some(positions[1]));
}

async fn r6_consumers_share_one_event_payload_and_metadata<DB: TestDatabase>(db: Database<DB>) {
    // The addresses of the record, its payload and its metadata.
    type Places = (i64, usize, usize, usize);
    let seen: [Seen<Places>; 3] = Default::default();
    for id in ["u-1", "u-2"] {
        let event = consumer::NewEvent::new("User", id, "Changed", "{}")
            .metadata(consumer::Metadata::from_json_text(r#"{"tenant": "north"}"#));
        db.append_event(event).await;
    }
    let look = |event: &PersistedEvent| {
        let record: &consumer::EventRecord = event;
        let metadata = record.metadata.as_ref().unwrap();
        (
            record.global_position,
            std::ptr::from_ref(record) as usize,
            record.payload.as_ptr() as usize,
            metadata.as_bytes().as_ptr() as usize,
        )
    };
    run_once(
        db.worker()
            .consumer(watching("one", &seen[0], look))
            .consumer(watching("two", &seen[1], look))
            .scoped_consumer(watching("scoped", &seen[2], look).scope(&["User"])),
    )
    .await;
    let [one, two, scoped] = seen.map(|seen| seen.lock().unwrap().clone());
    assert_eq!(one.len(), 2);
    assert!(
        one[0].1 != one[1].1 && one[0].2 != one[1].2,
        "the control: two events have two addresses"
    );
    assert_eq!(one, two);
    assert_eq!(one, scoped);
}

async fn r7_a_scope_is_exact_and_an_empty_one_means_every_event<DB: TestDatabase>(
    db: Database<DB>,
) {
    for kind in ["User", "user", "Users", "Order", "User "] {
        db.append(kind, &["1"]).await;
    }
    let (some, every): (Seen<String>, Seen<String>) = Default::default();
    let kind = |event: &PersistedEvent| event.aggregate_type.to_string();
    run_once(
        db.worker()
            .scoped_consumer(watching("some", &some, kind).scope(&["User", "Order"]))
            .scoped_consumer(watching("every", &every, kind).scope(&[])),
    )
    .await;
    assert_eq!(*some.lock().unwrap(), ["User", "Order"]);
    assert_eq!(
        *every.lock().unwrap(),
        ["User", "user", "Users", "Order", "User "]
    );
}

/// Has a scope, of which the test kit would not know.
struct TwoScopes;

impl<DB: TestDatabase> Consumer<DB> for TwoScopes {
    fn name(&self) -> &str {
        "users"
    }

    async fn handle(
        &self,
        _: &Context,
        _: &mut DB::Connection,
        _: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(())
    }
}

impl<DB: TestDatabase> ScopedConsumer<DB> for TwoScopes {
    fn aggregate_types(&self) -> &[&str] {
        &["User", "Order"]
    }
}

async fn r7_a_consumer_with_two_scopes_is_refused<DB: TestDatabase>(db: Database<DB>) {
    let error = db.worker().scoped_consumer(TwoScopes).build().unwrap_err();
    assert!(matches!(error, BuildError::TwoScopes { .. }), "{error}");
    let text = error.to_string();
    for part in [
        "`users` returns [User, Order]",
        "`Consumer::scope`",
        "returns []",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

async fn r8_a_consumer_without_a_scope_receives_every_event<DB: TestDatabase>(db: Database<DB>) {
    let users = db.append("User", ["u-1", "u-2"]).await;
    let orders = db.append("Order", ["o-1"]).await;
    run_once(
        db.worker()
            .scoped_consumer(read_model("users").scope(&["User"]))
            .consumer(read_model("audit_log")),
    )
    .await;
    assert_eq!(db.applied("users").await, users);
    assert_eq!(db.applied("audit_log").await, [users, orders].concat());
}

async fn r9_one_consumer_runs_on_every_database<DB: TestDatabase>(db: Database<DB>) {
    struct Anywhere(Seen<i64>);
    impl<DB: sqlx::Database> consumer::Consumer<DB> for Anywhere {
        fn name(&self) -> &'static str {
            "anywhere"
        }
        async fn handle(
            &self,
            _cx: &Context,
            _tx: &mut DB::Connection,
            event: &PersistedEvent,
        ) -> Result<(), HandlerError> {
            self.0.lock().unwrap().push(event.global_position);
            Ok(())
        }
    }
    let seen: Seen<i64> = Seen::default();
    let positions = db.append("User", ["u-1"]).await;
    run_once(db.worker().consumer(Anywhere(Arc::clone(&seen)))).await;
    assert_eq!(*seen.lock().unwrap(), positions);
}

async fn r10_a_consumer_can_be_called_without_worker_or_store<DB: TestDatabase>(db: Database<DB>) {
    struct Counts(Mutex<u64>);
    impl<DB: sqlx::Database> consumer::Consumer<DB> for Counts {
        fn name(&self) -> &'static str {
            "counts"
        }
        async fn handle(
            &self,
            _cx: &Context,
            _tx: &mut DB::Connection,
            _event: &PersistedEvent,
        ) -> Result<(), HandlerError> {
            *self.0.lock().unwrap() += 1;
            Ok(())
        }
    }
    let counts = Counts(Mutex::new(0));
    let mut connection = db.pool.acquire().await.unwrap();
    let (cx, events) = (
        Context::new("counts"),
        [PersistedEvent::new(consumer::EventRecord::default())],
    );
    let handled = consumer::Consumer::<DB>::handle_batch(&counts, &cx, &mut connection, &events);
    assert_eq!((handled.await.unwrap(), *counts.0.lock().unwrap()), (1, 1));
}

async fn r11_a_rolled_back_position_costs_no_event<DB: TestDatabase>(db: Database<DB>) {
    let worker = Running::start(db.worker().consumer(read_model("all")));
    let mut positions = db.append("User", ["before"]).await;
    patiently("it handles the first", worker.caught_up())
        .await
        .unwrap();
    let mut open = db.store.begin().await.unwrap();
    let drawn = db.append_in(&mut open, "rolled back").await;
    // It polls while that is open, and does not see it.
    patiently("it looks", worker.caught_up()).await.unwrap();
    open.rollback().await.unwrap();
    positions.extend(db.append("User", ["after"]).await);
    let given_out_again = <DB as sqlx::Database>::NAME == "SQLite";
    assert_eq!(positions[1] == drawn, given_out_again, "{positions:?}");
    patiently("it handles the second", worker.caught_up_to(positions[1]))
        .await
        .unwrap();
    worker.stop().await;
    assert_eq!(db.applied("all").await, positions);
    let ids = db
        .texts("SELECT aggregate FROM applied ORDER BY ordinal")
        .await;
    assert_eq!(ids, ["before", "after"]);
}

async fn r12_an_append_that_was_rolled_back_moves_no_checkpoint<DB: TestDatabase>(
    db: Database<DB>,
) {
    let mut positions = db.append("User", ["u-1"]).await;
    let store = db.store.clone();
    let fails = consumer("fails", move |_, tx: &mut DB::Connection, event| {
        let store = store.clone();
        Box::pin(async move {
            // The transaction that saves the checkpoint now sees a position after this event's.
            let reaction = [consumer::NewEvent::new("Mail", "m-1", "Sent", "{}")];
            let stored = store
                .append_in(tx, consumer::ExpectedVersion::Any, &reaction)
                .await?;
            assert!(stored[0].global_position > event.global_position);
            Err(HandlerError::from("and rolls it back"))
        })
    });
    let worker = Running::start(
        db.worker()
            .consumer(fails.settings(impatient().retries(0)))
            .consumer(read_model("beside")),
    );
    patiently("it stops", worker.consumer_caught_up_to("fails", 1))
        .await
        .unwrap_err();
    positions.extend(db.append("User", ["u-2"]).await);
    patiently(
        "beside continues",
        worker.consumer_caught_up_to("beside", positions[1]),
    )
    .await
    .unwrap();
    worker.stop().await;
    assert_eq!(db.checkpoint("fails").await, Some(0));
    assert_eq!(db.applied("beside").await, positions);
    db.run_once(read_model("fails")).await;
    assert_eq!(db.applied("fails").await, positions);
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_on_postgres_nothing_beyond_an_open_gap_is_handled() {
    let db = Database::<sqlx::Postgres>::fresh().await;
    let worker = Running::start(db.worker().consumer(read_model("all")));
    let before = db.append_one("User", "before").await;
    patiently("it handles the first", worker.caught_up())
        .await
        .unwrap();
    let mut writer = db.store.begin().await.unwrap();
    let late = db.append_in(&mut writer, "late").await;
    let early = db.append_one("User", "early").await;
    assert!(late < early);
    until("it waits for the gap", async || {
        worker.frontier_wait().is_some()
    })
    .await;
    assert_eq!(worker.frontier_wait().unwrap().position, before);
    assert_eq!(db.applied("all").await, [before]);
    assert_eq!(db.checkpoint("all").await, Some(before));
    writer.commit().await.unwrap();
    patiently("it catches up", worker.caught_up_to(early))
        .await
        .unwrap();
    worker.stop().await;
    assert_eq!(db.applied("all").await, [before, late, early]);
}

/// Runs a handler that ends the transaction and ignores the error, in a database with this setting.
/// Returns how many of its later rows were committed, and why the consumer stopped.
async fn rows_after(end: &'static str, setting: &str) -> (i64, String) {
    let db = Database::<sqlx::Postgres>::fresh().await;
    db.execute(USERS).await;
    db.append("User", ["u-1", "u-2"]).await;
    db.execute(&format!(
        "ALTER DATABASE {} SET {setting}",
        db.url.rsplit('/').next().unwrap()
    ))
    .await;
    let pool = sqlx::PgPool::connect(&db.url).await.unwrap();
    let goes_on = consumer("raw", move |_, tx: &mut sqlx::PgConnection, _| {
        Box::pin(async move {
            let _ = sqlx::Postgres::execute_sql(tx, end).await;
            sqlx::raw_sql("INSERT INTO users (id) VALUES ('x')")
                .execute(tx)
                .await?;
            Ok(())
        })
    });
    let worker = Worker::builder(consumer::EventStore::new(pool)).consumer(goes_on);
    let report = run_once(worker).await;
    assert_eq!(db.checkpoint("raw").await, Some(0));
    let rows = db.number("SELECT count(*) FROM users").await;
    (rows, stopped_with(&report, "raw"))
}

const READ_WRITE: &str = "default_transaction_read_only = off";
const READ_ONLY: &str = "default_transaction_read_only = on";

/// The limit on Postgres: statements after a `ROLLBACK`, or after a refused `COMMIT` whose error was
/// ignored, are outside any transaction that a worker could refuse.
#[tokio::test(flavor = "multi_thread")]
async fn r4_on_postgres_what_follows_a_commit_gets_through() {
    for end in ["ROLLBACK", "COMMIT"] {
        let (rows, error) = rows_after(end, READ_WRITE).await;
        assert!(error.contains(end), "{error}");
        assert!(rows > 0, "the limit is gone: say so in the documentation");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_on_postgres_read_only_by_default_lets_nothing_through() {
    for end in ["ROLLBACK", "COMMIT"] {
        let (rows, error) = rows_after(end, READ_ONLY).await;
        assert!(error.contains(end), "{error}");
        assert_eq!(rows, 0, "{end}");
    }
}

/// The same limit: only statements after the ignored error are committed.
#[tokio::test(flavor = "multi_thread")]
async fn r4_on_postgres_only_events_after_a_commit_leave_rows() {
    let db = Database::<sqlx::Postgres>::fresh().await;
    db.execute(USERS).await;
    let positions = db.append("User", ["u-1", "u-2", "u-3"]).await;
    for sql in COMMITS {
        let report = with_raw_sql(&db, sql, true).await;
        refused_the_commit(&db, &report, sql).await;
        assert_eq!(db.applied("raw").await, positions[2..], "{sql}");
        db.execute("DELETE FROM applied").await;
    }
}

/// The limit on Postgres: behind `CLOSE ALL`, which closes the guard, a `COMMIT` is not refused. It is noticed
/// nevertheless, and not repeated.
#[tokio::test(flavor = "multi_thread")]
async fn r4_on_postgres_a_commit_behind_close_all_is_noticed() {
    const ENDS: [&str; 4] = [
        "CLOSE ALL; COMMIT",
        "CLOSE ALL; COMMIT; BEGIN",
        "CLOSE ALL; COMMIT AND CHAIN",
        "CLOSE consumer_guard; COMMIT",
    ];
    for (end, fails) in ENDS.into_iter().flat_map(|end| [(end, false), (end, true)]) {
        let db = Database::<sqlx::Postgres>::fresh().await;
        let positions = db.append("User", ["u-1", "u-2"]).await;
        let commits = consumer("raw", move |_, tx: &mut sqlx::PgConnection, event| {
            Box::pin(async move {
                sqlx::Postgres::apply(tx, "raw", event).await?;
                if event.aggregate_id == "u-2" {
                    sqlx::Postgres::execute_sql(tx, end).await?;
                    if fails {
                        return Err("afterwards".into());
                    }
                }
                Ok(())
            })
        });
        let report = db.run_once(commits.settings(impatient().retries(3))).await;
        let error = stopped_with(&report, "raw");
        assert!(
            error.contains("its checkpoint was not saved"),
            "{end}: {error}"
        );
        assert_eq!(db.checkpoint("raw").await, Some(0), "{end}");
        // Once: the guide says that what was written before stays.
        assert_eq!(db.applied("raw").await, positions, "{end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_on_sqlite_nothing_gets_through_after_a_swallowed_commit() {
    let db = Database::<sqlx::Sqlite>::fresh().await;
    db.execute(USERS).await;
    db.append("User", ["u-1", "u-2", "u-3"]).await;
    for sql in COMMITS {
        let report = with_raw_sql(&db, sql, true).await;
        refused_the_commit(&db, &report, sql).await;
        assert_eq!(db.applied("raw").await, [] as [i64; 0], "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_on_postgres_a_handler_cannot_prepare_its_transaction() {
    let db = Database::<sqlx::Postgres>::fresh().await;
    db.execute(USERS).await;
    db.append("User", ["u-1", "u-2"]).await;
    let report = with_raw_sql(&db, "PREPARE TRANSACTION 'stolen'", false).await;
    refused_the_commit(&db, &report, "PREPARE TRANSACTION").await;
    assert_eq!(db.applied("raw").await, [] as [i64; 0]);
    let prepared = "SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'stolen'";
    assert_eq!(db.number(prepared).await, 0);
}

/// There a `BEGIN` inside a transaction is only a warning.
#[tokio::test(flavor = "multi_thread")]
async fn r4_on_postgres_a_lone_begin_changes_nothing() {
    let db = Database::<sqlx::Postgres>::fresh().await;
    let positions = db.append("User", ["u-1", "u-2"]).await;
    let report = with_raw_sql(&db, "BEGIN", false).await;
    assert_eq!(
        report.consumer("raw").unwrap().state,
        ConsumerState::CaughtUp,
        "{report}"
    );
    assert_eq!(db.applied("raw").await, positions);
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_on_sqlite_a_begin_is_an_error_and_saves_nothing() {
    let db = Database::<sqlx::Sqlite>::fresh().await;
    db.append("User", ["u-2"]).await;
    let report = with_raw_sql(&db, "BEGIN", false).await;
    assert!(stopped_with(&report, "raw").contains("within a transaction"));
    assert_eq!(db.applied("raw").await, [] as [i64; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_on_sqlite_nothing_gets_through_after_a_raw_rollback() {
    let db = Database::<sqlx::Sqlite>::fresh().await;
    db.execute(USERS).await;
    db.append("User", ["u-2"]).await;
    let sql = "ROLLBACK; INSERT INTO users (id) VALUES ('x')";
    let report = with_raw_sql(&db, sql, false).await;
    assert!(stopped_with(&report, "raw").contains("ROLLBACK"));
    assert_eq!(db.numbers("SELECT count(*) FROM users").await, [0]);
}

/// The crates in the library's dependency tree with these features.
fn crates(features: &[&str]) -> BTreeSet<String> {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["tree", "-p", "consumer", "-e", "normal", "--prefix", "none"])
        .args(["--format", "{p}", "--locked"])
        .args(features)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

/// The fixture `by_hand` shows that it compiles that way.
#[test]
fn r10_the_contract_is_built_without_any_driver_or_runtime() {
    const INFRASTRUCTURE: [&str; 4] = ["sqlx-sqlite", "sqlx-postgres", "libsqlite3-sys", "tokio"];
    let contract = crates(&["--no-default-features"]);
    assert!(contract.contains("consumer-derive"), "{contract:?}");
    for name in INFRASTRUCTURE {
        assert!(!contract.contains(name), "{name} in {contract:?}");
    }
    let everything = crates(&["--features", "postgres"]);
    for name in INFRASTRUCTURE {
        assert!(everything.contains(name), "the control: {everything:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_sharing_the_transaction_does_not_save_a_naive_reader() {
    let db = Database::<sqlx::Postgres>::fresh().await;
    db.execute("CREATE TABLE naive AS SELECT 0::bigint AS position")
        .await;
    let worker = Running::start(db.worker().consumer(read_model("ours")));
    patiently("it starts", worker.caught_up()).await.unwrap();
    let mut writer = db.store.begin().await.unwrap();
    let late = db.append_in(&mut writer, "late").await;
    let early = db.append_one("User", "early").await;
    naive_step(&db.pool).await.unwrap();
    until("ours waits for the gap", async || {
        worker.frontier_wait().is_some()
    })
    .await;
    writer.commit().await.unwrap();
    naive_step(&db.pool).await.unwrap();
    patiently("it catches up", worker.caught_up_to(early))
        .await
        .unwrap();
    worker.stop().await;

    assert_eq!(db.applied("ours").await, [late, early]);
    assert_eq!(
        db.applied("naive").await,
        [early],
        "the naive reader lost the late event"
    );
}

/// On SQLite the highest committed position is settled; one that only the writing transaction sees is
/// not.
#[tokio::test(flavor = "multi_thread")]
async fn r12_on_sqlite_the_highest_position_seen_can_lose_an_event() {
    let db = Database::<sqlx::Sqlite>::fresh().await;
    let worker = Running::start(db.worker().consumer(read_model("ours")));
    let mut tx = db.store.begin().await.unwrap();
    db.append_in(&mut tx, "rolled back").await;
    let naive = db.store.latest_global_position(&mut tx).await.unwrap();
    tx.rollback().await.unwrap();
    let position = db.append_one("User", "u-1").await;
    patiently("ours gets there", worker.caught_up_to(position))
        .await
        .unwrap();
    worker.stop().await;

    assert_eq!(db.applied("ours").await, [position]);
    let mut connection = db.pool.acquire().await.unwrap();
    let left = db.store.read_events(&mut connection, naive, 10).await;
    assert_eq!(left.unwrap(), [], "the naive reader lost the event");
}
