//! Which events the code of a declared consumer knows, and which it passes over.

use consumer::prelude::*;
use consumer::testing::{ConsumerTest, TestError};
use consumer::{BatchError, EventFormat, Registered, Worker};
use consumer_tests::Database;
use serde::{Deserialize, Serialize};
use sqlx::{Sqlite, SqliteConnection};

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Order")]
enum OrderEvent {
    #[event(version = 2, upcast(1 = PlacedV1))]
    Placed {
        total: i64,
        currency: String,
    },
    Paid(OrderPaid),
    Noted(Note),
    Closed,
    #[event(version = 2)]
    Reopened,
}

#[derive(Serialize, Deserialize)]
struct PlacedV1 {
    total: i64,
}

impl From<PlacedV1> for OrderEvent {
    fn from(old: PlacedV1) -> Self {
        Self::Placed {
            total: old.total,
            currency: "EUR".to_owned(),
        }
    }
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Order", version = 3, upcast(2 = Note))]
struct OrderPaid {
    by: String,
}

#[derive(Serialize, Deserialize)]
struct Note {
    text: String,
}

impl From<Note> for OrderPaid {
    fn from(note: Note) -> Self {
        Self { by: note.text }
    }
}

/// The aggregate type is `Order`.
fn knows(consumer: &Registered<Sqlite>, event_type: &str, event_version: i32) -> bool {
    consumer.consumer.knows(EventFormat {
        aggregate_type: "Order",
        event_type,
        event_version,
    })
}

/// The types of events of an order that the consumer takes.
fn taken(consumer: &Registered<Sqlite>) -> Vec<&'static str> {
    let mut types = vec!["Placed", "OrderPaid", "Closed", "Legacy", "Refunded"];
    types.retain(|event_type| {
        consumer.consumer.takes(EventFormat {
            aggregate_type: "Order",
            event_type,
            event_version: 1,
        })
    });
    types
}

type Result = std::result::Result<(), HandlerError>;

#[derive(Default)]
struct ByType;

#[consumer(name = "by_type", aggregates = [OrderEvent], ignore = ["Legacy", "Older"])]
impl ByType {
    #[on]
    async fn paid(&self, _event: OrderPaid) -> Result {
        Ok(())
    }

    #[on("Placed", "Noted", "Closed", "Reopened")]
    async fn others(&self, _event: &PersistedEvent) -> Result {
        Ok(())
    }
}

#[test]
fn a_type_in_the_scope_knows_its_variants_and_versions() {
    let consumer = Registered::new(ByType);
    for (event_type, versions) in [
        ("Placed", &[0, 1, 2][..]),
        ("OrderPaid", &[2, 3]),
        ("Noted", &[0, 1]),
        ("Closed", &[0, 1]),
        ("Reopened", &[0, 1, 2]),
        ("Legacy", &[0, 1, 2, 3, 4]),
        ("Older", &[0, 1, 2, 3, 4]),
        ("Refunded", &[]),
        ("paid", &[]),
    ] {
        let known: Vec<i32> = (0..5)
            .filter(|version| knows(&consumer, event_type, *version))
            .collect();
        assert_eq!(known, versions, "{event_type}");
    }
    assert!(!knows(&consumer, "Placed", -1));
    let of_users = EventFormat {
        aggregate_type: "User",
        event_type: "Refunded",
        event_version: 1,
    };
    assert!(consumer.consumer.knows(of_users));
}

#[derive(Default)]
struct ByName;

#[consumer(name = "by_name", formerly = none, aggregates = ["Order"])]
impl ByName {
    #[on]
    async fn paid(&self, _event: Envelope<'_, OrderPaid>) -> Result {
        Ok(())
    }
}

#[derive(Default)]
struct Everywhere;

#[consumer(name = "everywhere")]
impl Everywhere {
    #[on]
    async fn paid(&self, _events: &[Envelope<'_, OrderPaid>]) -> Result {
        Ok(())
    }
}

#[test]
fn other_scopes_pass_over_types_but_not_versions() {
    for consumer in [Registered::new(ByName), Registered::new(Everywhere)] {
        let name = &consumer.declaration.name;
        assert!(knows(&consumer, "Refunded", 1), "{name}");
        assert!(knows(&consumer, "OrderPaid", 3), "{name}");
        assert!(!knows(&consumer, "OrderPaid", 4), "{name}");
        assert!(!knows(&consumer, "OrderPaid", 1), "{name}");
    }
}

#[derive(Default)]
struct WithRest;

#[consumer(name = "with_rest", aggregates = [OrderEvent])]
impl WithRest {
    #[on]
    async fn paid(&self, _event: OrderPaid) -> Result {
        Ok(())
    }

    #[on(other)]
    async fn rest(&self, _event: &PersistedEvent) -> Result {
        Ok(())
    }
}

#[test]
fn a_handler_of_the_rest_takes_unknown_types() {
    let consumer = Registered::new(WithRest);
    assert!(knows(&consumer, "Refunded", 7));
    assert!(knows(&consumer, "Placed", 7));
    assert!(!knows(&consumer, "OrderPaid", 7));
}

#[derive(Default)]
struct Undecoded;

#[consumer(name = "undecoded", aggregates = [OrderEvent])]
impl Undecoded {
    async fn handle(&self, _event: &PersistedEvent) -> Result {
        Ok(())
    }
}

#[derive(Default)]
struct UndecodedByName;

#[consumer(name = "undecoded_by_name", aggregates = ["Order"])]
impl UndecodedByName {
    async fn handle(&self, _event: &PersistedEvent) -> Result {
        Ok(())
    }
}

#[consumer(name = "by_hand", aggregates = [OrderEvent], database = any)]
#[derive(Default)]
struct ByHand;

impl<DB: sqlx::Database> consumer::Handler<DB> for ByHand {
    async fn handle(&self, _: &Context, _: &mut DB::Connection, _: &PersistedEvent) -> Result {
        Ok(())
    }
}

#[test]
fn a_type_in_the_scope_counts_for_undecoded_handlers_too() {
    for consumer in [Registered::new(Undecoded), Registered::new(ByHand)] {
        assert!(knows(&consumer, "Closed", 1));
        assert!(!knows(&consumer, "Refunded", 1));
        assert!(!knows(&consumer, "Placed", 3));
    }
    let by_name = Registered::new(UndecodedByName);
    assert!(knows(&by_name, "Refunded", 1) && knows(&by_name, "Placed", 3));
}

#[derive(Event, Serialize, Deserialize)]
#[event(aggregate = "Order", version = 2)]
struct OrderClosed;

#[test]
fn an_event_without_fields_decodes_the_versions_that_it_reads() {
    for version in 0..4 {
        let stored = |event_type: &str| {
            PersistedEvent::new(consumer::EventRecord {
                aggregate_type: "Order".into(),
                event_type: event_type.into(),
                event_version: version,
                payload: "anything".to_owned().into(),
                ..consumer::EventRecord::default()
            })
        };
        assert_eq!(OrderClosed::reads("OrderClosed", version), version <= 2);
        let decoded = OrderClosed::decode(&stored("OrderClosed"));
        assert_eq!(decoded.is_ok(), version <= 2, "{version}");
        let decoded = OrderEvent::decode(&stored("Closed"));
        assert_eq!(decoded.is_ok(), version <= 1, "{version}");
    }
}

struct WrittenByHand;

impl Event for WrittenByHand {
    const AGGREGATE_TYPE: &'static str = "Order";
    const EVENT_TYPES: &'static [&'static str] = &["Shipped"];

    fn event_type(&self) -> &'static str {
        "Shipped"
    }

    fn event_version(&self) -> i32 {
        1
    }

    fn encode(&self) -> std::result::Result<bytes::Bytes, serde_json::Error> {
        Ok("{}".into())
    }

    fn decode(_: &PersistedEvent) -> std::result::Result<Self, consumer::DecodeError> {
        Ok(Self)
    }
}

#[test]
fn an_event_written_by_hand_reads_every_version() {
    assert!(WrittenByHand::reads("Shipped", 9));
    assert!(Box::<OrderPaid>::reads("OrderPaid", 3));
    assert!(!Box::<OrderPaid>::reads("OrderPaid", 4));
    assert!(WrittenByHand.event_type() == "Shipped");
}

/// Writes what each handler takes.
async fn note(tx: &mut SqliteConnection, handler: &str, event: &PersistedEvent) -> Result {
    sqlx::query("INSERT INTO taken VALUES (?, ?)")
        .bind(handler)
        .bind(event.global_position)
        .execute(tx)
        .await?;
    Ok(())
}

#[derive(Default)]
struct Ignoring;

#[consumer(name = "ignoring", aggregates = ["Order"], ignore = ["Legacy"])]
impl Ignoring {
    #[on("Placed")]
    async fn placed(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result {
        note(tx, "placed", event).await
    }

    #[on(other)]
    async fn other(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result {
        note(tx, "other", event).await
    }
}

#[derive(Default)]
struct IgnoringInRuns;

#[consumer(name = "ignoring_in_runs", aggregates = ["Order"], ignore = ["Legacy"])]
impl IgnoringInRuns {
    #[on("Placed")]
    async fn placed(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result {
        note(tx, "placed", event).await
    }

    #[on(other)]
    async fn other(&self, tx: &mut SqliteConnection, events: &[PersistedEvent]) -> Result {
        for event in events {
            note(tx, "other", event).await?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct IgnoringAll;

#[consumer(name = "ignoring_all", aggregates = [OrderEvent], ignore = ["Legacy"])]
impl IgnoringAll {
    async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result {
        note(tx, "handle", event).await
    }
}

#[derive(Default)]
struct IgnoringInBatches;

#[consumer(name = "ignoring_in_batches", aggregates = [OrderEvent], ignore = ["Legacy"])]
impl IgnoringInBatches {
    async fn handle(&self, tx: &mut SqliteConnection, events: &[PersistedEvent]) -> Result {
        for event in events {
            note(tx, "handle", event).await?;
        }
        Ok(())
    }
}

/// Fails on each `Reopened`.
#[consumer(
    name = "ignoring_by_hand",
    aggregates = [OrderEvent],
    ignore = ["Legacy"],
    retries = 0,
    database = Sqlite
)]
#[derive(Default)]
struct IgnoringByHand;

impl consumer::Handler<Sqlite> for IgnoringByHand {
    async fn handle(
        &self,
        _cx: &Context,
        tx: &mut SqliteConnection,
        event: &PersistedEvent,
    ) -> Result {
        note(tx, "handle", event).await
    }

    async fn handle_batch(
        &self,
        _cx: &Context,
        tx: &mut SqliteConnection,
        events: &[PersistedEvent],
    ) -> std::result::Result<usize, BatchError> {
        for (index, event) in events.iter().enumerate() {
            if &*event.event_type == "Reopened" {
                return Err(BatchError::at(index, "cannot handle it"));
            }
            let handled = note(tx, "handle", event).await;
            handled.map_err(|error| BatchError::at(index, error))?;
        }
        Ok(events.len())
    }
}

#[derive(ReadModel)]
#[read_model(table = "orders")]
struct Order {
    #[read_model(key)]
    id: String,
    events: i64,
}

#[derive(Default)]
struct IgnoringRows;

#[consumer(name = "ignoring_rows", aggregates = ["Order"], read_model = Order, ignore = ["Legacy"])]
impl IgnoringRows {
    #[on(other)]
    fn other(row: &mut Option<Order>, event: &PersistedEvent) {
        let id = event.aggregate_id.clone();
        row.get_or_insert(Order { id, events: 0 }).events += 1;
    }
}

#[test]
fn a_consumer_takes_what_handlers_take_and_ignore_does_not_name() {
    for (consumer, expected) in [
        (
            Registered::new(ByType),
            &["Placed", "OrderPaid", "Closed"][..],
        ),
        (Registered::new(ByName), &["OrderPaid"]),
        (
            Registered::new(Ignoring),
            &["Placed", "OrderPaid", "Closed", "Refunded"],
        ),
        (
            Registered::new(IgnoringRows),
            &["Placed", "OrderPaid", "Closed", "Refunded"],
        ),
        (
            Registered::new(IgnoringAll),
            &["Placed", "OrderPaid", "Closed", "Refunded"],
        ),
        (
            Registered::new(IgnoringByHand),
            &["Placed", "OrderPaid", "Closed", "Refunded"],
        ),
        (
            Registered::new(UndecodedByName),
            &["Placed", "OrderPaid", "Closed", "Legacy", "Refunded"],
        ),
    ] {
        let name = &consumer.declaration.name;
        assert_eq!(taken(&consumer), expected, "{name}");
    }
}

fn events() -> [NewEvent; 4] {
    ["Placed", "Legacy", "Closed", "Legacy"]
        .map(|event_type| NewEvent::new("Order", "o-1", event_type, "{}"))
}

#[tokio::test]
async fn ignored_events_reach_no_handler() {
    let table = "CREATE TABLE taken (handler TEXT, position INTEGER)";
    let taken = "SELECT handler || ' ' || position FROM taken ORDER BY position";
    let mut one_by_one = ConsumerTest::sqlite(Ignoring).await.unwrap();
    let mut in_runs = ConsumerTest::sqlite(IgnoringInRuns).await.unwrap();
    let mut all = ConsumerTest::sqlite(IgnoringAll).await.unwrap();
    let mut batches = ConsumerTest::sqlite(IgnoringInBatches).await.unwrap();
    let mut by_hand = ConsumerTest::sqlite(IgnoringByHand).await.unwrap();
    let (by_type, every) = (["placed 1", "other 3"], ["handle 1", "handle 3"]);
    for (test, expected) in [
        (&mut one_by_one, by_type),
        (&mut in_runs, by_type),
        (&mut all, every),
        (&mut batches, every),
        (&mut by_hand, every),
    ] {
        test.execute(table).await.unwrap();
        test.given_all(events());
        test.when().await.unwrap();
        let rows: Vec<String> = sqlx::query_scalar(taken)
            .fetch_all(test.connection())
            .await
            .unwrap();
        assert_eq!(rows, expected);
        assert_eq!(test.checkpoint(), 4);
    }
    let mut rows = ConsumerTest::sqlite(IgnoringRows).await.unwrap();
    rows.given_all(events());
    rows.when().await.unwrap();
    assert_eq!(rows.rows::<Order>().await.unwrap()[0].events, 2);
}

#[tokio::test]
async fn a_failure_between_ignored_events_is_that_of_its_event() {
    let db = Database::<Sqlite>::fresh().await;
    db.execute("CREATE TABLE taken (handler TEXT, position INTEGER)")
        .await;
    for event_type in ["Legacy", "Closed", "Legacy", "Legacy", "Closed", "Reopened"] {
        let event = NewEvent::new("Order", "o-1", event_type, "{}");
        db.append_event(event).await;
    }
    let worker = Worker::builder(db.store.clone()).consumer(IgnoringByHand);
    let report = worker.build().unwrap().run_once().await.unwrap();
    let state = report.consumers[0].state.to_string();
    assert_eq!(state, "stopped before event 6 (cannot handle it)");
    assert_eq!(
        db.numbers("SELECT position FROM taken ORDER BY position")
            .await,
        [2, 5]
    );
}

#[tokio::test]
async fn a_test_reports_the_event_that_a_worker_would_wait_before() {
    let mut test = ConsumerTest::sqlite(ByType).await.unwrap();
    for event_type in ["Legacy", "Closed", "Refunded"] {
        test.given(NewEvent::new("Order", "o-1", event_type, "{}"));
    }
    let error = test.when().await.unwrap_err();
    assert!(
        matches!(&error, TestError::UnknownEvent { event } if event.position == 3),
        "{error}"
    );
    assert_eq!(test.checkpoint(), 2);
}

#[tokio::test]
async fn a_declared_consumer_waits_for_the_next_release() {
    let db = Database::<Sqlite>::fresh().await;
    for event in ["Closed", "Refunded"] {
        let event = NewEvent::new("Order", "o-1", event, "{}");
        db.append_event(event).await;
    }
    let run = async |worker: consumer::WorkerBuilder<Sqlite>| {
        let report = worker.build().unwrap().run_once().await.unwrap();
        report.consumers[0].state.to_string()
    };
    let worker = || Worker::builder(db.store.clone());
    assert_eq!(
        run(worker().consumer(ByType)).await,
        "waiting for a release that knows Refunded (Order, position 2)"
    );
    assert_eq!(run(worker().consumer(ByName)).await, "caught up");
}
