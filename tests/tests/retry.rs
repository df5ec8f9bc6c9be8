//! Retries of parked events, with all guarantees of a worker.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consumer::admin::{AdminError, RebuildOptions, Retried};
use consumer::{
    Consumer, Context, EventStore, ExpectedVersion, HandlerError, NewEvent, OnError,
    PersistedEvent, Settings, Worker, WorkerBuilder,
};
use consumer_tests::{Database, TestDatabase, consumer, impatient, run_once, test_on};
use tokio::sync::Notify;

type Fault<DB> = Arc<dyn Fn(&Context, &EventStore<DB>, &PersistedEvent) -> Todo + Send + Sync>;

/// The handler's reaction to an event.
enum Todo {
    Handle,
    Fail(HandlerError),
    Panic,
    Hang,
    /// Appends another event.
    Append,
    /// Ignores a statement that fails.
    Swallow,
    /// Notifies the test and waits for it.
    Wait(Arc<Notify>, Arc<Notify>),
}

/// Fails on the events of `bad` and `worse` until it is repaired, and then does what the test says.
struct Tried<DB: TestDatabase> {
    store: EventStore<DB>,
    uses_transaction: bool,
    settings: Settings,
    repaired: Arc<AtomicBool>,
    then: Fault<DB>,
    seen: Arc<Mutex<Vec<(i64, bool, u32)>>>,
    effects: Arc<Mutex<Vec<i64>>>,
}

impl<DB: TestDatabase> Clone for Tried<DB> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            uses_transaction: self.uses_transaction,
            settings: self.settings.clone(),
            repaired: Arc::clone(&self.repaired),
            then: Arc::clone(&self.then),
            seen: Arc::clone(&self.seen),
            effects: Arc::clone(&self.effects),
        }
    }
}

impl<DB: TestDatabase> Tried<DB> {
    fn new(
        db: &Database<DB>,
        then: impl Fn(&Context, &EventStore<DB>, &PersistedEvent) -> Todo + Send + Sync + 'static,
    ) -> Self {
        Self {
            store: db.store.clone(),
            uses_transaction: true,
            settings: Settings::default().retries(0).on_error(OnError::Park),
            repaired: Arc::default(),
            then: Arc::new(then),
            seen: Arc::default(),
            effects: Arc::default(),
        }
    }

    fn without_tx(mut self) -> Self {
        self.uses_transaction = false;
        self
    }

    fn builder(&self) -> WorkerBuilder<DB> {
        Worker::builder(self.store.clone())
            .consumer(self.clone())
            .snapshot_interval(Duration::from_millis(5))
    }

    /// Runs a worker, which parks what fails, and repairs the consumer.
    async fn park(&self) {
        let worker = self.builder().build().unwrap();
        let report = worker.run_once().await.unwrap();
        assert!(!report.has_failures(), "{report}");
        self.seen.lock().unwrap().clear();
        self.effects.lock().unwrap().clear();
        self.repaired.store(true, Ordering::Relaxed);
    }

    fn seen(&self) -> Vec<(i64, bool, u32)> {
        self.seen.lock().unwrap().clone()
    }
}

impl<DB: TestDatabase> Consumer<DB> for Tried<DB> {
    fn name(&self) -> &str {
        "tried"
    }

    fn settings(&self) -> Settings {
        self.settings.clone()
    }

    fn uses_transaction(&self) -> bool {
        self.uses_transaction
    }

    fn can_reset(&self) -> bool {
        true
    }

    async fn reset(&self, cx: &Context, _: &mut DB::Connection) -> Result<(), HandlerError> {
        let effects = Arc::clone(&self.effects);
        cx.after_commit(async move { effects.lock().unwrap().push(0) });
        assert!(!self.repaired.load(Ordering::Relaxed), "cannot be emptied");
        Ok(())
    }

    async fn handle(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        let position = event.global_position;
        let is_bad = matches!(event.aggregate_id.as_str(), "bad" | "worse");
        if !self.repaired.load(Ordering::Relaxed) && is_bad {
            return Err("not yet".into());
        }
        self.seen
            .lock()
            .unwrap()
            .push((position, cx.is_replay(), cx.attempt()));
        let effects = Arc::clone(&self.effects);
        cx.after_commit(async move { effects.lock().unwrap().push(position) });
        match (self.then)(cx, &self.store, event) {
            Todo::Fail(error) => return Err(error),
            Todo::Panic => panic!("a mine"),
            Todo::Hang => std::future::pending().await,
            Todo::Append => {
                let caused = NewEvent::new("Mail", "m", "Sent", "{}");
                self.store
                    .append_in(tx, ExpectedVersion::Any, &[caused])
                    .await?;
            }
            Todo::Swallow => {
                let _ = DB::execute_sql(tx, "SELECT * FROM there_is_no_such_table").await;
                return Ok(());
            }
            Todo::Wait(entered, go_on) => {
                entered.notify_one();
                go_on.notified().await;
            }
            Todo::Handle => {}
        }
        if self.uses_transaction {
            DB::apply(tx, "tried", event).await?;
        }
        Ok(())
    }
}

async fn retry<DB: TestDatabase>(tried: &Tried<DB>) -> Retried {
    let admin = tried.builder().admin().unwrap();
    admin.retry_parked("tried", None).await.unwrap()
}

async fn parked<DB: TestDatabase>(db: &Database<DB>) -> Vec<i64> {
    db.numbers("SELECT position FROM consumer_parked ORDER BY position")
        .await
}

async fn attempts<DB: TestDatabase>(db: &Database<DB>) -> Vec<i64> {
    db.numbers("SELECT CAST(attempts AS BIGINT) FROM consumer_parked ORDER BY position")
        .await
}

fn on(id: &'static str, todo: fn() -> Todo) -> impl Fn(&PersistedEvent) -> Todo {
    move |event| {
        if event.aggregate_id == id {
            todo()
        } else {
            Todo::Handle
        }
    }
}

/// What an error says of its cause.
fn cause(error: &AdminError) -> String {
    std::error::Error::source(error).unwrap().to_string()
}

test_on!(
    [sqlite, postgres],
    a_panic_is_a_failure_of_one_aggregate,
    a_hanging_handler_times_out_and_leaves_nothing_locked,
    effects_run_after_a_commit_but_not_after_a_failure,
    what_a_retry_appends_names_its_cause,
    what_a_rebuild_discards_is_no_replay,
    database_errors_are_retried_and_never_counted,
    a_reset_that_panics_changes_nothing,
    an_error_that_cannot_be_shown_fails_only_its_aggregate,
    r5_a_consumer_without_tx_handles_its_parked_events_in_order,
    r5_an_event_appended_during_a_retry_is_not_left_parked,
    a_retry_counts_the_attempts_of_each_event_alone,
    r4_a_retry_that_ends_its_transaction_keeps_the_events
);

async fn a_panic_is_a_failure_of_one_aggregate<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["bad", "worse"]).await;
    let then = on("bad", || Todo::Panic);
    let tried = Tried::<DB>::new(&db, move |_, _, event| then(event));
    tried.park().await;
    let retried = retry(&tried).await;
    assert_eq!((retried.handled, retried.failed.len()), (1, 1));
    assert_eq!(
        retried.failed[0].to_string(),
        "event 1 failed again; its aggregate stays parked"
    );
    assert_eq!(cause(&retried.failed[0]), "the handler panicked: a mine");
    assert_eq!((parked(&db).await, attempts(&db).await), (vec![1], vec![2]));
}

async fn a_hanging_handler_times_out_and_leaves_nothing_locked<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["bad", "worse"]).await;
    let then = on("bad", || Todo::Hang);
    let mut tried = Tried::<DB>::new(&db, move |_, _, event| then(event));
    tried.settings = tried
        .settings
        .clone()
        .handler_timeout(Duration::from_secs(2));
    tried.park().await;
    let retried = retry(&tried).await;
    assert_eq!((retried.handled, retried.failed.len()), (1, 1));
    assert!(
        cause(&retried.failed[0]).contains("`handler_timeout`"),
        "{}",
        cause(&retried.failed[0])
    );
    assert_eq!((parked(&db).await, attempts(&db).await), (vec![1], vec![2]));
    assert_eq!(db.numbers("SELECT position FROM applied").await, [2]);
}

async fn effects_run_after_a_commit_but_not_after_a_failure<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["bad", "worse", "bad"]).await;
    let tried = Tried::<DB>::new(&db, |_, _, event| match event.global_position {
        3 => Todo::Fail("not this one".into()),
        _ => Todo::Handle,
    });
    tried.park().await;
    let retried = retry(&tried).await;
    assert_eq!((retried.handled, retried.failed.len()), (1, 1));
    assert_eq!(*tried.effects.lock().unwrap(), [2]);
    assert_eq!(tried.seen(), [(1, false, 2), (3, false, 1), (2, false, 2)]);
}

async fn what_a_retry_appends_names_its_cause<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["bad"]).await;
    let tried = Tried::<DB>::new(&db, |_, _, event| {
        if event.aggregate_id == "bad" {
            Todo::Append
        } else {
            Todo::Handle
        }
    });
    tried.park().await;
    assert_eq!(retry(&tried).await.handled, 1);
    let cause = "SELECT CAST(event_id AS TEXT) FROM events WHERE aggregate_type = 'User'
                 UNION ALL SELECT causation_id FROM events WHERE aggregate_type = 'Mail'";
    let ids = db.texts(cause).await;
    assert_eq!((ids.len(), &ids[0]), (2, &ids[1]));
}

async fn what_a_rebuild_discards_is_no_replay<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["bad"]).await;
    let tried = Tried::<DB>::new(&db, |_, _, _| Todo::Handle);
    tried.park().await;
    tried.repaired.store(false, Ordering::Relaxed);
    let admin = tried.builder().admin().unwrap();
    admin
        .rebuild("tried", RebuildOptions::new().discard_parked())
        .await
        .unwrap();
    assert_eq!(
        *tried.effects.lock().unwrap(),
        [0],
        "the effect of the reset"
    );
    db.append("User", ["bad", "worse"]).await;
    tried.park().await;
    assert_eq!(retry(&tried).await.handled, 3);
    let replays: Vec<bool> = tried.seen().iter().map(|seen| seen.1).collect();
    // The first one was never handled.
    assert_eq!(replays, [false, false, false]);
}

async fn database_errors_are_retried_and_never_counted<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["bad", "worse"]).await;
    let tries = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&tries);
    let tried = Tried::<DB>::new(&db, move |_, _, event| {
        let is_away = match event.aggregate_id.as_str() {
            "bad" => true,
            _ => counted.fetch_add(1, Ordering::Relaxed) == 0,
        };
        if is_away {
            Todo::Fail(sqlx::Error::PoolTimedOut.into())
        } else {
            Todo::Handle
        }
    });
    tried.park().await;
    let retried = retry(&tried).await;
    assert_eq!((retried.handled, tries.load(Ordering::Relaxed)), (1, 2));
    assert!(
        matches!(
            retried.failed[..],
            [AdminError::Interrupted { position: 1, .. }]
        ),
        "{:?}",
        retried.failed
    );
    assert_eq!((parked(&db).await, attempts(&db).await), (vec![1], vec![1]));
}

/// An error that cannot be shown.
#[derive(Debug)]
struct Unspeakable;

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("no words")
    }
}

impl std::error::Error for Unspeakable {}

async fn an_error_that_cannot_be_shown_fails_only_its_aggregate<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append("User", ["bad", "worse"]).await;
    let tried = Tried::<DB>::new(&db, |_, _, event| match event.aggregate_id.as_str() {
        "bad" => Todo::Fail(Unspeakable.into()),
        _ => Todo::Handle,
    });
    tried.park().await;
    let retried = retry(&tried).await;
    assert_eq!((retried.handled, retried.failed.len()), (1, 1));
    let cause = cause(&retried.failed[0]);
    assert!(cause.contains("`source` panicked: no words"), "{cause}");
    assert_eq!((parked(&db).await, attempts(&db).await), (vec![1], vec![2]));
}

async fn a_reset_that_panics_changes_nothing<DB: TestDatabase>(db: Database<DB>) {
    db.append("User", ["good"]).await;
    let tried = Tried::<DB>::new(&db, |_, _, _| Todo::Handle);
    tried.park().await;
    let admin = tried.builder().admin().unwrap();
    let failed = admin
        .rebuild("tried", RebuildOptions::new())
        .await
        .unwrap_err();
    assert!(matches!(&failed, AdminError::Reset { .. }), "{failed}");
    let cause = cause(&failed);
    assert!(cause.contains("panicked: cannot be emptied"), "{cause}");
    assert!(tried.effects.lock().unwrap().is_empty());
    let status = admin.status().await.unwrap();
    assert_eq!(status.consumer("tried").unwrap().position, Some(1));
}

async fn a_retry_counts_the_attempts_of_each_event_alone<DB: TestDatabase>(db: Database<DB>) {
    let positions = db.append("User", ["a", "a", "a"]).await;
    let is_failing = Arc::new(AtomicBool::new(true));
    let calls: Arc<Mutex<Vec<(i64, u32)>>> = Arc::default();
    let worker = || {
        let (is_failing, calls) = (Arc::clone(&is_failing), Arc::clone(&calls));
        let counting = consumer("counting", move |cx, _, event| {
            let call = (event.global_position, cx.attempt());
            calls.lock().unwrap().push(call);
            let fails = is_failing.load(Ordering::Relaxed);
            Box::pin(async move { if fails { Err("no".into()) } else { Ok(()) } })
        });
        let settings = impatient().retries(1).on_error(OnError::Park);
        db.worker().consumer(counting.settings(settings))
    };
    run_once(worker()).await;
    is_failing.store(false, Ordering::Relaxed);
    calls.lock().unwrap().clear();
    let admin = worker().admin().unwrap();
    admin.retry_parked("counting", None).await.unwrap();
    // The first has failed twice, and the others have waited behind it.
    let attempts = [3, 1, 1];
    let expected: Vec<(i64, u32)> = positions.into_iter().zip(attempts).collect();
    assert_eq!(*calls.lock().unwrap(), expected);
}

async fn r5_a_consumer_without_tx_handles_its_parked_events_in_order<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append("User", ["bad", "worse", "bad"]).await;
    let then = on("worse", || Todo::Fail("never".into()));
    let tried = Tried::<DB>::new(&db, move |_, _, event| then(event)).without_tx();
    tried.park().await;
    let retried = retry(&tried).await;
    assert_eq!((retried.handled, retried.failed.len()), (2, 1));
    let order: Vec<i64> = tried.seen().iter().map(|seen| seen.0).collect();
    assert_eq!(order, [1, 3, 2]);
    assert_eq!(*tried.effects.lock().unwrap(), [1, 3]);
    assert_eq!((parked(&db).await, attempts(&db).await), (vec![2], vec![2]));
}

/// The worker waits for the lock of the checkpoint on Postgres, and for the mark on SQLite.
async fn r5_an_event_appended_during_a_retry_is_not_left_parked<DB: TestDatabase>(
    db: Database<DB>,
) {
    db.append("User", ["bad"]).await;
    let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, awaited) = (Arc::clone(&entered), Arc::clone(&go_on));
    let tried = Tried::<DB>::new(&db, move |_, _, event| match event.global_position {
        1 => Todo::Wait(Arc::clone(&told), Arc::clone(&awaited)),
        _ => Todo::Handle,
    })
    .without_tx();
    tried.park().await;
    let running = consumer_tests::Running::start(tried.builder());
    let retrying = tokio::spawn({
        let tried = tried.clone();
        async move { retry(&tried).await.handled }
    });
    entered.notified().await;
    db.append("User", ["bad"]).await;
    go_on.notify_one();
    retrying.await.unwrap();
    running.caught_up().await.unwrap();
    assert_eq!(parked(&db).await, [0_i64; 0]);
    let order: Vec<i64> = tried.seen().iter().map(|seen| seen.0).collect();
    assert_eq!(order.len(), 2);
    assert!(order[0] < order[1]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ignored_error_counts_as_a_failure_on_postgres() {
    let db = Database::<sqlx::Postgres>::fresh().await;
    db.append("User", ["bad"]).await;
    let tried = Tried::new(&db, |_, _, _| Todo::Swallow);
    tried.park().await;
    let retried = retry(&tried).await;
    let [error @ AdminError::Retry { .. }] = &retried.failed[..] else {
        panic!("{:?}", retried.failed);
    };
    assert!(cause(error).contains("was not returned"), "{error}");
    assert_eq!(attempts(&db).await, [2]);
}

/// An operator may suspend the command: it must not hold the rows forever.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_is_idle_for_a_minute_releases_the_rows() {
    let db = Database::<sqlx::Postgres>::fresh().await;
    db.append("User", ["bad"]).await;
    let timeout = Arc::new(Mutex::new(None::<String>));
    let consumer = || {
        let timeout = Arc::clone(&timeout);
        let settings = Settings::default().retries(0).on_error(OnError::Park);
        consumer_tests::consumer("c", move |_, tx: &mut sqlx::PgConnection, _| {
            let timeout = Arc::clone(&timeout);
            Box::pin(async move {
                let sql = "SELECT current_setting('idle_in_transaction_session_timeout')";
                let now: String = sqlx::query_scalar(sql).fetch_one(tx).await?;
                let before = timeout.lock().unwrap().replace(now);
                before.map(|_| ()).ok_or_else(|| "not yet".into())
            })
        })
        .settings(settings)
    };
    let builder = || Worker::builder(db.store.clone()).consumer(consumer());
    builder().build().unwrap().run_once().await.unwrap();
    let retried = builder().admin().unwrap().retry_parked("c", None).await;
    assert_eq!(retried.unwrap().handled, 1);
    assert_eq!(timeout.lock().unwrap().as_deref(), Some("1min"));
}

/// After a refused COMMIT there is no transaction any more, and each statement would be committed by itself.
async fn r4_a_retry_that_ends_its_transaction_keeps_the_events<DB: TestDatabase>(db: Database<DB>) {
    for statement in ["COMMIT", "ROLLBACK"] {
        let is_parked = Arc::new(AtomicBool::new(false));
        let builder = || {
            let is_parked = Arc::clone(&is_parked);
            let rogue = consumer(statement, move |_, tx: &mut DB::Connection, _| {
                let is_parked = is_parked.load(Ordering::SeqCst);
                Box::pin(async move {
                    if !is_parked {
                        return Err("not yet".into());
                    }
                    let _ = DB::execute_sql(tx, statement).await;
                    Ok(())
                })
            });
            let parks = impatient().retries(0).on_error(OnError::Park);
            db.worker().consumer(rogue.settings(parks))
        };
        let position = db.append_one("User", "ada").await;
        run_once(builder()).await;
        is_parked.store(true, Ordering::SeqCst);
        let before = db.parked(statement).await;
        assert!(before.contains(&position), "{before:?}");
        let admin = builder().admin().unwrap();
        let retried = admin.retry_parked(statement, None).await.unwrap();
        assert_eq!(retried.handled, 0, "{statement}");
        assert!(!retried.failed.is_empty(), "{statement}");
        assert_eq!(db.parked(statement).await, before, "{statement}");
    }
}
