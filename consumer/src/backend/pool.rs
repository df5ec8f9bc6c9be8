//! Connections of a pool that are not in the middle of something.
//!
//! A program can leave a transaction open on a connection of its pool, by a `BEGIN` of its own or by a
//! future that was dropped. What the next user of the connection writes would never be committed, or
//! could not be executed.

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, Pool, SqlSafeStr as _, Transaction};
use tokio::task;

use super::events::Events;

/// How often to look for a connection that was in a transaction: it may still be on its way back into
/// the pool.
const ROUNDS: usize = 16;

/// Begins a transaction on a connection without one.
///
/// Until the answer to `BEGIN` has arrived, sqlx does not know that a connection is in a transaction,
/// and would put it back into the pool like that. The task outlives a caller that goes away.
pub(crate) async fn begin<DB: Events>(
    pool: &Pool<DB>,
    statement: &'static str,
) -> Result<Transaction<'static, DB>, sqlx::Error> {
    let pool = pool.clone();
    let begun = task::spawn(async move {
        for _ in 0..pool.options().get_max_connections() {
            match pool.begin_with(statement.into_sql_str()).await {
                Err(error) if DB::may_have_begun_before(&error) => {
                    if !close_begun(&pool).await? {
                        return Err(error);
                    }
                }
                begun => return begun,
            }
        }
        pool.begin_with(statement.into_sql_str()).await
    });
    begun.await.map_err(|_| sqlx::Error::WorkerCrashed)?
}

/// A connection without a transaction.
pub(crate) async fn acquire<DB: Events>(
    pool: &Pool<DB>,
) -> Result<PoolConnection<DB>, sqlx::Error> {
    let pool = pool.clone();
    // In a task of its own for the reason that `begin` has.
    let acquired = task::spawn(async move {
        for _ in 0..pool.options().get_max_connections() {
            if let Some(connection) = clean(pool.acquire().await?).await? {
                return Ok(connection);
            }
        }
        pool.acquire().await
    });
    acquired.await.map_err(|_| sqlx::Error::WorkerCrashed)?
}

/// Closes the connections that are idle in a transaction; returns whether there were any.
async fn close_begun<DB: Events>(pool: &Pool<DB>) -> Result<bool, sqlx::Error> {
    for _ in 0..ROUNDS {
        let mut closed = false;
        let mut kept = Vec::new();
        let mut next = Some(pool.acquire().await?);
        while let Some(connection) = next {
            match clean(connection).await? {
                Some(connection) => kept.push(connection),
                None => closed = true,
            }
            next = pool.try_acquire();
        }
        if closed {
            return Ok(true);
        }
        drop(kept);
        task::yield_now().await;
    }
    Ok(false)
}

/// Closes a connection if it is in a transaction.
async fn clean<DB: Events>(
    mut connection: PoolConnection<DB>,
) -> Result<Option<PoolConnection<DB>>, sqlx::Error> {
    match begin_and_end::<DB>(&mut connection).await {
        Ok(()) => Ok(Some(connection)),
        Err(error) if DB::may_have_begun_before(&error) => {
            tracing::warn!(
                "a connection of the pool was in a transaction that the program left open; it is closed"
            );
            connection.close().await?;
            Ok(None)
        }
        Err(error) => {
            connection.close_on_drop();
            Err(error)
        }
    }
}

async fn begin_and_end<DB: Events>(connection: &mut DB::Connection) -> Result<(), sqlx::Error> {
    let tx = connection.begin_with(DB::BEGIN_READ.into_sql_str());
    tx.await?.rollback().await
}
