//! An old transaction is open, as that of a dump is: dead versions of the checkpoint rows pile up. Claims do not
//! become slower, and never take another row than their own.

use std::time::{Duration, Instant};

use consumer::{EventStore, Settings, Worker};
use consumer_tests::{
    Counting, Database, Running, TestDatabase, consumer, impatient, patiently, read_model,
    run_once, test_on, until,
};
use sqlx::{Postgres, SqlSafeStr as _, Transaction};

test_on!(
    [postgres, through_a_pooler],
    a_row_that_was_moved_is_found_again,
    a_row_is_found_again_after_a_refused_commit,
    an_address_that_another_row_has_now_is_not_claimed,
    two_workers_share_a_row_with_many_versions
);

/// Begins a transaction that may see every version which was alive at that time, and so keeps all later ones.
async fn hold_the_horizon(db: &Database<Postgres>) -> Transaction<'static, Postgres> {
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ".into_sql_str();
    let mut tx = db.pool.begin_with(begin).await.unwrap();
    Postgres::execute_sql(&mut tx, "SELECT 1").await.unwrap();
    tx
}

/// Updates every checkpoint row this number of times, without a search for any.
async fn update_rows(db: &Database<Postgres>, times: usize) {
    db.execute(&format!(
        "DO $$ DECLARE rows tid[]; at tid; BEGIN
             SET LOCAL enable_seqscan = off;
             SELECT array_agg(ctid) INTO rows FROM consumer_progress;
             FOR n IN 1 .. {times} LOOP FOR row IN 1 .. cardinality(rows) LOOP
                 UPDATE consumer_progress SET updated_at = clock_timestamp()
                  WHERE ctid = rows[row] RETURNING ctid INTO at;
                 rows[row] := at;
             END LOOP; END LOOP;
         END $$"
    ))
    .await;
}

/// Where a row is: its block, and its place in that.
async fn address(db: &Database<Postgres>, consumer: &str) -> (i64, i64) {
    let part = async |index: usize| {
        let part = format!("(ctid::text::point)[{index}]::bigint");
        let sql = format!("SELECT {part} FROM consumer_progress WHERE consumer = '{consumer}'");
        db.number(&sql).await
    };
    (part(0).await, part(1).await)
}

/// Enrols consumers, and lets their rows have more versions than a search would pass quickly.
async fn grown(db: &Database<Postgres>, consumers: &[&str]) {
    for name in consumers {
        db.run_once(read_model(name)).await;
    }
    let horizon = hold_the_horizon(db).await;
    update_rows(db, 2_000).await;
    horizon.rollback().await.unwrap();
    let (block, _) = address(db, consumers[0]).await;
    assert!(block > 16, "{block}: too few versions for an address");
}

/// Appends an event, and waits until consumers have handled it.
async fn handle_one_more(db: &Database<Postgres>, worker: &Running<Postgres>) -> i64 {
    let position = db.append_one("User", "u-1").await;
    patiently("all catch up", worker.caught_up_to(position))
        .await
        .unwrap();
    position
}

const CLAIM_AT_ADDRESS: &str = "ctid = [$]5";
const SAVE_AT_ADDRESS: &str = "ctid = [$]15";
const SEARCH: &str = r"needs > [$]?[0-9]+\)\s+FOR UPDATE SKIP LOCKED";
const SNAPSHOT: &str = "^SELECT consumer, version, slice_from, slice_to";

fn does_nothing(name: &str) -> consumer_tests::TestConsumer<Postgres> {
    consumer(name, |_, _, _| Box::pin(async { Ok(()) })).settings(Settings::default().batch_size(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_and_a_save_cost_the_same_after_12_000_updates() {
    const MOST_PAGES: i64 = 16;
    let counting = Counting::start().await;
    let db = Database::on(&counting.server).await;
    let _horizon = hold_the_horizon(&db).await;
    run_once(db.worker().consumer(does_nothing("c"))).await;
    update_rows(&db, 12_000).await;

    counting.forget().await;
    db.append_many(100).await;
    run_once(db.worker().consumer(does_nothing("c"))).await;

    for (what, calls) in [(CLAIM_AT_ADDRESS, 99), (SAVE_AT_ADDRESS, 100)] {
        assert_eq!(counting.calls(&db, what).await, calls, "{what}");
        let pages = counting.pages(&db, what).await;
        assert!(
            pages <= calls * MOST_PAGES,
            "{what}: {pages} pages in {calls}"
        );
    }
    // The control: the first claim had no address.
    assert_eq!(counting.calls(&db, SEARCH).await, 1);
    let pages = counting.pages(&db, SEARCH).await;
    assert!(
        pages > 100,
        "{pages}: the rows have too few versions to prove anything"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_leaves_one_dead_version_of_its_row() {
    let db = Database::<Postgres>::fresh().await;
    run_once(db.worker().consumer(does_nothing("c"))).await;
    db.append_many(50).await;
    run_once(db.worker().consumer(does_nothing("c"))).await;
    let updates = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'consumer_progress'";
    until("the updates are counted", async || {
        db.number(updates).await >= 50
    })
    .await;
    assert_eq!(db.number(updates).await, 50);
}

/// Each pause is measured from when the answer arrived, so it is longer than the server's share of the search.
#[tokio::test(flavor = "multi_thread")]
async fn searches_take_a_twentieth_of_the_time_at_most() {
    let counting = Counting::start().await;
    let db = Database::on(&counting.server).await;
    let _horizon = hold_the_horizon(&db).await;
    run_once(db.worker().consumer(does_nothing("c"))).await;
    update_rows(&db, 50_000).await;
    let interval = Duration::from_millis(10);
    let builder = db
        .worker()
        .poll_interval(interval)
        .snapshot_interval(interval)
        .consumer(does_nothing("c"));
    let worker = Running::start(builder);
    handle_one_more(&db, &worker).await;

    let mut other = db.pool.begin().await.unwrap();
    let lock = "SELECT FROM consumer_progress FOR UPDATE";
    Postgres::execute_sql(&mut other, lock).await.unwrap();
    counting.forget().await;
    let began = Instant::now();
    let position = db.append_one("User", "u-1").await;
    until("the lane has asked often", async || {
        counting.calls(&db, CLAIM_AT_ADDRESS).await >= 100
            && counting.calls(&db, SEARCH).await > 0
            && counting.calls(&db, SNAPSHOT).await > 0
    })
    .await;
    let micros = i64::try_from(began.elapsed().as_micros()).unwrap();
    for what in [SEARCH, SNAPSHOT] {
        let (all, longest) = counting.micros(&db, what).await;
        assert!(
            all - longest <= micros / 19,
            "{what}: {all} µs in {micros} µs"
        );
    }
    other.rollback().await.unwrap();
    patiently("the row is free", worker.caught_up_to(position))
        .await
        .unwrap();
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settled_frontier_is_saved_once_a_second_at_most() {
    let counting = Counting::start().await;
    let db = Database::on(&counting.server).await;
    let read_nothing = does_nothing("c").settings(Settings::default().batch_size(1_000));
    counting.forget().await;
    let began = Instant::now();
    let worker = Running::start(db.worker().consumer(read_nothing));
    for _ in 0..20 {
        let head = *db.append_many(1_000).await.last().unwrap();
        patiently("the worker sees it", worker.caught_up_to(head))
            .await
            .unwrap();
    }
    let saves = counting.calls(&db, "consumer_frontier.*ON CONFLICT").await;
    let seconds = i64::try_from(began.elapsed().as_secs()).unwrap();
    assert!((1..=seconds + 1).contains(&saves), "{saves} in {seconds} s");
    worker.stop().await;
}

async fn a_row_that_was_moved_is_found_again(db: Database<Postgres>) {
    grown(&db, &["users"]).await;
    let worker = Running::start(db.worker().consumer(read_model("users")));
    let mut positions = vec![handle_one_more(&db, &worker).await];
    for moved in [
        "UPDATE consumer_progress SET updated_at = clock_timestamp()",
        "UPDATE consumer_progress SET claims = claims",
        "CREATE TABLE kept AS SELECT * FROM consumer_progress; DELETE FROM consumer_progress;
         INSERT INTO consumer_progress SELECT * FROM kept; DROP TABLE kept",
        "CLUSTER consumer_progress USING consumer_progress_pkey",
        "VACUUM FULL consumer_progress",
    ] {
        let before = address(&db, "users").await;
        db.execute(moved).await;
        assert_ne!(address(&db, "users").await, before, "{moved}");
        positions.push(handle_one_more(&db, &worker).await);
        assert_eq!(db.applied("users").await, positions, "{moved}");
    }
    worker.stop().await;
}

/// The version that the refused transaction made is never alive.
async fn a_row_is_found_again_after_a_refused_commit(db: Database<Postgres>) {
    grown(&db, &["users"]).await;
    db.execute(
        "CREATE SEQUENCE commits;
         CREATE FUNCTION unlucky() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('commits') = 2 THEN RAISE EXCEPTION 'not this time'; END IF;
             RETURN NULL;
         END $$;
         CREATE CONSTRAINT TRIGGER unlucky AFTER INSERT ON applied
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION unlucky();",
    )
    .await;
    let settings = impatient().retries(3);
    let worker = Running::start(db.worker().consumer(read_model("users").settings(settings)));
    let mut positions = Vec::new();
    for _ in 0..3 {
        positions.push(handle_one_more(&db, &worker).await);
    }
    assert_eq!(db.applied("users").await, positions);
    assert_eq!(db.number("SELECT last_value FROM commits").await, 4);
    worker.stop().await;
}

/// Moves the row of `one` and then that of `other` to where the first one was; returns whether that
/// worked.
async fn take_the_place(db: &Database<Postgres>, one: &str, other: &str) -> bool {
    let (block, place) = address(db, one).await;
    let update = "UPDATE consumer_progress SET updated_at = clock_timestamp() WHERE consumer =";
    db.execute(&format!("{update} '{one}'")).await;
    db.execute("VACUUM consumer_progress").await;
    for _ in 0..200 {
        db.execute(&format!("{update} '{other}'")).await;
        if address(db, other).await == (block, place) {
            return true;
        }
    }
    false
}

async fn an_address_that_another_row_has_now_is_not_claimed(db: Database<Postgres>) {
    grown(&db, &["one", "other"]).await;
    // No worker moves the other row.
    let worker = Running::start(db.worker().consumer(read_model("one")));
    let (mut positions, mut is_taken) = (Vec::new(), false);
    for _ in 0..20 {
        // Both on one page, and then the first one where its lane remembers it.
        update_rows(&db, 1).await;
        positions.push(handle_one_more(&db, &worker).await);
        is_taken = take_the_place(&db, "one", "other").await;
        if is_taken {
            break;
        }
    }
    assert!(is_taken, "the row never gets there");
    let (block, _) = address(&db, "other").await;
    assert!(block >= 16, "{block}: no lane remembers such an address");
    for _ in 0..3 {
        positions.push(handle_one_more(&db, &worker).await);
    }
    assert_eq!(db.applied("one").await, positions);
    assert_eq!(db.checkpoint("one").await, positions.last().copied());
    assert_eq!(db.checkpoint("other").await, Some(0));
    worker.stop().await;
}

async fn two_workers_share_a_row_with_many_versions(db: Database<Postgres>) {
    grown(&db, &["users"]).await;
    let _horizon = hold_the_horizon(&db).await;
    let settings = Settings::default().batch_size(1);
    let workers = [(); 2].map(|()| {
        let store = EventStore::new(db.pool.clone());
        let worker = Worker::builder(store).poll_interval(Duration::from_millis(10));
        Running::start(worker.consumer(read_model("users").settings(settings.clone())))
    });
    let positions = db.append_many(200).await;
    for worker in &workers {
        patiently(
            "both see the end",
            worker.caught_up_to(*positions.last().unwrap()),
        )
        .await
        .unwrap();
    }
    assert_eq!(db.applied("users").await, positions);
    for worker in workers {
        worker.stop().await;
    }
}
