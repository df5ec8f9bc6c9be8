//! What a handler does to its session reaches no other batch, and not the worker's own statements.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use consumer::admin::{ActivateOptions, ForgetOptions, RebuildOptions};
use consumer::{ConsumerState, EventStore, OnError, ReadModel, Settings, Worker};
use consumer_tests::{
    Database, Folding, Running, TestConsumer, TestDatabase, consumer, folding, impatient,
    patiently, run_once, test_on,
};
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, Postgres, Row as _, Sqlite};

test_on!(
    [postgres],
    a_handler_may_set_a_search_path_for_its_transaction,
    what_a_handler_sets_reaches_no_other_consumer,
    a_role_that_a_handler_sets_reaches_no_other_consumer,
    what_a_new_connection_sets_lasts,
    what_a_new_connection_creates_lasts,
    a_temporary_table_of_a_handler_hides_no_table,
    a_lock_that_a_handler_leaves_blocks_no_one,
    a_statement_that_a_handler_prepares_fails_no_later_event,
    a_handler_that_drops_all_prepared_statements_loses_nothing,
    a_handler_without_tx_is_called_with_the_same_connection,
    a_search_path_before_the_catalogue_is_refused,
    every_command_finds_its_tables_under_a_hostile_search_path,
    a_worker_finds_its_tables_under_a_hostile_search_path
);

test_on!(
    [sqlite],
    what_a_handler_changes_reaches_no_other_batch,
    a_connection_that_a_handler_made_read_only_fails_its_event
);

test_on!(
    [sqlite, postgres],
    what_a_handler_changes_reaches_no_fold,
    what_a_handler_without_tx_changes_stays_out_of_the_pool
);

/// Remembers what a query says in each call of a handler, which may then change the session.
fn asking(
    name: &str,
    query: &'static str,
    change: &'static str,
) -> (TestConsumer<Postgres>, Arc<Mutex<Vec<String>>>) {
    let answers: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&answers);
    let asking = consumer::<Postgres, _>(name, move |_, tx, _| {
        let seen = Arc::clone(&seen);
        Box::pin(async move {
            let answer = sqlx::raw_sql(query).fetch_one(&mut *tx).await?.try_get(0)?;
            seen.lock().unwrap().push(answer);
            Ok(Postgres::execute_sql(tx, change).await?)
        })
    });
    (asking, answers)
}

/// A tenant for each aggregate, in a schema of its own, which has tables of a worker too.
async fn tenants(db: &Database<Postgres>) {
    for tenant in ["t1", "t2"] {
        db.execute(&format!(
            "CREATE SCHEMA {tenant};
             CREATE TABLE {tenant}.users (id TEXT);
             CREATE TABLE {tenant}.consumer_progress (LIKE public.consumer_progress INCLUDING ALL);
             CREATE TABLE {tenant}.consumer_parked (LIKE public.consumer_parked INCLUDING ALL);
             CREATE TABLE {tenant}.events (LIKE public.events INCLUDING ALL);
             INSERT INTO {tenant}.consumer_progress SELECT * FROM public.consumer_progress;"
        ))
        .await;
    }
}

/// Writes each user into the schema that the aggregate's id names.
fn by_tenant() -> TestConsumer<Postgres> {
    consumer("users", move |_, tx, event| {
        let set = format!("SET LOCAL search_path = {}", event.aggregate_id);
        Box::pin(async move {
            Postgres::execute_sql(tx, &set).await?;
            Postgres::execute_sql(tx, "INSERT INTO users VALUES ('one')").await?;
            Ok(())
        })
    })
}

async fn a_handler_may_set_a_search_path_for_its_transaction(db: Database<Postgres>) {
    // A row in each of the tenants' tables, to be taken for the worker's.
    run_once(db.worker().consumer(by_tenant())).await;
    tenants(&db).await;
    let appended = db.append("User", ["t1", "t2", "t1", "t2"]).await;
    let settings = impatient().retries(1).batch_size(2);
    let report = db.run_once(by_tenant().settings(settings)).await;
    assert!(!report.has_failures(), "{report}");
    for tenant in ["t1", "t2"] {
        let rows = format!("SELECT count(*) FROM {tenant}.users");
        assert_eq!(db.numbers(&rows).await, [2], "{tenant}");
        let advanced =
            format!("SELECT count(*) FROM {tenant}.consumer_progress WHERE position > 0");
        assert_eq!(db.numbers(&advanced).await, [0], "{tenant}");
    }
    let own = "SELECT position FROM public.consumer_progress";
    assert_eq!(db.numbers(own).await, appended[3..]);
}

/// Lets two consumers handle events in turns, so that they share connections.
async fn take_turns(
    db: &Database<Postgres>,
    setting: TestConsumer<Postgres>,
    other: TestConsumer<Postgres>,
) {
    let setting = setting.scope(&["Setting"]);
    let other = other.scope(&["Other"]);
    let worker = db.worker().scoped_consumer(setting);
    let running = Running::start(worker.scoped_consumer(other));
    handle_one_by_one(db, running, &["Setting", "Other"].repeat(20)).await;
}

/// Appends an event of each of these types after the one before was handled: only one connection is in use,
/// and each batch gets that of the batch before.
async fn handle_one_by_one<DB: TestDatabase>(
    db: &Database<DB>,
    running: Running<DB>,
    aggregate_types: &[&str],
) {
    for aggregate_type in aggregate_types {
        db.append(aggregate_type, ["a"]).await;
        patiently("it is handled", running.caught_up())
            .await
            .unwrap();
    }
    let report = running.stop().await;
    assert!(!report.has_failures(), "{report}");
}

async fn what_a_handler_sets_reaches_no_other_consumer(db: Database<Postgres>) {
    let query = "SELECT concat_ws(' ', current_setting('search_path'),
                                  current_setting('statement_timeout'),
                                  current_setting('app.tenant', true))";
    let change = "SET search_path = pg_temp; SET statement_timeout = '7s'; SET app.tenant = 'one'";
    let (setting, own) = asking("setting", query, change);
    let (other, others) = asking("other", query, "SELECT");
    take_turns(&db, setting, other).await;
    let (own, others) = (own.lock().unwrap(), others.lock().unwrap());
    assert_eq!((own.len(), others.len()), (20, 20));
    for answer in own.iter().chain(others.iter()) {
        assert_eq!(answer.trim_end(), "\"$user\", public 0");
    }
}

async fn a_role_that_a_handler_sets_reaches_no_other_consumer(db: Database<Postgres>) {
    db.execute(
        "CREATE ROLE other_tenant; GRANT ALL ON ALL TABLES IN SCHEMA public TO other_tenant",
    )
    .await;
    let query = "SELECT current_setting('role')";
    let (setting, own) = asking("setting", query, "SET ROLE other_tenant");
    let (other, others) = asking("other", query, "SELECT");
    take_turns(&db, setting, other).await;
    db.execute("DROP OWNED BY other_tenant; DROP ROLE other_tenant")
        .await;
    let (own, others) = (own.lock().unwrap(), others.lock().unwrap());
    assert_eq!((own.len(), others.len()), (20, 20));
    assert!(own.iter().chain(others.iter()).all(|role| role == "none"));
}

/// A store whose pool sets up each connection.
async fn with_after_connect(db: &Database<Postgres>, set: &'static str) -> EventStore<Postgres> {
    let options = PgPoolOptions::new().after_connect(move |connection: &mut PgConnection, _| {
        Box::pin(Postgres::execute_sql(connection, set))
    });
    EventStore::new(options.connect(&db.url).await.unwrap())
}

async fn what_a_new_connection_sets_lasts(db: Database<Postgres>) {
    db.execute("CREATE SCHEMA \"it's\"").await;
    let set = "SET search_path = \"it's\", public; SET statement_timeout = '55s'";
    let store = with_after_connect(&db, set).await;
    let query = "SELECT concat_ws(' ', current_setting('search_path'),
                                  current_setting('statement_timeout'))";
    let change = "SET search_path = public; RESET statement_timeout";
    let (setting, answers) = asking("setting", query, change);
    let setting = setting.settings(impatient().batch_size(1));
    db.append("User", ["a", "b", "c"]).await;
    let worker = Worker::builder(store).consumer(setting).build().unwrap();
    let report = patiently("it handles them", worker.run_once())
        .await
        .unwrap();
    let state = &report.consumer("setting").unwrap().state;
    assert_eq!(*state, ConsumerState::CaughtUp);
    assert_eq!(*answers.lock().unwrap(), ["\"it's\", public 55s"; 3]);
}

async fn what_a_new_connection_creates_lasts(db: Database<Postgres>) {
    let store = with_after_connect(&db, "CREATE TEMP TABLE mine (id INT); LISTEN mine").await;
    let query = "SELECT concat(to_regclass('pg_temp.mine'), ' ',
                               (SELECT string_agg(c, '') FROM pg_listening_channels() AS c))";
    let (asking, answers) = asking("asking", query, "SELECT");
    let asking = asking.settings(impatient().batch_size(1));
    db.append("User", ["a", "b", "c"]).await;
    let worker = Worker::builder(store).consumer(asking).build().unwrap();
    patiently("it handles them", worker.run_once())
        .await
        .unwrap();
    assert_eq!(*answers.lock().unwrap(), ["mine mine"; 3]);
}

async fn a_temporary_table_of_a_handler_hides_no_table(db: Database<Postgres>) {
    let query = "SELECT relpersistence::text FROM pg_class WHERE oid = 'applied'::regclass";
    let (setting, own) = asking("setting", query, "CREATE TEMP TABLE applied (id INT)");
    let (other, others) = asking("other", query, "SELECT");
    take_turns(&db, setting, other).await;
    let (own, others) = (own.lock().unwrap(), others.lock().unwrap());
    assert_eq!((own.len(), others.len()), (20, 20));
    assert!(own.iter().chain(others.iter()).all(|kind| kind == "p"));
}

async fn a_lock_that_a_handler_leaves_blocks_no_one(db: Database<Postgres>) {
    let (leaving, _) = asking("leaving", "SELECT ''", "SELECT pg_advisory_lock(7)");
    let running = Running::start(db.worker().consumer(leaving));
    db.append("User", ["a"]).await;
    patiently("it is handled", running.caught_up())
        .await
        .unwrap();
    // While the worker is idle.
    let is_free = "SELECT pg_try_advisory_lock(7)::int::bigint";
    assert_eq!(db.number(is_free).await, 1);
    running.stop().await;
}

/// With several events in a batch, the handler prepares it twice in one.
async fn a_statement_that_a_handler_prepares_fails_no_later_event(db: Database<Postgres>) {
    for (name, batch_size) in [("ones", 1), ("twos", 2)] {
        let (asking, answers) = asking(name, "SELECT ''", "PREPARE own AS SELECT 1");
        // An attempt that counts would stop it.
        let settings = impatient().batch_size(batch_size).retries(batch_size - 1);
        db.append("User", ["a", "b", "c", "d"]).await;
        let report = db.run_once(asking.settings(settings)).await;
        assert!(!report.has_failures(), "{report}");
        assert!(answers.lock().unwrap().len() >= 4);
    }
}

/// Those of sqlx on the connection are among them.
async fn a_handler_that_drops_all_prepared_statements_loses_nothing(db: Database<Postgres>) {
    let (asking, answers) = asking("asking", "SELECT ''", "DEALLOCATE ALL");
    db.append("User", ["a", "b", "c", "d"]).await;
    let report = db
        .run_once(asking.settings(impatient().batch_size(1)))
        .await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(answers.lock().unwrap().len(), 4);
}

async fn a_handler_without_tx_is_called_with_the_same_connection(db: Database<Postgres>) {
    let query = "SELECT pg_backend_pid()::text";
    let (asking, answers) = asking("asking", query, "SET app.tenant = 'one'");
    let running = Running::start(db.worker().consumer(asking.without_tx()));
    handle_one_by_one(&db, running, &["User"; 5]).await;
    let answers = answers.lock().unwrap();
    assert_eq!(answers.len(), 5);
    assert!(answers.iter().all(|pid| *pid == answers[0]), "{answers:?}");
}

/// Functions of another schema could then take the place of the server's own.
async fn a_search_path_before_the_catalogue_is_refused(db: Database<Postgres>) {
    let store = with_after_connect(&db, "SET search_path = public, pg_catalog").await;
    let (never, answers) = asking("never", "SELECT 'called'", "SELECT");
    db.append("User", ["a"]).await;
    let worker = Worker::builder(store).consumer(never).build().unwrap();
    let refused = patiently("it refuses", worker.run_once()).await;
    let refused = refused.expect_err("it must not run").to_string();
    assert!(refused.contains("search_path"), "{refused}");
    assert!(answers.lock().unwrap().is_empty());
}

/// Makes tables of the same names, which statements must not find, in a schema before their own.
async fn decoys(db: &Database<Postgres>) {
    let tables = "SELECT string_agg(format('CREATE TABLE decoy.%I (LIKE public.%I INCLUDING ALL)',
                                           tablename, tablename), '; ')
                    FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'applied'";
    let tables = db.texts(tables).await;
    db.execute(&format!("CREATE SCHEMA decoy; {}", tables[0]))
        .await;
}

/// A store whose new connections look into the decoys first, from a moment on.
fn with_decoys(db: &Database<Postgres>, is_hostile: &Arc<AtomicBool>) -> EventStore<Postgres> {
    let is_hostile = Arc::clone(is_hostile);
    let options = PgPoolOptions::new()
        // No connection is used twice.
        .after_release(|_, _| Box::pin(async { Ok(false) }))
        .after_connect(move |connection: &mut PgConnection, _| {
            let path = if is_hostile.load(Ordering::SeqCst) {
                "SET search_path = decoy, public"
            } else {
                "SET search_path = public"
            };
            Box::pin(Postgres::execute_sql(connection, path))
        });
    EventStore::new(options.connect_lazy(&db.url).unwrap())
}

/// Fails on the event of `bad` until it is repaired, and leaves a search path with the decoys.
fn straying(is_repaired: &Arc<AtomicBool>) -> TestConsumer<Postgres> {
    let is_repaired = Arc::clone(is_repaired);
    let settings = Settings::default().retries(0).on_error(OnError::Park);
    let straying = consumer("users", move |_, tx, event| {
        let fails = event.aggregate_id == "bad" && !is_repaired.load(Ordering::SeqCst);
        Box::pin(async move {
            Postgres::execute_sql(tx, "SET LOCAL search_path = decoy, public").await?;
            if fails {
                return Err("not repaired".into());
            }
            Ok(Postgres::apply(tx, "users", event).await?)
        })
    });
    straying.settings(settings)
}

/// The tables of the decoys that have a row.
async fn used_decoys(db: &Database<Postgres>) -> Vec<String> {
    let tables = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'decoy' ORDER BY 1";
    let mut used = Vec::new();
    for table in db.texts(tables).await {
        if db
            .number(&format!("SELECT count(*) FROM decoy.{table}"))
            .await
            > 0
        {
            used.push(table);
        }
    }
    used
}

async fn stop_at(db: &Database<Postgres>, position: i64) {
    let stop = "UPDATE consumer_progress SET state = 'stopped', failed_position =";
    db.execute(&format!("{stop} {position}")).await;
}

async fn every_command_finds_its_tables_under_a_hostile_search_path(db: Database<Postgres>) {
    let positions = db.append("User", ["a", "bad", "bad", "c"]).await;
    let is_repaired = Arc::new(AtomicBool::new(false));
    run_once(db.worker().consumer(straying(&is_repaired))).await;
    decoys(&db).await;
    is_repaired.store(true, Ordering::SeqCst);
    let is_hostile = Arc::new(AtomicBool::new(false));
    let builder = Worker::builder(with_decoys(&db, &is_hostile));
    let admin = builder.consumer(straying(&is_repaired)).admin().unwrap();
    assert!(admin.active_version("users").await.unwrap().is_some());
    is_hostile.store(true, Ordering::SeqCst);
    let status = admin.frontier().await.unwrap();
    assert_eq!(status.head, positions[3]);
    admin.pause("users").await.unwrap();
    admin.resume("users").await.unwrap();
    assert_eq!(admin.parked("users").await.unwrap().len(), 2);
    let (_, event) = admin.parked_event("users", positions[1]).await.unwrap();
    assert!(event.is_some(), "it reads the log");
    let retried = admin.retry_parked("users", None).await.unwrap();
    assert_eq!(
        (retried.handled, retried.failed.len()),
        (2, 0),
        "{retried:?}"
    );
    assert_eq!(db.parked("users").await, [0; 0]);
    let status = admin.status().await.unwrap();
    assert_eq!(status.consumers[0].position, Some(positions[3]));
    admin
        .activate("users", ActivateOptions::new())
        .await
        .unwrap();
    admin.accept_scope("users").await.unwrap();
    let rebuild = RebuildOptions::new().without_reset();
    let rebuilt = admin.rebuild("users", rebuild).await.unwrap();
    assert_eq!(rebuilt.replay_to, positions[3]);
    assert!(
        !admin
            .watch_rebuild("users")
            .await
            .unwrap()
            .look()
            .await
            .unwrap()
            .is_done
    );
    assert_eq!(db.checkpoint("users").await, Some(0));
    stop_at(&db, positions[0]).await;
    admin.park("users", positions[0]).await.unwrap();
    admin.skip_parked("users", positions[0]).await.unwrap();
    stop_at(&db, positions[1]).await;
    admin.skip("users", positions[1]).await.unwrap();
    assert_eq!(admin.merge_segments("users", 1).await.unwrap(), 1);
    admin
        .forget("users", ForgetOptions::new().force())
        .await
        .unwrap();
    assert_eq!(db.checkpoint("users").await, None);
    assert_eq!(used_decoys(&db).await, [""; 0]);
}

async fn a_worker_finds_its_tables_under_a_hostile_search_path(db: Database<Postgres>) {
    let mut positions = db.append("User", ["a", "b", "c"]).await;
    decoys(&db).await;
    let is_hostile = Arc::new(AtomicBool::new(false));
    let worker = Worker::builder(with_decoys(&db, &is_hostile));
    let running = Running::start(worker.consumer(straying(&Arc::new(AtomicBool::new(true)))));
    patiently("it handles them", running.caught_up())
        .await
        .unwrap();
    is_hostile.store(true, Ordering::SeqCst);
    db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .await;
    positions.extend(db.append("User", ["d", "e"]).await);
    patiently("it handles the others", running.caught_up())
        .await
        .unwrap();
    assert_eq!(db.applied("users").await, positions);
    running.stop().await;
    assert_eq!(db.checkpoint("users").await, positions.last().copied());
    assert_eq!(used_decoys(&db).await, [""; 0]);
}

/// What a handler can do to its connection that outlasts a transaction, and a query that tells.
trait Changes: TestDatabase {
    /// In the transaction of a worker.
    const WITHIN: &'static [(&'static str, &'static str)];
    /// Only outside of one.
    const OUTSIDE: &'static [(&'static str, &'static str)];
}

impl Changes for Sqlite {
    const WITHIN: &'static [(&'static str, &'static str)] = &[
        (
            "PRAGMA recursive_triggers = ON",
            "SELECT CAST(recursive_triggers AS TEXT) FROM pragma_recursive_triggers",
        ),
        (
            "PRAGMA ignore_check_constraints = ON",
            "SELECT CAST(ignore_check_constraints AS TEXT) FROM pragma_ignore_check_constraints",
        ),
        (
            "PRAGMA reverse_unordered_selects = ON",
            "SELECT CAST(reverse_unordered_selects AS TEXT) FROM pragma_reverse_unordered_selects",
        ),
        (
            "PRAGMA busy_timeout = 1",
            "SELECT CAST(timeout AS TEXT) FROM pragma_busy_timeout",
        ),
        (
            "PRAGMA case_sensitive_like = ON",
            "SELECT CAST('a' LIKE 'A' AS TEXT)",
        ),
        (
            "CREATE TEMP TABLE applied (id INTEGER)",
            "SELECT CAST(count(*) AS TEXT) FROM temp.sqlite_schema",
        ),
        (
            "ATTACH ':memory:' AS other",
            "SELECT CAST(count(*) AS TEXT) FROM pragma_database_list WHERE name = 'other'",
        ),
    ];
    const OUTSIDE: &'static [(&'static str, &'static str)] = &[
        (
            "PRAGMA foreign_keys = OFF",
            "SELECT CAST(foreign_keys AS TEXT) FROM pragma_foreign_keys",
        ),
        (
            "PRAGMA synchronous = OFF",
            "SELECT CAST(synchronous AS TEXT) FROM pragma_synchronous",
        ),
    ];
}

impl Changes for Postgres {
    const WITHIN: &'static [(&'static str, &'static str)] = &[
        (
            "SET statement_timeout = '7s'",
            "SELECT current_setting('statement_timeout')",
        ),
        (
            "SET search_path = pg_temp",
            "SELECT current_setting('search_path')",
        ),
        (
            "CREATE TEMP TABLE applied (id INT)",
            "SELECT count(*)::text FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
        ),
        (
            "SELECT pg_advisory_lock(7)",
            "SELECT count(*)::text FROM pg_locks
              WHERE locktype = 'advisory' AND objid = 7 AND pid = pg_backend_pid()",
        ),
    ];
    const OUTSIDE: &'static [(&'static str, &'static str)] = &[
        (
            "BEGIN; SELECT 1",
            "SELECT (now() = statement_timestamp())::text",
        ),
        (
            "LISTEN other",
            "SELECT count(*)::text FROM pg_listening_channels()",
        ),
    ];
}

/// Lets a handler of that kind handle two events in two batches of one worker, and checks that neither
/// sees a change.
async fn check_change<DB: TestDatabase>(
    db: &Database<DB>,
    (change, query): (&'static str, &'static str),
    make: impl FnOnce(TestConsumer<DB>) -> TestConsumer<DB>,
) {
    let before = db.texts(query).await;
    let answers: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
    let seen = Arc::clone(&answers);
    let changing = consumer::<DB, _>("changing", move |_, tx, _| {
        let seen = Arc::clone(&seen);
        Box::pin(async move {
            let answer = DB::texts(&mut *tx, query).await?;
            seen.lock().unwrap().push(answer);
            DB::execute_sql(&mut *tx, change).await?;
            // The control: it would be seen here.
            let after = DB::texts(tx, query).await?;
            seen.lock().unwrap().push(after);
            Ok(())
        })
    });
    // Within a batch, events see what earlier ones changed.
    let changing = make(changing.settings(impatient().batch_size(1)));
    let running = Running::start(db.worker().consumer(changing));
    for _ in 0..2 {
        db.append("User", ["a"]).await;
        patiently("it is handled", running.caught_up())
            .await
            .unwrap();
    }
    let report = running.stop().await;
    assert!(!report.has_failures(), "{change}: {report}");
    db.execute("DELETE FROM consumer_progress").await;
    let answers = std::mem::take(&mut *answers.lock().unwrap());
    assert!(answers.len() >= 4, "{change}: {answers:?}");
    for called in answers.chunks(2) {
        assert_eq!(called[0], before, "{change}");
        assert_ne!(called[1], before, "{change}");
    }
}

async fn what_a_handler_changes_reaches_no_other_batch<DB: Changes>(db: Database<DB>) {
    for change in DB::WITHIN {
        check_change(&db, *change, |changing| changing).await;
    }
}

async fn what_a_handler_without_tx_changes_stays_out_of_the_pool<DB: Changes>(db: Database<DB>) {
    for change in DB::WITHIN.iter().chain(DB::OUTSIDE) {
        let before = db.texts(change.1).await;
        check_change(&db, *change, TestConsumer::without_tx).await;
        for mut connection in idle(&db).await {
            let after = DB::texts(&mut connection, change.1).await.unwrap();
            assert_eq!(after, before, "{change:?}");
        }
    }
}

/// All connections that are idle in the pool.
async fn idle<DB: TestDatabase>(db: &Database<DB>) -> Vec<PoolConnection<DB>> {
    let mut connections = vec![db.pool.acquire().await.unwrap()];
    while let Some(connection) = db.pool.try_acquire() {
        connections.push(connection);
    }
    connections
}

async fn a_connection_that_a_handler_made_read_only_fails_its_event(db: Database<Sqlite>) {
    db.append("User", ["a"]).await;
    let c = consumer("c", |_, tx, _| {
        Box::pin(async move { Ok(Sqlite::execute_sql(tx, "PRAGMA query_only = ON").await?) })
    });
    let report = db.run_once(c.settings(impatient().retries(1))).await;
    let ConsumerState::Stopped { position, error } = &report.consumer("c").unwrap().state else {
        panic!("{report}");
    };
    assert_eq!(*position, Some(1));
    assert!(error.contains("`PRAGMA query_only`"), "{error}");
}

#[derive(ReadModel)]
#[read_model(table = "counters")]
struct Counter {
    #[read_model(key)]
    id: String,
    count: i64,
}

/// Counts the events of each aggregate.
fn counting() -> Folding<Counter> {
    folding(
        "counters",
        |_, event, keys| keys.add_aggregate(event),
        |_, event, rows| {
            let id = event.aggregate_id.clone();
            let row = rows.row(&id)?;
            row.get_or_insert(Counter { id, count: 0 }).count += 1;
            Ok(())
        },
    )
}

/// A trigger that records, in a table `seen`, the session in which a fold writes a row.
trait Traced: TestDatabase {
    const CHANGE: &'static str;
    const TRACE: &'static str;
    /// Everything that the trigger may record.
    const SEEN: &'static [&'static str];
}

impl Traced for Sqlite {
    const CHANGE: &'static str = "PRAGMA case_sensitive_like = ON";
    const TRACE: &'static str = "
        CREATE TABLE seen (what TEXT);
        CREATE TRIGGER trace AFTER UPDATE ON counters_v1
        BEGIN INSERT INTO seen VALUES ('a' LIKE 'A'); END";
    const SEEN: &'static [&'static str] = &["1"];
}

impl Traced for Postgres {
    const CHANGE: &'static str = "SET app.tenant = 'one'";
    const TRACE: &'static str = "
        CREATE TABLE seen (what TEXT);
        CREATE FUNCTION trace() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO seen
            SELECT concat(current_setting('app.tenant', true),
                          (SELECT count(*) FROM pg_cursors
                            WHERE name = 'consumer_guard' AND creation_time >= now()));
            RETURN NULL;
        END $$;
        CREATE TRIGGER trace AFTER UPDATE ON counters_v1 EXECUTE FUNCTION trace()";
    /// No tenant in either case. The number of guards is 0 in a session that only folds have used, and 1 in
    /// the batch after a handler's.
    const SEEN: &'static [&'static str] = &["0", "1"];
}

async fn what_a_handler_changes_reaches_no_fold<DB: Traced>(db: Database<DB>) {
    let positions = db.append("Counter", ["a"]).await;
    let changing = consumer::<DB, _>("changing", |_, tx, _| {
        Box::pin(async move { Ok(DB::execute_sql(tx, DB::CHANGE).await?) })
    });
    let builder = db.worker().consumer(counting());
    let running = Running::start(builder.scoped_consumer(changing.scope(&["Setting"])));
    patiently("it creates the row", running.caught_up_to(positions[0]))
        .await
        .unwrap();
    db.execute(DB::TRACE).await;
    let turns = ["Setting", "Counter", "Counter"].repeat(10);
    handle_one_by_one(&db, running, &turns).await;
    let seen = "SELECT DISTINCT what FROM seen ORDER BY what";
    assert_eq!(db.texts(seen).await, DB::SEEN);
    assert!(db.number("SELECT count(*) FROM seen").await >= 20);
}
