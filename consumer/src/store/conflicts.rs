//! Whether a decision failed with an error that a new transaction may not have.

use std::error::Error;
use std::future::Future;
use std::iter;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::error::DatabaseError;

use crate::backend::{Backend, DriverError, StoreError};
use crate::contract::HandlerError;

tokio::task_local! {
    static FOUND: AtomicBool;
}

/// An error of a [decision](crate::EventStore::retry_conflicts), whose causes tell whether a concurrent
/// transaction made it fail.
///
/// It is implemented for every [`std::error::Error`], for `anyhow::Error`, [`HandlerError`] and boxed errors;
/// `Kind` tells them apart and is inferred.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a decision",
    note = "implement `std::error::Error` for it, or use `anyhow::Error`, `HandlerError` or `Box<dyn Error + Send + Sync>`"
)]
pub trait DecisionError<Kind> {
    /// Returns it as an error of the standard library.
    fn as_error(&self) -> &(dyn Error + 'static);
}

/// The [kind](DecisionError) of types that are errors.
#[derive(Debug)]
pub struct IsError;

/// The [kind](DecisionError) of types that contain any error.
#[derive(Debug)]
pub struct ContainsError;

impl<E: Error + 'static> DecisionError<IsError> for E {
    fn as_error(&self) -> &(dyn Error + 'static) {
        self
    }
}

impl<E: AsRef<dyn Error + Send + Sync>> DecisionError<ContainsError> for E {
    fn as_error(&self) -> &(dyn Error + 'static) {
        self.as_ref()
    }
}

impl DecisionError<HandlerError> for HandlerError {
    fn as_error(&self) -> &(dyn Error + 'static) {
        HandlerError::as_error(self)
    }
}

impl DecisionError<Box<dyn Error>> for Box<dyn Error> {
    fn as_error(&self) -> &(dyn Error + 'static) {
        &**self
    }
}

/// Whether a concurrent transaction made a statement fail, as an error or one of its causes says.
pub(crate) fn is_concurrent<DB: Backend>(error: &(dyn Error + 'static)) -> bool {
    iter::successors(Some(error), |&error| error.source()).any(|cause| {
        let of_sqlx =
            |error: &sqlx::Error| error.as_database_error().is_some_and(DB::is_concurrent);
        if let Some(error) = cause.downcast_ref::<sqlx::Error>() {
            of_sqlx(error)
        } else if let Some(error) = cause.downcast_ref::<DriverError>() {
            of_sqlx(error)
        } else {
            // The source of a transparent error is that of the `sqlx::Error` in it.
            let error = cause.downcast_ref::<Box<dyn DatabaseError>>();
            error.is_some_and(|error| DB::is_concurrent(&**error))
        }
    })
}

/// Runs `decision` and tells whether a statement of the store in it, in this task, failed so.
pub(crate) async fn noticing<F: Future>(decision: F) -> (F::Output, bool) {
    FOUND
        .scope(AtomicBool::new(false), async {
            let output = decision.await;
            (output, FOUND.with(|found| found.load(Ordering::Relaxed)))
        })
        .await
}

/// Notes the error of a statement of the store: the decision's own error may not have it as a cause.
pub(crate) fn note<DB: Backend>(error: &StoreError) {
    if error.is_retryable() || is_concurrent::<DB>(error) {
        // Without a decision around it, the caller looks at the error.
        let _ = FOUND.try_with(|found| found.store(true, Ordering::Relaxed));
    }
}
