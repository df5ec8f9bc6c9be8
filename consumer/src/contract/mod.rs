//! What a consumer is, and nothing of how it is run.
//!
//! This module depends on no store, no worker and no driver: it compiles with
//! `default-features = false` (R10).

pub mod columns;
mod consumer;
mod context;
mod error;
mod event;
pub(crate) mod generated;
mod settings;
pub(crate) mod typed;
pub(crate) mod variant;

pub use self::consumer::{BatchFuture, Consumer, ErasedConsumer, Handler, ScopedConsumer};
pub use self::context::Context;
pub use self::error::{BatchError, HandlerError};
pub use self::event::{EventRecord, Metadata, PersistedEvent};
pub use self::settings::{Backoff, OnError, Settings, StartFrom};
pub use self::typed::{Aggregate, DecodeError, Envelope, Event, Handled};
