//! One consumer on Postgres, beside the loop that one would write by hand.

use consumer_tests::Database;
use consumer_tests::measuring::server;
use sqlx::{PgConnection, Postgres};
use uuid::Uuid;

use crate::case::{Case, Target};
use crate::consumers::{Nothing, RowsPostgres, SetsPostgres, UPSERT_MANY};
use crate::hand_made::{self, ByHand, FOUR_COLUMNS, Handler, loop_by_hand};
use crate::log::{Log, Measured};
use crate::plan::Plan;

const ROWS: &str = "Postgres, one statement per event";
const ROWS_IN_A_TASK: &str = "Postgres, one statement per event, loop in a task";
const SETS: &str = "Postgres, one statement per batch";
const NOTHING: &str = "Postgres, no-op handler";
const SELECTIVE: &str = "Postgres, no-op handler, loop of 4 columns";

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    if !plan.wants_any(&[ROWS, ROWS_IN_A_TASK, SETS, NOTHING, SELECTIVE]) {
        return Vec::new();
    }
    let log = Log::<Postgres>::new(plan.scaled(100_000, 3_000)).await;
    // Long enough that the start of a worker, which checks the tables, does not count.
    let long_log = Log::<Postgres>::new(plan.scaled(1_000_000, 3_000)).await;
    let mut cases = Vec::new();
    for (name, in_a_task) in [(ROWS, false), (ROWS_IN_A_TASK, true)] {
        if plan.only.wants(name) {
            let by_hand = ByHand {
                in_a_task,
                ..ByHand::of(Handler::Rows)
            };
            let with = |worker: Builder| worker.consumer(RowsPostgres);
            let case = (name, Target::AtLeast(0.95));
            cases.push(log.beside(plan, case, with, by_hand).await);
        }
    }
    if plan.only.wants(SETS) {
        let with = |worker: Builder| worker.consumer(SetsPostgres);
        let (case, by_hand) = ((SETS, Target::AtLeast(0.9)), ByHand::of(Handler::Sets));
        cases.push(log.beside(plan, case, with, by_hand).await);
    }
    let all_columns = ByHand::of(Handler::Nothing);
    let four_columns = ByHand {
        read: FOUR_COLUMNS,
        ..all_columns
    };
    for (name, by_hand) in [(NOTHING, all_columns), (SELECTIVE, four_columns)] {
        if plan.only.wants(name) {
            let with = |worker: Builder| worker.consumer(Nothing::named("nothing"));
            let case = (name, Target::AtLeast(0.8));
            cases.push(long_log.beside(plan, case, with, by_hand).await);
        }
    }
    cases
}

type Builder = consumer::WorkerBuilder<Postgres>;

impl Measured for Postgres {
    const ANALYZE: &'static str = "VACUUM ANALYZE events";

    const RESET: &'static str = "TRUNCATE balances; DELETE FROM consumer_progress;
        DELETE FROM hand_made; INSERT INTO hand_made VALUES ('loop', 0)";

    const EMPTY: &'static str = "TRUNCATE";

    const CHECKPOINT: &'static str = "CHECKPOINT";

    async fn database() -> Database<Self> {
        Database::on(server()).await
    }

    /// One event in a thousand is `Noted` of the aggregate `Rare`; the others are `Deposited` of `Account`.
    fn fill(events: usize, accounts: usize) -> String {
        format!(
            r#"INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
               SELECT CASE WHEN n % 1000 = 500 THEN 'Rare' ELSE 'Account' END, 'account-' || n % {accounts},
                      n / {accounts} + 1, gen_random_uuid(),
                      CASE WHEN n % 1000 = 500 THEN 'Noted' ELSE 'Deposited' END,
                      convert_to('{{"amount":' || n % 100 || ',"text":"' || repeat('x', 170) || '"}}', 'UTF8')
                 FROM generate_series(0, {events} - 1) AS n"#
        )
    }

    loop_by_hand!(pool => pool.begin(), "SELECT position FROM hand_made WHERE name = $1 FOR UPDATE");
}

type Row = hand_made::Row<Uuid, serde_json::Value>;

async fn upsert_many(tx: &mut PgConnection, rows: &[Row]) {
    let ids: Vec<&str> = rows.iter().map(|row| &*row.aggregate_id).collect();
    let positions: Vec<i64> = rows.iter().map(|row| row.global_position).collect();
    sqlx::query(UPSERT_MANY)
        .bind(ids)
        .bind(positions)
        .execute(tx)
        .await
        .unwrap();
}
