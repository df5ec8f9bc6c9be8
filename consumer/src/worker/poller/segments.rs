//! Divides the checkpoint rows of a consumer into segments, and makes fewer of them again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time;

use crate::backend::{Backend, Checkpoint};
use crate::store::EventStore;
use crate::worker::WorkerError;
use crate::worker::context::Shared;
use crate::worker::poller::assignment::AssignedConsumer;

/// How long to wait before a row that was busy is tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// Divides the rows that are wider than their consumers want, and ends when there are none.
pub(crate) async fn split_rows<DB: Backend>(
    shared: Arc<Shared<DB>>,
    consumers: Vec<Arc<AssignedConsumer<DB>>>,
) {
    loop {
        match split_all(&shared, &consumers).await {
            Ok(true) => return,
            Ok(false) => shared.want_snapshot(),
            // Most likely the row's owner had it for longer than a division may wait.
            Err(error) => tracing::debug!(%error, "a row could not be divided yet"),
        }
        time::sleep(PAUSE).await;
    }
}

/// Divides what is too wide once; says whether nothing was.
async fn split_all<DB: Backend>(
    shared: &Shared<DB>,
    consumers: &[Arc<AssignedConsumer<DB>>],
) -> Result<bool, sqlx::Error> {
    let snapshot = Arc::clone(&shared.snapshot.borrow());
    let wide: Vec<_> = snapshot
        .rows
        .values()
        .filter_map(|row| {
            Some((
                row,
                consumers
                    .iter()
                    .find_map(|consumer| consumer.split_at(row))?,
            ))
        })
        .collect();
    if wide.is_empty() {
        return Ok(true);
    }
    let mut connection = shared.store.pool().acquire().await?;
    // The task may be given up in the middle of a BEGIN (see the reader of the log).
    connection.close_on_drop();
    for (row, at) in wide {
        DB::split(&shared.statements, &mut connection, &row.key, at).await?;
    }
    Ok(false)
}

/// Brings the checkpoint rows of a consumer down to a number of segments: a power of two up to 64,
/// to which another number is rounded up as the setting is.
///
/// Raising the setting `segments` divides the rows by itself; lowering it merges nothing, since two
/// rows at different positions cannot be one without losing or repeating events. Here two
/// neighbours become one when they stand at the same position: the one that is ahead waits for
/// the other. A worker with the consumer has to run meanwhile, in whatever process, set to no more
/// segments than asked for here; without one this waits for ever. It can be given up at any time:
/// rows wait for each other no longer than 10 s after that.
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use consumer::{Consumer, Context, HandlerError, PersistedEvent, sqlx};
/// # struct Users;
/// # impl Consumer<sqlx::Sqlite> for Users {
/// #     fn name(&self) -> &str { "users" }
/// #     async fn handle(&self, _: &Context, _: &mut sqlx::SqliteConnection, _: &PersistedEvent) -> Result<(), HandlerError> { Ok(()) }
/// # }
/// use consumer::{SqliteEventStore, Worker, merge_segments};
///
/// # let store = SqliteEventStore::connect("sqlite::memory:").await?;
/// # store.migrate().await?;
/// # let worker = Worker::builder(store.clone()).consumer(Users).configure_all(|all| all.segments(4)).build()?;
/// # let handle = worker.handle();
/// # let running = tokio::spawn(worker.run(std::future::pending()));
/// # let rows = "SELECT count(*) FROM consumer_progress";
/// # while sqlx::query_scalar::<_, i64>(rows).fetch_one(store.pool()).await? < 4 {
/// #     tokio::time::sleep(std::time::Duration::from_millis(20)).await;
/// # }
/// # handle.shut_down();
/// # running.await??;
/// // The consumer had four segments, and the setting says one now.
/// let worker = Worker::builder(store.clone()).consumer(Users).build()?;
/// let handle = worker.handle();
/// let running = tokio::spawn(worker.run(std::future::pending()));
///
/// merge_segments(&store, "users", 1, 1).await?;
/// # assert_eq!(sqlx::query_scalar::<_, i64>(rows).fetch_one(store.pool()).await?, 1);
///
/// handle.shut_down();
/// running.await??;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
///
/// # Errors
/// - [`WorkerError::UnknownCheckpoint`]: there is no checkpoint of that consumer and version.
/// - What the database says.
pub async fn merge_segments<DB: Backend>(
    store: &EventStore<DB>,
    consumer: &str,
    version: u32,
    segments: u32,
) -> Result<(), WorkerError> {
    let segments = segments.clamp(1, 64).next_power_of_two();
    let segments = i32::try_from(segments).unwrap_or(64);
    let statements = DB::checkpoint_statements(store.settings());
    let mut connection = store.pool().acquire().await?;
    // Whoever asked may give up in the middle of a BEGIN (see the reader of the log).
    connection.close_on_drop();
    let mut known = false;
    loop {
        let mut rows: Vec<Checkpoint> = DB::snapshot(&statements, &mut connection).await?;
        rows.retain(|row| {
            *row.key.consumer.name == *consumer && row.key.consumer.version == version
        });
        rows.sort_by_key(|row| row.key.slice_from);
        known |= !rows.is_empty();
        if !known {
            return Err(WorkerError::UnknownCheckpoint {
                consumer: consumer.to_owned(),
                version,
            });
        }
        let Some((left, right)) = narrowest_pair(&rows, segments) else {
            return Ok(());
        };
        // Again each time: the hold ends by itself when nobody merges any more, and one of the two
        // may have come further since, with a batch that it had at hand.
        DB::hold(&statements, &mut connection, &left.key, &right.key).await?;
        if !DB::merge(&statements, &mut connection, &left.key, &right.key).await? {
            time::sleep(PAUSE).await;
        }
    }
}

/// Two halves of one range that are narrower than wanted.
fn narrowest_pair(rows: &[Checkpoint], segments: i32) -> Option<(&Checkpoint, &Checkpoint)> {
    let wanted = 1024 / segments.max(1);
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
