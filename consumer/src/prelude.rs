//! The items that a file with consumers uses: `use consumer::prelude::*;`.
//!
//! ```standalone_crate
//! use consumer::prelude::*;
//!
//! #[derive(Default)]
//! struct Printer;
//!
//! #[consumer(name = "printer", aggregates = ["User"])]
//! impl Printer {
//!     async fn handle(&self, event: &PersistedEvent) -> Result<(), HandlerError> {
//!         println!("{} {}", event.aggregate_id, event.event_type);
//!         Ok(())
//!     }
//! }
//! ```

#[cfg(feature = "postgres")]
pub use sqlx::PgConnection;
#[cfg(feature = "sqlite")]
pub use sqlx::SqliteConnection;

pub use consumer_derive::{Event, ReadModel, consumer};

#[doc(hidden)]
pub use crate::contract::generated::EndsNoTransaction as _;
pub use crate::contract::read_model::ReadModel;
pub use crate::contract::{
    Aggregate, Consumer, Context, Envelope, Event, Handler, HandlerError, PersistedEvent,
    ScopedConsumer,
};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use crate::contract::{ExpectedVersion, NewEvent};
pub use crate::registry::Dependencies;
#[cfg(feature = "postgres")]
pub use crate::store::PgEventStore;
#[cfg(feature = "sqlite")]
pub use crate::store::SqliteEventStore;
#[cfg(all(feature = "worker", any(feature = "sqlite", feature = "postgres")))]
pub use crate::worker::{Worker, shutdown_signal};
