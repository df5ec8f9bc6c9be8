//! A read model with a column of every type, and its fold in memory.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::panic::resume_unwind;
use std::str::FromStr;
use std::sync::Mutex;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use consumer::read_model::{ReadModelDatabase as _, VersionTable};
use consumer::{HandlerError, NewEvent, PersistedEvent, ReadModel, Settings};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use uuid::Uuid;

use crate::{Database, Folding, TestDatabase, folding};

/// A row.
#[derive(ReadModel, Clone, Debug, Default)]
#[read_model(table = "samples")]
pub struct Sample {
    #[read_model(key)]
    id: String,
    #[read_model(index)]
    text: Option<String>,
    flag: bool,
    small: i16,
    medium: i32,
    count: i64,
    single: f32,
    double: Option<f64>,
    bytes: Vec<u8>,
    uuid: Uuid,
    at: Option<DateTime<Utc>>,
    day: NaiveDate,
    json: serde_json::Value,
    nested: Json<Nested>,
    #[read_model(sql_type = "numeric(20, 2)")]
    amount: Cents,
    #[read_model(position)]
    as_of: i64,
}

/// A value inside a JSON column, of which one field cannot be read back.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Nested {
    numbers: BTreeMap<String, Option<f64>>,
    #[serde(skip)]
    forgotten: u32,
}

/// An amount whose column has a type of the database's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cents(i64);

impl fmt::Display for Cents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

impl FromStr for Cents {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.replace('.', "").parse().map(Self)
    }
}

/// What an event does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Inserts or replaces rows.
    Put,
    /// Changes rows, which must exist.
    Change,
    /// Changes rows that exist and back again.
    ChangeBack,
    /// Removes rows.
    Remove,
    /// Gives rows that exist another key.
    Rename,
    /// Changes rows, and fails.
    Fail,
    /// Changes rows, and panics.
    Panic,
    /// Changes rows that exist, and fails the first time in each process.
    FailOnce,
}

/// The payload of an event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Command {
    /// What to do.
    pub action: Action,
    /// The keys of the rows, for a consumer that takes them from here.
    pub keys: Vec<String>,
    /// A text, possibly with NUL.
    pub text: Option<String>,
    /// A text inside JSON, possibly with NUL.
    pub note: Option<String>,
    /// The bits of floating-point numbers.
    pub bits: u64,
    /// Nanoseconds since the epoch, possibly out of range of a database.
    pub seconds: i64,
    /// Days since the epoch, possibly out of range of a database.
    pub days: i32,
    /// Numbers of all sizes.
    pub number: i64,
}

impl Command {
    /// The event with this payload.
    #[must_use]
    pub fn event(&self, aggregate_id: &str) -> NewEvent {
        let payload = serde_json::to_vec(self).expect("a payload");
        NewEvent::new("Sample", aggregate_id, "Commanded", payload)
    }

    fn at(&self) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(self.seconds, (self.bits % 1_000_000_000) as u32)
    }

    fn row(&self, id: &str) -> Sample {
        let double = f64::from_bits(self.bits);
        Sample {
            id: id.to_owned(),
            text: self.text.clone(),
            flag: self.number % 2 == 0,
            small: self.number as i16,
            medium: self.number as i32,
            count: self.number,
            single: f32::from_bits(self.bits as u32),
            double: Some(double).filter(|_| self.number % 3 != 0),
            bytes: self.bits.to_le_bytes().to_vec(),
            uuid: Uuid::from_u64_pair(self.bits, self.number as u64),
            at: self.at(),
            day: NaiveDate::default()
                .checked_add_signed(TimeDelta::days(self.days.into()))
                .unwrap_or(NaiveDate::MAX),
            json: serde_json::json!({ "note": self.note, "a": [double, 1e16, -0.0], "é": self.number }),
            nested: Json(Nested {
                numbers: BTreeMap::from([("x".into(), (self.number % 5 == 0).then_some(double))]),
                forgotten: 7,
            }),
            amount: Cents(self.number.unsigned_abs() as i64 % 100_000),
            // Overwritten.
            as_of: -1,
        }
    }

    /// Changes a row so that the result depends on whether its stored form was taken before.
    fn change(&self, row: &mut Sample) {
        row.count = row.count.wrapping_add(i64::from(row.nested.forgotten) + 1);
        row.single /= 3.0;
        row.double = row.double.map(|number| 1.0 / (number * 1.000_000_1));
        row.at = row
            .at
            .and_then(|at| at.checked_add_signed(TimeDelta::nanoseconds(1_900)));
        row.amount = Cents((row.amount.0 * 3 + 1) % 100_000);
        if let Some(text) = &mut row.text {
            text.push(if row.json["a"][1].is_u64() { 'u' } else { 'f' });
        }
        row.json["n"] = serde_json::json!(f64::from_bits(self.bits).abs().ln_1p() * 1e20);
        row.nested.forgotten = 3;
        let order = row
            .json
            .as_object()
            .map(|fields| fields.keys().next().cloned());
        row.flag ^= order.flatten().as_deref() == Some("n");
    }

    /// Applies it to one row.
    fn apply(&self, id: &str, row: &mut Option<Sample>) -> Result<(), HandlerError> {
        match self.action {
            Action::Put => *row = Some(self.row(id)),
            Action::Change => self.change(row.as_mut().ok_or("no such row")?),
            Action::ChangeBack => {
                if let Some(row) = row {
                    let before = row.clone();
                    self.change(row);
                    *row = Sample {
                        as_of: -2,
                        ..before
                    };
                }
            }
            Action::Remove => *row = None,
            Action::Rename => {
                if let Some(row) = row {
                    row.id.push('x');
                }
            }
            Action::FailOnce => {
                if let Some(row) = row {
                    self.change(row);
                }
            }
            Action::Fail | Action::Panic => {
                if let Some(row) = row {
                    self.change(row);
                }
                return Err("this event fails".into());
            }
        }
        Ok(())
    }
}

/// A consumer of [`Command`]s.
#[derive(Clone, Debug)]
pub struct Samples {
    /// Whether the keys come from the payload, and not from the aggregate.
    pub many_rows: bool,
    /// Its settings.
    pub settings: Settings,
}

impl Samples {
    fn keys_of(&self, event: &PersistedEvent, command: &Command) -> Vec<String> {
        if self.many_rows {
            command.keys.clone()
        } else {
            vec![event.aggregate_id.clone()]
        }
    }

    /// The consumer.
    #[must_use]
    pub fn folding(&self) -> Folding<Sample> {
        self.folding_as()
    }

    /// The consumer, over another type of rows with the same columns.
    #[must_use]
    pub fn folding_as<R>(&self) -> Folding<R>
    where
        R: ReadModel<Key = String> + From<Sample> + Into<Sample>,
    {
        let (of_keys, of_rows) = (self.clone(), self.clone());
        let has_failed = Mutex::new(HashSet::new());
        let folding = folding(
            "samples",
            move |_, event, keys| {
                if !of_keys.many_rows {
                    return keys.add_aggregate(event);
                }
                let command: Command = serde_json::from_slice(&event.payload)?;
                command.keys.into_iter().try_for_each(|key| keys.add(key))
            },
            move |_, event, rows| {
                let command: Command = serde_json::from_slice(&event.payload)?;
                for key in of_rows.keys_of(event, &command) {
                    let row: &mut Option<R> = rows.row(&key)?;
                    let mut sample = row.take().map(Into::into);
                    let applied = command.apply(&key, &mut sample);
                    *row = sample.map(R::from);
                    if command.action == Action::Panic {
                        // Without the message that a panic prints.
                        resume_unwind(Box::new("this event panics"));
                    }
                    applied?;
                }
                let position = event.global_position;
                if command.action == Action::FailOnce
                    && has_failed
                        .lock()
                        .expect("no panic in between")
                        .insert(position)
                {
                    return Err("this event fails once".into());
                }
                Ok(())
            },
        );
        folding.settings(self.settings.clone())
    }

    /// The rows after some events, folded in memory one by one, as far as they do not fail. Parking
    /// leaves out all events of an aggregate after one that fails.
    #[must_use]
    pub fn in_memory(&self, events: &[PersistedEvent], parks: bool) -> BTreeMap<String, Sample> {
        let mut rows = BTreeMap::new();
        let mut parked = HashSet::new();
        for event in events {
            if parked.contains(&event.aggregate_id) {
                continue;
            }
            match self.step(event, rows.clone()) {
                Ok(after) => rows = after,
                Err(_) if parks => drop(parked.insert(&event.aggregate_id)),
                Err(_) => {}
            }
        }
        rows
    }

    fn step(
        &self,
        event: &PersistedEvent,
        mut rows: BTreeMap<String, Sample>,
    ) -> Result<BTreeMap<String, Sample>, HandlerError> {
        let command: Command = serde_json::from_slice(&event.payload)?;
        let keys = self.keys_of(event, &command);
        if keys.iter().any(|key| key.contains('\0')) {
            return Err("a key with NUL".into());
        }
        for key in keys {
            let before = rows.remove(&key);
            let mut row = before.clone();
            command.apply(&key, &mut row)?;
            let Some(mut row) = row else {
                continue;
            };
            row.normalize()?;
            if row.id != key {
                return Err("another key".into());
            }
            let as_of = |row: &Sample| row.as_of;
            let same = before.as_ref().is_some_and(|before| {
                let before = Sample {
                    as_of: row.as_of,
                    ..before.clone()
                };
                dump(&before) == dump(&row)
            });
            row.as_of = match before.as_ref().filter(|_| same) {
                Some(before) => as_of(before),
                None => event.global_position,
            };
            rows.insert(key, row);
        }
        Ok(rows)
    }
}

/// The stored columns of a row, as text.
#[must_use]
pub fn dump<R: ReadModel>(row: &R) -> String {
    let mut values = Vec::new();
    row.to_values(&mut values).expect("the values of a row");
    format!("{values:?}")
}

impl<DB: TestDatabase> Database<DB> {
    /// The rows of a version of a read model, by key.
    pub async fn rows<R: ReadModel>(&self, version: u32) -> BTreeMap<R::Key, R> {
        // In a transaction, since a pooler shares prepared statements between them.
        let mut tx = self.pool.begin().await.expect("a transaction");
        let table = VersionTable::new(R::TABLE, version, None);
        let rows = DB::load_all(&mut tx, &table).await;
        let rows = rows.expect("the rows").into_iter().map(R::from_values);
        let rows = rows.map(|row| row.expect("a row"));
        rows.map(|row| (row.key(), row)).collect()
    }

    /// All events of the log.
    pub async fn events(&self) -> Vec<PersistedEvent> {
        let mut connection = self.pool.acquire().await.expect("a connection");
        let events = self.store.read_events(&mut connection, 0, u32::MAX).await;
        events.expect("the events")
    }
}

/// Checks that two sets of rows are the same in every column.
pub fn assert_same_rows<R: ReadModel>(expected: &BTreeMap<R::Key, R>, found: &BTreeMap<R::Key, R>) {
    let text = |rows: &BTreeMap<R::Key, R>| -> Vec<String> { rows.values().map(dump).collect() };
    assert_eq!(text(expected), text(found));
}
