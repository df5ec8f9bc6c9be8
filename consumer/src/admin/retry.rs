//! Retrying parked events: one aggregate at a time, in order, under the lock of the rows.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::Transaction;

use super::borrowed::Borrowed;
use super::error::{AdminError, Cause};
use super::locks::{Effects, Failed, LOCK_WAIT, Work, held, must_be_same};
use super::operator::{Admin, Tables};
use super::options::Target;
use super::parked::{is_same_aggregate, not_parked};
use crate::backend::{
    Backend, ConsumerId, Ledger, MarkHolder, ParkedRow, SLICES, StoreError, Taken, UnknownEvent,
    aggregate_slice, must_wait,
};
use crate::contract::{BatchError, Context, PersistedEvent, chain};
use crate::registry::Registered;
use crate::worker::lane::failure::{ErrorKind, SWALLOWED, is_aborted_transaction, refused_commit};
use crate::worker::lane::handler::{Limits, supervise};
use crate::worker::lane::keep_alive::keep_alive;
use crate::worker::lane::mark::HeldMark;
use crate::worker::process::unique_name;
use crate::worker::timeouts::after;

/// How long a claim may be silent while a consumer without `tx` works.
const CLAIM_TIMEOUT: Duration = Duration::from_mins(1);

/// How often an aggregate is tried while the database fails.
const TRIES: u32 = 3;

/// The result of [`Admin::retry_parked`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Retried {
    /// How many events were handled and are no longer parked.
    pub handled: u64,
    /// One error for each aggregate that stays parked.
    pub failed: Vec<AdminError>,
}

impl<DB: Backend> Admin<DB> {
    /// Handles parked events now: those of one event's aggregate, or all.
    ///
    /// The events of an aggregate are handled in order and removed in one transaction, under the
    /// lock of the checkpoint, and [effects](Context::after_commit) run after the commit. If one of
    /// them fails again, or cannot be decoded, only the new error is saved for its aggregate, and the next
    /// aggregate follows. A failing database is tried again and never counts as an attempt. An event that
    /// the code does not know ends the retry of its aggregate, too.
    ///
    /// ```
    /// # consumer::__doc::registered(async |store| { use consumer::__doc::Invoices;
    /// use consumer::Worker;
    ///
    /// let admin = Worker::builder(store.clone()).consumer(Invoices::default()).admin()?;
    /// Worker::builder(store).consumer(Invoices::default()).build()?.run_once().await?;
    /// admin.park("invoices", 1).await?;
    /// let retried = admin.retry_parked("invoices", Some(1)).await?;
    /// assert_eq!((retried.handled, retried.failed.len()), (0, 1));
    /// assert_eq!(
    ///     retried.failed[0].to_string(),
    ///     "event 1 failed again; its aggregate stays parked",
    /// );
    ///
    /// // It will never succeed:
    /// let behind = admin.skip_parked("invoices", 1).await?;
    /// assert_eq!(behind, 0);
    /// assert!(admin.parked("invoices").await?.is_empty());
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// If the consumer's code is not in this program, a worker's batch takes longer than 30 s, or
    /// the event is not parked. Events that fail again are in the result.
    pub async fn retry_parked(
        &self,
        consumer: impl Into<Target>,
        position: Option<i64>,
    ) -> Result<Retried, AdminError> {
        let consumer = self.find(consumer.into()).await?;
        let code = self.code_of(&consumer)?;
        let mut tx = self.read().await?;
        let rows = DB::parked(&self.tables().await?.sql, &mut tx, &consumer).await?;
        drop(tx);
        let mut retried = Retried::default();
        for aggregate in aggregates(&rows, &consumer, position)? {
            let retry = Retry {
                admin: self,
                consumer: &consumer,
                code,
                aggregate,
                tables: self.tables().await?,
                name: unique_name(),
                unknown: Mutex::default(),
                is_one_by_one: AtomicBool::new(false),
                handled: AtomicU64::new(0),
            };
            let ended = retry.run().await;
            retried.handled += retry.handled.load(Ordering::Relaxed);
            match ended {
                Ok(()) => {
                    let unknown = retry.unknown.into_inner();
                    let unknown = unknown.map(|event| AdminError::UnknownEvent { event });
                    retried.failed.extend(unknown);
                }
                Err(error) => retried
                    .failed
                    .push(self.keep_parked(&consumer, error).await?),
            }
        }
        Ok(retried)
    }

    /// Records why an aggregate stays parked; other errors end the command.
    async fn keep_parked(
        &self,
        consumer: &ConsumerId,
        error: AdminError,
    ) -> Result<AdminError, AdminError> {
        match error {
            AdminError::Retry { position, source } => {
                let text = chain(source.as_ref()).to_string();
                let mut tx = self.locked(consumer, LOCK_WAIT).await?;
                DB::blame(
                    &self.tables().await?.sql,
                    &mut tx,
                    consumer,
                    position,
                    &text,
                )
                .await?;
                tx.commit().await?;
                Ok(AdminError::Retry { position, source })
            }
            AdminError::NotInLog { .. }
            | AdminError::Interrupted { .. }
            | AdminError::EndedTransaction { .. } => Ok(error),
            error => Err(error),
        }
    }
}

/// The retry of one aggregate's parked events.
struct Retry<'a, DB: Backend> {
    admin: &'a Admin<DB>,
    consumer: &'a ConsumerId,
    code: &'a Registered<DB>,
    /// An event of the aggregate.
    aggregate: &'a ParkedRow,
    tables: Arc<Tables<DB>>,
    /// Tells it apart from other retries.
    name: String,
    /// The first of its events that the code does not know, which stays parked with those behind it.
    unknown: Mutex<Option<UnknownEvent>>,
    /// Whether each event is committed alone, since the database refused to commit all of them.
    is_one_by_one: AtomicBool,
    /// How many events were handled and removed.
    handled: AtomicU64,
}

/// The events that were handled in one transaction.
struct Done {
    /// The position of the first event.
    first: Option<i64>,
    /// How many events are no longer parked.
    unparked: u64,
}

/// The parked events of an aggregate.
struct Waiting {
    events: Vec<PersistedEvent>,
    /// How often each of them has failed.
    attempts: Vec<u32>,
    /// The events that any version of the consumer has handled.
    ledger: Ledger,
    /// Whether each row of its read model belongs to one aggregate.
    is_divided: bool,
    /// The schema of its read model.
    table_schema: Option<Arc<str>>,
}

impl Waiting {
    /// How often the event at an index has failed, and how many events from there on can be handed over
    /// together: those that wait behind others. One that has failed is tried alone, as by a worker.
    fn same_attempt(&self, index: usize) -> (u32, usize) {
        let rest = self.attempts.get(index..).unwrap_or_default();
        match rest.first() {
            Some(&failed) if failed > 0 => (failed, 1),
            _ => (0, rest.iter().take_while(|failed| **failed == 0).count()),
        }
    }

    /// Converts an error of our own statements after the handler: if an earlier statement failed,
    /// the handler did not return that error.
    fn after_handler<DB: Backend>(&self, error: AdminError) -> AdminError {
        match &error {
            AdminError::Store(StoreError::Database(database))
                if is_aborted_transaction::<DB>(database) =>
            {
                let first = self.events.first();
                AdminError::Retry {
                    position: first.map_or(0, |event| event.global_position),
                    source: SWALLOWED.into(),
                }
            }
            _ => error,
        }
    }
}

impl<DB: Backend> Retry<'_, DB> {
    /// Tries a few times if the database fails.
    async fn run(&self) -> Result<(), AdminError> {
        let mut tries = 1;
        loop {
            match self.once().await {
                Err(AdminError::Interrupted { .. }) if tries < TRIES => {
                    tokio::time::sleep(Duration::from_millis(100) * tries).await;
                    tries += 1;
                }
                done => return done,
            }
        }
    }

    async fn once(&self) -> Result<(), AdminError> {
        if !self.code.consumer.uses_transaction() && !DB::HOLDS_CLAIMS {
            return self.outside().await;
        }
        loop {
            let was_one_by_one = self.is_one_by_one();
            let done = self.admin.under_lock(self.consumer, LOCK_WAIT, self).await;
            match done {
                Ok(Done { first, unparked }) => {
                    self.handled.fetch_add(unparked, Ordering::Relaxed);
                    if !was_one_by_one || first.is_none() {
                        return Ok(());
                    }
                }
                // One of several events is to blame, and only alone it shows which.
                Err(_) if self.is_one_by_one() != was_one_by_one => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn is_one_by_one(&self) -> bool {
        self.is_one_by_one.load(Ordering::Relaxed)
    }

    /// For a consumer that manages its own connections, where a long transaction would keep every
    /// other writer out: a mark takes the place of the lock (R5).
    async fn outside(&self) -> Result<(), AdminError> {
        let admin = self.admin;
        let waiting = admin.repeatedly(LOCK_WAIT, || self.try_mark()).await?;
        let handled = self.mark().during(self.handle_marked(&waiting)).await;
        match handled {
            Ok(unparked) => {
                self.handled.fetch_add(unparked, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                self.release().await?;
                Err(error)
            }
        }
    }

    /// The parked events, which no one else handles until the mark is released.
    async fn try_mark(&self) -> Result<Waiting, AdminError> {
        let mut tx = self.admin.write(self.consumer).await?;
        let (statements, slices) = (&self.tables.checkpoints, self.mark_holder().slices);
        if must_wait::<DB>(statements, &mut tx, self.consumer, slices).await? {
            tx.commit().await?;
            return Err(held(self.consumer));
        }
        let waiting = self.waiting(&mut tx).await?;
        let before = self.aggregate.position - 1;
        if !self.mark().take(&mut tx, before).await? {
            return Err(held(self.consumer));
        }
        tx.commit().await?;
        Ok(waiting)
    }

    /// Hands the events to the consumer and unparks them.
    async fn handle_marked(&self, waiting: &Waiting) -> Result<u64, AdminError> {
        let mut effects = Effects::default();
        let mut spare = Borrowed::from(self.admin.store.pool()).await?;
        let handled = self.handle(&mut spare, None, waiting, &mut effects).await;
        handled.map_err(|failed| self.failure(failed))?;
        // Its session may not be what it was, so it does not go back to the pool.
        drop(spare);
        let unparked = self
            .admin
            .repeatedly(LOCK_WAIT, || self.try_unpark(&waiting.events))
            .await?;
        effects.run().await;
        Ok(unparked)
    }

    async fn try_unpark(&self, events: &[PersistedEvent]) -> Result<u64, AdminError> {
        let mut tx = self.admin.write(self.consumer).await?;
        let unparked = self.unpark(&mut tx, events).await?;
        self.mark().release(&mut tx).await?;
        tx.commit().await?;
        Ok(unparked)
    }

    async fn release(&self) -> Result<(), AdminError> {
        let mut tx = self.admin.write(self.consumer).await?;
        self.mark().release(&mut tx).await?;
        Ok(tx.commit().await?)
    }

    /// The mark of the consumer, as this retry holds it.
    fn mark(&self) -> HeldMark<'_, DB> {
        HeldMark {
            pool: self.admin.store.pool(),
            statements: &self.tables.checkpoints,
            holder: self.mark_holder(),
            timeout: CLAIM_TIMEOUT,
        }
    }

    fn mark_holder(&self) -> MarkHolder {
        let slice = i32::from(aggregate_slice(&self.aggregate.aggregate_id));
        MarkHolder {
            consumer: self.consumer.clone(),
            id: format!("retry of {}", self.name),
            slices: slice..slice + 1,
            is_replay: false,
        }
    }

    fn failure(&self, failed: Failed) -> AdminError {
        match failed {
            Failed::InOrder(error) | Failed::GivenUp(error) => error,
            Failed::Ended => AdminError::EndedTransaction {
                consumer: self.consumer.clone(),
            },
        }
    }

    async fn waiting(&self, connection: &mut DB::Connection) -> Result<Waiting, AdminError> {
        let mut rows = DB::parked(&self.tables.sql, connection, self.consumer).await?;
        rows.retain(|row| is_same_aggregate(row, self.aggregate));
        let first = rows.first().map_or(0, |row| row.position);
        let mut waiting = Waiting {
            events: Vec::new(),
            attempts: Vec::new(),
            ledger: self.ledger(connection, first - 1).await?,
            is_divided: self.is_divided(connection).await?,
            table_schema: self.table_schema(connection).await?,
        };
        for row in &rows {
            let position = row.position;
            let event = self.admin.event(connection, position).await?;
            let event = event.ok_or(AdminError::NotInLog { position })?;
            let event = event.map_err(|unreadable| {
                let source = Box::new(StoreError::from(unreadable));
                AdminError::Retry { position, source }
            })?;
            if !self.code.consumer.knows(event.format()) {
                *self.unknown.lock() = Some(UnknownEvent::of(&event));
                break;
            }
            let attempts = u32::try_from(row.attempts).unwrap_or(0);
            waiting.attempts.push(attempts);
            waiting.events.push(event);
            if self.is_one_by_one() {
                break;
            }
        }
        Ok(waiting)
    }

    /// Whether the consumer has several segments, which a smaller setting does not merge, or may have.
    async fn is_divided(&self, connection: &mut DB::Connection) -> Result<bool, AdminError> {
        if self.code.declaration.settings.segments > 1 {
            return Ok(true);
        }
        let rows = DB::snapshot(&self.tables.checkpoints, connection).await?;
        let keys = rows.iter().map(|row| &row.checkpoint.key);
        let segments = keys.filter(|key| key.consumer == *self.consumer);
        Ok(segments.count() > 1)
    }

    async fn table_schema(
        &self,
        connection: &mut DB::Connection,
    ) -> Result<Option<Arc<str>>, AdminError> {
        match self.code.consumer.read_model() {
            Some(table) => {
                let schema = self.admin.table_schema(connection, self.consumer, table);
                schema.await
            }
            None => Ok(None),
        }
    }

    /// The events that any version of the consumer has handled after a position. No other version
    /// handles a parked event meanwhile.
    async fn ledger(
        &self,
        connection: &mut DB::Connection,
        after: i64,
    ) -> Result<Ledger, AdminError> {
        let (statements, consumer) = (&self.tables.checkpoints, self.consumer);
        if !DB::lock_precedence(statements, connection, &self.mark_holder()).await? {
            return Err(held(consumer));
        }
        let ledger = DB::ledger(
            statements,
            connection,
            consumer,
            after,
            0..i32::from(SLICES),
        );
        Ok(ledger.await?)
    }

    async fn unpark(
        &self,
        connection: &mut DB::Connection,
        events: &[PersistedEvent],
    ) -> Result<u64, AdminError> {
        let mut handled = 0;
        for event in events {
            let position = event.global_position;
            let removed = DB::unpark(&self.tables.sql, connection, self.consumer, position);
            handled += u64::from(removed.await?);
        }
        Ok(handled)
    }

    /// Hands all events to the consumer, as many at a time as it takes from a worker. `taken` is the
    /// transaction of the connection, if it is the one that locked the rows.
    async fn handle(
        &self,
        connection: &mut DB::Connection,
        taken: Option<&Taken>,
        waiting: &Waiting,
        effects: &mut Effects,
    ) -> Result<(), Failed> {
        let log: Arc<str> = self.admin.store.schema().log_name().into();
        let mut done = 0;
        while let Some(rest) = waiting.events.get(done..)
            && let Some(last) = rest.last()
        {
            let (attempts, take) = waiting.same_attempt(done);
            let run = waiting.ledger.run(rest.get(..take).unwrap_or(rest));
            let batch = rest.get(..run.take).unwrap_or(rest).to_vec();
            let cx = Context::new(Arc::clone(&self.consumer.name))
                .with_log_name(Arc::clone(&log))
                .with_version(self.consumer.version)
                .with_attempt(attempts.saturating_add(1))
                .with_head(last.global_position)
                .with_segments(waiting.is_divided)
                .with_table_schema(waiting.table_schema.clone())
                .with_replay(run.is_replay);
            let cx = Arc::new(cx);
            done += self.handle_batch(connection, &cx, batch).await?;
            if let Some(taken) = taken {
                must_be_same::<DB>(connection, taken).await?;
            }
            effects.add(&cx);
        }
        Ok(())
    }

    async fn handle_batch(
        &self,
        connection: &mut DB::Connection,
        cx: &Arc<Context>,
        batch: Vec<PersistedEvent>,
    ) -> Result<usize, Failed> {
        let settings = &self.code.declaration.settings;
        let limits = Limits {
            deadline: after(settings.batch_time).into(),
            handler_timeout: settings.handler_timeout,
            batch_len: settings.batch_len(),
            stop: self.admin.stop.subscribe(),
        };
        let batch = Arc::new(batch);
        let consumer = &*self.code.consumer;
        match supervise(consumer, cx, connection, &batch, batch.len(), limits).await {
            Ok(0) => Err(self.blame(cx, &batch, nothing_handled())),
            Ok(handled) => Ok(handled),
            Err(error) => Err(self.blame(cx, &batch, error)),
        }
    }

    /// Decides whose fault an error is.
    fn blame(&self, cx: &Context, events: &[PersistedEvent], error: BatchError) -> Failed {
        let failed = events.get(error.handled).map(|event| event.global_position);
        let position = failed.or(cx.current_position()).unwrap_or_default();
        let (kind, source) = Cause::of::<DB>(error.error);
        match kind {
            ErrorKind::Handler | ErrorKind::Protocol => {
                Failed::InOrder(AdminError::Retry { position, source })
            }
            ErrorKind::TimedOut => Failed::GivenUp(AdminError::Retry { position, source }),
            ErrorKind::Transient
            | ErrorKind::ReadOnly
            | ErrorKind::StaleStatement
            | ErrorKind::SharedStatement
            | ErrorKind::ClaimTimeout
            | ErrorKind::TransactionTimeout => {
                Failed::InOrder(AdminError::Interrupted { position, source })
            }
            ErrorKind::EndedTransaction => Failed::InOrder(AdminError::EndedTransaction {
                consumer: self.consumer.clone(),
            }),
        }
    }
}

fn nothing_handled() -> BatchError {
    BatchError::at(
        0,
        "the consumer returned no error and handled none of its events",
    )
}

impl<DB: Backend> Work<DB> for &Retry<'_, DB> {
    type Output = Done;

    async fn run(
        &self,
        tx: &mut Transaction<'_, DB>,
        taken: &Taken,
        effects: &mut Effects,
    ) -> Result<Done, Failed> {
        // Read again: only now are the rows locked.
        let waiting = self.waiting(tx).await?;
        if self.code.consumer.uses_transaction() {
            self.handle(tx, Some(taken), &waiting, effects).await?;
        } else {
            let mut spare = Borrowed::from(self.admin.store.pool()).await?;
            let handling = self.handle(&mut spare, None, &waiting, effects);
            // Only the other connection is in an unknown state if the handler was abandoned.
            let result = keep_alive::<DB, _>(tx, CLAIM_TIMEOUT, handling).await?;
            result.map_err(|failed| Failed::InOrder(self.failure(failed)))?;
        }
        let unparked = self.unpark(tx, &waiting.events).await;
        let unparked = unparked.map_err(|error| waiting.after_handler::<DB>(error))?;
        let first = waiting.events.first().map(|event| event.global_position);
        Ok(Done { first, unparked })
    }

    fn refused(&self, done: &Done, error: sqlx::Error) -> AdminError {
        if done.unparked > 1 {
            self.is_one_by_one.store(true, Ordering::Relaxed);
        }
        AdminError::Retry {
            position: done.first.unwrap_or_default(),
            source: refused_commit(&error).into(),
        }
    }
}

/// The first parked event of each aggregate, or of the aggregate of a position.
fn aggregates<'a>(
    rows: &'a [ParkedRow],
    consumer: &ConsumerId,
    position: Option<i64>,
) -> Result<Vec<&'a ParkedRow>, AdminError> {
    if let Some(position) = position {
        let row = rows.iter().find(|row| row.position == position);
        return Ok(vec![row.ok_or_else(|| not_parked(consumer, position))?]);
    }
    let mut seen = HashSet::new();
    let mut first = rows.iter().collect::<Vec<_>>();
    first.retain(|row| seen.insert((&row.aggregate_type, &row.aggregate_id)));
    Ok(first)
}
