//! Events that are no longer in the log, as far as the workers recorded them.

use std::ops::RangeInclusive;

use super::error::AdminError;
use super::operator::Admin;
use crate::backend::Backend;

impl<DB: Backend> Admin<DB> {
    /// The first events of the log, if they were deleted: a rebuild does not get them.
    pub(crate) async fn missing_at_the_beginning(
        &self,
    ) -> Result<Option<RangeInclusive<i64>>, AdminError> {
        let mut reader = self.log_reader(0).await?;
        match reader.first_position().await? {
            Some(first) => reader.missing_from(first).await,
            None => Ok(None),
        }
    }
}
