//! How far the log is settled, as an operator sees it.

use crate::contract::chain;
use serde::Serialize;
use serde::ser::Serializer;

use super::borrowed::Borrowed;
use super::error::AdminError;
use super::operator::{Admin, Tables};
use crate::backend::{self, Access, Backend, Blocker, FrontierWatch as _};
use crate::worker::WorkerError;
use crate::worker::poller::reset::refuse_checkpoints_above;

/// How far the log is settled, and which transactions hold it up; see [`Admin::frontier`].
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct FrontierStatus {
    /// Every position up to here is settled: it holds a visible event, or never will.
    pub settled: i64,
    /// The highest visible position.
    pub head: i64,
    /// The transactions that may still fill a gap below the head.
    #[serde(serialize_with = "texts")]
    pub blockers: Vec<Blocker>,
    /// Why the frontier is unknown.
    pub problem: Option<String>,
}

impl<DB: Backend> Admin<DB> {
    /// Reports how far the log is settled, and which transactions hold it up.
    ///
    /// ```
    /// # consumer::__doc::registered(async |store| {
    /// let frontier = consumer::admin::Admin::new(store).frontier().await?;
    /// assert_eq!((frontier.settled, frontier.head), (1, 1));
    /// for blocker in &frontier.blockers {
    ///     println!("the log waits for {blocker}");
    /// }
    /// # Ok(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// If the database fails, or the log is not one whose frontier can be known.
    pub async fn frontier(&self) -> Result<FrontierStatus, AdminError> {
        let tables = self.tables().await?;
        let mut watch = self.watch.lock().await;
        let mut connection = Borrowed::from(self.store.pool()).await?;
        self.check_use(&mut connection, Access::Observe).await?;
        let mut current = match watch.take() {
            Some(current) => current,
            None => start_watch(&tables, &mut connection).await?,
        };
        let seen = loop {
            let seen = current.observe(&mut connection).await?;
            if !seen.more {
                break seen;
            }
        };
        let blockers = if seen.waiting {
            current.blockers(&mut connection).await?
        } else {
            Vec::new()
        };
        connection.give_back();
        *watch = Some(current);
        Ok(FrontierStatus {
            settled: seen.settled,
            head: seen.head,
            blockers,
            problem: None,
        })
    }

    /// Refuses a position above those that the log has given out, as after a restore: its next events would be
    /// passed.
    pub(super) async fn refuse_above(&self, position: i64) -> Result<(), AdminError> {
        if position <= self.head().await? {
            return Ok(());
        }
        let tables = self.tables().await?;
        let mut connection = Borrowed::from(self.store.pool()).await?;
        let watch = start_watch(&tables, &mut connection).await?;
        let what = "the event".to_owned();
        watch.refuse_above(&mut connection, what, position).await?;
        connection.give_back();
        Ok(())
    }

    /// The frontier, or why it is unknown, which is no reason to show nothing.
    pub(super) async fn frontier_or_problem(&self) -> Result<FrontierStatus, AdminError> {
        match self.frontier().await {
            Err(AdminError::Worker(WorkerError::Log(problem))) => Ok(FrontierStatus {
                head: self.head().await?,
                problem: Some(chain(&problem).to_string()),
                ..FrontierStatus::default()
            }),
            frontier => frontier,
        }
    }

    pub(super) async fn head(&self) -> Result<i64, AdminError> {
        let mut tx = self.read().await?;
        let store = &self.tables().await?.store;
        Ok(store.latest_global_position(&mut tx).await?)
    }
}

async fn start_watch<DB: Backend>(
    tables: &Tables<DB>,
    connection: &mut DB::Connection,
) -> Result<DB::Watch, AdminError> {
    let watch = DB::Watch::start(tables.store.settings(), connection).await?;
    let (_, rows) = backend::snapshot::<DB>(&watch, connection, &tables.checkpoints).await?;
    refuse_checkpoints_above::<DB>(&watch, connection, &rows).await?;
    Ok(watch)
}

fn texts<S: Serializer>(blockers: &[Blocker], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(blockers.iter().map(ToString::to_string))
}
