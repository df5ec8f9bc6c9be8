//! Splits the checkpoint rows of a consumer into segments, and merges them again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time;

use crate::backend::{self, Backend, Checkpoint, ConsumerId, SLICES, State, acquire};
use crate::store::EventStore;
use crate::worker::context::Shared;
use crate::worker::error::WorkerError;
use crate::worker::poller::assignment::{WorkerConsumer, segment_count};

/// How long to wait before a busy row is tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// Splits the rows that are wider than their consumers want, until there are none.
pub(crate) async fn split_rows<DB: Backend>(
    shared: Arc<Shared<DB>>,
    consumers: Vec<Arc<WorkerConsumer<DB>>>,
) {
    loop {
        match split_wide_rows(&shared, &consumers).await {
            Ok(0) => return,
            Ok(_) => shared.request_snapshot(),
            // Most likely a batch held the row for longer than a split may wait.
            Err(error) => tracing::debug!(%error, "cannot split a checkpoint row yet"),
        }
        time::sleep(PAUSE).await;
    }
}

/// Tries to split each row that is too wide once; returns how many there were.
async fn split_wide_rows<DB: Backend>(
    shared: &Shared<DB>,
    consumers: &[Arc<WorkerConsumer<DB>>],
) -> Result<usize, sqlx::Error> {
    let snapshot = Arc::clone(&shared.snapshot.borrow());
    let split_at = |row: &Checkpoint| consumers.iter().find_map(|one| one.split_at(row));
    let wide: Vec<_> = snapshot
        .rows
        .values()
        .filter_map(|row| Some((row, split_at(row)?)))
        .collect();
    if wide.is_empty() {
        return Ok(0);
    }
    let mut connection = acquire(shared.store.pool()).await?;
    // This task may be dropped during a BEGIN, as in the reader of the log.
    connection.close_on_drop();
    for (row, at) in &wide {
        DB::split(&shared.statements, &mut connection, &row.key, *at).await?;
    }
    Ok(wide.len())
}

/// Merges the checkpoint rows of a consumer down to a number of segments, which is rounded up to a
/// power of two and at most 64, like the setting.
///
/// Raising the setting `segments` splits rows automatically. Lowering it merges nothing, because two
/// rows at different positions cannot become one without losing or repeating events. This function
/// makes the row that is ahead wait for its neighbour and merges the two at the same position.
/// Meanwhile a worker with the consumer must run, in any process, with a setting of at most as many
/// segments; otherwise the function waits indefinitely. It also waits for open transactions that keep the
/// log from being settled up to the row that is ahead. Its future can be dropped at any time: rows stop
/// waiting for each other 10 s later.
///
/// ```no_run
/// # consumer::__doc::run(async |store| {
/// use consumer::{Worker, merge_segments, shutdown_signal};
///
/// // The consumer had four segments, and now declares one.
/// let worker = Worker::builder(store.clone()).discover().build()?;
/// let running = tokio::spawn(worker.run(shutdown_signal()));
///
/// merge_segments(&store, "users", 1, 1).await?;
/// # running.await??; Ok(()) }).unwrap();
/// ```
///
/// # Errors
/// - [`WorkerError::OtherLog`] if the consumer reads another log of the database.
/// - [`WorkerError::UnknownCheckpoint`] if there is no checkpoint of that consumer and version.
/// - [`WorkerError::NotRunning`] if a row to merge is paused or stopped.
/// - [`WorkerError::WaitingForRelease`] if one waits before an event that no running release knows.
/// - [`WorkerError::Database`] if a statement fails.
pub async fn merge_segments<DB: Backend>(
    store: &EventStore<DB>,
    consumer: &str,
    version: u32,
    segments: u32,
) -> Result<(), WorkerError> {
    let segments = i32::try_from(segment_count(segments)).unwrap_or(1);
    let wanted = ConsumerId {
        name: consumer.into(),
        version,
    };
    let store = store.located().await?;
    let statements = DB::checkpoint_statements(store.settings());
    let mut connection = acquire(store.pool()).await?;
    // The caller may drop this future during a BEGIN, as in the reader of the log.
    connection.close_on_drop();
    let mut is_known = false;
    loop {
        backend::check_use::<DB>(&mut connection, store.settings(), None).await?;
        let rows = DB::snapshot(&statements, &mut connection).await?;
        let mut rows: Vec<Checkpoint> = rows.into_iter().map(|row| row.checkpoint).collect();
        rows.retain(|row| row.key.consumer == wanted);
        rows.sort_by_key(|row| row.key.slice_from);
        is_known |= !rows.is_empty();
        if !is_known {
            if let Some(log) = DB::other_log(&statements, &mut connection, consumer).await? {
                let consumer = consumer.to_owned();
                return Err(WorkerError::OtherLog { consumer, log });
            }
            return Err(WorkerError::UnknownCheckpoint { consumer: wanted });
        }
        let Some((left, right)) = narrowest_pair(&rows, segments) else {
            return Ok(());
        };
        refuse_idle([left, right])?;
        refuse_waiting([left, right])?;
        // Again each time: a hold expires when no process merges any more, and one of the two may have
        // advanced since, with a batch that was in progress.
        let (left, right) = (&left.key, &right.key);
        let is_merged = DB::hold(&statements, &mut connection, left, right).await?
            && DB::merge(&statements, &mut connection, left, right).await?;
        if !is_merged {
            time::sleep(PAUSE).await;
        }
    }
}

/// Refuses rows that are paused or stopped: a worker does not move them.
fn refuse_idle(rows: [&Checkpoint; 2]) -> Result<(), WorkerError> {
    match rows.iter().find(|row| row.state != State::Running) {
        None => Ok(()),
        Some(row) => Err(WorkerError::NotRunning {
            consumer: row.key.consumer.clone(),
            state: row.state.as_str(),
        }),
    }
}

/// Refuses rows of which one waits for another release before the position that both have to reach.
fn refuse_waiting(rows: [&Checkpoint; 2]) -> Result<(), WorkerError> {
    let ahead = rows.iter().map(|row| row.position).max();
    let waiting = rows.iter().find_map(|row| {
        let unknown = row.unknown.as_ref();
        let before = unknown.filter(|event| ahead >= Some(event.position))?;
        Some((&row.key.consumer, before))
    });
    match waiting {
        None => Ok(()),
        Some((consumer, event)) => Err(WorkerError::WaitingForRelease {
            consumer: consumer.clone(),
            event: event.clone(),
        }),
    }
}

/// Two halves of one range that are narrower than wanted.
fn narrowest_pair(rows: &[Checkpoint], segments: i32) -> Option<(&Checkpoint, &Checkpoint)> {
    let wanted = i32::from(SLICES) / segments.max(1);
    rows.windows(2)
        .filter_map(|pair| match pair {
            [left, right] => Some((left, right)),
            _ => None,
        })
        .filter(|(left, right)| {
            let width = left.slice_to - left.key.slice_from;
            let halves = left.slice_to == right.key.slice_from
                && right.slice_to - right.key.slice_from == width
                && left.key.slice_from % (2 * width) == 0;
            halves && width < wanted
        })
        .min_by_key(|(left, _)| left.slice_to - left.key.slice_from)
}
