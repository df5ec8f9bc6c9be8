//! What the worker tells a recorder of metrics; without the feature `metrics`, nothing.
//!
//! The names and labels are a contract: see the table in the crate's documentation.

use std::time::Duration;

use super::dialect::{LaneKey, Observation};

#[cfg(feature = "metrics")]
macro_rules! labels {
    ($key:expr) => {{
        let key: &LaneKey = $key;
        [
            ("consumer", key.consumer.to_string()),
            ("version", key.version.to_string()),
        ]
    }};
}

/// A batch was committed.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn batch(key: &LaneKey, events: usize, took: Duration) {
    #[cfg(feature = "metrics")]
    {
        let labels = labels!(key);
        metrics::counter!("consumer_events_total", &labels).increment(events as u64);
        metrics::counter!("consumer_batches_total", &labels).increment(1);
        metrics::histogram!("consumer_batch_seconds", &labels).record(took.as_secs_f64());
    }
}

/// Something went wrong: with an event (`handler`), or with the database (`database`), or by a
/// handler that ended its transaction (`commit`).
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn error(key: &LaneKey, kind: &'static str) {
    #[cfg(feature = "metrics")]
    {
        let [consumer, version] = labels!(key);
        let labels = [consumer, version, ("kind", kind.to_owned())];
        metrics::counter!("consumer_errors_total", &labels).increment(1);
    }
}

/// An event is tried again.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn retry(key: &LaneKey) {
    #[cfg(feature = "metrics")]
    metrics::counter!("consumer_retries_total", &labels!(key)).increment(1);
}

/// An event was parked, or skipped.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn set_aside(key: &LaneKey, is_parked: bool, events: usize) {
    #[cfg(feature = "metrics")]
    {
        let name = if is_parked {
            "consumer_parked_total"
        } else {
            "consumer_skipped_total"
        };
        metrics::counter!(name, &labels!(key)).increment(events as u64);
    }
}

/// How far a lane is behind the frontier, in positions and in time.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn lag(key: &LaneKey, positions: i64, time: Duration) {
    #[cfg(feature = "metrics")]
    {
        let [consumer, version] = labels!(key);
        let labels = [consumer, version, ("slice", key.slice_from.to_string())];
        #[allow(clippy::cast_precision_loss)] // a gauge is a float
        let positions = positions as f64;
        metrics::gauge!("consumer_lag_positions", &labels).set(positions);
        metrics::gauge!("consumer_lag_seconds", &labels).set(time.as_secs_f64());
    }
}

/// What a look at the log found, and for how long a gap has kept the frontier.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn frontier(seen: &Observation, waited: Duration) {
    #[cfg(feature = "metrics")]
    {
        #[allow(clippy::cast_precision_loss)] // a gauge is a float
        let (settled, head) = (seen.settled as f64, seen.head as f64);
        metrics::gauge!("consumer_frontier_position").set(settled);
        metrics::gauge!("consumer_head_position").set(head);
        metrics::gauge!("consumer_frontier_wait_seconds").set(waited.as_secs_f64());
    }
}

/// How many transactions keep the frontier.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn blockers(count: usize) {
    #[cfg(feature = "metrics")]
    {
        #[allow(clippy::cast_precision_loss)] // a gauge is a float
        let count = count as f64;
        metrics::gauge!("consumer_frontier_blockers").set(count);
    }
}

/// An event came whose predecessor nobody has read.
pub(crate) fn continuity_break() {
    #[cfg(feature = "metrics")]
    metrics::counter!("consumer_continuity_breaks_total").increment(1);
}

/// A stretch of the log was wanted, and was in the cache or not.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn cache(is_hit: bool) {
    #[cfg(feature = "metrics")]
    {
        let result = if is_hit { "hit" } else { "miss" };
        metrics::counter!("consumer_log_reads_total", "cache" => result).increment(1);
    }
}
