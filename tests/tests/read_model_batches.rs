//! The batches of folds: how large they are, and what one of them reads and writes.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use consumer::prelude::*;
use consumer::read_model::{self, Table};
use consumer::{BatchError, EventRecord, EventStore, Fold, Formerly, Settings};
use consumer_tests::{
    Counting, Database, Folding, Running, TestDatabase, batch_consumer, folding, run_once, test_on,
    until,
};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Postgres, Sqlite};
use tokio::sync::Semaphore;

/// The number of events of an aggregate.
#[derive(ReadModel, Clone, Debug)]
#[read_model(table = "counters")]
struct Counter {
    #[read_model(key)]
    id: i64,
    count: i64,
}

/// Counts the events of each aggregate.
fn counters() -> Folding<Counter> {
    folding(
        "counters",
        |_, event, keys| keys.add_aggregate(event),
        |_, event, rows| {
            let id = event.aggregate_id.parse()?;
            rows.row(&id)?.get_or_insert(Counter { id, count: 0 }).count += 1;
            Ok(())
        },
    )
}

/// Settings that no slow machine ends a batch by.
fn unhurried() -> Settings {
    Settings::default().batch_time(Duration::from_hours(1))
}

/// What a fold was given and has done.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// A batch: its events, the bytes of their payloads, and how many of the events were handled.
    Batch {
        events: usize,
        bytes: usize,
        handled: usize,
    },
    /// The end of the transaction of a batch.
    Commit,
}

/// A fold that notes its batches.
struct Noting {
    folding: Folding<Counter>,
    settings: Settings,
    steps: Arc<Mutex<Vec<Step>>>,
}

impl Noting {
    fn new(settings: Settings) -> (Self, Arc<Mutex<Vec<Step>>>) {
        Self::over(counters(), settings)
    }

    fn over(folding: Folding<Counter>, settings: Settings) -> (Self, Arc<Mutex<Vec<Step>>>) {
        let steps = Arc::default();
        let noting = Self {
            folding,
            settings,
            steps: Arc::clone(&steps),
        };
        (noting, steps)
    }
}

impl<DB: TestDatabase> ScopedConsumer<DB> for Noting {
    fn aggregate_types(&self) -> &[&str] {
        &["Counter"]
    }
}

impl<DB: TestDatabase> Consumer<DB> for Noting {
    fn name(&self) -> &str {
        "counters"
    }

    fn scope(&self) -> &[&str] {
        ScopedConsumer::<DB>::aggregate_types(self)
    }

    fn formerly(&self) -> Formerly {
        Formerly::None
    }

    fn settings(&self) -> Settings {
        self.settings.clone()
    }

    async fn handle(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        Consumer::<DB>::handle(&self.folding, cx, tx, event).await
    }

    async fn handle_batch(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        events: &[PersistedEvent],
    ) -> Result<usize, BatchError> {
        let handled = read_model::fold_batch::<DB, _>(&self.folding, cx, tx, events).await?;
        self.steps.lock().unwrap().push(Step::Batch {
            events: events.len(),
            bytes: events.iter().map(|event| event.payload.len()).sum(),
            handled,
        });
        let steps = Arc::clone(&self.steps);
        cx.after_commit(async move { steps.lock().unwrap().push(Step::Commit) });
        Ok(handled)
    }

    fn read_model(&self) -> Option<&'static Table> {
        Some(Counter::TABLE)
    }
}

/// Whole batches of this number of events, each in a transaction of its own.
fn committed(sizes: &[usize]) -> Vec<(usize, usize)> {
    sizes.iter().map(|&events| (events, events)).collect()
}

/// The batches, if each has a transaction of its own: how many events they had, and how many were
/// handled.
fn batches(steps: &Mutex<Vec<Step>>) -> Vec<(usize, usize)> {
    let steps = steps.lock().unwrap();
    let batches = steps.chunks(2).map(|steps| match steps {
        [
            Step::Batch {
                events, handled, ..
            },
            Step::Commit,
        ] => (*events, *handled),
        _ => panic!("not one batch a transaction: {steps:?}"),
    });
    batches.collect()
}

fn changes(aggregate_type: &str, count: usize) -> Vec<NewEvent> {
    let change = |_| NewEvent::new(aggregate_type, "1", "Changed", "{}");
    (0..count).map(change).collect()
}

async fn count<DB: TestDatabase>(db: &Database<DB>) -> i64 {
    db.number("SELECT CAST(coalesce(sum(count), 0) AS bigint) FROM counters_v1")
        .await
}

test_on!(
    [sqlite, postgres],
    a_fold_is_given_20_000_events_at_once,
    a_batch_size_that_is_set_limits_a_fold,
    a_large_batch_has_at_most_four_times_batch_bytes,
    a_fold_lets_other_tasks_run_every_1_000_events,
    a_row_is_read_again_for_the_next_batch,
    a_fold_ends_when_its_batch_time_is_over
);

async fn a_fold_is_given_20_000_events_at_once<DB: TestDatabase>(db: Database<DB>) {
    db.append_events(&changes("Counter", 20_000)).await;
    let (noting, steps) = Noting::new(unhurried());
    run_once(db.worker().consumer(noting)).await;
    assert_eq!(batches(&steps), committed(&[20_000]));
    assert_eq!(count(&db).await, 20_000);
}

async fn a_batch_size_that_is_set_limits_a_fold<DB: TestDatabase>(db: Database<DB>) {
    db.append_events(&changes("Counter", 1_000)).await;
    let (noting, steps) = Noting::new(unhurried().batch_size(100));
    run_once(db.worker().consumer(noting)).await;
    assert_eq!(batches(&steps), committed(&[100; 10]));
    assert_eq!(count(&db).await, 1_000);
}

async fn a_large_batch_has_at_most_four_times_batch_bytes<DB: TestDatabase>(db: Database<DB>) {
    let payload = format!("\"{}\"", "x".repeat(100_000));
    for _ in 0..10 {
        let event = || NewEvent::new("Counter", "1", "Changed", payload.clone());
        db.append_events(&[(); 10].map(|()| event())).await;
    }
    let (noting, steps) = Noting::new(unhurried());
    run_once(db.worker().batch_bytes(1 << 20).consumer(noting)).await;
    let bytes_of = |step: &Step| match step {
        Step::Batch { bytes, .. } => Some(*bytes),
        Step::Commit => None,
    };
    let most = steps.lock().unwrap().iter().filter_map(bytes_of).max();
    // More than one `batch_bytes`, so that it is the factor that is seen.
    assert!((3 << 20..=4 << 20).contains(&most.unwrap()), "{most:?}");
    assert_eq!(count(&db).await, 100);
}

/// Events of aggregates with these ids.
fn events(ids: impl IntoIterator<Item = i64>) -> Vec<PersistedEvent> {
    let events = (1..).zip(ids).map(|(global_position, id)| {
        PersistedEvent::new(EventRecord {
            global_position,
            aggregate_id: id.to_string(),
            ..EventRecord::default()
        })
    });
    events.collect()
}

async fn fold<DB: TestDatabase, F: Fold>(
    db: &Database<DB>,
    fold: &F,
    events: &[PersistedEvent],
) -> usize {
    let mut tx = db.pool.begin().await.unwrap();
    let cx = Context::new("counters");
    let handled = read_model::fold_batch::<DB, _>(fold, &cx, &mut tx, events).await;
    tx.commit().await.unwrap();
    handled.unwrap()
}

/// In how many turns of the task a closure was called, and how often in each.
#[derive(Default)]
struct Turns(Mutex<Vec<(usize, usize)>>);

impl Turns {
    fn note(&self, turn: &AtomicUsize) {
        let turn = turn.load(Ordering::SeqCst);
        let mut turns = self.0.lock().unwrap();
        match turns.last_mut() {
            Some((last, calls)) if *last == turn => *calls += 1,
            _ => turns.push((turn, 1)),
        }
    }

    fn calls(&self) -> Vec<usize> {
        let turns = self.0.lock().unwrap();
        turns.iter().map(|(_, calls)| *calls).collect()
    }
}

async fn a_fold_lets_other_tasks_run_every_1_000_events<DB: TestDatabase>(db: Database<DB>) {
    run_once(db.worker().consumer(counters())).await;
    let turn = Arc::new(AtomicUsize::new(0));
    let (naming, applying) = (Arc::<Turns>::default(), Arc::<Turns>::default());
    let slow = {
        let (turn, naming, applying) = (turn.clone(), naming.clone(), applying.clone());
        let now = Arc::clone(&turn);
        folding::<Counter>(
            "counters",
            move |_, event, keys| {
                naming.note(&now);
                keys.add_aggregate(event)
            },
            move |_, _, _| {
                applying.note(&turn);
                Ok(())
            },
        )
    };
    let events = events(std::iter::repeat_n(1, 3_000));
    let mut folded = pin!(fold(&db, &slow, &events));
    let handled = poll_fn(|cx| {
        turn.fetch_add(1, Ordering::SeqCst);
        folded.as_mut().poll(cx)
    });
    assert_eq!(handled.await, 3_000);
    assert_eq!(naming.calls(), [1_000; 3]);
    assert_eq!(applying.calls(), [1_000; 3]);
}

async fn a_row_is_read_again_for_the_next_batch<DB: TestDatabase>(db: Database<DB>) {
    let running = Running::start(db.worker().consumer(counters()));
    let first = db.append("Counter", ["1", "2"]).await[1];
    running.caught_up_to(first).await.unwrap();
    db.execute(
        "UPDATE counters_v1 SET count = 100 WHERE id = 1; DELETE FROM counters_v1 WHERE id = 2",
    )
    .await;
    let second = db.append("Counter", ["1", "2"]).await[1];
    running.caught_up_to(second).await.unwrap();
    let counts = "SELECT count FROM counters_v1 ORDER BY id";
    assert_eq!(db.numbers(counts).await, [101, 1]);
    running.stop().await;
}

/// The first event takes longer than its batch may, and longer than its row took to load.
async fn a_fold_ends_when_its_batch_time_is_over<DB: TestDatabase>(db: Database<DB>) {
    let began = Arc::<OnceLock<Instant>>::default();
    let is_first = AtomicBool::new(true);
    let beginning = Arc::clone(&began);
    let slow = folding::<Counter>(
        "counters",
        move |_, event, keys| {
            beginning.get_or_init(Instant::now);
            keys.add_aggregate(event)
        },
        move |_, event, rows| {
            if is_first.swap(false, Ordering::SeqCst) {
                let loading = began.get().unwrap().elapsed();
                std::thread::sleep(loading * 2 + Duration::from_millis(300));
            }
            let id = event.aggregate_id.parse()?;
            rows.row(&id)?.get_or_insert(Counter { id, count: 0 }).count += 1;
            Ok(())
        },
    );
    db.append_events(&changes("Counter", 100)).await;
    let hurried = Settings::default().batch_time(Duration::from_millis(200));
    let (noting, steps) = Noting::over(slow, hurried);
    run_once(db.worker().consumer(noting)).await;
    let (events, handled) = batches(&steps)[0];
    // The clock is read every 32 events, and the timer's flag after each.
    assert_eq!(events, 100);
    assert!((1..=32).contains(&handled), "{handled}");
    assert_eq!(count(&db).await, 100);
}

test_on!([sqlite], a_batch_writes_each_changed_row_once);

async fn a_batch_writes_each_changed_row_once(db: Database<Sqlite>) {
    // The third event of an aggregate deletes its row.
    let deleting = || {
        folding::<Counter>(
            "counters",
            |_, event, keys| keys.add_aggregate(event),
            |_, event, rows| {
                let id = event.aggregate_id.parse()?;
                let row = rows.row(&id)?;
                let count = row.as_ref().map_or(1, |row| row.count + 1);
                *row = (count < 3).then_some(Counter { id, count });
                Ok(())
            },
        )
    };
    run_once(db.worker().consumer(counters())).await;
    fold(&db, &deleting(), &events(0..20)).await;
    let noted = ["INSERT", "UPDATE", "DELETE"].map(|kind| {
        let row = if kind == "DELETE" { "OLD" } else { "NEW" };
        format!(
            "CREATE TRIGGER note_{kind} AFTER {kind} ON counters_v1 BEGIN
                 INSERT INTO writes VALUES ('{kind}', {row}.id);
             END;"
        )
    });
    let noted = noted.concat();
    db.execute(&format!(
        "CREATE TABLE writes (kind TEXT, id INTEGER); {noted}"
    ))
    .await;
    // Rows 0 to 9 get to 2, rows 10 to 14 are deleted, rows 20 to 24 are new; row 25 comes and goes.
    let ids = (0..10).chain(10..15).chain(10..15).chain(20..25);
    let events = events(ids.chain([25, 25, 25]));
    assert_eq!(fold(&db, &deleting(), &events).await, 28);
    let writes = "SELECT kind || ' ' || count(*) || ' of ' || count(DISTINCT id) FROM writes
                   GROUP BY kind ORDER BY kind";
    assert_eq!(
        db.texts(writes).await,
        ["DELETE 5 of 5", "INSERT 5 of 5", "UPDATE 10 of 10"]
    );
}

test_on!(
    [postgres],
    a_fold_has_one_batch_a_transaction_in_a_crowd,
    a_statement_writes_at_most_10_000_rows
);

/// Other lanes want all connections while the fold reads and handles its events.
async fn a_fold_has_one_batch_a_transaction_in_a_crowd(db: Database<Postgres>) {
    let gate = Arc::new(Semaphore::new(0));
    let entered = Arc::new(AtomicUsize::new(0));
    let (noting, steps) = Noting::new(unhurried());
    let pool = PgPoolOptions::new().max_connections(3);
    let store = EventStore::<Postgres>::new(pool.connect(&db.url).await.unwrap());
    let worker = Worker::builder(store).poll_interval(Duration::from_millis(10));
    let worker = (0..6).fold(worker.scoped_consumer(noting), |worker, number| {
        let (gate, entered) = (Arc::clone(&gate), Arc::clone(&entered));
        let waits = batch_consumer(&format!("waits_{number}"), move |_, _, events| {
            let (gate, entered) = (Arc::clone(&gate), Arc::clone(&entered));
            Box::pin(async move {
                entered.fetch_add(1, Ordering::SeqCst);
                gate.acquire()
                    .await
                    .map_err(|error| BatchError::at(0, error))?
                    .forget();
                Ok(events.len())
            })
        });
        let waits = waits.settings(Settings::default().batch_size(1));
        worker.scoped_consumer(waits.scope(&["Waited"]))
    });
    db.append_events(&changes("Waited", 5_000)).await;
    let running = Running::start(worker);
    until("the connections are taken", async || {
        entered.load(Ordering::SeqCst) > 0
    })
    .await;
    db.append_events(&changes("Counter", 60_000)).await;
    until("the events are handled", async || {
        // Lets one of the others go, which waits for a connection again.
        gate.add_permits(1);
        count(&db).await == 60_000
    })
    .await;
    gate.add_permits(100);
    running.stop().await;
    assert_eq!(batches(&steps), committed(&[50_000, 10_000]));
    let left = 6 * 5_000 - entered.load(Ordering::SeqCst);
    assert!(left > 0, "the others were done before");
}

async fn a_statement_writes_at_most_10_000_rows(db: Database<Postgres>) {
    run_once(db.worker().consumer(counters())).await;
    db.execute(
        "CREATE TABLE statements (rows bigint);
         CREATE FUNCTION note_rows() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO statements SELECT count(*) FROM changed; RETURN NULL;
         END $$;
         CREATE TRIGGER i AFTER INSERT ON counters_v1 REFERENCING NEW TABLE AS changed
             FOR EACH STATEMENT EXECUTE FUNCTION note_rows()",
    )
    .await;
    assert_eq!(fold(&db, &counters(), &events(0..25_000)).await, 25_000);
    let statements = "SELECT rows FROM statements ORDER BY rows";
    assert_eq!(db.numbers(statements).await, [5_000, 10_000, 10_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_loads_each_row_once() {
    let counting = Counting::start().await;
    let db = Database::on(&counting.server).await;
    run_once(db.worker().consumer(counters())).await;
    fold(&db, &counters(), &events(0..2_500)).await;
    counting.forget().await;
    // Each row is needed four times, and 500 keys have no row.
    let ids = (0..4).flat_map(|_| 0..3_000);
    let events = events(ids);
    assert_eq!(fold(&db, &counters(), &events).await, 12_000);
    let loaded = counting.rows(&db, "SELECT .* FROM .*counters_v1.* WHERE");
    assert_eq!(loaded.await, 2_500);
}
