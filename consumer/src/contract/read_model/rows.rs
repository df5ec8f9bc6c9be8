//! The rows of a batch while events are applied to them.

use std::collections::HashMap;

use super::error::{ColumnError, RowError};
use super::key::Key as _;
use super::model::ReadModel;
use super::value::Value;
use crate::contract::HandlerError;

/// The rows that one event needs, for [`Fold::fold`](super::Fold::fold).
///
/// A row takes its [stored form](super::Field::normalize) as soon as the next one is asked for, and
/// at the end of the event.
#[derive(Debug)]
pub struct Rows<'a, R: ReadModel> {
    batch: &'a mut BatchRows<R>,
    event: usize,
    position: i64,
    /// The row that was given out last.
    given: Option<usize>,
}

impl<'a, R: ReadModel> Rows<'a, R> {
    /// The rows of an event, which are those at the given indices.
    pub(super) fn of_event(
        batch: &'a mut BatchRows<R>,
        event: usize,
        position: i64,
        indices: &[usize],
    ) -> Self {
        for &index in indices {
            if let Some(row) = batch.rows.get_mut(index) {
                row.last_event = Some(event);
            }
        }
        Self {
            batch,
            event,
            position,
            given: None,
        }
    }

    /// Returns the row with that key, to be read, changed, inserted or removed.
    ///
    /// # Errors
    /// If the key was not added for this event, or the row that was asked for before cannot be
    /// stored.
    pub fn row(&mut self, key: &R::Key) -> Result<&mut Option<R>, HandlerError> {
        self.settle()?;
        let index = self.batch.indices.get(key).copied();
        let row = index.and_then(|index| self.batch.rows.get_mut(index));
        let Some(row) = row.filter(|row| row.last_event == Some(self.event)) else {
            let (table, key) = (R::TABLE.name, key.to_text());
            return Err(RowError::NotAdded { table, key }.into());
        };
        self.given = index;
        Ok(&mut row.row)
    }

    /// Returns the row with that key, to be read or changed.
    ///
    /// # Errors
    /// If there is no such row, and as [`row`](Self::row).
    pub fn existing(&mut self, key: &R::Key) -> Result<&mut R, HandlerError> {
        let missing = |key: &R::Key| RowError::Missing {
            table: R::TABLE.name,
            key: key.to_text(),
        };
        Ok(self.row(key)?.as_mut().ok_or_else(|| missing(key))?)
    }

    /// Inserts a row, or replaces the row with that key.
    ///
    /// # Errors
    /// If the row has another key, if it cannot be stored, and as [`row`](Self::row).
    pub fn put(&mut self, key: &R::Key, row: R) -> Result<(), HandlerError> {
        *self.row(key)? = Some(row);
        self.settle()
    }

    /// Gives the row that was given out last its stored form.
    pub(super) fn settle(&mut self) -> Result<(), HandlerError> {
        let Some(index) = self.given.take() else {
            return Ok(());
        };
        let position_index = self.batch.position_index;
        match self.batch.rows.get_mut(index) {
            Some(row) => Ok(row.settle(self.position, position_index)?),
            None => Ok(()),
        }
    }
}

/// All rows of a batch.
#[derive(Debug)]
pub(super) struct BatchRows<R: ReadModel> {
    indices: HashMap<R::Key, usize>,
    rows: Vec<BatchRow<R>>,
    position_index: Option<usize>,
}

/// A row of a batch, or the absence of one.
#[derive(Debug)]
struct BatchRow<R: ReadModel> {
    key: R::Key,
    row: Option<R>,
    /// Its values in the database; in a table with a `position`, after the last event.
    values: Option<Vec<Value>>,
    is_stored: bool,
    /// Whether an event has changed it; only known in a table with a `position`.
    is_changed: bool,
    /// The last event that needs it.
    last_event: Option<usize>,
}

/// The changes of a batch to the database.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The values of the rows to insert or update, ordered by key.
    pub(super) written: Vec<WrittenRow>,
    /// The values of the keys of the rows to delete, ordered by key.
    pub(super) deletions: Vec<Vec<Value>>,
}

/// A row to insert or update.
#[derive(Debug)]
pub(super) struct WrittenRow {
    pub(super) values: Vec<Value>,
    /// Whether the table had no row with its key.
    pub(super) is_new: bool,
}

impl<R: ReadModel> BatchRows<R> {
    /// The rows with the given keys, none of which has been loaded.
    pub(super) fn new(indices: HashMap<R::Key, usize>, keys: Vec<R::Key>) -> Self {
        let rows = keys.into_iter().map(|key| BatchRow {
            key,
            row: None,
            values: None,
            is_stored: false,
            is_changed: false,
            last_event: None,
        });
        Self {
            indices,
            rows: rows.collect(),
            position_index: R::TABLE.position_index(),
        }
    }

    /// Adds a row that was loaded.
    pub(super) fn insert(&mut self, values: Vec<Value>) -> Result<(), ColumnError> {
        let row = R::from_values(values)?;
        let index = self.indices.get(&row.key()).copied();
        let Some(stored) = index.and_then(|index| self.rows.get_mut(index)) else {
            return Ok(());
        };
        // From the row, since a database may return the same value in another form.
        stored.values = Some(values_of(&row)?);
        stored.row = Some(row);
        stored.is_stored = true;
        Ok(())
    }

    /// The rows to write.
    pub(super) fn into_changes(self) -> Result<Changes, HandlerError> {
        let has_position = self.position_index.is_some();
        let mut rows = self.rows;
        // Each statement locks its rows in this order, so that two of them cannot wait for each other.
        // Inserts, upserts and deletes follow one another, though, and in a mixed batch the statements
        // of SQL handlers come in between. A deadlock among those is a transient error.
        rows.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        let mut changes = Changes::default();
        for row in rows {
            row.add_to(&mut changes, has_position)?;
        }
        Ok(changes)
    }
}

impl<R: ReadModel> BatchRow<R> {
    /// Gives the row its stored form after a handler.
    fn settle(&mut self, position: i64, position_index: Option<usize>) -> Result<(), RowError> {
        let Some(row) = &mut self.row else {
            self.is_changed |= self.values.take_if(|_| position_index.is_some()).is_some();
            return Ok(());
        };
        let in_row = |error| RowError::Column {
            key: self.key.to_text(),
            error,
        };
        row.normalize().map_err(in_row)?;
        let key = row.key();
        if key != self.key {
            return Err(RowError::OtherKey {
                table: R::TABLE.name,
                key: self.key.to_text(),
                other: key.to_text(),
            });
        }
        if let Some(index) = position_index {
            let values = values_of(row).map_err(in_row)?;
            self.record(values, position, index);
        }
        Ok(())
    }

    /// Compares the values after an event with those before it, and sets the position.
    fn record(&mut self, mut values: Vec<Value>, position: i64, index: usize) {
        let before = self.values.as_ref();
        let same = before.filter(|before| are_equal_but(before, &values, index));
        let position = match same.and_then(|before| before.get(index)) {
            Some(Value::I64(before)) => *before,
            _ => {
                self.is_changed = true;
                position
            }
        };
        if let Some(value) = values.get_mut(index) {
            *value = Value::I64(position);
        }
        self.values = Some(values);
        if let Some(row) = &mut self.row {
            row.set_position(position);
        }
    }

    fn add_to(self, changes: &mut Changes, has_position: bool) -> Result<(), HandlerError> {
        let in_row = |error| RowError::Column {
            key: self.key.to_text(),
            error,
        };
        let is_new = !self.is_stored;
        let mut write = |values| changes.written.push(WrittenRow { values, is_new });
        match (self.row, self.values) {
            (Some(_), Some(values)) if has_position => {
                if self.is_changed {
                    write(values);
                }
            }
            (Some(row), before) => {
                let values = values_of(&row).map_err(in_row)?;
                if before.as_ref() != Some(&values) {
                    write(values);
                }
            }
            (None, _) if self.is_stored => {
                let mut key = Vec::new();
                self.key.to_values(&mut key)?;
                changes.deletions.push(key);
            }
            (None, _) => {}
        }
        Ok(())
    }
}

fn values_of<R: ReadModel>(row: &R) -> Result<Vec<Value>, ColumnError> {
    let mut values = Vec::with_capacity(R::TABLE.columns.len());
    row.to_values(&mut values)?;
    Ok(values)
}

/// Whether two rows have the same values in all columns but one.
fn are_equal_but(one: &[Value], other: &[Value], column: usize) -> bool {
    let pairs = one.iter().zip(other).enumerate();
    one.len() == other.len()
        && pairs
            .filter(|(index, _)| *index != column)
            .all(|(_, (one, other))| one == other)
}
