//! Publishes every event of a store to NATS `JetStream`, each exactly once.
//!
//! `DATABASE_URL=postgres://… NATS_URL=nats://localhost:4222 cargo run -p consumer-examples
//! --features services --bin nats_publisher`; with `-- --once` it publishes what is there and ends.
//! `DATABASE_URL` may be one of SQLite too, and is `sqlite:events.db` unless set.

use std::time::Duration;

use anyhow::ensure;
use async_nats::jetstream::{self, Context as JetStream, message::PublishMessage};
use consumer::prelude::*;
use consumer::{EventStore, Backend};

/// The stream that holds the published events.
const STREAM: &str = "integration";

/// Publishes every event; it ignores the transaction and manages its own connection.
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
    /// The events of a batch are on their way together, and the batch ends when the server has
    /// acknowledged all of them. What is sent again after a crash carries the same message id, by
    /// which the stream knows it.
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

/// Connects to the server, and makes the stream if it is not there.
async fn connect(url: &str) -> anyhow::Result<JetStream> {
    let stream = jetstream::new(async_nats::connect(url).await?);
    stream
        .get_or_create_stream(jetstream::stream::Config {
            name: STREAM.to_owned(),
            subjects: vec!["events.>".to_owned()],
            // A batch that is sent again within this time is known by its message ids: it is to be
            // longer than a publisher may be away after a crash.
            duplicate_window: Duration::from_hours(1),
            ..Default::default()
        })
        .await
        .map_err(|error| anyhow::anyhow!("the stream cannot be made: {error}"))?;
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

async fn publish<DB: Backend>(
    store: EventStore<DB>,
    stream: JetStream,
) -> anyhow::Result<()> {
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
