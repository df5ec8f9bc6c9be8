//! A worker behind a real PgBouncer in transaction mode, except for its listener.
//!
//! Many other tests run through a pooler too, as `….::through_a_pooler`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use consumer::{ConsumerState, EventStore, OnError, PgEventStore, Settings, merge_segments};
use consumer_tests::{
    Database, PgBouncer, Running, TestDatabase, TestPostgres, Writers, consumer, impatient,
    judging, patiently, read_model, until,
};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, Postgres};

/// A database behind a pooler with fewer connections than a worker uses, and with unusual defaults.
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
        let direct = Database::of(EventStore::new(pool), &database.url)
            .prepared()
            .await;
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
        let db = Database::of(store, &url);
        Self {
            db,
            direct,
            _bouncer: bouncer,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_pooler_concurrent_writers_lose_nothing() {
    let pooled = Pooled::new().await;
    let db = &pooled.db;
    // The default is read-only, so a consumer without tx begins its own transaction.
    let by_itself = consumer("b", |_, connection: &mut PgConnection, event| {
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
async fn restarting_the_pooler_loses_and_repeats_nothing() {
    let mut db = Database::<Postgres>::behind_a_pooler().await;
    let worker = Running::start(
        db.worker()
            .consumer(read_model("a"))
            .scoped_consumer(read_model("b").scope(&["User"]))
            .configure_all(|settings| settings.batch_size(3)),
    );
    patiently("it starts", worker.caught_up()).await.unwrap();
    let append = async |db: &Database<Postgres>| {
        // A pooled connection only notices at its next use that the pooler is gone.
        until("the pooler answers", async || {
            sqlx::raw_sql("SELECT 1").execute(&db.pool).await.is_ok()
        })
        .await;
        *db.append_many(30).await.last().unwrap()
    };
    for _ in 0..5 {
        append(&db).await;
        // At a random moment in a batch or between two.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..40))).await;
        db.restart_pooler();
    }
    let head = append(&db).await;
    patiently("it catches up", worker.caught_up_to(head))
        .await
        .unwrap();
    worker.stop().await;
    let committed = db
        .numbers("SELECT global_position FROM events ORDER BY 1")
        .await;
    for name in ["a", "b"] {
        assert_eq!(db.applied(name).await, committed, "{name}");
    }
}

/// The code of the error of a query whose statement has a name unless it is not persistent.
async fn code_of(connection: &mut PgConnection, is_persistent: bool) -> Option<String> {
    let query = sqlx::query("SELECT $1::bigint").bind(1_i64);
    let done = query.persistent(is_persistent).execute(connection).await;
    let error = done.err()?;
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Before version 1.21, a pooler does not tell the statements of its clients apart.
#[tokio::test(flavor = "multi_thread")]
async fn through_a_pooler_the_names_of_a_batch_collide_with_no_others() {
    let db = Database::<Postgres>::behind_a_pooler().await;
    // The control: two clients, which get the same connection of the server one after the other.
    let mut clients = [
        PgConnection::connect(&db.url).await.unwrap(),
        PgConnection::connect(&db.url).await.unwrap(),
    ];
    for client in &mut clients {
        assert_eq!(code_of(client, false).await, None);
    }
    let codes = [
        code_of(&mut clients[0], true).await,
        code_of(&mut clients[1], true).await,
    ];
    assert_eq!(codes, [None, Some("42P05".to_owned())]);
    assert_eq!(code_of(&mut clients[1], false).await, None);

    let calls = Arc::new(AtomicUsize::new(0));
    let named = |name| {
        let calls = Arc::clone(&calls);
        let one = consumer(name, move |_, tx: &mut PgConnection, event| {
            calls.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                let position = event.global_position;
                let query = sqlx::query("SELECT $1::bigint").bind(position);
                query.execute(&mut *tx).await?;
                Ok(Postgres::apply(tx, name, event).await?)
            })
        });
        one.settings(impatient().batch_size(1))
    };
    let positions = db.append_many(10).await;
    let worker = db.worker().consumer(named("a")).consumer(named("b"));
    consumer_tests::run_once(worker).await;
    for name in ["a", "b"] {
        assert_eq!(db.applied(name).await, positions);
    }
    // A name that collides is not the event's failure, and the batch is repeated.
    assert_eq!(calls.load(Ordering::Relaxed), 2 * positions.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_pooler_policies_and_the_guard_apply() {
    let pooled = Pooled::new().await;
    let db = &pooled.db;
    let positions = pooled
        .direct
        .append("User", ["a", "bad", "b", "bad", "a"])
        .await;
    let parking = judging("park", |_, event| match event.aggregate_id.as_str() {
        "bad" => Err("no".to_owned()),
        _ => Ok(()),
    });
    let commits = consumer("commits", |_, tx: &mut PgConnection, _| {
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
            ConsumerState::Stopped { .. }
        ),
        "{report}"
    );
    assert_eq!(pooled.direct.applied("commits").await, [] as [i64; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_pooler_a_hanging_handler_times_out() {
    let pooled = Pooled::new().await;
    pooled.direct.append("User", ["a"]).await;
    let hangs = consumer("c", |_, tx: &mut PgConnection, _| {
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
            ConsumerState::Stopped { .. }
        ),
        "{report}"
    );
    let running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep(1000000)' AND state = 'active'";
    until("no statement is left running", async || {
        pooled.direct.numbers(running).await[0] == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_pooler_a_consumer_is_divided_and_merged() {
    let db = Database::<Postgres>::behind_a_pooler().await;
    let start = |segments| {
        let settings = Settings::default().segments(segments).batch_size(7);
        Running::start(db.worker().consumer(read_model("c").settings(settings)))
    };
    let ids: Vec<String> = (0..100).map(|n| format!("a-{}", n % 40)).collect();
    let append = async || *db.append("Account", &ids).await.last().unwrap();
    let reached = async |worker: &Running<Postgres>, position| {
        patiently("it catches up", worker.caught_up_to(position))
            .await
            .unwrap();
    };
    let rows = async || db.number("SELECT count(*) FROM consumer_progress").await;

    let one = start(1);
    reached(&one, append().await).await;
    let eight = start(8);
    let position = append().await;
    until("the row is divided", async || rows().await == 8).await;
    for worker in [&one, &eight] {
        reached(worker, position).await;
    }
    eight.stop().await;
    let flowing = async { tokio::join!(append(), merge_segments(&db.store, "c", 1, 2)) };
    let (position, merged) = patiently("the rows are made one", flowing).await;
    merged.unwrap();
    assert_eq!(rows().await, 2);
    reached(&one, position).await;
    one.stop().await;

    let mut applied = db.applied("c").await;
    applied.sort_unstable();
    assert_eq!(
        applied,
        db.numbers("SELECT global_position FROM events ORDER BY 1")
            .await
    );
    let disorder = "SELECT count(*) FROM (
        SELECT version - lag(version, 1, 0::bigint) OVER (PARTITION BY aggregate ORDER BY ordinal) AS step
          FROM applied) AS steps WHERE step <> 1";
    assert_eq!(db.numbers(disorder).await, [0]);
}
