//! Runs the example programs that need nothing but a database, as a user would.

use std::process::Command;

use consumer_tests::TestPostgres;

/// Runs a program, and returns its output.
fn run(program: &str, url: &str) -> String {
    let output = Command::new(program)
        .env("DATABASE_URL", url)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The words of the line that starts with that word.
fn line<'a>(text: &'a str, first: &str) -> Vec<&'a str> {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.first() == Some(&first))
        .unwrap_or_else(|| panic!("no line starts with {first}:\n{text}"))
}

/// Checks the output of a quickstart in its `run`-th run, apart from the positions, which may have gaps
/// on Postgres.
fn assert_quickstart(text: &str, run: usize) {
    let announced: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("announced "))
        .map(|line| line.split_whitespace().nth(1).unwrap())
        .collect();
    let appended = [
        "UserRegistered",
        "EmailChanged",
        "UserRegistered",
        "EmailChanged",
        "OrderPlaced",
    ];
    assert_eq!(announced, appended, "{text}");
    let users: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.contains("@example."))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(users.len(), 2 * run, "{text}");
    for user in users {
        assert!(
            user[1].ends_with("@example.org") && user[2] == "1",
            "each user has changed the address once: {user:?}"
        );
    }
    for (kind, in_each_run) in [
        ("EmailChanged", 2),
        ("OrderPlaced", 1),
        ("UserRegistered", 2),
    ] {
        assert_eq!(line(text, kind), [kind, &(in_each_run * run).to_string()]);
    }
    for (consumer, events) in [
        ("activity", "5"),
        ("system.integration.announcer", "5"),
        ("user_read_model", "4"),
    ] {
        let words = text
            .lines()
            .filter(|line| line.ends_with("caught up"))
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|words| words[0] == consumer)
            .unwrap_or_else(|| panic!("{consumer} has not caught up:\n{text}"));
        assert_eq!(words[2], events, "{text}");
    }
}

fn checkpoint(text: &str, consumer: &str) -> i64 {
    text.lines()
        .filter(|line| line.ends_with("caught up"))
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words[0] == consumer)
        .map(|words| words[1].parse().unwrap())
        .unwrap()
}

const QUICKSTART_CONSUMERS: [&str; 3] = [
    "activity",
    "system.integration.announcer",
    "user_read_model",
];

#[test]
fn the_quickstart_continues_where_it_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("app.db").display());
    for (number, position) in [(1, 5), (2, 10)] {
        let text = run(env!("CARGO_BIN_EXE_quickstart"), &url);
        assert_quickstart(&text, number);
        for consumer in QUICKSTART_CONSUMERS {
            assert_eq!(checkpoint(&text, consumer), position, "{text}");
        }
    }
}

#[tokio::test]
async fn the_quickstart_on_postgres_continues_where_it_stopped() {
    let database = TestPostgres::shared().await.database().await;
    let mut before = 0;
    for number in 1..=2 {
        let text = run(env!("CARGO_BIN_EXE_quickstart_postgres"), &database.url);
        assert_quickstart(&text, number);
        let positions = QUICKSTART_CONSUMERS.map(|consumer| checkpoint(&text, consumer));
        assert!(
            positions.iter().all(|&position| position >= before + 5),
            "{text}"
        );
        before = positions[0];
    }
}

/// Checks what the example of a read model prints in its first run, and in its second.
fn assert_rebuilt(program: &str, url: &str) {
    let first = run(program, url);
    for (part, is_there) in [
        ("version 1: ada-0 ada@example.org", true),
        (
            "the view `users` shows version 1, and the struct is of version 2",
            true,
        ),
        ("version 2 is active, and version 1 is forgotten", true),
        ("ada@example.net after 2 changes", true),
        ("bob", false),
    ] {
        assert_eq!(first.contains(part), is_there, "{part}: {first}");
    }
    let second = run(program, url);
    for (part, is_there) in [
        ("version 1", false),
        ("ada@example.net after 2 changes", true),
    ] {
        assert_eq!(second.contains(part), is_there, "{part}: {second}");
    }
}

#[test]
fn a_read_model_is_rebuilt_beside_the_live_version() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("app.db").display());
    assert_rebuilt(env!("CARGO_BIN_EXE_read_model"), &url);
}

#[tokio::test]
async fn a_read_model_on_postgres_is_rebuilt_beside_the_live_version() {
    let database = TestPostgres::shared().await.database().await;
    assert_rebuilt(env!("CARGO_BIN_EXE_read_model_postgres"), &database.url);
}

#[test]
fn both_forms_of_the_set_based_read_model_have_the_same_rows() {
    let text = run(env!("CARGO_BIN_EXE_set_based"), "");
    for form in ["one statement per event:", "one statement per batch:"] {
        let rate = text
            .lines()
            .find_map(|line| line.strip_prefix(form))
            .unwrap_or_else(|| panic!("no rate of {form}\n{text}"));
        let rate: f64 = rate
            .trim()
            .strip_suffix(" events/s")
            .unwrap()
            .parse()
            .unwrap();
        assert!(rate > 0.0, "{text}");
    }
}

#[test]
fn a_program_runs_the_consumers_of_two_crates() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("app.db").display());
    for position in 1..=2 {
        let text = run(env!("CARGO_BIN_EXE_two_crates"), &url);
        let consumers = ["billing.invoices", "shop.shipments"];
        assert_eq!(text.lines().count(), consumers.len(), "{text}");
        for (line, consumer) in text.lines().zip(consumers) {
            let wanted = format!("{consumer}: caught up at {position}, 1 event");
            assert!(line.starts_with(&wanted), "{text}");
        }
    }
}

#[test]
fn every_program_has_its_command_in_the_readme() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let own = packages
        .iter()
        .find(|package| package["name"] == env!("CARGO_PKG_NAME"))
        .unwrap();
    let programs: Vec<&str> = own["targets"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|target| target["kind"][0] == "bin")
        .map(|target| target["name"].as_str().unwrap())
        .collect();
    assert!(programs.len() > 5, "{programs:?}");
    for program in programs {
        let command = readme
            .lines()
            .flat_map(|line| line.split("--bin ").skip(1))
            .filter_map(|rest| rest.split_whitespace().next())
            .any(|named| named == program);
        assert!(command, "the README does not say how `{program}` is run");
    }
}
