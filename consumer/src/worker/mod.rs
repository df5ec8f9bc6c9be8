//! Runs consumers: each event once in SQL, in order, and none skipped (R2–R4, R11, R12).
//!
//! Dependencies point one way: `log`, `progress` and `connections` know nothing of each other's
//! users, `poller` uses them, `lane` uses `poller`, and `run` puts everything together. `context` is
//! what their tasks share.

pub(crate) mod builder;
pub(crate) mod connections;
mod context;
mod error;
pub(crate) mod lane;
mod log;
mod metrics;
mod options;
mod panics;
pub(crate) mod poller;
pub(crate) mod process;
mod progress;
mod run;
mod run_guard;
mod shutdown;
pub(crate) mod tables;
mod threads;
pub(crate) mod timeouts;

pub use self::builder::WorkerBuilder;
pub use self::error::{BuildError, NameTaken, WorkerError};
pub use self::poller::segments::merge_segments;
pub use self::progress::handle::{WaitError, WorkerHandle};
pub use self::progress::health::{Health, HealthProblem};
pub use self::progress::report::{ConsumerReport, Report};
pub use self::progress::state::ConsumerState;
#[cfg(any(feature = "cli", feature = "dashboard"))]
pub(crate) use self::progress::state::Tone;
pub use self::progress::worker::FrontierWait;
pub use self::run::Worker;
pub use self::shutdown::shutdown_signal;
