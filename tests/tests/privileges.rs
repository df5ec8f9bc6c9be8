//! Roles on Postgres that may do what the guide lists, less than that, and at times nothing.

use std::time::Duration;

use consumer::admin::{ActivateOptions, Admin, AdminError, ForgetOptions, RebuildOptions};
use consumer::{
    Access, ConsumerState, EventStore, ExpectedVersion, NewEvent, OnError, PgEventStore,
    Registered, Report, Schema, Settings, StartFrom, StoreError, Worker, WorkerError,
};
use consumer_tests::{
    Database, Running, TestConsumer, TestDatabase, TestPostgres, impatient, judging, patiently,
    read_model, run_once, until,
};
use sqlx::Postgres;

const GUIDE: &str = include_str!("../../consumer/src/guide/deploying.md");

/// The statements that the guide lists for a use, for another role.
fn grants(access: Access, role: &str) -> Vec<String> {
    let (_, after) = GUIDE
        .split_once(&format!("(crate::Access::{access:?})"))
        .unwrap();
    let (_, after) = after.split_once("```sql\n").unwrap();
    let (list, _) = after.split_once("\n```").unwrap();
    let statement = |line: &str| {
        let (grant, _) = line.rsplit_once(" TO ").unwrap();
        format!("{grant} TO {role}")
    };
    list.lines().map(statement).collect()
}

/// A new role, and the database as it sees it.
struct Role {
    name: String,
    db: Database<Postgres>,
}

impl Role {
    async fn new(db: &Database<Postgres>) -> Self {
        let name = format!("role_{}", fastrand::u64(..));
        db.execute(&format!(
            "CREATE ROLE {name} LOGIN; GRANT ALL ON applied, applied_ordinal_seq TO {name}"
        ))
        .await;
        let url = db.url.replace("postgres@", &format!("{name}@"));
        let store = PgEventStore::connect(&url).await.unwrap();
        let store = store.with_schema(db.store.schema().clone()).unwrap();
        Self {
            name,
            db: Database::of(store, &url),
        }
    }

    /// One with the privileges of the guide.
    async fn with(db: &Database<Postgres>, access: Access) -> Self {
        let role = Self::new(db).await;
        db.execute(&grants(access, &role.name).join("; ")).await;
        role
    }

    fn admin(&self) -> Admin<Postgres> {
        Admin::new(self.db.store.clone())
    }
}

/// What a role lacks, as statements.
fn missing(error: StoreError) -> Vec<String> {
    match error {
        StoreError::MissingPrivileges { statements, .. } => statements,
        other => panic!("{other:?}"),
    }
}

/// A consumer that fails on the events of one aggregate.
fn fails_on(name: &str, id: &'static str, on_error: OnError) -> TestConsumer<Postgres> {
    let settings = impatient().retries(0).on_error(on_error);
    judging(name, move |_, event| {
        if event.aggregate_id == id {
            Err("as told".to_owned())
        } else {
            Ok(())
        }
    })
    .settings(settings)
}

fn second_version() -> Registered<Postgres> {
    Registered::scoped(read_model("versions").scope(&["User"])).version(2)
}

fn assert_well(report: &Report) {
    assert!(!report.has_failures(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_lists_exactly_what_a_new_role_lacks() {
    let db = Database::<Postgres>::fresh().await;
    for access in [
        Access::Append,
        Access::Observe,
        Access::Work,
        Access::Operate,
    ] {
        let role = Role::new(&db).await;
        let error = role.db.store.check_access(access).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("role `{}` lacks privileges to ", role.name)),
            "{text}"
        );
        assert_eq!(missing(error), grants(access, &role.name), "{access:?}");
        db.execute(&grants(access, &role.name).join("; ")).await;
        role.db.store.check_access(access).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_append_appends_and_reads() {
    let db = Database::<Postgres>::fresh().await;
    let Role { db: role, .. } = Role::with(&db, Access::Append).await;
    role.store.migrate().await.unwrap();
    role.store.check().await.unwrap();
    role.append_many(3).await;
    let event = [NewEvent::new("User", "u-1", "Changed", "{}")];
    let conflict = role.store.append(ExpectedVersion::NoStream, &event).await;
    assert!(matches!(
        conflict,
        Err(StoreError::Conflict {
            actual: Some(3),
            ..
        })
    ));
    let notifying = role.store.clone().notify(true);
    notifying
        .append(ExpectedVersion::Exact(3), &event)
        .await
        .unwrap();
    let mut connection = role.pool.acquire().await.unwrap();
    assert_eq!(
        role.store
            .read_events(&mut connection, 0, 9)
            .await
            .unwrap()
            .len(),
        4
    );
    assert_eq!(
        role.store
            .latest_global_position(&mut connection)
            .await
            .unwrap(),
        4
    );
    let history = role
        .store
        .read_aggregate(&mut connection, "User", "u-1", None, None);
    assert_eq!(history.await.unwrap().len(), 4);
    drop(connection);
    let error = role
        .worker()
        .consumer(read_model("users"))
        .build()
        .unwrap()
        .run_once()
        .await;
    let Err(WorkerError::Store(error)) = error else {
        panic!("{error:?}")
    };
    assert!(
        missing(error)
            .iter()
            .any(|grant| grant.contains("consumer_progress"))
    );
}

/// Runs consumers of every kind, which are enrolled, split, merged and parked, twice.
async fn work(role: &Database<Postgres>) {
    for _ in 0..2 {
        let segments = Settings::default().segments(4);
        let now = Settings::default().start_from(StartFrom::Now);
        let worker = role
            .worker()
            .advance_interval(Duration::from_millis(20))
            .scoped_consumer(fails_on("parks", "u-3", OnError::Park).scope(&["User"]))
            .scoped_consumer(fails_on("skips", "u-3", OnError::Skip).scope(&["User"]))
            .scoped_consumer(read_model("segments").settings(segments).scope(&["User"]))
            .scoped_consumer(read_model("idle").scope(&["Order"]))
            .scoped_consumer(read_model("now").settings(now).scope(&["User"]))
            .scoped_consumer(read_model("versions").scope(&["User"]));
        run_once(worker).await;
        let worker = role.worker().registered(second_version());
        assert_well(&run_once(worker).await);
    }
    assert_eq!(role.applied("idle").await, Vec::<i64>::new());
    assert_eq!(role.parked("parks").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_runs_with_exactly_the_privileges_of_the_guide() {
    let db = Database::<Postgres>::fresh().await;
    let ids: Vec<String> = (0..20).map(|number| format!("u-{number}")).collect();
    for _ in 0..3 {
        db.append("User", &ids).await;
    }
    // Enough for the frontier to be saved, and for no consumer.
    let audit = |_| NewEvent::new("Audit", "a-1", "Noted", "{}");
    let notes: Vec<NewEvent> = (0..1000).map(audit).collect();
    db.append_events(&notes).await;
    let Role { db: role, .. } = Role::with(&db, Access::Work).await;
    role.store.migrate().await.unwrap();
    work(&role).await;
    assert!(db.number("SELECT settled FROM consumer_frontier").await >= 1000);
    // Claims, splits and merges do not wait for one that runs.
    let settings = Settings::default().segments(2);
    let segments = read_model("segments").settings(settings).scope(&["User"]);
    let running = Running::start(role.worker().scoped_consumer(segments));
    consumer::merge_segments(&role.store, "segments", 1, 2)
        .await
        .unwrap();
    let last = db.append_one("User", "u-1").await;
    patiently("it handles the next", running.caught_up_to(last))
        .await
        .unwrap();
    running.stop().await;
    assert_eq!(db.applied("segments").await.len(), 3 * ids.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_sees_all_and_changes_nothing() {
    let db = Database::<Postgres>::fresh().await;
    db.append("User", ["u-1", "u-3", "u-3"]).await;
    run_once(
        db.worker()
            .consumer(fails_on("parks", "u-3", OnError::Park)),
    )
    .await;
    let role = Role::with(&db, Access::Observe).await;
    let admin = role.admin();
    let status = admin.status().await.unwrap();
    assert_eq!(status.consumers.len(), 1);
    assert_eq!(admin.frontier().await.unwrap().settled, 3);
    assert_eq!(admin.parked("parks").await.unwrap().len(), 2);
    admin.parked_event("parks", 2).await.unwrap();
    assert_eq!(admin.active_version("parks").await.unwrap(), Some(1));
    match admin.pause("parks").await {
        Err(AdminError::Store(error)) => assert_eq!(
            missing(error).first().unwrap(),
            &format!(
                "GRANT INSERT, UPDATE, DELETE ON TABLE consumer_progress TO {}",
                role.name
            ),
        ),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_runs_every_command() {
    let db = Database::<Postgres>::fresh().await;
    db.append("User", ["u-1", "u-3", "u-3", "u-4"]).await;
    run_once(
        db.worker()
            .consumer(fails_on("parks", "u-3", OnError::Park)),
    )
    .await;
    run_once(
        db.worker()
            .consumer(fails_on("stops", "u-3", OnError::Stop)),
    )
    .await;
    let segments = Settings::default().segments(4);
    run_once(
        db.worker()
            .consumer(read_model("segments").settings(segments)),
    )
    .await;
    run_once(db.worker().consumer(read_model("versions"))).await;
    run_once(db.worker().registered(second_version())).await;

    let role = Role::with(&db, Access::Operate).await;
    let admin = role
        .db
        .worker()
        .scoped_consumer(read_model("parks").scope(&["User"]))
        .consumer(read_model("new"))
        .consumer(read_model("segments"))
        .registered(second_version())
        .admin()
        .unwrap();
    admin.status().await.unwrap();
    admin.pause("new").await.unwrap();
    admin.resume("new").await.unwrap();
    admin.retry_parked("parks", Some(2)).await.unwrap();
    admin.accept_scope("parks").await.unwrap();
    admin.park("stops", 2).await.unwrap();
    admin.skip_parked("stops", 2).await.unwrap();
    admin
        .rebuild(
            "parks",
            RebuildOptions::new().without_reset().discard_parked(),
        )
        .await
        .unwrap();
    patiently("they are merged", admin.merge_segments("segments", 2))
        .await
        .unwrap();
    let second = consumer::admin::Target::new("versions").version(2);
    admin
        .activate(second, ActivateOptions::new())
        .await
        .unwrap();
    let first = consumer::admin::Target::new("versions").version(1);
    admin
        .forget(first, ForgetOptions::new().force())
        .await
        .unwrap();
    admin.frontier().await.unwrap();
    assert_eq!(admin.active_version("versions").await.unwrap(), Some(2));
    admin.rename("versions", "renamed").await.unwrap();
    admin.rename("renamed", "versions").await.unwrap();
    let renamed = consumer::admin::Target::new("renamed");
    admin.start_new(renamed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_usage_of_the_schema_is_named_too() {
    let database = TestPostgres::shared().await.database().await;
    let db = Database::<Postgres>::of(EventStore::new(database.pool.clone()), &database.url);
    db.execute(Postgres::CREATE_READ_MODEL).await;
    for schema in [
        Schema::default()
            .database_schema("Ver kauf")
            .events("event log")
            .sequence("event log_global_position_seq"),
        Schema::default(),
    ] {
        let name = schema.clone();
        let store = db.store.clone().with_schema(schema).unwrap();
        db.execute(
            "CREATE SCHEMA IF NOT EXISTS \"Ver kauf\"; REVOKE ALL ON SCHEMA public FROM PUBLIC",
        )
        .await;
        store.migrate().await.unwrap();
        let owner = Database::of(store, &db.url);
        let role = Role::new(&owner).await;
        let error = role.db.store.check_access(Access::Work).await.unwrap_err();
        let statements = missing(error);
        let usage = &statements[0];
        assert!(usage.starts_with("GRANT USAGE ON SCHEMA "), "{usage}");
        assert_eq!(statements.len(), 16, "{statements:?}");
        db.execute(&statements.join("; ")).await;
        role.db.store.check_access(Access::Work).await.unwrap();
        assert!(
            role.db.store.check_access(Access::Append).await.is_err(),
            "{name:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_runs_in_a_schema_of_another_name() {
    let database = TestPostgres::shared().await.database().await;
    let schema = Schema::default().database_schema("sales").events("log");
    let store = EventStore::new(database.pool.clone())
        .with_schema(schema)
        .unwrap();
    store.migrate().await.unwrap();
    let db = Database::<Postgres>::of(store, &database.url);
    db.execute(Postgres::CREATE_READ_MODEL).await;
    let log = db.append_many(3).await;
    let role = Role::new(&db).await;
    let statements = missing(role.db.store.check_access(Access::Work).await.unwrap_err());
    assert!(statements.contains(&format!("GRANT SELECT ON TABLE sales.log TO {}", role.name)));
    db.execute(&statements.join("; ")).await;
    assert_well(&role.db.run_once(read_model("users")).await);
    assert_eq!(db.applied("users").await, log);
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_privileges_are_named_exactly() {
    let db = Database::<Postgres>::fresh().await;
    let role = Role::with(&db, Access::Work).await;
    let name = &role.name;
    let columns = "global_position, aggregate_type, aggregate_id, aggregate_version, event_id,
        event_type, event_version, payload, trace_id, correlation_id, causation_id, metadata";
    for (taken, expected) in [
        (
            "REVOKE SELECT ON SEQUENCE events_global_position_seq FROM",
            "GRANT SELECT ON SEQUENCE events_global_position_seq TO",
        ),
        (
            "REVOKE DELETE, INSERT ON consumer_log FROM",
            "GRANT INSERT, DELETE ON TABLE consumer_log TO",
        ),
        (
            "REVOKE SELECT ON events FROM",
            "GRANT SELECT ON TABLE events TO",
        ),
    ] {
        db.execute(&format!("{taken} {name}")).await;
        let error = role.db.store.check_access(Access::Work).await.unwrap_err();
        assert_eq!(missing(error), [format!("{expected} {name}")]);
        db.execute(&format!("{expected} {name}")).await;
    }
    // All columns of the mapping are as good as the table, but not all of them but one.
    db.execute(&format!("ALTER TABLE events ADD COLUMN secret TEXT; REVOKE SELECT ON events FROM {name}; GRANT SELECT ({columns}) ON events TO {name}"))
        .await;
    let error = role.db.store.check_access(Access::Work).await.unwrap_err();
    assert_eq!(
        missing(error),
        [format!("GRANT SELECT ON TABLE events TO {name}")]
    );
    db.execute(&format!("GRANT SELECT (created_at) ON events TO {name}"))
        .await;
    let log = db.append_many(2).await;
    assert_well(&role.db.run_once(read_model("users")).await);
    assert_eq!(db.applied("users").await, log);

    db.execute("ALTER TABLE consumer_progress ENABLE ROW LEVEL SECURITY")
        .await;
    let error = role.db.store.check_access(Access::Work).await.unwrap_err();
    let disable = "ALTER TABLE consumer_progress DISABLE ROW LEVEL SECURITY";
    assert_eq!(missing(error), [disable]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_database_says_how_to_find_the_missing_grant() {
    let db = Database::<Postgres>::fresh().await;
    let role = Role::with(&db, Access::Observe).await;
    let event = [NewEvent::new("User", "u-1", "Changed", "{}")];
    let error = role
        .db
        .store
        .append(ExpectedVersion::Any, &event)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Forbidden(_)), "{error:?}");
    assert!(error.to_string().contains("`check_access`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_a_revoked_privilege() {
    let db = Database::<Postgres>::fresh().await;
    let role = Role::with(&db, Access::Work).await;
    let name = &role.name;
    let settings = impatient().retries(0);
    let running = Running::start(
        role.db
            .worker()
            .advance_interval(Duration::from_millis(20))
            .consumer(read_model("users").settings(settings)),
    );
    let first = db.append_many(1).await[0];
    patiently("it starts", running.caught_up_to(first))
        .await
        .unwrap();
    for privilege in [
        "SELECT ON events",
        "UPDATE ON consumer_progress",
        "INSERT ON consumer_parked",
    ] {
        db.execute(&format!("REVOKE {privilege} FROM {name}")).await;
        let grant = format!("GRANT {} TO {name}", privilege.replace("ON ", "ON TABLE "));
        until("its health names the grant", async || {
            running
                .health()
                .problems
                .iter()
                .any(|problem| problem.to_string().contains(&grant))
        })
        .await;
        let next = db.append_many(1).await[0];
        db.execute(&grant).await;
        patiently("it continues", running.caught_up_to(next))
            .await
            .unwrap();
    }
    assert_well(&running.stop().await);
    assert_eq!(db.applied("users").await, db.log().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_without_the_privilege_is_no_failure_of_the_handler() {
    let db = Database::<Postgres>::fresh().await;
    db.append("User", ["u-3"]).await;
    run_once(
        db.worker()
            .consumer(fails_on("users", "u-3", OnError::Park)),
    )
    .await;
    let role = Role::with(&db, Access::Work).await;
    let running = Running::start(role.db.worker().consumer(fails_on(
        "users",
        "u-3",
        OnError::Stop,
    )));
    let first = db.append_one("User", "u-1").await;
    patiently("it starts", running.caught_up_to(first))
        .await
        .unwrap();
    // The claim and the checkpoint still can be written, so that the consumer could be stopped.
    let privilege = "INSERT ON consumer_parked";
    db.execute(&format!("REVOKE {privilege} FROM {}", role.name))
        .await;
    let behind = db.append_one("User", "u-3").await;
    until("it waits for the database", async || {
        matches!(
            running.consumers()[0].state,
            ConsumerState::Waiting { .. } | ConsumerState::Stopped { .. }
        )
    })
    .await;
    db.execute(&format!("GRANT {privilege} TO {}", role.name))
        .await;
    patiently("it continues", running.caught_up_to(behind))
        .await
        .unwrap();
    running.stop().await;
    assert_eq!(db.parked("users").await, [1, behind]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocker_of_another_role_is_open_for_an_unknown_time() {
    let db = Database::<Postgres>::fresh().await;
    let role = Role::with(&db, Access::Work).await;
    db.execute(&grants(Access::Observe, &role.name).join("; "))
        .await;
    let running = Running::start(role.db.worker().consumer(read_model("users")));
    let mut open = db.pool.begin().await.unwrap();
    Postgres::execute_sql(&mut open, "SET LOCAL application_name = 'importer'")
        .await
        .unwrap();
    let late = db.append_in(&mut open, "late").await;
    let last = db.append_one("User", "u-1").await;
    until("it names the blocker", async || {
        running.frontier_wait().is_some()
    })
    .await;
    let wait = running.frontier_wait().unwrap();
    assert!(wait.position < late, "the frontier does not depend on it");
    assert_eq!(wait.blockers[0].open, None);
    let text = wait.blockers[0].to_string();
    assert!(
        text.contains("app=importer, open for an unknown time"),
        "{text}"
    );

    db.execute(&format!("GRANT pg_read_all_stats TO {}", role.name))
        .await;
    let seen = Admin::new(role.db.store.clone()).frontier().await.unwrap();
    assert!(seen.blockers[0].open.is_some(), "{seen:?}");
    open.commit().await.unwrap();
    patiently("it continues", running.caught_up_to(last))
        .await
        .unwrap();
    running.stop().await;
    assert_eq!(db.applied("users").await, [late, last]);
}

/// A role that may not create databases' schemas, and its store in a schema.
async fn migrator(database: &Database<Postgres>, schema: Schema) -> (String, PgEventStore) {
    let name = format!("role_{}", fastrand::u64(..));
    database.execute(&format!("CREATE ROLE {name} LOGIN")).await;
    let url = database.url.replace("postgres@", &format!("{name}@"));
    let store = PgEventStore::connect(&url).await.unwrap();
    (name, store.with_schema(schema).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_works_in_a_schema_that_an_administrator_made() {
    let db = Database::<Postgres>::empty().await;
    let (name, store) = migrator(&db, Schema::default().database_schema("sales")).await;
    let error = store.migrate().await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("lacks privileges to create or change the tables"),
        "{text}"
    );
    assert_eq!(
        missing(error),
        [format!("CREATE SCHEMA sales AUTHORIZATION {name}")]
    );

    db.execute("CREATE SCHEMA sales").await;
    let error = store.migrate().await.unwrap_err();
    let grant = format!("GRANT USAGE, CREATE ON SCHEMA sales TO {name}");
    assert_eq!(missing(error), std::slice::from_ref(&grant));
    db.execute(&grant).await;
    store.migrate().await.unwrap();
    store.check().await.unwrap();
    // It owns the tables.
    for access in [Access::Append, Access::Work, Access::Operate] {
        store.check_access(access).await.unwrap();
    }
    // The script needs no more than that either.
    db.execute(&format!("SET ROLE {name}; {}", store.migration_sql()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_the_tables_of_another_role_names_their_owner() {
    let db = Database::<Postgres>::empty().await;
    let old = include_str!("../fixtures/tables/postgres.sql");
    db.execute(old).await;
    let (name, store) = migrator(&db, Schema::default()).await;
    db.execute(&format!("GRANT USAGE, CREATE ON SCHEMA public TO {name}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}"))
        .await;
    let error = store.migrate().await.unwrap_err();
    assert_eq!(missing(error), [format!("GRANT postgres TO {name}")]);
    assert_eq!(
        db.number("SELECT max(version)::bigint FROM consumer_schema")
            .await,
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_without_create_on_schema_public_names_the_grant() {
    let db = Database::<Postgres>::empty().await;
    db.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        .await;
    let (name, store) = migrator(&db, Schema::default()).await;
    let error = store.migrate().await.unwrap_err();
    assert_eq!(
        missing(error),
        [format!("GRANT USAGE, CREATE ON SCHEMA public TO {name}")]
    );
    let worker = Worker::builder(store)
        .consumer(read_model("users"))
        .build()
        .unwrap();
    let error = worker.run_once().await.unwrap_err();
    assert!(error.to_string().contains("call `migrate()`"), "{error}");
}
