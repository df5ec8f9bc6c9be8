//! Tables that exist already, under other names.

use std::sync::Arc;

use consumer::{
    Column, EventStore, ExpectedVersion, Metadata, NewEvent, PersistedEvent, ReadRange, Schema,
    StoreError, Worker,
};
use consumer_tests::{COLUMNS, Database, TestDatabase, test_on, watching};
use sqlx::{Postgres, Sqlite};

fn event(id: &str) -> NewEvent {
    NewEvent::new("User", id, "UserRegistered", "{}").metadata(Metadata::from_json_text("{}"))
}

/// Checks that every way to append and read agrees, by hand and through a worker.
async fn works<DB: TestDatabase>(store: &EventStore<DB>) {
    let stored = store
        .append(ExpectedVersion::NoStream, &[event("u-1"), event("u-1")])
        .await
        .unwrap();
    let error = store
        .append(ExpectedVersion::NoStream, &[event("u-1")])
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Conflict {
                actual: Some(2),
                ..
            }
        ),
        "{error}"
    );

    let mut conn = store.pool().acquire().await.unwrap();
    let types = [Arc::from("User"), Arc::from("Order")];
    let range = ReadRange {
        after: 0,
        up_to: i64::MAX,
        limit: 10,
        max_bytes: 1_000,
        scope: None,
    };
    let scoped = ReadRange {
        scope: Some(&types),
        ..range
    };
    assert_eq!(store.read_events(&mut conn, 0, 10).await.unwrap(), stored);
    assert_eq!(store.read_range(&mut conn, range).await.unwrap(), stored);
    assert_eq!(store.read_range(&mut conn, scoped).await.unwrap(), stored);
    assert_eq!(
        store
            .read_aggregate(&mut conn, "User", "u-1", None, None)
            .await
            .unwrap(),
        stored
    );
    assert_eq!(
        store.latest_global_position(&mut conn).await.unwrap(),
        stored[1].global_position
    );
    drop(conn);
    a_worker_reads(store, &stored).await;
}

/// Has consumers of all events and of one type see the log, and one of another type see nothing.
async fn a_worker_reads<DB: TestDatabase>(store: &EventStore<DB>, log: &[PersistedEvent]) {
    let (all, seen_by_all) = watching("all");
    let (users, seen_by_users) = watching("users");
    let (orders, seen_by_orders) = watching("orders");
    Worker::builder(store.clone())
        .consumer(all)
        .scoped_consumer(users.scope(&["User"]))
        .scoped_consumer(orders.scope(&["Order"]))
        .build()
        .unwrap()
        .run_once()
        .await
        .unwrap();
    assert_eq!(*seen_by_all.lock().unwrap(), log);
    assert_eq!(*seen_by_users.lock().unwrap(), log);
    assert_eq!(*seen_by_orders.lock().unwrap(), []);
}

test_on!(
    [sqlite, postgres],
    a_mapping_to_a_column_that_is_not_there_is_refused
);

test_on!(
    [empty_sqlite, empty_postgres],
    every_table_and_column_can_have_another_name,
    a_column_may_have_a_name_that_our_statements_use
);

async fn every_table_and_column_can_have_another_name<DB: TestDatabase>(db: Database<DB>) {
    let schema = Schema::default()
        .events("event log")
        .aggregate_heads("köpfe")
        .column(Column::GlobalPosition, "position")
        .column(Column::AggregateType, "kind")
        .column(Column::AggregateId, "order")
        .column(Column::AggregateVersion, "Version")
        .column(Column::EventId, "id")
        .column(Column::EventType, "type")
        .column(Column::EventVersion, "schema {version}")
        .column(Column::Payload, "data")
        .column(Column::TraceId, "trace")
        .column(Column::CorrelationId, "correlation")
        .column(Column::CausationId, "causation")
        .column(Column::Metadata, "meta")
        .column(Column::CreatedAt, "at");
    let store = db.store.clone().with_schema(schema).unwrap();
    store.migrate().await.unwrap();
    works(&store).await;
    let taken = event("u-2");
    store
        .append(ExpectedVersion::Any, std::slice::from_ref(&taken))
        .await
        .unwrap();
    let again = event("u-3").event_id(taken.event_id);
    let error = store
        .append(ExpectedVersion::Any, &[again])
        .await
        .unwrap_err();
    assert!(
        matches!(error, StoreError::DuplicateEventId { .. }),
        "{error}"
    );
    let count = db
        .number(r#"SELECT count("Version") FROM "event log""#)
        .await;
    assert_eq!(count, 3);
}

async fn a_column_may_have_a_name_that_our_statements_use<DB: TestDatabase>(_: Database<DB>) {
    // The aliases of our statements: of columns, of tables, and of sets.
    let names = [
        "number", "bytes", "name", "event", "found", "measured", "new", "ordinal", "head", "base",
        "p", "n", "value",
    ];
    let columns = COLUMNS;
    // Each column has each of the names once.
    for first in 0..names.len() {
        let db = Database::<DB>::empty().await;
        let schema = columns
            .iter()
            .enumerate()
            .fold(Schema::default(), |schema, (n, column)| {
                schema.column(*column, names[(first + n) % names.len()])
            });
        let store = db.store.clone().with_schema(schema).unwrap();
        store.migrate().await.unwrap();
        works(&store).await;
    }
}

async fn a_mapping_to_a_column_that_is_not_there_is_refused<DB: TestDatabase>(db: Database<DB>) {
    let schema = Schema::default().column(Column::Payload, "data");
    let store = db.store.clone().with_schema(schema).unwrap();
    for result in [store.check().await, store.migrate().await] {
        let error = result.unwrap_err();
        assert!(matches!(error, StoreError::Mismatches { .. }), "{error:?}");
        assert!(error.to_string().contains("data"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_on_sqlite_may_have_the_names_in_other_letters() {
    let db = Database::<Sqlite>::fresh().await;
    let schema = Schema::default()
        .events("Events")
        .aggregate_heads("AGGREGATE_HEADS")
        .column(Column::GlobalPosition, "Global_Position")
        .column(Column::EventId, "Event_Id");
    let store = db.store.clone().with_schema(schema).unwrap();
    store.migrate().await.unwrap();
    works(&store).await;
    // The second start compares checkpoints with the positions that were given out.
    let log = store
        .read_events(&mut db.pool.acquire().await.unwrap(), 0, 10)
        .await
        .unwrap();
    a_worker_reads(&store, &[]).await;
    assert_eq!(log.len(), 2);
    let again = event("u-3").event_id(log[0].event_id);
    let error = store
        .append(ExpectedVersion::Any, &[again])
        .await
        .unwrap_err();
    assert!(
        matches!(error, StoreError::DuplicateEventId { .. }),
        "{error:?}"
    );
}

/// The tables of eventsalsa/store from 0.1 on.
const STREAM_HEADS: &str = "
CREATE TABLE stream_heads (
    stream_type TEXT NOT NULL, stream_id TEXT NOT NULL, stream_version BIGINT NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), PRIMARY KEY (stream_type, stream_id));";

const STREAM_COLUMNS: &str = "
    stream_type TEXT NOT NULL, stream_id TEXT NOT NULL, stream_version BIGINT NOT NULL,
    event_id UUID NOT NULL, event_type TEXT NOT NULL, event_version INT NOT NULL DEFAULT 1,
    payload BYTEA NOT NULL, trace_id TEXT, correlation_id TEXT, causation_id TEXT, metadata JSONB,
    created_at TIMESTAMPTZ NOT NULL DEFAULT NOW()";

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_tables_of_later_go_releases_can_be_used() {
    let db = Database::<Postgres>::empty().await;
    let tables = format!(
        "{STREAM_HEADS} CREATE TABLE events (global_position BIGSERIAL PRIMARY KEY, {STREAM_COLUMNS}, \
         UNIQUE (event_id), UNIQUE (stream_type, stream_id, stream_version)); \
         CREATE INDEX idx_events_stream_type_position ON events (stream_type, global_position)"
    );
    db.execute(&tables).await;
    let store = db.store.clone().with_schema(Schema::streams()).unwrap();
    store.migrate().await.unwrap();
    works(&store).await;
    let indexes = db
        .number("SELECT count(*) FROM pg_indexes WHERE tablename = 'events'")
        .await;
    assert_eq!(indexes, 4, "the index that was there is good enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_partitioned_table_can_be_used_across_its_partitions() {
    let db = Database::<Postgres>::empty().await;
    let tables = format!(
        "{STREAM_HEADS} CREATE SEQUENCE events_global_position_seq; \
         CREATE TABLE events (global_position BIGINT NOT NULL DEFAULT nextval('events_global_position_seq'), \
             {STREAM_COLUMNS}, PRIMARY KEY (global_position)) PARTITION BY RANGE (global_position); \
         CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (1) TO (2); \
         CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (2) TO (100)"
    );
    db.execute(&tables).await;
    let store = db.store.clone().with_schema(Schema::streams()).unwrap();
    store.migrate().await.unwrap();
    works(&store).await;

    // No constraint holds versions together across partitions; the head row does.
    let appending = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .append(ExpectedVersion::Exact(2), &[event("u-1")])
                .await
                .is_ok()
        })
    });
    let mut won = 0;
    for task in appending.collect::<Vec<_>>() {
        won += i32::from(task.await.unwrap());
    }
    assert_eq!(won, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_no_default_shows_can_be_named() {
    let db = Database::<Postgres>::empty().await;
    let tables = format!(
        "{STREAM_HEADS} CREATE SEQUENCE \"The positions\"; \
         CREATE FUNCTION draw() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('\"The positions\"') $$; \
         CREATE TABLE events (global_position BIGINT PRIMARY KEY DEFAULT draw(), {STREAM_COLUMNS})"
    );
    db.execute(&tables).await;
    let schema = Schema::streams().sequence("The positions");
    let store = db.store.clone().with_schema(schema).unwrap();
    store.migrate().await.unwrap();
    works(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_runs_in_a_schema_other_than_public() {
    let db = Database::<Postgres>::empty().await;
    let schema = Schema::default().database_schema("Sales figures");
    let store = db.store.clone().with_schema(schema).unwrap();
    store.migrate().await.unwrap();
    works(&store).await;
}
