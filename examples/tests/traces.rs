//! The spans of the example `traces`, in memory and at a collector.

#[path = "../src/bin/traces/app.rs"]
mod app;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Command;

use consumer::prelude::*;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn named<'a>(spans: &'a [SpanData], name: &str) -> Vec<&'a SpanData> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn attribute(span: &SpanData, key: &str) -> String {
    let found = span.attributes.iter().find(|one| one.key.as_str() == key);
    found
        .unwrap_or_else(|| panic!("no {key}: {span:?}"))
        .value
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handlers_span_links_to_the_trace_of_its_event() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing_subscriber::registry()
        .with(EnvFilter::new("info"))
        .with(layer)
        .init();

    let store = SqliteEventStore::connect("sqlite::memory:").await.unwrap();
    app::prepare(&store).await.unwrap();
    app::register(&store, "ada").await.unwrap();
    // One event of another program contains only its trace, and another one not even that.
    let foreign = "0af7651916cd43dd8448eb211c80319c";
    let traced = NewEvent::new("User", "bob", "UserRegistered", "{}").trace_id(foreign);
    let untraced = NewEvent::new("User", "eve", "UserRegistered", "{}").trace_id("request 7");
    for event in [traced, untraced] {
        store
            .append(ExpectedVersion::NoStream, &[event])
            .await
            .unwrap();
    }
    let worker = Worker::builder(store.clone()).discover().build().unwrap();
    let report = worker.run_once().await.unwrap();
    assert!(!report.has_failures(), "{report}");
    let mut connection = store.pool().acquire().await.unwrap();
    let events = store.read_events(&mut connection, 0, 10).await.unwrap();
    drop(connection);
    // SQLite's threads keep the spans of their last statements open until the connections are closed.
    store.pool().close().await;

    let spans = exporter.get_finished_spans().unwrap();
    let command = named(&spans, "register")[0];
    let trace = command.span_context.trace_id().to_string();
    assert_eq!(events[0].trace_id.as_deref(), Some(&*trace));

    let handled = named(&spans, "handle");
    assert_eq!(handled.len(), 3);
    let links = handled[0].links.links.as_slice();
    assert_eq!(links.len(), 1);
    assert_eq!(
        links[0].span_context.trace_id(),
        command.span_context.trace_id()
    );
    assert_eq!(
        links[0].span_context.span_id(),
        command.span_context.span_id()
    );
    assert_eq!(links[0].attributes[0].value.to_string(), "sign-up of ada");
    assert_eq!(attribute(handled[0], "correlation_id"), "sign-up of ada");
    assert_eq!(attribute(handled[0], "position"), "1");

    let links = handled[1].links.links.as_slice();
    assert_eq!(links[0].span_context.trace_id().to_string(), foreign);
    assert!(handled[2].links.links.is_empty());

    let batch = named(&spans, "consumer.batch")[0];
    for span in handled {
        assert_eq!(span.parent_span_id, batch.span_context.span_id());
        assert_ne!(
            span.span_context.trace_id(),
            command.span_context.trace_id(),
            "linked, not part of it"
        );
    }
    assert_eq!(attribute(batch, "consumer"), "traces.users");
}

/// Answers one request, and returns its first line and its body.
fn collector() -> (String, std::thread::JoinHandle<(String, Vec<u8>)>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let taking = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
        }
        let length = head
            .lines()
            .find_map(|line| {
                line.to_lowercase()
                    .strip_prefix("content-length: ")
                    .map(|length| length.parse().unwrap())
            })
            .unwrap();
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        reader.get_mut().write_all(answer.as_bytes()).unwrap();
        (head.lines().next().unwrap().to_owned(), body)
    });
    (url, taking)
}

#[test]
fn the_program_sends_its_spans_to_the_collector() {
    let directory = tempfile::tempdir().unwrap();
    let (url, taking) = collector();
    let output = Command::new(env!("CARGO_BIN_EXE_traces"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        // All in the one request that the collector answers.
        .env("OTEL_BSP_SCHEDULE_DELAY", "600000")
        .env(
            "DATABASE_URL",
            format!("sqlite:{}", directory.path().join("app.db").display()),
        )
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let (request, body) = taking.join().unwrap();
    assert_eq!(request, "POST /v1/traces HTTP/1.1");
    let body = String::from_utf8_lossy(&body);
    for span in ["register", "consumer.batch", "handle", "sign-up of "] {
        assert!(body.contains(span), "no {span}: {body}");
    }
}
