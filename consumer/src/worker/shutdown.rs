//! The signals that ask a process to end.

/// Resolves when the process is asked to end: on Ctrl-C, and on `SIGTERM` under Unix.
///
/// Most programs pass it to [`Worker::run`](crate::Worker::run). It never resolves where the
/// process cannot wait for signals.
///
/// ```no_run
/// # consumer::__doc::run(async |store| {
/// use consumer::{Worker, shutdown_signal};
///
/// let worker = Worker::builder(store).discover().build()?;
/// let report = worker.run(shutdown_signal()).await?;
/// # Ok(()) }).unwrap();
/// ```
pub async fn shutdown_signal() {
    tokio::select! {
        () = interrupted() => {}
        () = terminated() => {}
    }
}

async fn interrupted() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::warn!(%error, "cannot wait for Ctrl-C");
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
            tracing::warn!(%error, "cannot wait for SIGTERM");
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(not(unix))]
async fn terminated() {
    std::future::pending::<()>().await;
}
