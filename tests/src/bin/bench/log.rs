//! The log that everything is measured on, and the ways to catch up with it.

use std::future::Future;

use consumer::{Worker, WorkerBuilder};
use consumer_tests::measuring::{in_turns, rate, timed};
use consumer_tests::{Database, TestDatabase};
use sqlx::Pool;

use crate::case::{Case, Target};
use crate::hand_made::{ByHand, Handler};
use crate::plan::Plan;

/// A database that workers are measured on, beside the loop that one would write by hand.
pub(crate) trait Measured: TestDatabase {
    /// Prepares a log that was filled for its readers.
    const ANALYZE: &'static str;

    /// Forgets what the consumers did.
    const RESET: &'static str;

    /// Empties the table whose name follows.
    const EMPTY: &'static str;

    /// Makes what earlier rounds wrote durable, so that no later round has to.
    const CHECKPOINT: &'static str;

    /// A new database with the store's tables.
    fn database() -> impl Future<Output = Database<Self>>;

    /// The statement that appends `events` events of 200 bytes, of `accounts` accounts.
    fn fill(events: usize, accounts: usize) -> String;

    /// The loop: begin, lock the checkpoint, read, handle, save, commit. It loses events of writers
    /// that commit out of order, and retries nothing.
    fn by_hand(pool: Pool<Self>, by_hand: ByHand) -> impl Future<Output = ()> + Send + 'static;
}

/// The number of accounts of most logs.
const ACCOUNTS: usize = 10_000;

/// The read model, and the checkpoint of the loop written by hand.
const TABLES: &str = "
CREATE TABLE balances (
    id TEXT PRIMARY KEY, deposits BIGINT NOT NULL, position BIGINT NOT NULL);
CREATE TABLE hand_made (name TEXT PRIMARY KEY, position BIGINT NOT NULL);
INSERT INTO hand_made VALUES ('loop', 0)";

/// A log in a database of its own.
pub(crate) struct Log<DB: Measured> {
    pub(crate) db: Database<DB>,
    pub(crate) events: usize,
}

impl<DB: Measured> Log<DB> {
    pub(crate) async fn new(events: usize) -> Self {
        Self::over(events, ACCOUNTS).await
    }

    pub(crate) async fn over(events: usize, accounts: usize) -> Self {
        let db = DB::database().await;
        db.execute(TABLES).await;
        db.execute(&DB::fill(events, accounts)).await;
        let bytes = "SELECT CAST(min(length(payload)) AS BIGINT) FROM events";
        let bytes = db.number(bytes).await;
        assert!((180..=220).contains(&bytes), "payloads of {bytes} bytes");
        db.execute(DB::ANALYZE).await;
        db.execute(DB::CHECKPOINT).await;
        Self { db, events }
    }

    /// Forgets what the consumers did.
    pub(crate) async fn reset(&self) {
        self.db.execute(DB::RESET).await;
        self.db.execute(DB::CHECKPOINT).await;
    }

    /// Fails unless every event has been counted once.
    pub(crate) async fn check(&self) {
        self.check_in("balances").await;
    }

    /// Fails unless every event has been counted once in that table.
    pub(crate) async fn check_in(&self, table: &str) {
        let counted = "SELECT CAST(coalesce(sum(deposits), 0) AS BIGINT) FROM";
        let counted = self.db.number(&format!("{counted} {table}")).await;
        assert_eq!(counted, self.events as i64, "events were lost or repeated");
    }

    /// Lets a worker catch up, and returns how many events it handled per second.
    pub(crate) async fn worker(
        &self,
        with: impl FnOnce(WorkerBuilder<DB>) -> WorkerBuilder<DB>,
    ) -> f64 {
        self.catch_up(with(Worker::builder(self.db.store.clone())))
            .await
    }

    /// The same, through a worker on other connections.
    pub(crate) async fn catch_up(&self, builder: WorkerBuilder<DB>) -> f64 {
        self.reset().await;
        let worker = builder.build().unwrap();
        let time = timed(async {
            let report = worker.run_once().await.unwrap();
            assert!(!report.has_failures(), "{report}");
        });
        rate(self.events, time.await)
    }

    /// Lets the loop written by hand catch up.
    pub(crate) async fn by_hand(&self, by_hand: ByHand) -> f64 {
        self.reset().await;
        let running = DB::by_hand(self.db.pool.clone(), by_hand);
        let time = if by_hand.in_a_task {
            timed(async { tokio::spawn(running).await.unwrap() }).await
        } else {
            timed(running).await
        };
        rate(self.events, time)
    }

    /// Measures a worker beside the loop.
    pub(crate) async fn beside(
        &self,
        plan: &Plan,
        (name, target): (&'static str, Target),
        with: impl Fn(WorkerBuilder<DB>) -> WorkerBuilder<DB>,
        by_hand: ByHand,
    ) -> Case {
        let checked = async |rate: f64| {
            if by_hand.handler != Handler::Nothing {
                self.check().await;
            }
            rate
        };
        let samples = in_turns(
            plan.rounds,
            async || checked(self.worker(&with).await).await,
            async || checked(self.by_hand(by_hand).await).await,
        );
        Case::compared(name, "events/s", samples.await, "by hand", target)
    }
}
