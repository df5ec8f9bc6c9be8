//! A declared read model, beside handlers with SQL of their own and beside one that does nothing.

use consumer::read_model::{
    self, ColumnError, ColumnNormalizer, ColumnReader, ColumnWriter, Keys, ReadModelDatabase, Rows,
    Table, TableColumn, Value,
};
use consumer::{
    BatchError, Consumer, Context, Fold, HandlerError, PersistedEvent, ReadModel, Registered,
    Settings, WorkerBuilder,
};
use consumer_tests::measuring::in_turns;
use sqlx::{Postgres, Sqlite};

use crate::case::{Case, Target};
use crate::consumers::{SetsPostgres, SetsSqlite};
use crate::log::{ByHand, Handler, Log, Measured};
use crate::plan::Plan;
use crate::{postgres, sqlite};

const NOTHING: &str = "Postgres, fold beside a no-op handler";
const LOOP: &str = "Postgres, fold beside a statement an event, loop in a task";
const SETS: &str = "Postgres, fold beside a statement a batch of 1,000";
const SQLITE_NOTHING: &str = "SQLite, fold beside a no-op handler";
const SQLITE_LOOP: &str = "SQLite, fold beside a statement an event, loop in a task";
const SQLITE_SETS: &str = "SQLite, fold beside a statement a batch of 1,000";

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    let mut cases = Vec::new();
    if plan.wants_any(&[NOTHING, LOOP, SETS]) {
        let log = Log::<Postgres>::new(plan.scaled(100_000, 3_000)).await;
        let by_hand = postgres::by_hand(Handler::Rows);
        let names = [(NOTHING, 0.5), (LOOP, 8.0), (SETS, 0.9)];
        let sets = || Registered::new(SetsPostgres);
        cases.extend(on(plan, &log, names, by_hand, sets).await);
    }
    if plan.wants_any(&[SQLITE_NOTHING, SQLITE_LOOP, SQLITE_SETS]) {
        let log = Log::<Sqlite>::new(plan.scaled(100_000, 3_000)).await;
        let by_hand = sqlite::by_hand(500, Handler::Rows);
        let names = [
            (SQLITE_NOTHING, 0.5),
            (SQLITE_LOOP, 3.0),
            (SQLITE_SETS, 0.9),
        ];
        let sets = || Registered::new(SetsSqlite);
        cases.extend(on(plan, &log, names, by_hand, sets).await);
    }
    cases
}

async fn on<DB: Measured + ReadModelDatabase>(
    plan: &Plan,
    log: &Log<DB>,
    [nothing, by_loop, by_sets]: [(&'static str, f64); 3],
    by_hand: ByHand,
    sets: impl Fn() -> Registered<DB>,
) -> Vec<Case> {
    let by_hand = ByHand {
        in_a_task: true,
        ..by_hand
    };
    let mut cases = Vec::new();
    if plan.only.wants(nothing.0) {
        let other = async || log.worker(|worker| worker.consumer(NoFold)).await;
        cases.push(beside(plan, log, nothing, "no-op", None, other).await);
    }
    if plan.only.wants(by_loop.0) {
        let other = async || log.by_hand(by_hand).await;
        cases.push(beside(plan, log, by_loop, "by hand", None, other).await);
    }
    if plan.only.wants(by_sets.0) {
        let other = async || log.worker(|worker| worker.registered(sets())).await;
        cases.push(beside(plan, log, by_sets, "SQL", Some(1_000), other).await);
    }
    cases
}

async fn beside<DB: Measured + ReadModelDatabase>(
    plan: &Plan,
    log: &Log<DB>,
    (name, target): (&'static str, f64),
    beside: &str,
    batch: Option<u32>,
    other: impl AsyncFnMut() -> f64,
) -> Case {
    let samples = in_turns(plan.rounds, async || fold(log, batch).await, other);
    let target = Target::AtLeast(target);
    Case::compared(name, "events/s", samples.await, beside, target)
}

/// Catches up from an empty table, and checks the rows.
async fn fold<DB: Measured + ReadModelDatabase>(log: &Log<DB>, batch: Option<u32>) -> f64 {
    let drop = "DROP VIEW IF EXISTS totals; DROP TABLE IF EXISTS totals_v1";
    log.db.execute(drop).await;
    let configured = move |settings: Settings| match batch {
        Some(events) => settings.batch_size(events),
        None => settings,
    };
    let with = |worker: WorkerBuilder<DB>| worker.consumer(Totals).configure_all(configured);
    let rate = log.worker(with).await;
    let counted = "SELECT CAST(coalesce(sum(deposits), 0) AS BIGINT) FROM totals_v1";
    let counted = log.db.number(counted).await;
    assert_eq!(counted, log.events as i64, "events were lost or repeated");
    rate
}

/// A row.
struct Total {
    id: String,
    deposits: i64,
    position: i64,
}

impl ReadModel for Total {
    type Key = String;

    const TABLE: &'static Table = &Table::new(
        "totals",
        &[
            TableColumn::key::<String>("id"),
            TableColumn::of::<i64>("deposits"),
            TableColumn::position("position"),
        ],
    );

    fn key(&self) -> String {
        self.id.clone()
    }

    fn to_values(&self, values: &mut Vec<Value>) -> Result<(), ColumnError> {
        let mut columns = ColumnWriter::new(Self::TABLE, values);
        columns
            .field(&self.id)?
            .field(&self.deposits)?
            .field(&self.position)?;
        Ok(())
    }

    fn from_values(values: Vec<Value>) -> Result<Self, ColumnError> {
        let mut columns = ColumnReader::new(Self::TABLE, values);
        Ok(Self {
            id: columns.field()?,
            deposits: columns.field()?,
            position: columns.field()?,
        })
    }

    fn normalize(&mut self) -> Result<(), ColumnError> {
        let mut columns = ColumnNormalizer::new(Self::TABLE);
        columns
            .field(&mut self.id)?
            .field(&mut self.deposits)?
            .field(&mut self.position)?;
        Ok(())
    }

    fn set_position(&mut self, position: i64) {
        self.position = position;
    }
}

/// Counts the events of each aggregate.
struct Totals;

impl Fold for Totals {
    type Row = Total;

    fn keys(
        &self,
        _: &Context,
        event: &PersistedEvent,
        keys: &mut Keys<'_, String>,
    ) -> Result<(), HandlerError> {
        keys.add_aggregate(event)
    }

    fn fold(
        &self,
        _: &Context,
        event: &PersistedEvent,
        rows: &mut Rows<'_, Total>,
    ) -> Result<(), HandlerError> {
        let id = &event.aggregate_id;
        let row = rows.row(id)?.get_or_insert_with(|| Total {
            id: id.clone(),
            deposits: 0,
            position: 0,
        });
        row.deposits += 1;
        Ok(())
    }
}

impl<DB: ReadModelDatabase> Consumer<DB> for Totals {
    fn name(&self) -> &str {
        "bench.totals"
    }

    async fn handle(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        let batch = std::slice::from_ref(event);
        let handled = read_model::fold_batch::<DB, _>(self, cx, tx, batch).await;
        handled.map(drop).map_err(|failed| failed.error)
    }

    async fn handle_batch(
        &self,
        cx: &Context,
        tx: &mut DB::Connection,
        events: &[PersistedEvent],
    ) -> Result<usize, BatchError> {
        read_model::fold_batch::<DB, _>(self, cx, tx, events).await
    }

    fn read_model(&self) -> Option<&'static Table> {
        Some(Total::TABLE)
    }
}

/// Gives a consumer the batches of a read model; it is never written.
const UNUSED: &Table = &Table::new(
    "unused",
    &[
        TableColumn::key::<String>("id"),
        TableColumn::position("position"),
    ],
);

/// Does nothing with batches of the same size.
struct NoFold;

impl<DB: ReadModelDatabase> Consumer<DB> for NoFold {
    fn name(&self) -> &str {
        "bench.no_fold"
    }

    async fn handle(
        &self,
        _: &Context,
        _: &mut DB::Connection,
        event: &PersistedEvent,
    ) -> Result<(), HandlerError> {
        std::hint::black_box(event);
        Ok(())
    }

    fn read_model(&self) -> Option<&'static Table> {
        Some(UNUSED)
    }
}
