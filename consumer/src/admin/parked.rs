//! Events that a consumer has set aside: looking at them, trying them again, leaving them out.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::ser::Serializer;
use sqlx::Transaction;
use tokio::time::Instant;

use super::status::millis;
use super::{Admin, AdminError, Backend, Effects, Failed, PATIENCE, Target, Work, context};
use crate::backend::{ConsumerId, ParkedRow};
use crate::backend::{ReadRange, StoreError};
use crate::contract::{BatchError, Context, PersistedEvent};
use crate::registry::Registered;
use crate::worker::lane::attempt::{SWALLOWED, keep_alive};
use crate::worker::lane::handler::{Limits, supervise};
use crate::worker::lane::outcome::{self, ErrorKind};

/// An event that a consumer has set aside.
///
/// See [`Admin::parked`] for an example.
///
/// What needs somebody, among many:
///
/// ```
/// use std::time::Duration;
///
/// use consumer::admin::ParkedEvent;
///
/// /// Those that failed themselves and have been set aside for more than a day.
/// fn forgotten(parked: &[ParkedEvent]) -> Vec<String> {
///     let day = Duration::from_secs(24 * 60 * 60);
///     let forgotten = parked.iter().filter(|one| one.has_failed && one.parked_for > day);
///     forgotten
///         .map(|one| format!("{} {}: {} attempts", one.aggregate_type, one.aggregate_id, one.attempts))
///         .collect()
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ParkedEvent {
    /// Where the event stands in the log.
    pub position: i64,
    /// The kind of its aggregate.
    pub aggregate_type: String,
    /// Which aggregate.
    pub aggregate_id: String,
    /// Whether it failed itself; otherwise it waits behind an earlier one of its aggregate.
    pub has_failed: bool,
    /// How often it failed.
    pub attempts: u32,
    /// Why it failed last.
    pub error: Option<String>,
    /// How long it has been set aside.
    #[serde(serialize_with = "seconds", rename = "parked_seconds")]
    pub parked_for: Duration,
}

/// What became of parked events that were tried again.
///
/// See [`Admin::retry_parked`] for an example.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Retried {
    /// How many events were handled and are not parked any more.
    pub handled: u64,
    /// The aggregates that stay parked, each with why.
    pub failed: Vec<AdminError>,
}

/// How long a claim may be without a word while a consumer without `tx` works.
const CLAIM_TIMEOUT: Duration = Duration::from_mins(1);

impl<DB: Backend> Admin<DB> {
    /// The parked events of a consumer, in the order of the log.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::sync::atomic::{AtomicBool, Ordering};
    /// # use consumer::{Consumer, Context, HandlerError, OnError, PersistedEvent, Settings, sqlx};
    /// # static BROKEN: AtomicBool = AtomicBool::new(true);
    /// # struct Users;
    /// # impl Consumer<sqlx::Sqlite> for Users {
    /// #     fn name(&self) -> &str { "users" }
    /// #     fn settings(&self) -> Settings { Settings::default().retries(0).on_error(OnError::Park) }
    /// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> {
    /// #         if BROKEN.load(Ordering::Relaxed) { Err("no such tariff".into()) } else { Ok(()) }
    /// #     }
    /// # }
    /// use consumer::{ExpectedVersion, NewEvent, SqliteEventStore, Worker};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// # for id in ["ada", "bob"] {
    /// #     let event = [NewEvent::new("User", id, "UserRegistered", "{}")];
    /// #     store.append(ExpectedVersion::Any, &event).await?;
    /// # }
    /// # Worker::builder(store.clone()).consumer(Users).build()?.run_once().await?;
    /// let admin = Worker::builder(store).consumer(Users).admin()?;
    /// for parked in admin.parked("users").await? {
    ///     println!("{} {}: {:?}", parked.position, parked.aggregate_id, parked.error);
    /// }
    ///
    /// // One of them, with what is in it.
    /// let (parked, event) = admin.parked_event("users", 1).await?;
    /// assert!(parked.has_failed);
    /// assert_eq!(event.unwrap().payload, "{}");
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// When there is no such checkpoint.
    pub async fn parked(
        &self,
        consumer: impl Into<Target>,
    ) -> Result<Vec<ParkedEvent>, AdminError> {
        let of = self.find(consumer.into()).await?;
        let mut connection = self.look().await?;
        let rows = DB::parked(&self.sql, &mut connection, &of).await?;
        Ok(rows.into_iter().map(parked_event).collect())
    }

    /// One parked event, with the event itself where the log still has it.
    ///
    /// See [`parked`](Self::parked) for an example.
    ///
    /// # Errors
    /// When there is no such checkpoint, or it has not parked that event.
    pub async fn parked_event(
        &self,
        consumer: impl Into<Target>,
        position: i64,
    ) -> Result<(ParkedEvent, Option<PersistedEvent>), AdminError> {
        let of = self.find(consumer.into()).await?;
        let mut connection = self.look().await?;
        let rows = DB::parked(&self.sql, &mut connection, &of).await?;
        let parked = rows
            .into_iter()
            .find(|row| row.position == position)
            .map(parked_event)
            .ok_or_else(|| not_parked(&of, position))?;
        let event = self.event(&mut connection, position).await?;
        Ok((parked, event))
    }

    /// Handles parked events now: those of one event's aggregate, or all.
    ///
    /// The parked events of an aggregate go to the consumer in order and leave the table, in one
    /// transaction under the lock of the checkpoint, so that a worker cannot come in between; what the
    /// consumer wanted to happen [after the commit](Context::after_commit) happens. When one of them
    /// fails again, by an error, a panic or its `handler_timeout`, nothing of its aggregate is saved
    /// but the new error, and the next aggregate has its turn. Trouble with the database is tried
    /// again, and never counts against an event.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::sync::atomic::{AtomicBool, Ordering};
    /// # use consumer::{Consumer, Context, HandlerError, OnError, PersistedEvent, Settings, sqlx};
    /// # static BROKEN: AtomicBool = AtomicBool::new(true);
    /// # struct Users;
    /// # impl Consumer<sqlx::Sqlite> for Users {
    /// #     fn name(&self) -> &str { "users" }
    /// #     fn settings(&self) -> Settings { Settings::default().retries(0).on_error(OnError::Park) }
    /// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> {
    /// #         if BROKEN.load(Ordering::Relaxed) { Err("no such tariff".into()) } else { Ok(()) }
    /// #     }
    /// # }
    /// use consumer::{ExpectedVersion, NewEvent, SqliteEventStore, Worker};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// # for id in ["ada", "bob"] {
    /// #     let event = [NewEvent::new("User", id, "UserRegistered", "{}")];
    /// #     store.append(ExpectedVersion::Any, &event).await?;
    /// # }
    /// # Worker::builder(store.clone()).consumer(Users).build()?.run_once().await?;
    /// let admin = Worker::builder(store).consumer(Users).admin()?;
    /// let retried = admin.retry_parked("users", Some(1)).await?;
    /// for error in &retried.failed {
    ///     println!("{error}"); // event 1 failed again, so its aggregate stays parked: …
    /// }
    /// # assert_eq!((retried.handled, retried.failed.len()), (0, 1));
    ///
    /// # BROKEN.store(false, Ordering::Relaxed);
    /// // When what was missing is there, all of them:
    /// let retried = admin.retry_parked("users", None).await?;
    /// assert_eq!((retried.handled, retried.failed.len()), (2, 0));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// When the consumer's code is not in this program, a worker has it at hand for longer than
    /// 30 s, or the event is not parked. What failed again is in the result.
    pub async fn retry_parked(
        &self,
        consumer: impl Into<Target>,
        position: Option<i64>,
    ) -> Result<Retried, AdminError> {
        let of = self.find(consumer.into()).await?;
        let code = self.code_of(&of)?;
        let mut connection = self.look().await?;
        let rows = DB::parked(&self.sql, &mut connection, &of).await?;
        drop(connection);
        let aggregates = aggregates(&rows, position);
        if let (Some(position), true) = (position, aggregates.is_empty()) {
            return Err(not_parked(&of, position));
        }
        let mut retried = Retried::default();
        for aggregate in &aggregates {
            let again = Again {
                admin: self,
                of: &of,
                code,
                aggregate,
                replay_to: self.standing(&of).await?.1,
            };
            match again.until_it_is_over().await {
                Ok(handled) => retried.handled += handled,
                Err(AdminError::Retry { position, error }) => {
                    self.blame(&of, position, &error.to_string()).await?;
                    retried.failed.push(AdminError::Retry { position, error });
                }
                Err(
                    error @ (AdminError::NotInLog { .. }
                    | AdminError::Interrupted { .. }
                    | AdminError::EndedTransaction { .. }),
                ) => retried.failed.push(error),
                Err(error) => return Err(error),
            }
        }
        Ok(retried)
    }

    /// Leaves a parked event out for good. Those of its aggregate that wait behind it stay parked
    /// until they are retried; says how many.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::sync::atomic::{AtomicBool, Ordering};
    /// # use consumer::{Consumer, Context, HandlerError, OnError, PersistedEvent, Settings, sqlx};
    /// # static BROKEN: AtomicBool = AtomicBool::new(true);
    /// # struct Users;
    /// # impl Consumer<sqlx::Sqlite> for Users {
    /// #     fn name(&self) -> &str { "users" }
    /// #     fn settings(&self) -> Settings { Settings::default().retries(0).on_error(OnError::Park) }
    /// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> {
    /// #         if BROKEN.load(Ordering::Relaxed) { Err("no such tariff".into()) } else { Ok(()) }
    /// #     }
    /// # }
    /// use consumer::{ExpectedVersion, NewEvent, SqliteEventStore, Worker};
    ///
    /// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
    /// # store.migrate().await?;
    /// # for id in ["ada", "bob"] {
    /// #     let event = [NewEvent::new("User", id, "UserRegistered", "{}")];
    /// #     store.append(ExpectedVersion::Any, &event).await?;
    /// # }
    /// # Worker::builder(store.clone()).consumer(Users).build()?.run_once().await?;
    /// let admin = Worker::builder(store).consumer(Users).admin()?;
    /// let behind = admin.skip_parked("users", 1).await?;
    /// assert_eq!(behind, 0); // nothing of that aggregate waits behind it
    /// assert_eq!(admin.parked("users").await?.len(), 1);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "sqlite"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// When the event is not parked, or a worker has the consumer at hand for longer than 30 s.
    pub async fn skip_parked(
        &self,
        consumer: impl Into<Target>,
        position: i64,
    ) -> Result<u64, AdminError> {
        let of = self.find(consumer.into()).await?;
        let mut tx = self.locked(&of, PATIENCE).await?;
        let rows = DB::parked(&self.sql, &mut tx, &of).await?;
        let behind = aggregates(&rows, Some(position))
            .first()
            .and_then(|aggregate| aggregate.positions.len().checked_sub(1))
            .ok_or_else(|| not_parked(&of, position))?;
        DB::unpark(&self.sql, &mut tx, &of, position).await?;
        tx.commit().await?;
        tracing::warn!(
            consumer = &*of.name,
            position,
            "the parked event was skipped"
        );
        Ok(behind as u64)
    }

    async fn unpark(
        &self,
        tx: &mut DB::Connection,
        of: &ConsumerId,
        events: &[PersistedEvent],
    ) -> Result<u64, AdminError> {
        let mut handled = 0;
        for event in events {
            let removed = DB::unpark(&self.sql, tx, of, event.global_position).await?;
            handled += u64::from(removed);
        }
        Ok(handled)
    }

    async fn blame(&self, of: &ConsumerId, position: i64, error: &str) -> Result<(), AdminError> {
        let mut tx = self.locked(of, PATIENCE).await?;
        DB::blame(&self.sql, &mut tx, of, position, error).await?;
        Ok(tx.commit().await?)
    }

    async fn events(
        &self,
        connection: &mut DB::Connection,
        positions: &[i64],
    ) -> Result<Vec<PersistedEvent>, AdminError> {
        let mut events = Vec::with_capacity(positions.len());
        for &position in positions {
            let event = self.event(connection, position).await?;
            events.push(event.ok_or(AdminError::NotInLog { position })?);
        }
        Ok(events)
    }

    async fn event(
        &self,
        connection: &mut DB::Connection,
        position: i64,
    ) -> Result<Option<PersistedEvent>, AdminError> {
        let range = ReadRange {
            after: position - 1,
            up_to: position,
            limit: 1,
            max_bytes: u64::MAX,
            scope: None,
        };
        let events = self.store.read_range(connection, range).await?;
        Ok(events.into_iter().next())
    }
}

/// How often an aggregate is tried when the database cannot be used.
const TRIES: u32 = 3;

/// One aggregate's parked events, to be handled again.
struct Again<'a, DB: Backend> {
    admin: &'a Admin<DB>,
    of: &'a ConsumerId,
    code: &'a Registered<DB>,
    aggregate: &'a Aggregate,
    /// Up to where events are a replay.
    replay_to: i64,
}

/// The parked events of an aggregate, read under the lock or before it.
struct Waiting {
    events: Vec<PersistedEvent>,
    /// How often the first of them has failed.
    attempts: u32,
}

impl Waiting {
    /// What an error of our own statements after the handler means: one that says that an earlier
    /// statement failed is the handler's, which did not pass that error on.
    fn after_handler<DB: Backend>(&self, error: AdminError) -> AdminError {
        let AdminError::Store(StoreError::Database(database)) = &error else {
            return error;
        };
        if !outcome::is_aborted_transaction::<DB>(database) {
            return error;
        }
        let first = self.events.first();
        AdminError::Retry {
            position: first.map_or(0, |event| event.global_position),
            error: SWALLOWED.into(),
        }
    }
}

impl<DB: Backend> Again<'_, DB> {
    /// Tries again as long as it is the database that fails, but not for ever.
    async fn until_it_is_over(&self) -> Result<u64, AdminError> {
        let mut tries = 1;
        loop {
            match self.once().await {
                Err(AdminError::Interrupted { .. }) if tries < TRIES => {
                    tokio::time::sleep(Duration::from_millis(100) * tries).await;
                    tries += 1;
                }
                over => return over,
            }
        }
    }

    async fn once(&self) -> Result<u64, AdminError> {
        if !self.code.consumer.uses_transaction() && !DB::HOLDS_CLAIMS {
            return self.outside().await;
        }
        self.admin.under_lock(self.of, PATIENCE, self).await
    }

    /// For a consumer that manages its own connections, where a transaction held for long would
    /// keep every other writer out: the rows go once it is done (R5). A worker may park more events
    /// of the aggregate meanwhile, until there are none for them to wait for.
    async fn outside(&self) -> Result<u64, AdminError> {
        let mut handled = 0;
        loop {
            let mut effects = Effects::default();
            let mut spare = self.admin.store.pool().acquire().await?;
            let waiting = self.waiting(&mut spare).await?;
            if waiting.events.is_empty() {
                return Ok(handled);
            }
            match self.handle(&mut spare, &waiting, &mut effects).await {
                Ok(()) => {}
                Err(Failed::InOrder(error)) => return Err(error),
                Err(Failed::GivenUp(error)) => {
                    spare.close_on_drop();
                    return Err(error);
                }
            }
            drop(spare);
            let mut tx = self.admin.locked(self.of, PATIENCE).await?;
            handled += self.admin.unpark(&mut tx, self.of, &waiting.events).await?;
            tx.commit().await?;
            effects.run().await;
        }
    }

    async fn waiting(&self, connection: &mut DB::Connection) -> Result<Waiting, AdminError> {
        let rows = DB::parked(&self.admin.sql, connection, self.of).await?;
        let own: Vec<&ParkedRow> = rows.iter().filter(|row| self.aggregate.owns(row)).collect();
        let positions: Vec<i64> = own.iter().map(|row| row.position).collect();
        let attempts = own.first().map_or(0, |row| row.attempts);
        Ok(Waiting {
            events: self.admin.events(connection, &positions).await?,
            attempts: u32::try_from(attempts).unwrap_or(0),
        })
    }

    /// Hands all events to the consumer, however many it takes at a time, as a worker does.
    async fn handle(
        &self,
        connection: &mut DB::Connection,
        waiting: &Waiting,
        effects: &mut Effects,
    ) -> Result<(), Failed> {
        let settings = &self.code.declaration.settings;
        let mut rest = waiting.events.as_slice();
        let mut attempt = waiting.attempts.saturating_add(1);
        while let Some(last) = rest.last() {
            // A batch does not reach over the end of a replay.
            let replayed = rest.partition_point(|event| event.global_position <= self.replay_to);
            let take = if replayed > 0 { replayed } else { rest.len() };
            let cx = context(self.of)
                .with_attempt(attempt)
                .with_head(last.global_position)
                .with_replay(replayed > 0);
            let cx = Arc::new(cx);
            let batch = Arc::new(rest.iter().take(take).cloned().collect::<Vec<_>>());
            let limits = Limits {
                deadline: Instant::now() + settings.batch_time,
                handler_timeout: settings.handler_timeout,
                batch_len: settings.batch_len(),
                stop: self.admin.stop.subscribe(),
            };
            let consumer = &*self.code.consumer;
            let handled = supervise(consumer, &cx, connection, &batch, take, limits).await;
            match handled {
                Ok(0) => return Err(self.blame(&cx, &batch, nothing_handled()).into()),
                Ok(handled) => rest = rest.get(handled..).unwrap_or_default(),
                Err(failure) if failure.timed_out => {
                    return Err(Failed::GivenUp(self.blame(&cx, &batch, failure.error)));
                }
                Err(failure) => return Err(self.blame(&cx, &batch, failure.error).into()),
            }
            effects.of(&cx);
            attempt = 1;
        }
        Ok(())
    }

    /// Whose trouble an error is.
    fn blame(&self, cx: &Context, events: &[PersistedEvent], error: BatchError) -> AdminError {
        let failed = events.get(error.handled).map(|event| event.global_position);
        let position = failed.or(cx.current_position()).unwrap_or_default();
        let error = error.error;
        match ErrorKind::of::<DB>(&error) {
            ErrorKind::Handler | ErrorKind::Protocol => AdminError::Retry { position, error },
            ErrorKind::Transient | ErrorKind::ClaimTimeout => {
                AdminError::Interrupted { position, error }
            }
            ErrorKind::EndedTransaction => AdminError::EndedTransaction {
                consumer: Arc::clone(&self.of.name),
            },
        }
    }
}

fn nothing_handled() -> BatchError {
    BatchError::at(
        0,
        "the consumer handled none of its events, and returned no error",
    )
}

impl<DB: Backend> Work<DB> for &Again<'_, DB> {
    type Output = u64;

    async fn run(
        &self,
        tx: &mut Transaction<'_, DB>,
        effects: &mut Effects,
    ) -> Result<u64, Failed> {
        // Read again: this is the first look under the lock.
        let waiting = self.waiting(tx).await?;
        if self.code.consumer.uses_transaction() {
            self.handle(tx, &waiting, effects).await?;
        } else {
            let mut spare = self.admin.store.pool().acquire().await?;
            let handler = self.handle(&mut spare, &waiting, effects);
            match keep_alive::<DB, _>(tx, CLAIM_TIMEOUT, handler).await? {
                Ok(()) => {}
                // The transaction of the lock is in order: it is the other connection that is not.
                Err(Failed::GivenUp(error)) => {
                    spare.close_on_drop();
                    return Err(Failed::InOrder(error));
                }
                Err(error) => return Err(error),
            }
        }
        let unparked = self.admin.unpark(tx, self.of, &waiting.events).await;
        Ok(unparked.map_err(|error| waiting.after_handler::<DB>(error))?)
    }
}

/// The parked events of one aggregate.
#[derive(Debug)]
struct Aggregate {
    kind: String,
    id: String,
    positions: Vec<i64>,
}

impl Aggregate {
    fn owns(&self, row: &ParkedRow) -> bool {
        self.kind == row.aggregate_type && self.id == row.aggregate_id
    }
}

/// The parked aggregates in the order of their first events, or the one of a position.
fn aggregates(rows: &[ParkedRow], of: Option<i64>) -> Vec<Aggregate> {
    let mut aggregates: Vec<Aggregate> = Vec::new();
    for row in rows {
        match aggregates.iter_mut().find(|aggregate| aggregate.owns(row)) {
            Some(aggregate) => aggregate.positions.push(row.position),
            None => aggregates.push(Aggregate {
                kind: row.aggregate_type.clone(),
                id: row.aggregate_id.clone(),
                positions: vec![row.position],
            }),
        }
    }
    aggregates
        .retain(|aggregate| of.is_none_or(|position| aggregate.positions.contains(&position)));
    aggregates
}

fn not_parked(of: &ConsumerId, position: i64) -> AdminError {
    AdminError::NotParked {
        consumer: Arc::clone(&of.name),
        position,
    }
}

fn parked_event(row: ParkedRow) -> ParkedEvent {
    ParkedEvent {
        position: row.position,
        has_failed: row.reason == "failed",
        aggregate_type: row.aggregate_type,
        aggregate_id: row.aggregate_id,
        attempts: u32::try_from(row.attempts).unwrap_or(0),
        error: row.error,
        parked_for: millis(row.parked_ago),
    }
}

fn seconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(time.as_secs_f64())
}
