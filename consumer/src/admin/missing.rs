//! Events that are no longer in the log, as far as it is known that they were.

use std::ops::RangeInclusive;

use super::error::AdminError;
use super::operator::Admin;
use crate::backend::{Backend, ReadRange, Row, position as position_of};

impl<DB: Backend> Admin<DB> {
    /// The first events of the log, if they were deleted: a rebuild does not get them.
    pub(crate) async fn missing_at_the_beginning(
        &self,
    ) -> Result<Option<RangeInclusive<i64>>, AdminError> {
        let mut tx = self.read().await?;
        let state = DB::log_state(&self.tables().await?.lag, &mut tx).await?;
        drop(tx);
        match state.first {
            Some(first) => self.missing_from(first).await,
            None => Ok(None),
        }
    }

    /// The events that were deleted before one of these rows has handled them.
    pub(super) async fn missing_before(
        &self,
        rows: &[Row],
    ) -> Result<Option<RangeInclusive<i64>>, AdminError> {
        for pending in rows.iter().filter_map(|row| row.pending) {
            let missing = self.missing_from(pending).await?;
            if missing.is_some() {
                return Ok(missing);
            }
        }
        Ok(None)
    }

    /// The gap that begins at a position which had an event; `None` if it has one.
    async fn missing_from(&self, position: i64) -> Result<Option<RangeInclusive<i64>>, AdminError> {
        let range = ReadRange {
            after: position - 1,
            up_to: i64::MAX,
            limit: 1,
            max_bytes: 0,
            scope: None,
        };
        let mut tx = self.read().await?;
        let store = &self.tables().await?.store;
        let rows = store.read_rows(&mut tx, range).await?;
        let last = match rows.first() {
            Some(row) => position_of(row) - 1,
            // The log has no event after it.
            None => position,
        };
        Ok((last >= position).then_some(position..=last))
    }
}
