//! Reading the event store, on both databases.

use std::sync::Arc;

use consumer::{
    Backend, EventStore, ExpectedVersion, Metadata, NewEvent, PersistedEvent, ReadRange,
};
use consumer_tests::{Database, TestDatabase, TestPostgres, test_on};
use sqlx::{Postgres, Sqlite};
use tokio::runtime::Handle;

/// An event with this payload.
fn happened(payload: Vec<u8>) -> NewEvent {
    NewEvent::new("User", "a", "Happened", payload)
}

async fn read<DB: Backend>(store: &EventStore<DB>, range: ReadRange<'_>) -> Vec<PersistedEvent> {
    let mut conn = store.pool().acquire().await.unwrap();
    store.read_range(&mut conn, range).await.unwrap()
}

fn everything() -> ReadRange<'static> {
    ReadRange {
        after: 0,
        up_to: i64::MAX,
        limit: 1_000,
        max_bytes: u64::MAX,
        scope: None,
    }
}

fn positions(events: &[PersistedEvent]) -> Vec<i64> {
    events.iter().map(|event| event.global_position).collect()
}

fn scope(types: &[&str]) -> Vec<Arc<str>> {
    types.iter().map(|name| Arc::from(*name)).collect()
}

test_on!(
    [sqlite, postgres],
    events_are_read_after_a_position_up_to_a_limit_in_order,
    the_latest_position_is_the_highest_or_zero,
    an_aggregate_is_read_in_version_order_from_and_to_a_version,
    a_range_is_bounded_by_both_positions_and_by_the_limit,
    a_range_respects_its_budget_but_has_at_least_one_event,
    metadata_and_ids_count_uncompressed_against_the_budget,
    r7_a_scope_is_exact_and_an_empty_one_is_every_event,
    a_scoped_range_is_in_position_order_across_its_types,
    types_read_again_share_one_allocation,
    a_range_over_payloads_of_50_mib_respects_its_budget
);

async fn events_are_read_after_a_position_up_to_a_limit_in_order<DB: TestDatabase>(
    db: Database<DB>,
) {
    for id in ["a", "b", "c", "d", "e"] {
        db.append("User", [id]).await;
    }
    let mut conn = db.pool.acquire().await.unwrap();
    for (after, limit, expected) in [
        (0, 10, vec![1, 2, 3, 4, 5]),
        (0, 2, vec![1, 2]),
        (3, 10, vec![4, 5]),
        (5, 10, vec![]),
        (0, 0, vec![]),
        (-1, 1, vec![1]),
        (i64::MAX, 10, vec![]),
        (i64::MIN, u32::MAX, vec![1, 2, 3, 4, 5]),
    ] {
        let events = db.store.read_events(&mut conn, after, limit).await.unwrap();
        assert_eq!(positions(&events), expected, "after {after}, limit {limit}");
    }
}

async fn the_latest_position_is_the_highest_or_zero<DB: TestDatabase>(db: Database<DB>) {
    let mut conn = db.pool.acquire().await.unwrap();
    assert_eq!(db.store.latest_global_position(&mut conn).await.unwrap(), 0);
    db.append("User", ["a"]).await;
    db.append("User", ["b"]).await;
    assert_eq!(db.store.latest_global_position(&mut conn).await.unwrap(), 2);
}

async fn an_aggregate_is_read_in_version_order_from_and_to_a_version<DB: TestDatabase>(
    db: Database<DB>,
) {
    for id in ["a", "b", "a", "b", "a", "a"] {
        db.append("User", [id]).await;
    }
    db.append("Order", ["a"]).await;
    let mut conn = db.pool.acquire().await.unwrap();
    for (from, to, expected) in [
        (None, None, vec![1, 2, 3, 4]),
        (Some(2), None, vec![2, 3, 4]),
        (None, Some(2), vec![1, 2]),
        (Some(2), Some(3), vec![2, 3]),
        (Some(3), Some(2), vec![]),
        (Some(5), None, vec![]),
    ] {
        let events = db
            .store
            .read_aggregate(&mut conn, "User", "a", from, to)
            .await
            .unwrap();
        let versions: Vec<i64> = events.iter().map(|event| event.aggregate_version).collect();
        assert_eq!(versions, expected, "from {from:?} to {to:?}");
    }
    assert_eq!(
        db.store
            .read_aggregate(&mut conn, "User", "nobody", None, None)
            .await
            .unwrap(),
        []
    );
}

async fn a_range_is_bounded_by_both_positions_and_by_the_limit<DB: TestDatabase>(db: Database<DB>) {
    for id in ["a", "b", "c", "d", "e"] {
        db.append("User", [id]).await;
    }
    assert_eq!(
        positions(
            &read(
                &db.store,
                ReadRange {
                    after: 1,
                    up_to: 4,
                    ..everything()
                }
            )
            .await
        ),
        [2, 3, 4]
    );
    assert_eq!(
        positions(
            &read(
                &db.store,
                ReadRange {
                    after: 1,
                    limit: 2,
                    ..everything()
                }
            )
            .await
        ),
        [2, 3]
    );
    assert!(
        read(
            &db.store,
            ReadRange {
                after: 4,
                up_to: 4,
                ..everything()
            }
        )
        .await
        .is_empty()
    );
    assert!(
        read(
            &db.store,
            ReadRange {
                limit: 0,
                ..everything()
            }
        )
        .await
        .is_empty()
    );
}

async fn a_range_respects_its_budget_but_has_at_least_one_event<DB: TestDatabase>(
    db: Database<DB>,
) {
    // Type, id and name of each event.
    const TEXTS: u64 = 13;
    for size in [10, 0, 20, 5, 100, 0, 0, 7] {
        db.append_event(happened(vec![b'x'; size])).await;
    }
    for (after, max_bytes, expected) in [
        (0, 0, vec![1]),
        (0, TEXTS + 9, vec![1]),
        (0, TEXTS + 10, vec![1]),
        (0, 2 * TEXTS + 10, vec![1, 2]),
        (0, 3 * TEXTS + 29, vec![1, 2]),
        (0, 3 * TEXTS + 30, vec![1, 2, 3]),
        (0, 5 * TEXTS + 134, vec![1, 2, 3, 4]),
        (0, 8 * TEXTS + 142, vec![1, 2, 3, 4, 5, 6, 7, 8]),
        (1, 0, vec![2]),
        (4, 1, vec![5]),
        (4, 3 * TEXTS + 100, vec![5, 6, 7]),
        (8, 100, vec![]),
    ] {
        let types = scope(&["Absent", "User"]);
        assert_read(&db, (after, max_bytes), &types, &expected).await;
    }
}

/// Reads what fits into this number of bytes after a position, without a scope and with one that leaves out no event.
async fn assert_read<DB: TestDatabase>(
    db: &Database<DB>,
    (after, max_bytes): (i64, u64),
    types: &[Arc<str>],
    expected: &[i64],
) {
    for scope in [None, Some(types)] {
        let range = ReadRange {
            after,
            max_bytes,
            scope,
            ..everything()
        };
        let read = positions(&read(&db.store, range).await);
        assert_eq!(read, expected, "after {after}, {max_bytes} bytes");
    }
}

async fn metadata_and_ids_count_uncompressed_against_the_budget<DB: TestDatabase>(
    db: Database<DB>,
) {
    const MIB: usize = 1 << 20;
    let long = "x".repeat(MIB);
    // Each event is of 1 MiB, in another field, and compresses to next to nothing.
    let plain = |id: &str| NewEvent::new("User", id, "Happened", "");
    let metadata = |length| Metadata::new(&"x".repeat(length)).unwrap();
    for event in [
        plain("a").metadata(metadata(MIB)),
        plain("b").trace_id(&long),
        plain("c").correlation_id(&long),
        plain("d").causation_id(&long),
        NewEvent::new("User", "e", long.as_str(), ""),
        plain("f").metadata(metadata(MIB)),
        plain("g").metadata(metadata(MIB)),
        plain("h"),
    ] {
        db.append_event(event).await;
    }
    let slack = MIB as u64 / 2;
    for (after, mib, expected) in [
        (0, 0, vec![1]),
        (0, 2, vec![1, 2]),
        (0, 5, vec![1, 2, 3, 4, 5]),
        (2, 4, vec![3, 4, 5, 6]),
        (4, 2, vec![5, 6]),
        (5, 1, vec![6]),
        (5, 2, vec![6, 7, 8]),
    ] {
        let max_bytes = mib * MIB as u64 + slack;
        let types = scope(&["User"]);
        assert_read(&db, (after, max_bytes), &types, &expected).await;
    }
}

async fn r7_a_scope_is_exact_and_an_empty_one_is_every_event<DB: TestDatabase>(db: Database<DB>) {
    for kind in ["User", "Order", "user", "User", "User ", "Us%", ""] {
        db.append(kind, ["a"]).await;
    }
    for (types, expected) in [
        (vec!["User"], vec![1, 4]),
        (vec!["Order", "User"], vec![1, 2, 4]),
        (vec!["User", "User"], vec![1, 4]),
        (vec!["user"], vec![3]),
        (vec!["Us%"], vec![6]),
        (vec![""], vec![7]),
        (vec!["Absent"], vec![]),
        (vec![], vec![1, 2, 3, 4, 5, 6, 7]),
    ] {
        let types = scope(&types);
        let range = ReadRange {
            scope: Some(&types),
            ..everything()
        };
        assert_eq!(
            positions(&read(&db.store, range).await),
            expected,
            "{types:?}"
        );
    }
}

async fn a_scoped_range_is_in_position_order_across_its_types<DB: TestDatabase>(db: Database<DB>) {
    for n in 0..30 {
        db.append(["A", "B", "C"][n % 3], ["a"]).await;
    }
    let types = scope(&["C", "A"]);
    let range = ReadRange {
        after: 4,
        up_to: 20,
        limit: 6,
        scope: Some(&types),
        ..everything()
    };
    assert_eq!(
        positions(&read(&db.store, range).await),
        [6, 7, 9, 10, 12, 13]
    );
}

async fn types_read_again_share_one_allocation<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["a"]).await;
    db.append("User", ["a"]).await;
    let first = read(&db.store, everything()).await;
    let second = read(&db.store, everything()).await;
    assert!(Arc::ptr_eq(
        &first[0].aggregate_type,
        &first[1].aggregate_type
    ));
    assert!(Arc::ptr_eq(
        &first[0].aggregate_type,
        &second[0].aggregate_type
    ));
    assert!(Arc::ptr_eq(&first[0].event_type, &second[1].event_type));
}

async fn a_range_over_payloads_of_50_mib_respects_its_budget<DB: TestDatabase>(db: Database<DB>) {
    const MIB: usize = 1 << 20;
    for n in 0..4_u8 {
        db.append_event(happened(vec![n; 50 * MIB])).await;
    }
    let budget = 120 * MIB as u64;
    let events = read(
        &db.store,
        ReadRange {
            max_bytes: budget,
            ..everything()
        },
    )
    .await;
    assert_eq!(positions(&events), [1, 2]);
    assert!(events.iter().all(|event| event.payload.len() == 50 * MIB));
    let events = read(
        &db.store,
        ReadRange {
            after: 3,
            max_bytes: MIB as u64,
            ..everything()
        },
    )
    .await;
    assert_eq!(events[0].payload, vec![3; 50 * MIB]);
}

/// The control of the worker's own tests: a checkpoint at the highest visible position loses events.
#[tokio::test(flavor = "multi_thread")]
async fn r11_a_naive_reader_loses_an_event_that_commits_late() {
    let db = Database::<Postgres>::fresh().await;
    let mut slow = db.store.begin().await.unwrap();
    db.append_in(&mut slow, "slow").await;
    db.append("User", ["fast"]).await;

    let mut conn = db.pool.acquire().await.unwrap();
    let seen = db.store.read_events(&mut conn, 0, 10).await.unwrap();
    assert_eq!(positions(&seen), [2]);
    slow.commit().await.unwrap();
    let checkpoint = seen.last().unwrap().global_position;
    let rest = db
        .store
        .read_events(&mut conn, checkpoint, 10)
        .await
        .unwrap();
    assert!(rest.is_empty(), "the event at position 1 is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn r11_a_rolled_back_position_never_becomes_visible_on_postgres() {
    let db = Database::<Postgres>::fresh().await;
    let mut tx = db.store.begin().await.unwrap();
    db.append_in(&mut tx, "a").await;
    tx.rollback().await.unwrap();
    db.append("User", ["b"]).await;
    assert_eq!(positions(&read(&db.store, everything()).await), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rare_scope_is_read_through_its_index() {
    let server = TestPostgres::builder()
        .setting("session_preload_libraries", "auto_explain")
        .setting("auto_explain.log_min_duration", "0")
        .setting("auto_explain.log_analyze", "on")
        .start();
    let database = server.database().await;
    let store = database.store().await;
    sqlx::query(
        "INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload) \
         SELECT CASE WHEN n % 10000 = 0 THEN 'Rare' ELSE 'Common' END, '', n, gen_random_uuid(), '', '' \
         FROM generate_series(1, 100000) AS n",
    )
    .execute(&database.pool)
    .await
    .unwrap();
    sqlx::query("ANALYZE events")
        .execute(&database.pool)
        .await
        .unwrap();

    let types = scope(&["Rare", "Absent"]);
    let range = ReadRange {
        limit: 500,
        scope: Some(&types),
        ..everything()
    };
    // Often enough that Postgres may settle on a plan for all parameters.
    for _ in 0..10 {
        assert_eq!(read(&store, range).await.len(), 10);
    }
    let log = server.log();
    let plans: Vec<&str> = log
        .split("Query Text:")
        .filter(|plan| plan.contains("CROSS JOIN LATERAL"))
        .collect();
    assert_eq!(plans.len(), 10, "{log}");
    for plan in plans {
        assert!(
            plan.contains("events_aggregate_type_global_position_idx"),
            "{plan}"
        );
        assert!(!plan.contains("Rows Removed by Filter"), "{plan}");
        assert!(!plan.contains("events_pkey"), "{plan}");
    }
}

/// A reader that found events, and then not, would take the range for empty and pass over it.
#[tokio::test(flavor = "multi_thread")]
async fn a_scoped_range_on_sqlite_is_read_as_of_one_moment() {
    let db = Database::<Sqlite>::fresh().await;
    let appended = db.append_many(100).await;
    let scope = scope(&["User"]);
    let range = ReadRange {
        scope: Some(&scope),
        ..everything()
    };
    let mut connection = db.pool.acquire().await.unwrap();
    // It reads the schema before its first statement.
    db.store.read_range(&mut connection, range).await.unwrap();
    let (runtime, mut archived) = (Handle::current(), Some(db.pool.clone()));
    // After these steps, SQLite is looking for the events, which takes more of them for each.
    let mut handle = connection.lock_handle().await.unwrap();
    handle.set_progress_handler(500, move || {
        if let Some(pool) = archived.take() {
            let delete = sqlx::query("DELETE FROM events").execute(&pool);
            runtime.block_on(delete).unwrap();
        }
        true
    });
    drop(handle);
    let read = db.store.read_range(&mut connection, range).await.unwrap();
    assert_eq!(positions(&read), appended);
    assert_eq!(db.log().await, [0; 0], "they were deleted meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_statement_cache_no_statement_has_a_name() {
    let database = TestPostgres::shared().await.database().await;
    for (parameters, expected) in [("", 5), ("?statement-cache-capacity=0", 0)] {
        let store = EventStore::<Postgres>::connect(&format!("{}{parameters}", database.url))
            .await
            .unwrap();
        store.migrate().await.unwrap();
        let mut tx = store.begin().await.unwrap();
        let event = NewEvent::new("User", "a", "Happened", "");
        store
            .append_in(&mut tx, ExpectedVersion::Any, &[event])
            .await
            .unwrap();
        store.read_events(&mut tx, 0, 1).await.unwrap();
        store.read_range(&mut tx, everything()).await.unwrap();
        store
            .read_aggregate(&mut tx, "User", "a", None, None)
            .await
            .unwrap();
        store.latest_global_position(&mut tx).await.unwrap();
        let named: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%\"events\"%' AND statement NOT LIKE '%LIMIT 0'")
            .persistent(false)
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        assert_eq!(named, expected, "{parameters}");
    }
}
