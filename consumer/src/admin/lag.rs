//! How far a consumer is behind, in events of its scope and in time.

use std::time::Duration;

use serde::Serialize;
use serde::ser::Serializer;

use super::error::AdminError;
use super::operator::Admin;
use crate::backend::{Backend, Part};

/// Beyond this, the exact number of events does not matter.
pub(super) const MOST_COUNTED: i64 = 1_000_000;

/// How far a consumer is behind the head of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Lag {
    /// The events of its scope after its checkpoint. With several segments, those after the lowest one,
    /// of which other segments may have handled some.
    pub events: u64,
    /// Whether there are more than were counted.
    pub is_more: bool,
    /// How long ago the first of them was appended.
    #[serde(serialize_with = "seconds", rename = "seconds")]
    pub time: Option<Duration>,
}

impl<DB: Backend> Admin<DB> {
    /// Counts the events in a part of the log, up to a limit.
    pub(super) async fn count(&self, part: Part<'_>, limit: i64) -> Result<i64, AdminError> {
        self.log_reader(limit).await?.count(part, limit).await
    }
}

/// The types of a scope, as a checkpoint row has them.
pub(super) fn scope_of(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

pub(super) fn millis(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

#[allow(clippy::ref_option)] // what serde asks for
pub(super) fn seconds<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    time.map(in_seconds).serialize(to)
}

/// A time as seconds with at most three decimals, as the database measured it.
pub(crate) fn in_seconds(time: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss)] // a time to read
    let millis = time.as_millis() as f64;
    millis / 1_000.0
}
