//! Consumers that other releases have stopped: each release that has not failed on the event tries it once.

use crate::backend::{Backend, State, begin};
use crate::contract::chain;
use crate::worker::lane::{CONTINUE, Lane, Turn};

impl<DB: Backend> Lane<DB> {
    /// Whether the row was stopped without this release having failed on its event.
    pub(super) fn is_stopped_by_others(&self) -> bool {
        let row = self.seen.rows.get(&self.segment.key);
        row.is_some_and(|row| {
            row.state == State::Stopped
                && row.scope == self.segment.scope_text()
                && !row.is_failed_by(&self.shared.process.release)
        })
    }

    /// Lets the consumer run again, and waits for the row to show it. A row that is locked is tried again
    /// with the next snapshot.
    pub(super) async fn try_again(&mut self) -> Turn {
        let shared = &self.shared;
        let trying = async {
            let mut tx = begin(shared.store.pool(), DB::BEGIN_WRITE).await?;
            let (statements, consumer) = (&shared.statements, &self.segment.key.consumer);
            let release = &shared.process.release;
            let tries = DB::try_again(statements, &mut tx, consumer, release).await?;
            tx.commit().await?;
            Ok::<_, sqlx::Error>(tries)
        };
        match shared.answer(trying).await {
            Ok(true) => {
                tracing::info!(
                    consumer = self.segment.name(),
                    "this release tries the event at which another one stopped the consumer"
                );
                shared.request_snapshot();
            }
            Ok(false) => {}
            Err(error) => {
                let error = chain(&error).to_string();
                return self.wait_for_database(error).await;
            }
        }
        self.wait_for_snapshot().await;
        CONTINUE
    }
}
