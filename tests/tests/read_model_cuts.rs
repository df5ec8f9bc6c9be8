//! The rows of a read model do not depend on how its events are divided into batches.

use std::collections::{BTreeMap, HashSet};

use chrono::NaiveDate;
use consumer::read_model::{ColumnError, Keys, Table, Value};
use consumer::{HandlerError, NewEvent, OnError, PersistedEvent, ReadModel, Registered, Settings};
use consumer_tests::samples::{Action, Command, Sample, Samples, assert_same_rows, dump};
use consumer_tests::{
    Database, Folding, TestDatabase, WorkerProcess, cases, folding, impatient, kill_20_times,
    run_once, test_on, until,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde::{Deserialize, Serialize};
use sqlx::{Postgres, Sqlite};
use uuid::Uuid;

/// Aggregates, whose ids are keys too.
const IDS: [&str; 6] = ["7", "007", "", "ü'\"", "A", "a"];

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => Just(Action::Put),
        8 => Just(Action::Change),
        2 => Just(Action::ChangeBack),
        2 => Just(Action::Remove),
        1 => Just(Action::Rename),
        1 => Just(Action::Fail),
        1 => Just(Action::Panic),
    ]
}

/// Those that depend on how often the event was tried, too.
fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![20 => action(), 1 => Just(Action::FailOnce)]
}

/// Mostly numbers with few digits, some with random bits: subnormal, infinite, NaN.
fn bits() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => any::<f32>().prop_map(|number| f64::from(number).to_bits()),
        2 => any::<u64>(),
        1 => prop::sample::select(vec![
            f64::NAN.to_bits(), f64::INFINITY.to_bits(), (-0.0_f64).to_bits(), 1, f64::MAX.to_bits(),
        ]),
    ]
}

/// Mostly times that databases can store.
fn seconds() -> impl Strategy<Value = i64> {
    prop_oneof![6 => -62_135_596_800_i64..253_402_300_800, 1 => -8_000_000_000_000_i64..8_000_000_000_000]
}

fn days() -> impl Strategy<Value = i32> {
    prop_oneof![6 => -719_162..2_932_897, 1 => any::<i32>()]
}

fn text() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        1 => Just(None),
        4 => "[a-zé\"\\\\ ]{0,8}".prop_map(Some),
        1 => prop::sample::select(vec!["nul\0", "\u{10ffff}", "'; --"]).prop_map(|text| Some(text.into())),
    ]
}

fn keys() -> impl Strategy<Value = Vec<String>> {
    let key = prop_oneof![
        20 => prop::sample::select(IDS.to_vec()),
        1 => Just("nul\0"),
    ];
    prop::collection::vec(key.prop_map(str::to_owned), 0..4)
}

fn command(action: impl Strategy<Value = Action>) -> impl Strategy<Value = (usize, Command)> {
    let parts = (
        action,
        keys(),
        text(),
        text(),
        bits(),
        seconds(),
        days(),
        any::<i64>(),
    );
    let command =
        parts.prop_map(
            |(action, keys, text, note, bits, seconds, days, number)| Command {
                action,
                keys,
                text,
                note,
                bits,
                seconds,
                days,
                number,
            },
        );
    (0..IDS.len(), command)
}

/// How one consumer handles the events.
#[derive(Clone, Debug)]
struct Cut {
    many_rows: bool,
    parks: bool,
    segments: u32,
    /// 0 for the default.
    batch_size: u32,
}

fn cut() -> impl Strategy<Value = Cut> {
    let size = prop::sample::select(vec![0, 1, 2, 3, 7, 20]);
    (any::<bool>(), any::<bool>(), any::<bool>(), size).prop_map(
        |(many_rows, parks, divided, batch_size)| Cut {
            many_rows,
            parks,
            segments: if divided && !many_rows { 4 } else { 1 },
            batch_size,
        },
    )
}

impl Cut {
    /// With one retry, for the events that fail once.
    fn settings(&self) -> Settings {
        let settings = impatient().retries(1).segments(self.segments);
        let settings = settings.on_error(if self.parks {
            OnError::Park
        } else {
            OnError::Skip
        });
        match self.batch_size {
            0 => settings,
            size => settings.batch_size(size),
        }
    }

    fn samples(&self) -> Samples {
        Samples {
            many_rows: self.many_rows,
            settings: self.settings(),
        }
    }
}

async fn the_rows_are_those_of_one_event_at_a_time<DB: TestDatabase>(
    commands: Vec<(usize, Command)>,
    cuts: Vec<Cut>,
) {
    let db = Database::<DB>::fresh().await;
    for (aggregate, command) in commands {
        db.append_event(command.event(IDS[aggregate])).await;
    }
    let mut worker = db.worker();
    for (version, cut) in (1..).zip(&cuts) {
        worker = worker.registered(Registered::new(cut.samples().folding()).version(version));
    }
    run_once(worker).await;
    let events = db.events().await;
    for (version, cut) in (1..).zip(&cuts) {
        let expected = cut.samples().in_memory(&events, cut.parks);
        assert_same_rows(&expected, &db.rows::<Sample>(version).await);
    }
}

/// Tries a property with random values.
fn holds<T: std::fmt::Debug, F: Future<Output = ()>>(
    usual: u32,
    values: impl Strategy<Value = T>,
    property: impl Fn(T) -> F,
) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tested = TestRunner::new(cases(usual)).run(&values, |values| {
        runtime.block_on(property(values));
        Ok(())
    });
    tested.unwrap();
}

fn cuts_of<DB: TestDatabase>() {
    let commands = prop::collection::vec(command(any_action()), 1..80);
    let cuts = prop::collection::vec(cut(), 2..4);
    holds(24, (commands, cuts), |(commands, cuts)| {
        the_rows_are_those_of_one_event_at_a_time::<DB>(commands, cuts)
    });
}

#[test]
fn rows_do_not_depend_on_the_batches_sqlite() {
    cuts_of::<Sqlite>();
}

#[test]
fn rows_do_not_depend_on_the_batches_postgres() {
    cuts_of::<Postgres>();
}

/// What an event does to a row with the words of the events before it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Edit {
    Add,
    Remove,
    Fail,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Edited {
    edit: Edit,
    part: String,
    day: NaiveDate,
    word: String,
}

/// A row of words, and how it is named.
trait Words: ReadModel + Clone + std::fmt::Debug {
    /// Aggregates, of which several are one row and one is none.
    const IDS: [&str; 5];

    /// The key of the row that an event of an aggregate is about.
    fn key_of(aggregate_id: &str, edited: &Edited) -> Result<Self::Key, HandlerError>;

    fn add_key(
        event: &PersistedEvent,
        edited: &Edited,
        keys: &mut Keys<'_, Self::Key>,
    ) -> Result<(), HandlerError>;

    fn new(key: Self::Key) -> Self;

    /// Whether a consumer with segments may have the row of this aggregate.
    fn may_be_divided(key: &Self::Key, aggregate_id: &str) -> bool;

    fn words(&mut self) -> &mut String;
}

/// Declares a row whose key is the aggregate id, as a value of a type. The derive needs its table as a literal.
macro_rules! row_of_an_aggregate {
    ($row:ident, $table:literal, $key:ty, $ids:expr) => {
        #[derive(ReadModel, Clone, Debug)]
        #[read_model(table = $table)]
        struct $row {
            #[read_model(key)]
            id: $key,
            words: String,
            #[read_model(position)]
            as_of: i64,
        }

        impl Words for $row {
            const IDS: [&str; 5] = $ids;

            fn key_of(aggregate_id: &str, _: &Edited) -> Result<$key, HandlerError> {
                Ok(aggregate_id.parse()?)
            }

            fn add_key(
                event: &PersistedEvent,
                _: &Edited,
                keys: &mut Keys<'_, $key>,
            ) -> Result<(), HandlerError> {
                keys.add_aggregate(event)
            }

            fn new(id: $key) -> Self {
                let (words, as_of) = (String::new(), 0);
                Self { id, words, as_of }
            }

            fn may_be_divided(key: &$key, aggregate_id: &str) -> bool {
                key.to_string() == aggregate_id
            }

            fn words(&mut self) -> &mut String {
                &mut self.words
            }
        }
    };
}

const NUMBERS: [&str; 5] = ["7", "007", "+7", "-8", "x"];

row_of_an_aggregate!(Long, "longs", i64, NUMBERS);
row_of_an_aggregate!(Number, "numbers", i32, NUMBERS);
row_of_an_aggregate!(
    Short,
    "shorts",
    i16,
    ["7", "007", "-32768", "32767", "32768"]
);
row_of_an_aggregate!(
    ByUuid,
    "by_uuid",
    Uuid,
    [
        "0a000000-0000-4000-8000-00000000000b",
        "0A000000-0000-4000-8000-00000000000B",
        "{0a000000-0000-4000-8000-00000000000b}",
        "0a00000000004000800000000000000b",
        "0a000000-0000-4000-8000-00000000000x",
    ]
);
row_of_an_aggregate!(
    ByDay,
    "by_day",
    NaiveDate,
    [
        "2024-02-29",
        "2024-2-29",
        "0001-01-01",
        "9999-12-31",
        "2023-02-29"
    ]
);

/// Declares a row whose key has several parts, given the number of the aggregate and the event. The derive
/// reads them from the struct.
macro_rules! row_of_parts {
    (
        $row:ident, $table:literal, |$number:ident, $edited:ident|
        $first:ident: $first_key:ty = $first_part:expr $(, $name:ident: $key:ty = $part:expr)+
    ) => {
        #[derive(ReadModel, Clone, Debug)]
        #[read_model(table = $table)]
        struct $row {
            #[read_model(key)]
            $first: $first_key,
            words: String,
            $(#[read_model(key)] $name: $key,)+
            #[read_model(position)]
            as_of: i64,
        }

        impl Words for $row {
            const IDS: [&str; 5] = NUMBERS;

            fn key_of(aggregate_id: &str, $edited: &Edited) -> Result<Self::Key, HandlerError> {
                let $number: i64 = aggregate_id.parse()?;
                Ok(($first_part, $($part),+))
            }

            fn add_key(
                event: &PersistedEvent,
                edited: &Edited,
                keys: &mut Keys<'_, Self::Key>,
            ) -> Result<(), HandlerError> {
                keys.add(Self::key_of(&event.aggregate_id, edited)?)
            }

            fn new(($first, $($name),+): Self::Key) -> Self {
                let (words, as_of) = (String::new(), 0);
                Self { $first, words, $($name,)+ as_of }
            }

            fn may_be_divided(_: &Self::Key, _: &str) -> bool {
                false
            }

            fn words(&mut self) -> &mut String {
                &mut self.words
            }
        }
    };
}

row_of_parts!(Pair, "pairs", |number, edited|
    id: i64 = number, name: String = edited.part.clone());
row_of_parts!(Triple, "triples", |number, edited|
    on: NaiveDate = edited.day, id: i32 = number.try_into()?, other: Uuid = edited.uuid());
row_of_parts!(Quadruple, "quadruples", |number, edited|
    other: Uuid = edited.uuid(), id: i16 = number.try_into()?,
    name: String = edited.part.clone(), on: NaiveDate = edited.day);

impl Edited {
    fn of(event: &PersistedEvent) -> Result<Self, HandlerError> {
        Ok(serde_json::from_slice(&event.payload)?)
    }

    /// The part of the key as a UUID.
    fn uuid(&self) -> Uuid {
        Uuid::from_u128(self.part.bytes().map(u128::from).sum())
    }

    fn apply<R: Words>(&self, key: R::Key, row: &mut Option<R>) -> Result<(), HandlerError> {
        let words = row.get_or_insert_with(|| R::new(key)).words();
        words.push_str(&self.word);
        match self.edit {
            Edit::Add => {}
            Edit::Remove => *row = None,
            Edit::Fail => return Err("this event fails".into()),
        }
        Ok(())
    }

    /// The same in memory.
    fn step<R: Words>(
        event: &PersistedEvent,
        is_divided: bool,
        rows: &mut BTreeMap<R::Key, R>,
    ) -> Result<(), HandlerError> {
        let edited = Self::of(event)?;
        let key = R::key_of(&event.aggregate_id, &edited)?;
        if is_divided && !R::may_be_divided(&key, &event.aggregate_id) {
            return Err("another aggregate may have the row".into());
        }
        let mut row = rows.get(&key).cloned();
        edited.apply(key.clone(), &mut row)?;
        rows.remove(&key);
        if let Some(mut row) = row {
            row.set_position(event.global_position);
            rows.insert(key, row);
        }
        Ok(())
    }
}

impl Cut {
    fn words<R: Words>(&self) -> Folding<R> {
        let folding = folding(
            "words",
            |_, event, keys| R::add_key(event, &Edited::of(event)?, keys),
            |_, event, rows| {
                let edited = Edited::of(event)?;
                let key = R::key_of(&event.aggregate_id, &edited)?;
                edited.apply(key.clone(), rows.row(&key)?)
            },
        );
        folding.settings(self.settings())
    }

    fn words_in_memory<R: Words>(&self, events: &[PersistedEvent]) -> BTreeMap<R::Key, R> {
        let (mut rows, mut parked) = (BTreeMap::new(), HashSet::new());
        for event in events {
            let is_parked = parked.contains(&event.aggregate_id);
            if !is_parked
                && Edited::step(event, self.segments > 1, &mut rows).is_err()
                && self.parks
            {
                parked.insert(&event.aggregate_id);
            }
        }
        rows
    }
}

fn edited() -> impl Strategy<Value = (usize, Edited)> {
    let edit = prop_oneof![
        8 => Just(Edit::Add),
        2 => Just(Edit::Remove),
        1 => Just(Edit::Fail),
    ];
    let part = prop::sample::select(vec!["", "a", "A"]).prop_map(str::to_owned);
    let day = prop::sample::select(vec![(2024, 366), (1, 1)]);
    let day = day.prop_map(|(year, day)| NaiveDate::from_yo_opt(year, day).unwrap());
    let edited = (edit, part, day, "[a-z]").prop_map(|(edit, part, day, word)| Edited {
        edit,
        part,
        day,
        word,
    });
    (0..5_usize, edited)
}

/// With segments, "007" is an error, and a key of several parts always; without, "7", "007" and "+7" share a
/// row.
async fn keys_name_the_rows_that_they_name_in_memory<DB: TestDatabase, R: Words>(
    edits: Vec<(usize, Edited)>,
    cuts: Vec<Cut>,
) {
    let db = Database::<DB>::fresh().await;
    for (aggregate, edited) in edits {
        let payload = serde_json::to_vec(&edited).unwrap();
        let event = NewEvent::new("Words", R::IDS[aggregate], "Edited", payload);
        db.append_event(event).await;
    }
    let mut worker = db.worker();
    for (version, cut) in (1..).zip(&cuts) {
        worker = worker.registered(Registered::new(cut.words::<R>()).version(version));
    }
    run_once(worker).await;
    let events = db.events().await;
    for (version, cut) in (1..).zip(&cuts) {
        let expected = cut.words_in_memory::<R>(&events);
        assert_same_rows(&expected, &db.rows(version).await);
    }
}

fn keys_of_type<DB: TestDatabase, R: Words>(usual: u32) {
    let edits = prop::collection::vec(edited(), 1..60);
    let cuts = prop::collection::vec(cut(), 2..4);
    holds(usual, (edits, cuts), |(edits, cuts)| {
        keys_name_the_rows_that_they_name_in_memory::<DB, R>(edits, cuts)
    });
}

fn keys_of<DB: TestDatabase>() {
    keys_of_type::<DB, Long>(4);
    keys_of_type::<DB, Number>(2);
    keys_of_type::<DB, Short>(2);
    keys_of_type::<DB, ByUuid>(2);
    keys_of_type::<DB, ByDay>(2);
    keys_of_type::<DB, Pair>(4);
    keys_of_type::<DB, Triple>(2);
    keys_of_type::<DB, Quadruple>(2);
}

#[test]
fn keys_of_all_types_name_the_rows_of_memory_sqlite() {
    keys_of::<Sqlite>();
}

#[test]
fn keys_of_all_types_name_the_rows_of_memory_postgres() {
    keys_of::<Postgres>();
}

test_on!(
    [sqlite, postgres],
    without_their_stored_form_rows_depend_on_the_batches,
    r3_a_worker_killed_at_20_random_moments_yields_the_same_rows,
    r3_segments_killed_at_20_random_moments_yield_the_same_rows,
    processes_that_start_at_once_create_one_table
);

/// A row that never takes its stored form.
#[derive(Debug)]
struct AsGiven(Sample);

impl From<Sample> for AsGiven {
    fn from(row: Sample) -> Self {
        Self(row)
    }
}

impl From<AsGiven> for Sample {
    fn from(row: AsGiven) -> Self {
        row.0
    }
}

impl ReadModel for AsGiven {
    type Key = String;

    const TABLE: &'static Table = Sample::TABLE;

    fn key(&self) -> String {
        self.0.key()
    }

    fn to_values(&self, values: &mut Vec<Value>) -> Result<(), ColumnError> {
        self.0.to_values(values)
    }

    fn from_values(values: Vec<Value>) -> Result<Self, ColumnError> {
        Sample::from_values(values).map(Self)
    }

    fn normalize(&mut self) -> Result<(), ColumnError> {
        Ok(())
    }

    fn set_position(&mut self, position: i64) {
        self.0.set_position(position);
    }
}

/// The control: what the property above rests on is that each row takes its stored form.
async fn without_their_stored_form_rows_depend_on_the_batches<DB: TestDatabase>(db: Database<DB>) {
    for action in [Action::Put, Action::Change, Action::Change] {
        let command = Command {
            action,
            keys: Vec::new(),
            text: Some("text".into()),
            note: Some("note".into()),
            bits: 0.1_f64.to_bits(),
            seconds: 1,
            days: 1,
            number: 5,
        };
        db.append_event(command.event("a")).await;
    }
    let one_by_one = Cut {
        many_rows: false,
        parks: false,
        segments: 1,
        batch_size: 1,
    };
    let at_once = Cut {
        batch_size: 20,
        ..one_by_one.clone()
    };
    // One after the other: where a version meets another one, it cuts its batches.
    let as_given = |cut: &Cut| Registered::new(cut.samples().folding_as::<AsGiven>());
    let stored = |cut: &Cut| Registered::new(cut.samples().folding());
    for (version, registered) in (1..).zip([
        as_given(&at_once),
        as_given(&one_by_one),
        stored(&at_once),
        stored(&one_by_one),
    ]) {
        run_once(db.worker().registered(registered.version(version))).await;
    }
    let mut rows = Vec::new();
    for version in 1..=4 {
        rows.push(dump(&db.rows::<Sample>(version).await["a"]));
    }
    assert_ne!(rows[0], rows[1]);
    assert_eq!(rows[2], rows[3]);
}

async fn r3_a_worker_killed_at_20_random_moments_yields_the_same_rows<DB: TestDatabase>(
    db: Database<DB>,
) {
    kill_samples_20_times(&db, 1).await;
}

async fn r3_segments_killed_at_20_random_moments_yield_the_same_rows<DB: TestDatabase>(
    db: Database<DB>,
) {
    kill_samples_20_times(&db, 4).await;
}

/// Appends a hundred events, and returns the position of the last.
async fn append_commands<DB: TestDatabase>(db: &Database<DB>, runner: &mut TestRunner) -> i64 {
    // What an event does in a process must not depend on those that were killed before.
    let run = (0..IDS.len(), prop::collection::vec(command(action()), 5));
    let mut head = 0;
    for _ in 0..20 {
        let (aggregate, commands) = run.new_tree(runner).unwrap().current();
        let id = IDS[aggregate];
        let events: Vec<_> = commands.iter().map(|(_, one)| one.event(id)).collect();
        let appended = db.append_events(&events).await;
        head = appended[4].global_position;
    }
    head
}

async fn kill_samples_20_times<DB: TestDatabase>(db: &Database<DB>, segments: u32) {
    let mut runner = TestRunner::new(ProptestConfig::default());
    let start = || {
        let worker = WorkerProcess::of(env!("CARGO_BIN_EXE_test_worker"), db)
            .consumers(&["samples"])
            .batch_size(3);
        if segments > 1 {
            worker.segments(segments).start()
        } else {
            worker.start()
        }
    };
    let append = async || append_commands(db, &mut runner).await;
    kill_20_times(db, "samples", start, append).await;
    let samples = Samples {
        many_rows: segments == 1,
        settings: impatient(),
    };
    let expected = samples.in_memory(&db.events().await, false);
    assert_same_rows(&expected, &db.rows::<Sample>(1).await);
}

async fn processes_that_start_at_once_create_one_table<DB: TestDatabase>(db: Database<DB>) {
    let put = Command {
        action: Action::Put,
        keys: vec!["a".into(), "b".into()],
        text: None,
        note: None,
        bits: 0,
        seconds: 0,
        days: 0,
        number: 0,
    };
    let head = db.append_event(put.event("a")).await;
    let workers = [(); 4].map(|()| {
        WorkerProcess::of(env!("CARGO_BIN_EXE_test_worker"), &db)
            .consumers(&["samples"])
            .start()
    });
    until("the event is handled", async || {
        db.checkpoint("samples").await == Some(head)
    })
    .await;
    for worker in workers {
        assert!(worker.terminate());
    }
    assert_eq!(db.number("SELECT count(*) FROM samples").await, 2);
}
