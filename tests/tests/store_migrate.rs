//! Creating the store's tables, beside those of others.

use consumer::{EventStore, ExpectedVersion, Mismatch, NewEvent, Schema, StoreError};
use consumer_tests::{Database, TestDatabase, TestPostgres, keep_log, logged, test_on};
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Sqlite, raw_sql};

fn event() -> NewEvent {
    NewEvent::new("User", "u-1", "UserRegistered", "{}")
}

test_on!(
    [sqlite, postgres],
    migrating_again_changes_nothing,
    a_mapping_that_was_never_migrated_is_named
);

test_on!(
    [empty_sqlite, empty_postgres],
    the_printed_sql_replaces_migrating_and_can_be_repeated,
    many_processes_may_migrate_at_once,
    migrations_of_the_user_run_beside_ours_before_and_after,
    without_tables_every_call_says_how_to_create_them,
    a_missing_column_of_an_existing_table_is_named
);

test_on!(
    [empty_postgres],
    a_first_migration_logs_no_notice_of_the_server
);

async fn a_first_migration_logs_no_notice_of_the_server(db: Database<Postgres>) {
    keep_log();
    db.execute("DROP TABLE IF EXISTS consumer_of_the_control")
        .await;
    db.store.migrate().await.unwrap();
    let notices = logged(&["INFO", "consumer_", "skipping"]);
    assert!(
        matches!(&*notices, [only] if only.contains("consumer_of_the_control")),
        "{notices:?}"
    );
}

async fn migrating_again_changes_nothing<DB: TestDatabase>(db: Database<DB>) {
    db.store
        .append(ExpectedVersion::NoStream, &[event()])
        .await
        .unwrap();
    for _ in 0..3 {
        db.store.migrate().await.unwrap();
    }
    db.store.check().await.unwrap();
    let error = db
        .store
        .append(ExpectedVersion::NoStream, &[event()])
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        StoreError::Conflict {
            actual: Some(1),
            ..
        }
    ));
}

async fn the_printed_sql_replaces_migrating_and_can_be_repeated<DB: TestDatabase>(
    db: Database<DB>,
) {
    for _ in 0..3 {
        db.execute(&db.store.migration_sql()).await;
    }
    db.store.check().await.unwrap();
    db.store
        .append(ExpectedVersion::NoStream, &[event()])
        .await
        .unwrap();
    db.store.migrate().await.unwrap();
}

async fn many_processes_may_migrate_at_once<DB: TestDatabase>(db: Database<DB>) {
    let mut migrating = Vec::new();
    for _ in 0..10 {
        // A pool of its own, as another process has.
        let store = EventStore::<DB>::connect(&db.url).await.unwrap();
        migrating.push(tokio::spawn(async move { store.migrate().await }));
    }
    for task in migrating {
        task.await.unwrap().unwrap();
    }
    db.store.check().await.unwrap();
}

async fn migrations_of_the_user_run_beside_ours_before_and_after<DB: TestDatabase>(
    db: Database<DB>,
) {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, sql: &str| std::fs::write(directory.path().join(name), sql).unwrap();
    write("1_users.sql", "CREATE TABLE users (id TEXT PRIMARY KEY)");
    Migrator::new(directory.path())
        .await
        .unwrap()
        .run(&db.pool)
        .await
        .unwrap();
    db.store.migrate().await.unwrap();
    write("2_orders.sql", "CREATE TABLE orders (id TEXT PRIMARY KEY)");
    Migrator::new(directory.path())
        .await
        .unwrap()
        .run(&db.pool)
        .await
        .unwrap();
    db.store.migrate().await.unwrap();

    let theirs = db.number("SELECT count(*) FROM _sqlx_migrations").await;
    let ours = db.number("SELECT count(*) FROM consumer_schema").await;
    assert_eq!((theirs, ours), (2, 8), "theirs and ours are counted apart");
}

async fn without_tables_every_call_says_how_to_create_them<DB: TestDatabase>(db: Database<DB>) {
    let mut conn = db.pool.acquire().await.unwrap();
    let errors = [
        db.store.check().await.unwrap_err(),
        db.store
            .append(ExpectedVersion::Any, &[event()])
            .await
            .unwrap_err(),
        db.store.read_events(&mut conn, 0, 1).await.unwrap_err(),
        db.store
            .latest_global_position(&mut conn)
            .await
            .unwrap_err(),
        db.store
            .read_aggregate(&mut conn, "User", "u-1", None, None)
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::NotMigrated { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains(
                "call `migrate()` on the store once, or run the SQL that `migration_sql()` returns"
            ),
            "{text}"
        );
    }
}

async fn a_mapping_that_was_never_migrated_is_named<DB: TestDatabase>(db: Database<DB>) {
    let schema = Schema::default().events("log").aggregate_heads("log_heads");
    let other = db.store.clone().with_schema(schema).unwrap();
    for error in [
        other.migrate().await.unwrap_err(),
        other.check().await.unwrap_err(),
    ] {
        assert!(
            matches!(error, StoreError::OtherMapping { .. }),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains("mapped to the events in `log` and the heads in `log_heads`"),
            "{text}"
        );
        assert!(!text.contains("call `migrate()`"), "{text}");
    }
    // The way that the error shows.
    db.execute(&other.migration_sql()).await;
    other.migrate().await.unwrap();
    other
        .append(ExpectedVersion::NoStream, &[event()])
        .await
        .unwrap();
}

async fn a_missing_column_of_an_existing_table_is_named<DB: TestDatabase>(db: Database<DB>) {
    db.execute("CREATE TABLE events (id TEXT, aggregate_type TEXT, global_position TEXT)")
        .await;
    let error = db.store.migrate().await.unwrap_err();
    assert!(matches!(error, StoreError::Mismatches { .. }), "{error:?}");
    assert!(error.to_string().contains("aggregate_id"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sqlite_table_that_reuses_positions_is_refused() {
    let positions = |column: &str| {
        format!(
            "CREATE TABLE events (
                 {column}, aggregate_type TEXT NOT NULL, aggregate_id TEXT NOT NULL,
                 aggregate_version INTEGER NOT NULL, event_id TEXT NOT NULL UNIQUE,
                 event_type TEXT NOT NULL, event_version INTEGER NOT NULL DEFAULT 1,
                 payload BLOB NOT NULL, trace_id TEXT, correlation_id TEXT, causation_id TEXT,
                 metadata TEXT DEFAULT 'autoincrement', created_at TEXT NOT NULL,
                 UNIQUE (aggregate_type, aggregate_id, aggregate_version))"
        )
    };
    for column in [
        "global_position INTEGER PRIMARY KEY",
        "global_position INTEGER",
        "id INTEGER PRIMARY KEY AUTOINCREMENT, global_position INTEGER UNIQUE",
    ] {
        let db = Database::<Sqlite>::empty().await;
        db.execute(&positions(column)).await;
        let refused = |error: StoreError| {
            let StoreError::Mismatches { mismatches, .. } = &error else {
                panic!("{column}: {error:?}")
            };
            let is_named = |one| matches!(one, &Mismatch::NoAutoincrement { .. });
            assert!(mismatches.iter().any(is_named), "{column}: {error:?}");
            let text = error.to_string();
            let named = "column `global_position` is not `INTEGER PRIMARY KEY AUTOINCREMENT`";
            assert!(text.contains(named), "{text}");
        };
        refused(db.store.migrate().await.unwrap_err());
        // Running the printed SQL does not change that.
        db.execute(&db.store.migration_sql()).await;
        refused(db.store.check().await.unwrap_err());
    }
    let db = Database::<Sqlite>::empty().await;
    db.execute(&positions(
        "Global_Position integer primary key /* on */ autoincrement",
    ))
    .await;
    db.store.migrate().await.unwrap();
}

async fn of_table(pool: &PgPool, table: &str, sql: &'static str) -> Vec<String> {
    let texts = sqlx::query_scalar(sql).bind(table);
    texts.fetch_all(pool).await.unwrap()
}

/// The columns of a table as `name type null default`.
async fn columns(pool: &PgPool, table: &str) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', column_name, data_type,
                      CASE is_nullable WHEN 'NO' THEN 'not null' END, 'default ' || column_default)
                 FROM information_schema.columns
                WHERE table_schema = 'public' AND table_name = $1 ORDER BY ordinal_position";
    of_table(pool, table, sql).await
}

/// The constraints of a table, as Postgres writes them. From version 18 on, `NOT NULL`, which is part of
/// the columns, is among them.
async fn constraints(pool: &PgPool, table: &str) -> Vec<String> {
    let sql = "SELECT pg_get_constraintdef(oid) FROM pg_constraint
                WHERE conrelid = $1::regclass AND contype NOT IN ('t', 'n') ORDER BY 1";
    of_table(pool, table, sql).await
}

async fn indexes(pool: &PgPool, table: &str) -> Vec<String> {
    let sql = "SELECT substring(indexdef FROM 'USING .*') FROM pg_indexes
                WHERE tablename = $1 ORDER BY 1";
    of_table(pool, table, sql).await
}

const EVENTS: [&str; 13] = [
    "global_position bigint not null default nextval('events_global_position_seq'::regclass)",
    "aggregate_type text not null",
    "aggregate_id text not null",
    "aggregate_version bigint not null",
    "event_id uuid not null",
    "event_type text not null",
    "event_version integer not null default 1",
    "payload bytea not null",
    "trace_id text",
    "correlation_id text",
    "causation_id text",
    "metadata jsonb",
    "created_at timestamp with time zone not null default now()",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_on_postgres_match_those_of_the_go_library() {
    let db = Database::<Postgres>::fresh().await;
    assert_eq!(columns(&db.pool, "events").await, EVENTS);
    assert_eq!(
        constraints(&db.pool, "events").await,
        [
            "PRIMARY KEY (global_position)",
            "UNIQUE (aggregate_type, aggregate_id, aggregate_version)",
            "UNIQUE (event_id)",
        ]
    );
    assert_eq!(
        indexes(&db.pool, "events").await,
        [
            "USING btree (aggregate_type, aggregate_id, aggregate_version)",
            "USING btree (aggregate_type, global_position)",
            "USING btree (event_id)",
            "USING btree (global_position)",
        ]
    );
    assert_eq!(
        columns(&db.pool, "aggregate_heads").await,
        [
            "aggregate_type text not null",
            "aggregate_id text not null",
            "aggregate_version bigint not null",
            "updated_at timestamp with time zone not null default now()",
        ]
    );
    assert_eq!(
        constraints(&db.pool, "aggregate_heads").await,
        ["PRIMARY KEY (aggregate_type, aggregate_id)"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn our_tables_on_postgres_have_the_columns_of_a_worker() {
    let db = Database::<Postgres>::fresh().await;
    assert_eq!(
        columns(&db.pool, "consumer_progress").await,
        [
            "consumer text not null",
            "version integer not null",
            "slice_from integer not null",
            "slice_to integer not null",
            "position bigint not null",
            "epoch bigint not null default 0",
            "claims bigint not null default 0",
            "scope text not null default ''::text",
            "state text not null default 'running'::text",
            "replay_to bigint",
            "hold_at bigint",
            "hold_until timestamp with time zone",
            "attempts integer not null default 0",
            "retry_at timestamp with time zone",
            "failed_position bigint",
            "error text",
            "updated_at timestamp with time zone not null default now()",
            "began bigint not null default 0",
            "unknown_position bigint",
            "unknown_aggregate text",
            "unknown_type text",
            "unknown_version integer",
            "failed_releases text",
            "worker_host text",
            "worker_pid bigint",
            "worker_release text",
            "worker_at timestamp with time zone",
        ]
    );
    let constraints = constraints(&db.pool, "consumer_progress").await;
    assert!(constraints.contains(&"PRIMARY KEY (consumer, version, slice_from)".to_owned()));
    assert_eq!(constraints.len(), 3, "{constraints:?}");
    assert_eq!(
        columns(&db.pool, "consumer_frontier").await,
        [
            "log text not null",
            "settled bigint not null",
            "updated_at timestamp with time zone not null default now()",
        ]
    );
    assert_eq!(
        columns(&db.pool, "consumer_parked").await,
        [
            "consumer text not null",
            "version integer not null",
            "aggregate_type text not null",
            "aggregate_id text not null",
            "position bigint not null",
            "slice integer not null",
            "reason text not null",
            "attempts integer not null default 0",
            "error text",
            "parked_at timestamp with time zone not null default now()",
            "replay boolean not null default false",
        ]
    );
    assert_eq!(
        indexes(&db.pool, "consumer_parked").await,
        [
            "USING btree (consumer, version) WHERE (NOT (((octet_length(consumer) + octet_length(aggregate_type)) + octet_length(aggregate_id)) < 2500))",
            "USING btree (consumer, version, \"position\")",
            "USING btree (consumer, version, aggregate_type, aggregate_id) WHERE (((octet_length(consumer) + octet_length(aggregate_type)) + octet_length(aggregate_id)) < 2500)",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_databases_have_the_same_tables_with_the_same_columns() {
    let postgres = Database::<Postgres>::fresh().await;
    let sqlite = Database::<Sqlite>::fresh().await;
    for table in [
        "events",
        "aggregate_heads",
        "consumer_progress",
        "consumer_frontier",
        "consumer_parked",
        "consumer_handled",
        "consumer_schema",
    ] {
        let names: Vec<String> =
            sqlx::query_scalar("SELECT name FROM pragma_table_info(?1) ORDER BY cid")
                .bind(table)
                .fetch_all(&sqlite.pool)
                .await
                .unwrap();
        let columns = columns(&postgres.pool, table).await;
        let expected: Vec<&str> = columns
            .iter()
            .map(|column| column.split(' ').next().unwrap())
            .collect();
        assert_eq!(names, expected, "{table}");
    }
}

/// The tables, indexes and checkpoints of an existing Go service.
const GO: &str = "
CREATE TABLE events (
    global_position BIGSERIAL PRIMARY KEY, aggregate_type TEXT NOT NULL, aggregate_id TEXT NOT NULL,
    aggregate_version BIGINT NOT NULL, event_id UUID NOT NULL UNIQUE, event_type TEXT NOT NULL,
    event_version INT NOT NULL DEFAULT 1, payload BYTEA NOT NULL, trace_id TEXT, correlation_id TEXT,
    causation_id TEXT, metadata JSONB, created_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    UNIQUE (aggregate_type, aggregate_id, aggregate_version));
CREATE INDEX idx_events_aggregate_type_position ON events (aggregate_type, global_position);
CREATE TABLE aggregate_heads (
    aggregate_type TEXT NOT NULL, aggregate_id TEXT NOT NULL, aggregate_version BIGINT NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), PRIMARY KEY (aggregate_type, aggregate_id));
CREATE TABLE consumer_checkpoints (
    consumer_name TEXT PRIMARY KEY, last_global_position BIGINT NOT NULL, updated_at TIMESTAMPTZ NOT NULL);
INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
VALUES ('User', 'u-1', 1, gen_random_uuid(), 'UserRegistered', '{}');
INSERT INTO aggregate_heads VALUES ('User', 'u-1', 1, now());
INSERT INTO consumer_checkpoints VALUES ('go', 1, now());";

#[tokio::test(flavor = "multi_thread")]
async fn migrating_leaves_the_tables_of_a_go_service_unchanged() {
    let db = Database::<Postgres>::empty().await;
    db.execute(GO).await;
    let before = (
        columns(&db.pool, "events").await,
        indexes(&db.pool, "events").await,
        columns(&db.pool, "consumer_checkpoints").await,
    );
    db.store.migrate().await.unwrap();
    let after = (
        columns(&db.pool, "events").await,
        indexes(&db.pool, "events").await,
        columns(&db.pool, "consumer_checkpoints").await,
    );
    assert_eq!(before, after);
    assert_eq!(before.0, EVENTS);
    let checkpoint: (String, i64) =
        sqlx::query_as("SELECT consumer_name, last_global_position FROM consumer_checkpoints")
            .fetch_one(&db.pool)
            .await
            .unwrap();
    assert_eq!(checkpoint, ("go".to_owned(), 1));
    let stored = db
        .store
        .append(ExpectedVersion::Exact(1), &[event()])
        .await
        .unwrap();
    assert_eq!(
        (stored[0].global_position, stored[0].aggregate_version),
        (2, 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_up_to_date_tables_needs_no_right_to_create_any() {
    let db = Database::<Postgres>::fresh().await;
    let role = format!("role_{}", uuid::Uuid::new_v4().simple());
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}; \
         GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}"
    );
    db.execute(&grants).await;
    let url = db.url.replace("postgres@", &format!("{role}@"));
    let store = EventStore::<Postgres>::connect(&url).await.unwrap();
    store.migrate().await.unwrap();
    store
        .append(ExpectedVersion::NoStream, &[event()])
        .await
        .unwrap();
    let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    store.pool().close().await;
    db.execute(&drop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_a_claim_only_commits_with_the_mark_of_a_save() {
    const CLAIM: &str = "UPDATE consumer_progress SET claims = claims + 1";
    const SAVE: &str = "SELECT set_config('consumer.saved', pg_current_xact_id()::text, true)";
    let db = Database::<Postgres>::fresh().await;
    db.execute("INSERT INTO consumer_progress (consumer, version, slice_from, slice_to, position) VALUES ('mails', 1, 0, 1024, 0)").await;

    let mut tx = db.pool.begin().await.unwrap();
    raw_sql(CLAIM).execute(&mut *tx).await.unwrap();
    let error = raw_sql("COMMIT").execute(&mut *tx).await.unwrap_err();
    let refusal = error.as_database_error().unwrap();
    assert_eq!(refusal.code().as_deref(), Some("ZC004"));
    assert_eq!(
        refusal.message(),
        "a handler of consumer mails tried to commit the transaction of its worker"
    );
    drop(tx);

    let mut tx = db.pool.begin().await.unwrap();
    raw_sql(CLAIM).execute(&mut *tx).await.unwrap();
    raw_sql(SAVE).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    // The mark of an earlier transaction is none.
    let mut tx = db.pool.begin().await.unwrap();
    raw_sql(CLAIM).execute(&mut *tx).await.unwrap();
    raw_sql("SET LOCAL consumer.saved = '3'")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap_err();
    // Pausing a consumer is not a claim, and needs no mark.
    db.execute("UPDATE consumer_progress SET state = 'paused'")
        .await;
    let claims = db.number("SELECT claims FROM consumer_progress").await;
    assert_eq!(claims, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_can_share_a_database_in_schemas_of_their_own() {
    let database = TestPostgres::shared().await.database().await;
    let mut stores = Vec::new();
    for name in ["sales", "Ver waltung"] {
        let store = EventStore::new(database.pool.clone())
            .with_schema(Schema::default().database_schema(name))
            .unwrap();
        store.migrate().await.unwrap();
        store.migrate().await.unwrap();
        stores.push(store);
    }
    stores[0]
        .append(ExpectedVersion::NoStream, &[event()])
        .await
        .unwrap();
    let mut conn = database.pool.acquire().await.unwrap();
    assert_eq!(
        stores[0].latest_global_position(&mut conn).await.unwrap(),
        1
    );
    assert_eq!(
        stores[1].latest_global_position(&mut conn).await.unwrap(),
        0
    );
    let public: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            .fetch_one(&database.pool)
            .await
            .unwrap();
    assert_eq!(public, 0);
    raw_sql(AssertSqlSafe(stores[0].migration_sql()))
        .execute(&database.pool)
        .await
        .unwrap();
}
