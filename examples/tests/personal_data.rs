//! Runs the programs of the guide on personal data, whose code the guide shows.

use std::process::Command;

use consumer_tests::TestPostgres;

const GUIDE: &str = include_str!("../../consumer/src/guide/personal_data.md");
const PROGRAM: &str = include_str!("../src/bin/personal_data/app.rs");

/// The blocks of the guide in a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let after = GUIDE.split(fence.as_str()).skip(1);
    after
        .map(|text| text.split("\n```").next().unwrap())
        .collect()
}

#[test]
fn the_code_of_the_guide_is_that_of_its_program() {
    let is_in_it = |code: &str| format!("\n{PROGRAM}").contains(&format!("\n{code}\n"));
    let code = blocks("rs");
    assert!(code.len() >= 3, "only {} blocks of code", code.len());
    for block in code {
        assert!(is_in_it(block), "the program does not contain\n{block}");
        assert!(!is_in_it(&block.replacen('a', "b", 1)), "{block}");
    }
}

/// Runs a program, and checks what it prints.
fn forgets_what_was_erased_or_redacted(program: &mut Command) {
    let output = program.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    let shown = blocks("text");
    assert_eq!(text.trim_end(), shown[0], "the guide shows this output");
    let after = text.split_once("erased: ").unwrap().1;
    assert!(!after.contains("ada@example.com") && !after.contains("555-1234"));
    assert!(after.contains("grace@example.com"));
}

#[test]
fn what_was_erased_or_redacted_does_not_come_back() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_personal_data"));
    forgets_what_was_erased_or_redacted(&mut program);
}

#[tokio::test]
async fn on_postgres_what_was_erased_or_redacted_does_not_come_back() {
    let database = TestPostgres::shared().await.database().await;
    let mut program = Command::new(env!("CARGO_BIN_EXE_personal_data_postgres"));
    forgets_what_was_erased_or_redacted(program.env("DATABASE_URL", &database.url));
}
