//! The guide to the code is true.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_owned()
}

fn guide() -> String {
    std::fs::read_to_string(root().join("consumer/src/guide/architecture.md")).unwrap()
}

/// What stands between backquotes.
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
