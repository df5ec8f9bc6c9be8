//! Connections of a pool that are not in the middle of something.
//!
//! A program can leave a transaction open on a connection of its pool, by a `BEGIN` of its own or by a
//! future that was dropped. What the next user of the connection writes would never be committed, or
//! could not be executed.

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, Pool, SqlSafeStr as _, Transaction};

use super::events::Events;

/// Begins a transaction on a connection without one.
///
/// Until the answer to `BEGIN` has arrived, sqlx does not know that a connection is in a transaction,
/// and would put it back into the pool like that. The task outlives a caller that goes away.
pub(crate) async fn begin<DB: Events>(
    pool: &Pool<DB>,
    statement: &'static str,
) -> Result<Transaction<'static, DB>, sqlx::Error> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move {
        for _ in 0..pool.options().get_max_connections() {
            match pool.begin_with(statement.into_sql_str()).await {
                Err(error) if DB::was_begun_before(&error) => drop(acquire_here(&pool).await?),
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
    let acquired = tokio::spawn(async move { acquire_here(&pool).await });
    acquired.await.map_err(|_| sqlx::Error::WorkerCrashed)?
}

/// Closes the connections that are in a transaction until it finds one that is not.
async fn acquire_here<DB: Events>(pool: &Pool<DB>) -> Result<PoolConnection<DB>, sqlx::Error> {
    for _ in 0..pool.options().get_max_connections() {
        let mut connection = pool.acquire().await?;
        match begin_and_end::<DB>(&mut connection).await {
            Err(error) if DB::was_begun_before(&error) => {
                tracing::warn!(
                    "a connection of the pool was in a transaction that the program left open; it is closed"
                );
                connection.close().await?;
            }
            Err(error) => {
                connection.close_on_drop();
                return Err(error);
            }
            Ok(()) => return Ok(connection),
        }
    }
    pool.acquire().await
}

async fn begin_and_end<DB: Events>(connection: &mut DB::Connection) -> Result<(), sqlx::Error> {
    let tx = connection.begin_with(DB::BEGIN_READ.into_sql_str());
    tx.await?.rollback().await
}
