//! The pages of a large log ask the database little, and only what an index answers.

use consumer::Worker;
use consumer_tests::{Counting, Database, Model, Served, TestDatabase, keep_log, logged, run_once};
use sqlx::{Postgres, Sqlite};

/// Every kind of look through the log.
const LOOKS: [&str; 9] = [
    "/events",
    "/events?before=9000",
    "/events?after=9000",
    "/events?type=User",
    "/events?type=User&before=9000",
    "/events?type=User&after=9000",
    "/events?type=User&id=u-1&before=9000",
    "/events?type=User&id=u-1&after=9000",
    "/events/by-id/00000000-0000-4000-8000-000000000000",
];

async fn filled<DB: TestDatabase>(db: &Database<DB>) {
    db.append_many(20_000).await;
    db.append("Order", ["o"]).await;
    db.execute("ANALYZE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_look_scans_the_log_on_postgres() {
    let db = Database::<Postgres>::fresh().await;
    filled(&db).await;
    let served = Served::of(&db).await;
    // Statistics are written when a session is idle or ends.
    let scans = async |column: &str| {
        db.execute("SELECT pg_stat_force_next_flush()").await;
        let of = format!("SELECT {column} FROM pg_stat_user_tables WHERE relname = 'events'");
        db.number(&of).await
    };
    served.page("/").await;
    for path in LOOKS {
        served.get(path).await;
    }
    let plans = db.number("SELECT count(*) FROM pg_stat_user_tables WHERE relname = 'events'");
    assert_eq!(plans.await, 1);
    consumer_tests::until("the index scans are counted", async || {
        scans("idx_scan").await >= i64::try_from(LOOKS.len()).unwrap()
    })
    .await;
    let before = scans("seq_scan").await;
    // The control: a search without an index.
    db.number("SELECT count(*) FROM events WHERE event_type = 'none'")
        .await;
    consumer_tests::until("a scan is counted", async || {
        scans("seq_scan").await > before
    })
    .await;
    assert!(before <= ANALYZED, "{before} scans of the whole log");
}

/// `ANALYZE` and the creation of the table and its indexes scan it.
const ANALYZED: i64 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn no_look_scans_the_log_on_sqlite() {
    keep_log();
    let db = Database::<Sqlite>::fresh().await;
    filled(&db).await;
    let served = Served::of(&db).await;
    for path in LOOKS {
        served.get(path).await;
    }
    let mut plans = 0;
    for statement in statements("payload_bytes")
        .iter()
        .chain(&statements("unhex"))
    {
        let plan = plan(&db, statement).await;
        assert!(
            !plan.contains("SCAN") && !plan.contains("TEMP B-TREE"),
            "{statement}\n{plan}"
        );
        plans += 1;
    }
    assert_eq!(plans, 7, "six directions, and by id");
    // The control.
    let scan = plan(&db, "SELECT * FROM events WHERE event_type = 'none'").await;
    assert!(scan.contains("SCAN events"), "{scan}");
}

/// The different statements with a word that the library has sent.
fn statements(word: &str) -> Vec<String> {
    let lines = logged(&["db.statement", word]);
    let mut statements: Vec<String> = lines
        .iter()
        .filter_map(|line| {
            let (_, statement) = line.split_once("db.statement=\"")?;
            let statement = statement.split("\" ").next()?.trim_end_matches('"');
            Some(statement.replace("\\n", "\n").replace("\\\"", "\""))
        })
        .collect();
    statements.sort();
    statements.dedup();
    statements
}

async fn plan(db: &Database<Sqlite>, statement: &str) -> String {
    use sqlx::Row as _;
    let explained = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
    let rows = sqlx::raw_sql(explained).fetch_all(&db.pool).await;
    let rows = rows.unwrap_or_else(|error| panic!("{statement}: {error}"));
    let lines: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
    lines.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_idle_consumers_cost_as_many_statements_as_one() {
    const NAMES: usize = 200;
    let counting = Counting::start().await;
    let mut counted = Vec::new();
    for consumers in [1, NAMES] {
        let db = Database::on(&counting.server).await;
        db.append_many(100).await;
        let builder = || {
            let mut builder = Worker::builder(db.store.clone());
            for index in 0..consumers {
                let name: &'static str = format!("idle.{index}").leak();
                builder = builder.scoped_consumer(Model::new(name));
            }
            builder
        };
        run_once(builder()).await;
        db.append("User", ["later"]).await;
        let served = Served::read_only(builder()).await;
        served.page("/").await;
        counting.forget().await;
        let served = Served::read_only(builder()).await;
        let page = served.page("/").await;
        assert_eq!(page.matches("<tr").count(), consumers + 1);
        counted.push(counting.statements(&db, "pg_stat_statements").await);
    }
    assert!(counted[1] <= counted[0] + 2, "{counted:?}");
}
