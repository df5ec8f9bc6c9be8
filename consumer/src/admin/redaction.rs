//! Redacting an event, with what consumers have recorded of it.

use super::error::AdminError;
use super::locks::LOCK_WAIT;
use super::operator::{Admin, consumer_of, held_or};
use crate::backend::{Access, Backend, ConsumerId, begin};
use crate::store::Redaction;

impl<DB: Backend> Admin<DB> {
    /// Replaces the content of an event in the log, and the errors of consumers that failed on it, which
    /// may quote it; see [`EventStore::redact`](crate::EventStore::redact).
    ///
    /// Besides the privileges of an operator, the role needs UPDATE on the table of events, and INSERT
    /// and UPDATE on `consumer_log_state`.
    ///
    /// ```
    /// # consumer::__doc::registered(async |store| {
    /// use consumer::admin::Admin;
    ///
    /// Admin::new(store.clone()).redact(1, r#"{"email":null}"#).await?;
    /// let mut connection = store.pool().acquire().await?;
    /// let event = store.read_events(&mut connection, 0, 1).await?.remove(0);
    /// assert_eq!(event.payload, r#"{"email":null}"#);
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`AdminError::Held`] if a worker handles the event for longer than 30 s, or those of
    /// [`EventStore::redact`](crate::EventStore::redact).
    pub async fn redact(
        &self,
        position: i64,
        redaction: impl Into<Redaction>,
    ) -> Result<(), AdminError> {
        let redaction = redaction.into();
        let rows = self.rows().await?;
        let mut failing = rows
            .iter()
            .filter(|row| row.checkpoint.failed_position == Some(position));
        let consumer = failing.next().map(|row| consumer_of(row).clone());
        let consumer = consumer.unwrap_or_else(|| ConsumerId {
            name: "".into(),
            version: 1,
        });
        self.repeatedly(LOCK_WAIT, || {
            self.try_redact(position, &redaction, &consumer)
        })
        .await
    }

    async fn try_redact(
        &self,
        position: i64,
        redaction: &Redaction,
        consumer: &ConsumerId,
    ) -> Result<(), AdminError> {
        let tables = self.tables().await?;
        let held = |error| held_or::<DB>(error, consumer);
        let mut tx = begin(self.store.pool(), DB::BEGIN_SPLIT)
            .await
            .map_err(held)?;
        self.check_use(&mut tx, Access::Operate).await?;
        let store = &tables.store;
        store.redact(&mut tx, position, redaction.clone()).await?;
        let redacted = DB::redact_errors(&tables.sql, &mut tx, position).await;
        redacted.map_err(held)?;
        Ok(tx.commit().await?)
    }
}
