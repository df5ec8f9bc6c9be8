//! Creates the tables of read models and their views, or compares those that exist with their structs.

use std::sync::Arc;

use crate::backend::{Backend, ReadModelTable, begin, prepare_version, prepare_view, table_schema};
use crate::contract::read_model::VersionTable;
use crate::worker::context::Shared;
use crate::worker::error::WorkerError;
use crate::worker::poller::assignment::WorkerConsumer;

/// Finds the schema of the tables whose names give none.
pub(crate) async fn find_schema<DB: Backend>(
    shared: &mut Shared<DB>,
    consumers: &[Arc<WorkerConsumer<DB>>],
) -> Result<(), WorkerError> {
    shared.table_schema = shared.store.schema().handlers_schema().map(Arc::from);
    let mut tables = consumers.iter().filter_map(|one| one.table());
    if let Some(table) = tables.next().filter(|_| shared.table_schema.is_none()) {
        let mut tx = begin(shared.store.pool(), DB::BEGIN_READ).await?;
        shared.table_schema = table_schema::<DB>(&mut tx, Some(table)).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Prepares the tables of those consumers that have a read model.
pub(crate) async fn prepare<DB: Backend>(
    shared: &Shared<DB>,
    consumers: &[&WorkerConsumer<DB>],
) -> Result<(), WorkerError> {
    if consumers.iter().all(|one| one.table().is_none()) {
        return Ok(());
    }
    let settings = shared.store.settings();
    let views = DB::view_statements(settings);
    let mut tx = begin(shared.store.pool(), DB::BEGIN_TABLES).await?;
    let role = DB::role(&mut tx).await?;
    for consumer in consumers {
        let (id, Some(table)) = (consumer.id(), consumer.table()) else {
            continue;
        };
        let table = VersionTable::new(table, id.version, shared.table_schema.as_deref());
        prepare_version::<DB>(&mut tx, settings, id, &table, role.as_deref()).await?;
        let of = ReadModelTable::new(id, &table);
        prepare_view::<DB>(&views, &mut tx, &of, role.as_deref()).await?;
    }
    Ok(tx.commit().await?)
}
