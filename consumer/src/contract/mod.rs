//! The definitions of consumers, events and read models.
//!
//! Nothing here depends on a store, a worker or a driver: it compiles with
//! `default-features = false` (R10).

pub mod columns;
pub(crate) mod const_text;
mod consumer;
mod context;
mod error;
mod event;
mod expected_version;
mod formerly;
pub(crate) mod generated;
mod new_event;
pub mod read_model;
mod settings;
pub(crate) mod typed;
pub(crate) mod variant;
pub(crate) mod variant_handler;

pub use self::consumer::{BoxFuture, Consumer, ErasedConsumer, Handler, ScopedConsumer};
pub use self::context::Context;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) use self::error::driver_text;
pub use self::error::{BatchError, HandlerError, chain};
pub use self::event::{EventFormat, EventRecord, Metadata, PersistedEvent};
pub use self::expected_version::ExpectedVersion;
pub use self::formerly::Formerly;
pub use self::new_event::{NewEvent, TypedEvent};
pub use self::settings::{Backoff, OnError, Settings, StartFrom};
pub use self::typed::{Aggregate, DecodeError, Envelope, Event, Handled};
