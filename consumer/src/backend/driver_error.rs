//! Errors of sqlx in the chains of ours.

use std::error::Error;
use std::fmt;
use std::ops::Deref;

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
pub struct DriverError(sqlx::Error);

impl Deref for DriverError {
    type Target = sqlx::Error;

    fn deref(&self) -> &sqlx::Error {
        &self.0
    }
}

impl From<sqlx::Error> for DriverError {
    fn from(error: sqlx::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&driver_text(&self.0))
    }
}

impl Error for DriverError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        if matches!(self.0, sqlx::Error::Database(_)) {
            return None;
        }
        let message = self.0.to_string();
        let mut causes = std::iter::successors(self.0.source(), |&cause| cause.source());
        causes.find(|cause| !message.ends_with(&cause.to_string()))
    }
}
