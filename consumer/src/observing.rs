//! Metrics, spans and health probes of a worker.
//!
//! # Metrics
//!
//! With the feature `metrics`, a worker reports to the recorder of the [`metrics`] crate that the
//! program has installed. `examples/grafana` has a dashboard and alert rules for these metrics:
//!
//! | name | kind | labels | meaning |
//! |---|---|---|---|
//! | `consumer_events_total` | counter | `log`, `consumer`, `version` | events handled and committed, without parked and skipped ones |
//! | `consumer_batches_total` | counter | `log`, `consumer`, `version` | committed transactions that handled events |
//! | `consumer_batch_seconds` | histogram | `log`, `consumer`, `version` | time from claim to commit |
//! | `consumer_errors_total` | counter | `log`, `consumer`, `version`, `kind` | failed attempts: an error of the `handler`, of the `database`, a handler that tried to end the transaction (`commit`), an event that cannot be decoded (`unreadable`), or that was deleted before it was handled (`missing`) |
//! | `consumer_retries_total` | counter | `log`, `consumer`, `version` | attempts at an event after the first |
//! | `consumer_parked_total` | counter | `log`, `consumer`, `version` | events parked, including those behind a failed one |
//! | `consumer_skipped_total` | counter | `log`, `consumer`, `version` | events skipped |
//! | `consumer_parked_events` | gauge | `log`, `consumer`, `version` | events currently parked, updated every 10 s, as the checkpoints of idle consumers are |
//! | `consumer_state` | gauge | `log`, `consumer`, `version`, `state` | 1 for the state of the consumer in this process, 0 for the others: `running`, `retrying`, `waiting` (for the database), `waiting_for_release`, `stopped`, `paused`, `scope_changed`, `held_back` (see [renames](crate::guide::deploying#renaming-a-consumer)), `forgotten` (its checkpoint row is gone) |
//! | `consumer_waiting_segments` | gauge | `log`, `consumer`, `version`, `reason` | segments that do not get past their next event in this process: because its code does not know the event (`unknown`), because this release has failed on it and leaves it to others (`left`), or because it cannot be decoded (`unreadable`). `consumer_state` shows only the worst of a consumer's segments |
//! | `consumer_lag_positions` | gauge | `log`, `consumer`, `version`, `slice` | positions between the checkpoint and the head: an upper bound for the number of events, since there are gaps and other scopes |
//! | `consumer_settled_lag_positions` | gauge | `log`, `consumer`, `version`, `slice` | positions between the checkpoint and the frontier: less than `consumer_lag_positions` while a transaction blocks the frontier |
//! | `consumer_lag_seconds` | gauge | `log`, `consumer`, `version`, `slice` | age of the oldest event in scope that is not handled yet, 0 if there is none |
//! | `consumer_frontier_position` | gauge | `log` | the position up to which the log is settled |
//! | `consumer_head_position` | gauge | `log` | the highest visible position |
//! | `consumer_frontier_wait_seconds` | gauge | `log` | how long the frontier has been waiting at a gap |
//! | `consumer_frontier_blockers` | gauge | `log` | transactions that block the frontier, once it has waited for a second; the log names them |
//! | `consumer_continuity_breaks_total` | counter | `log` | events whose aggregate skips a version: see [what the frontier depends on](crate::guide::frontier) |
//! | `consumer_log_reads_total` | counter | `log`, `cache` | reads of a range of the log, by whether it was cached (`hit`, `miss`) |
//!
//! `log` is the name of the log: `events`, or that of the mapped table, after the database schema if the
//! [`Schema`](crate::Schema) names one. It tells the workers of several logs in one process apart.
//!
//! Alert on `consumer_state{state=~"stopped|scope_changed|held_back"} == 1`, on
//! `min by (log, consumer, version) (consumer_state{state="waiting_for_release"}) == 1`, when no process knows
//! the next event, on
//! `consumer_waiting_segments{reason="unreadable"} > 0`, and on
//! `consumer_parked_events > 0` for consumers that need an operator, and on
//! `consumer_lag_seconds > 60` for late ones. Workers in several processes report the same
//! consumers: take the `max` of gauges and the `sum` of counters, for each log.
//!
//! # Spans
//!
//! Each transaction is a `tracing` span named `consumer.batch` at level INFO, and the handler runs in it.
//! Its fields are `consumer`, `version`, `from` and `to` (the checkpoint before and after; no `to`
//! after a rollback), `events`, `attempt` and `duration_ms`.
//!
//! # Log
//!
//! A worker that starts logs each of its consumers at level INFO, with `consumer`, `version` and
//! `position`: the checkpoint, and with segments the lowest one. A failed attempt is logged at level WARN
//! with `position`, `attempts` and `error`, and with `aggregate_type`, `aggregate_id`, `event_type` and
//! `event_id`.
//!
//! # Health
//!
//! [`WorkerHandle::health`](crate::WorkerHandle::health) answers liveness and readiness probes. The
//! guide [`running`](crate::guide::running) lists which situation affects which probe.
//!
//! ```
//! use consumer::{Backend, WorkerHandle};
//!
//! /// Status and text of `/livez`; `/readyz` asks `is_ready` instead.
//! fn livez<DB: Backend>(worker: &WorkerHandle<DB>) -> (u16, String) {
//!     let health = worker.health();
//!     let status = if health.is_live() { 200 } else { 503 };
//!     (status, health.to_string())
//! }
//! ```
//!
//! [`metrics`]: https://docs.rs/metrics
