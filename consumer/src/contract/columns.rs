//! What handlers of several events need to write them in one statement.
//!
//! A statement a batch instead of a statement an event is several times as fast. It wants the
//! events as columns (`UNNEST` on Postgres) or as one JSON text (`json_each` on SQLite), and an
//! upsert must not touch a row twice:
//!
//! ```
//! # use consumer::{EventRecord, PersistedEvent};
//! use consumer::columns::{column, json_rows, last_of_each};
//!
//! # let event = |position, id: &str| PersistedEvent::new(EventRecord {
//! #     global_position: position, aggregate_id: id.into(), ..EventRecord::default() });
//! let events = [event(1, "ada"), event(2, "bob"), event(3, "ada")];
//!
//! let last = last_of_each(&events, |event| &event.aggregate_id);
//! let ids: Vec<&str> = column(&last, |event| &*event.aggregate_id);
//! assert_eq!(ids, ["bob", "ada"]);
//!
//! let rows = json_rows(&last, |event| (&event.aggregate_id, event.global_position)).unwrap();
//! assert_eq!(rows, r#"[["bob",2],["ada",3]]"#);
//! ```
//!
//! All three take a slice of anything: `&[PersistedEvent]`, `&[Envelope<'_, E>]`, or what another
//! of them returned.

use std::collections::HashSet;
use std::hash::Hash;

use serde::{Serialize, Serializer};

/// One value of each event, in order: an array to bind for `UNNEST($1::text[], …)`.
///
/// ```
/// # use consumer::PersistedEvent;
/// # use consumer::columns::column;
/// # fn of(events: &[PersistedEvent]) {
/// let ids: Vec<&str> = column(events, |event| &*event.aggregate_id);
/// let positions: Vec<i64> = column(events, |event| event.global_position);
/// # }
/// ```
pub fn column<'a, E, T>(events: &'a [E], value: impl FnMut(&'a E) -> T) -> Vec<T> {
    events.iter().map(value).collect()
}

/// The last event of each key, in the order of the log.
///
/// For read models that only keep the newest state: an `INSERT … ON CONFLICT DO UPDATE` of several
/// rows must not meet the same row twice (Postgres refuses it).
///
/// See the [module](self) for an example.
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

/// One row of each event as JSON text: a parameter to bind for `json_each(?1)`.
///
/// A row that is a tuple becomes an array, of which SQL takes `value ->> 0`, `value ->> 1`, …; one
/// that is a struct becomes an object (`value ->> 'name'`).
///
/// ```
/// # use consumer::PersistedEvent;
/// # use consumer::columns::json_rows;
/// # fn of(events: &[PersistedEvent]) -> Result<(), serde_json::Error> {
/// let rows = json_rows(events, |event| (&event.aggregate_id, event.global_position))?;
/// // INSERT INTO seen (id, position) SELECT value ->> 0, value ->> 1 FROM json_each(?1)
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// What `serde_json` says, when a row has no JSON form.
pub fn json_rows<'a, E, R: Serialize>(
    events: &'a [E],
    row: impl Fn(&'a E) -> R,
) -> Result<String, serde_json::Error> {
    serde_json::to_string(&Rows { events, row })
}

/// Rows that are made while they are written, so that there is no list of them.
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
    #![allow(clippy::unwrap_used)]

    use super::{column, json_rows, last_of_each};

    #[test]
    fn the_last_of_each_key_stands_where_it_stood() {
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
