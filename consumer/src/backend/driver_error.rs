//! Errors of sqlx in the chains of this library's errors.

use std::error::Error;
use std::fmt;
use std::io;
use std::ops::Deref;

use super::clock;
use crate::contract::driver_text;

/// An error of sqlx whose cause is printed once.
///
/// sqlx writes the cause of an error into its message, and returns it from `source()` as well, so a
/// printer of the chain repeats it. The `source()` of this type leaves out what the message says. It
/// derefs to [`sqlx::Error`]:
///
/// ```
/// use consumer::{PgEventStore, StoreError};
/// use consumer::sqlx;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// match PgEventStore::connect("postgres://127.0.0.1:1/shop").await {
///     Err(StoreError::Unreachable { source, .. }) => {
///         assert!(matches!(*source, sqlx::Error::Io(_)));
///     }
///     other => panic!("{other:?}"),
/// }
/// # });
/// ```
#[derive(Debug)]
pub struct DriverError {
    error: sqlx::Error,
    /// Whether a timeout ended because tokio's clock is paused.
    clock_is_paused: bool,
}

impl Deref for DriverError {
    type Target = sqlx::Error;

    fn deref(&self) -> &sqlx::Error {
        &self.error
    }
}

impl From<sqlx::Error> for DriverError {
    fn from(error: sqlx::Error) -> Self {
        Self {
            clock_is_paused: has_timed_out(&error) && clock::is_paused(),
            error,
        }
    }
}

fn has_timed_out(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::PoolTimedOut => true,
        sqlx::Error::Io(error) => error.kind() == io::ErrorKind::TimedOut,
        _ => false,
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&driver_text(&self.error))?;
        if self.clock_is_paused {
            f.write_str("; tokio's clock is paused, which ends every timeout at once: remove `start_paused = true`, or call `tokio::time::resume()` before the database is used")?;
        }
        Ok(())
    }
}

impl Error for DriverError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        if matches!(self.error, sqlx::Error::Database(_)) {
            return None;
        }
        let message = self.error.to_string();
        let mut causes = std::iter::successors(self.error.source(), |&cause| cause.source());
        causes.find(|cause| !message.ends_with(&cause.to_string()))
    }
}
