//! Operating consumers: inspect, pause, resume, rebuild, retry, rename, forget.
//!
//! Each command is a method of [`Admin`]. The feature `cli` offers the same commands on the command
//! line.

mod borrowed;
mod commands;
mod error;
#[cfg_attr(not(feature = "dashboard"), allow(dead_code))]
pub(crate) mod events;
mod explain;
mod frontier;
mod lag;
mod locks;
mod log_reader;
mod migration;
mod missing;
mod names;
mod operator;
mod options;
mod pace;
mod parked;
#[cfg(feature = "cli")]
mod preflight;
#[cfg_attr(not(any(feature = "cli", feature = "dashboard")), allow(dead_code))]
pub(crate) mod problems;
mod rebuild;
mod redaction;
mod retry;
mod status;
mod stopped;
#[cfg_attr(not(any(feature = "cli", feature = "dashboard")), allow(dead_code))]
pub(crate) mod text;
mod unknown;
mod versions;

pub use self::error::AdminError;
pub use self::explain::{ExplainedEvent, Explanation, HandlerSite, Outcome};
pub use self::frontier::FrontierStatus;
pub use self::lag::Lag;
pub use self::operator::Admin;
pub use self::options::{ActivateOptions, ForgetOptions, RebuildOptions, Target};
pub use self::parked::ParkedEvent;
#[cfg_attr(
    not(any(feature = "cli", feature = "dashboard")),
    allow(unused_imports)
)]
pub(crate) use self::parked::by_aggregate;
pub use self::rebuild::{RebuildProgress, RebuildWatch, Rebuilt};
pub use self::retry::Retried;
#[cfg_attr(
    not(any(feature = "cli", feature = "dashboard")),
    allow(unused_imports)
)]
pub(crate) use self::status::processes_of;
pub use self::status::{ConsumerStatus, Failing, SegmentStatus, Status, WorkerStatus};
pub use self::unknown::UnknownEvents;
pub use crate::backend::ViewError;
pub use crate::backend::{ConsumerId, UnknownEvent};
pub use crate::worker::ConsumerState;
