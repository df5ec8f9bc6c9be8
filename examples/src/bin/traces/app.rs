//! The consumer, and the links from its spans to those that appended the events.

use consumer::prelude::*;
use consumer::{Metadata, sqlx};
use opentelemetry::KeyValue;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The metadata of an event.
#[derive(Serialize, Deserialize)]
struct Origin {
    /// The span in which the event was appended, in the format of W3C Trace Context.
    traceparent: Option<String>,
}

/// Adds the current trace to an event that is about to be appended: its id in the column, where it can
/// be searched for, and the span in the metadata, to link to.
pub(crate) fn in_current_trace(event: NewEvent) -> Result<NewEvent, serde_json::Error> {
    let context = tracing::Span::current().context();
    let span = context.span();
    let here = span.span_context();
    if !here.is_valid() {
        return Ok(event);
    }
    let (trace, span, flags) = (here.trace_id(), here.span_id(), here.trace_flags());
    let traceparent = Some(format!("00-{trace}-{span}-{flags:02x}"));
    Ok(event
        .trace_id(trace.to_string())
        .metadata(Metadata::new(&Origin { traceparent })?))
}

/// The span in which an event was appended, as far as the event contains it.
fn origin(event: &PersistedEvent) -> Option<SpanContext> {
    let metadata = event.metadata.as_ref();
    let origin = metadata.and_then(|metadata| metadata.json::<Origin>().ok());
    origin
        .and_then(|origin| parse(&origin.traceparent?))
        .or_else(|| only_trace(event))
}

fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    Some(remote(trace, span, TraceFlags::new(flags)))
}

/// For events of other programs, which contain the trace alone. A link needs a span as well; any id
/// leads to the trace, so it is derived from the event's id.
fn only_trace(event: &PersistedEvent) -> Option<SpanContext> {
    let recorded = event.trace_id.as_ref().filter(|id| id.len() == 32)?;
    let trace = TraceId::from_hex(recorded).ok()?;
    let (half, _) = event.event_id.as_u64_pair();
    Some(remote(trace, SpanId::from(half), TraceFlags::default()))
}

fn remote(trace: TraceId, span: SpanId, flags: TraceFlags) -> SpanContext {
    SpanContext::new(trace, span, flags, true, TraceState::default())
}

/// A span for the handling of one event, inside that of its batch, with a link to the event's origin.
///
/// The origin is a link and not the parent, because a batch contains events of many traces, and a
/// rebuild handles them again years later.
pub(crate) fn handling(event: &PersistedEvent) -> tracing::Span {
    let span = tracing::info_span!(
        "handle",
        position = event.global_position,
        event_type = &*event.event_type,
        correlation_id = event.correlation_id,
        causation_id = event.causation_id,
    );
    if let Some(origin) = origin(event) {
        let correlation = event.correlation_id.clone();
        let attributes = correlation.map(|id| KeyValue::new("correlation_id", id));
        span.add_link_with_attributes(origin, attributes.into_iter().collect());
    }
    span
}

/// A read model with a traced handler.
struct Users;

#[consumer(name = "traces.users", aggregates = ["User"])]
impl Users {
    async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> sqlx::Result<()> {
        async {
            sqlx::query("INSERT INTO users (id) VALUES (?1)")
                .bind(&event.aggregate_id)
                .execute(tx)
                .await?;
            Ok(())
        }
        .instrument(handling(event))
        .await
    }
}

/// The command: appends in a span of its own.
#[tracing::instrument(skip_all)]
pub(crate) async fn register(store: &SqliteEventStore, id: &str) -> anyhow::Result<()> {
    let event = NewEvent::new("User", id, "UserRegistered", "{}");
    let event = in_current_trace(event.correlation_id(format!("sign-up of {id}")))?;
    store.append(ExpectedVersion::NoStream, &[event]).await?;
    Ok(())
}

/// Creates the tables of the store and of the read model.
pub(crate) async fn prepare(store: &SqliteEventStore) -> anyhow::Result<()> {
    store.migrate().await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY)")
        .execute(store.pool())
        .await?;
    Ok(())
}
