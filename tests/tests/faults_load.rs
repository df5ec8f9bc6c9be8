//! What it costs: many consumers, large and odd events, the guard of R4, a network that is cut.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use consumer::{EventStore, ExpectedVersion, LaneState, NewEvent, Settings, Worker};
use consumer_tests::{
    Database, Running, TestPostgres, batch_consumer, consumer, on_both_databases, patiently,
    read_model, run_once, until,
};
use sqlx::Postgres;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

type Tx<DB> = <DB as sqlx::Database>::Connection;

on_both_databases! {
    async fn events_of_any_size_and_content_come_through_as_they_were(db) {
        let payloads = [
            Vec::new(),
            b"not JSON".to_vec(),
            vec![0xff, 0xfe, 0x00, 0x80],
            vec![0; 1 << 20],
            vec![7; 20 << 20],
            b"{}".to_vec(),
        ];
        let ids = ["", "it's \"quoted\"; DROP TABLE events", "\u{1F980} \u{202E}", &"x".repeat(2_000)];
        for (n, payload) in payloads.iter().enumerate() {
            let event = NewEvent::new("Blob", ids[n % ids.len()], "Stored", payload.clone());
            db.store.append_in_transaction(ExpectedVersion::Any, &[event]).await.unwrap();
        }
        let seen: Arc<Mutex<Vec<(String, usize)>>> = Arc::default();
        let (sink, expected) = (Arc::clone(&seen), payloads.clone());
        let c = consumer("c", move |_, _: &mut Tx<Db>, event| {
            let mut seen = sink.lock().unwrap();
            assert!(event.payload == expected[seen.len()]);
            seen.push((event.aggregate_id.clone(), event.payload.len()));
            Box::pin(async { Ok(()) })
        });
        let report = db.run_once(c).await;
        assert_eq!(report.consumer("c").unwrap().state, LaneState::CaughtUp, "{report}");
        let expected: Vec<_> = payloads.iter().enumerate().map(|(n, payload)| (ids[n % ids.len()].to_owned(), payload.len())).collect();
        assert_eq!(*seen.lock().unwrap(), expected);
    }

    async fn a_batch_holds_no_more_bytes_than_it_may_and_never_less_than_an_event(db) {
        for n in 0..20 {
            let size = if n == 7 { 300_000 } else { 30_000 };
            let event = NewEvent::new("Blob", "b", "Stored", vec![0; size]);
            db.store.append_in_transaction(ExpectedVersion::Any, &[event]).await.unwrap();
        }
        let batches: Arc<Mutex<Vec<(usize, usize)>>> = Arc::default();
        let sink = Arc::clone(&batches);
        let c = batch_consumer("c", move |_, _: &mut Tx<Db>, events| {
            let bytes = events.iter().map(|event| event.payload.len()).sum();
            sink.lock().unwrap().push((events.len(), bytes));
            Box::pin(async move { Ok(events.len()) })
        });
        run_once(db.worker().batch_bytes(100_000).cache_bytes(400_000).consumer(c)).await;
        let batches = batches.lock().unwrap();
        assert_eq!(batches.iter().map(|(events, _)| events).sum::<usize>(), 20);
        for (events, bytes) in batches.iter() {
            assert!(*events == 1 || *bytes <= 100_000, "{batches:?}");
        }
        assert!(batches.iter().any(|(_, bytes)| *bytes >= 300_000), "{batches:?}");
    }

    async fn positions_near_the_end_of_their_range_are_handled(db) {
        let db = db.with_read_model().await;
        let first = i64::MAX - 5;
        db.append("User", &["a"]).await;
        if <Db as sqlx::Database>::NAME == "SQLite" {
            db.execute(&format!("UPDATE sqlite_sequence SET seq = {} WHERE name = 'events'", first - 1)).await;
        } else {
            db.execute(&format!("SELECT setval('events_global_position_seq', {}, false)", first + 1)).await;
        }
        let last = db.append("User", &["b", "c"]).await;
        assert!(last[0] >= first);
        db.run_once(read_model("c")).await;
        assert_eq!(db.applied("c").await, [1, last[0], last[1]]);
        assert_eq!(db.checkpoint("c").await, Some(last[1]));
    }

    async fn many_consumers_that_write_at_once_do_not_fight(db) {
        let db = db.with_read_model().await;
        let names: Vec<String> = (0..12).map(|n| format!("c-{n}")).collect();
        let builder = names.iter().fold(db.worker(), |builder, name| builder.consumer(read_model(name)));
        let worker = Running::start(builder.configure_all(|settings| settings.batch_size(5)));
        let mut positions = Vec::new();
        for _ in 0..10 {
            positions.extend(db.append("User", &["a", "b", "c"]).await);
        }
        patiently("all catch up", worker.caught_up_to(*positions.last().unwrap())).await.unwrap();
        let report = worker.stop().await;
        assert!(!report.has_failures(), "{report}");
        for name in &names {
            assert_eq!(db.applied(name).await, positions, "{name}");
        }
    }
}

/// How many statements the server has run in that database, by `pg_stat_statements`.
async fn statements(server: &Database<Postgres>, database: &str) -> i64 {
    let sql = format!(
        "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
          WHERE dbid = (SELECT oid FROM pg_database WHERE datname = '{database}')"
    );
    server.numbers(&sql).await[0]
}

/// The statements a second of a worker whose consumers have nothing to do.
async fn idle_statements(consumers: usize) -> f64 {
    let server = TestPostgres::builder()
        .setting("shared_preload_libraries", "pg_stat_statements")
        .start();
    let watching = server.database().await;
    let watching = Database::of(EventStore::new(watching.pool.clone()), &watching.url).await;
    watching
        .execute("CREATE EXTENSION pg_stat_statements")
        .await;
    let database = server.database().await;
    let db = Database::of(EventStore::new(database.pool.clone()), &database.url).await;
    let head = *db.append_many(10).await.last().unwrap();
    let builder = (0..consumers).fold(Worker::builder(db.store.clone()), |builder, n| {
        builder.consumer(read_model(&format!("c-{n}")))
    });
    let worker = Running::start(builder);
    patiently("all catch up", worker.caught_up_to(head))
        .await
        .unwrap();
    let (before, from) = (statements(&watching, &database.name).await, Instant::now());
    // What is measured is the passing of time.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (after, elapsed) = (statements(&watching, &database.name).await, from.elapsed());
    worker.stop().await;
    #[allow(clippy::cast_precision_loss)]
    let rate = (after - before) as f64 / elapsed.as_secs_f64();
    rate
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_consumers_cost_the_same_few_statements_however_many_they_are() {
    let (one, fifty) = (idle_statements(1).await, idle_statements(50).await);
    println!("statements a second of an idle worker: {one:.1} with 1 consumer, {fifty:.1} with 50");
    assert!(fifty < 25.0, "{fifty}");
    assert!(fifty < one * 3.0, "{one} with one, {fifty} with fifty");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_against_raw_commits_is_paid_once_a_batch() {
    let db = Database::<Postgres>::fresh().await;
    let idle = |name: &str| {
        consumer(name, |_, _: &mut Tx<Postgres>, _| {
            Box::pin(async { Ok(()) })
        })
    };
    let batches = 300;
    db.append_many(batches).await;
    let mut times = Vec::new();
    for guarded in [true, false] {
        if !guarded {
            db.execute("DROP TRIGGER consumer_guard ON consumer_progress")
                .await;
        }
        let name = format!("guarded-{guarded}");
        let settings = Settings::default().batch_size(1);
        let from = Instant::now();
        let report = db.run_once(idle(&name).settings(settings)).await;
        times.push(from.elapsed() / u32::try_from(batches).unwrap());
        assert_eq!(report.consumer(&name).unwrap().batches, batches as u64);
    }
    println!(
        "a batch of one event takes {:?} with the guard, {:?} without",
        times[0], times[1]
    );
}

/// A way to the server that can be cut as a network is: nothing comes through, and nobody is told.
struct Network {
    port: u16,
    cut: watch::Sender<bool>,
    _connections: tokio::task::JoinHandle<()>,
}

impl Network {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cut, is_cut) = watch::channel(false);
        let connections = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (server, is_cut) = (server.clone(), is_cut.clone());
                open.spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else {
                        return;
                    };
                    let (mut client_in, mut client_out) = client.into_split();
                    let (mut server_in, mut server_out) = server.into_split();
                    let mut cut = is_cut.clone();
                    tokio::select! {
                        _ = tokio::io::copy(&mut client_in, &mut server_out) => {}
                        _ = tokio::io::copy(&mut server_in, &mut client_out) => {}
                        // The sockets stay open, and silent.
                        () = is_cut_off(&mut cut) => std::future::pending().await,
                    }
                });
            }
        });
        Self {
            port,
            cut,
            _connections: connections,
        }
    }
}

async fn is_cut_off(cut: &mut watch::Receiver<bool>) {
    let _ = cut.wait_for(|cut| *cut).await.map(drop);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_takes_over_from_one_behind_a_cut_network_which_comes_back_by_itself() {
    let db = Database::<Postgres>::fresh().await.with_read_model().await;
    let (server, name) = db.url.rsplit_once('/').unwrap();
    let network = Network::to(server.rsplit('@').next().unwrap().to_owned()).await;
    let url = format!("postgres://postgres@127.0.0.1:{}/{name}", network.port);
    let pool = sqlx::postgres::PgPoolOptions::new()
        .acquire_timeout(Duration::from_secs(2))
        .connect(&url)
        .await
        .unwrap();
    let store = EventStore::new(pool);
    let positions = db.append_many(3).await;
    let (go_on, gate) = watch::channel(false);
    let entered = Arc::new(tokio::sync::Notify::new());
    let tell = Arc::clone(&entered);
    let c = consumer("c", move |_, tx: &mut Tx<Postgres>, event| {
        let (tell, mut gate) = (Arc::clone(&tell), gate.clone());
        Box::pin(async move {
            tell.notify_one();
            gate.wait_for(|open| *open).await?;
            Ok(<Postgres as consumer_tests::TestBackend>::apply(tx, "c", event).await?)
        })
    });
    let timeout = Duration::from_millis(300);
    let settings = Settings::default().handler_timeout(Duration::from_secs(1));
    let cut_off = Running::start(
        Worker::builder(store)
            .claim_timeout(timeout)
            .consumer(c.settings(settings)),
    );
    patiently("it holds the claim", entered.notified()).await;
    network.cut.send_replace(true);
    let cut = Instant::now();
    let heir = Running::start(db.worker().consumer(read_model("c")));
    patiently("it takes over", heir.caught_up_to(positions[2]))
        .await
        .unwrap();
    println!(
        "took over {:?} after the cut, claim timeout {timeout:?}",
        cut.elapsed()
    );
    heir.stop().await;
    network.cut.send_replace(false);
    go_on.send_replace(true);
    let more = db.append_many(3).await;
    until("the one that was cut off goes on", async || {
        db.checkpoint("c").await == Some(more[2])
    })
    .await;
    println!("it came back {:?} after the cut", cut.elapsed());
    cut_off.stop().await;
    assert_eq!(db.applied("c").await, [positions, more].concat());
}
