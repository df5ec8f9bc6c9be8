//! Runs the programs of the guides to existing tables and to tenants, whose code the guides show.

mod shown;

use std::process::Command;

use consumer::sqlx;
use consumer_tests::{PgDatabase, TestPostgres};

use self::shown::{assert_shown, blocks};

async fn run(program: &str, arguments: &[&str]) -> String {
    let database = TestPostgres::shared().await.database().await;
    run_on(&database, program, arguments)
}

fn run_on(database: &PgDatabase, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("DATABASE_URL", &database.url)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_guide_to_existing_tables_shows_what_its_program_does() {
    let guide = include_str!("../../consumer/src/guide/existing_tables.md");
    assert_shown(guide, include_str!("../src/bin/existing_table.rs"));
    let printed = run(env!("CARGO_BIN_EXE_existing_table"), &[]).await;
    let lines = &blocks(guide, "text")[0];
    assert_eq!(printed, format!("{lines}\nrevenue: 42\n"));
}

#[tokio::test]
async fn the_guide_to_tenants_shows_what_its_program_does() {
    let guide = include_str!("../../consumer/src/guide/tenants.md");
    assert_shown(guide, include_str!("../src/bin/tenants.rs"));
    let database = TestPostgres::shared().await.database().await;
    let tenants = ["acme", "umbrella"];
    let printed = run_on(&database, env!("CARGO_BIN_EXE_tenants"), &tenants);
    let mut lines: Vec<&str> = printed.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "acme.events: acme's user",
            "umbrella.events: umbrella's user"
        ]
    );
    let store = database.store().await;
    for tenant in tenants {
        let rows = |column, table| {
            let sql = format!("SELECT {column} FROM {tenant}.{table}");
            sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(sql)).fetch_all(store.pool())
        };
        let users = [format!("{tenant}'s user")];
        assert_eq!(rows("id", "users").await.unwrap(), users);
        assert_eq!(rows("aggregate_id", "events").await.unwrap(), users);
        assert_eq!(
            rows("consumer", "consumer_progress").await.unwrap(),
            ["users"]
        );
    }
}
