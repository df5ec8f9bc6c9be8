//! What an operator's verbs ask of a database; `postgres.rs` and `sqlite.rs` answer in SQL.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::store::EventStore;
use crate::worker::WorkerBackend;
use crate::worker::dialect::{Checkpoint, State};

/// A database that can be operated: Postgres or SQLite.
///
/// The trait is sealed.
///
/// Only code that is generic over the database names it, as a bound:
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # mod example {
/// use consumer::admin::{Admin, AdminBackend, AdminError};
///
/// async fn pause_all<DB: AdminBackend>(admin: &Admin<DB>) -> Result<(), AdminError> {
///     for consumer in admin.status().await?.consumers {
///         admin.pause(&*consumer.name).await?;
///     }
///     Ok(())
/// }
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "no consumers are operated on `{Self}`",
    label = "neither `Postgres` nor `Sqlite`",
    note = "use `PgEventStore` or `SqliteEventStore`, and turn on the feature `postgres` or `sqlite` of `consumer`"
)]
pub trait AdminBackend: AdminDialect {}

/// What an operator's verbs ask of a database.
pub trait AdminDialect: WorkerBackend {
    /// The dialect's SQL with the names of the schema filled in.
    type AdminSql: Send + Sync + 'static;

    fn admin_sql(store: &EventStore<Self>) -> Self::AdminSql;

    /// Reads all checkpoint rows and what is parked beside them.
    fn rows(
        sql: &Self::AdminSql,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Vec<Row>, sqlx::Error>> + Send;

    /// Counts the events of a scope in a part of the log, up to a limit.
    fn count(
        sql: &Self::AdminSql,
        connection: &mut Self::Connection,
        part: Part<'_>,
        limit: i64,
    ) -> impl Future<Output = Result<i64, sqlx::Error>> + Send;

    /// The age of the first event of a scope in a part of the log, in milliseconds.
    fn age(
        sql: &Self::AdminSql,
        connection: &mut Self::Connection,
        part: Part<'_>,
    ) -> impl Future<Output = Result<Option<i64>, sqlx::Error>> + Send;

    /// Locks the rows of one version of a consumer, in the caller's transaction.
    fn lock(
        sql: &Self::AdminSql,
        connection: &mut Self::Connection,
        of: &Of,
        wait: Duration,
    ) -> impl Future<Output = Result<Lock, sqlx::Error>> + Send;

    /// Makes the end of the caller's transaction depend on [`release`](Self::release), before a
    /// consumer's code is called in it (R4).
    fn arm(
        sql: &Self::AdminSql,
        connection: &mut Self::Connection,
        of: &Of,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Allows the transaction to commit; false when it is not the one that was locked in.
    fn release(
        sql: &Self::AdminSql,
        connection: &mut Self::Connection,
        taken: &Taken,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Ends, from another connection, what the backend of a transaction is doing.
    fn end_backend(
        sql: &Self::AdminSql,
        connection: &mut Self::Connection,
        taken: &Taken,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Sets the state and forgets the attempts.
    fn set_state(
        sql: &Self::AdminSql,
        connection: &mut Self::Connection,
        of: &Of,
        state: State,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Moves the checkpoint back to the beginning and removes what is parked.
    fn rewind(
        sql: &Self::AdminSql,
        connection: &mut Self::Connection,
        of: &Of,
        scope: Option<&str>,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Writes another scope into the checkpoint.
    fn set_scope(
        sql: &Self::AdminSql,
        connection: &mut Self::Connection,
        of: &Of,
        scope: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Reads what is parked, in the order of the log.
    fn parked(
        sql: &Self::AdminSql,
        connection: &mut Self::Connection,
        of: &Of,
    ) -> impl Future<Output = Result<Vec<ParkedRow>, sqlx::Error>> + Send;

    /// Removes a parked event; only under the lock of the rows.
    fn unpark(
        sql: &Self::AdminSql,
        connection: &mut Self::Connection,
        of: &Of,
        position: i64,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;

    /// Notes that a parked event failed again; only under the lock of the rows.
    fn blame(
        sql: &Self::AdminSql,
        connection: &mut Self::Connection,
        of: &Of,
        position: i64,
        error: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Removes the checkpoint, what is parked beside it, and that it is the active one.
    fn forget(
        sql: &Self::AdminSql,
        connection: &mut Self::Connection,
        of: &Of,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Which version of each consumer was made the active one.
    fn active(
        sql: &Self::AdminSql,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Vec<(String, i32)>, sqlx::Error>> + Send;

    /// Makes a version the active one.
    fn activate(
        sql: &Self::AdminSql,
        connection: &mut Self::Connection,
        of: &Of,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Whether the error says that somebody else keeps a lock.
    fn is_held(error: &sqlx::Error) -> bool;
}

/// One version of a consumer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Of {
    pub(crate) consumer: Arc<str>,
    pub(crate) version: i32,
}

/// A part of the log, as one consumer sees it.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub(crate) after: i64,
    pub(crate) up_to: i64,
    /// Empty for every event (R7).
    pub(crate) scope: &'a [String],
}

impl Part<'_> {
    /// The scope as both databases take a list apart.
    pub(crate) fn scope_json(&self) -> String {
        serde_json::to_string(self.scope).unwrap_or_default()
    }
}

/// A checkpoint row, and what is parked beside it.
#[derive(Clone, Debug)]
pub struct Row {
    pub(crate) checkpoint: Checkpoint,
    /// Milliseconds until the next attempt.
    pub(crate) retry_in: Option<i64>,
    /// Milliseconds since it was last written.
    pub(crate) saved_ago: i64,
    pub(crate) parked: i64,
    pub(crate) parked_aggregates: i64,
}

/// A parked event as the table has it.
#[derive(Clone, Debug)]
pub struct ParkedRow {
    pub(crate) position: i64,
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
    pub(crate) reason: String,
    pub(crate) attempts: i32,
    pub(crate) error: Option<String>,
    /// Milliseconds since.
    pub(crate) parked_ago: i64,
}

/// Who has locked rows, where the database has a server.
#[derive(Clone, Debug, Default)]
#[cfg_attr(not(feature = "postgres"), allow(dead_code))] // SQLite has none
pub struct Taken {
    /// The transaction's id.
    pub(crate) transaction: String,
    /// The backend that it runs on.
    pub(crate) backend: i32,
}

/// What became of an attempt to lock rows.
#[derive(Clone, Debug)]
pub enum Lock {
    /// They are locked, in this transaction.
    Taken(Taken),
    /// There are none.
    Missing,
}

/// Writes the part of a dialect that is the same on both databases, apart from the text of the
/// statements and the type of the connection.
macro_rules! shared_dialect {
    ($connection:ty, $row:ty) => {
        async fn rows(
            statements: &Statements,
            connection: &mut $connection,
        ) -> Result<Vec<Row>, sqlx::Error> {
            let rows = statements.rows.query().fetch_all(connection).await?;
            rows.iter().map(row).collect()
        }

        async fn count(
            statements: &Statements,
            connection: &mut $connection,
            part: Part<'_>,
            limit: i64,
        ) -> Result<i64, sqlx::Error> {
            let query = if part.scope.is_empty() {
                statements
                    .count
                    .scalar()
                    .bind(part.after)
                    .bind(part.up_to)
                    .bind(limit)
            } else {
                statements
                    .count_scope
                    .scalar()
                    .bind(part.after)
                    .bind(part.up_to)
                    .bind(limit)
                    .bind(part.scope_json())
            };
            query.fetch_one(connection).await
        }

        async fn age(
            statements: &Statements,
            connection: &mut $connection,
            part: Part<'_>,
        ) -> Result<Option<i64>, sqlx::Error> {
            let query = if part.scope.is_empty() {
                statements.age.scalar().bind(part.after).bind(part.up_to)
            } else {
                statements
                    .age_scope
                    .scalar()
                    .bind(part.after)
                    .bind(part.up_to)
                    .bind(part.scope_json())
            };
            query.fetch_optional(connection).await
        }

        async fn set_state(
            statements: &Statements,
            connection: &mut $connection,
            of: &Of,
            state: State,
        ) -> Result<(), sqlx::Error> {
            statements
                .set_state
                .query()
                .bind(&*of.consumer)
                .bind(of.version)
                .bind(state.as_str())
                .execute(connection)
                .await?;
            Ok(())
        }

        async fn arm(
            statements: &Statements,
            connection: &mut $connection,
            of: &Of,
        ) -> Result<(), sqlx::Error> {
            statements
                .arm
                .query()
                .bind(&*of.consumer)
                .bind(of.version)
                .execute(connection)
                .await?;
            Ok(())
        }

        async fn rewind(
            statements: &Statements,
            connection: &mut $connection,
            of: &Of,
            scope: Option<&str>,
        ) -> Result<(), sqlx::Error> {
            statements
                .rewind
                .query()
                .bind(&*of.consumer)
                .bind(of.version)
                .bind(scope)
                .execute(&mut *connection)
                .await?;
            statements
                .forget_parked
                .query()
                .bind(&*of.consumer)
                .bind(of.version)
                .execute(connection)
                .await?;
            Ok(())
        }

        async fn set_scope(
            statements: &Statements,
            connection: &mut $connection,
            of: &Of,
            scope: &str,
        ) -> Result<(), sqlx::Error> {
            statements
                .set_scope
                .query()
                .bind(&*of.consumer)
                .bind(of.version)
                .bind(scope)
                .execute(connection)
                .await?;
            Ok(())
        }

        async fn parked(
            statements: &Statements,
            connection: &mut $connection,
            of: &Of,
        ) -> Result<Vec<ParkedRow>, sqlx::Error> {
            let rows = statements
                .parked
                .query()
                .bind(&*of.consumer)
                .bind(of.version)
                .fetch_all(connection)
                .await?;
            rows.iter().map(parked_row).collect()
        }

        async fn unpark(
            statements: &Statements,
            connection: &mut $connection,
            of: &Of,
            position: i64,
        ) -> Result<bool, sqlx::Error> {
            let removed = statements
                .unpark
                .query()
                .bind(&*of.consumer)
                .bind(of.version)
                .bind(position)
                .execute(connection)
                .await?;
            Ok(removed.rows_affected() == 1)
        }

        async fn blame(
            statements: &Statements,
            connection: &mut $connection,
            of: &Of,
            position: i64,
            error: &str,
        ) -> Result<(), sqlx::Error> {
            statements
                .blame
                .query()
                .bind(&*of.consumer)
                .bind(of.version)
                .bind(position)
                .bind(error.replace('\0', "\u{fffd}"))
                .execute(connection)
                .await?;
            Ok(())
        }

        async fn forget(
            statements: &Statements,
            connection: &mut $connection,
            of: &Of,
        ) -> Result<(), sqlx::Error> {
            for statement in [
                &statements.forget_parked,
                &statements.forget_active,
                &statements.forget,
            ] {
                statement
                    .query()
                    .bind(&*of.consumer)
                    .bind(of.version)
                    .execute(&mut *connection)
                    .await?;
            }
            Ok(())
        }

        async fn active(
            statements: &Statements,
            connection: &mut $connection,
        ) -> Result<Vec<(String, i32)>, sqlx::Error> {
            {
                let rows = statements.active.query().fetch_all(connection).await?;
                rows.iter()
                    .map(|row| Ok((row.try_get("consumer")?, row.try_get("version")?)))
                    .collect()
            }
        }

        async fn activate(
            statements: &Statements,
            connection: &mut $connection,
            of: &Of,
        ) -> Result<(), sqlx::Error> {
            statements
                .activate
                .query()
                .bind(&*of.consumer)
                .bind(of.version)
                .execute(connection)
                .await?;
            Ok(())
        }
    };
}
pub(super) use shared_dialect;

/// Writes the reading of rows, which names the database's own row type.
macro_rules! shared_rows {
    ($row:ty) => {
        fn row(row: &$row) -> Result<Row, sqlx::Error> {
            let attempts: i32 = row.try_get("attempts")?;
            Ok(Row {
                checkpoint: Checkpoint {
                    key: LaneKey {
                        consumer: row.try_get::<String, _>("consumer")?.into(),
                        version: row.try_get("version")?,
                        slice_from: row.try_get("slice_from")?,
                    },
                    slice_to: row.try_get("slice_to")?,
                    position: row.try_get("position")?,
                    epoch: row.try_get("epoch")?,
                    scope: row.try_get("scope")?,
                    state: State::parse(row.try_get("state")?),
                    replay_to: row.try_get("replay_to")?,
                    hold_at: row.try_get("hold_at")?,
                    attempts: u32::try_from(attempts).unwrap_or(0),
                    failed_position: row.try_get("failed_position")?,
                    error: row.try_get("error")?,
                },
                retry_in: row.try_get("retry_in")?,
                saved_ago: row.try_get("saved_ago")?,
                parked: row.try_get("parked")?,
                parked_aggregates: row.try_get("parked_aggregates")?,
            })
        }

        fn parked_row(row: &$row) -> Result<ParkedRow, sqlx::Error> {
            Ok(ParkedRow {
                position: row.try_get("position")?,
                aggregate_type: row.try_get("aggregate_type")?,
                aggregate_id: row.try_get("aggregate_id")?,
                reason: row.try_get("reason")?,
                attempts: row.try_get("attempts")?,
                error: row.try_get("error")?,
                parked_ago: row.try_get("parked_ago")?,
            })
        }
    };
}
pub(super) use shared_rows;
