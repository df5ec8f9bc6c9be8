//! Publishes every event of a store to NATS JetStream.
//!
//! `DATABASE_URL=postgres://… NATS_URL=nats://localhost:4222 cargo run -p consumer-examples
//! --features services --bin nats_publisher`. With `-- --once`, it publishes the events that are there
//! and ends. `DATABASE_URL` may also name a SQLite database; the default is `sqlite:events.db`.
//!
//! Delivery is at least once, and the stream drops repeats by their message id. So each event is on the
//! stream exactly once, within two limits:
//!
//! - A repeat is recognised within the stream's [duplicate window](DUPLICATE_WINDOW). A publisher that
//!   crashes and stays away for longer may publish its last batch again.
//! - The server must sync each message to disk before it acknowledges it (`sync_interval: always` in
//!   its configuration). By default it syncs later, and a power failure can take back messages that
//!   were acknowledged, and that no publisher sends again.

use std::time::Duration;

use anyhow::ensure;
use async_nats::jetstream::{self, Context as JetStream, message::PublishMessage};
use consumer::prelude::*;
use consumer::{Backend, EventStore};

/// The stream that the events are published to.
const STREAM: &str = "integration";

/// How long the stream remembers message ids. Make it longer than a publisher may stay away after a
/// crash.
const DUPLICATE_WINDOW: Duration = Duration::from_hours(1);

/// Publishes every event, over a connection of its own instead of the transaction.
struct IntegrationPublisher {
    stream: JetStream,
}

impl IntegrationPublisher {
    fn connected(dependencies: &Dependencies) -> Result<Self, HandlerError> {
        let stream = dependencies.get::<JetStream>()?.clone();
        Ok(Self { stream })
    }
}

#[consumer(
    name = "system.integration.nats",
    init = IntegrationPublisher::connected
)]
impl IntegrationPublisher {
    /// Sends all events of a batch before it waits for the first acknowledgement. The batch ends when
    /// the server has acknowledged all of them.
    async fn handle(&self, events: &[PersistedEvent]) -> Result<(), HandlerError> {
        let mut acknowledgements = Vec::with_capacity(events.len());
        for event in events {
            let subject = format!("events.{}.{}", event.aggregate_type, event.event_type);
            acknowledgements.push(self.stream.send_publish(subject, message(event)).await?);
        }
        for acknowledgement in acknowledgements {
            acknowledgement.await?;
        }
        Ok(())
    }
}

fn message(event: &PersistedEvent) -> PublishMessage {
    PublishMessage::build()
        .payload(event.payload.clone())
        .message_id(event.event_id.to_string())
        .header("aggregate-id", event.aggregate_id.as_str())
        .header("position", event.global_position.to_string().as_str())
}

/// Connects to the server, and creates the stream if it does not exist.
async fn connect(url: &str) -> anyhow::Result<JetStream> {
    let stream = jetstream::new(async_nats::connect(url).await?);
    stream
        .get_or_create_stream(jetstream::stream::Config {
            name: STREAM.to_owned(),
            subjects: vec!["events.>".to_owned()],
            duplicate_window: DUPLICATE_WINDOW,
            ..Default::default()
        })
        .await
        .map_err(|error| anyhow::anyhow!("the stream `{STREAM}` cannot be created: {error}"))?;
    Ok(stream)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let nats = std::env::var("NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".to_owned());
    let stream = connect(&nats).await?;
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite:events.db".to_owned());
    if url.starts_with("sqlite") {
        publish(SqliteEventStore::connect(&url).await?, stream).await
    } else {
        publish(PgEventStore::connect(&url).await?, stream).await
    }
}

async fn publish<DB: Backend>(store: EventStore<DB>, stream: JetStream) -> anyhow::Result<()> {
    store.migrate().await?;
    let worker = Worker::builder(store)
        .dependencies(Dependencies::new().with(stream))
        .discover()
        .build()?;
    let report = if std::env::args().any(|argument| argument == "--once") {
        worker.run_once().await?
    } else {
        worker.run(shutdown_signal()).await?
    };
    print!("{report}");
    ensure!(
        !report.has_failures(),
        "a consumer did not handle everything"
    );
    Ok(())
}
