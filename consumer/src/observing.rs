//! What a worker tells of itself: metrics, spans, health.
//!
//! # Metrics
//!
//! With the feature `metrics` a worker speaks to whatever recorder of the [`metrics`] crate the
//! program has installed; `examples/grafana/consumers.json` is a dashboard for these:
//!
//! | name | kind | labels | what |
//! |---|---|---|---|
//! | `consumer_events_total` | counter | `consumer`, `version` | events handled and committed; not those that were parked or skipped |
//! | `consumer_batches_total` | counter | `consumer`, `version` | transactions that handled events |
//! | `consumer_batch_seconds` | histogram | `consumer`, `version` | from the claim to the commit |
//! | `consumer_errors_total` | counter | `consumer`, `version`, `kind` | attempts that failed: by the `handler`, by the `database`, or by a handler that tried to end the transaction (`commit`) |
//! | `consumer_retries_total` | counter | `consumer`, `version` | attempts at an event after its first |
//! | `consumer_parked_total` | counter | `consumer`, `version` | events set aside, also those behind a failing one |
//! | `consumer_skipped_total` | counter | `consumer`, `version` | events left out |
//! | `consumer_parked_events` | gauge | `consumer`, `version` | events that are set aside now; looked at every 10 s, as the checkpoints of idle consumers are |
//! | `consumer_state` | gauge | `consumer`, `version`, `state` | 1 for what the consumer does in this process, 0 for the rest: `running`, `retrying`, `waiting` (for the database), `stopped`, `paused`, `scope_changed`, `forgotten` (its checkpoint is gone) |
//! | `consumer_lag_positions` | gauge | `consumer`, `version`, `slice` | positions between what is handled and the frontier: an upper bound of the events, since there are gaps and other scopes |
//! | `consumer_lag_seconds` | gauge | `consumer`, `version`, `slice` | age of the first event of its scope that is not handled, 0 when there is none |
//! | `consumer_frontier_position` | gauge | | up to where the log is settled |
//! | `consumer_head_position` | gauge | | the highest visible position |
//! | `consumer_frontier_wait_seconds` | gauge | | for how long a gap has kept the frontier |
//! | `consumer_frontier_blockers` | gauge | | transactions that keep it, once it waits for a second; the log names them |
//! | `consumer_continuity_breaks_total` | counter | | events whose aggregate skips a version: see [what the frontier assumes](crate::guide::frontier) |
//! | `consumer_log_reads_total` | counter | `cache` | stretches of the log that were wanted, by whether they were in memory (`hit`, `miss`) |
//!
//! A consumer that somebody should look at: `consumer_state{state=~"stopped|scope_changed"} == 1`, or
//! `consumer_parked_events > 0`; one that is late: `consumer_lag_seconds > 60`. Workers in several
//! processes tell of the same consumers: take the `max` of gauges and the `sum` of counters.
//!
//! # Spans
//!
//! Each transaction is a `tracing` span named `consumer.batch`, level INFO, in which the handler
//! runs: `consumer`, `version`, `from` and `to` (checkpoints before and after; no `to` when it
//! rolled back), `events`, `attempt`, `duration_ms`.
//!
//! # Health
//!
//! [`WorkerHandle::health`](crate::WorkerHandle::health) answers liveness and readiness probes:
//!
//! ```
//! use consumer::{Backend, WorkerHandle};
//!
//! /// Status and text of `/live`; that of `/ready` asks `is_ready` instead.
//! fn live<DB: Backend>(worker: &WorkerHandle<DB>) -> (u16, String) {
//!     let health = worker.health();
//!     let status = if health.is_live() { 200 } else { 503 };
//!     (status, health.to_string())
//! }
//! ```
//!
//! [`metrics`]: https://docs.rs/metrics
