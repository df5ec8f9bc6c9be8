//! Creates the tables of read models and their views, or compares those that exist with their structs.

use std::sync::Arc;

use crate::backend::{
    Backend, ReadModelTable, begin, held_back_by, lock_retired, prepare_version, prepare_view,
    refuse_elsewhere, table_schema,
};
use crate::contract::read_model::VersionTable;
use crate::store::EventStore;
use crate::worker::context::Shared;
use crate::worker::error::WorkerError;
use crate::worker::poller::assignment::WorkerConsumer;

/// Finds the schema of the tables whose names give none.
pub(crate) async fn find_schema<DB: Backend>(
    shared: &mut Shared<DB>,
    consumers: &[Arc<WorkerConsumer<DB>>],
) -> Result<(), WorkerError> {
    if consumers.iter().any(|one| one.table().is_some()) {
        let mut tx = begin(shared.store.pool(), DB::BEGIN_READ).await?;
        shared.table_schema = table_schema::<DB>(&mut tx, shared.store.schema()).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Prepares the tables of those consumers that have a read model.
pub(crate) async fn prepare<DB: Backend>(
    shared: &Shared<DB>,
    consumers: &[&WorkerConsumer<DB>],
) -> Result<(), WorkerError> {
    prepare_in(&shared.store, shared.table_schema.as_deref(), consumers).await
}

/// Prepares them before their consumers get rows from a command, since a worker that runs already prepares
/// none.
pub(crate) async fn prepare_before_rows<DB: Backend>(
    store: &EventStore<DB>,
    consumers: &[&WorkerConsumer<DB>],
) -> Result<(), WorkerError> {
    let mut tx = begin(store.pool(), DB::BEGIN_READ).await?;
    let schema = table_schema::<DB>(&mut tx, store.schema()).await?;
    tx.commit().await?;
    prepare_in(store, schema.as_deref(), consumers).await
}

async fn prepare_in<DB: Backend>(
    store: &EventStore<DB>,
    schema: Option<&str>,
    consumers: &[&WorkerConsumer<DB>],
) -> Result<(), WorkerError> {
    if consumers.iter().all(|one| one.table().is_none()) {
        return Ok(());
    }
    let settings = store.settings();
    let views = DB::view_statements(settings);
    let mut tx = begin(store.pool(), DB::BEGIN_TABLES).await?;
    let role = DB::role(&mut tx).await?;
    // A rename since the consumer was told to start has moved the records of its tables. Made again under
    // the old name, they would keep the new one from its table.
    let retired = lock_retired::<DB>(&DB::name_statements(settings), &mut tx).await?;
    for consumer in consumers {
        if held_back_by(&retired, consumer.id()).is_some() {
            continue;
        }
        let (id, Some(table)) = (consumer.id(), consumer.table()) else {
            continue;
        };
        let table = VersionTable::new(table, id.version, schema);
        let of = ReadModelTable::new(id, &table);
        refuse_elsewhere::<DB>(&views, &mut tx, &of, table.table()).await?;
        prepare_version::<DB>(&mut tx, settings, id, &table, role.as_deref()).await?;
        prepare_view::<DB>(&views, &mut tx, &of, role.as_deref()).await?;
    }
    Ok(tx.commit().await?)
}
