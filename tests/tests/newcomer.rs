//! What a newcomer types: the code and the dependencies of the README and of the tutorial, in crates of
//! their own outside the workspace.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use consumer_tests::{TestPostgres, cargo_outside, target_outside};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// The first block of that language in a document.
fn block(document: &str, language: &str) -> String {
    let fence = format!("```{language}\n");
    let start = document.find(&fence).expect("the document has the block") + fence.len();
    let length = document[start..].find("\n```").expect("the block ends");
    document[start..start + length].to_owned()
}

/// A crate with the dependencies that a document names, apart from this library, which it takes from
/// the workspace.
struct NewCrate(tempfile::TempDir);

impl NewCrate {
    fn with_the_dependencies_of(document: &str) -> Self {
        let dependencies = block(document, "toml");
        let library = format!("path = {:?}", root().join("consumer").to_str().unwrap());
        let local = dependencies
            .replace("consumer = \"0.1\"", &format!("consumer = {{ {library} }}"))
            .replace(
                "consumer = { version = \"0.1\"",
                &format!("consumer = {{ {library}"),
            );
        assert!(local.contains(&library), "{local}");
        let manifest = format!(
            "[package]\nname = \"newcomer\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n{local}\n"
        );
        let new = Self(tempfile::tempdir().unwrap());
        std::fs::write(new.path("Cargo.toml"), manifest).unwrap();
        std::fs::create_dir(new.path("src")).unwrap();
        // The versions that the workspace is tested with.
        std::fs::copy(root().join("Cargo.lock"), new.path("Cargo.lock")).unwrap();
        new
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn write(&self, file: &str, code: &str) {
        std::fs::write(self.path("src").join(file), code).unwrap();
    }

    /// The program that cargo has built.
    fn program() -> PathBuf {
        target_outside(env!("CARGO_TARGET_TMPDIR")).join("debug/newcomer")
    }

    /// Runs cargo, which must neither fail nor warn.
    fn cargo(&self, arguments: &[&str]) -> Output {
        let output = cargo_outside(env!("CARGO_TARGET_TMPDIR"))
            .args(arguments)
            .arg("--quiet")
            .current_dir(self.0.path())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert!(!errors.contains("warning"), "{errors}");
        output
    }
}

#[tokio::test]
async fn the_first_example_of_the_readme_runs_in_a_new_crate() {
    let readme = read("README.md");
    let new = NewCrate::with_the_dependencies_of(&readme);
    new.write("main.rs", &block(&readme, "rust,no_run"));
    let run = |url: Option<&str>| {
        let mut program = Command::new(NewCrate::program());
        program.current_dir(new.0.path()).env_remove("DATABASE_URL");
        program.envs(url.map(|url| ("DATABASE_URL", url)));
        let output = program.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    new.cargo(&["build"]);
    let database = TestPostgres::shared().await.database().await;
    for url in [None, Some(&*database.url)] {
        for _ in 0..2 {
            let printed = run(url);
            let (position, handled) = printed.split_once(", ").unwrap();
            // On Postgres, a worker draws a position when it starts.
            assert!(position.starts_with("users: caught up at "), "{printed}");
            assert!(handled.starts_with("1 event handled"), "{printed}");
            assert_eq!(printed.lines().count(), 1, "{printed}");
        }
    }
    let row = "SELECT id || ' ' || email || ' ' || changes FROM users";
    let rows = sqlx::query_scalar::<_, String>(row).fetch_all(&database.pool);
    assert_eq!(rows.await.unwrap(), ["ada ada@example.com 0"]);
    let file = format!("sqlite:{}", new.path("app.db").display());
    let file = sqlx::SqlitePool::connect(&file).await.unwrap();
    let rows = sqlx::query_scalar::<_, String>(row).fetch_all(&file);
    assert_eq!(rows.await.unwrap(), ["ada ada@example.com 0"]);
    file.close().await;
}

#[test]
fn the_dependencies_of_the_tutorial_suffice_for_its_program() {
    let new = NewCrate::with_the_dependencies_of(&read("consumer/src/guide/tutorial.md"));
    for (file, source) in [
        ("events.rs", "events.rs"),
        ("balances.rs", "balances.rs"),
        ("commands.rs", "commands.rs"),
        ("main.rs", "step_3.rs"),
    ] {
        new.write(
            file,
            &read(Path::new("examples/src/bin/tutorial").join(source)),
        );
    }
    new.cargo(&["check", "--all-targets"]);
}
