//! Everything but the listener goes through a real PgBouncer in transaction mode.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::time::Duration;

use consumer::{EventStore, LaneState, OnError, PgEventStore};
use consumer_tests::{
    Database, PgBouncer, Running, TestBackend, TestPostgres, Writers, consumer, impatient, judging,
    patiently, read_model, until,
};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, Postgres};

/// A database behind a pooler of fewer connections than a worker uses, whose role defaults are as
/// odd as they get.
struct Pooled {
    db: Database<Postgres>,
    direct: Database<Postgres>,
    _bouncer: PgBouncer,
}

impl Pooled {
    async fn new() -> Self {
        let database = TestPostgres::shared().await.database().await;
        let options = (*database.pool.connect_options()).clone();
        let writes = options.options([("default_transaction_read_only", "off")]);
        let pool = PgPoolOptions::new().connect_lazy_with(writes);
        let direct = Database::of(EventStore::new(pool), &database.url).await;
        for setting in [
            "default_transaction_isolation = 'repeatable read'",
            "default_transaction_read_only = on",
        ] {
            let sql = format!("ALTER DATABASE {} SET {setting}", database.name);
            direct.execute(&sql).await;
        }
        let bouncer = PgBouncer::before(&database.url);
        let url = format!("{}?statement-cache-capacity=0", bouncer.url);
        let store = PgEventStore::connect(&url).await.unwrap();
        let db = Database::unprepared(store, &url);
        Self {
            db,
            direct,
            _bouncer: bouncer,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_pooler_nothing_is_lost_or_repeated_under_concurrent_writers() {
    let pooled = Pooled::new().await;
    let db = &pooled.db;
    // Whoever ignores the transaction needs one of his own there.
    let by_itself = consumer("b", |_, connection: &mut sqlx::PgConnection, event| {
        Box::pin(async move {
            let mut tx = connection.begin_with("BEGIN READ WRITE").await?;
            Postgres::apply(&mut tx, "b", event).await?;
            Ok(tx.commit().await?)
        })
    });
    let worker = Running::start(
        db.worker()
            .listen_url(pooled.direct.url.clone())
            .consumer(read_model("a"))
            .consumer(by_itself.without_tx())
            .scoped_consumer(read_model("c").scope(&["User"])),
    );
    let heir = Running::start(
        db.worker()
            .consumer(read_model("a"))
            .consumer(read_model("d")),
    );
    let writers = Writers::start(&pooled.direct.pool, 4, Duration::from_millis(100));
    until("there are 300 events", async || {
        pooled.direct.numbers("SELECT count(*) FROM events").await[0] > 300
    })
    .await;
    writers.stop(&pooled.direct.pool).await;
    patiently("it catches up", worker.caught_up())
        .await
        .unwrap();
    patiently("it catches up", heir.caught_up()).await.unwrap();
    worker.stop().await;
    heir.stop().await;
    let committed = pooled
        .direct
        .numbers("SELECT global_position FROM events ORDER BY 1")
        .await;
    for name in ["a", "b", "d"] {
        assert_eq!(pooled.direct.applied(name).await, committed, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_pooler_policies_and_the_refusal_of_commits_hold_too() {
    let pooled = Pooled::new().await;
    let db = &pooled.db;
    let positions = pooled
        .direct
        .append("User", &["a", "bad", "b", "bad", "a"])
        .await;
    let parking = judging("park", |_, event| match event.aggregate_id.as_str() {
        "bad" => Err("no".to_owned()),
        _ => Ok(()),
    });
    let commits = consumer("commits", |_, tx: &mut sqlx::PgConnection, _| {
        Box::pin(async move {
            sqlx::raw_sql("ROLLBACK; INSERT INTO applied (consumer, position, aggregate, version) VALUES ('commits', 0, '', 0)")
                .execute(tx)
                .await?;
            Ok(())
        })
    });
    let report = consumer_tests::run_once(
        db.worker()
            .consumer(parking.settings(impatient().retries(1).on_error(OnError::Park)))
            .consumer(commits),
    )
    .await;
    assert_eq!(
        pooled.direct.applied("park").await,
        [positions[0], positions[2], positions[4]]
    );
    assert_eq!(
        pooled.direct.parked("park").await,
        [positions[1], positions[3]]
    );
    assert!(
        matches!(
            report.consumer("commits").unwrap().state,
            LaneState::Stopped { .. }
        ),
        "{report}"
    );
    assert_eq!(pooled.direct.applied("commits").await, [] as [i64; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_pooler_a_handler_that_hangs_is_ended_too() {
    let pooled = Pooled::new().await;
    pooled.direct.append("User", &["a"]).await;
    let hangs = consumer("c", |_, tx: &mut sqlx::PgConnection, _| {
        Box::pin(async move {
            sqlx::raw_sql("SELECT pg_sleep(1000000)")
                .execute(tx)
                .await?;
            Ok(())
        })
    });
    let settings = impatient()
        .retries(1)
        .handler_timeout(Duration::from_millis(100));
    let worker = pooled.db.worker().consumer(hangs.settings(settings));
    let report = consumer_tests::run_once(worker).await;
    assert!(
        matches!(
            report.consumer("c").unwrap().state,
            LaneState::Stopped { .. }
        ),
        "{report}"
    );
    let running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep(1000000)' AND state = 'active'";
    until("no statement is left running", async || {
        pooled.direct.numbers(running).await[0] == 0
    })
    .await;
}
