//! Holding a mark of a consumer while its handler works outside any transaction.

use std::pin::pin;
use std::time::Duration;

use sqlx::Pool;
use tokio::runtime::Handle;
use tokio::time;

use crate::backend::{
    Backend, CheckpointStatements, MarkHolder, acquire, expire_mark, release_mark, renew_mark,
    take_mark,
};
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
    /// Takes the mark in the caller's transaction, for events after a position; false if another version
    /// has it.
    pub(crate) async fn take(
        &self,
        connection: &mut DB::Connection,
        position: i64,
    ) -> Result<bool, sqlx::Error> {
        let taken = take_mark::<DB>(self.statements, connection, &self.holder, self.timeout);
        let Some(former) = taken.await? else {
            return Ok(false);
        };
        for former in former {
            tracing::warn!(
                consumer = %self.holder.consumer, position, former,
                "a handler of the events after position {position} did not finish, so that they may be handled twice"
            );
        }
        Ok(true)
    }

    /// Waits for work that began with the mark, and renews the mark meanwhile. If this future is dropped
    /// before the work is done, the mark ends.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut dropped = ExpireOnDrop(Some(self));
        let mut work = pin!(work);
        let output = loop {
            tokio::select! {
                biased;
                output = &mut work => break output,
                () = self.renew() => {}
            }
        };
        dropped.0 = None;
        output
    }

    /// If the mark is lost all the same, another process may handle the events too.
    async fn renew(&self) {
        time::sleep(self.timeout / 3).await;
        let renewed = async {
            let mut connection = self.pool.acquire().await?;
            renew_mark::<DB>(self.statements, &mut connection, &self.holder, self.timeout).await
        };
        match renewed.await {
            Ok(true) => {}
            Ok(false) => self.report("the mark was lost"),
            Err(error) => self.report(&chain(&error).to_string()),
        }
    }

    /// Lets others have the mark.
    pub(crate) async fn release(&self, connection: &mut DB::Connection) -> Result<(), sqlx::Error> {
        release_mark::<DB>(self.statements, connection, &self.holder).await
    }

    fn report(&self, error: &str) {
        tracing::warn!(
            consumer = %self.holder.consumer, error,
            "cannot keep other processes from handling the same events"
        );
    }
}

/// Ends a mark with the work for which it was taken, so that others need not wait until it lapses.
struct ExpireOnDrop<'a, 'b, DB: Backend>(Option<&'a HeldMark<'b, DB>>);

impl<DB: Backend> Drop for ExpireOnDrop<'_, '_, DB> {
    fn drop(&mut self) {
        let Some(mark) = self.0 else {
            return;
        };
        // Outside a runtime, it lapses.
        if let Ok(runtime) = Handle::try_current() {
            let expire = expire_mark::<DB>(mark.statements, &mark.holder);
            let pool = mark.pool.clone();
            runtime.spawn(async move {
                let mut connection = acquire(&pool).await?;
                expire.execute(&mut connection).await
            });
        }
    }
}
