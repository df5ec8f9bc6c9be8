//! What a consumer is, and nothing of how it is run.
//!
//! This module depends on no store, no worker and no driver: it compiles with
//! `default-features = false` (R10).

pub mod columns;
mod consumer;
mod context;
mod error;
mod event;
mod expected_version;
pub(crate) mod generated;
mod new_event;
mod settings;
pub(crate) mod typed;

pub use self::consumer::{BatchFuture, Consumer, ErasedConsumer, Handler, ScopedConsumer};
pub use self::context::Context;
pub use self::error::{BatchError, HandlerError};
pub use self::event::{EventRecord, Metadata, PersistedEvent};
pub use self::expected_version::ExpectedVersion;
pub use self::new_event::{NewEvent, TypedEvent};
pub use self::settings::{Backoff, OnError, Settings, StartFrom};
pub use self::typed::{Aggregate, DecodeError, Envelope, Event, Handled};
