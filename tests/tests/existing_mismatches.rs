//! Tables that differ from their mapping: all differences are reported at once, each with the line that
//! removes it, and none is retried.

use std::time::Duration;

use consumer::{
    Column, Mismatch, OnError, Schema, SqlType, StoreError, WorkerBuilder, WorkerError,
};
use consumer_tests::{Database, Running, TestDatabase, impatient, patiently, read_model, run_once};
use sqlx::{Postgres, Sqlite};

/// A database with these tables, in which the store is mapped but not migrated.
async fn with<DB: TestDatabase>(tables: &str, schema: Schema) -> Database<DB> {
    let db = Database::<DB>::empty().await;
    db.execute(tables).await;
    let store = db.store.clone().with_schema(schema).unwrap();
    db.with_store(store)
}

/// The same database with another mapping.
fn remapped<DB: TestDatabase>(db: Database<DB>, schema: Schema) -> Database<DB> {
    let store = db.store.clone().with_schema(schema).unwrap();
    db.with_store(store)
}

/// All differences that a migration reports.
async fn mismatches<DB: TestDatabase>(db: &Database<DB>) -> Vec<Mismatch> {
    match db.store.migrate().await.unwrap_err() {
        StoreError::Mismatches { mismatches, .. } => mismatches,
        other => panic!("{other:?}"),
    }
}

/// The lines that remove all differences.
async fn remedies<DB: TestDatabase>(db: &Database<DB>) -> Vec<String> {
    mismatches(db).await.iter().map(Mismatch::remedy).collect()
}

/// The columns of the default table, with some of them replaced.
fn table(replaced: &[(&str, &str)]) -> String {
    let columns = [
        ("global_position", "global_position BIGSERIAL PRIMARY KEY"),
        ("aggregate_type", "aggregate_type TEXT NOT NULL"),
        ("aggregate_id", "aggregate_id TEXT NOT NULL"),
        ("aggregate_version", "aggregate_version BIGINT NOT NULL"),
        ("event_id", "event_id UUID NOT NULL UNIQUE"),
        ("event_type", "event_type TEXT NOT NULL"),
        ("event_version", "event_version INT NOT NULL"),
        ("payload", "payload BYTEA NOT NULL"),
        ("trace_id", "trace_id TEXT"),
        ("correlation_id", "correlation_id TEXT"),
        ("causation_id", "causation_id TEXT"),
        ("metadata", "metadata JSONB"),
        (
            "created_at",
            "created_at TIMESTAMPTZ NOT NULL DEFAULT now()",
        ),
    ];
    let definition = |(name, default): (&str, &'static str)| {
        let other = replaced.iter().find(|(column, _)| *column == name);
        other.map_or(default.to_owned(), |(_, other)| (*other).to_owned())
    };
    let columns: Vec<String> = columns.into_iter().map(definition).collect();
    let columns: Vec<String> = columns
        .into_iter()
        .filter(|line| !line.is_empty())
        .collect();
    format!("CREATE TABLE events ({})", columns.join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn all_differences_are_reported_at_once_with_the_lines_to_write() {
    let legacy = "
        CREATE TABLE order_events (
            seq BIGSERIAL PRIMARY KEY, order_id UUID NOT NULL, version NUMERIC NOT NULL,
            id UUID NOT NULL UNIQUE, kind TEXT, data JSONB NOT NULL, tenant INT NOT NULL,
            occurred_at TIMESTAMP NOT NULL DEFAULT now())";
    let schema = Schema::default()
        .events("order_events")
        .aggregate_heads("order_heads")
        .column(Column::GlobalPosition, "seq")
        .constant(Column::AggregateType, "Order")
        .column(Column::AggregateId, "order_id")
        .column(Column::AggregateVersion, "version")
        .column(Column::EventType, "kind")
        .without(Column::TraceId)
        .without(Column::CorrelationId)
        .column(Column::CreatedAt, "occurred_at");
    let db = with::<Postgres>(legacy, schema.clone()).await;
    let lines = remedies(&db).await;
    assert_eq!(
        lines,
        [
            ".sql_type(Column::AggregateId, SqlType::Uuid)",
            ".sql_type(Column::AggregateVersion, SqlType::Numeric)",
            r#".column(Column::EventId, "id")"#,
            "ALTER TABLE order_events ALTER kind SET NOT NULL",
            r#".column(Column::EventVersion, "tenant")"#,
            r#".column(Column::Payload, "data")"#,
            ".without(Column::CausationId)",
            ".without(Column::Metadata)",
            ".sql_type(Column::CreatedAt, SqlType::Timestamp)",
        ]
    );
    let text = db.store.migrate().await.unwrap_err().to_string();
    for line in lines {
        assert!(text.contains(&format!(": write `{line}`")), "{text}");
    }
    // Nothing was left beside the tables.
    assert_eq!(
        db.number("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            .await,
        1
    );

    // What the lines say, but for the tenant, which only looked like a version.
    db.execute("ALTER TABLE order_events ALTER kind SET NOT NULL")
        .await;
    let schema = schema
        .sql_type(Column::AggregateId, SqlType::Uuid)
        .sql_type(Column::AggregateVersion, SqlType::Numeric)
        .column(Column::EventId, "id")
        .constant(Column::EventVersion, 1)
        .column(Column::Payload, "data")
        .without(Column::CausationId)
        .without(Column::Metadata)
        .sql_type(Column::CreatedAt, SqlType::Timestamp);
    let db = remapped(db, schema);
    assert_eq!(
        remedies(&db).await,
        [
            ".sql_type(Column::Payload, SqlType::Jsonb)",
            "ALTER TABLE order_events ALTER tenant SET DEFAULT …",
        ]
    );
    db.execute("ALTER TABLE order_events ALTER tenant SET DEFAULT 1")
        .await;
    let schema = db.store.schema().clone();
    let db = remapped(db, schema.sql_type(Column::Payload, SqlType::Jsonb));
    db.store.migrate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_type_that_can_be_mapped_has_its_line() {
    let types = [
        (
            Column::GlobalPosition,
            "global_position SERIAL PRIMARY KEY",
            SqlType::Integer,
        ),
        (
            Column::AggregateId,
            "aggregate_id UUID NOT NULL",
            SqlType::Uuid,
        ),
        (
            Column::AggregateId,
            "aggregate_id INT NOT NULL",
            SqlType::Integer,
        ),
        (
            Column::AggregateId,
            "aggregate_id BIGINT NOT NULL",
            SqlType::BigInt,
        ),
        (
            Column::AggregateVersion,
            "aggregate_version INT NOT NULL",
            SqlType::Integer,
        ),
        (
            Column::AggregateVersion,
            "aggregate_version NUMERIC NOT NULL",
            SqlType::Numeric,
        ),
        (Column::EventId, "event_id TEXT NOT NULL", SqlType::Text),
        (
            Column::EventVersion,
            "event_version BIGINT NOT NULL",
            SqlType::BigInt,
        ),
        (
            Column::EventVersion,
            "event_version NUMERIC NOT NULL",
            SqlType::Numeric,
        ),
        (Column::Payload, "payload JSONB NOT NULL", SqlType::Jsonb),
        (Column::Payload, "payload JSON NOT NULL", SqlType::Json),
        (Column::Payload, "payload TEXT NOT NULL", SqlType::Text),
        (Column::TraceId, "trace_id UUID", SqlType::Uuid),
        (Column::CorrelationId, "correlation_id UUID", SqlType::Uuid),
        (Column::CausationId, "causation_id UUID", SqlType::Uuid),
        (Column::Metadata, "metadata JSON", SqlType::Json),
        (Column::Metadata, "metadata TEXT", SqlType::Text),
        (
            Column::CreatedAt,
            "created_at TIMESTAMP NOT NULL DEFAULT now()",
            SqlType::Timestamp,
        ),
    ];
    for (column, definition, found) in types {
        let name = definition.split(' ').next().unwrap();
        let db = with::<Postgres>(&table(&[(name, definition)]), Schema::default()).await;
        let expected = Mismatch::OtherType {
            column,
            name: name.to_owned(),
            found,
        };
        assert_eq!(mismatches(&db).await, [expected]);
        let db = remapped(db, Schema::default().sql_type(column, found));
        db.store
            .migrate()
            .await
            .unwrap_or_else(|error| panic!("{definition}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_cannot_be_mapped_has_an_expression_as_its_line() {
    let types = [
        (
            "event_type",
            "event_type kind NOT NULL",
            "(event_type)::text",
        ),
        (
            "aggregate_id",
            "aggregate_id CHAR(36) NOT NULL",
            "(aggregate_id)::text",
        ),
        (
            "created_at",
            "created_at BIGINT NOT NULL",
            "to_timestamp(created_at / 1000.0)",
        ),
        ("metadata", "metadata HSTORE_LIKE", "(metadata)::jsonb"),
    ];
    let others = "CREATE TYPE kind AS ENUM ('A'); CREATE DOMAIN hstore_like AS BYTEA; ";
    for (name, definition, expression) in types {
        let tables = format!("{others}{}", table(&[(name, definition)]));
        let db = with::<Postgres>(&tables, Schema::default()).await;
        let found = mismatches(&db).await;
        let [Mismatch::UnknownType { column, .. }, ..] = found.as_slice() else {
            panic!("{found:?}")
        };
        let line = format!(r#".expression(Column::{column:?}, "{expression}").read_only()"#);
        assert_eq!(found[0].remedy(), line);
        if name == "metadata" {
            // Bytes are no JSON: the line shows where to write the right expression.
            continue;
        }
        let schema = Schema::default()
            .read_only()
            .expression(*column, expression);
        let db = remapped(db, schema);
        db.store
            .migrate()
            .await
            .unwrap_or_else(|error| panic!("{definition}: {error}"));
    }
    let position = ("global_position", "global_position NUMERIC PRIMARY KEY");
    let db = with::<Postgres>(&table(&[position]), Schema::default()).await;
    assert_eq!(
        remedies(&db).await[0],
        "ALTER TABLE events ALTER global_position TYPE bigint"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_without_its_name_is_found_by_its_type() {
    let tables = table(&[
        ("payload", "body BYTEA NOT NULL DEFAULT ''"),
        ("trace_id", ""),
    ]);
    let db = with::<Postgres>(&tables, Schema::default()).await;
    assert_eq!(
        remedies(&db).await,
        [
            r#".column(Column::Payload, "body")"#,
            ".without(Column::TraceId)"
        ]
    );
    let schema = Schema::default()
        .column(Column::Payload, "body")
        .without(Column::TraceId);
    remapped(db, schema).store.migrate().await.unwrap();

    let two = "one BYTEA NOT NULL DEFAULT '', two BYTEA NOT NULL DEFAULT ''";
    let db = with::<Postgres>(&table(&[("payload", two)]), Schema::default()).await;
    let text = db.store.migrate().await.unwrap_err().to_string();
    assert!(text.contains("(it may be `one` or `two`)"), "{text}");
    assert!(
        text.contains(r#"`.column(Column::Payload, "…")`"#),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_an_append_cannot_fill_is_refused() {
    let tables = table(&[("payload", "payload BYTEA NOT NULL, tenant TEXT NOT NULL")]);
    let db = with::<Postgres>(&tables, Schema::default()).await;
    assert_eq!(
        mismatches(&db).await,
        [Mismatch::NotFilled {
            name: "tenant".into(),
            table: "events".into(),
            can_alter: true,
        }]
    );
    // A trigger may fill it, and another program may append.
    let read_only = db
        .store
        .clone()
        .with_schema(Schema::default().read_only())
        .unwrap();
    read_only.migrate().await.unwrap();
    db.execute(
        "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN NEW.tenant := 't'; RETURN NEW; END $$;
         CREATE TRIGGER fill BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION fill()",
    )
    .await;
    db.execute(&db.store.migration_sql()).await;
    db.store.check().await.unwrap();
    db.append_many(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_expression_is_named_with_the_other_mismatches() {
    let schema = Schema::default()
        .read_only()
        .expression(Column::AggregateType, "no_such_column")
        .expression(Column::AggregateId, "aggregate_id ||")
        .expression(Column::EventType, "'a'::text")
        .expression(Column::Payload, "'{}'::jsonb")
        .expression(Column::CorrelationId, "7");
    let db = with::<Postgres>(&table(&[]), schema).await;
    let found = mismatches(&db).await;
    let [
        Mismatch::Expression {
            column: Column::AggregateType,
            reason,
            ..
        },
        Mismatch::Expression {
            column: Column::AggregateId,
            ..
        },
        Mismatch::OtherType {
            column: Column::Payload,
            found: SqlType::Jsonb,
            ..
        },
        Mismatch::UnknownType {
            column: Column::CorrelationId,
            ..
        },
    ] = found.as_slice()
    else {
        panic!("{found:?}")
    };
    assert!(reason.contains("no_such_column"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_with_another_type_of_ids_are_refused() {
    let tables = format!(
        "{}; CREATE TABLE aggregate_heads (aggregate_type TEXT, aggregate_id TEXT,
             aggregate_version BIGINT, updated_at TIMESTAMPTZ, PRIMARY KEY (aggregate_type, aggregate_id))",
        table(&[("aggregate_id", "aggregate_id UUID NOT NULL")])
    );
    let schema = Schema::default().sql_type(Column::AggregateId, SqlType::Uuid);
    let db = with::<Postgres>(&tables, schema).await;
    let found = mismatches(&db).await;
    assert!(
        matches!(found.as_slice(), [Mismatch::HeadType { .. }]),
        "{found:?}"
    );
    db.execute(&found[0].remedy()).await;
    db.store.migrate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_has_to_be_read_only_and_name_its_sequence() {
    let view = format!(
        "{}; ALTER TABLE events RENAME TO stored; CREATE VIEW events AS SELECT * FROM stored",
        table(&[])
    );
    let db = with::<Postgres>(&view, Schema::default()).await;
    assert_eq!(
        remedies(&db).await,
        [".read_only()", r#".sequence("events_global_position_seq")"#]
    );
    let schema = Schema::default()
        .read_only()
        .sequence("events_global_position_seq");
    let db = remapped(db, schema);
    db.store.migrate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sequences_of_a_view_are_both_named() {
    let tables = "
        CREATE TABLE a (p BIGSERIAL PRIMARY KEY); CREATE TABLE b (p BIGSERIAL PRIMARY KEY);
        CREATE VIEW events AS SELECT * FROM a UNION ALL SELECT * FROM b";
    let db = with::<Postgres>(tables, Schema::default().read_only()).await;
    let text = db.store.migrate().await.unwrap_err().to_string();
    assert!(
        text.contains("draw from `a_p_seq`, `b_p_seq`, and must draw from one"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relation_whose_rows_appear_later_is_refused() {
    let stored = format!("{}; ALTER TABLE events RENAME TO stored; ", table(&[]));
    let relations = [
        "CREATE MATERIALIZED VIEW events AS SELECT * FROM stored",
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
         CREATE FOREIGN TABLE events (global_position BIGINT) SERVER s",
    ];
    for relation in relations {
        let db = with::<Postgres>(
            &format!("{stored}{relation}"),
            Schema::default().read_only(),
        )
        .await;
        let found = mismatches(&db).await;
        assert!(matches!(found[0], Mismatch::NotATable { .. }), "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_has_to_exist_is_not_created() {
    let db = with::<Postgres>("", Schema::default().without(Column::TraceId)).await;
    for error in [
        db.store.migrate().await.unwrap_err(),
        db.store
            .migrate_within(std::time::Duration::ZERO)
            .await
            .unwrap_err(),
    ] {
        assert!(
            matches!(&error, StoreError::NoEventsTable { table } if table == "\"events\""),
            "{error:?}"
        );
    }
    assert_eq!(
        db.number("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_reports_differences_and_retries_none() {
    let db = Database::<Postgres>::fresh().await;
    db.execute(
        "ALTER TABLE events ALTER payload TYPE jsonb USING '{}'; ALTER TABLE events DROP trace_id",
    )
    .await;
    let worker = db.worker().consumer(read_model("users")).build().unwrap();
    let running = worker.run(std::future::pending());
    let error = patiently("it ends at once", running).await.unwrap_err();
    let WorkerError::Store(StoreError::Mismatches { mismatches, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(mismatches.len(), 2, "{mismatches:?}");
}

/// An event of another program, in a table whose columns may have other types.
const INSERT: &str = "
    INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type,
                        event_version, payload)
    VALUES ('User', 'u-2', 1, '6e3b2f7c-0d0a-4e2b-9f55-0a1b2c3d4e5f', 'Changed', 1, '{}')";

/// A consumer to whose policy an event that cannot be read would be lost.
fn skipping<DB: TestDatabase>(db: &Database<DB>) -> WorkerBuilder<DB> {
    let settings = impatient().retries(0).on_error(OnError::Skip);
    db.worker().consumer(read_model("users").settings(settings))
}

/// Changes the table while a worker runs, and returns the lines of the error that ends it. What it has
/// handled by then is what was in the log before.
async fn lines_after<DB: TestDatabase>(db: &Database<DB>, change: &str) -> Vec<String> {
    let before = db.append("User", ["u-1", "u-1"]).await;
    let running = Running::start(skipping(db));
    running.caught_up_to(before[1]).await.unwrap();
    db.execute(change).await;
    let error = running.end().await.unwrap_err();
    let WorkerError::Store(StoreError::Mismatches { mismatches, .. }) = error else {
        panic!("{change}: {error:?}")
    };
    assert_eq!(db.applied("users").await, before, "{change}");
    mismatches.iter().map(Mismatch::remedy).collect()
}

/// Runs the same consumer with a mapping that fits the table.
async fn all_is_applied<DB: TestDatabase>(db: Database<DB>, schema: Schema) {
    let db = remapped(db, schema);
    run_once(skipping(&db)).await;
    assert_eq!(db.applied("users").await, db.log().await);
    assert_eq!(db.log().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_changes_under_a_running_worker_ends_it() {
    let types = [
        (
            Column::Payload,
            "payload TYPE jsonb USING convert_from(payload, 'UTF8')::jsonb",
            SqlType::Jsonb,
        ),
        (
            Column::Payload,
            "payload TYPE text USING convert_from(payload, 'UTF8')",
            SqlType::Text,
        ),
        (
            Column::CreatedAt,
            "created_at TYPE timestamp",
            SqlType::Timestamp,
        ),
        (
            Column::AggregateVersion,
            "aggregate_version TYPE numeric",
            SqlType::Numeric,
        ),
    ];
    for (column, change, found) in types {
        let db = Database::<Postgres>::fresh().await;
        let change = format!("ALTER TABLE events ALTER {change}; {INSERT}");
        let line = format!(".sql_type(Column::{column:?}, SqlType::{found:?})");
        assert_eq!(lines_after(&db, &change).await, [line]);
        all_is_applied(db, Schema::default().sql_type(column, found)).await;
    }
}

/// What a mapping casts would be read as something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_mapped_type_that_changes_under_a_running_worker_ends_it() {
    let from_json = "payload TYPE bytea USING convert_to(payload::text, 'UTF8')";
    let types = [
        (
            Column::Payload,
            ("payload JSONB NOT NULL", SqlType::Jsonb),
            (from_json, SqlType::Bytea),
        ),
        (
            Column::Payload,
            ("payload JSON NOT NULL", SqlType::Json),
            (from_json, SqlType::Bytea),
        ),
        (
            Column::Payload,
            ("payload TEXT NOT NULL", SqlType::Text),
            (from_json, SqlType::Bytea),
        ),
        (
            Column::CreatedAt,
            (
                "created_at TIMESTAMP NOT NULL DEFAULT now()",
                SqlType::Timestamp,
            ),
            ("created_at TYPE timestamptz", SqlType::Timestamptz),
        ),
    ];
    for (column, (definition, mapped), (change, found)) in types {
        let name = definition.split(' ').next().unwrap();
        let schema = Schema::default().sql_type(column, mapped);
        let db = with::<Postgres>(&table(&[(name, definition)]), schema).await;
        let db = db.prepared().await;
        let change = format!("ALTER TABLE events ALTER {change}; {INSERT}");
        let line = format!(".sql_type(Column::{column:?}, SqlType::{found:?})");
        assert_eq!(lines_after(&db, &change).await, [line]);
        all_is_applied(db, Schema::default()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_disappears_under_a_running_worker_ends_it() {
    let db = Database::<Postgres>::fresh().await;
    let change = format!("ALTER TABLE events DROP trace_id; {INSERT}");
    let lines = lines_after(&db, &change).await;
    assert_eq!(lines, [".without(Column::TraceId)"]);
    all_is_applied(db, Schema::default().without(Column::TraceId)).await;

    let db = Database::<Sqlite>::fresh().await;
    let change = format!("ALTER TABLE events DROP COLUMN trace_id; {INSERT}");
    let lines = lines_after(&db, &change).await;
    assert_eq!(lines, [".without(Column::TraceId)"]);
    all_is_applied(db, Schema::default().without(Column::TraceId)).await;

    // Without it, the worker cannot even poll.
    let db = Database::<Postgres>::fresh().await;
    let change = format!("ALTER TABLE events RENAME global_position TO seq; {INSERT}");
    let before = db.append("User", ["u-1", "u-1"]).await;
    let running = Running::start(skipping(&db));
    running.caught_up_to(before[1]).await.unwrap();
    db.execute(&change).await;
    let error = running.end().await.unwrap_err().to_string();
    assert!(
        error.contains(r#": write `.column(Column::GlobalPosition, "seq")`"#),
        "{error}"
    );
    let db = remapped(db, Schema::default().column(Column::GlobalPosition, "seq"));
    run_once(skipping(&db)).await;
    let log = db.numbers("SELECT seq FROM events ORDER BY seq").await;
    assert_eq!(db.applied("users").await, log);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_without_a_value_ends_a_running_worker() {
    let db = Database::<Postgres>::fresh().await;
    let without = INSERT.replace("'Changed'", "NULL");
    let change = format!("ALTER TABLE events ALTER event_type DROP NOT NULL; {without}");
    let lines = lines_after(&db, &change).await;
    assert_eq!(lines, ["ALTER TABLE events ALTER event_type SET NOT NULL"]);
    db.execute("UPDATE events SET event_type = 'Changed' WHERE event_type IS NULL")
        .await;
    db.execute(&lines[0]).await;
    all_is_applied(db, Schema::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_no_read_notices_ends_a_running_worker() {
    let changes = [
        (
            "event_type DROP NOT NULL",
            "ALTER TABLE events ALTER event_type SET NOT NULL",
        ),
        (
            "event_id TYPE text",
            ".sql_type(Column::EventId, SqlType::Text)",
        ),
        (
            "aggregate_version TYPE int",
            ".sql_type(Column::AggregateVersion, SqlType::Integer)",
        ),
    ];
    for (change, line) in changes {
        let db = Database::<Postgres>::fresh().await;
        let before = db.append("User", ["u-1"]).await;
        let worker = skipping(&db).advance_interval(Duration::from_millis(20));
        let running = Running::start(worker);
        running.caught_up_to(before[0]).await.unwrap();
        db.execute(&format!("ALTER TABLE events ALTER {change}"))
            .await;
        let error = running.end().await.unwrap_err().to_string();
        assert!(error.contains(&format!(": write `{line}`")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_on_sqlite_are_reported_at_once() {
    let tables = "
        CREATE TABLE events (
            global_position INTEGER PRIMARY KEY AUTOINCREMENT, aggregate_type TEXT NOT NULL,
            aggregate_id TEXT NOT NULL, aggregate_version INTEGER NOT NULL, event_id TEXT NOT NULL UNIQUE,
            event_type TEXT, event_version INTEGER NOT NULL DEFAULT 1, body BLOB NOT NULL,
            tenant TEXT NOT NULL, causation_id TEXT, created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)";
    let schema = Schema::default().without(Column::Metadata);
    let db = with::<Sqlite>(tables, schema.clone()).await;
    let found = mismatches(&db).await;
    let lines: Vec<String> = found.iter().map(Mismatch::remedy).collect();
    // `body` and `tenant` may be the columns that are missing.
    assert_eq!(
        lines,
        [
            "CREATE TABLE new_events (…, event_type … NOT NULL, …); INSERT INTO new_events SELECT * FROM \
             events; DROP TABLE events; ALTER TABLE new_events RENAME TO events",
            r#".column(Column::Payload, "…")"#,
            ".without(Column::TraceId)",
            ".without(Column::CorrelationId)",
        ]
    );
    db.execute("CREATE VIEW a_view AS SELECT * FROM events")
        .await;
    let db = remapped(db, schema.events("a_view"));
    assert!(mismatches(&db).await.contains(&Mismatch::View));
    let expressions = Schema::default()
        .read_only()
        .events("a_view")
        .expression(Column::Payload, "no_such_column");
    let db = remapped(db, expressions);
    let found = mismatches(&db).await;
    assert!(
        found
            .iter()
            .any(|one| matches!(one, Mismatch::Expression { .. })),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_that_no_table_can_have_is_refused() {
    let refused = [
        (
            Schema::default().without(Column::Payload),
            "every event has a value",
        ),
        (
            Schema::default().constant(Column::AggregateId, "a"),
            "cannot be its value in all events",
        ),
        (
            Schema::default().constant(Column::EventVersion, "1"),
            "cannot be its value",
        ),
        (
            Schema::default().constant(Column::AggregateType, "it's"),
            "quote",
        ),
        (
            Schema::default().sql_type(Column::Payload, SqlType::Uuid),
            "is none of `SqlType::Bytea`",
        ),
        (
            Schema::default().expression(Column::Payload, "data"),
            "add `.read_only()`",
        ),
        (
            Schema::default()
                .read_only()
                .expression(Column::GlobalPosition, "n + 1"),
            "name its column",
        ),
    ];
    let postgres = Database::<Postgres>::empty().await;
    let sqlite = Database::<Sqlite>::empty().await;
    for (schema, reason) in refused {
        for result in [
            postgres.store.clone().with_schema(schema.clone()).map(drop),
            sqlite.store.clone().with_schema(schema.clone()).map(drop),
        ] {
            let error = result.unwrap_err();
            assert!(
                matches!(error, StoreError::InvalidMapping { .. }),
                "{error:?}"
            );
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
    let uuids = Schema::default().sql_type(Column::AggregateId, SqlType::Uuid);
    let error = sqlite.store.clone().with_schema(uuids).unwrap_err();
    assert!(
        error.to_string().contains("SQLite has no such type"),
        "{error}"
    );
}
