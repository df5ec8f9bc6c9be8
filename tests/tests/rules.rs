//! The rules of the contract, one by one, each on both databases.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use consumer::{BuildError, ConsumerState, Context, HandlerError, PersistedEvent, Worker};
use consumer_tests::{
    Database, Running, TestBackend, consumer, impatient, judging, naive_step, on_both_databases,
    patiently, read_model, run_once, until,
};
use sqlx::Connection;

/// The types that a consumer was given, in order.
type Seen<T> = Arc<Mutex<Vec<T>>>;

/// A consumer that keeps what `look` sees in each event, and writes nothing.
fn watching<DB: TestBackend, T: Send + 'static>(
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

/// Runs a consumer that applies each event, and at `u-2` runs raw SQL before it goes on or fails.
async fn with_raw_sql<DB: TestBackend>(
    db: &Database<DB>,
    sql: &'static str,
    swallows: bool,
) -> consumer::Report {
    let c = consumer("raw", move |_, tx: &mut DB::Connection, event| {
        Box::pin(async move {
            DB::apply(tx, "raw", event).await?;
            if event.aggregate_id == "u-2" {
                let ran = DB::execute(tx, sql).await;
                if !swallows {
                    ran?;
                }
            }
            Ok(())
        })
    });
    db.run_once(c.settings(impatient())).await
}

/// Why a consumer is stopped.
fn stopped_with(report: &consumer::Report, name: &str) -> String {
    match &report.consumer(name).unwrap().state {
        ConsumerState::Stopped { error, .. } => error.clone(),
        other => panic!("{name} is {other}"),
    }
}

/// What `users` were registered, for the statements that handlers try.
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

/// The consumer is stopped for its commit, and neither its checkpoint nor the statement is saved.
async fn refused_the_commit<DB: TestBackend>(
    db: &Database<DB>,
    report: &consumer::Report,
    sql: &str,
) {
    let error = stopped_with(report, "raw");
    assert!(error.contains("COMMIT"), "{sql}: {error}");
    assert!(
        error.contains("nothing of the batch was saved"),
        "{sql}: {error}"
    );
    assert_eq!(db.checkpoint("raw").await, Some(0), "{sql}");
    assert_eq!(db.numbers("SELECT count(*) FROM users").await, [0], "{sql}");
}

on_both_databases! {
    and through a pooler;

    async fn r1_a_name_is_unique_and_keys_the_checkpoint(db) {
        let db = db.with_read_model().await;
        let head = db.append("User", &["u-1", "u-2"]).await[1];
        run_once(db.worker().consumer(read_model("one")).consumer(read_model("two"))).await;
        assert_eq!(db.checkpoint("one").await, Some(head));
        assert_eq!(db.checkpoint("two").await, Some(head));

        let again = db.run_once(read_model("one")).await;
        assert_eq!(again.consumer("one").unwrap().events, 0, "the name finds its checkpoint again");
        let renamed = db.run_once(read_model("three")).await;
        assert_eq!(renamed.consumer("three").unwrap().events, 2, "another name has none yet");

        let twice = db.worker().consumer(read_model("one")).consumer(read_model("one")).build();
        let error = twice.unwrap_err();
        assert!(matches!(&error, BuildError::NameTaken(taken) if &*taken.name == "one"), "{error}");
    }

    async fn r2_an_error_stops_its_consumer_before_the_event_and_no_other(db) {
        let db = db.with_read_model().await;
        let positions = db.append("User", &["u-1", "u-2", "u-3"]).await;
        let poisoned = judging("poisoned", |_, event| match event.aggregate_id.as_str() {
            "u-2" => Err("u-2 makes no sense".to_owned()),
            _ => Ok(()),
        });
        let report = run_once(
            db.worker().consumer(poisoned.settings(impatient().retries(1))).consumer(read_model("sound")),
        )
        .await;

        assert_eq!(db.checkpoint("poisoned").await, Some(positions[0]));
        assert_eq!(db.applied("poisoned").await, positions[..1]);
        let state = &report.consumer("poisoned").unwrap().state;
        let ConsumerState::Stopped { position, error } = state else { panic!("{state}") };
        assert_eq!((*position, error.as_str()), (Some(positions[1]), "u-2 makes no sense"));
        assert_eq!(db.applied("sound").await, positions);
        assert!(report.has_failures());
    }

    async fn r3_what_a_handler_writes_and_its_checkpoint_commit_or_roll_back_together(db) {
        let db = db.with_read_model().await;
        let positions = db.append("User", &["u-1", "u-2"]).await;
        // The handler's connection sees the claim that is not committed yet: the transaction is one.
        let c = consumer("shared", |_, tx: &mut <Db as sqlx::Database>::Connection, event| Box::pin(async move {
            let claims: i64 = sqlx::query_scalar("SELECT claims FROM consumer_progress WHERE consumer = 'shared'")
                .fetch_one(&mut *tx).await?;
            Db::apply(tx, "shared", event).await?;
            if claims == 1 { return Err(HandlerError::from("not at the first claim")); }
            Ok(())
        }));
        let report = db.run_once(c.settings(impatient().retries(0))).await;
        assert_eq!(stopped_with(&report, "shared"), "not at the first claim");
        assert_eq!(db.applied("shared").await, [] as [i64; 0]);
        assert_eq!(db.checkpoint("shared").await, Some(0));

        db.run_once(read_model("shared")).await;
        assert_eq!(db.applied("shared").await, positions);
        assert_eq!(db.checkpoint("shared").await, Some(positions[1]));
    }

    async fn r4_a_raw_commit_is_refused_and_nothing_of_the_batch_is_saved(db) {
        let db = db.with_read_model().await;
        db.execute(USERS).await;
        db.append("User", &["u-1", "u-2", "u-3"]).await;
        for sql in COMMITS {
            let report = with_raw_sql(&db, sql, false).await;
            refused_the_commit(&db, &report, sql).await;
            assert_eq!(db.applied("raw").await, [] as [i64; 0], "{sql}");
        }
    }

    async fn r4_a_raw_rollback_is_found_and_nothing_of_the_batch_is_saved(db) {
        let db = db.with_read_model().await;
        db.execute(USERS).await;
        db.append("User", &["u-1", "u-2"]).await;
        for sql in ["ROLLBACK", "INSERT INTO users (id) VALUES ('x'); ROLLBACK", "ROLLBACK; BEGIN"] {
            let report = with_raw_sql(&db, sql, false).await;
            let error = stopped_with(&report, "raw");
            assert!(error.contains("ROLLBACK"), "{sql}: {error}");
            assert_eq!(db.applied("raw").await, [] as [i64; 0], "{sql}");
            assert_eq!(db.checkpoint("raw").await, Some(0), "{sql}");
            assert_eq!(db.numbers("SELECT count(*) FROM users").await, [0], "{sql}");
        }
    }

    async fn r4_a_consumer_that_broke_the_rule_is_not_tried_again_until_somebody_says_so(db) {
        let db = db.with_read_model().await;
        db.append("User", &["u-2"]).await;
        let tries: Seen<i64> = Seen::default();
        let c = |tries: &Seen<i64>| {
            let tries = Arc::clone(tries);
            consumer("raw", move |_, tx: &mut <Db as sqlx::Database>::Connection, event| {
                tries.lock().unwrap().push(event.global_position);
                Box::pin(async move { Ok(Db::execute(tx, "COMMIT").await?) })
            })
        };
        db.run_once(c(&tries)).await;
        assert_eq!(tries.lock().unwrap().len(), 1, "five retries are its default");
        assert_eq!(db.texts("SELECT state FROM consumer_progress").await, ["stopped"]);
        db.run_once(c(&tries)).await;
        assert_eq!(tries.lock().unwrap().len(), 2, "a worker that starts tries it again");
    }

    async fn r4_a_nested_begin_is_a_savepoint_and_is_fine(db) {
        let db = db.with_read_model().await;
        let positions = db.append("User", &["u-1", "u-2", "u-3"]).await;
        let c = consumer("nested", |_, tx: &mut <Db as sqlx::Database>::Connection, event| Box::pin(async move {
            let mut kept = tx.begin().await?;
            Db::apply(&mut kept, "nested", event).await?;
            kept.commit().await?;
            let mut dropped = tx.begin().await?;
            Db::apply(&mut dropped, "never", event).await?;
            dropped.rollback().await?;
            Ok(())
        }));
        let report = db.run_once(c).await;
        assert_eq!(report.consumer("nested").unwrap().state, ConsumerState::CaughtUp);
        assert_eq!(db.applied("nested").await, positions);
        assert_eq!(db.applied("never").await, [] as [i64; 0]);
    }

    async fn r5_a_consumer_that_ignores_the_transaction_uses_its_own_connections(db) {
        let elsewhere = Database::<sqlx::Sqlite>::empty().await.with_read_model().await;
        let positions = db.append("User", &["u-1", "u-2"]).await;
        let pool = elsewhere.pool.clone();
        let c = consumer("broker", move |_, _, event| {
            let pool = pool.clone();
            Box::pin(async move {
                let mut connection = pool.acquire().await?;
                Ok(<sqlx::Sqlite as TestBackend>::apply(&mut connection, "broker", event).await?)
            })
        });
        db.run_once(c.without_tx()).await;
        assert_eq!(elsewhere.applied("broker").await, positions);
        assert_eq!(db.checkpoint("broker").await, Some(positions[1]));
    }

    async fn r6_consumers_share_the_very_same_event_with_its_payload_and_metadata(db) {
        // Where the record, its payload and its metadata lie in memory.
        type Places = (i64, usize, usize, usize);
        let seen: [Seen<Places>; 3] = Default::default();
        for id in ["u-1", "u-2"] {
            let event = consumer::NewEvent::new("User", id, "Changed", "{}")
                .metadata(consumer::Metadata::from_json_text(r#"{"tenant": "north"}"#));
            db.store.append(consumer::ExpectedVersion::Any, &[event]).await.unwrap();
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
        assert!(one[0].1 != one[1].1 && one[0].2 != one[1].2, "the control: two events lie apart");
        assert_eq!(one, two);
        assert_eq!(one, scoped);
    }

    async fn r7_a_scope_is_exact_and_an_empty_one_means_every_event(db) {
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
        assert_eq!(*every.lock().unwrap(), ["User", "user", "Users", "Order", "User "]);
    }

    async fn r8_a_consumer_without_a_scope_receives_every_event_beside_scoped_ones(db) {
        let db = db.with_read_model().await;
        let users = db.append("User", &["u-1", "u-2"]).await;
        let orders = db.append("Order", &["o-1"]).await;
        run_once(
            db.worker()
                .scoped_consumer(read_model("users").scope(&["User"]))
                .consumer(read_model("audit_log")),
        )
        .await;
        assert_eq!(db.applied("users").await, users);
        assert_eq!(db.applied("audit_log").await, [users, orders].concat());
    }

    async fn r9_one_consumer_runs_on_every_database(db) {
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
        let positions = db.append("User", &["u-1"]).await;
        run_once(db.worker().consumer(Anywhere(Arc::clone(&seen)))).await;
        assert_eq!(*seen.lock().unwrap(), positions);
    }

    async fn r10_a_consumer_can_be_called_without_a_worker_and_without_a_store(db) {
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
        let (cx, events) = (Context::new("counts"), [PersistedEvent::new(consumer::EventRecord::default())]);
        let handled = consumer::Consumer::<Db>::handle_batch(&counts, &cx, &mut connection, &events);
        assert_eq!((handled.await.unwrap(), *counts.0.lock().unwrap()), (1, 1));
    }

    async fn r11_a_position_that_was_rolled_back_under_a_running_worker_costs_no_event(db) {
        let db = db.with_read_model().await;
        let worker = Running::start(db.worker().consumer(read_model("all")));
        let mut positions = db.append("User", &["before"]).await;
        patiently("it handles the first", worker.caught_up()).await.unwrap();
        let mut open = db.store.begin().await.unwrap();
        let drawn = append(&db, &mut open, "rolled back").await;
        // It looks again while that is open, and sees nothing of it.
        patiently("it looks", worker.caught_up()).await.unwrap();
        open.rollback().await.unwrap();
        positions.extend(db.append("User", &["after"]).await);
        let given_out_again = <Db as sqlx::Database>::NAME == "SQLite";
        assert_eq!(positions[1] == drawn, given_out_again, "{positions:?}");
        patiently("it handles the second", worker.caught_up_to(positions[1])).await.unwrap();
        worker.stop().await;
        assert_eq!(db.applied("all").await, positions);
        let ids = db.texts("SELECT aggregate FROM applied ORDER BY ordinal").await;
        assert_eq!(ids, ["before", "after"]);
    }

    async fn r12_what_a_batch_appended_and_rolled_back_moves_no_checkpoint(db) {
        let db = db.with_read_model().await;
        let mut positions = db.append("User", &["u-1"]).await;
        let store = db.store.clone();
        let fails = consumer("fails", move |_, tx: &mut <Db as sqlx::Database>::Connection, event| {
            let store = store.clone();
            Box::pin(async move {
                // The transaction that saves the checkpoint now sees a position after this event's.
                let reaction = [consumer::NewEvent::new("Mail", "m-1", "Sent", "{}")];
                let stored = store.append_in(tx, consumer::ExpectedVersion::Any, &reaction).await?;
                assert!(stored[0].global_position > event.global_position);
                Err(HandlerError::from("and rolls it back"))
            })
        });
        let worker = Running::start(
            db.worker().consumer(fails.settings(impatient().retries(0))).consumer(read_model("beside")),
        );
        patiently("it stops", worker.consumer_caught_up_to("fails", 1)).await.unwrap_err();
        positions.extend(db.append("User", &["u-2"]).await);
        patiently("beside goes on", worker.consumer_caught_up_to("beside", positions[1])).await.unwrap();
        worker.stop().await;
        assert_eq!(db.checkpoint("fails").await, Some(0));
        assert_eq!(db.applied("beside").await, positions);
        db.run_once(read_model("fails")).await;
        assert_eq!(db.applied("fails").await, positions);
    }
}

/// Appends in an open transaction, and returns the position.
async fn append<DB: TestBackend>(db: &Database<DB>, tx: &mut DB::Connection, id: &str) -> i64 {
    let event = [consumer::NewEvent::new("User", id, "Changed", "{}")];
    let appended = db
        .store
        .append_in(tx, consumer::ExpectedVersion::Any, &event);
    appended.await.unwrap()[0].global_position
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_on_postgres_nothing_beyond_an_open_gap_is_handled_until_it_is_settled() {
    let db = Database::<sqlx::Postgres>::fresh()
        .await
        .with_read_model()
        .await;
    let worker = Running::start(db.worker().consumer(read_model("all")));
    let before = db.append("User", &["before"]).await[0];
    patiently("it handles the first", worker.caught_up())
        .await
        .unwrap();
    let mut writer = db.store.begin().await.unwrap();
    let late = append(&db, &mut writer, "late").await;
    let early = db.append("User", &["early"]).await[0];
    assert!(late < early);
    until("it looks while the gap is open", async || {
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

/// Runs a handler that ends the transaction, swallows what that says and goes on, in a database with
/// this setting. Returns how many of its rows got through, and why the consumer stopped.
async fn rows_after(end: &'static str, setting: &str) -> (i64, String) {
    let db = Database::<sqlx::Postgres>::fresh().await;
    db.execute(USERS).await;
    db.append("User", &["u-1", "u-2"]).await;
    db.execute(&format!(
        "ALTER DATABASE {} SET {setting}",
        db.url.rsplit('/').next().unwrap()
    ))
    .await;
    let pool = sqlx::PgPool::connect(&db.url).await.unwrap();
    let goes_on = consumer("raw", move |_, tx: &mut sqlx::PgConnection, _| {
        Box::pin(async move {
            let _ = sqlx::Postgres::execute(tx, end).await;
            sqlx::raw_sql("INSERT INTO users (id) VALUES ('x')")
                .execute(tx)
                .await?;
            Ok(())
        })
    });
    let worker = Worker::builder(consumer::EventStore::new(pool)).consumer(goes_on);
    let report = run_once(worker).await;
    assert_eq!(db.checkpoint("raw").await, Some(0));
    let rows = db.numbers("SELECT count(*) FROM users").await[0];
    (rows, stopped_with(&report, "raw"))
}

const READ_WRITE: &str = "default_transaction_read_only = off";
const READ_ONLY: &str = "default_transaction_read_only = on";

/// The limit on Postgres: what it runs after a `ROLLBACK`, or after a `COMMIT` that was refused and
/// whose error was swallowed, is no part of any transaction that a worker could refuse.
#[tokio::test(flavor = "multi_thread")]
async fn r4_on_postgres_what_follows_the_end_of_a_transaction_gets_through_though_the_consumer_stops()
 {
    for end in ["ROLLBACK", "COMMIT"] {
        let (rows, error) = rows_after(end, READ_WRITE).await;
        assert!(error.contains(end), "{error}");
        assert!(rows > 0, "the limit is gone: say so in the documentation");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_on_postgres_nothing_gets_through_where_transactions_are_read_only_by_default() {
    for end in ["ROLLBACK", "COMMIT"] {
        let (rows, error) = rows_after(end, READ_ONLY).await;
        assert!(error.contains(end), "{error}");
        assert_eq!(rows, 0, "{end}");
    }
}

/// The same limit: of the batch only what comes after the swallowed refusal, and nothing before it.
#[tokio::test(flavor = "multi_thread")]
async fn r4_on_postgres_only_the_events_after_a_swallowed_commit_leave_rows_behind() {
    let db = Database::<sqlx::Postgres>::fresh()
        .await
        .with_read_model()
        .await;
    db.execute(USERS).await;
    let positions = db.append("User", &["u-1", "u-2", "u-3"]).await;
    for sql in COMMITS {
        let report = with_raw_sql(&db, sql, true).await;
        refused_the_commit(&db, &report, sql).await;
        assert_eq!(db.applied("raw").await, positions[2..], "{sql}");
        db.execute("DELETE FROM applied").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_on_sqlite_nothing_gets_through_after_a_swallowed_commit() {
    let db = Database::<sqlx::Sqlite>::fresh()
        .await
        .with_read_model()
        .await;
    db.execute(USERS).await;
    db.append("User", &["u-1", "u-2", "u-3"]).await;
    for sql in COMMITS {
        let report = with_raw_sql(&db, sql, true).await;
        refused_the_commit(&db, &report, sql).await;
        assert_eq!(db.applied("raw").await, [] as [i64; 0], "{sql}");
    }
}

/// There a `BEGIN` inside a transaction is a warning and changes nothing, so nothing is refused.
#[tokio::test(flavor = "multi_thread")]
async fn r4_on_postgres_a_lone_begin_changes_nothing() {
    let db = Database::<sqlx::Postgres>::fresh()
        .await
        .with_read_model()
        .await;
    let positions = db.append("User", &["u-1", "u-2"]).await;
    let report = with_raw_sql(&db, "BEGIN", false).await;
    assert_eq!(
        report.consumer("raw").unwrap().state,
        ConsumerState::CaughtUp,
        "{report}"
    );
    assert_eq!(db.applied("raw").await, positions);
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_on_sqlite_a_begin_is_an_error_and_nothing_of_the_batch_is_saved() {
    let db = Database::<sqlx::Sqlite>::fresh()
        .await
        .with_read_model()
        .await;
    db.append("User", &["u-2"]).await;
    let report = with_raw_sql(&db, "BEGIN", false).await;
    assert!(stopped_with(&report, "raw").contains("within a transaction"));
    assert_eq!(db.applied("raw").await, [] as [i64; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_on_sqlite_nothing_gets_through_after_a_raw_rollback() {
    let db = Database::<sqlx::Sqlite>::fresh()
        .await
        .with_read_model()
        .await;
    db.execute(USERS).await;
    db.append("User", &["u-2"]).await;
    let sql = "ROLLBACK; INSERT INTO users (id) VALUES ('x')";
    let report = with_raw_sql(&db, sql, false).await;
    assert!(stopped_with(&report, "raw").contains("ROLLBACK"));
    assert_eq!(db.numbers("SELECT count(*) FROM users").await, [0]);
}

/// The crates that the library is built of, with these features.
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

/// That it also compiles so, and a program with it, the fixture `by_hand` shows.
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
async fn r12_sharing_the_transaction_does_not_save_one_who_checkpoints_at_the_highest_position() {
    let db = Database::<sqlx::Postgres>::fresh()
        .await
        .with_read_model()
        .await;
    db.execute("CREATE TABLE naive AS SELECT 0::bigint AS position")
        .await;
    let worker = Running::start(db.worker().consumer(read_model("ours")));
    patiently("it starts", worker.caught_up()).await.unwrap();
    let mut writer = db.store.begin().await.unwrap();
    let late = append(&db, &mut writer, "late").await;
    let early = db.append("User", &["early"]).await[0];
    naive_step(&db.pool).await.unwrap();
    until("ours looks while the gap is open", async || {
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

/// On SQLite the highest position that others see is settled; the one that a transaction itself sees
/// is not.
#[tokio::test(flavor = "multi_thread")]
async fn r12_on_sqlite_one_who_checkpoints_at_what_its_own_transaction_sees_loses_an_event() {
    let db = Database::<sqlx::Sqlite>::fresh()
        .await
        .with_read_model()
        .await;
    let worker = Running::start(db.worker().consumer(read_model("ours")));
    let mut tx = db.store.begin().await.unwrap();
    append(&db, &mut tx, "rolled back").await;
    let naive = db.store.latest_global_position(&mut tx).await.unwrap();
    tx.rollback().await.unwrap();
    let position = db.append("User", &["u-1"]).await[0];
    patiently("ours gets there", worker.caught_up_to(position))
        .await
        .unwrap();
    worker.stop().await;

    assert_eq!(db.applied("ours").await, [position]);
    let mut connection = db.pool.acquire().await.unwrap();
    let left = db.store.read_events(&mut connection, naive, 10).await;
    assert_eq!(left.unwrap(), [], "the naive reader lost the event");
}
