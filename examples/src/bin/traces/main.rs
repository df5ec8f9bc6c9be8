//! OpenTelemetry traces in which the handling of an event links to the command that appended it.
//!
//! `cargo run -p consumer-examples --features services --bin traces` registers a user, runs the
//! consumers once, and sends the spans to the collector at `OTEL_EXPORTER_OTLP_ENDPOINT` (by default
//! `http://localhost:4318`). To see them, start `docker run --rm -p 16686:16686 -p 4318:4318
//! jaegertracing/all-in-one` first, and open <http://localhost:16686>.

mod app;

use anyhow::ensure;
use consumer::prelude::*;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let provider = exporting()?;
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite:traces.db".to_owned());
    let store = SqliteEventStore::connect(&url).await?;
    app::prepare(&store).await?;
    app::register(&store, &uuid::Uuid::new_v4().to_string()).await?;
    let report = Worker::builder(store.clone())
        .discover()
        .build()?
        .run_once()
        .await?;
    print!("{report}");
    // SQLite's threads keep the spans of their last statements open until the connections are closed.
    store.pool().close().await;
    // Sends the remaining spans. This blocks, so it must not run on a thread of the runtime.
    tokio::task::spawn_blocking(move || provider.shutdown()).await??;
    ensure!(
        !report.has_failures(),
        "a consumer did not handle everything"
    );
    Ok(())
}

/// Sends all spans of level INFO to the collector, in the background.
fn exporting() -> anyhow::Result<SdkTracerProvider> {
    // The exporter's client blocks, and must not be created on a thread of the runtime.
    let exporter = std::thread::spawn(|| SpanExporter::builder().with_http().build())
        .join()
        .map_err(|_| anyhow::anyhow!("the exporter cannot be created"))??;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name("traces").build())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("traces"));
    tracing_subscriber::registry()
        .with(EnvFilter::new("info"))
        .with(layer)
        .try_init()?;
    Ok(provider)
}
