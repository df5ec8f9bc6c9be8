//! One batch of a fold: collect the keys, load their rows, apply the events, write what changed.

use std::future::poll_fn;
use std::mem::take;
use std::task::Poll;

use super::database::ReadModelDatabase;
use super::fold::Fold;
use super::keys::{BatchKeys, Keys};
use super::model::ReadModel;
use super::rows::{BatchRows, Changes, Rows};
use super::table::VersionTable;
use super::value::Value;
use crate::contract::{BatchError, Context, HandlerError, PersistedEvent};

/// A batch ends before the event that would need more rows.
const MOST_KEYS: usize = 50_000;

/// A batch ends before the event that needs a row which no longer fits into this many bytes.
const MOST_BYTES: usize = 16 << 20;

/// How many rows are loaded before it is known how large they are.
const FIRST_LOAD: usize = 500;

/// How many events are handled before other tasks may run.
const EVENTS_PER_YIELD: usize = 1_000;

/// How many rows one statement writes at most.
const MOST_WRITTEN: usize = 10_000;

/// Applies events to the rows of a read model, and returns how many.
///
/// It reads each row that the events need once, and writes each row that they changed once. It
/// handles fewer events than given when the batch's time is over, and when the events need more than
/// 50,000 rows or 16 MiB of them.
///
/// A consumer with a read model calls it in its
/// [`handle_batch`](crate::Consumer::handle_batch):
///
/// ```
/// use consumer::read_model::{
///     self, ColumnError, ColumnNormalizer, ColumnReader, ColumnWriter, Fold, Keys, ReadModel,
///     ReadModelDatabase, Rows, Table, TableColumn, Value,
/// };
/// use consumer::{BatchError, Consumer, Context, HandlerError, PersistedEvent};
///
/// struct Visits {
///     page: String,
///     count: i64,
/// }
///
/// impl ReadModel for Visits {
///     type Key = String;
///     const TABLE: &'static Table = &Table::new(
///         "visits",
///         &[TableColumn::key::<String>("page"), TableColumn::of::<i64>("count")],
///     );
///
///     fn key(&self) -> String {
///         self.page.clone()
///     }
///
///     fn to_values(&self, values: &mut Vec<Value>) -> Result<(), ColumnError> {
///         ColumnWriter::new(Self::TABLE, values).field(&self.page)?.field(&self.count)?;
///         Ok(())
///     }
///
///     fn from_values(values: Vec<Value>) -> Result<Self, ColumnError> {
///         let mut columns = ColumnReader::new(Self::TABLE, values);
///         Ok(Self { page: columns.field()?, count: columns.field()? })
///     }
///
///     fn normalize(&mut self) -> Result<(), ColumnError> {
///         ColumnNormalizer::new(Self::TABLE).field(&mut self.page)?.field(&mut self.count)?;
///         Ok(())
///     }
/// }
///
/// struct CountVisits;
///
/// impl Fold for CountVisits {
///     type Row = Visits;
///
///     fn keys(&self, _cx: &Context, event: &PersistedEvent, keys: &mut Keys<'_, String>) -> Result<(), HandlerError> {
///         keys.add_aggregate(event)
///     }
///
///     fn fold(&self, _cx: &Context, event: &PersistedEvent, rows: &mut Rows<'_, Visits>) -> Result<(), HandlerError> {
///         let page = event.aggregate_id.clone();
///         rows.row(&page)?.get_or_insert(Visits { page, count: 0 }).count += 1;
///         Ok(())
///     }
/// }
///
/// impl<DB: ReadModelDatabase> Consumer<DB> for CountVisits {
///     fn name(&self) -> &str {
///         "count_visits"
///     }
///
///     async fn handle(&self, cx: &Context, tx: &mut DB::Connection, event: &PersistedEvent) -> Result<(), HandlerError> {
///         let batch = std::slice::from_ref(event);
///         read_model::fold_batch::<DB, _>(self, cx, tx, batch).await.map(|_| ()).map_err(|failed| failed.error)
///     }
///
///     async fn handle_batch(&self, cx: &Context, tx: &mut DB::Connection, events: &[PersistedEvent]) -> Result<usize, BatchError> {
///         read_model::fold_batch::<DB, _>(self, cx, tx, events).await
///     }
///
///     fn read_model(&self) -> Option<&'static Table> {
///         Some(Visits::TABLE)
///     }
///
///     fn can_reset(&self) -> bool {
///         true
///     }
///
///     async fn reset(&self, cx: &Context, tx: &mut DB::Connection) -> Result<(), HandlerError> {
///         read_model::clear::<DB, Visits>(cx, tx).await
///     }
/// }
/// ```
///
/// # Errors
/// Reports the event that a handler failed on, or all of them if a statement failed. The caller has to
/// roll back: rows may have been written.
pub async fn fold_batch<DB: ReadModelDatabase, F: Fold>(
    fold: &F,
    cx: &Context,
    tx: &mut DB::Connection,
    events: &[PersistedEvent],
) -> Result<usize, BatchError> {
    let table = cx.version_table(F::Row::TABLE);
    let mut keys = collect_keys(fold, cx, events).await?;
    let events = events.get(..keys.events()).unwrap_or(events);
    let any_of = |count, error| BatchError::within(0, count, error);
    let loaded = load::<DB, F::Row>(cx, tx, &table, &mut keys).await;
    let (mut rows, count) = loaded.map_err(|error| any_of(events.len(), error))?;
    let events = events.get(..count).unwrap_or(events);
    let handled = apply(fold, cx, events, &keys, &mut rows).await?;
    let written = write::<DB, F::Row>(cx, tx, &table, rows).await;
    written.map_err(|error| any_of(handled, error))?;
    Ok(handled)
}

/// Deletes all rows of the consumer's version, for [`Consumer::reset`](crate::Consumer::reset).
///
/// # Errors
/// If the database refuses.
pub async fn clear<DB: ReadModelDatabase, R: ReadModel>(
    cx: &Context,
    tx: &mut DB::Connection,
) -> Result<(), HandlerError> {
    DB::clear(tx, &cx.version_table(R::TABLE)).await
}

type KeysOf<F> = BatchKeys<<<F as Fold>::Row as ReadModel>::Key>;

/// The keys of the events, as far as they fit into one batch.
async fn collect_keys<F: Fold>(
    fold: &F,
    cx: &Context,
    events: &[PersistedEvent],
) -> Result<KeysOf<F>, BatchError> {
    let mut batch = BatchKeys::new();
    for (index, event) in events.iter().enumerate() {
        if index > 0 && cx.should_stop(index) {
            break;
        }
        yield_after(index).await;
        cx.enter(event.global_position);
        let mut keys = Keys::of_next_event(&mut batch, cx.is_segmented());
        fold.keys(cx, event, &mut keys)
            .map_err(|error| BatchError::at(index, error))?;
        if index > 0 && batch.keys.len() > MOST_KEYS {
            batch.remove_last_event();
            break;
        }
    }
    Ok(batch)
}

/// Loads the rows of the events, and returns for how many events they are.
async fn load<DB: ReadModelDatabase, R: ReadModel>(
    cx: &Context,
    tx: &mut DB::Connection,
    table: &VersionTable<'_>,
    keys: &mut BatchKeys<R::Key>,
) -> Result<(BatchRows<R>, usize), HandlerError> {
    let (indices, list) = (take(&mut keys.indices), take(&mut keys.keys));
    let mut values = take(&mut keys.values).into_iter();
    let mut rows = BatchRows::new(indices, list);
    let (mut asked, mut bytes) = (0, 0);
    while values.len() > 0 && (bytes < MOST_BYTES || keys.events_within(asked) == 0) {
        let chunk: Vec<_> = values.by_ref().take(next_load(asked, bytes)).collect();
        asked += chunk.len();
        cx.enter_several();
        for row in DB::load(tx, table, chunk).await? {
            bytes += row.iter().map(Value::memory).sum::<usize>();
            rows.insert(row)?;
        }
    }
    let events = match values.len() {
        0 => keys.events(),
        _ => keys.events_within(asked),
    };
    Ok((rows, events))
}

/// How many rows to load next, given how many were asked for and how large they are.
fn next_load(asked: usize, bytes: usize) -> usize {
    if asked == 0 {
        return FIRST_LOAD;
    }
    let row = (bytes / asked).max(1);
    let room = MOST_BYTES.saturating_sub(bytes);
    (room / row).max(1)
}

/// Applies the events in order.
async fn apply<F: Fold>(
    fold: &F,
    cx: &Context,
    events: &[PersistedEvent],
    keys: &KeysOf<F>,
    rows: &mut BatchRows<F::Row>,
) -> Result<usize, BatchError> {
    for (index, event) in events.iter().enumerate() {
        if index > 0 && cx.should_stop(index) {
            return Ok(index);
        }
        yield_after(index).await;
        cx.enter(event.global_position);
        let position = event.global_position;
        let mut of_event = Rows::of_event(rows, index, position, keys.of_event(index));
        fold.fold(cx, event, &mut of_event)
            .and_then(|()| of_event.settle())
            .map_err(|error| BatchError::at(index, error))?;
    }
    Ok(events.len())
}

/// Writes what the events have changed.
async fn write<DB: ReadModelDatabase, R: ReadModel>(
    cx: &Context,
    tx: &mut DB::Connection,
    table: &VersionTable<'_>,
    rows: BatchRows<R>,
) -> Result<(), HandlerError> {
    let Changes { upserts, deletions } = rows.into_changes()?;
    let mut upserts = upserts.into_iter();
    while upserts.len() > 0 {
        cx.enter_several();
        let rows = upserts.by_ref().take(MOST_WRITTEN).collect();
        DB::upsert(tx, table, rows).await?;
    }
    if !deletions.is_empty() {
        cx.enter_several();
        DB::delete(tx, table, deletions).await?;
    }
    Ok(())
}

/// Lets other tasks run, after each thousand events.
async fn yield_after(handled: usize) {
    if handled == 0 || !handled.is_multiple_of(EVENTS_PER_YIELD) {
        return;
    }
    let mut has_yielded = false;
    poll_fn(|cx| {
        if has_yielded {
            return Poll::Ready(());
        }
        has_yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::{FIRST_LOAD, MOST_BYTES, next_load};

    #[test]
    fn the_size_of_the_first_rows_says_how_many_more_fit() {
        assert_eq!(next_load(0, 0), FIRST_LOAD);
        assert_eq!(next_load(500, 500 << 10), (MOST_BYTES >> 10) - 500);
        assert_eq!(next_load(500, 0), MOST_BYTES);
        assert_eq!(next_load(1, MOST_BYTES), 1);
    }
}
