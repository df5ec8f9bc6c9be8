//! What the commands say when they refuse or fail: on the error stream, in one voice, with the exit code for it.
//!
//! `tests/scripts/pictures.sh all DIRECTORY` writes them all into a file, for people to read as a list.

use std::path::PathBuf;

use consumer_tests::{Database, Filling, Piped, TestDatabase};
use sqlx::{Postgres, Sqlite};

const PROGRAM: &str = env!("CARGO_BIN_EXE_test_operator");

/// The messages of a test, of which one in another voice is a failure.
struct Messages {
    name: &'static str,
    text: String,
    wrong: Vec<String>,
}

impl Messages {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            text: String::new(),
            wrong: Vec::new(),
        }
    }

    /// Runs a command that fails or refuses, with this exit code and this in its message.
    fn expect(&mut self, line: &str, variables: &[(&str, &str)], code: i32, message: &str) {
        let piped = Piped::run(PROGRAM, &format!("consumers {line}"), variables);
        self.text.push_str(&piped.to_string());
        let is_expected = piped.code == code && piped.stderr.contains(message);
        if !is_expected || !piped.stdout.is_empty() || !is_of_one_voice(&piped.stderr) {
            self.wrong
                .push(format!("expected {code} `{message}`:\n{piped}"));
        }
    }

    fn end(self) {
        if let Some(directory) = std::env::var_os("SCREENS").map(PathBuf::from) {
            let file = directory.join(format!("errors-{}.txt", self.name));
            std::fs::write(file, self.text).unwrap();
        }
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

/// Whether a message begins like the others, ends without a full stop, and shows nothing of the code.
fn is_of_one_voice(stderr: &str) -> bool {
    let Some(message) = stderr.lines().find_map(|line| line.strip_prefix("error: ")) else {
        return false;
    };
    // The parser of the command line writes several lines.
    let is_capital = message.starts_with(|first: char| first.is_ascii_uppercase());
    let of_code = ["Err(", "Some(", "None", "panicked", "Error {", "  "];
    !is_capital && !message.ends_with('.') && !of_code.iter().any(|text| message.contains(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_argument_is_refused_with_what_is_right() {
    let db = Filling::Normal.database().await;
    let variables = [("TEST_OPERATOR_URL", &*db.url), ("TEST_FILLING", "normal")];
    let mut messages = Messages::new("arguments");
    let unknown = "there is no consumer `invoice`; known consumers: billing.invoices, accounts, ";
    for line in [
        "pause invoice",
        "resume invoice",
        "park invoice 1",
        "skip invoice 1",
        "rebuild invoice",
        "accept-scope invoice",
        "activate invoice 1",
        "merge invoice --segments 2",
        "parked list invoice",
        "parked show invoice 1",
        "parked retry invoice",
        "parked skip invoice 1",
        "explain invoice 1",
        "rename invoice invoices",
        "forget invoice",
    ] {
        messages.expect(line, &variables, 2, unknown);
    }
    for (line, code, message) in WRONG {
        messages.expect(line, &variables, code, message);
    }
    messages.end();
}

/// Command lines that are wrong on the database of a usual day.
const WRONG: [(&str, i32, &str); 33] = [
    (
        "pause accounts",
        2,
        "consumer `accounts` has several versions (1, 2); choose one",
    ),
    (
        "forget accounts",
        2,
        "consumer `accounts` has several versions (1, 2); choose one",
    ),
    (
        "pause accounts --of-version 7",
        2,
        "consumer `accounts` has no version 7; existing versions: 1, 2",
    ),
    (
        "activate accounts 9",
        2,
        "consumer `accounts` has no version 9; existing versions: 1, 2",
    ),
    (
        "activate accounts 2",
        4,
        "is 491 events behind; wait until it has caught up, or force it",
    ),
    (
        "park search.index 5",
        2,
        "is neither stopped at event 5 nor waiting before it; no event holds it up",
    ),
    (
        "park shipping 5",
        2,
        "is neither stopped at event 5 nor waiting before it; event 711 holds it up",
    ),
    (
        "skip billing.invoices 5",
        2,
        "is neither stopped at event 5 nor waiting before it; event 712 holds it up",
    ),
    (
        "skip billing.invoices 712",
        4,
        "Skip it? There is no terminal to ask on: confirm with `--yes`\nerror: cancelled",
    ),
    (
        "park billing.invoices x",
        2,
        "a position is a whole number, such as 1005",
    ),
    (
        "parked show search.index 5",
        2,
        "event 5 is not parked by consumer `search.index`",
    ),
    (
        "parked retry search.index 5",
        2,
        "event 5 is not parked by consumer `search.index`",
    ),
    (
        "parked skip search.index 5",
        2,
        "event 5 is not parked by consumer `search.index`",
    ),
    (
        "redact 99999999 {} --yes",
        2,
        "the log has no event at position 99999999",
    ),
    ("redact 0 {}", 2, "the log has no event at position 0"),
    (
        "rename search.index billing.invoices",
        4,
        "which has a checkpoint; forget that one first, or choose another name",
    ),
    (
        "rename search.index search.index",
        4,
        "cannot be renamed to `search.index`, the name that it has",
    ),
    (
        "rename search.index Ü",
        2,
        "the consumer name `Ü` has the character 'Ü': use only ASCII letters",
    ),
    (
        "start-new search.index",
        4,
        "has a checkpoint; `rebuild` handles all events again, and `forget`",
    ),
    (
        "start-new nobody",
        4,
        "this program does not contain the code of consumer `nobody`",
    ),
    (
        "forget search.index",
        4,
        "is in this program and would start again from the beginning; remove it",
    ),
    ("merge search.index --segments 0", 2, "0 is not in 1..=64"),
    (
        "merge billing.invoices --segments 65",
        2,
        "65 is not in 1..=64",
    ),
    (
        "rebuild search.index",
        4,
        "cannot empty its read model; give it an `#[on(reset)]` method, or",
    ),
    (
        "rebuild notifications.mail --without-reset",
        4,
        "has 2 parked events, not yet handled; retry or skip them first",
    ),
    (
        "run --only invoice",
        2,
        "no consumer `invoice` in this program; it has: billing.invoices, accounts, billing.payments",
    ),
    (
        "run --group nothing",
        2,
        "no consumer is in group `nothing`; the groups are: billing",
    ),
    (
        "dashboard --listen 0.0.0.0:0",
        4,
        "without authentication; give it a password (`--password-file`)",
    ),
    (
        "dashboard --listen localhost",
        2,
        "invalid socket address syntax",
    ),
    (
        "dashboard --password-file /nowhere/password",
        1,
        "the password file `/nowhere/password` cannot be read: No such file",
    ),
    (
        "dashboard --password-file /dev/null",
        4,
        "is shorter than 16 bytes; choose a longer one",
    ),
    (
        "status --watch=x",
        2,
        "invalid value 'x' for '--watch [<SECONDS>]'",
    ),
    (
        "stats",
        2,
        "similar subcommands exist: 'start-new', 'status'",
    ),
];

/// Commands that need the tables, each of which would reach another statement first.
const COMMANDS: [&str; 20] = [
    "run --once",
    "status",
    "pause tally",
    "resume tally",
    "park tally 1",
    "skip tally 1 --yes",
    "rebuild tally --yes",
    "accept-scope tally",
    "activate tally 1",
    "merge tally --segments 1",
    "parked list",
    "parked show tally 1",
    "parked retry tally",
    "parked skip tally 1 --yes",
    "redact 1 {} --yes",
    "frontier",
    "explain tally 1",
    "unknown",
    "rename tally other",
    "forget tally --yes",
];

/// Expects the same message of every command on a database that none can use.
fn expect_of_all(messages: &mut Messages, url: &str, message: &str) {
    let variables = [("TEST_OPERATOR_URL", url), ("TEST_LAZY", "30")];
    for line in COMMANDS {
        messages.expect(line, &variables, 1, message);
    }
}

async fn expect_migrate<DB: TestDatabase>(messages: &mut Messages) {
    let db = Database::<DB>::empty().await;
    expect_of_all(messages, &db.url, "; on the command line, run `migrate`\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_tables_name_the_command_for_them_in_every_command() {
    let mut messages = Messages::new("missing");
    expect_migrate::<Sqlite>(&mut messages).await;
    expect_migrate::<Postgres>(&mut messages).await;
    messages.end();
}

async fn expect_update<DB: TestDatabase>(messages: &mut Messages) {
    let db = Database::<DB>::fresh().await;
    db.execute("INSERT INTO consumer_schema (version, needs) VALUES (99, 99)")
        .await;
    let message = "at version 99 and need a release of `consumer` that knows version 99 or later";
    expect_of_all(messages, &db.url, message);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_a_later_release_are_named_in_every_command() {
    let mut messages = Messages::new("later");
    expect_update::<Sqlite>(&mut messages).await;
    expect_update::<Postgres>(&mut messages).await;
    messages.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_privileges_gets_the_grants_in_every_command() {
    let mut messages = Messages::new("privileges");
    let db = Database::<Postgres>::fresh().await;
    let role = format!("role_{}", fastrand::u64(..));
    db.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    let url = db.url.replace("postgres@", &format!("{role}@"));
    let message = format!("GRANT SELECT ON TABLE events TO {role};");
    expect_of_all(&mut messages, &url, &message);
    messages.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_server_says_what_to_check() {
    let mut messages = Messages::new("unreachable");
    let url = "postgres://postgres@127.0.0.1:1/shop";
    let variables = [("TEST_OPERATOR_URL", url), ("TEST_LAZY", "2")];
    for line in ["run --once", "status", "pause tally", "migrate"] {
        messages.expect(line, &variables, 1, "check");
    }
    messages.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_written_to_says_so() {
    let mut messages = Messages::new("read-only");
    let message = "the database cannot be written to on this connection; connect to the primary";
    let sqlite = Database::<Sqlite>::fresh().await;
    let file = sqlite.url.split('?').next().unwrap();
    let url = format!("{file}?mode=ro");
    for line in ["run --once", "pause tally"] {
        messages.expect(line, &[("TEST_OPERATOR_URL", &url)], 1, message);
    }
    let postgres = Database::<Postgres>::fresh().await;
    let url = format!("{}?options[default_transaction_read_only]=on", postgres.url);
    messages.expect("pause tally", &[("TEST_OPERATOR_URL", &url)], 1, message);
    messages.end();
}
