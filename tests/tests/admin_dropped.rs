//! A command that is dropped half way leaves no open transaction in the pool.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use consumer::EventStore;
use consumer::admin::Admin;
use consumer_tests::{Database, Model, run_once, until};
use sqlx::{PgPool, Postgres};

/// How often each command is tried: whether it is caught in the middle of `BEGIN` is up to chance.
const ROUNDS: usize = 5;

/// Drops a future when it is woken for the poll after this many; returns whether it was done.
async fn dropped_after<F: Future>(polls: usize, future: F) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| match left.checked_sub(1) {
        None => Poll::Ready(false),
        Some(fewer) => {
            left = fewer;
            future.as_mut().poll(cx).map(|_| true)
        }
    })
    .await
}

/// A pool of one connection, and a table to write into.
async fn one_connection(db: &Database<Postgres>) -> PgPool {
    db.execute("CREATE TABLE plain (id INT NOT NULL)").await;
    let options = sqlx::pool::PoolOptions::new().max_connections(1);
    options.connect(&db.url).await.unwrap()
}

/// Whether a plain insert through the pool is lost: its connection was in a transaction.
async fn loses_inserts(db: &Database<Postgres>, pool: &PgPool) -> bool {
    db.execute("DELETE FROM plain").await;
    let inserted = sqlx::query("INSERT INTO plain VALUES (1)")
        .execute(pool)
        .await;
    inserted.is_err() || db.number("SELECT count(*) FROM plain").await == 0
}

/// Drops a command after each number of polls; returns after how many an insert was lost.
async fn lossy<F: Future>(
    db: &Database<Postgres>,
    pool: &PgPool,
    command: impl Fn() -> F,
) -> Vec<usize> {
    let mut lossy = Vec::new();
    for polls in 1.. {
        let is_done = dropped_after(polls, command()).await;
        if loses_inserts(db, pool).await {
            lossy.push(polls);
            sqlx::query("ROLLBACK").execute(pool).await.unwrap();
        }
        if is_done {
            break;
        }
    }
    lossy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_command_leaves_no_open_transaction() {
    let db = Database::<Postgres>::fresh().await;
    run_once(Model::new("users").worker(&db)).await;
    let pool = one_connection(&db).await;
    let admin = Admin::new(EventStore::<Postgres>::new(pool.clone()));
    for _ in 0..ROUNDS {
        assert_eq!(lossy(&db, &pool, || admin.frontier()).await, [0; 0]);
        assert_eq!(lossy(&db, &pool, || admin.parked("users")).await, [0; 0]);
        assert_eq!(lossy(&db, &pool, || admin.pause("users")).await, [0; 0]);
        assert_eq!(lossy(&db, &pool, || admin.resume("users")).await, [0; 0]);
    }
}

/// The control: `BEGIN` as sqlx sends it is lossy when it is dropped in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_begin_loses_the_next_insert() {
    let db = Database::<Postgres>::fresh().await;
    let pool = one_connection(&db).await;
    // Not at the first try if the server answers before the future would wait for it.
    until("an insert is lost", async || {
        !lossy(&db, &pool, || pool.begin()).await.is_empty()
    })
    .await;
}
