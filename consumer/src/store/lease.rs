//! A connection that does not go back to its pool in the middle of something.

use sqlx::Database;
use sqlx::pool::PoolConnection;

/// A connection of a pool that is closed unless it is [released](Self::release).
///
/// A future that is dropped while it waits for the answer to `BEGIN` leaves a transaction that neither
/// sqlx nor the pool knows of; what the next user of the connection writes would never be committed.
pub(super) struct Lease<DB: Database> {
    pub(super) connection: PoolConnection<DB>,
    is_idle: bool,
}

impl<DB: Database> Lease<DB> {
    pub(super) fn new(connection: PoolConnection<DB>) -> Self {
        Self {
            connection,
            is_idle: false,
        }
    }

    /// Gives the connection back, after the last answer has come.
    pub(super) fn release(mut self) {
        self.is_idle = true;
    }
}

impl<DB: Database> Drop for Lease<DB> {
    fn drop(&mut self) {
        if !self.is_idle {
            self.connection.close_on_drop();
        }
    }
}
