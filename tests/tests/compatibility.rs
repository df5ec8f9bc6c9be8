//! Programs with an older release of the library beside tables of a newer one, and the other way round.
//!
//! The release under test is the old one here: a later version of the tables is made by hand.

use std::time::Duration;

use consumer::admin::{Admin, AdminError};
use consumer::{EventStore, StoreError, WorkerError};
use consumer_tests::{
    Database, Running, TestDatabase, TestPostgres, logging, patiently, read_model, test_on, until,
};
use sqlx::{AssertSqlSafe, Postgres, Sqlite, raw_sql};

test_on!(
    [sqlite, postgres, through_a_pooler],
    running_and_restarted_programs_work_with_later_tables,
    tables_that_need_a_later_release_end_its_workers,
    nothing_is_claimed_on_tables_that_need_a_later_release,
    idle_rows_stay_on_tables_that_need_a_later_release,
    older_libraries_are_refused_and_accepted_again,
    a_worker_warns_while_earlier_libraries_are_accepted,
    operators_refuse_tables_that_need_a_later_release
);

test_on!(
    [empty_sqlite, empty_postgres],
    each_earlier_version_becomes_the_current_tables,
    tables_with_a_ledger_and_version_3_become_current,
    tables_of_version_5_become_the_current_tables,
    tables_of_version_7_become_the_current_tables,
    old_tables_may_be_migrated_by_many_processes_at_once,
    a_migration_that_is_interrupted_changes_nothing
);

/// The tables as each earlier version made them.
fn tables<DB: TestDatabase>(version: usize) -> String {
    let all = match DB::NAME {
        "PostgreSQL" => include_str!("../fixtures/tables/postgres.sql"),
        _ => include_str!("../fixtures/tables/sqlite.sql"),
    };
    let end = format!("\n-- version {}\n", version + 1);
    all.split(&end).next().unwrap().to_owned()
}

/// A later version of the tables, which adds something to each of the library's; as its record says, older
/// programs can work with it.
const LATER: &str = "
    ALTER TABLE consumer_progress ADD COLUMN later_note TEXT NOT NULL DEFAULT 'none';
    ALTER TABLE consumer_parked ADD COLUMN later_note TEXT;
    ALTER TABLE consumer_handled ADD COLUMN later_note TEXT;
    ALTER TABLE consumer_log ADD COLUMN later_note TEXT;
    ALTER TABLE consumer_active ADD COLUMN later_note TEXT;
    ALTER TABLE consumer_frontier ADD COLUMN later_note TEXT;
    ALTER TABLE consumer_schema ADD COLUMN later_note TEXT;
    CREATE INDEX later_index ON consumer_progress (consumer, later_note);
    CREATE TABLE consumer_later (consumer TEXT PRIMARY KEY);
    INSERT INTO consumer_schema (version) VALUES (1000);";

/// A version with which older programs cannot work.
const BREAKING: &str = "INSERT INTO consumer_schema (version, needs) VALUES (1001, 1001)";

async fn running_and_restarted_programs_work_with_later_tables<DB: TestDatabase>(db: Database<DB>) {
    let running = Running::start(db.worker().consumer(read_model("users")));
    let first = db.append_many(3).await;
    patiently("it starts", running.caught_up_to(first[2]))
        .await
        .unwrap();
    db.execute(LATER).await;

    let then = db.append_many(3).await;
    patiently("it continues", running.caught_up_to(then[2]))
        .await
        .unwrap();
    running.stop().await;
    // A restart migrates, runs and enrols another consumer.
    let store = EventStore::<DB>::connect(&db.url).await.unwrap();
    store.migrate().await.unwrap();
    store.check().await.unwrap();
    let last = db.append_many(3).await;
    for name in ["users", "mails"] {
        let report = db.run_once(read_model(name)).await;
        assert!(!report.has_failures(), "{report}");
        assert_eq!(db.applied(name).await, db.log().await, "{name}");
        assert_eq!(db.checkpoint(name).await, Some(last[2]));
    }
    let admin = Admin::new(db.store.clone());
    admin.pause("users").await.unwrap();
    assert_eq!(admin.status().await.unwrap().consumers.len(), 2);
    let versions = db
        .numbers("SELECT CAST(max(version) AS BIGINT) FROM consumer_schema")
        .await;
    assert_eq!(versions, [1000], "the older program migrates nothing back");
}

fn assert_newer(error: &StoreError) {
    let StoreError::NewerSchema {
        found: 1001,
        needs: 1001,
        known,
    } = error
    else {
        panic!("{error:?}");
    };
    let text = error.to_string();
    let both = format!("knows version 1001 or later, and this program knows version {known}");
    assert!(text.contains(&both), "{text}");
    assert!(
        text.contains("update the `consumer` crate of this program"),
        "{text}"
    );
}

/// Tables that the library knows refuse no one who knows them, nor does a later version beside them.
async fn older_libraries_are_refused_and_accepted_again<DB: TestDatabase>(db: Database<DB>) {
    let needs = "SELECT CAST(max(needs) AS BIGINT) FROM consumer_schema";
    let known = db.number("SELECT CAST(max(version) AS BIGINT) FROM consumer_schema");
    let known = known.await;
    db.execute("INSERT INTO consumer_schema (version) VALUES (1001)")
        .await;
    for _ in 0..2 {
        db.store.refuse_older_libraries().await.unwrap();
        assert_eq!(db.number(needs).await, known);
        db.store.check().await.unwrap();
    }
    for _ in 0..2 {
        db.store.accept_older_libraries().await.unwrap();
        assert_eq!(db.number(needs).await, 4);
    }
    // A later library has refused this one, which cannot take that back.
    db.execute("UPDATE consumer_schema SET needs = 1001 WHERE version = 1001")
        .await;
    assert_newer(&db.store.accept_older_libraries().await.unwrap_err());
    assert_newer(&db.store.refuse_older_libraries().await.unwrap_err());
}

async fn a_worker_warns_while_earlier_libraries_are_accepted<DB: TestDatabase>(db: Database<DB>) {
    let warns = async || {
        let (report, lines) = logging(db.run_once(read_model("users"))).await;
        assert!(!report.has_failures(), "{report}");
        lines.iter().any(|line| line.contains("--refuse-older"))
    };
    assert!(!warns().await, "no earlier library has used the tables");
    // As if one had created the tables, and this one had migrated them later.
    let earlier = match DB::NAME {
        "PostgreSQL" => "applied_at - interval '1 hour'",
        _ => "strftime('%Y-%m-%dT%H:%M:%fZ', applied_at, '-1 hour')",
    };
    db.execute(&format!(
        "UPDATE consumer_schema SET applied_at = {earlier} WHERE version <= 5"
    ))
    .await;
    assert!(warns().await);
    db.store.refuse_older_libraries().await.unwrap();
    assert!(!warns().await);
    db.store.accept_older_libraries().await.unwrap();
    assert!(warns().await);
}

/// A worker that looks at the version of the tables this often, and the position that it had handled before
/// they came to need a later release.
async fn left_behind<DB: TestDatabase>(
    db: &Database<DB>,
    advance_interval: Duration,
) -> (Running<DB>, i64) {
    let worker = db.worker().advance_interval(advance_interval);
    let running = Running::start(worker.consumer(read_model("users")));
    let first = db.append_one("User", "u-1").await;
    patiently("it starts", running.caught_up_to(first))
        .await
        .unwrap();
    db.execute(BREAKING).await;
    (running, first)
}

async fn tables_that_need_a_later_release_end_its_workers<DB: TestDatabase>(db: Database<DB>) {
    let (running, _) = left_behind(&db, Duration::from_millis(20)).await;

    match running.end().await {
        Err(WorkerError::Store(error)) => assert_newer(&error),
        other => panic!("{other:?}"),
    }
    // Nor does it start again.
    match db
        .worker()
        .consumer(read_model("users"))
        .build()
        .unwrap()
        .run_once()
        .await
    {
        Err(WorkerError::Store(error)) => assert_newer(&error),
        other => panic!("{other:?}"),
    }
    for refused in [db.store.check().await, db.store.migrate().await] {
        assert_newer(&refused.unwrap_err());
    }
}

async fn nothing_is_claimed_on_tables_that_need_a_later_release<DB: TestDatabase>(
    db: Database<DB>,
) {
    // It looks at the version of the tables once, at its start.
    let (running, first) = left_behind(&db, Duration::from_hours(1)).await;

    let claims = "SELECT claims FROM consumer_progress";
    let before = db.number(claims).await;
    let settled = db.append_many(1).await[0];
    // Without the condition in the claim, the event would be handled here.
    let caught_up = tokio::time::timeout(Duration::from_millis(300), running.caught_up_to(settled));
    assert!(caught_up.await.is_err());
    assert_eq!(db.number(claims).await, before);
    assert_eq!(db.applied("users").await, [first]);
    db.execute("DELETE FROM consumer_schema WHERE version = 1001")
        .await;
    patiently("it continues", running.caught_up_to(settled))
        .await
        .unwrap();
    running.stop().await;
}

async fn idle_rows_stay_on_tables_that_need_a_later_release<DB: TestDatabase>(db: Database<DB>) {
    let mut expected = 0;
    for needs_later in [false, true] {
        let orders = read_model("orders").scope(&["Order"]);
        let rarely = db.worker().advance_interval(Duration::from_hours(1));
        let running = Running::start(rarely.scoped_consumer(orders));
        let last = db.append_many(3).await[2];
        patiently("it has nothing to do", running.caught_up_to(last))
            .await
            .unwrap();
        if needs_later {
            db.execute(BREAKING).await;
        } else {
            expected = last;
        }
        // At its end a worker advances idle rows.
        running.stop().await;
        assert_eq!(db.checkpoint("orders").await, Some(expected));
    }
}

async fn operators_refuse_tables_that_need_a_later_release<DB: TestDatabase>(db: Database<DB>) {
    db.append_many(1).await;
    db.run_once(read_model("users")).await;
    let admin = Admin::new(db.store.clone());
    // One that has worked with the tables before.
    admin.status().await.unwrap();
    admin.frontier().await.unwrap();
    db.execute(BREAKING).await;

    let errors = [
        admin.pause("users").await.unwrap_err(),
        admin.status().await.map(drop).unwrap_err(),
        admin.frontier().await.map(drop).unwrap_err(),
        admin.parked("users").await.map(drop).unwrap_err(),
    ];
    for error in errors {
        match error {
            AdminError::Store(error) => assert_newer(&error),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        db.texts("SELECT state FROM consumer_progress").await,
        ["running"]
    );
}

/// The columns of each table, in the order of their names.
async fn columns<DB: TestDatabase>(db: &Database<DB>) -> Vec<String> {
    let columns = match DB::NAME {
        "PostgreSQL" => {
            "SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default)
               FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1"
        }
        _ => {
            "SELECT concat_ws(' ', t.name, c.name, c.type, c.\"notnull\", c.dflt_value)
               FROM sqlite_schema AS t JOIN pragma_table_info(t.name) AS c
              WHERE t.type = 'table' ORDER BY 1"
        }
    };
    db.texts(columns).await
}

async fn each_earlier_version_becomes_the_current_tables<DB: TestDatabase>(db: Database<DB>) {
    db.store.migrate().await.unwrap();
    let current = columns(&db).await;
    for version in 1..=3 {
        let old = Database::<DB>::empty().await;
        old.execute(&tables::<DB>(version)).await;
        old.execute("INSERT INTO consumer_progress (consumer, version, slice_from, slice_to, position, replay_to) VALUES ('users', 1, 0, 1024, 1, 2)").await;
        old.execute("INSERT INTO consumer_parked (consumer, version, aggregate_type, aggregate_id, position, slice, reason) VALUES ('users', 1, 'User', 'u-1', 1, 0, 'failed')").await;
        let error = old.store.check().await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("they are at version {version} of 8")),
            "{text}"
        );

        old.store.migrate().await.unwrap();
        assert_eq!(columns(&old).await, current, "version {version}");
        let handled = old.numbers("SELECT up_to FROM consumer_handled").await;
        assert_eq!(handled, [2], "the ledger has what was to be replayed");
        old.execute(DB::CREATE_READ_MODEL).await;
        let log = old.append_many(4).await;
        let report = old.run_once(read_model("users")).await;
        assert!(!report.has_failures(), "{report}");
        assert_eq!(old.parked("users").await.first(), Some(&1));
        assert_eq!(old.checkpoint("users").await, log.last().copied());
    }
}

/// An unreleased version 3 had the ledger already.
async fn tables_with_a_ledger_and_version_3_become_current<DB: TestDatabase>(db: Database<DB>) {
    db.store.migrate().await.unwrap();
    let current = columns(&db).await;
    db.execute("DELETE FROM consumer_schema WHERE version > 3; ALTER TABLE consumer_schema DROP COLUMN needs")
        .await;
    db.execute("INSERT INTO consumer_handled (consumer, scope, slice_from, slice_to, after, up_to) VALUES ('users', '', 0, 1024, 0, 7)")
        .await;
    db.store.migrate().await.unwrap();
    assert_eq!(columns(&db).await, current);
    assert_eq!(db.numbers("SELECT up_to FROM consumer_handled").await, [7]);
}

async fn tables_of_version_5_become_the_current_tables<DB: TestDatabase>(db: Database<DB>) {
    db.store.migrate().await.unwrap();
    let current = columns(&db).await;
    for column in [
        "unknown_position",
        "unknown_aggregate",
        "unknown_type",
        "unknown_version",
        "failed_releases",
        "worker_host",
        "worker_pid",
        "worker_release",
        "worker_at",
    ] {
        let drop = format!("ALTER TABLE consumer_progress DROP COLUMN {column}");
        db.execute(&drop).await;
    }
    db.execute("DELETE FROM consumer_schema WHERE version > 5")
        .await;
    db.store.check().await.unwrap_err();
    db.store.migrate().await.unwrap();
    assert_eq!(columns(&db).await, current);
    db.execute(DB::CREATE_READ_MODEL).await;
    db.append_many(2).await;
    let report = db.run_once(read_model("users")).await;
    assert!(!report.has_failures(), "{report}");
}

async fn tables_of_version_7_become_the_current_tables<DB: TestDatabase>(db: Database<DB>) {
    db.store.migrate().await.unwrap();
    let current = columns(&db).await;
    db.execute("DROP TABLE consumer_worker; DELETE FROM consumer_schema WHERE version > 7")
        .await;
    db.store.check().await.unwrap_err();
    db.store.migrate().await.unwrap();
    assert_eq!(columns(&db).await, current);
    // Libraries that know version 7 work with them, too.
    let needs = "SELECT CAST(max(needs) AS BIGINT) FROM consumer_schema";
    assert_eq!(db.number(needs).await, 4);
}

async fn old_tables_may_be_migrated_by_many_processes_at_once<DB: TestDatabase>(db: Database<DB>) {
    db.execute(&tables::<DB>(1)).await;
    let mut migrating = Vec::new();
    for _ in 0..8 {
        let store = EventStore::<DB>::connect(&db.url).await.unwrap();
        migrating.push(tokio::spawn(async move { store.migrate().await }));
    }
    for task in migrating {
        task.await.unwrap().unwrap();
    }
    let versions = db
        .numbers("SELECT CAST(version AS BIGINT) FROM consumer_schema ORDER BY version")
        .await;
    assert_eq!(versions, [1, 2, 3, 4, 5, 6, 7, 8]);
}

async fn a_migration_that_is_interrupted_changes_nothing<DB: TestDatabase>(db: Database<DB>) {
    db.execute(&tables::<DB>(1)).await;
    // The last version fails half-way: its ledger is something else.
    let in_the_way = "CREATE VIEW consumer_handled AS SELECT 1 AS id";
    db.execute(in_the_way).await;
    let before = columns(&db).await;
    db.store.migrate().await.unwrap_err();
    assert_eq!(columns(&db).await, before);
    // Or its process goes away.
    for _ in 0..20 {
        let store = db.store.clone();
        let migration = tokio::spawn(async move { store.migrate().await });
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..20))).await;
        migration.abort();
        let _ = migration.await;
    }
    until("its connections have ended", async || {
        columns(&db).await == before
    })
    .await;
    assert_eq!(
        db.numbers("SELECT CAST(version AS BIGINT) FROM consumer_schema")
            .await,
        [1]
    );

    db.execute("DROP VIEW consumer_handled").await;
    db.store.migrate().await.unwrap();
    db.store.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_lets_others_pass_while_it_waits_for_a_batch() {
    let db = Database::<Postgres>::empty().await;
    db.execute(&tables::<Postgres>(3)).await;
    db.execute("INSERT INTO consumer_progress (consumer, version, slice_from, slice_to, position) VALUES ('slow', 1, 0, 1024, 0), ('fast', 1, 0, 1024, 0)").await;
    let mut batch = db.pool.begin().await.unwrap();
    let claim =
        |name| format!("SELECT 1 FROM consumer_progress WHERE consumer = '{name}' FOR UPDATE");
    raw_sql(AssertSqlSafe(claim("slow")))
        .execute(&mut *batch)
        .await
        .unwrap();

    let store = db.store.clone();
    let migration = tokio::spawn(async move { store.migrate().await });
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 'consumer_progress'::regclass AND NOT granted";
    until("it waits for the batch", async || {
        db.number(waits).await > 0
    })
    .await;
    // A batch of another consumer queues behind the migration, which gives way although it cannot continue.
    let fast = claim("fast");
    patiently("the other batch has its turn", db.execute(&fast)).await;
    assert!(!migration.is_finished());
    let error = db.store.migrate_within(Duration::ZERO).await.unwrap_err();
    assert!(
        matches!(error, StoreError::MigrationBlocked { .. }),
        "{error:?}"
    );

    batch.commit().await.unwrap();
    patiently("it migrates", migration).await.unwrap().unwrap();
    db.store.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_migration_names_the_sessions_in_its_way() {
    let db = Database::<Postgres>::empty().await;
    db.execute(&tables::<Postgres>(3)).await;
    let mut batch = db.pool.begin().await.unwrap();
    let hold =
        "SET LOCAL application_name = 'importer'; LOCK TABLE consumer_progress IN ROW SHARE MODE";
    raw_sql(hold).execute(&mut *batch).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *batch)
        .await
        .unwrap();
    let error = db.store.migrate_within(Duration::ZERO).await.unwrap_err();
    let text = error.to_string();
    let holder = format!("other sessions hold locks on them (pid {pid} (app=importer, open ");
    assert!(text.contains(&holder), "{text}");
    assert!(text.contains("nothing has changed"), "{text}");
    assert_eq!(
        db.number("SELECT CAST(max(version) AS BIGINT) FROM consumer_schema")
            .await,
        3
    );
    batch.rollback().await.unwrap();
    db.store.migrate_within(Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_froze_in_a_migration_is_ended() {
    let db = Database::<Postgres>::empty().await;
    db.execute(&tables::<Postgres>(3)).await;
    let begin = db.store.migration_sql();
    let begin = begin.split("CREATE TABLE").next().unwrap();
    let mut frozen = db.pool.acquire().await.unwrap();
    raw_sql(AssertSqlSafe(begin.to_owned()))
        .execute(&mut *frozen)
        .await
        .unwrap();
    let timeout: String = sqlx::query_scalar("SHOW idle_in_transaction_session_timeout")
        .fetch_one(&mut *frozen)
        .await
        .unwrap();
    assert_eq!(timeout, "1min");
    // It has the lock of migrations until then.
    let error = db.store.migrate_within(Duration::ZERO);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), error)
            .await
            .is_err()
    );
    raw_sql("ROLLBACK").execute(&mut *frozen).await.unwrap();
    db.store.migrate().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn current_tables_are_migrated_without_writing_or_waiting() {
    let server = TestPostgres::shared().await;
    let database = server.database().await;
    let db = Database::<Postgres>::of(EventStore::new(database.pool.clone()), &database.url);
    db.store.migrate().await.unwrap();
    let mut other = db.pool.begin().await.unwrap();
    raw_sql("LOCK TABLE consumer_progress, consumer_parked, events IN ROW EXCLUSIVE MODE")
        .execute(&mut *other)
        .await
        .unwrap();
    let url = format!("{}?options[default_transaction_read_only]=on", db.url);
    let store = EventStore::<Postgres>::connect(&url).await.unwrap();
    store.migrate_within(Duration::ZERO).await.unwrap();
    store.check().await.unwrap();
    other.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_for_sqlite_fails_on_tables_without_its_columns() {
    let db = Database::<Sqlite>::empty().await;
    db.execute(&tables::<Sqlite>(3)).await;
    let mut connection = db.pool.acquire().await.unwrap();
    let error = Sqlite::execute_sql(&mut connection, &db.store.migration_sql())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("no such column: p.began"),
        "{error}"
    );
    Sqlite::execute_sql(&mut connection, "ROLLBACK")
        .await
        .unwrap();
    drop(connection);
    db.store.migrate().await.unwrap();
    // From then on, it can be run again.
    db.execute(&db.store.migration_sql()).await;
    db.store.check().await.unwrap();
}
