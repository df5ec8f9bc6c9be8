//! Holding the high-water mark of a consumer while its handler works outside any transaction.

use std::pin::pin;
use std::time::Duration;

use sqlx::Pool;
use tokio::time;

use crate::backend::{Backend, CheckpointStatements, MarkHolder};
use crate::contract::chain;

/// The data that is needed to hold a mark.
pub(crate) struct HeldMark<'a, DB: Backend> {
    pub(crate) pool: &'a Pool<DB>,
    pub(crate) statements: &'a CheckpointStatements,
    pub(crate) holder: MarkHolder,
    /// How long it is held after each renewal: a process that dies keeps others waiting no longer.
    pub(crate) timeout: Duration,
}

impl<DB: Backend> HeldMark<'_, DB> {
    /// Takes the mark in the caller's transaction; false if another version has it.
    pub(crate) async fn take(&self, connection: &mut DB::Connection) -> Result<bool, sqlx::Error> {
        DB::hold_mark(self.statements, connection, &self.holder, self.timeout).await
    }

    /// Waits for a handler, and renews the mark meanwhile.
    pub(crate) async fn during<T>(&self, handler: impl Future<Output = T>) -> T {
        let mut handler = pin!(handler);
        loop {
            tokio::select! {
                biased;
                output = &mut handler => return output,
                () = self.renew() => {}
            }
        }
    }

    /// If the mark is lost all the same, another version may handle the events too.
    async fn renew(&self) {
        time::sleep(self.timeout / 3).await;
        let renewed = async {
            let mut connection = self.pool.acquire().await?;
            self.take(&mut connection).await
        };
        match renewed.await {
            Ok(true) => {}
            Ok(false) => self.report("another version has it"),
            Err(error) => self.report(&chain(&error).to_string()),
        }
    }

    /// Lets other versions have the mark.
    pub(crate) async fn release(&self, connection: &mut DB::Connection) -> Result<(), sqlx::Error> {
        DB::release_mark(self.statements, connection, &self.holder).await
    }

    fn report(&self, error: &str) {
        tracing::warn!(
            consumer = %self.holder.consumer, error,
            "cannot keep other versions from handling the same events first"
        );
    }
}
