//! What the publisher and the importer agree on: the stream, and how an event is a message of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_nats::Message;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context as JetStream, stream::Stream};
use consumer::Metadata;
use consumer::prelude::*;
use serde::{Deserialize, Serialize};

/// The stream that the events are published to.
const STREAM: &str = "integration";

/// How long the stream remembers message ids. Make it longer than a publisher may stay away after a
/// crash.
const DUPLICATE_WINDOW: Duration = Duration::from_hours(1);

/// How long a program waits for servers that cannot be reached, or that have no leader yet.
const TIMEOUT: Duration = Duration::from_mins(1);

/// The header with everything about an event but its payload and its id.
const EVENT: &str = "Event";

/// The header of the event's id, by which the stream drops repeats.
const ID: &str = "Nats-Msg-Id";

/// The servers of `NATS_URL`, separated by commas, each of which knows the stream.
pub(crate) async fn connect() -> anyhow::Result<(JetStream, Stream)> {
    let urls = std::env::var("NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".to_owned());
    let urls: Vec<&str> = urls.split(',').collect();
    let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
    let context = jetstream::new(options.connect(urls).await?);
    let stream = create(&context).await?;
    Ok((context, stream))
}

/// Creates the stream if it does not exist.
pub(crate) async fn create(context: &JetStream) -> anyhow::Result<Stream> {
    let config = jetstream::stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["events.>".to_owned()],
        duplicate_window: DUPLICATE_WINDOW,
        // Three in production: the stream outlives the loss of one server.
        num_replicas: setting("NATS_REPLICAS", 1)?,
        ..Default::default()
    };
    patiently("the stream", || {
        context.get_or_create_stream(config.clone())
    })
    .await
}

/// Tries again while the servers cannot be reached or have no leader.
pub(crate) async fn patiently<T, E, F>(
    what: &str,
    mut attempt: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
    F: Future<Output = Result<T, E>>,
{
    let until = Instant::now() + TIMEOUT;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > until => {
                return Err(error).with_context(|| format!("{what} cannot be created"));
            }
            Err(error) => {
                eprintln!("waiting for {what}: {error}");
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        }
    }
}

/// A number from the environment.
pub(crate) fn setting<T>(name: &str, default: T) -> anyhow::Result<T>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    match std::env::var(name) {
        Ok(value) => value
            .parse()
            .with_context(|| format!("{name} is `{value}`")),
        Err(_) => Ok(default),
    }
}

/// Everything about an event but its payload and its id. As JSON, it can hold any text, which a header
/// cannot.
#[derive(Serialize, Deserialize)]
struct Description {
    aggregate_type: String,
    aggregate_id: String,
    aggregate_version: i64,
    event_type: String,
    event_version: i32,
    metadata: Option<String>,
    trace_id: Option<String>,
    correlation_id: Option<String>,
    causation_id: Option<String>,
    /// The position in the log of the publisher, for people.
    position: i64,
}

/// The subject and the message of an event.
pub(crate) fn message(event: &PersistedEvent) -> Result<(String, PublishMessage), HandlerError> {
    let metadata = event.metadata.as_ref().map(Metadata::as_bytes);
    let description = Description {
        aggregate_type: event.aggregate_type.to_string(),
        aggregate_id: event.aggregate_id.clone(),
        aggregate_version: event.aggregate_version,
        event_type: event.event_type.to_string(),
        event_version: event.event_version,
        metadata: metadata
            .map(|json| String::from_utf8(json.to_vec()))
            .transpose()?,
        trace_id: event.trace_id.clone(),
        correlation_id: event.correlation_id.clone(),
        causation_id: event.causation_id.clone(),
        position: event.global_position,
    };
    let message = PublishMessage::build()
        .payload(event.payload.clone())
        .message_id(event.event_id.to_string())
        .header(EVENT, serde_json::to_string(&description)?);
    let subject = format!(
        "events.{}.{}",
        token(&event.aggregate_type),
        token(&event.event_type)
    );
    Ok((subject, message))
}

/// A name as a part of a subject, which separates its parts by dots and has no spaces.
fn token(name: &str) -> String {
    let allowed = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    let token: String = name
        .chars()
        .map(|c| if allowed(c) { c } else { '_' })
        .collect();
    if token.is_empty() {
        "_".to_owned()
    } else {
        token
    }
}

/// An event of another service's log.
pub(crate) struct Foreign {
    pub(crate) event: NewEvent,
    /// The version of its aggregate there.
    pub(crate) version: i64,
}

/// The event of a message.
pub(crate) fn event(message: &Message) -> anyhow::Result<Foreign> {
    let headers = message.headers.as_ref().context("it has no headers")?;
    let header = |name| {
        headers
            .get(name)
            .with_context(|| format!("it has no header `{name}`"))
    };
    let id = header(ID)?
        .as_str()
        .parse()
        .context("its id is not a UUID")?;
    let description: Description = serde_json::from_str(header(EVENT)?.as_str())
        .context("its header `Event` is another one")?;
    ensure!(
        description.aggregate_version > 0,
        "its aggregate has no version"
    );
    let mut event = NewEvent::new(
        description.aggregate_type,
        description.aggregate_id,
        description.event_type,
        message.payload.clone(),
    )
    .event_id(id)
    .event_version(description.event_version);
    event.metadata = description.metadata.map(Metadata::from_json_text);
    event.trace_id = description.trace_id;
    event.correlation_id = description.correlation_id;
    event.causation_id = description.causation_id;
    Ok(Foreign {
        event,
        version: description.aggregate_version,
    })
}
