//! Appends that can be repeated: by the ids of the events.

use std::collections::{BTreeSet, HashMap, HashSet};

use sqlx::Connection as _;
use uuid::Uuid;

use super::{EventStore, cause, conflicts, readable};
use crate::backend::{Append, Backend, StoreError, refuse_other};
use crate::contract::{ExpectedVersion, NewEvent, PersistedEvent};

/// What [`EventStore::append_once`] did with each event of a batch, in the order of the batch.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct AppendedOnce {
    /// The events that the log did not have, as they are stored now.
    pub appended: Vec<PersistedEvent>,
    /// The events that the log had already, as they are stored. An event that is in the batch twice is
    /// here the second time.
    pub existing: Vec<PersistedEvent>,
}

impl<DB: Backend> EventStore<DB> {
    /// Appends the events whose ids the log does not have yet, in the caller's transaction, and returns
    /// which these are and which were there already.
    ///
    /// The same events can arrive any number of times, in any grouping, in several processes at once:
    /// each is stored once, and no caller gets an error because of another. It is for events that have
    /// their ids from elsewhere, such as those of another service's log; the guide
    /// [`between_services`](crate::guide::between_services) imports them from a broker.
    ///
    /// A batch may have events of several aggregates. New events are stored in the order of the batch, at
    /// ascending positions, each after the last version of its aggregate. Events of one aggregate that
    /// follow each other go to the database in one statement.
    ///
    /// An event is the same if its id, aggregate, type, format version and payload are the same. Metadata,
    /// trace, correlation and causation are those of the first append.
    ///
    /// The transaction locks the aggregates of the batch until it ends, in an order that is the same for
    /// all batches. On Postgres and SQLite alike, an error leaves the transaction usable and nothing of
    /// the batch in it. The table needs an index on event ids, which the store's own has: without one,
    /// each batch reads the whole table.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::NewEvent;
    ///
    /// let events = ["OrderPlaced", "OrderPaid"].map(|what| NewEvent::new("Order", "o-1", what, "{}"));
    /// let mut tx = store.begin().await?;
    /// let first = store.append_once_in(&mut tx, &events[..1]).await?;
    /// let both = store.append_once_in(&mut tx, &events).await?;
    /// tx.commit().await?;
    /// assert_eq!(both.existing, first.appended);
    /// assert_eq!(both.appended[0].event_id, events[1].event_id);
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// - [`StoreError::DifferentEvent`], which names the id: the log, or the batch, has another event
    ///   under the id of one of these.
    /// - [`StoreError::ReadOnlyLog`], [`StoreError::NothingToAppend`], and the others of
    ///   [`append_in`](Self::append_in) that are found before the database is asked.
    /// - [`StoreError::Contention`] or [`StoreError::Conflict`]: writers that lock in another order, or
    ///   that keep no heads, were in the way several times. Retry in a new transaction.
    /// - [`StoreError::UnreadableEvent`], [`StoreError::IdTooLong`], [`StoreError::NotMigrated`],
    ///   [`StoreError::Database`].
    pub async fn append_once_in(
        &self,
        tx: &mut DB::Connection,
        events: &[NewEvent],
    ) -> Result<AppendedOnce, StoreError> {
        if events.is_empty() {
            return Err(StoreError::NothingToAppend);
        }
        self.appends(events)?;
        let once = self.append_once_patiently(tx, events).await;
        let once = once.inspect_err(conflicts::note::<DB>)?;
        self.wake();
        Ok(once)
    }

    /// Appends the events whose ids the log does not have yet, in a transaction of its own and commits it.
    ///
    /// If the future is dropped, either all new events are stored or none. All else is as
    /// [`append_once_in`](Self::append_once_in) describes.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::NewEvent;
    ///
    /// let event = [NewEvent::new("Order", "o-1", "OrderPlaced", "{}")];
    /// assert_eq!(store.append_once(&event).await?.appended.len(), 1);
    ///
    /// let again = store.append_once(&event).await?;
    /// assert!(again.appended.is_empty());
    /// assert_eq!(again.existing[0].global_position, 1);
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Those of [`append_once_in`](Self::append_once_in); nothing is stored then.
    pub async fn append_once(&self, events: &[NewEvent]) -> Result<AppendedOnce, StoreError> {
        let mut tx = self.begin().await?;
        let once = self.append_once_in(&mut tx, events).await?;
        tx.commit().await?;
        self.wake();
        Ok(once)
    }

    /// One append for each run of events of one aggregate, checked before the database is asked.
    fn appends<'a>(&self, events: &'a [NewEvent]) -> Result<Vec<Append<'a>>, StoreError> {
        let runs = events.chunk_by(|one, next| aggregate(one) == aggregate(next));
        runs.map(|run| {
            let append = Append::new(self.schema(), ExpectedVersion::Any, run, cause::with_cause)?;
            DB::refuse_unstorable(&append)?;
            Ok(append)
        })
        .collect()
    }

    /// Tries again where a writer that does not lock the aggregate first stored an event in between. The
    /// next attempt sees it, unless the isolation of the transaction is stricter than READ COMMITTED.
    async fn append_once_patiently(
        &self,
        tx: &mut DB::Connection,
        events: &[NewEvent],
    ) -> Result<AppendedOnce, StoreError> {
        const ATTEMPTS: u32 = 5;
        let mut attempt = 1;
        loop {
            let once = self.append_all_or_nothing(tx, events).await;
            let is_race = |error: &StoreError| {
                error.is_retryable() || matches!(error, StoreError::DuplicateEventId { .. })
            };
            if attempt == ATTEMPTS || !once.as_ref().is_err_and(is_race) {
                return once;
            }
            attempt += 1;
        }
    }

    /// Leaves the caller's transaction as it was after an error.
    async fn append_all_or_nothing(
        &self,
        tx: &mut DB::Connection,
        events: &[NewEvent],
    ) -> Result<AppendedOnce, StoreError> {
        let mut savepoint = tx.begin().await?;
        match self.append_missing(&mut savepoint, events).await {
            Ok(once) => {
                savepoint.commit().await?;
                Ok(once)
            }
            Err(error) => {
                // A second error would say less.
                let _ = savepoint.rollback().await;
                Err(error)
            }
        }
    }

    async fn append_missing(
        &self,
        tx: &mut DB::Connection,
        events: &[NewEvent],
    ) -> Result<AppendedOnce, StoreError> {
        let statements = &self.inner.statements;
        let aggregates: BTreeSet<(&str, &str)> = events.iter().map(aggregate).collect();
        // Before the log is read: who imports the same events has committed them then, or waits.
        DB::lock_aggregates(tx, statements, &aggregates).await?;
        let ids: Vec<Uuid> = events.iter().map(|event| event.event_id).collect();
        let stored = readable(DB::find_events(tx, statements, &ids).await?)?;
        let batch = Batch::new(events, &stored);

        let mut appended = Vec::with_capacity(batch.missing.len());
        for append in self.appends(&batch.missing)? {
            let placed = DB::append(tx, statements, &append).await?;
            appended.extend(append.persisted(placed));
        }
        let stored: HashMap<Uuid, &PersistedEvent> =
            stored.iter().chain(&appended).map(by_id).collect();
        let mut existing = Vec::with_capacity(batch.repeats.len());
        for event in batch.repeats {
            if let Some(stored) = stored.get(&event.event_id) {
                refuse_other(self.schema(), event, stored)?;
                existing.push(PersistedEvent::clone(stored));
            }
        }
        Ok(AppendedOnce { appended, existing })
    }
}

/// The events of a batch, in its order.
struct Batch<'a> {
    /// The first event of each id that the log does not have.
    missing: Vec<NewEvent>,
    /// The others.
    repeats: Vec<&'a NewEvent>,
}

impl<'a> Batch<'a> {
    fn new(events: &'a [NewEvent], stored: &[PersistedEvent]) -> Self {
        let mut known: HashSet<Uuid> = stored.iter().map(|event| event.event_id).collect();
        let (missing, repeats): (Vec<&NewEvent>, Vec<&NewEvent>) = events
            .iter()
            .partition(|event| known.insert(event.event_id));
        Self {
            missing: missing.into_iter().cloned().collect(),
            repeats,
        }
    }
}

fn aggregate(event: &NewEvent) -> (&str, &str) {
    (&event.aggregate_type, &event.aggregate_id)
}

fn by_id(event: &PersistedEvent) -> (Uuid, &PersistedEvent) {
    (event.event_id, event)
}
