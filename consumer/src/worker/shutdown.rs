//! The signals by which a process is asked to end.

/// Resolves when the process is asked to end: by Ctrl-C, or by `SIGTERM` on Unix.
///
/// It is what most programs give to [`Worker::run`](crate::Worker::run). Where signals cannot be
/// waited for, it never resolves.
///
/// ```no_run
/// # #[cfg(feature = "sqlite")]
/// # async fn example(worker: consumer::Worker<consumer::sqlx::Sqlite>) -> Result<(), consumer::WorkerError> {
/// use consumer::shutdown_signal;
///
/// let report = worker.run(shutdown_signal()).await?;
/// # Ok(())
/// # }
/// ```
pub async fn shutdown_signal() {
    tokio::select! {
        () = interrupted() => {}
        () = terminated() => {}
    }
}

async fn interrupted() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::warn!(%error, "Ctrl-C cannot be waited for");
        std::future::pending::<()>().await;
    }
}

#[cfg(unix)]
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};

    match signal(SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM cannot be waited for");
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(not(unix))]
async fn terminated() {
    std::future::pending::<()>().await;
}
