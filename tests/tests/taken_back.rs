//! A server that restarts, takes back what it had not written to the disk, and gives the positions out again: what
//! a worker has seen before that does not count, even where its connection outlives the server.
//!
//! A pooler keeps such connections. Here, the worker sees everything change at once: the log is locked meanwhile, and
//! the statistics are reset, which looks like a restart.

use consumer::admin::Admin;
use consumer::{ConsumerState, WorkerBuilder};
use consumer_tests::{
    Database, Model, Running, TestDatabase, TestPostgres, patiently, read_model, run_once, until,
};
use sqlx::{PgConnection, Postgres, Transaction};

const DRAW: &str = "SELECT nextval('events_global_position_seq')";

/// Begins a transaction, until whose end no worker reads the log.
async fn unseen(db: &Database<Postgres>) -> Transaction<'static, Postgres> {
    let mut tx = db.store.begin().await.unwrap();
    let lock = "LOCK TABLE events IN ACCESS EXCLUSIVE MODE";
    Postgres::execute_sql(&mut tx, lock).await.unwrap();
    tx
}

/// Takes back everything after a position, in another incarnation of the server.
async fn take_back(db: &Database<Postgres>, tx: &mut PgConnection, after: i64) {
    let incarnation = "SELECT coalesce(pg_stat_get_bgwriter_stat_reset_time()::text, '')";
    let before = db.texts(incarnation).await;
    let take_back = format!(
        "DELETE FROM events WHERE global_position > {after};
         DELETE FROM applied WHERE position > {after};
         DELETE FROM consumer_pending WHERE position > {after};
         UPDATE consumer_progress SET position = least(position, {after});
         UPDATE consumer_frontier SET settled = least(settled, {after});
         SELECT setval('events_global_position_seq', {after});
         SELECT pg_stat_reset_shared('bgwriter')"
    );
    Postgres::execute_sql(tx, &take_back).await.unwrap();
    until("the statistics are reset", async || {
        db.texts(incarnation).await != before
    })
    .await;
}

/// Waits until a worker has read the log, and then the rows of consumers.
async fn has_polled(db: &Database<Postgres>, running: &Running<Postgres>) {
    let admin = Admin::new(db.store.clone());
    for is_paused in [true, false] {
        if is_paused {
            admin.pause("other").await.unwrap();
        } else {
            admin.resume("other").await.unwrap();
        }
        until("the worker has read the rows", async || {
            let consumers = running.consumers();
            let other = consumers.iter().find(|one| &*one.id.name == "other");
            other.is_some_and(|other| (other.state == ConsumerState::Paused) == is_paused)
        })
        .await;
    }
}

fn worker(db: &Database<Postgres>) -> WorkerBuilder<Postgres> {
    let other = read_model("other").scope(&["Order"]);
    let worker = db.worker().consumer(read_model("users"));
    worker.scoped_consumer(other)
}

/// Another transaction draws the first of the positions that were taken back, and commits last.
async fn handles_what_commits_late(
    db: &Database<Postgres>,
    running: Running<Postgres>,
    mut unseen: Transaction<'static, Postgres>,
    kept: &[i64],
) {
    let after = *kept.last().unwrap();
    take_back(db, &mut unseen, after).await;
    let mut late = db.store.begin().await.unwrap();
    let drawn = Postgres::numbers(&mut late, DRAW).await.unwrap();
    assert_eq!(drawn, [after + 1]);
    let mut expected = [kept, &drawn].concat();
    for _ in 0..6 {
        expected.push(db.append_in(&mut unseen, "again").await);
    }
    unseen.commit().await.unwrap();
    has_polled(db, &running).await;
    assert_eq!(db.applied("users").await, kept);

    let insert = format!(
        "INSERT INTO events (global_position, aggregate_type, aggregate_id, aggregate_version, event_id,
                             event_type, payload)
         VALUES ({}, 'User', 'late', 1, gen_random_uuid(), 'Changed', '')",
        drawn[0]
    );
    Postgres::execute_sql(&mut late, &insert).await.unwrap();
    late.commit().await.unwrap();
    until("it handles the last", async || {
        db.applied("users").await.last() == expected.last()
    })
    .await;
    running.stop().await;
    assert_eq!(db.applied("users").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_frontier_that_was_taken_back_settles_nothing() {
    let server = TestPostgres::builder().start();
    let db = Database::on(&server).await;
    let running = Running::start(worker(&db));
    let kept = db.append_many(5).await;
    let lost = db.append_many(5).await;
    patiently("it handles them", running.caught_up_to(lost[4]))
        .await
        .unwrap();
    let unseen = unseen(&db).await;
    handles_what_commits_late(&db, running, unseen, &kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_evidence_from_before_a_restart_settles_nothing() {
    let server = TestPostgres::builder().start();
    let db = Database::on(&server).await;
    let running = Running::start(worker(&db));
    let kept = db.append_many(5).await;
    patiently("it handles them", running.caught_up_to(kept[4]))
        .await
        .unwrap();
    let mut open = db.store.begin().await.unwrap();
    Postgres::numbers(&mut open, DRAW).await.unwrap();
    db.append_many(4).await;
    until("it waits for the gap", async || {
        running.frontier_wait().is_some()
    })
    .await;
    let unseen = unseen(&db).await;
    open.rollback().await.unwrap();
    handles_what_commits_late(&db, running, unseen, &kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_searched_before_a_restart_is_searched_again() {
    let server = TestPostgres::builder().start();
    let db = Database::<Postgres>::on(&server).await;
    let orders = Model::new("orders").scope(&["Order"]);
    let users = Model::new("users").scope(&["User"]);
    let both = || db.worker().scoped_consumer(orders.clone());
    let both = || both().scoped_consumer(users.clone());
    let first = db.append_one("Order", "o").await;
    run_once(both()).await;
    let admin = Admin::new(db.store.clone());
    for name in ["orders", "users"] {
        admin.pause(name).await.unwrap();
    }
    let lost = db.append("Order", ["o", "o", "o"]).await;
    let running = Running::start(both());
    let noted = async |consumer: &str, position: i64| {
        let noted = format!("SELECT position FROM consumer_pending WHERE consumer = '{consumer}'");
        until("its next event is noted", async || {
            db.numbers(&noted).await == [position]
        })
        .await;
    };
    noted("orders", lost[0]).await;
    // When it is noted again, the worker has also looked for an event of the other.
    db.execute("DELETE FROM consumer_pending").await;
    noted("orders", lost[0]).await;

    let mut unseen = unseen(&db).await;
    take_back(&db, &mut unseen, first).await;
    let next = db.append_in(&mut unseen, "again").await;
    assert!(next <= lost[0], "it was given out before");
    unseen.commit().await.unwrap();
    noted("users", next).await;
    running.stop().await;
}
