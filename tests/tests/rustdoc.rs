//! What rustdoc shows of declared consumers, events and rows.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use consumer_tests::{cargo_outside, target_outside};

/// The documentation of `fixtures/documented`.
static PAGES: LazyLock<PathBuf> = LazyLock::new(|| {
    let output = cargo_outside(env!("CARGO_TARGET_TMPDIR"))
        .args([
            "doc",
            "--quiet",
            "--locked",
            "--no-deps",
            "--package",
            "documented",
        ])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures"))
        .env("RUSTDOCFLAGS", "-D warnings")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    target_outside(env!("CARGO_TARGET_TMPDIR")).join("doc/documented")
});

/// The text of a page.
fn page(name: &str) -> String {
    let html = std::fs::read_to_string(PAGES.join(name)).unwrap();
    let text: String = html
        .split('<')
        .map(|part| part.split_once('>').map_or(part, |(_, text)| text))
        .collect();
    let text = text.replace("&lt;", "<").replace("&gt;", ">");
    let text = text.replace("&amp;", "&").replace("&#39;", "'");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Words of generated code.
const HIDDEN: &[&str] = &[
    "__private",
    "__Database",
    "__Row",
    "__row",
    "__cx",
    "__event",
    "__values",
    "Shareable",
    "OneConsumerBlock",
    "EventEnum",
    "impl Variant",
];

fn shows(name: &str, implementations: &[&str]) {
    let page = page(name);
    for implementation in implementations {
        assert!(page.contains(implementation), "{implementation}\n{page}");
    }
    for hidden in HIDDEN {
        assert!(!page.contains(hidden), "{hidden}\n{page}");
    }
}

#[test]
fn a_consumer_is_shown_as_if_written_by_hand() {
    shows(
        "struct.Users.html",
        &[
            "impl Consumer<Sqlite> for Users",
            "impl ScopedConsumer<Sqlite> for Users",
            "async fn handle( &self, cx: &Context, tx: &mut SqliteConnection, event: &PersistedEvent, )",
        ],
    );
    shows(
        "struct.Printer.html",
        &["impl Consumer<Sqlite> for Printer"],
    );
}

#[test]
fn a_consumer_of_every_database_is_shown_with_its_parameter() {
    shows(
        "struct.Audit.html",
        &["impl<DB: Database> Consumer<DB> for Audit"],
    );
    shows(
        "struct.Accounts.html",
        &[
            "impl<DB: ReadModelDatabase> Consumer<DB> for Accounts",
            "impl Fold for Accounts",
            "type Row = Account",
        ],
    );
}

#[test]
fn a_row_is_shown_without_bounds() {
    shows(
        "struct.Account.html",
        &[
            "impl ReadModel for Account",
            "type Key = String",
            "impl<'r, R: Row> FromRow<'r, R> for Account",
        ],
    );
}

#[test]
fn an_event_is_shown_without_what_only_macros_need() {
    shows(
        "enum.UserEvent.html",
        &[
            "impl Aggregate for UserEvent",
            "impl Event for UserEvent",
            "fn decode(event: &PersistedEvent)",
        ],
    );
}
