//! Futures that are dropped half way, and transactions that the program left open: neither loses what
//! is written next.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use consumer::admin::Admin;
use consumer::{EventStore, ExpectedVersion, NewEvent, merge_segments};
use consumer_tests::{Database, Model, TestDatabase, dropped_after, run_once, test_on, until};
use sqlx::pool::PoolConnection;
use sqlx::{Pool, Postgres, Sqlite};

test_on!(
    [sqlite, postgres, through_a_pooler],
    a_dropped_operation_leaves_no_open_transaction,
    a_transaction_that_the_program_left_open_is_replaced,
);

test_on!([postgres], a_dropped_begin_loses_the_next_insert);

/// As many connections as a worker with one lane needs.
const CONNECTIONS: u32 = 4;

/// An operation of the library over a pool, whose result does not matter.
type Operation<DB> =
    Box<dyn Fn(Pool<DB>) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>>>;

fn operation<DB: TestDatabase, T, E: Debug, F>(operate: fn(EventStore<DB>) -> F) -> Operation<DB>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    Box::new(move |pool| {
        let done = operate(EventStore::new(pool));
        Box::pin(async { done.await.map(drop).map_err(|error| format!("{error:?}")) })
    })
}

/// Every kind of operation that takes connections from a pool.
fn operations<DB: TestDatabase>() -> [(&'static str, Operation<DB>); 11] {
    [
        (
            "append",
            operation(|store| async move { store.append(ExpectedVersion::Any, &[event()]).await }),
        ),
        (
            "begin",
            operation(|store| async move { store.begin().await }),
        ),
        (
            "check",
            operation(|store| async move { store.check().await }),
        ),
        (
            "migrate",
            operation(|store| async move { store.migrate().await }),
        ),
        ("caught up", operation(head)),
        (
            "frontier",
            operation(|store| async move { Admin::new(store).frontier().await }),
        ),
        (
            "parked",
            operation(|store| async move { Admin::new(store).parked("users").await }),
        ),
        (
            "pause",
            operation(|store| async move { Admin::new(store).pause("users").await }),
        ),
        (
            "resume",
            operation(|store| async move { Admin::new(store).resume("users").await }),
        ),
        (
            "merge",
            operation(|store| async move { merge_segments(&store, "users", 1, 1).await }),
        ),
        ("run once", operation(run)),
    ]
}

fn event() -> NewEvent {
    NewEvent::new("User", "ada", "Changed", "{}")
}

async fn run<DB: TestDatabase>(store: EventStore<DB>) -> Result<(), String> {
    let worker = consumer::Worker::builder(store).consumer(Model::new("users"));
    let worker = worker.build().map_err(|error| error.to_string())?;
    let report = worker.run_once().await;
    let report = report.map_err(|error| format!("{error:?}"))?;
    if report.has_failures() {
        return Err(report.to_string());
    }
    Ok(())
}

/// Asks for the head, as `caught_up` does first, of a worker that is not running.
async fn head<DB: TestDatabase>(store: EventStore<DB>) -> Result<(), String> {
    let worker = consumer::Worker::builder(store).consumer(Model::new("users"));
    let handle = worker.build().map_err(|error| error.to_string())?.handle();
    // The worker, and with it its end, is known to the handle.
    match handle.caught_up().await {
        Err(consumer::WaitError::Store(error)) => Err(format!("{error:?}")),
        _ => Ok(()),
    }
}

/// A database in which the consumer has run, with a table for the test's own inserts, and a small
/// pool.
async fn prepare<DB: TestDatabase>(db: &Database<DB>) -> Pool<DB> {
    run_once(Model::new("users").worker(db)).await;
    db.execute("CREATE TABLE plain (id INT NOT NULL)").await;
    let options = sqlx::pool::PoolOptions::new().max_connections(CONNECTIONS);
    options.connect(&db.url).await.unwrap()
}

/// All connections of the pool.
async fn all<DB: TestDatabase>(pool: &Pool<DB>) -> Vec<PoolConnection<DB>> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(pool.acquire().await.unwrap());
    }
    connections
}

/// Whether a plain insert over any connection of the pool is lost: it was in a transaction.
async fn loses_inserts<DB: TestDatabase>(db: &Database<DB>, pool: &Pool<DB>) -> bool {
    db.execute("DELETE FROM plain").await;
    let mut failed = false;
    for mut connection in all(pool).await {
        let inserted = DB::execute_sql(&mut connection, "INSERT INTO plain VALUES (1)").await;
        failed |= inserted.is_err();
    }
    let inserted = db.number("SELECT count(*) FROM plain").await;
    failed || inserted < i64::from(CONNECTIONS)
}

/// Drops an operation after each number of polls until it is done; returns after how many an insert
/// was lost.
async fn lossy<DB: TestDatabase, F: Future>(
    db: &Database<DB>,
    pool: &Pool<DB>,
    operation: impl Fn() -> F,
) -> Vec<usize> {
    let mut lossy = Vec::new();
    for polls in 1.. {
        let is_done = dropped_after(polls, operation()).await;
        if loses_inserts(db, pool).await {
            lossy.push(polls);
            for mut connection in all(pool).await {
                let _ = DB::execute_sql(&mut connection, "ROLLBACK").await;
            }
        }
        if is_done {
            break;
        }
    }
    lossy
}

async fn a_dropped_operation_leaves_no_open_transaction<DB: TestDatabase>(db: Database<DB>) {
    let pool = prepare(&db).await;
    for (name, operation) in operations() {
        let lossy = lossy(&db, &pool, || operation(pool.clone())).await;
        assert_eq!(lossy, [0; 0], "`{name}` was dropped after these polls");
    }
}

/// The control: `BEGIN` as sqlx sends it is lossy when it is dropped in the middle.
async fn a_dropped_begin_loses_the_next_insert(db: Database<Postgres>) {
    let pool = prepare(&db).await;
    // Not at the first try if the server answers before the future would wait for it.
    until("an insert is lost", async || {
        !lossy(&db, &pool, || pool.begin()).await.is_empty()
    })
    .await;
}

/// What a program may leave on a connection of its pool.
trait LeftOpen: TestDatabase {
    /// On each connection.
    const LEFT: &'static [&'static str];
}

impl LeftOpen for Sqlite {
    const LEFT: &'static [&'static str] = &["BEGIN; SELECT count(*) FROM plain"];
}

impl LeftOpen for Postgres {
    const LEFT: &'static [&'static str] = &[
        "BEGIN",
        "BEGIN; INSERT INTO plain VALUES (0)",
        "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM plain",
        "BEGIN; SAVEPOINT a",
        "BEGIN; SELECT 1 / 0",
    ];
}

async fn a_transaction_that_the_program_left_open_is_replaced<DB: LeftOpen>(db: Database<DB>) {
    let pool = prepare(&db).await;
    for left in DB::LEFT {
        for (name, operation) in operations() {
            leave(&pool, left).await;
            assert_eq!(
                operation(pool.clone()).await,
                Ok(()),
                "`{name}` after `{left}`"
            );
            assert_eq!(db.number("SELECT count(*) FROM plain").await, 0, "{name}");
        }
        // The control: the program's own insert is lost there.
        leave(&pool, left).await;
        let mut connection = pool.acquire().await.unwrap();
        let _ = DB::execute_sql(&mut connection, "INSERT INTO plain VALUES (1)").await;
        assert_eq!(db.number("SELECT count(*) FROM plain").await, 0, "{left}");
        DB::execute_sql(&mut connection, "ROLLBACK").await.unwrap();
    }
    // What the operations themselves did was committed.
    assert_eq!(db.log().await.len(), DB::LEFT.len());
    assert_eq!(db.applied("users").await, db.log().await);
}

/// Leaves all connections of the pool in the middle of a script.
async fn leave<DB: TestDatabase>(pool: &Pool<DB>, script: &str) {
    let mut connections = all(pool).await;
    for connection in &mut connections {
        let _ = DB::execute_sql(connection, "ROLLBACK").await;
        let _ = DB::execute_sql(connection, script).await;
    }
    drop(connections);
    until("they are back in the pool", async || {
        pool.num_idle() == CONNECTIONS as usize
    })
    .await;
}
