//! One batch of a fold: collect the keys, load their rows, apply the events, write what changed.

use std::future::poll_fn;
use std::mem::take;
use std::task::Poll;
use std::time::Instant;

use super::database::{Loaded, ReadModelDatabase};
use super::fold::Fold;
use super::keys::{BatchKeys, Keys};
use super::model::ReadModel;
use super::rows::{BatchRows, Changes, Rows, WrittenRow};
use super::table::VersionTable;
use super::value::Value;
use crate::contract::{BatchError, Context, HandlerError, PersistedEvent};

/// A batch ends before the event that would need more rows.
const MOST_KEYS: usize = 50_000;

/// A batch ends before the event that needs a row which no longer fits into this many bytes.
const MOST_BYTES: usize = 16 << 20;

/// How many rows are loaded before it is known how large they are: up to 16 KiB each, they fit.
const FIRST_LOAD: usize = 1_000;

/// How many events are handled before other tasks may run.
const EVENTS_PER_YIELD: usize = 1_000;

/// How many rows one statement writes at most.
const MOST_WRITTEN: usize = 10_000;

/// From this number on, new rows get a statement of their own, which need not look for rows with their keys
/// and is about twice as fast.
const MANY_NEW: usize = 500;

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
///     fn only_folds(&self) -> bool {
///         true
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
/// The guide [`read_models`](crate::guide::read_models#by-hand) has one that writes SQL as well.
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
    let began = Instant::now();
    let mut keys = collect_keys(fold, cx, events).await?;
    let events = events.get(..keys.events()).unwrap_or(events);
    let any_of = |count, error| BatchError::within(0, count, error);
    let loaded = load::<DB, F::Row>(cx, tx, &table, &mut keys).await;
    let (mut rows, count) = loaded.map_err(|error| any_of(events.len(), error))?;
    let events = events.get(..count).unwrap_or(events);
    // As much time as it took to load the rows is spent on applying events to them, at least: when
    // reading is slow, all rows would be loaded for one event.
    let until = Instant::now() + began.elapsed();
    let handled = apply(fold, cx, events, &keys, (&mut rows, until)).await?;
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
    let mut rows = BatchRows::new(take(&mut keys.indices), take(&mut keys.keys));
    let values = take(&mut keys.values);
    let mut share = Share::default();
    while let Some(rest) = values.get(share.keys..).filter(|rest| !rest.is_empty()) {
        // The first event is handled even if its rows alone are too large.
        let is_needed = keys.events_within(share.keys) == 0;
        let Some((next, room)) = share.next(is_needed) else {
            break;
        };
        let next = rest.get(..next).unwrap_or(rest);
        cx.enter_several();
        match DB::load(tx, table, next, room).await? {
            Loaded::Rows(loaded) => {
                share.add(next.len(), &loaded);
                loaded.into_iter().try_for_each(|row| rows.insert(row))?;
            }
            Loaded::TooLarge(count) => share.reduce(count.min(next.len())),
        }
    }
    let events = if share.keys == values.len() {
        keys.events()
    } else {
        keys.events_within(share.keys)
    };
    Ok((rows, events))
}

/// How much of a batch has been loaded.
#[derive(Debug, Default)]
struct Share {
    /// How many of the keys were looked up.
    keys: usize,
    /// How much memory their rows need.
    bytes: usize,
    /// How many rows were already too large together.
    too_many: Option<usize>,
}

impl Share {
    /// How many keys to look up next, and how much memory their rows may need; `None` if nothing more
    /// fits. With keys that are needed whatever they cost, it is at least one.
    fn next(&self, is_needed: bool) -> Option<(usize, usize)> {
        let room = MOST_BYTES.saturating_sub(self.bytes);
        match self.too_many {
            Some(0 | 1) => is_needed.then_some((1, usize::MAX)),
            Some(rows) => Some((rows / 2, room)),
            None if self.keys == 0 => Some((FIRST_LOAD, room)),
            None => {
                let fit = room / (self.bytes / self.keys).max(1);
                match (fit, is_needed) {
                    (0, true) => Some((1, usize::MAX)),
                    (0, false) => None,
                    _ => Some((fit, room)),
                }
            }
        }
    }

    fn add(&mut self, keys: usize, rows: &[Vec<Value>]) {
        self.keys += keys;
        self.bytes += rows.iter().flatten().map(Value::memory).sum::<usize>();
    }

    fn reduce(&mut self, too_many: usize) {
        self.too_many = Some(too_many);
    }
}

/// Applies the events in order, at least until some time.
async fn apply<F: Fold>(
    fold: &F,
    cx: &Context,
    events: &[PersistedEvent],
    keys: &KeysOf<F>,
    (rows, until): (&mut BatchRows<F::Row>, Instant),
) -> Result<usize, BatchError> {
    for (index, event) in events.iter().enumerate() {
        if index > 0 && cx.should_stop(index) && Instant::now() >= until {
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
    let Changes { written, deletions } = rows.into_changes()?;
    let new = written.iter().filter(|row| row.is_new).count();
    let is_split = new >= MANY_NEW || new == written.len();
    let (inserts, upserts): (Vec<_>, Vec<_>) =
        written.into_iter().partition(|row| is_split && row.is_new);
    for rows in in_parts(inserts) {
        cx.enter_several();
        DB::insert(tx, table, rows).await?;
    }
    for rows in in_parts(upserts) {
        cx.enter_several();
        DB::upsert(tx, table, rows).await?;
    }
    if !deletions.is_empty() {
        cx.enter_several();
        DB::delete(tx, table, deletions).await?;
    }
    Ok(())
}

/// The values of rows, in parts for one statement each.
fn in_parts(rows: Vec<WrittenRow>) -> impl Iterator<Item = Vec<Vec<Value>>> {
    let mut values = rows.into_iter().map(|row| row.values);
    std::iter::from_fn(move || {
        let part: Vec<_> = values.by_ref().take(MOST_WRITTEN).collect();
        (!part.is_empty()).then_some(part)
    })
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
    use super::{FIRST_LOAD, MOST_BYTES, Share};
    use crate::contract::read_model::Value;

    fn rows(count: usize, bytes: usize) -> Vec<Vec<Value>> {
        let text = || Value::Text(String::with_capacity(bytes - size_of::<Value>()));
        (0..count).map(|_| vec![text()]).collect()
    }

    #[test]
    fn the_size_of_the_first_rows_says_how_many_more_fit() {
        let mut share = Share::default();
        assert_eq!(share.next(true), Some((FIRST_LOAD, MOST_BYTES)));
        share.add(FIRST_LOAD, &rows(FIRST_LOAD, 1 << 10));
        let room = MOST_BYTES - (FIRST_LOAD << 10);
        assert_eq!(share.next(false), Some((room >> 10, room)));
        share.add(room >> 10, &rows(room >> 10, 1 << 10));
        assert_eq!(
            (share.next(false), share.next(true)),
            (None, Some((1, usize::MAX)))
        );
    }

    #[test]
    fn rows_that_are_too_large_are_loaded_in_smaller_parts() {
        let mut share = Share::default();
        share.reduce(17);
        assert_eq!(share.next(true), Some((8, MOST_BYTES)));
        share.reduce(1);
        assert_eq!(
            (share.next(false), share.next(true)),
            (None, Some((1, usize::MAX)))
        );
    }

    #[test]
    fn keys_without_rows_need_no_room() {
        let mut share = Share::default();
        share.add(FIRST_LOAD, &[]);
        assert_eq!(share.next(false), Some((MOST_BYTES, MOST_BYTES)));
    }
}
