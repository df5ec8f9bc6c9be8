//! The view of a read model shows the active version, and commands switch and drop it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use consumer::admin::{ActivateOptions, Admin, AdminError, ForgetOptions, Target, ViewError};
use consumer::prelude::*;
use consumer::read_model::FindError;
use consumer::{Formerly, Registered, WorkerError};
use consumer_tests::{Database, TestDatabase, test_on};
use sqlx::{Connection as _, Postgres, Row as _, Sqlite};

/// Declares a version of the consumer `users` whose rows have these columns besides `id`.
macro_rules! version {
    ($module:ident, $($field:ident: $type:ty = $value:expr),+) => {
        mod $module {
            use super::*;

            #[derive(ReadModel, Clone, Debug)]
            #[read_model(table = "users")]
            pub(super) struct User {
                #[read_model(key)]
                pub(super) id: String,
                $(pub(super) $field: $type,)+
            }

            pub(super) struct Users;

            #[consumer(name = "users", aggregates = ["User"], read_model = User, group = "views")]
            impl Users {
                #[on("Changed")]
                fn changed(&self, event: &PersistedEvent) -> User {
                    User {
                        id: event.aggregate_id.clone(),
                        $($field: $value,)+
                    }
                }
            }
        }
    };
}

version!(first, email: String = "mail".into(), age: i64 = 1);
// A column more, before those that readers know.
version!(added, age: i64 = 2, name: String = "Ada".into(), email: String = "mail".into());
// A column less.
version!(dropped, email: String = "mail".into());
// A column of another type.
version!(retyped, email: String = "mail".into(), age: String = "old".into());

test_on!(
    [sqlite, postgres],
    the_first_version_creates_its_table_and_the_view,
    activate_switches_the_view,
    forget_drops_the_table_and_then_the_view,
    processes_that_start_at_once_do_not_collide,
    a_name_that_a_table_has_is_refused,
    a_name_that_another_consumer_has_is_refused,
    a_renamed_consumer_keeps_its_table_and_its_rows,
    a_view_switched_by_hand_is_recorded,
    a_version_written_by_hand_keeps_queries_until_a_switch,
    find_over_a_view_of_another_version_names_both,
    find_names_the_version_of_the_struct_in_a_transaction,
    find_without_a_version_of_the_struct_says_what_to_do,
    find_reads_a_view_with_more_columns_than_the_struct,
);

/// Runs a version until it has handled everything.
async fn run<DB: TestDatabase>(
    db: &Database<DB>,
    users: impl Consumer<DB>,
    version: u32,
) -> Result<(), WorkerError> {
    let registered = Registered::new(users).version(version);
    let worker = Worker::builder(db.store.clone()).registered(registered);
    let report = worker.build().expect("a worker").run_once().await?;
    assert!(!report.has_failures(), "{report}");
    Ok(())
}

async fn activate<DB: TestDatabase>(db: &Database<DB>, version: u32) -> Result<(), AdminError> {
    let target = Target::new("users").version(version);
    let admin = Admin::new(db.store.clone());
    admin.activate(target, ActivateOptions::new()).await
}

async fn forget<DB: TestDatabase>(db: &Database<DB>, version: u32) {
    let target = Target::new("users").version(version);
    let admin = Admin::new(db.store.clone());
    admin
        .forget(target, ForgetOptions::new())
        .await
        .expect("forget");
}

async fn active<DB: TestDatabase>(db: &Database<DB>) -> Option<u32> {
    let admin = Admin::new(db.store.clone());
    admin
        .active_version("users")
        .await
        .expect("the active version")
}

/// The relations of these names that exist.
async fn relations<DB: TestDatabase>(db: &Database<DB>) -> Vec<String> {
    let sql = match DB::NAME {
        "PostgreSQL" => {
            "SELECT relname::text FROM pg_class WHERE relname LIKE 'users%' AND relkind IN ('r', 'v')"
        }
        _ => {
            "SELECT name FROM sqlite_schema WHERE name LIKE 'users%' AND type IN ('table', 'view')"
        }
    };
    let mut names = db.texts(sql).await;
    names.sort();
    names
}

/// The columns of the view, in order.
async fn columns<DB: TestDatabase>(db: &Database<DB>) -> Vec<String> {
    let sql = match DB::NAME {
        "PostgreSQL" => {
            "SELECT attname::text FROM pg_attribute WHERE attrelid = 'users'::regclass AND attnum > 0 ORDER BY attnum"
        }
        _ => "SELECT name FROM pragma_table_info('users') ORDER BY cid",
    };
    db.texts(sql).await
}

async fn the_first_version_creates_its_table_and_the_view<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["ada"]).await;
    run(&db, first::Users, 1).await.expect("run");
    assert_eq!(relations(&db).await, ["users", "users_v1"]);
    assert_eq!(db.texts("SELECT email FROM users").await, ["mail"]);
    assert_eq!(active(&db).await, Some(1));
    // Again, with everything there.
    run(&db, first::Users, 1).await.expect("run");
}

async fn activate_switches_the_view<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["ada"]).await;
    run(&db, first::Users, 1).await.expect("run");
    run(&db, added::Users, 2).await.expect("run");
    assert_eq!(db.numbers("SELECT age FROM users").await, [1]);
    activate(&db, 2).await.expect("activate");
    assert_eq!(db.numbers("SELECT age FROM users").await, [2]);
    assert_eq!(columns(&db).await, ["id", "email", "age", "name"]);
    activate(&db, 1).await.expect("switch back");
    assert_eq!(db.numbers("SELECT age FROM users").await, [1]);
    assert_eq!(columns(&db).await, ["id", "email", "age"]);
}

async fn forget_drops_the_table_and_then_the_view<DB: TestDatabase>(db: Database<DB>) {
    run(&db, first::Users, 1).await.expect("run");
    run(&db, dropped::Users, 2).await.expect("run");
    activate(&db, 2).await.expect("activate");
    forget(&db, 1).await;
    assert_eq!(relations(&db).await, ["users", "users_v2"]);
    forget(&db, 2).await;
    assert_eq!(relations(&db).await, [""; 0]);
    // It starts over.
    let admin = Admin::new(db.store.clone());
    admin.start_new("users").await.expect("start anew");
    run(&db, first::Users, 1).await.expect("run");
    assert_eq!(relations(&db).await, ["users", "users_v1"]);
}

async fn processes_that_start_at_once_do_not_collide<DB: TestDatabase>(db: Database<DB>) {
    let db = Arc::new(db);
    let runs = (0..6).map(|_| {
        let db = Arc::clone(&db);
        tokio::spawn(async move { run(&db, first::Users, 1).await })
    });
    for run in runs.collect::<Vec<_>>() {
        run.await.expect("no panic").expect("run");
    }
    assert_eq!(relations(&db).await, ["users", "users_v1"]);
}

async fn a_name_that_a_table_has_is_refused<DB: TestDatabase>(db: Database<DB>) {
    db.execute("CREATE TABLE users (id TEXT PRIMARY KEY)").await;
    let error = run(&db, first::Users, 1)
        .await
        .expect_err("a table of that name");
    assert!(
        matches!(error, WorkerError::View(ViewError::Taken { .. })),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.contains("adopt it by renaming it to `users_v1`"),
        "{text}"
    );
    // Nothing was created beside it.
    assert_eq!(relations(&db).await, ["users"]);
    // As the message says, with the columns that the struct has.
    db.execute("DROP TABLE users").await;
    let integer = if DB::NAME == "SQLite" {
        "INTEGER"
    } else {
        "bigint"
    };
    let adopted = format!(
        "CREATE TABLE users_v1 (id TEXT NOT NULL PRIMARY KEY, email TEXT NOT NULL, age {integer} NOT NULL)"
    );
    db.execute(&adopted).await;
    run(&db, first::Users, 1).await.expect("adopted");
}

async fn a_name_that_another_consumer_has_is_refused<DB: TestDatabase>(db: Database<DB>) {
    run(&db, first::Users, 1).await.expect("run");
    let mut other = Registered::new(first::Users);
    other.declaration.name = "members".into();
    other.declaration.formerly = Formerly::None;
    let worker = Worker::builder(db.store.clone()).registered(other);
    let error = worker
        .build()
        .expect("a worker")
        .run_once()
        .await
        .expect_err("owned");
    let WorkerError::View(ViewError::Owned { owner, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(owner, "users");
}

async fn a_renamed_consumer_keeps_its_table_and_its_rows<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["ada"]).await;
    run(&db, first::Users, 1).await.expect("run");
    db.append("User", ["grace"]).await;
    let release = async |formerly| {
        let mut renamed = Registered::new(first::Users);
        renamed.declaration.name = "accounts".into();
        renamed.declaration.formerly = formerly;
        let worker = Worker::builder(db.store.clone()).registered(renamed);
        let report = worker.build().expect("a worker").run_once().await;
        report.expect("the worker runs").has_failures()
    };
    // Held back, it does not touch the table, which another one has.
    assert!(release(Formerly::Unstated).await);
    assert!(!release(Formerly::name("users")).await);
    assert_eq!(relations(&db).await, ["users", "users_v1"]);
    assert_eq!(
        db.texts("SELECT id FROM users ORDER BY id").await,
        ["ada", "grace"]
    );
    let owner = "SELECT consumer FROM consumer_read_models";
    assert_eq!(db.texts(owner).await, ["accounts"]);
    let admin = Admin::new(db.store.clone());
    assert_eq!(
        admin.active_version("accounts").await.expect("read"),
        Some(1)
    );
}

async fn a_view_switched_by_hand_is_recorded<DB: TestDatabase>(db: Database<DB>) {
    run(&db, first::Users, 1).await.expect("run");
    run(&db, added::Users, 2).await.expect("run");
    db.execute(r#"DROP VIEW users; CREATE VIEW "users" AS SELECT "id", "email" FROM "users_v2";"#)
        .await;
    run(&db, added::Users, 2).await.expect("run");
    assert_eq!(active(&db).await, Some(2));
}

/// Version 1 has no table of the library's, so the view appears when version 2 is activated.
async fn a_version_written_by_hand_keeps_queries_until_a_switch<DB: TestDatabase>(
    db: Database<DB>,
) {
    let by_hand = consumer_tests::Model::new("users");
    let worker = Worker::builder(db.store.clone()).registered(Registered::new(by_hand));
    worker
        .build()
        .expect("a worker")
        .run_once()
        .await
        .expect("run");
    run(&db, first::Users, 2).await.expect("run");
    assert_eq!(relations(&db).await, ["users_v2"]);
    activate(&db, 2).await.expect("activate");
    assert_eq!(relations(&db).await, ["users", "users_v2"]);
}

/// What `find` of a version says of the view.
macro_rules! refused {
    ($row:ty, $from:expr) => {
        match <$row>::find($from, &"ada".to_owned()).await {
            Err(error @ FindError::OtherVersion { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
}

async fn find_over_a_view_of_another_version_names_both<DB: TestDatabase>(db: Database<DB>) {
    all_versions(&db).await;
    // A column is missing.
    let error = refused!(added::User, &db.pool);
    for part in [
        "the view `users` shows version 1",
        "the struct is of version 2",
        "the column `name` is missing",
        "activate version 2",
    ] {
        assert!(error.contains(part), "no {part} in {error}");
    }
    // A column has another type.
    activate(&db, 4).await.expect("activate");
    let error = refused!(first::User, &db.pool);
    for part in [
        "shows version 4",
        "the struct is of version 1",
        "the column `age` has the type",
    ] {
        assert!(error.contains(part), "no {part} in {error}");
    }
    let found = retyped::User::find(&db.pool, &"ada".to_owned()).await;
    assert_eq!(found.expect("find").expect("a row").age, "old");
}

async fn find_names_the_version_of_the_struct_in_a_transaction<DB: TestDatabase>(db: Database<DB>)
where
    for<'c> &'c mut DB::Connection: sqlx::Acquire<'c, Database = DB>,
{
    all_versions(&db).await;
    let mut tx = db.pool.begin().await.expect("begin");
    let error = refused!(added::User, &mut *tx);
    assert!(error.contains("of version 2"), "{error}");
    // The transaction can go on.
    let found = first::User::find(&mut *tx, &"ada".to_owned()).await;
    assert_eq!(found.expect("find").expect("a row").age, 1);
}

async fn find_without_a_version_of_the_struct_says_what_to_do<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["ada"]).await;
    run(&db, first::Users, 1).await.expect("run");
    let error = refused!(added::User, &db.pool);
    assert!(error.contains("let a worker run the version"), "{error}");
}

/// An old release keeps reading while a version that only adds columns is activated.
async fn find_reads_a_view_with_more_columns_than_the_struct<DB: TestDatabase>(db: Database<DB>) {
    all_versions(&db).await;
    activate(&db, 2).await.expect("activate");
    let found = first::User::find(&db.pool, &"ada".to_owned()).await;
    let found = found.expect("find").expect("a row");
    assert_eq!((found.id.as_str(), found.age), ("ada", 2));
}

#[tokio::test]
async fn find_keeps_an_error_that_is_not_about_versions() {
    let db = Database::<Postgres>::fresh().await;
    all_versions(&db).await;
    // It has more columns than the struct.
    activate(&db, 2).await.expect("activate");
    db.execute("DROP VIEW users; CREATE VIEW users AS SELECT * FROM users_v2 WHERE 1 / (length(id) - 3) = 0")
        .await;
    let error = first::User::find(&db.pool, &"ada".to_owned()).await;
    assert!(matches!(error, Err(FindError::Database(_))), "{error:?}");
}

/// Reads named columns through a statement that sqlx keeps prepared, until told to stop.
macro_rules! reader {
    ($database:ident, $name:ident) => {
        async fn $name(db: Arc<Database<$database>>, stop: Arc<AtomicBool>, reads: Arc<AtomicU64>) {
            let mut connection = db.pool.acquire().await.expect("a connection");
            while !stop.load(Ordering::Relaxed) {
                let rows = sqlx::query("SELECT id, email FROM users").fetch_all(&mut *connection);
                for row in rows.await.expect("the reader does not fail") {
                    assert_eq!(row.get::<String, _>("email"), "mail");
                }
                reads.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
}

reader!(Sqlite, read_sqlite);
reader!(Postgres, read_postgres);

/// Switches between all versions while readers run, each of which has read in between.
async fn switch_under<DB: TestDatabase>(db: &Database<DB>, reads: [&AtomicU64; 2]) {
    for version in [2, 1, 3, 4, 2, 3, 1] {
        let before = reads.map(|reads| reads.load(Ordering::Relaxed));
        activate(db, version).await.expect("activate");
        while std::iter::zip(reads, before)
            .any(|(reads, before)| reads.load(Ordering::Relaxed) < before + 2)
        {
            tokio::task::yield_now().await;
        }
    }
}

async fn all_versions<DB: TestDatabase>(db: &Database<DB>) {
    db.append("User", ["ada", "bob"]).await;
    run(db, first::Users, 1).await.expect("run");
    run(db, added::Users, 2).await.expect("run");
    run(db, dropped::Users, 3).await.expect("run");
    run(db, retyped::Users, 4).await.expect("run");
}

macro_rules! readers_do_not_fail {
    ($database:ident, $read:ident, $test:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let db = Arc::new(Database::<$database>::fresh().await);
            all_versions(&db).await;
            let stop = Arc::new(AtomicBool::new(false));
            let reads = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
            let readers = reads
                .clone()
                .map(|reads| tokio::spawn($read(Arc::clone(&db), Arc::clone(&stop), reads)));
            switch_under(&db, [&*reads[0], &*reads[1]]).await;
            stop.store(true, Ordering::Relaxed);
            for reader in readers {
                reader.await.expect("the reader does not fail");
            }
        }
    };
}

readers_do_not_fail!(
    Sqlite,
    read_sqlite,
    readers_that_name_columns_do_not_fail_on_sqlite
);
readers_do_not_fail!(
    Postgres,
    read_postgres,
    readers_that_name_columns_do_not_fail_on_postgres
);

#[tokio::test]
async fn a_switch_waits_for_a_reader_that_holds_the_view() {
    let db = Database::<Postgres>::fresh().await;
    all_versions(&db).await;
    let mut connection = db.pool.acquire().await.unwrap();
    let mut idle = connection.begin().await.unwrap();
    sqlx::query("SELECT id FROM users")
        .execute(&mut *idle)
        .await
        .unwrap();
    let admin = Admin::new(db.store.clone());
    let target = Target::new("users").version(3);
    let switch = tokio::spawn(async move { admin.activate(target, ActivateOptions::new()).await });
    // Others get in between its attempts, although it waits for the view.
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DROP VIEW%' AND wait_event_type = 'Lock'
                    AND datname = current_database()";
    while db.number(waits).await == 0 {}
    assert_eq!(db.texts("SELECT email FROM users").await, ["mail", "mail"]);
    idle.rollback().await.unwrap();
    switch.await.unwrap().unwrap();
    assert_eq!(columns(&db).await, ["id", "email"]);
}

#[tokio::test]
async fn grants_comments_and_options_survive_a_switch() {
    let db = Database::<Postgres>::fresh().await;
    all_versions(&db).await;
    let role = format!("reader_{}", db.name());
    db.execute(&format!(
        "CREATE ROLE {role};
         GRANT SELECT ON users TO {role} WITH GRANT OPTION; GRANT UPDATE (email) ON users TO {role};
         COMMENT ON VIEW users IS 'it''s ours'; COMMENT ON COLUMN users.email IS 'private';
         ALTER VIEW users SET (security_barrier = true)"
    ))
    .await;
    let properties = format!(
        "SELECT has_table_privilege('{role}', 'users', 'SELECT WITH GRANT OPTION')::text
         UNION ALL SELECT has_column_privilege('{role}', 'users', 'email', 'UPDATE')::text
         UNION ALL SELECT obj_description('users'::regclass)
         UNION ALL SELECT col_description('users'::regclass, 2)
         UNION ALL SELECT array_to_string(reloptions, ',') FROM pg_class WHERE oid = 'users'::regclass"
    );
    let before = db.texts(&properties).await;
    assert_eq!(
        before,
        [
            "true",
            "true",
            "it's ours",
            "private",
            "security_barrier=true"
        ]
    );
    // In place, and dropped and created again.
    for version in [2, 3, 4] {
        activate(&db, version).await.expect("activate");
        assert_eq!(db.texts(&properties).await, before, "version {version}");
    }
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}

#[tokio::test]
async fn dependents_of_a_lost_column_are_named() {
    let db = Database::<Postgres>::fresh().await;
    all_versions(&db).await;
    db.execute("CREATE VIEW adults AS SELECT id FROM users WHERE age > 17")
        .await;
    // A column more does not concern it.
    activate(&db, 2).await.expect("activate");
    let error = activate(&db, 3).await.expect_err("a dependent view");
    let AdminError::View(ViewError::Dependents { dependents, .. }) = &error else {
        panic!("{error:?}");
    };
    assert!(
        dependents.contains("view adults depends on"),
        "{dependents}"
    );
    assert_eq!((active(&db).await, columns(&db).await.len()), (Some(2), 4));
}

#[tokio::test]
async fn a_role_that_does_not_own_the_view_gets_the_sql() {
    let db = Database::<Postgres>::fresh().await;
    all_versions(&db).await;
    let role = format!("worker_{}", db.name());
    db.execute(&format!(
        "CREATE ROLE {role} LOGIN;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role};
         GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}"
    ))
    .await;
    let url = db.url.replacen("postgres@", &format!("{role}@"), 1);
    let store = PgEventStore::connect(&url).await.expect("connect");
    let admin = Admin::new(store.clone());
    let target = Target::new("users").version(3);
    let error = admin
        .activate(target.clone(), ActivateOptions::new())
        .await
        .expect_err("not the owner");
    let AdminError::View(ViewError::NotAllowed { sql, .. }) = &error else {
        panic!("{error:?}");
    };
    // Its owner runs it, and the command again.
    db.execute(sql).await;
    admin
        .activate(target, ActivateOptions::new())
        .await
        .expect("activate");
    assert_eq!(active(&db).await, Some(3));
    store.pool().close().await;
    db.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}
