//! What a worker tells a recorder of metrics, and the spans of its batches.
#![allow(
    clippy::float_cmp,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, LazyLock, Mutex};

use consumer::{ExpectedVersion, NewEvent, OnError, Settings, Worker};
use consumer_tests::{MODEL, Model, on_both_databases};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

type Values = Arc<Mutex<HashMap<String, f64>>>;

/// Keeps every value under its name and labels.
#[derive(Clone, Default)]
struct Kept(Values);

struct One(String, Values);

impl One {
    fn change(&self, change: impl FnOnce(&mut f64)) {
        change(self.1.lock().unwrap().entry(self.0.clone()).or_default());
    }
}

impl CounterFn for One {
    #[allow(clippy::cast_precision_loss)]
    fn increment(&self, value: u64) {
        self.change(|sum| *sum += value as f64);
    }
    #[allow(clippy::cast_precision_loss)]
    fn absolute(&self, value: u64) {
        self.change(|sum| *sum = value as f64);
    }
}

impl GaugeFn for One {
    fn increment(&self, value: f64) {
        self.change(|sum| *sum += value);
    }
    fn decrement(&self, value: f64) {
        self.change(|sum| *sum -= value);
    }
    fn set(&self, value: f64) {
        self.change(|sum| *sum = value);
    }
}

impl HistogramFn for One {
    fn record(&self, _value: f64) {
        self.change(|count| *count += 1.0);
    }
}

impl Kept {
    fn one(&self, key: &Key) -> Arc<One> {
        let mut labels: Vec<String> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        labels.sort();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        Arc::new(One(name, Arc::clone(&self.0)))
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.one(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.one(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.one(key))
    }
}

/// Keeps the fields of every batch's span.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<HashMap<u64, HashMap<&'static str, String>>>>);

struct Fields<'a>(&'a mut HashMap<&'static str, String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: tracing::Subscriber> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        if attributes.metadata().name() == "consumer.batch" {
            let mut fields = HashMap::new();
            attributes.record(&mut Fields(&mut fields));
            self.0.lock().unwrap().insert(id.into_u64(), fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        if let Some(fields) = self.0.lock().unwrap().get_mut(&id.into_u64()) {
            values.record(&mut Fields(fields));
        }
    }
}

static RECORDED: LazyLock<(Kept, Spans)> = LazyLock::new(|| {
    let (kept, spans) = (Kept::default(), Spans::default());
    metrics::set_global_recorder(kept.clone()).ok().unwrap();
    let registry = tracing_subscriber::registry::Registry::default();
    tracing::subscriber::set_global_default(registry.with(spans.clone())).unwrap();
    (kept, spans)
});

fn value(name: &str) -> f64 {
    RECORDED
        .0
        .0
        .lock()
        .unwrap()
        .get(name)
        .copied()
        .unwrap_or(-1.0)
}

macro_rules! prepare {
    ($db:ident, $ids:expr) => {{
        LazyLock::force(&RECORDED);
        sqlx::query(MODEL).execute(&$db.pool).await.unwrap();
        for id in $ids {
            let event = NewEvent::new("User", id, "Happened", "{}");
            $db.store
                .append_in_transaction(ExpectedVersion::Any, &[event])
                .await
                .unwrap();
        }
    }};
}

/// A name of its own for each test and database, as all share one recorder.
fn named<DB: sqlx::Database>(sqlite: &'static str, postgres: &'static str) -> &'static str {
    if DB::NAME == "SQLite" {
        sqlite
    } else {
        postgres
    }
}

on_both_databases! {
    async fn events_batches_and_lag_are_counted_by_consumer_and_version(db) {
        prepare!(db, ["a", "b", "c"]);
        let name = named::<Db>("counted_s", "counted_p");
        Worker::<Db>::builder(db.store.clone())
            .consumer(Model::new(name))
            .build().unwrap().run_once().await.unwrap();
        let labels = format!("{{consumer={name},version=1}}");
        assert_eq!(value(&format!("consumer_events_total{labels}")), 3.0);
        assert_eq!(value(&format!("consumer_batches_total{labels}")), 1.0);
        assert_eq!(value(&format!("consumer_batch_seconds{labels}")), 1.0);
        assert!(value("consumer_frontier_position{}") >= 0.0);
        assert!(value("consumer_log_reads_total{cache=miss}") >= 1.0);
    }

    async fn errors_retries_and_parked_events_are_counted(db) {
        prepare!(db, ["bad", "bad"]);
        let name = named::<Db>("parked_s", "parked_p");
        let settings = Settings::default()
            .retries(1)
            .backoff(std::time::Duration::from_millis(1), std::time::Duration::from_millis(1))
            .on_error(OnError::Park);
        let model = Model::new(name).settings(settings);
        model.fail_on("bad", true);
        Worker::<Db>::builder(db.store.clone()).consumer(model).build().unwrap().run_once().await.unwrap();
        let labels = format!("consumer={name},version=1}}");
        assert!(value(&format!("consumer_errors_total{{{}", labels.replace(",version", ",kind=handler,version"))) >= 2.0);
        assert!(value(&format!("consumer_retries_total{{{labels}")) >= 1.0);
        assert_eq!(value(&format!("consumer_parked_total{{{labels}")), 2.0);
    }

    async fn a_batch_has_a_span_with_where_it_began_and_ended(db) {
        prepare!(db, ["a", "b"]);
        let name = named::<Db>("spanned_s", "spanned_p");
        Worker::<Db>::builder(db.store.clone())
            .consumer(Model::new(name))
            .build().unwrap().run_once().await.unwrap();
        let spans = RECORDED.1.0.lock().unwrap();
        let quoted = format!("{name:?}");
        let span = spans.values().find(|span| span["consumer"] == quoted).unwrap();
        assert_eq!((&*span["from"], &*span["to"], &*span["events"], &*span["attempt"]), ("0", "2", "2", "1"));
        assert!(span["duration_ms"].parse::<f64>().unwrap() > 0.0);
    }
}

#[test]
fn the_dashboard_shows_every_metric_of_the_documentation_and_no_other() {
    let dashboard = include_str!("../../examples/grafana/consumers.json");
    let documented: Vec<&str> = include_str!("../../consumer/src/observing.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `")?.split('`').next())
        .collect();
    assert_eq!(documented.len(), 14);
    let source = include_str!("../../consumer/src/worker/measure.rs");
    for name in documented {
        assert!(
            source.contains(&format!("\"{name}\"")),
            "{name} is not measured"
        );
        // The number of batches is in the histogram too.
        assert!(
            dashboard.contains(name) || name == "consumer_batches_total",
            "{name} is not shown"
        );
    }
}
