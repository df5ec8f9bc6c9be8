//! A declared read model, beside handlers with SQL of their own and beside one that does nothing.

use consumer::read_model::{ReadModelDatabase, Table, TableColumn};
use consumer::{
    Consumer, Context, HandlerError, PersistedEvent, ReadModel, Registered, Settings, WorkerBuilder,
};
use consumer_tests::measuring::{figure, in_turns};
use sqlx::{Postgres, Sqlite};

use crate::by_hand::ByHandFold;
use crate::case::{Case, Target};
use crate::declared::{Total, Totals, TypedTotal, TypedTotals};
use crate::hand_made::{ByHand, Handler};
use crate::log::{Log, Measured};
use crate::plan::Plan;
use crate::rows::{Narrow, Row, Wide};

/// The numbers of rows that the events are about.
const ROWS: [usize; 3] = [100, 10_000, 100_000];

/// A set of cases: over so many rows, of one width.
struct Over {
    database: &'static str,
    rows: usize,
}

/// What a fold is compared with.
#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    Loop,
    Sets,
}

/// What a declared read model is given.
#[derive(Clone, Copy)]
enum Given {
    Records,
    Types,
}

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    let mut cases = Vec::new();
    for rows in ROWS {
        let database = "Postgres";
        cases.extend(Over { database, rows }.run::<Postgres>(plan).await);
    }
    for rows in ROWS {
        let database = "SQLite";
        cases.extend(Over { database, rows }.run::<Sqlite>(plan).await);
    }
    cases
}

impl Over {
    async fn run<DB: Measured + ReadModelDatabase>(&self, plan: &Plan) -> Vec<Case>
    where
        ByHandFold<Narrow>: Consumer<DB>,
        ByHandFold<Wide>: Consumer<DB>,
    {
        let all = [Beside::Nothing, Beside::Loop, Beside::Sets];
        let wanted = all
            .iter()
            .flat_map(|beside| [self.name::<Narrow>(*beside), self.name::<Wide>(*beside)]);
        let declared = [Given::Records, Given::Types].map(|given| self.declared_name(given));
        if !wanted.chain(declared).any(|name| plan.only.wants(&name)) {
            return Vec::new();
        }
        let events = plan.scaled(100_000, 1_000);
        let log = Log::<DB>::over(events, self.rows.min(events)).await;
        let mut cases = Vec::new();
        for beside in all {
            cases.extend(self.case::<DB, Narrow>(plan, &log, beside).await);
            cases.extend(self.case::<DB, Wide>(plan, &log, beside).await);
        }
        let records = |worker: WorkerBuilder<DB>| worker.consumer(Totals);
        let records = self.declared::<DB, Total>(plan, &log, Given::Records, records);
        cases.extend(records.await);
        let types = |worker: WorkerBuilder<DB>| worker.consumer(TypedTotals);
        let types = self.declared::<DB, TypedTotal>(plan, &log, Given::Types, types);
        cases.extend(types.await);
        cases
    }

    /// A read model through the macros beside the same fold by hand; values of types are decoded, too.
    async fn declared<DB: Measured + ReadModelDatabase, R: ReadModel>(
        &self,
        plan: &Plan,
        log: &Log<DB>,
        given: Given,
        declared: impl Fn(WorkerBuilder<DB>) -> WorkerBuilder<DB>,
    ) -> Option<Case> {
        let name = self.declared_name(given);
        if self.rows != 10_000 || !plan.only.wants(&name) {
            return None;
        }
        let by_hand = |worker: WorkerBuilder<DB>| worker.consumer(Narrow::counting());
        create::<DB, Narrow>(log, by_hand).await;
        create::<DB, R>(log, &declared).await;
        let samples = in_turns(
            plan.rounds,
            async || folded::<DB, R>(log, &declared).await,
            async || folded::<DB, Narrow>(log, by_hand).await,
        );
        let target = match given {
            Given::Records => Target::AtLeast(0.95),
            Given::Types => Target::None,
        };
        Some(Case::compared(
            name,
            "events/s",
            samples.await,
            "`Fold`",
            target,
        ))
    }

    fn declared_name(&self, given: Given) -> String {
        let given = match given {
            Given::Records => "a declared fold",
            Given::Types => "a declared fold of typed events",
        };
        let (database, rows) = (self.database, figure(self.rows as f64));
        format!("{database}, {given} over {rows} narrow rows, beside one by hand")
    }

    async fn case<DB: Measured + ReadModelDatabase, R: Row>(
        &self,
        plan: &Plan,
        log: &Log<DB>,
        beside: Beside,
    ) -> Option<Case>
    where
        ByHandFold<R>: Consumer<DB>,
    {
        let name = self.name::<R>(beside);
        if !plan.only.wants(&name) {
            return None;
        }
        let target = self.target::<R>(beside);
        let by_hand = ByHand {
            in_a_task: true,
            upsert: R::upsert(),
            ..ByHand::of(Handler::Rows)
        };
        let (label, batch) = match beside {
            Beside::Nothing => ("no-op", None),
            Beside::Loop => ("by hand", None),
            Beside::Sets => ("SQL", Some(1_000)),
        };
        let other = async || match beside {
            Beside::Nothing => log.worker(|worker| worker.consumer(NoFold)).await,
            Beside::Loop => {
                log.db.execute(&R::empty_by_hand()).await;
                let rate = log.by_hand(by_hand).await;
                log.check_in(R::BY_HAND).await;
                rate
            }
            Beside::Sets => {
                log.db.execute(&R::empty_by_hand()).await;
                let sets = || Registered::new(ByHandFold::<R>::default());
                let rate = log.worker(|worker| batches(worker.registered(sets()), batch));
                let rate = rate.await;
                log.check_in(R::BY_HAND).await;
                rate
            }
        };
        let fold = |worker: WorkerBuilder<DB>| batches(worker.consumer(R::counting()), batch);
        // In the measured rounds the table exists, as that of the others does.
        create::<DB, R>(log, fold).await;
        let folded = async || folded::<DB, R>(log, fold).await;
        let samples = in_turns(plan.rounds, folded, other);
        Some(Case::compared(
            name,
            "events/s",
            samples.await,
            label,
            target,
        ))
    }

    fn name<R: Row>(&self, beside: Beside) -> String {
        let beside = match beside {
            Beside::Nothing => "beside a no-op handler",
            Beside::Loop => "loop in a task",
            Beside::Sets => "beside SQL, batches of 1,000",
        };
        let (database, rows) = (self.database, figure(self.rows as f64));
        format!("{database}, fold over {rows} {} rows, {beside}", R::WIDTH)
    }

    /// The targets are about narrow rows.
    fn target<R: Row>(&self, beside: Beside) -> Target {
        let is_postgres = self.database == "Postgres";
        match (beside, self.rows, is_postgres) {
            _ if R::WIDTH != Narrow::WIDTH => Target::None,
            (Beside::Nothing, 10_000, true) => Target::AtLeast(0.5),
            (Beside::Loop, 10_000, true) => Target::AtLeast(8.0),
            (Beside::Loop, 10_000, false) | (Beside::Loop, 100_000, true) => Target::AtLeast(3.0),
            (Beside::Sets, 10_000, true) => Target::AtLeast(0.9),
            _ => Target::None,
        }
    }
}

fn batches<DB: Measured>(worker: WorkerBuilder<DB>, batch: Option<u32>) -> WorkerBuilder<DB> {
    worker.configure_all(move |settings: Settings| match batch {
        Some(events) => settings.batch_size(events),
        None => settings,
    })
}

/// Creates the table anew.
async fn create<DB: Measured + ReadModelDatabase, R: ReadModel>(
    log: &Log<DB>,
    with: impl Fn(WorkerBuilder<DB>) -> WorkerBuilder<DB>,
) {
    let table = R::TABLE.name;
    let drop = format!("DROP VIEW IF EXISTS {table}; DROP TABLE IF EXISTS {table}_v1");
    log.db.execute(&drop).await;
    log.worker(with).await;
}

/// Catches up from an empty table, and checks the rows.
async fn folded<DB: Measured + ReadModelDatabase, R: ReadModel>(
    log: &Log<DB>,
    with: impl Fn(WorkerBuilder<DB>) -> WorkerBuilder<DB>,
) -> f64 {
    let table = format!("{}_v1", R::TABLE.name);
    log.db.execute(&format!("{} {table}", DB::EMPTY)).await;
    let rate = log.worker(with).await;
    log.check_in(&table).await;
    rate
}

/// Gives a consumer the batches of a read model; it is never written.
const UNUSED: &Table = &Table::new("unused", &[TableColumn::key::<String>("id")]);

/// Does nothing with batches of the same size.
struct NoFold;

impl<DB: ReadModelDatabase> Consumer<DB> for NoFold {
    fn formerly(&self) -> consumer::Formerly {
        consumer::Formerly::None
    }

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
