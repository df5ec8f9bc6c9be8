//! SQLite.

#[cfg(feature = "worker")]
mod checkpoints;
mod connect;
mod events;
#[cfg(feature = "testing")]
mod faults;
#[cfg(feature = "worker")]
mod frontier;
#[cfg(feature = "worker")]
mod hooks;
mod migrations;
#[cfg(feature = "worker")]
mod operate;
mod rows;
mod statements;
