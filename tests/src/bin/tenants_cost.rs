//! What workers cost that have nothing to do, one for each of several schemas: connections, and statements
//! per second.
//!
//! `cargo run --release -p consumer-tests --bin tenants_cost`.

use std::time::{Duration, Instant};

use consumer::{PgEventStore, Schema, Worker};
use consumer_tests::{TestDatabase, TestPostgres, read_model};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Postgres};
use tokio::task::JoinSet;

/// Longer than the longest interval of a worker.
const MEASURED: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() {
    let server = TestPostgres::builder()
        .setting("max_connections", "500")
        .start();
    println!("schemas | poll interval | connections | statements/s | transactions/s");
    for schemas in [1, 10, 100] {
        for poll in [250, 1000] {
            measure(&server, schemas, Duration::from_millis(poll)).await;
        }
    }
}

async fn measure(server: &TestPostgres, schemas: u32, poll: Duration) {
    let database = server.database().await;
    let pool = PgPoolOptions::new()
        .max_connections(4 * schemas + 5)
        .connect(&database.url)
        .await;
    let pool = pool.expect("connect");
    execute(&pool, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements").await;
    let mut workers = JoinSet::new();
    let mut handles = Vec::new();
    for n in 0..schemas {
        let schema = Schema::default()
            .database_schema(format!("tenant_{n}"))
            .in_search_path();
        let store = PgEventStore::new(pool.clone())
            .with_schema(schema)
            .expect("a name");
        store.migrate().await.expect("migrate");
        let worker = Worker::builder(store)
            .consumer(read_model("users"))
            .poll_interval(poll)
            .build()
            .expect("build the worker");
        handles.push(worker.handle());
        workers.spawn(worker.run(std::future::pending()));
    }
    for handle in &handles {
        handle.caught_up().await.expect("it runs");
    }
    // What a start does once is over.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (began, before) = (Instant::now(), counts(&pool).await);
    tokio::time::sleep(MEASURED).await;
    let (seconds, after) = (began.elapsed().as_secs_f64(), counts(&pool).await);
    let connections = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    println!(
        "{schemas} | {poll:?} | {} | {:.0} | {:.0}",
        number(&pool, connections).await,
        (after.0 - before.0) as f64 / seconds,
        (after.1 - before.1) as f64 / seconds,
    );
    for handle in handles {
        handle.shut_down();
    }
    workers.join_all().await;
    pool.close().await;
}

/// How many statements and transactions the database has had.
async fn counts(pool: &PgPool) -> (i64, i64) {
    let statements = "SELECT sum(calls)::bigint FROM pg_stat_statements AS s
                        JOIN pg_database AS d ON d.oid = s.dbid AND d.datname = current_database()";
    let transactions = "SELECT xact_commit + xact_rollback FROM pg_stat_database
                         WHERE datname = current_database()";
    (
        number(pool, statements).await,
        number(pool, transactions).await,
    )
}

async fn number(pool: &PgPool, sql: &str) -> i64 {
    let mut connection = pool.acquire().await.expect("a connection");
    Postgres::numbers(&mut connection, sql).await.expect(sql)[0]
}

async fn execute(pool: &PgPool, sql: &str) {
    let mut connection = pool.acquire().await.expect("a connection");
    Postgres::execute_sql(&mut connection, sql)
        .await
        .expect(sql);
}
