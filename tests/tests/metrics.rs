//! The metrics of a worker, and the spans of its batches.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use consumer::admin::Admin;
use consumer::{Formerly, NewEvent, OnError, Schema, Settings, Worker, merge_segments};
use consumer_tests::{
    Database, Model, Running, TestDatabase, consumer, judging, patiently, read_model, run_once,
    test_on,
};
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use serde_json::{Value, json};
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
    a_segment_that_waits_for_a_release_is_counted,
    a_segment_at_an_unreadable_event_is_counted,
    a_consumer_shows_that_it_is_held_back,
    a_batch_has_a_span_with_its_positions
);

async fn events_batches_and_lag_are_counted_by_consumer_and_version<DB: TestDatabase>(
    db: Database<DB>,
) {
    prepare(&db, &["a", "b", "c"]).await;
    let name = named::<DB, _>("counted_s", "counted_p");
    let worker = Worker::builder(db.store.clone()).consumer(Model::new(name));
    run_once(worker).await;
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
    let worker = Worker::builder(db.store.clone()).consumer(model);
    let report = run_once(worker).await;
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
    let worker = Worker::builder(db.store.clone()).consumer(model);
    run_once(worker).await;
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
    let worker = Worker::builder(db.store.clone()).consumer(troubled);
    run_once(worker).await;
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
    run_once(worker).await;
    let errors =
        format!("consumer_errors_total{{consumer={name},kind=unreadable,log=events,version=1}}");
    assert_eq!(value(&errors), 1.0);
}

async fn the_log_is_read_once_for_consumers_at_one_position<DB: TestDatabase>(db: Database<DB>) {
    prepare(&db, &["a", "b"]).await;
    let [one, other] = named::<DB, _>(["hit_1_s", "hit_2_s"], ["hit_1_p", "hit_2_p"]);
    let worker = Worker::builder(db.store.clone())
        .consumer(Model::new(one))
        .consumer(Model::new(other));
    run_once(worker).await;
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
    run_once(builder(&["Order"]).configure_all(two)).await;
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
    db.append_event(NewEvent::new("User", "a", "Refunded", "{}"))
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

/// How many segments of a consumer wait, by each reason.
fn waiting_segments(name: &str) -> [f64; 3] {
    ["unknown", "left", "unreadable"].map(|reason| {
        let labels = format!("{{consumer={name},log=events,reason={reason},version=1}}");
        value(&format!("consumer_waiting_segments{labels}"))
    })
}

async fn wait_for_segments(name: &str, wanted: [f64; 3]) {
    let holds = until(|| waiting_segments(name) == wanted);
    patiently(&format!("{wanted:?} segments wait"), holds).await;
}

/// One of two segments waits for a release, and the other one fails, which alone shows in the state.
async fn a_segment_that_waits_for_a_release_is_counted<DB: TestDatabase>(db: Database<DB>) {
    prepare(&db, &[]).await;
    let [waits, fails] = ["u-1", "u-2"];
    assert_ne!(
        consumer::aggregate_slice(waits) < 512,
        consumer::aggregate_slice(fails) < 512,
        "the ids are of one segment"
    );
    db.append_event(NewEvent::new("User", waits, "Refunded", "{}"))
        .await;
    db.append("User", [fails]).await;
    let name = named::<DB, _>("aside_s", "aside_p");
    let old = || {
        let old = judging(name, move |_, event| match &*event.aggregate_id {
            id if id == fails => Err("cannot handle it".to_owned()),
            _ => Ok(()),
        });
        let old = old.settings(impatient(0).segments(2));
        old.knows(|format| format.event_type == "Changed")
    };
    let worker = || {
        db.worker()
            .release("old")
            .consumer(old())
            .snapshot_interval(Duration::from_millis(2))
    };
    let running = Running::start(worker());
    patiently("its state", until(|| is_only_in(name, "stopped"))).await;
    wait_for_segments(name, [1.0, 0.0, 0.0]).await;
    running.stop().await;

    // The control: a release that knows the event, and fails on none.
    let new = read_model(name).settings(impatient(0).segments(2));
    let builder = db.worker().release("new").consumer(new);
    let running = Running::start(builder.snapshot_interval(Duration::from_millis(2)));
    wait_for_segments(name, [0.0; 3]).await;
    running.stop().await;
}

async fn a_segment_at_an_unreadable_event_is_counted<DB: TestDatabase>(db: Database<DB>) {
    prepare(&db, &["a", "b"]).await;
    let (damage, repair) = match DB::NAME {
        "SQLite" => ("'no UUID'", "'a49c9f5c-5b1f-4a6a-8d52-7d4f2b9f8b53'"),
        _ => ("'infinity'", "now()"),
    };
    let column = named::<DB, _>("event_id", "created_at");
    let set =
        |value: &str| format!("UPDATE events SET {column} = {value} WHERE global_position = 2");
    db.execute(&set(damage)).await;
    let name = named::<DB, _>("damaged_s", "damaged_p");
    let start = || {
        let model = Model::new(name).settings(impatient(0));
        let worker = Worker::<DB>::builder(db.store.clone()).consumer(model);
        Running::start(worker.snapshot_interval(Duration::from_millis(2)))
    };
    let running = start();
    patiently("its state", until(|| is_only_in(name, "stopped"))).await;
    wait_for_segments(name, [0.0, 0.0, 1.0]).await;
    running.stop().await;
    // A process that finds it stopped has tried nothing, and knows all the same.
    RECORDED
        .0
        .0
        .lock()
        .unwrap()
        .retain(|key, _| !key.contains(name));
    let running = start();
    wait_for_segments(name, [0.0, 0.0, 1.0]).await;
    // The control: the row is repaired.
    db.execute(&set(repair)).await;
    Admin::new(db.store.clone()).resume(name).await.unwrap();
    wait_for_segments(name, [0.0; 3]).await;
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
    let worker = Worker::builder(db.store.clone()).consumer(Model::new(name));
    run_once(worker).await;
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
        let log = Database::of(store.clone(), &db.url);
        log.append_many(events.into()).await;
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
        for name in ["consumer_frontier_position", "consumer_head_position"] {
            patiently(name, until(|| of_log(name) == events)).await;
        }
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
    run_once(worker).await;
    let described = RECORDED.0.1.lock().unwrap();
    for name in documented() {
        assert!(described.contains_key(name), "{name}");
    }
    assert_eq!(described.len(), documented().len());
}

/// The labels of a metric in each of its forms.
fn recorded_labels(metric: &str) -> BTreeSet<BTreeSet<String>> {
    let recorded = RECORDED.0.0.lock().unwrap();
    let keys = recorded.keys().filter_map(|key| key.split_once('{'));
    keys.filter(|(name, _)| *name == metric)
        .map(|(_, labels)| {
            let labels = labels.split(',').filter_map(|one| one.split_once('='));
            labels.map(|(label, _)| label.to_owned()).collect()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_metric_has_the_labels_that_are_documented() {
    let db = consumer_tests::Database::<sqlx::Sqlite>::fresh().await;
    prepare(&db, &["bad", "good", "good"]).await;
    // Its aggregate skips a version.
    db.execute("UPDATE events SET aggregate_version = 3 WHERE global_position = 3")
        .await;
    let failing = |name, on_error| {
        let model = Model::new(name).settings(impatient(1).on_error(on_error));
        model.fail_on("bad", true);
        model
    };
    let builder = Worker::builder(db.store.clone())
        .consumer(failing("labelled_parks", OnError::Park))
        .consumer(failing("labelled_skips", OnError::Skip))
        .snapshot_interval(Duration::from_millis(2));
    let running = Running::start(builder);
    for name in documented() {
        let is_recorded = until(|| !recorded_labels(name).is_empty());
        patiently(&format!("{name} is recorded"), is_recorded).await;
    }
    running.stop().await;
    for (name, row) in rows() {
        let labels = row.labels.into_iter().map(str::to_owned).collect();
        assert_eq!(recorded_labels(name), BTreeSet::from([labels]), "{name}");
    }
}

/// A line of the documented table.
struct Row {
    labels: BTreeSet<&'static str>,
    /// Every word in it that is code: the values of labels are among them.
    code: BTreeSet<&'static str>,
}

/// The table of metrics, by name.
fn rows() -> BTreeMap<&'static str, Row> {
    let code = |cell: &'static str| cell.split('`').skip(1).step_by(2);
    let lines = include_str!("../../consumer/src/observing.rs").lines();
    let rows = lines.filter_map(|line| {
        let (name, rest) = line.strip_prefix("//! | `")?.split_once('`')?;
        let labels = rest.split('|').nth(2)?;
        let row = Row {
            labels: code(labels).collect(),
            code: code(rest).collect(),
        };
        Some((name, row))
    });
    rows.collect()
}

fn documented() -> Vec<&'static str> {
    rows().into_keys().collect()
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
    assert!(
        dashboard.contains(r#"state!=\"running\""#),
        "a panel shows all states"
    );
    for state in ["waiting_for_release", "held_back"] {
        let shown = format!(r#"state=\"{state}\""#);
        assert!(dashboard.contains(&shown), "{state} has no panel");
    }
    // The others pass by themselves, or were chosen by an operator.
    let needs_no_one = ["running", "waiting", "forgotten"];
    let states_in = |line: &'static str| line.split('"').skip(1).step_by(2);
    let expressions = RULES
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
    assert_eq!(documented.len(), 19);
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

const RULES: &str = include_str!("../../examples/grafana/alerts.yml");

/// The values of a key in the file of rules, one for each rule.
fn in_rules(key: &str) -> Vec<&'static str> {
    let start = format!("{key}: ");
    let lines = RULES
        .lines()
        .map(|line| line.trim().trim_start_matches("- "));
    lines
        .filter_map(|line| line.strip_prefix(&*start))
        .collect()
}

#[test]
fn the_guide_answers_every_alert() {
    let guide = include_str!("../../consumer/src/guide/on_call.md");
    let alerts = in_rules("alert");
    assert!(alerts.len() >= 8, "{alerts:?}");
    for part in ["expr", "labels", "summary"] {
        assert_eq!(alerts.len(), in_rules(part).len(), "{part}");
    }
    for alert in alerts {
        assert!(
            guide.contains(&format!("`{alert}`")),
            "the guide does not answer {alert}"
        );
    }
}

/// The expressions of the panels, with the legend of each.
fn panels() -> Vec<(String, String)> {
    fn collect(value: &Value, panels: &mut Vec<(String, String)>) {
        if let (Some(expr), Some(legend)) = (value["expr"].as_str(), value["legendFormat"].as_str())
        {
            panels.push((expr.to_owned(), legend.to_owned()));
        }
        match value {
            Value::Object(members) => members.values().for_each(|one| collect(one, panels)),
            Value::Array(elements) => elements.iter().for_each(|one| collect(one, panels)),
            _ => {}
        }
    }
    let dashboard = include_str!("../../examples/grafana/consumers.json");
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let mut panels = Vec::new();
    collect(&dashboard, &mut panels);
    assert!(panels.len() > 12, "{panels:?}");
    panels
}

/// What follows each of the occurrences of a text, up to an end.
fn between<'a>(text: &'a str, start: &str, end: &str) -> Vec<&'a str> {
    let parts = text.split(start).skip(1);
    parts.filter_map(|part| part.split(end).next()).collect()
}

fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

/// The metrics of an expression, each with the labels that it selects by and their values.
fn selectors(expression: &str) -> Vec<(&str, Vec<(&str, &str)>)> {
    let starts = expression.match_indices("consumer_").map(|(at, _)| at);
    let selector = |at| {
        let rest: &str = &expression[at..];
        let end = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
        let (metric, rest) = rest.split_at(end);
        let selected = rest
            .strip_prefix('{')
            .and_then(|rest| rest.split('}').next());
        let pairs = selected.into_iter().flat_map(|pairs| pairs.split(','));
        let pairs = pairs.map(|pair| {
            let (label, value) = pair.split_once('"').unwrap();
            (
                label.trim().trim_end_matches(['=', '~', '!']),
                value.trim_end_matches('"'),
            )
        });
        (metric, pairs.collect())
    };
    starts.map(selector).collect()
}

/// What an expression names that no worker reports; `shown` are the labels in the text beside it.
fn unknown_names(expression: &str, shown: &[&str]) -> Vec<String> {
    let documented = rows();
    let groups: Vec<Vec<&str>> = between(expression, " by (", ")")
        .into_iter()
        .map(|labels| labels.split(", ").collect())
        .collect();
    let mut unknown = Vec::new();
    for (metric, selected) in selectors(expression) {
        let name = metric.trim_end_matches("_sum").trim_end_matches("_count");
        let Some(row) = documented.get(name) else {
            unknown.push(metric.to_owned());
            continue;
        };
        let labels = selected.iter().map(|(label, _)| label);
        let labels = labels.chain(groups.iter().flatten()).chain(shown);
        let labels = labels.filter(|label| !row.labels.contains(*label));
        unknown.extend(labels.map(|label| format!("{label} of {metric}")));
        let values = selected.iter().flat_map(|(_, value)| value.split('|'));
        let values = values.filter(|value| !value.starts_with('$') && !row.code.contains(value));
        unknown.extend(values.map(|value| format!("{value} in {metric}")));
    }
    let is_lost = |label: &&&str| groups.iter().any(|group| !group.contains(label));
    unknown.extend(
        shown
            .iter()
            .filter(is_lost)
            .map(|label| format!("{label} after grouping")),
    );
    unknown
}

#[test]
fn rules_and_panels_name_only_what_workers_report() {
    for (expression, summary) in in_rules("expr").into_iter().zip(in_rules("summary")) {
        assert!(!selectors(expression).is_empty(), "{expression}");
        let shown: Vec<&str> = between(summary, "$labels.", " ");
        assert_eq!(unknown_names(expression, &shown), [""; 0], "{expression}");
    }
    for (expression, legend) in panels() {
        assert!(!selectors(&expression).is_empty(), "{expression}");
        let shown = between(&legend, "{{", "}}");
        assert_eq!(unknown_names(&expression, &shown), [""; 0], "{expression}");
    }
    // The control: each kind of mistake.
    for (expression, shown) in [
        ("max(consumer_lags)", &[][..]),
        ("max by (slices) (consumer_lag_seconds)", &[]),
        ("consumer_errors_total{kinds=\"database\"}", &[]),
        ("consumer_state{state=~\"stopped|halted\"}", &[]),
        ("max by (consumer) (consumer_lag_seconds)", &["version"]),
    ] {
        assert_eq!(unknown_names(expression, shown).len(), 1, "{expression}");
    }
}

/// What Prometheus says about rules that it refuses; `None` if its program is not there, which `CI` demands.
fn refused_by_prometheus(rules: &str) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.yml");
    std::fs::write(&file, rules).unwrap();
    let mut promtool = Command::new("promtool");
    let Ok(checked) = promtool.args(["check", "rules"]).arg(&file).output() else {
        assert!(std::env::var_os("CI").is_none(), "there is no `promtool`");
        println!("skipped: there is no `promtool`");
        return None;
    };
    let errors = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.success(), errors.is_empty(), "{errors}");
    Some(errors)
}

#[test]
fn prometheus_accepts_the_rules_and_the_panels() {
    let rule = |(index, (expression, _)): (usize, (String, String))| {
        let expression = expression.replace("$__rate_interval", "5m");
        json!({ "record": format!("panel:{index}"), "expr": expression })
    };
    let panels: Vec<Value> = panels().into_iter().enumerate().map(rule).collect();
    // JSON is YAML too.
    let panels = json!({ "groups": [{ "name": "panels", "rules": panels }] }).to_string();
    let broken = RULES.replace(" by (", " by ((");
    let is_refused = |rules: &str| refused_by_prometheus(rules).map(|errors| !errors.is_empty());
    if let Some(is_refused_too) = is_refused(&broken) {
        assert!(is_refused_too, "the control");
        for rules in [RULES, &panels] {
            assert_eq!(refused_by_prometheus(rules), Some(String::new()));
        }
    }
}
