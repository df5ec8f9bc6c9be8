//! Connections that a dropped future leaves in order.

use std::ops::{Deref, DerefMut};

use sqlx::Pool;
use sqlx::pool::PoolConnection;

use crate::backend::{Backend, acquire};

/// A pooled connection that is closed unless it is given back: a future that was dropped, or a
/// handler, may have left it in a transaction.
pub(super) struct Borrowed<DB: Backend> {
    connection: PoolConnection<DB>,
    is_clean: bool,
}

impl<DB: Backend> Borrowed<DB> {
    pub(super) async fn from(pool: &Pool<DB>) -> Result<Self, sqlx::Error> {
        Ok(Self {
            connection: acquire(pool).await?,
            is_clean: false,
        })
    }

    /// Puts the connection back into the pool.
    pub(super) fn give_back(mut self) {
        self.is_clean = true;
    }
}

impl<DB: Backend> Drop for Borrowed<DB> {
    fn drop(&mut self) {
        if !self.is_clean {
            self.connection.close_on_drop();
        }
    }
}

impl<DB: Backend> Deref for Borrowed<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        &self.connection
    }
}

impl<DB: Backend> DerefMut for Borrowed<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        &mut self.connection
    }
}
