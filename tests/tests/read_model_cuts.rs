//! The rows of a read model do not depend on how its events are divided into batches.

use std::time::Duration;

use consumer::read_model::{ColumnError, Table, Value};
use consumer::{OnError, ReadModel, Registered};
use consumer_tests::samples::{Action, Command, Sample, Samples, assert_same_rows, dump};
use consumer_tests::{Database, TestDatabase, WorkerProcess, impatient, run_once, test_on, until};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use sqlx::{Postgres, Sqlite};

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
    ]
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

fn command() -> impl Strategy<Value = (usize, Command)> {
    let parts = (
        action(),
        keys(),
        text(),
        bits(),
        seconds(),
        days(),
        any::<i64>(),
    );
    let command = parts.prop_map(
        |(action, keys, text, bits, seconds, days, number)| Command {
            action,
            keys,
            text,
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
    fn samples(&self) -> Samples {
        let settings = impatient().retries(0).segments(self.segments);
        let settings = settings.on_error(if self.parks {
            OnError::Park
        } else {
            OnError::Skip
        });
        let settings = match self.batch_size {
            0 => settings,
            size => settings.batch_size(size),
        };
        Samples {
            many_rows: self.many_rows,
            settings,
        }
    }
}

async fn the_rows_are_those_of_one_event_at_a_time<DB: TestDatabase>(
    commands: Vec<(usize, Command)>,
    cuts: Vec<Cut>,
) {
    let db = Database::<DB>::fresh().await;
    for (aggregate, command) in commands {
        db.append_events(&[command.event(IDS[aggregate])]).await;
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

fn cuts_of<DB: TestDatabase>() {
    let config = ProptestConfig {
        cases: 24,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let commands = prop::collection::vec(command(), 1..80);
    let cuts = prop::collection::vec(cut(), 2..4);
    let tested = TestRunner::new(config).run(&(commands, cuts), |(commands, cuts)| {
        runtime.block_on(the_rows_are_those_of_one_event_at_a_time::<DB>(
            commands, cuts,
        ));
        Ok(())
    });
    tested.unwrap();
}

#[test]
fn rows_do_not_depend_on_the_batches_sqlite() {
    cuts_of::<Sqlite>();
}

#[test]
fn rows_do_not_depend_on_the_batches_postgres() {
    cuts_of::<Postgres>();
}

test_on!(
    [sqlite, postgres],
    without_their_stored_form_rows_depend_on_the_batches,
    r3_a_worker_killed_at_20_random_moments_yields_the_same_rows,
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
            bits: 0.1_f64.to_bits(),
            seconds: 1,
            days: 1,
            number: 5,
        };
        db.append_events(&[command.event("a")]).await;
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
    let mut runner = TestRunner::new(ProptestConfig::default());
    let mut head = 0;
    let mut append = async || {
        for _ in 0..30 {
            let (aggregate, command) = command().new_tree(&mut runner).unwrap().current();
            let appended = db.append_events(&[command.event(IDS[aggregate])]).await;
            head = appended[0].global_position;
        }
        head
    };
    let start = || {
        WorkerProcess::of(env!("CARGO_BIN_EXE_test_worker"), &db)
            .consumers(&["samples"])
            .batch_size(7)
            .start()
    };
    for _ in 0..20 {
        append().await;
        let worker = start();
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..150))).await;
        worker.kill();
    }
    let head = append().await;
    let worker = start();
    until("the worker has caught up", async || {
        db.checkpoint("samples").await == Some(head)
    })
    .await;
    assert!(worker.terminate());
    let samples = Samples {
        many_rows: true,
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
        bits: 0,
        seconds: 0,
        days: 0,
        number: 0,
    };
    let head = db.append_events(&[put.event("a")]).await[0].global_position;
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
