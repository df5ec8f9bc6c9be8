//! The metrics of a worker, and the spans of its batches.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use consumer::admin::Admin;
use consumer::{
    ExpectedVersion, Formerly, NewEvent, OnError, Schema, Settings, Worker, merge_segments,
};
use consumer_tests::{
    Database, Model, Running, TestDatabase, consumer, patiently, read_model, test_on,
};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use sqlx::Postgres;
use tokio::sync::Semaphore;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

type Values = Arc<Mutex<HashMap<String, f64>>>;

/// Keeps every value under its name and labels, and what every name was said to mean.
#[derive(Clone, Default)]
struct Kept(Values, Arc<Mutex<HashMap<String, String>>>);

struct One(String, Values);

impl One {
    fn change(&self, change: impl FnOnce(&mut f64)) {
        change(self.1.lock().unwrap().entry(self.0.clone()).or_default());
    }
}

impl CounterFn for One {
    fn increment(&self, value: u64) {
        self.change(|sum| *sum += value as f64);
    }
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
    fn described(&self, name: &KeyName, text: &SharedString) {
        let mut described = self.1.lock().unwrap();
        described.insert(name.as_str().to_owned(), text.to_string());
    }

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
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
        self.described(&name, &text);
    }
    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
        self.described(&name, &text);
    }
    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
        self.described(&name, &text);
    }
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

/// Records from now on, and appends to these users.
async fn prepare<DB: TestDatabase>(db: &Database<DB>, ids: &[&str]) {
    LazyLock::force(&RECORDED);
    db.append("User", ids).await;
}

/// A name of its own for each test and database, as all share one recorder.
fn named<DB: sqlx::Database, T>(sqlite: T, postgres: T) -> T {
    if DB::NAME == "SQLite" {
        sqlite
    } else {
        postgres
    }
}

/// Polls a condition.
async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn impatient(retries: u32) -> Settings {
    consumer_tests::impatient().retries(retries)
}

/// Makes all events an hour old.
async fn make_old<DB: TestDatabase>(pool: &sqlx::Pool<DB>) {
    let hour_ago = named::<DB, _>(
        "strftime('%Y-%m-%d %H:%M:%f', 'now', '-1 hour')",
        "now() - interval '1 hour'",
    );
    let mut connection = pool.acquire().await.unwrap();
    let sql = format!("UPDATE events SET created_at = {hour_ago}");
    DB::execute_sql(&mut connection, &sql).await.unwrap();
}

test_on!(
    [sqlite, postgres],
    events_batches_and_lag_are_counted_by_consumer_and_version,
    a_parked_event_is_not_counted_as_handled,
    a_skipped_event_is_only_counted_as_skipped,
    errors_are_counted_by_their_cause,
    an_event_that_cannot_be_decoded_is_counted_as_unreadable,
    the_log_is_read_once_for_consumers_at_one_position,
    lag_in_seconds_is_the_age_of_the_first_unhandled_event,
    a_new_event_after_an_idle_hour_is_not_an_hour_late,
    the_gauges_of_a_merged_slice_go_to_zero,
    a_consumer_shows_that_it_waits_for_a_release,
    a_consumer_shows_that_it_is_held_back,
    a_batch_has_a_span_with_its_positions
);

async fn events_batches_and_lag_are_counted_by_consumer_and_version<DB: TestDatabase>(
    db: Database<DB>,
) {
    prepare(&db, &["a", "b", "c"]).await;
    let name = named::<DB, _>("counted_s", "counted_p");
    Worker::<DB>::builder(db.store.clone())
        .consumer(Model::new(name))
        .build()
        .unwrap()
        .run_once()
        .await
        .unwrap();
    let labels = format!("{{consumer={name},log=events,version=1}}");
    assert_eq!(value(&format!("consumer_events_total{labels}")), 3.0);
    assert_eq!(value(&format!("consumer_batches_total{labels}")), 1.0);
    assert_eq!(value(&format!("consumer_batch_seconds{labels}")), 1.0);
    assert!(value("consumer_frontier_position{log=events}") >= 0.0);
    assert!(value("consumer_log_reads_total{cache=miss,log=events}") >= 1.0);
}

async fn a_parked_event_is_not_counted_as_handled<DB: TestDatabase>(db: Database<DB>) {
    prepare(&db, &["bad", "bad", "good"]).await;
    let name = named::<DB, _>("parked_s", "parked_p");
    let model = Model::new(name).settings(impatient(1).on_error(OnError::Park));
    model.fail_on("bad", true);
    let report = Worker::<DB>::builder(db.store.clone())
        .consumer(model)
        .build()
        .unwrap()
        .run_once()
        .await
        .unwrap();
    assert_eq!(report.consumer(name).unwrap().events, 1);
    let labels = format!("consumer={name},log=events,version=1}}");
    assert_eq!(
        value(&format!(
            "consumer_errors_total{{{}",
            labels.replace(",log", ",kind=handler,log")
        )),
        2.0
    );
    assert_eq!(value(&format!("consumer_retries_total{{{labels}")), 1.0);
    assert_eq!(value(&format!("consumer_parked_total{{{labels}")), 2.0);
    assert_eq!(value(&format!("consumer_parked_events{{{labels}")), 2.0);
    assert_eq!(value(&format!("consumer_events_total{{{labels}")), 1.0);
    assert_eq!(value(&format!("consumer_batches_total{{{labels}")), 1.0);
    assert_eq!(value(&format!("consumer_skipped_total{{{labels}")), -1.0);
}

async fn a_skipped_event_is_only_counted_as_skipped<DB: TestDatabase>(db: Database<DB>) {
    prepare(&db, &["bad", "good"]).await;
    let name = named::<DB, _>("skipped_s", "skipped_p");
    let model = Model::new(name).settings(impatient(0).on_error(OnError::Skip));
    model.fail_on("bad", true);
    Worker::<DB>::builder(db.store.clone())
        .consumer(model)
        .build()
        .unwrap()
        .run_once()
        .await
        .unwrap();
    let labels = format!("{{consumer={name},log=events,version=1}}");
    assert_eq!(value(&format!("consumer_skipped_total{labels}")), 1.0);
    assert_eq!(value(&format!("consumer_events_total{labels}")), 1.0);
    assert_eq!(value(&format!("consumer_retries_total{labels}")), -1.0);
    assert_eq!(value(&format!("consumer_parked_total{labels}")), -1.0);
}

async fn errors_are_counted_by_their_cause<DB: TestDatabase>(db: Database<DB>) {
    prepare(&db, &["a"]).await;
    let name = named::<DB, _>("troubled_s", "troubled_p");
    let tries = Arc::new(AtomicU32::new(0));
    let troubled = consumer(name, move |_, tx: &mut DB::Connection, _| {
        let attempt = tries.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            if attempt == 0 {
                return Err(sqlx::Error::PoolTimedOut.into());
            }
            Ok(DB::execute_sql(tx, "COMMIT").await?)
        })
    });
    Worker::<DB>::builder(db.store.clone())
        .consumer(troubled)
        .build()
        .unwrap()
        .run_once()
        .await
        .unwrap();
    for kind in ["database", "commit"] {
        let errors =
            format!("consumer_errors_total{{consumer={name},kind={kind},log=events,version=1}}");
        assert_eq!(value(&errors), 1.0, "{kind}");
    }
}

async fn an_event_that_cannot_be_decoded_is_counted_as_unreadable<DB: TestDatabase>(
    db: Database<DB>,
) {
    prepare(&db, &["a"]).await;
    let damage = match DB::NAME {
        "SQLite" => "event_id = 'no UUID'",
        _ => "created_at = 'infinity'",
    };
    db.execute(&format!("UPDATE events SET {damage}")).await;
    let name = named::<DB, _>("unreadable_s", "unreadable_p");
    let model = Model::new(name).settings(impatient(0));
    let worker = Worker::<DB>::builder(db.store.clone()).consumer(model);
    worker.build().unwrap().run_once().await.unwrap();
    let errors =
        format!("consumer_errors_total{{consumer={name},kind=unreadable,log=events,version=1}}");
    assert_eq!(value(&errors), 1.0);
}

async fn the_log_is_read_once_for_consumers_at_one_position<DB: TestDatabase>(db: Database<DB>) {
    prepare(&db, &["a", "b"]).await;
    let [one, other] = named::<DB, _>(["hit_1_s", "hit_2_s"], ["hit_1_p", "hit_2_p"]);
    Worker::<DB>::builder(db.store.clone())
        .consumer(Model::new(one))
        .consumer(Model::new(other))
        .build()
        .unwrap()
        .run_once()
        .await
        .unwrap();
    assert!(value("consumer_log_reads_total{cache=hit,log=events}") >= 1.0);
}

async fn lag_in_seconds_is_the_age_of_the_first_unhandled_event<DB: TestDatabase>(
    db: Database<DB>,
) {
    prepare(&db, &["bad"]).await;
    let [stopped, paused] = named::<DB, _>(["stopped_s", "paused_s"], ["stopped_p", "paused_p"]);
    let model = Model::new(stopped);
    model.fail_on("bad", true);
    let builder = || {
        Worker::<DB>::builder(db.store.clone())
            .consumer(model.clone())
            .consumer(Model::new(paused))
            .snapshot_interval(Duration::from_millis(2))
    };
    builder().admin().unwrap().pause(paused).await.unwrap();
    make_old::<DB>(&db.pool).await;
    // A worker that has just started has handled nothing, whose age it could tell.
    let running = Running::start(builder());
    for name in [stopped, paused] {
        let labels = format!("{{consumer={name},log=events,slice=0,version=1}}");
        until(|| value(&format!("consumer_lag_positions{labels}")) == 1.0).await;
        until(|| (3600.0..3900.0).contains(&value(&format!("consumer_lag_seconds{labels}")))).await;
    }
    let state = |name, state| {
        value(&format!(
            "consumer_state{{consumer={name},log=events,state={state},version=1}}"
        ))
    };
    until(|| state(stopped, "stopped") == 1.0 && state(stopped, "running") == 0.0).await;
    until(|| state(paused, "paused") == 1.0 && state(paused, "stopped") == 0.0).await;
    running.stop().await;
}

async fn a_new_event_after_an_idle_hour_is_not_an_hour_late<DB: TestDatabase>(db: Database<DB>) {
    prepare(&db, &["a"]).await;
    make_old::<DB>(&db.pool).await;
    let name = named::<DB, _>("quiet_s", "quiet_p");
    let gate = Arc::new(Semaphore::new(1));
    let model = Model::new(name).gate(&gate);
    let running = Running::start(
        Worker::<DB>::builder(db.store.clone())
            .consumer(model.clone())
            .snapshot_interval(Duration::from_millis(2)),
    );
    running.caught_up().await.unwrap();
    let labels = format!("{{consumer={name},log=events,slice=0,version=1}}");
    until(|| value(&format!("consumer_lag_seconds{labels}")) == 0.0).await;
    db.append("User", ["b"]).await;
    until(|| value(&format!("consumer_lag_positions{labels}")) >= 1.0).await;
    until(|| value(&format!("consumer_lag_seconds{labels}")) > 0.0).await;
    assert!(value(&format!("consumer_lag_seconds{labels}")) < 600.0);
    gate.add_permits(1);
    running.caught_up().await.unwrap();
    until(|| value(&format!("consumer_lag_seconds{labels}")) == 0.0).await;
    assert!(value("consumer_head_position{log=events}") >= 1.0);
    running.stop().await;
}

async fn the_gauges_of_a_merged_slice_go_to_zero<DB: TestDatabase>(db: Database<DB>) {
    prepare(&db, &["a"]).await;
    let name = named::<DB, _>("merged_s", "merged_p");
    let builder = |scope| {
        Worker::<DB>::builder(db.store.clone())
            .scoped_consumer(Model::new(name).scope(scope))
            .snapshot_interval(Duration::from_millis(2))
    };
    let two = |settings: Settings| settings.segments(2);
    builder(&["Order"])
        .configure_all(two)
        .build()
        .unwrap()
        .run_once()
        .await
        .unwrap();
    // Its scope has changed: it stays where it is, and is behind.
    db.execute("UPDATE consumer_progress SET position = 0")
        .await;
    let running = Running::start(builder(&["User"]));
    let lag = format!("consumer_lag_positions{{consumer={name},log=events,slice=512,version=1}}");
    until(|| value(&lag) == 1.0).await;
    merge_segments(&db.store, name, 1, 1).await.unwrap();
    until(|| value(&lag) == 0.0).await;
    running.stop().await;
}

/// Whether the gauges of a consumer have 1 for this state, and 0 for all others.
fn is_only_in(name: &str, current: &str) -> bool {
    states().into_iter().all(|state| {
        let labels = format!("{{consumer={name},log=events,state={state},version=1}}");
        value(&format!("consumer_state{labels}")) == f64::from(u8::from(state == current))
    })
}

async fn a_consumer_shows_that_it_waits_for_a_release<DB: TestDatabase>(db: Database<DB>) {
    prepare(&db, &["a"]).await;
    db.append_events(&[NewEvent::new("User", "a", "Refunded", "{}")])
        .await;
    let name = named::<DB, _>("waiting_s", "waiting_p");
    let old = read_model(name).knows(|format| format.event_type == "Changed");
    let running = Running::start(db.worker().consumer(old));
    patiently(
        "its state",
        until(|| is_only_in(name, "waiting_for_release")),
    )
    .await;
    let lag = format!("consumer_lag_positions{{consumer={name},log=events,slice=0,version=1}}");
    patiently("its lag", until(|| value(&lag) == 1.0)).await;
    running.stop().await;

    let running = Running::start(db.worker().consumer(read_model(name)));
    patiently("its state", until(|| is_only_in(name, "running"))).await;
    patiently("its lag", until(|| value(&lag) == 0.0)).await;
    running.stop().await;
}

async fn a_consumer_shows_that_it_is_held_back<DB: TestDatabase>(db: Database<DB>) {
    prepare(&db, &["a"]).await;
    let [former, name] = named::<DB, _>(["former_s", "held_back_s"], ["former_p", "held_back_p"]);
    db.run_once(read_model(former)).await;
    let new = read_model(name).formerly(Formerly::Unstated);
    let running = Running::start(db.worker().consumer(new));
    patiently("its state", until(|| is_only_in(name, "held_back"))).await;
    let admin = Admin::new(db.store.clone());
    admin.rename(former, name).await.unwrap();
    patiently("its state", until(|| is_only_in(name, "running"))).await;
    running.stop().await;
}

async fn a_batch_has_a_span_with_its_positions<DB: TestDatabase>(db: Database<DB>) {
    prepare(&db, &["a", "b"]).await;
    let name = named::<DB, _>("spanned_s", "spanned_p");
    Worker::<DB>::builder(db.store.clone())
        .consumer(Model::new(name))
        .build()
        .unwrap()
        .run_once()
        .await
        .unwrap();
    let spans = RECORDED.1.0.lock().unwrap();
    let quoted = format!("{name:?}");
    let span = spans
        .values()
        .find(|span| span["consumer"] == quoted)
        .unwrap();
    assert_eq!(
        (
            &*span["from"],
            &*span["to"],
            &*span["events"],
            &*span["attempt"]
        ),
        ("0", "2", "2", "1")
    );
    assert!(span["duration_ms"].parse::<f64>().unwrap() > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_show_how_long_and_by_whom_the_frontier_is_blocked() {
    let db = consumer_tests::Database::<sqlx::Postgres>::fresh().await;
    prepare(&db, &[]).await;
    let running = Running::start(Worker::builder(db.store.clone()).consumer(Model::new("gap")));
    let mut slow = db.store.begin().await.unwrap();
    db.append_in(&mut slow, "slow").await;
    db.append("User", ["fast"]).await;
    // Other workers of this process write to the same gauges.
    until(|| value("consumer_frontier_wait_seconds{log=events}") > 1.0).await;
    until(|| value("consumer_frontier_blockers{log=events}") == 1.0).await;
    // Its consumers are behind the head, though not behind the frontier.
    until(|| value("consumer_lag_positions{consumer=gap,log=events,slice=0,version=1}") >= 2.0)
        .await;
    until(|| {
        value("consumer_settled_lag_positions{consumer=gap,log=events,slice=0,version=1}") == 0.0
    })
    .await;
    until(|| value("consumer_lag_seconds{consumer=gap,log=events,slice=0,version=1}") > 0.0).await;
    slow.commit().await.unwrap();
    running.caught_up().await.unwrap();
    until(|| value("consumer_frontier_blockers{log=events}") == 0.0).await;
    until(|| value("consumer_frontier_wait_seconds{log=events}") == 0.0).await;
    running.stop().await;
}

/// Two tenants of one process, with the same consumer.
#[tokio::test(flavor = "multi_thread")]
async fn each_log_of_a_process_has_metrics_of_its_own() {
    let db = Database::<Postgres>::fresh().await;
    prepare(&db, &[]).await;
    let tenants = [("acme", 2_u8), ("umbrella", 3)];
    let mut workers = Vec::new();
    for (tenant, events) in tenants {
        let schema = Schema::default().database_schema(tenant);
        let store = db.store.clone().with_schema(schema).unwrap();
        store.migrate().await.unwrap();
        for _ in 0..events {
            let changed = [NewEvent::new("User", "u-1", "Changed", "{}")];
            store.append(ExpectedVersion::Any, &changed).await.unwrap();
        }
        let users = consumer("tenants", |_, _: &mut sqlx::PgConnection, _| {
            Box::pin(async { Ok(()) })
        });
        workers.push(Running::start(Worker::builder(store).consumer(users)));
    }
    for worker in &workers {
        patiently("it catches up", worker.caught_up())
            .await
            .unwrap();
    }
    for (tenant, events) in tenants {
        let of_consumer = |name: &str, label: &str| {
            let labels = format!("consumer=tenants,log={tenant}.events{label},version=1");
            value(&format!("{name}{{{labels}}}"))
        };
        let of_log = |name: &str| value(&format!("{name}{{log={tenant}.events}}"));
        let events = f64::from(events);
        assert_eq!(of_consumer("consumer_events_total", ""), events);
        assert_eq!(of_log("consumer_frontier_position"), events);
        assert_eq!(of_log("consumer_head_position"), events);
        let state = || of_consumer("consumer_state", ",state=running");
        patiently("its state", until(|| state() == 1.0)).await;
        let lag = || of_consumer("consumer_lag_positions", ",slice=0");
        patiently("its lag", until(|| lag() == 0.0)).await;
    }
    for worker in workers {
        worker.stop().await;
    }
    let recorded = RECORDED.0.0.lock().unwrap();
    for name in recorded.keys() {
        assert!(name.contains("log="), "{name} names no log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_described_to_the_recorder() {
    let db = consumer_tests::Database::<sqlx::Sqlite>::fresh().await;
    prepare(&db, &["a"]).await;
    let worker = Worker::builder(db.store.clone()).consumer(Model::new("described"));
    worker.build().unwrap().run_once().await.unwrap();
    let described = RECORDED.0.1.lock().unwrap();
    for name in documented() {
        assert!(described.contains_key(name), "{name}");
    }
    assert_eq!(described.len(), documented().len());
}

fn documented() -> Vec<&'static str> {
    include_str!("../../consumer/src/observing.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `")?.split('`').next())
        .collect()
}

/// The states of a consumer, as they are documented.
fn states() -> Vec<&'static str> {
    let mut lines = include_str!("../../consumer/src/observing.rs").lines();
    let states = lines.find_map(|line| line.strip_prefix("//! | `consumer_state` |"));
    let (_, states) = states.unwrap().split_once("0 for the others: ").unwrap();
    let listed = states
        .split(", `")
        .map(|state| state.trim_start_matches('`'));
    listed.filter_map(|state| state.split('`').next()).collect()
}

#[test]
fn every_state_of_a_consumer_is_shown_and_alerted_on() {
    let source = include_str!("../../consumer/src/worker/progress/state.rs");
    let (_, labels) = source.split_once("METRIC_LABELS: [").unwrap();
    let (_, labels) = labels.split_once("= [").unwrap();
    let (labels, _) = labels.split_once("];").unwrap();
    let mut measured: Vec<&str> = labels.split('"').skip(1).step_by(2).collect();
    let mut documented = states();
    measured.sort_unstable();
    documented.sort_unstable();
    assert_eq!(measured, documented);

    let dashboard = include_str!("../../examples/grafana/consumers.json");
    let rules = include_str!("../../examples/grafana/alerts.yml");
    assert!(
        dashboard.contains(r#"state!=\"running\""#),
        "a panel shows all states"
    );
    for state in ["waiting_for_release", "held_back"] {
        let shown = format!(r#"state=\"{state}\""#);
        assert!(dashboard.contains(&shown), "{state} has no panel");
    }
    // The others pass by themselves, or were chosen by an operator.
    let needs_no_one = ["running", "retrying", "waiting", "forgotten"];
    let states_in = |line: &'static str| line.split('"').skip(1).step_by(2);
    let expressions = rules
        .lines()
        .filter(|line| line.contains("consumer_state{"));
    let alerted: Vec<&str> = expressions
        .flat_map(states_in)
        .flat_map(|states| states.split('|'))
        .collect();
    for state in documented {
        let is_alerted = alerted.contains(&state);
        assert_eq!(is_alerted, !needs_no_one.contains(&state), "{state}");
    }
}

#[test]
fn the_dashboard_shows_every_documented_metric() {
    let dashboard = include_str!("../../examples/grafana/consumers.json");
    let documented = documented();
    assert_eq!(documented.len(), 18);
    let source = include_str!("../../consumer/src/worker/metrics.rs");
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

/// A log whose consumers run must not hide one whose consumers wait.
#[test]
fn alerts_and_panels_keep_the_logs_of_a_process_apart() {
    for (text, least) in [
        (include_str!("../../examples/grafana/alerts.yml"), 11),
        (include_str!("../../examples/grafana/consumers.json"), 20),
        (include_str!("../../consumer/src/observing.rs"), 1),
    ] {
        let grouped = text.matches(" by (").count();
        assert!(grouped >= least, "only {grouped} expressions");
        assert_eq!(text.matches(" by (log").count(), grouped);
        for operator in ["max(", "min(", "sum(", "count("] {
            assert!(!text.contains(operator), "{operator} of all logs");
        }
    }
}

#[test]
fn the_alert_rules_name_only_metrics_that_there_are() {
    let rules = include_str!("../../examples/grafana/alerts.yml");
    let guide = include_str!("../../consumer/src/guide/on_call.md");
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let expressions = rules.lines().filter(|line| line.contains("expr:"));
    let words = expressions.flat_map(|line| line.split(|letter| !is_part(letter)));
    let metrics: Vec<&str> = words.filter(|word| word.starts_with("consumer_")).collect();
    assert!(metrics.len() >= 8, "{metrics:?}");
    for metric in metrics {
        let name = metric.trim_end_matches("_sum").trim_end_matches("_count");
        assert!(documented().contains(&name), "{metric} is not documented");
    }
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let alerts: Vec<&str> = alerts.collect();
    for part in ["expr:", "severity:", "summary:"] {
        assert_eq!(alerts.len(), rules.matches(part).count(), "{part}");
    }
    for alert in alerts {
        assert!(
            guide.contains(&format!("`{alert}`")),
            "the guide does not answer {alert}"
        );
    }
}
