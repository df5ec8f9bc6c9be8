//! Parked events: listing, inspecting and skipping them.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;
use serde::ser::Serializer;

use super::error::AdminError;
use super::lag::{in_seconds, millis};
use super::locks::LOCK_WAIT;
use super::operator::Admin;
use super::options::Target;
use crate::backend::{Backend, ConsumerId, LogRow, ParkedRow, ReadRange};
use crate::contract::PersistedEvent;

/// An event that a consumer has set aside (a "dead letter"); see [`Admin::parked`].
///
/// ```
/// use std::time::Duration;
///
/// use consumer::admin::ParkedEvent;
///
/// /// Lists events that failed and have been parked for more than a day.
/// fn overdue(parked: &[ParkedEvent]) -> Vec<String> {
///     let day = Duration::from_secs(24 * 60 * 60);
///     let overdue = parked.iter().filter(|one| one.has_failed && one.parked_for > day);
///     overdue
///         .map(|one| format!("{} {}: {} attempts", one.aggregate_type, one.aggregate_id, one.attempts))
///         .collect()
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ParkedEvent {
    /// The event's position in the log.
    pub position: i64,
    /// The type of its aggregate.
    pub aggregate_type: String,
    /// The id of its aggregate.
    pub aggregate_id: String,
    /// Whether it failed itself; otherwise it waits behind an earlier event of its aggregate.
    pub has_failed: bool,
    /// The number of failed attempts.
    pub attempts: u32,
    /// The last error and its causes.
    pub error: Option<String>,
    /// How long it has been parked.
    #[serde(serialize_with = "seconds", rename = "parked_seconds")]
    pub parked_for: Duration,
}

/// The parked events of each aggregate, ordered by their first.
#[cfg_attr(not(any(feature = "cli", feature = "dashboard")), allow(dead_code))]
pub(crate) fn by_aggregate(events: &[ParkedEvent]) -> Vec<Vec<&ParkedEvent>> {
    let mut aggregates: Vec<Vec<&ParkedEvent>> = Vec::new();
    let mut known = HashMap::new();
    for event in events {
        let key = (&event.aggregate_type, &event.aggregate_id);
        let index = *known.entry(key).or_insert(aggregates.len());
        match aggregates.get_mut(index) {
            Some(aggregate) => aggregate.push(event),
            None => aggregates.push(vec![event]),
        }
    }
    aggregates
}

impl<DB: Backend> Admin<DB> {
    /// Returns a consumer's parked events, in log order.
    ///
    /// ```
    /// # consumer::__doc::registered(async |store| { use consumer::__doc::Invoices;
    /// use consumer::{OnError, Worker};
    ///
    /// let builder = || {
    ///     let builder = Worker::builder(store.clone()).consumer(Invoices::default());
    ///     builder.configure_all(|settings| settings.on_error(OnError::Park))
    /// };
    /// builder().build()?.run_once().await?;
    /// let admin = builder().admin()?;
    /// for parked in admin.parked("invoices").await? {
    ///     println!("{} {}: {:?}", parked.position, parked.aggregate_id, parked.error);
    /// }
    ///
    /// // One of them, with its payload.
    /// let (parked, event) = admin.parked_event("invoices", 1).await?;
    /// assert!(parked.has_failed);
    /// assert_eq!(event.unwrap().payload, "{}");
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// If there is no such checkpoint.
    pub async fn parked(
        &self,
        consumer: impl Into<Target>,
    ) -> Result<Vec<ParkedEvent>, AdminError> {
        let consumer = self.find(consumer.into()).await?;
        let mut tx = self.read().await?;
        let rows = DB::parked(&self.tables().await?.sql, &mut tx, &consumer).await?;
        Ok(rows.into_iter().map(ParkedEvent::from).collect())
    }

    /// Returns up to `limit` of a consumer's parked events after a position.
    #[cfg_attr(not(feature = "dashboard"), allow(dead_code))]
    pub(crate) async fn parked_after(
        &self,
        consumer: &ConsumerId,
        after: i64,
        limit: i64,
    ) -> Result<Vec<ParkedEvent>, AdminError> {
        let mut tx = self.read().await?;
        let sql = &self.tables().await?.sql;
        let rows = DB::parked_after(sql, &mut tx, consumer, after, limit).await?;
        Ok(rows.into_iter().map(ParkedEvent::from).collect())
    }

    /// Returns one [parked](Self::parked) event, with the event itself if the log still has it and it can
    /// be decoded.
    ///
    /// # Errors
    /// If there is no such checkpoint, or it has not parked that event.
    pub async fn parked_event(
        &self,
        consumer: impl Into<Target>,
        position: i64,
    ) -> Result<(ParkedEvent, Option<PersistedEvent>), AdminError> {
        let consumer = self.find(consumer.into()).await?;
        let mut tx = self.read().await?;
        let rows = DB::parked(&self.tables().await?.sql, &mut tx, &consumer).await?;
        let row = rows.into_iter().find(|row| row.position == position);
        let row = row.ok_or_else(|| not_parked(&consumer, position))?;
        let event = self.event(&mut tx, position).await?;
        Ok((row.into(), event.and_then(Result::ok)))
    }

    /// Removes a [parked](Self::parked) event without handling it, and returns how many later
    /// events of its aggregate remain parked.
    ///
    /// Those wait until they are [retried](Self::retry_parked).
    ///
    /// # Errors
    /// If the event is not parked, or a worker's batch takes longer than 30 s.
    pub async fn skip_parked(
        &self,
        consumer: impl Into<Target>,
        position: i64,
    ) -> Result<u64, AdminError> {
        let consumer = self.find(consumer.into()).await?;
        let mut tx = self.locked(&consumer, LOCK_WAIT).await?;
        let rows = DB::parked(&self.tables().await?.sql, &mut tx, &consumer).await?;
        let parked = rows.iter().find(|row| row.position == position);
        let parked = parked.ok_or_else(|| not_parked(&consumer, position))?;
        let others = rows.iter().filter(|row| is_same_aggregate(row, parked));
        let behind = others.count().saturating_sub(1);
        DB::unpark(&self.tables().await?.sql, &mut tx, &consumer, position).await?;
        tx.commit().await?;
        tracing::warn!(%consumer, position, "an operator skipped a parked event");
        Ok(behind as u64)
    }

    /// Reads one event.
    pub(super) async fn event(
        &self,
        connection: &mut DB::Connection,
        position: i64,
    ) -> Result<Option<LogRow>, AdminError> {
        let range = ReadRange {
            after: position - 1,
            up_to: position,
            limit: 1,
            max_bytes: u64::MAX,
            scope: None,
        };
        let store = &self.tables().await?.store;
        let rows = store.read_rows(connection, range).await?;
        Ok(rows.into_iter().next())
    }
}

pub(super) fn not_parked(consumer: &ConsumerId, position: i64) -> AdminError {
    AdminError::NotParked {
        consumer: consumer.clone(),
        position,
    }
}

/// Whether two parked events belong to one aggregate.
pub(super) fn is_same_aggregate(row: &ParkedRow, other: &ParkedRow) -> bool {
    row.aggregate_type == other.aggregate_type && row.aggregate_id == other.aggregate_id
}

impl From<ParkedRow> for ParkedEvent {
    fn from(row: ParkedRow) -> Self {
        Self {
            position: row.position,
            has_failed: row.reason == "failed",
            aggregate_type: row.aggregate_type,
            aggregate_id: row.aggregate_id,
            attempts: u32::try_from(row.attempts).unwrap_or(0),
            error: row.error,
            parked_for: millis(row.parked_ago),
        }
    }
}

fn seconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(in_seconds(*time))
}
