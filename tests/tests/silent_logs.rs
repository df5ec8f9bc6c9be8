//! Several logs in one database: each has its own consumers.

use consumer::admin::{ActivateOptions, Admin, ForgetOptions, RebuildOptions};
use consumer::{ConsumerState, EventStore, Schema, Worker, WorkerError, merge_segments};
use consumer_tests::{Database, TestDatabase, patiently, read_model, run_once, test_on};

test_on!(
    [empty_sqlite, empty_postgres],
    a_log_is_not_refused_for_the_checkpoints_of_another,
    a_consumer_of_another_log_is_refused,
    a_forgotten_consumer_may_read_another_log,
    the_checkpoints_of_another_log_are_not_detached,
    commands_show_the_consumers_of_their_log_only,
    a_command_names_the_log_that_a_consumer_reads
);

/// Two logs in one database, of five events and of two.
async fn two_logs<DB: TestDatabase>(db: &Database<DB>) -> [EventStore<DB>; 2] {
    db.execute(DB::CREATE_READ_MODEL).await;
    let mut logs = Vec::new();
    for (name, events) in [("long", 5), ("short", 2)] {
        let schema = Schema::default().events(name);
        let schema = schema.aggregate_heads(format!("{name}_heads"));
        let store = db.store.clone().with_schema(schema).unwrap();
        db.execute(&store.migration_sql()).await;
        Database::of(store.clone(), &db.url)
            .append_many(events)
            .await;
        logs.push(store);
    }
    logs.try_into().ok().unwrap()
}

async fn a_log_is_not_refused_for_the_checkpoints_of_another<DB: TestDatabase>(db: Database<DB>) {
    let names = [("of_long", 5), ("of_short", 2)];
    for (store, (name, events)) in two_logs(&db).await.into_iter().zip(names) {
        let report = run_once(Worker::builder(store).consumer(read_model(name))).await;
        assert!(!report.has_failures(), "{report}");
        assert_eq!(db.applied(name).await.len(), events);
    }
}

/// It would start at the other log's checkpoint, and leave out the events before it.
async fn a_consumer_of_another_log_is_refused<DB: TestDatabase>(db: Database<DB>) {
    let [long, short] = two_logs(&db).await;
    run_once(Worker::builder(short).consumer(read_model("users"))).await;
    let worker = Worker::builder(long).consumer(read_model("users"));
    let refused = patiently("it refuses", worker.build().unwrap().run_once()).await;
    let refused = refused.expect_err("it must not run");
    assert!(matches!(refused, WorkerError::OtherLog { .. }), "{refused}");
    assert!(refused.to_string().contains("`short`"), "{refused}");
    assert_eq!(db.applied("users").await.len(), 2);
}

async fn a_forgotten_consumer_may_read_another_log<DB: TestDatabase>(db: Database<DB>) {
    let [long, short] = two_logs(&db).await;
    run_once(Worker::builder(short).consumer(read_model("users"))).await;
    db.execute("DELETE FROM consumer_progress; DELETE FROM applied")
        .await;
    run_once(Worker::builder(long).consumer(read_model("users"))).await;
    assert_eq!(db.applied("users").await.len(), 5);
}

async fn the_checkpoints_of_another_log_are_not_detached<DB: TestDatabase>(db: Database<DB>) {
    let [long, short] = two_logs(&db).await;
    run_once(Worker::builder(long).consumer(read_model("of_long"))).await;
    let report = run_once(Worker::builder(short).consumer(read_model("of_short"))).await;
    assert!(report.detached.is_empty(), "{report}");
}

async fn commands_show_the_consumers_of_their_log_only<DB: TestDatabase>(db: Database<DB>) {
    let [long, short] = two_logs(&db).await;
    run_once(Worker::builder(long.clone()).consumer(read_model("of_long"))).await;
    run_once(Worker::builder(short.clone()).consumer(read_model("of_short"))).await;
    for (store, own, other) in [
        (long, "of_long", "of_short"),
        (short, "of_short", "of_long"),
    ] {
        // The program has both, as if it ran them on one log.
        let worker = Worker::builder(store.clone()).consumer(read_model(own));
        let admin = worker.consumer(read_model(other)).admin().unwrap();
        admin.activate(own, ActivateOptions::new()).await.unwrap();
        let status = admin.status().await.unwrap();
        let state = |name| status.consumer(name).unwrap().state.clone();
        assert_eq!(state(own), ConsumerState::Running);
        assert!(
            matches!(state(other), ConsumerState::OtherLog { .. }),
            "{}",
            state(other)
        );
        assert_eq!(admin.active_version(other).await.unwrap(), None);
        let status = Admin::new(store).status().await.unwrap();
        let names: Vec<&str> = status.consumers.iter().map(|one| &*one.id.name).collect();
        assert_eq!(names, [own]);
    }
}

async fn a_command_names_the_log_that_a_consumer_reads<DB: TestDatabase>(db: Database<DB>) {
    let [long, short] = two_logs(&db).await;
    run_once(Worker::builder(long.clone()).consumer(read_model("users"))).await;
    let admin = Admin::new(short.clone());
    let refused = [
        admin.pause("users").await.unwrap_err(),
        admin.resume("users").await.unwrap_err(),
        admin.skip("users", 1).await.unwrap_err(),
        admin.parked("users").await.unwrap_err(),
        admin.retry_parked("users", None).await.unwrap_err(),
        admin
            .rebuild("users", RebuildOptions::new())
            .await
            .unwrap_err(),
        admin
            .forget("users", ForgetOptions::new())
            .await
            .unwrap_err(),
        admin.merge_segments("users", 1).await.unwrap_err(),
    ];
    for error in refused {
        assert!(
            error.to_string().contains("reads the log `long`"),
            "{error}"
        );
    }
    let refused = merge_segments(&short, "users", 1, 1).await.unwrap_err();
    assert!(matches!(refused, WorkerError::OtherLog { .. }), "{refused}");
    Admin::new(long).pause("users").await.unwrap();
}
