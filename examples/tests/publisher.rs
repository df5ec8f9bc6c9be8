//! Kills the publisher of the examples again and again, on both databases and with a real broker.

mod broker;
mod process;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::{self, stream::Stream};
use consumer::{Backend, EventStore, ExpectedVersion, NewEvent, SqliteEventStore};
use consumer_tests::TestPostgres;
use futures_util::StreamExt as _;
use tokio::sync::watch;

use self::broker::{client, count_sent, nats_server};
use self::process::Process;

fn publisher(database: &str, nats: &str, arguments: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nats_publisher"));
    command
        .args(arguments)
        .env("DATABASE_URL", database)
        .env("NATS_URL", nats)
        .stdout(Stdio::null());
    Process::start(&mut command)
}

/// Appends until it is told to end, never far ahead of the publisher, and returns the number of events.
async fn append<DB: Backend>(
    store: EventStore<DB>,
    mut sent: watch::Receiver<u64>,
    mut end: watch::Receiver<bool>,
) -> u64 {
    const AHEAD: u64 = 2_000;
    let mut appended = 0;
    while !*end.borrow() {
        let order = format!("o{}", appended / 500);
        let events: Vec<_> = (0..20)
            .map(|_| NewEvent::new("Order", &*order, "Placed", "{}"))
            .collect();
        store.append(ExpectedVersion::Any, &events).await.unwrap();
        appended += 20;
        tokio::select! {
            reached = sent.wait_for(|sent| sent + AHEAD > appended) => { reached.unwrap(); }
            ended = end.wait_for(|end| *end) => { ended.unwrap(); }
        }
    }
    appended
}

/// The ids of all events in the log.
async fn in_the_log<DB: Backend>(store: &EventStore<DB>) -> BTreeSet<String> {
    let mut connection = store.pool().acquire().await.unwrap();
    let mut ids = BTreeSet::new();
    let mut after = 0;
    loop {
        let events = store.read_events(&mut connection, after, 1_000).await;
        let events = events.unwrap();
        let Some(last) = events.last() else {
            return ids;
        };
        after = last.global_position;
        ids.extend(events.iter().map(|event| event.event_id.to_string()));
    }
}

/// The message ids of the first `count` messages of the stream.
async fn on_the_stream(stream: &Stream, count: u64) -> Vec<String> {
    let reader = stream.create_consumer(OrderedConfig::default()).await;
    let messages = reader.unwrap().messages().await.unwrap();
    messages
        .take(usize::try_from(count).unwrap())
        .map(|message| {
            let headers = message.unwrap().headers.clone().unwrap();
            headers.get("Nats-Msg-Id").unwrap().to_string()
        })
        .collect()
        .await
}

async fn is_killed_20_times<DB: Backend>(database: &str, store: EventStore<DB>) {
    store.migrate().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (_server, url) = nats_server(directory.path()).await;
    // Requests wait until the server is ready.
    let client = client(&url).await;
    let mut sent = count_sent(&client).await;
    let (end, ended) = watch::channel(false);
    let appending = tokio::spawn(append(store.clone(), sent.clone(), ended));

    for _ in 0..20 {
        let seen = *sent.borrow_and_update();
        let killed = publisher(database, &url, &[]);
        // At a random moment after it has started to publish, while events are appended.
        let some = u64::from(uuid::Uuid::new_v4().as_bytes()[0]) * 4;
        sent.wait_for(|sent| *sent > seen + some).await.unwrap();
        drop(killed);
    }
    end.send_replace(true);
    let appended = appending.await.unwrap();
    let mut last = publisher(database, &url, &["--once"]);
    assert!(last.0.wait().unwrap().success());

    let log = in_the_log(&store).await;
    assert_eq!(log.len() as u64, appended);
    let mut stream = jetstream::new(client)
        .get_stream("integration")
        .await
        .unwrap();
    let count = stream.info().await.unwrap().state.messages;
    assert_eq!(count, appended, "by the broker's own count");
    let published = on_the_stream(&stream, count).await;
    assert!(
        published.into_iter().collect::<BTreeSet<_>>() == log,
        "every event of the log, and nothing else"
    );
    // The control: more messages were sent, so without the message ids there would be repeats.
    let repeats = sent.wait_for(|sent| *sent > appended).await;
    println!("{appended} events, {} messages sent", *repeats.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_published_once_after_20_kills_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("app.db").display());
    let store = SqliteEventStore::connect(&url).await.unwrap();
    is_killed_20_times(&url, store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_published_once_after_20_kills_on_postgres() {
    let database = TestPostgres::shared().await.database().await;
    is_killed_20_times(&database.url, database.store().await).await;
}
