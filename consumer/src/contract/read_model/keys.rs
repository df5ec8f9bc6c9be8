//! Which rows each event of a batch needs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::error::RowError;
use super::key::{AggregateKey, Key};
use super::value::Value;
use crate::contract::{HandlerError, PersistedEvent};

/// The keys of the rows that the handlers of one event need.
///
/// [`Fold::keys`](super::Fold::keys) fills it in. A key may be added more than once.
#[derive(Debug)]
pub struct Keys<'a, K> {
    batch: &'a mut BatchKeys<K>,
    is_segmented: bool,
}

impl<'a, K: Key> Keys<'a, K> {
    pub(super) fn of_next_event(batch: &'a mut BatchKeys<K>, is_segmented: bool) -> Self {
        batch.starts.push(batch.named.len());
        Self {
            batch,
            is_segmented,
        }
    }

    /// Adds the key of a row.
    ///
    /// # Errors
    /// If no database can store the key, or if the consumer has `segments`: those divide the events
    /// by aggregate, so a row must not be shared by several aggregates.
    pub fn add(&mut self, key: K) -> Result<(), HandlerError> {
        if self.is_segmented {
            let key = key.to_text();
            return Err(RowError::Segmented { key }.into());
        }
        self.batch.add(key)
    }

    /// Adds the row whose key is the event's aggregate id.
    ///
    /// # Errors
    /// If the id is not a key of the row's type. If the consumer has `segments`, the id must also be
    /// written as the key is: `007` and `7` would be one row of two aggregates.
    pub fn add_aggregate(&mut self, event: &PersistedEvent) -> Result<(), HandlerError>
    where
        K: AggregateKey,
    {
        let key = K::from_aggregate_id(&event.aggregate_id)?;
        if self.is_segmented {
            let text = key.to_text();
            if text != event.aggregate_id {
                let id = event.aggregate_id.clone();
                return Err(RowError::OtherSpelling { id, key: text }.into());
            }
        }
        self.batch.add(key)
    }
}

/// The keys of a batch, each once, and which event needs which.
#[derive(Debug)]
pub(super) struct BatchKeys<K> {
    /// The indices of the keys.
    pub(super) indices: HashMap<K, usize>,
    /// The keys and the values of their columns, in the order in which they were first added.
    pub(super) keys: Vec<K>,
    pub(super) values: Vec<Vec<Value>>,
    /// The indices of the keys that the events need, event by event.
    named: Vec<usize>,
    /// Where the keys of each event start in `named`.
    starts: Vec<usize>,
}

impl<K: Key> BatchKeys<K> {
    pub(super) fn new() -> Self {
        Self {
            indices: HashMap::new(),
            keys: Vec::new(),
            values: Vec::new(),
            named: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// The number of events whose keys were added.
    pub(super) fn events(&self) -> usize {
        self.starts.len()
    }

    /// The indices of the keys that an event needs.
    pub(super) fn of_event(&self, event: usize) -> &[usize] {
        let start = self.starts.get(event).copied().unwrap_or_default();
        let end = self.starts.get(event + 1).copied();
        let end = end.unwrap_or(self.named.len());
        self.named.get(start..end).unwrap_or_default()
    }

    /// How many events at the start of the batch need only the first `keys` keys.
    pub(super) fn events_within(&self, keys: usize) -> usize {
        let needs_more = |&event: &usize| self.of_event(event).iter().any(|&key| key >= keys);
        (0..self.events()).find(needs_more).unwrap_or(self.events())
    }

    /// Takes back the last event. Its new keys stay, and no event needs them.
    pub(super) fn remove_last_event(&mut self) {
        if let Some(start) = self.starts.pop() {
            self.named.truncate(start);
        }
    }

    fn add(&mut self, key: K) -> Result<(), HandlerError> {
        let index = match self.indices.entry(key) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let mut values = Vec::new();
                if let Err(error) = new.key().to_values(&mut values) {
                    let key = new.key().to_text();
                    return Err(RowError::Key { key, error }.into());
                }
                let index = self.keys.len();
                self.keys.push(new.key().clone());
                self.values.push(values);
                *new.insert(index)
            }
        };
        self.named.push(index);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{BatchKeys, Keys};
    use crate::contract::{EventRecord, PersistedEvent};

    fn event(aggregate_id: &str) -> PersistedEvent {
        PersistedEvent::new(EventRecord {
            aggregate_id: aggregate_id.into(),
            ..EventRecord::default()
        })
    }

    #[test]
    fn each_key_has_one_index_and_each_event_its_own_keys() {
        let mut batch = BatchKeys::new();
        for keys in [&[7_i64, 8][..], &[], &[8, 9]] {
            let mut of_event = Keys::of_next_event(&mut batch, false);
            for key in keys {
                of_event.add(*key).unwrap();
            }
        }
        assert_eq!(batch.keys, [7, 8, 9]);
        let of_events: Vec<_> = (0..3).map(|event| batch.of_event(event)).collect();
        assert_eq!(of_events, [&[0, 1][..], &[], &[1, 2]]);
        let within: Vec<_> = (0..4).map(|keys| batch.events_within(keys)).collect();
        assert_eq!(within, [0, 0, 2, 3]);
        batch.remove_last_event();
        assert_eq!((batch.events(), batch.of_event(1)), (2, &[][..]));
    }

    #[test]
    fn with_segments_a_key_is_the_aggregate_id_as_it_is_written() {
        let mut batch = BatchKeys::<i64>::new();
        Keys::of_next_event(&mut batch, false)
            .add_aggregate(&event("007"))
            .unwrap();
        let mut keys = Keys::of_next_event(&mut batch, true);
        keys.add_aggregate(&event("7")).unwrap();
        let error = keys.add_aggregate(&event("007")).unwrap_err();
        assert!(error.to_string().contains("`007`"), "{error}");
        let error = keys.add(7).unwrap_err();
        assert!(error.to_string().contains("segments"), "{error}");
    }
}
