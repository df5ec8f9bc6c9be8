//! Databases to look at, through the dashboard and the command line: empty, as on a usual day, and with more of
//! everything than fits on a screen.

use consumer::admin::Admin;
use consumer::{
    Backend, EventStore, Formerly, Metadata, NewEvent, OnError, ReadModel, Registered, Settings,
    Worker, WorkerBuilder,
};
use sqlx::Sqlite;

use crate::{Database, Folding, Model, TestConsumer, folding, judging, read_model, run_once};

/// What a database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filling {
    /// No event and no consumer.
    Empty,
    /// A shop in which an invoice cannot be made, two mails are parked, one consumer waits for a release, and a
    /// new version of a read model is built.
    Normal,
    /// Long names, 64 segments, 1,000 parked events, a hundred consumers, and every state that there is.
    Overfull,
}

const LONG_NAME: &str =
    "system.integration.a_publisher_with_a_name_that_is_much_longer_than_any_column";
const LONG_ID: &str =
    "an-aggregate-with-an-id-that-is-longer-than-a-uuid-and-has-no-place-to-break";
const LONG_TYPE: &str = "SubscriptionRenewedWithATypeThatIsLongerThanAnyColumnAndHasNoPlaceToBreak";
const LONG_RELEASE: &str = "shop-2026-11-29.4+5d1e7c3a9f00a1b2c3d4e5f6.live";
const LONG_HOST: &str = "checkout-worker-7d9f8b6c5d-x2x9k.production.svc.cluster.example";

/// An id that a terminal would obey, and a browser too.
const RUDE_ID: &str = "two\nlines \u{1b}[2J\u{1b}[31m <b>bold</b> \u{202e}drawkcab";

/// A row of a read model.
#[derive(ReadModel, Clone, Debug)]
#[read_model(table = "accounts")]
struct Account {
    #[read_model(key)]
    id: String,
    orders: i64,
}

fn accounts() -> Folding<Account> {
    folding(
        "accounts",
        |_, event, keys| keys.add_aggregate(event),
        |_, event, rows| {
            let row: &mut Option<Account> = rows.row(&event.aggregate_id)?;
            let orders = row.as_ref().map_or(0, |row| row.orders) + 1;
            let id = event.aggregate_id.clone();
            *row = Some(Account { id, orders });
            Ok(())
        },
    )
}

impl Filling {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Empty, Self::Normal, Self::Overfull];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Normal => "normal",
            Self::Overfull => "overfull",
        }
    }

    /// The one of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// A new database with it.
    pub async fn database(self) -> Database<Sqlite> {
        let db = Database::<Sqlite>::fresh().await;
        match self {
            Self::Empty => {}
            Self::Normal => fill_shop(&db).await,
            Self::Overfull => fill_over(&db).await,
        }
        db
    }

    /// The program that is operated.
    #[must_use]
    pub fn builder(self, store: EventStore<Sqlite>) -> WorkerBuilder<Sqlite> {
        let builder = Worker::builder(store).release("2026-11-29.2");
        match self {
            Self::Empty => builder,
            Self::Normal => with(with(builder, shop()), [version(2, accounts())]),
            Self::Overfull => with(builder, over()),
        }
    }

    /// Those of its consumers that have handled what they could.
    #[must_use]
    pub fn worker(self, store: EventStore<Sqlite>) -> WorkerBuilder<Sqlite> {
        let builder = Worker::builder(store).release("2026-11-29.2");
        match self {
            Self::Empty => builder,
            Self::Normal => with(builder, shop()),
            Self::Overfull => with(builder, running_over()),
        }
    }

    /// The pages to look at, with a name for a picture of each.
    #[must_use]
    pub fn pages(self) -> Vec<(&'static str, String)> {
        let mut pages = vec![
            ("overview", "/".to_owned()),
            ("events", "/events".to_owned()),
            ("processes", "/processes".to_owned()),
            ("unknown-consumer", "/consumers/nobody/1".to_owned()),
            ("no-event", "/events/99999999".to_owned()),
            ("not-found", "/nothing".to_owned()),
        ];
        let own: &[(&str, &str)] = match self {
            Self::Empty => &[],
            Self::Normal => &[
                ("stopped", "/consumers/billing.invoices/1"),
                ("segments", "/consumers/orders.read_model/1"),
                ("waiting-for-release", "/consumers/shipping/1"),
                ("live", "/consumers/accounts/1"),
                ("rebuilding", "/consumers/accounts/2"),
                ("parked", "/consumers/notifications.mail/1/parked"),
                ("none-parked", "/consumers/accounts/1/parked"),
                ("event", "/events/712?consumer=billing.invoices"),
                ("aggregate", "/events?type=Order&id=order-31"),
                ("filtered", "/?q=billing"),
            ],
            Self::Overfull => &[
                ("stopped", "/consumers/invoices/1"),
                (
                    "segments",
                    "/consumers/system.integration.a_publisher_with_a_name_that_is_much_longer_than_any_column/1",
                ),
                ("waiting-for-release", "/consumers/subscriptions/1"),
                ("held-back", "/consumers/taken_over/1"),
                ("scope-changed", "/consumers/narrowed/1"),
                ("retrying", "/consumers/retrying/1"),
                ("paused", "/consumers/paused/1"),
                ("no-worker", "/consumers/left_alone/1"),
                ("detached", "/consumers/taken_away/1"),
                ("new", "/consumers/never_run/1"),
                ("versions", "/consumers/users/3"),
                ("read-model", "/consumers/accounts/1"),
                ("parked", "/consumers/notifications/1/parked"),
                ("more-parked", "/consumers/notifications/1/parked?after=201"),
                ("long-event", "/events/1006?consumer=subscriptions"),
                ("rude-event", "/events/1002?consumer=notifications"),
                ("bytes", "/events/1003"),
                ("large", "/events/1004"),
                ("filtered-events", "/events?type=User&id=u-1&event=None"),
                ("searched", "/events?correlation=none"),
            ],
        };
        pages.extend(own.iter().map(|(name, path)| (*name, (*path).to_owned())));
        pages
    }

    /// The commands to look at, in this order.
    #[must_use]
    pub fn commands(self) -> Vec<&'static str> {
        const ANYWHERE: [&str; 19] = [
            "status",
            "status --processes",
            "list",
            "frontier",
            "parked list",
            "unknown",
            "migrate",
            "pause nobody",
            "explain nobody 1",
            "parked show nobody 1",
            "activate nobody 2",
            "redact 99999999 {}",
            "rename nobody somebody",
            "dashboard --listen 0.0.0.0:0",
            "status --json",
            "list --json",
            "frontier --json",
            "parked list --json",
            "unknown --json",
        ];
        let own: &[&str] = match self {
            Self::Empty => &["run --once", "run --only nobody"],
            Self::Normal => &[
                "explain billing.invoices 712",
                "explain billing.invoices 712 --json",
                "explain notifications.mail 32",
                "explain accounts 1 --of-version 1",
                "parked list notifications.mail",
                "parked list accounts --of-version 1",
                "parked show notifications.mail 32",
                "parked retry notifications.mail",
                "parked skip notifications.mail 32",
                "parked skip notifications.mail 32 --yes",
                "pause search.index",
                "resume search.index",
                "park billing.invoices 5",
                "skip billing.invoices 712",
                "skip shipping 711",
                "park billing.invoices 712",
                "rebuild search.index",
                "rebuild search.index --yes",
                "activate accounts 2",
                "rebuild accounts --of-version 2",
                "accept-scope search.index",
                "activate accounts 2",
                "merge orders.read_model --segments 8",
                "redact 1 {}",
                "rename search.index search.documents",
                "start-new shipping",
                "forget shipping",
                "forget accounts --of-version 1",
                "run --group nothing",
                "run --once",
            ],
            Self::Overfull => &[
                "explain subscriptions 1006",
                "explain subscriptions 1006 --json",
                "explain notifications 1002",
                "parked list notifications",
                "parked show notifications 1002",
                "parked show notifications 1",
                "parked retry notifications 1002",
                "parked skip notifications 1",
                "park subscriptions 1",
                "skip subscriptions 1006",
                "accept-scope narrowed",
                "rebuild narrowed",
                "start-new taken_over",
                "forget taken_away",
                "rename taken_away taken_over",
            ],
        };
        ANYWHERE.iter().chain(own).copied().collect()
    }

    /// Ids and names that are wider than a terminal of 80 columns.
    pub const WIDE: [&str; 2] = [LONG_ID, LONG_TYPE];
}

fn with<DB: Backend>(
    builder: WorkerBuilder<DB>,
    consumers: impl IntoIterator<Item = Registered<DB>>,
) -> WorkerBuilder<DB> {
    consumers
        .into_iter()
        .fold(builder, WorkerBuilder::registered)
}

fn version(version: u32, accounts: Folding<Account>) -> Registered<Sqlite> {
    Registered::new(accounts).version(version)
}

fn in_group(group: &'static str, consumer: TestConsumer<Sqlite>) -> Registered<Sqlite> {
    let mut registered = Registered::scoped(consumer);
    registered.declaration.group = Some(group);
    registered
}

/// The consumers of the shop that run.
fn shop() -> Vec<Registered<Sqlite>> {
    let at_once = || Settings::default().retries(0);
    let invoices = judging("billing.invoices", |_, event| match &*event.aggregate_id {
        "order-711" => Err("cannot make the invoice: no tariff for EUR".to_owned()),
        _ => Ok(()),
    });
    let mails = judging("notifications.mail", |_, event| {
        match &*event.aggregate_id {
            "order-31" => Err("cannot send the mail: the server refused the recipient".to_owned()),
            _ => Ok(()),
        }
    });
    let shipping = read_model("shipping")
        .scope(&["Order"])
        .knows(|format| format.event_type != "OrderRefunded");
    vec![
        version(1, accounts()),
        in_group("billing", invoices.scope(&["Order"]).settings(at_once())),
        in_group(
            "billing",
            read_model("billing.payments").scope(&["Order", "Payment"]),
        ),
        Registered::new(mails.settings(at_once().on_error(OnError::Park))),
        Registered::new(read_model("orders.read_model").settings(at_once().segments(8))),
        Registered::new(read_model("search.index")),
        Registered::scoped(shipping),
        Registered::new(read_model("system.integration.publisher").without_tx()),
    ]
}

/// An order.
#[must_use]
pub fn order(index: u32) -> NewEvent {
    let total = 20 + index % 80;
    let payload = format!(
        r#"{{"order":"order-{index}","customer":{{"id":"c-{}","name":"Ada Lovelace"}},"total":{total}.00,"currency":"EUR"}}"#,
        index % 97
    );
    NewEvent::new("Order", format!("order-{index}"), "OrderPlaced", payload)
}

async fn fill_shop(db: &Database<Sqlite>) {
    let worker = |release: &str| {
        let builder = Worker::builder(db.store.clone()).release(release);
        with(builder, shop())
    };
    for index in 0..640 {
        db.append_event(order(index)).await;
    }
    run_once(worker("2026-11-27.1")).await;
    let next = Worker::builder(db.store.clone()).registered(version(2, accounts()));
    run_once(next).await;
    db.execute(
        "UPDATE consumer_progress SET position = 410 WHERE consumer = 'accounts' AND version = 2",
    )
    .await;
    for index in 640..710 {
        db.append_event(order(index)).await;
    }
    let refunded = NewEvent::new("Order", "order-640", "OrderRefunded", r#"{"total":20.00}"#);
    db.append_event(refunded).await;
    for index in 711..900 {
        db.append_event(order(index)).await;
    }
    db.append_event(NewEvent::new("Order", "order-31", "OrderPaid", "{}"))
        .await;
    run_once(worker("2026-11-29.2")).await;
}

fn parking(name: &'static str) -> Model {
    Model::new(name).settings(Settings::default().retries(0).on_error(OnError::Park))
}

/// The consumers of the overfull database, less those that its program no longer has.
fn over() -> Vec<Registered<Sqlite>> {
    let mut consumers = running_over();
    consumers.push(Registered::new(read_model("never_run")));
    consumers
}

fn running_over() -> Vec<Registered<Sqlite>> {
    let invoices = judging("invoices", |_, event| match &*event.aggregate_id {
        "bad" => Err(format!(
            "cannot make the invoice\nof {LONG_ID}: `{LONG_TYPE}` is not a tariff, {}",
            "and this error explains at length why it is none; ".repeat(12)
        )),
        _ => Ok(()),
    });
    let mails = parking("notifications");
    for id in ["u-1", LONG_ID, RUDE_ID] {
        mails.fail_on(id, true);
    }
    let subscriptions = read_model("subscriptions").knows(|format| format.event_type != LONG_TYPE);
    let taken_over = read_model("taken_over")
        .scope(&["Taken"])
        .formerly(Formerly::Unstated);
    let mut consumers = vec![
        version(1, accounts()),
        Registered::new(invoices.settings(Settings::default().retries(0))),
        Registered::new(mails),
        Registered::new(Model::new(LONG_NAME).settings(Settings::default().segments(64))),
        Registered::new(subscriptions),
        Registered::scoped(taken_over),
        Registered::scoped(read_model("narrowed").scope(&["User", "Order", "Subscription"])),
        Registered::new(read_model("retrying")),
        Registered::new(read_model("paused")),
        Registered::new(read_model("left_alone")),
        Registered::new(Model::new("users")).version(3),
    ];
    for index in 0..100 {
        let idle = read_model(&format!("idle.{index:02}")).scope(&["Nothing"]);
        consumers.push(in_group("idle", idle));
    }
    consumers
}

/// The release before.
fn over_before() -> Vec<Registered<Sqlite>> {
    let mut consumers = vec![
        Registered::scoped(read_model("narrowed").scope(&["User"])),
        Registered::scoped(read_model("taken_away").scope(&["Taken"])),
    ];
    for number in [1, 2] {
        consumers.push(Registered::new(Model::new("users")).version(number));
    }
    consumers
}

async fn fill_over(db: &Database<Sqlite>) {
    let event =
        |id: &str, payload: &[u8]| NewEvent::new("User", id, "UserRegistered", payload.to_vec());
    let payload = br#"{"name":"Ada Lovelace","address":{"city":"London","lines":["12 St James's Square"]},"amount":1250.00}"#;
    let long = format!(
        r#"{{"note":"{}","list":[{}1]}}"#,
        "long ".repeat(400),
        "1,".repeat(600)
    );
    db.append_event(event(LONG_ID, payload)).await;
    db.append_many(1_000).await;
    db.append_event(event(RUDE_ID, b"\x1b[2J in text\n")).await;
    db.append_event(event("bytes", &[0xff, 0xfe, 0, 1, 2, 60, 98, 62]))
        .await;
    db.append_event(event("large", "a large text ".repeat(20_000).as_bytes()))
        .await;
    db.append_event(event("bad", long.as_bytes())).await;
    let unknown = NewEvent::new(LONG_TYPE, LONG_ID, LONG_TYPE, payload.to_vec());
    let related = unknown
        .correlation_id(LONG_ID)
        .causation_id(LONG_ID)
        .trace_id(LONG_ID);
    let metadata = Metadata::new(&serde_json::json!({ "by": LONG_ID })).expect("metadata");
    db.append_event(related.metadata(metadata)).await;
    for index in 0..40 {
        db.append_event(event(&format!("user-{index}"), payload))
            .await;
    }
    let worker = |release: &str, consumers| {
        run_once(with(
            Worker::builder(db.store.clone()).release(release),
            consumers,
        ))
    };
    worker("1.0.0", over_before()).await;
    worker(LONG_RELEASE, running_over()).await;
    Admin::new(db.store.clone())
        .pause("paused")
        .await
        .expect("pause");
    db.append("Order", (0..30).map(|index| format!("order-{index}")))
        .await;
    for sql in OVERFULL {
        db.execute(sql).await;
    }
    let host = format!(
        "UPDATE consumer_worker SET host = '{LONG_HOST}', pid = slice_from + 1000 WHERE (consumer, version, slice_from) IN (SELECT consumer, version, slice_from FROM consumer_progress WHERE slice_to - slice_from < 1024)"
    );
    db.execute(&host).await;
}

/// What takes time, or a failing database, to come about.
const OVERFULL: [&str; 5] = [
    "UPDATE events SET created_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-20 minutes')",
    "UPDATE consumer_progress SET updated_at = updated_at - 900000 WHERE consumer = 'left_alone'",
    "UPDATE consumer_worker SET seen_at = seen_at - 900000 WHERE consumer IN ('left_alone', 'taken_away')",
    "UPDATE consumer_progress SET attempts = 3, failed_position = position + 1, error = 'the search engine does not answer: connection refused',
            retry_at = updated_at + 3600000 WHERE consumer = 'retrying'",
    "UPDATE consumer_progress SET position = 400 WHERE consumer = 'users' AND version = 3",
];
