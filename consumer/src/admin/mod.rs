//! Operating consumers: inspect, pause, resume, rebuild, retry, rename, forget.
//!
//! Each command is a method of [`Admin`]. The feature `cli` offers the same commands on the command
//! line.

mod borrowed;
mod commands;
mod error;
mod frontier;
mod lag;
mod locks;
mod missing;
mod names;
mod operator;
mod options;
mod pace;
mod parked;
#[cfg(feature = "cli")]
mod preflight;
mod rebuild;
mod redaction;
mod retry;
mod status;
mod stopped;
pub(crate) mod text;
mod versions;

pub use self::error::AdminError;
pub use self::frontier::FrontierStatus;
pub use self::lag::Lag;
pub use self::operator::Admin;
pub use self::options::{ActivateOptions, ForgetOptions, RebuildOptions, Target};
pub use self::parked::ParkedEvent;
pub use self::rebuild::{RebuildProgress, RebuildWatch, Rebuilt};
pub use self::retry::Retried;
pub use self::status::{ConsumerStatus, Failing, Status};
pub use crate::backend::ConsumerId;
pub use crate::backend::ViewError;
pub use crate::worker::ConsumerState;
