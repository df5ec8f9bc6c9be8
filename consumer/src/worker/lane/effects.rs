//! What a handler registered to run after the commit.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time;

use crate::contract::Context;

/// How long an effect after a commit may take: its lane handles nothing meanwhile.
const EFFECT_TIMEOUT: Duration = Duration::from_mins(1);

/// Runs what a handler registered to run after the commit.
pub(crate) async fn run_effects(cx: &Context) {
    run_effects_within(cx, EFFECT_TIMEOUT).await;
}

async fn run_effects_within(cx: &Context, limit: Duration) {
    let consumer = cx.consumer();
    for effect in cx.take_effects() {
        let effect = AssertUnwindSafe(effect).catch_unwind();
        match time::timeout(limit, effect).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => tracing::error!(consumer, "an effect after a commit panicked"),
            Err(_) => tracing::error!(
                consumer,
                "an effect after a commit was dropped, since it took longer than {limit:?}; spawn a task for work that takes long"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn an_effect_that_never_ends_does_not_keep_the_next_one() {
        let cx = Context::new("mails");
        let has_run = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&has_run);
        cx.after_commit(std::future::pending());
        cx.after_commit(async move { flag.store(true, Ordering::Relaxed) });
        run_effects_within(&cx, Duration::from_millis(1)).await;
        assert!(has_run.load(Ordering::Relaxed));
    }
}
