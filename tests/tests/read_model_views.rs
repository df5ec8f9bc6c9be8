//! The view of a read model shows the active version, and commands switch and drop it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use consumer::admin::{ActivateOptions, Admin, AdminError, ForgetOptions, Target, ViewError};
use consumer::prelude::*;
use consumer::read_model::FindError;
use consumer::{Formerly, Registered, WorkerError};
use consumer_tests::{Database, TestDatabase, test_on};
use sqlx::{Connection as _, Postgres, Sqlite};

/// Declares a version of the consumer `users` whose rows have these columns besides `id`, which the derive
/// reads from the struct.
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
// A column between those that `dropped` has.
version!(nicknamed, nick: String = "nick".into(), email: String = "mail".into());
// A column of another type.
version!(retyped, email: String = "mail".into(), age: String = "old".into());

test_on!(
    [sqlite, postgres],
    the_first_version_creates_its_table_and_the_view,
    activate_switches_the_view,
    forget_drops_the_table_and_then_the_view,
    processes_that_start_at_once_do_not_collide,
    versions_that_start_at_once_do_not_collide,
    a_name_that_a_table_has_is_refused,
    a_name_that_another_consumer_has_is_refused,
    a_renamed_consumer_keeps_its_table_and_its_rows,
    a_view_switched_by_hand_is_recorded,
    a_version_written_by_hand_keeps_queries_until_a_switch,
    find_over_a_view_of_another_version_names_both,
    find_names_the_version_of_the_struct_in_a_transaction,
    find_without_a_version_of_the_struct_says_what_to_do,
    find_reads_a_view_with_more_columns_than_the_struct,
    readers_that_name_columns_do_not_fail,
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

async fn versions_that_start_at_once_do_not_collide<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["ada"]).await;
    let db = Arc::new(db);
    let runs = (0..6).map(|task| {
        let db = Arc::clone(&db);
        tokio::spawn(async move {
            match task % 2 {
                0 => run(&db, first::Users, 1).await,
                _ => run(&db, added::Users, 2).await,
            }
        })
    });
    for run in runs.collect::<Vec<_>>() {
        run.await.expect("no panic").expect("run");
    }
    assert_eq!(relations(&db).await, ["users", "users_v1", "users_v2"]);
    // The age is the number of the version.
    let active = active(&db).await.expect("an active version");
    assert_eq!(
        db.numbers("SELECT age FROM users").await,
        [i64::from(active)]
    );
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
async fn refused<'c, R: ReadModel<Key = String>, DB: TestDatabase>(
    from: impl sqlx::Acquire<'c, Database = DB> + Send + 'c,
) -> String {
    match R::find(from, "ada").await {
        Err(error @ FindError::OtherVersion { .. }) => error.to_string(),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it finds the row"),
    }
}

async fn find_over_a_view_of_another_version_names_both<DB: TestDatabase>(db: Database<DB>) {
    all_versions(&db).await;
    // A column is missing.
    let error = refused::<added::User, _>(&db.pool).await;
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
    let error = refused::<first::User, _>(&db.pool).await;
    for part in [
        "shows version 4",
        "the struct is of version 1",
        "the column `age` has the type",
    ] {
        assert!(error.contains(part), "no {part} in {error}");
    }
    let found = retyped::User::find(&db.pool, "ada").await;
    assert_eq!(found.expect("find").expect("a row").age, "old");
}

async fn find_names_the_version_of_the_struct_in_a_transaction<DB: TestDatabase>(db: Database<DB>)
where
    for<'c> &'c mut DB::Connection: sqlx::Acquire<'c, Database = DB>,
{
    all_versions(&db).await;
    let mut tx = db.pool.begin().await.expect("begin");
    let error = refused::<added::User, _>(&mut *tx).await;
    assert!(error.contains("of version 2"), "{error}");
    // The transaction can go on.
    let found = first::User::find(&mut *tx, "ada").await;
    assert_eq!(found.expect("find").expect("a row").age, 1);
}

async fn find_without_a_version_of_the_struct_says_what_to_do<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["ada"]).await;
    run(&db, first::Users, 1).await.expect("run");
    let error = refused::<added::User, _>(&db.pool).await;
    assert!(error.contains("let a worker run the version"), "{error}");
}

/// An old release keeps reading while a version that only adds columns is activated.
async fn find_reads_a_view_with_more_columns_than_the_struct<DB: TestDatabase>(db: Database<DB>) {
    all_versions(&db).await;
    activate(&db, 2).await.expect("activate");
    let found = first::User::find(&db.pool, "ada").await;
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
    let error = first::User::find(&db.pool, "ada").await;
    assert!(matches!(error, Err(FindError::Database(_))), "{error:?}");
}

/// Reads a named column through a statement that is kept, until told to stop.
async fn read_emails<DB: TestDatabase>(
    db: Arc<Database<DB>>,
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
) {
    let mut connection = db.pool.acquire().await.expect("a connection");
    while !stop.load(Ordering::Relaxed) {
        let sql = "SELECT id, email FROM users";
        let emails = DB::named_texts(&mut connection, sql, "email").await;
        let emails = emails.expect("the reader does not fail");
        assert!(emails.iter().all(|email| email == "mail"), "{emails:?}");
        reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// Switches between all versions while readers run, each of which has read in between. The last one has
/// neither the columns nor the order of the first.
async fn switch_under<DB: TestDatabase>(db: &Database<DB>, reads: [&AtomicU64; 2]) {
    for version in [2, 1, 3, 4, 2, 1, 3] {
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

async fn readers_that_name_columns_do_not_fail<DB: TestDatabase>(db: Database<DB>) {
    let db = Arc::new(db);
    all_versions(&db).await;
    // It reads before all switches, and after them.
    let mut idle = db.pool.acquire().await.expect("a connection");
    let both = "SELECT email, id FROM users ORDER BY id";
    let ids = DB::named_texts(&mut idle, both, "id").await;
    assert_eq!(ids.expect("the statement is kept"), ["ada", "bob"]);
    let stop = Arc::new(AtomicBool::new(false));
    let reads = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
    let readers = reads
        .clone()
        .map(|reads| tokio::spawn(read_emails(Arc::clone(&db), Arc::clone(&stop), reads)));
    switch_under(&db, [&*reads[0], &*reads[1]]).await;
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.expect("the reader does not fail");
    }
    for (column, texts) in [("email", ["mail", "mail"]), ("id", ["ada", "bob"])] {
        let read = DB::named_texts(&mut idle, both, column).await;
        assert_eq!(read.expect("the reader does not fail"), texts);
    }
}

#[tokio::test]
async fn a_transaction_on_sqlite_keeps_the_view_that_it_has_read() {
    let db = Database::<Sqlite>::fresh().await;
    all_versions(&db).await;
    let ages = "SELECT age FROM users";
    let mut connection = db.pool.acquire().await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    assert_eq!(Sqlite::numbers(&mut tx, ages).await.unwrap(), [1, 1]);
    activate(&db, 2).await.expect("activate");
    assert_eq!(db.numbers(ages).await, [2, 2]);
    assert_eq!(Sqlite::numbers(&mut tx, ages).await.unwrap(), [1, 1]);
    tx.commit().await.unwrap();
    assert_eq!(
        Sqlite::numbers(&mut connection, ages).await.unwrap(),
        [2, 2]
    );
}

/// Reads `*` through a statement that is kept, before and after a column between two others disappears.
async fn nicks_after_a_switch<DB: TestDatabase>(
    db: &Database<DB>,
) -> Result<Vec<String>, sqlx::Error> {
    db.append("User", ["ada"]).await;
    run(db, nicknamed::Users, 1).await.expect("run");
    run(db, dropped::Users, 2).await.expect("run");
    let mut connection = db.pool.acquire().await.unwrap();
    let all = "SELECT * FROM users";
    let nicks = DB::named_texts(&mut connection, all, "nick").await;
    assert_eq!(nicks.unwrap(), ["nick"]);
    activate(db, 2).await.expect("activate");
    DB::named_texts(&mut connection, all, "nick").await
}

#[tokio::test]
async fn on_sqlite_reading_all_columns_returns_others_after_a_switch() {
    let db = Database::<Sqlite>::fresh().await;
    let nicks = nicks_after_a_switch(&db).await;
    assert_eq!(nicks.expect("there is no error"), ["mail"]);
}

#[tokio::test]
async fn on_postgres_reading_all_columns_fails_after_a_switch() {
    let db = Database::<Postgres>::fresh().await;
    let Err(sqlx::Error::Database(error)) = nicks_after_a_switch(&db).await else {
        panic!("it reads");
    };
    assert_eq!(error.code().as_deref(), Some("0A000"));
    assert_eq!(error.message(), "cached plan must not change result type");
}

/// Whether a statement that begins so waits for a lock.
async fn is_waiting(db: &Database<Postgres>, statement: &str) -> bool {
    let waits = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '{statement}%'
            AND wait_event_type = 'Lock' AND datname = current_database()"
    );
    db.number(&waits).await > 0
}

/// Others get in between its attempts, although it waits for the view.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_waits_for_a_reader_and_lets_others_read() {
    let db = Arc::new(Database::<Postgres>::fresh().await);
    all_versions(&db).await;
    let mut connection = db.pool.acquire().await.unwrap();
    let mut idle = connection.begin().await.unwrap();
    Postgres::texts(&mut idle, "SELECT id FROM users")
        .await
        .unwrap();
    let (stop, reads) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let busy = read_emails(Arc::clone(&db), Arc::clone(&stop), Arc::clone(&reads));
    let busy = tokio::spawn(busy);
    let admin = Admin::new(db.store.clone());
    let target = Target::new("users").version(3);
    let switch = tokio::spawn(async move { admin.activate(target, ActivateOptions::new()).await });
    while !is_waiting(&db, "DROP VIEW").await {}
    let before = reads.load(Ordering::Relaxed);
    while reads.load(Ordering::Relaxed) < before + 3 && !busy.is_finished() {
        tokio::task::yield_now().await;
    }
    idle.rollback().await.unwrap();
    switch.await.unwrap().unwrap();
    assert_eq!(columns(&db).await, ["id", "email"]);
    stop.store(true, Ordering::Relaxed);
    busy.await.expect("the reader does not fail");
}

#[tokio::test]
async fn forget_waits_for_a_reader_of_the_table() {
    let db = Database::<Postgres>::fresh().await;
    all_versions(&db).await;
    activate(&db, 2).await.expect("activate");
    let mut connection = db.pool.acquire().await.unwrap();
    let mut idle = connection.begin().await.unwrap();
    Postgres::texts(&mut idle, "SELECT id FROM users_v1")
        .await
        .unwrap();
    let admin = Admin::new(db.store.clone());
    let target = Target::new("users").version(1);
    let forget = tokio::spawn(async move { admin.forget(target, ForgetOptions::new()).await });
    // It tries again.
    for is_next in [true, false, true] {
        while is_waiting(&db, "DROP TABLE").await != is_next && !forget.is_finished() {}
    }
    idle.rollback().await.unwrap();
    forget.await.unwrap().unwrap();
    let left = ["users", "users_v2", "users_v3", "users_v4"];
    assert_eq!(relations(&db).await, left);
}

/// It lasts as long as commands wait, 30 s.
#[tokio::test]
async fn a_reader_that_does_not_end_is_reported_with_what_it_reads() {
    let db = Database::<Postgres>::fresh().await;
    all_versions(&db).await;
    activate(&db, 2).await.expect("activate");
    let before = relations(&db).await;
    let mut connection = db.pool.acquire().await.unwrap();
    let mut idle = connection.begin().await.unwrap();
    let both = "SELECT u.id FROM users AS u JOIN users_v1 AS v ON v.id = u.id";
    Postgres::texts(&mut idle, both).await.unwrap();
    let admin = Admin::new(db.store.clone());
    let (activated, forgotten) = tokio::join!(
        activate(&db, 3),
        admin.forget(Target::new("users").version(1), ForgetOptions::new())
    );
    for (refused, name) in [(activated, "public.users"), (forgotten, "public.users_v1")] {
        let refused = refused.expect_err("it is being read");
        let AdminError::View(ViewError::InUse { relation }) = &refused else {
            panic!("{refused:?}");
        };
        assert_eq!(relation, name);
        let text = refused.to_string();
        assert!(
            text.starts_with(&format!("a transaction is reading `{name}`: end it")),
            "{text}"
        );
    }
    assert_eq!((active(&db).await, relations(&db).await), (Some(2), before));
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

/// What default privileges give to new relations is not given to the view when it is created again.
#[tokio::test]
async fn a_view_of_another_role_keeps_its_owner_and_no_more_grants() {
    let db = Database::<Postgres>::fresh().await;
    all_versions(&db).await;
    let roles = ["owner", "reader", "new"].map(|role| format!("{role}_{}", db.name()));
    let [owner, reader, new] = &roles;
    db.execute(&format!(
        "CREATE ROLE {owner}; CREATE ROLE {reader}; CREATE ROLE {new};
         GRANT USAGE, CREATE ON SCHEMA public TO {owner};
         GRANT SELECT ON ALL TABLES IN SCHEMA public TO {owner};
         ALTER VIEW users OWNER TO {owner};
         SET ROLE {owner}; GRANT SELECT ON users TO {reader}; GRANT UPDATE ON users TO postgres; RESET ROLE;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {new}, {owner};
         ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC"
    ))
    .await;
    let rights = "SELECT g.grantee::regrole || ' ' || g.privilege_type || ' by ' || g.grantor::regrole
                    FROM pg_class AS c, aclexplode(c.relacl) AS g
                   WHERE c.oid = 'users'::regclass AND g.grantee <> c.relowner
                   UNION ALL SELECT relowner::regrole::text FROM pg_class WHERE oid = 'users'::regclass
                   ORDER BY 1";
    let before = db.texts(rights).await;
    assert_eq!(before.len(), 3, "{before:?}");
    // In place, and dropped and created again.
    for version in [2, 3, 4] {
        activate(&db, version).await.expect("activate");
        assert_eq!(db.texts(rights).await, before, "version {version}");
        let read = format!("SET ROLE {reader}; SELECT email FROM users; RESET ROLE");
        db.execute(&read).await;
    }
    db.execute(&format!(
        "DROP OWNED BY {owner}, {reader}, {new}; DROP ROLE {owner}, {reader}, {new}"
    ))
    .await;
}

/// What a view has beside its columns stays where it is replaced in place, and is named where it would be
/// lost.
async fn is_named_and_kept(create: &str, count: &str, drop: &str, name: &str) {
    let db = Database::<Postgres>::fresh().await;
    all_versions(&db).await;
    db.execute(create).await;
    activate(&db, 2).await.expect("activate");
    assert_eq!(db.number(count).await, 1);
    let error = activate(&db, 3).await.expect_err("it would be lost");
    let text = error.to_string();
    assert!(text.contains(name) && text.contains("drop them"), "{text}");
    assert_eq!((active(&db).await, db.number(count).await), (Some(2), 1));
    db.execute(drop).await;
    activate(&db, 3).await.expect("as the message says");
}

#[tokio::test]
async fn a_trigger_on_the_view_is_not_lost_on_postgres() {
    is_named_and_kept(
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER inserted INSTEAD OF INSERT ON users FOR EACH ROW EXECUTE FUNCTION nothing()",
        "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'users'::regclass",
        "DROP TRIGGER inserted ON users",
        "on it: trigger inserted;",
    )
    .await;
}

#[tokio::test]
async fn a_default_of_the_view_is_not_lost_on_postgres() {
    is_named_and_kept(
        "ALTER VIEW users ALTER COLUMN email SET DEFAULT 'none'",
        "SELECT count(*) FROM pg_attrdef WHERE adrelid = 'users'::regclass",
        "ALTER VIEW users ALTER COLUMN email DROP DEFAULT",
        "on it: default of column email;",
    )
    .await;
}

#[tokio::test]
async fn a_rule_on_the_view_is_not_lost_on_postgres() {
    is_named_and_kept(
        "CREATE RULE kept AS ON DELETE TO users DO INSTEAD NOTHING",
        "SELECT count(*) FROM pg_rules WHERE tablename = 'users'",
        "DROP RULE kept ON users",
        "on it: rule kept;",
    )
    .await;
}

#[tokio::test]
async fn a_trigger_on_the_view_survives_a_switch_on_sqlite() {
    let db = Database::<Sqlite>::fresh().await;
    all_versions(&db).await;
    db.execute(
        "CREATE TABLE notes (email TEXT);
         CREATE TRIGGER inserted INSTEAD OF INSERT ON users
             BEGIN INSERT INTO notes VALUES (NEW.email); END;",
    )
    .await;
    for version in [2, 3, 4] {
        activate(&db, version).await.expect("activate");
        let insert = format!("INSERT INTO users (id, email) VALUES ('eve', 'mail {version}')");
        db.execute(&insert).await;
    }
    let notes = db.texts("SELECT email FROM notes").await;
    assert_eq!(notes, ["mail 2", "mail 3", "mail 4"]);
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
