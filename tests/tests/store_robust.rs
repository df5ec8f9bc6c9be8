//! What the store does with rows, databases and callers that are not as it expects.

use std::error::Error as _;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use consumer::admin::{AdminError, Target};
use consumer::{
    Column, ExpectedVersion, LogProblem, Mismatch, NewEvent, OnError, PgEventStore, ReadRange,
    Registered, Settings, StoreError, WorkerError,
};
use consumer_tests::{
    Database, Running, TestDatabase, TestPostgres, consumer, patiently, read_model, run_once,
    test_on, until,
};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, Postgres, Row as _, Sqlite};

fn event(id: &str) -> NewEvent {
    NewEvent::new("User", id, "Changed", "{}")
}

/// Inserts an event as another program does, at a position and time of its choice.
fn insert(position: i64, created_at: &str) -> String {
    format!(
        "INSERT INTO events (global_position, aggregate_type, aggregate_id, aggregate_version,
                             event_id, event_type, payload, created_at)
         VALUES ({position}, 'User', 'u{position}', 1,
                 '00000000-0000-0000-0000-{:012}', 'Changed', '', '{created_at}')",
        position.unsigned_abs()
    )
}

async fn log_problem<DB: TestDatabase>(db: &Database<DB>) -> LogProblem {
    let worker = db.worker().consumer(read_model("users")).build().unwrap();
    match worker.run_once().await {
        Err(WorkerError::Log(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

test_on!(
    [sqlite, postgres],
    an_event_at_a_position_below_one_is_refused,
    an_event_that_comes_below_one_ends_the_worker,
    a_version_that_no_row_can_have_is_not_found,
    a_conflict_can_be_retried_and_a_duplicate_cannot
);

async fn an_event_at_a_position_below_one_is_refused<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["ada"]).await;
    db.execute(&insert(-3, "2020-01-01 00:00:00+00:00")).await;
    assert_eq!(
        log_problem(&db).await,
        LogProblem::PositionBelowOne { position: -3 }
    );
    db.execute("DELETE FROM events WHERE global_position < 1")
        .await;
    assert!(!db.run_once(read_model("users")).await.has_failures());
}

/// It is looked for with each poll, not only at the start.
async fn an_event_that_comes_below_one_ends_the_worker<DB: TestDatabase>(db: Database<DB>) {
    let running = Running::start(db.worker().consumer(read_model("users")));
    db.append("User", ["ada"]).await;
    patiently("it runs", running.caught_up()).await.unwrap();
    db.execute(&insert(-3, "2020-01-01 00:00:00+00:00")).await;
    match running.end().await.unwrap_err() {
        WorkerError::Log(problem) => {
            assert_eq!(problem, LogProblem::PositionBelowOne { position: -3 });
        }
        other => panic!("{other:?}"),
    }
}

async fn a_version_that_no_row_can_have_is_not_found<DB: TestDatabase>(db: Database<DB>) {
    let highest = i32::MAX.unsigned_abs();
    let last = || Registered::<DB>::new(read_model("users")).version(highest);
    db.append("User", ["ada"]).await;
    run_once(db.worker().registered(last())).await;
    let admin = db.worker().registered(last()).admin().unwrap();
    for version in [highest + 1, u32::MAX] {
        let target = Target::new("users").version(version);
        let refused = admin.pause(target).await.unwrap_err();
        assert!(
            matches!(refused, AdminError::UnknownVersion { .. }),
            "{refused:?}"
        );
    }
    let states = "SELECT state FROM consumer_progress";
    assert_eq!(db.texts(states).await, ["running"]);
    // The control: the highest version that a row can have.
    admin
        .pause(Target::new("users").version(highest))
        .await
        .unwrap();
    assert_eq!(db.texts(states).await, ["paused"]);
}

async fn a_conflict_can_be_retried_and_a_duplicate_cannot<DB: TestDatabase>(db: Database<DB>) {
    let first = event("ada");
    let id = first.event_id;
    db.store
        .append(ExpectedVersion::NoStream, &[first])
        .await
        .unwrap();
    let conflict = db
        .store
        .append(ExpectedVersion::NoStream, &[event("ada")])
        .await
        .unwrap_err();
    assert!(conflict.is_retryable());
    let again = db
        .store
        .append(ExpectedVersion::Any, &[event("ada").event_id(id)])
        .await;
    assert!(!again.unwrap_err().is_retryable());
}

#[tokio::test]
async fn an_error_of_the_store_leaves_its_cause_to_source() {
    let error = PgEventStore::connect("postgres://127.0.0.1:1/shop")
        .await
        .unwrap_err();
    let source = error.source().unwrap();
    assert!(!error.to_string().contains(&source.to_string()), "{error}");
}

#[tokio::test]
async fn an_import_without_setval_gets_the_statement_to_run() {
    let db = Database::<Postgres>::fresh().await;
    for position in 1..=5 {
        db.execute(&insert(position, "now")).await;
    }
    let problem = log_problem(&db).await;
    assert!(matches!(
        problem,
        LogProblem::SequenceBehind {
            highest: 5,
            last_value: 0,
            ..
        }
    ));
    let text = problem.to_string();
    let statement = text.split('`').nth(1).unwrap();
    assert_eq!(
        statement,
        "SELECT setval('public.events_global_position_seq', 5)"
    );
    db.execute(statement).await;
    assert!(!db.run_once(read_model("users")).await.has_failures());
    assert_eq!(db.applied("users").await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_time_that_no_program_can_represent_names_its_position() {
    let db = Database::<Postgres>::fresh().await;
    for (position, time) in [(1, "now"), (2, "infinity"), (3, "-infinity")] {
        db.execute(&insert(position, time)).await;
    }
    let mut connection = db.pool.acquire().await.unwrap();
    for (after, expected, name) in [(0, 2, "`infinity`"), (2, 3, "`-infinity`")] {
        let error = db.store.read_events(&mut connection, after, 10).await;
        let StoreError::UnreadableEvent {
            position,
            aggregate_type,
            source,
        } = error.unwrap_err()
        else {
            panic!("another error");
        };
        assert_eq!(
            (position, aggregate_type.as_deref()),
            (expected, Some("User"))
        );
        assert!(source.to_string().contains(name), "{source}");
    }
    let readable = db.store.read_events(&mut connection, 0, 1).await.unwrap();
    assert_eq!(readable.len(), 1);
}

#[tokio::test]
async fn an_id_that_is_not_a_uuid_is_an_error_with_a_position() {
    let db = Database::<Sqlite>::fresh().await;
    db.append("User", ["ada", "bob"]).await;
    db.execute("UPDATE events SET event_id = 'not a UUID' WHERE global_position = 2")
        .await;
    let mut connection = db.pool.acquire().await.unwrap();
    let error = db.store.read_events(&mut connection, 0, 10).await;
    let StoreError::UnreadableEvent {
        position,
        aggregate_type,
        ..
    } = error.unwrap_err()
    else {
        panic!("another error");
    };
    assert_eq!((position, aggregate_type.as_deref()), (2, Some("User")));
}

#[tokio::test]
async fn nullable_columns_on_postgres_are_refused_all_at_once() {
    let db = Database::<Postgres>::fresh().await;
    db.execute("ALTER TABLE events ALTER payload DROP NOT NULL, ALTER event_type DROP NOT NULL")
        .await;
    let error = db.store.check().await.unwrap_err();
    let StoreError::Mismatches { mismatches, .. } = error else {
        panic!("{error:?}")
    };
    let remedies: Vec<String> = mismatches.iter().map(Mismatch::remedy).collect();
    assert_eq!(
        remedies,
        [
            "ALTER TABLE events ALTER event_type SET NOT NULL",
            "ALTER TABLE events ALTER payload SET NOT NULL",
        ]
    );
    db.execute(&remedies.join("; ")).await;
    db.store.check().await.unwrap();
}

#[tokio::test]
async fn nullable_columns_on_sqlite_are_refused() {
    let db = Database::<Sqlite>::empty().await;
    db.execute(
        "CREATE TABLE events (
             global_position INTEGER PRIMARY KEY AUTOINCREMENT, aggregate_type TEXT NOT NULL,
             aggregate_id TEXT NOT NULL, aggregate_version INTEGER NOT NULL,
             event_id TEXT NOT NULL UNIQUE, event_type TEXT NOT NULL,
             event_version INTEGER NOT NULL DEFAULT 1, payload BLOB, trace_id TEXT,
             correlation_id TEXT, causation_id TEXT, metadata TEXT, created_at TEXT NOT NULL,
             UNIQUE (aggregate_type, aggregate_id, aggregate_version))",
    )
    .await;
    let error = db.store.migrate().await.unwrap_err();
    let StoreError::Mismatches { mismatches, .. } = error else {
        panic!("{error:?}")
    };
    assert!(
        matches!(
            mismatches.as_slice(),
            [Mismatch::Nullable {
                column: Column::Payload,
                ..
            }]
        ),
        "{mismatches:?}"
    );
}

/// A database that lacks most characters.
async fn latin1() -> Database<Postgres> {
    let server = TestPostgres::shared().await;
    let name = format!("latin1_{}", std::process::id());
    server
        .execute(&format!(
            "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"
        ))
        .await;
    let url = server.url(&name);
    let store = PgEventStore::connect(&url).await.unwrap();
    Database::of(store, &url).prepared().await
}

#[tokio::test]
async fn an_error_that_the_database_cannot_store_still_counts() {
    let db = latin1().await;
    db.append("User", ["ada"]).await;
    for (name, policy) in [("stops", OnError::Stop), ("parks", OnError::Park)] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let failing = consumer(name, move |_, _, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Err(r"für → C:\x".into()) })
        });
        let settings = Settings::default().retries(0).on_error(policy);
        db.run_once(failing.settings(settings)).await;
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }
    let stored = [
        "consumer_progress WHERE consumer = 'stops'",
        "consumer_parked",
    ];
    for table in stored {
        let errors = db.texts(&format!("SELECT error FROM {table}")).await;
        assert!(
            errors[0].contains(r"f\303\274r \342\206\222 C:\x"),
            "{errors:?}"
        );
    }
}

#[tokio::test]
async fn a_full_disk_that_a_handler_reports_as_text_is_not_its_fault() {
    let db = Database::<Sqlite>::fresh().await;
    db.append("User", ["ada"]).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let full = consumer::<Sqlite, _>("full", move |_, tx, _| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            // Only this connection is full, and the worker does not use it again. The insert needs no
            // statement journal, so that its failure ends the transaction.
            let script = "PRAGMA max_page_count = 1;
                          INSERT INTO applied (consumer, position, aggregate, version)
                          VALUES ('full', 1, hex(randomblob(1000000)), 1)";
            if call == 0 {
                let filled = sqlx::raw_sql(script).execute(&mut *tx).await;
                filled.map_err(|error| error.to_string())?;
            }
            Ok(())
        })
    });
    let settings = Settings::default().retries(0).on_error(OnError::Stop);
    let report = db.run_once(full.settings(settings)).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_deadlock_with_a_writer_of_events_first_can_be_retried() {
    let db = Database::<Postgres>::fresh().await;
    let mut other = db.pool.begin().await.unwrap();
    // The other writer never gives up, so that the append does.
    let begin = format!("SET LOCAL deadlock_timeout = '1h'; {}", insert(1, "now"));
    Postgres::execute_sql(&mut other, &begin).await.unwrap();

    // The server looks for a deadlock once, so long after the wait began.
    let url = format!("{}?options=-c%20deadlock_timeout%3D5s", db.url);
    let store = PgEventStore::connect(&url).await.unwrap();
    let append =
        tokio::spawn(async move { store.append(ExpectedVersion::Any, &[event("u1")]).await });
    until("the append waits for the event", || async {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock'";
        db.number(waiting).await == 1
    })
    .await;
    let head = "INSERT INTO aggregate_heads (aggregate_type, aggregate_id, aggregate_version)
                VALUES ('User', 'u1', 1)";
    let inserted = Postgres::execute_sql(&mut other, head);
    patiently("the append gives up", inserted).await.unwrap();
    other.commit().await.unwrap();

    let error = append.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Contention { .. }), "{error:?}");
    assert!(error.is_retryable());
    let again = db.store.append(ExpectedVersion::Any, &[event("u1")]).await;
    assert_eq!(again.unwrap()[0].aggregate_version, 2);
}

/// Polls a future a number of times and drops it.
async fn drop_after<F: Future>(polls: usize, future: F) {
    let mut future = pin!(future);
    for _ in 0..polls {
        let ready = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready()));
        if ready.await {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Whether the connection is outside a transaction.
async fn is_idle(connection: &mut PgConnection) -> bool {
    // `now()` is when the transaction began. Unprepared, a statement begins its own at its start.
    let same = sqlx::raw_sql("SELECT now() = statement_timestamp()");
    same.fetch_one(connection).await.unwrap().get(0)
}

#[tokio::test]
async fn dropped_calls_leave_no_open_transaction_in_the_pool() {
    let database = TestPostgres::shared().await.database().await;
    database.store().await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy(&database.url)
        .unwrap();
    let store = PgEventStore::new(pool.clone());
    for polls in 0..300 {
        drop_after(polls, store.append(ExpectedVersion::Any, &[event("ada")])).await;
        drop_after(polls, store.begin()).await;
        drop_after(polls, store.check()).await;
        drop_after(polls, store.migrate()).await;
        let mut connection = pool.acquire().await.unwrap();
        assert!(is_idle(&mut connection).await, "after {polls} polls");
    }
    let mut open = pool.begin().await.unwrap();
    assert!(!is_idle(&mut open).await, "this one is open");
}

#[tokio::test]
async fn a_range_read_beside_an_archiver_is_never_empty() {
    const EVENTS: usize = 3_000;
    let db = Database::<Sqlite>::fresh().await;
    db.append_many(EVENTS).await;
    let archiver = db.store.pool().clone();
    let archive = tokio::spawn(async move {
        for cut in 1..EVENTS {
            let delete = sqlx::query("DELETE FROM events WHERE global_position <= $1");
            let cut = i64::try_from(cut).unwrap();
            delete.bind(cut).execute(&archiver).await.unwrap();
        }
    });
    let users = [Arc::from("User")];
    let mut connection = db.pool.acquire().await.unwrap();
    while !archive.is_finished() {
        for scope in [None, Some(&users[..])] {
            let range = ReadRange {
                after: 0,
                up_to: i64::MAX,
                limit: 1,
                max_bytes: u64::MAX,
                scope,
            };
            let read = db.store.read_range(&mut connection, range).await.unwrap();
            assert_eq!(read.len(), 1, "the last event is never deleted");
        }
    }
    archive.await.unwrap();
}
