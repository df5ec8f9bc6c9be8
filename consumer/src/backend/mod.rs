//! The databases that can hold an event store and the checkpoints of its consumers; all SQL is here.
//!
//! Each database is a folder, whose files carry the same names in both. Four have no counterpart, since
//! only one of the databases has what they are about: on Postgres, several servers behind an address
//! (`marker.rs`), roles (`privileges.rs`) and the sequence of positions (`sequence.rs`); on SQLite, hooks
//! (`hooks.rs`). What is the same in both dialects is written once, in the traits beside them.
//!
//! A backend has two halves that share no statement and no transaction except through the worker: the
//! log (`events`, `frontier`) and the consumers (`checkpoints`, `operate`).

mod access;
#[cfg(feature = "worker")]
mod alive;
mod append;
#[cfg(feature = "worker")]
mod browse;
#[cfg(feature = "worker")]
mod checkpoints;
mod clock;
mod column;
mod column_sql;
mod dialect;
mod driver;
mod driver_error;
mod error;
mod events;
#[cfg(feature = "testing")]
mod faults;
mod fit;
#[cfg(feature = "worker")]
mod frontier;
#[cfg(feature = "worker")]
mod held_marks;
#[cfg(feature = "worker")]
mod incarnation;
mod json_text;
#[cfg(feature = "worker")]
mod ledger;
#[cfg(feature = "worker")]
mod log_problem;
mod log_rows;
#[cfg(feature = "worker")]
mod marks;
mod migrations;
mod mismatch;
mod missing;
mod names;
#[cfg(feature = "worker")]
mod operate;
#[cfg(feature = "worker")]
mod pace;
#[cfg(feature = "worker")]
mod pending;
mod pool;
#[cfg(feature = "postgres")]
mod postgres;
mod presets;
mod read;
mod read_model;
mod read_model_database;
#[cfg(feature = "worker")]
mod renames;
mod repeat;
#[cfg(feature = "worker")]
mod rows;
mod schema;
#[cfg(feature = "worker")]
mod shown_version;
#[cfg(feature = "worker")]
mod slices;
#[cfg(feature = "worker")]
mod snapshot;
mod sql;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "worker")]
mod tables;
mod version;
#[cfg(feature = "worker")]
mod views;

pub use self::access::Access;
#[cfg(feature = "worker")]
pub(crate) use self::alive::sign_of_life;
pub(crate) use self::append::Append;
#[cfg(feature = "worker")]
pub(crate) use self::browse::{Among, BrowseStatements, Cursor, EventHeader};
#[cfg(feature = "worker")]
pub(crate) use self::checkpoints::OnThread;
#[cfg(feature = "worker")]
pub(crate) use self::checkpoints::{
    CheckpointStatements, ClaimOptions, OtherLog, Remains, TransactionGuard, must_wait,
};
#[cfg(feature = "worker")]
pub(crate) use self::clock::is_paused as clock_is_paused;
pub use self::column::{Column, Constant, SqlType};
pub use self::driver_error::DriverError;
#[cfg(feature = "worker")]
pub(crate) use self::error::FrontierError;
pub use self::error::StoreError;
#[cfg(feature = "worker")]
pub(crate) use self::error::is_read_only;
pub(crate) use self::events::{EventStatements, Opened};
pub(crate) use self::fit::refuse_unfit_redaction;
#[cfg(feature = "worker")]
pub use self::frontier::Blocker;
#[cfg(feature = "worker")]
pub(crate) use self::frontier::{
    FormatCount, FrontierWatch, LagStatements, LogState, Observation, Part,
};
#[cfg(feature = "worker")]
pub(crate) use self::held_marks::{
    expire_mark, expire_marks_of_the_dead, release_mark, renew_mark, take_mark,
};
#[cfg(feature = "worker")]
pub(crate) use self::incarnation::Incarnation;
pub(crate) use self::json_text::JsonText;
#[cfg(feature = "worker")]
pub(crate) use self::ledger::{Ledger, Run};
#[cfg(feature = "worker")]
pub use self::log_problem::LogProblem;
pub(crate) use self::log_rows::LogRow;
#[cfg(feature = "worker")]
pub(crate) use self::log_rows::{UnreadableEvent, position, readable_event};
#[cfg(any(feature = "cli", feature = "dashboard"))]
pub(crate) use self::log_rows::{readable_payload, readable_time};
#[cfg(feature = "cli")]
pub(crate) use self::migrations::older_libraries_sql;
#[cfg(feature = "worker")]
pub(crate) use self::migrations::{admits_passing_over, check_mapping, check_use};
pub(crate) use self::migrations::{check, migrate, script, set_older_libraries};
pub use self::mismatch::Mismatch;
#[cfg(feature = "worker")]
pub(crate) use self::operate::OperateStatements;
#[cfg(feature = "worker")]
pub(crate) use self::pace::Pace;
#[cfg(feature = "worker")]
pub(crate) use self::pool::acquire;
pub(crate) use self::pool::begin;
pub use self::read::ReadRange;
#[cfg(feature = "worker")]
pub use self::renames::{HeldBack, HeldBackReason};
#[cfg(feature = "worker")]
pub(crate) use self::renames::{
    NameStatements, Names, Program, Renamed, Start, held_back_by, lift, lock_retired, read_retired,
    refuse_rename, rename,
};
pub(crate) use self::repeat::refuse_other;
#[cfg(feature = "worker")]
pub(crate) use self::rows::{
    Advance, Aggregate, Checkpoint, Claim, Enrolment, Failure, Lock, MarkHolder, NamedEvents,
    NewCheckpoint, PRESENT_FOR, ParkedRow, Parking, Precedence, Presence, Process, Row, SegmentId,
    SnapshotRow, State, Taken,
};
#[cfg(feature = "worker")]
pub use self::rows::{ConsumerId, UnknownEvent};
pub use self::schema::Schema;
#[cfg(feature = "worker")]
pub(crate) use self::shown_version::view_of;
#[cfg(feature = "worker")]
pub(crate) use self::slices::SLICES;
#[cfg(feature = "worker")]
pub use self::slices::aggregate_slice;
#[cfg(feature = "worker")]
pub(crate) use self::snapshot::snapshot;
pub(crate) use self::sql::{Sql, StoreSettings};
#[cfg(feature = "worker")]
pub use self::tables::TableError;
#[cfg(feature = "worker")]
pub(crate) use self::tables::{
    prepare_table, prepare_version, refuse_elsewhere, schema_of_version, table_schema,
};
#[cfg(feature = "worker")]
pub use self::views::ViewError;
#[cfg(feature = "cli")]
pub(crate) use self::views::recorded_tables;
#[cfg(feature = "worker")]
pub(crate) use self::views::{
    Name, ReadModelTable, ViewStatements, drop_table, prepare_view, progress_of, switch_view,
};

/// A database that can hold an event store and run its consumers: Postgres or SQLite, each behind
/// the feature of its name.
///
/// The trait is sealed. Code that is generic over the database uses it as a bound:
///
/// ```
/// use consumer::{Backend, EventStore, PersistedEvent, StoreError};
///
/// async fn history<DB: Backend>(
///     store: &EventStore<DB>,
///     connection: &mut DB::Connection,
///     user: &str,
/// ) -> Result<Vec<PersistedEvent>, StoreError> {
///     store.read_aggregate(connection, "User", user, None, None).await
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "no event store runs on `{Self}`",
    label = "neither `Postgres` nor `Sqlite`",
    note = "use `PgEventStore` or `SqliteEventStore`, and turn on the feature `postgres` or `sqlite` of `consumer`"
)]
pub trait Backend: Parts {}

/// The parts of a backend that the features of this build use.
pub trait Parts: events::Events + read_model::ReadModelRows + WorkerParts + TestingParts {}

/// The parts that a worker uses.
#[cfg(feature = "worker")]
pub trait WorkerParts:
    browse::Browse
    + frontier::Frontier
    + checkpoints::Checkpoints
    + operate::Operate
    + tables::Tables
    + views::Views
{
}

/// The parts that a worker uses: none without the feature.
#[cfg(not(feature = "worker"))]
pub trait WorkerParts {}

/// The part that the test kit uses.
#[cfg(feature = "testing")]
pub trait TestingParts: faults::Faults {}

/// The part that the test kit uses: none without the feature.
#[cfg(not(feature = "testing"))]
pub trait TestingParts {}

/// Gives a database all parts.
macro_rules! parts {
    ($database:ty) => {
        impl WorkerParts for $database {}
        impl TestingParts for $database {}
        impl Parts for $database {}
    };
}

#[cfg(feature = "postgres")]
parts!(sqlx::Postgres);
#[cfg(feature = "postgres")]
impl Backend for sqlx::Postgres {}
#[cfg(feature = "sqlite")]
parts!(sqlx::Sqlite);
#[cfg(feature = "sqlite")]
impl Backend for sqlx::Sqlite {}
