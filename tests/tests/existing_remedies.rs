//! Tables with everything wrong at once: one error lists all of it, and its lines remove it.

use consumer::{
    Access, Column, ExpectedVersion, LogProblem, Mismatch, NewEvent, PgEventStore, Schema, SqlType,
    StoreError, WorkerError,
};
use consumer_tests::{
    COLUMNS, Database, Running, TestDatabase, log_problem, patiently, read_model, run_once, until,
    watching,
};
use sqlx::{Postgres, Sqlite};

/// A database with these tables, in which the store is mapped but not migrated.
async fn with<DB: TestDatabase>(tables: &str, schema: Schema) -> Database<DB> {
    let db = Database::<DB>::empty().await;
    db.execute(tables).await;
    db.execute(DB::CREATE_READ_MODEL).await;
    let store = db.store.clone().with_schema(schema).unwrap();
    db.with_store(store)
}

/// All differences in an error.
fn mismatches(error: StoreError) -> Vec<Mismatch> {
    match error {
        StoreError::Mismatches { mismatches, .. } => mismatches,
        other => panic!("{other:?}"),
    }
}

fn remedies(error: StoreError) -> Vec<String> {
    mismatches(error).iter().map(Mismatch::remedy).collect()
}

const TYPES: [SqlType; 4] = [
    SqlType::Uuid,
    SqlType::Integer,
    SqlType::Jsonb,
    SqlType::Text,
];

/// The value whose name in a program is this.
fn called<T: std::fmt::Debug + Copy>(all: &[T], name: &str) -> T {
    let mut all = all.iter();
    *all.find(|one| format!("{one:?}") == name).expect(name)
}

/// Adds a line to the mapping, as a program's author would.
fn add(schema: Schema, line: &str) -> Schema {
    let (method, arguments) = line.split_once('(').expect(line);
    let arguments = arguments.strip_suffix(')').expect(line);
    let (first, second) = arguments.split_once(", ").unwrap_or((arguments, ""));
    let text = second.trim_matches('"');
    let column = || called(&COLUMNS, first.strip_prefix("Column::").expect(line));
    match method {
        ".without" => schema.without(column()),
        ".column" => schema.column(column(), text),
        ".constant" if text == second => schema.constant(column(), second.parse::<i32>().unwrap()),
        ".constant" => schema.constant(column(), text),
        ".expression" => schema.expression(column(), text),
        ".sequence" => schema.sequence(first.trim_matches('"')),
        ".sql_type" => {
            let sql_type = second.strip_prefix("SqlType::").expect(line);
            schema.sql_type(column(), called(&TYPES, sql_type))
        }
        _ => panic!("{line}"),
    }
}

/// Does what the lines say; `run` may fill in what only the owner of the table knows.
async fn apply<DB: TestDatabase>(
    db: &Database<DB>,
    lines: &[String],
    mut run: impl FnMut(&str) -> String,
) -> Schema {
    let mut schema = db.store.schema().clone();
    for line in lines {
        if line.starts_with('.') {
            schema = add(schema, line);
        } else {
            db.execute(&format!("BEGIN; {}; COMMIT", run(line))).await;
        }
    }
    schema
}

/// A role that may create tables, and use those that exist, but owns none of them.
async fn another_role(db: &Database<Postgres>) -> (PgEventStore, String) {
    let role = format!("app_{}", fastrand::u64(..));
    db.execute(&format!(
        "CREATE ROLE {role} LOGIN; GRANT ALL ON SCHEMA public TO {role};
         GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
         GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"
    ))
    .await;
    let url = db.url.replace("postgres@", &format!("{role}@"));
    (PgEventStore::connect(&url).await.unwrap(), role)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_error_has_all_that_is_wrong_and_its_lines_remove_it() {
    let tables = "
        CREATE TABLE order_events (
            seq BIGSERIAL PRIMARY KEY, order_id UUID NOT NULL, kind TEXT, data JSONB NOT NULL,
            is_test BOOLEAN NOT NULL);
        ALTER SEQUENCE order_events_seq_seq CACHE 10 INCREMENT 2;
        ALTER TABLE order_events ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own ON order_events USING (NOT is_test);
        CREATE TABLE order_heads (
            aggregate_type TEXT, order_id TEXT, aggregate_version BIGINT, updated_at TIMESTAMPTZ,
            PRIMARY KEY (aggregate_type, order_id));
        INSERT INTO order_events (order_id, kind, data, is_test)
        SELECT ('00000000-0000-0000-0000-00000000000' || n % 2)::uuid, 'Placed', '{}', false
          FROM generate_series(1, 5) AS n";
    let schema = Schema::default()
        .events("order_events")
        .aggregate_heads("order_heads")
        .column(Column::GlobalPosition, "seq")
        .column(Column::AggregateId, "order_id")
        .column(Column::EventType, "kind")
        .column(Column::Payload, "data");
    let db = with::<Postgres>(tables, schema.clone()).await;
    let (store, role) = another_role(&db).await;
    let store = store.with_schema(schema).unwrap();
    let error = store.migrate().await.unwrap_err();
    let text = error.to_string();
    let lines = remedies(error);
    assert_eq!(
        lines,
        [
            r#".constant(Column::AggregateType, "order_events")"#,
            ".sql_type(Column::AggregateId, SqlType::Uuid)",
            "ALTER TABLE order_events ADD COLUMN aggregate_version bigint NOT NULL DEFAULT 0; \
             UPDATE order_events SET aggregate_version = (SELECT count(*) FROM order_events AS e \
             WHERE e.order_id = order_events.order_id AND e.seq <= order_events.seq)",
            "ALTER TABLE order_events ADD COLUMN event_id uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE",
            "ALTER TABLE order_events ALTER kind SET NOT NULL",
            ".constant(Column::EventVersion, 1)",
            ".sql_type(Column::Payload, SqlType::Jsonb)",
            ".without(Column::TraceId)",
            ".without(Column::CorrelationId)",
            ".without(Column::CausationId)",
            ".without(Column::Metadata)",
            "ALTER TABLE order_events ADD COLUMN created_at timestamptz NOT NULL DEFAULT now()",
            "ALTER TABLE order_events ALTER is_test SET DEFAULT …",
            "ALTER TABLE order_heads ALTER order_id TYPE uuid USING order_id::uuid",
            "ALTER SEQUENCE public.order_events_seq_seq CACHE 1",
            "ALTER SEQUENCE public.order_events_seq_seq INCREMENT 1 NO CYCLE",
            &format!("ALTER ROLE {role} BYPASSRLS"),
        ]
    );
    assert!(lines.iter().all(|line| text.contains(line)), "{text}");

    // The type of ids is found once it is mapped.
    let schema = apply(&db, &lines, |line| line.replace('…', "false")).await;
    let store = store.with_schema(schema).unwrap();
    store.migrate().await.unwrap();
    store.check_access(Access::Append).await.unwrap();
    assert_eq!(
        db.numbers("SELECT aggregate_version FROM order_events ORDER BY seq")
            .await,
        [1, 1, 2, 2, 3]
    );
    let db = db.with_store(store);
    let id = "00000000-0000-0000-0000-000000000001";
    let next = NewEvent::new("order_events", id, "Paid", "{}");
    db.store
        .append(ExpectedVersion::Exact(3), &[next])
        .await
        .unwrap();
    db.execute(&format!(
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"
    ))
    .await;
    let (all, seen) = watching("all");
    run_once(db.worker().consumer(all)).await;
    assert_eq!(seen.lock().unwrap().len(), 6);
}

/// Another program numbers its rows by itself.
const NUMBERED: &str = "
    CREATE TABLE log (seq BIGINT PRIMARY KEY, shop TEXT NOT NULL, kind VARCHAR(9) NOT NULL);
    INSERT INTO log SELECT n, 's-' || n % 2, 'Opened' FROM generate_series(1, 5) AS n";

fn numbered() -> Schema {
    Schema::default()
        .read_only()
        .events("log")
        .column(Column::GlobalPosition, "seq")
        .column(Column::AggregateId, "shop")
        .column(Column::EventType, "kind")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_for_a_read_only_log_are_all_in_one_error() {
    let db = with::<Postgres>(NUMBERED, numbered()).await;
    let error = db.store.migrate().await.unwrap_err();
    let text = error.to_string();
    let lines = remedies(error);
    let sequence = "ALTER TABLE log ALTER seq ADD GENERATED BY DEFAULT AS IDENTITY; \
        SELECT setval(pg_get_serial_sequence('log', 'seq'), (SELECT max(seq) FROM log))";
    assert_eq!(
        lines,
        [
            r#".constant(Column::AggregateType, "log")"#,
            "ALTER TABLE log ADD COLUMN aggregate_version bigint NOT NULL DEFAULT 0; \
             UPDATE log SET aggregate_version = (SELECT count(*) FROM log AS e \
             WHERE e.shop = log.shop AND e.seq <= log.seq)",
            r#".expression(Column::EventId, "md5('log' || seq)::uuid")"#,
            ".constant(Column::EventVersion, 1)",
            r#".expression(Column::Payload, "'{}'::bytea")"#,
            ".without(Column::TraceId)",
            ".without(Column::CorrelationId)",
            ".without(Column::CausationId)",
            ".without(Column::Metadata)",
            r#".expression(Column::CreatedAt, "to_timestamp(0)")"#,
            sequence,
        ]
    );
    assert!(
        text.contains(
            "`seq` of `log` draws from no sequence, so the worker cannot know which positions are still to \
             come; run `ALTER TABLE log"
        ) && text.contains("a log whose positions a program computes by itself cannot be consumed"),
        "{text}"
    );
    let schema = apply(&db, &lines, str::to_owned).await;
    let store = db.store.clone().with_schema(schema).unwrap();
    let db = db.with_store(store);
    db.store.migrate().await.unwrap();
    db.execute("INSERT INTO log (shop, kind, aggregate_version) VALUES ('s-0', 'Closed', 3)")
        .await;
    let (all, seen) = watching("all");
    run_once(db.worker().consumer(all)).await;
    assert_eq!(seen.lock().unwrap().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_found_by_its_type_is_looked_at_too() {
    let tables = "CREATE TABLE events (n BIGSERIAL PRIMARY KEY);
                  ALTER SEQUENCE events_n_seq CACHE 7";
    let db = with::<Postgres>(tables, Schema::default().without(Column::TraceId)).await;
    let lines = remedies(db.store.migrate().await.unwrap_err());
    assert_eq!(lines[0], r#".column(Column::GlobalPosition, "n")"#);
    assert_eq!(
        lines.last().unwrap(),
        "ALTER SEQUENCE public.events_n_seq CACHE 1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_is_misnamed_in_the_mapping_is_named() {
    let db = Database::<Postgres>::fresh().await;
    db.execute("CREATE SEQUENCE another").await;
    let mapped = |name: &str| {
        let schema = Schema::default().sequence(name);
        db.store.clone().with_schema(schema).unwrap()
    };
    let lines = remedies(mapped("another").check().await.unwrap_err());
    assert_eq!(lines, [r#".sequence("events_global_position_seq")"#]);
    let error = mapped("nowhere").check().await.unwrap_err();
    assert!(
        error.to_string().contains("there is no sequence `nowhere`"),
        "{error}"
    );
    let found = mismatches(error);
    assert!(
        matches!(
            &*found,
            [Mismatch::Log(LogProblem::NoSequence { sequence: Some(name), .. })] if name == "nowhere"
        ),
        "{found:?}"
    );
    mapped("events_global_position_seq").check().await.unwrap();
}

/// A control: the same sequence is accepted by a program that only appends, which row-level security may
/// restrict.
#[tokio::test(flavor = "multi_thread")]
async fn row_level_security_does_not_keep_a_program_from_appending() {
    let db = Database::<Postgres>::fresh().await;
    let (store, role) = another_role(&db).await;
    db.execute(
        "ALTER TABLE events ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON events USING (aggregate_type = 'User')",
    )
    .await;
    let found = mismatches(store.check().await.unwrap_err());
    assert_eq!(
        found,
        [Mismatch::Log(LogProblem::HiddenEvents {
            role: role.clone()
        })]
    );
    store.check_access(Access::Append).await.unwrap();
    db.execute(&found[0].remedy()).await;
    store.check().await.unwrap();
}

/// A log of another program, whose table can be used as it is.
async fn read_only_log() -> Database<Postgres> {
    let db = Database::<Postgres>::fresh().await;
    let schema = Schema::default().read_only();
    let store = db.store.clone().with_schema(schema).unwrap();
    db.with_store(store)
}

const INSERT: &str = "
    INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
    VALUES ('User', gen_random_uuid(), 1, gen_random_uuid(), 'Changed', '{}')";

const DROP: &str = "ALTER TABLE events ALTER global_position DROP DEFAULT;
                    DROP SEQUENCE events_global_position_seq";

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_a_sequence_is_refused_at_the_start() {
    let db = read_only_log().await;
    db.execute(INSERT).await;
    db.execute(DROP).await;
    let worker = db.worker().consumer(read_model("c")).build().unwrap();
    let refused = patiently("it refuses", worker.run_once()).await;
    let problem = log_problem(refused.unwrap_err());
    assert!(
        matches!(problem, LogProblem::NoSequence { .. }),
        "{problem}"
    );
    let statements = problem.to_string();
    db.execute(statements.split('`').nth(5).unwrap()).await;
    db.execute(INSERT).await;
    run_once(db.worker().consumer(read_model("c"))).await;
    assert_eq!(db.applied("c").await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_is_dropped_ends_a_running_worker() {
    let db = read_only_log().await;
    let running = Running::start(db.worker().consumer(read_model("c")));
    db.execute(INSERT).await;
    patiently("it runs", running.caught_up()).await.unwrap();
    db.execute(DROP).await;
    let error = running.end().await.unwrap_err();
    assert!(
        matches!(error, WorkerError::Log(LogProblem::NoSequence { .. })),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_is_replaced_is_followed_by_a_running_worker() {
    let db = read_only_log().await;
    let running = Running::start(db.worker().consumer(read_model("c")));
    db.execute(INSERT).await;
    patiently("it runs", running.caught_up()).await.unwrap();
    db.execute(&format!(
        "BEGIN; {DROP}; CREATE SEQUENCE positions START 2;
         ALTER TABLE events ALTER global_position SET DEFAULT nextval('positions'); COMMIT"
    ))
    .await;
    db.execute(INSERT).await;
    until("it follows", async || db.applied("c").await == [1, 2]).await;
    running.stop().await;
}

/// The statements that make a table anew, with this definition in them.
fn anew(line: &str, definition: &str) -> String {
    let (create, rest) = line.split_once(" (…").expect(line);
    let (_, rest) = rest.split_once("…); ").expect(line);
    format!("{create} ({definition}); {rest}")
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_one_error_has_all_and_its_lines_remove_it() {
    let tables = "
        CREATE TABLE log (n INTEGER PRIMARY KEY, shop TEXT, kind TEXT NOT NULL, data BLOB NOT NULL);
        INSERT INTO log (shop, kind, data) VALUES ('a', 'Opened', '{}'), ('b', 'Opened', '{}'), ('a', 'Closed', '{}')";
    let schema = Schema::default()
        .events("log")
        .column(Column::GlobalPosition, "n")
        .column(Column::AggregateId, "shop")
        .column(Column::EventType, "kind")
        .column(Column::Payload, "data");
    let db = with::<Sqlite>(tables, schema).await;
    let lines = remedies(db.store.migrate().await.unwrap_err());
    let of_one = |name: &str| {
        format!(
            "CREATE TABLE new_log (…, {name}, …); INSERT INTO new_log SELECT * FROM log; \
             DROP TABLE log; ALTER TABLE new_log RENAME TO log"
        )
    };
    assert_eq!(lines.len(), 11, "{lines:#?}");
    assert_eq!(lines[0], r#".constant(Column::AggregateType, "log")"#);
    assert_eq!(lines[1], of_one("shop … NOT NULL"));
    assert_eq!(
        lines[2],
        "ALTER TABLE log ADD COLUMN aggregate_version INTEGER NOT NULL DEFAULT 0; \
         UPDATE log SET aggregate_version = (SELECT count(*) FROM log AS e \
         WHERE e.shop = log.shop AND e.n <= log.n)"
    );
    assert!(lines[3].starts_with("ALTER TABLE log ADD COLUMN event_id TEXT NOT NULL DEFAULT '';"));
    assert_eq!(
        lines[9],
        "ALTER TABLE log ADD COLUMN created_at TEXT NOT NULL DEFAULT '1970-01-01T00:00:00Z'"
    );
    assert_eq!(lines[10], of_one("n INTEGER PRIMARY KEY AUTOINCREMENT"));

    let own = "n INTEGER PRIMARY KEY AUTOINCREMENT, shop TEXT NOT NULL, kind TEXT NOT NULL, data BLOB NOT NULL";
    let all = format!(
        "{own}, aggregate_version INTEGER NOT NULL, event_id TEXT NOT NULL UNIQUE, created_at TEXT NOT NULL"
    );
    let mut definitions = [own, &all].into_iter();
    let schema = apply(&db, &lines, |line| {
        if line.contains('…') {
            anew(line, definitions.next().unwrap())
        } else {
            line.to_owned()
        }
    });
    let schema = schema.await;
    let store = db.store.clone().with_schema(schema).unwrap();
    store.migrate().await.unwrap();
    let db = db.with_store(store);
    db.store
        .append(
            ExpectedVersion::Exact(2),
            &[NewEvent::new("log", "a", "Opened", "{}")],
        )
        .await
        .unwrap();
    let (all, seen) = watching("all");
    run_once(db.worker().consumer(all)).await;
    assert_eq!(seen.lock().unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite_a_column_without_a_default_has_steps() {
    let columns = "
        global_position INTEGER PRIMARY KEY AUTOINCREMENT, aggregate_type TEXT NOT NULL,
        aggregate_id TEXT NOT NULL, aggregate_version INTEGER NOT NULL, event_id TEXT NOT NULL UNIQUE,
        event_type TEXT NOT NULL, event_version INTEGER NOT NULL, payload BLOB NOT NULL,
        trace_id TEXT, correlation_id TEXT, causation_id TEXT, metadata TEXT,
        created_at TEXT NOT NULL, tenant TEXT NOT NULL";
    let tables = format!("CREATE TABLE events ({columns})");
    let db = with::<Sqlite>(&tables, Schema::default()).await;
    let found = mismatches(db.store.migrate().await.unwrap_err());
    assert_eq!(
        found,
        [Mismatch::NotFilled {
            name: "tenant".into(),
            table: "events".into(),
            can_alter: false,
        }]
    );
    let line = found[0].remedy();
    assert!(
        line.starts_with("CREATE TABLE new_events (…, tenant … DEFAULT …, …);"),
        "{line}"
    );
    let statements = anew(&line, &format!("{columns} DEFAULT 'own'"));
    db.execute(&statements).await;
    db.store.migrate().await.unwrap();
    db.append_many(1).await;
}
