//! Of the versions of a consumer that run at once, one handles each event first, even while its handler works
//! outside any transaction.

use std::fmt::Debug;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use consumer::{Consumer, Context, HandlerError, OnError, PersistedEvent, Registered, Settings};
use consumer_tests::{Database, Running, TestDatabase, patiently, run_once, test_on, until};
use sqlx::Postgres;
use tokio::sync::{Notify, Semaphore};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{self, Layer, SubscriberExt as _};
use uuid::Uuid;

/// The batches that lanes of this binary have begun: consumer and version.
static BATCHES: LazyLock<&'static Mutex<Vec<(String, u64)>>> = LazyLock::new(|| {
    let batches: &'static Mutex<Vec<(String, u64)>> = Box::leak(Box::default());
    let registry = tracing_subscriber::registry().with(CountBatches(batches));
    tracing::subscriber::set_global_default(registry).expect("the only subscriber");
    batches
});

struct CountBatches(&'static Mutex<Vec<(String, u64)>>);

impl Visit for Batch {
    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "consumer" {
            value.clone_into(&mut self.0.0);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "version" {
            self.0.1 = value;
        }
    }
}

#[derive(Default)]
struct Batch((String, u64));

impl<S: Subscriber> Layer<S> for CountBatches {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: layer::Context<'_, S>) {
        if attributes.metadata().name() == "consumer.batch" {
            let mut batch = Batch::default();
            attributes.record(&mut batch);
            self.0.lock().unwrap().push(batch.0);
        }
    }
}

/// A consumer whose version 1 waits with each event for the test.
#[derive(Clone)]
struct Mails {
    name: Arc<str>,
    uses_transaction: bool,
    version: u64,
    entered: Arc<Notify>,
    gate: Arc<Semaphore>,
    is_failing: Arc<Mutex<bool>>,
    /// First deliveries: the version and the position.
    first: Arc<Mutex<Vec<(u64, i64)>>>,
    /// Effects after commits: the version and the position.
    effects: Arc<Mutex<Vec<(u64, i64)>>>,
}

impl Mails {
    fn new(uses_transaction: bool) -> Self {
        LazyLock::force(&BATCHES);
        Self {
            name: Uuid::new_v4().to_string().into(),
            uses_transaction,
            version: 1,
            entered: Arc::default(),
            gate: Arc::new(Semaphore::new(0)),
            is_failing: Arc::default(),
            first: Arc::default(),
            effects: Arc::default(),
        }
    }

    fn version<DB: TestDatabase>(&self, version: u32) -> Registered<DB>
    where
        Self: Consumer<DB>,
    {
        let mails = Self {
            version: version.into(),
            ..self.clone()
        };
        Registered::new(mails).version(version)
    }

    fn first(&self) -> Vec<(u64, i64)> {
        self.first.lock().unwrap().clone()
    }

    /// Waits until a version has handled an event first, or has tried twice to begin a batch, so that
    /// the first try has ended without one.
    async fn has_had_its_chance(&self, version: u64) {
        let batch = (self.name.to_string(), version);
        until("the version tries", async || {
            let batches = BATCHES.lock().unwrap();
            let tries = batches.iter().filter(|one| **one == batch).count();
            tries > 1 || self.first().iter().any(|(first, _)| *first == version)
        })
        .await;
    }
}

impl<DB: TestDatabase> Consumer<DB> for Mails {
    fn name(&self) -> &str {
        &self.name
    }

    fn settings(&self) -> Settings {
        Settings::default().on_error(OnError::Park).retries(0)
    }

    fn uses_transaction(&self) -> bool {
        self.uses_transaction
    }

    async fn handle(
        &self,
        cx: &Context,
        _: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        let one = (self.version, event.global_position);
        if *self.is_failing.lock().unwrap() {
            return Err("no".into());
        }
        if !cx.is_replay() {
            self.first.lock().unwrap().push(one);
            let effects = Arc::clone(&self.effects);
            cx.after_commit(async move { effects.lock().unwrap().push(one) });
        }
        if self.version == 1 {
            self.entered.notify_one();
            self.gate.acquire().await?.forget();
        }
        Ok(())
    }
}

test_on!(
    [sqlite, postgres],
    a_version_waits_while_another_handles_an_event_first,
    a_version_with_tx_waits_for_one_without,
    a_version_waits_while_another_s_parked_event_is_retried,
);

test_on!(
    [postgres],
    a_version_waits_for_a_batch_that_began_before_it_was_added,
    a_version_waits_for_one_that_its_claim_does_not_see,
);

test_on!(
    [sqlite],
    a_version_that_lost_the_mark_repeats_no_effect,
    a_version_whose_mark_lapsed_repeats_no_effect,
    a_mark_is_renewed_while_its_handler_works,
    a_mark_ends_with_its_batch,
);

async fn a_version_waits_while_another_handles_an_event_first<DB: TestDatabase>(db: Database<DB>) {
    added_during_a_batch(db, Mails::new(false), false).await;
}

async fn a_version_with_tx_waits_for_one_without<DB: TestDatabase>(db: Database<DB>) {
    added_during_a_batch(db, Mails::new(false), true).await;
}

async fn a_version_waits_for_a_batch_that_began_before_it_was_added<DB: TestDatabase>(
    db: Database<DB>,
) {
    added_during_a_batch(db, Mails::new(true), true).await;
}

/// Version 2 is deployed while version 1 handles an event.
async fn added_during_a_batch<DB: TestDatabase>(
    db: Database<DB>,
    mails: Mails,
    second_uses_transaction: bool,
) {
    let position = db.append_one("User", "a").await;
    let first = Running::start(db.worker().registered(mails.version(1)));
    patiently("version 1 begins", mails.entered.notified()).await;
    let second = Mails {
        uses_transaction: second_uses_transaction,
        ..mails.clone()
    };
    let second = Running::start(db.worker().registered(second.version(2)));
    mails.has_had_its_chance(2).await;
    assert_eq!(mails.first(), [(1, position)]);
    mails.gate.add_permits(1);
    for worker in [first, second] {
        let handled = worker.caught_up_to(position);
        patiently("both versions handle it", handled).await.unwrap();
        worker.stop().await;
    }
    assert_eq!(mails.first(), [(1, position)]);
    assert_eq!(*mails.effects.lock().unwrap(), [(1, position)]);
}

/// Version 2 was added while version 1 claimed its row, and has the precedence.
async fn a_version_waits_for_one_that_its_claim_does_not_see(db: Database<Postgres>) {
    let mails = Mails::new(true);
    mails.gate.add_permits(1);
    let mut second = db.store.begin().await.unwrap();
    let precedence = format!(
        "SELECT pg_advisory_xact_lock(
             hashtextextended('{}', 'consumer_progress'::regclass::oid::bigint))",
        mails.name
    );
    Postgres::execute_sql(&mut second, &precedence)
        .await
        .unwrap();
    let position = db.append_one("User", "a").await;
    let first = Running::start(db.worker().registered(mails.version(1)));
    mails.has_had_its_chance(1).await;
    assert_eq!(mails.first(), []);
    second.rollback().await.unwrap();
    let handled = first.caught_up_to(position);
    patiently("version 1 handles it", handled).await.unwrap();
    first.stop().await;
    assert_eq!(mails.first(), [(1, position)]);
}

async fn a_version_waits_while_another_s_parked_event_is_retried<DB: TestDatabase>(
    db: Database<DB>,
) {
    let mails = Mails::new(false);
    let position = db.append_one("User", "a").await;
    *mails.is_failing.lock().unwrap() = true;
    run_once(db.worker().registered(mails.version(1))).await;
    *mails.is_failing.lock().unwrap() = false;
    let admin = db.worker().registered(mails.version(1)).admin().unwrap();
    let name = mails.name.to_string();
    let retry = tokio::spawn(async move { admin.retry_parked(name, None).await });
    patiently("the retry begins", mails.entered.notified()).await;
    let second = Running::start(db.worker().registered(mails.version(2)));
    mails.has_had_its_chance(2).await;
    assert_eq!(mails.first(), [(1, position)]);
    mails.gate.add_permits(1);
    assert_eq!(retry.await.unwrap().unwrap().handled, 1);
    let handled = second.caught_up_to(position);
    patiently("version 2 handles it", handled).await.unwrap();
    second.stop().await;
    assert_eq!(mails.first(), [(1, position)]);
    assert_eq!(*mails.effects.lock().unwrap(), [(1, position)]);
}

/// Also the control of the tests before it: without the mark, both versions handle the event first.
async fn a_version_that_lost_the_mark_repeats_no_effect<DB: TestDatabase>(db: Database<DB>) {
    without_the_mark(&db, "DELETE FROM consumer_mark").await;
}

/// As when its process is frozen for longer than the mark is held.
async fn a_version_whose_mark_lapsed_repeats_no_effect<DB: TestDatabase>(db: Database<DB>) {
    without_the_mark(&db, "UPDATE consumer_mark SET held_until = 0").await;
}

async fn without_the_mark<DB: TestDatabase>(db: &Database<DB>, lose: &'static str) {
    let mails = Mails::new(false);
    let position = db.append_one("User", "a").await;
    let first = Running::start(db.worker().registered(mails.version(1)));
    patiently("version 1 begins", mails.entered.notified()).await;
    db.execute(lose).await;
    let second = Running::start(db.worker().registered(mails.version(2)));
    let handled = second.caught_up_to(position);
    patiently("version 2 handles it", handled).await.unwrap();
    assert_eq!(mails.first(), [(1, position), (2, position)]);
    // Version 1 finds out, and handles the event again as a replay.
    mails.gate.add_permits(2);
    let handled = first.caught_up_to(position);
    patiently("version 1 handles it", handled).await.unwrap();
    first.stop().await;
    second.stop().await;
    assert_eq!(mails.first(), [(1, position), (2, position)]);
    assert_eq!(*mails.effects.lock().unwrap(), [(2, position)]);
}

async fn a_mark_is_renewed_while_its_handler_works<DB: TestDatabase>(db: Database<DB>) {
    let mails = Mails::new(false);
    let position = db.append_one("User", "a").await;
    let worker = db.worker().claim_timeout(Duration::from_secs(1));
    let running = Running::start(worker.registered(mails.version(1)));
    patiently("version 1 begins", mails.entered.notified()).await;
    let held_until = "SELECT held_until FROM consumer_mark";
    let before = db.number(held_until).await;
    until("the mark is renewed", async || {
        db.number(held_until).await > before
    })
    .await;
    mails.gate.add_permits(1);
    let handled = running.caught_up_to(position);
    patiently("version 1 handles it", handled).await.unwrap();
    running.stop().await;
}

/// Other versions would wait for it otherwise, as long as for a process that died.
async fn a_mark_ends_with_its_batch<DB: TestDatabase>(db: Database<DB>) {
    let mails = Mails::new(false);
    for is_failing in [true, false] {
        *mails.is_failing.lock().unwrap() = is_failing;
        mails.gate.add_permits(1);
        db.append_one("User", if is_failing { "a" } else { "b" })
            .await;
        run_once(db.worker().registered(mails.version(1))).await;
        let marks = "SELECT count(*) FROM consumer_mark";
        assert_eq!(db.number(marks).await, 0, "{is_failing}");
    }
}
