//! Helpers for handlers that write several events in one statement.
//!
//! One statement a batch is several times faster than one statement an event. It takes the events
//! as columns (`UNNEST` on Postgres) or as one JSON text (`json_each` on SQLite), and an upsert must
//! not touch a row twice:
//!
//! ```
//! use consumer::columns::{column, json_rows, last_of_each};
//! use consumer::{EventRecord, PersistedEvent};
//!
//! let events = [(1, "ada"), (2, "bob"), (3, "ada")].map(|(global_position, id)| {
//!     PersistedEvent::new(EventRecord { global_position, aggregate_id: id.into(), ..EventRecord::default() })
//! });
//!
//! let last = last_of_each(&events, |event| &event.aggregate_id);
//! let ids: Vec<&str> = column(&last, |event| &*event.aggregate_id);
//! assert_eq!(ids, ["bob", "ada"]);
//!
//! let rows = json_rows(&last, |event| (&event.aggregate_id, event.global_position)).unwrap();
//! assert_eq!(rows, r#"[["bob",2],["ada",3]]"#);
//! ```
//!
//! All three take any slice: `&[PersistedEvent]`, `&[Envelope<'_, E>]`, or the result of another
//! helper.

use std::collections::HashSet;
use std::hash::Hash;

use serde::{Serialize, Serializer};

/// Collects one value of each event, in order: an array to bind for `UNNEST($1::text[], …)`.
///
/// ```
/// use consumer::PersistedEvent;
/// use consumer::columns::column;
///
/// fn ids_and_positions(events: &[PersistedEvent]) -> (Vec<&str>, Vec<i64>) {
///     let ids = column(events, |event| &*event.aggregate_id);
///     let positions = column(events, |event| event.global_position);
///     (ids, positions)
/// }
/// ```
pub fn column<'a, E, T>(events: &'a [E], value: impl FnMut(&'a E) -> T) -> Vec<T> {
    events.iter().map(value).collect()
}

/// Returns the last event of each key, in the order of the log.
///
/// It is for read models that keep only the latest state: Postgres refuses an
/// `INSERT … ON CONFLICT DO UPDATE` that updates a row twice. The [module](self) shows a call.
pub fn last_of_each<'a, E, K: Eq + Hash>(
    events: &'a [E],
    mut key: impl FnMut(&'a E) -> K,
) -> Vec<&'a E> {
    let mut seen = HashSet::with_capacity(events.len());
    let mut last: Vec<&E> = events
        .iter()
        .rev()
        .filter(|event| seen.insert(key(event)))
        .collect();
    last.reverse();
    last
}

/// Serializes one row of each event as JSON text: a parameter to bind for `json_each(?1)`.
///
/// A tuple becomes an array, which SQL reads with `value ->> 0`, `value ->> 1`, …; a struct becomes
/// an object (`value ->> 'name'`).
///
/// ```
/// use consumer::PersistedEvent;
/// use consumer::columns::json_rows;
///
/// /// For `INSERT INTO seen (id, position) SELECT value ->> 0, value ->> 1 FROM json_each(?1)`.
/// fn rows(events: &[PersistedEvent]) -> Result<String, serde_json::Error> {
///     json_rows(events, |event| (&event.aggregate_id, event.global_position))
/// }
/// ```
///
/// # Errors
/// If a row cannot be represented as JSON.
pub fn json_rows<'a, E, R: Serialize>(
    events: &'a [E],
    row: impl Fn(&'a E) -> R,
) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Rows { events, row })
}

/// Rows that are created while they are serialized, without a list of them.
struct Rows<'a, E, F> {
    events: &'a [E],
    row: F,
}

impl<'a, E, R: Serialize, F: Fn(&'a E) -> R> Serialize for Rows<'a, E, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.events.iter().map(&self.row))
    }
}

#[cfg(test)]
mod tests {
    use super::{column, json_rows, last_of_each};

    #[test]
    fn the_last_of_each_key_keeps_its_place() {
        let pairs = [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5)];
        let last = last_of_each(&pairs, |(key, _)| *key);
        assert_eq!(column(&last, |(_, number)| *number), [3, 4, 5]);
    }

    #[test]
    fn nothing_gives_no_rows() {
        let none: [(String, i64); 0] = [];
        assert!(last_of_each(&none, |(key, _)| key).is_empty());
        assert_eq!(json_rows(&none, |(key, _)| key).unwrap(), "[]");
    }

    #[test]
    fn text_is_escaped_in_rows() {
        let rows = json_rows(&["say \"hi\"\n"], |text| (text, 1)).unwrap();
        assert_eq!(rows, r#"[["say \"hi\"\n",1]]"#);
    }
}
