//! One consumer on SQLite, beside the loop that one would write by hand.

use consumer_tests::Database;
use sqlx::{Sqlite, SqliteConnection};

use crate::case::{Case, Target};
use crate::consumers::{Nothing, RowsSqlite, SetsSqlite, UPSERT_MANY_SQLITE};
use crate::hand_made::{self, ByHand, Handler, loop_by_hand};
use crate::log::{Log, Measured};
use crate::plan::Plan;

const ROWS: &str = "SQLite, one statement per event";
const APART: &str = "SQLite, one statement per event, lanes on any core";
const SETS: &str = "SQLite, one statement per batch";
const NOTHING: &str = "SQLite, no-op handler";

pub(crate) async fn run(plan: &Plan) -> Vec<Case> {
    if !plan.wants_any(&[ROWS, APART, SETS, NOTHING]) {
        return Vec::new();
    }
    let log = Log::<Sqlite>::new(plan.scaled(50_000, 2_000)).await;
    let mut cases = Vec::new();
    for (name, one_core, target) in [
        (ROWS, true, Target::AtLeast(2.0)),
        (APART, false, Target::None),
    ] {
        if plan.only.wants(name) {
            let with = |worker: Builder| worker.consumer(RowsSqlite).lanes_on_one_core(one_core);
            let by_hand = ByHand::of(Handler::Rows);
            cases.push(log.beside(plan, (name, target), with, by_hand).await);
        }
    }
    let log = Log::<Sqlite>::new(plan.scaled(100_000, 3_000)).await;
    if plan.only.wants(SETS) {
        let with = |worker: Builder| worker.consumer(SetsSqlite);
        let (case, by_hand) = ((SETS, Target::AtLeast(0.9)), ByHand::of(Handler::Sets));
        cases.push(log.beside(plan, case, with, by_hand).await);
    }
    if plan.only.wants(NOTHING) {
        let with = |worker: Builder| worker.consumer(Nothing::named("nothing"));
        let (case, by_hand) = (
            (NOTHING, Target::AtLeast(0.8)),
            ByHand::of(Handler::Nothing),
        );
        cases.push(log.beside(plan, case, with, by_hand).await);
    }
    cases
}

type Builder = consumer::WorkerBuilder<Sqlite>;

impl Measured for Sqlite {
    const ANALYZE: &'static str = "ANALYZE";

    const RESET: &'static str = "DELETE FROM balances; DELETE FROM consumer_progress;
        UPDATE hand_made SET position = 0";

    const EMPTY: &'static str = "DELETE FROM";

    const CHECKPOINT: &'static str = "PRAGMA wal_checkpoint(TRUNCATE)";

    async fn database() -> Database<Self> {
        Database::fresh().await
    }

    fn fill(events: usize, accounts: usize) -> String {
        format!(
            r#"WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < {events} - 1)
               INSERT INTO events (aggregate_type, aggregate_id, aggregate_version, event_id, event_type, payload)
               SELECT CASE WHEN n % 1000 = 500 THEN 'Rare' ELSE 'Account' END,
                      'account-' || (n % {accounts}), n / {accounts} + 1, printf('%08x-0000-4000-8000-%012x', n, n),
                      CASE WHEN n % 1000 = 500 THEN 'Noted' ELSE 'Deposited' END,
                      CAST('{{"amount":' || (n % 100) || ',"text":"' || printf('%.170c', 'x') || '"}}' AS BLOB)
                 FROM s"#
        )
    }

    loop_by_hand!(pool => pool.begin_with("BEGIN IMMEDIATE"), "SELECT position FROM hand_made WHERE name = $1");
}

type Row = hand_made::Row<String, String>;

async fn upsert_many(tx: &mut SqliteConnection, rows: &[Row]) {
    let pairs: Vec<(&str, i64)> = rows
        .iter()
        .map(|row| (&*row.aggregate_id, row.global_position))
        .collect();
    sqlx::query(UPSERT_MANY_SQLITE)
        .bind(serde_json::to_string(&pairs).unwrap())
        .execute(tx)
        .await
        .unwrap();
}
