//! Tables of events that existed before: other types, fewer columns, constants, expressions, and logs to
//! which another program appends.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use consumer::{
    Access, Column, EventStore, ExpectedVersion, LogProblem, Metadata, NewEvent, PersistedEvent,
    PgEventStore, ReadRange, Schema, SqlType, StoreError, Worker, WorkerError,
};
use consumer_tests::{
    Database, Running, TestDatabase, consumer, log_problem, patiently, read_model, run_once, until,
    watching,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Sqlite};
use uuid::Uuid;

/// UUIDs, JSON, an `int` version, a time without a zone, and six columns fewer than the default.
const ORDERS: &str = "
    CREATE TABLE order_events (
        seq BIGSERIAL PRIMARY KEY,
        id UUID NOT NULL UNIQUE,
        order_id UUID NOT NULL,
        version INT NOT NULL,
        kind VARCHAR(100) NOT NULL,
        data JSONB NOT NULL,
        occurred_at TIMESTAMP NOT NULL DEFAULT now(),
        UNIQUE (order_id, version))";

fn orders() -> Schema {
    order_columns()
        .sql_type(Column::AggregateId, SqlType::Uuid)
        .sql_type(Column::AggregateVersion, SqlType::Integer)
        .sql_type(Column::Payload, SqlType::Jsonb)
        .column(Column::CreatedAt, "occurred_at")
        .sql_type(Column::CreatedAt, SqlType::Timestamp)
}

/// What the tables of orders have alike.
fn order_columns() -> Schema {
    without_causes(Schema::default())
        .events("order_events")
        .aggregate_heads("order_heads")
        .column(Column::GlobalPosition, "seq")
        .constant(Column::AggregateType, "Order")
        .column(Column::AggregateId, "order_id")
        .column(Column::AggregateVersion, "version")
        .column(Column::EventId, "id")
        .column(Column::EventType, "kind")
        .column(Column::Payload, "data")
}

/// A database with these tables, mapped and migrated.
async fn mapped<DB: TestDatabase>(tables: &str, schema: Schema) -> Database<DB> {
    let db = Database::<DB>::empty().await;
    db.execute(tables).await;
    db.execute(DB::CREATE_READ_MODEL).await;
    let store = db.store.clone().with_schema(schema).unwrap();
    store.migrate().await.unwrap();
    db.with_store(store)
}

fn event(kind: &str, id: &str) -> NewEvent {
    NewEvent::new(kind, id, "Changed", r#"{"n":1}"#)
}

/// The log of a table that has no place for what caused an event.
fn without_causes(schema: Schema) -> Schema {
    schema
        .constant(Column::EventVersion, 1)
        .without(Column::TraceId)
        .without(Column::CorrelationId)
        .without(Column::CausationId)
        .without(Column::Metadata)
}

/// The events of the log.
async fn log_of<DB: TestDatabase>(db: &Database<DB>) -> Vec<PersistedEvent> {
    let mut connection = db.pool.acquire().await.unwrap();
    db.store.read_events(&mut connection, 0, 9).await.unwrap()
}

/// The history of an aggregate.
async fn history<DB: TestDatabase>(
    db: &Database<DB>,
    connection: &mut DB::Connection,
    (aggregate_type, id): (&str, &str),
) -> Vec<PersistedEvent> {
    let history = db
        .store
        .read_aggregate(connection, aggregate_type, id, None, None);
    history.await.unwrap()
}

/// Checks that every way to read agrees, by hand and through workers with and without a scope.
async fn reads<DB: TestDatabase>(store: &EventStore<DB>, log: &[PersistedEvent]) {
    let kind = log[0].aggregate_type.clone();
    let range = ReadRange {
        after: 0,
        up_to: i64::MAX,
        limit: 100,
        max_bytes: 1 << 20,
        scope: None,
    };
    let scope = [Arc::clone(&kind), Arc::from("Another")];
    let scoped = ReadRange {
        scope: Some(&scope),
        ..range
    };
    let mut conn = store.pool().acquire().await.unwrap();
    assert_eq!(store.read_events(&mut conn, 0, 100).await.unwrap(), log);
    assert_eq!(store.read_range(&mut conn, range).await.unwrap(), log);
    assert_eq!(store.read_range(&mut conn, scoped).await.unwrap(), log);
    let id = log[0].aggregate_id.as_str();
    let of_one: Vec<_> = log
        .iter()
        .filter(|event| event.aggregate_id == id)
        .cloned()
        .collect();
    let history = store
        .read_aggregate(&mut conn, &kind, id, None, None)
        .await
        .unwrap();
    assert_eq!(history, of_one);
    let last = log.last().unwrap().global_position;
    assert_eq!(store.latest_global_position(&mut conn).await.unwrap(), last);
    drop(conn);

    let (all, seen_by_all) = watching("all");
    let (own, seen_by_own) = watching("own");
    let (other, seen_by_other) = watching("other");
    let worker = Worker::builder(store.clone())
        .consumer(all)
        .scoped_consumer(own.scope(&[Box::leak(kind.to_string().into_boxed_str())]))
        .scoped_consumer(other.scope(&["Another"]));
    let report = run_once(worker).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(*seen_by_all.lock().unwrap(), log);
    assert_eq!(*seen_by_own.lock().unwrap(), log);
    assert_eq!(*seen_by_other.lock().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_other_types_with_fewer_columns_is_used() {
    let db = mapped::<Postgres>(ORDERS, orders()).await;
    let (first, second) = (Uuid::now_v7().to_string(), Uuid::now_v7().to_string());
    let mut log = db
        .append_events(&[event("Order", &first), event("Order", &first)])
        .await;
    log.extend(db.append_events(&[event("Order", &second)]).await);
    assert_eq!(log[1].aggregate_version, 2);
    // `jsonb` has its own spelling.
    let read = log_of(&db).await;
    assert_eq!(&read[0].payload[..], br#"{"n": 1}"#);
    reads(&db.store, &read).await;
    let same =
        |event: &PersistedEvent| (event.event_id, event.aggregate_id.clone(), event.created_at);
    assert_eq!(
        read.iter().map(same).collect::<Vec<_>>(),
        log.iter().map(same).collect::<Vec<_>>()
    );
    let conflict = db
        .store
        .append(ExpectedVersion::NoStream, &[event("Order", &first)])
        .await;
    assert!(
        matches!(
            conflict,
            Err(StoreError::Conflict {
                actual: Some(2),
                ..
            })
        ),
        "{conflict:?}"
    );
    let indexes = "SELECT count(*) FROM pg_indexes WHERE tablename = 'order_events'";
    assert_eq!(db.number(indexes).await, 3, "the table is left as it is");
}

/// A table in which each column has one of the types that it can have.
struct Types {
    position: (&'static str, SqlType),
    id: (&'static str, SqlType),
    version: (&'static str, SqlType),
    event_id: (&'static str, SqlType),
    event_version: (&'static str, SqlType),
    payload: (&'static str, SqlType),
    trace: (&'static str, SqlType),
    metadata: (&'static str, SqlType),
    created_at: (&'static str, SqlType),
    aggregate: &'static str,
}

const EVERY_TYPE: [Types; 4] = [
    Types {
        position: ("SERIAL", SqlType::Integer),
        id: ("BIGINT", SqlType::BigInt),
        version: ("NUMERIC", SqlType::Numeric),
        event_id: ("TEXT", SqlType::Text),
        event_version: ("NUMERIC(6, 2)", SqlType::Numeric),
        payload: ("TEXT", SqlType::Text),
        trace: ("UUID", SqlType::Uuid),
        metadata: ("JSON", SqlType::Json),
        created_at: ("TIMESTAMP", SqlType::Timestamp),
        aggregate: "-9000000000",
    },
    Types {
        position: ("BIGSERIAL", SqlType::BigInt),
        id: ("INTEGER", SqlType::Integer),
        version: ("SMALLINT", SqlType::Integer),
        event_id: ("VARCHAR(36)", SqlType::Text),
        event_version: ("BIGINT", SqlType::BigInt),
        payload: ("JSON", SqlType::Json),
        trace: ("VARCHAR", SqlType::Text),
        metadata: ("TEXT", SqlType::Text),
        created_at: ("TIMESTAMPTZ", SqlType::Timestamptz),
        aggregate: "7",
    },
    Types {
        position: ("BIGINT GENERATED ALWAYS AS IDENTITY", SqlType::BigInt),
        id: ("VARCHAR(80)", SqlType::Text),
        version: ("BIGINT", SqlType::BigInt),
        event_id: ("UUID", SqlType::Uuid),
        event_version: ("SMALLINT", SqlType::Integer),
        payload: ("JSONB", SqlType::Jsonb),
        trace: ("TEXT", SqlType::Text),
        metadata: ("JSONB", SqlType::Jsonb),
        created_at: ("TIMESTAMPTZ", SqlType::Timestamptz),
        aggregate: "it's {any} \\text",
    },
    Types {
        position: ("BIGSERIAL", SqlType::BigInt),
        id: ("a_domain", SqlType::Uuid),
        version: ("INTEGER", SqlType::Integer),
        event_id: ("UUID", SqlType::Uuid),
        event_version: ("INTEGER", SqlType::Integer),
        payload: ("BYTEA", SqlType::Bytea),
        trace: ("UUID", SqlType::Uuid),
        metadata: ("JSONB", SqlType::Jsonb),
        created_at: ("TIMESTAMP(3)", SqlType::Timestamp),
        aggregate: "0b0c2d6e-59f1-4a6b-9e1a-0123456789ab",
    },
];

impl Types {
    fn table(&self) -> String {
        format!(
            "CREATE DOMAIN a_domain AS UUID;
             CREATE TABLE events (
                 global_position {} PRIMARY KEY, aggregate_type VARCHAR(50) NOT NULL,
                 aggregate_id {} NOT NULL, aggregate_version {} NOT NULL, event_id {} NOT NULL UNIQUE,
                 event_type VARCHAR NOT NULL, event_version {} NOT NULL, payload {} NOT NULL,
                 trace_id {}, correlation_id {}, causation_id {}, metadata {},
                 created_at {} NOT NULL DEFAULT now(),
                 UNIQUE (aggregate_type, aggregate_id, aggregate_version))",
            self.position.0,
            self.id.0,
            self.version.0,
            self.event_id.0,
            self.event_version.0,
            self.payload.0,
            self.trace.0,
            self.trace.0,
            self.trace.0,
            self.metadata.0,
            self.created_at.0,
        )
    }

    fn schema(&self) -> Schema {
        Schema::default()
            .sql_type(Column::GlobalPosition, self.position.1)
            .sql_type(Column::AggregateId, self.id.1)
            .sql_type(Column::AggregateVersion, self.version.1)
            .sql_type(Column::EventId, self.event_id.1)
            .sql_type(Column::EventVersion, self.event_version.1)
            .sql_type(Column::Payload, self.payload.1)
            .sql_type(Column::TraceId, self.trace.1)
            .sql_type(Column::CorrelationId, self.trace.1)
            .sql_type(Column::CausationId, self.trace.1)
            .sql_type(Column::Metadata, self.metadata.1)
            .sql_type(Column::CreatedAt, self.created_at.1)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_appended_is_read_with_every_type_of_each_column() {
    const TRACE: &str = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736";
    // A cast of text to `bytea` would read the backslashes as escapes, and fail on some.
    let payload = r#"{"path": "C:\\new\\table\\101", "text": "ä 🦀"}"#;
    for types in EVERY_TYPE {
        let db = mapped::<Postgres>(&types.table(), types.schema()).await;
        let event = NewEvent::new("User", types.aggregate, "Changed", payload)
            .event_version(3)
            .trace_id(TRACE)
            .correlation_id(TRACE)
            .causation_id(TRACE)
            .metadata(Metadata::from_json_text(r#"{"by": "C:\\ada"}"#));
        let before = Utc::now() - Duration::from_mins(1);
        let log = db
            .append_events(&[event.clone(), event.event_id(Uuid::now_v7())])
            .await;
        assert_eq!(log[1].aggregate_version, 2);
        assert!(
            log[0].created_at > before && log[0].created_at <= Utc::now() + Duration::from_mins(1)
        );
        reads(&db.store, &log).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_without_a_zone_is_one_in_utc_whatever_the_session() {
    let db = mapped::<Postgres>(ORDERS, orders()).await;
    db.execute(&format!(
        "ALTER DATABASE {} SET timezone = 'Asia/Tokyo'",
        db.name()
    ))
    .await;
    let pool = sqlx::PgPool::connect(&db.url).await.unwrap();
    let store = PgEventStore::new(pool).with_schema(orders()).unwrap();
    let id = Uuid::now_v7().to_string();
    let stored = store
        .append(ExpectedVersion::Any, &[event("Order", &id)])
        .await
        .unwrap();
    let age = Utc::now() - stored[0].created_at;
    assert!(age.num_seconds().abs() < 600, "{age}");
    let read = store
        .read_events(&mut store.pool().acquire().await.unwrap(), 0, 1)
        .await
        .unwrap();
    assert_eq!(read[0].created_at, stored[0].created_at);
}

/// How often this session has read a table as a whole, and through its indexes, as far as the server has not yet
/// recorded it.
async fn scans(conn: &mut PgConnection, table: &str) -> (i64, i64) {
    sqlx::query_as("SELECT seq_scan, idx_scan FROM pg_stat_xact_user_tables WHERE relname = $1")
        .bind(table)
        .fetch_one(conn)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_with_a_uuid_is_read_by_its_index() {
    let db = mapped::<Postgres>(ORDERS, orders()).await;
    db.execute(
        "INSERT INTO order_events (id, order_id, version, kind, data)
         SELECT gen_random_uuid(), gen_random_uuid(), 1, 'Placed', '{}' FROM generate_series(1, 5000);
         ANALYZE order_events",
    )
    .await;
    let id = db
        .texts("SELECT order_id::text FROM order_events LIMIT 1")
        .await
        .remove(0);
    // One of the pool has read the table before.
    let mut connection = PgConnection::connect(&db.url).await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    for _ in 0..10 {
        assert_eq!(history(&db, &mut tx, ("Order", &id)).await.len(), 1);
    }
    let (whole, by_index) = scans(&mut tx, "order_events").await;
    assert_eq!(whole, 0);
    assert!(by_index >= 10, "{by_index}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_the_column_cannot_hold_is_that_of_no_aggregate() {
    let db = mapped::<Postgres>(ORDERS, orders()).await;
    let id = Uuid::now_v7().to_string();
    db.append_event(event("Order", &id)).await;
    let mut tx = db.store.begin().await.unwrap();
    for other in ["o-7", "", &id.to_uppercase(), &id.replace('-', "")] {
        assert_eq!(history(&db, &mut tx, ("Order", other)).await, [], "{other}");
    }
    // The transaction is not aborted.
    assert_eq!(history(&db, &mut tx, ("Order", &id)).await.len(), 1);
    assert_eq!(history(&db, &mut tx, ("User", &id)).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_does_not_fit_the_table_is_never_sent() {
    let db = mapped::<Postgres>(ORDERS, orders()).await;
    let id = Uuid::now_v7().to_string();
    let refused = [
        (event("Order", "o-7"), "ids are of type uuid"),
        (event("Order", &id.to_uppercase()), "ids are of type uuid"),
        (event("User", &id), "aggregate_type"),
        (event("Order", &id).event_version(2), "event_version"),
        (event("Order", &id).trace_id("t"), "has a trace_id"),
        (
            event("Order", &id).correlation_id("t"),
            "has a correlation_id",
        ),
        (
            event("Order", &id).metadata(Metadata::from_json_text("{}")),
            "has a metadata",
        ),
        (
            NewEvent::new("Order", &*id, "Changed", "{"),
            "of type jsonb",
        ),
        (
            NewEvent::new("Order", &*id, "Changed", r#"{"a":"\u0000"}"#),
            "NUL",
        ),
    ];
    let mut tx = db.store.begin().await.unwrap();
    for (event, reason) in refused {
        let error = db
            .store
            .append_in(&mut tx, ExpectedVersion::Any, &[event])
            .await;
        let error = error.unwrap_err();
        assert!(matches!(error, StoreError::UnfitEvent { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    db.store
        .append_in(&mut tx, ExpectedVersion::Any, &[event("Order", &id)])
        .await
        .expect("the transaction is not aborted");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_column_the_cause_of_a_handlers_event_is_left_out() {
    let db = mapped::<Postgres>(ORDERS, orders()).await;
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    db.append_event(event("Order", &first.to_string())).await;
    let store = db.store.clone();
    let follow = consumer("follow", move |_, tx, seen| {
        let store = store.clone();
        Box::pin(async move {
            if seen.aggregate_id == first.to_string() {
                let next = [event("Order", &second.to_string())];
                let appended = store.append_in(tx, ExpectedVersion::Any, &next).await?;
                assert_eq!(appended[0].causation_id, None);
            }
            Ok(())
        })
    });
    let report = db.run_once(follow).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(db.number("SELECT count(*) FROM order_events").await, 2);
}

/// What another program appends to, with an enum type, and a payload inside of another column.
const READ_ONLY: &str = "
    CREATE TYPE kind AS ENUM ('Placed', 'Paid');
    CREATE TABLE log (
        n BIGSERIAL PRIMARY KEY, key UUID NOT NULL, stream TEXT NOT NULL, version NUMERIC NOT NULL,
        kind kind NOT NULL, body JSONB NOT NULL, at BIGINT NOT NULL)";

fn read_only() -> Schema {
    without_causes(Schema::default())
        .read_only()
        .events("log")
        .column(Column::GlobalPosition, "n")
        .expression(Column::AggregateType, "split_part(stream, '/', 1)")
        .expression(Column::AggregateId, "split_part(stream, '/', 2)")
        .column(Column::AggregateVersion, "version")
        .sql_type(Column::AggregateVersion, SqlType::Numeric)
        .column(Column::EventId, "key")
        .expression(Column::EventType, "kind::text")
        .expression(Column::Payload, "body #> '{content,data}'")
        .sql_type(Column::Payload, SqlType::Jsonb)
        .expression(Column::CorrelationId, "body ->> 'correlation'")
        .expression(Column::CreatedAt, "to_timestamp(at / 1000.0)")
}

const INSERT_READ_ONLY: &str = r#"
    INSERT INTO log (key, stream, version, kind, body, at)
    SELECT gen_random_uuid(), 'Order/o-' || n % 2, 1 + n / 2, 'Placed',
           '{"content": {"data": {"total": 7}}, "correlation": "c"}', 1700000000000 + n
      FROM generate_series(0, 5) AS n"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_log_may_be_mapped_with_expressions() {
    let db = mapped::<Postgres>(READ_ONLY, read_only()).await;
    db.execute(INSERT_READ_ONLY).await;
    let log = log_of(&db).await;
    assert_eq!(log.len(), 6);
    let third = &log[2];
    assert_eq!(
        (&*third.aggregate_type, third.aggregate_id.as_str()),
        ("Order", "o-0")
    );
    assert_eq!((third.aggregate_version, third.event_version), (2, 1));
    assert_eq!(&third.payload[..], br#"{"total": 7}"#);
    assert_eq!(third.correlation_id.as_deref(), Some("c"));
    assert_eq!(third.created_at.timestamp_millis(), 1_700_000_000_002);
    reads(&db.store, &log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_log_is_not_appended_to_and_left_as_it_is() {
    let db = mapped::<Postgres>(READ_ONLY, read_only()).await;
    let error = db
        .store
        .append(ExpectedVersion::Any, &[event("Order", "o-1")])
        .await;
    assert!(
        matches!(error, Err(StoreError::ReadOnlyLog { .. })),
        "{error:?}"
    );
    let indexes = "SELECT count(*) FROM pg_indexes WHERE tablename = 'log'";
    assert_eq!(db.number(indexes).await, 1);
    let heads = "SELECT count(*) FROM pg_tables WHERE tablename LIKE '%heads%'";
    assert_eq!(db.number(heads).await, 0);
    // No position is drawn, as for the test of the locks of a log that the library created.
    db.execute(INSERT_READ_ONLY).await;
    run_once(db.worker().consumer(read_model("first"))).await;
    run_once(db.worker().consumer(read_model("second"))).await;
    assert_eq!(db.number("SELECT last_value FROM log_n_seq").await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_cannot_be_decoded_fails_its_own_event_only() {
    let db = mapped::<Postgres>(READ_ONLY, read_only()).await;
    db.execute(INSERT_READ_ONLY).await;
    for (row, version) in [(2, "'NaN'"), (3, "1e30"), (4, "1.5")] {
        db.execute(&format!(
            "UPDATE log SET version = {version} WHERE n = {row}"
        ))
        .await;
    }
    let mut conn = db.pool.acquire().await.unwrap();
    for position in 1..=6 {
        let read = db.store.read_events(&mut conn, position - 1, 1).await;
        match position {
            2..=4 => {
                let error = read.unwrap_err();
                assert!(
                    matches!(error, StoreError::UnreadableEvent { position: at, .. } if at == position),
                    "{error:?}"
                );
            }
            _ => assert_eq!(read.unwrap().len(), 1),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_null_json_payload_is_that_of_an_event_without_fields() {
    let db = mapped::<Postgres>(
        &ORDERS.replace("data JSONB NOT NULL", "data JSONB"),
        orders().read_only(),
    )
    .await;
    db.execute(
        "INSERT INTO order_events (id, order_id, version, kind)
         VALUES (gen_random_uuid(), gen_random_uuid(), 1, 'Closed')",
    )
    .await;
    let log = log_of(&db).await;
    assert_eq!(&log[0].payload[..], b"{}");
    reads(&db.store, &log).await;
}

/// A role that may read the table of events and nothing else of it.
async fn reader(db: &Database<Postgres>) -> PgEventStore {
    let role = format!("reader_{}", fastrand::u64(..));
    db.execute(&format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT ON log TO {role};
         CREATE SCHEMA consumers AUTHORIZATION {role}"
    ))
    .await;
    let url = db.url.replace("postgres@", &format!("{role}@"));
    let schema = db.store.schema().clone();
    let schema = schema.database_schema("consumers").events_schema("public");
    let store = PgEventStore::connect(&url)
        .await
        .unwrap()
        .with_schema(schema)
        .unwrap();
    store.migrate().await.unwrap();
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn select_on_its_table_is_enough_for_a_read_only_log() {
    let db = mapped::<Postgres>(READ_ONLY, read_only()).await;
    db.execute(INSERT_READ_ONLY).await;
    let store = reader(&db).await;
    store.check_access(Access::Work).await.unwrap();
    let (all, seen) = watching("all");
    let report = run_once(Worker::builder(store.clone()).consumer(all)).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(seen.lock().unwrap().len(), 6);

    // What it lacks is named, of both schemas.
    let role = store.pool().connect_options().get_username().to_owned();
    db.execute(&format!(
        "REVOKE SELECT ON log FROM {role}; REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC",
        db.name()
    ))
    .await;
    let StoreError::MissingPrivileges { statements, .. } =
        store.check_access(Access::Work).await.unwrap_err()
    else {
        panic!("another error")
    };
    assert_eq!(
        statements,
        [
            format!("GRANT SELECT ON TABLE log TO {role}"),
            format!("GRANT TEMPORARY ON DATABASE {} TO {role}", db.name()),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_sequence_a_reset_shows_while_the_log_is_lower() {
    let db = mapped::<Postgres>(READ_ONLY, read_only()).await;
    db.execute(INSERT_READ_ONLY).await;
    let store = reader(&db).await;
    let run = async || {
        let (all, _) = watching("all");
        let worker = Worker::builder(store.clone())
            .consumer(all)
            .build()
            .unwrap();
        patiently("it runs or refuses", worker.run_once()).await
    };
    run().await.unwrap();
    db.execute(
        "TRUNCATE log RESTART IDENTITY; INSERT INTO log (key, stream, version, kind, body, at)
                VALUES (gen_random_uuid(), 'Order/1', 1, 'Paid', '{}', 0)",
    )
    .await;
    let error = run().await.unwrap_err();
    let WorkerError::Log(problem @ LogProblem::Shrunk { .. }) = error else {
        panic!("{error:?}")
    };
    assert!(
        problem
            .to_string()
            .contains("`GRANT SELECT ON SEQUENCE public.log_n_seq`"),
        "{problem}"
    );
    // With the sequence, the same log says so whatever its height.
    let role = store.pool().connect_options().get_username().to_owned();
    db.execute(&format!("GRANT SELECT ON log_n_seq TO {role}"))
        .await;
    let error = run().await.unwrap_err();
    assert!(
        matches!(error, WorkerError::Log(LogProblem::Reset { .. })),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_read_an_expression_is_told_so() {
    let db = mapped::<Postgres>(READ_ONLY, read_only()).await;
    let store = reader(&db).await;
    let role = store.pool().connect_options().get_username().to_owned();
    db.execute(&format!(
        "REVOKE SELECT ON log FROM {role}; DROP TABLE consumers.consumer_schema"
    ))
    .await;
    let error = store.migrate().await.unwrap_err();
    assert!(
        matches!(error, StoreError::MissingPrivileges { .. }),
        "{error:?}"
    );
}

/// Two tables that draw from one sequence, and a view of both.
const TWO_TABLES: &str = "
    CREATE SEQUENCE positions;
    CREATE TABLE placed (
        p BIGINT PRIMARY KEY DEFAULT nextval('positions'), id UUID NOT NULL DEFAULT gen_random_uuid(),
        shop TEXT NOT NULL, n INT NOT NULL, data JSONB NOT NULL, at TIMESTAMPTZ NOT NULL DEFAULT now());
    CREATE TABLE paid (LIKE placed INCLUDING ALL);
    CREATE VIEW both_tables AS
        SELECT p, id, shop, n, 'Placed' AS kind, data, at FROM placed
        UNION ALL SELECT p, id, shop, n, 'Paid', data, at FROM paid";

fn both_tables() -> Schema {
    without_causes(Schema::default())
        .read_only()
        .events("both_tables")
        .sequence("positions")
        .column(Column::GlobalPosition, "p")
        .constant(Column::AggregateType, "Shop")
        .column(Column::AggregateId, "shop")
        .column(Column::AggregateVersion, "n")
        .sql_type(Column::AggregateVersion, SqlType::Integer)
        .column(Column::EventId, "id")
        .column(Column::EventType, "kind")
        .column(Column::Payload, "data")
        .sql_type(Column::Payload, SqlType::Jsonb)
        .column(Column::CreatedAt, "at")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_of_two_tables_loses_nothing_of_concurrent_writers() {
    let db = mapped::<Postgres>(TWO_TABLES, both_tables()).await;
    let running = Running::start(db.worker().consumer(read_model("both")));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let url = db.url.clone();
            tokio::spawn(async move {
                let mut conn = PgConnection::connect(&url).await.unwrap();
                for n in 0..40 {
                    let mut tx = conn.begin().await.unwrap();
                    for table in ["placed", "paid"] {
                        let insert = format!(
                            "INSERT INTO {table} (shop, n, data) VALUES ('s-{writer}', {n}, '{{}}')"
                        );
                        sqlx::raw_sql(AssertSqlSafe(insert))
                            .execute(&mut *tx)
                            .await
                            .unwrap();
                        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..6))).await;
                    }
                    if n % 5 == 0 {
                        tx.rollback().await.unwrap();
                    } else {
                        tx.commit().await.unwrap();
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let log = db.numbers("SELECT p FROM both_tables ORDER BY p").await;
    assert_eq!(log.len(), 8 * 2 * 32);
    until("all are handled", async || {
        db.applied("both").await.len() >= log.len()
    })
    .await;
    running.stop().await;
    assert_eq!(db.applied("both").await, log);
}

/// Why a worker on a log refuses it.
async fn problem(db: &Database<Postgres>) -> LogProblem {
    let worker = db.worker().consumer(read_model("both")).build().unwrap();
    let refused = patiently("it refuses", worker.run_once()).await;
    log_problem(refused.unwrap_err())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_of_tables_with_two_sequences_is_refused() {
    let db = mapped::<Postgres>(TWO_TABLES, both_tables()).await;
    db.execute("CREATE SEQUENCE other; ALTER TABLE paid ALTER p SET DEFAULT nextval('other')")
        .await;
    let LogProblem::OtherSequence { name, other, .. } = problem(&db).await else {
        panic!("another problem")
    };
    assert_eq!((&*name, &*other), ("public.positions", "public.other"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_gets_a_second_sequence_ends_a_running_worker() {
    let db = mapped::<Postgres>(TWO_TABLES, both_tables()).await;
    let running = Running::start(db.worker().consumer(read_model("both")));
    until("it runs", async || {
        running.consumers()[0].position.is_some()
    })
    .await;
    db.execute("CREATE SEQUENCE other; ALTER TABLE paid ALTER p SET DEFAULT nextval('other')")
        .await;
    let waited = patiently("waiting ends", running.caught_up_to(1)).await;
    let error = running.end().await.unwrap_err();
    assert!(
        matches!(error, WorkerError::Log(LogProblem::OtherSequence { .. })),
        "{error:?}"
    );
    // Not only that it has shut down.
    assert_eq!(
        waited.unwrap_err().to_string(),
        format!("the worker has ended ({error}), and handles no more events")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_of_rows_that_appear_later_is_refused() {
    let db = mapped::<Postgres>(TWO_TABLES, both_tables()).await;
    db.execute(
        "CREATE MATERIALIZED VIEW copied AS SELECT * FROM paid;
         CREATE OR REPLACE VIEW both_tables AS
         SELECT p, id, shop, n, 'Placed' AS kind, data, at FROM placed
         UNION ALL SELECT p, id, shop, n, 'Paid', data, at FROM copied",
    )
    .await;
    let found = problem(&db).await;
    assert!(
        matches!(&found, LogProblem::DerivedRows { table } if table == "copied"),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_whose_owner_does_not_see_all_rows_is_refused() {
    let db = mapped::<Postgres>(TWO_TABLES, both_tables()).await;
    let owner = format!("owner_{}", fastrand::u64(..));
    db.execute(&format!(
        "CREATE ROLE {owner}; GRANT SELECT ON placed, paid TO {owner};
         ALTER VIEW both_tables OWNER TO {owner}"
    ))
    .await;
    // A check in between would end it.
    let long = Duration::from_hours(1);
    let worker = db.worker().snapshot_interval(long).advance_interval(long);
    let running = Running::start(worker.consumer(read_model("both")));
    until("it runs", async || {
        running.consumers()[0].position.is_some()
    })
    .await;
    db.execute(
        "ALTER TABLE paid ENABLE ROW LEVEL SECURITY;
         INSERT INTO paid (shop, n, data) VALUES ('a', 1, '{}');
         INSERT INTO placed (shop, n, data) VALUES ('a', 2, '{}')",
    )
    .await;
    // Even before the next check of the conditions, its reads notice.
    until("it says why it waits", async || {
        let state = running.consumers()[0].state.to_string();
        state.contains("row-level security hides events")
    })
    .await;
    assert_eq!(problem(&db).await, LogProblem::HiddenEvents { role: owner });
    db.execute("ALTER TABLE paid DISABLE ROW LEVEL SECURITY")
        .await;
    patiently("it handles both", running.caught_up())
        .await
        .unwrap();
    running.stop().await;
    assert_eq!(db.applied("both").await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_table_on_sqlite_is_used() {
    let tables = "
        CREATE TABLE order_events (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, order_id INTEGER NOT NULL,
            version INTEGER NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL,
            at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, UNIQUE (order_id, version))";
    let schema = order_columns()
        .sql_type(Column::AggregateId, SqlType::Integer)
        .sql_type(Column::Payload, SqlType::Text)
        .column(Column::CreatedAt, "at");
    let db = mapped::<Sqlite>(tables, schema).await;
    let mut log = db
        .append_events(&[event("Order", "7"), event("Order", "7")])
        .await;
    log.extend(db.append_events(&[event("Order", "8")]).await);
    reads(&db.store, &log).await;
    assert_eq!(
        db.texts("SELECT typeof(data) FROM order_events").await,
        ["text"; 3]
    );
    assert_eq!(
        db.texts("SELECT typeof(order_id) FROM order_events").await,
        ["integer"; 3]
    );
    let indexes = "SELECT count(*) FROM pragma_index_list('order_events')";
    assert_eq!(db.number(indexes).await, 2, "the table is left as it is");
    let error = db
        .store
        .append(ExpectedVersion::Any, &[event("Order", "o-7")])
        .await;
    assert!(
        matches!(error, Err(StoreError::UnfitEvent { .. })),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_log_on_sqlite_is_mapped_with_expressions() {
    let tables = "
        CREATE TABLE log (
            n INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, stream TEXT NOT NULL,
            version INTEGER NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL, at TEXT NOT NULL)";
    let schema = without_causes(Schema::default())
        .read_only()
        .events("log")
        .column(Column::GlobalPosition, "n")
        .expression(
            Column::AggregateType,
            "substr(stream, 1, instr(stream, '/') - 1)",
        )
        .expression(
            Column::AggregateId,
            "substr(stream, instr(stream, '/') + 1)",
        )
        .column(Column::AggregateVersion, "version")
        .column(Column::EventId, "key")
        .column(Column::EventType, "kind")
        .expression(Column::Payload, "body -> '$.data'")
        .column(Column::CreatedAt, "at");
    let db = mapped::<Sqlite>(tables, schema).await;
    for n in 1..=3 {
        db.execute(&format!(
            r#"INSERT INTO log (key, stream, version, kind, body, at)
               VALUES ('{}', 'Order/o-1', {n}, 'Placed', '{{"data":{{"n":{n}}}}}', '2026-01-01T00:00:00Z')"#,
            Uuid::now_v7()
        ))
        .await;
    }
    let log = log_of(&db).await;
    assert_eq!(&log[2].payload[..], br#"{"n":3}"#);
    reads(&db.store, &log).await;
    let error = db
        .store
        .append(ExpectedVersion::Any, &[event("Order", "o-1")])
        .await;
    assert!(
        matches!(error, Err(StoreError::ReadOnlyLog { .. })),
        "{error:?}"
    );
}
