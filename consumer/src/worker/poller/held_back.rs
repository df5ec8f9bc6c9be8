//! Consumers that are held back: which names decide about them, and how they start later.

use std::sync::Arc;

use sqlx::Connection as _;
use sqlx::SqlSafeStr as _;

use crate::backend::{
    Backend, HeldBack, Names, Renamed, SnapshotRow, Start, acquire, begin, held_back_by,
    read_retired, rename,
};
use crate::contract::chain;
use crate::worker::context::Shared;
use crate::worker::error::WorkerError;
use crate::worker::poller::Poller;
use crate::worker::poller::assignment::WorkerConsumer;
use crate::worker::tables;

/// Takes checkpoints over from former names, and holds consumers back, before the worker creates any
/// checkpoint.
pub(crate) async fn settle_names<DB: Backend>(
    shared: &Shared<DB>,
    consumers: &[Arc<WorkerConsumer<DB>>],
) -> Result<(), WorkerError> {
    for consumer in consumers {
        // Each anew, since several versions take over together.
        let names = read_names(shared).await?;
        if let Some(reason) = settle(shared, consumer, &names).await? {
            shared.progress.hold_back(reason);
        }
    }
    Ok(())
}

/// Takes a checkpoint over, if there is one to take; returns why the consumer is still held back.
async fn settle<DB: Backend>(
    shared: &Shared<DB>,
    consumer: &WorkerConsumer<DB>,
    names: &Names,
) -> Result<Option<HeldBack>, WorkerError> {
    match names.start(&consumer.enrolment, &shared.declared) {
        Start::Run => Ok(None),
        Start::Not(reason) => Ok(Some(reason)),
        Start::TakeOver(former) => take_over(shared, consumer, former).await,
    }
}

async fn take_over<DB: Backend>(
    shared: &Shared<DB>,
    consumer: &WorkerConsumer<DB>,
    former: String,
) -> Result<Option<HeldBack>, WorkerError> {
    let id = consumer.id();
    let renaming = async {
        let mut tx = begin(shared.store.pool(), DB::BEGIN_SPLIT).await?;
        let renamed = rename::<DB>(&shared.names, &mut tx, &former, &id.name).await?;
        match renamed {
            Renamed::Done => tx.commit().await?,
            _ => tx.rollback().await?,
        }
        Ok::<_, sqlx::Error>(renamed)
    };
    let busy = |former| Ok(Some(HeldBack::until_free(id, former)));
    let renamed = renaming.await;
    match renamed {
        Ok(Renamed::Done) => {
            tracing::info!(
                consumer = &*id.name,
                "the consumer continues from the checkpoint of `{former}`, which has its name from now on"
            );
            Ok(None)
        }
        Ok(Renamed::Retired(reason)) => Ok(Some(reason)),
        Ok(Renamed::Busy) => busy(former),
        // Another process was faster.
        Ok(Renamed::Missing | Renamed::Taken) => Ok(None),
        Err(error) if DB::is_held(&error) => busy(former),
        Err(error) => Err(error.into()),
    }
}

async fn read_names<DB: Backend>(shared: &Shared<DB>) -> Result<Names, sqlx::Error> {
    let mut tx = begin(shared.store.pool(), DB::BEGIN_READ).await?;
    let names = Names::read::<DB>(&shared.names, &mut tx).await?;
    tx.commit().await?;
    Ok(names)
}

/// Starts consumers that are held back once nothing does so any more, until the worker ends.
pub(crate) async fn start_later<DB: Backend>(
    shared: Arc<Shared<DB>>,
    consumers: Vec<Arc<WorkerConsumer<DB>>>,
) {
    let mut snapshot = shared.snapshot.clone();
    while snapshot.changed().await.is_ok() {
        for consumer in &consumers {
            if shared.progress.held_back(consumer.id()).is_none() {
                continue;
            }
            if let Err(error) = try_start(&shared, consumer).await {
                let error = chain(&error).to_string();
                tracing::warn!(
                    consumer = &*consumer.id().name,
                    error,
                    "a consumer that was held back cannot start; trying again"
                );
            }
        }
    }
}

async fn try_start<DB: Backend>(
    shared: &Shared<DB>,
    consumer: &WorkerConsumer<DB>,
) -> Result<(), WorkerError> {
    let names = read_names(shared).await?;
    if let Some(reason) = settle(shared, consumer, &names).await? {
        shared.progress.hold_back(reason);
        return Ok(());
    }
    tables::prepare(shared, &[consumer]).await?;
    let settled = shared.frontier.borrow().settled;
    let mut connection = acquire(shared.store.pool()).await?;
    // This task may be dropped during a BEGIN, as in the reader of the log.
    connection.close_on_drop();
    let enrolments = [consumer.enrolment.clone()];
    let program = shared.program(&enrolments);
    let enrolled = DB::enroll(&shared.statements, &mut connection, program, settled);
    match enrolled.await??.pop() {
        Some(reason) => shared.progress.hold_back(reason),
        None => shared.progress.release(consumer.id()),
    }
    shared.request_snapshot();
    Ok(())
}

impl<DB: Backend> Poller<DB> {
    /// Finds out why consumers of the worker have no rows any more, before their lanes see it.
    pub(super) async fn hold_back_renamed(
        &mut self,
        rows: &[SnapshotRow],
    ) -> Result<(), sqlx::Error> {
        let progress = &self.shared.progress;
        let has_rows = |one: &WorkerConsumer<DB>| {
            let mut keys = rows.iter().map(|row| &row.checkpoint.key);
            keys.any(|key| one.owns(key))
        };
        let is_gone = |one: &&Arc<WorkerConsumer<DB>>| {
            !has_rows(one) && progress.held_back(one.id()).is_none()
        };
        let gone: Vec<_> = self.assigner.consumers.iter().filter(is_gone).collect();
        if gone.is_empty() {
            return Ok(());
        }
        let begin = DB::BEGIN_READ.into_sql_str();
        let mut tx = self.connection.get()?.begin_with(begin).await?;
        let retired = read_retired::<DB>(&self.shared.names, &mut tx).await?;
        tx.commit().await?;
        for consumer in gone {
            if let Some(reason) = held_back_by(&retired, consumer.id()) {
                progress.hold_back(reason);
            }
        }
        Ok(())
    }
}
