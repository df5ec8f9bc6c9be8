//! Events that a consumer has set aside: looking at them, trying them again, leaving them out.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::ser::Serializer;
use sqlx::Transaction;

use super::dialect::{Of, ParkedRow};
use super::status::millis;
use super::{Admin, AdminBackend, AdminError, PATIENCE, Target, Work, context};
use crate::contract::{BatchError, Context, PersistedEvent};
use crate::registry::Registered;
use crate::store::ReadRange;
use crate::worker::transact::keep_alive;

/// An event that a consumer has set aside.
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

impl<DB: AdminBackend> Admin<DB> {
    /// The parked events of a consumer, in the order of the log.
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
    /// transaction under the lock of the checkpoint, so that a worker cannot come in between. When
    /// one of them fails again, nothing of its aggregate is saved but the new error, and the next
    /// aggregate has its turn.
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
        for aggregate in aggregates {
            match self.retry_aggregate(&of, code, &aggregate).await {
                Ok(handled) => retried.handled += handled,
                Err(AdminError::Retry { position, error }) => {
                    self.blame(&of, position, &error.to_string()).await?;
                    retried.failed.push(AdminError::Retry { position, error });
                }
                Err(error @ AdminError::NotInLog { .. }) => retried.failed.push(error),
                Err(error) => return Err(error),
            }
        }
        Ok(retried)
    }

    /// Leaves a parked event out for good. Those of its aggregate that wait behind it stay parked
    /// until they are retried; says how many.
    ///
    /// # Errors
    /// When the event is not parked, or a worker has the consumer at hand for longer than 30 s.
    pub async fn skip_parked(
        &self,
        consumer: impl Into<Target>,
        position: i64,
    ) -> Result<u64, AdminError> {
        let of = self.find(consumer.into()).await?;
        let mut tx = self.store.begin().await?;
        self.lock(&mut tx, &of, PATIENCE).await?;
        let rows = DB::parked(&self.sql, &mut tx, &of).await?;
        let behind = aggregates(&rows, Some(position))
            .first()
            .and_then(|aggregate| aggregate.positions.len().checked_sub(1))
            .ok_or_else(|| not_parked(&of, position))?;
        DB::unpark(&self.sql, &mut tx, &of, position).await?;
        tx.commit().await?;
        tracing::warn!(
            consumer = &*of.consumer,
            position,
            "the parked event was skipped"
        );
        Ok(behind as u64)
    }

    async fn retry_aggregate(
        &self,
        of: &Of,
        code: &Registered<DB>,
        aggregate: &Aggregate,
    ) -> Result<u64, AdminError> {
        if !code.consumer.uses_transaction() && !DB::HOLDS_CLAIMS {
            return self.retry_outside(of, code, aggregate).await;
        }
        let again = Again {
            admin: self,
            of,
            code,
            aggregate,
        };
        self.under_lock(of, PATIENCE, again).await
    }

    /// For a consumer that manages its own connections, where a transaction held for long would
    /// keep every other writer out: the rows go once it is done (R5).
    async fn retry_outside(
        &self,
        of: &Of,
        code: &Registered<DB>,
        aggregate: &Aggregate,
    ) -> Result<u64, AdminError> {
        let mut spare = self.store.pool().acquire().await?;
        let events = self.events(&mut spare, &aggregate.positions).await?;
        self.handle(of, code, &mut spare, &events).await?;
        drop(spare);
        let mut tx = self.store.begin().await?;
        let handled = self.unpark(&mut tx, of, &events).await?;
        tx.commit().await?;
        Ok(handled)
    }

    /// Hands all events to the consumer, however many it takes at a time.
    async fn handle(
        &self,
        of: &Of,
        code: &Registered<DB>,
        connection: &mut DB::Connection,
        events: &[PersistedEvent],
    ) -> Result<(), AdminError> {
        let mut rest = events;
        while !rest.is_empty() {
            let head = rest.last().map_or(0, |event| event.global_position);
            let cx = context(of).with_attempt(2).with_head(head);
            let outcome = code.consumer.handle_batch(&cx, connection, rest).await;
            let handled = outcome.map_err(|error| blame(&cx, rest, error))?;
            rest = rest.get(handled.max(1)..).unwrap_or_default();
        }
        Ok(())
    }

    async fn unpark(
        &self,
        tx: &mut DB::Connection,
        of: &Of,
        events: &[PersistedEvent],
    ) -> Result<u64, AdminError> {
        let mut handled = 0;
        for event in events {
            let removed = DB::unpark(&self.sql, tx, of, event.global_position).await?;
            handled += u64::from(removed);
        }
        Ok(handled)
    }

    async fn blame(&self, of: &Of, position: i64, error: &str) -> Result<(), AdminError> {
        let mut tx = self.store.begin().await?;
        self.lock(&mut tx, of, PATIENCE).await?;
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

/// One aggregate's parked events, handled again and removed in one transaction.
struct Again<'a, DB: AdminBackend> {
    admin: &'a Admin<DB>,
    of: &'a Of,
    code: &'a Registered<DB>,
    aggregate: &'a Aggregate,
}

impl<DB: AdminBackend> Work<DB> for Again<'_, DB> {
    type Output = u64;

    async fn run(&self, tx: &mut Transaction<'_, DB>) -> Result<u64, AdminError> {
        let Self {
            admin, of, code, ..
        } = self;
        // Read again: this is the first look under the lock.
        let rows = DB::parked(&admin.sql, tx, of).await?;
        let events = admin.events(tx, &self.aggregate.in_rows(&rows)).await?;
        if code.consumer.uses_transaction() {
            admin.handle(of, code, tx, &events).await?;
        } else {
            let mut spare = admin.store.pool().acquire().await?;
            let handler = admin.handle(of, code, &mut spare, &events);
            keep_alive::<DB, _>(tx, CLAIM_TIMEOUT, handler).await??;
        }
        admin.unpark(tx, of, &events).await
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

    fn in_rows(&self, rows: &[ParkedRow]) -> Vec<i64> {
        let own = rows.iter().filter(|row| self.owns(row));
        own.map(|row| row.position).collect()
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

fn blame(cx: &Context, events: &[PersistedEvent], error: BatchError) -> AdminError {
    let failed = events.get(error.handled).map(|event| event.global_position);
    AdminError::Retry {
        position: cx.current_position().or(failed).unwrap_or_default(),
        error: error.error,
    }
}

fn not_parked(of: &Of, position: i64) -> AdminError {
    AdminError::NotParked {
        consumer: Arc::clone(&of.consumer),
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
