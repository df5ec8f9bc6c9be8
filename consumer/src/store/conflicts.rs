//! Whether an append within a decision failed with an error that a new transaction may not have.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::StoreError;

tokio::task_local! {
    static FOUND: AtomicBool;
}

/// Runs `decision` and tells whether an append in it, in this task, failed so.
pub(crate) async fn noticing<F: Future>(decision: F) -> (F::Output, bool) {
    FOUND
        .scope(AtomicBool::new(false), async {
            let output = decision.await;
            (output, FOUND.with(|found| found.load(Ordering::Relaxed)))
        })
        .await
}

/// Notes the error of an append.
pub(crate) fn note(error: &StoreError) {
    if error.is_retryable() {
        // Without a decision around it, the caller looks at the error.
        let _ = FOUND.try_with(|found| found.store(true, Ordering::Relaxed));
    }
}
