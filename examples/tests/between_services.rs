//! From one service's log to another's: the publisher and the importer of the examples, with real brokers.

mod broker;
mod process;
mod shown;
#[allow(dead_code)] // The programs use all of it.
#[path = "../src/bin/nats/stream.rs"]
mod stream;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::{self, Context as JetStream, Message, stream::Stream};
use consumer::prelude::*;
use consumer::{Backend, EventRecord, EventStore, Metadata, sqlx};
use consumer_tests::{
    Database, NaiveReader, PgDatabase, TestPostgres, patiently, until, until_some,
};
use futures_util::StreamExt as _;
use sqlx::Postgres;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use self::broker::{Cluster, client, nats_server};
use self::process::Process;

/// How soon unacknowledged messages come again, in milliseconds.
const ACK_WAIT: u64 = 400;

fn program(path: &str, database: &str, nats: &str) -> Command {
    let mut command = Command::new(path);
    command
        .env("DATABASE_URL", database)
        .env("NATS_URL", nats)
        .env("ACK_WAIT_MS", ACK_WAIT.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn publisher(database: &str, nats: &str) -> Command {
    program(env!("CARGO_BIN_EXE_nats_publisher"), database, nats)
}

fn importer(database: &str, nats: &str) -> Command {
    program(env!("CARGO_BIN_EXE_importer"), database, nats)
}

/// What an event is in any log, of which only the position and the time may differ.
#[derive(Clone, Debug, PartialEq)]
struct Content {
    id: Uuid,
    version: i64,
    aggregate_type: String,
    event_type: String,
    event_version: i32,
    payload: Vec<u8>,
    metadata: Option<serde_json::Value>,
    trace_id: Option<String>,
    correlation_id: Option<String>,
    causation_id: Option<String>,
}

impl From<&PersistedEvent> for Content {
    fn from(event: &PersistedEvent) -> Self {
        let json = |metadata: &Metadata| serde_json::from_slice(metadata.as_bytes()).unwrap();
        Self {
            id: event.event_id,
            version: event.aggregate_version,
            aggregate_type: event.aggregate_type.to_string(),
            event_type: event.event_type.to_string(),
            event_version: event.event_version,
            payload: event.payload.to_vec(),
            metadata: event.metadata.as_ref().map(json),
            trace_id: event.trace_id.clone(),
            correlation_id: event.correlation_id.clone(),
            causation_id: event.causation_id.clone(),
        }
    }
}

/// The events of each aggregate in the order of the log.
async fn contents<DB: Backend>(store: &EventStore<DB>) -> BTreeMap<String, Vec<Content>> {
    let mut contents: BTreeMap<String, Vec<Content>> = BTreeMap::new();
    let mut tx = store.begin().await.unwrap();
    for event in store.read_events(&mut tx, 0, u32::MAX >> 1).await.unwrap() {
        contents
            .entry(event.aggregate_id.clone())
            .or_default()
            .push(Content::from(&event));
    }
    contents
}

fn count(contents: &BTreeMap<String, Vec<Content>>) -> usize {
    contents.values().map(Vec::len).sum()
}

/// A single server with the stream of the programs, and a log to import into.
struct Single {
    url: String,
    context: JetStream,
    stream: Stream,
    database: PgDatabase,
    store: PgEventStore,
    _server: Process,
    _directory: TempDir,
}

impl Single {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (server, url) = nats_server(directory.path()).await;
        let context = jetstream::new(client(&url).await);
        let stream = stream::create(&context).await.unwrap();
        let database = TestPostgres::shared().await.database().await;
        let store = database.store().await;
        Self {
            url,
            context,
            stream,
            database,
            store,
            _server: server,
            _directory: directory,
        }
    }

    /// Publishes the version of an order, as the publisher does.
    async fn publish(&self, order: &str, version: i64) -> Uuid {
        let event = PersistedEvent::new(EventRecord {
            aggregate_type: "Order".into(),
            aggregate_id: order.to_owned(),
            aggregate_version: version,
            event_id: Uuid::now_v7(),
            event_type: "Placed".into(),
            payload: r#"{"amount":1}"#.into(),
            ..EventRecord::default()
        });
        let (subject, message) = stream::message(&event).unwrap();
        self.context
            .send_publish(subject, message)
            .await
            .unwrap()
            .await
            .unwrap();
        event.event_id
    }

    /// Runs the importer until it has imported everything, or has failed.
    fn import_once(&self) -> Output {
        self.import_once_into(&self.database.url)
    }

    fn import_once_into(&self, database: &str) -> Output {
        let mut importer = importer(database, &self.url);
        importer
            .arg("--once")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        importer.output().unwrap()
    }

    /// A durable consumer as the importer's, for importers that are killed at a certain moment.
    async fn consumer(&self) -> PullConsumer {
        let config = Config {
            durable_name: Some("careless".to_owned()),
            ack_wait: Duration::from_millis(ACK_WAIT),
            ..Default::default()
        };
        self.stream.create_consumer(config).await.unwrap()
    }
}

/// The next messages, as soon as there are so many.
async fn next(consumer: &PullConsumer, count: usize) -> Vec<Message> {
    let batch = consumer
        .batch()
        .max_messages(count)
        .expires(Duration::from_secs(30));
    let messages = batch.messages().await.unwrap();
    messages.map(Result::unwrap).collect().await
}

/// The events of messages.
fn decoded(messages: &[Message]) -> Vec<NewEvent> {
    let event = |message: &Message| stream::event(message).unwrap().event;
    messages.iter().map(event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_arrive_in_another_order_are_stored_in_theirs() {
    let single = Single::new().await;
    let mut ids = BTreeMap::new();
    for (order, version) in [("a", 3), ("b", 1), ("a", 2), ("b", 3), ("a", 1), ("b", 2)] {
        ids.insert((order, version), single.publish(order, version).await);
    }
    let output = single.import_once();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(
        errors.contains("version 3 of Order a, waits for the versions before it"),
        "{errors}"
    );

    let stored = contents(&single.store).await;
    assert_eq!(count(&stored), 6);
    for ((order, version), id) in ids {
        let content = &stored[order][usize::try_from(version).unwrap() - 1];
        assert_eq!((content.id, content.version), (id, version));
    }
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(output.contains("order_totals"), "{output}");
    let totals = "SELECT id || ': ' || events || ' ' || amount FROM order_totals ORDER BY id";
    let totals: Vec<String> = sqlx::query_scalar(totals)
        .fetch_all(single.store.pool())
        .await
        .unwrap();
    assert_eq!(totals, ["a: 3 3", "b: 3 3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_on_sqlite_is_imported_into_like_one_on_postgres() {
    let single = Single::new().await;
    for (order, version) in [("a", 2), ("b", 1), ("a", 1)] {
        single.publish(order, version).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("app.db").display());
    for again in [false, true] {
        if again {
            // All messages again, as from a stream that does not remember what was acknowledged.
            single.stream.delete_consumer("billing").await.unwrap();
        }
        let output = single.import_once_into(&url);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let store = SqliteEventStore::connect(&url).await.unwrap();
        let contents = contents(&store).await;
        assert_eq!((contents["a"].len(), contents["b"].len()), (2, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_event_ends_the_importer_and_stays() {
    let single = Single::new().await;
    single.publish("a", 1).await;
    let garbage = single
        .context
        .publish("events.Order.Placed", "{}".into())
        .await
        .unwrap();
    assert_eq!(garbage.await.unwrap().sequence, 2);
    single.publish("a", 2).await;

    for _ in 0..2 {
        let output = single.import_once();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(
            errors.contains("message 2 of the stream (events.Order.Placed) is no event"),
            "{errors}"
        );
        assert!(errors.contains("it has no headers"), "{errors}");
        assert_eq!(
            count(&contents(&single.store).await),
            1,
            "what is before it"
        );
    }
    // An operator decides.
    single.stream.delete_message(2).await.unwrap();
    let output = single.import_once();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(count(&contents(&single.store).await), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_log_refuses_ends_the_importer_and_stays() {
    let single = Single::new().await;
    let id = single.publish("a", 1).await;
    let other = NewEvent::new("Order", "z", "Placed", r#"{"amount":2}"#).event_id(id);
    single
        .store
        .append(ExpectedVersion::Any, &[other])
        .await
        .unwrap();
    let output = single.import_once();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(errors.contains("message 1 of the stream"), "{errors}");
    assert!(errors.contains(&id.to_string()), "{errors}");
    let mut importers = single
        .stream
        .get_consumer::<Config>("billing")
        .await
        .unwrap();
    assert_eq!(importers.info().await.unwrap().ack_floor.stream_sequence, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_database_ends_no_importer() {
    let server = TestPostgres::builder().start();
    let database = server.database().await;
    let single = Single::new().await;
    let written = tempfile::NamedTempFile::new().unwrap();
    let mut command = importer(&database.url, &single.url);
    let running = Process::start(command.stderr(written.reopen().unwrap()));
    let store = database.store().await;
    for version in 1..=50 {
        single.publish("a", version).await;
    }
    // Its worker has started, too, which needs a database.
    until("all is imported and handled", async || {
        let handled = sqlx::query_scalar("SELECT events FROM order_totals");
        let handled = handled.fetch_one(store.pool()).await;
        handled.is_ok_and(|events: i64| events == 50)
    })
    .await;

    server.crash();
    for version in 51..=100 {
        single.publish("a", version).await;
    }
    until("it cannot store any", async || {
        let written = std::fs::read_to_string(written.path()).unwrap();
        written.contains("the database cannot be used, trying again")
    })
    .await;
    server.start();
    until("it has imported all", async || {
        sqlx::query_scalar("SELECT count(*) FROM events")
            .fetch_one(store.pool())
            .await
            .is_ok_and(|count: i64| count == 100)
    })
    .await;
    running.terminate();
    let versions = contents(&store).await["a"]
        .iter()
        .map(|event| event.version)
        .collect::<Vec<_>>();
    assert_eq!(versions, (1..=100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_importers_store_each_event_once_with_every_field() {
    let single = Single::new().await;
    let start = || Process::start(&mut importer(&single.database.url, &single.url));
    let importers = [start(), start()];
    // Before that, a signal would end an importer at once.
    until("both wait for messages", async || {
        let Ok(mut durable) = single.stream.get_consumer::<Config>("billing").await else {
            return false;
        };
        durable.info().await.is_ok_and(|info| info.num_waiting >= 2)
    })
    .await;
    let mut published: BTreeMap<String, Vec<Content>> = BTreeMap::new();
    for number in 0..600_u32 {
        let order = format!("o{}", number % 7);
        let events = published.entry(order.clone()).or_default();
        let json = format!(r#"{{"number": {number}}}"#);
        let event = PersistedEvent::new(EventRecord {
            // No consumer of the importer handles it, so that it may have another version.
            aggregate_type: "Shipment".into(),
            aggregate_id: order,
            aggregate_version: length(events) + 1,
            event_id: Uuid::now_v7(),
            event_type: "Placed".into(),
            event_version: 1 + i32::from(number % 7 == 0),
            payload: r#"{"amount":1}"#.into(),
            metadata: Some(Metadata::from_json_text(json)),
            trace_id: Some(format!("trace {number}")),
            correlation_id: Some(format!("correlation {number}")),
            causation_id: Some(format!("causation {number}")),
            ..EventRecord::default()
        });
        events.push(Content::from(&event));
        let (subject, message) = stream::message(&event).unwrap();
        let sent = single.context.send_publish(subject, message).await.unwrap();
        sent.await.unwrap();
    }
    until("everything is imported", async || {
        events_in(&single.store).await >= 600
    })
    .await;
    for importer in importers {
        importer.terminate();
    }
    let stored = contents(&single.store).await;
    for (order, events) in &published {
        assert_eq!(stored[order], *events, "{order}");
    }
    assert_eq!(count(&stored), 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_leaves_no_message_unacknowledged() {
    let single = Single::new().await;
    let mut command = importer(&single.database.url, &single.url);
    let running = Process::start(&mut command);
    for version in 1..=500 {
        single.publish("a", version).await;
    }
    until("it has imported some", async || {
        count(&contents(&single.store).await) > 0
    })
    .await;
    running.terminate();
    let stored = count(&contents(&single.store).await);
    let importers = single
        .stream
        .get_consumer::<Config>("billing")
        .await
        .unwrap();
    until("the server has the acknowledgements", async || {
        let info = importers.get_info().await.unwrap();
        info.num_ack_pending == 0 && info.ack_floor.stream_sequence == stored as u64
    })
    .await;
}

/// The control of the order in which the importer commits and acknowledges.
#[tokio::test(flavor = "multi_thread")]
async fn events_acknowledged_before_the_commit_are_lost_with_a_kill() {
    let single = Single::new().await;
    for version in 1..=3 {
        single.publish("a", version).await;
    }
    let consumer = single.consumer().await;
    for acknowledges_first in [false, true] {
        let messages = next(&consumer, 3).await;
        let mut tx = single.store.begin().await.unwrap();
        single
            .store
            .append_once_in(&mut tx, &decoded(&messages))
            .await
            .unwrap();
        if acknowledges_first {
            for message in messages {
                message.double_ack().await.unwrap();
            }
        }
        // Killed before the commit.
        tx.rollback().await.unwrap();
    }
    let mut consumer = consumer;
    let info = consumer.info().await.unwrap();
    assert_eq!(
        (info.num_pending, info.num_ack_pending),
        (0, 0),
        "none comes again"
    );
    assert_eq!(
        info.delivered.consumer_sequence, 6,
        "the first kill lost none"
    );
    assert_eq!(count(&contents(&single.store).await), 0, "lost");
}

/// The control of the ids by which a repeat is known.
#[tokio::test(flavor = "multi_thread")]
async fn without_their_ids_events_are_stored_again_after_a_kill() {
    let single = Single::new().await;
    for version in 1..=3 {
        single.publish("a", version).await;
    }
    let consumer = single.consumer().await;
    for _ in 0..2 {
        // Killed after the commit, before the acknowledgements.
        let events = decoded(&next(&consumer, 3).await);
        single.store.append_once(&events).await.unwrap();
        let copy = |mut event: NewEvent| {
            event.aggregate_id = "copy".into();
            event.event_id(Uuid::now_v7())
        };
        let copies: Vec<NewEvent> = events.into_iter().map(copy).collect();
        single
            .store
            .append(ExpectedVersion::Any, &copies)
            .await
            .unwrap();
    }
    let stored = contents(&single.store).await;
    assert_eq!((stored["a"].len(), stored["copy"].len()), (3, 6));
}

/// How many writers append to the source at once.
const WRITERS: usize = 4;

/// One of the writers that append to the source at the same time, never far ahead of the importer.
struct Writer {
    store: PgEventStore,
    /// How many events all writers have appended.
    appended: Arc<AtomicU64>,
    imported: watch::Receiver<u64>,
    end: watch::Receiver<bool>,
}

impl Writer {
    /// Appends until it is told to end.
    async fn run(mut self) {
        const AHEAD: u64 = 1_000;
        while !*self.end.borrow() {
            let written = self.write().await;
            let appended = self.appended.fetch_add(written, Ordering::Relaxed) + written;
            tokio::select! {
                reached = self.imported.wait_for(|imported| imported + AHEAD > appended) => { reached.unwrap(); }
                ended = self.end.wait_for(|end| *end) => { ended.unwrap(); }
            }
        }
    }

    /// Appends up to three events to an order in one transaction, of which every fifth is rolled back, and
    /// returns how many are committed.
    async fn write(&self) -> u64 {
        let [order, events, pause, ending, amount, ..] = *Uuid::new_v4().as_bytes();
        let placed = |n: u8| {
            let amount = serde_json::json!({ "amount": i64::from(amount) + i64::from(n) });
            let placed = NewEvent::json("Order", format!("o{}", order % 25), "Placed", &amount);
            described(placed.unwrap(), pause)
        };
        let events: Vec<NewEvent> = (0..=events % 3).map(placed).collect();
        let mut tx = self.store.begin().await.unwrap();
        let appended = self.store.append_in(&mut tx, ExpectedVersion::Any, &events);
        appended.await.unwrap();
        // Meanwhile, others draw higher positions and commit.
        tokio::time::sleep(Duration::from_millis(u64::from(pause % 8))).await;
        if ending % 5 == 0 {
            tx.rollback().await.unwrap();
            return 0;
        }
        tx.commit().await.unwrap();
        events.len() as u64
    }
}

/// Fills in every other field of some events.
fn described(event: NewEvent, random: u8) -> NewEvent {
    if random.is_multiple_of(3) {
        return event;
    }
    let metadata = format!(r#"{{"user": "Zoë \" {random}"}}"#);
    event
        .metadata(Metadata::from_json_text(metadata))
        .trace_id(format!("trace/{random}"))
        .correlation_id(format!("Bestellung № {random}"))
        .causation_id(format!("cause {random}"))
}

/// What was sent to the stream, including the repeats that it drops.
#[derive(Default)]
struct Sent {
    /// The number of kills of the publisher before each message was first sent, by its id.
    first: HashMap<String, u32>,
    /// How many messages were sent again.
    repeats: u64,
    /// The kills after which messages from before were sent again: they came between sending and saving.
    interrupted: BTreeSet<u32>,
}

impl Sent {
    fn note(&mut self, id: &str, kills: u32) {
        match self.first.get(id) {
            None => {
                self.first.insert(id.to_owned(), kills);
            }
            Some(before) => {
                self.repeats += 1;
                if *before < kills {
                    self.interrupted.insert(kills);
                }
            }
        }
    }

    /// How many messages there were.
    fn count(&self) -> u64 {
        self.first.len() as u64 + self.repeats
    }
}

/// Notes what is sent to the stream, and tells how much that is.
async fn note_sent(
    client: &async_nats::Client,
    kills: watch::Receiver<u32>,
) -> (Arc<Mutex<Sent>>, watch::Receiver<u64>) {
    let mut messages = client.subscribe("events.>").await.unwrap();
    client.flush().await.unwrap();
    let noted: Arc<Mutex<Sent>> = Arc::default();
    let (sender, receiver) = watch::channel(0);
    let sent = Arc::clone(&noted);
    tokio::spawn(async move {
        while let Some(message) = messages.next().await {
            let headers = message.headers.unwrap();
            let id = headers.get("Nats-Msg-Id").unwrap().as_str();
            let mut sent = sent.lock().unwrap();
            sent.note(id, *kills.borrow());
            sender.send_replace(sent.count());
        }
    });
    (noted, receiver)
}

/// How many events the importers found in the log that they imported into, according to what they wrote.
fn known_to_importers(written: &Path) -> u64 {
    let written = std::fs::read_to_string(written).unwrap();
    let known = written
        .lines()
        .filter_map(|line| line.strip_suffix(" events were stored already"));
    // A process may have been killed within a line.
    known.filter_map(|count| count.parse::<u64>().ok()).sum()
}

/// Starts a program and kills it, 20 times, each at a random moment after it has made progress; then
/// starts it once more. Tells how often it was killed.
async fn kill_20_times(
    mut command: Command,
    mut progress: watch::Receiver<u64>,
    kills: watch::Sender<u32>,
) -> Process {
    for _ in 0..20 {
        let seen = *progress.borrow_and_update();
        let killed = Process::start(&mut command);
        let some = u64::from(Uuid::new_v4().as_bytes()[0]) / 2;
        let reached = progress.wait_for(|now| *now > seen + some);
        patiently("a program makes progress", reached)
            .await
            .unwrap();
        drop(killed);
        kills.send_modify(|kills| *kills += 1);
    }
    Process::start(&mut command)
}

async fn events_in(store: &PgEventStore) -> u64 {
    let count = "SELECT count(*) FROM events";
    let count: i64 = sqlx::query_scalar(count)
        .fetch_one(store.pool())
        .await
        .unwrap();
    u64::try_from(count).unwrap()
}

/// Counts the events in the log that is imported into.
fn count_imported(store: PgEventStore) -> watch::Receiver<u64> {
    let (sender, receiver) = watch::channel(0);
    tokio::spawn(async move {
        while !sender.is_closed() {
            sender.send_replace(events_in(&store).await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    receiver
}

/// The leader of the stream, when it has one.
async fn leader(stream: &Stream) -> Option<String> {
    stream.get_info().await.ok()?.cluster?.leader
}

/// Kills the leader of the stream, and starts it again when others have led it for a while.
async fn lose_the_leader(
    mut cluster: Cluster,
    stream: &Stream,
    mut kills: watch::Receiver<u32>,
) -> Cluster {
    kills.wait_for(|kills| *kills >= 5).await.unwrap();
    // During an election the stream has no leader.
    let lost = until_some("a server leads", async || leader(stream).await).await;
    cluster.kill(&lost);
    until("another server leads", async || {
        leader(stream).await.is_some_and(|leader| leader != lost)
    })
    .await;
    let before = *kills.borrow();
    // An error means that the kills are over; the last programs still have events to pass on.
    let _ = kills.wait_for(|kills| *kills > before + 2).await;
    cluster.restart(&lost).await;
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn both_logs_have_each_event_once_after_20_kills_of_each() {
    let cluster = Cluster::start().await;
    let urls = cluster.urls();
    let source = Database::<Postgres>::fresh().await;
    let database = TestPostgres::shared().await.database().await;
    let target = database.store().await;

    let client = client(&urls).await;
    let (kills, killed) = watch::channel(0);
    let (sent, progress_of_publisher) = note_sent(&client, killed.clone()).await;
    let progress = count_imported(target.clone());
    let naive = NaiveReader::start(&source.pool).await;
    let (end, ended) = watch::channel(false);
    let appended: Arc<AtomicU64> = Arc::default();
    let mut writing = JoinSet::new();
    for _ in 0..WRITERS {
        let writer = Writer {
            store: source.store.clone(),
            appended: Arc::clone(&appended),
            imported: progress.clone(),
            end: ended.clone(),
        };
        writing.spawn(writer.run());
    }
    let mut publish = publisher(&source.url, &urls);
    publish.env("NATS_REPLICAS", "3");
    let written = tempfile::NamedTempFile::new().unwrap();
    let mut import = importer(&database.url, &urls);
    import
        .env("NATS_REPLICAS", "3")
        .stderr(written.reopen().unwrap());

    let publishing = tokio::spawn(kill_20_times(publish, progress_of_publisher, kills));
    let importing = tokio::spawn(kill_20_times(
        import,
        progress.clone(),
        watch::Sender::new(0),
    ));
    let context = jetstream::new(client.clone());
    let stream = until_some("the stream exists", async || {
        context.get_stream("integration").await.ok()
    })
    .await;
    let cluster = lose_the_leader(cluster, &stream, killed).await;
    let (publisher, importer) = (publishing.await.unwrap(), importing.await.unwrap());
    end.send_replace(true);
    writing.join_all().await;
    naive.stop().await;

    let log = contents(&source.store).await;
    let events = count(&log) as u64;
    assert_eq!(
        events,
        appended.load(Ordering::Relaxed),
        "all that was appended"
    );
    until("everything is imported", async || {
        events_in(&target).await >= events
    })
    .await;
    until("everything is acknowledged", async || {
        let durable = stream.get_consumer::<Config>("billing").await.ok();
        let Some(durable) = durable else { return false };
        let info = durable.get_info().await;
        info.is_ok_and(|info| info.num_pending == 0 && info.num_ack_pending == 0)
    })
    .await;
    let totals = "SELECT coalesce(sum(events), 0)::bigint FROM order_totals";
    until("the totals have every event", async || {
        let sum: Result<i64, _> = sqlx::query_scalar(totals).fetch_one(target.pool()).await;
        sum.is_ok_and(|sum| u64::try_from(sum) == Ok(events))
    })
    .await;
    publisher.terminate();
    importer.terminate();
    assert_each_event_once(&log, &target).await;

    // The controls, without which this proves nothing.
    let lost = events - source.applied("naive").await.len() as u64;
    assert!(lost > 0, "positions were visible in their order");
    let stored = stream.get_info().await.unwrap().state.messages;
    let sent = sent.lock().unwrap();
    let (count, repeats, kills) = (sent.count(), sent.repeats, sent.interrupted.len());
    let known = known_to_importers(written.path());
    println!(
        "{events} events, of which a naive reader lost {lost}; {count} seen on their way to the stream, \
         {repeats} of them again, after {kills} of the kills; {stored} in the stream; {known} imported again"
    );
    assert!(
        kills > 0,
        "no kill of the publisher came between sending and saving"
    );
    assert!(count > stored, "the stream dropped no repeat");
    assert!(known > 0, "no importer got an event that the log had");
    drop(cluster);
}

fn length(events: &[Content]) -> i64 {
    i64::try_from(events.len()).unwrap()
}

/// Compares the log that was imported into, and what its ordinary consumer made of it, with the source.
async fn assert_each_event_once(log: &BTreeMap<String, Vec<Content>>, target: &PgEventStore) {
    let stored = contents(target).await;
    assert_eq!(
        stored.keys().collect::<Vec<_>>(),
        log.keys().collect::<Vec<_>>()
    );
    for (order, events) in log {
        let versions = events.iter().map(|event| event.version);
        assert!(versions.eq(1..=length(events)));
        assert!(stored[order] == *events, "{order}: {} events", events.len());
    }
    let amount = |content: &Content| -> i64 {
        let payload: serde_json::Value = serde_json::from_slice(&content.payload).unwrap();
        payload["amount"].as_i64().unwrap()
    };
    let expected: Vec<(String, i64, i64)> = log
        .iter()
        .map(|(order, events)| {
            (
                order.clone(),
                length(events),
                events.iter().map(amount).sum(),
            )
        })
        .collect();
    let mut totals: Vec<(String, i64, i64)> =
        sqlx::query_as("SELECT id, events, amount FROM order_totals")
            .fetch_all(target.pool())
            .await
            .unwrap();
    totals.sort();
    assert_eq!(totals, expected, "each imported event was handled once");
}

#[test]
fn the_guide_shows_what_the_programs_do() {
    let guide = include_str!("../../consumer/src/guide/between_services.md");
    let programs = concat!(
        include_str!("../src/bin/nats_publisher.rs"),
        include_str!("../src/bin/importer.rs"),
        include_str!("../src/bin/nats/stream.rs")
    );
    shown::assert_shown(guide, programs);
}
