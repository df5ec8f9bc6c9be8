//! Shared by the tests: temporary databases of both kinds, and tests that run on both.

pub mod accounts;
mod binaries;
mod blind;
mod browser;
mod commands;
mod consumers;
mod counting;
mod database;
mod delay;
mod filling;
mod folding;
mod given;
pub mod history;
pub mod http;
mod imports;
mod killing;
mod logged;
pub mod measuring;
mod message_db;
mod model;
mod pgbouncer;
mod postgres;
mod process;
mod programs;
mod properties;
mod recording;
pub mod releases;
mod restarts;
pub mod samples;
mod served;
mod sqlite;
mod standby;
mod terminal;
mod writers;

use consumer::Column;

pub use self::browser::{Browser, Element, Screen};
pub use self::commands::command;
pub use self::consumers::{
    Handled, Running, TestConsumer, batch_consumer, chaining, consumer, dropped_after, impatient,
    judging, log_problem, next_release, patiently, read_model, run_once, until, until_some,
};
pub use self::counting::Counting;
pub use self::database::{Database, TestDatabase, databases};
pub use self::delay::Delay;
pub use self::filling::{Filling, order};
pub use self::folding::{Folding, folding};
pub use self::given::{Notes, give, in_memory};
pub use self::imports::{Imports, rust_files};
pub use self::killing::kill_20_times;
pub use self::logged::{keep_log, logged, logging};
pub use self::model::{Model, Seen};
pub use self::pgbouncer::PgBouncer;
pub use self::postgres::{PgDatabase, PostgresBuilder, TestPostgres, free_port};
pub use self::process::{WorkerProcess, declaring_main, release_main, signal, worker_main};
pub use self::programs::{Program, cargo_outside, target_outside};
pub use self::properties::{cases, noise};
pub use self::recording::{Payloads, recording_at_gate, watching};
pub use self::restarts::Restarts;
pub use self::served::Served;
pub use self::sqlite::SqliteDatabase;
pub use self::standby::{Standby, Switch};
pub use self::terminal::{Piped, Terminal, plain};
pub use self::writers::{Kind, NaiveReader, Tally, Writers, naive_step};

/// All columns of the log.
pub const COLUMNS: [Column; 13] = [
    Column::GlobalPosition,
    Column::AggregateType,
    Column::AggregateId,
    Column::AggregateVersion,
    Column::EventId,
    Column::EventType,
    Column::EventVersion,
    Column::Payload,
    Column::TraceId,
    Column::CorrelationId,
    Column::CausationId,
    Column::Metadata,
    Column::CreatedAt,
];

/// The library under another path, as a crate that wraps it would offer it.
pub mod reexport {
    pub use consumer::*;
}

/// Declares a consumer in the crate that calls this, as a macro of another crate does.
#[macro_export]
macro_rules! declare_a_consumer {
    ($type:ident, $name:literal) => {
        struct $type;

        #[$crate::reexport::consumer(name = $name, crate = $crate::reexport)]
        impl $type {
            async fn handle(
                &self,
                _event: &$crate::reexport::PersistedEvent,
            ) -> Result<(), $crate::reexport::HandlerError> {
                Ok(())
            }
        }
    };
}
