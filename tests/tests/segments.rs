//! One consumer as several lanes: divided and merged while events flow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use consumer::{ConsumerState, Report, WorkerBuilder, aggregate_slice, merge_segments};
use consumer_tests::{
    Database, Running, TestDatabase, chaining, consumer, patiently, run_once, test_on, until,
};
use sqlx::Postgres;

const NAME: &str = "ledger";

/// An aggregate of the lower half of the slices, and one of the upper half.
fn ids_of_halves() -> (String, String) {
    let half = |wanted: bool| {
        (0..1_000)
            .map(|number| format!("h-{number}"))
            .find(|id| (aggregate_slice(id) < 512) == wanted)
            .unwrap()
    };
    (half(true), half(false))
}

fn ledger<DB: TestDatabase>(db: &Database<DB>, segments: u32) -> WorkerBuilder<DB> {
    let settings =
        move |settings: consumer::Settings| settings.segments(segments).batch_size(7).retries(0);
    db.worker().consumer(chaining(NAME)).configure_all(settings)
}

/// Appends to 40 aggregates in turn, and returns the last position.
async fn append_in_turn<DB: TestDatabase>(db: &Database<DB>, events: usize) -> i64 {
    let ids = (0..events).map(|number| format!("a-{}", number % 40));
    *db.append("Account", ids).await.last().unwrap()
}

async fn rows<DB: TestDatabase>(db: &Database<DB>) -> i64 {
    db.number("SELECT count(*) FROM consumer_progress").await
}

async fn waiting_rows<DB: TestDatabase>(db: &Database<DB>) -> i64 {
    db.number("SELECT count(*) FROM consumer_progress WHERE hold_at IS NOT NULL")
        .await
}

async fn reaches<DB: TestDatabase>(worker: &Running<DB>, position: i64) {
    patiently("it catches up", worker.caught_up_to(position))
        .await
        .unwrap();
}

fn state(report: &Report) -> &ConsumerState {
    &report.consumer(NAME).unwrap().state
}

test_on!(
    [sqlite, postgres],
    a_consumer_is_divided_and_merged_while_events_flow,
    a_new_consumer_begins_with_a_row_for_each_segment,
    a_merge_during_a_retry_handles_no_event_twice,
    a_row_that_is_split_keeps_whose_attempts_it_counts,
    rows_go_on_when_the_hold_of_an_abandoned_merge_ends,
    a_merge_of_an_unknown_consumer_is_refused,
    a_row_that_may_advance_does_so_without_a_new_event,
);

async fn a_consumer_is_divided_and_merged_while_events_flow<DB: TestDatabase>(db: Database<DB>) {
    let db = Arc::new(db);
    let one = Running::start(ledger(&db, 1));
    reaches(&one, append_in_turn(&db, 100).await).await;
    assert_eq!(rows(&db).await, 1);

    // A process with another setting divides the row that the first one is working on.
    let eight = Running::start(ledger(&db, 8));
    let position = append_in_turn(&db, 200).await;
    reaches(&one, position).await;
    reaches(&eight, position).await;
    until("the row is divided", async || rows(&db).await == 8).await;
    let position = append_in_turn(&db, 200).await;
    reaches(&one, position).await;
    reaches(&eight, position).await;
    eight.stop().await;

    // The one that is left is set to one lane, and runs eight rows.
    let flowing = Arc::clone(&db);
    let writer = tokio::spawn(async move { append_in_turn(&flowing, 200).await });
    // Rows are halves of halves, so three become four.
    merge_segments(&db.store, NAME, 1, 3).await.unwrap();
    assert_eq!(rows(&db).await, 4);
    merge_segments(&db.store, NAME, 1, 2).await.unwrap();
    assert_eq!(rows(&db).await, 2);
    reaches(&one, writer.await.unwrap()).await;
    let report = one.stop().await;

    assert_eq!(*state(&report), ConsumerState::ShutDown, "{report}");
    assert_eq!(db.log().await.len(), 700);
    db.assert_applied_exactly_once_by_segments(NAME).await;
}

async fn a_new_consumer_begins_with_a_row_for_each_segment<DB: TestDatabase>(db: Database<DB>) {
    append_in_turn(&db, 80).await;
    let report = run_once(ledger(&db, 4)).await;
    let one = report.consumer(NAME).unwrap();
    assert_eq!((one.events, &one.state), (80, &ConsumerState::CaughtUp));
    assert_eq!(rows(&db).await, 4);
    db.assert_applied_exactly_once_by_segments(NAME).await;
}

/// The row that is ahead waits for the other at a position below an event that has failed. Neither
/// the row that waits nor the merged one may handle that event again.
async fn a_merge_during_a_retry_handles_no_event_twice<DB: TestDatabase>(db: Database<DB>) {
    let (left, right) = ids_of_halves();
    db.append_one("Account", &left).await;
    db.append_one("Account", &right).await;
    let bad = db.append_one("Account", &left).await;
    let fails = Arc::new(AtomicBool::new(true));
    let is_failing = Arc::clone(&fails);
    let failing = consumer(NAME, move |_, tx: &mut DB::Connection, event| {
        let fails = event.global_position == bad && is_failing.load(Ordering::SeqCst);
        Box::pin(async move {
            if fails {
                return Err("not now".into());
            }
            DB::apply(tx, NAME, event).await?;
            Ok(DB::chain(tx, NAME, event).await?)
        })
    });
    let worker = Running::start(db.worker().consumer(failing).configure_all(|settings| {
        let soon = Duration::from_millis(1);
        settings
            .segments(2)
            .retries(u32::MAX - 1)
            .backoff(soon, soon)
    }));
    until("it has failed", async || {
        let failed = "SELECT count(*) FROM consumer_progress WHERE attempts > 0";
        db.number(failed).await == 1
    })
    .await;
    let store = db.store.clone();
    let merge = tokio::spawn(async move { merge_segments(&store, NAME, 1, 1).await });
    until("a row waits for the other", async || {
        waiting_rows(&db).await > 0
    })
    .await;
    fails.store(false, Ordering::SeqCst);
    let last = db.append_one("Account", &right).await;
    patiently("they are merged", merge).await.unwrap().unwrap();
    reaches(&worker, last).await;
    let report = worker.stop().await;
    assert_eq!(*state(&report), ConsumerState::ShutDown, "{report}");
    assert_eq!(rows(&db).await, 1);
    db.assert_applied_exactly_once_by_segments(NAME).await;
}

/// Otherwise the release that has used up its attempts would get one more in the new half.
async fn a_row_that_is_split_keeps_whose_attempts_it_counts<DB: TestDatabase>(db: Database<DB>) {
    let (_, right) = ids_of_halves();
    db.append_one("Account", &right).await;
    let calls = &Arc::new(AtomicUsize::new(0));
    let worker = |segments, retries| {
        let calls = Arc::clone(calls);
        let failing = consumer(NAME, move |_, _: &mut DB::Connection, _| {
            calls.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Err("not now".into()) })
        });
        let builder = db.worker().release("one").consumer(failing);
        builder.configure_all(move |settings| {
            let long = Duration::from_hours(1);
            settings
                .segments(segments)
                .retries(retries)
                .backoff(long, long)
        })
    };
    let running = Running::start(worker(1, 1));
    until("it has failed", async || {
        let failed = "SELECT count(*) FROM consumer_progress WHERE attempts > 0";
        db.number(failed).await == 1
    })
    .await;
    running.stop().await;
    // The retry is not due, so the row is only divided.
    let running = Running::start(worker(2, 0));
    until("it is divided", async || rows(&db).await == 2).await;
    running.stop().await;
    db.execute("UPDATE consumer_progress SET retry_at = NULL")
        .await;
    run_once(worker(2, 0)).await;
    let stopped = "SELECT count(*) FROM consumer_progress WHERE state = 'stopped'";
    assert_eq!(db.number(stopped).await, 1);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    // The control: another release gets an attempt of its own.
    run_once(worker(2, 0).release("another")).await;
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

async fn rows_go_on_when_the_hold_of_an_abandoned_merge_ends<DB: TestDatabase>(db: Database<DB>) {
    let (left, right) = ids_of_halves();
    db.append_one("Account", &left).await;
    db.append_one("Account", &right).await;
    // No worker runs, so the merge only gets as far as making the rows wait.
    run_once(ledger(&db, 2)).await;
    db.execute("UPDATE consumer_progress SET position = 1 WHERE slice_from > 0")
        .await;
    let store = db.store.clone();
    let merge = tokio::spawn(async move { merge_segments(&store, NAME, 1, 1).await });
    until("both rows wait", async || waiting_rows(&db).await == 2).await;
    merge.abort();
    let _ = merge.await;
    // A hold ends after 10 s; here its end is brought forward.
    db.execute("UPDATE consumer_progress SET hold_until = NULL, position = 0")
        .await;
    db.execute("DELETE FROM applied; DELETE FROM chain").await;
    db.append_one("Account", &left).await;
    let report = run_once(ledger(&db, 2)).await;
    assert_eq!(*state(&report), ConsumerState::CaughtUp, "{report}");
    db.assert_applied_exactly_once_by_segments(NAME).await;
}

async fn a_merge_of_an_unknown_consumer_is_refused<DB: TestDatabase>(db: Database<DB>) {
    let error = merge_segments(&db.store, "nobody", 3, 1).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "consumer `nobody v3` has no checkpoint yet: run a worker with this consumer first"
    );
}

#[tokio::test]
async fn an_aggregate_has_the_same_slice_in_rust_and_in_sql() {
    let db = Database::<Postgres>::fresh().await;
    let mut ids: Vec<String> = (0..10_000)
        .map(|number| format!("aggregate-{number}"))
        .collect();
    ids.extend(["", "ä", "日本語", "🦀🦀", "a'b\"c", "  ", "\u{7f}\u{80}"].map(str::to_owned));
    let rows: Vec<(String, i32)> = sqlx::query_as(
        "SELECT id, ('x' || left(md5(convert_to(id, 'UTF8')), 4))::bit(16)::int & 1023
           FROM UNNEST($1::text[]) AS id",
    )
    .bind(&ids)
    .fetch_all(&db.pool)
    .await
    .unwrap();
    assert_eq!(rows.len(), ids.len());
    for (id, slice) in rows {
        assert_eq!(i32::from(aggregate_slice(&id)), slice, "{id:?}");
    }
}

/// A merge may let a row advance before the log does: the row has nothing new in its slices then, and
/// no event wakes it.
async fn a_row_that_may_advance_does_so_without_a_new_event<DB: TestDatabase>(db: Database<DB>) {
    let (low, high) = ids_of_halves();
    let worker = Running::start(ledger(&db, 2));
    reaches(&worker, db.append_one("Account", &low).await).await;
    let positions = db.append("Account", [&high; 5]).await;
    for may_reach in [positions[1], positions[3]] {
        // SQLite compares text as later than any number.
        db.execute(&format!(
            "UPDATE consumer_progress SET hold_at = {may_reach}, hold_until = '2100-01-01'
              WHERE slice_from = 0 AND position < {may_reach}"
        ))
        .await;
        until("it advances as far as it may", async || {
            let position = "SELECT position FROM consumer_progress WHERE slice_from = 0";
            db.number(position).await == may_reach
        })
        .await;
    }
    worker.stop().await;
}
