//! What the worker tells a recorder of metrics; without the feature `metrics`, nothing.
//!
//! The names and labels are a contract: see the table in the crate's documentation.

use std::time::Duration;

use crate::backend::{ConsumerId, Observation, SegmentId};
use crate::worker::lane::attempt::Tally;
use crate::worker::progress::state::ConsumerState;

/// Whether anybody may listen: what costs a statement is left out otherwise.
pub(crate) const IS_ON: bool = cfg!(feature = "metrics");

#[cfg(feature = "metrics")]
fn labels(consumer: &ConsumerId) -> [(&'static str, String); 2] {
    [
        ("consumer", consumer.name.to_string()),
        ("version", consumer.version.to_string()),
    ]
}

/// Says what each metric means, for recorders that pass it on.
pub(crate) fn describe() {
    #[cfg(feature = "metrics")]
    {
        use ::metrics::Unit::{Count, Seconds};
        use ::metrics::{describe_counter, describe_gauge, describe_histogram};

        describe_counter!(
            "consumer_events_total",
            Count,
            "events handled and committed"
        );
        describe_counter!(
            "consumer_batches_total",
            Count,
            "transactions that handled events"
        );
        describe_histogram!(
            "consumer_batch_seconds",
            Seconds,
            "time of a batch, from the claim to the commit"
        );
        describe_counter!(
            "consumer_errors_total",
            Count,
            "attempts that failed, by whose trouble it was"
        );
        describe_counter!(
            "consumer_retries_total",
            Count,
            "attempts at an event after its first"
        );
        describe_counter!(
            "consumer_parked_total",
            Count,
            "events set aside, also those behind a failing one"
        );
        describe_counter!("consumer_skipped_total", Count, "events left out");
        describe_gauge!(
            "consumer_parked_events",
            Count,
            "events that are set aside now"
        );
        describe_gauge!(
            "consumer_state",
            Count,
            "1 for the state that the consumer is in, 0 for the others"
        );
        describe_gauge!(
            "consumer_lag_positions",
            Count,
            "positions between what is handled and the frontier, an upper bound of the events"
        );
        describe_gauge!(
            "consumer_lag_seconds",
            Seconds,
            "age of the first event of the scope that is not handled, 0 when there is none"
        );
        describe_gauge!(
            "consumer_frontier_position",
            Count,
            "up to where the log is settled"
        );
        describe_gauge!(
            "consumer_head_position",
            Count,
            "the highest visible position"
        );
        describe_gauge!(
            "consumer_frontier_wait_seconds",
            Seconds,
            "for how long a gap has kept the frontier"
        );
        describe_gauge!(
            "consumer_frontier_blockers",
            Count,
            "transactions that keep the frontier, once it waits for a second"
        );
        describe_counter!(
            "consumer_continuity_breaks_total",
            Count,
            "events whose aggregate skips a version"
        );
        describe_counter!(
            "consumer_log_reads_total",
            Count,
            "ranges of the log that were wanted, by whether they were in memory"
        );
    }
}

/// A batch was committed; one in which nothing was handled is none.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn batch(key: &SegmentId, tally: Tally, took: Duration) {
    #[cfg(feature = "metrics")]
    {
        if tally.handled == 0 {
            return;
        }
        let labels = labels(&key.consumer);
        ::metrics::counter!("consumer_events_total", &labels).increment(tally.handled as u64);
        ::metrics::counter!("consumer_batches_total", &labels).increment(1);
        ::metrics::histogram!("consumer_batch_seconds", &labels).record(took.as_secs_f64());
    }
}

/// Something went wrong: with an event (`handler`), or with the database (`database`), or by a
/// handler that ended its transaction (`commit`).
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn error(key: &SegmentId, kind: &'static str) {
    #[cfg(feature = "metrics")]
    {
        let [consumer, version] = labels(&key.consumer);
        let labels = [consumer, version, ("kind", kind.to_owned())];
        ::metrics::counter!("consumer_errors_total", &labels).increment(1);
    }
}

/// An event is tried again.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn retry(key: &SegmentId) {
    #[cfg(feature = "metrics")]
    ::metrics::counter!("consumer_retries_total", &labels(&key.consumer)).increment(1);
}

/// Events were parked, or skipped, for good.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn set_aside(key: &SegmentId, tally: Tally) {
    #[cfg(feature = "metrics")]
    {
        let kinds = [
            ("consumer_parked_total", tally.parked),
            ("consumer_skipped_total", tally.skipped),
        ];
        for (name, events) in kinds {
            if events > 0 {
                ::metrics::counter!(name, &labels(&key.consumer)).increment(events as u64);
            }
        }
    }
}

/// How far a lane is behind the frontier, in positions and in time.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn lag(key: &SegmentId, positions: i64, time: Duration) {
    #[cfg(feature = "metrics")]
    {
        let [consumer, version] = labels(&key.consumer);
        let labels = [consumer, version, ("slice", key.slice_from.to_string())];
        ::metrics::gauge!("consumer_lag_positions", &labels).set(float(positions));
        ::metrics::gauge!("consumer_lag_seconds", &labels).set(time.as_secs_f64());
    }
}

/// What a consumer is doing: the gauge of that state is 1, and those of the others are 0.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn state(consumer: &ConsumerId, state: &ConsumerState) {
    #[cfg(feature = "metrics")]
    {
        let current = match state {
            ConsumerState::Starting => "waiting",
            other => other.name(),
        };
        for one in ConsumerState::RUNNING_NAMES {
            let [name, version] = labels(consumer);
            let labels = [name, version, ("state", one.to_owned())];
            let is_current = f64::from(u8::from(one == current));
            ::metrics::gauge!("consumer_state", &labels).set(is_current);
        }
    }
}

/// How many events a consumer has set aside now.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn parked(consumer: &ConsumerId, events: i64) {
    #[cfg(feature = "metrics")]
    {
        let labels = labels(consumer);
        ::metrics::gauge!("consumer_parked_events", &labels).set(float(events));
    }
}

/// What a look at the log found, and for how long a gap has kept the frontier.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn frontier(seen: &Observation, waited: Duration) {
    #[cfg(feature = "metrics")]
    {
        ::metrics::gauge!("consumer_frontier_position").set(float(seen.settled));
        ::metrics::gauge!("consumer_head_position").set(float(seen.head));
        ::metrics::gauge!("consumer_frontier_wait_seconds").set(waited.as_secs_f64());
    }
}

/// How many transactions keep the frontier.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn blockers(count: usize) {
    #[cfg(feature = "metrics")]
    ::metrics::gauge!("consumer_frontier_blockers").set(float(i64::try_from(count).unwrap_or(0)));
}

/// An event came whose predecessor nobody has read.
pub(crate) fn continuity_break() {
    #[cfg(feature = "metrics")]
    ::metrics::counter!("consumer_continuity_breaks_total").increment(1);
}

/// A range of the log was wanted, and was in the cache or not.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn cache(is_hit: bool) {
    #[cfg(feature = "metrics")]
    {
        let result = if is_hit { "hit" } else { "miss" };
        ::metrics::counter!("consumer_log_reads_total", "cache" => result).increment(1);
    }
}

#[cfg(feature = "metrics")]
#[allow(clippy::cast_precision_loss)] // a gauge is a float
fn float(number: i64) -> f64 {
    number as f64
}
