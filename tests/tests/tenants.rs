//! One schema of Postgres for each tenant, and one worker for each schema in one process.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use consumer::admin::{Admin, RebuildOptions, Target};
use consumer::prelude::*;
use consumer::{OnError, PgEventStore, ReadModel, Schema, Settings, Worker};
use consumer_tests::{
    Database, Running, TestConsumer, TestDatabase, consumer, impatient, patiently, run_once,
    test_on,
};
use sqlx::{Postgres, Row as _};
use tokio::sync::Semaphore;

test_on!(
    [postgres, through_a_pooler],
    each_tenants_handlers_write_their_own_tables,
    what_a_handler_sets_does_not_change_the_next_ones_schema,
    a_schema_in_the_search_path_reaches_no_other_consumer,
    no_tenant_waits_for_the_consumer_of_another
);

/// The names of schemas are quoted wherever they appear.
const TENANTS: [&str; 2] = ["acme", "Söhne & Co"];

/// The schema of each tenant, over the same pool.
async fn tenants(db: &Database<Postgres>) -> Vec<Database<Postgres>> {
    db.execute("CREATE TABLE shared (tenant_table TEXT NOT NULL)")
        .await;
    let mut tenants = Vec::new();
    for tenant in TENANTS {
        let schema = Schema::default().database_schema(tenant).in_search_path();
        let store = db.store.clone().with_schema(schema).unwrap();
        store.migrate().await.unwrap();
        db.execute(&format!(
            "CREATE TABLE \"{tenant}\".users (id TEXT NOT NULL, log TEXT NOT NULL)"
        ))
        .await;
        tenants.push(Database::of(store, &db.url));
    }
    tenants
}

fn registered(id: &str) -> NewEvent {
    NewEvent::new("User", id, "Registered", "{}")
}

/// Writes each user into the table that an unqualified name finds.
fn users(name: &str) -> TestConsumer<Postgres> {
    consumer(name, |cx, tx, event| {
        let (id, log) = (event.aggregate_id.clone(), cx.log().to_owned());
        Box::pin(async move {
            let insert = "INSERT INTO users VALUES ($1, $2)";
            sqlx::query(insert)
                .bind(id)
                .bind(log)
                .persistent(false)
                .execute(&mut *tx)
                .await?;
            let shared = "INSERT INTO shared VALUES ('users')";
            sqlx::query(shared).persistent(false).execute(tx).await?;
            Ok(())
        })
    })
}

/// The users in a tenant's table, with the log that their handler was told.
async fn written(db: &Database<Postgres>, tenant: &str) -> Vec<String> {
    db.texts(&format!(
        "SELECT id || ' of ' || log FROM \"{tenant}\".users ORDER BY id"
    ))
    .await
}

async fn each_tenants_handlers_write_their_own_tables(db: Database<Postgres>) {
    let tenants = tenants(&db).await;
    let start = |tenant: &Database<Postgres>| {
        let worker = Worker::builder(tenant.store.clone());
        Running::start(worker.consumer(users("users")))
    };
    let workers: Vec<Running<Postgres>> = tenants.iter().map(start).collect();
    for (tenant, name) in tenants.iter().zip(TENANTS) {
        let ids = (0..5).map(|n| format!("{name}-{n}"));
        tenant.append("User", ids).await;
    }
    for worker in &workers {
        patiently("it catches up", worker.caught_up())
            .await
            .unwrap();
    }
    for worker in workers {
        let report = worker.stop().await;
        assert!(!report.has_failures(), "{report}");
    }
    for tenant in TENANTS {
        let expected: Vec<String> = (0..5)
            .map(|n| format!("{tenant}-{n} of {tenant}.events"))
            .collect();
        assert_eq!(written(&db, tenant).await, expected);
    }
    // What a tenant's schema lacks is found in the schemas of the connection.
    assert_eq!(db.number("SELECT count(*) FROM shared").await, 10);
}

async fn what_a_handler_sets_does_not_change_the_next_ones_schema(db: Database<Postgres>) {
    let tenants = tenants(&db).await;
    let paths: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&paths);
    let setting = consumer("setting", move |_, tx: &mut sqlx::PgConnection, _| {
        let seen = Arc::clone(&seen);
        Box::pin(async move {
            let path = sqlx::raw_sql("SHOW search_path")
                .fetch_one(&mut *tx)
                .await?
                .try_get(0)?;
            seen.lock().unwrap().push(path);
            Ok(Postgres::execute_sql(tx, "SET search_path = pg_temp").await?)
        })
    });
    tenants[1].append("User", ["u-0", "u-1", "u-2"]).await;
    let setting = setting.settings(Settings::default().batch_size(1));
    let report = run_once(Worker::builder(tenants[1].store.clone()).consumer(setting)).await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(*paths.lock().unwrap(), ["\"Söhne & Co\", public"; 3]);
}

async fn no_tenant_waits_for_the_consumer_of_another(db: Database<Postgres>) {
    let tenants = tenants(&db).await;
    let [first, second] = &tenants[..] else {
        panic!("two tenants")
    };
    for tenant in &tenants {
        tenant.append("User", ["ada"]).await;
    }
    let (entered, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let signals = (Arc::clone(&entered), Arc::clone(&gate));
    let slow = consumer("users", move |_, _, _| {
        let (entered, gate) = signals.clone();
        Box::pin(async move {
            entered.add_permits(1);
            Ok(gate.acquire().await.map(drop)?)
        })
    });
    let running = Running::start(Worker::builder(first.store.clone()).consumer(slow));
    patiently("its handler is called", entered.acquire())
        .await
        .unwrap()
        .forget();
    let worker = || Worker::builder(second.store.clone());
    run_once(worker().consumer(users("users"))).await;
    // Of two versions, the first to handle an event needs the precedence.
    let both = [1, 2].map(|version| consumer::Registered::new(users("users")).version(version));
    second.append("User", ["bob"]).await;
    let both = both
        .into_iter()
        .fold(worker(), consumer::WorkerBuilder::registered);
    patiently("both versions handle it", run_once(both)).await;
    let admin = Admin::new(second.store.clone());
    let rebuild = RebuildOptions::new().without_reset();
    admin
        .rebuild(Target::new("users").version(1), rebuild)
        .await
        .expect("no batch is in progress");
    gate.add_permits(1);
    running.stop().await;
}

async fn a_schema_in_the_search_path_reaches_no_other_consumer(db: Database<Postgres>) {
    let tenants = tenants(&db).await;
    tenants[0].append("User", ["u-1"]).await;
    run_once(Worker::builder(tenants[0].store.clone()).consumer(users("users"))).await;
    // Neither a worker on the same pool that did not ask for it, nor the pool's other users.
    let path: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&path);
    let asking = consumer("asking", move |_, tx: &mut sqlx::PgConnection, _| {
        let seen = Arc::clone(&seen);
        Box::pin(async move {
            let path = sqlx::raw_sql("SHOW search_path")
                .fetch_one(tx)
                .await?
                .try_get(0)?;
            seen.lock().unwrap().push(path);
            Ok(())
        })
    });
    let schema = Schema::default().database_schema(TENANTS[0]);
    let store = db.store.clone().with_schema(schema).unwrap();
    run_once(Worker::builder(store).consumer(asking)).await;
    assert_eq!(*path.lock().unwrap(), ["\"$user\", public"]);
    for _ in 0..20 {
        assert_eq!(db.texts("SHOW search_path").await, ["\"$user\", public"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_that_is_named_last_still_comes_first() {
    let db = Database::<Postgres>::fresh().await;
    let tenants = tenants(&db).await;
    db.execute("CREATE FUNCTION acme.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT NULL::timestamptz $$")
        .await;
    let pool =
        sqlx::postgres::PgPoolOptions::new().after_connect(|conn: &mut sqlx::PgConnection, _| {
            Box::pin(Postgres::execute_sql(
                conn,
                "SET search_path = pg_catalog, public",
            ))
        });
    let store = PgEventStore::new(pool.connect(&db.url).await.unwrap());
    let schema = tenants[0].store.schema().clone();
    let tenant = Database::of(store.with_schema(schema).unwrap(), &db.url);
    tenant.append("User", ["u-1"]).await;
    let now = consumer("now", |_, tx: &mut sqlx::PgConnection, _| {
        Box::pin(async move {
            let is_null: bool = sqlx::raw_sql("SELECT now() IS NULL")
                .fetch_one(tx)
                .await?
                .try_get(0)?;
            if is_null {
                Err("another function".into())
            } else {
                Ok(())
            }
        })
    });
    let report = run_once(Worker::builder(tenant.store).consumer(now)).await;
    assert!(!report.has_failures(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_path_without_a_schema_is_refused() {
    let db = Database::<Postgres>::empty().await;
    let schema = Schema::default().in_search_path();
    let error = db.store.clone().with_schema(schema).unwrap_err();
    assert!(error.to_string().contains("`database_schema`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_call_handlers_do_so_in_the_tenants_schema() {
    let db = Database::<Postgres>::fresh().await;
    let tenant = tenants(&db).await.remove(1);
    tenant.append("User", ["u-1"]).await;
    let worker = || Worker::builder(tenant.store.clone());
    let failing = consumer("users", |_, _: &mut sqlx::PgConnection, _| {
        Box::pin(async { Err("as told".into()) })
    });
    let settings = impatient().retries(0).on_error(OnError::Park);
    run_once(worker().consumer(failing.settings(settings))).await;
    let admin: Admin<Postgres> = worker().consumer(users("users")).admin().unwrap();
    assert_eq!(admin.status().await.unwrap().log, "Söhne & Co.events");
    let retried = admin.retry_parked("users", None).await.unwrap();
    assert_eq!(
        written(&db, TENANTS[1]).await,
        ["u-1 of Söhne & Co.events"],
        "{retried:?}"
    );
}

/// Empties the table that an unqualified name finds.
#[derive(Default)]
struct Names;

#[consumer(name = "names", aggregates = ["User"])]
impl Names {
    async fn handle(
        &self,
        cx: &Context,
        tx: &mut PgConnection,
        event: &PersistedEvent,
    ) -> Result<(), sqlx::Error> {
        let insert = sqlx::query("INSERT INTO users VALUES ($1, $2)").persistent(false);
        insert
            .bind(&event.aggregate_id)
            .bind(cx.log())
            .execute(tx)
            .await?;
        Ok(())
    }

    #[on(reset)]
    async fn reset(&self, tx: &mut PgConnection) -> Result<(), sqlx::Error> {
        let delete = sqlx::query("DELETE FROM users").persistent(false);
        delete.execute(tx).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_resets_the_table_in_the_tenants_schema() {
    let db = Database::<Postgres>::fresh().await;
    let tenants = tenants(&db).await;
    // The one that a session finds by itself.
    db.execute("CREATE TABLE public.users AS SELECT 'of no tenant' AS id, '-' AS log")
        .await;
    for (tenant, name) in tenants.iter().zip(TENANTS) {
        tenant.append("User", [format!("{name}-1")]).await;
        run_once(Worker::builder(tenant.store.clone()).consumer(Names)).await;
        // What a reset in this schema removes.
        db.execute(&format!(
            "INSERT INTO \"{name}\".users VALUES ('stale', '{name}')"
        ))
        .await;
    }
    let worker = || Worker::builder(tenants[1].store.clone()).consumer(Names);
    let admin = worker().admin().unwrap();
    admin.rebuild("names", RebuildOptions::new()).await.unwrap();
    assert_eq!(written(&db, TENANTS[1]).await, [] as [String; 0]);
    run_once(worker()).await;

    let rebuilt = format!("{0}-1 of {0}.events", TENANTS[1]);
    assert_eq!(written(&db, TENANTS[1]).await, [rebuilt]);
    let untouched = ["acme-1 of acme.events", "stale of acme"];
    assert_eq!(written(&db, TENANTS[0]).await, untouched);
    assert_eq!(written(&db, "public").await, ["of no tenant of -"]);
}

#[derive(Debug, ReadModel)]
#[read_model(table = "accounts")]
struct Account {
    #[read_model(key)]
    id: String,
    log: String,
}

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(aggregate = "User")]
struct Registered {}

#[derive(Default)]
struct Accounts;

#[consumer(name = "accounts", aggregates = ["User"], read_model = Account)]
impl Accounts {
    #[on]
    fn registered(&self, cx: &Context, event: Envelope<'_, Registered>) -> Account {
        Account {
            id: event.aggregate_id.clone(),
            log: cx.log().to_owned(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tenant_has_the_tables_of_read_models_in_its_schema() {
    let db = Database::<Postgres>::fresh().await;
    for tenant in tenants(&db).await {
        tenant.append_event(registered("u-1")).await;
        let report = run_once(Worker::builder(tenant.store).consumer(Accounts)).await;
        assert!(!report.has_failures(), "{report}");
    }
    for tenant in TENANTS {
        let rows = db
            .texts(&format!(
                "SELECT id || ' of ' || log FROM \"{tenant}\".accounts"
            ))
            .await;
        assert_eq!(rows, [format!("u-1 of {tenant}.events")]);
    }
    assert_eq!(
        db.number("SELECT count(*) FROM pg_class WHERE relname = 'accounts_v1'")
            .await,
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tenant_reads_the_rows_of_its_own_schema() {
    let db = Database::<Postgres>::fresh().await;
    let mut tenants = tenants(&db).await;
    // The one that a session finds by itself.
    tenants.push(db);
    let id = "u-1";
    let mut positions = Vec::new();
    for tenant in &tenants {
        positions.push(tenant.append_event(registered(id)).await);
        run_once(Worker::builder(tenant.store.clone()).consumer(Accounts)).await;
    }
    let logs = ["acme.events", "Söhne & Co.events", "events"];
    for ((tenant, position), log) in tenants.iter().zip(positions).zip(logs) {
        let store = &tenant.store;
        let found = store.find::<Account>(id).await.unwrap();
        assert_eq!(found.map(|row| row.log).as_deref(), Some(log));
        let found = store.find_as_of::<Account>(id, position, Duration::from_mins(1));
        let found = found.await.unwrap();
        assert_eq!(found.map(|row| row.log).as_deref(), Some(log));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_script_creates_tables_in_the_tenants_schema() {
    let db = Database::<Postgres>::fresh().await;
    let relations = "SELECT relnamespace::regnamespace || '.' || relname FROM pg_class
                      WHERE relname LIKE 'accounts%' AND relkind IN ('r', 'v') ORDER BY 1";
    let expected = ["acme.accounts", "acme.accounts_v1"];
    let tenant = tenants(&db).await.remove(0);
    let worker = || Worker::builder(tenant.store.clone()).consumer(Accounts);
    let admin = worker().admin();
    db.execute(&admin.unwrap().migration_sql()).await;
    assert_eq!(db.texts(relations).await, expected);
    tenant.append_event(registered("u-1")).await;
    run_once(worker()).await;
    assert_eq!(db.texts(relations).await, expected);
}
