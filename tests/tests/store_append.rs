//! Appending to the event store, on both databases.

use consumer::{
    Backend, EventStore, ExpectedVersion, Metadata, NewEvent, PersistedEvent, StoreError,
};
use consumer_tests::{Database, TestDatabase, test_on};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

fn registered(id: &str) -> NewEvent {
    NewEvent::new(
        "User",
        id,
        "UserRegistered",
        r#"{"email":"ada@example.com"}"#,
    )
}

fn changes(id: &str, count: usize) -> Vec<NewEvent> {
    (0..count)
        .map(|n| NewEvent::new("User", id, "EmailChanged", n.to_string()))
        .collect()
}

/// The history of one aggregate, through a connection of its own.
async fn history<DB: Backend>(store: &EventStore<DB>, id: &str) -> Vec<PersistedEvent> {
    let mut conn = store.pool().acquire().await.unwrap();
    store
        .read_aggregate(&mut conn, "User", id, None, None)
        .await
        .unwrap()
}

/// The error of an append.
async fn refused<DB: TestDatabase>(
    db: &Database<DB>,
    expected: ExpectedVersion,
    events: &[NewEvent],
) -> StoreError {
    db.store.append(expected, events).await.unwrap_err()
}

/// Does the same eight times at once, and returns the results.
async fn eight_at_once<DB: Backend, F>(
    store: &EventStore<DB>,
    appending: impl Fn(EventStore<DB>) -> F,
) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let tasks: Vec<_> = (0..8)
        .map(|_| tokio::spawn(appending(store.clone())))
        .collect();
    let results = futures_util::future::try_join_all(tasks).await;
    results.unwrap()
}

fn versions(events: &[PersistedEvent]) -> Vec<i64> {
    events.iter().map(|event| event.aggregate_version).collect()
}

test_on!(
    [sqlite, postgres],
    an_append_returns_events_with_positions_and_versions,
    every_field_of_an_event_comes_back_as_it_was_appended,
    an_append_rolls_back_with_the_transaction_of_its_caller,
    any_version_takes_the_aggregate_as_it_is,
    a_wrong_expected_version_is_a_conflict_that_names_both,
    a_conflict_leaves_the_transaction_usable_and_changes_nothing,
    appending_nothing_is_an_error_of_its_own,
    appending_to_two_aggregates_at_once_names_both,
    a_duplicate_event_id_is_an_error_of_its_own,
    metadata_that_is_not_json_is_refused,
    concurrent_appends_with_any_version_all_succeed,
    one_of_many_appends_with_an_exact_version_wins,
    a_missing_or_old_head_row_is_corrected_by_the_events,
    an_aggregate_with_archived_events_continues_at_its_head,
    the_head_of_an_aggregate_is_the_version_of_its_last_event,
    ten_thousand_events_are_appended_at_once_or_not_at_all,
    a_failed_append_leaves_nothing_behind_in_the_transaction,
    a_foreign_unique_constraint_is_not_a_conflict,
    an_append_outside_a_transaction_is_stored,
    a_new_event_takes_causation_and_correlation_from_its_cause
);

async fn an_append_returns_events_with_positions_and_versions<DB: TestDatabase>(db: Database<DB>) {
    let first = db
        .store
        .append(ExpectedVersion::NoStream, &[registered("u-1")])
        .await
        .unwrap();
    assert_eq!(
        (first[0].global_position, first[0].aggregate_version),
        (1, 1)
    );

    let more = db
        .store
        .append(ExpectedVersion::Exact(1), &changes("u-1", 3))
        .await
        .unwrap();
    assert_eq!(versions(&more), [2, 3, 4]);
    assert_eq!(
        more.iter()
            .map(|event| event.global_position)
            .collect::<Vec<_>>(),
        [2, 3, 4]
    );
    assert_eq!(
        more.iter()
            .map(|event| &event.payload[..])
            .collect::<Vec<_>>(),
        [b"0", b"1", b"2"]
    );
}

async fn every_field_of_an_event_comes_back_as_it_was_appended<DB: TestDatabase>(db: Database<DB>) {
    let id = Uuid::new_v4();
    let new = registered("u-1")
        .event_id(id)
        .event_version(7)
        .metadata(Metadata::from_json_text(r#"{"tenant": "north"}"#))
        .trace_id("trace")
        .correlation_id("correlation")
        .causation_id("causation");
    let stored = db.append_events(&[new]).await;
    let read = history(&db.store, "u-1").await;

    assert_eq!(stored, read);
    let event = &read[0];
    assert_eq!(
        (&*event.aggregate_type, &*event.aggregate_id),
        ("User", "u-1")
    );
    assert_eq!(
        (event.event_id, &*event.event_type, event.event_version),
        (id, "UserRegistered", 7)
    );
    assert_eq!(event.payload, r#"{"email":"ada@example.com"}"#);
    assert_eq!(
        event.metadata.as_ref().unwrap().as_bytes(),
        br#"{"tenant": "north"}"#
    );
    assert_eq!(event.trace_id.as_deref(), Some("trace"));
    assert_eq!(event.correlation_id.as_deref(), Some("correlation"));
    assert_eq!(event.causation_id.as_deref(), Some("causation"));
    let age = chrono::Utc::now() - event.created_at;
    assert!(age.num_minutes().abs() < 5, "{age}");
}

async fn an_append_rolls_back_with_the_transaction_of_its_caller<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.execute("CREATE TABLE mine (id TEXT)").await;
    let mut tx = db.store.begin().await.unwrap();
    DB::execute_sql(&mut tx, "INSERT INTO mine (id) VALUES ('u-1')")
        .await
        .unwrap();
    db.store
        .append_in(&mut tx, ExpectedVersion::NoStream, &[registered("u-1")])
        .await
        .unwrap();
    tx.rollback().await.unwrap();

    let rows = db.number("SELECT count(*) FROM mine").await;
    assert_eq!((rows, history(&db.store, "u-1").await.len()), (0, 0));
    db.store
        .append(ExpectedVersion::NoStream, &[registered("u-1")])
        .await
        .unwrap();
}

async fn any_version_takes_the_aggregate_as_it_is<DB: TestDatabase>(db: Database<DB>) {
    for _ in 0..3 {
        db.append_events(&changes("u-1", 2)).await;
    }
    assert_eq!(
        versions(&history(&db.store, "u-1").await),
        [1, 2, 3, 4, 5, 6]
    );
}

async fn a_wrong_expected_version_is_a_conflict_that_names_both<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append_events(&changes("u-1", 3)).await;
    for (expected, text) in [
        (
            ExpectedVersion::NoStream,
            "expected no events, found version 3",
        ),
        (
            ExpectedVersion::Exact(2),
            "expected version 2, found version 3",
        ),
        (
            ExpectedVersion::Exact(4),
            "expected version 4, found version 3",
        ),
        (
            ExpectedVersion::Exact(-1),
            "expected version -1, found version 3",
        ),
    ] {
        let error = refused(&db, expected, &[registered("u-1")]).await;
        assert!(
            matches!(&error, StoreError::Conflict { actual: Some(3), expected: e, .. } if *e == expected)
        );
        assert_eq!(
            error.to_string(),
            format!(
                "conflict on `User` `u-1`: {text}; load the aggregate again and retry in a new transaction"
            )
        );
    }
    let error = refused(&db, ExpectedVersion::Exact(1), &[registered("u-2")]).await;
    assert!(
        error
            .to_string()
            .contains("expected version 1, found no events"),
        "{error}"
    );
    assert_eq!(history(&db.store, "u-1").await.len(), 3);
}

async fn a_conflict_leaves_the_transaction_usable_and_changes_nothing<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append_event(registered("u-1")).await;
    let mut tx = db.store.begin().await.unwrap();
    for id in ["u-1", "u-2"] {
        let expected = ExpectedVersion::Exact(7);
        db.store
            .append_in(&mut tx, expected, &[registered(id)])
            .await
            .unwrap_err();
    }
    db.store
        .append_in(&mut tx, ExpectedVersion::Exact(1), &changes("u-1", 1))
        .await
        .unwrap();
    db.store
        .append_in(&mut tx, ExpectedVersion::NoStream, &[registered("u-2")])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(versions(&history(&db.store, "u-1").await), [1, 2]);
    assert_eq!(versions(&history(&db.store, "u-2").await), [1]);
}

async fn appending_nothing_is_an_error_of_its_own<DB: TestDatabase>(db: Database<DB>) {
    let error = refused(&db, ExpectedVersion::Any, &[]).await;
    assert!(matches!(error, StoreError::NothingToAppend));
    assert_eq!(
        error.to_string(),
        "there is nothing to append: `append` needs at least one event"
    );
}

async fn appending_to_two_aggregates_at_once_names_both<DB: TestDatabase>(db: Database<DB>) {
    let events = [registered("u-1"), registered("u-2")];
    let error = refused(&db, ExpectedVersion::Any, &events).await;
    assert!(matches!(error, StoreError::SeveralAggregates { .. }));
    assert!(
        error
            .to_string()
            .contains("for `User` `u-1` and `User` `u-2`: call `append` once for each"),
        "{error}"
    );
    let events = [
        registered("u-1"),
        NewEvent::new("Order", "u-1", "OrderPlaced", ""),
    ];
    let error = refused(&db, ExpectedVersion::Any, &events).await;
    assert!(matches!(error, StoreError::SeveralAggregates { .. }));
}

async fn a_duplicate_event_id_is_an_error_of_its_own<DB: TestDatabase>(db: Database<DB>) {
    let event = registered("u-1");
    db.append_events(std::slice::from_ref(&event)).await;
    let again = registered("u-2").event_id(event.event_id);
    let error = refused(&db, ExpectedVersion::Any, &[again]).await;
    assert!(
        matches!(error, StoreError::DuplicateEventId { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("exists already"), "{error}");
    assert_eq!(history(&db.store, "u-2").await.len(), 0);
}

async fn metadata_that_is_not_json_is_refused<DB: TestDatabase>(db: Database<DB>) {
    let mut tx = db.store.begin().await.unwrap();
    for text in ["{", "", "{} {}", "\u{0}"] {
        let event = registered("u-1").metadata(Metadata::from_json_text(text));
        let error = db
            .store
            .append_in(&mut tx, ExpectedVersion::Any, &[event])
            .await
            .unwrap_err();
        assert!(
            matches!(error, StoreError::InvalidMetadata { .. }),
            "{text}: {error}"
        );
    }
    db.store
        .append_in(&mut tx, ExpectedVersion::Any, &[registered("u-1")])
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

async fn concurrent_appends_with_any_version_all_succeed<DB: TestDatabase>(db: Database<DB>) {
    let store = &db.store;
    let appending = |store: EventStore<DB>| async move {
        for _ in 0..10 {
            store
                .append(ExpectedVersion::Any, &changes("u-1", 2))
                .await
                .unwrap();
        }
    };
    eight_at_once(store, appending).await;
    let history = history(store, "u-1").await;
    assert_eq!(versions(&history), (1..=160).collect::<Vec<_>>());
    assert!(history.is_sorted_by_key(|event| event.global_position));
}

async fn one_of_many_appends_with_an_exact_version_wins<DB: TestDatabase>(db: Database<DB>) {
    let appending = |store: EventStore<DB>| async move {
        store
            .append(ExpectedVersion::NoStream, &[registered("u-1")])
            .await
    };
    let mut won = 0;
    for result in eight_at_once(&db.store, appending).await {
        match result {
            Ok(_) => won += 1,
            Err(error) => assert!(matches!(error, StoreError::Conflict { .. }), "{error}"),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(history(&db.store, "u-1").await.len(), 1);
}

async fn a_missing_or_old_head_row_is_corrected_by_the_events<DB: TestDatabase>(db: Database<DB>) {
    db.append_events(&changes("u-1", 3)).await;
    for sql in [
        "DELETE FROM aggregate_heads",
        "UPDATE aggregate_heads SET aggregate_version = 1",
    ] {
        db.execute(sql).await;
        let version = i64::try_from(history(&db.store, "u-1").await.len()).unwrap();
        let error = refused(&db, ExpectedVersion::NoStream, &changes("u-1", 1)).await;
        assert!(
            matches!(error, StoreError::Conflict { actual: Some(v), .. } if v == version),
            "{error}"
        );
        db.store
            .append(ExpectedVersion::Exact(version), &changes("u-1", 1))
            .await
            .unwrap();
        db.execute(sql).await;
        db.append_events(&changes("u-1", 1)).await;
    }
    assert_eq!(
        versions(&history(&db.store, "u-1").await),
        (1..=7).collect::<Vec<_>>()
    );
}

async fn an_aggregate_with_archived_events_continues_at_its_head<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append_events(&changes("u-1", 3)).await;
    db.execute("DELETE FROM events").await;
    let stored = db
        .store
        .append(ExpectedVersion::Exact(3), &changes("u-1", 1))
        .await
        .unwrap();
    assert_eq!(versions(&stored), [4]);
    let stored = db.append_events(&changes("u-1", 1)).await;
    assert_eq!(versions(&stored), [5]);
}

async fn the_head_of_an_aggregate_is_the_version_of_its_last_event<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append_events(&changes("u-1", 3)).await;
    db.append_events(&changes("u-1", 2)).await;
    let head = "SELECT aggregate_version FROM aggregate_heads
                 WHERE aggregate_type = 'User' AND aggregate_id = 'u-1'";
    assert_eq!(db.numbers(head).await, [5]);
}

async fn ten_thousand_events_are_appended_at_once_or_not_at_all<DB: TestDatabase>(
    db: Database<DB>,
) {
    let mut events = changes("u-1", 10_000);
    let taken = events[0].event_id;
    events[9_999].event_id = taken;
    let mut tx = db.store.begin().await.unwrap();
    let error = db
        .store
        .append_in(&mut tx, ExpectedVersion::NoStream, &events)
        .await
        .unwrap_err();
    assert!(
        matches!(error, StoreError::DuplicateEventId { .. }),
        "{error}"
    );
    tx.commit().await.unwrap();
    assert_eq!(history(&db.store, "u-1").await.len(), 0);

    events[9_999].event_id = Uuid::new_v4();
    let stored = db
        .store
        .append(ExpectedVersion::NoStream, &events)
        .await
        .unwrap();
    assert_eq!(versions(&stored), (1..=10_000).collect::<Vec<_>>());
    assert_eq!(history(&db.store, "u-1").await, stored);
}

async fn a_failed_append_leaves_nothing_behind_in_the_transaction<DB: TestDatabase>(
    db: Database<DB>,
) {
    let taken = registered("u-0");
    db.append_events(std::slice::from_ref(&taken)).await;
    let mut tx = db.store.begin().await.unwrap();
    let events = [
        registered("u-1"),
        registered("u-1").event_id(taken.event_id),
    ];
    db.store
        .append_in(&mut tx, ExpectedVersion::Any, &events)
        .await
        .unwrap_err();
    // On Postgres this is a rollback, which is what an aborted transaction can only do.
    tx.commit().await.unwrap();
    let heads = db
        .number("SELECT count(*) FROM aggregate_heads WHERE aggregate_id = 'u-1'")
        .await;
    assert_eq!((heads, history(&db.store, "u-1").await.len()), (0, 0));
}

async fn a_foreign_unique_constraint_is_not_a_conflict<DB: TestDatabase>(db: Database<DB>) {
    db.execute("CREATE UNIQUE INDEX one_of_a_kind ON events (event_type)")
        .await;
    db.append_event(registered("u-1")).await;
    let error = refused(&db, ExpectedVersion::Any, &[registered("u-2")]).await;
    assert!(matches!(error, StoreError::Database(_)), "{error:?}");
}

async fn an_append_outside_a_transaction_is_stored<DB: TestDatabase>(db: Database<DB>) {
    let mut conn = db.pool.acquire().await.unwrap();
    db.store
        .append_in(&mut conn, ExpectedVersion::NoStream, &[registered("u-1")])
        .await
        .unwrap();
    drop(conn);
    assert_eq!(history(&db.store, "u-1").await.len(), 1);
}

async fn a_new_event_takes_causation_and_correlation_from_its_cause<DB: TestDatabase>(
    db: Database<DB>,
) {
    let cause = db.append_events(&[registered("u-1")]).await.remove(0);
    let effect = NewEvent::new("Mail", "m-1", "WelcomeSent", "").caused_by(&cause);
    let effect = db.append_events(&[effect]).await.remove(0);
    let id = cause.event_id.to_string();
    assert_eq!(
        (
            effect.causation_id.as_deref(),
            effect.correlation_id.as_deref()
        ),
        (Some(&*id), Some(&*id))
    );

    let third = NewEvent::new("Mail", "m-1", "WelcomeOpened", "").caused_by(&effect);
    assert_eq!(third.causation_id, Some(effect.event_id.to_string()));
    assert_eq!(third.correlation_id, Some(id));
    let own = NewEvent::new("Mail", "m-1", "Told", "")
        .causation_id("mine")
        .caused_by(&effect);
    assert_eq!(own.causation_id.as_deref(), Some("mine"));
}

/// An insert that does not maintain the heads.
fn foreign_insert(id: &str, version: i64) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!(
        "INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload) \
         VALUES ('User', '{id}', {version}, '{}', 'Foreign', '')",
        Uuid::new_v4()
    ))
}

mod postgres {
    use super::*;
    use consumer_tests::{Database, TestPostgres};
    use sqlx::Postgres;
    use sqlx::postgres::PgListener;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_unique_violation_is_reported_as_a_conflict() {
        let db = Database::<Postgres>::fresh().await;
        let mut foreign = db.pool.begin().await.unwrap();
        sqlx::query(foreign_insert("u-1", 1))
            .execute(&mut *foreign)
            .await
            .unwrap();

        // It cannot see the other's event, waits for its end at the unique index, and loses.
        let store = db.store.clone();
        let ours = tokio::spawn(async move {
            store
                .append(ExpectedVersion::NoStream, &[registered("u-1")])
                .await
        });
        waits_for_a_lock(&db).await;
        foreign.commit().await.unwrap();

        let error = ours.await.unwrap().unwrap_err();
        assert!(
            matches!(error, StoreError::Conflict { actual: None, .. }),
            "{error}"
        );
        assert!(
            error.to_string().contains("found that version taken"),
            "{error}"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_append_waiting_for_its_aggregate_draws_no_position() {
        let db = Database::<Postgres>::fresh().await;
        let mut first = db.store.begin().await.unwrap();
        db.store
            .append_in(&mut first, ExpectedVersion::Any, &changes("u-1", 1))
            .await
            .unwrap();
        let store = db.store.clone();
        let second =
            tokio::spawn(
                async move { store.append(ExpectedVersion::Any, &changes("u-1", 1)).await },
            );
        waits_for_a_lock(&db).await;
        let drawn = db
            .number("SELECT last_value FROM events_global_position_seq")
            .await;
        assert_eq!(drawn, 1);
        first.commit().await.unwrap();
        assert_eq!(second.await.unwrap().unwrap()[0].global_position, 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thousand_events_are_one_round_trip() {
        let server = TestPostgres::builder()
            .setting("log_statement", "all")
            .start();
        let database = server.database().await;
        let store = database.store().await;
        let inserts = || server.log().matches(r#"INSERT INTO "events""#).count();
        assert_eq!(inserts(), 0);
        store
            .append(ExpectedVersion::Any, &changes("u-1", 1_000))
            .await
            .unwrap();
        assert_eq!(inserts(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn appends_notify_when_they_commit_if_configured_to() {
        let db = Database::<Postgres>::fresh().await;
        let mut listener = PgListener::connect(&db.url).await.unwrap();
        listener.listen("consumer_events").await.unwrap();

        let silent = &db.store;
        silent
            .append(ExpectedVersion::Any, &changes("u-1", 1))
            .await
            .unwrap();
        let loud = db.store.clone().notify(true);
        let mut tx = loud.begin().await.unwrap();
        loud.append_in(&mut tx, ExpectedVersion::Any, &changes("u-1", 1))
            .await
            .unwrap();
        tx.rollback().await.unwrap();
        db.execute("NOTIFY consumer_events, 'neither was heard'")
            .await;
        assert_eq!(
            listener.recv().await.unwrap().payload(),
            "neither was heard"
        );

        let mut tx = loud.begin().await.unwrap();
        for id in ["u-1", "u-2"] {
            loud.append_in(&mut tx, ExpectedVersion::Any, &changes(id, 10))
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();
        db.execute("NOTIFY consumer_events, 'only one was heard'")
            .await;
        assert_eq!(listener.recv().await.unwrap().payload(), "");
        assert_eq!(
            listener.recv().await.unwrap().payload(),
            "only one was heard"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stricter_default_isolation_of_the_role_changes_nothing() {
        let db = Database::<Postgres>::fresh().await;
        let url = format!(
            "{}?options=-c%20default_transaction_isolation%3Dserializable",
            db.url
        );
        let store = EventStore::<Postgres>::connect(&url).await.unwrap();
        let appending = |store: EventStore<Postgres>| async move {
            store
                .append(ExpectedVersion::Any, &changes("u-1", 1))
                .await
                .unwrap();
        };
        eight_at_once(&store, appending).await;
        assert_eq!(history(&store, "u-1").await.len(), 8);
    }

    /// Returns once a backend of this database waits for a lock of another one.
    async fn waits_for_a_lock(db: &Database<Postgres>) {
        loop {
            let waiting: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM pg_stat_activity \
                 WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0)",
            )
            .fetch_one(&db.pool)
            .await
            .unwrap();
            if waiting {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

mod sqlite {
    use super::*;
    use consumer::SqliteEventStore;
    use consumer_tests::Database;
    use sqlx::Sqlite;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_unique_violation_is_reported_as_a_conflict() {
        let db = Database::<Sqlite>::fresh().await;
        // SQLite has one writer; a trigger stands in for the second.
        sqlx::query(
            "CREATE TRIGGER second_writer BEFORE INSERT ON events WHEN NEW.event_type <> 'Foreign' BEGIN \
             INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload) \
             VALUES (NEW.aggregate_type, NEW.aggregate_id, NEW.aggregate_version, 'x', 'Foreign', ''); END",
        )
        .execute(&db.pool)
        .await
        .unwrap();
        let error = refused(&db, ExpectedVersion::Any, &[registered("u-1")]).await;
        assert!(
            matches!(error, StoreError::Conflict { actual: None, .. }),
            "{error}"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_deferred_transaction_waits_its_turn_to_append() {
        let db = Database::<Sqlite>::fresh().await;
        let store = &db.store;
        let appending = |store: EventStore<Sqlite>| async move {
            let mut tx = store.pool().begin().await.unwrap();
            store
                .append_in(&mut tx, ExpectedVersion::Any, &changes("u-1", 1))
                .await
                .unwrap();
            tx.commit().await.unwrap();
        };
        eight_at_once(store, appending).await;
        assert_eq!(history(store, "u-1").await.len(), 8);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_in_memory_database_belongs_to_one_store() {
        let store = SqliteEventStore::connect("sqlite::memory:").await.unwrap();
        let other = SqliteEventStore::connect("sqlite::memory:").await.unwrap();
        store.migrate().await.unwrap();
        let appending = |store: EventStore<Sqlite>| async move {
            for _ in 0..10 {
                store
                    .append(ExpectedVersion::Any, &changes("u-1", 1))
                    .await
                    .unwrap();
            }
        };
        eight_at_once(&store, appending).await;
        assert_eq!(history(&store, "u-1").await.len(), 80);
        assert!(matches!(
            other.check().await.unwrap_err(),
            StoreError::NotMigrated { .. }
        ));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_in_memory_database_outlives_every_connection_of_its_pool() {
        let store = SqliteEventStore::connect("sqlite::memory:").await.unwrap();
        store.migrate().await.unwrap();
        while store.pool().size() > 0 {
            let conn = store.pool().acquire().await.unwrap();
            conn.close().await.unwrap();
        }
        store.check().await.unwrap();
    }
}
