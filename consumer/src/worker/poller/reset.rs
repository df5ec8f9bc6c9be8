//! Detects checkpoints of a log that was reset.

use crate::backend::{Backend, FrontierError, FrontierWatch as _, SnapshotRow};

/// Refuses a checkpoint above the highest position that the log has given out: the events that get the
/// positions below it would be left out.
pub(crate) async fn refuse_checkpoints_above<DB: Backend>(
    watch: &DB::Watch,
    connection: &mut DB::Connection,
    rows: &[SnapshotRow],
) -> Result<(), FrontierError> {
    let rows = rows.iter().map(|row| &row.checkpoint);
    let Some(highest) = rows.max_by_key(|row| row.position) else {
        return Ok(());
    };
    let what = format!("the checkpoint of `{}`", highest.key.consumer.name);
    // After the rows: what other processes handle meanwhile was given out before.
    watch.refuse_above(connection, what, highest.position).await
}
