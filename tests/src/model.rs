//! A consumer with a read model on either database, whose behaviour a test can change.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use consumer::{
    Consumer, Context, Formerly, HandlerError, PersistedEvent, ScopedConsumer, Settings, Worker,
    WorkerBuilder,
};
use sqlx::Connection as _;
use tokio::sync::{Notify, Semaphore};

use crate::{Database, TestDatabase, next_release};

/// A call of a handler with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The event.
    pub position: i64,
    /// Whether it was a replay.
    pub is_replay: bool,
    /// The consumer's version.
    pub version: u32,
}

/// A consumer that writes each event's position into the table `applied`.
#[derive(Clone)]
pub struct Model {
    name: &'static str,
    scope: Vec<&'static str>,
    settings: Settings,
    formerly: Formerly,
    can_reset: bool,
    rogue: Option<&'static str>,
    gate: Option<Arc<Semaphore>>,
    /// Notified of each call, before the gate.
    pub entered: Arc<Notify>,
    /// Ids of the aggregates whose events it fails on.
    pub failing: Arc<Mutex<HashSet<String>>>,
    /// Its calls, including those that were rolled back.
    pub seen: Arc<Mutex<Vec<Seen>>>,
}

impl Model {
    /// A model of every event, which can be reset and whose failures are not retried.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            scope: Vec::new(),
            settings: Settings::default().retries(0),
            formerly: Formerly::None,
            can_reset: true,
            rogue: None,
            gate: None,
            entered: Arc::default(),
            failing: Arc::default(),
            seen: Arc::default(),
        }
    }

    /// Sets its scope.
    #[must_use]
    pub fn scope(mut self, scope: &[&'static str]) -> Self {
        self.scope = scope.to_vec();
        self
    }

    /// Sets its settings.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets its former name, which is known to be none otherwise.
    #[must_use]
    pub fn formerly(mut self, formerly: Formerly) -> Self {
        self.formerly = formerly;
        self
    }

    /// Removes its `reset`.
    #[must_use]
    pub fn without_reset(mut self) -> Self {
        self.can_reset = false;
        self
    }

    /// Makes its `reset` run a statement that ends the transaction.
    #[must_use]
    pub fn rogue_reset(mut self, statement: &'static str) -> Self {
        self.rogue = Some(statement);
        self
    }

    /// Makes each event wait for a permit.
    #[must_use]
    pub fn gate(mut self, gate: &Arc<Semaphore>) -> Self {
        self.gate = Some(Arc::clone(gate));
        self
    }

    /// Makes it fail on the events of an aggregate, or stop failing.
    pub fn fail_on(&self, aggregate: &str, fails: bool) {
        let mut failing = self.failing.lock().unwrap();
        if fails {
            failing.insert(aggregate.to_owned());
        } else {
            failing.remove(aggregate);
        }
    }

    /// Its calls so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// A worker of a release of its own that runs it on this database.
    pub fn worker<DB: TestDatabase>(&self, db: &Database<DB>) -> WorkerBuilder<DB> {
        Worker::builder(db.store.clone())
            .release(next_release())
            .scoped_consumer(self.clone())
    }

    async fn admit(&self, cx: &Context, event: &PersistedEvent) -> Result<(), HandlerError> {
        self.entered.notify_one();
        if let Some(gate) = &self.gate {
            gate.acquire().await?.forget();
        }
        self.seen.lock().unwrap().push(Seen {
            position: event.global_position,
            is_replay: cx.is_replay(),
            version: cx.version(),
        });
        if self.failing.lock().unwrap().contains(&event.aggregate_id) {
            return Err(format!("cannot handle {}", event.aggregate_id).into());
        }
        Ok(())
    }
}

impl<DB: TestDatabase> Consumer<DB> for Model {
    fn name(&self) -> &str {
        self.name
    }

    fn scope(&self) -> &[&str] {
        ScopedConsumer::<DB>::aggregate_types(self)
    }

    fn settings(&self) -> Settings {
        self.settings.clone()
    }

    fn formerly(&self) -> Formerly {
        self.formerly.clone()
    }

    fn can_reset(&self) -> bool {
        self.can_reset
    }

    async fn handle(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        self.admit(cx, event).await?;
        Ok(DB::apply(tx, self.name, event).await?)
    }

    async fn reset(&self, _cx: &Context, tx: &mut DB::Connection) -> Result<(), HandlerError> {
        let empty = format!("DELETE FROM applied WHERE consumer = '{}'", self.name);
        DB::execute_sql(tx, &empty).await?;
        if let Some(statement) = self.rogue {
            DB::execute_sql(tx, statement).await?;
            // A consumer that ended one transaction may begin another.
            let own = tx.begin().await?;
            own.commit().await?;
        }
        Ok(())
    }
}

impl<DB: TestDatabase> ScopedConsumer<DB> for Model {
    fn aggregate_types(&self) -> &[&str] {
        &self.scope
    }
}
