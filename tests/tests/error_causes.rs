//! Errors leave their causes to `source()`, so that whatever prints the chain prints each cause once.

use std::path::Path;

use consumer::{PgEventStore, SqliteEventStore, Worker};
use consumer_tests::{
    Database, Model, TestDatabase, command, consumer, impatient, keep_log, logged, rust_files,
    test_on,
};
use serde_json::Value;
use syn::visit::{self, Visit};
use syn::{Attribute, Fields, ItemEnum, ItemStruct, Member};

/// A cause that a message repeats.
#[derive(Debug, PartialEq)]
struct Repeated(String);

/// Finds the errors of one file whose message contains their cause.
#[derive(Default)]
struct Messages {
    with_a_cause: usize,
    repeated: Vec<Repeated>,
}

impl Messages {
    fn check(&mut self, name: &str, attributes: &[Attribute], fields: &Fields) {
        let Some(message) = message(attributes) else {
            return;
        };
        for cause in causes(fields) {
            self.with_a_cause += 1;
            let repeats = ["}", ":", "."]
                .iter()
                .any(|end| message.contains(&format!("{{{cause}{end}")));
            if repeats {
                self.repeated.push(Repeated(format!("{name}: {message}")));
            }
        }
    }
}

impl<'ast> Visit<'ast> for Messages {
    fn visit_item_enum(&mut self, item: &'ast ItemEnum) {
        for variant in &item.variants {
            let name = format!("{}::{}", item.ident, variant.ident);
            self.check(&name, &variant.attrs, &variant.fields);
        }
        visit::visit_item_enum(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        self.check(&item.ident.to_string(), &item.attrs, &item.fields);
        visit::visit_item_struct(self, item);
    }
}

/// The tokens of `#[error(…)]`, unless it is `transparent`.
fn message(attributes: &[Attribute]) -> Option<String> {
    let error = attributes
        .iter()
        .find(|attribute| attribute.path().is_ident("error"))?;
    let tokens = error.meta.require_list().ok()?.tokens.to_string();
    (tokens != "transparent").then_some(tokens)
}

/// The names of the fields that `source()` returns.
fn causes(fields: &Fields) -> impl Iterator<Item = String> {
    fields.members().zip(fields).filter_map(|(member, field)| {
        let marked = field.attrs.iter().any(|attribute| {
            attribute.path().is_ident("source") || attribute.path().is_ident("from")
        });
        let name = match member {
            Member::Named(name) => name.to_string(),
            Member::Unnamed(index) => index.index.to_string(),
        };
        (marked || name == "source").then_some(name)
    })
}

fn checked(source: &str) -> Messages {
    let file = syn::parse_file(source).expect("Rust");
    let mut messages = Messages::default();
    messages.visit_file(&file);
    messages
}

#[test]
fn no_error_message_repeats_its_cause() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../consumer/src");
    let mut with_a_cause = 0;
    for path in rust_files(&library) {
        let messages = checked(&std::fs::read_to_string(&path).expect("read a source file"));
        assert!(
            messages.repeated.is_empty(),
            "{}: {:?}",
            path.display(),
            messages.repeated
        );
        with_a_cause += messages.with_a_cause;
    }
    assert!(with_a_cause >= 5, "only {with_a_cause} errors with a cause");
}

#[test]
fn a_message_that_repeats_its_cause_is_found() {
    for message in [
        r#"#[error("cannot read: {source}")] Read { source: io::Error }"#,
        r#"#[error("cannot read: {0:?}")] Read(#[from] io::Error)"#,
        r#"#[error("cannot read: {cause}")] Read { #[source] cause: io::Error }"#,
    ] {
        assert_eq!(
            checked(&format!("enum E {{ {message} }}")).repeated.len(),
            1,
            "{message}"
        );
    }
    let separate =
        r#"enum E { #[error("cannot read {path}")] Read { path: String, source: io::Error } }"#;
    assert_eq!(checked(separate).repeated, []);
}

/// What `fn main() -> anyhow::Result<()>` prints, without the backtrace that a variable of the
/// environment may add.
fn printed(error: impl Into<anyhow::Error>) -> String {
    let text = format!("Error: {:?}", error.into());
    let (error, _) = text.split_once("Stack backtrace:").unwrap_or((&text, ""));
    error.to_owned()
}

/// Asserts that the deepest cause is there, once.
fn assert_printed_once(text: &str, cause: &str) {
    assert_eq!(text.matches(cause).count(), 1, "{text}");
}

#[tokio::test]
async fn a_main_that_returns_anyhow_prints_each_cause_once() {
    let error = PgEventStore::connect("postgres://127.0.0.1:1/shop").await;
    assert_printed_once(&printed(error.unwrap_err()), "Connection refused");

    let store = SqliteEventStore::connect("sqlite::memory:").await.unwrap();
    let worker = Worker::builder(store.clone()).consumer(Model::new("users"));
    let error = worker.build().unwrap().run_once().await.unwrap_err();
    assert_printed_once(&printed(error), "migrate()");

    let unknown = Worker::builder(store).configure("users", |settings| settings);
    assert_printed_once(&printed(unknown.build().unwrap_err()), "`users`");
}

#[derive(Debug, thiserror::Error)]
#[error("cannot send the invoice")]
struct NotSent(#[source] Refused);

#[derive(Debug, thiserror::Error)]
#[error("the mail server refused it")]
struct Refused(#[source] Full);

#[derive(Debug, thiserror::Error)]
#[error("the mailbox is full")]
struct Full;

/// The handler's error and its causes.
const CHAIN: [&str; 3] = [
    "cannot send the invoice",
    "the mail server refused it",
    "the mailbox is full",
];

/// Asserts that a text has the error and each cause, once.
fn assert_whole_chain(place: &str, text: &str) {
    for cause in CHAIN {
        assert_eq!(text.matches(cause).count(), 1, "{cause} in {place}: {text}");
    }
}

test_on!(
    [sqlite, postgres],
    what_shows_a_handlers_error_shows_each_cause_once
);

async fn what_shows_a_handlers_error_shows_each_cause_once<DB: TestDatabase>(db: Database<DB>) {
    keep_log();
    let name = format!("invoices-on-{}", DB::NAME);
    let invoices = || {
        let failing = consumer(&name, |_, _, _| {
            Box::pin(async { Err(NotSent(Refused(Full)).into()) })
        });
        db.worker()
            .consumer(failing.settings(impatient().retries(0)))
    };
    db.append("User", ["ada"]).await;
    let report = invoices().build().unwrap().run_once().await.unwrap();
    assert_whole_chain("the report", &report.to_string());

    let lines = logged(&[&name, CHAIN[0]]);
    assert!(!lines.is_empty());
    for line in lines {
        assert_whole_chain("the log", &line);
    }

    let stored = db.texts("SELECT error FROM consumer_progress").await;
    assert_eq!(stored.len(), 1);
    assert_whole_chain("`consumer_progress.error`", &stored[0]);

    let (_, table) = command(invoices(), "status", []).await;
    let words: Vec<&str> = table.split_whitespace().collect();
    assert_whole_chain("`status`", &words.join(" "));
    let (_, json) = command(invoices(), "status --json", []).await;
    let status: Value = serde_json::from_str(&json).unwrap();
    let of_consumer = &status["consumers"][0];
    for failing in [
        &of_consumer["failing"],
        &of_consumer["segments"][0]["failing"],
    ] {
        let error = failing["error"].as_str().unwrap();
        assert_whole_chain("`status --json`", error);
    }
}
