//! The guide `architecture` describes the code as it is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use consumer_tests::rust_files;

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_owned()
}

fn guide() -> String {
    std::fs::read_to_string(root().join("consumer/src/guide/architecture.md")).unwrap()
}

/// The text between backquotes.
fn code(prose: &str) -> impl Iterator<Item = &str> {
    prose.split('`').skip(1).step_by(2)
}

/// The names of the files of a database.
fn files_of(database: &str) -> BTreeSet<String> {
    let folder = root().join("consumer/src/backend").join(database);
    let files = std::fs::read_dir(folder).unwrap();
    files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn the_guide_names_the_files_that_one_database_has_alone() {
    let (postgres, sqlite) = (files_of("postgres"), files_of("sqlite"));
    let of_postgres = postgres.difference(&sqlite);
    let of_postgres = of_postgres.map(|file| format!("backend/postgres/{file}"));
    let of_sqlite = sqlite.difference(&postgres);
    let of_sqlite = of_sqlite.map(|file| format!("backend/sqlite/{file}"));
    let alone: BTreeSet<String> = of_postgres.chain(of_sqlite).collect();
    let guide = guide();
    let mut paragraphs = guide.split("\n\n");
    let named = paragraphs.find(|text| text.contains("no counterpart"));
    let named: BTreeSet<String> = code(named.unwrap()).map(str::to_owned).collect();
    assert_eq!(named, alone);
}

#[test]
fn every_file_that_the_architecture_guide_names_exists() {
    let root = root();
    let library = root.join("consumer/src");
    let guide = guide();
    let prose = guide.split("```").step_by(2);
    let paths: Vec<&str> = prose
        .flat_map(code)
        .filter(|code| code.contains('/') || Path::new(code).extension() == Some("rs".as_ref()))
        .collect();
    assert!(paths.len() >= 20, "only {} paths", paths.len());
    let missing: Vec<&str> = paths
        .into_iter()
        .filter(|path| !library.join(path).exists() && !root.join(path).exists())
        .collect();
    assert!(missing.is_empty(), "the guide names {missing:?}");
}

/// The questions that the guide has to answer, a file of each answer, and what that file contains.
const QUESTIONS: [(&str, &str, &str); 4] = [
    (
        "Where is the SQL of a claim on SQLite?",
        "backend/sqlite/checkpoints.rs",
        "const CLAIM:",
    ),
    (
        "What decides when a parked event is retried?",
        "admin/retry.rs",
        "fn retry_parked",
    ),
    ("What prints `status`?", "cli/tables.rs", "fn status("),
    (
        "What detects a gap?",
        "backend/postgres/frontier.rs",
        "may still fill a gap",
    ),
];

#[test]
fn the_guide_answers_where_things_are() {
    let guide = guide();
    for (question, file, part) in QUESTIONS {
        let row = format!("| {question} |");
        let answer = guide.lines().find_map(|line| line.strip_prefix(&row));
        let answer = answer.unwrap_or_else(|| panic!("no answer to: {question}"));
        assert!(code(answer).any(|path| path == file), "{answer}");
        let text = std::fs::read_to_string(root().join("consumer/src").join(file)).unwrap();
        assert!(text.contains(part), "`{part}` is not in {file}");
    }
}

/// Words by which code outside `backend` names one database.
const NAMES_OF_A_DATABASE: [&str; 4] = [
    "PgConnection",
    "`Postgres`",
    "PgEventStore",
    "sqlx::Postgres",
];

/// The files outside `backend` whose code, but not only its comments, names one database.
fn files_that_name_a_database() -> BTreeSet<String> {
    let root = root();
    let in_text = |text: &str| {
        let code = text.lines().map(str::trim_start);
        let mut code = code.filter(|line| !line.starts_with("//"));
        code.any(|line| NAMES_OF_A_DATABASE.iter().any(|name| line.contains(name)))
    };
    let mut files = BTreeSet::new();
    for (folder, prefix) in [
        ("consumer/src", ""),
        ("consumer-derive/src", "consumer-derive/src/"),
    ] {
        let folder = root.join(folder);
        for path in rust_files(&folder) {
            let name = path.strip_prefix(&folder).unwrap().display().to_string();
            let is_elsewhere = !["backend/", "tests/"]
                .iter()
                .any(|below| name.starts_with(below));
            if is_elsewhere && in_text(&std::fs::read_to_string(&path).unwrap()) {
                files.insert(format!("{prefix}{name}"));
            }
        }
    }
    files
}

#[test]
fn the_guide_names_all_that_a_third_database_changes() {
    let guide = guide();
    let (_, section) = guide.split_once("# A third database").unwrap();
    let (table, _) = section.split_once("\n\nFour files").unwrap();
    let named: BTreeSet<String> = code(table).map(str::to_owned).collect();
    let files = files_that_name_a_database();
    assert!(files.len() >= 10, "only {files:?}");
    let missing: Vec<_> = files.difference(&named).collect();
    assert!(missing.is_empty(), "the guide does not name {missing:?}");
}
