//! The pages of a large log ask the database little, and only what an index answers.

use consumer::Worker;
use consumer_tests::{
    Counting, Database, Model, Served, TestDatabase, keep_log, logged, read_model, run_once,
};
use sqlx::{Postgres, Sqlite};

/// Every kind of look through the log.
const LOOKS: [&str; 13] = [
    "/events",
    "/events?before=9000",
    "/events?after=9000",
    "/events?type=User",
    "/events?type=User&before=9000",
    "/events?type=User&after=9000",
    "/events?type=User&id=u-1&before=9000",
    "/events?type=User&id=u-1&after=9000",
    "/events?event=Missing",
    "/events?type=User&correlation=missing&before=9000",
    "/events/by-id/00000000-0000-4000-8000-000000000000",
    "/events/9000",
    "/events/9000/payload",
];

/// In the statements that read whole events.
const WHOLE_EVENTS: &str = "ROWS UNBOUNDED PRECEDING";

async fn filled<DB: TestDatabase>(db: &Database<DB>) {
    db.append_many(20_000).await;
    db.append("Order", ["o"]).await;
    db.execute("ANALYZE").await;
}

/// Looks through the log in every way.
async fn look<DB: TestDatabase>(db: &Database<DB>) {
    let served = Served::of(db).await;
    for path in LOOKS {
        served.get(path).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_look_scans_the_log_on_postgres() {
    keep_log();
    let db = Database::<Postgres>::fresh().await;
    filled(&db).await;
    look(&db).await;
    let mut sent = statements(&["payload_bytes", "::uuid"], |one| one.contains("public"));
    assert_eq!(sent.len(), 7, "six directions, and by id: {sent:#?}");
    // A worker of another test reads with a marker, or some types; a frontier numbers positions.
    let is_of_a_page =
        |one: &str| one.contains("payload") && !one.contains("UNION ALL") && !one.contains("$5");
    let whole = statements(&[WHOLE_EVENTS], |one| {
        one.contains("public") && is_of_a_page(one)
    });
    assert_eq!(whole.len(), 1, "an event with its payload: {whole:#?}");
    sent.extend(whole);
    for statement in sent {
        let plan = plan_on_postgres(&db, &statement).await;
        assert!(
            !plan.contains("Seq Scan") && !plan.contains("Sort"),
            "{statement}\n{plan}"
        );
    }
    let scan = "SELECT 1 FROM events WHERE event_type = $3 AND $1::bigint > $2::bigint";
    let scan = plan_on_postgres(&db, scan).await;
    assert!(scan.contains("Seq Scan"), "the control: {scan}");
}

async fn plan_on_postgres(db: &Database<Postgres>, statement: &str) -> String {
    let values = if statement.contains(WHOLE_EVENTS) {
        ["8999", "9000", "1", "1000000"]
    } else {
        ["9000", "51", "'User'", "'u-1'"]
    };
    let is_used = |index: &usize| statement.contains(&format!("${index}"));
    let count = (1..=values.len()).filter(is_used).count();
    let values = match count {
        1 => "'00000000-0000-4000-8000-000000000000'".to_owned(),
        count => values[..count].join(", "),
    };
    let mut connection = db.pool.acquire().await.unwrap();
    let prepare = format!(
        "DEALLOCATE ALL; SET plan_cache_mode = force_generic_plan; PREPARE look AS {statement}"
    );
    Postgres::execute_sql(&mut connection, &prepare)
        .await
        .unwrap();
    let explain = format!("EXPLAIN EXECUTE look({values})");
    let lines = Postgres::texts(&mut connection, &explain).await.unwrap();
    connection.close().await.unwrap();
    lines.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_look_scans_the_log_on_sqlite() {
    keep_log();
    let db = Database::<Sqlite>::fresh().await;
    filled(&db).await;
    look(&db).await;
    let sent = statements(&["payload_bytes", "unhex"], |one| !one.contains("public"));
    assert_eq!(sent.len(), 7, "six directions, and by id: {sent:#?}");
    for statement in sent {
        let plan = plan_on_sqlite(&db, &statement).await;
        assert!(
            !plan.contains("SCAN") && !plan.contains("TEMP B-TREE"),
            "{statement}\n{plan}"
        );
        // A range of types begins at the first event of the type, wherever the page does.
        assert!(!plan.contains("aggregate_type>"), "{statement}\n{plan}");
        assert!(!plan.contains("aggregate_type<"), "{statement}\n{plan}");
    }
    let whole = statements(&[WHOLE_EVENTS], |one| !one.contains("public"));
    assert_eq!(whole.len(), 1, "an event with its payload: {whole:#?}");
    // It goes through the few rows that it has found.
    let plan = plan_on_sqlite(&db, &whole[0]).await;
    assert!(
        plan.contains("SEARCH events") && !plan.contains("SCAN events"),
        "{plan}"
    );
    let scan = plan_on_sqlite(&db, "SELECT * FROM events WHERE event_type = 'none'").await;
    assert!(scan.contains("SCAN events"), "the control: {scan}");
}

/// It would cost a worker the more the further its consumer is.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_one_type_begins_at_its_position_on_sqlite() {
    keep_log();
    let db = Database::<Sqlite>::fresh().await;
    filled(&db).await;
    // So few of the events that they are read through the index.
    let orders = read_model("orders").scope(&["Order"]);
    run_once(db.worker().scoped_consumer(orders)).await;
    let sent = statements(&["AS size"], |one| one.contains("aggregate_type\" = $4"));
    assert_eq!(sent.len(), 1, "{sent:#?}");
    let plan = plan_on_sqlite(&db, &sent[0]).await;
    let seek = "(aggregate_type=? AND global_position>? AND global_position<?)";
    assert!(plan.contains(seek), "{plan}");
}

async fn plan_on_sqlite(db: &Database<Sqlite>, statement: &str) -> String {
    use sqlx::Row as _;
    let explained = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
    let rows = sqlx::raw_sql(explained).fetch_all(&db.pool).await;
    let rows = rows.unwrap_or_else(|error| panic!("{statement}: {error}"));
    let lines: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
    lines.join("\n")
}

/// The different statements with one of these words that the library has sent.
fn statements(words: &[&str], wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let lines = words
        .iter()
        .flat_map(|word| logged(&["db.statement=\"", word]));
    let mut statements: Vec<String> = lines.filter_map(|line| statement(&line)).collect();
    statements.retain(|one| wanted(one) && !one.contains("EXPLAIN"));
    statements.sort();
    statements.dedup();
    statements
}

/// The statement in a line of the log, where it is written as a text of Rust.
fn statement(line: &str) -> Option<String> {
    let (_, written) = line.split_once("db.statement=\"")?;
    let mut statement = String::new();
    let mut written = written.chars();
    loop {
        match written.next()? {
            '"' => return Some(statement.trim().to_owned()),
            '\\' => statement.push(match written.next()? {
                'n' => '\n',
                other => other,
            }),
            other => statement.push(other),
        }
    }
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
        counting.forget().await;
        let served = Served::read_only(builder()).await;
        let page = served.page("/").await;
        assert_eq!(page.matches("<tr").count(), consumers + 1);
        counted.push(counting.statements(&db, "pg_stat_statements").await);
    }
    // One for each would be 199 more. A page may open a connection, which takes a few.
    assert!(counted[1] < counted[0] + 20, "{counted:?}");
}
