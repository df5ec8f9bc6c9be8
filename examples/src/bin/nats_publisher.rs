//! Publishes every event of a store to NATS JetStream.
//!
//! `DATABASE_URL=postgres://… NATS_URL=nats://localhost:4222 cargo run -p consumer-examples
//! --features services --bin nats_publisher`. With `-- --once`, it publishes the events that are there
//! and ends. `DATABASE_URL` may also name a SQLite database; the default is `sqlite:events.db`. For a
//! cluster, `NATS_URL` names several servers, separated by commas, and `NATS_REPLICAS=3` gives a new
//! stream three replicas. The program `importer` appends the events to the log of another service.
//!
//! Delivery is at least once, and the stream drops repeats by their message id. So each event is on the
//! stream exactly once, within two limits:
//!
//! - A repeat is recognised within the stream's duplicate window, an hour. A publisher that crashes and
//!   stays away for longer may publish its last batch again.
//! - The server must sync each message to disk before it acknowledges it (`sync_interval: always` in
//!   its configuration). By default it syncs later, and a power failure can take back messages that
//!   were acknowledged, and that no publisher sends again.
//!
//! The messages of a batch are on their way at the same time. When a server of a cluster fails, some can
//! be refused and sent again after later ones. Each message says which version of its aggregate it is.

#[allow(dead_code)] // Each program uses one direction.
#[path = "nats/stream.rs"]
mod stream;

use anyhow::ensure;
use async_nats::jetstream::Context as JetStream;
use consumer::prelude::*;
use consumer::{Backend, EventStore};

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

// Servers that cannot be reached are not the fault of an event: try again until they can.
#[consumer(
    name = "system.integration.nats",
    init = IntegrationPublisher::connected,
    retries = 1_000_000,
    backoff = "100ms..5s"
)]
impl IntegrationPublisher {
    /// Sends all events of a batch before it waits for the first acknowledgement. The batch ends when
    /// the server has acknowledged all of them.
    async fn handle(&self, events: &[PersistedEvent]) -> Result<(), HandlerError> {
        let mut acknowledgements = Vec::with_capacity(events.len());
        for event in events {
            let (subject, message) = stream::message(event)?;
            acknowledgements.push(self.stream.send_publish(subject, message).await?);
        }
        for acknowledgement in acknowledgements {
            let stored = acknowledgement.await?;
            // A server that knows the id from a message that is not stored yet, and may never be.
            if stored.sequence == 0 {
                return Err("the stream has not stored a message yet".into());
            }
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (stream, _) = stream::connect().await?;
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
