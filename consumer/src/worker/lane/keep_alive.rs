//! Claims that are held while a handler works elsewhere.

use std::time::Duration;

use sqlx::Transaction;
use tokio::time;

use crate::backend::Backend;
use crate::worker::timeouts::Timeouts;

/// Talks to the server now and then while a handler works elsewhere, so that its claim does not
/// count as that of a frozen process. If the server does not answer, the claim is lost and the
/// handler is dropped.
pub(crate) async fn keep_alive<DB: Backend, T>(
    tx: &mut Transaction<'_, DB>,
    claim_timeout: Duration,
    handler: impl Future<Output = T>,
) -> Result<T, sqlx::Error> {
    let touching = async {
        loop {
            time::sleep(claim_timeout / 3).await;
            let touched = Timeouts::of_claims(claim_timeout)
                .answer(DB::touch(tx))
                .await;
            if let Err(error) = touched {
                return error;
            }
        }
    };
    tokio::select! {
        biased;
        output = handler => Ok(output),
        error = touching => Err(error),
    }
}
