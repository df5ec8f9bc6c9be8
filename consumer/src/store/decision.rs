//! Decisions: typed histories, typed appends, and what becomes of conflicts.

use sqlx::Transaction;

use super::EventStore;
use super::conflicts::{self, DecisionError, is_concurrent};
use crate::backend::{Backend, StoreError};
use crate::contract::{Aggregate, Event, ExpectedVersion, NewEvent, PersistedEvent};

/// The events of one aggregate, as [`EventStore::load`] returns them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct History<E> {
    /// The events in version order.
    pub events: Vec<E>,
    /// The version that an append after this history expects.
    pub version: ExpectedVersion,
}

impl<DB: Backend> EventStore<DB> {
    /// Reads the whole history of an aggregate as values of its enum, and the version for an
    /// [append](Self::append_typed) that follows.
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::{Event, ExpectedVersion};
    ///
    /// #[derive(Event, serde::Serialize, serde::Deserialize)]
    /// #[event(aggregate = "Account")]
    /// enum AccountEvent {
    ///     Deposited { amount: i64 },
    ///     Withdrawn { amount: i64 },
    /// }
    ///
    /// let mut tx = store.begin().await?;
    /// let deposits = [7, 5].map(|amount| AccountEvent::Deposited { amount });
    /// store.append_typed(&mut tx, "a-1", ExpectedVersion::NoStream, &deposits).await?;
    ///
    /// let history = store.load::<AccountEvent>(&mut tx, "a-1").await?;
    /// let balance: i64 = history.events.iter().map(|event| match event {
    ///     AccountEvent::Deposited { amount } => *amount,
    ///     AccountEvent::Withdrawn { amount } => -amount,
    /// }).sum();
    /// assert_eq!((balance, history.version), (12, ExpectedVersion::Exact(2)));
    /// tx.commit().await?;
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Decode`] for an event that this release cannot read, [`StoreError::UnreadableEvent`],
    /// [`StoreError::NotMigrated`], or [`StoreError::Database`].
    pub async fn load<E: Aggregate>(
        &self,
        connection: &mut DB::Connection,
        aggregate_id: &str,
    ) -> Result<History<E>, StoreError> {
        let records = self
            .read_aggregate(connection, E::AGGREGATE_TYPE, aggregate_id, None, None)
            .await?;
        let decode = |record| E::decode(record).map_err(Box::new);
        let events: Result<Vec<E>, _> = records.iter().map(decode).collect();
        let version = match records.last() {
            Some(last) => ExpectedVersion::Exact(last.aggregate_version),
            None => {
                let aggregate = (E::AGGREGATE_TYPE, aggregate_id);
                self.version_without_events(connection, aggregate).await?
            }
        };
        Ok(History {
            events: events?,
            version,
        })
    }

    /// The version of an aggregate without events, whose history may have been archived.
    async fn version_without_events(
        &self,
        connection: &mut DB::Connection,
        aggregate: (&str, &str),
    ) -> Result<ExpectedVersion, StoreError> {
        if self.schema().is_read_only() {
            return Ok(ExpectedVersion::NoStream);
        }
        let statements = &self.inner.statements;
        let version = DB::current_version(connection, statements, aggregate).await;
        Ok(match version.inspect_err(conflicts::note::<DB>)? {
            0 => ExpectedVersion::NoStream,
            version => ExpectedVersion::Exact(version),
        })
    }

    /// Appends values of an event type to one aggregate in the caller's transaction, like
    /// [`append_in`](Self::append_in).
    ///
    /// For event ids, metadata and correlation ids of your own, make each event with
    /// [`NewEvent::typed`] instead. The example is that of [`load`](Self::load).
    ///
    /// # Errors
    /// [`StoreError::Encode`] for a value that cannot be written as JSON, or those of
    /// [`append_in`](Self::append_in).
    pub async fn append_typed<E: Event>(
        &self,
        tx: &mut DB::Connection,
        aggregate_id: &str,
        expected: ExpectedVersion,
        events: &[E],
    ) -> Result<Vec<PersistedEvent>, StoreError> {
        let encode = |event: &E| match NewEvent::typed(event) {
            Ok(typed) => Ok(typed.of(aggregate_id)),
            Err(source) => Err(StoreError::Encode {
                event_type: event.event_type(),
                source,
            }),
        };
        let events: Result<Vec<NewEvent>, _> = events.iter().map(encode).collect();
        self.append_in(tx, expected, &events?).await
    }

    /// Makes a decision in a transaction of its own and commits it; if another transaction was faster,
    /// makes it again in a new one, up to `attempts` times in all.
    ///
    /// The decision loads what it depends on, appends with the version that it has loaded, and may write
    /// other tables through the same transaction, which it returns with its result to have it committed.
    /// If it returns an error, nothing of it is stored. It is made again
    ///
    /// - if an append in it failed with a [retryable](StoreError::is_retryable) error, in this task and not
    ///   in one that it spawns;
    /// - if any statement in it failed because of a concurrent transaction, as a deadlock or a serialization
    ///   failure. Of the decision's own statements, the error that it returns must say so, as itself or as
    ///   one of its [sources](std::error::Error::source);
    /// - if the commit failed because of a concurrent transaction.
    ///
    /// So effects that a rollback does not undo belong after it. Any other error is returned at once, and so
    /// is that of the last attempt. On Postgres, a decision that reads more than the aggregate that it
    /// appends to may begin with `SET TRANSACTION ISOLATION LEVEL SERIALIZABLE`.
    ///
    /// Accounts with unique names, which an extra table ensures:
    ///
    /// ```
    /// # consumer::__doc::run(async |store| {
    /// use consumer::{Event, StoreError, sqlx};
    ///
    /// #[derive(Event, serde::Serialize, serde::Deserialize)]
    /// #[event(aggregate = "Account")]
    /// enum AccountEvent {
    ///     Opened { name: String },
    /// }
    ///
    /// #[derive(Debug, thiserror::Error)]
    /// enum OpenError {
    ///     #[error("the account is open already")]
    ///     IsOpen,
    ///     #[error("the name is taken")]
    ///     NameTaken,
    ///     #[error(transparent)]
    ///     Store(#[from] StoreError),
    ///     #[error(transparent)]
    ///     Database(#[from] sqlx::Error),
    /// }
    ///
    /// let create = "CREATE TABLE names (name TEXT PRIMARY KEY, account TEXT NOT NULL)";
    /// sqlx::query(create).execute(store.pool()).await?;
    ///
    /// let store = &store;
    /// let open = async |id: &str, name: &str| {
    ///     store.retry_conflicts(5, |mut tx| async move {
    ///         let history = store.load::<AccountEvent>(&mut tx, id).await?;
    ///         if !history.events.is_empty() {
    ///             return Err(OpenError::IsOpen);
    ///         }
    ///         let reserve = "INSERT INTO names VALUES ($1, $2) ON CONFLICT DO NOTHING";
    ///         let reserved = sqlx::query(reserve).bind(name).bind(id).execute(&mut *tx).await?;
    ///         if reserved.rows_affected() == 0 {
    ///             return Err(OpenError::NameTaken);
    ///         }
    ///         let opened = [AccountEvent::Opened { name: name.to_owned() }];
    ///         store.append_typed(&mut tx, id, history.version, &opened).await?;
    ///         Ok((tx, ()))
    ///     }).await
    /// };
    /// open("a-1", "ada").await?;
    /// assert!(matches!(open("a-1", "bob").await, Err(OpenError::IsOpen)));
    /// assert!(matches!(open("a-2", "ada").await, Err(OpenError::NameTaken)));
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// That of the decision, or a [`StoreError`] of the transaction.
    pub async fn retry_conflicts<T, E, F, Kind>(
        &self,
        attempts: u32,
        mut decide: impl FnMut(Transaction<'static, DB>) -> F,
    ) -> Result<T, E>
    where
        E: From<StoreError> + DecisionError<Kind>,
        F: Future<Output = Result<(Transaction<'static, DB>, T), E>>,
    {
        let mut attempt = 1;
        loop {
            let tx = self.begin().await?;
            let (decided, conflict) = conflicts::noticing(decide(tx)).await;
            let is_last = attempt >= attempts;
            let (tx, value) = match decided {
                Ok(decided) => decided,
                Err(error) => {
                    if is_last || !(conflict || is_concurrent::<DB>(error.as_error())) {
                        return Err(error);
                    }
                    attempt += 1;
                    continue;
                }
            };
            match tx.commit().await {
                Ok(()) => {
                    self.wake();
                    return Ok(value);
                }
                Err(error) if is_last || !is_concurrent::<DB>(&error) => {
                    return Err(StoreError::from(error).into());
                }
                Err(_) => attempt += 1,
            }
        }
    }
}
