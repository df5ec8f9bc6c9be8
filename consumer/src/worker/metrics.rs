//! Reports to a recorder of the `metrics` crate; does nothing without the feature `metrics`.
//!
//! Names and labels are a public contract: the documentation of `observing` lists them.

use std::time::Duration;

#[cfg(feature = "metrics")]
use ::metrics::Unit;

use crate::backend::{ConsumerId, Observation, SegmentId};

/// Whether there can be a recorder: figures that cost a statement are skipped otherwise.
pub(crate) const IS_ON: bool = cfg!(feature = "metrics");

#[cfg(feature = "metrics")]
fn labels(log: &str, consumer: &ConsumerId) -> [(&'static str, String); 3] {
    [
        ("log", log.to_owned()),
        ("consumer", consumer.name.to_string()),
        ("version", consumer.version.to_string()),
    ]
}

#[cfg(feature = "metrics")]
const COUNTERS: [(&str, Unit, &str); 8] = [
    (
        "consumer_events_total",
        Unit::Count,
        "events handled and committed",
    ),
    (
        "consumer_batches_total",
        Unit::Count,
        "transactions that handled events",
    ),
    (
        "consumer_errors_total",
        Unit::Count,
        "failed attempts, by kind of failure",
    ),
    (
        "consumer_retries_total",
        Unit::Count,
        "attempts after an event's first",
    ),
    (
        "consumer_parked_total",
        Unit::Count,
        "events parked, including those behind a failing one",
    ),
    ("consumer_skipped_total", Unit::Count, "events skipped"),
    (
        "consumer_continuity_breaks_total",
        Unit::Count,
        "events whose aggregate skips a version",
    ),
    (
        "consumer_log_reads_total",
        Unit::Count,
        "requests for a range of the log, by cache hit or miss",
    ),
];

#[cfg(feature = "metrics")]
const GAUGES: [(&str, Unit, &str); 10] = [
    (
        "consumer_parked_events",
        Unit::Count,
        "events that are parked now",
    ),
    (
        "consumer_state",
        Unit::Count,
        "1 for the current state of the consumer, 0 for the others",
    ),
    (
        "consumer_waiting_segments",
        Unit::Count,
        "segments that do not get past their next event in this process, by reason",
    ),
    (
        "consumer_lag_positions",
        Unit::Count,
        "positions between the checkpoint and the head, an upper bound on the events",
    ),
    (
        "consumer_settled_lag_positions",
        Unit::Count,
        "positions between the checkpoint and the frontier, which may be handled now",
    ),
    (
        "consumer_lag_seconds",
        Unit::Seconds,
        "age of the first unhandled event in scope, 0 if there is none",
    ),
    (
        "consumer_frontier_position",
        Unit::Count,
        "the frontier: every position up to it is settled",
    ),
    (
        "consumer_head_position",
        Unit::Count,
        "the highest visible position",
    ),
    (
        "consumer_frontier_wait_seconds",
        Unit::Seconds,
        "how long the frontier has been waiting at a gap",
    ),
    (
        "consumer_frontier_blockers",
        Unit::Count,
        "transactions that block the frontier, reported after a second",
    ),
];

/// How many segments of a consumer wait before their next event, by the reason.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(not(feature = "metrics"), allow(dead_code))]
pub(crate) struct WaitingSegments {
    /// The code does not know it.
    pub(crate) unknown: u32,
    /// This release has failed on it, and leaves it to others.
    pub(crate) left: u32,
    /// It cannot be decoded.
    pub(crate) unreadable: u32,
}

/// Describes each metric, for recorders that publish descriptions.
pub(crate) fn describe() {
    #[cfg(feature = "metrics")]
    {
        for (name, unit, text) in COUNTERS {
            ::metrics::describe_counter!(name, unit, text);
        }
        for (name, unit, text) in GAUGES {
            ::metrics::describe_gauge!(name, unit, text);
        }
        let text = "time of a batch, from the claim to the commit";
        ::metrics::describe_histogram!("consumer_batch_seconds", Unit::Seconds, text);
    }
}

/// Counts a committed batch, unless it handled no event.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn batch(log: &str, key: &SegmentId, events: u64, took: Duration) {
    #[cfg(feature = "metrics")]
    {
        if events == 0 {
            return;
        }
        let labels = labels(log, &key.consumer);
        ::metrics::counter!("consumer_events_total", &labels).increment(events);
        ::metrics::counter!("consumer_batches_total", &labels).increment(1);
        ::metrics::histogram!("consumer_batch_seconds", &labels).record(took.as_secs_f64());
    }
}

/// Counts a failed attempt: of the `handler`, of the `database`, or of a handler that ended the
/// transaction (`commit`).
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn error(log: &str, key: &SegmentId, kind: &'static str) {
    #[cfg(feature = "metrics")]
    {
        let [log, consumer, version] = labels(log, &key.consumer);
        let labels = [log, consumer, version, ("kind", kind.to_owned())];
        ::metrics::counter!("consumer_errors_total", &labels).increment(1);
    }
}

/// Counts another attempt at an event.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn retry(log: &str, key: &SegmentId) {
    #[cfg(feature = "metrics")]
    ::metrics::counter!("consumer_retries_total", &labels(log, &key.consumer)).increment(1);
}

/// Counts events that were parked or skipped.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn parked_or_skipped(log: &str, key: &SegmentId, parked: u64, skipped: u64) {
    #[cfg(feature = "metrics")]
    {
        let kinds = [
            ("consumer_parked_total", parked),
            ("consumer_skipped_total", skipped),
        ];
        for (name, events) in kinds {
            if events > 0 {
                ::metrics::counter!(name, &labels(log, &key.consumer)).increment(events);
            }
        }
    }
}

/// Sets how far a lane is behind the head, in positions and in time, and how many of the positions are
/// settled.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn lag(log: &str, key: &SegmentId, positions: i64, settled: i64, time: Duration) {
    #[cfg(feature = "metrics")]
    {
        let [log, consumer, version] = labels(log, &key.consumer);
        let labels = [
            log,
            consumer,
            version,
            ("slice", key.slice_from.to_string()),
        ];
        ::metrics::gauge!("consumer_lag_positions", &labels).set(float(positions));
        ::metrics::gauge!("consumer_settled_lag_positions", &labels).set(float(settled));
        ::metrics::gauge!("consumer_lag_seconds", &labels).set(time.as_secs_f64());
    }
}

/// Sets the gauge of a consumer's state to 1 and those of all other states to 0.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn state(log: &str, consumer: &ConsumerId, states: &[&'static str], current: &str) {
    #[cfg(feature = "metrics")]
    {
        for &label in states {
            let [log, name, version] = labels(log, consumer);
            let labels = [log, name, version, ("state", label.to_owned())];
            let is_current = f64::from(u8::from(label == current));
            ::metrics::gauge!("consumer_state", &labels).set(is_current);
        }
    }
}

/// Sets how many segments of a consumer wait before their next event.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn waiting_segments(log: &str, consumer: &ConsumerId, waiting: WaitingSegments) {
    #[cfg(feature = "metrics")]
    {
        let reasons = [
            ("unknown", waiting.unknown),
            ("left", waiting.left),
            ("unreadable", waiting.unreadable),
        ];
        for (reason, segments) in reasons {
            let [log, consumer, version] = labels(log, consumer);
            let labels = [log, consumer, version, ("reason", reason.to_owned())];
            ::metrics::gauge!("consumer_waiting_segments", &labels).set(f64::from(segments));
        }
    }
}

/// Sets how many events of a consumer are parked.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn parked(log: &str, consumer: &ConsumerId, events: i64) {
    #[cfg(feature = "metrics")]
    {
        let labels = labels(log, consumer);
        ::metrics::gauge!("consumer_parked_events", &labels).set(float(events));
    }
}

/// Sets the frontier, the head, and how long the frontier has been waiting at a gap.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn frontier(log: &str, observed: &Observation, waited: Duration) {
    #[cfg(feature = "metrics")]
    {
        let labels = [("log", log.to_owned())];
        ::metrics::gauge!("consumer_frontier_position", &labels).set(float(observed.settled));
        ::metrics::gauge!("consumer_head_position", &labels).set(float(observed.head));
        ::metrics::gauge!("consumer_frontier_wait_seconds", &labels).set(waited.as_secs_f64());
    }
}

/// Sets how many transactions block the frontier.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn blockers(log: &str, count: usize) {
    #[cfg(feature = "metrics")]
    ::metrics::gauge!("consumer_frontier_blockers", "log" => log.to_owned())
        .set(float(i64::try_from(count).unwrap_or(0)));
}

/// Counts an event whose aggregate skips a version.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn continuity_break(log: &str) {
    #[cfg(feature = "metrics")]
    ::metrics::counter!("consumer_continuity_breaks_total", "log" => log.to_owned()).increment(1);
}

/// Counts a request for a range of the log.
#[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
pub(crate) fn cache(log: &str, is_hit: bool) {
    #[cfg(feature = "metrics")]
    {
        let result = if is_hit { "hit" } else { "miss" };
        let labels = [("log", log.to_owned()), ("cache", result.to_owned())];
        ::metrics::counter!("consumer_log_reads_total", &labels).increment(1);
    }
}

#[cfg(feature = "metrics")]
#[allow(clippy::cast_precision_loss)] // a gauge is a float
fn float(number: i64) -> f64 {
    number as f64
}
