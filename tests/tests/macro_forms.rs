//! Every form of handler, called as a worker calls it.

use std::sync::Mutex;

use consumer::prelude::*;
use consumer::sqlx::{Connection, Sqlite};
use consumer::{ErasedConsumer, EventRecord, NewEvent, OnError, Settings, StartFrom};
use consumer_tests::{Database, Notes, give, in_memory};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize, Clone, Debug)]
#[event(aggregate = "User")]
struct UserRegistered {
    email: String,
}

#[derive(Event, Serialize, Deserialize, Clone, Debug)]
#[event(aggregate = "User")]
struct EmailChanged {
    email: String,
}

#[derive(Event, Serialize, Deserialize, Debug)]
#[event(aggregate = "User")]
enum UserEvent {
    Registered(UserRegistered),
    Changed(EmailChanged),
    #[event(name = "UserDeleted")]
    Deleted,
}

#[derive(Event, Serialize, Deserialize, Debug)]
#[event(aggregate = "Order", name = "UserRegistered")]
struct OrderOfTheSameName {}

fn event(position: i64, aggregate: &str, kind: &str, payload: &str) -> PersistedEvent {
    PersistedEvent::new(EventRecord {
        global_position: position,
        aggregate_type: aggregate.into(),
        event_type: kind.into(),
        payload: payload.to_owned().into(),
        ..EventRecord::default()
    })
}

fn user(position: i64, kind: &str) -> PersistedEvent {
    event(
        position,
        "User",
        kind,
        &format!(r#"{{"email":"{position}@example.com"}}"#),
    )
}

#[derive(Default)]
struct OneByOne(Notes);

#[consumer(name = "forms.one_by_one")]
impl OneByOne {
    async fn handle(
        &self,
        event: &PersistedEvent,
        cx: &Context,
        tx: &mut SqliteConnection,
    ) -> Result<(), HandlerError> {
        tx.ping().await?;
        assert_eq!(cx.current_position(), Some(event.global_position));
        self.0.note(&*event.event_type);
        if event.global_position == 3 {
            cx.request_stop();
        }
        if &*event.event_type == "Bad" {
            return Err("bad".into());
        }
        Ok(())
    }
}

#[tokio::test]
async fn r2_handle_takes_one_event_at_a_time_and_stops_at_an_error() {
    let consumer = OneByOne::default();
    let cx = Context::new("forms.one_by_one");
    let events = [user(1, "A"), user(2, "Bad"), user(4, "C")];
    let error = give(&consumer, &cx, &events).await.unwrap_err();
    assert_eq!((error.handled, error.suspects), (1, 1));
    assert_eq!(consumer.0.take(), ["A", "Bad"]);
}

#[tokio::test]
async fn a_batch_ends_early_where_the_worker_wants_it_to() {
    let consumer = OneByOne::default();
    let cx = Context::new("forms.one_by_one");
    let events = [user(1, "A"), user(3, "B"), user(4, "C")];
    assert_eq!(give(&consumer, &cx, &events).await.unwrap(), 2);
}

#[derive(Default)]
struct WholeBatch(Notes);

#[consumer(name = "forms.whole_batch")]
impl WholeBatch {
    async fn handle(
        &self,
        _tx: &mut SqliteConnection,
        events: &[PersistedEvent],
    ) -> Result<(), String> {
        self.0.note(events.len().to_string());
        if events.iter().any(|event| &*event.event_type == "Bad") {
            return Err("bad".into());
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_whole_batch_is_given_at_once_and_suspected_as_a_whole() {
    let consumer = WholeBatch::default();
    let cx = Context::new("forms.whole_batch");
    let events = [user(1, "A"), user(2, "B")];
    assert_eq!(give(&consumer, &cx, &events).await.unwrap(), 2);
    let events = [user(1, "A"), user(2, "Bad"), user(4, "C")];
    let error = give(&consumer, &cx, &events).await.unwrap_err();
    assert_eq!((error.handled, error.suspects), (0, 3));
    assert_eq!(consumer.0.take(), ["2", "3"]);
}

type Registered<'a> = Envelope<'a, UserRegistered>;

#[derive(Default)]
struct ByEvent(Notes);

#[consumer(name = "forms.by_event")]
impl ByEvent {
    #[on]
    async fn registered(
        &self,
        _tx: &mut SqliteConnection,
        event: Registered<'_>,
    ) -> Result<(), HandlerError> {
        self.0.note(format!(
            "registered {} at {}",
            event.payload.email, event.global_position
        ));
        Ok(())
    }

    #[on]
    async fn changed(&self, event: EmailChanged, cx: &Context) -> Result<(), HandlerError> {
        self.0
            .note(format!("changed {} for {}", event.email, cx.consumer()));
        Ok(())
    }

    #[on("Imported", "Migrated")]
    async fn imported(&self, event: &PersistedEvent) -> Result<(), HandlerError> {
        self.0.note(&*event.event_type);
        Ok(())
    }

    #[on(other)]
    async fn rest(&self, event: &PersistedEvent) -> Result<(), HandlerError> {
        self.0.note(format!("other {}", event.event_type));
        Ok(())
    }

    #[on(reset)]
    async fn empty(&self, _tx: &mut SqliteConnection, cx: &Context) -> Result<(), HandlerError> {
        self.0.note(format!("reset {}", cx.consumer()));
        Ok(())
    }
}

#[tokio::test]
async fn each_event_goes_to_the_handler_of_its_type() {
    let consumer = ByEvent::default();
    let cx = Context::new("by_event");
    let events = [
        user(1, "UserRegistered"),
        user(2, "EmailChanged"),
        user(3, "Migrated"),
        user(4, "Unknown"),
        event(5, "Order", "UserRegistered", "{}"),
    ];
    assert_eq!(give(&consumer, &cx, &events).await.unwrap(), 5);
    assert_eq!(
        consumer.0.take(),
        [
            "registered 1@example.com at 1",
            "changed 2@example.com for by_event",
            "Migrated",
            "other Unknown",
            // The same event type of another aggregate is another event.
            "other UserRegistered",
        ]
    );
}

#[tokio::test]
async fn on_reset_empties_the_read_model() {
    let consumer = ByEvent::default();
    let mut tx = in_memory().await;
    assert!(ErasedConsumer::<Sqlite>::can_reset(&consumer));
    assert!(!ErasedConsumer::<Sqlite>::can_reset(&OneByOne::default()));
    let cx = Context::new("by_event");
    ErasedConsumer::<Sqlite>::reset(&consumer, &cx, &mut tx)
        .await
        .unwrap();
    assert_eq!(consumer.0.take(), ["reset by_event"]);
}

#[tokio::test]
async fn a_decode_error_in_a_handler_names_the_consumer() {
    let consumer = ByEvent::default();
    let cx = Context::new("by_event");
    let events = [event(7, "User", "UserRegistered", r#"{"email":1}"#)];
    let error = give(&consumer, &cx, &events).await.unwrap_err();
    let text = error.error.to_string();
    assert!(
        text.starts_with(
            "`by_event`: cannot decode the event `UserRegistered`, version 1, at position 7: at `email`"
        ),
        "{text}"
    );
}

#[derive(Default)]
struct InRuns(Notes);

#[consumer(name = "forms.in_runs", aggregates = [UserEvent, "Order"])]
impl InRuns {
    #[on]
    async fn registered(
        &self,
        tx: &mut SqliteConnection,
        cx: &Context,
        events: &[Envelope<'_, UserRegistered>],
    ) -> Result<(), HandlerError> {
        tx.ping().await?;
        assert_eq!(cx.current_position(), None);
        let positions: Vec<i64> = events.iter().map(|event| event.global_position).collect();
        self.0.note(format!("registered {positions:?}"));
        if events.iter().any(|event| event.payload.email == "bad") {
            return Err("bad".into());
        }
        Ok(())
    }

    #[on]
    async fn changed(&self, event: EmailChanged) -> Result<(), HandlerError> {
        self.0.note(format!("changed {}", event.email));
        Ok(())
    }

    #[on]
    async fn same_name(&self, _event: OrderOfTheSameName) -> Result<(), HandlerError> {
        self.0.note("order");
        Ok(())
    }

    #[on(other)]
    async fn rest(&self, events: &[PersistedEvent]) -> Result<(), HandlerError> {
        self.0.note(format!("other {}", events.len()));
        Ok(())
    }
}

#[tokio::test]
async fn runs_of_one_event_are_given_at_once() {
    let consumer = InRuns::default();
    let cx = Context::new("in_runs");
    let events = [
        user(1, "UserRegistered"),
        user(2, "UserRegistered"),
        user(3, "EmailChanged"),
        user(4, "UserRegistered"),
        event(5, "Order", "UserRegistered", "{}"),
        user(6, "Unknown"),
        user(7, "UserDeleted"),
    ];
    assert_eq!(give(&consumer, &cx, &events).await.unwrap(), 7);
    assert_eq!(
        consumer.0.take(),
        [
            "registered [1, 2]",
            "changed 3@example.com",
            "registered [4]",
            "order",
            "other 2"
        ]
    );
}

#[tokio::test]
async fn a_failing_run_is_suspected_as_a_whole() {
    let consumer = InRuns::default();
    let cx = Context::new("in_runs");
    let events = [
        user(1, "EmailChanged"),
        user(2, "UserRegistered"),
        event(3, "User", "UserRegistered", r#"{"email":"bad"}"#),
        user(4, "UserRegistered"),
        user(5, "EmailChanged"),
    ];
    let error = give(&consumer, &cx, &events).await.unwrap_err();
    assert_eq!((error.handled, error.suspects), (1, 3));
}

#[tokio::test]
async fn a_run_ends_before_an_event_that_does_not_decode() {
    let consumer = InRuns::default();
    let cx = Context::new("in_runs");
    let events = [
        user(1, "UserRegistered"),
        user(2, "UserRegistered"),
        event(3, "User", "UserRegistered", "{}"),
    ];
    let error = give(&consumer, &cx, &events).await.unwrap_err();
    assert_eq!((error.handled, error.suspects), (2, 1));
    assert_eq!(consumer.0.take(), ["registered [1, 2]"]);
}

#[tokio::test]
async fn one_event_alone_can_be_given_to_a_handler_of_runs() {
    let consumer = InRuns::default();
    let mut tx = in_memory().await;
    let cx = Context::new("in_runs");
    let event = user(1, "UserRegistered");
    Consumer::<Sqlite>::handle(&consumer, &cx, &mut tx, &event)
        .await
        .unwrap();
    assert_eq!(consumer.0.take(), ["registered [1]"]);
}

#[derive(Default)]
struct AllOfAnAggregate(Notes);

#[consumer(name = "forms.all_of_an_aggregate", aggregates = [UserEvent])]
impl AllOfAnAggregate {
    #[on]
    async fn user(&self, event: UserEvent) -> Result<(), HandlerError> {
        self.0.note(match event {
            UserEvent::Registered(event) => event.email,
            UserEvent::Changed(_) => "changed".into(),
            UserEvent::Deleted => "deleted".into(),
        });
        Ok(())
    }
}

#[tokio::test]
async fn an_enum_handles_all_events_of_its_aggregate() {
    let consumer = AllOfAnAggregate::default();
    let cx = Context::new("all");
    let deleted = NewEvent::typed(&UserEvent::Deleted).unwrap();
    let deleted = deleted.of("u-1");
    let events = [
        user(1, "UserRegistered"),
        event(2, "User", &deleted.event_type, "{}"),
        event(3, "Order", "UserDeleted", "{}"),
    ];
    assert_eq!(give(&consumer, &cx, &events).await.unwrap(), 3);
    assert_eq!(consumer.0.take(), ["1@example.com", "deleted"]);
    assert_eq!(
        ScopedConsumer::<Sqlite>::aggregate_types(&consumer),
        ["User"]
    );
}

#[consumer(name = "forms.by_hand", database = Sqlite, aggregates = ["User"], retries = 2)]
#[derive(Default)]
struct ByHand {
    seen: Notes,
}

impl Handler<Sqlite> for ByHand {
    async fn handle(
        &self,
        _cx: &Context,
        _tx: &mut SqliteConnection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        self.seen.note(&*event.event_type);
        Ok(())
    }
}

#[consumer(name = "forms.everywhere", database = any)]
struct Everywhere;

impl<DB: consumer::sqlx::Database> Handler<DB> for Everywhere {
    async fn handle(
        &self,
        _cx: &Context,
        _tx: &mut DB::Connection,
        _event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_struct_that_implements_handler_is_a_consumer() {
    let consumer = ByHand::default();
    let cx = Context::new("by_hand");
    let events = [user(1, "A"), user(2, "B")];
    assert_eq!(give(&consumer, &cx, &events).await.unwrap(), 2);
    assert_eq!(consumer.seen.take(), ["A", "B"]);
    assert_eq!(Consumer::<Sqlite>::settings(&consumer).retries, 2);
    assert_eq!(give(&Everywhere, &cx, &events).await.unwrap(), 2);
}

#[test]
fn r5_only_a_consumer_that_takes_tx_uses_the_transaction() {
    assert!(ErasedConsumer::<Sqlite>::uses_transaction(
        &OneByOne::default()
    ));
    assert!(!ErasedConsumer::<Sqlite>::uses_transaction(
        &AllOfAnAggregate::default()
    ));
    assert!(ErasedConsumer::<Sqlite>::uses_transaction(
        &ByHand::default()
    ));
    assert!(!ErasedConsumer::<Sqlite>::uses_transaction(&Everywhere));
}

struct EveryKey;

#[consumer(
    name = "forms.every_key",
    aggregates = ["User"],
    start_from = "now",
    on_error = "park",
    retries = 9,
    backoff = "50ms..2m",
    batch_size = 10_000,
    batch_time = "250ms",
    handler_timeout = "1h",
    segments = 16,
    version = 3,
    group = "keys",
    init = EveryKey::new,
    crate = ::consumer,
)]
impl EveryKey {
    fn new(_: &Dependencies) -> Result<Self, std::convert::Infallible> {
        Ok(Self)
    }

    async fn handle(&self, _event: &PersistedEvent) -> Result<(), std::convert::Infallible> {
        Ok(())
    }
}

/// What is registered of the only consumer of a group.
fn discovered(group: &str) -> consumer::Declaration {
    let registry = consumer::Registry::<Sqlite>::discover_group(group, &Dependencies::new());
    registry.unwrap().registered()[0].declaration.clone()
}

#[test]
fn every_key_arrives_in_the_settings() {
    let expected = Settings::default()
        .start_from(StartFrom::Now)
        .on_error(OnError::Park)
        .retries(9)
        .backoff(
            std::time::Duration::from_millis(50),
            std::time::Duration::from_mins(2),
        )
        .batch_size(10_000)
        .batch_time(std::time::Duration::from_millis(250))
        .handler_timeout(std::time::Duration::from_hours(1))
        .segments(16);
    assert_eq!(Consumer::<Sqlite>::settings(&EveryKey), expected);
    let registered = consumer::Registered::<Sqlite>::scoped(EveryKey).version(3);
    assert_eq!(registered.declaration.settings, expected);
    let discovered = discovered("keys");
    assert_eq!(discovered.settings, expected);
    assert_eq!((discovered.version, registered.declaration.version), (3, 3));
}

#[consumer(name = "forms.every_key_by_hand", database = Sqlite, segments = 2, version = 4, group = "hand")]
struct EveryKeyByHand;

impl Handler<Sqlite> for EveryKeyByHand {
    async fn handle(
        &self,
        _cx: &Context,
        _tx: &mut SqliteConnection,
        _event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[test]
fn a_struct_has_the_same_keys() {
    let discovered = discovered("hand");
    assert_eq!((discovered.version, discovered.settings.segments), (4, 2));
}

/// Tells the versions that events were handled in.
#[derive(Default)]
struct Versioned;

/// The same consumer after its read model changed its shape.
struct VersionedAgain;

static VERSIONS: Mutex<Vec<u32>> = Mutex::new(Vec::new());

#[consumer(name = "forms.versioned", group = "versions")]
impl Versioned {
    async fn handle(
        &self,
        cx: &Context,
        _tx: &mut SqliteConnection,
        _event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        VERSIONS.lock().unwrap().push(cx.version());
        Ok(())
    }
}

#[consumer(name = "forms.versioned", group = "versions", version = 2)]
impl VersionedAgain {
    async fn handle(
        &self,
        cx: &Context,
        _tx: &mut SqliteConnection,
        _event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        VERSIONS.lock().unwrap().push(cx.version());
        Ok(())
    }
}

#[tokio::test]
async fn a_second_version_has_a_checkpoint_of_its_own() {
    let db = Database::<Sqlite>::fresh().await;
    db.append_one("User", "u-1").await;
    let worker = Worker::builder(db.store.clone()).discover_group("versions");
    worker.build().unwrap().run_once().await.unwrap();
    let mut versions = VERSIONS.lock().unwrap().clone();
    versions.sort_unstable();
    assert_eq!(versions, [1, 2]);
    let rows: Vec<(i32, i64)> = sqlx::query_as(
        "SELECT version, position FROM consumer_progress WHERE consumer = 'forms.versioned' ORDER BY version",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    assert_eq!(rows, [(1, 1), (2, 1)]);
}

/// The calls of the consumers of the group `overrides`, in order.
static OVERRIDDEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn called(what: impl Into<String>) {
    OVERRIDDEN.lock().unwrap().push(what.into());
}

fn overridden(beginning: &str) -> usize {
    let seen = OVERRIDDEN.lock().unwrap();
    seen.iter().filter(|one| one.starts_with(beginning)).count()
}

struct Failing;
struct Latecomer;
struct Hanging;
struct Committing;

#[consumer(
    name = "forms.failing",
    group = "overrides",
    backoff = "10m..10m",
    retries = 99
)]
impl Failing {
    async fn handle(&self, event: &PersistedEvent) -> Result<(), String> {
        called(format!("failing {}", event.event_type));
        match &*event.event_type {
            "Bad" => Err("bad".into()),
            _ => Ok(()),
        }
    }
}

#[consumer(name = "forms.latecomer", group = "overrides")]
impl Latecomer {
    async fn handle(&self, _event: &PersistedEvent) -> Result<(), String> {
        called("latecomer");
        Ok(())
    }
}

#[consumer(
    name = "forms.hanging",
    group = "overrides",
    on_error = "skip",
    retries = 0
)]
impl Hanging {
    async fn handle(&self, event: &PersistedEvent) -> Result<(), String> {
        if &*event.event_type == "Bad" {
            std::future::pending::<()>().await;
        }
        called(format!("hanging {}", event.event_type));
        Ok(())
    }
}

#[consumer(name = "forms.committing", group = "overrides", batch_time = "1h")]
impl Committing {
    async fn handle(
        &self,
        cx: &Context,
        _tx: &mut SqliteConnection,
        _event: &PersistedEvent,
    ) -> Result<(), String> {
        called("committing");
        cx.after_commit(async { called("committed") });
        Ok(())
    }
}

#[tokio::test]
async fn what_an_attribute_says_is_overridden_on_the_builder() {
    use std::time::Duration;

    let db = Database::<Sqlite>::fresh().await;
    for event_type in ["Bad"].iter().chain(&["Good"; 99]) {
        let event = NewEvent::new("User", "u-1", *event_type, "{}");
        db.append_event(event).await;
    }
    let worker = Worker::builder(db.store.clone())
        .discover_group("overrides")
        .configure("forms.failing", |settings| {
            settings
                .on_error(OnError::Skip)
                .retries(2)
                .backoff(Duration::from_millis(1), Duration::from_millis(2))
        })
        .configure("forms.latecomer", |settings| {
            settings.start_from(StartFrom::Now)
        })
        .configure("forms.hanging", |settings| {
            settings.handler_timeout(Duration::from_millis(50))
        })
        .configure("forms.committing", |settings| {
            settings.batch_time(Duration::ZERO)
        });
    worker.build().unwrap().run_once().await.unwrap();
    assert_eq!(overridden("failing Bad"), 3);
    assert!(overridden("failing Good") >= 99);
    assert_eq!(overridden("latecomer"), 0);
    assert!(overridden("hanging Good") >= 99);
    assert_eq!(overridden("committed"), 100);
    let seen = OVERRIDDEN.lock().unwrap();
    let last = seen.iter().rposition(|one| one == "committing").unwrap();
    let first = seen.iter().position(|one| one == "committed").unwrap();
    assert!(first < last, "everything was one transaction");
}

/// An error type of the user's own.
#[derive(Debug)]
enum OwnError {
    Database(sqlx::Error),
    Odd,
}

impl std::fmt::Display for OwnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Database(error) => error.fmt(f),
            Self::Odd => f.write_str("odd"),
        }
    }
}

impl std::error::Error for OwnError {}

impl From<sqlx::Error> for OwnError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

struct EveryError;

#[consumer(name = "forms.every_error")]
impl EveryError {
    #[on("OwnError")]
    async fn own(
        &self,
        tx: &mut SqliteConnection,
        _event: &PersistedEvent,
    ) -> Result<(), OwnError> {
        sqlx::query("SELECT 1").execute(&mut *tx).await?;
        Err(OwnError::Odd)?;
        Ok(())
    }

    #[on("OwnErrorOfTheDatabase")]
    async fn database(
        &self,
        tx: &mut SqliteConnection,
        _event: &PersistedEvent,
    ) -> Result<(), OwnError> {
        sqlx::query("SELECT * FROM nowhere").execute(tx).await?;
        Ok(())
    }

    #[on("Sqlx")]
    async fn sqlx(
        &self,
        tx: &mut SqliteConnection,
        _event: &PersistedEvent,
    ) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT * FROM nowhere").execute(tx).await?;
        Ok(())
    }

    #[on("Text")]
    async fn text(&self, _event: &PersistedEvent) -> Result<(), String> {
        Err("text")?;
        Ok(())
    }

    #[on("Anyhow")]
    async fn anyhow(&self, _event: &PersistedEvent) -> anyhow::Result<()> {
        Err(OwnError::Odd)?;
        Ok(())
    }

    #[on("Handler")]
    async fn handler(
        &self,
        tx: &mut SqliteConnection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        let _: u32 = "1".parse()?;
        sqlx::query("SELECT 1").execute(&mut *tx).await?;
        self.text(event).await?;
        Err(anyhow::anyhow!("not reached"))?;
        Err(OwnError::Odd)?;
        Ok(())
    }
}

#[tokio::test]
async fn every_error_type_is_an_error_of_a_handler() {
    let cx = Context::new("every_error");
    for (kind, message) in [
        ("OwnError", "odd"),
        ("OwnErrorOfTheDatabase", "no such table: nowhere"),
        ("Sqlx", "no such table: nowhere"),
        ("Text", "text"),
        ("Anyhow", "odd"),
        ("Handler", "text"),
    ] {
        let failed = give(&EveryError, &cx, &[user(1, kind)]).await.unwrap_err();
        let text = failed.error.to_string();
        assert!(text.contains(message), "{kind}: {text}");
    }
}

#[test]
fn everything_above_registers_itself() {
    let registry = consumer::Registry::<Sqlite>::discover().unwrap();
    assert_eq!(registry.registered().len(), 16);
}
