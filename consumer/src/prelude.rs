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

#[cfg(feature = "postgres")]
pub use crate::PgEventStore;
#[cfg(feature = "sqlite")]
pub use crate::SqliteEventStore;
#[doc(hidden)]
pub use crate::contract::generated::EndsNoTransaction as _;
pub use crate::{
    Aggregate, Consumer, Context, Dependencies, Envelope, Event, Handler, HandlerError,
    PersistedEvent, ScopedConsumer, consumer,
};
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use crate::{ExpectedVersion, NewEvent};
#[cfg(all(feature = "worker", any(feature = "sqlite", feature = "postgres")))]
pub use crate::{Worker, shutdown_signal};
