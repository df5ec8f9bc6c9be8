//! Consumers of a SQL event store: declared with one attribute, checked by the compiler, registered
//! by linking, and run by a worker that loses no events to gaps in the log.
//!
//! Start with [`macro@consumer`], which declares a consumer, and [`Worker`], which runs it. The
//! [guides](guide) each cover one task. [`guide::frontier`] explains why no event is lost, and under
//! which conditions.
//!
//! ```standalone_crate
//! use consumer::prelude::*;
//! use consumer::sqlx;
//!
//! #[derive(Default)]
//! struct Users;
//!
//! #[consumer(name = "users", aggregates = ["User"])]
//! impl Users {
//!     async fn handle(&self, tx: &mut SqliteConnection, event: &PersistedEvent) -> Result<(), sqlx::Error> {
//!         sqlx::query("INSERT INTO users (id) VALUES (?1)").bind(&event.aggregate_id).execute(tx).await?;
//!         Ok(())
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let store = SqliteEventStore::connect("sqlite::memory:").await?;
//!     store.migrate().await?;
//!     sqlx::query("CREATE TABLE users (id TEXT PRIMARY KEY)").execute(store.pool()).await?;
//!     let event = NewEvent::new("User", "ada", "UserRegistered", "{}");
//!     store.append(ExpectedVersion::NoStream, &[event]).await?;
//!
//!     // `run(shutdown_signal())` runs until the process is asked to stop.
//!     let report = Worker::builder(store.clone()).discover().build()?.run_once().await?;
//!     assert!(!report.has_failures(), "{report}");
//!     let users: Vec<String> = sqlx::query_scalar("SELECT id FROM users").fetch_all(store.pool()).await?;
//!     assert_eq!(users, ["ada"]);
//!     Ok(())
//! }
//! ```
//!
//! | feature | default | enables |
//! |---|---|---|
//! | `sqlite`, `postgres` | `sqlite` | the event store and the worker on that database |
//! | `worker` | yes | the worker, and commands for operators in [`admin`] |
//! | `auto-register` | yes | consumers register by being linked |
//! | `cli` | no | the commands as a command line in your own binary |
//! | `dashboard` | no | the state of the consumers in a browser, in your own web server or from the command line |
//! | `metrics` | no | the worker's metrics, for any recorder of the `metrics` crate (see [`observing`]) |
//! | `testing` | no | tests of single consumers, without a worker |
//! | `tls-rustls-ring`, `tls-rustls-ring-native-roots`, `tls-rustls-aws-lc-rs`, `tls-native-tls` | no | TLS to Postgres, through sqlx |
//!
//! Without default features the crate has only the contract, the registry and the macro, and depends
//! on no driver.

#[cfg(all(feature = "sqlite", feature = "worker"))]
#[doc(hidden)]
pub mod __doc;
#[doc(hidden)]
pub mod __private;
#[cfg(all(feature = "worker", any(feature = "sqlite", feature = "postgres")))]
pub mod admin;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
// Each database, and the worker, use a part of it.
#[cfg_attr(
    not(all(feature = "sqlite", feature = "postgres", feature = "worker")),
    allow(dead_code)
)]
mod backend;
#[cfg(all(feature = "cli", any(feature = "sqlite", feature = "postgres")))]
pub mod cli;
mod contract;
#[cfg(all(feature = "dashboard", any(feature = "sqlite", feature = "postgres")))]
pub mod dashboard;
#[cfg(all(feature = "sqlite", feature = "worker"))]
pub mod guide;
#[cfg(all(feature = "worker", any(feature = "sqlite", feature = "postgres")))]
pub mod observing;
pub mod prelude;
mod registry;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
// Each database and the worker use a part of it.
#[cfg_attr(
    not(all(feature = "sqlite", feature = "postgres", feature = "worker")),
    allow(dead_code)
)]
mod store;
#[cfg(all(feature = "testing", any(feature = "sqlite", feature = "postgres")))]
pub mod testing;
#[cfg(all(feature = "worker", any(feature = "sqlite", feature = "postgres")))]
mod worker;

#[doc = include_str!("contract/event_derive.md")]
pub use consumer_derive::Event;
#[doc = include_str!("contract/read_model_derive.md")]
pub use consumer_derive::ReadModel;
#[doc = include_str!("registry/attribute.md")]
pub use consumer_derive::consumer;
pub use sqlx;

#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use crate::backend::{
    Access, Backend, Column, Constant, DriverError, Mismatch, ReadRange, Schema, SqlType,
    StoreError,
};
#[cfg(all(feature = "worker", any(feature = "sqlite", feature = "postgres")))]
pub use crate::backend::{
    Blocker, ConsumerId, HeldBack, HeldBackReason, LogProblem, TableError, aggregate_slice,
};
pub use crate::contract::read_model::{Fold, ReadModel};
pub use crate::contract::{
    Aggregate, Backoff, BatchError, BoxFuture, Consumer, Context, DecodeError, Envelope,
    ErasedConsumer, Event, EventFormat, EventRecord, ExpectedVersion, Formerly, Handler,
    HandlerError, Metadata, NewEvent, OnError, PersistedEvent, ScopedConsumer, Settings, StartFrom,
    TypedEvent, columns, read_model,
};
pub use crate::registry::{
    Crates, Declaration, Dependencies, MissingDependency, NameError, OtherDatabase, Problem,
    Registered, Registry, RegistryError, Selection, Site, check_name,
};
#[cfg(feature = "postgres")]
pub use crate::store::PgEventStore;
#[cfg(feature = "sqlite")]
pub use crate::store::SqliteEventStore;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use crate::store::conflicts::DecisionError;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use crate::store::decision::History;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use crate::store::once::AppendedOnce;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use crate::store::{EventStore, Redaction};
#[cfg(all(feature = "worker", any(feature = "sqlite", feature = "postgres")))]
pub use crate::worker::{
    BuildError, ConsumerReport, ConsumerState, FrontierWait, Health, HealthProblem, NameTaken,
    Report, WaitError, Worker, WorkerBuilder, WorkerError, WorkerHandle, merge_segments,
    shutdown_signal,
};

/// Tests the examples of the README.
#[cfg(all(
    doctest,
    feature = "postgres",
    feature = "sqlite",
    feature = "worker",
    feature = "auto-register"
))]
#[doc = include_str!("../../README.md")]
mod readme {}
