//! Runs the programs of the guides to existing tables and to tenants, whose code the guides show.

mod shown;

use std::process::Command;

use consumer_tests::TestPostgres;

use self::shown::{assert_shown, blocks};

async fn run(program: &str, arguments: &[&str]) -> String {
    let database = TestPostgres::shared().await.database().await;
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
    let printed = run(env!("CARGO_BIN_EXE_tenants"), &["acme", "umbrella"]).await;
    let mut lines: Vec<&str> = printed.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "acme.events: acme's user",
            "umbrella.events: umbrella's user"
        ]
    );
}
