//! The rules of the contract, one by one, each on both databases.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::sync::{Arc, Mutex};

use consumer::{BuildError, Context, HandlerError, LaneState, PersistedEvent, Worker};
use consumer_tests::{
    Database, TestBackend, consumer, impatient, judging, naive_step, on_both_databases, read_model,
    run_once,
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
        LaneState::Stopped { error, .. } => error.clone(),
        other => panic!("{name} is {other}"),
    }
}

/// What `users` were registered, for the statements that handlers try.
const USERS: &str = "CREATE TABLE users (id TEXT)";

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
        let LaneState::Stopped { position, error } = state else { panic!("{state}") };
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
        for sql in [
            "COMMIT",
            "END",
            "COMMIT; BEGIN",
            "INSERT INTO users (id) VALUES ('x'); COMMIT",
            "INSERT INTO users (id) VALUES ('x'); END; INSERT INTO users (id) VALUES ('y')",
            "/* only the end */ commit transaction",
        ] {
            for swallows in [false, true] {
                let report = with_raw_sql(&db, sql, swallows).await;
                let error = stopped_with(&report, "raw");
                assert!(error.contains("COMMIT"), "{sql}: {error}");
                assert!(error.contains("nothing of the batch was saved"), "{sql}: {error}");
                assert_eq!(db.applied("raw").await.iter().filter(|&&position| position < 3).count(), 0, "{sql}");
                assert_eq!(db.checkpoint("raw").await, Some(0), "{sql}");
                if !swallows {
                    assert_eq!(db.numbers("SELECT count(*) FROM users").await, [0], "{sql}");
                    assert_eq!(db.applied("raw").await, [] as [i64; 0], "{sql}");
                }
                db.execute("DELETE FROM applied").await;
            }
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
        assert_eq!(report.consumer("nested").unwrap().state, LaneState::CaughtUp);
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

    async fn r6_consumers_share_the_very_same_payload(db) {
        let seen: [Seen<(i64, usize)>; 2] = Default::default();
        db.append("User", &["u-1", "u-2"]).await;
        let look = |event: &PersistedEvent| (event.global_position, event.payload.as_ptr() as usize);
        run_once(
            db.worker().consumer(watching("one", &seen[0], look)).consumer(watching("two", &seen[1], look)),
        )
        .await;
        assert_eq!(seen[0].lock().unwrap().len(), 2);
        assert_eq!(*seen[0].lock().unwrap(), *seen[1].lock().unwrap());
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

    async fn r11_an_event_that_commits_late_is_neither_lost_nor_handled_out_of_order(db) {
        let db = db.with_read_model().await;
        let mut late = db.store.begin().await.unwrap();
        let event = consumer::NewEvent::new("User", "late", "Changed", "{}");
        let stored = db.store.append(&mut late, consumer::ExpectedVersion::Any, &[event]).await.unwrap();
        let mut positions = vec![stored[0].global_position];
        let worker = consumer_tests::Running::start(db.worker().consumer(read_model("all")));
        if <Db as sqlx::Database>::NAME == "PostgreSQL" {
            // A later position is committed and visible while the lower one is still to come.
            positions.extend(db.append("User", &["early"]).await);
        }
        late.commit().await.unwrap();
        positions.extend(db.append("User", &["after"]).await);
        let head = positions[positions.len() - 1];
        consumer_tests::patiently("it catches up", worker.caught_up_to(head)).await.unwrap();
        worker.stop().await;
        assert_eq!(db.applied("all").await, positions);
    }
}

/// Runs a handler that rolls back and goes on, as a role with these defaults, and says how many of
/// its rows got through.
async fn rows_after_a_rollback(role_setting: &str) -> (i64, String) {
    let db = Database::<sqlx::Postgres>::fresh().await;
    db.execute(USERS).await;
    db.append("User", &["u-1", "u-2"]).await;
    db.execute(&format!(
        "ALTER DATABASE {} SET {role_setting}",
        db.url.rsplit('/').next().unwrap()
    ))
    .await;
    let pool = sqlx::PgPool::connect(&db.url).await.unwrap();
    let goes_on = consumer("raw", |_, tx: &mut sqlx::PgConnection, _| {
        Box::pin(async move {
            sqlx::raw_sql("ROLLBACK; INSERT INTO users (id) VALUES ('x')")
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

/// What Postgres runs after a `ROLLBACK` is no part of any transaction that a worker could refuse.
#[tokio::test(flavor = "multi_thread")]
async fn r4_on_postgres_what_follows_a_raw_rollback_gets_through_though_the_consumer_stops() {
    let (rows, error) = rows_after_a_rollback("default_transaction_read_only = off").await;
    assert!(error.contains("ROLLBACK"), "{error}");
    assert!(rows > 0, "the limit is gone: say so in the documentation");
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_on_postgres_nothing_gets_through_where_transactions_are_read_only_by_default() {
    let (rows, error) = rows_after_a_rollback("default_transaction_read_only = on").await;
    assert!(error.contains("ROLLBACK"), "{error}");
    assert_eq!(rows, 0);
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
        LaneState::CaughtUp,
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

/// R10 is proved by the build without default features; here, by a consumer that names nothing but
/// the contract and is called without a worker, a store or a pool.
#[tokio::test]
async fn r10_a_consumer_can_be_called_without_any_infrastructure() {
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
    let mut connection = sqlx::SqliteConnection::connect("sqlite::memory:")
        .await
        .unwrap();
    let events = [PersistedEvent::new(consumer::EventRecord::default())];
    let handled = consumer::Consumer::<sqlx::Sqlite>::handle_batch(
        &counts,
        &Context::new("counts"),
        &mut connection,
        &events,
    )
    .await
    .unwrap();
    assert_eq!((handled, *counts.0.lock().unwrap()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn r12_sharing_the_transaction_does_not_save_one_who_checkpoints_at_the_highest_position() {
    let db = Database::<sqlx::Postgres>::fresh()
        .await
        .with_read_model()
        .await;
    db.execute("CREATE TABLE naive AS SELECT 0::bigint AS position")
        .await;
    let mut late = db.store.begin().await.unwrap();
    let event = consumer::NewEvent::new("User", "late", "Changed", "{}");
    let stored = db
        .store
        .append(&mut late, consumer::ExpectedVersion::Any, &[event])
        .await
        .unwrap();
    let early = db.append("User", &["early"]).await[0];
    let worker = consumer_tests::Running::start(
        Worker::builder(db.store.clone()).consumer(read_model("ours")),
    );
    naive_step(&db.pool).await.unwrap();
    late.commit().await.unwrap();
    naive_step(&db.pool).await.unwrap();
    consumer_tests::patiently("it catches up", worker.caught_up())
        .await
        .unwrap();
    worker.stop().await;

    let late = stored[0].global_position;
    assert_eq!(db.applied("ours").await, [late, early]);
    assert_eq!(
        db.applied("naive").await,
        [early],
        "the naive reader lost the late event"
    );
}
