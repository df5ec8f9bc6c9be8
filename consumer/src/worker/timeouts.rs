//! How long a database that says nothing is waited for.

use std::io;
use std::time::Duration;

use tokio::time;

/// How long the database has at least to answer what is quickly answered.
const LEAST: Duration = Duration::from_secs(5);

/// Bounds waiting for a database that does not answer, as one behind a cut network does not: whoever
/// waits for it would wait for ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts(Duration);

impl Timeouts {
    /// Timeouts with what takes no time otherwise: as long as a claim lasts.
    pub(crate) fn of_claims(claim_timeout: Duration) -> Self {
        Self(claim_timeout.max(LEAST))
    }

    /// Timeouts with reads, which bring many bytes over a network that may be slow.
    pub(crate) fn with_reads(self) -> Self {
        Self(self.0 * 5)
    }

    /// Waits for an answer, and gives up when the timeouts is at its end.
    pub(crate) async fn answer<T, E: From<sqlx::Error>>(
        self,
        question: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let Self(timeouts) = self;
        time::timeout(timeouts, question).await.unwrap_or_else(|_| {
            let silence = format!("the database has not answered for {timeouts:?}");
            let silence = io::Error::new(io::ErrorKind::TimedOut, silence);
            Err(sqlx::Error::Io(silence).into())
        })
    }
}
