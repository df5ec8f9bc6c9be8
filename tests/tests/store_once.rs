//! Appends that are repeated: each event is stored once, by its id.

use std::collections::BTreeMap;
use std::sync::Arc;

use consumer::{
    AppendedOnce, Column, EventStore, ExpectedVersion, Metadata, NewEvent, PersistedEvent, Schema,
    SqlType, StoreError,
};
use consumer_tests::{Database, TestDatabase, databases, test_on, until};
use sqlx::Postgres;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use uuid::Uuid;

/// An event of an order, whose type says which one it is.
fn event(order: &str, what: usize) -> NewEvent {
    NewEvent::new("Order", order, format!("Changed{what}"), "{}")
}

/// Events of these orders, in turn.
fn events(orders: &[&str], count: usize) -> Vec<NewEvent> {
    let orders = orders.iter().cycle().take(count);
    orders
        .enumerate()
        .map(|(n, order)| event(order, n))
        .collect()
}

fn ids<'a>(events: impl IntoIterator<Item = &'a PersistedEvent>) -> Vec<Uuid> {
    events.into_iter().map(|event| event.event_id).collect()
}

fn new_ids(events: &[NewEvent]) -> Vec<Uuid> {
    events.iter().map(|event| event.event_id).collect()
}

async fn log<DB: TestDatabase>(store: &EventStore<DB>) -> Vec<PersistedEvent> {
    let mut tx = store.begin().await.unwrap();
    store.read_events(&mut tx, 0, 100_000).await.unwrap()
}

/// Checks that the versions of each aggregate ascend by one with the positions.
fn assert_gapless(log: &[PersistedEvent]) {
    let mut versions: BTreeMap<&str, i64> = BTreeMap::new();
    for event in log {
        let version = versions.entry(&event.aggregate_id).or_default();
        *version += 1;
        assert_eq!(event.aggregate_version, *version, "{event:?}");
    }
}

test_on!(
    [sqlite, postgres, through_a_pooler],
    the_events_that_the_log_lacks_are_appended,
    a_batch_keeps_its_order_over_several_aggregates,
    an_id_that_is_twice_in_a_batch_is_stored_once,
    another_event_under_an_id_is_an_error_that_names_it,
    an_error_leaves_the_transaction_as_it_was,
    concurrent_importers_store_each_event_once_without_errors,
    of_concurrent_importers_of_one_event_exactly_one_wins
);

test_on!(
    [sqlite, postgres],
    without_ids_that_are_kept_repeats_are_stored_again,
    an_import_belongs_to_the_transaction_of_its_caller,
    what_says_how_an_event_came_about_may_differ,
    a_log_that_cannot_be_appended_to_by_id_says_so,
    what_append_refuses_is_refused_and_nothing_is_stored,
    a_large_batch_of_new_and_known_events_is_stored
);

async fn the_events_that_the_log_lacks_are_appended<DB: TestDatabase>(db: Database<DB>) {
    let batch = events(&["a"], 5);
    let first = db.store.append_once(&batch[1..3]).await.unwrap();
    assert_eq!(ids(&first.appended), new_ids(&batch[1..3]));
    assert!(first.existing.is_empty());

    let all = db.store.append_once(&batch).await.unwrap();
    let [zero, one, two, three, four] = new_ids(&batch)[..] else {
        panic!("five events");
    };
    assert_eq!(ids(&all.appended), [zero, three, four]);
    assert_eq!(all.existing, first.appended, "as they are stored");
    assert_eq!(ids(&log(&db.store).await), [one, two, zero, three, four]);
    assert_gapless(&log(&db.store).await);

    let again = db.store.append_once(&batch).await.unwrap();
    assert!(again.appended.is_empty());
    assert_eq!(ids(&again.existing), new_ids(&batch));
    assert_eq!(log(&db.store).await.len(), 5);
}

async fn a_batch_keeps_its_order_over_several_aggregates<DB: TestDatabase>(db: Database<DB>) {
    let batch = events(&["b", "a", "c", "a"], 40);
    let once = db.store.append_once(&batch).await.unwrap();
    assert_eq!(ids(&once.appended), new_ids(&batch));
    let positions = once.appended.iter().map(|event| event.global_position);
    assert!(positions.is_sorted_by(|one, next| one < next));
    assert_eq!(log(&db.store).await, once.appended);
    assert_gapless(&once.appended);
    // Ordinary appends continue after it.
    let next = [event("a", 40)];
    let next = db.store.append(ExpectedVersion::Exact(20), &next).await;
    assert_eq!(next.unwrap()[0].aggregate_version, 21);
}

async fn an_id_that_is_twice_in_a_batch_is_stored_once<DB: TestDatabase>(db: Database<DB>) {
    let batch = events(&["a", "b"], 4);
    let twice = [&batch[..], &batch[1..3]].concat();
    let once = db.store.append_once(&twice).await.unwrap();
    assert_eq!(ids(&once.appended), new_ids(&batch));
    assert_eq!(once.existing, once.appended[1..3]);
    assert_eq!(log(&db.store).await, once.appended);
}

async fn another_event_under_an_id_is_an_error_that_names_it<DB: TestDatabase>(db: Database<DB>) {
    let stored = event("a", 0);
    db.store
        .append_once(std::slice::from_ref(&stored))
        .await
        .unwrap();
    let id = stored.event_id;
    let others = [
        (
            NewEvent::new("Cart", "a", "Changed0", "{}"),
            "aggregate type",
        ),
        (
            NewEvent::new("Order", "b", "Changed0", "{}"),
            "aggregate id",
        ),
        (NewEvent::new("Order", "a", "Changed1", "{}"), "event type"),
        (event("a", 0).event_version(2), "event version"),
        (NewEvent::new("Order", "a", "Changed0", "{ }"), "payload"),
    ];
    for (other, difference) in others {
        let batch = [event("a", 7), event("z", 8), other.event_id(id)];
        let error = db.store.append_once(&batch).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::DifferentEvent { event_id, position: 1, difference: found }
                if *event_id == id && *found == difference),
            "{error:?}"
        );
        assert!(error.to_string().contains(&id.to_string()), "{error}");
        assert!(!error.is_retryable());
        assert_eq!(log(&db.store).await.len(), 1, "nothing of the batch");
    }
    // Within a batch, too.
    let batch = [
        event("b", 1).event_id(Uuid::nil()),
        event("b", 2).event_id(Uuid::nil()),
    ];
    let error = db.store.append_once(&batch).await.unwrap_err();
    assert!(
        matches!(error, StoreError::DifferentEvent { event_id, difference: "event type", .. }
            if event_id == Uuid::nil()),
        "{error:?}"
    );
    assert_eq!(log(&db.store).await.len(), 1);
}

async fn an_error_leaves_the_transaction_as_it_was<DB: TestDatabase>(db: Database<DB>) {
    let known = event("a", 0);
    db.store
        .append_once(std::slice::from_ref(&known))
        .await
        .unwrap();
    let other = event("b", 0).event_id(known.event_id);

    let mut tx = db.store.begin().await.unwrap();
    let mine = [event("a", 1)];
    db.store
        .append_in(&mut tx, ExpectedVersion::Any, &mine)
        .await
        .unwrap();
    let batch = [event("c", 2), other, event("d", 3)];
    let error = db.store.append_once_in(&mut tx, &batch).await.unwrap_err();
    assert!(
        matches!(error, StoreError::DifferentEvent { .. }),
        "{error}"
    );
    let more = [event("a", 4), event("c", 5)];
    let more = db.store.append_once_in(&mut tx, &more).await.unwrap();
    tx.commit().await.unwrap();

    let versions = more.appended.iter().map(|event| event.aggregate_version);
    assert_eq!(versions.collect::<Vec<_>>(), [3, 1]);
    let stored = log(&db.store).await;
    assert_eq!(stored.len(), 4);
    assert_gapless(&stored);
    let heads = "SELECT count(*) FROM aggregate_heads WHERE aggregate_id IN ('b', 'd')";
    assert_eq!(db.number(heads).await, 0);
}

/// Imports a log's events in batches, again and again from an earlier one, as after lost
/// acknowledgements; every second importer reverses the order of the aggregates.
async fn import<DB: TestDatabase>(
    store: &EventStore<DB>,
    source: &[NewEvent],
    importer: usize,
) -> Vec<AppendedOnce> {
    let mut imported = Vec::new();
    for start in (0..source.len()).step_by(10) {
        let from = start.saturating_sub(5 * importer);
        let mut batch = source[from..(start + 10).min(source.len())].to_vec();
        if importer % 2 == 1 {
            // Within an aggregate, the order stays.
            batch.sort_by(|one, other| other.aggregate_id.cmp(&one.aggregate_id));
        }
        imported.push(store.append_once(&batch).await.unwrap());
    }
    imported
}

async fn concurrent_importers_store_each_event_once_without_errors<DB: TestDatabase>(
    db: Database<DB>,
) {
    const IMPORTERS: usize = 4;
    let source: Arc<[NewEvent]> = events(&["a", "b", "c", "d", "e"], 200).into();
    let start = Arc::new(Barrier::new(IMPORTERS));
    let mut importers = JoinSet::new();
    for importer in 0..IMPORTERS {
        let (store, source, start) = (db.store.clone(), Arc::clone(&source), Arc::clone(&start));
        importers.spawn(async move {
            start.wait().await;
            import(&store, &source, importer).await
        });
    }
    let imported = importers.join_all().await.concat();

    let mut appended: Vec<Uuid> = imported
        .iter()
        .flat_map(|once| ids(&once.appended))
        .collect();
    appended.sort_unstable();
    let mut expected = new_ids(&source);
    expected.sort_unstable();
    assert_eq!(
        appended, expected,
        "each is appended by exactly one of them"
    );
    let repeats: usize = imported.iter().map(|once| once.existing.len()).sum();
    assert!(repeats >= (IMPORTERS - 1) * source.len());

    let stored = log(&db.store).await;
    assert_eq!(stored.len(), source.len());
    assert_gapless(&stored);
    for order in ["a", "b", "c", "d", "e"] {
        let of_source = source.iter().filter(|event| &*event.aggregate_id == order);
        let of_log = stored.iter().filter(|event| event.aggregate_id == order);
        let of_source: Vec<Uuid> = of_source.map(|event| event.event_id).collect();
        assert_eq!(ids(of_log), of_source, "in the order of the source");
    }
}

async fn of_concurrent_importers_of_one_event_exactly_one_wins<DB: TestDatabase>(db: Database<DB>) {
    const IMPORTERS: usize = 8;
    for round in 0..20 {
        let one = [event("a", round)];
        let start = Arc::new(Barrier::new(IMPORTERS));
        let mut importers = JoinSet::new();
        for _ in 0..IMPORTERS {
            let (store, one, start) = (db.store.clone(), one.clone(), Arc::clone(&start));
            importers.spawn(async move {
                start.wait().await;
                store.append_once(&one).await.unwrap()
            });
        }
        let imported = importers.join_all().await;
        let winners = imported.iter().filter(|once| !once.appended.is_empty());
        assert_eq!(winners.count(), 1);
        let position = i64::try_from(round).unwrap();
        for once in &imported {
            let found = once.appended.iter().chain(&once.existing);
            assert_eq!(ids(found), new_ids(&one), "all get the event");
        }
        assert_eq!(
            log(&db.store).await.last().unwrap().aggregate_version,
            position + 1
        );
    }
}

/// The control: what an importer does that makes new events of messages, or that takes the error of a
/// repeat for one of the whole batch.
async fn without_ids_that_are_kept_repeats_are_stored_again<DB: TestDatabase>(db: Database<DB>) {
    let batch = events(&["a"], 3);
    let with_new_ids = || -> Vec<NewEvent> {
        let new = |event: &NewEvent| event.clone().event_id(Uuid::now_v7());
        batch.iter().map(new).collect()
    };
    for _ in 0..2 {
        db.append_events(&with_new_ids()).await;
    }
    assert_eq!(log(&db.store).await.len(), 6);

    db.append_events(&batch[..2]).await;
    let error = db
        .store
        .append(ExpectedVersion::Any, &batch)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::DuplicateEventId { .. }));
    assert_eq!(log(&db.store).await.len(), 8, "the third event is missing");
    db.store.append_once(&batch).await.unwrap();
    assert_eq!(log(&db.store).await.len(), 9);
}

async fn an_import_belongs_to_the_transaction_of_its_caller<DB: TestDatabase>(db: Database<DB>) {
    db.execute("CREATE TABLE mine (id TEXT)").await;
    let batch = events(&["a", "b"], 4);
    for commit in [false, true] {
        let mut tx = db.store.begin().await.unwrap();
        DB::execute_sql(&mut tx, "INSERT INTO mine (id) VALUES ('batch')")
            .await
            .unwrap();
        let once = db.store.append_once_in(&mut tx, &batch).await.unwrap();
        assert_eq!(once.appended.len(), 4);
        if commit {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        let expected = if commit { (1, 4) } else { (0, 0) };
        let rows = db.number("SELECT count(*) FROM mine").await;
        assert_eq!((rows, log(&db.store).await.len()), expected);
    }
    // On a connection without a transaction, the batch is one.
    let mut connection = db.pool.acquire().await.unwrap();
    let other = event("z", 9).event_id(batch[0].event_id);
    let refused = [event("y", 8), other];
    let refused = db.store.append_once_in(&mut connection, &refused).await;
    assert!(matches!(refused, Err(StoreError::DifferentEvent { .. })));
    db.store
        .append_once_in(&mut connection, &[event("y", 8)])
        .await
        .unwrap();
    drop(connection);
    assert_eq!(log(&db.store).await.len(), 5);
}

async fn what_says_how_an_event_came_about_may_differ<DB: TestDatabase>(db: Database<DB>) {
    let first = event("a", 0)
        .metadata(Metadata::from_json_text(r#"{"import": 1}"#))
        .correlation_id("one");
    db.store
        .append_once(std::slice::from_ref(&first))
        .await
        .unwrap();
    let second = first
        .clone()
        .metadata(Metadata::from_json_text(r#"{"import": 2}"#))
        .trace_id("t")
        .correlation_id("two")
        .causation_id("c");
    let again = db.store.append_once(&[second]).await.unwrap();
    assert_eq!(again.existing[0].correlation_id.as_deref(), Some("one"));
    assert_eq!(log(&db.store).await, again.existing);
}

async fn a_log_that_cannot_be_appended_to_by_id_says_so<DB: TestDatabase>(db: Database<DB>) {
    let read_only = db.store.clone().with_schema(Schema::default().read_only());
    let error = read_only
        .unwrap()
        .append_once(&[event("a", 0)])
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StoreError::ReadOnlyLog { table } if table == "events"),
        "{error}"
    );

    // A mapping without ids is not even one of a log.
    let without_ids = db
        .store
        .clone()
        .with_schema(Schema::default().without(Column::EventId));
    let error = without_ids.unwrap_err();
    assert!(
        matches!(
            &error,
            StoreError::InvalidMapping {
                column: Column::EventId,
                ..
            }
        ),
        "{error}"
    );
}

async fn what_append_refuses_is_refused_and_nothing_is_stored<DB: TestDatabase>(db: Database<DB>) {
    let error = db.store.append_once(&[]).await.unwrap_err();
    assert!(matches!(error, StoreError::NothingToAppend));

    let invalid = event("b", 1).metadata(Metadata::from_json_text("{"));
    let mut tx = db.store.begin().await.unwrap();
    let error = db
        .store
        .append_once_in(&mut tx, &[event("a", 0), invalid])
        .await;
    assert!(matches!(error, Err(StoreError::InvalidMetadata { .. })));
    let nul = NewEvent::new("Order", "a\0b", "Changed", "{}");
    let stored = db
        .store
        .append_once_in(&mut tx, &[event("a", 0), nul])
        .await;
    tx.commit().await.unwrap();
    match stored {
        // Only Postgres cannot store it.
        Err(StoreError::NulInText { .. }) => assert!(log(&db.store).await.is_empty()),
        stored => assert_eq!(log(&db.store).await, stored.unwrap().appended),
    }
}

async fn a_large_batch_of_new_and_known_events_is_stored<DB: TestDatabase>(db: Database<DB>) {
    let batch = events(&["a"], 8_000);
    db.store.append_once(&batch[2_000..4_000]).await.unwrap();
    let once = db.store.append_once(&batch).await.unwrap();
    assert_eq!((once.appended.len(), once.existing.len()), (6_000, 2_000));
    assert_gapless(&log(&db.store).await);
}

/// Waits until a session waits for another one's lock.
async fn until_one_waits(db: &Database<Postgres>) {
    until("a session waits", async || {
        let waiting = "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
                        WHERE NOT l.granted AND a.datname = current_database()";
        db.number(waiting).await > 0
    })
    .await;
}

/// A writer that knows no heads, as a program of one's own or another library may be.
async fn insert_without_head(connection: &mut sqlx::PgConnection, event: &NewEvent) {
    sqlx::query(
        "INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
         VALUES ($1, $2, 1, $3, $4, $5)",
    )
    .bind(&*event.aggregate_type)
    .bind(&*event.aggregate_id)
    .bind(event.event_id)
    .bind(&*event.event_type)
    .bind(&event.payload[..])
    .execute(connection)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_writer_without_heads_commits_is_found() {
    let db = databases::postgres().await;
    for once in [false, true] {
        let order = if once { "a" } else { "b" };
        let one = event(order, 0);
        let mut other = db.pool.begin().await.unwrap();
        insert_without_head(&mut other, &one).await;
        let (store, batch) = (db.store.clone(), [one, event(order, 1)]);
        let waiting = tokio::spawn(async move {
            if once {
                store.append_once(&batch).await
            } else {
                // The control.
                let appended = store.append(ExpectedVersion::Any, &batch).await?;
                assert!(appended.is_empty());
                Ok(AppendedOnce::default())
            }
        });
        until_one_waits(&db).await;
        other.commit().await.unwrap();
        let imported = waiting.await.unwrap();
        if once {
            let imported = imported.unwrap();
            assert_eq!((imported.existing.len(), imported.appended.len()), (1, 1));
            assert_eq!(imported.appended[0].aggregate_version, 2);
        } else {
            let error = imported.unwrap_err();
            assert!(
                matches!(
                    error,
                    StoreError::DuplicateEventId { .. } | StoreError::Conflict { .. }
                ),
                "{error}"
            );
        }
    }
    assert_gapless(&log(&db.store).await);
}

/// Appends to two aggregates in one transaction, in this order.
async fn append_to_both(
    store: EventStore<Postgres>,
    orders: [&str; 2],
    once: bool,
) -> Result<(), StoreError> {
    let batch = orders.map(|order| event(order, 0));
    let mut tx = store.begin().await?;
    if once {
        store.append_once_in(&mut tx, &batch).await?;
    } else {
        for event in batch {
            store
                .append_in(&mut tx, ExpectedVersion::Any, &[event])
                .await?;
            // Both have the first before one of them has the second.
            tokio::task::yield_now().await;
        }
    }
    Ok(tx.commit().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_in_opposite_orders_do_not_wait_for_each_other() {
    let db = databases::postgres().await;
    // The control: appends one by one, each transaction with its own order.
    let mut first = db.store.begin().await.unwrap();
    let mut second = db.store.begin().await.unwrap();
    db.append_in(&mut first, "a").await;
    db.append_in(&mut second, "b").await;
    let (store, crossing) = (
        db.store.clone(),
        [NewEvent::new("User", "b", "Changed", "{}")],
    );
    let waiting = tokio::spawn(async move {
        let appended = store
            .append_in(&mut first, ExpectedVersion::Any, &crossing)
            .await;
        appended.map(drop)
    });
    until_one_waits(&db).await;
    let crossing = [NewEvent::new("User", "a", "Changed", "{}")];
    let crossed = db
        .store
        .append_in(&mut second, ExpectedVersion::Any, &crossing)
        .await;
    drop(second);
    let results = [crossed.map(drop), waiting.await.unwrap()];
    let deadlocks = results
        .iter()
        .filter(|result| matches!(result, Err(StoreError::Contention { .. })));
    assert_eq!(deadlocks.count(), 1, "{results:?}");

    // The locks of one transaction keep two others waiting, which then have both aggregates to lock.
    let mut holder = db.store.begin().await.unwrap();
    for order in ["a", "b"] {
        let held = [event(order, 1)];
        db.store
            .append_in(&mut holder, ExpectedVersion::Any, &held)
            .await
            .unwrap();
    }
    let forth = tokio::spawn(append_to_both(db.store.clone(), ["a", "b"], true));
    let back = tokio::spawn(append_to_both(db.store.clone(), ["b", "a"], true));
    until("both wait", async || {
        let waiting =
            "SELECT count(DISTINCT l.pid) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
                        WHERE NOT l.granted AND a.datname = current_database()";
        db.number(waiting).await == 2
    })
    .await;
    holder.commit().await.unwrap();
    forth.await.unwrap().unwrap();
    back.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapped_table_takes_the_same_event_in_other_json_as_known() {
    let db = Database::<Postgres>::empty().await;
    db.execute(
        "CREATE TABLE ledger (
            seq BIGSERIAL PRIMARY KEY, kind TEXT NOT NULL, id UUID NOT NULL, no INT NOT NULL,
            uid TEXT NOT NULL UNIQUE, what TEXT NOT NULL, data JSONB NOT NULL, at TIMESTAMP NOT NULL,
            UNIQUE (kind, id, no))",
    )
    .await;
    let schema = Schema::default()
        .events("ledger")
        .column(Column::GlobalPosition, "seq")
        .column(Column::AggregateType, "kind")
        .column(Column::AggregateId, "id")
        .sql_type(Column::AggregateId, SqlType::Uuid)
        .column(Column::AggregateVersion, "no")
        .sql_type(Column::AggregateVersion, SqlType::Integer)
        .column(Column::EventId, "uid")
        .sql_type(Column::EventId, SqlType::Text)
        .column(Column::EventType, "what")
        .constant(Column::EventVersion, 1)
        .column(Column::Payload, "data")
        .sql_type(Column::Payload, SqlType::Jsonb)
        .without(Column::TraceId)
        .without(Column::CorrelationId)
        .without(Column::CausationId)
        .without(Column::Metadata)
        .column(Column::CreatedAt, "at")
        .sql_type(Column::CreatedAt, SqlType::Timestamp);
    let store = db.store.clone().with_schema(schema).unwrap();
    store.migrate().await.unwrap();

    let order = Uuid::now_v7().to_string();
    let paid = NewEvent::new("Order", &*order, "Paid", r#"{"amount": 10, "by": "ada"}"#);
    let placed = NewEvent::new("Order", &*order, "Placed", "{}");
    let first = store.append_once(&[placed, paid.clone()]).await.unwrap();
    assert_eq!(first.appended.len(), 2);
    let id = paid.event_id;
    let again =
        NewEvent::new("Order", &*order, "Paid", r#"{"by":"ada","amount":1e1}"#).event_id(id);
    let again = store.append_once(&[again]).await.unwrap();
    assert_eq!(ids(&again.existing), [id]);
    let other = NewEvent::new("Order", &*order, "Paid", r#"{"by":"ada","amount":11}"#).event_id(id);
    let error = store.append_once(&[other]).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::DifferentEvent {
                difference: "payload",
                ..
            }
        ),
        "{error}"
    );
}
