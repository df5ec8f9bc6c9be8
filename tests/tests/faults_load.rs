//! Many consumers, large and odd events, the cost of the guard of R4, a network that is cut.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use consumer::{ConsumerState, EventStore, NewEvent, OnError, Settings, Worker};
use consumer_tests::{
    Counting, Database, Running, TestDatabase, batch_consumer, consumer, impatient, judging,
    keep_log, logged, noise, patiently, read_model, run_once, test_on, until,
};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{Postgres, Sqlite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

type Tx<DB> = <DB as sqlx::Database>::Connection;

/// How much longer everything may take on a machine under load.
const LEEWAY: Duration = Duration::from_secs(30);

/// Logged when a lane has to wait for its database.
const DATABASE_TROUBLE: &str = "the database could not be used";

test_on!(
    [sqlite, postgres],
    events_of_any_size_and_content_arrive_unchanged,
    events_with_odd_ids_are_parked_with_their_successors,
    a_batch_respects_its_bytes_but_has_at_least_one_event,
    positions_near_the_end_of_their_range_are_handled,
    a_worker_starts_near_the_last_possible_position,
    many_consumers_write_at_once_without_database_errors
);

async fn events_of_any_size_and_content_arrive_unchanged<DB: TestDatabase>(db: Database<DB>) {
    let payloads = [
        Vec::new(),
        b"not JSON".to_vec(),
        vec![0xff, 0xfe, 0x00, 0x80],
        vec![0; 1 << 20],
        (0..=255).cycle().take(50 << 20).collect(),
        b"{}".to_vec(),
    ];
    let ids = [
        "",
        "it's \"quoted\"; DROP TABLE events",
        "\u{1F980} \u{202E}",
        &"long ".repeat(2_000),
    ];
    for (n, payload) in payloads.iter().enumerate() {
        let event = NewEvent::new("Blob", ids[n % ids.len()], "Stored", payload.clone());
        db.append_event(event).await;
    }
    let seen: Arc<Mutex<Vec<(String, usize)>>> = Arc::default();
    let (sink, expected) = (Arc::clone(&seen), payloads.clone());
    let c = consumer("c", move |_, _: &mut Tx<DB>, event| {
        let mut seen = sink.lock().unwrap();
        assert!(event.payload == expected[seen.len()]);
        seen.push((event.aggregate_id.clone(), event.payload.len()));
        Box::pin(async { Ok(()) })
    });
    let report = db.run_once(c).await;
    assert_eq!(
        report.consumer("c").unwrap().state,
        ConsumerState::CaughtUp,
        "{report}"
    );
    let expected: Vec<_> = payloads
        .iter()
        .enumerate()
        .map(|(n, payload)| (ids[n % ids.len()].to_owned(), payload.len()))
        .collect();
    assert_eq!(*seen.lock().unwrap(), expected);
}

async fn events_with_odd_ids_are_parked_with_their_successors<DB: TestDatabase>(db: Database<DB>) {
    let mut odd = vec![
        String::new(),
        "'; DROP TABLE events; --".to_owned(),
        "\u{1F980}".to_owned(),
        "long ".repeat(2_000),
    ];
    if DB::NAME == "SQLite" {
        odd.extend([noise(10_000), "nul \0".to_owned()]);
    } else {
        odd.push(noise(2_000));
    }
    let ids: Vec<&str> = odd
        .iter()
        .map(String::as_str)
        .chain(["plain"])
        .flat_map(|id| [id, id])
        .collect();
    let positions = db.append("User", &ids).await;
    let c = judging("c", |_, event| {
        if event.aggregate_id == "plain" {
            Ok(())
        } else {
            Err("odd".to_owned())
        }
    });
    let report = db
        .run_once(c.settings(impatient().retries(0).on_error(OnError::Park)))
        .await;
    assert_eq!(
        report.consumer("c").unwrap().state,
        ConsumerState::CaughtUp,
        "{report}"
    );
    let (aside, plain) = positions.split_at(2 * odd.len());
    assert_eq!(db.parked("c").await, aside);
    assert_eq!(db.applied("c").await, plain);
    let parked = db
        .texts("SELECT aggregate_id FROM consumer_parked ORDER BY position")
        .await;
    assert_eq!(parked, ids[..aside.len()]);
}

async fn a_batch_respects_its_bytes_but_has_at_least_one_event<DB: TestDatabase>(db: Database<DB>) {
    for n in 0..20 {
        let size = if n == 7 { 300_000 } else { 30_000 };
        let event = NewEvent::new("Blob", "b", "Stored", vec![0; size]);
        db.append_event(event).await;
    }
    let batches: Arc<Mutex<Vec<(usize, usize)>>> = Arc::default();
    let sink = Arc::clone(&batches);
    let c = batch_consumer("c", move |_, _: &mut Tx<DB>, events| {
        let bytes = events.iter().map(|event| event.payload.len()).sum();
        sink.lock().unwrap().push((events.len(), bytes));
        Box::pin(async move { Ok(events.len()) })
    });
    run_once(
        db.worker()
            .batch_bytes(100_000)
            .cache_bytes(400_000)
            .consumer(c),
    )
    .await;
    let batches = batches.lock().unwrap();
    assert_eq!(batches.iter().map(|(events, _)| events).sum::<usize>(), 20);
    for (events, bytes) in batches.iter() {
        assert!(*events == 1 || *bytes <= 100_000, "{batches:?}");
    }
    assert!(
        batches.iter().any(|(_, bytes)| *bytes >= 300_000),
        "{batches:?}"
    );
}

async fn positions_near_the_end_of_their_range_are_handled<DB: TestDatabase>(db: Database<DB>) {
    let mut expected = db.append("User", ["a"]).await;
    let worker = Running::start(
        db.worker()
            .consumer(read_model("c"))
            .scoped_consumer(read_model("orders").scope(&["Order"])),
    );
    patiently("it starts", worker.caught_up()).await.unwrap();
    let last_before = i64::MAX - 4;
    db.execute(&if DB::NAME == "SQLite" {
        format!("UPDATE sqlite_sequence SET seq = {last_before} WHERE name = 'events'")
    } else {
        format!("SELECT setval('events_global_position_seq', {last_before})")
    })
    .await;
    for _ in 0..2 {
        expected.extend(db.append("User", ["b", "c"]).await);
        patiently(
            "it catches up",
            worker.caught_up_to(*expected.last().unwrap()),
        )
        .await
        .unwrap();
    }
    assert_eq!(
        expected[1..],
        [i64::MAX - 3, i64::MAX - 2, i64::MAX - 1, i64::MAX]
    );
    let report = worker.stop().await;
    assert!(!report.has_failures(), "{report}");
    assert_eq!(db.applied("c").await, expected);
    assert_eq!(db.checkpoint("c").await, Some(i64::MAX));
    assert_eq!(db.checkpoint("orders").await, Some(i64::MAX));
}

async fn a_worker_starts_near_the_last_possible_position<DB: TestDatabase>(db: Database<DB>) {
    let mut expected = db.append("User", ["a"]).await;
    let last_before = i64::MAX - 4;
    db.execute(&if DB::NAME == "SQLite" {
        format!("UPDATE sqlite_sequence SET seq = {last_before} WHERE name = 'events'")
    } else {
        format!("SELECT setval('events_global_position_seq', {last_before})")
    })
    .await;
    expected.extend(db.append("User", ["b", "c"]).await);
    // On Postgres each start draws a position to try the server out.
    for _ in 0..2 {
        let report = run_once(db.worker().consumer(read_model("c"))).await;
        assert!(!report.has_failures(), "{report}");
        assert_eq!(db.applied("c").await, expected);
    }
}

async fn many_consumers_write_at_once_without_database_errors<DB: TestDatabase>(db: Database<DB>) {
    keep_log();
    let names: Vec<String> = (0..12)
        .map(|n| format!("{}-at-once-{n}", DB::NAME))
        .collect();
    let builder = names.iter().fold(db.worker(), |builder, name| {
        builder.consumer(read_model(name))
    });
    let worker = Running::start(builder.configure_all(|settings| settings.batch_size(5)));
    let mut positions = Vec::new();
    for _ in 0..10 {
        positions.extend(db.append("User", ["a", "b", "c"]).await);
    }
    patiently(
        "all catch up",
        worker.caught_up_to(*positions.last().unwrap()),
    )
    .await
    .unwrap();
    let report = worker.stop().await;
    assert!(!report.has_failures(), "{report}");
    for name in &names {
        assert_eq!(db.applied(name).await, positions, "{name}");
        assert_eq!(logged(&[DATABASE_TROUBLE, name]), [] as [String; 0]);
    }
}

/// The same file over connections that do not wait for other writers.
async fn without_busy_timeout(db: &Database<Sqlite>) -> Database<Sqlite> {
    let options: SqliteConnectOptions = db.url.parse().unwrap();
    let pool = SqlitePoolOptions::new()
        .max_connections(20)
        .connect_with(options.busy_timeout(Duration::ZERO))
        .await
        .unwrap();
    Database::of(EventStore::new(pool), &db.url)
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_of_one_process_never_find_sqlite_busy() {
    keep_log();
    let db = Database::<Sqlite>::fresh().await;
    let hasty = without_busy_timeout(&db).await;
    let start = |db: &Database<Sqlite>, names: &[String]| {
        let builder = names.iter().fold(db.worker(), |builder, name| {
            builder.consumer(read_model(name))
        });
        Running::start(builder.configure_all(|settings| settings.batch_size(2)))
    };
    let caught_up = async |worker: &Running<Sqlite>| {
        patiently("it catches up", worker.caught_up())
            .await
            .unwrap();
    };
    let names: Vec<String> = (0..12).map(|n| format!("in-turn-{n}")).collect();
    let worker = start(&hasty, &names);
    caught_up(&worker).await;
    let mut positions = db.append_many(100).await;
    caught_up(&worker).await;
    worker.stop().await;
    for name in &names {
        assert_eq!(db.applied(name).await, positions);
        assert_eq!(logged(&[DATABASE_TROUBLE, name]), [] as [String; 0]);
    }

    // Two stores of one file behave like two processes.
    let names = ["left", "right"].map(|side| [format!("{side}-of-two")]);
    let left = start(&hasty, &names[0]);
    caught_up(&left).await;
    let right = start(&without_busy_timeout(&db).await, &names[1]);
    caught_up(&right).await;
    let locked_out = || logged(&[DATABASE_TROUBLE, "-of-two", "database is locked"]);
    patiently("they find the database locked", async {
        while locked_out().is_empty() {
            positions.extend(db.append_many(100).await);
            caught_up(&left).await;
            caught_up(&right).await;
        }
    })
    .await;
    left.stop().await;
    right.stop().await;
    for [name] in names {
        assert_eq!(db.applied(&name).await, positions);
    }
}

/// A worker whose consumers have nothing to do, half of them with a scope that has no events.
async fn idle(db: &Database<Postgres>, consumers: usize) -> Running<Postgres> {
    let head = *db.append_many(10).await.last().unwrap();
    let builder = Worker::builder(db.store.clone()).advance_interval(ADVANCE_INTERVAL);
    let builder = (0..consumers).fold(builder, |builder, n| {
        let consumer = read_model(&format!("c-{n}"));
        match n % 2 {
            0 => builder.scoped_consumer(consumer.scope(&["Order"])),
            _ => builder.consumer(consumer),
        }
    });
    let worker = Running::start(builder);
    patiently("all catch up", worker.caught_up_to(head))
        .await
        .unwrap();
    until("all checkpoints advance", async || {
        let behind = format!("SELECT count(*) FROM consumer_progress WHERE position < {head}");
        db.number(&behind).await == 0
    })
    .await;
    worker
}

/// The interval at which checkpoints of idle consumers advance in this test.
const ADVANCE_INTERVAL: Duration = Duration::from_secs(1);

/// The number of statements per second of an idle worker: four reads of the log; three for the conditions
/// of its sequence, its state and the checkpoint rows, in one message; and, here once a second, five: the
/// version of the tables, the privileges, two of the log's columns, and the number of parked events. With
/// the default intervals it is 7.5.
const MOST_STATEMENTS: f64 = 4.0 + 3.0 + 5.0;

#[tokio::test(flavor = "multi_thread")]
async fn idle_consumers_share_a_few_statements_per_second() {
    let counting = Counting::start().await;
    let one = Database::on(&counting.server).await;
    let fifty = Database::on(&counting.server).await;
    let workers = [idle(&one, 1).await, idle(&fifty, 50).await];
    let everything = "^$";
    let count = async || {
        [
            counting.statements(&one, everything).await,
            counting.statements(&fifty, everything).await,
        ]
    };
    let (before, from) = (count().await, Instant::now());
    // A rate needs time to pass: several times the interval at which checkpoints advance.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let (after, seconds) = (count().await, from.elapsed().as_secs_f64());
    for worker in workers {
        worker.stop().await;
    }
    let [one, fifty] = [0, 1].map(|n| (after[n] - before[n]) as f64 / seconds);
    println!("statements a second of an idle worker: {one:.2} with 1 consumer, {fifty:.2} with 50");
    // One of each more may fall into that time.
    assert!(fifty <= MOST_STATEMENTS + 1.0, "{fifty}");
    assert!(fifty <= one + 5.0, "{one} with 1, {fifty} with 50");
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_the_guard_costs_no_exchange_with_the_server() {
    let counting = Counting::start().await;
    let db = Database::on(&counting.server).await;
    db.append_many(300).await;
    // Reads of the log and of the checkpoint rows do not depend on batches.
    let looks = "row_number|^SELECT consumer, version";
    let mut statements = Vec::new();
    for batch_size in [1, 100] {
        let name = format!("c-{batch_size}");
        let idle = consumer(&name, |_, _: &mut Tx<Postgres>, _| {
            Box::pin(async { Ok(()) })
        });
        let before = counting.statements(&db, looks).await;
        let settings = Settings::default().batch_size(batch_size);
        let worker = Worker::builder(db.store.clone()).consumer(idle.settings(settings));
        let report = run_once(worker).await;
        statements.push(counting.statements(&db, looks).await - before);
        let batches = 300 / u64::from(batch_size);
        assert_eq!(report.consumer(&name).unwrap().batches, batches);
    }
    // Statements per worker, not per batch, are the same in both, but for a few.
    let batches = 300 - 3;
    let per_batch = (statements[0] - statements[1] + batches / 2) / batches;
    // The claim, the save and the COMMIT, and in the message of the BEGIN five that restore the session and two
    // of the guard.
    assert_eq!(per_batch, 3 + 1 + 5 + 2, "{statements:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_costs_the_parked_aggregates_and_not_their_events() {
    const MOST_PAGES: i64 = 100;
    let counting = Counting::start().await;
    let db = Database::on(&counting.server).await;
    run_once(db.worker().consumer(read_model("c"))).await;
    db.execute(
        "INSERT INTO consumer_parked (consumer, version, aggregate_type, aggregate_id, position,
                                      slice, reason)
         SELECT 'c', 1, 'User', 'u-' || n % 2, n, 0, 'behind' FROM generate_series(1, 50000) AS n;
         ANALYZE consumer_parked",
    )
    .await;
    let appended = db.append("User", ["u-2"]).await;
    counting.forget().await;

    run_once(db.worker().consumer(read_model("c"))).await;
    assert_eq!(db.applied("c").await, appended);
    let found = "^WITH RECURSIVE found";
    let (calls, pages) = (
        counting.calls(&db, found).await,
        counting.pages(&db, found).await,
    );
    assert!(calls > 0, "the control: a batch looks for them");
    assert!(pages <= calls * MOST_PAGES, "{pages} pages in {calls}");
    // The control: their events are on many more.
    db.execute("SELECT DISTINCT aggregate_type, aggregate_id FROM consumer_parked")
        .await;
    let pages = counting.pages(&db, "^SELECT DISTINCT").await;
    assert!(pages > 3 * MOST_PAGES, "{pages}");
}

/// A proxy that can be cut as a network is: no data passes, and no connection is closed.
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
async fn a_worker_cut_off_from_its_server_is_replaced_and_recovers() {
    let db = Database::<Postgres>::fresh().await;
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
            Ok(Postgres::apply(tx, "c", event).await?)
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
    assert!(cut.elapsed() < timeout + LEEWAY);
    heir.stop().await;
    let restored = Instant::now();
    network.cut.send_replace(false);
    go_on.send_replace(true);
    let more = db.append_many(3).await;
    until("the one that was cut off continues", async || {
        db.checkpoint("c").await == Some(more[2])
    })
    .await;
    println!("it came back {:?} after the network", restored.elapsed());
    // A connection that is silent for 5 s is given up, a read after five times that.
    assert!(restored.elapsed() < Duration::from_secs(5 * 5) + LEEWAY);
    cut_off.stop().await;
    assert_eq!(db.applied("c").await, [positions, more].concat());
}

test_on!(
    [sqlite, postgres],
    hanging_publishers_do_not_block_read_models
);

async fn hanging_publishers_do_not_block_read_models<DB: TestDatabase>(db: Database<DB>) {
    let (go_on, gate) = watch::channel(false);
    let entered = Arc::new(Semaphore::new(0));
    let publishers: Vec<String> = (0..6).map(|n| format!("publisher-{n}")).collect();
    let read_models: Vec<String> = (0..6).map(|n| format!("read-model-{n}")).collect();
    let published: Arc<Mutex<Vec<(String, i64)>>> = Arc::default();
    let builder = publishers.iter().fold(db.worker(), |builder, name| {
        let (gate, entered, published, own_name) = (
            gate.clone(),
            Arc::clone(&entered),
            Arc::clone(&published),
            name.clone(),
        );
        let publisher = consumer(name, move |_, _: &mut Tx<DB>, event| {
            let (mut gate, entered, published, name) = (
                gate.clone(),
                Arc::clone(&entered),
                Arc::clone(&published),
                own_name.clone(),
            );
            Box::pin(async move {
                entered.add_permits(1);
                gate.wait_for(|open| *open).await?;
                published
                    .lock()
                    .unwrap()
                    .push((name, event.global_position));
                Ok(())
            })
        });
        builder.consumer(publisher.without_tx())
    });
    let worker = Running::start(
        read_models
            .iter()
            .fold(builder, |builder, name| builder.consumer(read_model(name))),
    );
    let mut positions = db.append("User", ["a"]).await;
    // As many as have connections, which four of them do in a pool of 20: the others wait for those.
    let all = patiently("the publishers hang", entered.acquire_many(4))
        .await
        .unwrap();
    drop(all);
    positions.extend(db.append("User", ["b", "c"]).await);
    for name in &read_models {
        patiently(
            "it continues",
            worker.consumer_caught_up_to(name, positions[2]),
        )
        .await
        .unwrap();
        assert_eq!(db.applied(name).await, positions, "{name}");
    }
    assert_eq!(*published.lock().unwrap(), [] as [(String, i64); 0]);
    go_on.send_replace(true);
    patiently("all catch up", worker.caught_up_to(positions[2]))
        .await
        .unwrap();
    worker.stop().await;
    let mut published = published.lock().unwrap().clone();
    published.sort();
    let expected: Vec<_> = publishers
        .iter()
        .flat_map(|name| positions.iter().map(|position| (name.clone(), *position)))
        .collect();
    assert_eq!(published, expected);
}
