//! A read model stays in the schema in which it was created, in sessions with another `search_path` too, and a
//! rebuild empties its table where it was moved or renamed, or is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use consumer::admin::{Admin, AdminError, RebuildOptions};
use consumer::prelude::*;
use consumer::{EventStore, Formerly, OnError, Registered, TableError, WorkerError};
use consumer_tests::{Database, Folding, TestDatabase, folding, impatient, run_once, test_on};
use sqlx::Postgres;
use sqlx::postgres::PgPoolOptions;

/// The number of events of an aggregate.
#[derive(ReadModel, Debug)]
#[read_model(table = "tallies")]
struct Tally {
    #[read_model(key)]
    id: String,
    count: i64,
}

/// The same, with the schema in which it is.
#[derive(ReadModel, Debug)]
#[read_model(table = "public.tallies")]
struct PublicTally {
    #[read_model(key)]
    id: String,
    count: i64,
}

/// The same, with the schema in which it is not.
#[derive(ReadModel, Debug)]
#[read_model(table = "other.tallies")]
struct OtherTally {
    #[read_model(key)]
    id: String,
    count: i64,
}

/// The same under another name.
#[derive(ReadModel, Debug)]
#[read_model(table = "counts")]
struct Count {
    #[read_model(key)]
    id: String,
    count: i64,
}

/// Declares a consumer for each row, as the attribute takes no generic `impl`.
macro_rules! tallies {
    ($($consumer:ident of $row:ident),+) => {
        $(#[derive(Default)]
        struct $consumer;

        #[consumer(name = "tallies", read_model = $row, group = "schemas")]
        impl $consumer {
            #[on("Changed")]
            fn changed(&self, tally: &mut Option<$row>, event: &PersistedEvent) {
                let id = event.aggregate_id.clone();
                tally.get_or_insert($row { id, count: 0 }).count += 1;
            }
        })+
    };
}
tallies!(
    Tallies of Tally,
    PublicTallies of PublicTally,
    OtherTallies of OtherTally,
    Counts of Count
);

test_on!(
    [postgres],
    a_start_in_another_schema_is_refused_with_both,
    a_new_version_names_the_schema_to_which_it_moves,
    a_table_that_its_owner_has_moved_is_found_again,
    a_rebuild_before_the_start_empties_the_table_that_was_moved,
    a_rebuild_in_another_session_empties_the_same_table,
    a_retry_in_another_session_changes_the_same_table
);

test_on!(
    [sqlite, postgres],
    a_rebuild_before_the_start_empties_a_renamed_table,
    a_rebuild_of_a_table_under_another_name_is_refused,
    a_rebuild_before_the_take_over_names_the_former_name
);

/// The database in sessions that find another schema first.
async fn elsewhere(db: &Database<Postgres>) -> Database<Postgres> {
    db.execute("CREATE SCHEMA other").await;
    let options = PgPoolOptions::new().after_connect(|connection, _| {
        Box::pin(Postgres::execute_sql(
            connection,
            "SET search_path = other, public",
        ))
    });
    let pool = options.connect(&db.url).await.unwrap();
    Database::of(EventStore::new(pool), &db.url)
}

/// The error with which a worker does not start.
async fn refusal(db: &Database<Postgres>, version: Registered<Postgres>) -> String {
    let worker = db.worker().registered(version).build().unwrap();
    let refused = worker.run_once().await.expect_err("the worker is refused");
    let is_elsewhere = matches!(refused, WorkerError::Table(TableError::Elsewhere { .. }));
    assert!(is_elsewhere, "{refused:?}");
    refused.to_string()
}

/// Where the tables and views are.
async fn relations(db: &Database<Postgres>) -> Vec<String> {
    let relations = "SELECT relnamespace::regnamespace || '.' || relname FROM pg_class
                      WHERE relname LIKE 'tallies%' AND relkind IN ('r', 'v') ORDER BY 1";
    db.texts(relations).await
}

const BOTH: [&str; 2] = ["public.tallies", "public.tallies_v1"];

async fn counts(db: &Database<Postgres>) -> Vec<i64> {
    db.numbers("SELECT count FROM public.tallies").await
}

async fn a_start_in_another_schema_is_refused_with_both(db: Database<Postgres>) {
    db.append("User", ["ada"]).await;
    run_once(db.worker().consumer(Tallies)).await;
    let other = elsewhere(&db).await;
    db.append("User", ["ada"]).await;
    let text = refusal(&other, Registered::new(Tallies)).await;
    for part in [
        "is in `public.tallies_v1`",
        "would use `other.tallies_v1`",
        "write `table = \"public.tallies\"`",
        "`search_path` of its connections begin with `public`",
        "`version = 2` and `table = \"other.tallies\"`",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert_eq!(relations(&db).await, BOTH);
    // Both remedies.
    run_once(other.worker().consumer(PublicTallies)).await;
    assert_eq!(counts(&db).await, [2]);
    db.append("User", ["ada"]).await;
    run_once(db.worker().consumer(Tallies)).await;
    assert_eq!(counts(&db).await, [3]);
    assert_eq!(relations(&db).await, BOTH);
}

async fn a_new_version_names_the_schema_to_which_it_moves(db: Database<Postgres>) {
    db.append("User", ["ada"]).await;
    run_once(db.worker().consumer(Tallies)).await;
    let other = elsewhere(&db).await;
    let second = Registered::new(Tallies).version(2);
    let text = refusal(&other, second).await;
    assert!(text.contains("is in `public.tallies_v1`"), "{text}");
    assert!(text.contains("would use `other.tallies_v2`"), "{text}");
    let second = Registered::new(OtherTallies).version(2);
    run_once(other.worker().registered(second)).await;
    let moved = "SELECT count FROM other.tallies_v2";
    assert_eq!(db.numbers(moved).await, [1]);
}

async fn a_table_that_its_owner_has_moved_is_found_again(db: Database<Postgres>) {
    db.append("User", ["ada"]).await;
    run_once(db.worker().consumer(Tallies)).await;
    let other = elsewhere(&db).await;
    db.execute(
        "ALTER TABLE public.tallies_v1 SET SCHEMA other; ALTER VIEW public.tallies SET SCHEMA other",
    )
    .await;
    db.append("User", ["ada"]).await;
    run_once(other.worker().consumer(Tallies)).await;
    let moved = db.numbers("SELECT count FROM other.tallies").await;
    assert_eq!(moved, [2]);
    // From now on, it is there.
    let text = refusal(&db, Registered::new(Tallies)).await;
    assert!(text.contains("is in `other.tallies_v1`"), "{text}");
}

async fn rebuild<DB: TestDatabase>(
    db: &Database<DB>,
    tallies: Registered<DB>,
) -> Result<(), AdminError> {
    let name = tallies.declaration.name.to_string();
    let admin = db.worker().registered(tallies).admin().unwrap();
    let rebuilt = admin.rebuild(name, RebuildOptions::new()).await;
    rebuilt.map(drop)
}

/// Checks that the checkpoint was not rewound.
async fn is_where_it_was<DB: TestDatabase>(db: &Database<DB>) {
    let head = db.log().await.last().copied();
    assert_eq!(db.checkpoint("tallies").await, head);
}

async fn a_rebuild_before_the_start_empties_the_table_that_was_moved(db: Database<Postgres>) {
    for _ in 0..2 {
        db.append("User", ["ada"]).await;
        run_once(db.worker().consumer(Tallies)).await;
    }
    let other = elsewhere(&db).await;
    db.execute("ALTER TABLE public.tallies_v1 SET SCHEMA other")
        .await;
    // A session that does not find it must not create another one, whose rows no worker would change.
    let refused = rebuild(&db, Registered::new(Tallies)).await.unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("`public.tallies_v1` of the read model"),
        "{text}"
    );
    assert!(text.contains("was moved or renamed"), "{text}");
    is_where_it_was(&db).await;

    rebuild(&other, Registered::new(Tallies)).await.unwrap();
    let moved = ["other.tallies_v1", "public.tallies"];
    assert_eq!(relations(&db).await, moved);
    run_once(other.worker().consumer(Tallies)).await;
    let counts = db.numbers("SELECT count FROM other.tallies").await;
    assert_eq!(counts, [2], "each event once");
}

async fn a_rebuild_before_the_start_empties_a_renamed_table<DB: TestDatabase>(db: Database<DB>) {
    for _ in 0..2 {
        db.append("User", ["ada"]).await;
        run_once(db.worker().consumer(Tallies)).await;
    }
    db.execute("ALTER TABLE tallies_v1 RENAME TO counts_v1")
        .await;
    // The struct that has the old name.
    let refused = rebuild(&db, Registered::new(Tallies)).await.unwrap_err();
    let is_moved = |error: &WorkerError| matches!(error, WorkerError::Table(TableError::Moved { view, .. }) if view.ends_with("tallies"));
    assert!(
        matches!(&refused, AdminError::Worker(error) if is_moved(error)),
        "{refused:?}"
    );
    let worker = db.worker().consumer(Tallies).build().unwrap();
    let refused = worker.run_once().await.unwrap_err();
    assert!(is_moved(&refused), "{refused:?}");
    is_where_it_was(&db).await;

    rebuild(&db, Registered::new(Counts)).await.unwrap();
    assert_eq!(db.number("SELECT count(*) FROM counts_v1").await, 0);
    run_once(db.worker().consumer(Counts)).await;
    let counts = db.numbers("SELECT count FROM counts").await;
    assert_eq!(counts, [2], "each event once");
}

async fn a_rebuild_of_a_table_under_another_name_is_refused<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["ada"]).await;
    run_once(db.worker().consumer(Tallies)).await;
    let refused = rebuild(&db, Registered::new(Counts)).await.unwrap_err();
    let is_elsewhere = matches!(
        refused,
        AdminError::Worker(WorkerError::Table(TableError::Elsewhere { .. }))
    );
    assert!(is_elsewhere, "{refused:?}");
    assert_eq!(db.numbers("SELECT count FROM tallies").await, [1]);
    is_where_it_was(&db).await;
}

async fn a_rebuild_before_the_take_over_names_the_former_name<DB: TestDatabase>(db: Database<DB>) {
    for _ in 0..2 {
        db.append("User", ["ada"]).await;
        run_once(db.worker().consumer(Tallies)).await;
    }
    // The deploy renames the table, and the release after the consumer.
    db.execute("ALTER TABLE tallies_v1 RENAME TO counts_v1")
        .await;
    let renamed = || {
        let mut renamed = Registered::new(Counts);
        renamed.declaration.name = "counts".into();
        renamed.declaration.formerly = Formerly::name("tallies");
        renamed
    };
    let refused = rebuild(&db, renamed()).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "consumer `counts` has no checkpoint yet: it takes over that of `tallies` when a worker of this \
         program starts, or with `rename tallies counts`"
    );
    assert_eq!(db.number("SELECT count FROM counts_v1").await, 2);
    is_where_it_was(&db).await;

    let admin = Admin::new(db.store.clone());
    admin.rename("tallies", "counts").await.unwrap();
    rebuild(&db, renamed()).await.unwrap();
    assert_eq!(db.number("SELECT count(*) FROM counts_v1").await, 0);
    run_once(db.worker().registered(renamed())).await;
    let counts = db.numbers("SELECT count FROM counts").await;
    assert_eq!(counts, [2], "each event once");
}

async fn a_rebuild_in_another_session_empties_the_same_table(db: Database<Postgres>) {
    db.append("User", ["ada"]).await;
    run_once(db.worker().consumer(Tallies)).await;
    let other = elsewhere(&db).await;
    let admin = other.worker().consumer(Tallies).admin().unwrap();
    let rebuilt = admin.rebuild("tallies", RebuildOptions::new()).await;
    rebuilt.unwrap();
    assert_eq!(relations(&db).await, BOTH);
    run_once(db.worker().consumer(Tallies)).await;
    assert_eq!(counts(&db).await, [1]);
}

/// Parks the events until they can be handled.
fn parking(is_repaired: &Arc<AtomicBool>) -> Folding<Tally> {
    let is_repaired = Arc::clone(is_repaired);
    let parking = folding::<Tally>(
        "tallies",
        |_, event, keys| keys.add_aggregate(event),
        move |_, event, rows| {
            if !is_repaired.load(Ordering::SeqCst) {
                return Err("not repaired".into());
            }
            let id = event.aggregate_id.clone();
            let tally = rows.row(&id)?;
            tally.get_or_insert(Tally { id, count: 0 }).count += 1;
            Ok(())
        },
    );
    parking.settings(impatient().retries(0).on_error(OnError::Park))
}

async fn a_retry_in_another_session_changes_the_same_table(db: Database<Postgres>) {
    let is_repaired = Arc::new(AtomicBool::new(false));
    db.append("User", ["ada", "ada"]).await;
    run_once(db.worker().consumer(parking(&is_repaired))).await;
    let other = elsewhere(&db).await;
    // A table into which the rows could go.
    db.execute("CREATE TABLE other.tallies_v1 (LIKE public.tallies_v1 INCLUDING ALL)")
        .await;
    is_repaired.store(true, Ordering::SeqCst);
    let admin: Admin<Postgres> = other
        .worker()
        .consumer(parking(&is_repaired))
        .admin()
        .unwrap();
    let retried = admin.retry_parked("tallies", None).await.unwrap();
    assert_eq!(retried.handled, 2, "{retried:?}");
    assert_eq!(counts(&db).await, [2]);
    assert_eq!(db.number("SELECT count(*) FROM other.tallies_v1").await, 0);
}
