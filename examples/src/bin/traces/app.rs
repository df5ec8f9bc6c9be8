//! The consumer, and how its spans find the trace in which an event was appended.

use consumer::prelude::*;
use consumer::{Metadata, sqlx};
use opentelemetry::KeyValue;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// What an event carries beside its payload.
#[derive(Serialize, Deserialize)]
struct Origin {
    /// The span in which it was appended, as W3C writes it.
    traceparent: Option<String>,
}

/// Notes the trace of the current span on an event that is about to be appended: its id in the
/// column, where it can be searched for, and the span in the metadata, where a link finds it.
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

/// The span in which an event was appended, as far as the event tells.
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

/// Who appended the event told its trace alone, as other programs do. A link needs a span too, and
/// the trace is found whatever it is: the event's own id stands for it.
fn only_trace(event: &PersistedEvent) -> Option<SpanContext> {
    let told = event.trace_id.as_ref().filter(|id| id.len() == 32)?;
    let trace = TraceId::from_hex(told).ok()?;
    let (half, _) = event.event_id.as_u64_pair();
    Some(remote(trace, SpanId::from(half), TraceFlags::default()))
}

fn remote(trace: TraceId, span: SpanId, flags: TraceFlags) -> SpanContext {
    SpanContext::new(trace, span, flags, true, TraceState::default())
}

/// A span for the handling of one event, within that of its batch, with a link to where the event
/// came from. A link, and not a parent: a batch has events of many traces, and a rebuild handles
/// them again years later.
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

/// A read model whose handler is traced.
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

/// The command: appends within a span of its own.
#[tracing::instrument(skip_all)]
pub(crate) async fn register(store: &SqliteEventStore, id: &str) -> anyhow::Result<()> {
    let event = NewEvent::new("User", id, "UserRegistered", "{}");
    let event = in_current_trace(event.correlation_id(format!("sign-up of {id}")))?;
    store.append(ExpectedVersion::NoStream, &[event]).await?;
    Ok(())
}

/// Makes the tables of the store and of the read model.
pub(crate) async fn prepare(store: &SqliteEventStore) -> anyhow::Result<()> {
    store.migrate().await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY)")
        .execute(store.pool())
        .await?;
    Ok(())
}
