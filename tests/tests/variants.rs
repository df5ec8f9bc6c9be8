//! Handlers of one variant, in every form, alone and among others.

use consumer::prelude::*;
use consumer::sqlx::{Connection, Sqlite};
use consumer::testing::ConsumerTest;
use consumer::{BatchError, ErasedConsumer, EventRecord, NewEvent, OnError, Registered, Settings};
use consumer_tests::{Database, Notes, TestDatabase, in_memory, run_once, test_on};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[event(aggregate = "Order")]
struct OrderPaid {
    cents: i64,
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Address {
    city: String,
}

#[derive(Event, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[event(aggregate = "Order")]
enum OrderEvent {
    Placed(Box<Address>),
    Paid(OrderPaid),
    #[event(name = "OrderRenamed")]
    Renamed {
        name: String,
    },
    Cancelled,
    Archived,
}

fn of(position: i64, event: &OrderEvent) -> PersistedEvent {
    raw(
        position,
        event.event_type(),
        std::str::from_utf8(&event.encode().unwrap()).unwrap(),
    )
}

fn raw(position: i64, event_type: &str, payload: &str) -> PersistedEvent {
    PersistedEvent::new(EventRecord {
        global_position: position,
        aggregate_type: "Order".into(),
        aggregate_id: format!("o-{position}"),
        event_type: event_type.into(),
        payload: payload.to_owned().into(),
        ..EventRecord::default()
    })
}

fn placed(city: &str) -> OrderEvent {
    OrderEvent::Placed(Box::new(Address { city: city.into() }))
}

fn paid(cents: i64) -> OrderEvent {
    OrderEvent::Paid(OrderPaid { cents })
}

fn renamed(name: &str) -> OrderEvent {
    OrderEvent::Renamed { name: name.into() }
}

async fn give<C: ErasedConsumer<Sqlite>>(
    consumer: &C,
    events: &[PersistedEvent],
) -> Result<usize, BatchError> {
    consumer_tests::give(consumer, &Context::new("variants"), events).await
}

#[derive(Default)]
struct OneByOne(Notes);

#[consumer(name = "variants.one_by_one", aggregates = [OrderEvent])]
impl OneByOne {
    #[on(OrderEvent::Placed)]
    async fn placed(&self, event: Envelope<'_, Address>) -> Result<(), HandlerError> {
        self.0
            .note(format!("{} in {}", event.aggregate_id, event.payload.city));
        Ok(())
    }

    #[on(OrderEvent::Paid)]
    async fn paid(&self, tx: &mut SqliteConnection, event: OrderPaid) -> Result<(), HandlerError> {
        tx.ping().await?;
        self.0.note(format!("paid {}", event.cents));
        Ok(())
    }

    #[on(OrderEvent::Renamed)]
    async fn renamed(&self, event: OrderEvent, cx: &Context) -> Result<(), HandlerError> {
        self.0.note(format!("{event:?} for {}", cx.consumer()));
        Ok(())
    }

    #[on(OrderEvent::Cancelled)]
    async fn cancelled(&self) -> Result<(), HandlerError> {
        self.0.note("cancelled");
        Ok(())
    }

    #[on(other)]
    async fn rest(&self, event: &PersistedEvent) -> Result<(), HandlerError> {
        self.0.note(format!("other {}", event.event_type));
        Ok(())
    }
}

#[tokio::test]
async fn a_variant_is_passed_by_what_is_in_it() {
    let consumer = OneByOne::default();
    let events = [
        of(1, &placed("Turin")),
        of(2, &paid(5)),
        of(3, &renamed("Gift")),
        of(4, &OrderEvent::Cancelled),
        of(5, &OrderEvent::Archived),
    ];
    assert_eq!(give(&consumer, &events).await.unwrap(), 5);
    assert_eq!(
        consumer.0.take(),
        [
            "o-1 in Turin",
            "paid 5",
            r#"Renamed { name: "Gift" } for variants"#,
            "cancelled",
            "other Archived",
        ]
    );
}

#[tokio::test]
async fn a_variant_that_does_not_decode_fails_its_event() {
    let consumer = OneByOne::default();
    let events = [of(1, &paid(5)), raw(2, "OrderPaid", r#"{"cents":"5"}"#)];
    let failed = give(&consumer, &events).await.unwrap_err();
    assert_eq!((failed.handled, failed.suspects), (1, 1));
    let text = failed.error.to_string();
    assert!(
        text.starts_with(
            "`variants`: cannot decode the event `OrderPaid`, version 1, at position 2: at `cents`"
        ),
        "{text}"
    );
}

#[tokio::test]
async fn a_variant_of_another_aggregate_is_not_taken() {
    let consumer = OneByOne::default();
    let other = PersistedEvent::new(EventRecord {
        aggregate_type: "Invoice".into(),
        event_type: "OrderPaid".into(),
        payload: "{}".into(),
        ..EventRecord::default()
    });
    give(&consumer, &[other]).await.unwrap();
    assert_eq!(consumer.0.take(), ["other OrderPaid"]);
}

#[derive(Default)]
struct Boxes(Notes);

#[consumer(name = "variants.boxes", aggregates = ["Order"])]
impl Boxes {
    #[on(OrderEvent::Placed)]
    async fn placed(&self, event: Envelope<'_, Box<Address>>) -> Result<(), HandlerError> {
        self.0.note(event.payload.city.clone());
        Ok(())
    }

    #[on(OrderEvent::Paid)]
    async fn paid(&self, event: Box<OrderPaid>) -> Result<(), HandlerError> {
        self.0.note(event.cents.to_string());
        Ok(())
    }

    #[on(OrderEvent::Renamed)]
    async fn renamed(&self, events: &[Envelope<'_, Box<OrderEvent>>]) -> Result<(), HandlerError> {
        self.0.note(format!("{:?}", events[0].payload));
        Ok(())
    }
}

#[tokio::test]
async fn a_box_counts_as_what_is_in_it() {
    let consumer = Boxes::default();
    let events = [
        of(1, &placed("Turin")),
        of(2, &paid(5)),
        of(3, &renamed("Gift")),
    ];
    give(&consumer, &events).await.unwrap();
    assert_eq!(
        consumer.0.take(),
        ["Turin", "5", r#"Renamed { name: "Gift" }"#]
    );
}

#[derive(Clone, Default)]
struct InRuns(Notes);

#[consumer(name = "variants.in_runs", aggregates = ["Order"])]
impl InRuns {
    #[on(OrderEvent::Paid)]
    async fn paid(
        &self,
        cx: &Context,
        events: &[Envelope<'_, OrderPaid>],
    ) -> Result<(), HandlerError> {
        assert_eq!(cx.current_position(), None);
        let cents: Vec<i64> = events.iter().map(|event| event.payload.cents).collect();
        self.0.note(format!("paid {cents:?}"));
        if cents.contains(&13) {
            return Err("unlucky".into());
        }
        Ok(())
    }

    #[on(OrderEvent::Renamed)]
    async fn renamed(&self, event: OrderEvent) -> Result<(), HandlerError> {
        self.0.note(format!("{event:?}"));
        Ok(())
    }

    #[on("Shipped")]
    async fn shipped(&self, events: &[PersistedEvent]) -> Result<(), HandlerError> {
        let positions: Vec<i64> = events.iter().map(|event| event.global_position).collect();
        self.0.note(format!("shipped {positions:?}"));
        Ok(())
    }
}

#[tokio::test]
async fn events_without_a_handler_do_not_end_a_run() {
    let consumer = InRuns::default();
    let events = [
        of(1, &OrderEvent::Cancelled),
        of(2, &paid(1)),
        of(3, &OrderEvent::Cancelled),
        of(4, &paid(2)),
        raw(5, "Unknown", ""),
        raw(6, "Shipped", ""),
        of(7, &OrderEvent::Archived),
        raw(8, "Shipped", ""),
        raw(9, "Shipped", ""),
        of(10, &renamed("Gift")),
        of(11, &paid(3)),
        of(12, &OrderEvent::Cancelled),
    ];
    assert_eq!(give(&consumer, &events).await.unwrap(), 12);
    assert_eq!(
        consumer.0.take(),
        [
            "paid [1, 2]",
            "shipped [6, 8, 9]",
            r#"Renamed { name: "Gift" }"#,
            "paid [3]",
        ]
    );
}

#[tokio::test]
async fn a_failing_run_is_suspected_with_the_events_between() {
    let consumer = InRuns::default();
    let events = [
        of(1, &renamed("Gift")),
        of(2, &paid(1)),
        of(3, &OrderEvent::Cancelled),
        of(4, &paid(13)),
        of(5, &OrderEvent::Cancelled),
    ];
    let failed = give(&consumer, &events).await.unwrap_err();
    assert_eq!((failed.handled, failed.suspects), (1, 3));
}

#[tokio::test]
async fn a_run_ends_before_a_variant_that_does_not_decode() {
    let consumer = InRuns::default();
    let events = [
        of(1, &paid(1)),
        of(2, &OrderEvent::Cancelled),
        raw(3, "OrderPaid", "{}"),
        of(4, &paid(2)),
    ];
    let failed = give(&consumer, &events).await.unwrap_err();
    assert_eq!((failed.handled, failed.suspects), (2, 1));
    assert_eq!(consumer.0.take(), ["paid [1]"]);
}

#[tokio::test]
async fn one_variant_alone_can_be_given_to_a_handler_of_runs() {
    let consumer = InRuns::default();
    let mut tx = in_memory().await;
    let cx = Context::new("variants");
    Consumer::<Sqlite>::handle(&consumer, &cx, &mut tx, &of(1, &paid(7)))
        .await
        .unwrap();
    assert_eq!(consumer.0.take(), ["paid [7]"]);
}

#[derive(ReadModel, Debug, PartialEq)]
#[read_model(table = "variant_orders")]
struct OrderRow {
    #[read_model(key)]
    id: String,
    city: String,
    cents: i64,
}

#[derive(Default)]
struct Orders;

#[consumer(name = "variants.orders", aggregates = [OrderEvent], read_model = OrderRow)]
impl Orders {
    #[on(OrderEvent::Placed)]
    fn placed(&self, event: Envelope<'_, Address>) -> OrderRow {
        let id = event.aggregate_id.clone();
        let city = event.payload.city;
        OrderRow { id, city, cents: 0 }
    }

    #[on(OrderEvent::Paid)]
    fn paid(&self, order: &mut OrderRow, event: OrderPaid) {
        order.cents += event.cents;
    }

    #[on(OrderEvent::Renamed, key = cities(event))]
    fn renamed(&self, order: &mut Option<OrderRow>, event: OrderEvent) {
        let OrderEvent::Renamed { name } = event else {
            return;
        };
        if let Some(order) = order {
            order.city = name;
        }
    }

    #[on(OrderEvent::Cancelled)]
    fn cancelled(order: &mut Option<OrderRow>) {
        *order = None;
    }

    #[on(OrderEvent::Archived, key = "archive".to_owned())]
    fn archived() -> OrderRow {
        OrderRow {
            id: "archive".into(),
            city: String::new(),
            cents: 1,
        }
    }
}

/// Both orders of the test.
fn cities(event: &OrderEvent) -> Vec<String> {
    match event {
        OrderEvent::Renamed { .. } => vec!["o-1".into(), "o-2".into()],
        _ => Vec::new(),
    }
}

fn new(id: &str, event: &OrderEvent) -> NewEvent {
    NewEvent::typed(event).unwrap().of(id)
}

test_on!(
    [sqlite, postgres],
    variants_change_the_rows_of_a_read_model,
    a_row_that_a_variant_requires_is_named_if_it_is_missing,
    a_failing_variant_in_a_run_with_gaps_is_found_and_parked
);

async fn variants_change_the_rows_of_a_read_model<DB: TestDatabase>(db: Database<DB>) {
    let tx = db.store.begin().await.unwrap();
    let mut test = ConsumerTest::within(tx, Registered::<DB>::new(Orders));
    for id in ["o-1", "o-2", "o-3"] {
        test.given(new(id, &placed("Turin")));
    }
    test.given(new("o-2", &paid(5)));
    test.given(new("o-2", &renamed("Oslo")));
    test.given(new("o-3", &OrderEvent::Cancelled));
    test.given(new("o-1", &OrderEvent::Archived));
    test.when().await.unwrap();
    let row = |id: &str, city: &str, cents| OrderRow {
        id: id.into(),
        city: city.into(),
        cents,
    };
    assert_eq!(
        test.rows::<OrderRow>().await.unwrap(),
        [
            row("archive", "", 1),
            row("o-1", "Oslo", 0),
            row("o-2", "Oslo", 5)
        ]
    );
}

async fn a_row_that_a_variant_requires_is_named_if_it_is_missing<DB: TestDatabase>(
    db: Database<DB>,
) {
    let tx = db.store.begin().await.unwrap();
    let mut test = ConsumerTest::within(tx, Registered::<DB>::new(Orders));
    test.given(new("o-9", &paid(5)));
    let failed = HandlerError::from(test.when().await.unwrap_err()).to_string();
    assert!(
        failed.contains("variant_orders") && failed.contains("o-9"),
        "{failed}"
    );
}

async fn a_failing_variant_in_a_run_with_gaps_is_found_and_parked<DB: TestDatabase>(
    db: Database<DB>,
) {
    for (number, event) in [
        paid(1),
        OrderEvent::Cancelled,
        paid(13),
        OrderEvent::Cancelled,
        paid(2),
        OrderEvent::Archived,
        paid(3),
    ]
    .iter()
    .enumerate()
    {
        db.append_typed(&format!("o-{number}"), event).await;
    }
    let consumer = InRuns::default();
    let settings = Settings::default().on_error(OnError::Park).retries(0);
    let mut registered = Registered::<DB>::new(consumer.clone());
    registered.declaration.settings = settings;
    let worker = Worker::builder(db.store.clone()).registered(registered);
    run_once(worker).await;
    assert_eq!(db.parked("variants.in_runs").await, [3]);
    let seen = consumer.0.take();
    let handled = |cents: i64| {
        let is_in = |line: &&String| {
            let list = line.trim_start_matches("paid [").trim_end_matches(']');
            let list: Vec<i64> = list.split(", ").map(|one| one.parse().unwrap()).collect();
            !list.contains(&13) && list.contains(&cents)
        };
        seen.iter().filter(is_in).count()
    };
    assert!(
        [1, 2, 3].iter().all(|cents| handled(*cents) >= 1),
        "{seen:?}"
    );
}
