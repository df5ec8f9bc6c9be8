//! Message DB as it is published, on the tests' own server.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use sqlx::Postgres;
use tokio::sync::OnceCell;

use crate::Database;

/// The release of the npm package.
const PACKAGE: &str = "@eventide/message-db@1.3.1";

/// The scripts under `database/`, in the order of its `install.sh`.
const SCRIPTS: [&str; 6] = ["schema", "tables", "types", "functions", "indexes", "views"];

/// Fetches the package into this directory once, and returns its SQL; `None` on a machine without npm,
/// unless the variable `CI` is set.
fn fetch(directory: &Path) -> Option<PathBuf> {
    let sql = directory.join("package/database");
    if sql.is_dir() {
        return Some(sql);
    }
    let has_npm = Command::new("npm").arg("--version").output();
    if !has_npm.is_ok_and(|output| output.status.success()) {
        assert!(
            std::env::var_os("CI").is_none(),
            "npm is not installed, which fetches {PACKAGE}: `.ci/test` installs it"
        );
        eprintln!("skipped: npm is not installed, which fetches {PACKAGE}");
        return None;
    }
    let fresh = tempfile::tempdir_in(directory.parent()?).expect("make a directory");
    let packed = run(fresh.path(), "npm", &["pack", "--silent", PACKAGE]);
    run(fresh.path(), "tar", &["xzf", packed.trim()]);
    // At once, and another test may have been faster.
    let _ = std::fs::rename(fresh.path(), directory);
    assert!(sql.is_dir(), "{PACKAGE} has no directory `database`");
    Some(sql)
}

fn run(directory: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The files of a folder of scripts, in the order of their names.
fn scripts(folder: &Path) -> Vec<PathBuf> {
    let files =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    files.retain(|file| file.extension() == Some(OsStr::new("sql")));
    files.sort();
    files
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

impl Database<Postgres> {
    /// A new database with Message DB in it, fetched into `directory`; `None` where npm is missing.
    pub async fn with_message_db(directory: &Path) -> Option<Self> {
        static ROLE: OnceCell<()> = OnceCell::const_new();
        let sql = fetch(directory)?;
        let db = Self::empty().await;
        ROLE.get_or_init(async || {
            for script in scripts(&sql.join("roles")) {
                db.execute(&read(&script)).await;
            }
        })
        .await;
        for folder in SCRIPTS {
            for script in scripts(&sql.join(folder)) {
                db.execute(&read(&script)).await;
            }
        }
        for script in scripts(&sql.join("privileges")) {
            db.execute(&read(&script)).await;
        }
        Some(db)
    }
}
