//! Parked events that are tried again: everything that a worker guarantees holds for them too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use consumer::admin::{AdminError, RebuildOptions, Retried};
use consumer::{
    Consumer, Context, EventStore, ExpectedVersion, HandlerError, NewEvent, OnError,
    PersistedEvent, Settings, Worker, WorkerBuilder,
};
use consumer_tests::{Database, TestBackend, on_both_databases};
use sqlx::Database as _;
use tokio::sync::Notify;

type Fault<DB> = Arc<dyn Fn(&Context, &EventStore<DB>, &PersistedEvent) -> Todo + Send + Sync>;

/// What the handler does with an event.
enum Todo {
    Handle,
    Fail(HandlerError),
    Panic,
    Hang,
    /// Appends another event.
    Append,
    /// Ignores a statement that fails.
    Swallow,
    /// Waits until the test has done something.
    Wait(Arc<Notify>, Arc<Notify>),
}

/// Fails on the events of `bad` and `worse` at first, and does what the test wants then.
struct Tried<DB: TestBackend> {
    store: EventStore<DB>,
    uses_transaction: bool,
    settings: Settings,
    mended: Arc<AtomicBool>,
    then: Fault<DB>,
    seen: Arc<Mutex<Vec<(i64, bool, u32)>>>,
    effects: Arc<Mutex<Vec<i64>>>,
}

impl<DB: TestBackend> Clone for Tried<DB> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            uses_transaction: self.uses_transaction,
            settings: self.settings.clone(),
            mended: Arc::clone(&self.mended),
            then: Arc::clone(&self.then),
            seen: Arc::clone(&self.seen),
            effects: Arc::clone(&self.effects),
        }
    }
}

impl<DB: TestBackend> Tried<DB> {
    fn new(
        db: &Database<DB>,
        then: impl Fn(&Context, &EventStore<DB>, &PersistedEvent) -> Todo + Send + Sync + 'static,
    ) -> Self {
        Self {
            store: db.store.clone(),
            uses_transaction: true,
            settings: Settings::default().retries(0).on_error(OnError::Park),
            mended: Arc::default(),
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

    /// Runs a worker, which parks what fails, and mends it.
    async fn park(&self) {
        let worker = self.builder().build().unwrap();
        let report = worker.run_once().await.unwrap();
        assert!(!report.has_failures(), "{report}");
        self.seen.lock().unwrap().clear();
        self.effects.lock().unwrap().clear();
        self.mended.store(true, Ordering::Relaxed);
    }

    fn seen(&self) -> Vec<(i64, bool, u32)> {
        self.seen.lock().unwrap().clone()
    }
}

impl<DB: TestBackend> Consumer<DB> for Tried<DB> {
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
        assert!(!self.mended.load(Ordering::Relaxed), "cannot be emptied");
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
        if !self.mended.load(Ordering::Relaxed) && is_bad {
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
                let _ = DB::execute(tx, "SELECT * FROM there_is_no_such_table").await;
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

async fn append<DB: TestBackend>(db: &Database<DB>, ids: &[&str]) {
    for id in ids {
        let event = NewEvent::new("User", *id, "Happened", "{}");
        db.store
            .append(ExpectedVersion::Any, &[event])
            .await
            .unwrap();
    }
}

async fn prepared<DB: TestBackend>(db: &Database<DB>, ids: &[&str]) {
    let mut connection = db.pool.acquire().await.unwrap();
    DB::execute(&mut connection, DB::CREATE_APPLIED)
        .await
        .unwrap();
    append(db, ids).await;
}

async fn retry<DB: TestBackend>(tried: &Tried<DB>) -> Retried {
    let admin = tried.builder().admin().unwrap();
    admin.retry_parked("tried", None).await.unwrap()
}

async fn parked<DB: TestBackend>(db: &Database<DB>) -> Vec<i64> {
    db.numbers("SELECT position FROM consumer_parked ORDER BY position")
        .await
}

async fn attempts<DB: TestBackend>(db: &Database<DB>) -> Vec<i64> {
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

on_both_databases! {
    async fn a_panic_is_a_failure_of_one_aggregate(db) {
        prepared(&db, &["bad", "worse"]).await;
        let then = on("bad", || Todo::Panic);
        let tried = Tried::<Db>::new(&db, move |_, _, event| then(event));
        tried.park().await;
        let retried = retry(&tried).await;
        assert_eq!((retried.handled, retried.failed.len()), (1, 1));
        assert_eq!(retried.failed[0].to_string(), "event 1 failed again; its aggregate stays parked");
        assert_eq!(cause(&retried.failed[0]), "the handler panicked: a mine");
        assert_eq!((parked(&db).await, attempts(&db).await), (vec![1], vec![2]));
    }

    async fn a_handler_that_hangs_is_ended_by_its_timeout_and_leaves_nothing_locked(db) {
        prepared(&db, &["bad", "worse"]).await;
        let then = on("bad", || Todo::Hang);
        let mut tried = Tried::<Db>::new(&db, move |_, _, event| then(event));
        tried.settings = tried.settings.clone().handler_timeout(Duration::from_millis(200));
        tried.park().await;
        let retried = retry(&tried).await;
        assert_eq!((retried.handled, retried.failed.len()), (1, 1));
        let cause = cause(&retried.failed[0]);
        assert!(cause.contains("`handler_timeout`"), "{cause}");
        assert_eq!((parked(&db).await, attempts(&db).await), (vec![1], vec![2]));
        assert_eq!(db.numbers("SELECT position FROM applied").await, [2]);
    }

    async fn effects_run_after_the_commit_and_not_after_a_failure(db) {
        prepared(&db, &["bad", "worse", "bad"]).await;
        let tried = Tried::<Db>::new(&db, |_, _, event| match event.global_position {
            3 => Todo::Fail("not this one".into()),
            _ => Todo::Handle,
        });
        tried.park().await;
        let retried = retry(&tried).await;
        assert_eq!((retried.handled, retried.failed.len()), (1, 1));
        assert_eq!(*tried.effects.lock().unwrap(), [2]);
        assert_eq!(tried.seen(), [(1, false, 2), (3, false, 2), (2, false, 2)]);
    }

    async fn what_a_retry_appends_names_its_cause(db) {
        prepared(&db, &["bad"]).await;
        let tried = Tried::<Db>::new(&db, |_, _, event| {
            if event.aggregate_id == "bad" { Todo::Append } else { Todo::Handle }
        });
        tried.park().await;
        assert_eq!(retry(&tried).await.handled, 1);
        let cause = "SELECT CAST(event_id AS TEXT) FROM events WHERE aggregate_type = 'User'
                     UNION ALL SELECT causation_id FROM events WHERE aggregate_type = 'Mail'";
        let ids = db.texts(cause).await;
        assert_eq!((ids.len(), &ids[0]), (2, &ids[1]));
    }

    async fn an_event_of_before_a_rebuild_is_a_replay_and_one_of_after_it_is_not(db) {
        prepared(&db, &["bad"]).await;
        let tried = Tried::<Db>::new(&db, |_, _, _| Todo::Handle);
        tried.park().await;
        tried.mended.store(false, Ordering::Relaxed);
        let admin = tried.builder().admin().unwrap();
        admin.rebuild("tried", RebuildOptions::new().discard_parked()).await.unwrap();
        assert_eq!(*tried.effects.lock().unwrap(), [0], "what the reset wanted to happen");
        append(&db, &["bad", "worse"]).await;
        tried.park().await;
        assert_eq!(retry(&tried).await.handled, 3);
        let replays: Vec<bool> = tried.seen().iter().map(|seen| seen.1).collect();
        assert_eq!(replays, [true, false, false]);
    }

    async fn trouble_with_the_database_is_tried_again_and_never_counts(db) {
        prepared(&db, &["bad", "worse"]).await;
        let tries = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&tries);
        let tried = Tried::<Db>::new(&db, move |_, _, event| {
            let is_away = match event.aggregate_id.as_str() {
                "bad" => true,
                _ => counted.fetch_add(1, Ordering::Relaxed) == 0,
            };
            if is_away { Todo::Fail(sqlx::Error::PoolTimedOut.into()) } else { Todo::Handle }
        });
        tried.park().await;
        let retried = retry(&tried).await;
        assert_eq!((retried.handled, tries.load(Ordering::Relaxed)), (1, 2));
        assert!(matches!(retried.failed[..], [AdminError::Interrupted { position: 1, .. }]), "{:?}", retried.failed);
        assert_eq!((parked(&db).await, attempts(&db).await), (vec![1], vec![1]));
    }

    async fn a_reset_that_panics_changes_nothing(db) {
        prepared(&db, &["good"]).await;
        let tried = Tried::<Db>::new(&db, |_, _, _| Todo::Handle);
        tried.park().await;
        let admin = tried.builder().admin().unwrap();
        let failed = admin.rebuild("tried", RebuildOptions::new()).await.unwrap_err();
        assert!(matches!(&failed, AdminError::Reset { .. }), "{failed}");
        let cause = cause(&failed);
        assert!(cause.contains("panicked: cannot be emptied"), "{cause}");
        assert!(tried.effects.lock().unwrap().is_empty());
        let status = admin.status().await.unwrap();
        assert_eq!(status.consumer("tried").unwrap().position, Some(1));
    }

    async fn r5_a_consumer_without_tx_handles_its_parked_events_in_order(db) {
        prepared(&db, &["bad", "worse", "bad"]).await;
        let then = on("worse", || Todo::Fail("never".into()));
        let tried = Tried::<Db>::new(&db, move |_, _, event| then(event)).without_tx();
        tried.park().await;
        let retried = retry(&tried).await;
        assert_eq!((retried.handled, retried.failed.len()), (2, 1));
        let order: Vec<i64> = tried.seen().iter().map(|seen| seen.0).collect();
        assert_eq!(order, [1, 3, 2]);
        assert_eq!(*tried.effects.lock().unwrap(), [1, 3]);
        assert_eq!((parked(&db).await, attempts(&db).await), (vec![2], vec![2]));
    }

    /// On Postgres the checkpoint is locked meanwhile, so that the worker waits; on SQLite it is
    /// not, and what is parked behind is handled at the end.
    async fn r5_an_event_that_comes_while_a_consumer_without_tx_is_at_work_is_not_left_behind(db) {
        prepared(&db, &["bad"]).await;
        let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (told, awaited) = (Arc::clone(&entered), Arc::clone(&go_on));
        let tried = Tried::<Db>::new(&db, move |_, _, event| match event.global_position {
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
        append(&db, &["bad"]).await;
        let began = Instant::now();
        while Db::NAME == "SQLite" && parked(&db).await.len() < 2 {
            assert!(began.elapsed() < Duration::from_secs(30), "a worker parks it behind the other");
        }
        go_on.notify_one();
        retrying.await.unwrap();
        running.caught_up().await.unwrap();
        assert_eq!(parked(&db).await, [0_i64; 0]);
        let order: Vec<i64> = tried.seen().iter().map(|seen| seen.0).collect();
        assert_eq!(order.len(), 2);
        assert!(order[0] < order[1]);
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_the_handler_ignored_counts_as_a_failure_on_postgres() {
    let db = Database::<sqlx::Postgres>::fresh().await;
    prepared(&db, &["bad"]).await;
    let tried = Tried::new(&db, |_, _, _| Todo::Swallow);
    tried.park().await;
    let retried = retry(&tried).await;
    assert!(
        matches!(&retried.failed[..], [AdminError::Retry { source, .. }] if source.to_string().contains("was not returned")),
        "{:?}",
        retried.failed
    );
    assert_eq!(attempts(&db).await, [2]);
}

/// An operator may stop his shell's job and go home: the rows are not his for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_says_nothing_for_a_minute_gives_the_rows_back() {
    let db = Database::<sqlx::Postgres>::fresh().await;
    append(&db, &["bad"]).await;
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
