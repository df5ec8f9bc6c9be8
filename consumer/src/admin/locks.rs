//! Transactions that hold the lock of a consumer's rows, for our statements or for its code.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Connection as _, Transaction};

use super::borrowed::Borrowed;
use super::error::AdminError;
use super::operator::{Admin, held_or, unknown};
use crate::backend::{
    Access, Backend, ConsumerId, Lock, SLICES, Taken, TransactionGuard as _, ViewError, begin,
    must_wait,
};
use crate::contract::Context;
use crate::worker::connections::Parts;
use crate::worker::lane::effects::run_effects;
use crate::worker::lane::failure::is_refusal_of_commit;
use crate::worker::timeouts::after;

/// How long a command that only changes rows waits for the current batch.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(30);

/// How long others may have the database before the lock is tried again.
const PAUSE: Duration = Duration::from_millis(25);

/// Work that runs while the rows of a consumer are locked.
pub(super) trait Work<DB: Backend>: Send + Sync {
    type Output: Send;

    /// Ends with [`Failed::Ended`] where the consumer's code has ended the transaction, before any
    /// statement of ours.
    fn run(
        &self,
        tx: &mut Transaction<'_, DB>,
        taken: &Taken,
        effects: &mut Effects,
    ) -> impl Future<Output = Result<Self::Output, Failed>> + Send;

    /// The error if the database refused to commit the writes of the consumer's code.
    fn refused(&self, output: &Self::Output, error: sqlx::Error) -> AdminError;
}

/// The actions that a consumer's code requested for after the commit.
#[derive(Default)]
pub(super) struct Effects(Vec<Arc<Context>>);

impl Effects {
    pub(super) fn add(&mut self, cx: &Arc<Context>) {
        self.0.push(Arc::clone(cx));
    }

    pub(super) async fn run(self) {
        for cx in self.0 {
            run_effects(&cx).await;
        }
    }
}

/// How a consumer's code failed in a transaction.
pub(super) enum Failed {
    /// The transaction can be rolled back.
    InOrder(AdminError),
    /// The code was abandoned in the middle of a statement.
    GivenUp(AdminError),
    /// The code ended the transaction itself (R4).
    Ended,
}

impl<E: Into<AdminError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::InOrder(error.into())
    }
}

impl<DB: Backend> Admin<DB> {
    /// Begins a transaction that writes and locks the rows in it, as soon as no one else has them.
    pub(super) async fn locked(
        &self,
        consumer: &ConsumerId,
        wait: Duration,
    ) -> Result<Transaction<'static, DB>, AdminError> {
        let until = after(wait);
        self.repeatedly(wait, || self.try_locked(consumer, left(until)))
            .await
    }

    /// Repeats what others hold up, for at most `wait`.
    pub(super) async fn repeatedly<T, F>(
        &self,
        wait: Duration,
        work: impl Fn() -> F,
    ) -> Result<T, AdminError>
    where
        F: Future<Output = Result<T, AdminError>>,
    {
        let until = after(wait);
        loop {
            let done = work().await;
            if !is_held(&done) || !pause(until).await {
                return done;
            }
        }
    }

    pub(super) async fn try_locked(
        &self,
        consumer: &ConsumerId,
        wait: Duration,
    ) -> Result<Transaction<'static, DB>, AdminError> {
        let mut tx = self.write(consumer).await?;
        if self.must_wait(&mut tx, consumer).await? {
            tx.commit().await?;
            return Err(held(consumer));
        }
        self.lock(&mut tx, consumer, wait).await?;
        Ok(tx)
    }

    /// Whether a handler works on the consumer without a claim. If so, the caller has to commit.
    pub(super) async fn must_wait(
        &self,
        tx: &mut Transaction<'_, DB>,
        consumer: &ConsumerId,
    ) -> Result<bool, AdminError> {
        let statements = &self.tables().await?.checkpoints;
        let all = 0..i32::from(SLICES);
        Ok(must_wait::<DB>(statements, tx, consumer, all).await?)
    }

    /// Begins a transaction that writes.
    pub(super) async fn write(
        &self,
        consumer: &ConsumerId,
    ) -> Result<Transaction<'static, DB>, AdminError> {
        self.tables().await?;
        let begun = begin(self.store.pool(), DB::BEGIN_APPEND).await;
        let mut tx = begun.map_err(|error| held_or::<DB>(error, consumer))?;
        self.check_use(&mut tx, Access::Operate).await?;
        Ok(tx)
    }

    /// Locks the rows for the rest of a transaction, and says which transaction that is.
    pub(super) async fn lock(
        &self,
        tx: &mut Transaction<'_, DB>,
        consumer: &ConsumerId,
        wait: Duration,
    ) -> Result<Taken, AdminError> {
        match DB::lock(&self.tables().await?.sql, tx, consumer, wait).await {
            Ok(Lock::Taken(taken)) => {
                // Now that no migration can change the tables any more.
                self.check_use(tx, Access::Operate).await?;
                Ok(taken)
            }
            Ok(Lock::Missing) => Err(unknown(consumer.into(), &[])),
            Err(error) => Err(held_or::<DB>(error, consumer)),
        }
    }

    /// Calls a consumer's code in a transaction that holds the lock of its rows, commits, and runs
    /// the code's effects. If the code fails, or ends the transaction itself (R4), nothing is saved.
    pub(super) async fn under_lock<W: Work<DB>>(
        &self,
        consumer: &ConsumerId,
        wait: Duration,
        work: W,
    ) -> Result<W::Output, AdminError> {
        let until = after(wait);
        loop {
            let done = self.try_under_lock(consumer, left(until), &work).await;
            if !is_held(&done) || !pause(until).await {
                return done;
            }
        }
    }

    async fn try_under_lock<W: Work<DB>>(
        &self,
        consumer: &ConsumerId,
        wait: Duration,
        work: &W,
    ) -> Result<W::Output, AdminError> {
        let mut lease = self.connections.writer().await?;
        let mut effects = Effects::default();
        let parts = lease.begin()?;
        let done = self.in_lease(parts, consumer, wait, work, &mut effects);
        let output = done.await?;
        drop(lease);
        effects.run().await;
        Ok(output)
    }

    async fn in_lease<W: Work<DB>>(
        &self,
        parts: Parts<'_, DB>,
        consumer: &ConsumerId,
        wait: Duration,
        work: &W,
        effects: &mut Effects,
    ) -> Result<W::Output, AdminError> {
        let Parts {
            connection,
            guard,
            ended_well,
            ..
        } = parts;
        let begun = connection.begin_with(guard.begin()).await;
        let mut tx = begun.map_err(|error| held_or::<DB>(error, consumer))?;
        if self.must_wait(&mut tx, consumer).await? {
            *ended_well = tx.commit().await.is_ok();
            return Err(held(consumer));
        }
        let taken = match self.lock(&mut tx, consumer, wait).await {
            Ok(taken) => taken,
            Err(error) => {
                *ended_well = tx.rollback().await.is_ok();
                return Err(error);
            }
        };
        match guarded(work, &mut tx, &taken, effects, guard).await {
            Ok(output) if DB::release(&mut tx, &taken).await? => {
                match tx.commit().await {
                    Err(error) if is_refusal_of_commit::<DB>(&error) => {
                        return Err(work.refused(&output, error));
                    }
                    committed => committed?,
                }
                *ended_well = DB::RESTORES_SESSION;
                if connection.is_in_transaction() {
                    // That was a savepoint which the consumer left open.
                    return Err(AdminError::EndedTransaction {
                        consumer: consumer.clone(),
                    });
                }
                Ok(output)
            }
            Ok(_) | Err(Failed::Ended) => Err(AdminError::EndedTransaction {
                consumer: consumer.clone(),
            }),
            Err(Failed::InOrder(error)) => {
                *ended_well = tx.rollback().await.is_ok() && DB::RESTORES_SESSION;
                Err(error)
            }
            Err(Failed::GivenUp(error)) => {
                // Dropping the future does not end the statement, which would keep the rows locked.
                guard.give_up();
                let mut other = Borrowed::from(self.store.pool()).await?;
                DB::terminate(&mut other, taken.backend).await?;
                other.give_back();
                Err(error)
            }
        }
    }
}

/// Runs the work while the guard forbids the end of the transaction.
async fn guarded<DB: Backend, W: Work<DB>>(
    work: &W,
    tx: &mut Transaction<'_, DB>,
    taken: &Taken,
    effects: &mut Effects,
    guard: &DB::Guard,
) -> Result<W::Output, Failed> {
    guard.allow_end(false);
    let output = work.run(tx, taken, effects).await;
    let violation = guard.violation();
    guard.allow_end(true);
    if violation.is_some() {
        return Err(Failed::Ended);
    }
    output
}

/// Fails if a consumer's code has ended the transaction that locked the rows (R4).
pub(super) async fn must_be_same<DB: Backend>(
    connection: &mut DB::Connection,
    taken: &Taken,
) -> Result<(), Failed> {
    let is_same = DB::is_same_transaction(connection, taken).await;
    if is_same.map_err(AdminError::from)? {
        Ok(())
    } else {
        Err(Failed::Ended)
    }
}

/// Whether others have what a command needs.
pub(super) fn is_held<T>(done: &Result<T, AdminError>) -> bool {
    matches!(
        done,
        Err(AdminError::Held { .. } | AdminError::View(ViewError::InUse { .. }))
    )
}

pub(super) fn held(consumer: &ConsumerId) -> AdminError {
    AdminError::Held {
        consumer: consumer.clone(),
    }
}

/// Gives others some time to finish, and says whether there was any left.
pub(super) async fn pause(until: Instant) -> bool {
    let is_left = Instant::now() < until;
    if is_left {
        tokio::time::sleep(PAUSE).await;
    }
    is_left
}

pub(super) fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
