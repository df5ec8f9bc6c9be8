//! Reads a row of a read model, at once or when it shows an event.

use std::time::Duration;

use tokio::time;

use super::EventStore;
use crate::backend::{
    self, Backend, Checkpoint, Name, State, ViewStatements, aggregate_slice, progress_of, view_of,
};
use crate::contract::BoxFuture;
use crate::contract::read_model::{
    FindError, IntoKey, Key as _, ReadModel, ReadModelDatabase as _, Value, key_values,
};

/// The pause after the first look at the checkpoint; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

const LONGEST_PAUSE: Duration = Duration::from_millis(50);

impl<DB: Backend> EventStore<DB> {
    /// Reads the row with a key from the active version of a read model; `None` if there is none.
    ///
    /// It is [`ReadModel::find`](crate::ReadModel::find) in the schema of this store's handlers: with
    /// [`Schema::in_search_path`](crate::Schema::in_search_path), each tenant's store reads its own row.
    ///
    /// ```standalone_crate
    /// use consumer::prelude::*;
    /// # consumer::__doc_items!(consumer); consumer::__doc::run(async |store| {
    /// Worker::builder(store.clone()).consumer(Users).build()?.run_once().await?;
    ///
    /// let ada = store.find::<User>("ada").await?;
    /// assert!(ada.is_none());
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// Those of [`ReadModel::find`](crate::ReadModel::find).
    pub fn find<R: ReadModel>(
        &self,
        key: impl IntoKey<R::Key>,
    ) -> BoxFuture<'_, Result<Option<R>, FindError>> {
        let values = key_values::<R>(&key.into_key());
        Box::pin(async move {
            // Behind a pooler, the statement and its explanation are to reach the same session.
            let mut tx = backend::begin(self.pool(), DB::BEGIN_READ).await?;
            let schema = self.schema().handlers_schema();
            let found = DB::find(&mut tx, R::TABLE, schema, values?).await?;
            tx.commit().await?;
            Ok(found.map(R::from_values).transpose()?)
        })
    }

    /// Reads the row with a key from the active version of a read model as soon as its consumer has
    /// handled the events up to a position, such as that of an event that was just appended; `None` if
    /// there is no row then.
    ///
    /// It waits for the checkpoint of the consumer, of the segment of the key if there are several, and
    /// not for the row, which the event may have deleted. The worker may run in any process. An event that
    /// was parked or skipped does not show.
    ///
    /// On Postgres, the role needs the privileges of [`Access::Observe`](crate::Access::Observe), and
    /// `SELECT` on the view.
    ///
    /// The position should be that of an event in the consumer's scope: a checkpoint without such events
    /// advances only every [`advance_interval`](crate::WorkerBuilder::advance_interval).
    ///
    /// ```standalone_crate
    /// # consumer::__doc::run(async |store| {
    /// use std::time::Duration;
    ///
    /// use consumer::prelude::*;
    ///
    /// #[derive(ReadModel)]
    /// #[read_model(table = "visits")]
    /// struct Visits {
    ///     #[read_model(key)]
    ///     page: String,
    ///     count: i64,
    /// }
    ///
    /// #[derive(Default)]
    /// struct CountVisits;
    ///
    /// #[consumer(name = "count_visits", read_model = Visits)]
    /// impl CountVisits {
    ///     #[on("Visited")]
    ///     fn visited(&self, visits: &mut Option<Visits>, event: &PersistedEvent) {
    ///         let page = event.aggregate_id.clone();
    ///         visits.get_or_insert(Visits { page, count: 0 }).count += 1;
    ///     }
    /// }
    ///
    /// let worker = Worker::builder(store.clone()).discover().build()?;
    /// let handle = worker.handle();
    /// let running = tokio::spawn(worker.run(std::future::pending()));
    /// # handle.caught_up().await?;
    ///
    /// let visited = NewEvent::new("Page", "home", "Visited", "{}");
    /// let position = store.append(ExpectedVersion::Any, &[visited]).await?[0].global_position;
    /// let timeout = Duration::from_secs(5);
    /// let visits = store.find_as_of::<Visits>("home", position, timeout).await?;
    /// assert_eq!(visits.map(|visits| visits.count), Some(1));
    /// # handle.shut_down(); running.await??; Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`FindError::Paused`] or [`FindError::Stopped`] if the consumer does not get to the position by
    /// itself, [`FindError::TimedOut`] if it does not within the timeout, [`FindError::NoConsumer`] if no
    /// worker has run it, and those of [`ReadModel::find`](crate::ReadModel::find).
    pub fn find_as_of<R: ReadModel>(
        &self,
        key: impl IntoKey<R::Key>,
        position: i64,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Option<R>, FindError>> {
        let key = key.into_key();
        Box::pin(async move {
            let mut wait = Wait {
                statements: DB::view_statements(self.settings()),
                values: key_values::<R>(&key)?,
                view: None,
                slice: has_one_column::<R>().then(|| aggregate_slice(&key.to_text()).into()),
                position,
                last: None,
            };
            let found = time::timeout(timeout, wait.run::<DB, R>(self)).await;
            match (found, wait.last) {
                (Ok(found), _) => Ok(found?.map(R::from_values).transpose()?),
                (Err(_), Some(row)) => Err(FindError::TimedOut {
                    consumer: row.key.consumer.name,
                    reached: row.position,
                    position,
                    timeout,
                }),
                // There was not even an answer of the database.
                (Err(_), None) => Err(sqlx::Error::PoolTimedOut.into()),
            }
        })
    }
}

/// A consumer with segments has keys of one column, the aggregate id.
fn has_one_column<R: ReadModel>() -> bool {
    R::TABLE.key().count() == 1
}

/// A row that is waited for.
struct Wait {
    statements: ViewStatements,
    /// The values of its key.
    values: Vec<Value>,
    /// The view, once it was found.
    view: Option<Name>,
    /// The slice of its events, if it has those of one aggregate.
    slice: Option<i32>,
    position: i64,
    /// The checkpoint that was behind when it was last read.
    last: Option<Checkpoint>,
}

impl Wait {
    async fn run<DB: Backend, R: ReadModel>(
        &mut self,
        store: &EventStore<DB>,
    ) -> Result<Option<Vec<Value>>, FindError> {
        let mut pause = FIRST_PAUSE;
        loop {
            // In one transaction, so that a pooler cannot change the connection in between.
            let mut tx = backend::begin(store.pool(), DB::BEGIN_READ).await?;
            self.last = self.behind::<DB, R>(store, &mut tx).await?;
            if self.last.is_none() {
                let schema = self.view.as_ref().and_then(|view| view.schema.as_deref());
                let found = DB::find(&mut tx, R::TABLE, schema, self.values.clone()).await?;
                tx.commit().await?;
                return Ok(found);
            }
            tx.commit().await?;
            time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The checkpoint that is still before the position.
    async fn behind<DB: Backend, R: ReadModel>(
        &mut self,
        store: &EventStore<DB>,
        connection: &mut DB::Connection,
    ) -> Result<Option<Checkpoint>, FindError> {
        if self.view.is_none() {
            let schema = store.schema().handlers_schema();
            self.view = view_of::<DB>(connection, R::TABLE, schema).await?;
        }
        let rows = match &self.view {
            Some(view) => progress_of::<DB>(&self.statements, connection, view).await?,
            None => Vec::new(),
        };
        if rows.is_empty() {
            let table = R::TABLE.name;
            return Err(FindError::NoConsumer { table });
        }
        let has_key = |row: &Checkpoint| {
            let slices = row.key.slice_from..row.slice_to;
            self.slice.is_none_or(|slice| slices.contains(&slice))
        };
        let is_behind = |row: &Checkpoint| has_key(row) && row.position < self.position;
        let behind = rows.into_iter().filter(is_behind);
        // One that does not run says more than one that does.
        let Some(row) = behind.max_by_key(|row| row.state != State::Running) else {
            return Ok(None);
        };
        self.may_arrive(row).map(Some)
    }

    /// Returns the row, or why it stays where it is.
    fn may_arrive(&self, row: Checkpoint) -> Result<Checkpoint, FindError> {
        let (consumer, reached) = (row.key.consumer.name.clone(), row.position);
        let position = self.position;
        match row.state {
            State::Running => Ok(row),
            State::Paused => Err(FindError::Paused {
                consumer,
                reached,
                position,
            }),
            State::Stopped => Err(FindError::Stopped {
                consumer,
                reached,
                position,
                error: row.error.unwrap_or_default(),
            }),
        }
    }
}
