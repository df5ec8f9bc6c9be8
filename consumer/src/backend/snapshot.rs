//! Reads the rows of all checkpoints and the state of the log together, for which it uses both halves.

use super::checkpoints::CheckpointStatements;
use super::error::FrontierError;
use super::frontier::{Frontier, FrontierWatch as _, LogState};
use super::rows::SnapshotRow;

/// Reads the checkpoint rows, as [`Checkpoints::snapshot`](super::checkpoints::Checkpoints::snapshot) does,
/// and the state of the log.
pub(crate) async fn snapshot<DB: Frontier>(
    watch: &DB::Watch,
    connection: &mut DB::Connection,
    statements: &CheckpointStatements,
) -> Result<(LogState, Vec<SnapshotRow>), FrontierError> {
    let statement = statements.snapshot.safe();
    let (log, rows) = watch.read_with(connection, statement).await?;
    Ok((log, SnapshotRow::decode_all::<DB>(&rows)?))
}
